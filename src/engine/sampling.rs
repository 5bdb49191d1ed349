//! Drawing the next token from the logits.
//!
//! The order is that of the reference implementations (transformers' logits processors and warpers): penalties,
//! temperature, top-k, top-p, min-p, draw. Model cards give their recommended values for this order.
//!
//! top-k, top-p and min-p all keep the best tokens down to some border, so what is searched is that border. It is found by
//! partial selection (`select`) and every weight is computed once: a vocabulary of 250 000 costs a fraction of a
//! millisecond and is never sorted.

mod select;

use crate::events::Sampling;
use crate::gguf::{Gguf, Value};
use select::{best_first, border, top_k, weigh, Candidate};

/// Why no token could be drawn.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A logit is NaN or positive infinity: the weights or the arithmetic are broken.
    #[error("the model computed a logit that is not a number (token {token}): its weights are damaged; check the file against its source")]
    NotFinite {
        /// First vocabulary entry with such a value.
        token: usize,
    },
    /// The model has no vocabulary, or every logit is minus infinity.
    #[error("the model gave no token any probability: its weights are damaged; check the file against its source")]
    Nothing,
}

/// A setting that makes no sense, with its name and the range it may have.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("sampling: {name} is {value}, but must be {range}")]
pub struct SettingError {
    name: &'static str,
    value: f32,
    range: &'static str,
}

/// Refuse settings outside their range, by name.
pub fn validate(s: &Sampling) -> Result<(), SettingError> {
    let check = |name, value: f32, ok: bool, range| if ok { Ok(()) } else { Err(SettingError { name, value, range }) };
    check("temperature", s.temperature, (0.0..=10.0).contains(&s.temperature), "between 0 (greedy) and 10")?;
    check("top_p", s.top_p, s.top_p > 0.0 && s.top_p <= 1.0, "above 0 and at most 1 (1 keeps all)")?;
    check("min_p", s.min_p, (0.0..=1.0).contains(&s.min_p), "between 0 (keeps all) and 1")?;
    check("repetition_penalty", s.repetition_penalty, (0.1..=10.0).contains(&s.repetition_penalty), "between 0.1 and 10 (1 is off)")?;
    check("presence_penalty", s.presence_penalty, (-10.0..=10.0).contains(&s.presence_penalty), "between -10 and 10 (0 is off)")
}

/// The program's defaults with the file's own `general.sampling.*` laid over them. A value of the file that is
/// out of range is left out: the file is not trusted to break the program's own defaults.
#[must_use]
pub fn defaults_from_gguf(gguf: &Gguf) -> Sampling {
    defaults_from(|key| gguf.get(key).and_then(number))
}

fn number(v: &Value) -> Option<f64> {
    match v {
        Value::U64(n) => Some(*n as f64),
        Value::I64(n) => Some(*n as f64),
        Value::F32(x) => Some(f64::from(*x)),
        Value::F64(x) => Some(*x),
        _ => None,
    }
}

/// Key names as the GGUF converters write them (`gguf-py` `Keys.General.SAMPLING_*`).
fn defaults_from(get: impl Fn(&str) -> Option<f64>) -> Sampling {
    let mut s = Sampling::default();
    let mut lay = |key: &str, set: &dyn Fn(&mut Sampling, f32)| {
        if let Some(x) = get(key) {
            let mut with = s.clone();
            set(&mut with, x as f32);
            if validate(&with).is_ok() {
                s = with;
            }
        }
    };
    lay("general.sampling.temp", &|s, x| s.temperature = x);
    // -1 means "off" in some converters' output; a float cast saturates it to 0, which means the same here.
    lay("general.sampling.top_k", &|s, x| s.top_k = x as usize);
    lay("general.sampling.top_p", &|s, x| s.top_p = x);
    lay("general.sampling.min_p", &|s, x| s.min_p = x);
    lay("general.sampling.penalty_repeat", &|s, x| s.repetition_penalty = x);
    s
}

/// Up to this `top_k` the candidates are taken out and sorted; with more, the whole vocabulary is looked at.
const FEW: usize = 2048;

/// Draws tokens for one turn. The same seed, settings and logits give the same tokens.
pub struct Sampler {
    settings: Sampling,
    seed: u64,
    rng: fastrand::Rng,
    /// Tokens of the prompt and the answer: repetition penalty (Keskar et al., CTRL, 2019; transformers counts the prompt too).
    seen: Marks,
    /// Tokens of the answer alone: presence penalty (as the OpenAI API and vLLM define it).
    said: Marks,
    /// Reused between draws: tokens taken out of the vocabulary, best first.
    candidates: Vec<Candidate>,
    /// Reused between draws: the weight of each token or candidate, 1 for the best, 0 for those that don't stay.
    weights: Vec<f32>,
}

impl Sampler {
    /// For a turn whose prompt is `prompt`. Without a seed in the settings a fresh one is taken; see [`Sampler::seed`].
    #[must_use]
    pub fn new(settings: &Sampling, prompt: &[u32]) -> Self {
        let seed = settings.seed.unwrap_or_else(|| fastrand::u64(..));
        // An idle penalty needs no bookkeeping.
        let mut seen = Marks::default();
        if settings.repetition_penalty != 1.0 {
            prompt.iter().for_each(|&t| seen.insert(t));
        }
        Self {
            settings: settings.clone(),
            seed,
            rng: fastrand::Rng::with_seed(seed),
            seen,
            said: Marks::default(),
            candidates: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// The seed in use.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Draw a token from `logits` (`[vocab]`, changed in place by the penalties) and remember it.
    pub fn draw(&mut self, logits: &mut [f32]) -> Result<u32, SamplingError> {
        self.penalize(logits);
        let token = if self.settings.temperature <= 0.0 || self.settings.top_k == 1 { greedy(logits)? } else { self.random(logits)? };
        if self.settings.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        if self.settings.presence_penalty != 0.0 {
            self.said.insert(token);
        }
        Ok(token)
    }

    fn penalize(&self, logits: &mut [f32]) {
        let factor = self.settings.repetition_penalty;
        if factor != 1.0 {
            self.seen.each(logits, |l| if l > 0.0 { l / factor } else { l * factor });
        }
        let off = self.settings.presence_penalty;
        if off != 0.0 {
            self.said.each(logits, |l| l - off);
        }
    }

    fn random(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let max = largest(logits)?;
        let few = (1..=FEW).contains(&self.settings.top_k) && self.settings.top_k < logits.len();
        if few {
            self.keep_of_few(logits, max);
        } else {
            self.keep_of_all(logits, max);
        }
        let place = select::draw(&self.weights, self.rng.f64()).ok_or(SamplingError::Nothing)?;
        Ok(if few { self.candidates[place].1 } else { place as u32 })
    }

    /// Fills `candidates` with the tokens that stay and `weights` with theirs.
    fn keep_of_few(&mut self, logits: &[f32], max: f32) {
        let s = &self.settings;
        let (c, w) = (&mut self.candidates, &mut self.weights);
        top_k(logits, s.top_k, c);
        c.sort_unstable_by(best_first);
        weigh(c.iter().map(|&(l, _)| l), max, s.temperature, w);
        if s.top_p < 1.0 {
            w.truncate(select::nucleus(w, f64::from(s.top_p) * select::sum(w)));
        }
        w.iter_mut().filter(|w| **w < s.min_p).for_each(|w| *w = 0.0);
    }

    /// Fills `weights` for the whole vocabulary, with 0 for the tokens that don't stay.
    fn keep_of_all(&mut self, logits: &[f32], max: f32) {
        let s = &self.settings;
        let (c, w) = (&mut self.candidates, &mut self.weights);
        weigh(logits.iter().copied(), max, s.temperature, w);
        if s.top_k > 0 && s.top_k < logits.len() {
            let lowest = logits.iter().copied().filter(|l| *l > f32::NEG_INFINITY).fold(max, f32::min);
            border(logits, w, lowest, |_| 1.0, s.top_k as f64, c);
        }
        if s.top_p < 1.0 {
            let total = select::sum(w);
            // All tokens below this weight together hold less than what top-p leaves out, so none of them stays.
            let least = (1.0 - f64::from(s.top_p)) * total / logits.len() as f64;
            let lowest = max + s.temperature * (least * 0.999).ln() as f32;
            // The sum was taken in another order: a hair below is there.
            border(logits, w, lowest, |w| w, f64::from(s.top_p) * total * (1.0 - 1e-12), c);
        }
        if s.min_p > 0.0 {
            w.iter_mut().for_each(|w| *w = if *w < s.min_p { 0.0 } else { *w });
        }
    }
}

/// The last few logits, filled up with what no token has.
fn pad(rest: &[f32]) -> [f32; 16] {
    let mut out = [f32::NEG_INFINITY; 16];
    out[..rest.len()].copy_from_slice(rest);
    out
}

/// A set of tokens, one bit each.
#[derive(Default)]
struct Marks(Vec<u64>);

impl Marks {
    fn insert(&mut self, token: u32) {
        let word = token as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (token % 64);
    }

    /// Changes the logit of each token in the set.
    fn each(&self, logits: &mut [f32], change: impl Fn(f32) -> f32) {
        for (&word, block) in self.0.iter().zip(logits.chunks_mut(64)) {
            let mut left = word;
            while left != 0 {
                if let Some(l) = block.get_mut(left.trailing_zeros() as usize) {
                    *l = change(*l);
                }
                left &= left - 1;
            }
        }
    }
}

/// The most likely token; the lowest id among equals.
pub fn greedy(logits: &[f32]) -> Result<u32, SamplingError> {
    let max = largest(logits)?;
    logits.iter().position(|&l| l == max).map(|i| i as u32).ok_or(SamplingError::Nothing)
}

/// The largest logit, having checked that all are numbers (minus infinity is allowed: a masked token).
fn largest(logits: &[f32]) -> Result<f32, SamplingError> {
    // NaN compares false with everything, so `!(l < inf)` catches NaN and +inf; sixteen lanes, so that it vectorises.
    let (mut bad, mut best) = ([false; 16], [f32::NEG_INFINITY; 16]);
    let chunks = logits.chunks_exact(16);
    for chunk in chunks.clone().chain([&pad(chunks.remainder())[..]]) {
        for ((bad, best), &l) in bad.iter_mut().zip(&mut best).zip(chunk) {
            *bad |= l.is_nan() | (l == f32::INFINITY);
            *best = if l > *best { l } else { *best };
        }
    }
    let (bad, max) = (bad.contains(&true), best.into_iter().fold(f32::NEG_INFINITY, f32::max));
    if bad {
        let token = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY).unwrap_or(0);
        return Err(SamplingError::NotFinite { token });
    }
    if max == f32::NEG_INFINITY {
        return Err(SamplingError::Nothing);
    }
    Ok(max)
}

#[cfg(test)]
mod tests;
