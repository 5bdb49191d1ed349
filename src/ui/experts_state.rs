//! What the heatmap knows: every expert's use, heat and slot, folded from step records.
//!
//! Folding is pure and total: a record of any shape leaves a state that can be drawn. What does not fit the
//! model (an expert out of range, a table of the wrong length) is skipped and counted.

use super::routing_log::{Lookup, RoutingLog};
use crate::events::{ModelCard, Outcome, Phase, StepRecord, NO_SLOT};
use crate::ui::ledger::{Account, Ledger};
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

/// One layer's part of the latest step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerTally {
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

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    hits: f32,
    routed: f32,
    admitted: f32,
}

/// What stands beside the grid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Hits and misses of each layer in this step, where there is room.
    #[default]
    Step,
    /// Hit rate, effective experts, churn, bytes moved, entropy and regretted swaps of each layer, as many as there is room for.
    Profile,
    /// Nothing: all room to the grid.
    Bare,
}

/// Why nothing is known of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its record was dropped: telemetry is lossy.
    Dropped,
    /// It was let go, to make room in the log.
    LetGo,
    /// Its record has not come (yet).
    NotYet,
}

/// A step of the past that is looked at while the session goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// Its number among the tokens of the chat (or the kept steps, in a session without text), from 1.
    pub token: u64,
    /// How many there are.
    pub of: u64,
    /// The step.
    pub step: u64,
    /// The token's text, made fit for a line; empty in a session without text.
    pub text: String,
    /// Why nothing is known of it, if so.
    pub lost: Option<Lost>,
}

/// How a recording moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Play {
    /// To the end.
    #[default]
    Forwards,
    /// To the beginning.
    Backwards,
    /// Not at all.
    Paused,
    /// It is at its end.
    Ended,
}

/// Which moment of the session the heatmap shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// The latest step of a model that runs.
    #[default]
    Live,
    /// The latest step that a recording has played.
    Replay(Play),
    /// A step of the past; the heatmap stands still.
    Paused(Pause),
}

/// Kept steps from which the heat of a past moment is made up: what is older weighs less than half a thousandth.
const HEAT_STEPS: usize = 256;

/// The heatmap's state.
#[derive(Clone, Debug, Default)]
pub struct ExpertsState {
    layers: usize,
    experts: usize,
    top_k: usize,
    heat: Vec<f32>,
    uses: Vec<u64>,
    /// Token count after the last use; 0 is never.
    used_at: Vec<u64>,
    weight: Vec<f32>,
    slot: Vec<u16>,
    marks: Vec<Mark>,
    tallies: Vec<LayerTally>,
    recent: Vec<Recent>,
    ledger: Ledger,
    order: Vec<u16>,
    ordered_at: u64,
    tokens: u64,
    latest: Option<(u64, Phase)>,
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

/// What a key asks of the heatmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeatmapAction {
    /// Cursor up by so many layers.
    Up(usize),
    /// Cursor down by so many layers.
    Down(usize),
    /// Cursor left by so many experts.
    Left(usize),
    /// Cursor right by so many experts.
    Right(usize),
    /// Cursor to the first expert of the layer.
    First,
    /// Cursor to the last expert of the layer.
    Last,
    /// One layer fills the pane.
    Zoom,
    /// Back to all layers.
    Back,
    /// By heat, or by id.
    ToggleSort,
    /// The next thing beside the grid.
    NextSide,
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
        state
    }

    /// The state as it was after a past step, from the steps that are kept; marks and slots are those of the step, heat is
    /// folded from those before it. Of a step without a record nothing is shown.
    #[must_use]
    pub fn frozen_at(&self, log: &RoutingLog, mut pause: Pause) -> Self {
        let mut past = Self::new(self.layers, self.experts, self.top_k);
        match log.get(pause.step) {
            Lookup::Here(kept) => {
                log.until(pause.step, HEAT_STEPS).for_each(|kept| past.apply(&kept.record()));
                past.gates = (0..past.layers)
                    .flat_map(|l| kept.layer(l).iter().map(move |u| (l, u.expert, u.weight.to_f32(), mark_of(u.outcome))))
                    .collect();
                past.gates.sort_by(|a, b| a.0.cmp(&b.0).then(b.2.total_cmp(&a.2)));
            }
            Lookup::Dropped => pause.lost = Some(Lost::Dropped),
            Lookup::LetGo => pause.lost = Some(Lost::LetGo),
            Lookup::NotYet => pause.lost = Some(Lost::NotYet),
        }
        (past.missing, past.misfits) = (self.missing, self.misfits);
        past.shown = Shown::Paused(pause);
        past.look_like(self);
        past
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

    /// Which moment this is.
    #[must_use]
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// The past step that is looked at.
    #[must_use]
    pub fn pause(&self) -> Option<&Pause> {
        match &self.shown {
            Shown::Paused(pause) => Some(pause),
            _ => None,
        }
    }

    /// The routed experts of a layer in the past step that is looked at: id, gate (summed over the tokens of a prompt's
    /// chunk), and what happened. Best gate first.
    pub fn gates(&self, layer: usize) -> impl Iterator<Item = (u16, f32, Mark)> + '_ {
        let row = self.gates.iter().filter(move |g| g.0 == layer);
        row.map(|&(_, expert, weight, mark)| (expert, weight, mark))
    }

    /// The same past step, counted anew.
    pub(super) fn set_pause(&mut self, pause: Pause) {
        if let Shown::Paused(old) = &mut self.shown {
            *old = pause;
        }
    }

    fn shape(&mut self, layers: usize, experts: usize) {
        let cells = layers * experts;
        (self.layers, self.experts) = (layers, experts);
        self.heat = vec![0.0; cells];
        self.uses = vec![0; cells];
        self.used_at = vec![0; cells];
        self.weight = vec![0.0; cells];
        self.slot = vec![NO_SLOT; cells];
        self.marks = vec![Mark::Quiet; cells];
        self.tallies = vec![LayerTally::default(); layers];
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
        self.tokens = self.tokens.saturating_add(u64::from(tokens));
        let left = DECAY.powi(i32::try_from(tokens).unwrap_or(i32::MAX));
        self.heat.iter_mut().for_each(|h| *h *= left);
        self.marks.fill(Mark::Quiet);
        self.tallies.fill(LayerTally::default());
        for recent in &mut self.recent {
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
                self.fold_routed(layer, routed, tokens, fresh);
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

    fn fold_routed(&mut self, layer: usize, routed: &crate::events::RoutedExpert, tokens: u32, fresh: f32) {
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
        recent.routed += uses as f32;
        match routed.outcome {
            Outcome::Hit => {
                tally.hits += 1;
                recent.hits += uses as f32;
            }
            Outcome::Miss => tally.misses += 1,
            Outcome::Admitted => {
                tally.misses += 1;
                tally.admitted += 1;
                recent.admitted += 1.0;
            }
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
            self.top_k = if record.phase == Phase::Decode { widest.clamp(1, experts) } else { 1 };
        }
    }

    fn at(&self, layer: usize, expert: usize) -> Option<usize> {
        (layer < self.layers && expert < self.experts).then(|| layer * self.experts + expert)
    }

    fn row(&self, layer: usize) -> Range<usize> {
        let layer = layer.min(self.layers);
        let end = (layer + 1).min(self.layers);
        layer * self.experts..end * self.experts
    }

    fn sort(&mut self) {
        self.ordered_at = self.tokens;
        for layer in 0..self.layers {
            let row = self.row(layer);
            let heat = &self.heat[row.clone()];
            self.order[row].sort_by(|a, b| heat[usize::from(*b)].total_cmp(&heat[usize::from(*a)]).then(a.cmp(b)));
        }
    }

    /// Layers; 0 before a model is open.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
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

    /// The expert at a place of the layer's row: its id, or its rank by heat when sorted.
    #[must_use]
    pub fn expert_at(&self, layer: usize, place: usize) -> usize {
        if self.sorted {
            self.at(layer, place).map_or(place, |at| usize::from(self.order[at]))
        } else {
            place
        }
    }

    /// The place of an expert in its layer's row; the inverse of [`ExpertsState::expert_at`].
    #[must_use]
    pub fn place_of(&self, layer: usize, expert: usize) -> usize {
        if !self.sorted {
            return expert;
        }
        let order = self.order.get(self.row(layer)).unwrap_or(&[]);
        order.iter().position(|e| usize::from(*e) == expert).unwrap_or(expert)
    }

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
    pub fn tally(&self, layer: usize) -> LayerTally {
        self.tallies.get(layer).copied().unwrap_or_default()
    }

    /// The whole latest step.
    #[must_use]
    pub fn total(&self) -> LayerTally {
        self.tallies.iter().fold(LayerTally::default(), |sum, t| LayerTally {
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
        let past = 1.0 - DECAY.powi(i32::try_from(self.tokens).unwrap_or(i32::MAX));
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

    fn go(&mut self, layer: usize, place: usize) {
        (self.layer, self.expert) = (layer, self.expert_at(layer, place));
    }

    /// Does what a key asked for. `false` if it means nothing here, so that the caller may use the key.
    pub fn act(&mut self, action: HeatmapAction) -> bool {
        let (bottom, right) = (self.layers.saturating_sub(1), self.experts.saturating_sub(1));
        let (layer, place) = (self.layer, self.place_of(self.layer, self.expert));
        match action {
            HeatmapAction::Up(n) => self.go(layer.saturating_sub(n), place),
            HeatmapAction::Down(n) => self.go(layer.saturating_add(n).min(bottom), place),
            HeatmapAction::Left(n) => self.go(layer, place.saturating_sub(n)),
            HeatmapAction::Right(n) => self.go(layer, place.saturating_add(n).min(right)),
            HeatmapAction::First => self.go(layer, 0),
            HeatmapAction::Last => self.go(layer, right),
            HeatmapAction::Zoom => {
                if self.zoomed || self.layers == 0 {
                    return false;
                }
                self.zoomed = true;
            }
            HeatmapAction::Back => {
                if !self.zoomed {
                    return false;
                }
                self.zoomed = false;
            }
            HeatmapAction::ToggleSort => {
                self.sorted = !self.sorted;
                if self.sorted {
                    self.sort();
                }
            }
            HeatmapAction::NextSide => {
                self.side = match self.side {
                    Side::Step => Side::Profile,
                    Side::Profile => Side::Bare,
                    Side::Bare => Side::Step,
                };
            }
        }
        true
    }
}

fn mark_of(outcome: Outcome) -> Mark {
    match outcome {
        Outcome::Hit => Mark::Hit,
        Outcome::Miss => Mark::Miss,
        Outcome::Admitted => Mark::Admitted,
    }
}

#[cfg(test)]
pub(in crate::ui) mod stream;
#[cfg(test)]
pub(in crate::ui) mod tests;
