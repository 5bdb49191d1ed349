"""Independent oracle: float64 numpy forward pass straight from a GGUF file (any quant that PyPI `gguf`
can dequantize), for qwen3moe, qwen3vlmoe, qwen2moe, qwen35moe, qwen35, olmoe, gpt-oss, gemma4, deepseek2, glm4moe, minimax-m2 and lfm2moe. Weights are dequantized exactly; activations are never quantized,
so on a quantized file this is what a perfect engine computes; llama.cpp and candle round activations too.

Needs only numpy + gguf. Also returns the routing (expert ids, margins), for tests of expert caches.
"""
from __future__ import annotations
import argparse, json
import numpy as np, gguf
from gguf.quants import dequantize


def sigmoid(x): return 1 / (1 + np.exp(-x))
def silu(x): return x * sigmoid(x)
def gelu(x): return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))   # the tanh form
def rms(x, w, eps): return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w
def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True)); return e / e.sum(-1, keepdims=True)


class Model:
    def __init__(self, path, dtype=np.float64):
        r = gguf.GGUFReader(path)
        kv = {k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF.") and not k.startswith("tokenizer.")}
        self.arch = a = kv["general.architecture"]
        g = lambda k, d=None, of=a: kv.get(f"{of}.{k}", d)
        self.dt = dtype
        self.w = {t.name: dequantize(np.asarray(t.data), t.tensor_type).reshape(tuple(int(x) for x in t.shape[::-1])).astype(dtype)
                  for t in r.tensors}
        self.types = {t.name: t.tensor_type.name for t in r.tensors}
        for n in [n for n in self.w if n.endswith("ffn_gate_up_exps.weight")]:      # gate rows first
            self.w[n.replace("gate_up", "gate")], self.w[n.replace("gate_up", "up")] = np.split(self.w[n], 2, 1)
        self.L = g("block_count") - (g("nextn_predict_layers") or 0)
        self.nh, self.nkv = g("attention.head_count"), g("attention.head_count_kv")
        self.hd = g("attention.key_length") or g("embedding_length") // self.nh
        self.eps, self.theta = g("attention.layer_norm_rms_epsilon"), g("rope.freq_base")
        self.E, self.K = g("expert_count"), g("expert_used_count")
        self.rot = g("rope.dimension_count") or self.hd
        self.dense_35 = a == "qwen35"
        if self.dense_35: self.arch = a = "qwen35moe"      # the same layers, all of them with a dense feed-forward
        if a == "qwen35moe":
            rec = g("attention.recurrent_layers")
            iv = g("full_attention_interval", 4)
            self.full = [not rec[i] for i in range(self.L)] if rec else [(i + 1) % iv == 0 for i in range(self.L)]
            self.nk, self.nv, self.ld = g("ssm.group_count"), g("ssm.time_step_rank"), g("ssm.state_size")
            self.cw = g("ssm.conv_kernel")
        elif a == "lfm2moe":
            self.full = [n > 0 for n in self.nkv]; self.nkv, self.cw = max(self.nkv), g("shortconv.l_cache")
            self.conv_act, self.order = (lambda y: y), (0, 1, 2)      # what mutants change: no activation; b, c and x in this order
        elif a in ("qwen3moe", "qwen3vlmoe", "qwen2moe", "olmoe", "gpt-oss", "gemma4", "deepseek2", "glm4moe", "minimax-m2"):
            self.full = [True] * self.L
        else:
            raise SystemExit(f"arch {a} not covered")
        self.renorm, self.whole_norm = a not in ("olmoe", "qwen2moe"), a in ("olmoe", "minimax-m2")
        self.inv, self.mag = 1.0 / (self.theta ** (np.arange(0, self.rot, 2) / self.rot)), 1.0
        self.window = [None] * self.L
        self.alpha, self.limit = 1.702, 7.0
        if a == "gpt-oss":
            self.window = [g("attention.sliding_window") if i % 2 == 0 else None for i in range(self.L)]
            self.yarn(g("rope.scaling.factor"), g("rope.scaling.original_context_length"), whole=False)
        self.scale, self.act, self.embed_scale, self.cap = None, silu, 1.0, None       # None: 1 / sqrt(head), no cap
        self.lead, self.pairs = (self.L + 1 if self.dense_35 else g("leading_dense_block_count") or 0), a == "deepseek2"
        if a == "gemma4": self.gemma(g)
        self.selective = a in ("deepseek2", "glm4moe", "minimax-m2", "lfm2moe")
        if self.selective: self.choice(g)
        if a == "lfm2moe":
            self.renorm = True                                         # its files don't say so
            for n in [n for n in self.w if n == "token_embd_norm.weight"]: self.w["output_norm.weight"] = self.w.pop(n)
        if a == "deepseek2": self.latent(g)
        self.reset()

    def choice(self, g):
        self.expert_scale, self.renorm = g("expert_weights_scale") or 1.0, self.arch == "minimax-m2" or bool(g("expert_weights_norm"))
        self.sigmoid = g("expert_gating_func") == 2
        self.groups = (g("expert_group_count") or 1, g("expert_group_used_count") or 1)
        self.best_of = 2 if self.sigmoid else 1          # what mutants change: who decides for a group, and the two below
        self.use_bias, self.bias_counts = True, False

    def latent(self, g):
        key = g("attention.key_length_mla") or g("attention.key_length")
        self.rank, self.turned, self.plain = g("attention.kv_lora_rank"), self.rot, key - self.rot
        self.dv = g("attention.value_length_mla") or g("attention.value_length")
        self.scale, self.latent_norms = key ** -0.5, True
        if g("rope.scaling.type") == "yarn":
            self.yarn(g("rope.scaling.factor"), g("rope.scaling.original_context_length"), whole=True)
            self.mag, self.stretch = 1.0, (1 + g("rope.scaling.yarn_log_multiplier") * np.log(g("rope.scaling.factor"))) ** 2
            self.scale *= self.stretch
        self.ups = []                                    # per head: latent -> key [plain, rank], latent -> value [dv, rank]
        for i in range(self.L):
            b = f"blk.{i}.attn_"
            if b + "kv_b.weight" in self.w:
                kv = self.w[b + "kv_b.weight"].reshape(self.nh, self.plain + self.dv, self.rank)
                self.ups.append((kv[:, :self.plain], kv[:, self.plain:]))
            else: self.ups.append((self.w[b + "k_b.weight"].transpose(0, 2, 1), self.w[b + "v_b.weight"]))

    def mla(self, i, x):
        w, T, b = self.w, x.shape[0], f"blk.{i}.attn_"
        norm = lambda z, n: rms(z, w[b + n + ".weight"], self.eps) if self.latent_norms else z
        q = self.lin(x, b + "q") if b + "q.weight" in w else self.lin(norm(self.lin(x, b + "q_a"), "q_a_norm"), b + "q_b")
        q = q.reshape(T, self.nh, self.plain + self.turned)
        kv = self.lin(x, b + "kv_a_mqa")
        c, pe = norm(kv[:, :self.rank], "kv_a_norm"), self.rope(kv[:, None, self.rank:])
        C = self.kc[i] = np.concatenate([self.kc[i], c]); PE = self.vc[i] = np.concatenate([self.vc[i], pe[:, 0]])
        up_k, up_v = self.ups[i]
        K, V = np.einsum("sr,hnr->shn", C, up_k), np.einsum("sr,hvr->shv", C, up_v)       # keys and values themselves: nothing absorbed
        s = np.einsum("thd,shd->hts", q[..., :self.plain], K) + np.einsum("thd,sd->hts", self.rope(q[..., self.plain:]), PE)
        m = np.arange(len(C))[None, :] > (self.pos + np.arange(T))[:, None]
        o = np.einsum("hts,shv->thv", softmax(np.where(m[None], -np.inf, s * self.scale)), V)
        return self.lin(o.reshape(T, -1), b + "output")

    def chosen(self, i, rl):    # deepseek2, glm4moe, minimax-m2, lfm2moe: ids, their weights, and by how much the choice was made
        score = sigmoid(rl) if self.sigmoid else softmax(rl)
        by, bias, wide = score, self.w.get(f"blk.{i}.exp_probs_b.bias"), np.inf
        if bias is not None and self.use_bias: by = score + bias
        n, used = self.groups
        if n > used:
            of = by.reshape(len(by), n, -1)
            worth = np.sort(of, -1)[..., -self.best_of:].sum(-1); order = np.argsort(-worth, 1, kind="stable")
            s = np.take_along_axis(worth, order, 1); wide = s[:, used - 1] - s[:, used]
            keep = np.zeros_like(worth, bool); np.put_along_axis(keep, order[:, :used], True, 1)
            by = np.where(keep[..., None], of, -np.inf).reshape(by.shape)
        order = np.argsort(-by, 1, kind="stable"); top = order[:, :self.K]
        s = np.take_along_axis(by, order[:, :self.K + 1], 1)
        p = np.take_along_axis(by if self.bias_counts else score, top, 1)
        if self.renorm: p = p / (p.sum(1, keepdims=True) + 1e-20)
        return top, p * self.expert_scale, np.minimum(s[:, self.K - 1] - s[:, self.K], wide)

    def gemma(self, g):
        swa = list(g("attention.sliding_window_pattern")); self.window = [g("attention.sliding_window") if s else None for s in swa]
        self.hds = [g("attention.key_length_swa" if s else "attention.key_length") for s in swa]; self.nkvs = list(g("attention.head_count_kv"))
        theta = [g("rope.freq_base_swa" if s else "rope.freq_base") for s in swa]
        self.invs = [1.0 / (t ** (np.arange(0, d, 2) / d)) for t, d in zip(theta, self.hds)]
        self.factors = self.w["rope_freqs.weight"]
        self.invs = [v if s else v / self.factors for v, s in zip(self.invs, swa)]
        self.scale, self.act, self.cap = 1.0, gelu, g("final_logit_softcapping")
        self.embed_scale = np.sqrt(self.w["token_embd.weight"].shape[1])
        self.value_of = self.router_of = "raw"      # what mutants change: values of k_eq_v from the raw keys; the router reads the residual
        self.skip = set()                           # norms left out
        self.root = True                            # the router's input is divided by sqrt(hidden)

    def at(self, i):     # a layer's own sizes and rotation, where layers differ
        if self.arch == "gemma4": self.hd, self.nkv, self.inv, self.rot = self.hds[i], self.nkvs[i], self.invs[i], self.hds[i]

    def norm(self, x, name):
        return x if name.split(".")[-1] in self.skip else rms(x, self.w[name + ".weight"], self.eps)

    def yarn(self, factor, original, whole, fast=32.0, slow=1.0):   # `whole`: the ramp's ends are rounded to whole dimensions (llama.cpp)
        d = self.rot
        at = lambda turns: d * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(self.theta))
        lo, hi = (np.floor(at(fast)), np.ceil(at(slow))) if whole else (at(fast), at(slow))
        lo, hi = max(lo, 0), min(hi, d - 1)
        ramp = np.clip((np.arange(d // 2) - lo) / max(hi - lo, 0.001), 0, 1)
        inv = 1.0 / (self.theta ** (np.arange(0, d, 2) / d))
        self.inv, self.mag = inv / factor * ramp + inv * (1 - ramp), 0.1 * np.log(factor) + 1

    def lin(self, x, name):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def reset(self):
        self.pos = 0
        self.kc, self.vc = [], []
        if self.arch == "deepseek2": self.kc, self.vc = ([np.zeros((0, n), self.dt) for _ in range(self.L)] for n in (self.rank, self.turned)); return
        for i in range(self.L):
            self.at(i)
            for c in (self.kc, self.vc): c.append(np.zeros((0, self.nkv, self.hd), self.dt))
        if self.arch == "lfm2moe": self.conv = [np.zeros((self.cw - 1, self.w["token_embd.weight"].shape[1]), self.dt) for _ in range(self.L)]
        if self.arch == "qwen35moe":
            cd = 2 * self.nk * self.ld + self.nv * self.ld
            self.conv = [np.zeros((self.cw - 1, cd), self.dt) for _ in range(self.L)]
            self.S = [np.zeros((self.nv, self.ld, self.ld), self.dt) for _ in range(self.L)]   # [v head, k dim, v dim]

    def rope(self, x):
        return self.rope_pairs(x) if self.pairs else self.rope_halves(x)

    def rope_pairs(self, x):    # (0,1), (2,3).. turn with each other
        ang = (self.pos + np.arange(x.shape[0]))[:, None] * self.inv
        c, s = np.cos(ang)[:, None] * self.mag, np.sin(ang)[:, None] * self.mag
        y, d = x.copy(), self.rot
        a, b = x[..., 0:d:2], x[..., 1:d:2]
        y[..., 0:d:2], y[..., 1:d:2] = a * c - b * s, b * c + a * s
        return y

    def rope_halves(self, x):   # NEOX halves on the first `rot` dims; for text all M-RoPE sections share one position
        d = self.rot
        ang = (self.pos + np.arange(x.shape[0]))[:, None] * self.inv
        c, s = np.cos(ang)[:, None] * self.mag, np.sin(ang)[:, None] * self.mag
        a, b = x[..., :d // 2], x[..., d // 2:d]
        return np.concatenate([a * c - b * s, b * c + a * s, x[..., d:]], -1)

    def attn(self, i, x):
        w, T = self.w, x.shape[0]
        b = f"blk.{i}."
        self.at(i)
        q = self.lin(x, b + "attn_q").reshape(T, self.nh, -1)
        gate = None
        if self.arch == "qwen35moe":          # per head: [query | gate]
            q, gate = q[..., :self.hd], q[..., self.hd:]
        k = self.lin(x, b + "attn_k").reshape(T, self.nkv, self.hd)
        v = self.lin(x, b + "attn_v").reshape(T, self.nkv, self.hd) if b + "attn_v.weight" in w else k
        qn, kn = w.get(b + "attn_q_norm.weight"), w.get(b + "attn_k_norm.weight")
        if qn is None: pass
        elif self.whole_norm:                   # olmoe: normalised over the whole projection, heads are cut afterwards
            q, k = (rms(z.reshape(T, -1), n, self.eps).reshape(z.shape) for z, n in ((q, qn), (k, kn)))
        else:
            q, k = (rms(z, n.reshape(-1, self.hd), self.eps) for z, n in ((q, qn), (k, kn)))
        if self.arch == "gemma4":
            if b + "attn_v.weight" not in w and self.value_of == "normed": v = k
            if "attn_v_norm" not in self.skip: v = rms(v, 1.0, self.eps)
        q, k = self.rope(q), self.rope(k)
        K = self.kc[i] = np.concatenate([self.kc[i], k]); V = self.vc[i] = np.concatenate([self.vc[i], v])
        r = self.nh // self.nkv
        s = np.einsum("thd,shd->hts", q, np.repeat(K, r, 1)) * (self.scale or 1 / np.sqrt(self.hd))
        m = np.arange(K.shape[0])[None, :] > (self.pos + np.arange(T))[:, None]
        if self.window[i]: m |= np.arange(K.shape[0])[None, :] <= (self.pos + np.arange(T))[:, None] - self.window[i]
        s = np.where(m[None], -np.inf, s)
        sinks = w.get(b + "attn_sinks.weight")
        if sinks is not None: s = np.concatenate([s, np.broadcast_to(sinks[:, None, None], (self.nh, T, 1))], -1)
        o = np.einsum("hts,shd->thd", softmax(s)[..., :K.shape[0]], np.repeat(V, r, 1))
        if gate is not None:
            o = o * sigmoid(gate)
        return self.lin(o.reshape(T, -1), b + "attn_output")

    def gdn(self, i, x):
        w, T = self.w, x.shape[0]
        b = f"blk.{i}."
        mix = np.concatenate([self.conv[i], x @ w[b + "attn_qkv.weight"].T])
        self.conv[i] = mix[-(self.cw - 1):]
        ck = w[b + "ssm_conv1d.weight"]                       # [channels, kernel]
        y = silu(sum(mix[j:j + T] * ck[:, j] for j in range(self.cw)))
        kd = self.nk * self.ld
        l2 = lambda a: a / np.sqrt((a * a).sum(-1, keepdims=True) + self.eps)
        q = l2(y[:, :kd].reshape(T, self.nk, self.ld)) / np.sqrt(self.ld)
        k = l2(y[:, kd:2 * kd].reshape(T, self.nk, self.ld))
        v = y[:, 2 * kd:].reshape(T, self.nv, self.ld)
        q, k = (np.tile(a, (1, self.nv // self.nk, 1)) for a in (q, k))   # V head h uses K head h % nk
        beta = sigmoid(x @ w[b + "ssm_beta.weight"].T)
        a = x @ w[b + "ssm_alpha.weight"].T + w[b + "ssm_dt.bias"]
        dec = np.exp(w[b + "ssm_a"] * np.logaddexp(0, a))
        S, out = self.S[i], np.empty((T, self.nv, self.ld), self.dt)
        for t in range(T):
            S = S * dec[t][:, None, None]
            d = (v[t] - np.einsum("hk,hkv->hv", k[t], S)) * beta[t][:, None]
            S = S + k[t][:, :, None] * d[:, None, :]
            out[t] = np.einsum("hk,hkv->hv", q[t], S)
        self.S[i] = S
        z = (x @ w[b + "attn_gate.weight"].T).reshape(T, self.nv, self.ld)
        o = rms(out, w[b + "ssm_norm.weight"], self.eps) * silu(z)
        return o.reshape(T, -1) @ w[b + "ssm_out.weight"].T

    def short_conv(self, i, x):
        w, T, b = self.w, x.shape[0], f"blk.{i}.shortconv."
        parts = np.split(self.lin(x, b + "in_proj"), 3, 1)
        gate, out, x = (parts[k] for k in self.order)
        seen = np.concatenate([self.conv[i], gate * x]); self.conv[i] = seen[len(seen) - (self.cw - 1):]
        taps = w[b + "conv.weight"]                           # [channels, width]
        return self.lin(out * self.conv_act(sum(seen[j:j + T] * taps[:, j] for j in range(self.cw))), b + "out_proj")

    def dense(self, i, x):
        b = f"blk.{i}."
        return self.lin(self.act(self.lin(x, b + "ffn_gate")) * self.lin(x, b + "ffn_up"), b + "ffn_down")

    def beside(self, i, x):     # gemma4: a dense feed-forward, and beside it routed experts, if there are any
        w, b = self.w, f"blk.{i}."
        n = self.norm(x, b + "ffn_norm"); y = self.dense(i, n)
        if b + "ffn_gate_inp.weight" in w:
            r = n if self.router_of == "normed" else x
            r = rms(r, w[b + "ffn_gate_inp.scale"], self.eps)
            if self.root: r = r / np.sqrt(x.shape[1])
            y = self.norm(y, b + "post_ffw_norm_1") + self.norm(self.moe(i, self.norm(x, b + "pre_ffw_norm_2"), r), b + "post_ffw_norm_2")
        return self.norm(y, b + "post_ffw_norm")

    def moe(self, i, x, router=None):
        w, T = self.w, x.shape[0]
        b = f"blk.{i}."
        rl = self.lin(x if router is None else router, b + "ffn_gate_inp")
        order = np.argsort(-rl, axis=1, kind="stable")
        top = order[:, :self.K]
        srt = np.take_along_axis(rl, order[:, :self.K + 1], 1)
        margin = srt[:, self.K - 1] - srt[:, self.K]
        if self.selective: top, p, margin = self.chosen(i, rl)
        elif self.renorm: p = softmax(np.take_along_axis(rl, top, 1))   # softmax then renormalise == softmax over the top k
        else: p = np.take_along_axis(softmax(rl), top, 1)
        self.margin[i].append(margin)
        if b + "ffn_down_exps.scale" in w: p = p * w[b + "ffn_down_exps.scale"][top]
        self.routes[i].append(top.astype(np.int16)); self.rlog[i].append(rl.astype(np.float32))
        y = np.zeros_like(x)
        for e in np.unique(top):
            t, j = np.where(top == e)
            gate, up = x[t] @ w[b + "ffn_gate_exps.weight"][e].T, x[t] @ w[b + "ffn_up_exps.weight"][e].T
            if self.arch == "gpt-oss":
                gate = np.minimum(gate + w[b + "ffn_gate_exps.bias"][e], self.limit)
                up = np.clip(up + w[b + "ffn_up_exps.bias"][e], -self.limit, self.limit)
                h = gate * sigmoid(self.alpha * gate) * (up + 1)
            else: h = self.act(gate) * up
            out = h @ w[b + "ffn_down_exps.weight"][e].T
            if b + "ffn_down_exps.bias" in w: out = out + w[b + "ffn_down_exps.bias"][e]
            y[t] += p[t, j][:, None] * out
        if b + "ffn_up_shexp.weight" in w:
            h = silu(x @ w[b + "ffn_gate_shexp.weight"].T) * (x @ w[b + "ffn_up_shexp.weight"].T)
            g = sigmoid(x @ w[b + "ffn_gate_inp_shexp.weight"].reshape(-1)) if b + "ffn_gate_inp_shexp.weight" in w else np.ones(T)
            y += g[:, None] * (h @ w[b + "ffn_down_shexp.weight"].T)
        return y

    def forward(self, ids, hidden=None):
        self.routes = [[] for _ in range(self.L)]; self.rlog = [[] for _ in range(self.L)]; self.margin = [[] for _ in range(self.L)]
        w = self.w
        post = "post_attention_norm.weight" if self.arch in ("qwen35moe", "gpt-oss", "glm4moe") else "ffn_norm.weight"
        x = w["token_embd.weight"][np.asarray(ids)] * self.embed_scale
        if hidden is not None: hidden.append(x)
        for i in range(self.L):
            h = rms(x, w[f"blk.{i}.attn_norm.weight"], self.eps)
            if self.arch == "gemma4":
                x = x + self.norm(self.attn(i, h), f"blk.{i}.post_attention_norm")
                x = (x + self.beside(i, x)) * w.get(f"blk.{i}.layer_output_scale.weight", 1.0)
                if hidden is not None: hidden.append(x)
                continue
            x = x + (self.mla(i, h) if self.arch == "deepseek2" else self.attn(i, h) if self.full[i] else self.short_conv(i, h) if self.arch == "lfm2moe" else self.gdn(i, h))
            x = x + (self.dense if i < self.lead else self.moe)(i, rms(x, w[f"blk.{i}." + post], self.eps))
            if hidden is not None: hidden.append(x)
        self.pos += len(ids)
        o = w.get("output.weight", w["token_embd.weight"])
        y = rms(x, w["output_norm.weight"], self.eps) @ o.T
        return y if self.cap is None else self.cap * np.tanh(y / self.cap)

    def trace(self): # [layers, tokens, k], [layers, tokens], of layers with experts
        return np.stack([np.concatenate(r) for r in self.routes if r]), np.stack([np.concatenate(m) for m in self.margin if m])

    def greedy(self, ids, n):
        self.reset(); lg = self.forward(ids)[-1]; out, gaps = [], []
        for _ in range(n):
            s = np.sort(lg); gaps.append(s[-1] - s[-2]); out.append(int(lg.argmax())); lg = self.forward([out[-1]])[-1]
        return out, np.array(gaps)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("gguf"); ap.add_argument("ids", help="json list of token ids"); ap.add_argument("-n", type=int, default=8)
    a = ap.parse_args()
    m = Model(a.gguf); ids = json.loads(a.ids)
    lg = m.forward(ids); print("argmax per position", lg.argmax(1).tolist()); print("greedy", m.greedy(ids, a.n)[0])
