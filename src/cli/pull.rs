//! `rotary pull`: a model file from a hub.

use super::{exit, Failure};
use clap::Args;
use color_eyre::eyre;
use std::process::ExitCode;

/// Arguments of `rotary pull`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rotary pull Qwen/Qwen3-30B-A3B-GGUF Qwen3-30B-A3B-Q4_K_M.gguf\n\n\
    The file lies under XDG_DATA_HOME/rotary/models afterwards and is opened by its name. A cut download goes\n\
    on where it was cut. HF_TOKEN opens private repositories, HF_ENDPOINT names another hub.")]
pub(super) struct PullArgs {
    /// OWNER/REPO on the hub
    repo: String,
    /// A .gguf file of it; any part of a split set stands for the whole set
    file: String,
}

#[cfg(feature = "hub")]
pub(super) fn pull(args: &PullArgs) -> eyre::Result<ExitCode> {
    use crate::report::pull::{line, Pull, PullError};
    use std::io::{self, Write};
    let models = crate::config::Folders::find().data.join("models");
    let mut err = io::stderr().lock();
    let mut last = None;
    let pulled = Pull::new(&args.repo, &args.file, &models).run(&mut |progress| {
        if let Some(line) = line(&progress, &mut last) {
            let _ = write!(err, "{line}").and_then(|()| err.flush());
        }
    });
    match pulled {
        Ok(path) => {
            let name = path.strip_prefix(&models).unwrap_or(&path).with_extension("");
            writeln!(io::stdout().lock(), "{}", name.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(e @ PullError::Name { .. }) => Err(Failure::usage(e.to_string()).into()),
        Err(e) => Err(Failure { code: exit::DOWNLOAD, message: e.to_string() }.into()),
    }
}

#[cfg(not(feature = "hub"))]
pub(super) fn pull(args: &PullArgs) -> eyre::Result<ExitCode> {
    let message = format!("this rotary was built without the feature `hub`, so it can't fetch {} of {}", args.file, args.repo);
    Err(Failure { code: exit::DOWNLOAD, message }.into())
}
