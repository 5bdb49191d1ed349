// Products of few rows of activations: every weight is read once, from memory to registers, and memory is what they wait for.
//
// A warp has R rows of weights and keeps R * T sums per lane; the lanes go over the row in units (see `formats.cuh`), neighbours side by
// side, `STEPS` units ahead in registers before the first is used. Activations come through L1: for Q4_K that is 4 bytes of L1 for each 0.56 bytes
// of memory, which two rows per warp halve. In flight per SM, at 96 registers a thread (20 warps): 20 warps * 32 lanes * 2 rows
// * 2 steps * 8 bytes = 20 KiB of nibbles; a card with 270 GB/s on 24 SMs needs 7 KiB to hide 600 ns, one with 1 TB/s on 128 SMs 5 KiB,
// an H100 15 KiB. Per weight of Q4_K there are seven to eight instructions (permute, subtract, multiply-add to the value, multiply-add to the
// sum, a share of loads and scales): half of the issue slots of a 270 GB/s card at full memory speed, more than all of an H100's.
#pragma once

#include "formats.cuh"
#include "params.cuh"

#define WARPS 4
/// Rows of a warp.
#define PAIR 2

/// A lane's part of R rows of weights times T rows of activations, added to `sum[r * T + t]`. Rows beyond `tokens` repeat the last one.
template <class F, int R, int T>
DEVICE void lane_blocks(const uint8_t* const (&row)[R], const float* x, size_t x_stride, uint32_t cols, uint32_t tokens, int lane,
                        Few<float, R * T>& sum) {
    // Plain floats count units of eight as blocks of one unit.
    constexpr int ELEMS = F::PLAIN ? 8 : F::ELEMS, BYTES = F::PLAIN ? 8 * F::BYTES : F::BYTES, UNITS = ELEMS / (8 * F::RUNS);
    constexpr int STEPS = T > 1 ? 1 : F::STEPS;
    const uint32_t units = cols / ELEMS * UNITS;
    for (uint32_t first = lane; first < units; first += LANES * STEPS) {
        typename F::Raw raw[STEPS][R];
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const uint32_t u = first + LANES * s < units ? first + LANES * s : first;
#pragma unroll
            for (int r = 0; r < R; r++) raw[s][r] = F::load(row[r] + (size_t)(u / UNITS) * BYTES, u % UNITS);
        }
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            // A step beyond the end repeats the first and is left out of the sum: a branch around it would let the compiler move its loads behind
            // the first step's arithmetic.
            const bool in = s == 0 || first + LANES * s < units;
            const uint32_t u = in ? first + LANES * s : first;
            Few<float, R * T> part;
#pragma unroll
            for (int i = 0; i < R * T; i++) part[i] = s == 0 ? sum[i] : 0.0f;
#pragma unroll
            for (int k = 0; k < F::RUNS; k++) {
                float w[R][8];
#pragma unroll
                for (int r = 0; r < R; r++) F::run(raw[s][r], u % UNITS, k, w[r]);
                uint32_t column = 8 * u;
                if constexpr (!F::PLAIN) column = u / UNITS * ELEMS + F::column(u % UNITS, k);
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
DEVICE void lane_elements(const uint8_t* const (&row)[R], const float* x, size_t x_stride, uint32_t cols, uint32_t tokens, int lane,
                          Few<float, R * T>& sum) {
    for (uint32_t c = lane; c < cols; c += LANES) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float w = F::element(row[r] + (size_t)c * F::BYTES);
#pragma unroll
            for (int t = 0; t < T; t++) sum[r * T + t] = fmaf(w, x[(t < (int)tokens ? t : (int)tokens - 1) * x_stride + c], sum[r * T + t]);
        }
    }
}

template <class F, int R, int T>
DEVICE void lane_rows(const uint8_t* const (&row)[R], const float* x, size_t x_stride, uint32_t cols, uint32_t tokens, int lane,
                      Few<float, R * T>& sum) {
    if constexpr (F::PLAIN) {
        bool whole = cols % 8 == 0 && x_stride % 4 == 0 && aligned16(x);
        for (int r = 0; r < R; r++) whole = whole && aligned16(row[r]);
        if (!whole) return lane_elements<F, R, T>(row, x, x_stride, cols, tokens, lane, sum);
    }
    lane_blocks<F, R, T>(row, x, x_stride, cols, tokens, lane, sum);
}

template <int N> DEVICE void clear(Few<float, N>& sum) {
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] = 0;
}

/// At most T tokens from token `from` on.
template <int T> DEVICE void matvec_tokens(const Block& block, const MatVec& p, const MatJob& job, uint32_t from) {
    const uint32_t tokens = p.tokens - from;
    const float* x = p.x + (size_t)from * p.x_stride;
    PerThread<Few<float, PAIR * T>> sums;
    const uint32_t first = (block.x - job.first_block) * (WARPS * PAIR);
    apart(block, [&](int t) INLINE {
        const uint32_t at = first + t / LANES * PAIR, last = job.rows - 1;
        clear(sums[t]);
        uint32_t cols = p.cols;
        keep_here(cols);
        with_format(job.ty, [&](auto format) INLINE {
            using F = decltype(format);
            const size_t bytes = row_bytes<F>(cols);
            const uint8_t* const rows[PAIR] = {job.weight + (at < last ? at : last) * bytes, job.weight + (at + 1 < last ? at + 1 : last) * bytes};
            lane_rows<F, PAIR, T>(rows, x, p.x_stride, cols, tokens, t % LANES, sums[t]);
        });
    });
    warp_sum(block, sums);
    apart(block, [&](int t) INLINE {
        // Lane i has result i: a choice among registers, not an index into them.
        const int lane = t % LANES;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < PAIR * T; i++) sum = lane == i ? sums[t][i] : sum;
        const uint32_t row = first + t / LANES * PAIR + lane / T, token = from + lane % T;
        if (lane >= PAIR * T || row >= job.rows || token >= p.tokens) return;
        if (job.bias) sum += job.bias[row];
        if (job.scale) sum *= sigmoid(job.scale[(size_t)token * job.scale_stride]);
        float* y = job.y + (size_t)token * job.y_stride + row;
        *y = job.accumulate ? *y + sum : sum;
    });
}

DEVICE void matvec_block(const Block& block, const MatVec& p) {
    uint32_t j = 0;
    while (j + 1 < p.jobs && p.job[j + 1].first_block <= block.x) j++;
    const MatJob& job = p.job[j];
    if (p.tokens == 1) return matvec_tokens<1>(block, p, job, 0);
    // More than four would not fit into 80 registers; the second pass finds the weights in the L2 cache.
    for (uint32_t from = 0; from < p.tokens; from += 4) matvec_tokens<4>(block, p, job, from);
}

/// The matrix at byte `at` of the expert in a slot.
DEVICE const uint8_t* of_slot(const uint8_t* slab, uint32_t slot, uint64_t slot_bytes, uint64_t at) { return slab + slot * slot_bytes + at; }

/// A warp has one row of gate and one of up, which share their activations.
DEVICE void experts_up_block(const Block& block, const ExpertsUp& p) {
    const uint32_t pair = block.y;
    const int slot = p.slots[pair];
    if (slot < 0) return;
    const uint8_t* gate = of_slot(p.slab, slot, p.slot_bytes, p.gate_at);
    const uint8_t* up = of_slot(p.slab, slot, p.slot_bytes, p.up_at);
    const float* x = p.x + (size_t)(pair / p.top_k) * p.x_stride;
    PerThread<Few<float, 2>> sums;
    apart(block, [&](int t) INLINE {
        const uint32_t at = block.x * WARPS + t / LANES, row = at < p.rows ? at : p.rows - 1;
        clear(sums[t]);
        if (p.gate_ty == p.up_ty) {
            with_format(p.gate_ty, [&](auto format) INLINE {
                using F = decltype(format);
                const uint8_t* const rows[2] = {gate + row * row_bytes<F>(p.cols), up + row * row_bytes<F>(p.cols)};
                lane_rows<F, 2, 1>(rows, x, 0, p.cols, 1, t % LANES, sums[t]);
            });
        } else {
#pragma unroll 1
            for (int m = 0; m < 2; m++) {
                Few<float, 1> sum = {{0}};
                uint32_t cols = p.cols;
                keep_here(cols);
                with_format(m ? p.up_ty : p.gate_ty, [&](auto format) INLINE {
                    using F = decltype(format);
                    const uint8_t* const one[1] = {(m ? up : gate) + row * row_bytes<F>(cols)};
                    lane_rows<F, 1, 1>(one, x, 0, cols, 1, t % LANES, sum);
                });
                if (m) sums[t][1] = sum[0];
                else sums[t][0] = sum[0];
            }
        }
    });
    warp_sum(block, sums);
    apart(block, [&](int t) INLINE {
        const uint32_t row = block.x * WARPS + t / LANES;
        if (t % LANES == 0 && row < p.rows) p.inner[(size_t)pair * p.rows + row] = silu(sums[t][0]) * sums[t][1];
    });
}

/// A warp has one row of every expert of its token, and adds them up lane by lane before the lanes are added.
DEVICE void experts_down_block(const Block& block, const ExpertsDown& p) {
    const uint32_t token = block.y;
    PerThread<Few<float, 1>> sums;
    apart(block, [&](int t) INLINE {
        const uint32_t at = block.x * WARPS + t / LANES, row = at < p.rows ? at : p.rows - 1;
        sums[t][0] = 0;
        with_format(p.ty, [&](auto format) INLINE {
            using F = decltype(format);
            for (uint32_t j = token * p.top_k; j < (token + 1) * p.top_k; j++) {
                const int slot = p.slots[j];
                if (slot < 0) continue;
                const uint8_t* const one[1] = {of_slot(p.slab, slot, p.slot_bytes, p.down_at) + row * row_bytes<F>(p.cols)};
                Few<float, 1> sum = {{0}};
                lane_rows<F, 1, 1>(one, p.inner + (size_t)j * p.cols, 0, p.cols, 1, t % LANES, sum);
                sums[t][0] = fmaf(p.weights[j], sum[0], sums[t][0]);
            }
        });
    });
    warp_sum(block, sums);
    apart(block, [&](int t) INLINE {
        const uint32_t row = block.x * WARPS + t / LANES;
        if (t % LANES == 0 && row < p.rows) p.y[(size_t)token * p.y_stride + row] += sums[t][0];
    });
}
