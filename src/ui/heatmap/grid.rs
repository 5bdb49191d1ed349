//! How layers and experts become cells: sizes, pooling, and the painting of one cell.

use crate::ui::experts_state::{Cell, ExpertsState, Mark};
use crate::ui::theme::{Face, Theme};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use std::ops::Range;

/// How a cell is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Make {
    /// Two layers share a character: the upper and the lower half block, each with its own colour.
    Half,
    /// A filled rectangle; events and absence have a glyph too.
    Block,
    /// A character; colour, if there is any, only repeats it.
    Glyph,
}

/// Sizes of a grid of `layers` x `places` in a rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) area: Rect,
    pub(super) make: Make,
    /// Layers pooled into one unit (a unit is half a row with [`Make::Half`]).
    pub(super) pool_layers: usize,
    /// Experts pooled into one cell.
    pub(super) pool_experts: usize,
    /// Columns of a cell.
    width: u16,
    /// Rows of a unit that are painted.
    height: u16,
    /// Rows from one unit to the next.
    pitch: u16,
    layers: usize,
    experts: usize,
}

impl Grid {
    /// The largest cells that show everything.
    pub(super) fn fit(area: Rect, layers: usize, experts: usize, theme: &Theme) -> Option<Self> {
        let (w, h) = (usize::from(area.width), usize::from(area.height));
        if w == 0 || h == 0 || layers == 0 || experts == 0 {
            return None;
        }
        let plain = theme.ascii || theme.is_mono();
        let make = match (plain, layers > h) {
            (true, _) => Make::Glyph,
            (false, true) => Make::Half,
            (false, false) => Make::Block,
        };
        let units = if make == Make::Half { h * 2 } else { h };
        let pool_layers = layers.div_ceil(units);
        let pool_experts = experts.div_ceil(w);
        let cells = experts.div_ceil(pool_experts);
        let width = (w / cells).clamp(1, if make == Make::Glyph { 2 } else { 4 });
        let rows = h / layers.div_ceil(pool_layers).max(1);
        let height = if make == Make::Block { rows.saturating_sub(1).clamp(1, width) } else { 1 };
        // Loose rows read better where there is room; a cell and its gap keep together.
        let pitch = if make == Make::Half { 1 } else { (height + usize::from(rows > height)).min(rows.max(1)) };
        Some(Self {
            area,
            make,
            pool_layers,
            pool_experts,
            width: width as u16,
            height: height as u16,
            pitch: pitch as u16,
            layers,
            experts,
        })
    }

    /// Cells across.
    pub(super) fn columns(&self) -> usize {
        self.experts.div_ceil(self.pool_experts)
    }

    /// Columns of the terminal that the cells take.
    pub(super) fn used_width(&self) -> u16 {
        (self.columns() as u16).saturating_mul(self.width).min(self.area.width)
    }

    /// Rows of the terminal that the cells take.
    pub(super) fn used_height(&self) -> u16 {
        let rows = self.rows();
        rows.saturating_sub(1).saturating_mul(self.pitch).saturating_add(self.height).min(self.area.height)
    }

    fn units(&self) -> usize {
        self.layers.div_ceil(self.pool_layers)
    }

    /// Rows of cells.
    pub(super) fn rows(&self) -> u16 {
        let per_row = if self.make == Make::Half { 2 } else { 1 };
        self.units().div_ceil(per_row) as u16
    }

    /// Layers that a row of cells shows.
    pub(super) fn layers_of_row(&self, row: u16) -> Range<usize> {
        let per_row = if self.make == Make::Half { 2 * self.pool_layers } else { self.pool_layers };
        let start = usize::from(row) * per_row;
        start.min(self.layers)..(start + per_row).min(self.layers)
    }

    /// The terminal row on which a row of cells begins.
    pub(super) fn y(&self, row: u16) -> u16 {
        self.area.y.saturating_add(row.saturating_mul(self.pitch))
    }

    /// The terminal column on which the cell of a place begins.
    pub(super) fn x(&self, place: usize) -> u16 {
        let column = (place / self.pool_experts) as u16;
        self.area.x.saturating_add(column.saturating_mul(self.width))
    }

    fn places(&self, column: usize) -> Range<usize> {
        let start = column * self.pool_experts;
        start..(start + self.pool_experts).min(self.experts)
    }

    /// Paints all cells of a state. `cursor` is a layer and a place.
    pub(super) fn paint(&self, buf: &mut Buffer, state: &ExpertsState, theme: &Theme, cursor: Option<(usize, usize)>) {
        self.paint_with(
            buf,
            theme,
            cursor,
            |layers, places| fill(state.cell(layers, places), state, theme),
            |buf, at, layers, places, on| paint_cell(buf, at, self.make, state.cell(layers, places), state, theme, on),
        );
    }

    /// Paints all cells: `color` gives that of a half cell, `cell` paints a whole one, told whether the cursor is on it; both
    /// are given layers and places.
    pub(super) fn paint_with(
        &self,
        buf: &mut Buffer,
        theme: &Theme,
        cursor: Option<(usize, usize)>,
        color: impl Fn(Range<usize>, Range<usize>) -> Color,
        cell: impl Fn(&mut Buffer, Rect, Range<usize>, Range<usize>, bool),
    ) {
        let under = |unit: usize, column: usize| {
            cursor.is_some_and(|(layer, place)| layer / self.pool_layers == unit && place / self.pool_experts == column)
        };
        let unit_layers = |unit: usize| {
            let start = unit * self.pool_layers;
            start..(start + self.pool_layers).min(self.layers)
        };
        for row in 0..self.rows() {
            for column in 0..self.columns() {
                let (x, y) = (self.area.x + column as u16 * self.width, self.y(row));
                if x >= self.area.right() || y >= self.area.bottom() {
                    continue;
                }
                if self.make == Make::Half {
                    let half = |unit: usize| {
                        if unit >= self.units() {
                            return theme.base().bg.unwrap_or(Color::Reset);
                        }
                        if under(unit, column) {
                            return theme.style(Face::Cursor).bg.unwrap_or(Color::Reset);
                        }
                        color(unit_layers(unit), self.places(column))
                    };
                    let (upper, lower) = (half(2 * usize::from(row)), half(2 * usize::from(row) + 1));
                    for dx in 0..self.width {
                        halves(buf, self.area, x + dx, y, upper, lower);
                    }
                } else {
                    let at = Rect::new(x, y, self.width, self.height).intersection(self.area);
                    cell(buf, at, unit_layers(usize::from(row)), self.places(column), under(usize::from(row), column));
                }
            }
        }
    }
}

/// Both halves of one character. Equal halves are a space: fewer bytes, and no seam in any font.
fn halves(buf: &mut Buffer, area: Rect, x: u16, y: u16, upper: Color, lower: Color) {
    if x >= area.right() || y >= area.bottom() {
        return;
    }
    if let Some(cell) = buf.cell_mut((x, y)) {
        cell.reset();
        if upper == lower {
            cell.set_symbol(" ").set_fg(upper).set_bg(upper);
        } else {
            cell.set_symbol("▀").set_fg(upper).set_bg(lower);
        }
    }
}

/// The one colour of a cell.
fn fill(cell: Cell, state: &ExpertsState, theme: &Theme) -> Color {
    if state.latest().is_none() {
        return theme.base().bg.unwrap_or(Color::Reset);
    }
    let level = state.level(cell.heat, theme.heat_levels());
    match cell.mark {
        Mark::Quiet if cell.resident => theme.heat(level),
        Mark::Quiet => theme.absent(level),
        mark => theme.color(face_of(mark)),
    }
}

/// Paints one cell with its glyph.
pub(super) fn paint_cell(buf: &mut Buffer, at: Rect, make: Make, cell: Cell, state: &ExpertsState, theme: &Theme, under_cursor: bool) {
    if at.is_empty() {
        return;
    }
    // Before the first step nothing is known of any cell, so nothing is drawn that means something.
    if state.latest().is_none() {
        if under_cursor {
            buf.set_style(at, theme.style(Face::Cursor));
        }
        return;
    }
    let glyph = glyph_of(cell, state, theme);
    let ink = theme.base().bg.filter(|c| *c != Color::Reset).unwrap_or(Color::Black);
    let style = if under_cursor {
        theme.style(Face::Cursor)
    } else if make == Make::Glyph {
        glyph_style(cell, state, theme)
    } else {
        match cell.mark {
            Mark::Quiet if cell.resident => Style::new().bg(fill(cell, state, theme)).fg(ink),
            Mark::Quiet => Style::new().fg(fill_of_absence(cell, state, theme)),
            mark => Style::new().bg(theme.color(face_of(mark))).fg(ink),
        }
    };
    // A resident block needs no glyph, its colour fills it; shape tells the rest.
    let plain_block = make == Make::Block && cell.mark == Mark::Quiet && cell.resident;
    for y in at.top()..at.bottom() {
        for x in at.left()..at.right() {
            let Some(c) = buf.cell_mut((x, y)) else { continue };
            c.reset();
            c.set_style(theme.base().patch(style));
            let center = x == at.x + (at.width - 1) / 2 && y == at.y + (at.height - 1) / 2;
            c.set_symbol(if center && !plain_block { glyph } else { " " });
        }
    }
}

fn fill_of_absence(cell: Cell, state: &ExpertsState, theme: &Theme) -> Color {
    // A dot needs more light than a surface to be seen.
    match state.level(cell.heat, theme.heat_levels()) {
        0 => theme.color(Face::Track),
        _ => theme.color(Face::Absent),
    }
}

/// The style of a cell that is only a character.
pub(super) fn glyph_style(cell: Cell, state: &ExpertsState, theme: &Theme) -> Style {
    match cell.mark {
        Mark::Quiet if cell.resident => Style::new().fg(fill(cell, state, theme)),
        Mark::Quiet => theme.style(Face::Absent),
        mark => theme.style(face_of(mark)),
    }
}

/// The character of a cell; every state has its own.
pub(super) fn glyph_of(cell: Cell, state: &ExpertsState, theme: &Theme) -> &'static str {
    let g = theme.glyphs();
    if state.latest().is_none() {
        return " ";
    }
    match cell.mark {
        Mark::Hit => g.hit,
        Mark::Miss => g.miss,
        Mark::Admitted => g.admitted,
        Mark::Evicted => g.evicted,
        Mark::Quiet if cell.resident => g.resident[state.level(cell.heat, 3).min(2)],
        Mark::Quiet => g.absent,
    }
}

/// The face of a mark.
pub(super) fn face_of(mark: Mark) -> Face {
    match mark {
        Mark::Hit => Face::Hit,
        Mark::Miss => Face::Miss,
        Mark::Admitted => Face::Admitted,
        Mark::Evicted => Face::Evicted,
        Mark::Quiet => Face::Resident,
    }
}
