//! The scheduler: routed ids in, a plan out. Which slot serves which expert; which misses are admitted, and who leaves.
//!
//! It is pure: no device, no clock, no randomness, and no allocation per tick or step once it is built. The simulator,
//! the tests, the CPU tier and any device tier run this same code, so what is proven here holds for all of them.
//!
//! Rules that no policy can break:
//!
//! - A hit is judged against the occupancy *before* the tick.
//! - Nothing that is used in a tick is evicted in it, neither hits nor newcomers.
//! - A miss need not be admitted; it is then computed from the host tier.
//! - The plan is a function of the routing so far (and of resizes and policy changes, and of what it is told to foresee), of nothing else.
//!
//! Between ticks, [`Scheduler::bring`] gives slots to experts that the token at hand will probably ask for.

mod ahead;
mod apart;
mod fill;
mod resize;

pub use ahead::{comes_in_time, LEAD};
pub use resize::{Evict, Move, Resize};

use super::duels::Duels;
use super::measures::{ceiling, Measures};
use super::policy::{Admission, Policy, Worth};
use crate::events::{Outcome, Phase, NO_SLOT};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One routed expert of a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Expert id within the layer.
    pub expert: u16,
    /// Tokens of the step that chose it.
    pub tokens: u16,
    /// Gate weight, summed over those tokens.
    pub weight: f32,
}

/// One routed expert, with what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// As it was routed.
    pub routed: Routed,
    /// Hit, miss, or a miss that gets a slot in this tick.
    pub outcome: Outcome,
    /// The slot that serves it (hit) or that it gets (admitted); [`NO_SLOT`] for a miss.
    pub slot: u16,
}

/// An expert gets a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Who comes.
    pub expert: u16,
    /// Where to.
    pub slot: u16,
    /// Who leaves; `None` if the slot was empty.
    pub evicted: Option<u16>,
}

/// What one layer does in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerPlan {
    /// Layer index.
    pub layer: usize,
    /// Every routed expert once, in the order in which they were given.
    pub placed: Vec<Placed>,
    /// Copies into slots, most worthy newcomer first. The slots differ from each other and from those of the hits.
    pub swaps: Vec<Swap>,
}

/// Keeps the tables `expert -> slot` and `slot -> expert` of all layers and decides every swap.
#[derive(Clone, Debug)]
pub struct Scheduler {
    experts: usize,
    policy: Policy,
    admission: Admission,
    phase: Phase,
    tokens: u32,
    measures: Measures,
    duels: Duels,
    /// `[layers * experts]`, [`NO_SLOT`] if none.
    slot_of: Vec<u16>,
    /// Per layer, one entry per slot; [`EMPTY`] if free.
    expert_in: Vec<Vec<u16>>,
    /// Occupied slots per layer.
    occupied: Vec<usize>,
    /// Stamp of the last tick that used the expert, `[layers * experts]`.
    used: Vec<u64>,
    tick: u64,
    plan: LayerPlan,
    /// Buffers of a tick: misses as (worth, place in the plan); residents that the tick does not use.
    newcomers: Vec<(Worth, u16)>,
    /// Most empty slots that a tick fills, in decode and in prefill.
    fill: [usize; 2],
    victims: Vec<Reverse<Worth>>,
    /// See [`Scheduler::foresee`]; layers that follow each other have a place each.
    foreseen: [ahead::Foreseen; ahead::LEAD],
    /// See [`Scheduler::bring`]: how likely each expert is, `[experts]`, candidates, and those that came.
    soon: Vec<f32>,
    likely: Vec<u16>,
    ahead: Vec<Swap>,
}

/// Marks a free slot in the table `slot -> expert`.
pub const EMPTY: u16 = u16::MAX;

impl Scheduler {
    /// A scheduler with empty slots: `slots` per layer, at most one per expert. Expert ids and slots are 16-bit;
    /// `experts` is capped at 65,535.
    #[must_use]
    pub fn new(layers: usize, experts: usize, slots: usize, policy: Policy, admission: Admission) -> Self {
        let experts = experts.min(usize::from(u16::MAX));
        let slots = slots.min(experts);
        let room = |n: usize| {
            let mut v = Vec::with_capacity(experts);
            v.resize(n, EMPTY);
            v
        };
        let mut measures = Measures::new(layers, experts);
        measures.serve(policy);
        Self {
            experts,
            policy,
            admission,
            phase: Phase::Decode,
            tokens: 1,
            measures,
            duels: Duels::new(layers, experts),
            slot_of: vec![NO_SLOT; layers * experts],
            expert_in: (0..layers).map(|_| room(slots)).collect(),
            occupied: vec![0; layers],
            used: vec![0; layers * experts],
            tick: 0,
            plan: LayerPlan { layer: 0, placed: Vec::with_capacity(experts), swaps: Vec::with_capacity(experts) },
            newcomers: Vec::with_capacity(experts),
            fill: [usize::MAX; 2],
            victims: Vec::with_capacity(experts),
            foreseen: std::array::from_fn(|_| ahead::Foreseen::with_room(experts)),
            soon: Vec::with_capacity(experts),
            likely: Vec::with_capacity(experts),
            ahead: Vec::with_capacity(experts),
        }
    }

    /// A step of `tokens` tokens begins; its ticks follow, each layer at most once.
    pub fn begin_step(&mut self, phase: Phase, tokens: u32) {
        self.phase = phase;
        self.tokens = tokens.max(1);
        self.measures.begin_step(phase, tokens);
        self.foreseen.iter_mut().for_each(ahead::Foreseen::forget);
    }

    /// Plan one layer of the step at hand. In decode the routed experts come best gate first; of two experts of one tick
    /// the later one counts as more recent. Ids out of range and repeated ids are left out of the plan.
    ///
    /// The swaps are already entered in the tables when this returns: the caller carries them out, or is broken.
    pub fn tick(&mut self, layer: usize, routed: &[Routed]) -> &LayerPlan {
        self.tick_of(layer, routed, true);
        &self.plan
    }

    /// `remember`: the token is to be recognised by it.
    fn tick_of(&mut self, layer: usize, routed: &[Routed], remember: bool) {
        self.plan.layer = layer;
        self.plan.placed.clear();
        self.plan.swaps.clear();
        self.newcomers.clear();
        if layer >= self.expert_in.len() {
            return;
        }
        self.tick += 1;
        let base = layer * self.experts;
        let uses: u32 = routed.iter().map(|r| u32::from(r.tokens)).sum();
        let ceiling = ceiling(f64::from(uses) / f64::from(self.tokens), self.expert_in[layer].len());
        for r in routed {
            let i = base + usize::from(r.expert);
            if usize::from(r.expert) >= self.experts || self.used[i] == self.tick {
                continue;
            }
            self.used[i] = self.tick;
            self.measures.note(layer, r.expert, u32::from(r.tokens), ceiling);
            let slot = self.slot_of[i];
            let outcome = if slot == NO_SLOT { Outcome::Miss } else { Outcome::Hit };
            self.plan.placed.push(Placed { routed: *r, outcome, slot });
        }
        if remember {
            self.measures.remember(layer, self.plan.placed.iter().map(|p| p.routed.expert));
        }
        if self.policy == Policy::Rotary && self.plan.placed.iter().any(|p| p.outcome == Outcome::Miss) {
            self.measures.foresee(layer);
        }
        for (place, p) in self.plan.placed.iter().enumerate() {
            let expert = p.routed.expert;
            self.duels.used(layer, expert, |other| self.used[base + usize::from(other)] == self.tick);
            if p.outcome == Outcome::Miss {
                self.newcomers.push((self.measures.worth(self.policy, layer, expert), place as u16));
            }
        }
        if !self.newcomers.is_empty() {
            self.admit(layer);
        }
    }

    /// The plan of the latest tick.
    #[must_use]
    pub fn plan(&self) -> &LayerPlan {
        &self.plan
    }

    /// Give slots to the newcomers of this tick: empty slots first, then those of victims.
    fn admit(&mut self, layer: usize) {
        if self.policy != Policy::Lru {
            // Most worthy first; equals in the order in which they were routed. Under LRU the routed order decides alone.
            self.newcomers.sort_unstable_by(|(a, i), (b, j)| b.uses.total_cmp(&a.uses).then(i.cmp(j)));
        }
        let mut next = 0;
        if self.occupied[layer] < self.expert_in[layer].len() {
            let most = self.fill[usize::from(self.phase == Phase::Prefill)];
            for slot in 0..self.expert_in[layer].len() {
                if next == self.newcomers.len() || next == most {
                    return;
                }
                if self.expert_in[layer][slot] == EMPTY {
                    self.place(layer, next, slot as u16, None);
                    next += 1;
                }
            }
        }
        let cap = match self.phase {
            Phase::Decode => self.admission.per_tick,
            Phase::Prefill => self.admission.per_prefill_tick,
        };
        if next >= self.newcomers.len() || cap == 0 {
            return;
        }
        let mut victims = std::mem::take(&mut self.victims);
        victims.clear();
        let base = layer * self.experts;
        for &expert in &self.expert_in[layer] {
            if expert != EMPTY && self.used[base + usize::from(expert)] != self.tick {
                victims.push(Reverse(self.measures.worth(self.policy, layer, expert)));
            }
        }
        let mut heap = BinaryHeap::from(victims);
        let margin = self.admission.margin.max(0.0);
        let mut replaced = 0;
        for next in next..self.newcomers.len() {
            if replaced == cap {
                break;
            }
            let Some(Reverse(victim)) = heap.pop() else { break };
            let newcomer = self.newcomers[next].0;
            let wanted = match self.policy {
                Policy::Rotary => self.duels.judge(layer, (newcomer.expert, newcomer.uses), (victim.expert, victim.uses), margin),
                Policy::Decay => margin == 0.0 || newcomer.uses > victim.uses * margin,
                Policy::Lru | Policy::Lfu => true,
            };
            if !wanted {
                // Newcomers come in falling worth and victims in rising worth, so none of the rest passes either; but
                // what becomes of them is worth knowing.
                continue;
            }
            let slot = self.slot_of[base + usize::from(victim.expert)];
            self.slot_of[base + usize::from(victim.expert)] = NO_SLOT;
            self.occupied[layer] -= 1;
            self.place(layer, next, slot, Some(victim.expert));
            replaced += 1;
        }
        self.victims = heap.into_vec();
    }

    /// Enter newcomer number `n` of this tick into `slot`, in the tables and in the plan.
    fn place(&mut self, layer: usize, n: usize, slot: u16, evicted: Option<u16>) {
        let (worth, place) = self.newcomers[n];
        self.slot_of[layer * self.experts + usize::from(worth.expert)] = slot;
        self.expert_in[layer][usize::from(slot)] = worth.expert;
        self.occupied[layer] += 1;
        let placed = &mut self.plan.placed[usize::from(place)];
        placed.outcome = Outcome::Admitted;
        placed.slot = slot;
        self.plan.swaps.push(Swap { expert: worth.expert, slot, evicted });
    }

    /// A slot that the latest tick gave is empty after all: the copy into it failed.
    pub fn revoke(&mut self, layer: usize, expert: u16) {
        let Some(slot) = self.slot_of(layer, expert) else { return };
        self.slot_of[layer * self.experts + usize::from(expert)] = NO_SLOT;
        self.expert_in[layer][usize::from(slot)] = EMPTY;
        self.occupied[layer] -= 1;
    }

    /// Fill at most so many empty slots per tick from now on (at least one), in decode and in prefill; no limit at first. A
    /// tier whose misses cost little more than hits need not pay for all its copies at once.
    pub fn limit_fill(&mut self, decode: usize, prefill: usize) {
        self.fill = [decode.max(1), prefill.max(1)];
    }

    /// Change the policy; residents and measures stay. The first change to `rotary` makes room for what it remembers.
    pub fn set_policy(&mut self, policy: Policy, admission: Admission) {
        self.policy = policy;
        self.admission = admission;
        self.measures.serve(policy);
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// How readily misses get slots.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// Layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.expert_in.len()
    }

    /// Experts per layer.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Slots of a layer; 0 for a layer out of range.
    #[must_use]
    pub fn slots(&self, layer: usize) -> usize {
        self.expert_in.get(layer).map_or(0, Vec::len)
    }

    /// Occupied slots of a layer.
    #[must_use]
    pub fn occupied(&self, layer: usize) -> usize {
        self.occupied.get(layer).copied().unwrap_or(0)
    }

    /// The slot of an expert, if it has one.
    #[must_use]
    pub fn slot_of(&self, layer: usize, expert: u16) -> Option<u16> {
        if usize::from(expert) >= self.experts {
            return None;
        }
        self.slot_of.get(layer * self.experts + usize::from(expert)).copied().filter(|&s| s != NO_SLOT)
    }

    /// The expert in a slot, if there is one.
    #[must_use]
    pub fn expert_in(&self, layer: usize, slot: u16) -> Option<u16> {
        self.expert_in.get(layer)?.get(usize::from(slot)).copied().filter(|&e| e != EMPTY)
    }

    /// The residents of a layer as `(slot, expert)`, in the order of slots.
    pub fn residents(&self, layer: usize) -> impl Iterator<Item = (u16, u16)> + '_ {
        let slots = self.expert_in.get(layer).map_or(&[][..], Vec::as_slice);
        slots.iter().enumerate().filter(|(_, &e)| e != EMPTY).map(|(s, &e)| (s as u16, e))
    }

    /// `[layers * experts]`: the slot of each expert or [`NO_SLOT`], as [`crate::events::StepRecord::slot_of`] wants it.
    #[must_use]
    pub fn slot_table(&self) -> &[u16] {
        &self.slot_of
    }

    /// Decayed use of an expert as a rate per token, 0 to 1.
    #[must_use]
    pub fn heat(&self, layer: usize, expert: usize) -> f32 {
        self.measures.heat(layer, expert)
    }

    /// What the policies know about every expert.
    #[must_use]
    pub fn measures(&self) -> &Measures {
        &self.measures
    }
}

#[cfg(test)]
mod tests;
