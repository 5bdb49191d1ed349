//! The gated delta net layer of Qwen3-Next, Qwen3.5 and Qwen3.6: linear attention with a state of fixed size.
//!
//! A projection of queries, keys and values goes through a short causal convolution; a recurrence (see
//! [`crate::kernels::delta`]) reads them into one state per value head; its output is normalised and gated. Tensor names
//! and layouts are llama.cpp's (`qwen35moe`): value heads lie in tiled order, `ssm_a` holds `-exp(A_log)`.

use super::linear::{Compute, Linear};
use super::snapshots::Snapshots;
use super::ModelError;
use crate::kernels::delta::{causal_conv, delta_rule, DeltaHeads, DeltaInput};
use crate::kernels::rows::{for_rows, from_rows, with_rows};
use candle_core::Tensor;

/// The weights of a layer.
pub struct DeltaWeights {
    /// hidden -> `[queries | keys | values]`.
    pub mixed: Linear,
    /// hidden -> value heads, gates the output.
    pub gate: Linear,
    /// hidden -> one strength per value head.
    pub beta: Linear,
    /// hidden -> one decay per value head.
    pub alpha: Linear,
    /// Added to the decay's projection, `[values]`.
    pub decay_bias: Vec<f32>,
    /// Negative rate of the decay, `[values]`.
    pub rate: Vec<f32>,
    /// Convolution, `[width, channels]`.
    pub taps: Vec<f32>,
    /// Norm of each output head, `[value_dim]`.
    pub norm: Vec<f32>,
    /// value heads -> hidden.
    pub output: Linear,
}

/// What the layer remembers of the tokens read so far.
#[derive(Clone)]
struct State {
    /// Last inputs of the convolution, `[width - 1, channels]`.
    carry: Vec<f32>,
    /// `[values, key_dim, value_dim]`
    heads: Vec<f32>,
}

/// One gated delta net layer with its state.
pub struct DeltaNet {
    weights: DeltaWeights,
    heads: DeltaHeads,
    eps: f32,
    state: State,
    /// Tokens that the state has read.
    len: usize,
    snapshots: Snapshots<State>,
}

impl DeltaNet {
    /// A layer that has read nothing, and that can keep `snapshots` copies of its state.
    #[must_use]
    pub fn new(weights: DeltaWeights, heads: DeltaHeads, eps: f32, snapshots: usize) -> Self {
        let width = weights.taps.len() / heads.channels().max(1);
        let carry = vec![0.0; width.saturating_sub(1) * heads.channels()];
        let state = State { carry, heads: vec![0.0; heads.state_len()] };
        Self { weights, heads, eps, state, len: 0, snapshots: Snapshots::new(snapshots) }
    }

    /// Bytes of one state.
    #[must_use]
    pub fn state_bytes(heads: DeltaHeads, width: usize) -> u64 {
        4 * (heads.state_len() + width.saturating_sub(1) * heads.channels()) as u64
    }

    /// `[tokens, hidden]` in, the same out. The state moves on by these tokens.
    ///
    /// # Errors
    /// From the dot products.
    pub fn forward(&mut self, compute: &mut Compute, x: &Tensor) -> Result<Tensor, ModelError> {
        let (tokens, _) = x.dims2()?;
        let w = &self.weights;
        let [mixed, gate, beta, alpha] = Linear::many(compute, [&w.mixed, &w.gate, &w.beta, &w.alpha], x)?;
        let mut mixed = with_rows(&mixed, <[f32]>::to_vec)?;
        causal_conv(&mut mixed, self.heads.channels(), &w.taps, &mut self.state.carry);
        self.normalise(&mut mixed);
        let beta: Vec<f32> = with_rows(&beta, |b| b.iter().map(|&b| sigmoid(b)).collect())?;
        let decay: Vec<f32> = with_rows(&alpha, |a| {
            let of = |(i, a): (usize, &f32)| (w.rate[i % self.heads.values] * softplus(a + w.decay_bias[i % self.heads.values])).exp();
            a.iter().enumerate().map(of).collect()
        })?;
        let DeltaHeads { values, value_dim, .. } = self.heads;
        let mut read = vec![0.0; values * tokens * value_dim];
        let input = DeltaInput { mixed: &mixed, decay: &decay, beta: &beta };
        delta_rule(&compute.pool, self.heads, input, &mut self.state.heads, &mut read);
        self.len += tokens;

        let mut out = vec![0.0; tokens * values * value_dim];
        with_rows(&gate, |gate| {
            for_rows(&compute.pool, &mut out, value_dim, &|i, y| {
                let (t, h) = (i / values, i % values);
                let o = &read[(h * tokens + t) * value_dim..][..value_dim];
                let z = &gate[i * value_dim..][..value_dim];
                let scale = 1.0 / (o.iter().map(|o| o * o).sum::<f32>() / value_dim as f32 + self.eps).sqrt();
                for (((y, o), z), n) in y.iter_mut().zip(o).zip(z).zip(&w.norm) {
                    *y = o * scale * n * (z * sigmoid(*z));
                }
            });
        })?;
        self.weights.output.forward(compute, &from_rows(out, tokens, values * value_dim)?)
    }

    /// Queries and keys to unit length, queries scaled by `1 / sqrt(key_dim)`.
    fn normalise(&self, mixed: &mut [f32]) {
        let DeltaHeads { keys, key_dim, .. } = self.heads;
        for row in mixed.chunks_exact_mut(self.heads.channels()) {
            for (i, head) in row[..2 * keys * key_dim].chunks_exact_mut(key_dim).enumerate() {
                let mut scale = 1.0 / (head.iter().map(|v| v * v).sum::<f32>() + self.eps).sqrt();
                if i < keys {
                    scale /= (key_dim as f32).sqrt();
                }
                head.iter_mut().for_each(|v| *v *= scale);
            }
        }
    }

    /// Keep a copy of the state as it is now.
    pub fn keep(&mut self) {
        self.snapshots.keep(self.len, || self.state.clone());
    }

    /// The nearest length at or below `len` that the layer can go back to.
    #[must_use]
    pub fn reachable(&self, len: usize) -> usize {
        if self.len == len {
            return len;
        }
        self.snapshots.at_or_below(len).unwrap_or(0)
    }

    /// Go back to a length that [`DeltaNet::reachable`] named.
    pub fn rewind(&mut self, len: usize) {
        if len == self.len {
            self.snapshots.forget_beyond(len);
            return;
        }
        self.snapshots.forget_beyond(len);
        match self.snapshots.get(len) {
            Some(state) => self.state = state.clone(),
            None => {
                self.state.carry.fill(0.0);
                self.state.heads.fill(0.0);
            }
        }
        self.len = len;
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`, without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
