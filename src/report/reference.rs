//! Reading a reference: what peers computed for a model file, as an `.npz` archive of arrays.
//!
//! Layouts (per prompt `i`, from 0; written by `tests/reference/make_fixtures.py` and `olmoe.py`):
//! - float: `ids` `[T]`, `logits` `[T, V]`, `routes` `[L, T, K]`, `margin` `[L, T]`, `gap` `[T]`, `greedy` `[N]`;
//! - quantized: `ids` `[T]`, `at` `[P]`, `exact` and `llama` `[P, V]`, `exact_argmax`, `llama_argmax` and
//!   `exact_gap` `[T]`. Without `ids`,
//!   those of `ref.npz` in the same folder are taken.
//!
//! The archive is not trusted: shapes are checked against each other, sizes are capped.

use npyz::NpyFile;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why a reference can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The archive can't be read.
    #[error("{file}: {source}; a reference is an .npz as tests/reference/make_fixtures.py writes it", file = file.display())]
    Read {
        /// The archive.
        file: PathBuf,
        /// What the reader says.
        source: std::io::Error,
    },
    /// An array is missing or not what it should be.
    #[error("{file}: array `{array}` {why}", file = file.display())]
    Array {
        /// The archive.
        file: PathBuf,
        /// Its array.
        array: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What the reference was computed with, which decides how it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Another implementation in 32-bit floats.
    Float,
    /// On a quantized file: an exact oracle (weights as stored, activations never rounded), and llama.cpp beside it.
    Quantized,
}

/// Which experts the tokens of a prompt chose.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Experts per token.
    pub top_k: usize,
    /// `[layers, tokens, top_k]`, in any order per token.
    pub ids: Vec<u32>,
    /// `[layers, tokens]`: how far, in router logits, the last chosen expert was ahead of the first refused one.
    pub margin: Vec<f32>,
}

/// One prompt and what became of it.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Positions whose logits are stored, rising.
    pub at: Vec<usize>,
    /// The logits at these, `[at, vocab]`.
    pub logits: Vec<f32>,
    /// llama.cpp's, `[at, vocab]`; quantized references only.
    pub peer: Option<Vec<f32>>,
    /// llama.cpp's best token of every position; quantized references only.
    pub peer_argmax: Option<Vec<u32>>,
    /// Best token of every position.
    pub argmax: Vec<u32>,
    /// How far it leads the second, of every position.
    pub gap: Vec<f32>,
    /// Float references only.
    pub routes: Option<Routes>,
    /// Greedy continuation; float references only.
    pub greedy: Vec<u32>,
}

/// A reference, read and checked for shape.
#[derive(Clone, Debug)]
pub struct Reference {
    /// What it was computed with.
    pub kind: Kind,
    /// Vocabulary of its model.
    pub vocab: usize,
    /// Layers of its model, where routes are stored.
    pub layers: Option<usize>,
    /// In the archive's order.
    pub prompts: Vec<Prompt>,
}

impl Reference {
    /// Reads an archive whole.
    ///
    /// # Errors
    /// An archive that can't be read, or arrays that are missing or don't fit each other, by name.
    pub fn read(file: &Path) -> Result<Self, ReferenceError> {
        let mut arrays = Arrays::open(file)?;
        let kind = if arrays.has("exact0") {
            Kind::Quantized
        } else if arrays.has("logits0") {
            Kind::Float
        } else {
            return Err(arrays.bad("logits0", "is missing, and so is `exact0`: this archive holds no reference"));
        };
        let mut beside = None;
        if kind == Kind::Quantized && !arrays.has("ids0") {
            beside = Some(Arrays::open(&file.with_file_name("ref.npz"))?);
        }
        let first = if kind == Kind::Float { "logits" } else { "exact" };
        let (mut prompts, mut vocab, mut layers) = (Vec::new(), None, None);
        while arrays.has(&format!("{first}{}", prompts.len())) {
            let i = prompts.len();
            let ids = beside.as_mut().unwrap_or(&mut arrays).ids(&format!("ids{i}"))?;
            let prompt = match kind {
                Kind::Float => arrays.float_prompt(i, ids, &mut vocab, &mut layers)?,
                Kind::Quantized => arrays.quantized_prompt(i, ids, &mut vocab)?,
            };
            prompts.push(prompt);
        }
        Ok(Self { kind, vocab: vocab.unwrap_or(0), layers, prompts })
    }
}

/// Most elements of one array: more than any reference has, and few enough to hold.
const MAX_ELEMENTS: u64 = 1 << 27;

/// An open archive.
struct Arrays {
    file: PathBuf,
    npz: npyz::npz::NpzArchive<std::io::BufReader<std::fs::File>>,
}

/// `[rows, columns]`, or more dimensions, slowest first.
struct Array<T> {
    shape: Vec<usize>,
    data: Vec<T>,
}

impl Arrays {
    fn open(file: &Path) -> Result<Self, ReferenceError> {
        let read = |source| ReferenceError::Read { file: file.into(), source };
        Ok(Self { file: file.into(), npz: npyz::npz::NpzArchive::open(file).map_err(read)? })
    }

    fn bad(&self, array: &str, why: impl Into<String>) -> ReferenceError {
        bad(&self.file, array, why)
    }

    fn has(&self, name: &str) -> bool {
        self.npz.array_names().any(|n| n == name)
    }

    fn float_prompt(
        &mut self,
        i: usize,
        ids: Vec<u32>,
        vocab: &mut Option<usize>,
        layers: &mut Option<usize>,
    ) -> Result<Prompt, ReferenceError> {
        let logits = self.logits(&format!("logits{i}"), ids.len(), vocab)?;
        let (argmax, gap) = logits.chunks_exact(vocab.unwrap_or(1)).map(best_and_lead).unzip();
        let name = format!("routes{i}");
        let routes = if self.has(&name) {
            let routes = self.read::<i64>(&name)?;
            let &[l, t, k] = routes.shape.as_slice() else {
                return Err(self.bad(&name, format!("has shape {:?}, expected [layers, tokens, top_k]", routes.shape)));
            };
            if t != ids.len() || *layers.get_or_insert(l) != l || k == 0 {
                return Err(self.bad(&name, format!("has shape {:?} for a prompt of {} tokens", routes.shape, ids.len())));
            }
            let margin = self.floats(&format!("margin{i}"), l * t)?;
            Some(Routes { top_k: k, ids: self.non_negative(&name, routes.data)?, margin })
        } else {
            None
        };
        let name = format!("greedy{i}");
        let greedy = if self.has(&name) { self.ids(&name)? } else { Vec::new() };
        Ok(Prompt { at: (0..ids.len()).collect(), ids, logits, peer: None, peer_argmax: None, argmax, gap, routes, greedy })
    }

    fn quantized_prompt(&mut self, i: usize, ids: Vec<u32>, vocab: &mut Option<usize>) -> Result<Prompt, ReferenceError> {
        let name = format!("at{i}");
        let at: Vec<usize> = self.ids(&name)?.into_iter().map(|p| p as usize).collect();
        if at.is_empty() || at.windows(2).any(|w| w[0] >= w[1]) || at.last().is_some_and(|p| *p >= ids.len()) {
            return Err(self.bad(&name, format!("is not a rising list of positions of {} tokens", ids.len())));
        }
        let logits = self.logits(&format!("exact{i}"), at.len(), vocab)?;
        let name = format!("llama{i}");
        let peer = if self.has(&name) { Some(self.logits(&name, at.len(), vocab)?) } else { None };
        let argmax = self.best_tokens(&format!("exact_argmax{i}"), ids.len())?;
        let name = format!("llama_argmax{i}");
        let peer_argmax = if self.has(&name) { Some(self.best_tokens(&name, ids.len())?) } else { None };
        let gap = self.floats(&format!("exact_gap{i}"), ids.len())?;
        Ok(Prompt { ids, at, logits, peer, peer_argmax, argmax, gap, routes: None, greedy: Vec::new() })
    }

    fn best_tokens(&mut self, name: &str, tokens: usize) -> Result<Vec<u32>, ReferenceError> {
        let best = self.ids(name)?;
        if best.len() == tokens {
            return Ok(best);
        }
        Err(self.bad(name, format!("has {} elements, expected {tokens}", best.len())))
    }

    /// `[rows, vocab]`, finite.
    fn logits(&mut self, name: &str, rows: usize, vocab: &mut Option<usize>) -> Result<Vec<f32>, ReferenceError> {
        let array = self.read::<f32>(name)?;
        let &[r, v] = array.shape.as_slice() else {
            return Err(self.bad(name, format!("has shape {:?}, expected [positions, vocabulary]", array.shape)));
        };
        if r != rows || v < 2 || *vocab.get_or_insert(v) != v {
            return Err(self.bad(name, format!("has shape {:?}, expected [{rows}, {}]", array.shape, vocab.unwrap_or(v))));
        }
        if array.data.iter().any(|x| !x.is_finite()) {
            return Err(self.bad(name, "holds values that are not finite"));
        }
        Ok(array.data)
    }

    /// Exactly `len` floats, in any shape.
    fn floats(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ReferenceError> {
        let array = self.read::<f32>(name)?;
        if array.data.len() != len {
            return Err(self.bad(name, format!("has {} elements, expected {len}", array.data.len())));
        }
        Ok(array.data)
    }

    /// A list of ids that is not empty.
    fn ids(&mut self, name: &str) -> Result<Vec<u32>, ReferenceError> {
        let array = self.read::<i64>(name)?;
        if array.shape.len() != 1 || array.data.is_empty() {
            return Err(self.bad(name, format!("has shape {:?}, expected a list", array.shape)));
        }
        self.non_negative(name, array.data)
    }

    fn non_negative(&self, name: &str, values: Vec<i64>) -> Result<Vec<u32>, ReferenceError> {
        let ids: Result<Vec<u32>, _> = values.into_iter().map(u32::try_from).collect();
        ids.map_err(|_| self.bad(name, "holds ids below 0 or above 32 bits"))
    }

    fn read<T: Element>(&mut self, name: &str) -> Result<Array<T>, ReferenceError> {
        let file = &self.file;
        let fail = |source| ReferenceError::Read { file: file.clone(), source };
        let entry = self.npz.by_name(name).map_err(fail)?.ok_or_else(|| bad(file, name, "is missing"))?;
        if entry.order() != npyz::Order::C {
            return Err(bad(file, name, "is in Fortran order"));
        }
        let shape: Option<Vec<usize>> = entry.shape().iter().map(|n| usize::try_from(*n).ok()).collect();
        let elements = entry.shape().iter().try_fold(1u64, |a, n| a.checked_mul(*n));
        let (Some(shape), Some(0..=MAX_ELEMENTS)) = (shape, elements) else {
            return Err(bad(file, name, format!("has shape {:?}, which is more than {MAX_ELEMENTS} elements", entry.shape())));
        };
        let kind = entry.dtype().descr();
        let data = T::collect(entry).ok_or_else(|| bad(file, name, format!("has elements of type {kind}")))?.map_err(fail)?;
        Ok(Array { shape, data })
    }
}

fn bad(file: &Path, array: &str, why: impl Into<String>) -> ReferenceError {
    ReferenceError::Array { file: file.into(), array: array.to_owned(), why: why.into() }
}

/// What arrays hold, read from whichever types stand for it.
trait Element: Sized {
    /// All elements; `None` if the array is of another type.
    fn collect<R: Read>(entry: NpyFile<R>) -> Option<std::io::Result<Vec<Self>>>;
}

impl Element for f32 {
    fn collect<R: Read>(entry: NpyFile<R>) -> Option<std::io::Result<Vec<Self>>> {
        let entry = match entry.try_data::<f32>() {
            Ok(values) => return Some(values.collect()),
            Err(entry) => entry,
        };
        entry.try_data::<f64>().ok().map(|values| values.map(|v| v.map(|v| v as f32)).collect())
    }
}

impl Element for i64 {
    fn collect<R: Read>(entry: NpyFile<R>) -> Option<std::io::Result<Vec<Self>>> {
        let entry = match entry.try_data::<i32>() {
            Ok(values) => return Some(values.map(|v| v.map(i64::from)).collect()),
            Err(entry) => entry,
        };
        let entry = match entry.try_data::<i16>() {
            Ok(values) => return Some(values.map(|v| v.map(i64::from)).collect()),
            Err(entry) => entry,
        };
        entry.try_data::<i64>().ok().map(Iterator::collect)
    }
}

/// The first of the largest values, and how far it leads the second.
pub(crate) fn best_and_lead(logits: &[f32]) -> (u32, f32) {
    let (mut best, mut second) = (0, f32::NEG_INFINITY);
    for (i, v) in logits.iter().enumerate().skip(1) {
        if *v > logits[best] {
            second = logits[best];
            best = i;
        } else if *v > second {
            second = *v;
        }
    }
    (best as u32, logits[best] - second)
}
