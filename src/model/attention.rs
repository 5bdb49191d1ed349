//! Grouped-query self-attention with rotary positions, as the Qwen, OLMo, gpt-oss and Gemma families use it.

use super::cache::{kept, KvCache};
use super::config::ModelConfig;
use super::linear::{Compute, Linear};
use super::norm::RmsNorm;
use super::rope::Angles;
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::kernels::attention::{attention, Heads, Sight};
use crate::kernels::rows::{from_rows, with_rows};
use candle_core::Tensor;

/// One attention layer with its cache.
///
/// The norms of queries and keys decide by their length what they run over: a head (`qwen3moe`), or the whole
/// projected width (`olmoe`).
pub struct SelfAttention {
    /// Head counts and sizes.
    pub heads: Heads,
    /// hidden -> query heads.
    pub query: Linear,
    /// The query map yields `[query | gate]` per head; the output of a head is multiplied by the gate's sigmoid.
    pub gated: bool,
    /// hidden -> key heads.
    pub key: Linear,
    /// hidden -> value heads; `None`: what `key` gives is also the values, before anything is done to it.
    pub value: Option<Linear>,
    /// query heads -> hidden.
    pub output: Linear,
    /// Norm of the queries, before the rotation.
    pub query_norm: Option<RmsNorm>,
    /// Norm of the keys, before the rotation.
    pub key_norm: Option<RmsNorm>,
    /// Norm of the values.
    pub value_norm: Option<RmsNorm>,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Queries, keys and values are clamped to plus or minus this (`attention.clamp_kqv`).
    pub clamp: Option<f32>,
    /// A query sees so many positions, its own the last; `None`: all up to its own.
    pub window: Option<usize>,
    /// `[query heads]`; see [`Sight::sinks`].
    pub sinks: Option<Vec<f32>>,
    /// Keys and values so far.
    pub cache: KvCache,
}

/// What the norms of queries and keys run over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself.
    PerHead,
    /// The whole projected width.
    Whole,
}

/// How a family attends, as far as its files don't say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// Queries and keys are normalised.
    pub(crate) norm: Option<QkNorm>,
    /// See [`SelfAttention::gated`].
    pub(crate) gated: bool,
    /// See [`SelfAttention::sinks`].
    pub(crate) sinks: bool,
    /// Values are normalised, without weights, and products are not divided by the square root of the head. In a layer that sees everything keys are values if there is no map to values.
    pub(crate) unscaled: bool,
}

impl SelfAttention {
    /// The attention of block `block` by its usual tensor names; queries, keys and values may be rows of one tensor.
    pub(crate) fn load(
        weights: &Weights<'_>,
        config: &ModelConfig,
        settings: &LoadSettings,
        block: usize,
        form: Form,
    ) -> Result<Self, ModelError> {
        let Form { norm, gated, sinks, unscaled } = form;
        let heads = config.heads_of(block);
        let window = config.sliding.as_ref().and_then(|s| s.window(block));
        let room = match (window, settings.goes_back) {
            (Some(window), Some(goes_back)) => kept(window, goes_back, settings.context),
            _ => settings.context,
        };
        let Heads { query, groups, key_dim, value_dim } = heads;
        let (q, k, v) = (query * key_dim, groups * key_dim, groups * value_dim);
        let name = |part: &str| format!("blk.{block}.attn_{part}");
        let rms = |part: &str, whole: usize| -> Result<Option<RmsNorm>, ModelError> {
            let Some(norm) = norm else { return Ok(None) };
            let len = if norm == QkNorm::Whole { whole } else { key_dim };
            Ok(Some(RmsNorm::new(weights.vector(&format!("{}.weight", name(part)), len)?, config.eps)))
        };
        let asked = if gated { 2 * q } else { q };
        let fused = weights.has(&format!("{}.weight", name("qkv"))) && !weights.has(&format!("{}.weight", name("q")));
        let map = |part: &str, from: usize, rows: usize| match fused {
            true => weights.linear_rows(&name("qkv"), config.hidden, asked + k + v, from..from + rows, &format!("{}.bias", name(part))),
            false => weights.linear(&name(part), config.hidden, rows),
        };
        let keys_are_values =
            unscaled && window.is_none() && !fused && key_dim == value_dim && !weights.has(&format!("{}.weight", name("v")));
        Ok(Self {
            heads,
            query: map("q", 0, asked)?,
            gated,
            key: map("k", asked, k)?,
            value: if keys_are_values { None } else { Some(map("v", asked + k, v)?) },
            output: weights.linear(&name("output"), query * value_dim, config.hidden)?,
            query_norm: rms("q_norm", q)?,
            key_norm: rms("k_norm", k)?,
            value_norm: unscaled.then(|| RmsNorm::new(vec![1.0; value_dim], config.eps)),
            scale: if unscaled { 1.0 } else { 1.0 / (key_dim as f32).sqrt() },
            clamp: config.clamp_qkv,
            window,
            sinks: sinks.then(|| weights.vector(&format!("{}.weight", name("sinks")), query)).transpose()?,
            cache: KvCache::new(heads, settings.context, room, settings.kv_f32)?,
        })
    }

    /// `[tokens, hidden]` at positions `position..` in, the same out. The cache gains the tokens.
    ///
    /// # Errors
    /// From the dot products.
    pub fn forward(&mut self, compute: &mut Compute, x: &Tensor, position: usize, angles: &Angles) -> Result<Tensor, ModelError> {
        let (tokens, _) = x.dims2()?;
        let mut qkv = match &self.value {
            Some(value) => Linear::many(compute, [&self.query, &self.key, value], x)?,
            None => {
                let [q, k] = Linear::many(compute, [&self.query, &self.key], x)?;
                [q, k.clone(), k]
            }
        };
        if let Some(limit) = self.clamp {
            for t in &mut qkv {
                *t = t.clamp(-limit, limit)?;
            }
        }
        let [mut q, mut k, mut v] = qkv;
        let mut gate = None;
        if self.gated {
            let (queries, gates) = with_rows(&q, |q| unzip_heads(q, self.heads.key_dim))?;
            q = from_rows(queries, tokens, self.heads.query * self.heads.key_dim)?;
            gate = Some(gates);
        }
        if let Some(norm) = &self.query_norm {
            q = norm.forward(compute, &q)?;
        }
        if let Some(norm) = &self.key_norm {
            k = norm.forward(compute, &k)?;
        }
        if let Some(norm) = &self.value_norm {
            v = norm.forward(compute, &v)?;
        }
        let q = angles.rotate(compute, &q, self.heads.key_dim)?;
        let k = angles.rotate(compute, &k, self.heads.key_dim)?;
        let Heads { query, groups, key_dim, value_dim } = self.heads;
        let width = query * value_dim;
        let mut out = vec![0.0; tokens * width];
        let sight = Sight { window: self.window, sinks: self.sinks.as_deref() };
        let (room, at_once) = (self.cache.room(), self.cache.kept().at_once(self.window));
        let mut answer = |q: &[f32], k: &[f32], v: &[f32]| {
            for begin in (0..tokens).step_by(at_once) {
                let part = |width: usize| begin * width..(begin + at_once).min(tokens) * width;
                self.cache.write(position + begin, &k[part(groups * key_dim)], &v[part(groups * value_dim)]);
                let (q, out) = (&q[part(query * key_dim)], &mut out[part(width)]);
                attention(&compute.pool, self.heads, self.cache.view(), room, q, position + begin, self.scale, sight, out);
            }
        };
        with_rows(&q, |q| with_rows(&k, |k| with_rows(&v, |v| answer(q, k, v))))???;
        if let Some(gate) = gate {
            out.iter_mut().zip(gate).for_each(|(y, g)| *y /= 1.0 + (-g).exp());
        }
        self.output.forward(compute, &from_rows(out, tokens, width)?)
    }
}

/// `[tokens, heads * (query | gate)]` into all queries and all gates.
fn unzip_heads(rows: &[f32], dim: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut queries, mut gates) = (Vec::with_capacity(rows.len() / 2), Vec::with_capacity(rows.len() / 2));
    for pair in rows.chunks_exact(2 * dim) {
        queries.extend_from_slice(&pair[..dim]);
        gates.extend_from_slice(&pair[dim..]);
    }
    (queries, gates)
}
