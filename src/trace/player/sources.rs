//! What can be played: a recorded session, entries in memory, routing alone, or two sides of a comparison.

use super::{start, Options, PlayerControl};
use crate::engine::EngineHandle;
use crate::events::{Event, LayerSlot, ModelCard, Plan, Sampling, StepRecord};
use crate::experts::policy::Policy;
use crate::trace::moment::{Fold, Source};
use crate::trace::open::Trace;
use crate::trace::routes::{Routes, RoutesHead, Trunk};
use crate::trace::second::{Second, Simulation};
use crate::trace::session::{Entry, Session, Timed};
use std::time::Duration;

/// Play a recorded session; `fold` is what the listener has before the first entry.
#[must_use]
pub fn from_session<F: Fold>(session: Session, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    start(Source::File(Box::new(session)), None, options, None, fold)
}

/// Play entries that are in memory.
#[must_use]
pub fn from_entries<F: Fold>(entries: Vec<Timed>, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    start(Source::List(entries), None, options, None, fold)
}

/// Play routing without occupancy. Without `options.simulate` a quarter of the experts get slots, under `rotary`.
#[must_use]
pub fn from_routes<F: Fold>(routes: &Routes, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    let options = simulating(routes, options);
    start(listed(routes, &options), None, options, None, fold)
}

fn simulating(routes: &Routes, options: Options) -> Options {
    let slots = (routes.head.experts / 4).max(1);
    Options { simulate: options.simulate.or(Some((slots, Policy::default()))), ..options }
}

fn listed(routes: &Routes, options: &Options) -> Source {
    let records = (0..routes.len()).map(|i| routes.record(i));
    let slots = options.simulate.map_or(1, |s| s.0);
    Source::List(timed(card_of(&routes.head, slots), records, options.step_interval))
}

/// What a session is compared with.
pub enum Other {
    /// Its own routing, simulated.
    Itself(Simulation),
    /// Another trace; what it is called; simulated, or as it was recorded. Routing without occupancy must be simulated.
    Trace(Box<Trace>, String, Option<Simulation>),
}

/// Play a trace beside another side. The model's shape must be the same in both; steps of another shape are left out.
#[must_use]
pub fn compare<F: Fold>(trace: Trace, other: Other, options: Options, fold: F) -> (EngineHandle, PlayerControl<F>) {
    let (options, source) = match trace {
        Trace::Session(session) => (options, Source::File(session)),
        Trace::Routes(routes) => {
            let options = simulating(&routes, options);
            let source = listed(&routes, &options);
            (options, source)
        }
    };
    let (other, second) = match other {
        Other::Itself(simulation) => (None, Second::new(Some(simulation), String::new())),
        Other::Trace(trace, name, simulation) => {
            let (source, simulation) = match *trace {
                Trace::Session(session) => (Source::File(session), simulation),
                Trace::Routes(routes) => {
                    let same = Simulation { slots: None, policy: Policy::default() };
                    (listed(&routes, &options), simulation.or(Some(same)))
                }
            };
            let name = if simulation.is_some() { format!("{name}, ") } else { name };
            (Some(source), Second::new(simulation, name))
        }
    };
    start(source, other, options, Some(second), fold)
}

pub(super) fn timed(card: ModelCard, records: impl Iterator<Item = StepRecord>, interval: Duration) -> Vec<Timed> {
    let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
    let ready = Timed { at: 0, entry: Entry::Event(Event::Ready { card: Box::new(card) }) };
    let steps = records.enumerate().map(|(i, r)| Timed { at: interval.saturating_mul(i as u64), entry: Entry::Step(Box::new(r)) });
    std::iter::once(ready).chain(steps).collect()
}

/// A card for routing whose model is not at hand.
#[must_use]
pub fn card_of(head: &RoutesHead, slots: usize) -> ModelCard {
    let bytes = |l: usize| head.expert_bytes.get(l).copied().unwrap_or(0);
    let slot_step: u64 = (0..head.layers).map(bytes).fold(0, u64::saturating_add);
    ModelCard {
        name: head.model.rsplit(['/', '\\']).next().unwrap_or_default().to_owned(),
        arch: head.arch.clone(),
        toy: false,
        layers: head.layers,
        experts: head.experts,
        top_k: head.top_k,
        vocab: 0,
        context: 0,
        expert_bytes: (0..head.layers).map(bytes).collect(),
        plan: Plan {
            trunk: match head.trunk() {
                Trunk::Plan(bytes) | Trunk::Layers(bytes) => bytes,
                Trunk::Unknown => 0,
            },
            slots: slot_step.saturating_mul(slots as u64),
            slot_step,
            experts: slot_step.saturating_mul(head.experts as u64),
            slots_per_layer: slots,
            min_slots: 1,
            max_slots: head.experts,
            slot_bytes: (0..head.layers).map(|l| LayerSlot { layer: head.blocks.of(l), bytes: bytes(l) }).collect(),
            ..Plan::default()
        },
        sampling: Sampling::default(),
        can_think: false,
        has_effort: false,
        template_fallback: false,
        device: "replay of a trace, slots simulated".into(),
    }
}
