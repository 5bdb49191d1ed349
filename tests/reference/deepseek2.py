"""Reference cases for the `deepseek2` architecture: random weights, transformers float32 as the reference.

  deepseek2.py glm|v3|v2|quant OUT --seed 1 [--peers hf,llama] [--quants Q4_K_M]
  deepseek2.py big OUT.gguf --set layers=4     layers of the sizes of GLM-4.7-Flash, for speed and for the sizes (47 layers: 18 GB)

Peers: Glm4MoeLite (glm, quant), DeepseekV3 (v3), DeepseekV2 (v2) of transformers.

What sets the family apart, and what these cases are made to show:
  - latent attention: keys and values of all heads are maps of one row per token, beside a part of the keys that turns, in neighbouring pairs, and that heads share;
    queries with a latent of their own (glm, v3) or without (v2); the size of a value head is not that of a key head; files with `attn_k_b` and `attn_v_b`, and (v2) with
    `attn_kv_b`, as they were before
  - scores of experts by sigmoids (v2: a softmax), a bias that counts for the choice alone, groups of experts (v3: the two best decide; v2: the best), weights divided by their sum (not v2) and
    multiplied by a factor
  - dense layers first, then experts and one that every token uses; YaRN in DeepSeek's form (v3, v2)

Transformers gives the norms of the latents an epsilon of 1e-6 whatever the model's is (GLM-4.7-Flash's is 1e-5); vLLM, SGLang and llama.cpp give them the model's. Here they have the model's.

Output files are those of make_fixtures.py (ref.npz, quant-X.npz, report.json).
"""
from __future__ import annotations
import dataclasses, pathlib, zlib
import numpy as np
import case


@dataclasses.dataclass
class Cfg:
    peer: str = "glm"           # glm, v3, v2
    vocab: int = 319
    hidden: int = 72
    layers: int = 3
    lead: int = 1
    heads: int = 5
    q_rank: int = 28            # 0: queries have no latent
    rank: int = 36
    plain: int = 20
    turned: int = 12
    value: int = 26
    experts: int = 7
    topk: int = 3
    shared: int = 1
    groups: int = 1
    topk_groups: int = 1
    ff: int = 24
    dense_ff: int = 56
    factor: float = 1.8         # on the weights of experts
    norm: bool = True
    theta: float = 23000.0
    yarn: float = 1.0
    mscale: float = 0.0
    original: int = 60
    ctx: int = 1800
    eps: float = 4e-3
    old: bool = False           # attn_kv_b in place of attn_k_b and attn_v_b


PRESETS = {
    "glm": Cfg(),
    "v3": Cfg(peer="v3", vocab=313, hidden=64, heads=3, q_rank=20, rank=24, plain=18, turned=10, value=14, experts=12, topk=4, shared=2, groups=4, topk_groups=2, ff=16, dense_ff=40, lead=2, layers=4,
              factor=2.5, theta=7000.0, yarn=7.0, mscale=1.0, eps=3e-4),
    "v2": Cfg(peer="v2", vocab=311, hidden=64, heads=4, q_rank=0, rank=28, plain=12, turned=16, value=18, experts=9, topk=3, shared=2, groups=3, topk_groups=2, ff=20, dense_ff=48,
              factor=1.3, norm=False, theta=7000.0, yarn=5.0, mscale=0.707, eps=3e-4, old=True),
    # Rows of 256 into the experts, of 96 out of them, of 64 and 96 per head.
    "quant": Cfg(vocab=320, hidden=256, layers=3, heads=4, q_rank=96, rank=128, plain=64, turned=32, value=96, experts=6, topk=2, ff=96, dense_ff=160, eps=1e-5, theta=1e6),
}


def peer(c: Cfg):
    import transformers as T
    rope = dict(rope_type="default", rope_theta=c.theta)
    if c.yarn > 1: rope = dict(rope_type="yarn", rope_theta=c.theta, factor=c.yarn, original_max_position_embeddings=c.original, beta_fast=32.0, beta_slow=1.0,
                               mscale=c.mscale, mscale_all_dim=c.mscale)
    all_of = dict(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.dense_ff, moe_intermediate_size=c.ff, num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.heads,
        n_shared_experts=c.shared, n_routed_experts=c.experts, routed_scaling_factor=c.factor, kv_lora_rank=c.rank, q_lora_rank=c.q_rank or None, qk_rope_head_dim=c.turned, v_head_dim=c.value,
        qk_nope_head_dim=c.plain, n_group=c.groups, topk_group=c.topk_groups, num_experts_per_tok=c.topk, norm_topk_prob=c.norm, max_position_embeddings=c.ctx, rms_norm_eps=c.eps,
        rope_parameters=rope, tie_word_embeddings=False)
    if c.peer == "v2":
        return T.DeepseekV2ForCausalLM(T.DeepseekV2Config(**all_of, first_k_dense_replace=c.lead, topk_method="group_limited_greedy" if c.groups > 1 else "greedy"))
    if c.peer == "v3": return T.DeepseekV3ForCausalLM(T.DeepseekV3Config(**all_of, first_k_dense_replace=c.lead))
    return T.Glm4MoeLiteForCausalLM(T.Glm4MoeLiteConfig(**all_of, mlp_layer_types=["dense"] * c.lead + ["sparse"] * (c.layers - c.lead)))


def metadata(w, c: Cfg, name: str, ftype):
    """The keys of llama.cpp's converter."""
    import gguf
    a = "deepseek2."
    w.add_type(gguf.GGUFType.MODEL); w.add_name(name)
    w.add_block_count(c.layers); w.add_context_length(c.ctx); w.add_embedding_length(c.hidden); w.add_feed_forward_length(c.dense_ff); w.add_head_count(c.heads)
    w.add_layer_norm_rms_eps(c.eps); w.add_rope_freq_base(c.theta); w.add_rope_dimension_count(c.turned); w.add_leading_dense_block_count(c.lead); w.add_vocab_size(c.vocab)
    if c.q_rank: w.add_q_lora_rank(c.q_rank)
    w.add_kv_lora_rank(c.rank)
    if c.old: w.add_head_count_kv(c.heads); w.add_key_length(c.plain + c.turned); w.add_value_length(c.value)
    else:
        w.add_head_count_kv(1); w.add_key_length(c.rank + c.turned); w.add_value_length(c.rank)
        w.add_uint32(a + "attention.key_length_mla", c.plain + c.turned); w.add_uint32(a + "attention.value_length_mla", c.value)
    w.add_expert_count(c.experts); w.add_expert_used_count(c.topk); w.add_expert_feed_forward_length(c.ff); w.add_expert_shared_count(c.shared)
    w.add_expert_weights_scale(c.factor); w.add_expert_weights_norm(c.norm)
    w.add_uint32(a + "expert_group_count", c.groups); w.add_uint32(a + "expert_group_used_count", c.topk_groups)
    if c.peer != "v2": w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)      # files of V2 say nothing
    if c.yarn > 1:
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN); w.add_rope_scaling_factor(c.yarn); w.add_rope_scaling_orig_ctx_len(c.original)
        w.add_float32(a + "rope.scaling.yarn_log_multiplier", 0.1 * c.mscale)
    w.add_file_type(ftype); w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    case.tokenizer(w, c.vocab)


def write_gguf(path: pathlib.Path, c: Cfg, sd: dict, f16: bool):
    """The names and orders of llama.cpp's converter."""
    import gguf
    w = gguf.GGUFWriter(str(path), "deepseek2")
    metadata(w, c, "synthetic-deepseek2", gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32)
    t = {k: v.float().numpy() for k, v in sd.items()}

    def add(name, a, keep=False):
        w.add_tensor(name, np.ascontiguousarray(a, dtype=np.float16 if f16 and not keep and a.ndim > 1 else np.float32))
    add("token_embd.weight", t["model.embed_tokens.weight"])
    for i in range(c.layers):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        for g, h in (("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"), ("attn_q", "self_attn.q_proj"), ("attn_q_a", "self_attn.q_a_proj"),
                     ("attn_q_a_norm", "self_attn.q_a_layernorm"), ("attn_q_b", "self_attn.q_b_proj"), ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
                     ("attn_kv_a_norm", "self_attn.kv_a_layernorm"), ("attn_output", "self_attn.o_proj"), ("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"),
                     ("ffn_down", "mlp.down_proj"), ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"), ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
                     ("ffn_down_shexp", "mlp.shared_experts.down_proj")):
            if p + h + ".weight" in t: add(b + g + ".weight", t[p + h + ".weight"])
        kv = t[p + "self_attn.kv_b_proj.weight"]
        if c.old: add(b + "attn_kv_b.weight", kv)
        else:
            kv = kv.reshape(c.heads, c.plain + c.value, c.rank)
            add(b + "attn_k_b.weight", kv[:, :c.plain].transpose(0, 2, 1)); add(b + "attn_v_b.weight", kv[:, c.plain:])
        if i < c.lead: continue
        add(b + "ffn_gate_inp.weight", t[p + "mlp.gate.weight"], True)
        if p + "mlp.gate.e_score_correction_bias" in t: add(b + "exp_probs_b.bias", t[p + "mlp.gate.e_score_correction_bias"])
        gu = t[p + "mlp.experts.gate_up_proj"]
        add(b + "ffn_gate_exps.weight", gu[:, :c.ff]); add(b + "ffn_up_exps.weight", gu[:, c.ff:]); add(b + "ffn_down_exps.weight", t[p + "mlp.experts.down_proj"])
    add("output_norm.weight", t["model.norm.weight"]); add("output.weight", t["lm_head.weight"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


BIG = Cfg(vocab=154880, hidden=2048, layers=47, lead=1, heads=20, q_rank=768, rank=512, plain=192, turned=64, value=256, experts=64, topk=4, ff=1536, dense_ff=10240, theta=1e6, ctx=202752,
          eps=1e-5)


def big(path: pathlib.Path, c: Cfg, seed: int):
    """Random blocks, written as they come: experts' gate and up in Q4_0, down in Q5_0, other maps in Q8_0."""
    import gguf
    Q = gguf.GGMLQuantizationType
    w = gguf.GGUFWriter(str(path), "deepseek2"); metadata(w, dataclasses.replace(c, vocab=1024), f"glm-4.7-flash-{c.layers}L-synthetic", gguf.LlamaFileType.MOSTLY_Q4_0)
    H, plan = c.hidden, [("token_embd.weight", (c.vocab, c.hidden), Q.Q8_0, 1.0)]
    for i in range(c.layers):
        b = f"blk.{i}."
        maps = [("attn_q_a", c.q_rank, H), ("attn_q_b", c.heads * (c.plain + c.turned), c.q_rank), ("attn_kv_a_mqa", c.rank + c.turned, H), ("attn_output", H, c.heads * c.value)]
        for n, ff in (("", c.dense_ff),) if i < c.lead else (("_shexp", c.shared * c.ff),):
            maps += [("ffn_gate" + n, ff, H), ("ffn_up" + n, ff, H), ("ffn_down" + n, H, ff)]
        plan += [(b + n + ".weight", (rows, cols), Q.Q8_0, 1.0) for n, rows, cols in maps]
        plan += [(b + "attn_k_b.weight", (c.heads, c.rank, c.plain), Q.Q8_0, 1.0), (b + "attn_v_b.weight", (c.heads, c.value, c.rank), Q.Q8_0, 1.0)]
        plan += [(b + n + ".weight", (k,), Q.F32, 0.0) for n, k in (("attn_norm", H), ("ffn_norm", H), ("attn_q_a_norm", c.q_rank), ("attn_kv_a_norm", c.rank))]
        if i < c.lead: continue
        plan += [(b + "ffn_gate_inp.weight", (c.experts, H), Q.F32, 2.0), (b + "exp_probs_b.bias", (c.experts,), Q.F32, 1.0)]
        plan += [(b + f"ffn_{n}_exps.weight", (c.experts, c.ff, H), Q.Q4_0, 1.0) for n in ("gate", "up")] + [(b + "ffn_down_exps.weight", (c.experts, H, c.ff), Q.Q5_0, 1.0)]
    plan += [("output_norm.weight", (H,), Q.F32, 0.0), ("output.weight", (c.vocab, H), Q.Q8_0, 1.0)]
    size = {Q.Q8_0: 34, Q.Q4_0: 18, Q.Q5_0: 22}
    for n, shape, ty, _ in plan:
        if ty == Q.F32: w.add_tensor_info(n, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
        else: w.add_tensor_info(n, (*shape[:-1], shape[-1] // 32 * size[ty]), np.dtype(np.uint8), int(np.prod(shape)) // 32 * size[ty], raw_dtype=ty)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_ti_data_to_file()
    for n, shape, ty, gain in plan:
        rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(n.encode())]))
        if ty == Q.F32:
            w.write_tensor_data(np.ones(shape, np.float32) if gain == 0 else np.float32(gain / np.sqrt(shape[-1])) * rng.standard_normal(shape, dtype=np.float32))
            continue
        blocks = np.frombuffer(rng.bytes(int(np.prod(shape)) // 32 * size[ty]), np.uint8).reshape(-1, size[ty]).copy()
        spread = {Q.Q8_0: 73.9, Q.Q4_0: 4.64, Q.Q5_0: 9.25}[ty]        # of the whole numbers in a block
        blocks[:, 0:2] = np.frombuffer(np.float16(gain / np.sqrt(shape[-1]) / spread).tobytes(), np.uint8)
        w.write_tensor_data(blocks.reshape(*shape[:-1], -1))
    w.close()


if __name__ == "__main__":
    case.main(PRESETS, peer, write_gguf, __doc__, (BIG, big))
