//! The chat pane: what was said, and the input below it.

use super::tokens;
use crate::ui::layout::ChatAreas;
use crate::ui::origin::Piece;
use crate::ui::state::{EngineState, Focus, State};
use crate::ui::theme::Face;
use crate::ui::transcript::Kind;
use crate::ui::wrap::{fit, wrap, Break};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;

/// Draws the pane and says where the cursor belongs.
pub fn draw(areas: &ChatAreas, buf: &mut Buffer, state: &State) -> Option<Position> {
    if areas.framed {
        let name = state.card.as_ref().map_or_else(String::new, |c| crate::ui::sanitize::one_line(&c.name, 40));
        let title = if name.is_empty() { "chat".to_owned() } else { format!("chat {} {name}", state.theme.glyphs().dot) };
        state.theme.block(title, state.context(Focus::Chat).focused).render(areas.frame, buf);
    }
    // Notes of the program alone are no chat yet: the welcome goes on below them.
    if state.transcript.items().iter().all(|item| matches!(item.kind, Kind::Note { .. })) {
        let notes = u16::try_from(state.transcript.line_count()).unwrap_or(u16::MAX);
        let above = if notes == 0 { 0 } else { notes.saturating_add(1).min(areas.transcript.height) };
        let rest = Rect { y: areas.transcript.y + above, height: areas.transcript.height - above, ..areas.transcript };
        if notes == 0 || rest.height >= WELCOME {
            welcome(rest, buf, state);
        }
    }
    if !state.transcript.items().is_empty() {
        for (y, (item, at, row)) in (areas.transcript.y..areas.transcript.bottom()).zip(state.transcript.visible_rows()) {
            buf.set_line(areas.transcript.x, y, &row.line, areas.transcript.width);
            tokens::paint(Rect { y, height: 1, ..areas.transcript }, buf, state, (item, at, row));
        }
    }
    rule(areas.rule, areas.framed, buf, state);
    if areas.framed {
        // On the lower frame, where it is always seen and takes no row.
        let width = areas.frame.width.saturating_sub(4);
        if let Some(legend) = tokens::legend(state, usize::from(width)) {
            buf.set_line(areas.frame.x + 2, areas.frame.bottom().saturating_sub(1), &legend, width);
        }
    }
    input(areas.input, buf, state)
}

/// Rows that the welcome takes without its empty ones.
const WELCOME: u16 = 6;

/// What an empty chat says.
fn welcome(area: Rect, buf: &mut Buffer, state: &State) {
    let theme = &state.theme;
    let width = usize::from(area.width.saturating_sub(1));
    let mut lines: Vec<Line> = Vec::new();
    let mut say = |face: Face, text: &str| {
        lines.extend(wrap(&[Piece::new(text.to_owned(), theme.style(face))], width, Break::Words).into_iter().map(|row| row.line));
    };
    say(Face::Title, "Rotary");
    say(Face::Dim, "");
    match (&state.engine, &state.card) {
        (EngineState::Ready, Some(card)) => {
            let name = crate::ui::sanitize::one_line(&card.name, 60);
            say(Face::Text, &name);
            if card.toy {
                say(Face::Dim, "a toy: it shows how things work and is often wrong");
            }
            let shape = format!(
                "{} layers of {} experts, {} used per token; {} slots per layer",
                card.layers, card.experts, card.top_k, state.slots.granted
            );
            say(Face::Dim, &shape);
        }
        (EngineState::Loading { stage, .. }, _) => say(Face::Dim, stage),
        _ if state.replay.is_some() => say(Face::Dim, "a recorded trace"),
        _ => say(Face::Dim, "no model is open: /model PATH, or /model demo"),
    }
    say(Face::Dim, "");
    if state.replay.is_some() {
        say(Face::Dim, "Space stops and goes on, . and , take steps, ; turns round. ? shows all keys.");
    } else {
        say(Face::Dim, "Type and press Enter. ? shows all keys, / all commands.");
    }
    say(Face::Dim, "Alt-+ and Alt-- turn the slots; Tab goes to the panes.");
    if lines.len() > usize::from(area.height) {
        lines.retain(|line| line.width() > 0);
    }
    let top = area.y + area.height.saturating_sub(lines.len() as u16) / 2;
    for (y, line) in (top..area.bottom()).zip(&lines) {
        buf.set_line(area.x + 1.min(area.width), y, line, area.width.saturating_sub(1));
    }
}

/// The line over the input: what is going on, and how much lies below the view.
fn rule(area: Rect, framed: bool, buf: &mut Buffer, state: &State) {
    if area.is_empty() {
        return;
    }
    let theme = &state.theme;
    let glyphs = theme.glyphs();
    let bar = if theme.ascii { "-" } else { "─" };
    buf.set_string(area.x, area.y, bar.repeat(usize::from(area.width)), theme.style(Face::Border));
    let mut spans: Vec<Span> = Vec::new();
    let mut part = |face: Face, text: String| spans.push(theme.span(face, format!(" {text} ")));
    let away = state.focus != Focus::Chat && state.overlay.is_none();
    let held = state.tempo.held && state.turn.is_some();
    if away && !held {
        let pane = if state.focus == Focus::Memory { "the memory pane" } else { "the heatmap" };
        part(Face::Notice, format!("{pane} has the keys, Esc to type"));
    }
    if let Some(search) = state.composer.search() {
        let found = state.composer.found().map_or("nothing found", |f| f.lines().next().unwrap_or(""));
        part(Face::Accent, format!("search: {}{} {found}", search.query, glyphs.ellipsis));
    } else if let Some(turn) = &state.turn {
        match (turn.cancelling, turn.prefill) {
            (true, _) => part(Face::Notice, "cancelling".into()),
            (false, Some((done, total))) if done < total => {
                part(Face::Accent, format!("reading the prompt {done}/{total}"));
            }
            (false, _) if held && away => part(Face::Selection, "held: Space goes on, . lets a token through; Esc to type".into()),
            (false, _) if held => part(Face::Selection, "held: Alt-p goes on, Alt-n lets a token through".into()),
            (false, _) if state.replay.is_some() || away => part(Face::Accent, "answering".into()),
            (false, _) => part(Face::Accent, "answering, Esc cancels".into()),
        }
    } else if state.waiting {
        part(Face::Accent, "waits for the model, Esc takes it back".into());
    } else if state.editing.is_some() {
        let long = "editing an earlier prompt: Esc Esc goes further back";
        part(Face::Notice, if usize::from(area.width) > long.len() + 4 { long } else { "editing an earlier prompt" }.into());
    }
    if let Some(reason) = &state.unsaved {
        part(Face::Error, format!("not saved: {reason}"));
    }
    let mut line = Line::from(spans);
    if !framed {
        line.spans.extend(tokens::legend(state, usize::from(area.width).saturating_sub(line.width() + 2)).into_iter().flatten());
    }
    buf.set_line(area.x + 1, area.y, &line, area.width.saturating_sub(1));
    let below = state.transcript.lines_below();
    if below > 0 {
        let down = if theme.ascii { "v" } else { "↓" };
        let text = format!(" {down} {below} lines below ");
        let width = (text.chars().count() as u16).min(area.width);
        buf.set_string(area.right() - width, area.y, fit(&text, usize::from(width)), theme.style(Face::Notice));
    }
}

fn input(area: Rect, buf: &mut Buffer, state: &State) -> Option<Position> {
    if area.is_empty() {
        return None;
    }
    let theme = &state.theme;
    let focused = state.context(Focus::Chat).focused;
    let mark = if focused { Face::Accent } else { Face::Dim };
    if area.x > 0 {
        let x = area.x.saturating_sub(crate::ui::layout::INPUT_MARK);
        buf.set_string(x, area.y, theme.glyphs().pointer, theme.style(mark));
    }
    let rows = state.composer.rows(usize::from(area.width));
    let height = usize::from(area.height);
    // The row with the cursor is always in view.
    let first = rows.cursor.0.saturating_sub(height - 1).min(rows.rows.len().saturating_sub(height));
    let text = state.composer.text();
    if text.is_empty() {
        let hint = match &state.engine {
            _ if state.replay.is_some() => "a recording: Space stops, ; turns, . , step, < > speed",
            EngineState::Loading { .. } => "the model is being opened; you can already ask",
            EngineState::Ready => "ask something",
            _ => "",
        };
        buf.set_stringn(area.x, area.y, hint, usize::from(area.width), theme.style(Face::Dim));
    }
    for (y, row) in (area.y..area.bottom()).zip(&rows.rows[first..]) {
        let shown = fit(&text[row.clone()], usize::from(area.width));
        buf.set_string(area.x, y, shown, theme.style(Face::Text));
    }
    // What does not fit lies above and below.
    let (up, down) = if theme.ascii { ("^", "v") } else { ("↑", "↓") };
    let beside = area.x.saturating_sub(crate::ui::layout::INPUT_MARK);
    if first > 0 {
        buf.set_string(beside, area.y, up, theme.style(Face::Notice));
    }
    if rows.rows.len() > first + height && beside < area.x {
        buf.set_string(beside, area.bottom() - 1, down, theme.style(Face::Notice));
    }
    let row = rows.cursor.0 - first;
    focused.then(|| Position::new(area.x + rows.cursor.1 as u16, area.y + row as u16))
}
