//! Estimates: what another slot count would do, and how far earlier estimates were from what then happened.

use std::collections::VecDeque;

/// Verdicts that are kept.
const KEPT: usize = 32;

/// What another slot count would do: an estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Slots per layer.
    pub slots: usize,
    /// Hit rate, 0..1: today's, moved by what the stack-distance curve says.
    pub hit_rate: f64,
    /// Tokens per second, from the measured cost of a hit and of a miss; `None` if one was never measured.
    pub speed: Option<f64>,
    /// Bytes of all slots.
    pub bytes: u64,
}

/// What a token costs, in microseconds, by what is done for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// Weights that every token uses, and drawing the token.
    pub(super) fixed: f64,
    /// Routed experts per token.
    pub(super) routed: f64,
    /// Of those, in slots.
    pub(super) hits: f64,
    /// One expert from a slot; `None` if too few were seen.
    pub(super) hit: Option<f64>,
    /// One expert from host memory, its copy into a slot included.
    pub(super) miss: Option<f64>,
}

impl Cost {
    /// Tokens per second at a hit rate.
    pub(super) fn speed(&self, hit_rate: f64) -> Option<f64> {
        let (hit, miss) = match (self.hit, self.miss) {
            (Some(h), Some(m)) => (h, m),
            (Some(h), None) if (hit_rate * self.routed - self.hits).abs() < 0.5 => (h, h),
            _ => return None,
        };
        let us = self.fixed + self.routed * (hit_rate * hit + (1.0 - hit_rate) * miss);
        (us > 0.0).then(|| 1e6 / us)
    }
}

/// An estimate beside what then happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// What was expected.
    pub forecast: Forecast,
    /// Hit rate measured over the window that followed.
    pub hit_rate: f64,
    /// Tokens per second measured over it.
    pub speed: f64,
}

impl Verdict {
    /// Distance of the hit rate from what was expected, 0..1.
    #[must_use]
    pub fn rate_error(&self) -> f64 {
        (self.forecast.hit_rate - self.hit_rate).abs()
    }

    /// Distance of the speed from what was expected, as a share of what was measured.
    #[must_use]
    pub fn speed_error(&self) -> Option<f64> {
        let expected = self.forecast.speed?;
        (self.speed > 0.0).then(|| (expected / self.speed - 1.0).abs())
    }
}

/// Estimates of this session that were put to the test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accuracy {
    verdicts: VecDeque<Verdict>,
    count: usize,
}

impl Accuracy {
    pub(super) fn push(&mut self, verdict: Verdict) {
        if self.verdicts.len() == KEPT {
            self.verdicts.pop_front();
        }
        self.verdicts.push_back(verdict);
        self.count += 1;
    }

    /// The latest.
    #[must_use]
    pub fn last(&self) -> Option<&Verdict> {
        self.verdicts.back()
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Mean error of the hit rate (0..1) and of the speed (a share) over the kept ones.
    #[must_use]
    pub fn mean_errors(&self) -> Option<(f64, Option<f64>)> {
        let mean = |errors: Vec<f64>| (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64);
        let rate = mean(self.verdicts.iter().map(Verdict::rate_error).collect())?;
        Some((rate, mean(self.verdicts.iter().filter_map(Verdict::speed_error).collect())))
    }
}

/// Today's hit rate, moved by what LRU's curve says between two slot counts, `from` and `to`.
///
/// The policy in force is better or worse than LRU, and more so with few slots than with many. What stays about the same is the factor between the odds of the two (hits to
/// misses): on the real traces, 16 to 32 slots and back, it errs by 0.3 to 1.6 points where the distance would err by 1.7 to 2.5, and by 2 to 4 instead of 8 with experts ahead of use. With `all` experts in
/// slots today's rate says nothing of the policy, since whoever came up unasked never missed; then the distance is kept.
pub(super) fn along_curve(now: f64, from: f64, to: f64, all: bool) -> f64 {
    // Rates beyond are a few uses more or less.
    let odds = |rate: f64| {
        let rate = rate.clamp(1e-3, 1.0 - 1e-3);
        rate / (1.0 - rate)
    };
    if all || from == to {
        return (now + to - from).clamp(0.0, 1.0);
    }
    let moved = odds(now) * odds(to) / odds(from);
    moved / (1.0 + moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_move_along_the_curve_as_they_do_on_recorded_sessions() {
        // `docs/scheduling.md`: LRU and `rotary` at 16 and 32 slots, Qwen3 and gpt-oss with nothing ahead, Qwen3 with experts ahead.
        for (lru, rotary, within) in
            [([61.31, 81.78], [66.74, 84.74], 0.8), ([65.76, 80.45], [67.70, 80.67], 1.7), ([61.31, 81.78], [74.74, 87.42], 4.0)]
        {
            for (here, there) in [(0, 1), (1, 0)] {
                let moved = 100.0 * along_curve(rotary[here] / 100.0, lru[here] / 100.0, lru[there] / 100.0, false);
                assert!((moved - rotary[there]).abs() < within, "{moved:.2} instead of {}", rotary[there]);
            }
        }
        assert!((along_curve(0.7, 0.6, 0.6, false) - 0.7).abs() < 1e-9);
        assert!((along_curve(1.0, 0.97, 0.90, true) - 0.93).abs() < 1e-9, "not all would be hits with fewer slots");
        for rates in [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]] {
            let [now, from, to] = rates;
            assert!((0.0..=1.0).contains(&along_curve(now, from, to, false)), "{rates:?}");
        }
    }

    fn verdict(expected: (f64, Option<f64>), came: (f64, f64)) -> Verdict {
        let forecast = Forecast { slots: 8, hit_rate: expected.0, speed: expected.1, bytes: 0 };
        Verdict { forecast, hit_rate: came.0, speed: came.1 }
    }

    #[test]
    fn errors_are_means_of_distances_and_an_unknown_speed_counts_for_none() {
        let mut accuracy = Accuracy::default();
        assert_eq!(accuracy.mean_errors(), None);
        accuracy.push(verdict((0.70, Some(11.0)), (0.60, 10.0)));
        accuracy.push(verdict((0.50, None), (0.54, 8.0)));
        let (rate, speed) = accuracy.mean_errors().unwrap();
        assert!((rate - 0.07).abs() < 1e-9 && (speed.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!((accuracy.count(), accuracy.last().unwrap().hit_rate), (2, 0.54));
    }

    #[test]
    fn a_miss_costs_more_than_a_hit_so_speed_rises_with_the_hit_rate() {
        let cost = Cost { fixed: 1000.0, routed: 10.0, hits: 5.0, hit: Some(50.0), miss: Some(250.0) };
        assert!((cost.speed(0.5).unwrap() - 400.0).abs() < 1e-9);
        assert!((cost.speed(1.0).unwrap() - 1e6 / 1500.0).abs() < 1e-9);
        assert_eq!(Cost { miss: None, ..cost }.speed(0.9), None, "the cost of a miss was never measured");
        assert!(Cost { miss: None, ..cost }.speed(0.52).is_some(), "where next to nothing changes it is not needed");
    }
}
