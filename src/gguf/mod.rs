//! A GGUF reader over a memory map that trusts nothing in the file.
//!
//! [`Gguf::open`] maps a file (or all parts of a split set), checks its whole header and every tensor's extent,
//! and from then on hands out slices: of a tensor, of some of its rows, of one expert. Nothing is copied but the
//! metadata. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod bytes;
mod error;
mod header;
mod huge;
mod split;
mod types;
mod value;
pub mod write;

pub use bytes::{Advice, Bytes};
pub(crate) use error::shown;
pub use error::{GgufError, Place};
pub use huge::{Frozen, Huge, HUGE_PAGE};
#[cfg(feature = "hub")]
pub(crate) use split::parse_name as split_name;
pub use types::GgmlType;
pub use value::Value;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Dimensions in ggml order: `dims[0]` is the contiguous one. A weight `(a, b)` maps a to b. 1 to 4 of them, none 0.
    pub dims: Vec<usize>,
    /// Which file of a split set holds it.
    part: usize,
    /// Extent in that file.
    range: Range<usize>,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
    /// Length of a row: `dims[0]`.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.dims[0]
    }
    /// Number of rows over all higher dimensions: of a stacked `(in, out, experts)` tensor, `out * experts`.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }
    /// Bytes in the file. For a type of unknown size: what lies before the next tensor.
    #[must_use]
    pub fn size(&self) -> usize {
        self.range.len()
    }
    /// Where the data begins, in bytes from the beginning of its file.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.range.start
    }
}

/// An open GGUF file, or a set of split files seen as one. Cloning is cheap.
#[derive(Clone)]
pub struct Gguf {
    inner: Arc<Inner>,
}

struct Inner {
    /// Where it was opened, for messages.
    name: PathBuf,
    paths: Vec<PathBuf>,
    /// The whole of every file.
    parts: Vec<Bytes>,
    /// Header bytes of every file.
    headers: Vec<usize>,
    version: u32,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorInfo>,
    names: HashMap<String, usize>,
}

impl Gguf {
    /// Map `path` (and its siblings, if it is any part of a split set) and check everything.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let (bytes, header) = read(path)?;
        let Some(set) = split::set(path, &header)? else {
            return Self::assemble(path.into(), vec![path.into()], vec![(bytes, header)]);
        };
        let mut parts = Vec::with_capacity(set.paths.len());
        for (i, part) in set.paths.iter().enumerate() {
            let read = match read(part) {
                Err(GgufError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Err(GgufError::MissingPart { file: part.clone(), part: i + 1, of: set.paths.len() });
                }
                other => other?,
            };
            set.check(part, i, &read.1)?;
            parts.push(read);
        }
        set.check_tensors(parts.iter().map(|(_, h)| h.tensors.len()).sum())?;
        Self::assemble(set.paths[0].clone(), set.paths, parts)
    }

    /// The same over memory that lives as long as the program.
    pub fn from_static(bytes: &'static [u8], name: &str) -> Result<Self, GgufError> {
        Self::from_bytes(Bytes::from_static(bytes), name)
    }

    /// The same over bytes at hand. `name` stands for the file in messages.
    pub fn from_bytes(bytes: Bytes, name: &str) -> Result<Self, GgufError> {
        let header = header::parse(Path::new(name), &bytes)?;
        Self::assemble(name.into(), Vec::new(), vec![(bytes, header)])
    }

    fn assemble(name: PathBuf, paths: Vec<PathBuf>, files: Vec<(Bytes, header::Header)>) -> Result<Self, GgufError> {
        let mut inner = Inner {
            name,
            paths,
            parts: Vec::new(),
            headers: Vec::new(),
            version: files.first().map_or(0, |(_, h)| h.version),
            metadata: Vec::new(),
            keys: HashMap::new(),
            tensors: Vec::new(),
            names: HashMap::new(),
        };
        for (part, (bytes, header)) in files.into_iter().enumerate() {
            inner.headers.push(header.data_start);
            inner.parts.push(bytes);
            for (key, value) in header.metadata {
                // The first part of a set speaks for all; later parts repeat some of its keys.
                if !inner.keys.contains_key(&key) {
                    inner.keys.insert(key.clone(), inner.metadata.len());
                    inner.metadata.push((key, value));
                }
            }
            for t in header.tensors {
                let index = inner.tensors.len();
                if inner.names.insert(t.name.clone(), index).is_some() {
                    let file = inner.paths.get(part).unwrap_or(&inner.name).clone();
                    let at = Place { file, field: format!("tensor {}", shown(&t.name)), offset: t.start as u64 };
                    return Err(GgufError::Duplicate { at });
                }
                inner.tensors.push(TensorInfo { name: t.name, ty: t.ty, dims: t.dims, part, range: t.start..t.end });
            }
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The file (first part of a set), or the name of the static memory, as messages should call it.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.inner.name
    }

    /// GGUF version of the (first) file.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.inner.version
    }

    /// `general.architecture`.
    pub fn arch(&self) -> Result<&str, GgufError> {
        const KEY: &str = "general.architecture";
        self.str(KEY)?.ok_or_else(|| self.missing(KEY))
    }

    /// A metadata value by its full key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.inner.keys.get(key).map(|&i| &self.inner.metadata[i].1)
    }

    /// The error for a key that is needed and absent.
    #[must_use]
    pub fn missing(&self, key: &str) -> GgufError {
        GgufError::MissingKey { file: self.inner.name.clone(), key: shown(key) }
    }

    /// The error for a key whose value is of another kind than needed.
    #[must_use]
    pub fn wrong_kind(&self, key: &str, want: &'static str) -> GgufError {
        let found = self.get(key).map_or("absent", Value::kind).to_owned();
        GgufError::Kind { file: self.inner.name.clone(), key: shown(key), want, found }
    }

    /// An unsigned integer; `Ok(None)` if the key is absent, an error naming the key if it is of another kind.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an unsigned integer", Value::as_u64)
    }

    /// Any numeric value as f32. See [`Gguf::u64`].
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a number", Value::as_f32)
    }

    /// See [`Gguf::u64`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// See [`Gguf::u64`].
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An array of unsigned integers. See [`Gguf::u64`].
    pub fn u64s(&self, key: &str) -> Result<Option<Vec<u64>>, GgufError> {
        self.typed(key, "an array of unsigned integers", |v| v.as_array()?.iter().map(Value::as_u64).collect())
    }

    /// An array of numbers. See [`Gguf::u64`].
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.typed(key, "an array of numbers", |v| v.as_array()?.iter().map(Value::as_f32).collect())
    }

    /// An array of bools. See [`Gguf::u64`].
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.typed(key, "an array of bools", |v| {
            v.as_array()?.iter().map(|v| if let Value::Bool(b) = v { Some(*b) } else { None }).collect()
        })
    }

    /// An array of strings. See [`Gguf::u64`].
    pub fn strs(&self, key: &str) -> Result<Option<Vec<&str>>, GgufError> {
        self.typed(key, "an array of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    fn typed<'a, T>(&'a self, key: &str, want: &'static str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong_kind(key, want)),
        }
    }

    /// All metadata, in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.inner.metadata.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.inner.tensors.iter()
    }

    /// A tensor that may be absent. Its type may be one of unknown size.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.names.get(name).map(|&i| &self.inner.tensors[i])
    }

    /// A tensor that must be there, of a known type; the error names file and tensor.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        let file = || self.inner.name.clone();
        let info = self.tensor(name).ok_or_else(|| GgufError::MissingTensor { file: file(), tensor: shown(name) })?;
        if !info.ty.is_known() {
            return Err(GgufError::UnknownType { file: file(), tensor: shown(name), ty: info.ty });
        }
        Ok(info)
    }

    /// The bytes of a tensor of this file. Already checked to lie inside it. (Empty for a tensor of another file.)
    #[must_use]
    pub fn bytes(&self, tensor: &TensorInfo) -> Bytes {
        match self.tensor(&tensor.name) {
            Some(own) if own == tensor => self.inner.parts[own.part].slice(own.range.clone()),
            _ => Bytes::from_vec(Vec::new()),
        }
    }

    /// Some rows of a tensor, counted over all higher dimensions: of a stacked `(in, out, experts)` tensor, row
    /// `out * e + o` is row `o` of expert `e`.
    pub fn rows(&self, tensor: &TensorInfo, rows: Range<usize>) -> Result<Bytes, GgufError> {
        let have = tensor.rows();
        let file = || self.inner.name.clone();
        if rows.start > rows.end || rows.end > have {
            let (tensor, asked) = (shown(&tensor.name), rows.end);
            return Err(GgufError::OutOfRange { file: file(), tensor, what: "rows", asked, have });
        }
        let Some(row) = tensor.ty.row_bytes(tensor.cols()) else {
            return Err(GgufError::UnknownType { file: file(), tensor: shown(&tensor.name), ty: tensor.ty });
        };
        Ok(self.bytes(tensor).slice(rows.start * row..rows.end * row))
    }

    /// One expert of a stacked tensor `(in, out, experts)`: `out` rows of `in` elements.
    pub fn expert(&self, tensor: &TensorInfo, expert: usize) -> Result<Bytes, GgufError> {
        let experts = tensor.dims.get(2).copied().unwrap_or(0);
        if tensor.dims.len() != 3 || expert >= experts {
            let tensor = shown(&tensor.name);
            let file = self.inner.name.clone();
            return Err(GgufError::OutOfRange { file, tensor, what: "experts", asked: expert, have: experts });
        }
        let out = tensor.dims[1];
        self.rows(tensor, expert * out..(expert + 1) * out)
    }

    /// The values of a small plain tensor (norms, biases, routers) stored as F32, F16 or BF16.
    pub fn f32_tensor(&self, tensor: &TensorInfo) -> Result<Vec<f32>, GgufError> {
        let bytes = self.bytes(tensor);
        Ok(match tensor.ty {
            GgmlType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            GgmlType::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            GgmlType::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            ty => return Err(GgufError::NotFloat { file: self.inner.name.clone(), tensor: shown(&tensor.name), ty }),
        })
    }

    /// The file(s) behind it; empty for static memory.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.inner.paths
    }

    /// The whole of every file, in order: for advice about, and questions on, all of it.
    #[must_use]
    pub fn parts(&self) -> &[Bytes] {
        &self.inner.parts
    }

    /// Bytes of all files together.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // an empty file is never open
    pub fn len(&self) -> u64 {
        self.inner.parts.iter().map(|p| p.len() as u64).sum()
    }

    /// 16 hexadecimal digits that tell this file from another: a hash of lengths, headers and sampled data. Fast
    /// (reads a few hundred KiB of the data), not a checksum.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        const SAMPLES: usize = 64;
        const SAMPLE: usize = 4096;
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        for (bytes, &header) in self.inner.parts.iter().zip(&self.inner.headers) {
            hash.add(&(bytes.len() as u64).to_le_bytes());
            hash.add(&bytes[..header]);
            let room = bytes.len().saturating_sub(header + SAMPLE);
            for i in 0..SAMPLES {
                let from = header + (room as u128 * i as u128 / (SAMPLES - 1) as u128) as usize;
                hash.add(&bytes[from..(from + SAMPLE).min(bytes.len())]);
            }
        }
        format!("{:016x}", hash.0)
    }
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gguf({}, {} tensors)", self.inner.name.display(), self.inner.tensors.len())
    }
}

/// Map one file and parse its header.
fn read(path: &Path) -> Result<(Bytes, header::Header), GgufError> {
    let fail = |source| GgufError::Open { file: path.into(), source };
    // Ask before opening: opening a pipe would wait for a writer.
    let kind = std::fs::metadata(path).map_err(fail)?.file_type();
    if kind.is_dir() {
        return Err(GgufError::NotAFile { file: path.into(), kind: "a folder" });
    }
    if !kind.is_file() {
        return Err(GgufError::NotAFile { file: path.into(), kind: "a device or a pipe" });
    }
    let file = File::open(path).map_err(fail)?;
    let len = file.metadata().map_err(fail)?.len();
    if len == 0 {
        return Err(GgufError::Empty { file: path.into() });
    }
    let bytes = Bytes::map(&file).map_err(fail)?;
    let header = header::parse(path, &bytes)?;
    Ok((bytes, header))
}
