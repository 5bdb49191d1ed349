//! Numbers of as many bytes as they need, and the sum that tells a damaged frame.

/// Append a number, seven bits per byte, lowest first (LEB128).
pub(super) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The rest of a payload.
pub(super) struct Payload<'a> {
    pub(super) bytes: &'a [u8],
}

impl Payload<'_> {
    /// A number as [`put`] writes it.
    pub(super) fn get(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    /// A number that fits a smaller type.
    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.get()?).ok()
    }

    /// A count of things that take at least `least` bytes each: never more than the rest can hold.
    pub(super) fn count(&mut self, least: usize, most: u64) -> Option<usize> {
        let n = self.get().filter(|n| *n <= most)?;
        usize::try_from(n).ok().filter(|n| *n <= self.bytes.len() / least)
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*head)
    }
}

/// CRC-32 as in gzip and PNG (polynomial 0xEDB88320).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |c, &b| c >> 8 ^ TABLE[usize::from(c as u8 ^ b)])
}
