//! What is drawn and told of the state: cells, an expert's facts, the tallies and profiles of layers.

use super::{ExpertsState, Mark, DECAY};
use crate::events::NO_SLOT;
use crate::ui::ledger::Account;
use std::ops::Range;

/// One cell of the heatmap, for one expert or for several pooled ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cell {
    /// The strongest mark among them.
    pub mark: Mark,
    /// At least half of them hold a slot.
    pub resident: bool,
    /// Mean share of recent tokens that used them, 0..1.
    pub heat: f32,
}

/// What the cursor says about its expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertFacts {
    /// Layer index.
    pub layer: usize,
    /// Expert id.
    pub expert: usize,
    /// Tokens that used it since the model was opened.
    pub uses: u64,
    /// Tokens since the last use; 0 is the latest token, `None` is never.
    pub last_use: Option<u64>,
    /// Its slot.
    pub slot: Option<u16>,
    /// Gate weight at its last use (mean over the tokens of that step).
    pub weight: Option<f32>,
    /// Share of recent tokens that used it, 0..1.
    pub heat: f32,
    /// What happened in the latest step.
    pub mark: Mark,
}

/// What became of the experts of the latest step, in one layer or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepOutcomes {
    /// Routed experts that were in slots.
    pub hits: u32,
    /// Routed experts that were not, admitted ones included.
    pub misses: u32,
    /// Experts that got a slot.
    pub admitted: u32,
    /// Experts that lost theirs.
    pub evicted: u32,
    /// Experts that got a slot before they were asked for, and those of them that were then asked for.
    pub ahead: u32,
    /// See above.
    pub asked: u32,
}

/// A layer's character over recent tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerProfile {
    /// Entropy of recent use over the experts, in bits.
    pub entropy: f32,
    /// `2^entropy`: how many equally used experts would look like this.
    pub effective: f32,
    /// Hits among routed experts, 0..1; `None` before the first.
    pub hit_rate: Option<f32>,
    /// Admissions per token.
    pub churn: f32,
    /// Experts in slots now.
    pub resident: usize,
}

impl ExpertsState {
    /// Share of recent tokens that used an expert, 0..1. Corrected for a short past, so that the first
    /// tokens of a session are not all cold.
    #[must_use]
    pub fn heat(&self, layer: usize, expert: usize) -> f32 {
        self.at(layer, expert).map_or(0.0, |at| self.share(self.heat[at]))
    }

    fn share(&self, heat: f32) -> f32 {
        let past = 1.0 - DECAY.powi(i32::try_from(self.tokens).unwrap_or(i32::MAX));
        if past > 0.0 {
            (heat * (1.0 - DECAY) / past).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    /// The level of a share among `levels`: below half of uniform use is 0, and each further level is a
    /// constant factor more, so that the hottest begins at six tenths of what an always-used expert has.
    #[must_use]
    pub fn level(&self, share: f32, levels: usize) -> usize {
        if levels < 2 || self.experts == 0 {
            return 0;
        }
        let uniform = self.top_k as f32 / self.experts as f32;
        let (low, high) = ((0.5 * uniform).ln(), 0.6f32.max(0.5 * uniform * 1.01).ln());
        if share <= 0.5 * uniform {
            return 0;
        }
        let steps = (levels - 1) as f32;
        // Bounds of levels 1..: low, ..., high, evenly spaced in the logarithm.
        let along = (share.ln() - low) / (high - low) * (steps - 1.0).max(1.0);
        1 + (along.max(0.0) as usize).min(levels - 2)
    }

    /// The pooled cell of the given layers and places.
    #[must_use]
    pub fn cell(&self, layers: Range<usize>, places: Range<usize>) -> Cell {
        let (mut cell, mut count, mut resident, mut heat) = (Cell::default(), 0usize, 0usize, 0f32);
        for layer in layers.start..layers.end.min(self.layers) {
            for place in places.start..places.end.min(self.experts) {
                let Some(at) = self.at(layer, self.expert_at(layer, place)) else { continue };
                cell.mark = cell.mark.max(self.marks[at]);
                resident += usize::from(self.slot[at] != NO_SLOT);
                heat += self.heat[at];
                count += 1;
            }
        }
        if count > 0 {
            cell.resident = resident * 2 >= count;
            cell.heat = self.share(heat / count as f32);
        }
        cell
    }

    /// Everything about one expert.
    #[must_use]
    pub fn facts(&self, layer: usize, expert: usize) -> Option<ExpertFacts> {
        let at = self.at(layer, expert)?;
        let used = self.used_at[at] > 0;
        Some(ExpertFacts {
            layer,
            expert,
            uses: self.uses[at],
            last_use: used.then(|| self.tokens.saturating_sub(self.used_at[at])),
            slot: (self.slot[at] != NO_SLOT).then_some(self.slot[at]),
            weight: used.then(|| self.weight[at]),
            heat: self.share(self.heat[at]),
            mark: self.marks[at],
        })
    }

    /// One layer's part of the latest step.
    #[must_use]
    pub fn tally(&self, layer: usize) -> StepOutcomes {
        self.tallies.get(layer).copied().unwrap_or_default()
    }

    /// The whole latest step.
    #[must_use]
    pub fn total(&self) -> StepOutcomes {
        self.tallies.iter().fold(StepOutcomes::default(), |sum, t| StepOutcomes {
            hits: sum.hits + t.hits,
            misses: sum.misses + t.misses,
            admitted: sum.admitted + t.admitted,
            evicted: sum.evicted + t.evicted,
            ahead: sum.ahead + t.ahead,
            asked: sum.asked + t.asked,
        })
    }

    /// A layer's character over recent tokens.
    #[must_use]
    pub fn profile(&self, layer: usize) -> LayerProfile {
        let row = self.row(layer);
        let (heat, slots) = (&self.heat[row.clone()], &self.slot[row]);
        let sum: f32 = heat.iter().sum();
        let entropy = if sum > 0.0 { heat.iter().filter(|h| **h > 0.0).map(|h| -(h / sum) * (h / sum).log2()).sum() } else { 0.0 };
        let recent = self.recent.get(layer).copied().unwrap_or_default();
        let past = 1.0 - DECAY.powi(i32::try_from(self.answered).unwrap_or(i32::MAX));
        LayerProfile {
            entropy,
            effective: if sum > 0.0 { entropy.exp2() } else { 0.0 },
            hit_rate: (recent.routed > 0.0).then(|| (recent.hits / recent.routed).clamp(0.0, 1.0)),
            churn: if past > 0.0 { recent.admitted * (1.0 - DECAY) / past } else { 0.0 },
            resident: slots.iter().filter(|s| **s != NO_SLOT).count(),
        }
    }

    /// Why a layer's experts missed, which of its swaps were regretted, and what it moved.
    #[must_use]
    pub fn account(&self, layer: usize) -> Account {
        self.ledger.layer(layer)
    }
}
