//! The inference thread: commands in, two lanes out.

use crate::events::{Command, Event, Gauges, StepRecord};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    /// Slots per layer that the person wants; 0 is "no wish". Read at step boundaries.
    pub slots: AtomicUsize,
    /// Telemetry records dropped because the lane was full.
    pub dropped: AtomicU64,
}

impl Signals {
    /// End the turn at hand within one token.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
    /// Ask for another slot count; answered by [`Event::Slots`].
    pub fn want_slots(&self, per_layer: usize) {
        self.slots.store(per_layer, Ordering::Relaxed);
    }
}

/// Start the inference thread.
#[must_use]
pub fn spawn() -> EngineHandle {
    unimplemented!()
}
