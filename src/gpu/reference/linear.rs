//! Maps of activations.

use super::{dot, sigmoid, Host, Meaning, ReferenceError};
use crate::gpu::params::{MatJob, MatMul, MatVec};

/// One map over rows `x[t]`.
fn map(host: &mut Host<'_>, job: &MatJob, x: &[Vec<f32>], cols: u32) -> Result<(), ReferenceError> {
    host.demand(job.y_stride >= job.rows || x.len() < 2, "results of two tokens overlap")?;
    host.aligned("weight", job.weight)?;
    let mut y = vec![Vec::with_capacity(job.rows as usize); x.len()];
    for r in 0..job.rows as usize {
        let w = host.weights("weight", job.weight, job.ty, r, cols)?;
        let bias = if job.bias.0 == 0 { 0.0 } else { host.one::<f32>("bias", job.bias, r)?.into() };
        for (x, y) in x.iter().zip(&mut y) {
            y.push(dot(&w, x) + bias);
        }
    }
    for (t, y) in y.into_iter().enumerate() {
        let at = t * job.y_stride as usize;
        let scale = match job.scale.0 {
            0 => 1.0,
            _ => sigmoid(host.one::<f32>("scale", job.scale, t * job.scale_stride as usize)?.into()),
        };
        let before = match job.accumulate {
            0 => vec![0.0; y.len()],
            _ => host.f32s("y", job.y, at, y.len())?,
        };
        let y: Vec<f32> = y.iter().zip(before).map(|(y, b)| (f64::from(b) + y * scale) as f32).collect();
        host.put("y", job.y, at, &y)?;
    }
    Ok(())
}

fn inputs(host: &Host<'_>, x: crate::gpu::Address, stride: u32, cols: u32, tokens: u32) -> Result<Vec<Vec<f32>>, ReferenceError> {
    (0..tokens as usize).map(|t| host.f32s("x", x, t * stride as usize, cols as usize)).collect()
}

impl Meaning for MatVec {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        host.demand((1..=Self::TOKENS).contains(&self.tokens), "1 to 8 tokens")?;
        host.demand((1..=Self::JOBS).contains(&(self.jobs as usize)), "1 to 6 maps")?;
        host.demand(self.split <= 2, "more warps for a row than a block has")?;
        let jobs = &self.job[..self.jobs as usize];
        for job in jobs {
            host.activations(self.x, self.x_stride, job.ty, self.tokens)?;
        }
        let mut x = inputs(host, self.x, self.x_stride, self.cols, self.tokens)?;
        if self.gate.0 != 0 {
            let tiled = jobs.iter().all(|j| Self::tiled(j.ty, self.cols));
            host.demand(self.tokens == 1 && tiled, "a gate for one token, and types that go in tiles")?;
            host.aligned("gate", self.gate)?;
            let gate = host.f32s("gate", self.gate, 0, self.cols as usize)?;
            let silu = |g: f32| (f64::from(g) * sigmoid(g.into())) as f32;
            x[0].iter_mut().zip(gate).for_each(|(x, g)| *x *= silu(g));
        }
        let ends = jobs[1..].iter().map(|j| j.first_block).chain([self.blocks]);
        host.demand(jobs[0].first_block == 0, "the first map begins with block 0")?;
        for (job, end) in jobs.iter().zip(ends) {
            let blocks = end.checked_sub(job.first_block);
            host.demand(blocks == Some(self.blocks_of(job.ty, job.rows)), "a map's blocks are its rows divided by those of a block")?;
            map(host, job, &x, self.cols)?;
        }
        Ok(())
    }
}

impl Meaning for MatMul {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let x = inputs(host, self.x, self.x_stride, self.cols, self.tokens)?;
        host.activations(self.x, self.x_stride, self.job.ty, self.tokens)?;
        map(host, &self.job, &x, self.cols)
    }
}
