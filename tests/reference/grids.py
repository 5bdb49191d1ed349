#!/usr/bin/env python3
"""Write src/kernels/grids.bin: the codebooks of the IQ types, as part of the GGUF format.

    python tests/reference/grids.py src/kernels/grids.bin        (needs numpy and gguf from PyPI)

Signed bytes, one after the other: IQ2_XXS [256, 8], IQ2_XS [512, 8], IQ2_S [1024, 8], IQ3_XXS [256, 4], IQ3_S [512, 4],
IQ1_S [2048, 8].
"""
import sys

import numpy as np
from gguf import quants

with open(sys.argv[1], "wb") as out:
    for name in ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"]:
        book = getattr(quants, name)
        book.init_grid()
        out.write(book.grid.reshape(book.grid_shape).astype(np.int8).tobytes())
