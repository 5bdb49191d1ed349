//! Experts that come before they are asked for: swaps between the ticks of a token.
//!
//! Couriers take them up while the layers in between are computed. If the layer's tick asks for one, it waits for its copy and computes it from its slot,
//! in launches of its own after those of the table's: always, whether the copy was there in time for the table or not, so that the order of sums, and with
//! it the last bit of a result, does not depend on how quick a courier was. After the tick it is in the table like any other.

use super::VramTier;
use crate::experts::schedule::Swap;
use crate::experts::tier::Grouped;
use crate::experts::ExpertError;
use crate::gpu::Lane;

impl VramTier {
    /// See [`super::super::tier::DeviceTier::bring`].
    pub(super) fn bring_ahead(&mut self, layer: usize, swaps: &[Swap]) -> Result<(), ExpertError> {
        // No kernel of this token has been given the layer's table yet; the next one that is finds the evicted gone.
        self.make_way(layer, swaps)?;
        swaps.iter().for_each(|s| self.reading.expect(&self.store.layers[layer].experts[usize::from(s.expert)]));
        self.put_off(layer, swaps.iter().map(|s| (s.expert, s.slot)), true);
        Ok(())
    }

    /// The evicted leave their slots. A copy into one of these that is still put off is sent first: two couriers would send in any order.
    pub(super) fn make_way(&mut self, layer: usize, swaps: &[Swap]) -> Result<(), ExpertError> {
        let promised = |slot: u16| self.later.iter().any(|due| due.layer == layer && due.slot == slot && due.ready.is_none());
        if swaps.iter().any(|s| promised(s.slot)) {
            self.settle_layer(layer)?;
        }
        for gone in swaps.iter().filter_map(|s| s.evicted) {
            self.later.retain(|due| (due.layer, due.expert) != (layer, gone));
            self.tables.leave(layer, gone);
        }
        Ok(())
    }

    /// Of the groups that a tick asks for, those that came ahead of it, with their slots; the compute lane waits for them. From here on everything that
    /// came ahead of this tick is like the rest of the slots.
    pub(super) fn came(&mut self, layer: usize, grouped: &Grouped) -> Result<Vec<(usize, u16)>, ExpertError> {
        let of_this = |due: &super::Due| due.layer == layer && due.ahead;
        let asked = |expert: u16| grouped.groups.iter().position(|g| g.expert == expert);
        if self.later.iter().any(|due| of_this(due) && due.ready.is_none() && asked(due.expert).is_some()) {
            self.settle_layer(layer)?;
        }
        let mut came = Vec::new();
        for due in self.later.iter_mut().filter(|due| of_this(due)) {
            due.ahead = false;
            if let (Some(group), Some(ready)) = (asked(due.expert), &due.ready) {
                self.device.wait(Lane::Compute, ready)?;
                came.push((group, due.slot));
            }
        }
        self.enter_arrived();
        Ok(came)
    }
}
