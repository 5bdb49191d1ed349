//! The expert heatmap: layers down, experts across, and what became of each in the latest step.

use super::experts_state::{ExpertsState, HeatmapAction};
use super::panes::PaneContext;
use super::theme::Theme;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// What a key means here, if anything.
#[must_use]
pub fn action(key: KeyEvent) -> Option<HeatmapAction> {
    if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        return None;
    }
    let far = if key.modifiers.contains(KeyModifiers::SHIFT) { 8 } else { 1 };
    Some(match key.code {
        KeyCode::Up | KeyCode::Char('k') => HeatmapAction::Up(far),
        KeyCode::Down | KeyCode::Char('j') => HeatmapAction::Down(far),
        KeyCode::Left | KeyCode::Char('h') => HeatmapAction::Left(far),
        KeyCode::Right | KeyCode::Char('l') => HeatmapAction::Right(far),
        KeyCode::Char('K') | KeyCode::PageUp => HeatmapAction::Up(8),
        KeyCode::Char('J') | KeyCode::PageDown => HeatmapAction::Down(8),
        KeyCode::Char('H') => HeatmapAction::Left(8),
        KeyCode::Char('L') => HeatmapAction::Right(8),
        KeyCode::Home => HeatmapAction::First,
        KeyCode::End => HeatmapAction::Last,
        KeyCode::Enter => HeatmapAction::Zoom,
        KeyCode::Esc => HeatmapAction::Back,
        KeyCode::Char('s') => HeatmapAction::ToggleSort,
        KeyCode::Char('p') => HeatmapAction::NextSide,
        _ => return None,
    })
}

/// Keys of this pane and what they do, for help and documentation.
pub const KEYS: [(&str, &str); 6] = [
    ("arrows, hjkl", "move the cursor; with Shift, or PgUp and PgDn, by eight"),
    ("Home, End", "first and last expert of the layer"),
    ("Enter", "zoom into the layer"),
    ("Esc", "back to all layers"),
    ("s", "order experts by heat, or by number"),
    ("p", "beside the grid: this step, layer profile, nothing"),
];

/// Handles a key while the pane has focus; `false` if it means nothing here.
pub fn on_key(state: &mut ExpertsState, key: KeyEvent) -> bool {
    action(key).is_some_and(|a| state.act(a))
}

/// Words for the pane's frame; `inside` is the rectangle that [`draw`] will get.
#[must_use]
pub fn title(_inside: Rect, state: &ExpertsState, _context: &PaneContext<'_>, _theme: &Theme) -> String {
    format!("experts {} x {}", state.layers(), state.experts())
}

/// Draws the inside of the pane.
pub fn draw(_area: Rect, _buf: &mut Buffer, _state: &ExpertsState, _context: &PaneContext<'_>, _theme: &Theme) {}
