//! Two sides of a comparison, step by step: who held which expert, who hit what the other missed.
//!
//! Rates count generation only, once per token that chose the expert, over the whole session and over its recent part: the
//! last step counts in full, each one before it 97 % of the one after, so the last 33 or so decide.

use crate::events::{Outcome, Phase, StepRecord, NO_SLOT};

/// What is left of a step's weight after one more.
const RECENT: f32 = 0.97;

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The session that is played.
    A,
    /// What it is compared with.
    B,
}

/// Hits and routed experts of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    hits: [u64; 2],
    routed: [u64; 2],
    recent_hits: [f32; 2],
    recent_routed: [f32; 2],
}

/// Hit rates of both sides, 0..1; `None` before the first routed expert.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Over recent tokens.
    pub recent: [Option<f32>; 2],
    /// Over the whole session.
    pub whole: [Option<f32>; 2],
}

/// One expert.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cell {
    /// Who holds it now.
    pub held: [bool; 2],
    /// Share of recent steps in which A held it, less that of B: 1 is A alone, -1 B alone.
    pub lean: f32,
    /// In this step it was routed on both sides, and only this one had it.
    pub only: Option<Side>,
}

/// The comparison as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// What each side is, in words.
    pub names: [String; 2],
    layers: usize,
    experts: usize,
    cells: Vec<Cell>,
    counts: Vec<Count>,
    /// Steps compared.
    steps: u64,
    /// What the weights of all steps add up to, newest first.
    weight: f32,
    ticks: u64,
    alike: u64,
    /// The other side has no more steps.
    pub ended: bool,
}

impl Difference {
    /// Nothing compared yet.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        Self { layers, experts, cells: vec![Cell::default(); layers * experts], counts: vec![Count::default(); layers], ..Self::default() }
    }

    /// Compares one step of each side. Records of another shape are left out.
    pub fn step(&mut self, a: &StepRecord, b: &StepRecord) {
        if a.layers() != self.layers || b.layers() != self.layers {
            return;
        }
        self.steps += 1;
        self.weight = self.weight * RECENT + 1.0;
        for (at, cell) in self.cells.iter_mut().enumerate() {
            let held = |r: &StepRecord| r.slot_of.get(at).is_some_and(|s| *s != NO_SLOT);
            cell.held = [held(a), held(b)];
            cell.only = None;
            cell.lean = cell.lean * RECENT + (f32::from(cell.held[0]) - f32::from(cell.held[1]));
        }
        for layer in 0..self.layers {
            self.tick(layer, [a, b]);
        }
    }

    fn tick(&mut self, layer: usize, sides: [&StepRecord; 2]) {
        let count = &mut self.counts[layer];
        for (side, record) in sides.into_iter().enumerate().filter(|(_, r)| r.phase == Phase::Decode) {
            let (mut hits, mut routed) = (0u64, 0u64);
            for r in record.layer(layer) {
                routed += u64::from(r.tokens);
                hits += if r.outcome == Outcome::Hit { u64::from(r.tokens) } else { 0 };
            }
            count.hits[side] += hits;
            count.routed[side] += routed;
            count.recent_hits[side] = count.recent_hits[side] * RECENT + hits as f32;
            count.recent_routed[side] = count.recent_routed[side] * RECENT + routed as f32;
        }
        let [a, b] = sides.map(|r| r.layer(layer));
        self.ticks += 1;
        self.alike += u64::from(a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| y.expert == x.expert)));
        for x in a {
            let Some(y) = b.iter().find(|y| y.expert == x.expert) else { continue };
            let only = match (x.outcome == Outcome::Hit, y.outcome == Outcome::Hit) {
                (true, false) => Some(Side::A),
                (false, true) => Some(Side::B),
                _ => None,
            };
            let expert = usize::from(x.expert);
            if expert < self.experts {
                self.cells[layer * self.experts + expert].only = only;
            }
        }
    }

    /// Layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Experts per layer.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Steps compared.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One expert; the default for one out of range.
    #[must_use]
    pub fn cell(&self, layer: usize, expert: usize) -> Cell {
        if layer >= self.layers || expert >= self.experts || self.weight <= 0.0 {
            return Cell::default();
        }
        let cell = self.cells[layer * self.experts + expert];
        Cell { lean: cell.lean / self.weight, ..cell }
    }

    /// Rates of these layers together.
    #[must_use]
    pub fn rates(&self, layers: std::ops::Range<usize>) -> Rates {
        let mut sum = Count::default();
        for count in self.counts.get(layers.start..layers.end.min(self.layers)).unwrap_or(&[]) {
            for side in 0..2 {
                sum.hits[side] += count.hits[side];
                sum.routed[side] += count.routed[side];
                sum.recent_hits[side] += count.recent_hits[side];
                sum.recent_routed[side] += count.recent_routed[side];
            }
        }
        let whole = [0, 1].map(|s| (sum.routed[s] > 0).then(|| sum.hits[s] as f32 / sum.routed[s] as f32));
        let recent = [0, 1].map(|s| (sum.recent_routed[s] > 1e-3).then(|| sum.recent_hits[s] / sum.recent_routed[s]));
        Rates { recent, whole }
    }

    /// Share of ticks in which both sides routed to the same experts, 0..1; `None` before the first.
    #[must_use]
    pub fn alike(&self) -> Option<f32> {
        (self.ticks > 0).then(|| self.alike as f32 / self.ticks as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::RoutedExpert;

    fn record(outcomes: &[(u16, Outcome)], held: &[u16]) -> StepRecord {
        StepRecord {
            ends: vec![outcomes.len() as u32],
            routed: outcomes.iter().map(|&(expert, outcome)| RoutedExpert { expert, tokens: 1, weight: 0.5, outcome }).collect(),
            slot_of: (0..4).map(|e| if held.contains(&e) { 0 } else { NO_SLOT }).collect(),
            ..StepRecord::default()
        }
    }

    #[test]
    fn cells_say_who_holds_what_and_who_alone_hit() {
        let mut d = Difference::new(1, 4);
        let a = record(&[(0, Outcome::Hit), (1, Outcome::Miss), (2, Outcome::Hit)], &[0, 2]);
        let b = record(&[(0, Outcome::Hit), (1, Outcome::Hit), (2, Outcome::Admitted)], &[0, 1, 2]);
        d.step(&a, &b);
        assert_eq!([0, 1, 2, 3].map(|e| d.cell(0, e).only), [None, Some(Side::B), Some(Side::A), None]);
        assert_eq!([0, 1, 2, 3].map(|e| d.cell(0, e).lean), [0.0, -1.0, 0.0, 0.0]);
        assert_eq!(d.cell(0, 1).held, [false, true]);
        let rates = d.rates(0..1);
        assert!((rates.whole[0].unwrap() - 2.0 / 3.0).abs() < 1e-6 && rates.recent == rates.whole);
        assert_eq!(d.alike(), Some(1.0));
    }

    #[test]
    fn the_lean_fades_and_swaps_with_the_sides() {
        let (a, b) = (record(&[(0, Outcome::Hit)], &[0]), record(&[(3, Outcome::Miss)], &[1]));
        let (mut d, mut swapped) = (Difference::new(1, 4), Difference::new(1, 4));
        for step in 0..50 {
            let (x, y) = if step < 25 { (&a, &b) } else { (&b, &b) };
            d.step(x, y);
            swapped.step(y, x);
        }
        let lean = d.cell(0, 0).lean;
        assert!(lean > 0.2 && lean < 0.5, "{lean}");
        assert!((0..4).all(|e| d.cell(0, e).lean == -swapped.cell(0, e).lean));
        assert_eq!(d.rates(0..1).whole[0], swapped.rates(0..1).whole[1]);
        assert_eq!(d.alike(), Some(0.5));
    }

    #[test]
    fn a_side_beside_itself_is_no_difference() {
        let mut d = Difference::new(1, 4);
        let a = record(&[(0, Outcome::Hit), (1, Outcome::Miss)], &[0, 2]);
        (0..9).for_each(|_| d.step(&a, &a));
        assert!((0..4).all(|e| d.cell(0, e).lean == 0.0 && d.cell(0, e).only.is_none()));
        assert_eq!(d.rates(0..1).whole[0], d.rates(0..1).whole[1]);
    }

    #[test]
    fn prompts_move_slots_but_count_no_hits() {
        let mut d = Difference::new(1, 4);
        let a = StepRecord { phase: Phase::Prefill, ..record(&[(0, Outcome::Hit)], &[0]) };
        d.step(&a, &a);
        assert_eq!(d.rates(0..1), Rates::default());
        assert_eq!(d.cell(0, 0).held, [true, true]);
        assert_eq!(d.cell(5, 9), Cell::default());
    }
}
