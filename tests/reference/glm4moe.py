"""Reference cases for the `glm4moe` architecture (GLM-4.5 and its successors): random weights, transformers float32 as the reference.

  glm4moe.py odd|normed OUT --seed 1 [--peers hf,llama]

What sets the family apart: part of a head turns, in halves; biases of queries, keys and values (odd: 4.5-Air), or norms of queries and keys per head (normed, as in 4.6, with biases too);
dense layers first; routers, and the expert that every token uses, as in deepseek2.py. The norm before the feed-forward is called post_attention_norm.

Output files are those of make_fixtures.py (ref.npz, report.json).
"""
from __future__ import annotations
import dataclasses, pathlib
import numpy as np
import deepseek2


@dataclasses.dataclass
class Cfg:
    peer: str = "glm4_moe"
    vocab: int = 317
    hidden: int = 72
    layers: int = 3
    lead: int = 1
    heads: int = 6
    kv_heads: int = 3
    head_dim: int = 20
    turned: float = 0.6         # part of a head
    qk_norm: bool = False
    experts: int = 7
    topk: int = 3
    shared: int = 2
    groups: int = 1
    topk_groups: int = 1
    ff: int = 24
    dense_ff: int = 56
    factor: float = 1.4
    norm: bool = True
    theta: float = 23000.0
    ctx: int = 1800
    eps: float = 4e-3


PRESETS = {"odd": Cfg(), "normed": Cfg(vocab=313, hidden=64, heads=4, kv_heads=2, head_dim=24, turned=0.5, qk_norm=True, shared=1, experts=9, factor=2.5, theta=7000.0, eps=3e-4)}


def peer(c: Cfg):
    import transformers as T
    return T.Glm4MoeForCausalLM(T.Glm4MoeConfig(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.dense_ff, moe_intermediate_size=c.ff, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, head_dim=c.head_dim, attention_bias=True, use_qk_norm=c.qk_norm, n_shared_experts=c.shared, n_routed_experts=c.experts, routed_scaling_factor=c.factor,
        n_group=c.groups, topk_group=c.topk_groups, first_k_dense_replace=c.lead, num_experts_per_tok=c.topk, norm_topk_prob=c.norm, max_position_embeddings=c.ctx, rms_norm_eps=c.eps,
        rope_parameters=dict(rope_type="default", rope_theta=c.theta, partial_rotary_factor=c.turned), tie_word_embeddings=False))


def write_gguf(path: pathlib.Path, c: Cfg, sd: dict, f16: bool):
    """The keys, names and orders of llama.cpp's converter."""
    import gguf
    w = gguf.GGUFWriter(str(path), "glm4moe")
    w.add_type(gguf.GGUFType.MODEL); w.add_name("synthetic-glm4moe")
    w.add_block_count(c.layers); w.add_context_length(c.ctx); w.add_embedding_length(c.hidden); w.add_feed_forward_length(c.dense_ff)
    w.add_head_count(c.heads); w.add_head_count_kv(c.kv_heads); w.add_key_length(c.head_dim); w.add_value_length(c.head_dim)
    w.add_layer_norm_rms_eps(c.eps); w.add_rope_freq_base(c.theta); w.add_rope_dimension_count(int(c.head_dim * c.turned)); w.add_leading_dense_block_count(c.lead)
    w.add_expert_count(c.experts); w.add_expert_used_count(c.topk); w.add_expert_feed_forward_length(c.ff); w.add_expert_shared_count(c.shared)
    w.add_expert_weights_scale(c.factor); w.add_expert_weights_norm(c.norm); w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32); w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    deepseek2.tokenizer(w, c.vocab)
    t = {k: v.float().numpy() for k, v in sd.items()}

    def add(name, a, keep=False):
        w.add_tensor(name, np.ascontiguousarray(a, dtype=np.float16 if f16 and not keep and a.ndim > 1 else np.float32))
    add("token_embd.weight", t["model.embed_tokens.weight"])
    for i in range(c.layers):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        for g, h in (("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm"), ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"),
                     ("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"), ("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm"),
                     ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj"), ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
                     ("ffn_up_shexp", "mlp.shared_experts.up_proj"), ("ffn_down_shexp", "mlp.shared_experts.down_proj")):
            for part in (".weight", ".bias"):
                if p + h + part in t: add(b + g + part, t[p + h + part])
        if i < c.lead: continue
        add(b + "ffn_gate_inp.weight", t[p + "mlp.gate.weight"], True); add(b + "exp_probs_b.bias", t[p + "mlp.gate.e_score_correction_bias"])
        gu = t[p + "mlp.experts.gate_up_proj"]
        add(b + "ffn_gate_exps.weight", gu[:, :c.ff]); add(b + "ffn_up_exps.weight", gu[:, c.ff:]); add(b + "ffn_down_exps.weight", t[p + "mlp.experts.down_proj"])
    add("output_norm.weight", t["model.norm.weight"]); add("output.weight", t["lm_head.weight"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


if __name__ == "__main__":
    deepseek2.main("glm4moe", PRESETS, peer, write_gguf, None, __doc__)
