#!/usr/bin/env python3
"""Time ggml's CPU matrix products on the shapes of `rotary bench --kernels`, straight from its shared libraries.

    python tests/compare/ggml_dots.py FOLDER [--cpu haswell] [--threads 1] [--types Q4_K,Q6_K] [--tokens 1,8,128] [--rotary PATH]

FOLDER holds libggml-base.so and libggml-cpu-*.so, for example bins/linux-x64 of the npm package
@node-llama-cpp/linux-x64; --cpu is the variant that llama.cpp would pick on this machine (haswell: AVX2, icelake: AVX-512 with
VNNI, zen4: the same with BF16). Weights are not repacked. With --rotary, both take turns type by type, and the last column is
Rotary's speed in ggml's. Needs numpy.
"""
import argparse
import ctypes as C
import subprocess
import time

import numpy as np

TYPES = {  # name: (ggml number, elements of a block, bytes of a block, where its f16 scales are)
    "F32": (0, 1, 4, []), "F16": (1, 1, 2, []), "BF16": (30, 1, 2, []), "Q8_0": (8, 32, 34, [0]), "Q4_0": (2, 32, 18, [0]),
    "Q4_1": (3, 32, 20, [0, 2]), "Q5_0": (6, 32, 22, [0]), "Q5_1": (7, 32, 24, [0, 2]), "Q6_K": (14, 256, 210, [208]),
    "Q5_K": (13, 256, 176, [0, 2]), "Q4_K": (12, 256, 144, [0, 2]), "Q3_K": (11, 256, 110, [108]), "Q2_K": (10, 256, 84, [80, 82]),
    "IQ4_NL": (20, 32, 18, [0]), "IQ4_XS": (23, 256, 136, [0]), "MXFP4": (39, 32, 17, []), "IQ3_S": (21, 256, 110, [0]),
    "IQ3_XXS": (18, 256, 98, [0]), "IQ2_S": (22, 256, 82, [0]), "IQ2_XS": (17, 256, 74, [0]), "IQ2_XXS": (16, 256, 66, [0]),
    "IQ1_S": (19, 256, 50, [0]), "TQ2_0": (35, 256, 66, [64]), "TQ1_0": (34, 256, 54, [52]),
}
ROWS, COLS = 4096, 2048

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("folder")
p.add_argument("--cpu", default="haswell")
p.add_argument("--threads", type=int, default=1)
p.add_argument("--types", default=",".join(TYPES))
p.add_argument("--tokens", default="1,2,4,8,32,128")
p.add_argument("--ms", type=int, default=600)
p.add_argument("--rotary", help="also time this program")
a = p.parse_args()

base = C.CDLL(f"{a.folder}/libggml-base.so", mode=C.RTLD_GLOBAL)
cpu = C.CDLL(f"{a.folder}/libggml-cpu-{a.cpu}.so")


class Params(C.Structure):
    _fields_ = [("mem_size", C.c_size_t), ("mem_buffer", C.c_void_p), ("no_alloc", C.c_bool)]


ptr, i64 = C.c_void_p, C.c_int64
for lib, name, res, args in [
    (base, "ggml_init", ptr, [Params]), (base, "ggml_free", None, [ptr]), (base, "ggml_get_data", ptr, [ptr]),
    (base, "ggml_new_tensor_2d", ptr, [ptr, C.c_int, i64, i64]), (base, "ggml_mul_mat", ptr, [ptr, ptr, ptr]),
    (base, "ggml_new_graph", ptr, [ptr]), (base, "ggml_build_forward_expand", None, [ptr, ptr]),
    (cpu, "ggml_graph_compute_with_ctx", C.c_int, [ptr, ptr, C.c_int]), (cpu, "ggml_cpu_init", None, []),
]:
    f = getattr(lib, name)
    f.restype, f.argtypes = res, args
cpu.ggml_cpu_init()

rng = np.random.default_rng(7)


def rotary(name):
    """GMAC/s by number of tokens."""
    command = [a.rotary, "bench", "--kernels", "--types", name, "--threads", str(a.threads)]
    table = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    row = [cell.strip() for cell in table[-1].split("|")[1:-1]]
    return dict(zip((1, 2, 4, 8, 32, 128), map(float, row[2:8])))


head = ["type", "tokens", "GB/s", "GMAC/s"] + ["Rotary GMAC/s", "Rotary / ggml"] * bool(a.rotary)
print(f"ggml ({a.cpu}), {a.threads} threads, [{ROWS}, {COLS}], p10\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
for name in a.types.split(","):
    number, elems, size, scales = TYPES[name]
    nbytes = ROWS * COLS // elems * size
    blocks = rng.integers(0, 256, (nbytes // size, size), dtype=np.uint8)
    for at in scales:
        blocks[:, at:at + 2] = rng.uniform(-0.02, 0.08, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = 118 + blocks[:, 0] % 8
    elif not scales:
        v = rng.uniform(-1, 1, (len(blocks), 1)).astype(np.float16 if name == "F16" else np.float32)
        blocks = np.ascontiguousarray(v.view(np.uint8)[:, -size:])
    ours = rotary(name) if a.rotary else {}
    for tokens in map(int, a.tokens.split(",")):
        copies = max(2, (192 << 20) // nbytes)
        ctx = base.ggml_init(Params(copies * (nbytes + ROWS * tokens * 4 + 4096) + COLS * tokens * 8 + (64 << 20), None, False))
        x = base.ggml_new_tensor_2d(ctx, 0, COLS, tokens)
        values = rng.uniform(-0.5, 0.5, COLS * tokens).astype(np.float32)
        C.memmove(base.ggml_get_data(x), values.ctypes.data, values.nbytes)
        graphs = []
        for _ in range(copies):
            w = base.ggml_new_tensor_2d(ctx, number, COLS, ROWS)
            C.memmove(base.ggml_get_data(w), blocks.ctypes.data, nbytes)
            graph = base.ggml_new_graph(ctx)
            base.ggml_build_forward_expand(graph, base.ggml_mul_mat(ctx, w, x))
            graphs.append(graph)
        # One graph of one product each; its work buffer comes from a context of its own, made once.
        times, begin, i = [], time.perf_counter(), 0
        while time.perf_counter() - begin < a.ms / 1000 or len(times) < 3:
            work = base.ggml_init(Params(16 << 20, None, False))
            t = time.perf_counter()
            cpu.ggml_graph_compute_with_ctx(work, graphs[i % copies], a.threads)
            times.append(time.perf_counter() - t)
            base.ggml_free(work)
            i += 1
        s = sorted(times)[len(times) // 10]
        theirs = ROWS * COLS * tokens / s / 1e9
        line = f"| {name} | {tokens} | {nbytes / s / 1e9:.1f} | {theirs:.1f} |"
        print(line + (f" {ours[tokens]:.1f} | {ours[tokens] / theirs:.2f} |" if tokens in ours else ""), flush=True)
        base.ggml_free(ctx)
