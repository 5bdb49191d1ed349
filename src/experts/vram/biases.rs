//! What is added to gate and up of the experts of a layer, in device memory: all of it, since it is a thousandth of the weights.

use crate::experts::store::LayerExperts;
use crate::gpu::{Address, Device, GpuError, Lane, Memory};
use crate::kernels::rows::Activation;

/// Of one layer.
pub(super) struct LayerBiases {
    /// `[experts, gate | up, ff]`
    values: Memory,
    activation: Activation,
}

/// As launches name it.
#[derive(Clone, Copy)]
pub(super) struct Biased {
    pub(super) bias: Address,
    pub(super) clamped: u32,
}

impl LayerBiases {
    /// `None`: the layer's experts are the plain ones, which have kernels of their own.
    ///
    /// # Errors
    /// No room.
    pub(super) fn of(device: &dyn Device, layer: &LayerExperts) -> Result<Option<Self>, GpuError> {
        let none;
        let values = match &layer.biases {
            Some(biases) => biases.values(),
            None if layer.activation == Activation::SwiGlu => return Ok(None),
            None => {
                none = vec![0.0; layer.experts.len() * 2 * layer.shape[0].rows];
                &none
            }
        };
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let memory = device.alloc(bytes.len())?;
        device.upload_now(Lane::Compute, memory.address(), bytes)?;
        Ok(Some(Self { values: memory, activation: layer.activation }))
    }

    pub(super) fn biased(&self) -> Biased {
        Biased { bias: self.values.address(), clamped: u32::from(self.activation == Activation::Clamped) }
    }
}
