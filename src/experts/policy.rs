//! Replacement policies: which resident is worth least, and whether a newcomer may take its place.
//!
//! A [`Policy`] turns the measures of use ([`super::measures`]) into a [`Worth`] that orders experts; [`Admission`] says how
//! readily a newcomer gets a resident's slot. `docs/scheduling.md` has the measured hit rates.

use std::cmp::Ordering;

/// Who loses a slot when a layer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The expert that is least likely to be used soon, by its rate of use and by what followed similar moments of the
    /// session; ties go to the one used longest ago. Newcomers are admitted by what became of earlier ones.
    #[default]
    Rotary,
    /// The expert with the least decayed use below a ceiling; ties go to the one used longest ago.
    Decay,
    /// The expert used longest ago.
    Lru,
    /// The expert with the fewest uses so far; ties go to the one used longest ago.
    Lfu,
}

/// The name is not one of [`Policy::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy {0:?}; choose one of rotary, decay, lru, lfu")]
pub struct UnknownPolicy(pub String);

impl Policy {
    /// Every policy that can run online, the default first.
    pub const ALL: [Policy; 4] = [Policy::Rotary, Policy::Decay, Policy::Lru, Policy::Lfu];

    /// The name by which it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Rotary => "rotary",
            Policy::Decay => "decay",
            Policy::Lru => "lru",
            Policy::Lfu => "lfu",
        }
    }

    /// Whether it weighs newcomers against victims; the textbook policies admit every miss.
    #[must_use]
    pub fn weighs(self) -> bool {
        matches!(self, Policy::Rotary | Policy::Decay)
    }

    /// How readily this policy admits unless told otherwise.
    #[must_use]
    pub fn admission(self) -> Admission {
        match self {
            Policy::Rotary => Admission::default(),
            Policy::Decay => Admission { margin: 0.25, ahead: 0, ..Admission::default() },
            Policy::Lru | Policy::Lfu => Admission::ALWAYS,
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name)).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// How readily misses get slots. Filling an empty slot is never held back; these limits are about replacing a resident.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Admission {
    /// A newcomer replaces a victim only if its worth is more than the victim's times this (policies that weigh; `rotary`
    /// first multiplies the newcomer's worth by the favour that it has learned for the layer). 0 admits always.
    pub margin: f64,
    /// Most replacements per layer in one decode step. A miss that is not admitted is computed from the host tier.
    pub per_tick: usize,
    /// Most replacements per layer in one prefill step.
    pub per_prefill_tick: usize,
    /// Most experts that a look at a coming layer brings into its slots, in a generated token (`rotary` only; see
    /// [`super::schedule::Scheduler::bring`]). Each layer is looked at twice. A tier that can't copy while it computes does without.
    pub ahead: usize,
}

impl Admission {
    /// Every miss gets a slot as long as a victim exists that this tick does not use: the textbook cache.
    pub const ALWAYS: Admission = Admission { margin: 0.0, per_tick: usize::MAX, per_prefill_tick: usize::MAX, ahead: 0 };
}

/// What is laid over a policy's own admission; what is not named stays the policy's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlay {
    /// See [`Admission::margin`].
    pub margin: Option<f64>,
    /// See [`Admission::per_tick`].
    pub per_tick: Option<usize>,
    /// See [`Admission::ahead`].
    pub ahead: Option<usize>,
}

impl Overlay {
    /// The admission of `policy` with this laid over it.
    #[must_use]
    pub fn over(self, policy: Policy) -> Admission {
        self.laid_on(policy.admission())
    }

    /// `own` with this laid over it.
    #[must_use]
    pub fn laid_on(self, own: Admission) -> Admission {
        Admission {
            margin: self.margin.unwrap_or(own.margin),
            per_tick: self.per_tick.unwrap_or(own.per_tick),
            ahead: self.ahead.unwrap_or(own.ahead),
            ..own
        }
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self { margin: 1.0, per_tick: 4, per_prefill_tick: usize::MAX, ahead: 1 }
    }
}

/// The place of an expert in a policy's order: by `use`, then by recency, then by id, so that the order is total and
/// the same for the same routing.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// The policy's measure of use; under `rotary` a likelihood of use.
    pub uses: f64,
    /// Order of the last use within the layer; 0 is "never".
    pub last: u64,
    /// Expert id within the layer.
    pub expert: u16,
}

impl Ord for Worth {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uses.total_cmp(&other.uses).then(self.last.cmp(&other.last)).then(self.expert.cmp(&other.expert))
    }
}

impl PartialOrd for Worth {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Worth {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Worth {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_laid_over_an_admission_leaves_the_rest_to_the_policy() {
        for policy in Policy::ALL {
            let own = policy.admission();
            assert_eq!(Overlay::default().over(policy), own);
            let none = Overlay::default();
            assert_eq!(Overlay { per_tick: Some(1), ..none }.over(policy), Admission { per_tick: 1, ..own });
            assert_eq!(Overlay { margin: Some(0.7), ..none }.over(policy), Admission { margin: 0.7, ..own });
            assert_eq!(Overlay { ahead: Some(7), ..none }.over(policy), Admission { ahead: 7, ..own });
        }
    }
}
