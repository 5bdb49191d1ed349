//! Block layouts: one block of weights as small integers with their scales.
//!
//! The layouts are those of the GGUF format (`gguf-py/gguf/quants.py`). Every type with 256-element blocks has the form
//! `w = d * scale[i / 16] * q[i] - dmin * min[i / 16]`, every type with 32-element blocks `w = d * q[i] + m`. Everything else
//! ([`super::dequantize`], the scalar products, the tests of the SIMD products) is written over these two forms, so a new
//! type needs only its unpacking here.

// An index names an element's place in several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::codebook;
use crate::gguf::GgmlType;
use half::{bf16, f16};

/// `w[i] = d * scale[i / 16] * q[i] - dmin * min[i / 16]`, with `|scale * q| <= 4096`.
#[derive(Clone, Debug)]
pub(super) struct Block256 {
    pub(super) q: [i8; 256],
    pub(super) scale: [i16; 16],
    pub(super) min: [i16; 16],
    pub(super) d: f32,
    pub(super) dmin: f32,
}

/// `w[i] = d * q[i] + m`.
#[derive(Clone, Debug)]
pub(super) struct Block32 {
    pub(super) q: [i8; 32],
    pub(super) d: f32,
    pub(super) m: f32,
}

/// How the elements of a type are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Plain floats.
    Float,
    /// [`Block32`]; `true` if `m` is used.
    Block32 { offset: bool },
    /// [`Block256`]; `true` if `min` is used.
    Block256 { offset: bool },
}

/// The form of a type, or `None` if it can't be computed.
pub(super) fn form(ty: GgmlType) -> Option<Form> {
    use GgmlType as T;
    Some(match ty {
        T::F32 | T::F16 | T::BF16 => Form::Float,
        T::Q4_0 | T::Q5_0 | T::Q8_0 | T::IQ4_NL | T::MXFP4 => Form::Block32 { offset: false },
        T::Q4_1 | T::Q5_1 => Form::Block32 { offset: true },
        T::Q3K | T::Q6K | T::TQ1_0 | T::TQ2_0 => Form::Block256 { offset: false },
        T::IQ1_S | T::IQ1_M | T::IQ2_XXS | T::IQ2_XS | T::IQ2_S => Form::Block256 { offset: false },
        T::IQ3_XXS | T::IQ3_S | T::IQ4_XS => Form::Block256 { offset: false },
        T::Q2K | T::Q4K | T::Q5K => Form::Block256 { offset: true },
        _ => return None,
    })
}

pub(super) fn f16_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Plain floats to f32.
pub(super) fn float_row(ty: GgmlType, bytes: &[u8], out: &mut [f32]) {
    match ty {
        GgmlType::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *o = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        GgmlType::BF16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *o = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        _ => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
    }
}

/// Unpack one block of a type whose [`form`] is [`Form::Block32`].
pub(super) fn unpack32(ty: GgmlType, b: &[u8]) -> Block32 {
    use GgmlType as T;
    if matches!(ty, T::IQ4_NL | T::MXFP4) {
        return codebook::unpack32(ty, b);
    }
    let mut out = Block32 { q: [0; 32], d: f16_at(b, 0), m: 0.0 };
    let (high, nibbles, offset) = match ty {
        T::Q8_0 => {
            for (q, &v) in out.q.iter_mut().zip(&b[2..34]) {
                *q = v as i8;
            }
            return out;
        }
        T::Q4_0 => (0, &b[2..18], 8),
        T::Q4_1 => (0, &b[4..20], 0),
        T::Q5_0 => (u32::from_le_bytes([b[2], b[3], b[4], b[5]]), &b[6..22], 16),
        _ => (u32::from_le_bytes([b[4], b[5], b[6], b[7]]), &b[8..24], 0),
    };
    if matches!(ty, T::Q4_1 | T::Q5_1) {
        out.m = f16_at(b, 2);
    }
    for i in 0..16 {
        let hi = |bit: usize| (((high >> bit) & 1) << 4) as i8;
        out.q[i] = ((nibbles[i] & 15) as i8 | hi(i)) - offset;
        out.q[i + 16] = ((nibbles[i] >> 4) as i8 | hi(i + 16)) - offset;
    }
    out
}

/// The 6-bit scales and mins of Q4_K and Q5_K: eight of each in twelve bytes.
fn scales_mins(s: &[u8], out: &mut Block256) {
    for j in 0..8 {
        let (sc, m) = if j < 4 {
            (s[j] & 63, s[j + 4] & 63)
        } else {
            ((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4))
        };
        for k in [2 * j, 2 * j + 1] {
            out.scale[k] = i16::from(sc);
            out.min[k] = i16::from(m);
        }
    }
}

/// Unpack one block of a type whose [`form`] is [`Form::Block256`].
pub(super) fn unpack256(ty: GgmlType, b: &[u8]) -> Block256 {
    use GgmlType as T;
    let mut out = Block256 { q: [0; 256], scale: [0; 16], min: [0; 16], d: 0.0, dmin: 0.0 };
    match ty {
        T::Q2K => {
            (out.d, out.dmin) = (f16_at(b, 80), f16_at(b, 82));
            for i in 0..16 {
                out.scale[i] = i16::from(b[i] & 15);
                out.min[i] = i16::from(b[i] >> 4);
            }
            for i in 0..256 {
                let (half, pair, l) = (i / 128, i / 32 % 4, i % 32);
                out.q[i] = ((b[16 + half * 32 + l] >> (2 * pair)) & 3) as i8;
            }
        }
        T::Q3K => {
            out.d = f16_at(b, 108);
            let s = &b[96..108];
            for i in 0..16 {
                let low = if i < 8 { s[i] & 15 } else { s[i - 8] >> 4 };
                let high = (s[8 + i % 4] >> (2 * (i / 4))) & 3;
                out.scale[i] = i16::from(low | (high << 4)) - 32;
            }
            for i in 0..256 {
                let (half, pair, l) = (i / 128, i / 32 % 4, i % 32);
                let low = ((b[32 + half * 32 + l] >> (2 * pair)) & 3) as i8;
                let high = (b[l] >> (4 * half + pair)) & 1;
                out.q[i] = low - if high == 0 { 4 } else { 0 };
            }
        }
        T::Q4K => {
            (out.d, out.dmin) = (f16_at(b, 0), f16_at(b, 2));
            scales_mins(&b[4..16], &mut out);
            for i in 0..256 {
                let byte = b[16 + i / 64 * 32 + i % 32];
                out.q[i] = (if i % 64 < 32 { byte & 15 } else { byte >> 4 }) as i8;
            }
        }
        T::Q5K => {
            (out.d, out.dmin) = (f16_at(b, 0), f16_at(b, 2));
            scales_mins(&b[4..16], &mut out);
            for i in 0..256 {
                let byte = b[48 + i / 64 * 32 + i % 32];
                let low = if i % 64 < 32 { byte & 15 } else { byte >> 4 };
                let high = (b[16 + i % 32] >> (i / 32)) & 1;
                out.q[i] = (low | (high << 4)) as i8;
            }
        }
        T::Q6K => {
            out.d = f16_at(b, 208);
            for i in 0..16 {
                out.scale[i] = i16::from(b[192 + i] as i8);
            }
            for i in 0..256 {
                let (half, part, l) = (i / 128, i / 32 % 4, i % 32);
                let byte = b[half * 64 + (part & 1) * 32 + l];
                let low = if part < 2 { byte & 15 } else { byte >> 4 };
                let high = (b[128 + half * 32 + l] >> (2 * part)) & 3;
                out.q[i] = (low | (high << 4)) as i8 - 32;
            }
        }
        _ => return codebook::unpack256(ty, b),
    }
    out
}

impl Block256 {
    /// Values, rounded as `gguf-py` rounds them.
    pub(super) fn values(&self, offset: bool, out: &mut [f32]) {
        for (i, o) in out.iter_mut().enumerate() {
            let v = (self.d * f32::from(self.scale[i / 16])) * f32::from(self.q[i]);
            *o = if offset { v - self.dmin * f32::from(self.min[i / 16]) } else { v };
        }
    }
}

impl Block32 {
    /// Values, rounded as `gguf-py` rounds them.
    pub(super) fn values(&self, offset: bool, out: &mut [f32]) {
        for (o, &q) in out.iter_mut().zip(&self.q) {
            let v = self.d * f32::from(q);
            *o = if offset { v + self.m } else { v };
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::gguf::GgmlType;

    /// Random blocks and their values by `gguf-py`; written by `tests/reference/blocks.py`.
    const REFERENCE: &[u8] = include_bytes!("blocks.bin");

    #[test]
    fn values_are_those_of_gguf_py_bit_for_bit() {
        let mut at = REFERENCE;
        let mut seen = 0;
        while !at.is_empty() {
            let head: Vec<u32> = at[..16].chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
            let (ty, count) = (GgmlType::from_u32(head[0]), head[1] as usize);
            assert_eq!((ty.block_bytes(), ty.block_elems()), (head[2] as usize, head[3] as usize), "{ty:?}");
            let (bytes, values) = (count * ty.block_bytes(), count * ty.block_elems());
            let want: Vec<u32> =
                at[16 + bytes..][..values * 4].chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
            let mut got = vec![0.0; values];
            super::super::dequantize(ty, &at[16..16 + bytes], &mut got).unwrap();
            let got: Vec<u32> = got.iter().map(|v| v.to_bits()).collect();
            assert_eq!(got, want, "{ty:?}");
            at = &at[16 + bytes + values * 4..];
            seen += 1;
        }
        assert_eq!(seen, 24);
    }
}
