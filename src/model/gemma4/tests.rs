//! Small made-up models, what is refused, and the plan of the real one.

use crate::events::{LoadOptions, When};
use crate::gguf::write::Writer;
use crate::gguf::{GgmlType, Gguf};
use crate::kernels::Pool;
use crate::model::tests::{file, logits_with, options};
use crate::model::{open, plan, ModelConfig, ModelError};

const HIDDEN: usize = 32;
const FF: usize = 64;
const EXPERTS: usize = 4;
const VOCAB: usize = 50;
/// Key heads and their size, in a layer that sees a window and in one that sees everything.
const KINDS: [(usize, usize); 2] = [(2, 8), (1, 16)];

fn arrays(w: &mut Writer, groups: &[usize], sliding: &[bool]) {
    w.set("gemma4.attention.head_count_kv", groups.to_vec());
    w.set("gemma4.attention.sliding_window_pattern", sliding.to_vec());
}

/// Two layers of random F32 weights: one sees three positions, the other everything.
fn made_up() -> Writer {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut noise = |n: usize, middle: f32| -> Vec<f32> { (0..n).map(|_| middle + (rng.f32() - 0.5) * 0.4).collect() };
    let mut w = Writer::new("gemma4");
    for (key, value) in [
        ("block_count", 2usize),
        ("context_length", 64),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", FF),
        ("expert_feed_forward_length", FF),
        ("expert_count", EXPERTS),
        ("expert_used_count", 2),
        ("attention.head_count", 4),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("attention.key_length_swa", 8),
        ("attention.value_length_swa", 8),
        ("attention.sliding_window", 3),
        ("rope.dimension_count", 16),
        ("rope.dimension_count_swa", 8),
        ("attention.shared_kv_layers", 0),
        ("embedding_length_per_layer_input", 0),
    ] {
        w.set(&format!("gemma4.{key}"), value);
    }
    arrays(&mut w, &[2, 1], &[true, false]);
    w.set("gemma4.attention.layer_norm_rms_epsilon", 1e-5f32);
    w.set("gemma4.final_logit_softcapping", 2.0f32);
    w.f32_tensor("token_embd.weight", &[HIDDEN, VOCAB], &noise(HIDDEN * VOCAB, 0.0));
    w.f32_tensor("output_norm.weight", &[HIDDEN], &noise(HIDDEN, 1.0));
    w.f32_tensor("rope_freqs.weight", &[8], &[1.0, 1.0, 1e30, 1e30, 1e30, 1e30, 1e30, 1e30]);
    for (b, (groups, dim)) in KINDS.into_iter().enumerate() {
        let n = |part: &str| format!("blk.{b}.{part}.weight");
        for part in
            ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"]
        {
            w.f32_tensor(&n(part), &[HIDDEN], &noise(HIDDEN, 1.0));
        }
        for part in ["attn_q_norm", "attn_k_norm"] {
            w.f32_tensor(&n(part), &[dim], &noise(dim, 0.8));
        }
        let maps = [("attn_q", HIDDEN, 4 * dim), ("attn_k", HIDDEN, groups * dim), ("attn_output", 4 * dim, HIDDEN)];
        let maps = maps.into_iter().chain([("ffn_gate", HIDDEN, FF), ("ffn_up", HIDDEN, FF), ("ffn_down", FF, HIDDEN)]);
        for (part, cols, rows) in maps.chain([("ffn_gate_inp", HIDDEN, EXPERTS)]) {
            w.f32_tensor(&n(part), &[cols, rows], &noise(cols * rows, 0.0));
        }
        if b == 0 {
            w.f32_tensor(&n("attn_v"), &[HIDDEN, groups * dim], &noise(HIDDEN * groups * dim, 0.0));
        }
        w.f32_tensor(&format!("blk.{b}.ffn_gate_inp.scale"), &[HIDDEN], &noise(HIDDEN, 1.0));
        w.f32_tensor(&n("ffn_gate_up_exps"), &[HIDDEN, 2 * FF, EXPERTS], &noise(HIDDEN * 2 * FF * EXPERTS, 0.0));
        w.f32_tensor(&n("ffn_down_exps"), &[FF, HIDDEN, EXPERTS], &noise(FF * HIDDEN * EXPERTS, 0.0));
    }
    w
}

fn logits_of(w: &Writer) -> Result<Vec<f32>, ModelError> {
    logits_with(w, &options())
}

fn changed(change: impl FnOnce(&mut Writer)) -> Writer {
    let mut w = made_up();
    change(&mut w);
    w
}

#[test]
fn what_a_file_leaves_out_is_what_it_would_do_nothing_with() {
    let plain = logits_of(&made_up()).unwrap();
    assert!(plain.iter().all(|l| l.abs() <= 2.0) && plain.iter().any(|l| l.abs() > 0.5), "the cap");
    for (name, len) in [("layer_output_scale.weight", 1), ("ffn_down_exps.scale", EXPERTS)] {
        let with = |value: f32| logits_of(&changed(|w| w.f32_tensor(&format!("blk.1.{name}"), &[len], &vec![value; len]))).unwrap();
        assert!(with(1.0) == plain && with(0.5) != plain, "{name}");
    }
    let uncapped = logits_of(&changed(|w| w.set("gemma4.final_logit_softcapping", 0.0f32))).unwrap();
    assert!(uncapped.iter().zip(&plain).all(|(u, p)| (2.0 * (u / 2.0).tanh() - p).abs() < 1e-6));
    assert_eq!(logits_of(&changed(|w| w.remove_key("gemma4.final_logit_softcapping"))).unwrap(), uncapped);
    for key in ["rope.dimension_count", "rope.dimension_count_swa", "attention.value_length", "attention.value_length_swa"] {
        assert_eq!(logits_of(&changed(|w| w.remove_key(&format!("gemma4.{key}")))).unwrap(), plain, "{key}");
    }
    // Bases that are those of all published models.
    let bases = changed(|w| {
        w.set("gemma4.rope.freq_base", 1e6f32);
        w.set("gemma4.rope.freq_base_swa", 1e4f32);
    });
    assert_eq!(logits_of(&bases).unwrap(), plain);
    // One number for all layers, where they are alike; every so many-th sees everything.
    let by_number = changed(|w| w.set("gemma4.attention.sliding_window_pattern", 2usize));
    assert_eq!(logits_of(&by_number).unwrap(), plain);
}

#[test]
fn values_are_the_raw_keys_where_there_is_no_map_to_them() {
    let plain = logits_of(&made_up()).unwrap();
    let keys = file(&made_up());
    let keys = keys.bytes(keys.tensor("blk.1.attn_k.weight").unwrap());
    let both = changed(|w| w.tensor("blk.1.attn_v.weight", GgmlType::F32, &[HIDDEN, 16], keys.to_vec()));
    assert_eq!(logits_of(&both).unwrap(), plain);
}

#[test]
fn experts_in_one_tensor_or_two_give_the_same_bits_whatever_the_slots_and_whether_routers_are_asked_early() {
    let w = made_up();
    let plain = logits_of(&w).unwrap();
    let split = changed(|w| {
        for b in 0..2 {
            let name = |part: &str| format!("blk.{b}.ffn_{part}_exps.weight");
            let whole = file(w);
            let whole = whole.bytes(whole.tensor(&name("gate_up")).unwrap()).to_vec();
            w.remove_tensor(&name("gate_up"));
            for (i, part) in ["gate", "up"].into_iter().enumerate() {
                let half: Vec<u8> = whole.chunks(HIDDEN * FF * 4).skip(i).step_by(2).flatten().copied().collect();
                w.tensor(&name(part), GgmlType::F32, &[HIDDEN, FF, EXPERTS], half);
            }
        }
    });
    assert_eq!(logits_of(&split).unwrap(), plain);
    for slots in 0..=EXPERTS {
        for foresee in [When::Never, When::Always] {
            let options = LoadOptions { slots: Some(slots), foresee, ..options() };
            assert!(logits_with(&w, &options).unwrap() == plain, "{slots} slots, routers asked early: {foresee:?}");
        }
    }
}

#[test]
fn a_model_without_experts_is_all_trunk() {
    let dense = changed(|w| {
        w.remove_key("gemma4.expert_count");
        for b in 0..2 {
            for part in ["ffn_gate_inp.weight", "ffn_gate_inp.scale", "ffn_gate_up_exps.weight", "ffn_down_exps.weight"] {
                w.remove_tensor(&format!("blk.{b}.{part}"));
            }
        }
    });
    assert_ne!(logits_of(&dense).unwrap(), logits_of(&made_up()).unwrap());
    let m = open(&file(&dense), &options(), Pool::new(1)).unwrap();
    assert_eq!((m.expert_bytes.len(), m.config.experts, m.plan.max_slots), (0, 0, 0));
}

#[test]
fn keys_that_can_not_be_are_refused_by_name() {
    let message = |w: &Writer| logits_of(w).map(|_| ()).unwrap_err().to_string();
    for (key, value, want) in [
        ("attention.shared_kv_layers", 18usize, "use the keys and values of others can't be run yet; Gemma 4 26B-A4B, 12B or 31B can"),
        ("embedding_length_per_layer_input", 256, "can't be run yet"),
        ("block_count", 5000, "must be at most 1024"),
        ("block_count", 3, "must hold a true or false for each of 3 layers"),
        ("attention.key_length", 1 << 23, "exceed"),
        ("attention.key_length_swa", 1 << 23, "attention.key_length_swa"),
        ("attention.head_count_kv", 3, "does not divide head_count = 4"),
        ("attention.head_count_kv", 0, "must be from 1"),
        ("rope.dimension_count", 18, "at most key_length = 16"),
        ("rope.dimension_count_swa", 10, "at most key_length_swa = 8"),
        ("rope.dimension_count_swa", 7, "must be even"),
        ("attention.sliding_window", 0, "must be from 1"),
        ("feed_forward_length", 65, "expected [32, 65]"),
        ("expert_used_count", 5, "exceeds expert_count = 4"),
        ("expert_gating_func", 2, "only softmax"),
    ] {
        let text = message(&changed(|w| w.set(&format!("gemma4.{key}"), value)));
        assert!(text.contains(want) && text.starts_with("the built-in model: "), "{key} = {value}: {text}");
    }
    for (groups, want) in
        [(vec![2], "1 numbers: must hold one for each of 2 layers"), (vec![2, 0], "0 in layer 1"), (vec![2, 3], "does not divide")]
    {
        let text = message(&changed(|w| arrays(w, &groups, &[true, false])));
        assert!(text.contains("gemma4.attention.head_count_kv") && text.contains(want), "{groups:?}: {text}");
    }
    let text = message(&changed(|w| w.set("gemma4.feed_forward_length", vec![64usize, 128])));
    assert!(text.contains("128 in layer 1: contradicts the 64 of layer 0"), "{text}");
    for cap in [-1.0, f32::NAN] {
        let text = message(&changed(|w| w.set("gemma4.final_logit_softcapping", cap)));
        assert!(text.contains("gemma4.final_logit_softcapping"), "{text}");
    }
    for key in ["attention.key_length", "feed_forward_length", "attention.head_count", "attention.sliding_window"] {
        let text = message(&changed(|w| w.remove_key(&format!("gemma4.{key}"))));
        assert!(text.contains("missing metadata") && text.contains(key), "{text}");
    }
    let other = changed(|w| w.set("gemma4.attention.value_length", 8usize));
    assert!(message(&other).contains("missing tensor blk.1.attn_v.weight"), "keys of another length are no values");
    for tensor in [
        "blk.0.post_ffw_norm_2.weight",
        "rope_freqs.weight",
        "blk.0.attn_v.weight",
        "blk.0.ffn_gate_inp.scale",
        "blk.0.attn_k_norm.weight",
        "blk.1.ffn_down.weight",
    ] {
        let text = message(&changed(|w| w.remove_tensor(tensor)));
        assert!(text.contains(&format!("missing tensor {tensor}")), "{text}");
    }
}

/// The header of Gemma 4 26B-A4B: real names, types and shapes, no data.
fn true_size(path: &std::path::Path) -> Gguf {
    use GgmlType::{F32, Q4_0, Q5_0, Q8_0};
    let mut w = Writer::new("gemma4");
    for (key, value) in [
        ("block_count", 30usize),
        ("context_length", 262_144),
        ("embedding_length", 2816),
        ("feed_forward_length", 2112),
        ("expert_feed_forward_length", 704),
        ("expert_count", 128),
        ("expert_used_count", 8),
        ("attention.head_count", 16),
        ("attention.key_length", 512),
        ("attention.value_length", 512),
        ("attention.key_length_swa", 256),
        ("attention.value_length_swa", 256),
        ("attention.sliding_window", 1024),
    ] {
        w.set(&format!("gemma4.{key}"), value);
    }
    let sliding: Vec<bool> = (0..30).map(|b| b % 6 != 5).collect();
    let groups: Vec<usize> = sliding.iter().map(|s| if *s { 8 } else { 2 }).collect();
    arrays(&mut w, &groups, &sliding);
    w.set("gemma4.attention.layer_norm_rms_epsilon", 1e-6f32);
    w.set("gemma4.final_logit_softcapping", 30.0f32);
    w.hole("token_embd.weight", Q8_0, &[2816, 262_144]);
    w.hole("output_norm.weight", F32, &[2816]);
    w.hole("rope_freqs.weight", F32, &[256]);
    for (b, sees_window) in sliding.into_iter().enumerate() {
        let n = |part: &str| format!("blk.{b}.{part}.weight");
        let (groups, dim) = if sees_window { (8, 256) } else { (2, 512) };
        for part in
            ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"]
        {
            w.hole(&n(part), F32, &[2816]);
        }
        w.hole(&n("attn_q_norm"), F32, &[dim]);
        w.hole(&n("attn_k_norm"), F32, &[dim]);
        let maps = [("attn_q", 2816, 16 * dim), ("attn_k", 2816, groups * dim), ("attn_output", 16 * dim, 2816)];
        for (part, cols, rows) in maps.into_iter().chain([("ffn_gate", 2816, 2112), ("ffn_up", 2816, 2112), ("ffn_down", 2112, 2816)]) {
            w.hole(&n(part), Q8_0, &[cols, rows]);
        }
        if sees_window {
            w.hole(&n("attn_v"), Q8_0, &[2816, groups * dim]);
        }
        w.hole(&n("ffn_gate_inp"), F32, &[2816, 128]);
        w.hole(&format!("blk.{b}.ffn_gate_inp.scale"), F32, &[2816]);
        w.hole(&format!("blk.{b}.ffn_down_exps.scale"), F32, &[128]);
        w.hole(&n("ffn_gate_up_exps"), Q4_0, &[2816, 1408, 128]);
        w.hole(&n("ffn_down_exps"), Q5_0, &[704, 2816, 128]);
        w.hole(&n("layer_output_scale"), F32, &[1]);
    }
    w.save(path).unwrap();
    Gguf::open(path).unwrap()
}

#[test]
fn the_plan_of_the_real_model_counts_each_kind_of_layer_by_its_own_heads() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = true_size(&folder.path().join("gemma-4-26B-A4B.gguf"));
    let config = ModelConfig::read(&crate::model::weights::Weights::new(&gguf)).unwrap();
    let (windowed, per_token) = (25 * 8 * (256 + 256) * 2, 5 * 2 * (512 + 512) * 2);
    assert_eq!(config.cache_need(false, None).bytes(1), windowed + per_token);
    let sliding = config.sliding.as_ref().unwrap();
    assert_eq!((config.rope_base, config.rope_dims, sliding.rope), (1e6, 512, Some((1e4, 256))));
    let expert = (2 * 704 * 2816 / 32 * 18 + 2816 * 704 / 32 * 22) as u64;
    let options = LoadOptions { ram: Some(8 << 30), context: Some(4096), ..LoadOptions::default() };
    let plan = plan(&gguf, &options, 1 << 40).unwrap();
    assert_eq!(plan.experts, 30 * 128 * expert);
    assert_eq!(plan.cache, 4096 * (windowed + per_token));
    let long = crate::model::plan(&gguf, &LoadOptions { context: Some(32_768), ..options }, 1 << 40).unwrap();
    assert_eq!(long.cache, 5120 * windowed + 32_768 * per_token, "windows of 1024 and 4096 to go back by");
    assert_eq!(plan.slot_step, 30 * expert.next_multiple_of(4096), "whole pages");
    let all: u64 = gguf.tensors().map(|t| t.size() as u64).sum();
    assert_eq!(plan.trunk, all - plan.experts, "the tied table is read whole for every token");
    assert!((1..128).contains(&plan.slots_per_layer), "{plan:?}");
}
