//! Cuts an answer into Markdown and tool calls.
//!
//! Models write a call of a tool as `<tool_call>` ... `</tool_call>`, with JSON or more XML between. As Markdown its
//! underscores and stars would be read as marks and its lines run together, so it is shown word for word instead. What a
//! code fence holds is code, whatever it says.

/// What the answer writes around a call, or around what a tool said.
const TAGS: [(&str, &str, &str); 3] = [
    ("<tool_call>", "</tool_call>", "tool call"),
    ("<tool_response>", "</tool_response>", "tool response"),
    ("<function_call>", "</function_call>", "tool call"),
];

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment<'a> {
    /// To be read as Markdown.
    Markdown(&'a str),
    /// To be shown word for word: what it is, and the text with its tags. It may not be closed yet.
    Tool(&'static str, &'a str),
}

/// Where a line of a growing answer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Neither in a code fence nor in a tool call.
    Open,
    /// In a code fence, its first and last lines included.
    Fence,
    /// In a tool call, its first and last lines included: what it is, and whether this line begins it.
    Tool(&'static str, bool),
}

/// Follows an answer line by line.
#[derive(Default)]
pub(super) struct Scan {
    fence: Option<(char, usize)>,
    tool: Option<(&'static str, &'static str)>,
}

impl Scan {
    /// Neither a code fence nor a tool call is open.
    pub(super) fn is_open(&self) -> bool {
        self.fence.is_none() && self.tool.is_none()
    }

    /// Where the next line lies.
    pub(super) fn line(&mut self, line: &str) -> Place {
        let body = line.trim();
        if let Some((close, name)) = self.tool {
            if body.contains(close) {
                self.tool = None;
            }
            return Place::Tool(name, false);
        }
        let mark = body.chars().next().filter(|c| matches!(c, '`' | '~'));
        let run = mark.map_or(0, |m| body.chars().take_while(|&c| c == m).count());
        match (self.fence, mark) {
            (None, Some(m)) if run >= 3 => self.fence = Some((m, run)),
            (None, _) => {
                let Some((open, close, name)) = TAGS.into_iter().find(|(open, ..)| body.starts_with(open)) else { return Place::Open };
                if !body[open.len()..].contains(close) {
                    self.tool = Some((close, name));
                }
                return Place::Tool(name, true);
            }
            (Some((open, length)), Some(m)) if m == open && run >= length && run == body.chars().count() => self.fence = None,
            (Some(_), _) => {}
        }
        Place::Fence
    }
}

/// The parts of `source` in order; together they are all of it.
pub(super) fn segments(source: &str) -> Vec<Segment<'_>> {
    let mut out = Vec::new();
    let mut scan = Scan::default();
    let (mut start, mut at) = (0, 0);
    let mut now: Option<&'static str> = None;
    let mut cut = |from: usize, to: usize, kind: Option<&'static str>| {
        if to > from {
            out.push(kind.map_or(Segment::Markdown(&source[from..to]), |name| Segment::Tool(name, &source[from..to])));
        }
    };
    for line in source.split_inclusive('\n') {
        let (kind, begins) = match scan.line(line) {
            Place::Tool(name, begins) => (Some(name), begins),
            Place::Open | Place::Fence => (None, false),
        };
        if kind != now || begins {
            cut(start, at, now);
            (start, now) = (at, kind);
        }
        at += line.len();
    }
    cut(start, at, now);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_told_from_the_text_around_it() {
        let call = "<tool_call>\n{\"name\": \"get_*_b\"}\n</tool_call>\n";
        let text = format!("Let me look.\n{call}{call}Done.");
        let want = [
            Segment::Markdown("Let me look.\n"),
            Segment::Tool("tool call", call),
            Segment::Tool("tool call", call),
            Segment::Markdown("Done."),
        ];
        assert_eq!(segments(&text), want);
    }

    #[test]
    fn a_call_on_one_line_ends_there() {
        let text = "<tool_call>{}</tool_call>\nafter";
        assert_eq!(segments(text), [Segment::Tool("tool call", "<tool_call>{}</tool_call>\n"), Segment::Markdown("after")]);
    }

    #[test]
    fn code_and_prose_may_speak_of_calls() {
        for text in ["```\n<tool_call>\n```\nx", "Write <tool_call> first.\nThen </tool_call>."] {
            assert_eq!(segments(text), [Segment::Markdown(text)]);
        }
    }

    #[test]
    fn a_call_that_is_being_written_is_one_already() {
        assert_eq!(segments("<tool_call>\n{\"na"), [Segment::Tool("tool call", "<tool_call>\n{\"na")]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "(a|\n|```\n|<tool_call>|</tool_call>|\n<tool_response>\n| |~~~){0,20}") {
            let all: String = segments(&text).iter().map(|s| match s { Segment::Markdown(t) | Segment::Tool(_, t) => *t }).collect();
            prop_assert_eq!(all, text);
        }
    }
}
