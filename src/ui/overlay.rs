//! What lies over the panes: help, lists, and the completion of commands.

use super::keys::{sections, COMMANDS};
use super::layout::Areas;
use super::sanitize;
use super::state::{Overlay, State};
use super::theme::Face;
use super::wrap::{columns, fit};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Clear, Widget};

/// Columns of the keys in the help.
const KEY_COLUMN: usize = 24;

enum HelpLine {
    Heading(&'static str),
    Entry(String, &'static str),
    Empty,
}

fn help() -> Vec<HelpLine> {
    let mut lines = Vec::new();
    for (heading, keys) in sections() {
        lines.push(HelpLine::Heading(heading));
        lines.extend(keys.into_iter().map(|(key, help)| HelpLine::Entry(key.to_owned(), help)));
        lines.push(HelpLine::Empty);
    }
    lines.push(HelpLine::Heading("Commands"));
    for c in COMMANDS {
        lines.push(HelpLine::Entry(format!("/{} {}", c.name, c.arguments).trim_end().to_owned(), c.help));
    }
    lines
}

/// Lines of the help.
#[must_use]
pub fn help_lines() -> usize {
    help().len()
}

/// A rectangle in the middle, at most this large.
fn middle(area: Rect, columns: u16, rows: u16) -> Rect {
    let (width, height) = (columns.min(area.width), rows.min(area.height));
    Rect::new(area.x + (area.width - width) / 2, area.y + (area.height - height) / 2, width, height)
}

/// Draws what lies over the panes, if anything.
pub fn draw(area: Rect, buf: &mut Buffer, state: &State) {
    match &state.overlay {
        Some(Overlay::Help(at)) => draw_help(area, buf, state, *at),
        Some(Overlay::Palette(at)) => {
            let rows = COMMANDS.iter().map(|c| (format!("/{} {}", c.name, c.arguments).trim_end().to_owned(), c.help.to_owned(), false));
            list(area, buf, state, "commands: Enter runs, Esc closes", rows.collect(), *at);
        }
        Some(Overlay::Chats(chats, at)) => {
            let rows = chats.iter().map(|c| match &c.problem {
                None => {
                    let detail =
                        format!("{} message{}  {}", c.messages, if c.messages == 1 { "" } else { "s" }, sanitize::one_line(&c.title, 200));
                    (super::calendar::civil(&c.updated), detail, false)
                }
                Some(reason) => ("can't be read".to_owned(), format!("{}: {}", c.id, sanitize::one_line(reason, 200)), true),
            });
            list(area, buf, state, "saved chats: Enter takes one up, Esc closes", rows.collect(), *at);
        }
        None => {}
    }
}

fn framed(area: Rect, buf: &mut Buffer, state: &State, title: &str) -> Rect {
    Clear.render(area, buf);
    let block = state.theme.block(title.to_owned(), true);
    let inner = block.inner(area);
    block.render(area, buf);
    inner
}

fn draw_help(area: Rect, buf: &mut Buffer, state: &State, at: usize) {
    let lines = help();
    let frame = middle(area, 100, area.height.saturating_sub(2).max(3));
    let inner = framed(frame, buf, state, "help: arrows scroll, Esc closes");
    let theme = &state.theme;
    let first = at.min(lines.len().saturating_sub(usize::from(inner.height)));
    for (y, line) in (inner.y..inner.bottom()).zip(&lines[first..]) {
        match line {
            HelpLine::Heading(text) => {
                buf.set_stringn(inner.x, y, text, usize::from(inner.width), theme.style(Face::Title));
            }
            HelpLine::Entry(key, help) => entry(Rect { y, height: 1, ..inner }, buf, state, key, help, false),
            HelpLine::Empty => {}
        }
    }
}

fn entry(row: Rect, buf: &mut Buffer, state: &State, key: &str, help: &str, error: bool) {
    let theme = &state.theme;
    let width = usize::from(row.width);
    let column = KEY_COLUMN.min(width / 2);
    let face = if error { Face::Error } else { Face::Key };
    // A long name takes the room it needs and the words begin after it.
    let taken = columns(key).min(width);
    buf.set_stringn(row.x, row.y, key, width, theme.style(face));
    let start = if taken < column { column } else { taken + 1 };
    if start < width {
        let style = theme.style(if error { Face::Error } else { Face::Text });
        buf.set_stringn(row.x + start as u16, row.y, help, width - start, style);
    }
}

fn list(area: Rect, buf: &mut Buffer, state: &State, title: &str, rows: Vec<(String, String, bool)>, at: usize) {
    let frame = middle(area, 100, (rows.len() as u16).saturating_add(2).max(3));
    let inner = framed(frame, buf, state, title);
    if inner.is_empty() {
        return;
    }
    let height = usize::from(inner.height);
    let first = at.saturating_sub(height / 2).min(rows.len().saturating_sub(height));
    for (y, (index, (key, detail, error))) in (inner.y..inner.bottom()).zip(rows.iter().enumerate().skip(first)) {
        let row = Rect { y, height: 1, ..inner };
        let mark = if index == at { state.theme.glyphs().pointer } else { " " };
        buf.set_stringn(row.x, y, mark, usize::from(row.width), state.theme.style(Face::Accent));
        let text = Rect { x: row.x + 2.min(row.width), width: row.width.saturating_sub(2), ..row };
        entry(text, buf, state, key, detail, *error);
        if index == at {
            buf.set_style(row, state.theme.style(Face::Selection));
        }
    }
}

/// Draws the completions over the lower end of the chat.
pub fn draw_popup(areas: &Areas, buf: &mut Buffer, state: &State) {
    let Some(popup) = &state.popup else { return };
    let over = areas.chat.transcript;
    let height = (popup.entries.len() as u16).min(over.height).min(10);
    if height == 0 || state.overlay.is_some() {
        return;
    }
    let area = Rect { y: over.bottom() - height, height, ..over };
    Clear.render(area, buf);
    buf.set_style(area, state.theme.base());
    let shown = usize::from(height);
    let first = popup.selected.saturating_sub(shown / 2).min(popup.entries.len() - shown);
    let widest = popup.entries.iter().map(|(l, _)| columns(l)).max().unwrap_or(0) + 2;
    for (y, (index, (line, help))) in (area.y..area.bottom()).zip(popup.entries.iter().enumerate().skip(first)) {
        let row = Rect { y, height: 1, ..area };
        let selected = index == popup.selected;
        let mark = if selected { state.theme.glyphs().pointer } else { " " };
        let room = usize::from(row.width);
        let name = format!("{mark} {line}");
        buf.set_line(row.x, y, &Line::from(state.theme.span(Face::Key, fit(&name, room).to_owned())), row.width);
        if widest + 2 < room {
            let x = row.x + widest as u16 + 2;
            buf.set_stringn(x, y, help, room - widest - 2, state.theme.style(Face::Dim));
        }
        if selected {
            buf.set_style(row, state.theme.style(Face::Selection));
        }
    }
}
