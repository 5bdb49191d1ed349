// Experts with biases, and the activation that gpt-oss has: `BiasedUp` and `RoutedBias` in params.rs.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// As in kernels/rows.rs.
#define CLAMP 7.0f
#define SLOPE 1.702f

/// What a row of gate and the same of up give: without biases.
struct Plain {
    DEVICE float operator()(uint32_t, uint32_t, float gate, float up) const { return silu(gate) * up; }
};

/// With those of an expert.
struct Biased {
    const float* bias;
    uint32_t rows, clamped;
    DEVICE float operator()(uint32_t expert, uint32_t row, float gate, float up) const {
        const float* mine = bias + (size_t)expert * 2 * rows + row;
        gate += mine[0], up += mine[rows];
        if (!clamped) return silu(gate) * up;
        // What is no number stays none.
        gate = gate > CLAMP ? CLAMP : gate, up = up > CLAMP ? CLAMP : up < -CLAMP ? -CLAMP : up;
        return gate * sigmoid(SLOPE * gate) * (up + 1.0f);
    }
};

/// Plain has nothing to look up.
DEVICE uint32_t expert_at(const Plain&, const uint32_t*, size_t) { return 0; }
DEVICE uint32_t expert_at(const Biased&, const uint32_t* experts, size_t at) { return experts[at]; }

DEVICE void routed_bias_block(const Block& block, const RoutedBias& p) {
    const uint32_t token = block.y;
    apart(block, [&](int t) INLINE {
        const uint32_t i = block.x * block.threads + t;
        if (i >= p.cols) return;
        float* y = p.y + (size_t)token * p.y_stride + i;
        float sum = *y;
        for (uint32_t j = token * p.top_k; j < (token + 1) * p.top_k; j++) sum = fmaf(p.weights[j], p.bias[(size_t)p.ids[j] * p.cols + i], sum);
        *y = sum;
    });
}
