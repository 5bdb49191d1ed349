//! The checker of races is not blind: a device that forgets to wait is found out.

use super::*;
use crate::gpu::device::{Facts, Touch};
use crate::gpu::params::Shape;
use std::sync::atomic::{AtomicU64, Ordering};

/// A device that forgets waits.
struct Forgetful {
    sim: Simulated,
    lane: Lane,
    forgotten: AtomicU64,
}

impl Device for Forgetful {
    fn facts(&self) -> &Facts {
        self.sim.facts()
    }
    fn free(&self) -> Result<u64, GpuError> {
        self.sim.free()
    }
    fn alloc(&self, bytes: usize) -> Result<Memory, GpuError> {
        self.sim.alloc(bytes)
    }
    fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        self.sim.pinned(bytes)
    }
    fn upload(&self, lane: Lane, to: Address, from: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        self.sim.upload(lane, to, from, at)
    }
    fn upload_now(&self, lane: Lane, to: Address, from: &[u8]) -> Result<(), GpuError> {
        self.sim.upload_now(lane, to, from)
    }
    fn download(&self, lane: Lane, from: Address, to: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        self.sim.download(lane, from, to, at)
    }
    fn copy(&self, lane: Lane, from: Address, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.sim.copy(lane, from, to, bytes)
    }
    fn clear(&self, lane: Lane, at: Address, bytes: usize) -> Result<(), GpuError> {
        self.sim.clear(lane, at, bytes)
    }
    fn mark(&self, lane: Lane) -> Result<Mark, GpuError> {
        self.sim.mark(lane)
    }
    fn wait(&self, lane: Lane, mark: &Mark) -> Result<(), GpuError> {
        if lane == self.lane {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.sim.wait(lane, mark)
    }
    fn sync(&self, mark: &Mark) -> Result<(), GpuError> {
        self.sim.sync(mark)
    }
    fn passed(&self, mark: &Mark) -> Result<bool, GpuError> {
        self.sim.passed(mark)
    }
    fn between(&self, from: &Mark, to: &Mark) -> Option<f64> {
        self.sim.between(from, to)
    }
    fn launch(&self, kernel: &'static str, shape: Shape, params: &[u8], touches: &[Touch]) -> Result<(), GpuError> {
        self.sim.launch(kernel, shape, params, touches)
    }
    fn launches(&self) -> u64 {
        self.sim.launches()
    }
    fn begin_recording(&self) -> Result<(), GpuError> {
        self.sim.begin_recording()
    }
    fn end_recording(&self) -> Result<Recording, GpuError> {
        self.sim.end_recording()
    }
    fn replay(&self, recording: &Recording) -> Result<(), GpuError> {
        self.sim.replay(recording)
    }
}

#[test]
fn without_the_waits_of_either_lane_the_checker_speaks_up() {
    for (lane, tokens) in [(Lane::Compute, 1), (Lane::Compute, 30), (Lane::Copy, 30)] {
        // In the order of queueing the numbers are right all the same.
        let setup = Setup { order: Order::Queued, miss: MissChoice::Gpu, slots: 1, ..Setup::default() };
        let mut s = Session::on(&setup, |sim| Arc::new(Forgetful { sim, lane, forgotten: AtomicU64::new(0) }));
        for _ in 0..4 {
            s.device_step(tokens, 0).unwrap();
        }
        assert!(!s.sim.violations().is_empty(), "{lane:?} with {tokens} tokens");
    }
}
