//! A GGUF reader over a memory map that trusts nothing in the file.

mod types;
pub use types::GgmlType;

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a file was refused. Every variant names the file and the field, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// To be replaced by precise variants.
    #[error("{0}")]
    Other(String),
}

/// A shared range of a mapped file (or of static memory). Cloning is cheap; the mapping lives as long as any range.
#[derive(Clone)]
pub struct Bytes {
    map: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// Own a plain buffer (tests, converted weights).
    #[must_use]
    pub fn from_vec(v: Vec<u8>) -> Self {
        let range = 0..v.len();
        Self { map: Arc::new(v), range }
    }
    /// A part of this range. Panics if out of bounds, like slicing.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.end <= self.range.len());
        Self { map: self.map.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.map).as_ref()[self.range.clone()]
    }
}

/// One tensor of the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Dimensions in ggml order: `dims[0]` is the contiguous one. A weight `(a, b)` maps a to b.
    pub dims: Vec<usize>,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
}

/// An open GGUF file, or a set of split files seen as one. Cloning is cheap.
#[derive(Clone)]
pub struct Gguf {}

impl Gguf {
    /// Map `path` (and its siblings, if it is the first of a split set) and check everything.
    pub fn open(_path: &Path) -> Result<Self, GgufError> {
        unimplemented!()
    }
    /// The same over memory that lives as long as the program.
    pub fn from_static(_bytes: &'static [u8], _name: &str) -> Result<Self, GgufError> {
        unimplemented!()
    }
    /// `general.architecture`.
    pub fn arch(&self) -> Result<&str, GgufError> {
        unimplemented!()
    }
    /// A metadata value by its full key.
    #[must_use]
    pub fn get(&self, _key: &str) -> Option<&Value> {
        unimplemented!()
    }
    /// An unsigned integer; `Ok(None)` if the key is absent, an error naming the key if it is of another kind.
    pub fn u64(&self, _key: &str) -> Result<Option<u64>, GgufError> {
        unimplemented!()
    }
    /// Any numeric value as f32. See [`Gguf::u64`].
    pub fn f32(&self, _key: &str) -> Result<Option<f32>, GgufError> {
        unimplemented!()
    }
    /// See [`Gguf::u64`].
    pub fn bool(&self, _key: &str) -> Result<Option<bool>, GgufError> {
        unimplemented!()
    }
    /// See [`Gguf::u64`].
    pub fn str(&self, _key: &str) -> Result<Option<&str>, GgufError> {
        unimplemented!()
    }
    /// All metadata, in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        std::iter::empty()
    }
    /// All tensors, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        std::iter::empty()
    }
    /// A tensor that may be absent.
    #[must_use]
    pub fn tensor(&self, _name: &str) -> Option<&TensorInfo> {
        unimplemented!()
    }
    /// A tensor that must be there; the error names file and tensor.
    pub fn require(&self, _name: &str) -> Result<&TensorInfo, GgufError> {
        unimplemented!()
    }
    /// The bytes of a tensor of this file. Already checked to lie inside it.
    #[must_use]
    pub fn bytes(&self, _tensor: &TensorInfo) -> Bytes {
        unimplemented!()
    }
    /// The file(s) behind it; empty for static memory.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        unimplemented!()
    }
    /// Bytes of all files together.
    #[must_use]
    pub fn len(&self) -> u64 {
        unimplemented!()
    }
}
