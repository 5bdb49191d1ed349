//! `rotary simulate`: what other policies and slot counts would have done with recorded routing, as text, CSV or JSON.

use crate::experts::policy::Admission;
use crate::trace::open::open_routes;
use crate::trace::routes::Routes;
use crate::trace::simulate::{Contender, Prepared, Tally};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Most slot counts in one table.
const MAX_COUNTS: usize = 1024;

/// Arguments of `rotary simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Recorded sessions or route_trace v1 CSV files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Slots per layer: `16,24,32`, `8..128` or `8..128:8` [default: an eighth to a half of the experts]
    #[arg(long, value_name = "LIST", value_parser = slot_list)]
    pub slots: Option<Slots>,
    /// Policies to compare, by commas: rotary, lru, lfu, belady (knows the future), chance; or all
    #[arg(long, value_name = "NAMES", value_parser = contenders, default_value = "all")]
    pub policy: Contenders,
    /// Replace a resident only by a newcomer with more than its decayed use times this (policy rotary)
    #[arg(long, value_name = "X")]
    pub margin: Option<f64>,
    /// Replace at most this many residents per layer and token
    #[arg(long, value_name = "N")]
    pub cap: Option<usize>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
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
    /// Experts that a token uses in a layer.
    pub top_k: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// One slot in every layer, bytes; 0 if unknown.
    pub slot_bytes: u64,
    /// Policy after policy, each over all slot counts.
    pub table: Vec<Tally>,
}

/// Run the comparison for one trace. Slot counts beyond the experts are left out.
#[must_use]
pub fn simulate(
    file: &str,
    routes: &Routes,
    slots: Option<&[usize]>,
    contenders: &[Contender],
    admission: Option<Admission>,
) -> Simulation {
    let head = &routes.head;
    let mut counts: Vec<usize> = match slots {
        Some(slots) => slots.iter().copied().filter(|&s| s <= head.experts).collect(),
        None => [2, 3, 4, 6, 8].iter().map(|n| (head.experts * n / 16).max(1)).collect(),
    };
    counts.dedup();
    Simulation {
        file: file.to_owned(),
        model: head.model.clone(),
        layers: head.layers,
        experts: head.experts,
        top_k: head.top_k,
        tokens: routes.steps().iter().filter(|s| s.phase == crate::events::Phase::Decode).map(|s| s.tokens as usize).sum(),
        slot_bytes: (0..head.layers).map(|l| routes.expert_bytes(l)).fold(0, u64::saturating_add),
        table: Prepared::new(routes).table(contenders, &counts, admission),
    }
}

/// `rotary simulate`.
///
/// # Errors
/// If a file is no trace, or standard output is gone.
pub fn run(args: &SimulateArgs) -> color_eyre::Result<ExitCode> {
    let admission = (args.margin.is_some() || args.cap.is_some()).then(|| {
        let own = Admission::default();
        Admission { margin: args.margin.unwrap_or(own.margin), per_tick: args.cap.unwrap_or(own.per_tick), ..own }
    });
    let mut found = Vec::new();
    for path in &args.files {
        let routes = open_routes(path)?;
        let slots = args.slots.as_ref().map(|s| s.0.as_slice());
        found.push(simulate(&name(path), &routes, slots, &args.policy.0, admission));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Text => found.iter().try_for_each(|s| text(&mut out, s))?,
        Format::Csv => csv(&mut out, &found)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &found)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    name.chars().filter(|c| !c.is_control()).collect()
}

/// The table for people: a row per slot count.
///
/// # Errors
/// If `out` can't be written.
pub fn text(out: &mut impl Write, s: &Simulation) -> io::Result<()> {
    writeln!(
        out,
        "{}: {}, {} layers x {} experts, {} per token, {} tokens generated",
        s.file, s.model, s.layers, s.experts, s.top_k, s.tokens
    )?;
    let mut policies: Vec<Contender> = Vec::new();
    s.table.iter().for_each(|t| {
        if !policies.contains(&t.policy) {
            policies.push(t.policy)
        }
    });
    let mut slots: Vec<usize> = s.table.iter().map(|t| t.slots).collect();
    slots.sort_unstable();
    slots.dedup();
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
    for n in slots {
        let row = |p: &Contender| s.table.iter().find(|t| t.slots == n && t.policy == *p);
        write!(out, "{n:>5}")?;
        if s.slot_bytes > 0 {
            write!(out, "{:>10.2}", s.slot_bytes as f64 * n as f64 / f64::from(1u32 << 30))?;
        }
        write!(out, "  ")?;
        for p in &policies {
            write!(out, "{:>8.2}", row(p).map_or(0.0, |t| t.hit_rate() * 100.0))?;
        }
        write!(out, "  ")?;
        for p in &moving {
            let bytes = row(p).map_or(0, |t| t.moved_bytes) as f64 / s.tokens.max(1) as f64;
            write!(out, "{:>9.2}", bytes / f64::from(1u32 << 20))?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// One row per file, policy and slot count.
///
/// # Errors
/// If `out` can't be written.
pub fn csv(out: &mut impl Write, found: &[Simulation]) -> io::Result<()> {
    writeln!(out, "file,policy,slots,slot_bytes,routed,hits,hit_rate,moved,moved_bytes,missed_bytes")?;
    for s in found {
        // Quotes double within quotes (RFC 4180).
        let file = format!("\"{}\"", s.file.replace('"', "\"\""));
        for t in &s.table {
            let bytes = s.slot_bytes.saturating_mul(t.slots as u64);
            let rate = t.hit_rate();
            writeln!(
                out,
                "{file},{},{},{bytes},{},{},{rate:.6},{},{},{}",
                t.policy, t.slots, t.routed, t.hits, t.moved, t.moved_bytes, t.missed_bytes
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::session::Session;

    fn real() -> Simulation {
        let bytes = include_bytes!("../../tests/traces/gpt-oss-120b.rotary").to_vec();
        let routes = Session::from_bytes(bytes).unwrap().routes().unwrap();
        simulate("gpt-oss-120b.rotary", &routes, Some(&[16, 64, 1000]), &Contender::ALL, None)
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
        text(&mut out, &real()).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn csv_has_a_row_per_policy_and_slot_count_and_json_the_same_numbers() {
        let found = [real()];
        let mut out = Vec::new();
        csv(&mut out, &found).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1 + 5 * 2);
        let lru = text.lines().find(|l| l.contains(",lru,16,")).unwrap();
        assert!(lru.contains(",4480,2946,0.657589,"), "{lru}");
        let json: serde_json::Value = serde_json::to_value(&found).unwrap();
        assert_eq!(json[0]["table"][2]["policy"], "lru");
        assert_eq!(json[0]["table"][2]["hits"], 2946.0);
    }
}
