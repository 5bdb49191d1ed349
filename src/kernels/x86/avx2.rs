//! The inner loops with AVX2: 16 products of 16-bit pairs in an instruction, and one more to add them up.

use super::lanes::{load, scales_for_halves, splat4, sum8, twice, widen};
use super::panel256::Tile256;
use super::panel32::Tile32;
use super::unpack256::{Decoded, Mins, Type256};
use super::unpack32::Type32;
use super::{Isa, Rows, View};
use std::arch::x86_64::*;

/// AVX2, FMA and F16C.
pub(super) struct Avx2;

impl Isa for Avx2 {
    const FEW: usize = 2;
    const TILED: usize = 6;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn direct256<T: Type256, const N: usize>(g: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N] {
        let blocks = x.cols / 256;
        let mut acc = [_mm256_setzero_ps(); N];
        let zero = _mm256_setzero_si256();
        let mut dots = [[zero; 8]; N];
        let mut mins = [[zero; 8]; N];
        let mut decoded = Decoded::ZERO;
        for b in 0..blocks {
            for r in 0..8 {
                let block = g.at[r].add(b * T::BYTES);
                g.prefetch(r, b, T::BYTES);
                let (from, (first, second)) = if T::CODED {
                    let scales = T::decode(block, &mut decoded);
                    (decoded.0.as_ptr(), (scales, zero))
                } else {
                    (block, T::tables(block))
                };
                let mut pieces = [zero; 8];
                for (piece, &at) in pieces.iter_mut().zip(T::PIECES) {
                    *piece = load(from.add(at));
                }
                let q = T::elements(&pieces);
                let scale = scales_for_halves(first, T::SIXTEENS);
                let mut sum = [zero; N];
                if T::SIGNED {
                    for j in 0..8 {
                        let [evens, odds] = widen(q[j], true).map(|w| _mm256_mullo_epi16(w, scale[j]));
                        for n in 0..N {
                            let xq = x.q.add(2 * (tokens[n] * x.cols + b * 256) + 128 * (j / 2) + 32 * (j % 2));
                            sum[n] = _mm256_add_epi32(sum[n], _mm256_madd_epi16(evens, load(xq)));
                            sum[n] = _mm256_add_epi32(sum[n], _mm256_madd_epi16(odds, load(xq.add(64))));
                        }
                    }
                } else {
                    let mut high = [zero; N];
                    for j in 0..8 {
                        for n in 0..N {
                            let at = tokens[n] * x.cols + b * 256 + 32 * j;
                            let product = |x: *const u8| _mm256_madd_epi16(_mm256_maddubs_epi16(q[j], load(x.add(at))), scale[j]);
                            high[n] = _mm256_add_epi32(high[n], product(x.high));
                            sum[n] = _mm256_add_epi32(sum[n], product(x.low));
                        }
                    }
                    for n in 0..N {
                        sum[n] = _mm256_add_epi32(sum[n], _mm256_slli_epi32::<6>(high[n]));
                    }
                }
                for n in 0..N {
                    if T::MINS != Mins::None {
                        let min = if T::SIXTEENS { second } else { twice(first) };
                        let at = tokens[n] * x.cols + b * 256;
                        let m = _mm256_madd_epi16(min, load(x.sums16.add(at / 16).cast()));
                        if T::MINS == Mins::Integer {
                            sum[n] = _mm256_sub_epi32(sum[n], m);
                        } else {
                            mins[n][r] = m;
                        }
                    }
                    dots[n][r] = sum[n];
                }
            }
            let (d, dmin) = T::floats(&g.at, b * T::BYTES);
            for n in 0..N {
                let dx = _mm256_set1_ps(*x.d.add(tokens[n] * blocks + b));
                acc[n] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(sum8(dots[n])), acc[n]);
                if T::MINS == Mins::Scaled {
                    acc[n] = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(sum8(mins[n])), acc[n]);
                }
            }
        }
        acc
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn direct32<T: Type32, const N: usize>(g: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N] {
        let blocks = x.cols / 32;
        let mut acc = [_mm256_setzero_ps(); N];
        let mut dots = [[_mm256_setzero_si256(); 8]; N];
        for b in 0..blocks {
            for r in 0..8 {
                let block = g.at[r].add(b * T::BYTES);
                g.prefetch(r, b, T::BYTES);
                let [evens, odds] = widen(T::quants(block), T::SIGNED);
                for n in 0..N {
                    let xq = x.q.add(2 * (tokens[n] * x.cols + b * 32));
                    dots[n][r] = _mm256_add_epi32(_mm256_madd_epi16(evens, load(xq)), _mm256_madd_epi16(odds, load(xq.add(32))));
                }
            }
            let (d, m) = T::floats(&g.at, b * T::BYTES);
            for n in 0..N {
                let index = tokens[n] * blocks + b;
                let mut dot = sum8(dots[n]);
                if T::ZERO != 0 {
                    dot = _mm256_sub_epi32(dot, _mm256_set1_epi32(T::ZERO * x.sum32(index)));
                }
                acc[n] = add_block::<T>(acc[n], dot, d, m, x, index);
            }
        }
        acc
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tiles256<T: Type256>(tiles: &[Tile256], first: usize, x: &View, tokens: &[usize], sums: &mut [[__m256; 2]]) {
        let (chunks, rest) = tokens.as_chunks::<4>();
        let (to, last) = sums.as_chunks_mut::<4>();
        for (t, s) in chunks.iter().zip(to) {
            multiply256::<T, 4>(tiles, first, x, t, s);
        }
        for (&t, s) in rest.iter().zip(last) {
            multiply256::<T, 1>(tiles, first, x, &[t], std::array::from_mut(s));
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tiles32<T: Type32>(tiles: &[Tile32], first: usize, x: &View, tokens: &[usize], sums: &mut [[__m256; 2]]) {
        let (chunks, rest) = tokens.as_chunks::<4>();
        let (to, last) = sums.as_chunks_mut::<4>();
        for (t, s) in chunks.iter().zip(to) {
            multiply32::<T, 4>(tiles, first, x, t, s);
        }
        for (&t, s) in rest.iter().zip(last) {
            multiply32::<T, 1>(tiles, first, x, &[t], std::array::from_mut(s));
        }
    }
}

/// Add a block to the sums of a token: eight rows, one in each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_block<T: Type32>(acc: __m256, dot: __m256i, d: __m256, m: __m256, x: &View, index: usize) -> __m256 {
    let dx = _mm256_set1_ps(*x.d.add(index));
    let acc = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), acc);
    if T::OFFSET {
        _mm256_fmadd_ps(_mm256_mul_ps(m, dx), _mm256_set1_ps(x.sum32(index) as f32), acc)
    } else {
        acc
    }
}

/// `N` tokens against the panel's rows, from block `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply256<T: Type256, const N: usize>(
    tiles: &[Tile256],
    first: usize,
    x: &View,
    tokens: &[usize; N],
    sums: &mut [[__m256; 2]; N],
) {
    let zero = _mm256_setzero_si256();
    for (i, tile) in tiles.iter().enumerate() {
        let b = first + i;
        let mut dot = [[zero; 2]; N];
        for j in 0..8 {
            for s in 0..16 {
                let w = tile.w[16 * j + s];
                // Pairs of even elements at even `s`, of odd ones at odd `s`.
                let at = 128 * (j / 2) + 32 * (j % 2) + 4 * (s / 2) + 64 * (s % 2);
                for n in 0..N {
                    let xq = splat4(x.q.add(2 * (tokens[n] * x.cols + b * 256) + at));
                    dot[n][0] = _mm256_add_epi32(dot[n][0], _mm256_madd_epi16(w[0], xq));
                    dot[n][1] = _mm256_add_epi32(dot[n][1], _mm256_madd_epi16(w[1], xq));
                }
            }
        }
        for n in 0..N {
            let at = tokens[n] * x.cols + b * 256;
            let dx = _mm256_set1_ps(*x.d.add(at / 256));
            for h in 0..2 {
                let mut min = zero;
                if T::MINS != Mins::None {
                    for k in 0..8 {
                        let pair = splat4(x.sums16.add(at / 16 + 2 * k).cast());
                        min = _mm256_add_epi32(min, _mm256_madd_epi16(tile.min[k][h], pair));
                    }
                }
                let dot = if T::MINS == Mins::Integer { _mm256_sub_epi32(dot[n][h], min) } else { dot[n][h] };
                let acc = &mut sums[n][h];
                *acc = _mm256_fmadd_ps(_mm256_mul_ps(tile.d[h], dx), _mm256_cvtepi32_ps(dot), *acc);
                if T::MINS == Mins::Scaled {
                    *acc = _mm256_fnmadd_ps(_mm256_mul_ps(tile.dmin[h], dx), _mm256_cvtepi32_ps(min), *acc);
                }
            }
        }
    }
}

/// The same for blocks of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply32<T: Type32, const N: usize>(
    tiles: &[Tile32],
    first: usize,
    x: &View,
    tokens: &[usize; N],
    sums: &mut [[__m256; 2]; N],
) {
    let blocks = x.cols / 32;
    let mut acc = *sums;
    for (i, tile) in tiles.iter().enumerate() {
        let b = first + i;
        let mut dot = [[_mm256_setzero_si256(); 2]; N];
        for s in 0..16 {
            let w = tile.w[s];
            for n in 0..N {
                let xq = splat4(x.q.add(2 * (tokens[n] * x.cols + b * 32) + 4 * (s / 2) + 32 * (s % 2)));
                dot[n][0] = _mm256_add_epi32(dot[n][0], _mm256_madd_epi16(w[0], xq));
                dot[n][1] = _mm256_add_epi32(dot[n][1], _mm256_madd_epi16(w[1], xq));
            }
        }
        for n in 0..N {
            for h in 0..2 {
                acc[n][h] = add_block::<T>(acc[n][h], dot[n][h], tile.d[h], tile.m[h], x, tokens[n] * blocks + b);
            }
        }
    }
    *sums = acc;
}
