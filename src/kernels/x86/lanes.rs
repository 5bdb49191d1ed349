//! Moving values between lanes: sums across, transposes, gathers.

use std::arch::x86_64::*;

/// Lane `r` of the result is the sum of the lanes of `v[r]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum8(v: [__m256i; 8]) -> __m256i {
    let a = pairs64(pairs32(v[0], v[1]), pairs32(v[2], v[3]));
    let b = pairs64(pairs32(v[4], v[5]), pairs32(v[6], v[7]));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs32(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs64(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b))
}

/// Lane `r` of `out[k]` is lane `k` of `v[r]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transpose8(v: [__m256i; 8]) -> [__m256i; 8] {
    let lo = |i: usize| _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    let hi = |i: usize| _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    let a = [lo(0), hi(0), lo(1), hi(1), lo(2), hi(2), lo(3), hi(3)];
    let q = [
        _mm256_unpacklo_epi64(a[0], a[2]),
        _mm256_unpackhi_epi64(a[0], a[2]),
        _mm256_unpacklo_epi64(a[1], a[3]),
        _mm256_unpackhi_epi64(a[1], a[3]),
        _mm256_unpacklo_epi64(a[4], a[6]),
        _mm256_unpackhi_epi64(a[4], a[6]),
        _mm256_unpacklo_epi64(a[5], a[7]),
        _mm256_unpackhi_epi64(a[5], a[7]),
    ];
    [
        _mm256_permute2x128_si256::<0x20>(q[0], q[4]),
        _mm256_permute2x128_si256::<0x20>(q[1], q[5]),
        _mm256_permute2x128_si256::<0x20>(q[2], q[6]),
        _mm256_permute2x128_si256::<0x20>(q[3], q[7]),
        _mm256_permute2x128_si256::<0x31>(q[0], q[4]),
        _mm256_permute2x128_si256::<0x31>(q[1], q[5]),
        _mm256_permute2x128_si256::<0x31>(q[2], q[6]),
        _mm256_permute2x128_si256::<0x31>(q[3], q[7]),
    ]
}

/// 16 bytes of each row at `at`: lane `r` of `out[k]` is the `k`th four bytes of row `r`.
///
/// # Safety
/// `rows[r] + at` must point to 16 readable bytes for every `r`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn interleave4(rows: &[*const u8; 8], at: usize) -> [__m256i; 4] {
    let load = |r: usize| _mm_loadu_si128(rows[r].add(at).cast());
    let both = |r: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(r)), load(r + 4));
    let v = [both(0), both(1), both(2), both(3)];
    let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpacklo_epi32(v[2], v[3]));
    let (c, d) = (_mm256_unpackhi_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[2], v[3]));
    [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b), _mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d)]
}

/// Eight f16 values, one per row, as f32.
///
/// # Safety
/// `rows[r] + at` must point to two readable bytes for every `r`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn halves(rows: &[*const u8; 8], at: usize) -> __m256 {
    let h = |r: usize| rows[r].add(at).cast::<i16>().read_unaligned();
    let v = _mm_set_epi16(h(7), h(6), h(5), h(4), h(3), h(2), h(1), h(0));
    _mm256_cvtph_ps(v)
}

/// Two neighbouring f16 values of each row.
///
/// # Safety
/// `rows[r] + at` must point to four readable bytes for every `r`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn half_pairs(rows: &[*const u8; 8], at: usize) -> (__m256, __m256) {
    let p = |r: usize| rows[r].add(at).cast::<i32>().read_unaligned();
    let v = _mm256_set_epi32(p(7), p(6), p(5), p(4), p(3), p(2), p(1), p(0));
    let apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    let v = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(v, apart));
    (_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(v)))
}

/// The even and the odd bytes of a vector as words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(v: __m256i, signed: bool) -> [__m256i; 2] {
    if signed {
        [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v)), _mm256_srai_epi16::<8>(v)]
    } else {
        [_mm256_and_si256(v, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(v)]
    }
}

/// From 16 scales of groups of 16 (or in the low half eight of groups of 32): in vector `j` those of the groups of elements
/// `32 * j..`, one in each half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales_for_halves(scales: __m256i, sixteens: bool) -> [__m256i; 8] {
    let spread = if sixteens {
        let evens_odds =
            _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(scales, evens_odds))
    } else {
        _mm256_permute2x128_si256::<0x00>(scales, scales)
    };
    // Opaque, or the compiler finds "better" shuffles for the known structure: two for each instead of one.
    let (lo, hi) = (opaque(_mm256_unpacklo_epi16(spread, spread)), opaque(_mm256_unpackhi_epi16(spread, spread)));
    [
        _mm256_shuffle_epi32::<0x00>(lo),
        _mm256_shuffle_epi32::<0x55>(lo),
        _mm256_shuffle_epi32::<0xaa>(lo),
        _mm256_shuffle_epi32::<0xff>(lo),
        _mm256_shuffle_epi32::<0x00>(hi),
        _mm256_shuffle_epi32::<0x55>(hi),
        _mm256_shuffle_epi32::<0xaa>(hi),
        _mm256_shuffle_epi32::<0xff>(hi),
    ]
}

/// The eight words of the high half, each twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn twice(v: __m256i) -> __m256i {
    let v = _mm256_permute2x128_si256::<0x11>(v, v);
    _mm256_blend_epi32::<0xf0>(_mm256_unpacklo_epi16(v, v), _mm256_unpackhi_epi16(v, v))
}

/// The same value, of which the compiler knows nothing more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn opaque(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// The same number, of which the compiler knows nothing more: it would else compute table indices in vectors and take them apart again.
#[inline(always)]
pub(super) fn scalar(mut v: usize) -> usize {
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}

/// The eight lanes in the fixed order of `scalar::reduce8`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn reduce8(v: __m256) -> f32 {
    let t = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let u = _mm_add_ps(t, _mm_movehl_ps(t, t));
    _mm_cvtss_f32(_mm_add_ss(u, _mm_shuffle_ps::<1>(u, u)))
}

/// # Safety
/// 32 readable bytes at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn load(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p.cast())
}

/// Four bytes in all eight lanes.
///
/// # Safety
/// Four readable bytes at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn splat4(p: *const u8) -> __m256i {
    _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
}

/// Ask for the cache lines of `bytes` bytes at `p`, which need not be readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn prefetch(p: *const u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        // SAFETY: a prefetch never faults, whatever the address. Newer compilers know that.
        #[allow(unused_unsafe)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(at).cast())
        };
        at += 64;
    }
}
