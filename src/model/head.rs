//! The output head: final norm, then logits over the vocabulary.

use super::linear::{Compute, Linear};
use super::norm::RmsNorm;
use super::{Logits, ModelError};
use crate::kernels::rows::with_rows;
use candle_core::Tensor;

/// Final norm and the map from hidden state to logits. A tied head holds the embedding table.
pub struct Head {
    norm: RmsNorm,
    output: Linear,
}

impl Head {
    /// `output` maps hidden to vocabulary.
    #[must_use]
    pub fn new(norm: RmsNorm, output: Linear) -> Self {
        Self { norm, output }
    }

    /// What a device takes over.
    pub(super) fn parts(&self) -> (&RmsNorm, &Linear) {
        (&self.norm, &self.output)
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
        let y = self.output.forward(compute, &self.norm.forward(compute, &rows)?)?;
        Ok(with_rows(&y, <[f32]>::to_vec)?)
    }
}
