//! What other policies and slot counts would have done with a recorded routing.
//!
//! The online policies run the scheduler itself, one run per slot count. `belady` is the bound that no policy can beat: it
//! knows the future, keeps what is needed soonest, and lets a miss pass by when everything resident is needed sooner. It is
//! a stack algorithm, so one pass gives every slot count. `chance` is what slots filled at random would hit: slots / experts.
//!
//! **What is counted.** Hits and routed experts of generation, once per token that chose them; a hit is judged against the
//! occupancy before the tick. The prompt at the beginning only warms the slots, and every layer gets the same warm-up: a
//! layer's first `P` ticks, with `P` the steps of that prompt. (Some traces lack the last layer in the prompt, because
//! engines skip what no logit needs; that layer's warm-up is then taken from its first generated tokens.)
//!
//! **How newcomers are admitted**, and whether experts come ahead, is as it was recorded where a policy is simulated that the trace was recorded
//! under, so that at the recorded slot count it does what it did; else it is the policy's own way.
//!
//! Where routers were asked before their turn, `rotary` is told what they said when the engine was told it, before each layer's tick.

mod belady;
mod contender;
pub mod spread;
mod tally;

pub use contender::Contender;
pub use tally::{ByExpert, LayerTotals, Tally};

use super::foretold::Foretold;
use super::routes::Routes;
use super::scheduling::{self, known};
use crate::events::{Outcome, Phase};
use crate::experts::policy::{Admission, Overlay, Policy};
use crate::experts::schedule::{Routed, Scheduler};
use belady::{BeladyStack, Sums};

/// The routing in the shape that the simulation wants, with each tick's part in the count.
pub struct Prepared {
    layers: usize,
    experts: usize,
    bytes: Vec<u64>,
    steps: Vec<(Phase, u32)>,
    ticks: Vec<Tick>,
    routed: Vec<Routed>,
    /// What became of each entry of `routed` when it was recorded.
    outcomes: Vec<Outcome>,
    /// Per entry of `routed`: the step in which its layer uses the expert next; `u32::MAX` if never.
    next_use: Vec<u32>,
    foretold: Foretold,
    /// How experts got slots when it was recorded, as far as that is known.
    scheduling: Option<(Policy, Admission)>,
}

#[derive(Clone, Copy)]
struct Tick {
    start: usize,
    end: usize,
    counted: bool,
}

impl Prepared {
    /// Arrange a trace for any number of simulations.
    #[must_use]
    pub fn new(routes: &Routes) -> Self {
        let (layers, experts) = (routes.head.layers, routes.head.experts);
        let warm = routes.steps().iter().take_while(|s| s.phase == Phase::Prefill).count();
        let mut seen = vec![0usize; layers];
        let mut ticks = Vec::with_capacity(routes.len() * layers);
        let mut routed = Vec::with_capacity(routes.routed());
        let mut outcomes = Vec::with_capacity(routes.routed());
        for (i, step) in routes.steps().iter().enumerate() {
            for (layer, seen) in seen.iter_mut().enumerate() {
                let start = routed.len();
                let tick = routes.tick(i, layer);
                routed.extend(tick.iter().map(|r| Routed { expert: r.expert, tokens: r.tokens, weight: r.weight }));
                outcomes.extend(tick.iter().map(|r| r.outcome));
                ticks.push(Tick { start, end: routed.len(), counted: step.phase == Phase::Decode && *seen >= warm });
                *seen += usize::from(!tick.is_empty());
            }
        }
        let mut next_use = vec![u32::MAX; routed.len()];
        let mut soonest = vec![u32::MAX; layers * experts];
        for (i, tick) in ticks.iter().enumerate().rev() {
            let (step, layer) = ((i / layers) as u32, i % layers);
            // Within a tick nobody is his own next use.
            for k in tick.start..tick.end {
                next_use[k] = soonest[layer * experts + usize::from(routed[k].expert)];
            }
            for r in &routed[tick.start..tick.end] {
                soonest[layer * experts + usize::from(r.expert)] = step;
            }
        }
        Self {
            layers,
            experts,
            bytes: (0..layers).map(|l| routes.expert_bytes(l)).collect(),
            steps: routes.steps().iter().map(|s| (s.phase, s.tokens)).collect(),
            ticks,
            routed,
            outcomes,
            next_use,
            foretold: routes.foretold().clone(),
            scheduling: routes.head.scheduling.as_ref().and_then(|named| known(named).ok()),
        }
    }

    /// Experts per layer.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Bytes of one expert, layer by layer.
    #[must_use]
    pub fn expert_bytes(&self) -> &[u64] {
        &self.bytes
    }

    /// How `policy` admits here unless told otherwise, with `wish` laid over it.
    #[must_use]
    pub fn admission(&self, policy: Policy, wish: Overlay) -> Admission {
        wish.laid_on(scheduling::admission(policy, self.scheduling))
    }

    /// Run the scheduler over the trace.
    #[must_use]
    pub fn online(&self, policy: Policy, admission: Admission, slots: usize) -> Tally {
        self.online_with(policy, admission, slots, |_, _, _| {})
    }

    /// The same; `seen` gets layer, routed expert and hit or miss of all that is counted.
    fn online_with(&self, policy: Policy, admission: Admission, slots: usize, mut seen: impl FnMut(usize, Routed, bool)) -> Tally {
        let mut tallies = vec![LayerTotals::default(); self.layers];
        let mut scheduler = Scheduler::new(self.layers, self.experts, slots, policy, admission);
        // Experts of each layer that came ahead of the step's tick.
        let mut ahead = vec![0u64; self.layers];
        let bring = |scheduler: &mut Scheduler, after: Option<usize>, ahead: &mut [u64]| {
            for layer in scheduler.foreseen(after) {
                ahead[layer] += scheduler.bring(layer).len() as u64;
            }
        };
        for (step, &(phase, tokens)) in self.steps.iter().enumerate() {
            scheduler.begin_step(phase, tokens);
            ahead.fill(0);
            bring(&mut scheduler, None, &mut ahead);
            for (layer, t) in tallies.iter_mut().enumerate() {
                let tick = self.ticks[step * self.layers + layer];
                self.foretold.tell(step, layer, &mut scheduler);
                scheduler.tick(layer, &self.routed[tick.start..tick.end]);
                bring(&mut scheduler, Some(layer), &mut ahead);
                let plan = scheduler.plan();
                if !tick.counted || plan.placed.is_empty() {
                    continue;
                }
                let mut missed = 0u64;
                for p in &plan.placed {
                    let n = u64::from(p.routed.tokens);
                    let hit = p.outcome == Outcome::Hit;
                    t.routed += n;
                    if hit {
                        t.hits += n as f64;
                    } else {
                        missed += 1;
                    }
                    seen(layer, p.routed, hit);
                }
                t.count(plan.placed.len() as u64, missed, plan.swaps.len() as u64, ahead[layer]);
            }
        }
        Tally::of(Contender::Online(policy), slots, tallies, &self.bytes)
    }

    /// What happened when the trace was recorded, at the `slots` of then (0 if they are not known).
    #[must_use]
    pub fn recorded(&self, slots: usize) -> Tally {
        self.recorded_with(slots, |_, _, _| {})
    }

    fn recorded_with(&self, slots: usize, mut seen: impl FnMut(usize, Routed, bool)) -> Tally {
        let mut tallies = vec![LayerTotals::default(); self.layers];
        for (i, tick) in self.ticks.iter().enumerate().filter(|(_, t)| t.counted && t.end > t.start) {
            let t = &mut tallies[i % self.layers];
            let (mut missed, mut moved) = (0, 0);
            for k in tick.start..tick.end {
                let (r, outcome) = (self.routed[k], self.outcomes[k]);
                let hit = outcome == Outcome::Hit;
                t.routed += u64::from(r.tokens);
                t.hits += if hit { f64::from(r.tokens) } else { 0.0 };
                missed += u64::from(!hit);
                moved += u64::from(outcome == Outcome::Admitted);
                seen(i % self.layers, r, hit);
            }
            t.count((tick.end - tick.start) as u64, missed, moved, 0);
        }
        Tally::of(Contender::Recorded, slots, tallies, &self.bytes)
    }

    /// Belady's bound at each of `slots`, in one pass.
    #[must_use]
    pub fn belady(&self, slots: &[usize]) -> Vec<Tally> {
        let mut by_layer = Vec::with_capacity(self.layers);
        for layer in 0..self.layers {
            let mut sums = Sums::new(self.experts);
            let mut stack = BeladyStack::new(self.experts);
            for tick in self.ticks.iter().skip(layer).step_by(self.layers) {
                let range = tick.start..tick.end;
                stack.tick(&self.routed[range.clone()], &self.next_use[range]);
                if tick.counted {
                    sums.add(&stack.moves);
                }
            }
            by_layer.push(sums.tallies());
        }
        slots
            .iter()
            .map(|&s| {
                let s = s.min(self.experts);
                Tally::of(Contender::Belady, s, by_layer.iter().map(|of| of[s]).collect(), &self.bytes)
            })
            .collect()
    }

    /// Slots filled at random and never changed.
    #[must_use]
    pub fn chance(&self, slots: usize) -> Tally {
        let mut tallies = vec![LayerTotals::default(); self.layers];
        let p = self.odds(slots);
        for (i, tick) in self.ticks.iter().enumerate().filter(|(_, t)| t.counted && t.end > t.start) {
            let t = &mut tallies[i % self.layers];
            let reads = (tick.end - tick.start) as u64;
            let routed = self.routed[tick.start..tick.end].iter().map(|r| u64::from(r.tokens)).sum::<u64>();
            t.ticks += 1;
            t.routed += routed;
            t.hits += routed as f64 * p;
            t.reads += reads;
            t.missed += reads as f64 * (1.0 - p);
            t.missing += 1.0 - p.powi(i32::try_from(reads).unwrap_or(i32::MAX));
            t.passing = t.missing;
        }
        Tally::of(Contender::Chance, slots, tallies, &self.bytes)
    }

    fn odds(&self, slots: usize) -> f64 {
        if self.experts == 0 {
            0.0
        } else {
            slots.min(self.experts) as f64 / self.experts as f64
        }
    }

    /// One contender at one slot count, with the hits of every expert. See [`Prepared::admission`] for what `admission` is laid over.
    #[must_use]
    pub fn by_expert(&self, contender: Contender, slots: usize, admission: Overlay) -> (Tally, ByExpert) {
        let n = self.layers * self.experts;
        let mut by = ByExpert { routed: vec![0; n], hits: vec![0.0; n] };
        let experts = self.experts;
        let odds = self.odds(slots);
        let mut seen = |layer: usize, r: Routed, hits: f64| {
            let i = layer * experts + usize::from(r.expert);
            by.routed[i] += u64::from(r.tokens);
            by.hits[i] += f64::from(r.tokens) * hits;
        };
        let tally = match contender {
            Contender::Online(policy) => {
                self.online_with(policy, self.admission(policy, admission), slots, |layer, r, hit| seen(layer, r, f64::from(u8::from(hit))))
            }
            Contender::Recorded => self.recorded_with(slots, |layer, r, hit| seen(layer, r, f64::from(u8::from(hit)))),
            Contender::Chance => {
                self.recorded_with(0, |layer, r, _| seen(layer, r, odds));
                self.chance(slots)
            }
            Contender::Belady => {
                for layer in 0..self.layers {
                    let mut stack = BeladyStack::new(self.experts);
                    for tick in self.ticks.iter().skip(layer).step_by(self.layers) {
                        let range = tick.start..tick.end;
                        stack.tick(&self.routed[range.clone()], &self.next_use[range.clone()]);
                        if tick.counted {
                            for (r, m) in self.routed[range].iter().zip(&stack.moves) {
                                seen(layer, *r, f64::from(u8::from(m.before < slots)));
                            }
                        }
                    }
                }
                self.belady(&[slots]).remove(0)
            }
        };
        (tally, by)
    }

    /// Every contender at every slot count, contender after contender. See [`Prepared::admission`] for what `admission` is laid over.
    #[must_use]
    pub fn table(&self, contenders: &[Contender], slots: &[usize], admission: Overlay) -> Vec<Tally> {
        let mut table = Vec::with_capacity(contenders.len() * slots.len());
        for &contender in contenders {
            match contender {
                Contender::Online(policy) => {
                    let admission = self.admission(policy, admission);
                    table.extend(slots.iter().map(|&s| self.online(policy, admission, s)));
                }
                Contender::Belady => table.extend(self.belady(slots)),
                Contender::Chance => table.extend(slots.iter().map(|&s| self.chance(s))),
                Contender::Recorded => table.extend(slots.iter().map(|&s| self.recorded(s))),
            }
        }
        table
    }
}

#[cfg(test)]
mod tests;
