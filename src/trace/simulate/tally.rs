//! What a contender did, added up: by layer, at one slot count, and by expert.

use super::Contender;
use serde::Serialize;

/// What one contender did in one layer, over the generated tokens that are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LayerTotals {
    /// Ticks: generated tokens, for whole traces.
    pub ticks: u64,
    /// Routed experts, once per token that chose them.
    pub routed: u64,
    /// Of those, how many were in a slot (not whole for `chance`).
    pub hits: f64,
    /// Routed experts, once per step: each was read once.
    pub reads: u64,
    /// Of those, how many were missed.
    pub missed: f64,
    /// Experts copied into slots.
    pub moved: u64,
    /// Of those, how many before they were asked for.
    pub ahead: u64,
    /// Ticks with a miss: expected ones for `chance`.
    pub missing: f64,
    /// Ticks with a miss that got no slot.
    pub passing: f64,
    /// Ticks with a copy.
    pub copying: u64,
}

impl LayerTotals {
    /// Hit rate, 0 to 1; 0 if nothing was routed.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        if self.routed == 0 {
            0.0
        } else {
            self.hits / self.routed as f64
        }
    }

    /// One tick that read `reads` experts, missed some of them and copied some of those; others came ahead of it.
    pub(super) fn count(&mut self, reads: u64, missed: u64, admitted: u64, ahead: u64) {
        self.ticks += 1;
        self.reads += reads;
        self.missed += missed as f64;
        self.moved += admitted + ahead;
        self.ahead += ahead;
        self.missing += f64::from(u8::from(missed > 0));
        self.passing += f64::from(u8::from(missed > admitted));
        self.copying += u64::from(admitted + ahead > 0);
    }
}

/// What one contender did at one slot count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tally {
    /// Who.
    pub policy: Contender,
    /// Slots per layer.
    pub slots: usize,
    /// Routed experts of generation, once per token that chose them.
    pub routed: u64,
    /// Of those, how many were in a slot (not whole for `chance`).
    pub hits: f64,
    /// Experts copied into slots during generation.
    pub moved: u64,
    /// Bytes of them; 0 if the trace doesn't know the size of an expert.
    pub moved_bytes: u64,
    /// Bytes of the experts that were missed, once per step; each had to be read from the host tier.
    pub missed_bytes: u64,
    /// The same, layer by layer.
    #[serde(skip)]
    pub layers: Vec<LayerTotals>,
}

impl Tally {
    /// Hit rate, 0 to 1; 0 if nothing was routed.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        if self.routed == 0 {
            0.0
        } else {
            self.hits / self.routed as f64
        }
    }

    pub(super) fn of(policy: Contender, slots: usize, layers: Vec<LayerTotals>, bytes: &[u64]) -> Self {
        let sum = |f: &dyn Fn(&LayerTotals, f64) -> f64| layers.iter().zip(bytes).map(|(l, &b)| f(l, b as f64)).sum::<f64>();
        Self {
            policy,
            slots,
            routed: layers.iter().map(|l| l.routed).sum(),
            hits: layers.iter().map(|l| l.hits).sum(),
            moved: layers.iter().map(|l| l.moved).sum(),
            moved_bytes: sum(&|l, b| l.moved as f64 * b) as u64,
            missed_bytes: sum(&|l, b| l.missed * b) as u64,
            layers,
        }
    }
}

/// Hits of every expert of every layer: `[layers * experts]`, once per token that chose it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByExpert {
    /// Tokens that chose the expert.
    pub routed: Vec<u64>,
    /// Of those, how many found it in a slot (not whole for `chance`).
    pub hits: Vec<f64>,
}
