//! Is the engine numerically right? Small models with random weights against what other implementations computed.
//!
//! `tests/reference/README.md` says how the fixtures were made, and which mistakes they are known to catch.

use rotary::events::{DeviceChoice, LoadOptions, MissChoice, Phase, StepRecord};
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
    for (case, layers) in [
        ("strict", 3),
        ("odd", 2),
        ("olmoe", 3),
        ("q35-strict", 4),
        ("q35-odd", 3),
        ("qwen35", 0),
        ("qwen3next", 3),
        ("gpt-oss", 3),
        ("gemma4", 4),
        ("gemma4-dense", 0),
        // Layers with experts: the first ones have none.
        ("glm-flash", 2),
        ("deepseek-v3", 2),
        ("deepseek-v2", 2),
        ("glm4moe", 2),
        ("glm4moe-normed", 2),
        ("qwen3vlmoe", 2),
        ("qwen2moe", 2),
        ("minimax-m2", 3),
        ("lfm2moe", 3),
        ("lfm2moe-four", 3),
    ] {
        let report = accepted(case, "ref.npz", Kind::Float);
        for p in &report.prompts {
            // Nothing was left out: every router's margin in these cases is clear, every greedy text 48 tokens long.
            assert_eq!(p.routes.map_or(0, |r| r.of), layers * p.tokens, "{case}:\n{report}");
            assert_eq!(p.greedy.map(|g| g.of), Some(48), "{case}:\n{report}");
            assert_eq!(p.top1.of, 3 * p.tokens, "{case}: three chunk sizes\n{report}");
        }
    }
}

/// The GPU tier, played by the CPU: the decoder on the device, slots in its memory, misses on either side.
fn accepted_on_device(case: &str, archive: &str, slots: Option<usize>, miss: MissChoice) {
    let load = LoadOptions { device: DeviceChoice::Simulated, slots, miss, ..load_options() };
    let options = CheckOptions { load, ..CheckOptions::default() };
    let report = check(&fixture(case, "model.gguf"), &fixture(case, archive), &options).unwrap();
    assert!(report.passed(), "{case}, {slots:?} slots, misses {miss:?}:\n{report}");
}

#[test]
fn float_models_give_the_same_on_a_device() {
    for case in [
        "strict",
        "odd",
        "olmoe",
        "q35-strict",
        "q35-odd",
        "qwen35",
        "qwen3next",
        "gpt-oss",
        "gemma4",
        "gemma4-dense",
        "glm-flash",
        "glm4moe",
        "glm4moe-normed",
        "qwen3vlmoe",
        "qwen2moe",
        "minimax-m2",
        "lfm2moe",
        "lfm2moe-four",
    ] {
        accepted_on_device(case, "ref.npz", None, MissChoice::Auto);
    }
    for (case, slots, miss) in [
        ("strict", 1, MissChoice::Cpu),
        ("strict", 3, MissChoice::Gpu),
        ("olmoe", 2, MissChoice::Auto),
        ("q35-strict", 1, MissChoice::Gpu),
        ("q35-odd", 4, MissChoice::Cpu),
        ("gpt-oss", 1, MissChoice::Gpu),
        ("gpt-oss", 3, MissChoice::Cpu),
        ("gemma4", 2, MissChoice::Gpu),
        ("gemma4", 3, MissChoice::Cpu),
        ("glm-flash", 2, MissChoice::Cpu),
        ("glm4moe", 3, MissChoice::Gpu),
        ("qwen3vlmoe", 2, MissChoice::Cpu),
        ("qwen2moe", 1, MissChoice::Gpu),
        ("qwen2moe", 3, MissChoice::Cpu),
        ("minimax-m2", 2, MissChoice::Gpu),
        ("minimax-m2", 4, MissChoice::Cpu),
        ("lfm2moe", 2, MissChoice::Gpu),
        ("lfm2moe-four", 3, MissChoice::Cpu),
    ] {
        accepted_on_device(case, "ref.npz", Some(slots), miss);
    }
}

#[test]
fn models_that_no_device_computes_are_refused_there_by_name() {
    for (case, what) in [
        ("deepseek-v2", "a file with attn_kv_b in place of attn_k_b and attn_v_b has no GPU kernels"),
        ("deepseek-v3", "experts that are chosen by groups have no GPU kernels yet"),
    ] {
        let gguf = Gguf::open(&fixture(case, "model.gguf")).unwrap();
        let load = LoadOptions { device: DeviceChoice::Simulated, ..load_options() };
        let text = model::open(&gguf, &load, Pool::new(1)).err().unwrap().to_string();
        assert!(text.starts_with(&format!("model.gguf: {what}")) && text.ends_with("; --device cpu runs it on the processor"), "{text}");
    }
}

#[test]
fn quantized_models_err_as_little_on_a_device() {
    for (case, slots, miss) in [
        ("q4_k_m", 4, MissChoice::Gpu),
        ("q2_k", 2, MissChoice::Auto),
        ("q4_0", 1, MissChoice::Cpu),
        ("q35-q3_k_m", 2, MissChoice::Gpu),
        ("gpt-oss-mxfp4", 2, MissChoice::Auto),
        ("gemma4-q4_k_m", 2, MissChoice::Gpu),
        ("glm-flash-q4_k_m", 2, MissChoice::Auto),
    ] {
        accepted_on_device(case, &archive(case), Some(slots), miss);
    }
}

#[test]
fn quantized_models_err_no_more_than_llama_cpp_allows() {
    for case in ["q4_k_m", "q2_k", "q4_0", "q35-q3_k_m", "gpt-oss-mxfp4", "gemma4-q4_k_m", "glm-flash-q4_k_m"] {
        let report = accepted(case, &archive(case), Kind::Quantized);
        assert!(report.peer_nmse.is_some(), "{case}: a yardstick");
        // The exception for positions that llama.cpp misses too is not needed by any of these.
        let reference = Reference::read(&fixture(case, &archive(case))).unwrap();
        for p in &reference.prompts {
            let theirs = p.peer_argmax.as_ref().unwrap();
            assert!((0..p.ids.len()).all(|i| p.gap[i] <= 0.5 || theirs[i] == p.argmax[i]), "{case}");
        }
    }
}

/// The name of the reference of a case: quantized ones are called after their quantization.
fn archive(case: &str) -> String {
    let quantized = ["q4_k_m", "q2_k", "q4_0", "q3_k_m", "mxfp4"].into_iter().find(|q| case.ends_with(q));
    quantized.map_or_else(|| "ref.npz".to_owned(), |q| format!("quant-{}.npz", q.to_uppercase()))
}

/// A model file with its first prompt of at least 64 tokens.
fn open(case: &str, load: &LoadOptions) -> (Opened, Vec<u32>) {
    let gguf = Gguf::open(&fixture(case, "model.gguf")).unwrap();
    let reference = Reference::read(&fixture(case, &archive(case))).unwrap();
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
    const LATENT: [&str; 5] = ["glm4moe", "glm-flash", "deepseek-v3", "deepseek-v2", "glm-flash-q4_k_m"];
    const ATTENDING: [&str; 5] = ["qwen3vlmoe", "qwen2moe", "minimax-m2", "lfm2moe", "lfm2moe-four"];
    let others = ["strict", "odd", "olmoe", "q4_k_m", "q35-strict", "q35-odd", "gpt-oss", "gpt-oss-mxfp4", "gemma4", "gemma4-dense"];
    for case in others.into_iter().chain(LATENT).chain(ATTENDING) {
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
    for case in ["strict", "q4_k_m", "q35-strict", "deepseek-v3"] {
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

/// The models with a recurrent state.
const HYBRID: [&str; 6] = ["q35-strict", "q35-odd", "qwen35", "qwen3next", "lfm2moe", "lfm2moe-four"];

/// A model with room for long prompts, and 300 token ids.
fn open_long(case: &str) -> (Opened, Vec<u32>) {
    open_long_on(case, DeviceChoice::Cpu)
}

fn open_long_on(case: &str, device: DeviceChoice) -> (Opened, Vec<u32>) {
    let (o, _) = open(case, &LoadOptions { context: Some(512), device, ..load_options() });
    let mut rng = fastrand::Rng::with_seed(300);
    let ids = (0..300).map(|_| rng.u32(0..o.config.vocab as u32 - 16)).collect();
    (o, ids)
}

#[test]
fn a_recurrence_reads_prompts_of_1_to_300_tokens_alike_however_they_are_cut() {
    for case in HYBRID {
        let (mut o, ids) = open_long(case);
        let vocab = o.model.vocab();
        let steps = read_in(&mut o, &ids, 1);
        for chunk in [7, 64, 300] {
            let d = furthest(&read_in(&mut o, &ids, chunk), &steps);
            assert!(d < 1e-3, "{case}: chunks of {chunk} change a logit by {d}");
        }
        for len in [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 299] {
            let d = furthest(&read_in(&mut o, &ids[..len], len), &steps[..len * vocab]);
            assert!(d < 1e-3, "{case}: a prompt of {len} tokens differs by {d}");
        }
    }
}

#[test]
fn a_state_that_was_gone_back_to_goes_on_bit_by_bit() {
    for case in HYBRID {
        let (mut o, ids) = open_long(case);
        let mut record = StepRecord::default();
        let (whole, rest) = ids.split_at(200);
        o.model.mark(&[90, 150]);
        read_in(&mut o, whole, 200);
        let after = step(&mut o, &rest[..50], &mut record);
        // Each point by itself, the nearer ones first: a way back never closes one that lies before it.
        for (wanted, reached) in [(220, 200), (199, 150), (149, 90), (89, 0)] {
            assert_eq!(o.model.truncate(wanted), reached, "{case}");
            assert_eq!(o.model.len(), reached);
            let again = step(&mut o, &ids[reached..200.max(reached + 50)], &mut record);
            let mut fresh = open_long(case).0;
            if reached > 0 {
                fresh.model.mark(&[90, 150]);
                step(&mut fresh, &ids[..reached], &mut record);
            }
            let want = step(&mut fresh, &ids[reached..200.max(reached + 50)], &mut record);
            assert!(again == want, "{case}: from {reached} on differs by {}", furthest(&again, &want));
            assert_eq!(o.model.truncate(reached), reached);
            if reached == 200 {
                assert!(again == after, "{case}");
            }
        }
    }
}

#[test]
fn a_recurrent_pass_that_is_stopped_leaves_the_context_as_it_was() {
    let on_devices = ["q35-odd", "lfm2moe"].map(|case| (case, DeviceChoice::Simulated));
    for (case, device) in HYBRID.map(|case| (case, DeviceChoice::Cpu)).into_iter().chain(on_devices) {
        for stop_at in [1, 2] {
            let (mut o, ids) = open_long_on(case, device);
            let mut record = StepRecord::default();
            step(&mut o, &ids[..100], &mut record);
            let asked = std::cell::Cell::new(0);
            let stop = || {
                asked.set(asked.get() + 1);
                asked.get() > stop_at
            };
            o.model.mark(&[130, 190]);
            o.experts.begin_step(Phase::Prefill, 100);
            assert!(o.model.forward(&ids[100..200], &mut o.experts, Logits::Last, &stop).unwrap().is_none());
            assert_eq!(o.model.truncate(100), 100, "{case} on {device:?}, stopped after {stop_at} layers: nothing is read twice");
            let again = step(&mut o, &ids[100..160], &mut record);
            let mut fresh = open_long_on(case, device).0;
            step(&mut fresh, &ids[..100], &mut record);
            fresh.model.mark(&[130, 190]);
            // On a device what the pass brought up may change who computes what, and with it the last digits.
            let near = if device == DeviceChoice::Cpu { 0.0 } else { 1e-3 };
            let apart = furthest(&again, &step(&mut fresh, &ids[100..160], &mut record));
            assert!(apart <= near, "{case} on {device:?}, stopped after {stop_at} layers: {apart}");
            // A single token is read to its end: half of it would cost the whole state.
            o.experts.begin_step(Phase::Decode, 1);
            assert!(o.model.forward(&ids[160..161], &mut o.experts, Logits::Last, &|| true).unwrap().is_some());
            assert_eq!(o.model.len(), 161);
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
fn a_choice_too_close_for_16_bit_caches_is_told_and_logits_are_judged_up_to_it() {
    let model = Gguf::open(&fixture("gpt-oss", "model.gguf")).unwrap();
    let reference = || Reference::read(&fixture("gpt-oss", "ref.npz")).unwrap();
    let options = CheckOptions { load: LoadOptions { kv_f32: false, ..load_options() }, kv_f16: true, ..CheckOptions::default() };
    let checked = |reference: &Reference| rotary::report::check::check_file(&model, reference, &options).unwrap();
    let report = checked(&reference());
    assert!(report.passed(), "{report}");
    let swapped = report.prompts[2].swapped.unwrap();
    assert!(
        swapped.position == 32 && swapped.margin < 3e-3 && report.prompts[2].max_abs > 0.1 && swapped.max_abs_before < 0.03,
        "{report}"
    );
    assert!(
        report.prompts[0].swapped.is_none() && report.to_string().contains("prompt 2: at position 32 experts were swapped"),
        "{report}"
    );
    for (position, passes) in [(31, false), (40, true)] {
        let mut reference = reference();
        reference.prompts[2].logits[position * reference.vocab] += 0.1;
        assert_eq!(checked(&reference).passed(), passes, "a wrong logit at position {position}");
    }
    // With caches of 32 bits the same margin is clear.
    assert!(accepted("gpt-oss", "ref.npz", Kind::Float).prompts.iter().all(|p| p.swapped.is_none()));
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
