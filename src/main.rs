//! The binary: set up, dispatch, exit code. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    rotary::cli::main()
}
