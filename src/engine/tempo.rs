//! How fast an answer may come: as it can, so many tokens per second, or one at a time by hand. For whoever wants to watch the experts, not for a model.
//!
//! It holds off steps of generation only; prompts are read as fast as they can be. What is waited for here is time of no step, so speeds that are told are those of the model.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How fast an answer may come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// As fast as it can.
    #[default]
    Free,
    /// At most so many tokens per second.
    PerSecond(f32),
    /// Not at all: it stands still until a token is [let through](Tempo::let_one), or the pace changes.
    Held,
}

/// The pace that the person wants, and how far the engine is with it.
#[derive(Debug, Default)]
pub struct Tempo {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pace: Pace,
    /// Tokens that may still come while it is held.
    let_through: usize,
    /// When the next token may come.
    due: Option<Instant>,
}

impl Tempo {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the next token on.
    pub fn set(&self, pace: Pace) {
        *self.lock() = State { pace, ..State::default() };
        self.changed.notify_all();
    }

    /// While the answer is held: one more token.
    pub fn let_one(&self) {
        self.lock().let_through += 1;
        self.changed.notify_all();
    }

    /// Nothing is held off, so several tokens may come at once.
    pub(super) fn is_free(&self) -> bool {
        self.lock().pace == Pace::Free
    }

    /// Wait until the next token may come, for `patience` at most. True if it may; it then counts as come.
    pub(super) fn next(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let wakes = match state.pace {
                Pace::Free => return true,
                Pace::Held if state.let_through > 0 => {
                    state.let_through -= 1;
                    return true;
                }
                Pace::Held => until,
                Pace::PerSecond(rate) => {
                    let due = state.due.unwrap_or(now);
                    if due <= now {
                        // A token that took longer than its share is not made up for by the next.
                        let each = Duration::try_from_secs_f32(1.0 / rate).unwrap_or(Duration::ZERO);
                        let from = if now.saturating_duration_since(due) < each { due } else { now };
                        state.due = from.checked_add(each);
                        return true;
                    }
                    due.min(until)
                }
            };
            let left = wakes.saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_free_answer_is_never_held_off() {
        let tempo = Tempo::default();
        assert!(tempo.is_free() && (0..1000).all(|_| tempo.next(Duration::ZERO)));
    }

    #[test]
    fn a_held_answer_comes_by_as_many_tokens_as_are_let_through() {
        let tempo = Tempo::default();
        tempo.set(Pace::Held);
        assert!(!tempo.is_free() && !tempo.next(Duration::ZERO));
        tempo.let_one();
        tempo.let_one();
        assert_eq!([(); 3].map(|()| tempo.next(Duration::ZERO)), [true, true, false]);
        tempo.let_one();
        tempo.set(Pace::Held);
        assert!(!tempo.next(Duration::ZERO), "a new hold begins with none let through");
        tempo.set(Pace::Free);
        assert!(tempo.next(Duration::ZERO));
    }

    #[test]
    fn whoever_waits_is_woken_by_a_token_that_is_let_through_and_by_another_pace() {
        for change in [|t: &Tempo| t.let_one(), |t: &Tempo| t.set(Pace::Free), |t: &Tempo| t.set(Pace::PerSecond(1e6))] {
            let tempo = Tempo::default();
            tempo.set(Pace::Held);
            std::thread::scope(|s| {
                let waits = s.spawn(|| tempo.next(LONG));
                change(&tempo);
                assert!(waits.join().unwrap());
            });
        }
    }

    #[test]
    fn a_pace_lets_the_first_token_come_at_once_and_the_next_ones_when_they_are_due() {
        let tempo = Tempo::default();
        tempo.set(Pace::PerSecond(0.01));
        assert!(tempo.next(Duration::ZERO));
        assert!(!tempo.next(Duration::ZERO), "the second is due in 100 seconds");
        tempo.set(Pace::PerSecond(50.0));
        let begin = Instant::now();
        assert!((0..5).all(|_| tempo.next(LONG)));
        assert!(begin.elapsed() >= Duration::from_millis(80), "{:?}", begin.elapsed());
        tempo.set(Pace::PerSecond(1e-30));
        assert!(tempo.next(Duration::ZERO) && tempo.next(Duration::ZERO), "a rate that is no rate holds nothing off");
    }
}
