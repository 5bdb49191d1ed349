//! The state as a screen. Reads the state, changes nothing.

use super::layout::Areas;
use super::panes;
use super::state::{Focus, State};
use super::theme::Face;
use super::{heatmap, memory, overlay, status};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::Line;
use ratatui::widgets::Widget;

/// Draws everything and says where the cursor belongs. The layout must be up to date
/// ([`Message::Draw`](super::message::Message::Draw)).
pub fn draw(area: Rect, buf: &mut Buffer, state: &State) -> Option<Position> {
    buf.set_style(area, state.theme.base());
    let areas = state.areas();
    if !areas.message.is_empty() {
        too_small(areas.message.intersection(area), buf, state);
        return None;
    }
    if area.width < state.size.0 || area.height < state.size.1 {
        // The terminal was resized and the message of that has not come yet.
        return None;
    }
    let cursor = if areas.alone { None } else { panes::chat::draw(&areas.chat, buf, state) };
    draw_panes(&areas, buf, state);
    status::draw(areas.status, buf, state);
    overlay::draw_popup(&areas, buf, state);
    overlay::draw(buf, state);
    cursor
}

fn draw_panes(areas: &Areas, buf: &mut Buffer, state: &State) {
    let inner = |area: Rect| Rect::new(area.x + 1, area.y + 1, area.width.saturating_sub(2), area.height.saturating_sub(2));
    if !areas.heatmap.is_empty() {
        let context = state.context(Focus::Heatmap);
        let inside = inner(areas.heatmap);
        let (experts, theme) = (state.heatmap(), &state.theme);
        if let Some(difference) = state.shown_difference() {
            theme.block(heatmap::difference_title(experts, difference, theme), context.focused).render(areas.heatmap, buf);
            heatmap::draw_difference(inside, buf, experts, difference, &context, theme);
        } else {
            theme.block(heatmap::title(inside, experts, &context, theme), context.focused).render(areas.heatmap, buf);
            heatmap::draw(inside, buf, experts, &context, theme);
        }
    }
    if !areas.memory.is_empty() {
        let context = state.context(Focus::Memory);
        let inside = inner(areas.memory);
        let title = memory::title(inside, &state.memory, &context, &state.theme);
        state.theme.block(title, context.focused).render(areas.memory, buf);
        memory::draw(inside, buf, &state.memory, &context, &state.theme);
    }
}

fn too_small(area: Rect, buf: &mut Buffer, state: &State) {
    let words = if area.width < 13 { ["small", "20x5"] } else { ["too small", "20x5 at least"] };
    for (y, text) in (area.y..area.bottom()).zip(words) {
        buf.set_line(area.x, y, &Line::from(state.theme.span(Face::Text, text)), area.width);
    }
}

#[cfg(test)]
pub(in crate::ui) mod tests;
