//! A recording that plays.

use super::*;

/// A replay that has told these entries.
fn replay(events: &[Event], status: crate::trace::player::Status) -> Message {
    use crate::trace::player::{Fold, Frame};
    let mut fold = crate::ui::replay_fold::ReplayFold::new();
    fold.event(Duration::ZERO, Event::Ready { card: Box::new(card()) });
    fold.question(Duration::ZERO, crate::trace::session::Question { id: 90, text: "asked then".into() });
    events.iter().for_each(|e| fold.event(Duration::from_secs(1), e.clone()));
    Message::Frame(Box::new(Frame { status, fold, difference: None }))
}

#[test]
fn a_replay_can_be_watched_but_not_asked() {
    let status = crate::trace::player::Status { speed: 1.0, ..Default::default() };
    let mut s = Script::new(80, 24);
    let said = |text: &str| Event::Text { id: 90, text: text.into(), kind: TextKind::Answer, step: 0 };
    s.send(replay(&[said("said then")], status.clone()));
    assert_eq!(asked(&s.say("hello there")), None);
    assert!(s.notice().contains("recorded trace") && s.state.composer.text() == "hello there");
    s.ctrl('c');
    assert_eq!(s.press(KeyCode::Char(' ')), [Effect::Play(PlayerAction::Toggle)]);
    assert_eq!(s.press(KeyCode::Char(';')), [Effect::Play(PlayerAction::Turn)]);
    assert_eq!(s.press(KeyCode::Char('>')), [Effect::Play(PlayerAction::Speed(2.0))]);
    assert_eq!(s.press(KeyCode::Char('>')), [Effect::Play(PlayerAction::Speed(4.0))]);
    assert_eq!(s.alt('p'), [Effect::Play(PlayerAction::Toggle)], "what holds an answer holds a recording");
    assert_eq!(s.press(KeyCode::Char('+')), [Effect::WantSlots(5)]);
    s.send(replay(&[said("said then")], status.clone()));
    assert_eq!((s.state.slots.asked, s.state.slots.granted), (5, 4), "a wish stands until it is answered");
    let texts = |s: &Script| s.state.transcript.items().iter().map(|i| i.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&s), ["asked then", "said then"]);
    let whole =
        [said("said then"), said(" and later"), Event::Finished { id: 90, reason: FinishReason::Stop, stats: TurnStats::default() }];
    assert!(s.send(replay(&whole, status.clone())).is_empty(), "a replay saves nothing");
    s.engine(Event::Failed { id: None, message: "no such policy".into(), kind: FailureKind::Options });
    assert_eq!(texts(&s), ["asked then", "said then and later", "no such policy"]);
    s.send(replay(&whole[..1], status));
    assert_eq!(texts(&s), ["asked then", "said then", "no such policy"], "what the app itself said stays");
}

#[test]
fn the_screen_tells_how_a_replay_moves() {
    use crate::ui::experts_state::{Play, Shown};
    let mut s = Script::new(80, 24);
    for (paused, backwards, ended, play) in [
        (false, false, false, Play::Forwards),
        (false, true, false, Play::Backwards),
        (false, true, true, Play::Backwards),
        (true, true, false, Play::Paused),
        (true, false, false, Play::Paused),
        (false, false, true, Play::Ended),
    ] {
        s.send(replay(&[], crate::trace::player::Status { paused, backwards, ended, ..Default::default() }));
        assert_eq!(*s.state.heatmap().shown(), Shown::Replay(play));
    }
}

#[test]
fn a_comparison_is_walked_and_zoomed_with_the_keys_of_the_heatmap() {
    let mut s = Script::new(80, 24);
    let Message::Frame(mut frame) = replay(&[], crate::trace::player::Status::default()) else { panic!("no frame") };
    frame.difference = Some(std::sync::Arc::new(crate::trace::difference::Difference::new(2, 8)));
    s.send(Message::Frame(frame.clone()));
    s.state.focus = Focus::Heatmap;
    s.press(KeyCode::Enter);
    s.press(KeyCode::Down);
    s.press(KeyCode::Right);
    assert!(s.state.heatmap().zoomed() && s.state.shown_difference().is_some());
    s.send(Message::Frame(frame));
    assert_eq!((s.state.heatmap().zoomed(), s.state.heatmap().cursor()), (true, (1, 1)), "a new place changes nothing of the look");
    s.press(KeyCode::Char('d'));
    assert!(s.state.heatmap().zoomed() && s.state.shown_difference().is_none(), "the same layer of the first side");
    s.press(KeyCode::Char('d'));
    s.press(KeyCode::Esc);
    assert!(!s.state.heatmap().zoomed() && s.state.focus == Focus::Heatmap);
}

#[test]
fn in_a_replay_keys_are_text_as_soon_as_something_is_typed() {
    let status = crate::trace::player::Status { speed: 1.0, ..Default::default() };
    let mut s = Script::new(80, 24);
    s.send(replay(&[], status));
    assert_eq!(s.say("/slots 6"), [Effect::WantSlots(6)]);
    assert!(s.state.composer.is_empty());
    s.type_text("/save a-b.[c];<d>+,");
    assert_eq!(s.state.composer.text(), "/save a-b.[c];<d>+,");
    s.state.focus = Focus::Heatmap;
    assert_eq!(s.press(KeyCode::Char(' ')), [Effect::Play(PlayerAction::Toggle)], "in a pane they play");
}

#[test]
fn a_recording_refuses_what_needs_a_model() {
    let mut s = Script::new(80, 24);
    s.send(replay(&[], crate::trace::player::Status::default()));
    for line in ["/new", "/regen", "/edit", "/resume", "/set top_k 3", "/system be brief", "/think on", "/model demo", "/model x.gguf"] {
        let before = s.state.sampling.clone();
        s.type_text(line);
        s.state.popup = None;
        assert!(s.press(KeyCode::Enter).is_empty(), "{line}");
        assert!(s.notice().contains("watched, not asked"), "{line}: {}", s.notice());
        assert_eq!((&s.state.sampling, &s.state.system, s.state.transcript.items().len()), (&before, &None, 1), "{line}");
        s.state.notices.clear();
    }
    s.ctrl('y');
    assert!(s.notice().contains("watched, not asked"));
}
