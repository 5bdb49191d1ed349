//! `rotary doctor`: what this machine, terminal and configuration offer, and what is wrong with them.

use crate::cli::{downloaded, exit, find_model};
use crate::config;
use crate::engine::{gauges, open};
use crate::events::{LoadOptions, ModelSource, When};
use crate::kernels::{self, Pool};
use crate::model::proof::Outcome;
use crate::size::size;
use crate::ui::palette::{ColorDepth, DepthSources};
use crate::ui::theme::Theme;
use clap::Args;
use color_eyre::eyre;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Arguments of `rotary doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    about: &'static str,
    says: String,
    /// What is wrong and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn fine(about: &'static str, says: impl Into<String>) -> Finding {
    Finding { about, says: says.into(), problem: None }
}

fn wrong(about: &'static str, says: impl Into<String>, problem: impl Into<String>) -> Finding {
    Finding { about, says: says.into(), problem: Some(problem.into()) }
}

/// Look at everything and print it. Exit code 1 if the program can't work here.
pub fn run(args: &DoctorArgs) -> eyre::Result<ExitCode> {
    let loaded = config::load();
    let mut findings = machine();
    findings.extend(gpus());
    findings.extend(terminal(&|name| std::env::var(name).ok(), std::io::stdout().is_terminal(), crossterm::terminal::size().ok()));
    findings.extend(files(&loaded));
    let (demo, kernels) = demo(&loaded.config, args.json);
    let broken = demo.problem.is_some();
    findings.extend(kernels.into_iter().chain([demo]));
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        for f in &findings {
            writeln!(out, "{} {:<10} {}", if f.problem.is_some() { "!" } else { " " }, f.about, f.says)?;
            if let Some(p) = &f.problem {
                writeln!(out, "             -> {p}")?;
            }
        }
    }
    Ok(ExitCode::from(if broken { exit::FAILED } else { 0 }))
}

fn machine() -> Vec<Finding> {
    let pool = Pool::new(0);
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = gauges::process_memory();
    let kernels = kernels::instruction_set();
    let cpu = format!("{} cores to compute on ({logical} logical), kernels: {kernels}", pool.threads());
    let mut out = vec![if kernels == "scalar" {
        wrong("processor", cpu, "no vector instructions that the kernels know (AVX2 or better): expect a tenth of the speed")
    } else {
        fine("processor", cpu)
    }];
    out.push(match memory.available {
        0 => wrong("memory", "unknown", "this system does not say how much is available: give --ram"),
        n if n < 1 << 29 => wrong("memory", format!("{} available", size(n)), "little is left: close other programs or add swap"),
        n => fine("memory", format!("{} available, reads at {:.1} GB/s", size(n), read_speed(&pool, n) / 1e9)),
    });
    out
}

/// What the GPU tier finds. No GPU is no problem: the CPU computes.
#[cfg(feature = "cuda")]
fn gpus() -> Vec<Finding> {
    let probe = crate::gpu::cuda::probe();
    match (probe.lacks, probe.remedy) {
        (Some(lacks), remedy) => {
            let why = remedy.map_or_else(String::new, |r| format!(" ({r})"));
            vec![fine("GPU", format!("none: {lacks}{why}"))]
        }
        (None, _) => {
            let one = |(i, f): (usize, &crate::gpu::device::Facts)| {
                let (major, minor) = (f.capability / 10, f.capability % 10);
                fine(
                    "GPU",
                    format!(
                        "{i}: {}, {}, capability {major}.{minor}, {} processors, driver {}",
                        f.name,
                        size(f.memory),
                        f.processors,
                        f.driver
                    ),
                )
            };
            probe.gpus.iter().enumerate().map(one).collect()
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Vec<Finding> {
    vec![fine("GPU", "not used: this program was built without the feature `cuda`")]
}

/// Bytes per second that all threads together read from memory: the bound of every generated token.
pub(super) fn read_speed(pool: &Pool, available: u64) -> f64 {
    // Larger than any cache of the machines that matter, small against what is available.
    let words = ((256u64 << 20).min(available / 4) / 8) as usize;
    let data: Vec<u64> = (0..words as u64).collect();
    let parts = data.chunks((words / (8 * pool.threads())).max(1)).collect::<Vec<_>>();
    let sum = AtomicU64::new(0);
    let mut best = f64::MAX;
    for _ in 0..3 {
        let begin = Instant::now();
        pool.run(parts.len(), &|i| {
            // Four independent sums, so that the adds do not wait for each other.
            let mut s = [0u64; 4];
            for w in parts[i].chunks_exact(4) {
                for (s, w) in s.iter_mut().zip(w) {
                    *s = s.wrapping_add(*w);
                }
            }
            sum.fetch_add(s.iter().fold(0, |a, &b| a.wrapping_add(b)), Ordering::Relaxed);
        });
        best = best.min(begin.elapsed().as_secs_f64());
    }
    std::hint::black_box(sum.into_inner());
    (words * 8) as f64 / best.max(1e-9)
}

fn terminal(var: &dyn Fn(&str) -> Option<String>, tty: bool, cells: Option<(u16, u16)>) -> Vec<Finding> {
    let mut out = Vec::new();
    let term = var("TERM").unwrap_or_default();
    let size = cells.map_or(String::new(), |(w, h)| format!(", {w}x{h} cells"));
    let shown = format!("TERM={}{size}", crate::gguf::shown(&term));
    out.push(match (tty, cells) {
        (false, _) => wrong("terminal", "standard output is none", "the app needs one; `rotary run` works without"),
        (true, _) if term.is_empty() || term == "dumb" => {
            wrong("terminal", shown, "set TERM to what your terminal is, for example xterm-256color")
        }
        (true, Some((w, h))) if w < 80 || h < 24 => wrong("terminal", shown, "smaller than 80x24: panes will be missing"),
        _ => fine("terminal", shown),
    });
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|v| var(v).filter(|x| !x.is_empty())).unwrap_or_default();
    let utf8 = locale.to_ascii_lowercase().replace('-', "").contains("utf8");
    let says = if locale.is_empty() { "none".to_owned() } else { crate::gguf::shown(&locale) };
    out.push(if utf8 {
        fine("locale", says)
    } else {
        wrong("locale", says, "not UTF-8: the app draws in ASCII; set LANG to a UTF-8 locale, for example C.UTF-8")
    });
    let no_color = var("NO_COLOR").filter(|v| !v.is_empty());
    let silent = no_color.is_some();
    let sources = DepthSources { flag: None, config: None, no_color, colorterm: var("COLORTERM"), term: Some(term) };
    let colors = match sources.depth() {
        ColorDepth::Mono if silent => "none (NO_COLOR is set)",
        ColorDepth::Mono => "none",
        ColorDepth::Ansi16 => "16",
        ColorDepth::Indexed256 => "256",
        ColorDepth::TrueColor => "16 million",
    };
    out.push(fine("colours", colors));
    let mut link = Vec::new();
    if var("SSH_CONNECTION").is_some() {
        link.push("over SSH");
    }
    if var("TMUX").is_some() {
        link.push("inside tmux");
    }
    if var("STY").is_some() {
        link.push("inside screen");
    }
    if !link.is_empty() {
        out.push(fine("link", link.join(", ")));
    }
    out
}

fn files(loaded: &config::Loaded) -> Vec<Finding> {
    let folders = config::Folders::find();
    let path = folders.config_file();
    let mut out = Vec::new();
    if loaded.problems.is_empty() {
        let state = if path.exists() { "" } else { " (none: defaults)" };
        out.push(fine("config", format!("{}{state}", path.display())));
    }
    for p in &loaded.problems {
        out.push(wrong("config", path.display().to_string(), p.clone()));
    }
    out.extend(named(&loaded.config, &folders));
    let models = downloaded(&loaded.config);
    let names = models.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
    out.push(fine("models", if models.is_empty() { "demo; `rotary pull` downloads others".into() } else { format!("demo, {names}") }));
    out
}

/// What the configuration names: the theme, the model, and the folders of models.
fn named(config: &config::Config, folders: &config::Folders) -> Vec<Finding> {
    let mut out = Vec::new();
    let (_, problem) = Theme::load_or_default(&config.theme, Some(&folders.themes()), ColorDepth::TrueColor, false);
    let theme = crate::text::one_line(&config.theme, 200);
    out.push(match problem {
        None => fine("theme", theme),
        Some(problem) => wrong("theme", theme, problem.to_string()),
    });
    if let Some(model) = &config.model {
        let opens = find_model(model, config).map_err(|e| e.message).and_then(|source| open::map(&source).map_err(|e| e.to_string()));
        let model = crate::text::one_line(model, 200);
        out.push(match opens {
            Ok(_) => fine("model", model),
            Err(why) => wrong("model", model, format!("{why}; or correct `model` in the configuration")),
        });
    }
    for folder in config.model_dirs.iter().filter(|f| !f.is_dir()) {
        let shown = crate::text::one_line(&folder.display().to_string(), 200);
        out.push(wrong("model_dirs", shown, "there is no such folder; make it, or correct `model_dirs` in the configuration"));
    }
    out
}

/// The embedded model must open: if it does not, nothing will. On a GPU its kernels are tried, whatever they passed before; of that comes a finding of its own.
fn demo(config: &config::Config, silent: bool) -> (Finding, Option<Finding>) {
    let prove = if config.prove == Some(When::Never) { When::Never } else { When::Always };
    let options = LoadOptions { prove, proofs: Some(config::Folders::find().proofs()), ..LoadOptions::default() };
    let shows = !silent && std::io::stderr().is_terminal();
    let opened = open::open(&ModelSource::Demo, &options, &mut |stage, done, of| {
        if shows && stage.starts_with("trying") {
            let end = if done == of { "\r\x1b[K" } else { "" };
            eprint!("\r\x1b[K{stage}: {done} of {of}{end}");
        }
        true
    });
    match opened {
        Ok(o) => {
            let demo = fine("demo", format!("{} opens: {} layers x {} experts", o.card.name, o.card.layers, o.card.experts));
            (demo, o.proof.as_ref().map(kernels))
        }
        Err(e) => (wrong("demo", "does not open", e.to_string()), None),
    }
}

/// What came of trying the GPU's kernels.
fn kernels(proof: &Outcome) -> Finding {
    match proof {
        Ok(proof) if proof.told().next().is_some() => {
            let why: Vec<&str> = proof.told().map(String::as_str).collect();
            wrong("kernels", format!("not all of the GPU's passed: {} trials", proof.tried), why.join("; "))
        }
        Ok(proof) => fine("kernels", format!("{proof} (those that the demo uses; `rotary gpu-check` tries all)")),
        Err(e) => wrong("kernels", "the GPU is not used", e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::proof::Proof;

    fn look(vars: &[(&str, &str)], tty: bool, cells: Option<(u16, u16)>) -> Vec<Finding> {
        let get = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        terminal(&get, tty, cells)
    }

    fn problem<'a>(findings: &'a [Finding], about: &str) -> Option<&'a str> {
        findings.iter().find(|f| f.about == about).unwrap().problem.as_deref()
    }

    #[test]
    fn what_the_configuration_names_and_is_not_there_is_a_problem() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let folders = config::Folders { config: at("config"), state: at("state"), data: at("data") };
        let fine = config::Config { model: Some("demo".into()), model_dirs: vec![home.path().into()], ..config::Config::default() };
        assert!(named(&fine, &folders).iter().all(|f| f.problem.is_none()), "{:?}", named(&fine, &folders));
        let none = config::Config {
            theme: "nope".into(),
            model: Some(at("none.gguf").display().to_string()),
            model_dirs: vec![at("nodir")],
            ..config::Config::default()
        };
        let found = named(&none, &folders);
        assert!(problem(&found, "theme").unwrap().contains("nope"), "{found:?}");
        assert!(problem(&found, "model").unwrap().contains("none.gguf"), "{found:?}");
        assert!(problem(&found, "model_dirs").unwrap().contains("no such folder"), "{found:?}");
        std::fs::create_dir_all(folders.themes()).unwrap();
        std::fs::write(folders.themes().join("mine.toml"), "inherits = \"dark\"\n[faces]\nhitt = \"red\"\n").unwrap();
        let mine = named(&config::Config { theme: "mine".into(), ..fine }, &folders);
        assert!(problem(&mine, "theme").unwrap().contains("hitt"), "{mine:?}");
    }

    #[test]
    fn what_the_gpus_kernels_passed_is_a_finding_and_what_they_did_not_a_problem() {
        let proof = Proof { tried: 62, took: std::time::Duration::from_millis(240), ..Proof::default() };
        let passed = kernels(&Ok(proof.clone()));
        assert!(passed.problem.is_none() && passed.says.contains("passed 62 trials in 240 ms"), "{passed:?}");
        let without = kernels(&Ok(Proof { plain_attention: Some("it was wrong".into()), ..proof }));
        assert_eq!(without.problem.as_deref(), Some("it was wrong"));
        let refused = kernels(&Err(crate::gpu::GpuError::NoKernel("matvec")));
        assert!(refused.problem.unwrap().contains("matvec") && refused.says.contains("not used"));
    }

    #[test]
    fn a_good_terminal_has_no_problems() {
        let f = look(&[("TERM", "xterm-256color"), ("LANG", "de_DE.UTF-8"), ("COLORTERM", "truecolor")], true, Some((120, 40)));
        assert!(f.iter().all(|f| f.problem.is_none()), "{f:?}");
        assert_eq!(f.iter().find(|f| f.about == "colours").unwrap().says, "16 million");
    }

    #[test]
    fn what_is_wrong_with_a_terminal_comes_with_a_remedy() {
        let f = look(&[("TERM", "dumb"), ("LANG", "C")], true, Some((80, 24)));
        assert!(problem(&f, "terminal").unwrap().contains("xterm-256color"));
        assert!(problem(&f, "locale").unwrap().contains("C.UTF-8"));
        assert!(problem(&look(&[("TERM", "xterm")], true, Some((60, 20))), "terminal").unwrap().contains("80x24"));
        assert!(problem(&look(&[], false, None), "terminal").unwrap().contains("rotary run"));
        // The first of the three that is set decides, as in the C library.
        let f = look(&[("LC_ALL", "C"), ("LANG", "C.UTF-8")], true, None);
        assert!(problem(&f, "locale").is_some());
    }

    #[test]
    fn memory_speed_is_measured_within_reason() {
        let speed = read_speed(&Pool::new(1), 64 << 20);
        assert!((1e8..1e13).contains(&speed), "{speed}");
    }
}
