//! Parses the header of one GGUF file: counts, metadata, tensor table. Trusts nothing.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every count is checked against the bytes
//! that are left before anything is allocated for it, so no header can make us allocate more than a small
//! multiple of its own length.

use super::error::{shown, GgufError, Place};
use super::{GgmlType, Value};
use std::collections::HashSet;
use std::path::Path;

/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
const MAX_DIMS: u64 = 4;
/// Longest tensor name in bytes. ggml takes 63; a little more harms nobody.
const MAX_NAME: u64 = 255;
/// Longest metadata key in bytes (the format's own limit).
const MAX_KEY: u64 = 65_535;
/// Most values of all arrays together; the largest vocabularies need a million and a half.
const MAX_VALUES: u64 = 1 << 22;
/// Longest string value in bytes.
const MAX_STRING: u64 = 1 << 26;
/// Most bytes of all strings, keys and names together.
const MAX_TEXT: u64 = 1 << 28;
/// Most tensors (old files have one tensor per expert: some 20,000), and most keys.
const MAX_ENTRIES: u64 = 1 << 20;
/// Arrays in arrays, at most so deep.
const MAX_NESTING: usize = 4;
/// Largest `general.alignment` in bytes.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Alignment of tensor data where the file names none.
const DEFAULT_ALIGNMENT: u64 = 32;

/// One entry of the tensor table, with its extent checked against the file.
#[derive(Debug)]
pub(super) struct RawTensor {
    pub(super) name: String,
    pub(super) ty: GgmlType,
    pub(super) dims: Vec<usize>,
    /// From the beginning of the file.
    pub(super) start: usize,
    /// End of the data. For a type of unknown size: where the next tensor, or the file, puts a bound.
    pub(super) end: usize,
}

/// What one file says of itself.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) tensors: Vec<RawTensor>,
    /// Where the tensor data begins.
    pub(super) data_start: usize,
}

/// Parse and check a whole file. `file` only names it in errors.
pub(super) fn parse(file: &Path, data: &[u8]) -> Result<Header, GgufError> {
    if data.is_empty() {
        return Err(GgufError::Empty { file: file.into() });
    }
    if !data.starts_with(b"GGUF") {
        return Err(GgufError::NotGguf { file: file.into(), looks_like: looks_like(data) });
    }
    let mut r = Reader { file, data, pos: 4, values: 0, text: 0 };
    let version = r.u32("version")?;
    match version {
        2 | 3 => {}
        v if v & 0xffff == 0 => return Err(GgufError::BigEndian { file: file.into() }),
        version => return Err(GgufError::Version { file: file.into(), version }),
    }
    let tensor_count = r.count("tensor_count", 8 + 4 + 8 + 4 + 8, MAX_ENTRIES)?;
    let kv_count = r.count("metadata_kv_count", 8 + 4 + 1, MAX_ENTRIES)?;

    let metadata = r.metadata(kv_count)?;
    let alignment = alignment(&r, &metadata)?;
    let table = r.tensor_table(tensor_count)?;

    let data_start = (r.pos as u64).next_multiple_of(alignment);
    let tensors = place(file, data.len() as u64, data_start, alignment, table)?;
    Ok(Header { version, metadata, tensors, data_start: data_start.min(data.len() as u64) as usize })
}

/// An entry as it stands in the table, with the place where it begins.
struct Entry {
    at: u64,
    name: String,
    ty: GgmlType,
    dims: Vec<usize>,
    offset: u64,
    /// `None` if the type is unknown.
    bytes: Option<u64>,
}

/// Give every entry its extent, checked against alignment, file length and its neighbours.
fn place(file: &Path, len: u64, data_start: u64, alignment: u64, table: Vec<Entry>) -> Result<Vec<RawTensor>, GgufError> {
    let at = |e: &Entry| Place { file: file.into(), field: format!("tensor {}", shown(&e.name)), offset: e.at };
    for e in &table {
        if e.offset % alignment != 0 {
            let why = format!("its data offset {} is not a multiple of the alignment {alignment}", e.offset);
            return Err(GgufError::Invalid { at: at(e), why });
        }
        let start = data_start.checked_add(e.offset);
        let fits = start.and_then(|s| s.checked_add(e.bytes.unwrap_or(0))).is_some_and(|end| end <= len);
        if !fits {
            let start = start.unwrap_or(u64::MAX);
            let at = Place { file: file.into(), field: format!("data of tensor {}", shown(&e.name)), offset: start };
            return Err(GgufError::Truncated { at, need: e.bytes.unwrap_or(1), have: len.saturating_sub(start) });
        }
    }
    let mut order: Vec<usize> = (0..table.len()).collect();
    order.sort_by_key(|&i| (table[i].offset, table[i].bytes.unwrap_or(0)));
    let mut ends = vec![len; table.len()];
    for (n, &i) in order.iter().enumerate() {
        let next = order.get(n + 1).map(|&j| &table[j]);
        let e = &table[i];
        match (e.bytes, next) {
            (Some(bytes), Some(next)) if e.offset + bytes > next.offset => {
                return Err(GgufError::Overlap { at: at(next), other: shown(&e.name) });
            }
            (None, Some(next)) if e.offset == next.offset => {
                return Err(GgufError::Overlap { at: at(next), other: shown(&e.name) });
            }
            (Some(bytes), _) => ends[i] = data_start + e.offset + bytes,
            (None, Some(next)) => ends[i] = data_start + next.offset,
            (None, None) => {}
        }
    }
    let raw = table.into_iter().zip(ends).map(|(e, end)| RawTensor {
        name: e.name,
        ty: e.ty,
        dims: e.dims,
        start: (data_start + e.offset) as usize,
        end: end as usize,
    });
    Ok(raw.collect())
}

fn alignment(r: &Reader<'_>, metadata: &[(String, Value)]) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let Some((_, value)) = metadata.iter().find(|(k, _)| k == KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let found = value.as_u64().ok_or_else(|| GgufError::Kind {
        file: r.file.into(),
        key: KEY.into(),
        want: "an unsigned integer",
        found: value.kind().into(),
    })?;
    if !found.is_power_of_two() || found > MAX_ALIGNMENT {
        let why = format!("{found} is not a power of two up to {MAX_ALIGNMENT}");
        return Err(r.invalid(KEY, r.pos, why));
    }
    Ok(found)
}

/// Reads little-endian fields one after the other; every read is checked.
struct Reader<'a> {
    file: &'a Path,
    data: &'a [u8],
    pos: usize,
    /// Array values read so far, over all arrays.
    values: u64,
    /// Bytes of strings read so far.
    text: u64,
}

impl<'a> Reader<'a> {
    fn place(&self, field: &str, pos: usize) -> Place {
        Place { file: self.file.into(), field: shown(field), offset: pos as u64 }
    }

    fn invalid(&self, field: &str, pos: usize, why: impl Into<String>) -> GgufError {
        GgufError::Invalid { at: self.place(field, pos), why: why.into() }
    }

    fn left(&self) -> u64 {
        (self.data.len() - self.pos) as u64
    }

    fn take(&mut self, n: u64, field: &str) -> Result<&'a [u8], GgufError> {
        if n > self.left() {
            return Err(GgufError::Truncated { at: self.place(field, self.pos), need: n, have: self.left() });
        }
        let taken = &self.data[self.pos..self.pos + n as usize];
        self.pos += n as usize;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, field)?);
        Ok(out)
    }

    fn u32(&mut self, field: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count of things that take at least `least` bytes each: refused if the file can't hold them, or above `most`.
    fn count(&mut self, field: &str, least: u64, most: u64) -> Result<u64, GgufError> {
        let pos = self.pos;
        let count = self.u64(field)?;
        if count > most {
            let (at, what) = (self.place(field, pos), "the count");
            return Err(GgufError::Limit { at, what, value: count, limit: most });
        }
        // A file that was cut off has an honest count and too few bytes.
        if count > self.left() / least {
            return Err(GgufError::TooFew { at: self.place(field, pos), count, have: self.left() });
        }
        Ok(count)
    }

    fn string(&mut self, field: &str, limit: u64) -> Result<&'a [u8], GgufError> {
        let pos = self.pos;
        let len = self.u64(field)?;
        if len > self.left() {
            return Err(GgufError::Truncated { at: self.place(field, pos), need: len, have: self.left() });
        }
        if len > limit {
            return Err(GgufError::Limit { at: self.place(field, pos), what: "the length", value: len, limit });
        }
        self.text += len;
        if self.text > MAX_TEXT {
            let (at, what) = (self.place(field, pos), "the length of all strings up to here");
            return Err(GgufError::Limit { at, what, value: self.text, limit: MAX_TEXT });
        }
        self.take(len, field)
    }

    fn name(&mut self, field: &str, limit: u64) -> Result<String, GgufError> {
        let pos = self.pos;
        let bytes = self.string(field, limit)?;
        match std::str::from_utf8(bytes) {
            Ok("") => Err(self.invalid(field, pos, "it is empty")),
            Ok(s) => Ok(s.to_owned()),
            Err(_) => Err(self.invalid(field, pos, "it is not UTF-8")),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<Vec<(String, Value)>, GgufError> {
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for i in 0..count {
            let pos = self.pos;
            let key = self.name(&format!("name of metadata key {i}"), MAX_KEY)?;
            if !seen.insert(key.clone()) {
                return Err(GgufError::Duplicate { at: self.place(&format!("metadata key {key}"), pos) });
            }
            let field = format!("metadata key {key}");
            let kind = self.u32(&field)?;
            let value = self.value(kind, &field, 0)?;
            out.push((key, value));
        }
        Ok(out)
    }

    fn value(&mut self, kind: u32, field: &str, depth: usize) -> Result<Value, GgufError> {
        let pos = self.pos;
        Ok(match kind {
            0 => Value::U64(u64::from(self.array::<1>(field)?[0])),
            1 => Value::I64(i64::from(i8::from_le_bytes(self.array(field)?))),
            2 => Value::U64(u64::from(u16::from_le_bytes(self.array(field)?))),
            3 => Value::I64(i64::from(i16::from_le_bytes(self.array(field)?))),
            4 => Value::U64(u64::from(self.u32(field)?)),
            5 => Value::I64(i64::from(i32::from_le_bytes(self.array(field)?))),
            6 => Value::F32(f32::from_le_bytes(self.array(field)?)),
            7 => match self.array::<1>(field)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.invalid(field, pos, format!("a bool is 0 or 1, not {other}"))),
            },
            8 => Value::String(String::from_utf8_lossy(self.string(field, MAX_STRING)?).into_owned()),
            9 => {
                if depth == MAX_NESTING {
                    let (at, limit) = (self.place(field, pos), MAX_NESTING as u64);
                    return Err(GgufError::Limit { at, what: "the nesting of arrays", value: limit + 1, limit });
                }
                let kind = self.u32(field)?;
                let Some(least) = least_bytes(kind) else {
                    return Err(self.invalid(field, pos, format!("its elements have the unknown value type {kind}")));
                };
                let count = self.count(field, least, u64::MAX)?;
                self.values += count;
                if self.values > MAX_VALUES {
                    let (at, what) = (self.place(field, pos), "the number of array values up to here");
                    return Err(GgufError::Limit { at, what, value: self.values, limit: MAX_VALUES });
                }
                let mut items = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    items.push(self.value(kind, field, depth + 1)?);
                }
                Value::Array(items)
            }
            10 => Value::U64(self.u64(field)?),
            11 => Value::I64(i64::from_le_bytes(self.array(field)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(field)?)),
            other => return Err(self.invalid(field, pos, format!("it has the unknown value type {other}"))),
        })
    }

    fn tensor_table(&mut self, count: u64) -> Result<Vec<Entry>, GgufError> {
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for i in 0..count {
            let at = self.pos;
            let name = self.name(&format!("name of tensor {i}"), MAX_NAME)?;
            let field = format!("tensor {name}");
            if !seen.insert(name.clone()) {
                return Err(GgufError::Duplicate { at: self.place(&field, at) });
            }
            out.push(self.tensor_entry(at, name, &field)?);
        }
        Ok(out)
    }

    fn tensor_entry(&mut self, at: usize, name: String, field: &str) -> Result<Entry, GgufError> {
        let n_dims = u64::from(self.u32(field)?);
        if n_dims > MAX_DIMS {
            let (at, what) = (self.place(field, at), "the number of dimensions");
            return Err(GgufError::Limit { at, what, value: n_dims, limit: MAX_DIMS });
        }
        let mut dims = Vec::with_capacity(MAX_DIMS as usize);
        let mut elements = 1u64;
        for d in 0..n_dims {
            let dim = self.u64(field)?;
            if dim == 0 {
                return Err(self.invalid(field, at, format!("its dimension {d} is 0")));
            }
            // Like ggml: the number of elements must fit a signed 64-bit integer.
            let product = elements.checked_mul(dim).filter(|&n| n <= i64::MAX as u64);
            match (product, usize::try_from(dim)) {
                (Some(n), Ok(dim)) => {
                    elements = n;
                    dims.push(dim);
                }
                _ => {
                    let (at, what) = (self.place(field, at), "the number of elements (up to a dimension)");
                    return Err(GgufError::Limit { at, what, value: dim, limit: i64::MAX as u64 / elements });
                }
            }
        }
        if dims.is_empty() {
            dims.push(1);
        }
        let ty = GgmlType::from_u32(self.u32(field)?);
        let offset = self.u64(field)?;
        let bytes = if ty.is_known() {
            let Some(row) = ty.row_bytes(dims[0]) else {
                let why = format!("its rows of {} are not a whole number of {ty} blocks of {}", dims[0], ty.block_elems());
                return Err(self.invalid(field, at, why));
            };
            let rows = elements / dims[0] as u64;
            let Some(bytes) = (row as u64).checked_mul(rows) else {
                let (at, what) = (self.place(field, at), "the number of rows");
                return Err(GgufError::Limit { at, what, value: rows, limit: u64::MAX / row as u64 });
            };
            Some(bytes)
        } else {
            None
        };
        Ok(Entry { at: at as u64, name, ty, dims, offset, bytes })
    }
}

/// Fewest bytes that a value of this type can take in a file; `None` for an unknown type.
fn least_bytes(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        _ => return None,
    })
}

/// A guess at what a file without the magic number is, for the message.
fn looks_like(data: &[u8]) -> String {
    let head = &data[..data.len().min(64)];
    let text = String::from_utf8_lossy(head);
    let guess = if head.starts_with(b"FUGG") {
        "it looks like a big-endian GGUF file"
    } else if text.starts_with("version https://git-lfs") {
        "it is a Git LFS pointer: the model itself was not fetched"
    } else if text.trim_start().starts_with("<") {
        "it looks like a web page: the download gave a page instead of the model"
    } else if head.starts_with(b"PK\x03\x04") {
        "it looks like a zip archive or a PyTorch checkpoint"
    } else if head.len() > 8 && head[8] == b'{' {
        "it looks like a safetensors file"
    } else if [&b"lmgg"[..], b"fmgg", b"tjgg", b"algg"].iter().any(|m| head.starts_with(m)) {
        "it is in a format that came before GGUF"
    } else {
        return format!("it begins with \"{}\"", shown(&text.chars().take(8).collect::<String>()));
    };
    guess.into()
}
