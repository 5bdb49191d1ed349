//! Reasoning and answer in one stream, whatever format marks them.

use super::format::{Format, Mark};
use super::gemma::GemmaSplitter;
use super::harmony::HarmonySplitter;
use super::think::ThinkSplitter;
use crate::events::TextKind;

/// Bytes of the stream that a control token of the format counts as: those of the empty line that it may become.
pub const MARK_BYTES: usize = PARAGRAPH.len();
/// What stands between two messages of one kind.
pub(super) const PARAGRAPH: &str = "\n\n";

/// A piece of the stream that is certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Reasoning or answer.
    pub kind: TextKind,
    /// The text.
    pub text: String,
    /// Byte of the stream at which it begins; marks and white space that were dropped count.
    pub at: usize,
}

/// Splits streamed text into reasoning and answer, in the format of the model.
#[derive(Debug)]
pub enum Splitter {
    /// Reasoning stands between `<think>` and `</think>`, which are text.
    Think(ThinkSplitter),
    /// Messages with channels, whose marks are control tokens.
    Harmony(HarmonySplitter),
    /// Reasoning stands in channels, whose marks are control tokens.
    Gemma(GemmaSplitter),
}

impl Splitter {
    /// For the text of a model that speaks in `format`, and follows `prompt`.
    #[must_use]
    pub fn after(prompt: &str, format: Format) -> Self {
        match format {
            Format::Think => Self::Think(ThinkSplitter::after(prompt)),
            Format::Harmony => Self::Harmony(HarmonySplitter::after(prompt)),
            Format::Gemma => Self::Gemma(GemmaSplitter::after(prompt)),
        }
    }

    /// Whether the text is reasoning now.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        match self {
            Self::Think(s) => s.is_thinking(),
            Self::Harmony(s) => s.is_thinking(),
            Self::Gemma(s) => s.is_thinking(),
        }
    }

    /// Whether the turn is over although no token said so: whatever comes is not the assistant's answer any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self {
            Self::Think(_) => false,
            Self::Harmony(s) => s.is_over(),
            Self::Gemma(s) => s.is_over(),
        }
    }

    /// Add text; returns what is certain now. Neighbouring pieces of the same kind are one piece.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        match self {
            Self::Think(s) => s.push(text),
            Self::Harmony(s) => s.push(text),
            Self::Gemma(s) => s.push(text),
        }
    }

    /// A control token of the format came, after all text so far. It counts as [`MARK_BYTES`] of the stream.
    pub fn mark(&mut self, mark: Mark) -> Vec<Piece> {
        match self {
            Self::Think(_) => Vec::new(),
            Self::Harmony(s) => s.mark(mark),
            Self::Gemma(s) => s.mark(mark),
        }
    }

    /// The rest at the end of the turn.
    pub fn finish(&mut self) -> Vec<Piece> {
        match self {
            Self::Think(s) => s.finish(),
            Self::Harmony(s) => s.finish(),
            Self::Gemma(s) => s.finish(),
        }
    }
}

/// Adds text that begins at byte `at` of the stream.
pub(super) fn emit(out: &mut Vec<Piece>, kind: TextKind, text: &str, at: usize) {
    match out.last_mut() {
        _ if text.is_empty() => {}
        Some(last) if last.kind == kind && last.at + last.text.len() == at => last.text.push_str(text),
        _ => out.push(Piece { kind, text: text.to_owned(), at }),
    }
}
