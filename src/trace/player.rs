//! Plays a session with no model, forwards and backwards, at any speed, or step by step.
//!
//! The player owns a thread. Entry by entry it lets a listener's [`Fold`] grow as the listener itself would, and lays out
//! copies of it with everything else that belongs to the place ([`Frame`]), the latest only: who looks seldom misses what lay
//! in between and nothing else. Going back takes up a copy of an earlier place and walks on from there (`marks.rs`), so it
//! costs a few steps wherever in the session it happens; while there is nothing else to do, copies are laid out behind the present.
//!
//! Commands, signals and answers to them go through an [`EngineHandle`] as with the inference thread; its lanes carry the
//! answers alone.
//!
//! Routing without occupancy (a CSV trace) is run through the scheduler as it plays; slot count and policy can be changed
//! meanwhile by the usual signals and commands. A recorded session shows what happened until the person changes one of
//! them; from then on its hits and slots are simulated, its times are left out, and a notice says so. A change belongs to its
//! place: before it everything is as it was, and behind it it holds again, until another one is made further ahead of it.

mod control;
mod sources;
mod walk;

pub use super::moment::Fold;
pub use control::{Frame, PlayerControl, Status};
pub use sources::{card_of, compare, from_entries, from_routes, from_session, Other};

use super::marks::Marks;
use super::moment::{Moment, Source, Story, What};
use super::second::Second;
use crate::engine::{EngineHandle, Signals};
use crate::events::{Command, Event, FailureKind, FinishReason, Gauges, TurnStats};
use crate::experts::policy::Policy;
use control::{lock, Action, Shared};
use crossbeam_channel::Receiver;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch, Notify};

/// Answers that may wait for the listener before the player does.
const EVENT_ROOM: usize = 256;
/// Longest time between two looks at the signals.
const LOOK: Duration = Duration::from_millis(30);
/// Shortest time after which a frame that nobody took is replaced.
const FRAME: Duration = Duration::from_millis(20);

/// How to play.
#[derive(Clone, Debug)]
pub struct Options {
    /// 1 is the speed at which it happened; infinity waits for nothing.
    pub speed: f64,
    /// Begin in pause.
    pub paused: bool,
    /// Longest wait for the next entry, in time of the session: nobody wants to watch a person think.
    pub longest_wait: Duration,
    /// Time from step to step for traces that have no times.
    pub step_interval: Duration,
    /// Simulate from the beginning, with these slots per layer and this policy, whatever was recorded.
    pub simulate: Option<(usize, Policy)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { speed: 1.0, paused: false, longest_wait: Duration::from_secs(2), step_interval: Duration::from_millis(100), simulate: None }
    }
}

fn start<F: Fold>(
    source: Source,
    other: Option<Source>,
    options: Options,
    second: Option<Second>,
    fold: F,
) -> (EngineHandle, PlayerControl<F>) {
    let (commands, inbox) = crossbeam_channel::unbounded();
    let (actions, controls) = crossbeam_channel::unbounded();
    let (event_tx, events) = mpsc::channel(EVENT_ROOM);
    // What the listener would make of telemetry and gauges is in its fold: these lanes end at once.
    let (telemetry, gauges) = (mpsc::channel(1).1, watch::channel(Gauges::default()).1);
    let signals = Arc::new(Signals::default());
    let shared = Arc::new(Shared { status: Mutex::default(), frame: Mutex::new(None), news: Notify::new() });
    let times = (0..source.len()).filter(|&i| source.is_step(i)).map(|i| source.time(i)).collect();
    let length = source.len().checked_sub(1).map_or(0, |i| source.time(i));
    let now = Moment::new(fold, options.simulate, second);
    let player = Player {
        marks: Marks::new(now.mark()),
        story: Story { source, other, changes: Vec::new() },
        times,
        length,
        now,
        walker: None,
        returning: false,
        before: None,
        at: 0.0,
        paused: options.paused,
        backwards: false,
        options,
        fresh: true,
        laid_out: Instant::now(),
        events: event_tx,
        signals: signals.clone(),
        shared: shared.clone(),
    };
    let spawned = std::thread::Builder::new().name("rotary-player".into()).spawn(move || player.run(&inbox, &controls));
    if let Err(e) = spawned {
        // The closed text lane tells the listener; the log tells why.
        tracing::error!(%e, "the player's thread could not be started");
    }
    (EngineHandle { commands, events, telemetry, gauges, signals }, PlayerControl { actions, shared })
}

/// Where a session's clock is after some more time, all in microseconds. It stops at both ends: whoever turns back at the end is not to
/// wait for as long as they looked at it.
fn moved(at: f64, by: f64, length: f64, backwards: bool) -> f64 {
    (if backwards { at - by } else { at + by }).clamp(0.0, length)
}

/// The listener is gone; the thread is to end.
struct Gone;

struct Player<F> {
    story: Story,
    /// Time of each step, microseconds.
    times: Vec<u64>,
    /// Time of the last entry, microseconds.
    length: u64,
    now: Moment<F>,
    /// Copies of places before.
    marks: Marks<Moment<F>>,
    /// On its way through a part of the session that has no copies yet.
    walker: Option<Moment<F>>,
    /// The last move was back; then the step before the present is likely the next, and this is on its way there.
    returning: bool,
    before: Option<Moment<F>>,
    /// Time within the session, microseconds.
    at: f64,
    paused: bool,
    backwards: bool,
    options: Options,
    /// Something is different from the last frame, which was laid out then.
    fresh: bool,
    laid_out: Instant,
    events: mpsc::Sender<Event>,
    signals: Arc<Signals>,
    shared: Arc<Shared<F>>,
}

impl<F: Fold> Player<F> {
    fn run(mut self, inbox: &Receiver<Command>, controls: &Receiver<Action>) {
        let mut clock = Instant::now();
        loop {
            let mut wait = match self.turn() {
                Ok(wait) => wait,
                Err(Gone) => return,
            };
            self.publish(wait > Duration::ZERO);
            if self.fresh {
                wait = wait.min(FRAME);
            }
            // One step of it at a time, so that nobody waits for it.
            if wait > Duration::ZERO && self.lay_out() {
                wait = Duration::ZERO;
            }
            let result = crossbeam_channel::select! {
                recv(inbox) -> command => match command {
                    Ok(command) => self.command(command),
                    Err(_) => return,
                },
                // The control may be dropped while the handle lives on; `recv` would then return at once for ever.
                recv(controls) -> action => match action {
                    Ok(action) => { self.action(&action); Ok(()) }
                    Err(_) => { std::thread::sleep(wait); Ok(()) }
                },
                default(wait) => Ok(()),
            };
            if result.is_err() {
                return;
            }
            let passed = clock.elapsed();
            clock += passed;
            if !self.paused && self.options.speed.is_finite() {
                let by = passed.as_secs_f64() * 1e6 * self.options.speed;
                self.at = moved(self.at, by, self.length as f64, self.backwards);
            }
        }
    }

    /// Do what is due; returns how long to wait for more.
    fn turn(&mut self) -> Result<Duration, Gone> {
        if self.events.is_closed() {
            return Err(Gone);
        }
        if self.signals.cancel.swap(false, Ordering::Relaxed) {
            (self.paused, self.fresh) = (true, true);
        }
        let wish = self.signals.slots.swap(0, Ordering::Relaxed);
        if wish > 0 {
            self.resize(wish)?;
        }
        // The card comes even in pause, or there is nothing to see.
        if self.now.stage.card.is_some() {
            if self.paused {
                return Ok(LOOK);
            }
            if self.backwards {
                return Ok(self.turn_back());
            }
        }
        while self.now.stage.cursor < self.story.source.len() {
            let due = self.story.source.time(self.now.stage.cursor) as f64;
            self.at = self.at.max(due - self.longest_wait());
            if due > self.at && !self.paused && self.options.speed.is_finite() {
                return Ok(self.until(due));
            }
            self.at = self.at.max(due);
            let shown = self.now.stage.shown;
            self.returning = false;
            if !self.forwards() {
                break;
            }
            if self.now.stage.shown > shown {
                // One step at a time, so that signals and commands act between any two.
                return Ok(Duration::ZERO);
            }
            if self.paused && self.now.stage.card.is_some() {
                break;
            }
        }
        Ok(LOOK)
    }

    /// Takes back the steps whose time the clock has passed on its way to the beginning.
    fn turn_back(&mut self) -> Duration {
        let mut to = self.now.stage.shown;
        while let Some(before) = to.checked_sub(1) {
            let due = self.times.get(before).copied().unwrap_or(0) as f64;
            self.at = self.at.min(due + self.longest_wait());
            if self.at > due && self.options.speed.is_finite() {
                break;
            }
            to = before;
        }
        if to < self.now.stage.shown {
            self.go(to);
        }
        if to == 0 {
            (self.paused, self.backwards, self.fresh) = (true, false, true);
            self.at = self.now.stage.at as f64;
            return LOOK;
        }
        self.until(self.times.get(to - 1).copied().unwrap_or(0) as f64)
    }

    fn longest_wait(&self) -> f64 {
        self.options.longest_wait.as_micros() as f64
    }

    /// How long until the clock is at this time, or until the next look at the signals.
    fn until(&self, due: f64) -> Duration {
        let micros = (due - self.at).abs() / self.options.speed;
        LOOK.min(Duration::from_secs_f64((micros / 1e6).clamp(0.0, 1.0)))
    }

    fn answer(&self, event: Event) -> Result<(), Gone> {
        self.events.blocking_send(event).map_err(|_| Gone)
    }

    fn command(&mut self, command: Command) -> Result<(), Gone> {
        let no = "this is a replay: there is no model that could answer";
        match command {
            Command::Shutdown => Err(Gone),
            Command::Open { .. } => {
                let message = "this is a replay; leave it to open a model".into();
                self.answer(Event::LoadFailed { message, kind: FailureKind::Other })
            }
            Command::Generate { id, .. } | Command::Complete { id, .. } => {
                self.answer(Event::Failed { id: Some(id), message: no.into(), kind: FailureKind::Other })?;
                self.answer(Event::Finished { id, reason: FinishReason::Failed, stats: TurnStats::default() })
            }
            Command::SetPolicy(name) => match name.parse::<Policy>() {
                Ok(policy) => {
                    self.fresh |= self.now.change(&mut self.story, What::Policy(policy));
                    Ok(())
                }
                Err(e) => self.answer(Event::Failed { id: None, message: e.to_string(), kind: FailureKind::Options }),
            },
            // Whatever else an engine can be asked makes no sense without a model.
            #[allow(unreachable_patterns)]
            _ => Ok(()),
        }
    }

    fn resize(&mut self, asked: usize) -> Result<(), Gone> {
        if !self.now.change(&mut self.story, What::Slots(asked)) {
            return self.answer(Event::Slots { asked, granted: 0, why: Some("no model is open".into()) });
        }
        self.fresh = true;
        let granted = self.now.stage.last_slots;
        let why = (granted < asked).then(|| format!("a layer has {granted} experts"));
        self.answer(Event::Slots { asked, granted, why })
    }

    fn action(&mut self, action: &Action) {
        self.fresh = true;
        match *action {
            Action::Pause(paused) => self.paused = paused,
            Action::Toggle => self.paused = !self.paused,
            Action::Turn => self.backwards = !self.backwards,
            Action::Speed(factor) if factor > 0.0 => self.options.speed = factor,
            Action::Speed(_) => {}
            Action::Step(by) => {
                self.paused = true;
                let by_abs = usize::try_from(by.unsigned_abs()).unwrap_or(usize::MAX);
                let shown = self.now.stage.shown;
                self.jump(if by < 0 { shown.saturating_sub(by_abs) } else { shown.saturating_add(by_abs) });
            }
            Action::Seek(to) => self.jump(to),
        }
    }

    fn jump(&mut self, to: usize) {
        self.go(to);
        self.at = self.now.stage.at as f64;
    }

    /// Lays out a frame, if something has changed and the last one was taken; `resting`: in its place, if it was not.
    fn publish(&mut self, resting: bool) {
        let status = self.status();
        lock(&self.shared.status).clone_from(&status);
        let may_replace = resting && self.laid_out.elapsed() >= FRAME;
        if !self.fresh || (!may_replace && lock(&self.shared.frame).is_some()) {
            return;
        }
        (self.fresh, self.laid_out) = (false, Instant::now());
        let stage = &self.now.stage;
        self.signals.dropped.store(stage.misfits, Ordering::Relaxed);
        let difference = stage.second.as_ref().filter(|_| stage.card.is_some()).map(|second| {
            let under = stage.recorded.map_or_else(String::new, |(policy, _)| format!(" under {policy}"));
            let first = match &stage.simulated {
                Some(s) => format!("{}, {} slots", s.scheduler.policy(), s.scheduler.slots(0)),
                None if stage.last_slots > 0 => format!("recorded{under}, {} slots", stage.last_slots),
                None => format!("recorded{under}"),
            };
            Arc::new(second.snapshot(first))
        });
        let frame = Box::new(Frame { status, fold: self.now.fold.clone(), difference });
        // What was there is dropped outside of the lock.
        let _old = lock(&self.shared.frame).replace(frame);
        self.shared.news.notify_one();
    }

    fn status(&self) -> Status {
        let micros = |us: f64| Duration::from_micros(us.clamp(0.0, self.length as f64) as u64);
        let stage = &self.now.stage;
        Status {
            step: stage.shown,
            steps: self.times.len(),
            at: micros(self.at),
            length: Duration::from_micros(self.length),
            paused: self.paused,
            backwards: self.backwards,
            speed: self.options.speed,
            ended: stage.cursor >= self.story.source.len(),
            recorded: stage.recorded.map(|r| r.0),
            simulated: stage.simulated.as_ref().map(|s| (s.scheduler.policy(), s.scheduler.slots(0))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
