//! Another number of slots: who stays, who moves, who leaves.

use super::{Scheduler, EMPTY};
use crate::events::NO_SLOT;
use crate::experts::policy::Worth;

/// A resident changes its slot because its old one goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Layer index.
    pub layer: usize,
    /// Who moves.
    pub expert: u16,
    /// Slot that goes away.
    pub from: u16,
    /// Slot that remains; it is empty, or its resident is among the evicted.
    pub to: u16,
}

/// A resident loses its slot because there are fewer of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evict {
    /// Layer index.
    pub layer: usize,
    /// Who leaves.
    pub expert: u16,
    /// The slot it had.
    pub slot: u16,
}

/// What a change of the slot count asks of a tier: first forget the evicted, then carry out the moves (in any order:
/// no move reads a slot that another writes), then give back the slots beyond the new count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Residents that leave, least worthy of each layer first.
    pub evicted: Vec<Evict>,
    /// Residents that stay in another slot.
    pub moves: Vec<Move>,
}

impl Scheduler {
    /// Change the slots of every layer to `slots` (at most one per expert). See [`Scheduler::resize_layers`].
    pub fn resize(&mut self, slots: usize) -> Resize {
        self.resize_layers(&vec![slots; self.layers()])
    }

    /// Change the slots of each layer; layers beyond the list keep theirs. Growth adds empty slots and moves nobody.
    /// Shrinking keeps the most worthy residents by the policy's order and moves those whose slot goes away.
    pub fn resize_layers(&mut self, slots: &[usize]) -> Resize {
        let mut resize = Resize::default();
        for (layer, &wanted) in slots.iter().enumerate().take(self.layers()) {
            self.resize_layer(layer, wanted.min(self.experts), &mut resize);
        }
        resize
    }

    fn resize_layer(&mut self, layer: usize, slots: usize, resize: &mut Resize) {
        let base = layer * self.experts;
        if slots < self.expert_in[layer].len() && self.occupied[layer] > slots {
            let mut residents: Vec<Worth> =
                self.residents(layer).map(|(_, expert)| self.measures.worth(self.policy, layer, expert)).collect();
            residents.sort_unstable();
            residents.truncate(self.occupied[layer] - slots);
            for Worth { expert, .. } in residents {
                let slot = std::mem::replace(&mut self.slot_of[base + usize::from(expert)], NO_SLOT);
                self.expert_in[layer][usize::from(slot)] = EMPTY;
                self.occupied[layer] -= 1;
                resize.evicted.push(Evict { layer, expert, slot });
            }
        }
        let mut free = 0;
        for from in slots..self.expert_in[layer].len() {
            let expert = self.expert_in[layer][from];
            if expert == EMPTY {
                continue;
            }
            while self.expert_in[layer][free] != EMPTY {
                free += 1;
            }
            self.expert_in[layer][free] = expert;
            self.slot_of[base + usize::from(expert)] = free as u16;
            resize.moves.push(Move { layer, expert, from: from as u16, to: free as u16 });
        }
        self.expert_in[layer].resize(slots, EMPTY);
    }
}
