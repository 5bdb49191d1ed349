//! Why a model could not be loaded or run.

use crate::experts::{BudgetError, ExpertError};
use crate::gguf::GgufError;
use crate::kernels::KernelError;

/// Why a model could not be loaded or run. Every message names the file or the field, and the remedy if there is one.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file's architecture has no code here.
    #[error("{file}: architecture `{arch}` can't be run yet; supported are {}", super::ARCHITECTURES.join(", "))]
    Architecture {
        /// File name.
        file: String,
        /// `general.architecture`.
        arch: String,
    },
    /// A metadata key that the architecture needs is absent.
    #[error("{file}: missing metadata `{key}`; the file is incomplete, download or convert it again")]
    MissingKey {
        /// File name.
        file: String,
        /// Full key.
        key: String,
    },
    /// A metadata value that can't be right, or that contradicts another.
    #[error("{file}: metadata `{key}` = {value}: {why}; download or convert the file again")]
    BadKey {
        /// File name.
        file: String,
        /// Full key.
        key: String,
        /// What the file says.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A metadata value of a model that there is no code for here.
    #[error("{file}: metadata `{key}` = {value}: {what} can't be run yet; {instead} can")]
    Unsupported {
        /// File name.
        file: String,
        /// Full key.
        key: String,
        /// What the file says.
        value: String,
        /// What that means.
        what: &'static str,
        /// Its relatives that run.
        instead: &'static str,
    },
    /// A tensor of a model that there is no code for here.
    #[error("{file}: tensor {tensor} is {what}, which can't be run yet; use a model of the family that has none")]
    Extra {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
        /// What it is.
        what: &'static str,
    },
    /// A model that a GPU was asked for, and that only the processor can compute.
    #[error("{file}: {what}; --device cpu runs it on the processor")]
    NotOnDevice {
        /// File name.
        file: String,
        /// What there is no code for; see [`super::ModelConfig::beyond_devices`].
        what: &'static str,
    },
    /// A tensor that the architecture needs is absent.
    #[error("missing tensor {tensor} in {file}; the file is incomplete, download or convert it again")]
    MissingTensor {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
    },
    /// A tensor of another shape than the metadata promises. Dimensions as in the file, contiguous one first.
    #[error("{file}: tensor {tensor} has shape {found:?}, expected {expected:?} by the metadata; download or convert the file again")]
    Shape {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
        /// Dimensions in the file.
        found: Vec<usize>,
        /// Dimensions that the metadata promises.
        expected: Vec<usize>,
    },
    /// A tensor in a type that can't be computed.
    #[error("{file}: tensor {tensor} is {ty:?}, which can't be computed on the CPU yet; use a file in F16, Q8_0 or a K-quant")]
    Type {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
        /// Its type.
        ty: crate::gguf::GgmlType,
    },
    /// Experts of one layer in different types.
    #[error("{file}: {tensor} is {ty:?}, unlike the experts before it; experts of one layer must share their types")]
    MixedExperts {
        /// File name.
        file: String,
        /// Tensor name.
        tensor: String,
        /// Its type.
        ty: crate::gguf::GgmlType,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// More tokens than the context has room for. Nothing was read.
    #[error("{used} tokens are in the context and {more} more do not fit into {context}; start a new chat or raise --ctx")]
    ContextFull {
        /// Tokens in the context.
        used: usize,
        /// Tokens that were to be added.
        more: usize,
        /// Room in all.
        context: usize,
    },
    /// A NaN or an infinity appeared: damaged weights, or values beyond the range of a type.
    #[error("{file}: {place} gave a value that is not a number; the weights there are damaged, download or convert the file again")]
    NotFinite {
        /// File name.
        file: String,
        /// "layer 3 (attention)", "the output head".
        place: String,
    },
    /// The block that guesses further tokens can't be used; the model itself could be.
    #[error("{0}; it belongs to the block that guesses tokens, which --draft never leaves out")]
    Guessing(Box<ModelError>),
    /// Memory for the context could not be had.
    #[error("no memory for a context of {context} tokens ({bytes} bytes): {why}; choose a smaller --ctx")]
    Memory {
        /// Tokens.
        context: usize,
        /// Bytes asked for.
        bytes: u64,
        /// From the operating system.
        why: String,
    },
    /// The memory plan does not work out.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// From the file reader.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// From the dot products.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// From the experts.
    #[error(transparent)]
    Experts(#[from] ExpertError),
    /// The person gave up while the model was being loaded.
    #[error("loading was given up")]
    GivenUp,
    /// From the GPU.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
