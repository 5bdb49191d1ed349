"""The peer's half of llama.sh: llama.cpp's speed on one GGUF file, through its C API (PyPI llama-cpp-python's ctypes files).

  peer.py MODEL --threads 2 --prompt 128 --tokens 64 --repeat 3 [--repack]
  peer.py MODEL --threads 16 --gpu --cpu-moe 30       on a GPU (libggml-cuda beside the others), the experts of the first 30 layers on the host

One JSON line per repetition: {"prefill_tps": .., "decode_tps": ..}. Prompts are random token ids (a new one each time), so
that routing is spread; decoding feeds random ids too, for the same reason: what is measured is speed, not text.
llama.cpp's own defaults otherwise: KV cache F16, flash attention auto.
"""
from __future__ import annotations
import argparse, ctypes, glob, json, os, random, subprocess, sys, time


def library():
    """llama_cpp bound to the libllama of LLAMA_CPP_LIB_PATH; a build of another day may lack the newest symbols."""
    old = ctypes.CDLL.__getattr__

    def soft(self, name):
        try: return old(self, name)
        except AttributeError: return old(self, "llama_backend_init")
    ctypes.CDLL.__getattr__ = soft
    import llama_cpp.llama_cpp as L
    ctypes.CDLL.__getattr__ = old
    global _quiet
    _quiet = L.llama_log_callback(lambda level, text, data: None)
    L.llama_log_set(_quiet, ctypes.c_void_p(0))
    L.llama_backend_init()
    d = os.environ.get("GGML_BACKEND_DIR")
    if d: ctypes.CDLL(sorted(glob.glob(d + "/libggml.so*") + glob.glob(d + "/libggml.*v*.so"))[0]).ggml_backend_load_all_from_path(d.encode())
    return L


class Peer:
    def __init__(self, path, threads, repack, n_ctx, gpu=False, cpu_moe=0):
        L = self.L = library()
        mp = L.llama_model_default_params()
        mp.n_gpu_layers = 999 if gpu else 0
        mp.use_extra_bufts = repack
        if cpu_moe:
            # What llama.cpp's own option --n-cpu-moe does.
            base = ctypes.CDLL(glob.glob(os.environ["LLAMA_CPP_LIB_PATH"] + "/libggml-base.so*")[0])
            base.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
            cpu = base.ggml_backend_cpu_buffer_type()
            class Override(ctypes.Structure): _fields_ = [("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p)]
            self.overrides = (Override * (cpu_moe + 1))(*[Override(rf"blk\.{i}\.ffn_(up|down|gate)_(ch|)exps".encode(), cpu) for i in range(cpu_moe)])
            mp.tensor_buft_overrides = ctypes.cast(self.overrides, ctypes.c_void_p)
        self.model = L.llama_model_load_from_file(path.encode(), mp)
        if not self.model: sys.exit(f"llama.cpp cannot load {path}")
        cp = L.llama_context_default_params()
        cp.n_ctx = cp.n_batch = n_ctx
        cp.n_threads = cp.n_threads_batch = threads
        self.ctx = L.llama_init_from_model(self.model, cp)
        self.vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))

    def decode(self, ids, pos):
        L, b = self.L, self.L.llama_batch_init(len(ids), 0, 1)
        for i, t in enumerate(ids):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = t, pos + i, 1, int(i == len(ids) - 1)
            b.seq_id[i][0] = 0
        b.n_tokens = len(ids)
        rc = L.llama_decode(self.ctx, b)
        L.llama_batch_free(b)
        if rc: sys.exit(f"llama_decode: {rc}")
        L.llama_synchronize(self.ctx)

    def measure(self, prompt, tokens, rng):
        L = self.L
        L.llama_memory_clear(L.llama_get_memory(self.ctx), True)
        ids = [rng.randrange(min(self.vocab, 1 << 31)) for _ in range(prompt + tokens)]
        a = time.perf_counter(); self.decode(ids[:prompt], 0)
        b = time.perf_counter()
        for i in range(prompt, prompt + tokens): self.decode([ids[i]], i)
        c = time.perf_counter()
        return dict(prefill_tps=round(prompt / (b - a), 2), decode_tps=round(tokens / (c - b), 2))


def vram():
    """MiB in use on the first GPU."""
    out = subprocess.run(["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], stdout=subprocess.PIPE, text=True).stdout
    return int(out) if out.strip() else None


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model"); ap.add_argument("--threads", type=int, default=2); ap.add_argument("--prompt", type=int, default=128)
    ap.add_argument("--tokens", type=int, default=64); ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--repack", action="store_true", help="let llama.cpp keep a second, rearranged copy of the weights (its default)")
    ap.add_argument("--gpu", action="store_true", help="all layers on the GPU"); ap.add_argument("--cpu-moe", type=int, default=0, help="but the experts of so many")
    a = ap.parse_args()
    p, rng = Peer(a.model, a.threads, a.repack, a.prompt + a.tokens, a.gpu, a.cpu_moe), random.Random(1)
    p.measure(a.prompt, a.tokens, rng)       # does not count: touches the pages
    for _ in range(a.repeat):
        print(json.dumps(p.measure(a.prompt, a.tokens, rng) | ({"vram_mib": vram()} if a.gpu else {})), flush=True)


if __name__ == "__main__":
    main()
