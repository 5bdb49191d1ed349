//! A tick whose experts are on a device, in the pieces in which the device takes it, and what a device tells of itself.

use super::tier::{DeviceRows, DeviceTier};
use super::{vram, ExpertError, Experts, Place, Routing};
use crate::events::{Ahead, Eviction, Outcome};
use crate::gpu::talk::Talk;
use crate::gpu::Address;

impl Experts {
    /// Where the device finds the slots of a layer's experts. See [`DeviceTier::table`].
    ///
    /// # Errors
    /// From the device, or there is none.
    pub fn device_table(&mut self, layer: usize) -> Result<Address, ExpertError> {
        let done = self.device(layer).and_then(|tier| tier.table(layer));
        self.or_forget(done)
    }

    /// Queue the products of the experts in slots. See [`DeviceTier::hits`].
    ///
    /// # Errors
    /// From the device, or there is none.
    pub fn device_hits(&mut self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError> {
        let done = self.device(layer).and_then(|tier| tier.hits(layer, rows));
        self.or_forget(done)
    }

    /// The rest of a tick on a device, whose rows the host has seen: the schedule, misses, copies into slots. See [`DeviceTier::rest`].
    ///
    /// # Errors
    /// From the dot products or the device. All slots are then forgotten, since some may be half filled.
    pub fn device_rest(&mut self, layer: usize, rows: &DeviceRows, host_rows: &[f32], routing: &Routing) -> Result<(), ExpertError> {
        self.settle();
        let done = self.plan(layer, routing).and_then(|()| {
            let Place::Device(tier) = &mut self.tier else { return Err(ExpertError::Elsewhere { layer }) };
            let (plan, tally) = (self.scheduler.plan(), &mut self.tally);
            tally.missed += tier.rest(layer, rows, host_rows, routing, &self.grouped, plan, &mut tally.time)?;
            self.settle();
            Ok(())
        });
        if done.is_ok() && !self.apart.is(layer) {
            // What is forgotten will be asked for again.
            let _ = self.look_ahead(Some(layer));
        }
        self.or_forget(done)
    }

    /// Where the device has a layer's table, of a token that is answered while it runs. See [`DeviceTier::table_place`].
    ///
    /// # Errors
    /// There is no device.
    pub fn device_place(&self, layer: usize) -> Result<Address, ExpertError> {
        match &self.tier {
            Place::Device(tier) => Ok(tier.table_place(layer)),
            Place::Host(_) => Err(ExpertError::Elsewhere { layer }),
        }
    }

    /// Open a layer of such a token. See [`DeviceTier::open`].
    ///
    /// # Errors
    /// From the device. All slots are then forgotten, and the device has not been let go.
    pub fn device_open(&mut self, layer: usize, talk: &Talk) -> Result<(), ExpertError> {
        let done = self.device(layer).and_then(|tier| tier.open(layer, talk));
        self.or_forget(done)
    }

    /// Answer it, when the device has told what it routed, and the rows. See [`DeviceTier::answer`].
    ///
    /// # Errors
    /// A routing that names what does not exist, or from the products. All slots are then forgotten, and the device has not been let go.
    pub fn device_answer(&mut self, layer: usize, talk: &Talk, host_rows: &[f32], routing: &Routing) -> Result<(), ExpertError> {
        let done = self.check(layer, routing).and_then(|()| {
            let (Place::Device(tier), tally) = (&mut self.tier, &mut self.tally) else { return Err(ExpertError::Elsewhere { layer }) };
            tally.missed += tier.answer(layer, talk, host_rows, routing, &mut tally.time)?;
            Ok(())
        });
        self.or_forget(done)
    }

    /// The layer's tick, while the device goes on: the schedule, and copies into slots for tokens to come.
    ///
    /// # Errors
    /// As [`Experts::device_rest`].
    pub fn device_after(&mut self, layer: usize, routing: &Routing) -> Result<(), ExpertError> {
        self.settle();
        let done = self.plan(layer, routing).and_then(|()| {
            let Place::Device(tier) = &mut self.tier else { return Err(ExpertError::Elsewhere { layer }) };
            tier.admit_later(layer, &self.scheduler.plan().swaps)?;
            self.settle();
            Ok(())
        });
        let done = done.and_then(|()| self.look_ahead(Some(layer)));
        self.or_forget(done)
    }

    /// Such a token broke off: what the device has in its tables is not known.
    pub fn device_broke_off(&mut self) {
        self.forget();
    }

    pub(super) fn device(&mut self, layer: usize) -> Result<&mut dyn DeviceTier, ExpertError> {
        match &mut self.tier {
            Place::Device(tier) => Ok(&mut **tier),
            Place::Host(_) => Err(ExpertError::Elsewhere { layer }),
        }
    }

    /// Slots whose copies have failed are empty after all; how many.
    pub(super) fn settle(&mut self) -> usize {
        let Place::Device(tier) = &mut self.tier else { return 0 };
        let refused = tier.refused();
        self.resident.told_of(refused.len());
        for &(layer, expert) in &refused {
            self.scheduler.revoke(layer, expert);
            if self.apart.is(layer) {
                self.apart.refused(expert);
                continue;
            }
            let t = &mut self.tally;
            let begin = layer.checked_sub(1).and_then(|l| t.ends.get(l)).map_or(0, |&end| end as usize);
            let end = t.ends.get(layer).map_or(begin, |&end| end as usize);
            t.routed[begin..end].iter_mut().filter(|r| r.expert == expert).for_each(|r| r.outcome = Outcome::Miss);
        }
        refused.len()
    }

    /// Experts of later layers that the token at hand will probably ask for begin to come, where copies run beside the computing.
    ///
    /// # Errors
    /// From the device; all slots are then forgotten. A token can go on without them, but not one that is answered: what is forgotten ends with it.
    pub(super) fn look_ahead(&mut self, after: Option<usize>) -> Result<(), ExpertError> {
        let Place::Device(tier) = &mut self.tier else { return Ok(()) };
        for layer in self.scheduler.foreseen(after) {
            let swaps = self.scheduler.bring(layer);
            if let Err(e) = tier.bring(layer, swaps) {
                tracing::warn!("experts of layer {layer} could not be brought ahead, and all slots are forgotten: {e}");
                self.forget();
                return Err(e);
            }
            let layer = layer as u16;
            self.tally.ahead.extend(swaps.iter().map(|s| Ahead { layer, expert: s.expert }));
            self.tally.evicted.extend(swaps.iter().filter_map(|s| s.evicted).map(|expert| Eviction { layer, expert }));
        }
        Ok(())
    }

    /// Between two steps: wait until all experts that are being copied into page-locked memory and huge pages are there. `None` if none are; see [`vram::Held`].
    pub fn hold_all(&mut self) -> Option<vram::Held> {
        let Place::Device(tier) = &mut self.tier else { return None };
        tier.await_held(usize::MAX);
        let held = tier.held();
        self.look_at_ahead();
        held
    }

    /// How fast a device's link and host are, by the last measurement.
    #[must_use]
    pub fn rates(&self) -> Option<vram::Rates> {
        match &self.tier {
            Place::Device(tier) => tier.rates(),
            Place::Host(_) => None,
        }
    }
}
