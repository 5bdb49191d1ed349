//! Replacement policies: which resident is worth least, and whether a newcomer may take its place.
//!
//! Three measures of use are kept for every expert of every layer, whatever policy is in force, so that the
//! policy can be changed in the middle of a session without a cold start:
//!
//! - **decayed use**: one per token that chose the expert, fading by [`DECAY`] per token of the session; for the screen as
//!   it is, for the policy `rotary` bounded by a *ceiling* (see [`ceiling`]);
//! - **recency**: the order of last uses within the layer (a counter, not a clock);
//! - **count**: uses since the model was opened.
//!
//! A [`Policy`] turns them into a [`Worth`] that orders experts. `docs/scheduling.md` has the measured hit rates.

use std::cmp::Ordering;

/// Factor by which one token of distance fades a use (peers and our own traces agree on about 0.97).
pub const DECAY: f64 = 0.97;

/// How many tokens' worth of experts the slots must hold for recency to say all there is to say (see [`ceiling`]).
pub const SPAN: f64 = 16.0;

/// The ceiling of decayed use under `rotary`, in uses, for a layer with `slots` slots in which a token uses `per_token`
/// experts.
///
/// Plain decayed use ranks an expert that was busy long ago above one that was used once just now; each use counts like
/// `ln 2 / -ln DECAY`, some 23 tokens, of recency when it doubles the sum. With few slots that is right: what is hot must
/// survive the passers-by. With many slots it is wrong: they hold everything of the last `slots / per_token` tokens anyway,
/// and the rest is best ranked by age. The ceiling goes from one to the other: `SPAN * per_token / slots` uses, at least
/// one. At one, the policy *is* LRU.
#[must_use]
pub fn ceiling(per_token: f64, slots: usize) -> f64 {
    (SPAN * per_token / slots.max(1) as f64).max(1.0)
}

/// Largest growth of the unit of use before all measures are scaled back (see [`Measures`]).
const RESCALE_AT: f64 = 1e120;

/// Who loses a slot when a layer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The expert with the least decayed use below the [`ceiling`]; ties go to the one used longest ago.
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
        Self { margin: 0.25, per_tick: 4, per_prefill_tick: usize::MAX }
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
    /// Decayed use in units that grow.
    faded: Vec<f64>,
    /// The same, bounded by the ceiling at each use.
    bounded: Vec<f64>,
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
        Self {
            experts,
            faded: vec![0.0; n],
            bounded: vec![0.0; n],
            last: vec![0; n],
            count: vec![0; n],
            clock: vec![0; layers],
            unit: 1.0,
            share: 1.0,
        }
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
            self.faded.iter_mut().chain(&mut self.bounded).for_each(|f| *f *= scale);
            self.unit = 1.0;
        }
    }

    /// Note that `tokens` tokens of the step at hand chose the expert. Later calls are more recent. The decayed use that
    /// `rotary` sees is bounded by `ceiling` uses.
    pub fn note(&mut self, layer: usize, expert: u16, tokens: u32, ceiling: f64) {
        let i = layer * self.experts + usize::from(expert);
        self.clock[layer] += 1;
        self.last[i] = self.clock[layer];
        self.count[i] += u64::from(tokens);
        let more = f64::from(tokens) * self.share * self.unit;
        self.faded[i] += more;
        self.bounded[i] = (self.bounded[i] + more).min(ceiling * self.unit);
    }

    /// The expert's place in the policy's order.
    #[must_use]
    pub fn worth(&self, policy: Policy, layer: usize, expert: u16) -> Worth {
        let i = layer * self.experts + usize::from(expert);
        let uses = match policy {
            Policy::Rotary => self.bounded[i],
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
