//! Pre-tokenizers: how text is cut into words before BPE runs on each of them.
//!
//! `tokenizer.ggml.pre` names one. The patterns are those of the models' own `tokenizer.json`; that the names stand
//! for them is llama.cpp's convention (`llama-vocab.cpp`).
//!
//! All of them end in `\s+(?!\S)|\s+`: white space is a word, but its last character goes to the word that follows. The
//! look-ahead would need a backtracking matcher, which gives up on long white space, so the patterns here end in `\s+`
//! and [`PreTokenizer::split`] gives that last character back.

use super::TextError;
use fancy_regex::Regex;
use std::ops::Range;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
);
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const PUNCTUATION_TICK: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const DIGIT: &str = r"\p{N}";
const DIGITS: &str = r"\p{N}+";
const THREE_DIGITS: &str = "[0-9][0-9][0-9]";

/// A pre-tokenizer as its name in the file describes it.
struct Description {
    names: &'static [&'static str],
    /// Applied one after the other, each to the pieces that the one before left.
    patterns: &'static [&'static str],
    /// A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    /// Whether a begin token is put first when the file does not say.
    add_bos: bool,
    /// Unicode NFC comes first.
    nfc: bool,
}

const fn plain(names: &'static [&'static str], patterns: &'static [&'static str]) -> Description {
    Description { names, patterns, ignore_merges: false, add_bos: false, nfc: false }
}

const DESCRIPTIONS: &[Description] = &[
    Description { nfc: true, ..plain(&["qwen2"], &[QWEN2]) },
    Description { nfc: true, ..plain(&["qwen35"], &[QWEN35]) },
    Description { ignore_merges: true, add_bos: true, ..plain(&["llama-bpe", "llama3", "llama-v3"], &[LLAMA3]) },
    plain(&["gpt-4o", "llama4"], &[GPT4O]),
    Description { nfc: true, ..plain(&["olmo"], &[GPT2]) },
    plain(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    plain(&["gpt-2"], &[GPT2]),
    plain(&["starcoder", "refact", "command-r", "smollm"], &[DIGIT, GPT2]),
    plain(&["falcon"], &[PUNCTUATION_TICK, GPT2, THREE_DIGITS]),
    plain(&["default"], &[PUNCTUATION, GPT2, DIGITS, THREE_DIGITS]),
];

/// Names of all known pre-tokenizers.
pub fn known() -> impl Iterator<Item = &'static str> {
    DESCRIPTIONS.iter().flat_map(|d| d.names).copied()
}

/// Cuts text into words.
pub struct PreTokenizer {
    description: &'static Description,
    patterns: Vec<Regex>,
}

impl PreTokenizer {
    /// The pre-tokenizer with this name (`tokenizer.ggml.pre`); `None` if it is not known.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let description = DESCRIPTIONS.iter().find(|d| d.names.contains(&name))?;
        let build = |pattern: &&str| Regex::new(pattern).expect("the patterns are fixed and tested");
        Some(Self { description, patterns: description.patterns.iter().map(build).collect() })
    }

    /// A word that is a token is taken whole, whatever the merges say.
    #[must_use]
    pub fn ignores_merges(&self) -> bool {
        self.description.ignore_merges
    }

    /// Whether a begin token is put first when the file does not say.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.description.add_bos
    }

    /// Whether text is brought into Unicode NFC first.
    #[must_use]
    pub fn wants_nfc(&self) -> bool {
        self.description.nfc
    }

    /// The words of `text` as ranges of bytes; together they are the whole text.
    pub fn split(&self, text: &str) -> Result<Vec<Range<usize>>, TextError> {
        let mut words: Vec<Range<usize>> = std::iter::once(0..text.len()).collect();
        for pattern in &self.patterns {
            let mut finer = Vec::with_capacity(words.len() * 2);
            for word in words {
                let (base, mut done) = (word.start, 0);
                let part = &text[word];
                while let Some(found) = pattern.find_from_pos(part, done).map_err(|e| TextError::Split { why: e.to_string() })? {
                    let (start, mut end) = (found.start(), found.end());
                    if end == start {
                        break;
                    }
                    if end < part.len() {
                        end -= given_back(found.as_str(), pattern.as_str());
                    }
                    if start > done {
                        finer.push(base + done..base + start);
                    }
                    finer.push(base + start..base + end);
                    done = end;
                }
                if done < part.len() {
                    finer.push(base + done..base + part.len());
                }
            }
            words = finer;
        }
        Ok(words)
    }
}

/// The runs of line feeds in `text`, and what stands between them; together they are the whole text.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let feeds = rest.starts_with('\n');
        let (run, after) = rest.split_at(rest.find(|c| (c == '\n') != feeds).unwrap_or(rest.len()));
        rest = after;
        (!run.is_empty()).then_some(run)
    })
}

/// Bytes at the end of a word of white space that go to the next word: its last character, unless it is the only one
/// or (where line ends are words of their own) a line end.
fn given_back(word: &str, pattern: &str) -> usize {
    if !pattern.ends_with(r"|\s+") || word.chars().any(|c| !c.is_whitespace()) {
        return 0;
    }
    let Some(last) = word.chars().next_back() else { return 0 };
    let line_end = matches!(last, '\r' | '\n') && pattern.contains(r"|\s*[\r\n]+|");
    if line_end || last.len_utf8() == word.len() {
        0
    } else {
        last.len_utf8()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static ALL: LazyLock<Vec<(&str, PreTokenizer)>> =
        LazyLock::new(|| known().map(|name| (name, PreTokenizer::named(name).unwrap())).collect());

    /// The single patterns with their look-ahead.
    static ORIGINALS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
        let original = |pattern: &str| Regex::new(&format!(r"{}|\s+(?!\S)|\s+", pattern.strip_suffix(r"|\s+").unwrap())).unwrap();
        let single = ALL.iter().filter(|(_, pre)| pre.patterns.len() == 1);
        single.map(|(name, pre)| (*name, original(pre.description.patterns[0]))).collect()
    });

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let (_, pre) = ALL.iter().find(|(n, _)| *n == name).unwrap();
        pre.split(text).unwrap().into_iter().map(|r| &text[r]).collect()
    }

    #[test]
    fn the_families_cut_numbers_and_contractions_differently() {
        let text = "I'LL pay 12345  now";
        assert_eq!(words("qwen2", text), ["I", "'LL", " pay", " ", "1", "2", "3", "4", "5", " ", " now"]);
        assert_eq!(words("llama-bpe", text), ["I", "'LL", " pay", " ", "123", "45", " ", " now"]);
        assert_eq!(words("olmo", text), ["I", "'", "LL", " pay", " 12345", " ", " now"]);
        assert_eq!(words("gpt-4o", text), ["I'LL", " pay", " ", "123", "45", " ", " now"]);
        assert_eq!(words("default", text), ["I", "'", "LL", " pay", " ", "123", "45", " ", " now"]);
        assert_eq!(words("starcoder", text), ["I", "'", "LL", " pay", " ", "1", "2", "3", "4", "5", " ", " now"]);
    }

    #[test]
    fn marks_stay_with_their_letters_in_qwen35_only() {
        let hindi = "नमस्ते";
        assert_eq!(words("qwen35", hindi), [hindi]);
        assert!(words("qwen2", hindi).len() > 1);
    }

    #[test]
    fn camel_case_is_cut_in_gpt_4o_only() {
        assert_eq!(words("gpt-4o", "HelloWorld/\n"), ["Hello", "World", "/\n"]);
        assert_eq!(words("llama3", "HelloWorld/\n"), ["HelloWorld", "/\n"]);
    }

    /// Texts as tiktoken 0.14 cuts them for `o200k_base`, whose pattern gpt-oss shares: code, many scripts, emoji, numbers, white space.
    #[test]
    fn gpt_4o_cuts_as_tiktoken_does() {
        let texts: Vec<Vec<String>> = serde_json::from_str(include_str!("../../tests/words/gpt-4o.json")).unwrap();
        assert!(texts.len() > 30);
        for want in texts {
            assert_eq!(words("gpt-4o", &want.concat()), want);
        }
    }

    #[test]
    fn runs_of_line_feeds_stand_alone() {
        let of = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(of("\n\na b\r\n\n c\n"), ["\n\n", "a b\r", "\n\n", " c", "\n"]);
        assert_eq!(of("é"), ["é"]);
        assert_eq!(of(""), Vec::<&str>::new());
    }

    #[test]
    fn an_unknown_name_gives_nothing() {
        assert!(PreTokenizer::named("gpt-9").is_none());
        assert_eq!(known().count(), ALL.len());
    }

    #[test]
    fn a_megabyte_of_spaces_is_split() {
        let text = " ".repeat(1 << 20) + "x";
        for name in known() {
            assert!(words(name, &text).len() <= 4, "{name}");
        }
    }

    proptest! {
        /// The look-ahead of the original patterns and the character given back are the same thing.
        #[test]
        fn words_are_those_of_the_original_patterns(text in "([ \\t\\n\\r\u{a0}\u{3000}]{0,4}[aé1'!/]{0,2}){0,6}") {
            for (name, original) in ORIGINALS.iter() {
                let want: Vec<&str> = original.find_iter(&text).map(|m| m.unwrap().as_str()).collect();
                prop_assert_eq!(words(name, &text), want, "{}", name);
            }
        }

        #[test]
        fn the_words_together_are_the_text(text in "\\PC{0,40}[ \\n\\t]{0,3}\\PC{0,10}") {
            for (name, _) in ALL.iter() {
                prop_assert_eq!(words(name, &text).concat(), text.clone());
            }
        }
    }
}
