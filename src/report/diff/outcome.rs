//! One side of a comparison, worked out: its slots, its hits, its bytes.

use super::side::Side;
use super::{Common, Source};
use crate::cli::Failure;
use crate::events::Phase;
use crate::experts::policy::Policy;
use crate::report::simulate::{generated, on_machine, trunk_of};
use crate::trace::roofline::{estimate, Demand, Estimate};
use crate::trace::routes::Routes;
use crate::trace::scheduling::known;
use crate::trace::simulate::{ByExpert, Contender, LayerTotals, Tally};
use serde::Serialize;

/// One side, worked out.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// In words: "lru, 32 slots", "monday.rotary as recorded".
    pub label: String,
    /// Tokens generated.
    pub tokens: usize,
    /// Bytes of all slots; 0 if unknown.
    pub slot_bytes: u64,
    /// Hit rate, 0 to 1.
    pub hit_rate: f64,
    /// Bytes copied into slots per token.
    pub copied_per_token: f64,
    /// Bytes of missed experts per token.
    pub missed_per_token: f64,
    /// Tokens per second: an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_tokens_per_second: Option<f64>,
    /// Tokens per second when it was recorded: of the median step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_tokens_per_second: Option<f64>,
    #[serde(skip)]
    pub(super) layers: Vec<LayerFigures>,
    #[serde(skip)]
    pub(super) experts: usize,
    #[serde(skip)]
    pub(super) by: ByExpert,
}

/// One layer of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LayerFigures {
    /// Hit rate, 0 to 1.
    pub hit_rate: f64,
    /// Bytes copied into slots per token.
    pub copied_per_token: f64,
    /// Bytes of missed experts per token.
    pub missed_per_token: f64,
    /// Microseconds of its experts per token: an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_us: Option<f64>,
}

/// Slots per layer of most steps that were recorded; 0 if they are not known.
fn recorded_slots(routes: &Routes) -> usize {
    let generating = (0..routes.len()).filter(|&i| routes.steps()[i].phase == Phase::Decode);
    let mut seen: Vec<u16> = generating.map(|i| routes.measured(i).slots).collect();
    seen.sort_unstable();
    seen.get(seen.len() / 2).copied().unwrap_or(0).into()
}

/// Slots of both sides. Whoever does not say has as many as the other side, else as when it was recorded, so that what differs is what was asked for.
pub(super) fn slots_of(sides: [&Side; 2], sources: [&Source<'_>; 2], common: &Common<'_>) -> [usize; 2] {
    let own = |i: usize| match sides[i] {
        Side::Simulated { slots, .. } => slots.or(common.slots),
        Side::Recorded | Side::File(_) => Some(recorded_slots(sources[i].routes)),
    };
    let known = |slots: Option<usize>| slots.filter(|n| *n > 0);
    [0, 1].map(|i| {
        let recorded = || known(Some(recorded_slots(sources[i].routes)));
        let other = || known(own(1 - i)).filter(|n| *n <= sources[i].routes.head.experts);
        own(i).or_else(other).or_else(recorded).unwrap_or((sources[i].routes.head.experts / 4).max(1))
    })
}

/// What a side comes to at so many slots per layer.
///
/// # Errors
/// More slots than experts.
pub(super) fn work_out(side: &Side, slots: usize, source: &Source<'_>, common: &Common<'_>) -> Result<Outcome, Failure> {
    let Source { file, routes, prepared } = source;
    let head = &routes.head;
    let generating = || (0..routes.len()).filter(|&i| routes.steps()[i].phase == Phase::Decode);
    let named = head.scheduling.as_ref().and_then(|named| known(named).ok());
    let recorded = named.map(|(policy, _)| policy);
    let contender = match side {
        Side::Simulated { policy, .. } => policy.or(common.policy).unwrap_or(Contender::Online(recorded.unwrap_or_default())),
        Side::Recorded | Side::File(_) => Contender::Recorded,
    };
    if slots > head.experts {
        return Err(Failure::usage(format!("{file}: {slots} slots per layer are more than its {} experts", head.experts)));
    }
    let admission = on_machine(common.admission, common.profile, prepared.expert_bytes());
    let (tally, by) = prepared.by_expert(contender, slots, admission);
    let ahead = match contender {
        Contender::Online(Policy::Rotary) => prepared.admission(Policy::Rotary, admission).ahead,
        Contender::Recorded => named.map_or(0, |(_, admission)| admission.ahead),
        _ => 0,
    };
    let ahead = if ahead > 0 { format!(", {ahead} per look ahead of use") } else { String::new() };
    let (trunk, _) = trunk_of(head, common.trunk);
    let bytes = prepared.expert_bytes();
    let slot_step: u64 = bytes.iter().fold(0, |sum, b| sum.saturating_add(*b));
    let time = common.profile.filter(|_| slot_step > 0).map(|p| estimate(p, &Demand::of(&tally, bytes, trunk)));
    let tokens = generated(routes);
    let per_token = |bytes: u64| bytes as f64 / tokens.max(1) as f64;
    let mut steps: Vec<u32> = generating().map(|i| routes.measured(i).total_us).filter(|us| *us > 0).collect();
    steps.sort_unstable();
    let median = steps.get(steps.len() / 2).map(|us| 1e6 / f64::from(*us));
    let under = recorded.map_or_else(String::new, |policy| format!(" under {policy}"));
    let with_slots = |what: &str| if slots > 0 { format!("{what}, {slots} slots{ahead}") } else { format!("{what}{ahead}") };
    Ok(Outcome {
        label: match side {
            Side::File(_) => with_slots(&format!("{file} as recorded{under}")),
            Side::Recorded => with_slots(&format!("recorded{under}")),
            Side::Simulated { .. } => with_slots(contender.name()),
        },
        tokens,
        slot_bytes: slot_step.saturating_mul(slots as u64),
        hit_rate: tally.hit_rate(),
        copied_per_token: per_token(tally.moved_bytes),
        missed_per_token: per_token(tally.missed_bytes),
        estimated_tokens_per_second: time.as_ref().map(Estimate::tokens_per_second),
        measured_tokens_per_second: median.filter(|_| contender == Contender::Recorded),
        layers: layers(&tally, bytes, time.as_ref()),
        experts: head.experts,
        by,
    })
}

fn layers(tally: &Tally, bytes: &[u64], time: Option<&Estimate>) -> Vec<LayerFigures> {
    let figures = |(i, (t, &bytes)): (usize, (&LayerTotals, &u64))| {
        let per_token = |experts: f64| experts * bytes as f64 / t.ticks.max(1) as f64;
        LayerFigures {
            hit_rate: t.hit_rate(),
            copied_per_token: per_token(t.moved as f64),
            missed_per_token: per_token(t.missed),
            estimated_us: time.and_then(|e| e.layers_us.get(i).copied()),
        }
    };
    tally.layers.iter().zip(bytes).enumerate().map(figures).collect()
}
