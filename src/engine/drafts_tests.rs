//! Turns that read likely tokens along: the same words in fewer steps, whatever was drafted.

use super::fake::{loader, ByteLanguage, Mishap, Scripted};
use super::tests::{end, text, until};
use super::{spawn_with, EngineHandle};
use crate::events::{
    Command, Event, FinishReason, LoadOptions, Message, ModelSource, Phase, Reasoning, Role, Sampling, StepRecord, TextKind, When,
};
use proptest::prelude::*;

const REPEATED: &str = "one two three one two three one two four one two three";

fn script(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// A model that says `script` and reads up to seven tokens along.
fn model(script: Vec<u32>) -> Scripted {
    Scripted { most_drafted: 7, ..Scripted::new(script) }
}

fn start(draft: When, context: usize, make: impl Fn() -> Scripted + Send + 'static) -> EngineHandle {
    let mut h = spawn_with(loader(move || (context, make())));
    let options = LoadOptions { draft, ..LoadOptions::default() };
    h.commands.send(Command::Open { source: ModelSource::Demo, options }).unwrap();
    until(&mut h, |e| matches!(e, Event::Ready { .. }));
    h
}

fn ask(h: &mut EngineHandle, messages: Vec<Message>, max_tokens: usize) -> Vec<Event> {
    let sampling = Sampling { temperature: 0.0, max_tokens, ..Sampling::default() };
    h.commands.send(Command::Generate { id: 1, messages, sampling, reasoning: Reasoning::default() }).unwrap();
    until(h, |e| matches!(e, Event::Finished { .. }))
}

fn user(text: &str) -> Message {
    Message { role: Role::User, content: text.into(), thinking: None }
}

fn records(h: &mut EngineHandle) -> Vec<StepRecord> {
    std::iter::from_fn(|| h.telemetry.try_recv().ok()).filter(|r| r.phase == Phase::Decode).collect()
}

#[test]
fn what_repeats_itself_takes_fewer_steps_and_says_the_same() {
    let mut h = start(When::Always, 200, || model(script(REPEATED)));
    let events = ask(&mut h, vec![user("count")], 0);
    assert_eq!(text(&events, TextKind::Answer), REPEATED);
    let (reason, stats) = end(&events);
    assert_eq!((reason, stats.generated_tokens), (FinishReason::Stop, REPEATED.len()));
    let steps = records(&mut h);
    assert!(steps.len() < REPEATED.len() * 3 / 4, "{} steps for {} tokens", steps.len(), REPEATED.len());
    assert!(stats.kept_tokens > 10 && stats.kept_tokens < stats.drafted_tokens, "{stats:?}");
    // The first token comes from the prompt; the end of the turn is drawn too.
    assert_eq!(steps.iter().map(|r| r.gained() as usize).sum::<usize>(), REPEATED.len());
    for r in &steps {
        assert_eq!(r.tokens, 1 + u32::from(r.drafted));
        assert!(r.kept <= r.drafted);
        assert_eq!(r.context_used, r.position + r.gained(), "what was wrong is taken back");
    }
}

#[test]
fn the_text_of_a_step_that_brings_several_tokens_is_told_with_its_number() {
    let mut h = start(When::Always, 200, || model(script(REPEATED)));
    let events = ask(&mut h, vec![user("count")], 0);
    let mut said = std::collections::BTreeMap::<u64, String>::new();
    for e in &events {
        if let Event::Text { text, step, .. } = e {
            said.entry(*step).or_default().push_str(text);
        }
    }
    let most = said.values().map(String::len).max();
    assert!(most > Some(4), "{said:?}");
    assert_eq!(said.values().map(String::as_str).collect::<String>(), REPEATED, "in the order of the steps");
}

#[test]
fn guesses_of_the_model_are_read_along_and_those_that_are_wrong_are_taken_back() {
    let say = "abcabcxyz";
    for (guess, kept) in [("bcabcxy", 7), ("b?", 1), ("??", 0)] {
        let mut h = start(When::Always, 200, move || Scripted { guess: Some(script(guess)), ..model(script(say)) });
        let events = ask(&mut h, vec![], 0);
        assert_eq!(text(&events, TextKind::Answer), say, "{guess}");
        let first = &records(&mut h)[0];
        assert_eq!((usize::from(first.drafted), usize::from(first.kept)), (guess.len(), kept), "{guess}");
    }
}

#[test]
fn nothing_is_read_along_unless_it_is_wished_for() {
    for (at_first, then) in [(When::Never, When::Always), (When::Always, When::Never)] {
        let mut h = start(at_first, 400, || model(script(REPEATED)));
        let mut drafted = || end(&ask(&mut h, vec![user("x")], 0)).1.drafted_tokens;
        assert_eq!(drafted() > 0, at_first == When::Always);
        h.signals.want_drafts(then);
        let stats = end(&ask(&mut h, vec![user("x")], 0)).1;
        assert_eq!(stats.drafted_tokens > 0, then == When::Always);
    }
}

#[test]
fn what_was_kept_is_not_read_again_by_the_next_turn() {
    let mut h = start(When::Always, 400, || model(script(REPEATED)));
    let (_, first) = end(&ask(&mut h, vec![user("one")], 0));
    let said = Message { role: Role::Assistant, content: REPEATED.into(), thinking: None };
    let (_, second) = end(&ask(&mut h, vec![user("one"), said, user("two")], 0));
    assert_eq!(second.reused_tokens, first.prompt_tokens + first.generated_tokens);
}

#[test]
fn a_context_that_can_not_go_back_so_far_is_read_again() {
    let mut h = start(When::Always, 200, || Scripted { goes_back_to_nothing: true, ..model(script(REPEATED)) });
    let events = ask(&mut h, vec![user("count")], 0);
    assert_eq!(text(&events, TextKind::Answer), REPEATED);
    assert_eq!(end(&events).1.generated_tokens, REPEATED.len());
}

#[test]
fn words_keep_the_number_of_their_step_where_the_context_is_read_again_after_it() {
    let mut h = start(When::Always, 200, || Scripted { goes_back_to_nothing: true, ..model(script(REPEATED)) });
    let events = ask(&mut h, vec![user("count")], 0);
    let chosen: Vec<(u64, u32)> = records(&mut h).iter().map(|r| (r.step, r.gained())).collect();
    for e in &events {
        if let Event::Text { step, text, .. } = e {
            // The first token comes from the prompt's last step.
            let found = chosen.iter().find(|(s, _)| s == step);
            assert!(found.is_some() || *step < chosen[0].0, "{text:?} of step {step}, which chose nothing: {chosen:?}");
        }
    }
}

#[test]
fn a_failed_draw_behind_a_draft_ends_the_turn_with_the_words_before_it() {
    // The third token has broken logits; the guess reads it with the second.
    let mut h =
        start(When::Always, 200, || Scripted { mishap: Some(Mishap::NanLogits), guess: Some(script("bcd")), ..model(script("abcd")) });
    let events = ask(&mut h, vec![], 0);
    assert!(matches!(&events[events.len() - 2], Event::Failed { message, .. } if message.contains("not a number")), "{events:?}");
    let (reason, stats) = end(&events);
    assert_eq!((text(&events, TextKind::Answer).as_str(), reason, stats.generated_tokens), ("ab", FinishReason::Failed, 2));
    // The context is what was said, no more: the next turn goes on from there.
    let again = ask(&mut h, vec![], 1);
    assert_eq!(text(&again, TextKind::Answer), "a");
}

#[test]
fn a_step_that_is_given_up_is_made_again_alone() {
    let mut h = start(When::Always, 200, || Scripted { mishap: Some(Mishap::GaveUp), ..model(script(REPEATED)) });
    let events = ask(&mut h, vec![user("count")], 0);
    assert_eq!(text(&events, TextKind::Answer), REPEATED);
    assert!(events.iter().any(|e| matches!(e, Event::Notice { message } if message.contains("gave a token up"))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_answer_is_the_same_whatever_is_read_along(
        tokens in prop::collection::vec(prop_oneof![6 => 97u32..100, 1 => Just(ByteLanguage::THINK), 1 => Just(ByteLanguage::THINK_END)], 1..60),
        ends in prop::option::of(0usize..60),
        guess in prop::option::of(prop::collection::vec(97u32..100, 0..4)),
        most_drafted in 0usize..8,
        max_tokens in prop_oneof![Just(0usize), 1usize..40],
        context in 24usize..90,
        damaged in any::<bool>(),
    ) {
        let said = |draft: When| {
            let mut tokens = tokens.clone();
            if let Some(at) = ends {
                tokens.insert(at.min(tokens.len()), ByteLanguage::IM_END);
            }
            let guess = guess.clone();
            let mishap = damaged.then_some(Mishap::NanLogits);
            let mut h = start(draft, context, move || Scripted { most_drafted, mishap, guess: guess.clone(), ..Scripted::new(tokens.clone()) });
            let events = ask(&mut h, vec![], max_tokens);
            let (reason, stats) = end(&events);
            let again = end(&ask(&mut h, vec![], 1)).1;
            let texts = [TextKind::Answer, TextKind::Thinking].map(|kind| text(&events, kind));
            (texts, reason, stats.generated_tokens, stats.thinking_tokens, again.reused_tokens)
        };
        prop_assert_eq!(said(When::Always), said(When::Never));
    }
}
