//! Blocks one under another: rows that begin with the prefixes of the blocks that they lie in, and the gaps between them.

mod events;
mod table;

use super::segments::{self, Segment};
use crate::ui::origin::{Piece, Row, Source};
use crate::ui::sanitize;
use crate::ui::theme::{Face, Theme};
use crate::ui::wrap::{columns, fit, wrap, Break};
use pulldown_cmark::{Options, Parser};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use std::ops::Range;
use table::Table;

/// Deeper nesting is drawn as if it were this deep, so that hostile input can't push text off the screen.
const MAX_DEPTH: usize = 8;

/// Lays out `source` in `width` columns. No row is wider; there is no empty row at the end. Rows say which bytes of the
/// source they show, counted from `base`.
#[must_use]
pub fn render(source: &str, base: usize, width: usize, theme: &Theme) -> Vec<Row> {
    let (clean, map) = sanitize::text_and_map(source);
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut layout = Layout::new(&clean, width.max(1), theme);
    for segment in segments::segments(&clean) {
        match segment {
            Segment::Markdown(text) => {
                for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
                    layout.at = layout.segment + range.start..layout.segment + range.end;
                    layout.event(event);
                }
                layout.segment += text.len();
            }
            Segment::Tool(name, text) => {
                layout.space();
                let style = theme.style(Face::Code);
                layout.code = Some((name.to_owned(), vec![Piece::from(text.trim_end(), style, layout.segment)]));
                layout.code_block();
                layout.gap = true;
                layout.segment += text.len();
            }
        }
        layout.flush();
    }
    let mut rows = layout.lines;
    while rows.last().is_some_and(|r| r.line.spans.iter().all(|s| s.content.trim().is_empty())) {
        rows.pop();
    }
    for row in &mut rows {
        if let Some(map) = &map {
            row.through(map);
        }
        row.origin.iter_mut().for_each(|run| run.source += base);
    }
    rows
}

/// One block that text lies in.
struct Container {
    /// What its first line starts with; taken when drawn.
    first: Option<String>,
    /// What its other lines start with.
    rest: String,
    face: Face,
}

struct Layout<'t> {
    theme: &'t Theme,
    /// The text that is laid out.
    source: &'t str,
    /// Where the segment at hand begins in it.
    segment: usize,
    /// Where the event at hand stands in it.
    at: Range<usize>,
    width: usize,
    lines: Vec<Row>,
    containers: Vec<Container>,
    /// Next number of each open list; `None` for bullets.
    lists: Vec<Option<u64>>,
    styles: Vec<Style>,
    pieces: Vec<Piece>,
    links: Vec<(String, String)>,
    code: Option<(String, Vec<Piece>)>,
    table: Option<Table>,
    /// A gap is wanted before the next block.
    gap: bool,
    /// Lines before and after the gaps of the headings and quotes that are being laid out.
    opened: Vec<(usize, usize)>,
}

impl<'t> Layout<'t> {
    fn new(source: &'t str, width: usize, theme: &'t Theme) -> Self {
        Self {
            theme,
            source,
            segment: 0,
            at: 0..0,
            width,
            lines: Vec::new(),
            containers: Vec::new(),
            lists: Vec::new(),
            styles: vec![theme.style(Face::Assistant)],
            pieces: Vec::new(),
            links: Vec::new(),
            code: None,
            table: None,
            opened: Vec::new(),
            gap: false,
        }
    }

    fn style(&self) -> Style {
        self.styles.last().copied().unwrap_or_default()
    }

    fn push_style(&mut self, patch: Style) {
        self.styles.push(self.style().patch(patch));
    }

    fn pop_style(&mut self) {
        if self.styles.len() > 1 {
            self.styles.pop();
        }
    }

    /// A sign of the program's own.
    fn sign(&mut self, text: &str, style: Style) {
        self.pieces.push(Piece::new(text, style));
    }

    /// Text of the source, from the event at hand.
    fn text(&mut self, text: &str, style: Style) {
        self.pieces.push(Piece { text: text.to_owned(), style, source: self.locate(text) });
    }

    /// Where `text` of the event at hand stands: its marks (backticks, backslashes) are part of the event.
    fn locate(&self, text: &str) -> Source {
        let all = Source::All { start: self.at.start, bytes: self.at.len() };
        let found = self.source.get(self.at.clone()).and_then(|event| event.find(text));
        found.filter(|_| !text.is_empty()).map_or(all, |within| Source::From(self.at.start + within))
    }

    fn enter(&mut self, first: Option<String>, rest: String, face: Face) {
        self.containers.push(Container { first, rest, face });
    }

    /// Containers that are drawn; the outer ones of a too deep nest are left out.
    fn shown(&self) -> usize {
        self.containers.len().saturating_sub(MAX_DEPTH)
    }

    /// Columns that the text of the innermost block has.
    fn inner_width(&self) -> usize {
        let prefix: usize = self.containers[self.shown()..].iter().map(|c| columns(&c.rest)).sum();
        self.width.saturating_sub(prefix).max(1)
    }

    /// A heading or quote begins.
    fn open(&mut self) {
        let before = self.lines.len();
        self.space();
        self.opened.push((before, self.lines.len()));
    }

    /// A heading or quote ends; one without content leaves no gap of its own.
    fn close(&mut self) {
        if let Some((before, after)) = self.opened.pop() {
            if self.lines.len() == after {
                self.lines.truncate(before);
            }
        }
    }

    /// An empty line between blocks.
    fn space(&mut self) {
        if std::mem::take(&mut self.gap) && !self.lines.is_empty() {
            let shown = self.shown();
            let mut spans = Vec::new();
            for container in &self.containers[shown..] {
                // A block that has not begun yet has no bar in the gap before it.
                if container.first.is_none() {
                    spans.push(self.theme.span(container.face, container.rest.clone()));
                }
            }
            self.lines.push(clip(Line::from(spans).into(), self.width));
        }
    }

    /// Lays out the collected text as a paragraph.
    fn flush(&mut self) {
        if self.pieces.is_empty() || self.table.is_some() {
            return;
        }
        let pieces = std::mem::take(&mut self.pieces);
        // A paragraph of nothing but blanks takes no row, wherever it stands, so that a growing answer doesn't jump.
        if self.containers.is_empty() && pieces.iter().all(|p| p.text.trim().is_empty()) {
            return;
        }
        let lines = wrap(&pieces, self.inner_width(), Break::Words);
        self.put(lines);
    }

    /// Appends lines with the prefixes of their containers.
    fn put(&mut self, rows: Vec<Row>) {
        let shown = self.shown();
        for row in rows {
            let mut spans: Vec<Span<'static>> = Vec::new();
            for container in &mut self.containers[shown..] {
                let prefix = container.first.take().unwrap_or_else(|| container.rest.clone());
                spans.push(self.theme.span(container.face, prefix));
            }
            let prefix: usize = spans.iter().map(Span::width).sum();
            let origin = row.shifted(prefix).collect();
            spans.extend(row.line.spans);
            self.lines.push(clip(Row { line: Line::from(spans), origin }, self.width));
        }
    }

    fn code_block(&mut self) {
        let Some((language, mut code)) = self.code.take() else { return };
        let bar = if self.theme.ascii { "| " } else { "│ " };
        if !language.is_empty() {
            let width = self.inner_width();
            let head = fit(&language, width).to_owned();
            self.put(vec![Line::from(self.theme.span(Face::Dim, head)).into()]);
        }
        self.enter(None, bar.to_owned(), Face::Dim);
        let width = self.inner_width();
        if let Some(last) = code.last_mut().filter(|last| last.text.ends_with('\n')) {
            last.text.pop();
        }
        let lines = wrap(&code, width, Break::Anywhere);
        self.put(lines);
        self.containers.pop();
    }
}

/// Cuts a row whose prefix alone is wider than the screen.
fn clip(mut row: Row, width: usize) -> Row {
    if row.line.width() <= width {
        return row;
    }
    let mut left = width;
    let mut spans = Vec::new();
    for span in row.line.spans {
        let kept = fit(&span.content, left).to_owned();
        left -= columns(&kept);
        spans.push(Span::styled(kept, span.style));
    }
    row.line = Line::from(spans);
    row.clip_origin(width);
    row
}
