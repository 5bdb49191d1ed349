//! What lies over the panes: help, and lists to pick from. The status line below them stays in view.

mod entries;
mod help;
mod popup;

pub use help::{help_reach, Help};
pub use popup::draw_popup;

use super::keys::{to_pick, Action, SlashCommand, COMMANDS};
use super::sanitize;
use super::session::Listed;
use super::state::{Overlay, Pick, State};
use super::theme::Face;
use entries::{rows, Entry};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::{Clear, Widget};

/// Columns that no list needs more than.
const WIDEST: u16 = 100;

fn command_line(name: &str, arguments: &str) -> String {
    format!("/{name} {arguments}").trim_end().to_owned()
}

fn commands() -> Vec<Entry> {
    COMMANDS.iter().map(|c| Entry::new(command_line(c.name, c.arguments), c.help)).collect()
}

/// What the list of everything holds.
#[derive(Clone, Copy, Debug)]
pub enum Doable {
    /// A slash command.
    Command(&'static SlashCommand),
    /// What a key does.
    Key(Action),
}

/// All that can be picked: commands, then keys.
fn doables() -> Vec<(Entry, Doable)> {
    let commands = COMMANDS.iter().map(|c| (Entry::new(command_line(c.name, c.arguments), c.help), Doable::Command(c)));
    commands.chain(to_pick().map(|b| (Entry::new(b.shown, b.help), Doable::Key(b.action)))).collect()
}

/// What is picked by its number in the list of all that can be done.
#[must_use]
pub fn doable(at: usize) -> Option<Doable> {
    doables().get(at).map(|d| d.1)
}

fn palette() -> Vec<Entry> {
    doables().into_iter().map(|d| d.0).collect()
}

fn chats(listed: &[Listed]) -> Vec<Entry> {
    let entry = |c: &Listed| match &c.problem {
        None => {
            let count = format!("{} message{}", c.messages, if c.messages == 1 { "" } else { "s" });
            Entry::new(super::calendar::civil(&c.updated), format!("{count}  {}", sanitize::one_line(&c.title, 200)))
        }
        Some(reason) => {
            let words = format!("{}: {}", c.id, sanitize::one_line(reason, 200));
            Entry { face: Face::Error, ..Entry::new("can't be read", words) }
        }
    };
    listed.iter().map(entry).collect()
}

/// Numbers of the entries that are left of a list.
fn left(entries: &[Entry], pick: &Pick) -> Vec<usize> {
    (0..entries.len()).filter(|&i| entries[i].has(&pick.query)).collect()
}

/// How many entries the list has that lies over the panes, as far as they are not left out; 0 if there is no list.
#[must_use]
pub fn count(overlay: &Overlay) -> usize {
    match overlay {
        Overlay::Help(_) => 0,
        Overlay::Palette(pick) => left(&palette(), pick).len(),
        Overlay::Chats(listed, pick) => left(&chats(listed), pick).len(),
    }
}

/// The number of the selected entry in the whole list: for [`doable`], or of the chats.
#[must_use]
pub fn selected(overlay: &Overlay) -> Option<usize> {
    match overlay {
        Overlay::Help(_) => None,
        Overlay::Palette(pick) => left(&palette(), pick).get(pick.at).copied(),
        Overlay::Chats(listed, pick) => left(&chats(listed), pick).get(pick.at).copied(),
    }
}

/// The screen without its status line.
fn room(state: &State) -> Rect {
    let status = state.areas().status.height;
    Rect::new(0, 0, state.size.0, state.size.1.saturating_sub(status))
}

/// A rectangle in the middle, at most this large.
fn middle(area: Rect, columns: u16, rows: u16) -> Rect {
    let (width, height) = (columns.min(area.width), rows.min(area.height));
    Rect::new(area.x + (area.width - width) / 2, area.y + (area.height - height) / 2, width, height)
}

/// Rows that a list shows at once, at most.
#[must_use]
pub fn page(state: &State) -> usize {
    usize::from(room(state).height.saturating_sub(2))
}

/// Draws what lies over the panes, if anything.
pub fn draw(buf: &mut Buffer, state: &State) {
    match &state.overlay {
        Some(Overlay::Help(help)) => help::draw(buf, state, help),
        Some(Overlay::Palette(pick)) => list(buf, state, ["all that can be done", "Enter does it"], &palette(), pick),
        Some(Overlay::Chats(listed, pick)) => list(buf, state, ["saved chats", "Enter takes one up"], &chats(listed), pick),
        None => {}
    }
}

fn framed(area: Rect, buf: &mut Buffer, state: &State, title: &str) -> Rect {
    let area = area.intersection(*buf.area());
    Clear.render(area, buf);
    let block = state.theme.block(title.to_owned(), true);
    let inner = block.inner(area);
    block.render(area, buf);
    inner
}

fn nothing_found(buf: &mut Buffer, inner: Rect, state: &State) {
    let face = state.theme.style(Face::Dim);
    buf.set_stringn(inner.x + 2.min(inner.width), inner.y, "nothing found", usize::from(inner.width.saturating_sub(2)), face);
}

fn list(buf: &mut Buffer, state: &State, [what, enter]: [&str; 2], all: &[Entry], pick: &Pick) {
    let left = left(all, pick);
    let room = room(state);
    let width = WIDEST.min(room.width).saturating_sub(4);
    let entries: Vec<&Entry> = left.iter().map(|&i| &all[i]).collect();
    let rows = rows(&entries, usize::from(width), &state.theme);
    // Of all entries, so that the frame stays where it is while they become fewer.
    let most = entries::rows(&all.iter().collect::<Vec<_>>(), usize::from(width), &state.theme).concat().len();
    let title = if pick.query.is_empty() {
        format!("{what}: type to find, {enter}, Esc closes")
    } else {
        format!("{what} with \"{}\", {} of {}: {enter}, Esc closes", sanitize::one_line(&pick.query, 40), left.len(), all.len())
    };
    let frame = middle(room, WIDEST, u16::try_from(most).unwrap_or(u16::MAX).saturating_add(2).max(3));
    let inner = framed(frame, buf, state, &title);
    if inner.is_empty() {
        return;
    }
    if rows.is_empty() {
        return nothing_found(buf, inner, state);
    }
    let height = usize::from(inner.height);
    let (before, own): (usize, usize) =
        (rows[..pick.at.min(rows.len() - 1)].iter().map(Vec::len).sum(), rows[pick.at.min(rows.len() - 1)].len());
    let total: usize = rows.iter().map(Vec::len).sum();
    // The selected entry stands in the middle, with all of its rows.
    let first = (before + own / 2).saturating_sub(height / 2).min(total.saturating_sub(height));
    let numbered = rows.iter().enumerate().flat_map(|(n, rows)| rows.iter().enumerate().map(move |(i, row)| (n, i, row)));
    for (y, (number, index, line)) in (inner.y..inner.bottom()).zip(numbered.skip(first)) {
        let row = Rect { y, height: 1, ..inner };
        let here = number == pick.at;
        let mark = if here && index == 0 { state.theme.glyphs().pointer } else { " " };
        buf.set_stringn(row.x, y, mark, usize::from(row.width), state.theme.style(Face::Accent));
        buf.set_line(row.x + 2.min(row.width), y, line, row.width.saturating_sub(2));
        if here {
            buf.set_style(row, state.theme.style(Face::Selection));
        }
    }
}
