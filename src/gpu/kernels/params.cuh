// The parameters of the kernels, field by field those of `params.rs`, which says what they mean. `tests/gpu_kernels/layout.rs` compares sizes and
// offsets.
#pragma once

#include <cstdint>

struct Group {
    uint32_t slot, begin, end;
};

struct RmsNorm {
    float *x, *weight, *y;
    uint32_t rows, pieces, len, x_stride, x_piece, y_stride;
    float eps, limit;
};

struct MatJob {
    uint8_t *weight;
    float *bias, *y, *scale;
    uint32_t ty, rows, y_stride, accumulate, scale_stride, first_block;
};

struct MatVec {
    float *x, *gate;
    uint32_t cols, tokens, x_stride, jobs, blocks, split;
    MatJob job[6];
};

struct MatMul {
    float *x;
    uint32_t cols, tokens, x_stride, pad;
    MatJob job;
};

struct Rotate {
    float *q, *k, *v, *q_norm, *k_norm, *angles, *q_out;
    void *keys, *values;
    uint32_t *position;
    uint32_t tokens, heads, groups, key_dim, value_dim, half, context, wide, q_stride, q_head, k_stride, v_stride;
    float eps, limit, limit_v;
    uint32_t ring;
};

struct Attention {
    float *q;
    void *keys, *values;
    float *partial;
    uint32_t *position;
    uint32_t tokens, heads, groups, key_dim, value_dim, context, wide, splits;
    float scale;
    uint32_t pad;
};

struct ChunkAttention {
    float* q;
    void *keys, *values;
    float *partial, *gate, *y;
    uint32_t* position;
    uint32_t tokens, heads, groups, key_dim, value_dim, context, splits, gate_stride, gate_head;
    float scale;
};

struct WindowAttention {
    Attention of;
    uint32_t window, pad;
};

struct WindowChunkAttention {
    ChunkAttention of;
    float* sinks;
    uint32_t window, pad;
};

struct LatentRows {
    float *q, *down, *norm, *angles, *q_out;
    void* rows;
    uint32_t* position;
    uint32_t tokens, heads, rank, turned, context, wide, q_stride, q_head, down_stride;
    float eps;
};

struct HeadMaps {
    uint8_t* weight;
    float *x, *y;
    uint32_t ty, heads, rows, cols, tokens, x_stride, x_head, y_stride, y_head, pad;
};

struct LatentAttention {
    Attention of;
};

struct JoinSplits {
    float *partial, *gate, *y;
    uint32_t tokens, heads, value_dim, splits, gate_stride, gate_head;
};

struct JoinSunk {
    JoinSplits of;
    float* sinks;
};

struct Convolve {
    float *x, *taps, *carry, *y;
    uint32_t tokens, channels, width, x_stride;
};

struct ShortConv {
    float *parts, *taps, *carry, *y;
    uint32_t tokens, channels, width, stride;
};

struct DeltaRule {
    float *mixed, *alpha, *beta, *bias, *rate, *state, *y;
    uint32_t tokens, keys, values, key_dim, value_dim, alpha_stride, beta_stride;
    float eps;
};

struct GatedNorm {
    float *x, *gate, *weight;
    uint32_t *place;
    float *y;
    uint32_t tokens, heads, dim, gate_stride;
    float eps;
    uint32_t pad;
};

struct Route {
    float *scores;
    int32_t *table;
    uint32_t *ids;
    float *weights;
    int32_t *slots;
    uint32_t tokens, experts, top_k, renormalise;
    float scale;
    uint32_t sigmoid;
    float *factors, *bias;
};

struct ExpertsUp {
    uint8_t *slab;
    uint64_t slot_bytes, gate_at, up_at;
    int32_t *slots;
    float *x, *inner;
    uint32_t pairs, top_k, rows, cols, gate_ty, up_ty, x_stride, pad;
};

struct ExpertsDown {
    uint8_t *slab;
    uint64_t slot_bytes, down_at;
    int32_t *slots;
    float *weights, *inner, *y;
    uint32_t tokens, top_k, rows, cols, ty, y_stride;
};

struct GroupedUp {
    uint8_t *slab;
    uint64_t slot_bytes, gate_at, up_at;
    Group *groups;
    uint32_t *tile_group, *tile_begin, *token_of;
    float *x, *inner;
    uint32_t tiles, rows, cols, gate_ty, up_ty, x_stride;
};

struct GroupedDown {
    uint8_t *slab;
    uint64_t slot_bytes, down_at;
    Group *groups;
    uint32_t *tile_group, *tile_begin;
    float *inner, *out;
    uint32_t tiles, rows, cols, ty;
};

struct BiasedUp {
    ExpertsUp of;
    uint32_t* ids;
    float* bias;
    uint32_t activation, pad;
};

struct BiasedGroupedUp {
    GroupedUp of;
    uint32_t* experts;
    float* bias;
    uint32_t activation, pad;
};

struct RoutedBias {
    uint32_t* ids;
    float *weights, *bias, *y;
    uint32_t tokens, top_k, cols, y_stride;
};

struct Gather {
    float *out;
    uint32_t *pair_of;
    float *weights, *y;
    uint32_t tokens, top_k, cols, y_stride;
};

struct Glu {
    float *gate, *up, *y;
    uint32_t tokens, len, stride, activation;
};

struct AddNormed {
    float *a, *a_weight, *b, *b_weight, *weight, *x;
    uint32_t rows, len, a_stride, b_stride, x_stride;
    float eps, factor;
    uint32_t pad;
};

struct SoftCap {
    float* x;
    uint32_t len;
    float cap;
};

struct Add {
    float *x, *y;
    uint32_t len, pad;
};

struct Finite {
    float *x;
    uint32_t *flag;
    uint32_t len, pad;
};

struct AwaitHost {
    uint32_t *word, *turn, *from, *to, *given_up;
    uint32_t words, step, patience, pad;
};

struct TellHost {
    uint32_t *word, *turn, *from, *to;
    uint32_t words, step;
};

struct AddAnswer {
    uint32_t *word, *turn;
    int32_t* slots;
    float *from, *y;
    uint32_t* given_up;
    uint32_t pairs, len, step, patience;
};
