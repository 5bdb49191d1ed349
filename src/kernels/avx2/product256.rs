//! Products with blocks of 256 elements, eight weight rows at a time, one row in each lane.
//!
//! Few tokens: weights are unpacked in registers, and each row's dot is summed across lanes once a block.
//! Many tokens: eight rows are unpacked and interleaved once into a panel in the first cache levels, four bytes of each row side by
//! side, so that four activations go to all rows by one broadcast and no sums across lanes are needed. Pairs of `u8 * i8` products
//! then add up in 16 bits as long as they fit, which saves a third of the work against widening each.

use super::lanes::{half_pairs, halves, interleave4, load, opaque, prefetch, splat4, sum4x2, sum8, transpose8};
use super::unpack256::{Mins, Type256};
use super::{Group, View};
use std::arch::x86_64::*;

/// Blocks of a panel: 2048 columns of eight rows are 16 KiB, which leaves room for activations in the first cache.
const PANEL: usize = 8;

/// One block of eight rows, interleaved.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
pub(super) struct Tile256 {
    /// Four elements of each of the eight rows, 64 times.
    q: [__m256i; 64],
    /// The scale of a group of elements, twice for every row.
    scale: [__m256i; 16],
    /// Mins of two neighbouring groups for every row.
    min: [__m256i; 8],
    d: __m256,
    dmin: __m256,
}

/// Panel memory of a thread.
pub(super) struct Panel256(Box<[Tile256]>);

impl Default for Panel256 {
    fn default() -> Self {
        // SAFETY: all fields are plain vectors, for which zero is a value.
        Self(vec![unsafe { std::mem::zeroed() }; PANEL].into_boxed_slice())
    }
}

/// Up to `N` tokens against eight rows.
///
/// # Safety
/// AVX2, FMA and F16C; pointers of `g` and `x` as their types say; `tokens` are rows of `x`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn direct<T: Type256, const N: usize>(g: &Group, x: &View, tokens: [usize; N]) -> [__m256; N] {
    let blocks = x.cols / 256;
    let mut acc = [_mm256_setzero_ps(); N];
    let zero = _mm256_setzero_si256();
    let mut dots = [[zero; 8]; N];
    let mut mins = [[zero; 8]; N];
    for b in 0..blocks {
        for r in 0..8 {
            let block = g.rows[r].add(b * T::BYTES);
            prefetch(block.wrapping_add(g.ahead), T::BYTES);
            let mut pieces = [zero; 6];
            for (piece, &at) in pieces.iter_mut().zip(T::PIECES) {
                *piece = load(block.add(at));
            }
            let q = T::elements(&pieces);
            let (first, second) = T::tables(block);
            // The scale of each half of vector `j`, at index `j` of that half.
            let spread = if T::SIXTEENS {
                let evens_odds = _mm256_setr_epi8(
                    0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
                );
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(first, evens_odds))
            } else {
                _mm256_permute2x128_si256::<0x00>(first, first)
            };
            // Opaque, or the compiler finds "better" shuffles for the known structure: two for each instead of one.
            let (lo, hi) = (opaque(_mm256_unpacklo_epi16(spread, spread)), opaque(_mm256_unpackhi_epi16(spread, spread)));
            let scale = [
                _mm256_shuffle_epi32::<0x00>(lo),
                _mm256_shuffle_epi32::<0x55>(lo),
                _mm256_shuffle_epi32::<0xaa>(lo),
                _mm256_shuffle_epi32::<0xff>(lo),
                _mm256_shuffle_epi32::<0x00>(hi),
                _mm256_shuffle_epi32::<0x55>(hi),
                _mm256_shuffle_epi32::<0xaa>(hi),
                _mm256_shuffle_epi32::<0xff>(hi),
            ];
            for n in 0..N {
                let at = tokens[n] * x.cols + b * 256;
                let xq = x.q.add(at);
                let mut sum = [zero; 2];
                for j in 0..8 {
                    let p = _mm256_maddubs_epi16(q[j], load(xq.add(32 * j)));
                    sum[j % 2] = _mm256_add_epi32(sum[j % 2], _mm256_madd_epi16(p, scale[j]));
                }
                let mut sum = _mm256_add_epi32(sum[0], sum[1]);
                if T::SIXTEENS {
                    let m = _mm256_madd_epi16(second, load(x.sums16.add(at / 16).cast()));
                    if T::MINS == Mins::Integer {
                        sum = _mm256_sub_epi32(sum, m);
                    } else {
                        mins[n][r] = m;
                    }
                } else {
                    let m = _mm256_extracti128_si256::<1>(first);
                    let m = _mm_madd_epi16(m, _mm_loadu_si128(x.sums32.add(at / 32).cast()));
                    // Rows r and r + 4 share a vector.
                    mins[n][r % 4] = if r < 4 { _mm256_castsi128_si256(m) } else { _mm256_inserti128_si256::<1>(mins[n][r % 4], m) };
                }
                dots[n][r] = sum;
            }
        }
        let at = b * T::BYTES;
        let (d, dmin) = if T::MINS == Mins::Scaled {
            half_pairs(&g.rows, at + T::D)
        } else {
            let d = halves(&g.rows, at + T::D);
            (d, d)
        };
        for n in 0..N {
            let dx = _mm256_set1_ps(*x.d.add(tokens[n] * blocks + b));
            acc[n] = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(sum8(dots[n])), acc[n]);
            if T::MINS == Mins::Scaled {
                let m = if T::SIXTEENS { sum8(mins[n]) } else { sum4x2([mins[n][0], mins[n][1], mins[n][2], mins[n][3]]) };
                acc[n] = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, dx), _mm256_cvtepi32_ps(m), acc[n]);
            }
        }
    }
    acc
}

/// Any number of tokens against eight rows; `sums` holds `[tokens][8]` and gets the results.
///
/// # Safety
/// As [`direct`]; every index in `tokens` is a row of `x`, and `sums` is as long as `tokens`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tiled<T: Type256>(panel: &mut Panel256, g: &Group, x: &View, tokens: &[usize], sums: &mut [__m256]) {
    sums.fill(_mm256_setzero_ps());
    let blocks = x.cols / 256;
    let mut first = 0;
    while first < blocks {
        let count = PANEL.min(blocks - first);
        for (i, tile) in panel.0[..count].iter_mut().enumerate() {
            fill::<T>(tile, g, (first + i) * T::BYTES);
        }
        let tiles = &panel.0[..count];
        let (chunks, rest) = tokens.as_chunks::<4>();
        for (t, s) in chunks.iter().zip(sums.as_chunks_mut::<4>().0) {
            multiply::<T, 4>(tiles, first, x, t, s);
        }
        let at = chunks.len() * 4;
        match rest.len() {
            1 => multiply::<T, 1>(tiles, first, x, &[rest[0]], (&mut sums[at..]).try_into().expect("one is left")),
            2 => multiply::<T, 2>(tiles, first, x, &[rest[0], rest[1]], (&mut sums[at..]).try_into().expect("two are left")),
            3 => multiply::<T, 3>(tiles, first, x, &[rest[0], rest[1], rest[2]], (&mut sums[at..]).try_into().expect("three are left")),
            _ => {}
        }
        first += count;
    }
}

/// Unpack and interleave one block of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fill<T: Type256>(tile: &mut Tile256, g: &Group, at: usize) {
    let zero = _mm256_setzero_si256();
    let mut tables = [[zero; 8]; 2];
    for r in 0..8 {
        let block = g.rows[r].add(at);
        prefetch(block.wrapping_add(g.ahead), T::BYTES);
        (tables[0][r], tables[1][r]) = T::tables(block);
    }
    // Interleaved first and unpacked then: packed bytes are fewer to move.
    for half in 0..2 {
        let mut pieces = [[zero; 6]; 4];
        for (i, &piece) in T::PIECES.iter().enumerate() {
            for (k, v) in interleave4(&g.rows, at + piece + 16 * half).into_iter().enumerate() {
                pieces[k][i] = v;
            }
        }
        for (k, piece) in pieces.iter().enumerate() {
            for (j, v) in T::elements(piece).into_iter().enumerate() {
                tile.q[8 * j + 4 * half + k] = v;
            }
        }
    }
    let pairs = transpose8(tables[0]);
    let twice = |v: &mut [__m256i], pair: __m256i| {
        let low = _mm256_and_si256(pair, _mm256_set1_epi32(0xffff));
        v[0] = _mm256_or_si256(low, _mm256_slli_epi32::<16>(low));
        let high = _mm256_srli_epi32::<16>(pair);
        v[1] = _mm256_or_si256(high, _mm256_slli_epi32::<16>(high));
    };
    if T::SIXTEENS {
        for k in 0..8 {
            twice(&mut tile.scale[2 * k..2 * k + 2], pairs[k]);
        }
        tile.min = transpose8(tables[1]);
    } else {
        for k in 0..4 {
            twice(&mut tile.scale[2 * k..2 * k + 2], pairs[k]);
            tile.min[k] = pairs[4 + k];
        }
    }
    if T::MINS == Mins::Scaled {
        (tile.d, tile.dmin) = half_pairs(&g.rows, at + T::D);
    } else {
        tile.d = halves(&g.rows, at + T::D);
    }
}

/// `N` tokens against the panel's rows, from block `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<T: Type256, const N: usize>(tiles: &[Tile256], first: usize, x: &View, tokens: &[usize; N], sums: &mut [__m256; N]) {
    let zero = _mm256_setzero_si256();
    let blocks = x.cols / 256;
    let mut acc = *sums;
    for (i, tile) in tiles.iter().enumerate() {
        let b = first + i;
        let mut xq = [x.q; N];
        for n in 0..N {
            xq[n] = x.q.add(tokens[n] * x.cols + b * 256);
        }
        let mut dot = [zero; N];
        let (groups, steps) = if T::SIXTEENS { (16, 4) } else { (8, 8) };
        for k in 0..groups {
            let mut s = 0;
            while s < steps {
                let mut sum = [zero; N];
                for step in k * steps + s..k * steps + s + T::RUN {
                    let w = tile.q[step];
                    for n in 0..N {
                        sum[n] = _mm256_add_epi16(sum[n], _mm256_maddubs_epi16(w, splat4(xq[n].add(4 * step))));
                    }
                }
                for n in 0..N {
                    dot[n] = _mm256_add_epi32(dot[n], _mm256_madd_epi16(sum[n], tile.scale[k]));
                }
                s += T::RUN;
            }
        }
        let mut min = [zero; N];
        for k in 0..groups / 2 {
            for n in 0..N {
                let at = tokens[n] * x.cols + b * 256;
                let pair = if T::SIXTEENS { x.sums16.add(at / 16 + 2 * k) } else { x.sums32.add(at / 32 + 2 * k) };
                min[n] = _mm256_add_epi32(min[n], _mm256_madd_epi16(tile.min[k], splat4(pair.cast())));
            }
        }
        for n in 0..N {
            let dx = _mm256_set1_ps(*x.d.add(tokens[n] * blocks + b));
            let d = _mm256_mul_ps(tile.d, dx);
            if T::MINS == Mins::Scaled {
                acc[n] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(dot[n]), acc[n]);
                acc[n] = _mm256_fnmadd_ps(_mm256_mul_ps(tile.dmin, dx), _mm256_cvtepi32_ps(min[n]), acc[n]);
            } else {
                acc[n] = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[n], min[n])), acc[n]);
            }
        }
    }
    *sums = acc;
}
