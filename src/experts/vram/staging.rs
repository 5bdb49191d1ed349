//! The way up: mapped file bytes are copied into a ring of page-locked buffers by the worker pool, and from there by the copy lane.
//!
//! The ring is small on purpose: page-locked memory is scarce (Windows and WSL give a process far less than half of the RAM) and
//! hurts everybody else. Where there is none at all, the bytes go up straight from the mapping, slower.

use super::slabs::Layout;
use crate::experts::store::HostExpert;
use crate::gpu::{Address, Device, GpuError, Lane, Mark, Pinned};
use crate::kernels::Pool;
use std::sync::{Mutex, PoisonError};

/// Most buffers; more would only let the host run further ahead.
pub(super) const MOST: usize = 32;
/// A copy is cut into pieces of this size for the pool.
const PIECE: usize = 256 * 1024;

struct Stage {
    memory: Pinned,
    /// Of the upload that reads it.
    busy: Option<Mark>,
}

/// A ring of page-locked buffers, each with room for one expert.
pub(super) struct Staging {
    ring: Vec<Stage>,
    next: usize,
    bytes: u64,
}

impl Staging {
    /// At most so many buffers, within `budget` bytes; as much as the system gives, perhaps nothing.
    pub(super) fn new(device: &dyn Device, slot_bytes: usize, budget: u64, most: usize) -> Self {
        let most = usize::try_from(budget / slot_bytes.max(1) as u64).unwrap_or(most).min(most);
        let mut ring = Vec::with_capacity(most);
        for _ in 0..most {
            match device.pinned(slot_bytes) {
                Ok(memory) => ring.push(Stage { memory, busy: None }),
                Err(e) => {
                    tracing::warn!("staging buffers end at {}: {e}", ring.len());
                    break;
                }
            }
        }
        let bytes = (ring.len() * slot_bytes) as u64;
        Self { ring, next: 0, bytes }
    }

    /// Bytes of page-locked memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Queue the copy of an expert to the slot at `to`. If this fails, the slot holds nothing of use. Without a pool this thread copies alone.
    pub(super) fn send(
        &mut self,
        device: &dyn Device,
        pool: Option<&Pool>,
        expert: &HostExpert,
        layout: &Layout,
        to: Address,
    ) -> Result<Mark, GpuError> {
        if self.ring.is_empty() {
            for (part, offset) in expert.iter().zip(layout.offsets) {
                device.upload_now(Lane::Copy, to.plus(offset), part)?;
            }
            return device.mark(Lane::Copy);
        }
        let count = self.ring.len();
        let stage = &mut self.ring[self.next];
        if let Some(busy) = stage.busy.take() {
            device.sync(&busy)?;
        }
        stage.memory.write(0..layout.bytes, &mut |bytes| fill(pool, expert, layout, bytes));
        device.upload(Lane::Copy, to, &stage.memory, 0..layout.bytes)?;
        self.next = (self.next + 1) % count;
        let mark = device.mark(Lane::Copy)?;
        stage.busy = Some(mark.clone());
        Ok(mark)
    }

    /// Queue so many copies of what the last one brought, without filling anything; `None` if there is no page-locked memory.
    pub(super) fn again(&mut self, device: &dyn Device, layout: &Layout, to: Address, times: usize) -> Result<Option<Mark>, GpuError> {
        let count = self.ring.len();
        let Some(stage) = self.ring.get_mut((self.next + count.max(1) - 1) % count.max(1)) else { return Ok(None) };
        for _ in 0..times {
            device.upload(Lane::Copy, to, &stage.memory, 0..layout.bytes)?;
        }
        let mark = device.mark(Lane::Copy)?;
        stage.busy = Some(mark.clone());
        Ok(Some(mark))
    }

    /// Copies that are under way.
    pub(super) fn queued(&self, device: &dyn Device) -> usize {
        self.ring.iter().filter(|s| s.busy.as_ref().is_some_and(|m| !device.passed(m).unwrap_or(true))).count()
    }
}

/// The image of a slot: the three matrices at their offsets.
fn fill(pool: Option<&Pool>, expert: &HostExpert, layout: &Layout, mut to: &mut [u8]) {
    let mut pieces: Vec<Mutex<(&mut [u8], &[u8])>> = Vec::new();
    let mut at = 0;
    for (i, part) in expert.iter().enumerate() {
        let (mine, rest) = std::mem::take(&mut to)[layout.offsets[i] - at..].split_at_mut(layout.sizes[i]);
        (to, at) = (rest, layout.offsets[i] + layout.sizes[i]);
        pieces.extend(mine.chunks_mut(PIECE).zip(part.chunks(PIECE)).map(Mutex::new));
    }
    let copy = |i: usize| {
        let mut piece = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
        let (to, from) = &mut *piece;
        to.copy_from_slice(from);
    };
    match pool {
        Some(pool) => pool.run(pieces.len(), &copy),
        None => (0..pieces.len()).for_each(copy),
    }
}
