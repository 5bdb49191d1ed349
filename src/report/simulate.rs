//! `rotary simulate`: what other policies and slot counts would have done with recorded routing, and how fast a described
//! machine would be with it; as text with curves, CSV or JSON.

use super::curves::{self, Canvas, Curve};
use super::diff;
use crate::cli::Failure;
use crate::config::{parse_bytes, Folders};
use crate::experts::policy::{Overlay, Policy};
use crate::experts::schedule::comes_in_time;
use crate::trace::open::open_routes;
use crate::trace::profile::{self, Misses, Profile};
use crate::trace::roofline::{estimate, Demand, Estimate};
use crate::trace::routes::{Routes, RoutesHead, Trunk};
use crate::trace::scheduling::under;
use crate::trace::simulate::spread::SpreadTally;
use crate::trace::simulate::{Contender, Prepared, Tally};
use crate::ui::palette::{ColorDepth, DepthSources};
use crate::ui::theme::glyphs::environment_is_utf8;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Most slot counts in one table.
const MAX_COUNTS: usize = 1024;

/// Arguments of `rotary simulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rotary simulate talk.rotary --slots 8..128 --policy all --profile rtx-4060-laptop
  rotary simulate a.csv b.csv --slots 16,32,64 --format csv
  rotary simulate talk.rotary --diff rotary@32 lru@48
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
    /// Replace a resident only by a newcomer with more than its worth times this (policies rotary and decay)
    #[arg(long, value_name = "X")]
    pub margin: Option<f64>,
    /// Replace at most this many residents per layer and token
    #[arg(long, value_name = "N")]
    pub cap: Option<usize>,
    /// Bring at most this many experts per look at a coming layer before a token asks for them (policy rotary); 0 is none [default: 1]
    #[arg(long, value_name = "N")]
    pub ahead: Option<usize>,
    /// Estimate tokens/s on this machine: the name of a profile, or a .toml file
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// What the machine does with misses, instead of what its profile says
    #[arg(long, value_enum, value_name = "HOW", requires = "profile")]
    pub misses: Option<Misses>,
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
    pub(super) fn admission(&self) -> Overlay {
        Overlay { margin: self.margin, per_tick: self.cap, ahead: self.ahead }
    }

    /// The profile that was asked for, with what else was.
    pub(super) fn machine(&self) -> Result<Option<Profile>, Failure> {
        let Some(name) = &self.profile else { return Ok(None) };
        let mut profile = profile::find(name, &Folders::find().profiles()).map_err(|e| Failure::usage(e.to_string()))?;
        profile.misses = self.misses.unwrap_or(profile.misses);
        Ok(Some(profile))
    }

    /// What standard output can show.
    pub(super) fn canvas(&self) -> Canvas {
        let terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let unicode = !self.ascii && !no_color && environment_is_utf8();
        let color = terminal && unicode && DepthSources::from_env(None, None).depth() > ColorDepth::Mono;
        Canvas::new(terminal.then(|| crossterm::terminal::size().ok()).flatten(), unicode, color)
    }
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
fn slot_list(text: &str) -> Result<Slots, String> {
    let number = |t: &str| t.trim().parse::<usize>().map_err(|_| format!("{t:?} is not a slot count; write 16,24,32 or 8..128:8"));
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

fn contenders(text: &str) -> Result<Contenders, String> {
    if text == "all" {
        return Ok(Contenders(Contender::ALL.to_vec()));
    }
    let names = text.split(',').map(|t| t.trim().parse::<Contender>());
    names.collect::<Result<_, _>>().map(Contenders).map_err(|e| format!("{e}, belady, chance, all"))
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What the contender did.
    #[serde(flatten)]
    pub tally: Tally,
    /// What that would take on the profile's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<RowEstimate>,
}

/// An estimate, and whether the machine has room for so many slots.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowEstimate {
    /// Tokens per second: an estimate.
    pub tokens_per_second: f64,
    /// Trunk and slots fit into the fast memory that the profile names; true if it names none.
    pub fits: bool,
    /// Where the time goes.
    #[serde(flatten)]
    pub time: Estimate,
}

/// What was found for one file.
#[derive(Clone, Debug, Serialize)]
pub struct Simulation {
    /// The file's name.
    pub file: String,
    /// The model.
    pub model: String,
    /// Layers with routed experts.
    pub layers: usize,
    /// Experts per layer.
    pub experts: usize,
    /// How experts got slots when it was recorded, in words, if the trace says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<String>,
    /// Experts that a token uses in a layer.
    pub top_k: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// One slot in every layer, bytes; 0 if unknown.
    pub slot_bytes: u64,
    /// Weights that every token reads, bytes; 0 if unknown.
    pub trunk_bytes: u64,
    /// Where that is from.
    pub trunk: &'static str,
    /// The machine of the estimates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Policy after policy, each over all slot counts.
    pub table: Vec<Row>,
    /// Slots by layer against equal slots, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<SpreadTally>,
}

/// What is to be simulated.
#[derive(Clone, Debug, Default)]
pub struct Wish<'a> {
    /// Slot counts; `None` is an eighth to a half of the experts. Those beyond the experts are left out.
    pub slots: Option<&'a [usize]>,
    /// Who is compared.
    pub contenders: &'a [Contender],
    /// Instead of the policies' own.
    pub admission: Overlay,
    /// Estimate tokens per second for this machine.
    pub profile: Option<&'a Profile>,
    /// Weights that every token reads, instead of what the trace says.
    pub trunk: Option<u64>,
}

/// Bytes that every token reads, and in words how they are known.
pub(super) fn trunk_of(head: &RoutesHead, given: Option<u64>) -> (u64, &'static str) {
    match (given, head.trunk()) {
        (Some(bytes), _) => (bytes, "as given"),
        (None, Trunk::Plan(bytes)) => (bytes, "from the model's memory plan"),
        (None, Trunk::Layers(bytes)) => (bytes, "the layers' dense parts; head and embeddings are not in the trace"),
        (None, Trunk::Unknown) => (0, "not in the trace: counted as nothing, so the estimates are too high; give --trunk"),
    }
}

/// A machine that copies in turn, like a CPU, brings nothing ahead, nor does one whose link is too slow for the experts, unless it is told to.
pub(super) fn on_machine(wish: Overlay, machine: Option<&Profile>, expert_bytes: &[u64]) -> Overlay {
    let largest = expert_bytes.iter().copied().max().unwrap_or(0);
    let without = machine.is_some_and(|m| m.misses == Misses::InTurn || !comes_in_time(largest, m.bandwidth.pcie * 1e9));
    Overlay { ahead: wish.ahead.or(without.then_some(0)), ..wish }
}

/// Run the comparison for one trace.
#[must_use]
pub fn simulate(file: &str, routes: &Routes, wish: &Wish<'_>) -> Simulation {
    let head = &routes.head;
    let mut counts: Vec<usize> = match wish.slots {
        Some(slots) => slots.iter().copied().filter(|&s| s <= head.experts).collect(),
        None => [2, 3, 4, 6, 8].iter().map(|n| (head.experts * n / 16).max(1)).collect(),
    };
    counts.dedup();
    let (trunk_bytes, trunk) = trunk_of(head, wish.trunk);
    let slot_bytes = (0..head.layers).map(|l| routes.expert_bytes(l)).fold(0, u64::saturating_add);
    let prepared = Prepared::new(routes);
    // Without sizes there is nothing to read.
    let profile = wish.profile.filter(|_| slot_bytes > 0);
    let admission = on_machine(wish.admission, profile, prepared.expert_bytes());
    let rows = prepared.table(wish.contenders, &counts, admission).into_iter().map(|tally| {
        let estimate = profile.map(|profile| {
            let time = estimate(profile, &Demand::of(&tally, prepared.expert_bytes(), trunk_bytes));
            let fits = profile.fits(trunk_bytes, slot_bytes.saturating_mul(tally.slots as u64));
            RowEstimate { tokens_per_second: time.tokens_per_second(), fits, time }
        });
        Row { tally, estimate }
    });
    Simulation {
        file: file.to_owned(),
        model: head.model.clone(),
        layers: head.layers,
        experts: head.experts,
        recorded: head.scheduling.as_ref().map(under),
        top_k: head.top_k,
        tokens: generated(routes),
        slot_bytes,
        trunk_bytes,
        trunk,
        profile: profile.cloned(),
        table: rows.collect(),
        spread: Vec::new(),
    }
}

/// Tokens generated in a trace.
pub(super) fn generated(routes: &Routes) -> usize {
    routes.steps().iter().filter(|s| s.phase == crate::events::Phase::Decode).map(|s| s.tokens as usize).sum()
}

/// `rotary simulate`.
///
/// # Errors
/// If a file is no trace, a profile no profile, or standard output is gone.
pub fn run(args: &SimulateArgs) -> color_eyre::Result<ExitCode> {
    let machine = args.machine()?;
    if let Some(sides) = &args.diff {
        return diff::run(args, sides, machine.as_ref());
    }
    let wish = Wish {
        slots: args.slots.as_ref().map(|s| s.0.as_slice()),
        contenders: &args.policy.0,
        admission: args.admission(),
        profile: machine.as_ref(),
        trunk: args.trunk,
    };
    let mut found = Vec::new();
    for path in &args.files {
        let routes = open_routes(path).map_err(|e| Failure::usage(e.to_string()))?;
        let mut simulation = simulate(&name(path), &routes, &wish);
        if simulation.table.is_empty() {
            let experts = simulation.experts;
            return Err(Failure::usage(format!("{}: a layer has {experts} experts; give --slots up to that", name(path))).into());
        }
        if args.spread {
            let mut counts: Vec<usize> = simulation.table.iter().map(|t| t.tally.slots).collect();
            counts.sort_unstable();
            counts.dedup();
            let policy = Policy::default();
            let admission = wish.admission.over(policy);
            simulation.spread = Prepared::new(&routes).spread(policy, admission, &counts);
        }
        found.push(simulation);
    }
    let canvas = (!args.no_curves).then(|| args.canvas());
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Text => found.iter().try_for_each(|s| text(&mut out, s, canvas))?,
        Format::Csv => csv(&mut out, &found)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &found)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    name.chars().filter(|c| !c.is_control()).collect()
}

/// The table for people: a row per slot count; then curves if there is a canvas for them.
///
/// # Errors
/// If `out` can't be written.
pub fn text(out: &mut impl Write, s: &Simulation, canvas: Option<Canvas>) -> io::Result<()> {
    writeln!(
        out,
        "{}: {}, {} layers x {} experts, {} per token, {} tokens generated",
        s.file, s.model, s.layers, s.experts, s.top_k, s.tokens
    )?;
    if let Some(recorded) = &s.recorded {
        writeln!(out, "{recorded}")?;
    }
    let mut policies: Vec<Contender> = Vec::new();
    s.table.iter().for_each(|t| {
        if !policies.contains(&t.tally.policy) {
            policies.push(t.tally.policy)
        }
    });
    let mut slots: Vec<usize> = s.table.iter().map(|t| t.tally.slots).collect();
    slots.sort_unstable();
    slots.dedup();
    let row = |n: usize, p: Contender| s.table.iter().find(|t| t.tally.slots == n && t.tally.policy == p);
    let moving: Vec<Contender> = policies.iter().copied().filter(|p| *p != Contender::Chance && s.slot_bytes > 0).collect();
    write!(out, "\n{:>5}", "")?;
    if s.slot_bytes > 0 {
        write!(out, "{:>10}", "")?;
    }
    write!(out, "  {:<width$}", "hit rate, %", width = policies.len() * 8)?;
    if !moving.is_empty() {
        write!(out, "  copied into slots, MiB per token")?;
    }
    write!(out, "\n{:>5}", "slots")?;
    if s.slot_bytes > 0 {
        write!(out, "{:>10}", "GiB")?;
    }
    write!(out, "  ")?;
    policies.iter().try_for_each(|p| write!(out, "{:>8}", p.name()))?;
    write!(out, "  ")?;
    moving.iter().try_for_each(|p| write!(out, "{:>9}", p.name()))?;
    writeln!(out)?;
    for &n in &slots {
        write!(out, "{n:>5}")?;
        if s.slot_bytes > 0 {
            write!(out, "{:>10.2}", s.slot_bytes as f64 * n as f64 / f64::from(1u32 << 30))?;
        }
        write!(out, "  ")?;
        for &p in &policies {
            write!(out, "{:>8.2}", row(n, p).map_or(0.0, |t| t.tally.hit_rate() * 100.0))?;
        }
        write!(out, "  ")?;
        for &p in &moving {
            let bytes = row(n, p).map_or(0, |t| t.tally.moved_bytes) as f64 / s.tokens.max(1) as f64;
            write!(out, "{:>9.2}", bytes / f64::from(1u32 << 20))?;
        }
        writeln!(out)?;
    }
    if !s.spread.is_empty() {
        writeln!(out, "\nslots by layer, rotary, hit rate of the second half in %: learned on the first half; in hindsight")?;
        writeln!(out, "slots   equal  by layer  gain  hindsight  fewest..most")?;
        for t in &s.spread {
            let percent = |r: f64| r * 100.0;
            let (equal, spread, hindsight) = (percent(t.equal), percent(t.spread), percent(t.hindsight));
            writeln!(
                out,
                "{:>5}  {equal:>6.2}  {spread:>8.2}  {:>+4.1}  {hindsight:>9.2}  {}..{}",
                t.slots,
                spread - equal,
                t.range.0,
                t.range.1
            )?;
        }
    }
    writeln!(out)?;
    let speed = |n: usize, p: Contender| row(n, p).and_then(|t| t.estimate.as_ref());
    if let Some(profile) = &s.profile {
        writeln!(out, "tokens/s, estimated for {}; misses: {}", profile.name, profile.misses.name())?;
        writeln!(out, "trunk {} per token ({})", super::size(s.trunk_bytes), s.trunk)?;
        write!(out, "\n{:>5}", "slots")?;
        policies.iter().try_for_each(|p| write!(out, "{:>9}", p.name()))?;
        writeln!(out)?;
        for &n in &slots {
            write!(out, "{n:>5}")?;
            for &p in &policies {
                match speed(n, p) {
                    Some(e) => write!(out, "{:>8.1}{}", e.tokens_per_second, if e.fits { ' ' } else { '!' })?,
                    None => write!(out, "{:>8} ", "-")?,
                }
            }
            writeln!(out)?;
        }
        if s.table.iter().any(|t| t.estimate.as_ref().is_some_and(|e| !e.fits)) {
            writeln!(out, "!  more than fits beside the trunk into {:.2} GB of fast memory", profile.capacity.unwrap_or(0) as f64 / 1e9)?;
        }
        writeln!(out)?;
    }
    let Some(canvas) = canvas else { return Ok(()) };
    let curve = |p: &Contender, y: &dyn Fn(usize, Contender) -> f64| Curve {
        name: p.name().to_owned(),
        ys: slots.iter().map(|&n| y(n, *p)).collect(),
    };
    let hits = |n, p| row(n, p).map_or(f64::NAN, |t| t.tally.hit_rate() * 100.0);
    let all: Vec<Curve> = policies.iter().map(|p| curve(p, &hits)).collect();
    curves::draw(out, "hit rate, %", &slots, &all, canvas)?;
    let speeds = |n, p| speed(n, p).map_or(f64::NAN, |e| e.tokens_per_second);
    let all: Vec<Curve> = policies.iter().map(|p| curve(p, &speeds)).collect();
    match &s.profile {
        Some(profile) => curves::draw(out, &format!("tokens/s, estimated for {}", profile.name), &slots, &all, canvas),
        None => Ok(()),
    }
}

/// One row per file, policy and slot count.
///
/// # Errors
/// If `out` can't be written.
pub fn csv(out: &mut impl Write, found: &[Simulation]) -> io::Result<()> {
    let estimates = found.iter().any(|s| s.profile.is_some());
    write!(out, "file,policy,slots,slot_bytes,routed,hits,hit_rate,moved,moved_bytes,missed_bytes")?;
    writeln!(out, "{}", if estimates { ",estimated_tokens_per_second,fits,trunk_bytes" } else { "" })?;
    for s in found {
        let file = quoted(&s.file);
        for Row { tally: t, estimate } in &s.table {
            let bytes = s.slot_bytes.saturating_mul(t.slots as u64);
            let rate = t.hit_rate();
            write!(
                out,
                "{file},{},{},{bytes},{},{},{rate:.6},{},{},{}",
                t.policy, t.slots, t.routed, t.hits, t.moved, t.moved_bytes, t.missed_bytes
            )?;
            match estimate {
                Some(e) => writeln!(out, ",{:.3},{},{}", e.tokens_per_second, u8::from(e.fits), s.trunk_bytes)?,
                None => writeln!(out, "{}", if estimates { ",,," } else { "" })?,
            }
        }
    }
    Ok(())
}

/// Quotes double within quotes (RFC 4180).
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::session::Session;

    fn real() -> Simulation {
        let bytes = include_bytes!("../../tests/traces/gpt-oss-120b.rotary").to_vec();
        let routes = Session::from_bytes(bytes).unwrap().routes().unwrap();
        let wish = Wish { slots: Some(&[16, 64, 1000]), contenders: &Contender::ALL, ..Wish::default() };
        simulate("gpt-oss-120b.rotary", &routes, &wish)
    }

    fn estimated(trunk: Option<u64>) -> Simulation {
        let bytes = include_bytes!("../../tests/traces/gpt-oss-120b.rotary").to_vec();
        let routes = Session::from_bytes(bytes).unwrap().routes().unwrap();
        let profile = profile::included("rtx-4060-laptop").unwrap();
        let slots = [8, 16, 32, 64];
        let wish = Wish { slots: Some(&slots), contenders: &Contender::ALL, profile: Some(&profile), trunk, ..Wish::default() };
        simulate("gpt-oss-120b.rotary", &routes, &wish)
    }

    #[test]
    fn estimates_name_the_machine_and_say_what_was_assumed() {
        let mut out = Vec::new();
        let canvas = Canvas::new(None, true, false);
        text(&mut out, &estimated(Some(2_000_000_000)), Some(canvas)).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
        let mut unknown = estimated(Some(0));
        (_, unknown.trunk) = trunk_of(&RoutesHead::default(), None);
        let mut out = Vec::new();
        text(&mut out, &unknown, None).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.contains("counted as nothing, so the estimates are too high; give --trunk"), "{said}");
        assert!(estimated(None).trunk.contains("head and embeddings are not in the trace"));
    }

    #[test]
    fn a_lighter_trunk_and_more_hits_are_faster() {
        let (heavy, light) = (estimated(Some(4_000_000_000)), estimated(Some(1_000_000_000)));
        let speed = |r: &Row| r.estimate.as_ref().unwrap().tokens_per_second;
        // Where the bus decides, the trunk does not.
        assert!(heavy.table.iter().zip(&light.table).all(|(h, l)| speed(h) <= speed(l)));
        let last = heavy.table.len() - 1;
        assert!(speed(&heavy.table[last]) < speed(&light.table[last]));
        for rows in light.table.chunk_by(|a, b| a.tally.policy == b.tally.policy) {
            assert!(rows.windows(2).all(|w| speed(&w[0]) <= speed(&w[1]) * 1.01), "{}", rows[0].tally.policy);
        }
        let mut out = Vec::new();
        csv(&mut out, &[light]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let columns = |l: &str| l.split(',').count();
        assert!(text.lines().all(|l| columns(l) == columns(text.lines().next().unwrap())), "{text}");
        assert!(text.lines().next().unwrap().ends_with("estimated_tokens_per_second,fits,trunk_bytes"));
    }

    #[test]
    fn slot_lists_are_numbers_and_ranges() {
        assert_eq!(slot_list("16,8").unwrap().0, [8, 16]);
        assert_eq!(slot_list("8..11").unwrap().0, [8, 9, 10, 11]);
        assert_eq!(slot_list("8..24:8,9").unwrap().0, [8, 9, 16, 24]);
        for bad in ["", "x", "9..8", "8..9:0", "0..99999999"] {
            assert!(slot_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_are_names_or_all() {
        assert_eq!(contenders("all").unwrap().0, Contender::ALL);
        assert_eq!(contenders("lru, belady").unwrap().0, [Contender::Online(crate::experts::policy::Policy::Lru), Contender::Belady]);
        assert!(contenders("clock").unwrap_err().contains("clock"));
    }

    #[test]
    fn the_table_for_people() {
        let mut out = Vec::new();
        text(&mut out, &real(), None).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn csv_has_a_row_per_policy_and_slot_count_and_json_the_same_numbers() {
        let found = [real()];
        let mut out = Vec::new();
        csv(&mut out, &found).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1 + 6 * 2);
        let lru = text.lines().find(|l| l.contains(",lru,16,")).unwrap();
        assert!(lru.contains(",4480,2946,0.657589,"), "{lru}");
        let json: serde_json::Value = serde_json::to_value(&found).unwrap();
        assert_eq!(json[0]["table"][4]["policy"], "lru");
        assert_eq!(json[0]["table"][4]["hits"], 2946.0);
    }
}
