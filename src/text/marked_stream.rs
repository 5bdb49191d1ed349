//! Streams of formats whose marks are control tokens, for the tests of what splits them.

use super::format::{Format, Mark};
use super::splitter::{Piece, Splitter, PARAGRAPH};
use crate::events::TextKind;

/// A part of a stream: a text, or the token that is a mark.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Text(String),
    Mark(Mark),
}

/// A stream in which the marks of the format are written out.
pub(super) fn parts(format: Format, stream: &str) -> Vec<Part> {
    let (mut out, mut text, mut rest) = (Vec::new(), String::new(), stream);
    while let Some(c) = rest.chars().next() {
        if let Some((spelling, mark)) = format.spellings().iter().find(|(s, _)| rest.starts_with(s)) {
            out.extend([Part::Text(std::mem::take(&mut text)), Part::Mark(*mark)]);
            rest = &rest[spelling.len()..];
        } else {
            text.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out.push(Part::Text(text));
    out
}

/// The same stream, its texts in pieces of so many characters in turn.
pub(super) fn cut(stream: &[Part], lengths: &[usize]) -> Vec<Part> {
    let mut lengths = lengths.iter().cycle();
    let mut out = Vec::new();
    for part in stream {
        let Part::Text(text) = part else {
            out.push(part.clone());
            continue;
        };
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let at = rest.char_indices().nth(*lengths.next().unwrap()).map_or(rest.len(), |(at, _)| at);
            out.push(Part::Text(rest[..at].into()));
            rest = &rest[at..];
        }
    }
    out
}

/// What comes of a stream, pieces of a kind joined, and whether it ended the turn; nothing after that is looked at. `check` sees the splitter after each part.
pub(super) fn split(mut splitter: Splitter, stream: &[Part], check: impl Fn(&Splitter)) -> (Vec<(TextKind, String)>, bool) {
    let (mut out, mut all): (Vec<(TextKind, String)>, _) = (Vec::new(), String::new());
    let mut add = |all: &str, pieces: Vec<Piece>| {
        for piece in pieces {
            assert_eq!(&all[piece.at..][..piece.text.len()], piece.text, "a piece says where it is from");
            match out.last_mut() {
                Some((kind, text)) if *kind == piece.kind => text.push_str(&piece.text),
                _ => out.push((piece.kind, piece.text)),
            }
        }
    };
    for part in stream {
        let pieces = match part {
            Part::Text(text) => {
                all.push_str(text);
                splitter.push(text)
            }
            Part::Mark(mark) => {
                all.push_str(PARAGRAPH);
                splitter.mark(*mark)
            }
        };
        add(&all, pieces);
        check(&splitter);
        if splitter.is_over() {
            break;
        }
    }
    add(&all, splitter.finish());
    (out, splitter.is_over())
}
