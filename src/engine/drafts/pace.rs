//! How many tokens to draft: as many as bring the most tokens per second, by what steps took and which drafts were right lately.
//!
//! A step of several tokens takes longer than one of a single token, how much longer is a matter of the machine, the slots and the
//! context; and a draft is right more or less often, by where it comes from. Both are measured while the model talks, so nothing is
//! drafted where it does not pay. What was not seen for a while is forgotten, and so tried again.

use super::MOST;

/// Where a drafted token comes from, as far as that tells how likely it is to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It came after a moment of before that has so many last tokens in common with the one before it.
    Earlier(usize),
    /// The model guesses it, so many tokens ahead, from 1 on.
    Guess(usize),
}

/// Kinds that are told apart.
const KINDS: usize = 6;
/// What is thought of each before it is seen. Measured for guesses: 80 to 90 % of first ones, 10 to 15 points less each further one (DeepSeek-V3's report, vLLM's of Qwen3-Next).
const USUAL: [f64; KINDS] = [0.35, 0.55, 0.8, 0.75, 0.6, 0.5];
/// Tokens that this counts like.
const USUAL_WEIGHT: f64 = 6.0;
/// What is left of an outcome after each further step.
const FADE: f64 = 0.995;
/// A new time counts at least this much.
const NEWEST: f64 = 0.125;
/// Steps after which a time that was not seen again is forgotten.
const OLD: u32 = 400;
/// What a further token of a step is taken to cost, in steps of one token, before that is known: little, so that it is tried.
const FURTHER: f64 = 0.2;
/// Drafting has to promise this much more, or it stays at one token: times swing.
const WORTH: f64 = 1.03;

impl Kind {
    fn place(self) -> usize {
        match self {
            Self::Earlier(..6) => 0,
            Self::Earlier(6..12) => 1,
            Self::Earlier(_) => 2,
            Self::Guess(0..=1) => 3,
            Self::Guess(2) => 4,
            Self::Guess(_) => 5,
        }
    }
}

/// A time that swings, smoothed.
#[derive(Clone, Copy, Default)]
struct Time {
    us: f64,
    seen: u32,
    age: u32,
}

impl Time {
    fn note(&mut self, us: f64) {
        self.seen = self.seen.saturating_add(1);
        match self.seen {
            1 => self.us = us,
            // The first of a kind may have made ready what later ones use.
            2 => self.us = self.us.min(us),
            seen => self.us += (us - self.us) * (1.0 / f64::from(seen)).max(NEWEST),
        }
        self.age = 0;
    }

    fn older(&mut self) {
        self.age += 1;
        if self.age > OLD {
            *self = Self::default();
        }
    }

    fn get(&self) -> Option<f64> {
        (self.seen > 0).then_some(self.us)
    }
}

/// What is known of times and of drafts.
#[derive(Default)]
pub(super) struct Pace {
    /// Of steps that read 1, 2, ... tokens.
    steps: [Time; MOST + 1],
    /// Of one guess.
    guess: Time,
    /// Right, and all, by kind.
    right: [[f64; 2]; KINDS],
}

impl Pace {
    /// A step that read `tokens` tokens took so long, its guesses apart.
    pub(super) fn step_took(&mut self, tokens: usize, us: f64) {
        self.steps.iter_mut().for_each(Time::older);
        self.guess.older();
        self.right.iter_mut().flatten().for_each(|n| *n *= FADE);
        if let Some(time) = tokens.checked_sub(1).and_then(|i| self.steps.get_mut(i)) {
            time.note(us);
        }
    }

    /// So many guesses took so long.
    pub(super) fn guesses_took(&mut self, guesses: usize, us: f64) {
        if guesses > 0 {
            self.guess.note(us / guesses as f64);
        }
    }

    /// A drafted token was right, or was not.
    pub(super) fn note(&mut self, kind: Kind, right: bool) {
        let [yes, all] = &mut self.right[kind.place()];
        *yes += f64::from(u8::from(right));
        *all += 1.0;
    }

    /// How likely a token of this kind is to be right.
    fn likely(&self, kind: Kind) -> f64 {
        let (place, [yes, all]) = (kind.place(), self.right[kind.place()]);
        (yes + USUAL[place] * USUAL_WEIGHT) / (all + USUAL_WEIGHT)
    }

    /// Microseconds of a step that reads `tokens` tokens, where one of a single token is known.
    fn cost(&self, tokens: usize) -> Option<f64> {
        let one = self.steps[0].get()?;
        let known = (0..tokens).rev().find_map(|i| Some((i, self.steps.get(i)?.get()?)));
        let (at, us) = known.unwrap_or((0, one));
        Some(us + one * FURTHER * (tokens - 1 - at) as f64)
    }

    /// How many of at most `most` tokens to draft, whose kinds are told by their place from 0 on, and what that promises: tokens per
    /// microsecond. 0 where it does not pay, or nothing is known yet.
    pub(super) fn best(&self, most: usize, kind: impl Fn(usize) -> Kind) -> (usize, f64) {
        let Some(one) = self.cost(1) else { return (0, 0.0) };
        let plain = 1.0 / one;
        let (mut best, mut rate) = (0, plain * WORTH);
        let (mut tokens, mut all_right, mut guessing) = (1.0, 1.0, 0.0);
        for drafted in 1..=most.min(MOST) {
            let kind = kind(drafted - 1);
            all_right *= self.likely(kind);
            tokens += all_right;
            if matches!(kind, Kind::Guess(_)) {
                guessing += self.guess.get().unwrap_or(one * FURTHER);
            }
            let promised = self.cost(1 + drafted).map_or(0.0, |us| tokens / (us + guessing));
            if promised > rate {
                (best, rate) = (drafted, promised);
            }
        }
        (best, if best == 0 { plain } else { rate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace after many steps: `cost` is the time of a step by its tokens, `right` how often the kind was right.
    fn after(cost: impl Fn(usize) -> f64, kind: Kind, right: f64) -> Pace {
        let mut pace = Pace::default();
        for i in 0..40 {
            for n in 1..=MOST + 1 {
                pace.step_took(n, cost(n));
                pace.note(kind, f64::from(i % 20) < 20.0 * right);
            }
        }
        pace
    }

    const LONG: Kind = Kind::Earlier(16);

    #[test]
    fn nothing_is_drafted_before_a_step_was_timed() {
        let mut pace = Pace::default();
        assert_eq!(pace.best(4, |_| LONG).0, 0);
        pace.step_took(1, 100.0);
        assert!(pace.best(4, |_| LONG).0 > 0, "then it is tried");
    }

    #[test]
    fn cheap_further_tokens_that_are_mostly_right_are_drafted_as_many_as_there_are() {
        let pace = after(|n| 100.0 + 5.0 * n as f64, LONG, 0.95);
        let (best, rate) = pace.best(MOST, |_| LONG);
        assert_eq!(best, MOST);
        assert!(rate > 4.0 / 105.0, "{rate}");
        assert_eq!(pace.best(3, |_| LONG).0, 3);
    }

    #[test]
    fn tokens_that_cost_like_steps_of_their_own_are_not() {
        for right in [0.3, 0.95] {
            assert_eq!(after(|n| 100.0 * n as f64, LONG, right).best(MOST, |_| LONG).0, 0, "{right}");
        }
    }

    #[test]
    fn what_is_seldom_right_is_not_drafted_although_it_would_be_cheap() {
        let pace = after(|n| 100.0 + 20.0 * n as f64, LONG, 0.05);
        assert_eq!(pace.best(MOST, |_| LONG).0, 0);
        assert!(pace.best(MOST, |_| Kind::Earlier(6)).0 > 0, "other kinds are judged by themselves");
    }

    #[test]
    fn the_best_length_lies_between_where_each_is_a_little_less_likely_than_it_costs() {
        let pace = after(|n| 100.0 + 30.0 * (n - 1) as f64, LONG, 0.7);
        let (best, rate) = pace.best(MOST, |_| LONG);
        let of = |k: i32| (0..=k).map(|i| pace.likely(LONG).powi(i)).sum::<f64>() / (100.0 + 30.0 * f64::from(k));
        let all: Vec<f64> = (0..=MOST as i32).map(of).collect();
        assert!((1..MOST).contains(&best), "{best} of {all:?}");
        assert!((rate - all.iter().copied().fold(0.0, f64::max)).abs() < 1e-12 && (rate - all[best]).abs() < 1e-12);
    }

    #[test]
    fn the_time_of_guesses_counts() {
        let guess = Kind::Guess(1);
        let mut pace = after(|n| 100.0 + 10.0 * (n - 1) as f64, guess, 0.9);
        assert!(pace.best(1, |_| guess).0 == 1);
        pace.guesses_took(2, 400.0);
        assert_eq!(pace.best(1, |_| guess).0, 0);
    }

    #[test]
    fn what_did_not_pay_is_tried_again_after_a_while() {
        let mut pace = after(|n| 100.0 * n as f64, LONG, 0.9);
        assert_eq!(pace.best(MOST, |_| LONG).0, 0);
        (0..=OLD).for_each(|_| pace.step_took(1, 100.0));
        assert!(pace.best(MOST, |_| LONG).0 > 0);
    }
}
