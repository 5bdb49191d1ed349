//! The folder of the saved chats: one readable JSON file each.
//!
//! A file is replaced as a whole: written beside it, flushed to the disk, renamed over it. So at any moment,
//! `kill -9` included, the file is either the state before or the state after. A chat is saved when a turn
//! begins (the prompt is safe) and when it ends. Files that can't be read are listed with the reason and left
//! alone. Chats are private: only the owner can read them.

use super::{title, SavedChat, SessionError, FORMAT};
use serde::Deserialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Larger files are no chats.
const MAX_FILE: u64 = 64 << 20;
/// Most chats in a list, newest first.
const MAX_LISTED: usize = 200;
/// Chats that are named when one was asked for that is none.
const NAMED: usize = 5;

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SessionError + '_ {
    move |source| SessionError::Io { path: path.to_owned(), source }
}

/// A line of the list of chats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The file's name without `.json`.
    pub id: String,
    /// The first line that the person wrote, or the file's name.
    pub title: String,
    /// When it was last saved, in UTC; empty if unknown.
    pub updated: String,
    /// Messages in it.
    pub messages: usize,
    /// Why it can't be opened.
    pub problem: Option<String>,
}

/// The folder of the saved chats.
#[derive(Clone, Debug)]
pub struct ChatStore {
    pub(super) folder: PathBuf,
}

impl ChatStore {
    /// Chats in this folder, which need not exist yet.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where a chat lies.
    #[must_use]
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes a chat, whole or not at all.
    ///
    /// # Errors
    /// [`SessionError::Io`]; what lay there before is untouched then.
    pub fn save(&self, id: &str, chat: &SavedChat) -> Result<(), SessionError> {
        create_private_folder(&self.folder).map_err(io_error(&self.folder))?;
        let path = self.path(id);
        let beside = self.folder.join(format!(".{id}.{}.part", std::process::id()));
        let write = || -> io::Result<()> {
            let mut bytes = serde_json::to_vec_pretty(chat)?;
            bytes.push(b'\n');
            let mut file = create_private_file(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            // The rename itself must reach the disk too. Some file systems can't sync a folder.
            if let Ok(folder) = File::open(&self.folder) {
                let _ = folder.sync_all();
            }
            Ok(())
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&beside);
            SessionError::Io { path: path.clone(), source }
        })
    }

    /// Removes a chat, if there is one.
    ///
    /// # Errors
    /// [`SessionError::Io`].
    pub fn forget(&self, id: &str) -> Result<(), SessionError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(&path)(e)),
            _ => Ok(()),
        }
    }

    /// Reads a chat.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] if there is no such file; [`SessionError::Broken`] if it is not a chat.
    pub fn load(&self, id: &str) -> Result<SavedChat, SessionError> {
        match read(&self.path(id)) {
            Err(SessionError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let latest = self.list().into_iter().filter(|l| l.problem.is_none()).map(|l| l.id).take(NAMED).collect();
                Err(SessionError::Unknown { id: id.to_owned(), latest })
            }
            read => read,
        }
    }

    /// All chats, the last saved first. Broken ones are in it, with the reason.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut files: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .map(|e| (e.metadata().and_then(|m| m.modified()).unwrap_or(UNIX_EPOCH), e.path()))
            .filter(|(_, p)| p.extension().is_some_and(|e| e == "json"))
            .collect();
        files.sort_by(|a, b| b.cmp(a));
        files.truncate(MAX_LISTED);
        files.into_iter().map(|(_, path)| listed(&path)).collect()
    }
}

fn listed(path: &Path) -> Listed {
    let id = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    match read(path) {
        Ok(chat) => Listed {
            title: title(&chat).unwrap_or_else(|| id.clone()),
            updated: chat.updated,
            messages: chat.messages.len(),
            problem: None,
            id,
        },
        Err(error) => {
            let reason = match error {
                SessionError::Broken { reason, .. } => reason,
                SessionError::Io { source, .. } => source.to_string(),
                unknown @ SessionError::Unknown { .. } => unknown.to_string(),
            };
            Listed { title: id.clone(), updated: String::new(), messages: 0, problem: Some(reason), id }
        }
    }
}

fn read(path: &Path) -> Result<SavedChat, SessionError> {
    let broken = |reason: String| SessionError::Broken { path: path.to_owned(), reason };
    let file = File::open(path).map_err(io_error(path))?;
    let meta = file.metadata().map_err(io_error(path))?;
    if !meta.is_file() {
        return Err(broken("not a regular file".into()));
    }
    if meta.len() > MAX_FILE {
        return Err(broken(format!("{} bytes are too many (at most {MAX_FILE})", meta.len())));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.is_empty() {
        return Err(broken("the file is empty".into()));
    }
    // A later format may lack anything else that is known here.
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    match serde_json::from_slice(&bytes) {
        Ok(Version { format }) if format > FORMAT => {
            Err(broken(format!("written by a newer version of this program (format {format}; this one reads {FORMAT}): use that version")))
        }
        _ => serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string())),
    }
}

pub(super) fn create_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn create_private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::events::{Role, Sampling};
    use crate::ui::session::SavedMessage;
    use proptest::prelude::*;

    pub(in crate::ui::session) fn chat(messages: &[&str]) -> SavedChat {
        let message = |(i, text): (usize, &&str)| SavedMessage {
            role: if i % 2 == 0 { Role::User } else { Role::Assistant },
            content: (*text).to_owned(),
            thinking: None,
            thinking_ms: None,
            thinking_tokens: None,
            unfinished: false,
        };
        SavedChat {
            format: FORMAT,
            created: "2026-01-01T00:00:00Z".into(),
            updated: "2026-01-01T00:00:00Z".into(),
            model: "toy".into(),
            system: None,
            sampling: Sampling { seed: Some(u64::MAX), ..Sampling::default() },
            thinking: None,
            effort: None,
            messages: messages.iter().enumerate().map(message).collect(),
        }
    }

    pub(in crate::ui::session) fn store() -> (tempfile::TempDir, ChatStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = ChatStore::new(folder.path().join("chats"));
        (folder, store)
    }

    #[test]
    fn a_chat_comes_back_as_it_was() {
        let (_folder, store) = store();
        let saved = chat(&["hello\nthere", "hi \u{1F600} \"quoted\" \\ \u{0} end"]);
        store.save("one", &saved).unwrap();
        assert_eq!(store.load("one").unwrap(), saved);
    }

    #[test]
    fn saving_again_replaces_and_leaves_nothing_beside() {
        let (_folder, store) = store();
        store.save("one", &chat(&["a"])).unwrap();
        store.save("one", &chat(&["a", "b"])).unwrap();
        assert_eq!(store.load("one").unwrap().messages.len(), 2);
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1);
        store.forget("one").unwrap();
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0);
        store.forget("one").unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn chats_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, store) = store();
        store.save("one", &chat(&["a"])).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path("one")), 0o600);
        assert_eq!(mode(&store.folder), 0o700);
    }

    #[test]
    fn broken_files_are_listed_with_the_reason_and_left_alone() {
        let (_folder, store) = store();
        store.save("good", &chat(&["\n  first line \nmore"])).unwrap();
        let broken = [("empty", ""), ("cut", "{\"format\": 1, \"mess"), ("later", "{\"format\": 99}")];
        for (name, content) in broken {
            fs::write(store.path(name), content).unwrap();
        }
        let list = store.list();
        assert_eq!(list.len(), 4);
        let entry = |id: &str| list.iter().find(|l| l.id == id).unwrap();
        assert_eq!(entry("good").title, "first line");
        assert_eq!(entry("good").problem, None);
        assert!(entry("later").problem.as_ref().unwrap().contains("newer version"), "{:?}", entry("later"));
        assert!(entry("empty").problem.as_ref().unwrap().contains("empty"));
        assert!(entry("cut").problem.as_ref().unwrap().contains("line 1"));
        assert_eq!(fs::read_to_string(store.path("cut")).unwrap(), broken[1].1);
    }

    #[test]
    fn a_name_that_is_none_is_answered_with_those_that_are() {
        let (_folder, store) = store();
        assert_eq!(store.load("x").unwrap_err().to_string(), "there is no saved chat \"x\"; none has been saved yet");
        store.save("one", &chat(&["a"])).unwrap();
        fs::write(store.path("broken"), "").unwrap();
        assert_eq!(store.load("x").unwrap_err().to_string(), "there is no saved chat \"x\"; the latest are one; /resume lists all");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = ChatStore::new(file.join("chats")).save("one", &chat(&[])).unwrap_err();
        assert!(error.to_string().contains("chats"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_text_survives_the_file(texts in proptest::collection::vec(any::<String>(), 0..6)) {
            let (_folder, store) = store();
            let saved = chat(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            store.save("x", &saved).unwrap();
            prop_assert_eq!(store.load("x").unwrap(), saved);
        }
    }
}
