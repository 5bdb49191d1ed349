//! Rotary position embedding (Su et al., arXiv 2104.09864) in the NEOX form: dimension i turns with i + n/2, for the
//! first n dimensions of a head; or, for latent attention, in the form of neighbouring pairs. Linear and YaRN scaling (Peng et al., arXiv 2309.00071) as GGUF keys describe them.

use super::linear::Compute;
use super::ModelError;
use crate::kernels::rows::{for_rows, from_rows, with_rows};
use candle_core::Tensor;

/// How positions beyond the trained context are squeezed (`rope.scaling.*`).
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All angles divided by the factor.
    Linear {
        /// `rope.scaling.factor`
        factor: f32,
    },
    /// Slow dimensions interpolated, fast ones kept, a ramp between.
    Yarn {
        /// `rope.scaling.factor`
        factor: f32,
        /// `rope.scaling.original_context_length`
        original: usize,
        /// `rope.scaling.attn_factor`: multiplies the usual `1 + 0.1 ln(factor)`.
        attention: f32,
        /// Rotations over the original context above which a dimension is kept (32).
        beta_fast: f32,
        /// Rotations below which a dimension is interpolated (1).
        beta_slow: f32,
        /// The ramp begins and ends at whole dimensions.
        whole: bool,
    },
}

/// Angles per position for one kind of head.
pub struct Rope {
    /// Radians per position, for each of the n/2 pairs.
    frequencies: Vec<f64>,
    /// Multiplies cosine and sine (YaRN's attention factor).
    magnitude: f32,
}

/// Cosines and sines for the positions of one step; computed once and used by all layers.
pub struct Angles {
    half: usize,
    /// `[tokens, 2 * half]`: cosines, then sines.
    table: Vec<f32>,
}

/// The rotation of a model: the same in all layers, or another one in those that see a window.
pub struct Rotation {
    /// Of all layers, or of those that see everything.
    pub(super) plain: Rope,
    /// Of those that see a window, where it differs.
    pub(super) windowed: Option<Rope>,
}

/// The angles of one step for both kinds of layer.
pub struct Turns {
    plain: Angles,
    windowed: Option<Angles>,
}

impl Rotation {
    /// Pairs that turn, and those that turn in layers that see a window, where that differs.
    pub(super) fn halves(&self) -> (usize, Option<usize>) {
        (self.plain.half(), self.windowed.as_ref().map(Rope::half))
    }

    /// Cosines and sines of both, for a device: those of `plain`, then those of `windowed`.
    pub(super) fn tables(&self, position: usize, tokens: usize) -> Vec<f32> {
        let mut table = self.plain.angles(position, tokens).table;
        table.extend(self.windowed.iter().flat_map(|r| r.angles(position, tokens).table));
        table
    }

    /// The tables for `tokens` tokens from `position` on.
    #[must_use]
    pub fn turns(&self, position: usize, tokens: usize) -> Turns {
        Turns { plain: self.plain.angles(position, tokens), windowed: self.windowed.as_ref().map(|r| r.angles(position, tokens)) }
    }
}

impl Turns {
    /// The table of a layer that sees a window, or of one that sees everything.
    #[must_use]
    pub fn of(&self, window: bool) -> &Angles {
        self.windowed.as_ref().filter(|_| window).unwrap_or(&self.plain)
    }
}

impl Rope {
    /// `dims` rotated dimensions (even), base frequency, scaling, and optional divisors per pair (`rope_freqs.weight`).
    #[must_use]
    pub fn new(dims: usize, base: f32, scaling: &Scaling, factors: Option<&[f32]>) -> Self {
        let half = dims / 2;
        let base = f64::from(base);
        let mut frequencies: Vec<f64> = (0..half)
            .map(|i| {
                let divisor = factors.and_then(|f| f.get(i)).map_or(1.0, |&f| f64::from(f));
                base.powf(-2.0 * i as f64 / dims as f64) / divisor
            })
            .collect();
        let mut magnitude = 1.0;
        match *scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= f64::from(factor)),
            Scaling::Yarn { factor, original, attention, beta_fast, beta_slow, whole } => {
                // The dimension whose wave turns `beta` times over the original context.
                let dim =
                    |beta: f32| dims as f64 * (original as f64 / (f64::from(beta) * 2.0 * std::f64::consts::PI)).ln() / (2.0 * base.ln());
                let last = dims as f64 - 1.0;
                let (low, high) = match whole {
                    true => (dim(beta_fast).floor(), dim(beta_slow).ceil()),
                    false => (dim(beta_fast), dim(beta_slow)),
                };
                let (low, high) = (low.clamp(0.0, last), high.clamp(0.0, last));
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    *f = (*f / f64::from(factor)) * ramp + *f * (1.0 - ramp);
                }
                magnitude = attention * (1.0 + 0.1 * factor.max(1.0).ln());
            }
        }
        Self { frequencies, magnitude }
    }

    /// Pairs that turn.
    pub(super) fn half(&self) -> usize {
        self.frequencies.len()
    }

    /// The table for `tokens` tokens from `position` on.
    #[must_use]
    pub fn angles(&self, position: usize, tokens: usize) -> Angles {
        let half = self.frequencies.len();
        let mut table = Vec::with_capacity(tokens * half * 2);
        for p in position..position + tokens {
            let angle = |f: &f64| f * p as f64;
            table.extend(self.frequencies.iter().map(|f| angle(f).cos() as f32 * self.magnitude));
            table.extend(self.frequencies.iter().map(|f| angle(f).sin() as f32 * self.magnitude));
        }
        Angles { half, table }
    }
}

impl Angles {
    /// Turn the first dimensions of every head: `[tokens, heads * head_dim]` in, the same out.
    ///
    /// # Errors
    /// The rows do not divide into heads that long, or there are more tokens than angles.
    pub fn rotate(&self, compute: &Compute, x: &Tensor, head_dim: usize) -> Result<Tensor, ModelError> {
        let (tokens, cols) = x.dims2()?;
        let half = self.half;
        if head_dim == 0 || cols % head_dim != 0 || 2 * half > head_dim || self.table.len() < tokens * 2 * half {
            return Err(candle_core::Error::Msg(format!("can't rotate {} of {head_dim} dimensions in rows of {cols}", 2 * half)).into());
        }
        let out = with_rows(x, |values| {
            let mut out = values.to_vec();
            for_rows(&compute.pool, &mut out, cols, &|t, row| {
                let (cos, sin) = self.table[t * 2 * half..(t + 1) * 2 * half].split_at(half);
                for head in row.chunks_exact_mut(head_dim) {
                    let (a, b) = head[..2 * half].split_at_mut(half);
                    for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
                    }
                }
            });
            out
        })?;
        Ok(from_rows(out, tokens, cols)?)
    }

    /// Turn what turns of a head of token number `token`, `[2 * half]`, in place: dimensions 2i and 2i + 1 with each other.
    ///
    /// # Panics
    /// There are fewer angles.
    pub fn turn_pairs(&self, token: usize, head: &mut [f32]) {
        let half = self.half;
        let (cos, sin) = self.table[token * 2 * half..(token + 1) * 2 * half].split_at(half);
        for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (a, b) = (pair[0], pair[1]);
            (pair[0], pair[1]) = (a * c - b * s, b * c + a * s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Pool;

    fn rotated(rope: &Rope, position: usize, x: &[f32]) -> Vec<f32> {
        let compute = Compute::new(Pool::new(1));
        let t = from_rows(x.to_vec(), 1, x.len()).unwrap();
        with_rows(&rope.angles(position, 1).rotate(&compute, &t, x.len()).unwrap(), <[f32]>::to_vec).unwrap()
    }

    #[test]
    fn dots_depend_on_the_distance_of_positions_only() {
        let rope = Rope::new(4, 100.0, &Scaling::None, None);
        let (q, k) = ([0.3, -1.0, 2.0, 0.7, 5.0], [1.1, 0.2, -0.4, 0.9, 3.0]);
        let dot = |p, r| -> f32 { rotated(&rope, p, &q).iter().zip(rotated(&rope, r, &k)).map(|(a, b)| a * b).sum() };
        assert!((dot(7, 3) - dot(104, 100)).abs() < 1e-4);
        assert!((dot(7, 3) - dot(7, 4)).abs() > 1e-3);
        assert_eq!(rotated(&rope, 9, &q)[4], 5.0, "dimensions beyond the rotated ones stay");
    }

    #[test]
    fn pairs_turn_as_halves_of_the_same_values_do() {
        let rope = Rope::new(6, 100.0, &Scaling::None, None);
        let halves = [0.3, -1.0, 2.0, 0.7, 5.0, -0.2];
        let mut pairs = [0.3, 0.7, -1.0, 5.0, 2.0, -0.2];
        rope.angles(8, 3).turn_pairs(1, &mut pairs);
        let want = rotated(&rope, 9, &halves);
        assert_eq!(pairs, [want[0], want[3], want[1], want[4], want[2], want[5]]);
    }

    #[test]
    fn yarn_keeps_fast_dimensions_and_stretches_slow_ones() {
        let scaling = Scaling::Yarn { factor: 4.0, original: 32768, attention: 1.0, beta_fast: 32.0, beta_slow: 1.0, whole: true };
        let plain = Rope::new(128, 1e6, &Scaling::None, None);
        let yarn = Rope::new(128, 1e6, &scaling, None);
        assert_eq!(plain.frequencies[0], yarn.frequencies[0]);
        assert!((plain.frequencies[63] / yarn.frequencies[63] - 4.0).abs() < 1e-9);
        assert!((yarn.magnitude - 1.138_629_4).abs() < 1e-6);
        let linear = Rope::new(128, 1e6, &Scaling::Linear { factor: 2.0 }, None);
        assert!(plain.frequencies.iter().zip(&linear.frequencies).all(|(a, b)| (a / b - 2.0).abs() < 1e-12));
    }

    #[test]
    fn factors_divide_frequencies() {
        let rope = Rope::new(4, 100.0, &Scaling::None, Some(&[2.0, 4.0]));
        assert!((rope.frequencies[0] - 0.5).abs() < 1e-12 && (rope.frequencies[1] - 0.025).abs() < 1e-12);
    }
}
