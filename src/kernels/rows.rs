//! The f32 rows inside a CPU tensor, and loops over rows that use the pool when that pays.

use super::exp::exp;
use super::Pool;
use candle_core::{CpuStorage, Device, Storage, Tensor};
use std::sync::Mutex;

/// Below this many values a row loop stays on the calling thread: a fork-join would cost more.
const SERIAL_BELOW: usize = 64 * 1024;

/// Hands the row-major values of a contiguous f32 CPU tensor to `f`, without a copy.
///
/// # Errors
/// The tensor is elsewhere, of another type, or not contiguous.
pub fn with_rows<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else {
        candle_core::bail!("expected f32 rows on the CPU, found {:?} on {:?}", x.dtype(), x.device());
    };
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(f(&values[from..to])),
        None => candle_core::bail!("expected contiguous rows, found strides {:?}", layout.stride()),
    }
}

/// A CPU tensor `[rows, cols]` that takes over the buffer.
///
/// # Errors
/// The buffer does not hold `rows * cols` values.
pub fn from_rows(values: Vec<f32>, rows: usize, cols: usize) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, (rows, cols), &Device::Cpu)
}

/// Calls `f(row index, row)` for every row of `out`, on all threads if there is enough to do.
/// What is written into a row must not depend on the thread, so the result is the same either way.
pub fn for_rows(pool: &Pool, out: &mut [f32], row: usize, f: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    if row == 0 {
        return;
    }
    if out.len() < SERIAL_BELOW || pool.threads() == 1 {
        out.chunks_mut(row).enumerate().for_each(|(i, r)| f(i, r));
        return;
    }
    let rows = out.len() / row;
    let per_task = rows.div_ceil(pool.threads() * 4).max(1);
    // Each task takes one lock once: the lock is how disjoint pieces travel to the threads without `unsafe`.
    let pieces: Vec<Mutex<&mut [f32]>> = out.chunks_mut(per_task * row).map(Mutex::new).collect();
    pool.run(pieces.len(), &|task| {
        let mut piece = pieces[task].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        piece.chunks_mut(row).enumerate().for_each(|(i, r)| f(task * per_task + i, r));
    });
}

/// `gate = silu(gate) * up`, value by value.
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// What the rows of gate and up become together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// [`swiglu`].
    #[default]
    SwiGlu,
    /// [`clamped_swiglu`].
    Clamped,
    /// [`geglu`].
    GeGlu,
}

impl Activation {
    /// As kernels on a GPU know it.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::SwiGlu => 0,
            Self::Clamped => 1,
            Self::GeGlu => 2,
        }
    }

    /// The one of that number.
    #[must_use]
    pub const fn of_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::SwiGlu),
            1 => Some(Self::Clamped),
            2 => Some(Self::GeGlu),
            _ => None,
        }
    }

    /// `gate = f(gate, up)`, value by value.
    pub fn apply(self, gate: &mut [f32], up: &[f32]) {
        match self {
            Self::SwiGlu => swiglu(gate, up),
            Self::Clamped => clamped_swiglu(gate, up),
            Self::GeGlu => geglu(gate, up),
        }
    }
}

/// Bounds of gpt-oss's gate (above) and up (both sides), and its slope: `swiglu_limit` and `swiglu_alpha` of its configuration.
pub const CLAMP: f32 = 7.0;
/// See [`CLAMP`].
pub const SLOPE: f32 = 1.702;

/// gpt-oss's `gate = g * sigmoid(1.702 g) * (u + 1)` with g at most 7 and u from -7 to 7, value by value (`GptOssExperts` in transformers). A value that
/// is no number stays none.
pub fn clamped_swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        let (gate, up) = (if *g > CLAMP { CLAMP } else { *g }, u.clamp(-CLAMP, CLAMP));
        *g = gate / (1.0 + exp(-SLOPE * gate)) * (up + 1.0);
    }
}

/// Gemma's `gate = gelu(gate) * up` (Shazeer, arXiv 2002.05202), value by value, in the form with a tanh (Hendrycks and Gimpel, arXiv 1606.08415):
/// `g / 2 * (1 + tanh(z))` with `z = sqrt(2 / pi) * (g + 0.044715 g^3)`, which is `g * sigmoid(2 z)`.
pub fn geglu(gate: &mut [f32], up: &[f32]) {
    const TWICE: f32 = 2.0 * 0.797_884_6;
    for (g, u) in gate.iter_mut().zip(up) {
        let z = TWICE * (*g + 0.044_715 * *g * *g * *g);
        *g = *g / (1.0 + exp(-z)) * u;
    }
}

/// `row = cap * tanh(row / cap)`, value by value; within a ten-millionth of `cap`. Infinite values stay so: they tell of damage.
pub fn softcap(row: &mut [f32], cap: f32) {
    for x in row {
        let bent = cap - 2.0 * cap / (1.0 + exp(2.0 * *x / cap));
        *x = if x.is_finite() { bent } else { *x };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_as_they_went_in() {
        let t = from_rows(vec![1., 2., 3., 4., 5., 6.], 3, 2).unwrap();
        assert_eq!(with_rows(&t, <[f32]>::to_vec).unwrap(), [1., 2., 3., 4., 5., 6.]);
        let last = t.narrow(0, 2, 1).unwrap();
        assert_eq!(with_rows(&last, <[f32]>::to_vec).unwrap(), [5., 6.]);
        assert!(with_rows(&t.t().unwrap(), |_| ()).is_err(), "a transposed view has no rows");
    }

    #[test]
    fn the_clamped_activation_is_that_of_gpt_oss() {
        // By the formula in float64: below, between and beyond the bounds.
        let gates = [-9.0f32, -1.5, 0.0, 2.0, 7.0, 30.0];
        let ups = [-30.0f32, -7.0, -1.0, 0.5, 3.0, 30.0];
        for &g in &gates {
            let mut row = ups.map(|_| g);
            Activation::Clamped.apply(&mut row, &ups);
            for (&u, got) in ups.iter().zip(row) {
                let (g, u) = (f64::from(g).min(7.0), f64::from(u).clamp(-7.0, 7.0));
                let want = g / (1.0 + (-1.702 * g).exp()) * (u + 1.0);
                assert!((f64::from(got) - want).abs() <= 1e-6 * want.abs().max(1.0), "{g} {u}: {got} {want}");
            }
        }
        let mut row = [f32::NAN];
        Activation::Clamped.apply(&mut row, &[1.0]);
        assert!(row[0].is_nan(), "damage is not hidden");
    }

    #[test]
    fn the_gelu_is_the_one_with_a_tanh() {
        let gates: Vec<f32> = (-400..=400).map(|i| i as f32 / 40.0).chain([-1e4, 1e4]).collect();
        let mut row = gates.clone();
        Activation::GeGlu.apply(&mut row, &vec![1.5; gates.len()]);
        for (&g, got) in gates.iter().zip(row) {
            let g = f64::from(g);
            let want = 0.75 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g * g * g)).tanh());
            assert!((f64::from(got) - want).abs() <= 1e-6 * want.abs().max(1.0), "{g}: {got} {want}");
        }
        let mut row = [f32::NAN];
        Activation::GeGlu.apply(&mut row, &[1.0]);
        assert!(row[0].is_nan(), "damage is not hidden");
    }

    #[test]
    fn a_cap_bends_large_values_and_hardly_touches_small_ones() {
        let mut row: Vec<f32> = (-300..=300).map(|i| i as f32 / 2.0).chain([-1e9, 1e9]).collect();
        let before = row.clone();
        softcap(&mut row, 30.0);
        for (x, got) in before.into_iter().zip(row) {
            let want = 30.0 * (f64::from(x) / 30.0).tanh();
            assert!((f64::from(got) - want).abs() < 6e-6 && got.abs() <= 30.0, "{x}: {got} {want}");
        }
        let mut row = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        softcap(&mut row, 30.0);
        assert!(row.iter().all(|x| !x.is_finite()), "damage is not hidden: {row:?}");
    }

    #[test]
    fn every_row_is_visited_once_whatever_the_threads() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            for rows in [1, 7, 1000] {
                let mut out = vec![0.0; rows * 128];
                for_rows(&pool, &mut out, 128, &|i, r| r.iter_mut().for_each(|v| *v += i as f32 + 1.0));
                assert!(out.chunks(128).enumerate().all(|(i, r)| r.iter().all(|&v| v == i as f32 + 1.0)));
            }
        }
    }
}
