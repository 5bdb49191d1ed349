//! A GPU through candle's device: its context and stream, a second stream beside it, and Rotary's own kernels.
//!
//! | lane | stream |
//! |---|---|
//! | compute | candle's, so that tensors of candle are in order with everything else |
//! | copy | one more, which never waits for the first but where a mark says so |
//!
//! Memory is allocated and freed in the order of the compute stream. The copy lane uses it too, so it waits for an
//! allocation, and a free waits for it. Kernels come as one fat binary inside the program; see `build.rs`.
//!
//! | file | idea |
//! |---|---|
//! | `probe` | what GPUs there are |
//! | `lanes` | both streams, marks, memory of the device |
//! | `locked`, `in_place` | page-locked memory: the driver's own, and the program's locked where it lies |
//! | `mailbox` | page-locked memory that kernels read and write while they run |

#![allow(unsafe_code)]

use super::device::{Address, Device, Facts, GpuError, Lane, Mailbox, Mark, Memory, Pinned, Recording, Touch, Watched};
use super::driver;
use super::nvml::Monitor;
use super::params::{Add, Kernel, Shape};
use crate::gguf::Frozen;
use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUresult};
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

mod in_place;
mod lanes;
mod locked;
mod mailbox;
mod probe;

pub use probe::{probe, Probe};

use in_place::LockedInPlace;
use lanes::{event, Lanes, Owned, Passing};
use locked::{locked, Locked, Ring};
use probe::{driver_release, facts};

/// Machine code of the kernels for every GPU generation, made by `build.rs`.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rotary.fatbin"));

fn said(error: DriverError) -> String {
    let text = |r: Result<&CStr, DriverError>| r.map(|s| s.to_string_lossy().into_owned()).ok();
    match (text(error.error_name()), text(error.error_string())) {
        (Some(name), Some(meaning)) => format!("{meaning} ({name})"),
        _ => format!("{:?}", error.0),
    }
}

fn failed(what: impl Into<String>, error: DriverError) -> GpuError {
    GpuError::Driver { what: what.into(), why: said(error) }
}

fn foreign(what: &str) -> GpuError {
    GpuError::Driver { what: what.into(), why: "it belongs to another device".into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a [`Recording`] of this device holds: a graph, with the context that it belongs to.
struct Graph {
    graph: Mutex<CudaGraph>,
    lanes: Arc<Lanes>,
}

// SAFETY: the driver asks that calls which name one graph do not run at the same time: the lock sees to that. The graph belongs to the
// context, not to a thread.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

/// A GPU.
pub struct Cuda {
    facts: Facts,
    lanes: Arc<Lanes>,
    module: Arc<CudaModule>,
    functions: RwLock<HashMap<&'static str, CudaFunction>>,
    ring: Mutex<Option<Ring>>,
    launched: AtomicU64,
    recording: AtomicBool,
    monitor: OnceLock<Option<Monitor>>,
    candle: candle_core::Device,
    /// A kernel's blocks may come before the kernel before it is done; they wait for it themselves (`in_turn` in `kernels/simt.cuh`).
    early: bool,
}

/// From which generation on kernels wait for those before them, if they were compiled for it.
const EARLY: i32 = 90;

/// Whether they do. A GPU that no machine code is for translates portable code of an older generation, in which they don't, however new it is itself: there each kernel
/// must begin when the one before is done. A driver that can't tell counts as one.
fn waits_in_turn(module: &Arc<CudaModule>) -> bool {
    let known = module.load_function(Add::NAME).and_then(|f| f.get_attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION));
    known.is_ok_and(|generation| generation >= EARLY)
}

/// Open the GPU with this number. Takes a few hundred MB of its memory for the driver's context.
///
/// # Errors
/// No driver, no such GPU, or kernels that the driver does not take, each with what to do.
pub fn open(ordinal: usize) -> Result<Arc<Cuda>, GpuError> {
    driver::load()?;
    result::init().map_err(|e| failed("starting the CUDA driver", e))?;
    let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
    let facts = facts(number).map_err(|e| failed(format!("GPU {ordinal}"), e))?;
    let what = || format!("opening GPU {ordinal}, {}", facts.name);
    let candle = candle_core::Device::new_cuda_with_stream(ordinal).map_err(|e| GpuError::Driver { what: what(), why: e.to_string() })?;
    let device = candle.as_cuda_device().map_err(|e| GpuError::Driver { what: what(), why: e.to_string() })?;
    // SAFETY: the lanes are ordered by marks here, and memory is freed after both (see `Owned`).
    unsafe { device.disable_event_tracking() };
    let compute = device.cuda_stream();
    let context = compute.context().clone();
    let copy = context.new_stream().map_err(|e| failed(what(), e))?;
    let lanes = Arc::new(Lanes { context: context.clone(), compute, copy, spare: Mutex::default() });
    let module = context.load_module(Ptx::from_binary(KERNELS.to_vec())).map_err(|e| kernels_refused(&facts, e))?;
    let ring = Mutex::new(Ring::new(&lanes));
    Ok(Arc::new(Cuda {
        early: waits_in_turn(&module),
        facts,
        lanes,
        module,
        functions: RwLock::default(),
        ring,
        launched: AtomicU64::new(0),
        recording: AtomicBool::new(false),
        monitor: OnceLock::new(),
        candle,
    }))
}

fn kernels_refused(facts: &Facts, error: DriverError) -> GpuError {
    let release = env!("ROTARY_NVCC_RELEASE");
    let driver = driver_release().unwrap_or_else(|| "unknown".into());
    let (major, minor) = (facts.capability / 10, facts.capability % 10);
    GpuError::Driver {
        what: format!("loading the kernels (built by CUDA {release}) on {}, capability {major}.{minor}", facts.name),
        why: format!("{}; the driver is for CUDA {driver}: a newer driver helps, or a build with an older toolkit", said(error)),
    }
}

impl Cuda {
    /// Candle's device, for tensors that are to be in order with the compute lane.
    #[must_use]
    pub fn candle(&self) -> &candle_core::Device {
        &self.candle
    }

    /// Where the GPU is on the bus, as NVML and `lspci` name it: "0000:01:00.0".
    #[must_use]
    pub fn bus(&self) -> Option<String> {
        let mut text = [0 as c_char; 32];
        // SAFETY: it writes at most the given number of characters and a zero.
        unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), 31, self.lanes.context.cu_device()) }.result().ok()?;
        // SAFETY: the last character is still the zero that it was made with.
        Some(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// Calls of the driver work on the context that the thread has; every call may come from another thread.
    fn bind(&self, what: &str) -> Result<(), GpuError> {
        self.lanes.context.bind_to_thread().map_err(|e| failed(what, e))
    }

    /// Give back what is free but still reserved for later allocations.
    fn trim(&self) {
        let mut pool = ptr::null_mut();
        // SAFETY: the context's own device; a driver without pools says so and nothing is trimmed.
        unsafe {
            if sys::cuDeviceGetDefaultMemPool(&raw mut pool, self.lanes.context.cu_device()).result().is_ok() {
                let _ = sys::cuMemPoolTrimTo(pool, 0).result();
            }
        }
    }

    fn try_alloc(&self, bytes: usize) -> Result<CudaSlice<u8>, DriverError> {
        // SAFETY: undefined content is what `Device::alloc` promises.
        let slice = unsafe { self.lanes.compute.alloc::<u8>(bytes.max(1)) }?;
        self.lanes.after(Lane::Copy, Lane::Compute)?;
        Ok(slice)
    }

    fn address_of(slice: &CudaSlice<u8>, stream: &CudaStream) -> Address {
        use candle_core::cuda_backend::cudarc::driver::DevicePtr;
        Address(slice.device_ptr(stream).0)
    }

    fn function(&self, name: &'static str, params: usize) -> Result<sys::CUfunction, GpuError> {
        if let Some(f) = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(f.cu_function());
        }
        let found = self.module.load_function(name).map_err(|_| GpuError::NoKernel(name))?;
        let (mut offset, mut size) = (0usize, 0usize);
        // SAFETY: it writes two numbers about the first parameter.
        let told = unsafe { sys::cuFuncGetParamInfo(found.cu_function(), 0, &raw mut offset, &raw mut size) }.result();
        // Drivers before CUDA 12.4 can't tell.
        if told.is_ok() && size != params {
            let why = format!("it takes {size} bytes of parameters, not {params}: kernels and program are of different builds");
            return Err(GpuError::Driver { what: format!("kernel {name}"), why });
        }
        let raw = found.cu_function();
        self.functions.write().unwrap_or_else(PoisonError::into_inner).insert(name, found);
        Ok(raw)
    }
}

impl Device for Cuda {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn free(&self) -> Result<u64, GpuError> {
        self.bind("asking for free memory")?;
        self.trim();
        self.lanes.context.mem_get_info().map(|(free, _)| free as u64).map_err(|e| failed("asking for free memory", e))
    }

    fn watched(&self) -> Option<Watched> {
        let monitor = self.monitor.get_or_init(|| Monitor::open(&self.bus()?));
        let sample = monitor.as_ref().map(Monitor::sample).unwrap_or_default();
        // Where the monitor does not tell: not by `free`, which gives memory back, for that may wait for a token which waits for the host.
        let asked = || {
            self.bind("asking for memory in use").ok()?;
            self.lanes.context.mem_get_info().ok().map(|(free, all)| all.saturating_sub(free) as u64)
        };
        Some(Watched { used: sample.memory_used.or_else(asked).or(Some(0)), busy: sample.busy, received: sample.received })
    }

    fn alloc(&self, bytes: usize) -> Result<Memory, GpuError> {
        self.bind("allocating")?;
        let slice = match self.try_alloc(bytes) {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                // Memory that was freed comes back when the work before it is done.
                self.lanes.finish().map_err(|e| failed("allocating", e))?;
                self.trim();
                match self.try_alloc(bytes) {
                    Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                        return Err(GpuError::OutOfMemory { bytes: bytes as u64, free: self.free()? });
                    }
                    other => other,
                }
            }
            other => other,
        };
        let slice = slice.map_err(|e| failed("allocating", e))?;
        let address = Self::address_of(&slice, &self.lanes.compute);
        Ok(Memory::new(address, bytes, Arc::new(Owned { slice: Some(slice), lanes: self.lanes.clone() })))
    }

    fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        Ok(Arc::new(locked(&self.lanes, bytes)?))
    }

    fn lock(&self, memory: &Frozen) -> Result<Pinned, GpuError> {
        Ok(Arc::new(LockedInPlace::new(&self.lanes, memory)?))
    }

    fn mailbox(&self, bytes: usize) -> Result<Mailbox, GpuError> {
        Ok(Arc::new(mailbox::Mapped::new(&self.lanes, bytes)?))
    }

    fn working(&self) -> Result<bool, GpuError> {
        self.bind("asking for the compute lane")?;
        // SAFETY: a stream of this context, which lives as long as it does. Where the driver gathers work before it gives it to the device (under Windows), asking sends it.
        match unsafe { sys::cuStreamQuery(self.lanes.compute.cu_stream()) } {
            CUresult::CUDA_SUCCESS => Ok(false),
            CUresult::CUDA_ERROR_NOT_READY => Ok(true),
            e => Err(failed("the GPU", DriverError(e))),
        }
    }

    fn upload(&self, lane: Lane, to: Address, from: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        self.bind("upload")?;
        let place = match from.as_any().downcast_ref::<LockedInPlace>() {
            Some(locked) => locked.place(&at),
            None => from.as_any().downcast_ref::<Locked>().ok_or_else(|| foreign("page-locked memory"))?.place(&at).cast_const(),
        };
        if at.is_empty() {
            return Ok(());
        }
        // SAFETY: the bytes are there until the lanes have finished (see `Locked`); the caller vouches for the device's side.
        let queued = unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, place.cast(), at.len(), self.lanes.stream(lane).cu_stream()) };
        queued.result().map_err(|e| failed("upload", e))
    }

    fn upload_now(&self, lane: Lane, to: Address, from: &[u8]) -> Result<(), GpuError> {
        self.bind("upload")?;
        let mut ring = lock(&self.ring);
        if let Some(ring) = ring.as_mut() {
            let mut at = to;
            for piece in from.chunks(Ring::PIECE) {
                ring.stage(&self.lanes, lane, at, piece).map_err(|e| failed("upload", e))?;
                at = at.plus(piece.len());
            }
            return Ok(());
        }
        if from.is_empty() {
            return Ok(());
        }
        // No page-locked memory is to be had: the driver copies, and is waited for.
        let stream = self.lanes.stream(lane);
        // SAFETY: `from` is there until the stream has finished, on the next line.
        let queued = unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, from.as_ptr().cast(), from.len(), stream.cu_stream()) };
        let done = queued.result().and(stream.synchronize());
        done.map_err(|e| failed("upload", e))
    }

    fn download(&self, lane: Lane, from: Address, to: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        self.bind("download")?;
        let to = to.as_any().downcast_ref::<Locked>().ok_or_else(|| foreign("page-locked memory"))?;
        if at.is_empty() {
            return Ok(());
        }
        // SAFETY: as for uploads; nobody of the host reads these bytes before the copy's mark has passed.
        let queued = unsafe { sys::cuMemcpyDtoHAsync_v2(to.place(&at).cast(), from.0, at.len(), self.lanes.stream(lane).cu_stream()) };
        queued.result().map_err(|e| failed("download", e))
    }

    fn copy(&self, lane: Lane, from: Address, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.bind("copy")?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: addresses on the device, for which the caller vouches.
        let queued = unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.lanes.stream(lane).cu_stream()) };
        queued.result().map_err(|e| failed("copy", e))
    }

    fn clear(&self, lane: Lane, at: Address, bytes: usize) -> Result<(), GpuError> {
        self.bind("clear")?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: an address on the device, for which the caller vouches.
        let queued = unsafe { sys::cuMemsetD8Async(at.0, 0, bytes, self.lanes.stream(lane).cu_stream()) };
        queued.result().map_err(|e| failed("clear", e))
    }

    fn mark(&self, lane: Lane) -> Result<Mark, GpuError> {
        let event = self.lanes.recorded(lane).map_err(|e| failed("a mark", e))?;
        Ok(Mark(Arc::new(Passing { event: Some(event), lanes: self.lanes.clone() })))
    }

    fn wait(&self, lane: Lane, mark: &Mark) -> Result<(), GpuError> {
        self.lanes.stream(lane).wait(event(mark, &self.lanes)?).map_err(|e| failed("waiting for a mark", e))
    }

    fn sync(&self, mark: &Mark) -> Result<(), GpuError> {
        event(mark, &self.lanes)?.synchronize().map_err(|e| failed("the GPU", e))
    }

    fn passed(&self, mark: &Mark) -> Result<bool, GpuError> {
        let event = event(mark, &self.lanes)?;
        self.bind("asking for a mark")?;
        event.try_is_complete().map_err(|e| failed("the GPU", e))
    }

    fn between(&self, from: &Mark, to: &Mark) -> Option<f64> {
        let (from, to) = (event(from, &self.lanes).ok()?, event(to, &self.lanes).ok()?);
        self.bind("times").ok()?;
        // SAFETY: both events are alive and of this context; one that has not passed is an error, not a wait.
        let milliseconds = unsafe { result::event::elapsed(from.cu_event(), to.cu_event()) }.ok()?;
        Some(f64::from(milliseconds) * 1e3)
    }

    fn launch(&self, kernel: &'static str, shape: Shape, params: &[u8], _touches: &[Touch]) -> Result<(), GpuError> {
        self.bind(kernel)?;
        let function = self.function(kernel, params.len())?;
        let [x, y, z] = shape.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
        let (threads, stream) = (shape.threads, self.lanes.compute.cu_stream());
        let queued = if self.early {
            let mut early = sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            };
            let config = sys::CUlaunchConfig {
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: 0,
                hStream: stream,
                attrs: &raw mut early,
                numAttrs: 1,
            };
            // SAFETY: the kernel takes one parameter of this size (checked when it was looked up), which the driver copies before it returns, as it
            // does the attribute; the caller vouches for the addresses in it, and the kernel waits before it uses those (`in_turn`).
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), ptr::null_mut()) }
        } else {
            // SAFETY: as above.
            unsafe { sys::cuLaunchKernel(function, x, y, z, threads, 1, 1, 0, stream, arguments.as_mut_ptr(), ptr::null_mut()) }
        };
        queued.result().map_err(|e| failed(format!("kernel {kernel}"), e))?;
        if !self.recording.load(Ordering::Relaxed) {
            self.launched.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn launches(&self) -> u64 {
        self.launched.load(Ordering::Relaxed)
    }

    fn begin_recording(&self) -> Result<(), GpuError> {
        // Only calls of this thread are held to what a recording allows: others go on copying.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.lanes.compute.begin_capture(mode).map_err(|e| failed("recording launches", e))?;
        self.recording.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_recording(&self) -> Result<Recording, GpuError> {
        self.recording.store(false, Ordering::Relaxed);
        let graph = self.lanes.compute.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(|e| failed("recording launches", e))?;
        let graph = graph.ok_or_else(|| GpuError::Driver { what: "recording launches".into(), why: "nothing came of it".into() })?;
        // What a first launch would have to send to the device is sent now.
        graph.upload().map_err(|e| failed("recording launches", e))?;
        Ok(Recording(Arc::new(Graph { graph: Mutex::new(graph), lanes: self.lanes.clone() })))
    }

    fn replay(&self, recording: &Recording) -> Result<(), GpuError> {
        self.bind("recorded launches")?;
        let ours = recording.0.downcast_ref::<Graph>().filter(|g| Arc::ptr_eq(&g.lanes, &self.lanes));
        let graph = lock(&ours.ok_or_else(|| foreign("a recording"))?.graph);
        graph.launch().map_err(|e| failed("recorded launches", e))?;
        self.launched.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // The ring's events go before its memory, whose own drop waits for both lanes.
        self.lanes.context.record_err(self.lanes.finish());
    }
}
