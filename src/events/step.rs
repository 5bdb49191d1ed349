//! The telemetry lane: one record for each step of the engine.

use serde::{Deserialize, Serialize};

/// Prompt reading or token generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A chunk of the prompt.
    Prefill,
    /// One token.
    #[default]
    Decode,
}

/// What became of one routed expert in one layer of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was in a slot.
    Hit,
    /// It was not, and stayed out.
    Miss,
    /// It was not, and got a slot in this step.
    Admitted,
}

/// One routed expert of one layer in one step. One entry stands for all tokens of the step that chose the expert.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoutedExpert {
    /// Expert id within its layer.
    pub expert: u16,
    /// Tokens of the step that chose it.
    pub tokens: u16,
    /// Gate weight, summed over those tokens.
    pub weight: f32,
    /// What happened.
    pub outcome: Outcome,
}

/// An expert that lost its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// Layer index.
    pub layer: u16,
    /// Expert that lost its slot.
    pub expert: u16,
}

/// An expert that got a slot before its layer's tick, because the token at hand was likely to ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Layer index.
    pub layer: u16,
    /// Expert that got a slot.
    pub expert: u16,
}

/// How likely the router of a later layer, asked before its turn, finds it that the token at hand will ask for an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreseen {
    /// Layer whose expert it is.
    pub layer: u16,
    /// How many layers before its turn it was asked: 1 or 2.
    pub lead: u8,
    /// Expert id within the layer.
    pub expert: u16,
    /// In 255ths.
    pub likely: u8,
}

/// Where the time of a step went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// The whole step, sampling included.
    pub total_us: u32,
    /// Everything that is not named below: embeddings, attention, norms, routers, head.
    pub trunk_us: u32,
    /// Routed experts that were in slots.
    pub hits_us: u32,
    /// Routed experts computed from host memory.
    pub misses_us: u32,
    /// Copying admitted experts into slots.
    pub upload_us: u32,
    /// Drawing the token.
    pub sampling_us: u32,
}

/// One step of the engine. Fixed in size for a given model and slot count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counts steps since the model was opened, from 0; a gap means dropped records.
    pub step: u64,
    /// Prompt or generation.
    pub phase: Phase,
    /// Tokens in this step (1 in decode, and those that were drafted).
    pub tokens: u32,
    /// Of them, tokens that were only likely to come, read along with the drawn one.
    #[serde(default)]
    pub drafted: u16,
    /// Of those, tokens that were then drawn; the others were taken back.
    #[serde(default)]
    pub kept: u16,
    /// Position of the first of them in the context.
    pub position: u32,
    /// The token that this step chose, the last one if it was several (decode and last prefill chunk only).
    pub chosen: Option<u32>,
    /// Slots per layer in force during the step.
    pub slots: u16,
    /// `routed[ends[l-1]..ends[l]]` are layer l's experts; of a step of one token best gate first, else by rising id.
    pub ends: Vec<u32>,
    /// All routed experts, layer after layer.
    pub routed: Vec<RoutedExpert>,
    /// Experts that lost their slot.
    pub evicted: Vec<Eviction>,
    /// Experts that got a slot before they were asked for; those that were then asked for are hits.
    #[serde(default)]
    pub ahead: Vec<Ahead>,
    /// What routers foresaw of the token, where they were asked: layer after layer, as it was told.
    #[serde(default)]
    pub foreseen: Vec<Foreseen>,
    /// Occupancy after the step: `slot_of[layer * experts + expert]`, [`NO_SLOT`] if none.
    pub slot_of: Vec<u16>,
    /// Time split.
    pub time: StepTime,
    /// Bytes copied into slots.
    pub bytes_uploaded: u64,
    /// Bytes of experts read from host memory to compute misses.
    pub bytes_missed: u64,
    /// Tokens in the context after the step.
    pub context_used: u32,
}

/// Marks an expert without a slot in [`StepRecord::slot_of`].
pub const NO_SLOT: u16 = u16::MAX;

impl StepRecord {
    /// Tokens of the answer that the step brought forward: one, and the drafted ones that were right. 0 for a prompt.
    #[must_use]
    pub fn gained(&self) -> u32 {
        match self.phase {
            Phase::Prefill => 0,
            Phase::Decode => 1 + u32::from(self.kept),
        }
    }

    /// Layers in this record.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.ends.len()
    }

    /// The routed experts of one layer; empty for a layer out of range.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &[RoutedExpert] {
        let Some(&end) = self.ends.get(layer) else {
            return &[];
        };
        let start = if layer == 0 { 0 } else { self.ends[layer - 1] };
        self.routed.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// Experts that came ahead, and those of them that were asked for in the same step.
    #[must_use]
    pub fn ahead_and_asked(&self) -> (usize, usize) {
        let asked = |a: &&Ahead| self.layer(usize::from(a.layer)).iter().any(|r| r.expert == a.expert);
        (self.ahead.len(), self.ahead.iter().filter(asked).count())
    }

    /// Hits and routed experts, each counted once per token that chose it.
    #[must_use]
    pub fn hits_and_routed(&self) -> (u64, u64) {
        self.routed.iter().fold((0, 0), |(hits, all), r| {
            let n = u64::from(r.tokens);
            (hits + if r.outcome == Outcome::Hit { n } else { 0 }, all + n)
        })
    }
}
