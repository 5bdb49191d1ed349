//! Multi-head latent attention (DeepSeek-AI, arXiv 2405.04434): keys and values of all heads are maps of one short row per token, the *latent*.
//!
//! A key is a map of the latent, and beside it a part that turns with the position and that all heads share; a value is another map of the latent. Instead of making keys
//! and values of all that was read, the map to the keys is applied to the query, and the map to the values to what attention gives (the paper's absorption): then the latent and the turned
//! part, once per token, are the key of every head, and the latent is its value. Files that were made before llama.cpp knew of this have one map to keys and values, which
//! can't be applied so; their keys and values are made and kept, head by head.

use super::cache::KvCache;
use super::config::{Latent, ModelConfig};
use super::latent_cache::LatentCache;
use super::linear::{Compute, HeadMaps, Linear};
use super::norm::RmsNorm;
use super::rope::Angles;
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::kernels::attention::{attention, Sight};
use crate::kernels::rows::{for_rows, from_rows, with_rows};
use candle_core::Tensor;

/// One layer of it, with its cache.
pub struct LatentAttention {
    /// Heads and sizes.
    pub sizes: Latent,
    /// hidden -> what the queries are made of: themselves, or their own latent.
    pub query: Linear,
    /// The norm of that latent, and its map to the queries `[heads, plain | turned]`.
    pub query_up: Option<(RmsNorm, Linear)>,
    /// hidden -> `[latent | turned part of the keys]`.
    pub down: Linear,
    /// Norm of the latent.
    pub norm: RmsNorm,
    /// How keys and values come from it.
    pub up: Up,
    /// Values of all heads -> hidden.
    pub output: Linear,
}

/// How keys and values come from the latent.
pub enum Up {
    /// They are never made; see the module.
    Absorbed {
        /// Per head: plain part of a query -> latent.
        key: HeadMaps,
        /// Per head: latent -> value.
        value: HeadMaps,
        /// `[latent | turned part]` so far.
        cache: LatentCache,
    },
    /// They are made, for every head.
    Made {
        /// latent -> per head `[plain part of the key | value]`.
        both: Linear,
        /// Keys and values so far.
        cache: KvCache,
    },
}

impl LatentAttention {
    /// The attention of block `block` by its usual tensor names.
    pub(crate) fn load(
        weights: &Weights<'_>,
        config: &ModelConfig,
        sizes: Latent,
        settings: &LoadSettings,
        block: usize,
    ) -> Result<Self, ModelError> {
        let Latent { heads, query_rank, rank, plain, turned, value, .. } = sizes;
        let name = |part: &str| format!("blk.{block}.attn_{part}");
        let norm = |part: &str, len: usize| -> Result<RmsNorm, ModelError> {
            Ok(RmsNorm::new(weights.vector(&format!("{}.weight", name(part)), len)?, config.eps))
        };
        let queries = heads * (plain + turned);
        let (query, query_up) = match query_rank {
            None => (weights.linear(&name("q"), config.hidden, queries)?, None),
            Some(rank) => {
                let up = (norm("q_a_norm", rank)?, weights.linear(&name("q_b"), rank, queries)?);
                (weights.linear(&name("q_a"), config.hidden, rank)?, Some(up))
            }
        };
        let up = if sizes.absorbed {
            Up::Absorbed {
                key: weights.head_maps(&name("k_b.weight"), plain, rank, heads)?,
                value: weights.head_maps(&name("v_b.weight"), rank, value, heads)?,
                cache: LatentCache::new(rank + turned, settings.context, settings.kv_f32)?,
            }
        } else {
            Up::Made {
                both: weights.linear(&name("kv_b"), rank, heads * (plain + value))?,
                cache: KvCache::new(sizes.kernel_heads(), settings.context, settings.context, settings.kv_f32)?,
            }
        };
        Ok(Self {
            sizes,
            query,
            query_up,
            down: weights.linear(&name("kv_a_mqa"), config.hidden, rank + turned)?,
            norm: norm("kv_a_norm", rank)?,
            up,
            output: weights.linear(&name("output"), heads * value, config.hidden)?,
        })
    }

    /// `[tokens, hidden]` at positions `position..` in, the same out. The cache gains the tokens.
    ///
    /// # Errors
    /// From the dot products.
    pub fn forward(&mut self, compute: &mut Compute, x: &Tensor, position: usize, angles: &Angles) -> Result<Tensor, ModelError> {
        let (tokens, _) = x.dims2()?;
        let Latent { heads, rank, plain, turned, value, .. } = self.sizes;
        let [mut query, down] = Linear::many(compute, [&self.query, &self.down], x)?;
        if let Some((norm, up)) = &self.query_up {
            query = up.forward(compute, &norm.forward(compute, &query)?)?;
        }
        let mut query = with_rows(&query, <[f32]>::to_vec)?;
        for_rows(&compute.pool, &mut query, heads * (plain + turned), &|t, row| {
            row.chunks_exact_mut(plain + turned).for_each(|head| angles.turn_pairs(t, &mut head[plain..]));
        });
        let mut shared = with_rows(&down, |rows| columns(rows, rank + turned, rank..rank + turned))?;
        shared.chunks_exact_mut(turned).enumerate().for_each(|(t, part)| angles.turn_pairs(t, part));
        let latent = from_rows(with_rows(&down, |rows| columns(rows, rank + turned, 0..rank))?, tokens, rank)?;
        let latent = self.norm.forward(compute, &latent)?;
        let kernel = self.sizes.kernel_heads();
        let (scale, sight) = (self.sizes.scale, Sight::default());
        let values = match &mut self.up {
            Up::Absorbed { key, value, cache } => {
                let rows = with_rows(&latent, |latent| beside(latent, rank, &shared, turned))?;
                cache.write(position, &rows);
                let plains = columns(&query, plain + turned, 0..plain);
                let absorbed = key.forward(compute, &plains, tokens)?;
                let width = rank + turned;
                let mut queries = vec![0.0; tokens * heads * width];
                for_rows(&compute.pool, &mut queries, heads * width, &|t, row| {
                    for (h, to) in row.chunks_exact_mut(width).enumerate() {
                        to[..rank].copy_from_slice(&absorbed[(h * tokens + t) * rank..][..rank]);
                        to[rank..].copy_from_slice(&query[(t * heads + h) * (plain + turned) + plain..][..turned]);
                    }
                });
                let mut seen = vec![0.0; tokens * heads * rank];
                attention(&compute.pool, kernel, cache.view(), cache.room(), &queries, position, scale, sight, &mut seen);
                by_token(&value.forward(compute, &seen, tokens)?, tokens, heads)
            }
            Up::Made { both, cache } => {
                let both = both.forward(compute, &latent)?;
                let (keys, values) = with_rows(&both, |both| {
                    let plains = columns(both, plain + value, 0..plain);
                    let shared: Vec<f32> = shared.chunks_exact(turned).flat_map(|part| part.repeat(heads)).collect();
                    (beside(&plains, plain, &shared, turned), columns(both, plain + value, plain..plain + value))
                })?;
                cache.write(position, &keys, &values);
                let mut out = vec![0.0; tokens * heads * value];
                attention(&compute.pool, kernel, cache.view(), cache.room(), &query, position, scale, sight, &mut out);
                out
            }
        };
        self.output.forward(compute, &from_rows(values, tokens, heads * value)?)
    }
}

/// These columns of rows of `width` values.
fn columns(rows: &[f32], width: usize, part: std::ops::Range<usize>) -> Vec<f32> {
    rows.chunks_exact(width).flat_map(|row| &row[part.clone()]).copied().collect()
}

/// Rows of `a` values and rows of `b` values side by side.
fn beside(left: &[f32], a: usize, right: &[f32], b: usize) -> Vec<f32> {
    left.chunks_exact(a).zip(right.chunks_exact(b)).flat_map(|(left, right)| left.iter().chain(right)).copied().collect()
}

/// `[heads, tokens, n]` as `[tokens, heads, n]`.
fn by_token(rows: &[f32], tokens: usize, heads: usize) -> Vec<f32> {
    let n = rows.len() / (tokens * heads).max(1);
    (0..tokens).flat_map(|t| (0..heads).flat_map(move |h| &rows[(h * tokens + t) * n..][..n])).copied().collect()
}
