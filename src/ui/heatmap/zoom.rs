//! One layer, every expert with its own glyph and, where there is room, its number.

use super::grid::{face_of, glyph_of, paint_cell, Make};
use super::side::short_bytes;
use crate::ui::experts_state::{ExpertsState, Mark};
use crate::ui::theme::{Face, Theme};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use ratatui::text::{Line, Span};

/// Sizes of the zoomed layer in a rectangle: columns of experts, width of a cell, experts per cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strip {
    columns: usize,
    width: usize,
    pub(super) pool: usize,
}

impl Strip {
    /// The widest cells that show all experts; pooled if even single characters don't.
    pub(super) fn fit(area: Rect, experts: usize) -> Option<Self> {
        let (w, h) = (usize::from(area.width), usize::from(area.height));
        if w == 0 || h == 0 || experts == 0 {
            return None;
        }
        for width in [6, 5, 3, 2, 1] {
            // Columns in a round number, so that an expert's place can be read off.
            let columns = [64, 32, 16, 8].into_iter().find(|c| c * width <= w).unwrap_or((w / width).max(1));
            if width <= w && experts.div_ceil(columns) <= h {
                return Some(Self { columns, width, pool: 1 });
            }
        }
        Some(Self { columns: w, width: 1, pool: experts.div_ceil(w * h) })
    }
}

/// Draws the layer under the cursor.
pub(super) fn draw(buf: &mut Buffer, area: Rect, state: &ExpertsState, theme: &Theme, show_cursor: bool) {
    let Some(strip) = Strip::fit(area, state.experts()) else { return };
    let (layer, expert) = state.cursor();
    let cursor = state.place_of(layer, expert);
    let make = if theme.ascii || theme.is_mono() { Make::Glyph } else { Make::Block };
    for index in 0..state.experts().div_ceil(strip.pool) {
        let places = index * strip.pool..((index + 1) * strip.pool).min(state.experts());
        let x = area.x + (index % strip.columns * strip.width) as u16;
        let y = area.y.saturating_add((index / strip.columns) as u16);
        if y >= area.bottom() {
            break;
        }
        let on = show_cursor && places.contains(&cursor);
        let cell = state.cell(layer..layer + 1, places.clone());
        if strip.width < 5 {
            // Two columns of colour and a gap, where there is room for a gap.
            let width = if strip.width == 3 { 2 } else { strip.width as u16 };
            paint_cell(buf, Rect::new(x, y, width, 1).intersection(area), make, cell, state, theme, on);
            continue;
        }
        let number = format!("{:>3}", state.expert_at(layer, places.start));
        let style = match (on, cell.mark) {
            (true, _) => theme.style(Face::Cursor),
            (_, Mark::Quiet) if cell.resident => theme.style(Face::Dim),
            (_, Mark::Quiet) => theme.style(Face::Track).fg(theme.color(Face::Absent)),
            (_, mark) => theme.style(face_of(mark)),
        };
        buf.set_stringn(x, y, number, 3, style);
        let at = Rect::new(x + 3, y, strip.width as u16 - 4, 1).intersection(area);
        if make == Make::Glyph {
            let style = super::grid::glyph_style(cell, state, theme);
            buf.set_stringn(at.x, at.y, glyph_of(cell, state, theme), usize::from(at.width), style);
        } else {
            paint_cell(buf, at, make, cell, state, theme, false);
        }
    }
}

/// One or two lines: the layer's character, and why its experts missed.
pub(super) fn draw_head(buf: &mut Buffer, at: Rect, state: &ExpertsState, theme: &Theme) {
    if at.height > 0 {
        buf.set_line(at.x, at.y, &head(state, theme, at.width), at.width);
    }
    // Accounts are of the whole session; of a past step they are not kept.
    if at.height > 1 && state.pause().is_none() {
        buf.set_line(at.x, at.y + 1, &account(state, theme, at.width), at.width);
    }
}

/// Why the layer's experts missed, its regretted swaps and the bytes that it moved, as much as fits.
fn account(state: &ExpertsState, theme: &Theme, width: u16) -> Line<'static> {
    let account = state.account(state.cursor().0);
    let label = |text: &'static str| theme.span(Face::Dim, text);
    let value = |share: f64| theme.span(Face::Text, format!("{:>3.0}%", share * 100.0));
    let mut line = Line::from(label("misses "));
    let Some([first, capacity, refused]) = account.classes() else {
        line.push_span(label("none so far"));
        return line;
    };
    let swaps = account.regret().map_or_else(|| theme.span(Face::Text, "  -"), value);
    for part in [
        vec![value(first), label(" first use ")],
        vec![value(capacity), label(" capacity ")],
        vec![value(refused), label(" refused")],
        vec![label("  "), swaps, label(" of swaps regretted")],
        vec![theme.span(Face::Text, format!("  {:>6}", short_bytes(account.moved))), label(" moved per token")],
    ] {
        if line.width() + part.iter().map(Span::width).sum::<usize>() > usize::from(width) {
            break;
        }
        line.extend(part);
    }
    line
}

/// The layer's character in words, as much as fits.
fn head(state: &ExpertsState, theme: &Theme, width: u16) -> Line<'static> {
    if state.pause().is_some() {
        return super::words::gates(state, theme, width);
    }
    let (layer, _) = state.cursor();
    let profile = state.profile(layer);
    let tally = state.tally(layer);
    let rate = profile.hit_rate.map_or_else(|| " - ".to_owned(), |r| format!("{:>3.0}%", r * 100.0));
    let label = |text: &'static str| theme.span(Face::Dim, text);
    let value = |text: String| theme.span(Face::Text, text);
    let mut line = Line::from(theme.span(Face::Accent, format!("layer {layer}")));
    for part in [
        vec![value(format!("  {}", profile.resident)), label(" resident")],
        vec![value(format!("  {:>2}", tally.hits)), label(" hit"), value(format!(" {:>2}", tally.misses)), label(" miss")],
        vec![label("  lately "), value(rate), label(" hits")],
        vec![label("  effective "), value(format!("{:>3.0}", profile.effective)), label(" experts")],
        vec![value(format!("  {:>4.1}", profile.entropy)), label(" bits")],
        vec![value(format!("  {:>4.2}", profile.churn)), label(" admitted per token")],
    ] {
        if line.width() + part.iter().map(Span::width).sum::<usize>() > usize::from(width) {
            break;
        }
        line.extend(part);
    }
    line
}
