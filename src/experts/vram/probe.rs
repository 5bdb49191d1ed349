//! How fast this machine's link and host are, with the model's own experts, in some milliseconds when it is opened.

use super::held::Holding;
use super::misses::Rates;
use super::slabs::Layout;
use super::staging::Staging;
use crate::experts::run::{Buffers, Parts};
use crate::experts::store::{ExpertStore, LayerExperts};
use crate::experts::tier::{Group, Grouped, Source};
use crate::experts::{ExpertError, Routing};
use crate::gguf::Bytes;
use crate::gpu::{Address, Device, Lane, Mark};
use crate::kernels::Pool;
use std::time::Instant;

/// Experts of a round. The first round of each kind warms up, the second counts; each has experts of its own, so that what is measured is
/// memory, not a cache.
const EXPERTS: usize = 8;
/// A detour over the host: the rows come down, a fork-join, the sums go up. Measured beside an H100 (25 us) and rounded up.
const JOIN: f64 = 35e-6;
/// Two launches, a wait and an upload for experts that have just come up; measured there too.
const LAUNCH: f64 = 40e-6;

/// The experts of a round, which begin at another one in each.
fn of_round(round: usize, all: usize) -> impl Iterator<Item = usize> + Clone {
    (0..EXPERTS.min(all)).map(move |i| (round * EXPERTS + i) % all)
}

/// One byte of every page: it is in memory then, and not in a cache.
fn touch(parts: &[Bytes; 3]) -> u64 {
    parts.iter().flat_map(|part| part.iter().step_by(4096)).map(|&b| u64::from(b)).sum()
}

/// Between two marks that have been passed, or since `start`: a device whose time is not the host's tells it itself.
fn seconds(device: &dyn Device, begin: &Mark, end: &Mark, start: Instant) -> f64 {
    device.between(begin, end).map_or(0.0, |us| us / 1e6).max(start.elapsed().as_secs_f64()).max(1e-9)
}

/// Measure with experts of the first layer. `room` is device memory for [`EXPERTS`] of them at most, one after the other.
pub(super) fn rates(
    device: &dyn Device,
    pool: &Pool,
    store: &ExpertStore,
    layout: &Layout,
    staging: &mut Staging,
    room: Address,
    buffers: &mut Buffers,
) -> Result<Rates, ExpertError> {
    let Some(layer) = store.layers.first() else { return Ok(Rates::NONE) };
    let experts = EXPERTS.min(layer.experts.len());
    let bytes = experts as f64 * layer.expert_bytes() as f64;

    let all = layer.experts.len();
    std::hint::black_box((0..4).flat_map(|round| of_round(round, all)).map(|e| touch(&layer.experts[e])).sum::<u64>());

    // Filling and sending, each as fast as the slower of both lets it; then sending alone what is there.
    let (mut fill, mut link) = (f64::INFINITY, f64::INFINITY);
    for round in 0..2 {
        let start = Instant::now();
        let begin = device.mark(Lane::Copy)?;
        let mut end = begin.clone();
        for expert in of_round(round, all) {
            end = staging.send(device, Some(pool), &layer.experts[expert], layout, room)?;
        }
        device.sync(&end)?;
        fill = bytes / seconds(device, &begin, &end, start);
        let start = Instant::now();
        let begin = device.mark(Lane::Copy)?;
        let Some(end) = staging.again(device, layout, room, experts)? else {
            // Without page-locked memory the driver fills some of its own.
            link = fill;
            continue;
        };
        device.sync(&end)?;
        link = experts as f64 * layout.bytes as f64 / seconds(device, &begin, &end, start);
    }

    let host = host(pool, store, layer, buffers)?;
    Ok(Rates { fill, link, host, join: JOIN, launch: LAUNCH })
}

/// The same with experts that are all held in page-locked memory: nothing is filled, and the host need not wait for anything.
pub(super) fn held_rates(
    device: &dyn Device,
    pool: &Pool,
    store: &ExpertStore,
    layout: &Layout,
    held: &mut Holding,
    room: Address,
    buffers: &mut Buffers,
) -> Result<Rates, ExpertError> {
    let Some(layer) = store.layers.first() else { return Ok(Rates::NONE) };
    let all = layer.experts.len();
    let mut link = f64::INFINITY;
    for round in 0..2 {
        let start = Instant::now();
        let begin = device.mark(Lane::Copy)?;
        let mut end = begin.clone();
        for expert in of_round(round, all) {
            if let Some(sent) = held.send(device, 0, expert as u16, room, layout) {
                end = sent?;
            }
        }
        device.sync(&end)?;
        link = of_round(round, all).count() as f64 * layout.bytes as f64 / seconds(device, &begin, &end, start);
    }
    let host = host(pool, store, layer, buffers)?;
    Ok(Rates { fill: f64::INFINITY, link, host, join: JOIN, launch: LAUNCH })
}

/// Bytes per second that the host computes with.
fn host(pool: &Pool, store: &ExpertStore, layer: &LayerExperts, buffers: &mut Buffers) -> Result<f64, ExpertError> {
    let all = layer.experts.len();
    let experts = EXPERTS.min(all);
    let bytes = experts as f64 * layer.expert_bytes() as f64;
    let mut grouped = Grouped::default();
    let ids: Vec<u32> = (0..experts as u32).collect();
    let routing = Routing { top_k: experts, weights: vec![1.0; experts], ids };
    grouped.fill(&routing, store.experts, (0..experts as u16).map(|e| (e, Source::Host)));
    let groups: Vec<Group> = grouped.groups.clone();
    let row = vec![0.5f32; store.hidden];
    let mut host = f64::INFINITY;
    for round in 2..4 {
        let weights: Vec<Parts<'_>> = of_round(round, all).map(|e| std::array::from_fn(|i| &*layer.experts[e][i])).collect();
        let start = Instant::now();
        buffers.begin(&row, 1, store.hidden, experts);
        buffers.run(pool, layer, &groups, &grouped, &weights)?;
        host = bytes / start.elapsed().as_secs_f64().max(1e-9);
    }
    Ok(host)
}
