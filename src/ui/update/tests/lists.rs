//! What lies over the panes: lists that typing makes shorter, and the help.

use super::*;

#[test]
fn help_opens_on_an_empty_input_and_a_question_mark_can_be_typed() {
    let mut s = Script::ready();
    s.press(KeyCode::Char('?'));
    assert!(matches!(s.state.overlay, Some(Overlay::Help(_))));
    s.press(KeyCode::Esc);
    s.type_text("why?");
    assert_eq!(s.state.composer.text(), "why?");
    assert!(s.state.overlay.is_none());
}

#[test]
fn lists_become_shorter_by_typing() {
    let mut s = Script::ready();
    s.ctrl('p');
    s.type_text("colours q");
    assert_eq!(s.state.overlay.as_ref().map(crate::ui::overlay::count), Some(0));
    s.press(KeyCode::Backspace);
    s.press(KeyCode::Backspace);
    s.press(KeyCode::Enter);
    assert!(s.state.overlay.is_none() && s.state.transcript.items().last().unwrap().text.starts_with("themes:"));
    let listed = |id: &str, problem: Option<&str>| Listed {
        id: id.into(),
        title: format!("about {id}"),
        updated: String::new(),
        messages: 2,
        problem: problem.map(Into::into),
    };
    s.send(Message::Chats(vec![listed("foxes", None), listed("cats", None), listed("dogs", Some("cut off"))], true));
    s.type_text("cat");
    assert_eq!(s.press(KeyCode::Enter), [Effect::ReadChat("cats".into())]);
    s.send(Message::Chats(vec![listed("dogs", Some("cut off"))], true));
    assert!(s.press(KeyCode::Enter).is_empty());
    assert!(s.notice().contains("dogs") && s.state.overlay.is_some(), "the list stays, and says why");
}

#[test]
fn the_help_scrolls_by_pages_of_what_is_seen_and_no_further_than_its_end() {
    let mut s = Script::ready();
    s.press(KeyCode::F(1));
    let at = |s: &Script| if let Some(Overlay::Help(help)) = &s.state.overlay { help.at } else { panic!("no help") };
    s.press(KeyCode::PageDown);
    assert_eq!(at(&s), 20, "twenty-one rows are seen at 80x24, one of them again");
    s.press(KeyCode::End);
    let end = at(&s);
    s.press(KeyCode::Down);
    assert_eq!(at(&s), end);
    s.press(KeyCode::Up);
    assert_eq!(at(&s), end - 1, "the first press back is seen");
}

#[test]
fn a_stroke_looks_in_the_help_where_letters_scroll_otherwise_and_escape_shows_all_before_it_closes() {
    let mut s = Script::ready();
    s.press(KeyCode::Char('?'));
    let help = |s: &Script| if let Some(Overlay::Help(help)) = &s.state.overlay { help.clone() } else { panic!("no help") };
    s.type_text("jj");
    assert_eq!((help(&s).at, help(&s).query), (2, None));
    s.type_text("/q j");
    assert_eq!((help(&s).at, help(&s).query.as_deref()), (0, Some("q j")), "letters are looked for now");
    s.press(KeyCode::Backspace);
    assert_eq!(help(&s).query.as_deref(), Some("q "));
    s.press(KeyCode::Esc);
    assert_eq!(help(&s), crate::ui::overlay::Help::default());
    s.press(KeyCode::Esc);
    assert!(s.state.overlay.is_none() && s.state.composer.is_empty());
}
