//! The expert heatmap: layers down, experts across, and what became of each in the latest step.
//!
//! Luminance says how much an expert was used lately, a solid cell that it holds a slot; what happened in this
//! step stands out by its own lightness and hue, and by its own glyph wherever a cell has a character to itself.
//! When cells must be pooled, events are kept (the rarest wins) and heat is averaged.

mod difference;
mod grid;
mod side;
mod words;
mod zoom;

use super::experts_state::{ExpertsState, HeatmapAction, Lost, Pause, Side};
use super::origin::Piece;
use super::panes::PaneContext;
use super::theme::{Face, Theme};
use super::wrap::{wrap, Break};
use crate::trace::difference::Difference;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use grid::{Grid, Make};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

/// What a key means here, if anything.
#[must_use]
pub fn action(key: KeyEvent) -> Option<HeatmapAction> {
    if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        return None;
    }
    let far = if key.modifiers.contains(KeyModifiers::SHIFT) { 8 } else { 1 };
    Some(match key.code {
        KeyCode::Up | KeyCode::Char('k') => HeatmapAction::Up(far),
        KeyCode::Down | KeyCode::Char('j') => HeatmapAction::Down(far),
        KeyCode::Left | KeyCode::Char('h') => HeatmapAction::Left(far),
        KeyCode::Right | KeyCode::Char('l') => HeatmapAction::Right(far),
        KeyCode::Char('K') | KeyCode::PageUp => HeatmapAction::Up(8),
        KeyCode::Char('J') | KeyCode::PageDown => HeatmapAction::Down(8),
        KeyCode::Char('H') => HeatmapAction::Left(8),
        KeyCode::Char('L') => HeatmapAction::Right(8),
        KeyCode::Home => HeatmapAction::First,
        KeyCode::End => HeatmapAction::Last,
        KeyCode::Enter => HeatmapAction::Zoom,
        KeyCode::Esc => HeatmapAction::Back,
        KeyCode::Char('s') => HeatmapAction::ToggleSort,
        KeyCode::Char('p') => HeatmapAction::NextSide,
        _ => return None,
    })
}

/// Keys of this pane and what they do, for help and documentation.
pub const KEYS: [(&str, &str); 7] = [
    ("arrows, hjkl", "move the cursor; with Shift, or PgUp and PgDn, by eight"),
    ("Home, End", "first and last expert of the layer"),
    ("Enter", "zoom into the layer"),
    ("Esc", "back to all layers"),
    ("s", "order experts by heat, or by number"),
    ("p", "beside the grid: this step, layer profile, nothing"),
    ("d", "replay of two sides: their difference, or the first side"),
];

/// Handles a key while the pane has focus; `false` if it means nothing here.
pub fn on_key(state: &mut ExpertsState, key: KeyEvent) -> bool {
    action(key).is_some_and(|a| state.act(a))
}

/// Words for the pane's frame, with the pool factors in force; `inside` is the rectangle that [`draw`] gets.
#[must_use]
pub fn title(inside: Rect, state: &ExpertsState, context: &PaneContext<'_>, theme: &Theme) -> String {
    let (layers, experts) = (state.layers(), state.experts());
    let x = theme.glyphs().times;
    if layers == 0 {
        return "experts".into();
    }
    let moment = words::moment(state);
    let mut title =
        if state.zoomed { format!("experts of layer {}", state.block(state.layer)) } else { format!("experts {layers} {x} {experts}") };
    let parts = Parts::of(inside, state, context, theme);
    let (pool_layers, pool_experts) = if state.zoomed {
        (1, zoom::Strip::fit(parts.grid, experts).map_or(1, |s| s.pool))
    } else {
        Grid::fit(parts.grid, layers, experts, theme).map_or((1, 1), |g| (g.pool_layers, g.pool_experts))
    };
    if pool_layers * pool_experts > 1 {
        title += &format!(", {pool_layers} {x} {pool_experts} per cell");
    }
    if state.sorted {
        title += ", hottest first";
    }
    // What it is a picture of comes first: a narrow frame cuts the end.
    format!("{moment} {} {title}", theme.glyphs().dot)
}

/// "PAUSED 57/212", for the status line.
#[must_use]
pub fn paused_words(pause: &Pause) -> String {
    words::paused(pause)
}

/// Words for the frame of [`draw_difference`].
#[must_use]
pub fn difference_title(state: &ExpertsState, difference: &Difference, theme: &Theme) -> String {
    difference::title(state, difference, theme)
}

/// Draws a comparison inside the pane, in place of the experts; the cursor is that of the experts.
pub fn draw_difference(
    area: Rect,
    buf: &mut Buffer,
    state: &ExpertsState,
    difference: &Difference,
    context: &PaneContext<'_>,
    theme: &Theme,
) {
    difference::draw(area, buf, state, difference, context, theme);
}

/// Rectangles of the pane, from the middle out: what does not fit is left out, the grid last.
struct Parts {
    head: Rect,
    gutter: Rect,
    grid: Rect,
    side: Rect,
    ruler: Rect,
    step: Rect,
    facts: Rect,
    legend: Rect,
    side_kind: Side,
}

impl Parts {
    fn of(area: Rect, state: &ExpertsState, context: &PaneContext<'_>, theme: &Theme) -> Self {
        let mut rest = area;
        let mut bottom = |keep: u16| {
            if rest.height > keep {
                rest.height -= 1;
                Rect::new(rest.x, rest.bottom(), rest.width, 1)
            } else {
                Rect::new(rest.x, rest.bottom(), rest.width, 0)
            }
        };
        // The legend is the last to go; of the other lines, the one that the keys drive stays longest.
        let legend = bottom(1);
        let (facts, step) = if context.focused || state.pause().is_some() {
            (bottom(4), bottom(8))
        } else {
            let step = bottom(5);
            (Rect { height: 0, ..step }, step)
        };
        let ruler = if state.zoomed { Rect::default() } else { bottom(9) };
        let head = if state.zoomed && rest.height > 3 {
            let lines = if rest.height > 6 { 2 } else { 1 };
            let head = Rect { height: lines, ..rest };
            rest.y += lines;
            rest.height -= lines;
            head
        } else {
            Rect::default()
        };
        if state.zoomed {
            let empty = Rect::default();
            return Self { head, gutter: empty, grid: rest, side: empty, ruler: empty, step, facts, legend, side_kind: Side::Bare };
        }
        let gutter_width = if rest.width > 12 { gutter_width(state, state.layers()) } else { 0 };
        let gutter = Rect { width: gutter_width, ..rest };
        let mut grid = Rect { x: rest.x + gutter_width, width: rest.width - gutter_width, ..rest };
        // The side may take room that the grid can't use, and a little more where there is plenty.
        let experts = u16::try_from(state.experts()).unwrap_or(u16::MAX);
        let free = grid.width.saturating_sub(experts.min(grid.width));
        let wanted = side::width(state.side, free, grid.width);
        let mut side = Rect { width: 0, ..grid };
        let mut side_kind = Side::Bare;
        if wanted > 0 {
            let inner = Rect { width: grid.width - wanted, ..grid };
            let used = Grid::fit(inner, state.layers(), state.experts(), theme).map_or(inner.width, |g| g.used_width());
            grid.width = used;
            side = Rect { x: grid.right(), width: wanted, ..grid };
            side_kind = state.side;
        }
        Self { head, gutter, grid, side, ruler, step, facts, legend, side_kind }
    }
}

/// Draws the inside of the pane.
pub fn draw(area: Rect, buf: &mut Buffer, state: &ExpertsState, context: &PaneContext<'_>, theme: &Theme) {
    let area = area.intersection(*buf.area());
    if area.is_empty() {
        return;
    }
    buf.set_style(area, theme.base());
    if state.layers() == 0 || state.experts() == 0 {
        let words = match context.card {
            Some(card) if card.is_dense() => "a dense model: it has no experts to rotate",
            Some(_) => "waiting for the first token",
            None => "no model is open",
        };
        buf.set_stringn(area.x, area.y, words, usize::from(area.width), theme.style(Face::Dim));
        return;
    }
    if let Some((pause, lost)) = state.pause().and_then(|p| Some((p, p.lost?))) {
        return unknown(buf, area, pause, lost, theme);
    }
    let mut parts = Parts::of(area, state, context, theme);
    // The gates of a past token stand over its layer where that is spelled out, else in the line of facts.
    let mut gates_are_told = state.zoomed && !parts.head.is_empty();
    let make = if state.zoomed {
        zoom::draw_head(buf, parts.head, state, theme);
        zoom::draw(buf, parts.grid, state, theme, context.focused);
        if theme.ascii || theme.is_mono() {
            Make::Glyph
        } else {
            Make::Block
        }
    } else {
        let Some(grid) = Grid::fit(parts.grid, state.layers(), state.experts(), theme) else { return };
        let place = state.place_of(state.layer, state.expert);
        grid.paint(buf, state, theme, context.focused.then_some((state.layer, place)));
        gutter(buf, parts.gutter, &grid, state, context, theme);
        side::draw(buf, (parts.side.x, parts.side.width), &grid, parts.side_kind, state, theme);
        // The ruler belongs right under the cells.
        let below = parts.grid.y + grid.used_height();
        let free = parts.grid.bottom().saturating_sub(below);
        if !parts.ruler.is_empty() {
            parts.ruler.y = below;
        } else if free > 0 {
            parts.ruler = Rect { y: below, height: 1, ..area };
        }
        ruler(buf, &parts, &grid, place, context, theme);
        if free >= DETAIL {
            gates_are_told = true;
            detail(buf, Rect { y: below + 2, height: free - 2, ..area }, state, context, theme);
        }
        grid.make
    };
    line(buf, parts.step, &words::step(state, context, theme, area.width));
    if context.focused {
        line(buf, parts.facts, &words::facts(state, theme, area.width));
    } else if state.pause().is_some() && !gates_are_told {
        line(buf, parts.facts, &words::gates(state, theme, area.width));
    }
    line(buf, parts.legend, &words::legend(make, state, theme, area.width));
}

/// Free rows under the grid from which the layer under the cursor is spelled out there.
const DETAIL: u16 = 6;

/// The layer under the cursor, expert by expert, where the whole grid leaves room.
fn detail(buf: &mut Buffer, area: Rect, state: &ExpertsState, context: &PaneContext<'_>, theme: &Theme) {
    let lines = if area.height > DETAIL { 2 } else { 1 };
    zoom::draw_head(buf, Rect { height: lines, ..area }, state, theme);
    let at = Rect { y: area.y + lines, height: area.height - lines, ..area };
    zoom::draw(buf, at, state, theme, context.focused);
}

/// A step of which nothing is known is not drawn as anything.
fn unknown(buf: &mut Buffer, area: Rect, pause: &Pause, lost: Lost, theme: &Theme) {
    let why = match lost {
        Lost::Dropped => "its record was dropped (telemetry is lossy)",
        Lost::LetGo => "its record was let go: the log of steps is full",
        Lost::NotYet => "its record has not come yet",
    };
    let text = format!("Step {} {}: {why}. Nothing is known of its experts.", pause.step, words::quoted(pause, 24));
    let rows = wrap(&[Piece::new(text, theme.style(Face::Notice))], usize::from(area.width), Break::Words);
    for (y, row) in (area.y..area.bottom()).zip(&rows) {
        line(buf, Rect { y, height: 1, ..area }, &row.line);
    }
}

fn line(buf: &mut Buffer, at: Rect, line: &Line<'_>) {
    if !at.is_empty() {
        buf.set_line(at.x, at.y, line, at.width);
    }
}

/// Columns of the numbers of so many layers, with the mark before and the gap behind.
fn gutter_width(state: &ExpertsState, layers: usize) -> u16 {
    state.block(layers.saturating_sub(1)).max(1).ilog10() as u16 + 3
}

/// Layer numbers: each where rows are few, the first and multiples of eight where they are many, and always the cursor's.
fn gutter(buf: &mut Buffer, at: Rect, grid: &Grid, state: &ExpertsState, context: &PaneContext<'_>, theme: &Theme) {
    if at.width < 3 {
        return;
    }
    let digits = usize::from(at.width) - 2;
    let every = if state.layers() <= 12 { 1 } else { 8 };
    // Rows that don't begin at multiples of eight are called by the layer at which they begin.
    let of_row = grid.layers_of_row(0).len().max(1);
    let odd_rows = (every % of_row != 0).then(|| usize::from(grid.rows()).div_ceil(12));
    for row in 0..grid.rows() {
        let y = grid.y(row);
        if y >= at.bottom() {
            break;
        }
        let layers = grid.layers_of_row(row);
        if context.focused && layers.contains(&state.layer) {
            let words = format!("{}{:>digits$}", theme.glyphs().pointer, state.block(state.layer));
            buf.set_stringn(at.x, y, words, usize::from(at.width), theme.style(Face::Accent));
        } else if let Some(layer) = match odd_rows {
            Some(step) => layers.clone().next().filter(|_| usize::from(row).is_multiple_of(step)),
            None => layers.clone().find(|&l| l == 0 || state.block(l).is_multiple_of(every)),
        } {
            buf.set_stringn(at.x + 1, y, format!("{:>digits$}", state.block(layer)), digits, theme.style(Face::Dim));
        }
    }
}

/// Expert numbers under the cells, the cursor's column, and the heads of the side.
fn ruler(buf: &mut Buffer, parts: &Parts, grid: &Grid, cursor: usize, context: &PaneContext<'_>, theme: &Theme) {
    let at = parts.ruler;
    if at.is_empty() {
        return;
    }
    let experts = grid.columns() * grid.pool_experts;
    let every = [8, 16, 32, 64, 128].into_iter().find(|e| grid.x(*e).saturating_sub(grid.x(0)) >= 8).unwrap_or(256);
    for place in (0..experts).step_by(every) {
        let x = grid.x(place);
        let room = usize::from(parts.grid.right().saturating_sub(x));
        let words = format!("{}{place}", theme.glyphs().tick);
        if words.chars().count() <= room {
            buf.set_stringn(x, at.y, words, room, theme.style(Face::Dim));
        }
    }
    if context.focused && grid.x(cursor) < parts.grid.right() {
        buf.set_stringn(grid.x(cursor), at.y, theme.glyphs().caret, 1, theme.style(Face::Accent));
    }
    let head = side::head(parts.side_kind);
    buf.set_stringn(parts.side.x, at.y, head, usize::from(parts.side.width), theme.style(Face::Dim));
}

#[cfg(test)]
mod tests;
