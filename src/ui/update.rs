//! The one place where the state changes. Pure: no clock, no file, no terminal; what has to happen outside
//! comes back as [`Effect`]s.

mod above;
mod chat;
mod engine;
mod knob;
mod slash;
mod tempo;

use super::composer::Enter;
use super::heatmap;
use super::keys::{self, Action, Scope};
use super::memory;
use super::message::{Effect, Message, Moment, PlayerAction};
use super::notice::{While, TWICE};
use super::overlay::Help;
use super::state::{Focus, Overlay, Pick, State};
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Changes the state for what happened, and says what is to be done.
pub fn update(state: &mut State, message: Message, now: Moment) -> Vec<Effect> {
    let mut effects = Vec::new();
    let out = &mut effects;
    match message {
        Message::Key(event) => {
            if event.kind != KeyEventKind::Release {
                forget_presses(state, event);
                key(state, event, now, out);
                complete(state);
            }
        }
        Message::Paste(text) => {
            state.overlay = None;
            state.focus = Focus::Chat;
            if !state.composer.paste(&text) {
                state.complain("the paste was cut: the input holds at most 1 MiB", now);
            }
            complete(state);
        }
        Message::Resize(columns, rows) => {
            state.size = (columns, rows);
        }
        Message::Engine(event) => engine::event(state, event, now, out),
        Message::EngineGone => engine::gone(state, now, out),
        Message::Step(record) => {
            if state.keep_step(*record) {
                knob::fold(state, now, out);
            }
        }
        Message::Fold => knob::fold(state, now, out),
        Message::Gauges(gauges) => {
            state.gauges(&gauges);
            knob::look(state, now, out);
        }
        Message::Dropped(dropped) => state.dropped = dropped,
        Message::Link(link) => state.link = link,
        Message::Frame(frame) => {
            let judged = state.memory.accuracy().count();
            state.show_frame(*frame);
            knob::judge(state, judged, now);
            knob::look(state, now, out);
        }
        Message::Tick => {
            if state.composer.held_enter_is_due(now.at) {
                chat::send(state, now, out);
                complete(state);
            }
        }
        Message::Draw => {
            let areas = state.areas();
            let area = areas.chat.transcript;
            state.transcript.lay_out(usize::from(area.width), usize::from(area.height), &state.theme);
            state.refresh_pause();
        }
        Message::Saved(id, result) => chat::saved(state, &id, result, now),
        Message::Looked(source, Ok(())) => slash::open_model(state, source, out),
        Message::Looked(_, Err(reason)) => slash::stay(state, &reason),
        Message::Chats(chats, true) if chats.is_empty() => state.say("there are no saved chats yet", now),
        Message::Chats(chats, true) => state.overlay = Some(Overlay::Chats(chats, Pick::default())),
        Message::Chats(chats, false) => chat::resume_last(state, &chats, now, out),
        Message::ChatRead(id, result) => chat::resumed(state, id, result, now),
        Message::Edited(Ok(text)) => state.composer.set(text),
        Message::Edited(Err(reason)) | Message::Complain(reason) => state.complain(reason, now),
        Message::ThemeRead(Ok(theme)) => {
            state.theme = *theme;
            state.transcript.restyle();
        }
        Message::ThemeRead(Err(reason)) => chat::note(state, reason, true),
        Message::Say(text) => state.say(text, now),
    }
    state.end_notices(now);
    effects
}

/// Keeps the completion list in step with the input.
fn complete(state: &mut State) {
    let selected = state.popup.take().map(|p| (p.entries, p.selected));
    state.popup = state.completions();
    if let (Some(popup), Some((entries, selected))) = (&mut state.popup, selected) {
        if popup.entries == entries {
            popup.selected = selected;
        }
    }
}

/// Twice means with nothing in between.
fn forget_presses(state: &mut State, key: KeyEvent) {
    if key.code != KeyCode::Esc {
        state.last_escape = None;
    }
    if !(key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'C'))) {
        state.last_interrupt = None;
    }
}

fn key(state: &mut State, key: KeyEvent, now: Moment, out: &mut Vec<Effect>) {
    let plain = key.modifiers.difference(KeyModifiers::SHIFT).is_empty();
    if state.overlay.is_some() {
        return above::overlay_key(state, key, now, out);
    }
    if state.composer.search().is_some() && above::search_key(state, key, now) {
        return;
    }
    if state.popup.is_some() && above::popup_key(state, key, now, out) {
        return;
    }
    // Whoever has begun to type types on: a command may have any of these in it.
    let typing = state.focus == Focus::Chat && !state.composer.is_empty();
    if state.replay.is_some() && !typing {
        if let Some(action) = keys::action(&[Scope::Replay, Scope::Panes], key) {
            return act(state, action, now, out);
        }
    }
    if state.focus == Focus::Chat {
        if let (KeyCode::Char(c), true) = (key.code, plain) {
            if c == '?' && state.composer.is_empty() {
                state.overlay = Some(Overlay::Help(Help::default()));
            } else {
                state.composer.type_char(c, now.at);
            }
            return;
        }
        if let Some(action) = keys::action(&[Scope::Chat, Scope::Everywhere], key) {
            act(state, action, now, out);
        }
        return;
    }
    if let Some(action) = keys::action(&[Scope::Panes], key) {
        return act(state, action, now, out);
    }
    let taken = match state.focus {
        Focus::Heatmap if key.code == KeyCode::Char('d') && plain && state.difference.is_some() => {
            state.one_side = !state.one_side;
            true
        }
        Focus::Heatmap => state.with_heatmap(|experts| heatmap::on_key(experts, key)),
        Focus::Memory => memory::on_key(&mut state.memory, key),
        Focus::Chat => false,
    };
    if taken {
        return;
    }
    match (key.code, plain) {
        (KeyCode::Char('?'), true) => state.overlay = Some(Overlay::Help(Help::default())),
        (KeyCode::Char('/'), true) => {
            state.focus = Focus::Chat;
            if state.composer.is_empty() {
                state.composer.set("/");
            }
        }
        (code, plain) => match (keys::action(&[Scope::Everywhere], key), code) {
            (Some(action), _) => act(state, action, now, out),
            // Whoever types a letter that means nothing here wants to say something.
            (None, KeyCode::Char(c)) if plain && state.replay.is_none() => {
                state.focus = Focus::Chat;
                state.composer.type_char(c, now.at);
            }
            (None, _) => {}
        },
    }
}

fn input_width(state: &State) -> usize {
    usize::from(state.areas().chat.input.width)
}

fn act(state: &mut State, action: Action, now: Moment, out: &mut Vec<Effect>) {
    // Scrolling needs the layout of what is there now.
    let areas = state.areas().chat.transcript;
    let lay_out = |state: &mut State| {
        state.transcript.lay_out(usize::from(areas.width), usize::from(areas.height), &state.theme);
    };
    match action {
        Action::Send => match state.composer.enter(now.at) {
            Enter::Send => chat::send(state, now, out),
            Enter::Held => {}
        },
        Action::Newline => state.composer.insert("\n"),
        Action::Escape => escape(state, now, out),
        Action::Interrupt => interrupt(state, now, out),
        Action::EndOfInput => {
            lay_out(state);
            if state.composer.is_empty() && state.transcript.at_end() {
                chat::quit(state, now, out);
            } else {
                state.transcript.page(true, true);
            }
        }
        Action::Redraw => out.push(Effect::Redraw),
        Action::Suspend => out.push(Effect::Suspend),
        Action::Editor => out.push(Effect::Edit(state.composer.text().to_owned())),
        Action::Regenerate => chat::regenerate(state, now, out),
        Action::Help => state.overlay = Some(Overlay::Help(Help::default())),
        Action::Palette => state.overlay = Some(Overlay::Palette(Pick::default())),
        Action::SearchHistory => {
            state.focus = Focus::Chat;
            state.composer.search_older();
        }
        // A command that has nothing to complete keeps the keys: they would mean something else in a pane.
        Action::NextPane if state.focus == Focus::Chat && state.composer.text().starts_with('/') => {
            state.say("nothing to complete here", now);
        }
        Action::NextPane => next_pane(state, 1),
        Action::PreviousPane => next_pane(state, 2),
        Action::Pane(index) => focus(state, Focus::ALL[usize::from(index).min(2)]),
        Action::PageUp | Action::PageDown => {
            lay_out(state);
            state.transcript.page(action == Action::PageDown, false);
        }
        Action::HalfUp if state.focus == Focus::Chat && !state.composer.is_empty() => state.composer.delete_to_start(),
        Action::HalfUp => {
            lay_out(state);
            state.transcript.page(false, true);
        }
        Action::Start => {
            lay_out(state);
            state.transcript.to_start();
        }
        Action::End => state.transcript.to_end(),
        Action::PreviousPrompt | Action::NextPrompt => {
            lay_out(state);
            state.transcript.to_prompt(action == Action::NextPrompt);
        }
        Action::Thinking => {
            if !state.transcript.toggle_thinking() {
                state.say("no answer here has a thinking block", now);
            }
        }
        Action::Slots(by) => knob::turn(state, isize::from(by), now, out),
        Action::Token(to) => {
            lay_out(state);
            if !state.move_token(to) {
                state.say("no token of this model is in the chat yet", now);
            }
        }
        Action::Hold => tempo::hold(state, now, out),
        Action::LetOne => tempo::let_one(state, now, out),
        Action::Whole => state.whole = !state.whole,
        Action::Leave => chat::quit(state, now, out),
        Action::Live => state.go_live(),
        Action::NextTint => slash::set_tint(state, state.inspector.tint.next(), now),
        Action::Left => state.composer.left(),
        Action::Right => state.composer.right(),
        Action::WordLeft => state.composer.word_left(),
        Action::WordRight => state.composer.word_right(),
        Action::Up => state.composer.up(input_width(state)),
        Action::Down => state.composer.down(input_width(state)),
        Action::Home => state.composer.home(),
        Action::LineEnd => state.composer.end(),
        Action::Backspace => state.composer.backspace(),
        Action::Delete => state.composer.delete(),
        Action::DeleteWord => state.composer.delete_word(),
        Action::DeleteToEnd => state.composer.delete_to_end(),
        Action::PlayTurn => out.push(Effect::Play(PlayerAction::Turn)),
        Action::PlayPause => out.push(Effect::Play(PlayerAction::Toggle)),
        Action::PlayStep(by) => out.push(Effect::Play(PlayerAction::Step(i64::from(by)))),
        Action::PlayFaster(faster) => {
            let speed = state.replay.as_ref().map_or(1.0, |p| p.speed);
            let factor = if faster { 2.0 } else { 0.5 };
            let speed = (speed * factor).clamp(1.0 / 64.0, 1e6);
            // The next press goes on from here, whether or not the player has answered by then.
            if let Some(player) = &mut state.replay {
                player.speed = speed;
            }
            out.push(Effect::Play(PlayerAction::Speed(speed)));
        }
    }
}

fn next_pane(state: &mut State, by: usize) {
    let at = Focus::ALL.iter().position(|&f| f == state.focus).unwrap_or(0);
    focus(state, Focus::ALL[(at + by) % 3]);
}

fn focus(state: &mut State, to: Focus) {
    state.focus = to;
    if to != Focus::Chat {
        state.side = to;
    }
}

fn escape(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    let twice = state.last_escape.take().is_some_and(|t| now.at.duration_since(t) < TWICE);
    if state.whole && state.focus != Focus::Chat {
        state.whole = false;
    } else if state.focus != Focus::Chat {
        state.focus = Focus::Chat;
    } else if state.turn.is_some() {
        chat::cancel(state, out);
    } else if state.waiting {
        chat::stop_waiting(state, now, out);
    } else if twice {
        chat::edit_previous(state, now);
    } else if state.editing.is_some() && state.composer.is_empty() {
        chat::leave_edit(state);
    } else if state.replay.is_none() {
        state.last_escape = Some(now.at);
        if state.transcript.last_prompt().is_some() {
            state.say_while(While::EscapePressed, "Esc again edits the previous prompt", now);
        }
    }
}

fn interrupt(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    let twice = state.last_interrupt.take().is_some_and(|t| now.at.duration_since(t) < TWICE);
    // In a recording this stops what plays, and that only once: what stands still is left, and what was typed is taken away.
    let plays = state.replay.as_ref().is_none_or(|player| !player.paused && !player.ended && state.composer.is_empty());
    if state.turn.is_some() && plays {
        chat::cancel(state, out);
    } else if state.waiting {
        chat::stop_waiting(state, now, out);
    } else if state.editing.is_some() {
        chat::leave_edit(state);
    } else if !state.composer.is_empty() {
        let text = state.composer.text().to_owned();
        state.composer.remember(&text);
        state.composer.clear();
    } else if twice {
        return chat::quit(state, now, out);
    } else {
        state.focus = Focus::Chat;
        state.say_while(While::InterruptPressed, "Ctrl-C again quits", now);
        state.last_interrupt = Some(now.at);
        return;
    }
    // A second press must not quit when the first one did something else.
    state.last_interrupt = None;
}

#[cfg(test)]
pub(in crate::ui) mod tests;
