//! Slots in VRAM: one slab per layer, and how its size changes while the model talks.
//!
//! A slab is one allocation of `slots * slot_bytes`, since kernels reach every slot of a layer from one base address. A resize
//! therefore makes new slabs, layer by layer, and copies the kept slots on the device (some 60 ms for 6 GiB at 200 GB/s, once): at no
//! time is more held than one extra slab, and what a smaller count frees is really given back. Segments of a few slots would save the
//! copies and cost an indirection in every kernel of every token.

use crate::experts::schedule::Move;
use crate::experts::store::LayerExperts;
use crate::gpu::{Address, Device, GpuError, Lane, Memory};

/// Matrices begin at multiples of this in a slot, and slots in a slab.
const ALIGN: usize = 256;

/// Where gate, up and down of a layer's experts lie in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) offsets: [usize; 3],
    pub(super) sizes: [usize; 3],
    /// Of a slot.
    pub(super) bytes: usize,
}

impl Layout {
    pub(super) fn of(layer: &LayerExperts) -> Self {
        let sizes = layer.shape.map(|p| p.bytes());
        let mut at = 0;
        let offsets = sizes.map(|size| {
            let offset = at;
            at = (at + size).next_multiple_of(ALIGN);
            offset
        });
        Self { offsets, sizes, bytes: at }
    }
}

/// Bytes of a slot of this layer on a device.
#[must_use]
pub fn slot_bytes(layer: &LayerExperts) -> u64 {
    Layout::of(layer).bytes as u64
}

/// The slots of one layer.
pub(super) struct Slab {
    pub(super) layout: Layout,
    memory: Option<Memory>,
    /// Slots that there is room for; more than are in use only where a smaller slab could not be had.
    room: usize,
}

impl Slab {
    pub(super) fn new(device: &dyn Device, layout: Layout, slots: usize) -> Result<Self, GpuError> {
        let mut slab = Self { layout, memory: None, room: 0 };
        slab.memory = slab.alloc(device, slots)?;
        slab.room = slots;
        Ok(slab)
    }

    fn alloc(&self, device: &dyn Device, slots: usize) -> Result<Option<Memory>, GpuError> {
        (slots > 0).then(|| device.alloc(slots * self.layout.bytes)).transpose()
    }

    /// Where the slots begin; nowhere if there are none.
    pub(super) fn base(&self) -> Address {
        self.memory.as_ref().map_or(Address::NONE, Memory::address)
    }

    /// # Panics
    /// If there is no such slot.
    pub(super) fn slot(&self, slot: usize) -> Address {
        self.memory.as_ref().expect("a slab with slots").at(slot * self.layout.bytes, self.layout.bytes)
    }

    /// A slab of at least `slots` slots with the old ones in front. Nothing has changed after an error.
    fn grow(&mut self, device: &dyn Device, slots: usize) -> Result<(), GpuError> {
        if slots <= self.room {
            return Ok(());
        }
        let new = self.alloc(device, slots)?;
        if let (Some(new), Some(old)) = (&new, &self.memory) {
            device.copy(Lane::Compute, old.address(), new.address(), self.room * self.layout.bytes)?;
        }
        (self.memory, self.room) = (new, slots);
        Ok(())
    }

    /// Carry out the moves of this layer in place.
    fn carry(&self, device: &dyn Device, moves: &[Move]) -> Result<(), GpuError> {
        moves
            .iter()
            .try_for_each(|m| device.copy(Lane::Compute, self.slot(usize::from(m.from)), self.slot(usize::from(m.to)), self.layout.bytes))
    }

    /// Give back all but the first `slots` slots.
    fn shrink(&mut self, device: &dyn Device, slots: usize) -> Result<(), GpuError> {
        if slots >= self.room {
            return Ok(());
        }
        let new = self.alloc(device, slots)?;
        if let (Some(new), Some(old)) = (&new, &self.memory) {
            device.copy(Lane::Compute, old.address(), new.address(), slots * self.layout.bytes)?;
        }
        (self.memory, self.room) = (new, slots);
        Ok(())
    }
}

/// More slots in every layer: `wanted`, or as many as memory gives while `reserve` bytes stay free. Returns how many there are now;
/// none is lost. Only failures other than a lack of memory are errors.
pub(super) fn grow(device: &dyn Device, slabs: &mut [Slab], slots: usize, wanted: usize, reserve: u64) -> Result<usize, GpuError> {
    let mut target = wanted.min(slots + fitting(device, slabs, slots, reserve)?);
    while target > slots {
        let grown = slabs.iter_mut().try_for_each(|slab| slab.grow(device, target));
        match grown {
            Ok(()) => return Ok(target),
            Err(GpuError::OutOfMemory { .. }) => {
                // Memory is in pieces, or someone else took it. Less may fit.
                target = slots + (target - slots) / 2;
                shrink_all(device, slabs, target)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(slots)
}

/// How many slots more would leave `reserve` bytes free, the extra slab of a resize included.
pub(super) fn fitting(device: &dyn Device, slabs: &[Slab], slots: usize, reserve: u64) -> Result<usize, GpuError> {
    let step: u64 = slabs.iter().map(|s| s.layout.bytes as u64).sum();
    let largest = slabs.iter().map(|s| s.layout.bytes as u64).max().unwrap_or(0);
    let free = device.free()?.saturating_sub(reserve).saturating_sub(largest * slots as u64);
    // Each slot more takes one in every layer, and one in the slab that is held twice.
    Ok(usize::try_from(free.checked_div(step + largest).unwrap_or(0)).unwrap_or(usize::MAX))
}

/// Fewer slots in every layer. The moves are carried out whatever happens; a layer whose smaller slab can't be had keeps its room.
pub(super) fn shrink(device: &dyn Device, slabs: &mut [Slab], slots: usize, moves: &[Move]) -> Result<(), GpuError> {
    for (i, slab) in slabs.iter().enumerate() {
        let of_layer: Vec<Move> = moves.iter().filter(|m| m.layer == i).copied().collect();
        slab.carry(device, &of_layer)?;
    }
    shrink_all(device, slabs, slots)
}

fn shrink_all(device: &dyn Device, slabs: &mut [Slab], slots: usize) -> Result<(), GpuError> {
    // A second round finds the memory that the first one gave back.
    for _ in 0..2 {
        for slab in slabs.iter_mut() {
            match slab.shrink(device, slots) {
                Ok(()) | Err(GpuError::OutOfMemory { .. }) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}
