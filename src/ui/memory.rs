//! The memory pane: slots, hit rate, speed, time split, tiers.

use super::memory_state::MemoryState;
use super::panes::PaneContext;
use super::theme::Theme;
use crossterm::event::KeyEvent;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Handles a key while the pane has focus; `false` if it means nothing here.
pub fn on_key(_state: &mut MemoryState, _key: KeyEvent) -> bool {
    false
}

/// Words for the pane's frame; `inside` is the rectangle that [`draw`] will get.
#[must_use]
pub fn title(_inside: Rect, _state: &MemoryState, _context: &PaneContext<'_>, _theme: &Theme) -> String {
    "memory".into()
}

/// Draws the inside of the pane.
pub fn draw(_area: Rect, _buf: &mut Buffer, _state: &MemoryState, _context: &PaneContext<'_>, _theme: &Theme) {}
