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

/// The largest magnitude of a rounded activation: the largest for which a block of 256 products with weights of up to 4096
/// (scale times element) fits 32 bits; in blocks of 32, which have no such scales, the largest of 16 bits.
pub(super) const fn limit(block: usize) -> i32 {
    if block == 32 {
        32767
    } else {
        2047
    }
}

/// Rows as integers of 12 bits (16 in blocks of 32) with a float scale for every block: `x[i] = d[i / block] * q[place(i)]`.
///
/// ggml rounds to 8 bits here. A router that decides between two experts that are nearly level then takes the wrong one every
/// so often, which changes words; with 12 bits that noise is 16 times smaller, and the products stay exact in 32-bit integers.
///
/// Block sizes are those of the weights they meet; the scales are f32. Of every 64 elements (32 in blocks of 32) those with even
/// index come first, then those with odd index: what widening packed bytes to words by a mask and a shift gives.
#[derive(Default)]
pub(super) struct Quantized {
    /// Elements per scale: 256 or 32.
    pub(super) block: usize,
    /// `[tokens, cols]`, within [`limit`].
    pub(super) q: Vec<i16>,
    /// `[tokens, cols / block]`.
    pub(super) d: Vec<f32>,
    /// The same numbers in natural order as two signed bytes, `64 * high + low`: for products with a weight row that only a
    /// few tokens meet, where widening the weights would cost more than multiplying twice. Empty in blocks of 32.
    pub(super) high: Vec<i8>,
    /// `[tokens, cols]`, within -32..32.
    pub(super) low: Vec<i8>,
    /// `[tokens, cols / 16]`, sums of 16 neighbouring elements, for weights with offsets. Empty in blocks of 32.
    pub(super) sums16: Vec<i16>,
    /// `[tokens, cols / 32]`, sums of blocks of 32. Empty in blocks of 256.
    pub(super) sums32: Vec<i32>,
    valid: bool,
}

/// Where element `i` of a row lies in [`Quantized::q`] with blocks of `block`.
pub(super) const fn place(block: usize, i: usize) -> usize {
    let run = if block == 32 { 32 } else { 64 };
    i / run * run + i % 2 * (run / 2) + i % run / 2
}

/// A run of whole blocks of [`Quantized`], to be filled.
pub(super) struct Blocks<'a> {
    pub(super) q: &'a mut [i16],
    pub(super) high: &'a mut [i8],
    pub(super) low: &'a mut [i8],
    pub(super) d: &'a mut [f32],
    pub(super) sums16: &'a mut [i16],
    pub(super) sums32: &'a mut [i32],
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
        let len = x.len();
        let (bytes, sums32) = if block == 32 { (0, len / 32) } else { (len, 0) };
        self.q.resize(len, 0);
        self.high.resize(bytes, 0);
        self.low.resize(bytes, 0);
        self.d.resize(len / block, 0.0);
        self.sums16.resize(bytes / 16, 0);
        self.sums32.resize(sums32, 0);
        let tasks = if len < SERIAL_BELOW { 1 } else { pool.threads() * 4 };
        let step = (len / block).div_ceil(tasks).max(1) * block;
        let (mut q, mut d) = (self.q.chunks_mut(step), self.d.chunks_mut(step / block));
        let (mut high, mut low) = (self.high.chunks_mut(step), self.low.chunks_mut(step));
        let (mut sums16, mut sums32) = (self.sums16.chunks_mut(step / 16), self.sums32.chunks_mut(step / 32));
        // A lock that is taken once is how disjoint pieces travel to the threads.
        let pieces: Vec<_> = x
            .chunks(step)
            .map(|x| {
                let to = Blocks {
                    q: q.next().unwrap_or_default(),
                    high: high.next().unwrap_or_default(),
                    low: low.next().unwrap_or_default(),
                    d: d.next().unwrap_or_default(),
                    sums16: sums16.next().unwrap_or_default(),
                    sums32: sums32.next().unwrap_or_default(),
                };
                Mutex::new((x, to))
            })
            .collect();
        pool.run(pieces.len(), &|i| {
            let mut piece = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
            let (x, to) = &mut *piece;
            #[cfg(target_arch = "x86_64")]
            if super::InstructionSet::best() != super::InstructionSet::Scalar {
                // SAFETY: the features were just found.
                unsafe { super::x86::quantize(x, block, to) };
                return;
            }
            quantize(x, block, to);
        });
        self.valid = true;
    }
}

/// Round whole blocks to the nearest multiple of a [`limit`]th of their largest magnitude, ties to even.
pub(super) fn quantize(x: &[f32], block: usize, to: &mut Blocks<'_>) {
    for ((x, q), d) in x.chunks_exact(block).zip(to.q.chunks_exact_mut(block)).zip(to.d.iter_mut()) {
        let (inverse, scale) = scale(x.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0), block);
        *d = scale;
        for (i, &v) in x.iter().enumerate() {
            q[place(block, i)] = (v * inverse).round_ties_even() as i16;
        }
    }
    if block == 32 {
        for (s, q) in to.sums32.iter_mut().zip(to.q.chunks_exact(32)) {
            *s = q.iter().map(|&v| i32::from(v)).sum();
        }
        return;
    }
    for i in 0..x.len() {
        let q = to.q[place(block, i)];
        to.high[i] = ((q + 32) >> 6) as i8;
        to.low[i] = (q - (i16::from(to.high[i]) << 6)) as i8;
    }
    for (i, s) in to.sums16.iter_mut().enumerate() {
        *s = (16 * i..16 * i + 16).map(|i| to.q[place(block, i)]).sum();
    }
}

/// What to multiply by, and its inverse, from the bits of the largest magnitude of a block.
/// A magnitude that is not finite makes the scale NaN, so that it reaches the output instead of vanishing.
pub(super) fn scale(max: u32, block: usize) -> (f32, f32) {
    let limit = limit(block) as f32;
    let max = f32::from_bits(max);
    if !max.is_finite() {
        return (0.0, f32::NAN);
    }
    let inverse = limit / max;
    // A largest magnitude below limit / f32::MAX counts as zero.
    if inverse.is_finite() {
        (inverse, max / limit)
    } else {
        (0.0, 0.0)
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_fast_rounding_gives_the_same_bits() {
        if !super::super::x86::avx2() {
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
                    let (mut q, mut d, mut sums16) = (vec![9i16; 1024], vec![9f32; 1024 / block], vec![9i16; 64]);
                    let (mut high, mut low, mut sums32) = (vec![9i8; 1024], vec![9i8; 1024], vec![9i32; 32]);
                    let mut to = Blocks { q: &mut q, high: &mut high, low: &mut low, d: &mut d, sums16: &mut sums16, sums32: &mut sums32 };
                    if fast {
                        // SAFETY: the features were found above.
                        unsafe { super::super::x86::quantize(&x, block, &mut to) }
                    } else {
                        quantize(&x, block, &mut to);
                    }
                    let finite: Vec<usize> = (0..d.len()).filter(|&i| d[i].is_finite()).collect();
                    let kept: Vec<Vec<i16>> = finite.iter().map(|&i| q[i * block..(i + 1) * block].to_vec()).collect();
                    (finite.iter().map(|&i| d[i].to_bits()).collect::<Vec<_>>(), kept, (finite.len() == d.len()).then_some(sums16))
                };
                assert_eq!(run(true), run(false));
            }
        }
    }
}
