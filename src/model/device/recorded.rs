//! Launches that are queued as one.

use super::super::ModelError;
use super::Pass;
use crate::gpu::device::{record, Recording};

/// A stretch of a layer's launches, recorded when it is first queued again. Some ten launches of a token become one: queueing them one by one takes a host
/// longer than many of them take the device.
#[derive(Default)]
pub(super) enum Recorded {
    #[default]
    NotYet,
    Ready(Recording),
    /// A driver that can't: launch by launch it works all the same.
    Never,
}

impl Recorded {
    /// Queue `work`, or what it queued when it was recorded. It only launches, so it may be called twice.
    pub(super) fn play(&mut self, pass: &Pass<'_>, mut work: impl FnMut() -> Result<(), ModelError>) -> Result<(), ModelError> {
        if !pass.again {
            return work();
        }
        match self.recording(pass, &mut work) {
            Some(recording) => Ok(pass.device.replay(recording)?),
            None => work(),
        }
    }

    /// What `work` queues, recorded if it has not been; `None` if that can't be done.
    pub(super) fn recording(&mut self, pass: &Pass<'_>, work: &mut dyn FnMut() -> Result<(), ModelError>) -> Option<&Recording> {
        if matches!(self, Self::NotYet) {
            *self = match record(pass.device, work) {
                Ok(recording) => Self::Ready(recording),
                Err(e) => {
                    tracing::info!("launches are not recorded: {e}");
                    Self::Never
                }
            };
        }
        match self {
            Self::Ready(recording) => Some(recording),
            _ => None,
        }
    }
}
