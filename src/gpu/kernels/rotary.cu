// The kernels by name, as `params.rs` has them. Everything else is in the headers beside this file, so that one run of nvcc compiles all.
#include "attention.cuh"
#include "chunk_attention.cuh"
#include "delta.cuh"
#include "latent.cuh"
#include "mailbox.cuh"
#include "matmul.cuh"
#include "norm.cuh"
#include "matvec.cuh"
#include "route.cuh"

#define ENTRY(name, Params, threads, blocks)                                                                                 \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p) {                   \
        dependents_may_come();                                                                                                \
        if (!WaitsItself<Params>::value) in_turn();                                                                           \
        name##_block(Block{blockIdx.x, blockIdx.y, blockIdx.z, blockDim.x}, p);                                               \
    }

#include "entries.inc"
