//! The text in rows as they are shown, and the cursor moving up and down over them.

use super::Composer;
use crate::ui::wrap::{columns, fit};
use unicode_segmentation::UnicodeSegmentation;

/// How the text lies on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Byte ranges of the text, one per row.
    pub rows: Vec<std::ops::Range<usize>>,
    /// Row and column of the cursor.
    pub cursor: (usize, usize),
}

impl Composer {
    /// One row up, or one entry back in the history from the first row.
    pub fn up(&mut self, width: usize) {
        let rows = self.rows(width);
        if rows.cursor.0 == 0 {
            self.older();
        } else {
            self.go_to_row(&rows, rows.cursor.0 - 1);
        }
    }

    /// One row down, or one entry forward in the history from the last row.
    pub fn down(&mut self, width: usize) {
        let rows = self.rows(width);
        if rows.cursor.0 + 1 >= rows.rows.len() {
            self.newer();
        } else {
            self.go_to_row(&rows, rows.cursor.0 + 1);
        }
    }

    fn go_to_row(&mut self, rows: &Rows, row: usize) {
        let goal = self.goal.unwrap_or(rows.cursor.1);
        let range = rows.rows[row].clone();
        let text = &self.text[range.clone()];
        let mut at = range.start + fit(text, goal).len();
        // The end of a wrapped row is the start of the next one: stay before its last grapheme.
        if at == range.end && rows.rows.get(row + 1).is_some_and(|next| next.start == at) && at > range.start {
            at = range.start + text.grapheme_indices(true).next_back().map_or(0, |(i, _)| i);
        }
        self.cursor = at;
        self.goal = Some(goal);
    }

    /// Lays the text out in rows of `width` columns. Rows break after spaces where they can; spaces may hang
    /// over the edge.
    #[must_use]
    pub fn rows(&self, width: usize) -> Rows {
        let width = width.max(1);
        let mut rows = Vec::new();
        let mut line_start = 0;
        for line in self.text.split('\n') {
            let mut start = line_start;
            let mut used = 0;
            let mut space: Option<(usize, usize)> = None;
            for (offset, grapheme) in line.grapheme_indices(true) {
                let at = line_start + offset;
                let wide = columns(grapheme);
                if grapheme != " " && used + wide > width && at > start {
                    let (next, rest) = space.take().map_or((at, 0), |(next, before)| (next, used - before));
                    rows.push(start..next);
                    start = next;
                    used = rest;
                }
                used += wide;
                if grapheme == " " {
                    space = Some((at + 1, used));
                }
            }
            rows.push(start..line_start + line.len());
            line_start += line.len() + 1;
        }
        let row = rows.iter().rposition(|r| r.start <= self.cursor).unwrap_or(0);
        let column = columns(&self.text[rows[row].start..self.cursor]).min(width - 1);
        Rows { rows, cursor: (row, column) }
    }
}
