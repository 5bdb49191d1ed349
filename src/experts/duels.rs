//! Whether a newcomer is worth a resident's slot, learned from how such choices turn out.
//!
//! Whenever a newcomer stands against a victim, the two enter a *duel*: whoever is used first has won, and would have been
//! the right one to keep (that is Belady's rule for the two of them). The router decides that, not the cache, so the
//! outcome is seen whichever of them got the slot. A logistic model of `ln(newcomer's worth / victim's worth)` with one
//! number per layer, its *lean*, follows the outcomes; a newcomer is admitted where it is more likely to win than not.
//!
//! A worth is a rough estimate, and roughest for an expert that was seen for the first time. How rough differs between
//! models, layers and slot counts; the lean takes that up, where a fixed margin would be wrong on one side or the other.

/// No duel.
const NOBODY: u16 = u16::MAX;
/// Lean before anything was learned: a newcomer with more than half of the victim's worth gets the slot.
const FIRST_LEAN: f64 = std::f64::consts::LN_2;
/// What one outcome moves the lean by, at most.
const RATE: f64 = 0.05;
/// Added to each worth, so that a ratio with nothing is finite.
const FLOOR: f64 = 1e-4;

/// The open duels of all layers and what the settled ones have taught.
#[derive(Clone, Debug)]
pub struct Duels {
    experts: usize,
    /// `[layers]`.
    lean: Vec<f64>,
    /// `[layers * experts]`: whom the expert stands against; [`NOBODY`].
    against: Vec<u16>,
    /// `[layers * experts]`: `ln` of the newcomer's worth over the victim's, in both places.
    ratio: Vec<f32>,
    /// `[layers * experts]`: whether the expert is the newcomer.
    newcomer: Vec<bool>,
}

impl Duels {
    /// No duels yet.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        let n = layers * experts;
        Self { experts, lean: vec![FIRST_LEAN; layers], against: vec![NOBODY; n], ratio: vec![0.0; n], newcomer: vec![false; n] }
    }

    /// The expert is used in this tick; `together` says whether another one is, too. Two of one tick are even.
    pub fn used(&mut self, layer: usize, expert: u16, together: impl Fn(u16) -> bool) {
        let base = layer * self.experts;
        let i = base + usize::from(expert);
        let other = std::mem::replace(&mut self.against[i], NOBODY);
        if other == NOBODY {
            return;
        }
        self.against[base + usize::from(other)] = NOBODY;
        if together(other) {
            return;
        }
        let won = if self.newcomer[i] { 1.0 } else { 0.0 };
        let odds = f64::from(self.ratio[i]) + self.lean[layer];
        self.lean[layer] += RATE * (won - 1.0 / (1.0 + (-odds).exp()));
    }

    /// A newcomer stands against a victim; earlier duels of either are broken off. Returns whether the newcomer should have
    /// the slot: by `margin` times the victim's worth more is asked of it than has been learned.
    pub fn judge(&mut self, layer: usize, newcomer: (u16, f64), victim: (u16, f64), margin: f64) -> bool {
        let base = layer * self.experts;
        let ratio = ((newcomer.1 + FLOOR) / (victim.1 + FLOOR)).ln();
        for (expert, other, new) in [(newcomer.0, victim.0, true), (victim.0, newcomer.0, false)] {
            let i = base + usize::from(expert);
            let former = std::mem::replace(&mut self.against[i], other);
            if former != NOBODY && former != other {
                self.against[base + usize::from(former)] = NOBODY;
            }
            self.ratio[i] = ratio as f32;
            self.newcomer[i] = new;
        }
        ratio + self.lean[layer] > margin.ln()
    }

    /// What a newcomer's worth is multiplied by before it is compared, as learned for the layer so far.
    #[must_use]
    pub fn favour(&self, layer: usize) -> f64 {
        self.lean.get(layer).map_or(1.0, |l| l.exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn newcomers_that_keep_losing_lose_favour_and_winners_gain_it() {
        for (winner, favoured) in [(0u16, true), (1, false)] {
            let mut duels = Duels::new(2, 4);
            for _ in 0..500 {
                duels.judge(0, (0, 0.1), (1, 0.1), 1.0);
                duels.used(0, winner, |_| false);
            }
            assert_eq!(duels.judge(0, (0, 0.1), (1, 0.1), 1.0), favoured);
            assert_eq!(duels.favour(0) > 2.0, favoured);
            assert!((duels.favour(1) - 2.0).abs() < 1e-12, "layers learn for themselves");
        }
    }

    #[test]
    fn a_duel_of_two_used_together_teaches_nothing() {
        let mut duels = Duels::new(1, 4);
        duels.judge(0, (0, 0.1), (1, 0.5), 1.0);
        duels.used(0, 0, |e| e == 1);
        duels.used(0, 1, |e| e == 0);
        assert!((duels.favour(0) - 2.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn opponents_are_each_others_opponents_and_favour_stays_finite(
            acts in prop::collection::vec((0u16..6, 0u16..6, 0.0f64..2.0, 0.0f64..2.0), 1..200),
        ) {
            let mut duels = Duels::new(1, 6);
            for (a, b, x, y) in acts {
                if a == b {
                    duels.used(0, a, |_| false);
                } else {
                    duels.judge(0, (a, x), (b, y), 1.0);
                }
                for e in 0..6usize {
                    let other = duels.against[e];
                    if other != NOBODY {
                        prop_assert_eq!(usize::from(duels.against[usize::from(other)]), e);
                        prop_assert!(duels.newcomer[e] != duels.newcomer[usize::from(other)]);
                    }
                }
                prop_assert!(duels.favour(0).is_finite() && duels.favour(0) > 0.0);
            }
        }
    }
}
