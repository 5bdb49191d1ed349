//! Token bytes to text that may go to a terminal.

use unicode_segmentation::UnicodeSegmentation;

/// Longest cluster that is held back, in bytes. Text that stacks more marks on one letter is cut.
const MAX_HELD: usize = 128;

/// Turns token bytes into text that is never cut inside a UTF-8 character or a grapheme, with control
/// characters made harmless.
///
/// The last grapheme is held back while a later token could still add to it (an accent, a skin tone, the second half
/// of a flag); what has been given out is final.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a UTF-8 character.
    bytes: Vec<u8>,
    /// Text that may still grow.
    held: String,
    /// The last character given to `held` was a carriage return.
    after_return: bool,
}

impl StreamDecoder {
    /// Add a token's bytes; returns the text that is now complete (may be empty).
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.bytes.extend(bytes);
        let mut rest = std::mem::take(&mut self.bytes);
        let mut from = 0;
        loop {
            match std::str::from_utf8(&rest[from..]) {
                Ok(text) => {
                    self.add(text);
                    rest.clear();
                    break;
                }
                Err(e) => {
                    let valid = from + e.valid_up_to();
                    self.add(std::str::from_utf8(&rest[from..valid]).unwrap_or_default());
                    match e.error_len() {
                        Some(broken) => {
                            self.add("\u{fffd}");
                            from = valid + broken;
                        }
                        None => {
                            rest.drain(..valid);
                            break;
                        }
                    }
                }
            }
        }
        self.bytes = rest;
        self.release()
    }

    /// Bytes of text that wait for the next token, which may add to them.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The rest at the end of the turn, broken bytes replaced by U+FFFD.
    pub fn finish(&mut self) -> String {
        if !std::mem::take(&mut self.bytes).is_empty() {
            self.add("\u{fffd}");
        }
        self.after_return = false;
        std::mem::take(&mut self.held)
    }

    fn add(&mut self, text: &str) {
        for c in text.chars() {
            let after_return = std::mem::replace(&mut self.after_return, c == '\r');
            if let Some(c) = harmless(c).filter(|_| !(c == '\n' && after_return)) {
                self.held.push(c);
            }
        }
    }

    /// Give out all but the last grapheme.
    fn release(&mut self) -> String {
        let last = match self.held.grapheme_indices(true).next_back() {
            // Nothing joins a line feed.
            Some((at, "\n")) => at + 1,
            Some((at, cluster)) if cluster.len() > MAX_HELD => at + cluster.len(),
            Some((at, _)) => at,
            None => 0,
        };
        let rest = self.held.split_off(last);
        std::mem::replace(&mut self.held, rest)
    }
}

/// What may stand in the text for `c`. Control characters become their visible pictures; what reorders or hides
/// text becomes nothing; all line ends become line feeds.
fn harmless(c: char) -> Option<char> {
    match c {
        '\n' | '\t' => Some(c),
        '\r' | '\u{2028}' | '\u{2029}' | '\u{85}' => Some('\n'),
        '\0'..='\u{1f}' => char::from_u32(0x2400 + c as u32),
        '\u{7f}' => Some('\u{2421}'),
        '\u{80}'..='\u{9f}' => Some('\u{fffd}'),
        // Bidirectional embeddings, overrides and isolates; byte order mark; interlinear annotation.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => None,
        _ => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(chunks: &[&[u8]]) -> Vec<String> {
        let mut decoder = StreamDecoder::default();
        let mut out: Vec<String> = chunks.iter().map(|c| decoder.push(c)).collect();
        out.push(decoder.finish());
        out
    }

    #[test]
    fn a_character_cut_in_two_waits_for_its_rest() {
        assert_eq!(stream(&[b"caf\xc3", b"\xa9!"]), ["ca", "fé", "!"]);
    }

    #[test]
    fn a_family_emoji_comes_out_whole() {
        let emoji = "👩\u{200d}💻";
        let chunks: Vec<&[u8]> = emoji.as_bytes().chunks(3).collect();
        let pieces = stream(&chunks);
        assert_eq!(pieces.last().map(String::as_str), Some(emoji));
        assert!(pieces[..pieces.len() - 1].iter().all(String::is_empty));
    }

    #[test]
    fn an_accent_that_comes_late_joins_its_letter() {
        assert_eq!(stream(&["cafe".as_bytes(), "\u{301} ok".as_bytes()]), ["caf", "e\u{301} o", "k"]);
    }

    #[test]
    fn a_line_feed_is_not_held_back() {
        assert_eq!(stream(&[b"one\n", b"two"]), ["one\n", "tw", "o"]);
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        assert_eq!(stream(&[b"a\xff\xfeb"]).concat(), "a\u{fffd}\u{fffd}b");
        assert_eq!(stream(&[b"a\xe2\x82"]).concat(), "a\u{fffd}");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_could_steer_it() {
        assert_eq!(stream(&[b"\x1b[31mred\x07\x7f"]).concat(), "␛[31mred␇␡");
        assert_eq!(stream(&["\u{9b}31m\u{202e}abc\u{2066}".as_bytes()]).concat(), "\u{fffd}31mabc");
        assert_eq!(stream(&[b"a\r", b"\nb\rc\td"]).concat(), "a\nb\nc\td");
    }

    #[test]
    fn a_letter_under_endless_marks_is_not_held_for_ever() {
        let mut decoder = StreamDecoder::default();
        let out: String = (0..1000).map(|_| decoder.push("\u{301}".as_bytes())).collect();
        assert!(out.len() > 1500 && decoder.held.len() <= MAX_HELD + 2);
    }

    proptest! {
        #[test]
        fn cutting_the_bytes_anywhere_changes_nothing(text in "\\PC{0,30}(👩\u{200d}💻|🇩🇪|é|\n){0,4}", cuts in prop::collection::vec(0usize..200, 0..8)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let pieces = stream(&chunks);
            let whole = stream(&[bytes]).concat();
            prop_assert_eq!(pieces.concat(), whole.clone());
            // Every cut between pieces is a grapheme border of the whole.
            let borders: Vec<usize> = whole.grapheme_indices(true).map(|(i, _)| i).chain([whole.len()]).collect();
            let mut at = 0;
            for piece in &pieces {
                at += piece.len();
                prop_assert!(borders.contains(&at));
            }
        }

        #[test]
        fn any_bytes_give_text_without_control_characters(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = stream(&[&bytes]).concat();
            prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        }
    }
}
