//! `qwen35moe`: Qwen3.5 and Qwen3.6 with experts (35B-A3B, 122B-A10B, 397B-A17B).
//!
//! Three of four layers are gated delta nets, the others attention with an output gate, per-head norms and rotation of
//! the first dimensions of a head only. (The rotation's sections for pictures and video collapse to plain NEOX for
//! text.) Every layer has routed experts and one shared expert with a gate. Norm weights in the file already have the 1
//! added, but for `ssm_norm`, which has none to add. Blocks that predict further tokens are left out.

use super::attention::{QkNorm, SelfAttention};
use super::config::{Hybrid, ModelConfig};
use super::decoder::{Decoder, Layer, Mixer, Parts};
use super::delta_net::{DeltaNet, DeltaWeights};
use super::expert_weights::{self, Sizes};
use super::feed_forward::{FeedForward, SharedExpert};
use super::router::{Gating, Router};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    let Some(hybrid) = &config.hybrid else {
        return Err(ModelError::MissingKey { file: weights.file.clone(), key: format!("{}.ssm.state_size", config.arch) });
    };
    let sizes = Sizes { hidden: config.hidden, ff: config.expert_ff, experts: config.experts };
    let gating = Gating { top_k: config.top_k, renormalise: true, scale: config.expert_scale };
    let shared_ff = if hybrid.shared_ff > 0 { hybrid.shared_ff } else { config.dense_ff };
    let mut layers = Vec::with_capacity(config.blocks);
    let mut experts = Vec::with_capacity(config.blocks);
    for (block, recurrent) in hybrid.recurrent.iter().enumerate() {
        let name = |part: &str| format!("blk.{block}.{part}");
        let mixer_norm = weights.norm(&name("attn_norm"), config)?;
        let mixer = if *recurrent {
            Mixer::DeltaNet(Box::new(delta_net(weights, config, hybrid, block)?))
        } else {
            Mixer::Attention(Box::new(SelfAttention::load(weights, config, settings, block, QkNorm::PerHead, true)?))
        };
        let ff_norm = weights.norm(&name("post_attention_norm"), config)?;
        let router = Router::new(weights.linear(&name("ffn_gate_inp"), config.hidden, config.experts)?, gating);
        let shared = match weights.has(&name("ffn_up_shexp.weight")) {
            true => Some(Box::new(SharedExpert::load(weights, block, config.hidden, shared_ff)?)),
            false => None,
        };
        experts.push(expert_weights::load(weights, block, sizes)?);
        layers.push(Layer { mixer_norm, mixer, ff_norm, feed_forward: FeedForward::Moe { router, index: block, shared } });
    }
    let store = ExpertStore { layers: experts, experts: config.experts, top_k: config.top_k, hidden: config.hidden };
    Ok((Decoder::new(Parts::load(weights, config)?, layers, config, settings), store))
}

fn delta_net(weights: &Weights<'_>, config: &ModelConfig, hybrid: &Hybrid, block: usize) -> Result<DeltaNet, ModelError> {
    let heads = hybrid.delta;
    let name = |part: &str| format!("blk.{block}.{part}");
    let inner = heads.values * heads.value_dim;
    let taps = weights.matrix(&name("ssm_conv1d.weight"), hybrid.width, heads.channels())?;
    let mut by_channel = vec![0.0; hybrid.width * heads.channels()];
    crate::kernels::dequantize(taps.ty, &taps.bytes, &mut by_channel)?;
    let taps = (0..by_channel.len()).map(|i| by_channel[(i % heads.channels()) * hybrid.width + i / heads.channels()]).collect();
    let parts = DeltaWeights {
        mixed: weights.linear(&name("attn_qkv"), config.hidden, heads.channels())?,
        gate: weights.linear(&name("attn_gate"), config.hidden, inner)?,
        beta: weights.linear(&name("ssm_beta"), config.hidden, heads.values)?,
        alpha: weights.linear(&name("ssm_alpha"), config.hidden, heads.values)?,
        decay_bias: weights.vector(&name("ssm_dt.bias"), heads.values)?,
        rate: weights.vector(&name("ssm_a"), heads.values)?,
        taps,
        norm: weights.vector(&name("ssm_norm.weight"), heads.value_dim)?,
        output: weights.linear(&name("ssm_out"), inner, config.hidden)?,
    };
    Ok(DeltaNet::new(parts, heads, config.eps, hybrid.snapshots()))
}
