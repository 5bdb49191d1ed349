//! What NVIDIA's monitoring library counts of a GPU. It comes with the driver; where it is missing, so are these numbers.

#![allow(unsafe_code)]

use super::driver::Library;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::sync::OnceLock;

/// One look. What the library or the GPU can't tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of memory that all programs together use.
    pub memory_used: Option<u64>,
    /// Bytes of memory in all.
    pub memory: Option<u64>,
    /// Share of the last moments in which a kernel ran, in percent.
    pub busy: Option<u32>,
    /// Bytes per second that came over the bus to the GPU, over the last 20 ms.
    pub received: Option<u64>,
    /// Bytes per second that left it.
    pub sent: Option<u64>,
    /// Generation and lanes of the link to the host as it is now; an idle link sleeps in a lower generation.
    pub link: Option<(u32, u32)>,
}

/// Release of the driver, "580.65.06"; asked once. `None` where the library is missing.
#[must_use]
pub fn driver_version() -> Option<String> {
    static VERSION: OnceLock<Option<String>> = OnceLock::new();
    VERSION.get_or_init(ask_driver_version).clone()
}

fn ask_driver_version() -> Option<String> {
    let library = Library::open(&LIBRARIES).ok()?;
    let mut text = [0 as c_char; 96];
    // SAFETY: the signatures are those of nvml.h; the second function writes at most the given number of characters and a zero.
    unsafe {
        let init: unsafe extern "C" fn() -> c_int = function(&library, c"nvmlInit_v2")?;
        let version: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int = function(&library, c"nvmlSystemGetDriverVersion")?;
        if init() != 0 || version(text.as_mut_ptr(), 95) != 0 {
            return None;
        }
    }
    // SAFETY: the last character is still the zero that it was made with.
    let version = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
    (!version.is_empty()).then_some(version)
}

/// What it is called; the second name is the Windows subsystem's for Linux.
const LIBRARIES: [&CStr; 2] = [c"libnvidia-ml.so.1", c"/usr/lib/wsl/lib/libnvidia-ml.so.1"];

type Handle = *mut c_void;

#[repr(C)]
#[derive(Default)]
struct MemoryInfo {
    total: u64,
    free: u64,
    used: u64,
}

#[repr(C)]
#[derive(Default)]
struct Utilisation {
    gpu: c_uint,
    memory: c_uint,
}

/// The monitor of one GPU.
pub struct Monitor {
    device: Handle,
    memory: Option<unsafe extern "C" fn(Handle, *mut MemoryInfo) -> c_int>,
    busy: Option<unsafe extern "C" fn(Handle, *mut Utilisation) -> c_int>,
    throughput: Option<unsafe extern "C" fn(Handle, c_int, *mut c_uint) -> c_int>,
    generation: Option<unsafe extern "C" fn(Handle, *mut c_uint) -> c_int>,
    width: Option<unsafe extern "C" fn(Handle, *mut c_uint) -> c_int>,
    _library: Library,
}

// SAFETY: NVML may be called from any thread, and a device handle stays valid until the library is shut down, which it never is.
unsafe impl Send for Monitor {}
// SAFETY: as above.
unsafe impl Sync for Monitor {}

/// Counts bytes that leave the GPU, and that reach it.
const SENT: c_int = 0;
const RECEIVED: c_int = 1;

impl Monitor {
    /// The monitor of the GPU at this place on the bus ("0000:01:00.0"), if there is one.
    #[must_use]
    pub fn open(bus: &str) -> Option<Self> {
        let library = Library::open(&LIBRARIES).ok()?;
        let bus = CString::new(bus).ok()?;
        let mut device = std::ptr::null_mut();
        // SAFETY: the signatures are those of nvml.h; the names have kept them since they have their number.
        unsafe {
            let init: unsafe extern "C" fn() -> c_int = function(&library, c"nvmlInit_v2")?;
            let find: unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int = function(&library, c"nvmlDeviceGetHandleByPciBusId_v2")?;
            if init() != 0 || find(bus.as_ptr(), &raw mut device) != 0 {
                return None;
            }
            Some(Self {
                device,
                memory: function(&library, c"nvmlDeviceGetMemoryInfo"),
                busy: function(&library, c"nvmlDeviceGetUtilizationRates"),
                throughput: function(&library, c"nvmlDeviceGetPcieThroughput"),
                generation: function(&library, c"nvmlDeviceGetCurrPcieLinkGeneration"),
                width: function(&library, c"nvmlDeviceGetCurrPcieLinkWidth"),
                _library: library,
            })
        }
    }

    /// Look now. Takes about 40 ms, in which the library watches the bus: a matter for a thread that has time.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let memory = self.ask(self.memory);
        let number = |f: Option<unsafe extern "C" fn(Handle, *mut c_uint) -> c_int>| self.ask(f);
        Sample {
            memory_used: memory.as_ref().map(|m| m.used),
            memory: memory.as_ref().map(|m| m.total),
            busy: self.ask(self.busy).map(|u| u.gpu),
            received: self.bus(RECEIVED),
            sent: self.bus(SENT),
            link: number(self.generation).zip(number(self.width)),
        }
    }

    fn ask<T: Default>(&self, f: Option<unsafe extern "C" fn(Handle, *mut T) -> c_int>) -> Option<T> {
        let mut value = T::default();
        // SAFETY: the handle is the library's own, and the function fills a value of its type or says that it did not.
        (unsafe { f?(self.device, &raw mut value) } == 0).then_some(value)
    }

    /// The library counts in KiB per second.
    fn bus(&self, direction: c_int) -> Option<u64> {
        let mut value: c_uint = 0;
        // SAFETY: as above.
        (unsafe { self.throughput?(self.device, direction, &raw mut value) } == 0).then_some(u64::from(value) * 1024)
    }
}

/// # Safety
/// `F` is the type of the function of that name.
unsafe fn function<F: Copy>(library: &Library, name: &CStr) -> Option<F> {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: a function pointer has the size of a pointer, and the caller vouches for its type.
    library.symbol(name).map(|p| unsafe { std::mem::transmute_copy(&p) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_monitor_has_none() {
        assert!(Monitor::open("ffff:ff:1f.0").is_none());
    }
}
