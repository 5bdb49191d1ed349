//! Writes GGUF files: for tests, fixtures and tools.

use super::{GgmlType, Value};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A GGUF file in the making: metadata and tensors, in the order in which they are added.
#[derive(Clone, Debug)]
pub struct Writer {
    version: u32,
    alignment: usize,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    ty: u32,
    dims: Vec<usize>,
    data: Vec<u8>,
    /// Bytes of it in the file; those that `data` lacks are a hole, which reads as zeros.
    len: u64,
}

impl Writer {
    /// A file of this `general.architecture`.
    #[must_use]
    pub fn new(arch: &str) -> Self {
        Self::empty().with("general.architecture", arch)
    }

    /// A file without any metadata.
    #[must_use]
    pub fn empty() -> Self {
        Self { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// Write this version number instead of 3.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Align tensor data to `bytes` (a power of two) instead of 32, and say so in `general.alignment`.
    #[must_use]
    pub fn alignment(mut self, bytes: usize) -> Self {
        self.alignment = bytes;
        self.with("general.alignment", bytes)
    }

    /// Add a metadata value.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// Add a metadata value, or replace the one with this key.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    /// Add a tensor. `dims[0]` is the contiguous dimension. The data is written as it is, right or wrong, so that
    /// damaged files can be made too.
    pub fn tensor(&mut self, name: &str, ty: GgmlType, dims: &[usize], data: Vec<u8>) {
        let len = data.len() as u64;
        self.tensors.push(Tensor { name: name.to_owned(), ty: ty.number(), dims: dims.to_vec(), data, len });
    }

    /// Add a tensor of zeros that [`Writer::save`] leaves out of the disk, so that files of any size can be made.
    ///
    /// # Panics
    /// A type without a size, or a row that is not whole blocks: no such file exists.
    pub fn hole(&mut self, name: &str, ty: GgmlType, dims: &[usize]) {
        let row = ty.row_bytes(dims[0]).expect("whole blocks of a known type") as u64;
        let len = dims[1..].iter().fold(row, |n, &d| n * d as u64);
        self.tensors.push(Tensor { name: name.to_owned(), ty: ty.number(), dims: dims.to_vec(), data: Vec::new(), len });
    }

    /// Add an F32 tensor.
    pub fn f32_tensor(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        self.tensor(name, GgmlType::F32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Remove the metadata value with this key, if it is there.
    pub fn remove_key(&mut self, key: &str) {
        self.metadata.retain(|(k, _)| k != key);
    }

    /// Remove the tensor with this name, if it is there.
    pub fn remove_tensor(&mut self, name: &str) {
        self.tensors.retain(|t| t.name != name);
    }

    /// The whole file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out).expect("a vector takes all bytes");
        out
    }

    /// Everything before the data of the first tensor.
    fn header(&self) -> Vec<u8> {
        let mut header = Vec::new();
        header.extend(b"GGUF");
        header.extend(self.version.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut header, key);
            let kind = kind(value);
            header.extend(kind.to_le_bytes());
            put_value(&mut header, kind, value);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            put_string(&mut header, &t.name);
            header.extend((t.dims.len() as u32).to_le_bytes());
            for &d in &t.dims {
                header.extend((d as u64).to_le_bytes());
            }
            header.extend(t.ty.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += t.len.next_multiple_of(self.alignment as u64);
        }
        header.resize(header.len().next_multiple_of(self.alignment), 0);
        header
    }

    /// Write the whole file to `out`, holes as zeros.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.header())?;
        for t in &self.tensors {
            out.write_all(&t.data)?;
            let padding = t.len.next_multiple_of(self.alignment as u64) - t.data.len() as u64;
            io::copy(&mut io::repeat(0).take(padding), out)?;
        }
        Ok(())
    }

    /// Write the file to `path`.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut out = io::BufWriter::new(std::fs::File::create(path)?);
        let header = self.header();
        out.write_all(&header)?;
        let mut at = header.len() as u64;
        for t in &self.tensors {
            out.write_all(&t.data)?;
            at += t.len.next_multiple_of(self.alignment as u64);
            out.seek(SeekFrom::Start(at))?;
        }
        out.flush()?;
        out.get_ref().set_len(at)
    }

    /// Write as a split set of `parts` files, `stem-00001-of-0000N.gguf`, into `folder`, tensors shared out in order.
    pub fn save_split(&self, folder: &Path, stem: &str, parts: usize) -> io::Result<Vec<PathBuf>> {
        let per_part = self.tensors.len().div_ceil(parts.max(1)).max(1);
        let mut paths = Vec::new();
        for i in 0..parts {
            let mut part = if i == 0 { self.clone() } else { Self { metadata: Vec::new(), ..self.clone() } };
            part.tensors = self.tensors.iter().skip(i * per_part).take(per_part).cloned().collect();
            part.set("split.no", i);
            part.set("split.count", parts);
            part.set("split.tensors.count", self.tensors.len());
            let path = folder.join(format!("{stem}-{:05}-of-{parts:05}.gguf", i + 1));
            part.save(&path)?;
            paths.push(path);
        }
        Ok(paths)
    }
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

/// The file's number for the kind of a value. Integers take 32 bits where they fit, as converters write them.
fn kind(value: &Value) -> u32 {
    match value {
        Value::U64(v) if u32::try_from(*v).is_ok() => 4,
        Value::U64(_) => 10,
        Value::I64(v) if i32::try_from(*v).is_ok() => 5,
        Value::I64(_) => 11,
        Value::F32(_) => 6,
        Value::F64(_) => 12,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
    }
}

fn put_value(out: &mut Vec<u8>, kind_of: u32, value: &Value) {
    match value {
        Value::U64(v) if kind_of <= 5 => out.extend((*v as u32).to_le_bytes()),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) if kind_of <= 5 => out.extend((*v as i32).to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(s) => put_string(out, s),
        Value::Array(items) => {
            // One kind for all elements: the widest that any of them needs.
            let element = items.iter().map(kind).max().unwrap_or(8);
            out.extend(element.to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            for item in items {
                put_value(out, element, item);
            }
        }
    }
}
