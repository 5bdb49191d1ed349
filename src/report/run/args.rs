//! What `rotary run` and `rotary record` can be told.

use super::recording::Recording;
use crate::cli::{whole, Draw, Failure, Load, Think};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `rotary run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[allow(missing_docs)] // A comment here would become the help text of every flag group.
    #[command(flatten)]
    pub turns: Turns,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub record: RecordInto,
}

/// Arguments of `rotary record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// File to record into, routing alone if it ends in .csv; it must not exist
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) turns: Turns,
    /// Replace the file if it is a recording
    #[arg(long, help_heading = "Output")]
    pub(super) force: bool,
}

impl RecordArgs {
    /// The file comes first, then the model; said where they are the other way round.
    pub(super) fn check_order(&self) -> Result<(), Failure> {
        let name = self.file.to_string_lossy();
        let known = || crate::cli::downloaded(&crate::config::load().config).iter().any(|(model, _)| *model == name);
        let model = name == "demo" || self.file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) || known();
        if !model {
            return Ok(());
        }
        let (name, second) = (crate::gguf::shown(&name), crate::gguf::shown(&self.turns.model));
        let file = if PathBuf::from(&self.turns.model).extension().is_some() { second } else { "talk.rotary".to_owned() };
        let say = format!("{name} names a model, and here belongs the file to record into: rotary record {file} {name} -p TEXT");
        Err(Failure::usage(say))
    }
}

/// `--trace` of commands that answer without a recording, too.
#[derive(Debug, Args)]
pub struct RecordInto {
    /// Record the session into a file
    ///
    /// Text, routing and times, for `rotary replay` and `rotary simulate`; routing alone if it ends in .csv. It must not exist.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    trace: Option<PathBuf>,
}

impl RecordInto {
    pub(super) fn recording(&self) -> Result<Option<Recording>, Failure> {
        self.trace.as_deref().map(|file| Recording::into_file(file, false)).transpose()
    }
}

/// The turns of a chat, and how they are answered.
#[derive(Debug, Args)]
pub struct Turns {
    /// Path, downloaded name, or demo
    pub(super) model: String,
    /// What to say; - reads standard input. Given several times, each is one turn of the same chat
    ///
    /// Without it, what is piped into the program is the prompt.
    #[arg(short, long, value_name = "TEXT")]
    pub(super) prompt: Vec<String>,
    /// Put what is piped in behind the first -p, after a blank line: `cat notes.txt | rotary run demo --stdin -p 'In one sentence:'`
    #[arg(long, requires = "prompt")]
    pub(super) stdin: bool,
    /// Standing instructions
    #[arg(long, value_name = "TEXT")]
    pub(super) system: Option<String>,
    /// Continue the prompt as raw text, without the chat template
    #[arg(long, conflicts_with_all = ["system", "no_think", "effort"])]
    pub(super) raw: bool,
    #[command(flatten)]
    pub(super) think: Think,
    /// Most tokens to generate; 0 is until the model ends its turn or the context is full
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>)]
    pub(super) max_tokens: usize,
    #[command(flatten)]
    pub(super) draw: Draw,
    #[command(flatten)]
    pub(super) load: Load,
    /// One JSON object per line for every event and step
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
    /// Nothing on standard error but errors
    #[arg(short, long, help_heading = "Output")]
    pub(super) quiet: bool,
}
