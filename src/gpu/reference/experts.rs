//! Products with experts in slots.

use super::{activated, dot, silu, Host, Meaning, ReferenceError};
use crate::gpu::params::{BiasedGroupedUp, BiasedUp, ExpertsDown, ExpertsUp, Group, GroupedDown, GroupedUp, RoutedBias};
use crate::gpu::Address;
use crate::kernels::rows::Activation;

/// Where a matrix of the expert in `slot` begins.
fn slot_at(slab: Address, slot: usize, slot_bytes: u64, at: u64) -> Address {
    Address(slab.0.wrapping_add((slot as u64).wrapping_mul(slot_bytes)).wrapping_add(at))
}

/// What rows of gate and up give: `f(expert, row, gate, up)`.
type Join<'a> = &'a dyn Fn(u32, usize, f64, f64) -> f64;

fn swiglu(_: u32, _: usize, gate: f64, up: f64) -> f64 {
    silu(gate) * up
}

/// Biases `[experts, 2, rows]`, of experts up to the last of `ids`; empty: there are none.
struct Biased {
    values: Vec<f32>,
    rows: usize,
    activation: Activation,
}

impl Biased {
    fn read(host: &Host<'_>, bias: Address, ids: &[u32], rows: u32, activation: u32) -> Result<Self, ReferenceError> {
        let experts = if bias.0 == 0 { 0 } else { ids.iter().max().map_or(0, |id| *id as usize + 1) };
        let (rows, activation) = (rows as usize, host.activation(activation)?);
        Ok(Self { values: host.f32s("bias", bias, 0, experts * 2 * rows)?, rows, activation })
    }

    fn join(&self, expert: u32, row: usize, gate: f64, up: f64) -> f64 {
        let bias = |part: usize| self.values.get((expert as usize * 2 + part) * self.rows + row).copied().map_or(0.0, f64::from);
        activated(self.activation, gate + bias(0), up + bias(1))
    }
}

impl Meaning for ExpertsUp {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        self.mean_with(host, None, &swiglu)
    }
}

impl Meaning for BiasedUp {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let ids: Vec<u32> = host.get("ids", self.ids, 0, self.of.pairs as usize)?;
        let biased = Biased::read(host, self.bias, &ids, self.of.rows, self.activation)?;
        self.of.mean_with(host, Some(&ids), &|expert, row, gate, up| biased.join(expert, row, gate, up))
    }
}

impl ExpertsUp {
    fn mean_with(&self, host: &mut Host<'_>, ids: Option<&[u32]>, join: Join<'_>) -> Result<(), ReferenceError> {
        host.demand(self.top_k > 0 && self.pairs.div_ceil(self.top_k) <= Self::TOKENS, "1 to 8 tokens")?;
        let rows = self.rows as usize;
        host.activations(self.x, self.x_stride, self.gate_ty, self.pairs.div_ceil(self.top_k))?;
        host.activations(self.x, self.x_stride, self.up_ty, self.pairs.div_ceil(self.top_k))?;
        let slots: Vec<i32> = host.get("slots", self.slots, 0, self.pairs as usize)?;
        for (p, slot) in slots.into_iter().enumerate() {
            let Ok(slot) = usize::try_from(slot) else { continue };
            let x = host.f32s("x", self.x, p / self.top_k as usize * self.x_stride as usize, self.cols as usize)?;
            let gate = slot_at(self.slab, slot, self.slot_bytes, self.gate_at);
            let up = slot_at(self.slab, slot, self.slot_bytes, self.up_at);
            host.aligned("gate", gate)?;
            host.aligned("up", up)?;
            let inner = (0..rows)
                .map(|r| {
                    let g = dot(&host.weights("gate", gate, self.gate_ty, r, self.cols)?, &x);
                    let u = dot(&host.weights("up", up, self.up_ty, r, self.cols)?, &x);
                    Ok(join(ids.map_or(0, |ids| ids[p]), r, g, u) as f32)
                })
                .collect::<Result<Vec<f32>, _>>()?;
            host.put("inner", self.inner, p * rows, &inner)?;
        }
        Ok(())
    }
}

impl Meaning for ExpertsDown {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (rows, k) = (self.rows as usize, self.top_k as usize);
        for t in 0..self.tokens as usize {
            let at = t * self.y_stride as usize;
            let mut y: Vec<f64> = host.f32s("y", self.y, at, rows)?.into_iter().map(f64::from).collect();
            let slots: Vec<i32> = host.get("slots", self.slots, t * k, k)?;
            let weights = host.f32s("weights", self.weights, t * k, k)?;
            for (j, slot) in slots.into_iter().enumerate() {
                let Ok(slot) = usize::try_from(slot) else { continue };
                let inner = host.f32s("inner", self.inner, (t * k + j) * self.cols as usize, self.cols as usize)?;
                let down = slot_at(self.slab, slot, self.slot_bytes, self.down_at);
                host.aligned("down", down)?;
                host.activations(self.inner, self.cols, self.ty, self.tokens * self.top_k)?;
                for (r, y) in y.iter_mut().enumerate() {
                    *y += f64::from(weights[j]) * dot(&host.weights("down", down, self.ty, r, self.cols)?, &inner);
                }
            }
            host.put("y", self.y, at, &y.iter().map(|y| *y as f32).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// The group of every tile and the pairs of it that the tile has.
fn tiles(
    host: &Host<'_>,
    tiles: u32,
    groups: Address,
    tile_group: Address,
    tile_begin: Address,
) -> Result<Vec<(usize, std::ops::Range<usize>)>, ReferenceError> {
    let group: Vec<u32> = host.get("tile_group", tile_group, 0, tiles as usize)?;
    let begin: Vec<u32> = host.get("tile_begin", tile_begin, 0, tiles as usize)?;
    let mut out = Vec::with_capacity(tiles as usize);
    for (g, begin) in group.into_iter().zip(begin) {
        let group: Group = host.one("groups", groups, g as usize)?;
        host.demand((group.begin..group.end).contains(&begin), "a tile begins outside of its group")?;
        out.push((group.slot as usize, begin as usize..group.end.min(begin + GroupedUp::TILE) as usize));
    }
    Ok(out)
}

impl Meaning for GroupedUp {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        self.mean_with(host, None, &swiglu)
    }
}

impl Meaning for BiasedGroupedUp {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let of_tile: Vec<u32> = host.get("tile_group", self.of.tile_group, 0, self.of.tiles as usize)?;
        let ids = of_tile.iter().map(|&g| host.one("experts", self.experts, g as usize)).collect::<Result<Vec<u32>, _>>()?;
        let biased = Biased::read(host, self.bias, &ids, self.of.rows, self.activation)?;
        self.of.mean_with(host, Some(&ids), &|expert, row, gate, up| biased.join(expert, row, gate, up))
    }
}

impl Meaning for RoutedBias {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (k, cols) = (self.top_k as usize, self.cols as usize);
        for t in 0..self.tokens as usize {
            let at = t * self.y_stride as usize;
            let mut y: Vec<f64> = host.f32s("y", self.y, at, cols)?.into_iter().map(f64::from).collect();
            let ids: Vec<u32> = host.get("ids", self.ids, t * k, k)?;
            for (id, weight) in ids.into_iter().zip(host.f32s("weights", self.weights, t * k, k)?) {
                let bias = host.f32s("bias", self.bias, id as usize * cols, cols)?;
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += f64::from(weight) * f64::from(b));
            }
            host.put("y", self.y, at, &y.iter().map(|y| *y as f32).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

impl GroupedUp {
    /// `ids`: the expert of each tile.
    fn mean_with(&self, host: &mut Host<'_>, ids: Option<&[u32]>, join: Join<'_>) -> Result<(), ReferenceError> {
        let (rows, cols) = (self.rows as usize, self.cols as usize);
        for (tile, (slot, pairs)) in tiles(host, self.tiles, self.groups, self.tile_group, self.tile_begin)?.into_iter().enumerate() {
            let expert = ids.map_or(0, |ids| ids[tile]);
            let tokens: Vec<u32> = host.get("token_of", self.token_of, pairs.start, pairs.len())?;
            let x =
                tokens.iter().map(|&t| host.f32s("x", self.x, t as usize * self.x_stride as usize, cols)).collect::<Result<Vec<_>, _>>()?;
            let mut inner = vec![0.0f32; pairs.len() * rows];
            let gate = slot_at(self.slab, slot, self.slot_bytes, self.gate_at);
            let up = slot_at(self.slab, slot, self.slot_bytes, self.up_at);
            host.aligned("gate", gate)?;
            host.aligned("up", up)?;
            for r in 0..rows {
                let gate = host.weights("gate", gate, self.gate_ty, r, self.cols)?;
                let up = host.weights("up", up, self.up_ty, r, self.cols)?;
                for (x, inner) in x.iter().zip(inner.chunks_exact_mut(rows)) {
                    inner[r] = join(expert, r, dot(&gate, x), dot(&up, x)) as f32;
                }
            }
            host.put("inner", self.inner, pairs.start * rows, &inner)?;
        }
        Ok(())
    }
}

impl Meaning for GroupedDown {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (rows, cols) = (self.rows as usize, self.cols as usize);
        for (slot, pairs) in tiles(host, self.tiles, self.groups, self.tile_group, self.tile_begin)? {
            let inner = host.f32s("inner", self.inner, pairs.start * cols, pairs.len() * cols)?;
            let mut out = vec![0.0f32; pairs.len() * rows];
            let down = slot_at(self.slab, slot, self.slot_bytes, self.down_at);
            host.aligned("down", down)?;
            for r in 0..rows {
                let down = host.weights("down", down, self.ty, r, self.cols)?;
                for (x, out) in inner.chunks_exact(cols).zip(out.chunks_exact_mut(rows)) {
                    out[r] = dot(&down, x) as f32;
                }
            }
            host.put("out", self.out, pairs.start * rows, &out)?;
        }
        Ok(())
    }
}
