//! `rotary run`: one or more turns with the engine, the answer on standard output as it comes.
//!
//! Standard output carries the answer alone (or the JSON records); reasoning, progress and figures go to standard
//! error, so that `rotary run ... > file` keeps exactly the answer.

mod args;
mod figures;
mod prompts;
mod recording;

pub use args::{RecordArgs, RecordInto, RunArgs, Turns};

use crate::cli::{configuration, exit, find_model, Failure};
use crate::engine::sampling::validate;
use crate::engine::{self, EngineHandle};
use crate::events::{Command, Event, FinishReason, Message, ModelCard, ModelSource, Reasoning, Role, Sampling, StepRecord, TextKind};
use color_eyre::eyre;
use figures::{experts_in_words, figures};
use recording::Recording;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// A step record as a line of its own kind beside the events.
#[derive(Serialize)]
struct StepLine<'a> {
    event: &'static str,
    #[serde(flatten)]
    record: &'a StepRecord,
}

/// What a script wants to know at the end and no event says.
#[derive(Serialize)]
struct EndLine {
    event: &'static str,
    /// Telemetry records lost because this program read too slowly.
    dropped: u64,
    rss_peak: u64,
}

/// Run the turns.
///
/// # Errors
/// What is wrong with the arguments, the model, the recording, or a turn.
pub fn run(args: &RunArgs) -> eyre::Result<ExitCode> {
    turns(&args.turns, args.record.recording()?)
}

/// Run the turns, and record them.
///
/// # Errors
/// See [`run`].
pub fn record(args: &RecordArgs) -> eyre::Result<ExitCode> {
    args.check_order()?;
    turns(&args.turns, Some(Recording::into_file(&args.file, args.force)?))
}

fn turns(args: &Turns, recording: Option<Recording>) -> eyre::Result<ExitCode> {
    let prompts = args.prompts()?;
    let config = configuration();
    let source = find_model(&args.model, &config)?;
    // Flags alone decide whether this is sensible, so it is said before a model is loaded.
    validate(&args.draw.over(config.sampling.clone().unwrap_or_default())).map_err(|e| Failure::usage(e.to_string()))?;
    let mut options = args.load.options(&config);
    // The toy answers the same numbers each time, unless a folder is named.
    options.heat = match source {
        ModelSource::Demo => args.load.heat.clone(),
        ModelSource::Path(_) => args.load.heat_folder(&config, || crate::config::Folders::find().heat()),
    };
    let handle = engine::spawn();
    let commands = handle.commands.clone();
    commands.send(Command::Open { source, options })?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut watch = Watch { handle, args, recording, interrupted: false };
    let outcome = runtime.block_on(async {
        let card = watch.until_open().await?;
        let sampling = Sampling { max_tokens: args.max_tokens, ..args.draw.over(config.sampling.unwrap_or(card.sampling.clone())) };
        args.think.idle(&card).iter().filter(|_| !args.quiet).for_each(|idle| tell(&format!("rotary: {idle}")));
        let on = args.think.no_think.then_some(false).or(config.thinking);
        let reasoning = Reasoning { on, effort: args.think.effort.or(config.effort) };
        let mut messages: Vec<Message> = Vec::new();
        if let Some(system) = &args.system {
            messages.push(Message { role: Role::System, content: system.clone(), thinking: None });
        }
        for (id, prompt) in (1..).zip(prompts) {
            if let Some(r) = &mut watch.recording {
                r.question(id, &prompt);
            }
            let command = if args.raw {
                Command::Complete { id, prompt, sampling: sampling.clone() }
            } else {
                messages.push(Message { role: Role::User, content: prompt, thinking: None });
                Command::Generate { id, messages: messages.clone(), sampling: sampling.clone(), reasoning }
            };
            commands.send(command)?;
            let turn = watch.until_finished().await?;
            match turn.reason {
                FinishReason::Cancelled => return Ok(ExitCode::from(exit::CANCELLED)),
                FinishReason::Failed => return Err(Failure::failed(turn.failure.unwrap_or_default()).into()),
                FinishReason::Stop | FinishReason::Length | FinishReason::ContextFull => messages.push(turn.answer),
            }
        }
        if args.json {
            let dropped = watch.handle.signals.dropped.load(Ordering::Relaxed);
            line(&EndLine { event: "end", dropped, rss_peak: engine::gauges::process_memory().rss_peak })?;
        }
        Ok(ExitCode::SUCCESS)
    });
    let _ = commands.send(Command::Shutdown);
    let recorded = watch.recording.take().map_or(Ok(()), Recording::finish);
    // What ended the run is told first.
    outcome.and_then(|code| recorded.map(|()| code).map_err(Into::into))
}

/// One finished turn.
struct Turn {
    reason: FinishReason,
    failure: Option<String>,
    answer: Message,
}

/// Reads the lanes, prints, and minds the keyboard.
struct Watch<'a> {
    handle: EngineHandle,
    args: &'a Turns,
    recording: Option<Recording>,
    interrupted: bool,
}

enum Heard {
    Event(Event),
    Step(Box<StepRecord>),
    Interrupt,
    Closed,
}

impl Watch<'_> {
    async fn next(&mut self) -> Heard {
        let wants_steps = self.args.json || self.recording.is_some();
        tokio::select! {
            // Steps first: the records of a token come before its text, and the lane is short.
            biased;
            Some(step) = self.handle.telemetry.recv(), if wants_steps => Heard::Step(Box::new(step)),
            event = self.handle.events.recv() => event.map_or(Heard::Closed, Heard::Event),
            _ = tokio::signal::ctrl_c() => Heard::Interrupt,
        }
    }

    /// The next event; everything else is dealt with here.
    async fn event(&mut self) -> eyre::Result<Event> {
        loop {
            match self.next().await {
                Heard::Event(event) => {
                    if let Some(r) = &mut self.recording {
                        r.event(&event)?;
                    }
                    if self.args.json {
                        line(&event)?;
                    }
                    return Ok(event);
                }
                Heard::Step(record) => {
                    if let Some(r) = &mut self.recording {
                        r.step(&record);
                    }
                    if self.args.json {
                        line(&StepLine { event: "step", record: &record })?;
                    }
                }
                Heard::Interrupt if self.interrupted => {
                    return Err(Failure { code: exit::CANCELLED, message: "interrupted".into() }.into());
                }
                Heard::Interrupt => {
                    self.interrupted = true;
                    self.handle.signals.cancel();
                }
                Heard::Closed => return Err(Failure::failed("the inference thread ended").into()),
            }
        }
    }

    async fn until_open(&mut self) -> eyre::Result<Box<ModelCard>> {
        let progress = !self.args.quiet && !self.args.json && std::io::stderr().is_terminal();
        loop {
            match self.event().await? {
                Event::Ready { card } => {
                    if progress {
                        eprint!("\r\x1b[K");
                    }
                    if !self.args.quiet && !self.args.json {
                        tell(&format!(
                            "{}{}: {}, context {}, {}",
                            card.name,
                            if card.toy { " (toy)" } else { "" },
                            experts_in_words(&card),
                            card.context,
                            card.device
                        ));
                    }
                    return Ok(card);
                }
                Event::LoadFailed { message, kind } => return Err(Failure::load(kind, message).into()),
                Event::Loading { stage, done, total } if progress => {
                    let share = (done * 100).checked_div(total).map_or_else(String::new, |p| format!(" {p} %"));
                    eprint!("\r\x1b[K{stage}{share}");
                }
                _ => {}
            }
        }
    }

    async fn until_finished(&mut self) -> eyre::Result<Turn> {
        let plain = !self.args.json;
        let (mut answer, mut thinking, mut failure) = (String::new(), String::new(), None);
        loop {
            match self.event().await? {
                Event::Text { text, kind: TextKind::Answer, .. } => {
                    if plain {
                        let mut out = std::io::stdout().lock();
                        out.write_all(text.as_bytes())?;
                        out.flush()?;
                    }
                    answer += &text;
                }
                Event::Text { text, kind: TextKind::Thinking, .. } => {
                    if plain && !self.args.quiet {
                        eprint!("{text}");
                    }
                    thinking += &text;
                }
                Event::Failed { message, .. } => failure = Some(message),
                Event::Notice { message } if plain && !self.args.quiet => tell(&message),
                Event::Finished { reason, stats, .. } => {
                    if plain {
                        if !answer.is_empty() {
                            writeln!(std::io::stdout().lock())?;
                        }
                        if !self.args.quiet && reason != FinishReason::Failed {
                            tell(&figures(&stats, reason));
                        }
                    }
                    let thinking = (!thinking.is_empty()).then_some(thinking);
                    return Ok(Turn { reason, failure, answer: Message { role: Role::Assistant, content: answer, thinking } });
                }
                _ => {}
            }
        }
    }
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn line(value: &impl Serialize) -> eyre::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(std::io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_line_names_its_kind_beside_the_record() {
        let record = StepRecord { step: 3, ..StepRecord::default() };
        let json = serde_json::to_value(StepLine { event: "step", record: &record }).unwrap();
        assert_eq!((json["event"].as_str(), json["step"].as_u64()), (Some("step"), Some(3)));
    }
}
