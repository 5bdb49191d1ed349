//! What the recent tokens tell: everything that the pane calls "now".

use super::forecast::Cost;
use super::MemoryState;
use crate::events::StepTime;

/// One step of generation, reduced to what the pane needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub(super) hits: u32,
    /// Misses that got a slot: their copy is `upload_us`, but they are computed from the slot, so within `hits_us`.
    pub(super) admitted: u32,
    pub(super) routed: u32,
    /// Tokens that it brought the answer forward, that it read along, and those of them that were right.
    pub(super) gained: u32,
    pub(super) drafted: u32,
    pub(super) kept: u32,
    pub(super) time: StepTime,
    pub(super) uploaded: u64,
    pub(super) missed: u64,
}

/// Mean time of a step over the recent tokens, in microseconds, by what it was spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Split {
    /// Weights that every token uses, and what nothing else accounts for.
    pub trunk: f64,
    /// Experts in slots.
    pub hits: f64,
    /// Experts computed from host memory.
    pub misses: f64,
    /// Copies into slots.
    pub upload: f64,
    /// Drawing the token.
    pub sampling: f64,
}

impl Split {
    /// The whole step.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.trunk + self.hits + self.misses + self.upload + self.sampling
    }
}

/// What reading likely tokens along came to, over the recent steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drafting {
    /// Tokens of the answer per step.
    pub gained: f64,
    /// Tokens read along per step.
    pub drafted: f64,
    /// Share of them that was right.
    pub right: f64,
}

impl MemoryState {
    /// Steps of generation behind the numbers called "now".
    #[must_use]
    pub fn window(&self) -> usize {
        self.recent.len()
    }

    /// Hits among routed experts over the recent tokens, 0..1.
    #[must_use]
    pub fn hit_rate_now(&self) -> Option<f64> {
        let (hits, routed) = self.recent.iter().fold((0u64, 0u64), |(h, r), s| (h + u64::from(s.hits), r + u64::from(s.routed)));
        (routed > 0).then(|| hits as f64 / routed as f64)
    }

    /// Tokens per second over the recent tokens.
    #[must_use]
    pub fn speed_now(&self) -> Option<f64> {
        let us: u64 = self.recent.iter().map(|s| u64::from(s.time.total_us)).sum();
        (us > 0).then(|| self.sum(|s| s.gained) * 1e6 / us as f64)
    }

    fn sum(&self, f: fn(&Sample) -> u32) -> f64 {
        self.recent.iter().map(|s| f64::from(f(s))).sum()
    }

    /// What came of likely tokens that were read along; `None` if none were lately.
    #[must_use]
    pub fn drafting(&self) -> Option<Drafting> {
        let (steps, drafted) = (self.recent.len() as f64, self.sum(|s| s.drafted));
        (drafted > 0.0).then(|| Drafting {
            gained: self.sum(|s| s.gained) / steps,
            drafted: drafted / steps,
            right: self.sum(|s| s.kept) / drafted,
        })
    }

    /// Where a step's time goes, over the recent tokens.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        let n = self.recent.len() as f64;
        let mean = |f: fn(&StepTime) -> u32| self.recent.iter().map(|s| f64::from(f(&s.time))).sum::<f64>() / n;
        let mut split = Split {
            trunk: 0.0,
            hits: mean(|t| t.hits_us),
            misses: mean(|t| t.misses_us),
            upload: mean(|t| t.upload_us),
            sampling: mean(|t| t.sampling_us),
        };
        let total = mean(|t| t.total_us);
        // What no part accounts for belongs to the trunk, so that the bar always adds up to the step.
        split.trunk = mean(|t| t.trunk_us).max(total - split.total());
        (!self.recent.is_empty() && split.total() > 0.0).then_some(split)
    }

    /// Bytes per token, over the recent tokens: copied into slots, and read from host memory for misses.
    #[must_use]
    pub fn bytes_per_token(&self) -> Option<(u64, u64)> {
        let n = self.sum(|s| s.gained) as u64;
        let sum = |f: fn(&Sample) -> u64| self.recent.iter().fold(0u64, |sum, s| sum.saturating_add(f(s)));
        (n > 0).then(|| (sum(|s| s.uploaded) / n, sum(|s| s.missed) / n))
    }

    /// What a token costs by what is done for it, from the recent steps.
    pub(super) fn cost(&self) -> Option<Cost> {
        let split = self.split()?;
        let n = self.recent.len() as f64;
        let mean = |f: fn(&Sample) -> u32| self.sum(f) / n;
        let (routed, hits, admitted) = (mean(|s| s.routed), mean(|s| s.hits), mean(|s| s.admitted));
        let misses = routed - hits;
        // Too few of a kind give no cost to go by.
        let cost = |us: f64, count: f64| (count * n >= 8.0).then(|| us / count);
        // Experts admitted in a step are computed from their new slot, at the price of a hit; that price belongs to the miss.
        let hit = cost(split.hits, hits + admitted);
        let miss = hit.and_then(|hit| cost(split.misses + split.upload + admitted * hit, misses));
        // A step may bring several tokens.
        let gained = mean(|s| s.gained).max(1.0);
        Some(Cost { fixed: (split.trunk + split.sampling) / gained, routed: routed / gained, hits: hits / gained, hit, miss })
    }
}
