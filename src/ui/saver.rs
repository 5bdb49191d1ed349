//! The thread that touches the disk for the screen, so that a slow disk never holds up a key.
//!
//! Jobs are done in the order in which they were given: a list asked for after a save shows what was saved.

use super::message::Message;
use super::session::{ChatStore, SavedChat, Window};
use crate::engine;
use crate::events::ModelSource;
use crate::model;
use crate::trace::record::cant_create;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Something to do with the disk.
#[derive(Debug)]
pub enum Job {
    /// Save a chat.
    Save(String, Box<SavedChat>),
    /// Remove a chat.
    Forget(String),
    /// List the chats, see [`Message::Chats`].
    List(bool),
    /// Read a chat.
    Read(String),
    /// Look whether a file is a model, see [`Message::Looked`].
    Look(ModelSource),
    /// Write text to a new file.
    Export(PathBuf, String),
    /// Say when everything before is done.
    Flush(Sender<()>),
}

/// The way to the thread.
pub struct Saver {
    jobs: Sender<Job>,
}

impl Saver {
    /// Starts the thread; it answers on `replies`.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub fn start(store: ChatStore, replies: UnboundedSender<Message>) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let window = Window::new(store);
        std::thread::Builder::new().name("chat-saver".into()).spawn(move || work(window, &inbox, &replies))?;
        Ok(Self { jobs })
    }

    /// Gives the thread something to do.
    pub fn give(&self, job: Job) {
        // The thread ends only after this is dropped.
        let _ = self.jobs.send(job);
    }

    /// Waits until everything given before is done, at most for `limit`. True if it is.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = channel();
        self.give(Job::Flush(done));
        wait.recv_timeout(limit).is_ok()
    }
}

fn work(mut window: Window, inbox: &Receiver<Job>, replies: &UnboundedSender<Message>) {
    while let Ok(job) = inbox.recv() {
        let reply = match job {
            Job::Save(id, chat) => {
                let saved = window.save(&id, &chat).map_err(|e| e.to_string());
                Message::Saved(id, saved)
            }
            Job::Forget(id) => match window.forget(&id) {
                Ok(()) => continue,
                Err(error) => Message::Complain(error.to_string()),
            },
            Job::List(show) => Message::Chats(window.store().list(), show),
            Job::Read(id) => {
                let chat = window.load(&id).map(Box::new).map_err(|e| e.to_string());
                Message::ChatRead(id, chat)
            }
            Job::Look(source) => {
                // By itself: a file on a disk that does not answer must not keep chats from being saved.
                let replies = replies.clone();
                let looker = std::thread::Builder::new().name("model-look".into());
                let began = looker.spawn(move || {
                    let seen = look(&source);
                    let _ = replies.send(Message::Looked(source, seen));
                });
                match began {
                    Ok(_) => continue,
                    Err(error) => Message::Complain(format!("the file can't be looked at: {error}")),
                }
            }
            Job::Export(path, text) => match export(&path, &text) {
                Ok(()) => Message::Say(format!("written to {}", path.display())),
                Err(error) => Message::Complain(cant_create(&path, &error)),
            },
            Job::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        // After the screen is gone nobody reads the replies, but the jobs are still done.
        let _ = replies.send(reply);
    }
}

/// Whether a model could be opened, as far as the head of its file tells.
fn look(source: &ModelSource) -> Result<(), String> {
    let file = engine::open::map(source).map_err(|e| e.to_string())?;
    model::look(&file).map_err(|e| e.to_string())
}

/// Writes a new file; one that is there is never replaced.
fn export(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_never_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.md");
        export(&path, "one").unwrap();
        assert!(export(&path, "two").is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one");
    }

    #[test]
    fn a_file_that_is_no_model_is_told_from_one_that_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no.gguf");
        std::fs::write(&path, "this is no model").unwrap();
        for wrong in [path, folder.path().join("missing.gguf"), folder.path().to_owned()] {
            let reason = look(&ModelSource::Path(wrong.clone())).unwrap_err();
            assert!(reason.contains(&*wrong.to_string_lossy()), "{reason}");
        }
        assert_eq!(look(&ModelSource::Demo), Ok(()));
    }

    #[test]
    fn jobs_are_done_in_order_and_flush_waits_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let (replies, mut inbox) = tokio::sync::mpsc::unbounded_channel();
        let saver = Saver::start(ChatStore::new(folder.path().join("chats")), replies).unwrap();
        let path = folder.path().join("out.md");
        saver.give(Job::Export(path.clone(), "text".into()));
        saver.give(Job::Read("missing".into()));
        assert!(saver.flush(Duration::from_secs(10)));
        assert!(path.exists());
        assert!(matches!(inbox.try_recv(), Ok(Message::Say(_))));
        assert!(matches!(inbox.try_recv(), Ok(Message::ChatRead(_, Err(_)))));
    }
}
