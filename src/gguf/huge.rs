//! Memory of our own for bytes that are read over and over: in huge pages where the system has them.
//!
//! A page of a file is 4 KiB. Whoever reads megabytes here and there in a mapping of gigabytes waits for the look-up of their addresses, on a virtual machine most of
//! all; a huge page has 2 MiB. The memory is filled by one owner ([`Huge`]) and from then on shared and only read ([`Frozen`]).

use super::Bytes;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Bytes of a huge page; regions begin at multiples of this.
pub const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory, in huge pages if the system gives them, that nobody else sees yet.
pub struct Huge {
    #[cfg(target_os = "linux")]
    map: memmap2::MmapMut,
    #[cfg(not(target_os = "linux"))]
    map: Vec<u8>,
    /// Where it begins in the mapping.
    begin: usize,
    len: usize,
}

impl Huge {
    /// So many bytes. A page counts as used when it is first written.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(len: usize) -> io::Result<Self> {
        let too_much = || io::Error::from(io::ErrorKind::OutOfMemory);
        let pages = len.max(1).checked_next_multiple_of(HUGE_PAGE).ok_or_else(too_much)?;
        #[cfg(target_os = "linux")]
        {
            // One page more than is used, so that it can begin where a huge page does.
            let map = memmap2::MmapMut::map_anon(pages.checked_add(HUGE_PAGE).ok_or_else(too_much)?)?;
            let begin = map.as_ptr().align_offset(HUGE_PAGE);
            // A system without huge pages gives small ones.
            let _ = map.advise_range(memmap2::Advice::HugePage, begin, pages);
            // A child process would have to be given copies of pages that are locked; ours begin other programs at once.
            let _ = map.advise_range(memmap2::Advice::DontFork, begin, pages);
            Ok(Self { map, begin, len })
        }
        #[cfg(not(target_os = "linux"))]
        {
            let mut map = Vec::new();
            map.try_reserve_exact(pages).map_err(|_| too_much())?;
            map.resize(len, 0);
            Ok(Self { map, begin: 0, len })
        }
    }

    /// From now on it is only read.
    #[must_use]
    pub fn freeze(self) -> Frozen {
        Frozen(Arc::new(self))
    }
}

impl Deref for Huge {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map[self.begin..self.begin + self.len]
    }
}

impl DerefMut for Huge {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.begin..self.begin + self.len]
    }
}

/// Shared memory that nobody writes any more, and that stays where it is; gone with its last clone and the last [`Bytes`] of it.
#[derive(Clone)]
pub struct Frozen(Arc<Huge>);

impl Frozen {
    /// All of it as a shared range.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::from_frozen(self.clone())
    }
}

impl Deref for Frozen {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frozen({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Advice;

    #[test]
    fn it_begins_zeroed_where_a_huge_page_does_and_has_its_length() {
        for len in [1, 4096, HUGE_PAGE, HUGE_PAGE + 3] {
            let mut huge = Huge::new(len).unwrap();
            assert_eq!(huge.len(), len);
            assert!(huge.iter().all(|&b| b == 0));
            if cfg!(target_os = "linux") {
                assert_eq!(huge.as_ptr() as usize % HUGE_PAGE, 0);
            }
            huge.fill(7);
            assert!(huge.freeze().iter().all(|&b| b == 7));
        }
        assert!(Huge::new(usize::MAX).is_err() && Huge::new(usize::MAX - HUGE_PAGE).is_err());
        assert!(Huge::new(0).unwrap().is_empty());
    }

    #[test]
    fn its_bytes_outlive_it_are_always_there_and_the_last_one_takes_it_along() {
        let mut huge = Huge::new(1000).unwrap();
        huge.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        let frozen = huge.freeze();
        let memory = Arc::downgrade(&frozen.0);
        let part = frozen.bytes().slice(10..20);
        drop(frozen);
        assert_eq!(&*part, &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        assert!(part.seems_resident() && !part.is_mapped() && part.resident_bytes().is_none());
        for advice in [Advice::WillNeed, Advice::Populate, Advice::Random, Advice::DontNeed] {
            part.advise(advice).unwrap();
        }
        assert_eq!(part[0], 10);
        drop(part);
        assert!(memory.upgrade().is_none());
    }
}
