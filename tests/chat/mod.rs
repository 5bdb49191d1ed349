//! A chat with the inference thread, for tests: ask, and get all that was said and reported.

use rotary::engine::{self, EngineHandle};
use rotary::events::{
    Command, Event, FinishReason, LoadOptions, Message, ModelSource, Reasoning, Role, Sampling, StepRecord, TextKind, TurnStats,
};
use std::time::Duration;

/// An open model.
pub(crate) struct Chat {
    pub(crate) engine: EngineHandle,
    pub(crate) id: u64,
}

/// What a turn said and reported.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) events: Vec<Event>,
    pub(crate) text: String,
    pub(crate) reason: FinishReason,
    pub(crate) stats: TurnStats,
}

pub(crate) fn greedy(max_tokens: usize) -> Sampling {
    Sampling { temperature: 0.0, max_tokens, ..Sampling::default() }
}

pub(crate) fn user(text: &str) -> Message {
    Message { role: Role::User, content: text.into(), thinking: None }
}

pub(crate) fn assistant(text: &str) -> Message {
    Message { role: Role::Assistant, ..user(text) }
}

impl Chat {
    pub(crate) fn open(source: ModelSource, options: LoadOptions) -> Self {
        let mut chat = Self { engine: engine::spawn(), id: 0 };
        let last = chat.load(source, options);
        assert!(matches!(last, Event::Ready { .. }), "{last:?}");
        chat
    }

    pub(crate) fn load(&mut self, source: ModelSource, options: LoadOptions) -> Event {
        self.engine.commands.send(Command::Open { source, options }).unwrap();
        loop {
            let event = self.next();
            if matches!(event, Event::Ready { .. } | Event::LoadFailed { .. }) {
                return event;
            }
        }
    }

    pub(crate) fn next(&mut self) -> Event {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let event = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), self.engine.events.recv()).await });
        event.expect("an event in time").expect("the thread is there")
    }

    pub(crate) fn ask(&mut self, messages: Vec<Message>, sampling: Sampling) -> Turn {
        self.ask_with(messages, sampling, |_, _| {})
    }

    /// Ask, and do something at every event.
    pub(crate) fn ask_with(&mut self, messages: Vec<Message>, sampling: Sampling, mut at: impl FnMut(&EngineHandle, &Event)) -> Turn {
        self.id += 1;
        let reasoning = Reasoning::default();
        self.engine.commands.send(Command::Generate { id: self.id, messages, sampling, reasoning }).unwrap();
        let (mut events, mut text) = (Vec::new(), String::new());
        loop {
            let event = self.next();
            at(&self.engine, &event);
            if let Event::Text { text: piece, kind: TextKind::Answer, .. } = &event {
                text += piece;
            }
            events.push(event.clone());
            if let Event::Finished { reason, stats, .. } = event {
                return Turn { events, text, reason, stats };
            }
        }
    }

    pub(crate) fn records(&mut self) -> Vec<StepRecord> {
        let mut out = Vec::new();
        while let Ok(r) = self.engine.telemetry.try_recv() {
            out.push(r);
        }
        out
    }
}
