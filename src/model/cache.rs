//! Keys and values of the tokens read so far.

use super::ModelError;
use crate::kernels::attention::{key_at, Cached, Heads, BLOCK};
use crate::kernels::memory::SlotMemory;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The key/value cache of one layer, laid out as [`Cached`] says: values in rows, keys in turned blocks.
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
        let reserve = |dim: usize, positions: usize| {
            let bytes = heads
                .groups
                .checked_mul(dim)
                .and_then(|n| n.checked_mul(positions))
                .and_then(|n| n.checked_mul(if f32 { 4 } else { 2 }))
                .unwrap_or(usize::MAX / 2);
            SlotMemory::reserve(bytes).map_err(|e| ModelError::Memory { context, bytes: bytes as u64, why: e.to_string() })
        };
        let (keys, values) = (reserve(heads.key_dim, context.next_multiple_of(BLOCK))?, reserve(heads.value_dim, context)?);
        Ok(Self { keys, values, heads, context, f32 })
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
        let Heads { groups, key_dim, value_dim, .. } = self.heads;
        let context = self.context;
        let key_of = |t: usize, g: usize| key_at(g, position + t, context, key_dim);
        let value_of = |t: usize, g: usize| (g * context + position + t) * value_dim;
        if self.f32 {
            turn_heads(bytemuck::cast_slice_mut(&mut self.keys), keys, groups, key_dim, key_of, |v| v);
            copy_heads(bytemuck::cast_slice_mut::<u8, f32>(&mut self.values), values, groups, value_dim, value_of, |to, from| {
                to.copy_from_slice(from)
            });
        } else {
            turn_heads(as_f16_mut(&mut self.keys), keys, groups, key_dim, key_of, f16::from_f32);
            copy_heads(as_f16_mut(&mut self.values), values, groups, value_dim, value_of, |to, from| to.convert_from_f32_slice(from));
        }
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

fn as_f16_mut(bytes: &mut [u8]) -> &mut [f16] {
    use half::slice::HalfBitsSliceExt;
    bytemuck::cast_slice_mut::<u8, u16>(bytes).reinterpret_cast_mut()
}

/// Heads of `dim` values, those of token t and group g to `at(t, g)` on.
fn copy_heads<T>(
    to: &mut [T],
    rows: &[f32],
    groups: usize,
    dim: usize,
    at: impl Fn(usize, usize) -> usize,
    copy: impl Fn(&mut [T], &[f32]),
) {
    for (t, row) in rows.chunks_exact((groups * dim).max(1)).enumerate() {
        for (g, head) in row.chunks_exact(dim).enumerate() {
            copy(&mut to[at(t, g)..][..dim], head);
        }
    }
}

/// The same, with [`BLOCK`] between two values of a head.
fn turn_heads<T>(to: &mut [T], rows: &[f32], groups: usize, dim: usize, at: impl Fn(usize, usize) -> usize, as_kept: impl Fn(f32) -> T) {
    for (t, row) in rows.chunks_exact((groups * dim).max(1)).enumerate() {
        for (g, head) in row.chunks_exact(dim).enumerate() {
            for (to, &value) in to[at(t, g)..].iter_mut().step_by(BLOCK).zip(head) {
                *to = as_kept(value);
            }
        }
    }
}
