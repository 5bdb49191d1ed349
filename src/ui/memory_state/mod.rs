//! What the memory pane knows: slots, hit rate, speed and where a step's time goes, folded from step records
//! and gauges; and what another slot count would do.
//!
//! Measured and estimated numbers never mix: everything under [`Forecast`] is an estimate, the rest is counted.

pub mod auto;
pub mod forecast;
mod recent;
pub mod regret;

pub use recent::{Drafting, Split};

use super::ledger::{Account, Ledger};
use crate::events::{Gauges, ModelCard, Outcome, Phase, StepRecord, NO_SLOT};
use crate::experts::curve::Curve;
use crate::experts::schedule::Routed;
use forecast::{along_curve, Accuracy, Cost, Forecast, Verdict};
use recent::Sample;
use regret::Regret;
use std::collections::VecDeque;

/// Generated tokens behind every number called "now".
pub const WINDOW: usize = 64;
/// Samples kept for the sparkline.
const SERIES: usize = 512;
/// Half-life, in tokens, of the samples behind the curve.
const HALF_LIFE: f64 = 512.0;
/// Generated tokens after a change in which new slots fill; they say nothing about the estimate.
const SETTLE: usize = 32;
/// Generated tokens before anything is predicted.
const MIN_SAMPLES: usize = 16;
/// Most experts, in all layers together, that a curve is kept for.
const MAX_CELLS: usize = 1 << 20;

/// What a pane without room for everything shows first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// What happens now, and what the keys would do.
    #[default]
    Now,
    /// Why: the best that could be had, classes of misses, regretted swaps, how good the estimates were.
    Why,
}

/// The memory pane's state.
#[derive(Clone, Debug, Default)]
pub struct MemoryState {
    gauges: Option<Gauges>,
    /// Bytes of the experts in slots, in a recording.
    replayed_bytes: Option<u64>,
    layers: usize,
    experts: usize,
    /// Bytes of one slot in every layer.
    slot_step: u64,
    recent: VecDeque<Sample>,
    session_hits: u64,
    session_routed: u64,
    session_tokens: u64,
    session_us: u64,
    speeds: VecDeque<Option<f32>>,
    curve: Option<Curve>,
    routed: Vec<Routed>,
    slots: usize,
    /// Slots of each layer while they are spread.
    by_layer: Vec<usize>,
    occupied: u64,
    context_used: u32,
    last_step: Option<u64>,
    pending: Option<Forecast>,
    since_change: usize,
    accuracy: Accuracy,
    /// Costs before the last change, while there are none of after it.
    cost: Option<Cost>,
    regret: Regret,
    ledger: Ledger,
    page: Page,
}

impl MemoryState {
    /// An empty state for the model that was opened.
    #[must_use]
    pub fn open(card: &ModelCard) -> Self {
        let cells = card.layers.checked_mul(card.experts);
        let fits = cells.is_some_and(|n| n <= MAX_CELLS) && card.experts < usize::from(NO_SLOT);
        Self {
            layers: card.layers,
            experts: card.experts,
            slot_step: match card.plan.slot_step {
                0 => card.expert_bytes.iter().fold(0u64, |sum, b| sum.saturating_add(*b)),
                step => step,
            },
            slots: card.plan.slots_per_layer,
            curve: fits.then(|| Curve::new(card.layers, card.experts, Some(HALF_LIFE))),
            regret: if fits { Regret::new(card.layers, card.experts) } else { Regret::default() },
            ledger: if fits { Ledger::new(card.layers, card.experts, &card.expert_bytes) } else { Ledger::default() },
            ..Self::default()
        }
    }

    /// Takes the latest gauges.
    pub fn gauges(&mut self, gauges: &Gauges) {
        self.gauges = Some(gauges.clone());
    }

    /// Folds one step in.
    pub fn apply(&mut self, record: &StepRecord) {
        let gap = self.last_step.is_some_and(|last| record.step != last.saturating_add(1));
        self.last_step = Some(record.step);
        self.context_used = record.context_used;
        self.occupied = record.slot_of.iter().filter(|s| **s != NO_SLOT).count() as u64;
        self.note_slots(usize::from(record.slots));
        self.feed_curve(record);
        self.ledger.apply(record);
        self.regret.push(record, self.slots, &self.by_layer);
        // Prompts are read in chunks: their hits and times are of another kind and would blur "now".
        if record.phase == Phase::Prefill {
            if self.speeds.back().is_some_and(Option::is_some) {
                self.push_speed(None);
            }
            return;
        }
        if gap && self.speeds.back().is_some_and(Option::is_some) {
            self.push_speed(None);
        }
        let (hits, routed) = record
            .routed
            .iter()
            .fold((0u32, 0u32), |(hits, all), r| (hits.saturating_add(u32::from(r.outcome == Outcome::Hit)), all.saturating_add(1)));
        let admitted = record.routed.iter().filter(|r| r.outcome == Outcome::Admitted).count().try_into().unwrap_or(u32::MAX);
        self.session_hits += u64::from(hits);
        self.session_routed += u64::from(routed);
        let gained = record.gained();
        self.session_tokens += u64::from(gained);
        self.session_us = self.session_us.saturating_add(u64::from(record.time.total_us));
        if record.time.total_us > 0 {
            self.push_speed(Some(gained as f32 * 1e6 / record.time.total_us as f32));
        }
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(Sample {
            hits,
            admitted,
            routed,
            gained,
            drafted: record.drafted.into(),
            kept: record.kept.into(),
            time: record.time,
            uploaded: record.bytes_uploaded,
            missed: record.bytes_missed,
        });
        self.judge();
    }

    fn push_speed(&mut self, speed: Option<f32>) {
        if self.speeds.len() == SERIES {
            self.speeds.pop_front();
        }
        self.speeds.push_back(speed);
    }

    fn note_slots(&mut self, slots: usize) {
        if slots == self.slots {
            return;
        }
        self.pending = self.forecast(slots);
        self.cost = self.cost().or(self.cost);
        self.slots = slots;
        self.since_change = 0;
        // "Now" is about the slot count in force.
        self.recent.clear();
    }

    fn feed_curve(&mut self, record: &StepRecord) {
        let Some(curve) = &mut self.curve else { return };
        for layer in 0..self.layers {
            self.routed.clear();
            let entries = record.layer(layer).iter();
            self.routed.extend(entries.map(|r| Routed { expert: r.expert, tokens: r.tokens.max(1), weight: 0.0 }));
            curve.tick(layer, &self.routed, record.phase);
        }
        curve.end_step(record.tokens.max(1));
    }

    /// The forecast of another count, moved along the curve to this one, with the costs of before the change.
    fn carried(&self, from: &Forecast, slots: usize) -> Option<Forecast> {
        let curve = self.curve.as_ref()?;
        let hit_rate = along_curve(from.hit_rate, curve.hit_rate(from.slots)?, curve.hit_rate(slots)?, from.slots >= self.experts);
        let speed = self.cost.and_then(|c| c.speed(hit_rate));
        Some(Forecast { slots, hit_rate, speed, bytes: self.slot_bytes(slots) })
    }

    /// Puts the estimate of the last change to the test, when new slots had time to fill and a window has passed since.
    fn judge(&mut self) {
        self.since_change += 1;
        if self.since_change < SETTLE + WINDOW {
            return;
        }
        if let (Some(forecast), Some(hit_rate), Some(speed)) = (self.pending, self.hit_rate_now(), self.speed_now()) {
            self.accuracy.push(Verdict { forecast, hit_rate, speed });
            self.pending = None;
        }
    }

    /// The latest gauges, if any came.
    #[must_use]
    pub fn latest_gauges(&self) -> Option<&Gauges> {
        self.gauges.as_ref()
    }

    /// Slots per layer in force.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Takes the slots of each layer, if they are not all the same.
    pub fn spread(&mut self, slots: &[u16]) {
        let fits = slots.len() == self.layers;
        self.by_layer = if fits { slots.iter().map(|&s| usize::from(s)).collect() } else { Vec::new() };
    }

    /// Fewest and most slots of a layer, if they are spread.
    #[must_use]
    pub fn slot_range(&self) -> Option<(usize, usize)> {
        Some((*self.by_layer.iter().min()?, *self.by_layer.iter().max()?))
    }

    /// Experts per layer.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Slots in use at a count per layer, of all layers together, and how many there are. A step tells which are in use: before the
    /// first one it is known only that none is, and after slots were taken away it takes another step.
    #[must_use]
    pub fn occupancy(&self, slots: usize) -> (Option<u64>, u64) {
        let all = (slots as u64).saturating_mul(self.layers as u64);
        let used = match self.last_step {
            Some(_) => (slots >= self.slots).then_some(self.occupied),
            None => self.bytes_in_slots().filter(|bytes| *bytes == 0),
        };
        (used, all)
    }

    /// Bytes of the experts that are in slots, if that was told.
    #[must_use]
    pub fn bytes_in_slots(&self) -> Option<u64> {
        self.gauges.as_ref().map(|g| g.slots_used).or(self.replayed_bytes)
    }

    /// Takes the bytes of the experts in slots from a recording, which has no gauges.
    pub fn slots_hold(&mut self, bytes: u64) {
        self.replayed_bytes = Some(bytes);
    }

    /// Bytes of all slots at a count per layer.
    #[must_use]
    pub fn slot_bytes(&self, slots: usize) -> u64 {
        self.slot_step.saturating_mul(slots as u64)
    }

    /// Tokens in the context.
    #[must_use]
    pub fn context_used(&self) -> u32 {
        self.context_used
    }

    /// Generated tokens since the model was opened.
    #[must_use]
    pub fn session_tokens(&self) -> u64 {
        self.session_tokens
    }

    /// Hits among routed experts over all generated tokens, 0..1.
    #[must_use]
    pub fn hit_rate_session(&self) -> Option<f64> {
        (self.session_routed > 0).then(|| self.session_hits as f64 / self.session_routed as f64)
    }

    /// Tokens per second over all generated tokens.
    #[must_use]
    pub fn speed_session(&self) -> Option<f64> {
        (self.session_us > 0).then(|| self.session_tokens as f64 * 1e6 / self.session_us as f64)
    }

    /// Tokens per second, token by token, oldest first; `None` where records are missing or a prompt was read.
    pub fn speeds(&self) -> impl DoubleEndedIterator<Item = Option<f32>> + '_ {
        self.speeds.iter().copied()
    }

    /// Predicted hit rate for every slot count from 0, as plain LRU would have it; empty while too little was seen.
    #[must_use]
    pub fn curve(&self) -> Vec<f64> {
        match &self.curve {
            Some(curve) if self.session_tokens as usize >= MIN_SAMPLES => curve.hit_rates(),
            _ => Vec::new(),
        }
    }

    /// What `slots` per layer would do. `None` while too little was seen.
    #[must_use]
    pub fn forecast(&self, slots: usize) -> Option<Forecast> {
        if (self.session_tokens as usize) < MIN_SAMPLES {
            return None;
        }
        if self.recent.len() < MIN_SAMPLES {
            // Right after a change too little was seen to start from, but what was expected of it is known.
            return self.carried(self.pending.as_ref()?, slots.min(self.experts));
        }
        let curve = self.curve.as_ref()?;
        let now = self.hit_rate_now()?;
        let slots = slots.min(self.experts);
        let moved = along_curve(now, curve.hit_rate(self.slots)?, curve.hit_rate(slots)?, self.slots >= self.experts);
        let hit_rate = if slots >= self.experts { moved.max(now) } else { moved };
        let speed = self.cost().and_then(|c| c.speed(hit_rate));
        Some(Forecast { slots, hit_rate, speed, bytes: self.slot_bytes(slots) })
    }

    /// Estimates that were put to the test.
    #[must_use]
    pub fn accuracy(&self) -> &Accuracy {
        &self.accuracy
    }

    /// Generated tokens until the estimate of the last change is put to the test; `None` if none waits for it.
    #[must_use]
    pub fn verdict_in(&self) -> Option<usize> {
        self.pending.map(|_| (SETTLE + WINDOW).saturating_sub(self.since_change))
    }

    /// How far the policy is from the best that hindsight allows.
    #[must_use]
    pub fn regret(&self) -> &Regret {
        &self.regret
    }

    /// Why experts missed, and which swaps were regretted, over the session and all layers.
    #[must_use]
    pub fn account(&self) -> Account {
        self.ledger.total()
    }

    /// What is shown first.
    #[must_use]
    pub fn page(&self) -> Page {
        self.page
    }

    /// Shows the page that another state shows first.
    pub fn turn_page_of(&mut self, other: &Self) {
        self.page = other.page;
    }

    /// About how many bytes a copy takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // Tables of the ledger, the curve and the LRU that runs along; then the windows.
        self.layers * self.experts * (9 + 18 + 59) + self.layers * regret::WINDOW * (size_of::<usize>() * 2 + 8) + SERIES * 8
    }

    /// Shows the other page first.
    pub fn turn_page(&mut self) {
        self.page = if self.page == Page::Now { Page::Why } else { Page::Now };
    }
}

#[cfg(test)]
mod tests;
