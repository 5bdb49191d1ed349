//! The kernels compiled for the CPU, and memory for them in which every byte that they should not touch is watched.

use rotary::gguf::GgmlType;
use rotary::gpu::params::{AwaitHost, Kernel, MatVec};
use rotary::gpu::reference::{self, HostMemory, ReferenceError};
use rotary::gpu::Address;
use std::ffi::{c_char, c_int, c_uint, c_void, CStr, CString};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

type Run = unsafe extern "C" fn(*const c_char, *const c_void, *const c_uint, c_uint, c_int) -> c_int;
type Layout = unsafe extern "C" fn(*const c_char, *const c_char) -> i64;
type Text = unsafe extern "C" fn() -> *const c_char;
type Count = unsafe extern "C" fn() -> u64;
type Fault = unsafe extern "C" fn(*const c_char, u64) -> c_int;
type Watch = unsafe extern "C" fn(usize, usize, *const [usize; 2], usize, *const [usize; 2], usize);

/// `kernels/host.cpp`, compiled and loaded.
pub(crate) struct Compiled {
    library: libloading::Library,
    /// The library's file, for those who want to know what lies where in it.
    file: tempfile::TempPath,
}

/// With phases as loops over the threads of a block.
pub(crate) fn compiled() -> &'static Compiled {
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    COMPILED.get_or_init(|| Compiled::new(false))
}

/// With every thread by itself until it waits, and what they touch watched.
pub(crate) fn together() -> &'static Compiled {
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    COMPILED.get_or_init(|| Compiled::new(true))
}

/// # Panics
/// Without a C++17 compiler: the kernels can't be tested then, and that must not pass for a success.
fn compiler() -> String {
    let wanted = std::env::var("CXX").into_iter();
    wanted
        .chain(["c++", "g++", "clang++"].map(String::from))
        .find(|c| Command::new(c).arg("--version").output().is_ok_and(|o| o.status.success()))
        .expect("the tests of the GPU kernels need a C++17 compiler (g++ or clang++), and there is none: install one, or name it in CXX")
}

fn compile(arguments: &[&str], sources: &[&Path], out: &Path) {
    let compiler = compiler();
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]).args(arguments);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") {
        command.arg("-mfma");
    }
    let result = command.arg("-o").arg(out).args(sources).output().expect("the compiler runs");
    assert!(result.status.success(), "{compiler} does not compile the kernels:\n{}", String::from_utf8_lossy(&result.stderr));
}

impl Compiled {
    fn new(together: bool) -> Self {
        let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu/kernels");
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for what is compiled");
        let file = tempfile::Builder::new().suffix(".so").tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap().into_temp_path();
        let host = kernels.join("host.cpp");
        if together {
            // Only the kernels call at each access; what is called then does not.
            let [watched, watching, faults] = ["host.o", "together.o", "faults.o"].map(|name| dir.path().join(name));
            compile(&["-c", "-g1", "-fsanitize=thread", "-DTOGETHER"], &[&host], &watched);
            compile(&["-c"], &[&kernels.join("together.cpp")], &watching);
            compile(&["-c", "-g1", "-fsanitize=thread", "-DTOGETHER", &format!("-I{}", kernels.display())], &[FAULTS.as_ref()], &faults);
            compile(&["-shared"], &[&watched, &watching, &faults], &file);
        } else {
            compile(&["-shared"], &[&host], &file);
        }
        // SAFETY: the library has no initialisers; it was compiled from this repository a moment ago.
        let library = unsafe { libloading::Library::new(&*file) }.expect("the compiled kernels load");
        Self { library, file }
    }

    /// Run a kernel; what was wrong with its threads, if anything.
    fn run<K: Kernel>(&self, kernel: &K, backwards: bool) -> Result<(), String> {
        let name = CString::new(kernel.name()).unwrap();
        let shape = kernel.shape();
        // SAFETY: the name and type are those of the function in host.cpp; the parameters live through the call, and their addresses point into
        // an arena that nothing else uses meanwhile.
        let result = unsafe {
            let run = self.library.get::<Run>(b"rotary_host_kernel").unwrap();
            run(name.as_ptr(), std::ptr::from_ref(kernel).cast(), shape.grid.as_ptr(), shape.threads, backwards.into())
        };
        match result {
            0 => Ok(()),
            1 => panic!("`{}` is not among the entries", K::NAME),
            2 => panic!("`{}` has another number of threads", K::NAME),
            _ => Err(self.message()),
        }
    }

    /// Run one of `faults.cpp`, over 256 floats; what was wrong with its threads.
    pub(crate) fn fault(&self, name: &str, out: Address, memory: Range<usize>) -> Result<(), String> {
        self.watch(&memory, &[], &[[memory.start, memory.end]]);
        let name = CString::new(name).unwrap();
        // SAFETY: the name and type are those of the function in faults.cpp, which writes 256 floats from there.
        match unsafe { self.library.get::<Fault>(b"rotary_fault").unwrap()(name.as_ptr(), out.0) } {
            0 => Ok(()),
            1 => panic!("there is no fault {name:?}"),
            _ => Err(self.message()),
        }
    }

    /// Have the threads of the next kernel that this thread runs watched: what they do to the parts of `memory` that are `written`, and before their turn to anything but
    /// `constants`.
    fn watch(&self, memory: &Range<usize>, constants: &[[usize; 2]], written: &[[usize; 2]]) {
        // SAFETY: the name and type are those of the function in together.cpp, which reads the ranges during the call.
        unsafe {
            let watch = self.library.get::<Watch>(b"rotary_together_watch").unwrap();
            watch(memory.start, memory.len(), constants.as_ptr(), constants.len(), written.as_ptr(), written.len());
        }
    }

    /// What went wrong in the last kernel that this thread ran, with the line of the kernel where there is somebody to tell it.
    fn message(&self) -> String {
        // SAFETY: the name and type are those of the function in together.cpp; the text is this thread's and stays until its next kernel.
        let mut message =
            unsafe { CStr::from_ptr(self.library.get::<Text>(b"rotary_together_message").unwrap()()) }.to_string_lossy().into_owned();
        if let Some((_, code)) = message.split_once("code at ") {
            let line = Command::new("addr2line").arg("-pife").arg(&self.file).arg(code.trim_end_matches(')')).output();
            if let Ok(line) = line {
                message = format!("{message}:\n{}", String::from_utf8_lossy(&line.stdout));
            }
        }
        message
    }

    /// How often kernels have looked for a word of the host's that was not there.
    fn vain_polls(&self) -> u64 {
        // SAFETY: the name and type are those of the function in host.cpp and together.cpp.
        unsafe { self.library.get::<Count>(b"rotary_host_vain_polls").unwrap()() }
    }

    /// Run a kernel that waits for its host, while `host` runs in another thread once the kernel has begun to wait.
    fn run_beside<K: Kernel>(&self, kernel: &K, backwards: bool, host: &(dyn Fn() + Sync)) -> Result<(), String> {
        let (before, done) = (self.vain_polls(), AtomicBool::new(false));
        std::thread::scope(|s| {
            let waited = s.spawn(|| loop {
                if self.vain_polls() > before {
                    host();
                    return true;
                }
                if done.load(Ordering::Acquire) {
                    return false;
                }
                std::thread::yield_now();
            });
            let result = self.run(kernel, backwards);
            done.store(true, Ordering::Release);
            assert!(waited.join().unwrap(), "`{}` has not waited", K::NAME);
            result
        })
    }

    /// Size of a C++ struct, or the offset of a field of it.
    pub(crate) fn layout(&self, ty: &str, field: &str) -> i64 {
        let (ty, field) = (CString::new(ty).unwrap(), CString::new(field).unwrap());
        // SAFETY: the name and type are those of the function in host.cpp; both strings end with a zero byte.
        unsafe { self.library.get::<Layout>(b"rotary_host_layout").unwrap()(ty.as_ptr(), field.as_ptr()) }
    }

    /// The names of the kernels.
    pub(crate) fn entries(&self) -> Vec<String> {
        let mut names = Vec::new();
        // SAFETY: the function returns a constant list of strings that ends with an empty one.
        unsafe {
            let mut at = self.library.get::<Text>(b"rotary_host_entries").unwrap()();
            while *at != 0 {
                let name = CStr::from_ptr(at);
                names.push(name.to_str().unwrap().to_owned());
                at = at.add(name.count_bytes() + 1);
            }
        }
        names
    }
}

const FAULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu_kernels/faults.cpp");
const POISON: u32 = 0xffc0_dead;
/// Bytes of poison before an allocation.
const GAP: usize = 512;
const PAGE: usize = 4096;
/// Most bytes of an arena.
const MOST: usize = 64 << 20;

/// Device memory for one launch: allocations in poison, each with a page behind it that can't be touched, so that a kernel which
/// reads beyond the end fails loudly, as it would on a GPU.
pub(crate) struct Arena {
    base: *mut u8,
    /// Pages in use.
    used: usize,
    allocations: Vec<Range<usize>>,
    /// What lies around each allocation, up to the page that can't be touched.
    pieces: Vec<Range<usize>>,
    rng: fastrand::Rng,
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size; nothing else points there.
        unsafe { libc::munmap(self.base.cast(), MOST) };
    }
}

impl HostMemory for Arena {
    fn bytes(&self, at: Address, len: usize) -> Option<&[u8]> {
        self.range(at, len).map(|r| self.slice(&r))
    }

    fn bytes_mut(&mut self, at: Address, len: usize) -> Option<&mut [u8]> {
        self.range(at, len).map(|r| self.slice_mut(&r))
    }
}

impl Arena {
    pub(crate) fn new(seed: u64) -> Self {
        // SAFETY: a new private mapping; the result is checked.
        let base = unsafe {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
            libc::mmap(std::ptr::null_mut(), MOST, protection, flags, -1, 0)
        };
        assert_ne!(base, libc::MAP_FAILED, "no memory for the arena");
        Self { base: base.cast(), used: 0, allocations: Vec::new(), pieces: Vec::new(), rng: fastrand::Rng::with_seed(seed) }
    }

    /// Where all of its allocations are.
    pub(crate) fn memory(&self) -> Range<usize> {
        self.base as usize..self.base as usize + self.used * PAGE
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        // SAFETY: ranges lie within pieces, which are mapped, readable and initialised (by the kernel to zeros, by `room` to poison).
        unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.len()) }
    }

    fn slice_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        // SAFETY: as above; the arena is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }

    fn range(&self, at: Address, len: usize) -> Option<Range<usize>> {
        let from = (at.0 as usize).checked_sub(self.base as usize)?;
        let range = from..from.checked_add(len)?;
        self.allocations.iter().any(|a| a.start <= range.start && range.end <= a.end).then_some(range)
    }

    /// Poisoned memory at a multiple of 16 that is no multiple of 32, as near to the end of a page as that allows.
    pub(crate) fn room(&mut self, bytes: usize) -> Address {
        let begin = self.used * PAGE;
        let end = begin + (bytes + GAP + 32).next_multiple_of(PAGE);
        assert!(end + PAGE <= MOST, "the arena is too small for {bytes} bytes more");
        self.used = end / PAGE + 1;
        let last = end - bytes;
        let at = if last / 16 % 2 == 1 { last / 16 * 16 } else { last / 16 * 16 - 16 };
        // SAFETY: the page is within the mapping and not used yet.
        let protected = unsafe { libc::mprotect(self.base.add(end).cast(), PAGE, libc::PROT_NONE) };
        assert_eq!(protected, 0, "the page behind an allocation can't be protected");
        self.pieces.push(begin..end);
        self.allocations.push(at..at + bytes);
        self.slice_mut(&(begin..end)).chunks_exact_mut(4).for_each(|w| w.copy_from_slice(&POISON.to_le_bytes()));
        Address(self.base as u64 + at as u64)
    }

    pub(crate) fn floats(&mut self, len: usize) -> Address {
        self.room(len * 4)
    }

    pub(crate) fn put<T: bytemuck::Pod>(&mut self, values: &[T]) -> Address {
        let at = self.room(size_of_val(values));
        self.bytes_mut(at, size_of_val(values)).unwrap().copy_from_slice(bytemuck::cast_slice(values));
        at
    }

    /// Numbers between plus and minus `size`.
    pub(crate) fn noise(&mut self, len: usize, size: f32) -> Address {
        let values: Vec<f32> = (0..len).map(|_| (self.rng.f32() * 2.0 - 1.0) * size).collect();
        self.put(&values)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.rng.usize(..n)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(..of.len())]
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.rng.bool()
    }

    /// Random weights of any type whose values are at most about 1.
    pub(crate) fn weights(&mut self, ty: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
        use GgmlType as T;
        let mut bytes: Vec<u8> = (0..rows * ty.row_bytes(cols).unwrap()).map(|_| self.rng.u8(..)).collect();
        // Where the f16 scales of a block lie, and how large an element may be before it is scaled.
        let (scales, size): (&[usize], f32) = match ty {
            T::F32 | T::F16 | T::BF16 => (&[], 1.0),
            T::Q4_1 | T::Q5_1 => (&[0, 2], 31.0),
            T::Q2K => (&[80, 82], 45.0),
            T::Q3K => (&[108], 128.0),
            T::Q4K | T::Q5K => (&[0, 2], 1953.0),
            T::Q6K => (&[208], 4096.0),
            T::IQ4_XS => (&[0], 3800.0),
            T::IQ2_XXS | T::IQ2_XS | T::IQ2_S | T::IQ3_XXS | T::IQ3_S => (&[0], 200.0),
            T::IQ1_S => (&[0], 20.0),
            T::TQ1_0 => (&[52], 1.0),
            T::TQ2_0 => (&[64], 1.0),
            _ => (&[0], 127.0),
        };
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            let value = self.rng.f32() * 2.0 - 1.0;
            match ty {
                T::F32 => block.copy_from_slice(&value.to_le_bytes()),
                T::F16 => block.copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
                T::BF16 => block.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
                T::MXFP4 => block[0] = 118 + self.rng.u8(..8),
                // The top nibble of the scale: 2 or a means between 2^-7 and 2^-3.
                T::IQ1_M => block[55] = block[55] & 15 | 0x20 | self.rng.u8(..2) << 7,
                _ => {
                    for &at in scales {
                        let d = half::f16::from_f32((self.rng.f32() * 2.0 - 1.0) / size);
                        block[at..at + 2].copy_from_slice(&d.to_le_bytes());
                    }
                }
            }
        }
        bytes
    }
}

/// What a launch writes, and how far from the reference it may be, as a part of the greatest value there.
pub(crate) struct Output {
    at: Range<usize>,
    half: bool,
    tolerance: f32,
}

impl Arena {
    pub(crate) fn output(&self, at: Address, len: usize, tolerance: f32) -> Output {
        Output { at: self.range(at, len * 4).expect("an output lies in an allocation"), half: false, tolerance }
    }

    pub(crate) fn output_half(&self, at: Address, len: usize, tolerance: f32) -> Output {
        Output { at: self.range(at, len * 2).expect("an output lies in an allocation"), half: true, tolerance }
    }

    fn snapshot(&self) -> Vec<Vec<u8>> {
        self.pieces.iter().map(|p| self.slice(p).to_vec()).collect()
    }

    fn restore(&mut self, from: &[Vec<u8>]) {
        for (piece, bytes) in self.pieces.clone().iter().zip(from) {
            self.slice_mut(piece).copy_from_slice(bytes);
        }
    }

    /// The piece that a range lies in, and the range within it.
    fn place(&self, range: &Range<usize>) -> (usize, Range<usize>) {
        let i = self.pieces.iter().position(|p| p.contains(&range.start)).expect("a range lies in a piece");
        let from = self.pieces[i].start;
        (i, range.start - from..range.end - from)
    }

    /// What a kernel as C++ writes.
    pub(crate) fn result<K: Kernel>(&mut self, kernel: &K, at: Address, len: usize) -> Vec<f32> {
        compiled().run(kernel, false).unwrap();
        bytemuck::cast_slice(std::hint::black_box(&*self).bytes(at, len * 4).unwrap()).to_vec()
    }

    /// Run a kernel as C++ with the threads of its phases in both orders, and by the reference; compare every byte.
    pub(crate) fn check<K: Kernel + std::fmt::Debug>(&mut self, kernel: &K, outputs: &[Output]) {
        let before = self.snapshot();
        // The kernel reads and writes through addresses: nothing may be cached across the calls.
        compiled().run(kernel, false).unwrap();
        let got = std::hint::black_box(&*self).snapshot();
        self.restore(&before);
        compiled().run(kernel, true).unwrap();
        let backwards = std::hint::black_box(&*self).snapshot();
        self.restore(&before);
        reference::run(kernel.name(), kernel.shape(), bytemuck::bytes_of(kernel), self).unwrap_or_else(|e| panic!("{e}\n{kernel:?}"));
        let want = self.snapshot();
        self.restore(&before);
        let written = self.whole(|i| want[i] != before[i] || got[i] != before[i]);
        together().watch(&self.memory(), &self.constants(kernel), &written);
        together().run(kernel, false).unwrap_or_else(|e| panic!("{e}\n{kernel:?}"));
        let together = std::hint::black_box(&*self).snapshot();
        self.same(&got, &backwards, "the result depends on the order of threads", kernel);
        self.same(&got, &together, "the result is another where threads run one by one", kernel);
        let mut rest = got.clone();
        for output in outputs {
            let width = if output.half { 2 } else { 4 };
            let value = |b: &[u8]| match width {
                2 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            };
            let (piece, at) = self.place(&output.at);
            let (g, w) = (&got[piece][at.clone()], &want[piece][at.clone()]);
            let finite = w.chunks_exact(width).map(value).filter(|w| w.is_finite());
            let allowed = output.tolerance * finite.map(f32::abs).fold(0.0, f32::max);
            for (i, (g, w)) in g.chunks_exact(width).zip(w.chunks_exact(width)).enumerate() {
                let poisoned = *w == POISON.to_le_bytes()[..width] || *w == POISON.to_le_bytes()[4 - width..];
                let close = (value(g) - value(w)).abs() <= allowed || (value(g).is_nan() && value(w).is_nan() && !poisoned);
                assert!(g == w || close, "value {i}: {} instead of {} (may differ by {allowed})\n{kernel:?}", value(g), value(w));
            }
            rest[piece][at].copy_from_slice(w);
        }
        self.same(&rest, &want, "bytes that are not for it, or that must be exact", kernel);
        self.restore(&before);
    }

    /// The same for a kernel that must wait until `host` has run, in a thread of its own. Not a byte may differ.
    pub(crate) fn check_waiting<K: Kernel + std::fmt::Debug>(&mut self, kernel: &K, patient: bool, host: &(dyn Fn() + Sync)) {
        // Polls of one kernel at a time are counted.
        static WAITS: Mutex<()> = Mutex::new(());
        let _one = WAITS.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        let waits = reference::run(kernel.name(), kernel.shape(), bytemuck::bytes_of(kernel), self);
        if patient {
            // Here nobody else runs, so nobody is waited for.
            assert_eq!(waits, Ok(()), "{kernel:?}");
            self.restore(&before);
        } else {
            assert!(matches!(waits, Err(ReferenceError::Waits { .. })), "{waits:?}\n{kernel:?}");
            self.same(&self.snapshot(), &before, "written before the host has said so", kernel);
        }
        host();
        let said = self.snapshot();
        reference::run(kernel.name(), kernel.shape(), bytemuck::bytes_of(kernel), self).unwrap_or_else(|e| panic!("{e}\n{kernel:?}"));
        let want = self.snapshot();
        let written = self.whole(|i| want[i] != said[i]);
        for (machine, backwards, what) in [
            (compiled(), false, "by the threads in order"),
            (compiled(), true, "by the threads in the opposite order"),
            (together(), false, "by threads one by one"),
        ] {
            self.restore(&before);
            if !std::ptr::eq(machine, compiled()) {
                machine.watch(&self.memory(), &self.constants(kernel), &written);
            }
            machine.run_beside(kernel, backwards, host).unwrap_or_else(|e| panic!("{e}\n{kernel:?}"));
            self.same(&std::hint::black_box(&*self).snapshot(), &want, what, kernel);
        }
        self.restore(&before);
    }

    /// What a kernel may read before those that were queued before it are done: weights, and what the host writes, since no kernel writes them.
    fn constants<K: Kernel>(&self, kernel: &K) -> Vec<[usize; 2]> {
        let bytes = bytemuck::bytes_of(kernel);
        let constant: Vec<Address> = match K::NAME {
            MatVec::NAME => {
                let k: MatVec = bytemuck::pod_read_unaligned(bytes);
                k.job[..k.jobs as usize].iter().map(|job| job.weight).collect()
            }
            AwaitHost::NAME => {
                let k: AwaitHost = bytemuck::pod_read_unaligned(bytes);
                vec![k.word, k.turn, k.from, k.given_up]
            }
            _ => return Vec::new(),
        };
        let inside = |at: Address| self.allocations.iter().position(|a| a.contains(&(at.0 as usize).wrapping_sub(self.base as usize)));
        let of: Vec<_> = constant.into_iter().filter_map(inside).collect();
        self.whole(|i| of.contains(&i))
    }

    /// Begin and end of the allocations with such numbers.
    fn whole(&self, which: impl Fn(usize) -> bool) -> Vec<[usize; 2]> {
        let at = |i: usize| [self.allocations[i].start, self.allocations[i].end].map(|a| self.base as usize + a);
        (0..self.allocations.len()).filter(|&i| which(i)).map(at).collect()
    }

    fn same(&self, a: &[Vec<u8>], b: &[Vec<u8>], what: &str, kernel: &impl std::fmt::Debug) {
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            let difference = a.iter().zip(b).position(|(a, b)| a != b);
            let at = difference.map(|d| (self.pieces[i].start + d).wrapping_sub(self.allocations[i].start) as isize);
            assert_eq!(at, None, "{what}: a byte of allocation {i} of {} bytes\n{kernel:?}", self.allocations[i].len());
        }
    }
}
