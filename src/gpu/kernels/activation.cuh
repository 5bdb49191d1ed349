// What a row of gate and the same of up become together: `Activation` in kernels/rows.rs, by its numbers.
#pragma once

#include "simt.cuh"

#define CLAMPED 1
#define GEGLU 2
/// As in kernels/rows.rs.
#define CLAMP 7.0f
#define SLOPE 1.702f

/// In the form with a tanh, which is a sigmoid of twice as much.
DEVICE float gelu(float x) { return x * sigmoid(1.5957691f * fmaf(0.044715f * x * x, x, x)); }

/// What is no number stays none.
DEVICE float activated(uint32_t activation, float gate, float up) {
    if (activation == GEGLU) return gelu(gate) * up;
    if (activation != CLAMPED) return silu(gate) * up;
    gate = gate > CLAMP ? CLAMP : gate, up = up > CLAMP ? CLAMP : up < -CLAMP ? -CLAMP : up;
    return gate * sigmoid(SLOPE * gate) * (up + 1.0f);
}
