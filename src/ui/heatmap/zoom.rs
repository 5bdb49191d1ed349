//! One layer, every expert with its own glyph and, where there is room, its number.

use super::grid::{face_of, glyph_of, paint_cell, Make};
use super::side::short_bytes;
use crate::ui::experts_state::{ExpertsState, Mark};
use crate::ui::theme::{Face, Theme};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use std::ops::Range;

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

/// How cells are made where a layer is spelled out.
pub(super) fn make(theme: &Theme) -> Make {
    if theme.ascii || theme.is_mono() {
        Make::Glyph
    } else {
        Make::Block
    }
}

/// Where an expert of the layer is drawn.
pub(super) struct Spot {
    /// Its place; several where they are pooled.
    pub(super) places: Range<usize>,
    /// Where its number stands, if there is room for one: three columns.
    pub(super) number: Option<(u16, u16)>,
    /// Its cell.
    pub(super) at: Rect,
    /// Under the cursor.
    pub(super) on: bool,
}

/// Every expert of the layer under the cursor, in the order of the grid.
pub(super) fn spots(area: Rect, state: &ExpertsState, show_cursor: bool) -> impl Iterator<Item = Spot> {
    let experts = state.experts();
    let (layer, expert) = state.cursor();
    let cursor = state.place_of(layer, expert);
    Strip::fit(area, experts).into_iter().flat_map(move |strip| {
        (0..experts.div_ceil(strip.pool)).map_while(move |index| {
            let places = index * strip.pool..((index + 1) * strip.pool).min(experts);
            let x = area.x + (index % strip.columns * strip.width) as u16;
            let y = area.y.saturating_add((index / strip.columns) as u16);
            let on = show_cursor && places.contains(&cursor);
            let (number, at) = match strip.width {
                // Two columns of colour and a gap, where there is room for a gap.
                3 => (None, Rect::new(x, y, 2, 1)),
                narrow @ 0..5 => (None, Rect::new(x, y, narrow as u16, 1)),
                wide => (Some((x, y)), Rect::new(x + 3, y, wide as u16 - 4, 1)),
            };
            (y < area.bottom()).then_some(Spot { places, number, at: at.intersection(area), on })
        })
    })
}

/// Draws the layer under the cursor.
pub(super) fn draw(buf: &mut Buffer, area: Rect, state: &ExpertsState, theme: &Theme, show_cursor: bool) {
    let (layer, _) = state.cursor();
    let make = make(theme);
    for Spot { places, number, at, on } in spots(area, state, show_cursor) {
        let cell = state.cell(layer..layer + 1, places.clone());
        let Some((x, y)) = number else {
            paint_cell(buf, at, make, cell, state, theme, on);
            continue;
        };
        let style = match (on, cell.mark) {
            (true, _) => theme.style(Face::Cursor),
            (_, Mark::Quiet) if cell.resident => theme.style(Face::Dim),
            (_, Mark::Quiet) => theme.style(Face::Track).fg(theme.color(Face::Absent)),
            (_, mark) => theme.style(face_of(mark)),
        };
        buf.set_stringn(x, y, format!("{:>3}", state.expert_at(layer, places.start)), 3, style);
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
    let mut line = Line::from(theme.span(Face::Accent, format!("layer {}", state.block(layer))));
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
