//! What other policies and slot counts would have done with a recorded routing.
//!
//! The online policies run the scheduler itself, one run per slot count. `belady` is the bound that no policy can beat: it
//! knows the future, keeps what is needed soonest, and lets a miss pass by when everything resident is needed sooner. It is
//! a stack algorithm, so one pass gives every slot count. `chance` is what slots filled at random would hit: slots / experts.
//!
//! **What is counted.** Hits and routed experts of generation, once per token that chose them; a hit is judged against the
//! occupancy before the tick. The prompt at the beginning only warms the slots, and every layer gets the same warm-up: a
//! layer's first `P` ticks, with `P` the steps of that prompt. (Some traces lack the last layer in the prompt, because
//! engines skip what no logit needs; that layer's warm-up is then taken from its first generated tokens.)

use super::routes::Routes;
use crate::events::{Outcome, Phase};
use crate::experts::policy::{Admission, Policy, UnknownPolicy};
use crate::experts::schedule::{Routed, Scheduler};
use serde::{Serialize, Serializer};

/// A way to use slots, online or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contender {
    /// A policy that the scheduler can run.
    Online(Policy),
    /// The bound: knows the future.
    Belady,
    /// Slots filled at random.
    Chance,
}

impl Contender {
    /// Everything that can be compared, online policies first.
    pub const ALL: [Contender; 5] = [
        Contender::Online(Policy::Rotary),
        Contender::Online(Policy::Lru),
        Contender::Online(Policy::Lfu),
        Contender::Belady,
        Contender::Chance,
    ];

    /// The name by which it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Contender::Online(policy) => policy.name(),
            Contender::Belady => "belady",
            Contender::Chance => "chance",
        }
    }
}

impl std::fmt::Display for Contender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Contender {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What one contender did at one slot count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
}

/// The routing in the shape that the simulation wants, with each tick's part in the count.
pub struct Prepared {
    layers: usize,
    experts: usize,
    bytes: Vec<u64>,
    steps: Vec<(Phase, u32)>,
    ticks: Vec<Tick>,
    routed: Vec<Routed>,
    /// Per entry of `routed`: the step in which its layer uses the expert next; `u32::MAX` if never.
    next_use: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Tick {
    start: usize,
    end: usize,
    counted: bool,
}

impl Prepared {
    /// Arrange a trace for any number of simulations.
    #[must_use]
    pub fn new(routes: &Routes) -> Self {
        let (layers, experts) = (routes.head.layers, routes.head.experts);
        let warm = routes.steps().iter().take_while(|s| s.phase == Phase::Prefill).count();
        let mut seen = vec![0usize; layers];
        let mut ticks = Vec::with_capacity(routes.len() * layers);
        let mut routed = Vec::with_capacity(routes.routed());
        for (i, step) in routes.steps().iter().enumerate() {
            for (layer, seen) in seen.iter_mut().enumerate() {
                let start = routed.len();
                let tick = routes.tick(i, layer);
                routed.extend(tick.iter().map(|r| Routed { expert: r.expert, tokens: r.tokens, weight: r.weight }));
                ticks.push(Tick { start, end: routed.len(), counted: step.phase == Phase::Decode && *seen >= warm });
                *seen += usize::from(!tick.is_empty());
            }
        }
        let mut next_use = vec![u32::MAX; routed.len()];
        let mut soonest = vec![u32::MAX; layers * experts];
        for (i, tick) in ticks.iter().enumerate().rev() {
            let (step, layer) = ((i / layers) as u32, i % layers);
            // Within a tick nobody is his own next use.
            for k in tick.start..tick.end {
                next_use[k] = soonest[layer * experts + usize::from(routed[k].expert)];
            }
            for r in &routed[tick.start..tick.end] {
                soonest[layer * experts + usize::from(r.expert)] = step;
            }
        }
        Self {
            layers,
            experts,
            bytes: (0..layers).map(|l| routes.expert_bytes(l)).collect(),
            steps: routes.steps().iter().map(|s| (s.phase, s.tokens)).collect(),
            ticks,
            routed,
            next_use,
        }
    }

    /// Experts per layer.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.experts
    }

    fn blank(&self, policy: Contender, slots: usize) -> Tally {
        Tally { policy, slots, routed: 0, hits: 0.0, moved: 0, moved_bytes: 0, missed_bytes: 0 }
    }

    /// Run the scheduler over the trace.
    #[must_use]
    pub fn online(&self, policy: Policy, admission: Admission, slots: usize) -> Tally {
        let mut tally = self.blank(Contender::Online(policy), slots);
        let mut scheduler = Scheduler::new(self.layers, self.experts, slots, policy, admission);
        for (step, &(phase, tokens)) in self.steps.iter().enumerate() {
            scheduler.begin_step(phase, tokens);
            for layer in 0..self.layers {
                let tick = self.ticks[step * self.layers + layer];
                let plan = scheduler.tick(layer, &self.routed[tick.start..tick.end]);
                if !tick.counted {
                    continue;
                }
                let mut misses = 0;
                for p in &plan.placed {
                    let n = u64::from(p.routed.tokens);
                    tally.routed += n;
                    if p.outcome == Outcome::Hit {
                        tally.hits += n as f64;
                    } else {
                        misses += 1;
                    }
                }
                let moved = plan.swaps.len() as u64;
                tally.moved += moved;
                tally.moved_bytes += moved * self.bytes[layer];
                tally.missed_bytes += misses * self.bytes[layer];
            }
        }
        tally
    }

    /// Belady's bound at each of `slots`, in one pass.
    #[must_use]
    pub fn belady(&self, slots: &[usize]) -> Vec<Tally> {
        let mut sums = Sums::new(self.experts);
        let mut routed = 0;
        for layer in 0..self.layers {
            let mut stack = BeladyStack::new(self.experts);
            for tick in self.ticks.iter().skip(layer).step_by(self.layers) {
                let range = tick.start..tick.end;
                routed += stack.tick(&self.routed[range.clone()], &self.next_use[range], tick.counted, self.bytes[layer], &mut sums);
            }
        }
        let moved = sums.moved_at_most();
        slots
            .iter()
            .map(|&s| {
                let s = s.min(self.experts);
                Tally {
                    routed,
                    hits: sums.hits[..s].iter().sum::<u64>() as f64,
                    moved: moved[s].0,
                    moved_bytes: moved[s].1,
                    missed_bytes: sums.missed_bytes[s..].iter().sum(),
                    ..self.blank(Contender::Belady, s)
                }
            })
            .collect()
    }

    /// Slots filled at random and never changed.
    #[must_use]
    pub fn chance(&self, slots: usize) -> Tally {
        let mut tally = self.blank(Contender::Chance, slots);
        let p = if self.experts == 0 { 0.0 } else { slots.min(self.experts) as f64 / self.experts as f64 };
        let mut bytes = 0.0;
        for (i, tick) in self.ticks.iter().enumerate().filter(|(_, t)| t.counted) {
            tally.routed += self.routed[tick.start..tick.end].iter().map(|r| u64::from(r.tokens)).sum::<u64>();
            bytes += (tick.end - tick.start) as f64 * self.bytes[i % self.layers] as f64;
        }
        tally.hits = tally.routed as f64 * p;
        tally.missed_bytes = (bytes * (1.0 - p)) as u64;
        tally
    }

    /// Every contender at every slot count, contender after contender. `admission` replaces the policies' own.
    #[must_use]
    pub fn table(&self, contenders: &[Contender], slots: &[usize], admission: Option<Admission>) -> Vec<Tally> {
        let mut table = Vec::with_capacity(contenders.len() * slots.len());
        for &contender in contenders {
            match contender {
                Contender::Online(policy) => {
                    let admission = admission.unwrap_or(policy.admission());
                    table.extend(slots.iter().map(|&s| self.online(policy, admission, s)));
                }
                Contender::Belady => table.extend(self.belady(slots)),
                Contender::Chance => table.extend(slots.iter().map(|&s| self.chance(s))),
            }
        }
        table
    }
}

/// What Belady's walk adds up for all slot counts at once.
struct Sums {
    /// `[experts + 1]` by position in the stack before the tick; the last entry is "not in the stack".
    hits: Vec<u64>,
    missed_bytes: Vec<u64>,
    /// Differences over slot counts `[experts + 2]`: copies into slots, and their bytes.
    moved: Vec<(i64, i64)>,
}

impl Sums {
    fn new(experts: usize) -> Self {
        Self { hits: vec![0; experts + 1], missed_bytes: vec![0; experts + 1], moved: vec![(0, 0); experts + 2] }
    }

    /// Copies and bytes at each slot count.
    fn moved_at_most(&self) -> Vec<(u64, u64)> {
        let mut at = (0i64, 0i64);
        self.moved
            .iter()
            .map(|d| {
                at = (at.0 + d.0, at.1 + d.1);
                (at.0.max(0) as u64, at.1.max(0) as u64)
            })
            .collect()
    }
}

/// The experts of one layer such that the first `s` are what Belady keeps in `s` slots.
///
/// Afterwards `s` slots hold the `s` of (content before + used) that are needed soonest. One more slot before means at most
/// one more candidate, so contents stay nested and one walk finds, at each depth, the soonest of what is left over.
struct BeladyStack {
    stack: Vec<u16>,
    next: Vec<u16>,
    /// When each expert is needed next.
    need: Vec<u32>,
    /// Stamp of the last tick that used it.
    used: Vec<u32>,
    stamp: u32,
    /// Leftovers of the walk, soonest last.
    pool: Vec<(u32, u16)>,
}

impl BeladyStack {
    fn new(experts: usize) -> Self {
        Self {
            stack: Vec::with_capacity(experts),
            next: Vec::with_capacity(experts),
            need: vec![u32::MAX; experts],
            used: vec![0; experts],
            stamp: 0,
            pool: Vec::new(),
        }
    }

    /// Returns the routed experts counted, once per token.
    fn tick(&mut self, routed: &[Routed], next_use: &[u32], counted: bool, bytes: u64, sums: &mut Sums) -> u64 {
        self.stamp += 1;
        self.pool.clear();
        let never = sums.hits.len() - 1;
        let mut all = 0;
        for (r, &need) in routed.iter().zip(next_use) {
            let e = usize::from(r.expert);
            self.need[e] = need;
            self.used[e] = self.stamp;
            self.pool.push((need, r.expert));
        }
        self.pool.sort_unstable_by_key(|p| std::cmp::Reverse(*p));
        self.next.clear();
        let mut depth = 0;
        while depth < self.stack.len() || !self.pool.is_empty() {
            if let Some(&expert) = self.stack.get(depth) {
                let at = (self.need[usize::from(expert)], expert);
                if self.used[usize::from(expert)] != self.stamp {
                    let place = self.pool.partition_point(|p| *p > at);
                    self.pool.insert(place, at);
                }
            }
            depth += 1;
            let Some((_, expert)) = self.pool.pop() else { continue };
            self.next.push(expert);
        }
        if counted {
            for r in routed {
                let n = u64::from(r.tokens);
                all += n;
                let before = self.stack.iter().position(|&e| e == r.expert).unwrap_or(never);
                sums.hits[before] += n;
                sums.missed_bytes[before] += bytes;
                if self.need[usize::from(r.expert)] != u32::MAX {
                    // Copied at the slot counts that hold it afterwards and did not before.
                    let after = self.next.iter().position(|&e| e == r.expert).unwrap_or(never);
                    if after < before {
                        let d = (1, bytes as i64);
                        sums.moved[after + 1] = (sums.moved[after + 1].0 + d.0, sums.moved[after + 1].1 + d.1);
                        sums.moved[before + 1] = (sums.moved[before + 1].0 - d.0, sums.moved[before + 1].1 - d.1);
                    }
                }
            }
        }
        std::mem::swap(&mut self.stack, &mut self.next);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::RoutedExpert;
    use crate::experts::curve::Curve;
    use crate::trace::routes::{RoutesHead, RoutesStep};
    use crate::trace::session::Session;
    use proptest::prelude::*;

    /// Real traces, see `tests/traces/README.md`.
    fn real(name: &str) -> Prepared {
        let bytes: &[u8] = match name {
            "qwen3" => include_bytes!("../../tests/traces/qwen3-30b-a3b.rotary"),
            _ => include_bytes!("../../tests/traces/gpt-oss-120b.rotary"),
        };
        Prepared::new(&Session::from_bytes(bytes.to_vec()).unwrap().routes().unwrap())
    }

    fn percent(t: &Tally) -> f64 {
        t.hit_rate() * 100.0
    }

    /// Slots, then LRU, decayed frequency (0.97 per token) and Belady, as an independent simulator measured them.
    const QWEN3: [(usize, f64, f64, f64); 5] =
        [(16, 61.3, 64.8, 78.5), (24, 73.0, 75.5, 86.8), (32, 81.8, 83.3, 91.9), (48, 91.8, 92.5, 96.3), (64, 95.9, 96.1, 97.1)];
    const GPT_OSS: [(usize, f64, f64, f64); 3] = [(16, 65.8, 65.3, 80.6), (32, 80.4, 80.2, 88.8), (64, 89.0, 88.9, 89.6)];

    #[test]
    fn lru_and_belady_hit_on_real_traces_what_an_independent_simulator_measured() {
        for (name, table) in [("qwen3", &QWEN3[..]), ("gpt-oss", &GPT_OSS[..])] {
            let trace = real(name);
            for &(slots, lru, _, belady) in table {
                let measured = percent(&trace.online(Policy::Lru, Admission::ALWAYS, slots));
                assert!((measured - lru).abs() < 0.1, "{name}, {slots} slots: LRU {measured} against {lru}");
                let measured = percent(&trace.belady(&[slots])[0]);
                assert!((measured - belady).abs() < 0.1, "{name}, {slots} slots: Belady {measured} against {belady}");
            }
        }
    }

    #[test]
    fn rotary_is_at_least_lru_on_real_traces_and_no_worse_than_decayed_frequency() {
        for (name, table) in [("qwen3", &QWEN3[..]), ("gpt-oss", &GPT_OSS[..])] {
            let trace = real(name);
            for &(slots, _, decay, _) in table {
                let lru = trace.online(Policy::Lru, Admission::ALWAYS, slots);
                let rotary = trace.online(Policy::Rotary, Policy::Rotary.admission(), slots);
                assert!(rotary.hits >= lru.hits, "{name}, {slots} slots: {} hits against {} of LRU", rotary.hits, lru.hits);
                assert!(percent(&rotary) >= decay - 0.3, "{name}, {slots} slots: {} against {decay}", percent(&rotary));
                assert!(rotary.moved <= lru.moved, "it moves no more experts than LRU either");
            }
        }
    }

    fn routes() -> impl Strategy<Value = Routes> {
        let tick = prop::collection::btree_set(0u16..10, 0..4);
        let step = (any::<bool>(), prop::collection::vec(tick, 2));
        (0usize..4, prop::collection::vec(step, 1..40)).prop_map(|(warm, steps)| {
            let head = RoutesHead { layers: 2, experts: 10, top_k: 3, expert_bytes: vec![10, 7], ..RoutesHead::default() };
            let mut routes = Routes::new(head);
            for (i, (later_prompt, layers)) in steps.into_iter().enumerate() {
                let phase = if i < warm || later_prompt && i % 7 == 6 { Phase::Prefill } else { Phase::Decode };
                let layers: Vec<Vec<RoutedExpert>> = layers
                    .into_iter()
                    .map(|t| t.into_iter().map(|expert| RoutedExpert { expert, tokens: 1, weight: 1.0, outcome: Outcome::Miss }).collect())
                    .collect();
                let step = RoutesStep { turn: 0, phase, step: i as u64, tokens: 1 };
                routes.push(step, layers.iter().map(Vec::as_slice));
            }
            routes
        })
    }

    /// Belady at one slot count, in the plainest way: keep what is needed soonest of what was there and what was used.
    fn plain_belady(trace: &Prepared, slots: usize) -> (u64, u64) {
        let (mut hits, mut moved) = (0, 0);
        for layer in 0..trace.layers {
            let mut content: Vec<(u32, u16)> = Vec::new();
            for tick in trace.ticks.iter().skip(layer).step_by(trace.layers) {
                let mut after = content.clone();
                for k in tick.start..tick.end {
                    let (expert, need) = (trace.routed[k].expert, trace.next_use[k]);
                    hits += u64::from(tick.counted && content.iter().any(|c| c.1 == expert));
                    after.retain(|c| c.1 != expert);
                    after.push((need, expert));
                }
                after.sort_unstable();
                after.truncate(slots);
                let came = |c: &&(u32, u16)| c.0 != u32::MAX && !content.iter().any(|o| o.1 == c.1);
                moved += if tick.counted { after.iter().filter(came).count() as u64 } else { 0 };
                content = after;
            }
        }
        (hits, moved)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn one_pass_of_belady_equals_running_it_at_every_slot_count(routes in routes()) {
            let trace = Prepared::new(&routes);
            let slots: Vec<usize> = (0..=10).collect();
            for tally in trace.belady(&slots) {
                prop_assert_eq!((tally.hits as u64, tally.moved), plain_belady(&trace, tally.slots), "{} slots", tally.slots);
            }
        }

        #[test]
        fn nobody_beats_belady_and_all_count_the_same_uses(routes in routes(), slots in 0usize..=10) {
            let trace = Prepared::new(&routes);
            let table = trace.table(&Contender::ALL, &[slots], None);
            let bound = table.iter().find(|t| t.policy == Contender::Belady).unwrap().hits;
            for t in &table {
                prop_assert_eq!(t.routed, table[0].routed);
                if t.policy != Contender::Chance {
                    prop_assert!(t.hits <= bound, "{} has {} hits, the bound is {}", t.policy, t.hits, bound);
                }
            }
        }

        #[test]
        fn the_curve_predicts_what_simulating_lru_finds(routes in routes()) {
            let mut routes = routes;
            // The curve counts by phase; without a prompt at the beginning both count the same.
            while routes.steps().first().is_some_and(|s| s.phase == Phase::Prefill) {
                let mut rest = Routes::new(routes.head.clone());
                for i in 1..routes.len() {
                    rest.push(routes.steps()[i], (0..2).map(|l| routes.tick(i, l)));
                }
                routes = rest;
            }
            let trace = Prepared::new(&routes);
            let mut curve = Curve::new(2, 10, None);
            for (i, step) in routes.steps().iter().enumerate() {
                for layer in 0..2 {
                    let tick = trace.ticks[i * 2 + layer];
                    curve.tick(layer, &trace.routed[tick.start..tick.end], step.phase);
                }
            }
            for slots in 0..=10 {
                let lru = trace.online(Policy::Lru, Admission::ALWAYS, slots);
                prop_assert!((curve.hit_rate(slots).unwrap_or(0.0) - lru.hit_rate()).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_layer_that_the_prompt_left_out_is_warmed_by_its_first_tokens() {
        let head = RoutesHead { layers: 2, experts: 4, top_k: 1, ..RoutesHead::default() };
        let mut routes = Routes::new(head);
        let one = [RoutedExpert { expert: 1, tokens: 1, weight: 1.0, outcome: Outcome::Miss }];
        for step in 0..4u64 {
            let phase = if step < 2 { Phase::Prefill } else { Phase::Decode };
            let second: &[RoutedExpert] = if step == 0 { &[] } else { &one };
            routes.push(RoutesStep { turn: 0, phase, step, tokens: 1 }, [&one[..], second]);
        }
        let tally = Prepared::new(&routes).online(Policy::Lru, Admission::ALWAYS, 2);
        assert_eq!((tally.routed, tally.hits), (3, 3.0));
    }
}
