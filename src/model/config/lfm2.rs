//! The keys of `lfm2moe`, whose layers convolve where they have no key heads.

use super::{Hybrid, Keys, ModelConfig};
use crate::model::ModelError;

impl ModelConfig {
    /// Read and check the keys.
    pub(super) fn lfm2moe(keys: &Keys<'_, '_>, blocks: usize, hidden: usize) -> Result<Self, ModelError> {
        const GROUPS: &str = "attention.head_count_kv";
        keys.few_blocks(blocks)?;
        let Some(groups) = keys.per_layer(GROUPS, blocks, 0)? else {
            return Err(ModelError::MissingKey { file: keys.weights.file.clone(), key: keys.key(GROUPS) });
        };
        // A layer that convolves has no heads, and nobody asks for them.
        let most = groups.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return Err(keys.bad(GROUPS, 0, "is 0 in all layers: at least one must attend"));
        }
        let heads =
            groups.iter().map(|g| Self::heads_with(keys, hidden, if *g == 0 { most } else { *g })).collect::<Result<Vec<_>, _>>()?;
        let dense_ff = keys.size_or_zero("feed_forward_length")?.unwrap_or(0);
        keys.need("expert_feed_forward_length")?;
        let moe = Self::moe(keys, dense_ff)?;
        let mut config = Self::common(keys, blocks, hidden, Self::heads_with(keys, hidden, most)?, dense_ff, moe)?;
        config.choose(keys)?;
        // All models of the family score by sigmoids, also one without a bias for the choice.
        if matches!(keys.weights.gguf.u64(&keys.key("expert_gating_func"))?, None | Some(0)) {
            config.selection.sigmoid = true;
        }
        // Converters don't write it, and all models of the family do so.
        config.renormalise = config.renormalise.or(Some(true));
        config.layer_heads = heads;
        config.hybrid = Some(Hybrid::convolutions(keys, groups.iter().map(|g| *g == 0).collect(), hidden)?);
        Ok(config)
    }
}
