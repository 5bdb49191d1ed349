//! The keys of `deepseek2`: latent attention, and experts that are chosen by more than their scores, as in `glm4moe`, too.

use super::{Keys, ModelConfig, LIMIT};
use crate::kernels::attention::Heads;
use crate::model::rope::Scaling;
use crate::model::ModelError;

/// Sizes of latent attention; see `model::latent_attention`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Heads.
    pub heads: usize,
    /// Values of the latent that queries are made of; `None`: they have none.
    pub query_rank: Option<usize>,
    /// Values of the latent that keys and values are made of.
    pub rank: usize,
    /// Values of a query or key head that don't turn.
    pub plain: usize,
    /// Values of a query head that turn, and of the part of the keys that all heads share.
    pub turned: usize,
    /// Values of a value head.
    pub value: usize,
    /// The file has maps that can be applied to queries and results, so the latent itself is kept.
    pub absorbed: bool,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
}

impl Latent {
    /// Heads as the attention kernel and its cache have them.
    #[must_use]
    pub fn kernel_heads(&self) -> Heads {
        let Self { heads, rank, plain, turned, value, .. } = *self;
        match self.absorbed {
            true => Heads { query: heads, groups: 1, key_dim: rank + turned, value_dim: rank },
            false => Heads { query: heads, groups: heads, key_dim: plain + turned, value_dim: value },
        }
    }

    /// Values beside the hidden state and its kin that a layer holds for every token of a pass.
    #[must_use]
    pub(crate) fn row_values(&self) -> usize {
        let Self { heads, rank, plain, turned, value, .. } = *self;
        let per_head = match self.absorbed {
            // Queries, their plain parts, the same absorbed, keyed queries, what attention gives, values by head and by token.
            true => 2 * plain + turned + 3 * rank + turned + 2 * value,
            // Queries, keys and values together, apart, the shared part, and what attention gives.
            false => 5 * (plain + turned) + 3 * value,
        };
        heads * per_head + self.query_rank.unwrap_or(0) * 2 + 4 * (rank + turned)
    }
}

/// How a router chooses, beyond taking the highest scores of a softmax.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Scores are sigmoids, each by itself.
    pub sigmoid: bool,
    /// Something is added to the scores for the choice alone.
    pub bias: bool,
    /// Experts form so many groups, of which so many are chosen first.
    pub groups: Option<(usize, usize)>,
}

impl Selection {
    /// What the keys of an architecture with routers of this kind say, `routed` being a layer with experts. A file that doesn't say how scores are made has sigmoids if its router has a bias for the choice:
    /// DeepSeek-V2's has none, and the first files of GLM-4.7-Flash say nothing.
    pub(super) fn read(keys: &Keys<'_, '_>, routed: usize, experts: usize, top_k: usize) -> Result<Self, ModelError> {
        const FUNCTION: &str = "expert_gating_func";
        let bias = keys.weights.has(&format!("blk.{routed}.exp_probs_b.bias"));
        let sigmoid = match keys.weights.gguf.u64(&keys.key(FUNCTION))? {
            None | Some(0) => bias,
            Some(1) => false,
            Some(2) => true,
            Some(f) => return Err(keys.bad(FUNCTION, f, "only softmax (1) and sigmoid (2) are known for this architecture")),
        };
        let count = keys.size_or_zero("expert_group_count")?.unwrap_or(1);
        if count == 1 {
            return Ok(Self { sigmoid, bias, groups: None });
        }
        // A group of sigmoids is as good as its two best.
        if !experts.is_multiple_of(count) || experts / count < 2 {
            return Err(keys.bad(
                "expert_group_count",
                count,
                format!("does not divide expert_count = {experts} into groups of two or more"),
            ));
        }
        let used = keys.need("expert_group_used_count")?;
        if used > count || used * (experts / count) < top_k {
            let why = format!("must be at most expert_group_count = {count}, and leave expert_used_count = {top_k} experts to choose from");
            return Err(keys.bad("expert_group_used_count", used, why));
        }
        Ok(Self { sigmoid, bias, groups: (used < count).then_some((count, used)) })
    }
}

impl ModelConfig {
    /// Read and check the keys.
    pub(super) fn deepseek2(keys: &Keys<'_, '_>, blocks: usize, hidden: usize) -> Result<Self, ModelError> {
        const TEMPERATURE: &str = "attention.temperature_scale";
        if let Some(t) = keys.number(TEMPERATURE)?.filter(|t| *t != 0.0) {
            let (file, key) = (keys.weights.file.clone(), keys.key(TEMPERATURE));
            let what = "attention that grows with the position (Mistral)";
            return Err(ModelError::Unsupported { file, key, value: t.to_string(), what, instead: "GLM-4.7-Flash, DeepSeek-V2 and V3" });
        }
        let mut latent = Self::latent(keys)?;
        let dense_ff = keys.size_or_zero("feed_forward_length")?.unwrap_or(0);
        keys.need("expert_feed_forward_length")?;
        let moe = Self::moe(keys, dense_ff)?;
        let mut config = Self::common(keys, blocks, hidden, latent.kernel_heads(), dense_ff, moe)?;
        latent.scale *= Self::stretch(keys, &mut config.rope_scaling)?;
        config.latent = Some(latent);
        config.choose(keys)?;
        Ok(config)
    }

    /// How the routers choose, and the experts that every token uses.
    pub(super) fn choose(&mut self, keys: &Keys<'_, '_>) -> Result<(), ModelError> {
        let (blocks, ff) = (self.blocks, self.expert_ff);
        if self.leading_dense >= blocks {
            let why = format!("leaves no layer with experts of {blocks}");
            return Err(keys.bad("leading_dense_block_count", self.leading_dense, why));
        }
        if self.leading_dense > 0 && self.dense_ff == 0 {
            keys.need("feed_forward_length")?;
        }
        self.selection = Selection::read(keys, self.leading_dense, self.experts, self.top_k)?;
        let shared = keys.size_or_zero("expert_shared_count")?.unwrap_or(0);
        self.shared_ff = shared.saturating_mul(ff);
        if self.shared_ff as u64 > LIMIT {
            return Err(keys.bad("expert_shared_count", shared, format!("as many times {ff} values exceed {LIMIT}")));
        }
        Ok(())
    }

    fn latent(keys: &Keys<'_, '_>) -> Result<Latent, ModelError> {
        let heads = keys.need("attention.head_count")?;
        let rank = keys.need("attention.kv_lora_rank")?;
        let query_rank = keys.size_or_zero("attention.q_lora_rank")?;
        let turned = keys.need("rope.dimension_count")?;
        // Files say the size of a true head by other names since what is kept is the latent.
        let mla = keys.size_or_zero("attention.key_length_mla")?;
        let absorbed = mla.is_some();
        let (key_name, key) = match mla {
            Some(key) => ("attention.key_length_mla", key),
            None => ("attention.key_length", keys.need("attention.key_length")?),
        };
        let value = keys.need(if absorbed { "attention.value_length_mla" } else { "attention.value_length" })?;
        if turned >= key || turned % 2 != 0 {
            return Err(keys.bad("rope.dimension_count", turned, format!("must be even and less than {} = {key}", keys.key(key_name))));
        }
        let widest = (rank + turned).max(key).max(key - turned + value);
        if heads.saturating_mul(widest) as u64 > LIMIT {
            return Err(keys.bad("attention.head_count", heads, format!("as many heads of {widest} exceed {LIMIT} values")));
        }
        let latent = Latent { heads, query_rank, rank, plain: key - turned, turned, value, absorbed, scale: 1.0 / (key as f32).sqrt() };
        let kernel = latent.kernel_heads();
        for (name, want) in [
            ("attention.head_count_kv", kernel.groups),
            ("attention.key_length", kernel.key_dim),
            ("attention.value_length", kernel.value_dim),
        ] {
            if let Some(found) = keys.size(name)?.filter(|n| *n != want) {
                return Err(keys.bad(name, found, format!("contradicts the {want} that the other sizes of attention give")));
            }
        }
        Ok(latent)
    }

    /// What YaRN multiplies scores by. DeepSeek's form of it (`mscale` = `mscale_all_dim`) lets cosines and sines be, and multiplies all of a product.
    fn stretch(keys: &Keys<'_, '_>, scaling: &mut Scaling) -> Result<f32, ModelError> {
        const GROWTH: &str = "rope.scaling.yarn_log_multiplier";
        match scaling {
            Scaling::None => Ok(1.0),
            Scaling::Linear { .. } => Err(keys.bad("rope.scaling.type", "linear", "known for this architecture are none and yarn")),
            Scaling::Yarn { factor, attention, .. } => {
                let Some(growth) = keys.number(GROWTH)? else {
                    return Err(ModelError::MissingKey { file: keys.weights.file.clone(), key: keys.key(GROWTH) });
                };
                if !(0.0..=1.0).contains(&growth) {
                    return Err(keys.bad(GROWTH, growth, "must be from 0 to 1"));
                }
                let log = factor.max(1.0).ln();
                *attention = 1.0 / (1.0 + 0.1 * log);
                // The file's number is a tenth of `mscale_all_dim`.
                Ok((1.0 + growth * log).powi(2))
            }
        }
    }
}
