//! Typed text told from pasted text.
//!
//! Pastes come in two ways: as one bracketed paste, or, in terminals without that, as a burst of keys. In a burst, Enter must
//! not send: it is held back for a moment, and if more keys follow at typing-machine speed it was a line break of the paste.

use super::{Composer, MAX_INPUT};
use crate::ui::sanitize;
use std::time::{Duration, Instant};

/// Keys closer together than this were not typed by hand.
const BURST_GAP: Duration = Duration::from_millis(8);
/// How long an Enter at the end of a burst waits for more keys.
const ENTER_HOLD: Duration = Duration::from_millis(40);
/// Keys in a row that make a burst.
const BURST_KEYS: u32 = 3;

/// Keeps typed text apart from pasted text by the time between keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Burst {
    last_key: Option<Instant>,
    fast_keys: u32,
    pub(super) held_enter: Option<Instant>,
    /// A held Enter of this burst has turned out to be a line break.
    is_paste: bool,
    /// The terminal marks its pastes, so bursts mean nothing.
    off: bool,
}

/// What became of an Enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enter {
    /// Send now.
    Send,
    /// Wait: ask again at [`Composer::deadline`].
    Held,
}

impl Composer {
    /// A character was typed.
    pub fn type_char(&mut self, c: char, now: Instant) {
        if let Some(search) = &mut self.search {
            search.query.push(c);
            self.find(self.history.len());
            return;
        }
        let fast = self.burst.last_key.is_some_and(|t| now.duration_since(t) < BURST_GAP);
        self.burst.fast_keys = if fast { self.burst.fast_keys + 1 } else { 0 };
        if !fast {
            self.burst.is_paste = false;
        }
        self.burst.last_key = Some(now);
        if self.burst.held_enter.take().is_some() {
            self.burst.is_paste = true;
            self.insert("\n");
        }
        let mut buffer = [0; 4];
        self.insert(c.encode_utf8(&mut buffer));
    }

    /// Enter was pressed.
    pub fn enter(&mut self, now: Instant) -> Enter {
        let fast = self.burst.last_key.is_some_and(|t| now.duration_since(t) < BURST_GAP);
        if self.burst.off || !fast || self.burst.fast_keys < BURST_KEYS {
            return Enter::Send;
        }
        self.burst.last_key = Some(now);
        if self.burst.is_paste || self.burst.held_enter.is_some() {
            self.insert("\n");
            self.burst.is_paste = true;
            self.burst.held_enter = None;
        } else {
            self.burst.held_enter = Some(now);
        }
        Enter::Held
    }

    /// When a held Enter is to be decided with [`Composer::held_enter_is_due`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.burst.held_enter.map(|t| t + ENTER_HOLD)
    }

    /// No key followed a held Enter, so it was one: send.
    pub fn held_enter_is_due(&mut self, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|t| now >= t);
        if due {
            self.burst.held_enter = None;
        }
        due
    }

    /// The terminal marked a paste. Returns false if it had to be cut.
    pub fn paste(&mut self, text: &str) -> bool {
        self.burst.off = true;
        self.search = None;
        let clean = sanitize::text(text);
        let room = MAX_INPUT.saturating_sub(self.text.len());
        let mut end = room.min(clean.len());
        while !clean.is_char_boundary(end) {
            end -= 1;
        }
        self.insert(&clean[..end]);
        end == clean.len()
    }
}
