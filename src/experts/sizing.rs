//! How many slots each layer has: changes of their number, and their spread over layers that gain more or less from one.

use super::{spread, ExpertError, Experts, Place};

/// Generated tokens before the curves are trusted with a spread, and between two looks at it.
const SPREAD_AFTER: u64 = 128;
const SPREAD_EVERY: u64 = 128;
/// Hit rate that another spread must promise.
const SPREAD_GAIN: f64 = 0.005;
/// Without a budget, slots may grow into this share of the memory that is free at that moment.
const GROWTH: f64 = 0.8;

impl Experts {
    /// Change the slots per layer at a step boundary. Returns what was granted: never more than the budget allows
    /// ([`Experts::slot_limit`]), never fewer than the least.
    ///
    /// # Errors
    /// From the device; the slots are then as before, and empty.
    pub fn resize(&mut self, slots: usize) -> Result<usize, ExpertError> {
        let mut granted = slots.min(self.slot_limit()).max(self.min).min(self.scheduler.experts());
        self.resident.resized();
        let wanted = self.wanted(granted);
        let done = match &mut self.tier {
            Place::Host(tier) => tier.resize(&wanted, &self.scheduler.resize_layers(&wanted).moves).map(|()| self.by_layer = wanted),
            // What a device can give is known when it has given it.
            Place::Device(tier) if granted > self.slots => tier.resize(granted, &[]).map(|given| {
                granted = given;
                self.scheduler.resize(given);
            }),
            Place::Device(tier) => {
                let change = self.scheduler.resize(granted);
                change.evicted.iter().for_each(|e| tier.evict(e.layer, e.expert));
                tier.resize(granted, &change.moves).map(|_| ())
            }
        };
        if let Err(e) = done {
            self.forget();
            return Err(e);
        }
        if matches!(self.tier, Place::Device(_)) {
            self.by_layer.fill(granted);
        }
        self.slots = granted;
        Ok(granted)
    }

    /// Slots of each layer at a mean of `slots`: equal, or as the curves say if they are spread and enough was seen.
    fn wanted(&self, slots: usize) -> Vec<usize> {
        if !self.spread || self.decoded[0] < SPREAD_AFTER {
            return vec![slots; self.by_layer.len()];
        }
        spread::spread(&spread::hits(&self.curve), &self.expert_bytes, slots, spread::least(slots).max(self.min))
    }

    /// Give layers that gain more from a slot more of them, under the same total of bytes, or all the same again. Returns the slots of
    /// each layer. Which layers gain is learned from the session, so a spread begins when enough was seen and is looked at again from
    /// time to time by [`Experts::respread`].
    ///
    /// # Errors
    /// From the tier; on a device, whose layers have equal slots.
    pub fn set_spread(&mut self, on: bool) -> Result<&[usize], ExpertError> {
        if on && matches!(self.tier, Place::Device(_)) {
            return Err(ExpertError::EqualSlots);
        }
        if std::mem::replace(&mut self.spread, on) != on {
            self.resize(self.slots)?;
        }
        Ok(&self.by_layer)
    }

    /// Slots of each layer while they are spread; `None` if they are to be equal.
    #[must_use]
    pub fn spread_now(&self) -> Option<&[usize]> {
        self.spread.then_some(&*self.by_layer)
    }

    /// At a step boundary: spread the slots anew if it is time and pays. Returns the slots of each layer if they changed.
    ///
    /// # Errors
    /// From the tier.
    pub fn respread(&mut self) -> Result<Option<&[usize]>, ExpertError> {
        if !self.spread || self.decoded[0] < SPREAD_AFTER.max(self.decoded[1] + SPREAD_EVERY) {
            return Ok(None);
        }
        self.decoded[1] = self.decoded[0];
        let (hits, wanted) = (spread::hits(&self.curve), self.wanted(self.slots));
        let rate = |slots: &[usize]| spread::hit_rate(&self.curve, &hits, slots);
        if rate(&wanted) < rate(&self.by_layer) + SPREAD_GAIN {
            return Ok(None);
        }
        self.resize(self.slots)?;
        Ok(Some(&self.by_layer))
    }

    /// Most slots per layer that memory gives: by the plan if there was a budget, by what is free now if there was none.
    #[must_use]
    pub fn slot_limit(&self) -> usize {
        if let Place::Device(tier) = &self.tier {
            return tier.limit().min(self.limit.unwrap_or(usize::MAX)).min(self.scheduler.experts());
        }
        let limit = self.limit.unwrap_or_else(|| {
            let free = (crate::kernels::memory::available() as f64 * GROWTH) as u64;
            let more = usize::try_from(free.checked_div(self.slot_step).unwrap_or(0)).unwrap_or(usize::MAX);
            self.slots.saturating_add(more)
        });
        limit.min(self.scheduler.experts())
    }

    /// Fewest slots per layer.
    #[must_use]
    pub fn min_slots(&self) -> usize {
        self.min
    }
}
