//! From the stream to logits.

use super::super::head::Head;
use super::super::ModelError;
use super::map::{apply, Map, Norm, Rows, Target};
use super::workspace::Workspace;
use crate::gpu::params::{launch, SoftCap};
use crate::gpu::Device;

/// What makes logits of the stream.
pub(super) struct DeviceHead {
    norm: Norm,
    output: Map,
    /// See [`super::super::head::Head::capped`].
    cap: Option<f32>,
}

impl DeviceHead {
    pub(super) fn new(device: &dyn Device, head: &Head) -> Result<Self, ModelError> {
        let (norm, output) = head.parts();
        Ok(Self { norm: Norm::new(device, norm)?, output: Map::new(device, output)?, cap: head.cap() })
    }

    /// Logits of `rows` rows of `x`, in the workspace.
    pub(super) fn project(&self, device: &dyn Device, work: &Workspace, x: Rows, rows: usize) -> Result<(), ModelError> {
        let h = work.h(rows);
        self.normed(device, x, h, rows)?;
        self.logits(device, work, None, h, rows)
    }

    /// `rows` rows of `x` as the last norm leaves them, to `y`.
    pub(super) fn normed(&self, device: &dyn Device, x: Rows, y: Rows, rows: usize) -> Result<(), ModelError> {
        self.norm.apply(device, x, y, rows, None)
    }

    /// Logits of rows that are normalised, by another map than the head's if there is one.
    pub(super) fn logits(
        &self,
        device: &dyn Device,
        work: &Workspace,
        other: Option<&Map>,
        h: Rows,
        rows: usize,
    ) -> Result<(), ModelError> {
        let logits = work.logits();
        apply(device, h, rows, &[(other.unwrap_or(&self.output), Target::set(logits))])?;
        match self.cap {
            Some(cap) => Ok(launch(device, &SoftCap { x: logits.at, len: (rows * logits.stride) as u32, cap }, &[])?),
            None => Ok(()),
        }
    }
}
