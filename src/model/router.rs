//! The router: which experts a token uses, and how much each counts.

use super::config::{ModelConfig, Selection};
use super::linear::{Compute, Linear};
use super::weights::Weights;
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

/// By what experts are chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Scores are sigmoids, each by itself; else a softmax over all of them.
    pub sigmoid: bool,
    /// `[experts]`: added to the scores for the choice alone (Wang et al., arXiv 2408.15664).
    pub bias: Option<Vec<f32>>,
    /// So many groups of experts, of which so many are chosen first: by the sum of their two best where scores are sigmoids (DeepSeek-V3), by their best otherwise (V2).
    pub groups: Option<(usize, usize)>,
}

impl Choice {
    /// That of block `block`. If the routers of a file have a bias, each has one.
    pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, block: usize) -> Result<Self, ModelError> {
        let Selection { sigmoid, bias, groups } = config.selection;
        let bias = bias.then(|| weights.vector(&format!("blk.{block}.exp_probs_b.bias"), config.experts)).transpose()?;
        Ok(Self { sigmoid, bias, groups })
    }

    /// The highest scores of a softmax.
    fn is_plain(&self) -> bool {
        !self.sigmoid && self.bias.is_none() && self.groups.is_none()
    }

    /// What the linear map gives `[experts]` becomes scores.
    fn score(&self, row: &mut [f32]) {
        if self.sigmoid {
            row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
        } else {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|s| *s /= sum);
        }
    }

    /// Scores `[experts]` become what experts are chosen by.
    fn prefer(&self, by: &mut [f32]) {
        if let Some(bias) = &self.bias {
            by.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
        }
        let Some((count, used)) = self.groups else { return };
        let best = if self.sigmoid { 2 } else { 1 };
        let worth = |group: &[f32]| {
            let mut group = group.to_vec();
            group.sort_unstable_by(|a, b| b.total_cmp(a));
            group.iter().take(best).sum::<f32>()
        };
        let size = by.len() / count;
        let mut order: Vec<(usize, f32)> = by.chunks(size.max(1)).map(worth).enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        for &(group, _) in order.iter().skip(used) {
            by[group * size..(group + 1) * size].fill(f32::NEG_INFINITY);
        }
    }

    /// What the linear map gives `[experts]` becomes what the experts rank by, all finite if that was: those of groups that are left out rank
    /// with the last. Where a choice keeps the map's order, so does this, and its values too: they lie more evenly than sigmoids or shares.
    pub(super) fn rank(&self, row: &mut [f32]) {
        if self.bias.is_none() && self.groups.is_none() {
            return;
        }
        // Shares have the map's order, but not sums of them and of something else.
        if self.sigmoid || self.bias.is_some() {
            self.score(row);
        }
        self.prefer(row);
        let out = |s: &f32| *s == f32::NEG_INFINITY;
        let least = row.iter().copied().filter(|s| !out(s)).fold(f32::INFINITY, f32::min);
        row.iter_mut().filter(|s| out(s)).for_each(|s| *s = least);
    }
}

/// Scores by a linear map, softmax over all experts, the best `top_k` of them; or as a [`Choice`] says.
pub struct Router {
    scores: Linear,
    gating: Gating,
    choice: Choice,
    /// A factor per expert on its gate weight.
    factors: Option<Vec<f32>>,
}

impl Router {
    /// `scores` maps hidden to experts.
    #[must_use]
    pub fn new(scores: Linear, gating: Gating) -> Self {
        Self { scores, gating, choice: Choice::default(), factors: None }
    }

    /// The same with another way to choose.
    #[must_use]
    pub fn choosing(self, choice: Choice) -> Self {
        Self { choice, ..self }
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

    /// By what experts are chosen.
    pub(super) fn choice(&self) -> &Choice {
        &self.choice
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
        let mut routing = match self.choice.is_plain() {
            true => route(scores, experts, self.gating),
            false => route_by(scores, experts, self.gating, &self.choice),
        };
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
            let Some(best) = take_best(row, &mut taken) else { break };
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

/// The greatest of `row` that is not taken yet, which then is. A plain scan: few are taken, and a row is a few cache lines. NaN never compares as greater, so a damaged row still yields distinct
/// valid ids; the model reports it after the layer.
fn take_best(row: &[f32], taken: &mut [bool]) -> Option<usize> {
    let mut best = None;
    for (i, s) in row.iter().enumerate() {
        if !taken[i] && best.is_none_or(|b: usize| *s > row[b] || (row[b].is_nan() && !s.is_nan())) {
            best = Some(i);
        }
    }
    taken[best?] = true;
    best
}

/// Scores and choice as `choice` says; what a chosen expert counts is its score.
fn route_by(rows: &[f32], experts: usize, gating: Gating, choice: &Choice) -> Routing {
    let k = gating.top_k.min(experts);
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    let (mut scores, mut by, mut taken) = (Vec::new(), Vec::new(), vec![false; experts]);
    for row in rows.chunks_exact(experts.max(1)) {
        scores.clear();
        scores.extend_from_slice(row);
        choice.score(&mut scores);
        by.clone_from(&scores);
        choice.prefer(&mut by);
        taken.fill(false);
        let first = weights.len();
        for _ in 0..k {
            let Some(best) = take_best(&by, &mut taken) else { break };
            ids.push(best as u32);
            weights.push(scores[best]);
        }
        let chosen = &mut weights[first..];
        if gating.renormalise {
            // As DeepSeek and GLM have it; MiniMax adds nothing, LFM2 a millionth.
            let total = chosen.iter().sum::<f32>() + 1e-20;
            chosen.iter_mut().for_each(|w| *w /= total);
        }
        chosen.iter_mut().for_each(|w| *w *= gating.scale);
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
    fn a_bias_moves_the_choice_and_not_what_counts() {
        let choice = Choice { sigmoid: true, bias: Some(vec![0.0, 0.0, -0.9, 0.9]), groups: None };
        let r = route_by(&[1.0, 0.0, 3.0, -2.0], 4, Gating { renormalise: true, scale: 1.8, ..PLAIN }, &choice);
        assert_eq!(r.ids, [3, 0], "0.119 + 0.9, and 0.731; 0.953 - 0.9 is out");
        let (a, b) = (1.0 / (1.0 + 2f32.exp()), 1.0 / (1.0 + (-1f32).exp()));
        assert!((r.weights[0] - 1.8 * a / (a + b)).abs() < 1e-6 && (r.weights[1] - 1.8 * b / (a + b)).abs() < 1e-6);
        let r = route_by(&[1.0, 0.0, 3.0, -2.0], 4, PLAIN, &choice);
        assert!((r.weights[0] - a).abs() < 1e-6, "as they are, unless they are to be divided");
    }

    #[test]
    fn groups_are_chosen_by_their_two_best_sigmoids_or_their_best_share() {
        let row = [2.0, -9.0, 1.0, 1.5, 0.0, 0.9];
        let of = |sigmoid| route_by(&row, 6, PLAIN, &Choice { sigmoid, bias: None, groups: Some((3, 1)) }).ids;
        assert_eq!(of(true), [3, 2], "0.82 + 0.73 is more than 0.88 + 0.00");
        assert_eq!(of(false), [0, 1], "the group of the best");
        let bias = Some(vec![0.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
        let r = route_by(&row, 6, PLAIN, &Choice { sigmoid: true, bias, groups: Some((3, 1)) });
        assert_eq!(r.ids, [5, 4], "with the bias");
    }

    #[test]
    fn experts_rank_in_the_order_in_which_they_are_chosen() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut moved = 0;
        for (sigmoid, biased, groups) in
            [(true, true, None), (true, true, Some((4, 2))), (true, false, Some((4, 2))), (false, false, Some((4, 2)))]
        {
            for _ in 0..50 {
                let row: Vec<f32> = (0..16).map(|_| rng.f32() * 8.0 - 4.0).collect();
                let choice = Choice { sigmoid, bias: biased.then(|| (0..16).map(|_| rng.f32()).collect()), groups };
                let chosen = route_by(&row, 16, Gating { top_k: 4, ..PLAIN }, &choice).ids;
                let mut ranks = row.clone();
                choice.rank(&mut ranks);
                assert!(ranks.iter().all(|r| r.is_finite()), "{ranks:?}");
                assert_eq!(route(&ranks, 16, Gating { top_k: 4, ..PLAIN }).ids, chosen, "{choice:?}");
                moved += usize::from(route(&row, 16, Gating { top_k: 4, ..PLAIN }).ids != chosen);
            }
        }
        assert!(moved > 100, "the map's own order is another: {moved}");
        let row = [1.0, -3.0, 2.0];
        for sigmoid in [true, false] {
            let mut ranks = row;
            Choice { sigmoid, ..Choice::default() }.rank(&mut ranks);
            assert_eq!(ranks, row);
        }
    }

    #[test]
    fn damaged_scores_give_distinct_valid_ids() {
        for row in [[f32::NAN; 4], [f32::NEG_INFINITY; 4], [f32::INFINITY; 4], [f32::NAN, 1.0, f32::NAN, 0.0]] {
            let r = route(&row, 4, PLAIN);
            assert!(r.ids.iter().all(|&i| i < 4) && r.ids[0] != r.ids[1], "{row:?} -> {:?}", r.ids);
            for groups in [None, Some((2, 1))] {
                let r = route_by(&row, 4, PLAIN, &Choice { sigmoid: true, bias: Some(vec![0.1; 4]), groups });
                assert!(r.ids.iter().all(|&i| i < 4) && r.ids[0] != r.ids[1], "{row:?} -> {:?}", r.ids);
            }
        }
        assert_eq!(route(&[f32::NAN, 1.0, f32::NAN, 0.0], 4, PLAIN).ids, [1, 3]);
    }
}
