//! Block layouts whose elements come from tables: the IQ types, the ternary ones and MXFP4.
//!
//! Layouts and tables are those of the GGUF format (`gguf-py/gguf/quants.py`). Fractions in a format's scale are powers of
//! two here moved into `d`, so that scales and elements are integers and every value still rounds as `gguf-py` rounds it.

// An index names an element's place in several arrays at once.
#![allow(clippy::needless_range_loop)]
#![allow(unsafe_code)]

use super::block::{f16_at, Block256, Block32};
use crate::gguf::GgmlType;

/// The codebooks, written by `tests/reference/grids.py`; `BOOK` must stay in its order.
static GRIDS: &[u8; 33792] = include_bytes!("grids.bin");

/// One codebook: entries of eight or four signed bytes.
#[derive(Clone, Copy)]
pub(super) struct Book {
    start: usize,
    width: usize,
    mask: usize,
}

pub(super) const IQ2_XXS: Book = Book { start: 0, width: 8, mask: 255 };
pub(super) const IQ2_XS: Book = Book { start: 2048, width: 8, mask: 511 };
pub(super) const IQ2_S: Book = Book { start: 6144, width: 8, mask: 1023 };
pub(super) const IQ3_XXS: Book = Book { start: 14336, width: 4, mask: 255 };
pub(super) const IQ3_S: Book = Book { start: 15360, width: 4, mask: 511 };
pub(super) const IQ1: Book = Book { start: 17408, width: 8, mask: 2047 };

impl Book {
    /// An entry; the index is cut to the size of the book.
    #[inline]
    pub(super) fn entry(self, index: usize) -> &'static [u8] {
        let at = self.start + (index & self.mask) * self.width;
        &GRIDS[at..at + self.width]
    }

    /// Where an entry starts.
    ///
    /// # Safety
    /// `index` is within the book.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) unsafe fn pointer(self, index: usize) -> *const u8 {
        debug_assert!(index <= self.mask);
        GRIDS.as_ptr().add(self.start + index * self.width)
    }
}

/// The values of a nibble in IQ4_NL and IQ4_XS.
pub(super) const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// The values of a nibble in MXFP4 (e2m1), doubled.
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the power of two that a byte means in MXFP4 (e8m0): half, since the elements are doubled.
pub(super) fn e8m0_half(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// Seven stored signs and the eighth, which makes their number even.
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Elements from an entry, negative where the sign's bit is set, from bit `first` on.
fn signed(entry: &[u8], signs: u8, first: usize, q: &mut [i8]) {
    for (i, (q, &v)) in q.iter_mut().zip(entry).enumerate() {
        *q = if (signs >> (first + i)) & 1 == 0 { v as i8 } else { -(v as i8) };
    }
}

/// Unpack one IQ4_NL or MXFP4 block.
pub(super) fn unpack32(ty: GgmlType, b: &[u8]) -> Block32 {
    let (d, nibbles, table) = match ty {
        GgmlType::MXFP4 => (e8m0_half(b[0]), &b[1..17], &E2M1),
        _ => (f16_at(b, 0), &b[2..18], &IQ4),
    };
    let mut out = Block32 { q: [0; 32], d, m: 0.0 };
    for i in 0..16 {
        out.q[i] = table[usize::from(nibbles[i] & 15)];
        out.q[i + 16] = table[usize::from(nibbles[i] >> 4)];
    }
    out
}

/// Unpack one block of 256.
pub(super) fn unpack256(ty: GgmlType, b: &[u8]) -> Block256 {
    use GgmlType as T;
    let mut out = Block256 { q: [0; 256], scale: [1; 16], min: [0; 16], d: 0.0, dmin: 0.0 };
    match ty {
        T::IQ1_S => iq1_s(b, &mut out),
        T::IQ1_M => iq1_m(b, &mut out),
        T::IQ2_XXS => iq2_xxs(b, &mut out),
        T::IQ2_XS => iq2_xs(b, &mut out),
        T::IQ2_S => iq2_s(b, &mut out),
        T::IQ3_XXS => iq3_xxs(b, &mut out),
        T::IQ3_S => iq3_s(b, &mut out),
        T::IQ4_XS => iq4_xs(b, &mut out),
        T::TQ1_0 => tq1_0(b, &mut out),
        _ => tq2_0(b, &mut out),
    }
    out
}

/// `2 * s + 1` of the nibbles of `bytes`, each for so many groups of 16.
fn odd_nibbles(bytes: &[u8], groups: usize, scale: &mut [i16; 16]) {
    for (i, s) in scale.iter_mut().enumerate() {
        let nibble = i / groups;
        *s = 2 * i16::from((bytes[nibble / 2] >> (4 * (nibble % 2))) & 15) + 1;
    }
}

fn iq2_xxs(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 0) * 0.125;
    for g in 0..8 {
        let rest = u32_at(b, 2 + 8 * g + 4);
        for k in 0..4 {
            let entry = IQ2_XXS.entry(b[2 + 8 * g + k].into());
            signed(entry, even_signs(rest >> (7 * k)), 0, &mut out.q[32 * g + 8 * k..][..8]);
        }
        out.scale[2 * g..2 * g + 2].fill(2 * (rest >> 28) as i16 + 1);
    }
}

fn iq2_xs(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 0) * 0.125;
    odd_nibbles(&b[66..74], 1, &mut out.scale);
    for i in 0..32 {
        let code = u16_at(b, 2 + 2 * i);
        signed(IQ2_XS.entry(code.into()), even_signs(u32::from(code >> 9)), 0, &mut out.q[8 * i..][..8]);
    }
}

fn iq2_s(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 0) * 0.125;
    odd_nibbles(&b[74..82], 1, &mut out.scale);
    for i in 0..32 {
        let high = usize::from((b[66 + i / 4] >> (2 * (i % 4))) & 3) << 8;
        signed(IQ2_S.entry(usize::from(b[2 + i]) | high), b[34 + i], 0, &mut out.q[8 * i..][..8]);
    }
}

fn iq3_xxs(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 0) * 0.25;
    for g in 0..8 {
        let rest = u32_at(b, 66 + 4 * g);
        for k in 0..8 {
            let signs = even_signs(rest >> (7 * (k / 2)));
            signed(IQ3_XXS.entry(b[2 + 8 * g + k].into()), signs, 4 * (k % 2), &mut out.q[32 * g + 4 * k..][..4]);
        }
        out.scale[2 * g..2 * g + 2].fill(2 * (rest >> 28) as i16 + 1);
    }
}

fn iq3_s(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 0);
    odd_nibbles(&b[106..110], 2, &mut out.scale);
    for i in 0..64 {
        let high = usize::from((b[66 + i / 8] >> (i % 8)) & 1) << 8;
        signed(IQ3_S.entry(usize::from(b[2 + i]) | high), b[74 + i / 2], 4 * (i % 2), &mut out.q[4 * i..][..4]);
    }
}

/// Eight elements of IQ1: eight times an entry of -1, 0 and 1, moved by one up or down.
fn moved(entry: &[u8], down: bool, q: &mut [i8]) {
    for (q, &v) in q.iter_mut().zip(entry) {
        *q = 8 * (v as i8) + if down { -1 } else { 1 };
    }
}

fn iq1_s(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 0) * 0.125;
    for g in 0..8 {
        let rest = usize::from(u16_at(b, 34 + 2 * g));
        for k in 0..4 {
            let index = usize::from(b[2 + 4 * g + k]) | ((rest >> (3 * k)) & 7) << 8;
            moved(IQ1.entry(index), rest & 0x8000 != 0, &mut out.q[32 * g + 8 * k..][..8]);
        }
        out.scale[2 * g..2 * g + 2].fill(2 * ((rest >> 12) & 7) as i16 + 1);
    }
}

/// The f16 scale of an IQ1_M block, a nibble in each of its four last words.
pub(super) fn iq1_m_scale(b: &[u8]) -> f32 {
    let word = |k: usize| u16_at(b, 48 + 2 * k) >> 12 << (4 * k);
    half::f16::from_bits(word(0) | word(1) | word(2) | word(3)).to_f32()
}

fn iq1_m(b: &[u8], out: &mut Block256) {
    out.d = iq1_m_scale(b) * 0.125;
    for i in 0..32 {
        let high = b[32 + i / 2] >> (4 * (i % 2));
        moved(IQ1.entry(usize::from(b[i]) | usize::from(high & 7) << 8), high & 8 != 0, &mut out.q[8 * i..][..8]);
    }
    for s in 0..16 {
        out.scale[s] = 2 * ((u16_at(b, 48 + s / 4 * 2) >> (3 * (s % 4))) & 7) as i16 + 1;
    }
}

fn iq4_xs(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 0);
    let high = u16_at(b, 2);
    for g in 0..8 {
        let low = (b[4 + g / 2] >> (4 * (g % 2))) & 15;
        out.scale[2 * g..2 * g + 2].fill((i16::from(low) | (((high >> (2 * g)) & 3) << 4) as i16) - 32);
        for i in 0..16 {
            let byte = b[8 + 16 * g + i];
            out.q[32 * g + i] = IQ4[usize::from(byte & 15)];
            out.q[32 * g + 16 + i] = IQ4[usize::from(byte >> 4)];
        }
    }
}

fn tq1_0(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 52);
    // Five digits to base three in a byte, as a fraction: the first is what a multiplication by three carries out of it.
    let digits = |bytes: &[u8], power: u8, q: &mut [i8]| {
        for (q, &byte) in q.iter_mut().zip(bytes) {
            *q = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
        }
    };
    for (n, power) in [1, 3, 9, 27, 81].into_iter().enumerate() {
        digits(&b[..32], power, &mut out.q[32 * n..32 * n + 32]);
        digits(&b[32..48], power, &mut out.q[160 + 16 * n..][..16]);
        if n < 4 {
            digits(&b[48..52], power, &mut out.q[240 + 4 * n..][..4]);
        }
    }
}

fn tq2_0(b: &[u8], out: &mut Block256) {
    out.d = f16_at(b, 64);
    for i in 0..256 {
        out.q[i] = ((b[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4))) & 3) as i8 - 1;
    }
}
