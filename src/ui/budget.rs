//! What the screen sends: bytes and frames per second of the whole app, counted where the terminal would be.
//!
//! A session of a 48-layer model plays on a virtual clock through the same update, view, pacer and frame writer as the
//! program's: text and telemetry come as the engine would send them, and every frame that the pacer grants is drawn and
//! counted. `cargo test --release --lib budget -- --nocapture` prints the table of `docs/performance.md`.

use super::experts_state::stream::Stream;
use super::frames::{Pacer, TELEMETRY_BYTES};
use super::inspector::Move;
use super::message::{Message, Moment};
use super::palette::ColorDepth;
use super::state::{Focus, State};
use super::theme::Theme;
use super::tint::Tint;
use super::update::update;
use super::view;
use super::writer::FrameBackend;
use crate::events::{Event, FinishReason, TextKind, TurnStats};
use ratatui::layout::Size;
use ratatui::Terminal;
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

/// Tokens per second of the session.
const RATE: u64 = 20;
/// Seconds that are counted, after the first screen.
const SECONDS: u64 = 10;
/// The configuration's default.
const FRAME_RATE: u32 = 20;
const MS: Duration = Duration::from_millis(1);

/// What is looked at while the model talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watching {
    Live,
    Tinted,
    Paused,
    MemoryPane,
}

/// Bytes of each frame, and what an idle second sends.
struct Sent {
    frames: Vec<usize>,
    idle: usize,
    /// All bytes of the session, for compression.
    bytes: Vec<u8>,
}

impl Sent {
    fn per_second(&self) -> usize {
        self.frames.iter().sum::<usize>() / SECONDS as usize
    }

    fn frames_per_second(&self) -> f64 {
        self.frames.len() as f64 / SECONDS as f64
    }

    fn median(&self) -> usize {
        let mut sorted = self.frames.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }

    fn largest(&self) -> usize {
        self.frames.iter().copied().max().unwrap_or(0)
    }
}

struct Screen {
    state: State,
    terminal: Terminal<FrameBackend>,
    pacer: Pacer,
    start: Instant,
    ms: u64,
}

impl Screen {
    fn new(size: (u16, u16), theme: Theme) -> Self {
        let start = Instant::now();
        let now = Moment { at: start, wall: SystemTime::UNIX_EPOCH };
        Self {
            state: State::new(theme, size, 7, now),
            terminal: Terminal::new(FrameBackend::new(Size::new(size.0, size.1))).unwrap(),
            pacer: Pacer::new(FRAME_RATE),
            start,
            ms: 0,
        }
    }

    fn at(&self) -> Instant {
        self.start + MS * self.ms as u32
    }

    fn send(&mut self, message: Message) {
        let now = Moment { at: self.at(), wall: SystemTime::UNIX_EPOCH };
        update(&mut self.state, message, now);
    }

    /// A millisecond passes, as in the loop of the program; the bytes of the frame that was drawn in it.
    fn tick(&mut self) -> Option<Vec<u8>> {
        self.ms += 1;
        let now = self.at();
        if self.state.deadline().is_some_and(|d| d <= now) {
            self.send(Message::Tick);
            self.pacer.now(now);
        }
        if self.pacer.take_fold(now) {
            self.send(Message::Fold);
        }
        if !self.pacer.is_due(now) {
            return None;
        }
        self.send(Message::Draw);
        let state = &self.state;
        self.terminal
            .draw(|frame| {
                if let Some(cursor) = view::draw(frame.area(), frame.buffer_mut(), state) {
                    frame.set_cursor_position(cursor);
                }
            })
            .unwrap();
        self.pacer.drawn(now);
        let frame = self.terminal.backend_mut().take_frame();
        self.pacer.sent(frame.as_ref().map_or(0, Vec::len));
        frame
    }
}

const WORDS: [&str; 16] =
    [" the", " a", " expert", " slot", "s", " rotate", ",", " and", " memory", ".", " **", "hot", "**", " model", " of", " quick"];

fn watch(size: (u16, u16), (name, depth, ascii): (&str, ColorDepth, bool), watching: Watching) -> Sent {
    let mut screen = Screen::new(size, Theme::built_in(name, depth, ascii));
    let mut stream = Stream::new(48, 128, 8, 40, 3);
    let mut random = fastrand::Rng::with_seed(9);
    screen.send(Message::Engine(Event::Ready { card: Box::new(stream.card()) }));
    if watching == Watching::Tinted {
        screen.state.inspector.tint = Tint::Misses;
    }
    if watching == Watching::MemoryPane {
        screen.state.side = Focus::Memory;
    }
    "Tell me about experts".chars().for_each(|c| {
        screen.send(Message::Key(crossterm::event::KeyCode::Char(c).into()));
        screen.ms += 50;
    });
    screen.send(Message::Key(crossterm::event::KeyCode::Enter.into()));
    let id = screen.state.turn.as_ref().expect("a turn").id;
    let prompt = stream.prompt(24);
    screen.send(Message::Step(Box::new(prompt)));
    let mut sent = Sent { frames: Vec::new(), idle: 0, bytes: Vec::new() };
    // A second to warm up, in which the first screen is drawn.
    for ms in 0..(SECONDS + 1) * 1000 {
        if ms % (1000 / RATE) == 0 {
            let text = if random.u8(0..40) == 0 { "\n\n" } else { WORDS[random.usize(..WORDS.len())] };
            let record = stream.token();
            let event = Event::Text { id, text: text.into(), kind: TextKind::Answer, step: record.step - 1 };
            screen.send(Message::Engine(event));
            screen.send(Message::Step(Box::new(record)));
            let now = screen.at();
            screen.pacer.soon(now);
            screen.pacer.telemetry(now);
        }
        if ms % 1000 == 500 {
            screen.send(Message::Gauges(stream.gauges()));
        }
        if ms == 900 && watching == Watching::Paused {
            assert!(screen.state.move_token(Move::Tokens(-1)));
        }
        if let Some(frame) = screen.tick() {
            if ms >= 1000 {
                sent.frames.push(frame.len());
                sent.bytes.extend(frame);
            }
        }
    }
    screen.send(Message::Engine(Event::Finished { id, reason: FinishReason::Stop, stats: TurnStats::default() }));
    let now = screen.at();
    screen.pacer.soon(now);
    // What is still waiting is drawn, notices go; then nothing may be sent any more.
    (0..8000).for_each(|_| drop(screen.tick()));
    assert_eq!(screen.pacer.deadline(), None, "an idle screen waits for nothing");
    for _ in 0..3 {
        let now = screen.at();
        screen.pacer.now(now);
        sent.idle += screen.tick().map_or(0, |frame| frame.len());
    }
    sent
}

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 32), (200, 60)];
const LOOKS: [(&str, ColorDepth, bool); 3] =
    [("dark", ColorDepth::Indexed256, false), ("sixteen", ColorDepth::Ansi16, false), ("mono", ColorDepth::Mono, false)];

/// Bytes per second that a screen may send, about half as much again as it did when it was last looked at; the largest is
/// held down by [`TELEMETRY_BYTES`], to which the chat adds some.
fn allowed(columns: u16, depth: ColorDepth) -> usize {
    let most = match columns {
        0..=80 => 45_000,
        81..=120 => 55_000,
        _ => TELEMETRY_BYTES + 6_000,
    };
    match depth {
        ColorDepth::Mono => most / 2,
        ColorDepth::Ansi16 => most * 3 / 4,
        _ => most,
    }
}

#[test]
fn the_whole_screen_stays_within_its_budget_of_bytes_and_frames() {
    let (mut table, mut over) = (String::new(), Vec::new());
    for size in SIZES {
        for look in LOOKS {
            for watching in [Watching::Live, Watching::Tinted, Watching::Paused, Watching::MemoryPane] {
                if watching == Watching::MemoryPane && size != SIZES[0] {
                    // Larger screens show all panes at once.
                    continue;
                }
                let sent = watch(size, look, watching);
                table += &format!(
                    "| {}x{} | {} | {watching:?} | {:.1} | {} | {} | {} | {} |\n",
                    size.0,
                    size.1,
                    look.1.name(),
                    sent.per_second() as f64 / 1000.0,
                    sent.frames_per_second(),
                    sent.median(),
                    sent.largest(),
                    sent.idle,
                );
                let what = format!("{size:?} {look:?} {watching:?}");
                assert_eq!(sent.idle, 0, "{what}");
                assert!(sent.frames_per_second() <= f64::from(FRAME_RATE), "{what}");
                if sent.per_second() > allowed(size.0, look.1) {
                    over.push(what);
                }
                if let Some(folder) = std::env::var_os("ROTARY_BUDGET_DIR") {
                    let name = format!("{}x{}-{}-{watching:?}", size.0, size.1, look.1.name());
                    std::fs::File::create(std::path::Path::new(&folder).join(name)).unwrap().write_all(&sent.bytes).unwrap();
                }
            }
        }
    }
    println!("{table}");
    assert!(over.is_empty(), "over the budget: {over:#?}");
}

#[test]
fn a_tint_costs_little_more_than_none_and_a_paused_heatmap_less() {
    let look = LOOKS[0];
    let [live, tinted, paused] =
        [Watching::Live, Watching::Tinted, Watching::Paused].map(|watching| watch((120, 32), look, watching).per_second());
    assert!(tinted < live + 5_000, "{tinted} bytes/s with a tint, {live} without");
    assert!(paused < live / 2, "{paused} bytes/s while paused, {live} live");
}
