//! Architectures, one file each, over shared layers. They see experts only as [`Experts::forward`].
//!
//! Between layers, activations are candle tensors `[tokens, hidden]` in f32, so an architecture is written once for every
//! device. On the CPU, weights stay in the mapped file in their GGUF type and are multiplied by [`crate::kernels`].

pub mod attention;
pub mod cache;
pub mod config;
pub mod decoder;
mod deepseek2;
pub mod delta_net;
mod dense_and_routed;
pub mod device;
mod early;
pub mod embedding;
mod error;
mod expert_weights;
pub mod feed_forward;
mod gemma4;
mod glm4moe;
mod gpt_oss;
pub mod head;
pub mod latent_attention;
pub mod latent_cache;
mod lfm2moe;
pub mod linear;
mod minimax_m2;
pub mod norm;
mod olmoe;
mod open;
mod predictor;
pub mod proof;
mod qwen2moe;
mod qwen35moe;
mod qwen3moe;
pub mod recurrent;
pub mod rope;
pub mod router;
pub mod short_conv;
pub mod snapshots;
pub mod trail;
mod weights;

#[cfg(test)]
mod tests;

pub use config::ModelConfig;
pub use error::ModelError;
pub use open::{choose_for, guesses, load, look, open, open_on, open_planned, plan, plan_on, LoadSettings, Opened, Planned, CPU_CHUNK};

use crate::experts::Experts;

/// Architectures that can be loaded, as `general.architecture` names them.
pub const ARCHITECTURES: &[&str] = &[
    "qwen3moe",
    "qwen35moe",
    "qwen35",
    "qwen3next",
    "olmoe",
    "gpt-oss",
    "gemma4",
    "deepseek2",
    "glm4moe",
    "qwen3vlmoe",
    "qwen2moe",
    "minimax-m2",
    "lfm2moe",
];

/// Which logits a forward pass returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: the pass only fills the caches.
    None,
    /// Of the last token.
    Last,
    /// Of every token.
    All,
}

/// A loaded model with its context (keys, values, recurrent state) for one conversation.
pub trait Model: Send {
    /// Read `tokens` at the end of the context. Returns logits `[tokens or 1, vocab]`, row-major; empty for [`Logits::None`].
    ///
    /// `stop` is asked between layers; if it answers true the pass ends with `Ok(None)`.
    ///
    /// # Errors
    /// A context that is full, a token outside the vocabulary, damaged weights.
    ///
    /// After a pass that was stopped or failed the context has its length of before, but a layer that is recurrent or sees a window may have lost what that needs: whoever goes on calls [`Model::truncate`] with the length
    /// that it wants to keep, and believes the answer.
    fn forward(
        &mut self,
        tokens: &[u32],
        experts: &mut Experts,
        logits: Logits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError>;
    /// Tokens in the context.
    fn len(&self) -> usize;
    /// Whether the context is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Shorten the context to `len` tokens or to the nearest point below that the model can go back to; returns the new length.
    fn truncate(&mut self, len: usize) -> usize;
    /// Passes from now on make these lengths of the context ones that [`Model::truncate`] reaches exactly, as far as memory for that
    /// goes. A model that reaches every length anyway does nothing. Each call replaces the lengths of the last.
    fn mark(&mut self, _lens: &[usize]) {}
    /// Most tokens of a pass that may be taken back in part; see [`Model::tentative`].
    fn most_tentative(&self) -> usize {
        1
    }
    /// The next pass, of at most [`Model::most_tentative`] tokens, may be taken back in part: until another begins, [`Model::truncate`] reaches every length from its first token on.
    fn tentative(&mut self) {}
    /// Whether the model has a block that guesses further tokens, and it is loaded.
    fn guesses(&self) -> bool {
        false
    }
    /// What comes after `next`, which follows the context and is not read yet, by the model's own guess: at most `most` tokens, the likeliest each.
    /// Fewer (or none) if it is stopped, or the context has no room. The context stays as it is.
    ///
    /// # Errors
    /// As of [`Model::forward`].
    fn guess(&mut self, _next: u32, _most: usize, _experts: &mut Experts, _stop: &dyn Fn() -> bool) -> Result<Vec<u32>, ModelError> {
        Ok(Vec::new())
    }
    /// Bytes of the context in use.
    fn cache_bytes(&self) -> u64;
    /// Vocabulary size.
    fn vocab(&self) -> usize;
    /// [`Model::guess`], and `seen` gets the logits of each guess.
    ///
    /// # Errors
    /// As [`Model::guess`].
    #[cfg(test)]
    fn guess_with_logits(
        &mut self,
        _next: u32,
        _most: usize,
        _experts: &mut Experts,
        _seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<u32>, ModelError> {
        Ok(Vec::new())
    }
}

/// Keep candle's and rayon's own thread pools at one thread: this program computes on a pool of its own, and theirs would spin
/// on cores that it needs. To be called before the first tensor is made.
pub fn quiet_candle() {
    for key in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        if std::env::var_os(key).is_none() {
            std::env::set_var(key, "1");
        }
    }
}
