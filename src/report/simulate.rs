//! `rotary simulate`: what other policies and slot counts would have done with recorded routing, and how fast a described
//! machine would be with it; as text with curves, CSV or JSON.

mod args;
mod table;

pub use args::{Contenders, Foresee, Format, SimulateArgs, Slots};
pub(super) use table::quoted;
pub use table::{csv, text};

use super::diff;
use crate::cli::Failure;
use crate::experts::policy::{Overlay, Policy};
use crate::experts::schedule::comes_in_time;
use crate::trace::profile::{Misses, Profile};
use crate::trace::roofline::{estimate, Demand, Estimate};
use crate::trace::routes::{Routes, RoutesHead, Trunk};
use crate::trace::scheduling::{told, under, words};
use crate::trace::simulate::spread::SpreadTally;
use crate::trace::simulate::{Contender, Prepared, Tally};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

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
    /// How experts get slots under the policies that weigh newcomers, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub simulated: Vec<String>,
    /// Experts that a look at a coming layer brings ahead of their use under the policy rotary; no other policy brings any.
    pub ahead: usize,
    /// Experts that a token uses in a layer.
    pub top_k: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// Tokens for which routers were asked before their turn, if there are any and what they said is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreseen: Option<usize>,
    /// Tokens that a step reads, and of them those that the answer gains in the mean, where it is not one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_a_step: Option<(usize, f64)>,
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
    /// Tokens that a step reads, and of them those that the answer gains in the mean, where it is not one.
    pub of_a_step: Option<(usize, f64)>,
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

/// A described machine brings experts ahead, whatever the one did that recorded, unless it copies in turn, like a CPU, or its link is too slow for
/// the experts. What was asked for goes before that.
pub(super) fn on_machine(wish: Overlay, machine: Option<&Profile>, expert_bytes: &[u64]) -> Overlay {
    let largest = expert_bytes.iter().copied().max().unwrap_or(0);
    let brings = |m: &Profile| m.misses != Misses::InTurn && comes_in_time(largest, m.bandwidth.pcie * 1e9);
    let usual = Policy::Rotary.admission().ahead;
    Overlay { ahead: wish.ahead.or(machine.map(|m| if brings(m) { usual } else { 0 })), ..wish }
}

/// How a policy gives slots in a simulation, in words; nothing of the textbook policies, which admit always. `decided`: whether experts come
/// ahead was said, or follows from a machine.
fn simulated(prepared: &Prepared, contender: Contender, admission: Overlay, decided: bool) -> Option<String> {
    let Contender::Online(policy) = contender else { return None };
    let admission = prepared.admission(policy, admission);
    let hint = if policy == Policy::Rotary && admission.ahead == 0 && !decided {
        " (hint: with --ahead 1 it brings experts ahead of use, as on a GPU with a fast link)"
    } else {
        ""
    };
    policy.weighs().then(|| format!("{}{hint}", words(&told(policy, admission, 0))))
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
    // Steps that were recorded may have brought several tokens, too.
    let steps = routes.steps().iter().filter(|s| s.phase == crate::events::Phase::Decode).count();
    let recorded_gain = generated(routes) as f64 / steps.max(1) as f64;
    let decided = wish.admission.ahead.is_some() || profile.is_some();
    let rows = prepared.table(wish.contenders, &counts, admission).into_iter().map(|tally| {
        let estimate = profile.map(|profile| {
            let time = estimate(profile, &Demand::of(&tally, prepared.expert_bytes(), trunk_bytes));
            let fits = profile.fits(trunk_bytes, slot_bytes.saturating_mul(tally.slots as u64));
            let gained = wish.of_a_step.map_or(recorded_gain, |s| s.1);
            RowEstimate { tokens_per_second: time.tokens_per_second() * gained, fits, time }
        });
        Row { tally, estimate }
    });
    Simulation {
        file: file.to_owned(),
        model: head.model.clone(),
        layers: head.layers,
        experts: head.experts,
        recorded: head.scheduling.as_ref().map(under),
        simulated: wish.contenders.iter().filter_map(|c| simulated(&prepared, *c, admission, decided)).collect(),
        ahead: prepared.admission(Policy::Rotary, admission).ahead,
        top_k: head.top_k,
        tokens: generated(routes),
        foreseen: Some((0..routes.len()).filter(|&i| routes.foretold().has(i)).count()).filter(|n| *n > 0),
        of_a_step: wish.of_a_step,
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
    routes.steps().iter().filter(|s| s.phase == crate::events::Phase::Decode).map(|s| 1 + usize::from(s.kept)).sum()
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
        of_a_step: args.along.map(|_| args.of_a_step()),
    };
    let mut found = Vec::new();
    for path in &args.files {
        let routes = args.routes(path)?;
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
            let prepared = Prepared::new(&routes);
            simulation.spread = prepared.spread(policy, prepared.admission(policy, wish.admission), &counts);
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

/// A file's name, for a line.
pub(super) fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    crate::text::one_line(&name, 255)
}

#[cfg(test)]
mod tests {
    use super::args::{contenders, slot_list};
    use super::*;
    use crate::report::curves::Canvas;
    use crate::trace::profile;
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
        for bad in ["", "x", "0", "0..4", "9..8", "8..9:0", "0..99999999"] {
            assert!(slot_list(bad).is_err(), "{bad}");
        }
    }

    /// The toy's routing, recorded under rotary with nothing ahead, as on a CPU.
    fn recorded_on_a_cpu() -> Routes {
        let bytes = include_bytes!("../../tests/traces/gpt-oss-120b.rotary").to_vec();
        let mut routes = Session::from_bytes(bytes).unwrap().routes().unwrap();
        let admission = crate::experts::policy::Admission { ahead: 0, ..Policy::Rotary.admission() };
        routes.head.scheduling = Some(told(Policy::Rotary, admission, 16));
        routes
    }

    #[test]
    fn the_policy_of_the_recording_is_simulated_as_it_was_recorded_and_the_page_says_how() {
        let routes = recorded_on_a_cpu();
        let contenders = [Contender::Online(Policy::Rotary), Contender::Online(Policy::Lru)];
        let of = |admission: Overlay, profile: Option<&Profile>| {
            simulate(
                "x",
                &routes,
                &Wish { slots: Some(&[16]), contenders: &contenders, admission, profile, trunk: Some(1), of_a_step: None },
            )
        };
        let hits = |s: &Simulation| s.table[0].tally.hit_rate() * 100.0;
        let (own, ahead) = (of(Overlay::default(), None), of(Overlay { ahead: Some(1), ..Overlay::default() }, None));
        assert!((hits(&own) - 67.70).abs() < 0.01 && (hits(&ahead) - 71.38).abs() < 0.01, "{} {}", hits(&own), hits(&ahead));
        let recorded = own.recorded.clone().unwrap();
        assert!(own.simulated[0].starts_with(recorded.strip_prefix("recorded under ").unwrap()), "{recorded}: {:?}", own.simulated);
        assert!(own.simulated[0].contains("hint: with --ahead 1"), "{:?}", own.simulated);
        let printed = |s: &Simulation| {
            let mut out = Vec::new();
            text(&mut out, s, None).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(!printed(&own).contains("rotary+"), "{}", printed(&own));
        let page = printed(&ahead);
        assert!(page.contains("slots       GiB   rotary+1     lru") && page.contains("rotary+1 brings 1 expert per look"), "{page}");
        assert!(ahead.simulated[0].ends_with("1 per look ahead of use"), "{:?}", ahead.simulated);
        // A machine that would bring them does, whatever the recording's did.
        let mut fast = profile::included("rtx-4060-laptop").unwrap();
        (fast.misses, fast.bandwidth.pcie) = (Misses::Host, 1000.0);
        assert_eq!(hits(&of(Overlay::default(), Some(&fast))), hits(&ahead));
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
