"""Peer B: llama.cpp through the ctypes layer of PyPI llama-cpp-python (logits of every position, greedy, quantize).

Works with the wheel that pip builds, or with any libllama of the same version: LLAMA_CPP_LIB_PATH=dir with libllama.so.
KV cache in F32 and no flash attention by default, so that only weight formats and activation rounding differ.
"""
from __future__ import annotations
import ctypes, os
import numpy as np

FTYPE = {"F32": 0, "F16": 1, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "Q2_K": 10, "Q3_K_M": 12,
         "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32, "MXFP4": 38}
_init = False


def lib():
    global _init
    if os.environ.get("LLAMA_CPP_LIB_PATH"):        # a foreign libllama may lack the newest symbols: ignore those
        old = ctypes.CDLL.__getattr__

        def soft(self, name):
            try: return old(self, name)
            except AttributeError: return old(self, "llama_backend_init")
        ctypes.CDLL.__getattr__ = soft
        import llama_cpp.llama_cpp as L
        ctypes.CDLL.__getattr__ = old
    import llama_cpp.llama_cpp as L
    if not _init:
        L.llama_backend_init()
        if os.environ.get("GGML_BACKEND_DIR"):      # builds whose CPU backend is a plug-in (npm @node-llama-cpp)
            import glob
            d = os.environ["GGML_BACKEND_DIR"]
            so = sorted(glob.glob(d + "/libggml.so*") + glob.glob(d + "/libggml.v*.so"))[0]
            g = ctypes.CDLL(so); g.ggml_backend_load_all_from_path(d.encode())
        if os.environ.get("LLAMA_QUIET", "1") == "1":
            global _cb
            _cb = L.llama_log_callback(lambda lvl, txt, ud: None)
            L.llama_log_set(_cb, ctypes.c_void_p(0))
        _init = True
    return L


def quantize(src, dst, kind, threads=1, pure=False):
    L = lib()
    p = L.llama_model_quantize_default_params()
    p.ftype, p.nthread, p.pure = FTYPE[kind], threads, pure
    rc = L.llama_model_quantize(str(src).encode(), str(dst).encode(), ctypes.byref(p))
    if rc: raise RuntimeError(f"quantize {kind}: {rc}")


class Llama:
    def __init__(self, path, n_ctx=1024, threads=1, kv_f32=True, flash=False, ubatch=512):
        L = self.L = lib()
        mp = L.llama_model_default_params()
        mp.n_gpu_layers = 0
        if hasattr(mp, "use_extra_bufts"): mp.use_extra_bufts = False   # no weight repacking
        self.model = L.llama_model_load_from_file(str(path).encode(), mp)
        if not self.model: raise RuntimeError(f"load {path}")
        cp = L.llama_context_default_params()
        cp.n_ctx, cp.n_batch, cp.n_ubatch, cp.n_threads, cp.n_threads_batch = n_ctx, n_ctx, ubatch, threads, threads
        if kv_f32: cp.type_k = cp.type_v = 0
        if hasattr(cp, "flash_attn_type"): cp.flash_attn_type = 1 if flash else 0
        self.ctx = L.llama_init_from_model(self.model, cp)
        self.vocab = L.llama_model_get_vocab(self.model)
        self.nv = L.llama_vocab_n_tokens(self.vocab)

    def reset(self): self.L.llama_memory_clear(self.L.llama_get_memory(self.ctx), True)

    def decode(self, ids, pos0, all_logits=True):
        L = self.L
        b = L.llama_batch_init(len(ids), 0, 1)
        for i, t in enumerate(ids):
            b.token[i], b.pos[i], b.n_seq_id[i] = t, pos0 + i, 1
            b.seq_id[i][0] = 0
            b.logits[i] = 1 if all_logits or i == len(ids) - 1 else 0
        b.n_tokens = len(ids)
        rc = L.llama_decode(self.ctx, b)
        if rc: raise RuntimeError(f"decode {rc}")
        n = len(ids) if all_logits else 1
        p = L.llama_get_logits(self.ctx)
        out = np.ctypeslib.as_array(ctypes.cast(p, ctypes.POINTER(ctypes.c_float)), (n, self.nv)).copy()
        L.llama_batch_free(b)
        return out

    def forward(self, ids): self.reset(); return self.decode(ids, 0)

    def greedy(self, ids, n):
        self.reset(); lg = self.decode(ids, 0, False)[-1]; out = []
        for i in range(n):
            out.append(int(lg.argmax())); lg = self.decode([out[-1]], len(ids) + i)[-1]
        return out

    def tokenize(self, text: str, special=True):
        d = text.encode(); buf = (ctypes.c_int32 * (len(d) + 8))()
        n = self.L.llama_tokenize(self.vocab, d, len(d), buf, len(buf), False, special)
        return list(buf[:n])

    def close(self): self.L.llama_free(self.ctx); self.L.llama_model_free(self.model)
