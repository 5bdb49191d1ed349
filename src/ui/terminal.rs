//! Taking the terminal and giving it back.
//!
//! Few modes are used: raw input, the alternate screen, bracketed paste. Giving back is idempotent and goes on
//! after an error, so that every way out (quit, panic, signal) can call it. After the other end is gone nothing is written,
//! and no write of giving back is waited for for long: a link that takes no bytes could block it for ever.

use crossterm::cursor::Show;
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::style::ResetColor;
use crossterm::terminal::{disable_raw_mode, enable_raw_mode, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{execute, queue};
use ratatui::layout::Size;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// The terminal is in our modes.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Held while bytes are written, so that a restore does not fall into the middle of a frame.
static WRITING: Mutex<()> = Mutex::new(());
/// How long a restore waits for a frame that is under way.
const FRAME_WAIT: Duration = Duration::from_millis(300);

/// Input and output are a terminal.
#[must_use]
pub fn is_present() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal, or `None` if it has none or is gone.
#[must_use]
pub fn size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| Size::new(size.ws_col, size.ws_row))
}

/// The other end of the terminal was closed.
#[must_use]
pub fn is_gone() -> bool {
    let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // An error here says nothing about the terminal.
    let answered = rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0);
    answered && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// The terminal as a file of its own, without the buffering of the standard library.
pub struct TerminalFile(File);

impl TerminalFile {
    /// A duplicate of standard output.
    ///
    /// # Errors
    /// If the process has no file descriptor left.
    pub fn open() -> io::Result<Self> {
        Ok(Self(File::from(rustix::io::dup(rustix::stdio::stdout())?)))
    }
}

impl Write for TerminalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _writing = lock();
        if !TAKEN.load(Ordering::Acquire) {
            // A frame that was under way when the terminal was given back is dropped.
            return Ok(bytes.len());
        }
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Takes the terminal.
///
/// # Errors
/// If the modes can't be set; the terminal is given back then.
pub fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::Release);
    let _writing = lock();
    let result = execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste);
    drop(_writing);
    if result.is_err() {
        leave();
    }
    result
}

/// Gives the terminal back. Safe to call at any time, any number of times.
pub fn leave() {
    if !TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    let end = Instant::now() + FRAME_WAIT;
    let writing = loop {
        match WRITING.try_lock() {
            Ok(guard) => break Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => break Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => break None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    // If the link takes no bytes any more, writing would block: only the line discipline is set right.
    if writing.is_some() {
        write_in_time();
    }
    let _ = disable_raw_mode();
}

/// Writes what gives the screen back. A thread that hangs in it is left behind: the process is about to end.
fn write_in_time() {
    let write = || {
        let mut out = io::stdout();
        let _ = queue!(out, ResetColor, DisableBracketedPaste, LeaveAlternateScreen, Show);
        let _ = out.flush();
    };
    let (done, wait) = std::sync::mpsc::channel();
    let writer = move || {
        write();
        let _ = done.send(());
    };
    match std::thread::Builder::new().name("terminal-restore".into()).spawn(writer) {
        Ok(_) => drop(wait.recv_timeout(FRAME_WAIT)),
        Err(_) => write(),
    }
}

/// The terminal is in our modes: others see nothing of their own on it.
#[must_use]
pub fn is_taken() -> bool {
    TAKEN.load(Ordering::Acquire)
}

/// The terminal is gone: nothing is to be written to it any more.
pub fn abandon() {
    TAKEN.store(false, Ordering::Release);
}

/// Makes panics of the screen's thread give the terminal back before they are reported. Panics of other
/// threads while the screen is up go to the log instead of over the screen; who waits for the thread reports
/// them.
pub fn install_panic_hook(screen: ThreadId) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == screen {
            leave();
        } else if TAKEN.load(Ordering::Acquire) {
            tracing::error!("a thread panicked: {info}");
            return;
        }
        before(info);
    }));
}
