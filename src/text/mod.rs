//! Tokenizer and chat template from the GGUF, and the decoder that streams text.

use crate::events::Message;
use crate::gguf::Gguf;

/// Why text could not be turned into tokens or back.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// To be replaced by precise variants.
    #[error("{0}")]
    Other(String),
}

/// Byte-level BPE as the file describes it.
pub struct Tokenizer {}

impl Tokenizer {
    /// Built from `tokenizer.ggml.*`; an unknown pre-tokenizer is an error.
    pub fn from_gguf(_gguf: &Gguf) -> Result<Self, TextError> {
        unimplemented!()
    }
    /// Token ids of `text`. With `special`, special tokens written out in it become their ids.
    pub fn encode(&self, _text: &str, _special: bool) -> Result<Vec<u32>, TextError> {
        unimplemented!()
    }
    /// The bytes of one token as they appear in text; empty for control tokens unless `special`.
    #[must_use]
    pub fn token_bytes(&self, _id: u32, _special: bool) -> Vec<u8> {
        unimplemented!()
    }
    /// Whether this token ends a turn (EOG set of the file and the family).
    #[must_use]
    pub fn is_end(&self, _id: u32) -> bool {
        unimplemented!()
    }
    /// Vocabulary size.
    #[must_use]
    pub fn vocab(&self) -> usize {
        unimplemented!()
    }
    /// Id of a token written exactly so.
    #[must_use]
    pub fn token_id(&self, _text: &str) -> Option<u32> {
        unimplemented!()
    }
    /// `tokenizer.ggml.add_bos_token` and the id, if it is to be added.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        unimplemented!()
    }
}

/// The file's chat template, run with limits.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// From `tokenizer.chat_template`, or built-in ChatML.
    pub fn from_gguf(_gguf: &Gguf) -> Result<Self, TextError> {
        unimplemented!()
    }
    /// The prompt text, ending where the assistant is to go on.
    pub fn render(&self, _messages: &[Message], _thinking: Option<bool>) -> Result<String, TextError> {
        unimplemented!()
    }
    /// The template asks for `enable_thinking`.
    #[must_use]
    pub fn can_think(&self) -> bool {
        unimplemented!()
    }
    /// The built-in ChatML is used, because the file has no template.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        unimplemented!()
    }
}

/// Turns token bytes into text that is never cut inside a UTF-8 character or a grapheme, with control
/// characters made harmless.
#[derive(Default)]
pub struct StreamDecoder {}

impl StreamDecoder {
    /// Add a token's bytes; returns the text that is now complete (may be empty).
    pub fn push(&mut self, _bytes: &[u8]) -> String {
        unimplemented!()
    }
    /// The rest at the end of the turn, broken bytes replaced by U+FFFD.
    pub fn finish(&mut self) -> String {
        unimplemented!()
    }
}
