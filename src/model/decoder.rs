//! A pre-norm decoder: `x += mixer(norm(x)); x += feed_forward(norm(x))`, layer after layer, then the head. Some families
//! normalise what is added, too, and multiply what a layer gives.
//!
//! Architectures differ in what they put into it; how a step runs is the same for all of them.

use super::attention::SelfAttention;
use super::config::{Hybrid, ModelConfig};
use super::delta_net::DeltaNet;
use super::embedding::Embedding;
use super::feed_forward::FeedForward;
use super::head::Head;
use super::latent_attention::LatentAttention;
use super::linear::{Compute, Linear};
use super::norm::RmsNorm;
use super::predictor::{unless_damaged, Predictor};
use super::rope::{Rope, Rotation, Scaling, Turns};
use super::short_conv::ShortConv;
use super::weights::Weights;
use super::{LoadSettings, Logits, Model, ModelError};
use crate::experts::budget::CacheNeed;
use crate::experts::Experts;
use crate::kernels::rows::with_rows;
use candle_core::Tensor;

/// What lets tokens of a layer see each other.
pub enum Mixer {
    /// Attention over a cache of keys and values.
    Attention(Box<SelfAttention>),
    /// Attention over a cache of what keys and values are made of.
    Latent(Box<LatentAttention>),
    /// A recurrence with a state of fixed size.
    DeltaNet(Box<DeltaNet>),
    /// A convolution over the last few tokens.
    ShortConv(Box<ShortConv>),
}

impl Mixer {
    fn forward(&mut self, compute: &mut Compute, x: &Tensor, position: usize, turns: &Turns) -> Result<Tensor, ModelError> {
        match self {
            Self::Attention(a) => a.forward(compute, x, position, turns.of(a.window.is_some())),
            Self::Latent(a) => a.forward(compute, x, position, turns.of(false)),
            Self::DeltaNet(d) => d.forward(compute, x),
            Self::ShortConv(c) => c.forward(compute, x),
        }
    }

    /// The nearest length at or below `len` that this layer can go back to.
    fn reachable(&self, len: usize) -> usize {
        match self {
            Self::Attention(a) => a.cache.kept().reachable(len, a.window),
            Self::Latent(_) => len,
            Self::DeltaNet(d) => d.past.reachable(len),
            Self::ShortConv(c) => c.past.reachable(len),
        }
    }

    /// Go back to a length that every layer can reach.
    fn rewind(&mut self, len: usize) {
        match self {
            Self::Attention(_) | Self::Latent(_) => {}
            Self::DeltaNet(d) => d.past.rewind(len),
            Self::ShortConv(c) => c.past.rewind(len),
        }
    }

    /// The next pass makes these lengths ones that can be gone back to.
    fn mark(&mut self, lens: &[usize]) {
        match self {
            Self::Attention(_) | Self::Latent(_) => {}
            Self::DeltaNet(d) => d.past.mark(lens),
            Self::ShortConv(c) => c.past.mark(lens),
        }
    }

    /// The next pass may be taken back in part, of at most one token more than `room`.
    fn tentative(&mut self, room: usize) {
        match self {
            Self::Attention(_) | Self::Latent(_) => {}
            Self::DeltaNet(d) => d.past.tentative(room),
            Self::ShortConv(c) => c.past.tentative(room),
        }
    }
}

/// One layer.
pub struct Layer {
    /// Before the mixer.
    pub mixer_norm: RmsNorm,
    /// Attention or its like.
    pub mixer: Mixer,
    /// Before the feed-forward.
    pub ff_norm: RmsNorm,
    /// Dense, or routed experts.
    pub feed_forward: FeedForward,
    /// What is done beyond that.
    pub after: After,
}

impl Layer {
    /// The hidden state `[tokens, hidden]` at positions `position..` in, the same behind the layer out. `name` is what an error calls the layer.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward(
        &mut self,
        compute: &mut Compute,
        experts: &mut Experts,
        mut x: Tensor,
        position: usize,
        turns: &Turns,
        file: &str,
        name: &dyn Fn() -> String,
    ) -> Result<Tensor, ModelError> {
        let h = self.mixer_norm.forward(compute, &x)?;
        let y = self.mixer.forward(compute, &h, position, turns)?;
        x = After::add(self.after.mixer_norm.as_ref(), compute, x, y)?;
        check(&x, file, || format!("{} (attention)", name()))?;
        let h = self.ff_norm.forward(compute, &x)?;
        let y = self.feed_forward.forward(compute, experts, &x, &h)?;
        x = After::add(self.after.ff_norm.as_ref(), compute, x, y)?;
        if let Some(scale) = self.after.scale {
            x = (x * f64::from(scale))?;
        }
        check(&x, file, || format!("{} (feed-forward)", name()))?;
        Ok(x)
    }
}

/// What some families do with the results of a layer; most do nothing.
#[derive(Default)]
pub struct After {
    /// Norm of what the mixer gives, before it is added.
    pub mixer_norm: Option<RmsNorm>,
    /// Norm of what the feed-forward gives, before it is added.
    pub ff_norm: Option<RmsNorm>,
    /// Multiplies the hidden state at the end.
    pub scale: Option<f32>,
}

impl After {
    /// `x` and what a half layer gave, together.
    fn add(norm: Option<&RmsNorm>, compute: &Compute, x: Tensor, y: Tensor) -> Result<Tensor, ModelError> {
        let y = if let Some(norm) = norm { norm.forward(compute, &y)? } else { y };
        Ok((x + y)?)
    }
}

/// What stands around the layers.
pub struct Parts {
    pub(super) file: String,
    pub(super) embedding: Embedding,
    pub(super) head: Head,
    pub(super) rotation: Rotation,
}

impl Parts {
    /// Embedding, head and rotation by their usual names. Without `output.weight` the head is the embedding table.
    pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig) -> Result<Self, ModelError> {
        Self::with_norm(weights, config, "output_norm")
    }

    /// The same where the norm before the head has a name of its own.
    pub(crate) fn with_norm(weights: &Weights<'_>, config: &ModelConfig, norm: &str) -> Result<Self, ModelError> {
        let table = weights.matrix("token_embd.weight", config.hidden, config.vocab)?;
        let output = match weights.has("output.weight") {
            true => weights.linear("output", config.hidden, config.vocab)?,
            false => Linear::new(table.clone(), None),
        };
        let factors = weights.optional_vector("rope_freqs.weight", config.rope_dims / 2)?;
        let own = config.sliding.as_ref().and_then(|s| s.rope);
        Ok(Self {
            file: weights.file.clone(),
            embedding: Embedding::new(table),
            head: Head::new(weights.norm(norm, config)?, output).capped(config.softcap),
            rotation: Rotation {
                plain: Rope::new(config.rope_dims, config.rope_base, &config.rope_scaling, factors.as_deref()),
                windowed: own.map(|(base, dims)| Rope::new(dims, base, &Scaling::None, None)),
            },
        })
    }
}

/// A whole model and its context.
pub struct Decoder {
    parts: Parts,
    layers: Vec<Layer>,
    /// Room in tokens.
    context: usize,
    /// What keys and values take.
    cache: CacheNeed,
    /// Bytes of recurrent state, whatever the length.
    state_bytes: u64,
    compute: Compute,
    /// Tokens in the context.
    len: usize,
    /// Lengths that a reader asked to be able to go back to, ascending.
    marks: Vec<usize>,
    /// States that a recurrent layer can keep of a pass that may be taken back in part.
    trail: usize,
    /// The next pass is one.
    tentative: bool,
    predictor: Option<Predictor>,
}

/// Most tokens of a pass that may be taken back in part: few enough to be computed as single tokens are.
pub(super) const MOST_TENTATIVE: usize = 8;

/// A mark so few tokens after the beginning of a pass is not worth a copy: the beginning has one.
const NEAR: usize = 16;

/// Before a pass over `tokens` tokens that begins at `begin`: where recurrent layers copy their state. A pass that is stopped or
/// fails must be undone, so the beginning of every long one is such a place.
pub(super) fn places_to_copy(marks: &[usize], begin: usize, tokens: usize) -> Vec<usize> {
    let end = begin + tokens;
    let mut lens = Vec::new();
    if tokens > 1 && begin > 0 {
        lens.push(begin);
    }
    let far = if tokens > 1 { begin + NEAR } else { begin };
    lens.extend(marks.iter().copied().filter(|m| (far..end).contains(m)));
    lens
}

impl Decoder {
    /// A model with an empty context.
    pub(crate) fn new(parts: Parts, layers: Vec<Layer>, config: &ModelConfig, settings: &LoadSettings) -> Self {
        let cache = config.cache_need(settings.kv_f32, settings.goes_back);
        let state_bytes = config.hybrid.as_ref().map_or(0, |h| h.state_bytes());
        let trail = trail(config);
        let compute = Compute::new(settings.pool.clone());
        Self {
            parts,
            layers,
            context: settings.context,
            cache,
            state_bytes,
            compute,
            len: 0,
            marks: Vec::new(),
            trail,
            tentative: false,
            predictor: None,
        }
    }

    /// Have routers asked before their turn, where the experts want it.
    pub(super) fn ask_early(&mut self) -> Result<(), ModelError> {
        super::early::ask_early(&mut self.layers)
    }

    /// What a device takes over: the parts around the layers, the layers, and room in tokens, what keys and values take, and bytes of recurrent state; and the block that guesses.
    pub(super) fn into_parts(self) -> (Parts, Vec<Layer>, usize, CacheNeed, u64, Option<Predictor>) {
        (self.parts, self.layers, self.context, self.cache, self.state_bytes, self.predictor)
    }

    /// The same with a block that guesses further tokens.
    pub(super) fn guessing(self, predictor: Predictor) -> Self {
        Self { predictor: Some(predictor), ..self }
    }

    /// [`Model::guess`], with the logits of each guess.
    pub(super) fn guess_seen(
        &mut self,
        next: u32,
        most: usize,
        experts: &mut Experts,
        stop: &dyn Fn() -> bool,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<u32>, ModelError> {
        let Some(predictor) = &mut self.predictor else { return Ok(Vec::new()) };
        // `next` itself takes a place.
        let most = most.min((self.context - self.len).saturating_sub(1));
        predictor.guess(&mut self.compute, &self.parts, experts, next, most, stop, seen)
    }

    /// As if the block had none of the last pass's rows.
    #[cfg(test)]
    pub(super) fn forget_rows(&mut self) {
        self.predictor.iter_mut().for_each(Predictor::forget_rows);
    }

    /// Have recurrent layers keep their states where the pass at hand asks for it. Answers the lengths at which they do for long.
    fn mark_pass(&mut self, tokens: usize, tentative: bool) -> Vec<usize> {
        // What a tentative pass keeps of itself is no place for long.
        let lens = places_to_copy(&self.marks, self.len, if tentative { 1 } else { tokens });
        for layer in &mut self.layers {
            layer.mixer.mark(&lens);
            if tentative {
                layer.mixer.tentative(self.trail);
            }
        }
        if let Some(predictor) = &mut self.predictor {
            if tentative && self.state_bytes > 0 {
                predictor.leave(self.trail);
            }
            predictor.mark(&lens);
        }
        lens
    }
}

/// States that the recurrent layers of a model can keep of a pass that may be taken back in part; without such layers it is all the same.
pub(super) fn trail(config: &ModelConfig) -> usize {
    config.hybrid.as_ref().map_or(MOST_TENTATIVE - 1, Hybrid::trail)
}

/// The nearest length at or below `len` that all layers can go back to; `reach` asks each in turn. They all reach the empty context.
pub(super) fn agreed(mut len: usize, reach: impl Fn(usize) -> usize) -> usize {
    loop {
        let nearest = reach(len);
        if nearest == len {
            return len;
        }
        len = nearest;
    }
}

/// Lengths in order, each once.
pub(super) fn in_order(lens: &[usize]) -> Vec<usize> {
    let mut lens = lens.to_vec();
    lens.sort_unstable();
    lens.dedup();
    lens
}

/// An error that names the place if `x` has a NaN or an infinity.
fn check(x: &Tensor, file: &str, place: impl Fn() -> String) -> Result<(), ModelError> {
    if with_rows(x, all_finite)? {
        return Ok(());
    }
    Err(ModelError::NotFinite { file: file.to_owned(), place: place() })
}

/// Whether there is no NaN and no infinity. Branch-free inside, so that the check costs next to nothing.
pub(super) fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    !values.chunks(4096).any(|c| c.iter().fold(false, |bad, v| bad | (v.to_bits() & EXPONENT == EXPONENT)))
}

impl Model for Decoder {
    fn forward(
        &mut self,
        tokens: &[u32],
        experts: &mut Experts,
        logits: Logits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let tentative = std::mem::take(&mut self.tentative) && tokens.len() > 1;
        if tokens.len() > self.context - self.len {
            return Err(ModelError::ContextFull { used: self.len, more: tokens.len(), context: self.context });
        }
        if tokens.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let lens = self.mark_pass(tokens.len(), tentative);
        if let Some(predictor) = &mut self.predictor {
            if unless_damaged(predictor.before_pass(&mut self.compute, &self.parts, experts, tokens))?.is_none() {
                self.predictor = None;
            }
        }
        // A recurrent state copies itself before long passes only. A single token that were given up half way would cost
        // all that was read since the last copy, so it is read to its end.
        let whole = (tokens.len() == 1 || tentative) && self.state_bytes > 0;
        let mut x = self.parts.embedding.forward(tokens)?;
        let turns = self.parts.rotation.turns(self.len, tokens.len());
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if !whole && stop() {
                return Ok(None);
            }
            x = layer.forward(&mut self.compute, experts, x, self.len, &turns, &self.parts.file, &|| format!("layer {i}"))?;
        }
        let out = self.parts.head.forward(&mut self.compute, &x, logits)?;
        if !all_finite(&out) {
            return Err(ModelError::NotFinite { file: self.parts.file.clone(), place: "the output head".to_owned() });
        }
        if let Some(predictor) = &mut self.predictor {
            predictor.passed(self.len, tokens, &x, &lens)?;
        }
        self.len += tokens.len();
        Ok(Some(out))
    }

    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) -> usize {
        self.len = agreed(len.min(self.len), |len| self.layers.iter().fold(len, |len, l| l.mixer.reachable(len)));
        self.layers.iter_mut().for_each(|l| l.mixer.rewind(self.len));
        if let Some(predictor) = &mut self.predictor {
            predictor.cut(self.len);
        }
        self.len
    }

    fn mark(&mut self, lens: &[usize]) {
        self.marks = in_order(lens);
    }

    fn most_tentative(&self) -> usize {
        self.trail + 1
    }

    fn tentative(&mut self) {
        self.tentative = true;
    }

    fn cache_bytes(&self) -> u64 {
        self.cache.bytes(self.len) + self.state_bytes
    }

    fn vocab(&self) -> usize {
        self.parts.embedding.vocab()
    }

    fn guesses(&self) -> bool {
        self.predictor.is_some()
    }

    fn guess(&mut self, next: u32, most: usize, experts: &mut Experts, stop: &dyn Fn() -> bool) -> Result<Vec<u32>, ModelError> {
        let guesses = unless_damaged(self.guess_seen(next, most, experts, stop, &mut |_| {}))?;
        Ok(guesses.unwrap_or_else(|| {
            self.predictor = None;
            Vec::new()
        }))
    }

    #[cfg(test)]
    fn guess_with_logits(
        &mut self,
        next: u32,
        most: usize,
        experts: &mut Experts,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<u32>, ModelError> {
        self.guess_seen(next, most, experts, &|| false, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::all_finite;

    #[test]
    fn every_kind_of_non_number_is_seen() {
        let mut v = vec![1.0f32; 5000];
        assert!(all_finite(&v));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            v[4999] = bad;
            assert!(!all_finite(&v));
        }
        v[4999] = f32::MAX;
        assert!(all_finite(&v));
    }
}
