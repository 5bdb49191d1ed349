//! Batches of products over shared input rows, cut into tasks for the pool.

#![allow(unsafe_code)]

use super::activations::Activations;
use super::block::{form, Form};
use super::{scalar, KernelError, Pool};
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
struct Part<'a> {
    ty: GgmlType,
    rows: usize,
    row_bytes: usize,
    weights: &'a [u8],
    pick: Option<&'a [u32]>,
    tokens: usize,
    out: *mut f32,
}

// SAFETY: `out` points into a slice that the caller of `matmul` lent exclusively, and every task writes the columns of its own rows.
unsafe impl Sync for Part<'_> {}

/// All products of `jobs` over the same activations in one fork-join.
///
/// # Errors
/// A type that has no product, or sizes that do not fit together; then nothing has been computed.
pub fn matmul(pool: &Pool, x: &mut Activations, jobs: &mut [Job<'_>]) -> Result<(), KernelError> {
    for job in jobs.iter() {
        check(x, job)?;
    }
    for job in jobs.iter() {
        match form(job.ty) {
            Some(Form::Block256 { .. }) => x.need256(),
            Some(Form::Block32 { .. }) => x.need32(),
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
        parts[*part].run(x, rows.clone());
    });
    Ok(())
}

fn check(x: &Activations, job: &Job<'_>) -> Result<(), KernelError> {
    let shape = |text: String| Err(KernelError::Shape(text));
    if form(job.ty).is_none() {
        return Err(KernelError::Unsupported(job.ty));
    }
    if x.cols % job.ty.block_elems() != 0 {
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
    const GROUP: usize = 8;
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
    fn run(&self, x: &Activations, rows: Range<usize>) {
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
