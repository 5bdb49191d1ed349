// The router's choice.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// Most experts.
#define EXPERTS 1024

/// Whether score a of expert i comes before score b of expert j: greater, or equal with the lower id; any number before a NaN.
DEVICE bool before(float a, uint32_t i, float b, uint32_t j) {
    const bool a_nan = a != a, b_nan = b != b;
    if (a_nan || b_nan) return a_nan == b_nan ? i < j : b_nan;
    return a > b || (a == b && i < j);
}

/// Every expert counts who comes before it; the count is its place among the chosen.
DEVICE void route_block(const Block& block, const Route& p) {
    const float* scores = p.scores + (size_t)block.x * p.experts;
    const size_t out = (size_t)block.x * p.top_k;
    struct Row {
        float score[EXPERTS], chosen[EXPERTS], max_of_warp[8];
        Partials room;
    };
    SHARED(Row, row);
    PerThread<float> max, sum;
    apart(block, [&](int t) INLINE {
        max[t] = -INFINITY;
        for (uint32_t i = t; i < p.experts; i += block.threads) max[t] = fmaxf(max[t], row.score[i] = scores[i]);
    });
    warp_max(block, max);
    phase(block, [&](int t) INLINE {
        if (t % LANES == 0) row.max_of_warp[t / LANES] = max[t];
    });
    apart(block, [&](int t) INLINE {
        float m = row.max_of_warp[0], s = 0;
        for (uint32_t w = 1; w < block.threads / LANES; w++) m = fmaxf(m, row.max_of_warp[w]);
        for (uint32_t i = t; i < p.experts; i += block.threads) s += expf(row.score[i] - m);
        max[t] = m;
        sum[t] = s;
    });
    const float total = block_sum(block, sum, row.room);
    phase(block, [&](int t) INLINE {
        for (uint32_t i = t; i < p.experts; i += block.threads) {
            const float mine = row.score[i];
            uint32_t place = 0;
            for (uint32_t j = 0; j < p.experts; j++) place += before(row.score[j], j, mine, i);
            if (place >= p.top_k) continue;
            row.chosen[place] = expf(mine - max[t]) / total;
            p.ids[out + place] = i;
            if (p.table) p.slots[out + place] = p.table[i];
        }
    });
    apart(block, [&](int t) INLINE {
        float by = 1;
        if (p.renormalise) {
            float s = 0;
            for (uint32_t j = 0; j < p.top_k; j++) s += row.chosen[j];
            // llama.cpp's floor: the smallest normal f16.
            by = fmaxf(s, 6.1035156e-5f);
        }
        for (uint32_t j = t; j < p.top_k; j += block.threads) p.weights[out + j] = row.chosen[j] / by * p.scale;
    });
}
