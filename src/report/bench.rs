//! `rotary bench`: how fast prompts are read and tokens made, and what the slots do meanwhile.
//!
//! Token ids are drawn at random with a fixed seed, in the prompt as in the generation, so the figures depend on no
//! tokenizer and on nothing that the model says. Such ids are no text, and how much they hit says little of a chat: those of
//! the embedded toy hit 82 % of 12 slots where its stories hit 50 to 65.

mod along;
mod args;
mod measure;
mod table;

pub use args::{BenchArgs, Format};
pub use measure::{Figures, Split, Spread};

use super::plan;
use crate::cli::{cant_record, configuration, find_model, recorder, tell_idle, Failure};
use crate::engine::{open, EngineError};
use crate::events::{Event, LoadOptions, ModelCard, Phase, Sampling, StepRecord};
use crate::gguf::Gguf;
use crate::kernels;
use crate::model::Logits;
use args::Task;
use color_eyre::eyre;
use measure::{measure, token};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Measure and print.
///
/// # Errors
/// Arguments that measure nothing, a model that can't be run, or standard output that is gone.
pub fn run(args: &BenchArgs) -> eyre::Result<ExitCode> {
    let config = configuration();
    for idle in args.idle() {
        eprintln!("rotary: {idle}");
    }
    if args.kernels {
        let pool = kernels::Pool::new(args.load.options(&config).threads.unwrap_or(0));
        kernels::bench(&pool, &args.types, Duration::from_millis(300), &mut std::io::stdout())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.profile {
        return super::machine::run(file.as_deref(), args.load.options(&config).threads, args.json);
    }
    let source = find_model(args.model.as_deref().unwrap_or_default(), &config)?;
    let gguf = open::map(&source).map_err(Failure::from)?;
    let (tasks, told) = args.tasks(&gguf)?;
    if let Some(told) = told {
        eprintln!("rotary: {told}");
    }
    let mut options = args.load.options(&config);
    // The same for all rows, since it takes memory from slots.
    let needed = tasks.iter().map(|task| args.needed(task)).max().unwrap_or(0);
    options.context.get_or_insert(needed + 1);
    let whole = matches!(args.format, None | Some(Format::Text));
    match (&tasks[..], args.format) {
        ([task], _) if whole => one(args, *task, &gguf, &options),
        (_, format) => {
            if args.trace.is_some() || args.along.is_some() {
                return Err(Failure::usage("--trace and --along go with a single run: one --slots, one --prompt, and no --format").into());
            }
            several(args, &tasks, &gguf, &options, format)
        }
    }
}

/// One run in detail.
fn one(args: &BenchArgs, task: Task, gguf: &Gguf, options: &LoadOptions) -> eyre::Result<ExitCode> {
    if let Some(file) = args.trace.as_deref().filter(|file| file.symlink_metadata().is_ok()) {
        // Before a model is loaded.
        return Err(cant_record(file, &std::io::ErrorKind::AlreadyExists.into()).into());
    }
    let mut model = open::bare(gguf, options).map_err(Failure::from)?;
    tell_idle(options, &model.plan, model.proof.is_some());
    if let Some(told) = model.told.as_ref().filter(|_| args.json) {
        eprintln!("rotary: {told}");
    }
    // Figures are those of a session that lasts.
    let held = model.runtime.hold_all();
    if !args.json {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", model.device)?;
        model.told.as_ref().map_or(Ok(()), |told| writeln!(out, "{told}"))?;
        write!(out, "{}", plan::table(&model.plan))?;
        held.map_or(Ok(()), |held| writeln!(out, "{held}"))?;
        out.flush()?;
    }
    if let Some(along) = args.along {
        let rows = measure_along(args, task, usize::from(along), model).map_err(Failure::from)?;
        let mut out = std::io::stdout().lock();
        match args.json {
            true => writeln!(out, "{}", serde_json::to_string(&rows)?)?,
            false => write!(out, "{}", along::table(&rows))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut recorder = args.trace.as_deref().map(recorder).transpose()?;
    if let Some(r) = &mut recorder {
        if let Some(scheduling) = model.runtime.scheduling() {
            r.event(&Event::Scheduling(scheduling));
        }
        let name = args.model.as_deref().unwrap_or_default();
        r.event(&Event::Ready { card: Box::new(card(gguf, name, &model)) });
    }
    let held = held.unwrap_or_default();
    let measured = measure(args, &task, model, recorder.as_mut());
    if let (Err(_), Some(file)) = (&measured, args.trace.as_deref().filter(|_| recorder.is_some())) {
        // Closed first. It was made above, and would stand in the way of the next try.
        drop(recorder.take());
        let _ = std::fs::remove_file(file);
    }
    let figures = measured.map_err(Failure::from)?;
    let figures = Figures { held: held.bytes, locked: held.locked, ..figures };
    if let (Some(r), Some(file)) = (recorder, &args.trace) {
        r.finish().map_err(|e| Failure::failed(format!("{}: the recording is not whole: {e}", file.display())))?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &figures)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table::detail(&figures))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A row for every task. Each opens the model anew, so that it begins with empty slots.
fn several(args: &BenchArgs, tasks: &[Task], gguf: &Gguf, options: &LoadOptions, format: Option<Format>) -> eyre::Result<ExitCode> {
    plan_all(tasks, gguf, options).map_err(Failure::from)?;
    let mut all = Vec::with_capacity(tasks.len());
    for (i, task) in tasks.iter().enumerate() {
        let options = LoadOptions { slots: task.slots, ..options.clone() };
        let mut model = open::bare(gguf, &options).map_err(Failure::from)?;
        if i == 0 {
            tell_idle(&options, &model.plan, model.proof.is_some());
            model.told.iter().for_each(|told| eprintln!("rotary: {told}"));
        }
        let held = model.runtime.hold_all().unwrap_or_default();
        let figures = measure(args, task, model, None).map_err(Failure::from)?;
        all.push(Figures { held: held.bytes, locked: held.locked, ..figures });
    }
    let mut out = std::io::stdout().lock();
    match format {
        _ if args.json => writeln!(out, "{}", serde_json::to_string(&all)?)?,
        None | Some(Format::Text) => write!(out, "{}", table::rows(&all))?,
        Some(Format::Md) => write!(out, "{}", table::markdown(&all))?,
        Some(Format::Csv) => write!(out, "{}", table::csv(&all))?,
        Some(Format::Json) => writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Plan for every row, so that one that can't be is refused before others are measured.
fn plan_all(tasks: &[Task], gguf: &Gguf, options: &LoadOptions) -> Result<(), EngineError> {
    let chosen = crate::model::choose_for(gguf, options.device)?;
    let mut slots: Vec<_> = tasks.iter().map(|task| task.slots).collect();
    // Rows that differ in the prompt alone follow each other.
    slots.dedup();
    for slots in slots {
        let options = LoadOptions { slots, ..options.clone() };
        crate::model::plan_on(gguf, &options, kernels::memory::available(), chosen.device.as_deref())?;
    }
    Ok(())
}

/// What a recording has to know of the model.
fn card(gguf: &Gguf, name: &str, model: &open::Bare) -> ModelCard {
    ModelCard {
        name: crate::gguf::shown(name),
        arch: gguf.arch().map(crate::gguf::shown).unwrap_or_default(),
        toy: name == "demo",
        layers: model.expert_bytes.len(),
        experts: model.config.experts,
        top_k: model.config.top_k,
        vocab: model.config.vocab,
        context: model.plan.context,
        expert_bytes: model.expert_bytes.clone(),
        plan: model.plan.clone(),
        sampling: Sampling::default(),
        can_think: false,
        has_effort: false,
        template_fallback: false,
        device: model.device.clone(),
    }
}

/// Times of steps that read several tokens, after a prompt.
fn measure_along(args: &BenchArgs, task: Task, along: usize, model: open::Bare) -> Result<Vec<along::Along>, EngineError> {
    let open::Bare { mut runtime, config, .. } = model;
    let mut rng = fastrand::Rng::with_seed(0x726f_7461_7279);
    let vocab = (config.vocab.max(1) as u32).max(args.topics.unwrap_or(1));
    let mut topic = 0;
    let mut next = || token(&mut rng, vocab, args.topics, &mut topic);
    let prompt: Vec<u32> = (0..task.prompt).map(|_| next()).collect();
    let mut record = StepRecord { phase: Phase::Prefill, ..StepRecord::default() };
    for chunk in prompt.chunks(runtime.chunk().max(1)) {
        runtime.step(chunk, Logits::Last, &|| false, &mut record)?;
    }
    along::measure(runtime.as_mut(), along, task.gen, &mut next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::DeviceChoice;

    #[test]
    fn a_row_that_can_not_be_is_refused_before_any_is_measured_as_it_would_be_later() {
        let gguf = Gguf::from_static(crate::demo::gguf(), "demo").unwrap();
        let options = LoadOptions { device: DeviceChoice::Cpu, threads: Some(1), ..LoadOptions::default() };
        let plan = |slots: &[usize]| {
            let tasks: Vec<_> = slots.iter().map(|&n| Task { slots: Some(n), prompt: 1, gen: 1, repeat: 1 }).collect();
            plan_all(&tasks, &gguf, &options).map_err(|e| e.to_string())
        };
        assert_eq!(plan(&[8, 16]), Ok(()));
        let later = open::bare(&gguf, &LoadOptions { slots: Some(999), ..options.clone() }).err().unwrap().to_string();
        assert!(later.contains("999"), "{later}");
        assert_eq!(plan(&[8, 16, 999]), Err(later));
    }
}
