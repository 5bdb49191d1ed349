//! The host tier: where every expert's bytes are in the mapped file.

use crate::gguf::{Bytes, GgmlType};

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

/// The routed experts of one layer. All of them have the same three shapes.
#[derive(Clone)]
pub struct LayerExperts {
    /// Gate, up and down.
    pub shape: [Projection; 3],
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
