//! The chat as it is shown: items, their cached layout, and a view that never jumps.
//!
//! The view is anchored to a line *of an item*, not to a line number, so it stays where it is when text is
//! appended below or a thinking block folds above. It follows the end only while it is at the end.

mod item;
mod layout;

pub use item::{role, Ending, Item, Kind, Part, Thinking};

use super::origin::Row;
use super::theme::Theme;
use layout::Layout;
use ratatui::text::Line;

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

    /// Takes out all items from `index` on.
    pub fn split_off(&mut self, index: usize) -> Vec<Item> {
        let rest = self.items.split_off(index.min(self.items.len()));
        self.truncate(index);
        rest
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

#[cfg(test)]
mod tests;
