//! Opens a trace of any kind that is known, by what is in the file.

use super::csv::{self, CsvError};
use super::player::{self, Fold, Options, PlayerControl};
use super::routes::Routes;
use super::session::{Session, SessionError};
use crate::engine::EngineHandle;
use crate::text::one_line;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// A trace, as its file has it.
#[allow(clippy::large_enum_variant, reason = "there are one or two of them in a process")]
pub enum Trace {
    /// A recorded session: text, routing, occupancy, times.
    Session(Box<Session>),
    /// Routing alone.
    Routes(Routes),
}

/// Why a file can't be opened as a trace.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", shown(path))]
pub struct TraceError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It could not be read.
    #[error("{0}; check the path and the permissions")]
    Io(#[from] io::Error),
    /// A session that can't be read.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A CSV that can't be read.
    #[error(transparent)]
    Csv(#[from] CsvError),
    /// A folder, or what else is no file.
    #[error("not a file; give a recorded session or a route_trace v1 CSV")]
    NotAFile,
    /// Something else.
    #[error("neither a recorded session nor a route_trace v1 CSV; `rotary record FILE MODEL -p TEXT` records one")]
    Unknown,
    /// A session without a model, or without steps of one.
    #[error("no routing is recorded in it: no model was open, or nothing was generated")]
    NoRouting,
}

/// Whether a file is a recorded session, by how it begins; false of one that can't be read.
#[must_use]
pub fn is_session(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut head));
    read.is_ok() && Session::is_session(&head)
}

/// Whether a file is a recorded session or a CSV of routing, by how it begins; false of one that can't be read, and of what is no file.
#[must_use]
pub fn is_recording(path: &Path) -> bool {
    let mut head = Vec::new();
    // Asked before opening: opening a pipe would wait for a writer.
    let file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    let read = file && File::open(path).and_then(|file| file.take(16).read_to_end(&mut head)).is_ok();
    read && (Session::is_session(&head) || head == csv::MAGIC.as_bytes())
}

/// A path for a message.
fn shown(path: &Path) -> String {
    one_line(&path.display().to_string(), 400)
}

/// Open a trace.
///
/// # Errors
/// [`TraceError`], naming the file.
pub fn open(path: &Path) -> Result<Trace, TraceError> {
    let fail = |problem: Problem| TraceError { path: path.to_owned(), problem };
    // Asked before opening: opening a pipe would wait for a writer.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(fail(Problem::NotAFile));
    }
    let start = || -> Result<(File, Vec<u8>), io::Error> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        Read::by_ref(&mut file).take(16).read_to_end(&mut head)?;
        file.rewind()?;
        Ok((file, head))
    };
    let (file, head) = start().map_err(|e| fail(e.into()))?;
    if Session::is_session(&head) {
        Session::open(path).map(|s| Trace::Session(Box::new(s))).map_err(|e| fail(e.into()))
    } else if csv::MAGIC.as_bytes().starts_with(&head[..head.len().min(csv::MAGIC.len())]) && !head.is_empty() {
        csv::read(BufReader::with_capacity(1 << 16, file)).map(Trace::Routes).map_err(|e| fail(e.into()))
    } else {
        Err(fail(Problem::Unknown))
    }
}

/// Open a trace for its routing alone.
///
/// # Errors
/// [`TraceError`], also if the session holds no routing.
pub fn open_routes(path: &Path) -> Result<Routes, TraceError> {
    let routes = match open(path)? {
        Trace::Session(mut session) => session.routes(),
        Trace::Routes(routes) => Some(routes),
    };
    let none = || TraceError { path: path.to_owned(), problem: Problem::NoRouting };
    routes.filter(|r| r.routed() > 0).ok_or_else(none)
}

/// Play a trace; `fold` is what the listener has before the first entry.
#[must_use]
pub fn play<F: Fold>(trace: Trace, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    match trace {
        Trace::Session(session) => player::from_session(*session, options, fold),
        Trace::Routes(routes) => player::from_routes(&routes, options, fold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = |bytes: &[u8]| {
            let path = dir.path().join("x");
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let message = |bytes: &[u8]| open_routes(&file(bytes)).unwrap_err().to_string();
        for no_trace in [b"".as_slice(), b"GGUF"] {
            let said = message(no_trace);
            assert!(said.contains("neither a recorded session nor a route_trace v1 CSV") && said.contains("rotary record"), "{said}");
        }
        let folder = open_routes(dir.path()).unwrap_err().to_string();
        assert!(folder.contains("not a file; give a recorded session"), "{folder}");
        assert!(message(b"# route_trace v1\n").contains("line 2"));
        let real = include_bytes!("../../tests/traces/gpt-oss-120b.rotary");
        let routes = open_routes(&file(real)).unwrap();
        assert_eq!((routes.head.layers, routes.len()), (36, 149));
        assert!(message(&real[..16]).contains("no routing"));
        let mut text = Vec::new();
        csv::write(&mut text, &routes).unwrap();
        let again = open_routes(&file(&text)).unwrap();
        assert_eq!(again.head.expert_bytes, routes.head.expert_bytes);
        assert!((0..149).all(|s| (0..36).all(|l| again.tick(s, l) == routes.tick(s, l))));
        let missing = open(&dir.path().join("none")).err().unwrap().to_string();
        assert!(missing.contains("none"), "{missing}");
    }
}
