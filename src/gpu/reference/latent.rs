//! Latent attention beside the attention itself.

use super::{dot, rms, Host, Meaning, ReferenceError};
use crate::gpu::params::{HeadMaps, LatentRows};
use half::f16;

/// Neighbouring pairs turned by the angles `[cosines half, sines half]`.
fn turn(part: &[f32], angles: &[f32]) -> Vec<f32> {
    let (cosines, sines) = angles.split_at(angles.len() / 2);
    let pair = |(i, pair): (usize, &[f32])| {
        let (a, b, cos, sin) = (f64::from(pair[0]), f64::from(pair[1]), f64::from(cosines[i]), f64::from(sines[i]));
        [(a * cos - b * sin) as f32, (b * cos + a * sin) as f32]
    };
    part.chunks_exact(2).enumerate().flat_map(pair).collect()
}

impl Meaning for LatentRows {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (rank, turned, heads) = (self.rank as usize, self.turned as usize, self.heads as usize);
        let width = rank + turned;
        host.demand(turned.is_multiple_of(2), "pairs to turn")?;
        let position = host.one::<u32>("position", self.position, 0)? as usize;
        host.demand(position + self.tokens as usize <= self.context as usize, "positions beyond the context")?;
        let norm = host.f32s("norm", self.norm, 0, rank)?;
        for t in 0..self.tokens as usize {
            let angles = host.f32s("angles", self.angles, t * turned, turned)?;
            for h in 0..heads {
                let q = host.f32s("q", self.q, t * self.q_stride as usize + h * self.q_head as usize, turned)?;
                host.put("q_out", self.q_out, (t * heads + h) * width + rank, &turn(&q, &angles))?;
            }
            let down = host.f32s("down", self.down, t * self.down_stride as usize, width)?;
            let (latent, shared) = down.split_at(rank);
            let scale = rms(latent, self.eps);
            let mut row: Vec<f32> = latent.iter().zip(&norm).map(|(v, n)| (f64::from(*v) * scale * f64::from(*n)) as f32).collect();
            row.extend(turn(shared, &angles));
            let at = (position + t) * width;
            match self.wide {
                0 => host.put("rows", self.rows, at, &row.iter().map(|v| f16::from_f32(*v).to_bits()).collect::<Vec<_>>())?,
                _ => host.put("rows", self.rows, at, &row)?,
            }
        }
        Ok(())
    }
}

impl Meaning for HeadMaps {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let rows = self.rows as usize;
        host.aligned("weight", self.weight)?;
        host.activations(self.x, self.x_stride, self.ty, self.tokens)?;
        host.activations(self.x, self.x_head, self.ty, self.heads)?;
        host.demand(self.heads < 2 || self.y_head >= self.rows, "results of two heads overlap")?;
        for h in 0..self.heads as usize {
            let weights: Vec<Vec<f32>> =
                (0..rows).map(|r| host.weights("weight", self.weight, self.ty, h * rows + r, self.cols)).collect::<Result<_, _>>()?;
            for t in 0..self.tokens as usize {
                let x = host.f32s("x", self.x, t * self.x_stride as usize + h * self.x_head as usize, self.cols as usize)?;
                let y: Vec<f32> = weights.iter().map(|w| dot(w, &x) as f32).collect();
                host.put("y", self.y, t * self.y_stride as usize + h * self.y_head as usize, &y)?;
            }
        }
        Ok(())
    }
}
