//! The loop around the pure part: waits for whatever happens, lets [`update`] change the state, carries out
//! its effects, draws when a frame is due.

mod effects;
mod lanes;
mod leaving;
mod options;

pub use options::{Opening, Resume, UiOptions};

use super::frames::Pacer;
use super::message::{Effect, Message, Moment};
use super::palette::{ColorDepth, DepthSources};
use super::replay_fold::ReplayFold;
use super::saver::{Job, Saver};
use super::session::ChatStore;
use super::signals::{Outside, Signals, HANGUP_STATUS};
use super::state::{EngineState, Focus, State};
use super::terminal::{self, TerminalFile};
use super::theme::glyphs::environment_is_utf8;
use super::theme::Theme;
use super::update::update;
use super::view;
use super::writer::{FrameBackend, FramePipe};
use crate::config::Folders;
use crate::engine::EngineHandle;
use crate::events::{Command, Event, Reasoning, RequestId, StepRecord};
use crate::trace::player::PlayerControl;
use crate::trace::record::Recorder;
use color_eyre::eyre::WrapErr;
use crossterm::event::{Event as Input, EventStream};
use lanes::{changed, receive};
use ratatui::layout::Size;
use ratatui::Terminal;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};
use tokio_stream::Stream;

/// How long leaving waits for the last frame.
const FRAME_WAIT: Duration = Duration::from_millis(300);

/// Runs the app until the person leaves; returns the exit status.
///
/// Status 2 means that there is no terminal, 129 that it went away, 128 + n that signal n ended the program.
///
/// # Errors
/// If the terminal can't be used. It has been given back then.
pub fn run(options: UiOptions) -> color_eyre::Result<ExitCode> {
    if !terminal::is_present() {
        let instead = match options.opening {
            Opening::Replay(..) => "rotary replay FILE --summary, or rotary simulate FILE",
            Opening::Nothing | Opening::Model(_) => "rotary run MODEL -p TEXT",
        };
        eprintln!("rotary: this needs a terminal for input and output.\nWithout one, use: {instead}");
        return Ok(ExitCode::from(2));
    }
    super::signals::hold_stops();
    let _log = log_to_file(&options.folders);
    terminal::install_panic_hook(std::thread::current().id());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut app = App::start(options)?;
        let status = app.run().await?;
        color_eyre::Result::<_>::Ok((status, app.farewell.take()))
    });
    terminal::leave();
    // Threads of the runtime may hang on a dead terminal; the process ends without waiting for them.
    runtime.shutdown_background();
    let (status, farewell) = ended?;
    if let Some(words) = farewell.filter(|_| status == 0) {
        println!("{words}");
    }
    Ok(ExitCode::from(status))
}

/// The log of this program; nothing may be printed while the screen is up.
fn log_to_file(folders: &Folders) -> Option<tracing_appender::non_blocking::WorkerGuard> {
    std::fs::create_dir_all(&folders.state).ok()?;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(folders.state.join("rotary.log")).ok()?;
    let (writer, guard) = tracing_appender::non_blocking(file);
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer).finish();
    tracing::subscriber::set_global_default(subscriber).ok()?;
    Some(guard)
}

struct App {
    state: State,
    terminal: Terminal<FrameBackend>,
    pipe: FramePipe,
    pacer: Pacer,
    input: Option<EventStream>,
    signals: Signals,
    engine: Option<EngineHandle>,
    telemetry_open: bool,
    gauges_open: bool,
    saver: Saver,
    replies: UnboundedReceiver<Message>,
    folders: Folders,
    depth: ColorDepth,
    recorder: Option<Recorder>,
    /// What it writes, for the person.
    recorded: String,
    /// The last turn that the engine was asked for.
    asked: RequestId,
    player: Option<PlayerControl<ReplayFold>>,
    /// Goes out with the next frame (clipboard).
    extra: Vec<u8>,
    /// Effects that give the terminal away, or need it.
    later: Vec<Effect>,
    status: Option<u8>,
    /// What is said when the terminal has been given back.
    farewell: Option<String>,
}

/// What the loop woke up for.
enum Wake {
    Outside(Outside),
    Input(Option<std::io::Result<Input>>),
    Event(Option<Event>),
    Step(Option<StepRecord>),
    Gauges(bool),
    Frame,
    Reply(Option<Message>),
    Time,
}

impl App {
    fn start(options: UiOptions) -> color_eyre::Result<Self> {
        let now = Moment::now();
        let config = options.config.config;
        let mut problems = options.config.problems;
        let depth = DepthSources::from_env(options.color, config.color.as_deref().and_then(ColorDepth::parse)).depth();
        let ascii = options.ascii || config.ascii.unwrap_or_else(|| !environment_is_utf8());
        let themes = options.folders.themes();
        let name = options.theme.as_deref().unwrap_or(&config.theme);
        let (theme, problem) = Theme::load_or_default(name, Some(&themes), depth, ascii);
        problems.extend(problem.map(|p| p.to_string()));

        let signals = Signals::listen().wrap_err("signals can't be set up")?;
        let (reply_to, replies) = unbounded_channel();
        let saver = Saver::start(ChatStore::new(options.folders.chats()), reply_to)?;
        terminal::enter().wrap_err("the terminal can't be used")?;
        let size = terminal::size().unwrap_or(Size::new(80, 24));
        let mut app = Self {
            state: State::new(theme, (size.width, size.height), std::process::id(), now),
            terminal: Terminal::new(FrameBackend::new(size))?,
            pipe: FramePipe::new(TerminalFile::open()?)?,
            pacer: Pacer::new(config.frame_rate),
            input: Some(EventStream::new()),
            signals,
            engine: None,
            telemetry_open: true,
            gauges_open: true,
            saver,
            replies,
            folders: options.folders,
            depth,
            recorder: options.trace,
            recorded: "--trace".to_owned(),
            asked: 0,
            player: None,
            extra: Vec::new(),
            later: Vec::new(),
            status: None,
            farewell: None,
        };
        let state = &mut app.state;
        state.theme_names = Theme::names(Some(&themes));
        state.load = options.load;
        state.tempo.chosen = options.pace.or(config.pace);
        state.system = options.system;
        state.given = if options.resume == Resume::No { Default::default() } else { options.given };
        state.reasoning = Reasoning { on: config.thinking, effort: config.effort };
        if let Some(sampling) = config.sampling {
            state.sampling = sampling;
            state.own_sampling = true;
        }
        for problem in problems {
            app.send(Message::Engine(Event::Notice { message: problem }));
        }
        match options.resume {
            Resume::No => {}
            Resume::Last => app.saver.give(Job::List(false)),
            Resume::Pick => app.saver.give(Job::List(true)),
            Resume::Named(id) => app.saver.give(Job::Read(id)),
        }
        match options.opening {
            Opening::Nothing => {}
            Opening::Model(source) => {
                app.state.engine = EngineState::Loading { stage: "opening the model".into(), done: 0, total: 0 };
                app.state.source = Some(source.clone());
                let options = app.state.load.clone();
                app.command(Command::Open { source, options });
            }
            Opening::Replay(handle, control) => {
                app.state.replay = Some(control.status());
                app.player = Some(control);
                app.state.focus = Focus::Heatmap;
                app.state.engine = EngineState::Loading { stage: "reading the trace".into(), done: 0, total: 0 };
                app.engine = Some(handle);
            }
        }
        // Everything is new on the screen: clear it once, so that nothing of before shines through.
        app.terminal.clear()?;
        app.pacer.now(now.at);
        Ok(app)
    }

    async fn run(&mut self) -> color_eyre::Result<u8> {
        loop {
            self.draw_if_due()?;
            if let Some(status) = self.status {
                self.end();
                return Ok(status);
            }
            match self.wait().await {
                Wake::Outside(outside) => self.outside(outside)?,
                Wake::Input(input) => self.take_input(input),
                Wake::Event(event) => self.take_event(event),
                Wake::Step(step) => self.take_step(step),
                Wake::Gauges(open) => self.take_gauges(open),
                Wake::Frame => self.pacer.telemetry(Instant::now()),
                Wake::Reply(message) => {
                    if let Some(message) = message {
                        self.send(message);
                        self.pacer.now(Instant::now());
                    }
                }
                Wake::Time => {
                    let now = Instant::now();
                    if self.state.deadline().is_some_and(|d| d <= now) {
                        self.send(Message::Tick);
                        self.pacer.now(now);
                    }
                }
            }
            self.take_waiting_steps();
            self.carry_out_later().await?;
        }
    }

    async fn wait(&mut self) -> Wake {
        let drained = self.pipe.drained();
        let ready = self.pipe.is_ready();
        let frame = self.pacer.deadline().filter(|_| ready);
        let deadline = frame.into_iter().chain(self.state.deadline()).min();
        let sleep = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        let (events, telemetry, gauges) = match &mut self.engine {
            Some(e) => (
                Some(&mut e.events),
                Some(&mut e.telemetry).filter(|_| self.telemetry_open),
                Some(&mut e.gauges).filter(|_| self.gauges_open),
            ),
            None => (None, None, None),
        };
        let news = async {
            match &self.player {
                Some(player) => player.news().await,
                None => pending().await,
            }
        };
        let stream = &mut self.input;
        let input = poll_fn(|context| match stream {
            // On a dead terminal crossterm would not come back from here.
            Some(_) if terminal::is_gone() => Poll::Ready(None),
            Some(stream) => Pin::new(stream).poll_next(context),
            None => Poll::Pending,
        });
        tokio::select! {
            biased;
            outside = self.signals.next() => Wake::Outside(outside),
            input = input => Wake::Input(input),
            event = receive(events) => Wake::Event(event),
            message = self.replies.recv() => Wake::Reply(message),
            () = drained.notified(), if !ready => Wake::Time,
            () = sleep => Wake::Time,
            step = receive(telemetry) => Wake::Step(step),
            open = changed(gauges) => Wake::Gauges(open),
            () = news => Wake::Frame,
        }
    }

    /// Lets the update change the state, and carries out what can be done at once.
    fn send(&mut self, message: Message) {
        let effects = update(&mut self.state, message, Moment::now());
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn draw_if_due(&mut self) -> color_eyre::Result<()> {
        let now = Instant::now();
        if self.pacer.take_fold(now) {
            let dropped = self.engine.as_ref().map_or(0, |e| e.signals.dropped.load(Ordering::Relaxed));
            self.send(Message::Dropped(dropped));
            if let Some(frame) = self.player.as_ref().and_then(PlayerControl::frame) {
                self.send(Message::Frame(frame));
            }
            self.send(Message::Fold);
        }
        if !self.pacer.is_due(now) || !self.pipe.is_ready() {
            return Ok(());
        }
        if self.pipe.has_failed() {
            self.hang_up();
            return Ok(());
        }
        self.send(Message::Link(self.pipe.state()));
        self.send(Message::Draw);
        let state = &self.state;
        let drawn = self.terminal.draw(|frame| {
            let area = frame.area();
            if let Some(cursor) = view::draw(area, frame.buffer_mut(), state) {
                frame.set_cursor_position(cursor);
            }
        });
        if let Err(error) = drawn {
            // Frames are drawn into memory; only the question for the size can fail, when there is no terminal any more.
            tracing::warn!("the terminal does not answer: {error}");
            self.hang_up();
            return Ok(());
        }
        self.pacer.drawn(now);
        let frame = self.terminal.backend_mut().take_frame();
        self.pacer.sent(frame.as_ref().map_or(0, Vec::len));
        let mut bytes = std::mem::take(&mut self.extra);
        bytes.extend(frame.unwrap_or_default());
        if !bytes.is_empty() {
            // It was ready, and this is the only sender.
            let _ = self.pipe.send(bytes);
        }
        Ok(())
    }

    fn outside(&mut self, outside: Outside) -> color_eyre::Result<()> {
        match outside {
            Outside::End(status) => {
                self.status = Some(status);
            }
            Outside::Hangup => self.hang_up(),
            Outside::Stop => self.later.push(Effect::Suspend),
            Outside::Continued => {
                // Stopped from outside without a word (SIGSTOP): the shell has set the terminal to its own modes.
                self.release();
                self.reclaim()?;
            }
        }
        Ok(())
    }

    fn hang_up(&mut self) {
        // Whoever sent the signal may have left the terminal alive.
        if terminal::is_gone() {
            terminal::abandon();
        } else {
            terminal::leave();
        }
        self.input = None;
        self.status = Some(HANGUP_STATUS);
    }

    fn take_input(&mut self, input: Option<std::io::Result<Input>>) {
        let Some(Ok(input)) = input else {
            // No more keys can come: the terminal is gone.
            return self.hang_up();
        };
        match input {
            Input::Key(key) => self.send(Message::Key(key)),
            Input::Paste(text) => self.send(Message::Paste(text)),
            Input::Resize(..) => self.take_size(),
            Input::FocusGained | Input::FocusLost | Input::Mouse(_) => return,
        }
        self.pacer.now(Instant::now());
    }
}
