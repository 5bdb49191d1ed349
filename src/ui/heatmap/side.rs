//! What stands beside the grid: each row's part of this step, or its character over recent tokens.

use super::grid::Grid;
use crate::ui::experts_state::{ExpertsState, LayerTally, Side};
use crate::ui::theme::{Face, Theme};
use ratatui::buffer::Buffer;
use ratatui::text::{Line, Span};
use std::ops::Range;

/// Columns that a side needs, its gap to the grid included.
pub(super) fn width(side: Side) -> u16 {
    match side {
        Side::Step => 10,
        Side::Profile => 18,
        Side::Bare => 0,
    }
}

/// Column heads, of the same width as the rows.
pub(super) fn head(side: Side) -> &'static str {
    match side {
        Side::Step => "  hit miss",
        Side::Profile => "  hit%   eff churn",
        Side::Bare => "",
    }
}

/// Draws the side of every row at column `x`.
pub(super) fn draw(buf: &mut Buffer, x: u16, grid: &Grid, side: Side, state: &ExpertsState, theme: &Theme) {
    for row in 0..grid.rows() {
        let y = grid.y(row);
        if y >= grid.area.bottom() {
            break;
        }
        let line = match side {
            Side::Step => step(grid.layers_of_row(row), state, theme),
            Side::Profile => profile(grid.layers_of_row(row), state, theme),
            Side::Bare => return,
        };
        buf.set_line(x, y, &line, width(side));
    }
}

fn step(layers: Range<usize>, state: &ExpertsState, theme: &Theme) -> Line<'static> {
    let sum = layers.fold(LayerTally::default(), |sum, l| {
        let t = state.tally(l);
        LayerTally { hits: sum.hits + t.hits, misses: sum.misses + t.misses, ..sum }
    });
    let number = |n: u32, face| match n {
        0 => theme.span(Face::Track, format!("{:>5}", theme.glyphs().absent)),
        n => theme.span(face, format!("{n:>5}")),
    };
    Line::from(vec![number(sum.hits, Face::Dim), number(sum.misses, Face::Miss)])
}

fn profile(layers: Range<usize>, state: &ExpertsState, theme: &Theme) -> Line<'static> {
    let count = layers.len().max(1) as f32;
    let (mut rate, mut rated, mut effective, mut churn) = (0f32, 0f32, 0f32, 0f32);
    for profile in layers.map(|l| state.profile(l)) {
        if let Some(hit_rate) = profile.hit_rate {
            rate += hit_rate;
            rated += 1.0;
        }
        effective += profile.effective / count;
        churn += profile.churn / count;
    }
    let rate = (rated > 0.0).then(|| rate / rated);
    let bar = theme.glyphs().spark[rate.map_or(0, |r| (r * 8.0).round() as usize).min(8)];
    let words = rate.map_or_else(|| "   - ".to_owned(), |r| format!("{:>4.0} ", r * 100.0));
    Line::from(vec![
        theme.span(Face::Text, words),
        Span::styled(bar, theme.style(Face::Bar)),
        theme.span(Face::Dim, format!("{effective:>6.0}")),
        theme.span(Face::Dim, format!("{churn:>6.2}")),
    ])
}
