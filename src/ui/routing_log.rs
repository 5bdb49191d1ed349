//! The routing of the steps of this session, kept in bounded memory: what the token cursor shows.
//!
//! The log is a ring of [`CAP`] bytes. Of a model with 48 layers of 128 experts, 8 of them used, a token takes about 4 KB, so
//! about 8,000 tokens are kept; of the toy model about 60,000. What was let go is counted and said. Telemetry is lossy:
//! a step without a record is [`Lookup::Dropped`], and nothing is made up for it.
//!
//! A replay goes back: [`RoutingLog::mark`] says where the log stood, and [`RoutingLog::back_to`] takes away what came since.
//! What was let go by then does not come back.

use crate::events::{Ahead, Eviction, Outcome, Phase, RoutedExpert, StepRecord, StepTime, NO_SLOT};
use half::f16;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes that the log may hold.
pub const CAP: usize = 32 << 20;

/// One routed expert of a kept step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    /// Expert id within its layer.
    pub expert: u16,
    /// Tokens of the step that chose it.
    pub tokens: u16,
    /// Gate weight, summed over those tokens, in half precision.
    pub weight: f16,
    /// What happened.
    pub outcome: Outcome,
}

/// A step as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its number.
    pub step: u64,
    /// Prompt or generation.
    pub phase: Phase,
    /// Tokens read in it.
    pub tokens: u32,
    /// Slots per layer.
    pub slots: u16,
    /// Where its time went.
    pub time: StepTime,
    /// Missed among routed experts, 0..1; `None` if nothing was routed.
    pub missed: Option<f32>,
    /// Mean over the layers of the entropy of the gates of the chosen experts, in bits; `None` if there are no gates.
    pub entropy: Option<f32>,
    ends: Box<[u32]>,
    uses: Box<[Use]>,
    evicted: Box<[Eviction]>,
    ahead: Box<[Ahead]>,
    /// One bit for each expert of each layer: it held a slot after the step. Empty if the record had no table.
    held: Box<[u64]>,
    cells: usize,
}

impl Kept {
    fn of(record: &StepRecord) -> Self {
        let uses: Box<[Use]> = record
            .routed
            .iter()
            .map(|r| Use { expert: r.expert, tokens: r.tokens, weight: f16::from_f32(r.weight), outcome: r.outcome })
            .collect();
        let mut held = vec![0u64; record.slot_of.len().div_ceil(64)];
        for (cell, _) in record.slot_of.iter().enumerate().filter(|(_, slot)| **slot != NO_SLOT) {
            held[cell / 64] |= 1 << (cell % 64);
        }
        let (hits, routed) = record.hits_and_routed();
        Self {
            step: record.step,
            phase: record.phase,
            tokens: record.tokens,
            slots: record.slots,
            time: record.time,
            missed: (routed > 0).then(|| (routed - hits) as f32 / routed as f32),
            entropy: entropy(record),
            ends: record.ends.clone().into(),
            uses,
            evicted: record.evicted.clone().into(),
            ahead: record.ahead.clone().into(),
            held: held.into(),
            cells: record.slot_of.len(),
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + size_of_val(&*self.ends)
            + size_of_val(&*self.uses)
            + size_of_val(&*self.evicted)
            + size_of_val(&*self.ahead)
            + size_of_val(&*self.held)
    }

    /// The routed experts of one layer, best gate first where the step read one token; empty for a layer out of range.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &[Use] {
        let Some(&end) = self.ends.get(layer) else { return &[] };
        let start = if layer == 0 { 0 } else { self.ends[layer - 1] };
        self.uses.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// What became of an expert in this step, if it was routed.
    #[must_use]
    pub fn outcome(&self, layer: usize, expert: usize) -> Option<Outcome> {
        self.layer(layer).iter().find(|u| usize::from(u.expert) == expert).map(|u| u.outcome)
    }

    /// The step as a record. Slot numbers are not kept: an expert that held a slot has number 0.
    #[must_use]
    pub fn record(&self) -> StepRecord {
        let held = |cell: usize| self.held[cell / 64] >> (cell % 64) & 1 == 1;
        StepRecord {
            step: self.step,
            phase: self.phase,
            tokens: self.tokens,
            slots: self.slots,
            ends: self.ends.to_vec(),
            routed: self
                .uses
                .iter()
                .map(|u| RoutedExpert { expert: u.expert, tokens: u.tokens, weight: u.weight.to_f32(), outcome: u.outcome })
                .collect(),
            evicted: self.evicted.to_vec(),
            ahead: self.ahead.to_vec(),
            slot_of: (0..self.cells).map(|cell| if held(cell) { 0 } else { NO_SLOT }).collect(),
            time: self.time,
            ..StepRecord::default()
        }
    }
}

/// Mean entropy of the layers' gates in bits: 0 is one expert with all the weight, `log2(k)` is even weights.
fn entropy(record: &StepRecord) -> Option<f32> {
    let (mut sum, mut layers) = (0.0f32, 0u32);
    for layer in 0..record.layers() {
        let gates = record.layer(layer).iter().map(|r| r.weight).filter(|w| w.is_finite() && *w > 0.0);
        let total: f32 = gates.clone().sum();
        if total > 0.0 && total.is_finite() {
            sum -= gates.map(|w| w / total).map(|p| if p > 0.0 { p * p.log2() } else { 0.0 }).sum::<f32>();
            layers += 1;
        }
    }
    (layers > 0).then(|| (sum / layers as f32).max(0.0))
}

/// What the log says about a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lookup<'a> {
    /// It is kept.
    Here(&'a Kept),
    /// Its record was dropped on the way here.
    Dropped,
    /// It was let go, to make room.
    LetGo,
    /// Its record has not come (yet).
    NotYet,
}

/// The ring.
#[derive(Clone, Debug)]
pub struct RoutingLog {
    ring: VecDeque<Arc<Kept>>,
    bytes: usize,
    cap: usize,
    let_go: u64,
    /// The latest step that was let go.
    gone: Option<u64>,
    /// Steps pushed since the log was cleared, and the last of them.
    pushed: u64,
    last: Option<u64>,
    /// How often the log was cleared.
    era: u64,
}

impl Default for RoutingLog {
    fn default() -> Self {
        Self::with_cap(CAP)
    }
}

impl RoutingLog {
    /// A log of at most `cap` bytes; one step is always kept.
    #[must_use]
    pub fn with_cap(cap: usize) -> Self {
        Self { ring: VecDeque::new(), bytes: 0, cap, let_go: 0, gone: None, pushed: 0, last: None, era: 0 }
    }

    /// Forgets everything: another model begins to count.
    pub fn clear(&mut self) {
        *self = Self { era: self.era + 1, ..Self::with_cap(self.cap) };
    }

    /// Where the log stands, without its steps.
    #[must_use]
    pub fn mark(&self) -> Self {
        Self { ring: VecDeque::new(), bytes: 0, ..*self }
    }

    /// Only what was kept when `mark` was made, as far as it is still here.
    pub fn back_to(&mut self, mark: &Self) {
        let same = self.era == mark.era && self.pushed >= mark.pushed;
        let left = if same { (self.ring.len() as u64).saturating_sub(self.pushed - mark.pushed) } else { 0 };
        self.ring.truncate(left as usize);
        self.bytes = self.ring.iter().map(|k| k.bytes()).sum();
        (self.pushed, self.last, self.era) = (mark.pushed, mark.last, mark.era);
        self.let_go = self.pushed - left;
        if left == 0 {
            self.gone = self.last;
        }
    }

    /// Keeps a step. One whose number does not go on begins a new session.
    pub fn push(&mut self, record: &StepRecord) {
        if self.last.is_some_and(|last| record.step <= last) {
            self.clear();
        }
        let kept = Kept::of(record);
        self.bytes += kept.bytes();
        self.ring.push_back(Arc::new(kept));
        self.pushed += 1;
        self.last = Some(record.step);
        while self.bytes > self.cap && self.ring.len() > 1 {
            if let Some(old) = self.ring.pop_front() {
                self.bytes -= old.bytes();
                self.let_go += 1;
                self.gone = Some(old.step);
            }
        }
    }

    /// What is known of a step.
    #[must_use]
    pub fn get(&self, step: u64) -> Lookup<'_> {
        if self.last.is_none_or(|last| step > last) {
            return Lookup::NotYet;
        }
        match self.ring.binary_search_by_key(&step, |k| k.step) {
            Ok(at) => Lookup::Here(&self.ring[at]),
            Err(0) if self.gone.is_some_and(|gone| step <= gone) => Lookup::LetGo,
            Err(_) => Lookup::Dropped,
        }
    }

    /// All kept steps, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Kept> + ExactSizeIterator {
        self.ring.iter().map(|kept| &**kept)
    }

    /// The `count` kept steps that end with `step`, oldest first.
    pub fn until(&self, step: u64, count: usize) -> impl Iterator<Item = &Kept> {
        let end = self.ring.partition_point(|k| k.step <= step);
        self.ring.range(end.saturating_sub(count)..end).map(|kept| &**kept)
    }

    /// Kept steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Steps that were let go to make room.
    #[must_use]
    pub fn let_go(&self) -> u64 {
        self.let_go
    }

    /// Steps that came since the model was opened.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.pushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::experts_state::stream::Stream;
    use crate::ui::experts_state::tests::any_record;
    use proptest::prelude::*;

    #[test]
    fn a_kept_step_gives_back_what_happened() {
        let mut stream = Stream::new(3, 16, 4, 6, 1);
        let mut log = RoutingLog::default();
        let records: Vec<StepRecord> = (0..20).map(|_| stream.token()).collect();
        records.iter().for_each(|r| log.push(r));
        for record in &records {
            let Lookup::Here(kept) = log.get(record.step) else { panic!("step {} is gone", record.step) };
            let again = kept.record();
            assert_eq!((again.step, &again.ends, &again.evicted, again.time), (record.step, &record.ends, &record.evicted, record.time));
            for (a, b) in again.routed.iter().zip(&record.routed) {
                assert_eq!((a.expert, a.tokens, a.outcome), (b.expert, b.tokens, b.outcome));
                assert!((a.weight - b.weight).abs() < 1e-3);
            }
            let held = |r: &StepRecord| r.slot_of.iter().map(|s| *s != NO_SLOT).collect::<Vec<_>>();
            assert_eq!(held(&again), held(record));
            assert_eq!(kept.outcome(2, usize::from(record.layer(2)[0].expert)), Some(record.layer(2)[0].outcome));
        }
    }

    #[test]
    fn the_log_stays_within_its_cap_and_counts_what_it_lets_go() {
        let mut stream = Stream::new(4, 32, 4, 8, 1);
        let mut log = RoutingLog::with_cap(20_000);
        let records: Vec<StepRecord> = (0..200).map(|_| stream.token()).collect();
        records.iter().for_each(|r| log.push(r));
        assert!(log.bytes <= 20_000 && log.len() > 10, "{} steps in {} bytes", log.len(), log.bytes);
        assert_eq!(log.let_go() + log.len() as u64, 200);
        assert_eq!(log.get(0), Lookup::LetGo);
        assert_eq!(log.get(200), Lookup::NotYet);
        assert!(matches!(log.get(199), Lookup::Here(_)));
    }

    #[test]
    fn a_gap_is_dropped_and_never_something_else() {
        let mut log = RoutingLog::default();
        for step in [4, 5, 9] {
            log.push(&StepRecord { step, ..StepRecord::default() });
        }
        assert_eq!([log.get(6), log.get(8), log.get(3)], [Lookup::Dropped; 3]);
        assert_eq!(log.get(10), Lookup::NotYet);
        assert_eq!(log.until(8, 9).map(|k| k.step).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn entropy_is_0_for_one_expert_and_log2_k_for_even_gates() {
        let routed = |weights: &[f32]| StepRecord {
            ends: vec![weights.len() as u32],
            routed: weights.iter().map(|&weight| RoutedExpert { expert: 1, tokens: 1, weight, outcome: Outcome::Hit }).collect(),
            ..StepRecord::default()
        };
        assert_eq!(entropy(&routed(&[0.7])), Some(0.0));
        assert!((entropy(&routed(&[0.2; 8])).unwrap() - 3.0).abs() < 1e-5);
        assert_eq!(entropy(&routed(&[])), None);
        assert_eq!(entropy(&routed(&[f32::NAN, -1.0])), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn records_of_any_shape_are_kept_within_the_cap(records in prop::collection::vec(any_record(), 1..20)) {
            let mut log = RoutingLog::with_cap(3000);
            for record in &records {
                log.push(record);
                prop_assert!(log.bytes <= 3000 || log.len() == 1);
                prop_assert_eq!(log.bytes, log.iter().map(Kept::bytes).sum::<usize>());
                if let Lookup::Here(kept) = log.get(record.step) {
                    let _ = (kept.record(), kept.layer(2), kept.outcome(0, 3));
                }
            }
        }
    }
}
