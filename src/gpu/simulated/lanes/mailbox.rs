//! Words between the host and kernels that run.

use super::super::memory::{Block, GUARD};
use super::super::races::HOST;
use super::super::Order;
use super::{stuck, State};
use crate::gpu::device::GpuError;

impl State {
    pub(in super::super) fn mailbox(&mut self, bytes: usize) -> Result<u64, GpuError> {
        self.count_pinned(bytes)?;
        let at = self.next_address;
        self.next_address = (at + bytes as u64 + GUARD).next_multiple_of(GUARD);
        self.blocks.0.insert(at, Block::mailbox(bytes));
        Ok(at)
    }

    pub(in super::super) fn drop_mailbox(&mut self, at: u64) {
        self.drain();
        if let Some(block) = self.blocks.0.remove(&at) {
            self.pinned -= block.len as u64;
        }
    }

    /// The host listens: the compute lane comes as far as it can.
    pub(in super::super) fn heard(&mut self, at: u64) -> u32 {
        self.run(0, self.queues[0].newest);
        self.host.join(&self.told);
        self.host_us = self.host_us.max(self.queues[0].us);
        self.blocks.read(at, 4).ok().and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
    }

    /// The compute lane comes as far as it can while the host says nothing more: kernels that have patience give up.
    pub(super) fn run_out_of_patience(&mut self) {
        self.mute = true;
        self.run(0, self.queues[0].newest);
        self.mute = false;
    }

    pub(in super::super) fn say(&mut self, at: u64, word: u32) {
        if self.may("a word", |f| &mut f.silent).is_err() {
            self.run_out_of_patience();
        }
        if let Ok(bytes) = self.blocks.write(at, 4) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        self.host.0[HOST] += 1;
        self.said = self.host;
        // A lane that waited for it goes on, but not before it was said.
        self.queues[0].us = self.queues[0].us.max(self.host_us);
        if self.options.order == Order::Queued {
            self.drain();
        }
    }

    pub(in super::super) fn mailbox_bytes(&mut self, at: u64, bytes: usize) -> Result<&mut [u8], GpuError> {
        self.blocks.write(at, bytes)
    }

    /// Whether the compute lane has work that it can do.
    pub(in super::super) fn working(&mut self) -> Result<bool, GpuError> {
        self.run(0, self.queues[0].newest);
        self.run_out_of_patience();
        match (&self.failed, self.queues[0].entries.is_empty()) {
            (Some(e), _) => Err(e.clone()),
            (None, true) => Ok(false),
            (None, false) => Err(stuck()),
        }
    }
}
