//! How the launches of trials of kernels are laid out that treat values or rows one by one.

use super::cases::{numbers, CLOSE};
use super::{launch, At, Judge, Layout, Trial};
use crate::gpu::device::Address;
use crate::gpu::params::{Add, AddNormed, Finite, GatedNorm, Gather, Glu, Kernel, RmsNorm, SoftCap};
use crate::kernels::rows::Activation;
use fastrand::Rng;

pub(super) fn add(r: &mut Rng) -> Trial {
    let mut l = Layout::new();
    let (x, y) = (l.input("x", &numbers(r, 1000)), l.changed("y", &numbers(r, 1000), CLOSE));
    l.trial(Add::NAME, "1000 values".into(), move |b| vec![launch(Add { x: x.of(b), y: y.of(b), len: 1000, pad: 0 })])
}

pub(super) fn finite(r: &mut Rng, broken: bool) -> Trial {
    let mut l = Layout::new();
    let mut x = numbers(r, 5000);
    if broken {
        x[4321] = f32::INFINITY;
    }
    let (x, flag) = (l.input("x", &x), l.input("flag", &[0u32]));
    let about = if broken { "one infinite among 5000" } else { "5000 finite" };
    l.trial(Finite::NAME, about.into(), move |b| vec![launch(Finite { x: x.of(b), flag: flag.of(b), len: 5000, pad: 0 })])
}

pub(super) fn glu(r: &mut Rng, activation: Activation) -> Trial {
    let mut l = Layout::new();
    let both = l.input("gate and up", &numbers(r, 3 * 1100));
    let y = l.output("y", 3 * 500, Judge::F32(CLOSE));
    l.trial(Glu::NAME, format!("3 x 500, {activation:?}"), move |b| {
        let (gate, activation) = (both.of(b), activation.number());
        vec![launch(Glu { gate, up: gate.plus(500 * 4), y: y.of(b), tokens: 3, len: 500, stride: 1100, activation })]
    })
}

pub(super) fn add_normed(r: &mut Rng, rows: u32, len: u32, beside: bool) -> Trial {
    let mut l = Layout::new();
    let (a_stride, b_stride, x_stride) = (len + 3, len + 4, len + 1);
    let a = l.input("a", &numbers(r, (rows * a_stride) as usize));
    let b = beside.then(|| l.changed("b", &numbers(r, (rows * b_stride) as usize), 0.0));
    let mut weight = |what| l.input(what, &numbers(r, len as usize));
    let (weight, a_weight, b_weight) = (weight("weight"), weight("a_weight"), weight("b_weight"));
    let x = l.changed("x", &numbers(r, (rows * x_stride) as usize), CLOSE);
    let about = format!("{rows} x {len}{}", if beside { ", and another" } else { "" });
    l.trial(AddNormed::NAME, about, move |base| {
        let only = |at: At| if b.is_some() { at.of(base) } else { Address::NONE };
        vec![launch(AddNormed {
            a: a.of(base),
            a_weight: only(a_weight),
            b: b.map_or(Address::NONE, |b| b.of(base)),
            b_weight: only(b_weight),
            weight: weight.of(base),
            x: x.of(base),
            rows,
            len,
            a_stride,
            b_stride,
            x_stride,
            eps: 4e-3,
            factor: 0.625,
            pad: 0,
        })]
    })
}

/// Values from far below the cap to far beyond it, and one that tells of damage.
pub(super) fn soft_cap(r: &mut Rng) -> Trial {
    let mut l = Layout::new();
    let mut x: Vec<f32> = numbers(r, 1500).into_iter().enumerate().map(|(i, v)| v * [0.01, 1.0, 20.0][i % 3]).collect();
    x[700] = f32::INFINITY;
    let x = l.changed("x", &x, CLOSE);
    l.trial(SoftCap::NAME, "1500, one infinite".into(), move |b| vec![launch(SoftCap { x: x.of(b), len: 1500, cap: 5.0 })])
}

pub(super) fn gather(r: &mut Rng) -> Trial {
    let mut l = Layout::new();
    let out = l.input("out", &numbers(r, 9 * 300));
    let pair_of = l.input("pair_of", &[3u32, u32::MAX, 0, 8, 1, u32::MAX, 2, 7, 4, u32::MAX, u32::MAX, u32::MAX]);
    let w = l.input("weights", &numbers(r, 12));
    let y = l.changed("y", &numbers(r, 3 * 310), CLOSE);
    l.trial(Gather::NAME, "3 x 300, 4 experts".into(), move |b| {
        vec![launch(Gather {
            out: out.of(b),
            pair_of: pair_of.of(b),
            weights: w.of(b),
            y: y.of(b),
            tokens: 3,
            top_k: 4,
            cols: 300,
            y_stride: 310,
        })]
    })
}

pub(super) fn rms_norm(r: &mut Rng, rows: u32, len: u32, limit: f32) -> Trial {
    let mut l = Layout::new();
    let n = (rows * len) as usize;
    let (x, w, y) = (l.input("x", &numbers(r, n)), l.input("weight", &numbers(r, len as usize)), l.output("y", n, Judge::F32(CLOSE)));
    l.trial(RmsNorm::NAME, format!("{rows} x {len}"), move |b| {
        let (x, weight, y) = (x.of(b), w.of(b), y.of(b));
        vec![launch(RmsNorm { x, weight, y, rows, pieces: 1, len, x_stride: len, x_piece: 0, y_stride: len, eps: 1e-6, limit })]
    })
}

pub(super) fn rms_in_place(r: &mut Rng) -> Trial {
    let mut l = Layout::new();
    let (x, w) = (l.changed("x", &numbers(r, 2 * 2048), CLOSE), l.input("weight", &numbers(r, 128)));
    l.trial(RmsNorm::NAME, "2 x 16 heads in place".into(), move |b| {
        let (x, weight) = (x.of(b), w.of(b));
        vec![launch(RmsNorm {
            x,
            weight,
            y: x,
            rows: 2,
            pieces: 16,
            len: 128,
            x_stride: 2048,
            x_piece: 128,
            y_stride: 2048,
            eps: 1e-6,
            limit: 0.0,
        })]
    })
}

/// From one place of wide rows to another.
pub(super) fn rms_of_pieces(r: &mut Rng, pieces: u32, len: u32) -> Trial {
    let (rows, stride, to) = (3u32, 2 * pieces * len + 9, pieces * len + 4);
    let mut l = Layout::new();
    let (x, w) = (l.changed("x", &numbers(r, (rows * stride) as usize), CLOSE), l.input("weight", &numbers(r, len as usize)));
    l.trial(RmsNorm::NAME, format!("{rows} x {pieces} pieces of {len}"), move |b| {
        let (x, weight) = (x.of(b), w.of(b));
        let y = x.plus(to as usize * 4);
        vec![launch(RmsNorm { x, weight, y, rows, pieces, len, x_stride: stride, x_piece: len, y_stride: stride, eps: 1e-3, limit: 0.0 })]
    })
}

pub(super) fn gated_norm(r: &mut Rng, dim: u32, place: Option<[u32; 4]>) -> Trial {
    let mut l = Layout::new();
    let (one, gate_stride) = (dim as usize, 4 * dim + 88);
    let (x, gate) = (l.input("x", &numbers(r, 3 * 4 * one)), l.input("gate", &numbers(r, 3 * gate_stride as usize)));
    let (w, p) = (l.input("weight", &numbers(r, one)), l.input("place", &place.unwrap_or_default()));
    let y = l.output("y", 3 * 4 * one, Judge::F32(CLOSE));
    let about = format!("3 x 4 heads of {dim}{}", if place.is_some() { ", reordered" } else { "" });
    l.trial(GatedNorm::NAME, about, move |b| {
        let place = if place.is_some() { p.of(b) } else { Address::NONE };
        let (x, gate, weight, y) = (x.of(b), gate.of(b), w.of(b), y.of(b));
        vec![launch(GatedNorm { x, gate, weight, place, y, tokens: 3, heads: 4, dim, gate_stride, eps: 1e-6, pad: 0 })]
    })
}
