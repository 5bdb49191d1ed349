//! What was measured: in detail for one run, as a row of a table for several.

use super::measure::{Figures, Spread};
use crate::experts::vram::Rates;
use crate::report::simulate::quoted;
use crate::size::size;
use std::fmt::Write;

/// One run in detail.
pub(super) fn detail(f: &Figures) -> String {
    let s = f.step_us;
    let total = s.trunk + s.hits + s.misses + s.upload;
    let part = |x: f64| if total > 0.0 { format!("{:.2} ms ({:.0} %)", x / 1e3, 100.0 * x / total) } else { "-".into() };
    let mut out =
        format!("prompt      {:>9.1} tokens/s  +- {:.1}  ({} tokens, {} runs)\n", f.prompt_tps.mean, f.prompt_tps.sd, f.prompt, f.repeat);
    if f.gen > 0 {
        out += &format!("generation  {:>9.1} tokens/s  +- {:.1}  ({} tokens, {} runs)\n", f.gen_tps.mean, f.gen_tps.sd, f.gen, f.repeat);
        if f.experts > 0 {
            let first = format!("{:.1} % in the run before, which began with empty slots", 100.0 * f.first_hit_rate);
            out += &format!(
                "hit rate    {:>9.1} %         {} of {} experts per layer in slots; {first}\n",
                100.0 * f.hit_rate,
                f.slots,
                f.experts
            );
            out += "                                tokens are drawn at random, which is no text: a chat may hit more or less\n";
        }
        out += &format!("misses      {:>9} per token, {} copied into slots\n", size(f.missed_bytes as u64), size(f.uploaded_bytes as u64));
        out +=
            &format!("a token     trunk {}, hits {}, misses {}, copies {}\n", part(s.trunk), part(s.hits), part(s.misses), part(s.upload));
    }
    if let Some(launches) = f.launches.filter(|_| f.gen > 0) {
        out += &format!("launches    {launches:>9.1} per token; times on a device overlap, so they do not add up\n");
    }
    if let Some(Rates { fill, link, host, .. }) = f.rates {
        let fill = if fill.is_finite() { format!(", filling {:.1} GB/s", fill / 1e9) } else { String::new() };
        out += &format!("misses go   {:>9.1} GB/s over the link{fill}; the host computes from {:.1} GB/s\n", link / 1e9, host / 1e9);
    }
    let planned = f.planned.map_or_else(String::new, |bytes| {
        let more = if f.unbounded && f.rss_peak > bytes { ", without pages of the file that the system can take back" } else { "" };
        format!("          {} planned{more}", size(bytes))
    });
    out += &format!("peak memory {:>9}{planned}\n", size(f.rss_peak));
    out
}

/// A cell of several runs: its heading, and what of a run it shows.
type Column = (&'static str, fn(&Figures) -> String);

fn tps(of: &Spread) -> String {
    format!("{:.1} +- {:.1}", of.mean, of.sd)
}

const MIB: f64 = 1048576.0;

const COLUMNS: [Column; 9] = [
    ("slots", |f| f.slots.to_string()),
    ("prompt", |f| f.prompt.to_string()),
    ("gen", |f| f.gen.to_string()),
    ("prompt tokens/s", |f| tps(&f.prompt_tps)),
    ("generated tokens/s", |f| tps(&f.gen_tps)),
    ("hits %", |f| format!("{:.1}", 100.0 * f.hit_rate)),
    ("from empty %", |f| format!("{:.1}", 100.0 * f.first_hit_rate)),
    ("missed MiB/token", |f| format!("{:.2}", f.missed_bytes / MIB)),
    ("copied MiB/token", |f| format!("{:.2}", f.uploaded_bytes / MIB)),
];

/// Model, build and what computes, in a line.
fn origin(f: &Figures) -> String {
    let runs = if f.repeat == 1 { "1 run".to_owned() } else { format!("{} runs", f.repeat) };
    format!("{}, {}, {}, {runs} each", crate::gguf::shown(&f.model), f.build, f.device)
}

/// What the columns don't say.
const BELOW: &str =
    "hits: of the experts that generated tokens asked for, in runs that begin with slots as the one before left them; from empty: in the\n\
                     first run, which begins with empty slots. Tokens are drawn at random, which is no text: a chat may hit more or less";

/// Several runs, a row each.
pub(super) fn rows(all: &[Figures]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let cells: Vec<Vec<String>> = all.iter().map(|f| COLUMNS.iter().map(|(_, of)| of(f)).collect()).collect();
    let widths: Vec<usize> = COLUMNS
        .iter()
        .enumerate()
        .map(|(i, (name, _))| cells.iter().map(|row| row[i].len()).chain([name.len()]).max().unwrap_or(0))
        .collect();
    let mut out = format!("{}\n", origin(first));
    let mut line = |row: &mut dyn Iterator<Item = &str>| {
        let row: Vec<String> = row.zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        let _ = writeln!(out, "{}", row.join("  "));
    };
    line(&mut COLUMNS.iter().map(|c| c.0));
    cells.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
    format!("{out}{BELOW}\n")
}

/// The same in Markdown.
pub(super) fn markdown(all: &[Figures]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let heads: Vec<&str> = COLUMNS.iter().map(|c| c.0).collect();
    let mut out = format!("{}\n\n| {} |\n|{}\n", origin(first), heads.join(" | "), "---:|".repeat(COLUMNS.len()));
    for f in all {
        let row: Vec<String> = COLUMNS.iter().map(|(_, of)| of(f)).collect();
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    format!("{out}\n{BELOW}\n")
}

/// The same for programs.
pub(super) fn csv(all: &[Figures]) -> String {
    let mut out = "model,build,device,slots,experts,prompt,gen,repeat,prompt_tps,prompt_tps_sd,gen_tps,gen_tps_sd,hit_rate,first_hit_rate,\
                   missed_bytes,uploaded_bytes\n"
        .to_owned();
    for f in all {
        let who = [&f.model, &f.build, &f.device].map(|text| quoted(&crate::gguf::shown(text))).join(",");
        let (p, g) = (f.prompt_tps, f.gen_tps);
        let _ = writeln!(
            out,
            "{who},{},{},{},{},{},{:.3},{:.3},{:.3},{:.3},{:.6},{:.6},{:.0},{:.0}",
            f.slots,
            f.experts,
            f.prompt,
            f.gen,
            f.repeat,
            p.mean,
            p.sd,
            g.mean,
            g.sd,
            f.hit_rate,
            f.first_hit_rate,
            f.missed_bytes,
            f.uploaded_bytes
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Figures> {
        let f = Figures {
            model: "a|b,\u{1b}c".into(),
            build: "rotary 1".into(),
            device: "CPU, 2 threads".into(),
            slots: 8,
            experts: 32,
            ..Figures::default()
        };
        vec![f.clone(), Figures { slots: 16, gen_tps: Spread { mean: 1234.56, sd: 7.0 }, hit_rate: 0.5, ..f }]
    }

    #[test]
    fn a_table_has_a_row_for_every_run_and_says_where_it_was_measured() {
        let text = rows(&two());
        assert!(text.starts_with("a|b,\\u{1b}c, rotary 1, CPU, 2 threads, 0 runs each\n") && text.contains("1234.6 +- 7.0"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("copied MiB/token") && lines[1].len() == lines[2].len() && lines[2].len() == lines[3].len(), "{text}");
        let table = markdown(&two());
        let bars = |l: &str| l.matches('|').count();
        assert!(table.lines().filter(|l| l.starts_with('|')).all(|l| bars(l) == COLUMNS.len() + 1), "{table}");
        assert_eq!(table.lines().filter(|l| l.starts_with('|')).count(), 4);
    }

    #[test]
    fn csv_has_as_many_columns_in_every_row() {
        let text = csv(&two());
        let columns = |l: &str| l.replace("\"a|b,\\u{1b}c\"", "m").replace("\"CPU, 2 threads\"", "d").split(',').count();
        assert!(text.lines().count() == 3 && text.lines().all(|l| columns(l) == 16), "{text}");
    }
}
