//! Is the engine numerically right? Small models with random weights against what other implementations computed.
//!
//! `tests/reference/README.md` says how the fixtures were made, and which mistakes they are known to catch.

use rotary::events::{LoadOptions, Phase, StepRecord};
use rotary::gguf::Gguf;
use rotary::kernels::Pool;
use rotary::model::{self, Logits, Opened};
use rotary::report::check::{check, CheckError, CheckOptions, Report};
use rotary::report::reference::{Kind, Reference, ReferenceError};
use std::path::{Path, PathBuf};

fn fixture(case: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join(file)
}

fn load_options() -> LoadOptions {
    LoadOptions { threads: Some(2), context: Some(128), kv_f32: true, ..LoadOptions::default() }
}

fn accepted(case: &str, archive: &str, kind: Kind) -> Report {
    let options = CheckOptions { load: load_options(), ..CheckOptions::default() };
    let report = check(&fixture(case, "model.gguf"), &fixture(case, archive), &options).unwrap();
    assert!(report.passed(), "{case}:\n{report}");
    assert_eq!((report.kind, report.prompts.len()), (kind, 3), "{case}: another reference than the one committed");
    report
}

#[test]
fn float_models_give_the_logits_routes_and_text_of_transformers() {
    for (case, layers) in [("strict", 3), ("odd", 2), ("olmoe", 3)] {
        let report = accepted(case, "ref.npz", Kind::Float);
        for p in &report.prompts {
            // Nothing was left out: every router's margin in these cases is clear, every greedy text 48 tokens long.
            assert_eq!(p.routes.map(|r| r.of), Some(layers * p.tokens), "{case}:\n{report}");
            assert_eq!(p.greedy.map(|g| g.of), Some(48), "{case}:\n{report}");
            assert_eq!(p.top1.of, 3 * p.tokens, "{case}: three chunk sizes\n{report}");
        }
    }
}

#[test]
fn quantized_models_err_no_more_than_llama_cpp_allows() {
    for (case, archive) in [("q4_k_m", "quant-Q4_K_M.npz"), ("q2_k", "quant-Q2_K.npz"), ("q4_0", "quant-Q4_0.npz")] {
        let report = accepted(case, archive, Kind::Quantized);
        assert!(report.peer_nmse.is_some(), "{case}: a yardstick");
    }
}

/// A model file with its first prompt of at least 64 tokens.
fn open(case: &str, load: &LoadOptions) -> (Opened, Vec<u32>) {
    let gguf = Gguf::open(&fixture(case, "model.gguf")).unwrap();
    let archive = if case.starts_with('q') { "quant-Q4_K_M.npz" } else { "ref.npz" };
    let reference = Reference::read(&fixture(case, archive)).unwrap();
    let prompt = reference.prompts.into_iter().find(|p| p.ids.len() >= 64).unwrap();
    (model::open(&gguf, load, Pool::new(2)).unwrap(), prompt.ids)
}

fn step(o: &mut Opened, tokens: &[u32], record: &mut StepRecord) -> Vec<f32> {
    let phase = if tokens.len() == 1 { Phase::Decode } else { Phase::Prefill };
    o.experts.begin_step(phase, tokens.len());
    let logits = o.model.forward(tokens, &mut o.experts, Logits::All, &|| false).unwrap().unwrap();
    o.experts.end_step(record);
    logits
}

/// All logits of `ids`, read in chunks.
fn read_in(o: &mut Opened, ids: &[u32], chunk: usize) -> Vec<f32> {
    o.model.truncate(0);
    let mut record = StepRecord::default();
    ids.chunks(chunk).flat_map(|c| step(o, c, &mut record)).collect()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn chunk_borders_leave_no_trace() {
    for case in ["strict", "odd", "olmoe", "q4_k_m"] {
        let (mut o, ids) = open(case, &load_options());
        let whole = read_in(&mut o, &ids, ids.len());
        for chunk in [1, 7, 64] {
            let d = furthest(&read_in(&mut o, &ids, chunk), &whole);
            assert!(d < 1e-3, "{case}: chunks of {chunk} change a logit by {d}");
        }
    }
}

#[test]
fn slots_and_policies_do_not_change_a_single_bit() {
    for case in ["strict", "q4_k_m"] {
        let (mut o, ids) = open(case, &LoadOptions { slots: Some(8), ..load_options() });
        let (prompt, rest) = ids.split_at(40);
        let expected = [read_in(&mut o, prompt, 16), rest.iter().flat_map(|t| step(&mut o, &[*t], &mut StepRecord::default())).collect()];
        for policy in ["rotary", "lru", "lfu"] {
            for slots in [0, 1, 3, 8] {
                let load = LoadOptions { slots: Some(slots), policy: Some(policy.to_owned()), ..load_options() };
                let Ok((mut o, _)) = std::panic::catch_unwind(|| open(case, &load)) else { panic!("{case}: {policy}, {slots} slots") };
                let got = [read_in(&mut o, prompt, 16), {
                    let mut record = StepRecord::default();
                    let mut logits = Vec::new();
                    for (i, t) in rest.iter().enumerate() {
                        if i % 5 == 4 {
                            // Up and down in the middle of the text, to whatever is granted.
                            o.experts.resize([8, slots, 2, 5][i / 5 % 4]).unwrap();
                        }
                        logits.extend(step(&mut o, &[*t], &mut record));
                    }
                    logits
                }];
                assert!(got == expected, "{case}: {policy} with {slots} slots: differs by {}", furthest(&got[1], &expected[1]));
            }
        }
    }
}

#[test]
fn a_wrong_model_does_not_pass() {
    let model = Gguf::open(&fixture("strict", "model.gguf")).unwrap();
    let mut reference = Reference::read(&fixture("strict", "ref.npz")).unwrap();
    let options = CheckOptions { load: load_options(), ..CheckOptions::default() };
    let logit = &mut reference.prompts[1].logits[5];
    *logit += 0.01;
    reference.prompts[2].greedy[9] ^= 1;
    let routes = reference.prompts[0].routes.as_mut().unwrap();
    routes.ids[0] = (0..16).find(|e| !routes.ids[..routes.top_k].contains(e)).unwrap();
    let report = rotary::report::check::check_file(&model, &reference, &options).unwrap();
    let text = report.to_string();
    assert_eq!(report.failures.len(), 3, "{text}");
    for part in ["prompt 1: a logit differs by 1.0", "prompt 2: greedy text parts after 9 of 48", "prompt 0: experts differ 1 times of 15"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // A tolerance of one's own decides alone.
    let options = CheckOptions { tolerance: Some(0.02), chunks: vec![16], ..options };
    let report = rotary::report::check::check_file(&model, &reference, &options).unwrap();
    assert!(report.passed(), "{report}");
}

#[test]
fn a_reference_of_another_model_is_refused() {
    let e = check(&fixture("strict", "model.gguf"), &fixture("odd", "ref.npz"), &CheckOptions::default()).unwrap_err();
    assert!(matches!(e, CheckError::OtherModel(_)), "{e}");
    assert!(e.to_string().contains("vocabulary of 1019 tokens, the model one of 1024"), "{e}");
}

#[test]
fn damaged_references_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read(fixture("odd", "ref.npz")).unwrap();
    let path = dir.path().join("cut.npz");
    for (bytes, what) in [(&good[..good.len() / 2], "cut.npz"), (&b"not an archive"[..], "cut.npz"), (&[][..], "cut.npz")] {
        std::fs::write(&path, bytes).unwrap();
        let e = Reference::read(&path).unwrap_err();
        assert!(matches!(e, ReferenceError::Read { .. }) && e.to_string().contains(what), "{e}");
    }
    let e = Reference::read(&dir.path().join("absent.npz")).unwrap_err().to_string();
    assert!(e.contains("absent.npz"), "{e}");
}
