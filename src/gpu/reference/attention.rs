//! Attention: queries and keys prepared, keys in splits, splits joined.

use super::{clamp, dot, rms, sigmoid, Host, Meaning, ReferenceError};
use crate::gpu::params::{Attention, ChunkAttention, JoinSplits, JoinSunk, LatentAttention, Rotate, WindowAttention, WindowChunkAttention};
use crate::gpu::Address;
use half::f16;

/// A head: clamped, normalised, turned by the angles `[cosines half, sines half]`.
fn prepare(x: &mut [f32], limit: f32, norm: Option<&[f32]>, eps: f32, angles: &[f32]) {
    x.iter_mut().for_each(|x| *x = clamp(*x, limit));
    let mut v: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    if let Some(norm) = norm {
        let scale = rms(x, eps);
        v.iter_mut().zip(norm).for_each(|(v, n)| *v *= scale * f64::from(*n));
    }
    let half = angles.len() / 2;
    for i in 0..half {
        let (a, b, cos, sin) = (v[i], v[i + half], f64::from(angles[i]), f64::from(angles[i + half]));
        (v[i], v[i + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
    x.iter_mut().zip(v).for_each(|(x, v)| *x = v as f32);
}

impl Rotate {
    fn store(&self, host: &mut Host<'_>, field: &'static str, at: Address, first: usize, x: &[f32]) -> Result<(), ReferenceError> {
        match self.wide {
            0 => host.put(field, at, first, &x.iter().map(|x| f16::from_f32(*x).to_bits()).collect::<Vec<_>>()),
            _ => host.put(field, at, first, x),
        }
    }
}

impl Meaning for Rotate {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (dim, value_dim, half) = (self.key_dim as usize, self.value_dim as usize, self.half as usize);
        host.demand(2 * half <= dim, "more dimensions to rotate than a head has")?;
        host.demand(self.key_dim <= Self::HEAD_DIM && self.value_dim <= Self::HEAD_DIM, "a longer head than a block has room for")?;
        let position = host.one::<u32>("position", self.position, 0)? as usize;
        let room = self.context as usize;
        host.demand(self.ring != 0 || position + self.tokens as usize <= room, "positions beyond the context")?;
        host.demand(self.tokens as usize <= room, "more tokens than a ring has room for")?;
        let norm = |host: &Host<'_>, field, at: Address| -> Result<Option<Vec<f32>>, ReferenceError> {
            (at.0 != 0).then(|| host.f32s(field, at, 0, dim)).transpose()
        };
        let (q_norm, k_norm) = (norm(host, "q_norm", self.q_norm)?, norm(host, "k_norm", self.k_norm)?);
        for t in 0..self.tokens as usize {
            let angles = host.f32s("angles", self.angles, t * 2 * half, 2 * half)?;
            for h in 0..self.heads as usize {
                let mut q = host.f32s("q", self.q, t * self.q_stride as usize + h * self.q_head as usize, dim)?;
                prepare(&mut q, self.limit, q_norm.as_deref(), self.eps, &angles);
                host.put("q_out", self.q_out, (t * self.heads as usize + h) * dim, &q)?;
            }
            for g in 0..self.groups as usize {
                let place = g * room + (position + t) % room;
                let mut k = host.f32s("k", self.k, t * self.k_stride as usize + g * dim, dim)?;
                prepare(&mut k, self.limit, k_norm.as_deref(), self.eps, &angles);
                self.store(host, "keys", self.keys, place * dim, &k)?;
                let mut v = host.f32s("v", self.v, t * self.v_stride as usize + g * value_dim, value_dim)?;
                v.iter_mut().for_each(|v| *v = clamp(*v, self.limit_v));
                self.store(host, "values", self.values, place * value_dim, &v)?;
            }
        }
        Ok(())
    }
}

/// The caches of one group: those positions of them that are in use.
struct Cached {
    /// `[room, key_dim]`
    keys: Vec<f32>,
    /// `[room, value_dim]`
    values: Vec<f32>,
    /// Of a ring: positions beyond it begin anew.
    room: usize,
}

impl Cached {
    /// Softmax attention of one query over a range of positions: the greatest score, the sum of weights relative to it, and the weighted sum of values.
    fn attend(&self, q: &[f32], scale: f32, range: std::ops::Range<usize>, value_dim: usize) -> (f64, f64, Vec<f64>) {
        let place = |p: usize| p % self.room;
        let key = |p: usize| &self.keys[place(p) * q.len()..][..q.len()];
        let scores: Vec<f64> = range.clone().map(|p| dot(q, key(p)) * f64::from(scale)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut out) = (0.0, vec![0.0f64; value_dim]);
        for (p, score) in range.zip(scores) {
            let w = (score - max).exp();
            sum += w;
            out.iter_mut().zip(&self.values[place(p) * value_dim..]).for_each(|(o, v)| *o += w * f64::from(*v));
        }
        (max, sum, out)
    }
}

/// Values of a cache, from f32 if `wide`.
fn cached(host: &Host<'_>, field: &'static str, at: Address, first: usize, len: usize, wide: bool) -> Result<Vec<f32>, ReferenceError> {
    match wide {
        false => Ok(host.get::<u16>(field, at, first, len)?.into_iter().map(|b| f16::from_bits(b).to_f32()).collect()),
        true => host.f32s(field, at, first, len),
    }
}

/// What [`Attention`] and [`ChunkAttention`] have in common: sizes in range, and the number of positions up to the pass's end. `window`: the caches are rings.
fn positions(host: &Host<'_>, k: &Attention, window: Option<usize>) -> Result<usize, ReferenceError> {
    host.demand((1..=Attention::SPLITS).contains(&k.splits), "1 to 128 ranges")?;
    host.aligned("keys", k.keys)?;
    host.demand(k.groups > 0 && k.heads.is_multiple_of(k.groups), "heads are no multiple of groups")?;
    let all = host.one::<u32>("position", k.position, 0)? as usize + k.tokens as usize;
    match window {
        None => host.demand(all <= k.context as usize, "positions beyond the context")?,
        Some(window) => {
            host.demand(window > 0, "a window of one position or more")?;
            let begin = (all + 1 - k.tokens as usize).saturating_sub(window);
            host.demand(all - begin <= k.context as usize, "a ring with less room than is seen")?;
        }
    }
    Ok(all)
}

impl Attention {
    /// For each query its token, head, and the caches of its group.
    fn each_query(
        &self,
        host: &mut Host<'_>,
        all: usize,
        inside: bool,
        mut f: impl FnMut(&mut Host<'_>, usize, usize, &[f32], &Cached) -> Result<(), ReferenceError>,
    ) -> Result<(), ReferenceError> {
        let (heads, of_group) = (self.heads as usize, (self.heads / self.groups) as usize);
        let (dim, value_dim, context, wide) = (self.key_dim as usize, self.value_dim as usize, self.context as usize, self.wide != 0);
        let used = all.min(context);
        for g in 0..self.groups as usize {
            let keys = cached(host, "keys", self.keys, g * context * dim, used * dim, wide)?;
            let values = match inside {
                true => keys.chunks_exact(dim).flat_map(|key| &key[..value_dim]).copied().collect(),
                false => cached(host, "values", self.values, g * context * value_dim, used * value_dim, wide)?,
            };
            let group = Cached { keys, values, room: context };
            for (t, h) in (0..self.tokens as usize).flat_map(|t| (0..of_group).map(move |i| (t, g * of_group + i))) {
                let q = host.f32s("q", self.q, (t * heads + h) * dim, dim)?;
                f(host, t, h, &q, &group)?;
            }
        }
        Ok(())
    }

    /// Write what a query has of one of the ranges.
    fn put_partial(
        &self,
        host: &mut Host<'_>,
        query: usize,
        split: usize,
        (max, sum, out): (f64, f64, Vec<f64>),
    ) -> Result<(), ReferenceError> {
        let row: Vec<f32> = [max, sum].iter().chain(&out).map(|v| *v as f32).collect();
        host.put("partial", self.partial, (query * self.splits as usize + split) * (2 + self.value_dim as usize), &row)
    }
}

impl Meaning for Attention {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.aligned("values", self.values)?;
        self.mean_within(host, None, false)
    }
}

impl Meaning for LatentAttention {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let Attention { groups, key_dim, value_dim, .. } = self.of;
        host.demand(groups == 1 && value_dim <= key_dim, "one group, whose keys have their values inside")?;
        self.of.mean_within(host, None, true)
    }
}

impl Meaning for WindowAttention {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.aligned("values", self.of.values)?;
        self.of.mean_within(host, Some(self.window as usize), false)
    }
}

impl Attention {
    /// `inside`: keys have their values inside.
    fn mean_within(&self, host: &mut Host<'_>, window: Option<usize>, inside: bool) -> Result<(), ReferenceError> {
        let longest = if inside { LatentAttention::KEY_DIM } else { Rotate::HEAD_DIM };
        host.demand(self.key_dim <= longest && self.value_dim <= Rotate::HEAD_DIM, "a longer head than a block has room for")?;
        let (all, tokens, heads, splits) =
            (positions(host, self, window)?, self.tokens as usize, self.heads as usize, self.splits as usize);
        self.each_query(host, all, inside, |host, t, h, q, group| {
            let seen = all - tokens + t + 1;
            let left = window.map_or(0, |window| seen.saturating_sub(window));
            let each = (seen - left).div_ceil(splits).max(Self::LEAST as usize);
            for s in 0..splits {
                let range = (left + s * each).min(seen)..(left + (s + 1) * each).min(seen);
                let mut part = group.attend(q, self.scale, range.clone(), self.value_dim as usize);
                if range.is_empty() {
                    part.2.clear();
                }
                self.put_partial(host, t * heads + h, s, part)?;
            }
            Ok(())
        })
    }
}

impl Meaning for ChunkAttention {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        self.mean_within(host, None, None)
    }
}

impl Meaning for WindowChunkAttention {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.demand(self.of.splits == 1, "one range")?;
        let sinks = (self.sinks.0 != 0).then(|| host.f32s("sinks", self.sinks, 0, self.of.heads as usize)).transpose()?;
        self.of.mean_within(host, Some(self.window as usize), sinks.as_deref())
    }
}

impl ChunkAttention {
    fn mean_within(&self, host: &mut Host<'_>, window: Option<usize>, sinks: Option<&[f32]>) -> Result<(), ReferenceError> {
        host.demand(Self::fits(self.key_dim, self.value_dim), "heads that are no multiple of 8, or longer than 256")?;
        host.aligned("q", self.q)?;
        host.aligned("values", self.values)?;
        let k = Attention {
            q: self.q,
            keys: self.keys,
            values: self.values,
            partial: self.partial,
            position: self.position,
            tokens: self.tokens,
            heads: self.heads,
            groups: self.groups,
            key_dim: self.key_dim,
            value_dim: self.value_dim,
            context: self.context,
            wide: 0,
            splits: self.splits,
            scale: self.scale,
            pad: 0,
        };
        let (all, tokens, heads, splits, dim) =
            (positions(host, &k, window)?, self.tokens as usize, self.heads as usize, self.splits as usize, self.value_dim as usize);
        let each = all.div_ceil(splits).max(Self::LEAST as usize).next_multiple_of(64);
        k.each_query(host, all, false, |host, t, h, q, group| {
            let seen = all - tokens + t + 1;
            if splits > 1 {
                for s in 0..splits {
                    let range = (s * each).min(seen)..((s + 1) * each).min(seen);
                    k.put_partial(host, t * heads + h, s, group.attend(q, self.scale, range, dim))?;
                }
                return Ok(());
            }
            let left = window.map_or(0, |window| seen.saturating_sub(window));
            let (max, mut sum, mut out) = group.attend(q, self.scale, left..seen, dim);
            sum += sinks.map_or(0.0, |sinks| (f64::from(sinks[h]) - max).exp());
            out.iter_mut().for_each(|o| *o /= sum);
            if self.gate.0 != 0 {
                let gate = host.f32s("gate", self.gate, t * self.gate_stride as usize + h * self.gate_head as usize, dim)?;
                out.iter_mut().zip(gate).for_each(|(o, g)| *o *= sigmoid(g.into()));
            }
            host.put("y", self.y, (t * heads + h) * dim, &out.iter().map(|o| *o as f32).collect::<Vec<_>>())
        })
    }
}

impl Meaning for JoinSplits {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.demand(self.splits <= Attention::SPLITS, "1 to 128 ranges")?;
        self.mean_with(host, None)
    }
}

impl Meaning for JoinSunk {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.demand(self.of.splits < Attention::SPLITS, "1 to 127 ranges")?;
        let sinks = host.f32s("sinks", self.sinks, 0, self.of.heads as usize)?;
        self.of.mean_with(host, Some(&sinks))
    }
}

impl JoinSplits {
    fn mean_with(&self, host: &mut Host<'_>, sinks: Option<&[f32]>) -> Result<(), ReferenceError> {
        let (heads, dim, splits) = (self.heads as usize, self.value_dim as usize, self.splits as usize);
        for (t, h) in (0..self.tokens as usize).flat_map(|t| (0..heads).map(move |h| (t, h))) {
            let parts = host.f32s("partial", self.partial, (t * heads + h) * splits * (2 + dim), splits * (2 + dim))?;
            let parts: Vec<&[f32]> = parts.chunks_exact(2 + dim).collect();
            let sink = sinks.map(|s| s[h]);
            let max = parts.iter().map(|p| p[0]).chain(sink).fold(f32::NEG_INFINITY, f32::max);
            let (mut sum, mut out) = (sink.map_or(0.0, |s| f64::from(s - max).exp()), vec![0.0f64; dim]);
            for p in parts.iter().filter(|p| p[1] != 0.0) {
                let w = f64::from(p[0] - max).exp();
                sum += w * f64::from(p[1]);
                out.iter_mut().zip(&p[2..]).for_each(|(o, v)| *o += w * f64::from(*v));
            }
            out.iter_mut().for_each(|o| *o /= sum);
            if self.gate.0 != 0 {
                let gate = host.f32s("gate", self.gate, t * self.gate_stride as usize + h * self.gate_head as usize, dim)?;
                out.iter_mut().zip(gate).for_each(|(o, g)| *o *= sigmoid(g.into()));
            }
            host.put("y", self.y, (t * heads + h) * dim, &out.iter().map(|o| *o as f32).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
