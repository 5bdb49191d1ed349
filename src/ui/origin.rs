//! Where what is drawn stands in its source.
//!
//! Laying out Markdown reshapes text: marks vanish, words move to the next row, entities become characters. Every row
//! therefore carries, for its columns, the bytes of the source that they come from. The source is the truth; who said which
//! bytes of it (see [`super::token_spans`]) is looked up when a row is painted, so tints and cursors need no new layout.

use ratatui::style::Style;
use ratatui::text::Line;

/// Where the text of a piece stands in its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: the program's own signs.
    #[default]
    Nowhere,
    /// Byte for byte from here on.
    From(usize),
    /// The whole piece stands for these bytes (an entity, a line break that became a space).
    All {
        /// The first of them.
        start: usize,
        /// How many.
        bytes: usize,
    },
}

impl Source {
    /// Where the `bytes` bytes at `at` of the piece come from: start and length.
    #[must_use]
    pub fn of(self, at: usize, bytes: usize) -> Option<(usize, usize)> {
        match self {
            Self::Nowhere => None,
            Self::From(start) => Some((start + at, bytes)),
            Self::All { start, bytes } => Some((start, bytes)),
        }
    }
}

/// A run of text in one style.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// What is drawn.
    pub text: String,
    /// How.
    pub style: Style,
    /// Where it comes from.
    pub source: Source,
}

impl Piece {
    /// A piece of the program's own.
    #[must_use]
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style, source: Source::Nowhere }
    }

    /// A piece that stands byte for byte at `start` of the source.
    #[must_use]
    pub fn from(text: impl Into<String>, style: Style, start: usize) -> Self {
        Self { text: text.into(), style, source: Source::From(start) }
    }
}

/// Neighbouring columns of a row and the bytes that they show. Where both counts are equal each column is one byte;
/// otherwise the columns show the bytes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First column.
    pub column: usize,
    /// Columns.
    pub columns: usize,
    /// First byte of the source.
    pub source: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Run {
    /// The columns that show bytes of `from..to`; empty if none does.
    #[must_use]
    pub fn columns_of(&self, from: usize, to: usize) -> std::ops::Range<usize> {
        if self.columns != self.bytes {
            // A grapheme belongs to whoever said its first byte.
            let inside = (from..to).contains(&self.source);
            return self.column..self.column + if inside { self.columns } else { 0 };
        }
        let from = from.clamp(self.source, self.source + self.bytes) - self.source;
        let to = to.clamp(self.source, self.source + self.bytes) - self.source;
        self.column + from..self.column + to.max(from)
    }
}

/// Appends one grapheme; runs of single-byte characters are joined.
pub fn extend(runs: &mut Vec<Run>, column: usize, columns: usize, (source, bytes): (usize, usize)) {
    if columns == 0 {
        return;
    }
    if let Some(last) = runs.last_mut() {
        let both_plain = (columns, bytes) == (1, 1) && last.columns == last.bytes;
        if both_plain && last.column + last.columns == column && last.source + last.bytes == source {
            last.columns += 1;
            last.bytes += 1;
            return;
        }
    }
    runs.push(Run { column, columns, source, bytes });
}

/// A line with the sources of its columns, left to right.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// What is drawn.
    pub line: Line<'static>,
    /// Where it comes from.
    pub origin: Vec<Run>,
}

impl From<Line<'static>> for Row {
    fn from(line: Line<'static>) -> Self {
        Self { line, origin: Vec::new() }
    }
}

impl Row {
    /// The row's sources, moved right by `columns`.
    pub fn shifted(&self, columns: usize) -> impl Iterator<Item = Run> + '_ {
        self.origin.iter().map(move |run| Run { column: run.column + columns, ..*run })
    }

    /// Leaves out what lies beyond `width` columns.
    pub fn clip_origin(&mut self, width: usize) {
        self.origin.retain_mut(|run| {
            let free = width.saturating_sub(run.column);
            if run.columns > free {
                if run.columns == run.bytes {
                    run.bytes = free;
                }
                run.columns = free;
            }
            run.columns > 0
        });
    }

    /// Sources in a cleaned text become sources in the raw one. `map` has for every byte of the clean text, and for its end,
    /// the byte of the raw text.
    pub fn through(&mut self, map: &[usize]) {
        let raw = |clean: usize| map.get(clean).or(map.last()).copied().unwrap_or(0);
        let mut runs = Vec::with_capacity(self.origin.len());
        for run in &self.origin {
            if run.columns == run.bytes {
                for i in 0..run.bytes {
                    let (start, end) = (raw(run.source + i), raw(run.source + i + 1));
                    extend(&mut runs, run.column + i, 1, (start, end.saturating_sub(start).max(1)));
                }
            } else {
                let (start, end) = (raw(run.source), raw(run.source + run.bytes));
                runs.push(Run { source: start, bytes: end.saturating_sub(start).max(1), ..*run });
            }
        }
        self.origin = runs;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_runs_join_and_give_back_any_part() {
        let mut runs = Vec::new();
        for i in 0..5 {
            extend(&mut runs, 2 + i, 1, (10 + i, 1));
        }
        assert_eq!(runs, [Run { column: 2, columns: 5, source: 10, bytes: 5 }]);
        assert_eq!(runs[0].columns_of(11, 13), 3..5);
        assert_eq!(runs[0].columns_of(0, 99), 2..7);
        assert!(runs[0].columns_of(15, 20).is_empty() && runs[0].columns_of(0, 10).is_empty());
    }

    #[test]
    fn a_wide_grapheme_is_whole_or_not_there() {
        let run = Run { column: 4, columns: 2, source: 7, bytes: 3 };
        assert_eq!(run.columns_of(7, 8), 4..6);
        assert!(run.columns_of(8, 10).is_empty());
    }

    #[test]
    fn a_tab_that_became_spaces_is_one_byte() {
        let mut row = Row { line: Line::default(), origin: vec![Run { column: 0, columns: 6, source: 0, bytes: 6 }] };
        row.through(&[0, 1, 1, 1, 1, 2, 3]);
        assert_eq!(row.origin[0], Run { column: 0, columns: 2, source: 0, bytes: 2 });
        assert!(row.origin[1..].iter().take(3).all(|r| (r.source, r.bytes) == (1, 1) || r.source == 1));
        assert_eq!(row.origin.last().map(|r| r.source + r.bytes), Some(3));
    }
}
