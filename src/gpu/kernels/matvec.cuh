// Products of few rows of activations: every weight is read once, from memory to registers, and memory is what they wait for.
//
// A warp has R rows of weights and keeps R * T sums per lane; the lanes go over the row in units (see `formats.cuh`), neighbours side by
// side, a few units ahead in registers before the first is used. Activations come through L1: for Q4_K that is 4 bytes of L1 for each 0.56 bytes
// of memory, which four rows per warp make one. Matrices of few rows have several warps to a row (`split`), or there would not be enough on its way. In flight
// per SM, at 128 registers a thread (16 warps): 16 warps * 32 lanes * 4 rows * 8 bytes = 16 KiB of nibbles; a card with 270 GB/s on 24 SMs needs
// 7 KiB to hide 600 ns, one with 1 TB/s on 128 SMs 5 KiB, an H100 15 KiB. One token in the types of `tiles.cuh` goes another way.
#pragma once

#include "biases.cuh"
#include "formats.cuh"
#include "params.cuh"
#include "results.cuh"
#include "tiles.cuh"

#include <type_traits>

/// Most warps of a block.
#define WARPS 8
/// Rows of a warp for one token, and for a few.
#define ROWS_ONE 4
#define ROWS_FEW 2

template <int N> DEVICE void clear(Few<float, N>& sum) {
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] = 0;
}

/// A lane's part of R rows of weights times T rows of activations, added to `sum[r * T + t]`; `lanes` lanes share the rows. Tokens beyond `tokens` repeat the last one.
template <class F, int R, int T>
DEVICE void lane_blocks(const uint8_t* const (&row)[R], const float* x, size_t x_stride, uint32_t cols, uint32_t tokens, uint32_t lane,
                        uint32_t lanes, Few<float, R * T>& sum) {
    // Plain floats count units of eight as blocks of one unit.
    constexpr int ELEMS = F::PLAIN ? 8 : F::ELEMS, BYTES = F::PLAIN ? 8 * F::BYTES : F::BYTES, UNITS = ELEMS / (8 * F::RUNS);
    constexpr int STEPS = T > 1 || F::STEPS < R / 2 ? 1 : R > 2 ? F::STEPS * 2 / R : F::STEPS;
    // A lane has the same unit of every block, so that what depends on it is computed once.
    const uint32_t blocks = cols / ELEMS, unit = lane % UNITS, apart = lanes / UNITS;
    for (uint32_t first = lane / UNITS; first < blocks; first += apart * STEPS) {
        typename F::Raw raw[STEPS][R];
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const uint32_t at = first + apart * s < blocks ? first + apart * s : first;
#pragma unroll
            for (int r = 0; r < R; r++) raw[s][r] = F::load(row[r] + at * BYTES, unit);
        }
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            // A step beyond the end repeats the first and is left out of the sum: a branch around it would let the compiler move its loads behind
            // the first step's arithmetic.
            const bool in = s == 0 || first + apart * s < blocks;
            const uint32_t at = in ? first + apart * s : first;
            Few<float, R * T> part;
#pragma unroll
            for (int i = 0; i < R * T; i++) part[i] = s == 0 ? sum[i] : 0.0f;
#pragma unroll
            for (int k = 0; k < F::RUNS; k++) {
                float w[R][8];
#pragma unroll
                for (int r = 0; r < R; r++) F::run(raw[s][r], unit, k, w[r]);
                uint32_t column = at * ELEMS;
                if constexpr (!F::PLAIN) column += F::column(unit, k);
#pragma unroll
                for (int t = 0; t < T; t++) {
                    float v[8];
                    load8(x + (t < (int)tokens ? t : (int)tokens - 1) * x_stride + column, v);
#pragma unroll
                    for (int r = 0; r < R; r++) {
#pragma unroll
                        for (int i = 0; i < 8; i++) part[r * T + t] = fmaf(w[r][i], v[i], part[r * T + t]);
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < R * T; i++) sum[i] = s == 0 ? part[i] : in ? sum[i] + part[i] : sum[i];
        }
    }
}

/// The same, element by element, for rows of plain floats that are not a multiple of eight long or not aligned.
template <class F, int R, int T>
DEVICE void lane_elements(const uint8_t* const (&row)[R], const float* x, size_t x_stride, uint32_t cols, uint32_t tokens, uint32_t lane,
                          uint32_t lanes, Few<float, R * T>& sum) {
    for (uint32_t c = lane; c < cols; c += lanes) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float w = F::element(row[r] + (size_t)c * F::BYTES);
#pragma unroll
            for (int t = 0; t < T; t++) sum[r * T + t] = fmaf(w, x[(t < (int)tokens ? t : (int)tokens - 1) * x_stride + c], sum[r * T + t]);
        }
    }
}

template <class F, int R, int T>
DEVICE void lane_rows(const uint8_t* const (&row)[R], const float* x, size_t x_stride, uint32_t cols, uint32_t tokens, uint32_t lane,
                      uint32_t lanes, Few<float, R * T>& sum) {
    if constexpr (F::PLAIN) {
        bool whole = cols % 8 == 0 && x_stride % 4 == 0 && aligned16(x);
        for (int r = 0; r < R; r++) whole = whole && aligned16(row[r]);
        if (!whole) return lane_elements<F, R, T>(row, x, x_stride, cols, tokens, lane, lanes, sum);
    }
    if constexpr (std::is_same<F, Q8_0>::value) {
        if (cols % Q8_0Pair::ELEMS == 0) return lane_blocks<Q8_0Pair, R, T>(row, x, x_stride, cols, tokens, lane, lanes, sum);
    }
    if constexpr (R == 4 && F::RUNS == 4) {
        // Four rows of units of 32 are too much for the registers.
#pragma unroll
        for (int half = 0; half < 4; half += 2) {
            const uint8_t* const two[2] = {row[half], row[half + 1]};
            Few<float, 2 * T> part;
            clear(part);
            lane_blocks<F, 2, T>(two, x, x_stride, cols, tokens, lane, lanes, part);
#pragma unroll
            for (int i = 0; i < 2 * T; i++) sum[half * T + i] += part[i];
        }
        return;
    }
    lane_blocks<F, R, T>(row, x, x_stride, cols, tokens, lane, lanes, sum);
}

/// R rows from row `at` on of a matrix; those beyond the end repeat the last one.
template <int R> DEVICE void rows_from(const uint8_t* (&row)[R], const uint8_t* matrix, uint32_t at, uint32_t rows, size_t bytes) {
#pragma unroll
    for (int r = 0; r < R; r++) row[r] = matrix + (at + r < rows ? at + r : rows - 1) * bytes;
}

/// Every warp's sums, N at most.
template <int N> struct WarpSums {
    float of_warp[WARPS][N];
};

/// After `warp_sum`: lane i of the first of `1 << split` neighbouring warps gets the i-th of their sums, added up in the order of warps.
template <int N> DEVICE void gather_sums(const Block& block, PerThread<Few<float, N>>& sums, uint32_t split, WarpSums<N>& room, PerThread<float>& sum) {
    apart(block, [&](int t) INLINE {
        // A choice among registers, not an index into them.
        sum[t] = 0;
#pragma unroll
        for (int i = 0; i < N; i++) sum[t] = t % LANES == i ? sums[t][i] : sum[t];
    });
    if (split == 0) return;
    phase(block, [&](int t) INLINE {
        if (t % LANES < N) room.of_warp[t / LANES][t % LANES] = sum[t];
    });
    phase(block, [&](int t) INLINE {
        if (t % LANES >= N || t / LANES % (1 << split)) return;
        for (int w = 1; w < 1 << split; w++) sum[t] += room.of_warp[t / LANES + w][t % LANES];
    });
}

/// At most T tokens from token `from` on, R rows per warp.
template <int R, int T> DEVICE void matvec_tokens(const Block& block, const MatVec& p, const MatJob& job, uint32_t from, WarpSums<R * T>& room) {
    const uint32_t tokens = p.tokens - from, lanes = LANES << p.split;
    const float* x = p.x + (size_t)from * p.x_stride;
    PerThread<Few<float, R * T>> sums;
    PerThread<float> sum;
    const uint32_t first = (block.x - job.first_block) * (block.threads / LANES * R >> p.split);
    apart(block, [&](int t) INLINE {
        clear(sums[t]);
        uint32_t cols = p.cols;
        keep_here(cols);
        with_format(job.ty, [&](auto format) INLINE {
            using F = decltype(format);
            const uint8_t* rows[R];
            rows_from<R>(rows, job.weight, first + (t / LANES >> p.split) * R, job.rows, row_bytes<F>(cols));
            lane_rows<F, R, T>(rows, x, p.x_stride, cols, tokens, t & (lanes - 1), lanes, sums[t]);
        });
    });
    warp_sum(block, sums);
    gather_sums(block, sums, p.split, room, sum);
    apart(block, [&](int t) INLINE {
        const int lane = t % LANES, warp = t / LANES;
        const uint32_t row = first + (warp >> p.split) * R + lane / T, token = from + lane % T;
        if (lane >= R * T || (warp & ((1 << p.split) - 1)) || token >= p.tokens) return;
        put_product(job, token, row, sum[t]);
    });
}

/// The job of a block.
DEVICE const MatJob& job_of(const Block& block, const MatVec& p) {
    uint32_t j = 0;
    while (j + 1 < p.jobs && p.job[j + 1].first_block <= block.x) j++;
    return p.job[j];
}

/// One token, in tiles: `1 << tile_share` warps have every so many-th superblock of a tile.
DEVICE void matvec_tiles(const Block& block, const MatVec& p, const MatJob& job, TileRoom& room) {
    const uint32_t share = tile_share(p.cols), apart_by = 1 << share, supers = p.cols / SUPER, tiles = TILE_WARPS >> share;
    const uint32_t first = (block.x - job.first_block) * tiles * TILE_ROWS;
    PerThread<Few<float, 2>> sums;
    apart(block, [&](int t) INLINE { clear(sums[t]); });
    with_tile(job.ty, [&](auto format) INLINE {
        using F = decltype(format);
        tile_products<F>(block, (supers + apart_by - 1) >> share, true, [&](int t, uint32_t i) INLINE {
            const uint32_t warp = t / LANES, super = i * apart_by + (warp & (apart_by - 1)), row = first + (warp >> share) * TILE_ROWS;
            const uint32_t ninth = row + 8 < job.rows ? row + 8 : job.rows - 1, stride = supers * F::BYTES;
            const uint8_t* weight = job.weight + super * F::BYTES;
            return TileUnit{{weight + (size_t)row * stride, weight + (size_t)ninth * stride}, stride, {more_rows(row, job.rows), more_rows(row + 8, job.rows)},
                            p.x + super * SUPER, p.gate ? p.gate + super * SUPER : nullptr, 1.0f, super < supers && row < job.rows};
        }, room.stage, sums);
    });
    put_tile_sums(block, sums, room.sums);
    apart(block, [&](int t) INLINE {
        if (t >= (int)(tiles * TILE_ROWS)) return;
        float sum = 0;
        for (uint32_t w = 0; w < apart_by; w++) sum += room.sums.of_warp[(t / TILE_ROWS << share) + w][t % TILE_ROWS];
        put_product(job, 0, first + t, sum);
    });
}

template <> struct WaitsItself<MatVec> {
    static constexpr bool value = true;
};

DEVICE void matvec_block(const Block& block, const MatVec& p) {
    union Room {
        WarpSums<ROWS_ONE> warps;
        TileRoom tiles;
    };
    SHARED(Room, room);
    const MatJob& job = job_of(block, p);
    // `MatVec::tiled` in params/shapes.rs says the same, and why.
    if (job.ty != 14 && tiled(job.ty, p.cols)) return matvec_tiles(block, p, job, room.tiles);
    in_turn();
    matvec_tokens<ROWS_ONE, 1>(block, p, job, 0, room.warps);
}

DEVICE void matvec_few_block(const Block& block, const MatVec& p) {
    SHARED(WarpSums<ROWS_FEW * 4>, room);
    in_turn();
    // More than four would not fit into the registers; the second pass finds the weights in the L2 cache.
    for (uint32_t from = 0; from < p.tokens; from += 4) matvec_tokens<ROWS_FEW, 4>(block, p, job_of(block, p), from, room);
}

/// The matrix at byte `at` of the expert in a slot.
DEVICE const uint8_t* of_slot(const uint8_t* slab, uint32_t slot, uint64_t slot_bytes, uint64_t at) { return slab + slot * slot_bytes + at; }

/// A tile has eight rows of gate and the same eight of up. `join` makes one of both.
template <class J>
DEVICE void experts_up_tiles(const Block& block, const ExpertsUp& p, const J& join, const uint32_t* ids, const uint8_t* gate, const uint8_t* up, const float* x, TileRoom& room) {
    const uint32_t share = tile_share(p.cols), apart_by = 1 << share, supers = p.cols / SUPER, tiles = TILE_WARPS >> share;
    const uint32_t first = block.x * tiles * 8;
    PerThread<Few<float, 2>> sums;
    apart(block, [&](int t) INLINE { clear(sums[t]); });
    with_tile(p.gate_ty, [&](auto format) INLINE {
        using F = decltype(format);
        tile_products<F>(block, (supers + apart_by - 1) >> share, false, [&](int t, uint32_t i) INLINE {
            const uint32_t warp = t / LANES, super = i * apart_by + (warp & (apart_by - 1)), row = first + (warp >> share) * 8, stride = supers * F::BYTES;
            const uint32_t more = more_rows(row, p.rows);
            const size_t at = (size_t)row * stride + super * F::BYTES;
            return TileUnit{{gate + at, up + at}, stride, {more, more}, x + super * SUPER, nullptr, 1.0f, super < supers && row < p.rows};
        }, room.stage, sums);
    });
    put_tile_sums(block, sums, room.sums);
    apart(block, [&](int t) INLINE {
        const uint32_t row = first + t;
        if (t >= (int)tiles * 8 || row >= p.rows) return;
        float g = 0, u = 0;
        for (uint32_t w = 0; w < apart_by; w++) {
            const float* of_warp = room.sums.of_warp[(t / 8 << share) + w];
            g += of_warp[t % 8], u += of_warp[t % 8 + 8];
        }
        p.inner[(size_t)block.y * p.rows + row] = join(expert_at(join, ids, block.y), row, g, u);
    });
}

/// A warp has two rows of gate and two of up, which share their activations. `ExpertsUp::rows_of_block` in params/shapes.rs says the same.
template <class J> DEVICE void experts_up_in(const Block& block, const ExpertsUp& p, const J& join, const uint32_t* ids) {
    const uint32_t pair = block.y, split = p.cols < 2048 ? 0 : p.cols < 4096 ? 1 : 2, lanes = LANES << split, warps = block.threads / LANES;
    const int slot = p.slots[pair];
    if (slot < 0) return;
    const uint8_t* gate = of_slot(p.slab, slot, p.slot_bytes, p.gate_at);
    const uint8_t* up = of_slot(p.slab, slot, p.slot_bytes, p.up_at);
    const float* x = p.x + (size_t)(pair / p.top_k) * p.x_stride;
    union Room {
        WarpSums<4> warps;
        TileRoom tiles;
    };
    SHARED(Room, shared);
    if (p.gate_ty == p.up_ty && tiled(p.gate_ty, p.cols)) return experts_up_tiles(block, p, join, ids, gate, up, x, shared.tiles);
    WarpSums<4>& room = shared.warps;
    PerThread<Few<float, 4>> sums;
    apart(block, [&](int t) INLINE {
        const uint32_t row = 2 * (block.x * (warps >> split) + (t / LANES >> split)), lane = t & (lanes - 1);
        clear(sums[t]);
        if (p.gate_ty == p.up_ty) {
            uint32_t cols = p.cols;
            keep_here(cols);
            with_format(p.gate_ty, [&](auto format) INLINE {
                using F = decltype(format);
                const uint8_t *gates[2], *ups[2];
                rows_from<2>(gates, gate, row, p.rows, row_bytes<F>(cols));
                rows_from<2>(ups, up, row, p.rows, row_bytes<F>(cols));
                const uint8_t* const rows[4] = {gates[0], gates[1], ups[0], ups[1]};
                lane_rows<F, 4, 1>(rows, x, 0, cols, 1, lane, lanes, sums[t]);
            });
        } else {
#pragma unroll 1
            for (int m = 0; m < 2; m++) {
                Few<float, 2> two = {{0, 0}};
                uint32_t cols = p.cols;
                keep_here(cols);
                with_format(m ? p.up_ty : p.gate_ty, [&](auto format) INLINE {
                    using F = decltype(format);
                    const uint8_t* rows[2];
                    rows_from<2>(rows, m ? up : gate, row, p.rows, row_bytes<F>(cols));
                    lane_rows<F, 2, 1>(rows, x, 0, cols, 1, lane, lanes, two);
                });
                if (m) sums[t][2] = two[0], sums[t][3] = two[1];
                else sums[t][0] = two[0], sums[t][1] = two[1];
            }
        }
    });
    warp_sum(block, sums);
    if (split) {
        phase(block, [&](int t) INLINE {
            if (t % LANES == 0) {
#pragma unroll
                for (int i = 0; i < 4; i++) room.of_warp[t / LANES][i] = sums[t][i];
            }
        });
        apart(block, [&](int t) INLINE {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[t][i] = 0;
                for (int w = 0; w < 1 << split; w++) sums[t][i] += room.of_warp[(t / LANES >> split << split) + w][i];
            }
        });
    }
    apart(block, [&](int t) INLINE {
        const uint32_t lane = t & (lanes - 1), row = 2 * (block.x * (warps >> split) + (t / LANES >> split)) + lane;
        if (lane >= 2 || row >= p.rows) return;
        const float g = lane ? sums[t][1] : sums[t][0], u = lane ? sums[t][3] : sums[t][2];
        p.inner[(size_t)pair * p.rows + row] = join(expert_at(join, ids, pair), row, g, u);
    });
}

DEVICE void experts_up_block(const Block& block, const ExpertsUp& p) { experts_up_in(block, p, Plain{}, nullptr); }

DEVICE void biased_up_block(const Block& block, const BiasedUp& p) { experts_up_in(block, p.of, Biased{p.bias, p.of.rows, p.activation}, p.ids); }

/// Warps of a block of `experts_down`, and rows of each.
#define DOWN_WARPS 8
#define DOWN_ROWS 4

/// A warp has every eighth superblock of a token's experts, one expert after the other.
DEVICE void experts_down_tiles(const Block& block, const ExpertsDown& p, TileRoom& room) {
    const uint32_t token = block.y, supers = p.cols / SUPER, units = p.top_k * supers, first = block.x * TILE_ROWS;
    PerThread<Few<float, 2>> sums;
    PerThread<float> before;
    apart(block, [&](int t) INLINE {
        clear(sums[t]);
        before[t] = t < TILE_ROWS && first + t < p.rows ? p.y[(size_t)token * p.y_stride + first + t] : 0.0f;
    });
    with_tile(p.ty, [&](auto format) INLINE {
        using F = decltype(format);
        tile_products<F>(block, (units + TILE_WARPS - 1) / TILE_WARPS, false, [&](int t, uint32_t i) INLINE {
            const uint32_t unit = i * TILE_WARPS + t / LANES, j = token * p.top_k + unit / supers, super = unit % supers, stride = supers * F::BYTES;
            const uint32_t ninth = first + 8 < p.rows ? first + 8 : p.rows - 1;
            const int slot = unit < units ? p.slots[j] : -1;
            TileUnit u = {{p.slab, p.slab}, stride, {more_rows(first, p.rows), more_rows(first + 8, p.rows)}, p.inner, nullptr, 0, slot >= 0};
            if (slot < 0) return u;
            u.by = p.weights[j];
            u.x = p.inner + (size_t)j * p.cols + super * SUPER;
            const uint8_t* down = of_slot(p.slab, slot, p.slot_bytes, p.down_at) + super * F::BYTES;
            u.eight[0] = down + (size_t)first * stride, u.eight[1] = down + (size_t)ninth * stride;
            return u;
        }, room.stage, sums);
    });
    put_tile_sums(block, sums, room.sums);
    apart(block, [&](int t) INLINE {
        if (t >= TILE_ROWS || first + t >= p.rows) return;
        float sum = 0;
        for (uint32_t w = 0; w < TILE_WARPS; w++) sum += room.sums.of_warp[w][t];
        p.y[(size_t)token * p.y_stride + first + t] = before[t] + sum;
    });
}

/// The experts of a token lie side by side over the warps: warp w has expert w of four or eight, w plus as many, ...; their parts are added in the order of warps.
/// `ExpertsDown::rows_of_block` in params/shapes.rs says the same.
DEVICE void experts_down_block(const Block& block, const ExpertsDown& p) {
    const uint32_t token = block.y, ways = p.top_k > 4 ? 8 : 4, of_block = DOWN_WARPS / ways * DOWN_ROWS;
    struct Parts {
        float of_warp[DOWN_WARPS][DOWN_ROWS];
    };
    union Room {
        Parts parts;
        TileRoom tiles;
    };
    SHARED(Room, room);
    if (tiled(p.ty, p.cols)) return experts_down_tiles(block, p, room.tiles);
    Parts& parts = room.parts;
    PerThread<Few<float, DOWN_ROWS>> sums;
    PerThread<float> before;
    apart(block, [&](int t) INLINE {
        const uint32_t at = block.x * of_block + t / LANES / ways * DOWN_ROWS;
        clear(sums[t]);
#pragma unroll 1
        for (uint32_t j = token * p.top_k + t / LANES % ways; j < (token + 1) * p.top_k; j += ways) {
            const int slot = p.slots[j];
            if (slot < 0) continue;
            const float weight = p.weights[j], *inner = p.inner + (size_t)j * p.cols;
            Few<float, DOWN_ROWS> sum;
            clear(sum);
            uint32_t cols = p.cols;
            keep_here(cols);
            with_format(p.ty, [&](auto format) INLINE {
                using F = decltype(format);
                const uint8_t* rows[DOWN_ROWS];
                rows_from<DOWN_ROWS>(rows, of_slot(p.slab, slot, p.slot_bytes, p.down_at), at, p.rows, row_bytes<F>(cols));
                lane_rows<F, DOWN_ROWS, 1>(rows, inner, 0, cols, 1, t % LANES, LANES, sum);
            });
#pragma unroll
            for (int r = 0; r < DOWN_ROWS; r++) sums[t][r] = fmaf(weight, sum[r], sums[t][r]);
        }
    });
    warp_sum(block, sums);
    phase(block, [&](int t) INLINE {
        const uint32_t row = block.x * of_block + t;
        before[t] = t < (int)of_block && row < p.rows ? p.y[(size_t)token * p.y_stride + row] : 0.0f;
        if (t % LANES == 0) {
#pragma unroll
            for (int r = 0; r < DOWN_ROWS; r++) parts.of_warp[t / LANES][r] = sums[t][r];
        }
    });
    apart(block, [&](int t) INLINE {
        const uint32_t row = block.x * of_block + t;
        if (t >= (int)of_block || row >= p.rows) return;
        float sum = 0;
        for (uint32_t w = 0; w < ways; w++) sum += parts.of_warp[t / DOWN_ROWS * ways + w][t % DOWN_ROWS];
        p.y[(size_t)token * p.y_stride + row] = before[t] + sum;
    });
}
