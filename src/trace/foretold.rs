//! What routers foresaw in each step of a session, in the order in which it was told.
//!
//! At each layer those of the next [`LEAD`] layers are asked, the nearest first. Who is not named beside others was found hardly likely; where nobody is named, nothing was told. The likelihoods go by scores and routing alone, so they hold for any policy and slot count that is simulated with that routing.

use crate::events::Foreseen;
use crate::experts::schedule::{Scheduler, LEAD};

/// What was foreseen, step after step. Takes no room for steps behind the last in which there was something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foretold {
    layers: usize,
    /// `[steps * layers * LEAD]`: end in `likely` of what was said at a layer, of the next one, of the one after it.
    ends: Vec<usize>,
    /// Expert and likelihood in 255ths.
    likely: Vec<(u16, u8)>,
}

/// The layer at which it was said, if there can be one.
fn asked_at(said: &Foreseen) -> Option<usize> {
    let lead = usize::from(said.lead);
    (1..=LEAD).contains(&lead).then(|| usize::from(said.layer).checked_sub(lead)).flatten()
}

/// Whether it can have been said of a model with so many layers and experts.
#[must_use]
pub fn fits(said: &[Foreseen], layers: usize, experts: usize) -> bool {
    said.iter().all(|f| asked_at(f).is_some() && usize::from(f.layer) < layers && usize::from(f.expert) < experts)
}

impl Foretold {
    /// Nothing of a model with so many layers.
    #[must_use]
    pub fn new(layers: usize) -> Self {
        Self { layers, ends: Vec::new(), likely: Vec::new() }
    }

    /// Whether nothing was foreseen in any step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.likely.is_empty()
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.likely.clear();
    }

    /// Keep the first `steps` steps.
    pub fn truncate(&mut self, steps: usize) {
        let per_step = self.layers * LEAD;
        self.ends.truncate(steps * per_step);
        let said = self.ends.last().copied().unwrap_or(0);
        self.likely.truncate(said);
        let last = self.ends.iter().position(|&end| end == said).filter(|_| said > 0);
        self.ends.truncate(last.map_or(0, |last| (last / per_step + 1) * per_step));
    }

    /// What was foreseen in a step behind all that have something so far. What does not [fit](fits) is left out.
    pub fn push(&mut self, step: usize, said: &[Foreseen]) {
        let place = |f: &Foreseen| asked_at(f).filter(|_| usize::from(f.layer) < self.layers).map(|at| at * LEAD + usize::from(f.lead) - 1);
        let mut placed: Vec<(usize, u16, u8)> = said.iter().filter_map(|f| place(f).map(|place| (place, f.expert, f.likely))).collect();
        if placed.is_empty() {
            return;
        }
        placed.sort_by_key(|p| p.0);
        let first = step * self.layers * LEAD;
        self.ends.resize(first, self.likely.len());
        for (place, expert, likely) in placed {
            self.ends.resize(first + place, self.likely.len());
            self.likely.push((expert, likely));
        }
        self.ends.resize(first + self.layers * LEAD, self.likely.len());
    }

    /// Where in `likely` is what was said in a step from one place in it up to another.
    fn range(&self, step: usize, from: usize, to: usize) -> std::ops::Range<usize> {
        let end = |i: usize| i.checked_sub(1).map_or(0, |last| self.ends.get(last).copied().unwrap_or(self.likely.len()));
        let first = step * self.layers * LEAD;
        end(first + from)..end(first + to)
    }

    /// Whether something was foreseen in a step.
    #[must_use]
    pub fn has(&self, step: usize) -> bool {
        !self.range(step, 0, self.layers * LEAD).is_empty()
    }

    /// Everything of a step, as a record has it.
    pub fn said(&self, step: usize) -> impl Iterator<Item = Foreseen> + '_ {
        let places = if self.has(step) { self.layers * LEAD } else { 0 };
        (0..places).flat_map(move |place| {
            let (layer, lead) = (place / LEAD + place % LEAD + 1, place % LEAD + 1);
            let said = &self.likely[self.range(step, place, place + 1)];
            said.iter().map(move |&(expert, likely)| Foreseen { layer: layer as u16, lead: lead as u8, expert, likely })
        })
    }

    /// Tell a scheduler what was foreseen at `layer` of a step, as the engine does before the layer's tick.
    pub fn tell(&self, step: usize, layer: usize, scheduler: &mut Scheduler) {
        for lead in (0..LEAD).filter(|lead| layer + lead + 1 < self.layers) {
            let place = layer * LEAD + lead;
            let likely = &self.likely[self.range(step, place, place + 1)];
            if !likely.is_empty() {
                scheduler.foresee(layer + lead + 1, likely.iter().copied());
            }
        }
    }
}

#[cfg(test)]
mod tests;
