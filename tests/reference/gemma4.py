"""Reference cases for the `gemma4` architecture: random weights, transformers float32 as the reference.

  gemma4.py odd|dense|quant OUT --seed 1 [--peers hf,llama] [--quants Q4_K_M]
  gemma4.py big OUT.gguf --set layers=6     layers of the sizes of Gemma 4 26B-A4B, for speed and for the sizes (30 layers: 15 GB)

What sets Gemma 4 apart, and what these cases are made to show:
  - layers of two kinds: some see a window, with heads of one size on some key heads, and turn by one base; the others see everything, with heads of
    another size on other key heads, another base, and a rotation of their first pairs only (`rope_freqs`); scores are not divided by anything
  - values are normalised without weights; where layers that see everything have no map to values, values are the raw keys
  - norms after attention and after the feed-forward, a factor per layer, embeddings times sqrt(hidden), logits bent by a tanh
  - a dense feed-forward in every layer, and beside it routed experts with norms of their own; the router reads the residual, normalised without weights
    and weighed by a vector and 1 / sqrt(hidden); a factor per expert

Output files are those of make_fixtures.py (ref.npz, quant-X.npz, report.json).
"""
from __future__ import annotations
import dataclasses, pathlib, zlib
import numpy as np
import case

# The bones of the real template: roles in turns.
TEMPLATE = ("{{ bos_token }}{%- for message in messages %}{{- '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' "
            "+ message.content + '<turn|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|turn>model\\n' }}{%- endif %}")


@dataclasses.dataclass
class Cfg:
    vocab: int = 317
    hidden: int = 80
    layers: int = 4
    kinds: str = "SFSF"         # S: sees a window; F: sees everything. The last is an F.
    heads: int = 6
    kv_heads: int = 3           # of S
    global_kv: int = 2          # of F, if keys are values
    head_dim: int = 24          # of S: neither is hidden / heads
    global_dim: int = 40
    rotated: float = 0.25       # part of F's pairs that turn
    same: bool = True           # F has no map to values
    experts: int = 7            # 0: none
    topk: int = 3
    ff: int = 24
    dense_ff: int = 56
    window: int = 13
    theta: float = 230000.0
    theta_swa: float = 7000.0
    cap: float = 5.0
    ctx: int = 1800
    eps: float = 4e-3


PRESETS = {
    "odd": Cfg(),
    # 12B and 31B: no experts; where keys are no values there is one number of key heads.
    "dense": Cfg(vocab=311, hidden=64, layers=3, kinds="SSF", heads=4, kv_heads=2, global_kv=2, head_dim=32, global_dim=48, same=False, experts=0, dense_ff=72, window=9),
    # Rows of 256 into the experts, of 96 out of them: whole blocks of 32, as in the real models (2816 and 704).
    "quant": Cfg(vocab=320, hidden=256, layers=2, kinds="SF", heads=4, kv_heads=2, global_kv=1, head_dim=32, global_dim=64, experts=6, topk=3, ff=96, dense_ff=160,
                 window=20, eps=1e-6, cap=30.0),
}


def config(c: Cfg):
    from transformers import Gemma4TextConfig
    return Gemma4TextConfig(
        vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.dense_ff, num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim, global_head_dim=c.global_dim, num_global_key_value_heads=c.global_kv if c.same else None, attention_k_eq_v=c.same,
        layer_types=["sliding_attention" if k == "S" else "full_attention" for k in c.kinds], sliding_window=c.window, max_position_embeddings=c.ctx, rms_norm_eps=c.eps,
        rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": c.theta_swa},
                         "full_attention": {"rope_type": "proportional", "partial_rotary_factor": c.rotated, "rope_theta": c.theta}},
        final_logit_softcapping=c.cap, hidden_size_per_layer_input=0, enable_moe_block=c.experts > 0, num_experts=c.experts or None, top_k_experts=c.topk if c.experts else None,
        moe_intermediate_size=c.ff if c.experts else None, tie_word_embeddings=True)


def fill(model, seed):
    """Peaked routers, scores that count, factors that are no ones, logits that reach the cap; all exact in float16."""
    import torch
    g = torch.Generator().manual_seed(seed)
    rnd = lambda p: torch.randn(p.shape, generator=g)
    with torch.no_grad():
        for k, p in model.state_dict().items():
            if not p.dtype.is_floating_point or "inv_freq" in k or "embed_scale" in k: continue
            if k == "lm_head.weight": continue      # the embedding table
            if k.endswith("layer_scalar"): v = 0.5 + 0.5 * torch.rand(p.shape, generator=g)
            elif k.endswith("per_expert_scale"): v = 1.0 + 0.4 * rnd(p)
            elif k.endswith("router.scale"): v = 1.0 + 0.3 * rnd(p)
            elif k.endswith("router.proj.weight"): v = rnd(p) * 3.0
            elif k.endswith(("q_norm.weight", "k_norm.weight")): v = 0.6 + 0.1 * rnd(p)
            elif k.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")): v = 1.2 + 0.2 * rnd(p)
            # Of either sign, or the tied head would say every token again.
            elif k == "model.norm.weight": v = (1.0 + 0.15 * rnd(p)) * torch.sign(rnd(p))
            elif p.ndim >= 2: v = rnd(p) * (2.5 if "embed" in k else 1.3) * p.shape[-1] ** -0.5
            else: v = p + 0.15 * rnd(p)
            p.copy_(v.half().float())


def vocabulary(n: int):
    """Tokens, scores, types and merges of Gemma's kind: marks, bytes, characters, a few words."""
    import gguf
    T = gguf.TokenType
    toks = [("<pad>", T.CONTROL), ("<eos>", T.CONTROL), ("<bos>", T.CONTROL), ("<unk>", T.UNKNOWN), ("<|turn>", T.CONTROL), ("<turn|>", T.CONTROL)]
    toks += [(f"<0x{b:02X}>", T.BYTE) for b in range(256)]
    merges = ["t h", "th e", "\u2581 the", "i n", "a n", "an d", "\u2581 and", "o r", "e r", "\u2581 in"]
    toks += [(x, T.NORMAL) for x in "\u2581\netaoinsrhldcumfpgwybvk.,"] + [(m.replace(" ", ""), T.NORMAL) for m in merges]
    assert len(toks) <= n
    toks += [(f"<unused{i}>", T.NORMAL) for i in range(n - len(toks))]
    return [t for t, _ in toks], [-float(i) for i in range(n)], [t for _, t in toks], merges


def metadata(w, c: Cfg, name: str, ftype):
    """The keys of llama.cpp's converter."""
    import gguf
    a, n = "gemma4.", c.layers
    w.add_type(gguf.GGUFType.MODEL); w.add_name(name)
    w.add_block_count(n); w.add_context_length(c.ctx); w.add_embedding_length(c.hidden); w.add_feed_forward_length(c.dense_ff)
    w.add_head_count(c.heads); w.add_array(a + "attention.head_count_kv", [kv_of(c, k)[0] for k in c.kinds])
    w.add_uint32(a + "attention.key_length", c.global_dim); w.add_uint32(a + "attention.value_length", c.global_dim)
    w.add_uint32(a + "attention.key_length_swa", c.head_dim); w.add_uint32(a + "attention.value_length_swa", c.head_dim)
    w.add_uint32(a + "rope.dimension_count", c.global_dim); w.add_uint32(a + "rope.dimension_count_swa", c.head_dim)
    w.add_float32(a + "rope.freq_base", c.theta); w.add_float32(a + "rope.freq_base_swa", c.theta_swa)
    w.add_layer_norm_rms_eps(c.eps); w.add_sliding_window(c.window); w.add_array(a + "attention.sliding_window_pattern", [k == "S" for k in c.kinds])
    w.add_float32(a + "final_logit_softcapping", c.cap)
    w.add_uint32(a + "attention.shared_kv_layers", 0); w.add_uint32(a + "embedding_length_per_layer_input", 0)
    if c.experts: w.add_expert_count(c.experts); w.add_expert_used_count(c.topk); w.add_expert_feed_forward_length(c.ff)
    w.add_file_type(ftype); w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    toks, scores, types, merges = vocabulary(min(c.vocab, 1024))
    w.add_tokenizer_model("gemma4"); w.add_token_list(toks); w.add_token_scores(scores); w.add_token_types(types); w.add_token_merges(merges)
    w.add_bos_token_id(2); w.add_eos_token_id(5); w.add_unk_token_id(3); w.add_pad_token_id(0)
    w.add_add_bos_token(True); w.add_add_space_prefix(False); w.add_chat_template(TEMPLATE)


def kv_of(c: Cfg, kind: str):
    """Key heads and their size in a layer of this kind."""
    return (c.kv_heads, c.head_dim) if kind == "S" else (c.global_kv if c.same else c.kv_heads, c.global_dim)


def freqs(c: Cfg):
    """What divides the angles of the layers that see everything: pairs beyond the rotated ones stand still."""
    pairs, turned = c.global_dim // 2, int(c.rotated * c.global_dim // 2)
    return np.float32([1.0] * turned + [1e30] * (pairs - turned))


def write_gguf(path: pathlib.Path, c: Cfg, sd: dict, f16: bool):
    """The names and orders of llama.cpp's converter."""
    import gguf
    w = gguf.GGUFWriter(str(path), "gemma4")
    metadata(w, c, "synthetic-gemma4", gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32)
    t = {k: v.float().numpy() for k, v in sd.items()}

    def add(name, a, keep=False):
        w.add_tensor(name, np.ascontiguousarray(a, dtype=np.float16 if f16 and not keep and a.ndim > 1 else np.float32))
    add("token_embd.weight", t["model.embed_tokens.weight"]); add("rope_freqs.weight", freqs(c))
    for i in range(c.layers):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        for g, h in (("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm"), ("ffn_norm", "pre_feedforward_layernorm"),
                     ("post_ffw_norm", "post_feedforward_layernorm"), ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"),
                     ("attn_output", "self_attn.o_proj"), ("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm"), ("ffn_gate", "mlp.gate_proj"),
                     ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj"), ("post_ffw_norm_1", "post_feedforward_layernorm_1"),
                     ("post_ffw_norm_2", "post_feedforward_layernorm_2"), ("pre_ffw_norm_2", "pre_feedforward_layernorm_2")):
            if p + h + ".weight" in t: add(b + g + ".weight", t[p + h + ".weight"])
        add(b + "layer_output_scale.weight", t[p + "layer_scalar"])
        if not c.experts: continue
        add(b + "ffn_gate_inp.weight", t[p + "router.proj.weight"], True); add(b + "ffn_gate_inp.scale", t[p + "router.scale"])
        add(b + "ffn_gate_up_exps.weight", t[p + "experts.gate_up_proj"]); add(b + "ffn_down_exps.weight", t[p + "experts.down_proj"])
        add(b + "ffn_down_exps.scale", t[p + "router.per_expert_scale"])
    add("output_norm.weight", t["model.norm.weight"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


BIG = Cfg(vocab=262144, hidden=2816, layers=30, kinds="SSSSSF" * 5, heads=16, kv_heads=8, global_kv=2, head_dim=256, global_dim=512, experts=128, topk=8, ff=704,
          dense_ff=2112, window=1024, theta=1e6, theta_swa=1e4, cap=30.0, ctx=262144, eps=1e-6)


def big(path: pathlib.Path, c: Cfg, seed: int):
    """Random blocks, written as they come: experts' gate and up in Q4_0, down in Q5_0, other maps in Q8_0."""
    import gguf
    Q = gguf.GGMLQuantizationType
    c = dataclasses.replace(c, kinds=c.kinds[:c.layers])
    w = gguf.GGUFWriter(str(path), "gemma4"); metadata(w, dataclasses.replace(c, vocab=1024), f"gemma4-26b-{c.layers}L-synthetic", gguf.LlamaFileType.MOSTLY_Q4_0)
    H, plan = c.hidden, [("token_embd.weight", (c.vocab, c.hidden), Q.Q8_0, 1.0), ("rope_freqs.weight", (c.global_dim // 2,), Q.F32, 0.0)]
    for i, kind in enumerate(c.kinds):
        b, (kv, d) = f"blk.{i}.", kv_of(c, kind)
        maps = [("attn_q", c.heads * d, H), ("attn_k", kv * d, H), ("attn_output", H, c.heads * d), ("ffn_gate", c.dense_ff, H), ("ffn_up", c.dense_ff, H), ("ffn_down", H, c.dense_ff)]
        if kind == "S" or not c.same: maps.append(("attn_v", kv * d, H))
        plan += [(b + n + ".weight", (rows, cols), Q.Q8_0, 1.0) for n, rows, cols in maps]
        plan += [(b + "ffn_gate_inp.weight", (c.experts, H), Q.F32, 3.0 * H ** 0.5), (b + "ffn_gate_inp.scale", (H,), Q.F32, 0.0), (b + "ffn_down_exps.scale", (c.experts,), Q.F32, 0.0)]
        plan += [(b + "ffn_gate_up_exps.weight", (c.experts, 2 * c.ff, H), Q.Q4_0, 1.0), (b + "ffn_down_exps.weight", (c.experts, H, c.ff), Q.Q5_0, 1.0)]
        plan += [(b + n + ".weight", (d,), Q.F32, 0.0) for n in ("attn_q_norm", "attn_k_norm")] + [(b + "layer_output_scale.weight", (1,), Q.F32, 0.0)]
        plan += [(b + n + ".weight", (H,), Q.F32, 0.0) for n in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2")]
    plan.append(("output_norm.weight", (H,), Q.F32, 0.0))
    size = {Q.Q8_0: 34, Q.Q4_0: 18, Q.Q5_0: 22}
    for n, shape, ty, _ in plan:
        if ty == Q.F32: w.add_tensor_info(n, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
        else: w.add_tensor_info(n, (*shape[:-1], shape[-1] // 32 * size[ty]), np.dtype(np.uint8), int(np.prod(shape)) // 32 * size[ty], raw_dtype=ty)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_ti_data_to_file()
    for n, shape, ty, gain in plan:
        rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(n.encode())]))
        if n == "rope_freqs.weight": w.write_tensor_data(freqs(c)); continue
        if ty == Q.F32:
            small = 0.06 if n.endswith(("q_norm.weight", "k_norm.weight")) else 1.0     # scores are not divided by sqrt(head)
            w.write_tensor_data(np.full(shape, small, np.float32) if gain == 0 else np.float32(gain / np.sqrt(shape[-1])) * rng.standard_normal(shape, dtype=np.float32))
            continue
        blocks = np.frombuffer(rng.bytes(int(np.prod(shape)) // 32 * size[ty]), np.uint8).reshape(-1, size[ty]).copy()
        spread = {Q.Q8_0: 73.9, Q.Q4_0: 4.64, Q.Q5_0: 9.25}[ty]        # of the whole numbers in a block
        blocks[:, 0:2] = np.frombuffer(np.float16(gain / np.sqrt(shape[-1]) / spread).tobytes(), np.uint8)
        w.write_tensor_data(blocks.reshape(*shape[:-1], -1))
    w.close()


def peer(c: Cfg):
    import transformers
    return transformers.Gemma4ForCausalLM(config(c))


def ids(c: Cfg, seed: int, lens: list[int], out: pathlib.Path):
    """No marks among them, which come first here."""
    return case.random_ids(c, seed, lens, out, first=6)


if __name__ == "__main__":
    case.main(PRESETS, peer, write_gguf, __doc__, (BIG, big), fill, ids)
