//! Why experts missed, which swaps were regretted, and how many bytes each layer moved: folded from step records.
//!
//! A miss of a generated token is of one of three classes, by what became of the expert's use before:
//!
//! - **first use**: there was none since the model was opened; no policy and no slot count could have helped;
//! - **capacity**: it was in a slot then, and lost it since;
//! - **refused**: it missed then too, and was not admitted.
//!
//! A swap is **regretted** if the expert that lost its slot is needed again within [`SOON`] tokens.

use crate::events::{Outcome, Phase, StepRecord};

/// Tokens within which a swap can be regretted.
pub const SOON: u64 = 32;
/// What is left of a layer's recent bytes after one token.
const DECAY: f64 = 0.97;

/// What became of an expert's last use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Never,
    InSlot,
    Refused,
}

/// The account of one layer, or of all: counts over the generated tokens of the session.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Account {
    /// Misses of experts never used before.
    pub first: u64,
    /// Misses of experts that lost their slot.
    pub capacity: u64,
    /// Misses of experts that were refused a slot at their use before.
    pub refused: u64,
    /// Swaps that took a slot from an expert.
    pub swaps: u64,
    /// Of those, how many were regretted so far.
    pub regretted: u64,
    /// Experts that came before they were asked for, and those of them that were then asked for.
    pub ahead: u64,
    /// See above.
    pub asked: u64,
    /// Bytes per token, lately: copied into slots, or read from host memory for misses.
    pub moved: f64,
}

impl Account {
    /// All misses.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.first + self.capacity + self.refused
    }

    /// First uses, capacity and refused as shares of all misses; `None` without one.
    #[must_use]
    pub fn classes(&self) -> Option<[f64; 3]> {
        let all = self.misses();
        (all > 0).then(|| [self.first, self.capacity, self.refused].map(|n| n as f64 / all as f64))
    }

    /// Share of the experts that came ahead which were then asked for; `None` if none came.
    #[must_use]
    pub fn foresight(&self) -> Option<f64> {
        (self.ahead > 0).then(|| self.asked as f64 / self.ahead as f64)
    }

    /// Share of the swaps that were regretted; `None` without a swap.
    #[must_use]
    pub fn regret(&self) -> Option<f64> {
        (self.swaps > 0).then(|| self.regretted as f64 / self.swaps as f64)
    }
}

/// The accounts of all layers.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    experts: usize,
    bytes: Vec<u64>,
    last: Vec<Last>,
    /// Token count after the step in which a generated token's swap took its slot; 0 if none did since its last use.
    lost_at: Vec<u64>,
    tokens: u64,
    generated: u64,
    layers: Vec<Account>,
}

impl Ledger {
    /// Empty accounts. `bytes` is the size of one expert by layer; missing entries count as 0.
    #[must_use]
    pub fn new(layers: usize, experts: usize, bytes: &[u64]) -> Self {
        let cells = layers.saturating_mul(experts);
        Self {
            experts,
            bytes: (0..layers).map(|l| bytes.get(l).copied().unwrap_or(0)).collect(),
            last: vec![Last::Never; cells],
            lost_at: vec![0; cells],
            layers: vec![Account::default(); layers],
            ..Self::default()
        }
    }

    /// Takes one step. Parts of a record that don't fit the model are passed over.
    pub fn apply(&mut self, record: &StepRecord) {
        let decode = record.phase == Phase::Decode;
        self.tokens = self.tokens.saturating_add(u64::from(record.tokens.max(1)));
        self.generated += u64::from(decode);
        for layer in 0..self.layers.len() {
            let account = &mut self.layers[layer];
            let mut moved = 0u64;
            for routed in record.layer(layer) {
                let expert = usize::from(routed.expert);
                if expert >= self.experts {
                    continue;
                }
                let at = layer * self.experts + expert;
                let before =
                    std::mem::replace(&mut self.last[at], if routed.outcome == Outcome::Miss { Last::Refused } else { Last::InSlot });
                let lost_at = std::mem::take(&mut self.lost_at[at]);
                if !decode || routed.outcome == Outcome::Hit {
                    continue;
                }
                moved = moved.saturating_add(self.bytes[layer]);
                match before {
                    Last::Never => account.first += 1,
                    Last::InSlot => account.capacity += 1,
                    Last::Refused => account.refused += 1,
                }
                account.regretted += u64::from(lost_at > 0 && self.tokens - lost_at <= SOON);
            }
            if decode {
                // Of a step that brought several tokens, each has its part.
                account.moved = account.moved * DECAY + moved as f64 / f64::from(record.gained().max(1));
            }
        }
        if decode {
            for came in &record.ahead {
                let layer = usize::from(came.layer);
                let Some(account) = self.layers.get_mut(layer) else { continue };
                account.ahead += 1;
                account.asked += u64::from(record.layer(layer).iter().any(|r| r.expert == came.expert));
                account.moved += self.bytes[layer] as f64 / f64::from(record.gained().max(1));
            }
            for gone in &record.evicted {
                let (layer, expert) = (usize::from(gone.layer), usize::from(gone.expert));
                if layer < self.layers.len() && expert < self.experts {
                    self.layers[layer].swaps += 1;
                    self.lost_at[layer * self.experts + expert] = self.tokens;
                }
            }
        }
    }

    /// The account of one layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> Account {
        let account = self.layers.get(layer).copied().unwrap_or_default();
        // A short past is no small number of bytes.
        let past = 1.0 - DECAY.powi(i32::try_from(self.generated).unwrap_or(i32::MAX));
        Account { moved: if past > 0.0 { account.moved * (1.0 - DECAY) / past } else { 0.0 }, ..account }
    }

    /// The account of all layers together.
    #[must_use]
    pub fn total(&self) -> Account {
        (0..self.layers.len()).map(|l| self.layer(l)).fold(Account::default(), |sum, a| Account {
            first: sum.first + a.first,
            capacity: sum.capacity + a.capacity,
            refused: sum.refused + a.refused,
            swaps: sum.swaps + a.swaps,
            regretted: sum.regretted + a.regretted,
            moved: sum.moved + a.moved,
            ahead: sum.ahead + a.ahead,
            asked: sum.asked + a.asked,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Eviction, RoutedExpert};
    use crate::ui::experts_state::stream::Stream;
    use crate::ui::experts_state::tests::any_record;
    use proptest::prelude::*;

    fn step(outcomes: &[(u16, Outcome)], evicted: &[u16]) -> StepRecord {
        StepRecord {
            tokens: 1,
            ends: vec![outcomes.len() as u32],
            routed: outcomes.iter().map(|&(expert, outcome)| RoutedExpert { expert, tokens: 1, weight: 0.5, outcome }).collect(),
            evicted: evicted.iter().map(|&expert| Eviction { layer: 0, expert }).collect(),
            ..StepRecord::default()
        }
    }

    #[test]
    fn misses_are_told_apart_by_what_became_of_the_use_before() {
        let mut ledger = Ledger::new(1, 4, &[10]);
        ledger.apply(&step(&[(0, Outcome::Admitted), (1, Outcome::Miss)], &[]));
        assert_eq!(ledger.layer(0).first, 2);
        ledger.apply(&step(&[(1, Outcome::Admitted)], &[0]));
        ledger.apply(&step(&[(0, Outcome::Miss)], &[]));
        let account = ledger.total();
        assert_eq!((account.first, account.capacity, account.refused), (2, 1, 1));
        assert_eq!((account.swaps, account.regretted), (1, 1));
        assert_eq!(account.classes(), Some([0.5, 0.25, 0.25]));
    }

    #[test]
    fn a_swap_is_regretted_only_soon_and_only_once() {
        let mut ledger = Ledger::new(1, 4, &[10]);
        ledger.apply(&step(&[(0, Outcome::Admitted)], &[]));
        ledger.apply(&step(&[(1, Outcome::Admitted)], &[0]));
        for _ in 0..SOON {
            ledger.apply(&step(&[(1, Outcome::Hit)], &[]));
        }
        ledger.apply(&step(&[(0, Outcome::Admitted)], &[1]));
        assert_eq!((ledger.total().swaps, ledger.total().regretted), (2, 0), "one token too late");
        ledger.apply(&step(&[(1, Outcome::Miss)], &[]));
        ledger.apply(&step(&[(1, Outcome::Miss)], &[]));
        assert_eq!((ledger.total().swaps, ledger.total().regretted), (2, 1));
    }

    #[test]
    fn bytes_moved_are_those_of_the_records() {
        let mut stream = Stream::new(6, 32, 4, 12, 9);
        let card = stream.card();
        let mut ledger = Ledger::new(6, 32, &card.expert_bytes);
        let records: Vec<StepRecord> = (0..400).map(|_| stream.token()).collect();
        records.iter().for_each(|r| ledger.apply(r));
        let recent: f64 = records.iter().rev().take(100).map(|r| r.bytes_missed as f64).sum::<f64>() / 100.0;
        assert!((ledger.total().moved / recent - 1.0).abs() < 0.25, "{} {recent}", ledger.total().moved);
        let misses: u64 = records.iter().map(StepRecord::hits_and_routed).map(|(h, r)| r - h).sum();
        assert_eq!(ledger.total().misses(), misses, "each miss has one class");
        let evicted: usize = records.iter().map(|r| r.evicted.len()).sum();
        assert_eq!(ledger.total().swaps, evicted as u64);
        assert!(ledger.total().regretted > 0);
    }

    proptest! {
        #[test]
        fn records_of_any_shape_leave_an_account_that_adds_up(records in prop::collection::vec(any_record(), 1..40)) {
            let mut ledger = Ledger::new(3, 16, &[7, 9]);
            for record in &records {
                ledger.apply(record);
                let total = ledger.total();
                prop_assert!(total.regretted <= total.misses() && total.moved.is_finite());
                if let Some(classes) = total.classes() {
                    prop_assert!((classes.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                }
            }
        }
    }
}
