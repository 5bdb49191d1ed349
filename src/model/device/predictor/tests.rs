//! Guesses on the simulated device against other implementations and against the CPU, and what the block does to tokens that are queued whole.

use crate::events::{LoadOptions, MissChoice, Phase, StepRecord, When};
use crate::gguf::Gguf;
use crate::gpu::simulated::{Options, Order, Simulated};
use crate::gpu::Device;
use crate::kernels::Pool;
use crate::model::predictor::tests::Expected;
use crate::model::{open_on, Logits, ModelError, Opened};
use std::path::Path;
use std::sync::Arc;
use MissChoice::{Auto, Cpu, Gpu};

const CASE: &str = "q35-strict";
const EXPERTS: usize = 12;
/// Other orders of sums, in the layers and then in the block, up to three times over.
const NEAR: f64 = 1e-7;

struct Session {
    model: Opened,
    device: Simulated,
    record: StepRecord,
}

fn options(slots: usize, miss: MissChoice) -> LoadOptions {
    // When experts come ahead is not to depend on when a thread is done.
    let slots = (slots < EXPERTS).then_some(slots);
    LoadOptions { slots, miss, kv_f32: true, context: Some(128), hold: When::Never, ..LoadOptions::default() }
}

impl Session {
    fn open(options: &LoadOptions, on_device: bool) -> Self {
        Self::of(CASE, options, on_device)
    }

    fn of(case: &str, options: &LoadOptions, on_device: bool) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join("model.gguf");
        let device = Simulated::new(Options { order: Order::Late, ..Options::default() });
        let used: Option<Arc<dyn Device>> = if on_device { Some(Arc::new(device.clone())) } else { None };
        let mut model = open_on(&Gguf::open(&path).unwrap(), options, Pool::new(2), used, &mut |_, _| true).unwrap();
        assert_eq!(model.model.guesses(), options.draft != When::Never);
        model.experts.time_hits_every(u32::MAX);
        Self { model, device, record: StepRecord::default() }
    }

    /// Guesses behind the context if there is a `next`, then `tokens` are read. Answers the logits of the pass, those of the guesses, and the launches of the pass.
    fn step(&mut self, next: Option<u32>, most: usize, tokens: &[u32]) -> (Vec<f32>, Vec<Vec<f32>>, u64) {
        let phase = if tokens.len() == 1 { Phase::Decode } else { Phase::Prefill };
        let Opened { model, experts, .. } = &mut self.model;
        experts.begin_step(phase, tokens.len());
        let mut seen = Vec::new();
        if let Some(next) = next {
            let guesses = model.guess_with_logits(next, most, experts, &mut |l| seen.push(l.to_vec())).unwrap();
            assert_eq!(guesses.len(), seen.len());
        }
        let before = self.device.launches();
        let logits = model.forward(tokens, experts, Logits::Last, &|| false).unwrap().unwrap();
        let launches = self.device.launches() - before;
        experts.end_step(&mut self.record);
        experts.fill_up();
        (logits, seen, launches)
    }

    fn guess(&mut self, next: u32) -> Vec<Vec<f32>> {
        let Opened { model, experts, .. } = &mut self.model;
        experts.begin_step(Phase::Decode, 1);
        let mut seen = Vec::new();
        model.guess_with_logits(next, 3, experts, &mut |l| seen.push(l.to_vec())).unwrap();
        experts.end_step(&mut self.record);
        seen
    }

    fn clean(&self) {
        assert_eq!(self.device.violations(), Vec::<String>::new());
    }
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Mean squared difference over mean square.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let of = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(f).sum::<f64>();
    of(&|i| f64::from(a[i] - b[i]).powi(2)) / of(&|i| f64::from(a[i]).powi(2))
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

fn text() -> Vec<u32> {
    (0..80u32).map(|i| (i * i * 7 + 3 * i + 5) % 300).collect()
}

#[test]
fn guesses_have_the_logits_of_other_implementations_in_any_way_of_reading() {
    for (case, slots, miss) in [(CASE, EXPERTS, Auto), (CASE, 2, Cpu), (CASE, 3, Gpu), ("qwen35", EXPERTS, Auto)] {
        let prompts = Expected::read(case);
        let compare = |p: &Expected, at: usize, seen: &[Vec<f32>]| {
            let vocab = p.logits[0].len() / p.ids.len();
            assert!(seen.len() >= 2);
            for (depth, (seen, want)) in seen.iter().zip(&p.logits).enumerate() {
                let d = furthest(seen, &want[at * vocab..(at + 1) * vocab]);
                assert!(d < 2e-3, "{case}, {slots} slots, {miss:?}: guess {depth} behind position {at}: a logit differs by {d}");
            }
        };
        let p = &prompts[1];
        let mut s = Session::of(case, &options(slots, miss), true);
        s.step(None, 0, &p.ids[..1]);
        for (at, &next) in p.ids[1..].iter().chain([&p.next]).enumerate() {
            let (_, seen, _) = s.step(Some(next), 2, &[next]);
            compare(p, at, &seen);
        }
        s.clean();
        for cut in [70, 7, 66] {
            let mut s = Session::of(case, &options(slots, miss), true);
            prompts[2].ids.chunks(cut).for_each(|c| drop(s.step(None, 0, c)));
            compare(&prompts[2], 69, &s.guess(prompts[2].next));
            s.clean();
        }
    }
}

#[test]
fn guesses_are_those_of_the_cpu_after_cuts_and_whether_anybody_asked_before() {
    let text = text();
    for (slots, miss) in [(EXPERTS, Gpu), (3, Cpu)] {
        let options = options(slots, miss);
        let (mut cpu, mut gpu, mut silent) = (Session::open(&options, false), Session::open(&options, true), Session::open(&options, true));
        for s in [&mut cpu, &mut gpu, &mut silent] {
            s.model.model.mark(&[20]);
            s.step(None, 0, &text[..40]);
        }
        for &t in &text[40..60] {
            let (a, b) = (cpu.step(Some(t), 3, &[t]), gpu.step(Some(t), 3, &[t]));
            silent.step(None, 0, &[t]);
            assert!(error(&a.0, &b.0) < NEAR && a.1.len() == 3);
            for (a, b) in a.1.iter().zip(&b.1) {
                assert!(error(a, b) < NEAR, "{slots} slots, {miss:?}: {}", error(a, b));
            }
        }
        let same = |a: &mut Session, b: &mut Session, how: &str| {
            for (a, b) in a.guess(9).iter().zip(&b.guess(9)) {
                assert!(error(a, b) < NEAR, "{slots} slots, {miss:?}, {how}: {}", error(a, b));
            }
        };
        same(&mut gpu, &mut silent, "nobody asked");
        // Back to a mark in the middle of a pass, and to nothing.
        for (wanted, reached) in [(30, 20), (10, 0)] {
            for s in [&mut cpu, &mut gpu, &mut silent] {
                assert_eq!(s.model.model.truncate(wanted), reached);
            }
            assert_eq!((gpu.guess(9).len(), silent.guess(9).len()), if reached > 0 { (3, 3) } else { (0, 0) });
            for s in [&mut cpu, &mut gpu, &mut silent] {
                s.step(None, 0, &text[5..35]);
            }
            same(&mut cpu, &mut gpu, "cut");
            same(&mut gpu, &mut silent, "cut, and nobody asked");
        }
        gpu.clean();
        silent.clean();
        let Session { model, device, .. } = gpu;
        drop(model);
        assert_eq!((device.used(), device.pinned_used()), (0, 0), "everything is given back");
    }
}

#[test]
fn tokens_are_queued_whole_with_the_block_as_without_whoever_asks_for_guesses() {
    let text = text();
    // With every expert in a slot; answered by the host, with few.
    for (slots, miss, mailbox) in [(EXPERTS, Gpu, When::Never), (4, Cpu, When::Always)] {
        let options = LoadOptions { mailbox, ahead: Some(0), ..options(slots, miss) };
        let mut without = Session::open(&LoadOptions { draft: When::Never, ..options.clone() }, true);
        let (mut asked, mut silent) = (Session::open(&options, true), Session::open(&options, true));
        for s in [&mut without, &mut asked, &mut silent] {
            s.step(None, 0, &text[..30]);
            // Experts that nobody has asked for come up, and kernels become known.
            text[30..34].iter().for_each(|&t| drop(s.step(None, 0, &[t])));
        }
        for (i, &t) in text[34..54].iter().enumerate() {
            let want = without.step(None, 0, &[t]);
            let (a, b) = (asked.step(Some(t), 2, &[t]), silent.step(None, 0, &[t]));
            assert_eq!((bits(&a.0), bits(&b.0)), (bits(&want.0), bits(&want.0)), "token {i}");
            assert_eq!((want.2, a.2, b.2), (1, 1, 1), "launches of token {i}, {slots} slots");
            assert_eq!((without.record.layers(), asked.record.layers(), silent.record.layers()), (4, 5, 5));
            for layer in 0..4 {
                let ids = |s: &Session| s.record.layer(layer).iter().map(|r| (r.expert, r.outcome)).collect::<Vec<_>>();
                assert_eq!((ids(&asked), ids(&silent)), (ids(&without), ids(&without)), "the schedule of the layers, token {i}");
            }
            assert!(!asked.record.layer(4).is_empty() && silent.record.layer(4).is_empty());
        }
        [&without, &asked, &silent].into_iter().for_each(Session::clean);
    }
}

#[test]
fn a_pass_that_is_taken_back_in_part_leaves_the_guesses_of_what_was_kept() {
    let text = text();
    for (slots, miss) in [(EXPERTS, Gpu), (3, Cpu)] {
        for kept in 1..=4 {
            let open = || {
                let mut s = Session::open(&options(slots, miss), true);
                s.step(None, 0, &text[..30]);
                text[30..33].iter().for_each(|t| drop(s.step(None, 0, &[*t])));
                s
            };
            let (mut s, mut one_by_one) = (open(), open());
            s.guess(text[33]);
            s.model.model.tentative();
            let drafted = [text[33], text[34], text[35], 8];
            s.step(None, 0, &drafted);
            assert_eq!(s.model.model.truncate(33 + kept), 33 + kept);
            s.step(None, 0, &text[60..61]);
            drafted[..kept].iter().chain(&text[60..61]).for_each(|t| drop(one_by_one.step(None, 0, &[*t])));
            for (a, b) in s.guess(9).iter().zip(&one_by_one.guess(9)) {
                assert!(error(a, b) < NEAR, "{kept} kept, {slots} slots, {miss:?}: {}", error(a, b));
            }
            s.clean();
        }
    }
}

#[test]
fn a_token_that_there_is_not_is_refused_and_the_next_guess_is_as_ever() {
    let text = text();
    let mut s = Session::open(&options(3, Auto), true);
    s.step(None, 0, &text[..30]);
    let want = s.guess(7);
    let Opened { model, experts, .. } = &mut s.model;
    experts.begin_step(Phase::Decode, 1);
    let e = model.guess(320, 2, experts, &|| false).unwrap_err();
    assert!(matches!(e, ModelError::Token { token: 320, vocab: 320 }), "{e}");
    assert_eq!(model.guess(1, 2, experts, &|| true).unwrap().len(), 0, "told to stop");
    experts.end_step(&mut s.record);
    for (a, b) in s.guess(7).iter().zip(&want) {
        assert!(error(a, b) < NEAR, "{}", error(a, b));
    }
    s.clean();
}
