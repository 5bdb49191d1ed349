//! What a device offers. Two streams, called lanes: one computes, one copies; marks order them.
//!
//! All calls but [`Device::sync`] only queue work and return at once. Memory that queued work still uses must be kept: every
//! [`Memory`] and [`Pinned`] is reference-counted, and a device frees in stream order.

use crate::gguf::Frozen;
use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Why the device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// There is no such memory.
    #[error("the GPU has no room for {bytes} bytes more ({free} are free); fewer slots or a shorter context take less")]
    OutOfMemory {
        /// Asked for.
        bytes: u64,
        /// Free at that moment.
        free: u64,
    },
    /// Page-locked host memory can't be had.
    #[error("the system refuses {bytes} bytes of page-locked memory: {why}")]
    Pinned {
        /// Asked for.
        bytes: u64,
        /// From the driver.
        why: String,
    },
    /// A kernel that the device's module lacks.
    #[error("this build has no kernel `{0}` for the GPU at hand")]
    NoKernel(&'static str),
    /// A library that the GPU tier needs is not there.
    #[error("{library} is missing ({why}); {remedy}")]
    Library {
        /// Its name.
        library: &'static str,
        /// From the loader.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A kernel that a model needs did not pass its trial; see [`super::proof`].
    #[error(
        "kernel `{kernel}` {how} on {gpu}: {why}; `rotary gpu-check` tries all of them, another driver may help, and --device cpu computes \
         on the processor"
    )]
    Unproven {
        /// Its name, and what it was tried with.
        kernel: String,
        /// "gives wrong results" or "does not run".
        how: &'static str,
        /// Name, capability and driver.
        gpu: String,
        /// The first difference, or from the driver.
        why: String,
    },
    /// A kernel waited for the host for longer than it may; see [`super::talk`].
    #[error(
        "the GPU waited for a second for this program, which was stopped, had no processor to run on or read slowly, and gave the token up; \
         tokens go layer by layer from now on, so ask again"
    )]
    GaveUp,
    /// Anything else that the driver says.
    #[error("{what}: {why}")]
    Driver {
        /// What was tried.
        what: String,
        /// From the driver.
        why: String,
    },
}

/// A stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Kernels, and the small copies that belong to them.
    Compute,
    /// Experts on their way into slots.
    Copy,
}

/// A place in device memory. Arithmetic on it is the business of who knows the size of the memory behind it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(pub u64);

impl Address {
    /// No memory: an optional parameter that is not there.
    pub const NONE: Self = Self(0);

    /// So many bytes further on.
    #[must_use]
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Memory on the device; freed when the last clone is dropped and the work queued until then is done.
#[derive(Clone)]
pub struct Memory {
    address: Address,
    bytes: usize,
    _owner: Arc<dyn Any + Send + Sync>,
}

impl Memory {
    /// Memory at `address` that lives as long as `owner`.
    #[must_use]
    pub fn new(address: Address, bytes: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { address, bytes, _owner: owner }
    }

    /// Where it begins.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The place `offset` bytes in, with room for `bytes` more.
    ///
    /// # Panics
    /// If that is outside: a mistake of this program, never of a file.
    #[must_use]
    pub fn at(&self, offset: usize, bytes: usize) -> Address {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes), "{offset}+{bytes} of {}", self.bytes);
        self.address.plus(offset)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:#x}, {})", self.address.0, self.bytes)
    }
}

/// Page-locked host memory, which the device reads and writes while the host goes on. Whoever touches its bytes has waited for
/// the marks of the copies that use them.
pub trait PinnedBytes: Send + Sync {
    /// Size in bytes.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Read.
    fn read(&self, at: Range<usize>, f: &mut dyn FnMut(&[u8]));
    /// Write.
    ///
    /// # Panics
    /// On memory that was locked where it lies ([`Device::lock`]): that is only read.
    fn write(&self, at: Range<usize>, f: &mut dyn FnMut(&mut [u8]));
    /// For the device that made it.
    fn as_any(&self) -> &dyn Any;
}

/// Shared page-locked host memory.
pub type Pinned = Arc<dyn PinnedBytes>;

/// Memory of the host that kernels read and write while they run, so that a running token and the host can speak with each other; see [`super::talk`]. What is
/// written on one side before a word is said can be read on the other side once the word is heard.
pub trait MailboxBytes: Send + Sync {
    /// Where kernels find it.
    fn address(&self) -> Address;
    /// The word at this byte, a multiple of four; what the device wrote before it said this word can be read.
    fn heard(&self, at: usize) -> u32;
    /// Say a word; the device can then read what was written before.
    fn say(&self, at: usize, word: u32);
    /// Copy out what the device has written, and does not write now, from this byte on. A device that has given a token up may write all the same: then what was copied is worth nothing, and
    /// whoever reads must find that out before using it.
    ///
    /// # Panics
    /// Beyond its end.
    fn read(&self, at: usize, into: &mut [u8]);
    /// Copy in what the device does not read now.
    ///
    /// # Panics
    /// Beyond its end.
    fn write(&self, at: usize, from: &[u8]);
}

/// A mailbox; gone with its last clone, which must come after the last kernel that uses it.
pub type Mailbox = Arc<dyn MailboxBytes>;

/// A point in a lane's work; passed when all that was queued before it is done.
#[derive(Clone)]
pub struct Mark(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// Work of the compute lane that was recorded, to be queued again and again in one call: see [`record`].
#[derive(Clone)]
pub struct Recording(pub Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recording")
    }
}

/// Record what `work` gives the compute lane instead of queueing it: launches, copies from and to page-locked memory and within the
/// device. It must do nothing else with the device, and the memory that it names must live as long as the recording is replayed.
///
/// # Errors
/// From `work`, or the device can't record.
pub fn record<E: From<GpuError>>(device: &dyn Device, mut work: impl FnMut() -> Result<(), E>) -> Result<Recording, E> {
    /// Ends the recording also when `work` fails or panics.
    struct Open<'a>(Option<&'a dyn Device>);
    impl Drop for Open<'_> {
        fn drop(&mut self) {
            if let Some(device) = self.0.take() {
                let _ = device.end_recording();
            }
        }
    }
    device.begin_recording()?;
    let mut open = Open(Some(device));
    work()?;
    open.0 = None;
    Ok(device.end_recording()?)
}

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// "NVIDIA GeForce RTX 4060 Laptop GPU".
    pub name: String,
    /// Compute capability, 89 for 8.9; 0 if it has none.
    pub capability: u32,
    /// Bytes of memory in all.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Kernels that run for seconds are ended by its driver, since it draws a screen: none may wait without limit for a host that could be stopped.
    pub impatient: bool,
    /// Release of its driver, "580.65.06 (CUDA 13.0)"; empty if it has none.
    pub driver: String,
    /// Tells the kernels that this program brings along from those of another build; empty if it brings none.
    pub kernels: String,
}

/// Which bytes a launch touches, for the simulator's checker: slabs are shared by the lanes, so whole memories would be too coarse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Where.
    pub address: Address,
    /// How much.
    pub bytes: usize,
    /// Written, not only read.
    pub writes: bool,
}

/// What a monitor beside the device counts; see [`Device::watched`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Bytes of memory that all programs together use.
    pub used: Option<u64>,
    /// Share of the last moments in which a kernel ran, in percent.
    pub busy: Option<u32>,
    /// Bytes per second that came over the bus, by whomever they were sent.
    pub received: Option<u64>,
}

/// A GPU, or what stands for one.
pub trait Device: Send + Sync {
    /// What it is.
    fn facts(&self) -> &Facts;

    /// Bytes of device memory that are free now.
    ///
    /// # Errors
    /// From the driver.
    fn free(&self) -> Result<u64, GpuError>;

    /// What the driver's monitor counts, if there is one. May take some ten milliseconds, and disturbs no work that is under way.
    fn watched(&self) -> Option<Watched> {
        None
    }

    /// Device memory with undefined content, at a multiple of 256.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    fn alloc(&self, bytes: usize) -> Result<Memory, GpuError>;

    /// Page-locked host memory, zeroed.
    ///
    /// # Errors
    /// [`GpuError::Pinned`].
    fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError>;

    /// Page-lock memory where it lies, so that it can be uploaded from; nothing can be downloaded into it. It stays, and stays locked, until the last clone of what this
    /// gives is gone and the copies queued until then are done.
    ///
    /// # Errors
    /// [`GpuError::Pinned`]; the memory is as it was.
    fn lock(&self, memory: &Frozen) -> Result<Pinned, GpuError> {
        Err(GpuError::Pinned { bytes: memory.len() as u64, why: "this device locks only memory of its own".into() })
    }

    /// A mailbox of zeros, at a multiple of 256.
    ///
    /// # Errors
    /// [`GpuError::Pinned`]; also of a device that has none.
    fn mailbox(&self, bytes: usize) -> Result<Mailbox, GpuError> {
        Err(GpuError::Pinned { bytes: bytes as u64, why: "this device has no memory that it shares with the host".into() })
    }

    /// Asked now and then while the host waits for a word of a kernel: whether the compute lane still has work. Makes sure that the device has been given all of it.
    ///
    /// # Errors
    /// Earlier work failed, or (of a simulated device) waits for what nobody will say.
    fn working(&self) -> Result<bool, GpuError> {
        let mark = self.mark(Lane::Compute)?;
        Ok(!self.passed(&mark)?)
    }

    /// Queue a copy from page-locked memory to the device.
    ///
    /// # Errors
    /// From the driver; nothing was queued.
    fn upload(&self, lane: Lane, to: Address, from: &Pinned, at: Range<usize>) -> Result<(), GpuError>;

    /// Copy ordinary host memory to the device; `from` may be given back when this returns.
    ///
    /// # Errors
    /// From the driver; nothing was queued.
    fn upload_now(&self, lane: Lane, to: Address, from: &[u8]) -> Result<(), GpuError>;

    /// Queue a copy from the device to page-locked memory.
    ///
    /// # Errors
    /// From the driver; nothing was queued.
    fn download(&self, lane: Lane, from: Address, to: &Pinned, at: Range<usize>) -> Result<(), GpuError>;

    /// Queue a copy within the device; the ranges don't overlap.
    ///
    /// # Errors
    /// From the driver; nothing was queued.
    fn copy(&self, lane: Lane, from: Address, to: Address, bytes: usize) -> Result<(), GpuError>;

    /// Queue zeros.
    ///
    /// # Errors
    /// From the driver; nothing was queued.
    fn clear(&self, lane: Lane, at: Address, bytes: usize) -> Result<(), GpuError>;

    /// A mark after all that the lane has been given so far.
    ///
    /// # Errors
    /// From the driver.
    fn mark(&self, lane: Lane) -> Result<Mark, GpuError>;

    /// What the lane is given from now on waits for the mark.
    ///
    /// # Errors
    /// From the driver.
    fn wait(&self, lane: Lane, mark: &Mark) -> Result<(), GpuError>;

    /// The host waits for the mark. Failures of earlier work surface here.
    ///
    /// # Errors
    /// From the driver.
    fn sync(&self, mark: &Mark) -> Result<(), GpuError>;

    /// Whether the mark has been passed.
    ///
    /// # Errors
    /// From the driver.
    fn passed(&self, mark: &Mark) -> Result<bool, GpuError>;

    /// Microseconds of device time between two passed marks of one lane; `None` if the device can't tell.
    fn between(&self, from: &Mark, to: &Mark) -> Option<f64>;

    /// Queue a kernel on the compute lane. `params` is the kernel's parameter struct (see [`super::params`]), `touches` what it
    /// reads and writes of memory that the copy lane uses too.
    ///
    /// # Errors
    /// From the driver; nothing was queued.
    fn launch(&self, kernel: &'static str, shape: super::params::Shape, params: &[u8], touches: &[Touch]) -> Result<(), GpuError>;

    /// Launches since the device was opened; a replayed recording is one.
    fn launches(&self) -> u64;

    /// From now on the compute lane's work is recorded; see [`record`].
    ///
    /// # Errors
    /// From the driver.
    fn begin_recording(&self) -> Result<(), GpuError>;

    /// What was recorded.
    ///
    /// # Errors
    /// From the driver; nothing is recorded any more.
    fn end_recording(&self) -> Result<Recording, GpuError>;

    /// Queue recorded work on the compute lane.
    ///
    /// # Errors
    /// From the driver; nothing was queued.
    fn replay(&self, recording: &Recording) -> Result<(), GpuError>;
}
