//! Saved chats as one window of several knows them: what it did not read or write itself, it does not write over.

use super::{ChatStore, SavedChat, SessionError};
use crate::ui::calendar;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long a save waits for one of another window to end.
const LOCK_WAIT: Duration = Duration::from_millis(400);
/// Time between two looks at whether it has.
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// What tells one state of a file from another: every save makes a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// `None` if there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let file = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let file = 0;
        Some(Self { file, bytes: meta.len(), modified: meta.modified().ok() })
    }
}

/// The saved chats, with what this window knows of them.
#[derive(Debug)]
pub struct Window {
    store: ChatStore,
    /// The files as they were when they were last read or written here.
    known: HashMap<String, Stamp>,
    /// Chats that go on under another name, because another window had gone on with them.
    moved: HashMap<String, String>,
}

impl Window {
    /// A window that has not read anything yet.
    #[must_use]
    pub fn new(store: ChatStore) -> Self {
        Self { store, known: HashMap::new(), moved: HashMap::new() }
    }

    /// The chats themselves.
    #[must_use]
    pub fn store(&self) -> &ChatStore {
        &self.store
    }

    /// Reads a chat; saves under its name go to its file from now on.
    ///
    /// # Errors
    /// See [`ChatStore::load`].
    pub fn load(&mut self, id: &str) -> Result<SavedChat, SessionError> {
        // Taken first: what changes while it is read counts as changed since.
        let stamp = Stamp::of(&self.store.path(id));
        let chat = self.store.load(id)?;
        self.known.extend(stamp.map(|stamp| (id.to_owned(), stamp)));
        self.moved.remove(id);
        Ok(chat)
    }

    /// Writes a chat, and says under which name: a new one, if the file is no longer what it was when it was last read or written
    /// here. Both chats are kept then.
    ///
    /// # Errors
    /// See [`ChatStore::save`].
    pub fn save(&mut self, id: &str, chat: &SavedChat) -> Result<String, SessionError> {
        let _lock = self.lock();
        let mut name = self.moved.get(id).map_or(id, String::as_str).to_owned();
        let there = Stamp::of(&self.store.path(&name));
        if there.is_some() && there.as_ref() != self.known.get(&name) {
            name = self.free_name();
            // Also what was already moved once is found by the name that the screen has for it.
            self.moved.insert(id.to_owned(), name.clone());
        }
        self.store.save(&name, chat)?;
        self.known.extend(Stamp::of(&self.store.path(&name)).map(|stamp| (name.clone(), stamp)));
        Ok(name)
    }

    /// Removes a chat, unless another window has gone on with it.
    ///
    /// # Errors
    /// See [`ChatStore::forget`].
    pub fn forget(&mut self, id: &str) -> Result<(), SessionError> {
        let _lock = self.lock();
        let name = self.moved.remove(id).unwrap_or_else(|| id.to_owned());
        let there = Stamp::of(&self.store.path(&name));
        if there.is_some() && there != self.known.remove(&name) {
            return Ok(());
        }
        self.store.forget(&name)
    }

    fn free_name(&self) -> String {
        let mut time = SystemTime::now();
        loop {
            let name = calendar::new_id(time, std::process::id());
            if Stamp::of(&self.store.path(&name)).is_none() {
                return name;
            }
            time += Duration::from_millis(1);
        }
    }

    /// No other window looks at a file and writes it between our look and our write. Where there are no locks, or somebody
    /// holds this one for long, it goes without: what is said must reach the disk.
    fn lock(&self) -> Option<File> {
        super::store::create_private_folder(&self.store.folder).ok()?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.store.folder.join(".lock")).ok()?;
        let began = Instant::now();
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            if began.elapsed() >= LOCK_WAIT {
                tracing::warn!("another window holds the lock of the saved chats");
                return None;
            }
            std::thread::sleep(LOCK_LOOK);
        }
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::{chat, store};
    use super::*;

    fn said(window: &Window, id: &str) -> Vec<String> {
        window.store.load(id).unwrap().messages.into_iter().map(|m| m.content).collect()
    }

    #[test]
    fn two_windows_on_one_chat_keep_what_was_said_in_both() {
        let (_folder, store) = store();
        let (mut a, mut b) = (Window::new(store.clone()), Window::new(store));
        assert_eq!(a.save("one", &chat(&["hello"])).unwrap(), "one");
        b.load("one").unwrap();
        assert_eq!(b.save("one", &chat(&["hello", "hi", "from B"])).unwrap(), "one");
        let moved = a.save("one", &chat(&["hello", "hi", "from A"])).unwrap();
        assert_ne!(moved, "one");
        assert_eq!(said(&a, "one"), ["hello", "hi", "from B"]);
        assert_eq!(said(&a, &moved), ["hello", "hi", "from A"]);
        // Saves that were asked for before anybody heard of it go the same way; so do those by the new name.
        assert_eq!(a.save("one", &chat(&["hello", "hi", "from A", "ok"])).unwrap(), moved);
        assert_eq!(a.save(&moved, &chat(&["more"])).unwrap(), moved);
        assert_eq!(b.save("one", &chat(&["still B"])).unwrap(), "one");
        assert_eq!((said(&a, "one"), said(&a, &moved)), (vec!["still B".to_owned()], vec!["more".to_owned()]));
    }

    #[test]
    fn a_chat_that_is_read_again_goes_on_in_its_file() {
        let (_folder, store) = store();
        let (mut a, mut b) = (Window::new(store.clone()), Window::new(store));
        a.save("one", &chat(&["a"])).unwrap();
        b.load("one").unwrap();
        b.save("one", &chat(&["b"])).unwrap();
        assert_ne!(a.save("one", &chat(&["c"])).unwrap(), "one");
        a.load("one").unwrap();
        assert_eq!(a.save("one", &chat(&["b", "d"])).unwrap(), "one");
    }

    #[test]
    fn a_file_that_is_gone_is_written_again() {
        let (_folder, store) = store();
        let mut a = Window::new(store);
        a.save("one", &chat(&["a"])).unwrap();
        fs::remove_file(a.store.path("one")).unwrap();
        assert_eq!(a.save("one", &chat(&["a", "b"])).unwrap(), "one");
    }

    #[test]
    fn a_chat_is_forgotten_but_not_what_another_window_said_in_it() {
        let (_folder, store) = store();
        let (mut a, mut b) = (Window::new(store.clone()), Window::new(store));
        a.save("one", &chat(&["a"])).unwrap();
        b.load("one").unwrap();
        b.save("one", &chat(&["a", "b"])).unwrap();
        a.forget("one").unwrap();
        assert_eq!(said(&a, "one"), ["a", "b"]);
        b.forget("one").unwrap();
        b.forget("one").unwrap();
        assert!(a.store.load("one").is_err());
    }

    #[test]
    fn windows_that_save_at_once_lose_nothing() {
        let (_folder, store) = store();
        Window::new(store.clone()).save("one", &chat(&["begin"])).unwrap();
        let windows: Vec<_> = (0..4)
            .map(|i| {
                let mut window = Window::new(store.clone());
                window.load("one").unwrap();
                std::thread::spawn(move || window.save("one", &chat(&["begin", &format!("from {i}")])).unwrap())
            })
            .collect();
        let names: Vec<String> = windows.into_iter().map(|w| w.join().unwrap()).collect();
        let window = Window::new(store);
        for (i, name) in names.iter().enumerate() {
            assert_eq!(said(&window, name)[1], format!("from {i}"), "{names:?}");
        }
    }
}
