//! The memory pane: what is where, how fast it goes, and what another slot count would do.
//!
//! The pane is a list of sections, each a few lines with a rank. As many as fit are shown, in a fixed order;
//! the curve takes what height remains. Wide panes have two columns. Counted numbers stand plain; estimates
//! carry a mark for "about" and the word.

mod figures;
mod forecasts;
mod judgement;
mod plot;
mod sections;

pub(in crate::ui) use figures::{bare_bytes, whole_percent};
pub(in crate::ui) use forecasts::preview;

use super::memory_state::{MemoryState, Page};
use super::panes::PaneContext;
use super::theme::{Face, Theme};
use crossterm::event::{KeyCode, KeyEvent};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use sections::Section;

/// Width from which there are two columns.
const TWO_COLUMNS: u16 = 88;
/// Least and most lines of the curve with its axis and head.
const CURVE: (u16, u16) = (5, 12);

/// Keys of this pane and what they do, for help and documentation; the slot keys work everywhere.
pub const KEYS: [(&str, &str); 1] = [("v", "first what happens, or why: regret, misses, estimates")];

/// Handles a key while the pane has focus; `false` if it means nothing here.
pub fn on_key(state: &mut MemoryState, key: KeyEvent) -> bool {
    let turns = key.code == KeyCode::Char('v') && key.modifiers.is_empty();
    if turns {
        state.turn_page();
    }
    turns
}

/// Words for the pane's frame; `inside` is the rectangle that [`draw`] gets.
#[must_use]
pub fn title(_inside: Rect, state: &MemoryState, context: &PaneContext<'_>, _theme: &Theme) -> String {
    let name = match context.card {
        Some(card) if card.toy => "memory, toy model",
        _ => "memory",
    };
    let page = if state.page() == Page::Why { ", why" } else { "" };
    // Who has the keyboard here may not know the key.
    let key = if context.focused { " (v)" } else { "" };
    format!("{name}{page}{key}")
}

/// Draws the inside of the pane.
pub fn draw(area: Rect, buf: &mut Buffer, state: &MemoryState, context: &PaneContext<'_>, theme: &Theme) {
    let area = area.intersection(*buf.area());
    if area.is_empty() {
        return;
    }
    buf.set_style(area, theme.base());
    if context.card.is_none() && state.session_tokens() == 0 {
        buf.set_stringn(area.x, area.y, "no model is open", usize::from(area.width), theme.style(Face::Dim));
        return;
    }
    let curve = state.curve();
    let plot = (!curve.is_empty()).then_some(Plot { curve: &curve, state, slots: sections::granted(state, context) });
    if area.width >= TWO_COLUMNS {
        let share = area.width * 56 / 100;
        let left = Rect { width: share - 1, ..area };
        let right = Rect { x: area.x + share + 1, width: area.width - share - 1, ..area };
        column(left, buf, sections::activity(state, context, theme, left.width), None, theme);
        column(right, buf, sections::places(state, context, theme, right.width), plot, theme);
    } else {
        let mut all = sections::activity(state, context, theme, area.width);
        all.extend(sections::places(state, context, theme, area.width));
        column(area, buf, all, plot, theme);
    }
}

/// What the large curve is drawn from.
struct Plot<'a> {
    curve: &'a [f64],
    state: &'a MemoryState,
    /// Slots per layer as they are now.
    slots: usize,
}

/// Lays sections into a column: the highest ranks that fit, in their order, then the curve.
fn column(area: Rect, buf: &mut Buffer, sections: Vec<Section>, plot: Option<Plot<'_>>, theme: &Theme) {
    let mut by_rank: Vec<usize> = (0..sections.len()).collect();
    by_rank.sort_by_key(|i| sections[*i].rank);
    let mut left = usize::from(area.height);
    let mut shown = vec![false; sections.len()];
    for i in by_rank {
        let lines = sections[i].lines.len();
        if lines > left {
            continue;
        }
        left -= lines;
        shown[i] = true;
    }
    // Where the large curve has room, the small one gives up its own.
    if let Some(i) = sections.iter().position(|s| s.stand_in).filter(|i| shown[*i] && plot.is_some()) {
        if left + sections[i].lines.len() >= usize::from(CURVE.0) {
            left += sections[i].lines.len();
            shown[i] = false;
        }
    }
    let curve_fits = plot.is_some() && left >= usize::from(CURVE.0);
    // Blank lines between groups, where there is more room than content.
    let groups = sections.iter().zip(&shown).filter(|(_, on)| **on).skip(1).filter(|(s, _)| s.opens_group).count();
    let spare = if curve_fits { left.saturating_sub(usize::from(CURVE.1)) } else { left };
    let gaps = spare >= groups;
    let mut y = area.y;
    let mut first = true;
    for (section, _) in sections.iter().zip(&shown).filter(|(_, on)| **on) {
        if section.opens_group && gaps && !first {
            y += 1;
        }
        first = false;
        for line in &section.lines {
            if y < area.bottom() {
                buf.set_line(area.x, y, line, area.width);
                y += 1;
            }
        }
    }
    let Some(Plot { curve, state, slots }) = plot.filter(|_| curve_fits) else { return };
    let rest = area.bottom().saturating_sub(y);
    let height = rest.min(CURVE.1);
    if height < CURVE.0 {
        return;
    }
    // With room to spare the head stands off by a line.
    let y = if rest > height { y + 1 } else { y };
    let (words, now) =
        if area.width >= 52 { ("hit rate by slots, predicted (LRU)  ", " measured now") } else { ("hits by slots, predicted  ", " now") };
    let head = Line::from(vec![theme.span(Face::Dim, words), theme.span(Face::Accent, theme.glyphs().point), theme.span(Face::Dim, now)]);
    buf.set_line(area.x, y, &head, area.width);
    let at = Rect { y: y + 1, height: (area.bottom() - y - 1).min(height - 1), ..area };
    // What was measured was measured at the count of the latest step.
    plot::draw(buf, at, curve, slots, state.hit_rate_now().filter(|_| slots == state.slots()), theme);
}

#[cfg(test)]
mod tests;
