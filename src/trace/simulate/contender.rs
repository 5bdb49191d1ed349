//! Who uses slots in a simulation: the policies that the scheduler runs, and what they are measured against.

use crate::experts::policy::{Policy, UnknownPolicy};
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
        Self::ALL.into_iter().find(|c| c.name().eq_ignore_ascii_case(name)).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

impl Serialize for Contender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
