//! A small vocabulary of the harmony format, for tests: a token for every byte, the marks, and one merge.

use super::alphabet::char_of;
use crate::gguf::write::Writer;

/// The template of gpt-oss (tests/templates/README.md).
pub(crate) const GPT_OSS: &str = include_str!("../../tests/templates/gpt-oss.jinja");
/// The tokens after the 256 bytes. `<|return|>` is 257, `he` is 264.
pub(crate) const TOKENS: [&str; 9] =
    ["<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>", "he"];

/// A file with this vocabulary and template. Its marks are tokens of `kind` (3 in real files).
pub(crate) fn file(kind: u32) -> Writer {
    let mut tokens: Vec<String> = (0..=255).map(|b| char_of(b).to_string()).collect();
    let mut kinds = vec![1u32; tokens.len()];
    for token in TOKENS {
        tokens.push(token.into());
        kinds.push(if token.starts_with('<') { kind } else { 1 });
    }
    Writer::new("gpt-oss")
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", "gpt-4o")
        .with("tokenizer.ggml.tokens", tokens)
        .with("tokenizer.ggml.token_type", kinds)
        .with("tokenizer.ggml.merges", vec!["h e"])
        .with("tokenizer.ggml.eos_token_id", 257u32)
        .with("tokenizer.chat_template", GPT_OSS)
}
