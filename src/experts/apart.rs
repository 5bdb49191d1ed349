//! A layer whose ticks come outside of the order of the others: that of the block that guesses further tokens ([`crate::model::Model::guess`]).
//!
//! It may tick several times in a step (for rows that it has yet to read, then for each guess), before the first layer does, or not at all. So what it did is kept apart,
//! and put behind the others when the step ends: an expert that several ticks asked for is there once, with all their tokens and the outcome of the first.

use super::Experts;
use crate::events::{Outcome, RoutedExpert};

/// Which layer that is, and what it did in the step at hand.
#[derive(Default)]
pub(super) struct Apart {
    layer: Option<usize>,
    routed: Vec<RoutedExpert>,
}

impl Apart {
    pub(super) fn is(&self, layer: usize) -> bool {
        self.layer == Some(layer)
    }

    pub(super) fn begin_step(&mut self) {
        self.routed.clear();
    }

    /// One expert of one tick.
    pub(super) fn add(&mut self, one: RoutedExpert) {
        match self.routed.iter_mut().find(|r| r.expert == one.expert) {
            Some(r) => {
                r.tokens = r.tokens.saturating_add(one.tokens);
                r.weight += one.weight;
            }
            None => self.routed.push(one),
        }
    }

    /// The copy of an expert has failed.
    pub(super) fn refused(&mut self, expert: u16) {
        self.routed.iter_mut().filter(|r| r.expert == expert).for_each(|r| r.outcome = Outcome::Miss);
    }

    /// Put it behind the other layers, whose `routed` experts end at `ends`. A step that was stopped between those, and in which this layer did nothing, stays as it is.
    pub(super) fn end_step(&mut self, ends: &mut Vec<u32>, routed: &mut Vec<RoutedExpert>) {
        let Some(layer) = self.layer else { return };
        if self.routed.is_empty() && ends.len() != layer {
            return;
        }
        ends.resize(layer, ends.last().copied().unwrap_or(0));
        routed.append(&mut self.routed);
        ends.push(routed.len() as u32);
    }
}

impl Experts {
    /// The last layer's ticks come outside of the order of the others, and of the count of a step's tokens.
    pub fn set_last_apart(&mut self) {
        self.apart.layer = self.expert_bytes.len().checked_sub(1);
    }

    /// Whether this is such a layer.
    #[must_use]
    pub fn stands_apart(&self, layer: usize) -> bool {
        self.apart.is(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(expert: u16, outcome: Outcome) -> RoutedExpert {
        RoutedExpert { expert, tokens: 1, weight: 0.25, outcome }
    }

    #[test]
    fn ticks_of_a_step_become_one_layer_behind_the_others() {
        let mut apart = Apart { layer: Some(2), ..Apart::default() };
        let (mut ends, mut all) = (vec![1, 2], vec![routed(7, Outcome::Hit); 2]);
        for one in [routed(4, Outcome::Miss), routed(1, Outcome::Admitted), routed(4, Outcome::Hit)] {
            apart.add(one);
        }
        apart.refused(1);
        apart.end_step(&mut ends, &mut all);
        assert_eq!(ends, [1, 2, 4]);
        assert_eq!(all[2..], [RoutedExpert { tokens: 2, weight: 0.5, ..routed(4, Outcome::Miss) }, routed(1, Outcome::Miss)]);
    }

    #[test]
    fn nothing_done_is_an_empty_layer_and_nothing_at_all_in_a_step_that_was_stopped() {
        let mut apart = Apart { layer: Some(2), ..Apart::default() };
        let (mut ends, mut all) = (vec![1, 2], vec![routed(7, Outcome::Hit); 2]);
        apart.end_step(&mut ends, &mut all);
        assert_eq!((ends.as_slice(), all.len()), (&[1, 2, 2][..], 2));
        let mut ends = vec![1];
        apart.end_step(&mut ends, &mut all);
        assert_eq!(ends, [1]);
        // It ran before the first layer, and the step was stopped there.
        let mut ends = vec![];
        apart.add(routed(3, Outcome::Hit));
        apart.end_step(&mut ends, &mut Vec::new());
        assert_eq!(ends, [0, 0, 1]);
        let mut ends = vec![1, 2, 2];
        Apart::default().end_step(&mut ends, &mut all);
        assert_eq!(ends, [1, 2, 2], "no such layer");
    }
}
