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

/// H query heads of a group have a block together, so that a key or value that was read serves all of them.
template <int H> struct AttentionShared {
    float q[H][HEAD_DIM];
    float weight[H][KEYS];
    float max_of_warp[4][H], sum_of_warp[4][H];
    // Sums of the threads that have the same eight values, but other keys.
    float sums[128][9];
};

/// Keys in stretches of 128. For the scores eight threads share a key, so that a warp reads four keys side by side; for the sums a thread has
/// eight values of a head and every n-th key of the stretch. Each key and value is read once by the block.
template <bool WIDE, int H> DEVICE void attend(const Block& block, const Attention& p, AttentionShared<H>& s) {
    const uint32_t head = block.x * H, split = block.y, token = block.z, group = head / (p.heads / p.groups);
    const uint32_t seen = *p.position + token + 1, each = (seen + p.splits - 1) / p.splits;
    const uint32_t begin = split * each < seen ? split * each : seen, end = begin + each < seen ? begin + each : seen;
    const float* q = p.q + ((size_t)token * p.heads + head) * p.key_dim;
    const size_t keys = (size_t)group * p.context * p.key_dim, values = (size_t)group * p.context * p.value_dim;
    const uint32_t eights = (p.value_dim + 7) / 8;
    const bool whole_keys = p.key_dim % 8 == 0, whole_values = p.value_dim % 8 == 0;
    phase(block, [&](int t) INLINE {
#pragma unroll
        for (int h = 0; h < H; h++) {
            for (uint32_t i = t; i < HEAD_DIM; i += block.threads) s.q[h][i] = i < p.key_dim ? q[h * p.key_dim + i] : 0.0f;
        }
    });
    Few<float, H> max, sum, shrink;
#pragma unroll
    for (int h = 0; h < H; h++) max[h] = -INFINITY, sum[h] = 0;
    // Groups of threads that have all values of a head between them.
    const uint32_t sharing = block.threads / eights;
    PerThread<Few<float, 8 * H>> sums;
    PerThread<Few<float, KEY_LANES * H>> scores;
    PerThread<Few<float, H>> most, added;
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < 8 * H; i++) sums[t][i] = 0;
    });
    for (uint32_t from = begin; from < end; from += KEYS) {
        const uint32_t count = end - from < KEYS ? end - from : KEYS;
        apart(block, [&](int t) INLINE {
            // Threads 8n to 8n + 7 have keys n, 16 + n, ...; thread t % 8 of them every eighth piece of eight values.
#pragma unroll
            for (int j = 0; j < KEY_LANES; j++) {
                const uint32_t key = t / KEY_LANES + 16 * j;
                float dot[H];
#pragma unroll
                for (int h = 0; h < H; h++) dot[h] = 0;
                if (key < count) {
                    const size_t at = keys + (size_t)(from + key) * p.key_dim;
                    for (uint32_t c = t % KEY_LANES * 8; c < p.key_dim; c += KEY_LANES * 8) {
                        float k[8];
                        if (whole_keys)
                            eight_cached<WIDE>(p.keys, at + c, k);
                        else
                            some_cached<WIDE>(p.keys, at + c, p.key_dim - c, k);
#pragma unroll
                        for (int h = 0; h < H; h++) {
#pragma unroll
                            for (int i = 0; i < 8; i++) dot[h] = fmaf(s.q[h][c + i], k[i], dot[h]);
                        }
                    }
                }
#pragma unroll
                for (int h = 0; h < H; h++) scores[t][KEY_LANES * h + j] = dot[h];
            }
        });
        sum_among(block, scores, KEY_LANES);
        apart(block, [&](int t) INLINE {
            // Every thread of the eight has all their sums; thread j of them keeps the j-th.
#pragma unroll
            for (int h = 0; h < H; h++) {
                float mine = -INFINITY;
#pragma unroll
                for (int j = 0; j < KEY_LANES; j++) {
                    const uint32_t key = t / KEY_LANES + 16 * j;
                    if (t % KEY_LANES == j && key < count) mine = scores[t][KEY_LANES * h + j] * p.scale;
                }
                added[t][h] = most[t][h] = mine;
            }
        });
        warp_max(block, most);
        phase(block, [&](int t) INLINE {
#pragma unroll
            for (int h = 0; h < H; h++) {
                if (t % LANES == 0) s.max_of_warp[t / LANES][h] = most[t][h];
            }
        });
#pragma unroll
        for (int h = 0; h < H; h++) {
            const float before = max[h];
            for (int w = 0; w < 4; w++) max[h] = fmaxf(max[h], s.max_of_warp[w][h]);
            shrink[h] = before == -INFINITY ? 0.0f : expf(before - max[h]);
        }
        apart(block, [&](int t) INLINE {
            const uint32_t key = t / KEY_LANES + 16 * (t % KEY_LANES);
#pragma unroll
            for (int h = 0; h < H; h++) s.weight[h][key] = added[t][h] = key < count ? expf(added[t][h] - max[h]) : 0.0f;
        });
        warp_sum(block, added);
        phase(block, [&](int t) INLINE {
#pragma unroll
            for (int h = 0; h < H; h++) {
                if (t % LANES == 0) s.sum_of_warp[t / LANES][h] = added[t][h];
            }
        });
#pragma unroll
        for (int h = 0; h < H; h++) {
            sum[h] = fmaf(sum[h], shrink[h], (s.sum_of_warp[0][h] + s.sum_of_warp[1][h]) + (s.sum_of_warp[2][h] + s.sum_of_warp[3][h]));
        }
        phase(block, [&](int t) INLINE {
#pragma unroll
            for (int i = 0; i < 8 * H; i++) sums[t][i] *= shrink[i / 8];
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
#pragma unroll
                for (int h = 0; h < H; h++) {
                    const float w = s.weight[h][key];
#pragma unroll
                    for (int i = 0; i < 8; i++) sums[t][8 * h + i] = fmaf(w, v[i], sums[t][8 * h + i]);
                }
            }
        });
    }
#pragma unroll
    for (int h = 0; h < H; h++) {
        float* out = p.partial + (((size_t)token * p.heads + head + h) * p.splits + split) * (2 + p.value_dim);
        phase(block, [&](int t) INLINE {
#pragma unroll
            for (int i = 0; i < 8; i++) s.sums[t][i] = sums[t][8 * h + i];
        });
        phase(block, [&](int t) INLINE {
            for (uint32_t i = t; i < p.value_dim; i += block.threads) {
                float total = 0;
                for (uint32_t j = 0; j < sharing; j++) total += s.sums[j * eights + i / 8][i % 8];
                out[2 + i] = total;
            }
            if (t == 0) out[0] = max[h], out[1] = sum[h];
        });
    }
}

/// `Attention::together` in params.rs says the same.
DEVICE void attention_block(const Block& block, const Attention& p) {
    union Room {
        AttentionShared<4> four;
        AttentionShared<1> one;
    };
    SHARED(Room, room);
    const uint32_t of_group = p.heads / p.groups;
    if (p.wide) {
        if (of_group % 4 == 0) return attend<true, 4>(block, p, room.four);
        return attend<true, 1>(block, p, room.one);
    }
    if (of_group % 4 == 0) return attend<false, 4>(block, p, room.four);
    attend<false, 1>(block, p, room.one);
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
