//! What goes into [`update`](super::update::update) and what comes out of it. Plain data.

use super::replay_fold::ReplayFold;
use super::session::{Listed, SavedChat};
use super::theme::Theme;
use super::writer::LinkState;
use crate::engine::Pace;
use crate::events::{Command, Event, Gauges, ModelSource, StepRecord, When};
use crate::trace::player::Frame;
use crossterm::event::KeyEvent;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

/// When something happens, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For intervals.
    pub at: Instant,
    /// For dates.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }
}

/// Something happened.
#[derive(Debug)]
pub enum Message {
    /// A key was pressed.
    Key(KeyEvent),
    /// Text was pasted.
    Paste(String),
    /// The terminal has this size (columns, rows).
    Resize(u16, u16),
    /// The engine says something.
    Engine(Event),
    /// The engine's thread has ended.
    EngineGone,
    /// Telemetry of one step; kept until [`Message::Fold`].
    Step(Box<StepRecord>),
    /// Fold the telemetry that was kept.
    Fold,
    /// Slow gauges.
    Gauges(Gauges),
    /// Telemetry records dropped in all.
    Dropped(u64),
    /// How the link does.
    Link(LinkState),
    /// A recorded trace is at this place.
    Frame(Box<Frame<ReplayFold>>),
    /// A deadline of [`State::deadline`](super::state::State::deadline) has passed.
    Tick,
    /// A frame is about to be drawn: bring the layout up to date.
    Draw,
    /// The chat of this name was saved, and under which name, or why not.
    Saved(String, Result<String, String>),
    /// A file that is to be opened could be a model, or why not.
    Looked(ModelSource, Result<(), String>),
    /// The saved chats, for the list (`true`) or to take up the last one.
    Chats(Vec<Listed>, bool),
    /// A chat was read.
    ChatRead(String, Result<Box<SavedChat>, String>),
    /// The editor was left with this text, or failed.
    Edited(Result<String, String>),
    /// A theme was read.
    ThemeRead(Result<Box<Theme>, String>),
    /// A line for the person.
    Say(String),
    /// An error for the person.
    Complain(String),
}

/// Something is to be done outside of the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send this to the engine; start one if there is none.
    Engine(EngineCommand),
    /// Cancel the turn at hand.
    Cancel,
    /// Ask for this many slots per layer.
    WantSlots(usize),
    /// Ask for slots by layer, or for equal ones.
    WantSpread(bool),
    /// Ask for likely tokens to be read along, or not.
    WantDrafts(When),
    /// How fast answers may come.
    WantPace(Pace),
    /// One more token of a held answer.
    LetOne,
    /// Save the chat under this name.
    Save(String, Box<SavedChat>),
    /// Remove a saved chat in which nothing was said after all.
    Forget(String),
    /// List the saved chats; `true` shows the list, `false` takes up the last one.
    ListChats(bool),
    /// Read a chat.
    ReadChat(String),
    /// Look whether a model could be opened, before the one at hand is let go.
    Look(ModelSource),
    /// Record into this new file from now on; `None` ends the recording.
    Record(Option<PathBuf>),
    /// Write text to a new file.
    Export(PathBuf, String),
    /// Put text on the clipboard through the terminal.
    Copy(String),
    /// Edit text in an editor.
    Edit(String),
    /// Read a theme by name, with or without ASCII glyphs.
    ReadTheme(String, bool),
    /// Send everything anew at the next frame.
    Redraw,
    /// Stop the process until the shell continues it.
    Suspend,
    /// Control the player of a recorded trace.
    Play(PlayerAction),
    /// Leave with this status.
    Quit(u8),
}

/// What is asked of the player of a recorded trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PlayerAction {
    /// Stop or go on.
    Toggle,
    /// Play in the other direction.
    Turn,
    /// This many steps on, or back.
    Step(i64),
    /// This factor of the real speed.
    Speed(f64),
}

/// [`Command`] with equality, for tests of the update.
#[derive(Clone, Debug)]
pub struct EngineCommand(pub Command);

impl PartialEq for EngineCommand {
    fn eq(&self, other: &Self) -> bool {
        format!("{:?}", self.0) == format!("{:?}", other.0)
    }
}
