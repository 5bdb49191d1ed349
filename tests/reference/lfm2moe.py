"""Reference cases for the `lfm2moe` architecture (LFM2-8B-A1B and its kin): random weights, transformers float32 as the reference.

  lfm2moe.py odd|four|quant OUT --seed 1 [--peers hf,llama] [--quants Q4_K_M]

What sets the family apart: most layers are gated short convolutions with a state of a few rows, and a file says which by a number of key heads of 0; dense layers
first; experts scored by sigmoids, with a bias for the choice; the last norm is called token_embd_norm by the converter, output_norm by others.
`four` has what the published models have not: four taps, a head of its own, a factor on the weights of experts, which llama.cpp does not read for this architecture
(so `--peers hf`).

Output files are those of make_fixtures.py (ref.npz, quant-X.npz, report.json).
"""
from __future__ import annotations
import dataclasses, pathlib
import numpy as np
import case

TEMPLATE = ("{{- bos_token }}{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")


@dataclasses.dataclass
class Cfg:
    vocab: int = 307
    hidden: int = 48
    kinds: str = "ccaca"        # of each layer: convolution or attention
    lead: int = 2
    heads: int = 6
    kv_heads: int = 3
    taps: int = 3
    experts: int = 7
    topk: int = 3
    ff: int = 12
    dense_ff: int = 36
    factor: float = 1.0
    tied: bool = True
    theta: float = 23000.0
    ctx: int = 1800
    eps: float = 4e-3
    norm: str = "token_embd_norm"


PRESETS = {"odd": Cfg(), "four": Cfg(vocab=311, hidden=40, kinds="acca", lead=1, heads=4, kv_heads=2, taps=4, experts=9, topk=4, factor=1.6, tied=False, theta=7000.0, eps=3e-4, norm="output_norm"),
           # Rows of 256 into the experts, of 96 out of them.
           "quant": Cfg(vocab=320, hidden=256, kinds="cac", lead=1, heads=4, kv_heads=2, experts=5, topk=2, ff=96, dense_ff=160, theta=1e6, eps=1e-5)}


def peer(c: Cfg):
    import transformers as T
    return T.Lfm2MoeForCausalLM(T.Lfm2MoeConfig(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.dense_ff, moe_intermediate_size=c.ff, num_hidden_layers=len(c.kinds), num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, conv_L_cache=c.taps, conv_bias=False, num_dense_layers=c.lead, num_experts=c.experts, num_experts_per_tok=c.topk, use_expert_bias=True, norm_topk_prob=True,
        routed_scaling_factor=c.factor, layer_types=["conv" if k == "c" else "full_attention" for k in c.kinds], max_position_embeddings=c.ctx, norm_eps=c.eps,
        rope_parameters=dict(rope_type="default", rope_theta=c.theta), tie_word_embeddings=c.tied))


def fill(model, seed):
    """As for the others, and convolutions and projections of heads that count."""
    import torch
    case.fill(model, seed)
    g = torch.Generator().manual_seed(seed + 1000)
    rnd = lambda p: torch.randn(p.shape, generator=g)
    with torch.no_grad():
        for k, p in model.state_dict().items():
            if k.endswith("feed_forward.gate.weight"): v = rnd(p) * 2.0 * p.shape[-1] ** -0.5
            elif k.endswith("expert_bias"): v = 0.3 * rnd(p)
            elif k.endswith("conv.conv.weight"): v = rnd(p) * 0.8
            elif k.endswith(("q_layernorm.weight", "k_layernorm.weight")): v = 1.4 + 0.3 * rnd(p)
            elif k.endswith("embedding_norm.weight"): v = 1.0 + 0.15 * rnd(p)
            elif "lm_head" in k and model.config.tie_word_embeddings: continue
            elif "embed_tokens" in k: v = rnd(p) * (2.5 * p.shape[-1] ** -0.5 if model.config.tie_word_embeddings else 1.0)
            else: continue
            p.copy_(v.half().float())


def vocabulary(n: int):
    """Tokens of LFM2's kind: marks first, bytes, a few words."""
    import gguf
    T = gguf.TokenType
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    toks = [(m, T.CONTROL) for m in ("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    toks += [(chr(b if b in plain else 256 + other.index(b)), T.NORMAL) for b in range(256)]
    merges = ["t h", "th e", "\u0120 the", "i n", "a n", "an d"]
    toks += [(m.replace(" ", ""), T.NORMAL) for m in merges]
    toks += [(f"<unused{i}>", T.UNUSED) for i in range(n - len(toks))]
    return [t for t, _ in toks], [t for _, t in toks], merges


def write_gguf(path: pathlib.Path, c: Cfg, sd: dict, f16: bool):
    """The keys, names and orders of llama.cpp's converter."""
    import gguf
    w = gguf.GGUFWriter(str(path), "lfm2moe")
    w.add_type(gguf.GGUFType.MODEL); w.add_name("synthetic-lfm2moe")
    w.add_block_count(len(c.kinds)); w.add_context_length(c.ctx); w.add_embedding_length(c.hidden); w.add_feed_forward_length(c.dense_ff)
    w.add_head_count(c.heads); w.add_head_count_kv([0 if k == "c" else c.kv_heads for k in c.kinds])
    w.add_layer_norm_rms_eps(c.eps); w.add_rope_freq_base(c.theta); w.add_leading_dense_block_count(c.lead); w.add_vocab_size(c.vocab); w.add_shortconv_l_cache(c.taps)
    w.add_expert_count(c.experts); w.add_expert_used_count(c.topk); w.add_expert_feed_forward_length(c.ff); w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if c.factor != 1: w.add_expert_weights_scale(c.factor)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32); w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    toks, types, merges = vocabulary(c.vocab)
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("lfm2"); w.add_token_list(toks); w.add_token_types(types); w.add_token_merges(merges)
    w.add_bos_token_id(1); w.add_eos_token_id(4); w.add_pad_token_id(0); w.add_add_bos_token(True); w.add_chat_template(TEMPLATE)
    t = {k: v.float().numpy() for k, v in sd.items()}

    def add(name, a, keep=False):
        w.add_tensor(name, np.ascontiguousarray(a, dtype=np.float16 if f16 and not keep and a.ndim > 1 else np.float32))
    add("token_embd.weight", t["model.embed_tokens.weight"]); add(c.norm + ".weight", t["model.embedding_norm.weight"])
    if not c.tied: add("output.weight", t["lm_head.weight"])
    for i, kind in enumerate(c.kinds):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        for g, h in (("attn_norm", "operator_norm"), ("ffn_norm", "ffn_norm"), ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"),
                     ("attn_output", "self_attn.out_proj"), ("attn_q_norm", "self_attn.q_layernorm"), ("attn_k_norm", "self_attn.k_layernorm"), ("shortconv.in_proj", "conv.in_proj"),
                     ("shortconv.out_proj", "conv.out_proj"), ("ffn_gate", "feed_forward.w1"), ("ffn_up", "feed_forward.w3"), ("ffn_down", "feed_forward.w2")):
            if p + h + ".weight" in t: add(b + g + ".weight", t[p + h + ".weight"])
        if kind == "c": add(b + "shortconv.conv.weight", t[p + "conv.conv.weight"][:, 0], True)
        if i < c.lead: continue
        add(b + "ffn_gate_inp.weight", t[p + "feed_forward.gate.weight"], True); add(b + "exp_probs_b.bias", t[p + "feed_forward.expert_bias"])
        gu = t[p + "feed_forward.experts.gate_up_proj"]
        add(b + "ffn_gate_exps.weight", gu[:, :c.ff]); add(b + "ffn_up_exps.weight", gu[:, c.ff:]); add(b + "ffn_down_exps.weight", t[p + "feed_forward.experts.down_proj"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


if __name__ == "__main__":
    case.main(PRESETS, peer, write_gguf, __doc__, fill=fill)
