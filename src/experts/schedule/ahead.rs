//! Experts that come before they are asked for.
//!
//! A token's routing in the layers so far tells much of its routing in the layers to come ([`super::super::recall`]), and the routers of those layers, asked before
//! their turn, tell more ([`super::super::foresight`]). What is likely and absent is *brought ahead*: it gets a slot one or two layers before its
//! tick, so that the copy runs while those layers are computed, and the tick finds a hit where a miss would have been. A wrong guess costs a copy and, for a while, the slot of the resident that was least likely
//! to be asked for.
//!
//! Whether an expert is a hit is judged as ever, against the occupancy before the tick. No swap happens within a tick that the tick's plan
//! does not name.

use super::{Scheduler, Swap, EMPTY};
use crate::events::{Phase, NO_SLOT};
use crate::experts::policy::{Policy, Worth};
use std::ops::Range;

/// How many layers a tick looks ahead. Each layer is looked at so often: first with more time for the copy, last with more knowledge.
pub const LEAD: usize = 2;
/// How likely an expert must be to be brought. Some six in ten of those that are get used, eight where routers were asked (`docs/scheduling.md`).
const LIKELY: f32 = 0.4;

/// The longest that an expert may take the link, seconds. At most two come per layer; on real text one in the mean where slots are few.
const SENT: f64 = 125e-6;

/// Whether experts of this size, lying in page-locked memory, are brought ahead over a link of so many bytes per second unless told otherwise. Slower ones come too late, and take the link
/// from those that are asked for (`docs/scheduling.md` has estimates).
#[must_use]
pub fn comes_in_time(expert_bytes: u64, link: f64) -> bool {
    expert_bytes as f64 <= SENT * link
}

/// What was told of a layer whose tick is still to come.
#[derive(Clone, Debug)]
pub(super) struct Foreseen {
    layer: Option<usize>,
    /// Expert and likelihood in 255ths.
    likely: Vec<(u16, u8)>,
}

impl Foreseen {
    pub(super) fn with_room(experts: usize) -> Self {
        Self { layer: None, likely: Vec::with_capacity(experts) }
    }

    pub(super) fn forget(&mut self) {
        self.layer = None;
    }
}

impl Scheduler {
    /// The layers to look ahead at after the tick of `layer` in a step of one token; `None`: after the step has begun.
    #[must_use]
    pub fn foreseen(&self, after: Option<usize>) -> Range<usize> {
        let layers = self.layers();
        let next = after.map_or(0, |layer| layer + 1);
        next.min(layers)..(next + LEAD).min(layers)
    }

    /// How likely the token at hand is to ask for experts of `layer`, whose tick is still to come, in 255ths; of experts that are left out, hardly. From somebody who knows
    /// more than the routing so far: until something newer is told, [`Scheduler::bring`] goes by it.
    pub fn foresee(&mut self, layer: usize, likely: impl Iterator<Item = (u16, u8)>) {
        let experts = self.experts;
        let foreseen = &mut self.foreseen[layer % LEAD];
        foreseen.layer = Some(layer);
        foreseen.likely.clear();
        foreseen.likely.extend(likely.filter(|(expert, _)| usize::from(*expert) < experts));
    }

    /// Fill `soon` with what is known of a layer whose tick is still to come.
    fn look_ahead(&mut self, layer: usize) {
        self.soon.clear();
        let foreseen = &self.foreseen[layer % LEAD];
        if foreseen.layer == Some(layer) {
            self.soon.resize(self.experts, 0.0);
            foreseen.likely.iter().for_each(|&(expert, p)| self.soon[usize::from(expert)] = f32::from(p) / 255.0);
        } else {
            self.measures.look_ahead(layer);
            self.soon.extend_from_slice(self.measures.soon());
        }
    }

    /// Fill `likely` with the experts without a slot that the token at hand will probably ask of `layer`, whose tick is still to come: the most likely
    /// first, at most [`super::super::policy::Admission::ahead`].
    fn find_likely(&mut self, layer: usize) {
        self.likely.clear();
        let wanted = self.policy == Policy::Rotary && self.admission.ahead > 0 && self.phase == Phase::Decode;
        if wanted && layer < self.layers() && self.occupied[layer] < self.experts {
            self.look_ahead(layer);
            let soon = &self.soon;
            let absent = &self.slot_of[layer * self.experts..][..self.experts];
            for (expert, (&p, &slot)) in soon.iter().zip(absent).enumerate() {
                if p >= LIKELY && slot == NO_SLOT {
                    self.likely.push(expert as u16);
                }
            }
            self.likely.sort_unstable_by(|&a, &b| soon[usize::from(b)].total_cmp(&soon[usize::from(a)]).then(a.cmp(&b)));
            self.likely.truncate(self.admission.ahead);
        }
    }

    /// Give slots to experts that the token at hand will probably ask of `layer`: empty ones, then those of residents whose worth and likelihood in this very token
    /// are together below the newcomer's likelihood. The swaps are entered in the tables when this returns.
    pub fn bring(&mut self, layer: usize) -> &[Swap] {
        self.find_likely(layer);
        self.ahead.clear();
        for i in 0..self.likely.len() {
            let expert = self.likely[i];
            let Some(slot) = self.slot_for(layer, expert) else { break };
            let base = layer * self.experts;
            let former = std::mem::replace(&mut self.expert_in[layer][slot], expert);
            let evicted = Some(former).filter(|&e| e != EMPTY);
            match evicted {
                Some(gone) => self.slot_of[base + usize::from(gone)] = NO_SLOT,
                None => self.occupied[layer] += 1,
            }
            self.slot_of[base + usize::from(expert)] = slot as u16;
            self.ahead.push(Swap { expert, slot: slot as u16, evicted });
        }
        &self.ahead
    }

    /// An empty slot, or that of the resident with the smallest claim if the newcomer's is greater.
    fn slot_for(&self, layer: usize, expert: u16) -> Option<usize> {
        let residents = &self.expert_in[layer];
        if self.occupied[layer] < residents.len() {
            return residents.iter().position(|&e| e == EMPTY);
        }
        let soon = |e: u16| f64::from(self.soon[usize::from(e)]);
        let claim = |(slot, &e): (usize, &u16)| {
            let worth = self.measures.worth(self.policy, layer, e);
            (Worth { uses: worth.uses + soon(e), ..worth }, slot)
        };
        let (least, slot) = residents.iter().enumerate().map(claim).min()?;
        (soon(expert) > least.uses).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Routed, Scheduler};
    use super::*;
    use crate::events::Outcome;
    use crate::experts::policy::Admission;

    const LAYERS: usize = 5;

    fn routed(id: u16) -> [Routed; 2] {
        [id, id + 1].map(|expert| Routed { expert, tokens: 1, weight: 0.5 })
    }

    /// One token whose layers all ask for `id` and the next; the outcomes by layer, and what was brought.
    fn say(s: &mut Scheduler, id: u16) -> (Vec<Vec<Outcome>>, Vec<(usize, u16)>) {
        let mut brought = Vec::new();
        let mut outcomes = Vec::new();
        s.begin_step(Phase::Decode, 1);
        let mut after = None;
        for layer in 0..LAYERS {
            for l in s.foreseen(after) {
                brought.extend(s.bring(l).iter().map(|swap| (l, swap.expert)));
            }
            outcomes.push(s.tick(layer, &routed(id)).placed.iter().map(|p| p.outcome).collect());
            after = Some(layer);
        }
        (outcomes, brought)
    }

    #[test]
    fn what_a_token_asked_before_is_there_when_it_is_read_again() {
        let mut s = Scheduler::new(LAYERS, 64, 6, Policy::Rotary, Policy::Rotary.admission());
        for id in [0, 10, 20, 30, 40, 50] {
            say(&mut s, id);
        }
        assert!((0..LAYERS).all(|l| s.slot_of(l, 0).is_none()), "left long ago");
        let (outcomes, brought) = say(&mut s, 0);
        assert!(outcomes[0].iter().all(|o| *o != Outcome::Hit), "nothing told of the first layer");
        for (layer, outcomes) in outcomes.iter().enumerate().skip(LEAD) {
            assert_eq!(*outcomes, [Outcome::Hit; 2], "layer {layer}");
            assert!(brought.contains(&(layer, 0)) && brought.contains(&(layer, 1)));
        }
    }

    #[test]
    fn who_is_foreseen_comes_without_anything_to_remember_and_is_forgotten_with_the_token() {
        let mut s = Scheduler::new(LAYERS, 64, 6, Policy::Rotary, Policy::Rotary.admission());
        s.begin_step(Phase::Decode, 1);
        s.tick(0, &routed(0));
        // One of them does not exist, one is not likely enough, and only the likeliest comes.
        s.foresee(1, [(3, 110), (7, 250), (9, 200), (64, 255)].into_iter());
        s.foresee(2, [(5, 90)].into_iter());
        assert_eq!(s.bring(1).iter().map(|swap| swap.expert).collect::<Vec<_>>(), [7]);
        assert!(s.bring(2).is_empty());
        // What is told later counts, and who is here already need not come.
        s.tick(1, &routed(7));
        s.foresee(2, [(5, 250)].into_iter());
        assert_eq!(s.bring(2).iter().map(|swap| swap.expert).collect::<Vec<_>>(), [5]);
        assert!(s.bring(2).is_empty());
        s.begin_step(Phase::Decode, 1);
        for layer in 0..LAYERS {
            assert!(s.bring(layer).is_empty(), "layer {layer}: nothing is known of this token");
        }
    }

    #[test]
    fn residents_that_are_foreseen_keep_their_slots() {
        let mut s = Scheduler::new(LAYERS, 64, 2, Policy::Rotary, Policy::Rotary.admission());
        s.begin_step(Phase::Decode, 1);
        s.tick(1, &routed(20));
        s.begin_step(Phase::Decode, 1);
        s.tick(0, &routed(0));
        s.foresee(1, [(20, 255), (30, 240)].into_iter());
        let came = s.bring(1).to_vec();
        assert_eq!((came.len(), came[0].expert, came[0].evicted), (1, 30, Some(21)));
    }

    #[test]
    fn it_can_be_switched_off_and_other_policies_and_chunks_bring_nothing() {
        for (policy, ahead, phase) in
            [(Policy::Rotary, 0, Phase::Decode), (Policy::Decay, 1, Phase::Decode), (Policy::Rotary, 1, Phase::Prefill)]
        {
            let mut s = Scheduler::new(LAYERS, 64, 6, policy, Admission { ahead, ..policy.admission() });
            for id in [0, 10, 20, 30, 40, 50, 0, 10] {
                s.begin_step(phase, 1);
                for layer in 0..LAYERS {
                    assert!(s.bring(layer).is_empty(), "{policy}, {ahead}, {phase:?}");
                    s.tick(layer, &routed(id));
                }
            }
        }
    }

    #[test]
    fn experts_of_the_large_models_do_not_come_in_time_nor_do_others_over_a_slow_link() {
        assert!(comes_in_time(1_900_000, 25e9) && comes_in_time(3_060_000, 25e9));
        assert!(!comes_in_time(13_200_000, 55e9) && !comes_in_time(1_900_000, 12.6e9));
    }

    #[test]
    fn every_layer_is_looked_at_before_its_tick_and_none_after() {
        for layers in 0..6 {
            let s = Scheduler::new(layers, 8, 2, Policy::Rotary, Admission::default());
            let mut looks = vec![0; layers];
            for after in std::iter::once(None).chain((0..layers).map(Some)) {
                for layer in s.foreseen(after) {
                    assert!(after.is_none_or(|done| layer > done));
                    looks[layer] += 1;
                }
            }
            assert!(looks.iter().enumerate().all(|(layer, &n)| n == LEAD.min(layer + 1)), "{looks:?}");
        }
    }
}
