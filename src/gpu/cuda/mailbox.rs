//! A mailbox: page-locked memory that kernels reach through the bus.

use super::lanes::Lanes;
use super::{lock, said};
use crate::gpu::device::{Address, GpuError, MailboxBytes};
use candle_core::cuda_backend::cudarc::driver::{sys, PinnedHostSlice};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Who may touch which bytes when is told by the words in it: see [`MailboxBytes`].
pub(super) struct Mapped {
    bytes: *mut u8,
    len: usize,
    address: Address,
    /// Threads of the host copy one after the other.
    copying: Mutex<()>,
    lanes: Arc<Lanes>,
    slice: Option<PinnedHostSlice<u8>>,
}

// SAFETY: the bytes belong to this value and to kernels that were given its address; words are atomic, and all else is read and written by one side at a time, as
// the words have it.
unsafe impl Send for Mapped {}
// SAFETY: as above; threads of the host copy one after the other.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// So many bytes, zeroed.
    pub(super) fn new(lanes: &Arc<Lanes>, bytes: usize) -> Result<Self, GpuError> {
        let refused = |e| GpuError::Pinned { bytes: bytes as u64, why: said(e) };
        lanes.context.bind_to_thread().map_err(refused)?;
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: it is filled with zeros below, before anyone sees it.
        let mut slice = unsafe { lanes.context.alloc_pinned_with_flags::<u8>(bytes.max(1), flags) }.map_err(refused)?;
        let start = slice.as_mut_ptr().map_err(refused)?;
        // SAFETY: the allocation has at least this many bytes, and nobody else has it.
        unsafe { start.write_bytes(0, bytes) };
        let mut address = 0;
        // SAFETY: the start of an allocation that is mapped; it writes one address.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut address, start.cast(), 0) }.result().map_err(refused)?;
        Ok(Self {
            bytes: start,
            len: bytes,
            address: Address(address),
            copying: Mutex::default(),
            lanes: lanes.clone(),
            slice: Some(slice),
        })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.len, "word at {at} of {}", self.len);
        // SAFETY: inside the allocation and aligned, as just checked; words are touched as atomics only, by the device with system scope.
        unsafe { AtomicU32::from_ptr(self.bytes.add(at).cast()) }
    }

    fn place(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "{at}+{len} of {}", self.len);
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.bytes.add(at) }
    }
}

impl MailboxBytes for Mapped {
    fn address(&self) -> Address {
        self.address
    }
    fn heard(&self, at: usize) -> u32 {
        self.word(at).load(Ordering::Acquire)
    }
    fn say(&self, at: usize, word: u32) {
        self.word(at).store(word, Ordering::Release);
    }
    fn read(&self, at: usize, into: &mut [u8]) {
        let _alone = lock(&self.copying);
        // SAFETY: inside the allocation, zeroed when it was made; the device does not write these bytes now, as the caller has heard, or has given up, which the
        // caller looks for before using them; and no other thread of the host does.
        unsafe { ptr::copy_nonoverlapping(self.place(at, into.len()), into.as_mut_ptr(), into.len()) };
    }
    fn write(&self, at: usize, from: &[u8]) {
        let _alone = lock(&self.copying);
        // SAFETY: as for reading; nor does the device read them now.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.place(at, from.len()), from.len()) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // Kernels that were given its address may still be queued.
        self.lanes.context.record_err(self.lanes.finish());
        self.slice = None;
    }
}
