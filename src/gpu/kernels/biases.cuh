// Experts with biases, and with the activations that gpt-oss and Gemma have: `BiasedUp` and `RoutedBias` in params.rs.
#pragma once

#include "activation.cuh"
#include "params.cuh"
#include "simt.cuh"

/// What a row of gate and the same of up give: without biases.
struct Plain {
    DEVICE float operator()(uint32_t, uint32_t, float gate, float up) const { return silu(gate) * up; }
};

/// With those of an expert, if there are any.
struct Biased {
    const float* bias;
    uint32_t rows, activation;
    DEVICE float operator()(uint32_t expert, uint32_t row, float gate, float up) const {
        if (bias) {
            const float* mine = bias + (size_t)expert * 2 * rows + row;
            gate += mine[0], up += mine[rows];
        }
        return activated(activation, gate, up);
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
