//! The other side of a comparison: the steps that a session that is played is set against.
//!
//! The same routing under another policy or slot count is simulated as it plays. Another session is walked along with it:
//! generated token by generated token, prompt step by prompt step, so that prompts of unequal length don't shift the rest.

use super::difference::{Cell, Difference};
use super::moment::{fits, Source};
use super::scheduling::admission;
use super::session::{Entry, Head};
use super::simulated::Simulated;
use crate::events::{ModelCard, Phase, StepRecord};
use crate::experts::policy::{Admission, Policy};

/// How the other side gets its hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulation {
    /// Slots per layer; `None`: as many as the first side has, at every step.
    pub slots: Option<usize>,
    /// Who decides.
    pub policy: Policy,
}

/// The other side, as far as it was walked. Its session, if it is another one, is given to each step; without one it has the
/// routing of the first side.
#[derive(Clone)]
pub(super) struct Second {
    cursor: usize,
    head: Head,
    simulation: Option<Simulation>,
    simulated: Option<Simulated>,
    card: Option<ModelCard>,
    name: String,
    pub(super) difference: Difference,
}

impl Second {
    /// `name` says what it is, in words.
    pub(super) fn new(simulation: Option<Simulation>, name: String) -> Self {
        let (head, difference) = (Head::default(), Difference::default());
        Self { cursor: 0, head, simulation, simulated: None, card: None, name, difference }
    }

    /// About how many bytes a copy takes.
    pub(super) fn bytes(&self) -> usize {
        let cells = self.difference.layers() * self.difference.experts();
        cells * (size_of::<Cell>() + 2) + self.simulated.as_ref().map_or(0, Simulated::bytes)
    }

    /// The first side begins with this model, which was recorded under this policy if that is known.
    pub(super) fn begin(&mut self, card: &ModelCard, recorded: Option<(Policy, Admission)>) {
        self.cursor = 0;
        self.simulated = self.simulation.map(|s| {
            let slots = s.slots.unwrap_or(card.plan.slots_per_layer);
            Simulated::new(card, slots, s.policy, admission(s.policy, recorded))
        });
        self.difference = Difference::new(card.layers, card.experts);
        self.card = Some(card.clone());
    }

    /// The first side made a step: `recorded` as it is in the file, `a` as it is shown.
    pub(super) fn step(&mut self, source: Option<&Source>, recorded: &StepRecord, a: &StepRecord) {
        let b = match source {
            None => Some(recorded.clone()),
            Some(source) => self.next(source, a.phase),
        };
        let Some(mut b) = b else { return };
        self.simulate(&mut b, usize::from(a.slots));
        self.difference.step(a, &b);
    }

    /// The step of the other session that belongs to one of this phase.
    fn next(&mut self, source: &Source, phase: Phase) -> Option<StepRecord> {
        loop {
            let Some(next) = source.get(&mut self.head, self.cursor) else {
                self.difference.ended = true;
                return None;
            };
            let Entry::Step(record) = next.entry else {
                self.cursor += 1;
                continue;
            };
            if phase == Phase::Prefill && record.phase == Phase::Decode {
                // It waits for the generation.
                return None;
            }
            self.cursor += 1;
            if !self.card.as_ref().is_some_and(|card| fits(card, &record)) {
                continue;
            }
            if record.phase == phase {
                return Some(*record);
            }
            // A longer prompt: it only warms the slots.
            let mut record = *record;
            self.simulate(&mut record, 0);
        }
    }

    fn simulate(&mut self, record: &mut StepRecord, first_slots: usize) {
        let Some(simulated) = &mut self.simulated else { return };
        let follow = self.simulation.is_some_and(|s| s.slots.is_none());
        if follow && first_slots > 0 && first_slots != simulated.scheduler.slots(0) {
            simulated.scheduler.resize(first_slots);
        }
        simulated.step(record);
    }

    /// The comparison as it stands, with the name of the first side.
    pub(super) fn snapshot(&self, first: String) -> Difference {
        let slots = self.simulated.as_ref().map(|s| s.scheduler.slots(0));
        let second = match (slots, self.simulation) {
            (Some(slots), Some(s)) => format!("{}{}, {slots} slots", self.name, s.policy),
            _ => self.name.clone(),
        };
        let mut difference = self.difference.clone();
        difference.names = [first, second];
        difference
    }
}
