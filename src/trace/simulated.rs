//! What the scheduler does with recorded routing, step by step, in place of what was recorded.

use super::foretold::Foretold;
use crate::events::{Ahead, Eviction, ModelCard, Outcome, RoutedExpert, StepRecord, StepTime};
use crate::experts::policy::{Admission, Policy};
use crate::experts::schedule::{Routed, Scheduler};

/// Replaces hits, misses and slots of records by those of a policy at a slot count.
#[derive(Clone)]
pub(super) struct Simulated {
    pub(super) scheduler: Scheduler,
    bytes: Vec<u64>,
    tick: Vec<Routed>,
    /// Of the step at hand.
    foretold: Foretold,
}

impl Simulated {
    /// Empty slots, `slots` per layer.
    pub(super) fn new(card: &ModelCard, slots: usize, policy: Policy, admission: Admission) -> Self {
        Self {
            scheduler: Scheduler::new(card.layers, card.experts, slots, policy, admission),
            bytes: card.expert_bytes.clone(),
            tick: Vec::new(),
            foretold: Foretold::new(card.layers),
        }
    }

    /// What comes ahead after a layer's tick, or when the step begins.
    fn bring(&mut self, after: Option<usize>, record: &mut StepRecord) {
        for layer in self.scheduler.foreseen(after) {
            let bytes = self.bytes.get(layer).copied().unwrap_or(0);
            for swap in self.scheduler.bring(layer) {
                let layer = layer as u16;
                record.bytes_uploaded = record.bytes_uploaded.saturating_add(bytes);
                record.ahead.push(Ahead { layer, expert: swap.expert });
                record.evicted.extend(swap.evicted.map(|expert| Eviction { layer, expert }));
            }
        }
    }

    /// About how many bytes a copy takes: tables and measures by expert, and under `rotary` the tokens that are remembered.
    pub(super) fn bytes(&self) -> usize {
        let cells = self.scheduler.layers() * self.scheduler.experts();
        let remembered = if self.scheduler.policy() == Policy::Rotary { 68 * cells + 17_408 * self.scheduler.layers() } else { 0 };
        64 * cells + remembered
    }

    /// Replaces one step. It must fit the card.
    pub(super) fn step(&mut self, record: &mut StepRecord) {
        self.scheduler.begin_step(record.phase, record.tokens);
        let routed = std::mem::take(&mut record.routed);
        record.evicted.clear();
        record.ahead.clear();
        (record.bytes_uploaded, record.bytes_missed) = (0, 0);
        self.foretold.clear();
        self.foretold.push(0, &record.foreseen);
        self.bring(None, record);
        let mut start = 0;
        for layer in 0..record.ends.len() {
            let end = record.ends[layer] as usize;
            self.tick.clear();
            self.tick.extend(routed[start..end].iter().map(|r| Routed { expert: r.expert, tokens: r.tokens, weight: r.weight }));
            start = end;
            self.foretold.tell(0, layer, &mut self.scheduler);
            let plan = self.scheduler.tick(layer, &self.tick);
            let bytes = self.bytes.get(layer).copied().unwrap_or(0);
            for p in &plan.placed {
                let Routed { expert, tokens, weight } = p.routed;
                record.routed.push(RoutedExpert { expert, tokens, weight, outcome: p.outcome });
                if p.outcome == Outcome::Miss {
                    record.bytes_missed = record.bytes_missed.saturating_add(bytes);
                }
            }
            for swap in &plan.swaps {
                record.bytes_uploaded = record.bytes_uploaded.saturating_add(bytes);
                record.evicted.extend(swap.evicted.map(|expert| Eviction { layer: layer as u16, expert }));
            }
            record.ends[layer] = record.routed.len() as u32;
            self.bring(Some(layer), record);
        }
        record.slots = u16::try_from(self.scheduler.slots(0)).unwrap_or(u16::MAX);
        record.slot_of.clear();
        record.slot_of.extend_from_slice(self.scheduler.slot_table());
        record.time = StepTime::default();
    }
}
