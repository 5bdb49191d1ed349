//! The panes: each draws one part of the state into one rectangle, and nothing else.
//!
//! A pane is two functions, found by name in its file:
//!
//! - `draw(area, buf, <its state>, &PaneContext, &Theme)` paints the inside of the rectangle. The frame with
//!   the title is painted by the caller; a pane that wants words in its title offers
//!   `title(<its state>, &PaneContext) -> String`.
//! - `on_key(&mut <its state>, KeyEvent) -> bool` handles a key while the pane has focus and says whether it
//!   did; keys for slots, focus and quitting never reach it.
//!
//! Panes must draw in any rectangle, one cell included, and must say with a glyph what they say with a colour.

pub mod chat;
mod tokens;

use super::memory_state::auto::Auto;
use crate::events::ModelCard;

/// The slot count as the person (or the automatic knob) turned it and as the engine gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotKnob {
    /// Slots per layer last asked for; 0 before the first model is open.
    pub asked: usize,
    /// Slots per layer in force.
    pub granted: usize,
    /// What was asked for, if something else was granted. While `asked` differs from `granted` the answer is still to come.
    pub refused: Option<usize>,
    /// Why less (or other) than asked was granted.
    pub why: Option<String>,
    /// Slots are to differ by layer, as soon as enough was seen.
    pub spread: bool,
    /// The knob turns itself.
    pub auto: Option<Auto>,
}

impl SlotKnob {
    /// At rest at a slot count.
    #[must_use]
    pub fn at(slots: usize) -> Self {
        Self { asked: slots, granted: slots, ..Self::default() }
    }
}

/// What a pane may know besides its own state.
#[derive(Clone, Copy, Debug)]
pub struct PaneContext<'a> {
    /// The open model, if one is.
    pub card: Option<&'a ModelCard>,
    /// The slot knob.
    pub slots: &'a SlotKnob,
    /// Telemetry records lost since the model was opened.
    pub dropped: u64,
    /// An answer is being generated.
    pub generating: bool,
    /// The pane has the keyboard.
    pub focused: bool,
    /// Only ASCII glyphs may be drawn.
    pub ascii: bool,
}
