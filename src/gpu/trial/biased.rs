//! How the launches of trials of experts with biases are laid out.

use super::cases::{named, numbers, one_row, slab, tiled, CLOSE};
use super::{launch, Judge, Layout, Trial};
use crate::gguf::GgmlType;
use crate::gpu::device::Address;
use crate::gpu::params::{BiasedGroupedUp, BiasedUp, ExpertsUp, Group, GroupedUp, Kernel, RoutedBias};
use crate::kernels::rows::Activation;
use crate::kernels::{dequantize, random_weights};
use fastrand::Rng;

/// How large typical products of clamped trials are: some are clamped, most are not. Products of hundreds that were clamped to 7 would be judged by that 7, which their rounding has
/// nothing to do with.
const CLAMPED: f64 = 5.0;

pub(super) fn routed_bias(r: &mut Rng, tokens: u32, top_k: u32, experts: u32, cols: u32) -> Trial {
    let mut l = Layout::new();
    let ids: Vec<u32> = (0..tokens * top_k).map(|_| r.u32(0..experts)).collect();
    let ids = l.input("ids", &ids);
    let weights = l.input("weights", &numbers(r, (tokens * top_k) as usize));
    let bias = l.input("bias", &numbers(r, (experts * cols) as usize));
    let y = l.changed("y", &numbers(r, (tokens * (cols + 3)) as usize), CLOSE);
    l.trial(RoutedBias::NAME, format!("{tokens} x {cols}"), move |b| {
        let (ids, weights, bias, y) = (ids.of(b), weights.of(b), bias.of(b), y.of(b));
        vec![launch(RoutedBias { ids, weights, bias, y, tokens, top_k, cols, y_stride: cols + 3 })]
    })
}

fn words((activation, biased): (Activation, bool)) -> String {
    format!(", {activation:?}{}", if biased { "" } else { ", no biases" })
}

/// Biases of gate and up, as large as their products.
fn biases(r: &mut Rng, experts: u32, inner: u32) -> Vec<f32> {
    numbers(r, (experts * 2 * inner) as usize)
}

/// Activations whose products with random weights of these types have a deviation of [`CLAMPED`], if they are to be clamped.
fn activations(r: &mut Rng, types: &[GgmlType], tokens: u32, hidden: u32, activation: Activation) -> Vec<f32> {
    let mut x = numbers(r, (tokens * hidden) as usize);
    if activation == Activation::Clamped {
        let widest = types.iter().map(|&ty| deviation(r, ty)).fold(0.0, f64::max);
        if widest > 0.0 {
            let by = (CLAMPED / (widest * f64::from(hidden).sqrt())) as f32;
            x.iter_mut().for_each(|v| *v *= by);
        }
    }
    x
}

/// Of random weights of this type.
fn deviation(r: &mut Rng, ty: GgmlType) -> f64 {
    let mut some = vec![0.0f32; 16 * 1024];
    // A type that can't be read has no trial.
    if dequantize(ty, &random_weights(ty, some.len(), r), &mut some).is_err() {
        return 0.0;
    }
    (some.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / some.len() as f64).sqrt()
}

pub(super) fn up(
    r: &mut Rng,
    types: [GgmlType; 3],
    tokens: u32,
    (hidden, inner): (u32, u32),
    top_k: u32,
    joined: (Activation, bool),
) -> Trial {
    let (pairs, experts) = (tokens * top_k, 6u32);
    let [gate_ty, up_ty, _] = types;
    let mut l = Layout::new();
    let slab = slab(r, &mut l, types, 5, (hidden, inner, 3));
    let slots: Vec<i32> = (0..pairs as i32).map(|p| [3, -1, 0, 4, 2][p as usize % 5]).collect();
    let slots = l.input("slots", &slots);
    let ids: Vec<u32> = (0..pairs).map(|p| (p * 5 + 2) % experts).collect();
    let ids = l.input("ids", &ids);
    let bias = joined.1.then(|| l.input("bias", &biases(r, experts, inner)));
    let x = l.input("x", &activations(r, &[gate_ty, up_ty], tokens, hidden, joined.0));
    let up = one_row(gate_ty == up_ty && crate::gpu::params::tiled(gate_ty.number(), hidden));
    let mid = l.output("inner", (pairs * inner) as usize, Judge::F32(up.max(2.0 * up - CLOSE)));
    let about = format!("{}, {tokens} x {hidden}, {top_k} of {inner} inside{}", named(types), words(joined));
    l.trial(BiasedUp::NAME, about, move |b| {
        let of = ExpertsUp {
            slab: slab.at.of(b),
            slot_bytes: slab.slot_bytes,
            gate_at: 0,
            up_at: slab.up_at,
            slots: slots.of(b),
            x: x.of(b),
            inner: mid.of(b),
            pairs,
            top_k,
            rows: inner,
            cols: hidden,
            gate_ty: gate_ty.number(),
            up_ty: up_ty.number(),
            x_stride: hidden,
            pad: 0,
        };
        let bias = bias.map_or(Address::NONE, |at| at.of(b));
        vec![launch(BiasedUp { of, ids: ids.of(b), bias, activation: joined.0.number(), pad: 0 })]
    })
}

pub(super) fn grouped_up(r: &mut Rng, types: [GgmlType; 3], (hidden, inner): (u32, u32), joined: (Activation, bool)) -> Trial {
    let tokens = 83u32;
    let [gate_ty, up_ty, _] = types;
    let mut l = Layout::new();
    let slab = slab(r, &mut l, types, 3, (hidden, inner, 3));
    let groups = l.input("groups", &[Group { slot: 2, begin: 0, end: 80 }, Group { slot: 0, begin: 80, end: 83 }]);
    let experts = l.input("experts", &[4u32, 1]);
    let (tile_group, tile_begin) = (l.input("tile_group", &[0u32, 0, 1]), l.input("tile_begin", &[0u32, GroupedUp::TILE, 80]));
    let mut order: Vec<u32> = (0..tokens).collect();
    r.shuffle(&mut order);
    let token_of = l.input("token_of", &order);
    let bias = joined.1.then(|| l.input("bias", &biases(r, 5, inner)));
    let x = l.input("x", &activations(r, &[gate_ty, up_ty], tokens, hidden, joined.0));
    let mid = l.output("inner", (tokens * inner) as usize, Judge::F32(2.0 * tiled(gate_ty).max(tiled(up_ty))));
    let about = format!("{}, {tokens} x {hidden}{}", named(types), words(joined));
    l.trial(BiasedGroupedUp::NAME, about, move |b| {
        let of = GroupedUp {
            slab: slab.at.of(b),
            slot_bytes: slab.slot_bytes,
            gate_at: 0,
            up_at: slab.up_at,
            groups: groups.of(b),
            tile_group: tile_group.of(b),
            tile_begin: tile_begin.of(b),
            token_of: token_of.of(b),
            x: x.of(b),
            inner: mid.of(b),
            tiles: 3,
            rows: inner,
            cols: hidden,
            gate_ty: gate_ty.number(),
            up_ty: up_ty.number(),
            x_stride: hidden,
        };
        let bias = bias.map_or(Address::NONE, |at| at.of(b));
        vec![launch(BiasedGroupedUp { of, experts: experts.of(b), bias, activation: joined.0.number(), pad: 0 })]
    })
}
