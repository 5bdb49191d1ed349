//! `rotary bench`: how fast prompts are read and tokens made, and what the slots do meanwhile.
//!
//! Token ids are drawn at random with a fixed seed, in the prompt as in the generation, so the figures depend on no
//! tokenizer and on nothing that the model says. Random text routes less evenly in time than real text: real chats
//! usually hit more.

mod along;

use super::plan;
use crate::cli::{configuration, find_model, recorder, tell_idle, whole, Failure, Load};
use crate::engine::{gauges, open, EngineError};
use crate::events::{Event, ModelCard, Phase, Sampling, StepRecord, StepTime};
use crate::experts::vram::Rates;
use crate::gguf::{GgmlType, Gguf};
use crate::kernels;
use crate::model::Logits;
use crate::size::size;
use crate::trace::record::Recorder;
use clap::Args;
use color_eyre::eyre;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Arguments of `rotary bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Path, downloaded name, or demo
    #[arg(required_unless_present_any = ["kernels", "profile"])]
    model: Option<String>,
    /// No model: GB/s and GMAC/s of the CPU's matrix products, type by type
    #[arg(long, conflicts_with = "model")]
    kernels: bool,
    /// With --kernels: only these types, such as q4_K,iq4_xs
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',', requires = "kernels", value_parser = weight_type)]
    types: Vec<GgmlType>,
    /// No model: measure this machine and write its profile for `rotary simulate` [default: profiles/this-machine.toml
    /// in the configuration folder]
    #[arg(long, value_name = "FILE.toml", num_args = 0..=1, conflicts_with_all = ["model", "kernels"])]
    profile: Option<Option<PathBuf>>,
    /// Record routing and times of all steps into a file, for `rotary simulate`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernels", "profile"])]
    trace: Option<PathBuf>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<usize>)]
    prompt: usize,
    /// Tokens to generate after it
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = whole::<usize>)]
    gen: usize,
    /// Runs that count, after one that warms up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole::<usize>)]
    repeat: usize,
    /// Draw tokens that stay with a topic for a while: so many topics, by the rest of their id; tests/gpu/big_model.py has files whose
    /// routing follows them
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    topics: Option<u32>,
    /// On a GPU that holds every expert: of so many tokens, one goes layer by layer, so that its hits are timed; 1: all of them do
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u32).range(1..))]
    timed_every: Option<u32>,
    /// Instead: time steps that read up to N likely tokens along, beside those of one, and say how often these must be right for it to pay
    #[arg(long, value_name = "N", conflicts_with_all = ["kernels", "profile", "trace"], value_parser = clap::value_parser!(u8).range(1..=7))]
    along: Option<u8>,
    #[command(flatten)]
    load: Load,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn weight_type(name: &str) -> Result<GgmlType, String> {
    GgmlType::from_name(name).filter(|&ty| kernels::supported(ty)).ok_or_else(|| {
        let known: Vec<_> = GgmlType::all().filter(|&ty| kernels::supported(ty)).map(GgmlType::name).collect();
        format!("no such type; there are {}", known.join(", "))
    })
}

/// Mean and sample standard deviation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; 0 for a single value.
    pub sd: f64,
}

impl Spread {
    /// Of `values`; zeros if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        if values.is_empty() {
            return Self::default();
        }
        let mean = values.iter().sum::<f64>() / n;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        Self { mean, sd: if values.len() > 1 { (var / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

/// Mean microseconds of a generated token by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Split {
    trunk: f64,
    hits: f64,
    misses: f64,
    upload: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    model: String,
    device: String,
    prompt: usize,
    gen: usize,
    repeat: usize,
    slots: usize,
    experts: usize,
    /// Prompt tokens per second.
    prompt_tps: Spread,
    /// Generated tokens per second.
    gen_tps: Spread,
    /// Hits among the routed experts of generation, 0 to 1.
    hit_rate: f64,
    /// Bytes of experts read from host memory per generated token.
    missed_bytes: f64,
    /// Bytes copied into slots per generated token.
    uploaded_bytes: f64,
    step_us: Split,
    /// Kernels launched per generated token; nothing on the CPU.
    launches: Option<f64>,
    rss_peak: u64,
    /// Bytes of experts that were held in memory of the process while it was measured, and of them the page-locked ones.
    held: u64,
    locked: u64,
    /// By which misses were split at the end, where a device is; bytes per second and seconds. `fill` is `null` where nothing needs filling.
    rates: Option<Rates>,
}

/// Measure and print.
pub fn run(args: &BenchArgs) -> eyre::Result<ExitCode> {
    if args.repeat == 0 || args.prompt == 0 {
        return Err(Failure::usage("--repeat and --prompt must be at least 1").into());
    }
    let config = configuration();
    if args.kernels {
        let pool = kernels::Pool::new(args.load.options(&config).threads.unwrap_or(0));
        kernels::bench(&pool, &args.types, Duration::from_millis(300), &mut std::io::stdout())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.profile {
        return super::machine::run(file.as_deref(), args.load.options(&config).threads, args.json);
    }
    let name = args.model.clone().unwrap_or_default();
    let source = find_model(&name, &config)?;
    let gguf = open::map(&source).map_err(Failure::from)?;
    let mut options = args.load.options(&config);
    // With --along, so many rounds of steps of every length.
    let needed = args.prompt
        + args.along.map_or(args.gen, |n| {
            let most = 1 + usize::from(n);
            args.gen.saturating_add(1).saturating_mul(most * (most + 1) / 2)
        });
    options.context.get_or_insert(needed + 1);
    let mut model = open::bare(&gguf, &options).map_err(Failure::from)?;
    tell_idle(&options, &model.plan, model.proof.is_some());
    if let Some(told) = model.told.as_ref().filter(|_| args.json) {
        eprintln!("rotary: {told}");
    }
    // Figures are those of a session that lasts.
    let held = model.runtime.hold_all();
    if needed > model.plan.context {
        return Err(Failure::usage(format!("{needed} tokens do not fit into a context of {}; raise --ctx", model.plan.context)).into());
    }
    if !args.json {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", model.device)?;
        model.told.as_ref().map_or(Ok(()), |told| writeln!(out, "{told}"))?;
        write!(out, "{}", plan::table(&model.plan))?;
        held.map_or(Ok(()), |held| writeln!(out, "{held}"))?;
        out.flush()?;
    }
    if let Some(along) = args.along {
        let rows = measure_along(args, usize::from(along), model).map_err(Failure::from)?;
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
        r.event(&Event::Ready { card: Box::new(card(&gguf, &name, &model)) });
    }
    let held = held.unwrap_or_default();
    let figures = measure(args, model, recorder.as_mut()).map_err(Failure::from)?;
    let figures = Figures { held: held.bytes, locked: held.locked, ..figures };
    if let (Some(r), Some(file)) = (recorder, &args.trace) {
        r.finish().map_err(|e| Failure::failed(format!("{}: the recording is not whole: {e}", file.display())))?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &figures)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table(&figures))?;
    }
    Ok(ExitCode::SUCCESS)
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

fn measure(args: &BenchArgs, model: open::Bare, mut recorder: Option<&mut Recorder>) -> Result<Figures, EngineError> {
    let open::Bare { mut runtime, config, device, watched, .. } = model;
    if let Some(tokens) = args.timed_every {
        runtime.time_hits_every(tokens);
    }
    let launched = || watched.as_ref().map_or(0, |w| w.device.launches());
    let mut launches = 0;
    let mut steps = 0;
    let mut note = |record: &mut StepRecord, position: usize, took: Duration| {
        let Some(r) = &mut recorder else { return };
        let t = &mut record.time;
        t.total_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        t.trunk_us = t.total_us.saturating_sub(t.hits_us.saturating_add(t.misses_us).saturating_add(t.upload_us));
        record.step = steps;
        record.position = position as u32;
        record.context_used = position as u32 + record.tokens;
        steps += 1;
        r.step(record);
    };
    let mut rng = fastrand::Rng::with_seed(0x726f_7461_7279);
    let vocab = (config.vocab.max(1) as u32).max(args.topics.unwrap_or(1));
    let mut topic = 0;
    let mut ids = |n: usize| -> Vec<u32> { (0..n).map(|_| token(&mut rng, vocab, args.topics, &mut topic)).collect() };
    let (mut pp, mut tg) = (Vec::new(), Vec::new());
    let (mut hits, mut routed, mut missed, mut uploaded, mut time) = (0, 0, 0u64, 0u64, [0u64; 4]);
    let mut record = StepRecord::default();
    for round in 0..=args.repeat {
        let counts = round > 0;
        runtime.truncate(0);
        let (prompt, gen) = (ids(args.prompt), ids(args.gen));
        let begin = Instant::now();
        let chunks = prompt.chunks(runtime.chunk().max(1)).collect::<Vec<_>>();
        for (i, chunk) in chunks.iter().enumerate() {
            let logits = if i + 1 == chunks.len() { Logits::Last } else { Logits::None };
            record.phase = Phase::Prefill;
            record.time = StepTime::default();
            let (position, step) = (runtime.len(), Instant::now());
            runtime.step(chunk, logits, &|| false, &mut record)?;
            note(&mut record, position, step.elapsed());
        }
        let prompt_s = begin.elapsed().as_secs_f64();
        let (begin, before) = (Instant::now(), launched());
        for &id in &gen {
            let step = Instant::now();
            record.phase = Phase::Decode;
            record.time = StepTime::default();
            let position = runtime.len();
            runtime.step(&[id], Logits::Last, &|| false, &mut record)?;
            let took = step.elapsed();
            if counts {
                let (h, r) = record.hits_and_routed();
                hits += h;
                routed += r;
                missed += record.bytes_missed;
                uploaded += record.bytes_uploaded;
                let t = record.time;
                let experts = u64::from(t.hits_us) + u64::from(t.misses_us) + u64::from(t.upload_us);
                time[0] += (took.as_micros() as u64).saturating_sub(experts);
                time[1] += u64::from(t.hits_us);
                time[2] += u64::from(t.misses_us);
                time[3] += u64::from(t.upload_us);
            }
            note(&mut record, position, took);
        }
        if counts {
            launches += launched() - before;
            pp.push(args.prompt as f64 / prompt_s);
            if args.gen > 0 {
                tg.push(args.gen as f64 / begin.elapsed().as_secs_f64());
            }
        }
    }
    let per_token = |x: u64| x as f64 / (args.gen * args.repeat).max(1) as f64;
    Ok(Figures {
        model: args.model.clone().unwrap_or_default(),
        device,
        prompt: args.prompt,
        gen: args.gen,
        repeat: args.repeat,
        slots: runtime.slots(),
        experts: config.experts,
        prompt_tps: Spread::of(&pp),
        gen_tps: Spread::of(&tg),
        hit_rate: if routed == 0 { 0.0 } else { hits as f64 / routed as f64 },
        missed_bytes: per_token(missed),
        uploaded_bytes: per_token(uploaded),
        step_us: Split { trunk: per_token(time[0]), hits: per_token(time[1]), misses: per_token(time[2]), upload: per_token(time[3]) },
        launches: watched.is_some().then(|| per_token(launches)),
        rss_peak: gauges::process_memory().rss_peak,
        held: 0,
        locked: 0,
        rates: runtime.rates(),
    })
}

/// Times of steps that read several tokens, after a prompt.
fn measure_along(args: &BenchArgs, along: usize, model: open::Bare) -> Result<Vec<along::Along>, EngineError> {
    let open::Bare { mut runtime, config, .. } = model;
    let mut rng = fastrand::Rng::with_seed(0x726f_7461_7279);
    let vocab = (config.vocab.max(1) as u32).max(args.topics.unwrap_or(1));
    let mut topic = 0;
    let mut next = || token(&mut rng, vocab, args.topics, &mut topic);
    let prompt: Vec<u32> = (0..args.prompt).map(|_| next()).collect();
    let mut record = StepRecord { phase: Phase::Prefill, ..StepRecord::default() };
    for chunk in prompt.chunks(runtime.chunk().max(1)) {
        runtime.step(chunk, Logits::Last, &|| false, &mut record)?;
    }
    along::measure(runtime.as_mut(), along, args.gen, &mut next)
}

/// A random token; with topics, one whose id leaves the topic's number, which changes every 24 tokens in the mean.
fn token(rng: &mut fastrand::Rng, vocab: u32, topics: Option<u32>, topic: &mut u32) -> u32 {
    let Some(topics) = topics else { return rng.u32(..vocab) };
    if rng.u32(..24) == 0 {
        *topic = rng.u32(..topics);
    }
    rng.u32(..(vocab / topics).max(1)) * topics + *topic
}

fn table(f: &Figures) -> String {
    let s = f.step_us;
    let total = s.trunk + s.hits + s.misses + s.upload;
    let part = |x: f64| if total > 0.0 { format!("{:.2} ms ({:.0} %)", x / 1e3, 100.0 * x / total) } else { "-".into() };
    let mut out =
        format!("prompt      {:>9.1} tokens/s  +- {:.1}  ({} tokens, {} runs)\n", f.prompt_tps.mean, f.prompt_tps.sd, f.prompt, f.repeat);
    if f.gen > 0 {
        out += &format!("generation  {:>9.1} tokens/s  +- {:.1}  ({} tokens, {} runs)\n", f.gen_tps.mean, f.gen_tps.sd, f.gen, f.repeat);
        out += &format!("hit rate    {:>9.1} %         {} of {} experts per layer in slots\n", 100.0 * f.hit_rate, f.slots, f.experts);
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
    out += &format!("peak memory {:>9}\n", size(f.rss_peak));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_a_topic_follow_each_other() {
        let (mut rng, mut topic) = (fastrand::Rng::with_seed(1), 0);
        let ids: Vec<u32> = (0..5000).map(|_| token(&mut rng, 1000, Some(12), &mut topic)).collect();
        assert!(ids.iter().all(|id| *id < 1000));
        let changes = ids.windows(2).filter(|w| w[0] % 12 != w[1] % 12).count();
        assert!((100..300).contains(&changes), "{changes} changes");
        assert!((0..12).all(|t| ids.iter().any(|id| id % 12 == t)));
    }

    #[test]
    fn spread_is_the_sample_deviation() {
        assert_eq!(Spread::of(&[]), Spread::default());
        assert_eq!(Spread::of(&[3.0]), Spread { mean: 3.0, sd: 0.0 });
        let s = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(s.mean, 5.0);
        assert!((s.sd - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
    }
}
