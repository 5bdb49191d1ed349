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
