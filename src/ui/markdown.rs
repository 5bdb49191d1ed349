//! Markdown to styled lines of a given width.
//!
//! CommonMark with tables, task lists and strikethrough is parsed by `pulldown-cmark`; this file only lays it
//! out. Every line starts with the prefix of the blocks that it lies in (quote bars, list indentation), so a
//! wrapped line hangs under its text. Code is cut at the width, never re-flowed. Links show their address
//! after the text, since a terminal shows no other way where they lead.
//!
//! Calls of tools are shown word for word, see `segments`.
//!
//! [`stable_end`] tells how much of a growing answer can be laid out once and for all.

mod segments;

use super::origin::{Piece, Row, Source};
use super::sanitize;
use super::theme::{Face, Theme};
use super::wrap::{columns, fit, wrap, Break};
use pulldown_cmark::{Alignment, CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use segments::{Scan, Segment};
use std::ops::Range;

/// Deeper nesting is drawn as if it were this deep, so that hostile input can't push text off the screen.
const MAX_DEPTH: usize = 8;
/// More columns of a table are left out and counted.
const MAX_TABLE_COLUMNS: usize = 32;

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

/// Bytes at the start of `source` whose layout can't change whatever is appended: up to the last empty line
/// that is outside of code fences and tool calls and followed by a line that begins in the first column and is no list item.
#[must_use]
pub fn stable_end(source: &str) -> usize {
    let mut end = 0;
    let mut at = 0;
    let mut scan = Scan::default();
    let mut after_blank = false;
    for line in source.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let body = line.trim();
        let flush_left = indent == 0 && !line.starts_with('\t') && !body.is_empty();
        if scan.is_open() && after_blank && flush_left && !is_list_item(body) {
            end = at;
        }
        scan.line(line);
        after_blank = body.is_empty();
        at += line.len();
    }
    end
}

/// A line that is, or may become as it grows, another item of the list before it.
fn is_list_item(line: &str) -> bool {
    line.starts_with(|c: char| matches!(c, '-' | '*' | '+') || c.is_ascii_digit())
}

/// The code blocks of an answer in order, as (language, code): what `/copy N` takes.
#[must_use]
pub fn code_blocks(source: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for event in Parser::new_ext(source, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => info.split_whitespace().next().unwrap_or("").to_owned(),
                    CodeBlockKind::Indented => String::new(),
                };
                open = Some((language, String::new()));
            }
            Event::Text(text) => {
                if let Some((_, code)) = &mut open {
                    code.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(open.take()),
            _ => {}
        }
    }
    blocks
}

/// One block that text lies in.
struct Container {
    /// What its first line starts with; taken when drawn.
    first: Option<String>,
    /// What its other lines start with.
    rest: String,
    face: Face,
}

#[derive(Default)]
struct Table {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<Vec<Piece>>>,
    in_head: bool,
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

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => {
                if self.code.is_some() {
                    let piece = Piece { style: self.theme.style(Face::Code), source: self.locate(&text), text: text.to_string() };
                    if let Some((_, code)) = &mut self.code {
                        code.push(piece);
                    }
                } else {
                    self.text(&text, self.style());
                }
            }
            Event::Code(code) => self.text(&code, self.style().patch(self.theme.style(Face::Code))),
            Event::Html(html) | Event::InlineHtml(html) => self.text(&html, self.theme.style(Face::Dim)),
            Event::InlineMath(math) | Event::DisplayMath(math) => {
                self.text(&math, self.style().patch(self.theme.style(Face::Code)));
            }
            Event::FootnoteReference(name) => self.text(&format!("[{name}]"), self.theme.style(Face::Dim)),
            Event::SoftBreak => self.text(" ", self.style()),
            Event::HardBreak => self.sign("\n", self.style()),
            Event::Rule => {
                self.flush();
                self.space();
                let bar = if self.theme.ascii { "-" } else { "─" };
                let width = self.inner_width();
                self.put(vec![Line::from(self.theme.span(Face::Dim, bar.repeat(width.min(40)))).into()]);
                self.gap = true;
            }
            Event::TaskListMarker(done) => {
                let mark = if done { "[x] " } else { "[ ] " };
                self.sign(mark, self.theme.style(Face::Accent));
            }
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph | Tag::HtmlBlock => {
                self.flush();
                self.space();
            }
            Tag::Heading { level, .. } => {
                self.flush();
                self.open();
                self.push_style(self.theme.style(Face::Title).add_modifier(Modifier::BOLD));
                if self.theme.is_mono() {
                    let marks = "#".repeat(level as usize);
                    self.sign(&format!("{marks} "), self.theme.style(Face::Dim));
                }
            }
            Tag::BlockQuote(_) => {
                self.flush();
                self.open();
                let bar = if self.theme.ascii { "| " } else { "▎ " };
                self.enter(None, bar.to_owned(), Face::Dim);
            }
            Tag::CodeBlock(kind) => {
                self.flush();
                self.space();
                let language = match kind {
                    CodeBlockKind::Fenced(info) => sanitize::line(info.split_whitespace().next().unwrap_or(""), 24),
                    CodeBlockKind::Indented => String::new(),
                };
                self.code = Some((language, Vec::new()));
            }
            Tag::List(start) => {
                self.flush();
                if self.lists.is_empty() {
                    self.space();
                }
                self.lists.push(start);
            }
            Tag::Item => {
                self.flush();
                self.gap = false;
                let mark = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        let mark = format!("{number}. ");
                        *number = number.saturating_add(1);
                        mark
                    }
                    _ if self.theme.ascii => "- ".to_owned(),
                    _ => "• ".to_owned(),
                };
                let rest = " ".repeat(columns(&mark));
                self.enter(Some(mark), rest, Face::Accent);
            }
            Tag::Table(alignments) => {
                self.flush();
                self.space();
                self.table = Some(Table { alignments, ..Table::default() });
            }
            Tag::TableHead => {
                if let Some(table) = &mut self.table {
                    table.in_head = true;
                    table.rows.push(Vec::new());
                }
            }
            Tag::TableRow => {
                if let Some(table) = &mut self.table {
                    table.rows.push(Vec::new());
                }
            }
            Tag::TableCell => self.pieces.clear(),
            Tag::Emphasis => self.push_style(Style::new().add_modifier(Modifier::ITALIC)),
            Tag::Strong => self.push_style(Style::new().add_modifier(Modifier::BOLD)),
            Tag::Strikethrough => self.push_style(Style::new().add_modifier(Modifier::CROSSED_OUT)),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                let text: String = self.pieces.iter().map(|p| p.text.as_str()).collect();
                self.links.push((sanitize::line(&dest_url, 200), text));
                self.push_style(Style::new().add_modifier(Modifier::UNDERLINED));
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => {
                self.flush();
                self.gap = true;
            }
            TagEnd::Heading(_) => {
                self.flush();
                self.close();
                self.pop_style();
                self.gap = true;
            }
            TagEnd::BlockQuote(_) => {
                self.flush();
                self.containers.pop();
                self.close();
                self.gap = true;
            }
            TagEnd::CodeBlock => {
                self.code_block();
                self.gap = true;
            }
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
                self.gap = self.lists.is_empty();
            }
            TagEnd::Item => {
                self.flush();
                // An item without text still shows its mark.
                if self.containers.last().is_some_and(|c| c.first.is_some()) {
                    self.put(vec![Row::default()]);
                }
                self.containers.pop();
                self.gap = false;
            }
            TagEnd::Table => {
                self.table();
                self.gap = true;
            }
            TagEnd::TableHead => {
                if let Some(table) = &mut self.table {
                    table.in_head = false;
                }
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.pieces);
                if let Some(row) = self.table.as_mut().and_then(|t| t.rows.last_mut()) {
                    row.push(cell);
                }
            }
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => self.pop_style(),
            TagEnd::Link | TagEnd::Image => {
                self.pop_style();
                if let Some((address, before)) = self.links.pop() {
                    let all: String = self.pieces.iter().map(|p| p.text.as_str()).collect();
                    let shown = all.strip_prefix(before.as_str()).unwrap_or(&all);
                    if !address.is_empty() && shown != address && format!("mailto:{shown}") != address {
                        self.sign(&format!(" ({address})"), self.theme.style(Face::Dim));
                    }
                }
            }
            _ => {}
        }
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

    fn table(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::palette::ColorDepth;
    use proptest::prelude::*;

    fn theme() -> Theme {
        Theme::built_in("dark", ColorDepth::Indexed256, false)
    }

    fn shown(source: &str, width: usize) -> Vec<String> {
        render(source, 0, width, &theme()).iter().map(|r| r.line.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn paragraphs_are_parted_by_one_empty_line() {
        assert_eq!(shown("one\ntwo\n\n\nthree", 40), ["one two", "", "three"]);
    }

    #[test]
    fn wrapped_list_items_hang_under_their_text() {
        assert_eq!(shown("- first item wraps\n- second\n  1. inner\n", 12), ["• first item", "  wraps", "• second", "  1. inner"]);
    }

    #[test]
    fn code_is_cut_and_never_flowed() {
        assert_eq!(shown("```rust\nfn main() {}\n\n  x\n```\nafter", 8), ["rust", "│ fn mai", "│ n() {}", "│", "│   x", "", "after"]);
    }

    #[test]
    fn tables_align_and_shrink_to_the_width() {
        let source = "| a | number |\n|---|---:|\n| wide cell here | 7 |\n";
        assert_eq!(shown(source, 40), ["a               number", "──────────────  ──────", "wide cell here       7"]);
        assert!(shown(source, 14).iter().all(|l| columns(l) <= 14));
    }

    #[test]
    fn a_link_shows_where_it_leads() {
        assert_eq!(shown("[here](https://x.org/)", 60), ["here (https://x.org/)"]);
        assert_eq!(shown("<https://x.org/>", 60), ["https://x.org/"]);
    }

    #[test]
    fn emphasis_becomes_modifiers() {
        let lines = render("a **b** *c*", 0, 40, &theme());
        let modifier = |i: usize| lines[0].line.spans[i].style.add_modifier;
        assert!(modifier(1).contains(Modifier::BOLD));
        assert!(modifier(3).contains(Modifier::ITALIC));
    }

    /// What is drawn for the bytes of `word` in `source`, and in which rows.
    fn drawn_of(source: &str, word: &str, width: usize) -> Vec<(usize, String)> {
        let (from, to) = (source.find(word).unwrap(), source.find(word).unwrap() + word.len());
        let mut out = Vec::new();
        for (y, row) in render(source, 0, width, &theme()).iter().enumerate() {
            let cells: Vec<char> = row.line.to_string().chars().collect();
            let text: String = row.origin.iter().flat_map(|run| run.columns_of(from, to)).map(|x| cells[x]).collect();
            if !text.is_empty() {
                out.push((y, text));
            }
        }
        out
    }

    #[test]
    fn every_word_is_found_again_however_it_is_laid_out() {
        let source = "# Head\n\nSome **bold** text with `code` &amp; an \\* and\nmore, [link](https://x.org/).\n\n- item one\n  1. inner\n\n> quoted\n\n\
                      ```rust\nfn main() {\n\tx();\n}\n```\n\n| a | num |\n|---|---:|\n| cell | 7 |\n\n<tool_call>\n{\"k\": 1}\n</tool_call>\n\nend";
        for width in [20, 40, 100] {
            for word in
                ["Head", "Some", "bold", "code", "more", "link", "one", "inner", "quoted", "main", "x()", "num", "cell", "\"k\"", "end"]
            {
                let drawn = drawn_of(source, word, width);
                assert_eq!(drawn.iter().map(|d| d.1.as_str()).collect::<String>(), word, "{word} in {width} columns: {drawn:?}");
            }
        }
        assert_eq!(drawn_of(source, "&amp;", 100)[0].1, "&");
        assert_eq!(drawn_of(source, "\\*", 100)[0].1, "*");
        assert!(drawn_of(source, "**", 100).is_empty(), "marks are not drawn");
    }

    #[test]
    fn the_stable_part_ends_before_the_open_block() {
        assert_eq!(stable_end("one\n\ntwo"), 5);
        assert_eq!(stable_end("one\n\n"), 0);
        assert_eq!(stable_end("- a\n\n  b"), 0);
        let open = "x\n\n```\ncode\n\nmore";
        assert_eq!(stable_end(open), 3);
        assert_eq!(stable_end("```\na\n\nb\n```\n\nend"), 14);
    }

    #[test]
    fn code_blocks_are_found_in_order() {
        let blocks = code_blocks("a\n```py\nx = 1\n```\nb\n\n    indented\n");
        assert_eq!(blocks, [("py".into(), "x = 1\n".into()), (String::new(), "indented\n".into())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_line_is_wider_than_asked(source in "[-a-z0-9 #>*_`|~\\[\\]()!\n你👍🏽\u{1b}]{0,160}", width in 1usize..50) {
            for row in render(&source, 0, width, &theme()) {
                prop_assert!(row.line.width() <= width, "{:?} at {}", row, width);
                prop_assert!(row.origin.iter().all(|r| r.column + r.columns <= width && r.source + r.bytes <= source.len()), "{row:?}");
            }
        }

        #[test]
        fn laying_out_the_stable_part_alone_changes_nothing(
            blocks in proptest::collection::vec("[a-z]{1,12}( [a-z]{1,9}){0,5}|# [a-z]{3}|> [a-z ]{3,30}|```\n[a-z]{0,5}\n\n[a-z]{1,5}\n```|1\\. [a-z]{2}", 1..8),
        ) {
            let source = blocks.join("\n\n");
            let cut = stable_end(&source);
            let mut joined = render(&source[..cut], 0, 20, &theme());
            let open = render(&source[cut..], cut, 20, &theme());
            if !joined.is_empty() && !open.is_empty() {
                joined.push(Row::default());
            }
            joined.extend(open);
            let plain = |rows: Vec<Row>| rows.iter().map(|r| (r.line.to_string().trim_end().to_owned(), r.origin.clone())).collect::<Vec<_>>();
            prop_assert_eq!(plain(joined), plain(render(&source, 0, 20, &theme())));
        }
    }
}
