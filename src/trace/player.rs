//! Plays a session through the engine's lanes, with no model: the screen can't tell the difference.
//!
//! The player owns a thread and answers to the same [`EngineHandle`] as the inference thread; [`PlayerControl`] adds what a
//! recording can do and a model can't: pause, steps, any speed, and going back. Going back starts over: `Ready` comes
//! again, then at once all text up to the wanted step, so a listener that treats `Ready` as a new session is always right.
//! Of steps that are passed over, the last few are sent; each carries the whole occupancy.
//!
//! Routing without occupancy (a CSV trace) is run through the scheduler as it plays; slot count and policy can be changed
//! meanwhile by the usual signals and commands. A recorded session shows what happened until the person changes one of
//! them; from then on its hits and slots are simulated, its times are left out, and a notice says so.

use super::difference::Difference;
use super::open::Trace;
use super::routes::{Routes, RoutesHead, Trunk, MAX_EXPERTS, MAX_LAYERS};
use super::second::{Second, Simulation};
use super::session::{Entry, Session, Timed};
use super::simulated::Simulated;
use crate::engine::{EngineHandle, Signals};
use crate::events::{Command, Event, FailureKind, FinishReason, Gauges, ModelCard, Plan, Sampling, StepRecord, TurnStats, NO_SLOT};
use crate::experts::policy::Policy;
use crossbeam_channel::{Receiver, Sender};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Room of the text lane, as the engine's.
const EVENT_ROOM: usize = 256;
/// Room of the telemetry lane: what is sent of a jump, and as much again.
const TELEMETRY_ROOM: usize = 2 * SENT_OF_A_JUMP;
/// Steps that are sent of those passed over by a jump, so that heat is right again and the tokens before can be looked at.
const SENT_OF_A_JUMP: usize = 256;
/// Longest time between two looks at the signals.
const LOOK: Duration = Duration::from_millis(30);
/// Largest table `layers * experts` of a card that is played.
const MAX_TABLE: usize = 1 << 24;

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
    /// Wait for room on the telemetry lane instead of dropping records (tests).
    pub lossless: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            speed: 1.0,
            paused: false,
            longest_wait: Duration::from_secs(2),
            step_interval: Duration::from_millis(100),
            simulate: None,
            lossless: false,
        }
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
    /// Factor of the speed.
    pub speed: f64,
    /// Everything was played.
    pub ended: bool,
    /// Hits and slots are those of this policy at these slots per layer, not recorded ones.
    pub simulated: Option<(Policy, usize)>,
}

enum Action {
    Pause(bool),
    Toggle,
    Speed(f64),
    Step(i64),
    Seek(usize),
}

/// A remote control; clones control the same player. It does nothing once the player is gone.
#[derive(Clone)]
pub struct PlayerControl {
    actions: Sender<Action>,
    status: Arc<Mutex<Status>>,
    difference: Arc<Mutex<Option<Arc<Difference>>>>,
}

impl PlayerControl {
    /// Stop or go on.
    pub fn pause(&self, paused: bool) {
        self.send(Action::Pause(paused));
    }
    /// Stop if it plays, go on if it is paused.
    pub fn toggle(&self) {
        self.send(Action::Toggle);
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
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// The comparison with the other side as it stands after the last step; `None` without one.
    #[must_use]
    pub fn difference(&self) -> Option<Arc<Difference>> {
        self.difference.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn send(&self, action: Action) {
        // A player that is gone has nothing to control.
        let _ = self.actions.send(action);
    }
}

/// What is played.
pub(super) enum Source {
    List(Vec<Timed>),
    File(Box<Session>),
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Source::List(entries) => entries.len(),
            Source::File(session) => session.len(),
        }
    }
    fn is_step(&self, i: usize) -> bool {
        match self {
            Source::List(entries) => entries.get(i).is_some_and(|e| matches!(e.entry, Entry::Step(_))),
            Source::File(session) => session.is_step(i),
        }
    }
    pub(super) fn get(&mut self, i: usize) -> Option<Timed> {
        match self {
            Source::List(entries) => entries.get(i).cloned(),
            Source::File(session) => session.get(i),
        }
    }
}

/// Play a recorded session.
#[must_use]
pub fn from_session(session: Session, options: Options) -> (EngineHandle, PlayerControl) {
    start(Source::File(Box::new(session)), options, None)
}

/// Play entries that are in memory.
#[must_use]
pub fn from_entries(entries: Vec<Timed>, options: Options) -> (EngineHandle, PlayerControl) {
    start(Source::List(entries), options, None)
}

/// Play records of a model as fast as they are taken, none lost: for tests of what listens.
#[must_use]
pub fn from_records(card: ModelCard, records: Vec<StepRecord>) -> (EngineHandle, PlayerControl) {
    let options = Options { speed: f64::INFINITY, lossless: true, ..Options::default() };
    from_entries(timed(card, records.into_iter(), options.step_interval), options)
}

/// Play routing without occupancy. Without `options.simulate` a quarter of the experts get slots, under `rotary`.
#[must_use]
pub fn from_routes(routes: &Routes, options: Options) -> (EngineHandle, PlayerControl) {
    let options = simulating(routes, options);
    start(listed(routes, &options), options, None)
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
pub fn compare(trace: Trace, other: Other, options: Options) -> (EngineHandle, PlayerControl) {
    let (options, source) = match trace {
        Trace::Session(session) => (options, Source::File(session)),
        Trace::Routes(routes) => {
            let options = simulating(&routes, options);
            let source = listed(&routes, &options);
            (options, source)
        }
    };
    let second = match other {
        Other::Itself(simulation) => Second::new(None, Some(simulation), String::new()),
        Other::Trace(trace, name, simulation) => {
            let (source, simulation) = match *trace {
                Trace::Session(session) => (Source::File(session), simulation),
                Trace::Routes(routes) => {
                    let same = Simulation { slots: None, policy: Policy::default() };
                    (listed(&routes, &options), simulation.or(Some(same)))
                }
            };
            let name = if simulation.is_some() { format!("{name}, ") } else { name };
            Second::new(Some(source), simulation, name)
        }
    };
    start(source, options, Some(second))
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

fn start(source: Source, options: Options, second: Option<Second>) -> (EngineHandle, PlayerControl) {
    let (commands, inbox) = crossbeam_channel::unbounded();
    let (actions, controls) = crossbeam_channel::unbounded();
    let (event_tx, events) = mpsc::channel(EVENT_ROOM);
    let (record_tx, telemetry) = mpsc::channel(TELEMETRY_ROOM);
    let (gauge_tx, gauges) = watch::channel(Gauges::default());
    let signals = Arc::new(Signals::default());
    let status = Arc::new(Mutex::new(Status::default()));
    let difference = Arc::new(Mutex::new(None));
    let player = Player {
        steps: (0..source.len()).filter(|&i| source.is_step(i)).count(),
        length: 0,
        source,
        cursor: 0,
        shown: 0,
        at: 0.0,
        paused: options.paused,
        options,
        card: None,
        simulated: None,
        second,
        compared: 0,
        difference: difference.clone(),
        last_slots: 0,
        events: event_tx,
        telemetry: record_tx,
        gauges: gauge_tx,
        signals: signals.clone(),
        status: status.clone(),
    };
    let spawned = std::thread::Builder::new().name("rotary-player".into()).spawn(move || player.run(&inbox, &controls));
    if let Err(e) = spawned {
        // The closed text lane tells the listener; the log tells why.
        tracing::error!(%e, "the player's thread could not be started");
    }
    (EngineHandle { commands, events, telemetry, gauges, signals }, PlayerControl { actions, status, difference })
}

/// The listener is gone; the thread is to end.
struct Gone;

struct Player {
    source: Source,
    steps: usize,
    /// Time of the last entry, microseconds; known once the source was looked at.
    length: u64,
    /// The next entry.
    cursor: usize,
    /// Steps shown.
    shown: usize,
    /// Time within the session, microseconds.
    at: f64,
    paused: bool,
    options: Options,
    card: Option<ModelCard>,
    simulated: Option<Simulated>,
    /// What it is compared with.
    second: Option<Second>,
    /// Steps shown when the comparison was last published.
    compared: usize,
    difference: Arc<Mutex<Option<Arc<Difference>>>>,
    /// Slots of the last record shown.
    last_slots: usize,
    events: mpsc::Sender<Event>,
    telemetry: mpsc::Sender<StepRecord>,
    gauges: watch::Sender<Gauges>,
    signals: Arc<Signals>,
    status: Arc<Mutex<Status>>,
}

impl Player {
    fn run(mut self, inbox: &Receiver<Command>, controls: &Receiver<Action>) {
        self.length = self.source.len().checked_sub(1).and_then(|i| self.source.get(i)).map_or(0, |e| e.at);
        let mut clock = Instant::now();
        loop {
            let wait = match self.turn() {
                Ok(wait) => wait,
                Err(Gone) => return,
            };
            self.publish();
            let result = crossbeam_channel::select! {
                recv(inbox) -> command => match command {
                    Ok(command) => self.command(command),
                    Err(_) => return,
                },
                // The control may be dropped while the handle lives on; `recv` would then return at once for ever.
                recv(controls) -> action => match action {
                    Ok(action) => self.action(&action),
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
                self.at += passed.as_secs_f64() * 1e6 * self.options.speed;
            }
        }
    }

    /// Do what is due; returns how long to wait for more.
    fn turn(&mut self) -> Result<Duration, Gone> {
        if self.events.is_closed() {
            return Err(Gone);
        }
        if self.signals.cancel.swap(false, Ordering::Relaxed) {
            self.paused = true;
        }
        let wish = self.signals.slots.swap(0, Ordering::Relaxed);
        if wish > 0 {
            self.resize(wish)?;
        }
        // The card comes even in pause, or there is nothing to see.
        while !self.paused || self.card.is_none() {
            let Some(next) = self.source.get(self.cursor) else { break };
            let longest = self.options.longest_wait.as_micros() as f64;
            let due = next.at as f64;
            self.at = self.at.max(due - longest);
            if due > self.at && !self.options.speed.is_infinite() {
                let micros = ((due - self.at) / self.options.speed).max(0.0);
                return Ok(LOOK.min(Duration::from_secs_f64((micros / 1e6).min(1.0))));
            }
            self.at = self.at.max(due);
            let step = matches!(next.entry, Entry::Step(_));
            self.show(next, true)?;
            if step {
                // One step at a time, so that signals and commands act between any two.
                return Ok(Duration::ZERO);
            }
        }
        Ok(LOOK)
    }

    /// Send one entry, which is the one at the cursor. A step that is only passed over still moves the simulation.
    fn show(&mut self, next: Timed, send: bool) -> Result<(), Gone> {
        self.cursor += 1;
        match next.entry {
            Entry::Question(question) => self.event(Event::Notice { message: format!("> {}", question.text) }),
            Entry::Event(Event::Ready { card }) => {
                let table = card.layers.checked_mul(card.experts);
                if card.layers > MAX_LAYERS || card.experts > MAX_EXPERTS || table.is_none_or(|n| n > MAX_TABLE) {
                    return self
                        .load_failed(format!("the trace is of a model with {} x {} experts; that is too many", card.layers, card.experts));
                }
                self.card = Some((*card).clone());
                if let Some((slots, policy)) = self.options.simulate {
                    self.simulated = Some(Simulated::new(&card, slots, policy));
                }
                if let Some(second) = &mut self.second {
                    second.begin(&card);
                    self.compared = usize::MAX;
                }
                self.event(Event::Ready { card })
            }
            Entry::Event(event) => self.event(event),
            Entry::Step(record) => {
                self.shown += 1;
                self.step(*record, send)
            }
        }
    }

    fn step(&mut self, mut record: StepRecord, send: bool) -> Result<(), Gone> {
        if !self.card.as_ref().is_some_and(|card| fits(card, &record)) {
            self.signals.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let recorded = self.second.is_some().then(|| record.clone());
        if let Some(simulated) = &mut self.simulated {
            simulated.step(&mut record);
        }
        if let (Some(second), Some(recorded)) = (&mut self.second, recorded) {
            second.step(&recorded, &record);
        }
        self.last_slots = usize::from(record.slots);
        if !send {
            return Ok(());
        }
        self.gauge(&record);
        if self.options.lossless {
            // A listener without interest in telemetry may have dropped the receiver.
            let _ = self.telemetry.blocking_send(record);
        } else if let Err(mpsc::error::TrySendError::Full(_)) = self.telemetry.try_send(record) {
            self.signals.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn gauge(&self, record: &StepRecord) {
        let Some(card) = self.card.as_ref().filter(|c| c.experts > 0) else { return };
        let tables = record.slot_of.chunks(card.experts).zip(&card.expert_bytes);
        let used = tables.map(|(t, bytes)| bytes.saturating_mul(t.iter().filter(|s| **s != NO_SLOT).count() as u64));
        let slots_used = used.fold(0, u64::saturating_add);
        self.gauges.send_if_modified(|g| std::mem::replace(&mut g.slots_used, slots_used) != slots_used);
    }

    fn event(&self, event: Event) -> Result<(), Gone> {
        self.events.blocking_send(event).map_err(|_| Gone)
    }

    fn load_failed(&self, message: String) -> Result<(), Gone> {
        self.event(Event::LoadFailed { message, kind: FailureKind::Other })
    }

    fn command(&mut self, command: Command) -> Result<(), Gone> {
        let no = "this is a replay: there is no model that could answer";
        match command {
            Command::Shutdown => Err(Gone),
            Command::Open { .. } => self.load_failed("this is a replay; leave it to open a model".into()),
            Command::Generate { id, .. } | Command::Complete { id, .. } => {
                self.event(Event::Failed { id: Some(id), message: no.into() })?;
                self.event(Event::Finished { id, reason: FinishReason::Failed, stats: TurnStats::default() })
            }
            Command::SetPolicy(name) => match name.parse::<Policy>() {
                Ok(policy) => {
                    self.simulate_from_here()?;
                    if let Some(s) = &mut self.simulated {
                        s.scheduler.set_policy(policy, policy.admission());
                        self.options.simulate = Some((s.scheduler.slots(0), policy));
                    }
                    Ok(())
                }
                Err(e) => self.event(Event::Failed { id: None, message: e.to_string() }),
            },
            // Whatever else an engine can be asked makes no sense without a model.
            #[allow(unreachable_patterns)]
            _ => Ok(()),
        }
    }

    fn action(&mut self, action: &Action) -> Result<(), Gone> {
        match *action {
            Action::Pause(paused) => self.paused = paused,
            Action::Toggle => self.paused = !self.paused,
            Action::Speed(factor) if factor > 0.0 => self.options.speed = factor,
            Action::Speed(_) => {}
            Action::Step(by) => {
                self.paused = true;
                let by_abs = usize::try_from(by.unsigned_abs()).unwrap_or(usize::MAX);
                let to = if by < 0 { self.shown.saturating_sub(by_abs) } else { self.shown.saturating_add(by_abs) };
                self.seek(to)?;
            }
            Action::Seek(to) => self.seek(to)?,
        }
        Ok(())
    }

    /// Go to where `step` steps have been shown, with the text that followed the last of them.
    fn seek(&mut self, step: usize) -> Result<(), Gone> {
        let step = step.min(self.steps);
        if step < self.shown {
            self.cursor = 0;
            self.shown = 0;
            self.at = 0.0;
            if let (Some(card), Some((slots, policy))) = (&self.card, self.options.simulate) {
                self.simulated = Some(Simulated::new(card, slots, policy));
            }
        }
        while self.cursor < self.source.len() && (self.shown < step || !self.source.is_step(self.cursor)) {
            let Some(next) = self.source.get(self.cursor) else { break };
            self.at = self.at.max(next.at as f64);
            let send = self.shown + SENT_OF_A_JUMP >= step;
            self.show(next, send)?;
        }
        Ok(())
    }

    fn resize(&mut self, asked: usize) -> Result<(), Gone> {
        self.simulate_from_here()?;
        let Some(s) = &mut self.simulated else {
            return self.event(Event::Slots { asked, granted: 0, why: Some("no model is open".into()) });
        };
        let granted = asked.min(s.scheduler.experts());
        s.scheduler.resize(granted);
        self.options.simulate = Some((granted, s.scheduler.policy()));
        let why = (granted < asked).then(|| format!("a layer has {granted} experts"));
        self.event(Event::Slots { asked, granted, why })
    }

    /// Bring the simulation to the step at hand, if what is shown was recorded so far.
    fn simulate_from_here(&mut self) -> Result<(), Gone> {
        if self.simulated.is_some() {
            return Ok(());
        }
        let Some(card) = &self.card else { return Ok(()) };
        let slots = if self.last_slots > 0 { self.last_slots } else { card.plan.slots_per_layer };
        let policy = Policy::default();
        let mut simulated = Simulated::new(card, slots, policy);
        for i in 0..self.cursor {
            if let Some(Timed { entry: Entry::Step(mut record), .. }) = self.source.get(i) {
                if fits(card, &record) {
                    simulated.step(&mut record);
                }
            }
        }
        self.options.simulate = Some((slots, policy));
        self.simulated = Some(simulated);
        self.event(Event::Notice { message: format!("from here on hits and slots are simulated (policy {policy}), not recorded") })
    }

    fn publish(&mut self) {
        if let Some(second) = self.second.as_ref().filter(|_| self.card.is_some() && self.compared != self.shown) {
            let first = match &self.simulated {
                Some(s) => format!("{}, {} slots", s.scheduler.policy(), s.scheduler.slots(0)),
                None if self.last_slots > 0 => format!("recorded, {} slots", self.last_slots),
                None => "recorded".to_owned(),
            };
            let snapshot = Some(Arc::new(second.snapshot(first)));
            *self.difference.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
            self.compared = self.shown;
        }
        let micros = |us: f64| Duration::from_micros(us.clamp(0.0, self.length as f64) as u64);
        let status = Status {
            step: self.shown,
            steps: self.steps,
            at: micros(self.at),
            length: Duration::from_micros(self.length),
            paused: self.paused,
            speed: self.options.speed,
            ended: self.cursor >= self.source.len(),
            simulated: self.simulated.as_ref().map(|s| (s.scheduler.policy(), s.scheduler.slots(0))),
        };
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// Whether a record is of the model on the card. Listeners index by layer and expert without looking.
pub(super) fn fits(card: &ModelCard, r: &StepRecord) -> bool {
    let expert = |e: u16| usize::from(e) < card.experts;
    r.layers() == card.layers
        && r.ends.is_sorted()
        && r.ends.last().is_none_or(|&end| end as usize == r.routed.len())
        && r.routed.iter().all(|x| expert(x.expert))
        && r.evicted.iter().all(|e| usize::from(e.layer) < card.layers && expert(e.expert))
        && (r.slot_of.is_empty() || r.slot_of.len() == card.layers * card.experts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Outcome, Phase, RoutedExpert, StepTime, TextKind};
    use crate::trace::routes::RoutesStep;

    fn routes(steps: u64) -> Routes {
        let head = RoutesHead { layers: 2, experts: 8, top_k: 2, expert_bytes: vec![10, 20], ..RoutesHead::default() };
        let mut routes = Routes::new(head);
        for step in 0..steps {
            let phase = if step == 0 { Phase::Prefill } else { Phase::Decode };
            let expert = |e: u64| RoutedExpert { expert: (e % 8) as u16, tokens: 1, weight: 0.5, outcome: Outcome::Miss };
            let tick = [expert(step), expert(step + 3)];
            routes.push(RoutesStep { turn: 0, phase, step, tokens: 1 }, [&tick[..], &tick[..]]);
        }
        routes
    }

    fn fast() -> Options {
        Options { speed: f64::INFINITY, lossless: true, ..Options::default() }
    }

    fn steps(handle: &mut EngineHandle, n: usize) -> Vec<StepRecord> {
        (0..n).map(|_| handle.telemetry.blocking_recv().unwrap()).collect()
    }

    fn wait(control: &PlayerControl, what: impl Fn(&Status) -> bool) -> Status {
        let begin = Instant::now();
        loop {
            let status = control.status();
            if what(&status) {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{status:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn routing_plays_with_simulated_occupancy() {
        let (mut handle, control) = from_routes(&routes(20), Options { simulate: Some((4, Policy::Lru)), ..fast() });
        let Some(Event::Ready { card }) = handle.events.blocking_recv() else { panic!("no card") };
        assert_eq!((card.layers, card.experts, card.plan.slots_per_layer, card.plan.slot_step), (2, 8, 4, 30));
        for record in steps(&mut handle, 20) {
            for layer in 0..2 {
                let table = &record.slot_of[layer * 8..][..8];
                assert!(table.iter().filter(|s| **s != NO_SLOT).count() <= 4);
                for r in record.layer(layer) {
                    assert_eq!(r.outcome == Outcome::Miss, table[usize::from(r.expert)] == NO_SLOT);
                }
            }
        }
        let end = wait(&control, |s| s.ended);
        assert_eq!((end.step, end.steps, end.simulated), (20, 20, Some((Policy::Lru, 4))));
    }

    #[test]
    fn records_come_as_they_were_given() {
        let card = card_of(&routes(0).head, 4);
        let records: Vec<StepRecord> = (0..5).map(|i| routes(5).record(i)).collect();
        let (mut handle, _control) = from_records(card, records.clone());
        assert_eq!(steps(&mut handle, 5), records);
    }

    #[test]
    fn slots_and_policy_change_while_it_plays() {
        let (mut handle, control) = from_routes(&routes(40), Options { paused: true, ..fast() });
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Ready { .. })));
        control.step(5);
        assert_eq!(steps(&mut handle, 5)[4].slots, 2);
        handle.signals.want_slots(100);
        let Some(Event::Slots { asked: 100, granted: 8, why: Some(_) }) = handle.events.blocking_recv() else { panic!("no answer") };
        handle.commands.send(Command::SetPolicy("lfu".into())).unwrap();
        wait(&control, |s| s.simulated == Some((Policy::Lfu, 8)));
        control.step(1);
        assert_eq!(steps(&mut handle, 1)[0].slots, 8);
        handle.commands.send(Command::SetPolicy("nonsense".into())).unwrap();
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Failed { id: None, .. })));
    }

    #[test]
    fn going_back_shows_the_same_again() {
        let (mut handle, control) = from_routes(&routes(30), Options { paused: true, ..fast() });
        handle.events.blocking_recv();
        control.step(20);
        let first = steps(&mut handle, 20);
        control.step(-8);
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Ready { .. })), "a new session begins");
        assert_eq!(steps(&mut handle, 12), first[..12]);
        assert_eq!(wait(&control, |s| s.step == 12).step, 12);
        control.pause(false);
        assert_eq!(steps(&mut handle, 8), first[12..]);
    }

    #[test]
    fn a_far_jump_sends_all_text_but_only_the_last_steps() {
        let all = routes(400);
        let mut entries = timed(card_of(&all.head, 2), (0..400).map(|i| all.record(i)), Duration::from_secs(1));
        let said = |i: u64| Event::Text { id: 1, text: format!("{i} "), kind: TextKind::Answer, step: i };
        for i in (0..400u64).rev() {
            entries.insert(i as usize + 2, Timed { at: i * 1_000_000, entry: Entry::Event(said(i)) });
        }
        let (mut handle, control) = from_entries(entries, Options { paused: true, ..fast() });
        handle.events.blocking_recv();
        control.seek(390);
        for i in 0..390 {
            assert_eq!(handle.events.blocking_recv(), Some(said(i)));
        }
        let records = steps(&mut handle, SENT_OF_A_JUMP);
        assert_eq!((records[0].step, records[SENT_OF_A_JUMP - 1].step), (390 - SENT_OF_A_JUMP as u64, 389));
        assert!(handle.events.try_recv().is_err());
    }

    #[test]
    fn a_question_to_a_replay_is_answered_with_a_failure() {
        let (mut handle, _control) = from_routes(&routes(2), Options { paused: true, ..fast() });
        handle.events.blocking_recv();
        handle.commands.send(Command::Complete { id: 7, prompt: "x".into(), sampling: Sampling::default() }).unwrap();
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Failed { id: Some(7), .. })));
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Finished { id: 7, reason: FinishReason::Failed, .. })));
    }

    #[test]
    fn the_thread_ends_with_its_listener_or_by_command() {
        let (mut handle, control) = from_routes(&routes(2), Options { paused: true, ..fast() });
        handle.commands.send(Command::Shutdown).unwrap();
        while handle.events.blocking_recv().is_some() {}
        let (handle, other) = from_routes(&routes(2), Options { paused: true, ..fast() });
        drop(handle);
        let begin = Instant::now();
        while Arc::strong_count(&control.status) > 1 || Arc::strong_count(&other.status) > 1 {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_recorded_session_is_simulated_once_slots_are_changed() {
        let card = card_of(&routes(0).head, 3);
        let records: Vec<StepRecord> = (0..10)
            .map(|i| StepRecord { slots: 3, time: StepTime { total_us: 5, ..StepTime::default() }, ..routes(10).record(i) })
            .collect();
        let entries = timed(card, records.into_iter(), Duration::ZERO);
        let (mut handle, control) = from_entries(entries, Options { paused: true, ..fast() });
        handle.events.blocking_recv();
        control.step(4);
        assert!(steps(&mut handle, 4).iter().all(|r| r.slot_of.is_empty() && r.time.total_us == 5), "as recorded");
        handle.signals.want_slots(6);
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Notice { .. })));
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Slots { granted: 6, .. })));
        control.step(1);
        let record = steps(&mut handle, 1).remove(0);
        assert_eq!((record.slots, record.slot_of.len(), record.time.total_us), (6, 16, 0));
    }

    #[test]
    fn a_comparison_counts_what_the_simulation_counts_also_after_going_back() {
        let routes = routes(60);
        let simulation = Simulation { slots: Some(6), policy: Policy::Lru };
        // Nobody takes the records here.
        let options = Options { simulate: Some((3, Policy::Lru)), paused: true, lossless: false, ..fast() };
        let (mut handle, control) = compare(Trace::Routes(routes.clone()), Other::Itself(simulation), options);
        handle.events.blocking_recv();
        let rates = |step: usize| {
            control.seek(step);
            wait(&control, |s| s.step == step);
            let begin = Instant::now();
            loop {
                let d = control.difference().unwrap();
                if d.steps() == step as u64 {
                    return d.rates(0..2).whole.map(Option::unwrap);
                }
                assert!(begin.elapsed() < Duration::from_secs(20));
            }
        };
        let end = rates(60);
        let trace = crate::trace::simulate::Prepared::new(&routes);
        for (rate, slots) in end.into_iter().zip([3, 6]) {
            let want = trace.online(Policy::Lru, Policy::Lru.admission(), slots).hit_rate();
            assert!((f64::from(rate) - want).abs() < 1e-6, "{rate} {want}");
        }
        assert_eq!(control.difference().unwrap().names, ["lru, 3 slots".to_owned(), "lru, 6 slots".to_owned()]);
        let before = rates(30);
        assert_ne!(before, end);
        assert_eq!(rates(60), end);
        drop(handle);
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
        let (mut handle, control) = compare(Trace::Routes(a), other, options);
        handle.events.blocking_recv();
        steps(&mut handle, 20);
        wait(&control, |s| s.ended);
        let begin = Instant::now();
        while control.difference().is_none_or(|d| !d.ended) {
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        let d = control.difference().unwrap();
        assert_eq!(d.steps(), 12, "the prompt and eleven tokens");
        assert!(d.alike().unwrap() > 0.9, "generated tokens are set against each other: {:?}", d.alike());
    }

    #[test]
    fn records_that_do_not_fit_the_card_are_dropped_and_counted() {
        let card = card_of(&routes(0).head, 3);
        let mut bad = routes(1).record(0);
        bad.routed[0].expert = 8;
        let (mut handle, _control) = from_records(card, vec![bad, routes(2).record(1)]);
        assert_eq!(steps(&mut handle, 1)[0].step, 1);
        assert_eq!(handle.signals.dropped.load(Ordering::Relaxed), 1);
    }
}
