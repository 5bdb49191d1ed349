// The router's choice.
#pragma once

#include "params.cuh"
#include "simt.cuh"

/// Most experts.
#define EXPERTS 1024
/// Experts of a thread.
#define OF_THREAD (EXPERTS / 256)

/// Numbers as words in the same order, plus and minus zero alike; less than all of them for a NaN.
DEVICE uint32_t ordered(float score) {
    const uint32_t b = float_bits(score + 0.0f);
    return score != score ? 0 : b & 0x80000000 ? ~b : b | 0x80000000;
}

/// A warp orders its 32 experts (every one counts who comes before it) and passes on as many as may be chosen; those of all warps are counted in the same way,
/// and the count is an expert's place among the chosen. Of equal ones the lower id is first: ids rise from warp to warp.
DEVICE void route_block(const Block& block, const Route& p) {
    const float* scores = p.scores + (size_t)block.x * p.experts;
    const size_t out = (size_t)block.x * p.top_k;
    struct Row {
        // Of all experts, and of the best of each 32.
        Word4 all[EXPERTS / 4], best[EXPERTS / 4];
        float chosen[EXPERTS], max_of_warp[8], sum_of_warp[8];
    };
    SHARED(Row, row);
    PerThread<Few<float, OF_THREAD>> score;
    PerThread<Few<int, OF_THREAD>> slot, place;
    PerThread<float> max, sum;
    // Passed on by each 32.
    const uint32_t kept = p.top_k < LANES ? (p.top_k + 3) / 4 * 4 : LANES;
    apart(block, [&](int t) INLINE {
        max[t] = -INFINITY;
#pragma unroll
        for (int m = 0; m < OF_THREAD; m++) {
            const uint32_t i = m * block.threads + t;
            if (i / LANES * LANES >= p.experts) break;
            score[t][m] = i < p.experts ? scores[i] : NAN;
            slot[t][m] = i < p.experts && p.table ? p.table[i] : 0;
            if (p.sigmoid) score[t][m] = sigmoid(score[t][m]);
            max[t] = fmaxf(max[t], score[t][m]);
            ((uint32_t*)row.all)[i] = ordered(p.bias && i < p.experts ? score[t][m] + p.bias[i] : score[t][m]);
        }
    });
    warp_max(block, max);
    phase(block, [&](int t) INLINE {
        if (t % LANES == 0) row.max_of_warp[t / LANES] = max[t];
    });
    apart(block, [&](int t) INLINE {
        float m = row.max_of_warp[0];
        for (uint32_t w = 1; w < block.threads / LANES; w++) m = fmaxf(m, row.max_of_warp[w]);
        max[t] = m;
        sum[t] = 0;
#pragma unroll
        for (int m = 0; m < OF_THREAD; m++) {
            const uint32_t i = m * block.threads + t, first = i / LANES * LANES, lane = t % LANES;
            if (first >= p.experts) break;
            if (i < p.experts) sum[t] += expf(score[t][m] - max[t]);
            const uint32_t mine = ((const uint32_t*)row.all)[i];
            uint32_t before = 0;
#pragma unroll
            for (uint32_t j = 0; j < LANES; j += 4) {
                const Word4 w = row.all[(first + j) / 4];
                before += (w.x >= mine + (j >= lane)) + (w.y >= mine + (j + 1 >= lane)) + (w.z >= mine + (j + 2 >= lane)) + (w.w >= mine + (j + 3 >= lane));
            }
            place[t][m] = before;
            if (before < kept) ((uint32_t*)row.best)[first / LANES * kept + before] = mine;
        }
    });
    warp_sum(block, sum);
    phase(block, [&](int t) INLINE {
        if (t % LANES == 0) row.sum_of_warp[t / LANES] = sum[t];
    });
    phase(block, [&](int t) INLINE {
        float total = 0;
        for (uint32_t w = 0; w < block.threads / LANES; w++) total += row.sum_of_warp[w];
        const uint32_t all = (p.experts + LANES - 1) / LANES * kept;
#pragma unroll
        for (int m = 0; m < OF_THREAD; m++) {
            const uint32_t i = m * block.threads + t, begin = i / LANES * kept;
            if (i >= p.experts || place[t][m] >= (int)p.top_k) continue;
            const uint32_t mine = ((const uint32_t*)row.all)[i];
            uint32_t before = place[t][m];
#pragma unroll 4
            for (uint32_t j = 0; j < all; j += 4) {
                // Its own 32 have been counted.
                const uint32_t least = j < begin ? mine : j < begin + kept ? 0xffffffff : mine + 1;
                const Word4 w = row.best[j / 4];
                before += (w.x >= least) + (w.y >= least) + (w.z >= least) + (w.w >= least);
            }
            if (before >= p.top_k) continue;
            row.chosen[before] = p.sigmoid ? score[t][m] : expf(score[t][m] - max[t]) / total;
            p.ids[out + before] = i;
            if (p.table) p.slots[out + before] = slot[t][m];
        }
    });
    apart(block, [&](int t) INLINE {
        if (t >= (int)p.top_k) return;
        float by = 1;
        if (p.renormalise) {
            float s = 0;
            for (uint32_t j = 0; j < p.top_k; j++) s += row.chosen[j];
            // llama.cpp's floor: the smallest normal f16. Of sigmoids as their authors have it.
            by = p.sigmoid ? s + 1e-20f : fmaxf(s, 6.1035156e-5f);
        }
        // Whoever put the id there is through: the last phase has ended.
        for (uint32_t j = t; j < p.top_k; j += block.threads) p.weights[out + j] = row.chosen[j] / by * p.scale * (p.factors ? p.factors[p.ids[out + j]] : 1.0f);
    });
}
