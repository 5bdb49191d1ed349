//! A session of nothing but routers and experts, on a device and on the CPU, which the tests drive and compare.

mod answered;
mod answers;
mod memory;
mod waits;
mod whole;

use super::*;
use crate::events::{Outcome, Phase, Plan, StepRecord, StepTime};
use crate::experts::policy::Policy;
use crate::experts::slots::CpuTier;
use crate::experts::store::{LayerExperts, Projection};
use crate::experts::Experts;
use crate::gguf::{Bytes, GgmlType};
use crate::gpu::device::{record, Recording};
use crate::gpu::params::{launch, Route};
use crate::gpu::simulated::{Faults, Options, Order, Simulated};
use crate::gpu::talk::Talk;
use crate::gpu::{GpuError, Pinned};
use crate::kernels::rows::Activation;
use candle_core::Tensor;
use proptest::prelude::*;
use std::ops::Range;

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
        LayerExperts { shape, activation: Activation::SwiGlu, biases: None, experts }
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
    /// The same for tokens that are answered while they run.
    answered: Option<(u64, Recording)>,
    talk: Option<(Talk, Memory)>,
    answers: usize,
    /// The last step did.
    broke_off: bool,
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
    pub(super) answers: When,
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
            answers: When::Never,
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
            answers: setup.answers,
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
            answered: None,
            talk: None,
            answers: 0,
            broke_off: false,
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
        self.broke_off = done.is_err();
        if self.broke_off {
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
        let whole = (tokens == 1).then(|| self.experts.whole_token()).flatten();
        let answered = (tokens == 1 && whole.is_none()).then(|| self.experts.answered_token()).flatten();
        match (whole, answered) {
            (Some(slots), _) => self.whole(slots, &inputs)?,
            (None, Some(slots)) => self.answered(slots, &inputs)?,
            (None, None) => {
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
        self.hits_are_what_the_device_found(tokens, answered.is_some());
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

    /// What the record calls a hit is what the router's kernel found in the table, or came ahead. What comes ahead of a token that is answered is in its table.
    fn hits_are_what_the_device_found(&self, tokens: usize, answered: bool) {
        for layer in 0..3 {
            let [ids, slots] = [3, 5].map(|buffer| self.floats(place(layer, buffer, tokens)));
            for r in self.record.layer(layer) {
                let i = ids.iter().position(|id| id.to_bits() == u32::from(r.expert)).unwrap();
                let found = slots[i].to_bits() as i32 >= 0;
                let came = !answered && self.record.ahead.iter().any(|a| usize::from(a.layer) == layer && a.expert == r.expert);
                // One that came ahead is in the table only if this is not the tick that it came for.
                assert!(r.outcome == Outcome::Hit || !found, "layer {layer}, expert {}", r.expert);
                // One that came for a step that broke off is in no record.
                assert!(r.outcome != Outcome::Hit || found != came || self.broke_off, "layer {layer}, expert {}", r.expert);
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
            sigmoid: 0,
            factors: Address::NONE,
            bias: Address::NONE,
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

    /// A token whose layers are opened and answered while it runs.
    fn answered(&mut self, slots: u64, inputs: &[[Vec<f32>; 2]]) -> Result<(), ExpertError> {
        // From the ids to the end of the weights.
        let told = place(0, 4, 1).end - place(0, 3, 1).start;
        let device = self.device.clone();
        // What broke off before is made anew, with a turn of its own.
        let before = self.answered.take();
        if self.talk.is_none() {
            self.talk = Some((Talk::new(&*device, 3, EXPERTS, told, HIDDEN)?, device.alloc(4)?));
        }
        let Some((mut talk, turn)) = self.talk.take() else { unreachable!() };
        for (layer, [x, scores]) in inputs.iter().enumerate() {
            self.send(layer, x, scores, 1)?;
        }
        device.upload_now(Lane::Compute, turn.address(), &talk.next_turn().to_ne_bytes())?;
        let queue = || -> Result<(), ExpertError> {
            for layer in 0..3 {
                let table = self.experts.device_place(layer)?;
                launch(&*device, &talk.await_table(turn.address(), layer, table), &[])?;
                let rows = self.route(layer, 1, table)?;
                launch(&*device, &talk.tell(turn.address(), layer, rows.ids, told), &[])?;
                self.experts.device_queue(layer, &rows)?;
                launch(&*device, &talk.add_answer(turn.address(), layer, rows.slots, TOP_K, rows.y), &[])?;
                device.download(Lane::Compute, self.at(layer, 1, 1), &self.pinned, place(layer, 1, 1))?;
            }
            Ok(())
        };
        let recorded = match before {
            Some((of, recorded)) if of == slots => recorded,
            _ => record(&*device, queue)?,
        };
        let done = device.replay(&recorded).map_err(ExpertError::from).and_then(|()| {
            inputs.iter().enumerate().try_for_each(|(layer, [x, _])| {
                self.experts.device_open(layer, &talk)?;
                let mut words = Vec::new();
                talk.hear(&*device, layer, told, &mut words)?;
                let weights = words[words.len() - TOP_K..].iter().map(|w| f32::from_bits(*w)).collect();
                let routing = Routing { top_k: TOP_K, ids: words[..TOP_K].to_vec(), weights };
                self.experts.device_answer(layer, &talk, x, &routing)?;
                self.experts.device_after(layer, &routing)
            })
        });
        talk.let_go();
        let rests = device.mark(Lane::Compute).and_then(|mark| device.sync(&mark));
        self.answered = Some((slots, recorded));
        self.talk = Some((talk, turn));
        let marked = self.experts.device_queued();
        if done.is_err() {
            self.experts.device_broke_off();
        }
        done?;
        rests?;
        marked?;
        self.answers += 1;
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
