//! Belady's bound in one layer, for every slot count in one walk: a stack whose first entries are what fewer slots would hold.

use super::LayerTotals;
use crate::experts::schedule::Routed;

/// What Belady's walk adds up in one layer for all slot counts at once.
pub(super) struct Sums {
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
    pub(super) fn new(experts: usize) -> Self {
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

    pub(super) fn add(&mut self, moves: &[StackMove]) {
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
    pub(super) fn tallies(&self) -> Vec<LayerTotals> {
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
                LayerTotals {
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
pub(super) struct StackMove {
    pub(super) before: usize,
    after: usize,
    /// Whether it is ever used again: nobody copies what isn't.
    again: bool,
    tokens: u64,
}

/// The experts of one layer such that the first `s` are what Belady keeps in `s` slots.
///
/// Afterwards `s` slots hold the `s` of (content before + used) that are needed soonest. One more slot before means at most
/// one more candidate, so contents stay nested and one walk finds, at each depth, the soonest of what is left over.
pub(super) struct BeladyStack {
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
    pub(super) moves: Vec<StackMove>,
}

impl BeladyStack {
    pub(super) fn new(experts: usize) -> Self {
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

    pub(super) fn tick(&mut self, routed: &[Routed], next_use: &[u32]) {
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
