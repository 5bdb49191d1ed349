// Attention of a chunk of the prompt: a tile of queries meets the keys in turn, and both products are made by tensor cores. Scores never leave the registers, where they
// are laid out as the second product wants its left side (Dao, FlashAttention-2, arXiv 2307.08691).
//
// A block has 64 queries, which are tokens times the query heads that share keys, so that a key or value serves all of them; a warp has sixteen. Keys, then values, of as
// many positions as fit lie in the same shared memory in turn, while the next ones are on their way to registers.
#pragma once

#include "attention.cuh"
#include "mma.cuh"

/// Queries of a block, and positions of the shortest range of keys; as in params/shapes.rs.
#define QUERIES 64
#define CHUNK_LEAST 256

/// Heads of up to D values, in rows of D halves that end in zeros. 48 KiB at most.
template <int D> struct ChunkRoom {
    /// Positions that a block looks at together.
    static constexpr uint32_t POSITIONS = D > 128 ? 32 : 64;
    Word4 q[QUERIES * D / 8], cached[POSITIONS * D / 8];
};

/// Where a piece of eight halves of a row lies: turned by the row, so that eight lanes which read the same piece of eight rows meet all banks.
template <int D> DEVICE uint32_t piece_at(uint32_t row, uint32_t piece) { return row * (D / 8) + (piece ^ (row & 7)); }

/// The same of piece `2 pair + second`, where `turn` is `second ^ row % 8`: for known pairs a sum of what is known and one of four numbers.
template <int D> DEVICE uint32_t pair_at(uint32_t row, uint32_t turn, uint32_t pair) { return row * (D / 8) + pair / 4 * 8 + (turn ^ pair % 4 * 2); }

/// A thread's share of the positions that a block looks at together, on its way to shared memory.
template <int D> using Share = Few<Word4, ChunkRoom<D>::POSITIONS * D / 8 / 128>;

/// Positions `from`.. of a group's cache, each of them where `place` says; zeros from `end` on, and beyond a head's `dim` values.
template <int D, class P> DEVICE void fetch_share(int t, const uint16_t* cache, uint32_t dim, uint32_t from, uint32_t end, const P& place, Share<D>& share) {
#pragma unroll
    for (int i = 0; i < (int)(sizeof share / sizeof(Word4)); i++) {
        const uint32_t n = t + 128 * i, at = from + n / (D / 8), piece = n % (D / 8);
        share[i] = Word4{0, 0, 0, 0};
        if (at < end && piece * 8 < dim) share[i] = *(const Word4*)(cache + (size_t)place(at) * dim + piece * 8);
    }
}

template <int D> DEVICE void put_share(int t, const Share<D>& share, ChunkRoom<D>& room) {
#pragma unroll
    for (int i = 0; i < (int)(sizeof share / sizeof(Word4)); i++) {
        const uint32_t n = t + 128 * i;
        room.cached[piece_at<D>(n / (D / 8), n % (D / 8))] = share[i];
    }
}

/// Lane l of a warp: queries l / 4 and 8 more of the warp's sixteen; of each, columns 8 f + 2 (l % 4) and the next, at `[4 f + 2 (query / 8) + column % 2]`.
DEVICE uint32_t chunk_column(int t, int i) { return i / 4 * 8 + 2 * (t % 4) + i % 2; }
DEVICE uint32_t chunk_query(int t, int i) { return t / LANES * 16 + t % LANES / 4 + 8 * i; }

/// What queries see of a ring, and a score of each head that has no value (`nullptr`: none).
struct Within {
    uint32_t window;
    const float* sinks;
};

template <int D, bool WINDOW> DEVICE void attend_chunk(const Block& block, const ChunkAttention& p, const Within& within, ChunkRoom<D>& room) {
    constexpr int POSITIONS = ChunkRoom<D>::POSITIONS;
    const uint32_t together = p.heads / p.groups, queries = p.tokens * together, group = block.y, split = block.z;
    // The last tile has the most keys, so it begins first.
    const uint32_t tile = (queries + QUERIES - 1) / QUERIES - 1 - block.x, first = tile * QUERIES, last = (first + QUERIES < queries ? first + QUERIES : queries) - 1;
    const uint32_t position = *p.position, all = position + p.tokens, even = (all + p.splits - 1) / p.splits;
    const uint32_t each = ((even > CHUNK_LEAST ? even : CHUNK_LEAST) + 63) / 64 * 64, seen = position + last / together + 1;
    const uint32_t common = position + first / together + 1;
    const auto left_of = [&](uint32_t its) INLINE { return WINDOW && its > within.window ? its - within.window : 0; };
    const uint32_t begin = WINDOW ? left_of(common) : split * each, end = !WINDOW && begin + each < seen ? begin + each : seen;
    // Between these positions every query of the tile sees all keys.
    const uint32_t clear = common < end ? common : end, far = left_of(seen);
    const Turn turn = WINDOW ? Turn::at(begin, p.context) : Turn{};
    const auto place = [&](uint32_t at) INLINE { return WINDOW ? turn(at) : at; };
    const uint16_t *keys = (const uint16_t*)p.keys + (size_t)group * p.context * p.key_dim, *values = (const uint16_t*)p.values + (size_t)group * p.context * p.value_dim;

    // Scores are exponents of two.
    const float scale = p.scale * 1.44269504f;
    apart(block, [&](int t) INLINE {
        // Eight threads bring a query. The wait for the first keys is one for the queries, too.
#pragma unroll 1
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t r = t / LANES * 16 + 4 * i + t % LANES / 8, query = first + r;
            const float* q = p.q + ((size_t)(query / together) * p.heads + group * together + query % together) * p.key_dim;
#pragma unroll
            for (uint32_t piece = t % 8; piece < D / 8; piece += 8) {
                float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
                if (query < queries && piece * 8 < p.key_dim) load8(q + piece * 8, v);
#pragma unroll
                for (int j = 0; j < 8; j++) v[j] *= scale;
                room.q[piece_at<D>(r, piece)] = {two_halves(v[0], v[1]), two_halves(v[2], v[3]), two_halves(v[4], v[5]), two_halves(v[6], v[7])};
            }
        }
    });
    PerThread<Few<float, D / 2>> sums;
    PerThread<Few<float, POSITIONS / 2>> scores;
    PerThread<Few<float, 2>> max, sum, most;
    PerThread<Few<uint32_t, 2>> sees;
    PerThread<Share<D>> share;
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < D / 2; i++) sums[t][i] = 0;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            max[t][r] = -INFINITY, sum[t][r] = 0;
            const uint32_t query = first + chunk_query(t, r), its = position + query / together + 1;
            sees[t][r] = its < end ? its : end;
        }
        fetch_share<D>(t, keys, p.key_dim, begin, end, place, share[t]);
    });
#pragma unroll 1
    for (uint32_t from = begin; from < end; from += POSITIONS) {
        phase(block, [&](int t) INLINE { put_share<D>(t, share[t], room); });
        apart(block, [&](int t) INLINE {
            fetch_share<D>(t, values, p.value_dim, from, end, place, share[t]);
#pragma unroll
            for (int i = 0; i < POSITIONS / 2; i++) scores[t][i] = 0;
        });
#pragma unroll 1
        for (uint32_t c = 0; c < D / 64; c++) {
#pragma unroll
            for (uint32_t pair = 0; pair < 4; pair++) {
                PerThread<Halves> q, k;
                const auto query = [&](int t) INLINE { return &room.q[c * 8 + pair_at<D>(t / LANES * 16 + t % 16, (t % LANES / 16) ^ (t % 8), pair)]; };
                load_halves(block, query, q);
#pragma unroll
                for (int n = 0; n < POSITIONS / 16; n++) {
                    const auto key = [&](int t) INLINE { return &room.cached[c * 8 + pair_at<D>(16 * n + t % LANES / 16 * 8 + t % 8, (t / 8 % 2) ^ (t % 8), pair)]; };
                    load_halves(block, key, k);
                    multiply_halves(block, q, k, 0, scores, 8 * n);
                    multiply_halves(block, q, k, 2, scores, 8 * n + 4);
                }
            }
        }
        apart(block, [&](int t) INLINE {
            most[t][0] = most[t][1] = -INFINITY;
            if (from + POSITIONS > clear || (WINDOW && from < far)) {
#pragma unroll
                for (int i = 0; i < POSITIONS / 2; i++) {
                    const uint32_t at = from + chunk_column(t, i), its = sees[t][i / 2 % 2];
                    if (at >= its || (WINDOW && at < left_of(its))) scores[t][i] = -INFINITY;
                }
            }
#pragma unroll
            for (int i = 0; i < POSITIONS / 2; i++) most[t][i / 2 % 2] = fmaxf(most[t][i / 2 % 2], scores[t][i]);
        });
        max_among(block, most, 4);
        apart(block, [&](int t) INLINE {
            float base[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float before = max[t][r];
                max[t][r] = fmaxf(before, most[t][r]);
                // Of a query that has seen no key yet everything stays zero.
                base[r] = max[t][r] == -INFINITY ? 0.0f : max[t][r];
                most[t][r] = exp2f(before - base[r]);
                sum[t][r] *= most[t][r];
            }
            // After the first keys a greater score is rare.
            if (most[t][0] != 1 || most[t][1] != 1) {
#pragma unroll
                for (int i = 0; i < D / 2; i++) sums[t][i] *= most[t][i / 2 % 2];
            }
#pragma unroll
            for (int i = 0; i < POSITIONS / 2; i++) {
                scores[t][i] = exp2f(scores[t][i] - base[i / 2 % 2]);
                sum[t][i / 2 % 2] += scores[t][i];
            }
        });
        // All are through with the keys.
        phase(block, [](int) INLINE {});
        phase(block, [&](int t) INLINE { put_share<D>(t, share[t], room); });
        apart(block, [&](int t) INLINE { fetch_share<D>(t, keys, p.key_dim, from + POSITIONS, end, place, share[t]); });
#pragma unroll
        for (int j = 0; j < POSITIONS / 16; j++) {
            PerThread<Halves> w, v;
            apart(block, [&](int t) INLINE {
#pragma unroll
                for (int i = 0; i < 4; i++) w[t][i] = two_halves(scores[t][8 * j + 2 * i], scores[t][8 * j + 2 * i + 1]);
            });
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                const auto value = [&](int t) INLINE { return &room.cached[pair_at<D>(16 * j + t % 16, (t % LANES / 16) ^ (t % 8), n)]; };
                load_halves_turned(block, value, v);
                multiply_halves(block, w, v, 0, sums, 8 * n);
                multiply_halves(block, w, v, 2, sums, 8 * n + 4);
            }
        }
        // And with the values.
        phase(block, [](int) INLINE {});
    }
    sum_among(block, sum, 4);
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t query = first + chunk_query(t, r), token = query / together, head = group * together + query % together;
            if (query >= queries) continue;
            const size_t row = (size_t)token * p.heads + head;
            const bool done = p.splits == 1;
            float* out = done ? p.y + row * p.value_dim : p.partial + (row * p.splits + split) * (2 + p.value_dim) + 2;
            const float* gate = done && p.gate ? p.gate + (size_t)token * p.gate_stride + (size_t)head * p.gate_head : nullptr;
            // The join of ranges has exponents of e.
            if (!done && t % 4 == 0) out[-2] = max[t][r] * 0.69314718f, out[-1] = sum[t][r];
            float part = done ? 1.0f / sum[t][r] : 1.0f;
            if (WINDOW && within.sinks) {
                const float sink = within.sinks[head] * 1.44269504f, most = fmaxf(max[t][r], sink), shrink = exp2f(max[t][r] - most);
                part = shrink / fmaf(sum[t][r], shrink, exp2f(sink - most));
            }
#pragma unroll
            for (int i = 0; i < D / 2; i++) {
                const uint32_t c = chunk_column(t, i);
                if (i / 2 % 2 != r || c >= p.value_dim) continue;
                float v = sums[t][i] * part;
                if (gate) v *= sigmoid(gate[c]);
                out[c] = v;
            }
        }
    });
}

/// `ChunkAttention::fits` in params/shapes.rs says which heads there is room for.
template <bool WINDOW> DEVICE void chunk_attention_in(const Block& block, const ChunkAttention& p, const Within& within) {
    union Room {
        ChunkRoom<64> small;
        ChunkRoom<128> middle;
        ChunkRoom<256> large;
    };
    SHARED(Room, room);
    const uint32_t dim = p.key_dim > p.value_dim ? p.key_dim : p.value_dim;
    if (dim <= 64) return attend_chunk<64, WINDOW>(block, p, within, room.small);
    if (dim <= 128) return attend_chunk<128, WINDOW>(block, p, within, room.middle);
    attend_chunk<256, WINDOW>(block, p, within, room.large);
}

DEVICE void chunk_attention_block(const Block& block, const ChunkAttention& p) { chunk_attention_in<false>(block, p, Within{}); }

DEVICE void window_chunk_attention_block(const Block& block, const WindowChunkAttention& p) { chunk_attention_in<true>(block, p.of, Within{p.window, p.sinks}); }
