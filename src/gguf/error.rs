//! Why a file was refused: which file, which field, where, and what to do.

use super::GgmlType;
use std::fmt;
use std::path::PathBuf;

/// A place in a file: what was being read, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file (or the name of static memory).
    pub file: PathBuf,
    /// The header field, metadata key or tensor, made safe to show.
    pub field: String,
    /// Byte offset in the file.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (at byte {})", self.file.display(), self.field, self.offset)
    }
}

/// Why a file was refused. Every variant names the file and the field, and says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GgufError {
    /// The operating system said no.
    #[error("{}: can't be opened: {source}; check the path and the permissions", file.display())]
    Open { file: PathBuf, source: std::io::Error },
    /// Something else than a regular file.
    #[error("{}: is {kind}, not a file; give the path of a .gguf file", file.display())]
    NotAFile { file: PathBuf, kind: &'static str },
    /// Nothing in it.
    #[error("{}: is empty; the download may have failed, fetch the file again", file.display())]
    Empty { file: PathBuf },
    /// The magic number is missing.
    #[error("{}: is not a GGUF file ({looks_like}); give a model in GGUF format", file.display())]
    NotGguf { file: PathBuf, looks_like: String },
    /// A version that is not read here.
    #[error("{}: is GGUF version {version}, but versions 2 and 3 are read here; convert the model again with a current converter", file.display())]
    Version { file: PathBuf, version: u32 },
    /// Written for a big-endian machine.
    #[error("{}: is a big-endian GGUF file, which is not read here; get the little-endian file or convert it (gguf-convert-endian)", file.display())]
    BigEndian { file: PathBuf },
    /// The file ends before the field does.
    #[error("{at} needs {need} bytes, but the file has {have} from there on; the file is cut off or damaged, fetch it again")]
    Truncated { at: Place, need: u64, have: u64 },
    /// A count of more things than the rest of the file can hold.
    #[error(
        "{at}: the count is {count}, but the file has only {have} bytes from there on; the file is cut off or damaged, fetch it again"
    )]
    TooFew { at: Place, count: u64, have: u64 },
    /// A count or size beyond what any real file has.
    #[error("{at}: {what} is {value}, more than the limit of {limit}; the file is damaged or made to do harm, fetch it again from a source you trust")]
    Limit { at: Place, what: &'static str, value: u64, limit: u64 },
    /// A value that can't be.
    #[error("{at}: {why}; the file is damaged or from a faulty converter, fetch or convert it again")]
    Invalid { at: Place, why: String },
    /// The same key or tensor twice.
    #[error("{at} appears twice; the file is damaged or from a faulty converter, fetch or convert it again")]
    Duplicate { at: Place },
    /// Two tensors share bytes.
    #[error("{at} overlaps tensor {other}; the file is damaged or from a faulty converter, fetch or convert it again")]
    Overlap { at: Place, other: String },
    /// The parts of a split file do not fit together.
    #[error("{}: {why}; put all parts of one split set, as they were published, into one folder", file.display())]
    Split { file: PathBuf, why: String },
    /// A part of a split file is not there.
    #[error("{}: this part of the split file is missing (part {part} of {of}); fetch it into the same folder", file.display())]
    MissingPart { file: PathBuf, part: usize, of: usize },
    /// A metadata value of another kind than needed.
    #[error("{}: metadata key {key} should be {want}, but is {found}; convert the model again", file.display())]
    Kind { file: PathBuf, key: String, want: &'static str, found: String },
    /// A metadata key that is needed and not there.
    #[error("{}: metadata key {key} is missing; convert the model again with a current converter", file.display())]
    MissingKey { file: PathBuf, key: String },
    /// A tensor that is needed and not there.
    #[error("{}: tensor {tensor} is missing; the file does not hold the whole model, fetch or convert it again", file.display())]
    MissingTensor { file: PathBuf, tensor: String },
    /// A tensor that is needed but whose type is not known.
    #[error("{}: tensor {tensor} has {ty}, which is not known here; use another quantization of the model", file.display())]
    UnknownType { file: PathBuf, tensor: String, ty: GgmlType },
    /// A tensor that should hold plain floats.
    #[error("{}: tensor {tensor} is {ty}, but plain floats (f32, f16, bf16) are needed here; use another quantization of the model", file.display())]
    NotFloat { file: PathBuf, tensor: String, ty: GgmlType },
    /// A part of a tensor was asked for that it does not have.
    #[error("{}: tensor {tensor} has {have} {what}, but number {asked} is needed; the metadata and the tensors disagree, fetch or convert the model again", file.display())]
    OutOfRange { file: PathBuf, tensor: String, what: &'static str, asked: usize, have: usize },
}

/// A name from the file, fit to be shown: control characters escaped, length bounded.
pub(crate) fn shown(name: &str) -> String {
    const MOST: usize = 80;
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if i == MOST {
            out.push('…');
            break;
        }
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}
