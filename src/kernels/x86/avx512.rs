//! The inner loops with AVX-512 VNNI: 32 products of 16-bit pairs, added up, in one instruction.

use super::lanes::{load, sum8, twice, widen};
use super::panel256::Tile256;
use super::panel32::Tile32;
use super::unpack256::{Decoded, Mins, Type256};
use super::unpack32::Type32;
use super::{Isa, Rows, View};
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL and VNNI, with all that [`super::avx2::Avx2`] has.
pub(super) struct Avx512;

impl Isa for Avx512 {
    const FEW: usize = 4;
    const TILED: usize = 6;

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn direct256<T: Type256, const N: usize>(g: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N] {
        let blocks = x.cols / 256;
        let mut acc = [_mm256_setzero_ps(); N];
        let zero = _mm256_setzero_si256();
        let mut dots = [[zero; 8]; N];
        let mut mins = [[zero; 8]; N];
        let mut decoded = Decoded::ZERO;
        let scale_of: [__m512i; 4] = std::array::from_fn(|p| scale_places::<T>(p));
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
                let mut sum = [[_mm512_setzero_si512(); 2]; N];
                if T::SIGNED {
                    let first = _mm512_castsi256_si512(first);
                    for p in 0..4 {
                        let scale = _mm512_permutexvar_epi16(scale_of[p], first);
                        for (half, w) in widen512(join(q[2 * p], q[2 * p + 1])).into_iter().enumerate() {
                            let w = _mm512_mullo_epi16(w, scale);
                            for n in 0..N {
                                let xq = load512(x.q.add(2 * (tokens[n] * x.cols + b * 256) + 128 * p + 64 * half));
                                sum[n][half] = _mm512_dpwssd_epi32(sum[n][half], w, xq);
                            }
                        }
                    }
                } else {
                    let first = _mm512_cvtepi16_epi32(first);
                    for p in 0..4 {
                        let scale = _mm512_permutexvar_epi32(scale_of[p], first);
                        let w = join(q[2 * p], q[2 * p + 1]);
                        for n in 0..N {
                            let at = tokens[n] * x.cols + b * 256 + 64 * p;
                            let high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, load512(x.high.add(at)));
                            let dot = _mm512_dpbusd_epi32(_mm512_slli_epi32::<6>(high), w, load512(x.low.add(at)));
                            sum[n][p % 2] = _mm512_add_epi32(sum[n][p % 2], _mm512_mullo_epi32(dot, scale));
                        }
                    }
                }
                for n in 0..N {
                    let mut dot = halved(_mm512_add_epi32(sum[n][0], sum[n][1]));
                    if T::MINS != Mins::None {
                        let min = if T::SIXTEENS { second } else { twice(first) };
                        let at = tokens[n] * x.cols + b * 256;
                        let m = _mm256_madd_epi16(min, load(x.sums16.add(at / 16).cast()));
                        if T::MINS == Mins::Integer {
                            dot = _mm256_sub_epi32(dot, m);
                        } else {
                            mins[n][r] = m;
                        }
                    }
                    dots[n][r] = dot;
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

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
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
                    let dot = _mm256_dpwssd_epi32(_mm256_setzero_si256(), evens, load(xq));
                    dots[n][r] = _mm256_dpwssd_epi32(dot, odds, load(xq.add(32)));
                }
            }
            let (d, m) = T::floats(&g.at, b * T::BYTES);
            for n in 0..N {
                let index = tokens[n] * blocks + b;
                let mut dot = sum8(dots[n]);
                if T::ZERO != 0 {
                    dot = _mm256_sub_epi32(dot, _mm256_set1_epi32(T::ZERO * x.sum32(index)));
                }
                let dx = _mm256_set1_ps(*x.d.add(index));
                acc[n] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), acc[n]);
                if T::OFFSET {
                    acc[n] = _mm256_fmadd_ps(_mm256_mul_ps(m, dx), _mm256_set1_ps(x.sum32(index) as f32), acc[n]);
                }
            }
        }
        acc
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn tiles256<T: Type256>(tiles: &[Tile256], first: usize, x: &View, tokens: &[usize], sums: &mut [[__m256; 2]]) {
        let (chunks, rest) = tokens.as_chunks::<8>();
        let (to, sums) = sums.as_chunks_mut::<8>();
        for (t, s) in chunks.iter().zip(to) {
            multiply256::<T, 8>(tiles, first, x, t, s);
        }
        let (chunks, rest) = rest.as_chunks::<4>();
        let (to, sums) = sums.as_chunks_mut::<4>();
        for (t, s) in chunks.iter().zip(to) {
            multiply256::<T, 4>(tiles, first, x, t, s);
        }
        for (&t, s) in rest.iter().zip(sums) {
            multiply256::<T, 1>(tiles, first, x, &[t], std::array::from_mut(s));
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn tiles32<T: Type32>(tiles: &[Tile32], first: usize, x: &View, tokens: &[usize], sums: &mut [[__m256; 2]]) {
        let (chunks, rest) = tokens.as_chunks::<8>();
        let (to, sums) = sums.as_chunks_mut::<8>();
        for (t, s) in chunks.iter().zip(to) {
            multiply32::<T, 8>(tiles, first, x, t, s);
        }
        let (chunks, rest) = rest.as_chunks::<4>();
        let (to, sums) = sums.as_chunks_mut::<4>();
        for (t, s) in chunks.iter().zip(to) {
            multiply32::<T, 4>(tiles, first, x, t, s);
        }
        for (&t, s) in rest.iter().zip(sums) {
            multiply32::<T, 1>(tiles, first, x, &[t], std::array::from_mut(s));
        }
    }
}

/// The even and the odd signed bytes of a vector as words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn widen512(v: __m512i) -> [__m512i; 2] {
    [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(v)), _mm512_srai_epi16::<8>(v)]
}

/// For the elements `64 * p..`: which of the scales belongs to a lane. Signed types have words of every second element in a lane,
/// the others sums of four elements.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn scale_places<T: Type256>(p: usize) -> __m512i {
    let group = |element: usize| (64 * p + element) / if T::SIXTEENS { 16 } else { 32 };
    // SAFETY: 64 bytes.
    unsafe {
        if T::SIGNED {
            let lanes: [i16; 32] = std::array::from_fn(|lane| group(2 * lane) as i16);
            _mm512_loadu_si512(lanes.as_ptr().cast())
        } else {
            let lanes: [i32; 16] = std::array::from_fn(|lane| group(4 * lane) as i32);
            _mm512_loadu_si512(lanes.as_ptr().cast())
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn join(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// The sum of the two halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn halved(v: __m512i) -> __m256i {
    _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
}

/// # Safety
/// 64 readable bytes at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn load512(p: *const u8) -> __m512i {
    _mm512_loadu_si512(p.cast())
}

/// A pair of words in all sixteen lanes.
///
/// # Safety
/// Four readable bytes at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn splat(p: *const u8) -> __m512i {
    _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
}

/// Sixteen rows of one token.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn floats(v: &[__m256; 2]) -> __m512 {
    // SAFETY: two vectors in an array are 64 bytes.
    unsafe { _mm512_loadu_ps(v.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn words(v: &[__m256i; 2]) -> __m512i {
    // SAFETY: two vectors in an array are 64 bytes.
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

/// `N` tokens against the panel's rows, from block `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply256<T: Type256, const N: usize>(
    tiles: &[Tile256],
    first: usize,
    x: &View,
    tokens: &[usize; N],
    sums: &mut [[__m256; 2]; N],
) {
    let zero = _mm512_setzero_si512();
    for (i, tile) in tiles.iter().enumerate() {
        let b = first + i;
        let mut dot = [zero; N];
        let rows: [*const u8; N] = std::array::from_fn(|n| x.q.add(2 * (tokens[n] * x.cols + b * 256)));
        for j in 0..8 {
            for s in 0..16 {
                let w = words(&tile.w[16 * j + s]);
                // Pairs of even elements at even `s`, of odd ones at odd `s`.
                let at = 128 * (j / 2) + 32 * (j % 2) + 4 * (s / 2) + 64 * (s % 2);
                for n in 0..N {
                    dot[n] = _mm512_dpwssd_epi32(dot[n], w, splat(rows[n].add(at)));
                }
            }
        }
        let d = floats(&tile.d);
        for n in 0..N {
            let at = tokens[n] * x.cols + b * 256;
            let dx = _mm512_set1_ps(*x.d.add(at / 256));
            let mut min = zero;
            if T::MINS != Mins::None {
                for k in 0..8 {
                    min = _mm512_dpwssd_epi32(min, words(&tile.min[k]), splat(x.sums16.add(at / 16 + 2 * k).cast()));
                }
            }
            let dot = if T::MINS == Mins::Integer { _mm512_sub_epi32(dot[n], min) } else { dot[n] };
            let mut acc = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dot), floats(&sums[n]));
            if T::MINS == Mins::Scaled {
                acc = _mm512_fnmadd_ps(_mm512_mul_ps(floats(&tile.dmin), dx), _mm512_cvtepi32_ps(min), acc);
            }
            _mm512_storeu_ps(sums[n].as_mut_ptr().cast(), acc);
        }
    }
}

/// The same for blocks of 32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply32<T: Type32, const N: usize>(
    tiles: &[Tile32],
    first: usize,
    x: &View,
    tokens: &[usize; N],
    sums: &mut [[__m256; 2]; N],
) {
    let blocks = x.cols / 32;
    let mut acc: [__m512; N] = std::array::from_fn(|n| floats(&sums[n]));
    for (i, tile) in tiles.iter().enumerate() {
        let b = first + i;
        let mut dot = [_mm512_setzero_si512(); N];
        for s in 0..16 {
            let w = words(&tile.w[s]);
            for n in 0..N {
                let xq = x.q.add(2 * (tokens[n] * x.cols + b * 32) + 4 * (s / 2) + 32 * (s % 2));
                dot[n] = _mm512_dpwssd_epi32(dot[n], w, splat(xq));
            }
        }
        for n in 0..N {
            let index = tokens[n] * blocks + b;
            let dx = _mm512_set1_ps(*x.d.add(index));
            acc[n] = _mm512_fmadd_ps(_mm512_mul_ps(floats(&tile.d), dx), _mm512_cvtepi32_ps(dot[n]), acc[n]);
            if T::OFFSET {
                acc[n] = _mm512_fmadd_ps(_mm512_mul_ps(floats(&tile.m), dx), _mm512_set1_ps(x.sum32(index) as f32), acc[n]);
            }
        }
    }
    for n in 0..N {
        _mm512_storeu_ps(sums[n].as_mut_ptr().cast(), acc[n]);
    }
}
