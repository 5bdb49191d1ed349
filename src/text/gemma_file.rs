//! A small vocabulary of Gemma 4's form, for tests: the marks, a token for every byte, some characters, three merges.

use super::spelling::Spelling;
use crate::gguf::write::Writer;

/// The template of Gemma 4 (tests/templates/README.md).
pub(crate) const GEMMA4: &str = include_str!("../../tests/templates/gemma-4.jinja");
/// The first tokens, with their kinds in real files. The 256 bytes follow.
pub(crate) const MARKS: [(&str, u32); 15] = [
    ("<pad>", 3),
    ("<eos>", 3),
    ("<bos>", 3),
    ("<unk>", 3),
    ("<|think|>", 3),
    ("<|channel>", 4),
    ("<channel|>", 4),
    ("<|turn>", 3),
    ("<turn|>", 3),
    ("<|tool_call>", 4),
    ("<tool_call|>", 4),
    ("<|tool_response>", 4),
    ("<tool_response|>", 4),
    ("<|\"|>", 4),
    ("</s>", 1),
];
/// The number of the token for byte 0.
pub(crate) const BYTES: u32 = MARKS.len() as u32;
/// Tokens after the bytes. Before them stand the printable characters of ASCII, without the space.
const PIECES: [&str; 6] = ["\n", "\n\n", "\u{2581}", "é", "he", "\u{2581}he"];

/// A file with this vocabulary and template.
pub(crate) fn file() -> Writer {
    let marks = MARKS.map(|(token, kind)| (token.to_owned(), kind));
    let bytes = (0..=255).map(|b| (Spelling::Characters.byte_token(b), 6));
    let pieces = ('!'..='~').map(String::from).chain(PIECES.map(String::from)).map(|token| (token, 1));
    let (tokens, kinds): (Vec<String>, Vec<u32>) = marks.into_iter().chain(bytes).chain(pieces).unzip();
    Writer::new("gemma4")
        .with("tokenizer.ggml.model", "gemma4")
        .with("tokenizer.ggml.tokens", tokens)
        .with("tokenizer.ggml.token_type", kinds)
        .with("tokenizer.ggml.merges", vec!["\n \n", "h e", "\u{2581} he"])
        .with("tokenizer.ggml.bos_token_id", 2u32)
        .with("tokenizer.ggml.eos_token_id", 1u32)
        .with("tokenizer.ggml.add_bos_token", true)
        .with("tokenizer.chat_template", GEMMA4)
}
