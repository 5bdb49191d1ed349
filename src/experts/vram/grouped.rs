//! Launches over slots: pair by pair for a few tokens, expert by expert for many.

use super::biases::Biased;
use super::slabs::Layout;
use crate::experts::store::{ExpertStore, Projection};
use crate::experts::tier::{DeviceRows, Grouped, ABSENT};
use crate::gpu::device::Touch;
use crate::gpu::params::{launch, BiasedGroupedUp, BiasedUp, ExpertsDown, ExpertsUp, Gather, Group, GroupedDown, GroupedUp};
use crate::gpu::{Address, Device, GpuError, Lane, Mark, Memory, Pinned};

/// Slots that one launch reads: a layer's slab, or some of the spare ones.
#[derive(Clone, Copy)]
pub(super) struct Slots {
    pub(super) base: Address,
    /// Bytes from one to the next.
    pub(super) stride: usize,
    pub(super) layout: Layout,
    pub(super) shape: [Projection; 3],
    /// Of a layer whose experts are not the plain ones.
    pub(super) biased: Option<Biased>,
}

impl Slots {
    /// The bytes of these slots, neighbours joined.
    fn touches(&self, slots: &[u16]) -> Vec<Touch> {
        let mut sorted = slots.to_vec();
        sorted.sort_unstable();
        let mut touches: Vec<Touch> = Vec::new();
        for slot in sorted {
            let address = self.base.plus(usize::from(slot) * self.stride);
            match touches.last_mut() {
                Some(last) if last.address.plus(last.bytes) == address => last.bytes += self.stride,
                _ => touches.push(Touch { address, bytes: self.stride, writes: false }),
            }
        }
        touches
    }

    fn offsets(&self) -> [u64; 3] {
        self.layout.offsets.map(|o| o as u64)
    }
}

/// Results between the products: `inner [pairs, ff]`, `out [pairs, hidden]`.
pub(super) struct Work {
    inner: Memory,
    out: Memory,
    pairs: usize,
}

impl Work {
    /// For steps of up to `rows` tokens.
    pub(super) fn new(device: &dyn Device, store: &ExpertStore, rows: usize) -> Result<Self, GpuError> {
        let pairs = rows.max(ExpertsUp::TOKENS as usize) * store.top_k;
        let floats = |n: usize| device.alloc((pairs * n * 4).max(4));
        Ok(Self { inner: floats(store.ff())?, out: floats(store.hidden)?, pairs })
    }

    /// Whether a step with so many pairs has room here.
    pub(super) fn fits(&self, pairs: usize) -> bool {
        pairs <= self.pairs
    }

    /// At most [`ExpertsUp::TOKENS`] tokens: the pairs to which `table` (`[tokens, top_k]` i32) gives a slot; `read` are the slots that it names,
    /// as far as they are known.
    pub(super) fn few(&self, device: &dyn Device, slots: &Slots, rows: &DeviceRows, table: Address, read: &[u16]) -> Result<(), GpuError> {
        let touches = slots.touches(read);
        let [gate, up, down] = slots.shape;
        let [gate_at, up_at, down_at] = slots.offsets();
        let (slab, slot_bytes) = (slots.base, slots.stride as u64);
        let (hidden, ff) = (gate.cols as u32, gate.rows as u32);
        let up = ExpertsUp {
            slab,
            slot_bytes,
            gate_at,
            up_at,
            slots: table,
            x: rows.x,
            inner: self.inner.address(),
            pairs: (rows.tokens * rows.top_k) as u32,
            top_k: rows.top_k as u32,
            rows: ff,
            cols: hidden,
            gate_ty: gate.ty.number(),
            up_ty: up.ty.number(),
            x_stride: hidden,
            pad: 0,
        };
        match slots.biased {
            Some(Biased { bias, activation }) => launch(device, &BiasedUp { of: up, ids: rows.ids, bias, activation, pad: 0 }, &touches)?,
            None => launch(device, &up, &touches)?,
        }
        let down = ExpertsDown {
            slab,
            slot_bytes,
            down_at,
            slots: table,
            weights: rows.weights,
            inner: self.inner.address(),
            y: rows.y,
            tokens: rows.tokens as u32,
            top_k: rows.top_k as u32,
            rows: hidden,
            cols: ff,
            ty: down.ty.number(),
            y_stride: hidden,
        };
        launch(device, &down, &touches)
    }
}

/// Small arrays on their way to kernels: one piece of device memory and, where there is any, of page-locked memory, written anew in
/// every tick.
#[derive(Default)]
pub(super) struct Parcel {
    memory: Option<Memory>,
    pinned: Option<Pinned>,
    sent: Option<Mark>,
    at: usize,
}

/// Arrays begin at multiples of this.
const STEP: usize = 16;

impl Parcel {
    /// A new tick, which puts at most `bytes`.
    pub(super) fn begin(&mut self, device: &dyn Device, bytes: usize) -> Result<(), GpuError> {
        self.at = 0;
        if self.memory.as_ref().map_or(0, Memory::len) < bytes {
            let room = bytes.next_power_of_two().max(4096);
            (self.memory, self.pinned, self.sent) = (Some(device.alloc(room)?), device.pinned(room).ok(), None);
        }
        if let Some(sent) = self.sent.take().filter(|_| self.pinned.is_some()) {
            device.sync(&sent)?;
        }
        Ok(())
    }

    /// Queue an array; where it will be.
    pub(super) fn put(&mut self, device: &dyn Device, bytes: &[u8]) -> Result<Address, GpuError> {
        let Some(memory) = &self.memory else { return Ok(Address::NONE) };
        let range = self.at..self.at + bytes.len();
        self.at = range.end.next_multiple_of(STEP);
        let address = memory.at(range.start, bytes.len());
        match &self.pinned {
            Some(pinned) => {
                pinned.write(range.clone(), &mut |to| to.copy_from_slice(bytes));
                device.upload(Lane::Compute, address, pinned, range)?;
            }
            None => device.upload_now(Lane::Compute, address, bytes)?,
        }
        Ok(address)
    }

    /// All that was put is done when `mark` is passed.
    pub(super) fn end(&mut self, mark: &Mark) {
        self.sent = Some(mark.clone());
    }
}

/// Most bytes that a tick puts into its parcel, if its experts run in so many launches beside the layer's own.
pub(super) fn parcel_bytes(rows: &DeviceRows, groups: usize, batches: usize) -> usize {
    let (pairs, batches) = (rows.tokens * rows.top_k, batches + 2);
    if rows.tokens <= ExpertsUp::TOKENS as usize {
        return batches * (pairs * 4 + STEP);
    }
    let tiles = pairs / GroupedUp::TILE as usize + groups;
    2 * pairs * 4 + groups * (size_of::<Group>() + 4) + tiles * 8 + (4 * batches + 2) * STEP
}

/// A step of many tokens under way.
pub(super) struct Many {
    token_of: Address,
}

impl Many {
    pub(super) fn begin(device: &dyn Device, parcel: &mut Parcel, grouped: &Grouped) -> Result<Self, GpuError> {
        Ok(Self { token_of: parcel.put(device, bytemuck::cast_slice(&grouped.token_of))? })
    }

    /// Products of some groups, given with their slots.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run(
        &self,
        device: &dyn Device,
        work: &Work,
        parcel: &mut Parcel,
        slots: &Slots,
        rows: &DeviceRows,
        grouped: &Grouped,
        here: &[(usize, u16)],
    ) -> Result<(), GpuError> {
        if here.is_empty() {
            return Ok(());
        }
        let (mut groups, mut tile_group, mut tile_begin) = (Vec::new(), Vec::new(), Vec::new());
        for &(g, slot) in here {
            let pairs = &grouped.groups[g].pairs;
            for begin in pairs.clone().step_by(GroupedUp::TILE as usize) {
                tile_group.push(groups.len() as u32);
                tile_begin.push(begin as u32);
            }
            groups.push(Group { slot: u32::from(slot), begin: pairs.start as u32, end: pairs.end as u32 });
        }
        let tiles = tile_group.len() as u32;
        let groups = parcel.put(device, bytemuck::cast_slice(&groups))?;
        let tile_group = parcel.put(device, bytemuck::cast_slice(&tile_group))?;
        let tile_begin = parcel.put(device, bytemuck::cast_slice(&tile_begin))?;
        let touches = slots.touches(&here.iter().map(|h| h.1).collect::<Vec<_>>());
        let [gate, up, down] = slots.shape;
        let [gate_at, up_at, down_at] = slots.offsets();
        let (slab, slot_bytes, inner) = (slots.base, slots.stride as u64, work.inner.address());
        let (hidden, ff) = (gate.cols as u32, gate.rows as u32);
        let up = GroupedUp {
            slab,
            slot_bytes,
            gate_at,
            up_at,
            groups,
            tile_group,
            tile_begin,
            token_of: self.token_of,
            x: rows.x,
            inner,
            tiles,
            rows: ff,
            cols: hidden,
            gate_ty: gate.ty.number(),
            up_ty: up.ty.number(),
            x_stride: hidden,
        };
        match slots.biased {
            Some(Biased { bias, activation }) => {
                let experts: Vec<u32> = here.iter().map(|h| grouped.groups[h.0].expert.into()).collect();
                let experts = parcel.put(device, bytemuck::cast_slice(&experts))?;
                launch(device, &BiasedGroupedUp { of: up, experts, bias, activation, pad: 0 }, &touches)?;
            }
            None => launch(device, &up, &touches)?,
        }
        let out = work.out.address();
        let ty = down.ty.number();
        let down = GroupedDown { slab, slot_bytes, down_at, groups, tile_group, tile_begin, inner, out, tiles, rows: hidden, cols: ff, ty };
        launch(device, &down, &touches)
    }

    /// The weighted sums of all groups but those that the host computes.
    pub(super) fn gather(
        self,
        device: &dyn Device,
        work: &Work,
        parcel: &mut Parcel,
        rows: &DeviceRows,
        grouped: &Grouped,
        on_host: &[usize],
    ) -> Result<(), GpuError> {
        if on_host.len() == grouped.groups.len() {
            return Ok(());
        }
        let mut here = vec![true; grouped.token_of.len()];
        for &g in on_host {
            here[grouped.groups[g].pairs.clone()].fill(false);
        }
        let pair_of: Vec<u32> = grouped.pair_of.iter().map(|&pair| if here[pair as usize] { pair } else { ABSENT }).collect();
        let pair_of = parcel.put(device, bytemuck::cast_slice(&pair_of))?;
        let hidden = (work.out.len() / 4 / work.pairs.max(1)) as u32;
        let (tokens, top_k) = (rows.tokens as u32, rows.top_k as u32);
        let out = work.out.address();
        launch(device, &Gather { out, pair_of, weights: rows.weights, y: rows.y, tokens, top_k, cols: hidden, y_stride: hidden }, &[])
    }
}
