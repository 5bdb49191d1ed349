//! The gated delta rule on the CPU (Yang, Kautz and Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464), token by token.
//!
//! Each value head keeps a state `S` `[key_dim, value_dim]`. A token with key k, value v, query q, decay g and strength b
//! does `S = g S; S += k (b (v - S^T k))^T; o = S^T q`. The state of a head fits into the second-level cache, so a prompt is
//! read by the same plain recurrence: it is exact, and its time is small beside the matrix products around it.
#![allow(unsafe_code)]

use super::convolution::causal_conv;
use super::Pool;
use std::sync::{Mutex, PoisonError};

/// Sizes of a delta-net layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaHeads {
    /// Query and key heads. Value head h uses key head `h % keys` (the tiled order of GGUF files).
    pub keys: usize,
    /// Value heads; a multiple of `keys`.
    pub values: usize,
    /// Length of a query or key head.
    pub key_dim: usize,
    /// Length of a value head.
    pub value_dim: usize,
}

impl DeltaHeads {
    /// Channels of the mixed projection `[queries | keys | values]`.
    #[must_use]
    pub fn channels(&self) -> usize {
        2 * self.keys * self.key_dim + self.values * self.value_dim
    }

    /// Values in the states of all heads.
    #[must_use]
    pub fn state_len(&self) -> usize {
        self.values * self.key_dim * self.value_dim
    }
}

/// Inputs of some tokens.
#[derive(Clone, Copy)]
pub struct DeltaInput<'a> {
    /// `[tokens, channels]`: queries (normalised and scaled), keys (normalised), values.
    pub mixed: &'a [f32],
    /// `[tokens, values]`: factor on the state, in (0, 1].
    pub decay: &'a [f32],
    /// `[tokens, values]`: strength of the correction, in (0, 1).
    pub beta: &'a [f32],
}

/// Run the recurrence over all tokens, heads in parallel. `state` is `[values, key_dim, value_dim]` and is carried on;
/// `out` is `[values, tokens, value_dim]`.
pub fn delta_rule(pool: &Pool, heads: DeltaHeads, input: DeltaInput<'_>, state: &mut [f32], out: &mut [f32]) {
    let (state_len, value_dim) = (heads.key_dim * heads.value_dim, heads.value_dim);
    let tokens = input.decay.len() / heads.values.max(1);
    if tokens == 0 || state_len == 0 {
        return;
    }
    // A lock each is how disjoint pieces travel to the threads without `unsafe`.
    let pieces: Vec<Mutex<(&mut [f32], &mut [f32])>> =
        state.chunks_mut(state_len).zip(out.chunks_mut(tokens * value_dim)).map(Mutex::new).collect();
    let fast = wide();
    pool.run(pieces.len(), &|h| {
        let mut piece = pieces[h].lock().unwrap_or_else(PoisonError::into_inner);
        let (state, out) = &mut *piece;
        if fast {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `wide` has seen that the machine has AVX2, the only thing that the function asks for.
            unsafe {
                head_avx2(heads, h, input, state, out);
            }
        } else {
            head(heads, h, input, state, out);
        }
    });
}

fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn head_avx2(heads: DeltaHeads, h: usize, input: DeltaInput<'_>, state: &mut [f32], out: &mut [f32]) {
    head(heads, h, input, state, out);
}

/// One head. Two passes over the state per token: what it recalls for the key, then decay, correction and recall for the
/// query together.
#[inline(always)]
fn head(heads: DeltaHeads, h: usize, input: DeltaInput<'_>, state: &mut [f32], out: &mut [f32]) {
    let DeltaHeads { keys, values, key_dim, value_dim } = heads;
    let (query_at, key_at) = ((h % keys) * key_dim, (keys + h % keys) * key_dim);
    let value_at = 2 * keys * key_dim + h * value_dim;
    let mut delta = vec![0.0f32; value_dim];
    for (t, out) in out.chunks_exact_mut(value_dim).enumerate() {
        let row = &input.mixed[t * heads.channels()..(t + 1) * heads.channels()];
        let (q, k) = (&row[query_at..query_at + key_dim], &row[key_at..key_at + key_dim]);
        let v = &row[value_at..value_at + value_dim];
        let (decay, beta) = (input.decay[t * values + h], input.beta[t * values + h]);
        delta.fill(0.0);
        for (k, s) in k.iter().zip(state.chunks_exact(value_dim)) {
            for (d, s) in delta.iter_mut().zip(s) {
                *d += k * s;
            }
        }
        for (d, v) in delta.iter_mut().zip(v) {
            *d = (v - decay * *d) * beta;
        }
        out.fill(0.0);
        for ((k, q), s) in k.iter().zip(q).zip(state.chunks_exact_mut(value_dim)) {
            for ((s, d), o) in s.iter_mut().zip(&delta).zip(out.iter_mut()) {
                *s = decay * *s + k * d;
                *o += q * *s;
            }
        }
    }
}

/// The layer's convolution: [`causal_conv`], then SiLU.
pub fn activated_conv(x: &mut [f32], channels: usize, taps: &[f32], carry: &mut [f32]) {
    causal_conv(x, channels, taps, carry);
    for y in x {
        *y /= 1.0 + (-*y).exp();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..n).map(|_| rng.f32() * 2.0 - 1.0).collect()
    }

    /// The recurrence as the paper writes it, in f64, one head at a time.
    fn plain(heads: DeltaHeads, input: DeltaInput<'_>, state: &mut [f64], tokens: usize) -> Vec<f64> {
        let DeltaHeads { keys, values, key_dim, value_dim } = heads;
        let mut out = vec![0.0; values * tokens * value_dim];
        for h in 0..values {
            let s = &mut state[h * key_dim * value_dim..(h + 1) * key_dim * value_dim];
            for t in 0..tokens {
                let row = &input.mixed[t * heads.channels()..];
                let q = |i: usize| f64::from(row[(h % keys) * key_dim + i]);
                let k = |i: usize| f64::from(row[(keys + h % keys) * key_dim + i]);
                let v = |j: usize| f64::from(row[2 * keys * key_dim + h * value_dim + j]);
                s.iter_mut().for_each(|s| *s *= f64::from(input.decay[t * values + h]));
                for j in 0..value_dim {
                    let recalled: f64 = (0..key_dim).map(|i| k(i) * s[i * value_dim + j]).sum();
                    let d = (v(j) - recalled) * f64::from(input.beta[t * values + h]);
                    (0..key_dim).for_each(|i| s[i * value_dim + j] += k(i) * d);
                    out[(h * tokens + t) * value_dim + j] = (0..key_dim).map(|i| q(i) * s[i * value_dim + j]).sum();
                }
            }
        }
        out
    }

    #[test]
    fn agrees_with_the_recurrence_of_the_paper_whatever_the_cuts_and_threads() {
        let heads = DeltaHeads { keys: 3, values: 9, key_dim: 10, value_dim: 13 };
        let tokens = 37;
        let (mixed, decay, beta) = (noise(tokens * heads.channels(), 1), noise(tokens * 9, 2), noise(tokens * 9, 3));
        let decay: Vec<f32> = decay.iter().map(|d| 0.75 + 0.25 * d).collect();
        let beta: Vec<f32> = beta.iter().map(|b| 0.5 + 0.4 * b).collect();
        let mixed: Vec<f32> = mixed.iter().map(|m| m * 0.3).collect();
        let start = noise(heads.state_len(), 4);
        let mut exact_state: Vec<f64> = start.iter().map(|&s| f64::from(s)).collect();
        let input = DeltaInput { mixed: &mixed, decay: &decay, beta: &beta };
        let exact = plain(heads, input, &mut exact_state, tokens);
        for (threads, cuts) in [(1, vec![37]), (3, vec![1, 5, 20, 11]), (2, vec![1; 37])] {
            let pool = Pool::new(threads);
            let mut state = start.clone();
            let mut at = 0;
            for n in cuts {
                let part = DeltaInput {
                    mixed: &mixed[at * heads.channels()..(at + n) * heads.channels()],
                    decay: &decay[at * 9..(at + n) * 9],
                    beta: &beta[at * 9..(at + n) * 9],
                };
                let mut out = vec![0.0; 9 * n * 13];
                delta_rule(&pool, heads, part, &mut state, &mut out);
                for h in 0..9 {
                    for t in 0..n {
                        for j in 0..13 {
                            let (a, b) = (f64::from(out[(h * n + t) * 13 + j]), exact[(h * tokens + at + t) * 13 + j]);
                            assert!((a - b).abs() < 1e-4, "head {h} token {} value {j}: {a} for {b}", at + t);
                        }
                    }
                }
                at += n;
            }
            assert!(state.iter().zip(&exact_state).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4));
        }
    }

    #[test]
    fn the_convolution_is_activated() {
        let (mut x, mut carry) = (vec![1.0, -2.0], vec![3.0]);
        activated_conv(&mut x, 1, &[0.5, 2.0], &mut carry);
        // 0.5 * 3 + 2 * 1 and 0.5 * 1 - 2 * 2, each times its sigmoid.
        for (got, sum) in x.iter().zip([3.5f32, -3.5]) {
            assert!((got - sum / (1.0 + (-sum).exp())).abs() < 1e-6);
        }
        assert_eq!(carry, [-2.0]);
    }
}
