//! Kernels without weights: norms, the router's choice, attention, the delta net.

use super::super::launch;
use super::{Case, Place, CONTEXT, DIM, EXPERTS, FF, GROUPS, HEADS, HIDDEN, POSITIONS, RESULTS, TOP_K};
use crate::gguf::GgmlType;
use crate::gpu::device::Address;
use crate::gpu::params::{
    Attention, ChunkAttention, Convolve, DeltaRule, GatedNorm, Glu, HeadMaps, JoinSplits, Kernel, LatentAttention, RmsNorm, Rotate, Route,
    ShortConv, WindowChunkAttention,
};

/// All of them.
pub(super) fn all(place: Place) -> Vec<Case> {
    let mut out = vec![rms_norm(place), route(place), rotate(place), glu(place), gated_norm(place)];
    out.extend([1, 512].map(|tokens| convolve(place, tokens)));
    out.extend([1, 512].map(|tokens| short_conv(place, tokens)));
    out.extend([1, 512].map(|tokens| delta_rule(place, tokens)));
    for (position, tokens) in [(2_000, 1), (CONTEXT - 1, 1), (2_000, 512)] {
        out.push(attention(place, position, tokens));
    }
    for (position, tokens) in [(0, 512), (2_000, 512), (CONTEXT - 512, 512), (CONTEXT - 32, 32)] {
        out.push(chunk_attention(place, position, tokens));
    }
    out.push(join_splits(place));
    for (position, tokens) in [(2_000, 512), (CONTEXT - 512, 512)] {
        out.push(window_chunk_attention(place, position, tokens));
    }
    for (position, tokens) in [(2_000, 1), (2_000, 512)] {
        out.push(latent_attention(place, position, tokens));
    }
    out.extend([1, 512].map(|tokens| head_maps(place, tokens)));
    out
}

fn case<K: Kernel + 'static>(about: String, bytes: usize, flops: f64, kernel: K) -> Case {
    Case { about, bytes, flops, make: Box::new(move |_| launch(kernel)) }
}

fn rms_norm(place: Place) -> Case {
    let (x, weight, y) = (place.room, place.weights, place.room.plus(RESULTS));
    let (len, eps) = (HIDDEN, 1e-6);
    let kernel = RmsNorm { x, weight, y, rows: 1, pieces: 1, len, x_stride: len, x_piece: len, y_stride: len, eps, limit: 0.0 };
    case(format!("1 x {len}"), 12 * len as usize, 0.0, kernel)
}

fn route(place: Place) -> Case {
    let out = place.room.plus(RESULTS);
    let kernel = Route {
        scores: place.room,
        table: Address::NONE,
        ids: out,
        weights: out.plus(1 << 16),
        slots: out.plus(1 << 17),
        tokens: 1,
        experts: EXPERTS,
        top_k: TOP_K,
        renormalise: 1,
        scale: 1.0,
        sigmoid: 0,
        factors: Address::NONE,
        bias: Address::NONE,
    };
    case(format!("{TOP_K} of {EXPERTS}, 1 token"), 4 * EXPERTS as usize, 0.0, kernel)
}

/// Keys behind the results, values behind the keys.
fn caches(place: &Place) -> (Address, Address) {
    let keys = place.room.plus(RESULTS + (32 << 20));
    (keys, keys.plus((GROUPS * CONTEXT * DIM * 2) as usize))
}

/// A position on the device: one of the lists counts 0, 1, 2, ..
fn position(place: &Place, position: u32) -> Address {
    place.room.plus(RESULTS - POSITIONS).plus(position as usize * 4)
}

fn rotate(place: Place) -> Case {
    let (keys, values) = caches(&place);
    let width = (2 * HEADS + 2 * GROUPS) * DIM;
    let k = place.room.plus((2 * HEADS * DIM * 4) as usize);
    let kernel = Rotate {
        q: place.room,
        k,
        v: k.plus((GROUPS * DIM * 4) as usize),
        q_norm: place.weights,
        k_norm: place.weights,
        angles: place.room,
        q_out: place.room.plus(RESULTS),
        keys,
        values,
        position: position(&place, 2000),
        tokens: 1,
        heads: HEADS,
        groups: GROUPS,
        key_dim: DIM,
        value_dim: DIM,
        half: 32,
        context: CONTEXT,
        wide: 0,
        q_stride: width,
        q_head: 2 * DIM,
        k_stride: width,
        v_stride: width,
        eps: 1e-6,
        limit: 0.0,
        limit_v: 0.0,
        ring: 0,
    };
    case(format!("{HEADS} heads of {DIM}, 1 token"), (width * 4) as usize, 0.0, kernel)
}

fn attention(place: Place, at: u32, tokens: u32) -> Case {
    let (keys, values) = caches(&place);
    let kernel = Attention {
        q: place.room,
        keys,
        values,
        partial: place.room.plus(RESULTS),
        position: position(&place, at),
        tokens,
        heads: HEADS,
        groups: GROUPS,
        key_dim: DIM,
        value_dim: DIM,
        context: CONTEXT,
        wide: 0,
        splits: (96 / tokens).max(1),
        scale: 1.0 / 16.0,
        pad: 0,
    };
    let seen = f64::from(tokens) * (f64::from(at) + f64::from(tokens) / 2.0);
    let bytes = (GROUPS * (at + tokens) * DIM * 4) as usize;
    case(format!("{tokens} tokens after {at}, {HEADS} heads of {DIM}"), bytes, 4.0 * seen * f64::from(HEADS * DIM), kernel)
}

fn chunk_attention(place: Place, at: u32, tokens: u32) -> Case {
    let (keys, values) = caches(&place);
    let out = place.room.plus(RESULTS);
    let kernel = ChunkAttention {
        q: place.room,
        keys,
        values,
        partial: out,
        gate: Address::NONE,
        y: out,
        position: position(&place, at),
        tokens,
        heads: HEADS,
        groups: GROUPS,
        key_dim: DIM,
        value_dim: DIM,
        context: CONTEXT,
        splits: ChunkAttention::splits(tokens, HEADS, GROUPS, at + tokens, 96),
        gate_stride: 0,
        gate_head: 0,
        scale: 1.0 / 16.0,
    };
    let seen = f64::from(tokens) * (f64::from(at) + f64::from(tokens) / 2.0);
    let bytes = (GROUPS * (at + tokens) * DIM * 4) as usize;
    case(format!("{tokens} tokens after {at}, {HEADS} heads of {DIM}"), bytes, 4.0 * seen * f64::from(HEADS * DIM), kernel)
}

/// As Gemma's, but for the number of groups: what is seen is a matter of the window, wherever the tokens are.
fn window_chunk_attention(place: Place, at: u32, tokens: u32) -> Case {
    const WINDOW: u32 = 1024;
    let (keys, values) = caches(&place);
    let of = ChunkAttention {
        q: place.room,
        keys,
        values,
        partial: Address::NONE,
        gate: Address::NONE,
        y: place.room.plus(RESULTS),
        position: position(&place, at),
        tokens,
        heads: HEADS,
        groups: GROUPS,
        key_dim: DIM,
        value_dim: DIM,
        context: 3 * WINDOW,
        splits: 1,
        gate_stride: 0,
        gate_head: 0,
        scale: 1.0,
    };
    let seen = f64::from(tokens) * f64::from(WINDOW);
    let bytes = (GROUPS * (WINDOW + tokens) * DIM * 4) as usize;
    let about = format!("{tokens} tokens after {at} see {WINDOW}, {HEADS} heads of {DIM}");
    case(about, bytes, 4.0 * seen * f64::from(HEADS * DIM), WindowChunkAttention { of, sinks: Address::NONE, window: WINDOW, pad: 0 })
}

/// Heads of GLM-4.7-Flash, values of its latent, and of a head what turns and what does not.
const LATENT: (u32, u32, u32, u32) = (20, 512, 64, 192);

fn latent_attention(place: Place, at: u32, tokens: u32) -> Case {
    let (heads, rank, turned, _) = LATENT;
    let (keys, _) = caches(&place);
    let of = Attention {
        q: place.room,
        keys,
        values: Address::NONE,
        partial: place.room.plus(RESULTS),
        position: position(&place, at),
        tokens,
        heads,
        groups: 1,
        key_dim: rank + turned,
        value_dim: rank,
        context: 8192,
        wide: 0,
        splits: (96 / tokens).max(1),
        scale: 1.0 / 16.0,
        pad: 0,
    };
    let seen = f64::from(tokens) * (f64::from(at) + f64::from(tokens) / 2.0);
    let bytes = ((at + tokens) * (rank + turned) * 2) as usize;
    let flops = 2.0 * seen * f64::from(heads * (2 * rank + turned));
    case(format!("{tokens} tokens after {at}, {heads} heads of {rank} in {}", rank + turned), bytes, flops, LatentAttention { of })
}

fn head_maps(place: Place, tokens: u32) -> Case {
    let (heads, rank, turned, plain) = LATENT;
    let (x_head, y_head) = (plain + turned, rank + turned);
    let kernel = HeadMaps {
        weight: place.weights,
        x: place.room,
        y: place.room.plus(RESULTS),
        ty: GgmlType::Q8_0.number(),
        heads,
        rows: rank,
        cols: plain,
        tokens,
        x_stride: heads * x_head,
        x_head,
        y_stride: heads * y_head,
        y_head,
        pad: 0,
    };
    let weights = f64::from(heads * rank * plain);
    case(
        format!("Q8_0, {heads} heads of {plain} to {rank}, {tokens} tokens"),
        (weights * 34.0 / 32.0) as usize,
        2.0 * weights * f64::from(tokens),
        kernel,
    )
}

fn join_splits(place: Place) -> Case {
    let (partial, gate, y) = (place.room, place.room, place.room.plus(RESULTS));
    let (heads, value_dim, splits) = (HEADS, DIM, 96);
    let kernel = JoinSplits { partial, gate, y, tokens: 1, heads, value_dim, splits, gate_stride: 0, gate_head: 2 * DIM };
    case(format!("{HEADS} heads of {DIM}, {splits} ranges"), (HEADS * splits * (DIM + 2) * 4) as usize, 0.0, kernel)
}

/// The heads of a delta net: keys, values, and the length of both.
const DELTA: (u32, u32, u32) = (16, 32, 128);

fn convolve(place: Place, tokens: u32) -> Case {
    let channels = (2 * DELTA.0 + DELTA.1) * DELTA.2;
    let (x, taps, carry, y) = (place.room, place.weights, place.room.plus(RESULTS + (64 << 20)), place.room.plus(RESULTS));
    let kernel = Convolve { x, taps, carry, y, tokens, channels, width: 4, x_stride: channels };
    case(format!("{channels} channels, {tokens} tokens"), (channels * (8 * tokens + 40)) as usize, 0.0, kernel)
}

/// Channels of LFM2-8B-A1B.
const CHANNELS: u32 = 2048;

fn short_conv(place: Place, tokens: u32) -> Case {
    let (parts, taps, carry, y) = (place.room, place.weights, place.room.plus(RESULTS + (64 << 20)), place.room.plus(RESULTS));
    let kernel = ShortConv { parts, taps, carry, y, tokens, channels: CHANNELS, width: 3, stride: 3 * CHANNELS };
    case(format!("{CHANNELS} channels, {tokens} tokens"), (CHANNELS * (16 * tokens + 28)) as usize, 0.0, kernel)
}

fn delta_rule(place: Place, tokens: u32) -> Case {
    let (keys, values, dim) = DELTA;
    let (state, y) = (place.room.plus(RESULTS + (64 << 20)), place.room.plus(RESULTS));
    let kernel = DeltaRule {
        mixed: place.room,
        alpha: place.room,
        beta: place.room,
        bias: place.room,
        rate: place.weights,
        state,
        y,
        tokens,
        keys,
        values,
        key_dim: dim,
        value_dim: dim,
        alpha_stride: values,
        beta_stride: values,
        eps: 1e-6,
    };
    let flops = 8.0 * f64::from(tokens) * f64::from(values * dim * dim);
    case(format!("{values} heads of {dim}, {tokens} tokens"), (values * dim * dim * 8) as usize, flops, kernel)
}

fn gated_norm(place: Place) -> Case {
    let (x, gate, weight, y) = (place.room, place.room, place.weights, place.room.plus(RESULTS));
    let (_, heads, dim) = DELTA;
    let kernel = GatedNorm { x, gate, weight, place: Address::NONE, y, tokens: 1, heads, dim, gate_stride: 0, eps: 1e-6, pad: 0 };
    case(format!("{heads} heads of {dim}"), (heads * dim * 12) as usize, 0.0, kernel)
}

fn glu(place: Place) -> Case {
    let (gate, up, y) = (place.room, place.room.plus((FF * 4) as usize), place.room.plus(RESULTS));
    case(format!("1 x {FF}"), (FF * 12) as usize, 0.0, Glu { gate, up, y, tokens: 1, len: FF, stride: 2 * FF, activation: 0 })
}
