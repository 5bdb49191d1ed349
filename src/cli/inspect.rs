//! `rotary inspect`: what is in a model file, and the memory plan.

use super::{configuration, find_model, tell_idle, Failure, Load};
use crate::report;
use clap::Args;
use color_eyre::eyre;
use std::io::{self, Write};
use std::process::ExitCode;

/// Arguments of `rotary inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Path, downloaded name, or demo
    model: String,
    #[command(flatten)]
    load: Load,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn inspect(args: &InspectArgs) -> eyre::Result<ExitCode> {
    let config = configuration();
    let gguf = crate::engine::open::map(&find_model(&args.model, &config)?).map_err(Failure::from)?;
    let seen = report::inspect::inspect(&gguf);
    let available = crate::engine::gauges::process_memory().available;
    // A file that can't be run has no plan; the reasons are in the report.
    let options = args.load.options(&config);
    let plan = crate::model::plan(&gguf, &options, available);
    if let Ok(plan) = &plan {
        tell_idle(&options, plan, false);
    }
    let mut out = io::stdout().lock();
    if args.json {
        let plan = plan.as_ref().map_err(ToString::to_string);
        let (plan, why) = (plan.as_ref().ok(), plan.as_ref().err());
        serde_json::to_writer(&mut out, &serde_json::json!({ "file": seen, "plan": plan, "no_plan": why })).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{seen}")?;
        match plan {
            Ok(plan) => write!(out, "{}", report::plan::table(&plan))?,
            Err(why) => writeln!(out, "no memory plan: {why}")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
