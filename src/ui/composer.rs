//! The input: several lines of text with a cursor, history and its search.
//!
//! The cursor moves by graphemes and, up and down, by rows as they are shown. Pastes come in two ways: as one
//! bracketed paste, or, in terminals without that, as a burst of keys. In a burst, Enter must not send: it is
//! held back for a moment, and if more keys follow at typing-machine speed it was a line break of the paste.

use super::sanitize;
use super::wrap::{columns, fit};
use std::time::{Duration, Instant};
use unicode_segmentation::UnicodeSegmentation;

/// Keys closer together than this were not typed by hand.
const BURST_GAP: Duration = Duration::from_millis(8);
/// How long an Enter at the end of a burst waits for more keys.
const ENTER_HOLD: Duration = Duration::from_millis(40);
/// Keys in a row that make a burst.
const BURST_KEYS: u32 = 3;
/// Most bytes of input; a longer paste is cut, and the person is told.
pub const MAX_INPUT: usize = 1 << 20;
/// Remembered inputs.
const MAX_HISTORY: usize = 500;

/// Keeps typed text apart from pasted text by the time between keys.
#[derive(Clone, Debug, Default)]
struct Burst {
    last_key: Option<Instant>,
    fast_keys: u32,
    held_enter: Option<Instant>,
    /// A held Enter of this burst has turned out to be a line break.
    is_paste: bool,
    /// The terminal marks its pastes, so bursts mean nothing.
    off: bool,
}

/// Search through the history, as Ctrl-R starts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// What is looked for.
    pub query: String,
    /// The entry found, by its place in the history.
    pub found: Option<usize>,
}

/// The input and everything that belongs to it.
#[derive(Clone, Debug, Default)]
pub struct Composer {
    text: String,
    /// Byte offset, always at a grapheme border.
    cursor: usize,
    /// Column that up and down keep to.
    goal: Option<usize>,
    history: Vec<String>,
    /// Place in the history while walking it, and the text from before.
    walk: Option<(usize, String)>,
    search: Option<Search>,
    burst: Burst,
}

/// What became of an Enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enter {
    /// Send now.
    Send,
    /// Wait: ask again at [`Composer::deadline`].
    Held,
}

/// How the text lies on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Byte ranges of the text, one per row.
    pub rows: Vec<std::ops::Range<usize>>,
    /// Row and column of the cursor.
    pub cursor: (usize, usize),
}

impl Composer {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Nothing was typed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Replaces the text and puts the cursor at its end.
    pub fn set(&mut self, text: impl Into<String>) {
        self.text = text.into();
        self.cursor = self.text.len();
        self.goal = None;
    }

    /// Empties the input and returns what was in it, remembered in the history.
    pub fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        self.remember(&text);
        self.clear();
        text
    }

    /// Empties the input.
    pub fn clear(&mut self) {
        self.set("");
        self.walk = None;
        self.search = None;
        self.burst.held_enter = None;
    }

    /// Adds an input to the history, unless it repeats the newest.
    pub fn remember(&mut self, text: &str) {
        if !text.trim().is_empty() && self.history.last().is_none_or(|h| h != text) {
            self.history.push(text.to_owned());
            if self.history.len() > MAX_HISTORY {
                self.history.remove(0);
            }
        }
    }

    /// A character was typed.
    pub fn type_char(&mut self, c: char, now: Instant) {
        if let Some(search) = &mut self.search {
            search.query.push(c);
            self.find(self.history.len());
            return;
        }
        let fast = self.burst.last_key.is_some_and(|t| now.duration_since(t) < BURST_GAP);
        self.burst.fast_keys = if fast { self.burst.fast_keys + 1 } else { 0 };
        if !fast {
            self.burst.is_paste = false;
        }
        self.burst.last_key = Some(now);
        if self.burst.held_enter.take().is_some() {
            self.burst.is_paste = true;
            self.insert("\n");
        }
        let mut buffer = [0; 4];
        self.insert(c.encode_utf8(&mut buffer));
    }

    /// Enter was pressed.
    pub fn enter(&mut self, now: Instant) -> Enter {
        let fast = self.burst.last_key.is_some_and(|t| now.duration_since(t) < BURST_GAP);
        if self.burst.off || !fast || self.burst.fast_keys < BURST_KEYS {
            return Enter::Send;
        }
        self.burst.last_key = Some(now);
        if self.burst.is_paste || self.burst.held_enter.is_some() {
            self.insert("\n");
            self.burst.is_paste = true;
            self.burst.held_enter = None;
        } else {
            self.burst.held_enter = Some(now);
        }
        Enter::Held
    }

    /// When a held Enter is to be decided with [`Composer::held_enter_is_due`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.burst.held_enter.map(|t| t + ENTER_HOLD)
    }

    /// No key followed a held Enter, so it was one: send.
    pub fn held_enter_is_due(&mut self, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|t| now >= t);
        if due {
            self.burst.held_enter = None;
        }
        due
    }

    /// The terminal marked a paste. Returns false if it had to be cut.
    pub fn paste(&mut self, text: &str) -> bool {
        self.burst.off = true;
        self.search = None;
        let clean = sanitize::text(text);
        let room = MAX_INPUT.saturating_sub(self.text.len());
        let mut end = room.min(clean.len());
        while !clean.is_char_boundary(end) {
            end -= 1;
        }
        self.insert(&clean[..end]);
        end == clean.len()
    }

    /// Inserts text at the cursor.
    pub fn insert(&mut self, text: &str) {
        if self.text.len() + text.len() > MAX_INPUT {
            return;
        }
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
        // The new text may have joined with what follows into one grapheme.
        self.cursor = self.border_at_or_after(self.cursor);
        self.goal = None;
        self.walk = None;
    }

    fn border_at_or_after(&self, at: usize) -> usize {
        self.text.grapheme_indices(true).map(|(i, _)| i).find(|&i| i >= at).unwrap_or(self.text.len())
    }

    fn before(&self) -> usize {
        self.text[..self.cursor].grapheme_indices(true).next_back().map_or(0, |(i, _)| i)
    }

    fn after(&self) -> usize {
        self.text[self.cursor..].graphemes(true).next().map_or(self.cursor, |g| self.cursor + g.len())
    }

    fn word_before(&self) -> usize {
        let words = self.text[..self.cursor].split_word_bound_indices();
        words.rev().find(|(_, w)| !w.trim().is_empty()).map_or(0, |(i, _)| i)
    }

    fn word_after(&self) -> usize {
        let words = self.text[self.cursor..].split_word_bound_indices();
        let mut found = words.filter(|(_, w)| !w.trim().is_empty());
        found.next().map_or(self.text.len(), |(i, w)| self.cursor + i + w.len())
    }

    fn go(&mut self, to: usize) {
        self.cursor = to;
        self.goal = None;
    }

    fn cut(&mut self, from: usize, to: usize) {
        self.text.replace_range(from..to, "");
        self.cursor = self.border_at_or_after(from);
        self.goal = None;
        self.walk = None;
    }

    /// One grapheme to the left.
    pub fn left(&mut self) {
        self.go(self.before());
    }

    /// One grapheme to the right.
    pub fn right(&mut self) {
        self.go(self.after());
    }

    /// To the start of the word before.
    pub fn word_left(&mut self) {
        self.go(self.word_before());
    }

    /// To the end of the word after.
    pub fn word_right(&mut self) {
        self.go(self.word_after());
    }

    /// To the start of the line.
    pub fn home(&mut self) {
        self.go(self.text[..self.cursor].rfind('\n').map_or(0, |i| i + 1));
    }

    /// To the end of the line.
    pub fn end(&mut self) {
        self.go(self.text[self.cursor..].find('\n').map_or(self.text.len(), |i| self.cursor + i));
    }

    /// Deletes the grapheme before the cursor.
    pub fn backspace(&mut self) {
        if let Some(search) = &mut self.search {
            search.query.pop();
            self.find(self.history.len());
            return;
        }
        self.cut(self.before(), self.cursor);
    }

    /// Deletes the grapheme after the cursor.
    pub fn delete(&mut self) {
        self.cut(self.cursor, self.after());
    }

    /// Deletes the word before the cursor.
    pub fn delete_word(&mut self) {
        self.cut(self.word_before(), self.cursor);
    }

    /// Deletes to the end of the line, or the line break if there is nothing before it.
    pub fn delete_to_end(&mut self) {
        let start = self.cursor;
        self.end();
        let end = if self.cursor == start { self.after() } else { self.cursor };
        self.cut(start, end);
    }

    /// One row up, or one entry back in the history from the first row.
    pub fn up(&mut self, width: usize) {
        let rows = self.rows(width);
        if rows.cursor.0 == 0 {
            self.older();
        } else {
            self.go_to_row(&rows, rows.cursor.0 - 1);
        }
    }

    /// One row down, or one entry forward in the history from the last row.
    pub fn down(&mut self, width: usize) {
        let rows = self.rows(width);
        if rows.cursor.0 + 1 >= rows.rows.len() {
            self.newer();
        } else {
            self.go_to_row(&rows, rows.cursor.0 + 1);
        }
    }

    fn go_to_row(&mut self, rows: &Rows, row: usize) {
        let goal = self.goal.unwrap_or(rows.cursor.1);
        let range = rows.rows[row].clone();
        let text = &self.text[range.clone()];
        let mut at = range.start + fit(text, goal).len();
        // The end of a wrapped row is the start of the next one: stay before its last grapheme.
        if at == range.end && rows.rows.get(row + 1).is_some_and(|next| next.start == at) && at > range.start {
            at = range.start + text.grapheme_indices(true).next_back().map_or(0, |(i, _)| i);
        }
        self.cursor = at;
        self.goal = Some(goal);
    }

    fn older(&mut self) {
        let at = self.walk.as_ref().map_or(self.history.len(), |(at, _)| *at);
        if at > 0 {
            let draft = self.walk.take().map_or_else(|| self.text.clone(), |(_, draft)| draft);
            self.set(self.history[at - 1].clone());
            self.walk = Some((at - 1, draft));
        }
    }

    fn newer(&mut self) {
        if let Some((at, draft)) = self.walk.take() {
            if at + 1 < self.history.len() {
                self.set(self.history[at + 1].clone());
                self.walk = Some((at + 1, draft));
            } else {
                self.set(draft);
            }
        }
    }

    /// The search that is going on.
    #[must_use]
    pub fn search(&self) -> Option<&Search> {
        self.search.as_ref()
    }

    /// The history entry that the search found.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.history.get(self.search.as_ref()?.found?).map(String::as_str)
    }

    /// Starts the search, or goes on to an older entry.
    pub fn search_older(&mut self) {
        match &self.search {
            None => {
                self.search = Some(Search::default());
                self.find(self.history.len());
            }
            Some(search) => {
                let from = search.found.unwrap_or(self.history.len());
                self.find(from);
            }
        }
    }

    fn find(&mut self, before: usize) {
        let Some(search) = &mut self.search else { return };
        let wanted = search.query.to_lowercase();
        let found = self.history[..before.min(self.history.len())].iter().rposition(|h| h.to_lowercase().contains(&wanted));
        if found.is_some() || before == self.history.len() {
            search.found = found;
        }
    }

    /// Ends the search, taking what was found or leaving the input as it was.
    pub fn end_search(&mut self, take: bool) {
        let found = self.found().map(str::to_owned);
        self.search = None;
        if let (true, Some(found)) = (take, found) {
            self.set(found);
        }
    }

    /// Lays the text out in rows of `width` columns. Rows break after spaces where they can; spaces may hang
    /// over the edge.
    #[must_use]
    pub fn rows(&self, width: usize) -> Rows {
        let width = width.max(1);
        let mut rows = Vec::new();
        let mut line_start = 0;
        for line in self.text.split('\n') {
            let mut start = line_start;
            let mut used = 0;
            let mut space: Option<(usize, usize)> = None;
            for (offset, grapheme) in line.grapheme_indices(true) {
                let at = line_start + offset;
                let wide = columns(grapheme);
                if grapheme != " " && used + wide > width && at > start {
                    let (next, rest) = space.take().map_or((at, 0), |(next, before)| (next, used - before));
                    rows.push(start..next);
                    start = next;
                    used = rest;
                }
                used += wide;
                if grapheme == " " {
                    space = Some((at + 1, used));
                }
            }
            rows.push(start..line_start + line.len());
            line_start += line.len() + 1;
        }
        let row = rows.iter().rposition(|r| r.start <= self.cursor).unwrap_or(0);
        let column = columns(&self.text[rows[row].start..self.cursor]).min(width - 1);
        Rows { rows, cursor: (row, column) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(text: &str) -> Composer {
        let mut c = Composer::default();
        c.set(text);
        c
    }

    fn shown(c: &Composer, width: usize) -> Vec<String> {
        c.rows(width).rows.iter().map(|r| c.text[r.clone()].to_owned()).collect()
    }

    #[test]
    fn deleting_takes_whole_graphemes() {
        let mut c = with("a👨‍👩‍👧");
        c.backspace();
        assert_eq!(c.text(), "a");
        c.set("e\u{301}");
        c.left();
        c.delete();
        assert!(c.is_empty());
    }

    #[test]
    fn words_are_walked_and_deleted() {
        let mut c = with("one two  three");
        c.delete_word();
        assert_eq!(c.text(), "one two  ");
        c.word_left();
        c.delete_to_end();
        assert_eq!(c.text(), "one ");
    }

    #[test]
    fn rows_break_after_spaces_and_the_cursor_follows() {
        let c = with("hello big world");
        assert_eq!(shown(&c, 9), ["hello big ", "world"]);
        assert_eq!(shown(&with("你好世界"), 4), ["你好", "世界"]);
    }

    #[test]
    fn up_on_the_first_row_goes_back_in_history_and_down_returns_to_the_draft() {
        let mut c = Composer::default();
        c.remember("first");
        c.remember("second");
        c.set("draft");
        c.up(20);
        c.up(20);
        assert_eq!(c.text(), "first");
        c.down(20);
        c.down(20);
        assert_eq!(c.text(), "draft");
    }

    #[test]
    fn up_and_down_keep_their_column_over_short_rows() {
        let mut c = with("abcdef\nx\nuvwxyz");
        c.up(20);
        c.up(20);
        assert_eq!(c.rows(20).cursor, (0, 6));
        c.down(20);
        assert_eq!(c.rows(20).cursor, (1, 1));
    }

    #[test]
    fn enter_by_hand_sends_at_once() {
        let mut c = Composer::default();
        let mut now = Instant::now();
        for ch in "hello".chars() {
            c.type_char(ch, now);
            now += Duration::from_millis(60);
        }
        assert_eq!(c.enter(now), Enter::Send);
    }

    #[test]
    fn a_burst_of_keys_with_line_breaks_stays_in_the_input() {
        let mut c = Composer::default();
        let now = Instant::now();
        for ch in "first line\nsecond\nthird\n".chars() {
            match ch {
                '\n' => assert_eq!(c.enter(now), Enter::Held),
                ch => c.type_char(ch, now),
            }
        }
        assert_eq!(c.text(), "first line\nsecond\nthird\n");
        assert!(!c.held_enter_is_due(now + Duration::from_secs(1)));
    }

    #[test]
    fn one_fast_line_with_enter_is_sent_after_a_moment() {
        let mut c = Composer::default();
        let now = Instant::now();
        "send-keys".chars().for_each(|ch| c.type_char(ch, now));
        assert_eq!(c.enter(now), Enter::Held);
        assert!(!c.held_enter_is_due(now));
        assert!(c.held_enter_is_due(c.deadline().unwrap()));
        assert_eq!(c.text(), "send-keys");
    }

    #[test]
    fn search_finds_newest_first_then_older() {
        let mut c = Composer::default();
        for h in ["alpha one", "beta", "alpha two"] {
            c.remember(h);
        }
        let now = Instant::now();
        c.search_older();
        "alp".chars().for_each(|ch| c.type_char(ch, now));
        assert_eq!(c.found(), Some("alpha two"));
        c.search_older();
        assert_eq!(c.found(), Some("alpha one"));
        c.search_older();
        assert_eq!(c.found(), Some("alpha one"));
        c.end_search(true);
        assert_eq!(c.text(), "alpha one");
    }

    #[test]
    fn pastes_are_cleaned_and_cut_at_the_limit() {
        let mut c = Composer::default();
        assert!(c.paste("a\x1b[31mb\r\nc"));
        assert_eq!(c.text(), "a[31mb\nc");
        assert!(!c.paste(&"é".repeat(MAX_INPUT)));
        assert!(c.text().len() <= MAX_INPUT);
    }

    proptest! {
        #[test]
        fn no_edit_leaves_the_text_or_tears_a_grapheme(
            keys in proptest::collection::vec(0u8..16, 0..60), typed in "[a b你é👍🏽\u{200d}\u{301}]{0,30}", width in 1usize..12,
        ) {
            let mut c = Composer::default();
            let now = Instant::now();
            let mut typed = typed.chars().cycle();
            for key in keys {
                match key {
                    0 => c.left(),
                    1 => c.right(),
                    2 => c.word_left(),
                    3 => c.word_right(),
                    4 => c.up(width),
                    5 => c.down(width),
                    6 => c.home(),
                    7 => c.end(),
                    8 => c.backspace(),
                    9 => c.delete(),
                    10 => c.delete_word(),
                    11 => c.delete_to_end(),
                    12 => c.insert("\n"),
                    _ => if let Some(ch) = typed.next() { c.type_char(ch, now) },
                }
                let borders: Vec<usize> = c.text.grapheme_indices(true).map(|(i, _)| i).chain([c.text.len()]).collect();
                prop_assert!(borders.contains(&c.cursor));
                let rows = c.rows(width);
                let joined: String = rows.rows.iter().map(|r| &c.text[r.clone()]).collect();
                prop_assert_eq!(joined, c.text.replace('\n', ""));
                prop_assert!(rows.cursor.1 < width);
            }
        }
    }
}
