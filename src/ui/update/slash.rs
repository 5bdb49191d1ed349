//! Carrying out slash commands, and picking from lists.

use super::{chat, knob, tempo};
use crate::events::{Command, ModelSource, When};
use crate::trace::scheduling;
use crate::ui::command::{self, Copied, Slash};
use crate::ui::keys::{Takes, COMMANDS};
use crate::ui::markdown;
use crate::ui::message::{Effect, EngineCommand, Moment};
use crate::ui::overlay;
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

/// A recording has no use for these: there is nobody who would answer.
fn needs_a_model(slash: &Slash) -> bool {
    use Slash::{Edit, Model, New, Record, Regenerate, Resume, Set, System, Think};
    matches!(slash, New | Resume | Regenerate | Edit | Record(_) | Set(..) | System(_) | Think(_) | Model(_))
}

/// Opens a model in place of the one at hand.
pub(super) fn open_model(state: &mut State, source: ModelSource, out: &mut Vec<Effect>) {
    if state.turn.is_some() {
        chat::cancel(state, out);
    }
    state.source = Some(source.clone());
    state.scheduling = None;
    state.engine = EngineState::Loading { stage: "opening".into(), done: 0, total: 0 };
    let command = Command::Open { source, options: state.load.clone() };
    out.push(Effect::Engine(EngineCommand(command)));
}

/// What was to be opened is no model: everything stays as it is.
pub(super) fn stay(state: &mut State, reason: &str) {
    let stays = match &state.card {
        Some(card) => format!("; {} stays open", crate::ui::sanitize::one_line(&card.name, 40)),
        None => String::new(),
    };
    chat::note(state, format!("{reason}{stays}"), true);
}

/// `/draft`: from the next step on, and for models that are opened from now on.
fn draft(state: &mut State, when: When, now: Moment, out: &mut Vec<Effect>) {
    if state.replay.is_some() {
        return state.complain("a recorded trace is played as it was", now);
    }
    state.load.draft = when;
    let words = match when {
        When::Auto => "likely tokens are read along where it pays",
        When::Always => "likely tokens are read along whenever there are any",
        When::Never => "one token at a time; a model that is opened from now on is without its block for guesses",
    };
    state.say(words, now);
    out.push(Effect::WantDrafts(when));
}

/// Carries out a command.
pub(super) fn run(state: &mut State, slash: Slash, now: Moment, out: &mut Vec<Effect>) {
    if needs_a_model(&slash) && chat::is_only_watched(state, now) {
        return;
    }
    match slash {
        Slash::Help => state.overlay = Some(Overlay::Help(overlay::Help::default())),
        Slash::New => chat::new_chat(state, now, out),
        Slash::Resume => out.push(Effect::ListChats(true)),
        Slash::Regenerate => chat::regenerate(state, now, out),
        Slash::Edit => chat::edit_previous(state, now),
        Slash::Copy(what) => copy(state, what, now, out),
        Slash::Save(path) => {
            let text = session::to_markdown(&state.saved_chat(now));
            out.push(Effect::Export(path, text));
        }
        Slash::Slots(count) => knob::ask_for(state, count, now, out),
        Slash::SlotsSpread(on) => knob::spread(state, on, now, out),
        Slash::SlotsAuto(Some(target)) => knob::begin_auto(state, target, now, out),
        Slash::SlotsAuto(None) => knob::end_auto(state, now),
        Slash::SlotsPlain => knob::plain(state, now, out),
        Slash::Record(path) => out.push(Effect::Record(path)),
        Slash::ShowPace => {
            let words = tempo::words(state);
            chat::note(state, words, false);
        }
        Slash::Pace(rate) => tempo::choose(state, rate, now, out),
        Slash::Draft(when) => draft(state, when, now, out),
        Slash::ShowPolicy => {
            let words = policy_words(state);
            chat::note(state, words, false);
        }
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
        Slash::ShowSystem => {
            let words = match &state.system {
                Some(text) => format!("standing instruction (/system off removes it): {text}"),
                None => "there is no standing instruction; /system TEXT sets one".to_owned(),
            };
            chat::note(state, words, false);
        }
        Slash::System(text) => {
            let words = if text.is_some() { "set" } else { "removed" };
            state.system = text;
            state.say(format!("standing instruction {words}"), now);
        }
        Slash::Think(wish) => {
            state.reasoning.on = wish;
            let words = match &state.card {
                Some(card) if !card.can_think && card.has_effort && wish == Some(false) => {
                    "this model always reasons, from the next turn on with low effort (/effort)"
                }
                Some(card) if !card.can_think => "this model's template knows no such switch",
                _ => "from the next turn on",
            };
            state.say(words, now);
        }
        Slash::Effort(wish) => {
            state.reasoning.effort = wish;
            let can = state.card.as_ref().is_none_or(|c| c.has_effort);
            state.say(if can { "from the next turn on" } else { "this model's template knows no effort" }, now);
        }
        Slash::Model(ModelSource::Demo) => open_model(state, ModelSource::Demo, out),
        // A typing error must not cost the model that is open.
        Slash::Model(source) => out.push(Effect::Look(source)),
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

/// The policy in force, and how it admits.
fn policy_words(state: &State) -> String {
    let simulated = state.replay.as_ref().and_then(|player| player.simulated);
    match (simulated, &state.scheduling) {
        (Some((policy, slots)), _) => format!("policy {policy} with {slots} slots per layer, simulated"),
        (None, Some(told)) => format!("policy {}", scheduling::words(told)),
        (None, None) => "which policy decides is not known".to_owned(),
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
    let Some(at) = state.overlay.as_ref().and_then(overlay::selected) else { return };
    match &state.overlay {
        Some(Overlay::Palette(_)) => {
            state.overlay = None;
            let command = match overlay::doable(at) {
                Some(overlay::Doable::Command(command)) => command,
                Some(overlay::Doable::Key(action)) => return super::act(state, action, now, out),
                None => return,
            };
            let line = format!("/{}", command.name);
            if is_whole(&line) {
                if let Ok(slash) = command::parse(&line) {
                    run(state, slash, now, out);
                }
            } else {
                state.focus = crate::ui::state::Focus::Chat;
                let draft = state.composer.text().to_owned();
                state.composer.remember(&draft);
                state.composer.set(format!("{line} "));
            }
        }
        Some(Overlay::Chats(chats, _)) => match chats.get(at).map(|c| (c.id.clone(), c.problem.clone())) {
            Some((id, None)) => {
                state.overlay = None;
                chat::save(state, now, out);
                out.push(Effect::ReadChat(id));
            }
            // The list itself says why.
            Some((id, Some(_))) => state.complain(format!("{id} can't be read and is left alone"), now),
            None => {}
        },
        Some(Overlay::Help(_)) | None => {}
    }
}
