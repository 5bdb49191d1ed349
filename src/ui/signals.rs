//! What comes from outside: signals, and a terminal that went away.
//!
//! crossterm 0.29 does not report a dead terminal; its reader spins instead. A process that holds gigabytes of
//! memory must not stay behind like that, so a thread of its own polls the terminal for a hang-up. If the rest
//! of the program does not end in time after one, that thread ends it.

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::Notify;

/// Exit status after a hang-up: 128 + SIGHUP.
pub const HANGUP_STATUS: u8 = 129;
/// Exit status after SIGTERM: 128 + 15.
pub const TERM_STATUS: u8 = 143;
/// Exit status after SIGINT from outside: 128 + 2.
pub const INT_STATUS: u8 = 130;
/// Between two looks at the terminal.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// What is left to end in order after a hang-up.
const GRACE: Duration = Duration::from_millis(1200);

/// A signal that the screen answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// End in order with this status, giving the terminal back.
    End(u8),
    /// The terminal is gone.
    Hangup,
    /// The process goes on after it was stopped.
    Continued,
}

/// All signals in one stream.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    cont: Signal,
    watchdog: Arc<Watchdog>,
}

#[derive(Default)]
struct Watchdog {
    gone: AtomicBool,
    wake: Notify,
}

impl Signals {
    /// Listens to the signals and starts the watchdog. Needs a tokio runtime.
    ///
    /// # Errors
    /// If a handler or the thread can't be set up.
    pub fn listen() -> io::Result<Self> {
        let watchdog = Arc::new(Watchdog::default());
        let dog = Arc::clone(&watchdog);
        std::thread::Builder::new().name("terminal-watchdog".into()).spawn(move || watch(&dog))?;
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            cont: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            watchdog,
        })
    }

    /// The next thing that comes from outside.
    pub async fn next(&mut self) -> Outside {
        if self.watchdog.gone.load(Ordering::Acquire) {
            return Outside::Hangup;
        }
        tokio::select! {
            _ = self.term.recv() => Outside::End(TERM_STATUS),
            _ = self.int.recv() => Outside::End(INT_STATUS),
            _ = self.hup.recv() => Outside::Hangup,
            _ = self.cont.recv() => Outside::Continued,
            () = self.watchdog.wake.notified() => Outside::Hangup,
        }
    }

    /// Stops the process group as the shell expects it after Ctrl-Z, and returns when it goes on. Where no shell
    /// could continue it (an orphaned group) the system ignores the stop, and so does this.
    ///
    /// # Errors
    /// If the signal can't be sent.
    pub async fn stop_self(&mut self) -> io::Result<()> {
        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
        // The stop reaches this process at the latest when it next enters the kernel; time stands still in it.
        let _ = tokio::time::timeout(Duration::from_millis(200), self.cont.recv()).await;
        Ok(())
    }
}

fn watch(dog: &Watchdog) {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::empty())];
        match poll(&mut fds, Some(&LOOK)) {
            Ok(0) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(_) if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) => break,
            // macOS answers "invalid" for terminals that are well.
            Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(250)),
        }
    }
    super::terminal::abandon();
    dog.gone.store(true, Ordering::Release);
    dog.wake.notify_one();
    std::thread::sleep(GRACE);
    std::process::exit(i32::from(HANGUP_STATUS));
}
