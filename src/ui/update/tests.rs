use super::*;
use crate::events::{Command, Effort, Event, FailureKind, FinishReason, ModelCard, Plan, Reasoning};
use crate::events::{Sampling, StepRecord, StepTime, TextKind, TurnStats};
use crate::ui::experts_state::stream::Stream;
use crate::ui::message::EngineCommand;
use crate::ui::palette::ColorDepth;
use crate::ui::session::{Listed, SavedChat, SavedMessage};
use crate::ui::state::EngineState;
use crate::ui::theme::Theme;
use crate::ui::transcript::Kind;
use std::time::{Duration, Instant, SystemTime};

/// A screen driven by a script: keys and events in, effects out.
pub(in crate::ui) struct Script {
    pub(in crate::ui) state: State,
    now: Moment,
}

pub(in crate::ui) fn card() -> ModelCard {
    ModelCard {
        name: "Tiny".into(),
        arch: "qwen3moe".into(),
        toy: true,
        layers: 2,
        experts: 8,
        top_k: 2,
        vocab: 100,
        context: 1000,
        expert_bytes: vec![1000, 1000],
        plan: Plan { slots_per_layer: 4, min_slots: 2, max_slots: 8, slot_step: 2000, context: 1000, ..Plan::default() },
        sampling: Sampling { temperature: 0.5, ..Sampling::default() },
        can_think: true,
        has_effort: false,
        template_fallback: false,
        device: "CPU".into(),
    }
}

impl Script {
    pub(in crate::ui) fn new(columns: u16, rows: u16) -> Self {
        let now = Moment { at: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) };
        let theme = Theme::built_in("dark", ColorDepth::Indexed256, false);
        Self { state: State::new(theme, (columns, rows), 7, now), now }
    }

    pub(in crate::ui) fn ready() -> Self {
        let mut s = Self::new(80, 24);
        s.engine(Event::Ready { card: Box::new(card()) });
        s
    }

    pub(in crate::ui) fn send(&mut self, message: Message) -> Vec<Effect> {
        update(&mut self.state, message, self.now)
    }

    pub(in crate::ui) fn engine(&mut self, event: Event) -> Vec<Effect> {
        self.send(Message::Engine(event))
    }

    pub(in crate::ui) fn wait(&mut self, ms: u64) {
        self.now.at += Duration::from_millis(ms);
    }

    pub(in crate::ui) fn press(&mut self, code: KeyCode) -> Vec<Effect> {
        self.chord(KeyModifiers::NONE, code)
    }

    fn chord(&mut self, modifiers: KeyModifiers, code: KeyCode) -> Vec<Effect> {
        self.wait(50);
        self.send(Message::Key(KeyEvent::new(code, modifiers)))
    }

    fn ctrl(&mut self, c: char) -> Vec<Effect> {
        self.chord(KeyModifiers::CONTROL, KeyCode::Char(c))
    }

    fn alt(&mut self, c: char) -> Vec<Effect> {
        self.chord(KeyModifiers::ALT, KeyCode::Char(c))
    }

    pub(in crate::ui) fn type_text(&mut self, text: &str) {
        for c in text.chars() {
            self.press(KeyCode::Char(c));
        }
    }

    pub(in crate::ui) fn say(&mut self, text: &str) -> Vec<Effect> {
        self.type_text(text);
        self.press(KeyCode::Enter)
    }

    pub(in crate::ui) fn answer(&mut self, text: &str) {
        let id = self.state.turn.as_ref().expect("a turn runs").id;
        self.engine(Event::Text { id, text: text.into(), kind: TextKind::Answer, step: 0 });
    }

    pub(in crate::ui) fn finish(&mut self, reason: FinishReason) -> Vec<Effect> {
        let id = self.state.turn.as_ref().expect("a turn runs").id;
        self.engine(Event::Finished { id, reason, stats: TurnStats::default() })
    }

    fn notice(&self) -> &str {
        self.state.notices.back().map_or("", |n| n.text.as_str())
    }
}

fn asked(effects: &[Effect]) -> Option<Vec<String>> {
    effects.iter().find_map(|e| match e {
        Effect::Engine(EngineCommand(Command::Generate { messages, .. })) => Some(messages.iter().map(|m| m.content.clone()).collect()),
        _ => None,
    })
}

fn saved(effects: &[Effect]) -> Option<&SavedChat> {
    effects.iter().find_map(|e| if let Effect::Save(_, chat) = e { Some(&**chat) } else { None })
}

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
    assert!(s.notice().starts_with("5 slots: expected ") && s.notice().contains("% hits → came "), "{}", s.notice());
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
fn ctrl_c_cancels_then_empties_then_quits_when_pressed_twice() {
    let mut s = Script::ready();
    s.say("go");
    assert_eq!(s.ctrl('c'), [Effect::Cancel]);
    s.finish(FinishReason::Cancelled);
    s.type_text("draft");
    assert!(s.ctrl('c').is_empty());
    assert!(s.state.composer.is_empty());
    assert!(s.ctrl('c').is_empty());
    s.wait(5000);
    assert!(s.ctrl('c').is_empty(), "too late to be twice");
    assert_eq!(s.ctrl('c').last(), Some(&Effect::Quit(0)));
}

#[test]
fn ctrl_d_quits_only_on_an_empty_input() {
    let mut s = Script::ready();
    s.type_text("x");
    assert!(s.ctrl('d').is_empty());
    s.press(KeyCode::Backspace);
    assert_eq!(s.ctrl('d').last(), Some(&Effect::Quit(0)));
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
fn telemetry_waits_for_the_fold_and_a_flood_is_folded_early() {
    let mut s = Script::ready();
    let record = |step| StepRecord {
        step,
        tokens: 1,
        ends: vec![0, 0],
        slot_of: vec![crate::events::NO_SLOT; 16],
        time: StepTime { total_us: 100_000, ..StepTime::default() },
        context_used: 5,
        ..StepRecord::default()
    };
    s.send(Message::Step(Box::new(record(0))));
    assert_eq!(s.state.context_used, 0);
    s.send(Message::Fold);
    assert_eq!(s.state.context_used, 5);
    assert_eq!(s.state.memory.speed_now().unwrap().round(), 10.0);
    for step in 1..1000 {
        s.send(Message::Step(Box::new(record(step))));
    }
    assert!(s.state.waiting_steps.len() < crate::ui::state::MAX_WAITING);
}

#[test]
fn a_notice_goes_away_by_itself() {
    let mut s = Script::ready();
    s.send(Message::Say("hello".into()));
    let until = s.state.deadline().unwrap();
    s.now.at = until;
    s.send(Message::Tick);
    assert!(s.state.notices.is_empty());
    assert_eq!(s.state.deadline(), None);
}

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
fn a_notice_ends_with_what_it_is_about() {
    let mut s = Script::ready();
    s.ctrl('c');
    assert!(s.notice().contains("again quits"));
    s.wait(1400);
    s.send(Message::Tick);
    assert!(s.notice().contains("again quits"), "it stands as long as it holds");
    assert_eq!(s.ctrl('c').last(), Some(&Effect::Quit(0)));
    s.ctrl('c');
    s.type_text("x");
    assert!(s.notice().is_empty(), "another key has come");
    s.press(KeyCode::Backspace);
    assert!(s.ctrl('c').is_empty(), "and the first one no longer counts");
    s.now.at = s.state.deadline().unwrap();
    s.send(Message::Tick);
    assert!(s.notice().is_empty() && s.ctrl('c').is_empty());

    s.say("one");
    s.say("two");
    assert!(s.notice().contains("still answering"));
    s.answer("a");
    s.finish(FinishReason::Stop);
    assert!(s.notice().is_empty(), "{}", s.notice());

    s.ctrl('c');
    s.press(KeyCode::Esc);
    s.press(KeyCode::Esc);
    assert!(s.notice().contains("editing"));
    s.ctrl('c');
    assert!(s.notice().is_empty());

    s.say("/slotss 3");
    assert!(s.notice().contains("no command"));
    s.ctrl('c');
    assert!(s.notice().is_empty());

    s.engine(Event::LoadFailed { message: "x".into(), kind: FailureKind::File });
    s.say("hi");
    assert!(s.notice().contains("no model is open"));
    s.engine(Event::Ready { card: Box::new(card()) });
    assert!(s.notice().is_empty());
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

#[test]
fn a_slot_count_that_is_not_to_be_had_changes_nothing() {
    let mut s = Script::ready();
    for wrong in ["/slots 99", "/slots 0"] {
        assert!(s.say(wrong).is_empty());
        assert!(s.notice().contains("from 2 to 8"), "{}", s.notice());
        assert_eq!(s.state.slots.asked, 4);
    }
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
    assert_eq!(at(&s), 19, "twenty rows are seen at 80x24, one of them again");
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
