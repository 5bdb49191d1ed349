#!/usr/bin/env python3
"""Writes a GGUF file with random weights in the shape of Qwen3.6-35B-A3B (40 layers, 256 experts / 8, the types of a Q4_K_M mix
with a trunk in Q8_0: 20 GB), whose routing has the locality of real text. Needs nothing but Python; writes at disk speed.

  big_model.py OUT.gguf                        the true size
  big_model.py OUT.gguf --layers 4 --experts 16 --vocab 512 --hidden 256 --ff 256     a small one, for a dry run
  big_model.py OUT.gguf --nextn                with the block that guesses further tokens, as published files have it
  big_model.py OUT.gguf --hollow               the true size without data, in a moment: to try what is asked of shapes and types alone

Locality, in three parts: some experts of a layer are liked by all tokens (channel 0 is the same for every token and no layer
writes to it; the router's column for it differs by expert); tokens belong to 12 topics (id modulo 12) that share most of their
embedding, so that they choose alike; and `rotary bench --topics 12` draws tokens that stay with a topic. Layers add little to the stream, so
that this holds in all of them. Speed does not depend on the values otherwise: blocks come from a pool of random ones.
"""
import argparse, array, math, random, struct, sys, time

F32, Q8_0, Q4_K, Q5_K, Q6_K = 0, 8, 12, 13, 14
BLOCK = {F32: (1, 4), Q8_0: (32, 34), Q4_K: (256, 144), Q5_K: (256, 176), Q6_K: (256, 210)}
TOPICS, VARIANTS, SKEW, SHARE, ALIGN = 12, 64, 0.6, 0.7, 32


def f16(x): return struct.pack("<e", x)


def scales(r):
    """12 packed bytes of Q4_K and Q5_K: eight scales of 6 bits, each equal to its minimum."""
    s = [r.randrange(40, 64) for _ in range(8)]
    low = [s[j] | (s[j + 4] >> 4) << 6 for j in range(4)]
    return bytes(low + low + [(s[j + 4] & 15) * 17 for j in range(4)])


def block(r, ty, std):
    """One random block whose weights have mean 0 and this deviation."""
    if ty == Q8_0: return f16(std / 73.9) + r.randbytes(32)
    if ty == Q4_K: d = std / (51.5 * 4.61); return f16(d) + f16(7.5 * d) + scales(r) + r.randbytes(128)
    if ty == Q5_K: d = std / (51.5 * 9.23); return f16(d) + f16(15.5 * d) + scales(r) + r.randbytes(160)
    sc = bytes((r.randrange(80, 128) * r.choice((1, -1))) & 255 for _ in range(16))
    return r.randbytes(192) + sc + f16(std / (104 * 18.5))


class Pool:
    """Random blocks by type and deviation; tensors are stretches of them."""

    def __init__(self, r, size): self.r, self.size, self.made = r, size, {}

    def bytes(self, ty, std, n):
        bb = BLOCK[ty][1]
        key = (ty, round(std, 9))
        if key not in self.made:
            self.made[key] = b"".join(block(self.r, ty, std) for _ in range(max(1, self.size // bb)))
        p = self.made[key]
        while n > 0:
            at = self.r.randrange(len(p) // bb) * bb
            piece = p[at:at + n]
            yield piece
            n -= len(piece)


def q8(row):
    out = []
    for i in range(0, len(row), 32):
        b = row[i:i + 32]
        d = max(map(abs, b)) / 127 or 1.0
        d = struct.unpack("<e", f16(d))[0]
        out.append(f16(d) + bytes(max(-127, min(127, round(x / d))) & 255 for x in b))
    return b"".join(out)


class Value:
    """Metadata, in GGUF's own encoding."""

    def __init__(self, out): self.out = out

    def text(self, s):
        b = s.encode()
        return struct.pack("<Q", len(b)) + b

    def put(self, key, v):
        self.out.append(self.text(key) + self.typed(v))

    def typed(self, v):
        if isinstance(v, bool): return struct.pack("<IB", 7, v)
        if isinstance(v, int): return struct.pack("<II", 4, v)
        if isinstance(v, float): return struct.pack("<If", 6, v)
        if isinstance(v, str): return struct.pack("<I", 8) + self.text(v)
        if v and isinstance(v[0], str): return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(self.text, v))
        return struct.pack("<IIQ", 9, 5 if v else 8, len(v)) + array.array("i", v).tobytes()


def tokens(vocab):
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    odd = iter(range(256, 512))
    t = [chr(b) if b in plain else chr(next(odd)) for b in range(256)][:vocab - 3]
    t += [f"t{i}" for i in range(len(t), vocab - 3)]
    return t + ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out")
    for name, n in [("layers", 40), ("experts", 256), ("top-k", 8), ("vocab", 248320), ("hidden", 2048), ("ff", 512), ("heads", 16), ("seed", 1)]:
        a.add_argument(f"--{name}", type=int, default=n)
    a.add_argument("--nextn", action="store_true", help="the block that guesses further tokens")
    a.add_argument("--hollow", action="store_true", help="no data, only the room for them: a file of holes that takes no disk")
    a = a.parse_args()
    small = a.hidden < 2048
    H, E, V, FF, L = a.hidden, a.experts, a.vocab, a.ff, a.layers
    head_dim, kv, lin = (64, 2, 32) if small else (256, 2, 128)
    keys, values = (2, 4) if small else (16, 32)
    heads = 4 if small else a.heads
    conv = 2 * keys * lin + values * lin
    r = random.Random(a.seed)
    meta = []
    m = Value(meta)
    m.put("general.architecture", "qwen35moe")
    m.put("general.name", f"random 35B-A3B shape, {L} layers")
    m.put("general.file_type", 15)
    m.put("general.quantization_version", 2)
    rot = head_dim // 4
    for key, v in [("block_count", L + a.nextn), ("context_length", 262144), ("embedding_length", H), ("attention.head_count", heads),
                   ("attention.head_count_kv", kv), ("attention.key_length", head_dim), ("attention.value_length", head_dim),
                   ("rope.dimension_count", rot), ("expert_count", E), ("expert_used_count", a.top_k), ("expert_feed_forward_length", FF),
                   ("expert_shared_feed_forward_length", FF), ("ssm.conv_kernel", 4), ("ssm.state_size", lin), ("ssm.group_count", keys),
                   ("ssm.time_step_rank", values), ("ssm.inner_size", values * lin), ("full_attention_interval", 4),
                   ("attention.layer_norm_rms_epsilon", 1e-6), ("rope.freq_base", 1e7),
                   ("rope.dimension_sections", [11, 11, 10, 0] if not small else [3, 3, 2, 0])]:
        m.put(f"qwen35moe.{key}", v)
    if a.nextn:
        m.put("qwen35moe.nextn_predict_layers", 1)
    m.put("tokenizer.ggml.model", "gpt2")
    m.put("tokenizer.ggml.pre", "qwen35")
    m.put("tokenizer.ggml.tokens", tokens(V))
    m.put("tokenizer.ggml.token_type", [1] * (V - 3) + [3] * 3)
    m.put("tokenizer.ggml.merges", [])
    m.put("tokenizer.ggml.eos_token_id", V - 1)
    m.put("tokenizer.ggml.bos_token_id", V - 3)
    m.put("tokenizer.ggml.padding_token_id", V - 3)
    m.put("tokenizer.ggml.add_bos_token", False)

    plan = []       # name, shape as in the file (contiguous first), type, what
    add = lambda name, ty, shape, what: plan.append((name, shape, ty, what))
    add("token_embd.weight", Q8_0, (H, V), "embedding")
    add("output.weight", Q6_K, (H, V), 1.0)
    add("output_norm.weight", F32, (H,), (1.0, 0.0))
    for b in range(L + a.nextn):
        n = lambda part: f"blk.{b}.{part}"
        add(n("attn_norm.weight"), F32, (H,), (1.0, 0.0))
        add(n("post_attention_norm.weight"), F32, (H,), (1.0, 0.0))
        if (b + 1) % 4 == 0 or b == L:
            add(n("attn_q.weight"), Q8_0, (H, 2 * heads * head_dim), 1.0)
            add(n("attn_k.weight"), Q8_0, (H, kv * head_dim), 1.0)
            add(n("attn_v.weight"), Q8_0, (H, kv * head_dim), 1.0)
            add(n("attn_output.weight"), Q8_0, (heads * head_dim, H), "out")
            add(n("attn_q_norm.weight"), F32, (head_dim,), (1.0, 0.1))
            add(n("attn_k_norm.weight"), F32, (head_dim,), (1.0, 0.1))
        else:
            add(n("attn_qkv.weight"), Q8_0, (H, conv), 1.0)
            add(n("attn_gate.weight"), Q8_0, (H, values * lin), 1.0)
            add(n("ssm_out.weight"), Q8_0, (values * lin, H), "out")
            add(n("ssm_alpha.weight"), F32, (H, values), (0.0, 1 / math.sqrt(H)))
            add(n("ssm_beta.weight"), F32, (H, values), (0.0, 1 / math.sqrt(H)))
            add(n("ssm_conv1d.weight"), F32, (4, conv), (0.0, 0.5))
            add(n("ssm_dt.bias"), F32, (values,), (-2.0, 1.0))
            add(n("ssm_a"), F32, (values,), "decay")
            add(n("ssm_norm.weight"), F32, (lin,), (1.0, 0.1))
        add(n("ffn_gate_inp.weight"), F32, (H, E), "router")
        add(n("ffn_gate_exps.weight"), Q4_K, (H, FF, E), 1.0)
        add(n("ffn_up_exps.weight"), Q4_K, (H, FF, E), 1.0)
        add(n("ffn_down_exps.weight"), Q6_K if b in (34, 38, 39) else Q5_K, (FF, H, E), "out")
        add(n("ffn_gate_inp_shexp.weight"), F32, (H,), (0.0, 1 / math.sqrt(H)))
        add(n("ffn_gate_shexp.weight"), Q8_0, (H, FF), 1.0)
        add(n("ffn_up_shexp.weight"), Q8_0, (H, FF), 1.0)
        add(n("ffn_down_shexp.weight"), Q8_0, (FF, H), "out")
        if b == L:
            add(n("nextn.eh_proj.weight"), Q8_0, (2 * H, H), 1.0)
            for norm in ("enorm", "hnorm", "shared_head_norm"): add(n(f"nextn.{norm}.weight"), F32, (H,), (1.0, 0.0))

    def size(ty, shape):
        be, bb = BLOCK[ty]
        assert shape[0] % be == 0, f"rows of {shape[0]} don't go into blocks of {be}"
        return math.prod(shape) // be * bb

    info, at = [], 0
    for name, shape, ty, _ in plan:
        info.append(m.text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", ty, at))
        at += -(-size(ty, shape) // ALIGN) * ALIGN
    begin, total = time.time(), at
    pool = Pool(r, (1 if small else 16) << 20)
    gauss = array.array("f", (r.gauss(0, 1) for _ in range((1 << 16) if small else (1 << 21))))

    def normal(n, centre=0.0, std=1.0):
        i = r.randrange(max(1, len(gauss) - n))
        piece = gauss[i:i + n]
        while len(piece) < n: piece += gauss[:n - len(piece)]
        return array.array("f", (centre + std * x for x in piece)) if (centre, std) != (0.0, 1.0) else piece

    with open(a.out, "wb") as f:
        f.write(struct.pack("<4sIQQ", b"GGUF", 3, len(plan), len(meta)) + b"".join(meta) + b"".join(info))
        f.write(bytes(-f.tell() % ALIGN))
        if a.hollow:
            f.truncate(f.tell() + total)
            return
        done = 0
        for name, shape, ty, what in plan:
            n = size(ty, shape)
            if what == "embedding":
                topics = [normal(H) for _ in range(TOPICS)]
                mix = lambda t, v: [1.0] + [math.sqrt(SHARE) * x + math.sqrt(1 - SHARE) * y for x, y in zip(topics[t][1:], v[1:])]
                rows = [[q8(mix(t, normal(H))) for _ in range(VARIANTS)] for t in range(TOPICS)]
                for id in range(V): f.write(rows[id % TOPICS][id // TOPICS % VARIANTS])
            elif what == "router":
                std = 1 / math.sqrt(H)
                for _ in range(E):
                    row = normal(H, 0.0, std)
                    row[0] = r.gauss(0, SKEW)
                    f.write(row.tobytes())
            elif what == "decay":
                f.write(array.array("f", (-abs(x) for x in normal(shape[0], -1.0, 0.2))).tobytes())
            elif what == "out":
                # The layers' results are small beside the embedding, and channel 0 is left alone.
                per = math.prod(shape[2:]) if len(shape) > 2 else 1
                row = shape[0] // BLOCK[ty][0] * BLOCK[ty][1]
                for _ in range(per):
                    f.write(bytes(row))
                    for piece in pool.bytes(ty, 0.05 / math.sqrt(shape[0]), n // per - row): f.write(piece)
            elif ty == F32:
                f.write(normal(math.prod(shape), *what).tobytes())
            else:
                for piece in pool.bytes(ty, what / math.sqrt(shape[0]), n): f.write(piece)
            f.write(bytes(-n % ALIGN))
            done += n
            if sys.stderr.isatty(): print(f"\r{done / total:5.0%} {name:<40}", end="", file=sys.stderr)
    print(f"{a.out}: {total / 1e9:.2f} GB in {time.time() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__": main()
