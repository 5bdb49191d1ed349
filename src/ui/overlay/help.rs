//! The help: all keys and commands under their headings, and what is looked for in it.

use super::entries::{rows, Entry};
use super::{commands, framed, middle, nothing_found, room, WIDEST};
use crate::ui::keys::sections;
use crate::ui::sanitize;
use crate::ui::state::State;
use crate::ui::terms;
use crate::ui::theme::Face;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

/// The help as it lies over the panes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Help {
    /// Scrolled by this many rows.
    pub at: usize,
    /// What is looked for: entries without it are left out. `None`: `/` has not been pressed, and letters scroll.
    pub query: Option<String>,
}

/// Headings, each with its keys or commands.
fn parts() -> Vec<(&'static str, Vec<Entry>)> {
    let entries = |keys: Vec<(&'static str, &'static str)>| keys.into_iter().map(|(key, help)| Entry::new(key, help)).collect();
    let keys = sections().into_iter().map(|(title, keys)| (title, entries(keys)));
    let words = terms::SECTIONS.map(|(title, terms)| (title, entries(terms.to_vec())));
    keys.chain([("Commands", commands())]).chain(words).collect()
}

/// What is left of all keys and commands, with the headings of those; and how many there are, of how many. Words may be in the heading, too.
fn found(help: &Help) -> (Vec<Entry>, usize, usize) {
    let query = help.query.as_deref().unwrap_or_default();
    let (mut lines, mut left, mut all) = (Vec::new(), 0, 0);
    for (title, entries) in parts() {
        all += entries.len();
        let entries: Vec<Entry> = entries.into_iter().filter(|e| e.has_under(title, query)).collect();
        if entries.is_empty() {
            continue;
        }
        left += entries.len();
        if !lines.is_empty() {
            lines.push(Entry::new("", ""));
        }
        lines.push(Entry { face: Face::Title, ..Entry::new(title, "") });
        lines.extend(entries);
    }
    (lines, left, all)
}

fn frame(state: &State) -> Rect {
    let room = room(state);
    middle(room, WIDEST, room.height)
}

fn lines(entries: &[Entry], state: &State, width: u16) -> Vec<Line<'static>> {
    rows(&entries.iter().collect::<Vec<_>>(), usize::from(width), &state.theme).concat()
}

/// How many rows the help can be scrolled down, and how many it shows at once.
#[must_use]
pub fn help_reach(state: &State, help: &Help) -> (usize, usize) {
    let frame = frame(state);
    let height = usize::from(frame.height.saturating_sub(2));
    (lines(&found(help).0, state, frame.width.saturating_sub(2)).len().saturating_sub(height), height)
}

pub(super) fn draw(buf: &mut Buffer, state: &State, help: &Help) {
    let frame = frame(state);
    let (entries, left, all) = found(help);
    let lines = lines(&entries, state, frame.width.saturating_sub(2));
    let height = usize::from(frame.height.saturating_sub(2));
    let first = help.at.min(lines.len().saturating_sub(height));
    let title = match help.query.as_deref() {
        None => {
            let last = (first + height).min(lines.len());
            format!("help, rows {} to {last} of {}: arrows scroll, / finds, Esc closes", first + 1, lines.len())
        }
        Some("") => "help: type to find, Esc shows all".to_owned(),
        Some(query) => format!("help with \"{}\", {left} of {all}: Esc shows all", sanitize::one_line(query, 40)),
    };
    let inner = framed(frame, buf, state, &title);
    if lines.is_empty() {
        return nothing_found(buf, inner, state);
    }
    for (y, line) in (inner.y..inner.bottom()).zip(&lines[first..]) {
        buf.set_line(inner.x, y, line, inner.width);
    }
}
