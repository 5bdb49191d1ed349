//! Tells reasoning between thinking marks from the answer, while text streams in.

use super::splitter::{emit, Piece};
use crate::events::TextKind;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
/// The thinking marks, as tokens and as text.
pub(super) const MARKS: [&str; 2] = [OPEN, CLOSE];

/// Splits streamed text into reasoning and answer. The marks themselves, and the white space around them, are
/// dropped. A block opens only at the very beginning: an answer may speak of `<think>`.
#[derive(Debug)]
pub struct ThinkSplitter {
    state: State,
    /// Text that may turn out to be (part of) a mark, or white space before one.
    held: String,
    /// Bytes of the stream before `held`.
    before: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The prompt has closed a thinking block, and nothing but white space has come since.
    Closed,
    /// Nothing but white space so far.
    Start,
    /// Between the marks; the flag says whether any text has come.
    Thinking(bool),
    /// Just after the closing mark.
    AfterThinking,
    Answer,
}

impl ThinkSplitter {
    /// For the text that follows `prompt`: if the prompt ends inside an open thinking block, so does the text begin. White space
    /// that follows a block which the prompt closed is no part of the answer.
    #[must_use]
    pub fn after(prompt: &str) -> Self {
        let state = match prompt.trim_end() {
            open if open.ends_with(OPEN) => State::Thinking(false),
            closed if closed.ends_with(CLOSE) => State::Closed,
            _ => State::Start,
        };
        Self { state, held: String::new(), before: 0 }
    }

    /// Whether the text is inside a thinking block now.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Thinking(_))
    }

    /// Drops the first `bytes` of what is held.
    fn skip(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.before += bytes;
    }

    /// Add text; returns what is certain now. Neighbouring pieces of the same kind are one piece.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.advance(&mut out) {}
        out
    }

    /// The rest at the end of the turn.
    pub fn finish(&mut self) -> Vec<Piece> {
        let rest = std::mem::take(&mut self.held);
        let at = self.before;
        self.before += rest.len();
        let mut out = Vec::new();
        match self.state {
            State::Thinking(_) => emit(&mut out, TextKind::Thinking, rest.trim_end(), at),
            State::AfterThinking | State::Closed => {
                let text = rest.trim_start();
                emit(&mut out, TextKind::Answer, text, at + rest.len() - text.len());
            }
            State::Start | State::Answer => emit(&mut out, TextKind::Answer, &rest, at),
        }
        out
    }

    /// One step; false when more text is needed.
    fn advance(&mut self, out: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if let Some(rest) = text.strip_prefix(OPEN) {
                    self.skip(self.held.len() - rest.len());
                    self.state = State::Thinking(false);
                } else if OPEN.starts_with(text) {
                    return false;
                } else {
                    self.state = State::Answer;
                }
            }
            State::Thinking(begun) => {
                if !begun {
                    self.skip(self.held.len() - self.held.trim_start().len());
                }
                if let Some(at) = self.held.find(CLOSE) {
                    emit(out, TextKind::Thinking, self.held[..at].trim_end(), self.before);
                    self.skip(at + CLOSE.len());
                    self.state = State::AfterThinking;
                } else {
                    let sure = self.held[..self.held.len() - partial(&self.held, CLOSE)].trim_end().len();
                    self.state = State::Thinking(begun || sure > 0);
                    emit(out, TextKind::Thinking, &self.held[..sure], self.before);
                    self.skip(sure);
                    return false;
                }
            }
            State::AfterThinking | State::Closed => {
                self.skip(self.held.len() - self.held.trim_start().len());
                if self.held.is_empty() {
                    return false;
                }
                // Who was told not to think may begin to all the same.
                self.state = if self.state == State::Closed { State::Start } else { State::Answer };
            }
            State::Answer => {
                emit(out, TextKind::Answer, &self.held, self.before);
                self.skip(self.held.len());
                return false;
            }
        }
        true
    }
}

/// Length of the longest end of `text` that is a beginning of `mark`.
fn partial(text: &str, mark: &str) -> usize {
    (1..mark.len()).rev().find(|&n| text.ends_with(&mark[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use TextKind::{Answer, Thinking};

    fn split(prompt: &str, chunks: &[&str]) -> Vec<(TextKind, String)> {
        let mut splitter = ThinkSplitter::after(prompt);
        let mut out: Vec<(TextKind, String)> = Vec::new();
        let mut add = |piece: Piece| {
            assert_eq!(chunks.concat()[piece.at..][..piece.text.len()], piece.text, "a piece says where it is from");
            match out.last_mut() {
                Some((kind, text)) if *kind == piece.kind => text.push_str(&piece.text),
                _ => out.push((piece.kind, piece.text)),
            }
        };
        chunks.iter().for_each(|chunk| splitter.push(chunk).into_iter().for_each(&mut add));
        splitter.finish().into_iter().for_each(add);
        out
    }

    #[test]
    fn reasoning_comes_apart_from_the_answer() {
        let got = split("", &["<think>\nhmm, ", "so\n</think>\n\nYes", "."]);
        assert_eq!(got, [(Thinking, "hmm, so".into()), (Answer, "Yes.".into())]);
    }

    #[test]
    fn a_block_opened_by_the_prompt_needs_no_mark() {
        let got = split("<|im_start|>assistant\n<think>\n", &["hmm</th", "ink>\n\nYes"]);
        assert_eq!(got, [(Thinking, "hmm".into()), (Answer, "Yes".into())]);
        let closed = split("<|im_start|>assistant\n<think>\n\n</think>\n\n", &["Yes"]);
        assert_eq!(closed, [(Answer, "Yes".into())]);
    }

    #[test]
    fn a_block_closed_by_the_prompt_leaves_no_white_space() {
        for prompt in ["<|assistant|>\n<think></think>", "<｜Assistant｜></think>", "<think>\n\n</think>\n\n"] {
            assert_eq!(split(prompt, &["\n", "\n Yes", "\n"]), [(Answer, "Yes\n".into())]);
            assert_eq!(split(prompt, &["\n", " "]), []);
            assert_eq!(split(prompt, &["\n<thi", "nk>hm</think>", "\nYes"]), [(Thinking, "hm".into()), (Answer, "Yes".into())]);
        }
        assert_eq!(split("<|assistant|>", &["\n<think></think>\nYes"]), [(Answer, "Yes".into())]);
        assert_eq!(split("def f():", &["\n    pass"]), [(Answer, "\n    pass".into())], "what is not told so keeps its white space");
    }

    #[test]
    fn an_answer_may_speak_of_the_marks() {
        let text = "Use <think> and </think>.";
        assert_eq!(split("", &[text]), [(Answer, text.into())]);
    }

    #[test]
    fn a_turn_that_ends_while_thinking_has_no_answer() {
        assert_eq!(split("", &["<think>a < b"]), [(Thinking, "a < b".into())]);
        assert_eq!(split("", &["<thin"]), [(Answer, "<thin".into())]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(text in "[ \n]?(<think>)?[a<\n ]{0,6}(</think>)?[ab<\n ]{0,6}", cut in 0usize..40) {
            let cut = cut % (text.len() + 1);
            let chars: Vec<String> = text.chars().map(String::from).collect();
            for prompt in ["", "<think>", "</think>"] {
                prop_assert_eq!(split(prompt, &[&text[..cut], &text[cut..]]), split(prompt, &[&text]));
                prop_assert_eq!(split(prompt, &chars.iter().map(String::as_str).collect::<Vec<_>>()), split(prompt, &[&text]));
            }
        }
    }
}
