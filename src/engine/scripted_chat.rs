//! Chats with a real tokenizer and template, and a model that answers by a script; for tests.

use super::fake::{card, Scripted};
use super::open::Words;
use super::runtime::{Opened, Progress};
use super::tests::{end, text, until};
use super::{spawn_with, EngineHandle};
use crate::events::{
    Command, Event, FinishReason, LoadOptions, Message, ModelSource, Reasoning, RequestId, Role, Sampling, TextKind, TurnStats,
};
use crate::gguf::write::Writer;
use crate::gguf::{Bytes, Gguf};
use crate::text::{ChatTemplate, Tokenizer};

/// Tokenizer and template of a file.
pub(super) fn words(file: &Writer) -> Words {
    let gguf = Gguf::from_bytes(Bytes::from_vec(file.to_bytes()), "test.gguf").unwrap();
    Words { tokenizer: Tokenizer::from_gguf(&gguf).unwrap(), template: ChatTemplate::from_gguf(&gguf).unwrap() }
}

/// An engine with the words of `file` whose model answers every prompt with `script`.
pub(super) fn engine(file: fn() -> Writer, script: Vec<u32>) -> EngineHandle {
    let mut engine = spawn_with(move |_: &ModelSource, _: &LoadOptions, _: &mut Progress<'_>| {
        let (runtime, language) = (Box::new(Scripted::new(script.clone())), Box::new(words(&file())));
        Ok(Opened { card: card(4000), runtime, language, notes: Vec::new(), mapped: None, watched: None, proof: None })
    });
    engine.commands.send(Command::Open { source: ModelSource::Demo, options: LoadOptions::default() }).unwrap();
    until(&mut engine, |e| matches!(e, Event::Ready { .. }));
    engine
}

/// What a turn gave.
pub(super) struct Turn {
    pub(super) thought: String,
    pub(super) said: String,
    pub(super) reason: FinishReason,
    pub(super) stats: TurnStats,
}

pub(super) fn ask(engine: &mut EngineHandle, id: RequestId, messages: &[Message], reasoning: Reasoning) -> Turn {
    let sampling = Sampling { temperature: 0.0, max_tokens: 200, ..Sampling::default() };
    engine.commands.send(Command::Generate { id, messages: messages.to_vec(), sampling, reasoning }).unwrap();
    let events = until(engine, |e| matches!(e, Event::Finished { .. }));
    let (reason, stats) = end(&events);
    Turn { thought: text(&events, TextKind::Thinking), said: text(&events, TextKind::Answer), reason, stats }
}

pub(super) fn user(text: &str) -> Message {
    Message { role: Role::User, content: text.into(), thinking: None }
}
