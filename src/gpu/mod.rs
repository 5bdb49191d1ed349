//! The GPU, as far as the engine needs one: memory, two streams, events, and a short list of kernels.
//!
//! Everything above this room (the slots in VRAM, the decoder on the device) speaks to a [`Device`] and is the same for
//! all of them:
//!
//! | file | idea |
//! |---|---|
//! | [`choose`] | which device a model is opened on |
//! | [`device`] | what a device offers: memory, pinned memory, two streams, marks (events), launches |
//! | [`link`] | how fast the way up to it is |
//! | [`params`] | the kernels by name, their parameters and launch shapes: the border between Rust and CUDA |
//! | [`mod@reference`] | what every kernel means, in plain Rust |
//! | [`talk`] | how a running token and the host speak with each other |
//! | [`trial`] | every kernel of a device against its meaning, on random data |
//! | [`proof`] | of these, what a model needs, tried once per GPU, driver and build before the model runs |
//! | [`simulated`] | a device in host memory with a clock, faults and a checker of races between the streams |
//! | `cuda` (feature `cuda`) | the real one, on candle's device |
//! | `driver` (feature `cuda`) | the CUDA driver, found while the program runs |
//! | `nvml` (feature `cuda`) | what the driver's monitor counts: memory in use, bytes over the bus |
//!
//! The kernels themselves are CUDA C++ in `kernels/`; `docs/gpu.md` tells how they are tested without a GPU.

pub mod choose;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
#[cfg(feature = "cuda")]
mod driver;
pub mod link;
#[cfg(feature = "cuda")]
pub mod nvml;
pub mod params;
pub mod proof;
pub mod reference;
pub mod simulated;
pub mod talk;
pub mod trial;

pub use device::{Address, Device, GpuError, Lane, Mark, Memory, Pinned};
