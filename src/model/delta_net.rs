//! The gated delta net layer of Qwen3-Next, Qwen3.5 and Qwen3.6: linear attention with a state of fixed size.
//!
//! A projection of queries, keys and values goes through a short causal convolution; a recurrence (see
//! [`crate::kernels::delta`]) reads them into one state per value head; its output is normalised and gated. Tensor names
//! and layouts are llama.cpp's (`qwen35moe`): value heads lie in tiled order, `ssm_a` holds `-exp(A_log)`.

use super::linear::{Compute, Linear};
use super::recurrent::{self, Recurrent};
use super::ModelError;
use crate::kernels::delta::{activated_conv, delta_rule, DeltaHeads, DeltaInput};
use crate::kernels::rows::{for_rows, from_rows, with_rows};
use candle_core::Tensor;

/// How a file stores the maps to queries, keys, values and the output's gate.
pub enum Projection {
    /// One for the convolution's channels, one for the gate.
    Split {
        /// hidden -> `[queries | keys | values]`.
        mixed: Linear,
        /// hidden -> value heads.
        gate: Linear,
    },
    /// Everything of a key head together: hidden -> per key head `[query | key | its values | their gates]`.
    Fused(Linear),
}

/// How a file stores the maps to the strengths (beta) and decays (alpha) of the value heads.
pub enum Rates {
    /// One each.
    Split {
        /// hidden -> one strength per value head.
        beta: Linear,
        /// hidden -> one decay per value head.
        alpha: Linear,
    },
    /// hidden -> per key head `[strengths of its value heads | their decays]`.
    Paired(Linear),
}

/// The order of value heads in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadOrder {
    /// Value head h belongs to key head `h % keys`.
    Tiled,
    /// Value head h belongs to key head `h / (values / keys)`.
    Grouped,
}

/// The weights of a layer. `decay_bias`, `rate` and `taps` are in tiled order whatever the file's.
pub struct DeltaWeights {
    /// To queries, keys, values and the output's gate.
    pub projection: Projection,
    /// To strengths and decays.
    pub rates: Rates,
    /// Of the value heads in the maps above and below.
    pub order: HeadOrder,
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
pub struct State {
    /// Last inputs of the convolution, `[width - 1, channels]`.
    carry: Vec<f32>,
    /// `[values, key_dim, value_dim]`
    heads: Vec<f32>,
}

impl recurrent::State for State {
    fn set(&mut self, other: &Self) {
        self.carry.copy_from_slice(&other.carry);
        self.heads.copy_from_slice(&other.heads);
    }

    fn clear(&mut self) {
        self.carry.fill(0.0);
        self.heads.fill(0.0);
    }
}

/// One gated delta net layer with its state.
pub struct DeltaNet {
    weights: DeltaWeights,
    heads: DeltaHeads,
    eps: f32,
    /// The state, and the copies to go back to.
    pub past: Recurrent<State>,
}

impl DeltaNet {
    /// A layer that has read nothing, and that can keep `snapshots` copies of its state.
    #[must_use]
    pub fn new(weights: DeltaWeights, heads: DeltaHeads, eps: f32, snapshots: usize) -> Self {
        let width = weights.taps.len() / heads.channels().max(1);
        let carry = vec![0.0; width.saturating_sub(1) * heads.channels()];
        let state = State { carry, heads: vec![0.0; heads.state_len()] };
        Self { weights, heads, eps, past: Recurrent::new(state, snapshots) }
    }

    /// What a device takes over: weights, sizes, epsilon, and how many copies of the state are kept.
    pub(super) fn into_parts(self) -> (DeltaWeights, DeltaHeads, f32, usize) {
        (self.weights, self.heads, self.eps, self.past.room())
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
        let Inputs { mut mixed, gate, mut beta, alpha: mut decay } = self.inputs(compute, x)?;
        beta.iter_mut().for_each(|b| *b = sigmoid(*b));
        for (i, a) in decay.iter_mut().enumerate() {
            let head = i % self.heads.values;
            *a = (w.rate[head] * softplus(*a + w.decay_bias[head])).exp();
        }
        let DeltaHeads { values, value_dim, .. } = self.heads;
        let (channels, width) = (self.heads.channels(), values * value_dim);
        let mut out = vec![0.0; tokens * width];
        let Self { weights: w, heads, eps, past } = self;
        past.pass(tokens, |state, stretch| {
            let mixed = &mut mixed[stretch.start * channels..stretch.end * channels];
            activated_conv(mixed, channels, &w.taps, &mut state.carry);
            normalise(mixed, *heads, *eps);
            let per_head = stretch.start * values..stretch.end * values;
            let input = DeltaInput { mixed, decay: &decay[per_head.clone()], beta: &beta[per_head] };
            let read = &mut out[stretch.start * width..stretch.end * width];
            delta_rule(&compute.pool, *heads, input, &mut state.heads, read);
            gated_norm(compute, *heads, &w.norm, *eps, read, &gate[stretch.start * width..stretch.end * width]);
        });
        if self.weights.order == HeadOrder::Grouped {
            out = reorder(&out, self.heads, value_dim, group_to_tile(self.heads));
        }
        self.weights.output.forward(compute, &from_rows(out, tokens, width)?)
    }

    /// All projections of `x`, value heads in tiled order.
    fn inputs(&self, compute: &mut Compute, x: &Tensor) -> Result<Inputs, ModelError> {
        let (w, heads) = (&self.weights, self.heads);
        let rows = |t: &Tensor| with_rows(t, <[f32]>::to_vec);
        let (mut mixed, mut gate) = (Vec::new(), Vec::new());
        let (mut beta, mut alpha): (Vec<f32>, Vec<f32>);
        match (&w.projection, &w.rates) {
            (Projection::Split { mixed: m, gate: z }, Rates::Split { beta: b, alpha: a }) => {
                let [m, z, b, a] = Linear::many(compute, [m, z, b, a], x)?;
                (mixed, gate, beta, alpha) = (rows(&m)?, rows(&z)?, rows(&b)?, rows(&a)?);
            }
            (Projection::Split { mixed: m, gate: z }, Rates::Paired(paired)) => {
                let [m, z, paired] = Linear::many(compute, [m, z, paired], x)?;
                (mixed, gate) = (rows(&m)?, rows(&z)?);
                (beta, alpha) = with_rows(&paired, |p| halves(p, heads))?;
            }
            (Projection::Fused(all), rates) => {
                let all = all.forward(compute, x)?;
                with_rows(&all, |all| split_fused(all, heads, &mut mixed, &mut gate))?;
                (beta, alpha) = match rates {
                    Rates::Split { beta, alpha } => (rows(&beta.forward(compute, x)?)?, rows(&alpha.forward(compute, x)?)?),
                    Rates::Paired(paired) => with_rows(&paired.forward(compute, x)?, |p| halves(p, heads))?,
                };
            }
        }
        if w.order == HeadOrder::Grouped {
            let from = tile_to_group(heads);
            let before = 2 * heads.keys * heads.key_dim;
            for row in mixed.chunks_exact_mut(heads.channels()) {
                let values = reorder(&row[before..], heads, heads.value_dim, from.clone());
                row[before..].copy_from_slice(&values);
            }
            gate = reorder(&gate, heads, heads.value_dim, from.clone());
            beta = reorder(&beta, heads, 1, from.clone());
            alpha = reorder(&alpha, heads, 1, from);
        }
        Ok(Inputs { mixed, gate, beta, alpha })
    }
}

/// What the heads read, `[values, tokens, value_dim]`, becomes their normalised and gated output,
/// `[tokens, values, value_dim]`. `norm`: the weights of a head's norm.
fn gated_norm(compute: &Compute, heads: DeltaHeads, norm: &[f32], eps: f32, read: &mut [f32], gate: &[f32]) {
    let DeltaHeads { values, value_dim, .. } = heads;
    let tokens = read.len() / (values * value_dim);
    let before = read.to_vec();
    for_rows(&compute.pool, read, value_dim, &|i, y| {
        let (t, h) = (i / values, i % values);
        let o = &before[(h * tokens + t) * value_dim..][..value_dim];
        let z = &gate[i * value_dim..][..value_dim];
        let scale = 1.0 / (o.iter().map(|o| o * o).sum::<f32>() / value_dim as f32 + eps).sqrt();
        for (((y, o), z), n) in y.iter_mut().zip(o).zip(z).zip(norm) {
            *y = o * scale * n * (z * sigmoid(*z));
        }
    });
}

/// What the projections give for some tokens.
struct Inputs {
    /// `[tokens, channels]`
    mixed: Vec<f32>,
    /// `[tokens, values, value_dim]`
    gate: Vec<f32>,
    /// `[tokens, values]`
    beta: Vec<f32>,
    /// `[tokens, values]`
    alpha: Vec<f32>,
}

/// For each value head in tiled order, its place in grouped order.
pub(super) fn tile_to_group(heads: DeltaHeads) -> Vec<usize> {
    let each = heads.values / heads.keys;
    (0..heads.values).map(|t| (t % heads.keys) * each + t / heads.keys).collect()
}

/// For each value head in grouped order, its place in tiled order.
pub(super) fn group_to_tile(heads: DeltaHeads) -> Vec<usize> {
    let each = heads.values / heads.keys;
    (0..heads.values).map(|g| (g % each) * heads.keys + g / each).collect()
}

/// `[tokens, values, len]` with head h taken from `from[h]`.
pub(super) fn reorder(x: &[f32], heads: DeltaHeads, len: usize, from: Vec<usize>) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(heads.values * len) {
        from.iter().for_each(|&h| out.extend_from_slice(&row[h * len..(h + 1) * len]));
    }
    out
}

/// `[tokens, keys, (query | key | values | gates)]` into `[tokens, queries | keys | values]` and `[tokens, gates]`.
fn split_fused(all: &[f32], heads: DeltaHeads, mixed: &mut Vec<f32>, gate: &mut Vec<f32>) {
    let DeltaHeads { keys, values, key_dim, value_dim } = heads;
    let own = values / keys * value_dim;
    let group = 2 * key_dim + 2 * own;
    for row in all.chunks_exact(keys * group) {
        for part in [0..key_dim, key_dim..2 * key_dim, 2 * key_dim..2 * key_dim + own] {
            row.chunks_exact(group).for_each(|g| mixed.extend_from_slice(&g[part.clone()]));
        }
        row.chunks_exact(group).for_each(|g| gate.extend_from_slice(&g[2 * key_dim + own..]));
    }
}

/// `[tokens, keys, (strengths | decays)]` into both.
fn halves(paired: &[f32], heads: DeltaHeads) -> (Vec<f32>, Vec<f32>) {
    let each = heads.values / heads.keys;
    let (mut beta, mut alpha) = (Vec::new(), Vec::new());
    for pair in paired.chunks_exact(2 * each) {
        beta.extend_from_slice(&pair[..each]);
        alpha.extend_from_slice(&pair[each..]);
    }
    (beta, alpha)
}

/// Queries and keys to unit length, queries scaled by `1 / sqrt(key_dim)`.
fn normalise(mixed: &mut [f32], heads: DeltaHeads, eps: f32) {
    let DeltaHeads { keys, key_dim, .. } = heads;
    for row in mixed.chunks_exact_mut(heads.channels()) {
        for (i, head) in row[..2 * keys * key_dim].chunks_exact_mut(key_dim).enumerate() {
            let mut scale = 1.0 / (head.iter().map(|v| v * v).sum::<f32>() + eps).sqrt();
            if i < keys {
                scale /= (key_dim as f32).sqrt();
            }
            head.iter_mut().for_each(|v| *v *= scale);
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`, without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: DeltaHeads = DeltaHeads { keys: 2, values: 6, key_dim: 1, value_dim: 2 };

    #[test]
    fn grouped_and_tiled_heads_are_the_same_heads() {
        let grouped: Vec<f32> = [0, 0, 0, 1, 1, 1].iter().enumerate().map(|(h, k)| (10 * k + h) as f32).collect();
        let tiled = reorder(&grouped, HEADS, 1, tile_to_group(HEADS));
        assert!(tiled.iter().enumerate().all(|(h, v)| *v as usize / 10 == h % 2), "head h belongs to key head h % 2: {tiled:?}");
        assert_eq!(reorder(&tiled, HEADS, 1, group_to_tile(HEADS)), grouped);
    }

    #[test]
    fn fused_projections_come_apart() {
        // Per key head: query, key, three values of two, three gates of two.
        let row: Vec<f32> = (0..28).map(|i| i as f32).collect();
        let (mut mixed, mut gate) = (Vec::new(), Vec::new());
        split_fused(&row, HEADS, &mut mixed, &mut gate);
        assert_eq!(mixed, [0., 14., 1., 15., 2., 3., 4., 5., 6., 7., 16., 17., 18., 19., 20., 21.]);
        assert_eq!(gate, [8., 9., 10., 11., 12., 13., 22., 23., 24., 25., 26., 27.]);
        let paired: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(halves(&paired, HEADS), (vec![0., 1., 2., 6., 7., 8.], vec![3., 4., 5., 9., 10., 11.]));
    }
}
