//! How what a half layer gives gets into the residual stream: added as it is, or normalised before.

use super::super::norm::RmsNorm;
use super::super::ModelError;
use super::map::{Norm, Rows, Target};
use super::Pass;
use crate::gpu::params::{launch, AddNormed};
use crate::gpu::{Address, Device};

/// Of one half layer.
pub(super) struct Join {
    /// `None`: added as it is.
    norm: Option<Norm>,
    /// Multiplies the stream after that, if there is a norm.
    factor: f32,
}

impl Join {
    /// `factor` without a norm is not known of any family.
    pub(super) fn new(device: &dyn Device, norm: Option<&RmsNorm>, factor: Option<f32>) -> Result<Self, ModelError> {
        debug_assert!(norm.is_some() || factor.is_none());
        Ok(Self { norm: norm.map(|n| Norm::new(device, n)).transpose()?, factor: factor.unwrap_or(1.0) })
    }

    /// Where the half layer's last map puts its result.
    pub(super) fn target(&self, pass: &Pass<'_>) -> Target {
        match self.norm {
            None => Target::add(pass.x),
            Some(_) => Target::set(pass.work.given(pass.tokens)),
        }
    }

    /// What was put there joins the stream. `beside`: so does this, and each goes through a norm of its own before they are added up.
    pub(super) fn finish(&self, pass: &Pass<'_>, beside: Option<Beside<'_>>) -> Result<(), ModelError> {
        let Some(norm) = &self.norm else { return Ok(()) };
        let given = pass.work.given(pass.tokens);
        let own = |f: fn(&Beside<'_>) -> Address| beside.as_ref().map_or(Address::NONE, f);
        let kernel = AddNormed {
            a: given.at,
            a_weight: own(|b| b.given_norm.weight()),
            b: own(|b| b.rows.at),
            b_weight: own(|b| b.norm.weight()),
            weight: norm.weight(),
            x: pass.x.at,
            rows: pass.tokens as u32,
            len: norm.len as u32,
            a_stride: given.stride as u32,
            b_stride: beside.as_ref().map_or(0, |b| b.rows.stride as u32),
            x_stride: pass.x.stride as u32,
            eps: norm.eps,
            factor: self.factor,
            pad: 0,
        };
        Ok(launch(pass.device, &kernel, &[])?)
    }
}

/// A second result of the same half layer.
pub(super) struct Beside<'a> {
    /// Where it is.
    pub(super) rows: Rows,
    /// Its norm.
    pub(super) norm: &'a Norm,
    /// The norm of what is where [`Join::target`] says.
    pub(super) given_norm: &'a Norm,
}
