//! Sixteen weight rows, one block of 256 at a time, widened, scaled and interleaved for many tokens.
//!
//! Two neighbouring 16-bit elements of each row lie side by side, so that two activations go to all rows by one broadcast, and no
//! sums across lanes are needed.

use super::lanes::{interleave4, prefetch, transpose8, widen};
use super::unpack256::{Decoded, Mins, Type256};
use super::Rows;
use std::arch::x86_64::*;

/// Blocks of a panel: 512 columns of sixteen rows are 17 KiB, which leaves room for activations in the first cache.
pub(super) const PANEL: usize = 2;

/// One block of sixteen rows, interleaved: the first eight rows in the first vector of each pair.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Tile256 {
    /// Scale times element: two elements of each row, 128 times. Every 32 elements give 16 pairs: of elements `4s` and `4s + 2`
    /// at `2 * s`, of `4s + 1` and `4s + 3` at `2 * s + 1`.
    pub(super) w: [[__m256i; 2]; 128],
    /// Mins of two neighbouring groups of 16 for every row.
    pub(super) min: [[__m256i; 2]; 8],
    pub(super) d: [__m256; 2],
    pub(super) dmin: [__m256; 2],
}

/// Panel memory of a thread.
pub(super) struct Panel256(pub(super) Box<[Tile256]>);

impl Default for Panel256 {
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
pub(super) unsafe fn fill<T: Type256>(tile: &mut Tile256, h: usize, rows: &Rows, at: usize) {
    let zero = _mm256_setzero_si256();
    let mut tables = [[zero; 8]; 2];
    let mut decoded = [Decoded::ZERO; 8];
    let mut from = rows.at;
    for r in 0..8 {
        let block = rows.at[r].add(at);
        prefetch(block.wrapping_add(rows.ahead), T::BYTES);
        if T::CODED {
            (tables[0][r], tables[1][r]) = (T::decode(block, &mut decoded[r]), zero);
            from[r] = decoded[r].0.as_ptr();
        } else {
            (tables[0][r], tables[1][r]) = T::tables(block);
            from[r] = block;
        }
    }
    let scale = pairs(transpose8(tables[0]));
    // Interleaved first and unpacked then: packed bytes are fewer to move.
    for half in 0..2 {
        let mut pieces = [[zero; 8]; 4];
        for (i, &piece) in T::PIECES.iter().enumerate() {
            for (k, v) in interleave4(&from, piece + 16 * half).into_iter().enumerate() {
                pieces[k][i] = v;
            }
        }
        for (k, piece) in pieces.iter().enumerate() {
            for (j, v) in T::elements(piece).into_iter().enumerate() {
                let s = 8 * j + 4 * half + k;
                // A vector's 32 elements are two groups of 16 (`half` says which), or one of 32.
                let scale = if T::SIXTEENS { scale[2 * j + half] } else { scale[j] };
                for (i, v) in widen(v, T::SIGNED).into_iter().enumerate() {
                    tile.w[2 * s + i][h] = _mm256_mullo_epi16(v, scale);
                }
            }
        }
    }
    if T::MINS != Mins::None {
        if T::SIXTEENS {
            let min = transpose8(tables[1]);
            for k in 0..8 {
                tile.min[k][h] = min[k];
            }
        } else {
            for k in 0..8 {
                tile.min[k][h] = scale[8 + k];
            }
        }
    }
    (tile.d[h], tile.dmin[h]) = T::floats(&rows.at, at);
}

/// From words in pairs, each word twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs(v: [__m256i; 8]) -> [__m256i; 16] {
    let mut out = [_mm256_setzero_si256(); 16];
    for k in 0..8 {
        let low = _mm256_and_si256(v[k], _mm256_set1_epi32(0xffff));
        out[2 * k] = _mm256_or_si256(low, _mm256_slli_epi32::<16>(low));
        let high = _mm256_srli_epi32::<16>(v[k]);
        out[2 * k + 1] = _mm256_or_si256(high, _mm256_slli_epi32::<16>(high));
    }
    out
}
