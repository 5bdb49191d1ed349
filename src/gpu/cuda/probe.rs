//! What GPUs there are, or why there is none.

use super::said;
use crate::gpu::device::{Facts, GpuError};
use crate::gpu::{driver, nvml};
use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use std::ffi::c_int;

/// What this machine offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Newest CUDA release that the driver knows, as in "13.0"; `None` without a driver.
    pub driver: Option<String>,
    /// The GPUs, in the order of their numbers.
    pub gpus: Vec<Facts>,
    /// Why there is none, in two or three words: "no CUDA driver".
    pub lacks: Option<String>,
    /// The same with what to do about it.
    pub remedy: Option<String>,
}

impl Probe {
    fn lacking(driver: Option<String>, lacks: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { driver, gpus: Vec::new(), lacks: Some(lacks.into()), remedy: Some(remedy.into()) }
    }
}

/// Look for GPUs. Takes nothing of their memory and never panics.
#[must_use]
pub fn probe() -> Probe {
    std::panic::catch_unwind(look).unwrap_or_else(|_| Probe::lacking(None, "the CUDA driver is broken", "reinstall NVIDIA's driver"))
}

fn look() -> Probe {
    if let Err(e) = driver::load() {
        let remedy = match e {
            GpuError::Library { why, remedy, .. } => format!("{why}; {remedy}"),
            other => other.to_string(),
        };
        return Probe::lacking(None, "no CUDA driver", remedy);
    }
    let driver = driver_release();
    match result::init() {
        Ok(()) => {}
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => {
            return Probe::lacking(driver, "no NVIDIA GPU", "the driver finds none: in a container, start it with access to the GPU");
        }
        Err(e) => return Probe::lacking(driver, "the CUDA driver does not start", said(e)),
    }
    let gpus: Vec<Facts> = (0..result::device::get_count().unwrap_or(0)).filter_map(|i| facts(i).ok()).collect();
    if gpus.is_empty() {
        return Probe::lacking(driver, "no NVIDIA GPU", "the driver shows none: CUDA_VISIBLE_DEVICES may hide it");
    }
    Probe { driver, gpus, lacks: None, remedy: None }
}

/// "13.0".
pub(super) fn driver_release() -> Option<String> {
    let mut version: c_int = 0;
    // SAFETY: it writes one number, and may be called before anything else.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().ok()?;
    Some(format!("{}.{}", version / 1000, version % 1000 / 10))
}

/// "580.65.06 (CUDA 13.0)", or what of it the system tells.
fn driver_name() -> String {
    match (nvml::driver_version(), driver_release()) {
        (Some(version), Some(release)) => format!("{version} (CUDA {release})"),
        (Some(version), None) => version,
        (None, Some(release)) => format!("CUDA {release}"),
        (None, None) => String::new(),
    }
}

pub(super) fn facts(ordinal: c_int) -> Result<Facts, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: `device` is one that the driver has just named.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Facts {
        name: result::device::get_name(device)?,
        capability: u32::try_from(major * 10 + minor).unwrap_or(0),
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }? as u64,
        processors: u32::try_from(attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?).unwrap_or(0),
        impatient: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT)? != 0,
        driver: driver_name(),
        kernels: env!("ROTARY_KERNELS").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;

    #[test]
    fn a_machine_without_a_gpu_is_told_what_it_lacks() {
        let probe = probe();
        match &probe.lacks {
            Some(lacks) => {
                assert!(lacks.contains("driver") || lacks.contains("GPU"), "{probe:?}");
                assert!(probe.gpus.is_empty() && probe.remedy.is_some(), "{probe:?}");
                assert!(open(0).is_err());
            }
            None => assert!(!probe.gpus.is_empty(), "{probe:?}"),
        }
    }
}
