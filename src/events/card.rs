//! What is loaded, and the memory plan that the load followed.

use super::Sampling;
use serde::{Deserialize, Serialize};

/// What is loaded, for titles, the memory pane and the cursor card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// `general.name` or the file's stem.
    pub name: String,
    /// `general.architecture`.
    pub arch: String,
    /// A toy that must be labelled as one.
    pub toy: bool,
    /// Layers that have routed experts, in order of appearance; index = "layer" everywhere in the telemetry. What a person reads is [`ModelCard::blocks`].
    pub layers: usize,
    /// Routed experts per layer.
    pub experts: usize,
    /// Experts that one token uses in a layer.
    pub top_k: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Context length granted, in tokens.
    pub context: usize,
    /// Bytes of one expert, per layer (types may differ between layers).
    pub expert_bytes: Vec<u64>,
    /// The plan that the load followed.
    pub plan: Plan,
    /// Sampling defaults of the file (`general.sampling.*`) laid over the program's.
    pub sampling: Sampling,
    /// The template knows `enable_thinking`, or `thinking`.
    pub can_think: bool,
    /// The template knows `reasoning_effort`.
    #[serde(default)]
    pub has_effort: bool,
    /// The file has no chat template and the built-in ChatML is used.
    pub template_fallback: bool,
    /// What computes: "CPU, AVX2, 2 threads".
    pub device: String,
}

impl ModelCard {
    /// No routed experts: every weight is used for every token, and there is nothing to rotate.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.layers == 0 || self.experts == 0
    }

    /// The numbers of the layers in the model. They are those of the plan, which recordings have, too; a plan that lacks some or
    /// contradicts itself says nothing, and layers are then numbered from 0.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        let slots = &self.plan.slot_bytes;
        let numbers = || slots.iter().map(|s| u16::try_from(s.layer).ok()).collect::<Option<Vec<u16>>>();
        let sound = slots.len() == self.layers && slots.is_sorted_by(|a, b| a.layer < b.layer);
        Blocks(sound.then(numbers).flatten().unwrap_or_default())
    }
}

/// Which block of the model each layer with experts is. Telemetry counts the layers that have experts, from 0; people count all
/// blocks, and where the first ones are dense the two differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks(Vec<u16>);

impl Blocks {
    /// The block's number, by the index of the layer; the index itself where nothing is known.
    #[must_use]
    pub fn of(&self, layer: usize) -> usize {
        self.0.get(layer).map_or(layer, |&block| usize::from(block))
    }
}

/// The memory plan, computed and shown before anything is loaded. All sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The budget that was kept to; `None` if none was asked for.
    pub budget: Option<u64>,
    /// Weights that every token uses.
    pub trunk: u64,
    /// The part of `trunk` of which a token reads one row only: embeddings that are not the head as well.
    #[serde(default)]
    pub looked_up: u64,
    /// Keys, values and recurrent state at the granted context.
    pub cache: u64,
    /// Activations and logits, and in host memory the process itself.
    pub buffers: u64,
    /// The part of `buffers` that is the process, with its tokenizer; 0 on a device, and in recordings of before.
    #[serde(default)]
    pub program: u64,
    /// Pages of the file that experts without a slot hold at a time in host memory, as far as they are counted: under a budget no more, without one the
    /// system may leave more there while nobody needs the room. 0 on a device, and in recordings of before, whose `buffers` contain it.
    #[serde(default)]
    pub window: u64,
    /// All slots of all layers.
    pub slots: u64,
    /// One slot in every layer.
    pub slot_step: u64,
    /// All routed experts of the file.
    pub experts: u64,
    /// Slots per layer.
    pub slots_per_layer: usize,
    /// Fewest slots per layer that can be set.
    pub min_slots: usize,
    /// Most slots per layer: the number of experts.
    pub max_slots: usize,
    /// Context length in tokens.
    pub context: usize,
    /// The part of `cache` that recurrent states and the copies of them take, whatever the context.
    #[serde(default)]
    pub states: u64,
    /// One slot, by layer: files mix types, so layers differ.
    #[serde(default)]
    pub slot_bytes: Vec<LayerSlot>,
    /// The sizes above are of this device's memory; `None`: of host memory.
    #[serde(default)]
    pub device: Option<String>,
    /// Host memory that the process keeps beside a device: tokenizer, embedding rows, page-locked buffers, the program itself.
    #[serde(default)]
    pub host: u64,
}

impl Plan {
    /// Everything that is counted, of the memory that the plan is of; [`Plan::host`] comes beside it.
    #[must_use]
    pub fn together(&self) -> u64 {
        [self.trunk, self.cache, self.buffers, self.window, self.slots].into_iter().fold(0, u64::saturating_add)
    }
}

/// One slot of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSlot {
    /// Block number in the file.
    pub layer: usize,
    /// Bytes of one of its experts: gate, up and down.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use crate::trace::player::card_of;
    use crate::trace::routes::RoutesHead;

    #[test]
    fn layers_have_the_numbers_of_the_plan_unless_it_contradicts_itself() {
        let mut card = card_of(&RoutesHead { layers: 3, experts: 4, ..RoutesHead::default() }, 1);
        let mut numbers = |blocks: &[usize]| {
            card.plan.slot_bytes = blocks.iter().map(|&layer| super::LayerSlot { layer, bytes: 1 }).collect();
            [0, 1, 2, 3].map(|layer| card.blocks().of(layer))
        };
        assert_eq!(numbers(&[1, 2, 46]), [1, 2, 46, 3], "a layer that is not there has its index");
        for odd in [&[][..], &[1, 2], &[1, 2, 3, 4], &[1, 1, 2], &[2, 1, 3], &[1, 2, 65_536], &[1, 2, usize::MAX]] {
            assert_eq!(numbers(odd), [0, 1, 2, 3], "{odd:?}");
        }
    }
}
