//! The slot knob: by hand, by itself, and what it says.

use super::*;

#[test]
fn slots_are_turned_from_the_panes_and_while_typing_within_the_plan() {
    let mut s = Script::ready();
    assert_eq!(s.alt('+'), [Effect::WantSlots(5)]);
    s.type_text("+-");
    assert_eq!(s.state.composer.text(), "+-", "in the chat these are characters");
    s.press(KeyCode::Tab);
    assert_eq!(s.press(KeyCode::Char('+')), [Effect::WantSlots(6)]);
    assert_eq!(s.press(KeyCode::Char(']')), [Effect::WantSlots(8)]);
    assert!(s.press(KeyCode::Char('+')).is_empty());
    assert!(s.notice().contains("from 2 to 8"));
    s.engine(Event::Slots { asked: 8, granted: 7, why: Some("no room".into()) });
    assert_eq!((s.state.slots.asked, s.state.slots.granted), (7, 7));
    assert!(s.notice().contains("no room"));
    assert_eq!(s.press(KeyCode::Char('[')), [Effect::WantSlots(2)]);
}

#[test]
fn slots_that_differ_by_layer_can_be_made_equal_again() {
    let mut s = Script::ready();
    assert_eq!(s.say("/slots spread"), [Effect::WantSpread(true)]);
    s.engine(Event::Spread { slots: vec![3, 5], why: None });
    assert_eq!(s.say("/slots off"), [Effect::WantSpread(false)]);
    assert_eq!(s.say("/slots equal"), [Effect::WantSpread(false)]);
    s.engine(Event::Spread { slots: Vec::new(), why: None });
    s.say("/slots spread");
    assert_eq!(s.say("/slots off"), [Effect::WantSpread(false)], "also before there was enough to tell layers apart");
    assert!(s.say("/slots off").is_empty() && s.notice().contains("not automatic"));
}

#[test]
fn a_recording_is_begun_and_ended_by_command() {
    let mut s = Script::ready();
    assert_eq!(s.say("/record a b.rotary"), [Effect::Record(Some("a b.rotary".into()))]);
    assert_eq!(s.say("/record off"), [Effect::Record(None)]);
}

/// Tokens of a model that fits [`card`], folded.
fn talk(s: &mut Script, stream: &mut Stream, tokens: usize) -> Vec<Effect> {
    for _ in 0..tokens {
        s.send(Message::Step(Box::new(stream.token())));
    }
    s.send(Message::Fold)
}

#[test]
fn automatic_slots_hold_a_budget_at_once_and_end_with_the_first_turn_by_hand() {
    let mut s = Script::ready();
    assert_eq!(s.say("/slots auto 12 KiB"), [Effect::WantSlots(6)]);
    assert!(s.notice().contains("auto: 4 → 6 slots") && s.notice().contains("12.0 KiB holds 6"), "{}", s.notice());
    s.engine(Event::Slots { asked: 6, granted: 5, why: Some("no room".into()) });
    let auto = s.state.slots.auto.clone().expect("still automatic");
    assert!(auto.why().contains("no room"), "{}", auto.why());
    assert_eq!(s.alt('-'), [Effect::WantSlots(4)]);
    assert_eq!(s.state.slots.auto, None);
    assert!(s.notice().contains("no longer automatic") || s.notice().contains("by hand"), "{}", s.notice());
}

#[test]
fn automatic_slots_go_to_the_knee_once_it_is_known_and_stay() {
    let mut s = Script::ready();
    let mut stream = Stream::new(2, 8, 2, 4, 3);
    assert!(s.say("/slots auto").is_empty(), "nothing is known yet");
    assert!(s.state.slots.auto.as_ref().unwrap().why().contains("learning"));
    let mut asked = Vec::new();
    for _ in 0..20 {
        for effect in talk(&mut s, &mut stream, 40) {
            let Effect::WantSlots(slots) = effect else { panic!("{effect:?}") };
            asked.push(slots);
            stream.resize(slots);
            s.engine(Event::Slots { asked: slots, granted: slots, why: None });
        }
    }
    assert!(asked.len() <= 2, "it moves seldom: {asked:?}");
    let curve = s.state.memory.curve();
    let knee = crate::experts::knee::knee(&curve, 2, 8).unwrap();
    assert!(knee.slots.abs_diff(s.state.slots.granted) <= 1, "{knee:?} {}", s.state.slots.granted);
    let why = s.state.slots.auto.as_ref().unwrap().why();
    assert!(why.contains("points"), "{why}");
    s.say("/slots off");
    assert_eq!(s.state.slots.auto, None);
}

#[test]
fn a_turn_of_the_knob_says_what_it_will_do_and_later_how_good_that_was() {
    let mut s = Script::new(160, 40);
    s.engine(Event::Ready { card: Box::new(card()) });
    let mut stream = Stream::new(2, 8, 2, 4, 3);
    talk(&mut s, &mut stream, 100);
    assert_eq!(s.alt('+'), [Effect::WantSlots(5)]);
    let said = s.notice().to_owned();
    assert!(said.starts_with("4 → 5 slots: ≈ ") && said.contains("% hits, +1.95 KiB") && said.contains("(estimated)"), "{said}");
    s.engine(Event::Slots { asked: 5, granted: 5, why: None });
    stream.resize(5);
    talk(&mut s, &mut stream, 100);
    let said = s.notice();
    assert!(said.starts_with("5 slots: ") && said.contains("% hits were expected, ") && said.contains("% came; of "), "{said}");
}

#[test]
fn a_dense_model_has_no_slots_to_turn_and_says_so() {
    let mut s = Script::ready();
    if let Some(card) = &mut s.state.card {
        (card.layers, card.experts) = (0, 0);
    }
    assert!(s.alt('+').is_empty());
    assert!(s.notice().contains("dense"), "{}", s.notice());
}

#[test]
fn a_granted_count_does_not_undo_a_later_wish() {
    let mut s = Script::ready();
    s.alt('+');
    s.alt('+');
    s.engine(Event::Slots { asked: 5, granted: 5, why: None });
    assert_eq!((s.state.slots.asked, s.state.slots.granted), (6, 5));
}

#[test]
fn a_slot_count_that_is_not_to_be_had_changes_nothing() {
    let mut s = Script::ready();
    for wrong in ["/slots 99", "/slots 0"] {
        assert!(s.say(wrong).is_empty());
        assert!(s.notice().contains("from 2 to 8"), "{}", s.notice());
        assert_eq!(s.state.slots.asked, 4);
    }
}
