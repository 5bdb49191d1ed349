//! The sink that writes a session while it runs (`--trace FILE`, `rotary record`).
//!
//! It never disturbs the session: a full disk ends the recording, not the chat, and [`Recorder::finish`] says so. What was
//! written reaches the system at the end of every turn and about once a second in between, so a killed process loses at
//! most about a second of the turn at hand. A file whose name ends in `.csv` gets the routing alone, as `route_trace v1`.

use super::csv;
use super::session::{Question, Writer};
use crate::events::{Event, RequestId, StepRecord};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time that entries stay in the buffer while others follow.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Most entries that stay in the buffer.
const FLUSH_EVERY: u32 = 256;

/// The file's form.
enum Sink<W: Write> {
    Session(Writer<W>),
    Csv(csv::Writer<W>),
}

impl<W: Write> Sink<W> {
    fn event(&mut self, at: u64, event: &Event) -> io::Result<()> {
        match self {
            Sink::Session(w) => w.event(at, event),
            Sink::Csv(w) => w.event(event),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Session(w) => w.flush(),
            Sink::Csv(w) => w.flush(),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Sink::Session(w) => w.finish().map(|_| ()),
            Sink::Csv(mut w) => w.flush(),
        }
    }
}

/// Whether a file of this name is a CSV.
#[must_use]
pub fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"))
}

/// Why a new file can't be made, and what to do, in a sentence.
#[must_use]
pub fn cant_create(path: &Path, e: &io::Error) -> String {
    let shown = crate::text::one_line(&path.display().to_string(), 400);
    let parent = path.parent().map(|p| crate::text::one_line(&p.display().to_string(), 400)).unwrap_or_default();
    match e.kind() {
        _ if path.is_dir() => format!("{shown}: the file can't be written: it is a folder; name a file in it"),
        io::ErrorKind::AlreadyExists => {
            format!("{shown}: the file can't be written: there is one of this name, and nothing is overwritten; choose another name")
        }
        io::ErrorKind::NotFound => format!("{shown}: the file can't be written: there is no folder {parent}; make it, or choose another"),
        _ => format!("{shown}: the file can't be written: {e}; choose another place or name"),
    }
}

/// A new file; sessions hold what was said, so on Unix only the owner may read it.
///
/// # Errors
/// If the file exists already (nothing is overwritten) or can't be written.
pub fn create_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes what the engine says, with the time at which it was said.
pub struct Recorder<W: Write = BufWriter<File>> {
    writer: Option<Sink<W>>,
    began: Instant,
    flushed: Instant,
    waiting: u32,
    written: u64,
    failed: Option<io::Error>,
}

impl Recorder {
    /// Record into a new file, see [`create_file`].
    ///
    /// # Errors
    /// If the file exists already or can't be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let out = BufWriter::with_capacity(1 << 16, create_file(path)?);
        let sink = if is_csv(path) { Sink::Csv(csv::Writer::new(out)?) } else { Sink::Session(Writer::new(out)?) };
        Ok(Self::over(sink))
    }
}

impl<W: Write> Recorder<W> {
    /// Record into anything.
    ///
    /// # Errors
    /// If the header can't be written.
    pub fn new(out: W) -> io::Result<Self> {
        Ok(Self::over(Sink::Session(Writer::new(out)?)))
    }

    fn over(sink: Sink<W>) -> Self {
        let now = Instant::now();
        Self { writer: Some(sink), began: now, flushed: now, waiting: 0, written: 0, failed: None }
    }

    /// Something on the text lane.
    pub fn event(&mut self, event: &Event) {
        self.write(|w, at| w.event(at, event));
        // Afterwards nothing may follow for hours.
        if matches!(event, Event::Finished { .. } | Event::Failed { .. } | Event::Ready { .. } | Event::LoadFailed { .. }) {
            self.flush();
        }
    }

    /// A step on the telemetry lane.
    pub fn step(&mut self, record: &StepRecord) {
        self.write(|w, at| match w {
            Sink::Session(w) => w.step(at, record),
            Sink::Csv(w) => w.step(record),
        });
    }

    /// What the person asked, before the events of the answer.
    pub fn question(&mut self, id: RequestId, text: &str) {
        let question = Question { id, text: text.to_owned() };
        self.write(|w, at| match w {
            Sink::Session(w) => w.question(at, &question),
            Sink::Csv(_) => Ok(()),
        });
    }

    /// Entries written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Why the recording ended early, if it did.
    #[must_use]
    pub fn failed(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    /// Mark the file as whole. Dropping a recorder does the same, without the answer.
    ///
    /// # Errors
    /// The first error of the whole recording; the file is readable up to there.
    pub fn finish(mut self) -> io::Result<()> {
        self.close();
        self.failed.take().map_or(Ok(()), Err)
    }

    fn write(&mut self, entry: impl FnOnce(&mut Sink<W>, u64) -> io::Result<()>) {
        let Some(writer) = &mut self.writer else { return };
        let at = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match entry(writer, at) {
            Ok(()) => self.written += 1,
            Err(e) => return self.fail(e),
        }
        self.waiting += 1;
        if self.waiting >= FLUSH_EVERY || self.flushed.elapsed() >= FLUSH_AFTER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(Err(e)) = self.writer.as_mut().map(Sink::flush) {
            self.fail(e);
        }
        self.waiting = 0;
        self.flushed = Instant::now();
    }

    fn fail(&mut self, e: io::Error) {
        tracing::warn!(%e, "the recording ends here");
        self.failed = Some(e);
        self.writer = None;
    }

    fn close(&mut self) {
        if let Some(Err(e)) = self.writer.take().map(Sink::finish) {
            self.failed.get_or_insert(e);
        }
    }
}

impl<W: Write> Drop for Recorder<W> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{FinishReason, TurnStats};
    use crate::experts::policy::Policy;
    use crate::trace::player::tests::{frame, Seen};
    use crate::trace::player::{self, Options};
    use crate::trace::session::{Ending, Entry, Session};

    #[test]
    fn a_recording_can_be_read_while_it_is_written_and_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rotary");
        let mut r = Recorder::create(&path).unwrap();
        r.question(1, "why?");
        r.event(&Event::Notice { message: "because".into() });
        for step in 0..u64::from(FLUSH_EVERY) {
            r.step(&StepRecord { step, ..StepRecord::default() });
        }
        let halfway = Session::open(&path).unwrap();
        assert!(matches!(halfway.ending(), Ending::Cut { .. }));
        assert!(halfway.len() >= FLUSH_EVERY as usize);
        r.finish().unwrap();
        let mut whole = Session::open(&path).unwrap();
        assert_eq!((whole.ending(), whole.len()), (Ending::Whole, FLUSH_EVERY as usize + 2));
        assert!(matches!(whole.get(0).unwrap().entry, Entry::Question(q) if q.text == "why?"));
        let times: Vec<u64> = (0..whole.len()).map(|i| whole.get(i).unwrap().at).collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn a_finished_turn_is_in_the_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rotary");
        let mut r = Recorder::create(&path).unwrap();
        r.step(&StepRecord::default());
        r.event(&Event::Finished { id: 1, reason: FinishReason::Stop, stats: TurnStats::default() });
        assert_eq!(Session::open(&path).unwrap().len(), 2);
    }

    #[test]
    fn a_session_that_is_played_and_recorded_plays_the_same_again() {
        let fast = || Options { speed: f64::INFINITY, ..Options::default() };
        let watch = |session: Session, options: Options| {
            let (_handle, control) = player::from_session(session, options, Seen::default());
            let Seen { events, steps, .. } = frame(&control, |s| s.ended).fold;
            (events, steps)
        };
        let real = include_bytes!("../../tests/traces/gpt-oss-120b.rotary").to_vec();
        let simulated = Options { simulate: Some((16, Policy::Rotary)), ..fast() };
        let (card, records) = watch(Session::from_bytes(real).unwrap(), simulated);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rotary");
        let mut r = Recorder::create(&path).unwrap();
        card.iter().for_each(|event| r.event(event));
        records.iter().for_each(|record| r.step(record));
        r.finish().unwrap();
        let again = watch(Session::open(&path).unwrap(), fast());
        assert_eq!(again.0, card);
        assert!(again.1 == records, "every step as it was shown, occupancy included");
        let occupied = records[148].slot_of.iter().filter(|s| **s != crate::events::NO_SLOT).count();
        assert_eq!(occupied, 36 * 16);
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!(bytes < 149 * 1200, "{bytes} bytes for 149 steps of 36 layers");
    }

    #[test]
    fn a_name_that_ends_in_csv_gets_the_routing_alone() {
        let real = include_bytes!("../../tests/traces/gpt-oss-120b.rotary").to_vec();
        let mut session = Session::from_bytes(real).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.CSV");
        let mut r = Recorder::create(&path).unwrap();
        r.question(1, "why?");
        for i in 0..session.len() {
            match session.get(i).unwrap().entry {
                Entry::Event(event) => r.event(&event),
                Entry::Step(record) => r.step(&record),
                Entry::Question(_) => {}
            }
        }
        r.event(&Event::Finished { id: 1, reason: FinishReason::Stop, stats: TurnStats::default() });
        r.step(&StepRecord { ends: vec![0; 36], ..StepRecord::default() });
        r.finish().unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("why?"));
        let (read, wanted) = (crate::trace::open::open_routes(&path).unwrap(), session.routes().unwrap());
        assert_eq!((read.len(), read.routed()), (wanted.len(), wanted.routed()));
        assert!((0..read.len()).all(|s| (0..36).all(|l| read.tick(s, l) == wanted.tick(s, l))));
        assert_eq!(read.head.trunk(), wanted.head.trunk());
    }

    #[test]
    fn what_can_not_be_made_is_told_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "mine").unwrap();
        for (path, remedy) in [
            (there.clone(), "choose another name"),
            (dir.path().to_owned(), "it is a folder; name a file in it"),
            (dir.path().join("none/x"), "make it"),
            (there.join("x"), "choose another place"),
        ] {
            let said = cant_create(&path, &create_file(&path).unwrap_err());
            assert!(said.contains(remedy) && said.starts_with(&*path.to_string_lossy()), "{said}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rotary");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(Recorder::create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_is_reported() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut r = Recorder::new(Full(200)).unwrap();
        for _ in 0..50 {
            r.event(&Event::Notice { message: "x".into() });
        }
        assert!(r.written() < 50 && r.failed().is_some());
        assert_eq!(r.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
