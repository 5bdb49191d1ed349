//! Ticks of a layer that stands outside of the order of the others ([`crate::experts::Experts::set_last_apart`]).

use super::{LayerPlan, Routed, Scheduler};
use crate::events::Phase;

/// A tick for more rows than that is of a prompt, whatever the step is.
const FEW: u32 = 16;

impl Scheduler {
    /// [`Scheduler::tick`] of such a layer, for so many rows. It may come several times in a step. Nothing is remembered of its routing by which tokens are recognised: for
    /// that, layers would have to come in their order.
    pub fn tick_apart(&mut self, layer: usize, routed: &[Routed], rows: u32) -> &LayerPlan {
        let step = (self.phase, self.tokens);
        self.turn(self.phase_apart(rows), rows.max(1));
        self.tick_of(layer, routed, false);
        self.turn(step.0, step.1);
        &self.plan
    }

    /// Whether such a tick counts as one of a prompt.
    #[must_use]
    pub fn phase_apart(&self, rows: u32) -> Phase {
        if rows > FEW {
            Phase::Prefill
        } else {
            self.phase
        }
    }

    fn turn(&mut self, phase: Phase, tokens: u32) {
        (self.phase, self.tokens) = (phase, tokens);
        self.measures.set_phase(phase);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Outcome;
    use crate::experts::policy::Policy;

    #[test]
    fn a_layer_apart_has_slots_like_the_others_and_disturbs_none_of_them() {
        let scheduler = |layers| Scheduler::new(layers, 64, 6, Policy::Rotary, Policy::Rotary.admission());
        let (mut with, mut without) = (scheduler(4), scheduler(3));
        let routed = |id: u32| [id, id + 1].map(|e| Routed { expert: (e % 64) as u16, tokens: 1, weight: 0.5 });
        let mut hits = 0;
        for token in 0..200u32 {
            let id = token * token % 23;
            with.begin_step(Phase::Decode, 1);
            without.begin_step(Phase::Decode, 1);
            for guess in 0..token % 3 {
                let placed = &with.tick_apart(3, &routed(id + guess), 1).placed;
                hits += placed.iter().filter(|p| p.outcome == Outcome::Hit).count();
            }
            for layer in 0..3 {
                let placed = with.tick(layer, &routed(id)).placed.clone();
                assert_eq!(placed, without.tick(layer, &routed(id)).placed, "token {token}");
                let brought = with.bring(layer).to_vec();
                assert_eq!(brought, without.bring(layer), "token {token}");
            }
        }
        assert!(hits > 100, "{hits} hits");
        assert_eq!(with.tick_apart(3, &routed(3), 512).layer, 3);
        assert_eq!(with.phase_apart(512), Phase::Prefill);
        assert_eq!((with.phase, with.tokens), (Phase::Decode, 1), "the step goes on as it was");
    }
}
