//! The heart: routed experts in a host store, some of them in slots, and the schedule that decides which.
//!
//! | file | idea |
//! |---|---|
//! | [`store`] | host tier: where every expert's bytes are in the mapped file |
//! | [`tier`] | what a device tier offers: run, upload, resize |
//! | [`slots`] | the CPU tier: slots in RAM |
//! | [`vram`] | the device tier: slots in VRAM |
//! | `run` | the products of a layer's routed experts, on the CPU |
//! | `resident` | tokens that find every expert in a slot of a device, and how it comes to that |
//! | [`schedule`], [`policy`] | pure: which expert gets a slot, who leaves |
//! | [`measures`], [`recall`], [`duels`] | what policies know: uses, what followed similar moments, how admissions turned out |
//! | [`curve`], [`knee`] | hit rate for every slot count, from stack distances; where it bends |
//! | [`spread`] | slots by layer, under the same total |
//! | [`heat`] | use of a model's experts over all sessions, for the next start |
//! | [`budget`] | the memory plan |

pub mod budget;
pub mod curve;
pub mod duels;
pub mod heat;
pub mod knee;
pub mod measures;
pub mod policy;
pub mod recall;
mod resident;
mod run;
pub mod schedule;
pub mod slots;
pub mod spread;
pub mod store;
pub mod tier;
pub mod vram;

pub use budget::BudgetError;

use crate::events::{Ahead, Eviction, Outcome, Phase, RoutedExpert, StepRecord};
use crate::gpu::Address;
use candle_core::Tensor;
use curve::Curve;
use heat::Heat;
use policy::Policy;
use schedule::{Routed, Scheduler};
use std::time::Instant;
use tier::{Brings, DeviceRows, DeviceTier, Grouped, Source, Tier, TierTime};

/// Why experts could not be set up or run.
#[derive(Debug, thiserror::Error)]
pub enum ExpertError {
    /// Address space for slots could not be had.
    #[error("the system refuses {bytes} bytes of address space for expert slots: {why}; lift the limit (ulimit -v)")]
    Reserve {
        /// Bytes asked for.
        bytes: u64,
        /// From the operating system.
        why: String,
    },
    /// The router named an expert or a layer that does not exist.
    #[error("layer {layer} has {experts} experts, but number {expert} was routed to")]
    Routing {
        /// Layer index.
        layer: usize,
        /// Expert id.
        expert: u32,
        /// Experts per layer.
        experts: usize,
    },
    /// The slots are on a device.
    #[error("slots on a device are the same in every layer")]
    EqualSlots,
    /// From the policies.
    #[error(transparent)]
    Policy(#[from] policy::UnknownPolicy),
    /// From the dot products.
    #[error(transparent)]
    Kernel(#[from] crate::kernels::KernelError),
    /// From the GPU.
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    /// Rows in host memory were given to experts on a device, or the other way round.
    #[error("the rows of layer {layer} are not where its experts are")]
    Elsewhere {
        /// Layer index.
        layer: usize,
    },
    /// From the tensor library.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What the router of one layer decided for the tokens of this step.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// Experts per token.
    pub top_k: usize,
    /// `[tokens * top_k]` expert ids, best first per token.
    pub ids: Vec<u32>,
    /// `[tokens * top_k]` gate weights, as they multiply the expert's output.
    pub weights: Vec<f32>,
}

/// The expert part of a record in the making.
#[derive(Default)]
struct Tally {
    ends: Vec<u32>,
    routed: Vec<RoutedExpert>,
    evicted: Vec<Eviction>,
    ahead: Vec<Ahead>,
    time: TierTime,
    uploaded: u64,
    missed: u64,
}

/// Where the slots are.
enum Place {
    Host(Box<dyn Tier>),
    Device(Box<dyn DeviceTier>),
}

impl Place {
    /// What is laid over the policy's own number of experts that come ahead, of which this many are wished for. On the CPU, copies are made by the
    /// threads that compute.
    fn ahead(&self, wish: Option<usize>) -> Option<usize> {
        match self {
            Self::Host(_) => Some(0),
            Self::Device(tier) => match tier.brings() {
                Brings::Never => Some(0),
                Brings::IfTold => Some(wish.unwrap_or(0)),
                Brings::Usually => wish,
            },
        }
    }
}

/// All routed experts of a model behind one call ([`Experts::forward`]; on a device, three); models see nothing else of tiers and slots.
pub struct Experts {
    tier: Place,
    scheduler: Scheduler,
    curve: Curve,
    heat: Heat,
    expert_bytes: Vec<u64>,
    slots: usize,
    /// Slots of each layer; all are `slots` unless they are spread.
    by_layer: Vec<usize>,
    /// Layers that gain more from a slot get more of them.
    spread: bool,
    /// Generated tokens, and how many there were when the spread was last looked at.
    decoded: [u64; 2],
    /// Most slots by the budget; `None` if there is no budget.
    limit: Option<usize>,
    slot_step: u64,
    /// See [`Experts::set_ahead`]: what was wished for, and what is in force.
    ahead_wish: Option<usize>,
    ahead: Option<usize>,
    /// Whether that has changed by itself since it was last told.
    rescheduled: bool,
    min: usize,
    phase: Phase,
    tokens: usize,
    tally: Tally,
    grouped: Grouped,
    routed: Vec<Routed>,
    /// Place of an expert in `routed`, by id, while a prompt chunk is counted.
    place: Vec<u16>,
    resident: resident::Resident,
}

impl Experts {
    /// Experts of `expert_bytes.len()` layers in `tier`, with empty slots. `plan` gives the slot count and its bounds.
    #[must_use]
    pub fn new(tier: Box<dyn Tier>, expert_bytes: Vec<u64>, experts: usize, plan: &crate::events::Plan, policy: Policy) -> Self {
        Self::at(Place::Host(tier), expert_bytes, experts, plan, policy)
    }

    /// The same with the slots on a device.
    #[must_use]
    pub fn on_device(
        tier: Box<dyn DeviceTier>,
        expert_bytes: Vec<u64>,
        experts: usize,
        plan: &crate::events::Plan,
        policy: Policy,
    ) -> Self {
        Self::at(Place::Device(tier), expert_bytes, experts, plan, policy)
    }

    fn at(tier: Place, expert_bytes: Vec<u64>, experts: usize, plan: &crate::events::Plan, policy: Policy) -> Self {
        let layers = expert_bytes.len();
        let slots = plan.slots_per_layer.min(experts);
        let ahead = tier.ahead(None);
        let mut scheduler = Scheduler::new(layers, experts, slots, policy, admission(policy, plan.slot_step, ahead));
        if policy.weighs() {
            let [decode, prefill] = pace(plan.slot_step);
            scheduler.limit_fill(decode, prefill);
        }
        Self {
            tier,
            scheduler,
            curve: Curve::new(layers, experts, Some(CURVE_HALF_LIFE)),
            heat: Heat::new(layers, experts),
            expert_bytes,
            slots,
            by_layer: vec![slots; layers],
            spread: false,
            decoded: [0; 2],
            limit: plan.budget.map(|_| budget::slot_limit(plan)),
            slot_step: plan.slot_step,
            ahead_wish: None,
            ahead,
            rescheduled: false,
            min: plan.min_slots,
            phase: Phase::Decode,
            tokens: 0,
            tally: Tally::default(),
            grouped: Grouped::default(),
            routed: Vec::with_capacity(experts),
            place: vec![u16::MAX; experts],
            resident: resident::Resident::default(),
        }
    }

    /// The weighted sum of the routed experts of `layer` (index among MoE layers): `[tokens, hidden]` in, the same out.
    ///
    /// # Errors
    /// From the dot products or the device. All slots are then forgotten, since some may be half filled.
    pub fn forward(&mut self, layer: usize, x: &Tensor, routing: &Routing) -> Result<Tensor, ExpertError> {
        let done = self.tick(layer, x, routing);
        self.or_forget(done)
    }

    /// Experts of later layers that the token at hand will probably ask for begin to come, where copies run beside the computing.
    fn look_ahead(&mut self, after: Option<usize>) {
        let Place::Device(tier) = &mut self.tier else { return };
        for layer in self.scheduler.foreseen(after) {
            let swaps = self.scheduler.bring(layer);
            if let Err(e) = tier.bring(layer, swaps) {
                tracing::warn!("experts of layer {layer} could not be brought ahead, and all slots are forgotten: {e}");
                self.forget();
                return;
            }
            let layer = layer as u16;
            self.tally.ahead.extend(swaps.iter().map(|s| Ahead { layer, expert: s.expert }));
            self.tally.evicted.extend(swaps.iter().filter_map(|s| s.evicted).map(|expert| Eviction { layer, expert }));
        }
    }

    fn tick(&mut self, layer: usize, x: &Tensor, routing: &Routing) -> Result<Tensor, ExpertError> {
        self.plan(layer, routing)?;
        let Place::Host(tier) = &mut self.tier else { return Err(ExpertError::Elsewhere { layer }) };
        let (plan, tally) = (self.scheduler.plan(), &mut self.tally);
        let swaps = &plan.swaps;
        let start = Instant::now();
        tier.expect(layer, &mut plan.placed.iter().filter(|p| p.outcome != Outcome::Hit).map(|p| p.routed.expert));
        tally.time.misses += start.elapsed();
        // Before the products, so that an admitted expert is read from the file once, and the product finds it in the cache.
        if !swaps.is_empty() {
            let start = Instant::now();
            tally.uploaded += tier.upload(layer, swaps)?;
            tally.time.upload += start.elapsed();
        }
        tier.run(layer, x, routing, &self.grouped, &mut tally.time)
    }

    /// Where the device finds the slots of a layer's experts. See [`DeviceTier::table`].
    ///
    /// # Errors
    /// From the device, or there is none.
    pub fn device_table(&mut self, layer: usize) -> Result<Address, ExpertError> {
        let done = self.device(layer).and_then(|tier| tier.table(layer));
        self.or_forget(done)
    }

    /// Queue the products of the experts in slots. See [`DeviceTier::hits`].
    ///
    /// # Errors
    /// From the device, or there is none.
    pub fn device_hits(&mut self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError> {
        let done = self.device(layer).and_then(|tier| tier.hits(layer, rows));
        self.or_forget(done)
    }

    /// The rest of a tick on a device, whose rows the host has seen: the schedule, misses, copies into slots. See [`DeviceTier::rest`].
    ///
    /// # Errors
    /// From the dot products or the device. All slots are then forgotten, since some may be half filled.
    pub fn device_rest(&mut self, layer: usize, rows: &DeviceRows, host_rows: &[f32], routing: &Routing) -> Result<(), ExpertError> {
        self.settle();
        let done = self.plan(layer, routing).and_then(|()| {
            let Place::Device(tier) = &mut self.tier else { return Err(ExpertError::Elsewhere { layer }) };
            let (plan, tally) = (self.scheduler.plan(), &mut self.tally);
            tally.missed += tier.rest(layer, rows, host_rows, routing, &self.grouped, plan, &mut tally.time)?;
            self.settle();
            Ok(())
        });
        if done.is_ok() {
            self.look_ahead(Some(layer));
        }
        self.or_forget(done)
    }

    fn device(&mut self, layer: usize) -> Result<&mut dyn DeviceTier, ExpertError> {
        match &mut self.tier {
            Place::Device(tier) => Ok(&mut **tier),
            Place::Host(_) => Err(ExpertError::Elsewhere { layer }),
        }
    }

    /// Slots whose copies have failed are empty after all; how many.
    fn settle(&mut self) -> usize {
        let Place::Device(tier) = &mut self.tier else { return 0 };
        let refused = tier.refused();
        self.resident.told_of(refused.len());
        for &(layer, expert) in &refused {
            self.scheduler.revoke(layer, expert);
            let t = &mut self.tally;
            let begin = layer.checked_sub(1).and_then(|l| t.ends.get(l)).map_or(0, |&end| end as usize);
            let end = t.ends.get(layer).map_or(begin, |&end| end as usize);
            t.routed[begin..end].iter_mut().filter(|r| r.expert == expert).for_each(|r| r.outcome = Outcome::Miss);
        }
        refused.len()
    }

    fn or_forget<T>(&mut self, done: Result<T, ExpertError>) -> Result<T, ExpertError> {
        if done.is_err() {
            self.forget();
        }
        done
    }

    /// Decide a tick: fills `grouped`, the tally, and the scheduler's plan.
    fn plan(&mut self, layer: usize, routing: &Routing) -> Result<(), ExpertError> {
        let experts = self.scheduler.experts();
        let bad = routing.ids.iter().find(|&&id| id as usize >= experts);
        if bad.is_some() || layer >= self.expert_bytes.len() {
            return Err(ExpertError::Routing { layer, expert: bad.copied().unwrap_or(0), experts });
        }
        self.count(routing);
        // What the curve is for, a spread of slots over layers, is not for devices; and there every microsecond of a tick is one in which the device waits.
        if matches!(self.tier, Place::Host(_)) {
            self.curve.tick(layer, &self.routed, self.phase);
        }
        self.heat.note(layer, &self.routed);
        let plan = self.scheduler.tick(layer, &self.routed);
        let source = |p: &schedule::Placed| match p.outcome {
            Outcome::Hit => Source::Slot(p.slot),
            Outcome::Admitted => Source::Arriving(p.slot),
            Outcome::Miss => Source::Host,
        };
        let of = |outcome: Outcome| plan.placed.iter().filter(move |p| p.outcome == outcome).map(|p| (p.routed.expert, source(p)));
        self.grouped.fill(routing, experts, of(Outcome::Hit).chain(of(Outcome::Admitted)).chain(of(Outcome::Miss)));

        let tally = &mut self.tally;
        for p in &plan.placed {
            let Routed { expert, tokens, weight } = p.routed;
            tally.routed.push(RoutedExpert { expert, tokens, weight, outcome: p.outcome });
            // On a device, some misses go up instead: it tells what the host read.
            if p.outcome == Outcome::Miss && matches!(self.tier, Place::Host(_)) {
                tally.missed += self.expert_bytes[layer];
            }
        }
        // Layers run in order; one that was left out (a stopped step) keeps an empty range.
        tally.ends.resize(layer, tally.ends.last().copied().unwrap_or(0));
        tally.ends.push(tally.routed.len() as u32);
        let left = plan.swaps.iter().filter_map(|s| s.evicted);
        tally.evicted.extend(left.map(|expert| Eviction { layer: layer as u16, expert }));
        Ok(())
    }

    /// One entry per routed expert: in the router's order for a single token, by rising id otherwise.
    fn count(&mut self, routing: &Routing) {
        self.routed.clear();
        for (&id, &weight) in routing.ids.iter().zip(&routing.weights) {
            let place = &mut self.place[id as usize];
            if *place == u16::MAX {
                *place = self.routed.len() as u16;
                self.routed.push(Routed { expert: id as u16, tokens: 0, weight: 0.0 });
            }
            let r = &mut self.routed[usize::from(*place)];
            r.tokens = r.tokens.saturating_add(1);
            r.weight += weight;
        }
        for r in &self.routed {
            self.place[usize::from(r.expert)] = u16::MAX;
        }
        if routing.ids.len() > routing.top_k {
            self.routed.sort_unstable_by_key(|r| r.expert);
        }
    }

    /// Nothing is resident any more.
    fn forget(&mut self) {
        if let Place::Device(tier) = &mut self.tier {
            tier.forget();
        }
        self.scheduler.resize(0);
        self.scheduler.resize_layers(&self.by_layer);
    }

    /// Begin a step; what happens until [`Experts::end_step`] goes into one record.
    pub fn begin_step(&mut self, phase: Phase, tokens: usize) {
        if let Place::Device(tier) = &mut self.tier {
            tier.begin_step();
        }
        self.look_at_ahead();
        self.phase = phase;
        self.tokens = tokens;
        self.scheduler.begin_step(phase, tokens as u32);
        self.resident.begin_step(tokens);
        let t = &mut self.tally;
        t.ends.clear();
        t.routed.clear();
        t.evicted.clear();
        t.ahead.clear();
        (t.time, t.uploaded, t.missed) = (TierTime::default(), 0, 0);
        self.look_ahead(None);
    }

    /// Fill the expert part of the step's record (routing, occupancy, bytes, expert times).
    pub fn end_step(&mut self, record: &mut StepRecord) {
        self.curve.end_step(self.tokens as u32);
        if let Place::Device(tier) = &mut self.tier {
            match tier.end_step() {
                Ok(step) => {
                    self.tally.time.hits += self.resident.hits(step.hits);
                    self.tally.time.upload += step.upload;
                    self.tally.uploaded += step.uploaded;
                    self.settle();
                }
                Err(e) => {
                    tracing::warn!("the device failed at the end of a step, and its slots are forgotten: {e}");
                    self.forget();
                }
            }
        }
        self.heat.end_step(self.tokens as u32);
        self.decoded[0] += if self.phase == Phase::Decode { self.tokens as u64 } else { 0 };
        let t = &mut self.tally;
        record.phase = self.phase;
        record.tokens = self.tokens as u32;
        record.slots = self.slots as u16;
        record.ends.clone_from(&t.ends);
        record.routed.clone_from(&t.routed);
        record.evicted.clone_from(&t.evicted);
        record.ahead.clone_from(&t.ahead);
        record.slot_of.clear();
        record.slot_of.extend_from_slice(self.scheduler.slot_table());
        let micros = |d: std::time::Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
        record.time.hits_us = micros(t.time.hits);
        record.time.misses_us = micros(t.time.misses);
        record.time.upload_us = micros(t.time.upload);
        record.bytes_uploaded = t.uploaded;
        record.bytes_missed = t.missed;
    }

    /// Change the slots per layer at a step boundary. Returns what was granted: never more than the budget allows
    /// ([`Experts::slot_limit`]), never fewer than the least.
    ///
    /// # Errors
    /// From the device; the slots are then as before, and empty.
    pub fn resize(&mut self, slots: usize) -> Result<usize, ExpertError> {
        let mut granted = slots.min(self.slot_limit()).max(self.min).min(self.scheduler.experts());
        self.resident.resized();
        let wanted = self.wanted(granted);
        let done = match &mut self.tier {
            Place::Host(tier) => tier.resize(&wanted, &self.scheduler.resize_layers(&wanted).moves).map(|()| self.by_layer = wanted),
            // What a device can give is known when it has given it.
            Place::Device(tier) if granted > self.slots => tier.resize(granted, &[]).map(|given| {
                granted = given;
                self.scheduler.resize(given);
            }),
            Place::Device(tier) => {
                let change = self.scheduler.resize(granted);
                change.evicted.iter().for_each(|e| tier.evict(e.layer, e.expert));
                tier.resize(granted, &change.moves).map(|_| ())
            }
        };
        if let Err(e) = done {
            self.forget();
            return Err(e);
        }
        if matches!(self.tier, Place::Device(_)) {
            self.by_layer.fill(granted);
        }
        self.slots = granted;
        Ok(granted)
    }

    /// Slots of each layer at a mean of `slots`: equal, or as the curves say if they are spread and enough was seen.
    fn wanted(&self, slots: usize) -> Vec<usize> {
        if !self.spread || self.decoded[0] < SPREAD_AFTER {
            return vec![slots; self.by_layer.len()];
        }
        spread::spread(&spread::hits(&self.curve), &self.expert_bytes, slots, spread::least(slots).max(self.min))
    }

    /// Give layers that gain more from a slot more of them, under the same total of bytes, or all the same again. Returns the slots of
    /// each layer. Which layers gain is learned from the session, so a spread begins when enough was seen and is looked at again from
    /// time to time by [`Experts::respread`].
    ///
    /// # Errors
    /// From the tier; on a device, whose layers have equal slots.
    pub fn set_spread(&mut self, on: bool) -> Result<&[usize], ExpertError> {
        if on && matches!(self.tier, Place::Device(_)) {
            return Err(ExpertError::EqualSlots);
        }
        if std::mem::replace(&mut self.spread, on) != on {
            self.resize(self.slots)?;
        }
        Ok(&self.by_layer)
    }

    /// Slots of each layer while they are spread; `None` if they are to be equal.
    #[must_use]
    pub fn spread_now(&self) -> Option<&[usize]> {
        self.spread.then_some(&*self.by_layer)
    }

    /// At a step boundary: spread the slots anew if it is time and pays. Returns the slots of each layer if they changed.
    ///
    /// # Errors
    /// From the tier.
    pub fn respread(&mut self) -> Result<Option<&[usize]>, ExpertError> {
        if !self.spread || self.decoded[0] < SPREAD_AFTER.max(self.decoded[1] + SPREAD_EVERY) {
            return Ok(None);
        }
        self.decoded[1] = self.decoded[0];
        let (hits, wanted) = (spread::hits(&self.curve), self.wanted(self.slots));
        let rate = |slots: &[usize]| spread::hit_rate(&self.curve, &hits, slots);
        if rate(&wanted) < rate(&self.by_layer) + SPREAD_GAIN {
            return Ok(None);
        }
        self.resize(self.slots)?;
        Ok(Some(&self.by_layer))
    }

    /// Fill empty slots with the experts that earlier sessions used most, and go on from their heat. `progress` gets bytes done
    /// and in all after each piece and answers false to give up; then nothing is resident, and `None` is returned. Else how many
    /// experts got a slot.
    ///
    /// # Errors
    /// From the copies. All slots are then forgotten.
    pub fn warm(&mut self, heat: Heat, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<usize>, ExpertError> {
        let ranked: Vec<Vec<u16>> = (0..self.expert_bytes.len()).map(|l| heat.ranked(l)).collect();
        self.heat = heat;
        let free = |l: usize| self.scheduler.slots(l) - self.scheduler.occupied(l);
        let total = ranked.iter().zip(&self.expert_bytes).enumerate().map(|(l, (r, b))| b * r.len().min(free(l)) as u64).sum();
        let (mut done, mut filled) = (0, 0);
        for (layer, experts) in ranked.iter().enumerate() {
            let swaps = self.scheduler.prefill(layer, experts);
            let piece = usize::try_from(WARM_PIECE / self.expert_bytes[layer].max(1)).unwrap_or(usize::MAX).max(1);
            for swaps in swaps.chunks(piece) {
                let copied = match &mut self.tier {
                    Place::Host(tier) => tier.upload(layer, swaps),
                    Place::Device(tier) => tier.fill(layer, swaps),
                };
                match copied {
                    Ok(bytes) => done += bytes,
                    Err(e) => {
                        self.forget();
                        return Err(e);
                    }
                }
                filled += swaps.len();
                if !progress(done, total) {
                    self.forget();
                    return Ok(None);
                }
            }
        }
        Ok(Some(filled - self.settle()))
    }

    /// Use of the experts over this and earlier sessions.
    #[must_use]
    pub fn heat(&self) -> &Heat {
        &self.heat
    }

    /// Slots per layer now.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Most slots per layer that memory gives: by the plan if there was a budget, by what is free now if there was none.
    #[must_use]
    pub fn slot_limit(&self) -> usize {
        if let Place::Device(tier) = &self.tier {
            return tier.limit().min(self.limit.unwrap_or(usize::MAX)).min(self.scheduler.experts());
        }
        let limit = self.limit.unwrap_or_else(|| {
            let free = (crate::kernels::memory::available() as f64 * GROWTH) as u64;
            let more = usize::try_from(free.checked_div(self.slot_step).unwrap_or(0)).unwrap_or(usize::MAX);
            self.slots.saturating_add(more)
        });
        limit.min(self.scheduler.experts())
    }

    /// Fewest slots per layer.
    #[must_use]
    pub fn min_slots(&self) -> usize {
        self.min
    }

    /// Change the replacement policy by name; residents stay.
    ///
    /// # Errors
    /// A name that is not a policy.
    pub fn set_policy(&mut self, name: &str) -> Result<(), ExpertError> {
        let policy: Policy = name.parse()?;
        self.scheduler.set_policy(policy, admission(policy, self.slot_step, self.ahead));
        let [decode, prefill] = if policy.weighs() { pace(self.slot_step) } else { [usize::MAX; 2] };
        self.scheduler.limit_fill(decode, prefill);
        Ok(())
    }

    /// Bring at most so many experts per look at a coming layer before a token asks for them, on devices whose copies run beside the computing. `None`: as many as the policy
    /// does by itself, or none where that is unlikely to pay.
    pub fn set_ahead(&mut self, ahead: Option<usize>) {
        self.ahead_wish = ahead;
        self.ahead = self.tier.ahead(ahead);
        let policy = self.scheduler.policy();
        self.scheduler.set_policy(policy, admission(policy, self.slot_step, self.ahead));
    }

    /// Whether experts come ahead may be another matter when they are held in page-locked memory.
    fn look_at_ahead(&mut self) {
        if self.ahead != self.tier.ahead(self.ahead_wish) {
            self.set_ahead(self.ahead_wish);
            self.rescheduled = true;
        }
    }

    /// Whether the way in which experts get slots has changed by itself since this was last asked.
    pub fn rescheduled(&mut self) -> bool {
        std::mem::take(&mut self.rescheduled)
    }

    /// Between two steps: wait until all experts that are being copied into page-locked memory and huge pages are there. `None` if none are; see [`vram::Held`].
    pub fn hold_all(&mut self) -> Option<vram::Held> {
        let Place::Device(tier) = &mut self.tier else { return None };
        tier.await_held(usize::MAX);
        let held = tier.held();
        self.look_at_ahead();
        held
    }

    /// How fast a device's link and host are, by the last measurement.
    #[must_use]
    pub fn rates(&self) -> Option<vram::Rates> {
        match &self.tier {
            Place::Device(tier) => tier.rates(),
            Place::Host(_) => None,
        }
    }

    /// The scheduler, to look at.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Predicted hit rates for every slot count. Nothing on a device: what it is for here is a spread of slots over layers.
    #[must_use]
    pub fn curve(&self) -> &Curve {
        &self.curve
    }

    /// Bytes in occupied slots.
    #[must_use]
    pub fn bytes_used(&self) -> u64 {
        self.expert_bytes.iter().enumerate().map(|(l, b)| b * self.scheduler.occupied(l) as u64).sum()
    }
}

/// Bytes that one generated token may copy into slots, as far as one expert per layer allows. The host computes a miss nearly
/// as fast as a hit, so a slot is worth its copy only over many tokens.
const COPIES_PER_TOKEN: u64 = 48 << 20;
/// The same for a chunk of the prompt.
const COPIES_PER_CHUNK: u64 = 512 << 20;

/// Copies per layer that a decode tick and a prefill tick may make.
fn pace(slot_step: u64) -> [usize; 2] {
    [COPIES_PER_TOKEN, COPIES_PER_CHUNK].map(|bytes| usize::try_from(bytes / slot_step.max(1)).unwrap_or(usize::MAX).max(1))
}

/// How readily misses get slots: the policy's own way, and `rotary` at the pace above. The textbook policies admit every miss.
fn admission(policy: Policy, slot_step: u64, ahead: Option<usize>) -> policy::Admission {
    let usual = policy::Overlay { ahead, ..policy::Overlay::default() }.over(policy);
    if !policy.weighs() {
        return usual;
    }
    let [decode, prefill] = pace(slot_step);
    policy::Admission { per_tick: usual.per_tick.min(decode), per_prefill_tick: usual.per_prefill_tick.min(prefill), ..usual }
}

/// Generated tokens before the curves are trusted with a spread, and between two looks at it.
const SPREAD_AFTER: u64 = 128;
const SPREAD_EVERY: u64 = 128;
/// Hit rate that another spread must promise.
const SPREAD_GAIN: f64 = 0.005;
/// Bytes that a warm start copies between two looks at whether it is still wanted.
const WARM_PIECE: u64 = 64 << 20;
/// Without a budget, slots may grow into this share of the memory that is free at that moment.
const GROWTH: f64 = 0.8;
/// Tokens after which a use counts half in the curve, so that it follows the conversation.
const CURVE_HALF_LIFE: f64 = 2000.0;
