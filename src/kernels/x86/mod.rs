//! Products with AVX2, and with AVX-512 VNNI where there is.
//!
//! Eight weight rows at a time, one in each lane. Few tokens: weights are unpacked in registers, and each row's dot is summed across
//! lanes once a block. Many tokens: sixteen rows are unpacked once into a panel that all tokens then pass. The two instruction sets
//! differ in the inner loops only ([`Isa`]); unpacking is the same.

#![allow(unsafe_code)]
// Lanes and rows index several arrays at once here; the loops are unrolled.
#![allow(clippy::needless_range_loop)]

mod avx2;
mod avx512;
mod codes;
mod float;
mod lanes;
mod panel256;
mod panel32;
mod quantize;
mod unpack256;
mod unpack32;

use super::activations::{Activations, Quantized};
use super::product::Part;
use crate::gguf::GgmlType;
use float::Float;
use panel256::{Panel256, Tile256};
use panel32::{Panel32, Tile32};
pub(super) use quantize::quantize;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use unpack256::Type256;
use unpack32::Type32;

/// Rows to prefetch ahead where few tokens meet them. The lines are asked for in the order of memory, not in that of their use, which jumps
/// from row to row: measured, 17 instead of 12 GB/s.
const AHEAD: usize = 8;

/// From how many tokens on 16-bit floats are widened once into scratch instead of once for every three tokens.
const WIDENED: usize = 6;

/// Whether this machine has what [`run`] needs.
pub(super) fn avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Whether it has what [`run`] can use beyond that.
pub(super) fn avx512() -> bool {
    avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

/// Eight weight rows. Where the matrix has fewer left, the last one is repeated.
struct Rows {
    /// Starts of the rows, each with `cols` readable elements.
    at: [*const u8; 8],
    /// Bytes from the first row to the ones that this thread computes next, for prefetching.
    ahead: usize,
}

/// Quantized activations: `[tokens, cols]` and what belongs to it.
struct View {
    /// Bytes of the 16-bit elements.
    q: *const u8,
    /// Bytes of the same numbers, `64 * high + low`, in natural order.
    high: *const u8,
    low: *const u8,
    d: *const f32,
    sums16: *const i16,
    sums32: *const i32,
    cols: usize,
}

/// The inner loops of one instruction set.
///
/// # Safety
/// All functions need the instruction set, pointers as [`Rows`] and [`View`] say, and tokens that are rows of the view.
trait Isa {
    /// How many tokens the direct products take at once.
    const FEW: usize;
    /// From how many tokens on unpacking sixteen rows into a panel pays.
    const TILED: usize;
    /// `N` tokens against eight rows in blocks of 256.
    unsafe fn direct256<T: Type256, const N: usize>(rows: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N];
    /// `N` tokens against eight rows in blocks of 32.
    unsafe fn direct32<T: Type32, const N: usize>(rows: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N];
    /// Adds the products of a panel that begins with block `first`, sixteen rows for each token.
    unsafe fn tiles256<T: Type256>(tiles: &[Tile256], first: usize, x: &View, tokens: &[usize], sums: &mut [[__m256; 2]]);
    /// The same for blocks of 32.
    unsafe fn tiles32<T: Type32>(tiles: &[Tile32], first: usize, x: &View, tokens: &[usize], sums: &mut [[__m256; 2]]);
}

/// What a thread keeps between tasks.
#[derive(Default)]
struct Scratch {
    panel256: Panel256,
    panel32: Panel32,
    tokens: Vec<usize>,
    sums: Vec<[__m256; 2]>,
    wide: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Rows `rows` of the part.
///
/// # Safety
/// [`avx2`], and [`avx512`] if `wide`; `part` was checked by `matmul`, its type has a product, and no other thread writes these rows of
/// its output.
pub(super) unsafe fn run(part: &Part<'_>, x: &Activations, rows: Range<usize>, wide: bool) {
    SCRATCH.with_borrow_mut(|s| {
        // SAFETY: passed on from here.
        unsafe {
            if wide {
                run_with::<avx512::Avx512>(part, x, rows, s);
            } else {
                run_with::<avx2::Avx2>(part, x, rows, s);
            }
        }
    });
}

/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_with<I: Isa>(part: &Part<'_>, x: &Activations, rows: Range<usize>, s: &mut Scratch) {
    use GgmlType as T;
    s.tokens.clear();
    match part.pick {
        Some(pick) => s.tokens.extend(pick.iter().map(|&t| t as usize)),
        None => s.tokens.extend(0..part.tokens),
    }
    let v256 = View::new(&x.by256, x.cols);
    let v32 = View::new(&x.by32, x.cols);
    match part.ty {
        T::Q2K => quantized::<I, Of256<unpack256::Q2K>>(part, &v256, rows, s),
        T::Q3K => quantized::<I, Of256<unpack256::Q3K>>(part, &v256, rows, s),
        T::Q4K => quantized::<I, Of256<unpack256::Q4K>>(part, &v256, rows, s),
        T::Q5K => quantized::<I, Of256<unpack256::Q5K>>(part, &v256, rows, s),
        T::Q6K => quantized::<I, Of256<unpack256::Q6K>>(part, &v256, rows, s),
        T::IQ1_S => quantized::<I, Of256<codes::IQ1S>>(part, &v256, rows, s),
        T::IQ1_M => quantized::<I, Of256<codes::IQ1M>>(part, &v256, rows, s),
        T::IQ2_XXS => quantized::<I, Of256<codes::IQ2XXS>>(part, &v256, rows, s),
        T::IQ2_XS => quantized::<I, Of256<codes::IQ2XS>>(part, &v256, rows, s),
        T::IQ2_S => quantized::<I, Of256<codes::IQ2S>>(part, &v256, rows, s),
        T::IQ3_XXS => quantized::<I, Of256<codes::IQ3XXS>>(part, &v256, rows, s),
        T::IQ3_S => quantized::<I, Of256<codes::IQ3S>>(part, &v256, rows, s),
        T::IQ4_XS => quantized::<I, Of256<codes::IQ4XS>>(part, &v256, rows, s),
        T::TQ1_0 => quantized::<I, Of256<codes::TQ1_0>>(part, &v256, rows, s),
        T::TQ2_0 => quantized::<I, Of256<codes::TQ2_0>>(part, &v256, rows, s),
        T::Q4_0 => quantized::<I, Of32<unpack32::Q4_0>>(part, &v32, rows, s),
        T::Q4_1 => quantized::<I, Of32<unpack32::Q4_1>>(part, &v32, rows, s),
        T::Q5_0 => quantized::<I, Of32<unpack32::Q5_0>>(part, &v32, rows, s),
        T::Q5_1 => quantized::<I, Of32<unpack32::Q5_1>>(part, &v32, rows, s),
        T::Q8_0 => quantized::<I, Of32<unpack32::Q8_0>>(part, &v32, rows, s),
        T::IQ4_NL => quantized::<I, Of32<unpack32::IQ4NL>>(part, &v32, rows, s),
        T::MXFP4 => quantized::<I, Of32<unpack32::MXFP4>>(part, &v32, rows, s),
        T::F16 => plain::<float::F16>(part, x, rows, s),
        T::BF16 => plain::<float::BF16>(part, x, rows, s),
        _ => plain::<float::F32>(part, x, rows, s),
    }
}

impl View {
    fn new(q: &Quantized, cols: usize) -> Self {
        Self {
            q: q.q.as_ptr().cast(),
            high: q.high.as_ptr().cast(),
            low: q.low.as_ptr().cast(),
            d: q.d.as_ptr(),
            sums16: q.sums16.as_ptr(),
            sums32: q.sums32.as_ptr(),
            cols,
        }
    }

    /// The sum of a block of 32.
    ///
    /// # Safety
    /// There is such a block.
    #[inline]
    unsafe fn sum32(&self, index: usize) -> i32 {
        *self.sums32.add(index)
    }
}

impl Rows {
    /// Ask for as many bytes of the rows to come as block `b` of row `r` has: over all blocks of the eight rows, each of
    /// theirs once.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn prefetch(&self, r: usize, b: usize, block: usize) {
        lanes::prefetch(self.at[0].wrapping_add(self.ahead + (8 * b + r) * block), block);
    }

    fn new(part: &Part<'_>, at: usize, end: usize, ahead: usize) -> Self {
        let row = |r: usize| part.weights[(at + r).min(end - 1) * part.row_bytes..].as_ptr();
        Self { at: std::array::from_fn(row), ahead: ahead * part.row_bytes }
    }
}

/// The two block sizes.
///
/// # Safety
/// As [`Isa`].
trait Product {
    unsafe fn direct<I: Isa, const N: usize>(rows: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N];
    /// All tokens of the scratch against sixteen rows, into its sums.
    unsafe fn tiled<I: Isa>(s: &mut Scratch, rows: &[Rows; 2], x: &View);
}

struct Of256<T>(PhantomData<T>);
struct Of32<T>(PhantomData<T>);

impl<T: Type256> Product for Of256<T> {
    #[inline]
    unsafe fn direct<I: Isa, const N: usize>(rows: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N] {
        I::direct256::<T, N>(rows, x, tokens)
    }
    #[inline]
    unsafe fn tiled<I: Isa>(s: &mut Scratch, rows: &[Rows; 2], x: &View) {
        let blocks = x.cols / 256;
        for first in (0..blocks).step_by(panel256::PANEL) {
            let tiles = &mut s.panel256.0[..panel256::PANEL.min(blocks - first)];
            for (i, tile) in tiles.iter_mut().enumerate() {
                for h in 0..2 {
                    panel256::fill::<T>(tile, h, &rows[h], (first + i) * T::BYTES);
                }
            }
            I::tiles256::<T>(tiles, first, x, &s.tokens, &mut s.sums);
        }
    }
}

impl<T: Type32> Product for Of32<T> {
    #[inline]
    unsafe fn direct<I: Isa, const N: usize>(rows: &Rows, x: &View, tokens: [usize; N]) -> [__m256; N] {
        I::direct32::<T, N>(rows, x, tokens)
    }
    #[inline]
    unsafe fn tiled<I: Isa>(s: &mut Scratch, rows: &[Rows; 2], x: &View) {
        let blocks = x.cols / 32;
        for first in (0..blocks).step_by(panel32::PANEL) {
            let tiles = &mut s.panel32.0[..panel32::PANEL.min(blocks - first)];
            for (i, tile) in tiles.iter_mut().enumerate() {
                for h in 0..2 {
                    panel32::fill::<T>(tile, h, &rows[h], (first + i) * T::BYTES);
                }
            }
            I::tiles32::<T>(tiles, first, x, &s.tokens, &mut s.sums);
        }
    }
}

/// # Safety
/// As [`run`]; `x` holds the quantized form that the type wants.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantized<I: Isa, P: Product>(part: &Part<'_>, x: &View, rows: Range<usize>, s: &mut Scratch) {
    if s.tokens.len() >= I::TILED {
        for at in rows.clone().step_by(16) {
            s.sums.clear();
            s.sums.resize(s.tokens.len(), [_mm256_setzero_ps(); 2]);
            P::tiled::<I>(s, &[Rows::new(part, at, rows.end, 16), Rows::new(part, at + 8, rows.end, 16)], x);
            for (i, v) in s.sums.iter().enumerate() {
                store(part, i, at, 8.min(rows.end - at), v[0]);
                if rows.end > at + 8 {
                    store(part, i, at + 8, 8.min(rows.end - at - 8), v[1]);
                }
            }
        }
        return;
    }
    for at in rows.clone().step_by(8) {
        let count = 8.min(rows.end - at);
        let g = Rows::new(part, at, rows.end, AHEAD);
        let mut i = 0;
        while i < s.tokens.len() {
            let left = &s.tokens[i..];
            i += match *left {
                [a, b, c, d, ..] if I::FEW >= 4 => stored(part, i, at, count, P::direct::<I, 4>(&g, x, [a, b, c, d])),
                [a, b, c] if I::FEW >= 4 => stored(part, i, at, count, P::direct::<I, 3>(&g, x, [a, b, c])),
                [a, b, ..] => stored(part, i, at, count, P::direct::<I, 2>(&g, x, [a, b])),
                _ => stored(part, i, at, count, P::direct::<I, 1>(&g, x, [left[0]])),
            };
        }
    }
}

/// Write eight rows of the tokens from the `i`th on, as many rows as there are; returns how many tokens that were.
///
/// # Safety
/// As [`store`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stored<const N: usize>(part: &Part<'_>, i: usize, at: usize, count: usize, v: [__m256; N]) -> usize {
    for (n, v) in v.into_iter().enumerate() {
        store(part, i + n, at, count, v);
    }
    N
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
