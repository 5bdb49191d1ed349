//! The routers of the next layers, made to be asked at this one.
//!
//! What a router reads is the hidden state, normalised and weighed by its own layer's norm. At an earlier layer there is a row that is normalised just so and weighed by
//! that layer's norm, so a column of the router times the one weight over the other gives a map that reads that row: the next routers are then more rows of the
//! map that this layer's router is, and take no pass and no launch of their own. Their weights are kept as Q8_0; what that rounds off is far less than what the layers
//! in between will add ([`crate::experts::foresight`]). Experts then rank by them as each router chooses, with its bias and its groups.

use super::decoder::Layer;
use super::feed_forward::FeedForward;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::router::{Choice, Router};
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

/// The routers of the next layers with experts, asked by one map.
pub struct Early {
    map: Linear,
    /// By what each of them chooses, the nearest first.
    choices: Vec<Choice>,
}

impl Early {
    /// The map of the row that the layer's own router reads, `[layers * experts]` rows, and by what those layers choose.
    pub(super) fn parts(&self) -> (&Linear, &[Choice]) {
        (&self.map, &self.choices)
    }
}

/// What maps gave `[choices * experts]` becomes what the experts rank by, those of each layer by its own choice.
pub(super) fn rank(choices: &[Choice], scores: &mut [f32]) {
    let experts = scores.len() / choices.len().max(1);
    scores.chunks_exact_mut(experts.max(1)).zip(choices).for_each(|(scores, choice)| choice.rank(scores));
}

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
fn folded<'a>(norm: &RmsNorm, layers: impl Iterator<Item = &'a Layer>) -> Result<Option<Early>, ModelError> {
    let (here, _) = norm.parts();
    let faint = FAINT * here.iter().map(|w| w.abs()).sum::<f32>() / here.len().max(1) as f32;
    let mut values = Vec::new();
    let (mut bias, mut choices) = (Vec::new(), Vec::new());
    for layer in layers {
        let Some((norm, router)) = router(layer) else { continue };
        let ((there, _), (scores, _)) = (norm.parts(), router.parts());
        let (matrix, added) = scores.parts();
        if matrix.cols != here.len() || there.len() != here.len() {
            return Ok(None);
        }
        choices.push(router.choice().clone());
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
    Ok(Some(Early { map: Linear::new(Matrix { ty, rows, cols, bytes: Bytes::from_vec(bytes) }, bias), choices }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::Routing;
    use crate::gguf::Gguf;
    use crate::kernels::rows::with_rows;
    use crate::kernels::Pool;
    use crate::model::linear::Compute;
    use crate::model::open::bind;
    use crate::model::LoadSettings;
    use std::path::Path;

    /// Ids of the experts of a row that `ranks` puts first, in the order of ids, and how far the last is above the next, as a part of how far the best is above the worst.
    fn first(ranks: &[f32], top_k: usize) -> (Vec<u32>, f32) {
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        order.sort_by(|&a, &b| ranks[b].total_cmp(&ranks[a]));
        let (best, last, next, worst) = (order[0], order[top_k - 1], order[top_k], order[order.len() - 1]);
        let gap = (ranks[last] - ranks[next]) / (ranks[best] - ranks[worst]);
        let mut ids: Vec<u32> = order[..top_k].iter().map(|&i| i as u32).collect();
        ids.sort_unstable();
        (ids, gap)
    }

    #[test]
    fn a_router_that_is_asked_at_its_own_turn_says_what_it_will_choose() {
        for (case, otherwise) in [
            ("glm-flash", true),
            ("glm4moe", true),
            ("lfm2moe", true),
            ("deepseek-v3", true),
            ("deepseek-v2", true),
            ("minimax-m2", true),
            ("strict", false),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join("model.gguf");
            let settings = LoadSettings { context: 1, kv_f32: false, goes_back: None, guesses: false, pool: Pool::new(1) };
            let (decoder, _, config) = bind(&Gguf::open(&path).unwrap(), &settings).unwrap();
            let mut compute = Compute::new(settings.pool);
            let mut rng = fastrand::Rng::with_seed(3);
            let (mut rows, mut by_map) = (0, 0);
            for layer in &decoder.into_parts().1 {
                let Some((norm, router)) = router(layer) else { continue };
                let early = folded(norm, std::iter::once(layer)).unwrap().unwrap();
                for _ in 0..40 {
                    let hidden: Vec<f32> = (0..config.hidden).map(|_| rng.f32() * 2.0 - 1.0).collect();
                    let x = norm.forward(&compute, &Tensor::from_vec(hidden, (1, config.hidden), &Device::Cpu).unwrap()).unwrap();
                    let Routing { mut ids, .. } = router.forward(&mut compute, &x).unwrap();
                    ids.sort_unstable();
                    let given = early.map.forward(&mut compute, &x).unwrap();
                    let given = with_rows(&given, <[f32]>::to_vec).unwrap();
                    let mut ranks = given.clone();
                    rank(&early.choices, &mut ranks);
                    let (said, gap) = first(&ranks, config.top_k);
                    // What Q8_0 rounds off may turn those around that are hardly apart.
                    if gap > 0.02 {
                        assert_eq!(said, ids, "{case}");
                        rows += 1;
                        by_map += usize::from(first(&given, config.top_k).0 == ids);
                    }
                }
            }
            assert!(rows > 20 && (by_map < rows) == otherwise, "{case}: {rows} rows, in {by_map} the map alone says so, too");
        }
    }
}
