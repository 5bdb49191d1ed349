//! The gated delta net on the device. Whatever order of heads a file has, the device's weights are in tiled order: their rows are
//! rearranged once, on their way up.

use super::super::delta_net::{tile_to_group, DeltaNet, HeadOrder, Projection, Rates};
use super::super::ModelError;
use super::map::{apply, bytes, vector, Map, Target};
use super::recurrent::DeviceRecurrent;
use super::Pass;
use crate::gpu::params::{launch, Convolve, DeltaRule, GatedNorm};
use crate::gpu::{Address, Device, Memory};
use crate::kernels::delta::DeltaHeads;
use std::sync::Arc;

/// One gated delta net layer with its state.
pub(super) struct DeviceDeltaNet {
    mixed: Map,
    gate: Map,
    beta: Map,
    alpha: Map,
    output: Map,
    bias: Memory,
    rate: Memory,
    taps: Memory,
    width: usize,
    norm: Memory,
    /// Where each head's output goes, `[values]` u32; `None` for the same order.
    place: Option<Memory>,
    heads: DeltaHeads,
    eps: f32,
    /// The last inputs of the convolution, and a matrix per value head; and the copies to go back to.
    pub(super) past: DeviceRecurrent,
}

/// For each canonical row of `[queries | keys | values]`, and of the gates, its row in the file.
struct Order {
    mixed: Vec<usize>,
    gate: Vec<usize>,
    beta: Vec<usize>,
    alpha: Vec<usize>,
}

impl Order {
    /// `fused`: everything of a key head lies together; `paired`: strengths and decays of a key head do.
    fn new(heads: DeltaHeads, order: HeadOrder, fused: bool, paired: bool) -> Self {
        let DeltaHeads { keys, values, key_dim, value_dim } = heads;
        let each = values / keys;
        // The file's number of the value head that is number h in tiled order.
        let of: Vec<usize> = if order == HeadOrder::Grouped { tile_to_group(heads) } else { (0..values).collect() };
        let run = |at: usize, len: usize| at..at + len;
        let (mut mixed, mut gate) = (Vec::new(), Vec::new());
        if fused {
            let own = each * value_dim;
            let group = 2 * key_dim + 2 * own;
            (0..keys).for_each(|k| mixed.extend(run(k * group, key_dim)));
            (0..keys).for_each(|k| mixed.extend(run(k * group + key_dim, key_dim)));
            for &g in &of {
                let value = g / each * group + 2 * key_dim + g % each * value_dim;
                mixed.extend(run(value, value_dim));
                gate.extend(run(value + own, value_dim));
            }
        } else {
            let before = 2 * keys * key_dim;
            mixed.extend(0..before);
            for &g in &of {
                mixed.extend(run(before + g * value_dim, value_dim));
                gate.extend(run(g * value_dim, value_dim));
            }
        }
        let (beta, alpha) = if paired {
            let first = |g: &usize| g / each * 2 * each + g % each;
            (of.iter().map(first).collect(), of.iter().map(|g| first(g) + each).collect())
        } else {
            (of.clone(), of)
        };
        Self { mixed, gate, beta, alpha }
    }
}

impl DeviceDeltaNet {
    pub(super) fn new(device: &Arc<dyn Device>, layer: DeltaNet) -> Result<Self, ModelError> {
        let (w, heads, eps, room) = layer.into_parts();
        let d: &dyn Device = &**device;
        let (fused, paired) = (matches!(w.projection, Projection::Fused(_)), matches!(w.rates, Rates::Paired(_)));
        let order = Order::new(heads, w.order, fused, paired);
        let (mixed, gate) = match &w.projection {
            Projection::Split { mixed, gate } => (mixed, gate),
            Projection::Fused(all) => (all, all),
        };
        let (beta, alpha) = match &w.rates {
            Rates::Split { beta, alpha } => (beta, alpha),
            Rates::Paired(both) => (both, both),
        };
        let place: Option<Vec<u32>> = (w.order == HeadOrder::Grouped).then(|| tile_to_group(heads).into_iter().map(|p| p as u32).collect());
        let width = w.taps.len() / heads.channels().max(1);
        Ok(Self {
            mixed: Map::rearranged(d, mixed, Some(&order.mixed))?,
            gate: Map::rearranged(d, gate, Some(&order.gate))?,
            beta: Map::rearranged(d, beta, Some(&order.beta))?,
            alpha: Map::rearranged(d, alpha, Some(&order.alpha))?,
            output: Map::new(d, &w.output)?,
            bias: vector(d, &w.decay_bias)?,
            rate: vector(d, &w.rate)?,
            taps: vector(d, &w.taps)?,
            width,
            norm: vector(d, &w.norm)?,
            place: place.map(|p| bytes(d, bytemuck::cast_slice(&p))).transpose()?,
            heads,
            eps,
            past: DeviceRecurrent::new(device, &[width.saturating_sub(1) * heads.channels(), heads.state_len()], room)?,
        })
    }

    /// Channels, gates, strengths and decays side by side.
    fn wide(&self) -> usize {
        self.heads.channels() + self.inner() + 2 * self.heads.values
    }

    fn inner(&self) -> usize {
        self.heads.values * self.heads.value_dim
    }

    /// The rows of `h` are read, and the result goes to `to`. The state moves on by these tokens; [`DeviceRecurrent::advance`] counts them.
    pub(super) fn forward(&mut self, pass: &Pass<'_>, to: Target) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let DeltaHeads { keys, values, key_dim, value_dim } = self.heads;
        let (channels, inner) = (self.heads.channels(), self.inner());
        let wide = work.wide(self.wide());
        let (gate, beta, alpha) = (wide.right(channels), wide.right(channels + inner), wide.right(channels + inner + values));
        let maps = [
            (&self.mixed, Target::set(wide)),
            (&self.gate, Target::set(gate)),
            (&self.beta, Target::set(beta)),
            (&self.alpha, Target::set(alpha)),
        ];
        apply(device, pass.h, tokens, &maps)?;

        let (convolved, read) = (work.middle(channels), work.heads(inner));
        let (carry, state) = (self.past.piece(0), self.past.piece(1));
        let Self { taps, width, bias, rate, eps, past, .. } = self;
        past.pass(tokens, |stretch| {
            let (from, count) = (stretch.start, stretch.len());
            let convolve = Convolve {
                x: wide.down(from).at,
                taps: taps.address(),
                carry,
                y: convolved.down(from).at,
                tokens: count as u32,
                channels: channels as u32,
                width: *width as u32,
                x_stride: wide.stride as u32,
            };
            launch(device, &convolve, &[])?;
            let rule = DeltaRule {
                mixed: convolved.down(from).at,
                alpha: alpha.down(from).at,
                beta: beta.down(from).at,
                bias: bias.address(),
                rate: rate.address(),
                state,
                y: read.down(from).at,
                tokens: count as u32,
                keys: keys as u32,
                values: values as u32,
                key_dim: key_dim as u32,
                value_dim: value_dim as u32,
                alpha_stride: wide.stride as u32,
                beta_stride: wide.stride as u32,
                eps: *eps,
            };
            Ok(launch(device, &rule, &[])?)
        })?;
        let normed = work.middle(inner);
        let norm = GatedNorm {
            x: read.at,
            gate: gate.at,
            weight: self.norm.address(),
            place: self.place.as_ref().map_or(Address::NONE, Memory::address),
            y: normed.at,
            tokens: tokens as u32,
            heads: values as u32,
            dim: value_dim as u32,
            gate_stride: gate.stride as u32,
            eps: self.eps,
            pad: 0,
        };
        launch(device, &norm, &[])?;
        apply(device, normed, tokens, &[(&self.output, to)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: DeltaHeads = DeltaHeads { keys: 2, values: 6, key_dim: 1, value_dim: 2 };

    #[test]
    fn rows_of_any_layout_come_up_in_tiled_order() {
        // The fused layout: per key head its query, its key, three values of two, three gates of two.
        let fused = Order::new(HEADS, HeadOrder::Grouped, true, true);
        assert_eq!(fused.mixed, [0, 14, 1, 15, 2, 3, 16, 17, 4, 5, 18, 19, 6, 7, 20, 21]);
        assert_eq!(fused.gate, [8, 9, 22, 23, 10, 11, 24, 25, 12, 13, 26, 27]);
        assert_eq!((fused.beta, fused.alpha), (vec![0, 6, 1, 7, 2, 8], vec![3, 9, 4, 10, 5, 11]));
        let plain = Order::new(HEADS, HeadOrder::Tiled, false, false);
        assert_eq!(plain.mixed, (0..16).collect::<Vec<_>>());
        assert_eq!((plain.gate.len(), plain.beta), (12, (0..6).collect()));
    }
}
