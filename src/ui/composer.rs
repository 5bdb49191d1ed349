//! The input: several lines of text with a cursor, history and its search.
//!
//! The cursor moves by graphemes and, up and down, by rows as they are shown.

mod burst;
mod history;
mod rows;

pub use burst::Enter;
pub use history::Search;
pub use rows::Rows;

use burst::Burst;
use unicode_segmentation::UnicodeSegmentation;

/// Most bytes of input; a longer paste is cut, and the person is told.
pub const MAX_INPUT: usize = 1 << 20;

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
    /// What was in the input before an earlier one came into it to be edited.
    aside: Option<String>,
    burst: Burst,
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

    /// Puts what is in the input aside until [`Composer::take_back`]. What is aside already stays there.
    pub fn set_aside(&mut self) {
        if self.aside.is_none() && !self.text.trim().is_empty() {
            self.aside = Some(self.text.clone());
        }
    }

    /// What was put aside is in the input again, if anything was.
    pub fn take_back(&mut self) {
        if let Some(text) = self.aside.take() {
            self.set(text);
        }
    }

    /// Empties the input.
    pub fn clear(&mut self) {
        self.set("");
        self.walk = None;
        self.search = None;
        self.burst.held_enter = None;
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

    /// Deletes to the start of the line, or the line break if there is nothing before it.
    pub fn delete_to_start(&mut self) {
        let end = self.cursor;
        self.home();
        let start = if self.cursor == end { self.before() } else { self.cursor };
        self.cut(start, end);
    }

    /// Deletes to the end of the line, or the line break if there is nothing before it.
    pub fn delete_to_end(&mut self) {
        let start = self.cursor;
        self.end();
        let end = if self.cursor == start { self.after() } else { self.cursor };
        self.cut(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

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
