//! Quantized dot products on the CPU, and the worker pool that runs them.
//!
//! Weights stay in their GGUF quantization, in the mapped file or in a slot, from file to dot product.

use crate::gguf::{Bytes, GgmlType};
use std::sync::Arc;

/// Why a kernel call was refused.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No dot product for this type.
    #[error("{0:?} weights can't be computed on the CPU yet")]
    Unsupported(GgmlType),
    /// Sizes that do not fit together.
    #[error("{0}")]
    Shape(String),
}

/// A weight matrix `[rows, cols]` in its GGUF type: `out[r] = sum_c w[r, c] * x[c]`.
#[derive(Clone)]
pub struct Matrix {
    /// Element type.
    pub ty: GgmlType,
    /// Output size.
    pub rows: usize,
    /// Input size, the contiguous dimension.
    pub cols: usize,
    /// `rows * row_bytes` bytes.
    pub bytes: Bytes,
}

/// A fork-join pool of our own: no spinning longer than a few microseconds, no barrier that collapses on a busy machine.
pub struct Pool {}

impl Pool {
    /// `threads` includes the calling thread; 0 takes the physical cores.
    #[must_use]
    pub fn new(_threads: usize) -> Arc<Self> {
        unimplemented!()
    }
    /// Threads, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        unimplemented!()
    }
    /// Run `task(i)` for every `i < tasks` on all threads, work-stealing by an atomic counter; returns when all are done.
    /// A panic in a task is propagated to the caller after the join.
    pub fn run(&self, _tasks: usize, _task: &(dyn Fn(usize) + Sync)) {
        unimplemented!()
    }
}

/// Input rows `[tokens, cols]` in f32 with, made on demand, the quantized forms that the weight types want. Reusable: keeps its buffers.
#[derive(Default)]
pub struct Activations {}

impl Activations {
    /// Take new rows; quantized forms of the old ones are dropped.
    pub fn set(&mut self, _x: &[f32], _tokens: usize, _cols: usize) {
        unimplemented!()
    }
}

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

/// All products of `jobs` over the same activations in one fork-join.
pub fn matmul(_pool: &Pool, _x: &mut Activations, _jobs: &mut [Job<'_>]) -> Result<(), KernelError> {
    unimplemented!()
}

/// Exact values of `bytes` (whole blocks) as f32.
pub fn dequantize(_ty: GgmlType, _bytes: &[u8], _out: &mut [f32]) -> Result<(), KernelError> {
    unimplemented!()
}

/// Whether [`matmul`] takes weights of this type.
#[must_use]
pub fn supported(_ty: GgmlType) -> bool {
    unimplemented!()
}

/// What the kernels use on this machine, for the screen: "AVX2+FMA", "scalar".
#[must_use]
pub fn instruction_set() -> &'static str {
    unimplemented!()
}
