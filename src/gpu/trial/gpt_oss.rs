//! Trials of what gpt-oss adds: windows, sinks, and experts with biases.

use super::cases::{cache, numbers, one_row, slab, tiled, CLOSE};
use super::{launch, Judge, Layout, Trial};
use crate::gguf::GgmlType;
use crate::gpu::device::Address;
use crate::gpu::params::{
    Attention, BiasedGroupedUp, BiasedUp, ExpertsUp, Group, GroupedUp, JoinSplits, JoinSunk, Kernel, RoutedBias, WindowAttention,
};
use fastrand::Rng;

pub(super) fn all(r: &mut Rng) -> Vec<Trial> {
    let mut out = Vec::new();
    for wide in [false, true] {
        // Before the window is full, when it is, and many tokens of which some are.
        for ((heads, groups), dim, position, tokens, window, splits) in
            [((16, 2), 64, 90, 1, 128, 4), ((16, 2), 64, 700, 3, 128, 5), ((6, 3), 48, 20, 17, 31, 1), ((8, 1), 128, 40, 1, 1, 96)]
        {
            out.push(windowed(r, wide, (heads, groups), dim, position, tokens, window, splits));
        }
    }
    out.push(routed_bias(r));
    // A type of blocks of 32 whose rows are no multiple of 256, floats, and one that goes in tiles.
    for (ty, hidden, inner) in [(GgmlType::MXFP4, 2880, 96), (GgmlType::F16, 100, 52), (GgmlType::Q4K, 1280, 256)] {
        out.extend([(1, true), (3, false)].map(|(tokens, clamped)| experts(r, ty, tokens, hidden, inner, clamped)));
        out.extend([true, false].map(|clamped| grouped(r, ty, hidden, inner, clamped)));
    }
    out
}

#[allow(clippy::too_many_arguments)]
fn windowed(r: &mut Rng, wide: bool, (heads, groups): (u32, u32), dim: u32, position: u32, tokens: u32, window: u32, splits: u32) -> Trial {
    let context = position + tokens + 9;
    let mut l = Layout::new();
    let q = l.input("q", &numbers(r, (tokens * heads * dim) as usize));
    let keys = cache(r, &mut l, "keys", (groups * context * dim) as usize, wide);
    let values = cache(r, &mut l, "values", (groups * context * dim) as usize, wide);
    let at = l.input("position", &[position]);
    let sinks = l.input("sinks", &numbers(r, heads as usize));
    let partial = l.output("partial", (tokens * heads * splits * (2 + dim)) as usize, Judge::Between);
    let y = l.output("y", (tokens * heads * dim) as usize, Judge::F32(CLOSE));
    let about = format!(
        "{dim}, {heads} heads in {groups}, {tokens} at {position} see {window}, {splits} splits, {}",
        if wide { "f32" } else { "f16" }
    );
    l.trial(WindowAttention::NAME, format!("{about}, sinks"), move |b| {
        let partial = partial.of(b);
        let of = Attention {
            q: q.of(b),
            keys: keys.of(b),
            values: values.of(b),
            partial,
            position: at.of(b),
            tokens,
            heads,
            groups,
            key_dim: dim,
            value_dim: dim,
            context,
            wide: wide.into(),
            splits,
            scale: 1.0 / (dim as f32).sqrt(),
            pad: 0,
        };
        let join =
            JoinSplits { partial, gate: Address::NONE, y: y.of(b), tokens, heads, value_dim: dim, splits, gate_stride: 0, gate_head: 0 };
        vec![launch(WindowAttention { of, window, pad: 0 }), launch(JoinSunk { of: join, sinks: sinks.of(b) })]
    })
}

fn routed_bias(r: &mut Rng) -> Trial {
    let (tokens, top_k, cols, experts) = (5u32, 4u32, 700u32, 9u32);
    let mut l = Layout::new();
    let ids: Vec<u32> = (0..tokens * top_k).map(|_| r.u32(0..experts)).collect();
    let ids = l.input("ids", &ids);
    let weights = l.input("weights", &numbers(r, (tokens * top_k) as usize));
    let bias = l.input("bias", &numbers(r, (experts * cols) as usize));
    let y = l.changed("y", &numbers(r, (tokens * (cols + 3)) as usize), CLOSE);
    l.trial(RoutedBias::NAME, format!("{tokens} x {cols}"), move |b| {
        let (ids, weights, bias, y) = (ids.of(b), weights.of(b), bias.of(b), y.of(b));
        vec![launch(RoutedBias { ids, weights, bias, y, tokens, top_k, cols, y_stride: cols + 3 })]
    })
}

/// Biases of gate and up, as large as their products.
fn biases(r: &mut Rng, experts: u32, inner: u32) -> Vec<f32> {
    numbers(r, (experts * 2 * inner) as usize)
}

fn experts(r: &mut Rng, ty: GgmlType, tokens: u32, hidden: u32, inner: u32, clamped: bool) -> Trial {
    let (top_k, experts) = (4u32, 6u32);
    let pairs = tokens * top_k;
    let mut l = Layout::new();
    let slab = slab(r, &mut l, ty, 5, hidden, inner);
    let slots: Vec<i32> = (0..pairs as i32).map(|p| [3, -1, 0, 4, 2][p as usize % 5]).collect();
    let slots = l.input("slots", &slots);
    let ids: Vec<u32> = (0..pairs).map(|p| (p * 5 + 2) % experts).collect();
    let ids = l.input("ids", &ids);
    let bias = l.input("bias", &biases(r, experts, inner));
    let x = l.input("x", &numbers(r, (tokens * hidden) as usize));
    let up = one_row(crate::gpu::params::tiled(ty.number(), hidden));
    let mid = l.output("inner", (pairs * inner) as usize, Judge::F32(up.max(2.0 * up - CLOSE)));
    let about = format!("{ty}, {tokens} x {hidden}, {inner} inside{}", if clamped { ", clamped" } else { "" });
    l.trial(BiasedUp::NAME, about, move |b| {
        let of = ExpertsUp {
            slab: slab.at.of(b),
            slot_bytes: slab.slot_bytes,
            gate_at: 0,
            up_at: slab.up_at,
            slots: slots.of(b),
            x: x.of(b),
            inner: mid.of(b),
            pairs,
            top_k,
            rows: inner,
            cols: hidden,
            gate_ty: ty.number(),
            up_ty: ty.number(),
            x_stride: hidden,
            pad: 0,
        };
        vec![launch(BiasedUp { of, ids: ids.of(b), bias: bias.of(b), clamped: clamped.into(), pad: 0 })]
    })
}

fn grouped(r: &mut Rng, ty: GgmlType, hidden: u32, inner: u32, clamped: bool) -> Trial {
    let tokens = 83u32;
    let mut l = Layout::new();
    let slab = slab(r, &mut l, ty, 3, hidden, inner);
    let groups = l.input("groups", &[Group { slot: 2, begin: 0, end: 80 }, Group { slot: 0, begin: 80, end: 83 }]);
    let experts = l.input("experts", &[4u32, 1]);
    let (tile_group, tile_begin) = (l.input("tile_group", &[0u32, 0, 1]), l.input("tile_begin", &[0u32, GroupedUp::TILE, 80]));
    let mut order: Vec<u32> = (0..tokens).collect();
    r.shuffle(&mut order);
    let token_of = l.input("token_of", &order);
    let bias = l.input("bias", &biases(r, 5, inner));
    let x = l.input("x", &numbers(r, (tokens * hidden) as usize));
    let mid = l.output("inner", (tokens * inner) as usize, Judge::F32(2.0 * tiled(ty)));
    let about = format!("{ty}, {tokens} x {hidden}{}", if clamped { ", clamped" } else { "" });
    l.trial(BiasedGroupedUp::NAME, about, move |b| {
        let of = GroupedUp {
            slab: slab.at.of(b),
            slot_bytes: slab.slot_bytes,
            gate_at: 0,
            up_at: slab.up_at,
            groups: groups.of(b),
            tile_group: tile_group.of(b),
            tile_begin: tile_begin.of(b),
            token_of: token_of.of(b),
            x: x.of(b),
            inner: mid.of(b),
            tiles: 3,
            rows: inner,
            cols: hidden,
            gate_ty: ty.number(),
            up_ty: ty.number(),
            x_stride: hidden,
        };
        vec![launch(BiasedGroupedUp { of, experts: experts.of(b), bias: bias.of(b), clamped: clamped.into(), pad: 0 })]
    })
}
