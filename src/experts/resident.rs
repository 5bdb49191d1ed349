//! When every expert of every layer is in a slot of a device, the host need not know a token's routing before the device goes on: whatever is routed, it is
//! a hit. Such a token is queued whole; its ticks follow when it is over, the same ones in the same order.
//!
//! A token may be queued whole also when not everything is in slots, if host and device speak with each other while it runs ([`crate::gpu::talk`]): then each layer is opened and answered in its turn.
//!
//! Device time for hits is taken by marks around the hits of each layer, and a token without waits between its layers has none. So every so many-th
//! token goes layer by layer all the same, and its time stands for those that follow.
//!
//! An expert that nobody asks for would never come up, and keep all tokens from being queued whole. So where there is a slot for every expert, the rest
//! comes up too, some per step.

use super::tier::DeviceRows;
use super::{ExpertError, Experts, Place, Routing};
use crate::events::{Outcome, Phase};
use std::time::Duration;

/// Of so many tokens, one has its hits timed.
const TIMED_EVERY: u32 = 64;
/// Bytes of experts that nobody has asked for, to be brought up beside a step: a courier copies them in 3 ms.
const BROUGHT: u64 = 24 << 20;

/// What is kept from token to token.
#[derive(Debug)]
pub(super) struct Resident {
    /// Tokens queued whole since hits were last timed, with everything in slots, and of those that are answered; `None`: they were not.
    since: [Option<u32>; 2],
    every: u32,
    /// Device time for the hits of that token.
    hits: Duration,
    /// The layer that gets the next expert that nobody has asked for.
    next: usize,
    /// A copy has failed: nothing is brought that nobody needs.
    failed: bool,
    /// The step at hand reads several tokens.
    several: bool,
}

impl Default for Resident {
    fn default() -> Self {
        Self { since: [None; 2], every: TIMED_EVERY, hits: Duration::ZERO, next: 0, failed: false, several: false }
    }
}

impl Resident {
    /// A prompt's hits say nothing of a token's, nor do those of several tokens at once; but of the latter there may be one after each single token.
    pub(super) fn begin_step(&mut self, phase: Phase, tokens: usize) {
        self.several = tokens != 1;
        if self.several && phase == Phase::Prefill {
            self.since = [None; 2];
        }
    }

    /// So many copies have failed.
    pub(super) fn told_of(&mut self, refused: usize) {
        self.failed |= refused > 0;
    }

    /// Other slots, another try.
    pub(super) fn resized(&mut self) {
        self.failed = false;
    }

    /// What a step shows: the time that was taken, or the last one before.
    pub(super) fn hits(&mut self, timed: Option<Duration>) -> Duration {
        if self.several {
            return timed.unwrap_or_default();
        }
        self.hits = timed.unwrap_or(self.hits);
        self.hits
    }

    /// Whether the token at hand is to be queued whole, where it may be, in this of the two ways.
    fn whole(&mut self, way: usize, may: bool) -> bool {
        let since = self.since[way].filter(|_| may).map(|n| n.saturating_add(1)).filter(|&n| n < self.every);
        self.since[way] = may.then_some(since.unwrap_or(0));
        since.is_some()
    }
}

impl Experts {
    /// Whether the token that comes next is to be queued whole: [`Experts::device_table`] and [`Experts::device_queue`] for layer after layer,
    /// [`Experts::device_queued`], and [`Experts::device_tick`] for each when its routing has come down. So it is if every expert of every layer is in a
    /// slot, but for tokens whose hits are timed. The number is that of [`super::tier::DeviceTier::settled`]. To be asked once for each token.
    pub fn whole_token(&mut self) -> Option<u64> {
        self.settle();
        let (scheduler, Place::Device(tier)) = (&self.scheduler, &self.tier) else { return None };
        let full = (0..scheduler.layers()).all(|l| scheduler.occupied(l) == scheduler.experts());
        let number = tier.settled().filter(|_| full);
        let whole = self.resident.whole(0, number.is_some());
        number.filter(|_| whole)
    }

    /// Whether the token that comes next is to be queued whole, and answered while it runs: [`Experts::device_place`] and [`Experts::device_queue`] for layer after layer, then
    /// [`Experts::device_open`], [`Experts::device_answer`] and [`Experts::device_after`] for each, and [`Experts::device_queued`]. To be asked once for each token for which [`Experts::whole_token`] is `None`.
    pub fn answered_token(&mut self) -> Option<u64> {
        let Place::Device(tier) = &self.tier else { return None };
        let number = tier.answers();
        let whole = self.resident.whole(1, number.is_some());
        number.filter(|_| whole)
    }

    /// Queue the products of a layer's experts for such a token. See [`super::tier::DeviceTier::queue`].
    ///
    /// # Errors
    /// From the device, or there is none.
    pub fn device_queue(&self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError> {
        match &self.tier {
            Place::Device(tier) => tier.queue(layer, rows),
            Place::Host(_) => Err(ExpertError::Elsewhere { layer }),
        }
    }

    /// Such a token has been queued, or a part of it, before something failed.
    ///
    /// # Errors
    /// From the device. All slots are then forgotten.
    pub fn device_queued(&mut self) -> Result<(), ExpertError> {
        let done = self.device(0).and_then(|tier| tier.queued());
        self.or_forget(done)
    }

    /// One layer's tick of such a token, whose routing has come down. Layers come in their order.
    ///
    /// # Errors
    /// A routing that names what does not exist. All slots are then forgotten.
    pub fn device_tick(&mut self, layer: usize, routing: &Routing) -> Result<(), ExpertError> {
        let done = self.plan(layer, routing);
        debug_assert!(done.is_err() || self.scheduler.plan().placed.iter().all(|p| p.outcome == Outcome::Hit), "everything was in slots");
        self.or_forget(done)
    }

    /// At a step boundary, on a device with a slot for every expert: let some of those come up that nobody has asked for.
    pub fn fill_up(&mut self) {
        let (Place::Device(tier), false) = (&mut self.tier, self.resident.failed) else { return };
        let layers = self.expert_bytes.len();
        if self.slots < self.scheduler.experts() {
            return;
        }
        let (mut left, mut full) = (BROUGHT, 0);
        while full < layers && left > 0 {
            let layer = self.resident.next % layers;
            self.resident.next = layer + 1;
            match self.scheduler.fill_up(layer) {
                Some(swap) => {
                    tier.fill_later(layer, &[swap]);
                    left = left.saturating_sub(self.expert_bytes[layer]);
                    full = 0;
                }
                None => full += 1,
            }
        }
    }

    /// When every expert is in a slot of a device: of so many tokens, one is not queued whole but layer by layer, so that its hits are timed. With 1, every
    /// token is.
    pub fn time_hits_every(&mut self, tokens: u32) {
        self.resident.every = tokens.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_of_so_many_goes_layer_by_layer_and_the_first_does_after_anything_else() {
        let mut r = Resident { every: 3, ..Resident::default() };
        let tokens = |r: &mut Resident, settled: [bool; 6]| settled.map(|s| r.whole(0, s));
        assert_eq!(tokens(&mut r, [true; 6]), [false, true, true, false, true, true]);
        r.begin_step(Phase::Decode, 1);
        // Several tokens of an answer at once, which never go whole.
        r.begin_step(Phase::Decode, 3);
        assert_eq!(tokens(&mut r, [true, true, true, false, true, true]), [false, true, true, false, false, true]);
        r.begin_step(Phase::Prefill, 9);
        assert_eq!(tokens(&mut r, [true; 6]), [false, true, true, false, true, true], "a prompt came between");
        r.every = 1;
        assert_eq!(tokens(&mut r, [true; 6]), [false; 6]);
    }

    #[test]
    fn a_token_without_marks_shows_the_time_of_the_last_one_that_had_them() {
        let mut r = Resident::default();
        let us = Duration::from_micros;
        let shown = [Some(us(7)), None, None, Some(us(9)), None].map(|timed| r.hits(timed));
        assert_eq!(shown, [us(7), us(7), us(7), us(9), us(9)]);
        r.begin_step(Phase::Decode, 3);
        assert_eq!([Some(us(30)), None].map(|timed| r.hits(timed)), [us(30), us(0)], "what several tokens took is theirs alone");
        r.begin_step(Phase::Decode, 1);
        assert_eq!(r.hits(None), us(9));
    }
}
