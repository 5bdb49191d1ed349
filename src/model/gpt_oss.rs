//! `gpt-oss`: gpt-oss-20b and gpt-oss-120b (OpenAI, arXiv 2508.10925).
//!
//! Maps with biases everywhere, experts included; a learned sink per head takes part in the softmax of attention; every second layer sees a window
//! of 128 positions; experts clamp what goes into their activation. The router's softmax runs over the chosen scores: that is
//! the softmax over all of them with the chosen weights divided by their sum.

use super::attention::Form;
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::qwen3moe::{load_with, Family};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;
use crate::kernels::rows::Activation;

const GPT_OSS: Family = Family {
    attention: Form { norm: None, gated: false, sinks: true, unscaled: false },
    renormalise: true,
    ff_norm: "post_attention_norm",
    activation: Activation::Clamped,
};

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    load_with(weights, config, settings, &GPT_OSS)
}
