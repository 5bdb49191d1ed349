// Norms, gates, sums: a thread per value, or a block per row.
#pragma once

#include "activation.cuh"
#include "params.cuh"
#include "simt.cuh"

DEVICE Float4 clamped4(Float4 v, float limit) { return {clamped(v.x, limit), clamped(v.y, limit), clamped(v.z, limit), clamped(v.w, limit)}; }
DEVICE float squares(Float4 v, float sum) { return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum)))); }

/// A thread keeps N times four values of the row, and the weights for them, so that memory is waited for once.
template <int N> DEVICE void rms_norm_fours(const Block& block, const RmsNorm& p, const float* x, float* y, Partials& room) {
    PerThread<Few<Float4, N>> values, weights;
    PerThread<float> sum;
    const uint32_t fours = p.len / 4;
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t i = n * block.threads + t;
            const bool in = i < fours;
            values[t][n] = in ? ((const Float4*)x)[i] : Float4{0, 0, 0, 0};
            weights[t][n] = in ? ((const Float4*)p.weight)[i] : Float4{0, 0, 0, 0};
        }
        float s = 0;
#pragma unroll
        for (int n = 0; n < N; n++) {
            values[t][n] = clamped4(values[t][n], p.limit);
            s = squares(values[t][n], s);
        }
        sum[t] = s;
    });
    const float scale = 1.0f / sqrtf(block_sum(block, sum, room) / (float)p.len + p.eps);
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t i = n * block.threads + t;
            if (i >= fours) return;
            const Float4 v = values[t][n], w = weights[t][n];
            ((Float4*)y)[i] = {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w};
        }
    });
}

DEVICE void rms_norm_block(const Block& block, const RmsNorm& p) {
    const uint32_t row = block.x / p.pieces, piece = block.x % p.pieces;
    const float* x = p.x + (size_t)row * p.x_stride + (size_t)piece * p.x_piece;
    float* y = p.y + (size_t)row * p.y_stride + (size_t)piece * p.len;
    SHARED(Partials, room);
    if (p.len % 4 == 0 && aligned16(x) && aligned16(y) && aligned16(p.weight)) {
        if (p.len <= 4 * block.threads) return rms_norm_fours<1>(block, p, x, y, room);
        if (p.len <= 8 * block.threads) return rms_norm_fours<2>(block, p, x, y, room);
        if (p.len <= 16 * block.threads) return rms_norm_fours<4>(block, p, x, y, room);
    }
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

/// A row that is read three times comes from a cache but for the first.
DEVICE void add_normed_block(const Block& block, const AddNormed& p) {
    const float* a = p.a + (size_t)block.x * p.a_stride;
    float *b = p.b ? p.b + (size_t)block.x * p.b_stride : nullptr, *x = p.x + (size_t)block.x * p.x_stride;
    struct Rooms {
        Partials a, b, both;
    };
    SHARED(Rooms, rooms);
    const auto scale_of = [&](float sum) INLINE { return 1.0f / sqrtf(sum / (float)p.len + p.eps); };
    const auto sum_of = [&](const float* row, Partials& room) INLINE {
        PerThread<float> sum;
        apart(block, [&](int t) INLINE {
            float s = 0;
            for (uint32_t i = t; i < p.len; i += block.threads) s = fmaf(row[i], row[i], s);
            sum[t] = s;
        });
        return block_sum(block, sum, room);
    };
    float scale_a = 1, scale_b = 1, total = sum_of(a, rooms.a);
    const auto given = [&](uint32_t i) INLINE { return b ? fmaf(a[i] * scale_a, p.a_weight[i], b[i] * scale_b * p.b_weight[i]) : a[i]; };
    if (b) {
        scale_a = scale_of(total), scale_b = scale_of(sum_of(b, rooms.b));
        PerThread<float> sum;
        apart(block, [&](int t) INLINE {
            float s = 0;
            for (uint32_t i = t; i < p.len; i += block.threads) {
                const float v = given(i);
                s = fmaf(v, v, s);
            }
            sum[t] = s;
        });
        total = block_sum(block, sum, rooms.both);
    }
    const float scale = scale_of(total);
    apart(block, [&](int t) INLINE {
        for (uint32_t i = t; i < p.len; i += block.threads) {
            x[i] = fmaf(given(i) * scale, p.weight[i], x[i]) * p.factor;
            if (b) b[i] = 0;
        }
    });
}

DEVICE void soft_cap_block(const Block& block, const SoftCap& p) {
    apart(block, [&](int t) INLINE {
        const uint32_t i = block.x * block.threads + t;
        if (i >= p.len) return;
        const float v = p.x[i];
        // All exponent bits set: it tells of damage.
        if ((float_bits(v) & 0x7f800000) != 0x7f800000) p.x[i] = p.cap * tanhf(v / p.cap);
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

DEVICE void glu_block(const Block& block, const Glu& p) {
    const uint32_t token = block.y;
    apart(block, [&](int t) INLINE {
        const uint32_t i = block.x * block.threads + t;
        if (i >= p.len) return;
        const size_t at = (size_t)token * p.stride + i;
        p.y[(size_t)token * p.len + i] = activated(p.activation, p.gate[at], p.up[at]);
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
