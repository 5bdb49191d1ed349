//! What every kernel of [`super::params`] means, in plain Rust over host memory: the arbiter of the CUDA kernels, and what the
//! simulated device runs.
//!
//! Inside a kernel everything is summed in f64 and rounded to f32 once, where the kernel stores a result: so the reference has no order of
//! summation of its own, and what the device's kernels may differ by is their own rounding. Weights have the values of
//! [`crate::kernels::dequantize`]. What a caller must keep (sizes that fit together, slots that exist, every byte within one allocation) is checked here
//! and answered with an error, where a GPU would read astray.

mod attention;
mod delta;
mod experts;
mod latent;
mod linear;
mod mailbox;
mod pointwise;
mod route;

use super::device::Address;
use super::params::{self, Kernel, Shape};
use crate::gguf::GgmlType;
use crate::kernels::dequantize;
use crate::kernels::rows::Activation;
use bytemuck::Pod;

/// Memory that the addresses in parameters point to.
pub trait HostMemory {
    /// `len` bytes from `at` on; `None` if they don't lie within one allocation.
    fn bytes(&self, at: Address, len: usize) -> Option<&[u8]>;
    /// The same, to be written.
    fn bytes_mut(&mut self, at: Address, len: usize) -> Option<&mut [u8]>;
    /// Whether the host will say no more words until a kernel that waits for one gives up.
    fn is_mute(&self) -> bool {
        true
    }
}

/// A launch that breaks the contract of its kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No such kernel.
    #[error("there is no kernel `{0}`")]
    NoKernel(String),
    /// The parameters are not as long as the kernel's struct, or the launch has another shape than they ask for.
    #[error("`{kernel}`: {why}")]
    Launch {
        /// Its name.
        kernel: &'static str,
        /// What does not fit.
        why: String,
    },
    /// A read or a write outside of every allocation.
    #[error("`{kernel}` reaches {bytes} bytes at {address:#x} through `{field}`, which no allocation holds")]
    Outside {
        /// Its name.
        kernel: &'static str,
        /// The parameter.
        field: &'static str,
        /// Where.
        address: u64,
        /// How much.
        bytes: usize,
    },
    /// The kernel waits for a word that the host has not said. No fault: nothing was written, and who runs it tries again when the host has written more.
    #[error("`{kernel}` waits for the host to say {awaits}, and its last word is {heard}")]
    Waits {
        /// Its name.
        kernel: &'static str,
        /// What the host has to say.
        awaits: u32,
        /// What it said last.
        heard: u32,
    },
}

/// Run a kernel. `params` are the bytes of its struct; `shape` must be the struct's own [`Kernel::shape`].
///
/// # Errors
/// [`ReferenceError`]; some results may have been written before.
pub fn run(kernel: &str, shape: Shape, params: &[u8], memory: &mut dyn HostMemory) -> Result<(), ReferenceError> {
    macro_rules! dispatch {
        ($($name:ident),*) => {
            match kernel {
                $(params::$name::NAME => call::<params::$name>(shape, params, memory),)*
                params::MatVec::FEW => call::<params::MatVec>(shape, params, memory),
                other => Err(ReferenceError::NoKernel(other.to_owned())),
            }
        };
    }
    dispatch!(
        RmsNorm,
        MatVec,
        MatMul,
        Rotate,
        Attention,
        ChunkAttention,
        WindowAttention,
        WindowChunkAttention,
        LatentRows,
        HeadMaps,
        LatentAttention,
        JoinSplits,
        JoinSunk,
        Convolve,
        ShortConv,
        DeltaRule,
        GatedNorm,
        Route,
        ExpertsUp,
        ExpertsDown,
        GroupedUp,
        GroupedDown,
        BiasedUp,
        BiasedGroupedUp,
        RoutedBias,
        Gather,
        Glu,
        AddNormed,
        SoftCap,
        Add,
        Finite,
        AwaitHost,
        TellHost,
        AddAnswer
    )
}

fn call<K: Meaning>(shape: Shape, params: &[u8], memory: &mut dyn HostMemory) -> Result<(), ReferenceError> {
    let mut host = Host { memory, kernel: K::NAME };
    let kernel: K = bytemuck::try_pod_read_unaligned(params)
        .map_err(|_| host.refuse(format!("{} bytes of parameters, not {}", params.len(), size_of::<K>())))?;
    if kernel.shape() != shape {
        return Err(host.refuse(format!("launched as {shape:?}, its parameters ask for {:?}", kernel.shape())));
    }
    kernel.mean(&mut host)
}

/// A kernel whose meaning is known.
trait Meaning: Kernel {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError>;
}

/// Memory as a kernel sees it: typed, with every access checked.
struct Host<'a> {
    memory: &'a mut dyn HostMemory,
    kernel: &'static str,
}

impl Host<'_> {
    fn refuse(&self, why: String) -> ReferenceError {
        ReferenceError::Launch { kernel: self.kernel, why }
    }

    fn demand(&self, fits: bool, why: &str) -> Result<(), ReferenceError> {
        if fits {
            Ok(())
        } else {
            Err(self.refuse(why.to_owned()))
        }
    }

    fn activation(&self, number: u32) -> Result<Activation, ReferenceError> {
        Activation::of_number(number).ok_or_else(|| self.refuse(format!("no activation has the number {number}")))
    }

    fn outside(&self, field: &'static str, at: Address, bytes: usize) -> ReferenceError {
        ReferenceError::Outside { kernel: self.kernel, field, address: at.0, bytes }
    }

    fn bytes(&self, field: &'static str, at: Address, len: usize) -> Result<&[u8], ReferenceError> {
        self.memory.bytes(at, len).ok_or_else(|| self.outside(field, at, len))
    }

    /// `len` elements beginning with element `first` of `at`.
    fn get<T: Pod>(&self, field: &'static str, at: Address, first: usize, len: usize) -> Result<Vec<T>, ReferenceError> {
        let at = Address(at.0.wrapping_add((first * size_of::<T>()) as u64));
        if len == 0 {
            return Ok(Vec::new());
        }
        self.bytes(field, at, len * size_of::<T>()).map(|b| b.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }

    fn f32s(&self, field: &'static str, at: Address, first: usize, len: usize) -> Result<Vec<f32>, ReferenceError> {
        self.get(field, at, first, len)
    }

    fn one<T: Pod>(&self, field: &'static str, at: Address, index: usize) -> Result<T, ReferenceError> {
        Ok(self.get::<T>(field, at, index, 1)?[0])
    }

    /// Write elements beginning with element `first` of `at`.
    fn put<T: Pod>(&mut self, field: &'static str, at: Address, first: usize, values: &[T]) -> Result<(), ReferenceError> {
        let at = Address(at.0.wrapping_add((first * size_of::<T>()) as u64));
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if bytes.is_empty() {
            return Ok(());
        }
        let outside = self.outside(field, at, bytes.len());
        self.memory.bytes_mut(at, bytes.len()).ok_or(outside)?.copy_from_slice(bytes);
        Ok(())
    }

    fn aligned(&self, field: &'static str, at: Address) -> Result<(), ReferenceError> {
        match at.0 % 16 {
            0 => Ok(()),
            _ => Err(self.refuse(format!("`{field}` is at {:#x}, no multiple of 16", at.0))),
        }
    }

    /// Rows that blocks of weights are multiplied with are read four values at a time.
    fn activations(&self, at: Address, stride: u32, ty: u32, rows: u32) -> Result<(), ReferenceError> {
        if GgmlType::from_u32(ty).block_elems() == 1 {
            return Ok(());
        }
        self.aligned("x", at)?;
        self.demand(rows < 2 || stride.is_multiple_of(4), "rows of `x` don't begin at multiples of 16 bytes")
    }

    /// Bytes of a row of `cols` weights of type number `ty`.
    fn row_bytes(&self, ty: u32, cols: u32) -> Result<(GgmlType, usize), ReferenceError> {
        let ty = GgmlType::from_u32(ty);
        let bytes = ty.row_bytes(cols as usize).filter(|_| crate::kernels::supported(ty));
        bytes.map(|bytes| (ty, bytes)).ok_or_else(|| self.refuse(format!("no rows of {cols} {ty} weights")))
    }

    /// One row of a matrix of weights at `at`.
    fn weights(&self, field: &'static str, at: Address, ty: u32, row: usize, cols: u32) -> Result<Vec<f32>, ReferenceError> {
        let (ty, bytes) = self.row_bytes(ty, cols)?;
        let row = self.bytes(field, Address(at.0.wrapping_add((row * bytes) as u64)), bytes)?;
        let mut out = vec![0.0; cols as usize];
        dequantize(ty, row, &mut out).map_err(|e| self.refuse(e.to_string()))?;
        Ok(out)
    }
}

/// In four lanes, so that the additions don't wait for each other.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut acc = [0.0f64; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    for (a, b) in a4.zip(b4) {
        for i in 0..4 {
            acc[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    acc.iter().sum::<f64>() + rest
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// What a value of gate and one of up become, by the activation's number.
fn activated(activation: Activation, gate: f64, up: f64) -> f64 {
    match activation {
        Activation::SwiGlu => silu(gate) * up,
        Activation::Clamped => {
            let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
            gate * sigmoid(1.702 * gate) * (up + 1.0)
        }
        Activation::GeGlu => {
            let z = std::f64::consts::FRAC_2_PI.sqrt() * (gate + 0.044_715 * gate.powi(3));
            gate / 2.0 * (1.0 + z.tanh()) * up
        }
    }
}

/// Clamp to plus or minus `limit`; 0: not.
fn clamp(x: f32, limit: f32) -> f32 {
    if limit > 0.0 {
        x.clamp(-limit, limit)
    } else {
        x
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
fn rms(x: &[f32], eps: f32) -> f64 {
    1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt()
}
