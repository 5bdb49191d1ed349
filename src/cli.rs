//! The command line: what can be asked for, and with which exit code it ends.

mod app;
mod chats;
mod check;
mod draw;
mod failure;
mod inspect;
mod load;
mod models;
mod number;
mod pull;
mod think;

pub use app::App;
pub use draw::Draw;
pub use failure::{exit, Failure};
pub(crate) use load::device_name;
pub use load::{Load, SlotCounts};
pub use models::{downloaded, find_model};
pub(crate) use number::{fraction, whole};
pub use think::Think;

use crate::config;
use crate::events::{LoadOptions, Plan};
use crate::report;
use crate::trace::record::{cant_create, Recorder};
use crate::ui::{self, Opening, UiOptions};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use color_eyre::eyre;
use failure::{code_of, one_chain};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Examples:
  rotary                                  chat with the embedded toy model, its experts in view
  rotary qwen3-30b-a3b.gguf --ram 8GiB    a model larger than the memory it may use
  rotary run demo -p 'Tell me a story.'   one answer on standard output
  cat notes.txt | rotary run demo -p -    the same, the prompt from standard input
  rotary inspect model.gguf --ram 8GiB    what is in the file, and the memory plan
  rotary bench model.gguf --slots 8,16    tokens per second, hit rate, time split
  rotary simulate talk.rotary --profile rtx-4060-laptop
                                          what other slots, policies and machines would do

MODEL is the path of a GGUF file (the first one of a split set), the name of a downloaded
model, or `demo`, the toy that is embedded in this program.

Sizes are written like 8GiB, 512MiB, 1.5GB or, from a MiB on, in bytes. -h is short, --help says more.

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
#[command(name = "rotary", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    app: App,
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
    Inspect(inspect::InspectArgs),
    /// List downloaded models: name, size and file
    Models(models::ModelsArgs),
    /// List saved chats: id, when, and how they begin
    Chats(chats::ChatsArgs),
    /// Download a model file by name
    Pull(pull::PullArgs),
    /// Compare a model's logits, routes and greedy text with a reference
    Check(check::CheckArgs),
    /// Answer as `run` does, and record text, routing and times into a file
    Record(report::run::RecordArgs),
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

/// Parse the command line, do what it asks, and print what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    crate::model::quiet_candle();
    install_hooks();
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            if let Some(meant) = std::env::args().nth(1).filter(|_| e.use_stderr()).and_then(|first| meant(&first)) {
                let _ = writeln!(io::stderr().lock(), "rotary: {meant}");
                return ExitCode::from(exit::USAGE);
            }
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

/// The command line. Numbers below 0 are taken as values of their options, which say what they may be.
fn command() -> clap::Command {
    fn signed(command: clap::Command) -> clap::Command {
        let takes = |a: &clap::Arg| a.get_long().is_some() && a.get_action().takes_values();
        command.mut_args(|a| if takes(&a) { a.allow_negative_numbers(true) } else { a }).mut_subcommands(signed)
    }
    // Only there several counts make sense.
    signed(Cli::command()).mut_subcommand("bench", |bench| {
        bench.mut_arg("slots", |a| {
            a.value_name("N,…")
                .value_parser(load::slot_counts)
                .help("Expert slots per layer, or several counts by commas [default: as many as fit]")
        })
    })
}

/// Words that other programs have for what this one calls otherwise.
const OTHER_WORDS: [(&str, &str); 10] = [
    ("list", "models"),
    ("ls", "models"),
    ("download", "pull"),
    ("get", "pull"),
    ("fetch", "pull"),
    ("show", "inspect"),
    ("info", "inspect"),
    ("history", "chats"),
    ("benchmark", "bench"),
    ("generate", "run"),
];

/// What is said of a first word that is likely a mistyped command.
fn meant(first: &str) -> Option<String> {
    let command = Cli::command();
    // clap adds its own command when it parses.
    let verbs: Vec<&str> = command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name).chain(["help"]).collect();
    let other = OTHER_WORDS.iter().find(|(word, _)| *word == first).map(|(_, verb)| *verb);
    let meant = other.or_else(|| crate::text::nearest(first, &verbs)).filter(|verb| *verb != first && !Path::new(first).exists())?;
    Some(format!("there is no command `{}`; did you mean `rotary {meant}`? rotary --help lists all", crate::gguf::shown(first)))
}

fn dispatch(cli: Cli) -> eyre::Result<ExitCode> {
    match cli.command {
        None => app::app(&cli.app),
        Some(Verb::Run(args)) => report::run::run(&args),
        Some(Verb::Record(args)) => report::run::record(&args),
        Some(Verb::Bench(args)) => report::bench::run(&args),
        Some(Verb::Plan(args)) => report::plan::run(&args),
        Some(Verb::Doctor(args)) => report::doctor::run(&args),
        Some(Verb::GpuCheck(args)) => report::gpu_check::run(&args),
        Some(Verb::Inspect(args)) => inspect::inspect(&args),
        Some(Verb::Models(args)) => models::list(&args),
        Some(Verb::Chats(args)) => chats::list(&args),
        Some(Verb::Pull(args)) => pull::pull(&args),
        Some(Verb::Check(args)) => check::check(&args),
        Some(Verb::Convert(args)) => report::convert::run(&args),
        Some(Verb::Simulate(args)) => report::simulate::run(&args),
        Some(Verb::Replay(args)) => replay(&args),
    }
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

/// Start a recording.
pub fn recorder(path: &Path) -> Result<Recorder, Failure> {
    Recorder::create(path).map_err(|e| cant_record(path, &e))
}

/// A new file that can't be made.
pub(crate) fn cant_record(path: &Path, e: &io::Error) -> Failure {
    Failure::usage(cant_create(path, e))
}

/// The configuration, its problems told on standard error.
pub fn configuration() -> config::Config {
    let loaded = config::load();
    for problem in &loaded.problems {
        let _ = writeln!(io::stderr().lock(), "rotary: {problem}");
    }
    loaded.config
}

/// Says on standard error which options have no effect because no GPU computes. `tried`: one was, and failed.
pub(crate) fn tell_idle(options: &LoadOptions, plan: &Plan, tried: bool) {
    if let Some(idle) = options.idle_on_cpu(tried).filter(|_| plan.device.is_none()) {
        let _ = writeln!(io::stderr().lock(), "rotary: {idle}");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn a_mistyped_command_is_recognised_and_a_model_is_left_alone() {
        for (typed, verb) in [
            ("simualte", "rotary simulate"),
            ("simulat", "rotary simulate"),
            ("repaly", "rotary replay"),
            ("rnu", "rotary run"),
            ("ru", "rotary run"),
            ("list", "rotary models"),
            ("hlep", "rotary help"),
        ] {
            assert!(meant(typed).is_some_and(|said| said.contains(verb) && said.contains(typed)), "{typed}: {:?}", meant(typed));
        }
        for other in ["demo", "qwen3", "run", "--ram", "src"] {
            assert_eq!(meant(other), None, "{other}");
        }
    }

    #[test]
    fn names_are_read_in_any_case_and_bench_takes_several_slot_counts() {
        let parse = |args: &[&str]| Cli::from_arg_matches(&command().try_get_matches_from(args).unwrap()).unwrap();
        let cli = parse(&["rotary", "--policy", "LRU", "--device", "CPU", "--draft", "Never"]);
        assert_eq!((cli.app.load.policy.as_deref(), cli.app.load.draft), (Some("lru"), Some(crate::events::When::Never)));
        parse(&["rotary", "bench", "demo", "--slots", "8,16,24", "--prompt", "128,512"]);
        parse(&["rotary", "simulate", "x", "--policy", "LRU,Belady"]);
    }

    #[test]
    fn help_is_short_or_long_and_in_groups() {
        let mut run = command().find_subcommand("run").unwrap().clone();
        let (short, long) = (run.render_help().to_string(), run.render_long_help().to_string());
        for heading in ["Sampling:", "Memory and slots:", "Computing:", "GPU:", "Output:", "Options:"] {
            assert_eq!(short.matches(&format!("\n{heading}\n")).count(), 1, "{heading} once in {short}");
        }
        let under = |heading: &str| short.split(&format!("\n{heading}\n")).nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
        assert!(under("Sampling:").contains("--seed") && !under("Sampling:").contains("--ram") && under("Options:").contains("--system"));
        assert!(long.contains("turn out right are kept") && !short.contains("turn out right are kept"));
        assert!(!command().find_subcommand("record").unwrap().clone().render_long_help().to_string().contains("--trace"));
    }

    #[test]
    fn a_model_is_the_default_verb_and_flags_follow_it() {
        let cli = Cli::try_parse_from(["rotary", "m.gguf", "--ram", "8GiB", "--slots", "12"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.app.model.as_deref(), Some("m.gguf"));
        assert_eq!((cli.app.load.ram, cli.app.load.slots), (Some(8 << 30), Some(SlotCounts(vec![12]))));
    }

    #[test]
    fn wrong_values_are_explained() {
        for (args, says) in [
            (vec!["rotary", "--ram", "lots"], "8GiB"),
            (vec!["rotary", "--slots", "0"], "at least 1"),
            (vec!["rotary", "--threads", "100000"], "1024"),
            (vec!["rotary", "--policy", "best"], "lru"),
            (vec!["rotary", "--ram", "8"], "8 what?"),
            (vec!["rotary", "run", "demo", "--slots", "8,16"], "from 1 up"),
            (vec!["rotary", "run"], "MODEL"),
            (vec!["rotary", "--ahead", "x"], "whole number from 0 up"),
            (vec!["rotary", "run", "demo", "-n", "x"], "whole number from 0 up"),
            (vec!["rotary", "run", "demo", "-n", "-1"], "whole number from 0 up"),
            (vec!["rotary", "run", "demo", "--top-k", "x"], "whole number from 0 up"),
            (vec!["rotary", "run", "demo", "--seed", "-1"], "whole number from 0 up"),
            (vec!["rotary", "run", "demo", "--temperature", "abc"], "such as 0.7"),
            (vec!["rotary", "simulate", "x", "--margin", "x"], "such as 0.7"),
            (vec!["rotary", "--ram", "-1"], "8GiB"),
            (vec!["rotary", "replay", "x", "--speed", "-1"], "0.001"),
        ] {
            let e = command().try_get_matches_from(&args).unwrap_err().to_string();
            assert!(e.contains(says) && !e.contains("invalid digit") && !e.contains("tip: to pass"), "{args:?}: {e}");
        }
    }
}
