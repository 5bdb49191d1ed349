//! What the engine says, and the slot knob.

use super::chat;
use crate::events::{Event, FinishReason, RequestId, TextKind, TurnStats};
use crate::ui::experts_state::{ExpertsState, Play, Shown};
use crate::ui::memory_state::MemoryState;
use crate::ui::message::{Effect, Moment};
use crate::ui::panes::SlotKnob;
use crate::ui::state::{EngineState, State, Turn};
use crate::ui::transcript::{Item, Kind, Thinking};

pub(super) fn event(state: &mut State, event: Event, now: Moment, out: &mut Vec<Effect>) {
    match event {
        Event::Loading { stage, done, total } => {
            state.engine = EngineState::Loading { stage: crate::ui::sanitize::one_line(&stage, 60), done, total };
        }
        Event::Ready { card } => ready(state, *card, now, out),
        Event::LoadFailed { message, .. } => {
            state.engine = EngineState::Failed;
            state.card = None;
            chat::note(state, message, true);
            if state.waiting {
                chat::stop_waiting(state, now, out);
            }
        }
        Event::Prefill { id, done, total, .. } => {
            replayed_turn(state, id, now);
            if let Some(turn) = state.turn.as_mut().filter(|t| t.id == id) {
                turn.prefill = Some((done, total));
            }
        }
        Event::Text { id, text, kind, step } => self::text(state, id, &text, (kind, step), now),
        Event::Finished { id, reason, stats } => {
            if state.turn.as_ref().is_some_and(|t| t.id == id) {
                chat::finish(state, reason, stats, now, out);
            }
        }
        Event::Slots { asked, granted, why } => slots(state, asked, granted, why, now),
        Event::Scheduling(scheduling) => state.scheduling = Some(scheduling),
        Event::Spread { slots, why } => super::knob::spread_is(state, slots, why, now),
        Event::Failed { id, message, kind } => {
            if id.is_some() && state.turn.as_ref().map(|t| t.id) == id {
                chat::failed(state, message, kind, now, out);
            } else {
                chat::note(state, message, true);
            }
        }
        Event::Notice { message } => chat::note(state, message, false),
    }
}

fn ready(state: &mut State, card: crate::events::ModelCard, now: Moment, out: &mut Vec<Effect>) {
    state.engine = EngineState::Ready;
    state.experts = ExpertsState::open(&card);
    if state.replay.is_some() {
        state.experts.shown = Shown::Replay(Play::default());
    }
    state.inspector.opened();
    state.memory = MemoryState::open(&card);
    state.waiting_steps.clear();
    state.context_used = 0;
    state.slots = SlotKnob::at(card.plan.slots_per_layer);
    if !state.own_sampling {
        state.sampling = card.sampling.clone();
    }
    if state.replay.is_some() {
        state.turn = None;
        state.card = Some(card);
        return;
    }
    if card.template_fallback {
        chat::note(state, "the file has no chat template; the built-in ChatML is used", false);
    }
    state.tempo.toy = card.toy;
    super::tempo::tell(state, out);
    state.card = Some(card);
    if std::mem::take(&mut state.waiting) {
        chat::begin_turn(state, now, out);
    }
}

/// A recorded answer begins without anybody having asked here.
fn replayed_turn(state: &mut State, id: RequestId, now: Moment) {
    if state.replay.is_some() && state.turn.as_ref().is_none_or(|t| t.id != id) {
        state.transcript.push(Item::new(Kind::Assistant { thinking: None, ending: None }, ""));
        state.turn = Some(Turn { id, asked: now.at, prefill: None, cancelling: false });
    }
}

fn text(state: &mut State, id: RequestId, text: &str, (kind, step): (TextKind, u64), now: Moment) {
    replayed_turn(state, id, now);
    let Some(turn) = state.turn.as_mut().filter(|t| t.id == id) else { return };
    turn.prefill = None;
    state.unsaved_words = true;
    let epoch = state.inspector.epoch;
    state.transcript.change_answer(|item| {
        let Kind::Assistant { thinking, .. } = &mut item.kind else { return };
        match kind {
            TextKind::Thinking => {
                let thinking = thinking.get_or_insert_with(|| Thinking {
                    text: String::new(),
                    started: Some((now.at, step)),
                    took: None,
                    tokens: None,
                    done: false,
                    open: true,
                });
                thinking.text.push_str(text);
                item.thought_tokens.add(epoch, step, thinking.text.len(), None);
                if let Some((began, first)) = thinking.started {
                    thinking.took = Some(now.at.duration_since(began));
                    // One token each step; the turn's end brings the exact count.
                    thinking.tokens = Some((step.saturating_sub(first) + 1) as usize);
                }
            }
            TextKind::Answer => {
                if let Some(thinking) = thinking {
                    chat::close_thinking(thinking, now);
                }
                item.text.push_str(text);
                item.tokens.add(epoch, step, item.text.len(), item.thought_tokens.last());
            }
        }
    });
}

fn slots(state: &mut State, asked: usize, granted: usize, why: Option<String>, now: Moment) {
    let why = why.map(|w| crate::ui::sanitize::one_line(&w, 200));
    if granted != asked || why.is_some() {
        let reason = why.as_deref().unwrap_or("no reason given");
        state.say(format!("asked for {asked} slots per layer, {granted} granted: {reason}"), now);
        if let Some(auto) = &mut state.slots.auto {
            auto.was_refused(granted, why.as_deref());
        }
    }
    state.slots.refused = (granted != asked).then_some(asked);
    // The person may have turned on while this was carried out.
    if state.slots.asked == asked {
        state.slots.asked = granted;
    }
    state.slots.granted = granted;
    state.slots.why = why;
}

/// The inference thread has ended.
pub(super) fn gone(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    state.engine = EngineState::Gone;
    if state.replay.is_some() {
        return;
    }
    state.card = None;
    chat::note(state, "the engine has stopped; /model PATH starts it again", true);
    if state.turn.is_some() {
        chat::finish(state, FinishReason::Failed, TurnStats::default(), now, out);
    }
    if state.waiting {
        chat::stop_waiting(state, now, out);
    }
}
