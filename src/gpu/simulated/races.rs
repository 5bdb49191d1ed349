//! Which access may overtake which: vector clocks over the two lanes and the host (Fidge, Mattern).
//!
//! Two accesses to the same bytes, one of them a write, are a race unless a chain of marks and waits orders them. The check does not
//! depend on the order in which a run happened to carry them out.

use std::collections::BTreeMap;
use std::ops::Range;

/// The host as an agent; the lanes are 0 and 1.
pub(super) const HOST: usize = 2;
const NAMES: [&str; 3] = ["compute lane", "copy lane", "host"];

/// How much an agent knows to be done: so many pieces of work of each agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock(pub(super) [u64; 3]);

impl Clock {
    /// Learn what the other knows.
    pub(super) fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = (*mine).max(theirs);
        }
    }

    /// Keep what both know.
    pub(super) fn meet(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = (*mine).min(theirs);
        }
    }
}

/// Whose bytes: device memory by its address, page-locked memory by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    Device(u64),
    Pinned(u64),
}

/// Bytes read or written by a piece of work.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) agent: usize,
    /// Of the work: its own entry is its number.
    pub(super) clock: Clock,
    pub(super) range: Range<u64>,
    pub(super) writes: bool,
    pub(super) what: &'static str,
}

impl Access {
    fn number(&self) -> u64 {
        self.clock.0[self.agent]
    }

    fn races(&self, other: &Self) -> bool {
        let overlap = self.range.start < other.range.end && other.range.start < self.range.end;
        let known = |a: &Self, b: &Self| a.number() <= b.clock.0[a.agent];
        self.agent != other.agent && (self.writes || other.writes) && overlap && !known(self, other) && !known(other, self)
    }

    fn told(&self) -> String {
        format!("{} ({}) {}", self.what, NAMES[self.agent], if self.writes { "writes" } else { "reads" })
    }
}

/// Most violations that are kept word for word.
const KEPT: usize = 64;

/// All accesses that something may still race with.
#[derive(Default)]
pub(super) struct Races {
    spaces: BTreeMap<Space, Vec<Access>>,
    pub(super) violations: Vec<String>,
}

impl Races {
    /// Check an access against those known so far, and remember it.
    pub(super) fn note(&mut self, space: Space, access: Access) {
        self.check(space, &access);
        self.spaces.entry(space).or_default().push(access);
    }

    /// Check only: what the host does is over when it returns, and work that is queued later knows of it.
    pub(super) fn check(&mut self, space: Space, access: &Access) {
        if access.range.is_empty() || self.violations.len() >= KEPT {
            return;
        }
        if let Some(other) = self.spaces.get(&space).into_iter().flatten().find(|o| o.races(access)) {
            let at = access.range.start.max(other.range.start);
            self.violations.push(format!("{} {space:?} from {at:#x} on, and nothing orders it with {}", access.told(), other.told()));
        }
    }

    /// Forget what everything that can still happen comes after.
    pub(super) fn settle(&mut self, horizon: &Clock) {
        self.spaces.retain(|_, accesses| {
            accesses.retain(|a| a.number() > horizon.0[a.agent]);
            !accesses.is_empty()
        });
    }

    /// Memory is gone.
    pub(super) fn forget(&mut self, space: Space) {
        self.spaces.remove(&space);
    }
}
