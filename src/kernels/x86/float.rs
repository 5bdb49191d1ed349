//! Products with plain float weights: float activations, f32 sums in eight lanes by `column % 8`.

use super::lanes::{prefetch, reduce8};
use std::arch::x86_64::*;

/// A float type read eight at a time.
///
/// # Safety
/// Both need AVX2 and F16C; `eight` needs eight readable elements at `p`.
pub(super) trait Float {
    const BYTES: usize;
    unsafe fn eight(p: *const u8) -> __m256;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl Float for F32 {
    const BYTES: usize = 4;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(p: *const u8) -> __m256 {
        _mm256_loadu_ps(p.cast())
    }
}

impl Float for F16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(p: *const u8) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
    }
}

impl Float for BF16 {
    const BYTES: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight(p: *const u8) -> __m256 {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()))))
    }
}

/// One row as f32.
///
/// # Safety
/// AVX2 and F16C; `row` has as many readable elements as `out`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn widen<T: Float>(row: *const u8, ahead: usize, out: &mut [f32]) {
    let (chunks, rest) = out.as_chunks_mut::<8>();
    for (i, to) in chunks.iter_mut().enumerate() {
        let p = row.add(8 * i * T::BYTES);
        if 8 * i * T::BYTES % 64 == 0 {
            prefetch(p.wrapping_add(ahead), 1);
        }
        _mm256_storeu_ps(to.as_mut_ptr(), T::eight(p));
    }
    if !rest.is_empty() {
        let mut last = [0u8; 32];
        std::ptr::copy_nonoverlapping(row.add(8 * chunks.len() * T::BYTES), last.as_mut_ptr(), rest.len() * T::BYTES);
        let mut wide = [0f32; 8];
        _mm256_storeu_ps(wide.as_mut_ptr(), T::eight(last.as_ptr()));
        rest.copy_from_slice(&wide[..rest.len()]);
    }
}

/// `R` rows against `N` tokens: `out[n][r]`.
///
/// # Safety
/// AVX2, FMA and F16C; every row has `cols` readable elements, every `x` as many floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile<T: Float, const R: usize, const N: usize>(
    rows: [*const u8; R],
    ahead: usize,
    x: [*const f32; N],
    cols: usize,
) -> [[f32; R]; N] {
    let mut acc = [[_mm256_setzero_ps(); R]; N];
    let whole = cols / 8 * 8;
    let mut c = 0;
    while c < whole {
        let mut xs = [_mm256_setzero_ps(); N];
        for n in 0..N {
            xs[n] = _mm256_loadu_ps(x[n].add(c));
        }
        if N <= 2 && ahead > 0 && c * T::BYTES % 64 == 0 {
            // In the order of memory, which is not that of use.
            prefetch(rows[0].wrapping_add(ahead + c * T::BYTES * R), 64 * R);
        }
        for r in 0..R {
            let p = rows[r].add(c * T::BYTES);
            let w = T::eight(p);
            for n in 0..N {
                acc[n][r] = _mm256_fmadd_ps(w, xs[n], acc[n][r]);
            }
        }
        c += 8;
    }
    if whole < cols {
        // The last columns, with zeros behind them.
        let rest = cols - whole;
        let mut w8 = [[0u8; 32]; R];
        let mut x8 = [[0f32; 8]; N];
        for r in 0..R {
            std::ptr::copy_nonoverlapping(rows[r].add(whole * T::BYTES), w8[r].as_mut_ptr(), rest * T::BYTES);
        }
        for n in 0..N {
            std::ptr::copy_nonoverlapping(x[n].add(whole), x8[n].as_mut_ptr(), rest);
            for r in 0..R {
                acc[n][r] = _mm256_fmadd_ps(T::eight(w8[r].as_ptr()), _mm256_loadu_ps(x8[n].as_ptr()), acc[n][r]);
            }
        }
    }
    let mut out = [[0.0; R]; N];
    for n in 0..N {
        for r in 0..R {
            out[n][r] = reduce8(acc[n][r]);
        }
    }
    out
}
