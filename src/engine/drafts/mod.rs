//! Tokens that are likely to come, read together with the one that was drawn.
//!
//! A step that reads several tokens takes less than as many steps: weights of the trunk are read once, and experts that two tokens
//! share as well. So a few tokens are drafted, read in one step, and kept as far as the sampler draws the same ones anyway; the rest is
//! taken back (speculative decoding; Leviathan et al. 2023, with drafts that are certain). What is drawn does not depend on drafts: every token is drawn
//! from the logits after the tokens before it, by the same sampler in the same order.
//!
//! Drafts come from earlier text (`lookup`), or from the model itself where it has a block that guesses; how many is a matter of what they bring (`pace`).

mod lookup;
mod pace;

use crate::events::When;
use lookup::{Found, Lookup};
use pace::{Kind, Pace};

/// Most drafted tokens of a step.
const MOST: usize = 7;

/// What is to be read together with the drawn token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plan {
    /// Nothing.
    Alone,
    /// These tokens.
    Tokens(Vec<u32>),
    /// What the model guesses, so many tokens.
    Ask(usize),
}

/// What came of a step that a [`Plan`] was made for.
pub(super) struct Came<'a> {
    /// Tokens that were read beyond the first.
    pub(super) drafted: &'a [u32],
    /// Tokens that were drawn, one at least.
    pub(super) drawn: &'a [u32],
    /// Microseconds of the step without its guesses, and of those.
    pub(super) step_us: f64,
    pub(super) guess_us: f64,
}

/// Drafts for one model.
#[derive(Default)]
pub(super) struct Drafts {
    wish: When,
    lookup: Lookup,
    pace: Pace,
    /// What earlier text says of the step at hand, whether or not it is read.
    found: Found,
    /// The next step is the first of an answer: the model's block may have much of the prompt to read in it.
    first: bool,
}

impl Drafts {
    /// From now on: where it pays, as many as possible, or none.
    pub(super) fn when(&mut self, wish: When) {
        self.wish = wish;
    }

    /// An answer begins. Times of its first step tell nothing of others.
    pub(super) fn begin_answer(&mut self) {
        self.first = true;
    }

    /// The context has changed beyond `len`.
    pub(super) fn cut(&mut self, len: usize) {
        self.lookup.cut(len);
    }

    /// What to read with `next`, which follows `context`: at most `most` tokens. `guesses`: the model can be asked.
    pub(super) fn plan(&mut self, context: &[u32], next: u32, most: usize, guesses: bool) -> Plan {
        let most = most.min(MOST);
        self.found = Found::default();
        if self.wish == When::Never || most == 0 {
            return Plan::Alone;
        }
        let found = self.lookup.find(context, next, most).unwrap_or_default();
        let alike = found.alike;
        let (earlier, earlier_rate) = self.pace.best(found.tokens.len(), |i| Kind::Earlier(alike + i));
        let (guessed, guess_rate) = if guesses { self.pace.best(most, |i| Kind::Guess(i + 1)) } else { (0, 0.0) };
        self.found = found;
        match self.wish {
            When::Always if !self.found.tokens.is_empty() => Plan::Tokens(self.found.tokens.clone()),
            When::Always if guesses => Plan::Ask(most),
            _ if guessed > 0 && guess_rate > earlier_rate => Plan::Ask(guessed),
            _ if earlier > 0 => Plan::Tokens(self.found.tokens[..earlier].to_vec()),
            _ => Plan::Alone,
        }
    }

    /// Learn from a step. `asked`: its drafts were the model's guesses.
    pub(super) fn learn(&mut self, asked: bool, came: &Came<'_>) {
        let timed = !std::mem::take(&mut self.first);
        if timed {
            self.pace.step_took(1 + came.drafted.len(), came.step_us);
        }
        // Whether earlier text was right is known as far as tokens were drawn, read or not.
        for (i, (then, now)) in self.found.tokens.iter().zip(came.drawn).enumerate() {
            self.pace.note(Kind::Earlier(self.found.alike + i), then == now);
            if then != now {
                break;
            }
        }
        if asked {
            if timed {
                self.pace.guesses_took(came.drafted.len(), came.guess_us);
            }
            for (i, (guess, drawn)) in came.drafted.iter().zip(came.drawn).enumerate() {
                self.pace.note(Kind::Guess(i + 1), guess == drawn);
                if guess != drawn {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came<'a>(drafted: &'a [u32], drawn: &'a [u32], step_us: f64) -> Came<'a> {
        Came { drafted, drawn, step_us, guess_us: 10.0 }
    }

    const TEXT: [u32; 9] = [1, 2, 3, 4, 5, 6, 9, 1, 2];

    #[test]
    fn nothing_is_drafted_unless_it_is_wished_for_and_there_is_room() {
        let mut drafts = Drafts::default();
        drafts.when(When::Always);
        assert_eq!(drafts.plan(&TEXT, 3, 2, false), Plan::Tokens(vec![4, 5]));
        assert_eq!(drafts.plan(&TEXT, 3, 0, true), Plan::Alone);
        assert_eq!(drafts.plan(&TEXT, 8, 2, false), Plan::Alone, "nothing is like it");
        assert_eq!(drafts.plan(&TEXT, 8, 2, true), Plan::Ask(2));
        drafts.when(When::Never);
        assert_eq!(drafts.plan(&TEXT, 3, 2, true), Plan::Alone);
    }

    #[test]
    fn the_first_step_of_an_answer_says_nothing_of_times() {
        let mut drafts = Drafts::default();
        drafts.begin_answer();
        drafts.plan(&TEXT, 3, 4, true);
        drafts.learn(true, &came(&[8], &[8, 9], 1e6));
        assert_eq!(drafts.plan(&TEXT, 3, 4, true), Plan::Alone, "nothing was timed yet");
        drafts.learn(false, &came(&[], &[4], 100.0));
        assert_ne!(drafts.plan(&TEXT, 3, 4, true), Plan::Alone);
    }

    #[test]
    fn earlier_text_is_judged_even_while_it_is_not_read() {
        let mut drafts = Drafts::default();
        for _ in 0..60 {
            // Steps of more tokens cost too much to be worth it.
            (2..=8).for_each(|n| drafts.pace.step_took(n, 100.0 * n as f64));
            assert_eq!(drafts.plan(&TEXT, 3, 4, false), Plan::Alone);
            drafts.learn(false, &came(&[], &[7], 100.0));
        }
        (0..400).for_each(|_| drafts.pace.step_took(1, 100.0));
        for _ in 0..60 {
            drafts.plan(&TEXT, 3, 4, false);
            drafts.learn(false, &came(&[], &[7], 100.0));
        }
        assert_eq!(drafts.plan(&TEXT, 3, 4, false), Plan::Alone, "what was never right is not tried, however cheap it might be");
        for _ in 0..60 {
            drafts.plan(&TEXT, 3, 4, false);
            drafts.learn(false, &came(&[], &[4], 100.0));
        }
        assert!(matches!(drafts.plan(&TEXT, 3, 4, false), Plan::Tokens(_)), "what would have been right is");
    }

    #[test]
    fn the_model_is_asked_where_its_guesses_promise_more_than_earlier_text() {
        let mut drafts = Drafts::default();
        drafts.plan(&TEXT, 3, 4, true);
        drafts.learn(false, &came(&[], &[4], 100.0));
        for _ in 0..60 {
            drafts.plan(&TEXT, 3, 4, true);
            drafts.learn(true, &came(&[8, 9], &[8, 9, 10], 110.0));
        }
        assert!(matches!(drafts.plan(&TEXT, 3, 4, true), Plan::Ask(2..)), "earlier text was wrong each time");
        for _ in 0..90 {
            drafts.plan(&TEXT, 3, 4, true);
            drafts.learn(true, &came(&[8, 9], &[4, 5], 110.0));
        }
        assert!(matches!(drafts.plan(&TEXT, 3, 4, true), Plan::Tokens(_)));
    }
}
