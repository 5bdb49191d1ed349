//! Values of an architecture's keys, checked before use.

use crate::gguf::Value;
use crate::model::weights::Weights;
use crate::model::ModelError;

/// Sizes beyond this are taken for damage, long before they could be multiplied into an overflow.
pub(super) const LIMIT: u64 = 1 << 24;

/// Some sizes are kept for every layer where layers differ; no such model has a tenth of these.
const MOST_BLOCKS: usize = 1024;

/// Typed access to `ARCH.*`.
pub(super) struct Keys<'a, 'g> {
    pub(super) weights: &'a Weights<'g>,
    pub(super) arch: &'a str,
}

impl Keys<'_, '_> {
    /// A key's full name.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    /// The error for a value that can't be.
    pub(super) fn bad(&self, name: &str, value: impl ToString, why: impl Into<String>) -> ModelError {
        ModelError::BadKey { file: self.weights.file.clone(), key: self.key(name), value: value.to_string(), why: why.into() }
    }

    /// A size from 1 to the limit.
    pub(super) fn size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        match self.weights.gguf.u64(&self.key(name))? {
            None => Ok(None),
            Some(n) if (1..=LIMIT).contains(&n) => Ok(Some(n as usize)),
            Some(n) => Err(self.bad(name, n, format!("must be from 1 to {LIMIT}"))),
        }
    }

    /// A size that may be 0 and then counts as absent.
    pub(super) fn size_or_zero(&self, name: &str) -> Result<Option<usize>, ModelError> {
        match self.weights.gguf.u64(&self.key(name))? {
            Some(0) => Ok(None),
            _ => self.size(name),
        }
    }

    pub(super) fn need(&self, name: &str) -> Result<usize, ModelError> {
        self.size(name)?.ok_or_else(|| ModelError::MissingKey { file: self.weights.file.clone(), key: self.key(name) })
    }

    /// A finite number.
    pub(super) fn number(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.weights.gguf.f32(&self.key(name))? {
            Some(x) if !x.is_finite() => Err(self.bad(name, x, "must be a finite number")),
            x => Ok(x),
        }
    }

    /// A finite number above zero.
    pub(super) fn positive(&self, name: &str) -> Result<Option<f32>, ModelError> {
        match self.number(name)? {
            Some(x) if x <= 0.0 => Err(self.bad(name, x, "must be above 0")),
            x => Ok(x),
        }
    }

    /// An error for more layers than sizes are kept of.
    pub(super) fn few_blocks(&self, blocks: usize) -> Result<(), ModelError> {
        match blocks {
            0..=MOST_BLOCKS => Ok(()),
            _ => Err(self.bad("block_count", blocks, format!("must be at most {MOST_BLOCKS} where layers differ"))),
        }
    }

    /// Sizes from `least` to the limit, one for each of `blocks` layers: an array, or one number for all of them.
    pub(super) fn per_layer(&self, name: &str, blocks: usize, least: u64) -> Result<Option<Vec<usize>>, ModelError> {
        let Some(Value::Array(values)) = self.weights.gguf.get(&self.key(name)) else {
            return Ok(self.size(name)?.map(|n| vec![n; blocks]));
        };
        if values.len() < blocks {
            return Err(self.bad(name, format!("{} numbers", values.len()), format!("must hold one for each of {blocks} layers")));
        }
        let size = |(layer, value): (usize, &Value)| match value.as_u64() {
            Some(n) if (least..=LIMIT).contains(&n) => Ok(n as usize),
            _ => Err(self.bad(name, format!("{} in layer {layer}", value.summary()), format!("must be from {least} to {LIMIT}"))),
        };
        values.iter().take(blocks).enumerate().map(size).collect::<Result<_, _>>().map(Some)
    }
}
