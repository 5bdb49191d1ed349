//! `rotary run`: one or more turns with the engine, the answer on standard output as it comes.
//!
//! Standard output carries the answer alone (or the JSON records); reasoning, progress and figures go to standard
//! error, so that `rotary run ... > file` keeps exactly the answer.

mod figures;

use crate::cli::{configuration, exit, find_model, recorder, whole, Draw, Failure, Load};
use crate::engine::sampling::validate;
use crate::engine::{self, EngineHandle};
use crate::events::{
    Command, Effort, Event, FinishReason, Message, ModelCard, ModelSource, Reasoning, Role, Sampling, StepRecord, TextKind,
};
use crate::size::size;
use crate::trace::record::Recorder;
use clap::Args;
use color_eyre::eyre;
use figures::{experts_in_words, figures};
use serde::Serialize;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// The longest prompt that is read from standard input.
const MAX_PROMPT: u64 = 64 << 20;

/// Arguments of `rotary run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Path, downloaded name, or demo
    model: String,
    /// What to say; - reads standard input. Given several times, each is one turn of the same chat
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Standing instructions
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue the prompt as raw text, without the chat template
    #[arg(long, conflicts_with_all = ["system", "no_think", "effort"])]
    raw: bool,
    /// Ask a model that can reason not to
    #[arg(long)]
    no_think: bool,
    /// How long a model that knows an effort (gpt-oss) reasons: low, medium or high
    #[arg(long, value_name = "EFFORT", value_parser = effort)]
    effort: Option<Effort>,
    /// Most tokens to generate; 0 is until the model ends its turn or the context is full
    #[arg(short = 'n', long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>)]
    max_tokens: usize,
    #[command(flatten)]
    draw: Draw,
    #[command(flatten)]
    load: Load,
    /// Record the session (text, routing, times) into a file for `rotary replay`; routing alone if it ends in .csv
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// One JSON object per line for every event and step
    #[arg(long)]
    json: bool,
    /// Nothing on standard error but errors
    #[arg(short, long)]
    quiet: bool,
}

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

/// Run the turns, and record them into `file`.
pub fn record(args: &RunArgs, file: &Path) -> eyre::Result<ExitCode> {
    let mut recorder = recorder(file)?;
    let outcome = turns(args, Some(&mut recorder));
    recorder.finish().map_err(|e| Failure::failed(format!("{}: the recording is not whole: {e}", file.display())))?;
    outcome
}

/// Run the turns.
pub fn run(args: &RunArgs) -> eyre::Result<ExitCode> {
    match &args.trace {
        Some(file) => record(args, file),
        None => turns(args, None),
    }
}

fn turns(args: &RunArgs, recorder: Option<&mut Recorder>) -> eyre::Result<ExitCode> {
    let prompts = prompts(args)?;
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
    let outcome = runtime.block_on(async {
        let mut watch = Watch { handle, args, recorder, interrupted: false };
        let card = watch.until_open().await?;
        let sampling = Sampling { max_tokens: args.max_tokens, ..args.draw.over(config.sampling.unwrap_or(card.sampling.clone())) };
        let on = args.no_think.then_some(false).or(config.thinking);
        let reasoning = Reasoning { on, effort: args.effort.or(config.effort) };
        let mut messages: Vec<Message> = Vec::new();
        if let Some(system) = &args.system {
            messages.push(Message { role: Role::System, content: system.clone(), thinking: None });
        }
        for (id, prompt) in (1..).zip(prompts) {
            if let Some(r) = &mut watch.recorder {
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
    outcome
}

fn effort(name: &str) -> Result<Effort, String> {
    Effort::from_name(name).ok_or_else(|| "write low, medium or high".to_owned())
}

/// The turns' texts, from the arguments or from standard input.
fn prompts(args: &RunArgs) -> Result<Vec<String>, Failure> {
    let given = if args.prompt.is_empty() {
        if std::io::stdin().is_terminal() {
            return Err(Failure::usage("nothing to say: give -p TEXT, or -p - and the text on standard input"));
        }
        vec!["-".to_owned()]
    } else {
        args.prompt.clone()
    };
    if given.iter().filter(|p| *p == "-").count() > 1 {
        return Err(Failure::usage("standard input can be read once: give -p - only once"));
    }
    given.into_iter().map(|p| if p == "-" { from_stdin() } else { Ok(p) }).collect()
}

fn from_stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_PROMPT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::usage(format!("standard input can't be read: {e}")))?;
    if bytes.len() as u64 > MAX_PROMPT {
        return Err(Failure::usage(format!("the prompt on standard input is longer than {}; shorten it", size(MAX_PROMPT))));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        Failure::usage(format!("the prompt on standard input is not UTF-8 (byte {}); convert it first", e.utf8_error().valid_up_to()))
    })?;
    if text.trim().is_empty() {
        return Err(Failure::usage("the prompt on standard input is empty"));
    }
    Ok(text)
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
    args: &'a RunArgs,
    recorder: Option<&'a mut Recorder>,
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
        let wants_steps = self.args.json || self.recorder.is_some();
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
                    if let Some(r) = &mut self.recorder {
                        r.event(&event);
                    }
                    if self.args.json {
                        line(&event)?;
                    }
                    return Ok(event);
                }
                Heard::Step(record) => {
                    if let Some(r) = &mut self.recorder {
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
