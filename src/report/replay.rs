//! `rotary replay`: a recorded session or a CSV trace in the app, with no model; or its facts as text.

mod summary;

pub use summary::summary;

use super::simulate::name;
use crate::engine::EngineHandle;
use crate::experts::policy::Policy;
use crate::trace::open::{open as open_trace, play, Problem, Trace, TraceError};
use crate::trace::player::{compare, Fold, Options, Other, PlayerControl};
use crate::trace::scheduling::known;
use crate::trace::second::Simulation;
use crate::trace::session::{Entry, Session};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `rotary replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// A recorded session, or a route_trace v1 CSV
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Another trace of the same model, to be compared with: the heatmap shows the difference
    #[arg(value_name = "FILE2")]
    pub other: Option<PathBuf>,
    /// Compare with the same routing (or with that of FILE2) under another policy, slot count, or both:
    /// policy=lru, slots=24, policy=lru,slots=24
    #[arg(long, value_name = "SPEC", value_parser = spec)]
    pub diff: Option<Spec>,
    /// How fast, as a factor of the speed at which it happened
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,
    /// Begin in pause
    #[arg(long)]
    pub paused: bool,
    /// Simulate these slots per layer instead of showing what was recorded
    #[arg(long, value_name = "N", value_parser = slots)]
    pub slots: Option<usize>,
    /// Simulate this policy instead of showing what was recorded: rotary, decay, lru or lfu
    #[arg(long, value_name = "NAME")]
    pub policy: Option<Policy>,
    /// Tokens per second for traces without times
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = speed)]
    pub rate: f64,
    /// Print what is in the file instead of playing it
    #[arg(long)]
    pub summary: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|x| (1e-3..=1e6).contains(x)).ok_or_else(|| "write a number from 0.001 to 1000000".into())
}

fn slots(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a number of slots per layer from 1 up".into())
}

/// What the other side of a comparison is simulated with; what is not said is as on the first side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// Slots per layer.
    pub slots: Option<usize>,
    /// The policy.
    pub policy: Option<Policy>,
}

fn spec(text: &str) -> Result<Spec, String> {
    let mut spec = Spec::default();
    for part in text.split(',') {
        match part.trim().split_once('=') {
            Some(("slots", n)) => match n.parse() {
                Ok(n) if n > 0 => spec.slots = Some(n),
                _ => return Err(format!("slots: `{n}` is no count of slots; write a number from 1 up")),
            },
            Some(("policy", name)) => spec.policy = Some(name.parse().map_err(|e| format!("policy: {e}"))?),
            _ => return Err(format!("`{part}` says nothing; write policy=NAME, slots=N, or both with a comma")),
        }
    }
    Ok(spec)
}

/// Why a replay can't begin.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file is no trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// More slots than a layer has experts.
    #[error("{asked} slots per layer are asked for, but a layer of {file} has {experts} experts: write a number from 1 to {experts}")]
    Slots {
        /// The file.
        file: String,
        /// Slots per layer.
        asked: usize,
        /// Experts of a layer.
        experts: usize,
    },
    /// The two files don't belong together.
    #[error("{second} is of {theirs}, {first} of {ours}: only sessions of the same shape can be compared")]
    Shape {
        /// The first file.
        first: String,
        /// The second file.
        second: String,
        /// Its shape.
        theirs: String,
        /// The shape of the first.
        ours: String,
    },
}

/// Layers and experts of a trace; `None` if no model was open in it.
fn shape(trace: &mut Trace) -> Option<(usize, usize)> {
    match trace {
        Trace::Session(session) => session.card().map(|c| (c.layers, c.experts)),
        Trace::Routes(routes) => Some((routes.head.layers, routes.head.experts)),
    }
}

/// Slots with which a session is to be simulated that has no occupancy to show, as `rotary convert` makes them: those of its first step, or a
/// quarter of the experts if it does not know. `None`: it was recorded whole.
fn routing_alone(session: &mut Session) -> Option<usize> {
    let card = session.card().filter(|c| c.plan.slots_per_layer == 0 && c.layers > 0)?;
    let usual = (card.experts / 4).max(1);
    Some(known_slots(session).unwrap_or(usual))
}

/// Slots per layer in the first step of a session, if they are known.
fn known_slots(session: &mut Session) -> Option<usize> {
    let step = (0..session.len()).find_map(|i| match session.get(i)?.entry {
        Entry::Step(record) => Some(record.slots),
        _ => None,
    });
    step.map(usize::from).filter(|slots| *slots > 0)
}

/// Start the player; its handle goes to the app. `fold` is what the app makes of the session, before the first entry.
///
/// # Errors
/// If a file is no trace, or the two can't be compared.
pub fn open<F: Fold>(args: &ReplayArgs, fold: F) -> Result<(EngineHandle, PlayerControl<F>), ReplayError> {
    let mut trace = open_trace(&args.file)?;
    let most = shape(&mut trace).map_or(usize::MAX, |(_, experts)| experts);
    let asked = [args.slots, args.diff.and_then(|spec| spec.slots)].into_iter().flatten().max();
    if let Some(asked) = asked.filter(|asked| *asked > most) {
        return Err(ReplayError::Slots { file: name(&args.file), asked, experts: most });
    }
    // What is not said is as it was recorded, where the recording says so.
    let named = if let Trace::Session(session) = &mut trace { session.scheduling() } else { None };
    let recorded = named.and_then(|named| known(&named).ok()).map(|(policy, _)| policy);
    let policy = args.policy.or(recorded).unwrap_or_default();
    let simulate = match (&mut trace, args.slots) {
        (_, Some(slots)) => Some((slots, policy)),
        (Trace::Session(s), None) => match routing_alone(s) {
            Some(slots) => Some((slots, policy)),
            None if args.policy.is_some() => s.card().map(|c| (c.plan.slots_per_layer.max(1), policy)),
            None => None,
        },
        (Trace::Routes(r), None) => Some(((r.head.experts / 4).max(1), policy)),
    };
    let options = Options {
        speed: args.speed,
        paused: args.paused,
        step_interval: Duration::from_secs_f64(1.0 / args.rate),
        simulate,
        ..Options::default()
    };
    let simulation = args.diff.map(|spec| Simulation { slots: spec.slots, policy: spec.policy.unwrap_or(policy) });
    let other = match (&args.other, simulation) {
        (None, None) => return Ok(play(trace, options, fold)),
        (None, Some(simulation)) => Other::Itself(simulation),
        (Some(path), simulation) => {
            let mut second = open_trace(path)?;
            let no_routing = |path: &Path| TraceError { path: path.to_owned(), problem: Problem::NoRouting };
            let ours = shape(&mut trace).ok_or_else(|| no_routing(&args.file))?;
            let theirs = shape(&mut second).ok_or_else(|| no_routing(path))?;
            if ours != theirs {
                let words = |(layers, experts): (usize, usize)| format!("a model with {layers} x {experts} experts");
                let (first, second) = (name(&args.file), name(path));
                return Err(ReplayError::Shape { first, second, theirs: words(theirs), ours: words(ours) });
            }
            // Routing without occupancy has no hits of its own.
            let alone = match &mut second {
                Trace::Routes(_) => true,
                Trace::Session(session) => routing_alone(session).is_some(),
            };
            let simulation = simulation.or(alone.then_some(Simulation { slots: args.slots, policy }));
            Other::Trace(Box::new(second), name(path), simulation)
        }
    };
    Ok(compare(trace, other, options, fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Failure;
    use crate::events::Event;
    use crate::trace::player::tests::{frame, Seen};

    fn args(file: &str) -> ReplayArgs {
        let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/")).join(file);
        ReplayArgs { file, other: None, diff: None, speed: 1e6, paused: false, slots: Some(16), policy: None, rate: 10.0, summary: true }
    }

    fn played(args: &ReplayArgs) -> std::sync::Arc<crate::trace::difference::Difference> {
        let (_handle, control) = open(args, Seen::default()).unwrap();
        frame(&control, |s| s.ended).difference.unwrap()
    }

    #[test]
    fn a_recording_is_compared_with_itself_under_another_policy_or_slot_count() {
        let file = "qwen3-30b-a3b.rotary";
        let more = played(&ReplayArgs { diff: Some(spec("slots=48").unwrap()), ..args(file) });
        let [a, b] = more.rates(0..48).whole.map(Option::unwrap);
        assert!(a + 0.05 < b, "48 slots hit more than 16: {a} {b}");
        assert_eq!(more.alike(), Some(1.0));
        let same = played(&ReplayArgs { other: Some(args(file).file), diff: Some(spec("slots=16").unwrap()), ..args(file) });
        assert_eq!(same.rates(0..48).whole[0], same.rates(0..48).whole[1], "a file beside itself is no difference");
        assert!((0..48).all(|l| (0..128).all(|e| same.cell(l, e).lean == 0.0)));
    }

    #[test]
    fn what_can_not_be_compared_is_refused_with_the_reason() {
        let other = Some(args("gpt-oss-120b.rotary").file);
        let refused = open(&ReplayArgs { other, ..args("qwen3-30b-a3b.rotary") }, Seen::default()).err().unwrap().to_string();
        assert!(refused.contains("36 x 128") && refused.contains("48 x 128"), "{refused}");
        assert_eq!(spec("policy=lru, slots=24"), Ok(Spec { slots: Some(24), policy: Some(Policy::Lru) }));
        for (slots, diff) in [(Some(129), None), (None, Some(spec("slots=129").unwrap()))] {
            let refused = open(&ReplayArgs { slots, diff, ..args("qwen3-30b-a3b.rotary") }, Seen::default()).err().unwrap().to_string();
            assert!(refused.contains("129 slots") && refused.contains("from 1 to 128"), "{refused}");
        }
        assert!(super::slots("0").is_err() && super::slots("x").is_err());
        for (wrong, word) in
            [("lru", "policy=NAME"), ("slots=0", "from 1 up"), ("policy=best", "best"), ("slots", "slots=N"), ("", "slots=N")]
        {
            assert!(spec(wrong).unwrap_err().contains(word), "{wrong}: {:?}", spec(wrong));
        }
    }

    #[test]
    fn the_summary_says_what_is_in_a_session() {
        let mut out = Vec::new();
        summary(&args("qwen3-30b-a3b.rotary"), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in ["experts     48 layers x 128, 6 per token", "steps       28 of prompts, 128 generated", "model       Qwen3-30B-A3B"] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("ending"), "{text}");
    }

    #[test]
    fn a_summary_is_of_both_files_and_a_file_that_is_none_is_wrong_input() {
        let two = ReplayArgs { other: Some(args("gpt-oss-120b.rotary").file), ..args("qwen3-30b-a3b.rotary") };
        let mut out = Vec::new();
        summary(&two, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("qwen3-30b-a3b.rotary\n") && text.contains("\n\ngpt-oss-120b.rotary\n"), "{text}");
        let wrong = ReplayArgs { other: Some("nothing.rotary".into()), ..two };
        let refused = summary(&wrong, &mut Vec::new()).unwrap_err();
        let failure = refused.downcast_ref::<Failure>().expect("a failure with an exit code");
        assert!(failure.code == crate::cli::exit::USAGE && failure.message.contains("nothing.rotary"), "{failure:?}");
    }

    #[test]
    fn routing_without_occupancy_is_simulated_and_its_unknown_slots_are_called_so() {
        let routes = crate::trace::open::open_routes(&args("gpt-oss-120b.rotary").file).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("converted.rotary");
        std::fs::write(&file, crate::trace::session::write_routes(Vec::new(), &routes).unwrap()).unwrap();
        let converted = ReplayArgs { file, slots: None, ..args("") };
        let mut out = Vec::new();
        summary(&converted, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("slots       unknown; it is played with 32 per layer, simulated"), "{text}");
        let (_handle, control) = open(&converted, Seen::default()).unwrap();
        let played = frame(&control, |s| s.ended).fold;
        assert!(matches!(&played.events[0], Event::Ready { card } if card.plan.slots_per_layer == 32));
        // As the second side it has hits of a simulation too.
        let beside = ReplayArgs { other: Some(converted.file.clone()), ..args("gpt-oss-120b.rotary") };
        let [a, b] = self::played(&beside).rates(0..36).whole.map(Option::unwrap);
        assert!(b > 0.3 && (a - b).abs() < 1e-6, "the same routing at the same 16 slots: {a} {b}");
        let last = &played.steps[148];
        assert!(last.slots == 32 && last.slot_of.len() == 36 * 128, "{} {}", last.slots, last.slot_of.len());
    }

    #[test]
    fn a_trace_plays_with_the_slots_asked_for() {
        let (_handle, control) = open(&args("gpt-oss-120b.rotary"), Seen::default()).unwrap();
        let played = frame(&control, |s| s.ended).fold;
        assert!(matches!(played.events[0], Event::Ready { .. }));
        assert_eq!((played.steps.len(), played.steps[148].layers(), played.steps[148].slots), (149, 36, 16));
    }

    #[test]
    fn what_is_no_trace_is_refused_by_name() {
        let message = open(&args("README.md"), Seen::default()).err().unwrap().to_string();
        assert!(message.contains("README.md: neither a recorded session"), "{message}");
    }
}
