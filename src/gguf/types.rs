//! ggml tensor types: numbers, names, block sizes.

use std::fmt;

/// A ggml tensor type (`ggml.h`, `enum ggml_type`). All of ggml's types are known by size, whether or not
/// anything here can compute with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, non_camel_case_types)]
pub enum GgmlType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
    /// A number that ggml had no type for when this was written. Its size is not known, so the tensor is
    /// refused when it is needed.
    Unknown(u32),
}

use GgmlType as T;

/// Every known type: number in the file, ggml's spelling, elements in a block, bytes of a block.
const TABLE: [(GgmlType, u32, &str, usize, usize); 35] = [
    (T::F32, 0, "f32", 1, 4),
    (T::F16, 1, "f16", 1, 2),
    (T::Q4_0, 2, "q4_0", 32, 18),
    (T::Q4_1, 3, "q4_1", 32, 20),
    (T::Q5_0, 6, "q5_0", 32, 22),
    (T::Q5_1, 7, "q5_1", 32, 24),
    (T::Q8_0, 8, "q8_0", 32, 34),
    (T::Q8_1, 9, "q8_1", 32, 36),
    (T::Q2K, 10, "q2_K", 256, 84),
    (T::Q3K, 11, "q3_K", 256, 110),
    (T::Q4K, 12, "q4_K", 256, 144),
    (T::Q5K, 13, "q5_K", 256, 176),
    (T::Q6K, 14, "q6_K", 256, 210),
    (T::Q8K, 15, "q8_K", 256, 292),
    (T::IQ2_XXS, 16, "iq2_xxs", 256, 66),
    (T::IQ2_XS, 17, "iq2_xs", 256, 74),
    (T::IQ3_XXS, 18, "iq3_xxs", 256, 98),
    (T::IQ1_S, 19, "iq1_s", 256, 50),
    (T::IQ4_NL, 20, "iq4_nl", 32, 18),
    (T::IQ3_S, 21, "iq3_s", 256, 110),
    (T::IQ2_S, 22, "iq2_s", 256, 82),
    (T::IQ4_XS, 23, "iq4_xs", 256, 136),
    (T::I8, 24, "i8", 1, 1),
    (T::I16, 25, "i16", 1, 2),
    (T::I32, 26, "i32", 1, 4),
    (T::I64, 27, "i64", 1, 8),
    (T::F64, 28, "f64", 1, 8),
    (T::IQ1_M, 29, "iq1_m", 256, 56),
    (T::BF16, 30, "bf16", 1, 2),
    (T::TQ1_0, 34, "tq1_0", 256, 54),
    (T::TQ2_0, 35, "tq2_0", 256, 66),
    (T::MXFP4, 39, "mxfp4", 32, 17),
    (T::NVFP4, 40, "nvfp4", 64, 36),
    (T::Q1_0, 41, "q1_0", 128, 18),
    (T::Q2_0, 42, "q2_0", 64, 18),
];

impl GgmlType {
    /// All known types, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TABLE.iter().map(|row| row.0)
    }

    /// The type with this number in a file; [`GgmlType::Unknown`] if ggml has none.
    #[must_use]
    pub fn from_u32(number: u32) -> Self {
        TABLE.iter().find(|row| row.1 == number).map_or(T::Unknown(number), |row| row.0)
    }

    /// The type with ggml's name, in any case: `q4_K`, `Q4_K`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.2.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// The number that stands for this type in a file.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            T::Unknown(number) => number,
            known => known.row().1,
        }
    }

    /// ggml's spelling: `f32`, `q4_K`, `iq4_xs`; `unknown` for a number without a type.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Whether the size of this type is known.
    #[must_use]
    pub fn is_known(self) -> bool {
        !matches!(self, T::Unknown(_))
    }

    /// Elements in a block (1 for plain types and for unknown ones).
    #[must_use]
    pub fn block_elems(self) -> usize {
        self.row().3
    }

    /// Bytes of a block (0 for unknown types).
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Bytes of a row of `cols` elements; `None` if `cols` is not a whole number of blocks, if the type is
    /// unknown, or if the size does not fit.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let elems = self.block_elems();
        if !self.is_known() || !cols.is_multiple_of(elems) {
            return None;
        }
        (cols / elems).checked_mul(self.block_bytes())
    }

    fn row(self) -> (GgmlType, u32, &'static str, usize, usize) {
        TABLE.iter().find(|row| row.0 == self).copied().unwrap_or((self, 0, "unknown", 1, 0))
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            T::Unknown(number) => match number {
                4 | 5 => write!(f, "type {number} (q4_{}, no longer in ggml)", number - 2),
                31..=33 => write!(f, "type {number} (a repacked q4_0, no longer in ggml)"),
                36..=38 => write!(f, "type {number} (a repacked iq4_nl, no longer in ggml)"),
                _ => write!(f, "unknown type {number}"),
            },
            known => f.pad(known.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_go_both_ways() {
        for ty in GgmlType::all() {
            assert_eq!(GgmlType::from_u32(ty.number()), ty);
            assert_eq!(GgmlType::from_name(ty.name()), Some(ty));
            assert!(ty.block_bytes() > 0 && ty.is_known());
        }
        assert_eq!(GgmlType::from_u32(12).to_string(), "q4_K");
        assert_eq!(GgmlType::from_u32(23).to_string(), "iq4_xs");
    }

    #[test]
    fn an_unknown_number_is_kept_and_has_no_size() {
        let ty = GgmlType::from_u32(4711);
        assert_eq!(ty.number(), 4711);
        assert_eq!(ty.row_bytes(256), None);
        assert_eq!(ty.to_string(), "unknown type 4711");
    }

    #[test]
    fn a_row_is_whole_blocks_or_nothing() {
        assert_eq!(T::Q4K.row_bytes(2048), Some(8 * 144));
        assert_eq!(T::Q4K.row_bytes(704), None);
        assert_eq!(T::F32.row_bytes(usize::MAX), None);
        assert_eq!(T::F32.row_bytes(3), Some(12));
    }
}
