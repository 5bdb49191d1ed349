//! `qwen3moe`: Qwen3-30B-A3B, Qwen3-Coder-30B-A3B, Qwen3-235B-A22B (Qwen3 Technical Report, arXiv 2505.09388); `qwen3vlmoe`, the
//! part of Qwen3-VL-30B-A3B and 235B-A22B that reads and writes text.
//!
//! Grouped-query attention with per-head norms of queries and keys and NEOX rotation of the first dimensions; routed
//! SwiGLU experts with softmax over all of them. The chosen weights are always divided by their sum, as llama.cpp does
//! whatever the original configuration said. Layers without a router have a dense feed-forward.
//!
//! Pictures are not read, so what a file says of them stays unread: in text the sections of the rotation all have one position, and the
//! layers that pictures are added to (`n_deepstack_layers`) get nothing added.

use super::attention::{Form, QkNorm, SelfAttention};
use super::config::ModelConfig;
use super::decoder::{After, Decoder, Layer, Mixer, Parts};
use super::expert_weights::{self, Sizes};
use super::feed_forward::{Dense, FeedForward, SharedExpert};
use super::router::{Choice, Gating, Router};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::{ExpertStore, LayerExperts};
use crate::kernels::rows::Activation;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    load_with(weights, config, settings, &QWEN3)
}

/// What tells a family of decoders with attention in all layers from its relatives.
pub(super) struct Family {
    pub(super) attention: Form,
    /// The weights of the chosen experts are divided by their sum.
    pub(super) renormalise: bool,
    /// The norm before the feed-forward, as files call it.
    pub(super) ff_norm: &'static str,
    pub(super) activation: Activation,
}

/// This one.
pub(super) const QWEN3: Family = Family {
    attention: Form { norm: Some(QkNorm::PerHead), gated: false, sinks: false, unscaled: false },
    renormalise: true,
    ff_norm: "ffn_norm",
    activation: Activation::SwiGlu,
};

/// What `qwen3moe`, `qwen2moe`, `olmoe`, `gpt-oss` and `minimax-m2` share.
pub(super) fn load_with(
    weights: &Weights<'_>,
    config: &ModelConfig,
    settings: &LoadSettings,
    family: &Family,
) -> Result<(Decoder, ExpertStore), ModelError> {
    let sizes = Sizes { hidden: config.hidden, ff: config.expert_ff, experts: config.experts };
    let gating = Gating { top_k: config.top_k, renormalise: family.renormalise, scale: config.expert_scale };
    let mut layers = Vec::new();
    let mut experts: Vec<LayerExperts> = Vec::new();
    for block in 0..config.blocks {
        let name = |part: &str| format!("blk.{block}.{part}");
        let dense = block < config.leading_dense || (!weights.has(&name("ffn_gate_inp.weight")) && weights.has(&name("ffn_gate.weight")));
        let mixer_norm = weights.norm(&name("attn_norm"), config)?;
        let attention = SelfAttention::load(weights, config, settings, block, family.attention)?;
        let ff_norm = weights.norm(&name(family.ff_norm), config)?;
        let feed_forward = if dense {
            FeedForward::Dense(Dense::load(weights, block, config.hidden, config.dense_ff, Activation::SwiGlu)?)
        } else {
            let router = Router::new(weights.linear(&name("ffn_gate_inp"), config.hidden, config.experts)?, gating);
            let router = router.choosing(Choice::load(weights, config, block)?);
            let shared = match config.shared_ff {
                0 => None,
                ff => Some(Box::new(SharedExpert::load(weights, block, config.hidden, ff)?)),
            };
            let (of_layer, bias) = expert_weights::load(weights, block, sizes, family.activation)?;
            experts.push(of_layer);
            FeedForward::Moe { router, index: experts.len() - 1, bias, shared, early: None }
        };
        layers.push(Layer { mixer_norm, mixer: Mixer::Attention(Box::new(attention)), ff_norm, feed_forward, after: After::default() });
    }
    let store = ExpertStore { layers: experts, experts: config.experts, top_k: config.top_k, hidden: config.hidden };
    let model = Decoder::new(Parts::load(weights, config)?, layers, config, settings);
    Ok((model, store))
}
