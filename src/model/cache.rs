//! Keys and values of the tokens read so far.

use super::ModelError;
use crate::kernels::attention::{Cached, Heads};
use crate::kernels::memory::SlotMemory;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The key/value cache of one layer: `[groups, context, dim]` each, so that the keys of one head lie in a row.
/// Memory is reserved for the whole context and becomes resident as tokens arrive.
pub struct KvCache {
    keys: SlotMemory,
    values: SlotMemory,
    heads: Heads,
    context: usize,
    f32: bool,
}

impl KvCache {
    /// Room for `context` tokens, in 32-bit floats if `f32` and in 16-bit floats otherwise.
    ///
    /// # Errors
    /// The operating system has no room for it.
    pub fn new(heads: Heads, context: usize, f32: bool) -> Result<Self, ModelError> {
        let reserve = |dim: usize| {
            let bytes = heads
                .groups
                .checked_mul(dim)
                .and_then(|n| n.checked_mul(context))
                .and_then(|n| n.checked_mul(if f32 { 4 } else { 2 }))
                .unwrap_or(usize::MAX / 2);
            SlotMemory::reserve(bytes).map_err(|e| ModelError::Memory { context, bytes: bytes as u64, why: e.to_string() })
        };
        Ok(Self { keys: reserve(heads.key_dim)?, values: reserve(heads.value_dim)?, heads, context, f32 })
    }

    /// Bytes that one token takes.
    #[must_use]
    pub fn token_bytes(heads: Heads, f32: bool) -> u64 {
        (heads.groups * (heads.key_dim + heads.value_dim) * if f32 { 4 } else { 2 }) as u64
    }

    /// Store keys `[tokens, groups * key_dim]` and values `[tokens, groups * value_dim]` at `position..`.
    ///
    /// The caller has checked that they fit into the context.
    pub fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let (groups, context) = (self.heads.groups, self.context);
        store(&mut self.keys, self.f32, keys, groups, self.heads.key_dim, context, position);
        store(&mut self.values, self.f32, values, groups, self.heads.value_dim, context, position);
    }

    /// What the attention kernel reads.
    #[must_use]
    pub fn view(&self) -> Cached<'_> {
        if self.f32 {
            Cached::F32 { keys: bytemuck::cast_slice(&self.keys), values: bytemuck::cast_slice(&self.values) }
        } else {
            Cached::F16 { keys: as_f16(&self.keys), values: as_f16(&self.values) }
        }
    }

    /// Whether it keeps 32-bit floats.
    #[must_use]
    pub fn is_f32(&self) -> bool {
        self.f32
    }

    /// Room in tokens.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }
}

fn as_f16(bytes: &[u8]) -> &[f16] {
    use half::slice::HalfBitsSliceExt;
    bytemuck::cast_slice::<u8, u16>(bytes).reinterpret_cast()
}

fn store(memory: &mut SlotMemory, f32: bool, rows: &[f32], groups: usize, dim: usize, context: usize, position: usize) {
    use half::slice::HalfBitsSliceExt;
    for (t, row) in rows.chunks_exact((groups * dim).max(1)).enumerate() {
        for (g, head) in row.chunks_exact(dim).enumerate() {
            let at = (g * context + position + t) * dim;
            if f32 {
                bytemuck::cast_slice_mut::<u8, f32>(memory)[at..at + dim].copy_from_slice(head);
            } else {
                let halves: &mut [f16] = bytemuck::cast_slice_mut::<u8, u16>(memory).reinterpret_cast_mut();
                halves[at..at + dim].convert_from_f32_slice(head);
            }
        }
    }
}
