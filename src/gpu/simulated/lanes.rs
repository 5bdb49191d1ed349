//! The simulated device's memory and queues, and how queued work is carried out.

use super::races::{Access, Clock, Races, Space, HOST};
use super::{Faults, Options, Order};
use crate::gpu::device::{Address, GpuError, Lane, Touch};
use crate::gpu::params::Shape;
use crate::gpu::reference::{self, HostMemory};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// What fresh memory holds: no number as f32 and as f16, and no slot as i32.
const POISON: u64 = 0x7FF1_7FF1_7FF1_7FF1;
/// Memory begins at multiples of this, so that a stray address hits nothing.
const GUARD: u64 = 1 << 16;
/// Sizes are counted in steps of this.
const GRAIN: u64 = 256;

fn counted(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(GRAIN)
}

fn words(bytes: usize, fill: u64) -> Box<[u64]> {
    vec![fill; bytes.div_ceil(8)].into()
}

/// Page-locked memory.
pub(super) struct Buffer {
    number: u64,
    pub(super) len: usize,
    words: RwLock<Box<[u64]>>,
}

impl Buffer {
    pub(super) fn read<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        let words = self.words.read().unwrap_or_else(PoisonError::into_inner);
        f(&bytemuck::cast_slice(&words)[..self.len])
    }

    pub(super) fn write<T>(&self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut words = self.words.write().unwrap_or_else(PoisonError::into_inner);
        f(&mut bytemuck::cast_slice_mut(&mut words)[..self.len])
    }
}

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

struct Block {
    words: Box<[u64]>,
    len: usize,
    /// Its owner has dropped it; what is queued from now on must not use it.
    dropped: bool,
}

/// All device memory by address.
#[derive(Default)]
struct Blocks(BTreeMap<u64, Block>);

impl Blocks {
    /// The memory that holds these bytes: its address and itself.
    fn find(&self, at: u64, bytes: usize) -> Result<(u64, &Block), GpuError> {
        let found = self.0.range(..=at).next_back().filter(|(&start, b)| at.saturating_add(bytes as u64) <= start + b.len as u64);
        found.map(|(&start, b)| (start, b)).ok_or_else(|| outside(at, bytes))
    }

    fn read(&self, at: u64, bytes: usize) -> Result<&[u8], GpuError> {
        let (start, block) = self.find(at, bytes)?;
        let from = (at - start) as usize;
        Ok(&bytemuck::cast_slice(&block.words)[from..from + bytes])
    }

    fn write(&mut self, at: u64, bytes: usize) -> Result<&mut [u8], GpuError> {
        let (start, _) = self.find(at, bytes)?;
        let from = (at - start) as usize;
        let block = self.0.get_mut(&start).ok_or_else(|| outside(at, bytes))?;
        Ok(&mut bytemuck::cast_slice_mut(&mut block.words)[from..from + bytes])
    }
}

fn outside(at: u64, bytes: usize) -> GpuError {
    GpuError::Driver { what: format!("{bytes} bytes at {at:#x}"), why: "no memory there: never allocated, freed, or too short".into() }
}

/// Device memory as one kernel sees it; notes what it reads and writes.
struct Seen<'a> {
    blocks: &'a mut Blocks,
    reads: RefCell<Vec<Range<u64>>>,
    writes: Vec<Range<u64>>,
}

fn extend(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.start <= range.start && range.start <= last.end => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

impl HostMemory for Seen<'_> {
    fn bytes(&self, at: Address, len: usize) -> Option<&[u8]> {
        let bytes = self.blocks.read(at.0, len).ok()?;
        extend(&mut self.reads.borrow_mut(), at.0..at.0 + len as u64);
        Some(bytes)
    }

    fn bytes_mut(&mut self, at: Address, len: usize) -> Option<&mut [u8]> {
        let bytes = self.blocks.write(at.0, len).ok()?;
        extend(&mut self.writes, at.0..at.0 + len as u64);
        Some(bytes)
    }
}

/// Sorted, overlapping ones joined.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|r| r.start);
    ranges.into_iter().fold(Vec::new(), |mut out, r| {
        extend(&mut out, r);
        out
    })
}

/// Everything behind the device's lock.
pub(super) struct State {
    options: Options,
    pub(super) faults: Faults,
    blocks: Blocks,
    next_address: u64,
    next_buffer: u64,
    used: u64,
    peak: u64,
    pinned: u64,
    queues: [Queue; 2],
    host: Clock,
    pub(super) host_us: f64,
    races: Races,
    rng: fastrand::Rng,
    pub(super) launches: u64,
    /// The first failure of queued work; everything after it fails too.
    failed: Option<GpuError>,
}

const fn index(lane: Lane) -> usize {
    match lane {
        Lane::Compute => 0,
        Lane::Copy => 1,
    }
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        let seed = if let Order::Random(seed) = options.order { seed } else { 0 };
        Self {
            options,
            faults: Faults::default(),
            blocks: Blocks::default(),
            next_address: GUARD,
            next_buffer: 0,
            used: 0,
            peak: 0,
            pinned: 0,
            queues: Default::default(),
            host: Clock::default(),
            host_us: 0.0,
            races: Races::default(),
            rng: fastrand::Rng::with_seed(seed),
            launches: 0,
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
        let none = |s: &Self| GpuError::OutOfMemory { bytes: bytes as u64, free: s.options.memory.saturating_sub(s.used) };
        self.may("allocation", |f| &mut f.alloc).map_err(|_| none(self))?;
        if self.used + counted(bytes) > self.options.memory {
            return Err(none(self));
        }
        self.used += counted(bytes);
        self.peak = self.peak.max(self.used);
        let at = self.next_address;
        self.next_address = (at + bytes as u64 + GUARD).next_multiple_of(GUARD);
        self.blocks.0.insert(at, Block { words: words(bytes, POISON), len: bytes, dropped: false });
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
        if self.faults.pinned.is_some_and(|most| self.pinned + bytes as u64 > most) {
            return Err(GpuError::Pinned { bytes: bytes as u64, why: "it was meant to fail".into() });
        }
        self.pinned += bytes as u64;
        self.next_buffer += 1;
        Ok(Arc::new(Buffer { number: self.next_buffer, len: bytes, words: RwLock::new(words(bytes, 0)) }))
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

    /// Check addresses, note the accesses, queue.
    pub(super) fn queue(&mut self, lane: Lane, op: Op) -> Result<(), GpuError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
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
        self.queues[index(lane)].clock.join(&mark.clock);
        self.push(index(lane), Op::Wait(mark));
        Ok(())
    }

    pub(super) fn sync(&mut self, mark: &Passed) -> Result<(), GpuError> {
        self.run(index(mark.lane), mark.number);
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

    /// Carry out a lane's work up to and with this number, and whatever it waits for.
    fn run(&mut self, lane: usize, number: u64) {
        while self.queues[lane].entries.front().is_some_and(|e| e.number <= number) {
            let before = match self.queues[lane].entries.front().map(|e| &e.op) {
                Some(Op::Wait(mark)) => Some((index(mark.lane), mark.number)),
                Some(&Op::Free { copy, .. }) => Some((1, copy)),
                _ => None,
            };
            if let Some((other, number)) = before.filter(|(other, _)| *other != lane) {
                // Never as far as this entry: what it waits for was queued before it.
                self.run(other, number);
            }
            if let Some(entry) = self.queues[lane].entries.pop_front() {
                self.carry_out(lane, entry);
            }
        }
    }

    fn carry_out(&mut self, lane: usize, entry: Entry) {
        let begin = self.queues[lane].us.max(entry.queued_us);
        match entry.op {
            Op::Do(work) => {
                if self.failed.is_some() {
                    return;
                }
                match self.work(lane, &entry.clock, work) {
                    Ok(us) => self.queues[lane].us = begin + us,
                    Err(e) => self.failed = Some(e),
                }
            }
            Op::Mark(mark) => {
                let _ = mark.us.set(begin);
                self.queues[lane].us = begin;
            }
            Op::Wait(mark) => self.queues[lane].us = begin.max(mark.us().unwrap_or(0.0)),
            Op::Free { at, .. } => {
                self.blocks.0.remove(&at);
                self.races.forget(Space::Device(at));
            }
        }
    }

    /// Do it; how long it takes in microseconds.
    fn work(&mut self, lane: usize, clock: &Clock, work: Work) -> Result<f64, GpuError> {
        let speeds = self.options.speeds;
        let copy = |bytes: usize, rate: f64| speeds.copy_us + bytes as f64 / rate * 1e6;
        Ok(match work {
            Work::Upload { to, from, at } => {
                let device = self.blocks.write(to, at.len())?;
                from.read(|host| device.copy_from_slice(&host[at.clone()]));
                copy(at.len(), speeds.link)
            }
            Work::Store { to, bytes } => {
                self.blocks.write(to, bytes.len())?.copy_from_slice(&bytes);
                copy(bytes.len(), speeds.pageable)
            }
            Work::Download { from, to, at } => {
                let device = self.blocks.read(from, at.len())?;
                to.write(|host| host[at.clone()].copy_from_slice(device));
                copy(at.len(), speeds.link)
            }
            Work::Copy { from, to, bytes } => {
                let content = self.blocks.read(from, bytes)?.to_vec();
                self.blocks.write(to, bytes)?.copy_from_slice(&content);
                copy(2 * bytes, speeds.memory)
            }
            Work::Clear { at, bytes } => {
                self.blocks.write(at, bytes)?.fill(0);
                copy(bytes, speeds.memory)
            }
            Work::Launch { kernel, shape, params, .. } => {
                let mut seen = Seen { blocks: &mut self.blocks, reads: RefCell::default(), writes: Vec::new() };
                let ran = reference::run(kernel, shape, &params, &mut seen);
                ran.map_err(|e| GpuError::Driver { what: "a kernel".into(), why: e.to_string() })?;
                let (reads, writes) = (joined(seen.reads.into_inner()), joined(seen.writes));
                let mut bytes = 0;
                for (ranges, writes) in [(reads, false), (writes, true)] {
                    for range in ranges {
                        bytes += range.end - range.start;
                        let (start, _) = self.blocks.find(range.start, 0)?;
                        self.races.note(Space::Device(start), Access { agent: lane, clock: *clock, range, writes, what: kernel });
                    }
                }
                speeds.launch_us + bytes as f64 / speeds.memory * 1e6
            }
        })
    }

    pub(super) fn peek(&self, at: u64, bytes: usize) -> Result<Vec<u8>, GpuError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        self.blocks.read(at, bytes).map(<[u8]>::to_vec)
    }
}
