//! `rotary convert`: routing from one trace format into the other, and sessions without their words.

use crate::cli::Failure;
use crate::trace::csv;
use crate::trace::open::{is_session, open_routes};
use crate::trace::record::{create_file, is_csv};
use crate::trace::session::write_routes;
use clap::Args;
use color_eyre::eyre;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `rotary convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Routing alone is kept: what was said is left out, so a session can be given to others. A session keeps gate weights in half\n\
precision; a CSV has no column for the tokens of a chunk of the prompt, which becomes one step,\n\
and none for what routers foresaw. docs/trace-format.md has both.")]
pub struct ConvertArgs {
    /// A recorded session, or a route_trace v1 CSV
    #[arg(value_name = "FILE")]
    pub from: PathBuf,
    /// What to write: a CSV if the name ends in .csv, else a session; it must not exist. - is standard output, a CSV of a session and a session of a CSV
    #[arg(value_name = "OUT")]
    pub to: PathBuf,
}

/// `rotary convert`.
///
/// # Errors
/// If the input is no trace, or the output exists or can't be written.
pub fn run(args: &ConvertArgs) -> eyre::Result<ExitCode> {
    let routes = open_routes(&args.from).map_err(|e| Failure::usage(e.to_string()))?;
    if args.to.as_os_str() == "-" {
        let mut out = BufWriter::new(io::stdout().lock());
        if is_session(&args.from) {
            csv::write(&mut out, &routes)?;
        } else if io::stdout().is_terminal() {
            return Err(Failure::usage("a session is no text for a terminal; write it into a file: rotary convert FILE OUT").into());
        } else {
            write_routes(&mut out, &routes)?;
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = BufWriter::new(create_file(&args.to).map_err(|e| crate::cli::cant_record(&args.to, &e))?);
    let written = if is_csv(&args.to) { csv::write(&mut out, &routes) } else { write_routes(&mut out, &routes).map(|_| ()) };
    written
        .and_then(|()| out.flush())
        .map_err(|e| Failure::failed(format!("{}: {e}", crate::gguf::shown(&args.to.display().to_string()))))?;
    Ok(ExitCode::SUCCESS)
}
