//! Memory of the program that the driver has locked where it lies: copies to the device come straight from it.

use super::{said, Lanes};
use crate::gguf::Frozen;
use crate::gpu::device::{GpuError, PinnedBytes};
use candle_core::cuda_backend::cudarc::driver::sys;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// Nobody writes these bytes, the device neither.
pub(super) struct LockedInPlace {
    memory: Frozen,
    lanes: Arc<Lanes>,
}

impl LockedInPlace {
    /// Lock it. Takes some milliseconds for 64 MiB, and may be called from any thread.
    pub(super) fn new(lanes: &Arc<Lanes>, memory: &Frozen) -> Result<Self, GpuError> {
        let refused = |e| GpuError::Pinned { bytes: memory.len() as u64, why: said(e) };
        lanes.context.bind_to_thread().map_err(refused)?;
        let start = memory.as_ptr().cast_mut().cast();
        // SAFETY: the range is one allocation, which `memory` keeps until the drop below has given it back. The driver locks its pages and writes nothing.
        unsafe { sys::cuMemHostRegister_v2(start, memory.len(), sys::CU_MEMHOSTREGISTER_PORTABLE) }.result().map_err(refused)?;
        Ok(Self { memory: memory.clone(), lanes: lanes.clone() })
    }

    /// A place the driver may copy from.
    pub(super) fn place(&self, at: &Range<usize>) -> *const u8 {
        self.memory[at.clone()].as_ptr()
    }
}

impl PinnedBytes for LockedInPlace {
    fn len(&self) -> usize {
        self.memory.len()
    }
    fn read(&self, at: Range<usize>, f: &mut dyn FnMut(&[u8])) {
        f(&self.memory[at]);
    }
    fn write(&self, _: Range<usize>, _: &mut dyn FnMut(&mut [u8])) {
        panic!("memory that was locked where it lies is only read");
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for LockedInPlace {
    fn drop(&mut self) {
        self.lanes.context.record_err(self.lanes.context.bind_to_thread());
        // Copies from it may still be queued on either lane.
        self.lanes.context.record_err(self.lanes.finish());
        // SAFETY: it was registered at this address when this value was made, and both lanes have finished with it.
        let given_back = unsafe { sys::cuMemHostUnregister(self.memory.as_ptr().cast_mut().cast()) }.result();
        if given_back.is_err() {
            // The device may still know these pages: they must not become someone else's.
            std::mem::forget(self.memory.clone());
        }
        self.lanes.context.record_err(given_back);
    }
}
