//! A few floats side by side, as an instruction set has them.

#![allow(unsafe_code)]

use half::f16;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// What a cache keeps.
///
/// # Safety
/// As of [`Vector`].
pub(super) trait Element: Copy {
    /// As 32-bit floats.
    unsafe fn load<V: Vector>(from: *const Self) -> V;
    /// A single one.
    fn float(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: by the trait's contract.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    fn float(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: by the trait's contract.
        unsafe { V::widen(from) }
    }
    #[inline(always)]
    fn float(self) -> f32 {
        self.to_f32()
    }
}

/// Floats that are loaded, multiplied and added together.
///
/// # Safety
/// The machine has the instructions, and pointers lead to [`Vector::LANES`] floats.
pub(super) trait Vector: Copy {
    /// How many.
    const LANES: usize;
    /// How many of them a tile has side by side for each query: with four queries as many sums as registers hold.
    const SIDE: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// As many 16-bit floats.
    unsafe fn widen(from: *const f16) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `a * b + self`.
    unsafe fn plus(self, a: Self, b: Self) -> Self;
    /// The same of single floats, rounded as often.
    #[inline(always)]
    fn one(a: f32, b: f32, sum: f32) -> f32 {
        a.mul_add(b, sum)
    }
}

/// Plain Rust; FMA: rounded once, which is quick only where there is an instruction for it.
#[derive(Clone, Copy)]
pub(super) struct Plain<const LANES: usize, const FMA: bool>([f32; LANES]);

impl<const LANES: usize, const FMA: bool> Vector for Plain<LANES, FMA> {
    const LANES: usize = LANES;
    const SIDE: usize = 1;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn widen(from: *const f16) -> Self {
        // SAFETY: by the trait's contract.
        let halves = unsafe { from.cast::<[f16; LANES]>().read_unaligned() };
        Self(halves.map(f16::to_f32))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn plus(mut self, a: Self, b: Self) -> Self {
        for i in 0..LANES {
            self.0[i] = Self::one(a.0[i], b.0[i], self.0[i]);
        }
        self
    }
    #[inline(always)]
    fn one(a: f32, b: f32, sum: f32) -> f32 {
        if FMA {
            a.mul_add(b, sum)
        } else {
            a * b + sum
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m256 {
    const LANES: usize = 8;
    const SIDE: usize = 2;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const f16) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_storeu_ps(to, self) };
    }
    #[inline(always)]
    unsafe fn plus(self, a: Self, b: Self) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    const LANES: usize = 16;
    const SIDE: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn widen(from: *const f16) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_storeu_ps(to, self) };
    }
    #[inline(always)]
    unsafe fn plus(self, a: Self, b: Self) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }
}
