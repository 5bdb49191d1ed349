//! `rotary simulate --diff A B`: where two policies, slot counts or recorded sessions differ: in total, by layer, by expert.

mod outcome;
mod side;
mod table;

pub use outcome::{LayerFigures, Outcome};

use super::simulate::{name, trunk_of, Format, SimulateArgs};
use crate::cli::Failure;
use crate::experts::policy::Overlay;
use crate::trace::profile::Profile;
use crate::trace::routes::Routes;
use crate::trace::said::of_different_text;
use crate::trace::simulate::{Contender, Prepared};
use outcome::{slots_of, work_out};
use serde::Serialize;
use side::Side;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use table::{csv, text};

/// What is the same for both sides.
struct Common<'a> {
    /// Slots of a side that does not say.
    slots: Option<usize>,
    /// Policy of a side that does not say; `None` is the one of the recording, if it names one.
    policy: Option<Contender>,
    admission: Overlay,
    profile: Option<&'a Profile>,
    trunk: Option<u64>,
}

/// One layer of both.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LayerPair {
    /// The layer's number in the model.
    pub layer: usize,
    /// Of A.
    pub a: LayerFigures,
    /// Of B.
    pub b: LayerFigures,
}

/// One expert of both. Counts are per 1000 generated tokens, so that sessions of different length can be compared.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExpertPair {
    /// The layer's number in the model.
    pub layer: usize,
    /// Expert id.
    pub expert: usize,
    /// Uses in A and B.
    pub uses: [f64; 2],
    /// Misses in A and B.
    pub misses: [f64; 2],
}

impl ExpertPair {
    fn more(&self) -> f64 {
        self.misses[1] - self.misses[0]
    }
}

/// Two sides and where they differ.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The trace that both used, or both of them.
    pub file: String,
    /// The machine of the estimates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Weights that every token reads, and how they are known; for side A.
    pub trunk_bytes: u64,
    /// See `trunk_bytes`.
    pub trunk: &'static str,
    /// The first.
    pub a: Outcome,
    /// The second.
    pub b: Outcome,
    /// The two are of different text, so that not all of their difference is one of slots and policies.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub other_text: bool,
    /// Every layer.
    pub layers: Vec<LayerPair>,
    /// Every expert that was used, most different first.
    pub experts: Vec<ExpertPair>,
}

/// A trace of one side.
struct Source<'a> {
    file: &'a str,
    routes: &'a Routes,
    prepared: &'a Prepared,
}

fn compare(sides: [&Side; 2], sources: [&Source<'_>; 2], common: &Common<'_>) -> Result<Difference, Failure> {
    let shape = |s: &Source<'_>| (s.routes.head.layers, s.routes.head.experts);
    let [a, b] = sources;
    if shape(a) != shape(b) {
        let (x, y) = (shape(a), shape(b));
        return Err(Failure::usage(format!(
            "{} has {} layers x {} experts, {} has {} x {}: only sessions of the same shape can be compared",
            a.file, x.0, x.1, b.file, y.0, y.1
        )));
    }
    let file = if a.file == b.file { a.file.to_owned() } else { format!("{} and {}", a.file, b.file) };
    let (trunk_bytes, trunk) = trunk_of(&a.routes.head, common.trunk);
    let blocks = &a.routes.head.blocks;
    let slots = slots_of(sides, sources, common);
    let [a, b] = [work_out(sides[0], slots[0], a, common)?, work_out(sides[1], slots[1], b, common)?];
    let layers = a.layers.iter().zip(&b.layers).enumerate().map(|(i, (&a, &b))| LayerPair { layer: blocks.of(i), a, b }).collect();
    let mut experts: Vec<ExpertPair> = (0..a.by.routed.len())
        .filter(|&i| a.by.routed[i] + b.by.routed[i] > 0)
        .map(|i| {
            let per_1000 = |o: &Outcome, n: f64| n * 1000.0 / o.tokens.max(1) as f64;
            let uses = |o: &Outcome| per_1000(o, o.by.routed[i] as f64);
            let misses = |o: &Outcome| per_1000(o, o.by.routed[i] as f64 - o.by.hits[i]);
            let (layer, expert) = (blocks.of(i / a.experts), i % a.experts);
            ExpertPair { layer, expert, uses: [uses(&a), uses(&b)], misses: [misses(&a), misses(&b)] }
        })
        .collect();
    experts.sort_by(|x, y| y.more().abs().total_cmp(&x.more().abs()).then((x.layer, x.expert).cmp(&(y.layer, y.expert))));
    let profile = common.profile.map(|p| p.name.clone());
    Ok(Difference { file, profile, trunk_bytes, trunk, a, b, other_text: false, layers, experts })
}

/// Work out and print.
pub(super) fn run(args: &SimulateArgs, sides: &[String], profile: Option<&Profile>) -> color_eyre::Result<ExitCode> {
    let [a, b] = sides else { return Err(Failure::usage("--diff takes two sides").into()) };
    let sides = [Side::parse(a)?, Side::parse(b)?];
    let only = |list: Option<&[usize]>| list.and_then(|l| <[usize; 1]>::try_from(l).ok()).map(|[n]| n);
    let common = Common {
        slots: only(args.slots.as_ref().map(|s| s.0.as_slice())),
        policy: match args.policy.0[..] {
            [one] => Some(one),
            _ => None,
        },
        admission: args.admission(),
        profile,
        trunk: args.trunk,
    };
    let read = |path: &Path| -> Result<(String, Routes, Prepared), Failure> {
        let routes = args.routes(path)?;
        let prepared = Prepared::new(&routes);
        Ok((name(path), routes, prepared))
    };
    let mut own = Vec::with_capacity(2);
    for side in &sides {
        own.push(if let Side::File(path) = side { Some(read(path)?) } else { None });
    }
    let needs_file = own.iter().any(Option::is_none);
    if needs_file && args.files.is_empty() {
        return Err(Failure::usage("give the trace on which the two sides are to be compared: rotary simulate FILE --diff A B").into());
    }
    let mut found = Vec::new();
    let files: Vec<Option<&PathBuf>> = if needs_file { args.files.iter().map(Some).collect() } else { vec![None] };
    for path in files {
        let shared = path.map(|p| read(p)).transpose()?;
        let pick = |i: usize| own[i].as_ref().or(shared.as_ref()).map(|(file, routes, prepared)| Source { file, routes, prepared });
        let (Some(a), Some(b)) = (pick(0), pick(1)) else { continue };
        let mut difference = compare([&sides[0], &sides[1]], [&a, &b], &common)?;
        let file = |i: usize| if let Side::File(path) = &sides[i] { Some(path) } else { path };
        if let (Some(x), Some(y)) = (file(0), file(1)) {
            difference.other_text = x != y && of_different_text([x, y], [a.routes, b.routes]);
        }
        found.push(difference);
    }
    let unicode = args.canvas().unicode;
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.format {
        Format::Text => found.iter().try_for_each(|d| text(&mut out, d, unicode))?,
        Format::Csv => csv(&mut out, &found)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &found)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Phase;
    use crate::experts::policy::{Admission, Policy};
    use crate::trace::profile::included;
    use crate::trace::session::Session;

    fn routes(name: &str) -> Routes {
        let bytes: &[u8] = match name {
            "qwen3" => include_bytes!("../../tests/traces/qwen3-30b-a3b.rotary"),
            _ => include_bytes!("../../tests/traces/gpt-oss-120b.rotary"),
        };
        Session::from_bytes(bytes.to_vec()).unwrap().routes().unwrap()
    }

    fn of(a: &str, b: &str, names: [&str; 2], profile: Option<&Profile>) -> Result<Difference, Failure> {
        let sides = [Side::parse(a)?, Side::parse(b)?];
        let routes = names.map(routes);
        let prepared = routes.each_ref().map(Prepared::new);
        let source = |i: usize| Source { file: names[i], routes: &routes[i], prepared: &prepared[i] };
        let policy = Some(Contender::Online(Policy::Rotary));
        let common = Common { slots: Some(32), policy, admission: Overlay::default(), profile, trunk: Some(1_000_000_000) };
        compare([&sides[0], &sides[1]], [&source(0), &source(1)], &common)
    }

    #[test]
    fn a_side_is_a_policy_slots_both_what_was_recorded_or_a_file() {
        let lru = Some(Contender::Online(Policy::Lru));
        for (text, side) in [
            ("lru", Side::Simulated { policy: lru, slots: None }),
            ("slots=32", Side::Simulated { policy: None, slots: Some(32) }),
            ("32", Side::Simulated { policy: None, slots: Some(32) }),
            ("lru@32", Side::Simulated { policy: lru, slots: Some(32) }),
            ("policy=lru,slots=32", Side::Simulated { policy: lru, slots: Some(32) }),
            ("belady@8", Side::Simulated { policy: Some(Contender::Belady), slots: Some(8) }),
            ("recorded", Side::Recorded),
            (env!("CARGO_MANIFEST_DIR"), Side::File(env!("CARGO_MANIFEST_DIR").into())),
        ] {
            assert_eq!(Side::parse(text).unwrap(), side, "{text}");
        }
        for bad in ["", "clock", "lru@", "lru@0", "lru@many", "slots=-1", "slots=99999999999999999999", "nothing.rotary", "lru@32@x"] {
            let message = Side::parse(bad).unwrap_err().message;
            assert!(message.contains("lru@32") && message.contains("recorded"), "{bad}: {message}");
        }
    }

    #[test]
    fn a_side_without_slots_has_those_of_the_other_side_or_of_the_recording() {
        let (qwen, recorded) = (routes("qwen3"), {
            let mut routes = Routes::new(routes("gpt-oss").head);
            let step = crate::events::StepRecord { phase: Phase::Decode, slots: 12, ..Default::default() };
            routes.push_record(0, &step);
            routes
        });
        let slots = |routes: &Routes, a: &str, b: &str, all: Option<usize>| {
            let source = Source { file: "f", routes, prepared: &Prepared::new(routes) };
            let common = Common { slots: all, policy: None, admission: Overlay::default(), profile: None, trunk: None };
            let sides = [a, b].map(|side| Side::parse(side).unwrap());
            slots_of([&sides[0], &sides[1]], [&source, &source], &common)
        };
        assert_eq!(slots(&recorded, "recorded", "lru", None), [12, 12]);
        assert_eq!(slots(&recorded, "lru", "lfu", None), [12, 12], "as it was recorded");
        assert_eq!(slots(&recorded, "lru@20", "lfu", None), [20, 20]);
        assert_eq!(slots(&recorded, "recorded", "lru@20", Some(7)), [12, 20]);
        assert_eq!(slots(&recorded, "recorded", "lru", Some(7)), [12, 7], "it was asked for");
        assert_eq!(slots(&qwen, "lru", "lfu", None), [32, 32], "nothing is known");
    }

    #[test]
    fn totals_layers_and_experts_tell_the_same_story() {
        let d = of("rotary@16", "lru@24", ["qwen3", "qwen3"], None).unwrap();
        assert!(
            (d.a.hit_rate * 100.0 - 74.74).abs() < 0.05 && (d.b.hit_rate * 100.0 - 72.95).abs() < 0.01,
            "{} {}",
            d.a.hit_rate,
            d.b.hit_rate
        );
        // By layer, weighted by uses, it is the total; by expert, misses add up to it.
        let prepared = Prepared::new(&routes("qwen3"));
        let tally = prepared.online(Policy::Lru, Admission::ALWAYS, 24);
        for (l, t) in d.layers.iter().zip(&tally.layers) {
            assert!((l.b.hit_rate - t.hit_rate()).abs() < 1e-12);
        }
        let misses: f64 = d.experts.iter().map(|e| e.misses[1]).sum::<f64>() * d.b.tokens as f64 / 1000.0;
        assert!((misses - (tally.routed as f64 - tally.hits)).abs() < 1e-6, "{misses}");
        assert!(d.experts.windows(2).all(|w| w[0].more().abs() >= w[1].more().abs()));
        let copied: f64 = d.layers.iter().map(|l| l.b.copied_per_token).sum();
        assert!((copied / d.b.copied_per_token - 1.0).abs() < 0.02, "{copied}");
    }

    #[test]
    fn every_contender_counts_each_expert_as_its_total_does() {
        let routes = routes("gpt-oss");
        let prepared = Prepared::new(&routes);
        for contender in Contender::ALL.into_iter().chain([Contender::Recorded]) {
            let (tally, by) = prepared.by_expert(contender, 16, Overlay::default());
            assert_eq!(by.routed.iter().sum::<u64>(), tally.routed, "{contender}");
            assert!((by.hits.iter().sum::<f64>() - tally.hits).abs() < 1e-6, "{contender}");
            assert_eq!(tally.layers.iter().map(|l| l.routed).sum::<u64>(), tally.routed, "{contender}");
        }
    }

    #[test]
    fn the_same_side_twice_differs_nowhere() {
        let d = of("rotary", "rotary@32", ["gpt-oss", "gpt-oss"], None).unwrap();
        assert!(d.experts.iter().all(|e| e.more() == 0.0) && d.layers.iter().all(|l| l.a == l.b));
        let mut out = Vec::new();
        text(&mut out, &d, true).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("no expert is missed more in one than in the other"));
    }

    #[test]
    fn a_difference_for_people() {
        let profile = included("rtx-4060-laptop").unwrap();
        let mut out = Vec::new();
        text(&mut out, &of("lru@16", "belady@16", ["gpt-oss", "gpt-oss"], Some(&profile)).unwrap(), true).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn layers_have_the_numbers_of_the_model() {
        let compared = |behind: usize| {
            let mut routes = routes("gpt-oss");
            let mut card = crate::trace::player::card_of(&routes.head, 0);
            card.plan.slot_bytes.iter_mut().for_each(|slot| slot.layer += behind);
            routes.head.blocks = card.blocks();
            let source = Source { file: "f", routes: &routes, prepared: &Prepared::new(&routes) };
            let common = Common { slots: Some(8), policy: None, admission: Overlay::default(), profile: None, trunk: None };
            let sides = ["lru", "lfu"].map(|side| Side::parse(side).unwrap());
            compare([&sides[0], &sides[1]], [&source, &source], &common).unwrap()
        };
        let (plain, behind) = (compared(0), compared(3));
        assert_eq!(behind.layers.iter().map(|l| l.layer).collect::<Vec<_>>(), (3..39).collect::<Vec<_>>());
        assert!(plain.experts.iter().zip(&behind.experts).all(|(a, b)| (a.layer + 3, a.expert) == (b.layer, b.expert)));
    }

    #[test]
    fn csv_has_as_many_columns_in_every_row() {
        let profile = included("rtx-4060-laptop").unwrap();
        let mut out = Vec::new();
        csv(&mut out, &[of("lru@16", "recorded", ["gpt-oss", "gpt-oss"], Some(&profile)).unwrap()]).unwrap();
        let text = String::from_utf8(out).unwrap();
        // The labels hold commas of their own, in quotes.
        let columns = |l: &str| l.replace("\"lru, 16 slots\"", "A").split(',').count();
        let head = columns(text.lines().next().unwrap());
        assert!(text.lines().all(|l| columns(l) == head), "{text}");
        for scope in ["total", "layer", "expert"] {
            assert!(text.contains(&format!(",{scope},")), "{scope}");
        }
    }

    #[test]
    fn sessions_of_different_shape_and_too_many_slots_are_refused() {
        let message = of("recorded", "recorded", ["qwen3", "gpt-oss"], None).unwrap_err().message;
        assert!(message.contains("48 layers x 128") && message.contains("36 x 128"), "{message}");
        let message = of("lru@129", "lru", ["qwen3", "qwen3"], None).unwrap_err().message;
        assert!(message.contains("129 slots"), "{message}");
    }
}
