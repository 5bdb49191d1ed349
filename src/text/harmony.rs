//! The harmony format of the gpt-oss models: a turn is several messages, each with a header that names its channel.
//!
//! `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>` follows a prompt
//! that ends in `<|start|>assistant`. A header may also name who is spoken to (` to=functions.x`) and, after
//! `<|constrain|>`, the form of what is said. The marks are control tokens and reach the splitter as such, never as text:
//! an answer that spells one with other tokens speaks of it. (openai/harmony, docs/format.md.)

use super::format::Mark;
use super::splitter::{emit, Piece, MARK_BYTES, PARAGRAPH};
use crate::events::TextKind;

/// The control tokens of the format.
pub(super) const SPELLINGS: [(&str, Mark); 7] = [
    ("<|start|>", Mark::Start),
    ("<|channel|>", Mark::Channel),
    ("<|constrain|>", Mark::Constrain),
    ("<|message|>", Mark::Message),
    ("<|end|>", Mark::End),
    ("<|return|>", Mark::End),
    ("<|call|>", Mark::End),
];

/// Those that a vocabulary of this format has.
pub(super) const NEEDED: [&str; 4] = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"];

/// Longest part of a header between two marks, in bytes. What is longer is no header but text.
const MAX_HEADER: usize = 256;
/// The beginning of a recipient, the one thing that may follow the prompt's `<|start|>assistant` before a mark.
const RECIPIENT: &str = "to=";

/// Splits the stream at its marks: channels `analysis` and `commentary` are reasoning, everything else is the answer.
/// Headers are dropped. A stream without a channel is an answer.
#[derive(Debug)]
pub struct HarmonySplitter {
    state: State,
    /// Text of a header, or what may turn out to be one.
    held: String,
    /// What the prompt has of the header at hand.
    begun: String,
    /// Bytes of the stream before `held`.
    before: usize,
    /// Where the last mark stands in the stream.
    last_mark: usize,
    /// Kinds of which there was text before this message.
    said: Vec<TextKind>,
    /// The message at hand has no text yet.
    fresh: bool,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// After the prompt's role: a recipient, or text of a model that knows no channels.
    Opened,
    /// After `<|start|>`.
    Role,
    /// After `<|channel|>`.
    Channel,
    /// After `<|constrain|>` in the header of a message of this kind.
    Form(TextKind),
    /// In a message.
    Text(TextKind),
    /// Between messages.
    Outside,
}

impl HarmonySplitter {
    /// For the text that follows `prompt`, in whichever part of a message that ends. Marks that people spelled in a message
    /// are guarded there (see [`super::ChatTemplate::render`]) and don't count.
    #[must_use]
    pub fn after(prompt: &str) -> Self {
        let mut splitter = Self {
            state: State::Text(TextKind::Answer),
            held: String::new(),
            begun: String::new(),
            before: 0,
            last_mark: 0,
            said: Vec::new(),
            fresh: true,
            over: false,
        };
        let mut rest = &prompt[prompt.rfind(SPELLINGS[0].0).unwrap_or(0)..];
        while let Some(at) = rest.find("<|") {
            let found = SPELLINGS.iter().find(|(s, _)| rest[at..].starts_with(s));
            let (to, mark) = found.map_or((at + 2, None), |(s, mark)| (at + s.len(), Some(*mark)));
            splitter.push(&rest[..if mark.is_some() { at } else { to }]);
            mark.map(|mark| splitter.mark(mark));
            rest = &rest[to..];
        }
        splitter.push(rest);
        splitter.begun = std::mem::take(&mut splitter.held);
        if splitter.state == State::Role && !splitter.begun.trim().is_empty() {
            splitter.state = State::Opened;
        }
        Self { before: 0, last_mark: 0, said: Vec::new(), fresh: true, over: false, ..splitter }
    }

    /// Whether the text is reasoning now.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        self.state == State::Text(TextKind::Thinking)
    }

    /// The answer has ended with `<|end|>`, or another than the assistant is made to speak.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Add text; returns what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        self.held.push_str(text);
        match self.state {
            State::Text(kind) => self.give(&mut out, kind),
            State::Outside => {
                let space = self.held.len() - self.held.trim_start().len();
                self.drop_held(space);
                if !self.held.is_empty() {
                    self.say(&mut out, TextKind::Answer);
                }
            }
            State::Opened if !may_be_recipient(&self.held) => self.say(&mut out, TextKind::Answer),
            _ if self.held.len() > MAX_HEADER => {
                let kind = self.kind();
                self.say(&mut out, kind);
            }
            _ => {}
        }
        out
    }

    /// A mark came, after all text so far.
    pub fn mark(&mut self, mark: Mark) -> Vec<Piece> {
        let mut out = Vec::new();
        let kind = self.kind();
        let header = matches!(self.state, State::Opened | State::Role | State::Channel | State::Form(_));
        if self.state == State::Opened && matches!(mark, Mark::Start | Mark::End) {
            self.give(&mut out, TextKind::Answer);
        }
        if self.state == State::Role {
            let role = self.held.trim_start();
            self.over |= !role.is_empty() && !role.starts_with("assistant");
        }
        self.over |= mark == Mark::End && self.state == State::Text(TextKind::Answer);
        self.drop_held(self.held.len());
        self.begun.clear();
        self.last_mark = self.before;
        self.before += MARK_BYTES;
        self.state = match mark {
            Mark::Start => State::Role,
            Mark::Channel => State::Channel,
            Mark::Constrain if header => State::Form(kind),
            Mark::Constrain => self.state,
            Mark::Message => State::Text(kind),
            Mark::End => State::Outside,
            // Of another format.
            Mark::ChannelEnd | Mark::Call | Mark::CallEnd => self.state,
        };
        self.fresh |= mark != Mark::Constrain || header;
        out
    }

    /// The rest at the end of the turn: an unfinished header is none of the text.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut out = Vec::new();
        if self.state == State::Opened {
            self.give(&mut out, TextKind::Answer);
        }
        self.drop_held(self.held.len());
        out
    }

    /// The kind of the message whose header this is, or that this is.
    fn kind(&self) -> TextKind {
        match self.state {
            State::Form(kind) | State::Text(kind) => kind,
            State::Channel => {
                let name = format!("{}{}", self.begun, self.held);
                match name.split_whitespace().next() {
                    Some("analysis" | "commentary") => TextKind::Thinking,
                    _ => TextKind::Answer,
                }
            }
            State::Opened | State::Role | State::Outside => TextKind::Answer,
        }
    }

    /// What is held is text of a message after all.
    fn say(&mut self, out: &mut Vec<Piece>, kind: TextKind) {
        self.state = State::Text(kind);
        self.give(out, kind);
    }

    /// Give out what is held, in a paragraph of its own where a message of the same kind came before.
    fn give(&mut self, out: &mut Vec<Piece>, kind: TextKind) {
        if self.held.is_empty() {
            return;
        }
        if std::mem::take(&mut self.fresh) {
            if self.said.contains(&kind) {
                emit(out, kind, PARAGRAPH, self.last_mark);
            } else {
                self.said.push(kind);
            }
        }
        emit(out, kind, &self.held, self.before);
        self.drop_held(self.held.len());
    }

    /// Drops the first `bytes` of what is held.
    fn drop_held(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.before += bytes;
    }
}

/// Whether `text` is the beginning of a recipient, as far as it goes.
fn may_be_recipient(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with(RECIPIENT) || RECIPIENT.starts_with(text)
}

#[cfg(test)]
#[path = "harmony_tests.rs"]
mod tests;
