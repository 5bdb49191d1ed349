//! Turns: sending, cancelling, answering again, editing; chats: saving, taking up again.

use crate::engine::sampling::validate;
use crate::events::{Command, FailureKind, FinishReason, Reasoning, Role, TurnStats};
use crate::ui::calendar;
use crate::ui::command;
use crate::ui::message::{Effect, EngineCommand, Moment};
use crate::ui::notice::While;
use crate::ui::session::{Listed, SavedChat};
use crate::ui::state::{EngineState, Sent, State, Turn};
use crate::ui::transcript::{Ending, Item, Kind, Thinking};
use std::collections::VecDeque;
use std::time::Duration;

/// Puts a line of the app into the chat.
pub(super) fn note(state: &mut State, text: impl Into<String>, error: bool) {
    state.transcript.push(Item::new(Kind::Note { error }, text));
}

/// Sends the input, or runs it if it is a command.
pub(super) fn send(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    let text = state.composer.text().trim();
    if text.is_empty() {
        return;
    }
    if text.starts_with('/') && !text.contains('\n') {
        match command::parse(text) {
            Ok(slash) => {
                state.composer.take();
                super::slash::run(state, slash, now, out);
            }
            Err(reason) => state.complain_while(While::Typed, reason, now),
        }
        return;
    }
    if is_only_watched(state, now) || is_answering(state, now) {
        return;
    }
    match state.engine {
        EngineState::Ready | EngineState::Loading { .. } => {}
        EngineState::Idle | EngineState::Failed | EngineState::Gone => {
            return no_model(state, now);
        }
    }
    let text = state.composer.take();
    let chat = (state.chat_id.clone(), state.created.clone());
    let mut sent = Sent { at: state.transcript.items().len(), replaced: Vec::new(), editing: state.editing.take(), chat, typed: true };
    if let Some(at) = sent.editing {
        // The chat as it was stays in its file; this is another one from here on.
        sent.at = at.min(sent.at);
        sent.replaced = state.transcript.split_off(at);
        begin_file(state, now);
        state.composer.take_back();
    }
    state.sent = Some(sent);
    state.transcript.push(Item::new(Kind::User, text.trim().to_owned()));
    state.transcript.to_end();
    begin_turn(state, now, out);
}

/// Whether this is a recording, where nobody can be asked; that is said.
pub(super) fn is_only_watched(state: &mut State, now: Moment) -> bool {
    let only = state.replay.is_some();
    if only {
        let empties = if state.composer.is_empty() { "" } else { "; Ctrl-C empties the input" };
        state.complain(format!("a recorded trace can be watched, not asked{empties}"), now);
    }
    only
}

/// Whether an answer is under way, so that nothing else can be asked; that is said.
fn is_answering(state: &mut State, now: Moment) -> bool {
    let answering = state.turn.is_some() || state.waiting;
    if answering {
        state.complain_while(While::Answering, "still answering: Esc cancels", now);
    }
    answering
}

fn no_model(state: &mut State, now: Moment) {
    state.complain_while(While::NoModel, "no model is open: /model PATH or /model demo", now);
}

fn begin_file(state: &mut State, now: Moment) {
    state.unsaved_words = false;
    state.chat_id = calendar::new_id(now.wall, state.process);
    state.created = calendar::utc(now.wall);
}

/// Asks for an answer to the chat as it stands; if the model is not open yet, when it is.
pub(super) fn begin_turn(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    state.unsaved_words = true;
    save(state, now, out);
    state.waiting = state.engine != EngineState::Ready;
    if state.waiting {
        return;
    }
    let id = state.next_request;
    state.next_request += 1;
    let command = Command::Generate { id, messages: state.messages(), sampling: state.sampling.clone(), reasoning: state.reasoning };
    state.transcript.push(Item::new(Kind::Assistant { thinking: None, ending: None }, ""));
    state.turn = Some(Turn { id, asked: now.at, prefill: None, cancelling: false });
    out.push(Effect::Engine(EngineCommand(command)));
}

/// Saves the chat, if anything was said since it was last saved: who only looks at a chat leaves it to others. What a recorded
/// trace says is not saved again.
pub(super) fn save(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    if state.replay.is_some() || !state.unsaved_words {
        return;
    }
    let chat = state.saved_chat(now);
    if !chat.messages.is_empty() {
        state.unsaved_words = false;
        out.push(Effect::Save(state.chat_id.clone(), Box::new(chat)));
    }
}

/// The chat of this name was saved, under which name, or why not.
pub(super) fn saved(state: &mut State, id: &str, result: Result<String, String>, now: Moment) {
    let before = state.unsaved.take();
    match result {
        Ok(name) if name != id && state.chat_id == id => {
            state.chat_id = name;
            note(state, "another window has gone on with this chat; what is said here is kept in a chat of its own", false);
        }
        Ok(_) => {}
        Err(reason) => {
            if before.as_ref() != Some(&reason) {
                state.complain(format!("the chat is not saved: {reason}"), now);
            }
            state.unsaved = Some(reason);
            state.unsaved_words = true;
        }
    }
}

pub(super) fn cancel(state: &mut State, out: &mut Vec<Effect>) {
    if let Some(turn) = &mut state.turn {
        turn.cancelling = true;
        out.push(Effect::Cancel);
    }
}

/// The prompt that waits for a model goes back into the input.
pub(super) fn stop_waiting(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    state.waiting = false;
    take_back(state, now, out);
    state.say("taken back", now);
}

/// A turn failed. If it did before a word was answered, the message leaves the chat and goes back into the input: it would fail again
/// with each message that follows.
pub(super) fn failed(state: &mut State, message: String, kind: FailureKind, now: Moment, out: &mut Vec<Effect>) {
    let answered = state.transcript.items().iter().rfind(|i| matches!(i.kind, Kind::Assistant { .. })).is_some_and(Item::says_something);
    if answered || state.sent.is_none() {
        note(state, message, true);
        return finish(state, FinishReason::Failed, TurnStats::default(), now, out);
    }
    state.turn = None;
    super::tempo::release(state, out);
    let back = take_back(state, now, out);
    let remedy = match (kind, state.transcript.last_prompt()) {
        (FailureKind::Context, None) => "; /new begins another chat",
        (FailureKind::Context, Some(_)) => "; /new begins another chat, Esc Esc edits an earlier message",
        _ => "",
    };
    note(state, format!("{message}. {back}{remedy}"), true);
}

/// Puts everything back to what it was before the last message was sent, but for notes. Says where the message is.
fn take_back(state: &mut State, now: Moment, out: &mut Vec<Effect>) -> &'static str {
    let Some(sent) = state.sent.take() else { return "" };
    let mut after = state.transcript.split_off(sent.at);
    let message = after.iter().position(|i| i.kind == Kind::User).map(|at| after.remove(at));
    after.retain(|i| matches!(i.kind, Kind::Note { .. }));
    sent.replaced.into_iter().chain(after).for_each(|item| state.transcript.push(item));
    let new = std::mem::replace(&mut state.chat_id, sent.chat.0);
    state.created = sent.chat.1;
    if state.chat_id != new {
        out.push(Effect::Forget(new));
    } else if state.saved_chat(now).messages.is_empty() {
        // What was saved is only what is taken back.
        out.push(Effect::Forget(new));
        begin_file(state, now);
    } else {
        state.unsaved_words = true;
        save(state, now, out);
    }
    let Some(message) = message.filter(|_| sent.typed) else { return "The chat is as it was" };
    state.composer.remember(&message.text);
    if !state.composer.is_empty() {
        return "Up brings the message back into the input";
    }
    state.composer.set(message.text);
    state.editing = sent.editing;
    "The message is back in the input"
}

/// Ends the running turn, whatever ended it.
pub(super) fn finish(state: &mut State, reason: FinishReason, stats: TurnStats, now: Moment, out: &mut Vec<Effect>) {
    state.turn = None;
    super::tempo::release(state, out);
    state.sent = None;
    let thinking_tokens = (stats.thinking_tokens > 0).then_some(stats.thinking_tokens);
    state.transcript.change_answer(|item| {
        if let Kind::Assistant { thinking, ending } = &mut item.kind {
            if let Some(thinking) = thinking {
                close_thinking(thinking, now);
                thinking.tokens = thinking_tokens.or(thinking.tokens);
            }
            *ending = Some(Ending { reason, stats });
        }
    });
    state.unsaved_words = true;
    save(state, now, out);
}

pub(super) fn close_thinking(thinking: &mut Thinking, now: Moment) {
    if !std::mem::replace(&mut thinking.done, true) {
        thinking.took = thinking.started.map(|(began, _)| now.at.duration_since(began)).or(thinking.took);
        thinking.open = false;
    }
}

pub(super) fn regenerate(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    if is_only_watched(state, now) || is_answering(state, now) {
        return;
    }
    if state.engine != EngineState::Ready {
        return no_model(state, now);
    }
    let Some(prompt) = state.transcript.last_prompt() else {
        return state.say("nothing was asked yet", now);
    };
    let mut replaced = state.transcript.split_off(prompt + 1);
    // A prompt that was never answered is like one that was just typed.
    let typed = !replaced.iter().any(Item::says_something);
    if typed {
        replaced.clear();
    }
    let at = if typed { prompt } else { prompt + 1 };
    let chat = (state.chat_id.clone(), state.created.clone());
    state.sent = Some(Sent { at, replaced, editing: None, chat, typed });
    state.transcript.to_end();
    begin_turn(state, now, out);
}

/// Puts the previous prompt, or the one before the one in edit, into the input.
pub(super) fn edit_previous(state: &mut State, now: Moment) {
    if is_only_watched(state, now) || is_answering(state, now) {
        return;
    }
    let end = state.editing.unwrap_or(state.transcript.items().len());
    let found = state.transcript.items()[..end.min(state.transcript.items().len())].iter().rposition(|i| i.kind == Kind::User);
    match found {
        Some(at) => {
            match state.editing.and_then(|old| state.transcript.items().get(old)) {
                None => state.composer.set_aside(),
                Some(old) if old.text != state.composer.text() => {
                    let changed = state.composer.text().to_owned();
                    state.composer.remember(&changed);
                }
                Some(_) => {}
            }
            state.composer.set(state.transcript.items()[at].text.clone());
            state.editing = Some(at);
            state.say_while(While::Editing, "editing: Ctrl-C leaves, Enter answers from here in a new chat", now);
        }
        None if state.editing.is_some() => state.say("this is the first prompt", now),
        None => state.say("nothing was asked yet", now),
    }
}

/// Edits no earlier prompt any more: what was in the input before is there again, what is in it now is in the history.
pub(super) fn leave_edit(state: &mut State) {
    if state.editing.take().is_some() {
        let text = state.composer.text().to_owned();
        state.composer.remember(&text);
        state.composer.clear();
        state.composer.take_back();
    }
}

pub(super) fn new_chat(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    if state.turn.is_some() {
        cancel(state, out);
        finish(state, FinishReason::Cancelled, TurnStats::default(), now, out);
    }
    save(state, now, out);
    state.waiting = false;
    leave_edit(state);
    state.sent = None;
    state.transcript.clear();
    state.context_used = 0;
    begin_file(state, now);
}

pub(super) fn quit(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    if state.turn.is_some() {
        cancel(state, out);
    }
    save(state, now, out);
    out.push(Effect::Quit(0));
}

/// Takes up the last chat that can be read.
pub(super) fn resume_last(state: &mut State, chats: &[Listed], now: Moment, out: &mut Vec<Effect>) {
    for broken in chats.iter().filter(|c| c.problem.is_some()) {
        let reason = broken.problem.as_deref().unwrap_or_default();
        note(state, format!("the saved chat {} can't be read and was left alone: {reason}", broken.id), true);
    }
    match chats.iter().find(|c| c.problem.is_none()) {
        Some(chat) => out.push(Effect::ReadChat(chat.id.clone())),
        None => state.say("there is no saved chat to take up", now),
    }
}

pub(super) fn resumed(state: &mut State, id: String, result: Result<Box<SavedChat>, String>, now: Moment) {
    let chat = match result {
        Ok(chat) => chat,
        Err(reason) => return note(state, reason, true),
    };
    if state.turn.is_some() && is_answering(state, now) {
        return;
    }
    let notes: VecDeque<Item> = state.transcript.items().iter().filter(|i| matches!(i.kind, Kind::Note { .. })).cloned().collect();
    state.transcript.clear();
    for item in notes {
        state.transcript.push(item);
    }
    leave_edit(state);
    state.sent = None;
    state.waiting = false;
    state.unsaved_words = false;
    state.context_used = 0;
    for message in &chat.messages {
        let kind = match message.role {
            Role::User | Role::Tool | Role::System => {
                state.composer.remember(&message.content);
                Kind::User
            }
            Role::Assistant => Kind::Assistant {
                thinking: message.thinking.as_ref().map(|text| Thinking {
                    text: text.clone(),
                    started: None,
                    took: message.thinking_ms.map(Duration::from_millis),
                    tokens: message.thinking_tokens,
                    done: true,
                    open: false,
                }),
                ending: Some(Ending {
                    reason: if message.unfinished { FinishReason::Cancelled } else { FinishReason::Stop },
                    stats: TurnStats::default(),
                }),
            },
        };
        state.transcript.push(Item::new(kind, message.content.clone()));
    }
    state.transcript.to_end();
    state.chat_id = id;
    state.created = chat.created;
    state.system = chat.system;
    let given = std::mem::take(&mut state.given);
    match validate(&chat.sampling) {
        Ok(()) if given.sampling => {}
        Ok(()) => (state.sampling, state.own_sampling) = (chat.sampling, true),
        Err(odd) => note(state, format!("{odd} in the saved chat; its sampling is passed over, /set sets another"), true),
    }
    let now_wanted = state.reasoning;
    state.reasoning = Reasoning {
        on: if given.thinking { now_wanted.on } else { chat.thinking },
        effort: if given.effort { now_wanted.effort } else { chat.effort },
    };
    let with = if state.system.is_some() { " with its standing instruction (/system shows it)" } else { "" };
    state.say(format!("chat of {} taken up{with}", calendar::civil(&chat.updated)), now);
}
