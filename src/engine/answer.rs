//! The answer as it comes: token bytes in, text of two kinds out, each piece with the step that chose its token.
//!
//! The last grapheme of a token waits for the next token, which may add an accent to it, and what may be a thinking mark
//! waits too. So text comes later than its token; where tokens end in the stream is kept until their text is out.

use crate::events::TextKind;
use crate::text::{Format, Mark, Piece, Splitter, StreamDecoder, MARK_BYTES};
use std::collections::VecDeque;
use unicode_segmentation::UnicodeSegmentation;

/// One turn's answer.
pub(super) struct Answer {
    decoder: StreamDecoder,
    splitter: Splitter,
    /// Bytes of the stream that the decoder has given out, and those that marks count as.
    given: usize,
    /// Where tokens end in the stream, with the steps that chose them; those whose text may still come.
    ends: VecDeque<(usize, u64)>,
}

impl Answer {
    /// The answer to `prompt`, which may end inside open reasoning, of a model that speaks in `format`.
    pub(super) fn to(prompt: &str, format: Format) -> Self {
        Self { decoder: StreamDecoder::default(), splitter: Splitter::after(prompt, format), given: 0, ends: VecDeque::new() }
    }

    /// Whether the model is reasoning now.
    pub(super) fn is_thinking(&self) -> bool {
        self.splitter.is_thinking()
    }

    /// Whether the turn is over although no token said so.
    pub(super) fn is_over(&self) -> bool {
        self.splitter.is_over()
    }

    /// The bytes of the token that `step` chose; returns the text that is certain now, with its steps.
    pub(super) fn take(&mut self, bytes: &[u8], step: u64) -> Vec<(TextKind, String, u64)> {
        let text = self.decoder.push(bytes);
        self.ends.push_back((self.given + text.len() + self.decoder.held(), step));
        self.settle(&text);
        let pieces = self.splitter.push(&text);
        self.attribute(pieces)
    }

    /// The mark that is the token which `step` chose: no text goes on across it.
    pub(super) fn mark(&mut self, mark: Mark, step: u64) -> Vec<(TextKind, String, u64)> {
        let mut pieces = self.rest();
        self.given += MARK_BYTES;
        self.ends.push_back((self.given, step));
        pieces.extend(self.splitter.mark(mark));
        self.attribute(pieces)
    }

    /// Text that waited for more.
    pub(super) fn end(&mut self) -> Vec<(TextKind, String, u64)> {
        let mut pieces = self.rest();
        pieces.extend(self.splitter.finish());
        self.attribute(pieces)
    }

    /// What the decoder holds, since nothing will add to it.
    fn rest(&mut self) -> Vec<Piece> {
        let rest = self.decoder.finish();
        if let Some(last) = self.ends.back_mut() {
            // Broken bytes at the end have become text.
            last.0 = last.0.max(self.given + rest.len());
        }
        self.settle(&rest);
        self.splitter.push(&rest)
    }

    /// `text` is final. A token that ended inside one of its graphemes leaves that grapheme to the token that completed it.
    fn settle(&mut self, text: &str) {
        let start = self.given;
        self.given += text.len();
        for (end, _) in self.ends.iter_mut().filter(|(end, _)| *end > start && *end < start + text.len()) {
            let inside = text.grapheme_indices(true).map(|(at, _)| at).take_while(|at| start + at <= *end).last();
            *end = start + inside.unwrap_or(0);
        }
    }

    /// Cuts pieces at the ends of tokens.
    fn attribute(&mut self, pieces: Vec<Piece>) -> Vec<(TextKind, String, u64)> {
        let mut out = Vec::with_capacity(pieces.len());
        for Piece { kind, text, mut at } in pieces {
            let mut rest = text.as_str();
            while !rest.is_empty() {
                while self.ends.len() > 1 && self.ends[0].0 <= at {
                    self.ends.pop_front();
                }
                let &(end, step) = self.ends.front().unwrap_or(&(usize::MAX, 0));
                // The last token takes whatever is left.
                let bytes = if end > at { rest.len().min(end - at) } else { rest.len() };
                let (head, tail) = rest.split_at_checked(bytes).unwrap_or((rest, ""));
                out.push((kind, head.to_owned(), step));
                at += head.len();
                rest = tail;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use TextKind::{Answer as Said, Thinking};

    /// Tokens chosen by steps 10, 11, ...; the pieces, those of one step and kind joined.
    fn spoken(prompt: &str, tokens: &[&[u8]]) -> Vec<(TextKind, String, u64)> {
        let mut answer = Answer::to(prompt, Format::Think);
        let mut all = Vec::new();
        for (i, token) in tokens.iter().enumerate() {
            all.extend(answer.take(token, 10 + i as u64));
        }
        all.extend(answer.end());
        let mut out: Vec<(TextKind, String, u64)> = Vec::new();
        for (kind, text, step) in all {
            match out.last_mut() {
                Some(last) if (last.0, last.2) == (kind, step) => last.1.push_str(&text),
                _ => out.push((kind, text, step)),
            }
        }
        out
    }

    fn said(text: &str, step: u64) -> (TextKind, String, u64) {
        (Said, text.into(), step)
    }

    #[test]
    fn every_token_keeps_its_own_letters() {
        let got = spoken("", &[b"Once", b" upon", b" a", b"\n", b"\n", b"time."]);
        assert_eq!(got, [said("Once", 10), said(" upon", 11), said(" a", 12), said("\n", 13), said("\n", 14), said("time.", 15)]);
    }

    #[test]
    fn a_grapheme_of_several_tokens_belongs_to_the_last_of_them() {
        let emoji = "\u{1f469}\u{200d}\u{1f4bb}".as_bytes();
        let got = spoken("", &[b"a", &emoji[..3], &emoji[3..8], &emoji[8..], b"b"]);
        assert_eq!(got, [said("a", 10), said("\u{1f469}\u{200d}\u{1f4bb}", 13), said("b", 14)]);
        let got = spoken("", &["cafe".as_bytes(), "\u{301} ok".as_bytes()]);
        assert_eq!(got, [said("caf", 10), said("e\u{301} ok", 11)]);
    }

    #[test]
    fn thinking_marks_shift_nothing() {
        let got = spoken("", &[b"<think>", b"\n", b"hmm", b", ", b"so", b"\n", b"</think>", b"\n\n", b"Yes", b" <b"]);
        let think = |text: &str, step| (Thinking, text.to_owned(), step);
        assert_eq!(got, [think("hmm", 12), think(", ", 13), think("so", 14), said("Yes", 18), said(" <b", 19)]);
    }

    #[test]
    fn marks_of_the_harmony_format_keep_texts_apart_and_shift_nothing() {
        let mut answer = Answer::to("<|start|>assistant", Format::Harmony);
        let mut all = Vec::new();
        let mut step = 9;
        let mut next = || {
            step += 1;
            step
        };
        let head = |answer: &mut Answer, channel: &[u8], next: &mut dyn FnMut() -> u64| {
            let mut out = answer.mark(Mark::Channel, next());
            out.extend(answer.take(channel, next()));
            out.extend(answer.mark(Mark::Message, next()));
            out
        };
        all.extend(head(&mut answer, b"analysis", &mut next));
        assert!(answer.is_thinking() && all.is_empty());
        // An accent that comes after a mark belongs to no letter before it, and broken bytes end with the message.
        for bytes in [b"hmm".as_slice(), b"e", b"\xe2\x82"] {
            all.extend(answer.take(bytes, next()));
        }
        all.extend(answer.mark(Mark::End, next()));
        all.extend(answer.mark(Mark::Start, next()));
        all.extend(answer.take(b"assistant", next()));
        all.extend(head(&mut answer, b"analysis", &mut next));
        all.extend(answer.take("\u{301}x".as_bytes(), next()));
        all.extend(answer.mark(Mark::Start, next()));
        all.extend(answer.take(b"assistant", next()));
        all.extend(head(&mut answer, b"final", &mut next));
        all.extend(answer.take(b"Yes", next()));
        all.extend(answer.take(b".", next()));
        all.extend(answer.end());
        let think = |text: &str, step| (Thinking, text.to_owned(), step);
        let mut joined: Vec<(TextKind, String, u64)> = Vec::new();
        for (kind, text, step) in all {
            match joined.last_mut() {
                Some(last) if (last.0, last.2) == (kind, step) => last.1.push_str(&text),
                _ => joined.push((kind, text, step)),
            }
        }
        let want = [
            think("hmm", 13),
            think("e", 14),
            think("\u{fffd}", 15),
            think("\n\n", 21),
            think("\u{301}x", 22),
            said("Yes", 28),
            said(".", 29),
        ];
        assert_eq!(joined, want);
    }

    proptest! {
        #[test]
        fn text_is_whole_and_steps_never_go_back(tokens in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 1..20)) {
            let tokens: Vec<&[u8]> = tokens.iter().map(Vec::as_slice).collect();
            let got = spoken("", &tokens);
            prop_assert!(got.windows(2).all(|w| w[0].2 <= w[1].2));
            let mut decoder = StreamDecoder::default();
            let mut plain = decoder.push(&tokens.concat());
            plain.push_str(&decoder.finish());
            prop_assume!(!plain.contains("think"));
            prop_assert_eq!(got.iter().map(|g| g.1.as_str()).collect::<String>(), plain);
        }

        #[test]
        fn ascii_tokens_come_back_as_they_were(words in prop::collection::vec("[ a-z]{1,6}|\n", 1..20)) {
            let tokens: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
            let got: Vec<(String, u64)> = spoken("p", &tokens).into_iter().map(|(_, text, step)| (text, step)).collect();
            let want: Vec<(String, u64)> = words.iter().enumerate().map(|(i, w)| (w.clone(), 10 + i as u64)).collect();
            prop_assert_eq!(got, want);
        }
    }
}
