//! Metadata values.

use super::error::shown;

/// A metadata value. Integers of all widths become 64-bit.
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

impl Value {
    /// The value as an unsigned integer, if it is a whole number that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U64(v) => Some(v),
            Self::I64(v) => u64::try_from(v).ok(),
            _ => None,
        }
    }

    /// Any number as f32.
    #[must_use]
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::U64(v) => Some(v as f32),
            Self::I64(v) => Some(v as f32),
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }

    /// What kind of value this is, in words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::U64(_) => "an unsigned integer",
            Self::I64(_) => "an integer",
            Self::F32(_) | Self::F64(_) => "a float",
            Self::Bool(_) => "a bool",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
        }
    }

    /// One line for people: strings and arrays shortened, control characters escaped.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::U64(v) => v.to_string(),
            Self::I64(v) => v.to_string(),
            Self::F32(v) => v.to_string(),
            Self::F64(v) => v.to_string(),
            Self::Bool(v) => v.to_string(),
            Self::String(s) => shown(s),
            Self::Array(v) => {
                const MOST: usize = 6;
                let mut parts: Vec<String> = v.iter().take(MOST).map(Value::summary).collect();
                if v.len() > MOST {
                    parts.push(format!("… {} in all", v.len()));
                }
                format!("[{}]", parts.join(", "))
            }
        }
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident($v:ident: $as:expr)),* $(,)?) => {
        $(impl From<$from> for Value {
            fn from($v: $from) -> Self {
                Self::$variant($as)
            }
        })*
    };
}

from! {
    u32 => U64(v: u64::from(v)),
    u64 => U64(v: v),
    usize => U64(v: v as u64),
    i32 => I64(v: i64::from(v)),
    i64 => I64(v: v),
    f32 => F32(v: v),
    f64 => F64(v: v),
    bool => Bool(v: v),
    &str => String(v: v.to_owned()),
    String => String(v: v),
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(v: Vec<T>) -> Self {
        Self::Array(v.into_iter().map(Into::into).collect())
    }
}
