//! Split sets: `name-00001-of-00003.gguf` and its siblings (`gguf-split` of llama.cpp).

use super::header::Header;
use super::{GgufError, Value};
use std::path::{Path, PathBuf};

/// Most parts of a set (the name has five digits; real sets have some dozens).
const MAX_PARTS: u64 = 4096;

/// A set that the opened file says it belongs to.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) paths: Vec<PathBuf>,
    /// `split.tensors.count`: tensors of all parts together.
    tensors: Option<u64>,
}

/// The set that the file at `path` is a part of; `None` if it is whole by itself.
pub(super) fn set(path: &Path, header: &Header) -> Result<Option<Set>, GgufError> {
    let refuse = |why: String| Err(GgufError::Split { file: path.into(), why });
    let count = number(path, header, "split.count")?.unwrap_or(0);
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    if count <= 1 {
        return Ok(None);
    }
    if count > MAX_PARTS {
        return refuse(format!("split.count is {count}, more than the limit of {MAX_PARTS}"));
    }
    let Some((stem, part, of)) = parse_name(name) else {
        return refuse(format!("it is one of {count} parts (split.count), but its name does not end in -00001-of-{count:05}.gguf"));
    };
    if of != count || part == 0 || part > of {
        return refuse(format!("its name says part {part} of {of}, but split.count is {count}"));
    }
    let paths = (1..=of).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{of:05}.gguf"))).collect();
    Ok(Some(Set { paths, tensors: number(path, header, "split.tensors.count")? }))
}

impl Set {
    /// Check that `header` is that of part number `index` (from 0) of this set.
    pub(super) fn check(&self, path: &Path, index: usize, header: &Header) -> Result<(), GgufError> {
        let refuse = |why: String| Err(GgufError::Split { file: path.into(), why });
        let want = self.paths.len() as u64;
        match number(path, header, "split.count")? {
            Some(count) if count == want => {}
            Some(count) => return refuse(format!("split.count is {count}, but the set has {want} parts")),
            None => return refuse("it has no split.count, so it is not a part of this set".into()),
        }
        match number(path, header, "split.no")? {
            Some(no) if no == index as u64 => Ok(()),
            Some(no) => refuse(format!("split.no is {no} (from 0), but its name says part {} (from 1)", index + 1)),
            None => refuse("split.no is missing".into()),
        }
    }

    /// Check the number of tensors of all parts together.
    pub(super) fn check_tensors(&self, found: usize) -> Result<(), GgufError> {
        match self.tensors {
            Some(want) if want != found as u64 => {
                let why = format!("split.tensors.count is {want}, but the parts hold {found} tensors");
                Err(GgufError::Split { file: self.paths[0].clone(), why })
            }
            _ => Ok(()),
        }
    }
}

fn number(path: &Path, header: &Header, key: &str) -> Result<Option<u64>, GgufError> {
    let Some((_, value)) = header.metadata.iter().find(|(k, _)| k == key) else {
        return Ok(None);
    };
    let kind = || GgufError::Kind { file: path.into(), key: key.into(), want: "an unsigned integer", found: Value::kind(value).into() };
    value.as_u64().map(Some).ok_or_else(kind)
}

/// `name-00002-of-00005.gguf` as (`name`, 2, 5).
#[must_use]
pub(crate) fn parse_name(file_name: &str) -> Option<(&str, u64, u64)> {
    let rest = file_name.strip_suffix(".gguf")?;
    let (rest, of) = rest.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let five = |s: &str| (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten();
    Some((stem, five(part)?, five(of)?))
}
