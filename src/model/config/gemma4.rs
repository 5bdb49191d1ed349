//! The keys of `gemma4`, whose layers are of two kinds: those that see a window have sizes and a rotation of their own (`*_swa`).

use super::{Keys, ModelConfig, Moe, LIMIT};
use crate::kernels::attention::Heads;
use crate::model::ModelError;

/// All but every sixth layer see a window, where a file doesn't say which do.
const USUAL_PATTERN: usize = 6;
/// Bases of the rotation of both kinds of layer, where a file doesn't say them.
const USUAL_BASE: f32 = 1e6;
const USUAL_WINDOW_BASE: f32 = 1e4;

impl ModelConfig {
    /// Read and check the keys.
    pub(super) fn gemma4(keys: &Keys<'_, '_>, blocks: usize, hidden: usize) -> Result<Self, ModelError> {
        for (key, what) in [
            ("attention.shared_kv_layers", "layers that use the keys and values of others"),
            ("embedding_length_per_layer_input", "embeddings of its own in every layer"),
        ] {
            if let Some(n) = keys.size_or_zero(key)? {
                let (file, key) = (keys.weights.file.clone(), keys.key(key));
                return Err(ModelError::Unsupported { file, key, value: n.to_string(), what, instead: "Gemma 4 26B-A4B, 12B or 31B" });
            }
        }
        keys.few_blocks(blocks)?;
        let mut sliding = Self::sliding(keys, blocks, USUAL_PATTERN)?;
        let global = Kind::read(keys, "", None)?;
        let window = Kind::read(keys, "_swa", Some(&global))?;
        let query = keys.need("attention.head_count")?;
        let groups = keys.per_layer("attention.head_count_kv", blocks, 1)?.unwrap_or_else(|| vec![query; blocks]);
        let of = |(groups, sees): (usize, &bool)| (if *sees { &window } else { &global }).heads(keys, query, groups);
        let layer_heads = groups.into_iter().zip(&sliding.layers).map(of).collect::<Result<Vec<_>, _>>()?;

        let widths = keys.per_layer("feed_forward_length", blocks, 1)?;
        let Some(widths) = widths else {
            return Err(ModelError::MissingKey { file: keys.weights.file.clone(), key: keys.key("feed_forward_length") });
        };
        let dense_ff = widths[0];
        if let Some(layer) = widths.iter().position(|w| *w != dense_ff) {
            let why = format!("contradicts the {dense_ff} of layer 0: layers of different widths can't be run");
            return Err(keys.bad("feed_forward_length", format!("{} in layer {layer}", widths[layer]), why));
        }
        let moe = match keys.size_or_zero("expert_count")? {
            Some(_) => Self::moe(keys, 0)?,
            None => Moe::default(),
        };
        let mut config = Self::common(keys, blocks, hidden, global.heads(keys, query, query)?, dense_ff, moe)?;
        config.rope_base = global.base.unwrap_or(USUAL_BASE);
        config.layer_heads = layer_heads;
        sliding.rope = Some((window.base.unwrap_or(USUAL_WINDOW_BASE), window.turned(keys)?));
        config.sliding = Some(sliding);
        config.softcap = keys.number("final_logit_softcapping")?.filter(|c| *c != 0.0);
        if let Some(c) = config.softcap.filter(|c| *c < 0.0) {
            return Err(keys.bad("final_logit_softcapping", c, "must be above 0, or 0 for none"));
        }
        Ok(config)
    }
}

/// What the file says of one kind of layer, by keys that end in `suffix`.
struct Kind {
    suffix: &'static str,
    /// Values in a key head.
    key_dim: usize,
    /// Values in a value head.
    value_dim: usize,
    /// `rope.freq_base`
    base: Option<f32>,
}

impl Kind {
    /// `other`: the kind whose sizes these are unless the file says otherwise.
    fn read(keys: &Keys<'_, '_>, suffix: &'static str, other: Option<&Self>) -> Result<Self, ModelError> {
        let named = |name: &str| format!("{name}{suffix}");
        let key_dim = match (keys.size(&named("attention.key_length"))?, other) {
            (Some(n), _) => n,
            (None, Some(other)) => other.key_dim,
            (None, None) => keys.need("attention.key_length")?,
        };
        let value_dim = keys.size(&named("attention.value_length"))?.unwrap_or(key_dim);
        Ok(Self { suffix, key_dim, value_dim, base: keys.positive(&named("rope.freq_base"))? })
    }

    /// The heads of a layer of this kind.
    fn heads(&self, keys: &Keys<'_, '_>, query: usize, groups: usize) -> Result<Heads, ModelError> {
        let Self { key_dim, value_dim, suffix, .. } = *self;
        if !query.is_multiple_of(groups) {
            return Err(keys.bad("attention.head_count_kv", groups, format!("does not divide head_count = {query}")));
        }
        if query.saturating_mul(key_dim.max(value_dim)) as u64 > LIMIT {
            return Err(keys.bad(&format!("attention.key_length{suffix}"), key_dim, format!("{query} heads of it exceed {LIMIT} values")));
        }
        Ok(Heads { query, groups, key_dim, value_dim })
    }

    /// Dimensions of a head that turn.
    fn turned(&self, keys: &Keys<'_, '_>) -> Result<usize, ModelError> {
        let Self { key_dim, suffix, .. } = *self;
        let name = format!("rope.dimension_count{suffix}");
        let dims = keys.size_or_zero(&name)?.unwrap_or(key_dim);
        if dims > key_dim || dims % 2 != 0 {
            return Err(keys.bad(&name, dims, format!("must be even and at most key_length{suffix} = {key_dim}")));
        }
        Ok(dims)
    }
}
