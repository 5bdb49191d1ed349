//! The pace of answers: chosen, held, let through by hand.

use crate::ui::message::{Effect, Moment, PlayerAction};
use crate::ui::state::State;

/// Tells the engine.
pub(super) fn tell(state: &State, out: &mut Vec<Effect>) {
    if state.replay.is_none() {
        out.push(Effect::WantPace(state.tempo.pace()));
    }
}

/// Space: hold the answer at hand, or let it go on. In a recording, the player.
pub(super) fn hold(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    if state.replay.is_some() {
        return out.push(Effect::Play(PlayerAction::Toggle));
    }
    if state.turn.is_none() {
        return state.say("nothing is being answered that could be held", now);
    }
    state.tempo.held = !state.tempo.held;
    tell(state, out);
}

/// One token more, after which the answer stands; one that runs is held first.
pub(super) fn let_one(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    if state.replay.is_some() {
        return out.push(Effect::Play(PlayerAction::Step(1)));
    }
    if state.tempo.held {
        out.push(Effect::LetOne);
    } else {
        hold(state, now, out);
    }
}

/// The answer has ended: the next one is not held.
pub(super) fn release(state: &mut State, out: &mut Vec<Effect>) {
    if std::mem::take(&mut state.tempo.held) {
        tell(state, out);
    }
}

/// `/pace`: tokens per second, 0 as fast as they can be.
pub(super) fn choose(state: &mut State, rate: f32, now: Moment, out: &mut Vec<Effect>) {
    if state.replay.is_some() {
        return state.complain("a recorded trace has a speed of its own: > and <", now);
    }
    state.tempo = crate::ui::tempo::Tempo { chosen: Some(rate), held: false, ..state.tempo };
    state.say(words(state), now);
    tell(state, out);
}

/// The pace in words.
pub(super) fn words(state: &State) -> String {
    match state.tempo.per_second() {
        Some(rate) => format!("answers come at {rate} tokens/s at most; /pace off lets them come as fast as they can"),
        None => "answers come as fast as they can".to_owned(),
    }
}
