//! A deterministic session for tests: routing with some locality, through the real scheduler.

use crate::events::{Eviction, Gauges, ModelCard, Phase, Plan, RoutedExpert, Sampling, StepRecord, StepTime};
use crate::experts::policy::Policy;
use crate::experts::schedule::{Routed, Scheduler};

/// Draws routing from a seed and schedules it, one record per step.
pub(in crate::ui) struct Stream {
    random: fastrand::Rng,
    scheduler: Scheduler,
    layers: usize,
    experts: usize,
    top_k: usize,
    slots: usize,
    last: Vec<Vec<u16>>,
    step: u64,
    position: u32,
}

impl Stream {
    pub(in crate::ui) fn new(layers: usize, experts: usize, top_k: usize, slots: usize, seed: u64) -> Self {
        let policy = Policy::Decay;
        Self {
            random: fastrand::Rng::with_seed(seed),
            scheduler: Scheduler::new(layers, experts, slots, policy, policy.admission()),
            layers,
            experts,
            top_k,
            slots,
            last: vec![Vec::new(); layers],
            step: 0,
            position: 0,
        }
    }

    /// Top-k of the layer: each of the previous token's experts stays with 38 %; newcomers lean to low ids of
    /// a layer's own order, so that some experts are popular.
    fn route(&mut self, layer: usize) -> Vec<u16> {
        let mut chosen: Vec<u16> = Vec::with_capacity(self.top_k);
        for e in std::mem::take(&mut self.last[layer]) {
            if self.random.f32() < 0.38 {
                chosen.push(e);
            }
        }
        while chosen.len() < self.top_k {
            let rank = (self.random.f32().powi(2) * self.experts as f32) as usize;
            let expert = ((rank * 37 + layer * 11) % self.experts) as u16;
            if !chosen.contains(&expert) {
                chosen.push(expert);
            }
        }
        self.last[layer].clone_from(&chosen);
        chosen
    }

    pub(in crate::ui) fn resize(&mut self, slots: usize) {
        self.slots = slots;
        let _ = self.scheduler.resize(slots);
    }

    fn step(&mut self, phase: Phase, tokens: u32) -> StepRecord {
        let mut record =
            StepRecord { step: self.step, phase, tokens, position: self.position, slots: self.slots as u16, ..Default::default() };
        self.step += 1;
        self.position += tokens;
        self.scheduler.begin_step(phase, tokens);
        for layer in 0..self.layers {
            let mut counts = vec![0u16; self.experts];
            for _ in 0..tokens {
                for e in self.route(layer) {
                    counts[usize::from(e)] += 1;
                }
            }
            let order = if tokens == 1 { self.last[layer].clone() } else { (0..self.experts as u16).collect() };
            let routed: Vec<Routed> = order
                .into_iter()
                .filter(|e| counts[usize::from(*e)] > 0)
                .enumerate()
                .map(|(i, expert)| Routed { expert, tokens: counts[usize::from(expert)], weight: 0.4 / (i + 1) as f32 })
                .collect();
            let plan = self.scheduler.tick(layer, &routed);
            record.routed.extend(plan.placed.iter().map(|p| RoutedExpert {
                expert: p.routed.expert,
                tokens: p.routed.tokens,
                weight: p.routed.weight,
                outcome: p.outcome,
            }));
            record.evicted.extend(plan.swaps.iter().filter_map(|s| s.evicted.map(|expert| Eviction { layer: layer as u16, expert })));
            record.ends.push(record.routed.len() as u32);
        }
        record.slot_of = self.scheduler.slot_table().to_vec();
        let count = |o| record.routed.iter().filter(|r| r.outcome == o).count() as u32;
        let (hits, misses, admitted) =
            (count(crate::events::Outcome::Hit), count(crate::events::Outcome::Miss), count(crate::events::Outcome::Admitted));
        record.time = StepTime {
            trunk_us: 21_000,
            hits_us: hits * 90,
            misses_us: (misses + admitted) * 310,
            upload_us: admitted * 160,
            sampling_us: 700,
            total_us: 21_700 + hits * 90 + (misses + admitted) * 310 + admitted * 160,
        };
        record.bytes_uploaded = u64::from(admitted) * 3_059_712;
        record.bytes_missed = u64::from(misses + admitted) * 3_059_712;
        record.context_used = self.position;
        record
    }

    pub(in crate::ui) fn prompt(&mut self, tokens: u32) -> StepRecord {
        self.step(Phase::Prefill, tokens)
    }

    pub(in crate::ui) fn token(&mut self) -> StepRecord {
        self.step(Phase::Decode, 1)
    }

    /// A step that reads three likely tokens along, of which two are right. It takes as long as one of a single token.
    pub(in crate::ui) fn drafted(&mut self) -> StepRecord {
        let mut record = self.step(Phase::Decode, 4);
        (record.drafted, record.kept) = (3, 2);
        (self.position, record.context_used) = (self.position - 1, record.context_used - 1);
        let StepTime { hits_us, misses_us, upload_us, .. } = record.time;
        record.time.total_us = 21_700 + hits_us + misses_us + upload_us;
        record
    }

    /// A card that fits the stream: expert bytes of Qwen3-30B-A3B at Q4_K_M.
    pub(in crate::ui) fn card(&self) -> ModelCard {
        let one = 3_059_712u64;
        let step = one * self.layers as u64;
        ModelCard {
            name: "Synthetic".into(),
            arch: "qwen3moe".into(),
            toy: false,
            layers: self.layers,
            experts: self.experts,
            top_k: self.top_k,
            vocab: 151_936,
            context: 8192,
            expert_bytes: vec![one; self.layers],
            plan: Plan {
                budget: Some(8 << 30),
                trunk: 573_763_584,
                cache: 805_306_368,
                buffers: 300 << 20,
                slots: step * self.slots as u64,
                slot_step: step,
                experts: step * self.experts as u64,
                slots_per_layer: self.slots,
                min_slots: self.top_k,
                max_slots: self.experts,
                context: 8192,
                ..Plan::default()
            },
            sampling: Sampling::default(),
            can_think: true,
            has_effort: false,
            template_fallback: false,
            device: "CPU, AVX2, 2 threads".into(),
        }
    }

    pub(in crate::ui) fn gauges(&self) -> Gauges {
        Gauges {
            rss: 7_851_343_872,
            rss_peak: 8_053_063_680,
            page_cache: Some(11_274_289_152),
            file: 18_556_686_912,
            slots_used: self.scheduler.layers() as u64 * self.slots as u64 * 3_059_712,
            cache_used: u64::from(self.position) * 98_304,
            available: 9_663_676_416,
            disk_rate: 104_857_600,
            device: None,
        }
    }
}
