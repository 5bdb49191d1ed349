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

pub mod spread;

use super::routes::Routes;
use crate::events::{Outcome, Phase};
use crate::experts::policy::{Admission, Overlay, Policy, UnknownPolicy};
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
    /// What happened when the trace was recorded.
    Recorded,
}

impl Contender {
    /// Everything that can be simulated, online policies first.
    pub const ALL: [Contender; 6] = [
        Contender::Online(Policy::Rotary),
        Contender::Online(Policy::Decay),
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
            Contender::Recorded => "recorded",
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

/// What one contender did in one layer, over the generated tokens that are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LayerTally {
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

impl LayerTally {
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
    pub layers: Vec<LayerTally>,
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

impl Tally {
    fn of(policy: Contender, slots: usize, layers: Vec<LayerTally>, bytes: &[u64]) -> Self {
        let sum = |f: &dyn Fn(&LayerTally, f64) -> f64| layers.iter().zip(bytes).map(|(l, &b)| f(l, b as f64)).sum::<f64>();
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

/// The routing in the shape that the simulation wants, with each tick's part in the count.
pub struct Prepared {
    layers: usize,
    experts: usize,
    bytes: Vec<u64>,
    steps: Vec<(Phase, u32)>,
    ticks: Vec<Tick>,
    routed: Vec<Routed>,
    /// What became of each entry of `routed` when it was recorded.
    outcomes: Vec<Outcome>,
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
        let mut outcomes = Vec::with_capacity(routes.routed());
        for (i, step) in routes.steps().iter().enumerate() {
            for (layer, seen) in seen.iter_mut().enumerate() {
                let start = routed.len();
                let tick = routes.tick(i, layer);
                routed.extend(tick.iter().map(|r| Routed { expert: r.expert, tokens: r.tokens, weight: r.weight }));
                outcomes.extend(tick.iter().map(|r| r.outcome));
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
            outcomes,
            next_use,
        }
    }

    /// Experts per layer.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Bytes of one expert, layer by layer.
    #[must_use]
    pub fn expert_bytes(&self) -> &[u64] {
        &self.bytes
    }

    /// Run the scheduler over the trace.
    #[must_use]
    pub fn online(&self, policy: Policy, admission: Admission, slots: usize) -> Tally {
        self.online_with(policy, admission, slots, |_, _, _| {})
    }

    /// The same; `seen` gets layer, routed expert and hit or miss of all that is counted.
    fn online_with(&self, policy: Policy, admission: Admission, slots: usize, mut seen: impl FnMut(usize, Routed, bool)) -> Tally {
        let mut tallies = vec![LayerTally::default(); self.layers];
        let mut scheduler = Scheduler::new(self.layers, self.experts, slots, policy, admission);
        // Experts of each layer that came ahead of the step's tick.
        let mut ahead = vec![0u64; self.layers];
        let bring = |scheduler: &mut Scheduler, after: Option<usize>, ahead: &mut [u64]| {
            for layer in scheduler.foreseen(after) {
                ahead[layer] += scheduler.bring(layer).len() as u64;
            }
        };
        for (step, &(phase, tokens)) in self.steps.iter().enumerate() {
            scheduler.begin_step(phase, tokens);
            ahead.fill(0);
            bring(&mut scheduler, None, &mut ahead);
            for (layer, t) in tallies.iter_mut().enumerate() {
                let tick = self.ticks[step * self.layers + layer];
                scheduler.tick(layer, &self.routed[tick.start..tick.end]);
                bring(&mut scheduler, Some(layer), &mut ahead);
                let plan = scheduler.plan();
                if !tick.counted || plan.placed.is_empty() {
                    continue;
                }
                let mut missed = 0u64;
                for p in &plan.placed {
                    let n = u64::from(p.routed.tokens);
                    let hit = p.outcome == Outcome::Hit;
                    t.routed += n;
                    if hit {
                        t.hits += n as f64;
                    } else {
                        missed += 1;
                    }
                    seen(layer, p.routed, hit);
                }
                t.count(plan.placed.len() as u64, missed, plan.swaps.len() as u64, ahead[layer]);
            }
        }
        Tally::of(Contender::Online(policy), slots, tallies, &self.bytes)
    }

    /// What happened when the trace was recorded, at the `slots` of then (0 if they are not known).
    #[must_use]
    pub fn recorded(&self, slots: usize) -> Tally {
        self.recorded_with(slots, |_, _, _| {})
    }

    fn recorded_with(&self, slots: usize, mut seen: impl FnMut(usize, Routed, bool)) -> Tally {
        let mut tallies = vec![LayerTally::default(); self.layers];
        for (i, tick) in self.ticks.iter().enumerate().filter(|(_, t)| t.counted && t.end > t.start) {
            let t = &mut tallies[i % self.layers];
            let (mut missed, mut moved) = (0, 0);
            for k in tick.start..tick.end {
                let (r, outcome) = (self.routed[k], self.outcomes[k]);
                let hit = outcome == Outcome::Hit;
                t.routed += u64::from(r.tokens);
                t.hits += if hit { f64::from(r.tokens) } else { 0.0 };
                missed += u64::from(!hit);
                moved += u64::from(outcome == Outcome::Admitted);
                seen(i % self.layers, r, hit);
            }
            t.count((tick.end - tick.start) as u64, missed, moved, 0);
        }
        Tally::of(Contender::Recorded, slots, tallies, &self.bytes)
    }

    /// Belady's bound at each of `slots`, in one pass.
    #[must_use]
    pub fn belady(&self, slots: &[usize]) -> Vec<Tally> {
        let mut by_layer = Vec::with_capacity(self.layers);
        for layer in 0..self.layers {
            let mut sums = Sums::new(self.experts);
            let mut stack = BeladyStack::new(self.experts);
            for tick in self.ticks.iter().skip(layer).step_by(self.layers) {
                let range = tick.start..tick.end;
                stack.tick(&self.routed[range.clone()], &self.next_use[range]);
                if tick.counted {
                    sums.add(&stack.moves);
                }
            }
            by_layer.push(sums.tallies());
        }
        slots
            .iter()
            .map(|&s| {
                let s = s.min(self.experts);
                Tally::of(Contender::Belady, s, by_layer.iter().map(|of| of[s]).collect(), &self.bytes)
            })
            .collect()
    }

    /// Slots filled at random and never changed.
    #[must_use]
    pub fn chance(&self, slots: usize) -> Tally {
        let mut tallies = vec![LayerTally::default(); self.layers];
        let p = self.odds(slots);
        for (i, tick) in self.ticks.iter().enumerate().filter(|(_, t)| t.counted && t.end > t.start) {
            let t = &mut tallies[i % self.layers];
            let reads = (tick.end - tick.start) as u64;
            let routed = self.routed[tick.start..tick.end].iter().map(|r| u64::from(r.tokens)).sum::<u64>();
            t.ticks += 1;
            t.routed += routed;
            t.hits += routed as f64 * p;
            t.reads += reads;
            t.missed += reads as f64 * (1.0 - p);
            t.missing += 1.0 - p.powi(i32::try_from(reads).unwrap_or(i32::MAX));
            t.passing = t.missing;
        }
        Tally::of(Contender::Chance, slots, tallies, &self.bytes)
    }

    fn odds(&self, slots: usize) -> f64 {
        if self.experts == 0 {
            0.0
        } else {
            slots.min(self.experts) as f64 / self.experts as f64
        }
    }

    /// One contender at one slot count, with the hits of every expert. `admission` is laid over the policy's own.
    #[must_use]
    pub fn by_expert(&self, contender: Contender, slots: usize, admission: Overlay) -> (Tally, ByExpert) {
        let n = self.layers * self.experts;
        let mut by = ByExpert { routed: vec![0; n], hits: vec![0.0; n] };
        let experts = self.experts;
        let odds = self.odds(slots);
        let mut seen = |layer: usize, r: Routed, hits: f64| {
            let i = layer * experts + usize::from(r.expert);
            by.routed[i] += u64::from(r.tokens);
            by.hits[i] += f64::from(r.tokens) * hits;
        };
        let tally = match contender {
            Contender::Online(policy) => {
                self.online_with(policy, admission.over(policy), slots, |layer, r, hit| seen(layer, r, f64::from(u8::from(hit))))
            }
            Contender::Recorded => self.recorded_with(slots, |layer, r, hit| seen(layer, r, f64::from(u8::from(hit)))),
            Contender::Chance => {
                self.recorded_with(0, |layer, r, _| seen(layer, r, odds));
                self.chance(slots)
            }
            Contender::Belady => {
                for layer in 0..self.layers {
                    let mut stack = BeladyStack::new(self.experts);
                    for tick in self.ticks.iter().skip(layer).step_by(self.layers) {
                        let range = tick.start..tick.end;
                        stack.tick(&self.routed[range.clone()], &self.next_use[range.clone()]);
                        if tick.counted {
                            for (r, m) in self.routed[range].iter().zip(&stack.moves) {
                                seen(layer, *r, f64::from(u8::from(m.before < slots)));
                            }
                        }
                    }
                }
                self.belady(&[slots]).remove(0)
            }
        };
        (tally, by)
    }

    /// Every contender at every slot count, contender after contender. `admission` is laid over the policies' own.
    #[must_use]
    pub fn table(&self, contenders: &[Contender], slots: &[usize], admission: Overlay) -> Vec<Tally> {
        let mut table = Vec::with_capacity(contenders.len() * slots.len());
        for &contender in contenders {
            match contender {
                Contender::Online(policy) => {
                    let admission = admission.over(policy);
                    table.extend(slots.iter().map(|&s| self.online(policy, admission, s)));
                }
                Contender::Belady => table.extend(self.belady(slots)),
                Contender::Chance => table.extend(slots.iter().map(|&s| self.chance(s))),
                Contender::Recorded => table.extend(slots.iter().map(|&s| self.recorded(s))),
            }
        }
        table
    }
}

impl LayerTally {
    /// One tick that read `reads` experts, missed some of them and copied some of those; others came ahead of it.
    fn count(&mut self, reads: u64, missed: u64, admitted: u64, ahead: u64) {
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

/// What Belady's walk adds up in one layer for all slot counts at once.
struct Sums {
    ticks: u64,
    /// `[experts + 1]` by position in the stack before the tick; the last entry is "not in the stack". Tokens, experts,
    /// and ticks by their deepest expert.
    hits: Vec<u64>,
    reads: Vec<u64>,
    deepest: Vec<u64>,
    /// Ticks by the depth up to which one of their experts finds no slot before and gets none.
    passing: Vec<u64>,
    /// Differences over slot counts `[experts + 2]`: copies into slots, and ticks with a copy.
    moved: Vec<i64>,
    copying: Vec<i64>,
    spans: Vec<(usize, usize)>,
}

impl Sums {
    fn new(experts: usize) -> Self {
        let (n, d) = (experts + 1, experts + 2);
        Self {
            ticks: 0,
            hits: vec![0; n],
            reads: vec![0; n],
            deepest: vec![0; n],
            passing: vec![0; n],
            moved: vec![0; d],
            copying: vec![0; d],
            spans: vec![],
        }
    }

    fn add(&mut self, moves: &[StackMove]) {
        let Some(deepest) = moves.iter().map(|m| m.before).max() else { return };
        self.ticks += 1;
        self.deepest[deepest] += 1;
        let stays = |m: &StackMove| m.before.min(if m.again { m.after } else { m.before });
        self.passing[moves.iter().map(stays).max().unwrap_or(0)] += 1;
        self.spans.clear();
        for m in moves {
            self.hits[m.before] += m.tokens;
            self.reads[m.before] += 1;
            // Copied at the slot counts that hold it afterwards and did not before.
            if m.again && m.after < m.before {
                self.moved[m.after + 1] += 1;
                self.moved[m.before + 1] -= 1;
                self.spans.push((m.after + 1, m.before + 1));
            }
        }
        self.spans.sort_unstable();
        let mut end = 0;
        for &(from, to) in &self.spans {
            if to > end {
                self.copying[from.max(end)] += 1;
                self.copying[to] -= 1;
                end = to;
            }
        }
    }

    /// `[experts + 1]`, by slot count.
    fn tallies(&self) -> Vec<LayerTally> {
        let routed: u64 = self.hits.iter().sum();
        let reads: u64 = self.reads.iter().sum();
        let (mut hits, mut found, mut whole, mut done, mut moved, mut copying) = (0, 0, 0, 0, 0, 0);
        (0..self.hits.len())
            .map(|s| {
                if s > 0 {
                    hits += self.hits[s - 1];
                    found += self.reads[s - 1];
                    whole += self.deepest[s - 1];
                    done += self.passing[s - 1];
                }
                moved += self.moved[s];
                copying += self.copying[s];
                LayerTally {
                    ticks: self.ticks,
                    routed,
                    hits: hits as f64,
                    reads,
                    missed: (reads - found) as f64,
                    moved: u64::try_from(moved).unwrap_or(0),
                    ahead: 0,
                    missing: (self.ticks - whole) as f64,
                    passing: (self.ticks - done) as f64,
                    copying: u64::try_from(copying).unwrap_or(0),
                }
            })
            .collect()
    }
}

/// Where an expert was in Belady's stack before a tick that used it, and where it is afterwards; the number of experts means
/// "not in it".
#[derive(Clone, Copy)]
struct StackMove {
    before: usize,
    after: usize,
    /// Whether it is ever used again: nobody copies what isn't.
    again: bool,
    tokens: u64,
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
    /// What the last tick did, one per routed expert.
    moves: Vec<StackMove>,
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
            moves: Vec::new(),
        }
    }

    fn tick(&mut self, routed: &[Routed], next_use: &[u32]) {
        self.stamp += 1;
        self.pool.clear();
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
        self.moves.clear();
        let never = self.need.len();
        let place = |stack: &[u16], expert| stack.iter().position(|&e| e == expert).unwrap_or(never);
        for r in routed {
            self.moves.push(StackMove {
                before: place(&self.stack, r.expert),
                after: place(&self.next, r.expert),
                again: self.need[usize::from(r.expert)] != u32::MAX,
                tokens: u64::from(r.tokens),
            });
        }
        std::mem::swap(&mut self.stack, &mut self.next);
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
    fn decay_is_at_least_lru_on_real_traces_and_no_worse_than_plain_decayed_frequency() {
        for (name, table) in [("qwen3", &QWEN3[..]), ("gpt-oss", &GPT_OSS[..])] {
            let trace = real(name);
            for &(slots, _, plain, _) in table {
                let lru = trace.online(Policy::Lru, Admission::ALWAYS, slots);
                let decay = trace.online(Policy::Decay, Policy::Decay.admission(), slots);
                assert!(decay.hits >= lru.hits, "{name}, {slots} slots: {} hits against {} of LRU", decay.hits, lru.hits);
                assert!(percent(&decay) >= plain - 0.3, "{name}, {slots} slots: {} against {plain}", percent(&decay));
                assert!(decay.moved <= lru.moved, "it moves no more experts than LRU either");
            }
        }
    }

    #[test]
    fn rotary_beats_decay_on_real_traces_at_every_slot_count_with_fewer_copies() {
        let expected = [("qwen3", [66.74, 77.41, 84.74, 92.99, 96.14]), ("gpt-oss", [67.70, 75.69, 80.67, 86.29, 89.04])];
        let admission = Admission { ahead: 0, ..Policy::Rotary.admission() };
        for (name, rates) in expected {
            let trace = real(name);
            for (slots, rate) in [16, 24, 32, 48, 64].into_iter().zip(rates) {
                let decay = trace.online(Policy::Decay, Policy::Decay.admission(), slots);
                let rotary = trace.online(Policy::Rotary, admission, slots);
                assert!((percent(&rotary) - rate).abs() < 0.05, "{name}, {slots} slots: {} instead of {rate}", percent(&rotary));
                assert!(rotary.hits >= decay.hits, "{name}, {slots} slots: {} hits against {}", rotary.hits, decay.hits);
                assert!(rotary.moved <= decay.moved, "{name}, {slots} slots: {} copies against {}", rotary.moved, decay.moved);
            }
        }
    }

    #[test]
    fn bringing_experts_ahead_of_their_use_closes_half_of_the_gap_to_belady_on_one_real_trace_and_helps_on_the_other() {
        let expected = [("qwen3", [74.74, 82.11, 87.42, 93.50, 96.19]), ("gpt-oss", [71.38, 77.03, 81.16, 86.27, 89.02])];
        for (name, rates) in expected {
            let trace = real(name);
            let mut closed = 0.0;
            for (slots, rate) in [16, 24, 32, 48, 64].into_iter().zip(rates) {
                let without = trace.online(Policy::Rotary, Admission { ahead: 0, ..Policy::Rotary.admission() }, slots);
                let rotary = trace.online(Policy::Rotary, Policy::Rotary.admission(), slots);
                assert!((percent(&rotary) - rate).abs() < 0.05, "{name}, {slots} slots: {} instead of {rate}", percent(&rotary));
                // Where the slots hold nearly everything there is nothing to gain, and the wrong guesses cost a hit or two.
                assert!(rotary.hits + 2.0 > without.hits, "{name}, {slots} slots: {} hits against {}", rotary.hits, without.hits);
                assert!((rotary.moved as f64) < 1.3 * without.moved as f64, "{name}, {slots} slots: {} copies", rotary.moved);
                if slots < 64 {
                    let decay = percent(&trace.online(Policy::Decay, Policy::Decay.admission(), slots));
                    let belady = percent(&trace.belady(&[slots])[0]);
                    closed += (percent(&rotary) - decay) / (belady - decay) / 4.0;
                }
            }
            assert!(closed > if name == "qwen3" { 0.45 } else { 0.12 }, "{name}: {closed}");
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
    fn plain_belady(trace: &Prepared, slots: usize) -> [u64; 5] {
        let (mut hits, mut moved, mut ticks) = (0, 0, [0; 3]);
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
                let came = after.iter().filter(came).count() as u64;
                let missed = |k: &usize| !content.iter().any(|c| c.1 == trace.routed[*k].expert);
                let missed = (tick.start..tick.end).filter(missed).count() as u64;
                if tick.counted {
                    moved += came;
                    for (n, is) in ticks.iter_mut().zip([missed > 0, missed > came, came > 0]) {
                        *n += u64::from(is);
                    }
                }
                content = after;
            }
        }
        [hits, moved, ticks[0], ticks[1], ticks[2]]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn one_pass_of_belady_equals_running_it_at_every_slot_count(routes in routes()) {
            let trace = Prepared::new(&routes);
            let slots: Vec<usize> = (0..=10).collect();
            for tally in trace.belady(&slots) {
                let sum = |f: fn(&LayerTally) -> f64| tally.layers.iter().map(f).sum::<f64>() as u64;
                let ticks = [sum(|l| l.missing), sum(|l| l.passing), sum(|l| l.copying as f64)];
                let found = [tally.hits as u64, tally.moved, ticks[0], ticks[1], ticks[2]];
                prop_assert_eq!(found, plain_belady(&trace, tally.slots), "{} slots", tally.slots);
            }
        }

        /// Where every use counts. Belady serves the uses of a prompt too, which nobody counts, so with prompts in between a policy that makes little of
        /// them can have a few counted hits more.
        #[test]
        fn nobody_beats_belady_and_all_count_the_same_uses(routes in routes(), slots in 0usize..=10) {
            let mut generated = Routes::new(routes.head.clone());
            for (i, step) in routes.steps().iter().enumerate().filter(|(_, s)| s.phase == Phase::Decode) {
                generated.push(*step, (0..2).map(|l| routes.tick(i, l)));
            }
            let table = Prepared::new(&generated).table(&Contender::ALL, &[slots], Overlay::default());
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

    /// Run with `cargo test --release -- --ignored --nocapture cost_of_three_traces`.
    #[test]
    #[ignore = "measures"]
    fn cost_of_three_traces_over_60_slot_counts_and_all_policies() {
        let slots: Vec<usize> = (8..=126).step_by(2).collect();
        assert_eq!(slots.len(), 60);
        let begin = std::time::Instant::now();
        for _ in 0..3 {
            let trace = real("qwen3");
            assert!(trace.routed.len() > 44_000);
            assert_eq!(trace.table(&Contender::ALL, &slots, Overlay::default()).len(), 60 * Contender::ALL.len());
        }
        let took = begin.elapsed();
        println!("three traces of 45k rows, 60 slot counts, {} policies: {took:.2?}", Contender::ALL.len());
        assert!(took.as_secs_f64() < 5.0);
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
