//! The best that hindsight allows, and what plain LRU would have had, over a sliding window.
//!
//! Hit rate alone can't tell a bad policy from a working set that is too big. Belady's rule with bypass (keep
//! what is needed soonest; don't admit what is needed later than all that is kept) on the same routing bounds
//! every policy from above. It is worked out one layer per token, so that no single frame pays for it, and is
//! therefore up to as many tokens late as the model has layers. LRU runs along from the first step on, prompts included, on the
//! scheduler itself.

use crate::events::{Outcome, Phase, StepRecord};
use crate::experts::policy::{Admission, Policy};
use crate::experts::schedule::{Routed, Scheduler};
use std::collections::VecDeque;
use std::sync::Arc;

/// Generated tokens in the window.
pub(super) const WINDOW: usize = 192;
/// Tokens before a layer is judged.
const MIN_TOKENS: usize = 32;
/// Most experts of one layer and token that are kept.
const MAX_WIDTH: usize = 64;

/// One layer's past.
#[derive(Clone, Debug, Default)]
struct Past {
    /// Routed experts per token. Shared, as a replay keeps many copies of the window.
    ticks: VecDeque<Arc<[u16]>>,
    /// Hits per token, as they happened.
    hits: VecDeque<u32>,
    /// Hits per token that LRU would have had.
    lru: VecDeque<u32>,
    /// The window when it was last judged.
    judged: Option<Counts>,
}

/// Hits of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    best: u64,
    achieved: u64,
    lru: u64,
    uses: u64,
}

/// Hit rates on the same tokens at the same slots, 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Belady's rule with bypass, which knows the future.
    pub best: f64,
    /// As it happened.
    pub achieved: f64,
    /// Plain LRU that admits every miss.
    pub lru: f64,
    /// Slots filled at random: slots / experts.
    pub chance: f64,
}

/// What the hit rate suffers from most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Next to nothing.
    Plenty,
    /// Plain LRU would do clearly better.
    Lru,
    /// Uses hardly repeat: the best is not far from chance.
    NoReuse,
    /// Most misses could be avoided at these slots.
    Policy,
    /// Most misses could not: the working set is larger than the slots.
    WorkingSet,
    /// Some of both.
    Both,
}

impl Judged {
    /// Share of the misses that hindsight would have avoided at the same slots; 0 without misses.
    #[must_use]
    pub fn avoidable(&self) -> f64 {
        let misses = 1.0 - self.achieved;
        if misses > 0.0 {
            ((self.best - self.achieved) / misses).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    /// What the hit rate suffers from most.
    #[must_use]
    pub fn finding(&self) -> Finding {
        match self.avoidable() {
            _ if self.achieved >= 0.95 => Finding::Plenty,
            _ if self.lru > self.achieved + 0.02 => Finding::Lru,
            _ if self.best < self.chance + 0.1 => Finding::NoReuse,
            share if share >= 0.6 => Finding::Policy,
            share if share <= 0.4 => Finding::WorkingSet,
            _ => Finding::Both,
        }
    }
}

/// Sliding windows of all layers.
#[derive(Clone, Debug, Default)]
pub struct Regret {
    experts: usize,
    slots: usize,
    by_layer: Vec<usize>,
    layers: Vec<Past>,
    lru: Option<Scheduler>,
    routed: Vec<Routed>,
    turn: usize,
}

impl Regret {
    /// Empty windows.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        let lru = Scheduler::new(layers, experts, 0, Policy::Lru, Admission::ALWAYS);
        Self { experts, layers: vec![Past::default(); layers], lru: Some(lru), ..Self::default() }
    }

    /// Takes one step; a prompt only moves what LRU holds. A change of the slot count starts the windows anew.
    ///
    /// `by_layer` has the slots of each layer where they differ.
    pub fn push(&mut self, record: &StepRecord, slots: usize, by_layer: &[usize]) {
        let Some(lru) = &mut self.lru else { return };
        if slots != self.slots || by_layer != self.by_layer {
            self.slots = slots;
            self.by_layer = by_layer.to_vec();
            self.layers.fill(Past::default());
            let _ = if by_layer.is_empty() { lru.resize(slots) } else { lru.resize_layers(by_layer) };
        }
        lru.begin_step(record.phase, record.tokens);
        for (layer, past) in self.layers.iter_mut().enumerate() {
            let routed = record.layer(layer);
            self.routed.clear();
            self.routed.extend(routed.iter().take(MAX_WIDTH).map(|r| Routed {
                expert: r.expert,
                tokens: r.tokens.max(1),
                weight: r.weight,
            }));
            let held = lru.tick(layer, &self.routed).placed.iter().filter(|p| p.outcome == Outcome::Hit).count() as u32;
            if record.phase == Phase::Prefill {
                continue;
            }
            if past.ticks.len() >= WINDOW {
                past.lru.pop_front();
                past.hits.pop_front();
                past.ticks.pop_front();
            }
            let tick = routed.iter().map(|r| r.expert).filter(|e| usize::from(*e) < self.experts).take(MAX_WIDTH);
            past.ticks.push_back(tick.collect());
            past.lru.push_back(held);
            past.hits.push_back(routed.iter().take(MAX_WIDTH).filter(|r| r.outcome == Outcome::Hit).count() as u32);
        }
        if self.layers.is_empty() || record.phase == Phase::Prefill {
            return;
        }
        self.turn = (self.turn + 1) % self.layers.len();
        let (experts, slots) = (self.experts, self.by_layer.get(self.turn).copied().unwrap_or(self.slots));
        let past = &mut self.layers[self.turn];
        if past.ticks.len() >= MIN_TOKENS {
            let sum = |hits: &VecDeque<u32>| hits.iter().map(|h| u64::from(*h)).sum();
            past.judged = Some(Counts {
                best: best_hits(&past.ticks, experts, slots),
                achieved: sum(&past.hits),
                lru: sum(&past.lru),
                uses: past.ticks.iter().map(|t| t.len() as u64).sum(),
            });
        }
    }

    /// Hit rates over all layers judged so far; `None` before there is one.
    #[must_use]
    pub fn judged(&self) -> Option<Judged> {
        let sum = self.layers.iter().filter_map(|p| p.judged).fold(Counts::default(), |a, b| Counts {
            best: a.best + b.best,
            achieved: a.achieved + b.achieved,
            lru: a.lru + b.lru,
            uses: a.uses + b.uses,
        });
        let rate = |hits: u64| hits as f64 / sum.uses as f64;
        let chance = if self.experts == 0 { 0.0 } else { self.slots.min(self.experts) as f64 / self.experts as f64 };
        (sum.uses > 0).then(|| Judged { best: rate(sum.best), achieved: rate(sum.achieved), lru: rate(sum.lru), chance })
    }
}

/// Hits of Belady's rule with bypass, starting with the slots full of what is needed soonest, so that a short
/// window does not count first uses as misses.
fn best_hits(ticks: &VecDeque<Arc<[u16]>>, experts: usize, slots: usize) -> u64 {
    const NEVER: usize = usize::MAX;
    // next[t][i]: the tick after t that uses the i-th expert of tick t again.
    let mut soonest = vec![NEVER; experts];
    let mut next: Vec<Vec<usize>> = Vec::with_capacity(ticks.len());
    for (t, tick) in ticks.iter().enumerate().rev() {
        next.push(tick.iter().map(|e| soonest[usize::from(*e)]).collect());
        for e in &**tick {
            soonest[usize::from(*e)] = t;
        }
    }
    next.reverse();
    let mut first: Vec<usize> = (0..experts).filter(|e| soonest[*e] != NEVER).collect();
    first.sort_by_key(|e| soonest[*e]);
    let mut held = vec![false; experts];
    let mut kept: Vec<u16> = first.into_iter().take(slots).map(|e| e as u16).collect();
    kept.iter().for_each(|e| held[usize::from(*e)] = true);
    let mut hits = 0;
    for (tick, next) in ticks.iter().zip(&next) {
        hits += tick.iter().filter(|e| held[usize::from(**e)]).count() as u64;
        for (e, n) in tick.iter().zip(next) {
            soonest[usize::from(*e)] = *n;
        }
        for e in &**tick {
            if held[usize::from(*e)] || kept.is_empty() {
                continue;
            }
            let Some(worst) = (0..kept.len()).max_by_key(|k| soonest[usize::from(kept[*k])]) else { continue };
            if soonest[usize::from(*e)] < soonest[usize::from(kept[worst])] {
                held[usize::from(kept[worst])] = false;
                held[usize::from(*e)] = true;
                kept[worst] = *e;
            }
        }
    }
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(of: &[&[u16]]) -> VecDeque<Arc<[u16]>> {
        of.iter().map(|t| Arc::from(*t)).collect()
    }

    #[test]
    fn hindsight_keeps_what_comes_back_and_lets_the_rest_pass() {
        // One slot: 0 comes back each time, 1..4 never do.
        let t = ticks(&[&[0], &[1], &[0], &[2], &[0], &[3], &[0]]);
        assert_eq!(best_hits(&t, 5, 1), 4);
        assert_eq!(best_hits(&t, 5, 0), 0);
        assert_eq!(best_hits(&t, 5, 5), 7);
    }

    #[test]
    fn the_finding_tells_a_bad_policy_from_a_working_set_that_is_too_big() {
        let of = |best, achieved, lru| Judged { best, achieved, lru, chance: 0.25 }.finding();
        assert_eq!(of(0.99, 0.97, 0.96), Finding::Plenty);
        assert_eq!(of(0.90, 0.60, 0.70), Finding::Lru);
        assert_eq!(of(0.30, 0.26, 0.26), Finding::NoReuse);
        assert_eq!(of(0.90, 0.60, 0.60), Finding::Policy);
        assert_eq!(of(0.70, 0.60, 0.60), Finding::WorkingSet);
        assert_eq!(of(0.80, 0.60, 0.60), Finding::Both);
    }

    #[test]
    fn lru_runs_along_as_the_scheduler_would_run_it() {
        use crate::ui::experts_state::stream::Stream;
        let mut stream = Stream::new(3, 32, 4, 12, 5);
        let mut regret = Regret::new(3, 32);
        let mut own = Scheduler::new(3, 32, 12, Policy::Lru, Admission::ALWAYS);
        let (mut hits, mut uses) = (0, 0);
        let prompt = stream.prompt(20);
        for record in std::iter::once(prompt).chain((0..WINDOW).map(|_| stream.token())) {
            regret.push(&record, 12, &[]);
            own.begin_step(record.phase, record.tokens);
            for layer in 0..3 {
                let routed: Vec<Routed> =
                    record.layer(layer).iter().map(|r| Routed { expert: r.expert, tokens: r.tokens, weight: r.weight }).collect();
                let plan = own.tick(layer, &routed);
                if record.phase == Phase::Decode {
                    uses += plan.placed.len();
                    hits += plan.placed.iter().filter(|p| p.outcome == Outcome::Hit).count();
                }
            }
        }
        // Layers are judged in turn, so two of the three windows lack the last tokens.
        let judged = regret.judged().unwrap();
        assert!((judged.lru - hits as f64 / uses as f64).abs() < 0.01, "{judged:?} {hits} of {uses}");
        assert!(judged.best >= judged.lru && judged.best >= judged.achieved && judged.lru > judged.chance, "{judged:?}");
    }

    #[test]
    fn more_slots_never_cost_hits() {
        let mut random = fastrand::Rng::with_seed(5);
        let t: VecDeque<Arc<[u16]>> = (0..60).map(|_| random.choose_multiple(0..16u16, 3).into()).collect();
        let all: Vec<u64> = (0..=16).map(|s| best_hits(&t, 16, s)).collect();
        assert!(all.windows(2).all(|p| p[0] <= p[1]), "{all:?}");
        assert_eq!(all[16], 180);
    }
}
