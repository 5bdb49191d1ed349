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
    let mut left = u * weights.chunks(BLOCK).map(sum).sum::<f64>();
    let mut last = None;
    for (b, block) in weights.chunks(BLOCK).enumerate() {
        let here = sum(block);
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

/// Sets the weight of all tokens after `last` in the order to 0.
pub(super) fn drop_after(logits: &[f32], weights: &mut [f32], last: Option<Candidate>) {
    let Some((border, id)) = last else { return };
    for (w, &l) in weights.iter_mut().zip(logits) {
        *w = if l < border { 0.0 } else { *w };
    }
    let after = weights.iter_mut().zip(logits).skip(id as usize + 1);
    after.filter(|(_, l)| **l == border).for_each(|(w, _)| *w = 0.0);
}

/// The last token of the shortest prefix (best first) whose measures add up to `target`, or `None` if all tokens from
/// `lowest` on don't. `measure` is given the token; tokens with a logit below `lowest` don't count. `scratch` is overwritten.
pub(super) fn border(
    logits: &[f32],
    lowest: f32,
    max: f32,
    measure: impl Fn(u32) -> f64,
    target: f64,
    scratch: &mut Vec<Candidate>,
) -> Option<Candidate> {
    let all = logits.iter().enumerate().map(|(i, &l)| (l, i as u32));
    let mut bins = Bins::new(lowest, max);
    // The tail is most of the vocabulary; a block of it is passed by at once.
    for (b, block) in logits.chunks(16).enumerate() {
        if block.iter().fold(f32::NEG_INFINITY, |m, &l| if l > m { l } else { m }) >= lowest {
            let at = (b * 16) as u32;
            block.iter().zip(at..).filter(|(l, _)| **l >= lowest).for_each(|(&l, t)| bins.add(l, measure(t)));
        }
    }
    let (bin, mut before) = bins.crossing(0.0, target)?;
    scratch.clear();
    scratch.extend(all.filter(|&(l, _)| l >= lowest && bins.of(l) == bin));
    while scratch.len() > SMALL {
        let ends = scratch.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &(l, _)| (a.min(l), b.max(l)));
        let mut bins = Bins::new(ends.0, ends.1);
        scratch.iter().for_each(|&(l, t)| bins.add(l, measure(t)));
        let Some((bin, sum)) = bins.crossing(before, target) else { break };
        let had = scratch.len();
        scratch.retain(|&(l, _)| bins.of(l) == bin);
        before = sum;
        if scratch.len() == had {
            // Equal logits, or as good as.
            break;
        }
    }
    scratch.sort_unstable_by(best_first);
    let last = scratch.iter().find(|&&(_, t)| {
        before += measure(t);
        before >= target
    });
    last.or(scratch.last()).copied()
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
