//! Feed-forwards that every token uses, on the device.

use super::super::feed_forward::Dense;
use super::super::norm::RmsNorm;
use super::super::ModelError;
use super::join::Join;
use super::map::{apply, apply_gated, takes_gate, Map, Norm, Rows, Target};
use super::workspace::Workspace;
use super::Pass;
use crate::gpu::params::{launch, Glu};
use crate::gpu::Device;
use crate::kernels::rows::Activation;

/// Gate, up and down on the device.
pub(super) struct DeviceDense {
    gate: Map,
    up: Map,
    down: Map,
    activation: Activation,
}

impl DeviceDense {
    pub(super) fn new(device: &dyn Device, dense: &Dense) -> Result<Self, ModelError> {
        let map = |linear| Map::new(device, linear);
        Ok(Self { gate: map(&dense.gate)?, up: map(&dense.up)?, down: map(&dense.down)?, activation: dense.activation })
    }

    fn ff(&self) -> usize {
        self.gate.rows
    }

    /// Where gate, up and weight go.
    fn places(&self, work: &Workspace, weight: Option<&Map>) -> [Rows; 3] {
        let ff = self.ff();
        let wide = work.wide(2 * ff + weight.map_or(0, |w| w.rows));
        [wide, wide.right(ff), wide.right(2 * ff)]
    }

    /// The maps that read `h`.
    pub(super) fn first<'a>(&'a self, work: &Workspace, weight: Option<&'a Map>) -> impl Iterator<Item = (&'a Map, Target)> {
        let places = self.places(work, weight).map(Target::set);
        [Some(&self.gate), Some(&self.up), weight].into_iter().zip(places).filter_map(|(map, target)| map.map(|m| (m, target)))
    }

    /// `sigmoid(weight h) * down(f(gate h, up h))` of the rows `h`, without the weight if there is none, `to` where it is wanted.
    pub(super) fn forward(&self, pass: &Pass<'_>, h: Rows, weight: Option<&Map>, to: Target) -> Result<(), ModelError> {
        apply(pass.device, h, pass.tokens, &self.first(pass.work, weight).collect::<Vec<_>>())?;
        self.second(pass, weight, to)
    }

    /// What follows those.
    pub(super) fn second(&self, pass: &Pass<'_>, weight: Option<&Map>, to: Target) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let ff = self.ff();
        let [wide, up, scale] = self.places(work, weight);
        let target = Target { scale: weight.map(|_| scale), ..to };
        if self.activation == Activation::SwiGlu && takes_gate(&self.down, tokens) {
            return apply_gated(device, up, Some(wide), tokens, &[(&self.down, target)]);
        }
        let inner = work.middle(ff);
        let (count, len, stride, activation) = (tokens as u32, ff as u32, wide.stride as u32, self.activation.number());
        launch(device, &Glu { gate: wide.at, up: up.at, y: inner.at, tokens: count, len, stride, activation }, &[])?;
        apply(device, inner, tokens, &[(&self.down, target)])
    }
}

/// Every token uses all of it.
pub(super) struct DeviceDenseOnly {
    norm: Norm,
    dense: DeviceDense,
    join: Join,
}

impl DeviceDenseOnly {
    pub(super) fn new(device: &dyn Device, norm: &RmsNorm, dense: &Dense, join: Join) -> Result<Self, ModelError> {
        Ok(Self { norm: Norm::new(device, norm)?, dense: DeviceDense::new(device, dense)?, join })
    }

    pub(super) fn forward(&self, pass: &Pass<'_>) -> Result<(), ModelError> {
        self.norm.apply(pass.device, pass.x, pass.h, pass.tokens, None)?;
        self.dense.forward(pass, pass.h, None, self.join.target(pass))?;
        self.join.finish(pass, None)
    }
}
