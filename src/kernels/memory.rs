//! Anonymous memory that is reserved at once, filled on first touch, and given back page by page.
//!
//! Expert slots and the key/value cache live here: their address space is fixed at load, but only what is
//! really used counts as resident.
#![allow(unsafe_code)]

use memmap2::{MmapMut, MmapOptions};
use std::ops::Range;

/// A zeroed, page-aligned region. Pages become resident when they are first written.
pub struct SlotMemory {
    map: Option<MmapMut>,
}

impl SlotMemory {
    /// Reserve `bytes` of address space. No memory is used yet.
    ///
    /// # Errors
    /// The operating system refuses the reservation.
    pub fn reserve(bytes: usize) -> std::io::Result<Self> {
        if bytes == 0 {
            return Ok(Self { map: None });
        }
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        Ok(Self { map: Some(map) })
    }

    /// Size of a page of this machine.
    #[must_use]
    pub fn page() -> usize {
        // SAFETY: sysconf only reads a constant of the system.
        let n = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(n).unwrap_or(4096).max(1)
    }

    /// Give the whole pages inside `range` back to the system; they read as zeros afterwards.
    pub fn release(&mut self, range: Range<usize>) {
        let Some(map) = &mut self.map else { return };
        let page = Self::page();
        let from = range.start.div_ceil(page) * page;
        let to = range.end.min(map.len()) / page * page;
        if from >= to {
            return;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: `MADV_DONTNEED` on private anonymous memory turns the pages to zeros. `&mut self` proves that no
        // slice into the region is alive, and the range is inside the mapping (clamped above).
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from) };
        #[cfg(not(target_os = "linux"))]
        map[from..to].fill(0);
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

/// A number in a file of the control group.
fn cgroup(file: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse().ok()
}

/// Memory that the machine could give now, in bytes: `MemAvailable`, or a tight cgroup limit if there is one. A large
/// number where the system does not tell.
#[must_use]
pub fn available() -> u64 {
    let free = meminfo("MemAvailable").unwrap_or(u64::MAX / 4);
    match (cgroup("memory.max"), cgroup("memory.current")) {
        (Some(max), Some(used)) => free.min(max.saturating_sub(used)),
        _ => free,
    }
}

/// The same with the page cache of the control group counted as free, as `MemAvailable` counts the machine's.
#[must_use]
pub fn obtainable() -> u64 {
    let read = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).unwrap_or_default();
    let new = left(&read("memory.max"), &read("memory.current"), &read("memory.stat"));
    let old = || left(&read("memory/memory.limit_in_bytes"), &read("memory/memory.usage_in_bytes"), &read("memory/memory.stat"));
    meminfo("MemAvailable").unwrap_or(u64::MAX / 4).min(new.or_else(old).unwrap_or(u64::MAX))
}

/// What a control group with these files can still give, in bytes: its limit less what is used, files that can be read again not counted. `None` without a
/// limit.
fn left(limit: &str, used: &str, stat: &str) -> Option<u64> {
    let (limit, used) = (limit.trim().parse::<u64>().ok()?, used.trim().parse::<u64>().ok()?);
    // The first version of control groups tells of those below it by a prefix.
    let of = |key: &str| {
        let line = |l: &str| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok();
        stat.lines().find_map(|l| line(l.strip_prefix("total_").unwrap_or(""))).or_else(|| stat.lines().find_map(line)).unwrap_or(0)
    };
    Some(limit.saturating_sub(used.saturating_sub(of("inactive_file") + of("active_file"))))
}

/// Memory of the machine, in bytes, or of its control group if that has less; 0 where the system does not tell.
#[must_use]
pub fn total() -> u64 {
    meminfo("MemTotal").unwrap_or(0).min(cgroup("memory.max").unwrap_or(u64::MAX))
}

impl std::ops::Deref for SlotMemory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

impl std::ops::DerefMut for SlotMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or(&mut [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_gives_its_limit_less_what_is_used_but_for_files() {
        let stat = "anon 300\nfile 150\ninactive_file 100\nactive_file 50\n";
        assert_eq!(left("1000\n", "500\n", stat), Some(650));
        assert_eq!(left("max\n", "500\n", stat), None);
        assert_eq!(left("", "", ""), None, "no such group");
        assert_eq!(left("400", "500", ""), Some(0));
        let old = "inactive_file 1\nactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n";
        assert_eq!(left("1000", "500", old), Some(650));
    }

    #[test]
    fn released_pages_read_as_zeros_and_their_neighbours_stay() {
        let page = SlotMemory::page();
        let mut m = SlotMemory::reserve(page * 4).unwrap();
        m.fill(7);
        m.release(1..page * 3 - 1);
        assert!(m[..page].iter().all(|&b| b == 7), "the first page is only partly inside");
        assert!(m[page..2 * page].iter().all(|&b| b == 0));
        assert!(m[2 * page..].iter().all(|&b| b == 7), "the third page is only partly inside");
        m.release(0..usize::MAX);
        assert!(m.iter().all(|&b| b == 0));
    }

    #[test]
    fn an_empty_region_is_an_empty_slice() {
        let mut m = SlotMemory::reserve(0).unwrap();
        m.release(0..10);
        assert!(m.is_empty());
    }
}
