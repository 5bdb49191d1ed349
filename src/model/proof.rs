//! Before a model is opened on a GPU: the kernels that it will use are tried there ([`crate::gpu::proof`]), and what follows if one fails.
//!
//! What a model uses is read from the model as it was bound for the CPU, kind by kind, as the device takes it over: an architecture that is put together from known layers
//! needs nothing of its own here.

use super::config::Latent;
use super::decoder::{Decoder, Mixer};
use super::delta_net::{DeltaNet, HeadOrder, Projection, Rates};
use super::device::{Without, RANGES};
use super::feed_forward::{Dense, FeedForward};
use super::latent_attention::{LatentAttention, Up};
use super::linear::Linear;
use super::open::{bind, takes, wants_guesses};
use super::router::Router;
use super::short_conv::ShortConv;
use super::{plan_on, LoadSettings, ModelConfig, ModelError, Planned};
use crate::events::{DeviceChoice, LoadOptions, When};
use crate::experts::store::ExpertStore;
use crate::gguf::Gguf;
use crate::gpu::choose::Chosen;
use crate::gpu::device::{Device, GpuError};
use crate::gpu::proof::{prove as try_on, Kept, Proof, ProofError};
use crate::gpu::trial::{AttentionUse, Case, DeltaUse, ExpertUse, LatentUse, MapUse, RouterUse, Uses};
use crate::kernels::rows::Activation;
use crate::kernels::Pool;

/// On what a model can be opened.
pub struct Proven {
    /// The device that was chosen, or the CPU instead.
    pub chosen: Chosen,
    /// The plan for it.
    pub planned: Planned,
    /// What was tried, or why it is the CPU although a GPU was found; `None` if nothing was tried.
    pub proof: Option<Outcome>,
}

/// What came of trying a GPU that nobody asked for by name.
pub type Outcome = Result<Proof, GpuError>;

impl Proven {
    /// What a person should be told of it: what was tried now, and whatever failed.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        match self.proof.as_ref()? {
            Ok(proof) => (proof.tried > 0 || proof.told().next().is_some()).then(|| proof.to_string()),
            Err(e @ GpuError::Unproven { .. }) => Some(format!("{e}, as it does now")),
            Err(e) => Some(format!("the GPU's kernels can't be tried, so the processor computes: {e}")),
        }
    }
}

/// Try the kernels that a model uses on the device that was chosen for it and planned with, as `options.prove` says. If they fail, a GPU that nobody asked for gives way to the CPU, with a plan of
/// its own. `progress` is told how many trials of how many are done, and answers false to give up.
///
/// # Errors
/// A GPU that was asked for fails; the file can't be run, or not on the CPU; [`ModelError::GivenUp`].
pub fn prove(
    gguf: &Gguf,
    options: &LoadOptions,
    chosen: Chosen,
    mut planned: Planned,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Proven, ModelError> {
    let wanted = |device: &dyn Device| match options.prove {
        When::Never => false,
        When::Always => true,
        // The simulated device runs what a trial compares with.
        When::Auto => device.facts().capability > 0,
    };
    let Some(device) = chosen.device.clone().filter(|d| wanted(&**d)) else {
        return Ok(Proven { chosen, planned, proof: None });
    };
    let cases = cases(gguf, options, planned.foresees())?;
    let kept = options.proofs.as_deref().map(Kept::new);
    match try_on(&*device, &cases, kept.as_ref(), options.prove == When::Always, progress) {
        Ok(proof) => {
            planned.do_without(Without { chunk_attention: proof.plain_attention.is_some(), mailbox: proof.no_mailbox.is_some() });
            Ok(Proven { chosen, planned, proof: Some(Ok(proof)) })
        }
        Err(ProofError::GivenUp) => Err(ModelError::GivenUp),
        Err(ProofError::Gpu(e)) if options.device != DeviceChoice::Auto => Err(e.into()),
        Err(ProofError::Gpu(e)) => {
            tracing::warn!("{e}; the CPU computes instead");
            // Its memory goes before the plan looks for some.
            drop((device, chosen));
            let planned = plan_on(gguf, options, crate::kernels::memory::available(), None)?;
            let lacks = match &e {
                GpuError::Unproven { kernel, how, .. } => format!("kernel {} {how} on the GPU", kernel.split(' ').next().unwrap_or(kernel)),
                other => other.to_string(),
            };
            Ok(Proven { chosen: Chosen { device: None, lacks: Some(lacks) }, planned, proof: Some(Err(e)) })
        }
    }
}

/// The trials for a model. `foresees`: the routers of later layers are asked before their turn.
///
/// # Errors
/// A file that can't be run.
pub fn cases(gguf: &Gguf, options: &LoadOptions, foresees: bool) -> Result<Vec<Case>, ModelError> {
    // Bound for a context of one token, which takes no memory: what is looked at is shapes and types.
    let settings =
        LoadSettings { context: 1, kv_f32: options.kv_f32, goes_back: None, pool: Pool::new(1), guesses: wants_guesses(options) };
    let (decoder, store, config) = bind(gguf, &settings)?;
    takes(gguf, &config)?;
    let mut uses = uses(decoder, &store, &config, options.kv_f32, foresees);
    uses.mailbox &= options.mailbox != When::Never;
    Ok(uses.cases())
}

fn uses(decoder: Decoder, store: &ExpertStore, config: &ModelConfig, wide: bool, foresees: bool) -> Uses {
    let (parts, layers, .., predictor) = decoder.into_parts();
    let mut uses = Uses { hidden: config.hidden as u32, ranges: RANGES as u32, ..Uses::default() };
    let mut routed_bias = false;
    let (joint, last) = predictor.map(|p| p.into_parts()).map(|(joint, layer, ..)| (joint, layer)).unzip();
    for layer in layers.into_iter().chain(last) {
        match layer.mixer {
            Mixer::Attention(a) => {
                uses.maps.extend([&a.query, &a.key, &a.output].into_iter().chain(&a.value).map(chunked));
                let pairs = match (a.window, &parts.rotation.windowed) {
                    (Some(_), Some(own)) => own.half(),
                    _ => parts.rotation.plain.half(),
                };
                let heads = a.heads;
                let len = |norm: &Option<super::norm::RmsNorm>| norm.as_ref().map(|n| n.parts().0.len());
                let (q, k) = (len(&a.query_norm), len(&a.key_norm));
                let of_rows = [q, k].iter().any(|n| n.is_some_and(|n| n != heads.key_dim));
                push(
                    &mut uses.attention,
                    AttentionUse {
                        dims: (heads.key_dim as u32, heads.value_dim as u32),
                        heads: (heads.query as u32, heads.groups as u32),
                        half: pairs as u32,
                        wide,
                        gated: a.gated,
                        head_norms: [q, k].contains(&Some(heads.key_dim)),
                        row_norms: of_rows.then(|| (q.unwrap_or(heads.key_dim) as u32, k.unwrap_or(heads.key_dim) as u32)),
                        value_norm: a.value_norm.is_some(),
                        clamped: a.clamp.is_some(),
                        window: a.window.map(|w| w as u32),
                        sinks: a.sinks.is_some(),
                    },
                );
            }
            Mixer::Latent(a) => latent_uses(&a, wide, &mut uses),
            Mixer::ShortConv(c) => conv_uses(*c, &mut uses),
            Mixer::DeltaNet(d) => delta_uses(*d, &mut uses),
        }
        uses.joins |= layer.after.mixer_norm.is_some();
        match &layer.feed_forward {
            FeedForward::Dense(dense) => dense_uses(dense, &mut uses),
            FeedForward::DenseAndRouted(both) => {
                routed_bias |= both.bias.is_some();
                router_uses(&both.router, &mut uses);
                dense_uses(&both.dense, &mut uses);
            }
            FeedForward::Moe { router, shared, bias, .. } => {
                routed_bias |= bias.is_some();
                router_uses(router, &mut uses);
                if let Some((weight, dense)) = shared.as_ref().map(|s| s.parts()) {
                    uses.maps.extend(weight.map(chunked));
                    dense_uses(dense, &mut uses);
                }
            }
        }
    }
    uses.mailbox = config.experts > 0;
    if foresees {
        let (ty, cols) = (super::early::kept_as(config.hidden), config.hidden as u32);
        uses.maps.push(MapUse { ty, cols, bias: false, chunks: false, gated: false });
    }
    uses.capped = parts.head.cap().is_some();
    // Logits are computed for a few rows at a time.
    uses.maps.push(MapUse { chunks: false, ..chunked(parts.head.parts().1) });
    if let Some(joint) = joint {
        uses.maps.push(chunked(&joint.map));
        uses.maps.extend(joint.output.as_ref().map(|output| MapUse { chunks: false, ..chunked(output) }));
    }
    for layer in &store.layers {
        let [gate, up, down] = layer.shape;
        let (hidden, inner, top_k) = (gate.cols as u32, gate.rows as u32, store.top_k as u32);
        let biased = layer.biases.is_some();
        let joined = (biased || layer.activation != Activation::SwiGlu).then_some((layer.activation, biased));
        let routed_bias = routed_bias.then_some(store.experts as u32);
        push(&mut uses.experts, ExpertUse { types: [gate.ty, up.ty, down.ty], hidden, inner, top_k, joined, routed_bias });
    }
    uses
}

fn push<T: PartialEq>(list: &mut Vec<T>, one: T) {
    if !list.contains(&one) {
        list.push(one);
    }
}

/// A map through which prompts go in chunks.
fn chunked(map: &Linear) -> MapUse {
    let (matrix, bias) = map.parts();
    MapUse { ty: matrix.ty, cols: matrix.cols as u32, bias: bias.is_some(), chunks: true, gated: false }
}

fn latent_uses(a: &LatentAttention, wide: bool, uses: &mut Uses) {
    let Latent { heads, rank, turned, .. } = a.sizes;
    let (queries, up) = (a.query_up.as_ref().map(|(norm, _)| norm.parts().0.len() as u32), a.query_up.as_ref().map(|(_, up)| up));
    uses.maps.extend([&a.query, &a.down, &a.output].into_iter().chain(up).map(chunked));
    // Keys and values that are made are no device's.
    let Up::Absorbed { key, value, .. } = &a.up else { return };
    let maps = [key, value].map(|m| (m.parts().0.ty, m.parts().0.cols as u32));
    let (heads, rank, turned) = (heads as u32, rank as u32, turned as u32);
    push(&mut uses.latent, LatentUse { heads, rank, turned, wide, query_rank: queries, maps });
}

fn dense_uses(dense: &Dense, uses: &mut Uses) {
    let gated = dense.activation == Activation::SwiGlu;
    uses.maps.extend([chunked(&dense.gate), chunked(&dense.up), MapUse { gated, ..chunked(&dense.down) }]);
    push(&mut uses.dense, dense.activation);
}

fn router_uses(router: &Router, uses: &mut Uses) {
    let (scores, gating) = router.parts();
    uses.maps.push(chunked(scores));
    let experts = scores.parts().0.rows;
    let (factors, sigmoid, renormalise) = (router.factors().is_some(), router.choice().sigmoid, gating.renormalise);
    let (experts, top_k) = (experts as u32, gating.top_k.min(experts) as u32);
    push(&mut uses.routers, RouterUse { experts, top_k, renormalise, factors, sigmoid });
}

fn delta_uses(layer: DeltaNet, uses: &mut Uses) {
    let (w, heads, ..) = layer.into_parts();
    match &w.projection {
        Projection::Split { mixed, gate } => uses.maps.extend([mixed, gate].map(chunked)),
        Projection::Fused(all) => uses.maps.push(chunked(all)),
    }
    match &w.rates {
        Rates::Split { beta, alpha } => uses.maps.extend([beta, alpha].map(chunked)),
        Rates::Paired(both) => uses.maps.push(chunked(both)),
    }
    uses.maps.push(chunked(&w.output));
    let width = (w.taps.len() / heads.channels().max(1)) as u32;
    let dims = (heads.key_dim as u32, heads.value_dim as u32);
    push(&mut uses.delta, DeltaUse { dims, width, reordered: w.order == HeadOrder::Grouped });
}

fn conv_uses(layer: ShortConv, uses: &mut Uses) {
    let (w, channels, _) = layer.into_parts();
    uses.maps.extend([&w.input, &w.output].map(chunked));
    push(&mut uses.convolutions, (w.taps.len() / channels.max(1)) as u32);
}

#[cfg(test)]
mod tests;
