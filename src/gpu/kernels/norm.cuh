// Norms, gates, sums: a thread per value, or a block per row.
#pragma once

#include "params.cuh"
#include "simt.cuh"

DEVICE void rms_norm_block(const Block& block, const RmsNorm& p) {
    const uint32_t row = block.x / p.pieces, piece = block.x % p.pieces;
    const float* x = p.x + (size_t)row * p.x_stride + (size_t)piece * p.x_piece;
    float* y = p.y + (size_t)row * p.y_stride + (size_t)piece * p.len;
    SHARED(Partials, room);
    PerThread<float> sum;
    apart(block, [&](int t) INLINE {
        float s = 0;
        for (uint32_t i = t; i < p.len; i += block.threads) {
            const float v = clamped(x[i], p.limit);
            s = fmaf(v, v, s);
        }
        sum[t] = s;
    });
    const float scale = 1.0f / sqrtf(block_sum(block, sum, room) / (float)p.len + p.eps);
    // A thread writes only where it alone has read, so that x may be y.
    apart(block, [&](int t) INLINE {
        for (uint32_t i = t; i < p.len; i += block.threads) y[i] = clamped(x[i], p.limit) * scale * p.weight[i];
    });
}

DEVICE void gated_norm_block(const Block& block, const GatedNorm& p) {
    const uint32_t head = block.x, token = block.y;
    const float* x = p.x + ((size_t)token * p.heads + head) * p.dim;
    const float* gate = p.gate + (size_t)token * p.gate_stride + (size_t)head * p.dim;
    float* y = p.y + ((size_t)token * p.heads + (p.place ? p.place[head] : head)) * p.dim;
    SHARED(Partials, room);
    PerThread<float> sum;
    apart(block, [&](int t) INLINE {
        float s = 0;
        for (uint32_t i = t; i < p.dim; i += block.threads) s = fmaf(x[i], x[i], s);
        sum[t] = s;
    });
    const float scale = 1.0f / sqrtf(block_sum(block, sum, room) / (float)p.dim + p.eps);
    apart(block, [&](int t) INLINE {
        for (uint32_t i = t; i < p.dim; i += block.threads) y[i] = x[i] * scale * p.weight[i] * silu(gate[i]);
    });
}

DEVICE void gather_block(const Block& block, const Gather& p) {
    const uint32_t token = block.y;
    apart(block, [&](int t) INLINE {
        const uint32_t i = block.x * block.threads + t;
        if (i >= p.cols) return;
        float* y = p.y + (size_t)token * p.y_stride + i;
        float sum = *y;
        for (uint32_t j = token * p.top_k; j < (token + 1) * p.top_k; j++) {
            const uint32_t pair = p.pair_of[j];
            if (pair != 0xffffffff) sum = fmaf(p.weights[j], p.out[(size_t)pair * p.cols + i], sum);
        }
        *y = sum;
    });
}

DEVICE void swiglu_block(const Block& block, const SwiGlu& p) {
    const uint32_t token = block.y;
    apart(block, [&](int t) INLINE {
        const uint32_t i = block.x * block.threads + t;
        if (i >= p.len) return;
        const size_t at = (size_t)token * p.stride + i;
        p.y[(size_t)token * p.len + i] = silu(p.gate[at]) * p.up[at];
    });
}

DEVICE void add_block(const Block& block, const Add& p) {
    apart(block, [&](int t) INLINE {
        const uint32_t i = block.x * block.threads + t;
        if (i < p.len) p.y[i] += p.x[i];
    });
}

DEVICE void all_finite_block(const Block& block, const Finite& p) {
    apart(block, [&](int t) INLINE {
        bool bad = false;
        for (uint32_t k = 0; k < 4; k++) {
            const uint32_t i = (block.x * 4 + k) * block.threads + t;
            // All exponent bits set.
            bad = bad || (i < p.len && (float_bits(p.x[i]) & 0x7f800000) == 0x7f800000);
        }
        if (bad) set_bit(p.flag, 1);
    });
}
