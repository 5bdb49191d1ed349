//! Tables: columns that shrink to the width, or one cell after the other where that is too narrow.

use super::Layout;
use crate::ui::origin::{Piece, Row};
use crate::ui::theme::Face;
use crate::ui::wrap::{columns, wrap, Break};
use pulldown_cmark::Alignment;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

/// More columns of a table are left out and counted.
const MAX_TABLE_COLUMNS: usize = 32;

#[derive(Default)]
pub(super) struct Table {
    pub(super) alignments: Vec<Alignment>,
    pub(super) rows: Vec<Vec<Vec<Piece>>>,
    pub(super) in_head: bool,
}

impl Layout<'_> {
    /// Lays out the collected table.
    pub(super) fn table(&mut self) {
        let Some(mut table) = self.table.take() else { return };
        let count = table.rows.iter().map(Vec::len).max().unwrap_or(0);
        let shown = count.min(MAX_TABLE_COLUMNS);
        if shown == 0 {
            return;
        }
        for row in &mut table.rows {
            row.resize(shown, Vec::new());
        }
        let gap = 2;
        let width = self.inner_width();
        let natural =
            |column: usize| table.rows.iter().map(|r| r[column].iter().map(|p| columns(&p.text)).sum::<usize>()).max().unwrap_or(0).max(1);
        let mut widths: Vec<usize> = (0..shown).map(natural).collect();
        let room = width.saturating_sub(gap * (shown - 1));
        if room < shown * 3 {
            // Too narrow for columns: one cell after the other.
            let rows = std::mem::take(&mut table.rows);
            for row in rows {
                for cell in row.into_iter().filter(|c| !c.is_empty()) {
                    let lines = wrap(&cell, width, Break::Words);
                    self.put(lines);
                }
            }
            return;
        }
        while widths.iter().sum::<usize>() > room {
            // The widest column gives way first.
            let Some(widest) = (0..shown).max_by_key(|&c| widths[c]) else { break };
            widths[widest] -= 1;
        }
        let bar = if self.theme.ascii { "-" } else { "─" };
        for (index, row) in table.rows.iter().enumerate() {
            let cells: Vec<Vec<Row>> = row.iter().zip(&widths).map(|(cell, &w)| wrap(&header(cell, index == 0), w, Break::Words)).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(1);
            for y in 0..height {
                let mut spans: Vec<Span<'static>> = Vec::new();
                let (mut origin, mut left_edge) = (Vec::new(), 0);
                for (column, cell) in cells.iter().enumerate() {
                    let row = cell.get(y).cloned().unwrap_or_default();
                    let free = widths[column].saturating_sub(row.line.width());
                    let left = match table.alignments.get(column) {
                        Some(Alignment::Right) => free,
                        Some(Alignment::Center) => free / 2,
                        _ => 0,
                    };
                    spans.push(Span::raw(" ".repeat(left)));
                    origin.extend(row.shifted(left_edge + left));
                    left_edge += widths[column] + gap;
                    spans.extend(row.line.spans);
                    if column + 1 < shown {
                        spans.push(Span::raw(" ".repeat(free - left + gap)));
                    }
                }
                self.put(vec![Row { line: Line::from(spans), origin }]);
            }
            if index == 0 {
                let rule: Vec<String> = widths.iter().map(|&w| bar.repeat(w)).collect();
                let rule = rule.join(&" ".repeat(gap));
                self.put(vec![Line::from(self.theme.span(Face::Dim, rule)).into()]);
            }
        }
        if count > shown {
            let note = format!("({} more columns)", count - shown);
            self.put(vec![Line::from(self.theme.span(Face::Dim, note)).into()]);
        }
    }
}

fn header(cell: &[Piece], head: bool) -> Vec<Piece> {
    let bold = |s: Style| if head { s.add_modifier(Modifier::BOLD) } else { s };
    cell.iter().map(|piece| Piece { style: bold(piece.style), ..piece.clone() }).collect()
}
