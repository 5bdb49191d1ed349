//! Some queries of a group against all keys that they see, four queries at a time.

#![allow(unsafe_code)]
// Rows and lanes index several arrays at once here; the loops are unrolled.
#![allow(clippy::needless_range_loop)]

use super::super::exp::exp;
use super::super::InstructionSet;
use super::vector::{Element, Plain, Vector};
use super::{key_at, rows, value_at, Cached, Heads, Sight, BLOCK};
use half::f16;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};
use std::ops::Range;

/// Queries whose products are made together, so that a key or value that was loaded serves all of them.
const ABREAST: usize = 4;
/// The queries of one task: tokens `first..last`, heads `head..head + count` of one group.
pub(super) struct Tile<'a> {
    pub(super) heads: Heads,
    pub(super) cached: Cached<'a>,
    pub(super) room: usize,
    pub(super) queries: &'a [f32],
    pub(super) group: usize,
    pub(super) head: usize,
    pub(super) count: usize,
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) position: usize,
    pub(super) scale: f32,
    pub(super) sight: Sight<'a>,
}

impl Tile<'_> {
    /// Token and head of a row.
    fn place(&self, row: usize) -> (usize, usize) {
        (self.first + row / self.count, self.head + row % self.count)
    }

    fn query(&self, row: usize) -> &[f32] {
        let (token, head) = self.place(row);
        &self.queries[(token * self.heads.query + head) * self.heads.key_dim..][..self.heads.key_dim]
    }

    /// Which of the `n` positions from `from` on a row sees, counted from there.
    fn sees(&self, row: usize, from: usize, n: usize) -> Range<usize> {
        let own = self.position + self.place(row).0;
        let end = (own + 1).saturating_sub(from).min(n);
        self.sight.begin(own).saturating_sub(from).min(end)..end
    }
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    /// Running weighted sums, `[rows, value_dim]`; the result at the end.
    pub(super) sums: Vec<f32>,
    max: Vec<f32>,
    total: Vec<f32>,
}

/// A block's keys, turned `[key_dim, BLOCK]` or in rows `[n, key_dim]`, and its values, `stride` apart.
struct Block<'a, E> {
    keys: &'a [E],
    turned: bool,
    values: &'a [E],
    stride: usize,
    from: usize,
    n: usize,
}

impl<'a, E> Block<'a, E> {
    fn of(keys: &'a [E], values: &'a [E], stride: usize, from: usize, n: usize) -> Self {
        Self { keys, turned: true, values, stride, from, n }
    }

    /// Values begin where keys do.
    fn of_rows(rows: &'a [E], stride: usize, from: usize, n: usize) -> Self {
        Self { keys: rows, turned: false, values: rows, stride, from, n }
    }
}

/// What a row has so far.
struct Running<'a> {
    sums: &'a mut [f32],
    max: &'a mut [f32],
    total: &'a mut [f32],
}

type Run = fn(&Tile<'_>, &mut Scratch);

/// The form of the kernel for instructions that this machine has.
pub(super) fn select(set: InstructionSet) -> Run {
    match set {
        InstructionSet::Scalar => run::<Plain<8, false>>,
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the features that the function is compiled for.
        InstructionSet::Avx2 => |tile, scratch| unsafe { run_avx2(tile, scratch) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        InstructionSet::Avx512Vnni => |tile, scratch| unsafe { run_avx512(tile, scratch) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => run::<Plain<8, true>>,
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2(tile: &Tile<'_>, scratch: &mut Scratch) {
    run::<__m256>(tile, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn run_avx512(tile: &Tile<'_>, scratch: &mut Scratch) {
    run::<__m512>(tile, scratch);
}

#[inline(always)]
fn run<V: Vector>(tile: &Tile<'_>, scratch: &mut Scratch) {
    let (dk, dv) = (tile.heads.key_dim, tile.heads.value_dim);
    let rows = (tile.last - tile.first) * tile.count;
    let Scratch { sums, max, total } = scratch;
    sums.clear();
    sums.resize(rows * dv, 0.0);
    max.clear();
    total.clear();
    match tile.sight.sinks {
        // What comes first in a row's softmax is its sink.
        Some(sinks) => {
            max.extend((0..rows).map(|row| sinks[tile.place(row).1]));
            total.resize(rows, 1.0);
        }
        None => {
            max.resize(rows, f32::NEG_INFINITY);
            total.resize(rows, 0.0);
        }
    }
    let end = tile.position + tile.last;
    let mut from = tile.sight.begin(tile.position + tile.first) / BLOCK * BLOCK;
    while from < end {
        let n = BLOCK.min(end - from);
        let (k_at, v_at) = (key_at(tile.group, from, tile.room, dk), value_at(tile.group, from, tile.room, dv));
        let (k, v) = (k_at..k_at + dk * BLOCK, v_at..v_at + n * dv);
        let of_rows = from * dk..(from + n) * dk;
        let running = Running { sums, max, total };
        match tile.cached {
            Cached::F32 { keys, values } => visit_all::<V, f32>(tile, rows, &Block::of(&keys[k], &values[v], dv, from, n), running),
            Cached::F16 { keys, values } => visit_all::<V, f16>(tile, rows, &Block::of(&keys[k], &values[v], dv, from, n), running),
            Cached::Rows32(all) => visit_all::<V, f32>(tile, rows, &Block::of_rows(&all[of_rows], dk, from, n), running),
            Cached::Rows16(all) => visit_all::<V, f16>(tile, rows, &Block::of_rows(&all[of_rows], dk, from, n), running),
        }
        from += n;
    }
    for (sum, total) in sums.chunks_mut(dv.max(1)).zip(total.iter()) {
        let scale = 1.0 / total;
        sum.iter_mut().for_each(|v| *v *= scale);
    }
}

#[inline(always)]
fn visit_all<V: Vector, E: Element>(tile: &Tile<'_>, rows: usize, block: &Block<'_, E>, mut running: Running<'_>) {
    let mut row = 0;
    while row + ABREAST <= rows {
        visit::<V, E, ABREAST>(tile, block, row, &mut running);
        row += ABREAST;
    }
    while row < rows {
        visit::<V, E, 1>(tile, block, row, &mut running);
        row += 1;
    }
}

/// What a block adds to `R` rows.
#[inline(always)]
fn visit<V: Vector, E: Element, const R: usize>(tile: &Tile<'_>, block: &Block<'_, E>, row: usize, running: &mut Running<'_>) {
    let dv = tile.heads.value_dim;
    let sees: [Range<usize>; R] = std::array::from_fn(|r| tile.sees(row + r, block.from, block.n));
    let q: [&[f32]; R] = std::array::from_fn(|r| tile.query(row + r));
    if sees.iter().all(Range::is_empty) {
        return;
    }
    let mut weights = [[0.0f32; BLOCK]; R];
    match block.turned {
        true => products::<V, E, R>(q, block.keys, &mut weights),
        false => rows::products::<V, E, R>(q, block.keys, &mut weights),
    }
    let stride = block.stride;
    let rows = &mut running.sums[row * dv..(row + R) * dv];
    for r in 0..R {
        let sums = &mut rows[r * dv..(r + 1) * dv];
        soften(&mut weights[r], &sees[r], tile.scale, sums, &mut running.max[row + r], &mut running.total[row + r]);
    }
    // What all of them see is added to all at once; before and after it, row by row. Each row's sums run in the order of positions.
    let mut common = sees.iter().fold(0..BLOCK, |c, s| c.start.max(s.start)..c.end.min(s.end));
    if common.is_empty() {
        common = 0..0;
    }
    let alone = |r: usize, positions: Range<usize>, rows: &mut [f32]| {
        if !positions.is_empty() {
            weighted::<V, E, 1>(std::array::from_ref(&weights[r]), positions, block.values, stride, &mut rows[r * dv..(r + 1) * dv]);
        }
    };
    for r in 0..R {
        alone(r, sees[r].start..common.start, rows);
    }
    weighted::<V, E, R>(&weights, common.clone(), block.values, stride, rows);
    for r in 0..R {
        alone(r, sees[r].start.max(common.end)..sees[r].end, rows);
    }
}

/// Scores become weights relative to the greatest score so far, zero where the row sees nothing; sums and total are brought to the same measure.
#[inline(always)]
fn soften(scores: &mut [f32; BLOCK], sees: &Range<usize>, scale: f32, sums: &mut [f32], max: &mut f32, total: &mut f32) {
    /// Neighbours whose maxima and sums are taken apart, so that one need not wait for the other.
    const APART: usize = 16;
    let mut best = [f32::NEG_INFINITY; APART];
    for (at, part) in scores.chunks_exact_mut(APART).enumerate() {
        for i in 0..APART {
            part[i] = if sees.contains(&(at * APART + i)) { part[i] * scale } else { f32::NEG_INFINITY };
            best[i] = if part[i] > best[i] { part[i] } else { best[i] };
        }
    }
    let best = best.iter().fold(*max, |a, &b| if b > a { b } else { a });
    if best > *max {
        let shrink = (*max - best).exp();
        sums.iter_mut().for_each(|v| *v *= shrink);
        *total *= shrink;
        *max = best;
    }
    let mut added = [0.0f32; APART];
    for (at, part) in scores.chunks_exact_mut(APART).enumerate() {
        for i in 0..APART {
            part[i] = if sees.contains(&(at * APART + i)) { exp(part[i] - best) } else { 0.0 };
            added[i] += part[i];
        }
    }
    let mut width = APART / 2;
    while width > 0 {
        for i in 0..width {
            added[i] += added[i + width];
        }
        width /= 2;
    }
    *total += added[0];
}

/// `out[r][p] = q[r] . key p`, dimension after dimension, for all of a block's positions.
#[inline(always)]
fn products<V: Vector, E: Element, const R: usize>(q: [&[f32]; R], keys: &[E], out: &mut [[f32; BLOCK]; R]) {
    match V::SIDE {
        4 => products_of::<V, E, R, 4>(q, keys, out),
        2 => products_of::<V, E, R, 2>(q, keys, out),
        _ => products_of::<V, E, R, 1>(q, keys, out),
    }
}

#[inline(always)]
fn products_of<V: Vector, E: Element, const R: usize, const SIDE: usize>(q: [&[f32]; R], keys: &[E], out: &mut [[f32; BLOCK]; R]) {
    let dim = keys.len() / BLOCK;
    assert!(q.iter().all(|q| q.len() == dim), "a query is as long as a key");
    let mut at = 0;
    while at + SIDE * V::LANES <= BLOCK {
        // SAFETY: columns `at..at + SIDE * LANES` of rows of BLOCK floats, of which `keys` has `dim`, as many as each query has values; the machine has the instructions.
        unsafe {
            let mut sums = [[V::splat(0.0); SIDE]; R];
            for d in 0..dim {
                let mut key = [V::splat(0.0); SIDE];
                for i in 0..SIDE {
                    key[i] = E::load::<V>(keys.as_ptr().add(d * BLOCK + at + i * V::LANES));
                }
                for r in 0..R {
                    let q = V::splat(*q[r].get_unchecked(d));
                    for i in 0..SIDE {
                        sums[r][i] = sums[r][i].plus(q, key[i]);
                    }
                }
            }
            for r in 0..R {
                for i in 0..SIDE {
                    sums[r][i].store(out[r].as_mut_ptr().add(at + i * V::LANES));
                }
            }
        }
        at += SIDE * V::LANES;
    }
}

/// `sums[r] += weights[r] . values`, position after position; a value is `stride` behind the one before.
#[inline(always)]
fn weighted<V: Vector, E: Element, const R: usize>(
    weights: &[[f32; BLOCK]; R],
    positions: Range<usize>,
    values: &[E],
    stride: usize,
    sums: &mut [f32],
) {
    let dim = sums.len() / R;
    assert!(positions.end <= BLOCK && dim <= stride && positions.end * stride <= values.len(), "positions that the block has");
    let values = Values { all: values, stride };
    let mut at = 0;
    // SAFETY: columns `at..` of rows of `dim` floats, as far as they reach, of sums and of the values of these positions; the machine has the instructions.
    unsafe {
        match V::SIDE {
            4 => columns::<V, E, R, 4>(weights, &positions, &values, sums, dim, &mut at),
            2 => columns::<V, E, R, 2>(weights, &positions, &values, sums, dim, &mut at),
            _ => {}
        }
        columns::<V, E, R, 1>(weights, &positions, &values, sums, dim, &mut at);
    }
    for r in 0..R {
        for c in at..dim {
            for p in positions.clone() {
                sums[r * dim + c] = V::one(weights[r][p], values.all[p * stride + c].float(), sums[r * dim + c]);
            }
        }
    }
}

/// Rows of values, each `stride` behind the one before.
struct Values<'a, E> {
    all: &'a [E],
    stride: usize,
}

/// As many columns from `at` on as go into whole vectors, `SIDE` of them at once; moves `at` on.
///
/// # Safety
/// The machine has the instructions; `values` has rows of at least `dim` floats for all positions, `sums` has `R` of `dim`.
#[inline(always)]
unsafe fn columns<V: Vector, E: Element, const R: usize, const SIDE: usize>(
    weights: &[[f32; BLOCK]; R],
    positions: &Range<usize>,
    values: &Values<'_, E>,
    sums: &mut [f32],
    dim: usize,
    at: &mut usize,
) {
    while *at + SIDE * V::LANES <= dim {
        // SAFETY: by the contract, these columns are there.
        unsafe {
            let mut sum = [[V::splat(0.0); SIDE]; R];
            for r in 0..R {
                for i in 0..SIDE {
                    sum[r][i] = V::load(sums.as_ptr().add(r * dim + *at + i * V::LANES));
                }
            }
            for p in positions.clone() {
                let mut value = [V::splat(0.0); SIDE];
                for i in 0..SIDE {
                    value[i] = E::load::<V>(values.all.as_ptr().add(p * values.stride + *at + i * V::LANES));
                }
                for r in 0..R {
                    let weight = V::splat(*weights[r].get_unchecked(p));
                    for i in 0..SIDE {
                        sum[r][i] = sum[r][i].plus(weight, value[i]);
                    }
                }
            }
            for r in 0..R {
                for i in 0..SIDE {
                    sum[r][i].store(sums.as_mut_ptr().add(r * dim + *at + i * V::LANES));
                }
            }
        }
        *at += SIDE * V::LANES;
    }
}
