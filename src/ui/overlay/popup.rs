//! The completions of a command that is being typed.

use crate::ui::layout::Areas;
use crate::ui::state::State;
use crate::ui::theme::Face;
use crate::ui::wrap::{columns, shortened};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Clear, Widget};

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
    let glyphs = state.theme.glyphs();
    for (y, (index, (line, help))) in (area.y..area.bottom()).zip(popup.entries.iter().enumerate().skip(first)) {
        let row = Rect { y, height: 1, ..area };
        let selected = index == popup.selected;
        let mark = if selected { glyphs.pointer } else { " " };
        let room = usize::from(row.width);
        let name = shortened(&format!("{mark} {line}"), room, glyphs.ellipsis).into_owned();
        buf.set_line(row.x, y, &Line::from(state.theme.span(Face::Key, name)), row.width);
        if widest + 2 < room {
            let x = row.x + widest as u16 + 2;
            let help = shortened(help, room - widest - 2, glyphs.ellipsis);
            buf.set_stringn(x, y, help, room - widest - 2, state.theme.style(Face::Dim));
        }
        if selected {
            buf.set_style(row, state.theme.style(Face::Selection));
        }
    }
}
