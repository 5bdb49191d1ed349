// Products of one row of activations on tensor cores: tiles of sixteen rows of weights, a superblock of 256 columns at a time.
//
// A tensor core wants eight columns of activations, and a token has one. So each column of the product is given one 32nd of the superblock: column n has the
// activations of sub-block n and zeros elsewhere. What comes out are the sums of every sub-block apart, which is what blocks with scales
// of their own need; a lane multiplies two of them by their scales, and four lanes add up a row.
//
// Weights go in as the small whole numbers that they are stored as: a byte in the lowest bits of a half is a subnormal, its value times 2^-24, exactly, which tensor cores
// multiply like any other (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021). Activations are rounded to halves, scaled by a power of two of
// their own 32 columns, so the largest error is 2^-12 of the largest of those; offsets use the sums of what was rounded.
//
// That is 2 to 4 instructions per weight where f32 takes 8 to 10, in a loop instead of a long line of code: decoding kernels run once through their code, and fetching
// it took them longer than fetching weights (measured on an H200, see docs/performance.md).
#pragma once

#include "formats.cuh"
#include "mma.cuh"
#include "params.cuh"

/// Rows of a tile.
#define TILE_ROWS 16
/// Columns of a superblock.
#define SUPER 256
/// Warps of a block that works on tiles.
#define TILE_WARPS 8
/// What a subnormal half is less than its bits.
#define SUBNORMAL 16777216.0f

/// For lane column t: two pairs of halves, of bytes 0 and 2 and of bytes 1 and 3 of a word; `mask` is two low (0x000f000f) or high nibbles (0x00f000f0), or two bytes.
DEVICE uint32_t even_bytes(uint32_t q, uint32_t mask) { return q & mask; }
DEVICE uint32_t odd_bytes(uint32_t q, uint32_t mask) { return q >> 8 & mask; }

/// What the sums of two sub-blocks mean: `units` turn sums of halves into numbers, `totals` are the sums of their activations.
struct Pair {
    float sum[2], unit[2], total[2];
};

/// Two sub-blocks of types with a scale and a minimum of six bits for each.
DEVICE float scaled_pair(const Word4& head, int t, float high_unit, const Pair& p) {
    float scale[2], offset[2];
#pragma unroll
    for (int r = 0; r < 2; r++) Nibbles256::scale_min(head, 4 * t, r, scale[r], offset[r]);
    // High nibbles are sixteen times what they mean.
    return fmaf(scale[0], p.sum[0] * p.unit[0], offset[0] * p.total[0]) + fmaf(scale[1], p.sum[1] * p.unit[1] * high_unit, offset[1] * p.total[1]);
}

// A format says how many sums it keeps apart (`SUMS`: one per 32 columns, or two), where in a sub-block a lane's two times four columns are (`at`), which
// bytes of a superblock lane column t has of a row (`load`), what its eight weights of sub-block n are (`pairs`), and what sums mean (`value`). Where a lane's bytes lie in many narrow pieces,
// the warp brings its whole superblock in pieces of sixteen bytes (`CHUNKS` for each of 16 rows) to shared memory first: a cache gives one line of a row at a time, however little of it is wanted.

struct TileQ4K {
    static constexpr int BYTES = Q4_K::BYTES, SUMS = 1, CHUNKS = 0;
    struct Part {
        Word4 head;
        Word2 q[4];
    };
    static DEVICE uint32_t at(uint32_t t, int i) { return 8 * t + 4 * i; }
    static DEVICE Part load(const uint8_t* b, uint32_t t) {
        Part p;
        p.head = *(const Word4*)b;
#pragma unroll
        for (int j = 0; j < 4; j++) p.q[j] = words_at<8>(b + 16 + 32 * j + 8 * t);
        return p;
    }
    static DEVICE void pairs(const Part& p, int n, uint32_t (&out)[4]) {
        const uint32_t mask = n & 1 ? 0x00f000f0 : 0x000f000f;
        const Word2 q = p.q[n / 2];
        out[0] = even_bytes(q.x, mask), out[1] = odd_bytes(q.x, mask), out[2] = even_bytes(q.y, mask), out[3] = odd_bytes(q.y, mask);
    }
    static DEVICE float value(const Part& p, int t, const Pair (&pair)[SUMS]) { return scaled_pair(p.head, t, 0.0625f, pair[0]); }
};

struct TileQ5K {
    static constexpr int BYTES = Q5_K::BYTES, SUMS = 1, CHUNKS = 0;
    struct Part {
        Word4 head;
        Word2 q[4], high;
    };
    static DEVICE uint32_t at(uint32_t t, int i) { return 8 * t + 4 * i; }
    static DEVICE Part load(const uint8_t* b, uint32_t t) {
        Part p;
        p.head = *(const Word4*)b;
        p.high = words_at<8>(b + 16 + 8 * t);
#pragma unroll
        for (int j = 0; j < 4; j++) p.q[j] = words_at<8>(b + 48 + 32 * j + 8 * t);
        return p;
    }
    /// The fifth bit of a weight is bit n of its byte.
    static DEVICE uint32_t fifth(uint32_t high, int n) { return (n < 4 ? high << (4 - n) : high >> (n - 4)) & 0x00100010; }
    static DEVICE void pairs(const Part& p, int n, uint32_t (&out)[4]) {
        const Word2 q = {n & 1 ? p.q[n / 2].x >> 4 : p.q[n / 2].x, n & 1 ? p.q[n / 2].y >> 4 : p.q[n / 2].y};
        out[0] = even_bytes(q.x, 0x000f000f) | fifth(p.high.x, n), out[1] = odd_bytes(q.x, 0x000f000f) | fifth(p.high.x >> 8, n);
        out[2] = even_bytes(q.y, 0x000f000f) | fifth(p.high.y, n), out[3] = odd_bytes(q.y, 0x000f000f) | fifth(p.high.y >> 8, n);
    }
    static DEVICE float value(const Part& p, int t, const Pair (&pair)[SUMS]) { return scaled_pair(p.head, t, 1.0f, pair[0]); }
};

/// Sixteen elements have a scale: the first word of a lane belongs to the first sixteen of a sub-block, the second to the others.
struct TileQ6K {
    static constexpr int BYTES = Q6_K::BYTES, SUMS = 2, CHUNKS = 0;
    struct Part {
        // [half of the superblock][which 32 of its 64 bytes][first or last sixteen]
        uint32_t low[2][2][2], high[2][2];
        // Of sub-blocks 2t and 2t + 1, first and last sixteen.
        uint32_t scales, d;
    };
    static DEVICE uint32_t at(uint32_t t, int i) { return 4 * t + 16 * i; }
    static DEVICE Part load(const uint8_t* b, uint32_t t) {
        Part p;
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                p.high[h][i] = word_at<2>(b + 128 + 32 * h + 16 * i + 4 * t);
#pragma unroll
                for (int w = 0; w < 2; w++) p.low[h][w][i] = word_at<2>(b + 64 * h + 32 * w + 16 * i + 4 * t);
            }
        }
        p.scales = word_at<2>(b + 192 + 4 * t);
        p.d = word16(b + 208);
        return p;
    }
    static DEVICE void pairs(const Part& p, int n, uint32_t (&out)[4]) {
        const int h = n / 4, c = n % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t low = c < 2 ? p.low[h][c & 1][i] : p.low[h][c & 1][i] >> 4;
            const uint32_t high = c < 2 ? p.high[h][i] << (4 - 2 * c) : p.high[h][i] >> (2 * c - 4);
            out[2 * i] = (low & 0x000f000f) | (high & 0x00300030);
            out[2 * i + 1] = (low >> 8 & 0x000f000f) | (high >> 8 & 0x00300030);
        }
    }
    static DEVICE float value(const Part& p, int, const Pair (&pair)[SUMS]) {
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float scale = (float)(int8_t)(p.scales >> (16 * n + 8 * i));
                sum = fmaf(scale, fmaf(pair[i].sum[n], pair[i].unit[n], -32.0f * pair[i].total[n]), sum);
            }
        }
        return half_float((uint16_t)p.d) * sum;
    }
};

/// Eight blocks of 32. A lane reads them in shared memory when it multiplies them.
struct TileQ80 {
    static constexpr int BYTES = 8 * Q8_0::BYTES, SUMS = 1, CHUNKS = BYTES / 16;
    struct Part {
        const uint8_t* row;
        uint32_t t;
    };
    static DEVICE uint32_t at(uint32_t t, int i) { return 8 * t + 4 * i; }
    static DEVICE Part load(const uint8_t* b, uint32_t t) { return {b, t}; }
    static DEVICE void pairs(const Part& p, int n, uint32_t (&out)[4]) {
        const uint32_t* from = (const uint32_t*)(p.row + 8 * p.t) + (34 * n + 2) / 4;
        uint32_t x, y;
        if (n & 1) {
            x = from[0], y = from[1];
        } else {
            // An even block's numbers begin between two multiples of four.
            x = byte_perm(from[0], from[1], 0x5432), y = byte_perm(from[1], from[2], 0x5432);
        }
        x ^= 0x80808080, y ^= 0x80808080;
        out[0] = even_bytes(x, 0x00ff00ff), out[1] = odd_bytes(x, 0x00ff00ff), out[2] = even_bytes(y, 0x00ff00ff), out[3] = odd_bytes(y, 0x00ff00ff);
    }
    static DEVICE float value(const Part& p, int t, const Pair (&pair)[SUMS]) {
        const uint16_t* d = (const uint16_t*)(p.row + 68 * t);
        return fmaf(half_float(d[0]), fmaf(pair[0].sum[0], pair[0].unit[0], -128.0f * pair[0].total[0]),
                    half_float(d[17]) * fmaf(pair[0].sum[1], pair[0].unit[1], -128.0f * pair[0].total[1]));
    }
};

/// Whether rows of this type and length are multiplied in tiles. `tiled` in params/shapes.rs says the same.
DEVICE bool tiled(uint32_t ty, uint32_t cols) { return cols % SUPER == 0 && (ty == 8 || (ty >= 12 && ty <= 14)); }

/// Call `f` with the tile's format of such a type.
template <class F> DEVICE void with_tile(uint32_t ty, F f) {
    switch (ty) {
        case 8: return f(TileQ80());
        case 12: return f(TileQ4K());
        case 13: return f(TileQ5K());
        case 14: return f(TileQ6K());
    }
}

/// `1 << tile_share` warps share the columns of a tile of so many: two superblocks or more each, if that many warps there are. `params/shapes.rs` says the same.
DEVICE uint32_t tile_share(uint32_t cols) { return cols < 4 * SUPER ? 0 : cols < 8 * SUPER ? 1 : cols < 16 * SUPER ? 2 : 3; }

/// One superblock of sixteen rows: where the first and the ninth of them and the activations begin, which are multiplied by silu of their `gate` if there is one; and by what the product
/// is multiplied.
struct TileUnit {
    const uint8_t* eight[2];
    /// From a row to the next, of which so many follow the first and the ninth; rows beyond repeat the last.
    uint32_t stride, more[2];
    const float *x, *gate;
    float by;
    /// Else it counts as zeros, and nothing is read.
    bool in;

    /// Row r of the first or the second eight.
    DEVICE const uint8_t* row(uint32_t r, int half) const { return eight[half] + (size_t)(r < more[half] ? r : more[half]) * stride; }
};

/// The rows of a tile that begins with row `first` of so many; the ninth follows the eighth.
DEVICE uint32_t more_rows(uint32_t first, uint32_t rows) { return first < rows ? rows - 1 - first : 0; }

/// Superblocks on their way to their lanes, one of each warp.
struct alignas(16) TileStage {
    Word4 of_warp[TILE_WARPS][TILE_ROWS * TileQ80::CHUNKS];
};

/// Sums of the tile's rows, one of every warp.
struct TileSums {
    float of_warp[TILE_WARPS][TILE_ROWS];
};

union TileRoom {
    TileStage stage;
    TileSums sums;
};

/// What a lane has loaded of a unit: its part of two rows, or every fourth piece of them.
template <class F, bool STAGED> struct TileLoad {
    typename F::Part part[2];
};
template <class F> struct TileLoad<F, true> {
    Word4 piece[2][(F::CHUNKS + 3) / 4];
};

/// The products of a warp's units, `of(t, i)` being the i-th of `count`: every lane of four gets the sums of rows `t % 32 / 4` and eight more.
///
/// A unit is loaded while the one before it is worked on. `constant`: the weights are written by no kernel, so the first are loaded before `in_turn`, which is then called here.
template <class F, class Of> DEVICE void tile_products(const Block& block, uint32_t count, bool constant, Of of, TileStage& stage, PerThread<Few<float, 2>>& sums) {
    constexpr int SUMS = F::SUMS;
    constexpr bool STAGED = F::CHUNKS > 0;
    typedef TileLoad<F, STAGED> Load;
    PerThread<Load> next;
    PerThread<Few<typename F::Part, 2>> part;
    PerThread<Few<Float4, 2>> next_x;
    PerThread<float> next_by, by;
    PerThread<Few<float, 8>> x;
    PerThread<Few<float, SUMS>> most;
    PerThread<Few<float, 2 * SUMS>> about;
    PerThread<Few<uint32_t, 4>> halves;
    PerThread<Halves> a, b;
    PerThread<Few<float, 4 * SUMS>> acc;
    const auto load_weights = [&](uint32_t i) INLINE {
        apart(block, [&](int t) INLINE {
            const TileUnit u = of(t, i);
            next[t] = Load{};
            if (!u.in) return;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const uint8_t* row = u.row(t % LANES / 4, r);
                if constexpr (STAGED) {
#pragma unroll
                    for (uint32_t k = 0; k < sizeof(Load) / sizeof(Word4) / 2; k++) {
                        const uint32_t piece = 4 * k + t % 4;
                        if (piece < F::CHUNKS) next[t].piece[r][k] = read_only_four((const Word4*)(row + 16 * piece));
                    }
                } else {
                    next[t].part[r] = F::load(row, t % 4);
                }
            }
        });
    };
    const auto load_row = [&](uint32_t i) INLINE {
        apart(block, [&](int t) INLINE {
            const TileUnit u = of(t, i);
            next_by[t] = u.in ? u.by : 0.0f;
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint32_t at = 32 * (t % LANES / 4) + F::at(t % 4, k);
                Float4 v = {0, 0, 0, 0};
                if (u.in) v = *(const Float4*)(u.x + at);
                if (u.in && u.gate) {
                    const Float4 g = *(const Float4*)(u.gate + at);
                    v = {silu(g.x) * v.x, silu(g.y) * v.y, silu(g.z) * v.z, silu(g.w) * v.w};
                }
                next_x[t][k] = v;
            }
        });
    };
    load_weights(0);
    if (constant) in_turn();
    load_row(0);
#pragma unroll 1
    for (uint32_t i = 0; i < count; i++) {
        if constexpr (STAGED) {
            // Everybody has read what was there before.
            warps_wait(block);
            apart(block, [&](int t) INLINE {
#pragma unroll
                for (int r = 0; r < 2; r++) {
#pragma unroll
                    for (uint32_t k = 0; k < sizeof(Load) / sizeof(Word4) / 2; k++) {
                        const uint32_t piece = 4 * k + t % 4;
                        if (piece < F::CHUNKS) stage.of_warp[t / LANES][(t % LANES / 4 + 8 * r) * F::CHUNKS + piece] = next[t].piece[r][k];
                    }
                }
            });
            warps_wait(block);
        }
        apart(block, [&](int t) INLINE {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                if constexpr (STAGED) {
                    part[t][r] = F::load((const uint8_t*)&stage.of_warp[t / LANES][(t % LANES / 4 + 8 * r) * F::CHUNKS], t % 4);
                } else {
                    part[t][r] = next[t].part[r];
                }
            }
            by[t] = next_by[t];
            x[t][0] = next_x[t][0].x, x[t][1] = next_x[t][0].y, x[t][2] = next_x[t][0].z, x[t][3] = next_x[t][0].w;
            x[t][4] = next_x[t][1].x, x[t][5] = next_x[t][1].y, x[t][6] = next_x[t][1].z, x[t][7] = next_x[t][1].w;
        });
        if (i + 1 < count) {
            load_weights(i + 1);
            load_row(i + 1);
        }
        apart(block, [&](int t) INLINE {
#pragma unroll
            for (int s = 0; s < SUMS; s++) most[t][s] = 0;
#pragma unroll
            for (int j = 0; j < 8; j++) most[t][j * SUMS / 8] = fmaxf(most[t][j * SUMS / 8], fabsf(x[t][j]));
        });
        max_among(block, most, 4);
        apart(block, [&](int t) INLINE {
#pragma unroll
            for (int s = 0; s < SUMS; s++) {
                // As in matmul.cuh: the largest comes below 2^14; not less than 2^-100, so that scale and unit are numbers.
                const uint32_t bits = float_bits(most[t][s]) >> 23, exponent = bits < 27 ? 27 : bits;
                const float scale = bits_float((267 - exponent) << 23), unit = bits_float((exponent - 13) << 23);
                float total = 0;
#pragma unroll
                for (int j = 0; j < 8 / SUMS; j += 4) {
                    // In the order of the weights' pairs: elements 0 and 2, 1 and 3.
                    const int first = s * 8 / SUMS + j;
                    const uint32_t even = two_halves(x[t][first] * scale, x[t][first + 2] * scale), odd = two_halves(x[t][first + 1] * scale, x[t][first + 3] * scale);
                    halves[t][first / 2] = even, halves[t][first / 2 + 1] = odd;
                    total += (half_float((uint16_t)even) + half_float((uint16_t)(even >> 16))) + (half_float((uint16_t)odd) + half_float((uint16_t)(odd >> 16)));
                }
                about[t][s] = total, about[t][SUMS + s] = unit;
            }
#pragma unroll
            for (int j = 0; j < 4 * SUMS; j++) acc[t][j] = 0;
        });
        // Totals over the four lanes of a sub-block; units are the same in all four.
        sum_first_among<SUMS>(block, about, 4);
#pragma unroll
        for (int n = 0; n < 8; n++) {
            PerThread<Few<uint32_t, 8>> w;
            apart(block, [&](int t) INLINE {
                uint32_t first[4], second[4];
                F::pairs(part[t][0], n, first);
                F::pairs(part[t][1], n, second);
#pragma unroll
                for (int j = 0; j < 4; j++) w[t][2 * j] = first[j], w[t][2 * j + 1] = second[j];
            });
#pragma unroll
            for (int k = 0; k < 2; k++) {
                apart(block, [&](int t) INLINE {
#pragma unroll
                    for (int j = 0; j < 4; j++) a[t][j] = w[t][4 * k + j];
                    const bool mine = t % LANES / 4 == n;
                    b[t][0] = mine ? halves[t][2 * k] : 0, b[t][1] = mine ? halves[t][2 * k + 1] : 0;
                });
                multiply_halves(block, a, b, 0, acc, SUMS > 1 ? 4 * k : 0);
            }
        }
        // Columns 2 t and 2 t + 1 of the product are a lane's; lanes 8 t.. and 8 t + 4.. know of their activations.
        PerThread<Few<float, 2 * SUMS>> even, odd;
        apart(block, [&](int t) INLINE { even[t] = odd[t] = about[t]; });
        taken_from(block, even, [](int t) INLINE { return 8 * (t % 4); });
        taken_from(block, odd, [](int t) INLINE { return 8 * (t % 4) + 4; });
        apart(block, [&](int t) INLINE {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                Pair pair[SUMS];
#pragma unroll
                for (int s = 0; s < SUMS; s++) {
                    pair[s] = {{acc[t][4 * s + 2 * r] * SUBNORMAL, acc[t][4 * s + 2 * r + 1] * SUBNORMAL},
                               {even[t][SUMS + s], odd[t][SUMS + s]},
                               {even[t][s] * even[t][SUMS + s], odd[t][s] * odd[t][SUMS + s]}};
                }
                sums[t][r] = fmaf(by[t], F::value(part[t][r], t % 4, pair), sums[t][r]);
            }
        });
    }
    sum_among(block, sums, 4);
}

/// Every warp's sixteen sums to shared memory, where the superblocks were; the block has waited.
DEVICE void put_tile_sums(const Block& block, PerThread<Few<float, 2>>& sums, TileSums& room) {
    phase(block, [](int) INLINE {});
    phase(block, [&](int t) INLINE {
        if (t % 4) return;
        room.of_warp[t / LANES][t % LANES / 4] = sums[t][0];
        room.of_warp[t / LANES][t % LANES / 4 + 8] = sums[t][1];
    });
}
