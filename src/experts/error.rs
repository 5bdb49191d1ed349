//! What can go wrong with experts.

use super::policy;

/// Why experts could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub enum ExpertError {
    /// Address space for slots could not be had.
    #[error("the system refuses {bytes} bytes of address space for expert slots: {why}; lift the limit (ulimit -v)")]
    Reserve {
        /// Bytes asked for.
        bytes: u64,
        /// From the operating system.
        why: String,
    },
    /// The router named an expert or a layer that does not exist.
    #[error("layer {layer} has {experts} experts, but number {expert} was routed to")]
    Routing {
        /// Layer index.
        layer: usize,
        /// Expert id.
        expert: u32,
        /// Experts per layer.
        experts: usize,
    },
    /// The slots are on a device.
    #[error("slots on a device are the same in every layer")]
    EqualSlots,
    /// From the policies.
    #[error(transparent)]
    Policy(#[from] policy::UnknownPolicy),
    /// From the dot products.
    #[error(transparent)]
    Kernel(#[from] crate::kernels::KernelError),
    /// From the GPU.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    /// Rows in host memory were given to experts on a device, or the other way round.
    #[error("the rows of layer {layer} are not where its experts are")]
    Elsewhere {
        /// Layer index.
        layer: usize,
    },
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
