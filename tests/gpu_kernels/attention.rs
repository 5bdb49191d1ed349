//! The kernels of attention over ranges of shapes.

use crate::cases::{FEW, HALVES, NONE, SUM};
use crate::host::Arena;
use rotary::gpu::params::*;
use rotary::gpu::Address;

/// Halves from -1 to 1.
fn halves(a: &mut Arena, len: usize) -> Address {
    let values: Vec<u16> = (0..len).map(|_| half::f16::from_f32(a.below(2001) as f32 / 1000.0 - 1.0).to_bits()).collect();
    a.put(&values)
}

#[test]
fn heads_are_clamped_normalised_turned_and_stored() {
    for (case, (key_dim, value_dim, half)) in
        [(128, 128, 64), (64, 64, 16), (33, 20, 16), (256, 256, 32), (8, 4, 0)].into_iter().enumerate()
    {
        for wide in [0, 1] {
            let a = &mut Arena::new(case as u64);
            // A ring begins anew within the pass.
            let ring = u32::from(case % 2 == 1);
            let (tokens, heads, groups, context, position) = (3, 4, 2, 9, if ring == 1 { 25 } else { 5u32 });
            let (q_head, normed) = (key_dim + 1, case % 2 == 0);
            let (q_stride, k_stride, v_stride) = (heads * q_head, groups * key_dim + 2, groups * value_dim + 1);
            let q_out = a.floats(tokens * heads * key_dim);
            let width = if wide == 1 { 4 } else { 2 };
            let (keys, values) = (a.room(groups * context * key_dim * width), a.room(groups * context * value_dim * width));
            let k = Rotate {
                q: a.noise(tokens * q_stride, 2.0),
                k: a.noise(tokens * k_stride, 2.0),
                v: a.noise(tokens * v_stride, 2.0),
                q_norm: if normed { a.noise(key_dim, 1.0) } else { NONE },
                k_norm: if normed { a.noise(key_dim, 1.0) } else { NONE },
                angles: a.noise(tokens * 2 * half, 1.0),
                q_out,
                keys,
                values,
                position: a.put(&[position]),
                tokens: tokens as u32,
                heads: heads as u32,
                groups: groups as u32,
                key_dim: key_dim as u32,
                value_dim: value_dim as u32,
                half: half as u32,
                context: context as u32,
                wide,
                q_stride: q_stride as u32,
                q_head: q_head as u32,
                k_stride: k_stride as u32,
                v_stride: v_stride as u32,
                eps: 1e-6,
                limit: if case == 1 { 1.2 } else { 0.0 },
                limit_v: if case < 3 { 1.1 } else { 0.0 },
                ring,
            };
            let out = if wide == 1 {
                [a.output(keys, groups * context * key_dim, FEW), a.output(values, groups * context * value_dim, 0.0)]
            } else {
                // A value that lies between two halves may go to either; values are only clamped, so theirs are exact.
                [a.output_half(keys, groups * context * key_dim, 1e-3), a.output_half(values, groups * context * value_dim, 0.0)]
            };
            let [keys, values] = out;
            let out = a.output(q_out, tokens * heads * key_dim, FEW);
            a.check(&k, &[out, keys, values]);
        }
    }
}

#[test]
fn halves_are_rounded_as_the_format_says() {
    // Through the values of a cache: subnormal halves, ties, overflow, infinities, and what is no number.
    let mut v: Vec<f32> = (0..512).map(|i| f32::from_bits(0x3280_0000 + i * 0x0003_5ab1)).collect();
    v[0..12].copy_from_slice(&[
        0.0,
        -0.0,
        65504.0,
        65519.9,
        65520.0,
        -1e9,
        f32::INFINITY,
        5.96e-8,
        2.98e-8,
        2.9803e-8,
        6.1e-5,
        1.000_488_3,
    ]);
    v[12] = -6.104e-5;
    let a = &mut Arena::new(1);
    let values = a.room(512 * 2);
    let k = Rotate {
        v: a.put(&v),
        values,
        q: a.noise(8, 1.0),
        k: a.noise(8, 1.0),
        q_out: a.floats(8),
        keys: a.room(16),
        position: a.put(&[0u32]),
        angles: a.noise(2, 1.0),
        tokens: 1,
        heads: 1,
        groups: 1,
        key_dim: 8,
        value_dim: 512,
        context: 1,
        q_stride: 8,
        q_head: 8,
        k_stride: 8,
        v_stride: 512,
        ..Rotate::default()
    };
    let (q, keys) = (a.output(k.q_out, 8, FEW), a.output_half(k.keys, 8, 1e-3));
    a.check(&k, &[q, keys]);
}

#[test]
fn attention_over_splits_and_their_join() {
    let shapes = [
        (128, 128, 8, 2),
        (20, 36, 4, 1),
        (128, 64, 4, 2),
        (64, 64, 3, 3),
        (20, 12, 2, 1),
        (256, 256, 2, 1),
        (72, 40, 1, 1),
        (8, 512, 2, 2),
    ];
    for (case, (key_dim, value_dim, heads, groups)) in shapes.into_iter().enumerate() {
        for (wide, position, tokens, splits) in
            [(0, 0u32, 1, 1), (1, 4, 3, 8), (0, 127, 2, 1), (1, 300, 1, 4), (0, 259, 5, 3), (1, 500, 2, 1), (0, 470, 1, 13), (0, 96, 1, 96)]
        {
            let a = &mut Arena::new(case as u64);
            let context = position as usize + tokens + 1;
            let (keys, values) = if wide == 1 {
                (a.noise(groups * context * key_dim, 1.0), a.noise(groups * context * value_dim, 1.0))
            } else {
                (halves(a, groups * context * key_dim), halves(a, groups * context * value_dim))
            };
            let len = tokens * heads * splits * (2 + value_dim);
            let partial = a.floats(len);
            let k = Attention {
                q: a.noise(tokens * heads * key_dim, 2.0),
                keys,
                values,
                partial,
                position: a.put(&[position]),
                tokens: tokens as u32,
                heads: heads as u32,
                groups: groups as u32,
                key_dim: key_dim as u32,
                value_dim: value_dim as u32,
                context: context as u32,
                wide,
                splits: splits as u32,
                scale: 0.3,
                pad: 0,
            };
            let out = a.output(partial, len, SUM);
            a.check(&k, &[out]);
            for window in [1, 50, 4000] {
                let out = a.output(partial, len, SUM);
                a.check(&WindowAttention { of: k, window, pad: 0 }, &[out]);
            }
            // The join of what the reference wrote, one split of it empty.
            let mut parts: Vec<f32> = (0..len).map(|_| a.below(1000) as f32 / 500.0 - 0.9).collect();
            for (i, part) in parts.chunks_exact_mut(2 + value_dim).enumerate() {
                part[1] = part[1].abs() + 0.5;
                if splits > 1 && i % splits == splits - 1 {
                    part[0] = f32::NEG_INFINITY;
                    part[1..].fill(0.0);
                }
            }
            let y = a.floats(tokens * heads * value_dim);
            for gated in [false, true] {
                let k = JoinSplits {
                    partial: a.put(&parts),
                    gate: if gated { a.noise(tokens * (heads * (value_dim + 3) + 1), 3.0) } else { NONE },
                    y,
                    tokens: tokens as u32,
                    heads: heads as u32,
                    value_dim: value_dim as u32,
                    splits: splits as u32,
                    gate_stride: (heads * (value_dim + 3)) as u32 + 1,
                    gate_head: value_dim as u32 + 3,
                };
                let out = a.output(y, tokens * heads * value_dim, FEW);
                a.check(&k, &[out]);
                let out = a.output(y, tokens * heads * value_dim, FEW);
                let sinks = a.noise(heads, 3.0);
                a.check(&JoinSunk { of: k, sinks }, &[out]);
            }
        }
    }
}

#[test]
fn attention_of_windows_over_rings_token_by_token_and_in_tiles() {
    let shapes = [(64, 64, 8, 1), (128, 96, 2, 2), (256, 256, 4, 2), (72, 40, 3, 1)];
    for (case, (key_dim, value_dim, heads, groups)) in shapes.into_iter().enumerate() {
        // Before the window is full, when it is, and several turns of the ring later; tiles that see nothing but their own positions.
        for (position, tokens, window, spare) in
            [(0u32, 20, 30, 0), (25, 12, 30, 9), (333, 33, 50, 3), (1000, 70, 1, 0), (640, 9, 128, 100)]
        {
            let a = &mut Arena::new(case as u64);
            let context = window + tokens as u32 - 1 + spare;
            let rows = tokens * heads;
            let room = groups * context as usize;
            let (keys, values, sinks) = (halves(a, room * key_dim), halves(a, room * value_dim), a.noise(heads, 3.0));
            let (splits, partial) = (3, a.floats(rows * 3 * (2 + value_dim)));
            let (q, at) = (a.noise(rows * key_dim, 2.0), a.put(&[position]));
            let (tokens, heads, groups, key_dim, value_dim) =
                (tokens as u32, heads as u32, groups as u32, key_dim as u32, value_dim as u32);
            let (wide, scale, pad) = (0, 0.3, 0);
            let of = Attention {
                q,
                keys,
                values,
                partial,
                position: at,
                tokens,
                heads,
                groups,
                key_dim,
                value_dim,
                context,
                wide,
                splits,
                scale,
                pad,
            };
            let out = a.output(partial, rows * 3 * (2 + value_dim as usize), SUM);
            a.check(&WindowAttention { of, window, pad }, &[out]);
            let y = a.floats(rows * value_dim as usize);
            let gate = if case % 2 == 0 { a.noise(rows * value_dim as usize, 2.0) } else { NONE };
            let (gate_stride, gate_head, partial, splits) = (heads * value_dim, value_dim, NONE, 1);
            let of = ChunkAttention {
                q,
                keys,
                values,
                partial,
                gate,
                y,
                position: at,
                tokens,
                heads,
                groups,
                key_dim,
                value_dim,
                context,
                splits,
                gate_stride,
                gate_head,
                scale,
            };
            for sinks in [NONE, sinks] {
                let out = a.output(y, rows * value_dim as usize, 2.0 * HALVES);
                a.check(&WindowChunkAttention { of, sinks, window, pad }, &[out]);
            }
        }
    }
}

#[test]
fn latent_rows_are_normalised_turned_and_kept_and_queries_turned() {
    for (case, (rank, turned, wide)) in [(512, 64, 0), (100, 6, 1), (7, 2, 0), (256, 0, 1)].into_iter().enumerate() {
        let a = &mut Arena::new(case as u64);
        let (tokens, heads, plain, position, context) = (3usize, 5usize, 12usize, 4u32, 9usize);
        let width = rank + turned;
        let (q_head, down_stride) = (plain + turned, width + 3);
        let q_stride = heads * q_head + 1;
        let (q_out, rows) = (a.floats(tokens * heads * width), a.room(context * width * if wide == 1 { 4 } else { 2 }));
        let k = LatentRows {
            q: a.noise(tokens * q_stride, 2.0).plus(plain * 4),
            down: a.noise(tokens * down_stride, 2.0),
            norm: a.noise(rank, 1.0),
            angles: a.noise(tokens * turned.max(1), 1.0),
            q_out,
            rows,
            position: a.put(&[position]),
            tokens: tokens as u32,
            heads: heads as u32,
            rank: rank as u32,
            turned: turned as u32,
            context: context as u32,
            wide,
            q_stride: q_stride as u32,
            q_head: q_head as u32,
            down_stride: down_stride as u32,
            eps: 1e-5,
        };
        let kept = if wide == 1 { a.output(rows, context * width, FEW) } else { a.output_half(rows, context * width, 1e-3) };
        let q = a.output(q_out, tokens * heads * width, FEW);
        a.check(&k, &[q, kept]);
    }
}

#[test]
fn attention_to_keys_with_their_values_inside() {
    for (case, (key_dim, value_dim, heads)) in [(576, 512, 4), (106, 100, 3), (640, 8, 8)].into_iter().enumerate() {
        for (wide, position, tokens, splits) in [(0, 0u32, 1, 1), (1, 4, 3, 8), (0, 300, 1, 5), (1, 130, 2, 1)] {
            let a = &mut Arena::new(case as u64);
            let context = position + tokens + 1;
            let len = (tokens * heads * splits * (2 + value_dim)) as usize;
            let room = (context * key_dim) as usize;
            let keys = if wide == 1 { a.noise(room, 1.0) } else { halves(a, room) };
            let (q, at, partial) = (a.noise((tokens * heads * key_dim) as usize, 2.0), a.put(&[position]), a.floats(len));
            let (position, values, groups, scale, pad) = (at, NONE, 1, 0.2, 0);
            let of = Attention {
                q,
                keys,
                values,
                partial,
                position,
                tokens,
                heads,
                groups,
                key_dim,
                value_dim,
                context,
                wide,
                splits,
                scale,
                pad,
            };
            let out = a.output(partial, len, SUM);
            a.check(&LatentAttention { of }, &[out]);
        }
    }
}

#[test]
fn attention_of_chunks_in_tiles() {
    let shapes = [(256, 256, 8, 1), (128, 128, 4, 1), (64, 64, 3, 3), (8, 16, 4, 2), (72, 40, 6, 2), (136, 200, 2, 1), (24, 128, 5, 1)];
    for (case, (key_dim, value_dim, heads, groups)) in shapes.into_iter().enumerate() {
        let chunks = [
            (0u32, 9, 1, true),
            (330, 20, 3, false),
            (150, 33, 1, true),
            (40, 11, 2, false),
            (63, 17, 1, false),
            (300, 10, 13, false),
            (200, 12, 1, false),
        ];
        // Each shape has some of them, each of them some shapes.
        for (position, tokens, splits, gated) in (0..2).map(|i| chunks[(case + 3 * i) % chunks.len()]) {
            let a = &mut Arena::new(case as u64);
            let context = position as usize + tokens + 1;
            // What lies beyond the chunk's end may be anything, also no number.
            let cache = |a: &mut Arena, dim: usize| -> Address {
                let at = |i: usize| i / dim % context;
                let value = |a: &mut Arena, i| if at(i) + 1 < context { a.below(2001) as f32 / 1000.0 - 1.0 } else { f32::NAN };
                let values: Vec<u16> = (0..groups * context * dim).map(|i| half::f16::from_f32(value(a, i)).to_bits()).collect();
                a.put(&values)
            };
            let (keys, values) = (cache(a, key_dim), cache(a, value_dim));
            let (pieces, rows) = (tokens * heads * splits, tokens * heads);
            let (partial, y) = (a.floats(pieces * (2 + value_dim)), a.floats(rows * value_dim));
            let k = ChunkAttention {
                q: a.noise(rows * key_dim, 2.0),
                keys,
                values,
                partial,
                gate: if gated { a.noise(tokens * (heads * (value_dim + 3) + 1), 3.0) } else { NONE },
                y,
                position: a.put(&[position]),
                tokens: tokens as u32,
                heads: heads as u32,
                groups: groups as u32,
                key_dim: key_dim as u32,
                value_dim: value_dim as u32,
                context: context as u32,
                splits: splits as u32,
                gate_stride: (heads * (value_dim + 3)) as u32 + 1,
                gate_head: value_dim as u32 + 3,
                scale: 2.0 / (key_dim as f32).sqrt(),
            };
            // A score of up to five is off as a product of halves is, and a weight by as much as its score; then the weights are rounded.
            let mut outputs = Vec::new();
            if splits == 1 {
                outputs.push(a.output(y, rows * value_dim, 2.0 * HALVES));
            } else {
                // Each range's greatest score, sum and output by themselves: they are of different sizes.
                for at in (0..pieces).map(|i| partial.plus(i * (2 + value_dim) * 4)) {
                    outputs.push(a.output(at, 1, HALVES));
                    outputs.push(a.output(at.plus(4), 1, 2.0 * HALVES));
                    outputs.push(a.output(at.plus(8), value_dim, 4.0 * HALVES));
                }
            }
            a.check(&k, &outputs);
        }
    }
}
