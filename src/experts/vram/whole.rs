//! Tokens of which every expert is in a slot. The device's own tables say where, so the products of all layers are queued, or replayed, before the host
//! knows any routing; there is nothing to send up and nothing for the host to compute.

use super::VramTier;
use crate::experts::tier::DeviceRows;
use crate::experts::ExpertError;
use crate::gpu::Lane;

impl VramTier {
    /// See [`super::super::tier::DeviceTier::settled`]. What was put off, or could not be sent, is in no table.
    pub(super) fn all_in_slots(&self) -> Option<u64> {
        self.tables.is_whole().then_some(self.moved)
    }

    /// See [`super::super::tier::DeviceTier::queue`].
    pub(super) fn queue_layer(&self, layer: usize, rows: &DeviceRows) -> Result<(), ExpertError> {
        Ok(self.work.few(&*self.device, &self.slots_of(layer), rows, rows.slots, &[])?)
    }

    /// See [`super::super::tier::DeviceTier::queued`]. Nothing may overwrite a slot before what was queued has read it.
    pub(super) fn end_token(&mut self) -> Result<(), ExpertError> {
        self.whole[0] = true;
        self.used.fill(Some(self.device.mark(Lane::Compute)?));
        Ok(())
    }
}
