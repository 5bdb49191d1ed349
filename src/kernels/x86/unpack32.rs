//! Blocks of 32 as bytes.

use super::lanes::{halves, load, splat4};
use crate::kernels::codebook;
use std::arch::x86_64::*;

/// One type with blocks of 32, as `d * (q - ZERO) + m`.
///
/// # Safety
/// All functions need AVX2 and F16C, and a whole readable block at `b`, which starts with an f16 `d` (unless
/// [`Type32::floats`] says otherwise) and, if `OFFSET`, an f16 `m`.
pub(super) trait Type32 {
    const BYTES: usize;
    /// Elements are signed bytes.
    const SIGNED: bool;
    const ZERO: i32;
    const OFFSET: bool;
    unsafe fn quants(b: *const u8) -> __m256i;
    /// `d` and `m` (or zero) of the blocks at byte `at` of eight rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn floats(rows: &[*const u8; 8], at: usize) -> (__m256, __m256) {
        (halves(rows, at), if Self::OFFSET { halves(rows, at + 2) } else { _mm256_setzero_ps() })
    }
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;

/// Low nibbles of 16 bytes, then the high ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibbles(p: *const u8) -> __m256i {
    let v = _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast()));
    let v = _mm256_srlv_epi32(v, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    _mm256_and_si256(v, _mm256_set1_epi8(15))
}

/// Bit `i` of four bytes, as 16 in byte `i`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fifth_bits(p: *const u8) -> __m256i {
    let byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let v = _mm256_and_si256(_mm256_shuffle_epi8(splat4(p), byte), bit);
    _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16))
}

macro_rules! nibble_type {
    ($name:ident, bytes $bytes:literal, zero $zero:literal, offset $offset:literal, |$b:ident| $quants:expr) => {
        impl Type32 for $name {
            const BYTES: usize = $bytes;
            const SIGNED: bool = false;
            const ZERO: i32 = $zero;
            const OFFSET: bool = $offset;
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn quants($b: *const u8) -> __m256i {
                $quants
            }
        }
    };
}

nibble_type!(Q4_0, bytes 18, zero 8, offset false, |b| nibbles(b.add(2)));
nibble_type!(Q4_1, bytes 20, zero 0, offset true, |b| nibbles(b.add(4)));
nibble_type!(Q5_0, bytes 22, zero 16, offset false, |b| _mm256_or_si256(nibbles(b.add(6)), fifth_bits(b.add(2))));
nibble_type!(Q5_1, bytes 24, zero 0, offset true, |b| _mm256_or_si256(nibbles(b.add(8)), fifth_bits(b.add(4))));

impl Type32 for Q8_0 {
    const BYTES: usize = 34;
    const SIGNED: bool = true;
    const ZERO: i32 = 0;
    const OFFSET: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quants(b: *const u8) -> __m256i {
        load(b.add(2))
    }
}

pub(super) struct IQ4NL;
pub(super) struct MXFP4;

/// The signed bytes that a table has for the nibbles at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn looked_up(p: *const u8, table: &[i8; 16]) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), nibbles(p))
}

impl Type32 for IQ4NL {
    const BYTES: usize = 18;
    const SIGNED: bool = true;
    const ZERO: i32 = 0;
    const OFFSET: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quants(b: *const u8) -> __m256i {
        looked_up(b.add(2), &codebook::IQ4)
    }
}

impl Type32 for MXFP4 {
    const BYTES: usize = 17;
    const SIGNED: bool = true;
    const ZERO: i32 = 0;
    const OFFSET: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quants(b: *const u8) -> __m256i {
        looked_up(b.add(1), &codebook::E2M1)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn floats(rows: &[*const u8; 8], at: usize) -> (__m256, __m256) {
        let e = |r: usize| i32::from(*rows[r].add(at));
        let e = _mm256_setr_epi32(e(0), e(1), e(2), e(3), e(4), e(5), e(6), e(7));
        // As `codebook::e8m0_half`: the two lowest powers are subnormal.
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
        let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
        let small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
        (_mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small)), _mm256_setzero_ps())
    }
}
