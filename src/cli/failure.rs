//! Exit codes, and errors that know theirs.

use crate::engine::EngineError;
use crate::events::FailureKind;
use color_eyre::eyre;

/// Exit codes that a script can rely on; `--help` lists them.
pub mod exit {
    /// A check that failed its acceptance, or a generation that ended in an error.
    pub const FAILED: u8 = 1;
    /// Arguments, configuration or input that make no sense.
    pub const USAGE: u8 = 2;
    /// The model file is missing, damaged, or of a kind that can't be run.
    pub const MODEL_FILE: u8 = 3;
    /// The budget or the machine has too little memory.
    pub const MEMORY: u8 = 4;
    /// A download failed.
    pub const DOWNLOAD: u8 = 5;
    /// Cancelled from the keyboard, as shells report SIGINT.
    pub const CANCELLED: u8 = 130;
}

/// An error whose exit code is known where it arises.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// What to print.
    pub message: String,
}

impl Failure {
    /// Wrong arguments or input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: exit::USAGE, message: message.into() }
    }
    /// A failed check or generation.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: exit::FAILED, message: message.into() }
    }
    /// A load that ended as the engine reported it.
    pub fn load(kind: FailureKind, message: impl Into<String>) -> Self {
        let code = match kind {
            FailureKind::File => exit::MODEL_FILE,
            FailureKind::Memory => exit::MEMORY,
            FailureKind::Options => exit::USAGE,
            FailureKind::Cancelled => exit::CANCELLED,
            FailureKind::Context | FailureKind::Other => exit::FAILED,
        };
        Self { code, message: message.into() }
    }
}

impl From<EngineError> for Failure {
    fn from(e: EngineError) -> Self {
        Self::load(e.kind(), e.to_string())
    }
}

pub(super) fn code_of(report: &eyre::Report) -> u8 {
    for cause in report.chain() {
        if let Some(f) = cause.downcast_ref::<Failure>() {
            return f.code;
        }
        if let Some(e) = cause.downcast_ref::<EngineError>() {
            return Failure::load(e.kind(), "").code;
        }
    }
    exit::FAILED
}

/// The causes, outermost first, without those that the message before already contains.
pub(super) fn one_chain(report: &eyre::Report) -> String {
    let mut out = String::new();
    for cause in report.chain() {
        let text = cause.to_string();
        if !out.contains(&text) {
            if !out.is_empty() {
                out += ": ";
            }
            out += &text;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_errors_repeats_nothing() {
        let inner = Failure::failed("the disk is full");
        let report = eyre::Report::from(inner).wrap_err("m.gguf");
        assert_eq!(one_chain(&report), "m.gguf: the disk is full");
        let twice = eyre::Report::from(Failure::failed("no")).wrap_err("no: no");
        assert_eq!(one_chain(&twice), "no: no");
    }
}
