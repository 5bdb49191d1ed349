// Products of many rows of activations: tiles of 64 weight rows by 64 activation rows, 32 columns at a time through shared memory.
//
// Each weight becomes a float once per tile and serves 64 rows. A thread has 4 by 4 sums; per column it reads two times four floats from
// shared memory for sixteen multiply-adds. Tiles lie transposed, so that those reads are one load each; rows of 68 floats keep them apart from the writes' banks.
#pragma once

#include "formats.cuh"
#include "params.cuh"

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

/// The tile of weights from column `from` on: thread t brings eight columns of row t % 64. Rows beyond `rows` repeat the last one.
DEVICE void weight_tile(int t, const uint8_t* matrix, uint32_t ty, uint32_t first, uint32_t rows, uint32_t from, uint32_t cols, Tile& tile) {
    const uint32_t at = first + t % TILE, row = at < rows ? at : rows - 1, run = t / TILE * 8;
    float w[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    // Else the addresses of the row in all 25 types would be computed ahead and kept.
    keep_here(cols);
    if (from + run < cols) {
        with_format(ty, [&](auto format) INLINE {
            using F = decltype(format);
            eight_weights<F>(matrix + row * row_bytes<F>(cols), from + run, cols, w);
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

struct alignas(16) OneMap {
    Tile w, x;
};

DEVICE void matmul_block(const Block& block, const MatMul& p) {
    const MatJob& job = p.job;
    const uint32_t first = block.x * TILE, token = block.y * TILE;
    SHARED(OneMap, tiles);
    Sums sums;
    apart(block, [&](int t) INLINE { zero(sums[t]); });
    for (uint32_t from = 0; from < p.cols; from += DEPTH) {
        phase(block, [&](int t) INLINE {
            const uint32_t at = token + t % TILE, row = at < p.tokens ? at : p.tokens - 1;
            weight_tile(t, job.weight, job.ty, first, job.rows, from, p.cols, tiles.w);
            activation_tile(t, p.x + (size_t)row * p.x_stride, from, p.cols, tiles.x);
        });
        phase(block, [&](int t) INLINE { multiply(t, tiles.w, tiles.x, sums[t]); });
    }
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t at = token + t / 16 * 4 + i;
            if (at >= p.tokens) break;
            const float scale = job.scale ? sigmoid(job.scale[(size_t)at * job.scale_stride]) : 1.0f;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint32_t row = first + t % 16 * 4 + j;
                if (row >= job.rows) break;
                float sum = sums[t][4 * i + j];
                if (job.bias) sum += job.bias[row];
                if (job.scale) sum *= scale;
                float* y = job.y + (size_t)at * job.y_stride + row;
                *y = job.accumulate ? *y + sum : sum;
            }
        }
    });
}

struct alignas(16) TwoMaps {
    Tile gate, up, x;
};

DEVICE void grouped_up_block(const Block& block, const GroupedUp& p) {
    const Group group = p.groups[p.tile_group[block.y]];
    const uint32_t first = block.x * TILE, pair = p.tile_begin[block.y];
    const uint8_t* slot = p.slab + group.slot * p.slot_bytes;
    SHARED(TwoMaps, tiles);
    Sums gates, ups;
    PerThread<uint32_t> token;
    apart(block, [&](int t) INLINE {
        zero(gates[t]);
        zero(ups[t]);
        const uint32_t at = pair + t % TILE;
        token[t] = p.token_of[at < group.end ? at : group.end - 1];
    });
    for (uint32_t from = 0; from < p.cols; from += DEPTH) {
        phase(block, [&](int t) INLINE {
            // One copy of the code that unpacks, for both.
#pragma unroll 1
            for (int m = 0; m < 2; m++) {
                weight_tile(t, slot + (m ? p.up_at : p.gate_at), m ? p.up_ty : p.gate_ty, first, p.rows, from, p.cols, m ? tiles.up : tiles.gate);
            }
            activation_tile(t, p.x + (size_t)token[t] * p.x_stride, from, p.cols, tiles.x);
        });
        phase(block, [&](int t) INLINE {
            multiply(t, tiles.gate, tiles.x, gates[t]);
            multiply(t, tiles.up, tiles.x, ups[t]);
        });
    }
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t at = pair + t / 16 * 4 + i;
            if (at >= group.end) break;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint32_t row = first + t % 16 * 4 + j;
                if (row < p.rows) p.inner[(size_t)at * p.rows + row] = silu(gates[t][4 * i + j]) * ups[t][4 * i + j];
            }
        }
    });
}

DEVICE void grouped_down_block(const Block& block, const GroupedDown& p) {
    const Group group = p.groups[p.tile_group[block.y]];
    const uint32_t first = block.x * TILE, pair = p.tile_begin[block.y];
    const uint8_t* down = p.slab + group.slot * p.slot_bytes + p.down_at;
    SHARED(OneMap, tiles);
    Sums sums;
    apart(block, [&](int t) INLINE { zero(sums[t]); });
    for (uint32_t from = 0; from < p.cols; from += DEPTH) {
        phase(block, [&](int t) INLINE {
            const uint32_t at = pair + t % TILE, row = at < group.end ? at : group.end - 1;
            weight_tile(t, down, p.ty, first, p.rows, from, p.cols, tiles.w);
            activation_tile(t, p.inner + (size_t)row * p.cols, from, p.cols, tiles.x);
        });
        phase(block, [&](int t) INLINE { multiply(t, tiles.w, tiles.x, sums[t]); });
    }
    apart(block, [&](int t) INLINE {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t at = pair + t / 16 * 4 + i;
            if (at >= group.end) break;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint32_t row = first + t % 16 * 4 + j;
                if (row < p.rows) p.out[(size_t)at * p.rows + row] = sums[t][4 * i + j];
            }
        }
    });
}
