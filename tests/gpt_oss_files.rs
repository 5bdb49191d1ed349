//! Files of gpt-oss as other programs write them: what may be absent or fused, and what is refused.

mod rewritten;

use rewritten::File;
use rotary::gguf::{GgmlType, Value};

const CASE: &str = "gpt-oss";
const LAYERS: usize = 3;

#[test]
fn layers_that_see_a_window_may_be_listed_or_left_to_the_family() {
    let want = File::read(CASE).logits().unwrap();
    for pattern in [Value::from(2usize), Value::Array(vec![Value::Bool(true), Value::Bool(false), Value::Bool(true)])] {
        let mut f = File::read(CASE);
        f.set("gpt-oss.attention.sliding_window_pattern", pattern);
        assert!(f.logits().unwrap() == want);
    }
    let mut f = File::read(CASE);
    f.set("gpt-oss.attention.sliding_window_pattern", Value::Array(vec![Value::Bool(false); LAYERS]));
    assert!(f.logits().unwrap() != want, "windows are looked through");
    f.set("gpt-oss.attention.sliding_window", 1usize << 20);
    f.drop_key("gpt-oss.attention.sliding_window_pattern");
    let wide = f.logits().unwrap();
    f.set("gpt-oss.attention.sliding_window_pattern", Value::Array(vec![Value::Bool(false); LAYERS]));
    assert!(f.logits().unwrap() == wide, "a window that holds everything is none");
}

#[test]
fn gate_and_up_may_be_fused_with_their_biases() {
    let want = File::read(CASE).logits().unwrap();
    let mut f = File::read(CASE);
    for b in 0..LAYERS {
        for (kind, rows) in [("weight", 1), ("bias", 0)] {
            let (ty, dims, gate) = f.take(&format!("blk.{b}.ffn_gate_exps.{kind}"));
            let (_, _, up) = f.take(&format!("blk.{b}.ffn_up_exps.{kind}"));
            let each = gate.len() / dims[rows + 1];
            let both = gate.chunks(each).zip(up.chunks(each)).flat_map(|(g, u)| [g, u].concat()).collect();
            let mut fused = dims.clone();
            fused[rows] *= 2;
            f.put(&format!("blk.{b}.ffn_gate_up_exps.{kind}"), ty, &fused, both);
        }
    }
    assert!(f.logits().unwrap() == want);
}

#[test]
fn what_is_missing_or_contradicts_is_named() {
    let refused = |change: &dyn Fn(&mut File), parts: &[&str]| {
        let mut f = File::read(CASE);
        change(&mut f);
        let text = f.refusal();
        assert!(parts.iter().all(|p| text.contains(p)) && text.contains("family.gguf"), "{text}");
    };
    refused(&|f| f.drop_key("gpt-oss.attention.sliding_window"), &["gpt-oss.attention.sliding_window"]);
    refused(&|f| f.set("gpt-oss.attention.sliding_window", 0usize), &["gpt-oss.attention.sliding_window", "must be from 1"]);
    let short = Value::Array(vec![Value::Bool(true)]);
    refused(&|f| f.set("gpt-oss.attention.sliding_window_pattern", short.clone()), &["sliding_window_pattern", "each of 3 layers"]);
    refused(&|f| drop(f.take("blk.1.attn_sinks.weight")), &["blk.1.attn_sinks.weight"]);
    refused(&|f| drop(f.take("blk.2.ffn_up_exps.bias")), &["blk.2.ffn_up_exps.bias"]);
    refused(&|f| drop(f.take("blk.0.ffn_down_exps.bias")), &["blk.0.ffn_down_exps.bias"]);
    let wrong = |f: &mut File| {
        let (_, dims, data) = f.take("blk.0.ffn_gate_exps.bias");
        f.put("blk.0.ffn_gate_exps.bias", GgmlType::F32, &[dims[0] / 2, dims[1] * 2], data);
    };
    refused(&wrong, &["blk.0.ffn_gate_exps.bias", "[24, 14]", "[48, 7]"]);
    refused(&|f| f.set("gpt-oss.expert_gating_func", 2usize), &["expert_gating_func"]);
}
