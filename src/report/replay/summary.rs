//! `rotary replay --summary`: the facts of a trace, or of two, as lines.

use super::{known_slots, name, routing_alone, ReplayArgs};
use crate::cli::Failure;
use crate::events::{Event, Outcome, Phase, Scheduling};
use crate::text::one_line;
use crate::trace::open::{open as open_trace, Trace};
use crate::trace::said::sessions_differ;
use crate::trace::scheduling::words;
use crate::trace::session::{Ending, Entry, Session};
use std::io::{self, Write};

/// What is in the file, or in both, in lines for people.
///
/// # Errors
/// If a file is no trace, or `out` can't be written.
pub fn summary(args: &ReplayArgs, out: &mut impl Write) -> color_eyre::Result<()> {
    let files = || std::iter::once(&args.file).chain(&args.other);
    let traces = files().map(|path| open_trace(path)).collect::<Result<Vec<_>, _>>().map_err(|e| Failure::usage(e.to_string()))?;
    let several = traces.len() > 1;
    let mut before: Option<Session> = None;
    for (i, (path, trace)) in files().zip(traces).enumerate() {
        if several {
            writeln!(out, "{}{}", if i > 0 { "\n" } else { "" }, name(path))?;
        }
        if let Some(mut session) = facts(trace, out)? {
            if before.as_mut().is_some_and(|before| sessions_differ(before, &mut session)) {
                writeln!(out, "\nthe two say different things: differences are of the text, too")?;
            }
            before = Some(session);
        }
    }
    Ok(())
}

/// Gives the session back, if it is one.
fn facts(trace: Trace, out: &mut impl Write) -> io::Result<Option<Session>> {
    match trace {
        Trace::Session(mut session) => {
            session_summary(&mut session, out)?;
            return Ok(Some(*session));
        }
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
    Ok(None)
}

fn session_summary(session: &mut Session, out: &mut impl Write) -> io::Result<()> {
    let (mut prompts, mut generated, mut turns, mut questions) = (0u64, 0u64, 0u64, 0u64);
    let (mut hits, mut routed, mut foreseen, mut last) = (0u64, 0u64, 0u64, 0u64);
    let mut policies: Vec<Scheduling> = Vec::new();
    for i in 0..session.len() {
        let Some(timed) = session.get(i) else { break };
        last = timed.at;
        match timed.entry {
            Entry::Question(_) => questions += 1,
            Entry::Event(Event::Finished { .. }) => turns += 1,
            Entry::Event(Event::Scheduling(now)) => policies.push(now),
            Entry::Event(_) => {}
            Entry::Step(r) if r.phase == Phase::Prefill => prompts += 1,
            Entry::Step(r) => {
                generated += 1;
                foreseen += u64::from(!r.foreseen.is_empty());
                hits += r.routed.iter().filter(|x| x.outcome == Outcome::Hit).count() as u64;
                routed += r.routed.len() as u64;
            }
        }
    }
    let alone = routing_alone(session);
    let known = alone.and_then(|_| known_slots(session));
    writeln!(out, "format      recorded session{}", if alone.is_some() { ", routing without text and occupancy" } else { "" })?;
    if let Some(card) = session.card() {
        writeln!(out, "model       {} ({})", one_line(&card.name, 200), one_line(&card.arch, 200))?;
        writeln!(out, "experts     {} layers x {}, {} per token", card.layers, card.experts, card.top_k)?;
        match (alone, known) {
            (None, _) => writeln!(out, "slots       {} per layer when it was opened", card.plan.slots_per_layer)?,
            (Some(_), Some(slots)) => writeln!(out, "slots       {slots} per layer in the first step")?,
            (Some(slots), None) => writeln!(out, "slots       unknown; it is played with {slots} per layer, simulated")?,
        }
    }
    if let Some(first) = policies.first() {
        let changes = match policies.len() - 1 {
            0 => String::new(),
            n => format!("; told anew {n} time{}", if n == 1 { "" } else { "s" }),
        };
        writeln!(out, "policy      {}{changes}", words(first))?;
    }
    match alone {
        None => writeln!(out, "length      {:.1} s", last as f64 / 1e6)?,
        Some(_) => writeln!(out, "length      unknown; it is played at a tenth of a second per step")?,
    }
    writeln!(out, "turns       {turns} finished, {questions} asked")?;
    writeln!(out, "steps       {prompts} of prompts, {generated} generated")?;
    if foreseen > 0 {
        writeln!(out, "foreseen    {foreseen} tokens: routers were asked before their turn")?;
    }
    if routed > 0 {
        let rate = hits as f64 / routed as f64 * 100.0;
        let when = if alone.is_some() { "when it was recorded" } else { "while generating" };
        writeln!(out, "hit rate    {rate:.1} % of {routed} routed experts {when}")?;
    }
    match session.ending() {
        Ending::Whole => Ok(()),
        Ending::Cut { at } => writeln!(out, "ending      cut at byte {at}: the recording was not finished"),
        Ending::Damaged { at } => writeln!(out, "ending      damaged at byte {at}: what follows is not shown"),
    }
}
