//! What is said: from the arguments, from standard input, or from both.

use super::args::Turns;
use crate::cli::Failure;
use crate::size::size;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

/// The longest prompt that is read from standard input.
const MAX_PROMPT: u64 = 64 << 20;
impl Turns {
    /// The turns' texts.
    ///
    /// # Errors
    /// Nothing to say, or standard input that is no text.
    pub(super) fn prompts(&self) -> Result<Vec<String>, Failure> {
        let stdin = |prompt: &&String| *prompt == "-";
        match self.prompt.iter().filter(stdin).count() {
            0 if self.prompt.is_empty() => {
                if io::stdin().is_terminal() {
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
        if self.stdin {
            let more = from_stdin()?;
            if !more.trim().is_empty() {
                prompts[0] = format!("{}\n\n{more}", prompts[0]);
            }
        } else if !self.quiet && something_was_piped() {
            // Read unasked, a script's loop would lose its list, and a pipe that nobody closes would be waited for for ever.
            let _ = writeln!(
                io::stderr().lock(),
                "rotary: what is piped in is not read beside -p; --stdin puts it behind, -p - makes it a turn"
            );
        }
        Ok(prompts)
    }
}

/// Something waits in a pipe. A terminal, a file and /dev/null say nothing by themselves.
fn something_was_piped() -> bool {
    use std::os::unix::fs::FileTypeExt;
    let stdin = io::stdin();
    let piped = || std::fs::File::from(stdin.as_fd().try_clone_to_owned().ok()?).metadata().ok().map(|m| m.file_type().is_fifo());
    if piped() != Some(true) {
        return false;
    }
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) && fds[0].revents().contains(PollFlags::IN)
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
    io::stdin()
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
