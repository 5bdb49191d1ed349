//! The gated short convolution of LFM2 (Liquid AI): a few tokens see each other, channel by channel.
//!
//! `[b | c | x] = in_proj h`; `y = c * conv(b * x)`; the result is `out_proj y`. The convolution is causal, over `l_cache` tokens, without an
//! activation; what it remembers is its last `l_cache - 1` inputs. Names and order are llama.cpp's (`src/models/lfm2.cpp`), and those of
//! transformers (`Lfm2MoeShortConv`).

use super::linear::{Compute, Linear};
use super::recurrent::Recurrent;
use super::ModelError;
use crate::kernels::convolution::causal_conv;
use crate::kernels::rows::{from_rows, with_rows};
use candle_core::Tensor;

/// The weights of a layer.
pub struct ConvWeights {
    /// hidden -> `[b | c | x]`, each as wide as the hidden state.
    pub input: Linear,
    /// `[width, hidden]`.
    pub taps: Vec<f32>,
    /// hidden -> hidden.
    pub output: Linear,
}

/// One such layer with its state.
pub struct ShortConv {
    weights: ConvWeights,
    channels: usize,
    /// The last inputs of the convolution, `[width - 1, channels]`, and the copies to go back to.
    pub past: Recurrent<Vec<f32>>,
}

impl ShortConv {
    /// A layer that has read nothing, and that can keep `snapshots` copies of its state.
    #[must_use]
    pub fn new(weights: ConvWeights, channels: usize, snapshots: usize) -> Self {
        let carry = vec![0.0; weights.taps.len().saturating_sub(channels)];
        Self { weights, channels, past: Recurrent::new(carry, snapshots) }
    }

    /// What a device takes over: weights, channels, and how many copies of the state are kept.
    pub(super) fn into_parts(self) -> (ConvWeights, usize, usize) {
        (self.weights, self.channels, self.past.room())
    }

    /// Bytes of one state.
    #[must_use]
    pub fn state_bytes(channels: usize, width: usize) -> u64 {
        4 * (width.saturating_sub(1) * channels) as u64
    }

    /// `[tokens, hidden]` in, the same out. The state moves on by these tokens.
    ///
    /// # Errors
    /// From the dot products.
    pub fn forward(&mut self, compute: &mut Compute, h: &Tensor) -> Result<Tensor, ModelError> {
        let (tokens, _) = h.dims2()?;
        let Self { weights, channels, past } = self;
        let channels = *channels;
        let parts = weights.input.forward(compute, h)?;
        let y = with_rows(&parts, |parts| {
            let mut y = Vec::with_capacity(tokens * channels);
            for row in parts.chunks_exact(3 * channels) {
                y.extend(row[..channels].iter().zip(&row[2 * channels..]).map(|(b, x)| b * x));
            }
            past.pass(tokens, |carry, stretch| {
                causal_conv(&mut y[stretch.start * channels..stretch.end * channels], channels, &weights.taps, carry);
            });
            for (y, row) in y.chunks_exact_mut(channels).zip(parts.chunks_exact(3 * channels)) {
                y.iter_mut().zip(&row[channels..]).for_each(|(y, c)| *y *= c);
            }
            y
        })?;
        weights.output.forward(compute, &from_rows(y, tokens, channels)?)
    }
}
