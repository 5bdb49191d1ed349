//! Breaking styled text into lines of a given width in terminal columns.
//!
//! The unit is the grapheme: a family emoji, a letter with accents or a flag is never torn. Widths come from
//! `unicode-width`, the crate that ratatui measures with, so that what fits here fits on the screen.
//! Wide characters (CJK) may be parted from each other; runs of narrow ones break at spaces, and inside a word
//! only if the word is longer than a line.

use super::origin::{extend, Piece, Row, Run};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use std::borrow::Cow;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// How lines may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// At spaces and between wide characters; the spaces at a break vanish.
    Words,
    /// Exactly at the width, nothing vanishes (code).
    Anywhere,
}

/// Columns that a grapheme takes.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.width()
}

struct Glyph<'a> {
    text: &'a str,
    columns: usize,
    style: Style,
    source: Option<(usize, usize)>,
}

/// Breaks `pieces` into lines of at most `width` columns. A line break in a piece ends the line. Graphemes
/// wider than the whole line are drawn as `?`. There is always at least one line. Rows say which bytes of the source
/// they show.
#[must_use]
pub fn wrap(pieces: &[Piece], width: usize, how: Break) -> Vec<Row> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line: Vec<Glyph> = Vec::new();
    let mut used = 0usize;
    // Index into `line` before which it may be broken.
    let mut opening: Option<usize> = None;
    // The line began by wrapping, so spaces at its start belong to the break.
    let mut wrapped = false;
    for Piece { text, style, source } in pieces {
        for (at, grapheme) in text.grapheme_indices(true) {
            if grapheme == "\n" || grapheme == "\r\n" {
                lines.push(finish(&line));
                (used, opening, wrapped) = (0, None, false);
                line.clear();
                continue;
            }
            let source = source.of(at, grapheme.len());
            let mut glyph = Glyph { text: grapheme, columns: columns(grapheme), style: *style, source };
            if glyph.columns > width {
                (glyph.text, glyph.columns) = ("?", 1);
            }
            let space = grapheme == " " && how == Break::Words;
            if space && wrapped && line.is_empty() {
                continue;
            }
            if how == Break::Words && glyph.columns >= 2 && !line.is_empty() {
                opening = Some(line.len());
            }
            if used + glyph.columns > width {
                let at = if space { line.len() } else { opening.filter(|&at| at > 0).unwrap_or(line.len()) };
                let rest = line.split_off(at);
                while how == Break::Words && line.last().is_some_and(|g| g.text == " ") {
                    line.pop();
                }
                lines.push(finish(&line));
                line = rest;
                used = line.iter().map(|g| g.columns).sum();
                opening = None;
                wrapped = true;
                if space {
                    continue;
                }
            }
            used += glyph.columns;
            let wide = glyph.columns >= 2;
            line.push(glyph);
            if space || (wide && how == Break::Words) {
                opening = Some(line.len());
            }
        }
    }
    lines.push(finish(&line));
    lines
}

/// Joins neighbours of equal style into spans.
fn finish(glyphs: &[Glyph]) -> Row {
    let mut spans: Vec<Span<'static>> = Vec::new();
    let mut origin: Vec<Run> = Vec::new();
    let mut column = 0;
    for glyph in glyphs {
        if let Some(source) = glyph.source {
            extend(&mut origin, column, glyph.columns, source);
        }
        column += glyph.columns;
        match spans.last_mut() {
            Some(last) if last.style == glyph.style => last.content.to_mut().push_str(glyph.text),
            _ => spans.push(Span::styled(glyph.text.to_owned(), glyph.style)),
        }
    }
    Row { line: Line::from(spans), origin }
}

/// The longest start of `text` that fits into `width` columns.
#[must_use]
pub fn fit(text: &str, width: usize) -> &str {
    let mut used = 0;
    for (at, grapheme) in text.grapheme_indices(true) {
        used += columns(grapheme);
        if used > width {
            return &text[..at];
        }
    }
    text
}

/// `text` in at most `width` columns; what is cut off is marked with `ellipsis`.
#[must_use]
pub fn shortened<'a>(text: &'a str, width: usize, ellipsis: &str) -> Cow<'a, str> {
    if columns(text) <= width {
        return Cow::Borrowed(text);
    }
    let kept = fit(text, width.saturating_sub(columns(ellipsis)));
    Cow::Owned(fit(&format!("{}{ellipsis}", kept.trim_end()), width).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ratatui::style::Modifier;

    fn wrapped(text: &str, width: usize, how: Break) -> Vec<String> {
        wrap(&[Piece::new(text, Style::new())], width, how).iter().map(|row| row.line.to_string()).collect()
    }

    #[test]
    fn what_is_cut_off_is_marked() {
        assert_eq!(shortened("as it is", 8, "…"), "as it is");
        assert_eq!(shortened("cut at a space", 7, "…"), "cut at…");
        assert_eq!(shortened("你好世界", 4, "…"), "你…");
        assert_eq!(shortened("none", 0, "…"), "");
    }

    #[test]
    fn words_move_whole_and_spaces_at_the_break_vanish() {
        assert_eq!(wrapped("the quick brown fox", 9, Break::Words), ["the quick", "brown fox"]);
        assert_eq!(wrapped("ab  cd", 3, Break::Words), ["ab", "cd"]);
    }

    #[test]
    fn a_word_longer_than_the_line_is_cut() {
        assert_eq!(wrapped("abcdefgh ij", 3, Break::Words), ["abc", "def", "gh", "ij"]);
    }

    #[test]
    fn wide_characters_part_from_each_other_but_never_overflow() {
        assert_eq!(wrapped("你好世界", 5, Break::Words), ["你好", "世界"]);
        assert_eq!(wrapped("a你好", 2, Break::Words), ["a", "你", "好"]);
        assert_eq!(wrapped("你", 1, Break::Words), ["?"]);
    }

    #[test]
    fn graphemes_are_not_torn() {
        let family = "👨‍👩‍👧";
        assert_eq!(wrapped(&format!("a{family}b"), 2, Break::Words), ["a", family, "b"]);
        assert_eq!(wrapped("e\u{301}e\u{301}", 1, Break::Anywhere), ["e\u{301}", "e\u{301}"]);
    }

    #[test]
    fn code_keeps_every_space_and_indentation() {
        assert_eq!(wrapped("  if x {\n    y", 6, Break::Anywhere), ["  if x", " {", "    y"]);
        assert_eq!(wrapped("    indented", 20, Break::Words), ["    indented"]);
    }

    #[test]
    fn styles_survive_a_break_in_the_middle() {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let lines = wrap(&[Piece::new("one ", Style::new()), Piece::new("two three", bold)], 7, Break::Words);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].line.spans[1].content, "two");
        assert_eq!(lines[1].line.spans[0].style, bold);
    }

    proptest! {
        #[test]
        fn every_column_knows_its_byte(text in "[a-z 你界é👍🏽\n]{0,60}", width in 2usize..30, anywhere in any::<bool>()) {
            let how = if anywhere { Break::Anywhere } else { Break::Words };
            for row in wrap(&[Piece::from(text.clone(), Style::new(), 100)], width, how) {
                let line = row.line.to_string();
                let mut column = 0;
                for grapheme in line.graphemes(true) {
                    let run = row.origin.iter().find(|r| (r.column..r.column + r.columns).contains(&column)).unwrap();
                    let at = run.source - 100 + if run.columns == run.bytes { column - run.column } else { 0 };
                    let too_wide = grapheme == "?";
                    prop_assert!(too_wide || text[at..].starts_with(grapheme), "{grapheme:?} at {at} of {text:?}");
                    column += columns(grapheme);
                }
            }
        }

        #[test]
        fn nothing_overflows_and_nothing_but_spaces_is_lost(text in "[a-z 你界é👍🏽\n]{0,80}", width in 2usize..30) {
            let lines = wrapped(&text, width, Break::Words);
            for line in &lines {
                prop_assert!(columns(line) <= width, "{line:?} is wider than {width}");
            }
            let squeeze = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let drawn: String = text.graphemes(true).map(|g| if columns(g) > width { "?" } else { g }).collect();
            prop_assert_eq!(squeeze(&lines.concat()), squeeze(&drawn));
        }

        #[test]
        fn breaking_anywhere_loses_nothing(text in "\\PC{0,60}", width in 2usize..20) {
            let lines = wrapped(&text, width, Break::Anywhere);
            let drawn: String = text.graphemes(true).map(|g| if columns(g) > width { "?" } else { g }).collect();
            prop_assert_eq!(lines.concat(), drawn);
        }
    }
}
