//! Keys for what lies above the panes: a search through earlier prompts, completions, an overlay.

use super::{chat, slash};
use crate::ui::message::{Effect, Moment};
use crate::ui::overlay::{self, Help};
use crate::ui::state::{Overlay, Pick, State};
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

/// Longest query of a list, in characters.
const MAX_QUERY: usize = 60;

pub(super) fn overlay_key(state: &mut State, key: KeyEvent, now: Moment, out: &mut Vec<Effect>) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let (furthest, page) = match &state.overlay {
        Some(Overlay::Help(help)) => overlay::help_reach(state, help),
        Some(list) => (overlay::count(list).saturating_sub(1), overlay::page(state)),
        None => return,
    };
    let page = isize::try_from(page.saturating_sub(1).max(1)).unwrap_or(isize::MAX);
    // In the help letters scroll, until something is looked for.
    let scrolls = matches!(&state.overlay, Some(Overlay::Help(Help { query: None, .. })));
    let step = match key.code {
        KeyCode::Up => -1,
        KeyCode::Down => 1,
        KeyCode::PageUp => -page,
        KeyCode::PageDown => page,
        KeyCode::Home => isize::MIN,
        KeyCode::End => isize::MAX,
        KeyCode::Enter => return slash::pick(state, now, out),
        KeyCode::Char('l') if control => return out.push(Effect::Redraw),
        KeyCode::Char('z') if control => return out.push(Effect::Suspend),
        KeyCode::Esc => match &mut state.overlay {
            Some(Overlay::Help(help)) if help.query.is_some() => {
                *help = Help::default();
                return;
            }
            overlay => {
                *overlay = None;
                return;
            }
        },
        KeyCode::F(1) => {
            state.overlay = None;
            return;
        }
        KeyCode::Char('c' | 'd' | 'p') if control => {
            state.overlay = None;
            return;
        }
        KeyCode::Char('k') if scrolls => -1,
        KeyCode::Char('j') if scrolls => 1,
        KeyCode::Char(' ') if scrolls => page,
        KeyCode::Char('q' | '?') if scrolls => {
            state.overlay = None;
            return;
        }
        KeyCode::Char('/') if scrolls => {
            state.overlay = Some(Overlay::Help(Help { at: 0, query: Some(String::new()) }));
            return;
        }
        KeyCode::Char(c) if key.modifiers.difference(KeyModifiers::SHIFT).is_empty() => {
            return look_for(state, |query| {
                if query.chars().count() < MAX_QUERY {
                    query.push(c);
                }
            });
        }
        KeyCode::Backspace => {
            return look_for(state, |query| {
                query.pop();
            })
        }
        _ => return,
    };
    let at = match &mut state.overlay {
        Some(Overlay::Help(help)) => &mut help.at,
        Some(Overlay::Palette(pick) | Overlay::Chats(_, pick)) => &mut pick.at,
        None => return,
    };
    // The screen may have grown since.
    *at = (*at).min(furthest).saturating_add_signed(step).min(furthest);
}

/// Changes what is looked for in a list, or in the help. The first entry that has it is selected.
fn look_for(state: &mut State, change: impl FnOnce(&mut String)) {
    if let Some(
        Overlay::Palette(Pick { query, at }) | Overlay::Chats(_, Pick { query, at }) | Overlay::Help(Help { query: Some(query), at }),
    ) = &mut state.overlay
    {
        change(query);
        *at = 0;
    }
}
