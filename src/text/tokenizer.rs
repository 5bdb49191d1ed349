//! BPE over bytes or characters: text to token ids and back.

use super::format::{Format, Mark};
use super::pre::{known, lines, PreTokenizer};
use super::spelling::Spelling;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{TextError, GUARD};
use crate::gguf::{shown, Gguf};
use std::borrow::Cow;
use tokenizers::models::bpe::{Vocab, BPE};
use tokenizers::Model;
use unicode_normalization::{is_nfc, UnicodeNormalization};

/// BPE as the file describes it.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    cut: Cut,
    bpe: BPE,
    /// Tokens that are found in text before BPE sees it, by first byte, longest first.
    added: Vec<Vec<(String, u32)>>,
    bos: Option<u32>,
    format: Format,
    /// The marks of the format.
    marks: Vec<(u32, Mark)>,
}

/// How text is cut before BPE runs on each piece.
enum Cut {
    Words(PreTokenizer),
    /// Into runs of line feeds and what is between them; a run that is a token is taken whole. (llama.cpp's way with Gemma 4.)
    Lines,
}

/// The one name that a pre-tokenizer has beside `tokenizer.ggml.model` = "gemma4", if it has any.
const LINES: &str = "gemma4";

impl Tokenizer {
    /// Built from `tokenizer.ggml.*`; an unknown pre-tokenizer is an error.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TextError> {
        const MODEL: &str = "tokenizer.ggml.model";
        const PRE: &str = "tokenizer.ggml.pre";
        let file = || gguf.name().to_path_buf();
        let family = gguf.str(MODEL)?.ok_or_else(|| gguf.missing(MODEL))?;
        let Some(spelling) = Spelling::of_family(family) else {
            return Err(TextError::Family { file: file(), found: shown(family) });
        };
        let cut = match spelling {
            Spelling::ByteLevel => {
                let name = gguf.str(PRE)?.ok_or_else(|| gguf.missing(PRE))?;
                let Some(pre) = PreTokenizer::named(name) else {
                    let known = known().collect::<Vec<_>>().join(", ");
                    return Err(TextError::UnknownPre { file: file(), pre: shown(name), known });
                };
                Cut::Words(pre)
            }
            Spelling::Characters => match gguf.str(PRE)? {
                None | Some(LINES) => Cut::Lines,
                Some(name) => return Err(TextError::UnknownPre { file: file(), pre: shown(name), known: LINES.into() }),
            },
        };
        let (vocabulary, merges) = Vocabulary::read(gguf, spelling)?;
        let ignore_merges = matches!(&cut, Cut::Words(pre) if pre.ignores_merges());
        let bpe = bpe(&vocabulary, merges, ignore_merges).map_err(|e| TextError::Vocabulary {
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
        let wants_bos = match &cut {
            Cut::Words(pre) => vocabulary.add_bos.unwrap_or(pre.adds_bos()),
            // Whatever the file says: there are conversions that say no, and llama.cpp does not obey them (pull request 21500).
            Cut::Lines => true,
        };
        let bos = vocabulary.bos.filter(|_| wants_bos);
        let control = |name: &str| vocabulary.ids.get(name).copied().filter(|&id| vocabulary.kinds[id as usize] == TokenKind::Control);
        let format = Format::of(|name| control(name).is_some());
        let marks = format.spellings().iter().filter_map(|(name, mark)| Some((control(name)?, *mark))).collect();
        Ok(Self { vocabulary, cut, bpe, added, bos, format, marks })
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
        let mut word = String::new();
        match &self.cut {
            Cut::Words(pre) => {
                if pre.wants_nfc() && !is_nfc(&text) {
                    text = Cow::Owned(text.nfc().collect());
                }
                self.check_bytes(&text)?;
                for range in pre.split(&text)? {
                    self.merge(&text[range], &mut word, ids)?;
                }
            }
            Cut::Lines => {
                self.check_bytes(&text)?;
                for run in lines(&text) {
                    match self.token_id(run).filter(|_| run.starts_with('\n')) {
                        Some(id) if self.kind(id) == Some(TokenKind::Normal) => ids.push(id),
                        _ => self.merge(run, &mut word, ids)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// An error if `text` has what no token can spell.
    fn check_bytes(&self, text: &str) -> Result<(), TextError> {
        let Vocabulary { spelling, missing_bytes, ids, .. } = &self.vocabulary;
        if missing_bytes.is_empty() {
            return Ok(());
        }
        let missing = |s: &str| s.bytes().find(|b| missing_bytes.contains(b));
        let byte = match spelling {
            Spelling::ByteLevel => missing(text),
            Spelling::Characters => {
                let plain = |token: &str| ids.get(token).is_some_and(|&id| self.vocabulary.is_plain(id));
                let mut token = String::new();
                text.char_indices().find_map(|(at, c)| {
                    let c = &text[at..at + c.len_utf8()];
                    token.clear();
                    spelling.write(c, &mut token);
                    missing(c).filter(|_| !plain(&token))
                })
            }
        };
        byte.map_or(Ok(()), |byte| Err(TextError::NoToken { byte }))
    }

    /// Adds the tokens of one piece of text; its spelling is left in `word`.
    fn merge(&self, piece: &str, word: &mut String, ids: &mut Vec<u32>) -> Result<(), TextError> {
        word.clear();
        self.vocabulary.spelling.write(piece, word);
        let tokens = self.bpe.tokenize(word).map_err(|e| TextError::Split { why: e.to_string() })?;
        ids.extend(tokens.iter().map(|t| t.id));
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

    /// How the model marks its reasoning, by the marks that are control tokens of the vocabulary.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The mark of the format that this token is; `None` for every token of a format whose marks are text.
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

    /// Id of a token written exactly so (as the file writes it: plain text in the vocabulary's own spelling).
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

/// The merging machine, without the control tokens: whatever text says, they can't come out of it.
fn bpe(vocabulary: &Vocabulary, mut merges: Vec<(String, String)>, ignore_merges: bool) -> tokenizers::Result<BPE> {
    let plain: Vocab = vocabulary.ids.iter().filter(|(_, &id)| vocabulary.is_plain(id)).map(|(text, &id)| (text.clone(), id)).collect();
    // What spells the name of a byte is not that byte.
    let merged = |text: &str| plain.get(text).is_some_and(|&id| vocabulary.kinds[id as usize] != TokenKind::Byte);
    let mut whole = String::new();
    merges.retain(|(left, right)| {
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        [left, right, &whole].iter().all(|t| merged(t))
    });
    let by_bytes = vocabulary.spelling == Spelling::Characters;
    BPE::builder().vocab_and_merges(plain, merges).ignore_merges(ignore_merges).byte_fallback(by_bytes).build()
}

#[cfg(test)]
#[path = "tokenizer_gemma_tests.rs"]
mod gemma_tests;
#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
