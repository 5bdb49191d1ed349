//! Grouped-query attention on the CPU over a cache of keys and values.
//!
//! Keys are visited in blocks with a running softmax (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention's
//! blocking), so the scores of a long context are never held at once. Blocks start at absolute positions, and every
//! query is computed by itself, so its result does not depend on how a prompt was cut into chunks. Nor does it depend on the
//! instruction set, as long as that multiplies and adds at once: sums run in the order of positions and dimensions.
//!
//! The cache keeps the keys of a block turned ([`BLOCK`]): the products of a query with all of them then need no sums across a register.

mod rows;
mod tile;
mod vector;

use super::{InstructionSet, Pool};
use half::f16;
use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};
use tile::{Scratch, Tile};

/// Positions in one block of keys, and of the running softmax.
pub const BLOCK: usize = 64;
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

/// Cached keys `[groups, blocks, key_dim, BLOCK]`, `blocks` being those that the room has begun, and values `[groups, room, value_dim]`. The room is that of the whole context; or less, a multiple of
/// [`BLOCK`]: then it is a ring, in which positions so far apart share a place.
///
/// Or rows `[room, key_dim]` of one group, in which the first `value_dim` values of a key are its value, too (DeepSeek-AI, arXiv 2405.04434); no ring.
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
    /// Keys with their values inside, in 32-bit floats.
    Rows32(&'a [f32]),
    /// The same in 16-bit floats.
    Rows16(&'a [f16]),
}

/// What queries of a layer see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight<'a> {
    /// So many positions, their own the last; `None`: all up to their own.
    pub window: Option<usize>,
    /// `[query]`: a score per head that takes its share of the softmax and has no value (Xiao et al., arXiv 2309.17453; gpt-oss learns it).
    pub sinks: Option<&'a [f32]>,
}

impl Sight<'_> {
    /// The first position that a query at `position` sees.
    fn begin(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Where the first value of the key at `position` of a group lies in [`Cached`] keys; those that follow are [`BLOCK`] apart.
#[must_use]
pub fn key_at(group: usize, position: usize, room: usize, key_dim: usize) -> usize {
    let at = position % room;
    (group * room.div_ceil(BLOCK) + at / BLOCK) * key_dim * BLOCK + at % BLOCK
}

/// Where the value at `position` of a group lies.
#[must_use]
pub fn value_at(group: usize, position: usize, room: usize, value_dim: usize) -> usize {
    (group * room + position % room) * value_dim
}

/// Causal attention of `tokens` queries `[tokens, query * key_dim]` at positions `position..` over the cache, which
/// already holds their keys and values, and still those that they see. Writes `[tokens, query * value_dim]`.
///
/// `room` is the cache's, in positions; `scale` multiplies the scores.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    pool: &Pool,
    heads: Heads,
    cached: Cached<'_>,
    room: usize,
    queries: &[f32],
    position: usize,
    scale: f32,
    sight: Sight<'_>,
    out: &mut [f32],
) {
    attention_with(InstructionSet::best(), pool, heads, cached, room, queries, position, scale, sight, out);
}

/// The same with given instructions, which the machine has.
#[allow(clippy::too_many_arguments)]
fn attention_with(
    set: InstructionSet,
    pool: &Pool,
    heads: Heads,
    cached: Cached<'_>,
    room: usize,
    queries: &[f32],
    position: usize,
    scale: f32,
    sight: Sight<'_>,
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
    let run = tile::select(set);
    pool.run(blocks * heads.groups * split, &|task| {
        let (task, piece) = (task / split, task % split);
        let (group, block_at) = (task % heads.groups, task / heads.groups);
        let first = block_at * block;
        let of_token = |t: usize| &pieces[(t * heads.groups + group) * split + piece];
        let head = group * per_group + piece * part;
        let count = part.min(per_group - piece * part);
        SCRATCH.with_borrow_mut(|scratch| {
            let last = (first + block).min(tokens);
            let tile = Tile { heads, cached, room, queries, group, head, count, first, last, position, scale, sight };
            run(&tile, scratch);
            for (i, t) in (first..tile.last).enumerate() {
                let mut piece = of_token(t).lock().unwrap_or_else(PoisonError::into_inner);
                let n = count * heads.value_dim;
                piece.copy_from_slice(&scratch.sums[i * n..(i + 1) * n]);
            }
        });
    });
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, in f64.
    #[allow(clippy::too_many_arguments)]
    fn plain(h: Heads, keys: &[f32], values: &[f32], context: usize, q: &[f32], position: usize, scale: f32, sight: Sight<'_>) -> Vec<f32> {
        let tokens = q.len() / (h.query * h.key_dim);
        let mut out = Vec::new();
        for t in 0..tokens {
            for head in 0..h.query {
                let g = head / (h.query / h.groups);
                let q = &q[(t * h.query + head) * h.key_dim..][..h.key_dim];
                let begin = sight.window.map_or(0, |w| (position + t + 1).saturating_sub(w));
                let scores: Vec<f64> = (begin..=position + t)
                    .map(|p| {
                        let k = &keys[(g * context + p) * h.key_dim..][..h.key_dim];
                        q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * f64::from(scale)
                    })
                    .collect();
                let sink = sight.sinks.map(|s| f64::from(s[head]));
                let max = scores.iter().copied().chain(sink).fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().copied().chain(sink).map(|s| (s - max).exp()).sum();
                for d in 0..h.value_dim {
                    let v: f64 = scores
                        .iter()
                        .enumerate()
                        .map(|(p, s)| (s - max).exp() / total * f64::from(values[(g * context + begin + p) * h.value_dim + d]))
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

    /// Keys `[groups, context, key_dim]` as a cache has them; what no key has filled is no number.
    fn turned(keys: &[f32], groups: usize, context: usize, dim: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; groups * context.next_multiple_of(BLOCK) * dim];
        for (i, key) in keys.chunks_exact(dim).enumerate() {
            let at = key_at(i / context, i % context, context, dim);
            key.iter().enumerate().for_each(|(d, v)| out[at + d * BLOCK] = *v);
        }
        out
    }

    fn half(x: &[f32]) -> Vec<f16> {
        x.iter().map(|v| f16::from_f32(*v)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_the_definition_with_all_instructions_and_the_same_bits_with_those_that_round_once(
            groups in 1usize..4, per in 1usize..6, dk in 1usize..140, dv in 1usize..140,
            position in 0usize..150, tokens in 1usize..80, threads in 1usize..5, seed: u64,
            window in proptest::option::of(1usize..200), sinks: bool,
        ) {
            let h = Heads { query: groups * per, groups, key_dim: dk, value_dim: dv };
            let context = position + tokens + 3;
            let (k, v) = (noise(groups * context * dk, seed), noise(groups * context * dv, seed ^ 1));
            let q = noise(tokens * h.query * dk, seed ^ 2);
            let scale = 1.5 / (dk as f32).sqrt();
            let sunk = noise(h.query, seed ^ 3);
            let sight = Sight { window, sinks: sinks.then_some(&sunk) };
            let want = plain(h, &k, &v, context, &q, position, scale, sight);
            let pool = Pool::new(threads);
            let keys = turned(&k, groups, context, dk);
            let mut fused: Option<[Vec<f32>; 2]> = None;
            for set in InstructionSet::all() {
                let run = |cached| {
                    let mut got = vec![f32::NAN; want.len()];
                    attention_with(set, &pool, h, cached, context, &q, position, scale, sight, &mut got);
                    got
                };
                let got = [run(Cached::F32 { keys: &keys, values: &v }), run(Cached::F16 { keys: &half(&keys), values: &half(&v) })];
                for (got, tolerance) in got.iter().zip([2e-5, 2e-2]) {
                    for (a, b) in got.iter().zip(&want) {
                        prop_assert!((a - b).abs() < tolerance, "{set:?}: {a} {b}");
                    }
                }
                if set != InstructionSet::Scalar {
                    prop_assert!(fused.as_ref().is_none_or(|f| *f == got), "{:?}", set);
                    fused = Some(got);
                }
            }
        }
    }

    #[test]
    fn heads_as_long_as_gemmas_are_right_without_a_divisor_and_with_a_window() {
        for (dim, per, window) in [(512, 8, None), (256, 2, Some(70))] {
            let h = Heads { query: 2 * per, groups: 2, key_dim: dim, value_dim: dim };
            let (context, position, tokens) = (150, 130, 9);
            // Normalised heads: products of unit length, not divided.
            let unit = |x: Vec<f32>| -> Vec<f32> { x.into_iter().map(|v| v * 1.7 / (dim as f32).sqrt()).collect() };
            let (k, v) = (unit(noise(2 * context * dim, 5)), noise(2 * context * dim, 6));
            let q = noise(tokens * h.query * dim, 7);
            let sight = Sight { window, sinks: None };
            let want = plain(h, &k, &v, context, &q, position, 1.0, sight);
            let keys = turned(&k, 2, context, dim);
            for set in InstructionSet::all() {
                let mut got = vec![f32::NAN; want.len()];
                let cached = Cached::F32 { keys: &keys, values: &v };
                attention_with(set, &Pool::new(3), h, cached, context, &q, position, 1.0, sight, &mut got);
                let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 2e-5, "{set:?}, {dim}: {worst}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn keys_in_rows_with_their_values_inside_give_the_definition_and_the_same_bits(
            heads in 1usize..12, dk in 1usize..140, less in 0usize..60,
            position in 0usize..150, tokens in 1usize..40, threads in 1usize..5, seed: u64,
        ) {
            let h = Heads { query: heads, groups: 1, key_dim: dk, value_dim: dk.saturating_sub(less).max(1) };
            let context = position + tokens + 3;
            let mut k = noise(context * dk, seed);
            let v: Vec<f32> = k.chunks_exact(dk).flat_map(|k| &k[..h.value_dim]).copied().collect();
            let q = noise(tokens * heads * dk, seed ^ 2);
            let scale = 1.5 / (dk as f32).sqrt();
            let want = plain(h, &k, &v, context, &q, position, scale, Sight::default());
            // What no token has filled is no number.
            k[(position + tokens) * dk..].fill(f32::NAN);
            let halves = half(&k);
            let mut fused: Option<[Vec<f32>; 2]> = None;
            for set in InstructionSet::all() {
                let run = |cached, cut: usize, threads| {
                    let mut got = vec![f32::NAN; want.len()];
                    for from in (0..tokens).step_by(cut) {
                        let to = (from + cut).min(tokens);
                        let part = |width: usize| from * heads * width..to * heads * width;
                        attention_with(
                            set, &Pool::new(threads), h, cached, context, &q[part(dk)], position + from, scale, Sight::default(),
                            &mut got[part(h.value_dim)],
                        );
                    }
                    got
                };
                let got = [Cached::Rows32(&k), Cached::Rows16(&halves)].map(|cached| run(cached, tokens, threads));
                for (got, tolerance) in got.iter().zip([2e-5, 2e-2]) {
                    for (a, b) in got.iter().zip(&want) {
                        prop_assert!((a - b).abs() < tolerance, "{set:?}: {a} {b}");
                    }
                }
                for cut in [1, 7] {
                    prop_assert!(run(Cached::Rows32(&k), cut, 1) == got[0], "{set:?}: cut into {cut}");
                }
                if set != InstructionSet::Scalar {
                    prop_assert!(fused.as_ref().is_none_or(|f| *f == got), "{:?}", set);
                    fused = Some(got);
                }
            }
        }
    }

    #[test]
    fn chunks_and_threads_do_not_change_a_bit() {
        let h = Heads { query: 8, groups: 2, key_dim: 16, value_dim: 16 };
        let (k, v) = (noise(2 * 200 * 16, 1), noise(2 * 200 * 16, 2));
        let keys = turned(&k, 2, 200, 16);
        let cached = Cached::F32 { keys: &keys, values: &v };
        let q = noise(200 * 8 * 16, 3);
        let sinks = noise(8, 4);
        for sight in [Sight::default(), Sight { window: Some(37), sinks: Some(&sinks) }, Sight { window: Some(130), sinks: None }] {
            for set in InstructionSet::all() {
                let mut whole = vec![0.0; 200 * 128];
                attention_with(set, &Pool::new(1), h, cached, 200, &q, 0, 0.25, sight, &mut whole);
                let mut cut = vec![0.0; 200 * 128];
                let pool = Pool::new(4);
                for (from, to) in [(0, 1), (1, 70), (70, 71), (71, 199), (199, 200)] {
                    let (q, cut) = (&q[from * 128..to * 128], &mut cut[from * 128..to * 128]);
                    attention_with(set, &pool, h, cached, 200, q, from, 0.25, sight, cut);
                }
                assert_eq!(whole, cut, "{set:?} {sight:?}");
            }
        }
    }
}
