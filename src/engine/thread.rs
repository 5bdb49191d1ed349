//! The inference thread's loop: takes commands, survives whatever they do.
//!
//! A panic inside a command is caught here. The model that was at work is dropped, since nobody knows what state
//! it is in; the thread goes on and another model can be opened.

use super::lanes::{Gone, Lanes};
use super::runtime::Loader;
use super::turn::{Halt, Request, Session};
use super::EngineError;
use crate::events::{Command, Event, FailureKind, FinishReason, LoadOptions, ModelSource, RequestId, Sampling, TurnStats};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often an idle engine looks for a slot wish or a listener that is gone.
const IDLE_LOOK: Duration = Duration::from_millis(50);

pub(super) struct Worker<L> {
    pub(super) commands: Receiver<Command>,
    pub(super) lanes: Lanes,
    pub(super) loader: L,
    pub(super) session: Option<Session>,
}

enum Next {
    Continue,
    Leave,
}

impl<L: Loader> Worker<L> {
    /// Serve commands until [`Command::Shutdown`], or until nobody holds the other end.
    pub(super) fn run(mut self) {
        loop {
            let command = match self.commands.recv_timeout(IDLE_LOOK) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if self.lanes.gone() {
                break;
            }
            let at_work = command.as_ref().map(Work::of).unwrap_or_default();
            let next = match catch_unwind(AssertUnwindSafe(|| self.serve(command))) {
                Ok(Ok(next)) => next,
                Ok(Err(Gone)) => Next::Leave,
                Err(payload) => self.after_panic(&at_work, payload.as_ref()).unwrap_or(Next::Leave),
            };
            if matches!(next, Next::Leave) {
                break;
            }
        }
        self.close();
    }

    fn serve(&mut self, command: Option<Command>) -> Result<Next, Gone> {
        match command {
            None => {
                if let Some(session) = &mut self.session {
                    session.obey_slot_wish(&mut self.lanes)?;
                }
            }
            Some(Command::Open { source, options }) => self.open(&source, &options)?,
            Some(Command::Generate { id, messages, sampling, reasoning }) => {
                self.turn(id, &Request::Chat { messages: &messages, reasoning }, &sampling)?;
            }
            Some(Command::Complete { id, prompt, sampling }) => self.turn(id, &Request::Raw(&prompt), &sampling)?,
            Some(Command::SetPolicy(name)) => {
                let done = match &mut self.session {
                    Some(s) => s.opened.runtime.set_policy(&name),
                    None => Err(EngineError::NoModel),
                };
                match done {
                    Ok(()) => {
                        self.tell_scheduling()?;
                        self.lanes.event(Event::Notice { message: format!("replacement policy: {name}") })?;
                    }
                    Err(e) => self.lanes.event(Event::Failed { id: None, message: e.to_string(), kind: e.kind() })?,
                }
            }
            Some(Command::Shutdown) => return Ok(Next::Leave),
        }
        Ok(Next::Continue)
    }

    fn open(&mut self, source: &ModelSource, options: &LoadOptions) -> Result<(), Gone> {
        // The old model goes first: the new one may need its memory.
        self.close();
        self.lanes.signals.cancel.store(false, Ordering::Relaxed);
        self.lanes.signals.slots.store(0, Ordering::Relaxed);
        self.lanes.signals.draft.store(0, Ordering::Relaxed);
        let lanes = &self.lanes;
        let mut last: Option<(String, Instant)> = None;
        let mut progress = |stage: &str, done: u64, total: u64| {
            // Ten a second are enough for a bar; a new stage and the end of one are always told.
            let new = last.as_ref().is_none_or(|(s, t)| s != stage || t.elapsed() > Duration::from_millis(100));
            if new || done == total {
                last = Some((stage.to_owned(), Instant::now()));
                let _ = lanes.event(Event::Loading { stage: stage.to_owned(), done, total });
            }
            !lanes.cancelled()
        };
        match self.loader.open(source, options, &mut progress) {
            Ok(opened) => {
                let card = Box::new(opened.card.clone());
                let notes = opened.notes.clone();
                self.lanes.watch(opened.mapped.clone(), opened.watched.clone());
                let session = Session::new(opened, options.draft);
                self.lanes.level(session.opened.runtime.slot_bytes(), session.opened.runtime.cache_bytes());
                self.session = Some(session);
                self.lanes.sample_now();
                self.tell_scheduling()?;
                self.lanes.event(Event::Ready { card })?;
                notes.into_iter().try_for_each(|message| self.lanes.event(Event::Notice { message }))
            }
            Err(e) => self.lanes.event(Event::LoadFailed { message: e.to_string(), kind: e.kind() }),
        }
    }

    fn tell_scheduling(&self) -> Result<(), Gone> {
        let scheduling = self.session.as_ref().and_then(|s| s.opened.runtime.scheduling());
        scheduling.map_or(Ok(()), |scheduling| self.lanes.event(Event::Scheduling(scheduling)))
    }

    fn turn(&mut self, id: RequestId, request: &Request<'_>, sampling: &Sampling) -> Result<(), Gone> {
        // A signal without an id was meant for a turn that has ended by now.
        let signals = &self.lanes.signals;
        signals.cancel.store(false, Ordering::SeqCst);
        if id < signals.cancel_below.load(Ordering::SeqCst) {
            signals.cancel.store(true, Ordering::SeqCst);
        }
        let mut stats = TurnStats::default();
        let outcome = match &mut self.session {
            Some(session) => session.turn(&mut self.lanes, id, request, sampling, &mut stats),
            None => Err(Halt::Failed(EngineError::NoModel)),
        };
        // Whoever hears that the turn is over may end the program: what is to be kept of it is kept by then.
        self.keep_heat()?;
        match outcome {
            Ok(reason) => self.lanes.event(Event::Finished { id, reason, stats }),
            Err(Halt::Gone) => Err(Gone),
            Err(Halt::Failed(e)) => self.failed(id, e.to_string(), e.kind(), stats),
        }
    }

    /// Keep which experts were used for the next start.
    fn keep_heat(&mut self) -> Result<(), Gone> {
        let problem = self.session.as_mut().and_then(|s| s.opened.runtime.keep_heat());
        problem.map_or(Ok(()), |message| self.lanes.event(Event::Notice { message }))
    }

    fn failed(&self, id: RequestId, message: String, kind: FailureKind, stats: TurnStats) -> Result<(), Gone> {
        self.lanes.event(Event::Failed { id: Some(id), message, kind })?;
        self.lanes.event(Event::Finished { id, reason: FinishReason::Failed, stats })
    }

    fn after_panic(&mut self, work: &Work, payload: &(dyn std::any::Any + Send)) -> Result<Next, Gone> {
        let what = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        tracing::error!(what, "panic in the inference thread");
        self.close();
        let message = format!("internal error: {what}. The model was closed; open it again or open another");
        match work {
            Work::Turn(id) => self.failed(*id, message, FailureKind::Other, TurnStats::default())?,
            Work::Load => self.lanes.event(Event::LoadFailed { message, kind: FailureKind::Other })?,
            Work::Other => self.lanes.event(Event::Failed { id: None, message, kind: FailureKind::Other })?,
        }
        Ok(Next::Continue)
    }

    /// Drop the model. Its destructor may run code of a model that has just panicked: that must not end the thread.
    fn close(&mut self) {
        self.lanes.watch(None, None);
        if let Some(session) = self.session.take() {
            if catch_unwind(AssertUnwindSafe(|| drop(session))).is_err() {
                tracing::error!("panic while a model was dropped");
            }
        }
    }
}

/// What a command was about, kept so that a panic can be reported in its terms.
#[derive(Default)]
enum Work {
    Turn(RequestId),
    Load,
    #[default]
    Other,
}

impl Work {
    fn of(command: &Command) -> Self {
        match command {
            Command::Generate { id, .. } | Command::Complete { id, .. } => Self::Turn(*id),
            Command::Open { .. } => Self::Load,
            Command::SetPolicy(_) | Command::Shutdown => Self::Other,
        }
    }
}
