//! Steps can be held off: a process that is to be stopped should not be in the middle of one.
//!
//! A GPU may be waiting for the host's part of a token then, and one that draws a screen gives the token up before long ([`crate::gpu::talk`]).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whether a step is under way, and whether the next one must wait.
#[derive(Debug, Default)]
pub struct Steps {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    under_way: bool,
    holders: usize,
}

/// A step, until it is dropped.
pub(super) struct UnderWay<'a>(&'a Steps);

/// No step begins until this is dropped.
pub struct Held<'a> {
    steps: &'a Steps,
    /// None was under way when this was given.
    pub between: bool,
}

impl Steps {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine's thread begins a step, once nobody holds it off.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        let mut state = self.changed.wait_while(self.lock(), |s| s.holders > 0).unwrap_or_else(PoisonError::into_inner);
        state.under_way = true;
        UnderWay(self)
    }

    /// Hold off the next step, and wait for the one at hand, if there is one, for so long at most: a token takes milliseconds, a chunk of a prompt may take minutes.
    pub fn hold(&self, patience: Duration) -> Held<'_> {
        let mut state = self.lock();
        state.holders += 1;
        let waited = self.changed.wait_timeout_while(state, patience, |s| s.under_way);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Held { steps: self, between: !state.under_way }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way = false;
        self.0.changed.notify_all();
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.steps.lock().holders -= 1;
        self.steps.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_holder_waits_for_the_step_at_hand_and_the_next_step_for_the_holder() {
        let steps = Steps::default();
        let (at_hand, held_off) = (steps.begin(), channel::<&str>());
        std::thread::scope(|s| {
            let (said, heard) = held_off;
            let engine = said.clone();
            let steps = &steps;
            s.spawn(move || {
                let held = steps.hold(LONG);
                said.send("held").unwrap();
                assert!(held.between);
                s.spawn(move || {
                    let _next = steps.begin();
                    engine.send("begun").unwrap();
                });
                said.send("let go").unwrap();
                drop(held);
            });
            // The holder can't have gone on before this.
            drop(at_hand);
            assert_eq!(heard.iter().collect::<Vec<_>>(), ["held", "let go", "begun"]);
        });
    }

    #[test]
    fn a_holder_without_patience_is_told_that_a_step_is_under_way_and_still_holds_off_the_next() {
        let steps = Steps::default();
        let at_hand = steps.begin();
        let held = steps.hold(Duration::ZERO);
        assert!(!held.between);
        drop(at_hand);
        assert!(steps.hold(LONG).between);
        assert_eq!(steps.lock().holders, 1);
        drop(held);
        drop(steps.begin());
    }
}
