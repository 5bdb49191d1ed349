//! Products with AVX2, FMA and F16C.

#![allow(unsafe_code)]
// Lanes and rows index several arrays at once here; the loops are unrolled.
#![allow(clippy::needless_range_loop)]

mod float;
mod lanes;
mod product256;
mod product32;
mod quantize;
mod unpack256;

use super::activations::{Activations, Quantized};
use super::product::Part;
use crate::gguf::GgmlType;
use float::Float;
use product256::Panel256;
use product32::{Panel32, Type32};
pub(super) use quantize::quantize;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use unpack256::Type256;

/// From how many tokens on unpacking eight rows into a panel pays; fewer go two by two over the packed rows. Measured: four
/// tokens are a fifth slower by panel.
const TILED: usize = 6;

/// Rows to prefetch ahead: two groups, since a group takes less time than memory needs to answer. Measured: eight cost 5 %,
/// four 20 %, none 40 % of the speed of one token.
const AHEAD: usize = 16;

/// From how many tokens on 16-bit floats are widened once into scratch instead of once for every three tokens.
const WIDENED: usize = 6;

/// Whether this machine has what the functions here need.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Eight weight rows. Where the matrix has fewer left, the last one is repeated.
struct Group {
    /// Starts of the rows, each with `cols` readable elements.
    rows: [*const u8; 8],
    /// Bytes from a row to the one that this thread computes next, for prefetching.
    ahead: usize,
}

/// Quantized activations: `[tokens, cols]` and what belongs to it.
struct View {
    q: *const u8,
    d: *const f32,
    sums16: *const i16,
    sums32: *const i16,
    cols: usize,
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    panel256: Panel256,
    panel32: Panel32,
    tokens: Vec<usize>,
    sums: Vec<__m256>,
    wide: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Rows `rows` of the part.
///
/// # Safety
/// [`available`]; `part` was checked by `matmul`, its type has a product, and no other thread writes these rows of its output.
pub(super) unsafe fn run(part: &Part<'_>, x: &Activations, rows: Range<usize>) {
    // SAFETY: passed on from here.
    SCRATCH.with_borrow_mut(|s| unsafe { run_with(part, x, rows, s) });
}

/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_with(part: &Part<'_>, x: &Activations, rows: Range<usize>, s: &mut Scratch) {
    use GgmlType as T;
    s.tokens.clear();
    match part.pick {
        Some(pick) => s.tokens.extend(pick.iter().map(|&t| t as usize)),
        None => s.tokens.extend(0..part.tokens),
    }
    let v256 = View::new(&x.by256, x.cols);
    let v32 = View::new(&x.by32, x.cols);
    match part.ty {
        T::Q2K => quantized::<Of256<unpack256::Q2K>>(part, &v256, rows, s),
        T::Q3K => quantized::<Of256<unpack256::Q3K>>(part, &v256, rows, s),
        T::Q4K => quantized::<Of256<unpack256::Q4K>>(part, &v256, rows, s),
        T::Q5K => quantized::<Of256<unpack256::Q5K>>(part, &v256, rows, s),
        T::Q6K => quantized::<Of256<unpack256::Q6K>>(part, &v256, rows, s),
        T::Q4_0 => quantized::<Of32<product32::Q4_0>>(part, &v32, rows, s),
        T::Q4_1 => quantized::<Of32<product32::Q4_1>>(part, &v32, rows, s),
        T::Q5_0 => quantized::<Of32<product32::Q5_0>>(part, &v32, rows, s),
        T::Q5_1 => quantized::<Of32<product32::Q5_1>>(part, &v32, rows, s),
        T::Q8_0 => quantized::<Of32<product32::Q8_0>>(part, &v32, rows, s),
        T::F16 => plain::<float::F16>(part, x, rows, s),
        T::BF16 => plain::<float::BF16>(part, x, rows, s),
        _ => plain::<float::F32>(part, x, rows, s),
    }
}

impl View {
    fn new(q: &Quantized, cols: usize) -> Self {
        Self { q: q.q.as_ptr().cast(), d: q.d.as_ptr(), sums16: q.sums16.as_ptr(), sums32: q.sums32.as_ptr(), cols }
    }
}

impl Group {
    fn new(part: &Part<'_>, at: usize, end: usize) -> Self {
        let row = |r: usize| part.weights[(at + r).min(end - 1) * part.row_bytes..].as_ptr();
        Self { rows: std::array::from_fn(row), ahead: AHEAD * part.row_bytes }
    }
}

/// The two ways to multiply eight rows.
///
/// # Safety
/// As the functions behind them.
trait Product {
    unsafe fn direct<const N: usize>(g: &Group, x: &View, tokens: [usize; N]) -> [__m256; N];
    unsafe fn tiled(s: &mut Scratch, g: &Group, x: &View);
}

struct Of256<T>(PhantomData<T>);
struct Of32<T>(PhantomData<T>);

impl<T: Type256> Product for Of256<T> {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn direct<const N: usize>(g: &Group, x: &View, tokens: [usize; N]) -> [__m256; N] {
        product256::direct::<T, N>(g, x, tokens)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tiled(s: &mut Scratch, g: &Group, x: &View) {
        product256::tiled::<T>(&mut s.panel256, g, x, &s.tokens, &mut s.sums);
    }
}

impl<T: Type32> Product for Of32<T> {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn direct<const N: usize>(g: &Group, x: &View, tokens: [usize; N]) -> [__m256; N] {
        product32::direct::<T, N>(g, x, tokens)
    }
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tiled(s: &mut Scratch, g: &Group, x: &View) {
        product32::tiled::<T>(&mut s.panel32, g, x, &s.tokens, &mut s.sums);
    }
}

/// # Safety
/// As [`run`]; `x` holds the quantized form that the type wants.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantized<P: Product>(part: &Part<'_>, x: &View, rows: Range<usize>, s: &mut Scratch) {
    s.sums.resize(s.tokens.len(), _mm256_setzero_ps());
    for at in rows.clone().step_by(8) {
        let count = 8.min(rows.end - at);
        let g = Group::new(part, at, rows.end);
        if s.tokens.len() >= TILED {
            P::tiled(s, &g, x);
            for (i, &v) in s.sums.iter().enumerate() {
                store(part, i, at, count, v);
            }
        } else {
            let (pairs, rest) = s.tokens.as_chunks::<2>();
            for (i, &pair) in pairs.iter().enumerate() {
                let [a, b] = P::direct(&g, x, pair);
                store(part, 2 * i, at, count, a);
                store(part, 2 * i + 1, at, count, b);
            }
            if let &[last] = rest {
                let [v] = P::direct(&g, x, [last]);
                store(part, 2 * pairs.len(), at, count, v);
            }
        }
    }
}

/// Write eight rows of one token, as many as there are.
///
/// # Safety
/// AVX2; `out` has room for `[tokens, rows]`, `i` is one of the tokens and `at..at + count` are rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store(part: &Part<'_>, i: usize, at: usize, count: usize, v: __m256) {
    let to = part.out.add(i * part.rows + at);
    if count == 8 {
        _mm256_storeu_ps(to, v);
    } else {
        let mut lanes = [0f32; 8];
        _mm256_storeu_ps(lanes.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
    }
}

/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn plain<T: Float>(part: &Part<'_>, x: &Activations, rows: Range<usize>, s: &mut Scratch) {
    let mut at = rows.start;
    while at < rows.end {
        if rows.end - at >= 4 {
            plain_rows::<T, 4>(part, x, at, s);
            at += 4;
        } else {
            plain_rows::<T, 1>(part, x, at, s);
            at += 1;
        }
    }
}

/// `R` rows from `at` on against all tokens.
///
/// # Safety
/// As [`run`]; `at..at + R` are rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn plain_rows<T: Float, const R: usize>(part: &Part<'_>, x: &Activations, at: usize, s: &mut Scratch) {
    let rows: [*const u8; R] = std::array::from_fn(|r| part.weights[(at + r) * part.row_bytes..].as_ptr());
    if T::BYTES == 4 || s.tokens.len() < WIDENED {
        plain_tokens::<T, R>(part, x, at, rows, R * part.row_bytes, &s.tokens);
    } else {
        s.wide.resize(R * x.cols, 0.0);
        for (row, wide) in rows.iter().zip(s.wide.chunks_exact_mut(x.cols.max(1))) {
            float::widen::<T>(*row, R * part.row_bytes, wide);
        }
        let rows = std::array::from_fn(|r| s.wide[r * x.cols..].as_ptr().cast());
        plain_tokens::<float::F32, R>(part, x, at, rows, 0, &s.tokens);
    }
}

/// # Safety
/// As [`run`]; `rows` have `x.cols` readable elements each and give the rows of the output from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn plain_tokens<T: Float, const R: usize>(
    part: &Part<'_>,
    x: &Activations,
    at: usize,
    rows: [*const u8; R],
    ahead: usize,
    tokens: &[usize],
) {
    let row = |t: usize| x.x[t * x.cols..].as_ptr();
    let (chunks, rest) = tokens.as_chunks::<3>();
    for (i, &[a, b, c]) in chunks.iter().enumerate() {
        let out = float::tile::<T, R, 3>(rows, ahead, [row(a), row(b), row(c)], x.cols);
        for (n, v) in out.iter().enumerate() {
            std::ptr::copy_nonoverlapping(v.as_ptr(), part.out.add((3 * i + n) * part.rows + at), R);
        }
    }
    for (i, &t) in rest.iter().enumerate() {
        let [v] = float::tile::<T, R, 1>(rows, ahead, [row(t)], x.cols);
        std::ptr::copy_nonoverlapping(v.as_ptr(), part.out.add((3 * chunks.len() + i) * part.rows + at), R);
    }
}
