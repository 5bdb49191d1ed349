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
//! - The plan is a function of the routing so far (and of resizes and policy changes), of nothing else.
//!
//! Between ticks, [`Scheduler::bring`] gives slots to experts that the token at hand will probably ask for.

mod ahead;

pub use ahead::comes_in_time;

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
    /// Tokens of the step that chose it (1 in decode).
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

/// A resident changes its slot because its old one goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Layer index.
    pub layer: usize,
    /// Who moves.
    pub expert: u16,
    /// Slot that goes away.
    pub from: u16,
    /// Slot that remains; it is empty, or its resident is among the evicted.
    pub to: u16,
}

/// A resident loses its slot because there are fewer of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evict {
    /// Layer index.
    pub layer: usize,
    /// Who leaves.
    pub expert: u16,
    /// The slot it had.
    pub slot: u16,
}

/// What a change of the slot count asks of a tier: first forget the evicted, then carry out the moves (in any order:
/// no move reads a slot that another writes), then give back the slots beyond the new count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Residents that leave, least worthy of each layer first.
    pub evicted: Vec<Evict>,
    /// Residents that stay in another slot.
    pub moves: Vec<Move>,
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
    /// See [`Scheduler::bring`]: candidates, and those that came.
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
            likely: Vec::with_capacity(experts),
            ahead: Vec::with_capacity(experts),
        }
    }

    /// A step of `tokens` tokens begins; its ticks follow, each layer at most once.
    pub fn begin_step(&mut self, phase: Phase, tokens: u32) {
        self.phase = phase;
        self.tokens = tokens.max(1);
        self.measures.begin_step(phase, tokens);
    }

    /// Plan one layer of the step at hand. In decode the routed experts come best gate first; of two experts of one tick
    /// the later one counts as more recent. Ids out of range and repeated ids are left out of the plan.
    ///
    /// The swaps are already entered in the tables when this returns: the caller carries them out, or is broken.
    pub fn tick(&mut self, layer: usize, routed: &[Routed]) -> &LayerPlan {
        self.plan.layer = layer;
        self.plan.placed.clear();
        self.plan.swaps.clear();
        self.newcomers.clear();
        if layer >= self.expert_in.len() {
            return &self.plan;
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
        self.measures.remember(layer, self.plan.placed.iter().map(|p| p.routed.expert));
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
        &self.plan
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

    /// Give empty slots of a layer to these experts, the most worthy first, as far as there are slots, as if each had just been
    /// used once, the most worthy last. What has a slot is passed over. The caller carries the swaps out.
    pub fn prefill(&mut self, layer: usize, experts: &[u16]) -> Vec<Swap> {
        let base = layer * self.experts;
        let mut swaps = Vec::new();
        let Some(slots) = self.expert_in.get_mut(layer) else { return swaps };
        let ceiling = ceiling(1.0, slots.len());
        let mut newcomers = experts.iter();
        for (slot, resident) in slots.iter_mut().enumerate().filter(|(_, resident)| **resident == EMPTY) {
            let absent = |e: &&u16| usize::from(**e) < self.experts && self.slot_of[base + usize::from(**e)] == NO_SLOT;
            let Some(&expert) = newcomers.find(absent) else { break };
            *resident = expert;
            self.slot_of[base + usize::from(expert)] = slot as u16;
            self.occupied[layer] += 1;
            swaps.push(Swap { expert, slot: slot as u16, evicted: None });
        }
        for swap in swaps.iter().rev() {
            self.measures.note(layer, swap.expert, 1, ceiling);
        }
        swaps
    }

    /// Give an empty slot of a layer to an expert that has none, by number, although nobody has used it. `None` if there is no such slot or no such
    /// expert. The caller carries the swap out.
    pub fn fill_up(&mut self, layer: usize) -> Option<Swap> {
        if self.occupied(layer) == self.slots(layer) {
            return None;
        }
        let base = layer * self.experts;
        let slot = self.expert_in[layer].iter().position(|&e| e == EMPTY)?;
        let expert = (0..self.experts).find(|e| self.slot_of[base + e] == NO_SLOT)? as u16;
        self.expert_in[layer][slot] = expert;
        self.slot_of[base + usize::from(expert)] = slot as u16;
        self.occupied[layer] += 1;
        Some(Swap { expert, slot: slot as u16, evicted: None })
    }

    /// Change the slots of every layer to `slots` (at most one per expert). See [`Scheduler::resize_layers`].
    pub fn resize(&mut self, slots: usize) -> Resize {
        self.resize_layers(&vec![slots; self.layers()])
    }

    /// Change the slots of each layer; layers beyond the list keep theirs. Growth adds empty slots and moves nobody.
    /// Shrinking keeps the most worthy residents by the policy's order and moves those whose slot goes away.
    pub fn resize_layers(&mut self, slots: &[usize]) -> Resize {
        let mut resize = Resize::default();
        for (layer, &wanted) in slots.iter().enumerate().take(self.layers()) {
            self.resize_layer(layer, wanted.min(self.experts), &mut resize);
        }
        resize
    }

    fn resize_layer(&mut self, layer: usize, slots: usize, resize: &mut Resize) {
        let base = layer * self.experts;
        if slots < self.expert_in[layer].len() && self.occupied[layer] > slots {
            let mut residents: Vec<Worth> =
                self.residents(layer).map(|(_, expert)| self.measures.worth(self.policy, layer, expert)).collect();
            residents.sort_unstable();
            residents.truncate(self.occupied[layer] - slots);
            for Worth { expert, .. } in residents {
                let slot = std::mem::replace(&mut self.slot_of[base + usize::from(expert)], NO_SLOT);
                self.expert_in[layer][usize::from(slot)] = EMPTY;
                self.occupied[layer] -= 1;
                resize.evicted.push(Evict { layer, expert, slot });
            }
        }
        let mut free = 0;
        for from in slots..self.expert_in[layer].len() {
            let expert = self.expert_in[layer][from];
            if expert == EMPTY {
                continue;
            }
            while self.expert_in[layer][free] != EMPTY {
                free += 1;
            }
            self.expert_in[layer][free] = expert;
            self.slot_of[base + usize::from(expert)] = free as u16;
            resize.moves.push(Move { layer, expert, from: from as u16, to: free as u16 });
        }
        self.expert_in[layer].resize(slots, EMPTY);
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a session may do to a scheduler.
    #[derive(Clone, Debug)]
    enum Act {
        Step { phase: Phase, tokens: u32, routed: Vec<Vec<u16>> },
        Resize(usize),
        Unequal(Vec<usize>),
        Policy(Policy),
        Prefill(usize, Vec<u16>),
    }

    const LAYERS: usize = 3;
    const EXPERTS: usize = 12;

    fn policy() -> impl Strategy<Value = Policy> {
        prop::sample::select(Policy::ALL.to_vec())
    }

    fn admission() -> impl Strategy<Value = Admission> {
        (prop::sample::select(vec![0.0, 1.0, 1.1, 2.0]), 0usize..5, 0usize..9, 0usize..4)
            .prop_map(|(margin, per_tick, per_prefill_tick, ahead)| Admission { margin, per_tick, per_prefill_tick, ahead })
    }

    fn act() -> impl Strategy<Value = Act> {
        let set = || prop::collection::vec(0u16..EXPERTS as u16, 1..=EXPERTS);
        let decode = prop::collection::vec(prop::collection::vec(0u16..EXPERTS as u16, 1..=4), LAYERS).prop_map(|routed| Act::Step {
            phase: Phase::Decode,
            tokens: 1,
            routed,
        });
        let prefill = (2u32..600, prop::collection::vec(set(), LAYERS)).prop_map(|(tokens, routed)| Act::Step {
            phase: Phase::Prefill,
            tokens,
            routed,
        });
        prop_oneof![
            8 => decode,
            2 => prefill,
            1 => (0usize..=EXPERTS + 2).prop_map(Act::Resize),
            1 => prop::collection::vec(0usize..=EXPERTS, 0..=LAYERS).prop_map(Act::Unequal),
            1 => policy().prop_map(Act::Policy),
            1 => (0..LAYERS + 1, prop::collection::vec(0u16..EXPERTS as u16 + 2, 0..9)).prop_map(|(l, e)| Act::Prefill(l, e)),
        ]
    }

    fn routed(ids: &[u16], tokens: u16) -> Vec<Routed> {
        ids.iter().map(|&expert| Routed { expert, tokens, weight: 0.5 }).collect()
    }

    fn tables_agree(s: &Scheduler) -> Result<(), TestCaseError> {
        for layer in 0..s.layers() {
            prop_assert!(s.occupied(layer) <= s.slots(layer));
            prop_assert_eq!(s.residents(layer).count(), s.occupied(layer));
            for (slot, expert) in s.residents(layer) {
                prop_assert_eq!(s.slot_of(layer, expert), Some(slot));
                prop_assert_eq!(s.expert_in(layer, slot), Some(expert));
            }
            let with_slot = (0..EXPERTS as u16).filter(|&e| s.slot_of(layer, e).is_some()).count();
            prop_assert_eq!(with_slot, s.occupied(layer));
        }
        Ok(())
    }

    /// Check one plan against the tables before (`old`) and after.
    fn plan_is_sound(old: &Scheduler, new: &Scheduler, plan: &LayerPlan, ids: &[u16]) -> Result<(), TestCaseError> {
        let layer = plan.layer;
        let mut distinct: Vec<u16> = Vec::new();
        ids.iter().for_each(|e| {
            if !distinct.contains(e) {
                distinct.push(*e)
            }
        });
        let planned: Vec<u16> = plan.placed.iter().map(|p| p.routed.expert).collect();
        prop_assert_eq!(&planned, &distinct, "every routed expert once, in order");
        for p in &plan.placed {
            let before = old.slot_of(layer, p.routed.expert);
            prop_assert_eq!(before.is_some(), p.outcome == Outcome::Hit, "a hit is judged against the occupancy before");
            let after = new.slot_of(layer, p.routed.expert);
            prop_assert_eq!(after.unwrap_or(NO_SLOT), p.slot);
            if p.outcome == Outcome::Hit {
                prop_assert_eq!(before, after, "what is used stays where it is");
            }
        }
        let admitted = plan.placed.iter().filter(|p| p.outcome == Outcome::Admitted).count();
        prop_assert_eq!(admitted, plan.swaps.len());
        for swap in &plan.swaps {
            prop_assert_eq!(old.expert_in(layer, swap.slot), swap.evicted);
            prop_assert_eq!(new.expert_in(layer, swap.slot), Some(swap.expert));
            if let Some(gone) = swap.evicted {
                prop_assert!(!distinct.contains(&gone), "nothing used in a tick is evicted in it");
                prop_assert_eq!(new.slot_of(layer, gone), None);
            }
        }
        let replaced = plan.swaps.iter().filter(|s| s.evicted.is_some()).count();
        let cap = if new.phase == Phase::Decode { new.admission.per_tick } else { new.admission.per_prefill_tick };
        prop_assert!(replaced <= cap);
        for other in (0..LAYERS).filter(|&l| l != layer) {
            prop_assert!(old.residents(other).eq(new.residents(other)), "other layers are left alone");
        }
        Ok(())
    }

    /// Bring experts of `layer` ahead, and check it against the tables before.
    fn bringing_is_sound(s: &mut Scheduler, layer: usize) -> Result<(), TestCaseError> {
        let old = s.clone();
        let swaps = s.bring(layer).to_vec();
        prop_assert!(swaps.len() <= s.admission.ahead);
        prop_assert!(swaps.is_empty() || (s.policy == Policy::Rotary && s.phase == Phase::Decode));
        let mut slots: Vec<u16> = swaps.iter().map(|w| w.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        prop_assert_eq!(slots.len(), swaps.len(), "no newcomer takes another's slot");
        for swap in &swaps {
            prop_assert_eq!(old.slot_of(layer, swap.expert), None);
            prop_assert_eq!(old.expert_in(layer, swap.slot), swap.evicted);
            prop_assert_eq!(s.expert_in(layer, swap.slot), Some(swap.expert));
            prop_assert!(swap.evicted.is_some() || old.occupied(layer) < old.slots(layer));
        }
        for other in (0..LAYERS).filter(|&l| l != layer) {
            prop_assert!(old.residents(other).eq(s.residents(other)), "other layers are left alone");
        }
        Ok(())
    }

    fn resize_is_sound(old: &Scheduler, new: &Scheduler, wanted: &[usize], resize: &Resize) -> Result<(), TestCaseError> {
        for layer in 0..LAYERS {
            let slots = wanted.get(layer).map_or(old.slots(layer), |&s| s.min(EXPERTS));
            prop_assert_eq!(new.slots(layer), slots);
            prop_assert_eq!(new.occupied(layer), old.occupied(layer).min(slots), "as many stay as fit");
            let mut order: Vec<Worth> = old.residents(layer).map(|(_, e)| old.measures.worth(old.policy, layer, e)).collect();
            order.sort();
            order.reverse();
            for (rank, worth) in order.iter().enumerate() {
                let stays = new.slot_of(layer, worth.expert).is_some();
                prop_assert_eq!(stays, rank < slots, "the most worthy stay");
            }
            // Carry the change out on a copy of the old slots, as a tier would.
            let mut tier: Vec<Option<u16>> = (0..EXPERTS as u16).map(|s| old.expert_in(layer, s)).collect();
            for e in resize.evicted.iter().filter(|e| e.layer == layer) {
                prop_assert_eq!(tier[usize::from(e.slot)].take(), Some(e.expert));
            }
            for m in resize.moves.iter().filter(|m| m.layer == layer) {
                prop_assert!(usize::from(m.to) < slots && slots <= usize::from(m.from));
                prop_assert_eq!(tier[usize::from(m.to)], None);
                prop_assert_eq!(tier[usize::from(m.from)].take(), Some(m.expert));
                tier[usize::from(m.to)] = Some(m.expert);
            }
            for (slot, &expert) in tier.iter().enumerate() {
                prop_assert_eq!(new.expert_in(layer, slot as u16), expert);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_session_breaks_the_rules(
            slots in 0usize..=EXPERTS, policy in policy(), admission in admission(), acts in prop::collection::vec(act(), 1..40),
        ) {
            let mut s = Scheduler::new(LAYERS, EXPERTS, slots, policy, admission);
            for act in acts {
                match act {
                    Act::Step { phase, tokens, routed: sets } => {
                        s.begin_step(phase, tokens);
                        let mut after = None;
                        for (layer, ids) in sets.iter().enumerate() {
                            for l in s.foreseen(after) {
                                bringing_is_sound(&mut s, l)?;
                                tables_agree(&s)?;
                            }
                            let old = s.clone();
                            let plan = s.tick(layer, &routed(ids, 1)).clone();
                            plan_is_sound(&old, &s, &plan, ids)?;
                            after = Some(layer);
                        }
                    }
                    Act::Resize(n) => {
                        let old = s.clone();
                        let resize = s.resize(n);
                        resize_is_sound(&old, &s, &[n; LAYERS], &resize)?;
                    }
                    Act::Unequal(n) => {
                        let old = s.clone();
                        let resize = s.resize_layers(&n);
                        resize_is_sound(&old, &s, &n, &resize)?;
                    }
                    Act::Policy(p) => s.set_policy(p, s.admission()),
                    Act::Prefill(layer, experts) => {
                        let old = s.clone();
                        for swap in s.prefill(layer, &experts) {
                            prop_assert_eq!((swap.evicted, old.expert_in(layer, swap.slot)), (None, None), "only empty slots are filled");
                            prop_assert_eq!(s.expert_in(layer, swap.slot), Some(swap.expert));
                        }
                    }
                }
                tables_agree(&s)?;
            }
        }

        #[test]
        fn the_same_routing_gives_the_same_plans(
            slots in 1usize..=EXPERTS, policy in policy(), sets in prop::collection::vec(prop::collection::vec(0u16..EXPERTS as u16, 1..5), 1..60),
        ) {
            let plans = || {
                let mut s = Scheduler::new(1, EXPERTS, slots, policy, policy.admission());
                sets.iter().map(|ids| { s.begin_step(Phase::Decode, 1); s.tick(0, &routed(ids, 1)).clone() }).collect::<Vec<_>>()
            };
            prop_assert_eq!(plans(), plans());
        }
    }

    #[test]
    fn a_tick_fills_its_buffers_without_growing_them() {
        let mut s = Scheduler::new(2, 64, 16, Policy::Rotary, Admission::ALWAYS);
        let room = |s: &Scheduler| (s.plan.placed.capacity(), s.plan.swaps.capacity(), s.newcomers.capacity(), s.victims.capacity());
        let before = room(&s);
        let all: Vec<u16> = (0..64).collect();
        for step in 0..50u16 {
            s.begin_step(if step % 5 == 0 { Phase::Prefill } else { Phase::Decode }, 1 + u32::from(step % 5));
            for layer in 0..2 {
                let from = usize::from(step * 7 % 32);
                s.tick(layer, &routed(&all[from..from + 32], 1));
            }
        }
        assert_eq!(room(&s), before);
    }

    #[test]
    fn a_newcomer_must_beat_the_victim_by_the_margin() {
        let mut s = Scheduler::new(1, 8, 1, Policy::Decay, Admission { margin: 1.5, ..Admission::default() });
        let mut step = |id: u16| {
            s.begin_step(Phase::Decode, 1);
            s.tick(0, &routed(&[id], 1)).placed[0].outcome
        };
        assert_eq!(step(0), Outcome::Admitted, "an empty slot takes anybody");
        assert_eq!(step(0), Outcome::Hit);
        assert_eq!(step(1), Outcome::Miss, "1 use against almost 2");
        assert_eq!(step(1), Outcome::Miss, "2 uses against almost 2");
        assert_eq!(step(1), Outcome::Admitted, "3 uses against less than 2");
        assert_eq!(step(0), Outcome::Miss);
    }

    #[test]
    fn replacements_per_tick_are_capped_and_the_most_worthy_go_first() {
        let mut s = Scheduler::new(1, 8, 4, Policy::Rotary, Admission { margin: 0.0, per_tick: 1, per_prefill_tick: 3, ahead: 0 });
        s.begin_step(Phase::Decode, 1);
        assert_eq!(s.tick(0, &routed(&[0, 1, 2, 3], 1)).swaps.len(), 4, "filling is not capped");
        s.begin_step(Phase::Decode, 1);
        s.tick(0, &routed(&[5], 1));
        s.begin_step(Phase::Decode, 1);
        let plan = s.tick(0, &routed(&[4, 0], 1)).clone();
        assert_eq!(plan.swaps.len(), 1);
        s.begin_step(Phase::Prefill, 8);
        let plan = s.tick(0, &[Routed { expert: 6, tokens: 1, weight: 1.0 }, Routed { expert: 7, tokens: 7, weight: 1.0 }]);
        let order: Vec<u16> = plan.swaps.iter().map(|w| w.expert).collect();
        assert_eq!(order, [7, 6]);
    }

    #[test]
    fn ids_out_of_range_and_repeats_are_left_out() {
        let mut s = Scheduler::new(1, 4, 2, Policy::Lru, Admission::ALWAYS);
        s.begin_step(Phase::Decode, 1);
        assert_eq!(s.tick(0, &routed(&[3, 9, 3, u16::MAX], 1)).placed.len(), 1);
        assert!(s.tick(1, &routed(&[0], 1)).placed.is_empty());
    }

    #[test]
    fn heat_is_a_rate_between_never_and_always() {
        let mut s = Scheduler::new(1, 4, 2, Policy::Rotary, Admission::default());
        for step in 0..400 {
            s.begin_step(Phase::Decode, 1);
            s.tick(0, &routed(if step % 2 == 0 { &[0, 1] } else { &[0] }, 1));
        }
        assert!((s.heat(0, 0) - 1.0).abs() < 1e-3);
        assert!((s.heat(0, 1) - 0.5).abs() < 2e-2);
        assert_eq!(s.heat(0, 2), 0.0);
    }

    /// `cargo test --release -- --ignored --nocapture cost_of_a_tick`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_tick_at_256_experts() {
        const LAYERS: usize = 40;
        for (name, slots) in [("46 slots", 46), ("128 slots", 128), ("255 slots", 255)] {
            let mut curve = crate::experts::curve::Curve::new(LAYERS, 256, Some(512.0));
            let mut rng = fastrand::Rng::with_seed(7);
            let sets: Vec<Vec<Routed>> = (0..4096)
                .map(|_| {
                    let mut ids: Vec<u16> = Vec::new();
                    while ids.len() < 8 {
                        // Skewed towards low ids, so that there are hits and misses.
                        let e = (rng.f64() * rng.f64() * 256.0) as u16;
                        if !ids.contains(&e) {
                            ids.push(e);
                        }
                    }
                    routed(&ids, 1)
                })
                .collect();
            // The middle one of many short times, because others use the machine, too; after as many steps as are remembered.
            let time = |f: &mut dyn FnMut(usize, &[Routed])| {
                let mut times = Vec::new();
                for step in 0..3000 {
                    let start = std::time::Instant::now();
                    (0..LAYERS).for_each(|layer| f(layer, &sets[(step * LAYERS + layer) * 7 % sets.len()]));
                    if step > crate::experts::recall::SPAN {
                        times.push(start.elapsed().as_secs_f64() / LAYERS as f64 * 1e6);
                    }
                }
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            };
            for policy in Policy::ALL {
                let mut s = Scheduler::new(LAYERS, 256, slots, policy, policy.admission());
                let tick = time(&mut |layer, r| {
                    if layer == 0 {
                        s.begin_step(Phase::Decode, 1);
                    }
                    s.tick(layer, r);
                    for l in s.foreseen(Some(layer)) {
                        s.bring(l);
                    }
                });
                println!("{name}, {policy}: {tick:.2} us per layer-tick");
                assert!(tick < 20.0 || cfg!(debug_assertions), "{name}, {policy}: {tick:.2} us per layer-tick");
            }
            let stack = time(&mut |layer, r| curve.tick(layer, r, Phase::Decode));
            println!("{name}: {stack:.2} us for the curve");
        }
    }

    #[test]
    fn a_prefill_ranks_the_hottest_as_the_most_recent() {
        for policy in Policy::ALL {
            let mut s = Scheduler::new(1, 8, 3, policy, Admission::ALWAYS);
            let swaps = s.prefill(0, &[5, 2, 7, 1]);
            assert_eq!(swaps.iter().map(|w| w.expert).collect::<Vec<_>>(), [5, 2, 7]);
            s.begin_step(Phase::Decode, 1);
            assert_eq!(s.tick(0, &routed(&[0], 1)).swaps[0].evicted, Some(7), "{policy}");
            assert!(s.prefill(0, &[4]).is_empty(), "no slot is empty");
        }
    }

    #[test]
    fn slots_fill_up_with_experts_that_nobody_has_used_which_leave_first() {
        for policy in Policy::ALL {
            let mut s = Scheduler::new(1, 6, 5, policy, Admission::ALWAYS);
            s.begin_step(Phase::Decode, 1);
            s.tick(0, &routed(&[1, 4], 1));
            let filled: Vec<_> = std::iter::from_fn(|| s.fill_up(0)).map(|w| (w.expert, w.slot, w.evicted)).collect();
            assert_eq!(filled, [(0, 2, None), (2, 3, None), (3, 4, None)]);
            assert_eq!((s.occupied(0), s.fill_up(0), s.fill_up(1)), (5, None, None));
            let evicted: Vec<_> = s.resize(2).evicted.iter().map(|e| e.expert).collect();
            assert!([0, 2, 3].iter().all(|e| evicted.contains(e)), "{policy}: {evicted:?}");
        }
    }

    #[test]
    fn empty_slots_fill_at_the_given_pace() {
        let mut s = Scheduler::new(1, 8, 6, Policy::Rotary, Admission::default());
        s.limit_fill(1, 3);
        let routed: Vec<Routed> = (0..8).map(|expert| Routed { expert, tokens: 1, weight: 1.0 }).collect();
        for (phase, occupied) in [(Phase::Prefill, 3), (Phase::Decode, 4), (Phase::Decode, 5), (Phase::Prefill, 6)] {
            s.begin_step(phase, 1);
            s.tick(0, &routed);
            assert_eq!(s.occupied(0), occupied);
        }
    }
}
