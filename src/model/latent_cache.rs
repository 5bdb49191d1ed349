//! What latent attention keeps of the tokens read so far: one row per token, which is key and value of all heads.

use super::cache::{as_f16, as_f16_mut};
use super::ModelError;
use crate::kernels::attention::Cached;
use crate::kernels::memory::SlotMemory;
use half::slice::HalfFloatSliceExt;

/// Rows `[room, width]`, in 32-bit or 16-bit floats. Memory is reserved for all of them and becomes resident as tokens arrive.
pub struct LatentCache {
    rows: SlotMemory,
    width: usize,
    room: usize,
    f32: bool,
}

impl LatentCache {
    /// Room for `room` positions of `width` values.
    ///
    /// # Errors
    /// The operating system has no room for it.
    pub fn new(width: usize, room: usize, f32: bool) -> Result<Self, ModelError> {
        let bytes = usize::try_from(Self::token_bytes(width, f32)).ok().and_then(|n| n.checked_mul(room)).unwrap_or(usize::MAX / 2);
        let memory = |e: std::io::Error| ModelError::Memory { context: room, bytes: bytes as u64, why: e.to_string() };
        Ok(Self { rows: SlotMemory::reserve(bytes).map_err(memory)?, width, room, f32 })
    }

    /// Bytes that one token takes.
    #[must_use]
    pub fn token_bytes(width: usize, f32: bool) -> u64 {
        width as u64 * if f32 { 4 } else { 2 }
    }

    /// Store rows `[tokens, width]` at `position..`; the caller has checked that they fit.
    pub fn write(&mut self, position: usize, rows: &[f32]) {
        let at = position * self.width..position * self.width + rows.len();
        match self.f32 {
            true => bytemuck::cast_slice_mut(&mut self.rows)[at].copy_from_slice(rows),
            false => as_f16_mut(&mut self.rows)[at].convert_from_f32_slice(rows),
        }
    }

    /// What the attention kernel reads.
    #[must_use]
    pub fn view(&self) -> Cached<'_> {
        match self.f32 {
            true => Cached::Rows32(bytemuck::cast_slice(&self.rows)),
            false => Cached::Rows16(as_f16(&self.rows)),
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
        self.room
    }
}
