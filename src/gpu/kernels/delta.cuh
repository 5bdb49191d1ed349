// The delta net: convolution and recurrence.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// Widest convolution.
#define TAPS 8
/// Longest key head.
#define KEY_DIM 256
/// Columns of a head's state that a block keeps: one per lane.
#define COLUMNS 32
/// Its warps, which share the rows of the state.
#define DELTA_WARPS 8

/// A thread has a channel, and the last inputs of it in registers.
DEVICE void convolve_block(const Block& block, const Convolve& p) {
    apart(block, [&](int t) INLINE {
        const uint32_t c = block.x * block.threads + t;
        if (c >= p.channels) return;
        // The newest is last; what is older than the width is not used.
        float taps[TAPS], window[TAPS];
        const int skip = TAPS - (int)p.width;
#pragma unroll
        for (int j = 0; j < TAPS; j++) {
            taps[j] = j >= skip ? p.taps[(size_t)(j - skip) * p.channels + c] : 0.0f;
            window[j] = j >= skip && j < TAPS - 1 ? p.carry[(size_t)(j - skip) * p.channels + c] : 0.0f;
        }
        for (uint32_t n = 0; n < p.tokens; n++) {
            window[TAPS - 1] = p.x[(size_t)n * p.x_stride + c];
            float sum = 0;
#pragma unroll
            for (int j = 0; j < TAPS; j++) {
                if (j >= skip) sum = fmaf(taps[j], window[j], sum);
            }
            p.y[(size_t)n * p.channels + c] = silu(sum);
#pragma unroll
            for (int j = 0; j + 1 < TAPS; j++) window[j] = window[j + 1];
        }
#pragma unroll
        for (int j = 0; j < TAPS - 1; j++) {
            if (j >= skip) p.carry[(size_t)(j - skip) * p.channels + c] = window[j];
        }
    });
}

/// What the threads of a block tell each other about a token.
struct DeltaShared {
    float q[KEY_DIM], k[KEY_DIM];
    float qq[DELTA_WARPS], kk[DELTA_WARPS], qk[DELTA_WARPS];
    float recall_k[DELTA_WARPS][COLUMNS], recall_q[DELTA_WARPS][COLUMNS];
};

/// `ln(1 + e^x)`, without overflow.
DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

/// Lane l of warp w keeps rows w, w + 8, w + 16.. of column l of the state in N registers, over all tokens. Per token it adds its part of S^T k and
/// S^T q; with the sums every thread moves its rows on. Since `(S')^T q = g S^T q + (k q) d` the new state need not be read again.
template <int N> DEVICE void delta_columns(const Block& block, const DeltaRule& p, DeltaShared& s) {
    const uint32_t h = block.x, channels = 2 * p.keys * p.key_dim + p.values * p.value_dim;
    const uint32_t query_at = h % p.keys * p.key_dim, key_at = p.keys * p.key_dim + query_at;
    const float bias = p.bias[h], rate = p.rate[h], shrink = 1.0f / sqrtf((float)p.key_dim);
    float* state = p.state + (size_t)h * p.key_dim * p.value_dim;
    PerThread<Few<float, N>> kept;
    PerThread<Few<float, 3>> norms;
    apart(block, [&](int t) INLINE {
        const uint32_t column = block.y * COLUMNS + t % LANES;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const uint32_t row = i * DELTA_WARPS + t / LANES;
            kept[t][i] = row < p.key_dim && column < p.value_dim ? state[(size_t)row * p.value_dim + column] : 0.0f;
        }
    });
    for (uint32_t n = 0; n < p.tokens; n++) {
        const float* mixed = p.mixed + (size_t)n * channels;
        apart(block, [&](int t) INLINE {
            const bool in = t < (int)p.key_dim;
            const float q = in ? mixed[query_at + t] : 0.0f, k = in ? mixed[key_at + t] : 0.0f;
            s.q[t] = q, s.k[t] = k;
            norms[t][0] = q * q, norms[t][1] = k * k, norms[t][2] = q * k;
        });
        warp_sum(block, norms);
        phase(block, [&](int t) INLINE {
            if (t % LANES == 0) s.qq[t / LANES] = norms[t][0], s.kk[t / LANES] = norms[t][1], s.qk[t / LANES] = norms[t][2];
        });
        phase(block, [&](int t) INLINE {
            float recall_k = 0, recall_q = 0;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const int row = i * DELTA_WARPS + t / LANES;
                recall_k = fmaf(s.k[row], kept[t][i], recall_k);
                recall_q = fmaf(s.q[row], kept[t][i], recall_q);
            }
            s.recall_k[t / LANES][t % LANES] = recall_k;
            s.recall_q[t / LANES][t % LANES] = recall_q;
        });
        const float decay = expf(rate * softplus(p.alpha[(size_t)n * p.alpha_stride + h] + bias));
        const float strength = sigmoid(p.beta[(size_t)n * p.beta_stride + h]);
        phase(block, [&](int t) INLINE {
            float qq = 0, kk = 0, qk = 0, recall_k = 0, recall_q = 0;
#pragma unroll
            for (int w = 0; w < DELTA_WARPS; w++) {
                qq += s.qq[w], kk += s.kk[w], qk += s.qk[w];
                recall_k += s.recall_k[w][t % LANES], recall_q += s.recall_q[w][t % LANES];
            }
            const float of_q = shrink / sqrtf(qq + p.eps), of_k = 1.0f / sqrtf(kk + p.eps);
            const uint32_t column = block.y * COLUMNS + t % LANES;
            const bool in = column < p.value_dim;
            const float v = in ? mixed[2 * p.keys * p.key_dim + h * p.value_dim + column] : 0.0f;
            const float change = strength * fmaf(-decay, recall_k * of_k, v);
#pragma unroll
            for (int i = 0; i < N; i++) kept[t][i] = fmaf(s.k[i * DELTA_WARPS + t / LANES] * of_k, change, decay * kept[t][i]);
            if (t < LANES && in) {
                p.y[((size_t)n * p.values + h) * p.value_dim + column] = fmaf(qk * of_q * of_k, change, decay * (recall_q * of_q));
            }
        });
    }
    apart(block, [&](int t) INLINE {
        const uint32_t column = block.y * COLUMNS + t % LANES;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const uint32_t row = i * DELTA_WARPS + t / LANES;
            if (row < p.key_dim && column < p.value_dim) state[(size_t)row * p.value_dim + column] = kept[t][i];
        }
    });
}

DEVICE void delta_rule_block(const Block& block, const DeltaRule& p) {
    SHARED(DeltaShared, shared);
    if (p.key_dim <= 64) return delta_columns<8>(block, p, shared);
    if (p.key_dim <= 128) return delta_columns<16>(block, p, shared);
    delta_columns<32>(block, p, shared);
}
