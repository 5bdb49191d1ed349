//! The heart: routed experts in a host store, some of them in slots, and the schedule that decides which.

pub mod curve;
pub mod policy;
pub mod schedule;

use crate::events::StepRecord;
use candle_core::Tensor;

/// Why experts could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub enum ExpertError {
    /// To be replaced by precise variants.
    #[error("{0}")]
    Other(String),
}

/// What the router of one layer decided for the tokens of this step.
pub struct Routing {
    /// Experts per token.
    pub top_k: usize,
    /// `[tokens * top_k]` expert ids, best first per token.
    pub ids: Vec<u32>,
    /// `[tokens * top_k]` gate weights, as they multiply the expert's output.
    pub weights: Vec<f32>,
}

/// All routed experts of a model behind one call; models see nothing else of tiers and slots.
pub struct Experts {}

impl Experts {
    /// The weighted sum of the routed experts of `layer` (index among MoE layers): `[tokens, hidden]` in, the same out.
    pub fn forward(&mut self, _layer: usize, _x: &Tensor, _routing: &Routing) -> candle_core::Result<Tensor> {
        unimplemented!()
    }
    /// Begin a step; what happens until [`Experts::end_step`] goes into one record.
    pub fn begin_step(&mut self, _phase: crate::events::Phase, _tokens: usize) {
        unimplemented!()
    }
    /// Fill the expert part of the step's record (routing, occupancy, bytes, expert times).
    pub fn end_step(&mut self, _record: &mut StepRecord) {
        unimplemented!()
    }
    /// Change the slots per layer at a step boundary. Returns what was granted.
    pub fn resize(&mut self, _slots: usize) -> Result<usize, ExpertError> {
        unimplemented!()
    }
    /// Slots per layer now.
    #[must_use]
    pub fn slots(&self) -> usize {
        unimplemented!()
    }
}
