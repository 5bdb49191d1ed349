//! A token that is queued whole while the host answers it: see [`crate::gpu::talk`].
//!
//! The device finds the hits in the table that the host opens for each layer. What is in no slot the host computes, always: a copy and launches of its own would be calls of the driver in the
//! middle of a layer. What was admitted goes up beside that, for the layer's next token. What came ahead is waited for before the layer is opened, so that whether it is a hit does
//! not depend on how quick its copy was.
//!
//! While such a token runs, nothing may be asked of the driver that waits for the device to come to rest: copies, marks and waits for copies are all there is.

use super::VramTier;
use crate::experts::run::Parts;
use crate::experts::schedule::LayerPlan;
use crate::experts::tier::{Grouped, TierTime};
use crate::experts::{ExpertError, Routing};
use crate::gpu::talk::Talk;
use std::time::Instant;

impl VramTier {
    /// See [`super::super::tier::DeviceTier::answers`]. Memory that is being locked may keep the driver until the device rests.
    pub(super) fn can_answer(&self) -> Option<u64> {
        (self.answers && self.held.has_ended()).then_some(self.moved)
    }

    /// See [`super::super::tier::DeviceTier::open`].
    pub(super) fn open_layer(&mut self, layer: usize, talk: &Talk) -> Result<(), ExpertError> {
        self.catch_up()?;
        if self.later.iter().any(|due| due.layer == layer && due.ready.is_none()) {
            self.settle_layer(layer)?;
        }
        self.later.iter_mut().filter(|due| due.layer == layer).for_each(|due| due.ahead = false);
        self.enter_arrived();
        talk.open(layer, self.tables.hand_over(&*self.device, layer)?);
        Ok(())
    }

    /// See [`super::super::tier::DeviceTier::answer`].
    #[allow(clippy::too_many_arguments)]
    pub(super) fn answer_layer(
        &mut self,
        layer: usize,
        talk: &Talk,
        host_rows: &[f32],
        routing: &Routing,
        grouped: &Grouped,
        plan: &LayerPlan,
        time: &mut TierTime,
    ) -> Result<u64, ExpertError> {
        let mine: Vec<usize> = (0..grouped.groups.len()).filter(|&g| self.tables.slot(layer, grouped.groups[g].expert).is_none()).collect();
        if !mine.is_empty() {
            let start = Instant::now();
            mine.iter().for_each(|&g| self.reading.expect(&self.store.layers[layer].experts[usize::from(grouped.groups[g].expert)]));
            let sums = self.host_sums(layer, 1, host_rows, routing, grouped, &mine)?;
            talk.answer(layer, &sums);
            time.misses += start.elapsed();
        }
        self.make_way(layer, &plan.swaps)?;
        self.put_off(layer, plan.swaps.iter().map(|s| (s.expert, s.slot)), false);
        Ok(mine.len() as u64 * self.store.layers[layer].expert_bytes())
    }

    /// The sums of these groups, weighted, for every token: `[tokens, hidden]`.
    pub(super) fn host_sums(
        &mut self,
        layer: usize,
        tokens: usize,
        host_rows: &[f32],
        routing: &Routing,
        grouped: &Grouped,
        mine: &[usize],
    ) -> Result<Vec<f32>, ExpertError> {
        let host = &self.store.layers[layer];
        let hidden = self.store.hidden;
        let share = &mut self.host;
        share.grouped.pick(grouped, mine);
        share.buffers.begin(host_rows, tokens, hidden, share.grouped.token_of.len());
        let experts = mine.iter().map(|&g| &host.experts[usize::from(grouped.groups[g].expert)]);
        let weights: Vec<Parts<'_>> = experts.map(|e| std::array::from_fn(|i| &*e[i])).collect();
        share.buffers.run(&self.pool, host, &share.grouped.groups, &share.grouped, &weights)?;
        Ok(share.buffers.sum(&self.pool, routing, &share.grouped, tokens, hidden))
    }
}
