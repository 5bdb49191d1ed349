//! Chats in their files: taken up, written, and shared by several windows.

use super::*;

#[test]
fn a_saved_chat_is_taken_up_and_a_broken_one_is_named_and_left() {
    let mut s = Script::ready();
    let chat = SavedChat {
        format: 1,
        created: "then".into(),
        updated: "later".into(),
        model: "Tiny".into(),
        system: Some("be brief".into()),
        sampling: Sampling::default(),
        thinking: None,
        effort: None,
        messages: vec![
            SavedMessage {
                role: crate::events::Role::User,
                content: "old".into(),
                thinking: None,
                thinking_ms: None,
                thinking_tokens: None,
                unfinished: false,
            },
            SavedMessage {
                role: crate::events::Role::Assistant,
                content: "reply".into(),
                thinking: Some("so".into()),
                thinking_ms: Some(2500),
                thinking_tokens: Some(9),
                unfinished: false,
            },
        ],
    };
    let listed = |id: &str, problem: Option<&str>| Listed {
        id: id.into(),
        title: id.into(),
        updated: String::new(),
        messages: 0,
        problem: problem.map(Into::into),
    };
    let list = vec![listed("bad", Some("cut off at line 3")), listed("good", None)];
    assert_eq!(s.send(Message::Chats(list, false)), [Effect::ReadChat("good".into())]);
    assert!(s.state.transcript.items()[0].text.contains("line 3"));
    s.send(Message::ChatRead("good".into(), Ok(Box::new(chat))));
    assert_eq!(s.state.chat_id, "good");
    assert_eq!(asked(&s.say("new")).unwrap(), ["be brief", "old", "reply", "new"]);
}

#[test]
fn a_chat_that_cannot_be_saved_is_said_once_and_shown_until_it_can() {
    let mut s = Script::ready();
    s.send(Message::Saved(s.state.chat_id.clone(), Err("disk full".into())));
    assert!(s.notice().contains("disk full"));
    assert!(s.state.unsaved.is_some());
    let id = s.state.chat_id.clone();
    s.send(Message::Saved(id.clone(), Ok(id)));
    assert!(s.state.unsaved.is_none());
}

#[test]
fn who_only_looks_at_a_chat_writes_nothing() {
    let mut s = Script::ready();
    s.say("hello");
    s.answer("hi");
    s.finish(FinishReason::Stop);
    let id = s.state.chat_id.clone();
    let chat = s.state.saved_chat(s.now);
    let mut other = Script::ready();
    other.send(Message::ChatRead(id.clone(), Ok(Box::new(chat))));
    assert_eq!(other.say("/quit"), [Effect::Quit(0)]);
    assert!(saved(&other.say("/new")).is_none());
    assert_eq!(s.say("/quit"), [Effect::Quit(0)], "all of it is on the disk");
    // What could not be written is given to the disk again.
    s.send(Message::Saved(id, Err("disk full".into())));
    assert!(saved(&s.say("/quit")).is_some());
}

#[test]
fn a_chat_that_another_window_went_on_with_goes_on_under_its_own_name() {
    let mut s = Script::ready();
    s.say("hello");
    let id = s.state.chat_id.clone();
    s.send(Message::Saved(id.clone(), Ok(id.clone())));
    assert_eq!((s.state.chat_id.as_str(), s.state.transcript.items().len()), (id.as_str(), 2));
    s.send(Message::Saved(id, Ok("other".into())));
    assert_eq!(s.state.chat_id, "other");
    assert!(s.state.transcript.items().iter().any(|i| i.text.contains("another window")));
    s.send(Message::Saved("older".into(), Ok("elsewhere".into())));
    assert_eq!(s.state.chat_id, "other", "an answer about another chat");
}
