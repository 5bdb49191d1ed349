//! Input rows, and their quantized forms.

#![allow(unsafe_code)]

use super::Pool;
use std::sync::{Mutex, PoisonError};

/// Below this many values, rounding them is cheaper than a fork-join.
const SERIAL_BELOW: usize = 16 * 1024;

/// Input rows `[tokens, cols]` in f32 with, made on demand, the quantized forms that the weight types want. Reusable: keeps its buffers.
#[derive(Default)]
pub struct Activations {
    pub(super) x: Vec<f32>,
    pub(super) tokens: usize,
    pub(super) cols: usize,
    pub(super) by256: Quantized,
    pub(super) by32: Quantized,
}

/// Rows as signed bytes with a float scale for every block: `x[i] = d[i / block] * q[i]`.
///
/// Block sizes are those of the weights they meet; unlike ggml's, the scales are f32 for both.
#[derive(Default)]
pub(super) struct Quantized {
    /// Elements per scale: 256 or 32.
    pub(super) block: usize,
    /// `[tokens, cols]`, within -127..=127.
    pub(super) q: Vec<i8>,
    /// `[tokens, cols / block]`.
    pub(super) d: Vec<f32>,
    /// `[tokens, cols / 16]`, sums of `q`, for weights with offsets.
    pub(super) sums16: Vec<i16>,
    /// `[tokens, cols / 32]`, likewise.
    pub(super) sums32: Vec<i16>,
    valid: bool,
}

/// A run of whole blocks of [`Quantized`], to be filled.
pub(super) struct Blocks<'a> {
    pub(super) q: &'a mut [i8],
    pub(super) d: &'a mut [f32],
    pub(super) sums16: &'a mut [i16],
    pub(super) sums32: &'a mut [i16],
}

impl Activations {
    /// Take new rows; quantized forms of the old ones are dropped. Panics unless `x` holds `tokens * cols` values.
    pub fn set(&mut self, x: &[f32], tokens: usize, cols: usize) {
        assert_eq!(Some(x.len()), tokens.checked_mul(cols), "activations are [tokens, cols]");
        self.x.clear();
        self.x.extend_from_slice(x);
        (self.tokens, self.cols) = (tokens, cols);
        self.by256.valid = false;
        self.by32.valid = false;
    }

    /// Rows held.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Elements of a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn need256(&mut self, pool: &Pool) {
        self.by256.fill(pool, 256, &self.x, self.cols);
    }

    pub(super) fn need32(&mut self, pool: &Pool) {
        self.by32.fill(pool, 32, &self.x, self.cols);
    }
}

impl Quantized {
    fn fill(&mut self, pool: &Pool, block: usize, x: &[f32], cols: usize) {
        if self.valid || !cols.is_multiple_of(block) {
            return;
        }
        self.block = block;
        self.q.resize(x.len(), 0);
        self.d.resize(x.len() / block, 0.0);
        self.sums16.resize(x.len() / 16, 0);
        self.sums32.resize(x.len() / 32, 0);
        let tasks = if x.len() < SERIAL_BELOW { 1 } else { pool.threads() * 4 };
        let step = (x.len() / block).div_ceil(tasks).max(1) * block;
        // A lock that is taken once is how disjoint pieces travel to the threads.
        let pieces: Vec<_> = x
            .chunks(step)
            .zip(self.q.chunks_mut(step))
            .zip(self.d.chunks_mut(step / block))
            .zip(self.sums16.chunks_mut(step / 16))
            .zip(self.sums32.chunks_mut(step / 32))
            .map(|((((x, q), d), sums16), sums32)| Mutex::new((x, Blocks { q, d, sums16, sums32 })))
            .collect();
        pool.run(pieces.len(), &|i| {
            let mut piece = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
            let (x, to) = &mut *piece;
            #[cfg(target_arch = "x86_64")]
            if super::avx2::available() {
                // SAFETY: the features were just found.
                unsafe { super::avx2::quantize(x, block, to) };
                return;
            }
            quantize(x, block, to);
        });
        self.valid = true;
    }
}

/// Round whole blocks to the nearest multiple of a 127th of their largest magnitude, ties to even.
pub(super) fn quantize(x: &[f32], block: usize, to: &mut Blocks<'_>) {
    for ((x, q), d) in x.chunks_exact(block).zip(to.q.chunks_exact_mut(block)).zip(to.d.iter_mut()) {
        let (inverse, scale) = scale(x.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0));
        *d = scale;
        for (q, &v) in q.iter_mut().zip(x) {
            *q = (v * inverse).round_ties_even() as i8;
        }
    }
    for (s, q) in to.sums16.iter_mut().zip(to.q.chunks_exact(16)) {
        *s = q.iter().map(|&v| i16::from(v)).sum();
    }
    for (s, pair) in to.sums32.iter_mut().zip(to.sums16.chunks_exact(2)) {
        *s = pair[0] + pair[1];
    }
}

/// What to multiply by, and its inverse, from the bits of the largest magnitude of a block.
/// A magnitude that is not finite makes the scale NaN, so that it reaches the output instead of vanishing.
pub(super) fn scale(max: u32) -> (f32, f32) {
    let max = f32::from_bits(max);
    if !max.is_finite() {
        return (0.0, f32::NAN);
    }
    let inverse = 127.0 / max;
    // A largest magnitude below 127 / f32::MAX counts as zero.
    if inverse.is_finite() {
        (inverse, max / 127.0)
    } else {
        (0.0, 0.0)
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_fast_rounding_gives_the_same_bits() {
        if !super::super::avx2::available() {
            return;
        }
        let mut rng = fastrand::Rng::with_seed(3);
        for block in [32, 256] {
            for round in 0..200 {
                let mut x: Vec<f32> = (0..1024).map(|_| (rng.f32() - 0.5) * 10f32.powi(rng.i32(-44..38))).collect();
                match round % 4 {
                    0 => x[rng.usize(0..1024)] = f32::NAN,
                    1 => x[rng.usize(0..1024)] = f32::NEG_INFINITY,
                    2 => x.iter_mut().for_each(|v| *v = (*v).clamp(-1.0, 1.0).round() * 0.5),
                    _ => {}
                }
                let run = |fast: bool| {
                    let (mut q, mut d, mut sums16, mut sums32) =
                        (vec![9i8; 1024], vec![9f32; 1024 / block], vec![9i16; 64], vec![9i16; 32]);
                    let mut to = Blocks { q: &mut q, d: &mut d, sums16: &mut sums16, sums32: &mut sums32 };
                    if fast {
                        // SAFETY: the features were found above.
                        unsafe { super::super::avx2::quantize(&x, block, &mut to) }
                    } else {
                        quantize(&x, block, &mut to);
                    }
                    let finite: Vec<usize> = (0..d.len()).filter(|&i| d[i].is_finite()).collect();
                    let kept: Vec<Vec<i8>> = finite.iter().map(|&i| q[i * block..(i + 1) * block].to_vec()).collect();
                    (
                        finite.iter().map(|&i| d[i].to_bits()).collect::<Vec<_>>(),
                        kept,
                        (finite.len() == d.len()).then_some((sums16, sums32)),
                    )
                };
                assert_eq!(run(true), run(false));
            }
        }
    }
}
