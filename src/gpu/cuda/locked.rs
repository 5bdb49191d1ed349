//! Page-locked memory: what callers ask for, and a ring through which ordinary memory goes up.

use super::lanes::Lanes;
use super::{lock, said};
use crate::gpu::device::{Address, GpuError, Lane, PinnedBytes};
use candle_core::cuda_backend::cudarc::driver::result::DriverError;
use candle_core::cuda_backend::cudarc::driver::{sys, CudaEvent, PinnedHostSlice};
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Page-locked memory. The ranges that the host has in hand are kept, so that no two calls see the same bytes while one writes.
pub(super) struct Locked {
    bytes: *mut u8,
    len: usize,
    held: Mutex<Vec<(Range<usize>, bool)>>,
    lanes: Arc<Lanes>,
    slice: Option<PinnedHostSlice<u8>>,
}

// SAFETY: the bytes belong to this value alone, and `hold` keeps readers and writers of the host apart.
unsafe impl Send for Locked {}
// SAFETY: as above.
unsafe impl Sync for Locked {}

/// Gives the range back, also when the caller's function panics.
struct Held<'a>(&'a Locked, Range<usize>, bool);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.0.held);
        if let Some(i) = held.iter().position(|(r, w)| *r == self.1 && *w == self.2) {
            held.swap_remove(i);
        }
    }
}

impl Locked {
    fn hold(&self, at: &Range<usize>, writes: bool) -> Held<'_> {
        assert!(at.start <= at.end && at.end <= self.len, "{at:?} of {}", self.len);
        let mut held = lock(&self.held);
        let clash = |r: &Range<usize>| r.start < at.end && at.start < r.end;
        assert!(!held.iter().any(|(r, w)| clash(r) && (*w || writes)), "{at:?} is in use");
        held.push((at.clone(), writes));
        Held(self, at.clone(), writes)
    }

    /// A place the driver may copy from or to.
    pub(super) fn place(&self, at: &Range<usize>) -> *mut u8 {
        assert!(at.start <= at.end && at.end <= self.len, "{at:?} of {}", self.len);
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.bytes.add(at.start) }
    }
}

impl PinnedBytes for Locked {
    fn len(&self) -> usize {
        self.len
    }
    fn read(&self, at: Range<usize>, f: &mut dyn FnMut(&[u8])) {
        let held = self.hold(&at, false);
        // SAFETY: inside the allocation, zeroed when it was made; `held` keeps writers of the host away, and whoever calls has waited
        // for the copies of the device.
        f(unsafe { std::slice::from_raw_parts(self.bytes.add(at.start), at.len()) });
        drop(held);
    }
    fn write(&self, at: Range<usize>, f: &mut dyn FnMut(&mut [u8])) {
        let held = self.hold(&at, true);
        // SAFETY: as for reading, and nobody else of the host has these bytes.
        f(unsafe { std::slice::from_raw_parts_mut(self.bytes.add(at.start), at.len()) });
        drop(held);
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Copies that use it may still be queued on either lane.
        self.lanes.context.record_err(self.lanes.finish());
        self.slice = None;
    }
}

/// So many bytes, zeroed.
pub(super) fn locked(lanes: &Arc<Lanes>, bytes: usize) -> Result<Locked, GpuError> {
    let refused = |e| GpuError::Pinned { bytes: bytes as u64, why: said(e) };
    // Not write-combined: the host reads from it too, which that makes crawl.
    // SAFETY: it is filled with zeros below, before anyone sees it.
    let mut slice = unsafe { lanes.context.alloc_pinned_with_flags::<u8>(bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE) }.map_err(refused)?;
    let start = slice.as_mut_ptr().map_err(refused)?;
    // SAFETY: the allocation has at least this many bytes, and nobody else has it.
    unsafe { start.write_bytes(0, bytes) };
    Ok(Locked { bytes: start, len: bytes, held: Mutex::default(), lanes: lanes.clone(), slice: Some(slice) })
}

/// A small page-locked ring through which ordinary host memory goes up. The driver could copy from such memory itself, but
/// whether it is done with it on return depends on the system.
pub(super) struct Ring {
    memory: Locked,
    /// Which quarter is being filled, and how far.
    quarter: usize,
    used: usize,
    /// Per quarter and lane: passed when the copies out of it are done.
    done: [[Option<CudaEvent>; 2]; 4],
}

impl Ring {
    /// `None` if no page-locked memory is to be had.
    pub(super) fn new(lanes: &Arc<Lanes>) -> Option<Self> {
        let memory = locked(lanes, Self::QUARTER * 4).ok()?;
        Some(Self { memory, quarter: 0, used: 0, done: Default::default() })
    }

    pub(super) const QUARTER: usize = 4 << 20;
    /// Largest piece: the host fills the next while this one travels.
    pub(super) const PIECE: usize = 1 << 20;

    /// Room for `bytes` more; waits for copies out of the oldest quarter if there is none.
    fn room(&mut self, bytes: usize, lanes: &Lanes) -> Result<Range<usize>, DriverError> {
        if self.used + bytes > Self::QUARTER {
            self.quarter = (self.quarter + 1) % self.done.len();
            self.used = 0;
            for event in self.done[self.quarter].iter_mut().filter_map(Option::take) {
                event.synchronize()?;
                lock(&lanes.spare).push(event);
            }
        }
        let begin = self.quarter * Self::QUARTER + self.used;
        self.used += bytes.next_multiple_of(64);
        Ok(begin..begin + bytes)
    }

    /// Upload a piece of ordinary memory.
    pub(super) fn stage(&mut self, lanes: &Lanes, lane: Lane, to: Address, from: &[u8]) -> Result<(), DriverError> {
        let stream = lanes.stream(lane);
        let at = self.room(from.len(), lanes)?;
        self.memory.write(at.clone(), &mut |bytes| bytes.copy_from_slice(from));
        let place = self.memory.place(&at);
        // SAFETY: the ring keeps these bytes until its event, recorded below, has passed; the caller vouches for the device's side.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, place.cast(), from.len(), stream.cu_stream()) }.result()?;
        // The last copy of the lane out of this quarter counts.
        let event = lanes.recorded(lane)?;
        if let Some(before) = self.done[self.quarter][lane as usize].replace(event) {
            lock(&lanes.spare).push(before);
        }
        Ok(())
    }
}
