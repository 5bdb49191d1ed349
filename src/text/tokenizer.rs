//! Byte-level BPE: text to token ids and back.

use super::alphabet::char_of;
use super::harmony::{Mark, NEEDED};
use super::pre::{known, PreTokenizer};
use super::vocabulary::{TokenKind, Vocabulary};
use super::{TextError, GUARD};
use crate::gguf::{shown, Gguf};
use std::borrow::Cow;
use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::Model;
use unicode_normalization::{is_nfc, UnicodeNormalization};

/// Byte-level BPE as the file describes it.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    pre: PreTokenizer,
    bpe: BPE,
    /// Tokens that are found in text before BPE sees it, by first byte, longest first.
    added: Vec<Vec<(String, u32)>>,
    bos: Option<u32>,
    /// The marks of the harmony format, if this is a vocabulary of it.
    marks: Vec<(u32, Mark)>,
}

impl Tokenizer {
    /// Built from `tokenizer.ggml.*`; an unknown pre-tokenizer is an error.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        const MODEL: &str = "tokenizer.ggml.model";
        const PRE: &str = "tokenizer.ggml.pre";
        let file = || gguf.name().to_path_buf();
        let family = gguf.str(MODEL)?.ok_or_else(|| gguf.missing(MODEL))?;
        if family != "gpt2" {
            return Err(TextError::Family { file: file(), found: shown(family) });
        }
        let name = gguf.str(PRE)?.ok_or_else(|| gguf.missing(PRE))?;
        let Some(pre) = PreTokenizer::named(name) else {
            let known = known().collect::<Vec<_>>().join(", ");
            return Err(TextError::UnknownPre { file: file(), pre: shown(name), known });
        };
        let vocabulary = Vocabulary::read(gguf)?;
        let bpe = bpe(&vocabulary, pre.ignores_merges()).map_err(|e| TextError::Vocabulary {
            file: file(),
            key: "tokenizer.ggml.merges",
            why: e.to_string(),
        })?;

        let mut added = vec![Vec::new(); 256];
        for (id, (text, kind)) in vocabulary.tokens.iter().zip(&vocabulary.kinds).enumerate() {
            if matches!(kind, TokenKind::Control | TokenKind::UserDefined) && !text.is_empty() {
                added[usize::from(text.as_bytes()[0])].push((text.clone(), id as u32));
            }
        }
        for same_start in &mut added {
            same_start.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        }
        let wants_bos = vocabulary.add_bos.unwrap_or(pre.adds_bos());
        let bos = vocabulary.bos.filter(|_| wants_bos);
        let marks = marks(&vocabulary);
        Ok(Self { vocabulary, pre, bpe, added, bos, marks })
    }

    /// Token ids of `text`. With `special`, control tokens written out in it become their ids; without, nothing in
    /// the text can become a control token. No begin token is added: see [`Tokenizer::encode_prompt`].
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let (mut from, mut at) = (0, 0);
        let bytes = text.as_bytes();
        while at < bytes.len() {
            let found = self.added[usize::from(bytes[at])].iter().find(|(token, id)| {
                bytes[at..].starts_with(token.as_bytes()) && (special || self.vocabulary.kinds[*id as usize] != TokenKind::Control)
            });
            match found {
                Some((token, id)) => {
                    self.encode_plain(&text[from..at], special, &mut ids)?;
                    ids.push(*id);
                    at += token.len();
                    from = at;
                }
                None => at += 1,
            }
        }
        self.encode_plain(&text[from..], special, &mut ids)?;
        Ok(ids)
    }

    /// Token ids of a rendered prompt: control tokens become their ids, and the begin token comes first if the
    /// model wants one and the template has not written it already.
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.encode(prompt, true)?;
        if let Some(bos) = self.bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Text without added tokens.
    fn encode_plain(&self, text: &str, guarded: bool, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut text = Cow::Borrowed(text);
        if guarded && text.contains(GUARD) {
            text = Cow::Owned(text.replace(GUARD, ""));
        }
        if self.pre.wants_nfc() && !is_nfc(&text) {
            text = Cow::Owned(text.nfc().collect());
        }
        if let Some(&byte) = self.vocabulary.missing_bytes.iter().find(|b| text.as_bytes().contains(b)) {
            return Err(TextError::NoToken { byte });
        }
        let mut word = String::new();
        for range in self.pre.split(&text)? {
            word.clear();
            word.extend(text.as_bytes()[range].iter().map(|&b| char_of(b)));
            let tokens = self.bpe.tokenize(&word).map_err(|e| TextError::Split { why: e.to_string() })?;
            ids.extend(tokens.iter().map(|t| t.id));
        }
        Ok(())
    }

    /// The bytes of one token as they appear in text; empty for control tokens unless `special`. The thinking marks
    /// are always given, since [`super::ThinkSplitter`] looks for them.
    #[must_use]
    pub fn token_bytes(&self, id: u32, special: bool) -> Vec<u8> {
        let index = id as usize;
        let hidden = match self.vocabulary.kinds.get(index) {
            Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => false,
            Some(_) => !super::think::MARKS.contains(&self.vocabulary.tokens[index].as_str()),
            None => true,
        };
        if hidden && !special {
            return Vec::new();
        }
        self.vocabulary.bytes(index)
    }

    /// Whether this token ends a turn (EOG set of the file and the family).
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.vocabulary.ends.contains(&id)
    }

    /// Whether the vocabulary is of the harmony format: its marks are control tokens here.
    #[must_use]
    pub fn is_harmony(&self) -> bool {
        !self.marks.is_empty()
    }

    /// The mark of the harmony format that this token is; `None` for every token of another vocabulary.
    #[must_use]
    pub fn mark(&self, id: u32) -> Option<Mark> {
        self.marks.iter().find(|(mark, _)| *mark == id).map(|(_, mark)| *mark)
    }

    /// All tokens that end a turn, in order of their ids.
    pub fn ends(&self) -> impl Iterator<Item = u32> + '_ {
        self.vocabulary.ends.iter().copied()
    }

    /// Vocabulary size.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// Id of a token written exactly so (as the file writes it: in the byte-level alphabet, for plain text).
    #[must_use]
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocabulary.ids.get(text).copied()
    }

    /// A token as the file writes it.
    #[must_use]
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.tokens.get(id as usize).map(String::as_str)
    }

    /// What a token is for.
    #[must_use]
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocabulary.kinds.get(id as usize).copied()
    }

    /// The begin token, if it is to be added (`tokenizer.ggml.add_bos_token`, or the family's habit).
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }
}

/// The marks of the harmony format, if all that it needs are there as control tokens.
fn marks(vocabulary: &Vocabulary) -> Vec<(u32, Mark)> {
    let control = |name: &str| vocabulary.ids.get(name).is_some_and(|&id| vocabulary.kinds[id as usize] == TokenKind::Control);
    if !NEEDED.iter().all(|name| control(name)) {
        return Vec::new();
    }
    Mark::spellings().filter(|(name, _)| control(name)).map(|(name, mark)| (vocabulary.ids[name], mark)).collect()
}

/// The merging machine, without the control tokens: whatever text says, they can't come out of it.
fn bpe(vocabulary: &Vocabulary, ignore_merges: bool) -> tokenizers::Result<BPE> {
    let control = |id: u32| matches!(vocabulary.kinds[id as usize], TokenKind::Control | TokenKind::Unknown);
    let plain: Vocab = vocabulary.ids.iter().filter(|(_, &id)| !control(id)).map(|(text, &id)| (text.clone(), id)).collect();
    let mut whole = String::new();
    let merges = vocabulary
        .merges
        .iter()
        .filter(|(left, right)| {
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            [left, right, &whole].iter().all(|t| plain.contains_key(t.as_str()))
        })
        .cloned()
        .collect();
    BPE::builder().vocab_and_merges(plain, merges).ignore_merges(ignore_merges).build()
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
