//! The simulated device's memory and queues.

mod carry_out;
mod mailbox;

use super::memory::{counted, outside, Block, Blocks, Buffer, GUARD};
use super::races::{Access, Clock, Races, Space, HOST};
use super::{Faults, Options, Order};
use crate::gguf::Frozen;
use crate::gpu::device::{GpuError, Lane, Touch};
use crate::gpu::params::Shape;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A mark: a place in a lane's work, what is known there, and when it was passed.
pub(super) struct Passed {
    pub(super) lane: Lane,
    number: u64,
    clock: Clock,
    us: OnceLock<f64>,
}

impl Passed {
    pub(super) fn us(&self) -> Option<f64> {
        self.us.get().copied()
    }
}

/// What a lane is asked to do to bytes.
#[derive(Clone)]
pub(super) enum Work {
    Upload { to: u64, from: Arc<Buffer>, at: Range<usize> },
    Store { to: u64, bytes: Box<[u8]> },
    Download { from: u64, to: Arc<Buffer>, at: Range<usize> },
    Copy { from: u64, to: u64, bytes: usize },
    Clear { at: u64, bytes: usize },
    Launch { kernel: &'static str, shape: Shape, params: Box<[u8]>, touches: Box<[Touch]> },
}

pub(super) enum Op {
    Do(Work),
    Mark(Arc<Passed>),
    /// The mark must have been passed.
    Wait(Arc<Passed>),
    /// Nothing queued uses this memory any more, once the copy lane has got so far.
    Free {
        at: u64,
        copy: u64,
    },
}

struct Entry {
    number: u64,
    clock: Clock,
    /// Host time when it was queued.
    queued_us: f64,
    op: Op,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Number of the newest entry.
    newest: u64,
    /// Known to what is queued next.
    clock: Clock,
    /// When its last work ended.
    us: f64,
}

/// Is told a kernel and its parameters.
pub(super) type OnLaunch = Box<dyn FnMut(&'static str, &[u8]) + Send>;

/// Everything behind the device's lock.
pub(super) struct State {
    options: Options,
    pub(super) faults: Faults,
    pub(super) on_launch: Option<OnLaunch>,
    blocks: Blocks,
    next_address: u64,
    next_buffer: u64,
    used: u64,
    peak: u64,
    pinned: u64,
    queues: [Queue; 2],
    host: Clock,
    /// What the device knew when a kernel last told the host something, and the host when it last said something.
    told: Clock,
    said: Clock,
    /// What the compute lane has heard of the host while it ran.
    heard: Clock,
    /// The host stands still for longer than kernels wait.
    mute: bool,
    pub(super) host_us: f64,
    races: Races,
    rng: fastrand::Rng,
    pub(super) launches: u64,
    pub(super) uploads_in_place: u64,
    /// Times that the host waited for a mark.
    pub(super) waits: u64,
    /// What the compute lane is given while it is recorded.
    recording: Option<Vec<Work>>,
    /// The first failure of queued work; everything after it fails too.
    failed: Option<GpuError>,
}

const fn index(lane: Lane) -> usize {
    match lane {
        Lane::Compute => 0,
        Lane::Copy => 1,
    }
}

fn not_recordable(what: &str) -> GpuError {
    GpuError::Driver { what: "recording launches".into(), why: format!("{what} can't be recorded") }
}

/// On a real device this never ends: a kernel without patience.
fn stuck() -> GpuError {
    GpuError::Driver { what: "the compute lane".into(), why: "it waits for a word that the host has not said".into() }
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        let seed = if let Order::Random(seed) = options.order { seed } else { 0 };
        Self {
            options,
            faults: Faults::default(),
            on_launch: None,
            blocks: Blocks::default(),
            next_address: GUARD,
            next_buffer: 0,
            used: 0,
            peak: 0,
            pinned: 0,
            queues: Default::default(),
            host: Clock::default(),
            told: Clock::default(),
            said: Clock::default(),
            heard: Clock::default(),
            mute: false,
            host_us: 0.0,
            races: Races::default(),
            rng: fastrand::Rng::with_seed(seed),
            launches: 0,
            uploads_in_place: 0,
            waits: 0,
            recording: None,
            failed: None,
        }
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn used_peak(&self) -> u64 {
        self.peak
    }

    pub(super) fn pinned_used(&self) -> u64 {
        self.pinned
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.races.violations.clone()
    }

    /// Count a call that may be meant to fail.
    pub(super) fn may(&mut self, what: &'static str, fault: fn(&mut Faults) -> &mut Option<u64>) -> Result<(), GpuError> {
        match fault(&mut self.faults) {
            None => Ok(()),
            Some(0) => {
                *fault(&mut self.faults) = None;
                Err(GpuError::Driver { what: what.into(), why: "it was meant to fail".into() })
            }
            Some(n) => {
                *n -= 1;
                Ok(())
            }
        }
    }

    pub(super) fn alloc(&mut self, bytes: usize) -> Result<u64, GpuError> {
        if self.recording.is_some() {
            return Err(not_recordable("an allocation"));
        }
        let none = |s: &Self| GpuError::OutOfMemory { bytes: bytes as u64, free: s.options.memory.saturating_sub(s.used) };
        self.may("allocation", |f| &mut f.alloc).map_err(|_| none(self))?;
        if self.used + counted(bytes) > self.options.memory {
            return Err(none(self));
        }
        self.used += counted(bytes);
        self.peak = self.peak.max(self.used);
        let at = self.next_address;
        self.next_address = (at + bytes as u64 + GUARD).next_multiple_of(GUARD);
        self.blocks.0.insert(at, Block::new(bytes));
        Ok(at)
    }

    pub(super) fn free(&mut self, at: u64) {
        let copy = self.queues[1].newest;
        if let Some(block) = self.blocks.0.get_mut(&at) {
            block.dropped = true;
            self.used -= counted(block.len);
            self.push(0, Op::Free { at, copy });
        }
    }

    pub(super) fn pin(&mut self, bytes: usize) -> Result<Arc<Buffer>, GpuError> {
        let number = self.count_pinned(bytes)?;
        Ok(Arc::new(Buffer::new(number, bytes)))
    }

    pub(super) fn lock(&mut self, memory: &Frozen) -> Result<Arc<Buffer>, GpuError> {
        let refused = |e: GpuError| GpuError::Pinned { bytes: memory.len() as u64, why: e.to_string() };
        self.may("locking memory", |f| &mut f.lock).map_err(refused)?;
        let number = self.count_pinned(memory.len())?;
        Ok(Arc::new(Buffer::in_place(number, memory.clone())))
    }

    /// The number of a new buffer.
    fn count_pinned(&mut self, bytes: usize) -> Result<u64, GpuError> {
        if self.faults.pinned.is_some_and(|most| self.pinned + bytes as u64 > most) {
            return Err(GpuError::Pinned { bytes: bytes as u64, why: "it was meant to fail".into() });
        }
        self.pinned += bytes as u64;
        self.next_buffer += 1;
        Ok(self.next_buffer)
    }

    pub(super) fn unpin(&mut self, buffer: &Buffer) {
        self.pinned -= buffer.len as u64;
    }

    /// The host reads or writes page-locked memory.
    pub(super) fn host_access(&mut self, buffer: &Buffer, at: &Range<usize>, writes: bool) {
        self.host.0[HOST] += 1;
        let range = at.start as u64..at.end as u64;
        let what = if writes { "writing" } else { "reading" };
        self.races.check(Space::Pinned(buffer.number), &Access { agent: HOST, clock: self.host, range, writes, what });
    }

    pub(super) fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    pub(super) fn begin_recording(&mut self) -> Result<(), GpuError> {
        if self.recording.replace(Vec::new()).is_some() {
            return Err(not_recordable("a second recording"));
        }
        Ok(())
    }

    pub(super) fn end_recording(&mut self) -> Result<Vec<Work>, GpuError> {
        self.recording.take().ok_or_else(|| not_recordable("an end without a begin"))
    }

    /// Check addresses, note the accesses, queue.
    pub(super) fn queue(&mut self, lane: Lane, op: Op) -> Result<(), GpuError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if let (Some(recorded), Lane::Compute) = (&mut self.recording, lane) {
            return match op {
                // Its bytes would be gone when it is replayed.
                Op::Do(Work::Store { .. }) => Err(not_recordable("a copy from ordinary memory")),
                Op::Do(work) => {
                    recorded.push(work);
                    Ok(())
                }
                _ => Err(not_recordable("a wait")),
            };
        }
        let lane = index(lane);
        let mut clock = self.queues[lane].clock;
        clock.join(&self.host);
        clock.0[lane] = self.queues[lane].newest + 1;
        let mut accesses: Vec<(Space, Access)> = Vec::new();
        if let Op::Do(work) = &op {
            let mut on_device = |blocks: &Blocks, at: u64, bytes: usize, writes, what| {
                let (start, block) = blocks.find(at, bytes)?;
                if block.dropped {
                    return Err(outside(at, bytes));
                }
                accesses.push((Space::Device(start), Access { agent: lane, clock, range: at..at + bytes as u64, writes, what }));
                Ok(())
            };
            let mut pinned = None;
            match work {
                Work::Upload { to, from, at } => {
                    on_device(&self.blocks, *to, at.len(), true, "upload")?;
                    pinned = Some((from, at, false, "upload"));
                }
                Work::Store { to, bytes } => on_device(&self.blocks, *to, bytes.len(), true, "upload")?,
                Work::Download { from, to, at } => {
                    on_device(&self.blocks, *from, at.len(), false, "download")?;
                    pinned = Some((to, at, true, "download"));
                }
                Work::Copy { from, to, bytes } => {
                    on_device(&self.blocks, *from, *bytes, false, "copy")?;
                    on_device(&self.blocks, *to, *bytes, true, "copy")?;
                }
                Work::Clear { at, bytes } => on_device(&self.blocks, *at, *bytes, true, "clear")?,
                Work::Launch { kernel, touches, .. } => {
                    for t in touches {
                        on_device(&self.blocks, t.address.0, t.bytes, t.writes, kernel)?;
                    }
                }
            }
            if let Some((buffer, at, writes, what)) = pinned {
                if at.end > buffer.len || at.start > at.end {
                    return Err(outside(at.start as u64, at.len()));
                }
                let range = at.start as u64..at.end as u64;
                accesses.push((Space::Pinned(buffer.number), Access { agent: lane, clock, range, writes, what }));
            }
            if let Work::Store { bytes, .. } = work {
                self.host_us += bytes.len() as f64 / self.options.speeds.pageable * 1e6;
            }
        }
        for (space, access) in accesses {
            self.races.note(space, access);
        }
        self.push(lane, op);
        Ok(())
    }

    fn push(&mut self, lane: usize, op: Op) {
        let queue = &mut self.queues[lane];
        queue.newest += 1;
        queue.clock.join(&self.host);
        queue.clock.0[lane] = queue.newest;
        queue.entries.push_back(Entry { number: queue.newest, clock: queue.clock, queued_us: self.host_us, op });
        match self.options.order {
            Order::Queued => self.drain(),
            Order::Late => {}
            Order::CopyFirst => self.run(1, self.queues[1].newest),
            Order::ComputeFirst => self.run(0, self.queues[0].newest),
            Order::Random(_) => {
                for _ in 0..self.rng.u8(0..3) {
                    let (lane, more) = (self.rng.usize(0..2), self.rng.u64(1..5));
                    let done = self.queues[lane].entries.front().map_or(self.queues[lane].newest, |e| e.number - 1);
                    self.run(lane, done + more);
                }
            }
        }
    }

    pub(super) fn mark(&mut self, lane: Lane) -> Result<Arc<Passed>, GpuError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if self.recording.is_some() && lane == Lane::Compute {
            return Err(not_recordable("a mark"));
        }
        let mut clock = self.queues[index(lane)].clock;
        clock.join(&self.host);
        let number = self.queues[index(lane)].newest + 1;
        clock.0[index(lane)] = number;
        let mark = Arc::new(Passed { lane, number, clock, us: OnceLock::new() });
        self.push(index(lane), Op::Mark(mark.clone()));
        Ok(mark)
    }

    pub(super) fn wait(&mut self, lane: Lane, mark: Arc<Passed>) -> Result<(), GpuError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        if self.recording.is_some() && lane == Lane::Compute {
            return Err(not_recordable("a wait"));
        }
        self.queues[index(lane)].clock.join(&mark.clock);
        self.push(index(lane), Op::Wait(mark));
        Ok(())
    }

    pub(super) fn sync(&mut self, mark: &Passed) -> Result<(), GpuError> {
        self.waits += 1;
        self.run(index(mark.lane), mark.number);
        if self.failed.is_none() && mark.us().is_none() {
            // The host waits for the device, which waits for the host.
            self.run_out_of_patience();
            self.run(index(mark.lane), mark.number);
        }
        if self.failed.is_none() && mark.us().is_none() {
            return Err(stuck());
        }
        self.learn(mark);
        self.failed.clone().map_or(Ok(()), Err)
    }

    pub(super) fn passed(&mut self, mark: &Passed) -> Result<bool, GpuError> {
        let lane = index(mark.lane);
        if mark.us().is_none() {
            // Whoever asks again and again must get an answer in the end.
            let next = self.queues[lane].entries.front().map_or(0, |e| e.number);
            self.run(lane, next.min(mark.number));
            return self.failed.clone().map_or(Ok(false), Err);
        }
        self.learn(mark);
        self.failed.clone().map_or(Ok(true), Err)
    }

    /// The host knows that a mark has been passed.
    fn learn(&mut self, mark: &Passed) {
        self.host.join(&mark.clock);
        self.host_us = self.host_us.max(mark.us().unwrap_or(0.0));
        let mut horizon = self.host;
        for first in self.queues.iter().filter_map(|q| q.entries.front()) {
            horizon.meet(&first.clock);
        }
        self.races.settle(&horizon);
    }

    /// Carry out everything that is queued.
    pub(super) fn drain(&mut self) {
        for lane in [0, 1] {
            self.run(lane, self.queues[lane].newest);
        }
    }

    pub(super) fn peek(&self, at: u64, bytes: usize) -> Result<Vec<u8>, GpuError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        self.blocks.read(at, bytes).map(<[u8]>::to_vec)
    }
}
