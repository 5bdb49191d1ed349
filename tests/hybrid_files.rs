//! Files of the Qwen3.5 family as other programs write them: what may be absent, fused or in another type, and what is refused.

mod rewritten;

use rewritten::{logits_of, File};
use rotary::gguf::{GgmlType, Gguf, Value};

/// The first layer of `q35-strict` that attends, and its prediction block.
const ATTENDS: usize = 3;
const PREDICTS: usize = 4;

#[test]
fn a_prediction_block_may_be_there_be_gone_or_not_be_counted() {
    let whole = File::read("q35-strict");
    let want = whole.logits().unwrap();
    let without_tensors = |f: &mut File| f.tensors.retain(|t| !t.0.starts_with(&format!("blk.{PREDICTS}.")));

    let mut f = File::read("q35-strict");
    without_tensors(&mut f);
    assert!(f.logits().unwrap() == want, "the key counts a block that was taken out of the file");
    f.set("qwen35moe.block_count", 4usize);
    f.drop_key("qwen35moe.nextn_predict_layers");
    assert!(f.logits().unwrap() == want, "a file made without it");
    f.set("qwen35moe.nextn_predict_layers", 0usize);
    assert!(f.logits().unwrap() == want, "a file that says so");

    let mut f = File::read("q35-strict");
    f.drop_key("qwen35moe.nextn_predict_layers");
    assert!(f.logits().unwrap() == want, "a block that only its tensors tell");
    // A file with the prediction block alone, as some are published beside the model.
    let mut f = File::read("q35-strict");
    f.drop_key("qwen35moe.nextn_predict_layers");
    f.tensors.retain(|t| !t.0.starts_with("blk.") || t.0.starts_with(&format!("blk.{PREDICTS}.")));
    f.tensors.iter_mut().for_each(|t| t.0 = t.0.replace(&format!("blk.{PREDICTS}."), "blk.0."));
    f.set("qwen35moe.block_count", 1usize);
    let text = f.refusal();
    assert!(text.contains("the file with the model itself is needed"), "{text}");
    let mut f = File::read("q35-strict");
    f.set("qwen35moe.nextn_predict_layers", 5usize);
    let text = f.refusal();
    assert!(text.contains("family.gguf") && text.contains("nextn_predict_layers` = 5: leaves nothing of block_count = 5"), "{text}");
}

#[test]
fn what_a_prediction_block_lacks_is_named_and_nobody_asks_where_it_is_not_wanted() {
    let name = |part: &str| format!("blk.{PREDICTS}.{part}.weight");
    for part in ["nextn.enorm", "nextn.hnorm", "attn_norm", "post_attention_norm", "attn_q", "attn_k_norm", "ffn_gate_inp", "ffn_up_exps"] {
        let mut f = File::read("q35-strict");
        f.take(&name(part));
        let text = f.refusal();
        assert!(text.contains(&format!("missing tensor {} in family.gguf", name(part))) && text.contains("download"), "{text}");
        assert!(text.contains("--draft never"), "{text}");
        assert_eq!(f.logits_without_guesses().unwrap().len(), 24 * 320);
    }
    for (part, dims) in [("nextn.eh_proj", [48, 96]), ("nextn.eh_proj", [48, 48]), ("nextn.enorm", [96, 1]), ("attn_output", [48, 48])] {
        let mut f = File::read("q35-strict");
        let (ty, _, mut data) = f.take(&name(part));
        data.resize(dims[0] * dims[1] * if ty == GgmlType::F32 { 4 } else { 2 }, 0);
        f.put(&name(part), ty, &dims, data);
        let text = f.refusal();
        assert!(text.contains(&format!("family.gguf: tensor {} has shape", name(part))), "{text}");
    }
    // Without a norm of its own the block's head has the model's, as llama.cpp has it.
    let mut f = File::read("q35-strict");
    f.take(&name("nextn.shared_head_norm"));
    assert!(f.logits().unwrap() == File::read("q35-strict").logits_without_guesses().unwrap(), "the model's own logits are what they are");
    // Where nothing of it can be run, it is left out.
    let mut f = File::read("q35-strict");
    f.take(&name("nextn.eh_proj"));
    assert!(f.logits().unwrap() == File::read("q35-strict").logits().unwrap());
}

#[test]
fn experts_may_be_fused_or_one_by_one() {
    let want = File::read("q35-strict").logits().unwrap();
    let (mut fused, mut single) = (File::read("q35-strict"), File::read("q35-strict"));
    for b in 0..=PREDICTS {
        let name = |stem: &str| format!("blk.{b}.{stem}_exps.weight");
        let (ty, dims, gate) = fused.take(&name("ffn_gate"));
        let (_, _, up) = fused.take(&name("ffn_up"));
        let each = gate.len() / dims[2];
        let both = gate.chunks(each).zip(up.chunks(each)).flat_map(|(g, u)| [g, u].concat()).collect();
        fused.put(&name("ffn_gate_up"), ty, &[dims[0], 2 * dims[1], dims[2]], both);
        for stem in ["ffn_gate", "ffn_up", "ffn_down"] {
            let (ty, dims, data) = single.take(&name(stem));
            for (e, one) in data.chunks(data.len() / dims[2]).enumerate() {
                single.put(&format!("blk.{b}.{stem}.{e}.weight"), ty, &dims[..2], one.to_vec());
            }
        }
    }
    assert!(fused.logits().unwrap() == want, "gate and up in one tensor");
    assert!(single.logits().unwrap() == want, "one tensor per expert");
}

#[test]
fn queries_keys_and_values_may_be_one_tensor_and_the_file_several() {
    for (case, layers, gates) in [("q35-strict", vec![ATTENDS], true), ("strict", vec![0, 1, 2], false)] {
        let mut f = File::read(case);
        let want = f.logits().unwrap();
        for b in layers {
            let (mut rows, mut all, mut shape) = (0, Vec::new(), None);
            for part in ["q", "k", "v"] {
                let (ty, dims, data) = f.take(&format!("blk.{b}.attn_{part}.weight"));
                rows += dims[1];
                all.extend(data);
                shape = Some((ty, dims[0]));
            }
            let (ty, cols) = shape.unwrap();
            f.put(&format!("blk.{b}.attn_qkv.weight"), ty, &[cols, rows], all);
        }
        assert!(f.logits().unwrap() == want, "{case}, output gates: {gates}");
        // The same in three files.
        let folder = tempfile::tempdir().unwrap();
        let parts = f.writer().save_split(folder.path(), "family", 3).unwrap();
        assert!(logits_of(&Gguf::open(&parts[0]).unwrap()).unwrap() == want, "{case} in three files");
    }
}

#[test]
fn routers_and_gates_may_be_bf16_and_the_gate_of_the_shared_expert_a_matrix() {
    let (mut rounded, mut short) = (File::read("q35-odd"), File::read("q35-odd"));
    let plain = rounded.logits().unwrap();
    for b in 0..3 {
        for stem in ["ffn_gate_inp", "ffn_gate_inp_shexp"] {
            let name = format!("blk.{b}.{stem}.weight");
            let (ty, mut dims, data) = rounded.take(&name);
            short.take(&name);
            assert_eq!(ty, GgmlType::F32);
            // Cut to the upper half, which bf16 holds exactly.
            let upper: Vec<[u8; 2]> = data.chunks_exact(4).map(|v| [v[2], v[3]]).collect();
            rounded.put(&name, ty, &dims, upper.iter().flat_map(|h| [0, 0, h[0], h[1]]).collect());
            if stem == "ffn_gate_inp_shexp" {
                dims = vec![dims[0], 1];
            }
            short.put(&name, GgmlType::BF16, &dims, upper.concat());
        }
    }
    let (want, got) = (rounded.logits().unwrap(), short.logits().unwrap());
    let furthest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest(&want, &got) < 1e-4, "{}", furthest(&want, &got));
    assert!(furthest(&want, &plain) > 1e-3, "the routers were changed by the rounding");
}

#[test]
fn absent_keys_mean_what_the_family_has() {
    let want = File::read("q35-strict").logits().unwrap();
    let mut f = File::read("q35-strict");
    let optional = ["full_attention_interval", "rope.dimension_sections", "rope.dimension_count", "rope.freq_base", "ssm.conv_kernel"];
    for key in optional {
        assert!(f.metadata.iter().any(|(k, _)| *k == format!("qwen35moe.{key}")), "{key} is there to be dropped");
        f.drop_key(&format!("qwen35moe.{key}"));
    }
    assert!(f.logits().unwrap() == want);
    // Widths of the experts follow from the dense one, as far as that says anything.
    f.drop_key("qwen35moe.expert_shared_feed_forward_length");
    f.set("qwen35moe.feed_forward_length", 32usize);
    assert!(f.logits().unwrap() == want);
    // What can't be guessed is asked for by name.
    for key in
        ["ssm.state_size", "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size", "expert_count", "attention.layer_norm_rms_epsilon"]
    {
        let mut f = File::read("q35-strict");
        f.drop_key(&format!("qwen35moe.{key}"));
        let text = f.refusal();
        assert!(text.contains(&format!("family.gguf: missing metadata `qwen35moe.{key}`")) && text.contains("download"), "{text}");
    }
    // A list of recurrent layers goes before the interval.
    let mut f = File::read("q35-strict");
    f.set("qwen35moe.full_attention_interval", 2usize);
    f.set("qwen35moe.attention.recurrent_layers", vec![true, true, true, false, false]);
    assert!(f.logits().unwrap() == want);
}

#[test]
fn keys_that_contradict_each_other_are_refused_with_file_field_and_remedy() {
    for (key, value, why) in [
        ("ssm.inner_size", 100usize, "contradicts time_step_rank * state_size = 128"),
        ("ssm.time_step_rank", 3, "is not a multiple of ssm.group_count = 2"),
        ("ssm.state_size", 64, "contradicts time_step_rank * state_size = 256"),
        ("ssm.conv_kernel", 3, "by the metadata"),
        ("attention.value_length", 32, "contradicts attention.key_length = 64"),
        ("attention.key_length", 32, "contradicts attention.key_length = 32"),
        ("attention.head_count_kv", 3, "does not divide head_count = 4"),
        ("rope.dimension_count", 32, "contradicts rope.dimension_count = 32, which has 16"),
        ("rope.dimension_count", 128, "at most key_length = 64"),
        ("expert_used_count", 13, "exceeds expert_count = 12"),
        ("expert_count", 11, "by the metadata"),
        ("expert_feed_forward_length", 32, "by the metadata"),
        ("expert_shared_feed_forward_length", 16, "by the metadata"),
        ("expert_gating_func", 2, "only softmax"),
        ("full_attention_interval", 2, "says that layer 1 attends, but its tensors are those of a recurrent layer"),
        ("block_count", 6, "says that layer 4 is recurrent, but its tensors are those of an attending layer"),
    ] {
        let mut f = File::read("q35-strict");
        f.set(&format!("qwen35moe.{key}"), value);
        let text = f.refusal();
        assert!(text.contains(why) && text.contains("family.gguf"), "{key} = {value}: {text}");
        assert!(text.contains("download or convert"), "a remedy: {text}");
    }
    let mut f = File::read("q35-strict");
    f.set("qwen35moe.attention.recurrent_layers", vec![true, false]);
    assert!(f.refusal().contains("must hold a true or false for each of 4 layers"), "{}", f.refusal());
    f.set("qwen35moe.attention.recurrent_layers", "all");
    assert!(f.refusal().contains("must be an array"), "{}", f.refusal());
    let mut f = File::read("qwen35");
    f.set("qwen35.expert_count", 8usize);
    assert!(f.refusal().contains("with experts it is called qwen35moe"), "{}", f.refusal());
    let mut f = File::read("q35-strict");
    f.take(&format!("blk.{ATTENDS}.attn_k_norm.weight"));
    assert!(f.refusal().starts_with("missing tensor blk.3.attn_k_norm.weight in family.gguf"), "{}", f.refusal());
}

#[test]
fn what_a_file_says_of_convolutions_is_checked_and_the_last_norm_has_two_names() {
    let want = File::read("lfm2moe").logits().unwrap();
    let mut f = File::read("lfm2moe");
    let (ty, dims, norm) = f.take("token_embd_norm.weight");
    f.tensors.push(("output_norm.weight".into(), ty, dims, norm));
    assert!(f.logits().unwrap() == want);
    let groups = "attention.head_count_kv";
    for (key, value, why) in [
        ("shortconv.l_cache", Value::from(4usize), "by the metadata"),
        ("shortconv.l_cache", Value::from(0usize), "must be from 1"),
        ("shortconv.l_cache", Value::from(1usize), "a kernel has 2 to 64 taps"),
        ("shortconv.l_cache", Value::from(65usize), "a kernel has 2 to 64 taps"),
        (groups, Value::from(vec![0u32, 0, 3]), "must hold one for each of 5 layers"),
        (groups, Value::from(vec![0u32; 5]), "is 0 in all layers"),
        (groups, Value::from(vec![0u32, 0, 4, 0, 3]), "does not divide head_count = 6"),
        ("leading_dense_block_count", Value::from(5usize), "leaves no layer with experts of 5"),
        ("block_count", Value::from(5000usize), "must be at most 1024 where layers differ"),
    ] {
        let mut f = File::read("lfm2moe");
        f.set(&format!("lfm2moe.{key}"), value);
        let text = f.refusal();
        assert!(text.contains(why) && text.contains("family.gguf") && text.contains("download or convert"), "{key}: {text}");
    }
    for key in ["shortconv.l_cache", groups, "expert_feed_forward_length"] {
        let mut f = File::read("lfm2moe");
        f.drop_key(&format!("lfm2moe.{key}"));
        let text = f.refusal();
        assert!(text.contains(&format!("family.gguf: missing metadata `lfm2moe.{key}`")) && text.contains("download"), "{text}");
    }
    // Scores are sigmoids unless the file says otherwise, also where no router has a bias for the choice.
    let scored = |says: Option<u32>, biased: bool| {
        let mut f = File::read("lfm2moe");
        f.drop_key("lfm2moe.expert_gating_func");
        if let Some(says) = says {
            f.set("lfm2moe.expert_gating_func", says);
        }
        f.tensors.retain(|t| biased || !t.0.ends_with("exp_probs_b.bias"));
        f.logits().unwrap()
    };
    assert!(scored(None, true) == want && scored(None, false) == scored(Some(2), false));
    assert!(scored(None, false) != want && scored(None, false) != scored(Some(1), false));
    let mut f = File::read("lfm2moe");
    let (ty, dims, norm) = f.take("blk.0.attn_norm.weight");
    f.put("blk.0.attn_norm.weight", ty, &dims, norm.clone());
    f.put("blk.0.shortconv.conv.bias", ty, &dims, norm);
    let text = f.refusal();
    assert!(text.starts_with("family.gguf: tensor blk.0.shortconv.conv.bias is a bias of a convolution"), "{text}");
    // A layer that is said to attend lacks what that needs, by name.
    let mut f = File::read("lfm2moe");
    f.set(&format!("lfm2moe.{groups}"), vec![0u32, 3, 3, 0, 3]);
    assert!(f.refusal().starts_with("missing tensor blk.1.attn_q.weight in family.gguf"), "{}", f.refusal());
}

#[test]
fn the_first_qwen3next_files_give_the_bits_of_the_later_ones() {
    let mut f = File::read("qwen3next");
    let want = f.logits().unwrap();
    let (keys, values, dim) = (2, 6, 16);
    let own = values / keys * dim;
    for b in [0, 2] {
        let (ty, dims, mixed) = f.take(&format!("blk.{b}.attn_qkv.weight"));
        let (_, _, gate) = f.take(&format!("blk.{b}.attn_gate.weight"));
        let row = mixed.len() / dims[1];
        let rows = |data: &[u8], from: usize, n: usize| data[from * row..(from + n) * row].to_vec();
        let mut fused = Vec::new();
        for k in 0..keys {
            fused.extend(rows(&mixed, k * dim, dim));
            fused.extend(rows(&mixed, (keys + k) * dim, dim));
            fused.extend(rows(&mixed, 2 * keys * dim + k * own, own));
            fused.extend(rows(&gate, k * own, own));
        }
        f.put(&format!("blk.{b}.ssm_in.weight"), ty, &[dims[0], fused.len() / row], fused);
    }
    assert!(f.logits().unwrap() == want);
}
