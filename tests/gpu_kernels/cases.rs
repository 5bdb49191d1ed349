//! Each kernel but those of attention over ranges of shapes.

use crate::host::Arena;
use rotary::gguf::GgmlType;
use rotary::gpu::params::{tiled as tiled_row, *};
use rotary::gpu::Address;

pub(crate) const NONE: Address = Address::NONE;
/// What f32 sums of a few hundred to thousand products may differ by from the exact sum, as a part of the greatest result.
pub(crate) const SUM: f32 = 3e-6;
/// The same of products of halves: weights and activations are rounded to eleven bits, each an error of 1.4e-4 of a product on average, of random sign, so
/// about 2e-4 of a typical sum; the greatest result is some three times that sum, and the worst of thousands of errors four times the usual one.
pub(crate) const HALVES: f32 = 6e-4;
/// What a handful of f32 operations may differ by.
pub(crate) const FEW: f32 = 1e-6;

/// Every type that the kernels have.
fn types() -> Vec<GgmlType> {
    let all: Vec<_> = GgmlType::all().filter(|t| rotary::kernels::supported(*t)).collect();
    assert_eq!(all.len(), 25);
    all
}

/// What tiled products may differ by: quantized weights are multiplied as halves.
fn tiled(types: &[GgmlType]) -> f32 {
    if types.iter().any(|t| t.block_elems() == 1) {
        SUM
    } else {
        HALVES
    }
}

/// What products of one row of activations may differ by: of halves, an error of 2e-4 of a typical sum, six times that at worst, where the greatest of a few
/// rows is hardly more than a typical one.
fn of_one_row(tiled: bool) -> f32 {
    if tiled {
        2.0 * HALVES
    } else {
        SUM
    }
}

/// A row length that the type allows, about `n`; plain types get odd ones too.
fn cols(a: &mut Arena, ty: GgmlType, n: usize) -> usize {
    match ty.block_elems() {
        1 => [n, n / 8 * 8 + 8][a.below(2)],
        b => n.div_ceil(b) * b,
    }
}

#[test]
fn weights_have_the_values_of_the_cpu_tier_bit_for_bit_where_nothing_is_added() {
    // With a single 1 in x the product is one weight: exact but for the fused offset, in all columns of all types.
    for ty in types() {
        let mut a = Arena::new(7);
        let n = if ty.block_elems() == 1 { 40 } else { 256 };
        let w = a.weights(ty, 8, n);
        let mut exact = vec![0.0; 8 * n];
        rotary::kernels::dequantize(ty, &w, &mut exact).unwrap();
        let scale = exact.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let mut x = vec![0.0f32; n];
        let offsets = matches!(ty, GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q2K | GgmlType::Q4K | GgmlType::Q5K);
        for c in 0..n {
            x.fill(0.0);
            x[c] = 1.0;
            let mut b = Arena::new(1);
            let (weight, x, y) = (b.put(&w), b.put(&x), b.floats(8));
            let job = MatJob { weight, y, ty: ty.number(), rows: 8, y_stride: 8, ..MatJob::default() };
            let k = MatVec { x, cols: n as u32, tokens: 1, x_stride: n as u32, jobs: 1, blocks: 1, job: [job; 6], ..MatVec::default() };
            let got = b.result(&k, y, 8);
            for r in 0..8 {
                let want = exact[r * n + c];
                let close = if offsets { (got[r] - want).abs() <= 1e-7 * scale } else { got[r] == want };
                assert!(close, "{ty:?} row {r} column {c}: {} instead of {want}", got[r]);
            }
        }
    }
}

#[test]
fn matvec_of_every_type_with_one_to_eight_tokens() {
    for (i, ty) in types().into_iter().enumerate() {
        for tokens in 1..=8u32 {
            let a = &mut Arena::new(100 * i as u64 + u64::from(tokens));
            let n = [32, 300, 768, 1100, 2304, 4096][a.below(6)];
            let cols = cols(a, ty, n);
            let stride = if ty.block_elems() == 1 && a.coin() { cols + 3 } else { cols.next_multiple_of(4) + 8 };
            let x = a.noise(8 * stride, 1.0);
            let (mut jobs, mut outputs) = (Vec::new(), Vec::new());
            let split = a.below(3) as u32;
            let mut k = MatVec { x, cols: cols as u32, tokens, x_stride: stride as u32, split, ..MatVec::default() };
            for j in 0..1 + a.below(3) {
                let rows = 1 + a.below(37);
                let w = a.weights(ty, rows, cols);
                let y_stride = rows + a.below(3);
                let y = if j % 2 == 0 { a.noise(8 * y_stride, 1.0) } else { a.floats(8 * y_stride) };
                let scale_stride = 1 + a.below(3);
                jobs.push(MatJob {
                    weight: a.put(&w),
                    bias: if a.coin() { a.noise(rows, 1.0) } else { NONE },
                    y,
                    scale: if a.coin() { a.noise(8 * scale_stride, 2.0) } else { NONE },
                    ty: ty.number(),
                    rows: rows as u32,
                    y_stride: y_stride as u32,
                    accumulate: (j % 2 == 0).into(),
                    scale_stride: scale_stride as u32,
                    first_block: k.blocks,
                });
                k.blocks += k.blocks_of(ty.number(), rows as u32);
                outputs.push(a.output(y, 8 * y_stride, of_one_row(tokens == 1 && MatVec::tiled(ty.number(), cols as u32))));
            }
            k.jobs = jobs.len() as u32;
            jobs.resize(6, MatJob::default());
            k.job = jobs.try_into().unwrap();
            a.check(&k, &outputs);
        }
    }
}

#[test]
fn a_row_times_silu_of_another_goes_through_tiles() {
    for ty in types().into_iter().filter(|ty| MatVec::tiled(ty.number(), 256)) {
        for cols in [256usize, 1280, 2304] {
            let a = &mut Arena::new(cols as u64);
            let rows = 45;
            let w = a.weights(ty, rows, cols);
            let (weight, x, gate, y) = (a.put(&w), a.noise(cols, 1.0), a.noise(cols, 3.0), a.noise(rows, 1.0));
            let job = MatJob { weight, y, ty: ty.number(), rows: rows as u32, y_stride: rows as u32, accumulate: 1, ..MatJob::default() };
            let mut k =
                MatVec { x, gate, cols: cols as u32, tokens: 1, x_stride: cols as u32, jobs: 1, job: [job; 6], ..MatVec::default() };
            k.blocks = k.blocks_of(job.ty, job.rows);
            let out = a.output(y, rows, of_one_row(true));
            a.check(&k, &[out]);
        }
    }
}

#[test]
fn products_agree_with_the_cpu_tier_as_far_as_its_rounded_activations_allow() {
    use rotary::kernels::{matmul, Activations, Job, Pool};
    for ty in types() {
        let a = &mut Arena::new(3);
        let (rows, cols) = (24, 1024);
        let w = a.weights(ty, rows, cols);
        let values: Vec<f32> = (0..cols).map(|_| a.below(2001) as f32 / 1000.0 - 1.0).collect();
        let (weight, x, y) = (a.put(&w), a.put(&values), a.floats(rows));
        let job = MatJob { weight, y, ty: ty.number(), rows: rows as u32, y_stride: rows as u32, ..MatJob::default() };
        let mut k = MatVec { x, cols: cols as u32, tokens: 1, x_stride: cols as u32, jobs: 1, job: [job; 6], ..MatVec::default() };
        k.blocks = k.blocks_of(job.ty, job.rows);
        let got = a.result(&k, y, rows);
        let (mut input, mut out) = (Activations::default(), vec![0.0; rows]);
        input.set(&values, 1, cols);
        matmul(&Pool::new(1), &mut input, &mut [Job { ty, rows, weights: &w, pick: None, out: &mut out }]).unwrap();
        // Eight bits for activations: an error of up to 1/254 of the largest in each product, of random signs.
        let largest = out.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (g, c) in got.iter().zip(&out) {
            assert!((g - c).abs() <= 0.01 * largest, "{ty:?}: {g}, the CPU tier has {c}");
        }
    }
}

#[test]
fn matmul_of_every_type_in_whole_and_broken_tiles() {
    for (i, ty) in types().into_iter().enumerate() {
        for (tokens, rows) in [(1, 1), (9, 150), (64, 128), (130, 5)] {
            let a = &mut Arena::new(i as u64);
            let n = 60 + a.below(300);
            let cols = cols(a, ty, n);
            let stride = if ty.block_elems() == 1 { cols + a.below(4) } else { cols + 4 };
            let w = a.weights(ty, rows, cols);
            let y_stride = rows + 1;
            let accumulate = a.coin();
            let y = if accumulate { a.noise(tokens * y_stride, 1.0) } else { a.floats(tokens * y_stride) };
            let job = MatJob {
                weight: a.put(&w),
                bias: if a.coin() { a.noise(rows, 1.0) } else { NONE },
                y,
                scale: if a.coin() { a.noise(tokens * 2, 2.0) } else { NONE },
                ty: ty.number(),
                rows: rows as u32,
                y_stride: y_stride as u32,
                accumulate: accumulate.into(),
                scale_stride: 2,
                first_block: 0,
            };
            let x = a.noise(tokens * stride, 1.0);
            // A single result may be small beside the products that it is the sum of.
            let alone = if tokens * rows == 1 && ty.block_elems() > 1 { 5.0 } else { 1.0 };
            let out = a.output(y, tokens * y_stride, alone * tiled(&[ty]));
            a.check(&MatMul { x, cols: cols as u32, tokens: tokens as u32, x_stride: stride as u32, pad: 0, job }, &[out]);
        }
    }
}

/// A slab of experts with gate, up and down at multiples of 16.
struct Slab {
    at: Address,
    slot_bytes: u64,
    up_at: u64,
    down_at: u64,
}

fn slab(a: &mut Arena, slots: usize, types: [GgmlType; 3], inner: usize, hidden: usize) -> Slab {
    let mut bytes = Vec::new();
    let (mut up_at, mut down_at, mut slot_bytes) = (0, 0, 0);
    for _ in 0..slots {
        let from = bytes.len();
        bytes.extend(a.weights(types[0], inner, hidden));
        bytes.resize(bytes.len().next_multiple_of(16), 0xff);
        up_at = bytes.len() - from;
        bytes.extend(a.weights(types[1], inner, hidden));
        bytes.resize(bytes.len().next_multiple_of(16), 0xff);
        down_at = bytes.len() - from;
        bytes.extend(a.weights(types[2], hidden, inner));
        bytes.resize(bytes.len().next_multiple_of(16), 0xff);
        slot_bytes = bytes.len() - from;
    }
    Slab { at: a.put(&bytes), slot_bytes: slot_bytes as u64, up_at: up_at as u64, down_at: down_at as u64 }
}

/// Biases of gate and up, or none.
fn biases(a: &mut Arena, len: usize) -> Address {
    if a.coin() {
        a.noise(len, 8.0)
    } else {
        NONE
    }
}

#[test]
fn experts_in_slots_one_token_to_eight() {
    for (i, ty) in types().into_iter().enumerate() {
        for (tokens, most) in [(1, 10), (3, 4), (8, 8)] {
            let a = &mut Arena::new(i as u64);
            let up_ty = if a.coin() { ty } else { a.one_of(&[GgmlType::Q6K, GgmlType::Q8_0, GgmlType::F16]) };
            // Widths that both types allow.
            let (hidden, rows) = ([256, 768, 2048, 4352][a.below(4)], [256, 768][a.below(2)]);
            let (slots, top_k) = (3, 1 + a.below(most));
            let s = slab(a, slots, [ty, up_ty, ty], rows, hidden);
            let ids: Vec<i32> = (0..tokens * top_k).map(|_| a.below(slots + 1) as i32 - 1).collect();
            let slot_of = a.put(&ids);
            let stride = hidden + 4;
            let x = a.noise(tokens * stride, 1.0);
            let inner = a.floats(tokens * top_k * rows);
            let up = ExpertsUp {
                slab: s.at,
                slot_bytes: s.slot_bytes,
                gate_at: 0,
                up_at: s.up_at,
                slots: slot_of,
                x,
                inner,
                pairs: (tokens * top_k) as u32,
                top_k: top_k as u32,
                rows: 13,
                cols: hidden as u32,
                gate_ty: ty.number(),
                up_ty: up_ty.number(),
                x_stride: stride as u32,
                pad: 0,
            };
            // A product of two such sums.
            let close = of_one_row(ty == up_ty && tiled_row(ty.number(), hidden as u32));
            let out = a.output(inner, tokens * top_k * rows, close.max(2.0 * close - SUM));
            a.check(&up, &[out]);
            // Some of a pair's rows stay as they were.
            let experts: Vec<u32> = (0..tokens * top_k).map(|_| a.below(6) as u32).collect();
            let (ids, bias, activation) = (a.put(&experts), biases(a, 6 * 2 * 13), a.below(3) as u32);
            let out = a.output(inner, tokens * top_k * rows, close.max(2.0 * close - SUM));
            a.check(&BiasedUp { of: up, ids, bias, activation, pad: 0 }, &[out]);
            let (y, weights) = (a.noise(tokens * 303, 1.0), a.noise(tokens * top_k, 1.0));
            let (bias, k) = (a.noise(6 * 301, 1.0), top_k as u32);
            let added = RoutedBias { ids, weights, bias, y, tokens: tokens as u32, top_k: k, cols: 301, y_stride: 303 };
            let out = a.output(y, tokens * 303, FEW);
            a.check(&added, &[out]);
            let inner = a.noise(tokens * top_k * rows, 1.0);
            let y = a.noise(tokens * 24, 1.0);
            let down = ExpertsDown {
                slab: s.at,
                slot_bytes: s.slot_bytes,
                down_at: s.down_at,
                slots: slot_of,
                weights: a.noise(tokens * top_k, 1.0),
                inner,
                y,
                tokens: tokens as u32,
                top_k: top_k as u32,
                rows: 21,
                cols: rows as u32,
                ty: ty.number(),
                y_stride: 24,
            };
            let out = a.output(y, tokens * 24, of_one_row(tiled_row(ty.number(), rows as u32)));
            a.check(&down, &[out]);
        }
    }
}

#[test]
fn experts_grouped_for_many_tokens() {
    for (i, ty) in types().into_iter().enumerate() {
        let a = &mut Arena::new(i as u64);
        let up_ty = if a.coin() { ty } else { GgmlType::Q5K };
        let (hidden, rows, tokens) = (256, if a.coin() { 32 } else { 70 }, 90);
        // Down has rows of 256.
        let s = slab(a, 3, [ty, up_ty, ty], 256, hidden);
        let sizes = [1, 100, 37];
        let (mut groups, mut tile_group, mut tile_begin, mut begin) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (g, size) in sizes.into_iter().enumerate() {
            for first in (0..size).step_by(64) {
                tile_group.push(g as u32);
                tile_begin.push(begin + first);
            }
            groups.push(Group { slot: 2 - g as u32, begin, end: begin + size });
            begin += size;
        }
        let pairs = begin as usize;
        let token_of: Vec<u32> = (0..pairs).map(|_| a.below(tokens) as u32).collect();
        let (groups, tiles) = (a.put(&groups), tile_group.len() as u32);
        let (tile_group, tile_begin, token_of) = (a.put(&tile_group), a.put(&tile_begin), a.put(&token_of));
        let x = a.noise(tokens * (hidden + 4), 1.0);
        let inner = a.floats(pairs * rows);
        let up = GroupedUp {
            slab: s.at,
            slot_bytes: s.slot_bytes,
            gate_at: 0,
            up_at: s.up_at,
            groups,
            tile_group,
            tile_begin,
            token_of,
            x,
            inner,
            tiles,
            rows: rows as u32,
            cols: hidden as u32,
            gate_ty: ty.number(),
            up_ty: up_ty.number(),
            x_stride: hidden as u32 + 4,
        };
        // A product of two of them.
        let written = a.output(inner, pairs * rows, 2.0 * tiled(&[ty, up_ty]));
        a.check(&up, &[written]);
        let (experts, bias, activation) = (a.put(&[4u32, 0, 2]), biases(a, 5 * 2 * rows), a.below(3) as u32);
        let written = a.output(inner, pairs * rows, 2.0 * tiled(&[ty, up_ty]));
        a.check(&BiasedGroupedUp { of: up, experts, bias, activation, pad: 0 }, &[written]);
        let inner = a.noise(pairs * 256, 1.0);
        let out = a.floats(pairs * 140);
        let down = GroupedDown {
            slab: s.at,
            slot_bytes: s.slot_bytes,
            down_at: s.down_at,
            groups,
            tile_group,
            tile_begin,
            inner,
            out,
            tiles,
            rows: 140,
            cols: 256,
            ty: ty.number(),
        };
        let written = a.output(out, pairs * 140, tiled(&[ty]));
        a.check(&down, &[written]);
    }
}

#[test]
fn tiles_of_halves_take_activations_of_any_size_and_no_token_sees_another() {
    for ty in [GgmlType::Q4K, GgmlType::Q6K, GgmlType::Q8_0, GgmlType::Q4_0] {
        let (rows, cols, tokens) = (40, if ty.block_elems() == 32 { 480 } else { 512 }, 70);
        let a = &mut Arena::new(11);
        let w = a.weights(ty, rows, cols);
        // Rows of all sizes, some growing or shrinking along the way by more than a half can hold; one of zeros, one that is infinite in one place.
        let values: Vec<f32> = (0..tokens * cols)
            .map(|i| {
                let (t, c) = (i / cols, i % cols);
                let along = [0.0, 8.0, -8.0, 60.0][t % 4] * (c as f32 / cols as f32);
                (a.below(2001) as f32 / 1000.0 - 1.0) * 10f32.powf((along + (t as f32 - 35.0) / 3.0).min(30.0))
            })
            .enumerate()
            .map(|(i, v)| match i / cols {
                8 => 0.0,
                9 if i % cols == 100 => f32::INFINITY,
                10 if i % cols == 100 => f32::NAN,
                11 => v * 1e-25,
                _ => v,
            })
            .collect();
        let (weight, x, y) = (a.put(&w), a.put(&values), a.floats(tokens * rows));
        let job = MatJob { weight, y, ty: ty.number(), rows: rows as u32, y_stride: rows as u32, ..MatJob::default() };
        let k = MatMul { x, cols: cols as u32, tokens: tokens as u32, x_stride: cols as u32, pad: 0, job };
        let got = a.result(&k, y, tokens * rows);
        let mut exact = vec![0.0; rows * cols];
        rotary::kernels::dequantize(ty, &w, &mut exact).unwrap();
        for (t, got) in got.chunks_exact(rows).enumerate() {
            let x = &values[t * cols..][..cols];
            if t == 9 || t == 10 {
                assert!(got.iter().all(|g| !g.is_finite()), "{ty:?} token {t}");
                continue;
            }
            for (g, w) in got.iter().zip(exact.chunks_exact(cols)) {
                let products = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                // Half a step of eleven bits in both factors; below 2^-14 a weight has steps of 2^-24.
                let allowed: f64 =
                    products().map(|p| p.abs() * 9.9e-4).sum::<f64>() + x.iter().map(|x| f64::from(x.abs()) * 3e-8).sum::<f64>();
                let want: f64 = products().sum();
                assert!((f64::from(*g) - want).abs() <= allowed, "{ty:?} token {t}: {g} instead of {want}");
            }
        }
        // Each token alone, to the bit.
        for t in [0, 1, 7, 8, 33, 64, 69] {
            let alone = a.floats(rows);
            let k = MatMul { x: x.plus(t * cols * 4), tokens: 1, job: MatJob { y: alone, ..job }, ..k };
            let alone = a.result(&k, alone, rows);
            assert!(alone.iter().zip(&got[t * rows..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{ty:?} token {t}");
        }
    }
}

#[test]
fn gather_adds_what_pairs_were_computed() {
    for (tokens, top_k, cols) in [(1, 1, 1), (3, 4, 300), (20, 8, 256)] {
        let a = &mut Arena::new(cols as u64);
        let pair_of: Vec<u32> = (0..tokens * top_k).map(|p| if a.below(3) == 0 { u32::MAX } else { p as u32 }).collect();
        let y = a.noise(tokens * (cols + 1), 1.0);
        let k = Gather {
            out: a.noise(tokens * top_k * cols, 1.0),
            pair_of: a.put(&pair_of),
            weights: a.noise(tokens * top_k, 1.0),
            y,
            tokens: tokens as u32,
            top_k: top_k as u32,
            cols: cols as u32,
            y_stride: cols as u32 + 1,
        };
        let out = a.output(y, tokens * (cols + 1), FEW);
        a.check(&k, &[out]);
    }
}

#[test]
fn norms_of_rows_and_pieces() {
    for (rows, pieces, len, limit) in [(1, 1, 2048, 0.0), (3, 4, 128, 0.0), (2, 1, 77, 0.5), (5, 1, 1, 0.0), (1, 2, 1000, 1.5)] {
        let a = &mut Arena::new(len as u64);
        let (x_piece, x_stride, y_stride) = (len + 2, pieces * (len + 2) + 1, pieces * len + 3);
        let y = a.floats(rows * y_stride);
        let k = RmsNorm {
            x: a.noise(rows * x_stride, 2.0),
            weight: a.noise(len, 1.0),
            y,
            rows: rows as u32,
            pieces: pieces as u32,
            len: len as u32,
            x_stride: x_stride as u32,
            x_piece: x_piece as u32,
            y_stride: y_stride as u32,
            eps: 1e-6,
            limit,
        };
        let out = a.output(y, rows * y_stride, FEW);
        a.check(&k, &[out]);
        // In place.
        let x = a.noise(rows * pieces * len, 2.0);
        let (stride, out) = ((pieces * len) as u32, a.output(x, rows * pieces * len, FEW));
        a.check(&RmsNorm { x, y: x, x_stride: stride, x_piece: len as u32, y_stride: stride, ..k }, &[out]);
    }
    for (tokens, heads, dim) in [(1, 1, 128), (3, 6, 32), (2, 3, 130)] {
        let a = &mut Arena::new(dim as u64);
        let places: Vec<u32> = (0..heads as u32).rev().collect();
        for placed in [false, true] {
            let y = a.floats(tokens * heads * dim);
            let k = GatedNorm {
                x: a.noise(tokens * heads * dim, 2.0),
                gate: a.noise(tokens * (heads * dim + 1), 3.0),
                weight: a.noise(dim, 1.0),
                place: if placed { a.put(&places) } else { NONE },
                y,
                tokens: tokens as u32,
                heads: heads as u32,
                dim: dim as u32,
                gate_stride: (heads * dim) as u32 + 1,
                eps: 1e-6,
                pad: 0,
            };
            let out = a.output(y, tokens * heads * dim, FEW);
            a.check(&k, &[out]);
        }
    }
}

#[test]
fn what_half_layers_gave_is_normalised_and_added() {
    for (len, beside) in [(1, false), (48, true), (256, true), (257, false), (2816, true)] {
        let a = &mut Arena::new(len as u64);
        let rows = 3;
        let [given, b, x] = [3, 4, 1].map(|more| a.noise(rows * (len + more), 2.0));
        let weight = a.noise(len, 1.0);
        let (a_weight, b_weight, b) = if beside { (a.noise(len, 1.0), a.noise(len, 1.0), b) } else { (NONE, NONE, NONE) };
        let [a_stride, b_stride, x_stride] = [3, 4, 1].map(|more| (len + more) as u32);
        let (rows, len) = (rows as u32, len as u32);
        let k = AddNormed {
            a: given,
            a_weight,
            b,
            b_weight,
            weight,
            x,
            rows,
            len,
            a_stride,
            b_stride,
            x_stride,
            eps: 4e-3,
            factor: 0.6,
            pad: 0,
        };
        let out = a.output(x, (rows * x_stride) as usize, FEW);
        a.check(&k, &[out]);
    }
}

#[test]
fn sums_gates_caps_and_the_watch_for_damage() {
    for len in [1, 255, 256, 1025] {
        let a = &mut Arena::new(len as u64);
        let (gate, up, y) = (a.noise(3 * (len + 1), 8.0), a.noise(3 * (len + 1), 1.0), a.floats(3 * len));
        for activation in 0..3 {
            let out = a.output(y, 3 * len, FEW);
            a.check(&Glu { gate, up, y, tokens: 3, len: len as u32, stride: len as u32 + 1, activation }, &[out]);
        }
        let y = a.noise(len, 1.0);
        a.check(&Add { x: gate, y, len: len as u32, pad: 0 }, &[]);
        for bad in [0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut x = vec![1.0f32; len];
            x[len - 1] = bad;
            let x = a.put(&x);
            let flag = a.put(&[4u32]);
            a.check(&Finite { x, flag, len: len as u32, pad: 0 }, &[]);
            let out = a.output(x, len, FEW);
            a.check(&SoftCap { x, len: len as u32, cap: 1.5 }, &[out]);
        }
    }
}

#[test]
fn routes_with_ties_and_numbers_that_are_none() {
    for (case, (experts, top_k)) in [(1, 1), (4, 2), (60, 4), (128, 8), (257, 8), (512, 10), (1024, 16)].into_iter().enumerate() {
        let a = &mut Arena::new(case as u64);
        let mut scores: Vec<f32> = (0..8 * experts).map(|_| a.below(200) as f32 / 20.0 - 5.0).collect();
        // Row 1 has equal scores only, 2 a NaN, 3 NaN only, 4 minus infinity only, 5 plus infinity twice, 6 negative zeros among zeros.
        scores[experts..2 * experts].fill(0.5);
        scores[2 * experts + experts / 2] = f32::NAN;
        scores[3 * experts..4 * experts].fill(f32::NAN);
        scores[4 * experts..5 * experts].fill(f32::NEG_INFINITY);
        scores[5 * experts] = f32::INFINITY;
        scores[6 * experts - 1] = f32::INFINITY;
        for (i, s) in scores[6 * experts..7 * experts].iter_mut().enumerate() {
            *s = if i % 2 == 0 { -0.0 } else { 0.0 };
        }
        let table: Vec<i32> = (0..experts as i32).map(|e| if e % 3 == 0 { -1 } else { e / 2 }).collect();
        for (renormalise, scale, tabled, sigmoid) in
            [(0, 1.0, true, 0), (1, 2.5, true, 0), (1, 1.0, false, 0), (1, 1.8, true, 1), (0, 1.0, true, 1)]
        {
            let (ids, weights, slots) = (a.floats(8 * top_k), a.floats(8 * top_k), a.floats(8 * top_k));
            let k = Route {
                scores: a.put(&scores),
                table: if tabled { a.put(&table) } else { NONE },
                ids,
                weights,
                slots,
                tokens: 8,
                experts: experts as u32,
                top_k: top_k as u32,
                renormalise,
                scale,
                sigmoid,
                factors: if a.coin() { a.noise(experts, 1.0) } else { NONE },
                bias: if sigmoid == 1 { a.noise(experts, 0.5) } else { NONE },
            };
            let out = a.output(weights, 8 * top_k, FEW);
            a.check(&k, &[out]);
        }
    }
}

#[test]
fn maps_of_single_heads_of_every_type() {
    for (i, ty) in types().into_iter().enumerate() {
        for tokens in [1, 3, 9] {
            let a = &mut Arena::new(i as u64);
            let (heads, rows, cols) = (3usize, [5, 16, 37][a.below(3)], cols(a, ty, 256));
            let weight = a.weights(ty, heads * rows, cols);
            let weight = a.put(&weight);
            let (x_head, y_head) = (cols.next_multiple_of(4) + 4, rows + 2);
            let (x_stride, y_stride) = (heads * x_head + 4, heads * y_head + 1);
            let (x, y) = (a.noise(tokens * x_stride, 1.0), a.floats(tokens * y_stride));
            let k = HeadMaps {
                weight,
                x,
                y,
                ty: ty.number(),
                heads: heads as u32,
                rows: rows as u32,
                cols: cols as u32,
                tokens: tokens as u32,
                x_stride: x_stride as u32,
                x_head: x_head as u32,
                y_stride: y_stride as u32,
                y_head: y_head as u32,
                pad: 0,
            };
            let out = a.output(y, tokens * y_stride, SUM);
            a.check(&k, &[out]);
        }
    }
}

#[test]
fn convolutions_carry_their_last_inputs_on() {
    for (tokens, channels, width) in
        [(1, 1, 1), (1, 200, 4), (2, 130, 4), (7, 128, 4), (3, 5, 8), (20, 33, 2), (32, 9, 4), (33, 5, 8), (70, 3, 4), (40, 2, 1)]
    {
        let a = &mut Arena::new(channels as u64);
        let (y, carry) = (a.floats(tokens * channels), a.noise((width - 1) * channels, 1.0));
        let k = Convolve {
            x: a.noise(tokens * (channels + 3), 1.0),
            taps: a.noise(width * channels, 1.0),
            carry,
            y,
            tokens: tokens as u32,
            channels: channels as u32,
            width: width as u32,
            x_stride: channels as u32 + 3,
        };
        let out = a.output(y, tokens * channels, FEW);
        a.check(&k, &[out]);
    }
}

#[test]
fn gated_convolutions_carry_their_last_products_on() {
    for (tokens, channels, width) in
        [(1, 1, 1), (1, 200, 3), (2, 130, 3), (7, 128, 4), (3, 5, 8), (20, 33, 2), (32, 9, 3), (33, 5, 8), (70, 3, 4), (40, 2, 1)]
    {
        let a = &mut Arena::new(channels as u64 + 7);
        let (y, carry) = (a.floats(tokens * channels), a.noise((width - 1) * channels, 1.0));
        let k = ShortConv {
            parts: a.noise(tokens * (3 * channels + 5), 1.0),
            taps: a.noise(width * channels, 1.0),
            carry,
            y,
            tokens: tokens as u32,
            channels: channels as u32,
            width: width as u32,
            stride: 3 * channels as u32 + 5,
        };
        let out = a.output(y, tokens * channels, FEW);
        a.check(&k, &[out]);
    }
}

#[test]
fn delta_rules_keep_their_state() {
    for (tokens, keys, values, key_dim, value_dim) in
        [(1, 1, 1, 128, 128), (4, 2, 6, 16, 40), (3, 1, 2, 100, 8), (2, 1, 1, 256, 33), (40, 1, 2, 64, 64)]
    {
        let a = &mut Arena::new(tokens as u64);
        let channels = 2 * keys * key_dim + values * value_dim;
        let (state, y) = (a.noise(values * key_dim * value_dim, 0.5), a.floats(tokens * values * value_dim));
        let k = DeltaRule {
            mixed: a.noise(tokens * channels, 1.0),
            alpha: a.noise(tokens * (values + 1), 2.0),
            beta: a.noise(tokens * (values + 2), 2.0),
            bias: a.noise(values, 1.0),
            rate: a.put(&vec![-0.4f32; values]),
            state,
            y,
            tokens: tokens as u32,
            keys: keys as u32,
            values: values as u32,
            key_dim: key_dim as u32,
            value_dim: value_dim as u32,
            alpha_stride: values as u32 + 1,
            beta_stride: values as u32 + 2,
            eps: 1e-6,
        };
        let out = [a.output(state, values * key_dim * value_dim, 2.0 * FEW), a.output(y, tokens * values * value_dim, 2.0 * FEW)];
        a.check(&k, &out);
    }
}
