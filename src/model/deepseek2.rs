//! `deepseek2`: GLM-4.7-Flash (Z.ai), DeepSeek-V2-Lite, V2 and V3 (DeepSeek-AI, arXiv 2405.04434 and 2412.19437), and what is shaped like them.
//!
//! Latent attention in all layers, with a rotation in neighbouring pairs. The first layers have a dense feed-forward, the others routed experts and one that every
//! token uses, without a weight of its own. Scores of experts are sigmoids (V2: a softmax); the choice is by scores plus a bias per expert, and where experts form groups, among the best groups;
//! what a chosen expert counts is its score without the bias. The norms inside of attention have the epsilon of the file, as in llama.cpp and vLLM.
//! Blocks that predict further tokens are left out.

use super::config::ModelConfig;
use super::decoder::{After, Decoder, Layer, Mixer, Parts};
use super::expert_weights::{self, Sizes};
use super::feed_forward::{Dense, FeedForward, SharedExpert};
use super::latent_attention::LatentAttention;
use super::router::{Choice, Gating, Router};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::{ExpertStore, LayerExperts};
use crate::kernels::rows::Activation;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    let Some(latent) = config.latent else {
        return Err(ModelError::MissingKey { file: weights.file.clone(), key: format!("{}.attention.kv_lora_rank", config.arch) });
    };
    let mut layers = Vec::new();
    let mut experts = Vec::new();
    for block in 0..config.blocks {
        let norm = |part: &str| weights.norm(&format!("blk.{block}.{part}"), config);
        layers.push(Layer {
            mixer_norm: norm("attn_norm")?,
            mixer: Mixer::Latent(Box::new(LatentAttention::load(weights, config, latent, settings, block)?)),
            ff_norm: norm("ffn_norm")?,
            feed_forward: feed_forward(weights, config, block, &mut experts)?,
            after: After::default(),
        });
    }
    let store = ExpertStore { layers: experts, experts: config.experts, top_k: config.top_k, hidden: config.hidden };
    Ok((Decoder::new(Parts::load(weights, config)?, layers, config, settings), store))
}

/// The dense feed-forward of one of the first layers, or experts that are chosen as the module says.
pub(super) fn feed_forward(
    weights: &Weights<'_>,
    config: &ModelConfig,
    block: usize,
    experts: &mut Vec<LayerExperts>,
) -> Result<FeedForward, ModelError> {
    let name = |part: &str| format!("blk.{block}.{part}");
    if block < config.leading_dense {
        return Ok(FeedForward::Dense(Dense::load(weights, block, config.hidden, config.dense_ff, Activation::SwiGlu)?));
    }
    let sizes = Sizes { hidden: config.hidden, ff: config.expert_ff, experts: config.experts };
    let gating = Gating { top_k: config.top_k, renormalise: config.renormalise.unwrap_or(false), scale: config.expert_scale };
    let router = Router::new(weights.linear(&name("ffn_gate_inp"), config.hidden, config.experts)?, gating);
    let router = router.choosing(Choice::load(weights, config, block)?);
    let shared = match config.shared_ff {
        0 => None,
        ff => Some(Box::new(SharedExpert::unweighed(weights, block, config.hidden, ff)?)),
    };
    let (of_layer, bias) = expert_weights::load(weights, block, sizes, Activation::SwiGlu)?;
    experts.push(of_layer);
    Ok(FeedForward::Moe { router, index: experts.len() - 1, bias, shared, early: None })
}

#[cfg(test)]
mod tests;
