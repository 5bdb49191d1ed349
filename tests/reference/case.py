"""What the reference cases of single architectures share: weights, vocabulary, peers, and the run that compares them and writes the archive.

gpt_oss.py, gemma4.py, deepseek2.py, glm4moe.py, attending.py and lfm2moe.py have the shapes, transformers' model and the GGUF file of theirs. Output files are those of make_fixtures.py (ref.npz, quant-X.npz, report.json).
"""
from __future__ import annotations
import argparse, dataclasses, json, pathlib, time
import numpy as np
from make_fixtures import agreement, gap, quant_case
from np_ref import Model


@dataclasses.dataclass
class Words:
    """How a family's text is cut, its marks, of which the first ends a turn, and its template."""
    pre: str
    marks: list[str]
    template: str


GLM = Words("glm4", ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
            "[gMASK]<sop>{%- for message in messages %}{{- '<|' + message.role + '|>' + message.content }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}")
CHATML = Words("qwen2", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"],
               "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}"
               "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}")


def same_eps(model, eps):
    for m in model.modules():
        if hasattr(m, "variance_epsilon"): m.variance_epsilon = eps


def fill(model, seed):
    """Peaked routers, a bias that changes every other choice, scores of attention that count; all exact in float16."""
    import torch
    g = torch.Generator().manual_seed(seed)
    rnd = lambda p: torch.randn(p.shape, generator=g)
    with torch.no_grad():
        for k, p in model.state_dict().items():
            if not p.dtype.is_floating_point or "inv_freq" in k or ".visual." in k: continue
            if k.endswith("mlp.gate.weight"): v = rnd(p) * 2.0 * p.shape[-1] ** -0.5
            elif k.endswith("e_score_correction_bias"): v = 0.3 * rnd(p)
            elif k.endswith(("q_b_proj.weight", "q_proj.weight", "kv_a_proj_with_mqa.weight")): v = rnd(p) * 1.8 * p.shape[-1] ** -0.5
            elif k.endswith("model.norm.weight"): v = 1.0 + 0.15 * rnd(p)
            elif p.ndim >= 2: v = rnd(p) * (1.0 if "embed" in k else 2.5 if "lm_head" in k else 1.3) * p.shape[-1] ** -0.5
            else: v = p + 0.15 * rnd(p)
            if "embed" in k: v = rnd(p)
            p.copy_(v.half().float())


def vocabulary(n: int, marks: list[str]):
    """Tokens and merges: bytes, a few words, marks."""
    import gguf
    T = gguf.TokenType
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    toks = [(ch, T.NORMAL) for ch in (chr(b if b in plain else 256 + other.index(b)) for b in range(256))]
    merges = ["t h", "th e", "\u0120 the", "i n", "a n", "an d"]
    toks += [(m.replace(" ", ""), T.NORMAL) for m in merges]
    assert len(toks) + len(marks) <= n
    toks += [(f"<unused{i}>", T.UNUSED) for i in range(n - len(toks) - len(marks))]
    toks += [(m, T.CONTROL) for m in marks]
    return [t for t, _ in toks], [t for _, t in toks], merges


def tokenizer(w, n: int, words: Words = GLM):
    n = min(n, 1024)
    toks, types, merges = vocabulary(n, words.marks)
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre(words.pre); w.add_token_list(toks); w.add_token_types(types); w.add_token_merges(merges)
    w.add_eos_token_id(n - len(words.marks)); w.add_add_bos_token(False); w.add_chat_template(words.template)


def random_ids(c, seed: int, lens: list[int], out: pathlib.Path, first: int = 0):
    """A prompt of each length."""
    rng = np.random.default_rng(seed)
    return [rng.integers(first, c.vocab - 16, n).tolist() for n in lens]


def main(presets, peer, write_gguf, doc, huge=None, fill=fill, ids=random_ids, otherwise=None):
    """`peer(c)`: transformers' model of a shape. `huge`: a shape for the preset `big`, and what writes its file. `ids` gives the prompts.
    `otherwise(c, oracle)` makes of the oracle what llama.cpp computes where it parts from the authors, and says what that is, if it does."""
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("preset", choices=[*presets, *(["big"] if huge else [])]); ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--seed", type=int, default=1); ap.add_argument("--peers", default="hf,llama")
    ap.add_argument("--quants", default=""); ap.add_argument("--greedy", type=int, default=48)
    ap.add_argument("--lens", default="5,17,70", help="prompt lengths")
    ap.add_argument("--every", type=int, default=16, help="quant-X.npz stores logits at every N-th position and the last")
    ap.add_argument("--set", nargs="*", default=[])
    a = ap.parse_args()
    c = presets[a.preset] if a.preset in presets else huge[0]
    kind = lambda k: (lambda v: v) if isinstance(getattr(c, k), str) else (lambda v: type(getattr(c, k))(float(v)))
    c = dataclasses.replace(c, **{k: kind(k)(v) for k, v in (s.split("=") for s in a.set)})
    if a.preset == "big": return huge[1](a.out, c, a.seed)
    import torch, transformers
    from peer_hf import HF
    peers, lens, t0 = a.peers.split(","), [int(n) for n in a.lens.split(",")], time.time()
    a.out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    model = peer(c).eval(); fill(model, a.seed)
    for f16 in (True, False): write_gguf(a.out / f"model-{'F16' if f16 else 'F32'}.gguf", c, model.state_dict(), f16)
    P = ids(c, a.seed, lens, a.out)

    m = Model(str(a.out / "model-F32.gguf")); rep: dict = dict(arch=m.arch, preset=a.preset, seed=a.seed, peers={}, quants={})
    ref, base = {}, []
    for i, p in enumerate(P):
        g, gg = m.greedy(p, a.greedy)
        m.reset(); l = m.forward(p); R, mg = m.trace() if c.experts else (None, None); base.append((l, R, g))
        ref |= {f"ids{i}": np.int32(p), f"logits{i}": l.astype(np.float32), f"gap{i}": gap(l), f"greedy{i}": np.int32(g), f"greedygap{i}": gg.astype(np.float32)}
        if c.experts: ref |= {f"routes{i}": R, f"margin{i}": mg.astype(np.float32)}
    rep["logit_std"] = float(np.mean([b[0].std() for b in base])); rep["min_greedy_gap"] = float(min(ref[f"greedygap{i}"].min() for i in range(len(P))))
    rep["greedy_kinds"] = [len(set(b[2])) for b in base]
    if c.experts: rep["min_route_margin"] = float(min(ref[f"margin{i}"].min() for i in range(len(P))))
    if m.cap: rep["beyond_half_the_cap"] = float(np.mean([(np.abs(b[0]) > m.cap / 2).mean() for b in base]))

    def against(name, fwd, greedy, to):
        ls = [fwd(p)[:, :c.vocab] for p in P]; gs = [greedy(p, a.greedy) for p in P]
        rep["peers"][name] = agreement(ls, gs, to, a.greedy)
        return ls, gs

    if "hf" in peers:      # transformers' numbers become the reference; the oracle's stay for routes' margins and gaps
        h = HF(model); same_eps(model, c.eps); routes = []

        def fwd(p):
            l, r, _ = h.forward(p); routes.append(r); return l
        ls, gs = against("hf-f32 to the oracle", fwd, h.greedy, base)
        for i in range(len(P)): ref |= {f"logits{i}": ls[i].astype(np.float32), f"greedy{i}": np.int32(gs[i])}
        if c.experts:
            rep["hf_route_agree"] = [float((np.sort(r, -1) == np.sort(b[1], -1)).mean()) for r, b in zip(routes, base)]
            for i in range(len(P)): ref[f"routes{i}"] = routes[i].astype(np.int16)
    if "llama" in peers:
        from peer_llama import Llama
        for f in ("F32", "F16"):
            L = Llama(a.out / f"model-{f}.gguf"); against(f"llama-{f} to the oracle", L.forward, L.greedy, base); L.close()
        if what := otherwise and otherwise(c, m):
            other = []
            for p in P:
                g, _ = m.greedy(p, a.greedy); m.reset(); other.append((m.forward(p), None, g))
            L = Llama(a.out / "model-F32.gguf"); against(f"llama-F32 to the oracle with {what}", L.forward, L.greedy, other); L.close()
        for q in [q for q in a.quants.split(",") if q]:
            rep["quants"][q] = quant_case(a.out, q, P, [(l, r) for l, r, _ in base], a.greedy, a.every)
    np.savez_compressed(a.out / "ref.npz", **ref)
    rep["seconds"] = round(time.time() - t0, 1)
    (a.out / "report.json").write_text(json.dumps(rep, indent=1)); print(json.dumps(rep, indent=1))
