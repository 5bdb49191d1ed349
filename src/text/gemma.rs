//! The format of Gemma 4: reasoning stands in a channel before the answer.
//!
//! `<|channel>thought\n...<channel|>` and then the answer follow a prompt that ends in `<|turn>model\n`; `<turn|>` ends both. Some
//! templates close an empty channel themselves where no reasoning is wanted. The marks are control tokens and reach the splitter as
//! such, never as text: an answer that spells one with other tokens speaks of it. (Google, Gemma 4's prompt formatting.)

use super::format::Mark;
use super::splitter::{emit, Piece, MARK_BYTES, PARAGRAPH};
use crate::events::TextKind;

const TURN: &str = "<|turn>";
const CHANNEL: &str = "<|channel>";
const CHANNEL_END: &str = "<channel|>";

/// The control tokens of the format.
pub(super) const SPELLINGS: [(&str, Mark); 6] = [
    (TURN, Mark::Start),
    ("<turn|>", Mark::End),
    (CHANNEL, Mark::Channel),
    (CHANNEL_END, Mark::ChannelEnd),
    ("<|tool_call>", Mark::Call),
    ("<tool_call|>", Mark::CallEnd),
];

/// Those that a vocabulary of this format has.
pub(super) const NEEDED: [&str; 4] = [TURN, "<turn|>", CHANNEL, CHANNEL_END];

/// Further tokens that steer the model.
const STEERING: [&str; 6] = ["<|think|>", "<|tool>", "<tool|>", "<|tool_response>", "<tool_response|>", "<|\"|>"];

/// Whether a token of this spelling steers the model. Files of Gemma 4 call some of them text, to have them shown (llama.cpp's
/// converter); people could then open a channel by writing so.
pub(super) fn steers(token: &str) -> bool {
    SPELLINGS.iter().any(|(spelling, _)| *spelling == token) || STEERING.contains(&token)
}

/// What a channel of reasoning begins with. It is not shown; the first line of any other channel is.
const THOUGHT: &str = "thought\n";

/// Splits the stream at its marks: what stands in a channel, and the call of a tool, is reasoning, everything else is the answer.
/// White space around reasoning is dropped.
#[derive(Debug)]
pub struct GemmaSplitter {
    state: State,
    /// What may turn out to be the name of a channel, or white space at the end of reasoning.
    held: String,
    /// What is still to come of the name, if it is that of reasoning.
    name: &'static str,
    /// Bytes of the stream before `held`.
    before: usize,
    /// Where the last mark stands in the stream.
    last_mark: usize,
    /// Kinds of which there was text before the last mark.
    said: Vec<TextKind>,
    /// Nothing but white space has come since the mark before this text.
    fresh: bool,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Answer,
    /// After `<|channel>`, while its name may follow.
    Name,
    Thought,
}

impl GemmaSplitter {
    /// For the text that follows `prompt`, which may end in an open channel, or just after one. Marks that people spelled in a
    /// message are guarded there (see [`super::ChatTemplate::render`]) and don't count.
    #[must_use]
    pub fn after(prompt: &str) -> Self {
        let turn = &prompt[prompt.rfind(TURN).unwrap_or(0)..];
        let (open, close) = (turn.rfind(CHANNEL), turn.rfind(CHANNEL_END));
        let mut splitter = Self {
            state: State::Answer,
            held: String::new(),
            name: THOUGHT,
            before: 0,
            last_mark: 0,
            said: Vec::new(),
            fresh: close.is_some(),
            over: false,
        };
        if let Some(open) = open.filter(|open| close.is_none_or(|close| close < *open)) {
            splitter.mark(Mark::Channel);
            splitter.push(&turn[open + CHANNEL.len()..]);
            let begun = std::mem::take(&mut splitter.held);
            if splitter.state == State::Name {
                splitter.name = &THOUGHT[begun.len()..];
            }
            (splitter.before, splitter.last_mark) = (0, 0);
            splitter.said.clear();
        }
        splitter
    }

    /// Whether the text is reasoning now.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        self.state != State::Answer
    }

    /// The turn has ended with a mark, or another one begins.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Add text; returns what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        self.held.push_str(text);
        if self.state == State::Name {
            if self.held.starts_with(self.name) {
                self.drop_held(self.name.len());
            } else if self.name.starts_with(&self.held) {
                return out;
            }
            self.state = State::Thought;
        }
        self.give(&mut out);
        out
    }

    /// A mark came, after all text so far.
    pub fn mark(&mut self, mark: Mark) -> Vec<Piece> {
        let mut out = Vec::new();
        let state = match mark {
            Mark::Channel => State::Name,
            Mark::Call => State::Thought,
            Mark::ChannelEnd | Mark::CallEnd => State::Answer,
            Mark::Start | Mark::End => {
                self.over = true;
                self.state
            }
            // Of another format.
            Mark::Constrain | Mark::Message => self.state,
        };
        self.close(&mut out);
        self.name = THOUGHT;
        self.last_mark = self.before;
        self.before += MARK_BYTES;
        self.fresh |= state != self.state || state != State::Answer;
        self.state = state;
        out
    }

    /// The rest at the end of the turn: an unfinished name is none of the text.
    pub fn finish(&mut self) -> Vec<Piece> {
        self.drop_held(self.held.len());
        Vec::new()
    }

    /// What is held ends with a mark: it is the name alone, white space, or text that only began like a name.
    fn close(&mut self, out: &mut Vec<Piece>) {
        if self.state == State::Name && self.held != self.name.trim_end() {
            self.state = State::Thought;
            self.give(out);
        }
        self.drop_held(self.held.len());
    }

    /// Gives out what is certain of what is held, in a paragraph of its own where text of its kind came before.
    fn give(&mut self, out: &mut Vec<Piece>) {
        if self.fresh {
            self.drop_held(self.held.len() - self.held.trim_start().len());
        }
        let kind = if self.state == State::Answer { TextKind::Answer } else { TextKind::Thinking };
        let sure = if kind == TextKind::Answer { self.held.len() } else { self.held.trim_end().len() };
        if sure == 0 {
            return;
        }
        if std::mem::take(&mut self.fresh) && self.said.contains(&kind) {
            emit(out, kind, PARAGRAPH, self.last_mark);
        }
        if !self.said.contains(&kind) {
            self.said.push(kind);
        }
        emit(out, kind, &self.held[..sure], self.before);
        self.drop_held(sure);
    }

    /// Drops the first `bytes` of what is held.
    fn drop_held(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.before += bytes;
    }
}

#[cfg(test)]
#[path = "gemma_tests.rs"]
mod tests;
