//! The two streams, what orders them, and the memory that is freed in their order.

use super::{foreign, lock};
use crate::gpu::device::{GpuError, Lane, Mark};
use candle_core::cuda_backend::cudarc::driver::result::DriverError;
use candle_core::cuda_backend::cudarc::driver::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream};
use std::sync::{Arc, Mutex};

/// Both streams; everything that must be in order with them has a share.
pub(super) struct Lanes {
    pub(super) context: Arc<CudaContext>,
    pub(super) compute: Arc<CudaStream>,
    pub(super) copy: Arc<CudaStream>,
    /// Events that no mark uses now: making one costs more than recording it.
    pub(super) spare: Mutex<Vec<CudaEvent>>,
}

impl Lanes {
    pub(super) fn stream(&self, lane: Lane) -> &CudaStream {
        match lane {
            Lane::Compute => &self.compute,
            Lane::Copy => &self.copy,
        }
    }

    /// An event, with times: [`Device::between`] may be asked about any mark.
    pub(super) fn event(&self) -> Result<CudaEvent, DriverError> {
        let spare = lock(&self.spare).pop();
        spare.map_or_else(|| self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)), Ok)
    }

    pub(super) fn recorded(&self, lane: Lane) -> Result<CudaEvent, DriverError> {
        let event = self.event()?;
        event.record(self.stream(lane))?;
        Ok(event)
    }

    /// What `lane` is given from now on comes after all that `other` has been given so far.
    pub(super) fn after(&self, lane: Lane, other: Lane) -> Result<(), DriverError> {
        let event = self.recorded(other)?;
        let waits = self.stream(lane).wait(&event);
        lock(&self.spare).push(event);
        waits
    }

    pub(super) fn finish(&self) -> Result<(), DriverError> {
        self.compute.synchronize()?;
        self.copy.synchronize()
    }
}

/// Device memory; freed on the compute stream, after what either lane has been given until then.
pub(super) struct Owned {
    pub(super) slice: Option<CudaSlice<u8>>,
    pub(super) lanes: Arc<Lanes>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // A failure is kept by the context and told by its next call.
        self.lanes.context.record_err(self.lanes.after(Lane::Compute, Lane::Copy));
        self.slice = None;
    }
}

/// What a [`Mark`] of this device holds.
pub(super) struct Passing {
    pub(super) event: Option<CudaEvent>,
    pub(super) lanes: Arc<Lanes>,
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            lock(&self.lanes.spare).push(event);
        }
    }
}

/// The event of a mark of this device.
pub(super) fn event<'a>(mark: &'a Mark, lanes: &Arc<Lanes>) -> Result<&'a CudaEvent, GpuError> {
    let passing = mark.0.downcast_ref::<Passing>().filter(|p| Arc::ptr_eq(&p.lanes, lanes));
    passing.and_then(|p| p.event.as_ref()).ok_or_else(|| foreign("a mark"))
}
