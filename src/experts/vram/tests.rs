use super::*;
use crate::events::{Outcome, Phase, Plan, StepRecord, StepTime};
use crate::experts::policy::Policy;
use crate::experts::slots::CpuTier;
use crate::experts::store::{LayerExperts, Projection};
use crate::experts::Experts;
use crate::gguf::{Bytes, GgmlType};
use crate::gpu::device::{record, Facts, Recording, Touch};
use crate::gpu::params::{launch, Route, Shape};
use crate::gpu::simulated::{Faults, Options, Order, Simulated};
use crate::gpu::{GpuError, Pinned};
use candle_core::Tensor;
use proptest::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const EXPERTS: usize = 24;
const TOP_K: usize = 3;
const HIDDEN: usize = 64;
const ROWS: usize = 40;
/// A host as slow as makes both ways worth going.
const RATES: Rates = Rates { fill: 40e9, link: 24e9, host: 24e9, join: 0.0, launch: 0.0 };

/// Three layers whose experts differ in type and size.
pub(super) fn store() -> ExpertStore {
    let mut rng = fastrand::Rng::with_seed(5);
    let kinds = [(GgmlType::F32, 32), (GgmlType::Q8_0, 96), (GgmlType::F16, 32)];
    let layers = kinds.map(|(ty, ff)| {
        let shape = [(ff, HIDDEN), (ff, HIDDEN), (HIDDEN, ff)].map(|(rows, cols)| Projection { ty, rows, cols });
        let mut part = |p: &Projection| {
            let value = |rng: &mut fastrand::Rng| rng.f32() * 0.4 - 0.2;
            let bytes = match ty {
                GgmlType::F32 => (0..p.rows * p.cols).flat_map(|_| value(&mut rng).to_le_bytes()).collect(),
                GgmlType::F16 => (0..p.rows * p.cols).flat_map(|_| half::f16::from_f32(value(&mut rng)).to_le_bytes()).collect(),
                _ => (0..p.rows * p.cols / 32)
                    .flat_map(|_| {
                        let scale = half::f16::from_f32(0.002).to_le_bytes();
                        let codes: Vec<u8> = (0..32).map(|_| rng.i8(-100..100) as u8).collect();
                        scale.into_iter().chain(codes)
                    })
                    .collect::<Vec<u8>>(),
            };
            Bytes::from_vec(bytes)
        };
        let experts = (0..EXPERTS).map(|_| std::array::from_fn(|i| part(&shape[i]))).collect();
        LayerExperts { shape, experts }
    });
    ExpertStore { layers: layers.into(), experts: EXPERTS, top_k: TOP_K, hidden: HIDDEN }
}

fn plan(slots: usize) -> Plan {
    Plan { slots_per_layer: slots, min_slots: 1, max_slots: EXPERTS, slot_step: 60_000, ..Plan::default() }
}

/// A decoder of nothing but routers and experts, on a device and on the CPU.
pub(super) struct Session {
    pub(super) sim: Simulated,
    pub(super) device: Arc<dyn Device>,
    pub(super) experts: Experts,
    cpu: Experts,
    pub(super) rng: fastrand::Rng,
    pub(super) memory: Memory,
    pub(super) pinned: Pinned,
    /// A token queued whole, with the number of its slots.
    recorded: Option<(u64, Recording)>,
    /// How many were.
    wholes: usize,
    pub(super) record: StepRecord,
}

/// Of a layer's buffers on the device: x, y, scores, ids, weights, slots, each with room for [`ROWS`] rows.
const WIDTHS: [usize; 6] = [HIDDEN, HIDDEN, EXPERTS, TOP_K, TOP_K, TOP_K];

fn place(layer: usize, buffer: usize, tokens: usize) -> Range<usize> {
    let all: usize = WIDTHS.iter().sum();
    let begin = (layer * all + WIDTHS[..buffer].iter().sum::<usize>()) * ROWS * 4;
    begin..begin + WIDTHS[buffer] * tokens * 4
}

pub(super) struct Setup {
    pub(super) slots: usize,
    pub(super) order: Order,
    pub(super) miss: MissChoice,
    pub(super) memory: u64,
    pub(super) reserve: u64,
    pub(super) pinned: u64,
    pub(super) couriers: usize,
    pub(super) timed_every: u32,
    pub(super) hold: Hold,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            slots: 4,
            order: Order::Late,
            miss: MissChoice::Auto,
            memory: 64 << 20,
            reserve: 0,
            pinned: 4 << 20,
            couriers: 0,
            timed_every: 1,
            hold: Hold::NEVER,
        }
    }
}

impl Session {
    pub(super) fn new(setup: &Setup) -> Self {
        Self::on(setup, |sim| Arc::new(sim))
    }

    /// One of whose device's calls some fail from the beginning.
    pub(super) fn with_faults(setup: &Setup, faults: Faults) -> Self {
        Self::on(setup, |sim| {
            sim.fail(faults);
            Arc::new(sim)
        })
    }

    fn on(setup: &Setup, wrap: impl FnOnce(Simulated) -> Arc<dyn Device>) -> Self {
        let sim = Simulated::new(Options { memory: setup.memory, order: setup.order, ..Options::default() });
        let device = wrap(sim.clone());
        let pool = Pool::new(1);
        let bytes = store().expert_bytes();
        let options = VramOptions {
            miss: setup.miss,
            pinned: setup.pinned,
            reserve: setup.reserve,
            rows: ROWS,
            couriers: setup.couriers,
            hold: setup.hold,
        };
        let room = place(2, 5, ROWS).end;
        let (memory, pinned) = (device.alloc(room).unwrap(), device.pinned(room).unwrap());
        if setup.pinned == 0 {
            sim.fail(Faults { pinned: Some(0), ..Faults::default() });
        }
        let tier = VramTier::with_rates(device.clone(), store(), setup.slots, pool.clone(), options, RATES).unwrap();
        let plan = plan(setup.slots);
        let mut experts = Experts::on_device(Box::new(tier), bytes.clone(), EXPERTS, &plan, Policy::Rotary);
        experts.time_hits_every(setup.timed_every);
        let cpu = CpuTier::new(store(), pool, None).unwrap();
        let cpu = Experts::new(Box::new(cpu), bytes, EXPERTS, &plan, Policy::Rotary);
        Self {
            sim,
            device,
            experts,
            cpu,
            rng: fastrand::Rng::with_seed(1),
            memory,
            pinned,
            recorded: None,
            wholes: 0,
            record: StepRecord::default(),
        }
    }

    fn floats(&self, range: Range<usize>) -> Vec<f32> {
        let mut out = Vec::new();
        self.pinned.read(range, &mut |bytes| out.extend(bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))));
        out
    }

    fn put(&self, range: Range<usize>, values: &[f32]) {
        self.pinned.write(range, &mut |bytes| bytes.copy_from_slice(bytemuck::cast_slice(values)));
    }

    /// [`Session::step`]; after a failure all lanes come to rest, since the next step writes the same page-locked memory.
    pub(super) fn device_step(&mut self, tokens: usize, hot: usize) -> Result<Vec<Vec<f32>>, ExpertError> {
        let done = self.step(tokens, hot);
        if done.is_err() {
            self.device.sync(&self.device.mark(Lane::Compute)?)?;
        }
        done
    }

    /// A step with this many tokens, whose routing favours the experts around `hot`. What the device gives, layer after layer.
    pub(super) fn step(&mut self, tokens: usize, hot: usize) -> Result<Vec<Vec<f32>>, ExpertError> {
        let phase = if tokens == 1 { Phase::Decode } else { Phase::Prefill };
        let device = self.device.clone();
        self.experts.begin_step(phase, tokens);
        let inputs: Vec<[Vec<f32>; 2]> = (0..3)
            .map(|layer| {
                let x: Vec<f32> = (0..tokens * HIDDEN).map(|_| self.rng.f32() * 2.0 - 1.0).collect();
                let favour = |e: usize| if (e + 2 * EXPERTS - hot - layer) % EXPERTS < 6 { 1.0 } else { 0.0 };
                let scores: Vec<f32> = (0..tokens * EXPERTS).map(|i| self.rng.f32() * 4.0 + favour(i % EXPERTS)).collect();
                [x, scores]
            })
            .collect();
        match (tokens == 1).then(|| self.experts.whole_token()).flatten() {
            Some(slots) => self.whole(slots, &inputs)?,
            None => {
                for (layer, [x, scores]) in inputs.iter().enumerate() {
                    self.send(layer, x, scores, tokens)?;
                    let table = self.experts.device_table(layer)?;
                    let rows = self.route(layer, tokens, table)?;
                    let known = device.mark(Lane::Compute)?;
                    self.experts.device_hits(layer, &rows)?;
                    device.sync(&known)?;
                    let routing = self.routing(layer, tokens);
                    self.experts.device_rest(layer, &rows, x, &routing)?;
                    device.download(Lane::Compute, self.at(layer, 1, tokens), &self.pinned, place(layer, 1, tokens))?;
                }
                device.sync(&device.mark(Lane::Compute)?)?;
            }
        }
        let mut record = std::mem::take(&mut self.record);
        self.experts.end_step(&mut record);
        record.time = StepTime::default();
        self.record = record;
        self.hits_are_what_the_device_found(tokens);
        let out = (0..3).map(|layer| self.floats(place(layer, 1, tokens))).collect();
        // The CPU answers the same question.
        self.cpu.begin_step(phase, tokens);
        for (layer, [x, _]) in inputs.into_iter().enumerate() {
            let x = Tensor::from_vec(x, (tokens, HIDDEN), &candle_core::Device::Cpu)?;
            let y = self.cpu.forward(layer, &x, &self.routing(layer, tokens))?;
            let y = y.flatten_all()?.to_vec1::<f32>()?;
            let got: &Vec<Vec<f32>> = &out;
            close(&got[layer], &y, layer);
        }
        self.cpu.end_step(&mut StepRecord::default());
        Ok(out)
    }

    /// What the record calls a hit is what the router's kernel found in the table, or came ahead.
    fn hits_are_what_the_device_found(&self, tokens: usize) {
        for layer in 0..3 {
            let [ids, slots] = [3, 5].map(|buffer| self.floats(place(layer, buffer, tokens)));
            for r in self.record.layer(layer) {
                let i = ids.iter().position(|id| id.to_bits() == u32::from(r.expert)).unwrap();
                let found = slots[i].to_bits() as i32 >= 0;
                let came = self.record.ahead.iter().any(|a| usize::from(a.layer) == layer && a.expert == r.expert);
                // One that came ahead is in the table only if this is not the tick that it came for.
                assert!(r.outcome == Outcome::Hit || !found, "layer {layer}, expert {}", r.expert);
                assert!(r.outcome != Outcome::Hit || found != came, "layer {layer}, expert {}", r.expert);
            }
        }
    }

    fn at(&self, layer: usize, buffer: usize, tokens: usize) -> Address {
        self.memory.at(place(layer, buffer, tokens).start, WIDTHS[buffer] * tokens * 4)
    }

    /// A layer's input and scores go up, and what is to be summed begins at zero.
    fn send(&self, layer: usize, x: &[f32], scores: &[f32], tokens: usize) -> Result<(), GpuError> {
        for (buffer, values) in [(0, x), (2, scores)] {
            self.put(place(layer, buffer, tokens), values);
            self.device.upload(Lane::Compute, self.at(layer, buffer, tokens), &self.pinned, place(layer, buffer, tokens))?;
        }
        self.device.clear(Lane::Compute, self.at(layer, 1, tokens), WIDTHS[1] * tokens * 4)
    }

    /// Queue the choice, and its way down.
    fn route(&self, layer: usize, tokens: usize, table: Address) -> Result<DeviceRows, GpuError> {
        let at = |buffer| self.at(layer, buffer, tokens);
        let route = Route {
            scores: at(2),
            table,
            ids: at(3),
            weights: at(4),
            slots: at(5),
            tokens: tokens as u32,
            experts: EXPERTS as u32,
            top_k: TOP_K as u32,
            renormalise: 1,
            scale: 1.0,
            pad: 0,
        };
        launch(&*self.device, &route, &[])?;
        for buffer in [3, 4, 5] {
            self.device.download(Lane::Compute, at(buffer), &self.pinned, place(layer, buffer, tokens))?;
        }
        Ok(DeviceRows { tokens, top_k: TOP_K, x: at(0), ids: at(3), weights: at(4), slots: at(5), y: at(1) })
    }

    /// A token that finds everything in slots: recorded once under these slots, and one wait for all layers.
    fn whole(&mut self, slots: u64, inputs: &[[Vec<f32>; 2]]) -> Result<(), ExpertError> {
        let device = self.device.clone();
        let tables = (0..3).map(|layer| self.experts.device_table(layer)).collect::<Result<Vec<_>, _>>()?;
        for (layer, [x, scores]) in inputs.iter().enumerate() {
            self.send(layer, x, scores, 1)?;
        }
        let before = self.recorded.take();
        let queue = || -> Result<(), ExpertError> {
            for (layer, &table) in tables.iter().enumerate() {
                let rows = self.route(layer, 1, table)?;
                self.experts.device_queue(layer, &rows)?;
                device.download(Lane::Compute, self.at(layer, 1, 1), &self.pinned, place(layer, 1, 1))?;
            }
            Ok(())
        };
        let recorded = match before {
            Some((of, recorded)) if of == slots => Some(recorded),
            _ => record(&*device, queue).ok(),
        };
        let queued = match &recorded {
            Some(recorded) => device.replay(recorded).map_err(ExpertError::from),
            None => queue(),
        };
        self.recorded = recorded.map(|r| (slots, r));
        self.experts.device_queued()?;
        queued?;
        device.sync(&device.mark(Lane::Compute)?)?;
        for layer in 0..3 {
            self.experts.device_tick(layer, &self.routing(layer, 1))?;
        }
        self.wholes += 1;
        Ok(())
    }

    fn routing(&self, layer: usize, tokens: usize) -> Routing {
        let ids = self.floats(place(layer, 3, tokens)).iter().map(|v| v.to_bits()).collect();
        Routing { top_k: TOP_K, ids, weights: self.floats(place(layer, 4, tokens)) }
    }

    /// The device's own tables say what the scheduler says.
    pub(super) fn tables_agree(&mut self) {
        for layer in 0..3 {
            let at = self.experts.device_table(layer).unwrap();
            let table = self.sim.peek(at, EXPERTS * 4).unwrap();
            for (expert, slot) in table.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])).enumerate() {
                let wanted = self.experts.scheduler().slot_of(layer, expert as u16).map_or(-1, i32::from);
                assert_eq!(slot, wanted, "layer {layer}, expert {expert}");
            }
        }
    }

    fn resident(&self) -> usize {
        (0..3).map(|l| self.experts.scheduler().occupied(l)).sum()
    }
}

/// The CPU rounds activations to 12 bits beside quantized weights, the reference does not round at all.
fn close(got: &[f32], wanted: &[f32], layer: usize) {
    let norm = (wanted.iter().map(|v| v * v).sum::<f32>() / wanted.len() as f32).sqrt();
    for (i, (g, w)) in got.iter().zip(wanted).enumerate() {
        assert!((g - w).abs() <= 4e-3 * norm, "layer {layer}, value {i}: {g} for {w} (norm {norm})");
    }
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Step(usize, usize),
    Resize(usize),
    Policy(&'static str),
    FillUp,
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0usize..EXPERTS).prop_map(|hot| Act::Step(1, hot)),
        1 => (2usize..=8, 0usize..EXPERTS).prop_map(|(n, hot)| Act::Step(n, hot)),
        2 => (9usize..=ROWS, 0usize..EXPERTS).prop_map(|(n, hot)| Act::Step(n, hot)),
        2 => (0usize..=EXPERTS).prop_map(Act::Resize),
        1 => prop::sample::select(vec!["lru", "lfu", "rotary"]).prop_map(Act::Policy),
    ]
}

/// Acts of a session that mostly has a slot for every expert.
fn roomy_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0usize..EXPERTS).prop_map(|hot| Act::Step(1, hot)),
        1 => (2usize..=ROWS, 0usize..EXPERTS).prop_map(|(n, hot)| Act::Step(n, hot)),
        1 => (1usize..EXPERTS).prop_map(Act::Resize),
        3 => Just(Act::Resize(EXPERTS)),
        3 => Just(Act::FillUp),
        1 => prop::sample::select(vec!["lru", "lfu", "rotary"]).prop_map(Act::Policy),
    ]
}

impl Session {
    /// What the device gave, layer after layer; nothing if it was no step.
    pub(super) fn act(&mut self, act: &Act) -> Result<Vec<Vec<f32>>, ExpertError> {
        match *act {
            Act::Step(tokens, hot) => return self.device_step(tokens, hot),
            Act::Resize(n) => {
                self.experts.resize(n)?;
            }
            Act::Policy(name) => self.experts.set_policy(name)?,
            Act::FillUp => self.experts.fill_up(),
        }
        Ok(Vec::new())
    }
}

pub(super) fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        prop::sample::select(vec![Order::Queued, Order::Late, Order::CopyFirst, Order::ComputeFirst]),
        any::<u64>().prop_map(Order::Random),
    ]
}

pub(super) fn miss() -> impl Strategy<Value = MissChoice> {
    prop::sample::select(vec![MissChoice::Auto, MissChoice::Gpu, MissChoice::Cpu])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_session_on_any_schedule_answers_like_the_cpu_and_nothing_races(
        slots in 1usize..=EXPERTS, order in order(), miss in miss(), pin in any::<bool>(), couriers in 0usize..3,
        acts in prop::collection::vec(act(), 1..14),
    ) {
        let mut s = Session::new(&Setup { slots, order, miss, pinned: if pin { 200_000 } else { 0 }, couriers, ..Setup::default() });
        for act in acts {
            drop(s.act(&act).unwrap());
        }
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
        let Session { sim, device, experts, memory, pinned, .. } = s;
        drop((device, experts, memory, pinned));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0), "everything is given back");
    }

    #[test]
    fn tokens_queued_whole_give_the_bits_and_the_records_of_ticks_one_by_one(
        order in order(), miss in miss(), pin in any::<bool>(), couriers in 0usize..3, timed_every in 2u32..6,
        acts in prop::collection::vec(roomy_act(), 1..20),
    ) {
        let pinned = if pin { 200_000 } else { 0 };
        let setup = |timed_every| Setup { slots: EXPERTS, order, miss, pinned, couriers, timed_every, ..Setup::default() };
        let (mut ticks, mut whole) = (Session::new(&setup(1)), Session::new(&setup(timed_every)));
        // Fill; the first token brings up what was put off, the second is timed.
        let begin = [Act::Step(20, 0), Act::FillUp, Act::Step(1, 0), Act::Step(1, 1), Act::Step(1, 2), Act::Step(1, 3)];
        for act in begin.iter().chain(&acts) {
            let (a, b) = (ticks.act(act).unwrap(), whole.act(act).unwrap());
            prop_assert_eq!(a, b, "{:?}", act);
            // When couriers are done with a copy is not the session's to say.
            let uploaded = if couriers > 0 { ticks.record.bytes_uploaded } else { whole.record.bytes_uploaded };
            prop_assert_eq!(&ticks.record, &StepRecord { bytes_uploaded: uploaded, ..whole.record.clone() }, "{:?}", act);
        }
        prop_assert!(whole.wholes > 0 && ticks.wholes == 0);
        prop_assert_eq!((whole.sim.violations(), ticks.sim.violations()), (Vec::<String>::new(), Vec::new()));
        whole.tables_agree();
        let Session { sim, device, experts, memory, pinned, recorded, .. } = whole;
        drop((device, experts, memory, pinned, recorded));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0), "everything is given back");
    }

    #[test]
    fn whatever_fails_around_whole_tokens_a_later_one_is_right(
        nth in 0u64..40, kind in 0usize..3, order in order(), couriers in 0usize..3, timed_every in 2u32..6, slots in 1usize..EXPERTS,
    ) {
        let mut s = Session::new(&Setup { slots: EXPERTS, order, couriers, timed_every, ..Setup::default() });
        for act in [Act::Step(20, 0), Act::FillUp, Act::Step(1, 0), Act::Step(1, 0)] {
            s.act(&act).unwrap();
        }
        let fault = Some(nth);
        s.sim.fail(match kind {
            0 => Faults { upload: fault, ..Faults::default() },
            1 => Faults { launch: fault, ..Faults::default() },
            _ => Faults { download: fault, ..Faults::default() },
        });
        for act in [Act::Step(1, 1), Act::Step(1, 2), Act::Resize(slots), Act::Step(1, 3), Act::Resize(EXPERTS), Act::FillUp, Act::Step(1, 4)] {
            // If it does not fail, its answer is right (see `step`), and so is that of the next one.
            let _ = s.act(&act);
        }
        s.sim.fail(Faults::default());
        s.experts.resize(EXPERTS).unwrap();
        s.device_step(30, 0).unwrap();
        s.experts.fill_up();
        let before = s.wholes;
        for hot in 0..6 {
            s.device_step(1, hot).unwrap();
        }
        prop_assert!(s.wholes > before);
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }

    #[test]
    fn whatever_fails_a_later_step_is_right_and_nothing_is_kept(
        nth in 0u64..120, kind in 0usize..4, order in order(), miss in miss(), couriers in 0usize..3,
        hots in prop::collection::vec((1usize..20, 0usize..EXPERTS), 4..8),
    ) {
        let mut s = Session::new(&Setup { order, miss, couriers, ..Setup::default() });
        let fault = Some(nth);
        s.sim.fail(match kind {
            0 => Faults { upload: fault, ..Faults::default() },
            1 => Faults { launch: fault, ..Faults::default() },
            2 => Faults { download: fault, ..Faults::default() },
            _ => Faults { alloc: Some(nth % 7), ..Faults::default() },
        });
        for (i, (tokens, hot)) in hots.into_iter().enumerate() {
            // A step may fail; if it does not, its answer is right (see `step`), and so is that of the next one.
            let _ = s.device_step(tokens, hot);
            if i == 2 {
                let _ = s.experts.resize(EXPERTS - 2);
            }
        }
        s.sim.fail(Faults::default());
        s.device_step(1, 3).unwrap();
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
        let Session { sim, device, experts, memory, pinned, .. } = s;
        drop((device, experts, memory, pinned));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0));
    }
}

#[test]
fn experts_of_tokens_that_return_come_before_they_are_asked_for() {
    let mut without = 0;
    for (couriers, ahead) in [(0, Some(1)), (1, None), (1, Some(0)), (2, Some(1)), (1, Some(2))] {
        let mut s = Session::new(&Setup { slots: 5, couriers, ..Setup::default() });
        s.experts.set_ahead(ahead);
        let (mut came, mut asked, mut hits) = (0, 0, 0);
        for round in 0..8 {
            for token in 0..5 {
                // The same token again: the same rows, the same routing.
                s.rng = fastrand::Rng::with_seed(token);
                s.step(1, token as usize * 5).unwrap();
                let (c, a) = s.record.ahead_and_asked();
                (came, asked) = (came + c, asked + a);
                hits += if round > 0 { s.record.hits_and_routed().0 } else { 0 };
            }
        }
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        if couriers > 0 && ahead.is_some_and(|n| n > 0) {
            assert!(asked > 20 && asked * 2 > came, "{asked} of {came}");
            assert!(hits > without, "{hits} hits, {without} if nothing comes ahead");
        } else {
            assert_eq!(came, 0, "nobody to bring them, or nobody may");
            without = hits;
        }
        s.tables_agree();
    }
}

#[test]
fn a_copy_that_fails_costs_a_slot_and_not_the_answer() {
    let mut refused = 0;
    for nth in 0..40 {
        let mut s = Session::new(&Setup { slots: EXPERTS, ..Setup::default() });
        let mut whole = Session::new(&Setup { slots: EXPERTS, ..Setup::default() });
        s.sim.fail(Faults { upload: Some(nth), ..Faults::default() });
        whole.device_step(1, 0).unwrap();
        if s.device_step(1, 0).is_ok() && s.resident() + 1 == whole.resident() {
            refused += 1;
        }
        s.sim.fail(Faults::default());
        s.device_step(1, 0).unwrap();
    }
    assert!(refused > 0);
}

#[test]
fn a_prompt_that_the_device_computes_is_the_same_to_the_last_bit_for_any_number_of_slots() {
    let answer = |slots: usize, order| {
        let mut s = Session::new(&Setup { slots, order, miss: MissChoice::Gpu, ..Setup::default() });
        (0..3).map(|hot| s.device_step(20 + hot, hot).unwrap()).collect::<Vec<_>>()
    };
    let all = answer(EXPERTS, Order::Queued);
    for slots in [1, 5, 9] {
        assert_eq!(answer(slots, Order::Random(slots as u64)), all, "{slots} slots");
    }
}

#[test]
fn the_same_session_gives_the_same_bits_on_any_schedule() {
    let answer = |order, couriers| {
        let mut s = Session::new(&Setup { order, couriers, ..Setup::default() });
        [1, 1, 12, 1, 5, 1].map(|tokens| s.device_step(tokens, tokens).unwrap())
    };
    let first = answer(Order::Queued, 0);
    for order in [Order::Late, Order::CopyFirst, Order::ComputeFirst, Order::Random(9)] {
        for couriers in 0..3 {
            assert_eq!(answer(order, couriers), first, "{order:?}, {couriers} couriers");
        }
    }
}

#[test]
fn slots_are_filled_from_what_earlier_sessions_used_and_answer_right() {
    for (order, fault) in [(Order::Late, None), (Order::Random(3), None), (Order::Queued, Some(7))] {
        let mut first = Session::new(&Setup { slots: 9, order, ..Setup::default() });
        for hot in 0..6 {
            first.device_step(1, hot).unwrap();
        }
        let mut s = Session::new(&Setup { slots: 9, order, couriers: 1, ..Setup::default() });
        s.sim.fail(Faults { upload: fault, ..Faults::default() });
        let mut told = (0, 0);
        let filled = s.experts.warm(first.experts.heat().clone(), &mut |done, total| {
            told = (done, total);
            true
        });
        assert_eq!(filled.unwrap(), Some(27 - usize::from(fault.is_some())));
        assert_eq!(s.resident(), 27 - usize::from(fault.is_some()));
        assert!(told.1 > 0 && (told.0 == told.1) == fault.is_none(), "{told:?}");
        for hot in 0..4 {
            s.device_step(1, hot).unwrap();
        }
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
    let mut s = Session::new(&Setup { slots: 9, ..Setup::default() });
    let mut first = Session::new(&Setup { slots: 9, ..Setup::default() });
    first.device_step(1, 0).unwrap();
    assert_eq!(s.experts.warm(first.experts.heat().clone(), &mut |_, _| false).unwrap(), None, "given up");
    assert_eq!(s.resident(), 0);
    s.device_step(1, 0).unwrap();
    s.tables_agree();
}

#[test]
fn growth_takes_what_there_is_leaves_the_reserve_and_loses_nothing() {
    let all = Session::new(&Setup { slots: EXPERTS, ..Setup::default() }).sim.used();
    let few = Session::new(&Setup { slots: 3, ..Setup::default() }).sim.used();
    let reserve = 50_000;
    let mut s = Session::new(&Setup { slots: 3, memory: (all + few) / 2 + reserve, reserve, ..Setup::default() });
    for hot in 0..3 {
        s.device_step(1, hot).unwrap();
    }
    let before = s.resident();
    let granted = s.experts.resize(EXPERTS).unwrap();
    assert!((4..EXPERTS).contains(&granted), "{granted}");
    assert_eq!((s.resident(), s.experts.slots()), (before, granted), "nothing is lost");
    assert!(s.sim.used_peak() <= (all + few) / 2, "the reserve is left alone even on the way");
    assert_eq!(s.experts.resize(EXPERTS).unwrap(), granted, "asking again gives no more");
    s.device_step(1, 1).unwrap();
    assert_eq!(s.experts.resize(3).unwrap(), 3);
    s.device_step(1, 1).unwrap();
    assert_eq!(s.sim.used(), few, "what fewer slots free is given back");
    assert_eq!(s.sim.violations(), Vec::<String>::new());
}

#[test]
fn memory_that_someone_else_takes_during_growth_grants_less_and_loses_nothing() {
    for nth in 0..4 {
        let mut s = Session::new(&Setup { slots: 4, ..Setup::default() });
        s.device_step(1, 0).unwrap();
        let before = s.resident();
        s.sim.fail(Faults { alloc: Some(nth), ..Faults::default() });
        let granted = s.experts.resize(EXPERTS).unwrap();
        assert!(granted == if nth < 3 { 14 } else { EXPERTS } && s.resident() == before, "{nth}: {granted}");
        s.device_step(12, 0).unwrap();
        s.device_step(1, 0).unwrap();
        assert_eq!(s.sim.violations(), Vec::<String>::new());
    }
}

#[test]
fn staging_stays_within_its_budget_and_needs_none() {
    let largest = store().layers.iter().map(slot_bytes).max().unwrap();
    for budget in [0, largest - 1, largest, 3 * largest + 1] {
        let mut s = Session::new(&Setup { pinned: budget.max(1), miss: MissChoice::Gpu, ..Setup::default() });
        let before = s.sim.pinned_used();
        let without = Session::new(&Setup { pinned: 1, ..Setup::default() }).sim.pinned_used();
        assert!(before - without <= budget && (budget < largest || before > without), "{budget}");
        for tokens in [1, 30, 1] {
            s.device_step(tokens, 0).unwrap();
        }
        assert_eq!(s.sim.pinned_used(), before, "and does not grow");
    }
}

/// A device that forgets waits.
struct Forgetful {
    sim: Simulated,
    lane: Lane,
    forgotten: AtomicU64,
}

impl Device for Forgetful {
    fn facts(&self) -> &Facts {
        self.sim.facts()
    }
    fn free(&self) -> Result<u64, GpuError> {
        self.sim.free()
    }
    fn alloc(&self, bytes: usize) -> Result<Memory, GpuError> {
        self.sim.alloc(bytes)
    }
    fn pinned(&self, bytes: usize) -> Result<Pinned, GpuError> {
        self.sim.pinned(bytes)
    }
    fn upload(&self, lane: Lane, to: Address, from: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        self.sim.upload(lane, to, from, at)
    }
    fn upload_now(&self, lane: Lane, to: Address, from: &[u8]) -> Result<(), GpuError> {
        self.sim.upload_now(lane, to, from)
    }
    fn download(&self, lane: Lane, from: Address, to: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        self.sim.download(lane, from, to, at)
    }
    fn copy(&self, lane: Lane, from: Address, to: Address, bytes: usize) -> Result<(), GpuError> {
        self.sim.copy(lane, from, to, bytes)
    }
    fn clear(&self, lane: Lane, at: Address, bytes: usize) -> Result<(), GpuError> {
        self.sim.clear(lane, at, bytes)
    }
    fn mark(&self, lane: Lane) -> Result<Mark, GpuError> {
        self.sim.mark(lane)
    }
    fn wait(&self, lane: Lane, mark: &Mark) -> Result<(), GpuError> {
        if lane == self.lane {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.sim.wait(lane, mark)
    }
    fn sync(&self, mark: &Mark) -> Result<(), GpuError> {
        self.sim.sync(mark)
    }
    fn passed(&self, mark: &Mark) -> Result<bool, GpuError> {
        self.sim.passed(mark)
    }
    fn between(&self, from: &Mark, to: &Mark) -> Option<f64> {
        self.sim.between(from, to)
    }
    fn launch(&self, kernel: &'static str, shape: Shape, params: &[u8], touches: &[Touch]) -> Result<(), GpuError> {
        self.sim.launch(kernel, shape, params, touches)
    }
    fn launches(&self) -> u64 {
        self.sim.launches()
    }
    fn begin_recording(&self) -> Result<(), GpuError> {
        self.sim.begin_recording()
    }
    fn end_recording(&self) -> Result<Recording, GpuError> {
        self.sim.end_recording()
    }
    fn replay(&self, recording: &Recording) -> Result<(), GpuError> {
        self.sim.replay(recording)
    }
}

#[test]
fn without_the_waits_of_either_lane_the_checker_speaks_up() {
    for (lane, tokens) in [(Lane::Compute, 1), (Lane::Compute, 30), (Lane::Copy, 30)] {
        // In the order of queueing the numbers are right all the same.
        let setup = Setup { order: Order::Queued, miss: MissChoice::Gpu, slots: 1, ..Setup::default() };
        let mut s = Session::on(&setup, |sim| Arc::new(Forgetful { sim, lane, forgotten: AtomicU64::new(0) }));
        for _ in 0..4 {
            s.device_step(tokens, 0).unwrap();
        }
        assert!(!s.sim.violations().is_empty(), "{lane:?} with {tokens} tokens");
    }
}

#[test]
fn a_token_that_finds_everything_in_slots_waits_once_and_is_one_launch() {
    let mut s = Session::new(&Setup { slots: EXPERTS, timed_every: 64, ..Setup::default() });
    for act in [Act::Step(20, 0), Act::FillUp] {
        s.act(&act).unwrap();
    }
    let mut token = |hot| {
        let before = (s.sim.launches(), s.sim.host_waits());
        s.device_step(1, hot).unwrap();
        (s.sim.launches() - before.0, s.sim.host_waits() - before.1, s.wholes)
    };
    // The first brings up what was put off.
    token(0);
    let timed = token(0);
    assert!(timed.0 == 9 && timed.1 >= 4 && timed.2 == 0, "routing, up and down in each of three layers: {timed:?}");
    for i in 1..5 {
        assert_eq!(token(i), (1, 1, i));
    }
}

#[test]
fn a_routing_that_names_what_does_not_exist_is_found_when_the_token_is_over() {
    let mut s = Session::new(&Setup { slots: EXPERTS, timed_every: 64, ..Setup::default() });
    for act in [Act::Step(20, 0), Act::FillUp, Act::Step(1, 0), Act::Step(1, 0)] {
        s.act(&act).unwrap();
    }
    assert!(s.experts.whole_token().is_some());
    let routing = Routing { top_k: TOP_K, ids: vec![1, 2, EXPERTS as u32], weights: vec![0.3; TOP_K] };
    let e = s.experts.device_tick(1, &routing).unwrap_err();
    assert!(matches!(e, ExpertError::Routing { layer: 1, expert: 24, experts: EXPERTS }), "{e}");
    assert_eq!((s.resident(), s.experts.whole_token()), (0, None), "nobody knows what is true");
    s.device_step(1, 0).unwrap();
}

#[test]
fn with_a_slot_for_every_expert_those_come_up_that_nobody_asks_for_and_not_otherwise() {
    for (slots, couriers) in [(EXPERTS, 0), (EXPERTS, 2), (EXPERTS - 1, 1)] {
        let mut s = Session::new(&Setup { slots, couriers, ..Setup::default() });
        s.device_step(1, 0).unwrap();
        let routed = s.resident();
        s.experts.fill_up();
        s.device_step(1, 1).unwrap();
        match slots {
            EXPERTS => assert_eq!(s.resident(), 3 * EXPERTS),
            _ => assert!(s.resident() <= routed + 9, "only what was asked for"),
        }
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
}

#[test]
fn what_nobody_asks_for_is_not_sent_to_a_device_that_has_failed() {
    let mut s = Session::new(&Setup { slots: EXPERTS, ..Setup::default() });
    s.device_step(1, 0).unwrap();
    s.sim.fail(Faults { upload: Some(30), ..Faults::default() });
    s.experts.fill_up();
    s.experts.device_table(0).unwrap();
    s.device.sync(&s.device.mark(Lane::Compute).unwrap()).unwrap();
    for _ in 0..2 {
        assert_eq!((s.experts.whole_token(), s.resident()), (None, 3 * EXPERTS - 1));
        s.experts.fill_up();
    }
    s.experts.resize(EXPERTS).unwrap();
    s.experts.fill_up();
    assert_eq!(s.resident(), 3 * EXPERTS, "the user has changed something: another try");
    s.device_step(1, 1).unwrap();
    assert_eq!(s.sim.violations(), Vec::<String>::new());
    s.tables_agree();
}
