//! The thread that copies experts, region after region, while the model runs.

use super::super::slabs::Layout;
use super::room::Hold;
use crate::experts::store::{ExpertStore, HostExpert, ReadAhead};
use crate::gguf::{Advice, Frozen, Huge, HUGE_PAGE};
use crate::gpu::{Device, Pinned};
use crossbeam_channel::{Receiver, Sender};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Experts of a layer whose images lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) layer: usize,
    pub(super) first: usize,
    pub(super) count: usize,
    /// Bytes of an image.
    pub(super) image: usize,
}

impl Piece {
    pub(super) fn bytes(&self) -> usize {
        self.count * self.image
    }
}

/// All experts, layer after layer, in regions of about so many bytes.
pub(super) fn pieces(layouts: &[Layout], experts: usize, region: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (layer, layout) in layouts.iter().enumerate().filter(|(_, layout)| layout.bytes > 0) {
        let most = (region / layout.bytes).max(1);
        for first in (0..experts).step_by(most) {
            pieces.push(Piece { layer, first, count: most.min(experts - first), image: layout.bytes });
        }
    }
    pieces
}

/// Bytes of memory that they take: whole pages.
pub(super) fn taken(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|p| p.bytes().next_multiple_of(HUGE_PAGE) as u64).sum()
}

/// A piece that is copied.
pub(super) struct Region {
    pub(super) piece: Piece,
    pub(super) memory: Frozen,
    /// The same, if it is page-locked.
    pub(super) locked: Option<Pinned>,
}

/// What the thread works with.
pub(super) struct Copying {
    pub(super) device: Arc<dyn Device>,
    pub(super) store: ExpertStore,
    pub(super) layouts: Vec<Layout>,
    pub(super) pieces: Vec<Piece>,
    pub(super) hold: Hold,
    pub(super) arrived: Sender<Region>,
    /// Experts whose ranges of the file nobody reads any more.
    pub(super) leaving: Receiver<HostExpert>,
    pub(super) stop: Arc<AtomicBool>,
}

/// Why not everything was copied.
enum End {
    Stopped,
    Refused(String),
}

impl Copying {
    pub(super) fn run(self) {
        let Self { device, store, layouts, pieces, hold, arrived, leaving, stop } = self;
        let stopped = || stop.load(Ordering::Relaxed);
        let mut locks = Locks { device: &*device, left: hold.lock };
        let copied = catch_unwind(AssertUnwindSafe(|| -> Result<(), End> {
            for piece in pieces {
                if hold.is_short(crate::kernels::memory::obtainable) {
                    return Err(End::Refused("others need the memory".into()));
                }
                let memory = copy(&store, &layouts[piece.layer], &piece, &stopped)?;
                let locked = locks.lock(&memory);
                arrived.send(Region { piece, memory, locked }).map_err(|_| End::Stopped)?;
                leaving.try_iter().for_each(leave);
            }
            Ok(())
        }));
        match copied {
            Ok(Err(End::Refused(why))) => tracing::warn!("not all experts could be copied into memory of our own: {why}"),
            Ok(_) => {}
            Err(_) => tracing::error!("copying experts into memory of our own panicked; what is there is used"),
        }
        drop((arrived, store));
        // Until everything is adopted and given back, or nobody is there to do so.
        leaving.iter().take_while(|_| !stopped()).for_each(leave);
    }
}

/// An image of every expert of the piece, each as a slot has it.
fn copy(store: &ExpertStore, layout: &Layout, piece: &Piece, stopped: &dyn Fn() -> bool) -> Result<Frozen, End> {
    let mut memory = Huge::new(piece.bytes()).map_err(|e| End::Refused(e.to_string()))?;
    let experts = &store.layers[piece.layer].experts[piece.first..piece.first + piece.count];
    let mut reading = ReadAhead::default();
    for (i, (expert, image)) in experts.iter().zip(memory.chunks_exact_mut(piece.image)).enumerate() {
        if stopped() {
            return Err(End::Stopped);
        }
        if let Some(next) = experts.get(i + 1) {
            reading.expect(next);
        }
        for (part, (offset, size)) in expert.iter().zip(layout.offsets.into_iter().zip(layout.sizes)) {
            image[offset..offset + size].copy_from_slice(part);
        }
    }
    Ok(memory.freeze())
}

/// The file's pages of this expert are not ours any more; they stay in the page cache while there is room.
fn leave(expert: HostExpert) {
    for part in &expert {
        // A failure costs nothing but a number in a gauge.
        let _ = part.advise(Advice::DontNeed);
    }
}

/// Locks regions until the share or the system's patience is used up.
struct Locks<'a> {
    device: &'a dyn Device,
    left: u64,
}

impl Locks<'_> {
    fn lock(&mut self, memory: &Frozen) -> Option<Pinned> {
        self.left = self.left.checked_sub(memory.len() as u64).or_else(|| {
            self.left = 0;
            None
        })?;
        match self.device.lock(memory) {
            Ok(locked) => Some(locked),
            Err(e) => {
                tracing::warn!("the experts' memory stays unlocked from here on: {e}");
                self.left = 0;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_images_of_one_layer_and_name_every_expert_once() {
        let layout = |bytes| Layout { offsets: [0; 3], sizes: [0; 3], bytes };
        let layouts = [layout(1000), layout(0), layout(300)];
        for region in [1, 999, 1000, 2500, 1 << 20] {
            let pieces = pieces(&layouts, 10, region);
            for (layer, wanted) in [(0, 10), (1, 0), (2, 10)] {
                let of: Vec<_> = pieces.iter().filter(|p| p.layer == layer).collect();
                assert_eq!(of.iter().flat_map(|p| p.first..p.first + p.count).collect::<Vec<_>>(), (0..wanted).collect::<Vec<_>>());
                assert!(of.iter().all(|p| p.image == layouts[layer].bytes && (p.bytes() <= region || p.count == 1)));
            }
            assert_eq!(taken(&pieces), (pieces.len() * HUGE_PAGE) as u64, "each begins in a page of its own");
        }
    }
}
