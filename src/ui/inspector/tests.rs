use super::*;
use crate::events::{Event, FinishReason, TextKind};
use crate::ui::experts_state::stream::Stream;
use crate::ui::experts_state::Shown;
use crate::ui::message::Message;
use crate::ui::state::Focus;
use crate::ui::update::tests::Script;
use crate::ui::view::tests::screen;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A chat whose every token has its record, but for those that `dropped` names.
pub(in crate::ui) struct Told {
    pub(in crate::ui) s: Script,
    stream: Stream,
    step: u64,
    dropped: Vec<u64>,
}

impl Told {
    pub(in crate::ui) fn new(dropped: &[u64]) -> Self {
        let s = Script::ready();
        Self { s, stream: Stream::new(2, 8, 2, 4, 5), step: 0, dropped: dropped.to_vec() }
    }

    /// Asks, and begins to answer with these tokens. The prompt takes one step, which chooses the first token.
    pub(in crate::ui) fn ask(&mut self, words: &[&str]) {
        self.s.say("Tell me");
        let record = self.stream.prompt(5);
        self.record(record);
        self.go_on(words);
    }

    pub(in crate::ui) fn go_on(&mut self, words: &[&str]) {
        let id = self.s.state.turn.as_ref().expect("a turn runs").id;
        for word in words {
            let text = (*word).to_owned();
            self.s.engine(Event::Text { id, text, kind: TextKind::Answer, step: self.step });
            let record = self.stream.token();
            self.record(record);
        }
        self.s.send(Message::Fold);
        self.s.send(Message::Draw);
    }

    fn record(&mut self, mut record: StepRecord) {
        self.step = record.step;
        record.time.total_us = 1000 + 100 * record.step as u32;
        if !self.dropped.contains(&record.step) {
            self.s.send(Message::Step(Box::new(record)));
        }
    }

    pub(in crate::ui) fn alt(&mut self, c: char) {
        self.s.send(Message::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::ALT)));
        self.s.send(Message::Draw);
    }

    fn pause(&self) -> Pause {
        self.s.state.inspector.pause().cloned().expect("paused")
    }
}

pub(in crate::ui) const WORDS: [&str; 12] = ["Once", " upon", " a", " **", "time", "**", ",", " a", " cat", " sat", ".", "\n"];

#[test]
fn the_cursor_walks_over_the_tokens_and_the_heatmap_stands_at_their_steps() {
    let mut t = Told::new(&[]);
    t.ask(&WORDS);
    t.alt('h');
    let pause = t.pause();
    assert_eq!((pause.token, pause.of, pause.step, pause.text.as_str(), pause.lost), (12, 12, 11, "\u{b6}", None));
    (0..3).for_each(|_| t.alt(','));
    assert_eq!(t.pause().text, " cat");
    let shown = t.s.state.heatmap().latest();
    assert_eq!(shown.map(|s| s.0), Some(8));
    // The session goes on; the heatmap stands still, the count grows.
    t.go_on(&["More", " of", " it"]);
    assert_eq!((t.pause().token, t.pause().of, t.s.state.heatmap().latest()), (9, 15, shown));
    assert_eq!(t.s.state.experts.latest().map(|s| s.0), Some(15), "telemetry is folded meanwhile");
    t.alt('l');
    assert_eq!(t.pause().text, " sat");
    (0..99).for_each(|_| t.alt('.'));
    assert_eq!(t.pause().token, 15, "the last token is the end");
    (0..99).for_each(|_| t.alt('h'));
    assert_eq!((t.pause().token, t.s.state.heatmap().latest().map(|s| s.0)), (1, Some(0)), "the prompt chose the first token");
    t.alt('0');
    assert!(t.s.state.inspector.pause().is_none());
    assert_eq!(*t.s.state.heatmap().shown(), Shown::Live);
    assert_eq!(t.s.state.heatmap().latest().map(|s| s.0), Some(15));
}

#[test]
fn a_token_whose_record_was_dropped_is_unknown_in_every_view() {
    let mut t = Told::new(&[3, 4]);
    t.ask(&WORDS);
    t.alt('h');
    while t.pause().step != 4 {
        t.alt('h');
    }
    assert_eq!(t.pause().lost, Some(Lost::Dropped));
    let span = Span { start: 0, end: 1, first: 4, last: 4 };
    let known = Span { first: 5, last: 5, ..span };
    t.alt('0');
    let theme = t.s.state.theme.clone();
    for tint in [Tint::Misses, Tint::Time, Tint::Entropy] {
        t.s.state.inspector.tint = tint;
        assert_eq!(t.s.state.look_of(&span, &theme), Look::Plain, "{tint:?}");
        assert!(matches!(t.s.state.look_of(&known, &theme), Look::Styled(_)), "{tint:?}");
    }
}

#[test]
fn the_cursor_waits_for_a_record_that_comes_late() {
    let mut t = Told::new(&[]);
    t.ask(&["Once"]);
    let id = t.s.state.turn.as_ref().unwrap().id;
    t.s.engine(Event::Text { id, text: " upon".into(), kind: TextKind::Answer, step: 2 });
    t.alt('h');
    assert_eq!((t.pause().step, t.pause().lost), (2, Some(Lost::NotYet)));
    let record = t.stream.token();
    t.record(record);
    t.s.send(Message::Fold);
    assert_eq!((t.pause().step, t.pause().lost), (2, None));
    assert_eq!(t.s.state.heatmap().latest().map(|s| s.0), Some(2));
}

#[test]
fn the_chat_marks_exactly_the_tokens_that_used_the_expert_under_the_cursor() {
    let mut t = Told::new(&[6]);
    t.ask(&WORDS);
    t.s.state.focus = Focus::Heatmap;
    let theme = t.s.state.theme.clone();
    for expert in 0..8 {
        let (layer, _) = t.s.state.experts.cursor();
        for step in 0..12 {
            let span = Span { start: 0, end: 1, first: step, last: step };
            let look = t.s.state.look_of(&span, &theme);
            match t.s.state.inspector.known(step) {
                None => assert_eq!((step, look), (6, Look::Styled(Style::new().add_modifier(Modifier::DIM)))),
                Some(kept) => {
                    let want = kept.outcome(layer, expert).map_or(Look::Plain, |o| Look::Styled(tint::mark(o, &theme)));
                    assert_eq!(look, want, "step {step} expert {expert}");
                }
            }
        }
        t.s.press(KeyCode::Right);
    }
}

#[test]
fn the_legend_of_an_expert_s_tokens_has_the_number_of_its_layer_in_the_model() {
    let mut t = Told::new(&[]);
    let mut card = t.stream.card();
    card.plan.slot_bytes = [3, 4].map(|layer| crate::events::LayerSlot { layer, bytes: 1 }).into();
    t.s.engine(Event::Ready { card: Box::new(card) });
    t.ask(&WORDS);
    t.s.state.focus = Focus::Heatmap;
    let mut legend = || screen(&mut t.s, 160, 40).join("\n");
    assert!(legend().contains(" L3 E0 in "));
    t.s.press(KeyCode::Down);
    assert!(screen(&mut t.s, 160, 40).join("\n").contains(" L4 E0 in "));
}

#[test]
fn keys_of_the_heatmap_work_on_the_past_and_stay_when_it_is_left() {
    let mut t = Told::new(&[]);
    t.ask(&WORDS);
    t.alt('h');
    t.s.state.focus = Focus::Heatmap;
    t.s.press(KeyCode::Down);
    t.s.press(KeyCode::Char('s'));
    t.s.press(KeyCode::Enter);
    assert!(t.s.state.heatmap().zoomed() && t.s.state.experts.zoomed());
    let cursor = t.s.state.heatmap().cursor();
    t.alt('h');
    assert_eq!(t.s.state.heatmap().cursor(), cursor);
    t.alt('0');
    assert_eq!(t.s.state.heatmap().cursor(), cursor);
}

#[test]
fn steps_of_an_earlier_model_are_not_taken_for_those_of_the_new_one() {
    let mut t = Told::new(&[]);
    t.ask(&WORDS);
    t.s.finish(FinishReason::Stop);
    t.alt('h');
    t.s.engine(Event::Ready { card: Box::new(crate::ui::update::tests::card()) });
    assert!(t.s.state.inspector.pause().is_none());
    t.stream = Stream::new(2, 8, 2, 4, 6);
    t.alt('h');
    assert!(t.s.state.inspector.pause().is_none(), "no token of this model is in the chat");
    t.ask(&["Yes", "."]);
    t.alt('h');
    assert_eq!((t.pause().token, t.pause().of, t.pause().step), (2, 2, 1));
}

#[test]
fn tints_come_by_key_and_by_command() {
    let mut t = Told::new(&[]);
    t.ask(&WORDS);
    t.alt('t');
    assert_eq!(t.s.state.inspector.tint, Tint::Misses);
    t.s.say("/tint entropy");
    assert_eq!(t.s.state.inspector.tint, Tint::Entropy);
    t.s.say("/tint");
    t.s.press(KeyCode::Esc);
    t.s.say("/tint bright");
    assert_eq!(t.s.state.inspector.tint, Tint::Entropy, "an unknown name changes nothing");
    t.s.press(KeyCode::Esc);
    t.alt('t');
    assert_eq!(t.s.state.inspector.tint, Tint::Off);
}

#[test]
fn a_session_without_text_is_scrubbed_step_by_step() {
    let mut t = Told::new(&[]);
    for _ in 0..30 {
        let record = t.stream.token();
        t.record(record);
    }
    t.s.send(Message::Fold);
    t.alt('h');
    assert_eq!((t.pause().token, t.pause().of, t.pause().step), (30, 30, 29));
    t.alt('k');
    assert_eq!((t.pause().token, t.pause().text.as_str()), (20, ""));
}
