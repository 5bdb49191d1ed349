//! Layers that see a window and keep no more than they need, against the same that keep everything.

use super::*;
use crate::events::{LoadOptions, Phase, StepRecord};
use crate::experts::policy::Policy;
use crate::experts::slots::CpuTier;
use crate::experts::Experts;
use crate::gguf::Gguf;
use crate::kernels::Pool;
use crate::model::{load, plan, LoadSettings, Logits, Model};
use std::path::Path;

const CONTEXT: usize = 640;

/// A reference model whose windows have 13 positions.
fn fixture(case: &str) -> Gguf {
    Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join("model.gguf")).unwrap()
}

struct Session {
    model: Box<dyn Model>,
    experts: Experts,
}

impl Session {
    fn open(gguf: &Gguf, kv_f32: bool, goes_back: Option<usize>) -> Self {
        let pool = Pool::new(2);
        let options = LoadOptions { kv_f32, context: Some(CONTEXT), ..LoadOptions::default() };
        let plan = plan(gguf, &options, 1 << 40).unwrap();
        let settings = LoadSettings { context: CONTEXT, kv_f32, goes_back, pool: pool.clone(), guesses: true };
        let (model, store, config) = load(gguf, &settings).unwrap();
        let bytes = store.expert_bytes();
        let tier = CpuTier::new(store, pool, None).unwrap();
        Self { model, experts: Experts::new(Box::new(tier), bytes, config.experts, &plan, Policy::default()) }
    }

    /// The bits of the last token's logits.
    fn read(&mut self, tokens: &[u32]) -> Vec<u32> {
        self.experts.begin_step(if tokens.len() == 1 { Phase::Decode } else { Phase::Prefill }, tokens.len());
        let logits = self.model.forward(tokens, &mut self.experts, Logits::Last, &|| false).unwrap().unwrap();
        self.experts.end_step(&mut StepRecord::default());
        logits.iter().map(|l| l.to_bits()).collect()
    }
}

/// Tokens of a made-up text.
fn text(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + i * i * 11) % 101).collect()
}

#[test]
fn whoever_keeps_only_what_windows_see_gives_the_same_bits() {
    let text = text(CONTEXT);
    for case in ["gpt-oss", "gemma4", "gemma4-dense"] {
        let gguf = fixture(case);
        for (kv_f32, goes_back) in [(true, 0), (false, 0), (false, 100)] {
            let mut all = Session::open(&gguf, kv_f32, None);
            let mut few = Session::open(&gguf, kv_f32, Some(goes_back));
            let mut at = 0;
            // Passes longer than a ring, tokens that go around it, and one that ends in the middle of a block.
            for n in [300, 1, 1, 63, 1, 64, 7, 1, 130, 1, 1] {
                assert_eq!(all.read(&text[at..at + n]), few.read(&text[at..at + n]), "{case}, {goes_back}, {n} tokens after {at}");
                at += n;
            }
            assert!(few.model.cache_bytes() < all.model.cache_bytes(), "{case}");
        }
    }
}

#[test]
fn whoever_goes_back_further_than_was_kept_begins_anew_and_nearer_goes_on() {
    let text = text(CONTEXT);
    for case in ["gpt-oss", "gemma4"] {
        let gguf = fixture(case);
        let mut all = Session::open(&gguf, true, None);
        let mut few = Session::open(&gguf, true, Some(100));
        let room = kept(13, 100, CONTEXT);
        for s in [&mut all, &mut few] {
            s.read(&text[..400]);
        }
        // The first position that is still there is the first that a token at `nearest` sees.
        let nearest = 400 - room + 12;
        for (back, reached) in [(390, 390), (nearest, nearest), (nearest - 1, 0), (200, 0)] {
            assert_eq!(few.model.truncate(back), reached, "{case}");
            assert_eq!(all.model.truncate(back), back, "{case}");
            if reached == 0 {
                few.read(&text[..back]);
            }
            // Another text, then the end of the first.
            assert_eq!(all.read(&[5, 6, 7]), few.read(&[5, 6, 7]), "{case}, back to {back}");
            let len = back + 3;
            assert_eq!(few.model.len(), len);
            assert_eq!(all.read(&text[len..400]), few.read(&text[len..400]), "{case}, back to {back}");
        }
    }
}

#[test]
fn a_pass_that_is_stopped_in_the_middle_is_undone() {
    let text = text(CONTEXT);
    let gguf = fixture("gemma4");
    let (mut all, mut few) = (Session::open(&gguf, true, None), Session::open(&gguf, true, Some(100)));
    for s in [&mut all, &mut few] {
        s.read(&text[..300]);
        let calls = std::cell::Cell::new(0);
        s.experts.begin_step(Phase::Prefill, 60);
        let stop = || calls.replace(calls.get() + 1) == 2;
        assert!(s.model.forward(&text[300..360], &mut s.experts, Logits::Last, &stop).unwrap().is_none());
        s.experts.end_step(&mut StepRecord::default());
        assert_eq!(s.model.truncate(300), 300);
    }
    assert_eq!(all.read(&text[340..380]), few.read(&text[340..380]));
}

#[test]
fn what_is_kept_is_whole_blocks_and_no_more_than_the_context() {
    assert_eq!((kept(1024, GOES_BACK, 40_000), kept(1024, GOES_BACK, 4096), kept(13, 0, 640)), (5120, 4096, 64));
    assert_eq!(kept(usize::MAX, usize::MAX, 512), 512);
}
