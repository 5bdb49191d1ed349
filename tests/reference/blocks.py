#!/usr/bin/env python3
"""Write src/kernels/blocks.bin: random blocks of every quantized type with the values that gguf-py gives them.

    python tests/reference/blocks.py src/kernels/blocks.bin        (needs numpy and gguf from PyPI)

Layout, little endian: for each type, u32 ggml type, u32 blocks, u32 bytes of a block, u32 elements of a block,
the blocks, then the values as f32.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, quants

TYPES = [
    T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K,
    T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.IQ4_NL, T.IQ4_XS, T.TQ1_0, T.TQ2_0, T.MXFP4,
]
# Where the f16 scales of a block are: random bits there would mostly be infinite or tiny.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ1_S: [0], T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ4_NL: [0], T.IQ4_XS: [0],
    T.TQ1_0: [52], T.TQ2_0: [64],
}
BLOCKS = 4

rng = np.random.default_rng(20260101)
with open(sys.argv[1], "wb") as out:
    for t in TYPES:
        elems, size = GGML_QUANT_SIZES[t]
        count = BLOCKS if elems > 1 else 64
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        for at in SCALES.get(t, []):
            blocks[:, at:at + 2] = rng.normal(0, 0.1, (count, 1)).astype(np.float16).view(np.uint8)
        if t == T.IQ1_M:
            # The f16 scale lies in the high nibbles of the four last 16-bit words.
            d = rng.normal(0, 0.1, (count, 1)).astype(np.float16).view(np.uint16)
            words = blocks[:, 48:].copy().view(np.uint16)
            for k in range(4):
                words[:, k] = (words[:, k] & 0xFFF) | ((d[:, 0] >> (4 * k) & 15) << 12)
            blocks[:, 48:] = words.view(np.uint8)
        if t in (T.F16, T.BF16):
            kind = np.float16 if t == T.F16 else np.float32
            v = rng.normal(0, 1, (count, 1)).astype(kind).view(np.uint8)
            blocks = np.ascontiguousarray(v[:, -2:])
        values = quants.dequantize(blocks.reshape(-1), t).astype(np.float32).reshape(-1)
        assert values.size == count * elems and np.isfinite(values).all(), t
        out.write(struct.pack("<4I", int(t), count, size, elems))
        out.write(blocks.tobytes())
        out.write(values.astype("<f4").tobytes())
