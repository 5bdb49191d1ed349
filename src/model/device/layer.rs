//! A layer on the device: taken over from the CPU's, and queued up to its feed-forward.

use super::super::config::MADE;
use super::super::decoder::{Layer, Mixer};
use super::super::ModelError;
use super::attention::DeviceAttention;
use super::delta_net::DeviceDeltaNet;
use super::feed_forward::{watch, DeviceFeedForward};
use super::join::Join;
use super::latent_attention::DeviceLatentAttention;
use super::map::Norm;
use super::recorded::Recorded;
use super::recurrent::DeviceRecurrent;
use super::short_conv::DeviceShortConv;
use super::Pass;
use crate::gpu::{Address, Device};
use std::sync::Arc;

pub(super) enum DeviceMixer {
    Attention(Box<DeviceAttention>),
    Latent(Box<DeviceLatentAttention>),
    DeltaNet(Box<DeviceDeltaNet>),
    ShortConv(Box<DeviceShortConv>),
}

impl DeviceMixer {
    /// The state of a recurrent layer.
    pub(super) fn past(&self) -> Option<&DeviceRecurrent> {
        match self {
            Self::Attention(_) | Self::Latent(_) => None,
            Self::DeltaNet(d) => Some(&d.past),
            Self::ShortConv(c) => Some(&c.past),
        }
    }

    /// The same, to be changed.
    pub(super) fn past_mut(&mut self) -> Option<&mut DeviceRecurrent> {
        match self {
            Self::Attention(_) | Self::Latent(_) => None,
            Self::DeltaNet(d) => Some(&mut d.past),
            Self::ShortConv(c) => Some(&mut c.past),
        }
    }
}

pub(super) struct DeviceLayer {
    pub(super) mixer_norm: Norm,
    pub(super) mixer: DeviceMixer,
    /// What the mixer gives.
    pub(super) join: Join,
    pub(super) feed_forward: DeviceFeedForward,
    /// Of a token: up to the routing, and the shared expert.
    pub(super) recorded: [Recorded; 2],
}

impl DeviceLayer {
    /// Take a layer over. `tiled`: attention of chunks has its own kernel.
    pub(super) fn new(device: &Arc<dyn Device>, layer: Layer, file: &str, tiled: bool) -> Result<Self, ModelError> {
        let d = &**device;
        let mixer = match layer.mixer {
            Mixer::Attention(a) => DeviceMixer::Attention(Box::new(DeviceAttention::new(d, &a, tiled)?)),
            Mixer::Latent(a) => match DeviceLatentAttention::new(d, &a)? {
                Some(layer) => DeviceMixer::Latent(Box::new(layer)),
                None => return Err(ModelError::NotOnDevice { file: file.to_owned(), what: MADE }),
            },
            Mixer::ShortConv(conv) => DeviceMixer::ShortConv(Box::new(DeviceShortConv::new(device, *conv)?)),
            Mixer::DeltaNet(net) => DeviceMixer::DeltaNet(Box::new(DeviceDeltaNet::new(device, *net)?)),
        };
        Ok(Self {
            mixer_norm: Norm::new(d, &layer.mixer_norm)?,
            mixer,
            join: Join::new(d, layer.after.mixer_norm.as_ref(), None)?,
            feed_forward: DeviceFeedForward::new(d, &layer.feed_forward, &layer.ff_norm, &layer.after)?,
            recorded: Default::default(),
        })
    }
}

/// A layer up to its feed-forward. `flag`: where it is told that its result is not all numbers.
pub(super) fn mix(
    pass: &Pass<'_>,
    mixer_norm: &Norm,
    mixer: &mut DeviceMixer,
    join: &Join,
    flag: Option<Address>,
) -> Result<(), ModelError> {
    let Pass { device, tokens, x, h, .. } = *pass;
    mixer_norm.apply(device, x, h, tokens, None)?;
    match mixer {
        DeviceMixer::Attention(a) => a.forward(pass, join.target(pass))?,
        DeviceMixer::Latent(a) => a.forward(pass, join.target(pass))?,
        DeviceMixer::DeltaNet(d) => d.forward(pass, join.target(pass))?,
        DeviceMixer::ShortConv(c) => c.forward(pass, join.target(pass))?,
    }
    join.finish(pass, None)?;
    match flag {
        Some(flag) => watch(device, x, tokens, flag),
        None => Ok(()),
    }
}
