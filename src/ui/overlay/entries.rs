//! Names with words about them, in two columns: what does not fit goes on in the next row, so that all of it can be read.

use crate::ui::origin::Piece;
use crate::ui::theme::{Face, Theme};
use crate::ui::wrap::{columns, wrap, Break};
use ratatui::text::{Line, Span};

/// One line of help, or one of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it is called.
    pub(super) name: String,
    /// About it.
    pub(super) words: String,
    /// How the name is drawn.
    pub(super) face: Face,
}

impl Entry {
    pub(super) fn new(name: impl Into<String>, words: impl Into<String>) -> Self {
        Self { name: name.into(), words: words.into(), face: Face::Key }
    }

    /// It has every word of the query, in its name or in what is said about it.
    pub(super) fn has(&self, query: &str) -> bool {
        self.has_under("", query)
    }

    /// The same, but words may also be in the heading that it stands under.
    pub(super) fn has_under(&self, heading: &str, query: &str) -> bool {
        let text = format!("{heading} {} {}", self.name, self.words).to_lowercase();
        query.to_lowercase().split_whitespace().all(|word| text.contains(word))
    }
}

/// The rows of each entry at a width. Words begin in one column, wherever names leave it free.
pub(super) fn rows(entries: &[&Entry], width: usize, theme: &Theme) -> Vec<Vec<Line<'static>>> {
    let width = width.max(1);
    let widest = entries.iter().filter(|e| !e.words.is_empty()).map(|e| columns(&e.name)).max().unwrap_or(0);
    let column = (widest + 2).min(width / 2);
    entries.iter().map(|entry| rows_of(entry, width, column, theme)).collect()
}

fn rows_of(entry: &Entry, width: usize, column: usize, theme: &Theme) -> Vec<Line<'static>> {
    let lines = |text: &str, face: Face, width: usize| -> Vec<Line<'static>> {
        wrap(&[Piece::new(text.to_owned(), theme.style(face))], width, Break::Words).into_iter().map(|row| row.line).collect()
    };
    let mut all = lines(&entry.name, entry.face, width);
    if entry.words.is_empty() {
        return all;
    }
    let face = if entry.face == Face::Error { Face::Error } else { Face::Text };
    let mut words = lines(&entry.words, face, width.saturating_sub(column).max(1)).into_iter();
    // The first row of the words stands beside the name, if that leaves it room.
    if all.len() == 1 && all[0].width() < column {
        if let Some(first) = words.next() {
            let gap = column - all[0].width();
            all[0].push_span(Span::raw(" ".repeat(gap)));
            all[0].spans.extend(first.spans);
        }
    }
    all.extend(words.map(|line| {
        let mut row = Line::from(Span::raw(" ".repeat(column)));
        row.spans.extend(line.spans);
        row
    }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::palette::ColorDepth;
    use proptest::prelude::*;

    fn shown(entries: &[Entry], width: usize) -> Vec<String> {
        let theme = Theme::built_in("dark", ColorDepth::Mono, true);
        rows(&entries.iter().collect::<Vec<_>>(), width, &theme).concat().iter().map(|l| l.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn words_begin_in_one_column_and_go_on_in_the_next_row() {
        let entries = [Entry::new("/tint off | misses", "tint the tokens by what they cost"), Entry::new("/new", "start anew")];
        assert_eq!(
            shown(&entries, 40),
            ["/tint off | misses  tint the tokens by", "                    what they cost", "/new                start anew"]
        );
        // Where a name leaves no room, the words come below it.
        assert_eq!(
            shown(&entries, 20),
            [
                "/tint off | misses",
                "          tint the",
                "          tokens by",
                "          what they",
                "          cost",
                "/new      start anew"
            ]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_left_out_at_any_width(names in proptest::collection::vec("[a-z]{1,12}( [a-z]{1,12}){0,3}", 1..6), width in 14usize..90) {
            let entries: Vec<Entry> = names.iter().map(|n| Entry::new(n.clone(), n.clone())).collect();
            let rows = shown(&entries, width);
            prop_assert!(rows.iter().all(|r| columns(r) <= width), "{rows:?}");
            let letters = |s: &str| s.chars().filter(|c| c.is_ascii_lowercase()).count();
            let all: usize = names.iter().map(|n| 2 * letters(n)).sum();
            prop_assert_eq!(rows.iter().map(|r| letters(r)).sum::<usize>(), all);
        }
    }
}
