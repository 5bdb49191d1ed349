//! Hyperparameters of a model, read from GGUF metadata with every number checked.
//!
//! Keys are llama.cpp's (`ARCH.block_count` and so on); defaults are the ones that llama.cpp takes where a key is
//! absent, or what all models of a family have, where that differs.

mod gemma4;
mod hybrid;
mod keys;
mod latent;
mod lfm2;

use super::cache::{kept, KvCache};
use super::latent_cache::LatentCache;
use super::rope::Scaling;
use super::weights::Weights;
use super::ModelError;
use crate::experts::budget::CacheNeed;
use crate::gguf::Value;
use crate::kernels::attention::Heads;
use keys::{Keys, LIMIT};

pub use hybrid::{Hybrid, Recurrence};
pub use latent::{Latent, Selection};

/// Architectures that mix attention with gated delta nets.
const HYBRIDS: [&str; 3] = ["qwen35moe", "qwen35", "qwen3next"];

/// Architectures whose block that guesses further tokens can be run.
pub const GUESSING: [&str; 2] = ["qwen35moe", "qwen35"];

/// The architecture whose layers see windows by turns.
const GPT_OSS: &str = "gpt-oss";

/// The architecture whose layers have heads of two sizes.
const GEMMA4: &str = "gemma4";

/// The architecture with latent attention.
const DEEPSEEK2: &str = "deepseek2";

/// The architecture with such routers and other attention.
const GLM4MOE: &str = "glm4moe";

/// The architecture with such routers, without dense layers or an expert that every token uses.
const MINIMAX_M2: &str = "minimax-m2";

/// The architecture with an expert that every token uses, by a weight of its own.
const QWEN2MOE: &str = "qwen2moe";

/// The architecture that mixes attention with short convolutions.
const LFM2MOE: &str = "lfm2moe";

/// How wide an expert is that every token uses.
const SHARED_WIDTH: &str = "expert_shared_feed_forward_length";

/// Architectures whose routers choose as [`Selection`] says.
const SELECTIVE: [&str; 4] = [DEEPSEEK2, GLM4MOE, MINIMAX_M2, LFM2MOE];

/// Architectures in which the dense width of a file that names no other is that of one expert.
const ONE_WIDTH: [&str; 2] = ["olmoe", MINIMAX_M2];

/// What devices lack for files with one map to keys and values.
pub(super) const MADE: &str =
    "a file with attn_kv_b in place of attn_k_b and attn_v_b has no GPU kernels (converters have written the two since 2025)";

/// What they lack for experts in groups.
const GROUPS: &str = "experts that are chosen by groups have no GPU kernels yet";

/// What the metadata says about a decoder with routed experts.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture`.
    pub arch: String,
    /// Layers.
    pub blocks: usize,
    /// Context that the model was trained for, in tokens.
    pub context: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Attention heads; where layers differ, [`ModelConfig::heads_of`] tells.
    pub heads: Heads,
    /// The heads of every layer where layers differ, else nothing.
    pub layer_heads: Vec<Heads>,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Base of the rotation.
    pub rope_base: f32,
    /// Rotated dimensions of a head.
    pub rope_dims: usize,
    /// Stretching of positions.
    pub rope_scaling: Scaling,
    /// Routed experts per layer; 0 if the model has none.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Width inside an expert.
    pub expert_ff: usize,
    /// Width inside a dense feed-forward, if the file names one.
    pub dense_ff: usize,
    /// Layers at the start that have a dense feed-forward.
    pub leading_dense: usize,
    /// Factor on the gate weights.
    pub expert_scale: f32,
    /// `expert_weights_norm`, if the file says it.
    pub renormalise: Option<bool>,
    /// Clamp on queries, keys and values.
    pub clamp_qkv: Option<f32>,
    /// Vocabulary size, from the embedding table.
    pub vocab: usize,
    /// Present if some layers have a recurrent state instead of keys and values.
    pub hybrid: Option<Hybrid>,
    /// Present if some layers see only the last positions.
    pub sliding: Option<Sliding>,
    /// Logits are bent to stay within plus or minus this (`final_logit_softcapping`).
    pub softcap: Option<f32>,
    /// Present if attention is latent.
    pub latent: Option<Latent>,
    /// How routers choose.
    pub selection: Selection,
    /// Width inside the expert that every token uses; 0: there is none. ([`Hybrid::shared_ff`] is that of hybrids.)
    pub shared_ff: usize,
    /// Behind the layers there is a block that guesses further tokens, and it is to be loaded; see [`super::Model::guess`].
    pub guesses: bool,
}

/// Layers that see a window (`gpt-oss`, `gemma4`).
#[derive(Clone, Debug, PartialEq)]
pub struct Sliding {
    /// Positions that such a layer sees, a token's own the last.
    pub window: usize,
    /// Per layer, whether it is such a layer.
    pub layers: Vec<bool>,
    /// Base of the rotation and rotated dimensions there, where they are not those of the other layers.
    pub rope: Option<(f32, usize)>,
}

impl Sliding {
    /// The window of this layer; `None`: it sees everything.
    #[must_use]
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.layers.get(layer).copied().unwrap_or(false).then_some(self.window)
    }
}

/// Sizes of the routed experts; all 0 if there are none.
#[derive(Clone, Copy, Default)]
struct Moe {
    experts: usize,
    top_k: usize,
    expert_ff: usize,
}

impl ModelConfig {
    /// Read and check the keys of a `qwen3moe`-like decoder.
    pub(crate) fn read(weights: &Weights<'_>) -> Result<Self, ModelError> {
        let arch = weights.gguf.arch()?.to_owned();
        let keys = Keys { weights, arch: &arch };
        let blocks = Self::blocks(&keys)?;
        let hidden = keys.need("embedding_length")?;
        if arch == GEMMA4 {
            return Self::gemma4(&keys, blocks, hidden);
        }
        if arch == DEEPSEEK2 {
            return Self::deepseek2(&keys, blocks, hidden);
        }
        if arch == LFM2MOE {
            return Self::lfm2moe(&keys, blocks, hidden);
        }
        let heads = Self::heads(&keys, hidden)?;
        let hybrid_arch = HYBRIDS.contains(&arch.as_str());
        if hybrid_arch && heads.key_dim != heads.value_dim {
            let why = format!("contradicts attention.key_length = {}: the output gate has one width for both", heads.key_dim);
            return Err(keys.bad("attention.value_length", heads.value_dim, why));
        }
        let dense_ff = keys.size_or_zero("feed_forward_length")?.unwrap_or(0);
        if arch == "qwen35" {
            return Self::dense(&keys, blocks, hidden, heads, dense_ff);
        }
        let moe = Self::moe(&keys, dense_ff)?;
        let mut config = Self::common(&keys, blocks, hidden, heads, dense_ff, moe)?;
        match arch.as_str() {
            GLM4MOE => config.choose(&keys)?,
            MINIMAX_M2 => config.selection = Selection::read(&keys, 0, moe.experts, moe.top_k)?,
            // An expert that every token uses must not be left out for want of a width.
            QWEN2MOE => {
                config.shared_ff = match keys.size_or_zero(SHARED_WIDTH)? {
                    Some(width) => width,
                    None if dense_ff > 0 => dense_ff,
                    None => keys.need(SHARED_WIDTH)?,
                };
            }
            _ => {}
        }
        config.hybrid = hybrid_arch.then(|| Hybrid::delta(&keys, blocks, dense_ff)).transpose()?;
        config.sliding = (arch == GPT_OSS).then(|| Self::sliding(&keys, blocks, 2)).transpose()?;
        Ok(config)
    }

    /// Sizes of the routed experts.
    fn moe(keys: &Keys<'_, '_>, dense_ff: usize) -> Result<Moe, ModelError> {
        let (weights, arch) = (keys.weights, keys.arch);
        let experts = keys.need("expert_count")?;
        if experts > usize::from(u16::MAX) {
            return Err(keys.bad("expert_count", experts, "more than 65534 experts per layer can't be addressed"));
        }
        let top_k = keys.need("expert_used_count")?;
        if top_k > experts {
            return Err(keys.bad("expert_used_count", top_k, format!("exceeds expert_count = {experts}")));
        }
        match weights.gguf.u64(&keys.key("expert_gating_func"))? {
            None | Some(0 | 1) => {}
            // See [`Selection`].
            Some(_) if SELECTIVE.contains(&arch) => {}
            // Softmax over the chosen ones.
            Some(3) if arch == GPT_OSS => {}
            Some(f) => return Err(keys.bad("expert_gating_func", f, "only softmax gating (1) is known for this architecture")),
        }
        let expert_ff = match keys.size_or_zero("expert_feed_forward_length")? {
            Some(n) => n,
            // Qwen's files without the key split the dense width among the chosen experts.
            None if !ONE_WIDTH.contains(&arch) && dense_ff / top_k > 0 => dense_ff / top_k,
            None if dense_ff > 0 => dense_ff,
            None => return Err(ModelError::MissingKey { file: weights.file.clone(), key: keys.key("expert_feed_forward_length") }),
        };
        Ok(Moe { experts, top_k, expert_ff })
    }

    /// A hybrid without experts.
    fn dense(keys: &Keys<'_, '_>, blocks: usize, hidden: usize, heads: Heads, dense_ff: usize) -> Result<Self, ModelError> {
        if let Some(n) = keys.size_or_zero("expert_count")? {
            return Err(keys.bad(
                "expert_count",
                n,
                "contradicts the architecture, which has no experts; with experts it is called qwen35moe",
            ));
        }
        if dense_ff == 0 {
            keys.need("feed_forward_length")?;
        }
        let mut config = Self::common(keys, blocks, hidden, heads, dense_ff, Moe::default())?;
        config.hybrid = Some(Hybrid::delta(keys, blocks, dense_ff)?);
        Ok(config)
    }

    /// What all architectures have.
    fn common(keys: &Keys<'_, '_>, blocks: usize, hidden: usize, heads: Heads, dense_ff: usize, moe: Moe) -> Result<Self, ModelError> {
        let weights = keys.weights;
        // A file of this family that does not say so means what all published models of the family have.
        let hybrid = HYBRIDS.contains(&keys.arch);
        let (usual_dims, usual_base) = if hybrid { (heads.key_dim / 4, 1e7) } else { (heads.key_dim, 1e4) };
        let rope_dims = keys.size_or_zero("rope.dimension_count")?.unwrap_or(usual_dims);
        if rope_dims > heads.key_dim || rope_dims % 2 != 0 {
            return Err(keys.bad("rope.dimension_count", rope_dims, format!("must be even and at most key_length = {}", heads.key_dim)));
        }
        Self::sections(keys, rope_dims)?;
        let table = weights
            .gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| ModelError::MissingTensor { file: weights.file.clone(), tensor: "token_embd.weight".into() })?;
        let vocab = table.dims.get(1).copied().unwrap_or(1);
        let leading_dense = keys.size_or_zero("leading_dense_block_count")?.unwrap_or(0);
        Ok(Self {
            blocks,
            context: keys.need("context_length")?,
            hidden,
            heads,
            layer_heads: Vec::new(),
            eps: keys
                .number("attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| ModelError::MissingKey { file: weights.file.clone(), key: keys.key("attention.layer_norm_rms_epsilon") })?,
            rope_base: keys.positive("rope.freq_base")?.unwrap_or(usual_base),
            rope_dims,
            rope_scaling: Self::scaling(keys)?,
            experts: moe.experts,
            top_k: moe.top_k,
            expert_ff: moe.expert_ff,
            dense_ff,
            leading_dense,
            expert_scale: keys.number("expert_weights_scale")?.filter(|s| *s != 0.0).unwrap_or(1.0),
            renormalise: weights.gguf.bool(&keys.key("expert_weights_norm"))?,
            clamp_qkv: keys.number("attention.clamp_kqv")?.filter(|c| *c > 0.0),
            vocab,
            hybrid: None,
            sliding: None,
            softcap: None,
            latent: None,
            selection: Selection::default(),
            shared_ff: 0,
            guesses: Self::has_guesses(keys, blocks)?,
            arch: keys.arch.to_owned(),
        })
    }

    /// What the keys and values of all layers take, if those that see a window keep what they need to go back by so many positions; `None`: everything.
    #[must_use]
    pub fn cache_need(&self, f32: bool, goes_back: Option<usize>) -> CacheNeed {
        let recurrent = |layer: usize| self.hybrid.as_ref().is_some_and(|h| h.recurrent.get(layer) == Some(&true));
        let window = |layer: usize| self.sliding.as_ref().and_then(|s| s.window(layer)).zip(goes_back);
        let mut need = CacheNeed::default();
        for layer in (0..self.loaded()).filter(|layer| !recurrent(*layer)) {
            let heads = self.heads_of(layer);
            let bytes = match &self.latent {
                Some(latent) if latent.absorbed => LatentCache::token_bytes(heads.key_dim, f32),
                _ => KvCache::token_bytes(heads, f32),
            };
            match window(layer) {
                Some((window, goes_back)) => (need.windowed, need.kept) = (need.windowed + bytes, kept(window, goes_back, usize::MAX)),
                None => need.per_token += bytes,
            }
        }
        need
    }

    /// Attention heads of a layer.
    #[must_use]
    pub fn heads_of(&self, layer: usize) -> Heads {
        self.layer_heads.get(layer).copied().unwrap_or(self.heads)
    }

    /// What no device here can compute of such a model, in a few words; `None`: nothing.
    #[must_use]
    pub fn beyond_devices(&self) -> Option<&'static str> {
        use crate::gpu::params::{Convolve, LatentAttention, Rotate, Route};
        let long = |h: Heads| h.key_dim.max(h.value_dim) > Rotate::HEAD_DIM as usize;
        match self.latent {
            Some(l) if !l.absorbed => return Some(MADE),
            Some(l) if l.rank + l.turned > LatentAttention::KEY_DIM as usize || l.rank > Rotate::HEAD_DIM as usize => {
                return Some("a latent of more than 512 values, or 640 with what turns, has no GPU kernels");
            }
            // Rows of queries are read four values at a time.
            Some(l) if !(l.plain + l.turned).is_multiple_of(4) => {
                return Some("latent attention with heads that are no multiple of 4 values has no GPU kernels");
            }
            None if (0..self.blocks).any(|layer| long(self.heads_of(layer))) => {
                return Some("attention with heads of more than 512 values has no GPU kernels");
            }
            _ => {}
        }
        if self.hybrid.as_ref().is_some_and(|h| h.width > Convolve::TAPS as usize) {
            return Some("a convolution over more than 8 tokens has no GPU kernels");
        }
        if self.experts > Route::EXPERTS as usize {
            return Some("a router of more than 1024 experts has no GPU kernels");
        }
        let Selection { sigmoid, bias, groups } = self.selection;
        if !sigmoid && bias {
            return Some("a bias for the choice among the shares of a softmax has no GPU kernels");
        }
        groups.map(|_| GROUPS)
    }

    /// What halves of layers give is normalised before it is added.
    #[must_use]
    pub fn adds_normed(&self) -> bool {
        self.arch == GEMMA4
    }

    /// Whether the block behind the `blocks` layers guesses further tokens, in a way that can be run here. Some files count it and are without it. Of several such blocks the
    /// first is meant.
    fn has_guesses(keys: &Keys<'_, '_>, blocks: usize) -> Result<bool, ModelError> {
        let there = keys.weights.has(&format!("blk.{blocks}.nextn.eh_proj.weight"));
        Ok(there && GUESSING.contains(&keys.arch) && keys.weights.gguf.u64(&keys.key("nextn_predict_layers"))? != Some(0))
    }

    /// Blocks of the file that are loaded: the layers, and the one that guesses.
    #[must_use]
    pub fn loaded(&self) -> usize {
        self.blocks + usize::from(self.guesses)
    }

    /// Layers that decode. `block_count` includes the blocks that predict further tokens, which plain decoding leaves out; a file
    /// that does not count them is known by their tensors.
    fn blocks(keys: &Keys<'_, '_>) -> Result<usize, ModelError> {
        let blocks = keys.need("block_count")?;
        match keys.size_or_zero("nextn_predict_layers")? {
            Some(n) if n >= blocks => Err(keys.bad("nextn_predict_layers", n, format!("leaves nothing of block_count = {blocks}"))),
            Some(n) => Ok(blocks - n),
            None => {
                let predicts = |b: usize| keys.weights.has(&format!("blk.{b}.nextn.eh_proj.weight"));
                let decoding = (1..=blocks).rev().find(|&n| !predicts(n - 1)).unwrap_or(0);
                if decoding == 0 {
                    return Err(keys.bad(
                        "block_count",
                        blocks,
                        "all of them predict further tokens; the file with the model itself is needed",
                    ));
                }
                Ok(decoding)
            }
        }
    }

    /// Sections of the rotation belong to time, height and width. In text all three are equal, so how the pairs are shared out
    /// does not matter, but they must be all there.
    fn sections(keys: &Keys<'_, '_>, rope_dims: usize) -> Result<(), ModelError> {
        const KEY: &str = "rope.dimension_sections";
        let Some(value) = keys.weights.gguf.get(&keys.key(KEY)) else { return Ok(()) };
        let sections: Option<Vec<u64>> = value.as_array().map(|all| all.iter().filter_map(Value::as_u64).collect());
        let sum = sections.unwrap_or_default().iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        if sum == 0 || sum == rope_dims as u64 / 2 {
            return Ok(());
        }
        Err(keys.bad(
            KEY,
            format!("{sum} pairs in all"),
            format!("contradicts rope.dimension_count = {rope_dims}, which has {}", rope_dims / 2),
        ))
    }

    /// Which layers see a window: those that a list of true and false names; else all but every so many-th, by the file or as `usual`.
    fn sliding(keys: &Keys<'_, '_>, blocks: usize, usual: usize) -> Result<Sliding, ModelError> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        let window = keys.need("attention.sliding_window")?;
        let flag = |v: &Value| if let Value::Bool(b) = v { Some(*b) } else { v.as_u64().map(|n| n != 0) };
        let layers = match keys.weights.gguf.get(&keys.key(PATTERN)) {
            Some(Value::Array(flags)) => match flags.iter().map(flag).collect::<Option<Vec<bool>>>() {
                Some(layers) if layers.len() >= blocks => layers,
                _ => return Err(keys.bad(PATTERN, "(an array)", format!("must hold a true or false for each of {blocks} layers"))),
            },
            _ => {
                let every = keys.size(PATTERN)?.unwrap_or(usual);
                (0..blocks).map(|i| (i + 1) % every != 0).collect()
            }
        };
        Ok(Sliding { window, layers, rope: None })
    }

    fn heads(keys: &Keys<'_, '_>, hidden: usize) -> Result<Heads, ModelError> {
        let query = keys.need("attention.head_count")?;
        let groups = keys.size("attention.head_count_kv")?.unwrap_or(query);
        Self::heads_with(keys, hidden, groups)
    }

    /// The same with so many key heads.
    fn heads_with(keys: &Keys<'_, '_>, hidden: usize, groups: usize) -> Result<Heads, ModelError> {
        let query = keys.need("attention.head_count")?;
        if query % groups != 0 {
            return Err(keys.bad("attention.head_count_kv", groups, format!("does not divide head_count = {query}")));
        }
        let default = hidden / query;
        let key_dim = keys.size("attention.key_length")?.unwrap_or(default);
        let value_dim = keys.size("attention.value_length")?.unwrap_or(default);
        if key_dim == 0 || value_dim == 0 {
            return Err(keys.bad("attention.head_count", query, format!("exceeds embedding_length = {hidden}")));
        }
        if query.saturating_mul(key_dim.max(value_dim)) as u64 > LIMIT {
            return Err(keys.bad("attention.key_length", key_dim, format!("{query} heads of it exceed {LIMIT} values")));
        }
        Ok(Heads { query, groups, key_dim, value_dim })
    }

    fn scaling(keys: &Keys<'_, '_>) -> Result<Scaling, ModelError> {
        let kind = keys.weights.gguf.str(&keys.key("rope.scaling.type"))?.map(str::to_owned);
        let factor = match keys.positive("rope.scaling.factor")? {
            Some(f) => f,
            // The name of the key in the first files that had one.
            None => keys.positive("rope.scale_linear")?.unwrap_or(1.0),
        };
        match kind.as_deref() {
            Some("none") => Ok(Scaling::None),
            None | Some("linear") if factor == 1.0 => Ok(Scaling::None),
            None | Some("linear") => Ok(Scaling::Linear { factor }),
            Some("yarn") => Ok(Scaling::Yarn {
                factor,
                original: match keys.size("rope.scaling.original_context_length")? {
                    Some(n) => n,
                    None => keys.need("context_length")?,
                },
                attention: keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
                beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                // As its authors have it; llama.cpp rounds here too.
                whole: keys.arch != GPT_OSS,
            }),
            Some(other) => Err(keys.bad("rope.scaling.type", other, "known are none, linear and yarn")),
        }
    }
}
