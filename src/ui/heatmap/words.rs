//! The lines below the grid: legend, this step, the expert under the cursor.

use crate::events::Phase;
use crate::ui::experts_state::{ExpertsState, Mark, Pause, Play, Shown};
use crate::ui::panes::PaneContext;
use crate::ui::theme::{Face, Theme};
use crate::ui::wrap::fit;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::grid::Make;

/// Which moment is shown: live, a recording, or a token of the past.
pub(super) fn moment(state: &ExpertsState) -> String {
    match state.shown() {
        Shown::Live => "LIVE".to_owned(),
        Shown::Replay(play) => match play {
            Play::Forwards => "REPLAY",
            Play::Backwards => "REPLAY BACKWARDS",
            Play::Paused => "REPLAY PAUSED",
            Play::Ended => "REPLAY ENDED",
        }
        .to_owned(),
        Shown::Paused(pause) => paused(pause),
    }
}

/// "PAUSED 57/212"; a token that is no longer in the chat has no number.
pub(super) fn paused(pause: &Pause) -> String {
    match pause.token {
        0 => format!("PAUSED at step {}", pause.step),
        token => format!("PAUSED {token}/{}", pause.of),
    }
}

/// The token in quotes, in at most `width` columns; nothing in a session without text.
pub(super) fn quoted(pause: &Pause, width: usize) -> String {
    if pause.text.is_empty() {
        return String::new();
    }
    let text = fit(&pause.text, width.saturating_sub(2).max(1));
    format!("\"{text}\"")
}

/// The experts of the token under the cursor in the cursor's layer, best gate first: what happened, id, gate.
pub(super) fn gates(state: &ExpertsState, theme: &Theme, width: u16) -> Line<'static> {
    let (layer, _) = state.cursor();
    let Some(pause) = state.pause() else { return Line::default() };
    let mut line = Line::from(theme.span(Face::Accent, format!("{} L{}", quoted(pause, 16), state.block(layer))));
    let g = theme.glyphs();
    for (expert, weight, mark) in state.gates(layer) {
        let sign = match mark {
            Mark::Hit => g.hit,
            Mark::Miss => g.miss,
            _ => g.admitted,
        };
        let style = theme.style(super::grid::face_of(mark));
        let parts = [Span::styled(format!("  {sign}{expert}"), style), theme.span(Face::Dim, format!(" {weight:.2}"))];
        if line.width() + parts.iter().map(Span::width).sum::<usize>() > usize::from(width) {
            line.push_span(theme.span(Face::Dim, g.ellipsis));
            break;
        }
        line.extend(parts);
    }
    line
}

/// What every sign means, as much as fits; shortest words last.
pub(super) fn legend(make: Make, state: &ExpertsState, theme: &Theme, width: u16) -> Line<'static> {
    for (names, ramp) in [
        (["hit", "miss", "miss, let in", "evicted", "resident", "absent"], true),
        (["hit", "miss", "miss, in", "out", "slot", "none"], true),
        (["hit", "miss", "miss, in", "out", "slot", "none"], false),
        (["h", "m", "m, in", "out", "slot", "-"], false),
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

/// What the latest step did. Numbers keep their places; what came ahead is told where all of it fits.
pub(super) fn step(state: &ExpertsState, context: &PaneContext<'_>, theme: &Theme, width: u16) -> Line<'static> {
    let Some((step, phase)) = state.latest() else {
        return Line::from(theme.span(Face::Dim, "no step yet: the first will tell what is in slots"));
    };
    let total = state.total();
    let word = match (phase, state.latest_tokens()) {
        (Phase::Prefill, _) => "prompt".to_owned(),
        (Phase::Decode, ..2) => "token".to_owned(),
        (Phase::Decode, several) => format!("{several} tok"),
    };
    let lead = match state.pause() {
        // The title has the token's number; that of its step, which counts from 0 and counts prompts, would be another one.
        Some(pause) if pause.token > 0 && !pause.text.is_empty() => format!("{:<8}", quoted(pause, 12)),
        Some(pause) if pause.token > 0 => format!("{word:<8}"),
        _ => format!("step {step} {word:<6}"),
    };
    let mut line = Line::from(vec![
        theme.span(Face::Dim, lead),
        theme.span(Face::Hit, format!(" {:>4}", total.hits)),
        theme.span(Face::Dim, " hit"),
        theme.span(Face::Miss, format!(" {:>4}", total.misses)),
        theme.span(Face::Dim, " miss"),
        theme.span(Face::Admitted, format!(" {:>3}", total.admitted + total.ahead)),
        theme.span(Face::Dim, " in"),
        theme.span(Face::Evicted, format!(" {:>3}", total.evicted)),
        theme.span(Face::Dim, " out"),
    ]);
    let lost = context.dropped.max(state.missing());
    if lost > 0 {
        line.push_span(theme.span(Face::Notice, format!("  {lost} records lost")));
    }
    if state.misfits() > 0 {
        line.push_span(theme.span(Face::Notice, format!("  {} don't fit the model", state.misfits())));
    }
    let ahead = format!(" ({} ahead, {} asked)", total.ahead, total.asked);
    if total.ahead > 0 && line.width() + ahead.len() <= usize::from(width) {
        line.push_span(theme.span(Face::Dim, ahead));
    }
    line
}

/// The expert under the cursor: the most telling first, so that a narrow pane cuts the least.
pub(super) fn facts(state: &ExpertsState, theme: &Theme, width: u16) -> Line<'static> {
    let (layer, expert) = state.cursor();
    let Some(facts) = state.facts(layer, expert) else { return Line::default() };
    let label = |text: &'static str| theme.span(Face::Dim, text);
    let none = if state.latest().is_none() { "   ?" } else { "   -" };
    let slot = facts.slot.map_or_else(|| none.to_owned(), |s| format!("{s:>4}"));
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
        (Mark::Quiet, None) if state.latest().is_none() => "unknown",
        (Mark::Quiet, None) => "absent",
    };
    let face = match (facts.mark, facts.slot) {
        (Mark::Quiet, None) => Face::Dim,
        (mark, _) => super::grid::face_of(mark),
    };
    let name = theme.span(Face::Accent, format!("L{:<2} E{expert:<3}", state.block(layer)));
    let heat = format!("{:>3.0}%", facts.heat * 100.0);
    if state.pause().is_some() {
        // Of the past only this is kept: uses and slot numbers are not.
        let gate = state.gates(layer).find(|g| usize::from(g.0) == expert).map_or_else(|| "   -".to_owned(), |g| format!("{:>4.2}", g.1));
        return Line::from(vec![
            name,
            theme.span(face, format!(" {state_word:<8}")),
            label(" slot "),
            theme.span(Face::Text, if facts.slot.is_some() { "held" } else { "none" }),
            label("  gate "),
            theme.span(Face::Text, gate),
            label("  heat then "),
            theme.span(Face::Text, heat),
        ]);
    }
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
