//! The gated delta net on the device. Whatever order of heads a file has, the device's weights are in tiled order: their rows are
//! rearranged once, on their way up.

use super::super::delta_net::{tile_to_group, DeltaNet, HeadOrder, Projection, Rates};
use super::super::snapshots::Snapshots;
use super::super::trail::Trail;
use super::super::ModelError;
use super::map::{apply, bytes, vector, Map, Target};
use super::Pass;
use crate::gpu::params::{launch, Convolve, DeltaRule, GatedNorm};
use crate::gpu::{Address, Device, GpuError, Lane, Memory};
use crate::kernels::delta::DeltaHeads;
use std::sync::{Arc, Mutex, PoisonError};

/// What the layer remembers: last inputs of the convolution, and a matrix per value head.
struct State {
    carry: Memory,
    heads: Memory,
}

impl State {
    fn new(device: &dyn Device, carry: usize, heads: usize) -> Result<Self, GpuError> {
        let state = Self { carry: device.alloc(carry * 4)?, heads: device.alloc(heads * 4)? };
        state.clear(device)?;
        Ok(state)
    }

    fn clear(&self, device: &dyn Device) -> Result<(), GpuError> {
        device.clear(Lane::Compute, self.carry.address(), self.carry.len())?;
        device.clear(Lane::Compute, self.heads.address(), self.heads.len())
    }

    fn copy_to(&self, device: &dyn Device, other: &Self) -> Result<(), GpuError> {
        device.copy(Lane::Compute, self.carry.address(), other.carry.address(), self.carry.len())?;
        device.copy(Lane::Compute, self.heads.address(), other.heads.address(), self.heads.len())
    }

    /// A copy, in memory that an earlier one has left if there is any.
    fn duplicate(&self, device: &dyn Device, left: &Left) -> Result<Kept, GpuError> {
        let before = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let copy = match before {
            Some(copy) => copy,
            None => Self { carry: device.alloc(self.carry.len())?, heads: device.alloc(self.heads.len())? },
        };
        self.copy_to(device, &copy)?;
        Ok(Kept { state: Some(copy), left: left.clone() })
    }
}

/// Memory of copies that nobody needs any more. It is used again instead of being given back, so that what a model takes does not go up and down while it talks.
type Left = Arc<Mutex<Vec<State>>>;

/// A copy of the state; leaves its memory behind. Whoever takes that writes to it on the lane that has read it.
struct Kept {
    state: Option<State>,
    left: Left,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).extend(self.state.take());
    }
}

/// One gated delta net layer with its state.
pub(super) struct DeviceDeltaNet {
    device: Arc<dyn Device>,
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
    state: State,
    len: usize,
    marks: Vec<usize>,
    snapshots: Snapshots<Kept>,
    left: Left,
    /// See [`DeltaNet::tentative`].
    trail: Option<Trail<Kept>>,
    tentative: bool,
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
            state: State::new(d, width.saturating_sub(1) * heads.channels(), heads.state_len())?,
            len: 0,
            marks: Vec::new(),
            snapshots: Snapshots::new(room),
            left: Left::default(),
            trail: None,
            tentative: false,
            device: device.clone(),
        })
    }

    /// Channels, gates, strengths and decays side by side.
    fn wide(&self) -> usize {
        self.heads.channels() + self.inner() + 2 * self.heads.values
    }

    fn inner(&self) -> usize {
        self.heads.values * self.heads.value_dim
    }

    /// Copy the state if this is a place to go back to.
    pub(super) fn keep_place(&mut self) -> Result<(), ModelError> {
        if self.marks.contains(&self.len) {
            self.keep(self.len)?;
        }
        Ok(())
    }

    fn keep(&mut self, len: usize) -> Result<(), ModelError> {
        if len == 0 || self.snapshots.get(len).is_some() {
            return Ok(());
        }
        // A copy that finds no room is one place fewer to go back to, no more.
        match self.state.duplicate(&*self.device, &self.left) {
            Ok(copy) => self.snapshots.keep(len, || copy),
            Err(GpuError::OutOfMemory { .. }) => tracing::debug!(len, "no room for a copy of the recurrent state"),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Keep the state at `len` until another pass begins. For want of room it is one place fewer to go back to, as above.
    fn keep_on_trail(&mut self, len: usize) -> Result<(), ModelError> {
        let Some(trail) = &mut self.trail else { return Ok(()) };
        let device = &*self.device;
        let copied = match trail.spare() {
            Some(old) => old.state.as_ref().map_or(Ok(()), |to| self.state.copy_to(device, to)).map(|()| old),
            None => self.state.duplicate(device, &self.left),
        };
        match copied {
            Ok(copy) => trail.push(len, copy),
            Err(GpuError::OutOfMemory { .. }) => tracing::debug!(len, "no room for a copy of the recurrent state"),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// The state has moved on by so many tokens.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// The rows of `h` are read, and the result goes to `to`. The state moves on by these tokens; [`DeviceDeltaNet::advance`] counts them.
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
        // In stretches, so that the state can be copied between two of them.
        let (begin, end) = (self.len, self.len + tokens);
        let tentative = std::mem::take(&mut self.tentative);
        let each = (begin + 1..end).filter(|_| tentative);
        let cuts: Vec<usize> = self.marks.iter().copied().filter(|m| (begin + 1..end).contains(m)).chain(each).chain([end]).collect();
        let mut at = begin;
        for cut in cuts {
            let (from, count) = (at - begin, cut - at);
            if count > 0 {
                let convolve = Convolve {
                    x: wide.down(from).at,
                    taps: self.taps.address(),
                    carry: self.state.carry.address(),
                    y: convolved.down(from).at,
                    tokens: count as u32,
                    channels: channels as u32,
                    width: self.width as u32,
                    x_stride: wide.stride as u32,
                };
                launch(device, &convolve, &[])?;
                let rule = DeltaRule {
                    mixed: convolved.down(from).at,
                    alpha: alpha.down(from).at,
                    beta: beta.down(from).at,
                    bias: self.bias.address(),
                    rate: self.rate.address(),
                    state: self.state.heads.address(),
                    y: read.down(from).at,
                    tokens: count as u32,
                    keys: keys as u32,
                    values: values as u32,
                    key_dim: key_dim as u32,
                    value_dim: value_dim as u32,
                    alpha_stride: wide.stride as u32,
                    beta_stride: wide.stride as u32,
                    eps: self.eps,
                };
                launch(device, &rule, &[])?;
                at = cut;
            }
            if cut < end && tentative {
                self.keep_on_trail(cut)?;
            } else if cut < end {
                self.keep(cut)?;
            }
        }
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

    /// See [`DeltaNet::mark`].
    pub(super) fn mark(&mut self, lens: &[usize]) {
        self.marks.clear();
        self.marks.extend_from_slice(lens);
        self.snapshots.reserve(lens);
        self.tentative = false;
        if let Some(trail) = &mut self.trail {
            trail.clear();
        }
    }

    /// See [`DeltaNet::tentative`].
    pub(super) fn tentative(&mut self, room: usize) {
        self.tentative = true;
        if self.trail.is_none() {
            self.trail = Some(Trail::default());
            self.snapshots.leave(room);
        }
    }

    /// See [`DeltaNet::reachable`].
    pub(super) fn reachable(&self, len: usize) -> usize {
        if self.len == len || self.trail.as_ref().is_some_and(|t| t.get(len).is_some()) {
            return len;
        }
        self.snapshots.at_or_below(len).unwrap_or(0)
    }

    /// See [`DeltaNet::rewind`]. A device that fails here fails again, and says so, in the next pass.
    pub(super) fn rewind(&mut self, len: usize) {
        self.snapshots.forget_beyond(len);
        if len == self.len {
            return;
        }
        let device = &*self.device;
        let kept = self.trail.as_ref().and_then(|t| t.get(len)).or_else(|| self.snapshots.get(len));
        let done = match kept.and_then(|kept| kept.state.as_ref()) {
            Some(state) => state.copy_to(device, &self.state),
            None => self.state.clear(device),
        };
        if let Err(e) = done {
            tracing::warn!("the recurrent state could not be set back: {e}");
        }
        self.len = len;
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
