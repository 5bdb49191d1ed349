//! The router's choice; the rules are those of the CPU's `model::router`.

use super::{sigmoid, Host, Meaning, ReferenceError};
use crate::gpu::params::Route;

/// llama.cpp's floor of the sum that weights are divided by: the smallest normal f16.
const FLOOR: f64 = 6.103_515_6e-5;

impl Meaning for Route {
    fn mean(&self, host: &mut Host<'_>) -> Result<(), ReferenceError> {
        let (experts, k) = (self.experts as usize, self.top_k as usize);
        host.demand(k <= experts, "more experts to choose than there are")?;
        host.demand(self.experts <= Self::EXPERTS, "more experts than a block has room for")?;
        let table: Vec<i32> = if self.table.0 == 0 { Vec::new() } else { host.get("table", self.table, 0, experts)? };
        host.demand(self.sigmoid != 0 || self.bias.0 == 0, "a bias for the choice among sigmoids")?;
        let bias = if self.bias.0 == 0 { vec![0.0; experts] } else { host.f32s("bias", self.bias, 0, experts)? };
        let factors = if self.factors.0 == 0 { vec![1.0; experts] } else { host.f32s("factors", self.factors, 0, experts)? };
        for t in 0..self.tokens as usize {
            let row = host.f32s("scores", self.scores, t * experts, experts)?;
            let by: Vec<f64> = match self.sigmoid {
                0 => row.iter().map(|s| f64::from(*s)).collect(),
                // In f32, as those are whose order counts.
                _ => row.iter().zip(&bias).map(|(s, b)| f64::from(sigmoid((*s).into()) as f32 + b)).collect(),
            };
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exp = |s: f32| f64::from(s - max).exp();
            let sum: f64 = row.iter().map(|s| exp(*s)).sum();
            let mut ids: Vec<usize> = Vec::with_capacity(k);
            while ids.len() < k {
                let mut best: Option<usize> = None;
                for (i, s) in by.iter().enumerate() {
                    if !ids.contains(&i) && best.is_none_or(|b| *s > by[b] || (by[b].is_nan() && !s.is_nan())) {
                        best = Some(i);
                    }
                }
                ids.extend(best);
            }
            let share = |i: usize| if self.sigmoid == 0 { exp(row[i]) / sum } else { sigmoid(row[i].into()) };
            let mut weights: Vec<f64> = ids.iter().map(|&i| share(i)).collect();
            if self.renormalise != 0 {
                let total = weights.iter().sum::<f64>();
                let total = if self.sigmoid == 0 { total.max(FLOOR) } else { total + 1e-20 };
                weights.iter_mut().for_each(|w| *w /= total);
            }
            let weights: Vec<f32> =
                weights.iter().zip(&ids).map(|(w, &i)| (w * f64::from(self.scale) * f64::from(factors[i])) as f32).collect();
            host.put("weights", self.weights, t * k, &weights)?;
            host.put("ids", self.ids, t * k, &ids.iter().map(|&i| i as u32).collect::<Vec<_>>())?;
            if !table.is_empty() {
                host.put("slots", self.slots, t * k, &ids.iter().map(|&i| table[i]).collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }
}
