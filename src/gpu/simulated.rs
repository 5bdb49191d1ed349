//! A device in host memory, to prove everything above the kernels without a GPU.
//!
//! It obeys the contract of [`Device`] as grudgingly as a real one may: work is queued per lane and carried out when something makes
//! it necessary, in an [`Order`] that the test chooses, so that a missing wait shows up as wrong numbers. Fresh and freed memory is
//! poisoned, an address outside of all memory is an error, and every access to bytes that two lanes share is checked by
//! happens-before (`races`), so that a missing wait is found even where luck made the numbers right. [`Faults`] fail on demand. Times
//! come from a clock of its own (see [`Speeds`]). Kernels run by [`super::reference`].

mod lanes;
mod memory;
mod races;

use super::device::{Address, Device, Facts, GpuError, Lane, Mailbox, MailboxBytes, Mark, Memory, Pinned, PinnedBytes, Recording, Touch};
use super::params::Shape;
use crate::gguf::Frozen;
use lanes::{Op, State, Work};
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// In which order the lanes' work is carried out, as far as marks and waits leave it open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// At once, as it is queued.
    #[default]
    Queued,
    /// Only when the host waits for it, or other work that the host waits for does.
    Late,
    /// The copy lane as early as it may, the compute lane as late.
    CopyFirst,
    /// The compute lane as early as it may, the copy lane as late.
    ComputeFirst,
    /// Drawn with this seed.
    Random(u64),
}

/// What the device's clock reckons with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// Bytes per second between page-locked memory and the device.
    pub link: f64,
    /// The same for ordinary host memory.
    pub pageable: f64,
    /// Bytes per second that kernels read and write in device memory.
    pub memory: f64,
    /// Microseconds from one kernel to the next.
    pub launch_us: f64,
    /// Microseconds that every copy takes besides its bytes.
    pub copy_us: f64,
}

impl Default for Speeds {
    /// An RTX 4060 Laptop on eight lanes of PCIe 4.0.
    fn default() -> Self {
        Self { link: 12.6e9, pageable: 6.0e9, memory: 205.0e9, launch_us: 3.0, copy_us: 6.0 }
    }
}

/// What is to fail. Of what is counted, so many calls succeed, the next one fails, and those after it succeed again; of what is named, all. `None`: none fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of allocations of device memory.
    pub alloc: Option<u64>,
    /// Of uploads of either kind.
    pub upload: Option<u64>,
    /// Of downloads.
    pub download: Option<u64>,
    /// Of launches.
    pub launch: Option<u64>,
    /// Of the host's words to kernels that run. The one that fails comes late: kernels that wait with patience have given up.
    pub silent: Option<u64>,
    /// No page-locked memory beyond so many bytes in all.
    pub pinned: Option<u64>,
    /// Of calls that lock memory where it lies.
    pub lock: Option<u64>,
    /// This kernel's results are wrong.
    pub wrong: Option<&'static str>,
    /// This kernel can't be launched; nothing else is the matter.
    pub refused: Option<&'static str>,
    /// This kernel reads astray, after which the device does nothing any more.
    pub deadly: Option<&'static str>,
}

/// What it is called, so that nobody takes its speed for a GPU's.
pub const NAME: &str = "simulated";

/// How a simulated device is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Bytes of device memory.
    pub memory: u64,
    /// Order of the work.
    pub order: Order,
    /// Of its clock.
    pub speeds: Speeds,
    /// Compute capability that it claims to have; 0 if it does not pass for a GPU.
    pub capability: u32,
    /// Kernels that run for seconds are ended, it claims.
    pub impatient: bool,
    /// Driver, and kernels, that it claims to have.
    pub driver: &'static str,
    /// See `driver`.
    pub kernels: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: 8 << 30, order: Order::Queued, speeds: Speeds::default(), capability: 0, impatient: false, driver: "", kernels: "" }
    }
}

/// See the module's text.
#[derive(Clone)]
pub struct Simulated {
    facts: Arc<Facts>,
    shared: Arc<Shared>,
}

struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of device memory; gone with its last clone.
struct Owner {
    shared: Arc<Shared>,
    at: u64,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().free(self.at);
    }
}

/// Page-locked memory of the simulated device: ordinary memory whose accesses are watched.
struct SimulatedPinned {
    shared: Arc<Shared>,
    buffer: Arc<memory::Buffer>,
}

impl Drop for SimulatedPinned {
    fn drop(&mut self) {
        self.shared.lock().unpin(&self.buffer);
    }
}

impl PinnedBytes for SimulatedPinned {
    fn len(&self) -> usize {
        self.buffer.len
    }

    fn read(&self, at: Range<usize>, f: &mut dyn FnMut(&[u8])) {
        self.shared.lock().host_access(&self.buffer, &at, false);
        self.buffer.read(|bytes| f(&bytes[at]));
    }

    fn write(&self, at: Range<usize>, f: &mut dyn FnMut(&mut [u8])) {
        self.shared.lock().host_access(&self.buffer, &at, true);
        self.buffer.write(|bytes| f(&mut bytes[at]));
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A mailbox: device memory that the host reaches, too.
struct SimulatedMailbox {
    shared: Arc<Shared>,
    at: u64,
    bytes: usize,
}

impl SimulatedMailbox {
    fn with(&self, at: usize, len: usize, f: impl FnOnce(&mut [u8])) {
        assert!(at + len <= self.bytes, "{at}+{len} of {}", self.bytes);
        if let Ok(bytes) = self.shared.lock().mailbox_bytes(self.at + at as u64, len) {
            f(bytes);
        }
    }
}

impl Drop for SimulatedMailbox {
    fn drop(&mut self) {
        self.shared.lock().drop_mailbox(self.at);
    }
}

impl MailboxBytes for SimulatedMailbox {
    fn address(&self) -> Address {
        Address(self.at)
    }
    fn heard(&self, at: usize) -> u32 {
        self.shared.lock().heard(self.at + at as u64)
    }
    fn say(&self, at: usize, word: u32) {
        self.shared.lock().say(self.at + at as u64, word);
    }
    fn read(&self, at: usize, into: &mut [u8]) {
        self.with(at, into.len(), |bytes| into.copy_from_slice(bytes));
    }
    fn write(&self, at: usize, from: &[u8]) {
        self.with(at, from.len(), |bytes| bytes.copy_from_slice(from));
    }
}

impl Simulated {
    /// A device with empty memory.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let Options { memory, capability, driver, kernels, impatient, .. } = options;
        let facts =
            Facts { name: NAME.into(), capability, memory, processors: 1, impatient, driver: driver.into(), kernels: kernels.into() };
        Self { facts: Arc::new(facts), shared: Arc::new(Shared(Mutex::new(State::new(options)))) }
    }

    /// Accesses that nothing ordered, in words; empty if there were none.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut state = self.shared.lock();
        state.drain();
        state.violations()
    }

    /// Let the coming calls fail as told; counts begin anew.
    pub fn fail(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// From now on `f` is told every kernel that is queued, with its parameters. It must not use the device.
    pub fn on_launch(&self, f: impl FnMut(&'static str, &[u8]) + Send + 'static) {
        self.shared.lock().on_launch = Some(Box::new(f));
    }

    /// Bytes of device memory that are held.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.shared.lock().used()
    }

    /// The most that were ever held at a time.
    #[must_use]
    pub fn used_peak(&self) -> u64 {
        self.shared.lock().used_peak()
    }

    /// Bytes of page-locked memory that are held.
    #[must_use]
    pub fn pinned_used(&self) -> u64 {
        self.shared.lock().pinned_used()
    }

    /// How many uploads came from memory that was locked where it lay.
    #[must_use]
    pub fn uploads_in_place(&self) -> u64 {
        self.shared.lock().uploads_in_place
    }

    /// How often the host has waited for a mark.
    #[must_use]
    pub fn host_waits(&self) -> u64 {
        self.shared.lock().waits
    }

    /// The clock of the host, in microseconds: waits move it on, and so does [`Simulated::spend`].
    #[must_use]
    pub fn host_us(&self) -> f64 {
        self.shared.lock().host_us
    }

    /// The host does something of its own for so long.
    pub fn spend(&self, us: f64) {
        self.shared.lock().host_us += us;
    }

    /// Read device memory, all queued work done; for tests.
    ///
    /// # Errors
    /// Outside of all memory, or earlier work failed.
    pub fn peek(&self, at: Address, bytes: usize) -> Result<Vec<u8>, GpuError> {
        let mut state = self.shared.lock();
        state.drain();
        state.peek(at.0, bytes)
    }
}

fn foreign(what: &'static str) -> GpuError {
    GpuError::Driver { what: what.into(), why: "it belongs to another device".into() }
}

fn buffer(pinned: &Pinned) -> Result<&Arc<memory::Buffer>, GpuError> {
    let ours = pinned.as_any().downcast_ref::<SimulatedPinned>();
    ours.map(|p| &p.buffer).ok_or_else(|| foreign("page-locked memory"))
}

fn ours(mark: &Mark) -> Result<Arc<lanes::Passed>, GpuError> {
    mark.0.clone().downcast::<lanes::Passed>().map_err(|_| foreign("mark"))
}

impl Device for Simulated {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn free(&self) -> Result<u64, GpuError> {
        let state = self.shared.lock();
        Ok(self.facts.memory.saturating_sub(state.used()))
    }

    fn alloc(&self, bytes: usize) -> Result<Memory, GpuError> {
        let at = self.shared.lock().alloc(bytes)?;
        Ok(Memory::new(Address(at), bytes, Arc::new(Owner { shared: self.shared.clone(), at })))
    }

    fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        let buffer = self.shared.lock().pin(bytes)?;
        Ok(Arc::new(SimulatedPinned { shared: self.shared.clone(), buffer }))
    }

    fn lock(&self, memory: &Frozen) -> Result<Pinned, GpuError> {
        let buffer = self.shared.lock().lock(memory)?;
        Ok(Arc::new(SimulatedPinned { shared: self.shared.clone(), buffer }))
    }

    fn mailbox(&self, bytes: usize) -> Result<Mailbox, GpuError> {
        let at = self.shared.lock().mailbox(bytes)?;
        Ok(Arc::new(SimulatedMailbox { shared: self.shared.clone(), at, bytes }))
    }

    fn working(&self) -> Result<bool, GpuError> {
        self.shared.lock().working()
    }

    fn upload(&self, lane: Lane, to: Address, from: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        let from = buffer(from)?.clone();
        let mut state = self.shared.lock();
        state.may("upload", |f| &mut f.upload)?;
        let in_place = from.is_locked_in_place();
        state.queue(lane, Op::Do(Work::Upload { to: to.0, from, at }))?;
        state.uploads_in_place += u64::from(in_place);
        Ok(())
    }

    fn upload_now(&self, lane: Lane, to: Address, from: &[u8]) -> Result<(), GpuError> {
        let mut state = self.shared.lock();
        state.may("upload", |f| &mut f.upload)?;
        state.queue(lane, Op::Do(Work::Store { to: to.0, bytes: from.into() }))
    }

    fn download(&self, lane: Lane, from: Address, to: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        let to = buffer(to)?.clone();
        if to.is_locked_in_place() {
            return Err(GpuError::Driver { what: "download".into(), why: "this memory is only read".into() });
        }
        let mut state = self.shared.lock();
        state.may("download", |f| &mut f.download)?;
        state.queue(lane, Op::Do(Work::Download { from: from.0, to, at }))
    }

    fn copy(&self, lane: Lane, from: Address, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.shared.lock().queue(lane, Op::Do(Work::Copy { from: from.0, to: to.0, bytes }))
    }

    fn clear(&self, lane: Lane, at: Address, bytes: usize) -> Result<(), GpuError> {
        self.shared.lock().queue(lane, Op::Do(Work::Clear { at: at.0, bytes }))
    }

    fn mark(&self, lane: Lane) -> Result<Mark, GpuError> {
        Ok(Mark(self.shared.lock().mark(lane)?))
    }

    fn wait(&self, lane: Lane, mark: &Mark) -> Result<(), GpuError> {
        self.shared.lock().wait(lane, ours(mark)?)
    }

    fn sync(&self, mark: &Mark) -> Result<(), GpuError> {
        self.shared.lock().sync(&*ours(mark)?)
    }

    fn passed(&self, mark: &Mark) -> Result<bool, GpuError> {
        self.shared.lock().passed(&*ours(mark)?)
    }

    fn between(&self, from: &Mark, to: &Mark) -> Option<f64> {
        let (from, to) = (ours(from).ok()?, ours(to).ok()?);
        (from.lane == to.lane).then_some(())?;
        Some(to.us()? - from.us()?)
    }

    fn launch(&self, kernel: &'static str, shape: Shape, params: &[u8], touches: &[Touch]) -> Result<(), GpuError> {
        let mut state = self.shared.lock();
        state.may("launch", |f| &mut f.launch)?;
        if let Some(told) = &mut state.on_launch {
            told(kernel, params);
        }
        if state.faults.refused == Some(kernel) {
            return Err(GpuError::Driver { what: format!("kernel {kernel}"), why: "it was meant to be refused".into() });
        }
        if shape.threads == 0 || shape.threads > 1024 || shape.grid.contains(&0) || shape.grid[1] > 65_535 || shape.grid[2] > 65_535 {
            return Err(GpuError::Driver { what: format!("launch of {kernel}"), why: format!("no device takes {shape:?}") });
        }
        state.queue(Lane::Compute, Op::Do(Work::Launch { kernel, shape, params: params.into(), touches: touches.into() }))?;
        state.launches += u64::from(!state.is_recording());
        Ok(())
    }

    fn launches(&self) -> u64 {
        self.shared.lock().launches
    }

    fn begin_recording(&self) -> Result<(), GpuError> {
        self.shared.lock().begin_recording()
    }

    fn end_recording(&self) -> Result<Recording, GpuError> {
        Ok(Recording(Arc::new(self.shared.lock().end_recording()?)))
    }

    fn replay(&self, recording: &Recording) -> Result<(), GpuError> {
        let work = recording.0.downcast_ref::<Vec<Work>>().ok_or_else(|| foreign("a recording"))?;
        let mut state = self.shared.lock();
        state.may("launch", |f| &mut f.launch)?;
        for work in work {
            state.queue(Lane::Compute, Op::Do(work.clone()))?;
        }
        state.launches += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
