// The kernels compiled for the CPU, for `tests/gpu_kernels`: the same headers that nvcc compiles, run block by block.
#include "attention.cuh"
#include "chunk_attention.cuh"
#include "delta.cuh"
#include "latent.cuh"
#include "mailbox.cuh"
#include "matmul.cuh"
#include "matvec.cuh"
#include "norm.cuh"
#include "route.cuh"

#include <cstddef>

#ifdef TOGETHER
/// Run a block of a kernel, the `at`-th; false if that ended in an error.
template <class Params> bool run_block(uint32_t at, const Block& block, const Params& params, void (*kernel)(const Block&, const Params&)) {
    struct With {
        const Block& block;
        const Params& params;
        void (*kernel)(const Block&, const Params&);
    } with = {block, params, kernel};
    const auto thread = [](void* w) {
        const With& with = *(const With*)w;
        if (!WaitsItself<Params>::value) in_turn();
        with.kernel(with.block, with.params);
    };
    return simt::run_block(at, block.threads, thread, &with);
}
#else
template <class Params> bool run_block(uint32_t, const Block& block, const Params& params, void (*kernel)(const Block&, const Params&)) {
    kernel(block, params);
    return true;
}
#endif

/// Run a kernel over a grid; `backwards` runs the threads of every phase in the opposite order, where phases are loops. 0, or 1 if there is no such kernel, 2 if
/// the number of threads is not the kernel's, 3 after an error that `rotary_together_message` tells.
extern "C" int rotary_host_kernel(const char* kernel, const void* params, const unsigned grid[3], unsigned threads, int backwards) {
#ifdef TOGETHER
    (void)backwards;
#else
    simt::backwards = backwards != 0;
#endif
    uint32_t at = 0;
#define ENTRY(name, Params, wanted, blocks)                                                              \
    if (!strcmp(kernel, #name)) {                                                                        \
        if (threads != wanted) return 2;                                                                 \
        for (unsigned z = 0; z < grid[2]; z++)                                                           \
            for (unsigned y = 0; y < grid[1]; y++)                                                       \
                for (unsigned x = 0; x < grid[0]; x++) {                                                  \
                    if (!run_block(at++, Block{x, y, z, threads}, *(const Params*)params, name##_block)) return 3;   \
                }                                                                                        \
        return 0;                                                                                        \
    }
#include "entries.inc"
    return 1;
}

#ifndef TOGETHER
/// How often a kernel has looked for a word of the host's that was not there.
extern "C" uint64_t rotary_host_vain_polls() { return simt::vain; }
#endif

/// Names of all entries, one after the other with a zero byte each, and an empty one at the end.
extern "C" const char* rotary_host_entries() {
#undef ENTRY
#define ENTRY(name, Params, wanted, blocks) #name "\0"
    return
#include "entries.inc"
        ;
}

/// Size of a struct (`field` empty) or offset of a field; -1 for what there is not.
extern "C" long long rotary_host_layout(const char* type, const char* field) {
#define SIZE(Type) \
    if (!strcmp(type, #Type) && !*field) return (long long)sizeof(Type)
#define FIELD(Type, name) \
    if (!strcmp(type, #Type) && !strcmp(field, #name)) return (long long)offsetof(Type, name)
    SIZE(Group);
    FIELD(Group, slot);
    FIELD(Group, begin);
    FIELD(Group, end);
    SIZE(RmsNorm);
    FIELD(RmsNorm, x);
    FIELD(RmsNorm, weight);
    FIELD(RmsNorm, y);
    FIELD(RmsNorm, rows);
    FIELD(RmsNorm, pieces);
    FIELD(RmsNorm, len);
    FIELD(RmsNorm, x_stride);
    FIELD(RmsNorm, x_piece);
    FIELD(RmsNorm, y_stride);
    FIELD(RmsNorm, eps);
    FIELD(RmsNorm, limit);
    SIZE(MatJob);
    FIELD(MatJob, weight);
    FIELD(MatJob, bias);
    FIELD(MatJob, y);
    FIELD(MatJob, scale);
    FIELD(MatJob, ty);
    FIELD(MatJob, rows);
    FIELD(MatJob, y_stride);
    FIELD(MatJob, accumulate);
    FIELD(MatJob, scale_stride);
    FIELD(MatJob, first_block);
    SIZE(MatVec);
    FIELD(MatVec, x);
    FIELD(MatVec, gate);
    FIELD(MatVec, cols);
    FIELD(MatVec, tokens);
    FIELD(MatVec, x_stride);
    FIELD(MatVec, jobs);
    FIELD(MatVec, blocks);
    FIELD(MatVec, split);
    FIELD(MatVec, job);
    SIZE(MatMul);
    FIELD(MatMul, x);
    FIELD(MatMul, cols);
    FIELD(MatMul, tokens);
    FIELD(MatMul, x_stride);
    FIELD(MatMul, pad);
    FIELD(MatMul, job);
    SIZE(Rotate);
    FIELD(Rotate, q);
    FIELD(Rotate, k);
    FIELD(Rotate, v);
    FIELD(Rotate, q_norm);
    FIELD(Rotate, k_norm);
    FIELD(Rotate, angles);
    FIELD(Rotate, q_out);
    FIELD(Rotate, keys);
    FIELD(Rotate, values);
    FIELD(Rotate, position);
    FIELD(Rotate, tokens);
    FIELD(Rotate, heads);
    FIELD(Rotate, groups);
    FIELD(Rotate, key_dim);
    FIELD(Rotate, value_dim);
    FIELD(Rotate, half);
    FIELD(Rotate, context);
    FIELD(Rotate, wide);
    FIELD(Rotate, q_stride);
    FIELD(Rotate, q_head);
    FIELD(Rotate, k_stride);
    FIELD(Rotate, v_stride);
    FIELD(Rotate, eps);
    FIELD(Rotate, limit);
    FIELD(Rotate, limit_v);
    FIELD(Rotate, ring);
    SIZE(Attention);
    FIELD(Attention, q);
    FIELD(Attention, keys);
    FIELD(Attention, values);
    FIELD(Attention, partial);
    FIELD(Attention, position);
    FIELD(Attention, tokens);
    FIELD(Attention, heads);
    FIELD(Attention, groups);
    FIELD(Attention, key_dim);
    FIELD(Attention, value_dim);
    FIELD(Attention, context);
    FIELD(Attention, wide);
    FIELD(Attention, splits);
    FIELD(Attention, scale);
    FIELD(Attention, pad);
    SIZE(ChunkAttention);
    FIELD(ChunkAttention, q);
    FIELD(ChunkAttention, keys);
    FIELD(ChunkAttention, values);
    FIELD(ChunkAttention, partial);
    FIELD(ChunkAttention, gate);
    FIELD(ChunkAttention, y);
    FIELD(ChunkAttention, position);
    FIELD(ChunkAttention, tokens);
    FIELD(ChunkAttention, heads);
    FIELD(ChunkAttention, groups);
    FIELD(ChunkAttention, key_dim);
    FIELD(ChunkAttention, value_dim);
    FIELD(ChunkAttention, context);
    FIELD(ChunkAttention, splits);
    FIELD(ChunkAttention, gate_stride);
    FIELD(ChunkAttention, gate_head);
    FIELD(ChunkAttention, scale);
    SIZE(WindowAttention);
    FIELD(WindowAttention, of);
    FIELD(WindowAttention, window);
    FIELD(WindowAttention, pad);
    SIZE(WindowChunkAttention);
    FIELD(WindowChunkAttention, of);
    FIELD(WindowChunkAttention, sinks);
    FIELD(WindowChunkAttention, window);
    FIELD(WindowChunkAttention, pad);
    SIZE(LatentRows);
    FIELD(LatentRows, q);
    FIELD(LatentRows, down);
    FIELD(LatentRows, norm);
    FIELD(LatentRows, angles);
    FIELD(LatentRows, q_out);
    FIELD(LatentRows, rows);
    FIELD(LatentRows, position);
    FIELD(LatentRows, tokens);
    FIELD(LatentRows, heads);
    FIELD(LatentRows, rank);
    FIELD(LatentRows, turned);
    FIELD(LatentRows, context);
    FIELD(LatentRows, wide);
    FIELD(LatentRows, q_stride);
    FIELD(LatentRows, q_head);
    FIELD(LatentRows, down_stride);
    FIELD(LatentRows, eps);
    SIZE(HeadMaps);
    FIELD(HeadMaps, weight);
    FIELD(HeadMaps, x);
    FIELD(HeadMaps, y);
    FIELD(HeadMaps, ty);
    FIELD(HeadMaps, heads);
    FIELD(HeadMaps, rows);
    FIELD(HeadMaps, cols);
    FIELD(HeadMaps, tokens);
    FIELD(HeadMaps, x_stride);
    FIELD(HeadMaps, x_head);
    FIELD(HeadMaps, y_stride);
    FIELD(HeadMaps, y_head);
    FIELD(HeadMaps, pad);
    SIZE(LatentAttention);
    FIELD(LatentAttention, of);
    SIZE(JoinSplits);
    FIELD(JoinSplits, partial);
    FIELD(JoinSplits, gate);
    FIELD(JoinSplits, y);
    FIELD(JoinSplits, tokens);
    FIELD(JoinSplits, heads);
    FIELD(JoinSplits, value_dim);
    FIELD(JoinSplits, splits);
    FIELD(JoinSplits, gate_stride);
    FIELD(JoinSplits, gate_head);
    SIZE(JoinSunk);
    FIELD(JoinSunk, of);
    FIELD(JoinSunk, sinks);
    SIZE(Convolve);
    FIELD(Convolve, x);
    FIELD(Convolve, taps);
    FIELD(Convolve, carry);
    FIELD(Convolve, y);
    FIELD(Convolve, tokens);
    FIELD(Convolve, channels);
    FIELD(Convolve, width);
    FIELD(Convolve, x_stride);
    SIZE(ShortConv);
    FIELD(ShortConv, parts);
    FIELD(ShortConv, taps);
    FIELD(ShortConv, carry);
    FIELD(ShortConv, y);
    FIELD(ShortConv, tokens);
    FIELD(ShortConv, channels);
    FIELD(ShortConv, width);
    FIELD(ShortConv, stride);
    SIZE(DeltaRule);
    FIELD(DeltaRule, mixed);
    FIELD(DeltaRule, alpha);
    FIELD(DeltaRule, beta);
    FIELD(DeltaRule, bias);
    FIELD(DeltaRule, rate);
    FIELD(DeltaRule, state);
    FIELD(DeltaRule, y);
    FIELD(DeltaRule, tokens);
    FIELD(DeltaRule, keys);
    FIELD(DeltaRule, values);
    FIELD(DeltaRule, key_dim);
    FIELD(DeltaRule, value_dim);
    FIELD(DeltaRule, alpha_stride);
    FIELD(DeltaRule, beta_stride);
    FIELD(DeltaRule, eps);
    SIZE(GatedNorm);
    FIELD(GatedNorm, x);
    FIELD(GatedNorm, gate);
    FIELD(GatedNorm, weight);
    FIELD(GatedNorm, place);
    FIELD(GatedNorm, y);
    FIELD(GatedNorm, tokens);
    FIELD(GatedNorm, heads);
    FIELD(GatedNorm, dim);
    FIELD(GatedNorm, gate_stride);
    FIELD(GatedNorm, eps);
    FIELD(GatedNorm, pad);
    SIZE(Route);
    FIELD(Route, scores);
    FIELD(Route, table);
    FIELD(Route, ids);
    FIELD(Route, weights);
    FIELD(Route, slots);
    FIELD(Route, tokens);
    FIELD(Route, experts);
    FIELD(Route, top_k);
    FIELD(Route, renormalise);
    FIELD(Route, scale);
    FIELD(Route, sigmoid);
    FIELD(Route, factors);
    FIELD(Route, bias);
    SIZE(ExpertsUp);
    FIELD(ExpertsUp, slab);
    FIELD(ExpertsUp, slot_bytes);
    FIELD(ExpertsUp, gate_at);
    FIELD(ExpertsUp, up_at);
    FIELD(ExpertsUp, slots);
    FIELD(ExpertsUp, x);
    FIELD(ExpertsUp, inner);
    FIELD(ExpertsUp, pairs);
    FIELD(ExpertsUp, top_k);
    FIELD(ExpertsUp, rows);
    FIELD(ExpertsUp, cols);
    FIELD(ExpertsUp, gate_ty);
    FIELD(ExpertsUp, up_ty);
    FIELD(ExpertsUp, x_stride);
    FIELD(ExpertsUp, pad);
    SIZE(ExpertsDown);
    FIELD(ExpertsDown, slab);
    FIELD(ExpertsDown, slot_bytes);
    FIELD(ExpertsDown, down_at);
    FIELD(ExpertsDown, slots);
    FIELD(ExpertsDown, weights);
    FIELD(ExpertsDown, inner);
    FIELD(ExpertsDown, y);
    FIELD(ExpertsDown, tokens);
    FIELD(ExpertsDown, top_k);
    FIELD(ExpertsDown, rows);
    FIELD(ExpertsDown, cols);
    FIELD(ExpertsDown, ty);
    FIELD(ExpertsDown, y_stride);
    SIZE(GroupedUp);
    FIELD(GroupedUp, slab);
    FIELD(GroupedUp, slot_bytes);
    FIELD(GroupedUp, gate_at);
    FIELD(GroupedUp, up_at);
    FIELD(GroupedUp, groups);
    FIELD(GroupedUp, tile_group);
    FIELD(GroupedUp, tile_begin);
    FIELD(GroupedUp, token_of);
    FIELD(GroupedUp, x);
    FIELD(GroupedUp, inner);
    FIELD(GroupedUp, tiles);
    FIELD(GroupedUp, rows);
    FIELD(GroupedUp, cols);
    FIELD(GroupedUp, gate_ty);
    FIELD(GroupedUp, up_ty);
    FIELD(GroupedUp, x_stride);
    SIZE(GroupedDown);
    FIELD(GroupedDown, slab);
    FIELD(GroupedDown, slot_bytes);
    FIELD(GroupedDown, down_at);
    FIELD(GroupedDown, groups);
    FIELD(GroupedDown, tile_group);
    FIELD(GroupedDown, tile_begin);
    FIELD(GroupedDown, inner);
    FIELD(GroupedDown, out);
    FIELD(GroupedDown, tiles);
    FIELD(GroupedDown, rows);
    FIELD(GroupedDown, cols);
    FIELD(GroupedDown, ty);
    SIZE(BiasedUp);
    FIELD(BiasedUp, of);
    FIELD(BiasedUp, ids);
    FIELD(BiasedUp, bias);
    FIELD(BiasedUp, activation);
    FIELD(BiasedUp, pad);
    SIZE(BiasedGroupedUp);
    FIELD(BiasedGroupedUp, of);
    FIELD(BiasedGroupedUp, experts);
    FIELD(BiasedGroupedUp, bias);
    FIELD(BiasedGroupedUp, activation);
    FIELD(BiasedGroupedUp, pad);
    SIZE(RoutedBias);
    FIELD(RoutedBias, ids);
    FIELD(RoutedBias, weights);
    FIELD(RoutedBias, bias);
    FIELD(RoutedBias, y);
    FIELD(RoutedBias, tokens);
    FIELD(RoutedBias, top_k);
    FIELD(RoutedBias, cols);
    FIELD(RoutedBias, y_stride);
    SIZE(Gather);
    FIELD(Gather, out);
    FIELD(Gather, pair_of);
    FIELD(Gather, weights);
    FIELD(Gather, y);
    FIELD(Gather, tokens);
    FIELD(Gather, top_k);
    FIELD(Gather, cols);
    FIELD(Gather, y_stride);
    SIZE(Glu);
    FIELD(Glu, gate);
    FIELD(Glu, up);
    FIELD(Glu, y);
    FIELD(Glu, tokens);
    FIELD(Glu, len);
    FIELD(Glu, stride);
    FIELD(Glu, activation);
    SIZE(AddNormed);
    FIELD(AddNormed, a);
    FIELD(AddNormed, a_weight);
    FIELD(AddNormed, b);
    FIELD(AddNormed, b_weight);
    FIELD(AddNormed, weight);
    FIELD(AddNormed, x);
    FIELD(AddNormed, rows);
    FIELD(AddNormed, len);
    FIELD(AddNormed, a_stride);
    FIELD(AddNormed, b_stride);
    FIELD(AddNormed, x_stride);
    FIELD(AddNormed, eps);
    FIELD(AddNormed, factor);
    FIELD(AddNormed, pad);
    SIZE(SoftCap);
    FIELD(SoftCap, x);
    FIELD(SoftCap, len);
    FIELD(SoftCap, cap);
    SIZE(Add);
    FIELD(Add, x);
    FIELD(Add, y);
    FIELD(Add, len);
    FIELD(Add, pad);
    SIZE(Finite);
    FIELD(Finite, x);
    FIELD(Finite, flag);
    FIELD(Finite, len);
    FIELD(Finite, pad);
    SIZE(AwaitHost);
    FIELD(AwaitHost, word);
    FIELD(AwaitHost, turn);
    FIELD(AwaitHost, from);
    FIELD(AwaitHost, to);
    FIELD(AwaitHost, given_up);
    FIELD(AwaitHost, words);
    FIELD(AwaitHost, step);
    FIELD(AwaitHost, patience);
    FIELD(AwaitHost, pad);
    SIZE(TellHost);
    FIELD(TellHost, word);
    FIELD(TellHost, turn);
    FIELD(TellHost, from);
    FIELD(TellHost, to);
    FIELD(TellHost, words);
    FIELD(TellHost, step);
    SIZE(AddAnswer);
    FIELD(AddAnswer, word);
    FIELD(AddAnswer, turn);
    FIELD(AddAnswer, slots);
    FIELD(AddAnswer, from);
    FIELD(AddAnswer, y);
    FIELD(AddAnswer, given_up);
    FIELD(AddAnswer, pairs);
    FIELD(AddAnswer, len);
    FIELD(AddAnswer, step);
    FIELD(AddAnswer, patience);
    return -1;
}
