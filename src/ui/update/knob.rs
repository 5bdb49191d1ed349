//! The slot knob: turned by the person, or by itself.

use crate::experts::budget;
use crate::ui::memory::{bare_bytes, preview};
use crate::ui::memory_state::auto::{Auto, Target, View};
use crate::ui::message::{Effect, Moment};
use crate::ui::state::State;

/// Turns the slot knob by some slots per layer.
pub(super) fn turn(state: &mut State, by: isize, now: Moment, out: &mut Vec<Effect>) {
    let to = state.slots.asked.saturating_add_signed(by);
    set(state, to, now, out);
}

/// The person turns to a slot count; it is kept within what the plan allows. The knob turns itself no more.
fn set(state: &mut State, to: usize, now: Moment, out: &mut Vec<Effect>) {
    let Some((least, most)) = bounds(state, now) else { return };
    let was_auto = state.slots.auto.take().is_some();
    let wanted = to.clamp(least, most);
    let tail = if was_auto { "; no longer automatic" } else { "" };
    if wanted != to {
        state.say(format!("slots per layer go from {least} to {most}{tail}"), now);
    } else if let Some(words) = preview(&state.memory, state.slots.granted, wanted, state.theme.glyphs()) {
        state.say(format!("{words}{tail}"), now);
    } else if was_auto {
        state.say("slots are turned by hand again", now);
    }
    ask(state, wanted, out);
}

/// The person names a slot count. One that can't be had changes nothing: it is more likely a typing error than a wish.
pub(super) fn ask_for(state: &mut State, wanted: usize, now: Moment, out: &mut Vec<Effect>) {
    let Some((least, most)) = bounds(state, now) else { return };
    if (least..=most).contains(&wanted) {
        set(state, wanted, now, out);
    } else {
        state.complain(format!("slots per layer go from {least} to {most}: {wanted} changes nothing"), now);
    }
}

fn ask(state: &mut State, wanted: usize, out: &mut Vec<Effect>) {
    if wanted != state.slots.asked {
        state.slots.asked = wanted;
        (state.slots.refused, state.slots.why) = (None, None);
        out.push(Effect::WantSlots(wanted));
    }
}

/// Fewest and most slots per layer; `None` if there are none, which is said.
fn bounds(state: &mut State, now: Moment) -> Option<(usize, usize)> {
    let Some(card) = &state.card else {
        state.complain("no model is open", now);
        return None;
    };
    if card.is_dense() {
        state.complain("this model is dense: it has no expert slots to turn", now);
        return None;
    }
    Some((card.plan.min_slots, card.plan.max_slots.max(card.plan.min_slots)))
}

/// `/slots auto`: from now on the knob turns itself.
pub(super) fn begin_auto(state: &mut State, target: Target, now: Moment, out: &mut Vec<Effect>) {
    if bounds(state, now).is_none() {
        return;
    }
    state.slots.auto = Some(Auto::new(target));
    let what = match target {
        Target::Knee => "the knee of the hit-rate curve is held".to_owned(),
        Target::Bytes(bytes) => format!("{} of slots are held", bare_bytes(bytes)),
    };
    state.say(format!("{what}; + and - turn by hand again"), now);
    look(state, now, out);
}

/// `/slots off`: what is there stays.
pub(super) fn end_auto(state: &mut State, now: Moment) {
    let words = if state.slots.auto.take().is_some() { "slots stay as they are" } else { "slots were not automatic" };
    state.say(words, now);
}

/// `/slots off`: by hand, and the same in every layer.
pub(super) fn plain(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    if !state.slots.spread && state.memory.slot_range().is_none() {
        return end_auto(state, now);
    }
    let was_auto = state.slots.auto.take().is_some();
    spread(state, false, now, out);
    if was_auto {
        state.say("slots are turned by hand again, and equal in every layer", now);
    }
}

/// Lets the automatic knob look at the session.
pub(super) fn look(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    // A change that is under way comes first.
    if state.slots.auto.is_none() || state.slots.asked != state.slots.granted {
        return;
    }
    let Some(card) = &state.card else { return };
    let curve = state.memory.curve();
    let view = View {
        tokens: state.memory.session_tokens(),
        curve: &curve,
        now: state.slots.granted,
        least: card.plan.min_slots,
        most: budget::slot_limit(&card.plan).max(card.plan.min_slots),
        slot_step: state.memory.slot_bytes(1),
        available: state.memory.latest_gauges().map(|g| g.available).filter(|a| *a > 0),
    };
    let Some(auto) = &mut state.slots.auto else { return };
    let Some(wanted) = auto.look(&view) else { return };
    let why = auto.why().to_owned();
    let (from, arrow) = (state.slots.granted, state.theme.glyphs().arrow);
    state.say(format!("auto: {from} {arrow} {wanted} slots per layer; {why}"), now);
    ask(state, wanted, out);
}

/// Telemetry that was kept is folded; the automatic knob looks, and an estimate that was put to the test is said.
pub(super) fn fold(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    let judged = state.memory.accuracy().count();
    state.fold();
    judge(state, judged, now);
    look(state, now, out);
}

/// Says how an estimate turned out, if more of them than `judged` were put to the test by now.
pub(super) fn judge(state: &mut State, judged: usize, now: Moment) {
    if let Some(verdict) = state.memory.accuracy().last().filter(|_| state.memory.accuracy().count() > judged) {
        let then = verdict.forecast;
        let mut words =
            format!("{} slots: {:.1}% hits were expected, {:.1}% came", then.slots, then.hit_rate * 100.0, verdict.hit_rate * 100.0);
        if let Some(speed) = then.speed {
            words += &format!("; of {speed:.1} tok/s {:.1}", verdict.speed);
        }
        state.say(words, now);
    }
}

/// `/slots spread`: layers that gain more from a slot get more of them, or all the same again.
pub(super) fn spread(state: &mut State, on: bool, now: Moment, out: &mut Vec<Effect>) {
    if bounds(state, now).is_none() {
        return;
    }
    if state.replay.is_some() {
        return state.complain("a recorded trace is played with the slots that it has", now);
    }
    let words = if on { "slots by layer, as soon as enough was seen to tell the layers apart" } else { "equal slots in every layer" };
    state.slots.spread = on;
    state.say(words, now);
    out.push(Effect::WantSpread(on));
}

/// The engine tells the slots of each layer.
pub(super) fn spread_is(state: &mut State, slots: Vec<u16>, why: Option<String>, now: Moment) {
    if let Some(why) = why {
        state.complain(crate::ui::sanitize::one_line(&why, 200), now);
    }
    state.memory.spread(&slots);
}
