//! `olmoe`: OLMoE-1B-7B (Muennighoff et al., arXiv 2409.02060).
//!
//! As [`super::qwen3moe`], but queries and keys are normalised over their whole projected width, and the weights of the
//! chosen experts are left as softmax gave them.

use super::attention::{Form, QkNorm};
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::qwen3moe::{load_with, Family, QWEN3};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    let attention = Form { norm: Some(QkNorm::Whole), ..QWEN3.attention };
    let renormalise = config.renormalise.unwrap_or(false);
    load_with(weights, config, settings, &Family { attention, renormalise, ..QWEN3 })
}
