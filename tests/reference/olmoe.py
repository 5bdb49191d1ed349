"""Reference cases for the `olmoe` architecture: random weights, transformers float32 as the reference.

  olmoe.py strict OUT --seed 1 [--peers np,hf,llama] [--quants Q8_0,Q4_K_M]

What sets OLMoE apart from Qwen3-MoE, and what these cases are made to show:
  - q and k are normalised over their WHOLE projected width, before they are cut into heads
  - the weights of the chosen experts are NOT renormalised to sum to one
  - the pre-tokenizer is GPT-2's (`tokenizer.ggml.pre` = "olmo"), heads have hidden / heads dims

llama.cpp's loader wants as many key heads as query heads and a head of its own, so only cases of that shape
(`strict`, `quant`) are checked against it; `odd` is checked by transformers and the float64 oracle.
Output files are those of make_fixtures.py (ref.npz, quant-X.npz, report.json, prompts.json).
"""
from __future__ import annotations
import argparse, dataclasses, json, pathlib, time, zlib
import numpy as np
import moegen, tok
from make_fixtures import LENS, TEXTS, agreement, gap, prompts, quant_case
from np_ref import Model

SPECIALS = ["<|endoftext|>", "<|padding|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = ("{{ bos_token }}{% for message in messages %}"
            "{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
            "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")


@dataclasses.dataclass
class Cfg:
    vocab: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    experts: int = 16
    topk: int = 4
    ff: int = 64
    rope_theta: float = 10000.0
    eps: float = 1e-5
    tie: bool = False
    router_std: float = 2.0     # low enough that the chosen experts' shares sum to well under one
    branch: float = 0.7         # gain of what blocks add to the residual stream
    head_std: float = 2.5
    ctx: int = 4096

    @property
    def head_dim(self): return self.hidden // self.heads


PRESETS = {
    "strict": Cfg(),
    "odd": Cfg(vocab=1019, hidden=96, layers=3, heads=6, kv_heads=3, experts=11, topk=3, ff=48, rope_theta=23000.0, eps=3e-4, tie=True, branch=0.5),
    "quant": Cfg(hidden=256, layers=2, heads=4, kv_heads=4, experts=8, topk=3, ff=256, router_std=3.0, branch=0.4),
}


def weights(c: Cfg, seed: int) -> dict[str, np.ndarray]:
    """Float32 tensors by their transformers names, every value exact in float16; one stream per (seed, name)."""
    t = {}

    def rng(name): return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))

    def put(name, a): t[name] = a.astype(np.float16).astype(np.float32)

    def lin(name, rows, cols, gain=1.0): put(name, rng(name).standard_normal((rows, cols)) * gain / np.sqrt(cols))

    def norm(name, n, centre=1.0): put(name, centre + 0.15 * rng(name).standard_normal(n))

    H, kv = c.hidden, c.kv_heads * c.head_dim
    lin("model.embed_tokens.weight", c.vocab, H, 0.7 * np.sqrt(H))
    for i in range(c.layers):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm.weight", H); norm(p + "post_attention_layernorm.weight", H)
        a = p + "self_attn."
        lin(a + "q_proj.weight", H, H); lin(a + "k_proj.weight", kv, H); lin(a + "v_proj.weight", kv, H)
        lin(a + "o_proj.weight", H, H, c.branch)
        norm(a + "q_norm.weight", H, 1.6); norm(a + "k_norm.weight", kv, 1.6)
        lin(p + "mlp.gate.weight", c.experts, H, c.router_std)
        for e in range(c.experts):
            x = p + f"mlp.experts.{e}."
            lin(x + "gate_proj.weight", c.ff, H); lin(x + "up_proj.weight", c.ff, H); lin(x + "down_proj.weight", H, c.ff, 2.5 * c.branch)
    norm("model.norm.weight", H)
    if not c.tie: lin("lm_head.weight", c.vocab, H, c.head_std)
    return t


def tokenizer(vocab: int):
    """Byte-level BPE with GPT-2's pre-tokenizer, trained on the same text as the other cases."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    tk = Tokenizer(models.BPE(byte_fallback=False))
    tk.normalizer = normalizers.NFC()
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tk.decoder = decoders.ByteLevel()
    tk.train_from_iterator(tok.corpus(), trainers.BpeTrainer(vocab_size=vocab - len(SPECIALS), show_progress=False,
                                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    for s in SPECIALS: tk.add_tokens([AddedToken(s, special=True, normalized=False)])
    return tk


def write_hf(d: pathlib.Path, c: Cfg, t: dict, tk):
    from safetensors.numpy import save_file
    d.mkdir(parents=True, exist_ok=True)
    save_file(t, str(d / "model.safetensors"), metadata={"format": "pt"})
    tk.save(str(d / "tokenizer.json"))
    (d / "config.json").write_text(json.dumps(dict(
        architectures=["OlmoeForCausalLM"], model_type="olmoe", vocab_size=c.vocab, hidden_size=c.hidden, intermediate_size=c.ff,
        num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, hidden_act="silu",
        max_position_embeddings=c.ctx, rms_norm_eps=c.eps, rope_theta=c.rope_theta, attention_bias=False, clip_qkv=None,
        num_experts=c.experts, num_experts_per_tok=c.topk, norm_topk_prob=False, tie_word_embeddings=c.tie, torch_dtype="float32",
        bos_token_id=None, eos_token_id=tk.token_to_id(SPECIALS[0]), pad_token_id=tk.token_to_id(SPECIALS[1])), indent=1))


def write_gguf(path: pathlib.Path, c: Cfg, t: dict, tk, f16: bool):
    import gguf
    w = gguf.GGUFWriter(str(path), "olmoe")
    w.add_type(gguf.GGUFType.MODEL); w.add_name("synthetic-olmoe")
    w.add_block_count(c.layers); w.add_context_length(c.ctx); w.add_embedding_length(c.hidden); w.add_feed_forward_length(c.ff)
    w.add_head_count(c.heads); w.add_head_count_kv(c.kv_heads); w.add_layer_norm_rms_eps(c.eps); w.add_rope_freq_base(c.rope_theta)
    w.add_expert_count(c.experts); w.add_expert_used_count(c.topk)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32); w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("olmo")
    toks, types, merges = tok.gguf_vocab(json.loads(tk.to_str()), c.vocab)
    w.add_token_list(toks); w.add_token_types(types); w.add_token_merges(merges)
    end, pad = tk.token_to_id(SPECIALS[0]), tk.token_to_id(SPECIALS[1])
    w.add_bos_token_id(end); w.add_eos_token_id(end); w.add_pad_token_id(pad)
    w.add_add_bos_token(False); w.add_chat_template(TEMPLATE)

    def add(name, a, keep=False): w.add_tensor(name, np.ascontiguousarray(a if keep or a.ndim == 1 or not f16 else a.astype(np.float16)))
    add("token_embd.weight", t["model.embed_tokens.weight"])
    for i in range(c.layers):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        for g, h in (("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"), ("attn_q", "self_attn.q_proj"),
                     ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj"), ("attn_output", "self_attn.o_proj"),
                     ("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")):
            add(b + g + ".weight", t[p + h + ".weight"])
        add(b + "ffn_gate_inp.weight", t[p + "mlp.gate.weight"], True)
        for n in ("gate", "up", "down"):
            add(b + f"ffn_{n}_exps.weight", np.stack([t[p + f"mlp.experts.{e}.{n}_proj.weight"] for e in range(c.experts)]))
    add("output_norm.weight", t["model.norm.weight"])
    if not c.tie: add("output.weight", t["lm_head.weight"])
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("preset", choices=PRESETS); ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--seed", type=int, default=1); ap.add_argument("--peers", default="np,hf,llama")
    ap.add_argument("--quants", default=""); ap.add_argument("--greedy", type=int, default=48)
    ap.add_argument("--lens", default=",".join(map(str, LENS)), help="prompt lengths, at most five")
    ap.add_argument("--every", type=int, default=16, help="quant-X.npz stores logits at every N-th position and the last")
    ap.add_argument("--keep", default="F16", help="which of F16,F32,HF weights stay in OUT")
    ap.add_argument("--set", nargs="*", default=[])
    a = ap.parse_args()
    c = PRESETS[a.preset]
    c = dataclasses.replace(c, **{k: type(getattr(c, k))(float(v)) for k, v in (s.split("=") for s in a.set)})
    peers, keep, lens = a.peers.split(","), a.keep.split(","), [int(n) for n in a.lens.split(",")]
    t0 = time.time()
    a.out.mkdir(parents=True, exist_ok=True)
    tk, t = tokenizer(c.vocab), weights(c, a.seed)
    write_hf(a.out / "hf", c, t, tk)
    for f16 in (True, False): write_gguf(a.out / f"model-{'F16' if f16 else 'F32'}.gguf", c, t, tk, f16)
    P = prompts(tk, c.vocab, a.seed, lens)
    (a.out / "prompts.json").write_text(json.dumps(dict(prompts=P, greedy=a.greedy,
        tokenize=[dict(text=x, ids=tk.encode(x).ids) for x in TEXTS if x]), ensure_ascii=False))

    m = Model(str(a.out / "model-F32.gguf")); rep: dict = dict(arch="olmoe", preset=a.preset, seed=a.seed, peers={}, quants={})
    ref, base = {}, []
    for i, p in enumerate(P):
        g, gg = m.greedy(p, a.greedy)
        m.reset(); l = m.forward(p); R, mg = m.trace(); base.append((l, R, g))
        ref |= {f"ids{i}": np.int32(p), f"logits{i}": l.astype(np.float32), f"routes{i}": R, f"margin{i}": mg.astype(np.float32), f"gap{i}": gap(l),
                f"greedy{i}": np.int32(g), f"greedygap{i}": gg.astype(np.float32)}
    rep["logit_std"] = float(np.mean([b[0].std() for b in base])); rep["min_greedy_gap"] = float(min(ref[f"greedygap{i}"].min() for i in range(len(P))))
    rep["min_route_margin"] = float(min(ref[f"margin{i}"].min() for i in range(len(P))))

    def against(name, fwd, greedy):
        ls = [fwd(p) for p in P]; gs = [greedy(p, a.greedy) for p in P]
        rep["peers"][name] = agreement(ls, gs, base, a.greedy)
        return ls, gs

    if "hf" in peers:      # transformers' numbers become the reference; the oracle's stay for routes' margins and gaps
        from peer_hf import HF
        h = HF(str(a.out / "hf")); routes = []

        def fwd(p):
            l, r, _ = h.forward(p); routes.append(r); return l
        ls, gs = against("hf-f32", fwd, h.greedy)
        rep["hf_route_agree"] = [float((np.sort(r, -1) == np.sort(b[1], -1)).mean()) for r, b in zip(routes, base)]
        for i in range(len(P)): ref |= {f"logits{i}": ls[i].astype(np.float32), f"routes{i}": routes[i].astype(np.int16), f"greedy{i}": np.int32(gs[i])}
    if "llama" in peers:
        from peer_llama import Llama
        for f in ("F32", "F16"):
            L = Llama(a.out / f"model-{f}.gguf"); against("llama-" + f, L.forward, L.greedy); L.close()
        for q in [q for q in a.quants.split(",") if q]:
            rep["quants"][q] = quant_case(a.out, q, P, [(l, r) for l, r, _ in base], a.greedy, a.every)
    np.savez_compressed(a.out / "ref.npz", **ref)
    for f in ("F16", "F32"):
        if f not in keep: (a.out / f"model-{f}.gguf").unlink()
    if "HF" not in keep: (a.out / "hf" / "model.safetensors").unlink()
    rep["seconds"] = round(time.time() - t0, 1)
    (a.out / "report.json").write_text(json.dumps(rep, indent=1)); print(json.dumps(rep, indent=1))


if __name__ == "__main__":
    main()
