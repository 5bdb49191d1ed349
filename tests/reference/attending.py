"""Reference cases for decoders in which all layers attend and have experts: `qwen3vlmoe` (its text), `qwen2moe`, `minimax-m2`. Random weights, transformers float32 as the reference.

  attending.py qwen3vlmoe|qwen2moe|minimax-m2 OUT --seed 1 [--peers hf,llama]

What sets them apart:
  - qwen3vlmoe: qwen3moe with sections of the rotation (all at one position in text) and layers to which pictures would be added
  - qwen2moe: biases of queries, keys and values and no norms; weights of the chosen experts as softmax gave them; an expert that every token uses, weighed by a sigmoid
  - minimax-m2: norms over the whole width of queries and of keys; part of a head turns; scores by sigmoids, a bias for the choice alone, weights divided by their sum
"""
from __future__ import annotations
import dataclasses, pathlib
import numpy as np
import case


@dataclasses.dataclass
class Cfg:
    arch: str
    vocab: int = 317
    hidden: int = 72
    layers: int = 3
    heads: int = 6
    kv_heads: int = 3
    head_dim: int = 20
    turned: int = 20            # values of a head
    experts: int = 7
    topk: int = 3
    ff: int = 16
    shared_ff: int = 0
    theta: float = 23000.0
    ctx: int = 1800
    eps: float = 4e-3

    @property
    def lead(self): return 0
    @property
    def dense_ff(self): return 3 * self.ff      # no layer has it


PRESETS = {c.arch: c for c in (
    Cfg("qwen3vlmoe", vocab=313, layers=2, head_dim=24, turned=24),
    # llama.cpp wants heads that are as wide as the hidden state together.
    Cfg("qwen2moe", vocab=311, layers=2, head_dim=12, turned=12, shared_ff=28, theta=7000.0, eps=3e-4),
    Cfg("minimax-m2", hidden=56, turned=12),
)}
SECTIONS = [5, 4, 3, 0]


def peer(c: Cfg):
    import transformers as T
    common = dict(vocab_size=c.vocab, hidden_size=c.hidden, num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, num_experts_per_tok=c.topk,
                  max_position_embeddings=c.ctx, rms_norm_eps=c.eps, tie_word_embeddings=False)
    rope = dict(rope_type="default", rope_theta=c.theta)
    if c.arch == "minimax-m2":
        return T.MiniMaxM2ForCausalLM(T.MiniMaxM2Config(**common, head_dim=c.head_dim, intermediate_size=c.ff, num_local_experts=c.experts, bos_token_id=None, eos_token_id=None,
                                                        rope_parameters=dict(rope, partial_rotary_factor=c.turned / c.head_dim)))
    common |= dict(intermediate_size=c.dense_ff, moe_intermediate_size=c.ff, num_experts=c.experts)
    if c.arch == "qwen2moe":
        return T.Qwen2MoeForCausalLM(T.Qwen2MoeConfig(**common, shared_expert_intermediate_size=c.shared_ff, norm_topk_prob=False, rope_parameters=rope))
    text = dict(common, head_dim=c.head_dim, rope_parameters=dict(rope, mrope_section=SECTIONS[:3], mrope_interleaved=True))
    sees = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=c.hidden, num_position_embeddings=16, deepstack_visual_indexes=[0])
    return T.Qwen3VLMoeForConditionalGeneration(T.Qwen3VLMoeConfig(text_config=text, vision_config=sees, tie_word_embeddings=False))


def keys(w, c: Cfg):
    """What llama.cpp's converter writes."""
    import gguf
    w.add_feed_forward_length(c.ff if c.arch == "minimax-m2" else c.dense_ff)
    w.add_expert_count(c.experts); w.add_expert_used_count(c.topk); w.add_expert_feed_forward_length(c.ff)
    if c.arch == "qwen2moe": w.add_expert_shared_feed_forward_length(c.shared_ff); return
    w.add_key_length(c.head_dim); w.add_value_length(c.head_dim)
    if c.arch == "qwen3vlmoe": w.add_rope_dimension_sections(SECTIONS); w.add_num_deepstack_layers(1)
    else: w.add_rope_dimension_count(c.turned); w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def base(w, c, name: str, f16: bool):
    """Keys that all have; glm4moe.py's, too."""
    import gguf
    w.add_type(gguf.GGUFType.MODEL); w.add_name(name)
    w.add_block_count(c.layers); w.add_context_length(c.ctx); w.add_embedding_length(c.hidden); w.add_head_count(c.heads); w.add_head_count_kv(c.kv_heads)
    w.add_layer_norm_rms_eps(c.eps); w.add_rope_freq_base(c.theta)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32); w.add_quantization_version(gguf.GGML_QUANT_VERSION)


NAMES = (("attn_norm", "input_layernorm"), ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"),
         ("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm"), ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj"),
         *((f"ffn_{n}_shexp", f"mlp.shared_expert{s}.{n}_proj") for s in ("", "s") for n in ("gate", "up", "down")))


def tensors(w, c, sd: dict, f16: bool, ff_norm: str = "ffn_norm"):
    """Under the names and in the orders of llama.cpp's converter, and the file is written. glm4moe.py uses this, too."""
    t = {k.replace("language_model.", ""): v.float().numpy() for k, v in sd.items()}

    def add(name, a, keep=False):
        w.add_tensor(name, np.ascontiguousarray(a, dtype=np.float16 if f16 and not keep and a.ndim > 1 else np.float32))
    add("token_embd.weight", t["model.embed_tokens.weight"])
    for i in range(c.layers):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        for g, h in (*NAMES, (ff_norm, "post_attention_layernorm")):
            for part in (".weight", ".bias"):
                if p + h + part in t: add(b + g + part, t[p + h + part])
        if i < c.lead: continue
        add(b + "ffn_gate_inp.weight", t[p + "mlp.gate.weight"], True)
        if p + "mlp.shared_expert_gate.weight" in t: add(b + "ffn_gate_inp_shexp.weight", t[p + "mlp.shared_expert_gate.weight"][0])
        for h in ("mlp.gate.e_score_correction_bias", "mlp.e_score_correction_bias"):
            if p + h in t: add(b + "exp_probs_b.bias", t[p + h])
        gu = t[p + "mlp.experts.gate_up_proj"]
        add(b + "ffn_gate_exps.weight", gu[:, :c.ff]); add(b + "ffn_up_exps.weight", gu[:, c.ff:]); add(b + "ffn_down_exps.weight", t[p + "mlp.experts.down_proj"])
    add("output_norm.weight", t["model.norm.weight"]); add("output.weight", t["lm_head.weight"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


MINIMAX = case.Words("minimax-m2", ["[e~[", "]~!b[", "]~b]"],
                     "{{- ']~!b[' }}{%- for message in messages %}{{- ']~b]' + message.role + '\\n' + message.content + '[e~[\\n' }}{%- endfor %}"
                     "{%- if add_generation_prompt %}{{- ']~b]ai\\n' }}{%- endif %}")


def write_gguf(path: pathlib.Path, c: Cfg, sd: dict, f16: bool):
    import gguf
    w = gguf.GGUFWriter(str(path), c.arch)
    base(w, c, f"synthetic-{c.arch}", f16); keys(w, c)
    case.tokenizer(w, c.vocab, MINIMAX if c.arch == "minimax-m2" else case.CHATML)
    tensors(w, c, sd, f16)


def still(c: Cfg, m):
    """llama.cpp turns pairs that no section reaches by a fourth position, which is 0 in text."""
    if c.arch != "qwen3vlmoe": return None
    pairs = np.arange(m.rot // 2)
    m.inv = m.inv * (pairs < 3 * np.choose(pairs % 3, SECTIONS[:3]))
    return "pairs that no section reaches held still"


if __name__ == "__main__":
    case.main(PRESETS, peer, write_gguf, __doc__, otherwise=still)
