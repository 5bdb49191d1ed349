//! Threads that copy admitted experts into their slots while tokens go on: nobody waits for them before the layer's next tick.
//!
//! Filling page-locked memory takes a host longer than the copy takes the link, and in the middle of a token that time is the token's.
//! A courier has page-locked buffers of its own; what it sends follows the mark that it is given, on the copy lane.

use super::slabs::Layout;
use super::staging::Staging;
use crate::experts::store::HostExpert;
use crate::gpu::{Address, Device, Lane, Mark};
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Page-locked buffers of a courier.
pub(super) const BUFFERS: usize = 8;
/// Most couriers.
pub(super) const MOST: usize = 2;

/// An expert to be brought to a slot.
pub(super) struct Errand {
    pub(super) layer: usize,
    pub(super) expert: u16,
    pub(super) slot: u16,
    pub(super) to: Address,
    /// Nothing reads or writes the slot after this mark of the compute lane.
    pub(super) after: Option<Mark>,
    pub(super) bytes: HostExpert,
    pub(super) layout: Layout,
}

/// An expert on its way.
pub(super) struct Sent {
    pub(super) layer: usize,
    pub(super) expert: u16,
    pub(super) slot: u16,
    /// Passed when it is there; `None`: it could not be sent.
    pub(super) ready: Option<Mark>,
}

#[derive(Default)]
struct State {
    errands: VecDeque<Errand>,
    /// Layers of the errands that are being run.
    running: Vec<usize>,
    sent: Vec<Sent>,
    stop: bool,
}

impl State {
    /// Whether errands of this layer, or of any, are neither sent nor given up.
    fn open(&self, layer: Option<usize>) -> bool {
        let of = |l: usize| layer.is_none_or(|layer| l == layer);
        self.running.iter().any(|&l| of(l)) || self.errands.iter().any(|e| of(e.layer))
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There are errands, or the end.
    more: Condvar,
    /// One errand fewer is open.
    fewer: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads; they end with this.
pub(super) struct Couriers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    bytes: u64,
}

impl Couriers {
    /// So many threads, whose page-locked buffers for experts of `slot_bytes` take at most `budget` bytes together.
    pub(super) fn new(device: &Arc<dyn Device>, count: usize, slot_bytes: usize, budget: u64) -> Self {
        let shared = Arc::<Shared>::default();
        let (mut threads, mut bytes) = (Vec::new(), 0);
        for i in 0..count {
            let staging = Staging::new(&**device, slot_bytes, budget / count as u64, BUFFERS);
            bytes += staging.bytes();
            let (shared, device) = (shared.clone(), device.clone());
            // A thread that the system refuses is no error: whoever wants to send does it himself.
            let made = std::thread::Builder::new().name(format!("courier-{i}")).spawn(move || run(&shared, &*device, staging));
            threads.extend(made);
        }
        Self { shared, threads, bytes }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.threads.is_empty()
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Bytes of page-locked memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Errands that are not sent.
    pub(super) fn open(&self) -> usize {
        let state = self.shared.lock();
        state.errands.len() + state.running.len()
    }

    /// Run these, one after the other or side by side.
    pub(super) fn send(&self, errands: impl Iterator<Item = Errand>) {
        let mut state = self.shared.lock();
        state.errands.extend(errands);
        drop(state);
        self.shared.more.notify_all();
    }

    /// What has been sent since the last call; waits for none.
    pub(super) fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.shared.lock().sent)
    }

    /// The same, when all errands of `layer` (or of all layers) have been sent or given up.
    pub(super) fn settled(&self, layer: Option<usize>) -> Vec<Sent> {
        let mut state = self.shared.lock();
        while state.open(layer) {
            state = self.shared.fewer.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.sent)
    }
}

impl Drop for Couriers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.errands.clear();
        drop(state);
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            // It has caught whatever panicked, and owes nobody anything any more.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, device: &dyn Device, mut staging: Staging) {
    /// Strikes the errand off whatever happens: someone may be waiting for it.
    struct Running<'a>(&'a Shared, Option<Sent>);
    impl Drop for Running<'_> {
        fn drop(&mut self) {
            let mut state = self.0.lock();
            if let Some(sent) = self.1.take() {
                if let Some(i) = state.running.iter().position(|&l| l == sent.layer) {
                    state.running.swap_remove(i);
                }
                state.sent.push(sent);
            }
            drop(state);
            self.0.fewer.notify_all();
        }
    }
    loop {
        let mut state = shared.lock();
        let errand = loop {
            if state.stop {
                return;
            }
            match state.errands.pop_front() {
                Some(errand) => break errand,
                None => state = shared.more.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.running.push(errand.layer);
        drop(state);
        let Errand { layer, expert, slot, to, after, bytes, layout } = errand;
        let mut running = Running(shared, Some(Sent { layer, expert, slot, ready: None }));
        // A panic costs this expert its slot, and not all later ones their courier.
        let sent = catch_unwind(AssertUnwindSafe(|| {
            after.map_or(Ok(()), |after| device.wait(Lane::Copy, &after))?;
            staging.send(device, None, &bytes, &layout, to)
        }));
        match sent {
            Ok(Ok(mark)) => running.1.iter_mut().for_each(|sent| sent.ready = Some(mark.clone())),
            Ok(Err(e)) => tracing::warn!("expert {expert} of layer {layer} could not be sent up: {e}"),
            Err(_) => tracing::error!("sending expert {expert} of layer {layer} up panicked"),
        }
    }
}
