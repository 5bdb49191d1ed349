//! Experts held in memory of our own: in huge pages, and page-locked as far as that goes.
//!
//! A mapped file has small pages, so the host computes a miss from it at a fraction of its memory's speed; and to go up, an expert must first be copied into
//! page-locked memory, at the cost of the token that waits for it. So where there is room, a thread copies all experts once, each laid out as its slot is ([`copying`]), and the device's
//! driver locks them where they lie. What is done is adopted between two steps: from then on the host computes from there, and one call queues an expert's copy to its slot.

mod copying;
mod room;

pub use room::Hold;

use super::slabs::Layout;
use super::{probe, staging, Rates, Traffic, VramTier};
use crate::experts::store::{ExpertStore, HostExpert};
use crate::experts::ExpertError;
use crate::gpu::{Address, Device, GpuError, Lane, Mark, Pinned};
use copying::{pieces, Copying, Region};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// How much of the experts is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes that are.
    pub bytes: u64,
    /// Of them, page-locked.
    pub locked: u64,
    /// Bytes of all that are to be.
    pub of: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let share = if self.bytes < self.of { format!("{:.1} of ", gib(self.bytes)) } else { String::new() };
        write!(f, "experts held in {share}{:.1} GiB of huge pages", gib(self.of))?;
        match self.locked {
            0 => f.write_str(", not page-locked"),
            n if n < self.bytes => write!(f, ", {:.1} GiB of them page-locked", gib(n)),
            _ => f.write_str(", page-locked"),
        }
    }
}

/// Where an expert's image is page-locked.
#[derive(Clone)]
struct Place {
    memory: Pinned,
    at: usize,
}

/// What is held, and the thread that copies more. The thread ends with this.
#[derive(Default)]
pub(super) struct Holding {
    /// `None` when all has come that will.
    arrivals: Option<Receiver<Region>>,
    /// Ranges of the file that nobody reads any more.
    left: Option<Sender<HostExpert>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// By layer and expert; nothing where it is not locked.
    places: Vec<Vec<Option<Place>>>,
    /// Experts in all, adopted, locked.
    experts: usize,
    adopted: usize,
    locked: usize,
    held: Held,
    /// Regions that a step boundary adopts at most.
    per_step: usize,
    /// Of the last copies from locked memory, in the order of the lane.
    under_way: VecDeque<Mark>,
}

impl Holding {
    /// Begin to copy the experts of `store`, if `hold` has room for all of them.
    pub(super) fn start(device: &Arc<dyn Device>, store: &ExpertStore, layouts: &[Layout], hold: Hold, traffic: &Arc<Traffic>) -> Self {
        let pieces = pieces(layouts, store.experts, hold.region);
        let (all, room) = (copying::taken(&pieces), hold.room);
        if all == 0 || all > room {
            if all > 0 && room > 0 {
                tracing::info!(all, room, "no room to hold the experts in memory of our own: they are read from the file");
            }
            return Self::default();
        }
        let ((arrived, arrivals), (left, leaving)) = (crossbeam_channel::unbounded(), crossbeam_channel::unbounded());
        let stop = Arc::<AtomicBool>::default();
        let experts = pieces.iter().map(|p| p.count).sum();
        let of = pieces.iter().map(|p| p.bytes() as u64).sum();
        let copying = Copying {
            device: device.clone(),
            store: store.clone(),
            layouts: layouts.to_vec(),
            pieces,
            hold,
            arrived,
            leaving,
            stop: stop.clone(),
        };
        // Without the thread everything stays as it is.
        match std::thread::Builder::new().name("experts-held".into()).spawn(move || copying.run()) {
            Ok(thread) => {
                traffic.to_hold.store(of, Ordering::Relaxed);
                Self {
                    arrivals: Some(arrivals),
                    left: Some(left),
                    thread: Some(thread),
                    stop,
                    places: vec![vec![None; store.experts]; store.layers.len()],
                    experts,
                    held: Held { of, ..Held::default() },
                    adopted: 0,
                    locked: 0,
                    per_step: hold.per_step.max(1),
                    under_way: VecDeque::new(),
                }
            }
            Err(e) => {
                tracing::warn!("the experts are not copied into memory of our own: {e}");
                Self::default()
            }
        }
    }

    /// Whether there is, or will be, anything.
    pub(super) fn is_none(&self) -> bool {
        self.held.of == 0
    }

    /// Whether nothing more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.arrivals.is_none()
    }

    /// How much is adopted.
    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// Whether every expert is held and page-locked: none needs a staging buffer any more.
    pub(super) fn all_locked(&self) -> bool {
        self.locked > 0 && self.locked == self.experts
    }

    /// Whether every expert is held.
    pub(super) fn all_held(&self) -> bool {
        self.adopted > 0 && self.adopted == self.experts
    }

    /// Whether this expert is page-locked.
    pub(super) fn has_locked(&self, layer: usize, expert: u16) -> bool {
        self.places.get(layer).is_some_and(|experts| experts[usize::from(expert)].is_some())
    }

    /// Between two steps: let `store` read what has been copied from where it is now. Waits for `wanted` regions, or for the end. True when the copying has ended with
    /// this call.
    pub(super) fn adopt(&mut self, store: &mut ExpertStore, layouts: &[Layout], wanted: usize, traffic: &Traffic) -> bool {
        let most = self.per_step.max(wanted);
        for taken in 0..most {
            let Some(arrivals) = &self.arrivals else { return false };
            let next = if taken < wanted { arrivals.recv().map_err(|_| TryRecvError::Disconnected) } else { arrivals.try_recv() };
            match next {
                Ok(region) => self.enter(store, layouts, region),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.arrivals = None;
                    // The thread unmaps what is left, and ends.
                    self.left = None;
                    self.held.of = self.held.bytes;
                    self.tell(traffic);
                    return true;
                }
            }
        }
        self.tell(traffic);
        false
    }

    fn tell(&self, traffic: &Traffic) {
        traffic.to_hold.store(self.held.of, Ordering::Relaxed);
        traffic.held.store(self.held.bytes, Ordering::Relaxed);
        traffic.locked.store(self.held.locked, Ordering::Relaxed);
    }

    fn enter(&mut self, store: &mut ExpertStore, layouts: &[Layout], region: Region) {
        let Region { piece, memory, locked } = region;
        let (layout, bytes) = (&layouts[piece.layer], memory.bytes());
        for i in 0..piece.count {
            let (expert, at) = (piece.first + i, i * piece.image);
            let image = bytes.slice(at..at + piece.image);
            let parts = std::array::from_fn(|p| image.slice(layout.offsets[p]..layout.offsets[p] + layout.sizes[p]));
            let before = std::mem::replace(&mut store.layers[piece.layer].experts[expert], parts);
            // A thread that has ended has nothing to unmap any more.
            if let Some(left) = &self.left {
                let _ = left.send(before);
            }
            self.places[piece.layer][expert] = locked.clone().map(|memory| Place { memory, at });
        }
        self.adopted += piece.count;
        self.held.bytes += piece.bytes() as u64;
        if locked.is_some() {
            self.locked += piece.count;
            self.held.locked += piece.bytes() as u64;
        }
    }

    /// Queue the copy of an expert to the slot at `to`, straight from where it is held; `None` if it is not page-locked.
    pub(super) fn send(
        &mut self,
        device: &dyn Device,
        layer: usize,
        expert: u16,
        to: Address,
        layout: &Layout,
    ) -> Option<Result<Mark, GpuError>> {
        let Place { memory, at } = self.places.get(layer)?[usize::from(expert)].as_ref()?;
        let queued = device.upload(Lane::Copy, to, memory, *at..at + layout.bytes);
        let mark = queued.and_then(|()| device.mark(Lane::Copy));
        // The gauge looks once per step, and a prompt sends thousands: the last tell enough, and marks that nobody keeps can be used again.
        if self.under_way.len() == staging::MOST {
            self.under_way.pop_front();
        }
        self.under_way.extend(mark.iter().cloned());
        Some(mark)
    }

    /// Copies from locked memory that are under way, of the last [`staging::MOST`].
    pub(super) fn queued(&mut self, device: &dyn Device) -> usize {
        while self.under_way.front().is_some_and(|mark| device.passed(mark).unwrap_or(true)) {
            self.under_way.pop_front();
        }
        self.under_way.len()
    }
}

impl VramTier {
    /// Begin to copy the experts into memory of our own, if that is of use: not while every expert has a slot, but for who insists.
    pub(super) fn begin_to_hold(&mut self) {
        let hold = self.hold;
        if !self.held.is_none() || self.slots >= self.store.experts && !hold.insists() {
            return;
        }
        let layouts: Vec<Layout> = self.slabs.iter().map(|s| s.layout).collect();
        self.held = Holding::start(&self.device, &self.store, &layouts, hold, &self.traffic);
    }

    /// Between two steps: use what has been copied from where it is now. Waits for so many regions.
    pub(super) fn adopt(&mut self, wanted: usize) {
        if self.held.has_ended() {
            return;
        }
        let layouts: Vec<Layout> = self.slabs.iter().map(|s| s.layout).collect();
        if !self.held.adopt(&mut self.store, &layouts, wanted, &self.traffic) {
            return;
        }
        tracing::info!("{}", self.held.held());
        if self.held.all_locked() {
            // Couriers have nothing to do any more.
            self.pool.stay_awake(!self.couriers.is_empty(), 0);
        }
        if self.probed && self.held.all_held() {
            match self.probe_held() {
                Ok(rates) => self.rates = rates,
                Err(e) => tracing::warn!("the rates stay as they were measured at first: {e}"),
            }
        }
    }

    /// The rates with experts where they are held now.
    fn probe_held(&mut self) -> Result<Rates, ExpertError> {
        let Some(spare) = &self.spare else { return Ok(self.rates) };
        let room = spare.memory.address();
        // Kernels may still read what is there.
        self.device.wait(Lane::Copy, &self.device.mark(Lane::Compute)?)?;
        let Self { device, pool, store, slabs, staging, host, held, .. } = self;
        let Some(layout) = slabs.first().map(|s| s.layout) else { return Ok(self.rates) };
        let rates = if held.all_locked() {
            probe::held_rates(&**device, pool, store, &layout, held, room, &mut host.buffers)
        } else {
            probe::rates(&**device, pool, store, &layout, staging, room, &mut host.buffers)
        }?;
        let Rates { fill, link, host, .. } = rates;
        tracing::info!(fill, link, host, "rates with experts that are held");
        Ok(rates)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        (self.arrivals, self.left) = (None, None);
        if let Some(thread) = self.thread.take() {
            // It has caught whatever panicked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
