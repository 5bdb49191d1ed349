//! ggml tensor types: names, block sizes.

/// A ggml tensor type. The discriminants are the file's numbers (`ggml.h`, `enum ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, non_camel_case_types)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2K = 10,
    Q3K = 11,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    Q8K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
}

impl GgmlType {
    /// Elements in a block (1 for plain types).
    #[must_use]
    pub fn block_elems(self) -> usize {
        use GgmlType as T;
        match self {
            T::F32 | T::F16 | T::BF16 | T::F64 | T::I8 | T::I16 | T::I32 | T::I64 => 1,
            T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::Q8_0 | T::Q8_1 | T::IQ4_NL | T::MXFP4 => 32,
            T::NVFP4 => 64,
            _ => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        use GgmlType as T;
        match self {
            T::F32 | T::I32 => 4,
            T::F16 | T::BF16 | T::I16 => 2,
            T::F64 | T::I64 => 8,
            T::I8 => 1,
            T::Q4_0 | T::IQ4_NL => 18,
            T::Q4_1 => 20,
            T::Q5_0 => 22,
            T::Q5_1 => 24,
            T::Q8_0 => 34,
            T::Q8_1 => 36,
            T::Q2K => 84,
            T::Q3K | T::IQ3_S => 110,
            T::Q4K => 144,
            T::Q5K => 176,
            T::Q6K => 210,
            T::Q8K => 292,
            T::IQ2_XXS | T::TQ2_0 => 66,
            T::IQ2_XS => 74,
            T::IQ3_XXS => 98,
            T::IQ1_S => 50,
            T::IQ2_S => 82,
            T::IQ4_XS => 136,
            T::IQ1_M => 56,
            T::TQ1_0 => 54,
            T::MXFP4 => 17,
            T::NVFP4 => 36,
        }
    }
}
