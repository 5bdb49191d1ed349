//! The delta net: convolution and recurrence; and the gated convolution that is a layer by itself.

use super::{dot, sigmoid, silu, Host, Meaning, ReferenceError};
use crate::gpu::params::{Convolve, DeltaRule, ShortConv};

impl Meaning for Convolve {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (channels, width, tokens) = (self.channels as usize, self.width as usize, self.tokens as usize);
        host.demand((1..=Self::TAPS).contains(&self.width), "a convolution of 1 to 8 taps")?;
        let taps = host.f32s("taps", self.taps, 0, width * channels)?;
        let mut all = host.f32s("carry", self.carry, 0, (width - 1) * channels)?;
        for t in 0..tokens {
            all.extend(host.f32s("x", self.x, t * self.x_stride as usize, channels)?);
        }
        let mut y = vec![0.0f32; tokens * channels];
        for (i, y) in y.iter_mut().enumerate() {
            let sum: f64 = (0..width).map(|j| f64::from(taps[j * channels + i % channels]) * f64::from(all[j * channels + i])).sum();
            *y = silu(sum) as f32;
        }
        host.put("y", self.y, 0, &y)?;
        host.put("carry", self.carry, 0, &all[tokens * channels..])
    }
}

impl Meaning for ShortConv {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (channels, width, tokens) = (self.channels as usize, self.width as usize, self.tokens as usize);
        host.demand((1..=Convolve::TAPS).contains(&self.width), "a convolution of 1 to 8 taps")?;
        let taps = host.f32s("taps", self.taps, 0, width * channels)?;
        let mut all = host.f32s("carry", self.carry, 0, (width - 1) * channels)?;
        let mut y = Vec::with_capacity(tokens * channels);
        for t in 0..tokens {
            let parts = host.f32s("parts", self.parts, t * self.stride as usize, 3 * channels)?;
            all.extend(parts[..channels].iter().zip(&parts[2 * channels..]).map(|(b, x)| b * x));
            for (i, c) in parts[channels..2 * channels].iter().enumerate() {
                let sum: f64 = (0..width).map(|j| f64::from(taps[j * channels + i]) * f64::from(all[(t + j) * channels + i])).sum();
                y.push((f64::from(*c) * sum) as f32);
            }
        }
        host.put("y", self.y, 0, &y)?;
        host.put("carry", self.carry, 0, &all[tokens * channels..])
    }
}

/// `ln(1 + e^x)`, without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Unit length.
fn unit(x: &[f32], eps: f32, scale: f64) -> Vec<f64> {
    let scale = scale / (dot(x, x) + f64::from(eps)).sqrt();
    x.iter().map(|x| f64::from(*x) * scale).collect()
}

impl Meaning for DeltaRule {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (keys, values, dk, dv) = (self.keys as usize, self.values as usize, self.key_dim as usize, self.value_dim as usize);
        host.demand(keys > 0 && dk > 0, "no key heads")?;
        host.demand(self.key_dim <= Self::KEY_DIM, "a longer key head than a block has room for")?;
        let channels = 2 * keys * dk + values * dv;
        for h in 0..values {
            let mut state: Vec<f64> = host.f32s("state", self.state, h * dk * dv, dk * dv)?.into_iter().map(f64::from).collect();
            let bias: f64 = host.one::<f32>("bias", self.bias, h)?.into();
            let rate: f64 = host.one::<f32>("rate", self.rate, h)?.into();
            for t in 0..self.tokens as usize {
                let alpha: f64 = host.one::<f32>("alpha", self.alpha, t * self.alpha_stride as usize + h)?.into();
                let beta: f64 = host.one::<f32>("beta", self.beta, t * self.beta_stride as usize + h)?.into();
                let (decay, strength) = ((rate * softplus(alpha + bias)).exp(), sigmoid(beta));
                let head = h % keys * dk;
                let q = unit(&host.f32s("mixed", self.mixed, t * channels + head, dk)?, self.eps, 1.0 / (dk as f64).sqrt());
                let k = unit(&host.f32s("mixed", self.mixed, t * channels + keys * dk + head, dk)?, self.eps, 1.0);
                let v = host.f32s("mixed", self.mixed, t * channels + 2 * keys * dk + h * dv, dv)?;
                let mut delta = vec![0.0; dv];
                for (k, s) in k.iter().zip(state.chunks_exact(dv)) {
                    delta.iter_mut().zip(s).for_each(|(d, s)| *d += k * s);
                }
                delta.iter_mut().zip(v).for_each(|(d, v)| *d = strength * (f64::from(v) - decay * *d));
                let mut out = vec![0.0; dv];
                for ((k, q), s) in k.iter().zip(&q).zip(state.chunks_exact_mut(dv)) {
                    for ((s, d), o) in s.iter_mut().zip(&delta).zip(&mut out) {
                        *s = decay * *s + k * d;
                        *o += q * *s;
                    }
                }
                host.put("y", self.y, (t * values + h) * dv, &out.iter().map(|o| *o as f32).collect::<Vec<_>>())?;
            }
            host.put("state", self.state, h * dk * dv, &state.iter().map(|s| *s as f32).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
