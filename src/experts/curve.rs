//! The stack-distance curve: the hit rate that LRU would have at every slot count at once.
//!
//! LRU is a *stack algorithm* (Mattson, Gecsei, Slutz, Traiger: "Evaluation techniques for storage hierarchies", IBM
//! Systems Journal 9(2), 1970): what `s` slots hold is always part of what `s + 1` slots hold. So one list per layer, in
//! which the first `s` entries are the content of `s` slots, gives the hits of every `s` in one pass: an expert found at
//! position `d` (from 1) is a hit for all `s >= d`.
//!
//! A tick uses a *set* of experts. What is exact here is the scheduler under `lru` with [`Admission::ALWAYS`] at any slot
//! count, smaller than the set included:
//!
//! - hits are judged against the content before the tick, and stay;
//! - misses are admitted in the order in which they were routed, while a resident remains that the tick does not use;
//! - the least recently used resident leaves first; of one tick, the expert that was routed later is more recent.
//!
//! With those rules the content of `s` slots is still part of that of `s + 1`. Let `C(s)` be the content before and `U` the
//! set. Afterwards it is `C(s) ∩ U`, then the first of the missing in routed order, then the most recent of the rest. One
//! more slot adds one expert to `C(s)`: either one of `U`, which then stays where it would else have been admitted or left
//! out, or another one, which makes room for the next missing or the next recent. Either way the new content keeps the old
//! one and gains one expert; the update below walks the list and finds that expert at each depth.
//!
//! [`Admission::ALWAYS`]: super::policy::Admission::ALWAYS

use super::schedule::Routed;
use crate::events::Phase;

/// Largest weight of a new sample before the histogram is scaled back.
const RESCALE_AT: f64 = 1e120;

/// Stack-distance histograms of all layers.
#[derive(Clone, Debug)]
pub struct Curve {
    experts: usize,
    /// Per layer, the experts used so far; the first `s` are the content of `s` slots.
    stack: Vec<Vec<u16>>,
    /// `[layers * experts]`: when the expert was last used, larger is later.
    last: Vec<u64>,
    clock: u64,
    /// `[layers * (experts + 1)]`: weight of the uses found at position `d` of the stack (from 0); the last entry is
    /// "never used before".
    found: Vec<f64>,
    /// Weight of a sample now; grows by `1 / fade` per token.
    unit: f64,
    fade: f64,
    /// `[experts]`: stamp of the tick that used the expert, and whether the walk has placed it.
    used: Vec<u64>,
    placed: Vec<bool>,
    missing: Vec<u16>,
    pool: Vec<(u64, u16)>,
    next: Vec<u16>,
}

impl Curve {
    /// Empty histograms. With `half_life` (in tokens) old samples fade, so that the curve follows the session; without it
    /// every sample counts the same.
    #[must_use]
    pub fn new(layers: usize, experts: usize, half_life: Option<f64>) -> Self {
        let experts = experts.min(usize::from(u16::MAX));
        let buffer = || Vec::with_capacity(experts);
        Self {
            experts,
            stack: (0..layers).map(|_| Vec::with_capacity(experts)).collect(),
            last: vec![0; layers * experts],
            clock: 0,
            found: vec![0.0; layers * (experts + 1)],
            unit: 1.0,
            fade: half_life.filter(|h| *h > 0.0).map_or(1.0, |h| 0.5f64.powf(1.0 / h)),
            used: vec![0; experts],
            placed: vec![false; experts],
            missing: buffer(),
            pool: Vec::with_capacity(experts),
            next: buffer(),
        }
    }

    /// One layer of one step. Ticks of the prompt move the stack but are not counted: the curve predicts the hit rate of
    /// generation. Ids out of range and repeated ids are ignored. The first call of a step for a layer counts, later
    /// ones count as further steps.
    pub fn tick(&mut self, layer: usize, routed: &[Routed], phase: Phase) {
        if layer >= self.stack.len() {
            return;
        }
        let base = layer * self.experts;
        let stamp = self.clock + 1;
        self.missing.clear();
        let mut left = 0;
        let before = self.clock;
        for r in routed {
            let e = usize::from(r.expert);
            if e >= self.experts || self.used[e] > before {
                continue;
            }
            self.clock += 1;
            self.used[e] = stamp;
            self.placed[e] = false;
            self.missing.push(r.expert);
            left += 1;
            if phase == Phase::Decode {
                let position = if self.last[base + e] == 0 {
                    self.experts
                } else {
                    self.stack[layer].iter().position(|&x| x == r.expert).unwrap_or(self.experts)
                };
                self.found[layer * (self.experts + 1) + position] += self.unit * f64::from(r.tokens);
            }
        }
        self.rearrange(layer, stamp, left);
        // Stamps of this tick's experts are set only now: the walk compares those of the rest.
        for (i, &expert) in self.missing.iter().enumerate() {
            self.last[base + usize::from(expert)] = stamp + i as u64;
        }
    }

    /// Walk the stack and find, at each depth, the one expert that the content there has and the one above has not.
    fn rearrange(&mut self, layer: usize, stamp: u64, mut left: usize) {
        let base = layer * self.experts;
        self.next.clear();
        self.pool.clear();
        let mut turn = 0; // into `missing`, the routed experts in order
        let mut depth = 0;
        // Depths beyond the deepest used expert keep their content; there the pool is empty and nobody is left.
        while left > 0 || !self.pool.is_empty() {
            let mut own = None;
            if let Some(&expert) = self.stack[layer].get(depth) {
                if self.used[usize::from(expert)] != stamp {
                    let at = (self.last[base + usize::from(expert)], expert);
                    let place = self.pool.partition_point(|p| *p < at);
                    self.pool.insert(place, at);
                } else if !self.placed[usize::from(expert)] {
                    own = Some(expert);
                }
            }
            depth += 1;
            let expert = own.or_else(|| {
                while turn < self.missing.len() && self.placed[usize::from(self.missing[turn])] {
                    turn += 1;
                }
                self.missing.get(turn).copied().or_else(|| self.pool.pop().map(|p| p.1))
            });
            let Some(expert) = expert else { break };
            if self.used[usize::from(expert)] == stamp {
                self.placed[usize::from(expert)] = true;
                left -= 1;
            }
            self.next.push(expert);
        }
        let stack = &mut self.stack[layer];
        let n = self.next.len();
        if n > stack.len() {
            stack.clear();
            stack.extend_from_slice(&self.next);
        } else {
            stack[..n].copy_from_slice(&self.next);
        }
    }

    /// A step is over: older samples fade by its tokens.
    pub fn end_step(&mut self, tokens: u32) {
        if self.fade >= 1.0 {
            return;
        }
        self.unit /= self.fade.powf(f64::from(tokens));
        if self.unit >= RESCALE_AT {
            let scale = 1.0 / self.unit;
            self.found.iter_mut().for_each(|f| *f *= scale);
            self.unit = 1.0;
        }
    }

    /// Forget the samples; with `content` also what the slots would hold.
    pub fn reset(&mut self, content: bool) {
        self.found.fill(0.0);
        self.unit = 1.0;
        if content {
            self.stack.iter_mut().for_each(Vec::clear);
            self.last.fill(0);
        }
    }

    /// Layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.stack.len()
    }

    /// Samples behind the curve, older ones counted as faded as they are.
    #[must_use]
    pub fn samples(&self) -> f64 {
        self.found.iter().sum::<f64>() / self.unit
    }

    /// Hit rate, 0 to 1, of a layer at `slots`; `None` without a sample.
    #[must_use]
    pub fn layer_hit_rate(&self, layer: usize, slots: usize) -> Option<f64> {
        let found = self.histogram(layer)?;
        let all: f64 = found.iter().sum();
        (all > 0.0).then(|| found[..slots.min(self.experts)].iter().sum::<f64>() / all)
    }

    /// Hit rate, 0 to 1, over all layers at `slots` in each; `None` without a sample.
    #[must_use]
    pub fn hit_rate(&self, slots: usize) -> Option<f64> {
        let (mut hits, mut all) = (0.0, 0.0);
        for layer in 0..self.layers() {
            let found = self.histogram(layer)?;
            hits += found[..slots.min(self.experts)].iter().sum::<f64>();
            all += found.iter().sum::<f64>();
        }
        (all > 0.0).then(|| hits / all)
    }

    /// Hit rate over all layers for every slot count, `[experts + 1]` from 0 slots on; empty without a sample.
    #[must_use]
    pub fn hit_rates(&self) -> Vec<f64> {
        let mut at = vec![0.0; self.experts + 1];
        for layer in 0..self.layers() {
            for (sum, f) in at.iter_mut().zip(self.histogram(layer).unwrap_or(&[])) {
                *sum += f;
            }
        }
        let all: f64 = at.iter().sum();
        if all <= 0.0 {
            return Vec::new();
        }
        let mut hits = 0.0;
        for f in &mut at {
            hits += std::mem::replace(f, hits / all);
        }
        at
    }

    /// Weight of the uses of a layer by position in the stack (from 0), `[experts + 1]`; the last entry is first uses.
    #[must_use]
    pub fn histogram(&self, layer: usize) -> Option<&[f64]> {
        let n = self.experts + 1;
        self.found.get(layer * n..(layer + 1) * n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Outcome;
    use crate::experts::policy::{Admission, Policy};
    use crate::experts::schedule::Scheduler;
    use proptest::prelude::*;

    const EXPERTS: usize = 16;

    fn routed(ids: &[u16]) -> Vec<Routed> {
        ids.iter().map(|&expert| Routed { expert, tokens: 1, weight: 1.0 }).collect()
    }

    fn session() -> impl Strategy<Value = Vec<(bool, Vec<u16>)>> {
        let decode = prop::collection::vec(0u16..EXPERTS as u16, 1..=4).prop_map(|ids| (false, ids));
        let prefill = prop::collection::vec(0u16..EXPERTS as u16, 1..=24).prop_map(|ids| (true, ids));
        prop::collection::vec(prop_oneof![4 => decode, 1 => prefill], 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn the_curve_equals_simulating_lru_at_every_slot_count(session in session()) {
            let mut curve = Curve::new(1, EXPERTS, None);
            for (prefill, ids) in &session {
                curve.tick(0, &routed(ids), if *prefill { Phase::Prefill } else { Phase::Decode });
            }
            for slots in 0..=EXPERTS {
                let mut lru = Scheduler::new(1, EXPERTS, slots, Policy::Lru, Admission::ALWAYS);
                let (mut hits, mut all) = (0u32, 0u32);
                for (prefill, ids) in &session {
                    lru.begin_step(if *prefill { Phase::Prefill } else { Phase::Decode }, 1);
                    let plan = lru.tick(0, &routed(ids));
                    if !prefill {
                        all += plan.placed.len() as u32;
                        hits += plan.placed.iter().filter(|p| p.outcome == Outcome::Hit).count() as u32;
                    }
                }
                let predicted = curve.hit_rate(slots).map_or(0.0, |r| r * f64::from(all));
                prop_assert!((predicted - f64::from(hits)).abs() < 1e-6, "{slots} slots: {predicted} of {hits}");
            }
        }
    }

    #[test]
    fn a_loop_over_five_experts_needs_five_slots() {
        let mut curve = Curve::new(2, 8, None);
        for step in 0..50u16 {
            curve.tick(1, &routed(&[step % 5]), Phase::Decode);
        }
        assert_eq!(curve.layer_hit_rate(1, 4), Some(0.0));
        assert_eq!(curve.layer_hit_rate(1, 5), Some(0.9));
        assert_eq!(curve.layer_hit_rate(0, 5), None);
        let rates = curve.hit_rates();
        assert_eq!(rates.len(), 9);
        assert!((rates[5] - 0.9).abs() < 1e-12 && rates[4] == 0.0 && (rates[8] - 0.9).abs() < 1e-12);
        assert!((curve.samples() - 50.0).abs() < 1e-9);
    }

    #[test]
    fn with_a_half_life_the_curve_follows_the_session() {
        let mut curve = Curve::new(1, 8, Some(10.0));
        let mut run = |steps: u16, experts: u16| {
            for step in 0..steps {
                curve.tick(0, &routed(&[step % experts]), Phase::Decode);
                curve.end_step(1);
            }
            curve.hit_rate(2).unwrap_or(0.0)
        };
        assert!(run(200, 2) > 0.99);
        assert!(run(10, 8) < 0.7);
        assert!(run(20_000, 8) < 0.01);
    }

    #[test]
    fn forgetting_the_samples_keeps_what_the_slots_hold() {
        let mut curve = Curve::new(1, 8, None);
        curve.tick(0, &routed(&[1, 2]), Phase::Decode);
        curve.reset(false);
        assert_eq!(curve.hit_rate(4), None);
        curve.tick(0, &routed(&[1]), Phase::Decode);
        assert_eq!(curve.hit_rate(4), Some(1.0));
        curve.reset(true);
        curve.tick(0, &routed(&[1]), Phase::Decode);
        assert_eq!(curve.hit_rate(8), Some(0.0));
    }
}
