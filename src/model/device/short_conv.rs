//! The gated short convolution on the device: two maps, and between them one kernel.

use super::super::short_conv::ShortConv;
use super::super::ModelError;
use super::map::{apply, vector, Map, Target};
use super::recurrent::DeviceRecurrent;
use super::Pass;
use crate::gpu::params::{self, launch};
use crate::gpu::{Device, Memory};
use std::sync::Arc;

/// One such layer with its state, the last products that were convolved.
pub(super) struct DeviceShortConv {
    input: Map,
    output: Map,
    taps: Memory,
    channels: usize,
    width: usize,
    /// The state, and the copies to go back to.
    pub(super) past: DeviceRecurrent,
}

impl DeviceShortConv {
    pub(super) fn new(device: &Arc<dyn Device>, layer: ShortConv) -> Result<Self, ModelError> {
        let (w, channels, room) = layer.into_parts();
        let d: &dyn Device = &**device;
        let width = w.taps.len() / channels.max(1);
        Ok(Self {
            input: Map::new(d, &w.input)?,
            output: Map::new(d, &w.output)?,
            taps: vector(d, &w.taps)?,
            channels,
            width,
            past: DeviceRecurrent::new(device, &[width.saturating_sub(1) * channels], room)?,
        })
    }

    /// The rows of `h` are read, and the result goes to `to`. The state moves on by these tokens; [`DeviceRecurrent::advance`] counts them.
    pub(super) fn forward(&mut self, pass: &Pass<'_>, to: Target) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let Self { input, output, taps, channels, width, past } = self;
        let (parts, y) = (work.wide(3 * *channels), work.middle(*channels));
        apply(device, pass.h, tokens, &[(input, Target::set(parts))])?;
        let carry = past.piece(0);
        past.pass(tokens, |stretch| {
            let convolve = params::ShortConv {
                parts: parts.down(stretch.start).at,
                taps: taps.address(),
                carry,
                y: y.down(stretch.start).at,
                tokens: stretch.len() as u32,
                channels: *channels as u32,
                width: *width as u32,
                stride: parts.stride as u32,
            };
            Ok(launch(device, &convolve, &[])?)
        })?;
        apply(device, y, tokens, &[(output, to)])
    }
}
