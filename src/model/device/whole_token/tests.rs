//! Tokens queued whole against the same ones queued layer by layer.

use crate::events::{LoadOptions, MissChoice, Phase, StepRecord, StepTime, When};
use crate::gguf::Gguf;
use crate::gpu::simulated::{Faults, Options, Order, Simulated};
use crate::gpu::Device;
use crate::kernels::Pool;
use crate::model::tests::{file, made_up, Layout};
use crate::model::{open_on, Logits, ModelError, Opened};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// The reference models: every architecture, with and without recurrent layers, shared experts, routed experts at all.
const CASES: [&str; 12] =
    ["strict", "odd", "olmoe", "q2_k", "q4_0", "q4_k_m", "q35-strict", "q35-odd", "q35-q3_k_m", "qwen35", "qwen3next", "lfm2moe"];

/// A model on a simulated device.
struct Talk {
    model: Opened,
    device: Simulated,
    /// Of the last step.
    record: StepRecord,
}

impl Talk {
    /// With a slot for every expert. Of `timed_every` tokens, one goes layer by layer.
    fn new(gguf: &Gguf, miss: MissChoice, order: Order, timed_every: u32) -> Self {
        let device = Simulated::new(Options { order, ..Options::default() });
        let options = LoadOptions { kv_f32: true, context: Some(64), miss, hold: When::Never, ..LoadOptions::default() };
        let mut model = open_on(gguf, &options, Pool::new(2), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
        model.experts.time_hits_every(timed_every);
        Self { model, device, record: StepRecord::default() }
    }

    fn of(case: &str, order: Order, timed_every: u32) -> Self {
        Self::new(&open(case), MissChoice::Gpu, order, timed_every)
    }

    fn step(&mut self, tokens: &[u32], wanted: Logits) -> Result<Vec<f32>, ModelError> {
        let phase = if tokens.len() == 1 { Phase::Decode } else { Phase::Prefill };
        let Opened { model, experts, .. } = &mut self.model;
        experts.begin_step(phase, tokens.len());
        let logits = model.forward(tokens, experts, wanted, &|| false)?.unwrap();
        experts.end_step(&mut self.record);
        experts.fill_up();
        Ok(logits)
    }

    /// The bits of a step's last logits, and launches and host's waits that it took.
    fn counted(&mut self, tokens: &[u32]) -> (Vec<u32>, u64, u64) {
        let before = (self.device.launches(), self.device.host_waits());
        let logits = self.step(tokens, Logits::Last).unwrap();
        let bits = logits.iter().map(|l| l.to_bits()).collect();
        (bits, self.device.launches() - before.0, self.device.host_waits() - before.1)
    }

    /// The last record but for its times, which are never the same.
    fn record(&self) -> StepRecord {
        StepRecord { time: StepTime::default(), ..self.record.clone() }
    }

    fn all(&self) -> usize {
        self.model.config.experts
    }
}

fn open(case: &str) -> Gguf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join("model.gguf");
    Gguf::open(&path).unwrap()
}

fn prompt(tokens: u32) -> Vec<u32> {
    (0..tokens).map(|i| 3 + i * 7 % 40).collect()
}

#[test]
fn every_architecture_gives_the_bits_and_records_of_layers_one_by_one_with_one_launch_and_one_wait() {
    for case in CASES {
        let (mut layers, mut whole) = (Talk::of(case, Order::Late, 1), Talk::of(case, Order::Late, u32::MAX));
        let (all, routers) = (whole.all(), whole.model.expert_bytes.len() as u64);
        let tokens = |layers: &mut Talk, whole: &mut Talk, places: std::ops::Range<u32>, quick: u32| {
            for i in places.clone() {
                let token = [5 + i * 11 % 40];
                let (a, b) = (layers.counted(&token), whole.counted(&token));
                assert!(a.0 == b.0, "{case}, token {i}: other bits");
                assert_eq!(layers.record(), whole.record(), "{case}, token {i}");
                assert!(a.2 > routers, "{case}: the host waits in every layer, and at the end");
                if i >= places.start + quick {
                    assert_eq!((b.1, b.2), (1, 1), "{case}, token {i}: launches and waits");
                }
            }
        };
        assert!(layers.counted(&prompt(12)).0 == whole.counted(&prompt(12)).0, "{case}");
        // The first brings up what the prompt has not asked for, the second is timed layer by layer, the third is recorded.
        tokens(&mut layers, &mut whole, 0..5, 2);
        if all > 1 {
            for talk in [&mut layers, &mut whole] {
                talk.model.experts.resize(1).unwrap();
            }
            tokens(&mut layers, &mut whole, 5..7, 9);
            for talk in [&mut layers, &mut whole] {
                talk.model.experts.resize(all).unwrap();
            }
            // The first misses; with the rest it is brought up by the second; the third is timed.
            tokens(&mut layers, &mut whole, 7..13, 3);
        }
        assert!(layers.counted(&prompt(9)).0 == whole.counted(&prompt(9)).0, "{case}");
        tokens(&mut layers, &mut whole, 13..16, 1);
        for talk in [layers, whole] {
            assert_eq!(talk.device.violations(), Vec::<String>::new(), "{case}");
            let Talk { model, device, .. } = talk;
            drop(model);
            assert_eq!((device.used(), device.pinned_used()), (0, 0), "{case}: everything is given back");
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Token(u32),
    Prompt(u32),
    Resize(usize),
    Policy(&'static str),
    /// By so many tokens.
    Back(usize),
    /// So many tokens ahead.
    Mark(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        9 => (1u32..40).prop_map(Act::Token),
        1 => (2u32..14).prop_map(Act::Prompt),
        2 => (1usize..8).prop_map(Act::Resize),
        2 => Just(Act::Resize(1024)),
        1 => prop::sample::select(vec!["lru", "lfu", "decay", "rotary"]).prop_map(Act::Policy),
        1 => (1usize..6).prop_map(Act::Back),
        2 => (0usize..3).prop_map(Act::Mark),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        prop::sample::select(vec![Order::Queued, Order::Late, Order::CopyFirst, Order::ComputeFirst]),
        any::<u64>().prop_map(Order::Random),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_session_gives_the_bits_and_records_of_layers_one_by_one(
        case in prop::sample::select(&CASES[..]), cpu in any::<bool>(), order in order(), timed_every in 2u32..8,
        acts in prop::collection::vec(act(), 8..24),
    ) {
        let (gguf, miss) = (open(case), if cpu { MissChoice::Cpu } else { MissChoice::Gpu });
        let mut talks = [1, timed_every].map(|every| Talk::new(&gguf, miss, order, every));
        for act in [Act::Prompt(10), Act::Token(1), Act::Token(2), Act::Token(3), Act::Token(4)].iter().chain(&acts) {
            let done: Vec<_> = talks.iter_mut().map(|talk| {
                let Opened { model, experts, .. } = &mut talk.model;
                let tokens = match *act {
                    Act::Token(token) => vec![token],
                    Act::Prompt(tokens) => prompt(tokens),
                    Act::Resize(slots) => return (experts.resize(slots).unwrap(), Vec::new()),
                    Act::Policy(name) => {
                        experts.set_policy(name).unwrap();
                        return (0, Vec::new());
                    }
                    Act::Back(tokens) => {
                        let len = model.len().saturating_sub(tokens);
                        return (model.truncate(len), Vec::new());
                    }
                    Act::Mark(ahead) => {
                        model.mark(&[model.len() + ahead]);
                        return (0, Vec::new());
                    }
                };
                if model.len() + tokens.len() > 64 {
                    model.truncate(0);
                }
                let bits = talk.counted(&tokens).0;
                (talk.model.model.len(), bits)
            }).collect();
            prop_assert!(done[0] == done[1], "{:?}", act);
            prop_assert_eq!(talks[0].record(), talks[1].record(), "{:?}", act);
        }
        for talk in talks {
            prop_assert_eq!(talk.device.violations(), Vec::<String>::new());
            let Talk { model, device, .. } = talk;
            drop(model);
            prop_assert_eq!((device.used(), device.pinned_used()), (0, 0), "everything is given back");
        }
    }

    #[test]
    fn whatever_fails_the_next_answer_is_right(
        case in prop::sample::select(vec!["strict", "q35-odd"]), kind in 0usize..3, nth in 0u64..160, order in order(),
    ) {
        let mut talk = Talk::of(case, order, 3);
        talk.step(&prompt(12), Logits::Last).unwrap();
        for token in [7, 8] {
            talk.step(&[token], Logits::Last).unwrap();
        }
        let fault = Some(nth);
        talk.device.fail(match kind {
            0 => Faults { upload: fault, ..Faults::default() },
            1 => Faults { launch: fault, ..Faults::default() },
            _ => Faults { download: fault, ..Faults::default() },
        });
        for token in 1..6 {
            if talk.step(&[token], Logits::Last).is_err() {
                talk.model.model.truncate(talk.model.model.len());
            }
        }
        talk.device.fail(Faults::default());
        let mut fresh = Talk::of(case, Order::Queued, 1);
        for talk in [&mut talk, &mut fresh] {
            talk.model.model.truncate(0);
        }
        for tokens in [prompt(12), vec![9], vec![8], vec![7], vec![6]] {
            let (a, b) = (talk.step(&tokens, Logits::Last).unwrap(), fresh.step(&tokens, Logits::Last).unwrap());
            let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Experts may be in other places, and sums in another order.
            prop_assert!(far < 1e-4, "{far}");
        }
        prop_assert_eq!(talk.device.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_place_that_is_asked_for_can_be_gone_back_to() {
    let (mut layers, mut whole) = (Talk::of("q35-odd", Order::Late, 1), Talk::of("q35-odd", Order::Late, u32::MAX));
    let answers = [&mut layers, &mut whole].map(|talk| {
        for tokens in [prompt(12), vec![1], vec![2], vec![3]] {
            talk.counted(&tokens);
        }
        let model = &mut talk.model.model;
        model.mark(&[17]);
        let waits: Vec<u64> = (4..10).map(|token| talk.counted(&[token]).2).collect();
        let back = talk.model.model.truncate(19);
        (waits, back, [10, 11].map(|token| talk.counted(&[token]).0))
    });
    assert_eq!((&answers[1].0, answers[1].1), (&vec![1; 6], 17), "in a token that is queued whole");
    assert!(answers[0].0.iter().all(|&waits| waits > 3) && answers[0].1 == 17 && answers[0].2 == answers[1].2);
    assert_eq!(whole.device.violations(), Vec::<String>::new());
}

#[test]
fn a_device_that_refuses_to_record_queues_launch_by_launch_without_a_wait_between_layers() {
    // The prompt uses all experts of the smaller model, so there one token less goes by before everything is in slots.
    for (case, before) in [("strict", 2), ("q35-odd", 1)] {
        let (mut whole, mut refused) = (Talk::of(case, Order::Late, u32::MAX), Talk::of(case, Order::Late, u32::MAX));
        let all = whole.all();
        for talk in [&mut whole, &mut refused] {
            talk.counted(&prompt(12));
            for token in 0..before {
                talk.counted(&[token + 7]);
            }
        }
        // Within the launches that are being recorded.
        refused.device.fail(Faults { launch: Some(20), ..Faults::default() });
        for token in 1..4 {
            let (a, b) = (whole.counted(&[token]), refused.counted(&[token]));
            assert!(a == (b.0, 1, 1), "{case}");
            assert!(b.1 > 20 && b.2 == 1, "{case}: {} launches, {} waits", b.1, b.2);
        }
        // Other slots, another try.
        for slots in [all - 1, all] {
            refused.model.experts.resize(slots).unwrap();
        }
        let last = (0..6).map(|_| refused.counted(&[9])).last().unwrap();
        assert_eq!((last.1, last.2), (1, 1), "{case}");
        assert_eq!(refused.device.violations(), Vec::<String>::new());
    }
}

#[test]
fn logits_that_are_no_numbers_are_told_and_what_was_routed_is_kept() {
    let mut w = made_up("qwen3moe", Layout::Stacked);
    w.remove_tensor("output_norm.weight");
    w.f32_tensor("output_norm.weight", &[32], &[f32::INFINITY; 32]);
    let mut talk = Talk::new(&file(&w), MissChoice::Gpu, Order::Late, u32::MAX);
    for tokens in [prompt(6), vec![1], vec![2], vec![4]] {
        assert_eq!(talk.step(&tokens, Logits::None).unwrap(), Vec::<f32>::new());
    }
    let waits = talk.device.host_waits();
    let e = talk.step(&[3], Logits::Last).unwrap_err();
    assert!(matches!(&e, ModelError::NotFinite { place, .. } if place.contains("output head")), "{e}");
    assert_eq!(talk.device.host_waits() - waits, 2, "it was queued whole; then all that was queued is waited for");
    let mut record = StepRecord::default();
    talk.model.experts.end_step(&mut record);
    assert_eq!((record.ends, talk.model.model.len()), (vec![2, 4], 9));
}

#[test]
fn a_token_that_is_stopped_before_it_begins_queues_nothing_but_a_state_reads_on() {
    for (case, goes_on) in [("strict", false), ("q35-odd", true)] {
        let mut talk = Talk::of(case, Order::Late, u32::MAX);
        for tokens in [prompt(12), vec![1], vec![2], vec![4]] {
            talk.counted(&tokens);
        }
        let before = (talk.device.launches(), talk.device.host_waits());
        let Opened { model, experts, .. } = &mut talk.model;
        experts.begin_step(Phase::Decode, 1);
        let done = model.forward(&[3], experts, Logits::Last, &|| true).unwrap();
        assert_eq!((done.is_some(), model.len()), (goes_on, 15 + usize::from(goes_on)), "{case}");
        if !goes_on {
            assert_eq!((talk.device.launches(), talk.device.host_waits()), before, "{case}");
        }
    }
}

#[test]
fn the_time_of_hits_is_that_of_the_last_token_that_was_timed() {
    let mut talk = Talk::of("strict", Order::Queued, 4);
    for tokens in [prompt(12), vec![1]] {
        talk.step(&tokens, Logits::Last).unwrap();
    }
    let mut seen = Vec::new();
    for token in 0..9 {
        let whole = talk.counted(&[token + 1]).2 == 1;
        seen.push((whole, talk.record.time.hits_us));
    }
    let order: Vec<bool> = seen.iter().map(|s| s.0).collect();
    assert_eq!(order, [false, true, true, true, false, true, true, true, false]);
    // A step's record has the time of the step before it.
    let (first, second) = (seen[1].1, seen[5].1);
    assert!(first > 0 && second > 0);
    assert!(seen[1..5].iter().all(|s| s.1 == first) && seen[5..9].iter().all(|s| s.1 == second), "{seen:?}");
}
