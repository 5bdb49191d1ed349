//! Turns whose tokens come at a pace, or by hand.

use super::fake::{loader, Scripted};
use super::tests::{end, text, until};
use super::{spawn_with, EngineHandle, Pace};
use crate::events::{Command, Event, FinishReason, LoadOptions, ModelSource, Reasoning, Sampling, TextKind, When};
use std::time::{Duration, Instant};

const SAID: &str = "abcdef abcdef";

/// A model that would read likely tokens along, which it is told to.
fn start() -> EngineHandle {
    let model = || Scripted { most_drafted: 7, ..Scripted::new(SAID.bytes().map(u32::from).collect()) };
    let mut h = spawn_with(loader(move || (200, model())));
    let options = LoadOptions { draft: When::Always, ..LoadOptions::default() };
    h.commands.send(Command::Open { source: ModelSource::Demo, options }).unwrap();
    until(&mut h, |e| matches!(e, Event::Ready { .. }));
    h
}

fn ask(h: &EngineHandle) {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    h.commands.send(Command::Generate { id: 1, messages: Vec::new(), sampling, reasoning: Reasoning::default() }).unwrap();
}

fn finished(e: &Event) -> bool {
    matches!(e, Event::Finished { .. })
}

/// The prompt is read, and so the first token of the answer drawn. Its text waits for the token after it, which may bring an accent.
fn is_read(e: &Event) -> bool {
    matches!(e, Event::Prefill { done, total, .. } if done == total)
}

fn says(letter: &'static str) -> impl Fn(&Event) -> bool {
    move |e| matches!(e, Event::Text { text, .. } if text == letter)
}

#[test]
fn a_held_answer_comes_token_by_token_and_slots_are_turned_meanwhile() {
    let mut h = start();
    h.signals.tempo.set(Pace::Held);
    ask(&h);
    let mut events = until(&mut h, is_read);
    h.signals.want_slots(5);
    events.extend(until(&mut h, |e| matches!(e, Event::Slots { granted: 5, .. })));
    h.signals.tempo.let_one();
    events.extend(until(&mut h, says("a")));
    h.signals.tempo.let_one();
    events.extend(until(&mut h, says("b")));
    assert_eq!(text(&events, TextKind::Answer), "ab");
    h.signals.tempo.set(Pace::Free);
    events.extend(until(&mut h, finished));
    assert_eq!(text(&events, TextKind::Answer), SAID);
}

#[test]
fn a_held_answer_can_be_cancelled() {
    let mut h = start();
    h.signals.tempo.set(Pace::Held);
    ask(&h);
    until(&mut h, is_read);
    // Its looks at the signals are counted by what is carried out there.
    let begin = Instant::now();
    for slots in [3, 4, 5] {
        h.signals.want_slots(slots);
        until(&mut h, |e| matches!(e, Event::Slots { asked, .. } if *asked == slots));
    }
    h.signals.cancel();
    let events = until(&mut h, finished);
    let (reason, stats) = end(&events);
    assert_eq!((reason, stats.generated_tokens), (FinishReason::Cancelled, 1));
    assert!(stats.decode_s < begin.elapsed().as_secs_f64() / 2.0, "what it was held off is no time of the model's");
}

#[test]
fn speed_is_that_of_the_model_and_no_tokens_come_at_once_while_there_is_a_pace() {
    let mut h = start();
    h.signals.tempo.set(Pace::PerSecond(100.0));
    let begin = Instant::now();
    ask(&h);
    let events = until(&mut h, finished);
    let took = begin.elapsed();
    let (_, stats) = end(&events);
    assert_eq!((stats.generated_tokens, stats.drafted_tokens), (SAID.len(), 0));
    // Each token but the first two is held off for its 10 ms, the end of the answer, too.
    let held_off = Duration::from_millis(10) * (SAID.len() as u32 - 1);
    assert!(took >= held_off && stats.decode_s < took.as_secs_f64() / 2.0, "{took:?}, of which {} s are told", stats.decode_s);
}
