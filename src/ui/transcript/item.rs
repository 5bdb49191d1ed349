//! One item of the chat: what was said and by whom, and which tokens said it.

use super::layout::Layout;
use crate::events::{FinishReason, Role, TurnStats};
use crate::ui::markdown;
use crate::ui::origin::Row;
use crate::ui::token_spans::TokenSpans;
use std::time::{Duration, Instant};

/// Reasoning that came before an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Thinking {
    /// What was thought so far.
    pub text: String,
    /// When it began, and at which step of the engine; `None` in a chat from a file.
    pub started: Option<(Instant, u64)>,
    /// How long it has taken so far; `None` if that is not known (in chats that older versions saved).
    pub took: Option<Duration>,
    /// Tokens so far, where they are known.
    pub tokens: Option<usize>,
    /// It is over: the answer has begun, or the turn has ended.
    pub done: bool,
    /// Shown in full.
    pub open: bool,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// Why.
    pub reason: FinishReason,
    /// Counts and times.
    pub stats: TurnStats,
}

/// What an item is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// What the person said.
    User,
    /// What the model said.
    Assistant {
        /// Its reasoning, if it showed any.
        thinking: Option<Thinking>,
        /// How it ended; `None` while it runs.
        ending: Option<Ending>,
    },
    /// A line of the app in the chat. Not part of what the model reads, and not saved.
    Note {
        /// Something failed, as against something worth knowing.
        error: bool,
    },
}

/// One item of the chat.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Its text: Markdown of the model, plain text otherwise.
    pub text: String,
    /// Which steps chose which bytes of the text.
    pub tokens: TokenSpans,
    /// Which steps chose which bytes of the reasoning.
    pub thought_tokens: TokenSpans,
    pub(super) layout: Layout,
}

impl Item {
    /// An item of the given kind.
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        let (tokens, thought_tokens) = Default::default();
        Self { kind, text: text.into(), tokens, thought_tokens, layout: Layout::default() }
    }

    /// An answer with words in it, or thoughts.
    #[must_use]
    pub fn says_something(&self) -> bool {
        matches!(self.kind, Kind::Assistant { .. }) && !(self.text.is_empty() && self.thought().is_none_or(str::is_empty))
    }

    /// Takes over from an earlier form of the same item what still holds: the layout, as far as the text is the same, and
    /// whether its reasoning is shown.
    pub(super) fn go_on_from(&mut self, before: Self) {
        if let (Kind::Assistant { thinking: Some(now), .. }, Kind::Assistant { thinking: Some(then), .. }) = (&mut self.kind, &before.kind)
        {
            if now.done == then.done {
                now.open = then.open;
            }
        }
        if self.kind == before.kind && self.text == before.text {
            self.layout = before.layout;
        } else if matches!((&self.kind, &before.kind), (Kind::Assistant { .. }, Kind::Assistant { .. })) {
            let (short, long) = if self.text.len() < before.text.len() { (&self.text, &before.text) } else { (&before.text, &self.text) };
            if long.starts_with(short.as_str()) {
                self.layout = before.layout;
                self.layout.cut(markdown::stable_end(&self.text));
                self.layout.valid = false;
            }
        }
    }

    /// What a row of the layout shows.
    pub(in crate::ui) fn part(&self, row: usize) -> Part {
        match row {
            0 if self.layout.thought > 0 => Part::ThoughtHead,
            _ if row < self.layout.thought => Part::Thought,
            _ => Part::Text,
        }
    }

    /// The tokens of a part.
    pub(in crate::ui) fn tokens_of(&self, part: Part) -> &TokenSpans {
        if part == Part::Text {
            &self.tokens
        } else {
            &self.thought_tokens
        }
    }

    /// The rows of the layout.
    pub(in crate::ui) fn rows(&self) -> &[Row] {
        &self.layout.lines
    }

    /// The text of the reasoning.
    pub(in crate::ui) fn thought(&self) -> Option<&str> {
        match &self.kind {
            Kind::Assistant { thinking: Some(t), .. } => Some(&t.text),
            _ => None,
        }
    }

    /// The reasoning is there, but not shown.
    pub(in crate::ui) fn folded(&self) -> bool {
        matches!(&self.kind, Kind::Assistant { thinking: Some(t), .. } if !t.open)
    }
}

/// A part of an item that tokens can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The line over the reasoning: all that is seen of it while it is folded.
    ThoughtHead,
    /// The reasoning.
    Thought,
    /// The text itself.
    Text,
}

/// The role under which an item is sent to the model and saved; `None` for notes.
#[must_use]
pub fn role(item: &Item) -> Option<Role> {
    match item.kind {
        Kind::User => Some(Role::User),
        Kind::Assistant { .. } => Some(Role::Assistant),
        Kind::Note { .. } => None,
    }
}
