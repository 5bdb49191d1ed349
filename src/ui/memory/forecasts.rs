//! What another slot count would do: the keys with their consequences, the curve in two lines, and the words for a change.
//! Everything here is an estimate and marked as one.

use super::figures::{percent, points, signed_bytes};
use super::sections::{granted, section, Ink, Section, LABEL};
use crate::ui::memory_state::forecast::Verdict;
use crate::ui::memory_state::MemoryState;
use crate::ui::panes::PaneContext;
use crate::ui::theme::glyphs::Glyphs;
use crate::ui::theme::Face;
use ratatui::text::Line;

/// A change of the slot count in words: `40 → 48 slots: 71.2% → 77.0% hits, +1.10 GiB, ≈ +4.0 tok/s (estimated)`. `None` while
/// too little was seen to say anything, or if nothing changes.
#[must_use]
pub(in crate::ui) fn preview(state: &MemoryState, from: usize, to: usize, glyphs: &Glyphs) -> Option<String> {
    let (here, there) = (state.forecast(from)?, state.forecast(to)?);
    if from == to {
        return None;
    }
    let (arrow, about) = (glyphs.arrow, glyphs.about);
    let bytes = signed_bytes(state.slot_bytes(to), state.slot_bytes(from));
    let mut words = format!(
        "{from} {arrow} {to} slots: {about} {:.1}% {arrow} {:.1}% hits, {}",
        here.hit_rate * 100.0,
        there.hit_rate * 100.0,
        bytes.trim()
    );
    if let (Some(now), Some(then)) = (here.speed, there.speed) {
        words += &format!(", {about} {:+.1} tok/s", then - now);
    }
    Some(words + " (estimated)")
}

/// Forecasts of the speed that were further off than this share are not gone on with.
const TRUSTED: f64 = 0.25;

/// One line for each slot key.
pub(super) fn keys(ink: &Ink<'_>, state: &MemoryState, context: &PaneContext<'_>) -> Vec<Section> {
    let (now, most) = (granted(state, context), state.experts());
    let least = context.card.map_or(1, |c| c.plan.min_slots.max(1));
    let digits = most.max(1).to_string().len();
    let (about, arrow) = (ink.theme.glyphs().about, ink.theme.glyphs().arrow);
    // The same estimate for the present count, so that both ends of the step come from one source.
    let here = state.forecast(now);
    // Who was wrong about the speed the last time says nothing of it.
    let trusted = state.accuracy().last().and_then(Verdict::speed_error).is_none_or(|error| error <= TRUSTED);
    let line = |key: &'static str, slots: usize| -> Line<'static> {
        // From all words to the bare estimate; a number is left out whole or not at all.
        let row = |form: u8| {
            let (wordy, loose) = (form == 0, form <= 1);
            let word = |text: &'static str| ink.dim(if wordy { text } else { "" });
            let gap = if wordy { " " } else { "" };
            let mut line = Line::from(vec![
                ink.dim("  "),
                ink.theme.span(Face::Key, key),
                ink.text(format!("  {now:>digits$}")),
                ink.dim(format!("{gap}{arrow}{gap}")),
                ink.text(format!("{slots:>digits$}")),
                word(" slots"),
            ]);
            if slots == now {
                line.push_span(ink.dim("  no further"));
                return line;
            }
            let bytes = ink.text(signed_bytes(state.slot_bytes(slots), state.slot_bytes(now)));
            let (Some(here), Some(there)) = (here, state.forecast(slots)) else {
                line.extend([bytes, ink.dim("  learning")]);
                return line;
            };
            line.push_span(ink.dim(format!("  {about}{gap}")));
            line.push_span(ink.text(points(here.hit_rate)));
            let apart = if loose { " " } else { "" };
            line.push_span(ink.dim(format!("{apart}{arrow}{apart}")));
            line.push_span(ink.text(points(there.hit_rate) + "%"));
            line.push_span(word(" hits"));
            if form < 5 {
                line.push_span(bytes);
            }
            if let (Some(then), Some(today)) = (there.speed, here.speed.filter(|_| trusted && form < 4)) {
                line.push_span(ink.dim(format!("{apart} {about}")));
                line.push_span(ink.text(format!("{:>+6.1}", then - today)));
                line.push_span(ink.dim(match form {
                    0 | 1 => " tok/s",
                    2 => " t/s",
                    _ => "",
                }));
            }
            line
        };
        ink.fitting((0..=5).map(row).collect())
    };
    let up = |n: usize| now.saturating_add(n).min(most.max(now));
    let down = |n: usize| now.saturating_sub(n).max(least.min(now));
    let head = Line::from(vec![ink.dim("another slot count once settled, estimated")]);
    vec![
        section(13, true, vec![head]),
        section(5, false, vec![line("+", up(1)), line("-", down(1))]),
        section(6, false, vec![line("]", up(8)), line("[", down(8))]),
    ]
}

/// The curve in two lines, for panes that have no room for the large one: a bar for each slot count, the present one marked.
pub(super) fn strip(ink: &Ink<'_>, state: &MemoryState, context: &PaneContext<'_>) -> Vec<Section> {
    let curve = state.curve();
    let room = ink.width.saturating_sub(LABEL + 1);
    if curve.len() < 2 || room < 16 {
        return Vec::new();
    }
    let most = curve.len() - 1;
    let columns = room.min(64);
    let column = |slots: usize| (slots * (columns - 1) + most / 2) / most;
    let here = granted(state, context).min(most);
    let g = ink.theme.glyphs();
    let mut bars = Line::from(vec![ink.label("curve")]);
    for c in 0..columns {
        let slots = (c * most + (columns - 1) / 2) / (columns - 1);
        let rate = if c == column(here) { curve[here] } else { curve[slots] };
        let level = if rate.is_finite() { (rate.clamp(0.0, 1.0) * 8.0).round() as usize } else { 0 };
        let face = if c == column(here) { Face::Accent } else { Face::Bar };
        bars.push_span(ink.theme.span(face, g.spark[level.clamp(usize::from(slots > 0), 8)]));
    }
    bars.push_span(ink.dim(" "));
    // The present count stands under its bar, or as near as the other numbers let it.
    let (mark, end) = (format!("{}{here}", g.caret), format!("{most} slots"));
    let mut axis: Vec<char> = vec![' '; columns];
    let mut put = |at: usize, words: &str| {
        for (place, c) in axis[at..].iter_mut().zip(words.chars()) {
            *place = c;
        }
    };
    put(0, "0");
    let at = column(here).min(columns.saturating_sub(mark.chars().count()));
    if at + mark.chars().count() < columns.saturating_sub(end.len()) {
        put(columns.saturating_sub(end.len()), &end);
    }
    put(at, &mark);
    let axis: String = axis.into_iter().collect();
    let (left, right) = axis.split_at(axis.char_indices().nth(at).map_or(axis.len(), |(i, _)| i));
    let cut = right.char_indices().nth(mark.chars().count()).map_or(right.len(), |(i, _)| i);
    let label = ink.dim(format!("{:<LABEL$}", format!("{} LRU", g.about)));
    let axis = Line::from(vec![label, ink.dim(left.to_owned()), ink.accent(right[..cut].to_owned()), ink.dim(right[cut..].to_owned())]);
    vec![Section { stand_in: true, ..section(7, true, vec![bars, axis]) }]
}

/// The latest estimate that was put to the test, and how good they were.
pub(super) fn accuracy(ink: &Ink<'_>, state: &MemoryState) -> Vec<Section> {
    let arrow = ink.theme.glyphs().arrow;
    let Some(verdict) = state.accuracy().last() else {
        let Some(left) = state.verdict_in() else { return Vec::new() };
        let words = format!("judged in {left:>2} tokens");
        return vec![section(9, false, vec![Line::from(vec![ink.label("forecast"), ink.dim(words)])])];
    };
    let share = |e: Option<f64>| e.map_or_else(|| "?".to_owned(), |e| format!("{:.0}%", e * 100.0));
    let off = |e: f64| format!("{:.1}", e * 100.0);
    let head = || vec![ink.label("forecast"), ink.text(percent(Some(verdict.forecast.hit_rate)))];
    let mut full = head();
    full.push(ink.dim(format!(" {arrow} came")));
    full.push(ink.text(percent(Some(verdict.hit_rate))));
    full.push(ink.dim(format!("  off {} pts, tok/s {}", off(verdict.rate_error()), share(verdict.speed_error()))));
    let mut short = head();
    short.push(ink.dim(format!(" {arrow}")));
    short.push(ink.text(percent(Some(verdict.hit_rate))));
    short.push(ink.dim(format!(" tok/s {} off", share(verdict.speed_error()))));
    let mut sections = vec![section(9, false, vec![ink.fitting(vec![Line::from(full), Line::from(short)])])];
    if let Some((rate, speed)) = state.accuracy().mean_errors().filter(|_| state.accuracy().count() > 1) {
        let words = format!("off on average: {} pts, tok/s {}", off(rate), share(speed));
        let line = Line::from(vec![ink.label(""), ink.dim(words), ink.dim(format!("  ({} changes)", state.accuracy().count()))]);
        sections.push(section(15, false, vec![line]));
    }
    sections
}
