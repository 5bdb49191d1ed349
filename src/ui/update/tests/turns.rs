//! What becomes of what is asked: turns that are saved, fail, wait, are cancelled or asked again.

use super::*;

#[test]
fn a_turn_is_saved_before_it_is_asked_and_when_it_ends() {
    let mut s = Script::ready();
    let effects = s.say("hello");
    assert_eq!(saved(&effects).unwrap().messages.len(), 1);
    assert_eq!(asked(&effects).unwrap(), ["hello"]);
    assert!(matches!(effects[0], Effect::Save(..)), "saved first");
    s.answer("hi ");
    s.answer("there");
    let effects = s.finish(FinishReason::Stop);
    let chat = saved(&effects).unwrap();
    assert_eq!(chat.messages[1].content, "hi there");
    assert!(!chat.messages[1].unfinished);
    assert_eq!(asked(&s.say("again")).unwrap(), ["hello", "hi there", "again"]);
}

/// The running turn fails as a prompt does that is longer than the context.
fn overflow(s: &mut Script) -> Vec<Effect> {
    let id = s.state.turn.as_ref().map(|t| t.id);
    let mut effects = s.engine(Event::Failed { id, message: "too long".into(), kind: FailureKind::Context });
    effects.extend(s.engine(Event::Finished { id: id.unwrap(), reason: FinishReason::Failed, stats: TurnStats::default() }));
    effects
}

fn last_note(s: &Script) -> &str {
    s.state.transcript.items().iter().rfind(|i| matches!(i.kind, Kind::Note { .. })).map_or("", |i| &i.text)
}

fn said(s: &Script) -> Vec<&str> {
    s.state.transcript.items().iter().filter(|i| !matches!(i.kind, Kind::Note { .. })).map(|i| i.text.as_str()).collect()
}

#[test]
fn a_message_that_fails_unanswered_goes_back_into_the_input_and_spoils_no_other() {
    let mut s = Script::ready();
    s.say("hello");
    s.answer("hi");
    s.finish(FinishReason::Stop);
    s.say("far too long");
    let effects = overflow(&mut s);
    assert_eq!(s.state.composer.text(), "far too long");
    assert_eq!(said(&s), ["hello", "hi"]);
    assert_eq!(saved(&effects).unwrap().messages.len(), 2, "nor is it in the file");
    let note = last_note(&s);
    for part in ["too long. ", "back in the input", "/new", "Esc Esc"] {
        assert!(note.contains(part), "{note}");
    }
    s.state.composer.clear();
    assert_eq!(asked(&s.say("short")).unwrap(), ["hello", "hi", "short"]);
}

#[test]
fn what_was_typed_meanwhile_stays_and_the_failed_message_is_in_the_history() {
    let mut s = Script::ready();
    s.say("first");
    s.type_text("draft");
    let chat = s.state.chat_id.clone();
    let effects = overflow(&mut s);
    assert_eq!(s.state.composer.text(), "draft");
    assert!(last_note(&s).contains("Up brings the message back") && !last_note(&s).contains("Esc Esc"), "{}", last_note(&s));
    assert!(effects.contains(&Effect::Forget(chat)), "a chat without a word is no file: {effects:?}");
    s.press(KeyCode::Up);
    assert_eq!(s.state.composer.text(), "first");
    s.press(KeyCode::Down);
    assert_eq!(s.state.composer.text(), "draft");
}

#[test]
fn an_edit_or_a_second_answer_that_fails_leaves_the_chat_as_it_was() {
    let mut s = Script::ready();
    for text in ["one", "two"] {
        s.say(text);
        s.answer("yes");
        s.finish(FinishReason::Stop);
    }
    let chat = s.state.chat_id.clone();
    s.press(KeyCode::Esc);
    s.press(KeyCode::Esc);
    assert_eq!(s.state.composer.text(), "two");
    s.type_text(" and more");
    s.press(KeyCode::Enter);
    overflow(&mut s);
    assert_eq!((said(&s), s.state.composer.text()), (vec!["one", "yes", "two", "yes"], "two and more"));
    assert_eq!((s.state.chat_id.as_str(), s.state.editing), (chat.as_str(), Some(2)), "still the edit of that chat");
    s.ctrl('c');
    s.ctrl('y');
    assert_eq!(said(&s), ["one", "yes", "two", ""]);
    overflow(&mut s);
    assert_eq!((said(&s), s.state.composer.text()), (vec!["one", "yes", "two", "yes"], ""));
    // An answer that broke off is not taken back.
    s.say("three");
    s.answer("so f");
    overflow(&mut s);
    assert_eq!(said(&s)[4..], ["three", "so f"]);
    assert_eq!(last_note(&s), "too long");
}

#[test]
fn a_prompt_without_an_answer_that_fails_again_goes_into_the_input() {
    let mut s = Script::ready();
    s.say("one");
    s.finish(FinishReason::Cancelled);
    s.ctrl('y');
    overflow(&mut s);
    assert_eq!((said(&s), s.state.composer.text()), (vec![], "one"));
}

#[test]
fn late_text_of_a_cancelled_turn_is_told_apart() {
    let mut s = Script::ready();
    s.say("one");
    let old = s.state.turn.as_ref().unwrap().id;
    s.answer("first");
    assert_eq!(s.press(KeyCode::Esc), [Effect::Cancel]);
    s.finish(FinishReason::Cancelled);
    s.say("two");
    s.engine(Event::Text { id: old, text: "late".into(), kind: TextKind::Answer, step: 9 });
    s.answer("second");
    assert_eq!(s.state.transcript.last_answer(), Some("second"));
}

#[test]
fn thinking_folds_when_the_answer_begins_and_keeps_its_time() {
    let mut s = Script::ready();
    s.say("why?");
    let id = s.state.turn.as_ref().unwrap().id;
    s.engine(Event::Text { id, text: "hmm".into(), kind: TextKind::Thinking, step: 0 });
    s.wait(500);
    s.engine(Event::Text { id, text: " so".into(), kind: TextKind::Thinking, step: 3 });
    let thought = |s: &Script| match &s.state.transcript.items()[1].kind {
        Kind::Assistant { thinking: Some(t), .. } => (t.done, t.open, t.tokens, t.took.map(|d| d.as_millis())),
        _ => panic!("no thoughts"),
    };
    assert_eq!(thought(&s), (false, true, Some(4), Some(500)), "while it runs, time and tokens so far");
    s.wait(1500);
    s.answer("because");
    assert_eq!(thought(&s), (true, false, Some(4), Some(2000)));
    let stats = TurnStats { thinking_tokens: 5, ..TurnStats::default() };
    s.engine(Event::Finished { id, reason: FinishReason::Stop, stats });
    assert_eq!(thought(&s), (true, false, Some(5), Some(2000)), "the end brings the exact count");
    s.wait(1500);
    let saved = s.state.saved_chat(s.now);
    assert_eq!((saved.messages[1].thinking_ms, saved.messages[1].thinking_tokens), (Some(2000), Some(5)), "and the file keeps both");
}

#[test]
fn a_turn_cancelled_while_thinking_folds_what_was_thought() {
    let mut s = Script::ready();
    s.say("why?");
    let id = s.state.turn.as_ref().unwrap().id;
    s.engine(Event::Text { id, text: "hmm".into(), kind: TextKind::Thinking, step: 0 });
    s.press(KeyCode::Esc);
    s.finish(FinishReason::Cancelled);
    let Kind::Assistant { thinking: Some(t), .. } = &s.state.transcript.items()[1].kind else { panic!() };
    assert_eq!((t.done, t.open, t.tokens), (true, false, Some(1)));
    s.ctrl('t');
    let Kind::Assistant { thinking: Some(t), .. } = &s.state.transcript.items()[1].kind else { panic!() };
    assert!(t.open, "Ctrl-T opens it again");
}

#[test]
fn a_prompt_waits_for_the_model_and_can_be_taken_back() {
    let mut s = Script::new(80, 24);
    s.engine(Event::Loading { stage: "reading".into(), done: 1, total: 2 });
    assert_eq!(asked(&s.say("early")), None);
    assert!(s.state.waiting);
    s.press(KeyCode::Esc);
    assert_eq!(s.state.composer.text(), "early");
    s.press(KeyCode::Enter);
    let effects = s.engine(Event::Ready { card: Box::new(card()) });
    assert_eq!(asked(&effects).unwrap(), ["early"]);
}

#[test]
fn a_model_that_fails_to_open_is_said_and_another_can_be_tried() {
    let mut s = Script::new(80, 24);
    s.engine(Event::LoadFailed { message: "x.gguf: bad magic".into(), kind: FailureKind::File });
    assert_eq!(s.state.engine, EngineState::Failed);
    assert!(s.state.transcript.items()[0].text.contains("bad magic"));
    s.say("hello?");
    assert!(s.notice().contains("/model"));
    s.state.composer.clear();
    let effects = s.say("/model demo");
    assert!(matches!(effects[..], [Effect::Engine(EngineCommand(Command::Open { .. }))]));
}

#[test]
fn an_engine_that_dies_ends_the_turn_and_keeps_the_chat() {
    let mut s = Script::ready();
    s.say("hello");
    s.answer("hal");
    let effects = s.send(Message::EngineGone);
    assert!(saved(&effects).unwrap().messages[1].unfinished);
    assert!(s.state.turn.is_none());
    assert_eq!(s.state.engine, EngineState::Gone);
}

#[test]
fn escape_twice_edits_the_previous_prompt_in_a_new_file() {
    let mut s = Script::ready();
    s.say("first");
    s.answer("a");
    s.finish(FinishReason::Stop);
    s.say("second");
    s.answer("b");
    s.finish(FinishReason::Stop);
    let before = s.state.chat_id.clone();
    s.press(KeyCode::Esc);
    s.press(KeyCode::Esc);
    assert_eq!(s.state.composer.text(), "second");
    s.press(KeyCode::Esc);
    s.press(KeyCode::Esc);
    assert_eq!(s.state.composer.text(), "first");
    s.now.wall += Duration::from_secs(1);
    let effects = s.say(", changed");
    assert_eq!(asked(&effects).unwrap(), ["first, changed"]);
    assert_ne!(s.state.chat_id, before);
}

#[test]
fn regenerating_asks_the_same_prompt_again() {
    let mut s = Script::ready();
    s.say("roll");
    s.answer("one");
    s.finish(FinishReason::Stop);
    assert_eq!(asked(&s.ctrl('y')).unwrap(), ["roll"]);
    s.answer("two");
    s.finish(FinishReason::Stop);
    assert_eq!(s.state.messages().len(), 2);
}

#[test]
fn a_draft_comes_back_when_an_earlier_prompt_was_edited() {
    let mut s = Script::ready();
    s.say("first");
    s.answer("a");
    s.finish(FinishReason::Stop);
    let edit = |s: &mut Script| {
        s.press(KeyCode::Esc);
        s.press(KeyCode::Esc);
        assert_eq!((s.state.composer.text(), s.state.editing), ("first", Some(0)));
    };
    s.type_text("my precious draft");
    edit(&mut s);
    s.ctrl('c');
    assert_eq!((s.state.composer.text(), s.state.editing), ("my precious draft", None), "Ctrl-C");
    edit(&mut s);
    (0..5).for_each(|_| drop(s.press(KeyCode::Backspace)));
    s.press(KeyCode::Esc);
    assert_eq!((s.state.composer.text(), s.state.editing), ("my precious draft", None), "Esc on an empty input");
    edit(&mut s);
    s.type_text(" changed");
    s.ctrl('c');
    s.press(KeyCode::Up);
    assert_eq!(s.state.composer.text(), "first changed", "what was changed is in the history");
    s.press(KeyCode::Down);
    edit(&mut s);
    assert_eq!(asked(&s.press(KeyCode::Enter)).unwrap(), ["first"]);
    assert_eq!(s.state.composer.text(), "my precious draft", "sent");
}

#[test]
fn a_draft_that_a_command_or_a_search_replaces_is_in_the_history() {
    let mut s = Script::ready();
    s.type_text("my draft");
    s.ctrl('p');
    s.type_text("another model");
    s.press(KeyCode::Enter);
    assert_eq!(s.state.composer.text(), "/model ");
    s.ctrl('c');
    s.press(KeyCode::Up);
    s.press(KeyCode::Up);
    assert_eq!(s.state.composer.text(), "my draft");
    s.ctrl('c');
    s.type_text("second");
    s.ctrl('r');
    s.type_text("my");
    s.press(KeyCode::Enter);
    assert_eq!(s.state.composer.text(), "my draft");
    s.press(KeyCode::Up);
    assert_eq!(s.state.composer.text(), "second");
}
