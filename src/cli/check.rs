//! `rotary check`: a model against a reference.

use super::number::{at_least_one, fraction};
use super::{configuration, exit, find_model, Failure, Load};
use crate::engine::EngineError;
use crate::report;
use clap::Args;
use color_eyre::eyre;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `rotary check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Path, downloaded name, or demo
    model: String,
    /// An .npz that tests/reference/make_fixtures.py wrote
    reference: PathBuf,
    /// Pass if no logit differs by more than this, instead of the built-in acceptance
    #[arg(long, value_name = "X", value_parser = fraction::<f32>)]
    tolerance: Option<f32>,
    /// Change the slots per layer after every chunk, to these in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = at_least_one)]
    resize: Vec<usize>,
    /// Keep keys and values in 16 bits, as a chat does, instead of 32: logits then differ more
    #[arg(long, conflicts_with = "kv_f32")]
    kv_f16: bool,
    #[command(flatten)]
    load: Load,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &CheckArgs) -> eyre::Result<ExitCode> {
    use report::check::{check_file, CheckError, CheckOptions};
    let config = configuration();
    let gguf = crate::engine::open::map(&find_model(&args.model, &config)?).map_err(Failure::from)?;
    let reference = report::reference::Reference::read(&args.reference).map_err(|e| Failure::usage(e.to_string()))?;
    let load = args.load.options(&config);
    let options =
        CheckOptions { tolerance: args.tolerance, load, resize: args.resize.clone(), kv_f16: args.kv_f16, ..CheckOptions::default() };
    let checked = check_file(&gguf, &reference, &options).map_err(|e| match e {
        CheckError::Reference(_) | CheckError::OtherModel(_) => Failure::usage(e.to_string()),
        CheckError::Gguf(e) => EngineError::from(e).into(),
        CheckError::Model(e) => EngineError::from(e).into(),
    })?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &checked).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{checked}")?;
    }
    Ok(ExitCode::from(if checked.passed() { 0 } else { exit::FAILED }))
}
