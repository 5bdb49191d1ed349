//! Keys and values of the tokens read so far.

use super::ModelError;
use crate::kernels::attention::{key_at, value_at, Cached, Heads, BLOCK};
use crate::kernels::memory::SlotMemory;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Positions behind its window that a layer keeps, so that a chat can go back: by what a model has thought and said in a turn, and a long question. Whoever goes back further has the whole context
/// read again.
pub const GOES_BACK: usize = 4096;

/// Positions that a layer keeps which sees so many of them, its own the last, and goes back by so many more; all `context` of them if that is no more.
#[must_use]
pub fn kept(window: usize, goes_back: usize, context: usize) -> usize {
    window.saturating_add(goes_back).div_ceil(BLOCK).saturating_mul(BLOCK).min(context)
}

/// Behind its window on a device, whose memory is dearer, and which reads a context again in less time.
pub const GOES_BACK_ON_DEVICE: usize = 2048;

/// Which positions a layer has that keeps the newest `room` of them.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    room: usize,
    /// There is room for the whole context.
    whole: bool,
    /// The first position that has not given way to a newer one.
    oldest: usize,
}

impl Kept {
    /// None so far.
    #[must_use]
    pub fn new(room: usize, context: usize) -> Self {
        Self { room, whole: room >= context, oldest: 0 }
    }

    /// `begin..end` are written, and take the places of the oldest.
    pub fn written(&mut self, begin: usize, end: usize) {
        // An empty context holds nothing old.
        self.oldest = if begin == 0 { 0 } else { self.oldest }.max(end.saturating_sub(self.room));
    }

    /// Most tokens that may be written before their queries are answered, each of which sees `window` positions, or all.
    #[must_use]
    pub fn at_once(&self, window: Option<usize>) -> usize {
        match window {
            Some(window) if !self.whole => (self.room + 1).saturating_sub(window).max(1),
            _ => self.room.max(1),
        }
    }

    /// The nearest length at or below `len` that the context can go back to: there, or nowhere but to the beginning.
    #[must_use]
    pub fn reachable(&self, len: usize, window: Option<usize>) -> usize {
        let first = window.map_or(0, |window| (len + 1).saturating_sub(window));
        if first >= self.oldest {
            len
        } else {
            0
        }
    }
}

/// The key/value cache of one layer, laid out as [`Cached`] says: values in rows, keys in turned blocks.
/// Memory is reserved for all positions that it keeps and becomes resident as tokens arrive. Where those are fewer than the context has, the newest take the places of the oldest.
pub struct KvCache {
    keys: SlotMemory,
    values: SlotMemory,
    heads: Heads,
    kept: Kept,
    f32: bool,
}

impl KvCache {
    /// Room for `room` positions, those of the whole context or as many as [`kept`] says, in 32-bit floats if `f32` and in 16-bit floats otherwise.
    ///
    /// # Errors
    /// The operating system has no room for it.
    pub fn new(heads: Heads, context: usize, room: usize, f32: bool) -> Result<Self, ModelError> {
        let reserve = |dim: usize, positions: usize| {
            let bytes = heads
                .groups
                .checked_mul(dim)
                .and_then(|n| n.checked_mul(positions))
                .and_then(|n| n.checked_mul(if f32 { 4 } else { 2 }))
                .unwrap_or(usize::MAX / 2);
            SlotMemory::reserve(bytes).map_err(|e| ModelError::Memory { context, bytes: bytes as u64, why: e.to_string() })
        };
        let (keys, values) = (reserve(heads.key_dim, room.next_multiple_of(BLOCK))?, reserve(heads.value_dim, room)?);
        Ok(Self { keys, values, heads, kept: Kept::new(room, context), f32 })
    }

    /// Bytes that one token takes.
    #[must_use]
    pub fn token_bytes(heads: Heads, f32: bool) -> u64 {
        (heads.groups * (heads.key_dim + heads.value_dim) * if f32 { 4 } else { 2 }) as u64
    }

    /// Store keys `[tokens, groups * key_dim]` and values `[tokens, groups * value_dim]` at `position..`.
    ///
    /// The caller has checked that they fit into the context, and writes no more at a time than [`Kept::at_once`].
    pub fn write(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let Heads { groups, key_dim, value_dim, .. } = self.heads;
        let room = self.kept.room;
        self.kept.written(position, position + keys.len().checked_div(groups * key_dim).unwrap_or(0));
        let key_of = |t: usize, g: usize| key_at(g, position + t, room, key_dim);
        let value_of = |t: usize, g: usize| value_at(g, position + t, room, value_dim);
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

    /// Room in positions.
    #[must_use]
    pub fn room(&self) -> usize {
        self.kept.room
    }

    /// Which positions it has.
    #[must_use]
    pub fn kept(&self) -> Kept {
        self.kept
    }
}

pub(super) fn as_f16(bytes: &[u8]) -> &[f16] {
    use half::slice::HalfBitsSliceExt;
    bytemuck::cast_slice::<u8, u16>(bytes).reinterpret_cast()
}

pub(super) fn as_f16_mut(bytes: &mut [u8]) -> &mut [f16] {
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

#[cfg(test)]
mod tests;
