//! Kernels that treat values or rows one by one.

use super::{activated, clamp, rms, silu, Host, Meaning, ReferenceError};
use crate::gpu::params::{Add, AddNormed, Finite, GatedNorm, Gather, Glu, RmsNorm, SoftCap};

impl Meaning for RmsNorm {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let len = self.len as usize;
        let weight = host.f32s("weight", self.weight, 0, len)?;
        for r in 0..self.rows as usize {
            for p in 0..self.pieces as usize {
                let mut x = host.f32s("x", self.x, r * self.x_stride as usize + p * self.x_piece as usize, len)?;
                x.iter_mut().for_each(|x| *x = clamp(*x, self.limit));
                let scale = rms(&x, self.eps);
                let y: Vec<f32> = x.iter().zip(&weight).map(|(x, w)| (f64::from(*x) * scale * f64::from(*w)) as f32).collect();
                host.put("y", self.y, r * self.y_stride as usize + p * len, &y)?;
            }
        }
        Ok(())
    }
}

impl Meaning for GatedNorm {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (heads, dim) = (self.heads as usize, self.dim as usize);
        let weight = host.f32s("weight", self.weight, 0, dim)?;
        for t in 0..self.tokens as usize {
            for h in 0..heads {
                let x = host.f32s("x", self.x, (t * heads + h) * dim, dim)?;
                let gate = host.f32s("gate", self.gate, t * self.gate_stride as usize + h * dim, dim)?;
                let scale = rms(&x, self.eps);
                let y: Vec<f32> =
                    (0..dim).map(|i| (f64::from(x[i]) * scale * f64::from(weight[i]) * silu(gate[i].into())) as f32).collect();
                let place = if self.place.0 == 0 { h } else { host.one::<u32>("place", self.place, h)? as usize };
                host.demand(place < heads, "a head has no place")?;
                host.put("y", self.y, (t * heads + place) * dim, &y)?;
            }
        }
        Ok(())
    }
}

impl Meaning for Gather {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (cols, k) = (self.cols as usize, self.top_k as usize);
        for t in 0..self.tokens as usize {
            let at = t * self.y_stride as usize;
            let mut y: Vec<f64> = host.f32s("y", self.y, at, cols)?.into_iter().map(f64::from).collect();
            for j in t * k..(t + 1) * k {
                let pair = host.one::<u32>("pair_of", self.pair_of, j)?;
                if pair == u32::MAX {
                    continue;
                }
                let weight: f64 = host.one::<f32>("weights", self.weights, j)?.into();
                let out = host.f32s("out", self.out, pair as usize * cols, cols)?;
                y.iter_mut().zip(out).for_each(|(y, o)| *y += weight * f64::from(o));
            }
            host.put("y", self.y, at, &y.iter().map(|y| *y as f32).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

impl Meaning for Glu {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (len, activation) = (self.len as usize, host.activation(self.activation)?);
        for t in 0..self.tokens as usize {
            let gate = host.f32s("gate", self.gate, t * self.stride as usize, len)?;
            let up = host.f32s("up", self.up, t * self.stride as usize, len)?;
            let y: Vec<f32> = gate.iter().zip(up).map(|(g, u)| activated(activation, (*g).into(), u.into()) as f32).collect();
            host.put("y", self.y, t * len, &y)?;
        }
        Ok(())
    }
}

impl Meaning for AddNormed {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (len, eps) = (self.len as usize, f64::from(self.eps));
        let normed = |u: &[f64], weight: &[f32]| -> Vec<f64> {
            let scale = 1.0 / (u.iter().map(|v| v * v).sum::<f64>() / u.len() as f64 + eps).sqrt();
            u.iter().zip(weight).map(|(u, w)| u * scale * f64::from(*w)).collect()
        };
        let wide = |v: Vec<f32>| -> Vec<f64> { v.into_iter().map(f64::from).collect() };
        let weight = host.f32s("weight", self.weight, 0, len)?;
        for r in 0..self.rows as usize {
            let mut u = wide(host.f32s("a", self.a, r * self.a_stride as usize, len)?);
            if self.b.0 != 0 {
                let b = wide(host.f32s("b", self.b, r * self.b_stride as usize, len)?);
                u = normed(&u, &host.f32s("a_weight", self.a_weight, 0, len)?);
                let b = normed(&b, &host.f32s("b_weight", self.b_weight, 0, len)?);
                u.iter_mut().zip(b).for_each(|(u, b)| *u += b);
                host.put("b", self.b, r * self.b_stride as usize, &vec![0.0f32; len])?;
            }
            let at = r * self.x_stride as usize;
            let x = host.f32s("x", self.x, at, len)?.into_iter().zip(normed(&u, &weight));
            let x: Vec<f32> = x.map(|(x, y)| ((f64::from(x) + y) * f64::from(self.factor)) as f32).collect();
            host.put("x", self.x, at, &x)?;
        }
        Ok(())
    }
}

impl Meaning for SoftCap {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let cap = f64::from(self.cap);
        let bent = |v: f32| if v.is_finite() { (cap * (f64::from(v) / cap).tanh()) as f32 } else { v };
        let x: Vec<f32> = host.f32s("x", self.x, 0, self.len as usize)?.into_iter().map(bent).collect();
        host.put("x", self.x, 0, &x)
    }
}

impl Meaning for Add {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let len = self.len as usize;
        let (x, y) = (host.f32s("x", self.x, 0, len)?, host.f32s("y", self.y, 0, len)?);
        host.put("y", self.y, 0, &x.iter().zip(y).map(|(x, y)| x + y).collect::<Vec<_>>())
    }
}

impl Meaning for Finite {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let flag: u32 = host.one("flag", self.flag, 0)?;
        if host.f32s("x", self.x, 0, self.len as usize)?.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        host.put("flag", self.flag, 0, &[flag | 1])
    }
}
