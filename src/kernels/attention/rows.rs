//! Products of queries with keys that lie in rows, one after the other.

#![allow(unsafe_code)]
// Lanes and rows index several arrays at once here; the loops are unrolled.
#![allow(clippy::needless_range_loop)]

use super::vector::{Element, Vector};
use super::BLOCK;

/// Sums side by side in which a product is made, whatever the registers: so all instruction sets add in the same order.
const SUMS: usize = 16;

/// `out[r][p] = q[r] . key p` for the rows `[n, dim]` of `keys`, `n` at most [`BLOCK`]. Sum number j takes the dimensions j, j + [`SUMS`] and so on; halves of the sums
/// are added until one is left, and then the dimensions that fill no [`SUMS`].
#[inline(always)]
pub(super) fn products<V: Vector, E: Element, const R: usize>(q: [&[f32]; R], keys: &[E], out: &mut [[f32; BLOCK]; R]) {
    let dim = q[0].len();
    assert!(dim > 0 && q.iter().all(|q| q.len() == dim), "queries of one length");
    let n = keys.len() / dim;
    assert!(n <= BLOCK && n * dim == keys.len(), "whole keys, as many as a block has");
    let mut at = 0;
    // As many sums as registers hold beside what they are made of.
    match (V::SIDE, R) {
        (4, _) | (_, 1) => abreast::<V, E, R, 4>(q, keys, dim, &mut at, out),
        _ => {}
    }
    abreast::<V, E, R, 1>(q, keys, dim, &mut at, out);
}

/// As many keys from `at` on as are there, `K` at a time; moves `at` on.
#[inline(always)]
fn abreast<V: Vector, E: Element, const R: usize, const K: usize>(
    q: [&[f32]; R],
    keys: &[E],
    dim: usize,
    at: &mut usize,
    out: &mut [[f32; BLOCK]; R],
) {
    const MOST: usize = 2;
    let parts = SUMS / V::LANES;
    assert!((1..=MOST).contains(&parts), "registers of 8 or 16 floats");
    let whole = dim / SUMS * SUMS;
    while (*at + K) * dim <= keys.len() {
        let mut lanes = [[[0.0f32; SUMS]; R]; K];
        // SAFETY: dimensions below `whole` of queries as long as `dim` and of the keys `at..at + K`, which are there; the machine has the instructions.
        unsafe {
            let mut sums = [[[V::splat(0.0); MOST]; R]; K];
            let mut d = 0;
            while d < whole {
                for part in 0..parts {
                    let from = d + part * V::LANES;
                    let mut key = [V::splat(0.0); K];
                    for k in 0..K {
                        key[k] = E::load::<V>(keys.as_ptr().add((*at + k) * dim + from));
                    }
                    for r in 0..R {
                        let q = V::load(q[r].as_ptr().add(from));
                        for k in 0..K {
                            sums[k][r][part] = sums[k][r][part].plus(q, key[k]);
                        }
                    }
                }
                d += SUMS;
            }
            for k in 0..K {
                for r in 0..R {
                    for part in 0..parts {
                        sums[k][r][part].store(lanes[k][r].as_mut_ptr().add(part * V::LANES));
                    }
                }
            }
        }
        for k in 0..K {
            for r in 0..R {
                let lanes = &mut lanes[k][r];
                let mut width = SUMS / 2;
                while width > 0 {
                    for i in 0..width {
                        lanes[i] += lanes[i + width];
                    }
                    width /= 2;
                }
                let rest = (whole..dim).fold(lanes[0], |sum, d| V::one(q[r][d], keys[(*at + k) * dim + d].float(), sum));
                out[r][*at + k] = rest;
            }
        }
        *at += K;
    }
}
