//! Which step chose which bytes of a text.
//!
//! A model that is opened begins to count steps anew, so spans carry the number of the opening (the *epoch*): steps of an
//! earlier model are never taken for those of the model at hand.

use std::ops::Range;

/// More steps than this without text of their own are not claimed to share the next piece: the count comes from a file.
const MOST_SHARED: u64 = 64;

/// Neighbouring tokens that share a piece of text; nearly always one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// Step that chose the first token.
    pub first: u64,
    /// Step that chose the last.
    pub last: u64,
}

impl Span {
    /// Tokens in it.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// The tokens of one text, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSpans {
    epoch: u64,
    spans: Vec<Span>,
}

impl TokenSpans {
    /// The text has grown to `end` bytes by what `step` chose. `after` is the step before the first of this text, if it
    /// goes on from another one (an answer after its reasoning).
    pub fn add(&mut self, epoch: u64, step: u64, end: usize, after: Option<u64>) {
        if self.epoch != epoch {
            *self = Self { epoch, spans: Vec::new() };
        }
        let start = match self.spans.last_mut() {
            Some(last) if last.last == step => {
                last.end = last.end.max(end);
                return;
            }
            last => last.map_or(0, |l| l.end),
        };
        let before = self.spans.last().map(|l| l.last).or(after);
        // Steps in between chose tokens that have no text of their own.
        let first = before.filter(|b| *b < step && step - b <= MOST_SHARED).map_or(step, |b| b + 1);
        self.spans.push(Span { start, end: end.max(start), first, last: step });
    }

    /// How many there are, of whatever epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// All spans, if they are of this epoch.
    #[must_use]
    pub fn of(&self, epoch: u64) -> &[Span] {
        if self.epoch == epoch {
            &self.spans
        } else {
            &[]
        }
    }

    /// Spans of this epoch that lie in these bytes, wholly or in part.
    #[must_use]
    pub fn within(&self, epoch: u64, bytes: Range<usize>) -> &[Span] {
        let spans = self.of(epoch);
        let from = spans.partition_point(|s| s.end <= bytes.start);
        let to = spans.partition_point(|s| s.start < bytes.end);
        spans.get(from..to).unwrap_or(&[])
    }

    /// The last step.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.spans.last().map(|s| s.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_one_step_are_one_token_and_silent_steps_share_the_next_piece() {
        let mut t = TokenSpans::default();
        t.add(1, 10, 4, None);
        t.add(1, 10, 5, None);
        t.add(1, 13, 9, None);
        assert_eq!(t.of(1), [Span { start: 0, end: 5, first: 10, last: 10 }, Span { start: 5, end: 9, first: 11, last: 13 }]);
        assert_eq!(t.within(1, 4..6).len(), 2);
        assert_eq!(t.within(1, 5..6)[0].first, 11);
        assert!(t.within(1, 9..20).is_empty() && t.of(2).is_empty());
    }

    #[test]
    fn steps_of_another_model_start_over_and_wild_numbers_claim_nothing() {
        let mut t = TokenSpans::default();
        t.add(1, 10, 4, None);
        t.add(2, 3, 6, Some(1));
        assert_eq!(t.of(2), [Span { start: 0, end: 6, first: 2, last: 3 }]);
        t.add(2, u64::MAX, 7, None);
        t.add(2, 5, 8, None);
        assert!(t.of(2).iter().all(|s| s.tokens() <= 64));
    }
}
