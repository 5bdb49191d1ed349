//! A token that is queued whole while the host answers it: see [`crate::gpu::talk`].
//!
//! The device finds the hits in the table that the host opens for each layer. What is in no slot the host computes, always: a copy and launches of its own would be calls of the driver in the
//! middle of a layer. It does so before the scheduler looks at the routing: what is missing is known from the table that was opened, and the device waits. What is admitted then goes up for the layer's next token. What came ahead is waited for before the layer is opened, so that whether it is a hit does
//! not depend on how quick its copy was.
//!
//! While such a token runs, nothing may be asked of the driver that waits for the device to come to rest: copies, marks and waits for copies are all there is.

use super::{MissChoice, VramTier};
use crate::events::When;
use crate::experts::run::Parts;
use crate::experts::schedule::Swap;
use crate::experts::tier::{Grouped, TierTime};
use crate::experts::{ExpertError, Routing};
use crate::gpu::talk::Talk;
use std::time::Instant;

/// By itself, misses are the host's alone where it computes at least so many times as fast as the link copies: what a token that goes layer by layer gains by using both, it loses by waiting for calls
/// of the driver.
const QUICK: f64 = 0.75;

impl VramTier {
    /// See [`super::super::tier::DeviceTier::answers`]. Memory that is being locked may keep the driver until the device rests.
    pub(super) fn can_answer(&self) -> Option<u64> {
        let by_itself = || self.miss == MissChoice::Auto && self.rates.host >= QUICK * self.rates.link;
        let wanted = match self.answers {
            When::Always => self.miss != MissChoice::Gpu,
            When::Auto => self.miss == MissChoice::Cpu || by_itself(),
            When::Never => false,
        };
        (wanted && self.held.has_ended()).then_some(self.moved)
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
    pub(super) fn answer_layer(
        &mut self,
        layer: usize,
        talk: &Talk,
        host_rows: &[f32],
        routing: &Routing,
        time: &mut TierTime,
    ) -> Result<u64, ExpertError> {
        let absent = |&id: &u32| self.tables.slot(layer, id as u16).is_none();
        let mine = Grouped::of_token(&routing.ids, absent);
        if mine.groups.is_empty() {
            return Ok(0);
        }
        let start = Instant::now();
        for group in &mine.groups {
            self.reading.expect(&self.store.layers[layer].experts[usize::from(group.expert)]);
        }
        self.host.grouped = mine;
        let sums = self.host_sums(layer, 1, host_rows, routing)?;
        talk.answer(layer, &sums);
        time.misses += start.elapsed();
        Ok(self.host.grouped.groups.len() as u64 * self.store.layers[layer].expert_bytes())
    }

    /// See [`super::super::tier::DeviceTier::admit_later`].
    pub(super) fn admit_when_nobody_waits(&mut self, layer: usize, swaps: &[Swap]) -> Result<(), ExpertError> {
        self.make_way(layer, swaps)?;
        self.put_off(layer, swaps.iter().map(|s| (s.expert, s.slot)), false);
        Ok(())
    }

    /// The sums of the groups that the host has been given, weighted, for every token: `[tokens, hidden]`.
    pub(super) fn host_sums(&mut self, layer: usize, tokens: usize, host_rows: &[f32], routing: &Routing) -> Result<Vec<f32>, ExpertError> {
        let host = &self.store.layers[layer];
        let hidden = self.store.hidden;
        let share = &mut self.host;
        share.buffers.begin(host_rows, tokens, hidden, share.grouped.token_of.len());
        let experts = share.grouped.groups.iter().map(|g| &host.experts[usize::from(g.expert)]);
        let weights: Vec<Parts<'_>> = experts.map(|e| std::array::from_fn(|i| &*e[i])).collect();
        share.buffers.run(&self.pool, host, &share.grouped.groups, &share.grouped, &weights)?;
        Ok(share.buffers.sum(&self.pool, routing, &share.grouped, tokens, hidden))
    }
}
