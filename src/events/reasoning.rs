//! What a person asks of a model's reasoning.

use serde::{Deserialize, Serialize};

/// How a model that can reason is to do so. What its template does not know has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// Whether it reasons before it answers (`enable_thinking`, DeepSeek's `thinking`); `None` leaves it to the model.
    pub on: Option<bool>,
    /// How long it reasons (`reasoning_effort`); `None` leaves it to the model.
    pub effort: Option<Effort>,
}

/// How long a model reasons before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// A few words.
    Low,
    /// As usual.
    Medium,
    /// At length.
    High,
}

impl Effort {
    /// Its name, as the command line and templates have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Low, Self::Medium, Self::High].into_iter().find(|e| e.name() == name)
    }
}
