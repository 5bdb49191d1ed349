//! A recording of `rotary run`: its file is made when the model is open, and goes away again if nothing is recorded. One that is to replace
//! another is made beside it, and takes its place at the end.

use crate::cli::{cant_record, Failure};
use crate::events::{Event, RequestId, StepRecord};
use crate::trace::open::is_recording;
use crate::trace::record::{is_csv, Recorder};
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
    /// What is written.
    file: PathBuf,
    /// The recording that it replaces at the end.
    old: Option<PathBuf>,
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
        let beside = exists.then(|| beside(file));
        if let Some(beside) = beside.as_deref().filter(|beside| beside.symlink_metadata().is_ok()) {
            let Failure { code, message } = cant_record(beside, &io::ErrorKind::AlreadyExists.into());
            return Err(Failure { code, message: format!("{message}, or move this one away: --force records into it first") });
        }
        let (file, old) = (file.to_path_buf(), beside.as_ref().map(|_| file.to_path_buf()));
        Ok(Self { file: beside.unwrap_or(file), old, sink: Sink::Waiting(Vec::new()), steps: false })
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

    /// Mark the file as whole, and put it in the place of the old one; a file without a step would only stand in the way of the next try.
    ///
    /// # Errors
    /// The first error of the whole recording. What was there before is then still there, and the new recording beside it.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let Sink::Into(recorder) = self.sink else { return Ok(()) };
        let finished = recorder.finish();
        if !self.steps {
            let _ = std::fs::remove_file(&self.file);
            return Ok(());
        }
        let file = crate::gguf::shown(&self.file.display().to_string());
        finished.map_err(|e| Failure::failed(format!("{file}: the recording is not whole: {e}")))?;
        let Some(old) = self.old else { return Ok(()) };
        std::fs::rename(&self.file, &old).map_err(|e| {
            let old = crate::gguf::shown(&old.display().to_string());
            Failure::failed(format!("{file}: the recording is whole, but can't take the place of {old}: {e}; rename it yourself"))
        })
    }
}

/// Where a recording is made that is to replace `file`. The end of its name says its form.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(if is_csv(file) { ".new.csv" } else { ".new" });
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{ModelCard, Plan, Sampling};

    fn card() -> ModelCard {
        ModelCard {
            name: "tiny".into(),
            arch: "tiny".into(),
            toy: true,
            layers: 1,
            experts: 4,
            top_k: 1,
            vocab: 100,
            context: 100,
            expert_bytes: vec![100],
            plan: Plan::default(),
            sampling: Sampling::default(),
            can_think: false,
            has_effort: false,
            template_fallback: false,
            device: "none".into(),
        }
    }

    fn record(file: &Path, steps: usize) -> Result<(), Failure> {
        let mut recording = Recording::into_file(file, true)?;
        recording.event(&Event::Ready { card: Box::new(card()) })?;
        (0..steps).for_each(|_| recording.step(&StepRecord::default()));
        recording.finish()
    }

    #[test]
    fn a_recording_is_replaced_by_one_with_steps_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["talk.rotary", "talk.csv"] {
            let file = folder.path().join(name);
            record(&file, 1).unwrap();
            let old = std::fs::read(&file).unwrap();
            record(&file, 0).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), old, "{name}");
            assert!(!beside(&file).exists() && is_recording(&file), "{name}");
            let marked = [&old[..], b"#"].concat();
            std::fs::write(&file, &marked).unwrap();
            record(&file, 1).unwrap();
            assert!(std::fs::read(&file).unwrap() != marked && is_recording(&file) && !beside(&file).exists(), "{name}");
        }
    }

    #[test]
    fn what_is_beside_a_recording_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("talk.rotary");
        record(&file, 1).unwrap();
        std::fs::write(beside(&file), b"mine").unwrap();
        let refused = record(&file, 1).unwrap_err().message;
        assert!(refused.contains("talk.rotary.new") && refused.ends_with("move this one away: --force records into it first"), "{refused}");
        assert_eq!(std::fs::read(beside(&file)).unwrap(), b"mine");
    }
}
