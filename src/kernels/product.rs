//! Batches of products over shared input rows, cut into tasks for the pool.

#![allow(unsafe_code)]

use super::activations::Activations;
use super::block::{form, Form};
use super::{scalar, InstructionSet, KernelError, Pool};
use crate::gguf::GgmlType;
use std::ops::Range;

/// One product of a batch: `out[token * rows + r]`, for the tokens named in `pick` (all, in order, if `None`).
pub struct Job<'a> {
    /// Weights as raw rows (mapped file or slot).
    pub ty: GgmlType,
    /// Output size.
    pub rows: usize,
    /// `rows * row_bytes` bytes.
    pub weights: &'a [u8],
    /// Which rows of the activations to use.
    pub pick: Option<&'a [u32]>,
    /// `[picked tokens, rows]`.
    pub out: &'a mut [f32],
}

/// A job as its tasks see it: the output as a pointer, since tasks write disjoint columns of it.
pub(super) struct Part<'a> {
    pub(super) ty: GgmlType,
    pub(super) rows: usize,
    pub(super) row_bytes: usize,
    pub(super) weights: &'a [u8],
    pub(super) pick: Option<&'a [u32]>,
    pub(super) tokens: usize,
    pub(super) out: *mut f32,
}

// SAFETY: `out` points into a slice that the caller of `matmul` lent exclusively, and every task writes the columns of its own rows.
unsafe impl Sync for Part<'_> {}

/// All products of `jobs` over the same activations in one fork-join.
///
/// # Errors
/// A type that has no product, or sizes that do not fit together; then nothing has been computed.
pub fn matmul(pool: &Pool, x: &mut Activations, jobs: &mut [Job<'_>]) -> Result<(), KernelError> {
    matmul_with(InstructionSet::best(), pool, x, jobs)
}

/// [`matmul`] with instructions that the machine must have.
fn matmul_with(with: InstructionSet, pool: &Pool, x: &mut Activations, jobs: &mut [Job<'_>]) -> Result<(), KernelError> {
    for job in jobs.iter() {
        check(x, job)?;
    }
    for job in jobs.iter() {
        match form(job.ty) {
            Some(Form::Block256 { .. }) => x.need256(pool),
            Some(Form::Block32 { .. }) => x.need32(pool),
            _ => {}
        }
    }
    let parts: Vec<Part<'_>> = jobs
        .iter_mut()
        .map(|j| Part {
            ty: j.ty,
            rows: j.rows,
            row_bytes: x.cols / j.ty.block_elems() * j.ty.block_bytes(),
            weights: j.weights,
            pick: j.pick,
            tokens: j.pick.map_or(x.tokens, <[u32]>::len),
            out: j.out.as_mut_ptr(),
        })
        .collect();
    let tasks = cut(&parts, pool.threads());
    let x = &*x;
    pool.run(tasks.len(), &|i| {
        let (part, rows) = &tasks[i];
        parts[*part].run(x, rows.clone(), with);
    });
    Ok(())
}

fn check(x: &Activations, job: &Job<'_>) -> Result<(), KernelError> {
    let shape = |text: String| Err(KernelError::Shape(text));
    if form(job.ty).is_none() {
        return Err(KernelError::Unsupported(job.ty));
    }
    if !x.cols.is_multiple_of(job.ty.block_elems()) {
        return shape(format!("rows of {} values can't be {:?}, which has blocks of {}", x.cols, job.ty, job.ty.block_elems()));
    }
    let want = (x.cols / job.ty.block_elems() * job.ty.block_bytes()).checked_mul(job.rows);
    if want != Some(job.weights.len()) {
        return shape(format!("{} bytes of weights are not {} rows of {} {:?} values", job.weights.len(), job.rows, x.cols, job.ty));
    }
    let tokens = job.pick.map_or(x.tokens, <[u32]>::len);
    if tokens.checked_mul(job.rows) != Some(job.out.len()) {
        return shape(format!("an output of {} values is not [{tokens}, {}]", job.out.len(), job.rows));
    }
    if let Some(t) = job.pick.into_iter().flatten().find(|&&t| t as usize >= x.tokens) {
        return shape(format!("token {t} is picked of {}", x.tokens));
    }
    Ok(())
}

/// Row ranges small enough that stealing evens out the threads, large enough that taking one costs nothing.
fn cut(parts: &[Part<'_>], threads: usize) -> Vec<(usize, Range<usize>)> {
    /// Rows are handed out in groups that fill the SIMD lanes.
    const GROUP: usize = 16;
    let work = |p: &Part<'_>| p.rows * p.row_bytes * (1 + p.tokens);
    let total: usize = parts.iter().map(work).sum();
    let share = (total / (threads * 8)).max(32 * 1024);
    let mut tasks = Vec::new();
    for (i, p) in parts.iter().enumerate() {
        if p.tokens == 0 || p.rows == 0 {
            continue;
        }
        let pieces = (work(p) / share).clamp(1, p.rows.div_ceil(GROUP));
        let step = p.rows.div_ceil(pieces).div_ceil(GROUP) * GROUP;
        let mut at = 0;
        while at < p.rows {
            let end = (at + step).min(p.rows);
            tasks.push((i, at..end));
            at = end;
        }
    }
    tasks
}

impl Part<'_> {
    fn run(&self, x: &Activations, rows: Range<usize>, with: InstructionSet) {
        #[cfg(target_arch = "x86_64")]
        if with != InstructionSet::Scalar {
            // SAFETY: the machine has these instructions; `matmul` has checked the part; tasks have disjoint rows.
            unsafe { super::x86::run(self, x, rows, with == InstructionSet::Avx512Vnni) };
            return;
        }
        for r in rows {
            let w = &self.weights[r * self.row_bytes..(r + 1) * self.row_bytes];
            let tokens = (0..self.tokens).map(|i| self.pick.map_or(i, |p| p[i] as usize));
            scalar::row(self.ty, w, x, tokens, &mut |i, v| {
                // SAFETY: `i < tokens` and `r < rows`, so the element lies inside `out` ([tokens, rows], checked by `matmul`); no other
                // task has row `r` of this job.
                unsafe { *self.out.add(i * self.rows + r) = v }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::{random_weights as weights, TYPES};
    use super::*;
    use proptest::prelude::*;

    fn by_scalar(ty: GgmlType, rows: usize, w: &[u8], x: &Activations, tokens: &[u32]) -> Vec<f32> {
        let mut out = vec![0.0; rows * tokens.len()];
        for (r, w) in w.chunks_exact(w.len() / rows).enumerate() {
            scalar::row(ty, w, x, tokens.iter().map(|&t| t as usize), &mut |i, v| out[i * rows + r] = v);
        }
        out
    }

    fn bits(v: &[f32]) -> Vec<u32> {
        v.iter().map(|v| v.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        /// The batch, the threads and the instruction set change no bit.
        #[test]
        fn every_path_gives_the_bits_of_the_scalar_one(
            seed in any::<u64>(),
            ty in 0..TYPES.len(),
            rows in 1usize..40,
            blocks in 1usize..20,
            tokens in 1usize..20,
            threads in 1usize..4,
        ) {
            let (ty, mut rng) = (TYPES[ty], fastrand::Rng::with_seed(seed));
            let cols = if ty.block_elems() == 1 { blocks * 7 } else { blocks * ty.block_elems() };
            let w = weights(ty, rows * cols, &mut rng);
            let values: Vec<f32> = (0..tokens * cols).map(|_| rng.f32() * 2.0 - 1.0).collect();
            let mut x = Activations::default();
            x.set(&values, tokens, cols);
            let pick: Vec<u32> = (0..rng.usize(0..10)).map(|_| rng.u32(0..tokens as u32)).collect();
            let (mut all, mut some) = (vec![0.0; rows * tokens], vec![0.0; rows * pick.len()]);
            let pool = Pool::new(threads);
            let every: Vec<u32> = (0..tokens as u32).collect();
            for with in InstructionSet::all() {
                matmul_with(with, &pool, &mut x, &mut [
                    Job { ty, rows, weights: &w, pick: None, out: &mut all },
                    Job { ty, rows, weights: &w, pick: Some(&pick), out: &mut some },
                ]).unwrap();
                prop_assert_eq!(bits(&all), bits(&by_scalar(ty, rows, &w, &x, &every)), "{:?} {:?}", ty, with);
                prop_assert_eq!(bits(&some), bits(&by_scalar(ty, rows, &w, &x, &pick)), "{:?} {:?}", ty, with);
            }
        }

        /// Against f64 over the exact values of weights and (quantized) activations.
        #[test]
        fn the_only_error_is_rounding(seed in any::<u64>(), ty in 0..TYPES.len(), blocks in 1usize..20) {
            let (ty, mut rng) = (TYPES[ty], fastrand::Rng::with_seed(seed));
            let cols = 256 * blocks;
            let w = weights(ty, cols, &mut rng);
            let values: Vec<f32> = (0..cols).map(|_| rng.f32() * 2.0 - 1.0).collect();
            let mut x = Activations::default();
            x.set(&values, 1, cols);
            let mut out = [0.0];
            matmul(&Pool::new(1), &mut x, &mut [Job { ty, rows: 1, weights: &w, pick: None, out: &mut out }]).unwrap();
            let mut exact = vec![0.0; cols];
            super::super::dequantize(ty, &w, &mut exact).unwrap();
            let used: Vec<f64> = match form(ty).unwrap() {
                Form::Float => values.iter().map(|&v| f64::from(v)).collect(),
                f => {
                    let q = if matches!(f, Form::Block32 { .. }) { &x.by32 } else { &x.by256 };
                    (0..cols).map(|i| f64::from(q.q[super::super::activations::place(q.block, i)]) * f64::from(q.d[i / q.block])).collect()
                }
            };
            // Quantized inputs are within half a step of the true ones.
            for (i, (u, v)) in used.iter().zip(&values).enumerate() {
                let block = if matches!(form(ty), Some(Form::Block32 { .. })) { 32 } else { 256 };
                let max = values[i / block * block..][..block].iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let steps = f64::from(super::super::activations::limit(block));
                prop_assert!((u - f64::from(*v)).abs() <= f64::from(max) / steps * 0.51);
            }
            let want: f64 = exact.iter().zip(&used).map(|(&a, &b)| f64::from(a) * b).sum();
            let size: f64 = exact.iter().zip(&used).map(|(&a, &b)| (f64::from(a) * b).abs()).sum();
            prop_assert!((f64::from(out[0]) - want).abs() <= 2e-6 * size + 1e-12, "{} for {want} of {size}", out[0]);
        }
    }

    #[test]
    fn a_value_that_is_not_finite_reaches_the_output() {
        let mut rng = fastrand::Rng::with_seed(1);
        for ty in TYPES {
            let w = weights(ty, 512, &mut rng);
            for bad in [f32::NAN, f32::INFINITY] {
                let mut values = vec![1.0; 512];
                values[300] = bad;
                let (mut x, mut out) = (Activations::default(), [0.0]);
                x.set(&values, 1, 512);
                matmul(&Pool::new(1), &mut x, &mut [Job { ty, rows: 1, weights: &w, pick: None, out: &mut out }]).unwrap();
                assert!(!out[0].is_finite(), "{ty:?}");
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let mut x = Activations::default();
        x.set(&[0.0; 512], 2, 256);
        let w = vec![0u8; 144];
        let mut try_job = |ty, rows, weights: &[u8], pick: Option<&[u32]>, out: &mut [f32]| {
            matmul(&Pool::new(1), &mut x, &mut [Job { ty, rows, weights, pick, out }]).map_err(|e| e.to_string())
        };
        assert!(try_job(GgmlType::Q4K, 1, &w, None, &mut [0.0; 2]).is_ok());
        assert!(try_job(GgmlType::Q4K, 1, &w[1..], None, &mut [0.0; 2]).unwrap_err().contains("143 bytes"));
        assert!(try_job(GgmlType::Q4K, 1, &w, None, &mut [0.0; 3]).unwrap_err().contains("3 values"));
        assert!(try_job(GgmlType::Q4K, 1, &w, Some(&[2]), &mut [0.0; 1]).unwrap_err().contains("token 2"));
        assert!(try_job(GgmlType::Q4K, usize::MAX, &w, None, &mut [0.0; 2]).is_err());
        assert!(try_job(GgmlType::NVFP4, 1, &w, None, &mut [0.0; 2]).unwrap_err().contains("NVFP4"));
    }
}
