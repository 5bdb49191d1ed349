// Attention: queries and keys prepared, keys in splits with a running softmax (Milakov and Gimelshein, arXiv 1805.02867), splits joined.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// Longest key or value head.
#define HEAD_DIM 512
/// Keys that a block looks at together.
#define KEYS 128
/// Neighbouring threads that share a key.
#define KEY_LANES 8

/// A value of a cache of f16, or of f32 if `wide`.
DEVICE void store_cached(void* cache, size_t at, float v, uint32_t wide) {
    if (wide)
        ((float*)cache)[at] = v;
    else
        ((uint16_t*)cache)[at] = float_half(v);
}

/// Eight values of a cache from element `at` on, a multiple of eight.
template <bool WIDE> DEVICE void eight_cached(const void* cache, size_t at, float (&v)[8]) {
    if (WIDE) {
        load8((const float*)cache + at, v);
    } else {
        const Word4 w = *(const Word4*)((const uint16_t*)cache + at);
        const uint32_t q[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 4; i++) v[2 * i] = half_float((uint16_t)q[i]), v[2 * i + 1] = half_float((uint16_t)(q[i] >> 16));
    }
}
template <bool WIDE> DEVICE float one_cached(const void* cache, size_t at) {
    return WIDE ? ((const float*)cache)[at] : half_float(((const uint16_t*)cache)[at]);
}
/// The same for heads whose length is no multiple of eight; zeros beyond `len`.
template <bool WIDE> DEVICE void some_cached(const void* cache, size_t at, uint32_t len, float (&v)[8]) {
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) v[i] = i < len ? one_cached<WIDE>(cache, at + i) : 0.0f;
}

/// A block has a query head, a key head or a value head of one token.
DEVICE void rotate_block(const Block& block, const Rotate& p) {
    struct Head {
        float v[HEAD_DIM];
        Partials room;
    };
    SHARED(Head, head);
    const uint32_t token = block.y, at = *p.position + token;
    if (at >= p.context) return;
    if (block.x >= p.heads + p.groups) {
        const uint32_t g = block.x - p.heads - p.groups;
        const float* v = p.v + (size_t)token * p.v_stride + (size_t)g * p.value_dim;
        apart(block, [&](int t) INLINE {
            for (uint32_t i = t; i < p.value_dim; i += block.threads) {
                store_cached(p.values, ((size_t)g * p.context + at) * p.value_dim + i, clamped(v[i], p.limit_v), p.wide);
            }
        });
        return;
    }
    const bool query = block.x < p.heads;
    const uint32_t g = query ? block.x : block.x - p.heads;
    const float* x = query ? p.q + (size_t)token * p.q_stride + (size_t)g * p.q_head : p.k + (size_t)token * p.k_stride + (size_t)g * p.key_dim;
    const float* norm = query ? p.q_norm : p.k_norm;
    PerThread<float> sum;
    apart(block, [&](int t) INLINE {
        float s = 0;
        for (uint32_t i = t; i < p.key_dim; i += block.threads) {
            const float v = clamped(x[i], p.limit);
            head.v[i] = v;
            s = fmaf(v, v, s);
        }
        sum[t] = s;
    });
    // The wait in here also ends the writes above.
    const float total = block_sum(block, sum, head.room);
    const float scale = norm ? 1.0f / sqrtf(total / (float)p.key_dim + p.eps) : 1.0f;
    const float *cosines = p.angles + (size_t)token * 2 * p.half, *sines = cosines + p.half;
    apart(block, [&](int t) INLINE {
        for (uint32_t i = t; i < p.key_dim; i += block.threads) {
            float v = head.v[i] * scale * (norm ? norm[i] : 1.0f);
            if (i < 2 * p.half) {
                const uint32_t j = i < p.half ? i : i - p.half, other = i < p.half ? i + p.half : i - p.half;
                const float w = head.v[other] * scale * (norm ? norm[other] : 1.0f);
                v = fmaf(v, cosines[j], (i < p.half ? -w : w) * sines[j]);
            }
            if (query)
                p.q_out[((size_t)token * p.heads + g) * p.key_dim + i] = v;
            else
                store_cached(p.keys, ((size_t)g * p.context + at) * p.key_dim + i, v, p.wide);
        }
    });
}

struct AttentionShared {
    float q[HEAD_DIM];
    float weight[KEYS];
    float max_of_warp[4], sum_of_warp[4];
    // Sums of the threads that have the same eight values, but other keys.
    float sums[128][9];
};

/// Keys in stretches of 128. For the scores eight threads share a key, so that a warp reads four keys side by side; for the sums a thread has
/// eight values of a head and every n-th key of the stretch. Each key and value is read once by the block.
template <bool WIDE> DEVICE void attend(const Block& block, const Attention& p, AttentionShared& s) {
    const uint32_t head = block.x, split = block.y, token = block.z, group = head / (p.heads / p.groups);
    const uint32_t seen = *p.position + token + 1, each = (seen + p.splits - 1) / p.splits;
    const uint32_t begin = split * each < seen ? split * each : seen, end = begin + each < seen ? begin + each : seen;
    const float* q = p.q + ((size_t)token * p.heads + head) * p.key_dim;
    const size_t keys = (size_t)group * p.context * p.key_dim, values = (size_t)group * p.context * p.value_dim;
    float* out = p.partial + (((size_t)token * p.heads + head) * p.splits + split) * (2 + p.value_dim);
    const uint32_t eights = (p.value_dim + 7) / 8;
    const bool whole_keys = p.key_dim % 8 == 0, whole_values = p.value_dim % 8 == 0;
    phase(block, [&](int t) INLINE {
        for (uint32_t i = t; i < HEAD_DIM; i += block.threads) s.q[i] = i < p.key_dim ? q[i] : 0.0f;
    });
    float max = -INFINITY, sum = 0;
    // Threads that have all values of a head between them; heads of more than a thousand values don't occur.
    const uint32_t sharing = block.threads / eights;
    PerThread<Few<float, 8>> sums;
    PerThread<Few<float, KEY_LANES>> scores;
    PerThread<float> most, added;
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < 8; i++) sums[t][i] = 0;
    });
    for (uint32_t from = begin; from < end; from += KEYS) {
        const uint32_t count = end - from < KEYS ? end - from : KEYS;
        apart(block, [&](int t) INLINE {
            // Thread group t / 8 has keys t / 8, 16 + t / 8, ...; thread t % 8 of it every eighth piece of eight values.
#pragma unroll
            for (int j = 0; j < KEY_LANES; j++) {
                const uint32_t key = t / KEY_LANES + 16 * j;
                float dot = 0;
                if (key < count) {
                    const size_t at = keys + (size_t)(from + key) * p.key_dim;
                    for (uint32_t c = t % KEY_LANES * 8; c < p.key_dim; c += KEY_LANES * 8) {
                        float k[8];
                        if (whole_keys)
                            eight_cached<WIDE>(p.keys, at + c, k);
                        else
                            some_cached<WIDE>(p.keys, at + c, p.key_dim - c, k);
#pragma unroll
                        for (int i = 0; i < 8; i++) dot = fmaf(s.q[c + i], k[i], dot);
                    }
                }
                scores[t][j] = dot;
            }
        });
        sum_among(block, scores, KEY_LANES);
        apart(block, [&](int t) INLINE {
            // Every thread of a group has all its sums; thread j of it keeps the j-th.
            float mine = -INFINITY;
#pragma unroll
            for (int j = 0; j < KEY_LANES; j++) {
                const uint32_t key = t / KEY_LANES + 16 * j;
                if (t % KEY_LANES == j && key < count) mine = scores[t][j] * p.scale;
            }
            added[t] = mine;
            most[t] = mine;
        });
        warp_max(block, most);
        phase(block, [&](int t) INLINE {
            if (t % LANES == 0) s.max_of_warp[t / LANES] = most[t];
        });
        const float new_max = fmaxf(fmaxf(max, fmaxf(s.max_of_warp[0], s.max_of_warp[1])), fmaxf(s.max_of_warp[2], s.max_of_warp[3]));
        const float shrink = max == -INFINITY ? 0.0f : expf(max - new_max);
        apart(block, [&](int t) INLINE {
            const uint32_t key = t / KEY_LANES + 16 * (t % KEY_LANES);
            added[t] = key < count ? expf(added[t] - new_max) : 0.0f;
            s.weight[key] = added[t];
        });
        warp_sum(block, added);
        phase(block, [&](int t) INLINE {
            if (t % LANES == 0) s.sum_of_warp[t / LANES] = added[t];
        });
        sum = fmaf(sum, shrink, (s.sum_of_warp[0] + s.sum_of_warp[1]) + (s.sum_of_warp[2] + s.sum_of_warp[3]));
        max = new_max;
        phase(block, [&](int t) INLINE {
#pragma unroll
            for (int i = 0; i < 8; i++) sums[t][i] *= shrink;
            const uint32_t c = t % eights * 8, first = t / eights;
            if (first >= sharing) return;
#pragma unroll 4
            for (uint32_t key = first; key < count; key += sharing) {
                const size_t at = values + (size_t)(from + key) * p.value_dim + c;
                float v[8];
                if (whole_values)
                    eight_cached<WIDE>(p.values, at, v);
                else
                    some_cached<WIDE>(p.values, at, p.value_dim - c, v);
                const float w = s.weight[key];
#pragma unroll
                for (int i = 0; i < 8; i++) sums[t][i] = fmaf(w, v[i], sums[t][i]);
            }
        });
    }
    phase(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < 8; i++) s.sums[t][i] = sums[t][i];
    });
    apart(block, [&](int t) INLINE {
        for (uint32_t i = t; i < p.value_dim; i += block.threads) {
            float total = 0;
            for (uint32_t j = 0; j < sharing; j++) total += s.sums[j * eights + i / 8][i % 8];
            out[2 + i] = total;
        }
        if (t == 0) out[0] = max, out[1] = sum;
    });
}

DEVICE void attention_block(const Block& block, const Attention& p) {
    SHARED(AttentionShared, shared);
    if (p.wide) return attend<true>(block, p, shared);
    attend<false>(block, p, shared);
}

DEVICE void join_splits_block(const Block& block, const JoinSplits& p) {
    const uint32_t head = block.x, token = block.y, len = 2 + p.value_dim;
    const float* parts = p.partial + ((size_t)token * p.heads + head) * p.splits * len;
    apart(block, [&](int t) INLINE {
        float max = -INFINITY, sum = 0;
        for (uint32_t s = 0; s < p.splits; s++) max = fmaxf(max, parts[(size_t)s * len]);
        for (uint32_t s = 0; s < p.splits; s++) {
            const float* part = parts + (size_t)s * len;
            // An empty split has the sum 0.
            if (part[1] != 0) sum = fmaf(expf(part[0] - max), part[1], sum);
        }
        for (uint32_t i = t; i < p.value_dim; i += block.threads) {
            float v = 0;
            for (uint32_t s = 0; s < p.splits; s++) {
                const float* part = parts + (size_t)s * len;
                if (part[1] != 0) v = fmaf(expf(part[0] - max), part[2 + i], v);
            }
            v /= sum;
            if (p.gate) v *= sigmoid(p.gate[(size_t)token * p.gate_stride + (size_t)head * p.gate_head + i]);
            p.y[((size_t)token * p.heads + head) * p.value_dim + i] = v;
        }
    });
}
