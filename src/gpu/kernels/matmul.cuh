// Products of many rows of activations.
//
// Quantized weights go through tensor cores, 128 rows by up to 64 tokens a block, 64 columns at a time: weights and activations become halves in shared
// memory, products are added in f32. A token's activations are scaled by a power of two so that its largest lies below 2^14, and anew, sums
// too, when a larger one comes: nothing overflows, and a token's result does not depend on its neighbours in the tile. Fragments of 8 tokens
// beyond a group's end are left out, so the few tokens of an expert cost what they are.
//
// Float weights keep f32: tiles of 64 by 64, 32 columns at a time through shared memory.
// A thread has 4 by 4 sums; per column it reads two times four floats from
// shared memory for sixteen multiply-adds. Tiles lie transposed, so that those reads are one load each; rows of 68 floats keep them apart from the writes' banks.
#pragma once

#include "biases.cuh"
#include "formats.cuh"
#include "mma.cuh"
#include "params.cuh"
#include "results.cuh"

#define TILE 64
#define DEPTH 32
#define EDGE (TILE + 4)

struct Tile {
    float at[DEPTH][EDGE];
};
typedef PerThread<Few<float, 16>> Sums;

/// Eight weights of a row from column c on (a multiple of 8); zeros beyond the row's end.
template <class F> DEVICE void eight_weights(const uint8_t* row, uint32_t c, uint32_t cols, float (&w)[8]) {
    if constexpr (F::PLAIN) {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) w[i] = c + i < cols ? F::element(row + (size_t)(c + i) * F::BYTES) : 0.0f;
    } else {
        const uint8_t* block = row + (size_t)(c / F::ELEMS) * F::BYTES;
        // The unit and run that begin at this column.
        constexpr int UNITS = F::ELEMS / (8 * F::RUNS);
        const int in = c % F::ELEMS;
        int u = in / 8, k = 0;
        if (F::RUNS > 1) {
            // Distance of two runs of a unit, and what the runs of a unit span together.
            const int step = F::column(0, F::RUNS > 1 ? 1 : 0), span = step * F::RUNS;
            k = in % span / step;
            u = in / span * (UNITS * span / F::ELEMS) + in % step / 8;
        }
        const typename F::Raw raw = F::load(block, u);
        F::run(raw, u, k, w);
    }
}

/// The tile of weights from column `from` on: thread t brings eight columns of row t % 64. Rows beyond `rows` repeat the last one. ANY: of any type,
/// else float weights only.
template <bool ANY> DEVICE void weight_tile(int t, const uint8_t* matrix, uint32_t ty, uint32_t first, uint32_t rows, uint32_t from, uint32_t cols, Tile& tile) {
    const uint32_t at = first + t % TILE, row = at < rows ? at : rows - 1, run = t / TILE * 8;
    float w[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    // Else the addresses of the row in all 25 types would be computed ahead and kept.
    keep_here(cols);
    if (from + run < cols) {
        with_format(ty, [&](auto format) INLINE {
            using F = decltype(format);
            if constexpr (ANY || F::PLAIN) eight_weights<F>(matrix + row * row_bytes<F>(cols), from + run, cols, w);
        });
    }
#pragma unroll
    for (int i = 0; i < 8; i++) tile.at[run + i][t % TILE] = w[i];
}

/// Eight columns of a row of activations for thread t; zeros beyond the end.
DEVICE void activation_tile(int t, const float* x, uint32_t from, uint32_t cols, Tile& tile) {
    const uint32_t c = from + t / TILE * 8;
    float v[8];
    if (c + 8 <= cols && aligned16(x + c)) {
        load8(x + c, v);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) v[i] = c + i < cols ? x[c + i] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) tile.at[t / TILE * 8 + i][t % TILE] = v[i];
}

/// Sums of thread t: weight rows 4 (t % 16).. by activation rows 4 (t / 16)..; `sum[4 * activation + weight]`.
DEVICE void multiply(int t, const Tile& w, const Tile& x, Few<float, 16>& sum) {
#pragma unroll 8
    for (int c = 0; c < DEPTH; c++) {
        const Float4 a = *(const Float4*)&w.at[c][t % 16 * 4], b = *(const Float4*)&x.at[c][t / 16 * 4];
        const float aa[4] = {a.x, a.y, a.z, a.w}, bb[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sum[4 * i + j] = fmaf(aa[j], bb[i], sum[4 * i + j]);
        }
    }
}

DEVICE void zero(Few<float, 16>& sum) {
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] = 0;
}

struct alignas(16) FloatTiles {
    Tile w, x;
};

/// Thread t's products of 64 rows from `first` on with 64 rows of activations, `row_of(i)` being where row i begins.
template <bool ANY, class RowOf>
DEVICE void float_product(const Block& block, const uint8_t* matrix, uint32_t ty, uint32_t first, uint32_t rows, uint32_t cols, RowOf row_of, FloatTiles& s,
                          Sums& sums) {
    PerThread<const float*> x;
    apart(block, [&](int t) INLINE {
        zero(sums[t]);
        x[t] = row_of(t % TILE);
    });
    for (uint32_t from = 0; from < cols; from += DEPTH) {
        phase(block, [&](int t) INLINE {
            weight_tile<ANY>(t, matrix, ty, first, rows, from, cols, s.w);
            activation_tile(t, x[t], from, cols, s.x);
        });
        phase(block, [&](int t) INLINE { multiply(t, s.w, s.x, sums[t]); });
    }
}

/// What each sum is: `f(activation row, weight row, place among the sums)` for the tile's first `count` rows of activations.
template <class F> DEVICE void each_float(int t, int count, F f) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (t / 16 * 4 + i >= count) break;
#pragma unroll
        for (int j = 0; j < 4; j++) f(t / 16 * 4 + i, t % 16 * 4 + j, 4 * i + j);
    }
}

// ---- tensor cores ----

/// Weight rows of a tile: 16 for each of the eight warps.
#define WIDE 128
/// Columns of a tile.
#define STEP 64
/// Columns between those that are multiplied and those that are fetched into the L2.
#define AHEAD 256

/// Rows of 64 halves in eight chunks of 16 bytes, which are turned by the row: eight lanes that write or read together meet eight different chunks of the
/// 128 bytes that all banks give at once.
struct alignas(16) HalfTiles {
    Word4 w[WIDE * STEP / 8], x[TILE * STEP / 8];
    /// By which each token's sums are multiplied before this step, and its scale's inverse.
    float grow[TILE], unit[TILE];
    /// The last step at which some token's scale changed.
    uint32_t grown_at;
};

DEVICE uint32_t turned(uint32_t row, uint32_t chunk) { return row * (STEP / 8) + (chunk ^ (row & 1) * 6 ^ (row & 2) ^ (row >> 2 & 1)); }

/// Lane l of warp w: weight rows l / 4 and 8 more of the warp's sixteen, tokens 8 f + 2 (l % 4) and the next; `[4 f + 2 (row / 8) + token % 2]`.
typedef PerThread<Few<float, TILE / 2>> HalfSums;

DEVICE int row_of_lane(int t) { return t / LANES * 16 + t % LANES / 4; }
DEVICE int token_of_lane(int t, int f) { return 8 * f + 2 * (t % 4); }

/// Rows of one matrix, or of two: 64 rows of each then, one after the other in the tile, and eight of each in a warp's sixteen.
template <bool TWO> struct Rows {
    const uint8_t* matrix[2];
    uint32_t ty[2];
    uint32_t first, rows;

    static DEVICE bool is_plain(uint32_t ty) { return ty < 2 || ty == 30; }
    DEVICE bool plain() const { return is_plain(ty[0]) || is_plain(ty[1]); }
    /// Where row r of the tile's first or second half begins. Rows beyond the end repeat the last one.
    DEVICE const uint8_t* row(uint32_t half, uint32_t r, size_t bytes) const {
        const uint32_t at = first + (TWO ? r : 64 * half + r);
        return matrix[half] + (at < rows ? at : rows - 1) * bytes;
    }
};

/// Units i, i + 4.. of the columns `from`.. of two rows, EACH of both. `row` is where they begin in memory, `to` which of the tile they are. Zeros beyond the end.
template <class F, uint32_t EACH>
DEVICE void unpack_units(uint32_t i, const uint8_t* const (&row)[2], const uint32_t (&to)[2], uint32_t from, uint32_t cols, HalfTiles& s) {
    // A unit has up to four runs of eight columns, of which at most two are among these 64.
    constexpr uint32_t RUNS = F::RUNS > 2 ? 2 : F::RUNS, OF_BLOCK = F::ELEMS / (8 * F::RUNS);
    constexpr bool SMALL = F::ELEMS < STEP;
    const uint32_t in = from % F::ELEMS, run = F::RUNS > 2 ? in / STEP % 2 * 2 : 0;
    typename F::Raw raw[2][EACH];
    uint32_t unit[EACH];
    bool beyond[EACH];
#pragma unroll
    for (uint32_t e = 0; e < EACH; e++) {
        const uint32_t n = i + 4 * e, block = from / F::ELEMS + (SMALL ? n / OF_BLOCK : 0);
        unit[e] = SMALL ? n % OF_BLOCK : F::RUNS > 2 ? in / 128 * 4 + n : in / STEP * (8 / RUNS) + n;
        beyond[e] = SMALL && block * F::ELEMS >= cols;
#pragma unroll
        for (int r = 0; r < 2; r++) raw[r][e] = F::load(row[r] + (beyond[e] ? 0 : block) * F::BYTES, (int)unit[e]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (i == 0 && from + AHEAD < cols) fetch_ahead(row[r] + (from + AHEAD) / F::ELEMS * F::BYTES);
#pragma unroll
        for (uint32_t e = 0; e < EACH; e++) {
            const uint32_t n = i + 4 * e;
#pragma unroll
            for (uint32_t k = 0; k < RUNS; k++) {
                float w[8];
                F::run(raw[r][e], (int)unit[e], (int)(run + k), w);
                Word4 h = {two_halves(w[0], w[1]), two_halves(w[2], w[3]), two_halves(w[4], w[5]), two_halves(w[6], w[7])};
                if (beyond[e]) h = {0, 0, 0, 0};
                const uint32_t chunk = (SMALL ? n / OF_BLOCK * (F::ELEMS / 8) : 0) + (uint32_t)F::column((int)(SMALL ? unit[e] : n), (int)k) / 8;
                s.w[turned(to[r], chunk)] = h;
            }
        }
    }
}

/// Columns `from`.. of two rows: thread t has a fourth of each.
template <class F> DEVICE void unpack_rows(uint32_t t, const uint8_t* const (&row)[2], const uint32_t (&to)[2], uint32_t from, uint32_t cols, HalfTiles& s) {
    if (F::RUNS > 1) {
        unpack_units<F, 1>(t % 4, row, to, from, cols, s);
    } else if (F::ELEMS < STEP) {
        unpack_units<F, 2>(t % 4, row, to, from, cols, s);
    } else {
        // Types with codebooks would take registers from all others.
#pragma unroll 1
        for (uint32_t e = 0; e < 2; e++) unpack_units<F, 1>(t % 4 + 4 * e, row, to, from, cols, s);
    }
}

template <bool TWO> DEVICE void weight_halves(uint32_t t, const Rows<TWO>& rows, const uint8_t* a, const uint8_t* b, uint32_t from, uint32_t cols, HalfTiles& s) {
    // Two matrices of different types take a turn each, in which both rows of a thread are the same one.
    const bool same = !TWO || rows.ty[0] == rows.ty[1];
#pragma unroll 1
    for (int m = 0; m < (same ? 1 : 2); m++) {
        // Else the addresses that all 25 types read and write would be computed ahead and kept.
        keep_here(cols);
        keep_here(t);
        const uint8_t* const row[2] = {m ? b : a, same || m ? b : a};
        const uint32_t to[2] = {t / 4 + (m ? 64 : 0), t / 4 + (same || m ? 64 : 0)};
        with_format(m ? rows.ty[1] : rows.ty[0], [&](auto format) INLINE {
            using F = decltype(format);
            if constexpr (!F::PLAIN) unpack_rows<F>(t, row, to, from, cols, s);
        });
    }
}

/// The products of 128 rows with `count` rows of activations, `row_of(i)` being where row i begins; tokens of the result are to be multiplied by their `unit`.
template <bool TWO, class RowOf>
DEVICE void half_product(const Block& block, const Rows<TWO>& rows, uint32_t cols, int count, RowOf row_of, HalfTiles& s, HalfSums& sums) {
    // Thread t brings columns of the tile's rows t / 4 and 64 more, and eight columns of the tokens t / 8 and 32 more.
    PerThread<Few<const uint8_t*, 2>> weights;
    PerThread<Few<const float*, 2>> tokens;
    PerThread<Few<int, 2>> top;
    PerThread<Few<float, 16>> x;
    PerThread<Few<float, 2>> most;
    const int brought = (count + 15) / 16 * 16;
    const auto load = [&](int i, uint32_t from) INLINE {
        apart(block, [&](int t) INLINE {
            const uint32_t c = from + t % 8 * 8;
            float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
            if (t / 8 + 32 * i < count && c < cols) load8(tokens[t][i] + c, v);
#pragma unroll
            for (int j = 0; j < 8; j++) x[t][8 * i + j] = v[j];
        });
    };
    apart(block, [&](int t) INLINE {
        size_t bytes = 0;
        with_format(rows.ty[0], [&](auto format) INLINE { bytes = row_bytes<decltype(format)>(cols); });
        weights[t][0] = rows.row(0, t / 4, bytes);
        if (TWO) with_format(rows.ty[1], [&](auto format) INLINE { bytes = row_bytes<decltype(format)>(cols); });
        weights[t][1] = rows.row(1, t / 4, bytes);
#pragma unroll
        for (int i = 0; i < TILE / 2; i++) sums[t][i] = 0;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            top[t][i] = 27;
            tokens[t][i] = row_of(t / 8 + 32 * i);
        }
    });
    for (uint32_t from = 0; from < cols; from += STEP) {
        load(0, from);
        if (count > 32) load(1, from);
        apart(block, [&](int t) INLINE {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                most[t][i] = 0;
                if (32 * i >= count) break;
#pragma unroll
                for (int j = 0; j < 8; j++) most[t][i] = fmaxf(most[t][i], fabsf(x[t][8 * i + j]));
            }
        });
        max_among(block, most, 8);
        phase(block, [&](int t) INLINE {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int token = t / 8 + 32 * i;
                if (token >= brought) break;
                // Exponents of the largest number: 27 (2^-100) at least, so that the scale and its inverse are numbers; 255 if it is none.
                const int before = top[t][i], exponent = float_bits(most[t][i]) >> 23;
                const int now = exponent > before ? exponent : before;
                const float scale = bits_float((uint32_t)(267 - now) << 23);
                top[t][i] = now;
                if (t % 8 == 0) {
                    s.grow[token] = now - before < 127 ? bits_float((uint32_t)(127 + before - now) << 23) : 0.0f;
                    s.unit[token] = bits_float((uint32_t)(now - 13) << 23);
                    if (now != before) put_alike(s.grown_at, from);
                }
                uint32_t h[4];
#pragma unroll
                for (int j = 0; j < 4; j++) h[j] = two_halves(x[t][8 * i + 2 * j] * scale, x[t][8 * i + 2 * j + 1] * scale);
                s.x[turned(token, t % 8)] = {h[0], h[1], h[2], h[3]};
            }
            weight_halves<TWO>(t, rows, weights[t][0], weights[t][1], from, cols, s);
        });
        if (s.grown_at == from) {
            apart(block, [&](int t) INLINE {
#pragma unroll
                for (int f = 0; f < TILE / 8; f++) {
                    if (8 * f >= count) break;
                    const float a = s.grow[token_of_lane(t, f)], b = s.grow[token_of_lane(t, f) + 1];
                    sums[t][4 * f] *= a, sums[t][4 * f + 1] *= b, sums[t][4 * f + 2] *= a, sums[t][4 * f + 3] *= b;
                }
            });
        }
        // Where each lane's row of a fragment begins; columns further on are a bit away (`turned`).
        PerThread<Few<uint32_t, 2>> at;
        apart(block, [&](int t) INLINE {
            const uint32_t l = t % LANES, w = t / LANES, upper = l / 8 % 2;
            at[t][0] = turned((TWO ? 8 * w + 64 * upper : 16 * w + 8 * upper) + l % 8, l / 16);
            at[t][1] = turned(l / 16 * 8 + l % 8, upper);
            keep_here(at[t][0]);
            keep_here(at[t][1]);
        });
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) {
            PerThread<Halves> a, b;
            load_halves(block, [&](int t) INLINE { return &s.w[at[t][0] ^ 2 * k]; }, a);
#pragma unroll
            for (int f = 0; f < TILE / 8; f += 2) {
                if (8 * f >= count) break;
                load_halves(block, [&](int t) INLINE { return &s.x[(at[t][1] ^ 2 * k) + f * STEP]; }, b);
                multiply_halves(block, a, b, 0, sums, 4 * f);
                multiply_halves(block, a, b, 2, sums, 4 * f + 4);
            }
        }
        phase(block, [](int) INLINE {});
    }
}

/// What a lane's sums are: `f(token, place of the sum)`, that of the row 8 further being 2 places on.
template <class F> DEVICE void each_half(int t, int count, F f) {
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            if (token_of_lane(t, i) + j < count) f(token_of_lane(t, i) + j, 4 * i + j);
        }
    }
}

// ---- kernels ----

union Room {
    HalfTiles halves;
    FloatTiles floats;
};

DEVICE void matmul_block(const Block& block, const MatMul& p) {
    const MatJob& job = p.job;
    const uint32_t token = block.y * TILE;
    const int count = p.tokens - token < TILE ? p.tokens - token : TILE;
    SHARED(Room, room);
    const Rows<false> rows = {{job.weight, job.weight}, {job.ty, job.ty}, block.x * WIDE, job.rows};
    const auto row_of = [&](int i) INLINE { return p.x + (size_t)(token + (i < count ? i : count - 1)) * p.x_stride; };
    if (!rows.plain()) {
        HalfSums sums;
        half_product(block, rows, p.cols, count, row_of, room.halves, sums);
        apart(block, [&](int t) INLINE {
            each_half(t, count, [&](int i, int at) INLINE {
                put_product(job, token + i, rows.first + row_of_lane(t), sums[t][at] * room.halves.unit[i]);
                put_product(job, token + i, rows.first + row_of_lane(t) + 8, sums[t][at + 2] * room.halves.unit[i]);
            });
        });
        return;
    }
#pragma unroll 1
    for (uint32_t first = rows.first; first < rows.first + WIDE && first < job.rows; first += TILE) {
        Sums sums;
        float_product<false>(block, job.weight, job.ty, first, job.rows, p.cols, row_of, room.floats, sums);
        apart(block, [&](int t) INLINE {
            each_float(t, count, [&](int i, int j, int at) INLINE { put_product(job, token + i, first + j, sums[t][at]); });
        });
    }
}

template <class J> DEVICE void grouped_up_in(const Block& block, const GroupedUp& p, const J& join, const uint32_t* experts) {
    const Group group = p.groups[p.tile_group[block.y]];
    const uint32_t expert = expert_at(join, experts, p.tile_group[block.y]);
    const uint32_t first = block.x * TILE, pair = p.tile_begin[block.y];
    const int count = group.end - pair < TILE ? group.end - pair : TILE;
    const uint8_t* slot = p.slab + group.slot * p.slot_bytes;
    SHARED(Room, room);
    const Rows<true> rows = {{slot + p.gate_at, slot + p.up_at}, {p.gate_ty, p.up_ty}, first, p.rows};
    const auto row_of = [&](int i) INLINE { return p.x + (size_t)p.token_of[pair + (i < count ? i : count - 1)] * p.x_stride; };
    if (!rows.plain()) {
        HalfSums sums;
        half_product(block, rows, p.cols, count, row_of, room.halves, sums);
        apart(block, [&](int t) INLINE {
            // The same row of gate and up: eight rows of each are a warp's.
            const uint32_t row = first + t / LANES * 8 + t % LANES / 4;
            if (row >= p.rows) return;
            each_half(t, count, [&](int i, int at) INLINE {
                p.inner[(size_t)(pair + i) * p.rows + row] = join(expert, row, sums[t][at] * room.halves.unit[i], sums[t][at + 2] * room.halves.unit[i]);
            });
        });
        return;
    }
    // Gates lie in the result until their row of `up` is known.
#pragma unroll 1
    for (int m = 0; m < 2; m++) {
        Sums sums;
        float_product<true>(block, m ? rows.matrix[1] : rows.matrix[0], m ? rows.ty[1] : rows.ty[0], first, p.rows, p.cols, row_of, room.floats, sums);
        apart(block, [&](int t) INLINE {
            each_float(t, count, [&](int i, int j, int at) INLINE {
                if (first + j >= p.rows) return;
                float& inner = p.inner[(size_t)(pair + i) * p.rows + first + j];
                inner = m ? join(expert, first + j, inner, sums[t][at]) : sums[t][at];
            });
        });
    }
}

DEVICE void grouped_up_block(const Block& block, const GroupedUp& p) { grouped_up_in(block, p, Plain{}, nullptr); }

DEVICE void biased_grouped_up_block(const Block& block, const BiasedGroupedUp& p) {
    grouped_up_in(block, p.of, Biased{p.bias, p.of.rows, p.activation}, p.experts);
}

DEVICE void grouped_down_block(const Block& block, const GroupedDown& p) {
    const Group group = p.groups[p.tile_group[block.y]];
    const uint32_t pair = p.tile_begin[block.y];
    const int count = group.end - pair < TILE ? group.end - pair : TILE;
    SHARED(Room, room);
    const uint8_t* down = p.slab + group.slot * p.slot_bytes + p.down_at;
    const Rows<false> rows = {{down, down}, {p.ty, p.ty}, block.x * WIDE, p.rows};
    const auto row_of = [&](int i) INLINE { return p.inner + (size_t)(pair + (i < count ? i : count - 1)) * p.cols; };
    const auto put = [&](int i, uint32_t row, float sum) INLINE {
        if (row < p.rows) p.out[(size_t)(pair + i) * p.rows + row] = sum;
    };
    if (!rows.plain()) {
        HalfSums sums;
        half_product(block, rows, p.cols, count, row_of, room.halves, sums);
        apart(block, [&](int t) INLINE {
            each_half(t, count, [&](int i, int at) INLINE {
                put(i, rows.first + row_of_lane(t), sums[t][at] * room.halves.unit[i]);
                put(i, rows.first + row_of_lane(t) + 8, sums[t][at + 2] * room.halves.unit[i]);
            });
        });
        return;
    }
#pragma unroll 1
    for (uint32_t first = rows.first; first < rows.first + WIDE && first < p.rows; first += TILE) {
        Sums sums;
        float_product<false>(block, rows.matrix[0], p.ty, first, p.rows, p.cols, row_of, room.floats, sums);
        apart(block, [&](int t) INLINE {
            each_float(t, count, [&](int i, int j, int at) INLINE { put(i, first + j, sums[t][at]); });
        });
    }
}
