//! Values of an architecture's keys, checked before use.

use crate::model::weights::Weights;
use crate::model::ModelError;

/// Sizes beyond this are taken for damage, long before they could be multiplied into an overflow.
pub(super) const LIMIT: u64 = 1 << 24;

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
}
