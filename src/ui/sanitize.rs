//! Untrusted text made fit for the screen.
//!
//! Model output, model names, file names and saved chats can hold anything. Escape sequences could rename
//! the window, write to the clipboard or forge what the app says; bidirectional overrides could make code
//! read differently from what it is. Nothing of that kind reaches the terminal.

pub use crate::text::one_line;

use crate::text::is_hostile;
use std::borrow::Cow;

/// Columns between tab stops.
const TAB: &str = "    ";

/// Text of several lines: line breaks stay (`\r\n`, `\r`, and the Unicode separators become `\n`), tabs become
/// spaces, all other characters of [`is_hostile`] go.
#[must_use]
pub fn text(raw: &str) -> Cow<'_, str> {
    text_and_map(raw).0
}

/// [`text`], and for every byte of it and for its end the byte of `raw` that it comes from; `None` if both are the same.
#[must_use]
pub fn text_and_map(raw: &str) -> (Cow<'_, str>, Option<Vec<usize>>) {
    if !raw.chars().any(|c| (c != '\n' && is_hostile(c)) || matches!(c, '\u{2028}' | '\u{2029}')) {
        return (Cow::Borrowed(raw), None);
    }
    let mut out = String::with_capacity(raw.len());
    let mut map = Vec::with_capacity(raw.len() + 1);
    let mut chars = raw.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\r' => {
                if chars.peek().is_none_or(|(_, next)| *next != '\n') {
                    out.push('\n');
                }
            }
            '\t' => out.push_str(TAB),
            c if is_hostile(c) => {}
            c => {
                out.push(c);
                // Byte for byte.
                map.extend(at..at + c.len_utf8());
            }
        }
        map.resize(out.len(), at);
    }
    map.push(raw.len());
    (Cow::Owned(out), Some(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_lose_their_escape() {
        assert_eq!(text("a\x1b]0;owned\x07b\u{9b}31mc"), "a]0;ownedb31mc");
        assert_eq!(text("left\u{202E}right"), "leftright");
    }

    #[test]
    fn line_breaks_of_every_kind_become_one_kind() {
        assert_eq!(text("a\r\nb\rc\u{2028}d\n"), "a\nb\nc\nd\n");
    }

    #[test]
    fn clean_text_is_not_copied_and_joined_emoji_stay() {
        assert!(matches!(text("family: 👨‍👩‍👧 e\u{301}\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn every_byte_of_clean_text_knows_where_it_was() {
        let (clean, map) = text_and_map("a\tb\x1b\r\né");
        assert_eq!(clean, "a    b\né");
        assert_eq!(map.unwrap(), [0, 1, 1, 1, 1, 2, 5, 6, 7, 8]);
    }

    proptest! {
        #[test]
        fn no_control_character_survives(raw in any::<String>()) {
            prop_assert!(text(&raw).chars().all(|c| c == '\n' || !is_hostile(c)));
        }
    }
}
