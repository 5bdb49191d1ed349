//! The CPU tier: slots are a bounded pool in RAM, the host tier is the mapped file.
//!
//! Hits are computed from their slot, misses straight from the file, which the system is told to read in the order of use before it is needed. Under a memory budget the pages of the file that a
//! miss touched are dropped after use, and so are those of an expert that got a slot, so that nothing is held twice.

use super::run::{Buffers, Parts};
use super::schedule::{Move, Swap};
use super::store::{ExpertStore, HostExpert, ReadAhead};
use super::tier::{Group, Grouped, Source, Tier, TierTime};
use super::{ExpertError, Routing};
use crate::gguf::Advice;
use crate::kernels::memory::SlotMemory;
use crate::kernels::rows::{from_rows, with_rows};
use crate::kernels::Pool;
use candle_core::Tensor;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Parts of an expert begin at multiples of this in a slot.
const ALIGN: usize = 64;
/// A copy into a slot is cut into pieces of this size for the pool.
const COPY: usize = 256 * 1024;

/// Slots of one layer, in ordinary pages: huge ones filled two to three times slower where this was measured (a virtual machine),
/// streamed no faster, and a slot that shares a huge page with its neighbour can't be given back.
///
/// `experts * stride` bytes of address space, of which the first `slots * stride` may be in use.
struct LayerSlots {
    memory: SlotMemory,
    stride: usize,
    /// Where gate, up and down begin in a slot.
    offsets: [usize; 3],
    sizes: [usize; 3],
}

/// Slots in RAM.
pub struct CpuTier {
    store: ExpertStore,
    layers: Vec<LayerSlots>,
    pool: Arc<Pool>,
    buffers: Buffers,
    reading: ReadAhead,
    /// Largest amount of file pages that misses may hold at a time; `None` leaves them to the operating system.
    window: Option<u64>,
}

impl CpuTier {
    /// Reserve address space for all experts of every layer, with no memory used yet. See `Settings::window`.
    ///
    /// # Errors
    /// The operating system refuses the reservation.
    pub fn new(store: ExpertStore, pool: Arc<Pool>, window: Option<u64>) -> Result<Self, ExpertError> {
        let page = SlotMemory::page();
        let mut layers = Vec::with_capacity(store.layers.len());
        for layer in &store.layers {
            let sizes = layer.shape.map(|p| p.bytes());
            let mut offsets = [0; 3];
            let mut at = 0usize;
            for (offset, size) in offsets.iter_mut().zip(sizes) {
                *offset = at;
                at = (at + size).next_multiple_of(ALIGN);
            }
            // Whole pages per slot, so that each can be given back by itself.
            let stride = at.next_multiple_of(page);
            let bytes = stride.saturating_mul(store.experts);
            let memory = SlotMemory::reserve(bytes).map_err(|e| ExpertError::Reserve { bytes: bytes as u64, why: e.to_string() })?;
            layers.push(LayerSlots { memory, stride, offsets, sizes });
        }
        Ok(Self { store, layers, pool, buffers: Buffers::default(), reading: ReadAhead::default(), window })
    }
}

impl LayerSlots {
    /// Copy experts into their slots, all in one fork-join.
    fn fill(&mut self, pool: &Pool, swaps: &[Swap], experts: &[HostExpert]) {
        let mut pieces: Vec<Mutex<(&mut [u8], &[u8])>> = Vec::new();
        let mut order: Vec<&Swap> = swaps.iter().collect();
        order.sort_unstable_by_key(|s| s.slot);
        // Slots in rising order, so that their disjoint pieces can be split off the memory one after the other.
        let (mut rest, mut at) = (&mut *self.memory, 0);
        for swap in order {
            for (i, part) in experts[usize::from(swap.expert)].iter().enumerate() {
                let start = usize::from(swap.slot) * self.stride + self.offsets[i];
                let (mine, after) = std::mem::take(&mut rest)[start - at..].split_at_mut(self.sizes[i]);
                (rest, at) = (after, start + self.sizes[i]);
                pieces.extend(mine.chunks_mut(COPY).zip(part.chunks(COPY)).map(Mutex::new));
            }
        }
        pool.run(pieces.len(), &|i| {
            let mut piece = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
            let (to, from) = &mut *piece;
            to.copy_from_slice(from);
        });
    }

    fn parts(&self, slot: u16) -> Parts<'_> {
        let base = usize::from(slot) * self.stride;
        std::array::from_fn(|i| {
            let at = base + self.offsets[i];
            &self.memory[at..at + self.sizes[i]]
        })
    }
}

/// How many experts may be read from the file at a time.
fn wave(window: Option<u64>, expert_bytes: u64) -> usize {
    window.map_or(usize::MAX, |w| usize::try_from(w / expert_bytes.max(1)).unwrap_or(usize::MAX).max(1))
}

fn host_parts(expert: &HostExpert) -> Parts<'_> {
    std::array::from_fn(|i| &*expert[i])
}

/// Drop the pages of this expert from the process. A failure costs memory, never correctness.
fn drop_pages(expert: &HostExpert) {
    for part in expert {
        if let Err(e) = part.advise(Advice::DontNeed) {
            tracing::debug!("pages of an expert could not be dropped: {e}");
        }
    }
}

impl Tier for CpuTier {
    fn expect(&mut self, layer: usize, experts: &mut dyn Iterator<Item = u16>) {
        let host = &self.store.layers[layer];
        for expert in experts.take(wave(self.window, host.expert_bytes())) {
            self.reading.expect(&host.experts[usize::from(expert)]);
        }
    }

    fn run(&mut self, layer: usize, x: &Tensor, routing: &Routing, grouped: &Grouped, time: &mut TierTime) -> Result<Tensor, ExpertError> {
        let (tokens, hidden) = x.dims2()?;
        let Self { store, layers, pool, buffers, reading, window } = self;
        let (host, slots) = (&store.layers[layer], &layers[layer]);
        let start = Instant::now();
        with_rows(x, |values| buffers.begin(values, tokens, hidden, grouped.token_of.len()))?;
        let in_slots = grouped.groups.iter().take_while(|g| g.source != Source::Host).count();
        let (hits, mut misses) = grouped.groups.split_at(in_slots);
        let weights: Vec<Parts<'_>> = hits
            .iter()
            .map(|g| match g.source {
                Source::Slot(slot) | Source::Arriving(slot) => slots.parts(slot),
                Source::Host => host_parts(&host.experts[usize::from(g.expert)]),
            })
            .collect();
        buffers.run(pool, host, hits, grouped, &weights)?;
        time.hits += start.elapsed();

        let start = Instant::now();
        let wave = wave(*window, host.expert_bytes());
        while !misses.is_empty() {
            let (now, later) = misses.split_at(wave.min(misses.len()));
            let expert = |g: &Group| &host.experts[usize::from(g.expert)];
            later[..wave.min(later.len())].iter().for_each(|g| reading.expect(expert(g)));
            let weights: Vec<Parts<'_>> = now.iter().map(|g| host_parts(expert(g))).collect();
            buffers.run(pool, host, now, grouped, &weights)?;
            if window.is_some() {
                now.iter().for_each(|g| drop_pages(expert(g)));
            }
            misses = later;
        }
        time.misses += start.elapsed();

        let start = Instant::now();
        let y = buffers.sum(pool, routing, grouped, tokens, hidden);
        time.hits += start.elapsed();
        Ok(from_rows(y, tokens, hidden)?)
    }

    fn upload(&mut self, layer: usize, swaps: &[Swap]) -> Result<u64, ExpertError> {
        let host = &self.store.layers[layer];
        let bytes = host.expert_bytes();
        let mut waves = swaps.chunks(wave(self.window, bytes)).peekable();
        while let Some(swaps) = waves.next() {
            if let Some(next) = waves.peek() {
                next.iter().for_each(|s| self.reading.expect(&host.experts[usize::from(s.expert)]));
            }
            self.layers[layer].fill(&self.pool, swaps, &host.experts);
            swaps.iter().for_each(|s| drop_pages(&host.experts[usize::from(s.expert)]));
        }
        Ok(bytes * swaps.len() as u64)
    }

    fn resize(&mut self, slots: &[usize], moves: &[Move]) -> Result<(), ExpertError> {
        for m in moves {
            let layer = &mut self.layers[m.layer];
            let (from, to) = (usize::from(m.from) * layer.stride, usize::from(m.to) * layer.stride);
            layer.memory.copy_within(from..from + layer.stride, to);
        }
        for (layer, slots) in self.layers.iter_mut().zip(slots) {
            layer.memory.release(slots * layer.stride..usize::MAX);
        }
        Ok(())
    }
}
