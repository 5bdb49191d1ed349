"""Reference cases for the `glm4moe` architecture (GLM-4.5 and its successors): random weights, transformers float32 as the reference.

  glm4moe.py odd|normed OUT --seed 1 [--peers hf,llama]

What sets the family apart: part of a head turns, in halves; biases of queries, keys and values (odd: 4.5-Air), or norms of queries and keys per head (normed, as in 4.6, with biases too);
dense layers first; routers, and the expert that every token uses, as in deepseek2.py. The norm before the feed-forward is called post_attention_norm.

Output files are those of make_fixtures.py (ref.npz, report.json).
"""
from __future__ import annotations
import dataclasses, pathlib
import attending, case


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
    """The keys of llama.cpp's converter."""
    import gguf
    w = gguf.GGUFWriter(str(path), "glm4moe")
    attending.base(w, c, "synthetic-glm4moe", f16)
    w.add_feed_forward_length(c.dense_ff); w.add_key_length(c.head_dim); w.add_value_length(c.head_dim)
    w.add_rope_dimension_count(int(c.head_dim * c.turned)); w.add_leading_dense_block_count(c.lead)
    w.add_expert_count(c.experts); w.add_expert_used_count(c.topk); w.add_expert_feed_forward_length(c.ff); w.add_expert_shared_count(c.shared)
    w.add_expert_weights_scale(c.factor); w.add_expert_weights_norm(c.norm); w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    case.tokenizer(w, c.vocab)
    attending.tensors(w, c, sd, f16, "post_attention_norm")


if __name__ == "__main__":
    case.main(PRESETS, peer, write_gguf, __doc__)
