//! Warm start: the heat of a model's earlier sessions, kept in a file by the model's content hash.
//!
//! The file is written whole beside its place and renamed over it, at the end of every turn; a reader sees the old one or the new
//! one. Heat is a cache: what can't be read is said and passed over, what can't be written is said once.

use crate::experts::heat::{Heat, MAX_FILE};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Most models whose heat is kept; the ones used longest ago go first.
const MAX_FILES: usize = 64;
/// Name of the files' extension.
const EXTENSION: &str = "heat";
/// Extension of what is still being written.
const UNFINISHED: &str = "part";
/// A file takes milliseconds to be written: what is unfinished for so long was left by a program that was ended.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// Where a model's heat is kept.
#[derive(Clone, Debug)]
pub struct Keeper {
    folder: PathBuf,
    fingerprint: String,
    /// Tokens of the heat that the file has.
    written: u64,
    /// The folder has been looked over for what nobody needs any more.
    tidied: bool,
}

impl Keeper {
    /// The heat of the model with this content hash, in `folder`, which need not exist yet.
    #[must_use]
    pub fn new(folder: &Path, fingerprint: String) -> Self {
        Self { folder: folder.into(), fingerprint, written: 0, tidied: false }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.{EXTENSION}", self.fingerprint))
    }

    /// The heat of earlier sessions; `None` if there were none.
    ///
    /// # Errors
    /// A sentence that names the file and says why it is passed over.
    pub fn read(&mut self, layers: usize, experts: usize) -> Result<Option<Heat>, String> {
        let path = self.path();
        let passed_over = |why: String| format!("{}: {why}; slots begin empty, and the file is written anew", path.display());
        let read = || -> io::Result<Vec<u8>> {
            // Asked before opening: opening a pipe would wait for a writer.
            if !fs::metadata(&path)?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            let mut bytes = Vec::new();
            fs::File::open(&path)?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(passed_over(e.to_string())),
            Ok(bytes) => {
                let heat = Heat::decode(&bytes, &self.fingerprint, layers, experts).map_err(|e| passed_over(e.to_string()))?;
                self.written = heat.tokens();
                Ok(Some(heat))
            }
        }
    }

    /// Writes the heat, if anything came to it since it was last read or written.
    ///
    /// # Errors
    /// A sentence that names the file. It is said once: the next call tries again only when more came.
    pub fn write(&mut self, heat: &Heat) -> Result<(), String> {
        if heat.tokens() == self.written {
            return Ok(());
        }
        self.written = heat.tokens();
        let path = self.path();
        let beside = self.folder.join(format!(".{}.{}.{UNFINISHED}", self.fingerprint, std::process::id()));
        let write = || -> io::Result<()> {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(&self.folder)?;
            fs::File::create(&beside)?.write_all(&heat.encode(&self.fingerprint))?;
            fs::rename(&beside, &path)
        };
        let done = write().map_err(|e| {
            let _ = fs::remove_file(&beside);
            format!("{}: {e}; which experts were used is not kept for the next start", path.display())
        });
        if done.is_ok() && !std::mem::replace(&mut self.tidied, true) {
            self.tidy();
        }
        done
    }

    /// Removes the files used longest ago, if there are too many, and what programs left unfinished.
    fn tidy(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, PathBuf)> =
            entries.flatten().map(|e| (e.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH), e.path())).collect();
        files.sort();
        let of = |extension: &'static str| files.iter().filter(move |(_, p)| p.extension().is_some_and(|x| x == extension));
        let many = of(EXTENSION).count().saturating_sub(MAX_FILES);
        let left = of(UNFINISHED).filter(|(at, _)| at.elapsed().is_ok_and(|age| age > LEFT_BEHIND));
        for (_, path) in of(EXTENSION).take(many).chain(left) {
            if let Err(e) = fs::remove_file(path) {
                tracing::debug!("{}: {e}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::schedule::Routed;

    fn heat(tokens: u32) -> Heat {
        let mut heat = Heat::new(1, 4);
        heat.note(0, &[Routed { expert: 2, tokens: 1, weight: 1.0 }]);
        heat.end_step(tokens);
        heat
    }

    #[test]
    fn heat_is_kept_by_model_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("new/heat");
        let mut keeper = Keeper::new(&at, "0011223344556677".into());
        assert!(keeper.read(1, 4).unwrap().is_none(), "nothing was kept yet, and that is no fault");
        keeper.write(&heat(5)).unwrap();
        let back = Keeper::new(&at, "0011223344556677".into()).read(1, 4).unwrap().unwrap();
        assert_eq!((back.tokens(), back.ranked(0)), (5, vec![2]));
        assert!(Keeper::new(&at, "7766554433221100".into()).read(1, 4).unwrap().is_none());
        assert_eq!(fs::read_dir(&at).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_can_not_be_used_is_named_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(folder.path(), "0011223344556677".into());
        fs::write(keeper.path(), "garbage").unwrap();
        let said = keeper.read(1, 4).unwrap_err();
        assert!(said.contains("0011223344556677.heat") && said.contains("damaged") && said.contains("begin empty"), "{said}");
        keeper.write(&heat(9)).unwrap();
        assert_eq!(keeper.read(1, 4).unwrap().unwrap().tokens(), 9);
        fs::remove_file(keeper.path()).unwrap();
        fs::create_dir(keeper.path()).unwrap();
        assert!(keeper.read(1, 4).unwrap_err().contains("regular file"));
        assert!(keeper.write(&heat(10)).unwrap_err().contains("not kept"));
        assert!(keeper.write(&heat(10)).is_ok(), "said once");
    }

    #[test]
    fn what_an_ended_program_left_unfinished_is_removed_and_what_is_being_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str, age: u64| {
            let path = folder.path().join(name);
            fs::File::create(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            path
        };
        let (left, fresh) = (part(".0011223344556677.1.part", 3600), part(".0011223344556677.2.part", 0));
        let (other, chat) = (part(".7766554433221100.1.part", 3600), part("mine.txt", 3600));
        Keeper::new(folder.path(), "0011223344556677".into()).write(&heat(1)).unwrap();
        assert!(!left.exists() && !other.exists());
        assert!(fresh.exists() && chat.exists());
    }

    #[test]
    fn only_so_many_models_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..MAX_FILES + 9 {
            fs::write(folder.path().join(format!("{i:016x}.heat")), "old").unwrap();
        }
        Keeper::new(folder.path(), "aaaaaaaaaaaaaaaa".into()).write(&heat(1)).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), MAX_FILES);
        assert!(folder.path().join("aaaaaaaaaaaaaaaa.heat").exists());
    }
}
