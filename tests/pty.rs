//! The whole program in a pseudo terminal: keys go in as a person types them, and what a person would see is
//! read from a real terminal parser. Nothing sleeps for a fixed time; every step waits until something is seen.
//!
//! `ROTARY_TEST_TIMEOUT` sets the patience per step in seconds (default 120, for slow machines).

use portable_pty::{native_pty_system, Child, CommandBuilder, ExitStatus, MasterPty, PtySize};
use std::io::{Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks at what has no event of its own.
const LOOK: Duration = Duration::from_millis(5);

fn patience() -> Duration {
    let seconds = std::env::var("ROTARY_TEST_TIMEOUT").ok().and_then(|s| s.parse().ok()).unwrap_or(120);
    Duration::from_secs(seconds)
}

/// Leaves the alternate screen.
const LEAVE: &[u8] = b"\x1b[?1049l";

struct Seen {
    parser: vt100::Parser,
    bytes: usize,
    /// How often the alternate screen was left, however shortly, and what may be the beginning of that.
    left: usize,
    tail: Vec<u8>,
    ended: bool,
}

impl Seen {
    fn count_leaving(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        self.left += self.tail.windows(LEAVE.len()).filter(|w| *w == LEAVE).count();
        let keep = self.tail.len().saturating_sub(LEAVE.len() - 1);
        self.tail.drain(..keep);
    }
}

/// A program in a terminal.
struct Pty {
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    closing: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Pty {
    fn spawn(command: CommandBuilder, columns: u16, rows: u16) -> Self {
        let size = PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut out = pair.master.try_clone_reader().unwrap();
        let keys = pair.master.take_writer().unwrap();
        let parser = vt100::Parser::new(NonZero::new(rows).unwrap(), NonZero::new(columns).unwrap(), 0);
        let seen = Arc::new((Mutex::new(Seen { parser, bytes: 0, left: 0, tail: Vec::new(), ended: false }), Condvar::new()));
        let closing = Arc::new(AtomicBool::new(false));
        let (their_seen, their_closing) = (Arc::clone(&seen), Arc::clone(&closing));
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let count = out.read(&mut buffer).unwrap_or(0);
                let (lock, changed) = &*their_seen;
                let mut seen = lock.lock().unwrap();
                seen.parser.process(&buffer[..count]);
                seen.bytes += count;
                seen.count_leaving(&buffer[..count]);
                seen.ended = count == 0;
                changed.notify_all();
                if count == 0 || their_closing.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        Self { master: pair.master, keys, child, seen, closing, reader: Some(reader) }
    }

    fn send(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Types a line: the text first, Enter when it is seen, as a person does.
    fn enter(&mut self, text: &str) {
        self.send(text);
        let typed = text.to_owned();
        self.until(&format!("the input shows {text:?}"), |s| s.contents().contains(&typed));
        self.send("\r");
    }

    fn until(&self, what: &str, mut happens: impl FnMut(&vt100::Screen) -> bool) -> String {
        let end = Instant::now() + patience();
        let (lock, changed) = &*self.seen;
        let mut seen = lock.lock().unwrap();
        while !happens(seen.parser.screen()) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !seen.ended,
                "{} while waiting until {what}; the screen:\n{}",
                if seen.ended { "the program ended" } else { "time is up" },
                seen.parser.screen().contents()
            );
            (seen, _) = changed.wait_timeout(seen, left).unwrap();
        }
        seen.parser.screen().contents()
    }

    fn sees(&self, text: &str) -> String {
        self.until(&format!("{text:?} is seen"), |s| s.contents().contains(text))
    }

    fn contents(&self) -> String {
        self.seen.0.lock().unwrap().parser.screen().contents()
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        let (columns_, rows_) = (NonZero::new(columns).unwrap(), NonZero::new(rows).unwrap());
        self.seen.0.lock().unwrap().parser.screen_mut().set_size(rows_, columns_);
        self.master.resize(PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }).unwrap();
    }

    fn pid(&self) -> i32 {
        self.child.process_id().unwrap() as i32
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; `limit` counts from now.
    fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process still runs after {limit:?}; the screen:\n{}", self.contents());
            std::thread::sleep(LOOK);
        }
    }

    fn ends(&mut self) -> ExitStatus {
        self.ends_within(patience())
    }

    /// Closes the terminal, as a lost connection does. Every copy of the master must be closed for that, so the
    /// reading thread is woken once more (`wake` must make the program draw).
    fn hang_up(mut self, wake: &str) -> (Box<dyn Child + Send + Sync>, Instant) {
        self.closing.store(true, Ordering::SeqCst);
        self.send(wake);
        self.reader.take().unwrap().join().unwrap();
        let Self { master, keys, child, .. } = self;
        drop(keys);
        drop(master);
        (child, Instant::now())
    }

    /// The terminal is as it was before the program.
    fn is_restored(&self) {
        let (lock, changed) = &*self.seen;
        let mut seen = lock.lock().unwrap();
        let end = Instant::now() + patience();
        while !seen.ended && Instant::now() < end {
            (seen, _) = changed.wait_timeout(seen, Duration::from_millis(100)).unwrap();
        }
        let screen = seen.parser.screen();
        assert!(!screen.alternate_screen(), "still on the alternate screen");
        assert!(!screen.bracketed_paste(), "pastes are still bracketed");
        assert!(!screen.hide_cursor(), "the cursor is still hidden");
    }
}

/// A home of its own for each test.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn chats(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.path("state/rotary/chats")) else { return Vec::new() };
        let json = |p: &PathBuf| p.extension().is_some_and(|e| e == "json");
        entries.map(|e| e.unwrap().path()).filter(json).collect()
    }

    fn environment(&self, command: &mut CommandBuilder) {
        command.env_clear();
        for name in ["PATH", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", self.0.path());
        for (name, folder) in [("CONFIG", "config"), ("STATE", "state"), ("DATA", "data"), ("CACHE", "cache")] {
            command.env(format!("XDG_{name}_HOME"), self.path(folder));
        }
        command.env("TERM", "xterm-256color");
        command.env("LANG", "C.UTF-8");
        command.cwd(self.0.path());
        // The toy is slowed down for people.
        if !self.path("config/rotary/config.toml").exists() {
            self.write("config/rotary/config.toml", "pace = 0\n");
        }
    }

    fn rotary(&self, arguments: &[&str], columns: u16, rows: u16) -> Pty {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_rotary"));
        command.args(arguments);
        self.environment(&mut command);
        Pty::spawn(command, columns, rows)
    }

    fn demo(&self, columns: u16, rows: u16) -> Pty {
        let pty = self.rotary(&["demo"], columns, rows);
        pty.sees("TOY");
        pty
    }
}

const ESC: &str = "\x1b";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";
const TAB: &str = "\t";

/// Words of the line that follows every finished answer.
fn finished_answers(screen: &str) -> usize {
    screen.matches("tok/s ").count().max(screen.matches(" reused,").count())
}

#[test]
fn a_chat_from_opening_to_resuming() {
    let home = Home::new();
    let mut pty = home.demo(140, 40);
    let before = pty.contents();
    assert!(before.contains("memory") || before.contains("Memory"), "{before}");

    // Ask, see the answer and the heatmap move.
    pty.send("/set max_tokens 40\r");
    pty.sees("max_tokens is 40");
    pty.enter("Tell me a story.");
    let after = pty.sees("reused,");
    assert!(after.contains("tok/s"), "{after}");
    let right = |screen: &str| screen.lines().map(|l| l.chars().skip(80).collect()).collect::<Vec<String>>();
    assert_ne!(right(&before), right(&after), "the panes stood still");

    // The slots change while an answer is being generated.
    pty.send("/set max_tokens 0\r");
    pty.sees("max_tokens is 0");
    pty.enter("Tell me a long story about a cat.");
    pty.sees("answering");
    let slots = |s: &vt100::Screen| {
        let status = s.rows(0, 140).last()?;
        let at = status.find("slots ").map(|i| i + 6)?;
        status[at..].split('/').next()?.parse::<usize>().ok()
    };
    let mut had = None;
    pty.until("the slots are shown", |s| {
        had = slots(s);
        had.is_some()
    });
    pty.send("\x1b-");
    pty.until("one slot less is granted", |s| slots(s) == had.map(|n| n - 1));

    // Resize while it runs, then cancel (it may have ended by itself).
    pty.resize(80, 24);
    pty.until("the status line is at the new lower edge", |s| s.rows(0, 80).nth(23).is_some_and(|row| row.contains("TOY")));
    pty.send(CTRL_C);
    pty.until("the turn has ended", |s| !s.contents().contains("answering") && !s.contents().contains("cancelling"));

    // Quit and take the chat up again.
    pty.send("/quit\r");
    assert_eq!(pty.ends().exit_code(), 0);
    pty.is_restored();
    assert!(pty.contents().contains("rotary demo --resume 2"), "how to go on is said:\n{}", pty.contents());
    assert_eq!(home.chats().len(), 1);
    let saved = std::fs::read_to_string(&home.chats()[0]).unwrap();
    assert!(saved.contains("Tell me a story.") && saved.contains("about a cat"), "{saved}");

    let mut pty = home.rotary(&["demo", "--resume"], 140, 40);
    pty.sees("about a cat");
    pty.sees("TOY");
    pty.until("the notice of resuming has gone or the input is ready", |s| s.contents().contains("ask something"));
    pty.send(CTRL_D);
    assert_eq!(pty.ends().exit_code(), 0);
    assert_eq!(home.chats().len(), 1);
}

#[test]
fn automatic_slots_hold_a_budget_then_the_knee_and_say_why() {
    let home = Home::new();
    let mut pty = home.rotary(&["demo", "--slots", "8"], 120, 32);
    pty.sees("slots 8/32");
    // 3 MiB hold nine slots of 312 KiB in each of the six layers.
    pty.enter("/slots auto 3MiB");
    pty.sees("slots auto 9/32");
    pty.sees("auto: 3.00 MiB");
    pty.sees("3.00 MiB holds 9");
    pty.enter("/slots auto");
    pty.sees("learning: 0 of 64");
    pty.send("/set seed 7\r");
    pty.sees("seed is 7");
    // Answers of the toy are short at times: ask until enough was seen.
    for _ in 0..6 {
        pty.enter("Tell me a long story about a cat and a ball.");
        let screen = pty.until("an answer or the knee is there", |s| [" reused,", "knee: +1"].iter().any(|w| s.contents().contains(w)));
        if screen.contains("knee: +1") {
            break;
        }
        pty.send("/new\r");
        pty.until("a new chat", |s| !s.contents().contains(" reused,"));
    }
    pty.sees("knee: +1 gains");
    // Turned by hand: no longer automatic.
    pty.send("\x1b+");
    pty.until("the knob is the person's again", |s| !s.contents().contains("slots auto"));
    pty.send("\x03");
    pty.until("nothing runs", |s| !s.contents().contains("answering") && !s.contents().contains("cancelling"));
    pty.send("/quit\r");
    assert_eq!(pty.ends().exit_code(), 0);
}

#[test]
fn the_token_cursor_pauses_the_heatmap_and_one_key_returns_to_live() {
    let home = Home::new();
    let mut pty = home.demo(120, 32);
    pty.sees("LIVE");
    pty.enter("Tell me a story.");
    pty.sees("reused,");
    // The number of the token under the cursor, and of how many.
    let paused = |s: &vt100::Screen| {
        let text = s.contents();
        let words = text.split("PAUSED ").nth(1)?.split_whitespace().next()?;
        let (token, of) = words.trim_end_matches(',').split_once('/')?;
        Some((token.parse::<u32>().ok()?, of.parse::<u32>().ok()?))
    };
    pty.send("\x1bh");
    pty.until("the last token is under the cursor", |s| paused(s).is_some_and(|(token, of)| token == of && of > 10));
    for _ in 0..3 {
        pty.send("\x1b,");
    }
    pty.until("three tokens before", |s| paused(s).is_some_and(|(token, of)| token + 3 == of));
    pty.send("\x1bt");
    pty.sees("plain: unknown");
    pty.resize(80, 24);
    pty.until("a smaller screen says the same", |s| {
        let status = s.rows(0, 80).nth(23);
        status.is_some_and(|row| row.contains("PAUSED")) && paused(s).is_some_and(|(token, of)| token + 3 == of)
    });
    pty.send("\x1b0");
    pty.until("it is live again", |s| paused(s).is_none() && s.contents().contains("LIVE"));
    pty.send("/quit\r");
    assert_eq!(pty.ends().exit_code(), 0);
}

#[test]
fn a_replay_of_two_sides_shows_their_difference() {
    let home = Home::new();
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/qwen3-30b-a3b.rotary");
    let mut pty = home.rotary(&["replay", trace, "--slots", "16", "--diff", "slots=48", "--speed", "1000"], 120, 32);
    pty.sees("A beside B");
    pty.until("rates of both sides", |s| s.contents().contains("48 slots") && s.contents().contains("whole"));
    pty.until("it is played to the end", |s| s.contents().contains("ended 156/156"));
    pty.send("d");
    pty.until("the first side alone", |s| !s.contents().contains("A beside B") && s.contents().contains("REPLAY"));
    pty.send("d");
    pty.sees("A beside B");
    pty.send("\x1bh");
    pty.sees("PAUSED 156/156");
    pty.send("\x1b0");
    pty.sees("A beside B");
    pty.send(ESC);
    pty.until("the chat has the keys", |s| s.contents().contains("▸chat"));
    pty.send(CTRL_D);
    assert_eq!(pty.ends().exit_code(), 0);
}

#[test]
fn a_lost_terminal_ends_the_program_in_time_and_keeps_the_chat() {
    let home = Home::new();
    let mut pty = home.demo(100, 30);
    pty.enter("Do you remember this?");
    pty.until("the turn runs or ran", |s| s.contents().contains("answering") || finished_answers(&s.contents()) > 0);
    let (mut child, gone) = pty.hang_up("x");
    let limit = Duration::from_secs(2);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(gone.elapsed() < limit, "the process still runs {limit:?} after its terminal went away");
        std::thread::sleep(LOOK);
    };
    assert_eq!(status.exit_code(), 129);
    let saved = std::fs::read_to_string(&home.chats()[0]).unwrap();
    assert!(saved.contains("Do you remember this?"));
}

#[test]
fn a_kill_without_warning_loses_no_prompt() {
    let home = Home::new();
    let mut pty = home.demo(100, 30);
    pty.enter("Keep me.");
    pty.until("the turn runs or ran", |s| s.contents().contains("answering") || finished_answers(&s.contents()) > 0);
    let end = Instant::now() + patience();
    while home.chats().is_empty() {
        assert!(Instant::now() < end, "nothing was saved");
        std::thread::sleep(LOOK);
    }
    pty.signal(rustix::process::Signal::KILL);
    pty.ends();
    assert!(std::fs::read_to_string(&home.chats()[0]).unwrap().contains("Keep me."));
}

#[test]
fn sigterm_gives_the_terminal_back() {
    let home = Home::new();
    let mut pty = home.demo(80, 24);
    pty.signal(rustix::process::Signal::TERM);
    assert_eq!(pty.ends().exit_code(), 143);
    pty.is_restored();
}

#[test]
fn a_hang_up_signal_gives_a_terminal_that_is_alive_back_and_keeps_the_chat() {
    let home = Home::new();
    let mut pty = home.demo(80, 24);
    pty.enter("Do you remember this?");
    pty.until("the turn runs or ran", |s| s.contents().contains("answering") || finished_answers(&s.contents()) > 0);
    pty.signal(rustix::process::Signal::HUP);
    assert_eq!(pty.ends().exit_code(), 129);
    pty.is_restored();
    assert!(std::fs::read_to_string(&home.chats()[0]).unwrap().contains("Do you remember this?"));
}

#[test]
fn an_idle_screen_sends_nothing() {
    let home = Home::new();
    let pty = home.demo(80, 24);
    pty.until("the notice has gone and the numbers are back", |s| s.contents().contains("? help"));
    let bytes = || pty.seen.0.lock().unwrap().bytes;
    // At this size the memory pane with its gauges is not shown, so nothing at all changes.
    let end = Instant::now() + patience();
    loop {
        let before = bytes();
        let quiet = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < quiet && bytes() == before {
            std::thread::sleep(LOOK);
        }
        if bytes() == before {
            break;
        }
        assert!(Instant::now() < end, "an idle screen keeps sending");
    }
}

#[test]
fn suspending_gives_the_terminal_to_the_shell_and_fg_takes_it_back() {
    let Some(bash) = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].iter().find(|p| Path::new(p).exists()) else {
        return;
    };
    let home = Home::new();
    let mut command = CommandBuilder::new(bash);
    command.args(["--norc", "--noprofile", "-i"]);
    home.environment(&mut command);
    command.env("PS1", "shell> ");
    let mut pty = Pty::spawn(command, 80, 24);
    pty.sees("shell>");
    pty.send(&format!("{} demo\r", env!("CARGO_BIN_EXE_rotary")));
    pty.sees("TOY");
    pty.send("half a thought");
    pty.sees("half a thought");
    pty.send(CTRL_Z);
    pty.until("the shell has the terminal", |s| !s.alternate_screen() && s.contents().contains("Stopped"));
    pty.send("fg\r");
    pty.until("the screen is back", |s| s.alternate_screen() && s.contents().contains("half a thought"));
    pty.send(CTRL_C);
    pty.until("the input is empty", |s| !s.contents().contains("half a thought"));
    pty.send(CTRL_D);
    pty.until("the shell is back", |s| !s.alternate_screen());
    pty.send("exit\r");
    pty.ends();
}

/// `kill -TSTP` from another terminal: as after Ctrl-Z, nothing of the program is left on the screen.
#[test]
fn a_stop_from_outside_gives_the_terminal_to_the_shell_and_fg_takes_it_back() {
    let Some(bash) = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash"].iter().find(|p| Path::new(p).exists()) else {
        return;
    };
    let home = Home::new();
    let mut command = CommandBuilder::new(bash);
    command.args(["--norc", "--noprofile", "-i"]);
    home.environment(&mut command);
    command.env("PS1", "shell> ");
    let mut pty = Pty::spawn(command, 80, 24);
    pty.sees("shell>");
    pty.send(&format!("{} demo\r", env!("CARGO_BIN_EXE_rotary")));
    pty.sees("TOY");
    pty.send("half a thought");
    pty.sees("half a thought");
    // The job in the foreground is the program.
    let program = rustix::process::Pid::from_raw(pty.master.process_group_leader().unwrap()).unwrap();
    for _ in 0..2 {
        rustix::process::kill_process(program, rustix::process::Signal::TSTP).unwrap();
        pty.until("the shell has the terminal", |s| !s.alternate_screen() && !s.hide_cursor() && s.contents().contains("Stopped"));
        // The shell reads keys again: the terminal is in its modes.
        pty.send("clear; echo still$((40 + 2))\r");
        pty.sees("still42");
        pty.send("fg\r");
        pty.until("the screen is back", |s| s.alternate_screen() && s.contents().contains("half a thought"));
    }
    pty.send(CTRL_C);
    pty.until("the input is empty", |s| !s.contents().contains("half a thought"));
    pty.send(CTRL_D);
    pty.until("the shell is back", |s| !s.alternate_screen());
    pty.send("exit\r");
    pty.ends();
}

/// Where no shell could continue it, a stop is ignored, and the screen comes back by itself.
#[test]
fn a_stop_that_nobody_could_end_is_ignored() {
    let home = Home::new();
    let mut pty = home.demo(80, 24);
    pty.signal(rustix::process::Signal::TSTP);
    let end = Instant::now() + patience();
    while pty.seen.0.lock().unwrap().left == 0 {
        assert!(Instant::now() < end, "the terminal was never given back");
        std::thread::sleep(LOOK);
    }
    pty.until("the screen is back", |s| s.alternate_screen() && s.contents().contains("TOY"));
    pty.send("still here");
    pty.until("the screen is there and reads keys", |s| s.alternate_screen() && s.contents().contains("still here"));
    pty.send(CTRL_C);
    pty.until("the input is empty", |s| !s.contents().contains("still here"));
    pty.send(CTRL_D);
    assert_eq!(pty.ends().exit_code(), 0);
}

#[test]
fn broken_configuration_theme_and_chat_are_said_and_stop_nothing() {
    let home = Home::new();
    home.write("config/rotary/config.toml", "theme = \"mine\"\nframe_rat = 3\n");
    home.write("state/rotary/chats/old.json", "{ \"format\": 1, ");
    let mut pty = home.rotary(&["demo", "--resume"], 140, 40);
    pty.sees("frame_rat");
    pty.sees("old");
    pty.sees("TOY");
    pty.send("/resume\r");
    pty.sees("saved chats:");
    pty.sees("can't be read");
    pty.send(ESC);
    pty.until("the list has closed", |s| !s.contents().contains("saved chats:"));
    pty.send(CTRL_D);
    assert_eq!(pty.ends().exit_code(), 0);
    assert_eq!(std::fs::read_to_string(home.path("state/rotary/chats/old.json")).unwrap(), "{ \"format\": 1, ");

    let home = Home::new();
    home.write("config/rotary/config.toml", "theme = \"mine\"\n");
    home.write("config/rotary/themes/mine.toml", "inherits = \"dark\"\n[faces]\ntext = 7\n");
    let mut pty = home.rotary(&["demo"], 140, 40);
    pty.sees("mine");
    pty.sees("TOY");
    pty.send(CTRL_D);
    assert_eq!(pty.ends().exit_code(), 0);
}

#[test]
fn panes_are_reached_by_tab_and_help_by_a_question_mark() {
    let home = Home::new();
    let mut pty = home.demo(80, 24);
    pty.send("?");
    pty.sees("new line");
    pty.send(ESC);
    pty.until("help has closed", |s| !s.contents().contains("new line"));
    pty.send(TAB);
    pty.sees("▸LIVE · experts");
    pty.send(TAB);
    pty.until("the memory pane has the keyboard", |s| s.contents().to_lowercase().contains("▸memory"));
    pty.send("\x1b1");
    pty.sees("▸chat");
    pty.send(CTRL_D);
    assert_eq!(pty.ends().exit_code(), 0);
}

#[test]
fn without_utf8_every_cell_is_ascii_and_without_colour_nothing_is_coloured() {
    let home = Home::new();
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_rotary"));
    command.arg("demo");
    home.environment(&mut command);
    command.env("LANG", "C");
    command.env("NO_COLOR", "1");
    let mut pty = Pty::spawn(command, 130, 40);
    pty.sees("TOY");
    let screen = pty.sees("ask something");
    assert!(screen.is_ascii(), "{screen}");
    {
        let seen = pty.seen.0.lock().unwrap();
        let cells = (0..40).flat_map(|y| (0..130).map(move |x| (y, x)));
        for (y, x) in cells {
            let cell = seen.parser.screen().cell(y, x).unwrap();
            assert_eq!((cell.fgcolor(), cell.bgcolor()), (vt100::Color::Default, vt100::Color::Default));
        }
    }
    pty.send(CTRL_D);
    pty.ends();
}

#[test]
fn a_model_file_that_is_none_is_said_and_the_app_stays() {
    let home = Home::new();
    home.write("broken.gguf", "this is no model");
    let mut pty = home.rotary(&["./broken.gguf"], 120, 34);
    pty.sees("broken.gguf");
    pty.sees("did not open");
    pty.enter("/model demo");
    pty.sees("TOY");
    pty.send(CTRL_D);
    assert_eq!(pty.ends().exit_code(), 0);
}

#[test]
fn without_a_terminal_the_error_names_the_way_out() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_rotary")).arg("demo").stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("rotary run"), "{said}");
    assert!(out.stdout.is_empty());
}

/// Runs inside of [`a_panic_gives_the_terminal_back_before_it_is_reported`].
#[test]
#[ignore = "takes the terminal and panics; another test runs it in one of its own"]
fn child_that_panics_with_the_terminal_taken() {
    rotary::ui::terminal::install_panic_hook(std::thread::current().id());
    rotary::ui::terminal::enter().unwrap();
    panic!("deliberate");
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_is_reported() {
    let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_that_panics_with_the_terminal_taken", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("TERM", "xterm-256color");
    command.env("RUST_BACKTRACE", "0");
    let mut pty = Pty::spawn(command, 80, 24);
    assert_ne!(pty.ends().exit_code(), 0);
    pty.is_restored();
    let screen = pty.contents();
    assert!(screen.contains("deliberate"), "the report must be on the screen of the shell:\n{screen}");
}

/// The number of the step that the heatmap shows.
fn step(screen: &str) -> Option<u64> {
    let after = screen.split("step ").find(|part| part.starts_with(|c: char| c.is_ascii_digit()))?;
    after.split_whitespace().next()?.parse().ok()
}

#[test]
fn an_answer_is_held_goes_on_by_a_token_and_is_let_go() {
    let home = Home::new();
    let mut pty = home.rotary(&["demo", "--pace", "4"], 120, 32);
    pty.sees("TOY");
    pty.enter("Tell me a story about a cat and a ball.");
    pty.sees("Once upon");
    // No token comes by itself now, held or not.
    pty.enter("/pace 0.01");
    pty.sees("pace 0.01/s");
    pty.send(TAB);
    pty.sees("the heatmap has the keys");
    pty.send(" ");
    let screen = pty.sees("HELD");
    let mut held = step(&screen).expect("a step is shown");
    for _ in 0..3 {
        // The pane may be a frame behind.
        pty.send(".");
        let screen = pty.until("another step is shown", |s| step(&s.contents()).is_some_and(|n| n > held));
        held = step(&screen).unwrap();
    }
    pty.send(" ");
    pty.until("it is held no more", |s| !s.contents().contains("HELD"));
    pty.send("i");
    pty.enter("/pace off");
    pty.sees(" tokens · ");
    pty.send(CTRL_D);
    assert!(pty.ends_within(patience()).success());
}

#[test]
fn a_recording_that_is_begun_in_the_app_can_be_played() {
    let home = Home::new();
    let mut pty = home.demo(80, 24);
    pty.enter("/record late.rotary");
    pty.sees("recording into late.rotary");
    pty.enter("Tell me a story about a cat and a ball.");
    pty.sees(" tokens · ");
    pty.enter("/record off");
    pty.sees("late.rotary: the recording is whole");
    pty.send(CTRL_D);
    assert!(pty.ends_within(patience()).success());
    let mut pty = home.rotary(&["replay", "late.rotary"], 120, 32);
    pty.sees("REPLAY ENDED");
    pty.sees("Tell me a story about a cat and a ball.");
    pty.send("q");
    assert!(pty.ends_within(patience()).success());
}
