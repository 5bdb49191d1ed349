//! The host tier: where every expert's bytes are in the mapped file.

use crate::gguf::{Advice, Bytes, GgmlType};
use crate::kernels::rows::Activation;
use std::sync::Arc;

/// Shape and type of one of the three maps of an expert: `[rows, cols]`, `cols` contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Element type.
    pub ty: GgmlType,
    /// Output size.
    pub rows: usize,
    /// Input size.
    pub cols: usize,
}

impl Projection {
    /// Bytes of the map.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows * (self.cols / self.ty.block_elems()) * self.ty.block_bytes()
    }
}

/// Gate, up and down of one expert: ranges of the file, which need not lie together.
pub type HostExpert = [Bytes; 3];

/// Has the system begin to read experts from their disk before they are needed.
///
/// A page fault reads as little as one page or as much as the disk's read-ahead (many MiB on some), and whoever faults waits for it; told the whole range, the
/// system keeps the disk busy. Telling costs some 15 µs per expert even when all is in memory. So a look at two pages is taken first, and while
/// experts that lately were looked at were there, nothing is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadAhead {
    /// Experts to tell of without a look, because one was found to be on the disk.
    cold: u32,
}

impl ReadAhead {
    /// Experts for which one that was not in memory speaks.
    const CAUTION: u32 = 512;

    /// Begin to read this expert, if it may have to be read.
    pub fn expect(&mut self, expert: &HostExpert) {
        let there = expert[0].seems_resident();
        self.cold = if there { self.cold.saturating_sub(1) } else { Self::CAUTION };
        if self.cold > 0 {
            for part in expert {
                // A failure is not told: the part is then read by faults.
                let _ = part.advise(Advice::WillNeed);
            }
        }
    }
}

/// What is added to the products of gate and up of every expert of a layer. A thousandth of the weights, it stays with the trunk. What belongs to down
/// does not depend on the product, and is the model's to add.
#[derive(Clone, Debug, PartialEq)]
pub struct Biases {
    values: Vec<f32>,
    ff: usize,
}

impl Biases {
    /// Of gate and up, `[experts, ff]` each.
    #[must_use]
    pub fn new(gate: &[f32], up: &[f32], ff: usize) -> Self {
        let values = gate.chunks_exact(ff).zip(up.chunks_exact(ff)).flat_map(|(gate, up)| gate.iter().chain(up)).copied().collect();
        Self { values, ff }
    }

    /// Of one expert: gate and up.
    #[must_use]
    pub fn expert(&self, expert: u16) -> (&[f32], &[f32]) {
        self.values[usize::from(expert) * 2 * self.ff..][..2 * self.ff].split_at(self.ff)
    }

    /// `[experts, gate | up, ff]`
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// The routed experts of one layer. All of them have the same three shapes.
#[derive(Clone)]
pub struct LayerExperts {
    /// Gate, up and down.
    pub shape: [Projection; 3],
    /// What gate and up become together.
    pub activation: Activation,
    /// Shared by all copies of the store.
    pub biases: Option<Arc<Biases>>,
    /// By expert id.
    pub experts: Vec<HostExpert>,
}

impl LayerExperts {
    /// Bytes of one expert.
    #[must_use]
    pub fn expert_bytes(&self) -> u64 {
        self.shape.iter().map(|p| p.bytes() as u64).sum()
    }
}

/// The routed experts of all layers that have some.
#[derive(Clone)]
pub struct ExpertStore {
    /// In order of appearance in the model.
    pub layers: Vec<LayerExperts>,
    /// Experts per layer.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Width of the hidden state.
    pub hidden: usize,
}

impl ExpertStore {
    /// Bytes of one expert, per layer.
    #[must_use]
    pub fn expert_bytes(&self) -> Vec<u64> {
        self.layers.iter().map(LayerExperts::expert_bytes).collect()
    }

    /// Width inside the widest expert.
    #[must_use]
    pub fn ff(&self) -> usize {
        self.layers.iter().map(|l| l.shape[0].rows).max().unwrap_or(0)
    }
}
