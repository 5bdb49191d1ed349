//! `glm4moe`: GLM-4.5, 4.5-Air, 4.6 and 4.7 (Z.ai, arXiv 2508.06471).
//!
//! Grouped-query attention, with biases and norms of queries and keys where the file has them; half of a head turns. Layers and routers are those of [`super::deepseek2`]
//! otherwise. The norm before the feed-forward is called `post_attention_norm`.

use super::attention::{Form, QkNorm, SelfAttention};
use super::config::ModelConfig;
use super::decoder::{After, Decoder, Layer, Mixer, Parts};
use super::deepseek2::feed_forward;
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    let mut layers = Vec::new();
    let mut experts = Vec::new();
    for block in 0..config.blocks {
        let name = |part: &str| format!("blk.{block}.{part}");
        let normed = ["attn_q_norm.weight", "attn_k_norm.weight"].iter().any(|n| weights.has(&name(n)));
        let form = Form { norm: normed.then_some(QkNorm::PerHead), ..Form::default() };
        layers.push(Layer {
            mixer_norm: weights.norm(&name("attn_norm"), config)?,
            mixer: Mixer::Attention(Box::new(SelfAttention::load(weights, config, settings, block, form)?)),
            ff_norm: weights.norm(&name("post_attention_norm"), config)?,
            feed_forward: feed_forward(weights, config, block, &mut experts)?,
            after: After::default(),
        });
    }
    let store = ExpertStore { layers: experts, experts: config.experts, top_k: config.top_k, hidden: config.hidden };
    Ok((Decoder::new(Parts::load(weights, config)?, layers, config, settings), store))
}
