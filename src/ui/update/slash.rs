//! Carrying out slash commands, and picking from lists.

use super::{chat, knob};
use crate::events::Command;
use crate::ui::command::{self, Copied, Slash};
use crate::ui::keys::{Takes, COMMANDS};
use crate::ui::markdown;
use crate::ui::message::{Effect, EngineCommand, Moment};
use crate::ui::session;
use crate::ui::state::{EngineState, Overlay, State};
use crate::ui::tint::Tint;

/// An entry of the completion list as it goes into the input: up to its first placeholder.
pub(super) fn completed(line: &str) -> String {
    let (head, arguments) = line.split_once(' ').unwrap_or((line, ""));
    let command = COMMANDS.iter().find(|c| c.name == &head[1..]);
    match command {
        Some(c) if !arguments.is_empty() && c.arguments == arguments => format!("{head} "),
        _ => line.to_owned(),
    }
}

/// The line is a command that can run as it is.
pub(super) fn is_whole(line: &str) -> bool {
    let name = line[1..].split(' ').next().unwrap_or("");
    let known = COMMANDS.iter().find(|c| c.name == name);
    known.is_some_and(|c| line.contains(' ') || c.takes == Takes::Nothing || c.arguments.starts_with('[')) && command::parse(line).is_ok()
}

/// Carries out a command.
pub(super) fn run(state: &mut State, slash: Slash, now: Moment, out: &mut Vec<Effect>) {
    match slash {
        Slash::Help => state.overlay = Some(Overlay::Help(0)),
        Slash::New => chat::new_chat(state, now, out),
        Slash::Resume => out.push(Effect::ListChats(true)),
        Slash::Regenerate => chat::regenerate(state, now, out),
        Slash::Edit => chat::edit_previous(state, now),
        Slash::Copy(what) => copy(state, what, now, out),
        Slash::Save(path) => {
            let text = session::to_markdown(&state.saved_chat(now));
            out.push(Effect::Export(path, text));
        }
        Slash::Slots(count) => knob::set(state, count, now, out),
        Slash::SlotsSpread(on) => knob::spread(state, on, now, out),
        Slash::SlotsAuto(Some(target)) => knob::begin_auto(state, target, now, out),
        Slash::SlotsAuto(None) => knob::end_auto(state, now),
        Slash::Policy(name) => {
            out.push(Effect::Engine(EngineCommand(Command::SetPolicy(name.clone()))));
            state.say(format!("policy {name} from the next step on"), now);
        }
        Slash::ShowSampling => chat::note(state, command::describe(&state.sampling), false),
        Slash::Set(name, value) => match command::set_sampling(&mut state.sampling, &name, &value) {
            Ok(()) => {
                state.own_sampling = true;
                state.say(format!("{name} is {value} from the next turn on"), now);
            }
            Err(reason) => state.complain(reason, now),
        },
        Slash::System(text) => {
            let words = if text.is_some() { "set" } else { "removed" };
            state.system = text;
            state.say(format!("standing instruction {words}"), now);
        }
        Slash::Think(wish) => {
            state.thinking = wish;
            let can = state.card.as_ref().is_none_or(|c| c.can_think);
            state.say(if can { "from the next turn on" } else { "this model's template knows no such switch" }, now);
        }
        Slash::Model(source) => {
            if state.replay.is_some() {
                return state.complain("this is a recorded trace; start the program again to open a model", now);
            }
            if state.turn.is_some() {
                chat::cancel(state, out);
            }
            state.source = Some(source.clone());
            state.engine = EngineState::Loading { stage: "opening".into(), done: 0, total: 0 };
            let command = Command::Open { source, options: state.load.clone() };
            out.push(Effect::Engine(EngineCommand(command)));
        }
        Slash::ListThemes => {
            let names = state.theme_names.join(", ");
            chat::note(state, format!("themes: {names}; now {}", state.theme.name), false);
        }
        Slash::Theme(name) => out.push(Effect::ReadTheme(name, state.theme.ascii)),
        Slash::Ascii(on) => out.push(Effect::ReadTheme(state.theme.name.clone(), on)),
        Slash::Tint(tint) => set_tint(state, tint, now),
        Slash::Quit => chat::quit(state, now, out),
    }
}

/// Tints the chat's tokens. The legend is at the chat's lower edge.
pub(super) fn set_tint(state: &mut State, tint: Tint, now: Moment) {
    state.inspector.tint = tint;
    let words = match tint {
        Tint::Off => "tokens are not tinted",
        Tint::Misses => "tokens are tinted by their misses",
        Tint::Time => "tokens are tinted by the time of their step",
        Tint::Entropy => "tokens are tinted by the entropy of their gates",
    };
    state.say(words, now);
}

fn copy(state: &mut State, what: Copied, now: Moment, out: &mut Vec<Effect>) {
    if what == Copied::All {
        return out.push(Effect::Copy(session::to_markdown(&state.saved_chat(now))));
    }
    let Some(answer) = state.transcript.last_answer() else {
        return state.say("there is no answer yet", now);
    };
    let Copied::Block(number) = what else {
        return out.push(Effect::Copy(answer.to_owned()));
    };
    let blocks = markdown::code_blocks(answer);
    match number.checked_sub(1).and_then(|i| blocks.get(i)) {
        Some((_, code)) => out.push(Effect::Copy(code.clone())),
        None => state.say(format!("the last answer has {} code blocks", blocks.len()), now),
    }
}

/// Takes the selected entry of the list that lies over the panes.
pub(super) fn pick(state: &mut State, now: Moment, out: &mut Vec<Effect>) {
    match state.overlay.take() {
        Some(Overlay::Palette(at)) => {
            let Some(command) = COMMANDS.get(at) else { return };
            let line = format!("/{}", command.name);
            if is_whole(&line) {
                if let Ok(slash) = command::parse(&line) {
                    run(state, slash, now, out);
                }
            } else {
                state.focus = crate::ui::state::Focus::Chat;
                state.composer.set(format!("{line} "));
            }
        }
        Some(Overlay::Chats(chats, at)) => match chats.get(at) {
            Some(chat) if chat.problem.is_none() => {
                chat::save(state, now, out);
                out.push(Effect::ReadChat(chat.id.clone()));
            }
            Some(chat) => {
                let reason = chat.problem.clone().unwrap_or_default();
                state.complain(format!("{} can't be read and is left alone: {reason}", chat.id), now);
                state.overlay = Some(Overlay::Chats(chats, at));
            }
            None => {}
        },
        Some(Overlay::Help(_)) | None => {}
    }
}
