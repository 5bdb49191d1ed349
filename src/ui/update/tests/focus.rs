//! Which pane has the keys, and how much of the screen.

use super::*;
use crate::ui::state::Focus;

#[test]
fn letters_that_mean_nothing_in_a_pane_go_to_the_input() {
    let mut s = Script::ready();
    s.press(KeyCode::Tab);
    s.press(KeyCode::Char('w'));
    assert_eq!((s.state.focus, s.state.composer.text()), (Focus::Chat, "w"));
    s.press(KeyCode::Tab);
    s.press(KeyCode::Char('i'));
    assert_eq!((s.state.focus, s.state.composer.text()), (Focus::Chat, "w"), "i goes back and is not typed");
}

#[test]
fn a_command_that_can_not_be_completed_keeps_the_keys() {
    let mut s = Script::ready();
    s.type_text("/model ");
    s.press(KeyCode::Tab);
    assert_eq!((s.state.focus, s.state.composer.text()), (Focus::Chat, "/model "));
    assert!(s.notice().contains("nothing to complete"));
}

#[test]
fn the_pane_with_the_keys_gets_the_whole_screen_and_gives_it_back() {
    let mut s = Script::ready();
    s.press(KeyCode::Tab);
    s.press(KeyCode::Char('z'));
    let areas = s.state.areas();
    assert_eq!((areas.heatmap.width, areas.heatmap.height, areas.alone), (80, 23, true));
    s.press(KeyCode::Tab);
    assert_eq!(s.state.areas().memory.height, 23, "the next pane has it then");
    s.press(KeyCode::Esc);
    assert!(!s.state.whole && s.state.focus == Focus::Memory, "first the size, then the keys");
    s.press(KeyCode::Esc);
    assert_eq!(s.state.focus, Focus::Chat);
    s.alt('z');
    let areas = s.state.areas();
    assert!(areas.chat.frame.height == 23 && areas.heatmap.is_empty() && !areas.alone);
}

#[test]
fn everything_that_keys_do_is_in_the_list_of_what_can_be_done() {
    let mut s = Script::ready();
    s.ctrl('p');
    s.type_text("whole screen");
    s.press(KeyCode::Enter);
    assert!(s.state.whole && s.state.overlay.is_none());
}

#[test]
fn a_line_is_deleted_to_its_start_and_an_empty_one_scrolls() {
    let mut s = Script::ready();
    s.type_text("one two");
    s.press(KeyCode::Left);
    s.ctrl('u');
    assert_eq!(s.state.composer.text(), "o");
    s.press(KeyCode::Backspace);
    s.press(KeyCode::Delete);
    for _ in 0..40 {
        s.send(Message::Engine(Event::Notice { message: "a line".into() }));
    }
    assert!(s.state.transcript.at_end());
    s.ctrl('u');
    assert!(!s.state.transcript.at_end(), "half a page up");
}

#[test]
fn commands_that_take_nothing_don_t_run_with_something() {
    let mut s = Script::ready();
    s.say("hello");
    s.answer("yes");
    s.finish(FinishReason::Stop);
    assert!(s.say("/new chat").is_empty());
    assert!(s.notice().contains("/new stands alone") && s.state.transcript.items().len() == 2, "{}", s.notice());
}
