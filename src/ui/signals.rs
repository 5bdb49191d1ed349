//! What comes from outside: signals, and a terminal that went away.
//!
//! crossterm 0.29 does not report a dead terminal; its reader spins instead. A process that holds gigabytes of
//! memory must not stay behind like that, so a thread of its own polls the terminal for a hang-up. If the rest
//! of the program does not end in time after one, that thread ends it.
//!
//! A stop (SIGTSTP) would leave the shell with the screen of a program that stands still. So it is blocked in all threads
//! ([`hold_stops`]) but one, which waits for it: while the terminal is ours, the app is asked to give it back first; then
//! that thread lets the signal have its usual effect.

use nix::sys::signal::{raise, SigSet, Signal as Number};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// How long a stop that was sent may take to arrive.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// A signal that the screen answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// End in order with this status, giving the terminal back.
    End(u8),
    /// The terminal is gone.
    Hangup,
    /// The process is to stand still; the terminal must be given back first.
    Stop,
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
    stops: Arc<Stops>,
}

#[derive(Default)]
struct Watchdog {
    gone: AtomicBool,
    wake: Notify,
}

#[derive(Default)]
struct Stops {
    /// A stop waits for the terminal.
    asked: AtomicBool,
    wake: Notify,
    /// How often the process stood still, or was to: where no shell could continue it the system ignores the stop.
    stood: AtomicU64,
    went_on: Notify,
}

fn stop() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Number::SIGTSTP);
    set
}

/// Keeps stops from taking effect until [`Signals`] handle them. Threads inherit this from the one that starts them, so it
/// must be called before there are others.
pub fn hold_stops() {
    let _ = stop().thread_block();
}

/// Runs `start`, which starts another program: it must not inherit that stops are held.
pub fn with_usual_stops<T>(start: impl FnOnce() -> T) -> T {
    let _ = stop().thread_unblock();
    let result = start();
    hold_stops();
    result
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
        hold_stops();
        let stops = Arc::new(Stops::default());
        let theirs = Arc::clone(&stops);
        std::thread::Builder::new().name("stops".into()).spawn(move || wait_for_stops(&theirs))?;
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            cont: signal(SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()))?,
            watchdog,
            stops,
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
            () = self.stops.asked() => Outside::Stop,
            _ = self.cont.recv() => Outside::Continued,
            () = self.watchdog.wake.notified() => Outside::Hangup,
        }
    }

    /// Stops the process group as the shell expects it after Ctrl-Z, and returns when it goes on. Where no shell
    /// could continue it (an orphaned group) the system ignores the stop, and so does this. The terminal must have been
    /// given back.
    ///
    /// # Errors
    /// If the signal can't be sent.
    pub async fn stop_self(&mut self) -> io::Result<()> {
        let before = self.stops.stood.load(Ordering::Acquire);
        rustix::process::kill_current_process_group(rustix::process::Signal::TSTP)?;
        // Time stands still in here while the process does.
        let _ = tokio::time::timeout(STOP_WAIT, self.stops.stood_since(before)).await;
        let _ = tokio::time::timeout(Duration::from_millis(200), self.cont.recv()).await;
        // One stop is enough, however often it was asked for.
        self.stops.asked.store(false, Ordering::Release);
        Ok(())
    }
}

impl Stops {
    async fn asked(&self) {
        while !self.asked.swap(false, Ordering::AcqRel) {
            self.wake.notified().await;
        }
    }

    async fn stood_since(&self, before: u64) {
        while self.stood.load(Ordering::Acquire) == before {
            self.went_on.notified().await;
        }
    }
}

fn wait_for_stops(stops: &Stops) {
    while stop().wait().is_ok() {
        if super::terminal::is_taken() {
            stops.asked.store(true, Ordering::Release);
            stops.wake.notify_one();
        } else {
            // Sent to this thread alone, it has its usual effect here and on all.
            with_usual_stops(|| raise(Number::SIGTSTP)).unwrap_or_default();
            stops.stood.fetch_add(1, Ordering::AcqRel);
            stops.went_on.notify_one();
        }
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
