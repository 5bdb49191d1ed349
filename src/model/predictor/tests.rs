//! The block against what the oracle and transformers' layers say (`tests/reference/guesses.py`), and against itself however the context came to be.

use super::super::decoder::Decoder;
use super::super::open::bind;
use super::super::{plan, LoadSettings, Logits, Model, ModelError};
use crate::events::{LoadOptions, Phase, StepRecord};
use crate::experts::policy::Policy;
use crate::experts::slots::CpuTier;
use crate::experts::Experts;
use crate::gguf::write::Writer;
use crate::gguf::Gguf;
use crate::kernels::Pool;
use std::path::{Path, PathBuf};

const CASE: &str = "q35-strict";
/// Largest difference of a logit, as for the model's own; they spread by 2.6.
const TOLERANCE: f32 = 2e-3;

fn fixture(case: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join(file)
}

/// What was computed elsewhere for one prompt.
pub(in crate::model) struct Expected {
    pub(in crate::model) ids: Vec<u32>,
    /// What follows the prompt.
    pub(in crate::model) next: u32,
    /// `[tokens, vocab]`: logits of the two guesses behind every position.
    pub(in crate::model) logits: [Vec<f32>; 2],
}

impl Expected {
    pub(in crate::model) fn read(case: &str) -> Vec<Self> {
        let mut archive = npyz::npz::NpzArchive::open(fixture(case, "guesses.npz")).unwrap();
        let ids = |a: &mut npyz::npz::NpzArchive<_>, name: String| -> Vec<u32> {
            a.by_name(&name).unwrap().unwrap().into_vec::<i32>().unwrap().into_iter().map(|v| v as u32).collect()
        };
        let mut all = Vec::new();
        while archive.array_names().any(|n| n == format!("ids{}", all.len())) {
            let i = all.len();
            let logits =
                ["first", "second"].map(|name| archive.by_name(&format!("{name}{i}")).unwrap().unwrap().into_vec::<f32>().unwrap());
            all.push(Self { ids: ids(&mut archive, format!("ids{i}")), next: ids(&mut archive, format!("next{i}"))[0], logits });
        }
        all
    }
}

struct Session {
    model: Decoder,
    experts: Experts,
    record: StepRecord,
}

fn options(slots: Option<usize>, context: usize) -> LoadOptions {
    LoadOptions { slots, context: Some(context), kv_f32: true, ..LoadOptions::default() }
}

impl Session {
    fn open(slots: Option<usize>, context: usize, guesses: bool) -> Self {
        Self::of(CASE, slots, context, guesses)
    }

    fn of(case: &str, slots: Option<usize>, context: usize, guesses: bool) -> Self {
        Self::of_file(&Gguf::open(&fixture(case, "model.gguf")).unwrap(), slots, context, guesses)
    }

    fn of_file(gguf: &Gguf, slots: Option<usize>, context: usize, guesses: bool) -> Self {
        let pool = Pool::new(2);
        let plan = plan(gguf, &options(slots, context), 1 << 40).unwrap();
        let settings = LoadSettings { context, kv_f32: true, goes_back: None, pool: pool.clone(), guesses };
        let (model, store, config) = bind(gguf, &settings).unwrap();
        let layers = if config.experts > 0 { 4 + usize::from(guesses) } else { 0 };
        assert_eq!((model.guesses(), config.guesses, store.layers.len()), (guesses, guesses, layers));
        let bytes = store.expert_bytes();
        let tier = CpuTier::new(store, pool, None).unwrap();
        let mut experts = Experts::new(Box::new(tier), bytes, config.experts, &plan, Policy::default());
        if guesses {
            experts.set_last_apart();
        }
        Self { model, experts, record: StepRecord::default() }
    }

    /// One step: guesses behind the context if `next` is given, with their logits; then `tokens` are read. Answers the logits of the pass, the guesses, and theirs.
    fn step(&mut self, next: Option<u32>, most: usize, tokens: &[u32]) -> (Vec<f32>, Vec<u32>, Vec<Vec<f32>>) {
        let phase = if tokens.len() > 1 { Phase::Prefill } else { Phase::Decode };
        self.experts.begin_step(phase, tokens.len());
        let mut seen = Vec::new();
        let guess = |next| self.model.guess_seen(next, most, &mut self.experts, &|| false, &mut |l| seen.push(l.to_vec())).unwrap();
        let guesses = next.map(guess).unwrap_or_default();
        let logits = self.model.forward(tokens, &mut self.experts, Logits::All, &|| false).unwrap().unwrap();
        self.experts.end_step(&mut self.record);
        (logits, guesses, seen)
    }

    fn read(&mut self, tokens: &[u32], chunk: usize) {
        tokens.chunks(chunk).for_each(|c| drop(self.step(None, 0, c)));
    }

    /// Logits of three guesses behind the context.
    fn guess(&mut self, next: u32) -> Vec<Vec<f32>> {
        self.experts.begin_step(Phase::Decode, 1);
        let mut seen = Vec::new();
        let guesses = self.model.guess_seen(next, 3, &mut self.experts, &|| false, &mut |l| seen.push(l.to_vec())).unwrap();
        self.experts.end_step(&mut self.record);
        assert_eq!(guesses, seen.iter().map(|l| super::likeliest(l)).collect::<Vec<_>>());
        seen
    }
}

const NOTHING: [u32; 0] = [];

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// 80 tokens that are no prompt of the fixture.
fn text() -> Vec<u32> {
    (0..80u32).map(|i| (i * i * 7 + 3 * i + 5) % 300).collect()
}

#[test]
fn guesses_behind_every_position_have_the_logits_of_other_implementations() {
    for (case, few) in [(CASE, Some(2)), ("qwen35", None)] {
        let prompts = Expected::read(case);
        assert_eq!(prompts.iter().map(|p| p.ids.len()).collect::<Vec<_>>(), [5, 17, 70]);
        for p in &prompts {
            // Token by token.
            let mut s = Session::of(case, None, 128, true);
            s.step(None, 0, &p.ids[..1]);
            let vocab = s.model.vocab();
            let compare = |at: usize, seen: &[Vec<f32>], how: &str| {
                for (depth, (seen, want)) in seen.iter().zip(&p.logits).enumerate() {
                    let d = furthest(seen, &want[at * vocab..(at + 1) * vocab]);
                    assert!(
                        d < TOLERANCE,
                        "{case}, {} tokens, {how}, guess {depth} behind position {at}: a logit differs by {d}",
                        p.ids.len()
                    );
                }
            };
            for (at, &next) in p.ids[1..].iter().chain([&p.next]).enumerate() {
                let (_, guesses, seen) = s.step(Some(next), 2, &[next]);
                assert_eq!((guesses.len(), seen.len()), (2, 2));
                compare(at, &seen, "one by one");
            }
            // A prompt in one piece and in several.
            for chunk in [512, 7] {
                let mut s = Session::of(case, few, 128, true);
                s.read(&p.ids, chunk);
                compare(p.ids.len() - 1, &s.guess(p.next), "in chunks");
            }
        }
    }
}

#[test]
fn the_reference_would_see_another_logit() {
    // What the comparison rests on: positions, depths and prompts differ by far more than it allows.
    for case in [CASE, "qwen35"] {
        let p = Expected::read(case).pop().unwrap();
        let [first, second] = &p.logits;
        let vocab = first.len() / p.ids.len();
        for at in 1..p.ids.len() {
            let row = |l: &[f32], at: usize| l[at * vocab..(at + 1) * vocab].to_vec();
            assert!(furthest(&row(first, at), &row(first, at - 1)) > 0.5 && furthest(&row(first, at), &row(second, at)) > 0.5);
        }
    }
}

#[test]
fn slots_change_no_bit_of_a_guess_and_the_block_none_of_the_models_logits() {
    let text = text();
    let said = |slots, guesses| {
        let mut s = Session::open(Some(slots), 128, guesses);
        s.read(&text[..40], 16);
        let (mut own, mut guessed) = (Vec::new(), Vec::new());
        for &t in &text[40..60] {
            let (logits, _, seen) = s.step(Some(t), 3, &[t]);
            assert_eq!((s.record.layers(), seen.len()), if guesses { (5, 3) } else { (4, 0) });
            own.push(logits);
            guessed.push(seen);
        }
        (own, guessed)
    };
    let want = said(12, true);
    for slots in [0, 1, 3, 7] {
        assert!(said(slots, true) == want, "{slots} slots");
    }
    assert!(said(12, false).0 == want.0, "a model that does not guess");
}

#[test]
fn guesses_are_the_same_whether_anybody_asked_before() {
    let text = text();
    let mut asked = Session::open(Some(4), 128, true);
    let mut silent = Session::open(Some(4), 128, true);
    for s in [&mut asked, &mut silent] {
        s.read(&text[..30], 30);
    }
    for &t in &text[30..50] {
        asked.step(Some(t), 3, &[t]);
        // Of something that does not come after all.
        asked.guess(7);
        silent.step(None, 0, &[t]);
    }
    assert!(asked.guess(text[50]) == silent.guess(text[50]));
    assert!(asked.guess(text[50]) == silent.guess(text[50]), "twice the same");
    assert!(asked.guess(text[50]) != silent.guess(text[51]), "something else follows");
}

#[test]
fn a_context_that_was_cut_and_read_again_has_the_guesses_of_one_that_never_was() {
    let text = text();
    let fresh = |mark: &[usize], parts: &[&[u32]], next| {
        let mut s = Session::open(Some(4), 128, true);
        s.model.mark(mark);
        parts.iter().for_each(|p| s.read(p, 512));
        s.guess(next)
    };
    let mut s = Session::open(Some(4), 128, true);
    s.model.mark(&[30]);
    s.read(&text[..50], 512);
    s.read(&text[50..70], 512);
    s.guess(text[70]);
    s.read(&text[70..71], 1);
    // The nearer places first. 50: where a pass began, whose row is kept by itself. 30: a mark in the middle of a pass.
    assert_eq!(s.model.truncate(60), 50);
    assert!(s.guess(9) == fresh(&[30], &[&text[..50]], 9), "right where it was cut");
    s.read(&text[10..20], 512);
    assert!(s.guess(5) == fresh(&[30], &[&text[..50], &text[10..20]], 5));
    assert_eq!(s.model.truncate(45), 30);
    s.read(&text[3..8], 512);
    let want = fresh(&[30], &[&text[..30], &text[3..8]], 5);
    let d = s.guess(5).iter().zip(&want).map(|(a, b)| furthest(a, b)).fold(0.0, f32::max);
    assert!(d < 1e-3, "the state at a mark is that of another cut: {d}");
    assert_eq!(s.model.truncate(29), 0);
    assert!(s.guess(5).is_empty(), "nothing to guess from");
    s.read(&text[..50], 512);
    assert!(s.guess(9) == fresh(&[30], &[&text[..50]], 9), "from the beginning");
}

#[test]
fn a_pass_that_is_taken_back_in_part_leaves_the_guesses_of_what_was_kept() {
    let text = text();
    let start = || {
        let mut s = Session::open(Some(4), 128, true);
        s.read(&text[..30], 512);
        s.read(&text[30..33], 1);
        s
    };
    for kept in 1..=4 {
        let mut s = start();
        s.guess(text[33]);
        s.model.tentative();
        s.read(&[text[33], text[34], text[35], 8], 512);
        assert_eq!(s.model.truncate(33 + kept), 33 + kept);
        let mut one_by_one = start();
        s.read(&text[60..62], 1);
        [text[33], text[34], text[35], 8][..kept].iter().chain(&text[60..62]).for_each(|t| one_by_one.read(&[*t], 1));
        assert!(s.guess(9) == one_by_one.guess(9), "{kept} kept");
    }
}

#[test]
fn rows_that_nobody_kept_make_a_shorter_memory_and_nothing_worse() {
    let text = text();
    let mut s = Session::open(Some(4), 128, true);
    s.read(&text[..50], 512);
    // As if the model could go back further than rows are kept.
    s.model.forget_rows();
    assert!(s.guess(text[50]).is_empty());
    s.read(&text[50..60], 512);
    let short = s.guess(text[60]);
    assert_eq!(short.len(), 3);
    let mut whole = Session::open(Some(4), 128, true);
    whole.read(&text[..50], 512);
    whole.read(&text[50..60], 512);
    let d = furthest(&short[0], &whole.guess(text[60])[0]);
    assert!(d > TOLERANCE, "it attends to ten tokens only: {d}");
}

#[test]
fn a_guess_needs_room_and_a_token_and_stops_when_told_to() {
    let text = text();
    let mut s = Session::open(Some(4), 32, true);
    let guess = |s: &mut Session, next, most, stop: &dyn Fn() -> bool| {
        s.experts.begin_step(Phase::Decode, 1);
        let done = s.model.guess(next, most, &mut s.experts, stop);
        s.experts.end_step(&mut s.record);
        done
    };
    assert_eq!(guess(&mut s, 1, 4, &|| false).unwrap(), NOTHING, "an empty context");
    s.read(&text[..28], 512);
    let want = guess(&mut s, 1, 3, &|| false).unwrap();
    assert_eq!(want.len(), 3, "`next` and three more fit");
    assert_eq!(guess(&mut s, 1, 9, &|| false).unwrap(), want);
    assert_eq!(guess(&mut s, 1, 2, &|| false).unwrap(), want[..2]);
    assert_eq!(guess(&mut s, 1, 0, &|| false).unwrap(), NOTHING);
    assert_eq!(guess(&mut s, 1, 9, &|| true).unwrap(), NOTHING);
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    assert_eq!(guess(&mut s, 1, 9, &stop).unwrap(), want[..2]);
    let e = guess(&mut s, 320, 1, &|| false).unwrap_err();
    assert!(matches!(e, ModelError::Token { token: 320, vocab: 320 }), "{e}");
    assert_eq!((s.model.len(), guess(&mut s, 1, 3, &|| false).unwrap()), (28, want), "the context is as it was");
    s.read(&text[28..32], 512);
    assert_eq!(guess(&mut s, 1, 3, &|| false).unwrap(), NOTHING, "no room for `next`");
}

#[test]
fn a_damaged_block_guesses_no_more_and_the_model_goes_on() {
    let gguf = Gguf::open(&fixture(CASE, "model.gguf")).unwrap();
    let mut w = Writer::empty();
    gguf.metadata().for_each(|(key, value)| w.set(key, value.clone()));
    for t in gguf.tensors() {
        let mut data = gguf.bytes(t).to_vec();
        if t.name == "blk.4.nextn.hnorm.weight" {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        w.tensor(&t.name, t.ty, &t.dims, data);
    }
    let damaged = super::super::tests::file(&w);
    let text = text();
    let (mut asked, mut silent) = (Session::of_file(&damaged, Some(4), 64, true), Session::of_file(&damaged, Some(4), 64, true));
    let mut without = Session::open(Some(4), 64, false);
    let want = [&text[..20], &text[20..25], &text[25..26]].map(|part| without.step(None, 0, part).0);
    for (s, asks) in [(&mut asked, true), (&mut silent, false)] {
        let first = s.step(None, 0, &text[..20]).0;
        if asks {
            s.experts.begin_step(Phase::Decode, 3);
            assert_eq!(s.model.guess(text[20], 2, &mut s.experts, &|| false).unwrap(), NOTHING);
            assert!(!s.model.guesses());
        }
        let rest = [&text[20..25], &text[25..26]].map(|part| s.step(None, 0, part).0);
        assert!(!s.model.guesses());
        assert!([first, rest[0].clone(), rest[1].clone()] == want, "the logits are those of a model without the block");
    }
}

#[test]
fn rows_of_a_prompt_that_are_read_late_are_no_part_of_a_tokens_record() {
    let text = text();
    let mut s = Session::open(Some(4), 128, true);
    s.step(None, 0, &text[..30]);
    s.step(Some(text[30]), 3, &text[30..31]);
    let of_last: u32 = s.record.layer(4).iter().map(|r| u32::from(r.tokens)).sum();
    assert_eq!((s.record.layers(), of_last), (5, 2 * 4), "two further guesses, and not the thirty rows before the first");
}

#[test]
fn what_the_block_did_is_the_last_layer_of_the_record() {
    let text = text();
    let mut s = Session::open(Some(4), 128, true);
    let of_last = |s: &Session| s.record.layer(4).iter().map(|r| u32::from(r.tokens)).sum::<u32>();
    s.step(None, 0, &text[..20]);
    assert_eq!((s.record.layers(), s.record.layer(4).len()), (5, 0), "nothing is known to follow yet");
    s.step(None, 0, &text[20..28]);
    assert_eq!((s.record.layers(), of_last(&s)), (5, 20 * 4), "twenty rows, four experts each");
    for at in 28..30 {
        s.step(None, 0, &text[at..=at]);
        assert_eq!((s.record.layers(), of_last(&s)), (5, 0), "nobody asks, and there are few");
    }
    s.step(Some(text[30]), 3, &text[30..31]);
    assert_eq!((s.record.layers(), of_last(&s)), (5, 12 * 4), "ten rows that were left, and two for further guesses");
    let mut experts: Vec<u16> = s.record.layer(4).iter().map(|r| r.expert).collect();
    assert!(!experts.is_empty() && s.record.layer(3).len() == 4);
    experts.sort_unstable();
    experts.dedup();
    assert_eq!(experts.len(), s.record.layer(4).len(), "each once");
    // The tally is over a whole step, whoever asked.
    assert_eq!(s.record.slot_of.len(), 5 * 12);
}
