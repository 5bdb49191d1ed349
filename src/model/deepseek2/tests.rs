//! Small made-up models, what is refused, and the plan of the real one.

use crate::events::{DeviceChoice, LoadOptions, Phase, When};
use crate::gguf::write::Writer;
use crate::gguf::{GgmlType, Gguf};
use crate::gpu::simulated::{Options, Simulated};
use crate::kernels::Pool;
use crate::model::config::MADE;
use crate::model::tests::{file, logits_with, options};
use crate::model::{choose_for, open, open_on, plan, Logits, ModelConfig, ModelError};
use std::sync::Arc;

const HIDDEN: usize = 32;
const DENSE_FF: usize = 48;
const FF: usize = 16;
const EXPERTS: usize = 6;
const VOCAB: usize = 50;
const HEADS: usize = 3;
/// Sizes of attention: latents of queries and keys, plain and turned part of a key, value.
const QUERY: usize = 12;
const RANK: usize = 20;
const PLAIN: usize = 8;
const TURNED: usize = 6;
const VALUE: usize = 10;

/// The numbers `[rows, cols]` of one head of the map from the latent to keys and values.
struct Ups {
    key: Vec<f32>,
    value: Vec<f32>,
}

fn ups(block: usize) -> Vec<Ups> {
    let mut rng = fastrand::Rng::with_seed(100 + block as u64);
    let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.f32() - 0.5).collect() };
    (0..HEADS).map(|_| Ups { key: noise(PLAIN * RANK), value: noise(VALUE * RANK) }).collect()
}

/// Three layers of random F32 weights, the first dense; as files are since what is kept is the latent, or as they were before.
fn made(old: bool) -> Writer {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut noise = |n: usize, middle: f32| -> Vec<f32> { (0..n).map(|_| middle + (rng.f32() - 0.5) * 0.4).collect() };
    let mut w = Writer::new("deepseek2");
    let mla = [("head_count_kv", 1), ("key_length", RANK + TURNED), ("value_length", RANK)];
    let mla = mla.into_iter().chain([("key_length_mla", PLAIN + TURNED), ("value_length_mla", VALUE)]);
    let plain = [("head_count_kv", HEADS), ("key_length", PLAIN + TURNED), ("value_length", VALUE)];
    let sizes: Vec<_> = if old { plain.to_vec() } else { mla.collect() };
    for (key, value) in sizes.into_iter().chain([("head_count", HEADS), ("kv_lora_rank", RANK), ("q_lora_rank", QUERY)]) {
        w.set(&format!("deepseek2.attention.{key}"), value);
    }
    for (key, value) in [
        ("block_count", 3usize),
        ("context_length", 64),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", DENSE_FF),
        ("expert_feed_forward_length", FF),
        ("expert_count", EXPERTS),
        ("expert_used_count", 2),
        ("expert_shared_count", 2),
        ("expert_gating_func", 2),
        ("leading_dense_block_count", 1),
        ("rope.dimension_count", TURNED),
    ] {
        w.set(&format!("deepseek2.{key}"), value);
    }
    w.set("deepseek2.attention.layer_norm_rms_epsilon", 1e-5f32);
    w.set("deepseek2.expert_weights_scale", 1.8f32);
    w.set("deepseek2.expert_weights_norm", true);
    w.f32_tensor("token_embd.weight", &[HIDDEN, VOCAB], &noise(HIDDEN * VOCAB, 0.0));
    w.f32_tensor("output.weight", &[HIDDEN, VOCAB], &noise(HIDDEN * VOCAB, 0.0));
    w.f32_tensor("output_norm.weight", &[HIDDEN], &noise(HIDDEN, 1.0));
    for b in 0..3 {
        let n = |part: &str| format!("blk.{b}.{part}.weight");
        for (part, len) in [("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_a_norm", QUERY), ("attn_kv_a_norm", RANK)] {
            w.f32_tensor(&n(part), &[len], &noise(len, 1.0));
        }
        let mut maps = vec![
            ("attn_q_a", HIDDEN, QUERY),
            ("attn_q_b", QUERY, HEADS * (PLAIN + TURNED)),
            ("attn_kv_a_mqa", HIDDEN, RANK + TURNED),
            ("attn_output", HEADS * VALUE, HIDDEN),
        ];
        maps.extend(match b {
            0 => vec![("ffn_gate", HIDDEN, DENSE_FF), ("ffn_up", HIDDEN, DENSE_FF), ("ffn_down", DENSE_FF, HIDDEN)],
            _ => vec![
                ("ffn_gate_inp", HIDDEN, EXPERTS),
                ("ffn_gate_shexp", HIDDEN, 2 * FF),
                ("ffn_up_shexp", HIDDEN, 2 * FF),
                ("ffn_down_shexp", 2 * FF, HIDDEN),
            ],
        });
        for (part, cols, rows) in maps {
            w.f32_tensor(&n(part), &[cols, rows], &noise(cols * rows, 0.0));
        }
        let heads = ups(b);
        if old {
            let both: Vec<f32> = heads.iter().flat_map(|h| h.key.iter().chain(&h.value)).copied().collect();
            w.f32_tensor(&n("attn_kv_b"), &[RANK, HEADS * (PLAIN + VALUE)], &both);
        } else {
            let turned = |key: &[f32]| (0..PLAIN * RANK).map(|i| key[i % PLAIN * RANK + i / PLAIN]).collect::<Vec<f32>>();
            let keys: Vec<f32> = heads.iter().flat_map(|h| turned(&h.key)).collect();
            let values: Vec<f32> = heads.iter().flat_map(|h| &h.value).copied().collect();
            w.f32_tensor(&n("attn_k_b"), &[PLAIN, RANK, HEADS], &keys);
            w.f32_tensor(&n("attn_v_b"), &[RANK, VALUE, HEADS], &values);
        }
        if b == 0 {
            continue;
        }
        w.f32_tensor(&format!("blk.{b}.exp_probs_b.bias"), &[EXPERTS], &noise(EXPERTS, 0.0));
        for (part, cols, rows) in [("gate", HIDDEN, FF), ("up", HIDDEN, FF), ("down", FF, HIDDEN)] {
            w.f32_tensor(&n(&format!("ffn_{part}_exps")), &[cols, rows, EXPERTS], &noise(cols * rows * EXPERTS, 0.0));
        }
    }
    w
}

fn changed(change: impl FnOnce(&mut Writer)) -> Writer {
    let mut w = made(false);
    change(&mut w);
    w
}

fn logits_of(w: &Writer) -> Result<Vec<f32>, ModelError> {
    logits_with(w, &options())
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn files_with_one_map_to_keys_and_values_say_the_same_and_keep_all_of_them() {
    let (new, old) = (logits_of(&made(false)).unwrap(), logits_of(&made(true)).unwrap());
    assert!(new.iter().any(|l| l.abs() > 0.3) && furthest(&new, &old) < 2e-6, "{}", furthest(&new, &old));
    let kept = |w: &Writer, kv_f32| {
        let gguf = file(w);
        ModelConfig::read(&crate::model::weights::Weights::new(&gguf)).unwrap().cache_need(kv_f32, None).bytes(1)
    };
    assert_eq!(kept(&made(false), true), 3 * 4 * (RANK + TURNED) as u64);
    assert_eq!(kept(&made(false), false), 3 * 2 * (RANK + TURNED) as u64);
    assert_eq!(kept(&made(true), false), 3 * 2 * (HEADS * (PLAIN + TURNED + VALUE)) as u64);
}

#[test]
fn cuts_threads_slots_and_ways_back_change_no_bit_and_16_bit_caches_little() {
    let (w, tokens) = (made(false), [1, 2, 3, 4, 49, 7, 7, 5, 6, 11, 12, 30]);
    let read = |threads, cuts: &[usize], slots| {
        let mut m = open(&file(&w), &LoadOptions { slots, ..options() }, Pool::new(threads)).unwrap();
        let mut out = Vec::new();
        let mut pass = |m: &mut crate::model::Opened, tokens: &[u32]| {
            m.experts.begin_step(Phase::Prefill, tokens.len());
            out = m.model.forward(tokens, &mut m.experts, Logits::Last, &|| false).unwrap().unwrap();
            m.experts.end_step(&mut crate::events::StepRecord::default());
        };
        for ends in cuts.windows(2) {
            pass(&mut m, &tokens[ends[0]..ends[1]]);
        }
        // Back, and the end again.
        assert_eq!(m.model.truncate(9), 9);
        pass(&mut m, &tokens[9..]);
        out
    };
    let whole = read(1, &[0, 12], None);
    for (threads, cuts, slots) in [(3, vec![0, 12], Some(1)), (2, vec![0, 1, 5, 12], Some(3)), (2, (0..=12).collect(), Some(0))] {
        let got = read(threads, &cuts, slots);
        assert!(furthest(&got, &whole) < 1e-6, "{cuts:?}: experts' sums run in another order, no more");
    }
    assert_eq!(read(4, &[0, 12], Some(2)), whole);
    let halves = logits_with(&w, &LoadOptions { kv_f32: false, ..options() }).unwrap();
    let d = furthest(&halves, &logits_of(&w).unwrap());
    assert!(d > 0.0 && d < 2e-3, "{d}");
    for foresee in [When::Never, When::Always] {
        assert_eq!(logits_with(&w, &LoadOptions { slots: Some(2), foresee, ..options() }).unwrap(), logits_of(&w).unwrap(), "{foresee:?}");
    }
}

#[test]
fn what_a_file_leaves_out_is_what_it_would_do_nothing_with() {
    let plain = logits_of(&made(false)).unwrap();
    for key in ["expert_gating_func", "attention.head_count_kv", "attention.key_length", "attention.value_length"] {
        assert_eq!(logits_of(&changed(|w| w.remove_key(&format!("deepseek2.{key}")))).unwrap(), plain, "{key}");
    }
    let groups = |count: usize, used: usize| {
        logits_of(&changed(|w| {
            w.set("deepseek2.expert_group_count", count);
            w.set("deepseek2.expert_group_used_count", used);
        }))
        .unwrap()
    };
    assert!(groups(1, 1) == plain && groups(3, 3) == plain && groups(3, 1) != plain);
    let without_bias = changed(|w| (1..3).for_each(|b| w.remove_tensor(&format!("blk.{b}.exp_probs_b.bias"))));
    let sigmoids = logits_of(&without_bias).unwrap();
    assert_ne!(sigmoids, plain);
    let mut softmax = without_bias;
    softmax.remove_key("deepseek2.expert_gating_func");
    let softmax = logits_of(&softmax).unwrap();
    assert!(softmax != sigmoids && softmax != plain, "no bias and nothing said: DeepSeek-V2");
    for (key, value) in [("expert_weights_norm", false.into()), ("expert_weights_scale", crate::gguf::Value::from(1.0f32))] {
        assert_ne!(logits_of(&changed(|w| w.set(&format!("deepseek2.{key}"), value))).unwrap(), plain, "{key}");
    }
    let without_shared = changed(|w| {
        w.set("deepseek2.expert_shared_count", 0usize);
        (1..3).for_each(|b| ["gate", "up", "down"].iter().for_each(|p| w.remove_tensor(&format!("blk.{b}.ffn_{p}_shexp.weight"))));
    });
    assert_ne!(logits_of(&without_shared).unwrap(), plain);
}

#[test]
fn a_block_that_predicts_further_tokens_is_left_out() {
    let plain = logits_of(&made(false)).unwrap();
    let more = changed(|w| {
        w.set("deepseek2.block_count", 4usize);
        w.set("deepseek2.nextn_predict_layers", 1usize);
        w.f32_tensor("blk.3.nextn.eh_proj.weight", &[2 * HIDDEN, HIDDEN], &[0.0; 2 * HIDDEN * HIDDEN]);
    });
    assert_eq!(logits_of(&more).unwrap(), plain);
}

#[test]
fn layers_with_experts_are_called_by_their_place_in_the_model() {
    let m = open(&file(&made(false)), &options(), Pool::new(1)).unwrap();
    assert_eq!(m.expert_bytes.len(), 2);
    assert_eq!(m.plan.slot_bytes.iter().map(|s| s.layer).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn keys_that_can_not_be_are_refused_by_name() {
    let message = |w: &Writer| logits_of(w).map(|_| ()).unwrap_err().to_string();
    for (key, value, want) in [
        ("attention.key_length", 100usize, "contradicts the 26"),
        ("attention.value_length", 21, "contradicts the 20"),
        ("attention.head_count_kv", 3, "contradicts the 1"),
        ("attention.head_count", 1 << 22, "exceed"),
        ("attention.kv_lora_rank", 0, "must be from 1"),
        ("attention.key_length_mla", 6, "must be even and less than deepseek2.attention.key_length_mla = 6"),
        ("rope.dimension_count", 5, "must be even"),
        ("rope.dimension_count", 14, "less than"),
        ("attention.q_lora_rank", 13, "expected [13]"),
        ("attention.value_length_mla", 11, "expected [20, 11, 3]"),
        ("leading_dense_block_count", 3, "leaves no layer with experts of 3"),
        ("expert_gating_func", 3, "only softmax (1) and sigmoid (2)"),
        ("expert_used_count", 7, "exceeds expert_count = 6"),
        ("expert_group_count", 4, "does not divide expert_count = 6"),
        ("expert_group_count", 6, "groups of two or more"),
        ("expert_group_count", 3, "missing metadata `deepseek2.expert_group_used_count`"),
        ("expert_shared_count", 1 << 24, "exceed"),
        ("expert_shared_count", 3, "expected [32, 48]"),
        ("feed_forward_length", 49, "expected [32, 49]"),
    ] {
        let text = message(&changed(|w| w.set(&format!("deepseek2.{key}"), value)));
        assert!(text.contains(want), "{key} = {value}: {text}");
        assert!(text.contains("the built-in model"), "{text}");
    }
    for used in [0usize, 4] {
        let text = message(&changed(|w| {
            w.set("deepseek2.expert_group_count", 3usize);
            w.set("deepseek2.expert_group_used_count", used);
        }));
        assert!(text.contains("deepseek2.expert_group_used_count"), "{text}");
    }
    let few = message(&changed(|w| {
        w.set("deepseek2.expert_used_count", 3usize);
        w.set("deepseek2.expert_group_count", 3usize);
        w.set("deepseek2.expert_group_used_count", 1usize);
    }));
    assert!(few.contains("leave expert_used_count = 3 experts to choose from"), "{few}");
    let warm = message(&changed(|w| w.set("deepseek2.attention.temperature_scale", 0.1f32)));
    assert!(warm.contains("(Mistral) can't be run yet; GLM-4.7-Flash"), "{warm}");
    let scaled = |kind: &str| {
        message(&changed(|w| {
            w.set("deepseek2.rope.scaling.type", kind);
            w.set("deepseek2.rope.scaling.factor", 4.0f32);
        }))
    };
    assert!(
        scaled("linear").contains("none and yarn")
            && scaled("yarn").contains("missing metadata `deepseek2.rope.scaling.yarn_log_multiplier`")
    );
    for key in [
        "attention.kv_lora_rank",
        "attention.value_length_mla",
        "rope.dimension_count",
        "expert_feed_forward_length",
        "attention.head_count",
    ] {
        let text = message(&changed(|w| w.remove_key(&format!("deepseek2.{key}"))));
        assert!(text.contains("missing metadata") && text.contains(key), "{text}");
    }
    for tensor in ["attn_k_b", "attn_v_b", "attn_q_a", "attn_q_a_norm", "attn_kv_a_norm", "attn_kv_a_mqa", "ffn_up_shexp"] {
        let name = format!("blk.1.{tensor}.weight");
        assert!(message(&changed(|w| w.remove_tensor(&name))).contains(&format!("missing tensor {name}")), "{tensor}");
    }
}

#[test]
fn a_device_is_refused_by_name_and_gives_way_where_nobody_asked_for_it() {
    let gguf = file(&made(true));
    let said = format!("the built-in model: {MADE}; --device cpu runs it on the processor");
    for device in [DeviceChoice::Gpu, DeviceChoice::Simulated] {
        assert_eq!(choose_for(&gguf, device).err().unwrap().to_string(), said);
        assert_eq!(plan(&gguf, &LoadOptions { device, ..options() }, u64::MAX).err().unwrap().to_string(), said);
    }
    let device = Arc::new(Simulated::new(Options::default()));
    let refused = open_on(&gguf, &options(), Pool::new(1), Some(device), &mut |_, _| true).err().unwrap();
    assert!(matches!(refused, ModelError::NotOnDevice { .. }), "{refused}");
    let opened = open(&gguf, &LoadOptions { device: DeviceChoice::Auto, ..options() }, Pool::new(1)).unwrap();
    assert_eq!((opened.device, opened.lacks.is_some()), (None, cfg!(feature = "cuda")));
}

/// The header of GLM-4.7-Flash: real names, types and shapes, no data.
fn true_size(path: &std::path::Path) -> Gguf {
    use GgmlType::{F32, Q4K, Q6K, Q8_0};
    let mut w = Writer::new("deepseek2");
    for (key, value) in [
        ("block_count", 48usize),
        ("nextn_predict_layers", 1),
        ("context_length", 202_752),
        ("embedding_length", 2048),
        ("feed_forward_length", 10_240),
        ("leading_dense_block_count", 1),
        ("expert_feed_forward_length", 1536),
        ("expert_count", 64),
        ("expert_used_count", 4),
        ("expert_shared_count", 1),
        ("expert_group_count", 1),
        ("expert_group_used_count", 1),
        ("expert_gating_func", 2),
        ("attention.head_count", 20),
        ("attention.head_count_kv", 1),
        ("attention.q_lora_rank", 768),
        ("attention.kv_lora_rank", 512),
        ("attention.key_length", 576),
        ("attention.value_length", 512),
        ("attention.key_length_mla", 256),
        ("attention.value_length_mla", 256),
        ("rope.dimension_count", 64),
    ] {
        w.set(&format!("deepseek2.{key}"), value);
    }
    w.set("deepseek2.attention.layer_norm_rms_epsilon", 1e-5f32);
    w.set("deepseek2.rope.freq_base", 1e6f32);
    w.set("deepseek2.expert_weights_scale", 1.8f32);
    w.set("deepseek2.expert_weights_norm", true);
    w.hole("token_embd.weight", Q4K, &[2048, 154_880]);
    w.hole("output.weight", Q6K, &[2048, 154_880]);
    w.hole("output_norm.weight", F32, &[2048]);
    for b in 0..48 {
        let n = |part: &str| format!("blk.{b}.{part}.weight");
        for (part, len) in [("attn_norm", 2048), ("ffn_norm", 2048), ("attn_q_a_norm", 768), ("attn_kv_a_norm", 512)] {
            w.hole(&n(part), F32, &[len]);
        }
        let maps = [("attn_q_a", 2048, 768), ("attn_q_b", 768, 20 * 256), ("attn_kv_a_mqa", 2048, 576), ("attn_output", 20 * 256, 2048)];
        for (part, cols, rows) in maps {
            w.hole(&n(part), Q8_0, &[cols, rows]);
        }
        w.hole(&n("attn_k_b"), Q8_0, &[192, 512, 20]);
        w.hole(&n("attn_v_b"), Q8_0, &[512, 256, 20]);
        let (kind, ff) = if b == 0 { ("", 10_240) } else { ("_shexp", 1536) };
        for (part, cols, rows) in [("gate", 2048, ff), ("up", 2048, ff), ("down", ff, 2048)] {
            w.hole(&n(&format!("ffn_{part}{kind}")), Q8_0, &[cols, rows]);
        }
        if b == 0 {
            continue;
        }
        w.hole(&n("ffn_gate_inp"), F32, &[2048, 64]);
        w.hole(&format!("blk.{b}.exp_probs_b.bias"), F32, &[64]);
        for (part, ty, cols, rows) in [("gate", Q4K, 2048, 1536), ("up", Q4K, 2048, 1536), ("down", Q6K, 1536, 2048)] {
            w.hole(&n(&format!("ffn_{part}_exps")), ty, &[cols, rows, 64]);
        }
    }
    w.hole("blk.47.nextn.eh_proj.weight", Q8_0, &[4096, 2048]);
    w.save(path).unwrap();
    Gguf::open(path).unwrap()
}

#[test]
fn the_plan_of_the_real_model_counts_a_row_of_576_values_per_token_and_layer() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = true_size(&folder.path().join("GLM-4.7-Flash-Q4_K_M.gguf"));
    let config = ModelConfig::read(&crate::model::weights::Weights::new(&gguf)).unwrap();
    let latent = config.latent.unwrap();
    assert_eq!((latent.plain, latent.turned, latent.rank, latent.value, latent.scale), (192, 64, 512, 256, 1.0 / 16.0));
    assert_eq!((config.blocks, config.leading_dense, config.shared_ff, config.expert_scale), (47, 1, 1536, 1.8));
    assert!(config.selection.sigmoid && config.selection.groups.is_none());
    let expert = (2 * 1536 * 2048 / 256 * 144 + 2048 * 1536 / 256 * 210) as u64;
    let plan = plan(&gguf, &LoadOptions { ram: Some(8 << 30), context: Some(16_384), ..LoadOptions::default() }, 1 << 40).unwrap();
    assert_eq!(plan.cache, 16_384 * 47 * 576 * 2, "53 KiB per token");
    assert_eq!(plan.experts, 46 * 64 * expert);
    assert_eq!(plan.slot_bytes.len(), 46);
    assert!((1..64).contains(&plan.slots_per_layer), "{plan:?}");
}
