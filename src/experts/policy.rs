//! Replacement policies: which resident is worth least, and whether a newcomer may take its place.
//!
//! Three measures of use are kept for every expert of every layer, whatever policy is in force, so that the
//! policy can be changed in the middle of a session without a cold start:
//!
//! - **decayed use**: one per token that chose the expert, fading by [`DECAY`] per token of the session;
//! - **recency**: the order of last uses within the layer (a counter, not a clock);
//! - **count**: uses since the model was opened.
//!
//! A [`Policy`] turns them into a [`Worth`] that orders experts. `docs/scheduling.md` has the measured hit rates.

use std::cmp::Ordering;

/// Factor by which one token of distance fades a use (peers and our own traces agree on about 0.97).
pub const DECAY: f64 = 0.97;

/// Largest growth of the unit of use before all measures are scaled back (see [`Measures`]).
const RESCALE_AT: f64 = 1e120;

/// Who loses a slot when a layer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The expert with the least decayed use; ties go to the one used longest ago.
    #[default]
    Rotary,
    /// The expert used longest ago.
    Lru,
    /// The expert with the fewest uses so far; ties go to the one used longest ago.
    Lfu,
}

/// The name is not one of [`Policy::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy {0:?}; choose one of rotary, lru, lfu")]
pub struct UnknownPolicy(pub String);

impl Policy {
    /// Every policy that can run online, the default first.
    pub const ALL: [Policy; 3] = [Policy::Rotary, Policy::Lru, Policy::Lfu];

    /// The name by which it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::Rotary => "rotary",
            Policy::Lru => "lru",
            Policy::Lfu => "lfu",
        }
    }

    /// How readily this policy admits unless told otherwise: the textbook policies always, `rotary` with care.
    #[must_use]
    pub fn admission(self) -> Admission {
        match self {
            Policy::Rotary => Admission::default(),
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
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// How readily misses get slots. Filling an empty slot is never held back; these limits are about replacing a resident.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Admission {
    /// A newcomer replaces a victim only if its decayed use is more than the victim's times this (policy `rotary` only).
    /// 0 admits always.
    pub margin: f64,
    /// Most replacements per layer in one decode step. A miss that is not admitted is computed from the host tier.
    pub per_tick: usize,
    /// Most replacements per layer in one prefill step.
    pub per_prefill_tick: usize,
}

impl Admission {
    /// Every miss gets a slot as long as a victim exists that this tick does not use: the textbook cache.
    pub const ALWAYS: Admission = Admission { margin: 0.0, per_tick: usize::MAX, per_prefill_tick: usize::MAX };
}

impl Default for Admission {
    fn default() -> Self {
        Self { margin: 1.1, per_tick: 2, per_prefill_tick: usize::MAX }
    }
}

/// The place of an expert in a policy's order: by `use`, then by recency, then by id, so that the order is total and
/// the same for the same routing.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// The policy's measure of use.
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

/// What the policies know about every expert of every layer. Index of an expert: `layer * experts + expert`.
///
/// Fading every expert at every token would touch `layers * experts` numbers per step. Instead the *unit* of a new use
/// grows by `1 / DECAY` per token and old uses stay as they are; rarely, everything is scaled back.
#[derive(Clone, Debug)]
pub struct Measures {
    experts: usize,
    faded: Vec<f64>,
    last: Vec<u64>,
    count: Vec<u64>,
    clock: Vec<u64>,
    /// What one use at the last token of the current step adds to `faded`.
    unit: f64,
    /// Mean of what the uses of the current step add, relative to `unit`: below 1 if the step has many tokens.
    share: f64,
}

impl Measures {
    /// Nothing used yet.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        let n = layers * experts;
        Self { experts, faded: vec![0.0; n], last: vec![0; n], count: vec![0; n], clock: vec![0; layers], unit: 1.0, share: 1.0 }
    }

    /// A step of `tokens` tokens begins. In a step of many tokens it is not known which of them chose an expert, so each
    /// use counts as the mean over all positions of the step.
    pub fn begin_step(&mut self, tokens: u32) {
        let n = f64::from(tokens.max(1));
        let kept = DECAY.powf(n);
        self.share = (1.0 - kept) / ((1.0 - DECAY) * n);
        // A step longer than the range of the unit has faded everything before it to nothing.
        let grown = self.unit / kept;
        if grown < RESCALE_AT {
            self.unit = grown;
        } else {
            let scale = 1.0 / grown;
            self.faded.iter_mut().for_each(|f| *f *= scale);
            self.unit = 1.0;
        }
    }

    /// Note that `tokens` tokens of the step at hand chose the expert. Later calls are more recent.
    pub fn note(&mut self, layer: usize, expert: u16, tokens: u32) {
        let i = layer * self.experts + usize::from(expert);
        self.clock[layer] += 1;
        self.last[i] = self.clock[layer];
        self.count[i] += u64::from(tokens);
        self.faded[i] += f64::from(tokens) * self.share * self.unit;
    }

    /// The expert's place in the policy's order.
    #[must_use]
    pub fn worth(&self, policy: Policy, layer: usize, expert: u16) -> Worth {
        let i = layer * self.experts + usize::from(expert);
        let uses = match policy {
            Policy::Rotary => self.faded[i],
            Policy::Lru => 0.0,
            Policy::Lfu => self.count[i] as f64,
        };
        Worth { uses, last: self.last[i], expert }
    }

    /// Decayed use as a rate per token, 0 to 1: 1 is an expert that every recent token chose.
    #[must_use]
    pub fn heat(&self, layer: usize, expert: usize) -> f32 {
        let faded = self.faded.get(layer * self.experts + expert).copied().unwrap_or(0.0);
        (faded / self.unit * (1.0 - DECAY)).clamp(0.0, 1.0) as f32
    }

    /// Uses since the model was opened.
    #[must_use]
    pub fn count(&self, layer: usize, expert: usize) -> u64 {
        self.count.get(layer * self.experts + expert).copied().unwrap_or(0)
    }
}
