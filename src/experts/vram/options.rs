//! How the tier is set up, and what it takes besides the slots.

use super::{couriers, staging, Hold, MissChoice};
use crate::events::When;
use crate::gpu::params::ExpertsUp;

/// Spare slots for experts that go up without being admitted; one half is filled while the other is computed.
pub const SPARE: usize = 16;
/// Stays free when slots grow: a driver that runs out of VRAM moves it to host memory, which is far slower than fewer slots.
pub const RESERVE: u64 = 300 << 20;
/// Page-locked memory is at most this.
const PINNED: u64 = 512 << 20;
/// And at most this part of the RAM.
const PINNED_SHARE: u64 = 16;

/// How the tier is set up.
#[derive(Clone, Copy, Debug)]
pub struct VramOptions {
    /// What becomes of misses.
    pub miss: MissChoice,
    /// Most bytes of page-locked memory for staging; see [`pin_budget`].
    pub pinned: u64,
    /// Bytes of VRAM that growth leaves free; usually [`RESERVE`].
    pub reserve: u64,
    /// Most tokens of a pass.
    pub rows: usize,
    /// Threads that only copy; see [`couriers_for`].
    pub couriers: usize,
    /// What is held in memory of our own.
    pub hold: Hold,
    /// When tokens are queued whole while the host answers them; see [`crate::gpu::talk`].
    pub answers: When,
}

/// How many couriers beside so many threads that compute. One copies some 8 GB/s, about what the swaps of a fast token ask for; more take memory's speed
/// from the misses (three beside 16 threads made tokens a tenth slower, measured beside an H100).
#[must_use]
pub fn couriers_for(threads: usize) -> usize {
    if threads < 4 {
        0
    } else {
        (threads / 8).clamp(1, couriers::MOST)
    }
}

/// Most bytes of page-locked memory on a machine with so much RAM.
#[must_use]
pub fn pin_budget(ram: u64) -> u64 {
    (ram / PINNED_SHARE).min(PINNED)
}

/// Bytes of device memory besides the slots: spare slots, results of the longest step, tables.
#[must_use]
pub fn overhead(layers: usize, experts: usize, top_k: usize, hidden: usize, ff: usize, largest_slot: u64, rows: usize) -> u64 {
    let pairs = rows.max(ExpertsUp::TOKENS as usize) * top_k;
    let floats = pairs * (ff + hidden) + rows * hidden;
    SPARE as u64 * largest_slot + 4 * (floats + layers * experts + 16 * pairs) as u64 + (1 << 20)
}

/// Most bytes of page-locked memory for staging, the couriers' included, within `budget` ([`pin_budget`]).
#[must_use]
pub fn staging_bytes(largest_slot: u64, budget: u64) -> u64 {
    ((staging::MOST + couriers::MOST * couriers::BUFFERS) as u64 * largest_slot).min(budget)
}
