//! The border between Rust and C++: names, sizes, offsets.

use crate::host::compiled;
use rotary::gpu::params::*;
use std::mem::{offset_of, size_of};

macro_rules! layouts {
    ($($ty:ident { $($field:ident),* })*) => {
        fn layouts() -> Vec<(&'static str, &'static str, usize)> {
            let mut all = Vec::new();
            $(
                all.push((stringify!($ty), "", size_of::<$ty>()));
                $(all.push((stringify!($ty), stringify!($field), offset_of!($ty, $field)));)*
                // Fails to compile when a field is missing above.
                #[allow(unused_variables)]
                let $ty { $($field),* } = $ty::default();
            )*
            all
        }
    };
}

layouts! {
    RmsNorm { x, weight, y, rows, pieces, len, x_stride, x_piece, y_stride, eps, limit }
    MatJob { weight, bias, y, scale, ty, rows, y_stride, accumulate, scale_stride, first_block }
    MatVec { x, gate, cols, tokens, x_stride, jobs, blocks, split, job }
    MatMul { x, cols, tokens, x_stride, pad, job }
    Rotate { q, k, v, q_norm, k_norm, angles, q_out, keys, values, position, tokens, heads, groups, key_dim, value_dim, half, context, wide, q_stride, q_head, k_stride, v_stride, eps, limit, limit_v, ring }
    Attention { q, keys, values, partial, position, tokens, heads, groups, key_dim, value_dim, context, wide, splits, scale, pad }
    ChunkAttention { q, keys, values, partial, gate, y, position, tokens, heads, groups, key_dim, value_dim, context, splits, gate_stride, gate_head, scale }
    WindowAttention { of, window, pad }
    LatentRows { q, down, norm, angles, q_out, rows, position, tokens, heads, rank, turned, context, wide, q_stride, q_head, down_stride, eps }
    HeadMaps { weight, x, y, ty, heads, rows, cols, tokens, x_stride, x_head, y_stride, y_head, pad }
    LatentAttention { of }
    WindowChunkAttention { of, sinks, window, pad }
    JoinSplits { partial, gate, y, tokens, heads, value_dim, splits, gate_stride, gate_head }
    JoinSunk { of, sinks }
    Convolve { x, taps, carry, y, tokens, channels, width, x_stride }
    ShortConv { parts, taps, carry, y, tokens, channels, width, stride }
    DeltaRule { mixed, alpha, beta, bias, rate, state, y, tokens, keys, values, key_dim, value_dim, alpha_stride, beta_stride, eps }
    GatedNorm { x, gate, weight, place, y, tokens, heads, dim, gate_stride, eps, pad }
    Route { scores, table, ids, weights, slots, tokens, experts, top_k, renormalise, scale, sigmoid, factors, bias }
    ExpertsUp { slab, slot_bytes, gate_at, up_at, slots, x, inner, pairs, top_k, rows, cols, gate_ty, up_ty, x_stride, pad }
    ExpertsDown { slab, slot_bytes, down_at, slots, weights, inner, y, tokens, top_k, rows, cols, ty, y_stride }
    GroupedUp { slab, slot_bytes, gate_at, up_at, groups, tile_group, tile_begin, token_of, x, inner, tiles, rows, cols, gate_ty, up_ty, x_stride }
    GroupedDown { slab, slot_bytes, down_at, groups, tile_group, tile_begin, inner, out, tiles, rows, cols, ty }
    BiasedUp { of, ids, bias, activation, pad }
    BiasedGroupedUp { of, experts, bias, activation, pad }
    RoutedBias { ids, weights, bias, y, tokens, top_k, cols, y_stride }
    Gather { out, pair_of, weights, y, tokens, top_k, cols, y_stride }
    Glu { gate, up, y, tokens, len, stride, activation }
    AddNormed { a, a_weight, b, b_weight, weight, x, rows, len, a_stride, b_stride, x_stride, eps, factor, pad }
    SoftCap { x, len, cap }
    Add { x, y, len, pad }
    Finite { x, flag, len, pad }
    AwaitHost { word, turn, from, to, given_up, words, step, patience, pad }
    TellHost { word, turn, from, to, words, step }
    AddAnswer { word, turn, slots, from, y, given_up, pairs, len, step, patience }
    Group { slot, begin, end }
}

#[test]
fn structs_have_the_same_layout_in_rust_and_in_cpp() {
    let mut wrong = Vec::new();
    for (ty, field, want) in layouts() {
        let got = compiled().layout(ty, field);
        if got != want as i64 {
            wrong.push(format!("{ty}.{field} is at {want} in params.rs and at {got} in params.cuh"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(compiled().layout("MatVec", "no_such_field"), -1, "the comparison can fail");
}

#[test]
fn every_kernel_has_an_entry_and_every_entry_a_kernel() {
    let mut want = vec![
        RmsNorm::NAME,
        MatVec::NAME,
        MatVec::FEW,
        MatMul::NAME,
        Rotate::NAME,
        Attention::NAME,
        ChunkAttention::NAME,
        WindowAttention::NAME,
        WindowChunkAttention::NAME,
        LatentRows::NAME,
        HeadMaps::NAME,
        LatentAttention::NAME,
        JoinSplits::NAME,
        JoinSunk::NAME,
        Convolve::NAME,
        ShortConv::NAME,
        DeltaRule::NAME,
        GatedNorm::NAME,
        Route::NAME,
        ExpertsUp::NAME,
        ExpertsDown::NAME,
        GroupedUp::NAME,
        BiasedUp::NAME,
        BiasedGroupedUp::NAME,
        RoutedBias::NAME,
        GroupedDown::NAME,
        Gather::NAME,
        Glu::NAME,
        AddNormed::NAME,
        SoftCap::NAME,
        Add::NAME,
        Finite::NAME,
        AwaitHost::NAME,
        TellHost::NAME,
        AddAnswer::NAME,
    ];
    let mut got = compiled().entries();
    want.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, want);
}
