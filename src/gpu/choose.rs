//! Which device a model is opened on.

use super::simulated::{Options, Simulated};
use super::{Device, GpuError};
use crate::events::DeviceChoice;
use std::sync::Arc;

/// What was chosen.
#[derive(Default)]
pub struct Chosen {
    /// `None` is the CPU.
    pub device: Option<Arc<dyn Device>>,
    /// Why it is the CPU although this build could use a GPU, in a few words: "no CUDA driver".
    pub lacks: Option<String>,
}

/// Find the device that was asked for.
///
/// # Errors
/// A GPU was asked for, and there is none that this build can use; the message says what to do.
pub fn choose(choice: DeviceChoice) -> Result<Chosen, GpuError> {
    match choice {
        DeviceChoice::Cpu => Ok(Chosen::default()),
        DeviceChoice::Simulated => Ok(Chosen { device: Some(Arc::new(Simulated::new(Options::default()))), lacks: None }),
        DeviceChoice::Gpu => real(),
        DeviceChoice::Auto => Ok(real_or_none()),
    }
}

#[cfg(feature = "cuda")]
fn real() -> Result<Chosen, GpuError> {
    let probe = super::cuda::probe();
    match probe.lacks {
        None => Ok(Chosen { device: Some(super::cuda::open(0)?), lacks: None }),
        Some(lacks) => Err(GpuError::Library {
            library: "a usable GPU",
            why: probe.remedy.map_or_else(|| lacks.clone(), |remedy| format!("{lacks}: {remedy}")),
            remedy: "--device cpu runs on the processor".into(),
        }),
    }
}

/// A GPU that does not open is no reason to refuse where nobody asked for it; why it did not is said beside the CPU's name.
#[cfg(feature = "cuda")]
fn real_or_none() -> Chosen {
    let probe = super::cuda::probe();
    if probe.lacks.is_some() {
        return Chosen { device: None, lacks: probe.lacks };
    }
    match super::cuda::open(0) {
        Ok(device) => Chosen { device: Some(device), lacks: None },
        Err(why) => {
            tracing::warn!(%why, "the GPU does not open");
            Chosen { device: None, lacks: Some("the GPU does not open, see the log or --device gpu".into()) }
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn real() -> Result<Chosen, GpuError> {
    Err(GpuError::Library {
        library: "the GPU tier",
        why: "this rotary was built without the feature `cuda`".into(),
        remedy: "build it as docs/gpu.md says, or use --device cpu".into(),
    })
}

#[cfg(not(feature = "cuda"))]
fn real_or_none() -> Chosen {
    Chosen::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_and_the_simulated_device_are_always_there() {
        assert!(choose(DeviceChoice::Cpu).unwrap().device.is_none());
        let simulated = choose(DeviceChoice::Simulated).unwrap().device.unwrap();
        assert!(simulated.facts().name.to_lowercase().contains("simulated"));
    }

    #[test]
    fn what_is_not_there_is_said_and_refused_only_when_it_is_asked_for() {
        let auto = choose(DeviceChoice::Auto).unwrap();
        if cfg!(feature = "cuda") {
            assert_eq!(auto.device.is_some(), auto.lacks.is_none(), "{:?}", auto.lacks);
        } else {
            assert!(auto.device.is_none() && auto.lacks.is_none());
        }
        if auto.device.is_none() {
            let Err(e) = choose(DeviceChoice::Gpu) else { panic!("there is no GPU") };
            assert!(e.to_string().contains("--device cpu"), "{e}");
        }
    }
}
