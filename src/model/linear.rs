//! Linear maps over weights that stay in their GGUF type.

use super::ModelError;
use crate::kernels::rows::{from_rows, with_rows};
use crate::kernels::{matmul, Activations, Job, Matrix, Pool};
use candle_core::Tensor;
use std::sync::Arc;

/// What the layers compute with: the worker pool, and the buffers of quantized inputs that are used again and again.
pub struct Compute {
    /// Shared with the experts.
    pub pool: Arc<Pool>,
    activations: Activations,
}

impl Compute {
    /// Layers run on `pool`.
    #[must_use]
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool, activations: Activations::default() }
    }
}

/// A map of its own for each head, `[heads, rows, cols]` in its GGUF type, in the mapped file.
pub struct HeadMaps {
    stack: Matrix,
    heads: usize,
}

impl HeadMaps {
    /// `stack` has the rows of all heads below each other, as many of each.
    #[must_use]
    pub fn new(stack: Matrix, heads: usize) -> Self {
        Self { stack, heads }
    }

    /// What a device takes over.
    pub(super) fn parts(&self) -> (&Matrix, usize) {
        (&self.stack, self.heads)
    }

    /// `[tokens, heads * cols]` in, `[heads, tokens, rows]` out, in one fork-join.
    ///
    /// # Errors
    /// See [`Linear::forward`].
    pub fn forward(&self, compute: &mut Compute, x: &[f32], tokens: usize) -> Result<Vec<f32>, ModelError> {
        let Self { stack, heads } = self;
        let rows = stack.rows / heads;
        compute.activations.set(x, tokens * heads, stack.cols);
        let picks: Vec<Vec<u32>> = (0..*heads).map(|h| (0..tokens).map(|t| (t * heads + h) as u32).collect()).collect();
        let mut out = vec![0.0; heads * tokens * rows];
        let weights = stack.bytes.chunks_exact((stack.bytes.len() / heads).max(1));
        let mut jobs: Vec<Job<'_>> = weights
            .zip(&picks)
            .zip(out.chunks_exact_mut((tokens * rows).max(1)))
            .map(|((weights, pick), out)| Job { ty: stack.ty, rows, weights, pick: Some(pick), out })
            .collect();
        matmul(&compute.pool, &mut compute.activations, &mut jobs)?;
        drop(jobs);
        Ok(out)
    }
}

/// `y = W x + b` with `W` `[rows, cols]` in its GGUF type, in the mapped file.
pub struct Linear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// A map from `weight.cols` to `weight.rows` values.
    #[must_use]
    pub fn new(weight: Matrix, bias: Option<Vec<f32>>) -> Self {
        Self { weight, bias }
    }

    /// What a device takes over.
    pub(super) fn parts(&self) -> (&Matrix, Option<&[f32]>) {
        (&self.weight, self.bias.as_deref())
    }

    /// `[tokens, cols]` in, `[tokens, rows]` out.
    ///
    /// # Errors
    /// Shapes that do not fit, or a type without a dot product.
    pub fn forward(&self, compute: &mut Compute, x: &Tensor) -> Result<Tensor, ModelError> {
        let [y] = Self::many(compute, [self], x)?;
        Ok(y)
    }

    /// Several maps over the same input in one fork-join: the input is quantized once, and the threads meet once.
    ///
    /// # Errors
    /// See [`Linear::forward`].
    pub fn many<const N: usize>(compute: &mut Compute, maps: [&Self; N], x: &Tensor) -> Result<[Tensor; N], ModelError> {
        let (tokens, cols) = x.dims2()?;
        let Compute { pool, activations } = compute;
        with_rows(x, |values| activations.set(values, tokens, cols))?;
        let mut outs = maps.map(|m| vec![0.0f32; tokens * m.weight.rows]);
        let mut jobs: Vec<Job<'_>> = maps
            .iter()
            .zip(&mut outs)
            .map(|(m, out)| Job { ty: m.weight.ty, rows: m.weight.rows, weights: &m.weight.bytes, pick: None, out })
            .collect();
        matmul(pool, activations, &mut jobs)?;
        drop(jobs);
        let mut tensors = Vec::with_capacity(N);
        for (map, mut out) in maps.iter().zip(outs) {
            if let Some(bias) = &map.bias {
                for row in out.chunks_mut(map.weight.rows) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            }
            tensors.push(from_rows(out, tokens, map.weight.rows)?);
        }
        tensors.try_into().map_err(|_| candle_core::Error::Msg("one output per map".into()).into())
    }
}
