//! How long each kernel takes at the sizes of a real model (Qwen3.6-35B-A3B), out of device memory, not out of a cache.

mod small;

use super::{launch, Launch};
use crate::gguf::GgmlType;
use crate::gpu::device::{Address, Device, GpuError, Lane, Memory};
use crate::gpu::params::{ExpertsDown, ExpertsUp, GroupedDown, GroupedUp, MatJob, MatMul, MatVec};
use crate::kernels::random_weights;
use serde::Serialize;

/// Bytes of weights that launches rotate through: several times the largest second-level cache.
const ARENA: usize = 384 << 20;
/// Bytes of activations, caches and results.
const ROOM: usize = 256 << 20;
/// A case is timed so often; the best counts, since other programs only ever add time.
const ROUNDS: usize = 3;

const HIDDEN: u32 = 2048;
const FF: u32 = 512;
const TOP_K: u32 = 8;
const EXPERTS: u32 = 256;
const HEADS: u32 = 16;
const GROUPS: u32 = 2;
const DIM: u32 = 256;
/// Longest context that is timed.
const CONTEXT: u32 = 32_768;

/// One timed case.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    /// The kernel.
    pub kernel: &'static str,
    /// Types and sizes in words.
    pub about: String,
    /// Microseconds of a launch.
    pub us: f64,
    /// Bytes of weights, states and caches that it must read and write, per second.
    pub bytes_per_s: f64,
    /// Multiplications and additions per second.
    pub flops: f64,
}

/// A case before it is timed.
struct Case {
    about: String,
    bytes: usize,
    flops: f64,
    /// Launch number i; consecutive ones read other weights.
    make: Box<dyn Fn(usize) -> Launch>,
}

/// What the launches work on.
#[derive(Clone, Copy)]
struct Place {
    weights: Address,
    room: Address,
    arena: usize,
}

impl Place {
    /// Weights of launch i, if one launch reads so many bytes.
    fn weights(&self, bytes: usize, i: usize) -> Address {
        let step = bytes.next_multiple_of(256);
        self.weights.plus(i % (self.arena / step).max(1) * step)
    }
}

fn bytes_of(ty: GgmlType, rows: u32, cols: u32) -> usize {
    ty.row_bytes(cols as usize).unwrap_or(0) * rows as usize
}

/// Time every case whose line contains `only`; each is handed to `told` as soon as it is known.
///
/// # Errors
/// From the device.
pub fn measure(device: &dyn Device, only: &str, told: &mut dyn FnMut(&Timed)) -> Result<(), GpuError> {
    let simulated = device.facts().capability == 0;
    let arena = if simulated { 8 << 20 } else { ARENA };
    let weights = device.alloc(arena)?;
    let activations = device.alloc(ROOM)?;
    fill(device, &activations, bytemuck::cast_slice::<f32, u8>(&super::cases::numbers(&mut fastrand::Rng::with_seed(3), 1 << 18)))?;
    let place = Place { weights: weights.address(), room: activations.address(), arena };
    lists_up(device, &place)?;
    let mut filled = None;
    for (ty, case) in cases(place) {
        let probe = (case.make)(0);
        let line = format!("{} {}", probe.name, case.about);
        if !line.contains(only) || (simulated && (case.bytes > arena || case.flops > 5e6)) {
            continue;
        }
        if filled != Some(ty) {
            let piece = random_weights(ty, 1 << 20, &mut fastrand::Rng::with_seed(5));
            fill(device, &weights, &piece)?;
            filled = Some(ty);
        }
        // Some two milliseconds, so that the marks weigh nothing; longer kernels a few times.
        let once = time(device, &case, 2)?;
        let count = if simulated { 2 } else { ((2e-3 / once.max(1e-9)) as usize).clamp(4, 400) };
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            best = best.min(time(device, &case, count)?);
        }
        told(&Timed {
            kernel: probe.name,
            about: case.about.clone(),
            us: best * 1e6,
            bytes_per_s: case.bytes as f64 / best,
            flops: case.flops / best,
        });
    }
    Ok(())
}

/// The same piece over and over: enough for a speed.
fn fill(device: &dyn Device, memory: &Memory, piece: &[u8]) -> Result<(), GpuError> {
    let piece = &piece[..piece.len().min(memory.len())];
    device.upload_now(Lane::Compute, memory.address(), piece)?;
    let mut have = piece.len();
    while have < memory.len() {
        let more = have.min(memory.len() - have);
        device.copy(Lane::Compute, memory.address(), memory.at(have, more), more)?;
        have += more;
    }
    device.sync(&device.mark(Lane::Compute)?)
}

/// Seconds of one launch out of `count`.
fn time(device: &dyn Device, case: &Case, count: usize) -> Result<f64, GpuError> {
    let launches: Vec<Launch> = (0..count).map(&case.make).collect();
    device.sync(&device.mark(Lane::Compute)?)?;
    let (clock, begin) = (std::time::Instant::now(), device.mark(Lane::Compute)?);
    for l in &launches {
        device.launch(l.name, l.shape, &l.params, &[])?;
    }
    let end = device.mark(Lane::Compute)?;
    device.sync(&end)?;
    let seconds = device.between(&begin, &end).map_or_else(|| clock.elapsed().as_secs_f64(), |us| us / 1e6);
    Ok(seconds / count as f64)
}

/// Every case with the type of its weights, cases of one type together.
fn cases(place: Place) -> Vec<(GgmlType, Case)> {
    let mut out = Vec::new();
    for (ty, rows, cols) in [
        (GgmlType::Q8_0, 12_352, HIDDEN),
        (GgmlType::Q8_0, HIDDEN, 4096),
        (GgmlType::Q8_0, FF, HIDDEN),
        (GgmlType::F32, EXPERTS, HIDDEN),
        (GgmlType::Q4K, 12_352, HIDDEN),
        (GgmlType::Q5K, 12_352, HIDDEN),
        (GgmlType::Q6K, 12_352, HIDDEN),
        (GgmlType::Q6K, 131_072, HIDDEN),
        (GgmlType::Q3K, 12_352, HIDDEN),
        (GgmlType::IQ4_XS, 12_352, HIDDEN),
        (GgmlType::IQ3_S, 12_352, HIDDEN),
        (GgmlType::MXFP4, 12_352, HIDDEN),
        (GgmlType::F16, 12_352, HIDDEN),
    ] {
        out.push((ty, matvec(place, ty, rows, cols, 1)));
        if ty == GgmlType::Q8_0 && rows > 10_000 || ty == GgmlType::Q4K {
            out.push((ty, matvec(place, ty, rows, cols, 4)));
            out.push((ty, matvec(place, ty, rows, cols, 8)));
            out.push((ty, matmul(place, ty, rows, cols, 64)));
            out.push((ty, matmul(place, ty, rows, cols, 512)));
        }
        if ty == GgmlType::Q4K {
            out.push((ty, experts_up(place, ty, 1)));
            out.push((ty, experts_up(place, ty, 4)));
            out.extend(PROMPTS.map(|tokens| (ty, grouped_up(place, ty, tokens))));
        }
        if ty == GgmlType::Q5K {
            out.push((ty, experts_down(place, ty, 1)));
            out.push((ty, experts_down(place, ty, 4)));
            out.extend(PROMPTS.map(|tokens| (ty, grouped_down(place, ty, tokens))));
        }
    }
    out.extend(small::all(place).into_iter().map(|case| (GgmlType::F32, case)));
    out
}

/// Where results go: behind the activations.
const RESULTS: usize = 128 << 20;

fn job(place: &Place, ty: GgmlType, rows: u32, cols: u32, i: usize) -> MatJob {
    let weight = place.weights(bytes_of(ty, rows, cols), i);
    MatJob { weight, y: place.room.plus(RESULTS), ty: ty.number(), rows, y_stride: rows, ..MatJob::default() }
}

fn matvec(place: Place, ty: GgmlType, rows: u32, cols: u32, tokens: u32) -> Case {
    Case {
        about: format!("{} {rows} x {cols}, {tokens} tokens", ty.name()),
        bytes: bytes_of(ty, rows, cols),
        flops: 2.0 * f64::from(rows) * f64::from(cols) * f64::from(tokens),
        make: Box::new(move |i| {
            let split = MatVec::split(rows, cols);
            let mut kernel = MatVec { x: place.room, cols, tokens, x_stride: cols, jobs: 1, split, ..MatVec::default() };
            kernel.job[0] = job(&place, ty, rows, cols, i);
            kernel.blocks = kernel.blocks_of(ty.number(), rows);
            launch(kernel)
        }),
    }
}

fn matmul(place: Place, ty: GgmlType, rows: u32, cols: u32, tokens: u32) -> Case {
    Case {
        about: format!("{} {rows} x {cols}, {tokens} tokens", ty.name()),
        bytes: bytes_of(ty, rows, cols),
        flops: 2.0 * f64::from(rows) * f64::from(cols) * f64::from(tokens),
        make: Box::new(move |i| {
            launch(MatMul { x: place.room, cols, tokens, x_stride: cols, pad: 0, job: job(&place, ty, rows, cols, i) })
        }),
    }
}

/// `0, 1, 2, ..`: slots of pairs.
fn slots(place: &Place) -> Address {
    place.room.plus(RESULTS - POSITIONS)
}

/// A slab of so many experts, whose matrices have `bytes` each.
fn slab(place: &Place, bytes: usize, experts: usize, i: usize) -> (Address, u64) {
    let stride = bytes.next_multiple_of(256);
    (place.weights(stride * experts, i), stride as u64)
}

fn experts_up(place: Place, ty: GgmlType, tokens: u32) -> Case {
    let (pairs, matrix) = (tokens * TOP_K, bytes_of(ty, FF, HIDDEN));
    Case {
        about: format!("{} {pairs} of {FF} x {HIDDEN} twice", ty.name()),
        bytes: 2 * matrix * pairs as usize,
        flops: 4.0 * f64::from(pairs) * f64::from(FF) * f64::from(HIDDEN),
        make: Box::new(move |i| {
            let (slab, slot_bytes) = slab(&place, 2 * matrix, pairs as usize, i);
            launch(ExpertsUp {
                slab,
                slot_bytes,
                gate_at: 0,
                up_at: matrix as u64,
                slots: slots(&place),
                x: place.room,
                inner: place.room.plus(RESULTS),
                pairs,
                top_k: TOP_K,
                rows: FF,
                cols: HIDDEN,
                gate_ty: ty.number(),
                up_ty: ty.number(),
                x_stride: HIDDEN,
                pad: 0,
            })
        }),
    }
}

fn experts_down(place: Place, ty: GgmlType, tokens: u32) -> Case {
    let (pairs, matrix) = (tokens * TOP_K, bytes_of(ty, HIDDEN, FF));
    Case {
        about: format!("{} {pairs} of {HIDDEN} x {FF}", ty.name()),
        bytes: matrix * pairs as usize,
        flops: 2.0 * f64::from(pairs) * f64::from(FF) * f64::from(HIDDEN),
        make: Box::new(move |i| {
            let (slab, slot_bytes) = slab(&place, matrix, pairs as usize, i);
            let (weights, inner, y) = (place.room, place.room, place.room.plus(RESULTS));
            let slots = slots(&place);
            let (rows, cols) = (HIDDEN, FF);
            launch(ExpertsDown {
                slab,
                slot_bytes,
                down_at: 0,
                slots,
                weights,
                inner,
                y,
                tokens,
                top_k: TOP_K,
                rows,
                cols,
                ty: ty.number(),
                y_stride: HIDDEN,
            })
        }),
    }
}

/// Write down what the pairs of the routed products are.
fn lists_up(device: &dyn Device, place: &Place) -> Result<(), GpuError> {
    let up = |at: Address, values: &[u32]| device.upload_now(Lane::Compute, at, bytemuck::cast_slice(values));
    up(place.room.plus(RESULTS - POSITIONS), &(0..CONTEXT).collect::<Vec<u32>>())?;
    for tokens in PROMPTS {
        let (tiles, each) = (lists(place, tokens), tokens * TOP_K / EXPERTS);
        let groups: Vec<u32> = (0..EXPERTS).flat_map(|e| [e, e * each, (e + 1) * each]).collect();
        let per = each.div_ceil(GroupedUp::TILE);
        up(tiles.groups, &groups)?;
        up(tiles.tile_group, &(0..tiles.count).map(|t| t / per).collect::<Vec<_>>())?;
        up(tiles.tile_begin, &(0..tiles.count).map(|t| t / per * each + t % per * GroupedUp::TILE).collect::<Vec<_>>())?;
        up(tiles.token_of, &(0..tokens * TOP_K).map(|p| p % tokens).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Groups, group of a tile and first pair of a tile, where the device has them: all experts get the same number of pairs.
struct Tiles {
    count: u32,
    groups: Address,
    tile_group: Address,
    tile_begin: Address,
    token_of: Address,
}

/// A list of 0, 1, 2, .. lies so far before the results, from which positions are read.
const POSITIONS: usize = 1 << 20;
/// Bytes of each list.
const LIST: usize = 64 << 10;
/// Tokens of the prompts that are timed.
const PROMPTS: [u32; 2] = [512, 2048];

/// Where the lists of a prompt of so many tokens lie.
fn lists(place: &Place, tokens: u32) -> Tiles {
    let each = (tokens * TOP_K / EXPERTS).max(1);
    let at = place.room.plus(RESULTS - if tokens > 512 { 4 << 20 } else { 2 << 20 });
    Tiles {
        count: EXPERTS * each.div_ceil(GroupedUp::TILE),
        groups: at,
        tile_group: at.plus(LIST),
        tile_begin: at.plus(2 * LIST),
        token_of: at.plus(3 * LIST),
    }
}

fn grouped_up(place: Place, ty: GgmlType, tokens: u32) -> Case {
    let matrix = bytes_of(ty, FF, HIDDEN);
    Case {
        about: format!("{} {tokens} tokens over {EXPERTS} of {FF} x {HIDDEN} twice", ty.name()),
        bytes: 2 * matrix * EXPERTS as usize,
        flops: 4.0 * f64::from(tokens * TOP_K) * f64::from(FF) * f64::from(HIDDEN),
        make: Box::new(move |_| {
            let (slab, slot_bytes) = slab(&place, 2 * matrix, EXPERTS as usize, 0);
            let Tiles { count: tiles, groups, tile_group, tile_begin, token_of } = lists(&place, tokens);
            launch(GroupedUp {
                slab,
                slot_bytes,
                gate_at: 0,
                up_at: matrix as u64,
                groups,
                tile_group,
                tile_begin,
                token_of,
                x: place.room,
                inner: place.room.plus(RESULTS),
                tiles,
                rows: FF,
                cols: HIDDEN,
                gate_ty: ty.number(),
                up_ty: ty.number(),
                x_stride: HIDDEN,
            })
        }),
    }
}

fn grouped_down(place: Place, ty: GgmlType, tokens: u32) -> Case {
    let matrix = bytes_of(ty, HIDDEN, FF);
    Case {
        about: format!("{} {tokens} tokens over {EXPERTS} of {HIDDEN} x {FF}", ty.name()),
        bytes: matrix * EXPERTS as usize,
        flops: 2.0 * f64::from(tokens * TOP_K) * f64::from(FF) * f64::from(HIDDEN),
        make: Box::new(move |_| {
            let (slab, slot_bytes) = slab(&place, matrix, EXPERTS as usize, 0);
            let Tiles { count: tiles, groups, tile_group, tile_begin, .. } = lists(&place, tokens);
            let (inner, out) = (place.room, place.room.plus(RESULTS));
            let ty = ty.number();
            launch(GroupedDown {
                slab,
                slot_bytes,
                down_at: 0,
                groups,
                tile_group,
                tile_begin,
                inner,
                out,
                tiles,
                rows: HIDDEN,
                cols: FF,
                ty,
            })
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::simulated::{Options, Simulated};

    #[test]
    fn what_is_timed_stays_inside_its_memory_and_takes_time() {
        let device = Simulated::new(Options::default());
        let mut seen = Vec::new();
        measure(&device, "", &mut |t| seen.push(t.clone())).unwrap();
        assert!(seen.iter().all(|t| t.us > 0.0 && t.bytes_per_s > 0.0), "{seen:?}");
        for kernel in [
            "matvec",
            "rms_norm",
            "route",
            "rotate",
            "glu",
            "gated_norm",
            "convolve",
            "short_conv",
            "delta_rule",
            "join_splits",
            "head_maps",
        ] {
            assert!(seen.iter().any(|t| t.kernel == kernel), "{kernel}");
        }
        assert_eq!(device.violations(), Vec::<String>::new());
    }
}
