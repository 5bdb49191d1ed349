//! What is measured of a model: prompts read, tokens made, and what the slots do meanwhile.

use super::args::{BenchArgs, Task};
use crate::engine::{gauges, open, EngineError};
use crate::events::{Phase, StepRecord, StepTime};
use crate::experts::vram::Rates;
use crate::model::Logits;
use crate::trace::record::Recorder;
use serde::Serialize;
use std::time::{Duration, Instant};

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
    pub(super) trunk: f64,
    pub(super) hits: f64,
    pub(super) misses: f64,
    pub(super) upload: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// As it was named.
    pub(super) model: String,
    /// The program and its version.
    pub(super) build: String,
    /// What computes, with its threads.
    pub(super) device: String,
    /// Tokens of a prompt.
    pub(super) prompt: usize,
    /// Tokens generated after it.
    pub(super) gen: usize,
    /// Runs that counted.
    pub(super) repeat: usize,
    /// Slots per layer.
    pub(super) slots: usize,
    /// Experts per layer.
    pub(super) experts: usize,
    /// Prompt tokens per second.
    pub(super) prompt_tps: Spread,
    /// Generated tokens per second.
    pub(super) gen_tps: Spread,
    /// Hits among the routed experts of generation, 0 to 1.
    pub(super) hit_rate: f64,
    /// The same in the run before them, which began with empty slots and read its prompt with them.
    pub(super) first_hit_rate: f64,
    /// Bytes of experts read from host memory per generated token.
    pub(super) missed_bytes: f64,
    /// Bytes copied into slots per generated token.
    pub(super) uploaded_bytes: f64,
    /// Where a token's time went.
    pub(super) step_us: Split,
    /// Kernels launched per generated token; nothing on the CPU.
    pub(super) launches: Option<f64>,
    /// Most memory that the process ever had, bytes.
    pub(super) rss_peak: u64,
    /// What the memory plan came to, bytes of host memory; nothing where a device has the model.
    pub(super) planned: Option<u64>,
    /// Pages of the file come on top of the plan: no budget holds them, and the system takes them back when it needs the room.
    pub(super) unbounded: bool,
    /// Bytes of experts that were held in memory of the process while it was measured, and of them the page-locked ones.
    pub(super) held: u64,
    pub(super) locked: u64,
    /// By which misses were split at the end, where a device is; bytes per second and seconds. `fill` is `null` where nothing needs filling.
    pub(super) rates: Option<Rates>,
}

/// A random token; with topics, one whose id leaves the topic's number, which changes every 24 tokens in the mean.
pub(super) fn token(rng: &mut fastrand::Rng, vocab: u32, topics: Option<u32>, topic: &mut u32) -> u32 {
    let Some(topics) = topics else { return rng.u32(..vocab) };
    if rng.u32(..24) == 0 {
        *topic = rng.u32(..topics);
    }
    rng.u32(..(vocab / topics).max(1)) * topics + *topic
}

pub(super) fn measure(
    args: &BenchArgs,
    task: &Task,
    model: open::Bare,
    mut recorder: Option<&mut Recorder>,
) -> Result<Figures, EngineError> {
    let open::Bare { mut runtime, config, device, watched, plan, .. } = model;
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
    let mut first = (0, 0);
    let mut record = StepRecord::default();
    for round in 0..=task.repeat {
        let counts = round > 0;
        runtime.truncate(0);
        let (prompt, gen) = (ids(task.prompt), ids(task.gen));
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
            let (h, r) = record.hits_and_routed();
            if !counts {
                first = (first.0 + h, first.1 + r);
            } else {
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
            pp.push(task.prompt as f64 / prompt_s);
            if task.gen > 0 {
                tg.push(task.gen as f64 / begin.elapsed().as_secs_f64());
            }
        }
    }
    let share = |hits: u64, routed: u64| if routed == 0 { 0.0 } else { hits as f64 / routed as f64 };
    let per_token = |x: u64| x as f64 / (task.gen * task.repeat).max(1) as f64;
    Ok(Figures {
        model: args.model.clone().unwrap_or_default(),
        build: format!("rotary {}", env!("CARGO_PKG_VERSION")),
        device,
        prompt: task.prompt,
        gen: task.gen,
        repeat: task.repeat,
        slots: runtime.slots(),
        experts: config.experts,
        prompt_tps: Spread::of(&pp),
        gen_tps: Spread::of(&tg),
        hit_rate: share(hits, routed),
        first_hit_rate: share(first.0, first.1),
        missed_bytes: per_token(missed),
        uploaded_bytes: per_token(uploaded),
        step_us: Split { trunk: per_token(time[0]), hits: per_token(time[1]), misses: per_token(time[2]), upload: per_token(time[3]) },
        launches: watched.is_some().then(|| per_token(launches)),
        rss_peak: gauges::process_memory().rss_peak,
        planned: plan.device.is_none().then(|| plan.together()),
        unbounded: plan.budget.is_none() && plan.slots_per_layer < plan.max_slots,
        held: 0,
        locked: 0,
        rates: runtime.rates(),
    })
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
