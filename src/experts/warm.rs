//! The warm start: slots are filled with what earlier sessions used.

use super::heat::Heat;
use super::{ExpertError, Experts, Place};

/// Bytes that a warm start copies between two looks at whether it is still wanted.
const WARM_PIECE: u64 = 64 << 20;

impl Experts {
    /// Fill empty slots with the experts that earlier sessions used most, and go on from their heat. `progress` gets bytes done
    /// and in all after each piece and answers false to give up; then nothing is resident, and `None` is returned. Else how many
    /// experts got a slot.
    ///
    /// # Errors
    /// From the copies. All slots are then forgotten.
    pub fn warm(&mut self, heat: Heat, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<usize>, ExpertError> {
        let ranked: Vec<Vec<u16>> = (0..self.expert_bytes.len()).map(|l| heat.ranked(l)).collect();
        self.heat = heat;
        let free = |l: usize| self.scheduler.slots(l) - self.scheduler.occupied(l);
        let total = ranked.iter().zip(&self.expert_bytes).enumerate().map(|(l, (r, b))| b * r.len().min(free(l)) as u64).sum();
        let (mut done, mut filled) = (0, 0);
        for (layer, experts) in ranked.iter().enumerate() {
            let swaps = self.scheduler.prefill(layer, experts);
            let piece = usize::try_from(WARM_PIECE / self.expert_bytes[layer].max(1)).unwrap_or(usize::MAX).max(1);
            for swaps in swaps.chunks(piece) {
                let copied = match &mut self.tier {
                    Place::Host(tier) => tier.upload(layer, swaps),
                    Place::Device(tier) => tier.fill(layer, swaps),
                };
                match copied {
                    Ok(bytes) => done += bytes,
                    Err(e) => {
                        self.forget();
                        return Err(e);
                    }
                }
                filled += swaps.len();
                if !progress(done, total) {
                    self.forget();
                    return Ok(None);
                }
            }
        }
        Ok(Some(filled - self.settle()))
    }
}
