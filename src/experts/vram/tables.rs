//! Which expert is in which slot, on the device: what lets the kernels of a token run before the host knows its routing.
//!
//! Each layer's table changes between two of its ticks only: the swaps of one tick are written down at once, and go up on the compute
//! lane when the next tick asks for the table. Until then the copies that they stand for have a whole token's time.

use crate::gpu::{Address, Device, GpuError, Lane, Mark, Memory, Pinned};

/// In no slot.
const NONE: i32 = -1;
/// What the device has is not known.
const UNKNOWN: i32 = i32::MIN;

pub(super) struct Tables {
    experts: usize,
    memory: Memory,
    /// The same on the host, where there is page-locked memory.
    pinned: Option<Pinned>,
    /// What the device's kernels see.
    seen: Vec<i32>,
    /// What they are to see next.
    next: Vec<i32>,
    /// Experts that will then be in no slot.
    absent: usize,
    /// Copies into slots of this layer that no kernel has waited for. All of them: couriers don't tell in the order in which they sent.
    arriving: Vec<Vec<Mark>>,
}

impl Tables {
    /// Tables of empty slots.
    pub(super) fn new(device: &dyn Device, layers: usize, experts: usize) -> Result<Self, GpuError> {
        let seen = vec![NONE; layers * experts];
        let bytes: &[u8] = bytemuck::cast_slice(&seen);
        let memory = device.alloc(bytes.len().max(4))?;
        device.upload_now(Lane::Compute, memory.address(), bytes)?;
        let pinned = device.pinned(bytes.len()).ok();
        Ok(Self { experts, memory, pinned, next: seen.clone(), absent: seen.len(), seen, arriving: vec![Vec::new(); layers] })
    }

    /// The slot of an expert, as kernels of this tick see it.
    pub(super) fn slot(&self, layer: usize, expert: u16) -> Option<u16> {
        u16::try_from(self.seen[layer * self.experts + usize::from(expert)]).ok()
    }

    /// Whether kernels of this tick see no expert of a layer in any slot.
    pub(super) fn is_empty(&self, layer: usize) -> bool {
        self.seen[layer * self.experts..(layer + 1) * self.experts].iter().all(|&s| s < 0)
    }

    /// Whether from the next tick on every expert of every layer is in a slot.
    pub(super) fn is_whole(&self) -> bool {
        self.absent == 0
    }

    fn set(&mut self, layer: usize, expert: u16, slot: i32) {
        let before = std::mem::replace(&mut self.next[layer * self.experts + usize::from(expert)], slot);
        self.absent = self.absent + usize::from(slot == NONE) - usize::from(before == NONE);
    }

    /// From the next tick on. `ready`: the copy into the slot.
    pub(super) fn enter(&mut self, layer: usize, expert: u16, slot: u16, ready: Mark) {
        self.set(layer, expert, i32::from(slot));
        self.arriving[layer].push(ready);
    }

    /// From the next tick on it is in no slot.
    pub(super) fn leave(&mut self, layer: usize, expert: u16) {
        self.set(layer, expert, NONE);
    }

    /// Nobody is anywhere, whatever the device believes.
    pub(super) fn clear(&mut self) {
        self.next.fill(NONE);
        self.seen.fill(UNKNOWN);
        self.absent = self.next.len();
    }

    /// Where the device has a layer's table.
    pub(super) fn place(&self, layer: usize) -> Address {
        self.memory.at(layer * self.experts * 4, self.experts * 4)
    }

    /// A layer's table, which the caller brings to [`Tables::place`], when the copies that it stands for are there.
    ///
    /// # Errors
    /// From the device.
    pub(super) fn hand_over(&mut self, device: &dyn Device, layer: usize) -> Result<&[i32], GpuError> {
        for mark in self.arriving[layer].drain(..) {
            device.sync(&mark)?;
        }
        let range = layer * self.experts..(layer + 1) * self.experts;
        self.seen[range.clone()].copy_from_slice(&self.next[range.clone()]);
        Ok(&self.seen[range])
    }

    /// Bring a layer's table up to date and make the compute lane wait for the copies that it stands for. `used`: the compute lane's
    /// mark at the end of the layer's last tick.
    pub(super) fn show(&mut self, device: &dyn Device, layer: usize, used: Option<&Mark>) -> Result<Address, GpuError> {
        let range = layer * self.experts..(layer + 1) * self.experts;
        let (at, bytes) = (range.start * 4, self.experts * 4);
        let address = self.memory.at(at, bytes);
        for mark in self.arriving[layer].drain(..) {
            device.wait(Lane::Compute, &mark)?;
        }
        if self.next[range.clone()] != self.seen[range.clone()] {
            let new: &[u8] = bytemuck::cast_slice(&self.next[range.clone()]);
            match &self.pinned {
                Some(pinned) => {
                    // The last upload from there was queued before it.
                    if let Some(used) = used {
                        device.sync(used)?;
                    }
                    pinned.write(at..at + bytes, &mut |b| b.copy_from_slice(new));
                    device.upload(Lane::Compute, address, pinned, at..at + bytes)?;
                }
                None => device.upload_now(Lane::Compute, address, new)?,
            }
            self.seen[range.clone()].copy_from_slice(&self.next[range]);
        }
        Ok(address)
    }
}
