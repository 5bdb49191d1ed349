//! What stands beside the grid: each row's part of this step, or its character over recent tokens.

use super::grid::Grid;
use crate::ui::experts_state::{ExpertsState, Side, StepOutcomes};
use crate::ui::theme::{Face, Theme};
use ratatui::buffer::Buffer;
use ratatui::text::{Line, Span};
use std::ops::Range;

/// Columns of the profile, the most telling first: head and width.
const PROFILE: [(&str, u16); 6] = [("  hit%", 6), ("   eff", 6), (" churn", 6), ("  moved", 7), (" bits", 5), (" regret", 7)];
/// Columns of the grid that a profile leaves to it, if the person asks for one.
const GRID: u16 = 20;

/// Columns that a side takes of `free` that the grid has no use for and `all` that there are, its gap to the grid included; 0 if it
/// does not fit.
pub(super) fn width(side: Side, free: u16, all: u16) -> u16 {
    match side {
        // This one is there unasked: it takes little from a grid that is pooled anyway, and nothing from one that is not.
        Side::Step if free >= 10 || (free == 0 && all >= 50) => 10,
        Side::Profile => {
            let room = free.max(all.saturating_sub(GRID));
            let fits = |n: &usize| columns(*n) <= room;
            (3..=PROFILE.len()).rev().find(fits).map_or(0, columns)
        }
        Side::Step | Side::Bare => 0,
    }
}

/// Width of the first `n` columns of the profile.
fn columns(n: usize) -> u16 {
    PROFILE.iter().take(n).map(|c| c.1).sum()
}

/// Column heads, of the same width as the rows.
pub(super) fn head(side: Side) -> String {
    match side {
        Side::Step => "  hit miss".into(),
        Side::Profile => PROFILE.iter().map(|c| c.0).collect(),
        Side::Bare => String::new(),
    }
}

/// Draws the side of every row at column `x`.
pub(super) fn draw(buf: &mut Buffer, (x, width): (u16, u16), grid: &Grid, side: Side, state: &ExpertsState, theme: &Theme) {
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
        buf.set_line(x, y, &line, width);
    }
}

fn step(layers: Range<usize>, state: &ExpertsState, theme: &Theme) -> Line<'static> {
    let sum = layers.fold(StepOutcomes::default(), |sum, l| {
        let t = state.tally(l);
        StepOutcomes { hits: sum.hits + t.hits, misses: sum.misses + t.misses, ..sum }
    });
    let number = |n: u32, face| match n {
        0 => theme.span(Face::Track, format!("{:>5}", theme.glyphs().absent)),
        n => theme.span(face, format!("{n:>5}")),
    };
    Line::from(vec![number(sum.hits, Face::Dim), number(sum.misses, Face::Miss)])
}

fn profile(layers: Range<usize>, state: &ExpertsState, theme: &Theme) -> Line<'static> {
    let count = layers.len().max(1) as f32;
    let (mut rate, mut rated, mut effective, mut churn, mut entropy) = (0f32, 0f32, 0f32, 0f32, 0f32);
    let (mut moved, mut swaps, mut regretted) = (0.0, 0, 0);
    for account in layers.clone().map(|l| state.account(l)) {
        moved += account.moved;
        swaps += account.swaps;
        regretted += account.regretted;
    }
    for profile in layers.map(|l| state.profile(l)) {
        if let Some(hit_rate) = profile.hit_rate {
            rate += hit_rate;
            rated += 1.0;
        }
        effective += profile.effective / count;
        churn += profile.churn / count;
        entropy += profile.entropy / count;
    }
    let rate = (rated > 0.0).then(|| rate / rated);
    let bar = theme.glyphs().spark[rate.map_or(0, |r| (r * 8.0).round() as usize).min(8)];
    let words = rate.map_or_else(|| "   - ".to_owned(), |r| format!("{:>4.0} ", r * 100.0));
    // Accounts are of the whole session; of a past step they are not kept.
    let past = state.pause().is_some();
    let moved = if past { "-".to_owned() } else { short_bytes(moved) };
    let swaps = if past { 0 } else { swaps };
    Line::from(vec![
        theme.span(Face::Text, words),
        Span::styled(bar, theme.style(Face::Bar)),
        theme.span(Face::Dim, format!("{effective:>6.0}")),
        theme.span(Face::Dim, format!("{churn:>6.2}")),
        theme.span(Face::Dim, format!("{moved:>7}")),
        theme.span(Face::Dim, format!("{entropy:>5.1}")),
        theme.span(Face::Dim, if swaps > 0 { format!("{:>6.0}%", regretted as f64 * 100.0 / swaps as f64) } else { "      -".to_owned() }),
    ])
}

/// Bytes in at most six characters: `999`, `12.3M`, `1023K`.
pub(super) fn short_bytes(bytes: f64) -> String {
    let mut value = if bytes.is_finite() { bytes.max(0.0) } else { 0.0 };
    let mut unit = 0;
    while value >= 1023.5 && unit < 4 {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95 && unit > 0);
    format!("{value:.digits$}{}", ["", "K", "M", "G", "T"][unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_shows_as_many_columns_as_leave_the_grid_its_part() {
        assert_eq!(width(Side::Profile, 0, 30), 0);
        assert_eq!(width(Side::Profile, 0, 50), 30, "all that is asked for at 120 columns");
        assert_eq!(width(Side::Profile, 40, 50), 37);
        assert_eq!((width(Side::Step, 10, 40), width(Side::Step, 3, 74), width(Side::Step, 0, 74)), (10, 0, 10));
        assert_eq!(head(Side::Profile).len(), usize::from(columns(6)));
    }

    #[test]
    fn bytes_stay_within_their_column() {
        for (bytes, words) in [(0.0, "0"), (1023.0, "1023"), (1024.0, "1.0K"), (12.3 * 1048576.0, "12.3M"), (1000.0 * 1048576.0, "1000M")] {
            assert_eq!(short_bytes(bytes), words);
        }
    }
}
