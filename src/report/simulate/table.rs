//! The table of a simulation: as text with curves, or as CSV.

use super::{Row, Simulation};
use crate::experts::policy::Policy;
use crate::report::curves::{self, Canvas, Curve};
use crate::size::size;
use crate::trace::simulate::Contender;
use std::io::{self, Write};

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
    for how in &s.simulated {
        writeln!(out, "simulated under {how}")?;
    }
    let rotary = Contender::Online(Policy::Rotary);
    if s.ahead > 0 && s.table.iter().any(|row| row.tally.policy == rotary) {
        let (name, n) = (heading(rotary, s.ahead), s.ahead);
        let experts = if n == 1 { "expert" } else { "experts" };
        writeln!(
            out,
            "{name} brings {n} {experts} per look at a coming layer ahead of use, the others none; --ahead 0 compares them alike"
        )?;
    }
    if let Some(n) = s.foreseen {
        writeln!(out, "routers asked before their turn: {n} token{}", if n == 1 { "" } else { "s" })?;
    }
    if let Some((read, gained)) = s.of_a_step {
        let tokens = if s.profile.is_some() {
            format!(", of which {gained:.2} are right; what drafting takes is not counted")
        } else {
            String::new()
        };
        writeln!(out, "steps of {read} tokens{tokens}")?;
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
    let wide = |p: &Contender| (heading(*p, s.ahead).len() + 1).max(8);
    write!(out, "  {:<width$}", "hit rate, %", width = policies.iter().map(wide).sum())?;
    if !moving.is_empty() {
        write!(out, "  copied into slots, MiB per token")?;
    }
    write!(out, "\n{:>5}", "slots")?;
    // All of a column in one unit, in which the largest has digits before the point.
    let most = s.slot_bytes.saturating_mul(slots.last().copied().unwrap_or(0) as u64);
    let (unit, bytes) = if most < 1 << 30 { ("MiB", f64::from(1u32 << 20)) } else { ("GiB", f64::from(1u32 << 30)) };
    if s.slot_bytes > 0 {
        write!(out, "{unit:>10}")?;
    }
    write!(out, "  ")?;
    policies.iter().try_for_each(|p| write!(out, "{:>width$}", heading(*p, s.ahead), width = wide(p)))?;
    write!(out, "  ")?;
    moving.iter().try_for_each(|p| write!(out, "{:>9}", heading(*p, s.ahead)))?;
    writeln!(out)?;
    for &n in &slots {
        write!(out, "{n:>5}")?;
        if s.slot_bytes > 0 {
            write!(out, "{:>10.2}", s.slot_bytes as f64 * n as f64 / bytes)?;
        }
        write!(out, "  ")?;
        for &p in &policies {
            write!(out, "{:>width$.2}", row(n, p).map_or(0.0, |t| t.tally.hit_rate() * 100.0), width = wide(&p))?;
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
        writeln!(out, "trunk {} per token ({})", size(s.trunk_bytes), s.trunk)?;
        write!(out, "\n{:>5}", "slots")?;
        policies.iter().try_for_each(|p| write!(out, "{:>9}", heading(*p, s.ahead)))?;
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
        name: heading(*p, s.ahead),
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

/// A policy as columns name it: rotary with what it brings ahead of use, since no other policy does.
fn heading(policy: Contender, ahead: usize) -> String {
    match policy {
        Contender::Online(Policy::Rotary) if ahead > 0 => format!("{}+{ahead}", policy.name()),
        _ => policy.name().to_owned(),
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
pub(in crate::report) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
