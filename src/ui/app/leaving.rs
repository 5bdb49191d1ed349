//! The end, in order, and the words after it.

use super::{App, FRAME_WAIT};
use crate::events::{Command, ModelSource};
use crate::trace::record::Recorder;
use crate::ui::message::{Message, Moment};
use crate::ui::sanitize;
use crate::ui::saver::Job;
use crate::ui::state::State;
use std::time::Duration;

/// How long leaving waits for the chat to reach the disk.
const SAVE_WAIT: Duration = Duration::from_millis(900);

impl App {
    /// Ends in order: the engine stops, the chat reaches the disk, the last frame the terminal.
    pub(super) fn end(&mut self) {
        let id = self.state.chat_id.clone();
        let chat = self.state.saved_chat(Moment::now());
        let said = !chat.messages.is_empty() && self.state.replay.is_none();
        if said && self.state.unsaved_words {
            self.saver.give(Job::Save(id, Box::new(chat)));
        }
        if let Some(engine) = &self.engine {
            engine.signals.cancel();
            let _ = engine.commands.try_send(Command::Shutdown);
        }
        if self.saver.flush(SAVE_WAIT) {
            // The chat may have got another name.
            while let Ok(reply) = self.replies.try_recv() {
                if matches!(reply, Message::Saved(..)) {
                    self.send(reply);
                }
            }
            self.farewell = farewell(&self.state).filter(|_| said);
        } else {
            tracing::error!("the chat did not reach the disk in time");
        }
        if let Some(Err(error)) = self.recorder.take().map(Recorder::finish) {
            tracing::error!("{}: the recording is not whole: {error}", self.recorded);
        }
        self.input = None;
        let _ = self.pipe.wait(FRAME_WAIT);
    }
}

/// How to go on with this chat, if it was saved.
fn farewell(state: &State) -> Option<String> {
    if state.unsaved.is_some() {
        return None;
    }
    let model = match state.source.as_ref()? {
        ModelSource::Demo => "demo".to_owned(),
        ModelSource::Path(path) => {
            let name = path.to_string_lossy();
            let plain = name.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c));
            if plain {
                name.into_owned()
            } else {
                format!("'{}'", sanitize::one_line(&name, 400).replace('\'', "'\\''"))
            }
        }
    };
    Some(format!("The chat is saved. To go on with it: rotary {model} --resume {}", state.chat_id))
}
