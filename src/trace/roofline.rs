//! Tokens per second on a described machine, from the bytes that a token reads: a roofline, and an estimate.
//!
//! Generating a token is bound by memory: every weight that it uses is read once. So a token costs the trunk's bytes over
//! the bandwidth of fast memory, its experts in slots the same way, and its missed experts as the machine deals with them
//! ([`Misses`]); to that come costs that no byte accounts for. Layers run one after another, so where two things run side by
//! side in a layer the slower one counts. Only means over tokens go in: a layer that misses one expert in two tokens is
//! taken as one that misses half an expert in each, which is a little too kind where things run side by side.
//!
//! Left out: attention over a long context, sampling, prompts, and memory that is not there (see [`Profile::fits`]).

use super::profile::{Misses, Profile};
use super::simulate::Tally;
use serde::Serialize;

/// What a mean token asks of one layer. Bytes are of experts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerDemand {
    /// Found in slots.
    pub hits: f64,
    /// Missed, in all.
    pub missed: f64,
    /// Copied into a slot: some of the missed, and what came ahead of its use.
    pub copied: f64,
    /// Of those copied, what came ahead.
    pub ahead: f64,
    /// Share of tokens that miss something here, 0 to 1.
    pub missing: f64,
    /// Share of tokens that miss something here that gets no slot, 0 to 1.
    pub passing: f64,
    /// Share of tokens that copy something here, 0 to 1.
    pub copying: f64,
}

/// What a mean token asks of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// Bytes of weights that every token reads.
    pub trunk: f64,
    /// Layers with experts.
    pub layers: Vec<LayerDemand>,
}

impl Demand {
    /// What a simulated step asked for in the mean. `expert_bytes` is by layer.
    #[must_use]
    pub fn of(tally: &Tally, expert_bytes: &[u64], trunk: u64) -> Self {
        // A layer need not take part in every step: that of a block that guesses does not.
        let steps = tally.layers.iter().map(|t| t.ticks).max().unwrap_or(0);
        let layers = tally.layers.iter().zip(expert_bytes).map(|(t, &bytes)| {
            let tokens = steps.max(1) as f64;
            let per_token = |experts: f64| experts * bytes as f64 / tokens;
            LayerDemand {
                hits: per_token(t.reads as f64 - t.missed),
                missed: per_token(t.missed),
                copied: per_token(t.moved as f64),
                ahead: per_token(t.ahead as f64),
                missing: t.missing / tokens,
                passing: t.passing / tokens,
                copying: t.copying as f64 / tokens,
            }
        });
        Self { trunk: trunk as f64, layers: layers.collect() }
    }
}

/// Where the time of a token goes, in microseconds: an estimate.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// What no byte accounts for: of the step and of each layer.
    pub fixed_us: f64,
    /// Reading the trunk.
    pub trunk_us: f64,
    /// Reading experts in slots.
    pub hits_us: f64,
    /// What misses add to that.
    pub misses_us: f64,
    /// What copies into slots add: in turn all of them, in the background the time for which the step has to wait.
    pub copies_us: f64,
    /// What hits, misses and copies take in each layer, without waiting for the background.
    #[serde(skip)]
    pub layers_us: Vec<f64>,
}

impl Estimate {
    /// The whole token.
    #[must_use]
    pub fn total_us(&self) -> f64 {
        self.fixed_us + self.trunk_us + self.hits_us + self.misses_us + self.copies_us
    }

    /// Tokens per second.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        let us = self.total_us();
        if us > 0.0 {
            1e6 / us
        } else {
            0.0
        }
    }
}

/// What `demand` takes on `profile`.
#[must_use]
pub fn estimate(profile: &Profile, demand: &Demand) -> Estimate {
    let b = &profile.bandwidth;
    // GB/s are thousands of bytes per microsecond.
    let us = |bytes: f64, gb_s: f64| bytes / (gb_s * 1e3);
    let copied: f64 = demand.layers.iter().map(|l| l.copied).sum();
    let mut e = Estimate {
        fixed_us: profile.cost.step + profile.cost.layer * demand.layers.len() as f64,
        trunk_us: us(demand.trunk, b.trunk),
        ..Estimate::default()
    };
    // Bytes that go over the bus while everything else runs.
    let mut background = 0.0;
    for l in &demand.layers {
        let hits = us(l.hits, b.vram);
        let (misses, copies) = match profile.misses {
            Misses::InTurn => {
                // What was just copied is then read from its slot.
                let admitted = l.copied - l.ahead;
                let read = us(admitted, b.vram) + us(l.missed - admitted, b.host) + l.passing * profile.cost.join;
                (read, us(l.copied, b.pcie) + l.copying * profile.cost.copy)
            }
            Misses::Upload => {
                background += l.missed + l.ahead;
                (us(l.missed, b.vram) + us(l.missed, b.pcie), 0.0)
            }
            Misses::Host => {
                background += l.copied;
                let gb_s = if copied > 0.0 { b.host_while_copying } else { b.host };
                let host = us(l.missed, gb_s) + l.missing * profile.cost.join;
                ((host - hits).max(0.0), 0.0)
            }
            Misses::Split => {
                let sent = l.missed * b.pcie / (b.pcie + b.host_while_copying);
                background += (l.copied - l.ahead).max(sent) + l.ahead;
                let device = hits + us(sent, b.vram);
                let host = us(l.missed, b.pcie + b.host_while_copying) + l.missing * profile.cost.join;
                (device.max(host) - hits, 0.0)
            }
        };
        e.hits_us += hits;
        e.misses_us += misses;
        e.copies_us += copies;
        e.layers_us.push(hits + misses + copies);
    }
    // The bus may not be done when the rest is.
    e.copies_us += (us(background, b.pcie) - e.total_us()).max(0.0);
    e
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::profile;

    /// Qwen3.6-35B-A3B: 40 layers, 8 routed experts of 1.9 MB per token and layer.
    fn demand(trunk: f64, hit: f64) -> Demand {
        let routed = 8.0 * 1_900_544.0;
        let layer = LayerDemand {
            hits: routed * hit,
            missed: routed * (1.0 - hit),
            copied: 0.0,
            ahead: 0.0,
            missing: 1.0,
            passing: 1.0,
            copying: 0.0,
        };
        Demand { trunk, layers: vec![layer; 40] }
    }

    fn laptop(misses: Misses) -> Profile {
        Profile { misses, ..profile::included("rtx-4060-laptop").unwrap() }
    }

    fn speed(profile: &Profile, trunk: f64, hit: f64) -> f64 {
        estimate(profile, &demand(trunk, hit)).tokens_per_second()
    }

    /// A roofline that was worked out by hand for this card beforehand: trunk in bytes, hit rate, tokens/s with misses
    /// uploaded, computed by the host, and split.
    const BY_HAND: [(f64, f64, [f64; 3]); 6] = [
        (2.014e9, 0.65, [32.0, 58.0, 61.0]),
        (2.014e9, 0.72, [36.0, 62.0, 64.0]),
        (2.014e9, 0.80, [42.0, 66.0, 68.0]),
        (2.014e9, 0.90, [53.0, 73.0, 73.0]),
        (1.18e9, 0.72, [43.0, 82.0, 86.0]),
        (1.18e9, 0.80, [51.0, 90.0, 94.0]),
    ];

    #[test]
    fn the_estimate_is_the_roofline_that_was_worked_out_by_hand_within_3_percent() {
        for (trunk, hit, wanted) in BY_HAND {
            for (misses, wanted) in [Misses::Upload, Misses::Host, Misses::Split].into_iter().zip(wanted) {
                let got = speed(&laptop(misses), trunk, hit);
                assert!((got / wanted - 1.0).abs() < 0.03, "trunk {trunk:e}, hits {hit}, {misses:?}: {got:.1} against {wanted}");
            }
        }
    }

    #[test]
    fn without_slots_with_all_experts_in_slots_and_with_a_weak_cpu_it_is_that_too() {
        let near = |got: f64, wanted: f64| assert!((got / wanted - 1.0).abs() < 0.03, "{got:.1} against {wanted}");
        near(speed(&laptop(Misses::Host), 2.014e9, 0.0), 39.0);
        near(speed(&laptop(Misses::Host), 1.18e9, 0.0), 46.0);
        for misses in [Misses::Upload, Misses::Host, Misses::Split] {
            let mut all = demand(2.014e9, 1.0);
            all.layers.iter_mut().for_each(|l| l.missing = 0.0);
            near(estimate(&laptop(misses), &all).tokens_per_second(), 71.0);
        }
        let weak = |misses| {
            let mut p = laptop(misses);
            (p.bandwidth.host, p.bandwidth.host_while_copying) = (28.0, 28.0 * 40.0 / 45.0);
            p
        };
        near(speed(&weak(Misses::Upload), 2.014e9, 0.72), 36.0);
        near(speed(&weak(Misses::Host), 2.014e9, 0.72), 54.0);
        near(speed(&weak(Misses::Split), 2.014e9, 0.72), 59.0);
        near(speed(&weak(Misses::Host), 2.014e9, 0.0), 29.0);
    }

    #[test]
    fn a_step_waits_for_copies_in_the_background_only_if_they_take_longer() {
        let mut d = demand(2.014e9, 0.72);
        let free = estimate(&laptop(Misses::Split), &d).total_us();
        d.layers.iter_mut().for_each(|l| l.copied = l.missed * 0.1);
        assert_eq!(estimate(&laptop(Misses::Split), &d).copies_us, 0.0);
        d.layers.iter_mut().for_each(|l| l.copied = l.missed * 2.0);
        let e = estimate(&laptop(Misses::Split), &d);
        assert!(e.copies_us > 0.0 && e.total_us() > free);
        let bus = d.layers.iter().map(|l| l.copied).sum::<f64>() / 12.6e3;
        assert!((e.total_us() - bus).abs() < 1e-6);
    }

    #[test]
    fn in_turn_everything_adds_up() {
        let mut p = laptop(Misses::InTurn);
        (p.bandwidth.vram, p.bandwidth.trunk, p.bandwidth.pcie, p.bandwidth.host) = (10.0, 20.0, 5.0, 8.0);
        (p.cost.step, p.cost.layer, p.cost.join, p.cost.copy) = (100.0, 10.0, 3.0, 2.0);
        let layer = LayerDemand { hits: 1e6, missed: 0.4e6, copied: 0.1e6, ahead: 0.0, missing: 0.7, passing: 0.5, copying: 0.25 };
        let e = estimate(&p, &Demand { trunk: 2e6, layers: vec![layer; 2] });
        assert!((e.fixed_us - 120.0).abs() < 1e-9 && (e.trunk_us - 100.0).abs() < 1e-9 && (e.hits_us - 200.0).abs() < 1e-9);
        assert!((e.misses_us - 2.0 * (10.0 + 37.5 + 1.5)).abs() < 1e-9 && (e.copies_us - 2.0 * (20.0 + 0.5)).abs() < 1e-9);
        assert!((e.layers_us[0] - (100.0 + 49.0 + 20.5)).abs() < 1e-9);
    }

    #[test]
    fn nothing_takes_no_time_and_more_hits_never_slow_a_machine_down_where_it_does_one_thing_at_a_time() {
        assert_eq!(Estimate::default().tokens_per_second(), 0.0);
        // Elsewhere a few misses may help: they are computed beside the hits.
        for misses in [Misses::Upload, Misses::InTurn] {
            let speeds: Vec<f64> = (0..=10).map(|h| speed(&laptop(misses), 1e9, f64::from(h) / 10.0)).collect();
            assert!(speeds.is_sorted(), "{misses:?}: {speeds:?}");
        }
    }
}
