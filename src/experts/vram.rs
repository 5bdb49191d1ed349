//! The device tier: slots in VRAM, misses split between the link and the host.
//!
//! | file | idea |
//! |---|---|
//! | `biases` | what is added to gate and up of experts that have biases |
//! | `slabs` | the slots of a layer, and their number changing while the model talks |
//! | `tables` | which expert is in which slot, as the kernels see it |
//! | `staging` | the way up, through page-locked memory |
//! | `sending`, `couriers` | who brings experts up, and when: the host at once, or threads of their own while tokens go on |
//! | `held` | experts in memory of our own, page-locked: what the host computes from, and copies come straight from |
//! | `ahead` | experts that come before they are asked for |
//! | `misses` | what goes up and what the host computes: pure |
//! | `options` | how the tier is set up, and what it takes besides the slots |
//! | `setup` | the tier as it begins |
//! | `grouped` | launches over slots, for a few tokens and for many |
//! | `tick` | what happens when the host knows the routing |
//! | `whole` | tokens of which every expert is in a slot |
//! | `answer` | tokens that are queued whole while the host answers them |
//! | `probe` | how fast link and host are |
//!
//! A tick: the router's kernel looks its experts up in the layer's table, and the hits run at once, before the host knows what was
//! routed. Then the host learns it, sends up what is to be computed on the device, computes its own share meanwhile, and adds it: one
//! join per layer. Experts that are admitted go up first, since they must anyway, and are computed from their slot when they go to
//! the device's share; else couriers copy them, in time for the next tick of theirs (without couriers, the host does while it waits for the next layer's routing).
//!
//! What orders the lanes. A slot is written by the copy lane after everything that earlier ticks of its layer queued (`used`), and
//! its tick reads neither the slot's old nor its new expert before the copy's mark is waited for: by the tick itself or by
//! the next one's table. A spare slot is written after its half of the spare slots was last read. Everything else runs on the compute
//! lane.

mod ahead;
mod answer;
mod biases;
mod couriers;
mod grouped;
mod held;
mod misses;
mod options;
mod probe;
mod sending;
mod setup;
mod slabs;
mod staging;
mod tables;
mod tick;
mod whole;

pub use held::{Held, Hold};
pub use misses::{split, MissChoice, Rates};
pub use options::{couriers_for, overhead, pin_budget, staging_bytes, VramOptions, RESERVE, SPARE};
pub use slabs::slot_bytes;

use super::run::Buffers;
use super::schedule::{comes_in_time, LayerPlan, Move, Swap};
use super::store::{ExpertStore, ReadAhead};
use super::tier::{Brings, DeviceRows, DeviceStep, DeviceTier, Grouped, TierTime};
use super::{ExpertError, Routing};
use crate::events::When;
use crate::gpu::params::ExpertsUp;
use crate::gpu::talk::Talk;
use crate::gpu::{Address, Device, Lane, Mark, Memory};
use crate::kernels::Pool;
use biases::LayerBiases;
use couriers::Couriers;
use grouped::{Parcel, Slots, Work};
use held::Holding;
use slabs::Slab;
use staging::Staging;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tables::Tables;

/// Spare slots, in two halves.
struct Spare {
    memory: Memory,
    bytes: usize,
    half: usize,
    next: usize,
    used: [Option<Mark>; 2],
}

/// The host's share of a tick.
#[derive(Default)]
struct HostShare {
    buffers: Buffers,
    grouped: Grouped,
}

/// An expert with a slot in the plan, whose copy nobody has waited for.
#[derive(Clone, Debug)]
struct Due {
    layer: usize,
    expert: u16,
    slot: u16,
    /// It comes ahead: its layer's next tick is the first that may ask for it.
    ahead: bool,
    /// A courier brings it; else the host sends it.
    courier: bool,
    /// Of one that comes ahead: passed when it is there, once it has been sent.
    ready: Option<Mark>,
}

/// What goes up, for a gauge on another thread to read.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes since the model was opened.
    pub sent: AtomicU64,
    /// Copies that were under way when the last step ended.
    pub queued: AtomicU64,
    /// Bytes of experts that are to be held in memory of our own, those that are, and of these the page-locked ones; see [`Held`].
    pub to_hold: AtomicU64,
    /// See `to_hold`.
    pub held: AtomicU64,
    /// See `to_hold`.
    pub locked: AtomicU64,
}

/// Slots in VRAM.
pub struct VramTier {
    device: Arc<dyn Device>,
    store: ExpertStore,
    pool: Arc<Pool>,
    slabs: Vec<Slab>,
    slots: usize,
    /// Per layer, if its experts have some.
    biases: Vec<Option<LayerBiases>>,
    tables: Tables,
    staging: Staging,
    spare: Option<Spare>,
    work: Work,
    parcel: Parcel,
    partial: Parcel,
    host: HostShare,
    reading: ReadAhead,
    miss: MissChoice,
    rates: Rates,
    reserve: u64,
    /// The compute lane's mark at the end of each layer's last tick.
    used: Vec<Option<Mark>>,
    /// Begin and end of the hits of this step and of the one before, whose marks have been passed.
    timed: [Vec<(Mark, Mark)>; 2],
    /// Of the same steps: whether they were queued whole, without such marks.
    whole: [bool; 2],
    /// Counts the times that slabs have moved.
    moved: u64,
    /// Copies that nobody waits for. Without couriers they have not been sent.
    later: Vec<Due>,
    couriers: Couriers,
    held: Holding,
    /// What may be held.
    hold: Hold,
    /// When tokens are queued whole while the host answers them.
    answers: When,
    /// Whether the rates were measured here, and may be again.
    probed: bool,
    refused: Vec<(usize, u16)>,
    /// Of the step at hand.
    step: DeviceStep,
    traffic: Arc<Traffic>,
}

impl VramTier {
    /// For a gauge.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    /// See [`DeviceTier::resize`].
    fn change_slots(&mut self, slots: usize, moves: &[Move]) -> Result<usize, ExpertError> {
        self.settle()?;
        let device = self.device.clone();
        let device = &*device;
        // Copies into the old slabs end before these are read; what comes later is written after.
        device.wait(Lane::Compute, &device.mark(Lane::Copy)?)?;
        let granted = if slots > self.slots {
            slabs::grow(device, &mut self.slabs, self.slots, slots, self.reserve)?
        } else {
            slabs::shrink(device, &mut self.slabs, slots, moves)?;
            slots
        };
        let after = device.mark(Lane::Compute)?;
        device.wait(Lane::Copy, &after)?;
        // One whose copy has just failed moves in the plan only.
        for m in moves.iter().filter(|m| !self.refused.contains(&(m.layer, m.expert))) {
            self.tables.enter(m.layer, m.expert, m.to, after.clone());
        }
        self.slots = granted;
        self.begin_to_hold();
        Ok(granted)
    }

    fn slots_of(&self, layer: usize) -> Slots {
        let slab = &self.slabs[layer];
        let biased = self.biases[layer].as_ref().map(LayerBiases::biased);
        Slots { base: slab.base(), stride: slab.layout.bytes, layout: slab.layout, shape: self.store.layers[layer].shape, biased }
    }
}

impl DeviceTier for VramTier {
    fn table(&mut self, layer: usize) -> Result<Address, ExpertError> {
        // What comes ahead is the tick's to wait for.
        if self.later.iter().any(|due| due.layer == layer && !due.ahead) {
            self.settle_layer(layer)?;
        }
        Ok(self.tables.show(&*self.device, layer, self.used[layer].as_ref())?)
    }

    fn hits(&mut self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError> {
        if rows.tokens > ExpertsUp::TOKENS as usize {
            return Ok(());
        }
        let slots = self.slots_of(layer);
        if self.tables.is_empty(layer) {
            return self.catch_up();
        }
        let begin = self.device.mark(Lane::Compute)?;
        // Which slots this reads is not known yet. It never is one that this tick's swaps overwrite: they spare what was routed.
        self.work.few(&*self.device, &slots, rows, rows.slots, &[])?;
        self.timed[0].push((begin, self.device.mark(Lane::Compute)?));
        // The device has something to do, and the host waits for it.
        self.catch_up()
    }

    fn rest(
        &mut self,
        layer: usize,
        rows: &DeviceRows,
        host_rows: &[f32],
        routing: &Routing,
        grouped: &Grouped,
        plan: &LayerPlan,
        time: &mut TierTime,
    ) -> Result<u64, ExpertError> {
        self.tick(layer, rows, host_rows, routing, grouped, plan, time)
    }

    fn settled(&self) -> Option<u64> {
        self.all_in_slots()
    }

    fn queue(&self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError> {
        self.queue_layer(layer, rows)
    }

    fn queued(&mut self) -> Result<(), ExpertError> {
        self.end_token()
    }

    fn answers(&self) -> Option<u64> {
        self.can_answer()
    }

    fn table_place(&self, layer: usize) -> Address {
        self.tables.place(layer)
    }

    fn open(&mut self, layer: usize, talk: &Talk) -> Result<(), ExpertError> {
        self.open_layer(layer, talk)
    }

    fn answer(&mut self, layer: usize, talk: &Talk, host_rows: &[f32], routing: &Routing, time: &mut TierTime) -> Result<u64, ExpertError> {
        self.answer_layer(layer, talk, host_rows, routing, time)
    }

    fn admit_later(&mut self, layer: usize, swaps: &[Swap]) -> Result<(), ExpertError> {
        self.admit_when_nobody_waits(layer, swaps)
    }

    fn fill_later(&mut self, layer: usize, swaps: &[Swap]) {
        self.put_off(layer, swaps.iter().map(|s| (s.expert, s.slot)), false);
    }

    fn fill(&mut self, layer: usize, swaps: &[Swap]) -> Result<u64, ExpertError> {
        if let Some(used) = &self.used[layer] {
            self.device.wait(Lane::Copy, used)?;
        }
        let before = self.step.uploaded;
        for swap in swaps {
            self.admit(layer, swap.expert, swap.slot)?;
        }
        // No step has sent these.
        Ok(std::mem::replace(&mut self.step.uploaded, before) - before)
    }

    fn resize(&mut self, slots: usize, moves: &[Move]) -> Result<usize, ExpertError> {
        let bases = |slabs: &[Slab]| slabs.iter().map(Slab::base).collect::<Vec<_>>();
        let before = bases(&self.slabs);
        let done = self.change_slots(slots, moves);
        // Also after an error: some layers may have got that far.
        self.moved += u64::from(bases(&self.slabs) != before);
        done
    }

    fn refused(&mut self) -> Vec<(usize, u16)> {
        std::mem::take(&mut self.refused)
    }

    fn brings(&self) -> Brings {
        let largest = self.slabs.iter().map(|s| s.layout.bytes as u64).max().unwrap_or(0);
        match self.held.all_locked() {
            true if comes_in_time(largest, self.rates.link) => Brings::Usually,
            true => Brings::IfTold,
            // Filling page-locked memory takes from the token what coming ahead would save.
            false if self.couriers.is_empty() => Brings::Never,
            false => Brings::IfTold,
        }
    }

    fn bring(&mut self, layer: usize, swaps: &[Swap]) -> Result<(), ExpertError> {
        self.bring_ahead(layer, swaps)
    }

    fn evict(&mut self, layer: usize, expert: u16) {
        self.later.retain(|due| (due.layer, due.expert) != (layer, expert));
        self.tables.leave(layer, expert);
    }

    fn forget(&mut self) {
        self.couriers.settled(None);
        self.tables.clear();
        self.later.clear();
        self.refused.clear();
        // A tick that broke off left no mark at its end: whatever it queued is behind this one.
        if let Ok(mark) = self.device.mark(Lane::Compute) {
            self.parcel.end(&mark);
            self.partial.end(&mark);
            if let Some(spare) = &mut self.spare {
                spare.used = [Some(mark.clone()), Some(mark.clone())];
            }
            self.used.fill(Some(mark));
        }
    }

    fn limit(&self) -> usize {
        self.slots + slabs::fitting(&*self.device, &self.slabs, self.slots, self.reserve).unwrap_or(0)
    }

    fn begin_step(&mut self) {
        self.adopt(0);
    }

    fn await_held(&mut self, regions: usize) {
        self.adopt(regions);
    }

    fn held(&self) -> Option<Held> {
        (!self.held.is_none()).then(|| self.held.held())
    }

    fn rates(&self) -> Option<Rates> {
        Some(self.rates)
    }

    fn end_step(&mut self) -> Result<DeviceStep, ExpertError> {
        let sent = self.couriers.sent();
        self.receive(sent);
        self.catch_up()?;
        self.timed.swap(0, 1);
        self.whole.swap(0, 1);
        // After the swap, 1 is the step that has just ended and 0 the one before: its marks have been passed.
        let us: f64 = self.timed[0].drain(..).filter_map(|(from, to)| self.device.between(&from, &to)).sum();
        let hits = (!std::mem::take(&mut self.whole[0])).then(|| Duration::from_secs_f64(us.max(0.0) / 1e6));
        self.traffic
            .queued
            .store((self.staging.queued(&*self.device) + self.couriers.open() + self.held.queued(&*self.device)) as u64, Ordering::Relaxed);
        self.adopt(0);
        Ok(DeviceStep { hits, ..std::mem::take(&mut self.step) })
    }
}

impl Drop for VramTier {
    /// Page-locked memory goes when nothing reads or writes it any more.
    fn drop(&mut self) {
        self.couriers.settled(None);
        self.pool.stay_awake(false, 0);
        for lane in [Lane::Copy, Lane::Compute] {
            if let Err(e) = self.device.mark(lane).and_then(|mark| self.device.sync(&mark)) {
                tracing::debug!("the device did not come to rest: {e}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
