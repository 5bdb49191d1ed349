//! Input rows, and their quantized forms.

/// Rows quantized in blocks of 256 for the K types: `x[i] = d[i / 256] * q[i]`, with sums of 16 for the offsets.
#[derive(Default)]
pub(super) struct Quantized {
    /// Elements per scale: 256 or 32.
    pub(super) block: usize,
    /// `[tokens, cols]`, within -127..=127.
    pub(super) q: Vec<i8>,
    /// `[tokens, cols / block]`.
    pub(super) d: Vec<f32>,
    /// `[tokens, cols / 16]`, sums of `q`.
    pub(super) sums16: Vec<i16>,
    /// `[tokens, cols / 32]`, likewise.
    pub(super) sums32: Vec<i16>,
    valid: bool,
}

/// Input rows `[tokens, cols]` in f32 with, made on demand, the quantized forms that the weight types want. Reusable: keeps its buffers.
#[derive(Default)]
pub struct Activations {
    pub(super) x: Vec<f32>,
    pub(super) tokens: usize,
    pub(super) cols: usize,
    pub(super) by256: Quantized,
    pub(super) by32: Quantized,
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

    pub(super) fn need256(&mut self) {
        self.by256.fill(256, &self.x, self.cols);
    }

    pub(super) fn need32(&mut self) {
        self.by32.fill(32, &self.x, self.cols);
    }
}

impl Quantized {
    fn fill(&mut self, block: usize, x: &[f32], cols: usize) {
        if self.valid || cols % block != 0 {
            return;
        }
        self.block = block;
        self.q.resize(x.len(), 0);
        self.d.resize(x.len() / block, 0.0);
        self.sums16.resize(x.len() / 16, 0);
        self.sums32.resize(x.len() / 32, 0);
        for ((x, q), d) in x.chunks_exact(block).zip(self.q.chunks_exact_mut(block)).zip(&mut self.d) {
            *d = quantize(x, q);
        }
        for (s, q) in self.sums16.iter_mut().zip(self.q.chunks_exact(16)) {
            *s = q.iter().map(|&v| i16::from(v)).sum();
        }
        for (s, pair) in self.sums32.iter_mut().zip(self.sums16.chunks_exact(2)) {
            *s = pair[0] + pair[1];
        }
        self.valid = true;
    }
}

/// Round to `q * d`; returns `d`. A value that is not finite makes `d` NaN, so that it reaches the output instead of vanishing.
fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    let mut max = 0.0f32;
    let mut finite = true;
    for &v in x {
        max = max.max(v.abs());
        finite &= v.is_finite();
    }
    let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
    if !finite || !inverse.is_finite() {
        // The largest value is below 127 / f32::MAX: it counts as zero.
        q.fill(0);
        return if finite { 0.0 } else { f32::NAN };
    }
    for (q, &v) in q.iter_mut().zip(x) {
        *q = (v * inverse).round_ties_even() as i8;
    }
    max / 127.0
}
