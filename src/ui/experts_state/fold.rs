//! Folds a step's record into the state.
//!
//! It is pure and total: a record of any shape leaves a state that can be drawn. What does not fit the model (an expert out of
//! range, a table of the wrong length) is skipped and counted.

use super::{ExpertsState, Mark, Recent, StepOutcomes, DECAY, MAX_CELLS, RESORT_TOKENS};
use crate::events::{Outcome, Phase, RoutedExpert, StepRecord, NO_SLOT};
use crate::ui::ledger::Ledger;

impl ExpertsState {
    pub(super) fn shape(&mut self, layers: usize, experts: usize) {
        let cells = layers * experts;
        (self.layers, self.experts) = (layers, experts);
        self.heat = vec![0.0; cells];
        self.uses = vec![0; cells];
        self.used_at = vec![0; cells];
        self.weight = vec![0.0; cells];
        self.slot = vec![NO_SLOT; cells];
        self.marks = vec![Mark::Quiet; cells];
        self.tallies = vec![StepOutcomes::default(); layers];
        self.recent = vec![Recent::default(); layers];
        self.ledger = Ledger::new(layers, experts, &[]);
        self.order = (0..layers).flat_map(|_| (0..experts).map(|e| e as u16)).collect();
    }

    /// Folds one step in. Gaps in the step numbers are counted as missing records.
    pub fn apply(&mut self, record: &StepRecord) {
        if self.layers == 0 {
            self.learn_shape(record);
        }
        if let Some((last, _)) = self.latest {
            self.missing = self.missing.saturating_add(record.step.saturating_sub(last.saturating_add(1)));
        }
        self.latest = Some((record.step, record.phase));
        let tokens = record.tokens.max(1);
        self.latest_tokens = tokens;
        self.tokens = self.tokens.saturating_add(u64::from(tokens));
        let left = DECAY.powi(i32::try_from(tokens).unwrap_or(i32::MAX));
        self.heat.iter_mut().for_each(|h| *h *= left);
        self.marks.fill(Mark::Quiet);
        self.tallies.fill(StepOutcomes::default());
        // How a layer does is told of the answer: a prompt uses nearly everything at once.
        let answers = record.phase == Phase::Decode;
        if answers {
            self.answered = self.answered.saturating_add(u64::from(tokens));
        }
        for recent in self.recent.iter_mut().filter(|_| answers) {
            recent.hits *= left;
            recent.routed *= left;
            recent.admitted *= left;
        }
        if record.layers() != self.layers {
            self.misfits = self.misfits.saturating_add(1);
        }
        // A use somewhere in a chunk of n tokens has decayed by the chunk's mean by its end.
        let fresh = (1.0 - left) / (tokens as f32 * (1.0 - DECAY));
        for layer in 0..self.layers {
            for routed in record.layer(layer) {
                self.fold_routed(layer, routed, (tokens, fresh), answers);
            }
        }
        self.fold_occupancy(record);
        self.fold_evictions(record);
        self.fold_ahead(record);
        self.ledger.apply(record);
        if self.sorted && self.tokens >= self.ordered_at.saturating_add(RESORT_TOKENS) {
            self.sort();
        }
    }

    fn fold_routed(&mut self, layer: usize, routed: &RoutedExpert, (tokens, fresh): (u32, f32), answers: bool) {
        let Some(at) = self.at(layer, usize::from(routed.expert)) else {
            self.misfits = self.misfits.saturating_add(1);
            return;
        };
        let uses = u32::from(routed.tokens).clamp(1, tokens);
        self.heat[at] += uses as f32 * fresh;
        self.uses[at] = self.uses[at].saturating_add(u64::from(uses));
        self.used_at[at] = self.tokens;
        let mean = routed.weight / uses as f32;
        self.weight[at] = if mean.is_finite() { mean } else { 0.0 };
        let (tally, recent) = (&mut self.tallies[layer], &mut self.recent[layer]);
        match routed.outcome {
            Outcome::Hit => tally.hits += 1,
            Outcome::Miss => tally.misses += 1,
            Outcome::Admitted => {
                tally.misses += 1;
                tally.admitted += 1;
            }
        }
        if answers {
            recent.routed += uses as f32;
            recent.hits += if routed.outcome == Outcome::Hit { uses as f32 } else { 0.0 };
            recent.admitted += f32::from(u8::from(routed.outcome == Outcome::Admitted));
        }
        self.marks[at] = self.marks[at].max(mark_of(routed.outcome));
    }

    fn fold_occupancy(&mut self, record: &StepRecord) {
        if record.slot_of.len() == self.slot.len() {
            self.slot.copy_from_slice(&record.slot_of);
        } else {
            // Keep the last whole table; a part of one could be of another model.
            self.misfits = self.misfits.saturating_add(1);
        }
    }

    fn fold_evictions(&mut self, record: &StepRecord) {
        for gone in &record.evicted {
            let (layer, expert) = (usize::from(gone.layer), usize::from(gone.expert));
            let Some(at) = self.at(layer, expert) else {
                self.misfits = self.misfits.saturating_add(1);
                continue;
            };
            self.tallies[layer].evicted += 1;
            // One that lost its slot and got it back within the step is no eviction to show.
            if self.slot[at] == NO_SLOT {
                self.marks[at] = Mark::Evicted;
            }
        }
    }

    /// Experts that came before they were asked for. Those that were not asked for after all got a slot all the same.
    fn fold_ahead(&mut self, record: &StepRecord) {
        for came in &record.ahead {
            let (layer, expert) = (usize::from(came.layer), usize::from(came.expert));
            let Some(at) = self.at(layer, expert) else {
                self.misfits = self.misfits.saturating_add(1);
                continue;
            };
            let asked = record.layer(layer).iter().any(|r| r.expert == came.expert);
            self.tallies[layer].ahead += 1;
            self.tallies[layer].asked += u32::from(asked);
            if !asked && self.marks[at] == Mark::Quiet && self.slot[at] != NO_SLOT {
                self.marks[at] = Mark::Admitted;
            }
        }
    }

    fn learn_shape(&mut self, record: &StepRecord) {
        let (layers, cells) = (record.layers(), record.slot_of.len());
        if layers == 0 || cells == 0 || cells > MAX_CELLS || !cells.is_multiple_of(layers) {
            return;
        }
        let experts = cells / layers;
        if experts > usize::from(NO_SLOT) {
            return;
        }
        let widest = (0..layers).map(|l| record.layer(l).len()).max().unwrap_or(1);
        self.shape(layers, experts);
        if self.top_k <= 1 {
            self.top_k = if record.phase == Phase::Decode && record.tokens <= 1 { widest.clamp(1, experts) } else { 1 };
        }
    }
}

pub(super) fn mark_of(outcome: Outcome) -> Mark {
    match outcome {
        Outcome::Hit => Mark::Hit,
        Outcome::Miss => Mark::Miss,
        Outcome::Admitted => Mark::Admitted,
    }
}
