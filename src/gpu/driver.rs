//! The CUDA driver, found while the program runs: one binary serves machines with and without a GPU.
//!
//! The bindings (cudarc, as candle configures it) call the driver's functions by name, so the linker would make the driver's
//! library a condition of starting. Here each of those names is a jump through a pointer instead: the linker finds every
//! name defined and drops the library. [`load`] opens the library and sets the pointers; until then, and for a function that
//! an older driver lacks, they point to one that returns an error.
//!
//! The constructor of candle's device also makes handles for cuBLAS and cuRAND, libraries of half a gigabyte of which Rotary
//! uses nothing (its kernels are its own). They are not loaded: what is called of them is defined here too, and answers
//! "not initialised". The same holds for candle's precompiled kernels of quantized products, which are machine code of a single
//! GPU generation and leave their results unwritten on any other: calling one ends the program with its name.
//!
//! A name that is missing below makes the program need the library again; `tests/gpu/build.sh` finds that out.

#![allow(unsafe_code)]

use super::GpuError;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::OnceLock;

/// What the driver's library is called; the name without a number comes with toolkits, as a stub that does nothing.
const LIBRARY: &CStr = c"libcuda.so.1";
/// Where the Windows subsystem for Linux and NixOS keep it, outside the path of some loaders.
const ELSEWHERE: [&CStr; 2] = [c"/usr/lib/wsl/lib/libcuda.so.1", c"/run/opengl-driver/lib/libcuda.so.1"];

/// `CUDA_ERROR_SHARED_OBJECT_INIT_FAILED`.
extern "C" fn no_driver() -> c_int {
    303
}

/// A symbol `$name` that jumps to where `TO` points.
macro_rules! jump {
    ($name:ident, $to:expr) => {
        #[allow(non_snake_case)]
        mod $name {
            use super::*;
            pub(super) static TO: AtomicPtr<c_void> = AtomicPtr::new($to as *const () as *mut c_void);
            #[cfg(target_arch = "x86_64")]
            std::arch::global_asm!(
                concat!(".pushsection .text.", stringify!($name), ",\"ax\",@progbits"),
                concat!(".globl ", stringify!($name)),
                concat!(".hidden ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                concat!(stringify!($name), ":"),
                "jmp qword ptr [rip + {to}]",
                ".popsection",
                to = sym TO,
            );
            #[cfg(target_arch = "aarch64")]
            std::arch::global_asm!(
                concat!(".pushsection .text.", stringify!($name), ",\"ax\",@progbits"),
                concat!(".globl ", stringify!($name)),
                concat!(".hidden ", stringify!($name)),
                concat!(".type ", stringify!($name), ",@function"),
                ".balign 4",
                concat!(stringify!($name), ":"),
                "adrp x16, {to}",
                "ldr x16, [x16, :lo12:{to}]",
                "br x16",
                ".popsection",
                to = sym TO,
            );
        }
    };
}

macro_rules! driver {
    ($($name:ident)*) => {
        $(jump!($name, no_driver);)*
        /// The functions, by name.
        static FUNCTIONS: &[(&str, &AtomicPtr<c_void>)] = &[$((concat!(stringify!($name), "\0"), &$name::TO)),*];
    };
}

macro_rules! unused {
    ($to:ident: $($name:ident)*) => { $(jump!($name, $to);)* };
}

driver! {
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit cuCtxGetStreamPriorityRange
    cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetFlags cuCtxSetLimit cuCtxSynchronize cuDestroyExternalMemory cuDeviceGet
    cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceGetName cuDeviceGetPCIBusId
    cuDeviceGetUuid cuDeviceGetUuid_v2 cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDeviceTotalMem_v2
    cuDriverGetVersion cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery cuEventRecord
    cuEventSynchronize cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncGetParamInfo cuFuncSetAttribute cuFuncSetCacheConfig
    cuGetErrorName cuGetErrorString cuGraphClone cuGraphDestroy cuGraphExecDestroy cuGraphInstantiate cuGraphInstantiateWithFlags
    cuGraphLaunch cuGraphUpload cuImportExternalMemory cuInit cuLaunchCooperativeKernel cuLaunchHostFunc cuLaunchKernel cuLaunchKernelEx cuMemAdvise_v2
    cuMemAllocAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost cuMemFree_v2 cuMemGetInfo_v2
    cuMemHostAlloc cuMemHostGetDevicePointer_v2 cuMemHostRegister_v2 cuMemHostUnregister cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolTrimTo cuMemPrefetchAsync_v2
    cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync
    cuMemsetD8Async cuMemsetD8_v2 cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync
    cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamEndCapture cuStreamIsCapturing
    cuStreamQuery cuStreamSynchronize cuStreamWaitEvent
}

/// Newer names whose older ones mean the same.
const OLDER: [(&CStr, &CStr); 2] = [(c"cuDeviceGetUuid_v2", c"cuDeviceGetUuid"), (c"cuEventElapsedTime_v2", c"cuEventElapsedTime")];

/// Success, and a handle that is null.
///
/// # Safety
/// `handle` is where a pointer can be written.
unsafe extern "C" fn no_handle(handle: *mut *mut c_void) -> c_int {
    // SAFETY: both functions that jump here give the address of the handle they want first.
    unsafe { handle.write(std::ptr::null_mut()) };
    0
}
unused! { no_handle: cublasCreate_v2 curandCreateGenerator }

/// Success.
extern "C" fn nothing() -> c_int {
    0
}
unused! { nothing: cublasDestroy_v2 cublasSetStream_v2 curandDestroyGenerator curandSetPseudoRandomGeneratorSeed curandSetStream }

/// `CUBLAS_STATUS_NOT_INITIALIZED`.
extern "C" fn no_cublas() -> c_int {
    1
}
unused! { no_cublas:
    cublasDasum_v2 cublasDgemmStridedBatched cublasDgemm_v2 cublasDgemv_v2 cublasGemmEx cublasGemmGroupedBatchedEx
    cublasGemmStridedBatchedEx cublasGetPointerMode_v2 cublasSasum_v2 cublasSetPointerMode_v2 cublasSgemmStridedBatched cublasSgemm_v2
    cublasSgemv_v2 cublasLtCreate cublasLtDestroy cublasLtLoggerOpenFile cublasLtLoggerSetLevel cublasLtMatmul
    cublasLtMatmulAlgoGetHeuristic cublasLtMatmulDescCreate cublasLtMatmulDescDestroy cublasLtMatmulDescSetAttribute
    cublasLtMatmulPreferenceCreate cublasLtMatmulPreferenceDestroy cublasLtMatmulPreferenceSetAttribute cublasLtMatrixLayoutCreate
    cublasLtMatrixLayoutDestroy cublasLtMatrixLayoutSetAttribute
}

/// `CURAND_STATUS_NOT_INITIALIZED`.
extern "C" fn no_curand() -> c_int {
    101
}
unused! { no_curand:
    curandGenerate curandGenerateLogNormal curandGenerateLogNormalDouble curandGenerateLongLong curandGenerateNormal
    curandGenerateNormalDouble curandGeneratePoisson curandGenerateUniform curandGenerateUniformDouble curandSetGeneratorOffset
}

/// `NVRTC_ERROR_INTERNAL_ERROR`.
extern "C" fn no_nvrtc() -> c_int {
    11
}
unused! { no_nvrtc:
    nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize nvrtcGetProgramLog nvrtcGetProgramLogSize
}

/// Better than a result that nothing has written.
extern "C" fn no_launcher() {
    eprintln!("rotary: a quantized product of candle was asked of the GPU; this build leaves those kernels out (see src/gpu/driver.rs)");
    std::process::abort();
}
unused! { no_launcher:
    launch_mmq_gguf_q2_k launch_mmq_gguf_q3_k launch_mmq_gguf_q4_0 launch_mmq_gguf_q4_1 launch_mmq_gguf_q4_k launch_mmq_gguf_q5_0
    launch_mmq_gguf_q5_1 launch_mmq_gguf_q5_k launch_mmq_gguf_q6_k launch_mmq_gguf_q8_0 launch_mmq_quantize_q8_1_D2S6
    launch_mmq_quantize_q8_1_D4 launch_mmq_quantize_q8_1_DS4 launch_mmvq_gguf_q2_k_bf16_plain launch_mmvq_gguf_q2_k_f16_plain
    launch_mmvq_gguf_q2_k_f32_plain launch_mmvq_gguf_q3_k_bf16_plain launch_mmvq_gguf_q3_k_f16_plain launch_mmvq_gguf_q3_k_f32_plain
    launch_mmvq_gguf_q4_0_bf16_plain launch_mmvq_gguf_q4_0_f16_plain launch_mmvq_gguf_q4_0_f32_plain launch_mmvq_gguf_q4_1_bf16_plain
    launch_mmvq_gguf_q4_1_f16_plain launch_mmvq_gguf_q4_1_f32_plain launch_mmvq_gguf_q4_k_bf16_plain launch_mmvq_gguf_q4_k_f16_plain
    launch_mmvq_gguf_q4_k_f32_plain launch_mmvq_gguf_q5_0_bf16_plain launch_mmvq_gguf_q5_0_f16_plain launch_mmvq_gguf_q5_0_f32_plain
    launch_mmvq_gguf_q5_1_bf16_plain launch_mmvq_gguf_q5_1_f16_plain launch_mmvq_gguf_q5_1_f32_plain launch_mmvq_gguf_q5_k_bf16_plain
    launch_mmvq_gguf_q5_k_f16_plain launch_mmvq_gguf_q5_k_f32_plain launch_mmvq_gguf_q6_k_bf16_plain launch_mmvq_gguf_q6_k_f16_plain
    launch_mmvq_gguf_q6_k_f32_plain launch_mmvq_gguf_q8_0_bf16_plain launch_mmvq_gguf_q8_0_f16_plain launch_mmvq_gguf_q8_0_f32_plain
    launch_mmvq_gguf_quantize_q8_1_bf16 launch_mmvq_gguf_quantize_q8_1_f16 launch_mmvq_gguf_quantize_q8_1_f32 moe_gemm_gguf
    moe_gemm_gguf_prefill moe_gemm_wmma
}

/// Open the driver's library, once.
///
/// # Errors
/// [`GpuError::Library`] with what to do about it.
pub(super) fn load() -> Result<(), GpuError> {
    static LOADED: OnceLock<Result<(), GpuError>> = OnceLock::new();
    LOADED.get_or_init(open).clone()
}

fn open() -> Result<(), GpuError> {
    let library = Library::open(&[LIBRARY, ELSEWHERE[0], ELSEWHERE[1]]).map_err(|why| GpuError::Library {
        library: "the CUDA driver (libcuda.so.1)",
        why,
        remedy: "install NVIDIA's driver, and in a container start it with access to the GPU".into(),
    })?;
    for (name, to) in FUNCTIONS {
        let Ok(name) = CStr::from_bytes_with_nul(name.as_bytes()) else { continue };
        let older = || OLDER.iter().find(|(newer, _)| *newer == name).and_then(|(_, older)| library.symbol(older));
        if let Some(found) = library.symbol(name).or_else(older) {
            to.store(found, Ordering::Release);
        }
    }
    // An old driver answers what it lacks with an error; one without these is none.
    for needed in [&cuInit::TO, &cuDeviceGetCount::TO, &cuLaunchKernel::TO, &cuMemAllocAsync::TO] {
        if needed.load(Ordering::Acquire) == no_driver as *const () as *mut c_void {
            return Err(GpuError::Library {
                library: "the CUDA driver (libcuda.so.1)",
                why: "it is older than CUDA 11.2 or not NVIDIA's".into(),
                remedy: "install a newer driver".into(),
            });
        }
    }
    Ok(())
}

/// A shared library that stays loaded as long as the program runs.
pub(super) struct Library(*mut c_void);

// SAFETY: a handle of dlopen may be used from any thread.
unsafe impl Send for Library {}
// SAFETY: as above; dlsym changes nothing.
unsafe impl Sync for Library {}

impl Library {
    /// The first of `names` that can be loaded, else what the loader says about the first.
    pub(super) fn open(names: &[&CStr]) -> Result<Self, String> {
        let mut why = None;
        for name in names {
            // SAFETY: the names are those of libraries whose constructors are made to run in any program.
            let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
            if !handle.is_null() {
                return Ok(Self(handle));
            }
            // SAFETY: dlerror gives null or a string that lives until the next call of this thread.
            let said: *const c_char = unsafe { libc::dlerror() };
            if why.is_none() && !said.is_null() {
                // SAFETY: as above, and not null.
                why = Some(unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned());
            }
        }
        Err(why.unwrap_or_else(|| "it can't be loaded".into()))
    }

    /// Where `name` is, if the library has it.
    pub(super) fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is one of dlopen and is never closed.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::cuda_backend::cudarc;

    #[test]
    fn without_a_driver_the_bindings_get_an_error_and_candle_makes_no_device() {
        if load().is_ok() {
            return; // There is a driver here: other tests' business.
        }
        assert!(cudarc::driver::result::init().is_err(), "the jump leads to the function that refuses");
        assert!(candle_core::Device::new_cuda_with_stream(0).is_err());
        let why = load().unwrap_err().to_string();
        assert!(why.contains("libcuda.so.1") && why.contains("install"), "{why}");
    }

    #[test]
    fn handles_that_nobody_uses_are_made_without_their_libraries() {
        let handle = cudarc::cublas::result::create_handle().unwrap();
        assert!(handle.is_null());
        assert!(cudarc::curand::result::create_generator().unwrap().is_null());
    }

    #[test]
    fn every_name_of_the_driver_can_be_looked_up() {
        for (name, _) in FUNCTIONS {
            let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap().to_str().unwrap();
            assert!(name.starts_with("cu") && !name.contains(' '), "{name}");
        }
    }
}
