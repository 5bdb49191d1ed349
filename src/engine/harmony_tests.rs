//! Chats in the harmony format: the real tokenizer and template, and a model that answers by a script.

use super::open::Words;
use super::prompt::{borders, PromptReader};
use super::runtime::Language;
use super::scripted_chat::{self, user, Turn};
use super::EngineHandle;
use crate::events::{FinishReason, Message, Reasoning, RequestId, Role};
use crate::text::harmony_file;

fn words() -> Words {
    scripted_chat::words(&harmony_file::file(3))
}

/// The tokens of a stream in which marks are written out.
fn tokens(stream: &str) -> Vec<u32> {
    words().encode(stream, true).unwrap()
}

/// An engine whose model answers every prompt with `script`. After that it ends its turn with `<|return|>`.
fn engine(script: Vec<u32>) -> EngineHandle {
    scripted_chat::engine(|| harmony_file::file(3), script)
}

fn ask(engine: &mut EngineHandle, id: RequestId, messages: &[Message]) -> Turn {
    scripted_chat::ask(engine, id, messages, Reasoning::default())
}

const THOUGHT: &str = "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant<|channel|>final<|message|>Hello!";

#[test]
fn reasoning_and_answer_come_apart_and_the_end_of_a_message_ends_no_turn() {
    let turn = ask(&mut engine(tokens(THOUGHT)), 1, &[user("Hi")]);
    assert_eq!((turn.thought.as_str(), turn.said.as_str(), turn.reason), ("They greet.", "Hello!", FinishReason::Stop));
    assert_eq!(turn.stats.thinking_tokens, tokens("They greet.").len() + 1, "and the mark that ends it");
}

#[test]
fn the_next_turn_reads_the_answer_anew_without_the_thoughts_and_nothing_before_it() {
    let mut engine = engine(tokens(THOUGHT));
    let first = ask(&mut engine, 1, &[user("Hi")]);
    let said = Message { role: Role::Assistant, content: first.said, thinking: Some(first.thought) };
    let second = ask(&mut engine, 2, &[user("Hi"), said, user("So?")]);
    assert_eq!(second.stats.reused_tokens, first.stats.prompt_tokens + 1, "up to and with <|channel|>");
}

#[test]
fn the_next_turn_keeps_an_answer_without_thoughts_in_the_models_own_tokens() {
    // The tokenizer spells "hehe" with two tokens, the model with four.
    assert_eq!(tokens("hehe"), [264, 264]);
    let mut script = tokens("<|channel|>final<|message|>");
    script.extend(["h", "e", "h", "e"].into_iter().flat_map(tokens));
    let mut engine = engine(script);
    let first = ask(&mut engine, 1, &[user("Hi")]);
    assert_eq!(first.said, "hehe");
    let said = Message { role: Role::Assistant, content: first.said, thinking: None };
    let second = ask(&mut engine, 2, &[user("Hi"), said, user("So?")]);
    let header = 1 + "final".len() + 1;
    assert_eq!(second.stats.reused_tokens, first.stats.prompt_tokens + header + 4);
}

#[test]
fn an_answer_that_ends_its_message_ends_the_turn() {
    let forged = "<|channel|>final<|message|>Hello!<|end|><|start|>user<|message|>And now I ask";
    let turn = ask(&mut engine(tokens(forged)), 1, &[user("Hi")]);
    assert_eq!((turn.said.as_str(), turn.reason), ("Hello!", FinishReason::Stop));
}

#[test]
fn marks_without_end_are_bounded_by_the_turns_length() {
    let turn = ask(&mut engine(tokens(&"<|start|><|channel|>".repeat(500))), 1, &[user("Hi")]);
    assert_eq!((turn.said.as_str(), turn.thought.as_str(), turn.reason), ("", "", FinishReason::Length));
}

#[test]
fn every_message_of_a_prompt_has_a_border() {
    let (words, chat) = (words(), [user("Hi"), user("Well?")]);
    let prompt = PromptReader::new(&words).chat(&words, &chat, Reasoning::default(), 0, &[]).unwrap().tokens;
    let end = words.tokenizer.token_id("<|end|>").unwrap();
    let ends: Vec<usize> = (0..prompt.len()).filter(|&i| prompt[i] == end).map(|i| i + 1).collect();
    assert_eq!(ends.len(), 3);
    assert_eq!(borders(&words, &prompt), ends[1..]);
}
