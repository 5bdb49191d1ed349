//! Whole models: the built-in one, and small made-up ones of every layout.

use super::*;
use crate::events::{LoadOptions, Outcome, Phase, StepRecord, When};
use crate::gguf::write::Writer;
use crate::gguf::{GgmlType, Gguf};
use crate::kernels::Pool;

mod tentative;

const PROMPT: [u32; 12] = [1, 300, 77, 1000, 5, 2048, 4095, 9, 640, 12, 300, 77];

fn demo(options: &LoadOptions) -> Opened {
    let gguf = Gguf::from_static(crate::demo::gguf(), "demo").unwrap();
    open(&gguf, options, Pool::new(2)).unwrap()
}

fn step(m: &mut Opened, tokens: &[u32], phase: Phase) -> (Vec<f32>, StepRecord) {
    m.experts.begin_step(phase, tokens.len());
    let logits = m.model.forward(tokens, &mut m.experts, Logits::Last, &|| false).unwrap().unwrap();
    let mut record = StepRecord::default();
    m.experts.end_step(&mut record);
    (logits, record)
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// Greedy tokens and the bits of all logits, with `between` called before every step.
fn generate(m: &mut Opened, tokens: usize, mut between: impl FnMut(&mut Opened, usize)) -> (Vec<u32>, Vec<u32>) {
    let mut bits = Vec::new();
    let mut out = Vec::new();
    let (mut logits, _) = step(m, &PROMPT, Phase::Prefill);
    for i in 0..tokens {
        bits.extend(logits.iter().map(|l| l.to_bits()));
        out.push(best(&logits));
        between(m, i);
        (logits, _) = step(m, &out[i..=i], Phase::Decode);
    }
    (out, bits)
}

#[test]
fn routers_that_are_asked_early_foresee_most_of_what_is_used_and_change_no_logit() {
    let options = |foresee| LoadOptions { slots: Some(12), foresee, ..LoadOptions::default() };
    let said = |foresee| {
        let mut m = demo(&options(foresee));
        let (mut logits, first) = step(&mut m, &PROMPT, Phase::Prefill);
        assert!(first.foreseen.is_empty(), "tokens of a prompt are read together");
        let (mut records, mut bits) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            let (next, record) = step(&mut m, &[best(&logits)], Phase::Decode);
            bits.extend(next.iter().map(|l| l.to_bits()));
            records.push(record);
            logits = next;
        }
        (bits, records)
    };
    let (bits, records) = said(When::Always);
    let (plain, silent) = said(When::Never);
    assert_eq!(bits, plain);
    let auto = said(When::Auto).1;
    assert!(silent.iter().chain(&auto).all(|r| r.foreseen.is_empty()), "nothing comes ahead on the CPU, so nobody is asked");
    for (lead, least) in [(1, [0.55, 0.65]), (2, [0.4, 0.6])] {
        let (mut right, mut told, mut used) = (0.0, 0.0, 0.0);
        for r in &records[8..] {
            for layer in usize::from(lead)..r.layers() {
                let likely: Vec<u16> = r
                    .foreseen
                    .iter()
                    .filter(|f| usize::from(f.layer) == layer && f.lead == lead && f.likely >= 102)
                    .map(|f| f.expert)
                    .collect();
                told += likely.len() as f64;
                used += r.layer(layer).len() as f64;
                right += r.layer(layer).iter().filter(|e| likely.contains(&e.expert)).count() as f64;
            }
        }
        let found = [right / used, right / told];
        assert!(found.iter().zip(least).all(|(f, l)| *f > l), "lead {lead}: {found:.2?} of what is used, and of what is told");
    }
}

#[test]
fn output_is_the_same_for_every_slot_count_policy_and_resize() {
    let reference = generate(&mut demo(&LoadOptions { slots: Some(32), ..LoadOptions::default() }), 24, |_, _| {});
    for policy in ["rotary", "lru", "lfu"] {
        for slots in [1, 3, 12] {
            let options = LoadOptions { slots: Some(slots), policy: Some(policy.into()), ..LoadOptions::default() };
            assert_eq!(generate(&mut demo(&options), 24, |_, _| {}), reference, "{policy}, {slots} slots");
        }
        let options = LoadOptions { slots: Some(12), policy: Some(policy.into()), ..LoadOptions::default() };
        let storm = [4, 32, 1, 7, 2, 31];
        let resized = generate(&mut demo(&options), 24, |m, i| {
            let wanted = storm[i % storm.len()];
            assert_eq!(m.experts.resize(wanted).unwrap(), wanted);
        });
        assert_eq!(resized, reference, "{policy}, resized at every step");
    }
}

#[test]
fn chunks_of_the_prompt_do_not_change_the_output() {
    let options = LoadOptions::default();
    let (whole, _) = step(&mut demo(&options), &PROMPT, Phase::Prefill);
    for cut in [1, 5, 11] {
        let mut m = demo(&options);
        step(&mut m, &PROMPT[..cut], Phase::Prefill);
        assert_eq!(step(&mut m, &PROMPT[cut..], Phase::Prefill).0, whole, "cut at {cut}");
    }
    let mut m = demo(&options);
    let all = {
        m.experts.begin_step(Phase::Prefill, PROMPT.len());
        m.model.forward(&PROMPT, &mut m.experts, Logits::All, &|| false).unwrap().unwrap()
    };
    assert_eq!(all.len(), PROMPT.len() * m.model.vocab());
    assert_eq!(all[all.len() - m.model.vocab()..], whole);
}

#[test]
fn a_shortened_context_goes_on_as_if_the_rest_had_never_been_read() {
    let mut m = demo(&LoadOptions::default());
    step(&mut m, &PROMPT[..6], Phase::Prefill);
    let (want, _) = step(&mut m, &[42], Phase::Decode);
    step(&mut m, &PROMPT, Phase::Prefill);
    assert_eq!(m.model.truncate(6), 6);
    assert_eq!(m.model.len(), 6);
    assert_eq!(step(&mut m, &[42], Phase::Decode).0, want);
    assert_eq!(m.model.truncate(100), 7, "a context can't be lengthened");
}

#[test]
fn a_stopped_pass_leaves_the_context_as_it_was() {
    let mut m = demo(&LoadOptions::default());
    step(&mut m, &PROMPT, Phase::Prefill);
    let asked = std::cell::Cell::new(0);
    m.experts.begin_step(Phase::Prefill, 3);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() == 4
    };
    assert!(m.model.forward(&[7, 8, 9], &mut m.experts, Logits::Last, &stop).unwrap().is_none());
    assert_eq!((m.model.len(), asked.get()), (PROMPT.len(), 4));
    let mut record = StepRecord::default();
    m.experts.end_step(&mut record);
    assert_eq!(record.layers(), 3, "three layers ran");
    let mut fresh = demo(&LoadOptions::default());
    step(&mut fresh, &PROMPT, Phase::Prefill);
    assert_eq!(step(&mut m, &[5], Phase::Decode).0, step(&mut fresh, &[5], Phase::Decode).0);
}

#[test]
fn records_tell_what_happened_to_every_routed_expert() {
    let mut m = demo(&LoadOptions::default());
    assert_eq!((m.experts.slots(), m.plan.max_slots), (12, 32), "the demo shows rotation by default");
    let (_, r) = step(&mut m, &PROMPT, Phase::Prefill);
    assert_eq!((r.layers(), r.tokens, r.slots), (6, 12, 12));
    for layer in 0..6 {
        let tokens: u32 = r.layer(layer).iter().map(|e| u32::from(e.tokens)).sum();
        assert_eq!(tokens, 12 * 4, "every token chose four");
        let admitted = r.layer(layer).iter().filter(|e| e.outcome == Outcome::Admitted).count();
        let resident = r.slot_of[layer * 32..(layer + 1) * 32].iter().filter(|&&s| s != crate::events::NO_SLOT).count();
        assert_eq!(admitted, resident, "slots were empty before");
    }
    assert_eq!(r.bytes_uploaded, m.experts.bytes_used());
    let (_, r) = step(&mut m, &[1], Phase::Decode);
    for layer in 0..6 {
        let weights: Vec<f32> = r.layer(layer).iter().map(|e| e.weight).collect();
        assert!(weights.windows(2).all(|w| w[0] >= w[1]), "best gate first: {weights:?}");
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5, "qwen3moe weights sum to one");
    }
    let (hits, routed) = r.hits_and_routed();
    assert_eq!(routed, 24);
    let count = |outcome| (0..6).flat_map(|l| r.layer(l)).filter(|e| e.outcome == outcome).count() as u64;
    assert_eq!(hits + count(Outcome::Admitted) + count(Outcome::Miss), routed);
    assert_eq!(r.bytes_missed, count(Outcome::Miss) * m.expert_bytes[0]);
    assert_eq!(r.bytes_uploaded, count(Outcome::Admitted) * m.expert_bytes[0]);
}

#[test]
fn a_context_that_is_full_is_refused_before_work() {
    let mut m = demo(&LoadOptions { context: Some(16), ..LoadOptions::default() });
    step(&mut m, &PROMPT, Phase::Prefill);
    m.experts.begin_step(Phase::Prefill, 5);
    let e = m.model.forward(&[1; 5], &mut m.experts, Logits::Last, &|| false).unwrap_err();
    assert!(matches!(e, ModelError::ContextFull { used: 12, more: 5, context: 16 }));
    let e = m.model.forward(&[4096], &mut m.experts, Logits::Last, &|| false).unwrap_err();
    assert!(matches!(e, ModelError::Token { token: 4096, vocab: 4096 }));
    assert_eq!(m.model.len(), 12);
}

/// How a made-up file lays out its experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    Stacked,
    Fused,
    Single,
}

const HIDDEN: usize = 32;
const FF: usize = 64;
const EXPERTS: usize = 4;
const VOCAB: usize = 50;

/// Two layers of random F32 weights; the same numbers in every layout.
pub(super) fn made_up(arch: &str, layout: Layout) -> Writer {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| (rng.f32() - 0.5) * 0.4).collect() };
    let mut w = Writer::new(arch);
    for (key, value) in [
        ("block_count", 2usize),
        ("context_length", 64),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", FF),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 8),
        ("attention.value_length", 8),
        ("expert_count", EXPERTS),
        ("expert_used_count", 2),
    ] {
        w.set(&format!("{arch}.{key}"), value);
    }
    if arch == "qwen3moe" {
        w.set("qwen3moe.expert_feed_forward_length", FF);
    }
    w.set(&format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-5f32);
    w.f32_tensor("token_embd.weight", &[HIDDEN, VOCAB], &noise(HIDDEN * VOCAB));
    w.f32_tensor("output_norm.weight", &[HIDDEN], &noise(HIDDEN));
    let (q, k) = if arch == "olmoe" { (32, 16) } else { (8, 8) };
    for b in 0..2 {
        let n = |part: &str| format!("blk.{b}.{part}.weight");
        for (part, len) in [("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", q), ("attn_k_norm", k)] {
            w.f32_tensor(&n(part), &[len], &noise(len).iter().map(|v| v + 1.0).collect::<Vec<_>>());
        }
        for (part, rows) in [("attn_q", 32), ("attn_k", 16), ("attn_v", 16), ("attn_output", HIDDEN), ("ffn_gate_inp", EXPERTS)] {
            w.f32_tensor(&n(part), &[HIDDEN, rows], &noise(HIDDEN * rows));
        }
        let size = HIDDEN * FF;
        let [gate, up, down] = [noise(EXPERTS * size), noise(EXPERTS * size), noise(EXPERTS * size)];
        match layout {
            Layout::Stacked => {
                w.f32_tensor(&n("ffn_gate_exps"), &[HIDDEN, FF, EXPERTS], &gate);
                w.f32_tensor(&n("ffn_up_exps"), &[HIDDEN, FF, EXPERTS], &up);
                w.f32_tensor(&n("ffn_down_exps"), &[FF, HIDDEN, EXPERTS], &down);
            }
            Layout::Fused => {
                let both: Vec<f32> = gate.chunks(size).zip(up.chunks(size)).flat_map(|(g, u)| [g, u].concat()).collect();
                w.f32_tensor(&n("ffn_gate_up_exps"), &[HIDDEN, 2 * FF, EXPERTS], &both);
                w.f32_tensor(&n("ffn_down_exps"), &[FF, HIDDEN, EXPERTS], &down);
            }
            Layout::Single => {
                for e in 0..EXPERTS {
                    let part = |all: &[f32]| all[e * size..(e + 1) * size].to_vec();
                    w.f32_tensor(&n(&format!("ffn_gate.{e}")), &[HIDDEN, FF], &part(&gate));
                    w.f32_tensor(&n(&format!("ffn_up.{e}")), &[HIDDEN, FF], &part(&up));
                    w.f32_tensor(&n(&format!("ffn_down.{e}")), &[FF, HIDDEN], &part(&down));
                }
            }
        }
    }
    w
}

pub(super) fn file(w: &Writer) -> Gguf {
    Gguf::from_bytes(crate::gguf::Bytes::from_vec(w.to_bytes()), "made-up.gguf").unwrap()
}

/// Caches that round nothing.
pub(super) fn options() -> LoadOptions {
    LoadOptions { kv_f32: true, ..LoadOptions::default() }
}

/// All logits of a prompt and two tokens after it.
pub(super) fn logits_with(w: &Writer, options: &LoadOptions) -> Result<Vec<f32>, ModelError> {
    let mut m = open(&file(w), options, Pool::new(2))?;
    let mut all = Vec::new();
    for tokens in [&[1, 2, 3, 4, 49, 7, 7][..], &[5], &[6]] {
        m.experts.begin_step(if tokens.len() > 1 { Phase::Prefill } else { Phase::Decode }, tokens.len());
        all.extend(m.model.forward(tokens, &mut m.experts, Logits::All, &|| false)?.unwrap());
        m.experts.end_step(&mut StepRecord::default());
    }
    Ok(all)
}

fn logits_of(w: &Writer) -> Result<Vec<f32>, ModelError> {
    let mut m = open(&file(w), &options(), Pool::new(2))?;
    m.experts.begin_step(Phase::Prefill, 5);
    Ok(m.model.forward(&[1, 2, 3, 4, 49], &mut m.experts, Logits::All, &|| false)?.unwrap())
}

#[test]
fn every_layout_of_experts_gives_the_same_bits() {
    for arch in ["qwen3moe", "olmoe"] {
        let stacked = logits_of(&made_up(arch, Layout::Stacked)).unwrap();
        for layout in [Layout::Fused, Layout::Single] {
            assert_eq!(logits_of(&made_up(arch, layout)).unwrap(), stacked, "{arch} {layout:?}");
        }
    }
}

#[test]
fn a_head_of_its_own_a_bias_and_a_dense_layer_are_used_when_the_file_has_them() {
    let plain = made_up("qwen3moe", Layout::Stacked);
    let tied = logits_of(&plain).unwrap();
    let mut w = plain.clone();
    w.f32_tensor("output.weight", &[HIDDEN, VOCAB], &vec![0.25; HIDDEN * VOCAB]);
    let untied = logits_of(&w).unwrap();
    assert!(untied.windows(2).take(VOCAB - 1).all(|p| p[0] == p[1]), "all rows of this head are equal");
    assert_ne!(tied, untied);
    let mut w = plain.clone();
    w.f32_tensor("blk.1.attn_q.bias", &[32], &[0.5; 32]);
    assert_ne!(logits_of(&w).unwrap(), tied, "the bias counts");
    let mut w = plain;
    for part in ["ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"] {
        w.remove_tensor(&format!("blk.0.{part}.weight"));
    }
    for (part, cols, rows) in [("gate", HIDDEN, FF), ("up", HIDDEN, FF), ("down", FF, HIDDEN)] {
        w.f32_tensor(&format!("blk.0.ffn_{part}.weight"), &[cols, rows], &vec![0.1; cols * rows]);
    }
    let m = open(&file(&w), &LoadOptions::default(), Pool::new(1)).unwrap();
    assert_eq!(m.expert_bytes.len(), 1, "one of the two layers has experts");
    assert_ne!(logits_of(&w).unwrap(), tied);
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let good = made_up("qwen3moe", Layout::Stacked);
    let message = |change: &dyn Fn(&mut Writer)| {
        let mut w = good.clone();
        change(&mut w);
        logits_of(&w).map(|_| ()).unwrap_err().to_string()
    };
    let text = message(&|w| w.remove_tensor("blk.1.attn_q.weight"));
    assert!(text.starts_with("missing tensor blk.1.attn_q.weight in "), "{text}");
    let text = message(&|w| {
        w.remove_tensor("blk.0.ffn_down_exps.weight");
        w.f32_tensor("blk.0.ffn_down_exps.weight", &[FF, HIDDEN, 3], &vec![0.0; FF * HIDDEN * 3]);
    });
    assert!(text.contains("blk.0.ffn_down_exps.weight has shape [64, 32, 3], expected [64, 32, 4]"), "{text}");
    let text = message(&|w| {
        w.remove_tensor("blk.0.attn_norm.weight");
        w.tensor("blk.0.attn_norm.weight", GgmlType::I32, &[HIDDEN], vec![0; HIDDEN * 4]);
    });
    assert!(text.contains("blk.0.attn_norm.weight is I32"), "{text}");
    let text = message(&|w| {
        w.remove_tensor("blk.1.attn_v.weight");
        w.f32_tensor("blk.1.attn_v.weight", &[HIDDEN, 16], &[f32::NAN; HIDDEN * 16]);
    });
    assert!(text.contains("layer 1 (attention)"), "{text}");
    let text = message(&|w| {
        w.remove_tensor("output_norm.weight");
        w.f32_tensor("output_norm.weight", &[HIDDEN], &[f32::INFINITY; HIDDEN]);
    });
    assert!(text.contains("the output head"), "{text}");
    let text = message(&|w| w.set("general.architecture", "mamba"));
    assert!(text.contains("architecture `mamba` can't be run yet") && text.contains("qwen3moe"), "{text}");
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let good = made_up("qwen3moe", Layout::Stacked);
    for (key, value, want) in [
        ("attention.head_count_kv", 3usize, "does not divide head_count = 4"),
        ("expert_used_count", 5, "exceeds expert_count = 4"),
        ("expert_used_count", 0, "must be from 1"),
        ("block_count", usize::MAX, "must be from 1"),
        ("attention.key_length", 1 << 23, "exceed"),
        ("rope.dimension_count", 7, "must be even"),
        ("rope.dimension_count", 16, "at most key_length = 8"),
        ("expert_gating_func", 2, "only softmax"),
        ("embedding_length", 64, "expected [64"),
        ("block_count", 3, "missing tensor blk.2."),
    ] {
        let mut w = good.clone();
        w.set(&format!("qwen3moe.{key}"), value);
        let text = logits_of(&w).unwrap_err().to_string();
        assert!(text.contains(want), "{key} = {value}: {text}");
    }
    let mut w = good.clone();
    w.set("qwen3moe.attention.layer_norm_rms_epsilon", f32::NAN);
    assert!(logits_of(&w).unwrap_err().to_string().contains("finite"));
    let mut w = good;
    w.set("qwen3moe.rope.scaling.type", "dynamic");
    assert!(logits_of(&w).unwrap_err().to_string().contains("known are none, linear and yarn"));
}

#[test]
fn a_budget_changes_where_experts_are_read_and_nothing_else() {
    let mut w = made_up("qwen3moe", Layout::Stacked);
    let want = logits_of(&w).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    w.set("general.name", "small");
    w.save(&path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let options = LoadOptions { kv_f32: true, ram: Some(256 << 20), slots: Some(1), ..LoadOptions::default() };
    let mut m = open(&gguf, &options, Pool::new(2)).unwrap();
    assert_eq!(m.plan.budget, Some(256 << 20));
    for _ in 0..2 {
        m.model.truncate(0);
        m.experts.begin_step(Phase::Prefill, 5);
        let got = m.model.forward(&[1, 2, 3, 4, 49], &mut m.experts, Logits::All, &|| false).unwrap().unwrap();
        assert_eq!(got, want);
    }
    let e = open(&gguf, &LoadOptions { ram: Some(1 << 20), ..LoadOptions::default() }, Pool::new(1)).err().unwrap().to_string();
    assert!(e.starts_with("1.0 MiB are not enough for this model") && e.contains("--ram"), "{e}");
}
