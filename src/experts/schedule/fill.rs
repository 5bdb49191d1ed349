//! Empty slots filled without a routing: from what earlier sessions used, or by number.

use super::{Scheduler, Swap, EMPTY};
use crate::events::NO_SLOT;
use crate::experts::measures::ceiling;

impl Scheduler {
    /// Give empty slots of a layer to these experts, the most worthy first, as far as there are slots, as if each had just been
    /// used once, the most worthy last. What has a slot is passed over. The caller carries the swaps out.
    pub fn prefill(&mut self, layer: usize, experts: &[u16]) -> Vec<Swap> {
        let base = layer * self.experts;
        let mut swaps = Vec::new();
        let Some(slots) = self.expert_in.get_mut(layer) else { return swaps };
        let ceiling = ceiling(1.0, slots.len());
        let mut newcomers = experts.iter();
        for (slot, resident) in slots.iter_mut().enumerate().filter(|(_, resident)| **resident == EMPTY) {
            let absent = |e: &&u16| usize::from(**e) < self.experts && self.slot_of[base + usize::from(**e)] == NO_SLOT;
            let Some(&expert) = newcomers.find(absent) else { break };
            *resident = expert;
            self.slot_of[base + usize::from(expert)] = slot as u16;
            self.occupied[layer] += 1;
            swaps.push(Swap { expert, slot: slot as u16, evicted: None });
        }
        for swap in swaps.iter().rev() {
            self.measures.note(layer, swap.expert, 1, ceiling);
        }
        swaps
    }

    /// Give an empty slot of a layer to an expert that has none, by number, although nobody has used it. `None` if there is no such slot or no such
    /// expert. The caller carries the swap out.
    pub fn fill_up(&mut self, layer: usize) -> Option<Swap> {
        if self.occupied(layer) == self.slots(layer) {
            return None;
        }
        let base = layer * self.experts;
        let slot = self.expert_in[layer].iter().position(|&e| e == EMPTY)?;
        let expert = (0..self.experts).find(|e| self.slot_of[base + e] == NO_SLOT)? as u16;
        self.expert_in[layer][slot] = expert;
        self.slot_of[base + usize::from(expert)] = slot as u16;
        self.occupied[layer] += 1;
        Some(Swap { expert, slot: slot as u16, evicted: None })
    }
}
