//! Why the engine could not do what it was asked.

use super::sampling::{SamplingError, SettingError};
use crate::events::FailureKind;
use crate::experts::{BudgetError, ExpertError};
use crate::gguf::GgufError;
use crate::gpu::GpuError;
use crate::model::ModelError;
use crate::text::TextError;

/// Why the engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file is no usable GGUF.
    #[error(transparent)]
    File(#[from] GgufError),
    /// Tokenizer or chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Experts could not be set up or run.
    #[error(transparent)]
    Experts(#[from] ExpertError),
    /// No token could be drawn.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A sampling setting out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A prompt that does not fit, refused before any work.
    #[error(
        "the prompt has {prompt} tokens, which a context of {context} can't hold beside an answer: shorten the message, begin another chat, or \
         open the model with a larger --ctx if it was made for one"
    )]
    ContextOverflow {
        /// Tokens of the rendered prompt.
        prompt: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// Nothing to read.
    #[error("the prompt is empty: there is nothing for the model to continue")]
    EmptyPrompt,
    /// A command that needs a model came while none is open.
    #[error("no model is open: open one first")]
    NoModel,
    /// The load was given up on request.
    #[error("loading was cancelled")]
    Cancelled,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl EngineError {
    /// The device has given a token up, since this program stood still. Nothing is wrong with either, and the step may be made again.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        matches!(
            self,
            Self::Model(ModelError::Gpu(GpuError::GaveUp) | ModelError::Experts(ExpertError::Gpu(GpuError::GaveUp)))
                | Self::Experts(ExpertError::Gpu(GpuError::GaveUp))
        )
    }

    /// The kind of failure, as scripts and the screen tell them apart.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Model(e) => model_kind(e),
            Self::Experts(e) => expert_kind(e),
            Self::File(_) | Self::Text(_) => FailureKind::File,
            Self::Setting(_) => FailureKind::Options,
            Self::Cancelled => FailureKind::Cancelled,
            Self::ContextOverflow { .. } => FailureKind::Context,
            _ => FailureKind::Other,
        }
    }
}

fn model_kind(e: &ModelError) -> FailureKind {
    match e {
        ModelError::Budget(BudgetError::TooSmall { .. } | BudgetError::Vram { .. }) | ModelError::Memory { .. } => FailureKind::Memory,
        ModelError::Gpu(e) => gpu_kind(e),
        ModelError::GivenUp => FailureKind::Cancelled,
        ModelError::Budget(_) => FailureKind::Options,
        ModelError::Experts(e) => expert_kind(e),
        ModelError::Guessing(e) => model_kind(e),
        _ => FailureKind::File,
    }
}

fn expert_kind(e: &ExpertError) -> FailureKind {
    match e {
        ExpertError::Reserve { .. } => FailureKind::Memory,
        ExpertError::Policy(_) => FailureKind::Options,
        ExpertError::Gpu(e) => gpu_kind(e),
        _ => FailureKind::File,
    }
}

fn gpu_kind(e: &GpuError) -> FailureKind {
    match e {
        GpuError::OutOfMemory { .. } | GpuError::Pinned { .. } => FailureKind::Memory,
        _ => FailureKind::Other,
    }
}
