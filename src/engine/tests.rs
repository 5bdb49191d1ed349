//! The thread with fake models: what a turn reports, and what it survives.

use super::fake::{loader, ByteLanguage, Mishap, Scripted};
use super::{spawn_with, EngineHandle};
use crate::events::{
    Command, Event, FailureKind, FinishReason, LoadOptions, Message, ModelSource, Phase, Reasoning, Role, Sampling, TextKind, TurnStats,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn script(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn user(text: &str) -> Message {
    Message { role: Role::User, content: text.into(), thinking: None }
}

fn generate(id: u64, messages: Vec<Message>) -> Command {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Command::Generate { id, messages, sampling, reasoning: Reasoning::default() }
}

fn open() -> Command {
    Command::Open { source: ModelSource::Demo, options: LoadOptions::default() }
}

/// The next event; panics if none comes for long.
fn next(h: &mut EngineHandle) -> Option<Event> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), h.events.recv()).await.expect("an event") })
}

/// Events up to and including the first that `last` accepts.
pub(super) fn until(h: &mut EngineHandle, last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut out = Vec::new();
    loop {
        let event = next(h).expect("the thread is there");
        let done = last(&event);
        out.push(event);
        if done {
            return out;
        }
    }
}

fn finished(e: &Event) -> bool {
    matches!(e, Event::Finished { .. })
}

fn opened(e: &Event) -> bool {
    matches!(e, Event::Ready { .. } | Event::LoadFailed { .. })
}

fn start(context: usize, make: impl Fn() -> Scripted + Send + 'static) -> EngineHandle {
    let mut h = spawn_with(loader(move || (context, make())));
    h.commands.send(open()).unwrap();
    let events = until(&mut h, opened);
    assert!(matches!(events.first(), Some(Event::Loading { done: 1, total: 2, .. })), "{events:?}");
    assert!(matches!(events.last(), Some(Event::Ready { .. })), "{events:?}");
    h
}

fn turn(h: &mut EngineHandle, command: Command) -> Vec<Event> {
    h.commands.send(command).unwrap();
    until(h, finished)
}

pub(super) fn text(events: &[Event], kind: TextKind) -> String {
    events
        .iter()
        .filter_map(|e| match e {
            Event::Text { text, kind: k, .. } if *k == kind => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

pub(super) fn end(events: &[Event]) -> (FinishReason, TurnStats) {
    match events.last() {
        Some(Event::Finished { reason, stats, .. }) => (*reason, stats.clone()),
        other => panic!("not finished: {other:?}"),
    }
}

#[test]
fn a_turn_streams_its_text_and_ends_with_its_counts() {
    let mut h = start(100, || Scripted::new(script("hello")));
    let events = turn(&mut h, generate(7, vec![user("hi")]));
    assert_eq!(text(&events, TextKind::Answer), "hello");
    let (reason, stats) = end(&events);
    assert_eq!(reason, FinishReason::Stop);
    assert_eq!((stats.generated_tokens, stats.reused_tokens), (5, 0));
    assert!(events.iter().all(|e| !matches!(e, Event::Finished { id, .. } | Event::Text { id, .. } if *id != 7)));
    // The prompt was read in chunks of four, and every chunk was told.
    let told: Vec<usize> = events
        .iter()
        .filter_map(|e| match e {
            Event::Prefill { done, .. } => Some(*done),
            _ => None,
        })
        .collect();
    assert_eq!(told.first(), Some(&0));
    assert_eq!(told.last(), Some(&stats.prompt_tokens));
    assert!(told.windows(2).all(|w| w[0] < w[1] && w[1] - w[0] <= 4), "{told:?}");
}

#[test]
fn what_was_used_is_kept_before_a_turn_is_told_to_be_over() {
    let mut h = start(100, || {
        let mut model = Scripted::new(script("hello"));
        model.says_when_kept = true;
        model
    });
    let events = turn(&mut h, generate(1, vec![user("hi")]));
    assert!(matches!(&events[events.len() - 2], Event::Notice { message } if message == "kept"), "{events:?}");
}

#[test]
fn every_step_leaves_a_record_that_adds_up() {
    let mut h = start(100, || Scripted::new(script("abc")));
    let (_, stats) = end(&turn(&mut h, generate(1, vec![user("x")])));
    let mut records = Vec::new();
    while let Ok(r) = h.telemetry.try_recv() {
        records.push(r);
    }
    let prefill = stats.prompt_tokens.div_ceil(4);
    assert_eq!(records.len(), prefill + 3, "three tokens are read back, the end token is not");
    for (i, r) in records.iter().enumerate() {
        assert_eq!(r.step, i as u64);
        assert_eq!(r.phase == Phase::Prefill, i < prefill);
        assert_eq!(r.context_used, r.position + r.tokens);
        assert_eq!(r.chosen.is_some(), i + 1 >= prefill);
        let t = r.time;
        assert_eq!(t.total_us, t.trunk_us + t.hits_us + t.misses_us + t.upload_us + t.sampling_us);
    }
    assert_eq!(records.last().unwrap().chosen, Some(ByteLanguage::IM_END));
}

#[test]
fn telemetry_that_nobody_reads_is_dropped_and_counted_and_no_text_is_lost() {
    let long = "x".repeat(400);
    let mut h = start(1000, {
        let long = long.clone();
        move || Scripted::new(script(&long))
    });
    let events = turn(&mut h, generate(1, vec![user("x")]));
    assert_eq!(text(&events, TextKind::Answer), long);
    let mut kept = 0;
    while h.telemetry.try_recv().is_ok() {
        kept += 1;
    }
    let dropped = h.signals.dropped.load(Ordering::Relaxed);
    assert!(dropped > 0);
    assert_eq!(kept + dropped, (end(&events).1.prompt_tokens.div_ceil(4) + 400) as u64);
}

#[test]
fn the_second_turn_reads_only_what_is_new() {
    let mut h = start(200, || Scripted::new(script("answer")));
    let (_, first) = end(&turn(&mut h, generate(1, vec![user("one")])));
    let said = Message { role: Role::Assistant, content: "answer".into(), thinking: None };
    let (_, second) = end(&turn(&mut h, generate(2, vec![user("one"), said, user("two")])));
    assert_eq!(second.reused_tokens, first.prompt_tokens + first.generated_tokens);
    // The same chat once more (regenerate): all but the last token of the prompt is there.
    let (_, again) = end(&turn(&mut h, generate(3, vec![user("one")])));
    assert_eq!(again.reused_tokens, first.prompt_tokens - 1);
}

#[test]
fn reasoning_is_told_apart_and_counted() {
    let mut tokens = vec![ByteLanguage::THINK];
    tokens.extend(script("\nhm\n"));
    tokens.push(ByteLanguage::THINK_END);
    tokens.extend(script("\n\nyes"));
    let mut h = start(200, move || Scripted::new(tokens.clone()));
    let events = turn(&mut h, generate(1, vec![user("?")]));
    assert_eq!((text(&events, TextKind::Thinking).as_str(), text(&events, TextKind::Answer).as_str()), ("hm", "yes"));
    let stats = end(&events).1;
    assert_eq!(stats.generated_tokens, 11);
    assert!((4..=6).contains(&stats.thinking_tokens), "{stats:?}");
}

#[test]
fn limits_end_a_turn_and_say_which() {
    let mut h = start(30, || Scripted::new(script(&"y".repeat(100))));
    let mut command = generate(1, vec![]);
    if let Command::Generate { sampling, .. } = &mut command {
        sampling.max_tokens = 3;
    }
    let (reason, stats) = end(&turn(&mut h, command));
    assert_eq!((reason, stats.generated_tokens), (FinishReason::Length, 3));
    let (reason, stats) = end(&turn(&mut h, generate(2, vec![])));
    assert_eq!(reason, FinishReason::ContextFull);
    assert_eq!(stats.prompt_tokens + stats.generated_tokens, 30);
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_the_numbers_before_any_work() {
    let steps = Arc::new(AtomicUsize::new(0));
    let seen = steps.clone();
    let mut h = start(30, move || {
        let seen = seen.clone();
        let mut m = Scripted::new(script("a"));
        m.on_step = Box::new(move |_| {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        m
    });
    let events = turn(&mut h, generate(1, vec![user(&"long ".repeat(20))]));
    let Some(Event::Failed { id: Some(1), message, kind: FailureKind::Context }) = events.first() else { panic!("{events:?}") };
    assert!(message.contains("119 tokens") && message.contains("a context of 30"), "{message}");
    assert_eq!(end(&events).0, FinishReason::Failed);
    assert_eq!(steps.load(Ordering::Relaxed), 0);
}

/// A model that sends its step count to the test and waits for leave to go on, so that signals hit a known step.
fn gated(text: &str) -> (EngineHandle, crossbeam_channel::Receiver<Phase>, crossbeam_channel::Sender<()>) {
    let (at, steps) = crossbeam_channel::bounded(0);
    let (leave, wait) = crossbeam_channel::bounded(0);
    let tokens = script(text);
    let h = start(500, move || {
        let (at, wait) = (at.clone(), wait.clone());
        let mut m = Scripted::new(tokens.clone());
        m.on_step = Box::new(move |r| {
            let _ = at.send(r.phase);
            let _ = wait.recv_timeout(Duration::from_secs(60));
        });
        m
    });
    (h, steps, leave)
}

fn wait_for(steps: &crossbeam_channel::Receiver<Phase>, leave: &crossbeam_channel::Sender<()>, phase: Phase, nth: usize) {
    let mut seen = 0;
    loop {
        if steps.recv_timeout(Duration::from_secs(60)).expect("a step") == phase {
            seen += 1;
        }
        if seen == nth {
            return;
        }
        leave.send(()).unwrap();
    }
}

#[test]
fn cancel_acts_within_the_step_at_hand_and_what_was_said_stays_in_the_context() {
    let (mut h, steps, leave) = gated("abcdefghij");
    h.commands.send(generate(1, vec![user("q")])).unwrap();
    wait_for(&steps, &leave, Phase::Decode, 3);
    h.signals.cancel();
    leave.send(()).unwrap();
    let events = until(&mut h, finished);
    let (reason, stats) = end(&events);
    assert_eq!((reason, stats.generated_tokens), (FinishReason::Cancelled, 3));
    assert_eq!(text(&events, TextKind::Answer), "abc");
    // The next turn goes on from there; "c" was said but not read back.
    let (tx, rx) = (leave, steps);
    let feeder = std::thread::spawn(move || while rx.recv_timeout(Duration::from_secs(60)).is_ok() && tx.send(()).is_ok() {});
    let said = Message { role: Role::Assistant, content: "abc".into(), thinking: None };
    let (reason, next) = end(&turn(&mut h, generate(2, vec![user("q"), said, user("r")])));
    assert_eq!(reason, FinishReason::Stop, "the signal was cleared");
    assert_eq!(next.reused_tokens, stats.prompt_tokens + 2);
    h.commands.send(Command::Shutdown).unwrap();
    assert!(next_is_closed(&mut h));
    feeder.join().unwrap();
}

fn next_is_closed(h: &mut EngineHandle) -> bool {
    next(h).is_none()
}

#[test]
fn cancel_in_the_prompt_keeps_the_chunks_that_were_read() {
    let (mut h, steps, leave) = gated("z");
    h.commands.send(generate(1, vec![user("0123456789")])).unwrap();
    wait_for(&steps, &leave, Phase::Prefill, 3);
    h.signals.cancel();
    leave.send(()).unwrap();
    let events = until(&mut h, finished);
    let (reason, stats) = end(&events);
    assert_eq!((reason, stats.read_tokens(), stats.unread_tokens), (FinishReason::Cancelled, 8, stats.prompt_tokens - 8));
    assert!(matches!(events[events.len() - 2], Event::Prefill { done: 8, .. }), "{events:?}");
}

#[test]
fn a_turn_that_waits_is_cancelled_by_its_id_and_a_late_signal_without_one_is_not_for_the_next() {
    let (mut h, steps, leave) = gated("ab");
    h.commands.send(generate(1, vec![user("q")])).unwrap();
    wait_for(&steps, &leave, Phase::Decode, 1);
    // Turn 1 is at work, 2 waits, and both are given up; 3 is asked for afterwards.
    h.commands.send(generate(2, vec![user("r")])).unwrap();
    h.signals.cancel_turn(2);
    h.commands.send(generate(3, vec![user("s")])).unwrap();
    leave.send(()).unwrap();
    let feeder = std::thread::spawn(move || while steps.recv_timeout(Duration::from_secs(60)).is_ok() && leave.send(()).is_ok() {});
    assert_eq!(end(&until(&mut h, finished)).0, FinishReason::Cancelled);
    let second = until(&mut h, finished);
    let (reason, stats) = end(&second);
    assert_eq!((second.len(), reason, stats.prompt_tokens), (1, FinishReason::Cancelled, 0), "no work was done: {second:?}");
    let third = until(&mut h, finished);
    assert_eq!((end(&third).0, text(&third, TextKind::Answer)), (FinishReason::Stop, "ab".to_owned()));
    // A signal that comes after the turn it was for.
    h.signals.cancel();
    assert_eq!(end(&turn(&mut h, generate(4, vec![user("t")]))).0, FinishReason::Stop);
    h.commands.send(Command::Shutdown).unwrap();
    assert!(next_is_closed(&mut h));
    feeder.join().unwrap();
}

#[test]
fn a_slot_wish_is_carried_out_between_steps_and_answered_with_what_was_granted() {
    let (mut h, steps, leave) = gated("abcdef");
    h.commands.send(generate(1, vec![user("q")])).unwrap();
    wait_for(&steps, &leave, Phase::Decode, 2);
    h.signals.want_slots(5);
    leave.send(()).unwrap();
    let feeder = std::thread::spawn(move || while steps.recv_timeout(Duration::from_secs(60)).is_ok() && leave.send(()).is_ok() {});
    let events = until(&mut h, finished);
    let at = events.iter().position(|e| matches!(e, Event::Slots { asked: 5, granted: 5, why: None })).expect("an answer");
    assert_eq!(text(&events[..at], TextKind::Answer).len() + text(&events[at..], TextKind::Answer).len(), 6, "no token was lost");
    // Idle, too; and a wish that can't be granted in full says why.
    h.signals.want_slots(8);
    let events = until(&mut h, |e| matches!(e, Event::Slots { .. }));
    let Some(Event::Slots { asked: 8, granted: 6, why: Some(why) }) = events.last() else { panic!("{events:?}") };
    assert!(why.contains("200"), "two slots of 100 bytes are missing: {why}");
    h.signals.want_slots(1000);
    let events = until(&mut h, |e| matches!(e, Event::Slots { .. }));
    assert!(matches!(events.last(), Some(Event::Slots { asked: 1000, granted: 6, why: Some(_) })), "{events:?}");
    h.commands.send(Command::Shutdown).unwrap();
    assert!(next_is_closed(&mut h));
    feeder.join().unwrap();
}

#[test]
fn an_error_in_a_step_ends_the_turn_and_nothing_else() {
    let fail = Arc::new(Mutex::new(Some(Mishap::Error)));
    let shared = fail.clone();
    let mut h = start(200, move || {
        let mut m = Scripted::new(script("hello"));
        m.mishap = *shared.lock().unwrap();
        m
    });
    let events = turn(&mut h, generate(1, vec![user("q")]));
    assert_eq!(text(&events, TextKind::Answer), "he", "what was said before the error is shown");
    let message = events.iter().find_map(|e| match e {
        Event::Failed { id: Some(1), message, .. } => Some(message.clone()),
        _ => None,
    });
    assert_eq!(message.as_deref(), Some("the fake model failed"));
    let (reason, stats) = end(&events);
    assert_eq!((reason, stats.generated_tokens), (FinishReason::Failed, 2));
    // Another model opens.
    *fail.lock().unwrap() = None;
    h.commands.send(open()).unwrap();
    until(&mut h, opened);
    assert_eq!(text(&turn(&mut h, generate(2, vec![user("q")])), TextKind::Answer), "hello");
}

#[test]
fn a_token_that_a_device_gives_up_is_made_again_with_all_that_the_context_lost() {
    for goes_back_to_nothing in [false, true] {
        let read = Arc::new(Mutex::new(Vec::new()));
        let seen = read.clone();
        let mut h = start(400, move || {
            let mut m = Scripted::new(script("Hello"));
            (m.mishap, m.goes_back_to_nothing) = (Some(Mishap::GaveUp), goes_back_to_nothing);
            let seen = seen.clone();
            m.on_step = Box::new(move |r| seen.lock().unwrap().push((r.phase, r.position, r.tokens)));
            m
        });
        let events = turn(&mut h, generate(1, vec![user("hi")]));
        assert_eq!(text(&events, TextKind::Answer), "Hello");
        assert_eq!(events.iter().filter(|e| matches!(e, Event::Notice { message } if message.contains("anew"))).count(), 1);
        let (reason, stats) = end(&events);
        assert_eq!((reason, stats.generated_tokens), (FinishReason::Stop, 5));
        // The step that was given up, what was read again, and the step as it was.
        let steps = read.lock().unwrap().clone();
        let given_up = (Phase::Decode, stats.prompt_tokens as u32 + 1, 1);
        let twice: Vec<_> = steps.iter().enumerate().filter(|(_, step)| **step == given_up).map(|(i, _)| i).collect();
        assert_eq!(twice.len(), 2, "{steps:?}");
        let again: Vec<u32> =
            steps[twice[0] + 1..twice[1]].iter().map(|(phase, _, tokens)| *tokens * u32::from(*phase == Phase::Prefill)).collect();
        assert_eq!(again.iter().sum::<u32>(), if goes_back_to_nothing { given_up.1 } else { 0 }, "{steps:?}");
        // Reading it again is told as it goes on, behind what was told of the prompt, whose counts stay.
        let told: Vec<_> = events
            .iter()
            .filter_map(|e| match e {
                Event::Prefill { id: 1, done, total, reused: 0 } => Some((*done, *total)),
                _ => None,
            })
            .collect();
        let through = |total: usize| (0..total).step_by(4).chain([total]).map(move |done| (done, total));
        let lost = if goes_back_to_nothing { stats.prompt_tokens + 1 } else { 0 };
        let all: Vec<_> = through(stats.prompt_tokens).chain(through(lost).filter(|_| lost > 0)).collect();
        assert_eq!(told, all);
        assert_eq!((stats.reused_tokens, stats.unread_tokens), (0, 0));
    }
}

#[test]
fn a_panic_in_a_step_closes_the_model_and_another_can_be_opened() {
    let fail = Arc::new(Mutex::new(Some(Mishap::Panic)));
    let shared = fail.clone();
    let mut h = start(200, move || {
        let mut m = Scripted::new(script("hello"));
        m.mishap = *shared.lock().unwrap();
        m
    });
    let events = turn(&mut h, generate(1, vec![user("q")]));
    let failed =
        events.iter().any(|e| matches!(e, Event::Failed { id: Some(1), message, .. } if message.contains("the fake model panicked")));
    assert!(failed && end(&events).0 == FinishReason::Failed, "{events:?}");
    let events = turn(&mut h, generate(2, vec![user("q")]));
    assert!(matches!(&events[0], Event::Failed { message, .. } if message.contains("no model is open")), "{events:?}");
    *fail.lock().unwrap() = None;
    h.commands.send(open()).unwrap();
    assert!(matches!(until(&mut h, opened).last(), Some(Event::Ready { .. })));
    assert_eq!(text(&turn(&mut h, generate(3, vec![user("q")])), TextKind::Answer), "hello");
}

#[test]
fn a_panic_in_the_loader_is_a_failed_load() {
    let mut h = spawn_with(loader(|| panic!("bad day")));
    h.commands.send(open()).unwrap();
    let events = until(&mut h, opened);
    let Some(Event::LoadFailed { message, kind: FailureKind::Other }) = events.last() else { panic!("{events:?}") };
    assert!(message.contains("bad day"));
}

#[test]
fn a_model_that_computes_nan_is_reported_and_no_token_is_made_up() {
    let mut h = start(200, || {
        let mut m = Scripted::new(script("hello"));
        m.mishap = Some(Mishap::NanLogits);
        m
    });
    let events = turn(&mut h, generate(1, vec![user("q")]));
    assert_eq!(text(&events, TextKind::Answer), "he");
    assert!(events.iter().any(|e| matches!(e, Event::Failed { message, .. } if message.contains("not a number"))), "{events:?}");
}

#[test]
fn settings_out_of_range_are_refused_before_any_work() {
    let mut h = start(200, || Scripted::new(script("a")));
    let mut command = generate(1, vec![user("q")]);
    if let Command::Generate { sampling, .. } = &mut command {
        sampling.min_p = 7.0;
    }
    let events = turn(&mut h, command);
    assert!(matches!(&events[0], Event::Failed { message, .. } if message.contains("min_p is 7")), "{events:?}");
}

#[test]
fn a_policy_is_set_by_name_and_a_wrong_name_is_told() {
    let mut h = start(200, || Scripted::new(script("a")));
    h.commands.send(Command::SetPolicy("lru".into())).unwrap();
    assert!(matches!(next(&mut h), Some(Event::Notice { message }) if message.contains("lru")));
    h.commands.send(Command::SetPolicy("best".into())).unwrap();
    assert!(matches!(next(&mut h), Some(Event::Failed { id: None, message, .. }) if message.contains("best")));
}

#[test]
fn the_thread_ends_when_nobody_listens_even_in_the_middle_of_a_turn() {
    let (at, steps) = crossbeam_channel::unbounded();
    let dropped = Arc::new(());
    let alive = Arc::downgrade(&dropped);
    let mut kept = Some(dropped);
    let h = {
        let mut h = spawn_with(loader(move || {
            let (at, kept) = (at.clone(), kept.take());
            let mut m = Scripted::new(script(&"x".repeat(100_000)));
            m.on_step = Box::new(move |_| {
                let _ = (&kept, at.send(()));
            });
            (1_000_000, m)
        }));
        h.commands.send(open()).unwrap();
        until(&mut h, opened);
        h
    };
    h.commands.send(generate(1, vec![user("q")])).unwrap();
    steps.recv_timeout(Duration::from_secs(60)).unwrap();
    // A front end that dies drops everything at once; the commands' end alone must not be what stops it.
    let EngineHandle { commands, events, .. } = h;
    drop(events);
    // The step channel closes when the model is dropped.
    while steps.recv_timeout(Duration::from_secs(60)).is_ok() {}
    assert!(alive.upgrade().is_none(), "the model was dropped");
    drop(commands);
}

/// What one record costs the engine: filling it as the experts do, counting hits, sending it. Run with
/// `cargo test --release --lib -- --ignored publishing --nocapture`; compare with the time of a step (`rotary bench`).
#[test]
#[ignore = "a measurement, not a check"]
fn publishing_a_record_costs_microseconds() {
    use super::lanes::Lanes;
    use crate::events::{Outcome, RoutedExpert, StepRecord};
    for (name, layers, experts, top_k) in [("demo", 6, 32, 4), ("48 layers of 128", 48, 128, 8)] {
        let (events, _keep) = tokio::sync::mpsc::channel(1);
        let (telemetry, mut records) = tokio::sync::mpsc::channel(64);
        let lanes = Lanes { events, telemetry, signals: Arc::default(), gauges: None };
        let reader = std::thread::spawn(move || while records.blocking_recv().is_some() {});
        let routed = vec![RoutedExpert { expert: 1, tokens: 1, weight: 0.1, outcome: Outcome::Hit }; layers * top_k];
        let ends: Vec<u32> = (1..=layers as u32).map(|l| l * top_k as u32).collect();
        let slot_of = vec![0u16; layers * experts];
        let steps = 20_000;
        let begin = std::time::Instant::now();
        let mut hits = 0;
        for step in 0..steps {
            let mut r = StepRecord { step, ..StepRecord::default() };
            r.ends.extend_from_slice(&ends);
            r.routed.extend_from_slice(&routed);
            r.slot_of.extend_from_slice(&slot_of);
            hits += r.hits_and_routed().0;
            drop(lanes.record(r));
        }
        let each = begin.elapsed().as_secs_f64() * 1e6 / steps as f64;
        assert_eq!(hits, steps * (layers * top_k) as u64);
        println!("{name}: {each:.2} us a step, {} dropped", lanes.signals.dropped.load(Ordering::Relaxed));
        drop(lanes);
        reader.join().unwrap();
    }
}
