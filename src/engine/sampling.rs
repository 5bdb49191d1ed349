//! Drawing the next token from the logits.
//!
//! The order is that of the reference implementations (transformers' logits processors and warpers): penalties,
//! temperature, top-k, top-p, min-p, draw. Model cards give their recommended values for this order.
//!
//! Candidates are found by partial selection: with `top_k` set, one pass over the vocabulary keeps the k best in
//! a small heap, so a vocabulary of 250 000 costs a fraction of a millisecond and is never sorted.

use crate::events::Sampling;
use crate::gguf::{Gguf, Value};
use std::cmp::Ordering;
use std::collections::HashSet;

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
    check("temperature", s.temperature, (0.0..=100.0).contains(&s.temperature), "between 0 (greedy) and 100")?;
    check("top_p", s.top_p, s.top_p > 0.0 && s.top_p <= 1.0, "above 0 and at most 1 (1 keeps all)")?;
    check("min_p", s.min_p, (0.0..=1.0).contains(&s.min_p), "between 0 (keeps all) and 1")?;
    check(
        "repetition_penalty",
        s.repetition_penalty,
        s.repetition_penalty > 0.0 && s.repetition_penalty <= 100.0,
        "above 0 (1 is off) and at most 100",
    )?;
    check(
        "presence_penalty",
        s.presence_penalty,
        s.presence_penalty.is_finite() && s.presence_penalty.abs() <= 100.0,
        "between -100 and 100 (0 is off)",
    )
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

/// A token that may be drawn, with its logit after penalties.
type Candidate = (f32, u32);

/// Best first; equal logits by ascending id, so that the result does not depend on the selection algorithm.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Draws tokens for one turn. The same seed, settings and logits give the same tokens.
pub struct Sampler {
    settings: Sampling,
    seed: u64,
    rng: fastrand::Rng,
    /// Tokens of the prompt and the answer: repetition penalty (Keskar et al., CTRL, 2019; transformers counts the prompt too).
    seen: HashSet<u32>,
    /// Tokens of the answer alone: presence penalty (as the OpenAI API and vLLM define it).
    said: HashSet<u32>,
    /// Reused between draws.
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// For a turn whose prompt is `prompt`. Without a seed in the settings a fresh one is taken; see [`Sampler::seed`].
    #[must_use]
    pub fn new(settings: &Sampling, prompt: &[u32]) -> Self {
        let seed = settings.seed.unwrap_or_else(|| fastrand::u64(..));
        // An idle penalty needs no bookkeeping.
        let seen = if settings.repetition_penalty == 1.0 { HashSet::new() } else { prompt.iter().copied().collect() };
        Self { settings: settings.clone(), seed, rng: fastrand::Rng::with_seed(seed), seen, said: HashSet::new(), candidates: Vec::new() }
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
            for &t in &self.seen {
                if let Some(l) = logits.get_mut(t as usize) {
                    *l = if *l > 0.0 { *l / factor } else { *l * factor };
                }
            }
        }
        let off = self.settings.presence_penalty;
        if off != 0.0 {
            for &t in &self.said {
                if let Some(l) = logits.get_mut(t as usize) {
                    *l -= off;
                }
            }
        }
    }

    fn random(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let max = largest(logits)?;
        let s = &self.settings;
        let inv_t = 1.0 / s.temperature;
        let weight = |l: f32| f64::from(((l - max) * inv_t).exp());
        let c = &mut self.candidates;
        // Total probability weight over which top-p counts, before min-p.
        let total: f64 = if s.top_k > 0 && s.top_k < logits.len() {
            top_k(logits, s.top_k, c);
            c.sort_unstable_by(best_first);
            c.iter().map(|&(l, _)| weight(l)).sum()
        } else {
            c.clear();
            c.extend(logits.iter().enumerate().map(|(i, &l)| (l, i as u32)));
            let total = c.iter().map(|&(l, _)| weight(l)).sum();
            if s.top_p < 1.0 {
                sort_until(c, |prefix| prefix.iter().map(|&(l, _)| weight(l)).sum::<f64>() >= f64::from(s.top_p) * total);
            }
            total
        };
        if s.top_p < 1.0 {
            let keep = nucleus(c.iter().map(|&(l, _)| weight(l) / total), f64::from(s.top_p));
            c.truncate(keep);
        }
        if s.min_p > 0.0 {
            let least = f64::from(s.min_p);
            c.retain(|&(l, _)| weight(l) >= least);
        }
        let total: f64 = c.iter().map(|&(l, _)| weight(l)).sum();
        let mut u = self.rng.f64() * total;
        for &(l, t) in c.iter() {
            u -= weight(l);
            if u < 0.0 {
                return Ok(t);
            }
        }
        // Rounding may leave a sliver: it belongs to the last candidate with any weight.
        c.iter().rev().find(|&&(l, _)| weight(l) > 0.0).map(|&(_, t)| t).ok_or(SamplingError::Nothing)
    }
}

/// The most likely token; the lowest id among equals.
pub fn greedy(logits: &[f32]) -> Result<u32, SamplingError> {
    let max = largest(logits)?;
    logits.iter().position(|&l| l == max).map(|i| i as u32).ok_or(SamplingError::Nothing)
}

/// The largest logit, having checked that all are numbers (minus infinity is allowed: a masked token).
fn largest(logits: &[f32]) -> Result<f32, SamplingError> {
    // NaN compares false with everything, so `!(l < inf)` catches NaN and +inf in one vectorizable pass.
    let (mut bad, mut max) = (false, f32::NEG_INFINITY);
    for &l in logits {
        bad |= l.is_nan() | (l == f32::INFINITY);
        max = if l > max { l } else { max };
    }
    if bad {
        let token = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY).unwrap_or(0);
        return Err(SamplingError::NotFinite { token });
    }
    if max == f32::NEG_INFINITY {
        return Err(SamplingError::Nothing);
    }
    Ok(max)
}

/// The k best candidates, in no order. One pass: blocks whose largest value is below the worst kept are skipped.
fn top_k(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    // Twice k, cut back to k by selection when full: amortized O(1) per candidate and simpler than a heap.
    let room = (2 * k).max(64);
    let mut floor = f32::NEG_INFINITY;
    let mut full = false;
    for (b, block) in logits.chunks(64).enumerate() {
        let best = block.iter().fold(f32::NEG_INFINITY, |m, &l| if l > m { l } else { m });
        // Equal to the floor can't enter: the kept ones have lower ids.
        if full && best <= floor {
            continue;
        }
        for (i, &l) in block.iter().enumerate() {
            if full && l <= floor {
                continue;
            }
            out.push((l, (b * 64 + i) as u32));
            if out.len() == room {
                out.select_nth_unstable_by(k - 1, best_first);
                out.truncate(k);
                floor = out[k - 1].0;
                full = true;
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, best_first);
        out.truncate(k);
    }
}

/// Sort ever longer prefixes, best first, until `enough(prefix)`; the rest is dropped.
fn sort_until(c: &mut Vec<Candidate>, enough: impl Fn(&[Candidate]) -> bool) {
    let mut n = 256;
    while n < c.len() {
        c.select_nth_unstable_by(n - 1, best_first);
        if enough(&c[..n]) {
            c.truncate(n);
            break;
        }
        n *= 8;
    }
    c.sort_unstable_by(best_first);
}

/// Length of the shortest prefix of `p` (best first) whose sum reaches `mass`; at least 1.
fn nucleus(p: impl Iterator<Item = f64>, mass: f64) -> usize {
    let (mut sum, mut n) = (0.0, 0);
    for x in p {
        n += 1;
        sum += x;
        // The weights were summed in another order: a hair below is there.
        if sum >= mass - 1e-12 {
            break;
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn off() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: Some(7), ..Sampling::default() }
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let e: Vec<f64> = logits.iter().map(|&l| f64::from(l - max).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|x| x / sum).collect()
    }

    /// Tokens that ever come out in `n` draws.
    fn support(settings: &Sampling, logits: &[f32], n: usize) -> HashSet<u32> {
        let mut s = Sampler::new(settings, &[]);
        (0..n).map(|_| s.draw(&mut logits.to_vec()).unwrap()).collect()
    }

    #[test]
    fn greedy_takes_the_best_and_the_lowest_id_among_equals() {
        let settings = Sampling { temperature: 0.0, ..off() };
        assert_eq!(Sampler::new(&settings, &[]).draw(&mut [0.0, 3.0, 3.0, -1.0]), Ok(1));
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
        let logits: Vec<f32> = (0..500).map(|i| (i as f32 * 0.37).sin()).collect();
        let run = |seed| {
            let mut s = Sampler::new(&Sampling { seed: Some(seed), ..off() }, &[]);
            (0..40).map(|_| s.draw(&mut logits.clone()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn without_a_seed_the_one_that_was_taken_reproduces_the_draws() {
        let logits: Vec<f32> = (0..300).map(|i| (i as f32 * 0.11).cos()).collect();
        let mut fresh = Sampler::new(&Sampling { seed: None, ..off() }, &[]);
        let mut again = Sampler::new(&Sampling { seed: Some(fresh.seed()), ..off() }, &[]);
        for _ in 0..20 {
            assert_eq!(fresh.draw(&mut logits.clone()), again.draw(&mut logits.clone()));
        }
    }

    #[test]
    fn draw_frequencies_follow_the_probabilities() {
        let logits = [0.5f32, 1.5, -0.7, 2.0, 0.0, 1.0, -2.0, 0.3];
        let temperature = 0.8;
        let p = softmax(&logits.map(|l| l / temperature));
        for top_k in [0, 8, 7] {
            let settings = Sampling { temperature, top_k, ..off() };
            let mut s = Sampler::new(&settings, &[]);
            let n = 40_000;
            let mut counts = [0f64; 8];
            for _ in 0..n {
                counts[s.draw(&mut logits.clone()).unwrap() as usize] += 1.0;
            }
            // With top_k 7 the least likely (token 6) is gone and the others share its part.
            let kept: f64 = if top_k == 7 { 1.0 - p[6] } else { 1.0 };
            let chi2: f64 = (0..8)
                .filter(|&i| top_k != 7 || i != 6)
                .map(|i| {
                    let expected = n as f64 * p[i] / kept;
                    (counts[i] - expected).powi(2) / expected
                })
                .sum();
            // 99.9th percentile of chi-square with 7 degrees of freedom.
            assert!(chi2 < 24.3, "top_k {top_k}: chi2 {chi2}");
            assert!(top_k != 7 || counts[6] == 0.0);
        }
    }

    #[test]
    fn min_p_drops_what_is_far_less_likely_than_the_best() {
        let logits = [(1.0f32).ln(), (0.5f32).ln(), (0.21f32).ln(), (0.19f32).ln()];
        assert_eq!(support(&Sampling { min_p: 0.2, ..off() }, &logits, 2000), HashSet::from([0, 1, 2]));
    }

    #[test]
    fn top_p_keeps_the_smallest_set_on_known_numbers() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        for (top_p, keep) in [(0.4, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.94, 3), (0.96, 4), (1.0, 4)] {
            let got = support(&Sampling { top_p, ..off() }, &logits, 3000);
            assert_eq!(got, (0..keep).collect(), "top_p {top_p}");
        }
    }

    #[test]
    fn the_repetition_penalty_counts_the_prompt_and_pushes_both_signs_down() {
        let settings = Sampling { temperature: 0.0, repetition_penalty: 2.0, ..off() };
        // Seen: 0 (positive logit, halved) and 2 (negative, doubled).
        let mut logits = [4.0, 1.0, -1.0];
        let mut s = Sampler::new(&settings, &[0, 2]);
        assert_eq!(s.draw(&mut logits), Ok(0));
        assert_eq!(logits, [2.0, 1.0, -2.0]);
        let mut s = Sampler::new(&settings, &[0]);
        assert_eq!(s.draw(&mut [1.9, 1.0, 0.0]), Ok(1), "0.95 < 1.0");
        assert_eq!(s.draw(&mut [0.0, 1.0, 0.6]), Ok(2), "its own answer counts as well");
    }

    #[test]
    fn the_presence_penalty_counts_the_answer_only_and_once() {
        let settings = Sampling { temperature: 0.0, presence_penalty: 1.0, ..off() };
        let mut s = Sampler::new(&settings, &[0]);
        assert_eq!(s.draw(&mut [2.0, 1.5]), Ok(0), "the prompt does not count");
        assert_eq!(s.draw(&mut [2.0, 1.5]), Ok(1), "2 - 1 < 1.5");
        assert_eq!(s.draw(&mut [3.2, 1.5]), Ok(0), "3.2 - 1 > 1.5 - 1: subtracted once, however often it was said");
    }

    #[test]
    fn broken_logits_are_an_error_and_not_a_token() {
        for t in [0.0, 1.0] {
            let mut s = Sampler::new(&Sampling { temperature: t, ..off() }, &[]);
            assert_eq!(s.draw(&mut [0.0, f32::NAN]), Err(SamplingError::NotFinite { token: 1 }));
            assert_eq!(s.draw(&mut [f32::INFINITY, 0.0]), Err(SamplingError::NotFinite { token: 0 }));
            assert_eq!(s.draw(&mut [f32::NEG_INFINITY; 3]), Err(SamplingError::Nothing));
            assert_eq!(s.draw(&mut []), Err(SamplingError::Nothing));
            assert_eq!(s.draw(&mut [f32::NEG_INFINITY, 0.0]), Ok(1));
        }
    }

    #[test]
    fn the_files_defaults_lie_over_ours_and_nonsense_is_left_out() {
        let s = defaults_from(|k| match k {
            "general.sampling.temp" => Some(0.6),
            "general.sampling.top_k" => Some(-1.0),
            "general.sampling.top_p" => Some(f64::NAN),
            "general.sampling.penalty_repeat" => Some(-3.0),
            _ => None,
        });
        let ours = Sampling::default();
        assert_eq!((s.temperature, s.top_k, s.top_p, s.repetition_penalty), (0.6, 0, ours.top_p, ours.repetition_penalty));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = Sampling { top_p: 1.5, ..off() };
        assert_eq!(validate(&bad).unwrap_err().to_string(), "sampling: top_p is 1.5, but must be above 0 and at most 1 (1 keeps all)");
        assert!(validate(&Sampling { temperature: f32::NAN, ..off() }).is_err());
        assert!(validate(&Sampling { repetition_penalty: 0.0, ..off() }).is_err());
        assert!(validate(&Sampling::default()).is_ok());
    }

    proptest! {
        #[test]
        fn partial_selection_equals_a_full_sort(
            // Few distinct values, so that ties at the border are common.
            raw in proptest::collection::vec(-20i8..20, 1..700), k in 1usize..90,
        ) {
            let logits: Vec<f32> = raw.iter().map(|&x| f32::from(x) / 4.0).collect();
            let mut all: Vec<Candidate> = logits.iter().enumerate().map(|(i, &l)| (l, i as u32)).collect();
            all.sort_by(best_first);
            all.truncate(k);
            let mut got = Vec::new();
            top_k(&logits, k, &mut got);
            got.sort_by(best_first);
            prop_assert_eq!(got, all);
        }

        #[test]
        fn top_p_never_leaves_the_smallest_set(
            raw in proptest::collection::vec(-40i8..40, 2..600), top_p in 0.05f32..0.99, seed: u64,
        ) {
            let logits: Vec<f32> = raw.iter().map(|&x| f32::from(x) / 8.0).collect();
            let p = softmax(&logits);
            let mut order: Vec<Candidate> = logits.iter().enumerate().map(|(i, &l)| (l, i as u32)).collect();
            order.sort_by(best_first);
            let keep = nucleus(order.iter().map(|&(_, i)| p[i as usize]), f64::from(top_p) + 1e-6);
            let set: HashSet<u32> = order[..keep].iter().map(|&(_, i)| i).collect();
            let mut s = Sampler::new(&Sampling { top_p, seed: Some(seed), ..off() }, &[]);
            for _ in 0..30 {
                let t = s.draw(&mut logits.clone()).unwrap();
                prop_assert!(set.contains(&t));
            }
        }
    }

    /// Run with `cargo test --release -- --ignored sampling_speed --nocapture`.
    #[test]
    #[ignore = "a measurement, not a check"]
    fn sampling_speed_on_a_large_vocabulary() {
        let mut rng = fastrand::Rng::with_seed(1);
        let logits: Vec<f32> = (0..248_320).map(|_| rng.f32() * rng.f32() * 20.0 - 10.0).collect();
        for (name, s) in [
            ("top-k 40, top-p 0.95", Sampling { seed: Some(1), ..Sampling::default() }),
            ("top-p 0.95 alone", Sampling { top_k: 0, seed: Some(1), ..Sampling::default() }),
            ("greedy", Sampling { temperature: 0.0, ..Sampling::default() }),
        ] {
            let mut sampler = Sampler::new(&s, &[]);
            let mut copies: Vec<Vec<f32>> = vec![logits.clone(); 50];
            let t = std::time::Instant::now();
            for c in &mut copies {
                sampler.draw(c).unwrap();
            }
            println!("{name}: {:.3} ms", t.elapsed().as_secs_f64() * 1e3 / 50.0);
        }
    }
}
