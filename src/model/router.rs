//! The router: which experts a token uses, and how much each counts.

use super::linear::{Compute, Linear};
use super::ModelError;
use crate::experts::Routing;
use crate::kernels::rows::with_rows;
use candle_core::Tensor;

/// How gate weights come from the router's scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gating {
    /// Experts per token.
    pub top_k: usize,
    /// Divide the chosen weights by their sum.
    pub renormalise: bool,
    /// Multiply them by this at the end (`expert_weights_scale`).
    pub scale: f32,
}

/// Scores by a linear map, softmax over all experts, the best `top_k` of them.
pub struct Router {
    scores: Linear,
    gating: Gating,
    /// A factor per expert on its gate weight.
    factors: Option<Vec<f32>>,
}

impl Router {
    /// `scores` maps hidden to experts.
    #[must_use]
    pub fn new(scores: Linear, gating: Gating) -> Self {
        Self { scores, gating, factors: None }
    }

    /// The same with gate weights multiplied by a factor of their expert, `[experts]`.
    #[must_use]
    pub fn with_factors(self, factors: Option<Vec<f32>>) -> Self {
        Self { factors, ..self }
    }

    /// What a device takes over.
    pub(super) fn parts(&self) -> (&Linear, Gating) {
        (&self.scores, self.gating)
    }

    /// See [`Router::with_factors`].
    pub(super) fn factors(&self) -> Option<&[f32]> {
        self.factors.as_deref()
    }

    /// Routing of the hidden states `[tokens, hidden]`.
    ///
    /// # Errors
    /// From the dot products.
    pub fn forward(&self, compute: &mut Compute, x: &Tensor) -> Result<Routing, ModelError> {
        let scores = self.scores.forward(compute, x)?;
        let (_, experts) = scores.dims2()?;
        Ok(with_rows(&scores, |values| self.route(values, experts))?)
    }
}

impl Router {
    /// The same for one row, with the scores `[experts]` that it comes from, and what `beside`, another map of the row, makes of it.
    pub(super) fn forward_with(
        &self,
        compute: &mut Compute,
        beside: Option<&Linear>,
        x: &Tensor,
    ) -> Result<(Routing, Vec<f32>, Vec<f32>), ModelError> {
        let (scores, other) = match beside {
            Some(beside) => {
                let [scores, other] = Linear::many(compute, [&self.scores, beside], x)?;
                (scores, with_rows(&other, <[f32]>::to_vec)?)
            }
            None => (self.scores.forward(compute, x)?, Vec::new()),
        };
        let (_, experts) = scores.dims2()?;
        let scores = with_rows(&scores, <[f32]>::to_vec)?;
        Ok((self.route(&scores, experts), scores, other))
    }

    fn route(&self, scores: &[f32], experts: usize) -> Routing {
        let mut routing = route(scores, experts, self.gating);
        if let Some(factors) = &self.factors {
            routing.weights.iter_mut().zip(&routing.ids).for_each(|(w, id)| *w *= factors[*id as usize]);
        }
        routing
    }
}

/// Softmax over each row of `scores` `[tokens, experts]`, then the best `top_k`; of equal scores the lower id wins.
fn route(scores: &[f32], experts: usize, gating: Gating) -> Routing {
    let k = gating.top_k.min(experts);
    let tokens = scores.len().checked_div(experts).unwrap_or(0);
    let mut ids = Vec::with_capacity(tokens * k);
    let mut weights = Vec::with_capacity(tokens * k);
    let mut taken = vec![false; experts];
    for row in scores.chunks_exact(experts.max(1)) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|s| (s - max).exp()).sum();
        taken.fill(false);
        let first = weights.len();
        for _ in 0..k {
            // A plain scan per choice: k is small, and a row is a few cache lines. NaN never compares as greater, so a
            // damaged row still yields distinct valid ids; the model reports it after the layer.
            let mut best = None;
            for (i, s) in row.iter().enumerate() {
                if !taken[i] && best.is_none_or(|b: usize| *s > row[b] || (row[b].is_nan() && !s.is_nan())) {
                    best = Some(i);
                }
            }
            let Some(best) = best else { break };
            taken[best] = true;
            ids.push(best as u32);
            weights.push((row[best] - max).exp() / sum);
        }
        let chosen = &mut weights[first..];
        if gating.renormalise {
            // The floor is llama.cpp's: the smallest normal f16, below which a sum is taken for zero.
            let total = chosen.iter().sum::<f32>().max(6.103_515_6e-5);
            chosen.iter_mut().for_each(|w| *w /= total);
        }
        if gating.scale != 1.0 {
            chosen.iter_mut().for_each(|w| *w *= gating.scale);
        }
    }
    Routing { top_k: k, ids, weights }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Gating = Gating { top_k: 2, renormalise: false, scale: 1.0 };

    #[test]
    fn best_experts_come_first_and_ties_go_to_the_lower_id() {
        let r = route(&[0.0, 3.0, 3.0, 1.0, 5.0, 1.0, 5.0, 5.0], 4, PLAIN);
        assert_eq!(r.ids, [1, 2, 0, 2]);
        let z = 1.0 + 2.0 * 3f32.exp() + 1f32.exp();
        assert!((r.weights[0] - 3f32.exp() / z).abs() < 1e-6, "weights are softmax over all experts");
    }

    #[test]
    fn renormalised_weights_sum_to_the_scale() {
        let r = route(&[0.1, 0.2, 0.3, 0.4], 4, Gating { renormalise: true, scale: 2.5, ..PLAIN });
        assert!((r.weights.iter().sum::<f32>() - 2.5).abs() < 1e-5);
    }

    #[test]
    fn damaged_scores_give_distinct_valid_ids() {
        for row in [[f32::NAN; 4], [f32::NEG_INFINITY; 4], [f32::INFINITY; 4], [f32::NAN, 1.0, f32::NAN, 0.0]] {
            let r = route(&row, 4, PLAIN);
            assert!(r.ids.iter().all(|&i| i < 4) && r.ids[0] != r.ids[1], "{row:?} -> {:?}", r.ids);
        }
        assert_eq!(route(&[f32::NAN, 1.0, f32::NAN, 0.0], 4, PLAIN).ids, [1, 3]);
    }
}
