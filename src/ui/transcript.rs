//! The chat as it is shown: items, their cached layout, and a view that never jumps.
//!
//! The source text is the truth; lines are a cache per item and width. While an answer grows, only its tail
//! (the block that is still open, see [`markdown::stable_end`]) is laid out again.
//!
//! The view is anchored to a line *of an item*, not to a line number, so it stays where it is when text is
//! appended below or a thinking block folds above. It follows the end only while it is at the end.

use super::markdown;
use super::origin::{Piece, Row};
use super::sanitize;
use super::theme::{Face, Theme};
use super::token_spans::TokenSpans;
use super::wrap::{wrap, Break};
use crate::events::{FinishReason, Role, TurnStats};
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};
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
    layout: Layout,
}

#[derive(Clone, Debug, Default)]
struct Layout {
    /// Bytes of the text whose lines are final at this width.
    stable_bytes: usize,
    stable: Vec<Row>,
    /// Earlier ends of the final part: bytes and rows.
    ends: Vec<(usize, usize)>,
    /// All rows, those of the reasoning first, then `stable`; rebuilt when dirty.
    lines: Vec<Row>,
    /// Rows of the reasoning, its head included.
    thought: usize,
    valid: bool,
}

impl Layout {
    /// The text ends at `bytes` again: what was final before that is.
    fn cut(&mut self, bytes: usize) {
        while self.stable_bytes > bytes {
            let (bytes, rows) = self.ends.pop().unwrap_or_default();
            (self.stable_bytes, self.valid) = (bytes, false);
            self.stable.truncate(rows);
        }
    }
}

impl Item {
    /// An item of the given kind.
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        let (tokens, thought_tokens) = Default::default();
        Self { kind, text: text.into(), tokens, thought_tokens, layout: Layout::default() }
    }

    /// Takes over from an earlier form of the same item what still holds: the layout, as far as the text is the same, and
    /// whether its reasoning is shown.
    fn go_on_from(&mut self, before: Self) {
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
    pub(super) fn part(&self, row: usize) -> Part {
        match row {
            0 if self.layout.thought > 0 => Part::ThoughtHead,
            _ if row < self.layout.thought => Part::Thought,
            _ => Part::Text,
        }
    }

    /// The tokens of a part.
    pub(super) fn tokens_of(&self, part: Part) -> &TokenSpans {
        if part == Part::Text {
            &self.tokens
        } else {
            &self.thought_tokens
        }
    }

    /// The rows of the layout.
    pub(super) fn rows(&self) -> &[Row] {
        &self.layout.lines
    }

    /// The text of the reasoning.
    pub(super) fn thought(&self) -> Option<&str> {
        match &self.kind {
            Kind::Assistant { thinking: Some(t), .. } => Some(&t.text),
            _ => None,
        }
    }

    /// The reasoning is there, but not shown.
    pub(super) fn folded(&self) -> bool {
        matches!(&self.kind, Kind::Assistant { thinking: Some(t), .. } if !t.open)
    }

    fn lay_out(&mut self, width: usize, theme: &Theme) {
        let mut lines: Vec<Row> = Vec::new();
        let mut thought = 0;
        let glyphs = theme.glyphs();
        match &self.kind {
            Kind::User => {
                let style = theme.style(Face::User);
                let text = sanitize::text(self.text.trim_end()).into_owned();
                let mark = format!("{} ", glyphs.pointer);
                for (index, line) in wrap(&[Piece::new(text, style)], width.saturating_sub(2), Break::Words).into_iter().enumerate() {
                    let lead = if index == 0 { mark.clone() } else { "  ".into() };
                    lines.push(prefixed(Span::styled(lead, style.add_modifier(Modifier::BOLD)), line, width));
                }
            }
            Kind::Note { error } => {
                let face = if *error { Face::Error } else { Face::Notice };
                let text = sanitize::text(&self.text).into_owned();
                for line in wrap(&[Piece::new(text, theme.style(face))], width.saturating_sub(2), Break::Words) {
                    let mark = if *error { "! " } else { "* " };
                    lines.push(prefixed(theme.span(face, mark), line, width));
                }
            }
            Kind::Assistant { thinking, ending } => {
                if let Some(thinking) = thinking {
                    lines.extend(thinking_lines(thinking, width, theme));
                    thought = lines.len();
                }
                let end = markdown::stable_end(&self.text);
                if end > self.layout.stable_bytes {
                    self.layout.ends.push((self.layout.stable_bytes, self.layout.stable.len()));
                    let fresh = markdown::render(&self.text[self.layout.stable_bytes..end], self.layout.stable_bytes, width, theme);
                    if !fresh.is_empty() {
                        self.layout.stable.extend(fresh);
                        self.layout.stable.push(Row::default());
                    }
                    self.layout.stable_bytes = end;
                }
                lines.extend(self.layout.stable.iter().cloned());
                lines.extend(markdown::render(&self.text[self.layout.stable_bytes..], self.layout.stable_bytes, width, theme));
                match ending {
                    None if self.text.is_empty() && thinking.is_none() => {
                        lines.push(Line::from(theme.span(Face::Dim, glyphs.ellipsis)).into());
                    }
                    None => {}
                    Some(ending) => {
                        let words = ending_words(ending, glyphs.dot);
                        // An answer of a saved chat has no numbers, and none to speak of if it ended well.
                        let lines_of = |words| wrap(&[Piece::new(words, theme.style(Face::Dim))], width, Break::Words);
                        lines.extend(words.map(lines_of).unwrap_or_default());
                    }
                }
            }
        }
        lines.push(Row::default());
        self.layout.lines = lines;
        self.layout.thought = thought;
        self.layout.valid = true;
    }
}

fn prefixed(lead: Span<'static>, row: Row, width: usize) -> Row {
    if width < 3 {
        return row;
    }
    let origin = row.shifted(lead.width()).collect();
    let mut spans = vec![lead];
    spans.extend(row.line.spans);
    Row { line: Line::from(spans), origin }
}

fn thinking_lines(thinking: &Thinking, width: usize, theme: &Theme) -> Vec<Row> {
    let style = theme.style(Face::Thinking);
    let mark = match (thinking.open, theme.ascii) {
        (true, false) => "▾ ",
        (false, false) => "▸ ",
        (true, true) => "v ",
        (false, true) => "> ",
    };
    let took = thinking.took.map(|t| seconds(t.as_secs_f64()));
    let mut head = match (thinking.done, took) {
        (false, None) => "thinking".to_owned(),
        (false, Some(took)) => format!("thinking for {took}"),
        (true, None) => "thoughts".to_owned(),
        (true, Some(took)) => format!("thought for {took}"),
    };
    if let Some(tokens) = thinking.tokens {
        head.push_str(&format!(", {tokens} token{}", if tokens == 1 { "" } else { "s" }));
    }
    let mut lines = wrap(&[Piece::new(format!("{mark}{head}"), style.add_modifier(Modifier::BOLD))], width, Break::Words);
    if thinking.open {
        let from_start = thinking.text.trim_start();
        let skipped = thinking.text.len() - from_start.len();
        let (text, map) = sanitize::text_and_map(from_start.trim_end());
        for mut row in wrap(&[Piece::from(text, style, 0)], width.saturating_sub(2), Break::Words) {
            if let Some(map) = &map {
                row.through(map);
            }
            row.origin.iter_mut().for_each(|run| run.source += skipped);
            lines.push(prefixed(Span::raw("  "), row, width));
        }
    }
    lines.push(Row::default());
    lines
}

/// "40 ms", "3.2 s", "1 min 4 s".
#[must_use]
pub fn seconds(s: f64) -> String {
    if s < 0.1 {
        format!("{:.0} ms", s * 1000.0)
    } else if s < 60.0 {
        format!("{s:.1} s")
    } else {
        format!("{} min {} s", (s / 60.0) as u64, (s % 60.0) as u64)
    }
}

fn ending_words(ending: &Ending, dot: &str) -> Option<String> {
    let stats = &ending.stats;
    let mut parts = Vec::new();
    match ending.reason {
        FinishReason::Stop => {}
        FinishReason::Length => parts.push("stopped at the token limit".to_owned()),
        FinishReason::ContextFull => parts.push("the context is full".to_owned()),
        FinishReason::Cancelled => parts.push("cancelled".to_owned()),
        FinishReason::Failed => parts.push("failed".to_owned()),
    }
    if stats.generated_tokens > 0 {
        parts.push(format!("{} tokens", stats.generated_tokens));
        if stats.decode_s > 0.0 {
            parts.push(format!("{:.1} tok/s", stats.generated_tokens as f64 / stats.decode_s));
        }
    }
    if stats.prompt_tokens > 0 {
        let read = stats.prompt_tokens.saturating_sub(stats.reused_tokens);
        parts.push(format!("prompt {read} read, {} reused, {}", stats.reused_tokens, seconds(stats.prefill_s)));
    }
    if stats.routed > 0 {
        parts.push(format!("hits {:.1}%", 100.0 * stats.hits as f64 / stats.routed as f64));
    }
    (!parts.is_empty()).then(|| parts.join(&format!(" {dot} ")))
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

/// The line at the top of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    item: usize,
    line: usize,
}

/// All items and the view of them.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    items: Vec<Item>,
    /// Of them, how many came from a recording that is played; what follows is the app's own.
    played: usize,
    /// `None` follows the end.
    anchor: Option<Anchor>,
    width: usize,
    height: usize,
}

impl Transcript {
    /// All items, oldest first.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Adds an item at the end.
    pub fn push(&mut self, item: Item) {
        self.items.push(item);
    }

    /// Changes an item; it is laid out again when next shown. Does nothing if there is none.
    pub fn change(&mut self, index: usize, how: impl FnOnce(&mut Item)) {
        if let Some(item) = self.items.get_mut(index) {
            how(item);
            item.layout.valid = false;
        }
    }

    /// Changes the last answer, if one is the last item but for notes.
    pub fn change_answer(&mut self, how: impl FnOnce(&mut Item)) {
        if let Some(index) = self.items.iter().rposition(|i| matches!(i.kind, Kind::Assistant { .. })) {
            self.change(index, how);
        }
    }

    /// Drops all items from `index` on.
    pub fn truncate(&mut self, index: usize) {
        self.items.truncate(index);
        if self.anchor.is_some_and(|a| a.item >= self.items.len()) {
            self.anchor = None;
        }
    }

    /// Shows another place of a recording, with as much of the layout as still holds. Notes of the app stay below.
    pub fn take_over(&mut self, there: Self) {
        let own = self.items.split_off(self.played.min(self.items.len()));
        let mut before = std::mem::take(&mut self.items).into_iter();
        self.items = there.items;
        for item in &mut self.items {
            if let Some(before) = before.next() {
                item.go_on_from(before);
            }
        }
        self.played = self.items.len();
        self.items.extend(own);
        if self.anchor.is_some_and(|a| a.item >= self.items.len()) {
            self.anchor = None;
        }
    }

    /// About how many bytes a copy takes that was never laid out.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tokens = |item: &Item| (item.tokens.len() + item.thought_tokens.len()) * size_of::<super::token_spans::Span>();
        self.items.iter().map(|i| size_of::<Item>() + i.text.len() + i.thought().map_or(0, str::len) + tokens(i)).sum()
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.items.clear();
        self.played = 0;
        self.anchor = None;
    }

    /// Colours or glyphs changed: lay out everything again when next shown.
    pub fn restyle(&mut self) {
        for item in &mut self.items {
            item.layout = Layout::default();
        }
    }

    /// Brings the layout up to date for a view of `width` x `height` cells.
    pub fn lay_out(&mut self, width: usize, height: usize, theme: &Theme) {
        if width != self.width {
            self.width = width;
            self.restyle();
        }
        self.height = height;
        for item in &mut self.items {
            if !item.layout.valid {
                item.lay_out(width, theme);
            }
        }
        if let Some(anchor) = &mut self.anchor {
            let lines = self.items.get(anchor.item).map_or(0, |i| i.layout.lines.len());
            anchor.line = anchor.line.min(lines.saturating_sub(1));
        }
        if self.anchor.is_some() && self.top() >= self.last_top() {
            self.anchor = None;
        }
    }

    /// Lines of the whole chat at the present width.
    #[must_use]
    pub fn line_count(&self) -> usize {
        // The empty line after the last item is not shown.
        self.items.iter().map(|i| i.layout.lines.len()).sum::<usize>().saturating_sub(1)
    }

    fn last_top(&self) -> usize {
        self.line_count().saturating_sub(self.height)
    }

    /// Number of the line at the top of the view.
    #[must_use]
    pub fn top(&self) -> usize {
        match self.anchor {
            None => self.last_top(),
            Some(a) => self.items.iter().take(a.item).map(|i| i.layout.lines.len()).sum::<usize>() + a.line,
        }
    }

    /// Lines below the view.
    #[must_use]
    pub fn lines_below(&self) -> usize {
        self.last_top().saturating_sub(self.top())
    }

    /// The view follows the end.
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.anchor.is_none()
    }

    fn set_top(&mut self, top: usize) {
        if top >= self.last_top() {
            self.anchor = None;
            return;
        }
        let mut line = top;
        for (item, i) in self.items.iter().enumerate() {
            if line < i.layout.lines.len() {
                self.anchor = Some(Anchor { item, line });
                return;
            }
            line -= i.layout.lines.len();
        }
        self.anchor = None;
    }

    /// Moves the view by lines, down if positive.
    pub fn scroll(&mut self, lines: isize) {
        self.set_top(self.top().saturating_add_signed(lines));
    }

    /// Moves the view by (almost) its height, or half of it.
    pub fn page(&mut self, down: bool, half: bool) {
        let step = if half { self.height / 2 } else { self.height.saturating_sub(2) }.max(1) as isize;
        self.scroll(if down { step } else { -step });
    }

    /// Shows the beginning.
    pub fn to_start(&mut self) {
        self.set_top(0);
    }

    /// Follows the end again.
    pub fn to_end(&mut self) {
        self.anchor = None;
    }

    /// Puts the next or previous thing that the person said at the top.
    pub fn to_prompt(&mut self, next: bool) {
        let top = self.top();
        let mut at = 0;
        let mut starts = Vec::new();
        for item in &self.items {
            if item.kind == Kind::User {
                starts.push(at);
            }
            at += item.layout.lines.len();
        }
        let found = if next { starts.iter().copied().find(|&s| s > top) } else { starts.iter().copied().rev().find(|&s| s < top) };
        match found {
            Some(start) => self.set_top(start),
            None if next => self.to_end(),
            None => self.to_start(),
        }
    }

    /// The lines in view, at most `height` of them.
    pub fn visible(&self) -> impl Iterator<Item = &Line<'static>> {
        self.visible_rows().map(|(_, _, row)| &row.line)
    }

    /// The rows in view, at most `height` of them, each with its item and its number within it.
    pub fn visible_rows(&self) -> impl Iterator<Item = (&Item, usize, &Row)> {
        let count = self.line_count();
        let top = self.top();
        let shown = count.saturating_sub(top).min(self.height);
        self.items.iter().flat_map(|item| item.layout.lines.iter().enumerate().map(move |(at, row)| (item, at, row))).skip(top).take(shown)
    }

    /// Rows that can be seen at once.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Scrolls so that line `line` of item `item` can be seen, if it can't: to the middle of the view.
    pub fn reveal(&mut self, item: usize, line: usize) {
        let at = self.items.iter().take(item).map(|i| i.layout.lines.len()).sum::<usize>() + line;
        let top = self.top();
        if at < top || at >= top + self.height {
            self.set_top(at.saturating_sub(self.height / 2));
        }
    }

    /// Opens or folds the thinking block of the last answer that has one. False if none has.
    pub fn toggle_thinking(&mut self) -> bool {
        let found = self.items.iter().rposition(|i| matches!(i.kind, Kind::Assistant { thinking: Some(_), .. }));
        if let Some(index) = found {
            self.change(index, |item| {
                if let Kind::Assistant { thinking: Some(t), .. } = &mut item.kind {
                    t.open = !t.open;
                }
            });
        }
        found.is_some()
    }

    /// The text of the last answer.
    #[must_use]
    pub fn last_answer(&self) -> Option<&str> {
        let answers = self.items.iter().rev().filter(|i| matches!(i.kind, Kind::Assistant { .. }));
        answers.map(|i| i.text.as_str()).find(|t| !t.is_empty())
    }

    /// Index of the last thing that the person said.
    #[must_use]
    pub fn last_prompt(&self) -> Option<usize> {
        self.items.iter().rposition(|i| i.kind == Kind::User)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::palette::ColorDepth;
    use proptest::prelude::*;

    fn theme() -> Theme {
        Theme::built_in("dark", ColorDepth::Indexed256, false)
    }

    fn answer(text: &str) -> Item {
        Item::new(Kind::Assistant { thinking: None, ending: None }, text)
    }

    fn view(t: &mut Transcript, width: usize, height: usize) -> Vec<String> {
        t.lay_out(width, height, &theme());
        t.visible().map(|l| l.to_string().trim_end().to_owned()).collect()
    }

    fn numbered(count: usize) -> String {
        (0..count).map(|i| format!("line {i}")).collect::<Vec<_>>().join("\n\n")
    }

    #[test]
    fn the_view_follows_the_end_until_scrolled_and_then_stays() {
        let mut t = Transcript::default();
        t.push(answer(&numbered(10)));
        assert_eq!(view(&mut t, 20, 3), ["line 8", "", "line 9"]);
        t.scroll(-4);
        let before = view(&mut t, 20, 3);
        assert_eq!(before, ["line 6", "", "line 7"]);
        t.change_answer(|i| i.text.push_str("\n\nline 10\n\nline 11"));
        assert_eq!(view(&mut t, 20, 3), before);
        assert_eq!(t.lines_below(), 8);
        t.scroll(100);
        assert!(t.at_end());
        assert_eq!(view(&mut t, 20, 3).last().unwrap(), "line 11");
    }

    #[test]
    fn folding_a_thought_above_does_not_move_what_is_read() {
        let mut t = Transcript::default();
        let thinking = Thinking { text: numbered(9), started: None, took: None, tokens: None, done: true, open: true };
        t.push(Item::new(Kind::Assistant { thinking: Some(thinking), ending: None }, "short"));
        t.push(Item::new(Kind::User, "next"));
        t.push(answer(&numbered(20)));
        view(&mut t, 20, 4);
        t.scroll(-10);
        let before = view(&mut t, 20, 4);
        t.toggle_thinking();
        assert_eq!(view(&mut t, 20, 4), before);
    }

    #[test]
    fn prompts_can_be_walked_in_both_directions() {
        let mut t = Transcript::default();
        for n in 0..3 {
            t.push(Item::new(Kind::User, format!("question {n}")));
            t.push(answer(&numbered(5)));
        }
        view(&mut t, 20, 4);
        t.to_prompt(false);
        assert_eq!(view(&mut t, 20, 4)[0], "▸ question 2");
        t.to_prompt(false);
        assert_eq!(view(&mut t, 20, 4)[0], "▸ question 1");
        t.to_prompt(true);
        assert_eq!(view(&mut t, 20, 4)[0], "▸ question 2");
    }

    #[test]
    fn a_finished_thought_shows_its_time_and_tokens_and_folds() {
        let mut t = Transcript::default();
        let thinking = Thinking {
            text: "hidden".into(),
            started: None,
            took: Some(Duration::from_millis(3240)),
            tokens: Some(57),
            done: true,
            open: false,
        };
        t.push(Item::new(Kind::Assistant { thinking: Some(thinking), ending: None }, "42"));
        assert_eq!(view(&mut t, 40, 9), ["▸ thought for 3.2 s, 57 tokens", "", "42"]);
    }

    #[test]
    fn an_empty_chat_has_no_lines() {
        let mut t = Transcript::default();
        assert!(view(&mut t, 10, 5).is_empty());
        t.scroll(-3);
        t.to_prompt(true);
        assert!(t.at_end());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn growing_piece_by_piece_shows_the_same_as_all_at_once(
            pieces in proptest::collection::vec("[a-z# *`\n-]{1,8}", 1..30), width in 3usize..30,
        ) {
            let mut grown = Transcript::default();
            grown.push(answer(""));
            for piece in &pieces {
                grown.change_answer(|i| i.text.push_str(piece));
                grown.lay_out(width, 5, &theme());
            }
            grown.to_start();
            let mut whole = Transcript::default();
            whole.push(answer(&pieces.concat()));
            whole.lay_out(width, 5, &theme());
            whole.to_start();
            prop_assert_eq!(view(&mut grown, width, 500), view(&mut whole, width, 500));
        }

        #[test]
        fn a_growing_call_of_a_tool_shows_the_same_as_all_at_once(
            text in "(a b\n|\n|```\n|<tool_call>|</tool_call>|\n<tool_call>\n|[{]\"x_y\": \"\\*z\\*\"[}]\n|- ){1,12}", cut in 0usize..60,
        ) {
            let cut = cut.min(text.len());
            let mut grown = Transcript::default();
            grown.push(answer(&text[..cut]));
            grown.lay_out(24, 5, &theme());
            grown.change_answer(|i| i.text.push_str(&text[cut..]));
            let mut whole = Transcript::default();
            whole.push(answer(&text));
            grown.to_start();
            whole.to_start();
            prop_assert_eq!(view(&mut grown, 24, 500), view(&mut whole, 24, 500));
        }

        #[test]
        fn a_replay_that_goes_on_and_back_shows_each_place_as_if_it_came_there_at_once(
            text in "(a b\n|\n|```\n|# x\n|- y\n|[|] a [|]\n|word ){1,40}", places in proptest::collection::vec(0usize..200, 1..12), width in 3usize..30,
        ) {
            let place = |at: usize| {
                let mut t = Transcript::default();
                t.push(Item::new(Kind::User, "hi"));
                t.push(answer(&text[..at.min(text.len())]));
                t
            };
            let mut played = Transcript::default();
            for at in places {
                played.take_over(place(at));
                played.lay_out(width, 5, &theme());
                let mut straight = place(at);
                straight.lay_out(width, 5, &theme());
                played.to_start();
                straight.to_start();
                prop_assert_eq!(view(&mut played, width, 500), view(&mut straight, width, 500));
            }
        }

        #[test]
        fn no_walk_through_the_chat_leaves_it(moves in proptest::collection::vec((-9isize..9, 1usize..40, 0usize..9), 1..20)) {
            let mut t = Transcript::default();
            t.push(Item::new(Kind::User, "hi 你好"));
            t.push(answer(&numbered(7)));
            for (by, width, height) in moves {
                t.scroll(by);
                t.lay_out(width, height, &theme());
                prop_assert!(t.top() <= t.line_count());
                prop_assert!(t.visible().count() <= height);
            }
        }
    }
}
