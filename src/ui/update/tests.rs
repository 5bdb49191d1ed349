//! A screen driven by a script. Here keys, notices and telemetry; the rest by what it is about.

mod commands;
mod focus;
mod lists;
mod replay;
mod saved_chats;
mod slots;
mod tempo;
mod turns;

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
