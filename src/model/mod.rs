//! Architectures, one file each, over shared layers. They see experts only as [`Experts::forward`].

use crate::experts::Experts;

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// To be replaced by precise variants.
    #[error("{0}")]
    Other(String),
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

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
    /// `stop` is asked between layers; if it answers true the pass ends with `Ok(None)` and the context is as before.
    fn forward(
        &mut self,
        tokens: &[u32],
        experts: &mut Experts,
        logits: Logits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError>;
    /// Tokens in the context.
    fn len(&self) -> usize;
    /// Shorten the context to `len` tokens or to the nearest point below that the model can go back to; returns the new length.
    fn truncate(&mut self, len: usize) -> usize;
    /// Bytes of the context in use.
    fn cache_bytes(&self) -> u64;
    /// Vocabulary size.
    fn vocab(&self) -> usize;
}
