//! Rounding activations to bytes.

use super::super::activations::Blocks;
use std::arch::x86_64::*;

/// As [`super::super::activations::quantize`], bit for bit.
///
/// # Safety
/// AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) unsafe fn quantize(x: &[f32], block: usize, to: &mut Blocks<'_>) {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    for (i, x) in x.chunks_exact(block).enumerate() {
        let mut max = _mm256_setzero_si256();
        for v in x.as_chunks::<8>().0 {
            // The bits of magnitudes sort like their values, and those that are not finite last.
            max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_loadu_si256(v.as_ptr().cast()), magnitude));
        }
        let mut lanes = [0u32; 8];
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), max);
        let (inverse, d) = super::super::activations::scale(lanes.into_iter().max().unwrap_or(0));
        to.d[i] = d;
        let inverse = _mm256_set1_ps(inverse);
        for (j, v) in x.as_chunks::<32>().0.iter().enumerate() {
            let at = |k: usize| _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(v.as_ptr().add(8 * k)), inverse));
            let words = _mm256_packs_epi16(_mm256_packs_epi32(at(0), at(1)), _mm256_packs_epi32(at(2), at(3)));
            let q = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            let index = i * block / 32 + j;
            _mm256_storeu_si256(to.q[32 * index..32 * index + 32].as_mut_ptr().cast(), q);
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            let eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b01_00_11_10>(fours));
            let sums = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0b10_11_00_01>(eights));
            let a = _mm256_extract_epi32::<0>(sums) as i16;
            let b = _mm256_extract_epi32::<4>(sums) as i16;
            to.sums16[2 * index] = a;
            to.sums16[2 * index + 1] = b;
            to.sums32[index] = a + b;
        }
    }
}
