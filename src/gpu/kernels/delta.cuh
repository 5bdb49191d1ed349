// The delta net: convolution and recurrence; and the gated convolution that is a layer by itself.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// Widest convolution.
#define TAPS 8
/// Tokens of a thread, no fewer than taps.
#define STRETCH 32
/// Those that are loaded together.
#define AT_ONCE 8
/// Columns of a head's state that a block keeps: four per warp.
#define COLUMNS 32
#define DELTA_WARPS 8

/// A convolution over what `input(token)` says for channel c. `p` has its taps, its carry and its sizes, and `give` gets each token's sum.
/// A thread has a channel and a stretch of tokens, and the last inputs of it in registers.
///
/// The first stretch alone reads `carry`, so it alone writes it: what the last stretch leaves is among its inputs, or the whole launch is one stretch.
template <class P, class Input, class Give> DEVICE void slide(const Block& block, const P& p, Input input, Give give) {
    apart(block, [&](int t) INLINE {
        const uint32_t c = block.x * block.threads + t, first = block.y * STRETCH;
        if (c >= p.channels) return;
        const uint32_t end = p.tokens - first < STRETCH ? p.tokens : first + STRETCH;
        // The newest is last; what is older than the width is not used.
        float taps[TAPS], window[TAPS + AT_ONCE - 1];
        const int skip = TAPS - (int)p.width;
#pragma unroll
        for (int j = 0; j < TAPS; j++) taps[j] = j >= skip ? p.taps[(size_t)(j - skip) * p.channels + c] : 0.0f;
#pragma unroll
        for (int j = 0; j < TAPS - 1; j++) {
            if (j < skip) {
                window[j] = 0;
            } else if (first == 0) {
                window[j] = p.carry[(size_t)(j - skip) * p.channels + c];
            } else {
                window[j] = input(first + j - (TAPS - 1), c);
            }
        }
        if (first == 0) {
            for (int j = skip; j < TAPS - 1; j++) {
                // Of the inputs and what was before them, the last; what is moved is read before it is overwritten.
                const uint32_t at = p.tokens + j - skip;
                const uint32_t before = TAPS - 1 - skip;
                p.carry[(size_t)(j - skip) * p.channels + c] =
                    at < before ? p.carry[(size_t)at * p.channels + c] : input(at - before, c);
            }
        }
        for (uint32_t n = first; n < end; n += AT_ONCE) {
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) window[TAPS - 1 + i] = n + i < end ? input(n + i, c) : 0.0f;
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (n + i >= end) break;
                float sum = 0;
#pragma unroll
                for (int j = 0; j < TAPS; j++) {
                    if (j >= skip) sum = fmaf(taps[j], window[i + j], sum);
                }
                give(n + i, c, sum);
            }
#pragma unroll
            for (int j = 0; j < TAPS - 1; j++) window[j] = window[j + AT_ONCE];
        }
    });
}

DEVICE void convolve_block(const Block& block, const Convolve& p) {
    slide(
        block, p, [&](uint32_t n, uint32_t c) INLINE { return p.x[(size_t)n * p.x_stride + c]; },
        [&](uint32_t n, uint32_t c, float sum) INLINE { p.y[(size_t)n * p.channels + c] = silu(sum); });
}

/// Rows are `[b | c | x]`: what slides is `b x`, and each sum is multiplied by `c`.
DEVICE void short_conv_block(const Block& block, const ShortConv& p) {
    slide(
        block, p,
        [&](uint32_t n, uint32_t c) INLINE {
            const float* row = p.parts + (size_t)n * p.stride + c;
            return row[0] * row[(size_t)2 * p.channels];
        },
        [&](uint32_t n, uint32_t c, float sum) INLINE {
            p.y[(size_t)n * p.channels + c] = p.parts[(size_t)n * p.stride + p.channels + c] * sum;
        });
}

/// What the threads of a block know of eight tokens, each prepared by one warp: queries and keys of unit length, how the state fades, how much is put in.
template <int N> struct DeltaShared {
    float q[DELTA_WARPS][8 * N], k[DELTA_WARPS][8 * N], v[DELTA_WARPS][COLUMNS];
    float qk[DELTA_WARPS], decay[DELTA_WARPS], strength[DELTA_WARPS];
};

/// `ln(1 + e^x)`, without overflow.
DEVICE float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

/// A warp keeps four columns of the state over all tokens, lanes 8 c.. column c: of every 32 rows four each, N in all. Nothing but queries, keys and values is
/// shared, so only each eighth token waits for the block. Per token a lane adds its part of S^T k and S^T q; with the sums of eight lanes it moves its rows on.
/// Since `(S')^T q = g S^T q + (k q) d` the new state need not be read again. What the next eight tokens need is loaded before these are worked on.
template <int N> DEVICE void delta_columns(const Block& block, const DeltaRule& p) {
    constexpr int DIMS = 8 * N / LANES;
    const uint32_t h = block.x, channels = 2 * p.keys * p.key_dim + p.values * p.value_dim;
    const uint32_t query_at = h % p.keys * p.key_dim, key_at = p.keys * p.key_dim + query_at, value_at = 2 * p.keys * p.key_dim + h * p.value_dim;
    const float bias = p.bias[h], rate = p.rate[h], shrink = 1.0f / sqrtf((float)p.key_dim);
    float* state = p.state + (size_t)h * p.key_dim * p.value_dim;
    SHARED(DeltaShared<N>, s);
    const auto column = [&](int t) INLINE { return block.y * COLUMNS + t / 8; };
    const auto row = [&](int t, int i) INLINE { return (uint32_t)(i / 4 * 32 + t % 8 * 4 + i % 4); };
    PerThread<Few<float, N>> kept;
    // Of the next token of this warp: queries, keys, and a value, alpha, beta.
    PerThread<Few<float, 2 * DIMS + 3>> next;
    PerThread<Few<float, 3>> norms;
    PerThread<Few<float, 2>> recall;
    const auto load = [&](uint32_t n) INLINE {
        apart(block, [&](int t) INLINE {
            const uint32_t token = n + t / LANES, l = t % LANES, value = block.y * COLUMNS + l;
            const bool in = token < p.tokens;
            const float* mixed = p.mixed + (size_t)token * channels;
#pragma unroll
            for (int i = 0; i < DIMS; i++) {
                const bool has = in && LANES * i + l < p.key_dim;
                next[t][i] = has ? mixed[query_at + LANES * i + l] : 0.0f;
                next[t][DIMS + i] = has ? mixed[key_at + LANES * i + l] : 0.0f;
            }
            next[t][2 * DIMS] = in && value < p.value_dim ? mixed[value_at + value] : 0.0f;
            next[t][2 * DIMS + 1] = in ? p.alpha[(size_t)token * p.alpha_stride + h] : 0.0f;
            next[t][2 * DIMS + 2] = in ? p.beta[(size_t)token * p.beta_stride + h] : 0.0f;
        });
    };
    load(0);
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const bool in = row(t, i) < p.key_dim && column(t) < p.value_dim;
            kept[t][i] = in ? state[(size_t)row(t, i) * p.value_dim + column(t)] : 0.0f;
        }
    });
    for (uint32_t n = 0; n < p.tokens; n += DELTA_WARPS) {
        apart(block, [&](int t) INLINE {
            norms[t] = {0, 0, 0};
#pragma unroll
            for (int i = 0; i < DIMS; i++) {
                const float q = next[t][i], k = next[t][DIMS + i];
                norms[t][0] = fmaf(q, q, norms[t][0]), norms[t][1] = fmaf(k, k, norms[t][1]), norms[t][2] = fmaf(q, k, norms[t][2]);
            }
        });
        warp_sum(block, norms);
        phase(block, [&](int t) INLINE {
            const int w = t / LANES, l = t % LANES;
            const float of_q = shrink / sqrtf(norms[t][0] + p.eps), of_k = 1.0f / sqrtf(norms[t][1] + p.eps);
#pragma unroll
            for (int i = 0; i < DIMS; i++) {
                s.q[w][LANES * i + l] = next[t][i] * of_q;
                s.k[w][LANES * i + l] = next[t][DIMS + i] * of_k;
            }
            s.v[w][l] = next[t][2 * DIMS];
            if (l == 0) {
                s.qk[w] = norms[t][2] * of_q * of_k;
                s.decay[w] = expf(rate * softplus(next[t][2 * DIMS + 1] + bias));
                s.strength[w] = sigmoid(next[t][2 * DIMS + 2]);
            }
        });
        if (n + DELTA_WARPS < p.tokens) load(n + DELTA_WARPS);
        const int count = p.tokens - n < DELTA_WARPS ? p.tokens - n : DELTA_WARPS;
#pragma unroll 2
        for (int m = 0; m < count; m++) {
            PerThread<Few<float, N>> keys;
            apart(block, [&](int t) INLINE {
                // Four sums of each, so that no addition waits for the one before.
                float k[4] = {0, 0, 0, 0}, q[4] = {0, 0, 0, 0};
#pragma unroll
                for (int i = 0; i < N; i += 4) {
                    const Float4 a = *(const Float4*)&s.k[m][row(t, i)], b = *(const Float4*)&s.q[m][row(t, i)];
                    keys[t][i] = a.x, keys[t][i + 1] = a.y, keys[t][i + 2] = a.z, keys[t][i + 3] = a.w;
                    k[0] = fmaf(a.x, kept[t][i], k[0]), k[1] = fmaf(a.y, kept[t][i + 1], k[1]);
                    k[2] = fmaf(a.z, kept[t][i + 2], k[2]), k[3] = fmaf(a.w, kept[t][i + 3], k[3]);
                    q[0] = fmaf(b.x, kept[t][i], q[0]), q[1] = fmaf(b.y, kept[t][i + 1], q[1]);
                    q[2] = fmaf(b.z, kept[t][i + 2], q[2]), q[3] = fmaf(b.w, kept[t][i + 3], q[3]);
                }
                recall[t] = {(k[0] + k[1]) + (k[2] + k[3]), (q[0] + q[1]) + (q[2] + q[3])};
            });
            sum_among(block, recall, 8);
            apart(block, [&](int t) INLINE {
                const float decay = s.decay[m], change = s.strength[m] * fmaf(-decay, recall[t][0], s.v[m][t / 8]);
#pragma unroll
                for (int i = 0; i < N; i++) kept[t][i] = fmaf(keys[t][i], change, decay * kept[t][i]);
                if (t % 8 == 0 && column(t) < p.value_dim) {
                    p.y[((size_t)(n + m) * p.values + h) * p.value_dim + column(t)] = fmaf(s.qk[m], change, decay * recall[t][1]);
                }
            });
        }
        phase(block, [](int) INLINE {});
    }
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (row(t, i) < p.key_dim && column(t) < p.value_dim) state[(size_t)row(t, i) * p.value_dim + column(t)] = kept[t][i];
        }
    });
}

DEVICE void delta_rule_block(const Block& block, const DeltaRule& p) {
    if (p.key_dim <= 64) return delta_columns<8>(block, p);
    if (p.key_dim <= 128) return delta_columns<16>(block, p);
    delta_columns<32>(block, p);
}
