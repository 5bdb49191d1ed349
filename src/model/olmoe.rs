//! `olmoe`: OLMoE-1B-7B (Muennighoff et al., arXiv 2409.02060).
//!
//! As [`super::qwen3moe`], but queries and keys are normalised over their whole projected width, and the weights of the
//! chosen experts are left as softmax gave them.

use super::attention::QkNorm;
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::qwen3moe::load_with;
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    load_with(weights, config, settings, QkNorm::Whole, config.renormalise.unwrap_or(false))
}
