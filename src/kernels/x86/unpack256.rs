//! Blocks of 256 as bytes with 16-bit scales.
//!
//! Here every type has the form `d * (sum of scale[g] * q) - (d or dmin) * (sum of min[g])`. Types whose bits count from below
//! zero stay unsigned; the zero point returns as a min of `zero * scale`, exactly, in integers (which may wrap on the way).

use super::lanes::{half_pairs, halves};
use std::arch::x86_64::*;

/// How the mins act.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mins {
    /// There are none.
    None,
    /// `dmin * min[g]`, with its own float scale.
    Scaled,
    /// `d * min[g]`: part of the integer dot.
    Integer,
}

/// The elements of one block as bytes, in order, for types that look them up.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
pub(super) struct Decoded(pub(super) [u8; 256]);

impl Decoded {
    pub(super) const ZERO: Self = Self([0; 256]);
}

/// One type with blocks of 256, with `|scale * q| <= 8192`.
///
/// # Safety
/// The functions need AVX2 and F16C, and a whole readable block at `b`.
pub(super) trait Type256 {
    /// Bytes of a block.
    const BYTES: usize;
    /// Scales cover 16 elements (else 32).
    const SIXTEENS: bool;
    const MINS: Mins;
    /// Elements are signed bytes.
    const SIGNED: bool = false;
    /// Elements come from [`Type256::decode`] instead of [`Type256::elements`] and [`Type256::tables`].
    const CODED: bool = false;
    /// Where the f16 `d` is; `dmin` follows it.
    const D: usize;
    /// Where the 32-byte pieces are that hold the elements.
    const PIECES: &'static [usize];

    /// The elements in order, 32 in each vector, from the pieces. Works byte by byte, so the pieces may as well be
    /// any four bytes of eight different blocks.
    unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8];
    /// With groups of 16: scales and mins as 16 i16 each. With groups of 32: eight scales and eight mins in the first.
    unsafe fn tables(b: *const u8) -> (__m256i, __m256i);
    /// Looks all elements up; returns the scales as [`Type256::tables`].
    unsafe fn decode(b: *const u8, to: &mut Decoded) -> __m256i {
        let _ = (b, to);
        unreachable!("not a coded type")
    }
    /// `d` and `dmin` (or zero) of the blocks at byte `at` of eight rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn floats(rows: &[*const u8; 8], at: usize) -> (__m256, __m256) {
        if Self::MINS == Mins::Scaled {
            half_pairs(rows, at + Self::D)
        } else {
            (halves(rows, at + Self::D), _mm256_setzero_ps())
        }
    }
}

pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load16(p: *const u8) -> __m128i {
    _mm_loadu_si128(p.cast())
}

/// The 6-bit scales and mins of Q4_K and Q5_K, eight bytes each, from the block's first 16 bytes (two f16, then three words).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scales_mins(b: *const u8) -> __m128i {
    let v = load16(b);
    // Words: [_, s0..3 | hi bits, m0..3 | hi bits, low nibbles: s4..7, high nibbles: m4..7].
    let low = _mm_shuffle_epi32::<0b11_10_11_01>(v);
    let low = _mm_srlv_epi32(low, _mm_set_epi32(4, 0, 0, 0));
    let low = _mm_and_si128(low, _mm_set_epi32(0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f));
    let high = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b10_10_01_01>(v));
    let high = _mm_and_si128(high, _mm_set_epi32(0x3030_3030, 0, 0x3030_3030, 0));
    _mm_or_si128(low, high)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn low_bits<const SHIFT: i32>(v: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<SHIFT>(v), _mm256_set1_epi8(mask))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn high_bits<const SHIFT: i32>(v: __m256i, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_slli_epi16::<SHIFT>(v), _mm256_set1_epi8(mask))
}

impl Type256 for Q4K {
    const BYTES: usize = 144;
    const SIXTEENS: bool = false;
    const MINS: Mins = Mins::Scaled;
    const PIECES: &'static [usize] = &[16, 48, 80, 112];
    const D: usize = 0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8] {
        let v = piece;
        [
            low_bits::<0>(v[0], 15),
            low_bits::<4>(v[0], 15),
            low_bits::<0>(v[1], 15),
            low_bits::<4>(v[1], 15),
            low_bits::<0>(v[2], 15),
            low_bits::<4>(v[2], 15),
            low_bits::<0>(v[3], 15),
            low_bits::<4>(v[3], 15),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tables(b: *const u8) -> (__m256i, __m256i) {
        (_mm256_cvtepu8_epi16(scales_mins(b)), _mm256_setzero_si256())
    }
}

impl Type256 for Q5K {
    const BYTES: usize = 176;
    const SIXTEENS: bool = false;
    const MINS: Mins = Mins::Scaled;
    const PIECES: &'static [usize] = &[16, 48, 80, 112, 144];
    const D: usize = 0;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8] {
        let [h, v @ ..] = piece;
        [
            _mm256_or_si256(low_bits::<0>(v[0], 15), high_bits::<4>(*h, 16)),
            _mm256_or_si256(low_bits::<4>(v[0], 15), high_bits::<3>(*h, 16)),
            _mm256_or_si256(low_bits::<0>(v[1], 15), high_bits::<2>(*h, 16)),
            _mm256_or_si256(low_bits::<4>(v[1], 15), high_bits::<1>(*h, 16)),
            _mm256_or_si256(low_bits::<0>(v[2], 15), low_bits::<0>(*h, 16)),
            _mm256_or_si256(low_bits::<4>(v[2], 15), low_bits::<1>(*h, 16)),
            _mm256_or_si256(low_bits::<0>(v[3], 15), low_bits::<2>(*h, 16)),
            _mm256_or_si256(low_bits::<4>(v[3], 15), low_bits::<3>(*h, 16)),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tables(b: *const u8) -> (__m256i, __m256i) {
        (_mm256_cvtepu8_epi16(scales_mins(b)), _mm256_setzero_si256())
    }
}

impl Type256 for Q6K {
    const BYTES: usize = 210;
    const SIXTEENS: bool = true;
    const MINS: Mins = Mins::Integer;
    const PIECES: &'static [usize] = &[0, 32, 128, 64, 96, 160];
    const D: usize = 208;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8] {
        let &[a0, a1, h, c0, c1, k, ..] = piece;
        [
            _mm256_or_si256(low_bits::<0>(a0, 15), high_bits::<4>(h, 48)),
            _mm256_or_si256(low_bits::<0>(a1, 15), high_bits::<2>(h, 48)),
            _mm256_or_si256(low_bits::<4>(a0, 15), low_bits::<0>(h, 48)),
            _mm256_or_si256(low_bits::<4>(a1, 15), low_bits::<2>(h, 48)),
            _mm256_or_si256(low_bits::<0>(c0, 15), high_bits::<4>(k, 48)),
            _mm256_or_si256(low_bits::<0>(c1, 15), high_bits::<2>(k, 48)),
            _mm256_or_si256(low_bits::<4>(c0, 15), low_bits::<0>(k, 48)),
            _mm256_or_si256(low_bits::<4>(c1, 15), low_bits::<2>(k, 48)),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tables(b: *const u8) -> (__m256i, __m256i) {
        let s = _mm256_cvtepi8_epi16(load16(b.add(192)));
        (s, _mm256_slli_epi16::<5>(s))
    }
}

impl Type256 for Q3K {
    const BYTES: usize = 110;
    const SIXTEENS: bool = true;
    const MINS: Mins = Mins::Integer;
    const PIECES: &'static [usize] = &[0, 32, 64];
    const D: usize = 108;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8] {
        let &[h, v0, v1, ..] = piece;
        [
            _mm256_or_si256(low_bits::<0>(v0, 3), high_bits::<2>(h, 4)),
            _mm256_or_si256(low_bits::<2>(v0, 3), high_bits::<1>(h, 4)),
            _mm256_or_si256(low_bits::<4>(v0, 3), low_bits::<0>(h, 4)),
            _mm256_or_si256(low_bits::<6>(v0, 3), low_bits::<1>(h, 4)),
            _mm256_or_si256(low_bits::<0>(v1, 3), low_bits::<2>(h, 4)),
            _mm256_or_si256(low_bits::<2>(v1, 3), low_bits::<3>(h, 4)),
            _mm256_or_si256(low_bits::<4>(v1, 3), low_bits::<4>(h, 4)),
            _mm256_or_si256(low_bits::<6>(v1, 3), low_bits::<5>(h, 4)),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tables(b: *const u8) -> (__m256i, __m256i) {
        // Twelve bytes at 96: eight with two low nibbles each, four with four pairs of high bits. The load starts
        // two bytes early to stay inside the block.
        let v = _mm_srli_si128::<2>(load16(b.add(94)));
        let low = _mm_srlv_epi32(_mm_shuffle_epi32::<0b01_00_01_00>(v), _mm_set_epi32(4, 4, 0, 0));
        let high = _mm_shuffle_epi32::<0b10_10_10_10>(v);
        let high = _mm_sllv_epi32(_mm_srlv_epi32(high, _mm_set_epi32(6, 4, 2, 0)), _mm_set1_epi32(4));
        let s = _mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), _mm_and_si128(high, _mm_set1_epi8(48)));
        let s = _mm256_cvtepi8_epi16(_mm_sub_epi8(s, _mm_set1_epi8(32)));
        (s, _mm256_slli_epi16::<2>(s))
    }
}

impl Type256 for Q2K {
    const BYTES: usize = 84;
    const SIXTEENS: bool = true;
    const MINS: Mins = Mins::Scaled;
    const PIECES: &'static [usize] = &[16, 48];
    const D: usize = 80;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8] {
        let &[v0, v1, ..] = piece;
        [
            low_bits::<0>(v0, 3),
            low_bits::<2>(v0, 3),
            low_bits::<4>(v0, 3),
            low_bits::<6>(v0, 3),
            low_bits::<0>(v1, 3),
            low_bits::<2>(v1, 3),
            low_bits::<4>(v1, 3),
            low_bits::<6>(v1, 3),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tables(b: *const u8) -> (__m256i, __m256i) {
        let v = load16(b);
        let nibble = _mm_set1_epi8(15);
        let scales = _mm_and_si128(v, nibble);
        let mins = _mm_and_si128(_mm_srli_epi16::<4>(v), nibble);
        (_mm256_cvtepu8_epi16(scales), _mm256_cvtepu8_epi16(mins))
    }
}
