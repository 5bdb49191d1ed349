//! Is the engine numerically right? Replays a [`Reference`] that peers made on the same model file.
//!
//! Every prompt is read teacher-forced (the given tokens, whatever the model would say), in several chunk sizes; chunks
//! of one token also show which experts each token was routed to. Float references are judged by the largest absolute
//! difference of a logit, by routing and by greedy text; quantized ones by normalised squared error, with llama.cpp's
//! own on the same file as the yardstick (both round activations; the reference does not). `docs/models.md` has why.

use super::reference::{best_and_lead, Kind, Prompt, Reference, ReferenceError};
use crate::events::{LoadOptions, Phase, StepRecord, When};
use crate::experts::Experts;
use crate::gguf::{Gguf, GgufError};
use crate::kernels::Pool;
use crate::model::{self, Logits, Model, ModelError};
use serde::Serialize;
use std::path::Path;

/// Largest difference of a logit from a float reference (whose logits spread by about 2.5).
pub const FLOAT_TOLERANCE: f32 = 2e-3;
/// The same where keys and values have 16 bits: that alone makes up to half of it, on the CPU.
pub const HALF_CACHE_TOLERANCE: f32 = 5e-2;
/// At a router margin below this, rounding alone may swap the last chosen expert for the next one.
pub const ROUTE_MARGIN: f32 = 1e-4;
/// The same where keys and values have 16 bits. One of gpt-oss's fixture is 2.9e-3, and goes the other way then.
pub const HALF_CACHE_ROUTE_MARGIN: f32 = 3e-3;
/// On a quantized file, the best token must be the oracle's where that leads by more than this.
pub const CLEAR_GAP: f32 = 0.5;
/// How many times llama.cpp's own the error on a quantized file may be: in the median, in the mean.
pub const PEER_FACTORS: (f64, f64) = (2.0, 3.0);

/// Why a check could not be made. (A check that was made and found something is a [`Report`].)
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The reference can't be used.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The reference was made for another model.
    #[error("the reference was made for another model: {0}")]
    OtherModel(String),
    /// The model file is no usable GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model can't be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// How a check is made.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// If given, the largest absolute difference of a logit decides alone.
    pub tolerance: Option<f32>,
    /// Every prompt is read once for each, in chunks of so many tokens. Routing is compared only if 1 is among them.
    pub chunks: Vec<usize>,
    /// Slots, policy, budget and threads. Context and the precision of keys and values are the check's own.
    pub load: LoadOptions,
    /// Slots per layer after each chunk, in turn, over and over. Empty: they stay.
    pub resize: Vec<usize>,
    /// Keys and values of 16 bits, as chats have them, instead of 32.
    pub kv_f16: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { tolerance: None, chunks: vec![usize::MAX, 7, 1], load: LoadOptions::default(), resize: Vec::new(), kv_f16: false }
    }
}

/// Equal things out of things compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Equal.
    pub equal: usize,
    /// Compared.
    pub of: usize,
}

impl Share {
    fn add(&mut self, equal: bool) {
        self.equal += usize::from(equal);
        self.of += 1;
    }
    fn differ(self) -> bool {
        self.equal != self.of
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}/{}", self.equal, self.of))
    }
}

/// What was found for one prompt. Errors and counts are over all chunk sizes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PromptReport {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Largest absolute difference of a logit; infinite if a logit was not a number.
    pub max_abs: f32,
    /// The first position at which rounding swapped experts whose scores are too close for it: what follows was computed with another expert, so that
    /// differences of logits are judged up to there.
    pub swapped: Option<Swapped>,
    /// Normalised squared error of the positions, `sum((a - b)^2) / sum(b^2)` over the vocabulary: the median.
    pub nmse_median: f64,
    /// The same: the mean.
    pub nmse_mean: f64,
    /// Positions whose best token is the reference's.
    pub top1: Share,
    /// The same, of those where the reference's best token leads by more than [`CLEAR_GAP`].
    pub top1_clear: Share,
    /// Sets of experts that are the reference's, over layers and tokens whose margin exceeds [`ROUTE_MARGIN`] (or [`HALF_CACHE_ROUTE_MARGIN`]).
    pub routes: Option<Share>,
    /// Leading tokens of the greedy text that are the reference's, of its length.
    pub greedy: Option<Share>,
}

/// A choice of experts that was too close to call, and went the other way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Swapped {
    /// Of the token.
    pub position: usize,
    /// By which the last expert that the reference chose leads the next.
    pub margin: f32,
    /// Positions before it whose logits are known.
    pub judged: usize,
    /// Largest absolute difference of a logit there.
    pub max_abs_before: f32,
}

/// The whole check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What the reference was computed with.
    pub kind: Kind,
    /// One per prompt.
    pub prompts: Vec<PromptReport>,
    /// Largest absolute difference of a logit.
    pub max_abs: f32,
    /// Median and mean of all positions' normalised squared errors.
    pub nmse: (f64, f64),
    /// llama.cpp's, on the same file and positions; quantized references only.
    pub peer_nmse: Option<(f64, f64)>,
    /// llama.cpp's positions with the reference's best token; quantized references only.
    pub peer_top1: Option<Share>,
    /// What is past the acceptance, in words. Empty: passed.
    pub failures: Vec<String>,
}

impl Report {
    /// Nothing is past the acceptance.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "prompt  tokens   max |d|  nmse median  nmse mean       top-1       routes   greedy")?;
        let share = |s: Option<Share>| s.map_or_else(|| "-".to_owned(), |s| s.to_string());
        for (i, p) in self.prompts.iter().enumerate() {
            write!(f, "{i:>6}  {:>6}  {:>8.1e}  {:>11.1e}  {:>9.1e}", p.tokens, p.max_abs, p.nmse_median, p.nmse_mean)?;
            writeln!(f, "  {:>10}  {:>11}  {:>7}", p.top1, share(p.routes), share(p.greedy))?;
        }
        writeln!(f, "all: max |d| {:.1e}, nmse median {:.1e}, mean {:.1e}", self.max_abs, self.nmse.0, self.nmse.1)?;
        if let Some((median, mean)) = self.peer_nmse {
            let top1 = share(self.peer_top1);
            writeln!(f, "llama.cpp on the same file: nmse median {median:.1e}, mean {mean:.1e}, top-1 {top1}")?;
        }
        for (i, p) in self.prompts.iter().enumerate() {
            if let Some(Swapped { position, margin, max_abs_before, .. }) = p.swapped {
                writeln!(f, "prompt {i}: at position {position} experts were swapped whose scores differ by {margin:.1e}; max |d| before it {max_abs_before:.1e}")?;
            }
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        if self.passed() {
            writeln!(f, "passed")?;
        }
        Ok(())
    }
}

/// Checks the model file `model` against the reference archive `reference`.
///
/// # Errors
/// A file that can't be read, run, or that does not belong to the other. Differences are in the report instead.
pub fn check(model: &Path, reference: &Path, options: &CheckOptions) -> Result<Report, CheckError> {
    let reference = Reference::read(reference)?;
    check_file(&Gguf::open(model)?, &reference, options)
}

/// The same for an open file and a reference in memory.
///
/// # Errors
/// As [`check`].
pub fn check_file(gguf: &Gguf, reference: &Reference, options: &CheckOptions) -> Result<Report, CheckError> {
    let longest = reference.prompts.iter().map(|p| p.ids.len() + p.greedy.len()).max().unwrap_or(0);
    // What guesses is no part of what is checked, and would be one more layer in records.
    let load = LoadOptions { context: Some(longest + 1), kv_f32: !options.kv_f16, draft: When::Never, ..options.load.clone() };
    let threads = load.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let mut opened = model::open(gguf, &load, Pool::new(threads))?;
    // What is checked is what a long session does.
    opened.experts.hold_all();
    let resize = Box::new(options.resize.clone().into_iter().cycle());
    let mut subject = Subject { model: opened.model, experts: opened.experts, record: StepRecord::default(), resize };
    if subject.model.vocab() != reference.vocab {
        let (ours, theirs) = (subject.model.vocab(), reference.vocab);
        return Err(CheckError::OtherModel(format!("it has a vocabulary of {theirs} tokens, the model one of {ours}")));
    }
    let mut errors = Vec::new();
    let mut prompts = Vec::new();
    for prompt in &reference.prompts {
        prompts.push(subject.compare(prompt, reference, options, &mut errors)?);
    }
    let mut peer = Vec::new();
    for p in &reference.prompts {
        let rows = p.peer.iter().flat_map(|l| l.chunks_exact(reference.vocab));
        peer.extend(rows.zip(p.logits.chunks_exact(reference.vocab)).map(|(a, b)| nmse(a, b)));
    }
    let mut peer_top1 = None;
    for p in &reference.prompts {
        for (theirs, best) in p.peer_argmax.iter().flatten().zip(&p.argmax) {
            peer_top1.get_or_insert_with(Share::default).add(theirs == best);
        }
    }
    let peer_nmse = (!peer.is_empty()).then(|| median_and_mean(&mut peer));
    let mut report = Report {
        kind: reference.kind,
        max_abs: prompts.iter().fold(0.0, |m: f32, p| m.max(p.max_abs)),
        prompts,
        nmse: median_and_mean(&mut errors),
        peer_nmse,
        peer_top1,
        failures: Vec::new(),
    };
    judge(&mut report, options);
    Ok(report)
}

/// Fills `failures` by the acceptance.
fn judge(report: &mut Report, &CheckOptions { tolerance, kv_f16, .. }: &CheckOptions) {
    let mut failures = Vec::new();
    let of_floats = if kv_f16 { HALF_CACHE_TOLERANCE } else { FLOAT_TOLERANCE };
    let limit = tolerance.or((report.kind == Kind::Float).then_some(of_floats));
    for (i, p) in report.prompts.iter().enumerate() {
        // What is no number is wrong wherever it is.
        let max_abs = p.swapped.filter(|_| p.max_abs.is_finite()).map_or(p.max_abs, |s| s.max_abs_before);
        if let Some(Swapped { position, judged: 0, .. }) = p.swapped {
            failures.push(format!("prompt {i}: experts were swapped at position {position}, before the first logit that can be judged"));
        }
        if limit.is_some_and(|limit| max_abs > limit) {
            failures.push(format!("prompt {i}: a logit differs by {max_abs:.2e}, allowed {:.2e}", limit.unwrap_or(0.0)));
        }
        if tolerance.is_some() {
            continue;
        }
        if p.top1_clear.differ() {
            let n = p.top1_clear.of - p.top1_clear.equal;
            failures.push(format!("prompt {i}: {n} positions with another best token where it leads by more than {CLEAR_GAP}"));
        }
        if let Some(r) = p.routes.filter(|r| r.differ()) {
            failures.push(format!("prompt {i}: experts differ {} times of {}", r.of - r.equal, r.of));
        }
        if let Some(g) = p.greedy.filter(|g| g.differ()) {
            failures.push(format!("prompt {i}: greedy text parts after {} of {} tokens", g.equal, g.of));
        }
    }
    if let (None, Some(peer)) = (tolerance, report.peer_nmse) {
        let ((median, mean), limit) = (report.nmse, (PEER_FACTORS.0 * peer.0, PEER_FACTORS.1 * peer.1));
        let past = |error: f64, limit: f64| error.is_nan() || error > limit;
        if past(median, limit.0) {
            failures.push(format!("median error {median:.2e}, allowed {:.2e} ({} times llama.cpp's)", limit.0, PEER_FACTORS.0));
        }
        if past(mean, limit.1) {
            failures.push(format!("mean error {mean:.2e}, allowed {:.2e} ({} times llama.cpp's)", limit.1, PEER_FACTORS.1));
        }
    }
    report.failures = failures;
}

/// The model under test.
struct Subject {
    model: Box<dyn Model>,
    experts: Experts,
    record: StepRecord,
    /// Slots after the next steps.
    resize: Box<dyn Iterator<Item = usize>>,
}

impl Subject {
    fn step(&mut self, tokens: &[u32], logits: Logits) -> Result<Vec<f32>, ModelError> {
        let phase = if tokens.len() == 1 { Phase::Decode } else { Phase::Prefill };
        self.experts.begin_step(phase, tokens.len());
        let out = self.model.forward(tokens, &mut self.experts, logits, &|| false);
        self.experts.end_step(&mut self.record);
        self.experts.fill_up();
        let out = out?;
        if let Some(slots) = self.resize.next() {
            self.experts.resize(slots)?;
        }
        Ok(out.unwrap_or_default())
    }

    fn compare(
        &mut self,
        prompt: &Prompt,
        reference: &Reference,
        options: &CheckOptions,
        all: &mut Vec<f64>,
    ) -> Result<PromptReport, CheckError> {
        if let Some(id) = prompt.ids.iter().find(|id| **id as usize >= reference.vocab) {
            return Err(CheckError::OtherModel(format!("a prompt has token {id}, the vocabulary only {}", reference.vocab)));
        }
        let mut report = PromptReport { tokens: prompt.ids.len(), ..PromptReport::default() };
        let mut errors = Vec::new();
        let mut last = Vec::new();
        let mut differences = Vec::new();
        let close = if options.kv_f16 { HALF_CACHE_ROUTE_MARGIN } else { ROUTE_MARGIN };
        for &size in &options.chunks {
            self.model.truncate(0);
            let mut position = 0;
            let mut stored = 0;
            for chunk in prompt.ids.chunks(size.max(1)) {
                let logits = self.step(chunk, Logits::All)?;
                if chunk.len() == 1 {
                    self.compare_routes(prompt, position, reference.layers, close, &mut report)?;
                }
                for row in logits.chunks_exact(reference.vocab) {
                    let best = best_and_lead(row).0 == prompt.argmax[position];
                    report.top1.add(best);
                    if prompt.gap[position] > CLEAR_GAP {
                        report.top1_clear.add(best);
                    }
                    if prompt.at.get(stored) == Some(&position) {
                        let expected = &prompt.logits[stored * reference.vocab..][..reference.vocab];
                        differences.push((position, max_difference(row, expected)));
                        errors.push(nmse(row, expected));
                        stored += 1;
                    }
                    position += 1;
                    last.clear();
                    last.extend_from_slice(row);
                }
            }
        }
        if !prompt.greedy.is_empty() && !last.is_empty() {
            report.greedy = Some(self.greedy(&prompt.greedy, last)?);
        }
        let most = |until: usize| differences.iter().filter(|(at, _)| *at < until).map(|(_, d)| *d).fold(0.0, f32::max);
        report.max_abs = most(usize::MAX);
        if let Some(swapped) = &mut report.swapped {
            swapped.max_abs_before = most(swapped.position);
            swapped.judged = prompt.at.iter().filter(|at| **at < swapped.position).count();
        }
        all.extend_from_slice(&errors);
        (report.nmse_median, report.nmse_mean) = median_and_mean(&mut errors);
        Ok(report)
    }

    /// Compares the experts of the one token that the last step read.
    fn compare_routes(
        &self,
        prompt: &Prompt,
        token: usize,
        layers: Option<usize>,
        close: f32,
        report: &mut PromptReport,
    ) -> Result<(), CheckError> {
        let (Some(routes), Some(layers)) = (&prompt.routes, layers) else { return Ok(()) };
        if self.record.layers() != layers {
            let ours = self.record.layers();
            return Err(CheckError::OtherModel(format!("it has {layers} layers with experts, the model {ours}")));
        }
        let share = report.routes.get_or_insert_default();
        for layer in 0..layers {
            let at = layer * prompt.ids.len() + token;
            let mut expected = routes.ids[at * routes.top_k..][..routes.top_k].to_vec();
            let mut ours: Vec<u32> = self.record.layer(layer).iter().map(|r| u32::from(r.expert)).collect();
            expected.sort_unstable();
            ours.sort_unstable();
            let margin = routes.margin[at];
            // Behind a swap the hidden states are others.
            if report.swapped.is_some_and(|s| s.position < token) {
                continue;
            }
            if margin > close {
                share.add(ours == expected);
            } else if ours != expected && report.swapped.is_none_or(|s| s.position > token) {
                report.swapped = Some(Swapped { position: token, margin, judged: 0, max_abs_before: 0.0 });
            }
        }
        Ok(())
    }

    /// Goes on from the prompt by best tokens until the text parts from the expected one.
    fn greedy(&mut self, expected: &[u32], mut logits: Vec<f32>) -> Result<Share, CheckError> {
        let mut share = Share { equal: 0, of: expected.len() };
        for token in expected {
            let (best, _) = best_and_lead(&logits);
            if best != *token {
                break;
            }
            share.equal += 1;
            if share.differ() {
                logits = self.step(&[best], Logits::Last)?;
            }
        }
        Ok(share)
    }
}

/// Infinite as soon as one value is not a number.
fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    let difference = |(a, b): (&f32, &f32)| Some((a - b).abs()).filter(|d| d.is_finite()).unwrap_or(f32::INFINITY);
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    error / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()
}

/// Sorts. Of an even number the lower middle; not-a-number counts as the largest.
fn median_and_mean(values: &mut [f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    values.sort_unstable_by(f64::total_cmp);
    (values[(values.len() - 1) / 2], values.iter().sum::<f64>() / values.len() as f64)
}
