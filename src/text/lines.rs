//! Lines: untrusted text made fit for one, and which line of a file a place is in.
//!
//! Model and file names, what files hold, and what others say of their mistakes can be anything. Escape sequences could rename the window, write to the clipboard or forge what the app says;
//! bidirectional overrides could make a line read differently from what it is.

/// True for characters that are never drawn: C0 and C1 controls, bidirectional overrides and isolates,
/// interlinear and tag characters, and the byte order mark.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E001F}')
}

/// Text of one line, at most `max` characters: breaks and tabs become spaces, all other characters of [`is_hostile`] go; a longer text ends in `...`.
#[must_use]
pub fn one_line(raw: &str, max: usize) -> String {
    let flat = raw.chars().map(|c| if matches!(c, '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}') { ' ' } else { c });
    let mut out: String = flat.filter(|&c| !is_hostile(c)).take(max.saturating_add(1)).collect();
    if out.chars().count() > max {
        out = out.chars().take(max.saturating_sub(3)).collect();
        out.push_str("...");
    }
    out
}

/// The number of the line that byte `at` of `text` is in, from 1; that of the last line for places beyond the end.
#[must_use]
pub fn line_number(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|&&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_would_not_stay_in_its_line_does() {
        assert_eq!(one_line("a\nb\tc", 80), "a b c");
        assert_eq!(one_line("a\x1b]0;owned\x07b\u{9b}31mc left\u{202E}right", 80), "a]0;ownedb31mc leftright");
    }

    #[test]
    fn long_lines_are_cut_with_a_mark() {
        assert_eq!(one_line("abcdefgh", 6), "abc...");
        assert_eq!(one_line("abcdef", 6), "abcdef");
    }

    #[test]
    fn a_break_belongs_to_the_line_that_it_ends() {
        let numbers = [0, 1, 2, 3, 99].map(|at| line_number("a\n\nb", at));
        assert_eq!(numbers, [1, 1, 2, 3, 3]);
    }

    proptest! {
        #[test]
        fn nothing_hostile_stays_and_nothing_is_too_long(raw in any::<String>(), max in 3usize..30) {
            let line = one_line(&raw, max);
            prop_assert!(line.chars().all(|c| !is_hostile(c)) && line.chars().count() <= max);
        }
    }
}
