//! Weights by name, with shape and type checked before anything is computed.

use super::config::ModelConfig;
use super::linear::{HeadMaps, Linear};
use super::norm::RmsNorm;
use super::ModelError;
use crate::gguf::{Gguf, TensorInfo};
use crate::kernels::{self, Matrix};
use std::ops::Range;

/// The tensors of a file, handed out only if they are what the architecture expects.
pub(crate) struct Weights<'a> {
    pub(crate) gguf: &'a Gguf,
    /// File name for messages.
    pub(crate) file: String,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(gguf: &'a Gguf) -> Self {
        Self { gguf, file: file_name(gguf) }
    }

    /// Whether the file has this tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// The tensor `name` with exactly these dimensions (contiguous one first; trailing ones are ignored).
    pub(crate) fn checked(&self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo, ModelError> {
        let t = self.gguf.tensor(name).ok_or_else(|| ModelError::MissingTensor { file: self.file.clone(), tensor: name.to_owned() })?;
        if trimmed(&t.dims) != trimmed(dims) {
            return Err(ModelError::Shape {
                file: self.file.clone(),
                tensor: name.to_owned(),
                found: t.dims.clone(),
                expected: dims.to_vec(),
            });
        }
        if !kernels::supported(t.ty) {
            return Err(ModelError::Type { file: self.file.clone(), tensor: name.to_owned(), ty: t.ty });
        }
        Ok(t)
    }

    /// The weight `name` as a matrix `[rows, cols]`, left where it is in the file.
    pub(crate) fn matrix(&self, name: &str, cols: usize, rows: usize) -> Result<Matrix, ModelError> {
        let t = self.checked(name, &[cols, rows])?;
        Ok(Matrix { ty: t.ty, rows, cols, bytes: self.gguf.bytes(t) })
    }

    /// `PREFIX.weight` as a linear map `cols -> rows`, with `PREFIX.bias` if the file has one.
    pub(crate) fn linear(&self, prefix: &str, cols: usize, rows: usize) -> Result<Linear, ModelError> {
        let weight = self.matrix(&format!("{prefix}.weight"), cols, rows)?;
        let bias = self.optional_vector(&format!("{prefix}.bias"), rows)?;
        Ok(Linear::new(weight, bias))
    }

    /// Some rows of `PREFIX.weight`, which has `rows` in all, as a linear map; with these entries of `PREFIX.bias` if the file has one,
    /// else with the whole of `own_bias`.
    pub(crate) fn linear_rows(
        &self,
        prefix: &str,
        cols: usize,
        rows: usize,
        part: Range<usize>,
        own_bias: &str,
    ) -> Result<Linear, ModelError> {
        let whole = self.matrix(&format!("{prefix}.weight"), cols, rows)?;
        let row = whole.bytes.len() / rows;
        let bias = match self.optional_vector(&format!("{prefix}.bias"), rows)? {
            Some(bias) => Some(bias[part.clone()].to_vec()),
            None => self.optional_vector(own_bias, part.len())?,
        };
        let bytes = whole.bytes.slice(part.start * row..part.end * row);
        Ok(Linear::new(Matrix { ty: whole.ty, rows: part.len(), cols, bytes }, bias))
    }

    /// The tensor `name` as a map `cols -> rows` for each of `heads` heads, left where it is in the file.
    pub(crate) fn head_maps(&self, name: &str, cols: usize, rows: usize, heads: usize) -> Result<HeadMaps, ModelError> {
        let t = self.checked(name, &[cols, rows, heads])?;
        Ok(HeadMaps::new(Matrix { ty: t.ty, rows: rows * heads, cols, bytes: self.gguf.bytes(t) }, heads))
    }

    /// `PREFIX.weight` as a norm of the hidden state.
    pub(crate) fn norm(&self, prefix: &str, config: &ModelConfig) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm::new(self.vector(&format!("{prefix}.weight"), config.hidden)?, config.eps))
    }

    /// A vector of `len` values in f32.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let t = self.checked(name, &[len])?;
        let mut out = vec![0.0; len];
        kernels::dequantize(t.ty, &self.gguf.bytes(t), &mut out)?;
        Ok(out)
    }

    /// `count` vectors of `len` values, one after the other, in f32.
    pub(crate) fn stack(&self, name: &str, len: usize, count: usize) -> Result<Vec<f32>, ModelError> {
        let t = self.checked(name, &[len, count])?;
        let mut out = vec![0.0; len * count];
        kernels::dequantize(t.ty, &self.gguf.bytes(t), &mut out)?;
        Ok(out)
    }

    /// [`Weights::vector`] if the file has it.
    pub(crate) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        self.has(name).then(|| self.vector(name, len)).transpose()
    }
}

/// Dimensions without trailing ones, which files write or leave out as they like.
fn trimmed(dims: &[usize]) -> &[usize] {
    let n = dims.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
    &dims[..n.min(dims.len())]
}

/// How messages call the file.
pub(crate) fn file_name(gguf: &Gguf) -> String {
    match gguf.paths().first() {
        Some(p) => p.file_name().unwrap_or(p.as_os_str()).to_string_lossy().into_owned(),
        None => "the built-in model".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::trimmed;

    #[test]
    fn trailing_ones_do_not_matter() {
        assert_eq!(trimmed(&[4, 1, 1]), [4]);
        assert_eq!(trimmed(&[4, 1, 2]), [4, 1, 2]);
        assert_eq!(trimmed(&[1]), [1]);
        assert_eq!(trimmed(&[1, 1]), [1]);
        assert!(trimmed(&[]).is_empty());
    }
}
