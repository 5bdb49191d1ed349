// Attention: queries and keys prepared, keys in splits with a running softmax (Milakov and Gimelshein, arXiv 1805.02867), splits joined.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// Longest key or value head.
#define HEAD_DIM 512
/// Most ranges of keys, and positions of the shortest; as in params/shapes.rs.
#define SPLITS 128
#define LEAST 32
/// Longest key with its value inside.
#define LATENT_DIM 640
/// Keys that a block looks at together: few, since all that is done with them is code without loops, which a token runs through once, and
/// waits for (see tiles.cuh).
#define KEYS 64
/// Neighbouring threads that share a key.
#define KEY_LANES 8
/// Keys of a thread, of those.
#define TURNS (KEYS * KEY_LANES / 128)

/// What is attended to: all positions of a cache, the last ones of a ring, or keys that have their values inside.
enum class Over { Cache, Ring, Latent };

/// A value of a cache of f16, or of f32 if `wide`.
DEVICE void store_cached(void* cache, size_t at, float v, uint32_t wide) {
    if (wide)
        ((float*)cache)[at] = v;
    else
        ((uint16_t*)cache)[at] = float_half(v);
}

/// Eight values of a cache as they lie there: loaded before they are needed, made into floats when they are.
template <bool WIDE> struct Eight {
    Word4 q[WIDE ? 2 : 1];
};
template <bool WIDE> DEVICE uint32_t one_cached(const void* cache, size_t at) {
    return WIDE ? ((const uint32_t*)cache)[at] : ((const uint16_t*)cache)[at];
}
/// From element `at` on, a multiple of eight if they are `whole`; otherwise zeros beyond `len`.
template <bool WIDE> DEVICE Eight<WIDE> eight_cached(const void* cache, size_t at, bool whole, uint32_t len) {
    if (whole) return *(const Eight<WIDE>*)((const uint8_t*)cache + at * (WIDE ? 4 : 2));
    uint32_t v[8];
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) v[i] = i < len ? one_cached<WIDE>(cache, at + i) : 0;
    Eight<WIDE> out;
    if (WIDE) {
        out.q[0] = {v[0], v[1], v[2], v[3]};
        out.q[WIDE ? 1 : 0] = {v[4], v[5], v[6], v[7]};
    } else {
        out.q[0] = {v[0] | v[1] << 16, v[2] | v[3] << 16, v[4] | v[5] << 16, v[6] | v[7] << 16};
    }
    return out;
}
template <bool WIDE> DEVICE void floats(const Eight<WIDE>& e, float (&v)[8]) {
    const Word4 a = e.q[0], b = e.q[WIDE ? 1 : 0];
    const uint32_t q[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = WIDE ? bits_float(q[i]) : half_float((uint16_t)(q[i / 2] >> 16 * (i % 2)));
}

/// A block has a query head, a key head or a value head of one token.
DEVICE void rotate_block(const Block& block, const Rotate& p) {
    struct Head {
        float v[HEAD_DIM];
        Partials room;
    };
    SHARED(Head, head);
    const uint32_t token = block.y, position = *p.position + token, at = p.ring ? position % p.context : position;
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

/// Where the positions of a ring lie from `begin` on, for less than one turn.
struct Turn {
    uint32_t base, room;
    DEVICE static Turn at(uint32_t begin, uint32_t room) { return {begin / room * room, room}; }
    DEVICE uint32_t operator()(uint32_t position) const {
        const uint32_t place = position - base;
        return place < room ? place : place - room;
    }
};

/// H query heads of a group have a block together, so that a key or value that was read serves all of them.
template <int H, int DIM> struct AttentionShared {
    alignas(16) float q[H][DIM];
    float weight[H][KEYS];
    float max_of_warp[4][H], sum_of_warp[4][H];
    // Sums of the threads that have the same eight values, but other keys.
    float sums[128][9];
};

/// Keys in stretches of 64. For the scores eight threads share a key, so that a warp reads four keys side by side; for the sums a thread has
/// eight values of a head and every n-th key of the stretch. Each key and value is read once by the block.
template <Over OVER, bool WIDE, int H, int DIM> DEVICE void attend(const Block& block, const Attention& p, uint32_t window, AttentionShared<H, DIM>& s) {
    constexpr int AHEAD = 4;
    constexpr bool WINDOW = OVER == Over::Ring, INSIDE = OVER == Over::Latent;
    const uint32_t head = block.x * H, split = block.y, token = block.z, group = head / (p.heads / p.groups);
    const uint32_t seen = *p.position + token + 1, left = WINDOW && seen > window ? seen - window : 0, width = seen - left;
    const uint32_t even = (width + p.splits - 1) / p.splits, each = even > LEAST ? even : LEAST;
    const uint32_t begin = left + (split * each < width ? split * each : width), end = begin + each < seen ? begin + each : seen;
    if (begin == end) {
        apart(block, [&](int t) INLINE {
            if (t >= H) return;
            float* out = p.partial + (((size_t)token * p.heads + head + t) * p.splits + split) * (2 + p.value_dim);
            out[0] = -INFINITY, out[1] = 0;
        });
        return;
    }
    const Turn turn = WINDOW ? Turn::at(begin, p.context) : Turn{};
    const auto place = [&](uint32_t position) INLINE { return WINDOW ? turn(position) : position; };
    const float* q = p.q + ((size_t)token * p.heads + head) * p.key_dim;
    const size_t keys = (size_t)group * p.context * p.key_dim, values = (size_t)group * p.context * (INSIDE ? p.key_dim : p.value_dim);
    const uint32_t eights = (p.value_dim + 7) / 8;
    const bool whole_keys = p.key_dim % 8 == 0, whole_values = p.value_dim % 8 == 0 && (!INSIDE || whole_keys);
    phase(block, [&](int t) INLINE {
#pragma unroll
        for (int h = 0; h < H; h++) {
            for (uint32_t i = t; i < DIM; i += block.threads) s.q[h][i] = i < p.key_dim ? q[h * p.key_dim + i] : 0.0f;
        }
    });
    Few<float, H> max, sum, shrink;
#pragma unroll
    for (int h = 0; h < H; h++) max[h] = -INFINITY, sum[h] = 0;
    // Groups of threads that have all values of a head between them.
    const uint32_t sharing = block.threads / eights;
    PerThread<Few<float, 8 * H>> sums;
    PerThread<Few<float, TURNS * H>> scores;
    PerThread<Few<float, H>> most, added;
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < 8 * H; i++) sums[t][i] = 0;
    });
    for (uint32_t from = begin; from < end; from += KEYS) {
        const uint32_t count = end - from < KEYS ? end - from : KEYS;
        apart(block, [&](int t) INLINE {
            // Threads 8n to 8n + 7 have keys n, 16 + n, ...; thread t % 8 of them every eighth piece of eight values. As many keys as registers hold are loaded
            // before the first is used.
#pragma unroll
            for (int i = 0; i < TURNS * H; i++) scores[t][i] = 0;
#pragma unroll
            for (int j = 0; j < TURNS; j += AHEAD) {
#pragma unroll 1
                for (uint32_t c = t % KEY_LANES * 8; c < p.key_dim; c += KEY_LANES * 8) {
                    Eight<WIDE> raw[AHEAD];
#pragma unroll
                    for (int a = 0; a < AHEAD; a++) {
                        const uint32_t key = t / KEY_LANES + 16 * (j + a);
                        if (key < count) raw[a] = eight_cached<WIDE>(p.keys, keys + (size_t)place(from + key) * p.key_dim + c, whole_keys, p.key_dim - c);
                    }
                    float q[H][8];
#pragma unroll
                    for (int h = 0; h < H; h++) load8(&s.q[h][c], q[h]);
#pragma unroll
                    for (int a = 0; a < AHEAD; a++) {
                        const uint32_t key = t / KEY_LANES + 16 * (j + a);
                        if (key >= count) break;
                        float k[8];
                        floats(raw[a], k);
#pragma unroll
                        for (int h = 0; h < H; h++) {
#pragma unroll
                            for (int i = 0; i < 8; i++) scores[t][TURNS * h + j + a] = fmaf(q[h][i], k[i], scores[t][TURNS * h + j + a]);
                        }
                    }
                }
            }
        });
        sum_among(block, scores, KEY_LANES);
        apart(block, [&](int t) INLINE {
            // Every thread of the eight has all their sums; thread j of them keeps the j-th.
#pragma unroll
            for (int h = 0; h < H; h++) {
                float mine = -INFINITY;
#pragma unroll
                for (int j = 0; j < TURNS; j++) {
                    const uint32_t key = t / KEY_LANES + 16 * j;
                    if (t % KEY_LANES == j && key < count) mine = scores[t][TURNS * h + j] * p.scale;
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
            for (int h = 0; h < H; h++) {
                added[t][h] = key < count ? expf(added[t][h] - max[h]) : 0.0f;
                if (t % KEY_LANES < TURNS) s.weight[h][key] = added[t][h];
            }
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
#pragma unroll 1
            for (uint32_t key = first; key < count; key += AHEAD * sharing) {
                Eight<WIDE> raw[AHEAD];
#pragma unroll
                for (int a = 0; a < AHEAD; a++) {
                    const uint32_t at = key + a * sharing;
                    if (at < count) raw[a] = eight_cached<WIDE>(INSIDE ? p.keys : p.values, values + (size_t)place(from + at) * (INSIDE ? p.key_dim : p.value_dim) + c, whole_values, p.value_dim - c);
                }
#pragma unroll
                for (int a = 0; a < AHEAD; a++) {
                    if (key + a * sharing >= count) break;
                    float v[8];
                    floats(raw[a], v);
#pragma unroll
                    for (int h = 0; h < H; h++) {
                        const float w = s.weight[h][key + a * sharing];
#pragma unroll
                        for (int i = 0; i < 8; i++) sums[t][8 * h + i] = fmaf(w, v[i], sums[t][8 * h + i]);
                    }
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

/// `Attention::together` in params/shapes.rs says the same.
template <Over OVER, int DIM> DEVICE void attention_in(const Block& block, const Attention& p, uint32_t window) {
    union Room {
        AttentionShared<4, DIM> four;
        AttentionShared<1, DIM> one;
    };
    SHARED(Room, room);
    const uint32_t of_group = p.heads / p.groups;
    if (p.wide) {
        if (of_group % 4 == 0) return attend<OVER, true, 4>(block, p, window, room.four);
        return attend<OVER, true, 1>(block, p, window, room.one);
    }
    if (of_group % 4 == 0) return attend<OVER, false, 4>(block, p, window, room.four);
    attend<OVER, false, 1>(block, p, window, room.one);
}

DEVICE void attention_block(const Block& block, const Attention& p) { attention_in<Over::Cache, HEAD_DIM>(block, p, 0); }

DEVICE void window_attention_block(const Block& block, const WindowAttention& p) { attention_in<Over::Ring, HEAD_DIM>(block, p.of, p.window); }

DEVICE void latent_attention_block(const Block& block, const LatentAttention& p) { attention_in<Over::Latent, LATENT_DIM>(block, p.of, 0); }

/// A block has 32 values of a head; a warp adds up every fourth split of them. A sink is one more split, whose output is zero.
DEVICE void join_in(const Block& block, const JoinSplits& p, const float* sinks) {
    const uint32_t head = block.x, token = block.y, len = 2 + p.value_dim, warps = block.threads / LANES;
    const float* parts = p.partial + ((size_t)token * p.heads + head) * p.splits * len;
    struct Room {
        float max_of_warp[4], weight[SPLITS], of_warp[4][LANES];
        Partials sums;
    };
    SHARED(Room, room);
    PerThread<float> max, sum, most;
    // A thread has a split. An empty one has the sum 0 and no output.
    apart(block, [&](int t) INLINE {
        const bool in = t < (int)p.splits, sink = sinks && t == (int)p.splits;
        most[t] = max[t] = in ? parts[(size_t)t * len] : sink ? sinks[head] : -INFINITY;
        sum[t] = in ? parts[(size_t)t * len + 1] : sink ? 1.0f : 0.0f;
    });
    warp_max(block, most);
    phase(block, [&](int t) INLINE {
        if (t % LANES == 0) room.max_of_warp[t / LANES] = most[t];
    });
    apart(block, [&](int t) INLINE {
        float m = room.max_of_warp[0];
        for (uint32_t w = 1; w < warps; w++) m = fmaxf(m, room.max_of_warp[w]);
        const float weight = sum[t] != 0 ? expf(max[t] - m) : 0.0f;
        room.weight[t] = weight;
        sum[t] *= weight;
    });
    const float total = block_sum(block, sum, room.sums);
    phase(block, [&](int t) INLINE {
        const uint32_t i = block.z * LANES + t % LANES;
        float v = 0;
#pragma unroll 8
        for (uint32_t s = t / LANES; s < p.splits; s += warps) {
            const float weight = room.weight[s], part = weight != 0 && i < p.value_dim ? parts[(size_t)s * len + 2 + i] : 0.0f;
            v = fmaf(weight, part, v);
        }
        room.of_warp[t / LANES][t % LANES] = v;
    });
    apart(block, [&](int t) INLINE {
        const uint32_t i = block.z * LANES + t;
        if (t >= LANES || i >= p.value_dim) return;
        float v = 0;
        for (uint32_t w = 0; w < warps; w++) v += room.of_warp[w][t];
        v /= total;
        if (p.gate) v *= sigmoid(p.gate[(size_t)token * p.gate_stride + (size_t)head * p.gate_head + i]);
        p.y[((size_t)token * p.heads + head) * p.value_dim + i] = v;
    });
}

DEVICE void join_splits_block(const Block& block, const JoinSplits& p) { join_in(block, p, nullptr); }

DEVICE void join_sunk_block(const Block& block, const JoinSunk& p) { join_in(block, p.of, p.sinks); }
