//! How the launches of a trial are laid out, kernel by kernel. Which sizes are tried is said in [`super::case`].

use super::biased;
use super::case::{Case, Dims, Heads};
use super::latent;
use super::mailbox;
use super::pointwise;
use super::{launch, At, Judge, Layout, Trial};
use crate::gguf::GgmlType;
use crate::gpu::device::Address;
use crate::gpu::params::{
    self, Attention, ChunkAttention, Convolve, DeltaRule, ExpertsDown, ExpertsUp, Group, GroupedDown, GroupedUp, JoinSplits, JoinSunk,
    Kernel, MatJob, MatMul, MatVec, Rotate, Route, ShortConv, WindowAttention, WindowChunkAttention,
};
use crate::kernels::random_weights;
use fastrand::Rng;
use half::f16;

/// Sums in f32 of a few thousand terms, in an order of the kernel's own.
pub(super) const CLOSE: f64 = 5e-5;
/// One rounding to f16.
const HALF: f64 = 1e-3;
/// Sums of products of halves, which tensor cores multiply: an error of 2e-4 of a typical sum, four times that at worst; and the greatest sum is three
/// typical ones.
const HALVES: f64 = 6e-4;

/// Tiled products: float weights are multiplied in f32.
pub(super) fn tiled(ty: GgmlType) -> f64 {
    if ty.block_elems() == 1 {
        CLOSE
    } else {
        HALVES
    }
}

/// The same of one row of activations, if it goes in tiles. There are few results: the greatest is hardly more than a typical one.
pub(super) fn one_row(tiled: bool) -> f64 {
    if tiled {
        2.0 * HALVES
    } else {
        CLOSE
    }
}

/// The case's trial, with data drawn from `r`.
pub(super) fn trial(case: &Case, r: &mut Rng) -> Trial {
    match *case {
        Case::Add => pointwise::add(r),
        Case::Finite { broken } => pointwise::finite(r, broken),
        Case::Glu { activation } => pointwise::glu(r, activation),
        Case::AddNormed { rows, len, beside } => pointwise::add_normed(r, rows, len, beside),
        Case::SoftCap => pointwise::soft_cap(r),
        Case::Gather => pointwise::gather(r),
        Case::Norm { rows, len, limit } => pointwise::rms_norm(r, rows, len, if limit { 0.5 } else { 0.0 }),
        Case::NormInPlace => pointwise::rms_in_place(r),
        Case::NormOfPieces { pieces, len } => pointwise::rms_of_pieces(r, pieces, len),
        Case::GatedNorm { dim, reordered } => pointwise::gated_norm(r, dim, reordered.then_some([2, 0, 3, 1])),
        Case::Route { experts, top_k, renormalise, factors, sigmoid } => route(r, experts, top_k, renormalise, factors, sigmoid),
        Case::LatentRows { wide, rank, turned } => latent::rows(r, wide, rank, turned),
        Case::HeadMaps { ty, tokens, rows, cols } => latent::maps(r, ty, tokens, rows, cols),
        Case::LatentAttention { wide, dims, heads, position, tokens, splits } => {
            latent::attention(r, wide, dims, heads, position, tokens, splits)
        }
        Case::Rotate { wide, dims, half, norms, ring } => rotate(r, wide, dims, half, norms, ring),
        Case::Attention { wide, dims, heads, position, tokens, splits, gated } => {
            attention(r, wide, dims, heads, position, tokens, splits, gated, None)
        }
        Case::ChunkAttention { dims, heads, position, tokens, splits, gated } => {
            chunk_attention(r, dims, heads, position, tokens, splits, gated, None)
        }
        Case::WindowChunkAttention { dims, heads, position, tokens, window, sinks, gated } => {
            chunk_attention(r, dims, heads, position, tokens, 1, gated, Some((window, sinks)))
        }
        Case::Convolve { tokens, width } => convolve(r, tokens, width),
        Case::ShortConv { tokens, width } => short_conv(r, tokens, width),
        Case::DeltaRule { tokens, dims } => delta_rule(r, tokens, dims),
        Case::MatVec { types, tokens, cols, rows, split } => matvec(r, types, tokens, cols, rows, split),
        Case::Gated { ty, cols, rows } => gated(r, ty, cols, rows),
        Case::MatMul { ty, tokens, cols, rows, bias } => matmul(r, ty, tokens, cols, rows, bias),
        Case::Experts { types, tokens, hidden, top_k, inner, out } => experts(r, types, tokens, (hidden, inner, out), top_k),
        Case::Grouped { types, hidden, inner, out } => grouped(r, types, (hidden, inner, out)),
        Case::WindowAttention { wide, dims, heads, position, tokens, window, splits } => {
            attention(r, wide, dims, heads, position, tokens, splits, false, Some(window))
        }
        Case::RoutedBias { tokens, top_k, experts, cols } => biased::routed_bias(r, tokens, top_k, experts, cols),
        Case::BiasedUp { types, tokens, hidden, top_k, inner, activation, biased } => {
            biased::up(r, types, tokens, (hidden, inner), top_k, (activation, biased))
        }
        Case::BiasedGroupedUp { types, hidden, inner, activation, biased } => {
            biased::grouped_up(r, types, (hidden, inner), (activation, biased))
        }
        Case::AwaitHost { words, said } => mailbox::await_host(r, words, said),
        Case::TellHost { words } => mailbox::tell_host(r, words),
        Case::AddAnswer { len, missed } => mailbox::add_answer(r, len, missed),
    }
}

pub(super) fn numbers(r: &mut Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| (r.f32() + r.f32() + r.f32() - 1.5) * 2.0).collect()
}

fn weights(r: &mut Rng, ty: GgmlType, rows: u32, cols: u32) -> Vec<u8> {
    random_weights(ty, rows as usize * cols as usize, r)
}

fn route(r: &mut Rng, experts: u32, top_k: u32, renormalise: bool, factors: bool, sigmoid: bool) -> Trial {
    let mut l = Layout::new();
    let (n, pairs) = (experts as usize, 4 * top_k as usize);
    let mut scores = numbers(r, 4 * n);
    // Equal scores: the lower id first.
    scores[n + 2] = 9.0;
    scores[n + 5] = 9.0;
    let scores = l.input("scores", &scores);
    let table: Vec<i32> = (0..experts as i32).map(|i| if i % 3 == 0 { -1 } else { i / 2 }).collect();
    let table = l.input("table", &table);
    let ids = l.put("ids", &vec![0xFF; pairs * 4], Judge::Same);
    let weights = l.output("weights", pairs, Judge::F32(CLOSE));
    let slots = l.put("slots", &vec![0xFE; pairs * 4], Judge::Same);
    let about = format!("{top_k} of {experts}{}{}", if factors { ", factors" } else { "" }, if sigmoid { ", sigmoids" } else { "" });
    let bias = sigmoid.then(|| l.input("bias", &numbers(r, n)));
    let factors = factors.then(|| l.input("factors", &numbers(r, n)));
    l.trial(Route::NAME, about, move |b| {
        let (scores, table, ids, weights, slots) = (scores.of(b), table.of(b), ids.of(b), weights.of(b), slots.of(b));
        vec![launch(Route {
            scores,
            table,
            ids,
            weights,
            slots,
            tokens: 4,
            experts,
            top_k,
            renormalise: renormalise.into(),
            scale: 1.5,
            sigmoid: bias.is_some().into(),
            factors: factors.map_or(Address::NONE, |f| f.of(b)),
            bias: bias.map_or(Address::NONE, |at| at.of(b)),
        })]
    })
}

/// A cache of `len` numbers, in f16 or f32.
pub(super) fn cache(r: &mut Rng, l: &mut Layout, what: &'static str, len: usize, wide: bool) -> At {
    let values = numbers(r, len);
    if wide {
        return l.changed(what, &values, CLOSE);
    }
    let halves: Vec<u16> = values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
    l.put(what, bytemuck::cast_slice(&halves), Judge::F16(HALF))
}

fn rotate(r: &mut Rng, wide: bool, (dim, value_dim): Dims, half: u32, norms: bool, ring: bool) -> Trial {
    let (heads, groups, tokens, context) = (6u32, 2u32, 3u32, 16u32);
    let mut l = Layout::new();
    let (q_stride, k_stride, v_stride) = (heads * (dim + 8) + 4, groups * dim + 4, groups * value_dim + 4);
    let q = l.input("q", &numbers(r, (tokens * q_stride) as usize));
    let k = l.input("k", &numbers(r, (tokens * k_stride) as usize));
    let v = l.input("v", &numbers(r, (tokens * v_stride) as usize));
    let (qn, kn) = (l.input("q_norm", &numbers(r, dim as usize)), l.input("k_norm", &numbers(r, dim as usize)));
    let angles: Vec<f32> = (0..tokens).flat_map(|_| angles(r, half)).collect();
    let angles = l.input("angles", &angles);
    let position = l.input("position", &[if ring { 2 * context - 1 } else { 5 }]);
    let q_out = l.output("q_out", (tokens * heads * dim) as usize, Judge::F32(CLOSE));
    let keys = cache(r, &mut l, "keys", (groups * context * dim) as usize, wide);
    let values = cache(r, &mut l, "values", (groups * context * value_dim) as usize, wide);
    let about = format!(
        "{dim}/{value_dim}, {} rotated, {}{}",
        2 * half,
        if wide { "f32" } else { "f16" },
        if norms { ", norms" } else { ", clamped" }
    ) + if ring { ", around a ring" } else { "" };
    l.trial(Rotate::NAME, about, move |b| {
        let norm = |at: At| if norms { at.of(b) } else { Address::NONE };
        vec![launch(Rotate {
            q: q.of(b),
            k: k.of(b),
            v: v.of(b),
            q_norm: norm(qn),
            k_norm: norm(kn),
            angles: angles.of(b),
            q_out: q_out.of(b),
            keys: keys.of(b),
            values: values.of(b),
            position: position.of(b),
            tokens,
            heads,
            groups,
            key_dim: dim,
            value_dim,
            half,
            context,
            wide: wide.into(),
            q_stride,
            q_head: dim + 8,
            k_stride,
            v_stride,
            eps: 1e-6,
            limit: if norms { 0.0 } else { 1.0 },
            limit_v: if norms { 0.0 } else { 0.7 },
            ring: ring.into(),
        })]
    })
}

/// Cosines, then sines.
pub(super) fn angles(r: &mut Rng, half: u32) -> Vec<f32> {
    let a: Vec<f32> = (0..half).map(|_| r.f32() * 6.0).collect();
    a.iter().map(|a| a.cos()).chain(a.iter().map(|a| a.sin())).collect()
}

#[allow(clippy::too_many_arguments, reason = "the axes of the trials")]
fn attention(
    r: &mut Rng,
    wide: bool,
    (dim, value_dim): Dims,
    (heads, groups): Heads,
    position: u32,
    tokens: u32,
    splits: u32,
    gated: bool,
    window: Option<u32>,
) -> Trial {
    // Of a window no more than is seen, and a few.
    let context = window.map_or(u32::MAX, |window| window.saturating_add(tokens - 1)).min(position + tokens) + 9;
    let mut l = Layout::new();
    let q = l.input("q", &numbers(r, (tokens * heads * dim) as usize));
    let keys = cache(r, &mut l, "keys", (groups * context * dim) as usize, wide);
    let values = cache(r, &mut l, "values", (groups * context * value_dim) as usize, wide);
    let at = l.input("position", &[position]);
    // What an empty range leaves as its output is the kernel's own business.
    let partial = l.output("partial", (tokens * heads * splits * (2 + value_dim)) as usize, Judge::Between);
    let gate = l.input("gate", &numbers(r, (tokens * heads * (value_dim + 8)) as usize));
    // A window comes with sinks here: each has a kernel of its own, and they follow each other.
    let window = window.map(|window| (window, l.input("sinks", &numbers(r, heads as usize))));
    let y = l.output("y", (tokens * heads * value_dim) as usize, Judge::F32(CLOSE));
    let sees = window.map_or(String::new(), |(window, _)| format!(" see {window} and sinks"));
    let about = format!(
        "{dim}/{value_dim}, {heads} heads in {groups}, {tokens} at {position}{sees}, {splits} splits, {}{}",
        if wide { "f32" } else { "f16" },
        if gated { ", gated" } else { "" }
    );
    let kernel = if window.is_some() { WindowAttention::NAME } else { Attention::NAME };
    l.trial(kernel, about, move |b| {
        let (partial, gate_stride, gate_head) = (partial.of(b), heads * (value_dim + 8), value_dim + 8);
        let join = JoinSplits {
            partial,
            gate: if gated { gate.of(b) } else { Address::NONE },
            y: y.of(b),
            tokens,
            heads,
            value_dim,
            splits,
            gate_stride,
            gate_head,
        };
        let scores = Attention {
            q: q.of(b),
            keys: keys.of(b),
            values: values.of(b),
            partial,
            position: at.of(b),
            tokens,
            heads,
            groups,
            key_dim: dim,
            value_dim,
            context,
            wide: wide.into(),
            splits,
            scale: 1.0 / (dim as f32).sqrt(),
            pad: 0,
        };
        match window {
            Some((window, sinks)) => {
                vec![launch(WindowAttention { of: scores, window, pad: 0 }), launch(JoinSunk { of: join, sinks: sinks.of(b) })]
            }
            None => vec![launch(scores), launch(join)],
        }
    })
}

#[allow(clippy::too_many_arguments, reason = "a trial is a list of sizes")]
fn chunk_attention(
    r: &mut Rng,
    (key_dim, value_dim): Dims,
    (heads, groups): Heads,
    position: u32,
    tokens: u32,
    splits: u32,
    gated: bool,
    within: Option<(u32, bool)>,
) -> Trial {
    let context = within.map_or(u32::MAX, |(window, _)| window.saturating_add(tokens - 1)).min(position + tokens) + 9;
    let mut l = Layout::new();
    let q = l.input("q", &numbers(r, (tokens * heads * key_dim) as usize));
    let keys = cache(r, &mut l, "keys", (groups * context * key_dim) as usize, false);
    let values = cache(r, &mut l, "values", (groups * context * value_dim) as usize, false);
    let at = l.input("position", &[position]);
    let gate = l.input("gate", &numbers(r, (tokens * heads * (value_dim + 8)) as usize));
    let partial = (splits > 1).then(|| l.output("partial", (tokens * heads * splits * (2 + value_dim)) as usize, Judge::Between));
    // A weight is off by as much as its score, which is a product of halves; then it is rounded itself.
    let y = l.output("y", (tokens * heads * value_dim) as usize, Judge::F32(2.0 * HALVES));
    let sees = within.map_or(String::new(), |(window, sinks)| format!(" see {window}{}", if sinks { " and sinks" } else { "" }));
    let about = format!(
        "{key_dim}/{value_dim}, {heads} heads in {groups}, {tokens} at {position}{sees}, {splits} splits{}",
        if gated { ", gated" } else { "" }
    );
    let within = within.map(|(window, sinks)| (window, sinks.then(|| l.input("sinks", &numbers(r, heads as usize)))));
    let kernel = if within.is_some() { WindowChunkAttention::NAME } else { ChunkAttention::NAME };
    l.trial(kernel, about, move |b| {
        let (gate_stride, gate_head) = (heads * (value_dim + 8), value_dim + 8);
        let (partial, gate, y) = (partial.map_or(Address::NONE, |p| p.of(b)), if gated { gate.of(b) } else { Address::NONE }, y.of(b));
        let scores = ChunkAttention {
            q: q.of(b),
            keys: keys.of(b),
            values: values.of(b),
            partial,
            gate,
            y,
            position: at.of(b),
            tokens,
            heads,
            groups,
            key_dim,
            value_dim,
            context,
            splits,
            gate_stride,
            gate_head,
            scale: 1.0 / (key_dim as f32).sqrt(),
        };
        let join = JoinSplits { partial, gate, y, tokens, heads, value_dim, splits, gate_stride, gate_head };
        match within {
            Some((window, sinks)) => {
                let sinks = sinks.map_or(Address::NONE, |s| s.of(b));
                vec![launch(WindowChunkAttention { of: scores, sinks, window, pad: 0 })]
            }
            None if splits > 1 => vec![launch(scores), launch(join)],
            None => vec![launch(scores)],
        }
    })
}

fn convolve(r: &mut Rng, tokens: u32, width: u32) -> Trial {
    let channels = 300u32;
    let mut l = Layout::new();
    let x = l.input("x", &numbers(r, (tokens * 320) as usize));
    let taps = l.input("taps", &numbers(r, (width * channels) as usize));
    let carry = l.changed("carry", &numbers(r, ((width - 1) * channels) as usize), 0.0);
    let y = l.output("y", (tokens * channels) as usize, Judge::F32(CLOSE));
    l.trial(Convolve::NAME, format!("{tokens} x {channels}, {width} taps"), move |b| {
        vec![launch(Convolve { x: x.of(b), taps: taps.of(b), carry: carry.of(b), y: y.of(b), tokens, channels, width, x_stride: 320 })]
    })
}

fn short_conv(r: &mut Rng, tokens: u32, width: u32) -> Trial {
    let (channels, stride) = (300u32, 910u32);
    let mut l = Layout::new();
    let parts = l.input("parts", &numbers(r, (tokens * stride) as usize));
    let taps = l.input("taps", &numbers(r, (width * channels) as usize));
    let carry = l.changed("carry", &numbers(r, ((width - 1) * channels) as usize), 0.0);
    let y = l.output("y", (tokens * channels) as usize, Judge::F32(CLOSE));
    l.trial(ShortConv::NAME, format!("{tokens} x {channels}, {width} taps"), move |b| {
        vec![launch(ShortConv { parts: parts.of(b), taps: taps.of(b), carry: carry.of(b), y: y.of(b), tokens, channels, width, stride })]
    })
}

fn delta_rule(r: &mut Rng, tokens: u32, (key_dim, value_dim): Dims) -> Trial {
    let (keys, values) = (2u32, 4u32);
    let channels = 2 * keys * key_dim + values * value_dim;
    let mut l = Layout::new();
    let mixed = l.input("mixed", &numbers(r, (tokens * channels) as usize));
    let (alpha, beta) = (l.input("alpha", &numbers(r, (tokens * 10) as usize)), l.input("beta", &numbers(r, (tokens * 10) as usize)));
    let bias = l.input("bias", &numbers(r, values as usize));
    let rate: Vec<f32> = numbers(r, values as usize).iter().map(|v| -v.abs() * 0.2).collect();
    let rate = l.input("rate", &rate);
    let state = l.changed("state", &numbers(r, (values * key_dim * value_dim) as usize), CLOSE);
    let y = l.output("y", (tokens * values * value_dim) as usize, Judge::F32(CLOSE));
    l.trial(DeltaRule::NAME, format!("{tokens} tokens, {key_dim} x {value_dim}"), move |b| {
        vec![launch(DeltaRule {
            mixed: mixed.of(b),
            alpha: alpha.of(b),
            beta: beta.of(b),
            bias: bias.of(b),
            rate: rate.of(b),
            state: state.of(b),
            y: y.of(b),
            tokens,
            keys,
            values,
            key_dim,
            value_dim,
            alpha_stride: 10,
            beta_stride: 10,
            eps: 1e-6,
        })]
    })
}

/// Two maps of one input: a plain one, and one with a bias, a scale per token, added to what is there.
fn matvec(r: &mut Rng, [ty, beside]: [GgmlType; 2], tokens: u32, cols: u32, rows: u32, split: u32) -> Trial {
    let few = 8u32;
    let mut l = Layout::new();
    let x = l.input("x", &numbers(r, (tokens * (cols + 4)) as usize));
    let (w, w2) = (l.input("weight", &weights(r, ty, rows, cols)), l.input("weight 2", &weights(r, beside, few, cols)));
    let (bias, scale) = (l.input("bias", &numbers(r, few as usize)), l.input("scale", &numbers(r, (tokens * 3) as usize)));
    let [close, close_beside] = [ty, beside].map(|ty| one_row(tokens == 1 && MatVec::tiled(ty.number(), cols)));
    let y = l.output("y", (tokens * (rows + 2)) as usize, Judge::F32(close));
    let y2 = l.changed("y 2", &numbers(r, (tokens * few) as usize), close_beside);
    let other = if beside == ty { String::new() } else { format!(" in {beside}") };
    let warps = if split > 0 { format!(", {} warps a row", 1 << split) } else { String::new() };
    l.trial(MatVec::NAME, format!("{ty}, {tokens} x {cols} to {rows} and {few}{other}{warps}"), move |b| {
        let mut kernel = MatVec { x: x.of(b), cols, tokens, x_stride: cols + 4, jobs: 2, split, ..MatVec::default() };
        let first = kernel.blocks_of(ty.number(), rows);
        let job = &mut kernel.job;
        job[0] = MatJob { weight: w.of(b), y: y.of(b), ty: ty.number(), rows, y_stride: rows + 2, ..MatJob::default() };
        job[1] = MatJob {
            weight: w2.of(b),
            bias: bias.of(b),
            y: y2.of(b),
            scale: scale.of(b),
            ty: beside.number(),
            rows: few,
            y_stride: few,
            accumulate: 1,
            scale_stride: 3,
            first_block: first,
        };
        kernel.blocks = first + kernel.blocks_of(beside.number(), few);
        vec![launch(kernel)]
    })
}

/// One map of a row times silu of another.
fn gated(r: &mut Rng, ty: GgmlType, cols: u32, rows: u32) -> Trial {
    let mut l = Layout::new();
    let (x, gate) = (l.input("x", &numbers(r, cols as usize)), l.input("gate", &numbers(r, cols as usize)));
    let w = l.input("weight", &weights(r, ty, rows, cols));
    let y = l.changed("y", &numbers(r, rows as usize), one_row(MatVec::tiled(ty.number(), cols)));
    l.trial(MatVec::NAME, format!("{ty}, gated, {cols} to {rows}"), move |b| {
        let mut kernel = MatVec { x: x.of(b), gate: gate.of(b), cols, tokens: 1, x_stride: cols, jobs: 1, ..MatVec::default() };
        kernel.job[0] = MatJob { weight: w.of(b), y: y.of(b), ty: ty.number(), rows, y_stride: rows, accumulate: 1, ..MatJob::default() };
        kernel.blocks = kernel.blocks_of(ty.number(), rows);
        vec![launch(kernel)]
    })
}

fn matmul(r: &mut Rng, ty: GgmlType, tokens: u32, cols: u32, rows: u32, bias: bool) -> Trial {
    let mut l = Layout::new();
    let x = l.input("x", &numbers(r, (tokens * cols) as usize));
    let w = l.input("weight", &weights(r, ty, rows, cols));
    let scale = l.input("scale", &numbers(r, tokens as usize));
    let y = l.changed("y", &numbers(r, (tokens * (rows + 2)) as usize), tiled(ty));
    let bias = bias.then(|| l.input("bias", &numbers(r, rows as usize)));
    let with = if bias.is_some() { ", with a bias" } else { "" };
    l.trial(MatMul::NAME, format!("{ty}, {tokens} x {cols} to {rows}{with}"), move |b| {
        let job = MatJob {
            weight: w.of(b),
            bias: bias.map_or(Address::NONE, |at| at.of(b)),
            y: y.of(b),
            scale: scale.of(b),
            ty: ty.number(),
            rows,
            y_stride: rows + 2,
            accumulate: 1,
            scale_stride: 1,
            ..MatJob::default()
        };
        vec![launch(MatMul { x: x.of(b), cols, tokens, x_stride: cols, pad: 0, job })]
    })
}

/// A slab of `slots` experts: gate and up `[inner, hidden]`, down `[out, inner]`, and some bytes that belong to none.
pub(super) struct Slab {
    pub(super) at: At,
    pub(super) slot_bytes: u64,
    pub(super) up_at: u64,
    down_at: u64,
}

pub(super) fn slab(
    r: &mut Rng,
    l: &mut Layout,
    [gate, up, down]: [GgmlType; 3],
    slots: u32,
    (hidden, inner, out): (u32, u32, u32),
) -> Slab {
    let mut bytes = Vec::new();
    let (mut up_at, mut down_at, mut slot_bytes) = (0, 0, 0);
    for s in 0..slots as usize {
        bytes.resize(s * slot_bytes, 0x55);
        bytes.extend(weights(r, gate, inner, hidden));
        bytes.resize(bytes.len().next_multiple_of(16), 0x55);
        up_at = bytes.len() - s * slot_bytes;
        bytes.extend(weights(r, up, inner, hidden));
        bytes.resize(bytes.len().next_multiple_of(16), 0x55);
        down_at = bytes.len() - s * slot_bytes;
        bytes.extend(weights(r, down, out, inner));
        slot_bytes = (bytes.len() - s * slot_bytes).next_multiple_of(256);
    }
    Slab { at: l.input("slab", &bytes), slot_bytes: slot_bytes as u64, up_at: up_at as u64, down_at: down_at as u64 }
}

/// "Q4_K", or "Q4_K/Q4_K/Q6_K" for gate, up and down.
pub(super) fn named(types: [GgmlType; 3]) -> String {
    match types {
        [gate, up, down] if gate == up && up == down => gate.to_string(),
        [gate, up, down] => format!("{gate}/{up}/{down}"),
    }
}

/// The pair of launches that decoding makes; some of the chosen experts are in no slot.
fn experts(r: &mut Rng, types: [GgmlType; 3], tokens: u32, (hidden, inner, out): (u32, u32, u32), top_k: u32) -> Trial {
    let pairs = tokens * top_k;
    let mut l = Layout::new();
    let slab = slab(r, &mut l, types, 5, (hidden, inner, out));
    let [gate_ty, up_ty, down_ty] = types;
    let slots: Vec<i32> = (0..pairs as i32).map(|p| [3, -1, 0, 4, 2, 2, -1][p as usize % 7]).collect();
    let slots = l.input("slots", &slots);
    let x = l.input("x", &numbers(r, (tokens * (hidden + 4)) as usize));
    let w = l.input("weights", &numbers(r, pairs as usize));
    // A product of two such sums; what comes of it after that is summed again.
    let up = one_row(gate_ty == up_ty && params::tiled(gate_ty.number(), hidden));
    let down = up.max(one_row(params::tiled(down_ty.number(), inner)));
    let mid = l.output("inner", (pairs * inner) as usize, Judge::F32(up.max(2.0 * up - CLOSE)));
    let y = l.changed("y", &numbers(r, (tokens * (out + 2)) as usize), down.max(3.0 * down - 2.0 * CLOSE));
    let name = ExpertsUp::NAME;
    let about = format!("and down, {}, {tokens} x {hidden}, {top_k} of {inner} inside, to {out}", named(types));
    l.trial(name, about, move |b| {
        let (base, slots, inner_at) = (slab.at.of(b), slots.of(b), mid.of(b));
        let up = ExpertsUp {
            slab: base,
            slot_bytes: slab.slot_bytes,
            gate_at: 0,
            up_at: slab.up_at,
            slots,
            x: x.of(b),
            inner: inner_at,
            pairs,
            top_k,
            rows: inner,
            cols: hidden,
            gate_ty: gate_ty.number(),
            up_ty: up_ty.number(),
            x_stride: hidden + 4,
            pad: 0,
        };
        let down = ExpertsDown {
            slab: base,
            slot_bytes: slab.slot_bytes,
            down_at: slab.down_at,
            slots,
            weights: w.of(b),
            inner: inner_at,
            y: y.of(b),
            tokens,
            top_k,
            rows: out,
            cols: inner,
            ty: down_ty.number(),
            y_stride: out + 2,
        };
        vec![launch(up), launch(down)]
    })
}

/// Prompts: 80 pairs of one expert (two tiles), 3 of another.
fn grouped(r: &mut Rng, types: [GgmlType; 3], (hidden, inner, out_rows): (u32, u32, u32)) -> Trial {
    let tokens = 83u32;
    let mut l = Layout::new();
    let slab = slab(r, &mut l, types, 3, (hidden, inner, out_rows));
    let [gate_ty, up_ty, down_ty] = types;
    let groups = l.input("groups", &[Group { slot: 2, begin: 0, end: 80 }, Group { slot: 0, begin: 80, end: 83 }]);
    let (tile_group, tile_begin) = (l.input("tile_group", &[0u32, 0, 1]), l.input("tile_begin", &[0u32, GroupedUp::TILE, 80]));
    let mut order: Vec<u32> = (0..tokens).collect();
    r.shuffle(&mut order);
    let token_of = l.input("token_of", &order);
    let x = l.input("x", &numbers(r, (tokens * hidden) as usize));
    let up = tiled(gate_ty).max(tiled(up_ty));
    let down = up.max(tiled(down_ty));
    // A product of two such sums; what comes of it after that is summed again.
    let mid = l.output("inner", (tokens * inner) as usize, Judge::F32(2.0 * up));
    let out = l.output("out", (tokens * out_rows) as usize, Judge::F32(3.0 * down));
    let about = format!("and down, {}, {tokens} x {hidden}, {inner} inside, to {out_rows}", named(types));
    l.trial(GroupedUp::NAME, about, move |b| {
        let (base, slot_bytes, groups, tile_group, tile_begin) =
            (slab.at.of(b), slab.slot_bytes, groups.of(b), tile_group.of(b), tile_begin.of(b));
        let up = GroupedUp {
            slab: base,
            slot_bytes,
            gate_at: 0,
            up_at: slab.up_at,
            groups,
            tile_group,
            tile_begin,
            token_of: token_of.of(b),
            x: x.of(b),
            inner: mid.of(b),
            tiles: 3,
            rows: inner,
            cols: hidden,
            gate_ty: gate_ty.number(),
            up_ty: up_ty.number(),
            x_stride: hidden,
        };
        let down = GroupedDown {
            slab: base,
            slot_bytes,
            down_at: slab.down_at,
            groups,
            tile_group,
            tile_begin,
            inner: mid.of(b),
            out: out.of(b),
            tiles: 3,
            rows: out_rows,
            cols: inner,
            ty: down_ty.number(),
        };
        vec![launch(up), launch(down)]
    })
}
