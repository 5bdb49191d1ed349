//! How the launches of trials of latent attention are laid out.

use super::cases::{angles, cache, numbers, CLOSE};
use super::{launch, Judge, Layout, Trial};
use crate::gguf::GgmlType;
use crate::gpu::device::Address;
use crate::gpu::params::{Attention, HeadMaps, JoinSplits, Kernel, LatentAttention, LatentRows};
use crate::kernels::random_weights;
use fastrand::Rng;

pub(super) fn rows(r: &mut Rng, wide: bool, rank: u32, turned: u32) -> Trial {
    let (heads, tokens, context, plain) = (5u32, 3u32, 16u32, 12u32);
    let width = rank + turned;
    let (q_head, down_stride) = (plain + turned, width + 4);
    let q_stride = heads * q_head + 4;
    let mut l = Layout::new();
    let q = l.input("q", &numbers(r, (tokens * q_stride) as usize));
    let down = l.input("down", &numbers(r, (tokens * down_stride) as usize));
    let norm = l.input("norm", &numbers(r, rank as usize));
    let turns: Vec<f32> = (0..tokens).flat_map(|_| angles(r, turned / 2)).collect();
    let turns = l.input("angles", &turns);
    let position = l.input("position", &[7u32]);
    let q_out = l.output("q_out", (tokens * heads * width) as usize, Judge::F32(CLOSE));
    let kept = cache(r, &mut l, "rows", (context * width) as usize, wide);
    let about = format!("{rank} and {turned}, {}", if wide { "f32" } else { "f16" });
    l.trial(LatentRows::NAME, about, move |b| {
        vec![launch(LatentRows {
            q: q.of(b).plus(plain as usize * 4),
            down: down.of(b),
            norm: norm.of(b),
            angles: turns.of(b),
            q_out: q_out.of(b),
            rows: kept.of(b),
            position: position.of(b),
            tokens,
            heads,
            rank,
            turned,
            context,
            wide: wide.into(),
            q_stride,
            q_head,
            down_stride,
            eps: 1e-5,
        })]
    })
}

pub(super) fn maps(r: &mut Rng, ty: GgmlType, tokens: u32, rows: u32, cols: u32) -> Trial {
    let heads = 3u32;
    let (x_head, y_head) = (cols + 4, rows + 3);
    let (x_stride, y_stride) = (heads * x_head + 4, heads * y_head + 1);
    let mut l = Layout::new();
    let weight = l.input("weight", &random_weights(ty, (heads * rows * cols) as usize, r));
    let x = l.input("x", &numbers(r, (tokens * x_stride) as usize));
    let y = l.output("y", (tokens * y_stride) as usize, Judge::F32(CLOSE));
    l.trial(HeadMaps::NAME, format!("{ty}, {tokens} x {heads} heads of {cols} to {rows}"), move |b| {
        let (weight, x, y) = (weight.of(b), x.of(b), y.of(b));
        vec![launch(HeadMaps { weight, x, y, ty: ty.number(), heads, rows, cols, tokens, x_stride, x_head, y_stride, y_head, pad: 0 })]
    })
}

pub(super) fn attention(
    r: &mut Rng,
    wide: bool,
    (key_dim, value_dim): (u32, u32),
    heads: u32,
    position: u32,
    tokens: u32,
    splits: u32,
) -> Trial {
    let context = position + tokens + 9;
    let mut l = Layout::new();
    let q = l.input("q", &numbers(r, (tokens * heads * key_dim) as usize));
    let keys = cache(r, &mut l, "rows", (context * key_dim) as usize, wide);
    let at = l.input("position", &[position]);
    // What an empty range leaves as its output is the kernel's own business.
    let partial = l.output("partial", (tokens * heads * splits * (2 + value_dim)) as usize, Judge::Between);
    let y = l.output("y", (tokens * heads * value_dim) as usize, Judge::F32(CLOSE));
    let about =
        format!("{value_dim} in {key_dim}, {heads} heads, {tokens} at {position}, {splits} splits, {}", if wide { "f32" } else { "f16" });
    l.trial(LatentAttention::NAME, about, move |b| {
        let (partial, gate) = (partial.of(b), Address::NONE);
        let join = JoinSplits { partial, gate, y: y.of(b), tokens, heads, value_dim, splits, gate_stride: 0, gate_head: 0 };
        let of = Attention {
            q: q.of(b),
            keys: keys.of(b),
            values: Address::NONE,
            partial,
            position: at.of(b),
            tokens,
            heads,
            groups: 1,
            key_dim,
            value_dim,
            context,
            wide: wide.into(),
            splits,
            scale: 1.0 / (key_dim as f32).sqrt(),
            pad: 0,
        };
        vec![launch(LatentAttention { of }), launch(join)]
    })
}
