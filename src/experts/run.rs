//! Experts on the CPU: all rows of all routed experts of a layer in one fork-join for gate and up, one for down.

use super::store::LayerExperts;
use super::tier::{Group, Grouped, ABSENT};
use super::{ExpertError, Routing};
use crate::kernels::rows::for_rows;
use crate::kernels::{matmul, Activations, Job, Pool};

/// Weights of one expert as the products read them: gate, up, down.
pub(super) type Parts<'a> = [&'a [u8]; 3];

/// Buffers that live from tick to tick.
#[derive(Default)]
pub(super) struct Buffers {
    input: Activations,
    inner: Activations,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// `[pairs, hidden]`, not yet weighted.
    out: Vec<f32>,
    /// The expert of each row, where experts have biases.
    expert_of: Vec<u16>,
    iota: Vec<u32>,
}

impl Buffers {
    /// Take the rows of a tick: `[tokens, hidden]`.
    pub(super) fn begin(&mut self, x: &[f32], tokens: usize, hidden: usize, pairs: usize) {
        self.input.set(x, tokens, hidden);
        self.out.resize(pairs * hidden, 0.0);
        self.iota.extend(self.iota.len() as u32..pairs as u32);
    }

    /// Compute some groups, which lie next to each other in `grouped`. `weights` has the parts of each of them.
    pub(super) fn run(
        &mut self,
        pool: &Pool,
        layer: &LayerExperts,
        groups: &[Group],
        grouped: &Grouped,
        weights: &[Parts<'_>],
    ) -> Result<(), ExpertError> {
        let (Some(first), Some(last)) = (groups.first(), groups.last()) else { return Ok(()) };
        let span = first.pairs.start..last.pairs.end;
        let shape = &layer.shape;
        let (ff, hidden) = (shape[0].rows, shape[2].rows);
        let biases = layer.biases.as_deref();
        self.expert_of.clear();
        if biases.is_some() {
            self.expert_of.extend(groups.iter().flat_map(|g| g.pairs.clone().map(|_| g.expert)));
        }
        self.gate.resize(span.len() * ff, 0.0);
        self.up.resize(span.len() * ff, 0.0);

        let mut jobs = Vec::with_capacity(groups.len() * 2);
        let (mut gate, mut up) = (self.gate.as_mut_slice(), self.up.as_mut_slice());
        for (group, parts) in groups.iter().zip(weights) {
            let pick = Some(&grouped.token_of[group.pairs.clone()]);
            for (out, part) in [(&mut gate, 0), (&mut up, 1)] {
                let (mine, rest) = std::mem::take(out).split_at_mut(group.pairs.len() * ff);
                *out = rest;
                jobs.push(Job { ty: shape[part].ty, rows: ff, weights: parts[part], pick, out: mine });
            }
        }
        matmul(pool, &mut self.input, &mut jobs)?;
        drop(jobs);

        let expert_of = &self.expert_of;
        if let Some(biases) = biases {
            for_rows(pool, &mut self.up, ff, &|i, row| add(row, biases.expert(expert_of[i]).1));
        }
        let up = &self.up;
        for_rows(pool, &mut self.gate, ff, &|i, row| {
            if let Some(biases) = biases {
                add(row, biases.expert(expert_of[i]).0);
            }
            layer.activation.apply(row, &up[i * ff..(i + 1) * ff]);
        });
        self.inner.set(&self.gate, span.len(), ff);

        let mut jobs = Vec::with_capacity(groups.len());
        let mut out = &mut self.out[span.start * hidden..span.end * hidden];
        for (group, parts) in groups.iter().zip(weights) {
            let (mine, rest) = std::mem::take(&mut out).split_at_mut(group.pairs.len() * hidden);
            out = rest;
            let pick = Some(&self.iota[group.pairs.start - span.start..group.pairs.end - span.start]);
            jobs.push(Job { ty: shape[2].ty, rows: hidden, weights: parts[2], pick, out: mine });
        }
        matmul(pool, &mut self.inner, &mut jobs)?;
        Ok(())
    }

    /// The weighted sum for every token, in the order of its choices, without the absent ones: `[tokens, hidden]`.
    pub(super) fn sum(&self, pool: &Pool, routing: &Routing, grouped: &Grouped, tokens: usize, hidden: usize) -> Vec<f32> {
        let k = routing.top_k;
        let mut y = vec![0.0; tokens * hidden];
        for_rows(pool, &mut y, hidden, &|t, row| {
            for j in t * k..(t + 1) * k {
                if grouped.pair_of[j] == ABSENT {
                    continue;
                }
                let (pair, weight) = (grouped.pair_of[j] as usize, routing.weights[j]);
                for (y, v) in row.iter_mut().zip(&self.out[pair * hidden..(pair + 1) * hidden]) {
                    *y += weight * v;
                }
            }
        });
        y
    }
}

/// `row += bias`
fn add(row: &mut [f32], bias: &[f32]) {
    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
}
