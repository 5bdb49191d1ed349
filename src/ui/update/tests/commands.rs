//! Commands, and what they set.

use super::*;

#[test]
fn sampling_follows_the_model_until_the_person_sets_it() {
    let mut s = Script::ready();
    assert_eq!(s.state.sampling.temperature, 0.5);
    s.say("/set temperature 0.9");
    s.engine(Event::Ready { card: Box::new(card()) });
    assert_eq!(s.state.sampling.temperature, 0.9);
    let effects = s.say("hi");
    let sent = effects
        .iter()
        .any(|e| matches!(e, Effect::Engine(EngineCommand(Command::Generate { sampling, .. })) if sampling.temperature == 0.9));
    assert!(sent);
}

#[test]
fn commands_complete_with_tab_and_run_with_enter() {
    let mut s = Script::ready();
    s.type_text("/sl");
    assert!(s.state.popup.is_some());
    s.press(KeyCode::Tab);
    assert_eq!(s.state.composer.text(), "/slots ");
    assert_eq!(s.say("6"), [Effect::WantSlots(6)]);
    s.type_text("/qu");
    assert_eq!(s.press(KeyCode::Enter).last(), Some(&Effect::Quit(0)));
}

#[test]
fn a_wrong_command_is_explained_and_stays_in_the_input() {
    let mut s = Script::ready();
    s.say("/slots many");
    assert!(s.notice().contains("not a number"));
    assert_eq!(s.state.composer.text(), "/slots many");
}

#[test]
fn copying_a_block_that_is_not_there_says_how_many_there_are() {
    let mut s = Script::ready();
    s.say("code?");
    s.answer("```sh\nls\n```\n");
    s.finish(FinishReason::Stop);
    assert_eq!(s.say("/copy 1"), [Effect::Copy("ls\n".into())]);
    s.say("/copy 2");
    assert!(s.notice().contains("1 code blocks"));
}

#[test]
fn the_effort_goes_with_every_prompt_and_into_the_chats_file() {
    let mut s = Script::ready();
    assert!(s.say("/effort high").is_empty());
    assert!(s.notice().contains("knows no effort"), "the model at hand has none: {}", s.notice());
    let sent = s.say("hello");
    let asked = sent.iter().find_map(|e| match e {
        Effect::Engine(EngineCommand(Command::Generate { reasoning, .. })) => Some(*reasoning),
        _ => None,
    });
    assert_eq!(asked, Some(Reasoning { on: None, effort: Some(Effort::High) }));
    let saved = s.state.saved_chat(s.now);
    let file = serde_json::to_string(&saved).unwrap();
    assert!(file.contains("\"effort\":\"high\""), "{file}");
    assert_eq!(serde_json::from_str::<SavedChat>(&file).unwrap(), saved);
    s.say("/effort auto");
    assert!(!serde_json::to_string(&s.state.saved_chat(s.now)).unwrap().contains("effort"), "as before there was one");
}

#[test]
fn a_model_that_always_reasons_says_what_think_off_means() {
    let mut s = Script::ready();
    let mut card = card();
    (card.can_think, card.has_effort) = (false, true);
    s.engine(Event::Ready { card: Box::new(card) });
    s.say("/think off");
    assert!(s.notice().contains("low effort"), "{}", s.notice());
    s.say("/effort low");
    assert!(s.notice().contains("next turn"), "{}", s.notice());
}

#[test]
fn a_file_is_looked_at_before_the_open_model_is_let_go() {
    let mut s = Script::ready();
    s.say("go");
    let typo = crate::events::ModelSource::Path("/typo.gguf".into());
    assert_eq!(s.say("/model /typo.gguf"), [Effect::Look(typo.clone())]);
    assert!(s.send(Message::Looked(typo.clone(), Err("/typo.gguf: no such file".into()))).is_empty());
    assert!(s.state.turn.is_some() && s.state.engine == EngineState::Ready && s.state.source.is_none(), "it goes on");
    let said = &s.state.transcript.items().last().unwrap().text;
    assert!(said.contains("no such file") && said.contains("Tiny stays open"), "{said}");
    s.answer("still here");
    s.finish(FinishReason::Stop);
    let effects = s.send(Message::Looked(typo, Ok(())));
    assert!(matches!(effects[..], [Effect::Engine(EngineCommand(Command::Open { .. }))]));
}

#[test]
fn policy_and_standing_instruction_are_told_when_asked_for() {
    let mut s = Script::ready();
    let last = |s: &Script| s.state.transcript.items().last().map(|i| i.text.clone()).unwrap_or_default();
    let told = crate::events::Scheduling { policy: "lfu".into(), ..Default::default() };
    s.engine(Event::Scheduling(told));
    s.say("/policy");
    assert!(last(&s).contains("policy lfu"), "{}", last(&s));
    s.say("/system be brief");
    s.say("/system");
    assert!(last(&s).contains("be brief") && s.state.system.is_some(), "{}", last(&s));
    s.say("/system off");
    s.say("/system");
    assert!(last(&s).contains("no standing instruction") && s.state.system.is_none());
}
