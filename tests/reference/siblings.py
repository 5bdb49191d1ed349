"""Reference cases for the siblings of `qwen35moe`: the dense `qwen35`, and the elder `qwen3next`.

  siblings.py qwen35|qwen3next OUT --seed 1 --lens 5,17,70

Random weights in transformers' own model, exact in float16; logits, routes (qwen3next) and greedy text from it in float32; the GGUF file
(F16, and F32 beside it) with the names, orders and metadata of llama.cpp's converter, through PyPI `gguf` alone; llama.cpp's own
answer on the F32 file is compared if it is at hand. Output: model-F16.gguf, model-F32.gguf, ref.npz, report.json.

What sets qwen3next apart in a file: value heads stay grouped by their key head, `ssm_ba` holds strengths and decays per key head, no
sections of the rotation. Its first files held queries, keys, values and gates in one `ssm_in` (`--legacy` writes such a file).
"""
from __future__ import annotations
import argparse, json, pathlib
import numpy as np, torch, transformers, gguf
import tok
from make_fixtures import gap, prompts

COMMON = dict(num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=2e-6, max_position_embeddings=4096, linear_conv_kernel_dim=4,
              linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=6, head_dim=32, partial_rotary_factor=0.5)
ROPE = dict(rope_type="default", rope_theta=31000.0, partial_rotary_factor=0.5)
ARCH = {
    "qwen35": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", "qwen35", dict(COMMON, vocab_size=318, hidden_size=56, num_hidden_layers=3,
               intermediate_size=88, full_attention_interval=3, layer_types=["linear_attention", "linear_attention", "full_attention"],
               tie_word_embeddings=True, rope_parameters=dict(ROPE, mrope_section=[3, 3, 2], mrope_interleaved=True))),
    "qwen3next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", "qwen2", dict(COMMON, vocab_size=318, hidden_size=56, num_hidden_layers=3,
                  intermediate_size=88, moe_intermediate_size=24, shared_expert_intermediate_size=40, num_experts=7, num_experts_per_tok=3,
                  norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], layer_types=["linear_attention", "full_attention", "linear_attention"],
                  tie_word_embeddings=False, rope_parameters=ROPE)),
}


def fill(model, seed):
    """Weights of unit gain, a peaked router, norms around their centre, decays from a few to hundreds of tokens; all exact in float16."""
    g = torch.Generator().manual_seed(seed)
    rnd = lambda p: torch.randn(p.shape, generator=g)
    with torch.no_grad():
        for k, p in model.state_dict().items():
            if not p.dtype.is_floating_point or "inv_freq" in k: continue
            if k.endswith("A_log"): v = torch.log(torch.rand(p.shape, generator=g) * 3 + 0.05)
            elif k.endswith("dt_bias"): v = rnd(p) - 2
            elif "conv1d" in k: v = rnd(p) * 0.5
            elif p.ndim >= 2:
                gain = 0.7 * p.shape[-1] ** 0.5 if "embed" in k else 2.5 if "lm_head" in k else 3.0 if k.endswith("mlp.gate.weight") else \
                    0.5 if k.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj")) else 1.0
                v = rnd(p) * gain * p.shape[-1] ** -0.5
            else: v = p + 0.15 * rnd(p)
            p.copy_(v.half().float())


def tensors(arch, c, sd, legacy):
    """(name, array, stays F32), value heads in the architecture's order."""
    nk, nv, kd, vd = c.linear_num_key_heads, c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim
    r = nv // nk
    def tile(a, hd, dim=0):
        if arch == "qwen3next": return a
        s = a.shape
        a = a.reshape(*s[:dim], nk, r, hd, *s[dim + 1:])
        return np.ascontiguousarray(np.swapaxes(a, dim, dim + 1)).reshape(s)
    w = {k: v.float().numpy() for k, v in sd.items()}
    plus = lambda a: a + np.float32(1)
    yield "token_embd.weight", w["model.embed_tokens.weight"], False
    for i in range(c.num_hidden_layers):
        p, b = f"model.layers.{i}.", f"blk.{i}."
        yield b + "attn_norm.weight", plus(w[p + "input_layernorm.weight"]), True
        yield b + "post_attention_norm.weight", plus(w[p + "post_attention_layernorm.weight"]), True
        if c.layer_types[i] == "full_attention":
            for h, n in (("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v"), ("o_proj", "attn_output")):
                yield b + n + ".weight", w[p + f"self_attn.{h}.weight"], False
            for n in ("q_norm", "k_norm"): yield b + f"attn_{n}.weight", plus(w[p + f"self_attn.{n}.weight"]), True
        else:
            q = p + "linear_attn."
            before = 2 * nk * kd
            if arch == "qwen3next":
                fused = w[q + "in_proj_qkvz.weight"]
                if legacy: yield b + "ssm_in.weight", fused, False
                else:
                    parts = np.split(fused.reshape(nk, -1, fused.shape[1]), np.cumsum([kd, kd, r * vd]), 1)
                    qs, ks, vs, zs = (x.reshape(-1, fused.shape[1]) for x in parts)
                    yield b + "attn_qkv.weight", np.concatenate([qs, ks, vs]), False
                    yield b + "attn_gate.weight", zs, False
                yield b + "ssm_ba.weight", w[q + "in_proj_ba.weight"], False
            else:
                m = w[q + "in_proj_qkv.weight"]
                yield b + "attn_qkv.weight", np.concatenate([m[:before], tile(m[before:], vd)]), False
                yield b + "attn_gate.weight", tile(w[q + "in_proj_z.weight"], vd), False
                yield b + "ssm_beta.weight", tile(w[q + "in_proj_b.weight"], 1), False
                yield b + "ssm_alpha.weight", tile(w[q + "in_proj_a.weight"], 1), False
            conv = w[q + "conv1d.weight"][:, 0]
            yield b + "ssm_conv1d.weight", np.concatenate([conv[:before], tile(conv[before:], vd)]), True
            yield b + "ssm_dt.bias", tile(w[q + "dt_bias"], 1), True
            yield b + "ssm_a", tile(-np.exp(w[q + "A_log"]), 1), True
            yield b + "ssm_norm.weight", w[q + "norm.weight"], True
            yield b + "ssm_out.weight", tile(w[q + "out_proj.weight"], vd, 1), False
        m = p + "mlp."
        if arch == "qwen35":
            for n in ("gate", "up", "down"): yield b + f"ffn_{n}.weight", w[m + f"{n}_proj.weight"], False
            continue
        yield b + "ffn_gate_inp.weight", w[m + "gate.weight"], True
        gu, ff = w[m + "experts.gate_up_proj"], c.moe_intermediate_size
        yield b + "ffn_gate_exps.weight", gu[:, :ff], False
        yield b + "ffn_up_exps.weight", gu[:, ff:], False
        yield b + "ffn_down_exps.weight", w[m + "experts.down_proj"], False
        for n in ("gate", "up", "down"): yield b + f"ffn_{n}_shexp.weight", w[m + f"shared_expert.{n}_proj.weight"], False
        yield b + "ffn_gate_inp_shexp.weight", w[m + "shared_expert_gate.weight"].reshape(-1), True
    yield "output_norm.weight", plus(w["model.norm.weight"]), True
    if not c.tie_word_embeddings: yield "output.weight", w["lm_head.weight"], False


def write(path, arch, c, sd, tk, pre, half, legacy):
    w = gguf.GGUFWriter(str(path), arch)
    w.add_type(gguf.GGUFType.MODEL); w.add_name("synthetic")
    w.add_block_count(c.num_hidden_layers); w.add_context_length(c.max_position_embeddings); w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads); w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim); w.add_value_length(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps); w.add_rope_freq_base(ROPE["rope_theta"]); w.add_rope_dimension_count(c.head_dim // 2)
    w.add_ssm_conv_kernel(c.linear_conv_kernel_dim); w.add_ssm_state_size(c.linear_key_head_dim); w.add_ssm_group_count(c.linear_num_key_heads)
    w.add_ssm_time_step_rank(c.linear_num_value_heads); w.add_ssm_inner_size(c.linear_num_value_heads * c.linear_value_head_dim)
    w.add_array(f"{arch}.attention.recurrent_layers", [t != "full_attention" for t in c.layer_types])
    if arch == "qwen35": w.add_rope_dimension_sections([3, 3, 2, 0])
    else:
        w.add_expert_count(c.num_experts); w.add_expert_used_count(c.num_experts_per_tok); w.add_expert_feed_forward_length(c.moe_intermediate_size)
        w.add_expert_shared_feed_forward_length(c.shared_expert_intermediate_size)
    tid = {s: tk.token_to_id(s) for s in tok.SPECIALS}
    tokens, types, merges = tok.gguf_vocab(json.loads(tk.to_str()), c.vocab_size)
    w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre(pre); w.add_token_list(tokens); w.add_token_types(types); w.add_token_merges(merges)
    w.add_eos_token_id(tid["<|im_end|>"]); w.add_bos_token_id(tid["<|endoftext|>"]); w.add_add_bos_token(False); w.add_chat_template(tok.CHATML)
    for n, a, keep in tensors(arch, c, sd, legacy):
        w.add_tensor(n, np.ascontiguousarray(a, dtype=np.float32 if keep or not half else np.float16))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("arch", choices=ARCH); ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--seed", type=int, default=1); ap.add_argument("--lens", default="5,17,70"); ap.add_argument("--greedy", type=int, default=48)
    ap.add_argument("--legacy", action="store_true", help="qwen3next: `ssm_in` instead of `attn_qkv` and `attn_gate`")
    a = ap.parse_args(); a.out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    config, model, pre, kw = ARCH[a.arch]
    if not torch.cuda.is_available():
        torch.cuda.is_current_stream_capturing = torch.cuda.graphs.is_current_stream_capturing = lambda: False
    c = getattr(transformers, config)(**kw); c._attn_implementation = "eager"
    m = getattr(transformers, model)(c).eval(); fill(m, a.seed)
    tk = tok.train(c.vocab_size, pre)
    sd = m.state_dict()
    for half in (False, True): write(a.out / f"model-F{16 if half else 32}.gguf", a.arch, c, sd, tk, pre, half, a.legacy)
    routed = {}
    if a.arch == "qwen3next":
        for i, l in enumerate(m.model.layers):
            l.mlp.gate.register_forward_hook(lambda mod, inp, out, i=i: routed.__setitem__(i, inp[0].detach().reshape(-1, c.hidden_size) @ mod.weight.T))
    ref, least = {}, np.inf
    with torch.no_grad():
        for i, p in enumerate(prompts(tk, c.vocab_size, a.seed, [int(n) for n in a.lens.split(",")])):
            l = m(torch.tensor([p]), use_cache=False).logits[0].numpy()
            ref |= {f"ids{i}": np.int32(p), f"logits{i}": l.astype(np.float32)}
            if routed:
                s = np.stack([routed[j].numpy() for j in sorted(routed)]); k = c.num_experts_per_tok
                order = np.argsort(-s, -1, kind="stable"); best = np.take_along_axis(s, order, -1)
                ref |= {f"routes{i}": order[..., :k].astype(np.int16), f"margin{i}": best[..., k - 1] - best[..., k]}
            o, out = m(torch.tensor([p]), use_cache=True), []
            for _ in range(a.greedy):
                g = o.logits[0, -1].numpy(); least = min(least, float(gap(g))); out.append(int(g.argmax()))
                o = m(torch.tensor([[out[-1]]]), past_key_values=o.past_key_values, use_cache=True)
            ref[f"greedy{i}"] = np.int32(out)
    np.savez_compressed(a.out / "ref.npz", **ref)
    rep = dict(params_m=round(sum(v.numel() for v in sd.values()) / 1e6, 2), least_greedy_gap=least, least_margin=float(min((ref[k].min() for k in ref if k.startswith("margin")), default=0)),
               logit_std=float(ref["logits0"].std()))
    try:
        from peer_llama import Llama
        L = Llama(a.out / "model-F32.gguf"); n = len(a.lens.split(","))
        d = [np.abs(L.forward(ref[f"ids{i}"].tolist())[:, :c.vocab_size] - ref[f"logits{i}"]).max() for i in range(n)]
        same = [L.greedy(ref[f"ids{i}"].tolist(), a.greedy) == ref[f"greedy{i}"].tolist() for i in range(n)]
        L.close(); rep |= dict(llama_max_abs=float(max(d)), llama_greedy_same=same)
    except Exception as e: rep["llama"] = f"not compared: {e}"
    (a.out / "report.json").write_text(json.dumps(rep, indent=1)); print(json.dumps(rep))


if __name__ == "__main__":
    main()
