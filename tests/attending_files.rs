//! Files of Qwen3-VL, Qwen2-MoE and MiniMax-M2 as other programs write them: what may be absent or fused, what is refused, and what the
//! largest of them takes.

mod rewritten;

use rewritten::File;
use rotary::events::LoadOptions;
use rotary::gguf::write::Writer;
use rotary::gguf::{GgmlType, Gguf, Value};
use rotary::model;

/// The fixture of an architecture, changed.
fn changed(arch: &str, change: impl FnOnce(&mut File)) -> File {
    let mut f = File::read(arch);
    change(&mut f);
    f
}

fn refused(arch: &str, change: &dyn Fn(&mut File), parts: &[&str]) {
    let text = changed(arch, |f| change(f)).refusal();
    assert!(parts.iter().all(|p| text.contains(p)) && text.contains("family.gguf"), "{text}");
}

#[test]
fn what_a_file_of_qwen3_vl_says_of_pictures_changes_no_bit_of_text() {
    let want = File::read("qwen3vlmoe").logits().unwrap();
    for key in ["qwen3vlmoe.rope.dimension_sections", "qwen3vlmoe.n_deepstack_layers"] {
        assert!(changed("qwen3vlmoe", |f| f.drop_key(key)).logits().unwrap() == want, "{key}");
    }
    let text = changed("qwen3vlmoe", |f| {
        f.metadata.iter_mut().for_each(|(key, _)| *key = key.replace("qwen3vlmoe.", "qwen3moe."));
        f.set("general.architecture", "qwen3moe");
    });
    assert!(text.logits().unwrap() == want, "its text is that of qwen3moe");
    let sections = Value::Array([5u32, 4, 2, 0].map(Value::from).to_vec());
    let wrong = |f: &mut File| f.set("qwen3vlmoe.rope.dimension_sections", sections.clone());
    refused("qwen3vlmoe", &wrong, &["rope.dimension_sections", "11 pairs in all"]);
}

#[test]
fn a_file_of_qwen2_moe_may_leave_widths_out_and_fuse_queries_keys_and_values() {
    let want = File::read("qwen2moe").logits().unwrap();
    // Three chosen experts share the dense width.
    assert!(changed("qwen2moe", |f| f.drop_key("qwen2moe.expert_feed_forward_length")).logits().unwrap() == want);
    let dense = changed("qwen2moe", |f| {
        f.drop_key("qwen2moe.expert_shared_feed_forward_length");
        f.set("qwen2moe.feed_forward_length", 28u32);
    });
    assert!(dense.logits().unwrap() == want, "every token's expert has the dense width");
    let fused = changed("qwen2moe", |f| {
        for b in 0..2 {
            for kind in ["weight", "bias"] {
                let parts = ["q", "k", "v"].map(|p| f.take(&format!("blk.{b}.attn_{p}.{kind}")));
                let mut dims = parts[0].1.clone();
                *dims.last_mut().unwrap() = parts.iter().map(|p| p.1.last().unwrap()).sum();
                let bytes = parts.iter().flat_map(|p| p.2.clone()).collect();
                f.put(&format!("blk.{b}.attn_qkv.{kind}"), parts[0].0, &dims, bytes);
            }
        }
    });
    assert!(fused.logits().unwrap() == want);
    let renormalised = changed("qwen2moe", |f| f.set("qwen2moe.expert_weights_norm", true));
    assert!(renormalised.logits().unwrap() != want, "a file may say that weights are divided by their sum");
}

#[test]
fn what_a_file_of_minimax_m2_leaves_out_is_what_the_family_has() {
    let want = File::read("minimax-m2").logits().unwrap();
    for key in ["expert_gating_func", "expert_feed_forward_length"] {
        assert!(changed("minimax-m2", |f| f.drop_key(&format!("minimax-m2.{key}"))).logits().unwrap() == want, "{key}");
    }
    let set = |key: &str, value: Value| changed("minimax-m2", |f| f.set(&format!("minimax-m2.{key}"), value)).logits().unwrap();
    assert!(set("expert_weights_norm", false.into()) == want, "weights are divided by their sum whatever a file says");
    assert!(set("expert_weights_scale", 0.0f32.into()) == want, "no factor");
    assert!(set("expert_weights_scale", 2.0f32.into()) != want);
    assert!(set("expert_gating_func", 1u32.into()) != want, "a softmax if the file says so");
    assert!(set("rope.dimension_count", 20u32.into()) != want, "part of a head turns");
    let guessing = changed("minimax-m2", |f| {
        f.set("minimax-m2.block_count", 4u32);
        f.set("minimax-m2.nextn_predict_layers", 1u32);
    });
    assert!(guessing.logits().unwrap() == want, "a block that predicts further tokens is left out");
}

#[test]
fn what_is_missing_or_contradicts_is_named() {
    for (arch, tensor) in [
        ("qwen3vlmoe", "blk.1.attn_q_norm.weight"),
        ("qwen2moe", "blk.1.ffn_gate_inp_shexp.weight"),
        ("qwen2moe", "blk.0.ffn_up_shexp.weight"),
        ("minimax-m2", "blk.2.attn_k_norm.weight"),
        ("minimax-m2", "blk.1.exp_probs_b.bias"),
        ("minimax-m2", "blk.0.exp_probs_b.bias"),
    ] {
        refused(arch, &|f| drop(f.take(tensor)), &["missing tensor", tensor]);
    }
    let narrow = |f: &mut File| f.set("qwen2moe.expert_shared_feed_forward_length", 27u32);
    refused("qwen2moe", &narrow, &["blk.0.ffn_gate_shexp.weight", "[72, 28]", "[72, 27]"]);
    let without = |f: &mut File| {
        ["expert_shared_feed_forward_length", "feed_forward_length"].iter().for_each(|key| f.drop_key(&format!("qwen2moe.{key}")))
    };
    refused("qwen2moe", &without, &["missing metadata `qwen2moe.expert_shared_feed_forward_length`"]);
    refused("qwen2moe", &|f| f.set("qwen2moe.expert_gating_func", 2u32), &["expert_gating_func", "only softmax gating (1)"]);
    refused("minimax-m2", &|f| f.set("minimax-m2.expert_gating_func", 3u32), &["expert_gating_func", "softmax (1) and sigmoid (2)"]);
    // A norm per head has another length.
    let per_head = |f: &mut File| {
        let (ty, _, data) = f.take("blk.0.attn_q_norm.weight");
        f.put("blk.0.attn_q_norm.weight", ty, &[20], data[..80].to_vec());
    };
    refused("minimax-m2", &per_head, &["blk.0.attn_q_norm.weight", "[20]", "[120]"]);
}

/// The header of MiniMax-M2 as Q4_K_M: real names, types and shapes, no data.
fn minimax_m2_of_true_size(path: &std::path::Path) -> Gguf {
    use GgmlType::{F32, Q4K, Q6K};
    let mut w = Writer::new("minimax-m2");
    for (key, value) in [
        ("block_count", 62usize),
        ("context_length", 196_608),
        ("embedding_length", 3072),
        ("feed_forward_length", 1536),
        ("expert_feed_forward_length", 1536),
        ("expert_count", 256),
        ("expert_used_count", 8),
        ("expert_gating_func", 2),
        ("attention.head_count", 48),
        ("attention.head_count_kv", 8),
        ("attention.key_length", 128),
        ("attention.value_length", 128),
        ("rope.dimension_count", 64),
    ] {
        w.set(&format!("minimax-m2.{key}"), value);
    }
    w.set("minimax-m2.attention.layer_norm_rms_epsilon", 1e-6f32);
    w.set("minimax-m2.rope.freq_base", 5e6f32);
    w.hole("token_embd.weight", Q4K, &[3072, 200_064]);
    w.hole("output.weight", Q6K, &[3072, 200_064]);
    w.hole("output_norm.weight", F32, &[3072]);
    for b in 0..62 {
        let n = |part: &str| format!("blk.{b}.{part}.weight");
        for (part, len) in [("attn_norm", 3072), ("ffn_norm", 3072), ("attn_q_norm", 6144), ("attn_k_norm", 1024)] {
            w.hole(&n(part), F32, &[len]);
        }
        for (part, ty, cols, rows) in [("q", Q4K, 3072, 6144), ("k", Q4K, 3072, 1024), ("v", Q6K, 3072, 1024), ("output", Q4K, 6144, 3072)]
        {
            w.hole(&n(&format!("attn_{part}")), ty, &[cols, rows]);
        }
        w.hole(&n("ffn_gate_inp"), F32, &[3072, 256]);
        w.hole(&format!("blk.{b}.exp_probs_b.bias"), F32, &[256]);
        for (part, cols, rows) in [("gate", 3072, 1536), ("up", 3072, 1536), ("down", 1536, 3072)] {
            w.hole(&n(&format!("ffn_{part}_exps")), Q4K, &[cols, rows, 256]);
        }
    }
    w.save(path).unwrap();
    Gguf::open(path).unwrap()
}

#[test]
fn the_plan_of_minimax_m2_of_true_size_counts_its_experts_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = minimax_m2_of_true_size(&folder.path().join("MiniMax-M2-Q4_K_M.gguf"));
    let options = |ram: u64| LoadOptions { ram: Some(ram << 30), context: Some(16_384), ..LoadOptions::default() };
    let expert = 3 * 1536 * 3072 / 256 * 144u64;
    let [little, more] = [24, 64].map(|ram| model::plan(&gguf, &options(ram), 1 << 40).unwrap());
    for plan in [&little, &more] {
        assert_eq!(plan.experts, 62 * 256 * expert, "126 GB");
        assert_eq!(plan.cache, 16_384 * 62 * 2 * 8 * 128 * 2, "248 KiB per token");
        assert!(plan.slot_bytes.len() == 62 && plan.slot_bytes.iter().all(|slot| slot.bytes == expert), "8 MB each");
        assert!((2 << 30..4 << 30).contains(&plan.trunk), "{plan:?}");
    }
    assert!((8..128).contains(&little.slots_per_layer) && (64..256).contains(&more.slots_per_layer), "{little:?} {more:?}");
    assert!(little.slots_per_layer < more.slots_per_layer);
    let text = model::plan(&gguf, &options(2), 1 << 40).unwrap_err().to_string();
    assert!(text.contains("GiB"), "what can't fit is refused with the numbers: {text}");
}
