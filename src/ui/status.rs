//! The status line: one row that is always there.

use super::state::{EngineState, State};
use super::theme::Face;
use super::wrap::{columns, shortened};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use std::time::Duration;

/// A frame that takes longer than this to drain is worth a word.
const SLOW_DRAIN: Duration = Duration::from_millis(80);

/// Draws the line: a notice if there is one, otherwise the numbers. What does not fit is left out, the least
/// important first.
pub fn draw(area: Rect, buf: &mut Buffer, state: &State) {
    if area.is_empty() {
        return;
    }
    let theme = &state.theme;
    buf.set_style(area, theme.base());
    if let Some(notice) = state.notices.back() {
        let face = if notice.error { Face::Error } else { Face::Notice };
        let mark = if notice.error { "! " } else { "* " };
        let mut line = Line::default();
        if let Some(pause) = state.inspector.pause() {
            // A notice must not hide that the heatmap stands still.
            line.push_span(theme.span(Face::Selection, format!(" {} ", super::heatmap::paused_words(pause))));
        }
        let room = usize::from(area.width).saturating_sub(line.width() + 1);
        let words = format!("{mark}{}", notice.text);
        line.push_span(theme.span(face, format!(" {}", shortened(&words, room, theme.glyphs().ellipsis))));
        buf.set_line(area.x, area.y, &line, area.width);
        return;
    }
    let mut parts = parts(state, usize::from(area.width));
    let separator = format!(" {} ", theme.glyphs().dot);
    let width = |parts: &[Part]| {
        1 + parts.iter().map(|p| columns(&p.label) + columns(&p.value)).sum::<usize>() + parts.len().saturating_sub(1) * columns(&separator)
    };
    while parts.len() > 1 && width(&parts) > usize::from(area.width) {
        let least = parts.iter().enumerate().max_by_key(|(i, p)| (p.rank, *i)).map_or(0, |(i, _)| i);
        parts.remove(least);
    }
    let mut spans: Vec<Span> = vec![Span::raw(" ")];
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            spans.push(theme.span(Face::Dim, separator.clone()));
        }
        spans.push(theme.span(Face::Dim, part.label.clone()));
        spans.push(theme.span(part.face, part.value.clone()));
    }
    buf.set_line(area.x, area.y, &Line::from(spans), area.width);
}

struct Part {
    label: String,
    value: String,
    face: Face,
    /// Parts of a higher rank go first when there is no room.
    rank: u8,
}

fn parts(state: &State, width: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut add = |label: &str, value: String, face: Face, rank: u8| {
        parts.push(Part { label: label.to_owned(), value, face, rank });
    };
    match (&state.engine, &state.card) {
        (EngineState::Ready | EngineState::Gone, Some(card)) => {
            let toy = if card.toy { "TOY " } else { "" };
            // Its speed is not that of any GPU.
            if card.plan.device.as_deref() == Some(crate::gpu::simulated::NAME) {
                add("", "SIMULATED GPU".into(), Face::Error, 0);
            }
            // The name stands over the chat as well; the numbers stand here only.
            add("", format!("{toy}{}", super::sanitize::one_line(&card.name, (width / 5).clamp(12, 28))), Face::Accent, 0);
        }
        (EngineState::Loading { stage, done, total }, _) => {
            let percent = if *total > 0 { format!(" {}%", (u128::from(*done) * 100 / u128::from(*total)).min(100)) } else { String::new() };
            add("", format!("{stage}{percent}"), Face::Accent, 0);
        }
        (EngineState::Failed, _) => add("", "the model did not open".into(), Face::Error, 0),
        (EngineState::Gone, None) => add("", "the engine has stopped".into(), Face::Error, 0),
        (EngineState::Idle | EngineState::Ready, _) => add("", "no model".into(), Face::Dim, 0),
    }
    if let Some(player) = &state.replay {
        let words = match (player.paused, player.backwards) {
            (_, false) if player.ended => "ended",
            (true, false) => "paused",
            (true, true) => "paused, backwards",
            (false, false) => "playing",
            (false, true) => "backwards",
        };
        let face = if player.backwards { Face::Selection } else { Face::Accent };
        add("replay ", format!("{words} {}/{} x{}", player.step, player.steps, player.speed), face, 1);
    }
    if let Some(player) = &state.replay {
        let policy = match (player.simulated, player.recorded) {
            (Some((policy, _)), _) => Some(format!("{policy}, simulated")),
            (None, recorded) => recorded.map(|policy| format!("{policy}, recorded")),
        };
        if let Some(policy) = policy {
            add("", policy, Face::Text, 4);
        }
    }
    if state.tempo.held {
        add("", "HELD".into(), Face::Selection, 0);
    } else if let Some(rate) = state.tempo.per_second().filter(|_| state.replay.is_none() && state.card.is_some()) {
        // The speed beside it is the model's own.
        add("pace ", format!("{rate}/s"), Face::Dim, 5);
    }
    if let Some(pause) = state.inspector.pause() {
        add("", format!("{}, Alt-0 live", super::heatmap::paused_words(pause)), Face::Selection, 0);
    } else if state.replay.is_none() && state.card.as_ref().is_some_and(|c| !c.is_dense()) {
        // The heatmap says so as well.
        add("", "LIVE".into(), Face::Dim, 7);
    }
    if let Some(card) = &state.card {
        // The same numbers as in the memory pane, over the same tokens.
        if let Some(rate) = state.memory.speed_now() {
            // Below an answer stand the numbers of that answer.
            let window = if width < 100 { String::new() } else { format!("last {}: ", state.memory.window()) };
            add(&window, format!("{rate:.1} tok/s"), Face::Text, 1);
        }
        if let Some(rate) = state.memory.hit_rate_now() {
            add("hits ", format!("{:.0}%", rate * 100.0), Face::Text, 2);
        }
        if card.is_dense() {
            add("", "dense".into(), Face::Text, 3);
        } else {
            let SlotWords(words, face) = slot_words(state);
            let spread = if state.memory.slot_range().is_some() { " by layer" } else { "" };
            add("slots ", format!("{words}/{}{spread}", card.experts), face, 3);
            if let Some(told) = state.scheduling.as_ref().filter(|_| state.replay.is_none()) {
                add("policy ", super::sanitize::one_line(&told.policy, 12), Face::Text, 6);
            }
        }
        let percent = super::memory::whole_percent(state.context_used as u64, card.context as u64);
        let face = if percent >= 90 { Face::Notice } else { Face::Text };
        let of = if width < 100 { String::new() } else { format!(" of {}", card.context) };
        add("ctx ", format!("{percent}%{of}"), face, 5);
        // Good news is the first to go.
        let (face, rank) = if state.dropped > 0 { (Face::Notice, 2) } else { (Face::Dim, 7) };
        add("drops ", state.dropped.to_string(), face, rank);
    }
    if state.link.drain > SLOW_DRAIN {
        add("link ", format!("slow, {} ms a frame", state.link.drain.as_millis()), Face::Notice, 6);
    } else {
        add("link ", "ok".into(), Face::Dim, 8);
    }
    add("", "? help".into(), Face::Dim, 4);
    parts
}

struct SlotWords(String, Face);

fn slot_words(state: &State) -> SlotWords {
    let knob = &state.slots;
    let auto = if knob.auto.is_some() { "auto " } else { "" };
    if knob.asked == knob.granted {
        SlotWords(format!("{auto}{}", knob.granted), Face::Text)
    } else {
        SlotWords(format!("{auto}{}{}{}", knob.granted, state.theme.glyphs().arrow, knob.asked), Face::Accent)
    }
}
