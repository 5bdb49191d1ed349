//! The command line: what can be asked for, and with which exit code it ends.

use crate::config::{self, parse_bytes, Folders};
use crate::engine::EngineError;
use crate::events::{DeviceChoice, FailureKind, HoldChoice, LoadOptions, MissChoice, ModelSource, Sampling};
use crate::report;
use crate::trace::record::Recorder;
use crate::ui::palette::ColorDepth;
use crate::ui::{self, Opening, Resume, UiOptions};
use clap::{Args, Parser, Subcommand};
use color_eyre::eyre;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit codes that a script can rely on; `--help` lists them.
pub mod exit {
    /// A check that failed its acceptance, or a generation that ended in an error.
    pub const FAILED: u8 = 1;
    /// Arguments, configuration or input that make no sense.
    pub const USAGE: u8 = 2;
    /// The model file is missing, damaged, or of a kind that can't be run.
    pub const MODEL_FILE: u8 = 3;
    /// The budget or the machine has too little memory.
    pub const MEMORY: u8 = 4;
    /// A download failed.
    pub const DOWNLOAD: u8 = 5;
    /// Cancelled from the keyboard, as shells report SIGINT.
    pub const CANCELLED: u8 = 130;
}

const AFTER_HELP: &str = "\
Examples:
  rotary                                  chat with the embedded toy model, its experts in view
  rotary qwen3-30b-a3b.gguf --ram 8GiB    a model larger than the memory it may use
  rotary run demo -p 'Tell me a story.'   one answer on standard output
  cat notes.txt | rotary run demo -p -    the same, the prompt from standard input
  rotary inspect model.gguf --ram 8GiB    what is in the file, and the memory plan
  rotary bench model.gguf --repeat 3      tokens per second, hit rate, time split
  rotary simulate talk.rotary --profile rtx-4060-laptop
                                          what other slots, policies and machines would do

MODEL is the path of a GGUF file (the first one of a split set), the name of a downloaded
model, or `demo`, the toy that is embedded in this program.

Sizes are written like 8GiB, 512MiB, 1.5GB or in bytes.

Exit codes:
  0    done
  1    a check failed its acceptance, or a generation ended in an error
  2    wrong arguments or input
  3    the model file is missing, damaged, or of a kind that can't be run
  4    not enough memory for what was asked
  5    a download failed
  130  cancelled";

/// Chat with Mixture-of-Experts models far larger than the fast memory, and watch their experts rotate.
#[derive(Debug, Parser)]
#[command(name = "rotary", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    app: App,
}

/// `rotary [MODEL]`: the terminal app.
#[derive(Debug, Args)]
pub struct App {
    /// Model to chat with [default: the configured one, or demo]
    pub model: Option<String>,
    #[allow(missing_docs)] // A comment here would become the help text of every flag group.
    #[command(flatten)]
    pub load: Load,
    /// Go on with a saved chat: the latest, or the one with this id
    #[arg(long, value_name = "ID", num_args = 0..=1)]
    pub resume: Option<Option<String>>,
    /// Colours: dark, light, safe (colour-blind), ember, sixteen, mono, or a theme of your own
    #[arg(long, value_name = "NAME")]
    pub theme: Option<String>,
    /// Record the session (text, routing, times) into a file for `rotary replay`; routing alone if it ends in .csv
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Draw with ASCII characters only
    #[arg(long)]
    pub ascii: bool,
    /// No colours (also by the variable NO_COLOR)
    #[arg(long)]
    pub no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answer on standard output, without a screen
    Run(report::run::RunArgs),
    /// Measure prompt reading and generation
    Bench(report::bench::BenchArgs),
    /// Show the memory plan for a model without loading it
    Plan(report::plan::PlanArgs),
    /// Show what is in a model file, what of it can't be run, and the memory plan
    Inspect(InspectArgs),
    /// Download a model file by name
    Pull(PullArgs),
    /// Compare a model's logits, routes and greedy text with a reference
    Check(CheckArgs),
    /// Answer as `run` does, and record text, routing and times into a file
    Record(RecordArgs),
    /// Play a recorded session or a routing trace in the app, with no model
    Replay(report::replay::ReplayArgs),
    /// Write the routing of a trace in the other format
    Convert(report::convert::ConvertArgs),
    /// What other policies, slot counts and machines would have made of recorded routing
    Simulate(report::simulate::SimulateArgs),
    /// Say what this machine, terminal and configuration offer, and what is wrong with them
    Doctor(report::doctor::DoctorArgs),
    /// Try every GPU kernel against its meaning in plain Rust
    #[command(hide = true)]
    GpuCheck(report::gpu_check::GpuCheckArgs),
}

/// Arguments of `rotary inspect`.
#[derive(Debug, Args)]
struct InspectArgs {
    /// Path, downloaded name, or demo
    model: String,
    #[command(flatten)]
    load: Load,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Arguments of `rotary pull`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rotary pull Qwen/Qwen3-30B-A3B-GGUF Qwen3-30B-A3B-Q4_K_M.gguf\n\n\
    The file lies under XDG_DATA_HOME/rotary/models afterwards and is opened by its name. A cut download goes\n\
    on where it was cut. HF_TOKEN opens private repositories, HF_ENDPOINT names another hub.")]
struct PullArgs {
    /// OWNER/REPO on the hub
    repo: String,
    /// A .gguf file of it; any part of a split set stands for the whole set
    file: String,
}

/// Arguments of `rotary check`.
#[derive(Debug, Args)]
struct CheckArgs {
    /// Path, downloaded name, or demo
    model: String,
    /// An .npz that tests/reference/make_fixtures.py wrote
    reference: PathBuf,
    /// Pass if no logit differs by more than this, instead of the built-in acceptance
    #[arg(long, value_name = "X")]
    tolerance: Option<f32>,
    /// Change the slots per layer after every chunk, to these in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = at_least_one)]
    resize: Vec<usize>,
    #[command(flatten)]
    load: Load,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Arguments of `rotary record`.
#[derive(Debug, Args)]
struct RecordArgs {
    /// File to record into, routing alone if it ends in .csv; it must not exist
    file: PathBuf,
    #[command(flatten)]
    run: report::run::RunArgs,
}

/// How a model is loaded.
#[derive(Clone, Debug, Default, Args)]
pub struct Load {
    /// Memory that the whole process may use; context and slots are derived from it
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub ram: Option<u64>,
    /// Expert slots per layer [default: as many as fit]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub slots: Option<usize>,
    /// Whether every layer has as many slots (equal), or those that gain more from a slot have more (layer), in the same bytes
    #[arg(long, value_name = "HOW", value_parser = ["equal", "layer"], default_value = "equal")]
    pub slots_by: String,
    /// Context length in tokens [default: what fits, at most what the model knows]
    #[arg(long, visible_alias = "context", value_name = "N", value_parser = at_least_one)]
    pub ctx: Option<usize>,
    /// Threads that compute [default: physical cores]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub threads: Option<usize>,
    /// Which experts keep their slots: rotary, decay, lru or lfu
    #[arg(long, value_name = "NAME", value_parser = policy_name)]
    pub policy: Option<String>,
    /// Keep keys and values in 32-bit floats instead of 16-bit
    #[arg(long)]
    pub kv_f32: bool,
    /// Begin with empty slots, and keep nothing for the next start
    #[arg(long)]
    pub cold: bool,
    /// Folder that keeps which experts were used [default: a folder of the user's, but for `run demo`]
    #[arg(long, value_name = "DIR", conflicts_with = "cold")]
    pub heat: Option<PathBuf>,
    /// What computes: auto (a GPU if this build can use one), cpu, gpu, or simulated (the GPU's code played by the CPU, slowly)
    #[arg(long, value_name = "NAME", value_parser = device_name)]
    pub device: Option<DeviceChoice>,
    /// GPU memory for weights, context, buffers and slots; context and slots are derived from it [default: what is free, less a reserve]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub vram: Option<u64>,
    /// Who computes experts without a slot on the GPU: gpu (copied there first), cpu, or auto (both, as fast as each was measured)
    #[arg(long, value_name = "NAME", value_parser = miss_name)]
    pub miss: Option<MissChoice>,
    /// On a GPU, whether all experts are copied into RAM in huge pages, page-locked up to half of the RAM, so that misses and copies are quick: auto (if the RAM has room), always, or never (read from the mapped file)
    #[arg(long, value_name = "WHEN", value_parser = hold_name)]
    pub hold: Option<HoldChoice>,
    /// Bring at most this many experts per look at a coming layer before a token asks for them (policy rotary); 0 is none [default: 1 on a GPU whose link is fast enough once all experts are page-locked (--hold), else 0]
    #[arg(long, value_name = "N")]
    pub ahead: Option<usize>,
}

pub(crate) fn device_name(name: &str) -> Result<DeviceChoice, String> {
    DeviceChoice::from_name(name).ok_or_else(|| "write auto, cpu, gpu or simulated".to_owned())
}

fn miss_name(name: &str) -> Result<MissChoice, String> {
    MissChoice::from_name(name).ok_or_else(|| "write auto, gpu or cpu".to_owned())
}

fn hold_name(name: &str) -> Result<HoldChoice, String> {
    HoldChoice::from_name(name).ok_or_else(|| "write auto, always or never".to_owned())
}

impl Load {
    /// Flags laid over the configuration.
    #[must_use]
    pub fn options(&self, config: &config::Config) -> LoadOptions {
        LoadOptions {
            ram: self.ram.or(config.ram),
            slots: self.slots,
            context: self.ctx,
            threads: self.threads.or(config.threads),
            policy: self.policy.clone().or_else(|| config.policy.clone()),
            kv_f32: self.kv_f32,
            heat: None,
            spread: self.slots_by == "layer",
            device: self.device.or(config.device).unwrap_or_default(),
            vram: self.vram.or(config.vram),
            miss: self.miss.unwrap_or_default(),
            hold: self.hold.or(config.hold).unwrap_or_default(),
            ahead: self.ahead,
        }
    }
}

impl Load {
    /// Where heat is kept: the folder that was named, else the user's unless he wants none. Commands that measure don't ask.
    #[must_use]
    pub fn heat_folder(&self, config: &config::Config, usual: impl FnOnce() -> PathBuf) -> Option<PathBuf> {
        if self.cold {
            return None;
        }
        self.heat.clone().or_else(|| config.warm_start.then(usual))
    }
}

/// How tokens are drawn. What is not given comes from the configuration, else from the model file, else from the program.
#[derive(Clone, Debug, Default, Args)]
pub struct Draw {
    /// Always take the most likely token (the same as --temperature 0)
    #[arg(long, conflicts_with = "temperature")]
    pub greedy: bool,
    /// Flatten (above 1) or sharpen (below 1) the probabilities; 0 is greedy
    #[arg(long, value_name = "X")]
    pub temperature: Option<f32>,
    /// Draw among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw among the smallest set with this probability; 1 is all
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Drop tokens less than this fraction as likely as the best; 0 is none
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Make tokens that have occurred less likely; 1 is off
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// Subtract this from the logits of tokens that the answer has used; 0 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Seed of the random draw; the same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl Draw {
    /// Flags laid over `base`.
    #[must_use]
    pub fn over(&self, base: Sampling) -> Sampling {
        Sampling {
            temperature: if self.greedy { 0.0 } else { self.temperature.unwrap_or(base.temperature) },
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(base.presence_penalty),
            seed: self.seed.or(base.seed),
            max_tokens: base.max_tokens,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("write a whole number".into()),
    }
}

fn thread_count(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        n if n > 1024 => Err("more than 1024 threads can't be meant".into()),
        n => Ok(n),
    }
}

fn policy_name(text: &str) -> Result<String, String> {
    text.parse::<crate::experts::policy::Policy>().map(|p| p.name().to_owned()).map_err(|e| e.to_string())
}

/// An error whose exit code is known where it arises.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// What to print.
    pub message: String,
}

impl Failure {
    /// Wrong arguments or input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: exit::USAGE, message: message.into() }
    }
    /// A failed check or generation.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: exit::FAILED, message: message.into() }
    }
    /// A load that ended as the engine reported it.
    pub fn load(kind: FailureKind, message: impl Into<String>) -> Self {
        let code = match kind {
            FailureKind::File => exit::MODEL_FILE,
            FailureKind::Memory => exit::MEMORY,
            FailureKind::Options => exit::USAGE,
            FailureKind::Cancelled => exit::CANCELLED,
            FailureKind::Other => exit::FAILED,
        };
        Self { code, message: message.into() }
    }
}

impl From<EngineError> for Failure {
    fn from(e: EngineError) -> Self {
        Self::load(e.kind(), e.to_string())
    }
}

/// Parse the command line, do what it asks, and print what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    crate::model::quiet_candle();
    install_hooks();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap prints help to standard output and errors to standard error, each with its own code.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(report) => {
            let broken = |e: &(dyn std::error::Error + 'static)| {
                e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            };
            // Whoever read our output has had enough.
            if report.chain().any(broken) {
                return ExitCode::SUCCESS;
            }
            let _ = writeln!(io::stderr().lock(), "rotary: {}", one_chain(&report));
            ExitCode::from(code_of(&report))
        }
    }
}

fn dispatch(cli: Cli) -> eyre::Result<ExitCode> {
    match cli.command {
        None => app(&cli.app),
        Some(Verb::Run(args)) => report::run::run(&args),
        Some(Verb::Record(args)) => report::run::record(&args.run, &args.file),
        Some(Verb::Bench(args)) => report::bench::run(&args),
        Some(Verb::Plan(args)) => report::plan::run(&args),
        Some(Verb::Doctor(args)) => report::doctor::run(&args),
        Some(Verb::GpuCheck(args)) => report::gpu_check::run(&args),
        Some(Verb::Inspect(args)) => inspect(&args),
        Some(Verb::Pull(args)) => pull(&args),
        Some(Verb::Check(args)) => check(&args),
        Some(Verb::Convert(args)) => report::convert::run(&args),
        Some(Verb::Simulate(args)) => report::simulate::run(&args),
        Some(Verb::Replay(args)) => replay(&args),
    }
}

fn inspect(args: &InspectArgs) -> eyre::Result<ExitCode> {
    let config = configuration();
    let gguf = crate::engine::open::map(&find_model(&args.model, &config)?).map_err(Failure::from)?;
    let seen = report::inspect::inspect(&gguf);
    let available = crate::engine::gauges::process_memory().available;
    // A file that can't be run has no plan; the reasons are in the report.
    let plan = crate::model::plan(&gguf, &args.load.options(&config), available);
    let mut out = io::stdout().lock();
    if args.json {
        let plan = plan.as_ref().map_err(ToString::to_string);
        let (plan, why) = (plan.as_ref().ok(), plan.as_ref().err());
        serde_json::to_writer(&mut out, &serde_json::json!({ "file": seen, "plan": plan, "no_plan": why })).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{seen}")?;
        match plan {
            Ok(plan) => write!(out, "{}", report::plan::table(&plan))?,
            Err(why) => writeln!(out, "no memory plan: {why}")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "hub")]
fn pull(args: &PullArgs) -> eyre::Result<ExitCode> {
    use report::pull::{line, Pull, PullError};
    let models = config::Folders::find().data.join("models");
    let mut err = io::stderr().lock();
    let mut last = None;
    let pulled = Pull::new(&args.repo, &args.file, &models).run(&mut |progress| {
        if let Some(line) = line(&progress, &mut last) {
            let _ = write!(err, "{line}").and_then(|()| err.flush());
        }
    });
    match pulled {
        Ok(path) => {
            let name = path.strip_prefix(&models).unwrap_or(&path).with_extension("");
            writeln!(io::stdout().lock(), "{}", name.display())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(e @ PullError::Name { .. }) => Err(Failure::usage(e.to_string()).into()),
        Err(e) => Err(Failure { code: exit::DOWNLOAD, message: e.to_string() }.into()),
    }
}

#[cfg(not(feature = "hub"))]
fn pull(args: &PullArgs) -> eyre::Result<ExitCode> {
    let message = format!("this rotary was built without the feature `hub`, so it can't fetch {} of {}", args.file, args.repo);
    Err(Failure { code: exit::DOWNLOAD, message }.into())
}

fn check(args: &CheckArgs) -> eyre::Result<ExitCode> {
    use report::check::{check_file, CheckError, CheckOptions};
    let config = configuration();
    let gguf = crate::engine::open::map(&find_model(&args.model, &config)?).map_err(Failure::from)?;
    let reference = report::reference::Reference::read(&args.reference).map_err(|e| Failure::usage(e.to_string()))?;
    let load = args.load.options(&config);
    let options = CheckOptions { tolerance: args.tolerance, load, resize: args.resize.clone(), ..CheckOptions::default() };
    let checked = check_file(&gguf, &reference, &options).map_err(|e| match e {
        CheckError::Reference(_) | CheckError::OtherModel(_) => Failure::usage(e.to_string()),
        CheckError::Gguf(e) => EngineError::from(e).into(),
        CheckError::Model(e) => EngineError::from(e).into(),
    })?;
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &checked).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{checked}")?;
    }
    Ok(ExitCode::from(if checked.passed() { 0 } else { exit::FAILED }))
}

fn replay(args: &report::replay::ReplayArgs) -> eyre::Result<ExitCode> {
    if args.summary {
        report::replay::summary(args, &mut io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before there are threads.
    ui::signals::hold_stops();
    let (handle, control) = report::replay::open(args, ui::replay_fold::ReplayFold::new()).map_err(|e| Failure::usage(e.to_string()))?;
    ui::run(UiOptions::new(Opening::Replay(handle, control)))
}

fn app(args: &App) -> eyre::Result<ExitCode> {
    // Before there are threads.
    ui::signals::hold_stops();
    let config = config::load();
    let source = find_model(args.model.as_deref().or(config.config.model.as_deref()).unwrap_or("demo"), &config.config)?;
    let trace = args.trace.as_deref().map(recorder).transpose()?;
    ui::run(UiOptions {
        load: LoadOptions { heat: args.load.heat_folder(&config.config, || Folders::find().heat()), ..args.load.options(&config.config) },
        config,
        theme: args.theme.clone(),
        color: args.no_color.then_some(ColorDepth::Mono),
        ascii: args.ascii,
        resume: match &args.resume {
            None => Resume::No,
            Some(None) => Resume::Last,
            Some(Some(id)) => Resume::Named(id.clone()),
        },
        trace,
        ..UiOptions::new(Opening::Model(source))
    })
}

/// Start a recording.
pub fn recorder(path: &Path) -> Result<Recorder, Failure> {
    Recorder::create(path).map_err(|e| cant_record(path, &e))
}

/// A new file that can't be made.
pub(crate) fn cant_record(path: &Path, e: &io::Error) -> Failure {
    let remedy = if e.kind() == io::ErrorKind::AlreadyExists { "; nothing is overwritten, choose another name" } else { "" };
    Failure::usage(format!("{}: the file can't be written: {e}{remedy}", path.display()))
}

/// The configuration, its problems told on standard error.
pub fn configuration() -> config::Config {
    let loaded = config::load();
    for problem in &loaded.problems {
        let _ = writeln!(io::stderr().lock(), "rotary: {problem}");
    }
    loaded.config
}

/// What MODEL means: `demo`, a path, or the name of a downloaded model.
pub fn find_model(name: &str, config: &config::Config) -> Result<ModelSource, Failure> {
    let path = PathBuf::from(name);
    // A path wins over everything, so that a file that happens to be called `demo` stays reachable as ./demo.
    if name == "demo" {
        return Ok(ModelSource::Demo);
    }
    if path.exists() || name.contains(std::path::MAIN_SEPARATOR) && name.ends_with(".gguf") {
        return Ok(ModelSource::Path(path));
    }
    let known = downloaded(config);
    let wanted = name.strip_suffix(".gguf").unwrap_or(name);
    let matches: Vec<&(String, PathBuf)> =
        known.iter().filter(|(n, _)| n == wanted || n.rsplit('/').next().is_some_and(|last| last == wanted)).collect();
    match matches.as_slice() {
        [(_, path)] => Ok(ModelSource::Path(path.clone())),
        [] => {
            let have = if known.is_empty() {
                "no model has been downloaded".to_owned()
            } else {
                format!("downloaded are: {}", known.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", "))
            };
            Err(Failure {
                code: exit::MODEL_FILE,
                message: format!(
                    "{}: no such file, and no downloaded model of this name; {have}; `demo` is always there, and `rotary pull` downloads",
                    crate::gguf::shown(name)
                ),
            })
        }
        several => Err(Failure::usage(format!(
            "several downloaded models are called `{}`: {}; write one of these names in full",
            crate::gguf::shown(name),
            several.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Downloaded models by name (path below its folder, without `.gguf`), later parts of split sets left out.
pub fn downloaded(config: &config::Config) -> Vec<(String, PathBuf)> {
    let mut out = Vec::new();
    let own = config::Folders::find().data.join("models");
    for root in config.model_dirs.iter().chain([&own]) {
        let mut folders = vec![(root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten().take(10_000) {
                let path = entry.path();
                if path.is_dir() && depth < 3 {
                    folders.push((path, depth + 1));
                } else if path.extension().is_some_and(|e| e == "gguf") && !is_later_part(&path) {
                    if let Ok(name) = path.strip_prefix(root) {
                        out.push((name.with_extension("").to_string_lossy().into_owned(), path));
                    }
                }
            }
        }
    }
    out.sort();
    out
}

/// `...-0000K-of-0000N.gguf` with K above 1.
fn is_later_part(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let Some((head, total)) = stem.rsplit_once("-of-") else { return false };
    let number = head.rsplit('-').next().unwrap_or_default();
    total.len() == 5 && number.len() == 5 && number.parse::<u32>().is_ok_and(|n| n > 1)
}

/// Panics of the program itself are reported with a request to tell us; panics that the engine catches are events.
fn install_hooks() {
    let hooks = color_eyre::config::HookBuilder::default()
        .display_env_section(false)
        .panic_section("This is a mistake in rotary. Please report it with the lines above.")
        .into_hooks();
    let (panic_hook, error_hook) = hooks;
    let _ = error_hook.install();
    let print = panic_hook.into_panic_hook();
    std::panic::set_hook(Box::new(move |info| {
        if crate::engine::catches_panics_here() {
            tracing::error!(%info, "caught panic");
        } else {
            print(info);
        }
    }));
}

fn code_of(report: &eyre::Report) -> u8 {
    for cause in report.chain() {
        if let Some(f) = cause.downcast_ref::<Failure>() {
            return f.code;
        }
        if let Some(e) = cause.downcast_ref::<EngineError>() {
            return Failure::load(e.kind(), "").code;
        }
    }
    exit::FAILED
}

/// The causes, outermost first, without those that the message before already contains.
fn one_chain(report: &eyre::Report) -> String {
    let mut out = String::new();
    for cause in report.chain() {
        let text = cause.to_string();
        if !out.contains(&text) {
            if !out.is_empty() {
                out += ": ";
            }
            out += &text;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_model_is_the_default_verb_and_flags_follow_it() {
        let cli = Cli::try_parse_from(["rotary", "m.gguf", "--ram", "8GiB", "--slots", "12"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.app.model.as_deref(), Some("m.gguf"));
        assert_eq!((cli.app.load.ram, cli.app.load.slots), (Some(8 << 30), Some(12)));
    }

    #[test]
    fn wrong_values_are_explained() {
        for (args, says) in [
            (vec!["rotary", "--ram", "lots"], "8GiB"),
            (vec!["rotary", "--slots", "0"], "at least 1"),
            (vec!["rotary", "--threads", "100000"], "1024"),
            (vec!["rotary", "--policy", "best"], "lru"),
            (vec!["rotary", "run"], "MODEL"),
        ] {
            let e = Cli::try_parse_from(&args).unwrap_err().to_string();
            assert!(e.contains(says), "{args:?}: {e}");
        }
    }

    #[test]
    fn flags_are_stronger_than_what_the_file_or_the_configuration_says() {
        let base = Sampling { temperature: 0.6, top_k: 20, seed: Some(1), ..Sampling::default() };
        let draw = Draw { greedy: true, top_k: Some(5), ..Draw::default() };
        let got = draw.over(base.clone());
        assert_eq!((got.temperature, got.top_k, got.top_p, got.seed), (0.0, 5, base.top_p, Some(1)));
    }

    #[test]
    fn only_the_first_part_of_a_split_model_is_a_model() {
        let later = |s: &str| is_later_part(Path::new(s));
        assert!(later("a/m-00002-of-00003.gguf"));
        assert!(!later("a/m-00001-of-00003.gguf"));
        assert!(!later("a/best-of-breed.gguf"));
    }

    #[test]
    fn a_chain_of_errors_repeats_nothing() {
        let inner = Failure::failed("the disk is full");
        let report = eyre::Report::from(inner).wrap_err("m.gguf");
        assert_eq!(one_chain(&report), "m.gguf: the disk is full");
        let twice = eyre::Report::from(Failure::failed("no")).wrap_err("no: no");
        assert_eq!(one_chain(&twice), "no: no");
    }
}
