//! What makes the experts of a layer other than plain: their activation, and what is added to gate and up, in device memory: all of it, since it is a thousandth of the weights.

use crate::experts::store::LayerExperts;
use crate::gpu::{Address, Device, GpuError, Lane, Memory};
use crate::kernels::rows::Activation;

/// Of one layer.
pub(super) struct LayerBiases {
    /// `[experts, gate | up, ff]`
    values: Option<Memory>,
    activation: Activation,
}

/// As launches name it.
#[derive(Clone, Copy)]
pub(super) struct Biased {
    /// [`Address::NONE`]: nothing is added.
    pub(super) bias: Address,
    pub(super) activation: u32,
}

impl LayerBiases {
    /// `None`: the layer's experts are the plain ones, which have kernels of their own.
    ///
    /// # Errors
    /// No room.
    pub(super) fn of(device: &dyn Device, layer: &LayerExperts) -> Result<Option<Self>, GpuError> {
        let activation = layer.activation;
        let Some(biases) = &layer.biases else {
            return Ok((activation != Activation::SwiGlu).then_some(Self { values: None, activation }));
        };
        let bytes: &[u8] = bytemuck::cast_slice(biases.values());
        let memory = device.alloc(bytes.len())?;
        device.upload_now(Lane::Compute, memory.address(), bytes)?;
        Ok(Some(Self { values: Some(memory), activation }))
    }

    pub(super) fn biased(&self) -> Biased {
        Biased { bias: self.values.as_ref().map_or(Address::NONE, Memory::address), activation: self.activation.number() }
    }
}
