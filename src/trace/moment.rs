//! A session at one place: everything that playing it up to there has led to, in a form that can be copied and gone on from.
//!
//! [`Story`] is what is told and does not change as it is told; a [`Moment`] goes through it entry by entry. Two moments at the
//! same place are the same, whichever way they came: what the person changed on the way (slots, policy) is part of the story
//! and happens again where it happened.

use super::foretold;
use super::routes::{MAX_EXPERTS, MAX_LAYERS};
use super::scheduling;
use super::second::Second;
use super::session::{Entry, Head, Question, Session, Timed};
use super::simulated::Simulated;
use crate::events::{Event, FailureKind, ModelCard, Scheduling, StepRecord};
use crate::experts::policy::{Admission, Policy};
use std::time::Duration;

/// Largest table `layers * experts` of a card that is played.
const MAX_TABLE: usize = 1 << 24;

/// What a listener makes of a session: a state that grows with every entry. The player keeps copies of it, so going back
/// gives it back exactly as it was.
pub trait Fold: Clone + Send + 'static {
    /// The person asked something.
    fn question(&mut self, at: Duration, question: Question);
    /// Something on the text lane, at this time of the session.
    fn event(&mut self, at: Duration, event: Event);
    /// A step, as it is shown: recorded or simulated. It fits the last card.
    fn step(&mut self, record: StepRecord);
    /// A copy to come back to. It may lack what is too large to be kept many times, if [`Fold::back_to`] can do without; it
    /// must be able to go on like the original.
    #[must_use]
    fn mark(&self) -> Self {
        self.clone()
    }
    /// Become what this was when `mark` was made.
    fn back_to(&mut self, mark: &Self) {
        self.clone_from(mark);
    }
    /// About how many bytes a mark takes.
    fn bytes(&self) -> usize;
}

/// Entries that are played.
pub(super) enum Source {
    List(Vec<Timed>),
    File(Box<Session>),
}

impl Source {
    pub(super) fn len(&self) -> usize {
        match self {
            Source::List(entries) => entries.len(),
            Source::File(session) => session.len(),
        }
    }
    pub(super) fn is_step(&self, i: usize) -> bool {
        match self {
            Source::List(entries) => entries.get(i).is_some_and(|e| matches!(e.entry, Entry::Step(_))),
            Source::File(session) => session.is_step(i),
        }
    }
    /// Time of an entry, microseconds.
    pub(super) fn time(&self, i: usize) -> u64 {
        match self {
            Source::List(entries) => entries.get(i).map_or(0, |e| e.at),
            Source::File(session) => session.time(i),
        }
    }
    pub(super) fn get(&self, head: &mut Head, i: usize) -> Option<Timed> {
        match self {
            Source::List(entries) => entries.get(i).cloned(),
            Source::File(session) => session.read(head, i),
        }
    }
}

/// What the person changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Slots(usize),
    Policy(Policy),
}

/// A change by the person.
pub(super) struct Change {
    /// The entry before which it was made.
    cursor: usize,
    what: What,
    /// The simulation that it began, if it was the first of a recorded session: brought up to this place.
    begun: Option<Box<Simulated>>,
}

/// What is played: it stays the same while moments go through it, but for changes by the person.
pub(super) struct Story {
    pub(super) source: Source,
    /// Another session that it is compared with.
    pub(super) other: Option<Source>,
    pub(super) changes: Vec<Change>,
}

/// A place in a story, with what led to it.
#[derive(Clone)]
pub(super) struct Moment<F> {
    pub(super) stage: Stage,
    /// What the listener has made of it.
    pub(super) fold: F,
}

/// The part of a moment that is the player's own.
#[derive(Clone)]
pub(super) struct Stage {
    /// The next entry.
    pub(super) cursor: usize,
    /// Steps shown.
    pub(super) shown: usize,
    /// Time of the last entry, microseconds.
    pub(super) at: u64,
    /// Steps that did not fit the card.
    pub(super) misfits: u64,
    pub(super) card: Option<ModelCard>,
    pub(super) simulated: Option<Simulated>,
    /// Slots of the last step.
    pub(super) last_slots: usize,
    pub(super) second: Option<Second>,
    /// Changes of the story that were carried out.
    changes: usize,
    /// The policy that the recording names, if this program knows it.
    pub(super) recorded: Option<(Policy, Admission)>,
    /// What the next model's steps are simulated with.
    simulate: Option<(usize, Policy)>,
    head: Head,
}

impl<F: Fold> Moment<F> {
    /// Before the first entry.
    pub(super) fn new(fold: F, simulate: Option<(usize, Policy)>, second: Option<Second>) -> Self {
        let stage = Stage {
            cursor: 0,
            shown: 0,
            at: 0,
            misfits: 0,
            card: None,
            simulated: None,
            last_slots: 0,
            second,
            changes: 0,
            recorded: None,
            simulate,
            head: Head::default(),
        };
        Self { stage, fold }
    }

    /// A copy to come back to.
    pub(super) fn mark(&self) -> Self {
        Self { stage: self.stage.clone(), fold: self.fold.mark() }
    }

    /// Become what this was when `mark` was made.
    pub(super) fn back_to(&mut self, mark: &Self) {
        self.stage.clone_from(&mark.stage);
        self.fold.back_to(&mark.fold);
    }

    /// About how many bytes a mark takes.
    pub(super) fn bytes(&self) -> usize {
        let stage = &self.stage;
        let cells = stage.card.as_ref().map_or(0, |c| c.layers * c.experts);
        let second = stage.second.as_ref().map_or(0, Second::bytes);
        self.fold.bytes() + 2 * cells + second + stage.simulated.as_ref().map_or(0, Simulated::bytes)
    }

    /// Carry out what the person changed here, then tell the next entry. False at the end.
    pub(super) fn advance(&mut self, story: &Story) -> bool {
        self.settle(story);
        let Some(next) = story.source.get(&mut self.stage.head, self.stage.cursor) else { return false };
        self.stage.cursor += 1;
        self.stage.at = self.stage.at.max(next.at);
        let at = Duration::from_micros(self.stage.at);
        match next.entry {
            Entry::Question(question) => self.fold.question(at, question),
            Entry::Event(Event::Ready { card }) => self.open(at, card),
            Entry::Event(Event::Scheduling(scheduling)) => self.decides(at, scheduling),
            Entry::Event(event) => self.fold.event(at, event),
            Entry::Step(record) => {
                self.stage.shown += 1;
                self.step(*record, story);
            }
        }
        true
    }

    /// Tell entries up to the next step, which is the last of them. False if there is no more step.
    pub(super) fn walk(&mut self, story: &Story) -> bool {
        let before = self.stage.shown;
        while self.stage.shown == before {
            if !self.advance(story) {
                return false;
            }
        }
        true
    }

    fn decides(&mut self, at: Duration, scheduling: Scheduling) {
        match scheduling::known(&scheduling) {
            Ok(known) => self.stage.recorded = Some(known),
            Err(odd) => {
                self.stage.recorded = None;
                let message = format!("{odd}; what is simulated is under {}", Policy::default());
                self.fold.event(at, Event::Notice { message });
            }
        }
        self.fold.event(at, Event::Scheduling(scheduling));
    }

    fn open(&mut self, at: Duration, mut card: Box<ModelCard>) {
        let table = card.layers.checked_mul(card.experts);
        if card.layers > MAX_LAYERS || card.experts > MAX_EXPERTS || table.is_none_or(|n| n > MAX_TABLE) {
            let message = format!("the trace is of a model with {} x {} experts; that is too many", card.layers, card.experts);
            return self.fold.event(at, Event::LoadFailed { message, kind: FailureKind::Other });
        }
        let stage = &mut self.stage;
        if let Some((slots, _)) = stage.simulate.filter(|_| card.plan.slots_per_layer == 0) {
            // Routing alone: the count of the recording is not known, that of the simulation is.
            card.plan.slots_per_layer = slots;
            card.plan.slots = card.plan.slot_step.saturating_mul(slots as u64);
        }
        stage.card = Some((*card).clone());
        if let Some((slots, policy)) = stage.simulate {
            stage.simulated = Some(Simulated::new(&card, slots, policy, scheduling::admission(policy, stage.recorded)));
        }
        if let Some(second) = &mut stage.second {
            second.begin(&card, stage.recorded);
        }
        self.fold.event(at, Event::Ready { card });
    }

    fn step(&mut self, mut record: StepRecord, story: &Story) {
        let stage = &mut self.stage;
        if !stage.card.as_ref().is_some_and(|card| fits(card, &record)) {
            stage.misfits += 1;
            return;
        }
        let recorded = stage.second.is_some().then(|| record.clone());
        if let Some(simulated) = &mut stage.simulated {
            simulated.step(&mut record);
        }
        if let (Some(second), Some(recorded)) = (&mut stage.second, recorded) {
            second.step(story.other.as_ref(), &recorded, &record);
        }
        stage.last_slots = usize::from(record.slots);
        self.fold.step(record);
    }

    /// Carry out the changes that were made at this place.
    pub(super) fn settle(&mut self, story: &Story) {
        while let Some(change) = story.changes.get(self.stage.changes).filter(|c| c.cursor <= self.stage.cursor) {
            self.stage.changes += 1;
            self.carry_out(change);
        }
    }

    fn carry_out(&mut self, change: &Change) {
        let at = Duration::from_micros(self.stage.at);
        let stage = &mut self.stage;
        if let Some(begun) = &change.begun {
            stage.simulated = Some((**begun).clone());
            let policy = begun.scheduler.policy();
            let message = format!("from here on hits and slots are simulated (policy {policy}), not recorded");
            self.fold.event(at, Event::Notice { message });
        }
        let Some(simulated) = &mut stage.simulated else { return };
        let scheduler = &mut simulated.scheduler;
        match change.what {
            What::Slots(asked) => {
                let granted = asked.min(scheduler.experts());
                scheduler.resize(granted);
                stage.last_slots = granted;
                let why = (granted < asked).then(|| format!("a layer has {} experts", scheduler.experts()));
                self.fold.event(at, Event::Slots { asked, granted, why });
            }
            What::Policy(policy) => scheduler.set_policy(policy, scheduling::admission(policy, stage.recorded)),
        }
        stage.simulate = Some((scheduler.slots(0), scheduler.policy()));
    }

    /// The person changes something here. What was changed further on no longer counts. False if there is no model yet.
    pub(super) fn change(&mut self, story: &mut Story, what: What) -> bool {
        let Some(card) = &self.stage.card else { return false };
        let begun = self.stage.simulated.is_none().then(|| {
            let slots = if self.stage.last_slots > 0 { self.stage.last_slots } else { card.plan.slots_per_layer };
            let (policy, admission) = self.stage.recorded.unwrap_or_else(|| (Policy::default(), Policy::default().admission()));
            let mut simulated = Simulated::new(card, slots, policy, admission);
            let mut head = Head::default();
            for i in (0..self.stage.cursor).filter(|&i| story.source.is_step(i)) {
                if let Some(Timed { entry: Entry::Step(mut record), .. }) = story.source.get(&mut head, i) {
                    if fits(card, &record) {
                        simulated.step(&mut record);
                    }
                }
            }
            Box::new(simulated)
        });
        story.changes.truncate(self.stage.changes);
        story.changes.push(Change { cursor: self.stage.cursor, what, begun });
        self.settle(story);
        true
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
        && r.ahead.iter().all(|a| usize::from(a.layer) < card.layers && expert(a.expert))
        && foretold::fits(&r.foreseen, card.layers, card.experts)
        && (r.slot_of.is_empty() || r.slot_of.len() == card.layers * card.experts)
}
