//! Quantized dot products on the CPU, and the worker pool that runs them.
//!
//! Weights stay in their GGUF quantization, in the mapped file or in a slot, from file to dot product: nothing is repacked for
//! keeps. A result depends on the weights and the input row only, not on the number of threads, on the other
//! tokens of the batch, or on where the weights lie.

mod activations;
pub mod attention;
mod bench;
mod block;
mod codebook;
pub mod convolution;
mod cores;
pub mod delta;
pub(crate) mod exp;
pub mod memory;
mod pool;
mod product;
pub mod rows;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use activations::Activations;
pub use bench::bench;
pub(crate) use bench::random_weights;
pub use pool::Pool;
pub use product::{matmul, Job};

use crate::gguf::{Bytes, GgmlType};
use block::Form;

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

/// Exact values of `bytes` (whole blocks) as f32, bit for bit those of `gguf-py`.
///
/// # Errors
/// A type without a known layout, or an `out` that is not as long as `bytes` says.
pub fn dequantize(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    let form = block::form(ty).ok_or(KernelError::Unsupported(ty))?;
    let (size, elems) = (ty.block_bytes(), ty.block_elems());
    if !bytes.len().is_multiple_of(size) || bytes.len() / size * elems != out.len() {
        return Err(KernelError::Shape(format!("{} bytes of {ty:?} do not hold {} values", bytes.len(), out.len())));
    }
    match form {
        Form::Float => block::float_row(ty, bytes, out),
        Form::Block32 { offset } => {
            for (b, o) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(elems)) {
                block::unpack32(ty, b).values(offset, o);
            }
        }
        Form::Block256 { offset } => {
            for (b, o) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(elems)) {
                block::unpack256(ty, b).values(offset, o);
            }
        }
    }
    Ok(())
}

/// Whether [`matmul`] takes weights of this type.
#[must_use]
pub fn supported(ty: GgmlType) -> bool {
    block::form(ty).is_some()
}

/// What products are computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InstructionSet {
    /// Plain Rust.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// The same and AVX-512 VNNI.
    Avx512Vnni,
}

impl InstructionSet {
    /// What this machine has, least first.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if x86::avx2() {
                all.push(Self::Avx2);
            }
            if x86::avx512() {
                all.push(Self::Avx512Vnni);
            }
        }
        all
    }

    /// The best of them, or what `ROTARY_INSTRUCTIONS` (scalar, avx2, avx512) says if the machine has it: to measure one
    /// against another.
    pub(crate) fn best() -> Self {
        static BEST: std::sync::OnceLock<InstructionSet> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            let all = Self::all();
            let wanted = match std::env::var("ROTARY_INSTRUCTIONS").as_deref() {
                Ok("scalar") => Self::Scalar,
                Ok("avx2") => Self::Avx2,
                _ => Self::Avx512Vnni,
            };
            all.into_iter().filter(|&i| i <= wanted).max().unwrap_or(Self::Scalar)
        })
    }
}

/// What the kernels use on this machine, for the screen: "AVX-512 VNNI", "AVX2+FMA", "scalar".
#[must_use]
pub fn instruction_set() -> &'static str {
    match InstructionSet::best() {
        InstructionSet::Scalar => "scalar",
        InstructionSet::Avx2 => "AVX2+FMA",
        InstructionSet::Avx512Vnni => "AVX-512 VNNI",
    }
}
