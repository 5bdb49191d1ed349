//! Passes that are taken back in part: the context is then as if the rest had never been read, in models of every kind.

use super::*;
use crate::events::DeviceChoice;

/// Tokens before such a pass, its own, and one after it. All are in the vocabulary of every reference model.
const BEFORE: [u32; 5] = [3, 7, 11, 5, 2];
const PASS: [u32; 4] = [9, 4, 6, 8];
const AFTER: u32 = 12;

/// Models with states that can't be cut, and where they are tried.
const RECURRENT: [(&str, DeviceChoice); 4] = [
    ("q35-strict", DeviceChoice::Cpu),
    ("q35-strict", DeviceChoice::Simulated),
    ("lfm2moe", DeviceChoice::Cpu),
    ("lfm2moe", DeviceChoice::Simulated),
];

fn fixture(case: &str) -> Gguf {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/reference/fixtures/{case}/model.gguf"));
    Gguf::open(&path).unwrap()
}

fn opened(file: &Gguf, device: DeviceChoice) -> Opened {
    let options = LoadOptions { device, threads: Some(1), kv_f32: true, context: Some(64), ..LoadOptions::default() };
    open(file, &options, Pool::new(1)).unwrap()
}

fn read(m: &mut Opened, tokens: &[u32], logits: Logits) -> Vec<f32> {
    m.experts.begin_step(Phase::Decode, tokens.len());
    let out = m.model.forward(tokens, &mut m.experts, logits, &|| false).unwrap().unwrap();
    m.experts.end_step(&mut StepRecord::default());
    out
}

/// The largest difference, in parts of the largest logit.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let size = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / size
}

/// `bound`: how far logits may lie apart; 0 on the CPU, where rows that are read together are computed as single ones.
fn goes_back(case: &str, device: DeviceChoice, bound: f32) {
    let file = fixture(case);
    let mut alone = opened(&file, device);
    read(&mut alone, &BEFORE, Logits::None);
    let plain: Vec<Vec<f32>> = PASS.iter().chain([&AFTER]).map(|&t| read(&mut alone, &[t], Logits::Last)).collect();

    let mut m = opened(&file, device);
    let most = m.model.most_tentative();
    assert!(most >= PASS.len(), "{case}: {most}");
    for kept in (1..=PASS.len()).rev() {
        assert_eq!(m.model.truncate(0), 0);
        read(&mut m, &BEFORE, Logits::None);
        m.model.tentative();
        let wrong: Vec<u32> = PASS.iter().enumerate().map(|(i, &t)| if i < kept { t } else { t + 20 }).collect();
        let all = read(&mut m, &wrong, Logits::All);
        let vocab = all.len() / PASS.len();
        for (i, row) in all.chunks(vocab).take(kept).enumerate() {
            assert!(apart(&plain[i], row) <= bound, "{case}: row {i} of a pass of which {kept} are kept");
        }
        let len = BEFORE.len() + kept;
        assert_eq!(m.model.truncate(len), len, "{case}: every length of the pass is reached");
        for (i, &token) in PASS.iter().chain([&AFTER]).enumerate().skip(kept) {
            let logits = read(&mut m, &[token], Logits::Last);
            assert!(apart(&plain[i], &logits) <= bound, "{case}: token {i} after {kept} were kept: {}", apart(&plain[i], &logits));
        }
    }
}

#[test]
fn a_pass_that_failed_before_it_began_leaves_no_layer_waiting_to_keep_its_states() {
    for (case, device) in RECURRENT {
        let mut m = opened(&fixture(case), device);
        read(&mut m, &BEFORE, Logits::None);
        m.model.tentative();
        m.experts.begin_step(Phase::Decode, 2);
        let unknown = m.model.forward(&[PASS[0], u32::MAX], &mut m.experts, Logits::All, &|| false);
        assert!(matches!(unknown, Err(ModelError::Token { .. })));
        let begin = BEFORE.len();
        assert_eq!(m.model.truncate(begin), begin);
        read(&mut m, &PASS, Logits::None);
        // A plain pass can be gone back from to its beginning, not into it.
        assert!(m.model.truncate(begin + 2) < begin + 2);
    }
}

#[test]
fn a_pass_is_taken_back_to_any_of_its_tokens() {
    for case in ["strict", "q35-strict", "gpt-oss", "gemma4", "glm-flash", "lfm2moe", "lfm2moe-four"] {
        goes_back(case, DeviceChoice::Cpu, 0.0);
    }
}

#[test]
fn a_pass_on_a_device_is_taken_back_to_any_of_its_tokens() {
    for case in ["strict", "q35-strict", "gpt-oss", "gemma4", "glm-flash", "lfm2moe"] {
        goes_back(case, DeviceChoice::Simulated, 1e-4);
    }
}

#[test]
fn states_that_were_kept_of_a_pass_are_not_taken_for_those_of_another() {
    for (case, device) in RECURRENT {
        let mut m = opened(&fixture(case), device);
        read(&mut m, &BEFORE, Logits::None);
        m.model.tentative();
        read(&mut m, &PASS, Logits::All);
        let begin = BEFORE.len();
        assert_eq!(m.model.truncate(begin + 1), begin + 1);
        read(&mut m, &[AFTER], Logits::Last);
        // The pass had a state at this length too, after other tokens; now the context is there anyway, and one further back is not to be had.
        assert_eq!(m.model.truncate(begin + 2), begin + 2);
        assert!(m.model.truncate(begin + 1) < begin + 1);
    }
}
