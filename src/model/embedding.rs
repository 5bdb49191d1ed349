//! Token embeddings: only the rows that are asked for leave their quantization.

use super::ModelError;
use crate::kernels::rows::from_rows;
use crate::kernels::{dequantize, Matrix};
use candle_core::Tensor;

/// The table `[vocab, hidden]`, left in the mapped file.
pub struct Embedding {
    table: Matrix,
    row_bytes: usize,
    /// Multiplies every row.
    scale: f32,
}

impl Embedding {
    /// `table.rows` is the vocabulary.
    #[must_use]
    pub fn new(table: Matrix) -> Self {
        let row_bytes = table.bytes.len().checked_div(table.rows).unwrap_or(0);
        Self { table, row_bytes, scale: 1.0 }
    }

    /// The same with every row multiplied by `scale` as it leaves the table.
    #[must_use]
    pub fn scaled(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// Vocabulary size.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.table.rows
    }

    /// `[tokens, hidden]`.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn forward(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let hidden = self.table.cols;
        let mut out = vec![0.0; tokens.len() * hidden];
        self.fill(tokens, &mut out)?;
        Ok(from_rows(out, tokens.len(), hidden)?)
    }

    /// The same into `out`, `[tokens, hidden]`.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub(super) fn fill(&self, tokens: &[u32], out: &mut [f32]) -> Result<(), ModelError> {
        for (&token, row) in tokens.iter().zip(out.chunks_mut(self.table.cols.max(1))) {
            let at = token as usize;
            if at >= self.table.rows {
                return Err(ModelError::Token { token, vocab: self.table.rows });
            }
            dequantize(self.table.ty, &self.table.bytes[at * self.row_bytes..(at + 1) * self.row_bytes], row)?;
            if self.scale != 1.0 {
                row.iter_mut().for_each(|v| *v *= self.scale);
            }
        }
        Ok(())
    }
}
