//! What comes on the engine's lanes: waited for one at a time, taken in batches.

use super::App;
use crate::events::{Event, StepRecord};
use crate::ui::message::Message;
use std::future::pending;
use std::time::Instant;
use tokio::sync::mpsc::{error::TryRecvError, Receiver};
use tokio::sync::watch;

/// Most lane entries that are taken between two looks at the keyboard.
const BATCH: usize = 256;

impl App {
    pub(super) fn take_event(&mut self, event: Option<Event>) {
        let mut next = event;
        for _ in 0..BATCH {
            let Some(event) = next else {
                self.engine = None;
                self.send(Message::EngineGone);
                break;
            };
            if let Some(recorder) = &mut self.recorder {
                recorder.event(&event);
            }
            // What belongs to the old model must be folded before the new one takes over.
            if matches!(event, Event::Ready { .. }) {
                self.send(Message::Fold);
            }
            self.send(Message::Engine(event));
            next = match self.engine.as_mut().map(|e| e.events.try_recv()) {
                Some(Ok(event)) => Some(event),
                Some(Err(TryRecvError::Disconnected)) => None,
                Some(Err(TryRecvError::Empty)) | None => break,
            };
        }
        self.pacer.soon(Instant::now());
    }

    pub(super) fn take_step(&mut self, step: Option<StepRecord>) {
        let mut next = step;
        for _ in 0..BATCH {
            let Some(step) = next else {
                self.telemetry_open = false;
                break;
            };
            if let Some(recorder) = &mut self.recorder {
                recorder.step(&step);
            }
            self.send(Message::Step(Box::new(step)));
            next = match self.engine.as_mut().map(|e| e.telemetry.try_recv()) {
                Some(Ok(step)) => Some(step),
                Some(Err(TryRecvError::Disconnected)) => None,
                Some(Err(TryRecvError::Empty)) | None => break,
            };
        }
        self.pacer.telemetry(Instant::now());
    }

    /// Empties the telemetry lane whatever the loop woke up for, so that keys and frames cost no records.
    pub(super) fn take_waiting_steps(&mut self) {
        let first = self.engine.as_mut().filter(|_| self.telemetry_open).and_then(|e| e.telemetry.try_recv().ok());
        if first.is_some() {
            self.take_step(first);
        }
    }

    pub(super) fn take_gauges(&mut self, open: bool) {
        self.gauges_open = open;
        let gauges = self.engine.as_mut().map(|e| e.gauges.borrow_and_update().clone());
        if let Some(gauges) = gauges {
            self.send(Message::Gauges(gauges));
            self.pacer.telemetry(Instant::now());
        }
    }
}

pub(super) async fn receive<T>(lane: Option<&mut Receiver<T>>) -> Option<T> {
    match lane {
        Some(lane) => lane.recv().await,
        None => pending().await,
    }
}

/// False when no more gauges will come.
pub(super) async fn changed<T>(gauges: Option<&mut watch::Receiver<T>>) -> bool {
    match gauges {
        Some(gauges) => gauges.changed().await.is_ok(),
        None => pending().await,
    }
}
