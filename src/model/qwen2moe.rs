//! `qwen2moe`: Qwen1.5-MoE-A2.7B and Qwen2-57B-A14B (Qwen2 Technical Report, arXiv 2407.10671).
//!
//! As [`super::qwen3moe`], but queries, keys and values have biases and no norms, the weights of the chosen experts are left as softmax
//! gave them, and every token also uses one wider expert, weighed by a sigmoid of its own.

use super::attention::Form;
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::qwen3moe::{load_with, Family, QWEN3};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    let attention = Form { norm: None, ..QWEN3.attention };
    let renormalise = config.renormalise.unwrap_or(false);
    load_with(weights, config, settings, &Family { attention, renormalise, ..QWEN3 })
}
