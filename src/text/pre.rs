//! Pre-tokenizers: how text is cut into words before BPE runs on each of them.
//!
//! `tokenizer.ggml.pre` names one. The patterns are those of the models' own `tokenizer.json`; that the names stand
//! for them is llama.cpp's convention (`llama-vocab.cpp`).
//!
//! Most of them end in `\s+(?!\S)|\s+`: white space is a word, but its last character goes to the word that follows. The
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
const ONE_TO_THREE_DIGITS: &str = r"\p{N}{1,3}";
const HAN_KANA: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+",
);
const LINE_END: &str = r"[\r\n]";
/// Letters of scripts that know two cases, some of them (there are no small Armenian ones), as DeepSeek lists them.
const CASED: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}",
    r"\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}",
    r"\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
    r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}",
    r"\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}",
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}",
    r"\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}",
    r"\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}",
    r"\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);
const ASCII_AND_WIDE: &str = r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";
const LAST_SPACES: &str = r"\s+$";
const EAST_ASIAN: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const SPACED_LETTERS: &str = r"\s?\p{L}+";
const SPACED_PUNCTUATION: &str = r"\s?\p{P}+";

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
    Description { ignore_merges: true, add_bos: true, ..plain(&["llama-bpe", "llama3", "llama-v3", "lfm2"], &[LLAMA3]) },
    plain(&["gpt-4o", "llama4", "minimax-m2"], &[GPT4O]),
    Description { nfc: true, ..plain(&["olmo"], &[GPT2]) },
    plain(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    plain(&["glm4", "chatglm-bpe"], &[LLAMA3]),
    plain(&["deepseek-v3", "joyai-llm", "hunyuan-dense"], &[ONE_TO_THREE_DIGITS, HAN_KANA, DEEPSEEK3]),
    plain(&["deepseek-llm"], &[LINE_END, CASED, ASCII_AND_WIDE, LAST_SPACES, EAST_ASIAN, DIGIT]),
    plain(&["deepseek-coder"], &[LINE_END, SPACED_LETTERS, SPACED_PUNCTUATION, EAST_ASIAN, DIGIT]),
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
    use std::collections::BTreeMap;
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
        assert_eq!(words("lfm2", text), words("llama-bpe", text));
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

    /// Texts as tiktoken 0.14 cuts them for `o200k_base`, whose pattern gpt-oss and MiniMax-M2 share: code, many scripts, emoji, numbers, white
    /// space. Hugging Face's tokenizers 0.23.3 cut them so, too.
    #[test]
    fn gpt_4o_cuts_as_tiktoken_does() {
        let texts: Vec<Vec<String>> = serde_json::from_str(include_str!("../../tests/words/gpt-4o.json")).unwrap();
        assert!(texts.len() > 30);
        for want in texts {
            assert_eq!(words("gpt-4o", &want.concat()), want);
            assert_eq!(words("minimax-m2", &want.concat()), want);
        }
    }

    /// The same texts as Hugging Face's tokenizers 0.23.3 cuts them for GLM and DeepSeek.
    #[test]
    fn glm_and_deepseek_cut_as_hugging_faces_tokenizers_do() {
        let all: BTreeMap<String, Vec<Vec<String>>> = serde_json::from_str(include_str!("../../tests/words/glm-deepseek.json")).unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["deepseek-coder", "deepseek-llm", "deepseek-v3", "glm4"]);
        for (name, texts) in &all {
            assert!(texts.len() > 40);
            for want in texts {
                assert_eq!(words(name, &want.concat()), *want, "{name}");
            }
        }
    }

    #[test]
    fn deepseek_cuts_east_asian_text_from_what_is_around_it() {
        assert_eq!(words("deepseek-v3", "a中文bカナ1234 x=-y"), ["a", "中文", "b", "カナ", "123", "4", " x", "=-", "y"]);
        assert_eq!(words("deepseek-llm", "a中文b 12 x."), ["a", "中文", "b", " ", "1", "2", " x", "."]);
        assert_eq!(words("glm4", "a中文b 1234"), ["a中文b", " ", "123", "4"]);
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
