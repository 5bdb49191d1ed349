//! The output head: final norm, then logits over the vocabulary.

use super::linear::{Compute, Linear};
use super::norm::RmsNorm;
use super::{Logits, ModelError};
use crate::kernels::rows::{for_rows, softcap, with_rows};
use candle_core::Tensor;

/// Logits that a thread bends at a time: a row of them would leave the others nothing.
const PIECE: usize = 4096;

/// Final norm and the map from hidden state to logits. A tied head holds the embedding table.
pub struct Head {
    norm: RmsNorm,
    output: Linear,
    /// Logits become `cap * tanh(logit / cap)` (Gemma Team, arXiv 2408.00118).
    cap: Option<f32>,
}

impl Head {
    /// `output` maps hidden to vocabulary.
    #[must_use]
    pub fn new(norm: RmsNorm, output: Linear) -> Self {
        Self { norm, output, cap: None }
    }

    /// The same with logits bent to stay within plus or minus `cap`.
    #[must_use]
    pub fn capped(self, cap: Option<f32>) -> Self {
        Self { cap, ..self }
    }

    /// What a device takes over.
    pub(super) fn parts(&self) -> (&RmsNorm, &Linear) {
        (&self.norm, &self.output)
    }

    /// See [`Head::capped`].
    pub(super) fn cap(&self) -> Option<f32> {
        self.cap
    }

    /// Logits `[tokens or 1, vocab]` of the hidden states `[tokens, hidden]`; empty for [`Logits::None`].
    ///
    /// # Errors
    /// From the dot products.
    pub fn forward(&self, compute: &mut Compute, hidden: &Tensor, logits: Logits) -> Result<Vec<f32>, ModelError> {
        let (tokens, _) = hidden.dims2()?;
        let rows = match logits {
            Logits::None => return Ok(Vec::new()),
            Logits::Last => hidden.narrow(0, tokens - 1, 1)?,
            Logits::All => hidden.clone(),
        };
        let rows = self.normed(compute, &rows)?;
        self.logits(compute, None, &rows)
    }

    /// The rows as the last norm leaves them.
    ///
    /// # Errors
    /// Rows of another width.
    pub(super) fn normed(&self, compute: &Compute, rows: &Tensor) -> Result<Tensor, ModelError> {
        self.norm.forward(compute, rows)
    }

    /// Logits `[tokens, vocab]` of rows that are normalised, by another map than the head's if there is one.
    ///
    /// # Errors
    /// From the dot products.
    pub(super) fn logits(&self, compute: &mut Compute, other: Option<&Linear>, normed: &Tensor) -> Result<Vec<f32>, ModelError> {
        let y = other.unwrap_or(&self.output).forward(compute, normed)?;
        let mut logits = with_rows(&y, <[f32]>::to_vec)?;
        if let Some(cap) = self.cap {
            for_rows(&compute.pool, &mut logits, PIECE, &|_, piece| softcap(piece, cap));
        }
        Ok(logits)
    }
}
