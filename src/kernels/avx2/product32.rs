//! Products with blocks of 32 elements, in the same two ways as [`super::product256`].

use super::lanes::{halves, load, prefetch, splat4, sum8, transpose8};
use super::{Group, View};
use std::arch::x86_64::*;

/// Blocks of a panel: 2048 columns.
const PANEL: usize = 64;

/// One type with blocks of 32, as `d * (q - ZERO) + m`.
///
/// # Safety
/// All functions need AVX2 and a whole readable block at `b`, which starts with an f16 `d` and, if `OFFSET`, an f16 `m`.
pub(super) trait Type32 {
    const BYTES: usize;
    /// Elements are signed bytes (else unsigned, at most 31).
    const SIGNED: bool;
    /// Products of pairs that may be added in 16 bits: `2 * RUN * max(q) * 127 < 32768`.
    const RUN: usize;
    const ZERO: i32;
    const OFFSET: bool;
    unsafe fn quants(b: *const u8) -> __m256i;
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
    ($name:ident, bytes $bytes:literal, run $run:literal, zero $zero:literal, offset $offset:literal, |$b:ident| $quants:expr) => {
        impl Type32 for $name {
            const BYTES: usize = $bytes;
            const SIGNED: bool = false;
            const RUN: usize = $run;
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

nibble_type!(Q4_0, bytes 18, run 8, zero 8, offset false, |b| nibbles(b.add(2)));
nibble_type!(Q4_1, bytes 20, run 8, zero 0, offset true, |b| nibbles(b.add(4)));
nibble_type!(Q5_0, bytes 22, run 4, zero 16, offset false, |b| _mm256_or_si256(nibbles(b.add(6)), fifth_bits(b.add(2))));
nibble_type!(Q5_1, bytes 24, run 4, zero 0, offset true, |b| _mm256_or_si256(nibbles(b.add(8)), fifth_bits(b.add(4))));

impl Type32 for Q8_0 {
    const BYTES: usize = 34;
    const SIGNED: bool = true;
    const RUN: usize = 1;
    const ZERO: i32 = 0;
    const OFFSET: bool = false;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn quants(b: *const u8) -> __m256i {
        load(b.add(2))
    }
}

/// Pairs of products in 16 bits. Exact for signed elements too: `|w| <= 128` and `|x| <= 127`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs<T: Type32>(w: __m256i, x: __m256i) -> __m256i {
    if T::SIGNED {
        _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    } else {
        _mm256_maddubs_epi16(w, x)
    }
}

/// Add a block to the sums of a token: eight rows, one in each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_block<T: Type32>(acc: __m256, dot: __m256i, d: __m256, m: __m256, x: &View, index: usize) -> __m256 {
    let dx = _mm256_set1_ps(*x.d.add(index));
    let sum = i32::from(*x.sums32.add(index));
    let dot = if T::ZERO == 0 { dot } else { _mm256_sub_epi32(dot, _mm256_set1_epi32(T::ZERO * sum)) };
    let acc = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), acc);
    if T::OFFSET {
        _mm256_fmadd_ps(_mm256_mul_ps(m, dx), _mm256_set1_ps(sum as f32), acc)
    } else {
        acc
    }
}

/// Up to `N` tokens against eight rows.
///
/// # Safety
/// As [`super::product256::direct`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn direct<T: Type32, const N: usize>(g: &Group, x: &View, tokens: [usize; N]) -> [__m256; N] {
    let blocks = x.cols / 32;
    let mut acc = [_mm256_setzero_ps(); N];
    let zero = _mm256_setzero_si256();
    let ones = _mm256_set1_epi16(1);
    let mut dots = [[zero; 8]; N];
    for b in 0..blocks {
        for r in 0..8 {
            let block = g.rows[r].add(b * T::BYTES);
            if b % 2 == 0 {
                prefetch(block.wrapping_add(g.ahead), 2 * T::BYTES);
            }
            let q = T::quants(block);
            for n in 0..N {
                let p = pairs::<T>(q, load(x.q.add(tokens[n] * x.cols + b * 32)));
                dots[n][r] = _mm256_madd_epi16(p, ones);
            }
        }
        let d = halves(&g.rows, b * T::BYTES);
        let m = if T::OFFSET { halves(&g.rows, b * T::BYTES + 2) } else { d };
        for n in 0..N {
            acc[n] = add_block::<T>(acc[n], sum8(dots[n]), d, m, x, tokens[n] * blocks + b);
        }
    }
    acc
}

/// One block of eight rows, interleaved: four elements of each row side by side.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
pub(super) struct Tile32 {
    q: [__m256i; 8],
    d: __m256,
    m: __m256,
}

/// Panel memory of a thread.
pub(super) struct Panel32(Box<[Tile32]>);

impl Default for Panel32 {
    fn default() -> Self {
        // SAFETY: all fields are plain vectors, for which zero is a value.
        Self(vec![unsafe { std::mem::zeroed() }; PANEL].into_boxed_slice())
    }
}

/// Any number of tokens against eight rows; `sums` holds `[tokens][8]` and gets the results.
///
/// # Safety
/// As [`super::product256::tiled`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tiled<T: Type32>(panel: &mut Panel32, g: &Group, x: &View, tokens: &[usize], sums: &mut [__m256]) {
    sums.fill(_mm256_setzero_ps());
    let blocks = x.cols / 32;
    let mut first = 0;
    while first < blocks {
        let count = PANEL.min(blocks - first);
        for (i, tile) in panel.0[..count].iter_mut().enumerate() {
            let at = (first + i) * T::BYTES;
            let mut rows = [_mm256_setzero_si256(); 8];
            for r in 0..8 {
                let block = g.rows[r].add(at);
                prefetch(block.wrapping_add(g.ahead), 1);
                rows[r] = T::quants(block);
            }
            tile.q = transpose8(rows);
            tile.d = halves(&g.rows, at);
            if T::OFFSET {
                tile.m = halves(&g.rows, at + 2);
            }
        }
        let tiles = &panel.0[..count];
        let (chunks, rest) = tokens.as_chunks::<4>();
        for (t, s) in chunks.iter().zip(sums.as_chunks_mut::<4>().0) {
            multiply::<T, 4>(tiles, first, x, t, s);
        }
        for (&t, s) in rest.iter().zip(&mut sums[chunks.len() * 4..]) {
            multiply::<T, 1>(tiles, first, x, &[t], std::array::from_mut(s));
        }
        first += count;
    }
}

/// `N` tokens against the panel's rows, from block `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<T: Type32, const N: usize>(tiles: &[Tile32], first: usize, x: &View, tokens: &[usize; N], sums: &mut [__m256; N]) {
    let zero = _mm256_setzero_si256();
    let ones = _mm256_set1_epi16(1);
    let blocks = x.cols / 32;
    let mut acc = *sums;
    for (i, tile) in tiles.iter().enumerate() {
        let b = first + i;
        let mut dot = [zero; N];
        let mut s = 0;
        while s < 8 {
            let mut sum = [zero; N];
            for step in s..s + T::RUN {
                for n in 0..N {
                    let xq = splat4(x.q.add(tokens[n] * x.cols + b * 32 + 4 * step));
                    let p = pairs::<T>(tile.q[step], xq);
                    sum[n] = if T::RUN == 1 { p } else { _mm256_add_epi16(sum[n], p) };
                }
            }
            for n in 0..N {
                dot[n] = _mm256_add_epi32(dot[n], _mm256_madd_epi16(sum[n], ones));
            }
            s += T::RUN;
        }
        for n in 0..N {
            acc[n] = add_block::<T>(acc[n], dot[n], tile.d, tile.m, x, tokens[n] * blocks + b);
        }
    }
    *sums = acc;
}
