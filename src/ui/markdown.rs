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

use super::sanitize;
use super::theme::{Face, Theme};
use super::wrap::{columns, fit, wrap, Break, Piece};
use pulldown_cmark::{Alignment, CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use segments::{Scan, Segment};

/// Deeper nesting is drawn as if it were this deep, so that hostile input can't push text off the screen.
const MAX_DEPTH: usize = 8;
/// More columns of a table are left out and counted.
const MAX_TABLE_COLUMNS: usize = 32;

/// Lays out `source` in `width` columns. No line is wider; there is no empty line at the end.
#[must_use]
pub fn render(source: &str, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let clean = sanitize::text(source);
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut layout = Layout::new(width.max(1), theme);
    for segment in segments::segments(&clean) {
        match segment {
            Segment::Markdown(text) => Parser::new_ext(text, options).for_each(|event| layout.event(event)),
            Segment::Tool(name, text) => {
                layout.space();
                layout.code = Some((name.to_owned(), text.trim_end().to_owned()));
                layout.code_block();
                layout.gap = true;
            }
        }
        layout.flush();
    }
    while layout.lines.last().is_some_and(|l| l.spans.iter().all(|s| s.content.trim().is_empty())) {
        layout.lines.pop();
    }
    layout.lines
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
    width: usize,
    lines: Vec<Line<'static>>,
    containers: Vec<Container>,
    /// Next number of each open list; `None` for bullets.
    lists: Vec<Option<u64>>,
    styles: Vec<Style>,
    pieces: Vec<Piece>,
    links: Vec<(String, String)>,
    code: Option<(String, String)>,
    table: Option<Table>,
    /// A gap is wanted before the next block.
    gap: bool,
    /// Lines before and after the gaps of the headings and quotes that are being laid out.
    opened: Vec<(usize, usize)>,
}

impl<'t> Layout<'t> {
    fn new(width: usize, theme: &'t Theme) -> Self {
        Self {
            theme,
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

    fn text(&mut self, text: &str, style: Style) {
        self.pieces.push((text.to_owned(), style));
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => {
                if let Some((_, code)) = &mut self.code {
                    code.push_str(&text);
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
            Event::HardBreak => self.text("\n", self.style()),
            Event::Rule => {
                self.flush();
                self.space();
                let bar = if self.theme.ascii { "-" } else { "─" };
                let width = self.inner_width();
                self.put(vec![Line::from(self.theme.span(Face::Dim, bar.repeat(width.min(40))))]);
                self.gap = true;
            }
            Event::TaskListMarker(done) => {
                let mark = if done { "[x] " } else { "[ ] " };
                self.text(mark, self.theme.style(Face::Accent));
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
                    self.text(&format!("{marks} "), self.theme.style(Face::Dim));
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
                self.code = Some((language, String::new()));
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
                let text: String = self.pieces.iter().map(|(t, _)| t.as_str()).collect();
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
                    self.put(vec![Line::default()]);
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
                    let all: String = self.pieces.iter().map(|(t, _)| t.as_str()).collect();
                    let shown = all.strip_prefix(before.as_str()).unwrap_or(&all);
                    if !address.is_empty() && shown != address && format!("mailto:{shown}") != address {
                        self.text(&format!(" ({address})"), self.theme.style(Face::Dim));
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
            self.lines.push(clip(Line::from(spans), self.width));
        }
    }

    /// Lays out the collected text as a paragraph.
    fn flush(&mut self) {
        if self.pieces.is_empty() || self.table.is_some() {
            return;
        }
        let pieces = std::mem::take(&mut self.pieces);
        let lines = wrap(&pieces, self.inner_width(), Break::Words);
        self.put(lines);
    }

    /// Appends lines with the prefixes of their containers.
    fn put(&mut self, lines: Vec<Line<'static>>) {
        let shown = self.shown();
        for line in lines {
            let mut spans: Vec<Span<'static>> = Vec::new();
            for container in &mut self.containers[shown..] {
                let prefix = container.first.take().unwrap_or_else(|| container.rest.clone());
                spans.push(self.theme.span(container.face, prefix));
            }
            spans.extend(line.spans);
            self.lines.push(clip(Line::from(spans), self.width));
        }
    }

    fn code_block(&mut self) {
        let Some((language, code)) = self.code.take() else { return };
        let style = self.theme.style(Face::Code);
        let bar = if self.theme.ascii { "| " } else { "│ " };
        if !language.is_empty() {
            let width = self.inner_width();
            let head = fit(&language, width).to_owned();
            self.put(vec![Line::from(self.theme.span(Face::Dim, head))]);
        }
        self.enter(None, bar.to_owned(), Face::Dim);
        let width = self.inner_width();
        let body = code.strip_suffix('\n').unwrap_or(&code).to_owned();
        let lines = wrap(&[(body, style)], width, Break::Anywhere);
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
            |column: usize| table.rows.iter().map(|r| r[column].iter().map(|(t, _)| columns(t)).sum::<usize>()).max().unwrap_or(0).max(1);
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
            let cells: Vec<Vec<Line<'static>>> =
                row.iter().zip(&widths).map(|(cell, &w)| wrap(&header(cell, index == 0), w, Break::Words)).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(1);
            for y in 0..height {
                let mut spans: Vec<Span<'static>> = Vec::new();
                for (column, cell) in cells.iter().enumerate() {
                    let line = cell.get(y).cloned().unwrap_or_default();
                    let free = widths[column].saturating_sub(line.width());
                    let left = match table.alignments.get(column) {
                        Some(Alignment::Right) => free,
                        Some(Alignment::Center) => free / 2,
                        _ => 0,
                    };
                    spans.push(Span::raw(" ".repeat(left)));
                    spans.extend(line.spans);
                    if column + 1 < shown {
                        spans.push(Span::raw(" ".repeat(free - left + gap)));
                    }
                }
                self.put(vec![Line::from(spans)]);
            }
            if index == 0 {
                let rule: Vec<String> = widths.iter().map(|&w| bar.repeat(w)).collect();
                let rule = rule.join(&" ".repeat(gap));
                self.put(vec![Line::from(self.theme.span(Face::Dim, rule))]);
            }
        }
        if count > shown {
            let note = format!("({} more columns)", count - shown);
            self.put(vec![Line::from(self.theme.span(Face::Dim, note))]);
        }
    }
}

fn header(cell: &[Piece], head: bool) -> Vec<Piece> {
    let bold = |s: &Style| if head { s.add_modifier(Modifier::BOLD) } else { *s };
    cell.iter().map(|(text, style)| (text.clone(), bold(style))).collect()
}

/// Cuts a line whose prefix alone is wider than the screen.
fn clip(line: Line<'static>, width: usize) -> Line<'static> {
    if line.width() <= width {
        return line;
    }
    let mut left = width;
    let mut spans = Vec::new();
    for span in line.spans {
        let kept = fit(&span.content, left).to_owned();
        left -= columns(&kept);
        spans.push(Span::styled(kept, span.style));
    }
    Line::from(spans)
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
        render(source, width, &theme()).iter().map(|l| l.to_string().trim_end().to_owned()).collect()
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
        let lines = render("a **b** *c*", 40, &theme());
        let modifier = |i: usize| lines[0].spans[i].style.add_modifier;
        assert!(modifier(1).contains(Modifier::BOLD));
        assert!(modifier(3).contains(Modifier::ITALIC));
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
            for line in render(&source, width, &theme()) {
                prop_assert!(line.width() <= width, "{:?} at {}", line, width);
            }
        }

        #[test]
        fn laying_out_the_stable_part_alone_changes_nothing(
            blocks in proptest::collection::vec("[a-z]{1,12}( [a-z]{1,9}){0,5}|# [a-z]{3}|> [a-z ]{3,30}|```\n[a-z]{0,5}\n\n[a-z]{1,5}\n```|1\\. [a-z]{2}", 1..8),
        ) {
            let source = blocks.join("\n\n");
            let cut = stable_end(&source);
            let mut joined = render(&source[..cut], 20, &theme());
            let open = render(&source[cut..], 20, &theme());
            if !joined.is_empty() && !open.is_empty() {
                joined.push(Line::default());
            }
            joined.extend(open);
            let plain = |lines: Vec<Line>| lines.iter().map(|l| l.to_string().trim_end().to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(plain(joined), plain(render(&source, 20, &theme())));
        }
    }
}
