//! Slots by layer against equal slots, judged on what the allocation has not seen.
//!
//! The first half of a trace's generated tokens teaches the curves, the second half is counted. Both ways hold equal slots up to the middle, so
//! that what is compared is only what the change does. A third number is the allocation that the second half itself would
//! teach: what better learning could gain at most.

use super::Prepared;
use crate::events::{Outcome, Phase};
use crate::experts::curve::Curve;
use crate::experts::policy::{Admission, Policy};
use crate::experts::schedule::Scheduler;
use crate::experts::spread;
use serde::Serialize;

/// What slots by layer did at one mean slot count, on the second half of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpreadTally {
    /// Mean slots per layer.
    pub slots: usize,
    /// Hit rate, 0 to 1, with equal slots.
    pub equal: f64,
    /// With slots as the first half taught.
    pub spread: f64,
    /// With slots as the second half itself would teach.
    pub hindsight: f64,
    /// Fewest and most slots of a layer, as the first half taught.
    pub range: (usize, usize),
}

impl Prepared {
    /// Compares both ways at each of `slots`. See [`spread::least`].
    #[must_use]
    pub fn spread(&self, policy: Policy, admission: Admission, slots: &[usize]) -> Vec<SpreadTally> {
        let generated = self.steps.iter().filter(|s| s.0 == Phase::Decode).count();
        let mut seen = 0;
        let middle = self.steps.iter().position(|s| {
            seen += usize::from(s.0 == Phase::Decode);
            seen > generated / 2
        });
        let middle = middle.unwrap_or(self.steps.len());
        let [before, after] = [0..middle, middle..self.steps.len()].map(|counted| self.taught(counted));
        let one = |equal: usize| {
            let [first, second] = [&before, &after].map(|hits| spread::spread(hits, &self.bytes, equal, spread::least(equal)));
            SpreadTally {
                slots: equal,
                equal: self.second_half(policy, admission, equal, &vec![equal; self.layers], middle),
                spread: self.second_half(policy, admission, equal, &first, middle),
                hindsight: self.second_half(policy, admission, equal, &second, middle),
                range: (first.iter().copied().min().unwrap_or(0), first.iter().copied().max().unwrap_or(0)),
            }
        };
        slots.iter().map(|&s| one(s)).collect()
    }

    /// The curves of the given steps; those before only move the stack.
    fn taught(&self, counted: std::ops::Range<usize>) -> Vec<Vec<f64>> {
        let mut curve = Curve::new(self.layers, self.experts, None);
        for (step, &(phase, _)) in self.steps.iter().enumerate().take(counted.end) {
            let phase = if counted.contains(&step) { phase } else { Phase::Prefill };
            for layer in 0..self.layers {
                let tick = self.ticks[step * self.layers + layer];
                curve.tick(layer, &self.routed[tick.start..tick.end], phase);
            }
        }
        spread::hits(&curve)
    }

    fn second_half(&self, policy: Policy, admission: Admission, equal: usize, slots: &[usize], middle: usize) -> f64 {
        let mut scheduler = Scheduler::new(self.layers, self.experts, equal, policy, admission);
        let (mut hits, mut routed) = (0u64, 0u64);
        for (step, &(phase, tokens)) in self.steps.iter().enumerate() {
            if step == middle {
                let _ = scheduler.resize_layers(slots);
            }
            scheduler.begin_step(phase, tokens);
            for layer in 0..self.layers {
                let tick = self.ticks[step * self.layers + layer];
                let plan = scheduler.tick(layer, &self.routed[tick.start..tick.end]);
                if step < middle || phase == Phase::Prefill {
                    continue;
                }
                for p in &plan.placed {
                    let n = u64::from(p.routed.tokens);
                    routed += n;
                    hits += if p.outcome == Outcome::Hit { n } else { 0 };
                }
            }
        }
        hits as f64 / routed.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::session::Session;

    #[test]
    fn on_real_traces_slots_by_layer_are_within_the_same_total_and_measured_on_the_unseen_half() {
        for bytes in [
            &include_bytes!("../../../tests/traces/qwen3-30b-a3b.rotary")[..],
            &include_bytes!("../../../tests/traces/gpt-oss-120b.rotary")[..],
        ] {
            let prepared = Prepared::new(&Session::from_bytes(bytes.to_vec()).unwrap().routes().unwrap());
            for policy in [Policy::Lru, Policy::Rotary] {
                for t in prepared.spread(policy, policy.admission(), &[16, 24, 32, 48, 64]) {
                    println!("{policy:?} {t:?}");
                    assert!(t.range.0 >= spread::least(t.slots) && t.range.0 <= t.slots && t.slots <= t.range.1);
                    assert!([t.equal, t.spread, t.hindsight].iter().all(|r| (0.0..=1.0).contains(r)));
                    // The curve is that of LRU: what it teaches of the half that is counted can't be worse than equal slots there.
                    assert!(policy != Policy::Lru || t.hindsight > t.equal - 0.005, "{t:?}");
                }
            }
        }
    }
}
