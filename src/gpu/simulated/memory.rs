//! The simulated device's memory, and page-locked memory beside it.

use crate::gguf::Frozen;
use crate::gpu::device::{Address, GpuError};
use crate::gpu::reference::HostMemory;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

/// What fresh memory holds: no number as f32 and as f16, and no slot as i32.
const POISON: u64 = 0x7FF1_7FF1_7FF1_7FF1;
/// Memory begins at multiples of this, so that a stray address hits nothing.
pub(super) const GUARD: u64 = 1 << 16;
/// Sizes are counted in steps of this.
const GRAIN: u64 = 256;

pub(super) fn counted(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(GRAIN)
}

fn words(bytes: usize, fill: u64) -> Box<[u64]> {
    vec![fill; bytes.div_ceil(8)].into()
}

/// Page-locked memory.
pub(super) struct Buffer {
    pub(super) number: u64,
    pub(super) len: usize,
    content: Content,
}

enum Content {
    Own(RwLock<Box<[u64]>>),
    /// Memory of someone else, locked where it lies.
    InPlace(Frozen),
}

impl Buffer {
    /// Zeroed.
    pub(super) fn new(number: u64, len: usize) -> Self {
        Self { number, len, content: Content::Own(RwLock::new(words(len, 0))) }
    }

    /// This memory, to be read.
    pub(super) fn in_place(number: u64, memory: Frozen) -> Self {
        Self { number, len: memory.len(), content: Content::InPlace(memory) }
    }

    pub(super) fn is_locked_in_place(&self) -> bool {
        matches!(self.content, Content::InPlace(_))
    }

    pub(super) fn read<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        match &self.content {
            Content::Own(words) => f(&bytemuck::cast_slice(&words.read().unwrap_or_else(PoisonError::into_inner))[..self.len]),
            Content::InPlace(memory) => f(memory),
        }
    }

    pub(super) fn write<T>(&self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let Content::Own(words) = &self.content else { panic!("memory that was locked where it lies is only read") };
        f(&mut bytemuck::cast_slice_mut(&mut words.write().unwrap_or_else(PoisonError::into_inner))[..self.len])
    }
}

pub(super) struct Block {
    words: Box<[u64]>,
    pub(super) len: usize,
    /// Its owner has dropped it; what is queued from now on must not use it.
    pub(super) dropped: bool,
    /// Host and device speak through it: words order what they do with it.
    pub(super) mailbox: bool,
}

impl Block {
    /// Poisoned.
    pub(super) fn new(len: usize) -> Self {
        Self { words: words(len, POISON), len, dropped: false, mailbox: false }
    }

    /// Zeroed, and the host's too.
    pub(super) fn mailbox(len: usize) -> Self {
        Self { words: words(len, 0), len, dropped: false, mailbox: true }
    }
}

/// All device memory by address.
#[derive(Default)]
pub(super) struct Blocks(pub(super) BTreeMap<u64, Block>);

impl Blocks {
    /// The memory that holds these bytes: its address and itself.
    pub(super) fn find(&self, at: u64, bytes: usize) -> Result<(u64, &Block), GpuError> {
        let found = self.0.range(..=at).next_back().filter(|(&start, b)| at.saturating_add(bytes as u64) <= start + b.len as u64);
        found.map(|(&start, b)| (start, b)).ok_or_else(|| outside(at, bytes))
    }

    pub(super) fn read(&self, at: u64, bytes: usize) -> Result<&[u8], GpuError> {
        let (start, block) = self.find(at, bytes)?;
        let from = (at - start) as usize;
        Ok(&bytemuck::cast_slice(&block.words)[from..from + bytes])
    }

    pub(super) fn write(&mut self, at: u64, bytes: usize) -> Result<&mut [u8], GpuError> {
        let (start, _) = self.find(at, bytes)?;
        let from = (at - start) as usize;
        let block = self.0.get_mut(&start).ok_or_else(|| outside(at, bytes))?;
        Ok(&mut bytemuck::cast_slice_mut(&mut block.words)[from..from + bytes])
    }
}

pub(super) fn outside(at: u64, bytes: usize) -> GpuError {
    GpuError::Driver { what: format!("{bytes} bytes at {at:#x}"), why: "no memory there: never allocated, freed, or too short".into() }
}

/// Device memory as one kernel sees it; notes what it reads and writes.
pub(super) struct Seen<'a> {
    pub(super) blocks: &'a mut Blocks,
    pub(super) reads: RefCell<Vec<Range<u64>>>,
    pub(super) writes: Vec<Range<u64>>,
    /// The host will say nothing while kernels that have patience wait.
    pub(super) mute: bool,
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

    fn is_mute(&self) -> bool {
        self.mute
    }
}

/// Sorted, overlapping ones joined.
pub(super) fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|r| r.start);
    ranges.into_iter().fold(Vec::new(), |mut out, r| {
        extend(&mut out, r);
        out
    })
}
