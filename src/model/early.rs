//! The routers of the next layers, made to be asked at this one.
//!
//! What a router reads is the hidden state, normalised and weighed by its own layer's norm. At an earlier layer there is a row that is normalised just so and weighed by
//! that layer's norm, so a column of the router times the one weight over the other gives a map that reads that row: the next routers are then more rows of the
//! map that this layer's router is, and take no pass and no launch of their own. Their weights are kept as Q8_0; what that rounds off is far less than what the layers
//! in between will add ([`crate::experts::foresight`]).

use super::decoder::Layer;
use super::feed_forward::FeedForward;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::router::Router;
use super::ModelError;
use crate::experts::schedule::LEAD;
use crate::gguf::{Bytes, GgmlType};
use crate::kernels::{dequantize, Matrix};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// Columns whose own norm weighs less than this part of the mean are left out: they can't be weighed up again.
const FAINT: f32 = 1e-3;
/// No column counts more than so many times as much as at its own place.
const MOST: f32 = 16.0;

/// Give every layer with experts the routers of those that follow it, the nearest first. Of the last there are fewer.
pub(super) fn ask_early(layers: &mut [Layer]) -> Result<(), ModelError> {
    let routed: Vec<usize> = layers.iter().enumerate().filter(|(_, l)| router(l).is_some()).map(|(i, _)| i).collect();
    for (n, &here) in routed.iter().enumerate() {
        let later = routed[n + 1..].iter().take(LEAD).map(|&i| &layers[i]);
        let Some((norm, _)) = router(&layers[here]) else { continue };
        let map = folded(norm, later)?;
        match &mut layers[here].feed_forward {
            FeedForward::Moe { early, .. } => *early = map,
            FeedForward::DenseAndRouted(both) => both.early = map,
            FeedForward::Dense(_) => {}
        }
    }
    Ok(())
}

/// Bytes that all of that takes, of so many layers with experts; see [`ask_early`].
pub(super) fn bytes(layers: usize, experts: usize, hidden: usize) -> u64 {
    let rows: usize = (0..layers).map(|l| LEAD.min(layers - 1 - l) * experts).sum();
    let ty = kept_as(hidden);
    (rows * (hidden / ty.block_elems()) * ty.block_bytes()) as u64
}

/// Q8_0, unless rows have no whole blocks.
pub(super) fn kept_as(hidden: usize) -> GgmlType {
    if hidden.is_multiple_of(GgmlType::Q8_0.block_elems()) {
        GgmlType::Q8_0
    } else {
        GgmlType::F32
    }
}

/// The router of a layer, and the norm through which it reads the hidden state.
fn router(layer: &Layer) -> Option<(&RmsNorm, &Router)> {
    match &layer.feed_forward {
        FeedForward::Moe { router, .. } => Some((&layer.ff_norm, router)),
        FeedForward::DenseAndRouted(both) => Some((&both.router_norm, &both.router)),
        FeedForward::Dense(_) => None,
    }
}

/// The maps of those layers below each other, `[layers * experts, hidden]`, for a row that was weighed by `norm`.
fn folded<'a>(norm: &RmsNorm, layers: impl Iterator<Item = &'a Layer>) -> Result<Option<Linear>, ModelError> {
    let (here, _) = norm.parts();
    let faint = FAINT * here.iter().map(|w| w.abs()).sum::<f32>() / here.len().max(1) as f32;
    let mut values = Vec::new();
    let mut bias = Vec::new();
    for layer in layers {
        let Some((norm, router)) = router(layer) else { continue };
        let ((there, _), (scores, _)) = (norm.parts(), router.parts());
        let (matrix, added) = scores.parts();
        if matrix.cols != here.len() || there.len() != here.len() {
            return Ok(None);
        }
        let by = |(&there, &here): (&f32, &f32)| if here.abs() <= faint { 0.0 } else { (there / here).clamp(-MOST, MOST) };
        let by: Vec<f32> = there.iter().zip(here).map(by).collect();
        let first = values.len();
        values.resize(first + matrix.rows * matrix.cols, 0.0);
        dequantize(matrix.ty, &matrix.bytes, &mut values[first..])?;
        values[first..].chunks_exact_mut(matrix.cols).for_each(|row| row.iter_mut().zip(&by).for_each(|(w, by)| *w *= by));
        match added {
            Some(added) => bias.extend_from_slice(added),
            None => bias.resize(bias.len() + matrix.rows, 0.0),
        }
    }
    let (cols, rows) = (here.len(), bias.len());
    if rows == 0 {
        return Ok(None);
    }
    let ty = kept_as(cols);
    let bytes = match ty {
        GgmlType::F32 => bytemuck::cast_slice(&values).to_vec(),
        _ => QTensor::quantize(&Tensor::from_vec(values, (rows, cols), &Device::Cpu)?, GgmlDType::Q8_0)?.data()?.into_owned(),
    };
    let bias = bias.iter().any(|b| *b != 0.0).then_some(bias);
    Ok(Some(Linear::new(Matrix { ty, rows, cols, bytes: Bytes::from_vec(bytes) }, bias)))
}
