//! The products in plain Rust: what every SIMD path must equal.
//!
//! The order of the float operations is part of the contract of this folder, so that a result depends neither on the instruction
//! set nor on how many tokens or threads are at work: integer dots are exact, and each block adds its scaled dot to one f32 by
//! a fused multiply-add, in order of columns, then its offset.
//! Plain floats go to eight sums by `column % 8`, reduced as [`reduce8`] says.

use super::activations::{place, Activations};
use super::block::{float_row, form, unpack256, unpack32, Form};
use crate::gguf::GgmlType;

/// Fixed order of the final sum of eight lanes.
pub(super) fn reduce8(s: [f32; 8]) -> f32 {
    let t = [s[0] + s[4], s[1] + s[5], s[2] + s[6], s[3] + s[7]];
    (t[0] + t[2]) + (t[1] + t[3])
}

/// One row of weights times the picked tokens; `out(i, value)` takes the result for `tokens[i]`.
pub(super) fn row(
    ty: GgmlType,
    weights: &[u8],
    x: &Activations,
    tokens: impl Iterator<Item = usize> + Clone,
    out: &mut dyn FnMut(usize, f32),
) {
    let cols = x.cols;
    match form(ty) {
        Some(Form::Block256 { offset }) => {
            let blocks: Vec<_> = weights.chunks_exact(ty.block_bytes()).map(|b| unpack256(ty, b)).collect();
            for (i, t) in tokens.enumerate() {
                let mut acc = 0.0f32;
                for (j, w) in blocks.iter().enumerate() {
                    let at = t * cols + j * 256;
                    let q = &x.by256.q[at..at + 256];
                    let d = x.by256.d[at / 256];
                    let mut dot = 0i32;
                    for (k, w16) in w.q.chunks_exact(16).enumerate() {
                        let product = |(i, &w): (usize, &i8)| i32::from(w) * i32::from(q[place(256, 16 * k + i)]);
                        let sum: i32 = w16.iter().enumerate().map(product).sum();
                        dot += sum * i32::from(w.scale[k]);
                    }
                    acc = (w.d * d).mul_add(dot as f32, acc);
                    if offset {
                        let sums = &x.by256.sums16[at / 16..at / 16 + 16];
                        let m: i32 = w.min.iter().zip(sums).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
                        acc = (-(w.dmin * d)).mul_add(m as f32, acc);
                    }
                }
                out(i, acc);
            }
        }
        Some(Form::Block32 { offset }) => {
            let blocks: Vec<_> = weights.chunks_exact(ty.block_bytes()).map(|b| unpack32(ty, b)).collect();
            for (i, t) in tokens.enumerate() {
                let mut acc = 0.0f32;
                for (j, w) in blocks.iter().enumerate() {
                    let at = t * cols + j * 32;
                    let q = &x.by32.q[at..at + 32];
                    let d = x.by32.d[at / 32];
                    let dot: i32 = w.q.iter().enumerate().map(|(i, &w)| i32::from(w) * i32::from(q[place(32, i)])).sum();
                    acc = (w.d * d).mul_add(dot as f32, acc);
                    if offset {
                        let sum = x.by32.sums32[at / 32];
                        acc = (w.m * d).mul_add(sum as f32, acc);
                    }
                }
                out(i, acc);
            }
        }
        Some(Form::Float) | None => {
            let mut w = vec![0.0; cols];
            float_row(ty, weights, &mut w);
            for (i, t) in tokens.enumerate() {
                let mut s = [0.0f32; 8];
                let x = &x.x[t * cols..(t + 1) * cols];
                for (c, (&a, &b)) in w.iter().zip(x).enumerate() {
                    s[c % 8] = a.mul_add(b, s[c % 8]);
                }
                out(i, reduce8(s));
            }
        }
    }
}
