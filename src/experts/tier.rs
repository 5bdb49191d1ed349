//! What a tier offers: room in slots, copies into them, and the product of routed rows with experts wherever those are. [`Tier`] is for
//! rows in host memory (the CPU tier, in [`super::slots`]), [`DeviceTier`] for rows on a device.

use super::schedule::{LayerPlan, Move, Swap};
use super::vram::{Held, Rates};
use super::{ExpertError, Routing};
use crate::gpu::talk::Talk;
use crate::gpu::Address;
use candle_core::Tensor;
use std::ops::Range;
use std::time::Duration;

/// Where the weights of a routed expert are read in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a slot of the tier.
    Slot(u16),
    /// In the slot to which [`Tier::upload`] copied it in this tick. A device whose copies run in the background may as well
    /// compute it from the host store.
    Arriving(u16),
    /// In the host store.
    Host,
}

/// All tokens of a step that chose one expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Expert id.
    pub expert: u16,
    /// Where to read it.
    pub source: Source,
    /// Its (token, expert) pairs in [`Grouped::token_of`].
    pub pairs: Range<usize>,
}

/// A step's routing turned around, from "experts of each token" to "tokens of each expert", so that each expert is read once.
#[derive(Debug, Default)]
pub struct Grouped {
    /// One per routed expert: first the ones in slots, then the arriving ones, then the ones in host memory.
    pub groups: Vec<Group>,
    /// `[pairs]`: the token of each pair, group after group, rising within a group.
    pub token_of: Vec<u32>,
    /// `[tokens * top_k]`: where the pair of a token's j-th choice is. Sums follow this order, so a result does not depend on
    /// where experts are or in which order they ran.
    pub pair_of: Vec<u32>,
}

/// No pair: a token's choice that is not in [`Grouped::groups`].
pub const ABSENT: u32 = u32::MAX;

impl Grouped {
    /// Become the part of `all` that has these groups; choices outside of them are [`ABSENT`].
    pub fn pick(&mut self, all: &Grouped, groups: &[usize]) {
        self.groups.clear();
        self.token_of.clear();
        let mut place = vec![ABSENT; all.token_of.len()];
        for group in groups.iter().map(|&g| &all.groups[g]) {
            let begin = self.token_of.len();
            for pair in group.pairs.clone() {
                place[pair] = self.token_of.len() as u32;
                self.token_of.push(all.token_of[pair]);
            }
            self.groups.push(Group { pairs: begin..self.token_of.len(), ..group.clone() });
        }
        self.pair_of.clear();
        self.pair_of.extend(all.pair_of.iter().map(|&pair| place[pair as usize]));
    }

    /// Of one token's choices, those that `of` says.
    pub fn of_token(ids: &[u32], of: impl Fn(&u32) -> bool) -> Self {
        let mut grouped = Self::default();
        for id in ids {
            if !of(id) {
                grouped.pair_of.push(ABSENT);
                continue;
            }
            let pair = grouped.token_of.len();
            grouped.pair_of.push(pair as u32);
            grouped.token_of.push(0);
            grouped.groups.push(Group { expert: *id as u16, source: Source::Host, pairs: pair..pair + 1 });
        }
        grouped
    }

    /// Rearrange `routing` for the experts listed in `order`. Every routed id must be listed once.
    pub fn fill(&mut self, routing: &Routing, experts: usize, order: impl Iterator<Item = (u16, Source)>) {
        self.groups.clear();
        let mut next = vec![ABSENT; experts];
        let mut count = vec![0usize; experts];
        for &id in &routing.ids {
            count[id as usize] += 1;
        }
        let mut at = 0;
        for (expert, source) in order {
            let n = count[usize::from(expert)];
            next[usize::from(expert)] = at as u32;
            self.groups.push(Group { expert, source, pairs: at..at + n });
            at += n;
        }
        self.token_of.clear();
        self.token_of.resize(at, 0);
        self.pair_of.clear();
        let k = routing.top_k.max(1);
        for (i, &id) in routing.ids.iter().enumerate() {
            let pair = next[id as usize];
            debug_assert_ne!(pair, ABSENT, "every routed expert is in the plan");
            next[id as usize] += 1;
            self.token_of[pair as usize] = (i / k) as u32;
            self.pair_of.push(pair);
        }
    }
}

/// Where the time of a tick went.
#[derive(Clone, Copy, Debug, Default)]
pub struct TierTime {
    /// Experts read from slots, and the weighted sum.
    pub hits: Duration,
    /// Experts read from host memory.
    pub misses: Duration,
    /// Copies into slots.
    pub upload: Duration,
}

/// Fast memory with slots. The scheduler decides what goes where; a tier carries it out.
pub trait Tier: Send {
    /// Copy experts of a layer from the host store into slots, none of which the tick at hand reads for another expert. Returns
    /// the bytes copied.
    ///
    /// # Errors
    /// From the device.
    fn upload(&mut self, layer: usize, swaps: &[Swap]) -> Result<u64, ExpertError>;

    /// These experts of the layer, which are in no slot, are about to be read: whatever of them is on a disk may begin to come. Waits for
    /// nothing.
    fn expect(&mut self, layer: usize, experts: &mut dyn Iterator<Item = u16>);

    /// Products of the routed rows `x` `[tokens, hidden]` with their experts, summed by gate weight: `[tokens, hidden]`.
    ///
    /// # Errors
    /// From the dot products or the device.
    fn run(&mut self, layer: usize, x: &Tensor, routing: &Routing, grouped: &Grouped, time: &mut TierTime) -> Result<Tensor, ExpertError>;

    /// Change the slots of each layer, `slots[layer]` of them: carry out the moves, then give back (or make) room.
    ///
    /// # Errors
    /// No room; then nothing has changed.
    fn resize(&mut self, slots: &[usize], moves: &[Move]) -> Result<(), ExpertError>;
}

/// The rows of a tick that lie on a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRows {
    /// Rows.
    pub tokens: usize,
    /// Experts per row.
    pub top_k: usize,
    /// Input of the experts, `[tokens, hidden]` f32.
    pub x: Address,
    /// Routed experts, `[tokens, top_k]` u32.
    pub ids: Address,
    /// Their gate weights, `[tokens, top_k]` f32.
    pub weights: Address,
    /// Their slots by the device's table, `[tokens, top_k]` i32; -1 for none.
    pub slots: Address,
    /// The weighted sums are added to this, `[tokens, hidden]` f32.
    pub y: Address,
}

/// Slots on a device. A tick is three calls in this order: [`DeviceTier::table`], [`DeviceTier::hits`], [`DeviceTier::rest`]. A token that finds
/// every expert in a slot ([`DeviceTier::settled`]) may have [`DeviceTier::table`] and [`DeviceTier::queue`] instead, layer after layer, and
/// [`DeviceTier::queued`] at its end.
pub trait DeviceTier: Send {
    /// Where the device keeps the slot of every expert of a layer, `[experts]` i32, -1 for none. Kernels queued from now on find in it, and in the
    /// slots, all swaps of earlier ticks.
    ///
    /// # Errors
    /// From the device.
    fn table(&mut self, layer: usize) -> Result<Address, ExpertError>;

    /// Queue the products of the experts that are in slots, before the host knows which those are. Does nothing for more rows than
    /// such kernels take; [`DeviceTier::rest`] then does everything.
    ///
    /// # Errors
    /// From the device.
    fn hits(&mut self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError>;

    /// The rest of the tick, now that the host knows the routing: misses, and copies into slots. `host_rows` are the rows of `x`. Returns the
    /// bytes of experts that the host computed. A copy that fails is no error: its expert is computed on the host; see [`DeviceTier::refused`].
    ///
    /// # Errors
    /// From the device, or from the products on the host.
    #[allow(clippy::too_many_arguments)]
    fn rest(
        &mut self,
        layer: usize,
        rows: &DeviceRows,
        host_rows: &[f32],
        routing: &Routing,
        grouped: &Grouped,
        plan: &LayerPlan,
        time: &mut TierTime,
    ) -> Result<u64, ExpertError>;

    /// Whether copies run beside the computing, so that experts can be brought ahead of their use. The answer may be another one after a step, or after
    /// [`DeviceTier::await_held`].
    fn brings(&self) -> Brings;

    /// Begin to copy experts of a layer, whose tick in this step is still to come, into slots. The tick waits for those that it asks for.
    ///
    /// # Errors
    /// From the device.
    fn bring(&mut self, layer: usize, swaps: &[Swap]) -> Result<(), ExpertError>;

    /// Whether every expert of every layer is in a slot, with no copy on its way but such as [`DeviceTier::table`] waits for: all experts of a token are
    /// then hits by the device's own tables, whatever is routed. Answers a number, another one whenever slots have moved: what was recorded of
    /// [`DeviceTier::queue`] under another number names memory that may be gone.
    fn settled(&self) -> Option<u64>;

    /// Queue the products of one layer's experts for a token that found everything settled. Only launches, so it can be recorded.
    ///
    /// # Errors
    /// From the device.
    fn queue(&self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError>;

    /// Such a token has been queued, or a part of it, before something failed.
    ///
    /// # Errors
    /// From the device.
    fn queued(&mut self) -> Result<(), ExpertError>;

    /// Whether a token may be queued whole though not everything is in slots, the host answering it: [`DeviceTier::queue`] for layer after layer, then [`DeviceTier::open`] and
    /// [`DeviceTier::answer`] for each, and [`DeviceTier::queued`] at its end. The number is that of [`DeviceTier::settled`].
    fn answers(&self) -> Option<u64> {
        None
    }

    /// Where the device has a layer's table; [`DeviceTier::open`] brings it there.
    fn table_place(&self, layer: usize) -> Address;

    /// The table of a layer of such a token, with all swaps of earlier ticks and what came ahead.
    ///
    /// # Errors
    /// From the device.
    fn open(&mut self, layer: usize, talk: &Talk) -> Result<(), ExpertError>;

    /// What such a token chose in a layer: whatever is in no slot is computed on the host. Ids are of experts that there are. Returns the bytes of experts that the host computed.
    ///
    /// # Errors
    /// From the products on the host.
    fn answer(&mut self, layer: usize, talk: &Talk, host_rows: &[f32], routing: &Routing, time: &mut TierTime) -> Result<u64, ExpertError>;

    /// The swaps of its tick, to be copied when nobody waits.
    ///
    /// # Errors
    /// From the device.
    fn admit_later(&mut self, layer: usize, swaps: &[Swap]) -> Result<(), ExpertError>;

    /// Let experts of a layer come up into empty slots when nobody waits for them. Outside of a tick; see [`DeviceTier::refused`].
    fn fill_later(&mut self, layer: usize, swaps: &[Swap]);

    /// Queue copies of experts of a layer into empty slots, outside of a tick. Returns the bytes. A copy that fails is no error; see
    /// [`DeviceTier::refused`].
    ///
    /// # Errors
    /// From the device.
    fn fill(&mut self, layer: usize, swaps: &[Swap]) -> Result<u64, ExpertError>;

    /// Take the experts, by layer, that a plan gave a slot and whose copies have failed since this was last asked.
    fn refused(&mut self) -> Vec<(usize, u16)>;

    /// Most slots per layer that the device's memory gives now, those that are there included.
    fn limit(&self) -> usize;

    /// Change the slots of every layer: carry out the moves, then give back (or make) room. Returns how many there are now: growth
    /// ends where memory does, and loses nothing.
    ///
    /// # Errors
    /// From the device.
    fn resize(&mut self, slots: usize, moves: &[Move]) -> Result<usize, ExpertError>;

    /// An expert has lost its slot outside of a tick.
    fn evict(&mut self, layer: usize, expert: u16);

    /// Forget what is in slots: something failed, and nobody knows which of them are whole.
    fn forget(&mut self);

    /// A step is about to begin.
    fn begin_step(&mut self) {}

    /// Between two steps: wait until so many more regions of experts have been copied into memory of our own, or all that will be.
    fn await_held(&mut self, _regions: usize) {}

    /// How much of the experts is, if any is to be.
    fn held(&self) -> Option<Held> {
        None
    }

    /// How fast host and link are by the last measurement.
    fn rates(&self) -> Option<Rates> {
        None
    }

    /// A step is over: whatever copies are left are queued.
    ///
    /// # Errors
    /// From the device.
    fn end_step(&mut self) -> Result<DeviceStep, ExpertError>;
}

/// Whether a tier brings experts ahead of their use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brings {
    /// It has nobody to bring them.
    Never,
    /// It is unlikely to pay: copies need the host, or [`super::schedule::comes_in_time`] says no.
    IfTold,
    /// As the policy has it.
    Usually,
}

/// What a device did in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStep {
    /// Device time for experts in slots, of the step before: the marks of a step that has just been queued have not been passed, and
    /// nobody waits for them. `None`: that was a token without marks around its hits, see [`DeviceTier::queue`].
    pub hits: Option<Duration>,
    /// Host time for copies that nobody waited for.
    pub upload: Duration,
    /// Bytes sent up, into slots or to be computed once.
    pub uploaded: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_lead_from_tokens_to_experts_and_back() {
        let routing = Routing { top_k: 2, ids: vec![3, 1, 1, 0, 3, 0], weights: vec![0.5; 6] };
        let mut g = Grouped::default();
        g.fill(&routing, 4, [(1, Source::Slot(0)), (0, Source::Host), (3, Source::Host)].into_iter());
        assert_eq!(g.token_of, [0, 1, 1, 2, 0, 2]);
        for (i, &pair) in g.pair_of.iter().enumerate() {
            let group = g.groups.iter().find(|g| g.pairs.contains(&(pair as usize))).unwrap();
            assert_eq!(u32::from(group.expert), routing.ids[i]);
            assert_eq!(g.token_of[pair as usize], i as u32 / 2);
        }
    }
}
