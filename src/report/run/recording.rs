//! A recording of `rotary run`: its file is made when the model is open, and goes away again if nothing is recorded.

use crate::cli::{cant_record, Failure};
use crate::events::{Event, RequestId, StepRecord};
use crate::trace::open::is_recording;
use crate::trace::record::Recorder;
use std::io;
use std::path::{Path, PathBuf};

/// Where what happens goes.
enum Sink {
    /// There is no file yet; what was said so far.
    Waiting(Vec<Event>),
    Into(Recorder),
}

/// What happens in a run, for a file.
pub(super) struct Recording {
    file: PathBuf,
    force: bool,
    sink: Sink,
    steps: bool,
}

impl Recording {
    /// To be made when a model is open. `force`: what is recorded in the file already is to be replaced.
    ///
    /// # Errors
    /// What would stand in the way, before a model is loaded.
    pub(super) fn into_file(file: &Path, force: bool) -> Result<Self, Failure> {
        let exists = file.symlink_metadata().is_ok();
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
        if file.is_dir() || exists && !force {
            let Failure { code, message } = cant_record(file, &io::ErrorKind::AlreadyExists.into());
            let or = if is_recording(file) { ", or --force to replace it (rotary record)" } else { "" };
            return Err(Failure { code, message: format!("{message}{or}") });
        }
        if folder.is_some_and(|folder| !folder.is_dir()) {
            return Err(cant_record(file, &io::ErrorKind::NotFound.into()));
        }
        if exists && !is_recording(file) {
            let shown = crate::gguf::shown(&file.display().to_string());
            return Err(Failure::usage(format!("{shown} is no recording, and --force replaces nothing else; choose another name")));
        }
        Ok(Self { file: file.to_path_buf(), force, sink: Sink::Waiting(Vec::new()), steps: false })
    }

    /// Something on the text lane.
    ///
    /// # Errors
    /// The model is open, and the file can't be made.
    pub(super) fn event(&mut self, event: &Event) -> Result<(), Failure> {
        match &mut self.sink {
            Sink::Into(recorder) => recorder.event(event),
            Sink::Waiting(said) => {
                said.push(event.clone());
                if matches!(event, Event::Ready { .. }) {
                    let mut recorder = self.create()?;
                    if let Sink::Waiting(said) = &self.sink {
                        said.iter().for_each(|event| recorder.event(event));
                    }
                    self.sink = Sink::Into(recorder);
                }
            }
        }
        Ok(())
    }

    fn create(&self) -> Result<Recorder, Failure> {
        if self.force && self.file.exists() {
            std::fs::remove_file(&self.file).map_err(|e| cant_record(&self.file, &e))?;
        }
        Recorder::create(&self.file).map_err(|e| cant_record(&self.file, &e))
    }

    /// A step on the telemetry lane.
    pub(super) fn step(&mut self, record: &StepRecord) {
        if let Sink::Into(recorder) = &mut self.sink {
            recorder.step(record);
            self.steps = true;
        }
    }

    /// What is asked, before the events of the answer.
    pub(super) fn question(&mut self, id: RequestId, text: &str) {
        if let Sink::Into(recorder) = &mut self.sink {
            recorder.question(id, text);
        }
    }

    /// Mark the file as whole; one without a step would only stand in the way of the next try.
    ///
    /// # Errors
    /// The first error of the whole recording.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let Sink::Into(recorder) = self.sink else { return Ok(()) };
        let finished = recorder.finish();
        if !self.steps {
            let _ = std::fs::remove_file(&self.file);
            return Ok(());
        }
        finished.map_err(|e| Failure::failed(format!("{}: the recording is not whole: {e}", self.file.display())))
    }
}
