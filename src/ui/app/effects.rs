//! Effects of the update, carried out; those that need the terminal, or give it away, between two frames.

use super::{App, FRAME_WAIT};
use crate::engine;
use crate::events::{Command, Event, Role};
use crate::trace::record::{cant_create, Recorder};
use crate::ui::message::{Effect, Message, PlayerAction};
use crate::ui::saver::Job;
use crate::ui::theme::Theme;
use crate::ui::{clipboard, editor, terminal};
use color_eyre::eyre::WrapErr;
use crossterm::event::EventStream;
use nix::sys::signal::{raise, Signal};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a stop waits for the step at hand: a token, but no chunk of a long prompt.
const STEP_WAIT: Duration = Duration::from_millis(400);
/// How long the thread that reads keys may take to end, each time it is called home.
const READER_WAIT: Duration = Duration::from_millis(50);
/// How often it is called.
const READER_CALLS: usize = 4;

/// Lets threads of a reader of keys end that was dropped. The one call that crossterm has for them may be heard by another of its
/// readers, or by a thread that is only on its way to the terminal; then it would wait there for a key, and nobody else, the next
/// reader of keys included, could so much as begin before one came. An event that waits to be read sends home whoever comes: the news
/// of a window that changed its size, which does no harm.
fn send_readers_home() {
    for _ in 0..READER_CALLS {
        // On a dead terminal crossterm would not come back.
        if terminal::is_gone() || raise(Signal::SIGWINCH).is_err() || !matches!(crossterm::event::poll(READER_WAIT), Ok(false)) {
            return;
        }
    }
}

impl App {
    pub(super) fn carry_out(&mut self, effect: Effect) {
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
            Effect::WantDrafts(when) => {
                if let Some(engine) = &self.engine {
                    engine.signals.want_drafts(when);
                }
            }
            Effect::WantPace(pace) => {
                if let Some(engine) = &self.engine {
                    engine.signals.tempo.set(pace);
                }
            }
            Effect::LetOne => {
                if let Some(engine) = &self.engine {
                    engine.signals.tempo.let_one();
                }
            }
            Effect::Save(id, chat) => self.saver.give(Job::Save(id, chat)),
            Effect::Forget(id) => self.saver.give(Job::Forget(id)),
            Effect::ListChats(show) => self.saver.give(Job::List(show)),
            Effect::ReadChat(id) => self.saver.give(Job::Read(id)),
            Effect::Look(source) => self.saver.give(Job::Look(source)),
            Effect::Export(path, text) => self.saver.give(Job::Export(path, text)),
            Effect::Record(path) => self.record(path.as_deref()),
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
    pub(super) async fn carry_out_later(&mut self) -> color_eyre::Result<()> {
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
                    // Not in the middle of a token, if that ends soon.
                    let signals = self.engine.as_ref().map(|engine| engine.signals.clone());
                    let _held = signals.as_ref().map(|signals| signals.steps.hold(STEP_WAIT));
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
    pub(super) fn release(&mut self) {
        // The reader of keys must not take what is typed there.
        self.input = None;
        send_readers_home();
        let _ = self.pipe.wait(FRAME_WAIT);
        terminal::leave();
    }

    /// Takes the terminal again, whatever became of it meanwhile. It may be gone: a hang-up also wakes whoever is stopped, and that may be heard of first.
    pub(super) fn reclaim(&mut self) -> color_eyre::Result<()> {
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

    pub(super) fn take_size(&mut self) {
        if let Some(size) = terminal::size() {
            self.terminal.backend_mut().resize(size);
            self.send(Message::Resize(size.width, size.height));
        }
    }

    pub(super) fn redraw(&mut self) -> color_eyre::Result<()> {
        self.terminal.backend_mut().forget_cursor();
        self.terminal.clear()?;
        self.pacer.now(Instant::now());
        Ok(())
    }

    /// Begin to record, or end it. A recording that begins late has the model as it is now for its beginning.
    fn record(&mut self, path: Option<&Path>) {
        let said = match (path, self.recorder.is_some()) {
            (None, false) => Err("nothing is being recorded; /record FILE begins".to_owned()),
            (None, true) => match self.recorder.take().map(Recorder::finish) {
                Some(Err(error)) => {
                    Err(format!("{}: the recording is not whole: {error}; record again where there is room", self.recorded))
                }
                _ => Ok(format!("{}: the recording is whole; rotary replay plays it", self.recorded)),
            },
            (Some(_), true) => Err("this session is being recorded already; /record off ends it".to_owned()),
            (Some(path), false) => match (Recorder::create(path), &self.state.card) {
                (Err(error), _) => Err(cant_create(path, &error)),
                (Ok(mut recorder), card) => {
                    if let Some(mut card) = card.clone() {
                        card.plan.slots_per_layer = self.state.slots.granted;
                        recorder.event(&Event::Ready { card: Box::new(card) });
                    }
                    if let Some(scheduling) = self.state.scheduling.clone() {
                        recorder.event(&Event::Scheduling(scheduling));
                    }
                    self.recorder = Some(recorder);
                    self.recorded = crate::text::one_line(&path.display().to_string(), 200);
                    Ok(format!("recording into {}; /record off ends it", self.recorded))
                }
            },
        };
        self.send(match said {
            Ok(words) => Message::Say(words),
            Err(words) => Message::Complain(words),
        });
    }

    pub(super) fn command(&mut self, command: Command) {
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
}
