//! The table of a comparison: as text with bars, or as CSV.

use super::{Difference, ExpertPair, LayerPair};
use crate::report::simulate::quoted;
use crate::size::size;
use std::io::{self, Write};

/// Experts in the list for people.
const SHOWN_EXPERTS: usize = 12;
/// Half the width of the bars for people.
const BAR: usize = 10;

/// A bar to the left for less, to the right for more; `full` is its longest.
fn bar(value: f64, full: f64, unicode: bool) -> String {
    let n = if full > 0.0 { (value.abs() / full * BAR as f64).round().min(BAR as f64) as usize } else { 0 };
    let (block, axis) = if unicode { ("█", "│") } else { ("#", "|") };
    let (left, right) = if value < 0.0 { (n, 0) } else { (0, n) };
    format!("{}{}{axis}{}", " ".repeat(BAR - left), block.repeat(left), block.repeat(right))
}

pub(super) fn text(out: &mut impl Write, d: &Difference, unicode: bool) -> io::Result<()> {
    let (a, b) = (&d.a, &d.b);
    writeln!(out, "{}\n  A  {}\n  B  {}", d.file, a.label, b.label)?;
    if d.other_text {
        writeln!(out, "the two say different things: differences are of the text, too")?;
    }
    writeln!(out)?;
    writeln!(out, "{:<34}{:>12}{:>12}{:>12}", "", "A", "B", "B - A")?;
    let row = |out: &mut dyn Write, what: &str, x: f64, y: f64| writeln!(out, "{what:<34}{x:>12.2}{y:>12.2}{:>+12.2}", y - x);
    let mib = f64::from(1u32 << 20);
    row(out, "hit rate, %", a.hit_rate * 100.0, b.hit_rate * 100.0)?;
    if a.slot_bytes > 0 && b.slot_bytes > 0 {
        row(out, "slots, MiB", a.slot_bytes as f64 / mib, b.slot_bytes as f64 / mib)?;
    }
    row(out, "copied into slots, MiB per token", a.copied_per_token / mib, b.copied_per_token / mib)?;
    row(out, "missed, MiB per token", a.missed_per_token / mib, b.missed_per_token / mib)?;
    let (x, y) = (a.measured_tokens_per_second, b.measured_tokens_per_second);
    if x.is_some() || y.is_some() {
        let cell = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.2}"));
        let less = x.zip(y).map_or("-".to_owned(), |(x, y)| format!("{:+.2}", y - x));
        writeln!(out, "{:<34}{:>12}{:>12}{less:>12}", "tokens/s, measured, median step", cell(x), cell(y))?;
    }
    if let (Some(x), Some(y)) = (a.estimated_tokens_per_second, b.estimated_tokens_per_second) {
        row(out, "tokens/s, estimated", x, y)?;
    }
    if let Some(profile) = &d.profile {
        writeln!(out, "estimated for {profile};\ntrunk {} per token ({})", size(d.trunk_bytes), d.trunk)?;
    }

    let estimates = d.layers.iter().any(|l| l.a.estimated_us.is_some());
    write!(out, "\n{:>5}{:>9}{:>9}{:>9}  {:<21}{:>22}", "layer", "hits A %", "hits B %", "B - A", "", "copied MiB/token A, B")?;
    writeln!(out, "{}", if estimates { "   est. us A, B" } else { "" })?;
    let points = |l: &LayerPair| (l.b.hit_rate - l.a.hit_rate) * 100.0;
    let most = d.layers.iter().map(|l| points(l).abs()).fold(0.0, f64::max);
    for l in &d.layers {
        write!(
            out,
            "{:>5}{:>9.2}{:>9.2}{:>+9.2}  {:<21}{:>11.2}{:>11.2}",
            l.layer,
            l.a.hit_rate * 100.0,
            l.b.hit_rate * 100.0,
            points(l),
            bar(points(l), most, unicode),
            l.a.copied_per_token / mib,
            l.b.copied_per_token / mib
        )?;
        match (l.a.estimated_us, l.b.estimated_us) {
            (Some(x), Some(y)) => writeln!(out, "{x:>8.0}{y:>8.0}")?,
            _ => writeln!(out)?,
        }
    }
    let experts: Vec<&ExpertPair> = d.experts.iter().filter(|e| e.more().abs() > 1e-9).take(SHOWN_EXPERTS).collect();
    if experts.is_empty() {
        return writeln!(out, "\nno expert is missed more in one than in the other\n");
    }
    writeln!(
        out,
        "\nexperts that differ most, misses per 1000 tokens\n{:>5}{:>8}{:>9}{:>9}{:>9}{:>11}",
        "layer", "expert", "A", "B", "B - A", "uses A, B"
    )?;
    for e in experts {
        let [a, b] = e.misses;
        let [m, n] = e.uses;
        writeln!(out, "{:>5}{:>8}{a:>9.1}{b:>9.1}{:>+9.1}{m:>9.1} {n:.1}", e.layer, e.expert, e.more())?;
    }
    writeln!(out)
}

/// A row for the total, one for each layer, one for each expert.
pub(super) fn csv(out: &mut impl Write, found: &[Difference]) -> io::Result<()> {
    writeln!(
        out,
        "file,a,b,scope,layer,expert,hit_rate_a,hit_rate_b,copied_per_token_a,copied_per_token_b,missed_per_token_a,missed_per_token_b,\
         estimated_tokens_per_second_a,estimated_tokens_per_second_b,estimated_us_a,estimated_us_b,misses_per_1000_tokens_a,\
         misses_per_1000_tokens_b"
    )?;
    let may = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.3}"));
    for d in found {
        let (a, b) = (&d.a, &d.b);
        let who = format!("{},{},{}", quoted(&d.file), quoted(&a.label), quoted(&b.label));
        writeln!(
            out,
            "{who},total,,,{:.6},{:.6},{:.1},{:.1},{:.1},{:.1},{},{},,,,",
            a.hit_rate,
            b.hit_rate,
            a.copied_per_token,
            b.copied_per_token,
            a.missed_per_token,
            b.missed_per_token,
            may(a.estimated_tokens_per_second),
            may(b.estimated_tokens_per_second)
        )?;
        for LayerPair { layer, a, b } in &d.layers {
            writeln!(
                out,
                "{who},layer,{layer},,{:.6},{:.6},{:.1},{:.1},{:.1},{:.1},,,{},{},,",
                a.hit_rate,
                b.hit_rate,
                a.copied_per_token,
                b.copied_per_token,
                a.missed_per_token,
                b.missed_per_token,
                may(a.estimated_us),
                may(b.estimated_us)
            )?;
        }
        for e in &d.experts {
            let rate = |i: usize| if e.uses[i] > 0.0 { format!("{:.6}", 1.0 - e.misses[i] / e.uses[i]) } else { String::new() };
            writeln!(out, "{who},expert,{},{},{},{},,,,,,,,,{:.3},{:.3}", e.layer, e.expert, rate(0), rate(1), e.misses[0], e.misses[1])?;
        }
    }
    Ok(())
}
