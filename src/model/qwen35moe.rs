//! `qwen35moe`: Qwen3.5 and Qwen3.6 with experts (35B-A3B, 122B-A10B, 397B-A17B); `qwen35`, the same without experts; and
//! `qwen3next`, their elder.
//!
//! Three of four layers are gated delta nets, the others attention with an output gate, per-head norms and rotation of
//! the first dimensions of a head only. (The rotation's sections for pictures and video collapse to plain NEOX for
//! text.) With experts, every layer has routed ones and one shared expert with a gate. Norm weights in the file already
//! have the 1 added, but for `ssm_norm`, which has none to add. A block behind the layers, which predicts further
//! tokens, is an attending layer of this kind with more around it (`predictor.rs`).
//!
//! What `qwen3next` stores otherwise: value heads grouped by their key head, strengths and decays in one map per key head
//! (`ssm_ba`), and in its first files queries, keys, values and gates in one (`ssm_in`).

use super::attention::{Form, QkNorm, SelfAttention};
use super::config::{Hybrid, ModelConfig, Recurrence};
use super::decoder::{After, Decoder, Layer, Mixer, Parts};
use super::delta_net::{reorder, tile_to_group, DeltaNet, DeltaWeights, HeadOrder, Projection, Rates};
use super::expert_weights::{self, Sizes};
use super::feed_forward::{Dense, FeedForward, SharedExpert};
use super::predictor::Predictor;
use super::router::{Gating, Router};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::{ExpertStore, LayerExperts};
use crate::kernels::convolution::by_tap;
use crate::kernels::rows::Activation;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    let Some(hybrid) = &config.hybrid else {
        return Err(ModelError::MissingKey { file: weights.file.clone(), key: format!("{}.ssm.state_size", config.arch) });
    };
    let mut layers = Vec::with_capacity(config.blocks);
    let mut experts = Vec::new();
    for (block, recurrent) in hybrid.recurrent.iter().enumerate() {
        kind_agrees(weights, config, block, *recurrent)?;
        layers.push(layer(weights, config, hybrid, settings, block, &mut experts)?);
    }
    let predictor = match config.guesses {
        true => {
            let own = layer(weights, config, hybrid, settings, config.blocks, &mut experts);
            let block = own.and_then(|layer| Predictor::load(weights, config, layer));
            Some(block.map_err(|e| ModelError::Guessing(Box::new(e)))?)
        }
        false => None,
    };
    let store = ExpertStore { layers: experts, experts: config.experts, top_k: config.top_k, hidden: config.hidden };
    let model = Decoder::new(Parts::load(weights, config)?, layers, config, settings);
    Ok((
        match predictor {
            Some(predictor) => model.guessing(predictor),
            None => model,
        },
        store,
    ))
}

/// The layer of block `block`; that of the block behind the layers, which guesses further tokens, attends.
fn layer(
    weights: &Weights<'_>,
    config: &ModelConfig,
    hybrid: &Hybrid,
    settings: &LoadSettings,
    block: usize,
    experts: &mut Vec<LayerExperts>,
) -> Result<Layer, ModelError> {
    let name = |part: &str| format!("blk.{block}.{part}");
    let mixer_norm = weights.norm(&name("attn_norm"), config)?;
    let mixer = if hybrid.recurrent.get(block) == Some(&true) {
        Mixer::DeltaNet(Box::new(delta_net(weights, config, hybrid, block)?))
    } else {
        let form = Form { norm: Some(QkNorm::PerHead), gated: true, ..Form::default() };
        Mixer::Attention(Box::new(SelfAttention::load(weights, config, settings, block, form)?))
    };
    let ff_norm = weights.norm(&name("post_attention_norm"), config)?;
    let feed_forward = if config.experts > 0 {
        moe(weights, config, hybrid, block, experts)?
    } else {
        FeedForward::Dense(Dense::load(weights, block, config.hidden, config.dense_ff, Activation::SwiGlu)?)
    };
    Ok(Layer { mixer_norm, mixer, ff_norm, feed_forward, after: After::default() })
}

/// The metadata and the tensors of a block must say the same of its kind.
fn kind_agrees(weights: &Weights<'_>, config: &ModelConfig, block: usize, recurrent: bool) -> Result<(), ModelError> {
    let has = |part: &str| weights.has(&format!("blk.{block}.{part}.weight"));
    let (found, said) = match (has("ssm_conv1d"), has("attn_q_norm")) {
        (true, false) if !recurrent => ("a recurrent", "attends"),
        (false, true) if recurrent => ("an attending", "is recurrent"),
        _ => return Ok(()),
    };
    let list = format!("{}.attention.recurrent_layers", config.arch);
    let (key, value) = match weights.gguf.get(&list) {
        Some(value) => (list, value.summary()),
        None => {
            let key = format!("{}.full_attention_interval", config.arch);
            let value = weights.gguf.get(&key).map_or_else(|| "4 (absent)".to_owned(), crate::gguf::Value::summary);
            (key, value)
        }
    };
    let why = format!("says that layer {block} {said}, but its tensors are those of {found} layer");
    Err(ModelError::BadKey { file: weights.file.clone(), key, value, why })
}

/// Routed experts, and the shared one if the file has it.
fn moe(
    weights: &Weights<'_>,
    config: &ModelConfig,
    hybrid: &Hybrid,
    block: usize,
    experts: &mut Vec<LayerExperts>,
) -> Result<FeedForward, ModelError> {
    let sizes = Sizes { hidden: config.hidden, ff: config.expert_ff, experts: config.experts };
    let gating = Gating { top_k: config.top_k, renormalise: true, scale: config.expert_scale };
    let router = Router::new(weights.linear(&format!("blk.{block}.ffn_gate_inp"), config.hidden, config.experts)?, gating);
    let shared = match weights.has(&format!("blk.{block}.ffn_up_shexp.weight")) {
        true => Some(Box::new(SharedExpert::load(weights, block, config.hidden, hybrid.shared_ff)?)),
        false => None,
    };
    let (of_layer, bias) = expert_weights::load(weights, block, sizes, Activation::SwiGlu)?;
    experts.push(of_layer);
    Ok(FeedForward::Moe { router, index: block, bias, shared, early: None })
}

fn delta_net(weights: &Weights<'_>, config: &ModelConfig, hybrid: &Hybrid, block: usize) -> Result<DeltaNet, ModelError> {
    let name = |part: &str| format!("blk.{block}.{part}");
    let Recurrence::Delta(heads) = hybrid.kind else {
        return Err(ModelError::MissingTensor { file: weights.file.clone(), tensor: name("ssm_conv1d.weight") });
    };
    let (inner, channels) = (heads.values * heads.value_dim, heads.channels());
    let order = if config.arch == "qwen3next" { HeadOrder::Grouped } else { HeadOrder::Tiled };
    let tiled = |per_head: Vec<f32>, len: usize| match order {
        HeadOrder::Tiled => per_head,
        HeadOrder::Grouped => reorder(&per_head, heads, len, tile_to_group(heads)),
    };
    let taps = weights.matrix(&name("ssm_conv1d.weight"), hybrid.width, channels)?;
    let mut by_channel = vec![0.0; hybrid.width * channels];
    crate::kernels::dequantize(taps.ty, &taps.bytes, &mut by_channel)?;
    let values = by_channel.split_off((channels - inner) * hybrid.width);
    by_channel.extend(tiled(values, heads.value_dim * hybrid.width));
    let taps = by_tap(&by_channel, channels);
    let projection = if weights.has(&name("ssm_in.weight")) && !weights.has(&name("attn_qkv.weight")) {
        Projection::Fused(weights.linear(&name("ssm_in"), config.hidden, channels + inner)?)
    } else {
        Projection::Split {
            mixed: weights.linear(&name("attn_qkv"), config.hidden, channels)?,
            gate: weights.linear(&name("attn_gate"), config.hidden, inner)?,
        }
    };
    let rates = if order == HeadOrder::Grouped {
        Rates::Paired(weights.linear(&name("ssm_ba"), config.hidden, 2 * heads.values)?)
    } else {
        Rates::Split {
            beta: weights.linear(&name("ssm_beta"), config.hidden, heads.values)?,
            alpha: weights.linear(&name("ssm_alpha"), config.hidden, heads.values)?,
        }
    };
    let parts = DeltaWeights {
        projection,
        rates,
        order,
        decay_bias: tiled(weights.vector(&name("ssm_dt.bias"), heads.values)?, 1),
        rate: tiled(weights.vector(&name("ssm_a"), heads.values)?, 1),
        taps,
        norm: weights.vector(&name("ssm_norm.weight"), heads.value_dim)?,
        output: weights.linear(&name("ssm_out"), inner, config.hidden)?,
    };
    Ok(DeltaNet::new(parts, heads, config.eps, hybrid.snapshots()))
}
