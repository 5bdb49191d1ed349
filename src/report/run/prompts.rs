//! What is said: from the arguments, from standard input, or from both.

use super::args::Turns;
use crate::cli::Failure;
use crate::size::size;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

/// The longest prompt that is read from standard input.
const MAX_PROMPT: u64 = 64 << 20;
/// After so long it is said what is waited for.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

impl Turns {
    /// The turns' texts.
    ///
    /// # Errors
    /// Nothing to say, or standard input that is no text.
    pub(super) fn prompts(&self) -> Result<Vec<String>, Failure> {
        let stdin = |prompt: &&String| *prompt == "-";
        match self.prompt.iter().filter(stdin).count() {
            0 if self.prompt.is_empty() => {
                if std::io::stdin().is_terminal() {
                    return Err(Failure::usage("nothing to say: give -p TEXT, or -p - and the text on standard input"));
                }
                return Ok(vec![told(from_stdin()?, "the prompt on standard input is empty")?]);
            }
            0 => {}
            1 => {
                let text = |p: &String| if p == "-" { told(from_stdin()?, "the prompt on standard input is empty") } else { given(p) };
                return self.prompt.iter().map(text).collect();
            }
            _ => return Err(Failure::usage("standard input can be read once: give -p - only once")),
        }
        let mut prompts = self.prompt.iter().map(|p| given(p)).collect::<Result<Vec<_>, _>>()?;
        if is_piped() {
            if !self.quiet {
                tell_if_nothing_comes();
            }
            let more = from_stdin()?;
            if !more.trim().is_empty() {
                prompts[0] = format!("{}\n\n{more}", prompts[0]);
            }
        }
        Ok(prompts)
    }
}

/// Something was piped into the program, or a file redirected. A terminal, a socket and /dev/null say nothing by themselves.
fn is_piped() -> bool {
    use std::os::unix::fs::FileTypeExt;
    let kind = || std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?).metadata().ok();
    kind().is_some_and(|m| m.file_type().is_fifo() || m.is_file())
}

/// A pipe that nobody writes into and nobody closes would be waited for without a word.
fn tell_if_nothing_comes() {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    if poll(&mut fds, Some(&PATIENCE)) == Ok(0) {
        let _ = writeln!(
            std::io::stderr().lock(),
            "rotary: waiting for the end of standard input, which comes behind -p; `< /dev/null` does without"
        );
    }
}

fn given(prompt: &str) -> Result<String, Failure> {
    told(prompt.to_owned(), "the prompt is empty: give -p TEXT, or -p - and the text on standard input")
}

/// A prompt that says something.
fn told(text: String, otherwise: &str) -> Result<String, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::usage(otherwise));
    }
    Ok(text)
}

fn from_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_PROMPT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::usage(format!("standard input can't be read: {e}")))?;
    if bytes.len() as u64 > MAX_PROMPT {
        return Err(Failure::usage(format!("the prompt on standard input is longer than {}; shorten it", size(MAX_PROMPT))));
    }
    String::from_utf8(bytes).map_err(|e| {
        Failure::usage(format!("the prompt on standard input is not UTF-8 (byte {}); convert it first", e.utf8_error().valid_up_to()))
    })
}
