"""Reference cases for the `gpt-oss` architecture: random weights, transformers float32 as the reference.

  gpt_oss.py odd OUT --seed 1 [--peers np,hf,llama] [--quants MXFP4]
  gpt_oss.py big OUT.gguf --set layers=6     the layers of gpt-oss-20b in the types in which it is published, for speed (24 layers: 12 GB)

What sets gpt-oss apart, and what these cases are made to show:
  - every map has a bias: queries, keys, values, output, router, and gate, up and down of every expert
  - a learned sink per head takes part in the softmax of attention; every second layer, the first one included, sees a window
  - the activation clamps: gate above, up on both sides; up counts one more
  - YaRN from the first token on, with a ramp whose ends are not rounded to whole dimensions; cosine and sine grow by 1 + 0.1 ln(factor)
  - the router's softmax runs over the chosen scores

llama.cpp rounds the ends of the ramp, so its logits differ on these files. That this is all they differ by is shown beside it:
`llama-F32` against the oracle with the same rounding. Output files are those of make_fixtures.py (ref.npz, quant-X.npz, report.json).
"""
from __future__ import annotations
import dataclasses, functools, json, pathlib, zlib
import numpy as np
import case, tok
from make_fixtures import prompts

SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>"]
# The bones of the real template: roles, channels, and no reasoning of earlier turns.
TEMPLATE = ("{%- for message in messages %}{{- '<|start|>' + message.role }}"
            "{%- if message.role == 'assistant' %}{{- '<|channel|>final' }}{%- endif %}"
            "{{- '<|message|>' + message.content + '<|end|>' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}")


@dataclasses.dataclass
class Cfg:
    vocab: int = 331
    hidden: int = 80
    layers: int = 3
    heads: int = 6
    kv_heads: int = 3
    head_dim: int = 32          # not hidden / heads
    experts: int = 7
    topk: int = 3
    ff: int = 48
    window: int = 13
    rope_theta: float = 23000.0
    factor: float = 6.0
    original: int = 300         # the ramp's ends lie between dimensions
    ctx: int = 1800
    eps: float = 3e-4
    tie: bool = False


PRESETS = {
    "odd": Cfg(),
    # Rows of 32-value blocks that are no rows of 256, as in the real models (2880). The ramp begins and ends at whole dimensions, so that llama.cpp's
    # rounding changes nothing and its error is a yardstick.
    "quant": Cfg(vocab=320, hidden=96, layers=2, heads=4, kv_heads=2, experts=6, topk=3, ff=160, window=20, eps=1e-5, rope_theta=1604.0, factor=4.0, original=100),
}


def config(c: Cfg):
    from transformers import GptOssConfig
    return GptOssConfig(vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.ff, num_hidden_layers=c.layers, num_attention_heads=c.heads,
                        num_key_value_heads=c.kv_heads, head_dim=c.head_dim, num_local_experts=c.experts, num_experts_per_tok=c.topk, sliding_window=c.window,
                        layer_types=["full_attention" if i % 2 else "sliding_attention" for i in range(c.layers)], max_position_embeddings=c.ctx,
                        rms_norm_eps=c.eps, tie_word_embeddings=c.tie, attention_bias=True,
                        rope_parameters=dict(rope_type="yarn", rope_theta=c.rope_theta, factor=c.factor, original_max_position_embeddings=c.original,
                                             beta_fast=32.0, beta_slow=1.0, truncate=False))


def fill(model, seed):
    """Unit gain, peaked routers, biases and sinks that count, activations that reach their bounds; all exact in float16."""
    import torch
    g = torch.Generator().manual_seed(seed)
    rnd = lambda p: torch.randn(p.shape, generator=g)
    with torch.no_grad():
        for k, p in model.state_dict().items():
            if not p.dtype.is_floating_point or "inv_freq" in k: continue
            if k.endswith("sinks"): v = rnd(p) + 1.0
            elif k.endswith("router.bias"): v = rnd(p) * 0.5
            elif "bias" in k: v = rnd(p) * 0.3
            elif k.endswith("gate_up_proj"): v = rnd(p) * 3.0 * p.shape[-2] ** -0.5     # [experts, in, out]: some beyond 7
            elif k.endswith("down_proj"): v = rnd(p) * 0.3 * p.shape[-2] ** -0.5
            elif p.ndim >= 2:
                gain = 0.7 * p.shape[-1] ** 0.5 if "embed" in k else 2.5 if "lm_head" in k else 3.0 if k.endswith("router.weight") else \
                    1.5 if k.endswith(("q_proj.weight", "k_proj.weight")) else 0.7 if k.endswith("o_proj.weight") else 1.0
                v = rnd(p) * gain * p.shape[-1] ** -0.5
            else: v = p + 0.15 * rnd(p)
            p.copy_(v.half().float())


@functools.cache
def tokenizer(vocab: int):
    """Byte-level BPE with the o200k pre-tokenizer, trained on the same text as the other cases."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tk = Tokenizer(models.BPE(byte_fallback=False))
    tk.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(tok.PRE["gpt-4o"]), behavior="isolated", invert=False),
                                                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tk.decoder = decoders.ByteLevel()
    tk.train_from_iterator(tok.corpus(), trainers.BpeTrainer(vocab_size=vocab - len(SPECIALS), show_progress=False,
                                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    for s in SPECIALS: tk.add_tokens([AddedToken(s, special=True, normalized=False)])
    return tk


def metadata(w, c: Cfg, tk, name: str, ftype):
    """The keys of llama.cpp's converter."""
    import gguf
    w.add_type(gguf.GGUFType.MODEL); w.add_name(name)
    w.add_block_count(c.layers); w.add_context_length(c.ctx); w.add_embedding_length(c.hidden); w.add_feed_forward_length(c.ff)
    w.add_head_count(c.heads); w.add_head_count_kv(c.kv_heads); w.add_key_length(c.head_dim); w.add_value_length(c.head_dim)
    w.add_layer_norm_rms_eps(c.eps); w.add_rope_freq_base(c.rope_theta); w.add_sliding_window(c.window)
    w.add_expert_count(c.experts); w.add_expert_used_count(c.topk); w.add_expert_feed_forward_length(c.ff)
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN); w.add_rope_scaling_factor(c.factor); w.add_rope_scaling_orig_ctx_len(c.original)
    w.add_file_type(ftype); w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("gpt-4o")
    toks, types, merges = tok.gguf_vocab(json.loads(tk.to_str()), c.vocab)
    w.add_token_list(toks); w.add_token_types(types); w.add_token_merges(merges)
    w.add_bos_token_id(tk.token_to_id("<|startoftext|>")); w.add_eos_token_id(tk.token_to_id("<|return|>"))
    w.add_pad_token_id(tk.token_to_id("<|endoftext|>")); w.add_add_bos_token(False); w.add_chat_template(TEMPLATE)


def write_gguf(path: pathlib.Path, c: Cfg, sd: dict, f16: bool):
    """The names and orders of llama.cpp's converter."""
    import gguf
    w = gguf.GGUFWriter(str(path), "gpt-oss")
    metadata(w, c, tokenizer(c.vocab), "synthetic-gpt-oss", gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32)
    t = {k: v.float().numpy() for k, v in sd.items()}

    def add(name, a, keep=False):
        w.add_tensor(name, np.ascontiguousarray(a, dtype=np.float16 if f16 and not keep and a.ndim > 1 else np.float32))
    add("token_embd.weight", t["model.embed_tokens.weight"])
    for i in range(c.layers):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        add(b + "attn_norm.weight", t[p + "input_layernorm.weight"]); add(b + "post_attention_norm.weight", t[p + "post_attention_layernorm.weight"])
        for g, h in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj"), ("attn_output", "o_proj")):
            add(b + g + ".weight", t[p + f"self_attn.{h}.weight"]); add(b + g + ".bias", t[p + f"self_attn.{h}.bias"])
        add(b + "attn_sinks.weight", t[p + "self_attn.sinks"])
        m = p + "mlp."
        add(b + "ffn_gate_inp.weight", t[m + "router.weight"], True); add(b + "ffn_gate_inp.bias", t[m + "router.bias"])
        # transformers: [experts, in, out], gate and up by turns
        both, bias = t[m + "experts.gate_up_proj"].swapaxes(1, 2), t[m + "experts.gate_up_proj_bias"]
        for n, part, extra in (("gate", both[:, ::2], bias[:, ::2]), ("up", both[:, 1::2], bias[:, 1::2]),
                               ("down", t[m + "experts.down_proj"].swapaxes(1, 2), t[m + "experts.down_proj_bias"])):
            add(b + f"ffn_{n}_exps.weight", part); add(b + f"ffn_{n}_exps.bias", extra, True)
    add("output_norm.weight", t["model.norm.weight"])
    if not c.tie: add("output.weight", t["lm_head.weight"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


BIG = Cfg(vocab=201088, hidden=2880, layers=24, heads=64, kv_heads=8, head_dim=64, experts=32, topk=4, ff=2880, window=128, rope_theta=150000.0, factor=32.0,
          original=4096, ctx=131072, eps=1e-5)


def big(path: pathlib.Path, c: Cfg, seed: int):
    """Random blocks, written as they come: experts in MXFP4, other maps in Q8_0."""
    import gguf
    Q = gguf.GGMLQuantizationType
    w = gguf.GGUFWriter(str(path), "gpt-oss"); metadata(w, c, tokenizer(1024), f"gpt-oss-20b-{c.layers}L-synthetic", gguf.LlamaFileType.MOSTLY_MXFP4_MOE)
    H, q, kv, plan = c.hidden, c.heads * c.head_dim, c.kv_heads * c.head_dim, []
    for name, shape in [("token_embd", (c.vocab, H)), ("output", (c.vocab, H))]: plan.append((name + ".weight", shape, Q.Q8_0, 1.0))
    for i in range(c.layers):
        b = f"blk.{i}."
        for n, rows, cols in (("attn_q", q, H), ("attn_k", kv, H), ("attn_v", kv, H), ("attn_output", H, q)):
            plan += [(b + n + ".weight", (rows, cols), Q.Q8_0, 1.0), (b + n + ".bias", (rows,), Q.F32, 0.1)]
        plan += [(b + "ffn_gate_inp.weight", (c.experts, H), Q.F32, 3.0), (b + "ffn_gate_inp.bias", (c.experts,), Q.F32, 0.3), (b + "attn_sinks.weight", (c.heads,), Q.F32, 1.0)]
        for n, rows, cols in (("gate", c.ff, H), ("up", c.ff, H), ("down", H, c.ff)):
            plan += [(b + f"ffn_{n}_exps.weight", (c.experts, rows, cols), Q.MXFP4, 1.0), (b + f"ffn_{n}_exps.bias", (c.experts, rows), Q.F32, 0.1)]
        plan += [(b + n + ".weight", (H,), Q.F32, 0.0) for n in ("attn_norm", "post_attention_norm")]
    plan.append(("output_norm.weight", (H,), Q.F32, 0.0))
    size = {Q.Q8_0: 34, Q.MXFP4: 17}
    for n, shape, ty, _ in plan:
        if ty == Q.F32: w.add_tensor_info(n, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
        else: w.add_tensor_info(n, (*shape[:-1], shape[-1] // 32 * size[ty]), np.dtype(np.uint8), int(np.prod(shape)) // 32 * size[ty], raw_dtype=ty)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_ti_data_to_file()
    for n, shape, ty, gain in plan:
        rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(n.encode())]))
        if ty == Q.F32:
            std = gain / np.sqrt(shape[-1]) if n.endswith("inp.weight") else gain
            w.write_tensor_data(((1.0 if "norm" in n else 0.0) + std * rng.standard_normal(shape, dtype=np.float32)).astype(np.float32)); continue
        blocks = np.frombuffer(rng.bytes(int(np.prod(shape)) // 32 * size[ty]), np.uint8).reshape(-1, size[ty]).copy()
        std = gain / np.sqrt(shape[-1])
        if ty == Q.Q8_0: blocks[:, 0:2] = np.frombuffer(np.float16(std / 73.9).tobytes(), np.uint8)
        else: blocks[:, 0] = 127 + round(float(np.log2(std / 2.93)))      # 2.93: of the sixteen values
        w.write_tensor_data(blocks.reshape(*shape[:-1], -1))
    w.close()


def peer(c: Cfg):
    import transformers
    return transformers.GptOssForCausalLM(config(c))


def ids(c: Cfg, seed: int, lens: list[int], out: pathlib.Path):
    """English, code, random ids."""
    P = prompts(tokenizer(c.vocab), c.vocab, seed, lens)
    (out / "prompts.json").write_text(json.dumps(dict(prompts=P), ensure_ascii=False))
    return P


def rounded(c: Cfg, m):
    m.yarn(c.factor, c.original, whole=True)
    return "a rounded ramp"


if __name__ == "__main__":
    case.main(PRESETS, peer, write_gguf, __doc__, (BIG, big), fill, ids, rounded)
