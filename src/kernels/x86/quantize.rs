//! Rounding activations to integers.

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
        let (inverse, d) = super::super::activations::scale(lanes.into_iter().max().unwrap_or(0), block);
        to.d[i] = d;
        let inverse = _mm256_set1_ps(inverse);
        // Within half of a vector: even elements first.
        let sorted = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
        for (j, v) in x.as_chunks::<32>().0.iter().enumerate() {
            let at = |k: usize| _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(v.as_ptr().add(8 * k)), inverse));
            let sixteen = |k: usize| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(at(k), at(k + 1)));
            let words = [sixteen(0), sixteen(2)];
            let (a, b) = (_mm256_shuffle_epi8(words[0], sorted), _mm256_shuffle_epi8(words[1], sorted));
            let evens = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_unpacklo_epi64(a, b));
            let odds = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_unpackhi_epi64(a, b));
            let first = i * block + 32 * j;
            let (at, apart) = if block == 32 { (first, 16) } else { (first / 64 * 64 + first % 64 / 2, 32) };
            _mm256_storeu_si256(to.q[at..at + 16].as_mut_ptr().cast(), evens);
            _mm256_storeu_si256(to.q[at + apart..at + apart + 16].as_mut_ptr().cast(), odds);
            // The sums of 16 elements in all lanes of each half.
            let pairs = |v: __m256i| {
                let fours = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
                _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b01_00_11_10>(fours))
            };
            let sums = _mm256_add_epi32(pairs(evens), pairs(odds));
            let sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
            let sums = [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)];
            if block == 32 {
                to.sums32[first / 32] = sums[0] + sums[1];
                continue;
            }
            to.sums16[first / 16] = sums[0] as i16;
            to.sums16[first / 16 + 1] = sums[1] as i16;
            let high = words.map(|w| _mm256_srai_epi16::<6>(_mm256_add_epi16(w, _mm256_set1_epi16(32))));
            let low = [0, 1].map(|i| _mm256_sub_epi16(words[i], _mm256_slli_epi16::<6>(high[i])));
            let bytes = |v: [__m256i; 2]| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi16(v[0], v[1]));
            _mm256_storeu_si256(to.high[first..first + 32].as_mut_ptr().cast(), bytes(high));
            _mm256_storeu_si256(to.low[first..first + 32].as_mut_ptr().cast(), bytes(low));
        }
    }
}
