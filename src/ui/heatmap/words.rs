//! The lines below the grid: legend, this step, the expert under the cursor.

use crate::events::Phase;
use crate::ui::experts_state::{ExpertsState, Mark};
use crate::ui::panes::PaneContext;
use crate::ui::theme::{Face, Theme};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::grid::Make;

/// What every sign means, as much as fits; shortest words last.
pub(super) fn legend(make: Make, state: &ExpertsState, theme: &Theme, width: u16) -> Line<'static> {
    for (names, ramp) in [
        (["hit", "miss", "admitted", "evicted", "resident", "absent"], true),
        (["hit", "miss", "in", "out", "slot", "none"], true),
        (["hit", "miss", "in", "out", "slot", "none"], false),
        (["h", "m", "in", "out", "slot", "-"], false),
    ] {
        let line = legend_with(make, state, theme, &names, ramp);
        if line.width() <= usize::from(width) {
            return line;
        }
    }
    let mut line = Line::default();
    for (mark, name) in [(Mark::Hit, "h"), (Mark::Miss, "m"), (Mark::Admitted, "i"), (Mark::Evicted, "o")] {
        line.push_span(sample(make, mark, theme));
        line.push_span(theme.span(Face::Dim, name));
    }
    line
}

fn legend_with(make: Make, state: &ExpertsState, theme: &Theme, names: &[&'static str; 6], ramp: bool) -> Line<'static> {
    let g = theme.glyphs();
    let mut line = Line::default();
    for (mark, name) in [Mark::Hit, Mark::Miss, Mark::Admitted, Mark::Evicted].into_iter().zip(names) {
        line.push_span(sample(make, mark, theme));
        line.push_span(theme.span(Face::Dim, format!(" {name}  ")));
    }
    match make {
        Make::Glyph => {
            let levels = theme.heat_levels();
            for (i, glyph) in g.resident.into_iter().enumerate() {
                let style = Style::new().fg(theme.heat(i * (levels - 1) / 2));
                line.push_span(Span::styled(glyph, theme.base().patch(style)));
            }
        }
        _ => {
            for level in 0..theme.heat_levels() {
                line.push_span(Span::styled(" ", Style::new().bg(theme.heat(level))));
            }
        }
    }
    let heat = if ramp { format!(" {} cold to hot  ", names[4]) } else { format!(" {}  ", names[4]) };
    line.push_span(theme.span(Face::Dim, heat));
    match make {
        Make::Half => line.push_span(Span::styled(" ", Style::new().bg(theme.absent(theme.heat_levels() - 1)))),
        _ => line.push_span(Span::styled(g.absent, theme.base().patch(theme.style(Face::Absent)))),
    }
    line.push_span(theme.span(Face::Dim, format!(" {}", names[5])));
    if state.layers() == 0 {
        return Line::default();
    }
    line
}

fn sample(make: Make, mark: Mark, theme: &Theme) -> Span<'static> {
    let g = theme.glyphs();
    let glyph = match mark {
        Mark::Hit => g.hit,
        Mark::Miss => g.miss,
        Mark::Admitted => g.admitted,
        _ => g.evicted,
    };
    let face = super::grid::face_of(mark);
    match make {
        Make::Half => Span::styled(" ", Style::new().bg(theme.color(face))),
        Make::Block => {
            let ink = theme.base().bg.filter(|c| *c != ratatui::style::Color::Reset);
            let ink = ink.unwrap_or(ratatui::style::Color::Black);
            Span::styled(glyph, Style::new().bg(theme.color(face)).fg(ink))
        }
        Make::Glyph => Span::styled(glyph, theme.base().patch(theme.style(face))),
    }
}

/// What the latest step did. Numbers keep their places.
pub(super) fn step(state: &ExpertsState, context: &PaneContext<'_>, theme: &Theme) -> Line<'static> {
    let Some((step, phase)) = state.latest() else {
        return Line::from(theme.span(Face::Dim, "no step yet"));
    };
    let total = state.total();
    let word = if phase == Phase::Prefill { "prompt" } else { "token" };
    let mut line = Line::from(vec![
        theme.span(Face::Dim, format!("step {step} {word:<6}")),
        theme.span(Face::Hit, format!(" {:>4}", total.hits)),
        theme.span(Face::Dim, " hit"),
        theme.span(Face::Miss, format!(" {:>4}", total.misses)),
        theme.span(Face::Dim, " miss"),
        theme.span(Face::Admitted, format!(" {:>3}", total.admitted)),
        theme.span(Face::Dim, " in"),
        theme.span(Face::Evicted, format!(" {:>3}", total.evicted)),
        theme.span(Face::Dim, " out"),
    ]);
    let lost = context.dropped.max(state.missing());
    if lost > 0 {
        line.push_span(theme.span(Face::Notice, format!("  {lost} records lost")));
    }
    if state.misfits() > 0 {
        line.push_span(theme.span(Face::Notice, format!("  {} misfits", state.misfits())));
    }
    line
}

/// The expert under the cursor: the most telling first, so that a narrow pane cuts the least.
pub(super) fn facts(state: &ExpertsState, theme: &Theme, width: u16) -> Line<'static> {
    let (layer, expert) = state.cursor();
    let Some(facts) = state.facts(layer, expert) else { return Line::default() };
    let label = |text: &'static str| theme.span(Face::Dim, text);
    let slot = facts.slot.map_or_else(|| "   -".to_owned(), |s| format!("{s:>4}"));
    let last = match facts.last_use {
        None => "never".to_owned(),
        Some(0) => "now".to_owned(),
        Some(n) => format!("{n} ago"),
    };
    let weight = facts.weight.map_or_else(|| "   -".to_owned(), |w| format!("{w:>4.2}"));
    let state_word = match (facts.mark, facts.slot) {
        (Mark::Hit, _) => "hit",
        (Mark::Miss, _) => "miss",
        (Mark::Admitted, _) => "admitted",
        (Mark::Evicted, _) => "evicted",
        (Mark::Quiet, Some(_)) => "resident",
        (Mark::Quiet, None) => "absent",
    };
    let face = match (facts.mark, facts.slot) {
        (Mark::Quiet, None) => Face::Dim,
        (mark, _) => super::grid::face_of(mark),
    };
    let name = theme.span(Face::Accent, format!("L{layer:<2} E{expert:<3}"));
    let heat = format!("{:>3.0}%", facts.heat * 100.0);
    if width < 70 {
        return Line::from(vec![
            name,
            label(" slot"),
            theme.span(face, slot),
            label("  used"),
            theme.span(Face::Text, format!("{:>6}", facts.uses)),
            label("  last "),
            theme.span(Face::Text, format!("{last:<6}")),
            label("  gate "),
            theme.span(Face::Text, weight),
        ]);
    }
    Line::from(vec![
        name,
        theme.span(face, format!(" {state_word:<8}")),
        label(" slot"),
        theme.span(Face::Text, slot),
        label("  used"),
        theme.span(Face::Text, format!("{:>6}", facts.uses)),
        label("  last "),
        theme.span(Face::Text, format!("{last:<8}")),
        label(" gate "),
        theme.span(Face::Text, weight),
        label("  heat "),
        theme.span(Face::Text, heat),
    ])
}
