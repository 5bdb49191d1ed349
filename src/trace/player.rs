//! Plays a session with no model, forwards and backwards, at any speed, or step by step.
//!
//! The player owns a thread. Entry by entry it lets a listener's [`Fold`] grow as the listener itself would, and lays out
//! copies of it with everything else that belongs to the place ([`Frame`]), the latest only: who looks seldom misses what lay
//! in between and nothing else. Going back takes up a copy of an earlier place and walks on from there ([`super::marks`]), so it
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
pub(crate) mod tests {
    use super::*;
    use crate::events::{Outcome, Phase, RoutedExpert, StepTime, TextKind, NO_SLOT};
    use crate::experts::policy::Admission;
    use crate::trace::routes::RoutesStep;
    use crate::trace::session::Question;
    use proptest::prelude::*;

    /// A listener that keeps all that it is told.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub(crate) struct Seen {
        pub(crate) questions: Vec<String>,
        pub(crate) events: Vec<Event>,
        pub(crate) steps: Vec<StepRecord>,
    }

    impl Fold for Seen {
        fn question(&mut self, _at: Duration, question: Question) {
            self.questions.push(question.text);
        }
        fn event(&mut self, _at: Duration, event: Event) {
            self.events.push(event);
        }
        fn step(&mut self, record: StepRecord) {
            self.steps.push(record);
        }
        fn bytes(&self) -> usize {
            // So that there is room for a few marks only.
            16 << 20
        }
    }

    /// The first frame for which this holds.
    pub(crate) fn frame<F>(control: &PlayerControl<F>, what: impl Fn(&Status) -> bool) -> Frame<F> {
        let begin = Instant::now();
        loop {
            match control.frame() {
                Some(frame) if what(&frame.status) => return *frame,
                _ => assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", control.status()),
            }
            std::thread::yield_now();
        }
    }

    fn at(control: &PlayerControl<Seen>, step: usize) -> Frame<Seen> {
        frame(control, |s| s.step == step)
    }

    fn routes(steps: u64) -> Routes {
        let head = RoutesHead { layers: 2, experts: 8, top_k: 2, expert_bytes: vec![10, 20], ..RoutesHead::default() };
        let mut routes = Routes::new(head);
        for step in 0..steps {
            let phase = if step == 0 { Phase::Prefill } else { Phase::Decode };
            let expert = |e: u64| RoutedExpert { expert: (e % 8) as u16, tokens: 1, weight: 0.5, outcome: Outcome::Miss };
            let tick = [expert(step * step / 3), expert(step + 3)];
            routes.push(RoutesStep { turn: 0, phase, step, tokens: 1 }, [&tick[..], &tick[..]]);
        }
        routes
    }

    /// A recorded session: each step with its text, a second apart, under changing slots.
    fn session(steps: u64) -> Vec<Timed> {
        let all = routes(steps);
        let capped = Admission { per_tick: 1, ..Policy::Decay.admission() };
        let mut scheduler = super::super::simulated::Simulated::new(&card_of(&all.head, 3), 3, Policy::Decay, capped);
        let mut entries = timed(card_of(&all.head, 3), std::iter::empty(), Duration::ZERO);
        let named = crate::trace::scheduling::told(Policy::Decay, capped, 3);
        entries.insert(0, Timed { at: 0, entry: Entry::Event(Event::Scheduling(named)) });
        for i in 0..steps {
            let mut record = all.record(i as usize);
            if i == steps / 2 {
                scheduler.scheduler.resize(5);
                let event = Event::Slots { asked: 5, granted: 5, why: None };
                entries.push(Timed { at: i * 1_000_000, entry: Entry::Event(event) });
            }
            scheduler.step(&mut record);
            record.time = StepTime { total_us: 5, ..StepTime::default() };
            entries.push(Timed { at: i * 1_000_000, entry: Entry::Step(Box::new(record)) });
            let text = Event::Text { id: 1, text: format!("{i} "), kind: TextKind::Answer, step: i };
            entries.push(Timed { at: i * 1_000_000 + 1000, entry: Entry::Event(text) });
        }
        entries
    }

    fn fast() -> Options {
        Options { speed: f64::INFINITY, ..Options::default() }
    }

    fn paused() -> Options {
        Options { paused: true, ..fast() }
    }

    #[test]
    fn routing_plays_with_simulated_occupancy() {
        let options = Options { simulate: Some((4, Policy::Lru)), ..fast() };
        let (_handle, control) = from_routes(&routes(20), options, Seen::default());
        let end = frame(&control, |s| s.ended);
        let [Event::Ready { card }] = &end.fold.events[..] else { panic!("{:?}", end.fold.events) };
        assert_eq!((card.layers, card.experts, card.plan.slots_per_layer, card.plan.slot_step), (2, 8, 4, 30));
        for record in &end.fold.steps {
            for layer in 0..2 {
                let table = &record.slot_of[layer * 8..][..8];
                assert!(table.iter().filter(|s| **s != NO_SLOT).count() <= 4);
                for r in record.layer(layer) {
                    assert_eq!(r.outcome == Outcome::Miss, table[usize::from(r.expert)] == NO_SLOT);
                }
            }
        }
        assert_eq!((end.status.step, end.status.steps, end.status.simulated), (20, 20, Some((Policy::Lru, 4))));
    }

    #[test]
    fn entries_come_as_they_were_given() {
        let entries = session(5);
        let (_handle, control) = from_entries(entries.clone(), fast(), Seen::default());
        let told = frame(&control, |s| s.ended).fold;
        let steps = entries.iter().filter_map(|e| if let Entry::Step(r) = &e.entry { Some(&**r) } else { None });
        assert!(told.steps.iter().eq(steps));
        let events = entries.iter().filter_map(|e| if let Entry::Event(e) = &e.entry { Some(e) } else { None });
        assert!(told.events.iter().eq(events));
    }

    #[test]
    fn slots_and_policy_change_while_it_plays() {
        let (mut handle, control) = from_routes(&routes(40), paused(), Seen::default());
        control.step(5);
        assert_eq!(at(&control, 5).fold.steps[4].slots, 2);
        handle.signals.want_slots(100);
        let answer = Event::Slots { asked: 100, granted: 8, why: Some("a layer has 8 experts".into()) };
        assert_eq!(handle.events.blocking_recv(), Some(answer.clone()));
        handle.commands.send(Command::SetPolicy("lfu".into())).unwrap();
        let changed = frame(&control, |s| s.simulated == Some((Policy::Lfu, 8)));
        assert_eq!(changed.fold.events.last(), Some(&answer), "it is part of the session, too");
        control.step(1);
        assert_eq!(at(&control, 6).fold.steps[5].slots, 8);
        handle.commands.send(Command::SetPolicy("nonsense".into())).unwrap();
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Failed { id: None, .. })));
    }

    #[test]
    fn it_plays_backwards_to_the_beginning_and_stops_there() {
        let entries = session(40);
        let options = Options { speed: 400.0, paused: true, ..Options::default() };
        let (_handle, control) = from_entries(entries, options, Seen::default());
        control.seek(30);
        let there = at(&control, 30).fold;
        control.turn();
        assert!(frame(&control, |s| s.backwards).status.paused, "turning round moves nothing by itself");
        control.toggle();
        let mut last = 30;
        loop {
            let f = frame(&control, |_| true);
            assert!(f.status.step <= last, "{:?} after {last}", f.status);
            last = f.status.step;
            assert_eq!(f.fold.steps, there.steps[..last]);
            assert_eq!(f.status.backwards, !f.status.paused);
            if f.status.paused {
                break;
            }
        }
        assert_eq!(last, 0);
        control.toggle();
        let again = frame(&control, |s| s.ended);
        assert_eq!(again.fold.steps[..30], there.steps);
    }

    #[test]
    fn backwards_takes_as_long_as_forwards() {
        // A second between steps, but for one pause that nobody wants to wait for, at two hundred times the speed.
        let mut entries = session(40);
        entries.iter_mut().skip(30).for_each(|e| e.at += 3_600_000_000);
        let options = Options { speed: 200.0, paused: true, ..Options::default() };
        let (_handle, control) = from_entries(entries, options, Seen::default());
        let (from, begin) = (frame(&control, |_| true).status.step, Instant::now());
        control.toggle();
        frame(&control, |s| s.ended);
        let forwards = begin.elapsed();
        let begin = Instant::now();
        control.turn();
        frame(&control, |s| s.step == from && s.paused);
        let backwards = begin.elapsed();
        assert!(backwards > forwards / 3 && backwards < forwards * 3, "{forwards:?} {backwards:?}");
    }

    #[test]
    fn a_question_to_a_replay_is_answered_with_a_failure() {
        let (mut handle, _control) = from_routes(&routes(2), paused(), Seen::default());
        handle.commands.send(Command::Complete { id: 7, prompt: "x".into(), sampling: Sampling::default() }).unwrap();
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Failed { id: Some(7), .. })));
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Finished { id: 7, reason: FinishReason::Failed, .. })));
    }

    #[test]
    fn the_thread_ends_with_its_listener_or_by_command() {
        let (mut handle, control) = from_routes(&routes(2), paused(), Seen::default());
        handle.commands.send(Command::Shutdown).unwrap();
        while handle.events.blocking_recv().is_some() {}
        let (handle, other) = from_routes(&routes(2), paused(), Seen::default());
        drop(handle);
        let begin = Instant::now();
        while Arc::strong_count(&control.shared) > 1 || Arc::strong_count(&other.shared) > 1 {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_session_that_begins_late_shows_its_card_even_in_pause() {
        let mut entries = session(3);
        entries.iter_mut().for_each(|e| e.at += 60_000_000);
        let (_handle, control) = from_entries(entries, Options { speed: 1.0, ..paused() }, Seen::default());
        assert!(matches!(frame(&control, |_| true).fold.events[..], [_, Event::Ready { .. }]));
    }

    #[test]
    fn a_recorded_session_is_simulated_once_slots_are_changed_and_recorded_before_that() {
        let (mut handle, control) = from_entries(session(10), paused(), Seen::default());
        control.step(4);
        let before = at(&control, 4).fold;
        assert!(before.steps.iter().all(|r| r.time.total_us == 5), "as recorded");
        handle.signals.want_slots(6);
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Slots { granted: 6, .. })));
        control.step(1);
        let after = at(&control, 5);
        let record = &after.fold.steps[4];
        assert_eq!((record.slots, record.slot_of.len(), record.time.total_us), (6, 16, 0));
        assert!(after.fold.events.iter().any(|e| matches!(e, Event::Notice { .. })));
        control.step(-2);
        let back = at(&control, 3);
        assert_eq!((back.status.simulated, &back.fold.steps[..]), (None, &before.steps[..3]));
        control.step(2);
        assert_eq!(at(&control, 5).fold, after.fold, "what was changed is changed again where it was");
    }

    #[test]
    fn a_simulation_of_a_recording_goes_on_as_its_policy_did() {
        let (mut handle, control) = from_entries(session(40), paused(), Seen::default());
        control.seek(15);
        let recorded = at(&control, 15);
        assert_eq!((recorded.status.recorded, recorded.status.simulated), (Some(Policy::Decay), None));
        control.seek(19);
        let recorded = at(&control, 19).fold;
        control.seek(15);
        at(&control, 15);
        // The same count: what is simulated from here on is what was recorded.
        handle.signals.want_slots(3);
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Slots { granted: 3, .. })));
        control.seek(19);
        let simulated = frame(&control, |s| s.step == 19 && s.simulated == Some((Policy::Decay, 3))).fold;
        for (a, b) in recorded.steps[15..].iter().zip(&simulated.steps[15..]) {
            assert_eq!((&a.routed, &a.slot_of), (&b.routed, &b.slot_of));
        }
    }

    #[test]
    fn an_unknown_policy_is_told_and_the_session_is_played_all_the_same() {
        let mut entries = session(5);
        let odd = crate::events::Scheduling { policy: "clairvoyant".into(), ..Default::default() };
        entries[0].entry = Entry::Event(Event::Scheduling(odd));
        let (_handle, control) = from_entries(entries, fast(), Seen::default());
        let end = frame(&control, |s| s.ended);
        assert_eq!((end.fold.steps.len(), end.status.recorded), (5, None));
        assert!(matches!(&end.fold.events[0], Event::Notice { message } if message.contains("clairvoyant")), "{:?}", end.fold.events[0]);
    }

    #[test]
    fn a_comparison_counts_what_the_simulation_counts_also_after_going_back() {
        let routes = routes(60);
        let simulation = Simulation { slots: Some(6), policy: Policy::Lru };
        let options = Options { simulate: Some((3, Policy::Lru)), ..paused() };
        let (_handle, control) = compare(Trace::Routes(routes.clone()), Other::Itself(simulation), options, Seen::default());
        let compared = |step: usize| {
            control.seek(step);
            at(&control, step).difference.unwrap()
        };
        let rates = |step| compared(step).rates(0..2).whole.map(Option::unwrap);
        let end = rates(60);
        let trace = crate::trace::simulate::Prepared::new(&routes);
        for (rate, slots) in end.into_iter().zip([3, 6]) {
            let want = trace.online(Policy::Lru, Policy::Lru.admission(), slots).hit_rate();
            assert!((f64::from(rate) - want).abs() < 1e-6, "{rate} {want}");
        }
        assert_eq!(compared(60).names, ["lru, 3 slots".to_owned(), "lru, 6 slots".to_owned()]);
        let before = rates(30);
        assert_ne!(before, end);
        assert_eq!(rates(60), end);
    }

    #[test]
    fn another_session_is_walked_along_token_by_token() {
        let (a, mut b) = (routes(20), Routes::new(routes(0).head));
        // The other one has a prompt of three steps, then the same tokens.
        let prompt = [RoutedExpert { expert: 7, tokens: 1, weight: 0.5, outcome: Outcome::Miss }];
        for step in 0..3 {
            b.push(RoutesStep { turn: 0, phase: Phase::Prefill, step, tokens: 1 }, [&prompt[..], &prompt[..]]);
        }
        for i in 1..12 {
            b.push(a.steps()[i], (0..2).map(|l| a.tick(i, l)));
        }
        let options = Options { simulate: Some((4, Policy::Lru)), ..fast() };
        let simulation = Some(Simulation { slots: Some(4), policy: Policy::Lru });
        let other = Other::Trace(Box::new(Trace::Routes(b)), "b".into(), simulation);
        let (_handle, control) = compare(Trace::Routes(a), other, options, Seen::default());
        let d = frame(&control, |s| s.ended).difference.unwrap();
        assert!(d.ended);
        assert_eq!(d.steps(), 12, "the prompt and eleven tokens");
        assert!(d.alike().unwrap() > 0.9, "generated tokens are set against each other: {:?}", d.alike());
    }

    #[test]
    fn records_that_do_not_fit_the_card_are_passed_over_and_counted() {
        let card = card_of(&routes(0).head, 3);
        let mut bad = routes(1).record(0);
        bad.routed[0].expert = 8;
        let entries = timed(card, [bad, routes(2).record(1)].into_iter(), Duration::ZERO);
        let (handle, control) = from_entries(entries, fast(), Seen::default());
        assert_eq!(frame(&control, |s| s.ended).fold.steps[0].step, 1);
        assert_eq!(handle.signals.dropped.load(Ordering::Relaxed), 1);
    }

    /// What a person may do to a player.
    #[derive(Clone, Debug)]
    enum Act {
        Step(i64),
        Slots(usize),
        Policy(Policy),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (1i64..90).prop_map(Act::Step),
            3 => (1i64..90).prop_map(|by| Act::Step(-by)),
            1 => (1usize..8).prop_map(Act::Slots),
            1 => prop::sample::select(Policy::ALL.to_vec()).prop_map(Act::Policy),
        ]
    }

    const STEPS: usize = 150;

    /// A paused player of a session or of routing, with or without another side.
    fn player(kind: usize) -> (EngineHandle, PlayerControl<Seen>) {
        let (session, listener) = (session(STEPS as u64), Seen::default());
        let recorded = || {
            let mut writer = super::super::session::Writer::new(Vec::new()).unwrap();
            session.iter().for_each(|e| writer.entry(e).unwrap());
            Trace::Session(Box::new(Session::from_bytes(writer.finish().unwrap()).unwrap()))
        };
        let itself = Other::Itself(Simulation { slots: None, policy: Policy::Lfu });
        match kind {
            0 => from_entries(session, paused(), listener),
            1 => compare(recorded(), itself, paused(), listener),
            2 => compare(Trace::Routes(routes(STEPS as u64)), itself, paused(), listener),
            _ => compare(recorded(), Other::Trace(Box::new(recorded()), "b".into(), None), paused(), listener),
        }
    }

    /// Goes on or back, and waits until the player is there.
    fn step_to(control: &PlayerControl<Seen>, from: usize, to: usize) -> Frame<Seen> {
        // Nothing to wait for would leave no frame.
        control.speed(1.0 + to as f64);
        control.step(to as i64 - from as i64);
        frame(control, |s| s.step == to && s.speed == 1.0 + to as f64)
    }

    fn change((handle, control): &mut (EngineHandle, PlayerControl<Seen>), act: &Act) {
        match act {
            Act::Step(_) => {}
            Act::Slots(n) => {
                handle.signals.want_slots(*n);
                assert!(matches!(handle.events.blocking_recv(), Some(Event::Slots { .. })));
            }
            Act::Policy(policy) => {
                handle.commands.send(Command::SetPolicy(policy.name().into())).unwrap();
                frame(control, |s| s.simulated.is_some_and(|(p, _)| p == *policy));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Also across changes of slots and policy, those that were recorded and those that a person makes, and for both sides.
        #[test]
        fn going_back_shows_what_playing_to_that_place_shows(kind in 0usize..4, acts in prop::collection::vec(act(), 1..9)) {
            let mut walked = player(kind);
            let mut now = 0usize;
            // The changes that hold, by place.
            let mut held: Vec<(usize, Act)> = Vec::new();
            let mut shown = step_to(&walked.1, 0, 0);
            for act in acts {
                if let Act::Step(by) = act {
                    let to = now.saturating_add_signed(by as isize).min(STEPS);
                    shown = step_to(&walked.1, now, to);
                    now = to;
                } else {
                    held.retain(|(place, _)| *place <= now);
                    change(&mut walked, &act);
                    held.push((now, act));
                    shown = step_to(&walked.1, now, now);
                }
            }
            let mut straight = player(kind);
            let mut at = 0;
            for (place, act) in held.iter().filter(|(place, _)| *place <= now) {
                step_to(&straight.1, at, *place);
                at = *place;
                change(&mut straight, act);
            }
            let wanted = step_to(&straight.1, at, now);
            prop_assert!(shown.fold == wanted.fold, "not the same after {} steps", now);
            prop_assert_eq!(shown.status, wanted.status);
            prop_assert_eq!(shown.difference, wanted.difference);
        }
    }
}
