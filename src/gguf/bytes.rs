//! Shared ranges of mapped files and of other memory, and what the operating system is told about them.
#![allow(unsafe_code)]

use super::huge::Frozen;
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A shared range of a mapped file (or of memory of ours). Cloning is cheap; the mapping lives as long as any range.
///
/// No alignment is promised beyond that of bytes: read blocks bytewise or by unaligned loads.
#[derive(Clone)]
pub struct Bytes {
    memory: Memory,
    range: Range<usize>,
}

#[derive(Clone)]
enum Memory {
    /// With whether the system tells which pages are in memory: not of files that are another's and can't be written.
    Mapped(Arc<Mmap>, bool),
    Owned(Arc<Vec<u8>>),
    Frozen(Frozen),
    Static(&'static [u8]),
}

/// What the operating system is told about a mapped range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It will be needed soon: read it ahead without waiting.
    WillNeed,
    /// It will not be needed soon: pages of this mapping may go (they stay in the page cache while there is room).
    DontNeed,
    /// Read it in now, and return when it is there.
    Populate,
    /// It is read here and there: no read-ahead.
    Random,
}

impl Bytes {
    /// Own a plain buffer (tests, converted weights).
    #[must_use]
    pub fn from_vec(v: Vec<u8>) -> Self {
        let range = 0..v.len();
        Self { memory: Memory::Owned(Arc::new(v)), range }
    }

    /// All of this memory; see [`Frozen::bytes`].
    pub(super) fn from_frozen(memory: Frozen) -> Self {
        let range = 0..memory.len();
        Self { memory: Memory::Frozen(memory), range }
    }

    /// Memory that lives as long as the program.
    #[must_use]
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { memory: Memory::Static(bytes), range: 0..bytes.len() }
    }

    /// Map a whole file for reading.
    ///
    /// The file must not be shortened while it is mapped: reading past its new end would end the process (SIGBUS).
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is private and read-only. Another process that rewrites the file in place could
        // change bytes under us; every reader here takes the bytes as plain numbers without invariants, so the
        // worst outcome is wrong text. Header fields are copied out once, when they are checked.
        let map = unsafe { Mmap::map(file)? };
        let range = 0..map.len();
        Ok(Self { memory: Memory::Mapped(Arc::new(map), tells(file)), range })
    }

    /// A part of this range. Panics if out of bounds, like slicing.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "slice {range:?} of {} bytes", self.range.len());
        Self { memory: self.memory.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }

    /// Whether these bytes are a mapped file (and not owned or static memory).
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(self.memory, Memory::Mapped(..))
    }

    /// Tell the operating system what will become of this range. Does nothing for memory that is not a mapped file.
    ///
    /// All are rounded outwards to pages; [`Advice::DontNeed`] further, to the neighbours that a page fault in this range
    /// maps along with it.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        #[cfg(unix)]
        if let Memory::Mapped(map, _) = &self.memory {
            use memmap2::{Advice as A, UncheckedAdvice};
            let Range { start, end } = self.range.clone();
            if start == end {
                return Ok(());
            }
            return match advice {
                Advice::WillNeed => map.advise_range(A::WillNeed, start, end - start),
                Advice::Random => map.advise_range(A::Random, start, end - start),
                Advice::Populate => populate(map, start, end - start),
                Advice::DontNeed => {
                    // The mapping begins on a page, so offsets in it round like addresses. The system maps up to 64 KiB
                    // around a fault; pages of neighbours that came in that way would otherwise stay for good.
                    const AROUND: usize = 64 * 1024;
                    let page = page_size();
                    let first = start.saturating_sub(AROUND) / page * page;
                    let last = (end + AROUND).min(map.len());
                    // SAFETY: the mapping is read-only and backed by the file, so dropped pages come back from it
                    // with the same content when they are next read.
                    unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) }
                }
            };
        }
        let _ = advice;
        Ok(())
    }

    /// Whether a look at the first and the middle page finds them in memory. False where the system doesn't tell; true for what is no file.
    #[must_use]
    pub fn seems_resident(&self) -> bool {
        let Memory::Mapped(_, tells) = self.memory else { return true };
        if self.range.is_empty() || !tells {
            return self.range.is_empty();
        }
        let middle = self.len() / 2;
        [0, middle].iter().all(|&at| self.slice(at..at + 1).resident_bytes() == Some(1))
    }

    /// How many bytes of this range are in memory now, by `mincore`. Long ranges are sampled, so the answer is
    /// an estimate within a few percent. `None` where the system can't tell, or for memory that is not a mapped file.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        #[cfg(target_os = "linux")]
        if let Memory::Mapped(map, _) = &self.memory {
            return resident(map, self.range.clone());
        }
        None
    }
}

/// Whether `mincore` tells of the file's pages: Linux does to whoever owns the file, and pretends to others that all are there.
#[cfg(target_os = "linux")]
fn tells(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: a plain query without pointers.
    let user = unsafe { libc::geteuid() };
    user == 0 || file.metadata().is_ok_and(|m| m.uid() == user)
}

#[cfg(not(target_os = "linux"))]
fn tells(_: &File) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn populate(map: &Mmap, offset: usize, len: usize) -> io::Result<()> {
    match map.advise_range(memmap2::Advice::PopulateRead, offset, len) {
        // Kernels before 5.14 do not know it.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => map.advise_range(memmap2::Advice::WillNeed, offset, len),
        other => other,
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn populate(map: &Mmap, offset: usize, len: usize) -> io::Result<()> {
    map.advise_range(memmap2::Advice::WillNeed, offset, len)
}

#[cfg(unix)]
fn page_size() -> usize {
    // SAFETY: a plain query without pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|s| s.is_power_of_two()).unwrap_or(4096)
}

#[cfg(target_os = "linux")]
fn resident(map: &Mmap, range: Range<usize>) -> Option<u64> {
    /// Pages asked about in one call, and the most calls for one range.
    const WINDOW: usize = 64;
    const WINDOWS: usize = 512;
    if range.is_empty() {
        return Some(0);
    }
    let page = page_size();
    let (first, last) = (range.start / page, range.end.div_ceil(page));
    let pages = last - first;
    let windows = pages.div_ceil(WINDOW).min(WINDOWS);
    let (mut seen, mut resident) = (0usize, 0usize);
    let mut flags = [0u8; WINDOW];
    for w in 0..windows {
        // Evenly spread windows; all of the range when it is short.
        let from = if windows * WINDOW >= pages { w * WINDOW } else { w * (pages - WINDOW) / (windows - 1).max(1) };
        let n = WINDOW.min(pages - from);
        // SAFETY: the address is page-aligned (a mapping begins on a page) and lies in the mapping, whose last
        // page exists in full; `flags` has room for one byte per page.
        let rc = unsafe {
            let address = map.as_ptr().add((first + from) * page);
            libc::mincore(address.cast_mut().cast(), n * page, flags.as_mut_ptr())
        };
        if rc != 0 {
            return None;
        }
        seen += n;
        resident += flags[..n].iter().filter(|&&f| f & 1 == 1).count();
    }
    let bytes = (range.end - range.start) as f64 * resident as f64 / seen as f64;
    Some(bytes as u64)
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Mapped(map, _) => &map[self.range.clone()],
            Memory::Owned(v) => &v[self.range.clone()],
            Memory::Frozen(m) => &m[self.range.clone()],
            Memory::Static(s) => &s[self.range.clone()],
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.range.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn mapped(len: usize) -> (tempfile::NamedTempFile, Bytes) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&(0..len).map(|i| (i / 4096) as u8).collect::<Vec<_>>()).unwrap();
        let bytes = Bytes::map(file.as_file()).unwrap();
        (file, bytes)
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_just_read_seems_resident() {
        let (_file, bytes) = mapped(64 * 4096);
        let sum: usize = bytes.iter().step_by(4096).map(|&b| usize::from(b)).sum();
        assert!(sum > 0 && bytes.seems_resident());
        assert!(bytes.slice(3..3).seems_resident(), "nothing to read");
        assert!(Bytes::from_vec(vec![1, 2]).seems_resident(), "no file behind it");
    }

    #[test]
    fn a_slice_of_a_slice_is_the_same_memory() {
        let bytes = Bytes::from_vec((0..100).collect());
        let inner = bytes.slice(10..50).slice(5..6);
        assert_eq!(&*inner, &[15]);
    }

    #[test]
    fn advice_never_changes_what_is_read() {
        let (_file, bytes) = mapped(1 << 20);
        let odd = bytes.slice(5000..900_001);
        for advice in [Advice::WillNeed, Advice::Populate, Advice::Random, Advice::DontNeed] {
            odd.advise(advice).unwrap();
            assert!(bytes.iter().enumerate().all(|(i, &b)| b == (i / 4096) as u8));
        }
        odd.slice(0..0).advise(Advice::DontNeed).unwrap();
        Bytes::from_vec(vec![1]).advise(Advice::DontNeed).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn populated_pages_count_as_resident() {
        let (_file, bytes) = mapped(1 << 20);
        bytes.advise(Advice::Populate).unwrap();
        assert_eq!(bytes.resident_bytes(), Some(1 << 20));
        assert_eq!(bytes.slice(3..3).resident_bytes(), Some(0));
        assert_eq!(Bytes::from_static(b"abc").resident_bytes(), None);
    }
}
