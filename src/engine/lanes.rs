//! The engine's side of the lanes: text that is never lost, telemetry that may be, signals and gauges.

use super::{gauges, Signals};
use crate::events::{Event, StepRecord, When};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Nobody holds the other end any more; the thread is to end.
#[derive(Debug)]
pub(super) struct Gone;

pub(super) struct Lanes {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) telemetry: mpsc::Sender<StepRecord>,
    pub(super) signals: Arc<Signals>,
    pub(super) gauges: Option<gauges::Sampling>,
}

impl Lanes {
    /// Put an event on the text lane, waiting for room.
    pub(super) fn event(&self, event: Event) -> Result<(), Gone> {
        self.events.blocking_send(event).map_err(|_| Gone)
    }

    /// Put a record on the telemetry lane, or count it as dropped and give it back, its buffers to be used again.
    pub(super) fn record(&self, record: StepRecord) -> Option<StepRecord> {
        match self.telemetry.try_send(record) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(back)) => {
                self.signals.dropped.fetch_add(1, Ordering::Relaxed);
                Some(back)
            }
            // A listener without interest in telemetry drops the receiver: nothing is lost to it.
            Err(mpsc::error::TrySendError::Closed(back)) => Some(back),
        }
    }

    pub(super) fn gone(&self) -> bool {
        self.events.is_closed()
    }

    pub(super) fn cancelled(&self) -> bool {
        self.signals.cancel.load(Ordering::Relaxed) || self.gone()
    }

    /// For the model to ask between layers.
    pub(super) fn stop(&self) -> impl Fn() -> bool {
        let (signals, events) = (self.signals.clone(), self.events.clone());
        move || signals.cancel.load(Ordering::Relaxed) || events.is_closed()
    }

    /// Take the wish for another slot count, if there is one.
    pub(super) fn slot_wish(&self) -> Option<usize> {
        match self.signals.slots.swap(0, Ordering::Relaxed) {
            0 => None,
            n => Some(n),
        }
    }

    /// Take the wish for slots by layer, or for equal ones, if there is one.
    pub(super) fn spread_wish(&self) -> Option<bool> {
        match self.signals.spread.swap(0, Ordering::Relaxed) {
            0 => None,
            n => Some(n > 1),
        }
    }

    /// Take the wish for likely tokens to be read along, or not, if there is one.
    pub(super) fn draft_wish(&self) -> Option<When> {
        match self.signals.draft.swap(0, Ordering::Relaxed) {
            0 => None,
            n => [When::Auto, When::Always, When::Never].into_iter().find(|w| *w as u8 + 1 == n),
        }
    }

    /// Tell the gauges how full slots and context are, in bytes.
    pub(super) fn level(&self, slots: u64, cache: u64) {
        if let Some(g) = &self.gauges {
            g.shared.slots_used.store(slots, Ordering::Relaxed);
            g.shared.cache_used.store(cache, Ordering::Relaxed);
        }
    }

    /// Tell the gauges which file is open, and on which device.
    pub(super) fn watch(&self, file: Option<gauges::MappedFile>, device: Option<gauges::WatchedDevice>) {
        if let Some(g) = &self.gauges {
            g.shared.watch(file, device);
        }
    }

    pub(super) fn sample_now(&self) {
        if let Some(g) = &self.gauges {
            g.now();
        }
    }
}
