//! Blocks of 256 whose elements are looked up in codebooks: the IQ types and the ternary ones.

use super::lanes::{halves, load, scalar};
use super::unpack256::{Decoded, Mins, Type256};
use super::unpack32::looked_up;
use crate::gguf::GgmlType;
use crate::kernels::codebook::{self, Book};
use std::arch::x86_64::*;

const PIECES: &[usize] = &[0, 32, 64, 96, 128, 160, 192, 224];

/// A type that is decoded by `$decode`, with the f16 at `$d` times `$factor` as its `d`.
macro_rules! coded {
    ($name:ident, bytes $bytes:literal, d $d:literal * $factor:literal, |$b:ident, $to:ident| $decode:expr) => {
        pub(super) struct $name;
        impl Type256 for $name {
            const BYTES: usize = $bytes;
            const SIXTEENS: bool = true;
            const MINS: Mins = Mins::None;
            const SIGNED: bool = true;
            const CODED: bool = true;
            const D: usize = $d;
            const PIECES: &'static [usize] = PIECES;
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8] {
                *piece
            }
            unsafe fn tables(_: *const u8) -> (__m256i, __m256i) {
                unreachable!("a coded type")
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn decode($b: *const u8, $to: &mut Decoded) -> __m256i {
                $decode
            }
            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn floats(rows: &[*const u8; 8], at: usize) -> (__m256, __m256) {
                (_mm256_mul_ps(halves(rows, at + $d), _mm256_set1_ps($factor)), _mm256_setzero_ps())
            }
        }
    };
}

coded!(IQ2XXS, bytes 66, d 0 * 0.125, |b, to| iq2_xxs(b, to));
coded!(IQ2XS, bytes 74, d 0 * 0.125, |b, to| iq2_xs(b, to));
coded!(IQ2S, bytes 82, d 0 * 0.125, |b, to| iq2_s(b, to));
coded!(IQ3XXS, bytes 98, d 0 * 0.25, |b, to| iq3_xxs(b, to));
coded!(IQ3S, bytes 110, d 0 * 1.0, |b, to| iq3_s(b, to));
coded!(IQ1S, bytes 50, d 0 * 0.125, |b, to| iq1_s(b, to));
coded!(IQ4XS, bytes 136, d 0 * 1.0, |b, to| iq4_xs(b, to));
coded!(TQ1_0, bytes 54, d 52 * 1.0, |b, to| plainly(GgmlType::TQ1_0, b, to));
coded!(TQ2_0, bytes 66, d 64 * 1.0, |b, to| tq2_0(b, to));

/// IQ1_M has its f16 in four pieces.
pub(super) struct IQ1M;

impl Type256 for IQ1M {
    const BYTES: usize = 56;
    const SIXTEENS: bool = true;
    const MINS: Mins = Mins::None;
    const SIGNED: bool = true;
    const CODED: bool = true;
    const D: usize = 0;
    const PIECES: &'static [usize] = PIECES;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn elements(piece: &[__m256i; 8]) -> [__m256i; 8] {
        *piece
    }
    unsafe fn tables(_: *const u8) -> (__m256i, __m256i) {
        unreachable!("a coded type")
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn decode(b: *const u8, to: &mut Decoded) -> __m256i {
        iq1_m(b, to)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn floats(rows: &[*const u8; 8], at: usize) -> (__m256, __m256) {
        let d: [f32; 8] = std::array::from_fn(|r| {
            // SAFETY: the caller's: a whole block is readable there.
            codebook::iq1_m_scale(unsafe { std::slice::from_raw_parts(rows[r].add(at), Self::BYTES) }) * 0.125
        });
        (_mm256_loadu_ps(d.as_ptr()), _mm256_setzero_ps())
    }
}

/// Four bytes of a codebook.
///
/// # Safety
/// `index` is within the book, whose entries have four bytes.
#[inline(always)]
unsafe fn four(book: Book, index: usize) -> i32 {
    book.pointer(scalar(index)).cast::<i32>().read_unaligned()
}

/// Eight bytes of a codebook.
///
/// # Safety
/// `index` is within the book, whose entries have eight bytes.
#[inline(always)]
unsafe fn eight(book: Book, index: usize) -> i64 {
    book.pointer(scalar(index)).cast::<i64>().read_unaligned()
}

/// By the scalar unpacking.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn plainly(ty: GgmlType, b: *const u8, to: &mut Decoded) -> __m256i {
    let block = codebook::unpack256(ty, std::slice::from_raw_parts(b, ty.block_bytes()));
    for (to, q) in to.0.iter_mut().zip(block.q) {
        *to = q as u8;
    }
    load(block.scale.as_ptr().cast())
}

/// The eight nibbles of four bytes as words, each twice.
///
/// # Safety
/// Four readable bytes at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibbles_twice(p: *const u8) -> __m256i {
    let v = _mm256_set1_epi64x(p.cast::<u32>().read_unaligned().into());
    let byte =
        _mm256_setr_epi8(0, -1, 0, -1, 0, -1, 0, -1, 1, -1, 1, -1, 1, -1, 1, -1, 2, -1, 2, -1, 2, -1, 2, -1, 3, -1, 3, -1, 3, -1, 3, -1);
    let up = _mm256_set1_epi64x(0x0001_0001_0010_0010);
    _mm256_and_si256(_mm256_srli_epi16::<4>(_mm256_mullo_epi16(_mm256_shuffle_epi8(v, byte), up)), _mm256_set1_epi16(15))
}

/// `2 * s + 1` of eight scales, each for two groups of 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn odd_twice(s: __m256i) -> __m256i {
    let s = _mm256_or_si256(s, _mm256_slli_epi32::<16>(s));
    _mm256_add_epi16(_mm256_add_epi16(s, s), _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq4_xs(b: *const u8, to: &mut Decoded) -> __m256i {
    for g in 0..8 {
        let v = looked_up(b.add(8 + 16 * g), &codebook::IQ4);
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), v);
    }
    // Eight scales of four low bits (nibbles at 4) and two high ones (pairs of bits at 2), each for two groups of 16.
    let low = nibbles_twice(b.add(4));
    let bits = _mm256_set1_epi16(b.add(2).cast::<i16>().read_unaligned());
    // Moved up so that the wanted pair ends in the two highest bits.
    let up = _mm256_setr_epi16(
        1 << 14,
        1 << 14,
        1 << 12,
        1 << 12,
        1 << 10,
        1 << 10,
        1 << 8,
        1 << 8,
        1 << 6,
        1 << 6,
        1 << 4,
        1 << 4,
        1 << 2,
        1 << 2,
        1,
        1,
    );
    let high = _mm256_and_si256(_mm256_srli_epi16::<10>(_mm256_mullo_epi16(bits, up)), _mm256_set1_epi16(48));
    _mm256_sub_epi16(_mm256_or_si256(low, high), _mm256_set1_epi16(32))
}

/// 32 elements with a minus wherever a bit of `signs` is set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_signs(v: __m256i, signs: u32) -> __m256i {
    let byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let s = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(signs as i32), byte), bit);
    let s = _mm256_cmpeq_epi8(s, bit);
    _mm256_sub_epi8(_mm256_xor_si256(v, s), s)
}

/// Bytes of seven stored signs with an eighth that makes their number even.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn even(seven: __m256i) -> __m256i {
    // 128 for nibbles with an odd number of ones.
    let odd = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    let low = _mm256_shuffle_epi8(odd, _mm256_and_si256(seven, _mm256_set1_epi8(15)));
    let high = _mm256_shuffle_epi8(odd, _mm256_and_si256(_mm256_srli_epi16::<4>(seven), _mm256_set1_epi8(15)));
    _mm256_or_si256(seven, _mm256_xor_si256(low, high))
}

/// Of eight words, each with four times seven stored signs (at bits 0, 7, 14, 21): all 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn all_signs(v: __m256i) -> [u32; 8] {
    let part = |v: __m256i, mask: i32| _mm256_and_si256(v, _mm256_set1_epi32(mask));
    let spread = _mm256_or_si256(
        _mm256_or_si256(part(v, 0x7f), part(_mm256_slli_epi32::<1>(v), 0x7f00)),
        _mm256_or_si256(part(_mm256_slli_epi32::<2>(v), 0x7f_0000), part(_mm256_slli_epi32::<3>(v), 0x7f00_0000)),
    );
    let mut out = [0; 8];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), even(spread)) };
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq3_xxs(b: *const u8, to: &mut Decoded) -> __m256i {
    let rest = load(b.add(66));
    for (g, signs) in all_signs(rest).into_iter().enumerate() {
        let q = |i: usize| four(codebook::IQ3_XXS, usize::from(*b.add(2 + 8 * g + i)));
        let v = _mm256_setr_epi32(q(0), q(1), q(2), q(3), q(4), q(5), q(6), q(7));
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), with_signs(v, signs));
    }
    odd_twice(_mm256_srli_epi32::<28>(rest))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq3_s(b: *const u8, to: &mut Decoded) -> __m256i {
    // Nine bits of every index: eight are a byte, the ninth comes from 16 bits for sixteen.
    let mut index = [0u16; 64];
    let bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, i16::MIN);
    for (k, to) in index.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let high = _mm256_and_si256(_mm256_set1_epi16(b.add(66 + 2 * k).cast::<i16>().read_unaligned()), bit);
        let high = _mm256_and_si256(_mm256_cmpeq_epi16(high, bit), _mm256_set1_epi16(256));
        let low = _mm256_cvtepu8_epi16(_mm_loadu_si128(b.add(2 + 16 * k).cast()));
        _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_or_si256(low, high));
    }
    for (g, index) in index.as_chunks::<8>().0.iter().enumerate() {
        let q = |i: usize| four(codebook::IQ3_S, usize::from(index[i]));
        let v = _mm256_setr_epi32(q(0), q(1), q(2), q(3), q(4), q(5), q(6), q(7));
        let signs = b.add(74 + 4 * g).cast::<u32>().read_unaligned();
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), with_signs(v, signs));
    }
    let s = nibbles_twice(b.add(106));
    _mm256_add_epi16(_mm256_add_epi16(s, s), _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tq2_0(b: *const u8, to: &mut Decoded) -> __m256i {
    for h in 0..2 {
        let v = load(b.add(32 * h));
        let two = _mm256_set1_epi8(3);
        let q = [v, _mm256_srli_epi16::<2>(v), _mm256_srli_epi16::<4>(v), _mm256_srli_epi16::<6>(v)];
        for (n, q) in q.into_iter().enumerate() {
            let q = _mm256_sub_epi8(_mm256_and_si256(q, two), _mm256_set1_epi8(1));
            _mm256_store_si256(to.0.as_mut_ptr().add(128 * h + 32 * n).cast(), q);
        }
    }
    _mm256_set1_epi16(1)
}

/// The scales `2 * s + 1` of the nibbles of eight bytes, one for each group of 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn odd_nibbles(p: *const u8) -> __m256i {
    let v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
    let v = _mm256_and_si256(_mm256_or_si256(v, _mm256_slli_epi32::<12>(v)), _mm256_set1_epi32(0x000f_000f));
    _mm256_add_epi16(_mm256_add_epi16(v, v), _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq2_xxs(b: *const u8, to: &mut Decoded) -> __m256i {
    // The second of every two words.
    let half = |at: usize| _mm256_castsi256_ps(load(b.add(at)));
    let rest = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(half(2), half(34)));
    let rest = _mm256_permute4x64_epi64::<0b11_01_10_00>(rest);
    for (g, signs) in all_signs(rest).into_iter().enumerate() {
        let q = |i: usize| eight(codebook::IQ2_XXS, usize::from(*b.add(2 + 8 * g + i)));
        let v = with_signs(_mm256_setr_epi64x(q(0), q(1), q(2), q(3)), signs);
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), v);
    }
    odd_twice(_mm256_srli_epi32::<28>(rest))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq2_xs(b: *const u8, to: &mut Decoded) -> __m256i {
    // Of each of 32 codes nine bits are an index, seven are signs.
    let seven = |at: usize| _mm256_srli_epi16::<9>(load(b.add(at)));
    let signs = even(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(seven(2), seven(34))));
    let mut all = [0u32; 8];
    _mm256_storeu_si256(all.as_mut_ptr().cast(), signs);
    for (g, signs) in all.into_iter().enumerate() {
        let code = |i: usize| b.add(2 + 8 * g + 2 * i).cast::<u16>().read_unaligned();
        let q = |i: usize| eight(codebook::IQ2_XS, usize::from(code(i) & 511));
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), with_signs(_mm256_setr_epi64x(q(0), q(1), q(2), q(3)), signs));
    }
    odd_nibbles(b.add(66))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq2_s(b: *const u8, to: &mut Decoded) -> __m256i {
    for g in 0..8 {
        let high = usize::from(*b.add(66 + g));
        let q = |i: usize| eight(codebook::IQ2_S, usize::from(*b.add(2 + 4 * g + i)) | (high << (8 - 2 * i) & 768));
        let signs = b.add(34 + 4 * g).cast::<u32>().read_unaligned();
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), with_signs(_mm256_setr_epi64x(q(0), q(1), q(2), q(3)), signs));
    }
    odd_nibbles(b.add(74))
}

/// Eight times the elements, moved by a signed byte in each eighth of `moves`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn moved(v: __m256i, moves: __m256i) -> __m256i {
    let twice = _mm256_add_epi8(v, v);
    let four = _mm256_add_epi8(twice, twice);
    _mm256_add_epi8(_mm256_add_epi8(four, four), moves)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq1_s(b: *const u8, to: &mut Decoded) -> __m256i {
    for g in 0..8 {
        let rest = usize::from(b.add(34 + 2 * g).cast::<u16>().read_unaligned());
        let q = |i: usize| eight(codebook::IQ1, usize::from(*b.add(2 + 4 * g + i)) | (rest >> (3 * i) & 7) << 8);
        let v = moved(_mm256_setr_epi64x(q(0), q(1), q(2), q(3)), _mm256_set1_epi8(if rest & 0x8000 == 0 { 1 } else { -1 }));
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), v);
    }
    let rest = _mm256_cvtepu16_epi32(_mm_loadu_si128(b.add(34).cast()));
    odd_twice(_mm256_and_si256(_mm256_srli_epi32::<12>(rest), _mm256_set1_epi32(7)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn iq1_m(b: *const u8, to: &mut Decoded) -> __m256i {
    for g in 0..8 {
        let rest = usize::from(b.add(32 + 2 * g).cast::<u16>().read_unaligned());
        let q = |i: usize| eight(codebook::IQ1, usize::from(*b.add(4 * g + i)) | (rest >> (4 * i) & 7) << 8);
        // A byte of ones, or of minus ones where the bit is set.
        let m = |i: usize| if rest >> (4 * i) & 8 == 0 { 0x0101_0101_0101_0101 } else { -1 };
        let v = moved(_mm256_setr_epi64x(q(0), q(1), q(2), q(3)), _mm256_setr_epi64x(m(0), m(1), m(2), m(3)));
        _mm256_store_si256(to.0.as_mut_ptr().add(32 * g).cast(), v);
    }
    // Four words of four scales of three bits.
    let v = _mm256_cvtepu16_epi64(_mm_loadl_epi64(b.add(48).cast()));
    let v = _mm256_or_si256(
        _mm256_or_si256(v, _mm256_slli_epi64::<13>(v)),
        _mm256_or_si256(_mm256_slli_epi64::<26>(v), _mm256_slli_epi64::<39>(v)),
    );
    let s = _mm256_and_si256(v, _mm256_set1_epi16(7));
    _mm256_add_epi16(_mm256_add_epi16(s, s), _mm256_set1_epi16(1))
}
