//! Arguments of `rotary simulate`: which slot counts, which policies, what machine, and how to print.

use crate::cli::{fraction, whole, Failure};
use crate::config::{parse_bytes, Folders};
use crate::experts::policy::Overlay;
use crate::report::curves::Canvas;
use crate::trace::along::read_along;
use crate::trace::open::open_routes;
use crate::trace::profile::{self, Misses, Profile};
use crate::trace::routes::Routes;
use crate::trace::simulate::Contender;
use crate::ui::palette::{ColorDepth, DepthSources};
use crate::ui::theme::glyphs::environment_is_utf8;
use clap::{Args, ValueEnum};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

/// Most slot counts in one table.
const MAX_COUNTS: usize = 1024;

/// Arguments of `rotary simulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rotary simulate talk.rotary --slots 8..128 --policy all --profile rtx-4060-laptop
  rotary simulate a.csv b.csv --slots 16,32,64 --format csv
  rotary simulate talk.rotary --diff rotary@32 lru@48
  rotary simulate talk.rotary --policy rotary --foresee never
  rotary simulate --diff monday.rotary tuesday.rotary

A side of --diff is a policy, slots, or both (lru, slots=48, lru@48), `recorded` for what happened, or the file of
another recorded session. `rotary bench --profile` measures this machine; docs/profiles.md explains profiles.")]
pub struct SimulateArgs {
    /// Recorded sessions or route_trace v1 CSV files
    #[arg(required_unless_present = "diff", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Slots per layer: `16,24,32`, `8..128` or `8..128:8` [default: an eighth to a half of the experts]
    #[arg(long, value_name = "LIST", value_parser = slot_list)]
    pub slots: Option<Slots>,
    /// Policies to compare, by commas: rotary, decay, lru, lfu, belady (knows the future), chance; or all
    #[arg(long, value_name = "NAMES", value_parser = contenders, default_value = "all")]
    pub policy: Contenders,
    /// Replace a resident only by a newcomer with more than its worth times this (policies rotary and decay) [default: as recorded, else the policy's own]
    #[arg(long, value_name = "X", value_parser = fraction::<f64>)]
    pub margin: Option<f64>,
    /// Replace at most this many residents per layer and token [default: as recorded, else the policy's own]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub cap: Option<usize>,
    /// Bring at most this many experts per look at a coming layer before a token asks for them (policy rotary); 0 is none [default: as recorded or as on the machine of --profile, else 1]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub ahead: Option<usize>,
    /// Whether what comes ahead goes by what routers said before their turn: auto (where a file has it, see `rotary run --foresee always`) or never
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Foresee::Auto)]
    pub foresee: Foresee,
    /// Estimate tokens/s on this machine: the name of a profile, or a .toml file
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// What the machine does with misses, instead of what its profile says
    #[arg(long, value_enum, value_name = "HOW", requires = "profile")]
    pub misses: Option<Misses>,
    /// As if N likely tokens had been read along with each drawn one, of those that --right says are right
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub along: Option<u16>,
    /// With --along: how likely each of them is to be right, given that those before it are
    #[arg(long, value_name = "P", default_value_t = 0.8, requires = "along", value_parser = fraction::<f64>)]
    pub right: f64,
    /// Weights that every token reads, instead of what the trace says, such as 2GB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub trunk: Option<u64>,
    /// Where two policies, slot counts or recorded sessions differ: in total, by layer and by expert
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    pub diff: Option<Vec<String>>,
    /// Also measure slots by layer against equal slots of the same total: learned on the first half, counted on the second
    #[arg(long)]
    pub spread: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// No curves below the table
    #[arg(long)]
    pub no_curves: bool,
    /// Draw with ASCII characters only, without colours (also by the variable NO_COLOR)
    #[arg(long)]
    pub ascii: bool,
}

impl SimulateArgs {
    /// What is to be laid over the policy's own admission.
    pub(in crate::report) fn admission(&self) -> Overlay {
        Overlay { margin: self.margin, per_tick: self.cap, ahead: self.ahead }
    }

    /// The routing of a file, with what was foreseen of it unless that is not wanted.
    pub(in crate::report) fn routes(&self, path: &Path) -> Result<Routes, Failure> {
        let mut routes = open_routes(path).map_err(|e| Failure::usage(e.to_string()))?;
        if self.foresee == Foresee::Never {
            routes.forget_foretold();
        }
        if let Some(along) = self.along {
            routes = read_along(&routes, usize::from(along));
        }
        Ok(routes)
    }

    /// Tokens that a step reads, and of them those that the answer gains in the mean; 1 and 1 where nothing is read along.
    pub(in crate::report) fn of_a_step(&self) -> (usize, f64) {
        let along = self.along.unwrap_or(0);
        (1 + usize::from(along), (0..=i32::from(along)).map(|i| self.right.clamp(0.0, 1.0).powi(i)).sum())
    }

    /// The profile that was asked for, with what else was.
    pub(in crate::report) fn machine(&self) -> Result<Option<Profile>, Failure> {
        let Some(name) = &self.profile else { return Ok(None) };
        let mut profile = profile::find(name, &Folders::find().profiles()).map_err(|e| Failure::usage(e.to_string()))?;
        profile.misses = self.misses.unwrap_or(profile.misses);
        Ok(Some(profile))
    }

    /// What standard output can show.
    pub(in crate::report) fn canvas(&self) -> Canvas {
        let terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let unicode = !self.ascii && !no_color && environment_is_utf8();
        let color = terminal && unicode && DepthSources::from_env(None, None).depth() > ColorDepth::Mono;
        Canvas::new(terminal.then(|| crossterm::terminal::size().ok()).flatten(), unicode, color)
    }
}

/// Whether experts come ahead by what routers foresaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Foresee {
    /// Where it was recorded.
    Auto,
    /// By likeness of routing alone.
    Never,
}

/// How to print a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// A row per file, policy and slot count.
    Csv,
    /// An array of objects, one per file.
    Json,
}

/// Slot counts, rising.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots(pub Vec<usize>);

/// Who is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contenders(pub Vec<Contender>);

/// `16,24,32`, `8..128` (both ends included), `8..128:8`, and mixtures.
pub(super) fn slot_list(text: &str) -> Result<Slots, String> {
    let number = |t: &str| match t.trim().parse::<usize>() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("{t:?} is not a slot count from 1 up; write 16,24,32 or 8..128:8")),
    };
    let mut counts = Vec::new();
    for part in text.split(',') {
        let Some((from, rest)) = part.split_once("..") else {
            counts.push(number(part)?);
            continue;
        };
        let (to, by) = rest.split_once(':').unwrap_or((rest, "1"));
        let (from, to, by) = (number(from)?, number(to.trim_start_matches('='))?, number(by)?);
        if by == 0 || to < from {
            return Err(format!("{part:?} is no range: write FROM..TO or FROM..TO:STEP"));
        }
        counts.extend((from..=to).step_by(by).take(MAX_COUNTS + 1));
    }
    counts.sort_unstable();
    counts.dedup();
    if counts.len() > MAX_COUNTS {
        return Err(format!("more than {MAX_COUNTS} slot counts"));
    }
    Ok(Slots(counts))
}

pub(super) fn contenders(text: &str) -> Result<Contenders, String> {
    if text.eq_ignore_ascii_case("all") {
        return Ok(Contenders(Contender::ALL.to_vec()));
    }
    let names = text.split(',').map(|t| t.trim().parse::<Contender>());
    names.collect::<Result<_, _>>().map(Contenders).map_err(|e| format!("{e}, belady, chance, all"))
}
