//! Answers that come at a pace, are held, and are let through token by token.

use super::*;
use crate::engine::Pace;

/// A model is open, and something is being answered; the heatmap has the keys.
fn answering() -> Script {
    let mut s = Script::ready();
    s.say("go");
    s.press(KeyCode::Tab);
    s
}

#[test]
fn an_answer_is_held_and_let_through_from_a_pane_and_while_typing() {
    let mut s = answering();
    assert_eq!(s.press(KeyCode::Char(' ')), [Effect::WantPace(Pace::Held)]);
    assert_eq!(s.press(KeyCode::Char('.')), [Effect::LetOne]);
    assert_eq!(s.alt('n'), [Effect::LetOne]);
    assert_eq!(s.alt('p'), [Effect::WantPace(Pace::PerSecond(crate::ui::tempo::TOY_PACE))], "the toy has a pace");
    assert_eq!(s.press(KeyCode::Char('.')), [Effect::WantPace(Pace::Held)], "what runs is held first");
    assert_eq!(s.press(KeyCode::Char('+')), [Effect::WantSlots(5)], "slots are turned meanwhile");
}

#[test]
fn the_end_of_an_answer_lets_the_next_one_go() {
    let mut s = answering();
    s.press(KeyCode::Char(' '));
    let effects = s.finish(FinishReason::Cancelled);
    assert!(effects.contains(&Effect::WantPace(Pace::PerSecond(20.0))) && !s.state.tempo.held, "{effects:?}");
    assert!(s.press(KeyCode::Char(' ')).is_empty());
    assert!(s.notice().contains("nothing is being answered"), "{}", s.notice());
}

#[test]
fn a_pace_is_chosen_told_and_given_to_each_model() {
    let mut s = Script::ready();
    assert_eq!(s.say("/pace 2.5"), [Effect::WantPace(Pace::PerSecond(2.5))]);
    assert_eq!(s.say("/pace off"), [Effect::WantPace(Pace::Free)]);
    let effects = s.engine(Event::Ready { card: Box::new(card()) });
    assert!(effects.contains(&Effect::WantPace(Pace::Free)), "what was chosen holds for the toy, too: {effects:?}");
    s.say("/pace");
    assert!(s.state.transcript.items().last().unwrap().text.contains("as fast as they can"));
    assert!(s.say("/pace warp").is_empty() && s.notice().contains("/pace [N | off]"), "{}", s.notice());
}
