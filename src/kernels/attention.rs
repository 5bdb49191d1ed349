//! Grouped-query attention on the CPU over a cache of keys and values.
//!
//! Keys are visited in blocks with a running softmax (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention's
//! blocking), so the scores of a long context are never held at once. Blocks start at absolute positions, and every
//! query is computed by itself, so its result does not depend on how a prompt was cut into chunks.
#![allow(unsafe_code)]

use super::exp::exp;
use super::Pool;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// Keys in one block of the running softmax.
const BLOCK: usize = 64;
/// Query rows (tokens times heads of a group) that share one pass over the keys.
const QUERY_ROWS: usize = 64;

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads; a multiple of `groups`.
    pub query: usize,
    /// Key/value heads. Query head h uses key/value head `h / (query / groups)`.
    pub groups: usize,
    /// Values in a query or key head.
    pub key_dim: usize,
    /// Values in a value head.
    pub value_dim: usize,
}

/// Cached keys `[groups, context, key_dim]` and values `[groups, context, value_dim]`.
#[derive(Clone, Copy)]
pub enum Cached<'a> {
    /// 32-bit floats.
    F32 {
        /// Keys.
        keys: &'a [f32],
        /// Values.
        values: &'a [f32],
    },
    /// 16-bit floats.
    F16 {
        /// Keys.
        keys: &'a [f16],
        /// Values.
        values: &'a [f16],
    },
}

/// Causal attention of `tokens` queries `[tokens, query * key_dim]` at positions `position..` over the cache, which
/// already holds their keys and values. Writes `[tokens, query * value_dim]`.
///
/// `context` is the capacity of the cache (its stride), `scale` multiplies the scores.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    pool: &Pool,
    heads: Heads,
    cached: Cached<'_>,
    context: usize,
    queries: &[f32],
    position: usize,
    scale: f32,
    out: &mut [f32],
) {
    let per_group = heads.query / heads.groups;
    let row = heads.query * heads.key_dim;
    let tokens = queries.len().checked_div(row).unwrap_or(0);
    if tokens == 0 || out.is_empty() {
        return;
    }
    let block = (QUERY_ROWS / per_group).clamp(1, tokens);
    let blocks = tokens.div_ceil(block);
    // A single token has as many tasks as groups; with more threads than that, the heads of a group are split.
    let split = pool.threads().div_ceil(heads.groups * blocks).clamp(1, per_group);
    let part = per_group.div_ceil(split);
    let split = per_group.div_ceil(part);
    // Pieces of `part` heads of one token; a lock each is how disjoint pieces travel to the threads without `unsafe`.
    let mut pieces: Vec<Mutex<&mut [f32]>> = Vec::with_capacity(tokens * heads.groups * split);
    for group in out.chunks_mut(per_group * heads.value_dim) {
        pieces.extend(group.chunks_mut(part * heads.value_dim).map(Mutex::new));
    }
    let run = select();
    pool.run(blocks * heads.groups * split, &|task| {
        let (task, piece) = (task / split, task % split);
        let (group, block_at) = (task % heads.groups, task / heads.groups);
        let first = block_at * block;
        let of_token = |t: usize| &pieces[(t * heads.groups + group) * split + piece];
        let head = group * per_group + piece * part;
        let count = part.min(per_group - piece * part);
        SCRATCH.with_borrow_mut(|scratch| {
            let tile =
                Tile { heads, cached, context, queries, group, head, count, first, last: (first + block).min(tokens), position, scale };
            run(&tile, scratch);
            for (i, t) in (first..tile.last).enumerate() {
                let mut piece = of_token(t).lock().unwrap_or_else(PoisonError::into_inner);
                let n = count * heads.value_dim;
                piece.copy_from_slice(&scratch.sums[i * n..(i + 1) * n]);
            }
        });
    });
}

/// The queries of one task: tokens `first..last`, heads `head..head + count` of one group.
struct Tile<'a> {
    heads: Heads,
    cached: Cached<'a>,
    context: usize,
    queries: &'a [f32],
    group: usize,
    head: usize,
    count: usize,
    first: usize,
    last: usize,
    position: usize,
    scale: f32,
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Running weighted sums, `[rows, value_dim]`; the result at the end.
    sums: Vec<f32>,
    max: Vec<f32>,
    total: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

type Run = fn(&Tile<'_>, &mut Scratch);

/// The fastest form of the kernel that this processor runs.
fn select() -> Run {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features that the function is compiled for were just detected.
        return |tile, scratch| unsafe { run_avx2(tile, scratch) };
    }
    run::<false>
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(tile: &Tile<'_>, scratch: &mut Scratch) {
    run::<true>(tile, scratch);
}

#[inline(always)]
fn run<const FMA: bool>(tile: &Tile<'_>, scratch: &mut Scratch) {
    let (dk, dv) = (tile.heads.key_dim, tile.heads.value_dim);
    let rows = (tile.last - tile.first) * tile.count;
    let Scratch { keys: key_block, values: value_block, sums, max, total } = scratch;
    sums.clear();
    sums.resize(rows * dv, 0.0);
    max.clear();
    max.resize(rows, f32::NEG_INFINITY);
    total.clear();
    total.resize(rows, 0.0);
    let end = tile.position + tile.last;
    let mut from = 0;
    while from < end {
        let n = BLOCK.min(end - from);
        let k_at = (tile.group * tile.context + from) * dk;
        let v_at = (tile.group * tile.context + from) * dv;
        let (keys, values): (&[f32], &[f32]) = match tile.cached {
            Cached::F32 { keys, values } => (&keys[k_at..k_at + n * dk], &values[v_at..v_at + n * dv]),
            Cached::F16 { keys, values } => {
                key_block.resize(BLOCK * dk, 0.0);
                value_block.resize(BLOCK * dv, 0.0);
                keys[k_at..k_at + n * dk].convert_to_f32_slice(&mut key_block[..n * dk]);
                values[v_at..v_at + n * dv].convert_to_f32_slice(&mut value_block[..n * dv]);
                (&key_block[..n * dk], &value_block[..n * dv])
            }
        };
        for r in 0..rows {
            let token = tile.first + r / tile.count;
            let head = tile.head + r % tile.count;
            let seen = (tile.position + token + 1).saturating_sub(from).min(n);
            if seen == 0 {
                continue;
            }
            let q = &tile.queries[(token * tile.heads.query + head) * dk..][..dk];
            let mut scores = [0.0f32; BLOCK];
            let scores = &mut scores[..seen];
            dots::<FMA>(q, keys, scores);
            let mut best = max[r];
            for s in scores.iter_mut() {
                *s *= tile.scale;
                best = if *s > best { *s } else { best };
            }
            let sum = &mut sums[r * dv..(r + 1) * dv];
            if best > max[r] {
                let shrink = (max[r] - best).exp();
                sum.iter_mut().for_each(|v| *v *= shrink);
                total[r] *= shrink;
                max[r] = best;
            }
            let mut added = 0.0;
            for s in scores.iter_mut() {
                *s = exp(*s - best);
            }
            for s in scores.iter() {
                added += *s;
            }
            total[r] += added;
            weighted::<FMA>(scores, values, sum);
        }
        from += n;
    }
    for (sum, total) in sums.chunks_mut(dv.max(1)).zip(total.iter()) {
        let scale = 1.0 / total;
        sum.iter_mut().for_each(|v| *v *= scale);
    }
}

#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// `scores[j] = q . keys[j]`, four keys at a time so that each piece of the query is loaded once for four dots.
#[inline(always)]
fn dots<const FMA: bool>(q: &[f32], keys: &[f32], scores: &mut [f32]) {
    let dim = q.len();
    let mut j = 0;
    while j + 4 <= scores.len() {
        let k: [&[f32]; 4] = std::array::from_fn(|i| &keys[(j + i) * dim..(j + i + 1) * dim]);
        let mut acc = [[0.0f32; 8]; 4];
        let whole = dim / 8 * 8;
        for c in (0..whole).step_by(8) {
            for (acc, k) in acc.iter_mut().zip(&k) {
                for l in 0..8 {
                    acc[l] = fma::<FMA>(q[c + l], k[c + l], acc[l]);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            scores[j + i] = sum8(acc) + tail::<FMA>(&q[whole..], &k[i][whole..]);
        }
        j += 4;
    }
    while j < scores.len() {
        let k = &keys[j * dim..(j + 1) * dim];
        let mut acc = [0.0f32; 8];
        let whole = dim / 8 * 8;
        for c in (0..whole).step_by(8) {
            for l in 0..8 {
                acc[l] = fma::<FMA>(q[c + l], k[c + l], acc[l]);
            }
        }
        scores[j] = sum8(&acc) + tail::<FMA>(&q[whole..], &k[whole..]);
        j += 1;
    }
}

#[inline(always)]
fn sum8(a: &[f32; 8]) -> f32 {
    ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
}

#[inline(always)]
fn tail<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |s, (a, b)| fma::<FMA>(*a, *b, s))
}

/// `sum += weights . values`, four values at a time so that the sum is loaded and stored once for four.
#[inline(always)]
fn weighted<const FMA: bool>(weights: &[f32], values: &[f32], sum: &mut [f32]) {
    let dim = sum.len();
    let mut j = 0;
    while j + 4 <= weights.len() {
        let [a, b, c, d]: [&[f32]; 4] = std::array::from_fn(|i| &values[(j + i) * dim..(j + i + 1) * dim]);
        let w = &weights[j..j + 4];
        for l in 0..dim {
            let s = fma::<FMA>(w[1], b[l], fma::<FMA>(w[0], a[l], sum[l]));
            sum[l] = fma::<FMA>(w[3], d[l], fma::<FMA>(w[2], c[l], s));
        }
        j += 4;
    }
    while j < weights.len() {
        let v = &values[j * dim..(j + 1) * dim];
        for l in 0..dim {
            sum[l] = fma::<FMA>(weights[j], v[l], sum[l]);
        }
        j += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, in f64.
    fn plain(h: Heads, keys: &[f32], values: &[f32], context: usize, q: &[f32], position: usize, scale: f32) -> Vec<f32> {
        let tokens = q.len() / (h.query * h.key_dim);
        let mut out = Vec::new();
        for t in 0..tokens {
            for head in 0..h.query {
                let g = head / (h.query / h.groups);
                let q = &q[(t * h.query + head) * h.key_dim..][..h.key_dim];
                let scores: Vec<f64> = (0..=position + t)
                    .map(|p| {
                        let k = &keys[(g * context + p) * h.key_dim..][..h.key_dim];
                        q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * f64::from(scale)
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                for d in 0..h.value_dim {
                    let v: f64 = scores
                        .iter()
                        .enumerate()
                        .map(|(p, s)| (s - max).exp() / total * f64::from(values[(g * context + p) * h.value_dim + d]))
                        .sum();
                    out.push(v as f32);
                }
            }
        }
        out
    }

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..n).map(|_| rng.f32() * 4.0 - 2.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_the_definition(groups in 1usize..4, per in 1usize..4, dk in 1usize..40, dv in 1usize..40,
                                 position in 0usize..150, tokens in 1usize..80, threads in 1usize..5, seed: u64) {
            let h = Heads { query: groups * per, groups, key_dim: dk, value_dim: dv };
            let context = position + tokens + 3;
            let (k, v) = (noise(groups * context * dk, seed), noise(groups * context * dv, seed ^ 1));
            let q = noise(tokens * h.query * dk, seed ^ 2);
            let want = plain(h, &k, &v, context, &q, position, 0.3);
            let pool = Pool::new(threads);
            let mut got = vec![f32::NAN; want.len()];
            attention(&pool, h, Cached::F32 { keys: &k, values: &v }, context, &q, position, 0.3, &mut got);
            for (a, b) in got.iter().zip(&want) {
                prop_assert!((a - b).abs() < 2e-5, "{a} {b}");
            }
            let half = |x: &[f32]| x.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>();
            attention(&pool, h, Cached::F16 { keys: &half(&k), values: &half(&v) }, context, &q, position, 0.3, &mut got);
            for (a, b) in got.iter().zip(&want) {
                prop_assert!((a - b).abs() < 2e-2, "{a} {b}");
            }
        }
    }

    #[test]
    fn chunks_and_threads_do_not_change_a_bit() {
        let h = Heads { query: 8, groups: 2, key_dim: 16, value_dim: 16 };
        let (k, v) = (noise(2 * 200 * 16, 1), noise(2 * 200 * 16, 2));
        let cached = Cached::F32 { keys: &k, values: &v };
        let q = noise(200 * 8 * 16, 3);
        let mut whole = vec![0.0; 200 * 128];
        attention(&Pool::new(1), h, cached, 200, &q, 0, 0.25, &mut whole);
        let mut cut = vec![0.0; 200 * 128];
        let pool = Pool::new(4);
        for (from, to) in [(0, 1), (1, 70), (70, 71), (71, 199), (199, 200)] {
            attention(&pool, h, cached, 200, &q[from * 128..to * 128], from, 0.25, &mut cut[from * 128..to * 128]);
        }
        assert_eq!(whole, cut);
    }
}
