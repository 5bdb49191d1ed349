//! Tokens that are queued whole while the host answers them.

use super::*;
use crate::gpu::simulated::Faults;
use crate::gpu::GpuError;
use crate::model::ModelError;
use When::{Always, Auto, Never};

/// The reference models with routed experts in several layers, of every architecture.
const CASES: [&str; 16] = [
    "strict",
    "odd",
    "olmoe",
    "q4_k_m",
    "q35-strict",
    "q35-odd",
    "qwen3next",
    "gpt-oss",
    "gemma4",
    "gemma4-q4_k_m",
    "glm-flash",
    "glm4moe",
    "qwen3vlmoe",
    "qwen2moe",
    "minimax-m2",
    "lfm2moe",
];

fn speaking(mailbox: When, slots: usize) -> LoadOptions {
    LoadOptions { mailbox, miss: MissChoice::Cpu, ahead: Some(0), ..options(slots) }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

#[test]
fn a_token_that_is_answered_has_the_bits_and_the_schedule_of_one_that_goes_layer_by_layer_and_is_one_launch() {
    let files = CASES.iter().map(|case| (*case, reference(case))).chain([("demo", demo_file())]);
    for (case, gguf) in files {
        for (foresee, order) in [(Never, Order::Late), (Always, Order::Queued)] {
            let mut pair = [Always, Never].map(|m| on_device(&gguf, &LoadOptions { foresee, ..speaking(m, 2) }, order));
            let prompt: Vec<u32> = PROMPT.iter().map(|t| t % 300).collect();
            let [a, b] = &mut pair;
            let firsts = [&mut *a, &mut *b].map(|s| bits(&step(&mut s.model, &prompt, Phase::Prefill, Logits::Last).0));
            assert_eq!(firsts[0], firsts[1], "{case}");
            for (i, token) in [7, 250, 40, 77, 7, 8].into_iter().enumerate() {
                let before = a.device.launches();
                let [x, y] = [&mut *a, &mut *b].map(|s| step(&mut s.model, &[token], Phase::Decode, Logits::Last));
                assert_eq!(bits(&x.0), bits(&y.0), "{case}, token {i}");
                let schedule =
                    |r: &StepRecord| (r.routed.clone(), r.slot_of.clone(), r.evicted.clone(), r.foreseen.clone(), r.bytes_missed);
                assert_eq!(schedule(&x.1), schedule(&y.1), "{case}, token {i}");
                let launches = a.device.launches() - before;
                assert!(
                    (launches == 1) == (i > 0),
                    "{case}, token {i}: {launches} launches; the first goes layer by layer, so that its hits are timed"
                );
            }
            // Between answered tokens the context may be cut, and a prompt read.
            let [x, y] = [&mut *a, &mut *b].map(|s| {
                let len = s.model.model.truncate(prompt.len());
                let logits = step(&mut s.model, &prompt[..3], Phase::Prefill, Logits::All).0;
                (len, bits(&logits), bits(&step(&mut s.model, &[9], Phase::Decode, Logits::Last).0))
            });
            assert_eq!(x, y, "{case}");
            assert_eq!(a.device.violations(), Vec::<String>::new(), "{case}");
            let [a, _] = pair;
            drop(a.model);
            assert_eq!((a.device.used(), a.device.pinned_used()), (0, 0), "everything is given back");
        }
    }
}

#[test]
fn slots_that_move_between_answered_tokens_change_nothing_and_with_a_slot_for_every_expert_nobody_need_answer() {
    let mut cpu = demo(&options(12));
    let mut gpu = demo_on_device(&speaking(Always, 12), Order::Late);
    for m in [&mut cpu, &mut gpu.model] {
        step(m, &PROMPT, Phase::Prefill, Logits::Last);
    }
    for (i, wanted) in [12, 12, 4, 31, 1, 7, 2, 12].into_iter().enumerate() {
        assert_eq!(gpu.model.experts.resize(wanted).unwrap(), wanted);
        let token = PROMPT[i];
        let (a, _) = step(&mut cpu, &[token], Phase::Decode, Logits::Last);
        let (b, _) = step(&mut gpu.model, &[token], Phase::Decode, Logits::Last);
        assert!(error(&a, &b) < ROUNDING, "after a resize to {wanted}: {}", error(&a, &b));
    }
    assert_eq!(gpu.device.violations(), Vec::<String>::new());
}

#[test]
fn where_misses_are_the_hosts_it_answers_and_where_they_go_up_it_does_not() {
    for (mailbox, miss, whole) in
        [(Auto, MissChoice::Cpu, true), (Never, MissChoice::Cpu, false), (Always, MissChoice::Gpu, false), (Auto, MissChoice::Gpu, false)]
    {
        let mut gpu = demo_on_device(&LoadOptions { miss, ..speaking(mailbox, 12) }, Order::Late);
        step(&mut gpu.model, &PROMPT, Phase::Prefill, Logits::Last);
        for (i, token) in [7, 300, 40].into_iter().enumerate() {
            let before = gpu.device.launches();
            step(&mut gpu.model, &[token], Phase::Decode, Logits::Last);
            assert_eq!(gpu.device.launches() - before == 1, whole && i > 0, "{mailbox:?} {miss:?}");
        }
    }
}

#[test]
fn a_device_that_dies_is_not_waited_for() {
    for kernel in ["route", "tell_host", "await_host", "add_answer"] {
        let mut gpu = demo_on_device(&speaking(Always, 6), Order::Late);
        for tokens in [&PROMPT[..], &[7], &[300]] {
            step(&mut gpu.model, tokens, Phase::Decode, Logits::Last);
        }
        gpu.device.fail(Faults { deadly: Some(kernel), ..Faults::default() });
        let Opened { model, experts, .. } = &mut gpu.model;
        experts.begin_step(Phase::Decode, 1);
        let e = model.forward(&[40], experts, Logits::Last, &|| false).unwrap_err();
        assert!(e.to_string().contains("astray"), "{kernel}: {e}");
    }
}

#[test]
fn after_an_answered_token_that_broke_off_the_context_goes_on_as_if_it_had_not_been() {
    for case in ["strict", "q35-strict", "q35-odd", "qwen3next", "lfm2moe"] {
        let gguf = reference(case);
        let [mut broken, mut sound] = [Always, Never].map(|m| on_device(&gguf, &speaking(m, 2), Order::Late));
        let all: Vec<u32> = PROMPT.iter().map(|t| t % 300).chain([7, 8]).collect();
        for m in [&mut broken.model, &mut sound.model] {
            m.model.mark(&[PROMPT.len()]);
            step(m, &all[..PROMPT.len()], Phase::Prefill, Logits::Last);
            all[PROMPT.len()..].iter().for_each(|token| drop(step(m, &[*token], Phase::Decode, Logits::Last)));
        }
        // The host hears a word that is none, and gives up while the device lives on.
        broken.device.fail(Faults { wrong: Some("tell_host"), ..Faults::default() });
        let Opened { model, experts, .. } = &mut broken.model;
        experts.begin_step(Phase::Decode, 1);
        model.forward(&[40], experts, Logits::Last, &|| false).unwrap_err();
        broken.device.fail(Faults::default());
        experts.end_step(&mut StepRecord::default());
        let len = model.truncate(all.len());
        assert!(len >= PROMPT.len(), "{case}: {len}");
        if len < all.len() {
            step(&mut broken.model, &all[len..], Phase::Prefill, Logits::Last);
        }
        for token in [9, 250, 17] {
            let [a, b] = [&mut sound.model, &mut broken.model].map(|m| step(m, &[token], Phase::Decode, Logits::Last).0);
            assert!(error(&a, &b) < ROUNDING, "{case}: {}", error(&a, &b));
        }
        assert_eq!(broken.device.violations(), Vec::<String>::new(), "{case}");
    }
}

#[test]
fn a_device_that_does_not_greet_goes_layer_by_layer_and_one_that_draws_a_screen_answers() {
    let launches = |gpu: &mut OnDevice| {
        step(&mut gpu.model, &PROMPT, Phase::Prefill, Logits::Last);
        [7, 300, 40].map(|token| {
            let before = gpu.device.launches();
            step(&mut gpu.model, &[token], Phase::Decode, Logits::Last);
            gpu.device.launches() - before
        })
    };
    let opened = |options: LoadOptions, faults: Faults, impatient: bool| {
        let device = Simulated::new(Options { impatient, ..Options::default() });
        device.fail(faults);
        let model = open_on(&demo_file(), &options, Pool::new(2), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
        device.fail(Faults::default());
        OnDevice { model, device }
    };
    let (auto, always) = (speaking(Auto, 12), speaking(Always, 12));
    let deaf = Faults { wrong: Some("tell_host"), ..Faults::default() };
    for impatient in [false, true] {
        assert_eq!(launches(&mut opened(auto.clone(), Faults::default(), impatient))[1..], [1, 1]);
    }
    assert!(launches(&mut opened(always, deaf, false)).iter().all(|n| *n > 1), "what it says is not heard");
}

#[test]
fn a_token_that_is_given_up_is_told_and_after_it_all_goes_on_layer_by_layer() {
    let mut given_up = 0;
    for case in ["strict", "q35-odd"] {
        let gguf = reference(case);
        for late in 0..12 {
            let device = Simulated::new(Options { impatient: true, order: Order::Late, ..Options::default() });
            let model = open_on(&gguf, &speaking(Auto, 2), Pool::new(2), Some(Arc::new(device.clone())), &mut |_, _| true).unwrap();
            let mut broken = OnDevice { model, device };
            let mut sound = on_device(&gguf, &speaking(Never, 2), Order::Late);
            let all: Vec<u32> = PROMPT.iter().map(|t| t % 300).chain([7, 8]).collect();
            for m in [&mut broken.model, &mut sound.model] {
                m.model.mark(&[PROMPT.len()]);
                step(m, &all[..PROMPT.len()], Phase::Prefill, Logits::Last);
                all[PROMPT.len()..].iter().for_each(|token| drop(step(m, &[*token], Phase::Decode, Logits::Last)));
            }
            // The host stands still before it says this word.
            broken.device.fail(Faults { silent: Some(late), ..Faults::default() });
            let Opened { model, experts, .. } = &mut broken.model;
            experts.begin_step(Phase::Decode, 1);
            let outcome = model.forward(&[40], experts, Logits::Last, &|| false);
            broken.device.fail(Faults::default());
            experts.end_step(&mut StepRecord::default());
            // It may come late with a word that nobody waits for.
            let was_given_up = matches!(outcome, Err(ModelError::Gpu(GpuError::GaveUp)));
            assert!(was_given_up || outcome.is_ok(), "{case}, word {late}: {outcome:?}");
            given_up += usize::from(was_given_up);
            let len = model.truncate(all.len());
            assert!(len >= PROMPT.len(), "{case}: {len}");
            if len < all.len() {
                step(&mut broken.model, &all[len..], Phase::Prefill, Logits::Last);
            }
            for (i, token) in [9, 250, 17].into_iter().enumerate() {
                let before = broken.device.launches();
                let [a, b] = [&mut sound.model, &mut broken.model].map(|m| step(m, &[token], Phase::Decode, Logits::Last).0);
                assert!(error(&a, &b) < ROUNDING, "{case}: {}", error(&a, &b));
                let launches = broken.device.launches() - before;
                // The first token after a prompt is timed layer by layer in any case.
                assert!(i == 0 || (launches > 1) == was_given_up, "{case}, word {late}, token {i}: {launches}");
            }
            assert_eq!(broken.device.violations(), Vec::<String>::new(), "{case}");
        }
    }
    assert!(given_up >= 12, "{given_up} of 24");
}
