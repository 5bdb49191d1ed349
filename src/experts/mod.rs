//! The heart: routed experts in a host store, some of them in slots, and the schedule that decides which.
//!
//! | file | idea |
//! |---|---|
//! | [`store`] | host tier: where every expert's bytes are in the mapped file |
//! | [`tier`] | what a device tier offers: run, upload, resize |
//! | [`slots`] | the CPU tier: slots in RAM |
//! | [`vram`] | the device tier: slots in VRAM |
//! | `sizing` | how many slots each layer has |
//! | `pace` | how readily experts get slots |
//! | `warm` | slots filled with what earlier sessions used |
//! | `run` | the products of a layer's routed experts, on the CPU |
//! | `on_device` | a tick on a device, in its pieces |
//! | `apart` | a layer that ticks outside of the order of the others |
//! | `resident` | tokens that find every expert in a slot of a device, and how it comes to that |
//! | [`schedule`], [`policy`] | pure: which expert gets a slot, who leaves |
//! | [`foresight`] | what the routers of later layers say of a token before their turn |
//! | [`measures`], [`recall`], [`duels`] | what policies know: uses, what followed similar moments, how admissions turned out |
//! | [`curve`], [`knee`] | hit rate for every slot count, from stack distances; where it bends |
//! | [`spread`] | slots by layer, under the same total |
//! | [`heat`] | use of a model's experts over all sessions, for the next start |
//! | [`budget`] | the memory plan |

mod apart;
pub mod budget;
pub mod curve;
pub mod duels;
mod error;
pub mod foresight;
pub mod heat;
pub mod knee;
pub mod measures;
mod on_device;
mod pace;
pub mod policy;
pub mod recall;
mod resident;
mod run;
pub mod schedule;
mod sizing;
pub mod slots;
pub mod spread;
pub mod store;
pub mod tier;
pub mod vram;
mod warm;

pub use budget::BudgetError;
pub use error::ExpertError;

use crate::events::{Ahead, Eviction, Foreseen, Outcome, Phase, RoutedExpert, StepRecord};
use candle_core::Tensor;
use curve::Curve;
use heat::Heat;
use pace::{admission, pace};
use policy::Policy;
use schedule::{Routed, Scheduler};
use std::time::Instant;
use tier::{Brings, DeviceTier, Grouped, Source, Tier, TierTime};

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
    foreseen: Vec<Foreseen>,
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
    apart: apart::Apart,
    grouped: Grouped,
    routed: Vec<Routed>,
    /// `None`: routers are not asked before their turn.
    asking: Option<foresight::Asking>,
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
            apart: apart::Apart::default(),
            grouped: Grouped::default(),
            routed: Vec::with_capacity(experts),
            asking: None,
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

    fn or_forget<T>(&mut self, done: Result<T, ExpertError>) -> Result<T, ExpertError> {
        if done.is_err() {
            self.forget();
        }
        done
    }

    /// Whether a routing names what there is.
    fn check(&self, layer: usize, routing: &Routing) -> Result<(), ExpertError> {
        let experts = self.scheduler.experts();
        let bad = routing.ids.iter().find(|&&id| id as usize >= experts);
        if bad.is_some() || layer >= self.expert_bytes.len() {
            return Err(ExpertError::Routing { layer, expert: bad.copied().unwrap_or(0), experts });
        }
        Ok(())
    }

    /// Decide a tick: fills `grouped`, the tally, and the scheduler's plan.
    fn plan(&mut self, layer: usize, routing: &Routing) -> Result<(), ExpertError> {
        self.check(layer, routing)?;
        let experts = self.scheduler.experts();
        self.count(routing);
        let apart = self.apart.is(layer);
        let rows = (routing.ids.len() / routing.top_k.max(1)) as u32;
        let phase = if apart { self.scheduler.phase_apart(rows) } else { self.phase };
        // What the curve is for, a spread of slots over layers, is not for devices; and there every microsecond of a tick is one in which the device waits.
        if matches!(self.tier, Place::Host(_)) {
            self.curve.tick(layer, &self.routed, phase);
        }
        self.heat.note(layer, &self.routed);
        let plan = match apart {
            true => self.scheduler.tick_apart(layer, &self.routed, rows),
            false => self.scheduler.tick(layer, &self.routed),
        };
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
            let one = RoutedExpert { expert, tokens, weight, outcome: p.outcome };
            if !apart {
                tally.routed.push(one);
            } else if phase == self.phase {
                // Rows of a prompt that are read late are no part of what a token asked for.
                self.apart.add(one);
            }
            // On a device, some misses go up instead: it tells what the host read.
            if p.outcome == Outcome::Miss && matches!(self.tier, Place::Host(_)) {
                tally.missed += self.expert_bytes[layer];
            }
        }
        // Layers run in order; one that was left out (a stopped step) keeps an empty range.
        if !apart {
            tally.ends.resize(layer, tally.ends.last().copied().unwrap_or(0));
            tally.ends.push(tally.routed.len() as u32);
        }
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
        self.resident.begin_step(phase, tokens);
        let t = &mut self.tally;
        t.ends.clear();
        t.routed.clear();
        t.evicted.clear();
        t.ahead.clear();
        t.foreseen.clear();
        self.apart.begin_step();
        (t.time, t.uploaded, t.missed) = (TierTime::default(), 0, 0);
        self.forget_foreseen();
        let _ = self.look_ahead(None);
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
        self.apart.end_step(&mut t.ends, &mut t.routed);
        record.phase = self.phase;
        record.tokens = self.tokens as u32;
        record.slots = self.slots as u16;
        record.ends.clone_from(&t.ends);
        record.routed.clone_from(&t.routed);
        record.evicted.clone_from(&t.evicted);
        record.ahead.clone_from(&t.ahead);
        record.foreseen.clone_from(&t.foreseen);
        record.slot_of.clear();
        record.slot_of.extend_from_slice(self.scheduler.slot_table());
        let micros = |d: std::time::Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
        record.time.hits_us = micros(t.time.hits);
        record.time.misses_us = micros(t.time.misses);
        record.time.upload_us = micros(t.time.upload);
        record.bytes_uploaded = t.uploaded;
        record.bytes_missed = t.missed;
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

/// Tokens after which a use counts half in the curve, so that it follows the conversation.
const CURVE_HALF_LIFE: f64 = 2000.0;
