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

use super::difference::Difference;
use super::marks::Marks;
pub use super::moment::Fold;
use super::moment::{Moment, Source, Story, What};
use super::open::Trace;
use super::routes::{Routes, RoutesHead, Trunk};
use super::second::{Second, Simulation};
use super::session::{Entry, Session, Timed};
use crate::engine::{EngineHandle, Signals};
use crate::events::{Command, Event, FailureKind, FinishReason, Gauges, ModelCard, Plan, Sampling, StepRecord, TurnStats};
use crate::experts::policy::Policy;
use crossbeam_channel::{Receiver, Sender};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch, Notify};

/// Answers that may wait for the listener before the player does.
const EVENT_ROOM: usize = 256;
/// Longest time between two looks at the signals.
const LOOK: Duration = Duration::from_millis(30);
/// Shortest time after which a frame that nobody took is replaced.
const FRAME: Duration = Duration::from_millis(20);
/// Bytes that the copies of earlier places may take.
const MARK_BYTES: usize = 192 << 20;
/// Most copies.
const MOST_MARKS: usize = 128;

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

enum Action {
    Pause(bool),
    Toggle,
    Turn,
    Speed(f64),
    Step(i64),
    Seek(usize),
}

/// What player and controls share.
struct Shared<F> {
    status: Mutex<Status>,
    frame: Mutex<Option<Box<Frame<F>>>>,
    news: Notify,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A remote control; clones control the same player. It does nothing once the player is gone.
pub struct PlayerControl<F> {
    actions: Sender<Action>,
    shared: Arc<Shared<F>>,
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

/// Play a recorded session; `fold` is what the listener has before the first entry.
#[must_use]
pub fn from_session<F: Fold>(session: Session, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    start(Source::File(Box::new(session)), None, options, None, fold)
}

/// Play entries that are in memory.
#[must_use]
pub fn from_entries<F: Fold>(entries: Vec<Timed>, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    start(Source::List(entries), None, options, None, fold)
}

/// Play routing without occupancy. Without `options.simulate` a quarter of the experts get slots, under `rotary`.
#[must_use]
pub fn from_routes<F: Fold>(routes: &Routes, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    let options = simulating(routes, options);
    start(listed(routes, &options), None, options, None, fold)
}

fn simulating(routes: &Routes, options: Options) -> Options {
    let slots = (routes.head.experts / 4).max(1);
    Options { simulate: options.simulate.or(Some((slots, Policy::default()))), ..options }
}

fn listed(routes: &Routes, options: &Options) -> Source {
    let records = (0..routes.len()).map(|i| routes.record(i));
    let slots = options.simulate.map_or(1, |s| s.0);
    Source::List(timed(card_of(&routes.head, slots), records, options.step_interval))
}

/// What a session is compared with.
pub enum Other {
    /// Its own routing, simulated.
    Itself(Simulation),
    /// Another trace; what it is called; simulated, or as it was recorded. Routing without occupancy must be simulated.
    Trace(Box<Trace>, String, Option<Simulation>),
}

/// Play a trace beside another side. The model's shape must be the same in both; steps of another shape are left out.
#[must_use]
pub fn compare<F: Fold>(trace: Trace, other: Other, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    let (options, source) = match trace {
        Trace::Session(session) => (options, Source::File(session)),
        Trace::Routes(routes) => {
            let options = simulating(&routes, options);
            let source = listed(&routes, &options);
            (options, source)
        }
    };
    let (other, second) = match other {
        Other::Itself(simulation) => (None, Second::new(Some(simulation), String::new())),
        Other::Trace(trace, name, simulation) => {
            let (source, simulation) = match *trace {
                Trace::Session(session) => (Source::File(session), simulation),
                Trace::Routes(routes) => {
                    let same = Simulation { slots: None, policy: Policy::default() };
                    (listed(&routes, &options), simulation.or(Some(same)))
                }
            };
            let name = if simulation.is_some() { format!("{name}, ") } else { name };
            (Some(source), Second::new(simulation, name))
        }
    };
    start(source, other, options, Some(second), fold)
}

fn timed(card: ModelCard, records: impl Iterator<Item = StepRecord>, interval: Duration) -> Vec<Timed> {
    let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
    let ready = Timed { at: 0, entry: Entry::Event(Event::Ready { card: Box::new(card) }) };
    let steps = records.enumerate().map(|(i, r)| Timed { at: interval.saturating_mul(i as u64), entry: Entry::Step(Box::new(r)) });
    std::iter::once(ready).chain(steps).collect()
}

/// A card for routing whose model is not at hand.
#[must_use]
pub fn card_of(head: &RoutesHead, slots: usize) -> ModelCard {
    let bytes = |l: usize| head.expert_bytes.get(l).copied().unwrap_or(0);
    let slot_step: u64 = (0..head.layers).map(bytes).fold(0, u64::saturating_add);
    ModelCard {
        name: head.model.rsplit(['/', '\\']).next().unwrap_or_default().to_owned(),
        arch: head.arch.clone(),
        toy: false,
        layers: head.layers,
        experts: head.experts,
        top_k: head.top_k,
        vocab: 0,
        context: 0,
        expert_bytes: (0..head.layers).map(bytes).collect(),
        plan: Plan {
            trunk: match head.trunk() {
                Trunk::Plan(bytes) | Trunk::Layers(bytes) => bytes,
                Trunk::Unknown => 0,
            },
            slots: slot_step.saturating_mul(slots as u64),
            slot_step,
            experts: slot_step.saturating_mul(head.experts as u64),
            slots_per_layer: slots,
            min_slots: 1,
            max_slots: head.experts,
            ..Plan::default()
        },
        sampling: Sampling::default(),
        can_think: false,
        template_fallback: false,
        device: "replay of a trace, slots simulated".into(),
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
                self.at = if self.backwards { (self.at - by).max(0.0) } else { self.at + by };
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

    /// Tell one entry. False at the end.
    fn forwards(&mut self) -> bool {
        let shown = self.now.stage.shown;
        let told = self.now.advance(&self.story);
        self.fresh |= told;
        if self.now.stage.shown > shown && self.marks.wants(shown + 1, shown + 1) {
            self.marks.set_room((MARK_BYTES / self.now.bytes().max(1)).min(MOST_MARKS));
            self.marks.put(shown + 1, self.now.mark(), shown + 1);
        }
        told
    }

    /// Go to where `step` steps have been shown, with the text that followed the last of them.
    fn go(&mut self, step: usize) {
        let step = step.min(self.times.len());
        self.returning = step < self.now.stage.shown;
        if self.returning {
            self.marks.cut(step);
            self.walker = self.walker.take().filter(|w| w.stage.shown < step);
            let (at, mark) = self.marks.before(step);
            let before = self.before.take().filter(|b| (*at..=step).contains(&b.stage.shown));
            self.now.back_to(before.as_ref().unwrap_or(mark));
        }
        while self.now.stage.cursor < self.story.source.len()
            && (self.now.stage.shown < step || !self.story.source.is_step(self.now.stage.cursor))
            && self.forwards()
        {}
        self.now.settle(&self.story);
        self.fresh = true;
    }

    /// One step of the work of laying out copies behind the present. False if there is nothing to do.
    fn lay_out(&mut self) -> bool {
        let shown = self.now.stage.shown;
        if let Some(wanted) = shown.checked_sub(1).filter(|_| self.returning) {
            let (at, mark) = self.marks.before(wanted);
            let near = self.before.take().filter(|b| (*at..=wanted).contains(&b.stage.shown));
            let before = self.before.insert(near.unwrap_or_else(|| mark.mark()));
            if before.stage.shown < wanted && before.walk(&self.story) {
                return true;
            }
        }
        let Some((from, to)) = self.marks.gap(shown) else {
            self.walker = None;
            return false;
        };
        let mut walker = match self.walker.take() {
            Some(walker) if (from..to).contains(&walker.stage.shown) => walker,
            _ => self.marks.before(from).1.mark(),
        };
        walker.walk(&self.story);
        if self.marks.wants(walker.stage.shown, to) {
            self.marks.put(walker.stage.shown, walker.mark(), shown);
        }
        self.walker = Some(walker);
        true
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
                self.answer(Event::Failed { id: Some(id), message: no.into() })?;
                self.answer(Event::Finished { id, reason: FinishReason::Failed, stats: TurnStats::default() })
            }
            Command::SetPolicy(name) => match name.parse::<Policy>() {
                Ok(policy) => {
                    self.fresh |= self.now.change(&mut self.story, What::Policy(policy));
                    Ok(())
                }
                Err(e) => self.answer(Event::Failed { id: None, message: e.to_string() }),
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
