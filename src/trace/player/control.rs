//! The remote control of a player, and what it shows: where it is, and the latest frame.

use crate::experts::policy::Policy;
use crate::trace::difference::Difference;
use crossbeam_channel::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Where the player is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Steps shown so far.
    pub step: usize,
    /// Steps in the session.
    pub steps: usize,
    /// Time within the session.
    pub at: Duration,
    /// Length of the session.
    pub length: Duration,
    /// Nothing moves until it is told to.
    pub paused: bool,
    /// It plays, or would play if it were not paused, from the end to the beginning.
    pub backwards: bool,
    /// Factor of the speed.
    pub speed: f64,
    /// Everything was played.
    pub ended: bool,
    /// Hits and slots are those of this policy at these slots per layer, not recorded ones.
    pub simulated: Option<(Policy, usize)>,
    /// The policy under which it was recorded, if that is known.
    pub recorded: Option<Policy>,
}

/// A place in the session and all that is shown there.
#[derive(Clone, Debug)]
pub struct Frame<F> {
    /// Which place.
    pub status: Status,
    /// What the listener has made of everything up to it.
    pub fold: F,
    /// The comparison with the other side as it stands; `None` without one.
    pub difference: Option<Arc<Difference>>,
}

pub(super) enum Action {
    Pause(bool),
    Toggle,
    Turn,
    Speed(f64),
    Step(i64),
    Seek(usize),
}

/// What player and controls share.
pub(super) struct Shared<F> {
    pub(super) status: Mutex<Status>,
    pub(super) frame: Mutex<Option<Box<Frame<F>>>>,
    pub(super) news: Notify,
}

pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A remote control; clones control the same player. It does nothing once the player is gone.
pub struct PlayerControl<F> {
    pub(super) actions: Sender<Action>,
    pub(super) shared: Arc<Shared<F>>,
}

impl<F> Clone for PlayerControl<F> {
    fn clone(&self) -> Self {
        Self { actions: self.actions.clone(), shared: self.shared.clone() }
    }
}

impl<F> PlayerControl<F> {
    /// Stop or go on.
    pub fn pause(&self, paused: bool) {
        self.send(Action::Pause(paused));
    }
    /// Stop if it plays, go on if it is paused.
    pub fn toggle(&self) {
        self.send(Action::Toggle);
    }
    /// Play in the other direction from now on. At the beginning it stops, and plays forwards again.
    pub fn turn(&self) {
        self.send(Action::Turn);
    }
    /// Play at `factor` times the speed at which it happened; more than 0, or it is ignored.
    pub fn speed(&self, factor: f64) {
        self.send(Action::Speed(factor));
    }
    /// Pause, `steps` further on (or back, if negative).
    pub fn step(&self, steps: i64) {
        self.send(Action::Step(steps));
    }
    /// Go to where `step` steps have been shown; playing or paused as before.
    pub fn seek(&self, step: usize) {
        self.send(Action::Seek(step));
    }
    /// Where the player is.
    #[must_use]
    pub fn status(&self) -> Status {
        lock(&self.shared.status).clone()
    }
    /// The latest frame, if there is one that was not taken yet.
    #[must_use]
    pub fn frame(&self) -> Option<Box<Frame<F>>> {
        lock(&self.shared.frame).take()
    }
    /// Waits until there is a frame to take.
    pub async fn news(&self) {
        self.shared.news.notified().await;
    }
    fn send(&self, action: Action) {
        // A player that is gone has nothing to control.
        let _ = self.actions.send(action);
    }
}
