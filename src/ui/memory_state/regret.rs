//! The best that hindsight allows, over a sliding window.
//!
//! Hit rate alone can't tell a bad policy from a working set that is too big. Belady's rule with bypass (keep
//! what is needed soonest; don't admit what is needed later than all that is kept) on the same routing bounds
//! every policy from above. It is worked out one layer per token, so that no single frame pays for it, and is
//! therefore up to as many tokens late as the model has layers.

use crate::events::{Outcome, StepRecord};
use std::collections::VecDeque;

/// Generated tokens in the window.
const WINDOW: usize = 192;
/// Tokens before a layer is judged.
const MIN_TOKENS: usize = 32;
/// Most experts of one layer and token that are kept.
const MAX_WIDTH: usize = 64;

/// One layer's past.
#[derive(Clone, Debug, Default)]
struct Past {
    /// Routed experts per token.
    ticks: VecDeque<Vec<u16>>,
    /// Hits per token, as they happened.
    hits: VecDeque<u32>,
    /// Best possible hits, hits as they happened, uses, in the window when it was last judged.
    judged: Option<(u64, u64, u64)>,
}

/// Sliding windows of all layers.
#[derive(Clone, Debug, Default)]
pub struct Regret {
    experts: usize,
    slots: usize,
    layers: Vec<Past>,
    turn: usize,
}

impl Regret {
    /// Empty windows.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        Self { experts, slots: 0, layers: vec![Past::default(); layers], turn: 0 }
    }

    /// Takes one generated token; a change of the slot count starts the windows anew.
    pub fn push(&mut self, record: &StepRecord, slots: usize) {
        if slots != self.slots {
            self.slots = slots;
            self.layers.fill(Past::default());
        }
        for (layer, past) in self.layers.iter_mut().enumerate() {
            let routed = record.layer(layer);
            let mut tick = if past.ticks.len() >= WINDOW {
                past.hits.pop_front();
                past.ticks.pop_front().unwrap_or_default()
            } else {
                Vec::new()
            };
            tick.clear();
            tick.extend(routed.iter().map(|r| r.expert).filter(|e| usize::from(*e) < self.experts).take(MAX_WIDTH));
            past.ticks.push_back(tick);
            past.hits.push_back(routed.iter().take(MAX_WIDTH).filter(|r| r.outcome == Outcome::Hit).count() as u32);
        }
        if self.layers.is_empty() {
            return;
        }
        self.turn = (self.turn + 1) % self.layers.len();
        let (experts, slots) = (self.experts, self.slots);
        let past = &mut self.layers[self.turn];
        if past.ticks.len() >= MIN_TOKENS {
            let uses = past.ticks.iter().map(|t| t.len() as u64).sum();
            let hits = past.hits.iter().map(|h| u64::from(*h)).sum();
            past.judged = Some((best_hits(&past.ticks, experts, slots), hits, uses));
        }
    }

    /// Best possible hit rate and the rate achieved on the same tokens, 0..1, over all layers judged so far.
    #[must_use]
    pub fn best_and_achieved(&self) -> Option<(f64, f64)> {
        let sum = self.layers.iter().filter_map(|p| p.judged).fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
        (sum.2 > 0).then(|| (sum.0 as f64 / sum.2 as f64, sum.1 as f64 / sum.2 as f64))
    }
}

/// Hits of Belady's rule with bypass, starting with the slots full of what is needed soonest, so that a short
/// window does not count first uses as misses.
fn best_hits(ticks: &VecDeque<Vec<u16>>, experts: usize, slots: usize) -> u64 {
    const NEVER: usize = usize::MAX;
    // next[t][i]: the tick after t that uses the i-th expert of tick t again.
    let mut soonest = vec![NEVER; experts];
    let mut next: Vec<Vec<usize>> = Vec::with_capacity(ticks.len());
    for (t, tick) in ticks.iter().enumerate().rev() {
        next.push(tick.iter().map(|e| soonest[usize::from(*e)]).collect());
        for e in tick {
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
        for e in tick {
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

    fn ticks(of: &[&[u16]]) -> VecDeque<Vec<u16>> {
        of.iter().map(|t| t.to_vec()).collect()
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
    fn more_slots_never_cost_hits() {
        let mut random = fastrand::Rng::with_seed(5);
        let t: VecDeque<Vec<u16>> = (0..60).map(|_| random.choose_multiple(0..16u16, 3)).collect();
        let all: Vec<u64> = (0..=16).map(|s| best_hits(&t, 16, s)).collect();
        assert!(all.windows(2).all(|p| p[0] <= p[1]), "{all:?}");
        assert_eq!(all[16], 180);
    }
}
