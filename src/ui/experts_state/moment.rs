//! Which moment of the session is shown, and the state as it was at a step of the past.

use super::fold::mark_of;
use super::{ExpertsState, Mark};
use crate::ui::routing_log::{Lookup, RoutingLog};

/// Why nothing is known of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its record was dropped: telemetry is lossy.
    Dropped,
    /// It was let go, to make room in the log.
    LetGo,
    /// Its record has not come (yet).
    NotYet,
}

/// A step of the past that is looked at while the session goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    /// Its number among the tokens of the chat (or the kept steps, in a session without text), from 1.
    pub token: u64,
    /// How many there are.
    pub of: u64,
    /// The step.
    pub step: u64,
    /// The token's text, made fit for a line; empty in a session without text.
    pub text: String,
    /// Why nothing is known of it, if so.
    pub lost: Option<Lost>,
}

/// How a recording moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Play {
    /// To the end.
    #[default]
    Forwards,
    /// To the beginning.
    Backwards,
    /// Not at all.
    Paused,
    /// It is at its end.
    Ended,
}

/// Which moment of the session the heatmap shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// The latest step of a model that runs.
    #[default]
    Live,
    /// The latest step that a recording has played.
    Replay(Play),
    /// A step of the past; the heatmap stands still.
    Paused(Pause),
}

/// Kept steps from which the heat of a past moment is made up: what is older weighs less than half a thousandth.
const HEAT_STEPS: usize = 256;

impl ExpertsState {
    /// The state as it was after a past step, from the steps that are kept; marks and slots are those of the step, heat is
    /// folded from those before it. Of a step without a record nothing is shown.
    #[must_use]
    pub fn frozen_at(&self, log: &RoutingLog, mut pause: Pause) -> Self {
        let mut past = Self::new(self.layers, self.experts, self.top_k);
        past.blocks.clone_from(&self.blocks);
        match log.get(pause.step) {
            Lookup::Here(kept) => {
                log.until(pause.step, HEAT_STEPS).for_each(|kept| past.apply(&kept.record()));
                past.gates = (0..past.layers)
                    .flat_map(|l| kept.layer(l).iter().map(move |u| (l, u.expert, u.weight.to_f32(), mark_of(u.outcome))))
                    .collect();
                past.gates.sort_by(|a, b| a.0.cmp(&b.0).then(b.2.total_cmp(&a.2)));
            }
            Lookup::Dropped => pause.lost = Some(Lost::Dropped),
            Lookup::LetGo => pause.lost = Some(Lost::LetGo),
            Lookup::NotYet => pause.lost = Some(Lost::NotYet),
        }
        (past.missing, past.misfits) = (self.missing, self.misfits);
        past.shown = Shown::Paused(pause);
        past.look_like(self);
        past
    }

    /// Which moment this is.
    #[must_use]
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// The past step that is looked at.
    #[must_use]
    pub fn pause(&self) -> Option<&Pause> {
        match &self.shown {
            Shown::Paused(pause) => Some(pause),
            _ => None,
        }
    }

    /// The routed experts of a layer in the past step that is looked at: id, gate (summed over the tokens of a prompt's
    /// chunk), and what happened. Best gate first.
    pub fn gates(&self, layer: usize) -> impl Iterator<Item = (u16, f32, Mark)> + '_ {
        let row = self.gates.iter().filter(move |g| g.0 == layer);
        row.map(|&(_, expert, weight, mark)| (expert, weight, mark))
    }

    /// The same past step, counted anew.
    pub(in crate::ui) fn set_pause(&mut self, pause: Pause) {
        if let Shown::Paused(old) = &mut self.shown {
            *old = pause;
        }
    }
}
