//! The feed-forward half of a layer: a dense one with a gate (Shazeer, arXiv 2002.05202), routed experts, or both.

use super::dense_and_routed::DenseAndRouted;
use super::early::{self, Early};
use super::linear::{Compute, Linear};
use super::router::Router;
use super::weights::Weights;
use super::ModelError;
use crate::experts::{Experts, Routing};
use crate::kernels::rows::{for_rows, from_rows, with_rows, Activation};
use candle_core::Tensor;

/// `down(f(gate(x), up(x)))`; most families have `silu(gate) * up`.
pub struct Dense {
    /// hidden -> ff
    pub gate: Linear,
    /// hidden -> ff
    pub up: Linear,
    /// ff -> hidden
    pub down: Linear,
    /// What gate and up become together.
    pub activation: Activation,
}

impl Dense {
    /// The dense feed-forward of block `block`.
    pub(crate) fn load(weights: &Weights<'_>, block: usize, hidden: usize, ff: usize, activation: Activation) -> Result<Self, ModelError> {
        let name = |part: &str| format!("blk.{block}.ffn_{part}");
        Ok(Self {
            gate: weights.linear(&name("gate"), hidden, ff)?,
            up: weights.linear(&name("up"), hidden, ff)?,
            down: weights.linear(&name("down"), ff, hidden)?,
            activation,
        })
    }

    /// The shared expert of block `block`.
    fn load_shared(weights: &Weights<'_>, block: usize, hidden: usize, ff: usize) -> Result<Self, ModelError> {
        let name = |part: &str| format!("blk.{block}.ffn_{part}_shexp");
        Ok(Self {
            gate: weights.linear(&name("gate"), hidden, ff)?,
            up: weights.linear(&name("up"), hidden, ff)?,
            down: weights.linear(&name("down"), ff, hidden)?,
            activation: Activation::SwiGlu,
        })
    }

    /// `[tokens, hidden]` in, the same out.
    ///
    /// # Errors
    /// From the dot products.
    pub fn forward(&self, compute: &mut Compute, x: &Tensor) -> Result<Tensor, ModelError> {
        let [gate, up] = Linear::many(compute, [&self.gate, &self.up], x)?;
        let (tokens, ff) = gate.dims2()?;
        let h = with_rows(&gate, |gate| {
            with_rows(&up, |up| {
                let mut h = gate.to_vec();
                for_rows(&compute.pool, &mut h, ff, &|i, row| self.activation.apply(row, &up[i * ff..(i + 1) * ff]));
                h
            })
        })??;
        self.down.forward(compute, &from_rows(h, tokens, ff)?)
    }
}

/// An expert that every token uses, in some families weighed by a sigmoid of its own.
pub struct SharedExpert {
    /// hidden -> 1
    weight: Option<Linear>,
    expert: Dense,
}

impl SharedExpert {
    /// The shared expert of block `block`.
    pub(crate) fn load(weights: &Weights<'_>, block: usize, hidden: usize, ff: usize) -> Result<Self, ModelError> {
        let weight = weights.linear(&format!("blk.{block}.ffn_gate_inp_shexp"), hidden, 1)?;
        Ok(Self { weight: Some(weight), expert: Dense::load_shared(weights, block, hidden, ff)? })
    }

    /// That of a family without weights of shared experts.
    pub(crate) fn unweighed(weights: &Weights<'_>, block: usize, hidden: usize, ff: usize) -> Result<Self, ModelError> {
        Ok(Self { weight: None, expert: Dense::load_shared(weights, block, hidden, ff)? })
    }

    /// The map to its weight, and the expert.
    pub(super) fn parts(&self) -> (Option<&Linear>, &Dense) {
        (self.weight.as_ref(), &self.expert)
    }

    /// `[tokens, hidden]` in, the same out.
    fn forward(&self, compute: &mut Compute, x: &Tensor) -> Result<Tensor, ModelError> {
        let y = self.expert.forward(compute, x)?;
        let Some(weight) = &self.weight else { return Ok(y) };
        let weight = weight.forward(compute, x)?;
        Ok(y.broadcast_mul(&candle_nn::ops::sigmoid(&weight)?)?)
    }
}

/// What follows attention in a layer.
pub enum FeedForward {
    /// Every token uses all of it.
    Dense(Dense),
    /// A router picks experts; `index` counts the layers that have experts.
    Moe {
        /// Picks.
        router: Router,
        /// Index among layers with experts.
        index: usize,
        /// `[experts, hidden]`: added to what each of them gives.
        bias: Option<Vec<f32>>,
        /// Added to what the routed experts give.
        shared: Option<Box<SharedExpert>>,
        /// The routers of the next layers with experts, as `model::early` makes them; `None`: they are not asked before their turn.
        early: Option<Early>,
    },
    /// Both side by side.
    DenseAndRouted(Box<DenseAndRouted>),
}

/// The experts for the rows of `x` `[tokens, hidden]`; those of later layers are foreseen where the experts ask for it.
pub(super) fn choose(
    compute: &mut Compute,
    experts: &mut Experts,
    router: &Router,
    early: Option<&Early>,
    index: usize,
    x: &Tensor,
) -> Result<Routing, ModelError> {
    if !experts.asks_routers() || experts.stands_apart(index) {
        return router.forward(compute, x);
    }
    let (map, later) = early.map(Early::parts).unzip();
    let (routing, mut own, mut early) = router.forward_with(compute, map, x)?;
    router.choice().rank(&mut own);
    early::rank(later.unwrap_or_default(), &mut early);
    experts.foresee(index, &own, &early, &routing.ids);
    Ok(routing)
}

impl FeedForward {
    /// The hidden state `[tokens, hidden]` and the same normalised in, what is to be added to it out.
    ///
    /// # Errors
    /// From the dot products or the experts.
    pub fn forward(&self, compute: &mut Compute, experts: &mut Experts, hidden: &Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
        match self {
            Self::Dense(dense) => dense.forward(compute, x),
            Self::DenseAndRouted(both) => both.forward(compute, experts, hidden, x),
            Self::Moe { router, index, bias, shared, early } => {
                let routing = choose(compute, experts, router, early.as_ref(), *index, x)?;
                let mut routed = experts.forward(*index, x, &routing)?;
                if let Some(bias) = bias {
                    routed = add_biases(compute, &routed, &routing, bias)?;
                }
                match shared {
                    Some(shared) => Ok((routed + shared.forward(compute, x)?)?),
                    None => Ok(routed),
                }
            }
        }
    }
}

/// The biases of the chosen experts, by their weights, added to `x` `[tokens, hidden]`.
pub(super) fn add_biases(compute: &Compute, x: &Tensor, routing: &Routing, bias: &[f32]) -> Result<Tensor, ModelError> {
    let (tokens, hidden) = x.dims2()?;
    let mut rows = with_rows(x, <[f32]>::to_vec)?;
    for_rows(&compute.pool, &mut rows, hidden, &|t, row| {
        for j in t * routing.top_k..(t + 1) * routing.top_k {
            let (of_expert, weight) = (&bias[routing.ids[j] as usize * hidden..][..hidden], routing.weights[j]);
            row.iter_mut().zip(of_expert).for_each(|(y, b)| *y += weight * b);
        }
    });
    Ok(from_rows(rows, tokens, hidden)?)
}
