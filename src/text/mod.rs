//! Tokenizer and chat template from the GGUF, and the decoder that streams text.
//!
//! Text in: [`ChatTemplate::render`] makes the prompt, [`Tokenizer::encode_prompt`] its token ids. Text out:
//! [`Tokenizer::token_bytes`], then [`StreamDecoder`] (whole graphemes, nothing that could harm a terminal), then
//! [`Splitter`] (reasoning apart from the answer). Text of whatever origin for a name or a message: [`one_line`].

mod alphabet;
mod format;
mod gemma;
#[cfg(test)]
pub(crate) mod gemma_file;
mod harmony;
#[cfg(test)]
pub(crate) mod harmony_file;
mod lines;
#[cfg(test)]
mod marked_stream;
mod nearest;
mod pre;
mod spelling;
mod splitter;
mod stream;
mod template;
mod think;
#[cfg(test)]
pub(crate) mod think_file;
mod tokenizer;
mod vocabulary;

pub use format::{Format, Mark};
pub use gemma::GemmaSplitter;
pub use harmony::HarmonySplitter;
pub use lines::{is_hostile, line_number, one_line};
pub use nearest::nearest;
pub use pre::{known as known_pre_tokenizers, PreTokenizer};
pub use splitter::{Piece, Splitter, MARK_BYTES};
pub use stream::StreamDecoder;
pub use template::ChatTemplate;
pub use think::ThinkSplitter;
pub use tokenizer::Tokenizer;
pub use vocabulary::TokenKind;

use crate::gguf::GgufError;
use std::path::PathBuf;

/// Why text could not be turned into tokens or back.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TextError {
    /// A metadata key is missing or of the wrong kind.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tokenizer of another family.
    #[error("{}: tokenizer.ggml.model is {found:?}, but only byte-level BPE (\"gpt2\") and that of Gemma 4 (\"gemma4\") are supported; use a model with such a tokenizer", file.display())]
    Family { file: PathBuf, found: String },
    /// A pre-tokenizer that is not known. Guessing one would give wrong tokens without any error.
    #[error("{}: tokenizer.ggml.pre is {pre:?}, which is not supported; known are {known}. Use a model with one of these", file.display())]
    UnknownPre { file: PathBuf, pre: String, known: String },
    /// A vocabulary that contradicts itself.
    #[error("{}: {key}: {why}; the file is damaged or from a faulty converter, fetch or convert it again", file.display())]
    Vocabulary { file: PathBuf, key: &'static str, why: String },
    /// Text with a byte for which the vocabulary has no token.
    #[error("the model's vocabulary has no token for byte 0x{byte:02x} of the text; remove that character from the text")]
    NoToken { byte: u8 },
    /// The pre-tokenizer gave up.
    #[error("the text can't be split into words: {why}; send it in smaller parts")]
    Split { why: String },
    /// The template can't be read.
    #[error("{}: tokenizer.chat_template, line {line}: {why}; the template is faulty or uses something unknown here, use another conversion of the model", file.display())]
    TemplateSyntax { file: PathBuf, line: usize, why: String },
    /// The template failed, or refused the chat by itself.
    #[error("{}: the chat template failed in line {line}: {why}", file.display())]
    Template { file: PathBuf, line: usize, why: String },
    /// The template did not end within its limits.
    #[error("{}: the chat template was stopped: {why}; the template is faulty or made to do harm, use another conversion of the model", file.display())]
    TemplateLimit { file: PathBuf, why: String },
}

/// A character that never occurs in text (a Unicode noncharacter). The template puts it into what people wrote,
/// wherever that spells a control token, and the tokenizer takes it out after it has looked for control tokens.
pub(crate) const GUARD: char = '\u{fdd0}';
