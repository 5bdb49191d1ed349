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

fn real() -> Result<Chosen, GpuError> {
    Err(GpuError::Library {
        library: "the GPU tier",
        why: "this rotary was built without the feature `cuda`".into(),
        remedy: "build it as docs/gpu.md says, or use --device cpu".into(),
    })
}

fn real_or_none() -> Chosen {
    Chosen::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_gpu_code_says_so_only_when_it_is_asked_for_one() {
        assert!(choose(DeviceChoice::Cpu).unwrap().device.is_none());
        let simulated = choose(DeviceChoice::Simulated).unwrap().device.unwrap();
        assert!(simulated.facts().name.to_lowercase().contains("simulated"));
        {
            assert!(choose(DeviceChoice::Auto).unwrap().device.is_none());
            let Err(e) = choose(DeviceChoice::Gpu) else { panic!("there is no GPU code") };
            assert!(e.to_string().contains("--device cpu"), "{e}");
        }
    }
}
