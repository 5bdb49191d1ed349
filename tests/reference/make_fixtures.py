"""Build one reference case: a random model, its GGUF files, prompts, and reference outputs of every peer at hand.

  make_fixtures.py q3-strict OUT --seed 11 --peers np,hf,llama --quants Q8_0,Q4_K_M --keep F16

Peers: np    numpy float64 oracle on the GGUF file (PyPI numpy + gguf only)
       hf    transformers float32 (PyPI torch + transformers)
       llama llama.cpp by PyPI llama-cpp-python (also makes the K-quants)
ref.npz holds, for prompt i:  ids{i}  logits{i} [T,V] float32 (hf, else np)  routes{i} [L,T,K]  margin{i} [L,T]
  gap{i} top1-top2 logit gap per position  greedy{i}  greedygap{i}  hidden{i} (first prompt only) [L+1,T,H]
quant-<Q>.npz: ids{i}  margin{i}  exact{i} / llama{i} logits at positions at{i}; exact_argmax{i} / llama_argmax{i} / exact_gap{i} for all positions;
  exact_greedy{i} / llama_greedy{i}; routes{i}.  `exact` = oracle on the dequantized weights with unrounded activations.
"""
from __future__ import annotations
import argparse, dataclasses, json, os, pathlib, shutil, time
import numpy as np
import moegen, tok
from np_ref import Model

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "def fib(n):\n    a, b = 0, 1\n    while a < n:\n        print(a, end=' ')\n        a, b = b, a + b\n",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat's 12 + 30? 你好，世界！ ¿Qué tal?  \n\n  It's   fine…\t(tabs)<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "Objects are Python's abstraction for data. All data in a Python program is represented by objects or by relations "
    "between objects. Every object has an identity, a type and a value. An object's identity never changes once it has been created; "
    "you may think of it as the object's address in memory. Привет, мир! नमस्ते दुनिया 🙂🚀 naïve café 1234567890 3.14159",
    None,   # random ids
]
LENS = [5, 17, 64, 130, 200]
# tokenizer-only cases
TOKENS = [x for x in TEXTS if x] + [
    "", " ", "  \n\n\t x", "I'LL we'Ve DON'T", "a\r\nb\r\n\r\n  c", "x=1;y  =  22;\n\n\n#end", "नमस्ते दुनिया ไทย ﷺ", "👩‍💻👨‍👩‍👧 é ñ ü",
    "<think>\nplan</think><tool_call>{\"a\": 1}</tool_call><|endoftext|>", "<|im_start|> <|im_endx|> <|", "\u00a0\u3000\u200b|\ufeff",
    "cafe\u0301 \u1100\u1161 \u212b",   # NFC: Qwen's tokenizer.json normalizes, llama.cpp does not
]


def prompts(tk, vocab, seed, lens=LENS):
    """One prompt per length; the text of index i gives prompt i, the last is random ids."""
    out = []
    r = np.random.default_rng(seed)
    for t, n in zip(TEXTS[:len(lens) - 1] + [None], lens):
        if t is None:
            out.append(r.integers(0, vocab - 16, n).tolist()); continue
        ids = tk.encode(t).ids
        while len(ids) < n: ids = ids + tk.encode(" " + t).ids
        out.append(ids[:n])
    return out


def gap(l):
    s = np.partition(l, -2, axis=-1); return (s[..., -1] - s[..., -2]).astype(np.float32)


def agreement(logits, texts, base, n):
    """A peer's logits and greedy texts of n tokens beside `base`, (logits, routes, text) of each prompt: largest difference, share of equal best tokens, tokens until the texts part."""
    part = lambda x, y: next((k for k, (p, q) in enumerate(zip(x, y)) if p != q), n)
    return dict(max_abs_diff=max(float(np.abs(l - b[0]).max()) for l, b in zip(logits, base)),
                argmax_agree=float(np.mean(np.concatenate([l.argmax(1) == b[0].argmax(1) for l, b in zip(logits, base)]))),
                greedy_same_tokens=[part(g, b[2]) for g, b in zip(texts, base)])


def quant_case(out, q, P, base, n_greedy, every=16):
    """Quantizes model-F32.gguf to `q` by llama.cpp, writes quant-<q>.npz, returns what the report says of it.

    `base`: per prompt (logits of the float model, ...); `every`: logits are stored at each such position and the last."""
    from peer_llama import Llama, quantize
    f = out / f"model-{q}.gguf"
    quantize(out / "model-F32.gguf", f, q)
    mq = Model(str(f)); L = Llama(f); z, st = {}, []
    for i, p in enumerate(P):
        mq.reset(); ex = mq.forward(p); R, mg = mq.trace(); ll = L.forward(p); b0 = base[i][0]
        at = sorted({len(p) - 1, *range(0, len(p), every)})
        eg, _ = mq.greedy(p, n_greedy); lg = L.greedy(p, n_greedy)
        z |= {f"ids{i}": np.int32(p), f"at{i}": np.int32(at), f"exact{i}": ex[at].astype(np.float32), f"llama{i}": ll[at], f"routes{i}": R,
              f"margin{i}": mg.astype(np.float32), f"exact_argmax{i}": ex.argmax(1).astype(np.int32),
              f"llama_argmax{i}": ll.argmax(1).astype(np.int32), f"exact_gap{i}": gap(ex), f"exact_greedy{i}": np.int32(eg), f"llama_greedy{i}": np.int32(lg)}
        st.append((np.abs(ll - ex).max(1), ((ll - ex) ** 2).sum(1) / (ex ** 2).sum(1), ll.argmax(1) == ex.argmax(1),
                   ((ex - b0) ** 2).sum(1) / (b0 ** 2).sum(1), ex.argmax(1) == b0.argmax(1), gap(ex),
                   next((k for k, (x, y) in enumerate(zip(eg, lg)) if x != y), n_greedy)))
    e, nm, am, nm0, am0, gp = (np.concatenate([s[j] for s in st]) for j in range(6))
    types: dict = {}
    for n, ty in mq.types.items(): types[ty] = types.get(ty, 0) + 1
    L.close(); np.savez_compressed(out / f"quant-{q}.npz", **z)
    return dict(bytes=f.stat().st_size, tensor_types=types, llama_vs_exact=dict(
        max=float(e.max()), median_max=float(np.median(e)), nmse_median=float(np.median(nm)), nmse_p99=float(np.quantile(nm, .99)), nmse_mean=float(nm.mean()),
        argmax=float(am.mean()), argmax_where_gap_gt_0_3=float(am[gp > .3].mean()), greedy_same_tokens=[s[6] for s in st]),
        quant_loss_exact_vs_f32=dict(nmse_mean=float(nm0.mean()), argmax=float(am0.mean())))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("preset", choices=moegen.PRESETS); ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--seed", type=int, default=1); ap.add_argument("--peers", default="np,hf,llama")
    ap.add_argument("--quants", default="", help="comma list; made by llama.cpp from the F32 file")
    ap.add_argument("--keep", default="F16", help="which of F16,F32,HF weights stay in OUT")
    ap.add_argument("--greedy", type=int, default=48); ap.add_argument("--tries", type=int, default=6, help="seeds tried for clear greedy choices")
    ap.add_argument("--lens", default=",".join(map(str, LENS)), help="prompt lengths, at most five; the last prompt is random ids")
    ap.add_argument("--every", type=int, default=16, help="quant-X.npz stores logits at every N-th position and the last")
    ap.add_argument("--set", nargs="*", default=[], help="overrides, e.g. layers=6 experts=64")
    a = ap.parse_args()
    peers, quants, keep = a.peers.split(","), [q for q in a.quants.split(",") if q], a.keep.split(",")
    c = moegen.PRESETS[a.preset]
    c = dataclasses.replace(c, **{k: type(getattr(c, k))(float(v)) for k, v in (s.split("=") for s in a.set)})
    lens = [int(n) for n in a.lens.split(",")]
    rep: dict = dict(preset=a.preset, peers={}, quants={})
    t0 = time.time()

    # a seed whose greedy paths have clear winners
    best = None
    for s in range(a.seed, a.seed + a.tries):
        _, tk, t = moegen.build(c, s, a.out, hf=True)
        P = prompts(tk, c.vocab, s, lens)
        m = Model(str(a.out / "model-F32.gguf"))
        gr = [m.greedy(p, a.greedy) for p in P]
        worst = min(float(g.min()) for _, g in gr)
        if best is None or worst > best[0]: best = (worst, s)
        if worst > 0.03: break
    if best[1] != s:
        _, tk, t = moegen.build(c, best[1], a.out, hf=True)
        P = prompts(tk, c.vocab, best[1], lens); m = Model(str(a.out / "model-F32.gguf")); gr = [m.greedy(p, a.greedy) for p in P]
    rep.update(seed=best[1], params_m=round(sum(v.size for v in t.values()) / 1e6, 2), min_greedy_gap=best[0])
    (a.out / "prompts.json").write_text(json.dumps(dict(
        prompts=P, greedy=a.greedy, tokenize=[dict(text=x, ids=tk.encode(x).ids) for x in TOKENS],
        decode=[dict(ids=p, text=tk.decode(p, skip_special_tokens=False)) for p in P]), ensure_ascii=False))

    ref, base = {}, []
    for i, p in enumerate(P):
        m.reset(); hid = []
        l = m.forward(p, hid); R, mg = m.trace(); base.append((l, R))
        ref |= {f"ids{i}": np.int32(p), f"routes{i}": R, f"margin{i}": mg.astype(np.float32), f"gap{i}": gap(l),
                f"greedy{i}": np.int32(gr[i][0]), f"greedygap{i}": gr[i][1].astype(np.float32), f"logits{i}": l.astype(np.float32)}
        if i == 0: ref["hidden0"] = np.stack(hid).astype(np.float32)
    rep["logit_std"] = float(np.mean([l.std() for l, _ in base])); rep["min_route_margin"] = float(min(ref[f"margin{i}"].min() for i in range(len(P))))

    def against(name, fwd, greedy):
        d, am, tot, gok = 0.0, 0, 0, []
        for i, p in enumerate(P):
            l = fwd(i, p); e = np.abs(l - base[i][0]).max(1); d = max(d, float(e.max()))
            am += int((l.argmax(1) == base[i][0].argmax(1)).sum()); tot += len(p)
            g = greedy(p); gok.append(next((k for k, (x, y) in enumerate(zip(g, gr[i][0])) if x != y), a.greedy))
        rep["peers"][name] = dict(max_abs_diff_vs_np=d, argmax_agree=am / tot, greedy_same_tokens=gok)

    if "hf" in peers:
        from peer_hf import HF
        h = HF(str(a.out / "hf"))
        def fwd(i, p):
            l, R, _ = h.forward(p)
            rep.setdefault("hf_route_agree", []).append(float((np.sort(R, -1) == np.sort(base[i][1], -1)).mean()))
            ref[f"logits{i}"] = l.astype(np.float32)
            return l
        against("hf-f32", fwd, lambda p: h.greedy(p, a.greedy)); del h
    if "llama" in peers:
        from peer_llama import Llama
        for f in ("F32", "F16"):
            L = Llama(a.out / f"model-{f}.gguf")
            against("llama-" + f, lambda i, p: L.forward(p), lambda p: L.greedy(p, a.greedy))
            if f == "F32":
                rep["llama_tokenizes_differently"] = [x for x in TOKENS if L.tokenize(x) != tk.encode(x).ids]
            L.close()
        for q in quants:
            rep["quants"][q] = quant_case(a.out, q, P, base, a.greedy, a.every)
    np.savez_compressed(a.out / "ref.npz", **ref)
    if "F16" not in keep: (a.out / "model-F16.gguf").unlink()
    if "F32" not in keep: (a.out / "model-F32.gguf").unlink()
    if "HF" not in keep: (a.out / "hf" / "model.safetensors").unlink()
    rep["seconds"] = round(time.time() - t0, 1)
    (a.out / "report.json").write_text(json.dumps(rep, indent=1))
    print(json.dumps(rep, indent=1))


if __name__ == "__main__":
    main()
