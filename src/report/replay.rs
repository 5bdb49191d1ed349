//! `rotary replay`: a recorded session or a CSV trace in the app, with no model; or its facts as text.

use crate::engine::EngineHandle;
use crate::events::{Event, Outcome, Phase};
use crate::experts::policy::Policy;
use crate::trace::open::{open as open_trace, play, Trace, TraceError};
use crate::trace::player::{Options, PlayerControl};
use crate::trace::session::{Ending, Entry, Session};
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `rotary replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// A recorded session, or a route_trace v1 CSV
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How fast, as a factor of the speed at which it happened
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,
    /// Begin in pause
    #[arg(long)]
    pub paused: bool,
    /// Simulate these slots per layer instead of showing what was recorded
    #[arg(long, value_name = "N")]
    pub slots: Option<usize>,
    /// Simulate this policy instead of showing what was recorded: rotary, lru or lfu
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

/// Start the player; its handle goes to the app.
///
/// # Errors
/// If the file is no trace.
pub fn open(args: &ReplayArgs) -> Result<(EngineHandle, PlayerControl), TraceError> {
    let mut trace = open_trace(&args.file)?;
    let policy = args.policy.unwrap_or_default();
    let simulate = match (&mut trace, args.slots) {
        (_, Some(slots)) => Some((slots, policy)),
        (Trace::Session(s), None) if args.policy.is_some() => s.card().map(|c| (c.plan.slots_per_layer.max(1), policy)),
        (Trace::Routes(r), None) => Some(((r.head.experts / 4).max(1), policy)),
        (Trace::Session(_), None) => None,
    };
    let options = Options {
        speed: args.speed,
        paused: args.paused,
        step_interval: Duration::from_secs_f64(1.0 / args.rate),
        simulate,
        ..Options::default()
    };
    Ok(play(trace, options))
}

/// What is in the file, in lines for people.
///
/// # Errors
/// If the file is no trace, or `out` can't be written.
pub fn summary(args: &ReplayArgs, out: &mut impl Write) -> color_eyre::Result<()> {
    match open_trace(&args.file)? {
        Trace::Session(mut session) => session_summary(&mut session, out)?,
        Trace::Routes(routes) => {
            let head = &routes.head;
            let generated = routes.steps().iter().filter(|s| s.phase == Phase::Decode).count();
            writeln!(out, "format      route_trace v1: routing without text")?;
            writeln!(out, "model       {} ({})", head.model, head.arch)?;
            writeln!(out, "experts     {} layers x {}, {} per token", head.layers, head.experts, head.top_k)?;
            writeln!(out, "steps       {} of the prompt, {generated} generated", routes.len() - generated)?;
            writeln!(out, "routed      {}", routes.routed())?;
        }
    }
    Ok(())
}

fn session_summary(session: &mut Session, out: &mut impl Write) -> io::Result<()> {
    let (mut prompts, mut generated, mut turns, mut questions) = (0u64, 0u64, 0u64, 0u64);
    let (mut hits, mut routed, mut last) = (0u64, 0u64, 0u64);
    for i in 0..session.len() {
        let Some(timed) = session.get(i) else { break };
        last = timed.at;
        match timed.entry {
            Entry::Question(_) => questions += 1,
            Entry::Event(Event::Finished { .. }) => turns += 1,
            Entry::Event(_) => {}
            Entry::Step(r) if r.phase == Phase::Prefill => prompts += 1,
            Entry::Step(r) => {
                generated += 1;
                hits += r.routed.iter().filter(|x| x.outcome == Outcome::Hit).count() as u64;
                routed += r.routed.len() as u64;
            }
        }
    }
    let plain = |s: &str| s.chars().filter(|c| !c.is_control()).collect::<String>();
    writeln!(out, "format      recorded session")?;
    if let Some(card) = session.card() {
        writeln!(out, "model       {} ({})", plain(&card.name), plain(&card.arch))?;
        writeln!(out, "experts     {} layers x {}, {} per token", card.layers, card.experts, card.top_k)?;
        writeln!(out, "slots       {} per layer when it was opened", card.plan.slots_per_layer)?;
    }
    writeln!(out, "length      {:.1} s", last as f64 / 1e6)?;
    writeln!(out, "turns       {turns} finished, {questions} asked")?;
    writeln!(out, "steps       {prompts} of prompts, {generated} generated")?;
    if routed > 0 {
        writeln!(out, "hit rate    {:.1} % of {routed} routed experts while generating", hits as f64 / routed as f64 * 100.0)?;
    }
    match session.ending() {
        Ending::Whole => Ok(()),
        Ending::Cut { at } => writeln!(out, "ending      cut at byte {at}: the recording was not finished"),
        Ending::Damaged { at } => writeln!(out, "ending      damaged at byte {at}: what follows is not shown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(file: &str) -> ReplayArgs {
        let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces/")).join(file);
        ReplayArgs { file, speed: 1e6, paused: false, slots: Some(16), policy: None, rate: 10.0, summary: true }
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
    fn a_trace_plays_with_the_slots_asked_for() {
        let (mut handle, _control) = open(&args("gpt-oss-120b.rotary")).unwrap();
        assert!(matches!(handle.events.blocking_recv(), Some(Event::Ready { .. })));
        let record = handle.telemetry.blocking_recv().unwrap();
        assert_eq!((record.layers(), record.slots), (36, 16));
    }

    #[test]
    fn what_is_no_trace_is_refused_by_name() {
        let message = open(&args("README.md")).err().unwrap().to_string();
        assert!(message.contains("README.md: neither a recorded session"), "{message}");
    }
}
