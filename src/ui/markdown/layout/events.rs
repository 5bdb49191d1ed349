//! What the parser reports, block by block and span by span, as changes of the layout.

use super::table::Table;
use super::Layout;
use crate::ui::origin::{Piece, Row};
use crate::ui::sanitize;
use crate::ui::theme::Face;
use crate::ui::wrap::columns;
use pulldown_cmark::{CodeBlockKind, Event, Tag, TagEnd};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

impl Layout<'_> {
    pub(super) fn event(&mut self, event: Event<'_>) {
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
                    CodeBlockKind::Fenced(info) => sanitize::one_line(info.split_whitespace().next().unwrap_or(""), 24),
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
                self.links.push((sanitize::one_line(&dest_url, 200), text));
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
}
