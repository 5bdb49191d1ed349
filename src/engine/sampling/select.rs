//! Selecting tokens without sorting the vocabulary.
//!
//! There is one order, [`best_first`]; what stays after top-k or top-p is a prefix of it. [`border`] finds where a prefix
//! ends by a histogram over the logits, whose crossing bin is divided again until it is small enough to sort: a few
//! passes over the vocabulary, whatever the logits look like. Weights are summed in eight lanes so that compilers vectorise.

use crate::kernels::exp::exp;
use std::cmp::Ordering;

/// A token that may be drawn, with its logit after penalties.
pub(super) type Candidate = (f32, u32);

/// Bins of a histogram.
const BINS: usize = 1024;
/// With more candidates than this, the range is cut into [`PARTS`] first.
const MANY: u32 = 24_000;
const PARTS: usize = 8;
/// As many candidates are sorted at once.
const SMALL: usize = 256;
/// Weights are drawn by blocks first.
const BLOCK: usize = 256;

/// Best first; equal logits (zeros of both signs are) by ascending id, so that the result does not depend on the selection
/// algorithm.
pub(super) fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1))
}

/// Fills `out` with `e^((l - max) / temperature)`: 1 for the best, 0 where the probability is below what matters (1e-37).
pub(super) fn weigh(logits: impl Iterator<Item = f32>, max: f32, temperature: f32, out: &mut Vec<f32>) {
    let inv = 1.0 / temperature;
    out.clear();
    out.extend(logits.map(|l| {
        let x = (l - max) * inv;
        if x > -87.0 {
            exp(x)
        } else {
            0.0
        }
    }));
}

/// The sum, in eight lanes.
pub(super) fn sum(weights: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let chunks = weights.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|&w| f64::from(w)).sum();
    for chunk in chunks {
        for (lane, &w) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(w);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// The place at which the running sum of the weights passes the share `u` (0 to 1) of their total. Never one of weight 0;
/// `None` if all are.
pub(super) fn draw(weights: &[f32], u: f64) -> Option<usize> {
    let sums: Vec<f64> = weights.chunks(BLOCK).map(sum).collect();
    let mut left = u * sums.iter().sum::<f64>();
    let mut last = None;
    for ((b, block), here) in weights.chunks(BLOCK).enumerate().zip(sums) {
        if here > 0.0 {
            last = Some((b, block));
        }
        if left < here {
            break;
        }
        left -= here;
    }
    let (b, block) = last?;
    let mut place = None;
    for (i, &w) in block.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        // Rounding may leave a sliver: it belongs to the last one with any weight.
        place = Some(b * BLOCK + i);
        left -= f64::from(w);
        if left < 0.0 {
            break;
        }
    }
    place
}

/// Length of the shortest prefix of `weights` (best first) whose sum reaches `mass`; at least 1.
pub(super) fn nucleus(weights: &[f32], mass: f64) -> usize {
    let mut sum = 0.0;
    // The mass was summed in another order: a hair below is there.
    let reached = weights.iter().position(|&w| {
        sum += f64::from(w);
        sum >= mass * (1.0 - 1e-12)
    });
    reached.map_or(weights.len(), |n| n + 1)
}

/// Sets the weight of all tokens to 0 that come after the shortest prefix (best first) whose measures add up to `target`.
/// `measure` is given a token's weight; tokens with a logit below `lowest` don't count. Nothing changes if the target is
/// not reached. `scratch` is overwritten.
pub(super) fn border(
    logits: &[f32],
    weights: &mut [f32],
    lowest: f32,
    measure: impl Fn(f32) -> f32,
    target: f64,
    scratch: &mut Vec<Candidate>,
) {
    let (mut from, mut to, mut before) = (lowest, f32::INFINITY, 0.0);
    if logits.iter().map(|&l| u32::from(l >= lowest)).sum::<u32>() > MANY {
        // First which part of the range it is, for all at once.
        let (min, max) = range(logits.iter().copied(), lowest);
        let ends: [f32; PARTS] = std::array::from_fn(|i| min + (max - min) * (i as f32 / PARTS as f32));
        let sums = sums_from(logits, weights, &ends, &measure);
        let Some(part) = sums.iter().rposition(|&sum| sum >= target) else { return };
        from = ends[part];
        if part + 1 < PARTS {
            (to, before) = (ends[part + 1], sums[part + 1]);
        }
    }
    take(logits, from, to, scratch);
    let mut first = true;
    while first || scratch.len() > SMALL {
        first = false;
        let ends = range(scratch.iter().map(|c| c.0), lowest);
        let mut bins = Bins::new(ends.0, ends.1);
        scratch.iter().for_each(|&(l, t)| bins.add(l, f64::from(measure(weights[t as usize]))));
        let Some((bin, sum)) = bins.crossing(before, target) else { break };
        let had = scratch.len();
        before = sum;
        scratch.retain(|&(l, _)| bins.of(l) == bin);
        if scratch.len() == had {
            // Equal logits, or as good as.
            break;
        }
    }
    scratch.sort_unstable_by(best_first);
    let last = scratch.iter().position(|&(_, t)| {
        before += f64::from(measure(weights[t as usize]));
        before >= target
    });
    let Some((last, border)) = last.and_then(|i| Some((i, scratch.get(i)?.0))) else { return };
    for (w, &l) in weights.iter_mut().zip(logits) {
        *w = if l < border { 0.0 } else { *w };
    }
    // What is as good as the last one lies in the same bin.
    for &(_, t) in scratch[last + 1..].iter().take_while(|(l, _)| *l == border) {
        weights[t as usize] = 0.0;
    }
}

/// The least and the greatest of the logits from `lowest` on, in sixteen lanes.
fn range(mut logits: impl Iterator<Item = f32>, lowest: f32) -> (f32, f32) {
    let (mut min, mut max) = ([f32::INFINITY; 16], [lowest; 16]);
    loop {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let mut n = 0;
        for (lane, l) in lanes.iter_mut().zip(&mut logits) {
            *lane = l;
            n += 1;
        }
        for ((min, max), l) in min.iter_mut().zip(&mut max).zip(lanes) {
            let counts = if l >= lowest { l } else { f32::INFINITY };
            *min = if counts < *min { counts } else { *min };
            *max = if l > *max { l } else { *max };
        }
        if n < 16 {
            return (min.into_iter().fold(f32::INFINITY, f32::min), max.into_iter().fold(lowest, f32::max));
        }
    }
}

/// Fills `out` with the tokens whose logit lies in `from..to`, in their order.
fn take(logits: &[f32], from: f32, to: f32, out: &mut Vec<Candidate>) {
    out.clear();
    for (b, block) in logits.chunks(64).enumerate() {
        // The tail is most of the vocabulary: a block of it is passed by at once.
        if block.iter().map(|&l| u32::from(l >= from)).sum::<u32>() == 0 {
            continue;
        }
        // No branch on what is taken: it could not be foretold.
        let mut taken = [(0.0, 0); 64];
        let mut n = 0;
        for (&l, t) in block.iter().zip((b * 64) as u32..) {
            taken[n & 63] = (l, t);
            n += usize::from((l >= from) & (l < to));
        }
        out.extend_from_slice(&taken[..n]);
    }
}

/// For each of `ends`, the sum over all tokens with that logit or more. Short runs are summed in 32 bits: a sum is right to
/// about a millionth, and whole numbers are exact.
fn sums_from(logits: &[f32], weights: &[f32], ends: &[f32; PARTS], measure: &impl Fn(f32) -> f32) -> [f64; PARTS] {
    let mut sums = [0.0; PARTS];
    for (logits, weights) in logits.chunks(BLOCK).zip(weights.chunks(BLOCK)) {
        for (sum, &end) in sums.iter_mut().zip(ends) {
            let mut lanes = [0.0f32; 8];
            let ((l, l_rest), (w, w_rest)) = (logits.as_chunks::<8>(), weights.as_chunks::<8>());
            for (l, w) in l.iter().zip(w) {
                for ((lane, &l), &w) in lanes.iter_mut().zip(l).zip(w) {
                    let part = measure(w);
                    *lane += if l >= end { part } else { 0.0 };
                }
            }
            for (&l, &w) in l_rest.iter().zip(w_rest) {
                lanes[0] += if l >= end { measure(w) } else { 0.0 };
            }
            *sum += f64::from(lanes.iter().sum::<f32>());
        }
    }
    sums
}

/// A histogram over logits: which bin a logit falls into never falls as the logit rises.
struct Bins {
    lowest: f32,
    scale: f32,
    sums: [f64; BINS],
}

impl Bins {
    fn new(lowest: f32, highest: f32) -> Self {
        let scale = BINS as f32 / (highest - lowest);
        // A range of nothing, or of more than a float holds: one bin.
        Self { lowest, scale: if scale.is_finite() { scale } else { 0.0 }, sums: [0.0; BINS] }
    }

    fn of(&self, logit: f32) -> usize {
        (((logit - self.lowest) * self.scale) as usize).min(BINS - 1)
    }

    fn add(&mut self, logit: f32, measure: f64) {
        self.sums[self.of(logit)] += measure;
    }

    /// The bin in which a running sum from the best, begun at `before`, reaches `target`, and the sum of all before that bin.
    fn crossing(&self, mut before: f64, target: f64) -> Option<(usize, f64)> {
        for (bin, sum) in self.sums.iter().enumerate().rev() {
            if before + sum >= target {
                return Some((bin, before));
            }
            before += sum;
        }
        None
    }
}

/// The k best candidates, in no order. One pass: blocks whose largest value is below the worst kept are skipped.
pub(super) fn top_k(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    // Twice k, cut back to k by selection when full: amortized O(1) per candidate and simpler than a heap.
    let room = (2 * k).max(64);
    let mut floor = f32::NEG_INFINITY;
    let mut full = false;
    for (b, block) in logits.chunks(64).enumerate() {
        let best = block.iter().fold(f32::NEG_INFINITY, |m, &l| if l > m { l } else { m });
        // Equal to the floor can't enter: the kept ones have lower ids.
        if full && best <= floor {
            continue;
        }
        for (i, &l) in block.iter().enumerate() {
            if full && l <= floor {
                continue;
            }
            out.push((l, (b * 64 + i) as u32));
            if out.len() == room {
                out.select_nth_unstable_by(k - 1, best_first);
                out.truncate(k);
                floor = out[k - 1].0;
                full = true;
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, best_first);
        out.truncate(k);
    }
}
