//! A dense feed-forward and routed experts side by side, each with norms of its own; what they give is added (Gemma 4).

use super::early::Early;
use super::feed_forward::{add_biases, choose, Dense};
use super::linear::Compute;
use super::norm::RmsNorm;
use super::router::Router;
use super::ModelError;
use crate::experts::Experts;
use candle_core::Tensor;

/// `norm(dense(x)) + norm(experts(norm(hidden)))`, with a router that reads the hidden state through a norm of its own.
pub struct DenseAndRouted {
    /// Every token uses all of it.
    pub dense: Dense,
    /// Norm of what it gives.
    pub dense_norm: RmsNorm,
    /// Before the router.
    pub router_norm: RmsNorm,
    /// Picks.
    pub router: Router,
    /// Index among layers with experts.
    pub index: usize,
    /// `[experts, hidden]`: added to what each of them gives.
    pub bias: Option<Vec<f32>>,
    /// Before the experts.
    pub experts_norm: RmsNorm,
    /// Norm of what they give.
    pub routed_norm: RmsNorm,
    /// The routers of the next layers with experts, as `model::early` makes them.
    pub early: Option<Early>,
}

impl DenseAndRouted {
    /// The hidden state `[tokens, hidden]`, and what the layer's norm before the feed-forward makes of it, in; their sum out.
    ///
    /// # Errors
    /// From the dot products or the experts.
    pub fn forward(&self, compute: &mut Compute, experts: &mut Experts, hidden: &Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
        let read = self.router_norm.forward(compute, hidden)?;
        let routing = choose(compute, experts, &self.router, self.early.as_ref(), self.index, &read)?;
        let mut routed = experts.forward(self.index, &self.experts_norm.forward(compute, hidden)?, &routing)?;
        if let Some(bias) = &self.bias {
            routed = add_biases(compute, &routed, &routing, bias)?;
        }
        let routed = self.routed_norm.forward(compute, &routed)?;
        let dense = self.dense.forward(compute, x)?;
        Ok((self.dense_norm.forward(compute, &dense)? + routed)?)
    }
}
