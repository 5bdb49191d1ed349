//! Lines for the person in the status line, and when each of them ends.

use super::message::Moment;
use super::state::{EngineState, State};
use super::transcript::{Item, Kind};
use super::wrap::columns;
use std::time::{Duration, Instant};

/// Two presses of a key within this time count as twice; as long as that the notice of the first one stands.
pub(super) const TWICE: Duration = Duration::from_millis(1500);
/// How long a line stands.
const SHOWN: Duration = Duration::from_secs(5);
/// How long an error stands.
const ERROR_SHOWN: Duration = Duration::from_secs(12);

/// What a notice is about: it ends with it, and with its time at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum While {
    /// Something that has happened: only time ends it.
    Shown,
    /// A second Esc would count.
    EscapePressed,
    /// A second Ctrl-C would count.
    InterruptPressed,
    /// An answer is under way.
    Answering,
    /// An earlier prompt is being edited.
    Editing,
    /// No model is open.
    NoModel,
    /// What was typed is still in the input.
    Typed,
}

/// Something for the person, shown for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// In words.
    pub text: String,
    /// Something failed.
    pub error: bool,
    /// When it goes.
    pub until: Instant,
    /// What it goes with before that.
    pub about: While,
}

impl State {
    /// Shows a line for some seconds.
    pub fn say(&mut self, text: impl Into<String>, now: Moment) {
        self.say_while(While::Shown, text, now);
    }

    /// Shows a line until what it is about ends.
    pub(super) fn say_while(&mut self, about: While, text: impl Into<String>, now: Moment) {
        let shown = if matches!(about, While::EscapePressed | While::InterruptPressed) { TWICE } else { SHOWN };
        self.notify(text.into(), false, about, now.at + shown);
    }

    /// Shows an error for some seconds; a long one in the chat, for good.
    pub fn complain(&mut self, text: impl Into<String>, now: Moment) {
        self.complain_while(While::Shown, text, now);
    }

    /// Shows an error until what it is about ends; a long one in the chat, for good.
    pub(super) fn complain_while(&mut self, about: While, text: impl Into<String>, now: Moment) {
        let text = text.into();
        // What the line can't hold is said in the chat.
        if columns(&text) + 3 > usize::from(self.size.0) {
            self.transcript.push(Item::new(Kind::Note { error: true }, text));
            return;
        }
        self.notify(text, true, about, now.at + ERROR_SHOWN);
    }

    fn notify(&mut self, text: String, error: bool, about: While, until: Instant) {
        let text = super::sanitize::one_line(&text, 400);
        // The newest counts; older ones were seen or not, but must not pile up.
        self.notices.clear();
        self.notices.push_back(Notice { text, error, until, about });
    }

    /// Takes notices away whose time is over, or that say what is no longer so.
    pub(super) fn end_notices(&mut self, now: Moment) {
        let mut notices = std::mem::take(&mut self.notices);
        notices.retain(|n| n.until > now.at && self.is_so(n.about));
        self.notices = notices;
    }

    fn is_so(&self, about: While) -> bool {
        match about {
            While::Shown => true,
            While::EscapePressed => self.last_escape.is_some(),
            While::InterruptPressed => self.last_interrupt.is_some(),
            While::Answering => self.turn.is_some() || self.waiting,
            While::Editing => self.editing.is_some(),
            While::NoModel => matches!(self.engine, EngineState::Idle | EngineState::Failed | EngineState::Gone),
            While::Typed => !self.composer.is_empty(),
        }
    }
}
