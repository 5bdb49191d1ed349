//! `rotary bench --profile`: measures this machine and writes its profile for `rotary simulate`.
//!
//! Two made-up models with random weights run through the engine itself, so that the figures are those of real steps. In the
//! *tiny* one bytes count for nothing: two depths of it give what a step and a layer cost whatever their size, and few slots
//! what misses and copies cost beside their bytes. The *large* one has layers like Qwen3-30B-A3B's in Q4_K, more of them
//! than caches hold, in a mapped file as real models are: its times, less those costs, give bandwidths. Every figure is
//! the lower quartile over tokens: other programs only ever add time.

use super::doctor::read_speed;
use crate::cli::{cant_record, exit, Failure};
use crate::config::Folders;
use crate::engine::{gauges, open};
use crate::events::{LoadOptions, Outcome, Phase, StepRecord, StepTime};
use crate::gguf::write::Writer;
use crate::gguf::{GgmlType, Gguf};
use crate::kernels::{self, random_weights, Pool};
use crate::model::Logits;
use crate::size::size;
use crate::trace::profile::{Bandwidth, Cost, Misses, Profile};
use crate::trace::record::create_file;
use color_eyre::eyre;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Tokens of the prompt that warms the slots, and tokens that are measured.
const PROMPT: usize = 64;
const TOKENS: usize = 96;
/// Rounds of each run, taking turns.
const ROUNDS: usize = 3;
/// Memory that the large model may take with its slots.
const NEEDS: u64 = 1 << 30;

/// Shape of a made-up `qwen3moe` model.
#[derive(Clone, Copy)]
struct Shape {
    layers: usize,
    hidden: usize,
    ff: usize,
    experts: usize,
    top_k: usize,
    heads: usize,
    groups: usize,
    head_dim: usize,
    vocab: usize,
    ty: GgmlType,
}

const TINY: Shape =
    Shape { layers: 2, hidden: 64, ff: 32, experts: 32, top_k: 8, heads: 2, groups: 1, head_dim: 32, vocab: 256, ty: GgmlType::Q8_0 };

const LARGE: Shape =
    Shape { layers: 2, hidden: 2048, ff: 768, experts: 48, top_k: 8, heads: 32, groups: 4, head_dim: 128, vocab: 512, ty: GgmlType::Q4K };

impl Shape {
    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let s = *self;
        let mut rng = fastrand::Rng::with_seed(11);
        let mut w = Writer::new("qwen3moe");
        for (key, value) in [
            ("block_count", s.layers),
            ("context_length", PROMPT + TOKENS + 1),
            ("embedding_length", s.hidden),
            ("feed_forward_length", s.ff),
            ("expert_feed_forward_length", s.ff),
            ("attention.head_count", s.heads),
            ("attention.head_count_kv", s.groups),
            ("attention.key_length", s.head_dim),
            ("attention.value_length", s.head_dim),
            ("expert_count", s.experts),
            ("expert_used_count", s.top_k),
        ] {
            w.set(&format!("qwen3moe.{key}"), value);
        }
        w.set("qwen3moe.attention.layer_norm_rms_epsilon", 1e-6f32);
        // Half layers that add nothing leave the hidden state to the token, so that tokens drawn at random route at random.
        let nothing = |cols: usize, rows: usize| vec![0u8; cols * rows / s.ty.block_elems() * s.ty.block_bytes()];
        let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.f32() - 0.5).collect() };
        w.f32_tensor("token_embd.weight", &[s.hidden, s.vocab], &noise(s.hidden * s.vocab));
        let routers: Vec<Vec<f32>> = (0..s.layers).map(|_| noise(s.hidden * s.experts)).collect();
        w.f32_tensor("output_norm.weight", &[s.hidden], &vec![1.0; s.hidden]);
        for (block, router) in routers.iter().enumerate() {
            let name = |part: &str| format!("blk.{block}.{part}.weight");
            for (part, n) in [("attn_norm", s.hidden), ("ffn_norm", s.hidden), ("attn_q_norm", s.head_dim), ("attn_k_norm", s.head_dim)] {
                w.f32_tensor(&name(part), &[n], &vec![1.0; n]);
            }
            let (q, k) = (s.heads * s.head_dim, s.groups * s.head_dim);
            for (part, rows) in [("attn_q", q), ("attn_k", k), ("attn_v", k)] {
                w.tensor(&name(part), s.ty, &[s.hidden, rows], random_weights(s.ty, s.hidden * rows, &mut rng));
            }
            w.tensor(&name("attn_output"), s.ty, &[q, s.hidden], nothing(q, s.hidden));
            w.f32_tensor(&name("ffn_gate_inp"), &[s.hidden, s.experts], router);
            // The same weights in every expert, each at its own place: what is measured is where they are.
            for part in ["ffn_gate_exps", "ffn_up_exps"] {
                let one = random_weights(s.ty, s.hidden * s.ff, &mut rng);
                w.tensor(&name(part), s.ty, &[s.hidden, s.ff, s.experts], one.repeat(s.experts));
            }
            w.tensor(&name("ffn_down_exps"), s.ty, &[s.ff, s.hidden, s.experts], nothing(s.ff, s.hidden).repeat(s.experts));
        }
        w.write(out)
    }
}

/// A file that goes away.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The model in a mapped file, which has no name any more where the system allows that.
fn mapped(shape: &Shape) -> eyre::Result<Gguf> {
    let name = format!("rotary-bench-{}-{:08x}.gguf", std::process::id(), fastrand::u32(..));
    let file = Temporary(std::env::temp_dir().join(name));
    let fail = |e: std::io::Error| Failure::failed(format!("{}: the made-up model can't be written: {e}", file.0.display()));
    let mut out = BufWriter::with_capacity(1 << 20, create_file(&file.0).map_err(fail)?);
    shape.write(&mut out).and_then(|()| out.flush()).map_err(fail)?;
    Ok(open::map(&crate::events::ModelSource::Path(file.0.clone())).map_err(Failure::from)?)
}

/// What one generated token took.
#[derive(Clone, Copy, Debug, Default)]
struct Token {
    total: f64,
    hits: f64,
    misses: f64,
    upload: f64,
    /// Bytes computed from slots, straight from the file, and copied.
    hit_bytes: f64,
    missed_bytes: f64,
    copied_bytes: f64,
    /// Layers in which something was missed and not admitted, or copied.
    passing: f64,
    copying: f64,
}

impl Token {
    fn of(total: f64, r: &StepRecord, expert_bytes: &[u64]) -> Self {
        let t = r.time;
        let mut token = Self {
            total,
            hits: t.hits_us.into(),
            misses: t.misses_us.into(),
            upload: t.upload_us.into(),
            missed_bytes: r.bytes_missed as f64,
            copied_bytes: r.bytes_uploaded as f64,
            ..Self::default()
        };
        for (layer, &bytes) in expert_bytes.iter().enumerate() {
            let count = |outcome| r.layer(layer).iter().filter(|e| e.outcome == outcome).count();
            let (missed, copied) = (count(Outcome::Miss), count(Outcome::Admitted));
            token.hit_bytes += ((r.layer(layer).len() - missed) as u64 * bytes) as f64;
            token.passing += f64::from(u8::from(missed > 0));
            token.copying += f64::from(u8::from(copied > 0));
        }
        token
    }
}

/// A model at a slot count, and what its tokens took.
struct Run {
    model: open::Bare,
    vocab: u32,
    tokens: Vec<Token>,
}

impl Run {
    fn new(gguf: &Gguf, slots: usize, policy: &str, threads: Option<usize>) -> Result<Self, Failure> {
        let context = Some(PROMPT + TOKENS + 1);
        let proofs = Some(Folders::find().proofs());
        let options = LoadOptions { slots: Some(slots), policy: Some(policy.into()), context, threads, proofs, ..LoadOptions::default() };
        let model = open::bare(gguf, &options).map_err(Failure::from)?;
        let vocab = u32::try_from(model.config.vocab).unwrap_or(u32::MAX);
        Ok(Self { model, vocab, tokens: Vec::new() })
    }

    fn round(&mut self, seed: u64) -> Result<(), Failure> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let runtime = &mut self.model.runtime;
        runtime.truncate(0);
        let prompt: Vec<u32> = (0..PROMPT).map(|_| rng.u32(..self.vocab)).collect();
        let mut record = StepRecord { phase: Phase::Prefill, ..StepRecord::default() };
        runtime.step(&prompt, Logits::None, &|| false, &mut record).map_err(Failure::from)?;
        for _ in 0..TOKENS {
            record.phase = Phase::Decode;
            record.time = StepTime::default();
            let begin = Instant::now();
            runtime.step(&[rng.u32(..self.vocab)], Logits::Last, &|| false, &mut record).map_err(Failure::from)?;
            self.tokens.push(Token::of(begin.elapsed().as_secs_f64() * 1e6, &record, &self.model.expert_bytes));
        }
        Ok(())
    }

    /// Lower quartile of a figure over the tokens that have it.
    fn quartile(&self, figure: impl Fn(&Token) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.tokens.iter().map(figure).filter(|x| x.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 4).copied()
    }

    /// GB/s at which `bytes` went through in `us` less `cost`. Upper quartile: the best quarter of tokens in time.
    fn bandwidth(&self, what: &str, bytes: impl Fn(&Token) -> f64, us: impl Fn(&Token) -> f64) -> Result<f64, Failure> {
        // Time per byte; a token that moved nothing has none. Costs never eat up more than half of a measured time.
        let per_byte = self.quartile(|t| if bytes(t) > 0.0 { us(t) / bytes(t) } else { f64::NAN });
        let per_byte = per_byte.filter(|x| *x > 0.0).ok_or_else(|| Failure::failed(format!("no {what} could be measured")))?;
        Ok(1e-3 / per_byte)
    }
}

/// A measured time without the costs that no byte accounts for, at least half of it.
fn less(us: f64, cost: f64) -> f64 {
    (us - cost).max(us / 2.0)
}

/// Measure. `say` is told what is going on.
fn measure(threads: Option<usize>, say: &mut dyn FnMut(&str)) -> eyre::Result<Profile> {
    let available = gauges::process_memory().available;
    if available < NEEDS {
        let message = format!("measuring needs {} of memory, {} are available; close other programs", size(NEEDS), size(available));
        return Err(Failure { code: exit::MEMORY, message }.into());
    }
    say("reading memory");
    let pool = Pool::new(threads.unwrap_or(0));
    let memory = read_speed(&pool, available) / 1e9;
    drop(pool);

    say("a tiny model: costs beside the bytes");
    let deep = Shape { layers: 10, ..TINY };
    let (shallow_file, deep_file) = (mapped(&TINY)?, mapped(&deep)?);
    let mut shallow = Run::new(&shallow_file, TINY.experts, "rotary", threads)?;
    let mut whole = Run::new(&deep_file, TINY.experts, "rotary", threads)?;
    let mut one = Run::new(&deep_file, 1, "rotary", threads)?;
    let mut some = Run::new(&deep_file, TINY.experts / 2, "lru", threads)?;
    for seed in 0..ROUNDS as u64 {
        for run in [&mut shallow, &mut whole, &mut one, &mut some] {
            run.round(seed)?;
        }
    }
    let missing = || Failure::failed("nothing could be measured");
    let more = (deep.layers - TINY.layers) as f64;
    let (two, ten) = (shallow.quartile(|t| t.total).ok_or_else(missing)?, whole.quartile(|t| t.total).ok_or_else(missing)?);
    let layer = ((ten - two) / more).max(0.0);
    let cost = Cost {
        step: (two - layer * TINY.layers as f64).max(0.0),
        layer,
        join: one.quartile(|t| t.misses / t.passing).unwrap_or(0.0),
        copy: some.quartile(|t| t.upload / t.copying).unwrap_or(0.0),
    };
    // The part of a layer's cost that is its experts'.
    let hits = whole.quartile(|t| t.hits).unwrap_or(0.0) / deep.layers as f64;
    drop((shallow, whole, one, some));

    say("layers like those of a 30B model: bandwidths");
    let file = mapped(&LARGE)?;
    let layers = LARGE.layers as f64;
    let run = |slots: usize, policy: &str, rounds: usize| -> Result<Run, Failure> {
        let mut run = Run::new(&file, slots, policy, threads)?;
        (0..rounds as u64).try_for_each(|seed| run.round(seed))?;
        Ok(run)
    };
    let all = run(LARGE.experts, "rotary", ROUNDS)?;
    let vram = all.bandwidth("products from slots", |t| t.hit_bytes, |t| less(t.hits, hits * layers))?;
    let fixed = cost.step + (cost.layer - hits).max(0.0) * layers;
    let trunk_bytes = (all.model.plan.trunk - all.model.plan.looked_up) as f64;
    let trunk = all.bandwidth("trunk", |_| trunk_bytes, |t| less(t.total - t.hits - t.misses - t.upload, fixed))?;
    drop(all);
    let half = run(LARGE.experts / 2, "lru", ROUNDS)?;
    let pcie = half.bandwidth("copies into slots", |t| t.copied_bytes, |t| less(t.upload, t.copying * cost.copy))?;
    drop(half);
    let none = run(1, "rotary", ROUNDS)?;
    let host = none.bandwidth("products of misses", |t| t.missed_bytes, |t| less(t.misses, t.passing * cost.join))?;
    let device = none.model.device.clone();
    Ok(Profile {
        name: format!("this machine ({device})"),
        note: "measured by rotary bench --profile: slots in host memory, Q4_K, nothing side by side".into(),
        misses: Misses::InTurn,
        bandwidth: Bandwidth { vram, trunk, pcie, host, host_while_copying: host, memory: Some(memory) },
        cost,
        capacity: None,
    })
}

/// Where the profile goes if nobody says.
fn usual_place() -> PathBuf {
    Folders::find().profiles().join("this-machine.toml")
}

/// Measure this machine and write its profile to `file`.
///
/// # Errors
/// If the file exists already, can't be written, or there is too little memory.
pub fn run(file: Option<&Path>, threads: Option<usize>, json: bool) -> eyre::Result<ExitCode> {
    let place = file.map_or_else(usual_place, Path::to_path_buf);
    if place.extension().is_none_or(|e| e != "toml") {
        let shown = crate::gguf::shown(&place.display().to_string());
        return Err(Failure::usage(format!("--profile {shown}: write the name of a file that ends in .toml")).into());
    }
    if let Some(folder) = place.parent().filter(|_| file.is_none()) {
        std::fs::create_dir_all(folder).map_err(|e| cant_record(folder, &e))?;
    }
    // Before anything is measured; it goes away again if the measuring fails.
    let mut out = create_file(&place).map_err(|e| {
        let Failure { code, message } = cant_record(&place, &e);
        let again = e.kind() == std::io::ErrorKind::AlreadyExists;
        Failure { code, message: if again { format!("{message}, or remove it to measure again") } else { message } }
    })?;
    let mut say = |what: &str| {
        if !json {
            let _ = writeln!(std::io::stderr().lock(), "measuring: {what}");
        }
    };
    let profile = match measure(threads, &mut say) {
        Ok(profile) => profile,
        Err(e) => {
            let _ = std::fs::remove_file(&place);
            return Err(e);
        }
    };
    out.write_all(profile.to_toml().as_bytes()).and_then(|()| out.sync_all()).map_err(|e| cant_record(&place, &e))?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &profile).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        let shown = crate::gguf::shown(&place.display().to_string());
        write!(out, "{}\nwritten to {shown}\n", profile.to_toml())?;
        let name = if file.is_none() { "this-machine".to_owned() } else { shown };
        writeln!(out, "rotary simulate TRACE --profile {name} uses it ({} with {})", kernels::instruction_set(), profile.misses.name())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiny_model_runs_and_its_tokens_account_for_their_bytes() {
        let gguf = mapped(&TINY).unwrap();
        let mut run = Run::new(&gguf, 1, "rotary", Some(1)).unwrap();
        run.round(1).unwrap();
        assert_eq!(run.tokens.len(), TOKENS);
        let expert = run.model.expert_bytes[0] as f64;
        for t in &run.tokens {
            assert_eq!(t.hit_bytes + t.missed_bytes, expert * (TINY.top_k * TINY.layers) as f64);
            assert!(t.passing == 2.0 && t.total > 0.0);
        }
        let gguf = mapped(&TINY).unwrap();
        let mut half = Run::new(&gguf, TINY.experts / 2, "lru", Some(1)).unwrap();
        half.round(1).unwrap();
        let copied = half.tokens.iter().filter(|t| t.copied_bytes > 0.0).count();
        assert!(copied > TOKENS / 2, "tokens route differently: {copied} of them copied something");
        assert!(run.bandwidth("x", |t| t.missed_bytes, |t| t.misses.max(1.0)).unwrap() > 0.0);
        assert!(run.bandwidth("x", |_| 0.0, |t| t.misses).is_err());
    }

    #[test]
    fn costs_never_eat_up_a_measured_time() {
        assert_eq!((less(100.0, 30.0), less(100.0, 90.0)), (70.0, 50.0));
    }
}
