//! `rotary bench --along N`: what it takes to read likely tokens together with the drawn one.
//!
//! Steps of one token and of several are timed by turns in one run, over the same kind of text as the rest of `rotary bench`, with the time of the model's own guesses where it has a block for them. How often drafts are right
//! is a matter of the text and of the model, which made-up tokens can't tell; so for each length it is said how often they must be right for it to pay.

use crate::engine::runtime::Runtime;
use crate::engine::EngineError;
use crate::events::{Phase, StepRecord, StepTime};
use crate::model::Logits;
use serde::Serialize;
use std::time::Instant;

/// Steps that read so many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Along {
    /// Tokens of a step, the drawn one and those that are read along.
    tokens: usize,
    /// Median milliseconds of a step, without guesses.
    ms: f64,
    /// Median milliseconds of the model's guesses for it; `None` if it makes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    guesses_ms: Option<f64>,
    /// Steps of a single token that take as long as both.
    of_one: f64,
    /// Tokens per second if every draft is right.
    most_tps: f64,
    /// How likely each draft must be right, given that those before it are, for the step to bring as many tokens per second as single ones, 0 to 1; more than 1 is never.
    pays_above: f64,
    /// Hits among the routed experts, 0 to 1.
    hit_rate: f64,
}

/// Time steps of 1 to `1 + along` tokens, `rounds` of each after one that warms up; `token` draws the next. The context holds a prompt.
///
/// # Errors
/// From the model.
pub(super) fn measure(
    runtime: &mut dyn Runtime,
    along: usize,
    rounds: usize,
    token: &mut dyn FnMut() -> u32,
) -> Result<Vec<Along>, EngineError> {
    let most = 1 + along.min(runtime.most_drafted());
    let mut times = vec![Vec::with_capacity(rounds); most];
    let mut guessing = times.clone();
    let mut hits = vec![(0, 0); most];
    let mut record = StepRecord::default();
    for round in 0..=rounds {
        for tokens in 1..=most {
            let read: Vec<u32> = (0..tokens).map(|_| token()).collect();
            (record.phase, record.time) = (Phase::Decode, StepTime::default());
            let begin = Instant::now();
            let guesses = if tokens > 1 && runtime.guesses() { runtime.guess(read[0], tokens - 1, &|| false)? } else { Vec::new() };
            if round > 0 && !guesses.is_empty() {
                guessing[tokens - 1].push(begin.elapsed().as_secs_f64() * 1e3);
            }
            let begin = Instant::now();
            let logits = if tokens > 1 { Logits::All } else { Logits::Last };
            runtime.step(&read, logits, &|| false, &mut record)?;
            // All but the first are taken back half of the time: that is part of what they cost.
            if round % 2 == 0 && tokens > 1 {
                runtime.truncate(runtime.len() + 1 - tokens);
            }
            if round > 0 {
                times[tokens - 1].push(begin.elapsed().as_secs_f64() * 1e3);
                let (hit, routed) = record.hits_and_routed();
                hits[tokens - 1] = (hits[tokens - 1].0 + hit, hits[tokens - 1].1 + routed);
            }
        }
    }
    let median = |of: &mut Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of.get(of.len() / 2).copied().unwrap_or(0.0)
    };
    let ms: Vec<f64> = times.iter_mut().map(median).collect();
    let guesses_ms: Vec<Option<f64>> = guessing.iter_mut().map(|of| (!of.is_empty()).then(|| median(of))).collect();
    let one = ms[0].max(1e-9);
    let of = |i: usize| {
        let both = (ms[i] + guesses_ms[i].unwrap_or(0.0)).max(1e-9);
        Along {
            tokens: i + 1,
            ms: ms[i],
            guesses_ms: guesses_ms[i],
            of_one: both / one,
            most_tps: (i + 1) as f64 * 1e3 / both,
            pays_above: pays_above(i, both / one),
            hit_rate: if hits[i].1 == 0 { 0.0 } else { hits[i].0 as f64 / hits[i].1 as f64 },
        }
    };
    Ok((0..most).map(of).collect())
}

/// The likelihood p at which `1 + p + ... + p^drafts` tokens come for the cost of a step: by halving, since the sum only grows.
fn pays_above(drafts: usize, of_one: f64) -> f64 {
    let tokens = |p: f64| (0..=drafts as i32).map(|i| p.powi(i)).sum::<f64>();
    if drafts == 0 || of_one <= 1.0 {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        *if tokens(middle) < of_one { &mut low } else { &mut high } = middle;
    }
    high
}

/// As text.
pub(super) fn table(rows: &[Along]) -> String {
    let mut out = "tokens of a step      ms   guesses   of one   tokens/s if all are right   pays if right above   hits\n".to_owned();
    for r in rows {
        let pays = match r.pays_above {
            _ if r.tokens == 1 => "-".to_owned(),
            p if p > 1.0 => "never".to_owned(),
            p => format!("{:.0} %", p * 100.0),
        };
        let guesses = r.guesses_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
        let (tokens, hits) = (r.tokens, r.hit_rate * 100.0);
        out += &format!("{tokens:>16} {:>7.2} {guesses:>9} {:>8.2} {:>27.1} {pays:>21} {hits:>5.1}%\n", r.ms, r.of_one, r.most_tps);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_pay_from_where_their_tokens_make_up_for_their_time() {
        assert_eq!(pays_above(0, 1.0), 0.0);
        assert!((pays_above(1, 1.4) - 0.4).abs() < 1e-9);
        // 1 + p + p^2 = 1.75 at one half.
        assert!((pays_above(2, 1.75) - 0.5).abs() < 1e-9);
        assert!(pays_above(1, 2.5) > 1.0);
        assert_eq!(pays_above(3, 0.9), 0.0);
    }
}
