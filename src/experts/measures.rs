//! What is known of every expert's use. All but the expectation is kept whatever policy is in force, so that the policy can
//! be changed in the middle of a session without a cold start.
//!
//! - **decayed use**: one per token that chose the expert, fading by [`DECAY`] per token of the session; for the screen as
//!   it is, for the policy `decay` bounded by a *ceiling* (see [`ceiling`]);
//! - **rate**: decayed use with a shorter memory ([`RATE`]), as uses per token; the prompt counts little;
//! - **expectation**: how much the session so far lets the expert be expected next ([`Recall`]), from the first use of
//!   `rotary` on;
//! - **recency**: the order of last uses within the layer (a counter, not a clock);
//! - **count**: uses since the model was opened.

use super::policy::{Policy, Worth};
use super::recall::Recall;
use crate::events::Phase;

/// Factor by which one token of distance fades a use (peers and our own traces agree on about 0.97).
pub const DECAY: f64 = 0.97;

/// The same for an expert's rate under `rotary`: a memory of some 11 tokens; what is older is left to [`Recall`].
pub const RATE: f64 = 0.94;

/// What the prompt can make of a decayed use at most, and what one use in the prompt leaves of the distance to that.
const PROMPT: (f64, f64) = (0.5, 0.5);

/// How many tokens' worth of experts the slots must hold for recency to say all there is to say (see [`ceiling`]).
pub const SPAN: f64 = 16.0;

/// The ceiling of decayed use under `decay`, in uses, for a layer with `slots` slots in which a token uses `per_token`
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

/// Largest growth of the unit of use before all uses are scaled back (see [`Fading`]).
const RESCALE_AT: f64 = 1e120;

/// Uses that fade by a factor per token.
///
/// Fading every expert at every token would touch `layers * experts` numbers per step. Instead the *unit* of a new use
/// grows by `1 / factor` per token and old uses stay as they are; rarely, everything is scaled back.
#[derive(Clone, Debug)]
struct Fading {
    factor: f64,
    /// In units that grow.
    uses: Vec<f64>,
    /// What one use at the last token of the current step adds.
    unit: f64,
    /// Mean of what the uses of the current step add, relative to `unit`: below 1 if the step has many tokens.
    share: f64,
}

impl Fading {
    fn new(factor: f64, n: usize) -> Self {
        Self { factor, uses: vec![0.0; n], unit: 1.0, share: 1.0 }
    }

    /// In a step of many tokens it is not known which of them chose an expert, so each use counts as the mean over all
    /// positions of the step.
    fn begin_step(&mut self, tokens: u32) {
        let n = f64::from(tokens.max(1));
        let kept = self.factor.powf(n);
        self.share = (1.0 - kept) / ((1.0 - self.factor) * n);
        // A step longer than the range of the unit has faded everything before it to nothing.
        let grown = self.unit / kept;
        if grown < RESCALE_AT {
            self.unit = grown;
        } else {
            let scale = 1.0 / grown;
            self.uses.iter_mut().for_each(|f| *f *= scale);
            self.unit = 1.0;
        }
    }

    /// Uses by `tokens` tokens of the step at hand.
    fn note(&mut self, i: usize, tokens: u32) {
        self.uses[i] += f64::from(tokens) * self.share * self.unit;
    }

    /// The same, with no more than `ceiling` uses left.
    fn note_below(&mut self, i: usize, tokens: u32, ceiling: f64) {
        self.note(i, tokens);
        self.uses[i] = self.uses[i].min(ceiling * self.unit);
    }

    /// Uses in a prompt: each leaves a part of the distance to a bound, and never takes anything away.
    fn approach(&mut self, i: usize, tokens: u32, (bound, left): (f64, f64)) {
        let distance = bound * self.unit - self.uses[i];
        if distance > 0.0 {
            self.uses[i] = bound * self.unit - distance * left.powf(f64::from(tokens) * self.share);
        }
    }

    /// Uses as they count now.
    fn now(&self, i: usize) -> f64 {
        self.uses[i] / self.unit
    }

    /// Uses per token, 0 to 1: 1 for an expert that every token chose.
    fn rate(&self, i: usize) -> f64 {
        self.now(i) * (1.0 - self.factor)
    }
}

/// What the policies know about every expert of every layer. Index of an expert: `layer * experts + expert`.
#[derive(Clone, Debug)]
pub struct Measures {
    experts: usize,
    phase: Phase,
    heat: Fading,
    bounded: Fading,
    rate: Fading,
    /// From the first use of `rotary` on: it costs more than all the rest.
    recall: Option<Recall>,
    last: Vec<u64>,
    count: Vec<u64>,
    clock: Vec<u64>,
}

impl Measures {
    /// Nothing used yet.
    #[must_use]
    pub fn new(layers: usize, experts: usize) -> Self {
        let n = layers * experts;
        Self {
            experts,
            phase: Phase::Decode,
            heat: Fading::new(DECAY, n),
            bounded: Fading::new(DECAY, n),
            rate: Fading::new(RATE, n),
            recall: None,
            last: vec![0; n],
            count: vec![0; n],
            clock: vec![0; layers],
        }
    }

    /// Keep what the policy needs from now on; nothing that is kept is dropped.
    pub fn serve(&mut self, policy: Policy) {
        if policy == Policy::Rotary && self.recall.is_none() {
            self.recall = Some(Recall::new(self.clock.len(), self.experts));
        }
    }

    /// A step of `tokens` tokens begins.
    pub fn begin_step(&mut self, phase: Phase, tokens: u32) {
        self.phase = phase;
        self.heat.begin_step(tokens);
        self.bounded.begin_step(tokens);
        self.rate.begin_step(tokens);
        if let Some(recall) = &mut self.recall {
            recall.begin_step(tokens.max(1));
        }
    }

    /// What is noted from now on, within the step at hand, is of a prompt, or is not.
    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Note that `tokens` tokens of the step at hand chose the expert. Later calls are more recent. The decayed use that
    /// the policy `decay` sees is bounded by `ceiling` uses.
    pub fn note(&mut self, layer: usize, expert: u16, tokens: u32, ceiling: f64) {
        let i = layer * self.experts + usize::from(expert);
        self.clock[layer] += 1;
        self.last[i] = self.clock[layer];
        self.count[i] += u64::from(tokens);
        self.heat.note(i, tokens);
        self.bounded.note_below(i, tokens, ceiling);
        match self.phase {
            Phase::Decode => self.rate.note(i, tokens),
            Phase::Prefill => self.rate.approach(i, tokens, PROMPT),
        }
    }

    /// All experts of a layer in the step at hand, each once, best gate first.
    pub fn remember(&mut self, layer: usize, routed: impl Iterator<Item = u16>) {
        if let Some(recall) = &mut self.recall {
            recall.tick(layer, routed);
        }
    }

    /// Bring the expectations of a layer up to date. That is work, and needed only where experts are weighed.
    pub fn foresee(&mut self, layer: usize) {
        if let Some(recall) = &mut self.recall {
            recall.foresee(layer);
        }
    }

    /// Bring [`Measures::soon`] up to date for a layer whose tick in this step is still to come.
    pub fn look_ahead(&mut self, layer: usize) {
        if let Some(recall) = &mut self.recall {
            recall.look_ahead(layer);
        }
    }

    /// How likely the present token is to use each expert of the layer of the last [`Measures::look_ahead`], `[experts]`; empty where nothing
    /// is remembered.
    #[must_use]
    pub fn soon(&self) -> &[f32] {
        self.recall.as_ref().map_or(&[], Recall::soon)
    }

    /// The expert's place in the policy's order. Expectations are as of the last [`Measures::foresee`].
    #[must_use]
    pub fn worth(&self, policy: Policy, layer: usize, expert: u16) -> Worth {
        let i = layer * self.experts + usize::from(expert);
        let uses = match policy {
            Policy::Rotary => self.rate.rate(i) + self.recall.as_ref().map_or(0.0, |r| f64::from(r.expected(layer, expert))),
            Policy::Decay => self.bounded.now(i),
            Policy::Lru => 0.0,
            Policy::Lfu => self.count[i] as f64,
        };
        Worth { uses, last: self.last[i], expert }
    }

    /// Decayed use as a rate per token, 0 to 1: 1 is an expert that every recent token chose.
    #[must_use]
    pub fn heat(&self, layer: usize, expert: usize) -> f32 {
        let i = layer * self.experts + expert;
        if i < self.count.len() {
            self.heat.rate(i).clamp(0.0, 1.0) as f32
        } else {
            0.0
        }
    }

    /// Uses since the model was opened.
    #[must_use]
    pub fn count(&self, layer: usize, expert: usize) -> u64 {
        self.count.get(layer * self.experts + expert).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_read_at_once_weighs_like_one_read_token_by_token() {
        let mut at_once = Measures::new(1, 2);
        let mut singly = Measures::new(1, 2);
        at_once.begin_step(Phase::Prefill, 100);
        at_once.note(0, 0, 100, 1.0);
        for _ in 0..100 {
            singly.begin_step(Phase::Prefill, 1);
            singly.note(0, 0, 1, 1.0);
        }
        assert!((at_once.heat(0, 0) - singly.heat(0, 0)).abs() < 1e-6);
    }

    #[test]
    fn measures_survive_sessions_of_any_length() {
        let mut m = Measures::new(1, 2);
        for tokens in [1, 5_000, u32::MAX, 1, 9_000, 9_000, 1] {
            for phase in [Phase::Prefill, Phase::Decode] {
                m.begin_step(phase, tokens);
                m.note(0, 0, tokens, 2.0);
                assert!(m.heat(0, 0) > 0.02 && m.heat(0, 0) <= 1.0, "{}", m.heat(0, 0));
                for policy in Policy::ALL {
                    assert!(m.worth(policy, 0, 0).uses.is_finite());
                }
                assert!(m.worth(Policy::Rotary, 0, 0).uses > 0.0);
            }
        }
    }

    #[test]
    fn a_use_in_the_answer_outweighs_any_number_in_the_prompt() {
        let mut m = Measures::new(1, 3);
        for _ in 0..20 {
            m.begin_step(Phase::Prefill, 1);
            m.note(0, 0, 1, 1.0);
        }
        m.note(0, 1, 1, 1.0);
        let [often, once] = [0, 1].map(|e| m.worth(Policy::Rotary, 0, e).uses);
        assert!(often > once && once > 0.0, "more uses in a prompt still count more");
        m.begin_step(Phase::Decode, 1);
        m.note(0, 2, 1, 1.0);
        let answered = m.worth(Policy::Rotary, 0, 2).uses;
        assert!(answered > 1.9 * m.worth(Policy::Rotary, 0, 0).uses);
        // What was used in an answer loses nothing by being used in the next prompt.
        for _ in 0..3 {
            m.begin_step(Phase::Decode, 1);
            m.note(0, 2, 1, 1.0);
        }
        let before = m.worth(Policy::Rotary, 0, 2).uses;
        m.begin_step(Phase::Prefill, 1);
        m.note(0, 2, 1, 1.0);
        assert!(m.worth(Policy::Rotary, 0, 2).uses > 0.9 * before);
    }
}
