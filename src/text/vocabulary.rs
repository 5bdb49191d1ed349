//! The vocabulary of a GGUF file, checked: tokens, their kinds, merges, end tokens.

use super::spelling::{named_byte, Spelling};
use super::{gemma, TextError};
use crate::gguf::{shown, Gguf, Value};
use std::collections::{BTreeSet, HashMap};

/// What a token is for (`tokenizer.ggml.token_type`; the numbers are llama.cpp's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text, spelled as in all tokens of the vocabulary.
    Normal,
    /// Stands for what can't be written.
    Unknown,
    /// Steers the model (`<|im_end|>`); never shown, and never made from what people write.
    Control,
    /// Text that is always one token (`<think>`), written as it is.
    UserDefined,
    /// A number without a meaning.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

/// Tokens that end a turn, in the families that are known, wherever the file marks them as special.
const END_TOKENS: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|fim_pad|>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<eos>",
    "<|END_OF_TURN_TOKEN|>",
    "</s>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Messages of GLM models have no end of their own: the mark of whoever is next ends the turn.
const NEXT_SPEAKER: [&str; 2] = ["<|user|>", "<|observation|>"];
/// Control tokens that a vocabulary of the GLM family has, and no other.
const OF_GLM: [&str; 3] = ["[gMASK]", "<sop>", "<|assistant|>"];

/// Largest vocabulary.
const MAX_TOKENS: usize = 1 << 21;

pub(super) struct Vocabulary {
    pub(super) spelling: Spelling,
    pub(super) tokens: Vec<String>,
    pub(super) kinds: Vec<TokenKind>,
    pub(super) ids: HashMap<String, u32>,
    pub(super) bos: Option<u32>,
    pub(super) add_bos: Option<bool>,
    pub(super) ends: BTreeSet<u32>,
    /// Bytes that no token of their own stands for.
    pub(super) missing_bytes: Vec<u8>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

impl Vocabulary {
    /// The vocabulary, and the pairs that merge, best first.
    pub(super) fn read(gguf: &Gguf, spelling: Spelling) -> Result<(Self, Vec<(String, String)>), TextError> {
        let tokens = gguf.strs(TOKENS)?.ok_or_else(|| gguf.missing(TOKENS))?;
        let fail = |key: &'static str, why: String| TextError::Vocabulary { file: gguf.name().into(), key, why };
        if tokens.is_empty() || tokens.len() > MAX_TOKENS {
            return Err(fail(TOKENS, format!("has {} tokens, but 1 to {MAX_TOKENS} are possible", tokens.len())));
        }
        let mut kinds = kinds(gguf, tokens.len())?;
        if spelling == Spelling::Characters {
            for (token, kind) in tokens.iter().zip(&mut kinds) {
                *kind = match *kind {
                    TokenKind::UserDefined if gemma::steers(token) => TokenKind::Control,
                    _ if named_byte(token).is_some() => TokenKind::Byte,
                    kind => kind,
                };
            }
        }

        let mut ids = HashMap::with_capacity(tokens.len());
        for (i, &token) in tokens.iter().enumerate() {
            // Nothing can be said with an empty token, so several of them harm nobody.
            if token.is_empty() {
                continue;
            }
            if let Some(first) = ids.insert(token.to_owned(), i as u32) {
                return Err(fail(TOKENS, format!("token {i} ({:?}) is the same as token {first}", shown(token))));
            }
        }
        let id_of = |key: &'static str| -> Result<Option<u32>, TextError> {
            match gguf.u64(key)? {
                // Converters write -1 as 2^32-1 for "none".
                None | Some(0xffff_ffff) => Ok(None),
                Some(id) if (id as usize) < tokens.len() => Ok(Some(id as u32)),
                Some(id) => Err(fail(key, format!("names token {id}, but there are only {}", tokens.len()))),
            }
        };
        let bos = id_of("tokenizer.ggml.bos_token_id")?;
        let mut ends = BTreeSet::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            ends.extend(id_of(key)?);
        }
        let special = |name: &&&str| ids.get(**name).copied().filter(|&id| kinds[id as usize] != TokenKind::Normal);
        ends.extend(END_TOKENS.iter().filter_map(|name| special(&name)));
        // In the harmony format <|end|> ends a message, and only <|return|> and <|call|> end the turn.
        if let (Some(_), Some(_), Some(end)) = (special(&&"<|return|>"), special(&&"<|call|>"), special(&&"<|end|>")) {
            ends.remove(&end);
        }
        if OF_GLM.iter().all(|name| special(&name).is_some()) {
            ends.extend(NEXT_SPEAKER.iter().filter_map(|name| special(&name)));
        }
        let merges = merges(gguf, &ids)?;
        let missing_bytes = (0..=255).filter(|&b| !ids.contains_key(&spelling.byte_token(b))).collect();
        let add_bos = gguf.bool("tokenizer.ggml.add_bos_token")?;
        let tokens = tokens.into_iter().map(str::to_owned).collect();
        Ok((Self { spelling, tokens, kinds, ids, bos, add_bos, ends, missing_bytes }, merges))
    }

    /// Whether text can become this token.
    pub(super) fn is_plain(&self, id: u32) -> bool {
        !matches!(self.kinds[id as usize], TokenKind::Control | TokenKind::Unknown)
    }

    /// The bytes that a token stands for in text.
    pub(super) fn bytes(&self, id: usize) -> Vec<u8> {
        let (Some(text), Some(kind)) = (self.tokens.get(id), self.kinds.get(id)) else {
            return Vec::new();
        };
        match kind {
            TokenKind::Normal => self.spelling.bytes(text),
            TokenKind::Byte => named_byte(text).map_or_else(|| text.clone().into_bytes(), |b| vec![b]),
            _ => text.clone().into_bytes(),
        }
    }
}

fn kinds(gguf: &Gguf, tokens: usize) -> Result<Vec<TokenKind>, TextError> {
    let fail = |why: String| TextError::Vocabulary { file: gguf.name().into(), key: TYPES, why };
    let Some(array) = gguf.get(TYPES) else {
        return Ok(vec![TokenKind::Normal; tokens]);
    };
    let array = array.as_array().ok_or_else(|| gguf.wrong_kind(TYPES, "an array of integers"))?;
    if array.len() != tokens {
        return Err(fail(format!("has {} entries for {tokens} tokens", array.len())));
    }
    let kind = |(i, value): (usize, &Value)| match value.as_u64() {
        Some(1) => Ok(TokenKind::Normal),
        Some(2) => Ok(TokenKind::Unknown),
        Some(3) => Ok(TokenKind::Control),
        Some(4) => Ok(TokenKind::UserDefined),
        Some(5) => Ok(TokenKind::Unused),
        Some(6) => Ok(TokenKind::Byte),
        _ => Err(fail(format!("entry {i} is {}, but kinds are 1 to 6", value.summary()))),
    };
    array.iter().enumerate().map(kind).collect()
}

fn merges(gguf: &Gguf, ids: &HashMap<String, u32>) -> Result<Vec<(String, String)>, TextError> {
    let fail = |why: String| TextError::Vocabulary { file: gguf.name().into(), key: MERGES, why };
    let lines = gguf.strs(MERGES)?.ok_or_else(|| gguf.missing(MERGES))?;
    let mut out = Vec::with_capacity(lines.len());
    let mut whole = String::new();
    for (i, line) in lines.into_iter().enumerate() {
        // The left part may begin with a space of its own, but is never empty.
        let split = line.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| (&line[..at], &line[at + 1..]));
        let Some((left, right)) = split.filter(|(_, right)| !right.is_empty()) else {
            return Err(fail(format!("merge {i} ({:?}) is not two tokens with a space between", shown(line))));
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        for token in [left, right, &whole] {
            if !ids.contains_key(token) {
                return Err(fail(format!("merge {i} ({:?}) needs the token {:?}, which the vocabulary lacks", shown(line), shown(token))));
            }
        }
        out.push((left.to_owned(), right.to_owned()));
    }
    Ok(out)
}
