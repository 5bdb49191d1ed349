//! The routing of a session, without its text: what the scheduler saw.

use super::foretold::{self, Foretold};
use crate::events::{Blocks, ModelCard, Outcome, Phase, RoutedExpert, Scheduling, StepRecord};

/// Most layers that a trace may have.
pub const MAX_LAYERS: usize = 4096;
/// Most experts per layer: ids are 16-bit and the last is reserved.
pub const MAX_EXPERTS: usize = u16::MAX as usize;

/// What is known of the model whose routing this is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutesHead {
    /// Name or file of the model.
    pub model: String,
    /// Architecture, as `general.architecture` names it.
    pub arch: String,
    /// Layers with routed experts.
    pub layers: usize,
    /// Their numbers in the model.
    pub blocks: Blocks,
    /// Routed experts per layer.
    pub experts: usize,
    /// Experts that one token uses in a layer.
    pub top_k: usize,
    /// Bytes of one expert, per layer; empty if unknown.
    pub expert_bytes: Vec<u64>,
    /// Bytes of the dense part of each layer; empty if unknown.
    pub dense_bytes: Vec<u64>,
    /// Bytes of the weights that every token reads (trunk without a table of embeddings that is only looked up); 0 if
    /// unknown, see [`RoutesHead::trunk`].
    pub trunk_bytes: u64,
    /// How experts got slots when it was recorded, if that is known.
    pub scheduling: Option<Scheduling>,
}

/// Bytes of weights that every token reads, and how they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trunk {
    /// From the memory plan of the model.
    Plan(u64),
    /// The sum of the layers' dense parts; without embeddings and head.
    Layers(u64),
    /// Not in the trace.
    Unknown,
}

impl RoutesHead {
    /// What is known of the trunk.
    #[must_use]
    pub fn trunk(&self) -> Trunk {
        let layers = self.dense_bytes.iter().copied().fold(0, u64::saturating_add);
        match (self.trunk_bytes, layers) {
            (0, 0) => Trunk::Unknown,
            (0, layers) => Trunk::Layers(layers),
            (plan, _) => Trunk::Plan(plan),
        }
    }
}

/// What was measured in a step when it was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The whole step in microseconds; 0 if unknown.
    pub total_us: u32,
    /// Slots per layer in force; 0 if unknown.
    pub slots: u16,
}

/// What is known of one step beside its routing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoutesStep {
    /// Turn of the chat, from 0.
    pub turn: u32,
    /// Prompt or generation.
    pub phase: Phase,
    /// Number of the step in its session.
    pub step: u64,
    /// Tokens read in it.
    pub tokens: u32,
    /// Of a step of generation: tokens that were read along and turned out right.
    pub kept: u16,
}

/// The routing of a session: steps, each with its layers, each with the experts that were chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// The model.
    pub head: RoutesHead,
    steps: Vec<RoutesStep>,
    /// One per step that came from a record; may be shorter than `steps`.
    measured: Vec<Measured>,
    /// `[steps * layers]`: end of each layer's experts in `routed`.
    ends: Vec<usize>,
    routed: Vec<RoutedExpert>,
    foretold: Foretold,
}

impl Routes {
    /// No steps yet.
    #[must_use]
    pub fn new(head: RoutesHead) -> Self {
        let foretold = Foretold::new(head.layers);
        Self { head, steps: Vec::new(), measured: Vec::new(), ends: Vec::new(), routed: Vec::new(), foretold }
    }

    /// What a model card says, as the head of its routes.
    #[must_use]
    pub fn head_of(card: &ModelCard) -> RoutesHead {
        let read = card.plan.trunk.saturating_sub(card.plan.looked_up);
        // A card without a vocabulary is that of routing whose model was not at hand: it knows the sum of the layers' dense
        // parts and no head.
        let whole = card.vocab > 0;
        let even = |l: usize| read / card.layers as u64 + if l == 0 { read % card.layers as u64 } else { 0 };
        RoutesHead {
            model: card.name.clone(),
            arch: card.arch.clone(),
            layers: card.layers,
            blocks: card.blocks(),
            experts: card.experts,
            top_k: card.top_k,
            expert_bytes: card.expert_bytes.clone(),
            dense_bytes: if whole || read == 0 { Vec::new() } else { (0..card.layers.min(MAX_LAYERS)).map(even).collect() },
            trunk_bytes: if whole { read } else { 0 },
            scheduling: None,
        }
    }

    /// Add a step. `layers` are the routed experts layer after layer; layers that are missing at the end are empty.
    pub fn push<'a>(&mut self, step: RoutesStep, layers: impl IntoIterator<Item = &'a [RoutedExpert]>) {
        self.steps.push(step);
        let mut given = 0;
        for routed in layers.into_iter().take(self.head.layers) {
            self.routed.extend_from_slice(routed);
            self.ends.push(self.routed.len());
            given += 1;
        }
        for _ in given..self.head.layers {
            self.ends.push(self.routed.len());
        }
    }

    /// Add a step of a recorded session, unless it names experts beyond the head's count.
    pub fn push_record(&mut self, turn: u32, record: &StepRecord) {
        let step = RoutesStep { turn, phase: record.phase, step: record.step, tokens: record.tokens, kept: record.kept };
        let known = record.routed.iter().all(|r| usize::from(r.expert) < self.head.experts);
        if known && foretold::fits(&record.foreseen, self.head.layers, self.head.experts) {
            self.foretold.push(self.steps.len(), &record.foreseen);
            self.push(step, (0..record.layers()).map(|l| record.layer(l)));
            self.measured.resize(self.steps.len() - 1, Measured::default());
            self.measured.push(Measured { total_us: record.time.total_us, slots: record.slots });
        }
    }

    /// Steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[RoutesStep] {
        &self.steps
    }

    /// What was measured in a step when it was recorded.
    #[must_use]
    pub fn measured(&self, step: usize) -> Measured {
        self.measured.get(step).copied().unwrap_or_default()
    }

    /// Routed experts in all steps and layers.
    #[must_use]
    pub fn routed(&self) -> usize {
        self.routed.len()
    }

    /// The routed experts of a layer in a step, best gate first where it read one token; empty if there are none.
    #[must_use]
    pub fn tick(&self, step: usize, layer: usize) -> &[RoutedExpert] {
        if layer >= self.head.layers || step >= self.steps.len() {
            return &[];
        }
        let i = step * self.head.layers + layer;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.routed[start..self.ends[i]]
    }

    /// What routers foresaw, where they were asked before their turn.
    #[must_use]
    pub fn foretold(&self) -> &Foretold {
        &self.foretold
    }

    /// As if no router had been asked before its turn.
    pub fn forget_foretold(&mut self) {
        self.foretold.clear();
    }

    /// Bytes of one expert of a layer; 0 if unknown.
    #[must_use]
    pub fn expert_bytes(&self, layer: usize) -> u64 {
        self.head.expert_bytes.get(layer).copied().unwrap_or(0)
    }

    /// Keep the first `steps` steps.
    pub fn truncate(&mut self, steps: usize) {
        self.steps.truncate(steps);
        self.measured.truncate(steps);
        self.ends.truncate(self.steps.len() * self.head.layers);
        self.routed.truncate(self.ends.last().copied().unwrap_or(0));
        self.foretold.truncate(steps);
    }

    /// A step as a record of the telemetry lane, without slots, times and occupancy: those are of the session that was
    /// recorded, or of a simulation.
    #[must_use]
    pub fn record(&self, step: usize) -> StepRecord {
        let head = self.steps.get(step).copied().unwrap_or_default();
        let mut record = StepRecord { step: step as u64, phase: head.phase, tokens: head.tokens, kept: head.kept, ..StepRecord::default() };
        for layer in 0..self.head.layers {
            record.routed.extend(self.tick(step, layer).iter().map(|r| RoutedExpert { outcome: Outcome::Miss, ..*r }));
            record.ends.push(record.routed.len() as u32);
        }
        record.foreseen.extend(self.foretold.said(step));
        record
    }
}
