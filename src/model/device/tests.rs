//! The decoder on the simulated device against the same model on the CPU.

mod answered;
mod foresee;

use super::super::{open_on, open_planned, plan_on, Logits, Opened};
use crate::events::{LoadOptions, MissChoice, Phase, StepRecord, When};
use crate::gguf::Gguf;
use crate::gpu::simulated::{Options, Order, Simulated};
use crate::gpu::Device;
use crate::kernels::Pool;
use std::path::Path;
use std::sync::Arc;

const PROMPT: [u32; 12] = [1, 300, 77, 1000, 5, 2048, 4095, 9, 640, 12, 300, 77];

struct OnDevice {
    model: Opened,
    device: Simulated,
}

fn options(slots: usize) -> LoadOptions {
    // When experts come ahead is not to depend on when a thread is done.
    LoadOptions { slots: Some(slots), kv_f32: true, context: Some(64), hold: When::Never, ..LoadOptions::default() }
}

fn demo_file() -> Gguf {
    Gguf::from_static(crate::demo::gguf(), "demo").unwrap()
}

fn demo(options: &LoadOptions) -> Opened {
    open_on(&demo_file(), options, Pool::new(2), None, &mut |_, _| true).unwrap()
}

fn reference(case: &str) -> Gguf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join("model.gguf");
    Gguf::open(&path).unwrap()
}

fn on_device(gguf: &Gguf, options: &LoadOptions, order: Order) -> OnDevice {
    let device = Simulated::new(Options { order, ..Options::default() });
    let model = open_on(gguf, options, Pool::new(2), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
    OnDevice { model, device }
}

fn demo_on_device(options: &LoadOptions, order: Order) -> OnDevice {
    on_device(&demo_file(), options, order)
}

fn step(m: &mut Opened, tokens: &[u32], phase: Phase, logits: Logits) -> (Vec<f32>, StepRecord) {
    m.experts.begin_step(phase, tokens.len());
    let logits = m.model.forward(tokens, &mut m.experts, logits, &|| false).unwrap().unwrap();
    let mut record = StepRecord::default();
    m.experts.end_step(&mut record);
    (logits, record)
}

/// Mean squared difference over mean square.
fn error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let of = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(f).sum::<f64>();
    of(&|i| f64::from(a[i] - b[i]).powi(2)) / of(&|i| f64::from(a[i]).powi(2))
}

/// What the CPU rounds and the device does not: activations beside quantized weights, to 16 bits.
const ROUNDING: f64 = 1e-6;

#[test]
fn logits_are_those_of_the_cpu_at_every_slot_count_and_whoever_computes_misses() {
    for (slots, miss) in [(1, MissChoice::Cpu), (3, MissChoice::Gpu), (12, MissChoice::Auto), (32, MissChoice::Auto)] {
        let options = LoadOptions { miss, ..options(slots) };
        let (mut cpu, mut gpu) = (demo(&options), demo_on_device(&options, Order::Queued));
        let compare = |cpu: &mut Opened, gpu: &mut OnDevice, tokens: &[u32], phase, wanted| {
            let (a, b) = (step(cpu, tokens, phase, wanted), step(&mut gpu.model, tokens, phase, wanted));
            assert!(error(&a.0, &b.0) < ROUNDING, "{slots} slots, {miss:?}, {} tokens: {}", tokens.len(), error(&a.0, &b.0));
            let routed = |r: &StepRecord| r.routed.iter().map(|r| (r.expert, r.outcome)).collect::<Vec<_>>();
            assert_eq!((routed(&a.1), &a.1.slot_of), (routed(&b.1), &b.1.slot_of), "the same schedule");
        };
        compare(&mut cpu, &mut gpu, &PROMPT, Phase::Prefill, Logits::All);
        for token in [7, 300, 4000, 77] {
            compare(&mut cpu, &mut gpu, &[token], Phase::Decode, Logits::Last);
        }
        compare(&mut cpu, &mut gpu, &PROMPT[..5], Phase::Prefill, Logits::Last);
        assert_eq!(gpu.device.violations(), Vec::<String>::new());
    }
}

#[test]
fn reference_models_have_the_logits_of_the_cpu_in_prompts_and_tokens_whoever_computes_misses() {
    // Float files: nothing but the order of sums differs. In quantized ones the CPU rounds activations, too, which in glm-flash-q4_k_m makes a router choose another expert for one of these tokens.
    let cases = [
        ("strict", 3, 1e-9),
        ("olmoe", 4, 1e-9),
        ("q35-odd", 3, 1e-9),
        ("qwen3next", 3, 1e-9),
        ("gpt-oss", 3, 1e-9),
        ("gemma4", 3, 1e-9),
        ("gemma4-dense", 0, 1e-9),
        ("gemma4-q4_k_m", 2, 1e-4),
        ("glm-flash", 2, 1e-9),
        ("glm4moe", 2, 1e-9),
        ("glm4moe-normed", 2, 1e-9),
        ("qwen3vlmoe", 2, 1e-9),
        ("qwen2moe", 2, 1e-9),
        ("minimax-m2", 3, 1e-9),
        ("lfm2moe", 2, 1e-9),
        ("lfm2moe-four", 2, 1e-9),
    ];
    for (case, slots, near) in cases {
        let gguf = reference(case);
        // Without a number every expert has a slot.
        let some = (slots > 0).then_some(slots);
        for (miss, slots) in [(MissChoice::Cpu, some), (MissChoice::Gpu, some), (MissChoice::Auto, None)] {
            let options = LoadOptions { slots, miss, ..options(1) };
            let mut cpu = open_on(&gguf, &options, Pool::new(2), None, &mut |_, _| true).unwrap();
            let mut gpu = on_device(&gguf, &options, Order::Queued);
            // The second part is a few tokens, the third one by one: each goes its own way. All are longer than the windows.
            let prompt: Vec<u32> = (0..40).map(|i| (i * i * 7 + 3 * i + 5) % 300).collect();
            let parts = [&prompt[..], &prompt[..5], &[7], &[250], &[40], &[77], &[7]];
            for (i, tokens) in parts.into_iter().enumerate() {
                let phase = if tokens.len() > 1 { Phase::Prefill } else { Phase::Decode };
                let (a, b) = (step(&mut cpu, tokens, phase, Logits::All).0, step(&mut gpu.model, tokens, phase, Logits::All).0);
                assert!(error(&a, &b) < near, "{case}, part {i}, {miss:?}: {}", error(&a, &b));
            }
            assert_eq!(gpu.device.violations(), Vec::<String>::new(), "{case}");
        }
    }
}

#[test]
fn layers_that_see_a_window_keep_a_ring_with_the_logits_of_a_cache_that_keeps_everything() {
    let text: Vec<u32> = (0..400u32).map(|i| (i * 37 + i * i * 11) % 101).collect();
    for (case, kv_f32) in [("gpt-oss", true), ("gemma4", true), ("gemma4", false), ("gemma4-dense", true)] {
        let gguf = reference(case);
        let open = |goes_back: usize| {
            let slots = (case != "gemma4-dense").then_some(3);
            let options = LoadOptions { slots, kv_f32, context: Some(400), ..options(1) };
            let device = Simulated::new(Options::default());
            let mut planned = plan_on(&gguf, &options, u64::MAX, Some(&device)).unwrap();
            planned.goes_back = goes_back;
            let model = open_planned(&gguf, &options, planned, Pool::new(2), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
            OnDevice { model, device }
        };
        let (mut all, mut few) = (open(400), open(60));
        // Another cut puts sums off by their last bit, and what is rounded to 16 bits now and then by one of those.
        let near = if kv_f32 { 1e-9 } else { 1e-6 };
        assert!(few.device.used() < all.device.used(), "{case}");
        let read = |m: &mut OnDevice, tokens: &[u32]| {
            let phase = if tokens.len() > 1 { Phase::Prefill } else { Phase::Decode };
            step(&mut m.model, tokens, phase, Logits::Last).0
        };
        let mut at = 0;
        // Passes that are longer than what the ring takes at once, a few tokens, and one by one.
        for n in [150, 1, 5, 1, 70, 8, 1, 1, 1] {
            let [a, b] = [&mut all, &mut few].map(|m| read(m, &text[at..at + n]));
            assert!(error(&a, &b) < near, "{case}, {n} tokens at {at}: {}", error(&a, &b));
            at += n;
        }
        assert_eq!((few.model.model.truncate(at - 40), all.model.model.truncate(at - 40)), (at - 40, at - 40), "{case}");
        let [a, b] = [&mut all, &mut few].map(|m| read(m, &text[300..320]));
        assert!(error(&a, &b) < near, "{case}, after going back: {}", error(&a, &b));
        assert_eq!((few.model.model.truncate(at - 150), all.model.model.truncate(at - 150)), (0, at - 150), "{case}");
        for m in [&all, &few] {
            assert_eq!(m.device.violations(), Vec::<String>::new(), "{case}");
        }
    }
}

#[test]
fn a_file_whose_experts_are_held_gives_the_same_logits_from_memory_of_ours() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, crate::demo::gguf()).unwrap();
    let gguf = Gguf::open(file.path()).unwrap();
    for miss in [MissChoice::Cpu, MissChoice::Gpu] {
        let run = |hold| {
            let device = Simulated::new(Options { order: Order::Late, ..Options::default() });
            let options = LoadOptions { hold, miss, ahead: Some(0), ..options(6) };
            let mut model = open_on(&gguf, &options, Pool::new(2), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
            let held = model.experts.hold_all();
            assert_eq!(held.map(|h| (h.bytes, h.locked)), (hold == When::Always).then(|| held.map_or((0, 0), |h| (h.of, h.of))));
            let mut all = step(&mut model, &PROMPT, Phase::Prefill, Logits::Last).0;
            for token in [7, 300, 4000] {
                all.extend(step(&mut model, &[token], Phase::Decode, Logits::Last).0);
            }
            assert_eq!((device.violations(), device.uploads_in_place() > 0), (Vec::new(), hold == When::Always));
            drop(model);
            assert_eq!((device.used(), device.pinned_used()), (0, 0), "everything is given back");
            all.iter().map(|l| l.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(When::Always), run(When::Never), "{miss:?}");
    }
}

#[test]
fn resizes_between_tokens_change_no_more_than_the_place_of_computing() {
    let mut cpu = demo(&options(12));
    step(&mut cpu, &PROMPT, Phase::Prefill, Logits::Last);
    let mut gpu = demo_on_device(&options(12), Order::Queued);
    step(&mut gpu.model, &PROMPT, Phase::Prefill, Logits::Last);
    for (i, wanted) in [4, 32, 1, 7, 2, 31, 12].into_iter().enumerate() {
        assert_eq!(gpu.model.experts.resize(wanted).unwrap(), wanted);
        let token = PROMPT[i];
        let (a, _) = step(&mut cpu, &[token], Phase::Decode, Logits::Last);
        let (b, _) = step(&mut gpu.model, &[token], Phase::Decode, Logits::Last);
        assert!(error(&a, &b) < ROUNDING, "after a resize to {wanted}: {}", error(&a, &b));
    }
    assert_eq!(gpu.device.violations(), Vec::<String>::new());
    drop(gpu.model);
    assert_eq!((gpu.device.used(), gpu.device.pinned_used()), (0, 0), "everything is given back");
}

#[test]
fn lanes_that_run_as_late_as_they_may_change_nothing() {
    let order = Order::Late;
    let run = |order| {
        let mut gpu = demo_on_device(&LoadOptions { miss: MissChoice::Gpu, ..options(6) }, order);
        let mut all = step(&mut gpu.model, &PROMPT, Phase::Prefill, Logits::Last).0;
        for token in [7, 300, 4000] {
            all.extend(step(&mut gpu.model, &[token], Phase::Decode, Logits::Last).0);
        }
        assert_eq!(gpu.device.violations(), Vec::<String>::new(), "{order:?}");
        all.iter().map(|l| l.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(run(Order::Queued), run(order));
}

#[test]
fn a_shortened_context_goes_on_as_if_the_rest_had_never_been_read() {
    let OnDevice { mut model, .. } = demo_on_device(&options(32), Order::Queued);
    step(&mut model, &PROMPT[..6], Phase::Prefill, Logits::Last);
    let (want, _) = step(&mut model, &[42], Phase::Decode, Logits::Last);
    step(&mut model, &PROMPT, Phase::Prefill, Logits::Last);
    assert_eq!((model.model.truncate(6), model.model.len()), (6, 6));
    let (got, _) = step(&mut model, &[42], Phase::Decode, Logits::Last);
    // Another placement: experts that were missed then are in slots now.
    assert!(error(&want, &got) < ROUNDING, "{}", error(&want, &got));
}

#[test]
fn chunks_over_caches_of_halves_go_through_the_tiles_and_are_those_of_the_cpu() {
    let text: Vec<u32> = (0..512).map(|i| i * i % 4096 + 1).collect();
    let launches = |kv_f32| {
        // What is split by measured rates is not split the same way each time.
        let options = LoadOptions { kv_f32, context: Some(512), miss: MissChoice::Gpu, ahead: Some(0), ..options(32) };
        let (mut cpu, mut gpu) = (demo(&options), demo_on_device(&options, Order::Late));
        let mut compare = |tokens: &[u32], wanted| {
            let before = gpu.device.launches();
            let (a, b) = (step(&mut cpu, tokens, Phase::Prefill, wanted), step(&mut gpu.model, tokens, Phase::Prefill, wanted));
            assert!(error(&a.0, &b.0) < ROUNDING, "{} tokens: {}", tokens.len(), error(&a.0, &b.0));
            gpu.device.launches() - before
        };
        let first = compare(&text[..12], Logits::All);
        compare(&text[12..500], Logits::Last);
        let last = compare(&text[500..], Logits::All);
        assert_eq!(gpu.device.violations(), Vec::<String>::new());
        (first, last)
    };
    // The first chunk's one range is the result; two ranges of the last one's keys are joined, in a launch more per layer.
    let (halves, floats) = (launches(false), launches(true));
    assert_eq!((floats.0 - halves.0, floats.1 - halves.1), (6, 0));
}

#[test]
fn a_stopped_pass_leaves_the_context_as_it_was() {
    let OnDevice { mut model, .. } = demo_on_device(&options(32), Order::Queued);
    step(&mut model, &PROMPT, Phase::Prefill, Logits::Last);
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() == 4
    };
    model.experts.begin_step(Phase::Prefill, 3);
    assert!(model.model.forward(&[7, 8, 9], &mut model.experts, Logits::Last, &stop).unwrap().is_none());
    assert_eq!((model.model.len(), asked.get()), (PROMPT.len(), 4));
}

#[test]
fn the_plan_is_what_the_device_is_asked_for() {
    for slots in [4, 32] {
        let OnDevice { model, device } = demo_on_device(&options(slots), Order::Queued);
        let plan = &model.plan;
        let planned = plan.trunk + plan.cache + plan.buffers + plan.slots;
        let used = device.used();
        assert!(used <= planned && used > plan.trunk + plan.cache + plan.slots, "{slots} slots: {used} of {planned} planned: {plan:?}");
        assert_eq!(plan.device.as_deref(), model.device.as_deref());
    }
    // Windows, latents, rows for results that are normalised, experts that every token uses, and convolutions.
    for case in ["gpt-oss", "gemma4", "gemma4-dense", "glm-flash", "glm4moe", "qwen2moe", "minimax-m2", "lfm2moe"] {
        let slots = (case != "gemma4-dense").then_some(3);
        let options = LoadOptions { slots, context: Some(256), kv_f32: false, ..options(1) };
        let OnDevice { model, device } = on_device(&reference(case), &options, Order::Queued);
        let plan = &model.plan;
        let planned = plan.trunk + plan.cache + plan.buffers + plan.slots;
        let used = device.used();
        assert!(used <= planned && used > plan.cache + plan.slots, "{case}: {used} of {planned} planned: {plan:?}");
    }
}

#[test]
fn a_load_can_be_given_up() {
    let gguf = Gguf::from_static(crate::demo::gguf(), "demo").unwrap();
    let device = Simulated::new(Options::default());
    let mut layers = 0;
    let done = open_on(&gguf, &options(4), Pool::new(1), Some(Arc::new(device.clone())), &mut |done, of| {
        layers = of;
        done < 3
    });
    assert!(matches!(done, Err(super::ModelError::GivenUp)) && layers == 6);
    assert_eq!(device.used(), 0);
}

#[test]
fn a_recorded_token_gives_what_single_launches_give_with_fewer_of_them() {
    let OnDevice { mut model, device } = demo_on_device(&options(32), Order::Late);
    step(&mut model, &PROMPT, Phase::Prefill, Logits::Last);
    let mut token = || {
        let before = device.launches();
        let (logits, _) = step(&mut model, &[42], Phase::Decode, Logits::Last);
        assert_eq!(model.model.truncate(PROMPT.len()), PROMPT.len());
        (logits, device.launches() - before)
    };
    // Launch by launch, then recorded and played, then played, at the same place each time.
    let (single, launches) = token();
    let (recorded, _) = token();
    assert!(error(&single, &recorded) < ROUNDING, "{}", error(&single, &recorded));
    for _ in 0..3 {
        let (played, fewer) = token();
        assert!(played.iter().zip(&recorded).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(fewer * 2 < launches, "{fewer} of {launches}");
    }
    assert_eq!(device.violations(), Vec::<String>::new());
}

#[test]
fn a_device_that_refuses_to_record_answers_all_the_same() {
    let answer = |refused: Option<u64>| {
        let OnDevice { mut model, device } = demo_on_device(&options(32), Order::Queued);
        step(&mut model, &PROMPT, Phase::Prefill, Logits::Last);
        step(&mut model, &[42], Phase::Decode, Logits::Last);
        // The first launches of the next token are those that would be recorded.
        device.fail(crate::gpu::simulated::Faults { launch: refused, ..Default::default() });
        let (logits, _) = step(&mut model, &[7], Phase::Decode, Logits::Last);
        (logits, step(&mut model, &[8], Phase::Decode, Logits::Last).0)
    };
    let (all, none) = (answer(None), answer(Some(3)));
    assert!(error(&all.0, &none.0) < ROUNDING && error(&all.1, &none.1) < ROUNDING);
}

#[test]
fn device_memory_stays_level_while_places_to_go_back_to_come_and_go() {
    for case in ["q35-odd", "lfm2moe"] {
        let device = Simulated::new(Options::default());
        let (gguf, options) = (reference(case), options(2));
        let mut m = open_on(&gguf, &options, Pool::new(1), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
        let mut used = Vec::new();
        for _ in 0..3 {
            m.model.mark(&[20, 30]);
            step(&mut m, &(1..41).collect::<Vec<u32>>(), Phase::Prefill, Logits::Last);
            used.push(device.used());
            assert_eq!(m.model.truncate(35), 30, "the place was kept");
            assert_eq!(m.model.truncate(0), 0);
            used.push(device.used());
        }
        assert!(used.iter().all(|&u| u == used[0]), "{case}: {used:?}");
    }
}
