"""What the block that guesses further tokens (`nextn`, `mtp`) must say: reference cases for `Model::guess`.

  guesses.py MODEL.gguf OUT.npz [--lens 5,17,70] [--seed 1] [--mutants]
  guesses.py MODEL.gguf OUT.npz --give WITH.gguf     first writes the file once more, with a block of random weights (`qwen35`, whose fixture has none)

The oracle is `np_ref.py`'s, in float64, with the block put together as vLLM does (`vllm/model_executor/models/qwen3_5_mtp.py`): what it reads is the model's hidden
state *after* the last norm; the embedding's half comes first; a further guess reads what the block's own last norm gave. Beside it, the same in float32 from transformers' own
layer, norms and rotation (which has no such block itself: `Qwen3_5MoeDecoderLayer` of kind `full_attention`), for rows that the oracle gives.

OUT.npz, per prompt i: ids{i} [T], next{i} (what follows the prompt), first{i} [T, V] and second{i} [T, V]: logits of the two guesses behind every position,
where ids[p + 1] (or next) follows position p; the second with the likeliest of the first read.
"""
from __future__ import annotations
import argparse
import numpy as np
from np_ref import Model, rms


class Guesser(Model):
    """The model with its block. `flaw` is one of FLAWS, made on purpose."""
    def __init__(self, path, dtype=np.float64, flaw=None):
        super().__init__(path, dtype)
        self.flaw = flaw
        self.full.append(True); self.window.append(None)
        self.kc.append(None); self.vc.append(None); self.forget()

    def forget(self):
        for c in (self.kc, self.vc): c[self.L] = np.zeros((0, self.nkv, self.hd), self.dt)

    def rows(self, ids):    # hidden states behind the last layer, before the last norm
        self.reset(); self.kc.append(None); self.vc.append(None); self.forget()
        hidden = []; self.forward(ids, hidden)
        return hidden[-1]

    def block(self, h, tokens, at):     # rows, what follows each, position of the first: logits, and the rows for a further guess
        w, b, f = self.w, f"blk.{self.L}.", self.flaw
        for r in (self.routes, self.rlog, self.margin):
            while len(r) <= self.L: r.append([])
        t = w.get(b + "nextn.embed_tokens.weight", w["token_embd.weight"])[np.asarray(tokens)]
        e, n = ("hnorm", "enorm") if f == "norms of the halves swapped" else ("enorm", "hnorm")
        halves = [rms(t, w[f"{b}nextn.{e}.weight"], self.eps), rms(h, w[f"{b}nextn.{n}.weight"], self.eps)]
        if f == "halves swapped": halves.reverse()
        x = np.concatenate(halves, 1) @ w[b + "nextn.eh_proj.weight"].T
        self.pos = at
        if f == "nothing turns": kept, self.inv = self.inv, self.inv * 0
        x = x + self.attn(self.L, rms(x, w[b + "attn_norm.weight"], self.eps))
        if f == "nothing turns": self.inv = kept
        y = (self.dense if self.L < self.lead else self.moe)(self.L, rms(x, w[b + "post_attention_norm.weight"], self.eps))
        if f == "no residual around the feed-forward": x = x * 0
        x = x + y
        y = rms(x, w["output_norm.weight" if f == "the model's last norm" else b + "nextn.shared_head_norm.weight"], self.eps)
        return y @ w.get(b + "nextn.shared_head_head.weight", w.get("output.weight", w["token_embd.weight"])).T, x if f == "further guesses from rows before the norm" else y

    def guesses(self, ids, follows):
        x, L = self.rows(ids), self.L
        h = x if self.flaw == "rows before the last norm" else rms(x, self.w["output_norm.weight"], self.eps)
        tokens = ids[1:] + [follows] if self.flaw != "next token off by one" else ids
        first, y = self.block(h, tokens, 0)
        K, V = self.kc[L], self.vc[L]
        second = []
        for p in range(len(ids)):
            self.kc[L], self.vc[L] = K[:p + 1], V[:p + 1]
            at = p if self.flaw == "a further guess at the same position" else p + 1
            if at == p: self.kc[L], self.vc[L] = K[:p], V[:p]
            second.append(self.block(y[p:p + 1], [int(first[p].argmax())], at)[0][0])
        return first, np.stack(second), h


FLAWS = ["halves swapped", "norms of the halves swapped", "rows before the last norm", "next token off by one", "nothing turns", "the model's last norm",
         "no residual around the feed-forward", "further guesses from rows before the norm", "a further guess at the same position"]


class Layers:
    """Transformers' layer, norms and rotation with the weights of the file."""
    def __init__(self, m: Guesser):
        import torch, transformers
        from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as moe
        from transformers.models.qwen3_5 import modeling_qwen3_5 as dense
        self.torch, self.m = torch, m
        w, b = m.w, f"blk.{m.L}."
        H, routed = w["output_norm.weight"].shape[0], not m.dense_35
        pairs = m.rot // 2
        sizes = dict(moe_intermediate_size=w[b + "ffn_up_exps.weight"].shape[1], shared_expert_intermediate_size=w[b + "ffn_up_shexp.weight"].shape[0], num_experts=m.E,
                     num_experts_per_tok=m.K) if routed else dict(intermediate_size=w[b + "ffn_up.weight"].shape[0])
        c = (transformers.Qwen3_5MoeTextConfig if routed else transformers.Qwen3_5TextConfig)(
            vocab_size=w["token_embd.weight"].shape[0], hidden_size=H, num_hidden_layers=1, num_attention_heads=m.nh, num_key_value_heads=m.nkv, head_dim=m.hd,
            rms_norm_eps=float(m.eps), layer_types=["full_attention"], attention_bias=False, hidden_act="silu", **sizes,
            rope_parameters=dict(rope_type="default", rope_theta=float(m.theta), partial_rotary_factor=m.rot / m.hd, mrope_section=[pairs - 2 * (pairs // 3), pairs // 3, pairs // 3],
                                 mrope_interleaved=True))
        c._attn_implementation = "eager"; c._experts_implementation = "eager"
        f = lambda a: torch.tensor(np.asarray(a, np.float32))
        less = lambda n: f(w[n] - 1)      # the file has the 1 added
        self.layer = (moe.Qwen3_5MoeDecoderLayer if routed else dense.Qwen3_5DecoderLayer)(c, 0).eval()
        sd = {"input_layernorm.weight": less(b + "attn_norm.weight"), "post_attention_layernorm.weight": less(b + "post_attention_norm.weight")}
        for h, g in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v"), ("o_proj", "attn_output")): sd[f"self_attn.{h}.weight"] = f(w[f"{b}{g}.weight"])
        for n in ("q_norm", "k_norm"): sd[f"self_attn.{n}.weight"] = less(f"{b}attn_{n}.weight")
        if routed:
            sd["mlp.gate.weight"] = f(w[b + "ffn_gate_inp.weight"])
            sd["mlp.experts.gate_up_proj"] = f(np.concatenate([w[b + "ffn_gate_exps.weight"], w[b + "ffn_up_exps.weight"]], 1)); sd["mlp.experts.down_proj"] = f(w[b + "ffn_down_exps.weight"])
            for n in ("gate", "up", "down"): sd[f"mlp.shared_expert.{n}_proj.weight"] = f(w[f"{b}ffn_{n}_shexp.weight"])
            sd["mlp.shared_expert_gate.weight"] = f(w[b + "ffn_gate_inp_shexp.weight"]).reshape(1, -1)
        else:
            for n in ("gate", "up", "down"): sd[f"mlp.{n}_proj.weight"] = f(w[f"{b}ffn_{n}.weight"])
        self.layer.load_state_dict(sd, strict=True)
        def norm(name):
            n = moe.Qwen3_5MoeRMSNorm(H, eps=float(m.eps)); n.weight.data = less(name); return n
        self.enorm, self.hnorm, self.norm = (norm(f"{b}nextn.{n}.weight") for n in ("enorm", "hnorm", "shared_head_norm"))
        self.rotary = (moe.Qwen3_5MoeTextRotaryEmbedding if routed else dense.Qwen3_5TextRotaryEmbedding)(c)
        self.embed, self.fc, self.head = f(w["token_embd.weight"]), f(w[b + "nextn.eh_proj.weight"]), f(w.get("output.weight", w["token_embd.weight"]))

    def block(self, h, tokens):     # all rows from position 0 on
        t = self.torch
        x = t.cat([self.enorm(self.embed[t.tensor(tokens)]), self.hnorm(h)], -1) @ self.fc.T
        n = len(tokens); pos = t.arange(n)[None]
        mask = t.full((n, n), float("-inf")).triu(1)[None, None]
        out = self.layer(x[None], position_embeddings=self.rotary(x[None], pos[None].expand(3, 1, n)), attention_mask=mask)
        y = self.norm((out[0] if isinstance(out, tuple) else out)[0])
        return y @ self.head.T, y

    def guesses(self, ids, follows, h):
        t = self.torch
        with t.no_grad():
            h = t.tensor(np.asarray(h, np.float32)); tokens = ids[1:] + [follows]
            first, y = self.block(h, tokens); second = []
            for p in range(len(ids)):
                l, _ = self.block(t.cat([h[:p + 1], y[p:p + 1]]), tokens[:p + 1] + [int(first[p].argmax())]); second.append(l[-1])
            return first.numpy(), t.stack(second).numpy()


def give(src, dst, seed):
    """The file once more, with a block behind its layers, exact in float16."""
    import gguf
    r = gguf.GGUFReader(src); arch = r.get_field("general.architecture").contents()
    w = gguf.GGUFWriter(dst, arch); m = Model(src)
    for k, f in r.fields.items():
        if k.startswith("GGUF.") or k == "general.architecture": continue
        v, of = f.contents(), f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
        if k == f"{arch}.block_count": v += 1
        if k == f"{arch}.attention.recurrent_layers": v = list(v) + [False]
        w.add_key_value(k, v, f.types[0], of)
    w.add_nextn_predict_layers(1)
    for t in r.tensors: w.add_tensor(t.name, np.asarray(t.data), raw_dtype=t.tensor_type)
    g, b, H = np.random.default_rng(seed), f"blk.{m.L}.", m.w["output_norm.weight"].shape[0]
    ff, q, kv = m.w["blk.0.ffn_up.weight"].shape[0], m.nh * m.hd, m.nkv * m.hd
    for n, rows, cols in (("nextn.eh_proj", H, 2 * H), ("attn_q", 2 * q, H), ("attn_k", kv, H), ("attn_v", kv, H), ("attn_output", H, q), ("ffn_gate", ff, H), ("ffn_up", ff, H), ("ffn_down", H, ff)):
        w.add_tensor(f"{b}{n}.weight", (g.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float16))
    for n, len_, mid in (("attn_norm", H, 1), ("post_attention_norm", H, 1), ("attn_q_norm", m.hd, 1.6), ("attn_k_norm", m.hd, 1.6), ("nextn.enorm", H, 1), ("nextn.hnorm", H, 1), ("nextn.shared_head_norm", H, 1)):
        w.add_tensor(f"{b}{n}.weight", (mid + 0.15 * g.standard_normal(len_)).astype(np.float16).astype(np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model"); ap.add_argument("out"); ap.add_argument("--lens", default="5,17,70"); ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--give", help="file to write")
    ap.add_argument("--mutants", action="store_true", help="also tell how far each mistake takes the logits")
    a = ap.parse_args()
    if a.give: give(a.model, a.give, a.seed); a.model = a.give
    m = Guesser(a.model); layers = Layers(m); rng = np.random.default_rng(a.seed); out, P = {}, []
    V = m.w["token_embd.weight"].shape[0]
    for i, n in enumerate(int(n) for n in a.lens.split(",")):
        ids = rng.integers(0, V - 16, n + 1).tolist(); ids, follows = ids[:-1], ids[-1]; P.append((ids, follows))
        first, second, h = m.guesses(ids, follows)
        margin = min((float(r.min()) for r in m.margin[m.L]), default=np.inf)
        hf = layers.guesses(ids, follows, h)
        far = [float(np.abs(x - y).max()) for x, y in zip(hf, (first, second))]
        gaps = [np.diff(np.sort(l, 1)[:, -2:], axis=1).min() for l in (first, second)]
        print(f"{n} tokens: transformers differ by {far[0]:.1e} and {far[1]:.1e}; logits spread by {first.std():.2f}; least lead {gaps[0]:.1e}, {gaps[1]:.1e}; least margin of a router {margin:.1e}")
        out |= {f"ids{i}": np.int32(ids), f"next{i}": np.int32([follows]), f"first{i}": hf[0].astype(np.float32), f"second{i}": hf[1].astype(np.float32)}
    np.savez_compressed(a.out, **out)
    if a.mutants:
        ids, follows = P[-1]; good = m.guesses(ids, follows)
        for flaw in FLAWS:
            bad = Guesser(a.model, flaw=flaw).guesses(ids, follows)
            print(f"{flaw:48s} first {np.abs(bad[0] - good[0]).max():.2e}  second {np.abs(bad[1] - good[1]).max():.2e}")


if __name__ == "__main__":
    main()
