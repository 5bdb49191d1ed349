//! How experts get up: at once, or put off until nobody waits, by couriers where there are any.

use super::couriers::{Errand, Sent};
use super::{Due, VramTier};
use crate::experts::store::HostExpert;
use crate::experts::ExpertError;
use crate::gpu::{Address, Lane, Mark};
use std::sync::atomic::Ordering;
use std::time::Instant;

impl VramTier {
    /// Send an admitted expert up to its slot and enter it; `None` if it could not be sent.
    pub(super) fn admit(&mut self, layer: usize, expert: u16, slot: u16) -> Result<Option<Mark>, ExpertError> {
        let to = self.slabs[layer].slot(usize::from(slot));
        let sent = self.send(layer, expert, to)?;
        match &sent {
            Some(ready) => self.tables.enter(layer, expert, slot, ready.clone()),
            None => self.refused.push((layer, expert)),
        }
        Ok(sent)
    }

    /// Admitted experts of a layer whose tick has ended, to be sent when nobody waits.
    pub(super) fn put_off(&mut self, layer: usize, swaps: impl Iterator<Item = (u16, u16)>, ahead: bool) {
        let begin = self.later.len();
        // What lies in locked memory takes the host a moment: it needs no courier.
        let courier = |expert| !self.couriers.is_empty() && !self.held.has_locked(layer, expert);
        self.later.extend(swaps.map(|(expert, slot)| Due { layer, expert, slot, ahead, courier: courier(expert), ready: None }));
        let theirs = || self.later[begin..].iter().filter(|due| due.courier);
        if theirs().next().is_none() {
            return;
        }
        let (slab, host, after) = (&self.slabs[layer], &self.store.layers[layer], &self.used[layer]);
        self.couriers.send(theirs().map(|&Due { layer, expert, slot, .. }| Errand {
            layer,
            expert,
            slot,
            to: slab.slot(usize::from(slot)),
            after: after.clone(),
            bytes: host.experts[usize::from(expert)].clone(),
            layout: slab.layout,
        }));
    }

    /// Enter what couriers have sent, unless its slot is another's by now.
    pub(super) fn receive(&mut self, sent: Vec<Sent>) {
        for Sent { layer, expert, slot, ready } in sent {
            let Some(i) = self.later.iter().position(|d| (d.layer, d.expert, d.slot) == (layer, expert, slot)) else { continue };
            if ready.is_some() {
                self.count(layer);
            }
            match ready {
                // Its tick enters it: whether a courier is quick must not be seen in the order of sums.
                Some(ready) if self.later[i].ahead => self.later[i].ready = Some(ready),
                Some(ready) => {
                    self.later.swap_remove(i);
                    self.tables.enter(layer, expert, slot, ready);
                }
                None => {
                    self.later.swap_remove(i);
                    self.refused.push((layer, expert));
                }
            }
        }
    }

    /// An expert of this layer has gone up.
    pub(super) fn count(&mut self, layer: usize) {
        let bytes = self.store.layers[layer].expert_bytes();
        self.step.uploaded += bytes;
        self.traffic.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All of a layer that was put off has been sent up.
    pub(super) fn settle_layer(&mut self, layer: usize) -> Result<(), ExpertError> {
        let start = Instant::now();
        let sent = self.couriers.settled(Some(layer));
        self.receive(sent);
        self.step.upload += start.elapsed();
        self.catch_up()
    }

    /// All that was put off has been sent up.
    pub(super) fn settle(&mut self) -> Result<(), ExpertError> {
        let start = Instant::now();
        // Between steps nothing is ahead of anything.
        self.later.iter_mut().for_each(|due| due.ahead = false);
        let sent = self.couriers.settled(None);
        self.receive(sent);
        self.enter_arrived();
        self.step.upload += start.elapsed();
        self.catch_up()
    }

    /// What came ahead and is so no longer is like everything else in slots.
    pub(super) fn enter_arrived(&mut self) {
        for due in self.later.extract_if(.., |due| !due.ahead && due.ready.is_some()) {
            if let Some(ready) = due.ready {
                self.tables.enter(due.layer, due.expert, due.slot, ready);
            }
        }
    }

    /// Send up what was put off, as far as no couriers do.
    pub(super) fn catch_up(&mut self) -> Result<(), ExpertError> {
        let mine = |due: &Due| !due.courier && due.ready.is_none();
        if !self.later.iter().any(mine) {
            return Ok(());
        }
        let start = Instant::now();
        let later: Vec<Due> = self.later.extract_if(.., |due| mine(due)).collect();
        let mut waited = None;
        for due in later {
            let Due { layer, expert, slot, ahead, .. } = due;
            if let (true, Some(used)) = (waited.replace(layer) != Some(layer), &self.used[layer]) {
                self.device.wait(Lane::Copy, used)?;
            }
            if !ahead {
                self.admit(layer, expert, slot)?;
                continue;
            }
            let to = self.slabs[layer].slot(usize::from(slot));
            match self.send(layer, expert, to)? {
                ready @ Some(_) => self.later.push(Due { ready, ..due }),
                None => self.refused.push((layer, expert)),
            }
        }
        self.step.upload += start.elapsed();
        Ok(())
    }

    pub(super) fn send(&mut self, layer: usize, expert: u16, to: Address) -> Result<Option<Mark>, ExpertError> {
        let bytes: &HostExpert = &self.store.layers[layer].experts[usize::from(expert)];
        let (device, layout) = (&*self.device, &self.slabs[layer].layout);
        let sent = self.held.send(device, layer, expert, to, layout);
        match sent.unwrap_or_else(|| self.staging.send(device, Some(&self.pool), bytes, layout, to)) {
            Ok(mark) => {
                self.count(layer);
                Ok(Some(mark))
            }
            Err(e) => {
                tracing::warn!("expert {expert} of layer {layer} could not be sent up: {e}");
                Ok(None)
            }
        }
    }
}
