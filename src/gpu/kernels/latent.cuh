// Latent attention beside the attention itself: the rows that are kept, the turned parts of queries, and maps of single heads. `LatentRows` and `HeadMaps` in params.rs.
#pragma once

#include "attention.cuh"
#include "matvec.cuh"

/// Value i of a part that turns in neighbouring pairs. `angles`: the token's cosines, then its sines.
DEVICE float turned_value(const float* part, const float* angles, uint32_t half, uint32_t i) {
    const float v = part[i], other = part[i ^ 1], cosine = angles[i / 2], sine = angles[half + i / 2];
    return fmaf(v, cosine, (i % 2 ? other : -other) * sine);
}

/// A block has the turned part of one query head of a token, or the row that the token leaves.
DEVICE void latent_rows_block(const Block& block, const LatentRows& p) {
    SHARED(Partials, room);
    const uint32_t token = block.y, at = *p.position + token, width = p.rank + p.turned, half = p.turned / 2;
    if (at >= p.context) return;
    const float* angles = p.angles + (size_t)token * 2 * half;
    if (block.x < p.heads) {
        const float* q = p.q + (size_t)token * p.q_stride + (size_t)block.x * p.q_head;
        float* out = p.q_out + ((size_t)token * p.heads + block.x) * width + p.rank;
        apart(block, [&](int t) INLINE {
            for (uint32_t i = t; i < p.turned; i += block.threads) out[i] = turned_value(q, angles, half, i);
        });
        return;
    }
    const float* down = p.down + (size_t)token * p.down_stride;
    PerThread<float> sum;
    apart(block, [&](int t) INLINE {
        float s = 0;
        for (uint32_t i = t; i < p.rank; i += block.threads) s = fmaf(down[i], down[i], s);
        sum[t] = s;
    });
    const float scale = 1.0f / sqrtf(block_sum(block, sum, room) / (float)p.rank + p.eps);
    apart(block, [&](int t) INLINE {
        for (uint32_t i = t; i < width; i += block.threads) {
            const float v = i < p.rank ? down[i] * scale * p.norm[i] : turned_value(down + p.rank, angles, half, i - p.rank);
            store_cached(p.rows, (size_t)at * width + i, v, p.wide);
        }
    });
}

/// R rows of a head for each warp, and at most T tokens. `HeadMaps::shape` in params/shapes.rs says the same.
template <int R, int T> DEVICE void head_rows(const Block& block, const HeadMaps& p) {
    const uint32_t head = block.y, from = block.z * T, tokens = p.tokens - from < T ? p.tokens - from : T, first = block.x * (block.threads / LANES) * R;
    const float* x = p.x + (size_t)from * p.x_stride + (size_t)head * p.x_head;
    PerThread<Few<float, R * T>> sums;
    apart(block, [&](int t) INLINE {
        clear(sums[t]);
        uint32_t cols = p.cols;
        keep_here(cols);
        with_format(p.ty, [&](auto format) INLINE {
            using F = decltype(format);
            const size_t bytes = row_bytes<F>(cols);
            const uint8_t* rows[R];
            rows_from<R>(rows, p.weight + (size_t)head * p.rows * bytes, first + t / LANES * R, p.rows, bytes);
            lane_rows<F, R, T>(rows, x, p.x_stride, cols, tokens, t % LANES, LANES, sums[t]);
        });
    });
    warp_sum(block, sums);
    apart(block, [&](int t) INLINE {
        float sum = 0;
        // A choice among registers, not an index into them.
#pragma unroll
        for (int i = 0; i < R * T; i++) sum = t % LANES == i ? sums[t][i] : sum;
        const uint32_t row = first + t / LANES * R + t % LANES / T, token = t % LANES % T;
        if (t % LANES >= R * T || row >= p.rows || token >= tokens) return;
        p.y[(size_t)(from + token) * p.y_stride + (size_t)head * p.y_head + row] = sum;
    });
}

DEVICE void head_maps_block(const Block& block, const HeadMaps& p) {
    if (p.tokens == 1) return head_rows<ROWS_ONE, 1>(block, p);
    head_rows<ROWS_FEW, 4>(block, p);
}
