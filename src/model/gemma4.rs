//! `gemma4`: Gemma 4 26B-A4B, and the dense 12B and 31B (Google).
//!
//! Five of six layers see a window of 1024 positions, with heads, key heads and a rotation of their own; the others see everything, turn only the first
//! pairs of a head (`rope_freqs` stops the rest), and take the raw keys for values where the file has no map to them. Queries and keys are normalised per head with
//! weights, values without; their products are not divided. What attention and feed-forward give is normalised before it is added, and a factor per layer multiplies
//! the sum. With experts, every layer has a dense feed-forward and routed experts side by side. Norm weights in the file are used as they are.
//!
//! Not the E2B and E4B, whose layers share keys and values and have embeddings of their own.

use super::attention::{Form, QkNorm, SelfAttention};
use super::config::ModelConfig;
use super::decoder::{After, Decoder, Layer, Mixer, Parts};
use super::dense_and_routed::DenseAndRouted;
use super::expert_weights::{self, Sizes};
use super::feed_forward::{Dense, FeedForward};
use super::norm::RmsNorm;
use super::router::{Gating, Router};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::{ExpertStore, LayerExperts};
use crate::kernels::rows::Activation;

const FORM: Form = Form { norm: Some(QkNorm::PerHead), gated: false, sinks: false, unscaled: true };

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    const FREQUENCIES: &str = "rope_freqs.weight";
    let sees_all = config.sliding.as_ref().is_none_or(|s| s.layers.contains(&false));
    if sees_all && !weights.has(FREQUENCIES) {
        // Without it such layers would turn all of a head.
        return Err(ModelError::MissingTensor { file: weights.file.clone(), tensor: FREQUENCIES.to_owned() });
    }
    let mut layers = Vec::with_capacity(config.blocks);
    let mut experts = Vec::new();
    for block in 0..config.blocks {
        let norm = |part: &str| weights.norm(&format!("blk.{block}.{part}"), config);
        let attention = SelfAttention::load(weights, config, settings, block, FORM)?;
        let dense = Dense::load(weights, block, config.hidden, config.dense_ff, Activation::GeGlu)?;
        let feed_forward = match config.experts {
            0 => FeedForward::Dense(dense),
            _ => FeedForward::DenseAndRouted(Box::new(beside(weights, config, block, dense, &mut experts)?)),
        };
        let scale = weights.optional_vector(&format!("blk.{block}.layer_output_scale.weight"), 1)?.map(|s| s[0]);
        layers.push(Layer {
            mixer_norm: norm("attn_norm")?,
            mixer: Mixer::Attention(Box::new(attention)),
            ff_norm: norm("ffn_norm")?,
            feed_forward,
            after: After { mixer_norm: Some(norm("post_attention_norm")?), ff_norm: Some(norm("post_ffw_norm")?), scale },
        });
    }
    let store = ExpertStore { layers: experts, experts: config.experts, top_k: config.top_k, hidden: config.hidden };
    let mut parts = Parts::load(weights, config)?;
    parts.embedding = parts.embedding.scaled((config.hidden as f32).sqrt());
    Ok((Decoder::new(parts, layers, config, settings), store))
}

/// The experts of a block, beside its dense feed-forward.
fn beside(
    weights: &Weights<'_>,
    config: &ModelConfig,
    block: usize,
    dense: Dense,
    experts: &mut Vec<LayerExperts>,
) -> Result<DenseAndRouted, ModelError> {
    let name = |part: &str| format!("blk.{block}.{part}");
    let norm = |part: &str| weights.norm(&name(part), config);
    let sizes = Sizes { hidden: config.hidden, ff: config.expert_ff, experts: config.experts };
    let gating = Gating { top_k: config.top_k, renormalise: true, scale: config.expert_scale };
    let factors = weights.optional_vector(&name("ffn_down_exps.scale"), config.experts)?;
    // The router's weights of its inputs and its 1 / sqrt(hidden) are one vector.
    let root = (config.hidden as f32).sqrt();
    let read = weights.vector(&name("ffn_gate_inp.scale"), config.hidden)?.into_iter().map(|w| w / root).collect();
    let (of_layer, bias) = expert_weights::load(weights, block, sizes, Activation::GeGlu)?;
    experts.push(of_layer);
    Ok(DenseAndRouted {
        dense,
        dense_norm: norm("post_ffw_norm_1")?,
        router_norm: RmsNorm::new(read, config.eps),
        router: Router::new(weights.linear(&name("ffn_gate_inp"), config.hidden, config.experts)?, gating).with_factors(factors),
        index: block,
        bias,
        experts_norm: norm("pre_ffw_norm_2")?,
        routed_norm: norm("post_ffw_norm_2")?,
        early: None,
    })
}

#[cfg(test)]
mod tests;
