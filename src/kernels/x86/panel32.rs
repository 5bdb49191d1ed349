//! Sixteen weight rows, one block of 32 at a time, widened and interleaved for many tokens; see [`super::panel256`].

use super::lanes::{prefetch, transpose8, widen};
use super::unpack32::Type32;
use super::Rows;
use std::arch::x86_64::*;

/// Blocks of a panel: 512 columns.
pub(super) const PANEL: usize = 16;

/// One block of sixteen rows, interleaved: the first eight rows in the first vector of each pair.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Tile32 {
    /// Two elements of each row, 16 times: of elements `4s` and `4s + 2` at `2 * s`, of `4s + 1` and `4s + 3` at `2 * s + 1`.
    pub(super) w: [[__m256i; 2]; 16],
    pub(super) d: [__m256; 2],
    pub(super) m: [__m256; 2],
}

/// Panel memory of a thread.
pub(super) struct Panel32(pub(super) Box<[Tile32]>);

impl Default for Panel32 {
    fn default() -> Self {
        // SAFETY: all fields are plain vectors, for which zero is a value.
        Self(vec![unsafe { std::mem::zeroed() }; PANEL].into_boxed_slice())
    }
}

/// Unpack and interleave the block at byte `at` of eight rows, as half `h` of the tile.
///
/// # Safety
/// AVX2 and F16C; a whole block of type `T` at byte `at` of every row.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn fill<T: Type32>(tile: &mut Tile32, h: usize, rows: &Rows, at: usize) {
    let mut q = [_mm256_setzero_si256(); 8];
    for r in 0..8 {
        let block = rows.at[r].add(at);
        prefetch(block.wrapping_add(rows.ahead), 1);
        q[r] = T::quants(block);
    }
    let zero = _mm256_set1_epi16(T::ZERO as i16);
    for (s, v) in transpose8(q).into_iter().enumerate() {
        for (i, v) in widen(v, T::SIGNED).into_iter().enumerate() {
            tile.w[2 * s + i][h] = if T::ZERO == 0 { v } else { _mm256_sub_epi16(v, zero) };
        }
    }
    (tile.d[h], tile.m[h]) = T::floats(&rows.at, at);
}
