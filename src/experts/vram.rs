//! The device tier: slots in VRAM, misses split between the link and the host.
//!
//! | file | idea |
//! |---|---|
//! | `slabs` | the slots of a layer, and their number changing while the model talks |
//! | `tables` | which expert is in which slot, as the kernels see it |
//! | `staging` | the way up, through page-locked memory |
//! | `misses` | what goes up and what the host computes: pure |
//! | `grouped` | launches over slots, for a few tokens and for many |
//! | `probe` | how fast link and host are |
//!
//! A tick: the router's kernel looks its experts up in the layer's table, and the hits run at once, before the host knows what was
//! routed. Then the host learns it, sends up what is to be computed on the device, computes its own share meanwhile, and adds it: one
//! join per layer. Experts that are admitted go up first, since they must anyway, and are computed from their slot when they go to
//! the device's share; else they are copied while the host waits for the next layer's routing, in time for the next tick of theirs.
//!
//! What orders the lanes. A slot is written by the copy lane after everything that earlier ticks of its layer queued (`used`), and
//! its tick reads neither the slot's old nor its new expert before the copy's mark is waited for: by the tick itself or by
//! the next one's table. A spare slot is written after its half of the spare slots was last read. Everything else runs on the compute
//! lane.

mod grouped;
mod misses;
mod probe;
mod slabs;
mod staging;
mod tables;

pub use misses::{split, MissChoice, Rates};
pub use slabs::slot_bytes;

use super::run::{Buffers, Parts};
use super::schedule::{LayerPlan, Move};
use super::store::{ExpertStore, HostExpert};
use super::tier::{DeviceRows, DeviceStep, DeviceTier, Grouped, TierTime};
use super::{ExpertError, Routing};
use crate::gpu::params::{launch, Add, ExpertsUp};
use crate::gpu::{Address, Device, Lane, Mark, Memory};
use crate::kernels::Pool;
use grouped::{Parcel, Slots, Work};
use slabs::{Layout, Slab};
use staging::Staging;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tables::Tables;

/// Spare slots for experts that go up without being admitted; one half is filled while the other is computed.
pub const SPARE: usize = 16;
/// Stays free when slots grow: a driver that runs out of VRAM moves it to host memory, which is far slower than fewer slots.
pub const RESERVE: u64 = 300 << 20;
/// Page-locked memory is at most this.
const PINNED: u64 = 512 << 20;
/// And at most this part of the RAM.
const PINNED_SHARE: u64 = 16;

/// How the tier is set up.
#[derive(Clone, Copy, Debug)]
pub struct VramOptions {
    /// What becomes of misses.
    pub miss: MissChoice,
    /// Most bytes of page-locked memory for staging; see [`pin_budget`].
    pub pinned: u64,
    /// Bytes of VRAM that growth leaves free; usually [`RESERVE`].
    pub reserve: u64,
    /// Most tokens of a pass.
    pub rows: usize,
}

/// Most bytes of page-locked memory on a machine with so much RAM.
#[must_use]
pub fn pin_budget(ram: u64) -> u64 {
    (ram / PINNED_SHARE).min(PINNED)
}

/// Bytes of device memory besides the slots: spare slots, results of the longest step, tables.
#[must_use]
pub fn overhead(layers: usize, experts: usize, top_k: usize, hidden: usize, ff: usize, largest_slot: u64, rows: usize) -> u64 {
    let pairs = rows.max(ExpertsUp::TOKENS as usize) * top_k;
    let floats = pairs * (ff + hidden) + rows * hidden;
    SPARE as u64 * largest_slot + 4 * (floats + layers * experts + 16 * pairs) as u64 + (1 << 20)
}

/// Bytes of page-locked memory for staging, within `budget` ([`pin_budget`]).
#[must_use]
pub fn staging_bytes(largest_slot: u64, budget: u64) -> u64 {
    (staging::MOST as u64 * largest_slot).min(budget)
}

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

/// What goes up, for a gauge on another thread to read.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes since the model was opened.
    pub sent: AtomicU64,
    /// Copies that were under way when the last step ended.
    pub queued: AtomicU64,
}

/// Slots in VRAM.
pub struct VramTier {
    device: Arc<dyn Device>,
    store: ExpertStore,
    pool: Arc<Pool>,
    slabs: Vec<Slab>,
    slots: usize,
    tables: Tables,
    staging: Staging,
    spare: Option<Spare>,
    work: Work,
    parcel: Parcel,
    partial: Parcel,
    host: HostShare,
    miss: MissChoice,
    rates: Rates,
    reserve: u64,
    /// The compute lane's mark at the end of each layer's last tick.
    used: Vec<Option<Mark>>,
    /// Begin and end of the hits of this step and of the one before, whose marks have been passed.
    timed: [Vec<(Mark, Mark)>; 2],
    /// Admitted experts, by layer, whose copies nobody waits for, with their slots.
    later: Vec<(usize, u16, u16)>,
    refused: Vec<(usize, u16)>,
    /// Of the step at hand.
    step: DeviceStep,
    traffic: Arc<Traffic>,
}

impl VramTier {
    /// Empty slots in the memory of `device`, so many per layer. Measures link and host.
    ///
    /// # Errors
    /// No room.
    pub fn new(
        device: Arc<dyn Device>,
        store: ExpertStore,
        slots: usize,
        pool: Arc<Pool>,
        options: VramOptions,
    ) -> Result<Self, ExpertError> {
        let unknown = Rates { link: 1.0, host: f64::INFINITY, join: 0.0 };
        let mut tier = Self::with_rates(device, store, slots, pool, options, unknown)?;
        if let Some(spare) = &tier.spare {
            let room = spare.memory.address();
            let Self { device, pool, store, slabs, staging, host, .. } = &mut tier;
            let layout = slabs.first().map(|s| s.layout);
            if let Some(rates) = layout.map(|l| probe::rates(&**device, pool, store, &l, staging, room, &mut host.buffers)).transpose()? {
                tier.rates = rates;
            }
        }
        let Rates { link, host, .. } = tier.rates;
        tracing::info!(link, host, slots, pinned = tier.staging.bytes(), "expert slots on {}", tier.device.facts().name);
        Ok(tier)
    }

    /// The same with known rates.
    ///
    /// # Errors
    /// No room.
    pub fn with_rates(
        device: Arc<dyn Device>,
        store: ExpertStore,
        slots: usize,
        pool: Arc<Pool>,
        options: VramOptions,
        rates: Rates,
    ) -> Result<Self, ExpertError> {
        let layouts: Vec<Layout> = store.layers.iter().map(Layout::of).collect();
        let largest = layouts.iter().map(|l| l.bytes).max().unwrap_or(0);
        let slots = slots.min(store.experts);
        let d = &*device;
        let tables = Tables::new(d, store.layers.len(), store.experts)?;
        let work = Work::new(d, &store, options.rows)?;
        let (mut parcel, mut partial) = (Parcel::default(), Parcel::default());
        let none = Address::NONE;
        let longest = DeviceRows { tokens: options.rows, top_k: store.top_k, x: none, ids: none, weights: none, slots: none, y: none };
        parcel.begin(d, grouped::parcel_bytes(&longest, store.experts, store.experts))?;
        partial.begin(d, options.rows * store.hidden * 4)?;
        let slabs = layouts.iter().map(|&layout| Slab::new(d, layout, slots)).collect::<Result<Vec<_>, _>>()?;
        let half = SPARE.min(store.experts).div_ceil(2);
        let spare = match largest {
            0 => None,
            bytes => d.alloc(2 * half * bytes).ok().map(|memory| Spare { memory, bytes, half, next: 0, used: [None, None] }),
        };
        let staging = Staging::new(d, largest, options.pinned);
        Ok(Self {
            slabs,
            slots,
            tables,
            staging,
            spare,
            work,
            parcel,
            partial,
            host: HostShare::default(),
            miss: options.miss,
            rates,
            reserve: options.reserve,
            used: vec![None; store.layers.len()],
            timed: Default::default(),
            later: Vec::new(),
            refused: Vec::new(),
            step: DeviceStep::default(),
            traffic: Arc::default(),
            device,
            store,
            pool,
        })
    }

    /// What the probe found, or was told.
    #[must_use]
    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// For a gauge.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    fn slots_of(&self, layer: usize) -> Slots {
        let slab = &self.slabs[layer];
        Slots { base: slab.base(), stride: slab.layout.bytes, layout: slab.layout, shape: self.store.layers[layer].shape }
    }

    /// What is in no slot, in the order in which it would go up: the admitted first, then experts of many tokens.
    fn missed(&self, layer: usize, grouped: &Grouped, plan: &LayerPlan) -> Vec<Missed> {
        let mut missed: Vec<Missed> = (0..grouped.groups.len())
            .filter(|&g| self.tables.slot(layer, grouped.groups[g].expert).is_none())
            .map(|group| {
                let expert = grouped.groups[group].expert;
                Missed { group, slot: plan.swaps.iter().find(|s| s.expert == expert).map(|s| s.slot) }
            })
            .collect();
        missed.sort_by_key(|m| (m.slot.is_none(), std::cmp::Reverse(grouped.groups[m.group].pairs.len())));
        missed
    }

    /// Send an admitted expert up to its slot and enter it; false if it could not be sent.
    fn admit(&mut self, layer: usize, expert: u16, slot: u16) -> Result<Option<Mark>, ExpertError> {
        let to = self.slabs[layer].slot(usize::from(slot));
        let sent = self.send(layer, expert, to)?;
        match &sent {
            Some(ready) => self.tables.enter(layer, expert, slot, ready.clone()),
            None => self.refused.push((layer, expert)),
        }
        Ok(sent)
    }

    /// Send up what was put off.
    fn catch_up(&mut self) -> Result<(), ExpertError> {
        if self.later.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let later = std::mem::take(&mut self.later);
        for (i, &(layer, expert, slot)) in later.iter().enumerate() {
            if let (0, Some(used)) = (i, &self.used[layer]) {
                self.device.wait(Lane::Copy, used)?;
            }
            self.admit(layer, expert, slot)?;
        }
        self.step.upload += start.elapsed();
        Ok(())
    }

    fn send(&mut self, layer: usize, expert: u16, to: Address) -> Result<Option<Mark>, ExpertError> {
        let bytes: &HostExpert = &self.store.layers[layer].experts[usize::from(expert)];
        match self.staging.send(&*self.device, &self.pool, bytes, &self.slabs[layer].layout, to) {
            Ok(mark) => {
                let bytes = self.store.layers[layer].expert_bytes();
                self.step.uploaded += bytes;
                self.traffic.sent.fetch_add(bytes, Ordering::Relaxed);
                Ok(Some(mark))
            }
            Err(e) => {
                tracing::warn!("expert {expert} of layer {layer} could not be sent up: {e}");
                Ok(None)
            }
        }
    }

    /// The host's experts, weighted and summed for every token, then added to `y` on the device.
    fn host_share(
        &mut self,
        layer: usize,
        rows: &DeviceRows,
        host_rows: &[f32],
        routing: &Routing,
        grouped: &Grouped,
        mine: &[usize],
    ) -> Result<(), ExpertError> {
        let host = &self.store.layers[layer];
        let hidden = self.store.hidden;
        let share = &mut self.host;
        share.grouped.pick(grouped, mine);
        share.buffers.begin(host_rows, rows.tokens, hidden, share.grouped.token_of.len());
        let experts = mine.iter().map(|&g| &host.experts[usize::from(grouped.groups[g].expert)]);
        let weights: Vec<Parts<'_>> = experts.map(|e| std::array::from_fn(|i| &*e[i])).collect();
        share.buffers.run(&self.pool, &host.shape, &share.grouped.groups, &share.grouped, &weights)?;
        let y = share.buffers.sum(&self.pool, routing, &share.grouped, rows.tokens, hidden);
        let bytes: &[u8] = bytemuck::cast_slice(&y);
        self.partial.begin(&*self.device, bytes.len())?;
        let x = self.partial.put(&*self.device, bytes)?;
        let len = u32::try_from(y.len()).unwrap_or(u32::MAX);
        launch(&*self.device, &Add { x, y: rows.y, len, pad: 0 }, &[])?;
        Ok(())
    }
}

/// A routed expert that is in no slot.
#[derive(Clone, Copy)]
struct Missed {
    group: usize,
    /// The one that it gets in this tick.
    slot: Option<u16>,
}

impl DeviceTier for VramTier {
    fn table(&mut self, layer: usize) -> Result<Address, ExpertError> {
        if self.later.iter().any(|l| l.0 == layer) {
            self.catch_up()?;
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
        self.catch_up()?;
        let device = self.device.clone();
        let device = &*device;
        let few = rows.tokens <= ExpertsUp::TOKENS as usize;
        let bytes = self.slabs[layer].layout.bytes as u64;
        let own = self.slots_of(layer);

        let absent = self.missed(layer, grouped, plan);
        let tokens: Vec<usize> = absent.iter().map(|m| grouped.groups[m.group].pairs.len()).collect();
        let mut up = split(self.miss, &tokens, bytes, &self.rates);
        if !few && !self.work.fits(rows.tokens * rows.top_k) {
            up = 0;
        }
        let (up, down) = absent.split_at(up);
        let (arriving, passing) = up.split_at(up.iter().take_while(|m| m.slot.is_some()).count());
        let passing = if self.spare.is_some() { passing } else { &[] };
        let mut on_host: Vec<usize> = down.iter().chain(&up[arriving.len() + passing.len()..]).map(|m| m.group).collect();

        for s in plan.swaps.iter().filter_map(|s| s.evicted) {
            self.tables.leave(layer, s);
        }
        if let Some(used) = self.used[layer].as_ref().filter(|_| !plan.swaps.is_empty()) {
            device.wait(Lane::Copy, used)?;
        }
        self.parcel.begin(device, grouped::parcel_bytes(rows, grouped.groups.len(), passing.len()))?;
        let many = (!few).then(|| grouped::Many::begin(device, &mut self.parcel, grouped)).transpose()?;
        if let Some(many) = &many {
            // Residents first: they can run while the rest is on its way. If there is no room to run them, the host does.
            let resident: Vec<(usize, u16)> =
                (0..grouped.groups.len()).filter_map(|g| self.tables.slot(layer, grouped.groups[g].expert).map(|slot| (g, slot))).collect();
            if self.work.fits(rows.tokens * rows.top_k) {
                let begin = device.mark(Lane::Compute)?;
                many.run(device, &self.work, &mut self.parcel, &own, rows, grouped, &resident)?;
                self.timed[0].push((begin, device.mark(Lane::Compute)?));
            } else {
                on_host.extend(resident.iter().map(|r| r.0));
            }
        }

        let start = Instant::now();
        let mut ready = None;
        let mut here: Vec<(usize, u16)> = Vec::new();
        for m in arriving {
            let (expert, slot) = (grouped.groups[m.group].expert, m.slot.unwrap_or(0));
            match self.admit(layer, expert, slot)? {
                Some(mark) => {
                    ready = Some(mark);
                    here.push((m.group, slot));
                }
                None => on_host.push(m.group),
            }
        }
        self.run_batch(&own, rows, grouped, many.as_ref(), &here, ready)?;
        if let Some((half, stride)) = self.spare.as_ref().map(|s| (s.half, s.bytes)) {
            for batch in passing.chunks(half) {
                let Some(spare) = &mut self.spare else { break };
                let which = spare.next;
                spare.next = 1 - which;
                let base = spare.memory.at(which * half * stride, half * stride);
                if let Some(used) = spare.used[which].take() {
                    device.wait(Lane::Copy, &used)?;
                }
                let mut here: Vec<(usize, u16)> = Vec::new();
                let mut ready = None;
                for m in batch {
                    match self.send(layer, grouped.groups[m.group].expert, base.plus(here.len() * stride))? {
                        Some(mark) => {
                            ready = Some(mark);
                            here.push((m.group, here.len() as u16));
                        }
                        None => on_host.push(m.group),
                    }
                }
                let slots = Slots { base, stride, ..own };
                self.run_batch(&slots, rows, grouped, many.as_ref(), &here, ready)?;
                if let Some(spare) = &mut self.spare {
                    spare.used[which] = Some(device.mark(Lane::Compute)?);
                }
            }
        }
        time.upload += start.elapsed();
        if let Some(many) = many {
            many.gather(device, &self.work, &mut self.parcel, rows, grouped, &on_host)?;
        }

        let missed = on_host.len() as u64 * self.store.layers[layer].expert_bytes();
        if !on_host.is_empty() {
            let start = Instant::now();
            on_host.sort_unstable();
            self.host_share(layer, rows, host_rows, routing, grouped, &on_host)?;
            time.misses += start.elapsed();
        }

        let there = |expert| arriving.iter().any(|m| grouped.groups[m.group].expert == expert);
        self.later.extend(plan.swaps.iter().filter(|s| !there(s.expert)).map(|s| (layer, s.expert, s.slot)));
        let used = device.mark(Lane::Compute)?;
        self.parcel.end(&used);
        self.partial.end(&used);
        self.used[layer] = Some(used);
        Ok(missed)
    }

    fn resize(&mut self, slots: usize, moves: &[Move]) -> Result<usize, ExpertError> {
        self.catch_up()?;
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
        Ok(granted)
    }

    fn refused(&mut self) -> Vec<(usize, u16)> {
        std::mem::take(&mut self.refused)
    }

    fn evict(&mut self, layer: usize, expert: u16) {
        self.later.retain(|l| (l.0, l.1) != (layer, expert));
        self.tables.leave(layer, expert);
    }

    fn forget(&mut self) {
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

    fn end_step(&mut self) -> Result<DeviceStep, ExpertError> {
        self.catch_up()?;
        self.timed.swap(0, 1);
        // After the swap, 1 is the step that has just ended and 0 the one before: its marks have been passed.
        let us: f64 = self.timed[0].drain(..).filter_map(|(from, to)| self.device.between(&from, &to)).sum();
        self.traffic.queued.store(self.staging.queued(&*self.device) as u64, Ordering::Relaxed);
        Ok(DeviceStep { hits: Duration::from_secs_f64(us.max(0.0) / 1e6), ..std::mem::take(&mut self.step) })
    }
}

impl Drop for VramTier {
    /// Page-locked memory goes when nothing reads or writes it any more.
    fn drop(&mut self) {
        for lane in [Lane::Copy, Lane::Compute] {
            if let Err(e) = self.device.mark(lane).and_then(|mark| self.device.sync(&mark)) {
                tracing::debug!("the device did not come to rest: {e}");
            }
        }
    }
}

impl VramTier {
    /// Wait for the copies of a batch, then compute it.
    #[allow(clippy::too_many_arguments)]
    fn run_batch(
        &mut self,
        slots: &Slots,
        rows: &DeviceRows,
        grouped: &Grouped,
        many: Option<&grouped::Many>,
        here: &[(usize, u16)],
        ready: Option<Mark>,
    ) -> Result<(), ExpertError> {
        let Some(ready) = ready else { return Ok(()) };
        self.device.wait(Lane::Compute, &ready)?;
        match many {
            Some(many) => many.run(&*self.device, &self.work, &mut self.parcel, slots, rows, grouped, here)?,
            None => {
                let of = |pair: u32| here.iter().find(|(g, _)| grouped.groups[*g].pairs.contains(&(pair as usize))).map(|h| i32::from(h.1));
                let table: Vec<i32> = grouped.pair_of.iter().map(|&pair| of(pair).unwrap_or(-1)).collect();
                let table = self.parcel.put(&*self.device, bytemuck::cast_slice(&table))?;
                let used: Vec<u16> = here.iter().map(|h| h.1).collect();
                self.work.few(&*self.device, slots, rows, table, &used)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
