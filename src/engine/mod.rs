//! The inference thread: commands in, two lanes out.

mod answer;
mod date;
mod drafts;
#[cfg(test)]
mod drafts_tests;
mod error;
#[cfg(test)]
mod fake;
pub mod gauges;
#[cfg(test)]
mod gemma_tests;
#[cfg(test)]
mod harmony_tests;
mod lanes;
pub mod open;
mod pause;
mod prompt;
pub mod runtime;
pub mod sampling;
#[cfg(test)]
mod scripted_chat;
mod step;
mod tempo;
#[cfg(test)]
mod tempo_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod think_tests;
mod thread;
mod turn;
pub mod warm;

pub use error::EngineError;
pub use pause::Steps;
pub use runtime::Loader;
pub use tempo::{Pace, Tempo};

use crate::events::{Command, Event, Gauges, RequestId, StepRecord, When};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, AtomicUsize, Ordering};
use std::sync::Arc;

/// What the screen holds: a way in, two lanes out. A replay or a fake engine offers the same.
pub struct EngineHandle {
    /// Commands, read between steps.
    pub commands: crossbeam_channel::Sender<Command>,
    /// The text lane. Bounded; the engine waits for room (the lane is tiny).
    pub events: tokio::sync::mpsc::Receiver<Event>,
    /// The telemetry lane. Bounded; when it is full the engine drops the record and counts it.
    pub telemetry: tokio::sync::mpsc::Receiver<StepRecord>,
    /// Slow gauges, latest wins.
    pub gauges: tokio::sync::watch::Receiver<Gauges>,
    /// Act in the middle of a command.
    pub signals: Arc<Signals>,
}

/// Flags that both sides touch without waiting.
#[derive(Default)]
pub struct Signals {
    /// The turn at hand is to end; the engine clears it when a turn begins.
    pub cancel: AtomicBool,
    /// Turns with ids below this are to end, whether they have begun or not.
    pub cancel_below: AtomicU64,
    /// Slots per layer that the person wants; 0 is "no wish". Read at step boundaries.
    pub slots: AtomicUsize,
    /// Whether slots are to differ by layer: 0 no wish, 1 no, 2 yes. Read at step boundaries.
    pub spread: AtomicU8,
    /// Whether likely tokens are to be read along: 0 no wish, then [`When`] by its place. Read at step boundaries.
    pub draft: AtomicU8,
    /// How fast an answer may come.
    pub tempo: Tempo,
    /// Held off while the process is about to be stopped.
    pub steps: Steps,
    /// Telemetry records dropped because the lane was full.
    pub dropped: AtomicU64,
}

impl Signals {
    /// End the turn at hand within one token. A turn that waits to begin is not meant: see [`Signals::cancel_turn`].
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
    /// End the turn `id` and those asked for before it (ids rise), even if the engine has not come to them yet.
    pub fn cancel_turn(&self, id: RequestId) {
        // In this order, and against it in the engine: whichever comes first, one of the two sees the other.
        self.cancel_below.fetch_max(id.saturating_add(1), Ordering::SeqCst);
        self.cancel.store(true, Ordering::SeqCst);
    }
    /// Ask for another slot count; answered by [`Event::Slots`].
    pub fn want_slots(&self, per_layer: usize) {
        self.slots.store(per_layer, Ordering::Relaxed);
    }
    /// Ask for likely tokens to be read along where it pays, always, or never.
    pub fn want_drafts(&self, when: When) {
        self.draft.store(1 + when as u8, Ordering::Relaxed);
    }
    /// Ask for slots that differ by layer, or for equal ones; answered by [`Event::Spread`].
    pub fn want_spread(&self, on: bool) {
        self.spread.store(1 + u8::from(on), Ordering::Relaxed);
    }
}

/// Events that may wait for the listener before the engine does. An answer of a few hundred tokens fits.
const EVENT_ROOM: usize = 256;
/// Records that may wait: about a second of fast decoding. A record of a 48-layer model has some 20 kB.
const TELEMETRY_ROOM: usize = 256;

/// Start the inference thread. It ends by [`Command::Shutdown`] or when the handle's ends are dropped.
#[must_use]
pub fn spawn() -> EngineHandle {
    spawn_with(open::open)
}

/// Start the inference thread with another way to open models (tests; an embedding program's own source).
#[must_use]
pub fn spawn_with(loader: impl Loader + 'static) -> EngineHandle {
    let (commands, inbox) = crossbeam_channel::unbounded();
    let (event_tx, events) = tokio::sync::mpsc::channel(EVENT_ROOM);
    let (record_tx, telemetry) = tokio::sync::mpsc::channel(TELEMETRY_ROOM);
    let (gauge_tx, gauges) = tokio::sync::watch::channel(gauges::process_memory());
    let signals = Arc::new(Signals::default());
    let lanes = lanes::Lanes {
        events: event_tx,
        telemetry: record_tx,
        signals: signals.clone(),
        // A system that refuses a thread still gets a chat; the gauges stay at their first sample.
        gauges: gauges::start(gauge_tx).ok(),
    };
    let worker = thread::Worker { commands: inbox, lanes, loader, session: None };
    let spawned = std::thread::Builder::new().name(THREAD_NAME.into()).spawn(move || worker.run());
    if let Err(e) = spawned {
        // The closed text lane tells the listener; the log tells why.
        tracing::error!(%e, "the inference thread could not be started");
    }
    EngineHandle { commands, events, telemetry, gauges, signals }
}

/// Name of the inference thread.
const THREAD_NAME: &str = "rotary-engine";

/// Whether a panic on the calling thread is caught by the engine and becomes an event, so that a panic hook must
/// neither print it nor give the terminal back. Worker threads that hand their panics to the engine carry names
/// that begin in the same way.
#[must_use]
pub fn catches_panics_here() -> bool {
    std::thread::current().name().is_some_and(|n| n.starts_with("rotary-"))
}
