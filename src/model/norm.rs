//! Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467).

use super::linear::Compute;
use super::ModelError;
use crate::kernels::rows::{for_rows, from_rows, with_rows};
use candle_core::Tensor;

/// `y = x / sqrt(mean(x^2) + eps) * weight`, over rows as long as the weight.
pub struct RmsNorm {
    weight: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    /// Normalises rows of `weight.len()` values.
    #[must_use]
    pub fn new(weight: Vec<f32>, eps: f32) -> Self {
        Self { weight, eps }
    }

    /// Weights and epsilon.
    pub(super) fn parts(&self) -> (&[f32], f32) {
        (&self.weight, self.eps)
    }

    /// `[tokens, n * len]` in, the same out: each of the n pieces of a row is normalised by itself, so the same code
    /// serves whole rows and the heads inside them.
    ///
    /// # Errors
    /// The rows are not a multiple of the weight.
    pub fn forward(&self, compute: &Compute, x: &Tensor) -> Result<Tensor, ModelError> {
        let (tokens, cols) = x.dims2()?;
        let len = self.weight.len();
        if len == 0 || cols % len != 0 {
            return Err(candle_core::Error::Msg(format!("a norm of {len} values can't be applied to rows of {cols}")).into());
        }
        let out = with_rows(x, |values| {
            let mut out = vec![0.0; values.len()];
            for_rows(&compute.pool, &mut out, cols, &|i, row| {
                for (x, y) in values[i * cols..(i + 1) * cols].chunks_exact(len).zip(row.chunks_exact_mut(len)) {
                    self.row(x, y);
                }
            });
            out
        })?;
        Ok(from_rows(out, tokens, cols)?)
    }

    fn row(&self, x: &[f32], y: &mut [f32]) {
        let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + self.eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(&self.weight) {
            *y = x * scale * w;
        }
    }
}

/// In eight interleaved partial sums: as exact as pairwise summation at these lengths, and the compiler can vectorise it.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut acc = [0.0f32; 8];
    let chunks = x.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for c in chunks {
        for (a, v) in acc.iter_mut().zip(c) {
            *a += v * v;
        }
    }
    acc.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Pool;

    #[test]
    fn pieces_of_a_row_are_normalised_one_by_one() {
        let compute = Compute::new(Pool::new(1));
        let x = from_rows(vec![3.0, 4.0, 30.0, 40.0, 0.0, 0.0, 1.0, -1.0], 2, 4).unwrap();
        let norm = RmsNorm::new(vec![1.0, 2.0], 0.0);
        let y = with_rows(&norm.forward(&compute, &x).unwrap(), <[f32]>::to_vec).unwrap();
        let r = 12.5f32.sqrt();
        assert!((y[0] - 3.0 / r).abs() < 1e-6 && (y[1] - 8.0 / r).abs() < 1e-6);
        assert!((y[2] - y[0]).abs() < 1e-6, "scale does not matter");
        assert!(y[4].is_nan(), "0/0 without eps");
        assert!((y[6] - 1.0).abs() < 1e-6 && (y[7] + 2.0).abs() < 1e-6);
        assert!(norm.forward(&compute, &from_rows(vec![0.0; 3], 1, 3).unwrap()).is_err());
    }
}
