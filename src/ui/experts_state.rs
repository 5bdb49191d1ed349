//! What the heatmap knows: every expert's use, heat and slot, folded from step records.

mod cursor;
mod figures;
mod fold;
mod moment;

pub use cursor::{HeatmapAction, Side};
pub use figures::{Cell, ExpertFacts, LayerProfile, StepOutcomes};
pub use moment::{Lost, Pause, Play, Shown};

use super::ledger::Ledger;
use crate::events::{Blocks, ModelCard, Phase, NO_SLOT};
use std::ops::Range;

/// What is left of an expert's heat after one token.
pub const DECAY: f32 = 0.97;
/// Tokens between two re-sortings by heat, so that sorted cells do not dance.
const RESORT_TOKENS: u64 = 16;
/// Most experts, in all layers together, that a record may claim when no model card says how many there are.
const MAX_CELLS: usize = 1 << 22;

/// What happened to an expert in the latest step. The order says which one a pooled cell shows: the rarer
/// the event, the stronger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Not routed, slot unchanged.
    #[default]
    Quiet,
    /// Routed, in a slot.
    Hit,
    /// Routed, in no slot, stayed out.
    Miss,
    /// Lost its slot.
    Evicted,
    /// Routed, got a slot.
    Admitted,
}

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    hits: f32,
    routed: f32,
    admitted: f32,
}

/// The heatmap's state.
#[derive(Clone, Debug, Default)]
pub struct ExpertsState {
    layers: usize,
    blocks: Blocks,
    experts: usize,
    top_k: usize,
    heat: Vec<f32>,
    uses: Vec<u64>,
    /// Token count after the last use; 0 is never.
    used_at: Vec<u64>,
    weight: Vec<f32>,
    slot: Vec<u16>,
    marks: Vec<Mark>,
    tallies: Vec<StepOutcomes>,
    recent: Vec<Recent>,
    ledger: Ledger,
    order: Vec<u16>,
    ordered_at: u64,
    tokens: u64,
    /// Of these, the answers'.
    answered: u64,
    latest: Option<(u64, Phase)>,
    /// Tokens of the latest step.
    latest_tokens: u32,
    missing: u64,
    misfits: u64,
    /// Which moment this is.
    pub(super) shown: Shown,
    /// Layer, expert, gate and outcome of the past step that is looked at.
    gates: Vec<(usize, u16, f32, Mark)>,
    /// Layer under the cursor.
    pub(super) layer: usize,
    /// Expert under the cursor.
    pub(super) expert: usize,
    /// One layer fills the pane.
    pub(super) zoomed: bool,
    /// Experts stand in order of heat instead of id.
    pub(super) sorted: bool,
    /// What stands beside the grid.
    pub(super) side: Side,
}

impl ExpertsState {
    /// An empty state for a model with `layers` layers of `experts` experts, `top_k` of them used per token.
    #[must_use]
    pub fn new(layers: usize, experts: usize, top_k: usize) -> Self {
        let mut state = Self::default();
        if layers.checked_mul(experts).is_some_and(|n| n <= MAX_CELLS) && experts <= usize::from(NO_SLOT) {
            state.shape(layers, experts);
        }
        state.top_k = top_k.clamp(1, experts.max(1));
        state
    }

    /// An empty state for the model that was opened.
    #[must_use]
    pub fn open(card: &ModelCard) -> Self {
        let mut state = Self::new(card.layers, card.experts, card.top_k);
        state.ledger = Ledger::new(state.layers, state.experts, &card.expert_bytes);
        state.blocks = card.blocks();
        state
    }

    /// Takes over where the cursor is and how the grid is shown.
    pub fn look_like(&mut self, other: &Self) {
        (self.layer, self.expert) = (other.layer, other.expert);
        (self.zoomed, self.side) = (other.zoomed, other.side);
        if self.sorted != other.sorted {
            self.sorted = other.sorted;
            self.sort();
        }
    }

    /// Takes over the look of what was shown before, in a replay that has moved on or back. A sorted grid is sorted anew only
    /// if enough tokens lie between the two.
    pub fn go_on_from(&mut self, before: &Self) {
        let near = self.tokens.abs_diff(before.ordered_at) < RESORT_TOKENS;
        if before.sorted && near && before.order.len() == self.order.len() {
            self.order.clone_from(&before.order);
            (self.sorted, self.ordered_at) = (true, before.ordered_at);
        }
        self.look_like(before);
    }

    /// About how many bytes a copy takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // Every table by expert, and the ledger's two.
        self.heat.len() * (4 + 8 + 8 + 4 + 2 + 1 + 2 + 1 + 8)
    }

    fn at(&self, layer: usize, expert: usize) -> Option<usize> {
        (layer < self.layers && expert < self.experts).then(|| layer * self.experts + expert)
    }

    fn row(&self, layer: usize) -> Range<usize> {
        let layer = layer.min(self.layers);
        let end = (layer + 1).min(self.layers);
        layer * self.experts..end * self.experts
    }

    /// Layers; 0 before a model is open.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// The number that a person knows a layer by: which block of the model it is.
    #[must_use]
    pub fn block(&self, layer: usize) -> usize {
        self.blocks.of(layer)
    }

    /// Experts per layer.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Number and phase of the latest step.
    #[must_use]
    pub fn latest(&self) -> Option<(u64, Phase)> {
        self.latest
    }

    /// Tokens that the latest step read.
    #[must_use]
    pub fn latest_tokens(&self) -> u32 {
        self.latest_tokens
    }

    /// Records that never came, by the gaps between step numbers.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Parts of records that did not fit the model.
    #[must_use]
    pub fn misfits(&self) -> u64 {
        self.misfits
    }

    /// Tokens folded since the model was opened, prompts included.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// One layer fills the pane.
    #[must_use]
    pub fn zoomed(&self) -> bool {
        self.zoomed
    }

    /// Layer and expert under the cursor.
    #[must_use]
    pub fn cursor(&self) -> (usize, usize) {
        (self.layer, self.expert)
    }
}

#[cfg(test)]
pub(in crate::ui) mod stream;
#[cfg(test)]
pub(in crate::ui) mod tests;
