//! `minimax-m2`: MiniMax-M2, M2.1, M2.5 and M2.7 (MiniMax, 230B-A10B).
//!
//! As [`super::qwen3moe`], but queries and keys are normalised over their whole projected width and half of a head turns, and experts are
//! chosen as in [`super::deepseek2`]: by sigmoids plus a bias that counts for the choice alone. The weights of the chosen are always divided
//! by their sum, as the authors and llama.cpp do.

use super::attention::{Form, QkNorm};
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::qwen3moe::{load_with, Family, QWEN3};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    // Without it scores would be taken for shares of a softmax, and nothing would tell.
    if !config.selection.bias {
        return Err(ModelError::MissingTensor { file: weights.file.clone(), tensor: "blk.0.exp_probs_b.bias".into() });
    }
    let attention = Form { norm: Some(QkNorm::Whole), ..QWEN3.attention };
    load_with(weights, config, settings, &Family { attention, ..QWEN3 })
}
