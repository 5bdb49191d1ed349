//! The loop around the pure part: waits for whatever happens, lets [`update`] change the state, carries out
//! its effects, draws when a frame is due.

use super::clipboard;
use super::editor;
use super::frames::Pacer;
use super::message::{Effect, Message, Moment, PlayerAction};
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
use crate::config::{Folders, Loaded};
use crate::engine::{self, EngineHandle};
use crate::events::{Command, Event, LoadOptions, ModelSource, RequestId, Role, StepRecord};
use crate::trace::player::PlayerControl;
use crate::trace::record::Recorder;
use color_eyre::eyre::WrapErr;
use crossterm::event::{Event as Input, EventStream};
use ratatui::layout::Size;
use ratatui::Terminal;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{error::TryRecvError, unbounded_channel, Receiver, UnboundedReceiver};
use tokio::sync::watch;
use tokio_stream::Stream;

/// How long the thread that reads keys may take to end.
const READER_WAIT: std::time::Duration = std::time::Duration::from_millis(50);
/// How long leaving waits for the chat to reach the disk.
const SAVE_WAIT: Duration = Duration::from_millis(900);
/// How long leaving waits for the last frame.
const FRAME_WAIT: Duration = Duration::from_millis(300);
/// Most lane entries that are taken between two looks at the keyboard.
const BATCH: usize = 256;

/// What to show.
pub enum Opening {
    /// Nothing yet; `/model` opens one.
    Nothing,
    /// Open this model.
    Model(ModelSource),
    /// Play what this handle gives; it can't be asked.
    Replay(EngineHandle, PlayerControl<ReplayFold>),
}

/// Which saved chat to take up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// None: a new chat.
    #[default]
    No,
    /// The last one.
    Last,
    /// Show the list.
    Pick,
    /// The one of this name.
    Named(String),
}

/// How to start.
pub struct UiOptions {
    /// What to show.
    pub opening: Opening,
    /// How models are loaded.
    pub load: LoadOptions,
    /// The configuration, and what was wrong with it.
    pub config: Loaded,
    /// Where chats, themes and the log are.
    pub folders: Folders,
    /// Name of the theme, instead of the configuration's.
    pub theme: Option<String>,
    /// Colours, instead of what the configuration and the environment say.
    pub color: Option<ColorDepth>,
    /// Plain ASCII, whatever the locale says.
    pub ascii: bool,
    /// Which chat to take up.
    pub resume: Resume,
    /// Records what the engine reports and what the person asks.
    pub trace: Option<Recorder>,
}

impl UiOptions {
    /// A new chat with this model, everything else by configuration and environment.
    #[must_use]
    pub fn new(opening: Opening) -> Self {
        Self {
            opening,
            load: LoadOptions::default(),
            config: crate::config::load(),
            folders: Folders::find(),
            theme: None,
            color: None,
            ascii: false,
            resume: Resume::No,
            trace: None,
        }
    }
}

/// Runs the app until the person leaves; returns the exit status.
///
/// Status 2 means that there is no terminal, 129 that it went away, 128 + n that signal n ended the program.
///
/// # Errors
/// If the terminal can't be used. It has been given back then.
pub fn run(options: UiOptions) -> color_eyre::Result<ExitCode> {
    if !terminal::is_present() {
        eprintln!(
            "rotary: this needs a terminal for input and output.\n\
             Without one, use: rotary run MODEL -p TEXT"
        );
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
        state.thinking = config.thinking;
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

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Engine(command) => self.command(command.0),
            Effect::Play(action) => {
                if let Some(player) = &self.player {
                    match action {
                        PlayerAction::Toggle => player.toggle(),
                        PlayerAction::Turn => player.turn(),
                        PlayerAction::Step(steps) => player.step(steps),
                        PlayerAction::Speed(factor) => player.speed(factor),
                    }
                }
            }
            Effect::Cancel => {
                if let Some(engine) = &self.engine {
                    engine.signals.cancel_turn(self.asked);
                }
            }
            Effect::WantSlots(slots) => {
                if let Some(engine) = &self.engine {
                    engine.signals.want_slots(slots);
                }
            }
            Effect::WantSpread(on) => {
                if let Some(engine) = &self.engine {
                    engine.signals.want_spread(on);
                }
            }
            Effect::Save(id, chat) => self.saver.give(Job::Save(id, chat)),
            Effect::ListChats(show) => self.saver.give(Job::List(show)),
            Effect::ReadChat(id) => self.saver.give(Job::Read(id)),
            Effect::Export(path, text) => self.saver.give(Job::Export(path, text)),
            Effect::Copy(text) => match clipboard::sequence(&text) {
                Ok(sequence) => {
                    self.extra.extend(sequence);
                    self.send(Message::Say(format!("{} characters to the clipboard (OSC 52)", text.chars().count())));
                }
                Err(most) => self.send(Message::Complain(format!(
                    "{} bytes are more than terminals take ({most}); /copy N takes one code block, /save PATH all",
                    text.len()
                ))),
            },
            Effect::ReadTheme(name, ascii) => {
                let theme = Theme::load(&name, Some(&self.folders.themes()), self.depth, ascii);
                self.send(Message::ThemeRead(theme.map(Box::new).map_err(|e| e.to_string())));
            }
            Effect::Redraw | Effect::Edit(_) | Effect::Suspend => self.later.push(effect),
            Effect::Quit(status) => self.status = Some(status),
        }
    }

    /// Effects that give the terminal away, or need it.
    async fn carry_out_later(&mut self) -> color_eyre::Result<()> {
        for effect in std::mem::take(&mut self.later) {
            match effect {
                Effect::Redraw => self.redraw()?,
                Effect::Edit(text) => {
                    self.release();
                    let edited = editor::edit(&text);
                    self.reclaim()?;
                    self.send(Message::Edited(edited));
                }
                Effect::Suspend => {
                    self.release();
                    let stopped = self.signals.stop_self().await;
                    self.reclaim()?;
                    if let Err(error) = stopped {
                        self.send(Message::Complain(format!("the program could not be stopped: {error}")));
                    }
                }
                other => self.carry_out(other),
            }
        }
        Ok(())
    }

    /// Gives the terminal to another program.
    fn release(&mut self) {
        // The reader of keys must not take what is typed there. Its thread ends when it is next scheduled; until then it
        // could swallow the news of a key that is meant for the reader after it.
        self.input = None;
        let _ = crossterm::event::poll(READER_WAIT);
        let _ = self.pipe.wait(FRAME_WAIT);
        terminal::leave();
    }

    /// Takes the terminal again, whatever became of it meanwhile. It may be gone: a hang-up also wakes whoever is stopped, and that may be heard of first.
    fn reclaim(&mut self) -> color_eyre::Result<()> {
        match terminal::enter() {
            Err(_) if terminal::is_gone() => {
                self.hang_up();
                return Ok(());
            }
            entered => entered.wrap_err("the terminal can't be taken again")?,
        }
        self.input = Some(EventStream::new());
        self.take_size();
        self.redraw()
    }

    fn take_size(&mut self) {
        if let Some(size) = terminal::size() {
            self.terminal.backend_mut().resize(size);
            self.send(Message::Resize(size.width, size.height));
        }
    }

    fn redraw(&mut self) -> color_eyre::Result<()> {
        self.terminal.backend_mut().forget_cursor();
        self.terminal.clear()?;
        self.pacer.now(Instant::now());
        Ok(())
    }

    fn command(&mut self, command: Command) {
        if let Command::Generate { id, .. } | Command::Complete { id, .. } = &command {
            self.asked = *id;
        }
        if let (Command::Generate { id, messages, .. }, Some(recorder)) = (&command, &mut self.recorder) {
            let question = messages.iter().rev().find(|m| m.role == Role::User);
            recorder.question(*id, question.map_or("", |m| m.content.as_str()));
        }
        let engine = self.engine.get_or_insert_with(|| {
            self.telemetry_open = true;
            self.gauges_open = true;
            engine::spawn()
        });
        // If the thread has ended, the closed lane says so at once.
        let _ = engine.commands.send(command);
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
        terminal::abandon();
        self.input = None;
        self.status = Some(HANGUP_STATUS);
    }

    /// Ends in order: the engine stops, the chat reaches the disk, the last frame the terminal.
    fn end(&mut self) {
        let id = self.state.chat_id.clone();
        let chat = self.state.saved_chat(Moment::now());
        let said = !chat.messages.is_empty() && self.state.replay.is_none();
        if said {
            self.saver.give(Job::Save(id, Box::new(chat)));
        }
        if let Some(engine) = &self.engine {
            engine.signals.cancel();
            let _ = engine.commands.try_send(Command::Shutdown);
        }
        if self.saver.flush(SAVE_WAIT) {
            self.farewell = farewell(&self.state).filter(|_| said);
        } else {
            tracing::error!("the chat did not reach the disk in time");
        }
        if let Some(Err(error)) = self.recorder.take().map(Recorder::finish) {
            tracing::error!("the recording is not whole: {error}");
        }
        self.input = None;
        let _ = self.pipe.wait(FRAME_WAIT);
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

    fn take_event(&mut self, event: Option<Event>) {
        let mut next = event;
        for _ in 0..BATCH {
            let Some(event) = next else {
                self.engine = None;
                self.send(Message::EngineGone);
                break;
            };
            if let Some(recorder) = &mut self.recorder {
                recorder.event(&event);
            }
            // What belongs to the old model must be folded before the new one takes over.
            if matches!(event, Event::Ready { .. }) {
                self.send(Message::Fold);
            }
            self.send(Message::Engine(event));
            next = match self.engine.as_mut().map(|e| e.events.try_recv()) {
                Some(Ok(event)) => Some(event),
                Some(Err(TryRecvError::Disconnected)) => None,
                Some(Err(TryRecvError::Empty)) | None => break,
            };
        }
        self.pacer.soon(Instant::now());
    }

    fn take_step(&mut self, step: Option<StepRecord>) {
        let mut next = step;
        for _ in 0..BATCH {
            let Some(step) = next else {
                self.telemetry_open = false;
                break;
            };
            if let Some(recorder) = &mut self.recorder {
                recorder.step(&step);
            }
            self.send(Message::Step(Box::new(step)));
            next = match self.engine.as_mut().map(|e| e.telemetry.try_recv()) {
                Some(Ok(step)) => Some(step),
                Some(Err(TryRecvError::Disconnected)) => None,
                Some(Err(TryRecvError::Empty)) | None => break,
            };
        }
        self.pacer.telemetry(Instant::now());
    }

    /// Empties the telemetry lane whatever the loop woke up for, so that keys and frames cost no records.
    fn take_waiting_steps(&mut self) {
        let first = self.engine.as_mut().filter(|_| self.telemetry_open).and_then(|e| e.telemetry.try_recv().ok());
        if first.is_some() {
            self.take_step(first);
        }
    }

    fn take_gauges(&mut self, open: bool) {
        self.gauges_open = open;
        let gauges = self.engine.as_mut().map(|e| e.gauges.borrow_and_update().clone());
        if let Some(gauges) = gauges {
            self.send(Message::Gauges(gauges));
            self.pacer.telemetry(Instant::now());
        }
    }
}

/// How to go on with this chat, if it was saved.
fn farewell(state: &State) -> Option<String> {
    if state.unsaved.is_some() {
        return None;
    }
    let model = match state.source.as_ref()? {
        ModelSource::Demo => "demo".to_owned(),
        ModelSource::Path(path) => {
            let name = path.to_string_lossy();
            let plain = name.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c));
            if plain {
                name.into_owned()
            } else {
                format!("'{}'", super::sanitize::line(&name, 400).replace('\'', "'\\''"))
            }
        }
    };
    Some(format!("The chat is saved. To go on with it: rotary {model} --resume {}", state.chat_id))
}

async fn receive<T>(lane: Option<&mut Receiver<T>>) -> Option<T> {
    match lane {
        Some(lane) => lane.recv().await,
        None => pending().await,
    }
}

/// False when no more gauges will come.
async fn changed<T>(gauges: Option<&mut watch::Receiver<T>>) -> bool {
    match gauges {
        Some(gauges) => gauges.changed().await.is_ok(),
        None => pending().await,
    }
}
