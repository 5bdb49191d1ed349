//! Keys for what lies above the panes: a search through earlier prompts, completions, an overlay.

use super::{chat, slash};
use crate::ui::keys;
use crate::ui::message::{Effect, Moment};
use crate::ui::state::{Overlay, State};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

pub(super) fn search_key(state: &mut State, key: KeyEvent, now: Moment) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Enter | KeyCode::Tab => state.composer.end_search(true),
        KeyCode::Esc => state.composer.end_search(false),
        KeyCode::Char('c' | 'g') if control => state.composer.end_search(false),
        KeyCode::Char('r') if control => state.composer.search_older(),
        KeyCode::Backspace => state.composer.backspace(),
        KeyCode::Char(c) if !control => state.composer.type_char(c, now.at),
        _ => {
            state.composer.end_search(true);
            return false;
        }
    }
    true
}

pub(super) fn popup_key(state: &mut State, key: KeyEvent, now: Moment, out: &mut Vec<Effect>) -> bool {
    let Some(popup) = &mut state.popup else { return false };
    let count = popup.entries.len();
    match key.code {
        KeyCode::Up if key.modifiers.is_empty() => popup.selected = (popup.selected + count - 1) % count,
        KeyCode::Down if key.modifiers.is_empty() => popup.selected = (popup.selected + 1) % count,
        KeyCode::Esc => state.composer.clear(),
        KeyCode::Tab | KeyCode::Enter if key.modifiers.is_empty() => {
            let line = popup.entries[popup.selected].0.clone();
            let typed = state.composer.text().trim_end().to_owned();
            let completed = slash::completed(&line);
            let is_whole = slash::is_whole(&typed);
            if key.code == KeyCode::Enter && is_whole {
                return false;
            }
            state.composer.set(completed.clone());
            if key.code == KeyCode::Enter && !completed.ends_with(' ') {
                chat::send(state, now, out);
            }
        }
        _ => return false,
    }
    true
}

pub(super) fn overlay_key(state: &mut State, key: KeyEvent, now: Moment, out: &mut Vec<Effect>) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let step: isize = match key.code {
        KeyCode::Up | KeyCode::Char('k') => -1,
        KeyCode::Down | KeyCode::Char('j') => 1,
        KeyCode::PageUp => -10,
        KeyCode::PageDown | KeyCode::Char(' ') => 10,
        KeyCode::Home => isize::MIN,
        KeyCode::End => isize::MAX,
        KeyCode::Enter => return slash::pick(state, now, out),
        KeyCode::Char('l') if control => return out.push(Effect::Redraw),
        KeyCode::Char('z') if control => return out.push(Effect::Suspend),
        KeyCode::Esc | KeyCode::Char('q' | '?') | KeyCode::F(1) => {
            state.overlay = None;
            return;
        }
        KeyCode::Char('c' | 'd' | 'p') if control => {
            state.overlay = None;
            return;
        }
        _ => return,
    };
    let to = |at: usize, count: usize| at.saturating_add_signed(step).min(count.saturating_sub(1));
    match &mut state.overlay {
        Some(Overlay::Help(at)) => *at = to(*at, crate::ui::overlay::help_lines()),
        Some(Overlay::Palette(at)) => *at = to(*at, keys::COMMANDS.len()),
        Some(Overlay::Chats(chats, at)) => *at = to(*at, chats.len()),
        None => {}
    }
}
