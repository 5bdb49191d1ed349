//! Which rectangle each part of the screen gets. Pure.
//!
//! ```text
//! 120x32 and more                      60x16 and more         smaller: the pane with the keyboard
//! +- chat -------+- heatmap ----+      +- one pane ------+
//! |              |              |      +- chat ----------+
//! |              +- memory -----+      |                 |
//! |- input ------|              |      |- input ---------|
//! +--------------+--------------+      +-----------------+
//!  status                               status
//! ```

use super::state::Focus;
use ratatui::layout::Rect;

/// Smallest terminal with all three panes.
pub const ALL_PANES: (u16, u16) = (120, 32);
/// Smallest terminal with the chat and one pane.
pub const TWO_PANES: (u16, u16) = (60, 16);
/// Smallest terminal with anything but a message.
pub const ANYTHING: (u16, u16) = (20, 5);

/// The parts of the chat pane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatAreas {
    /// All of it, with its frame if there is room for one.
    pub frame: Rect,
    /// It has a frame.
    pub framed: bool,
    /// The chat.
    pub transcript: Rect,
    /// The line over the input.
    pub rule: Rect,
    /// The input, without its mark.
    pub input: Rect,
}

/// All parts of the screen. Empty rectangles are not drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Areas {
    /// The terminal is too small for anything but this message.
    pub message: Rect,
    /// The chat.
    pub chat: ChatAreas,
    /// The heatmap, with its frame.
    pub heatmap: Rect,
    /// The memory pane, with its frame.
    pub memory: Rect,
    /// The status line.
    pub status: Rect,
    /// The pane with the keyboard has all the room, and the chat lies behind it.
    pub alone: bool,
}

/// Columns of the mark before the input.
pub const INPUT_MARK: u16 = 2;

impl Areas {
    /// Lays out `area`. The pane with the keyboard comes first, then the one beside the chat where there is room for one; `whole`: the
    /// first has all the room. `input_rows` tells how many rows the input needs at a width.
    #[must_use]
    pub fn of(area: Rect, (focus, side): (Focus, Focus), whole: bool, input_rows: impl Fn(u16) -> u16) -> Self {
        let fits = |(columns, rows): (u16, u16)| area.width >= columns && area.height >= rows;
        if !fits(ANYTHING) {
            return Self { message: area, ..Self::default() };
        }
        let (main, status) = split_bottom(area, 1);
        let mut areas = Self { status, ..Self::default() };
        let chat = if fits(ALL_PANES) && !whole {
            let right = (main.width * 45 / 100).clamp(56, 134);
            let (chat, column) = split_right(main, right);
            // The memory pane has lines to show, the heatmap grows with what is left.
            let memory = (column.height * 2 / 5).clamp(13, 20);
            (areas.heatmap, areas.memory) = split_bottom(column, memory);
            chat
        } else if fits(TWO_PANES) && !whole {
            let shown = if focus == Focus::Chat { side } else { focus };
            // The pane that is worked with gets the larger part.
            let share = if focus == Focus::Chat { 40 } else { 60 };
            let (pane, chat) = if main.width >= ALL_PANES.0 {
                let (chat, pane) = split_right(main, main.width * 45 / 100);
                (pane, chat)
            } else {
                let (pane, chat) = split_bottom(main, main.height - (main.height * share / 100).max(6));
                (pane, chat)
            };
            if shown == Focus::Memory {
                areas.memory = pane;
            } else {
                areas.heatmap = pane;
            }
            chat
        } else {
            match focus {
                Focus::Chat => {}
                Focus::Heatmap => areas.heatmap = main,
                Focus::Memory => areas.memory = main,
            }
            areas.alone = focus != Focus::Chat;
            main
        };
        areas.chat = chat_areas(chat, fits(TWO_PANES), input_rows);
        areas
    }
}

fn chat_areas(frame: Rect, framed: bool, input_rows: impl Fn(u16) -> u16) -> ChatAreas {
    let inner =
        if framed { Rect::new(frame.x + 1, frame.y + 1, frame.width.saturating_sub(2), frame.height.saturating_sub(2)) } else { frame };
    let columns = inner.width.saturating_sub(INPUT_MARK);
    let most = (inner.height / 3).max(1);
    let (above, input) = split_bottom(inner, input_rows(columns).clamp(1, most));
    let (transcript, rule) = split_bottom(above, 1);
    let input = Rect::new(input.x + INPUT_MARK.min(input.width), input.y, columns, input.height);
    ChatAreas { frame, framed, transcript, rule, input }
}

/// The rest, and the lowest `rows`.
fn split_bottom(area: Rect, rows: u16) -> (Rect, Rect) {
    let rows = rows.min(area.height);
    let rest = area.height - rows;
    (Rect { height: rest, ..area }, Rect { y: area.y + rest, height: rows, ..area })
}

/// The rest, and the rightmost `columns`.
fn split_right(area: Rect, columns: u16) -> (Rect, Rect) {
    let columns = columns.min(area.width);
    let rest = area.width - columns;
    (Rect { width: rest, ..area }, Rect { x: area.x + rest, width: columns, ..area })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(columns: u16, rows: u16, focus: Focus) -> Areas {
        Areas::of(Rect::new(0, 0, columns, rows), (focus, Focus::Heatmap), false, |_| 1)
    }

    #[test]
    fn the_named_sizes_show_what_they_promise() {
        let all = at(120, 32, Focus::Chat);
        assert!(!all.heatmap.is_empty() && !all.memory.is_empty());
        let two = at(80, 24, Focus::Chat);
        assert!(!two.heatmap.is_empty() && two.memory.is_empty());
        let memory = at(80, 24, Focus::Memory);
        assert!(memory.heatmap.is_empty() && !memory.memory.is_empty());
        let chat = at(59, 24, Focus::Chat);
        assert!(chat.heatmap.is_empty() && chat.memory.is_empty() && !chat.chat.input.is_empty());
        assert!(!chat.alone);
        let heatmap = at(40, 10, Focus::Heatmap);
        assert!(heatmap.alone && heatmap.heatmap == Rect::new(0, 0, 40, 9) && heatmap.memory.is_empty());
        assert_eq!(at(40, 10, Focus::Memory).memory, Rect::new(0, 0, 40, 9));
        assert_eq!(at(19, 5, Focus::Chat).message, Rect::new(0, 0, 19, 5));
    }

    #[test]
    fn a_pane_grows_while_it_has_the_keyboard() {
        assert!(at(80, 24, Focus::Heatmap).heatmap.height > at(80, 24, Focus::Chat).heatmap.height);
    }

    proptest! {
        #[test]
        fn parts_lie_inside_and_do_not_overlap(columns in 0u16..260, rows in 0u16..90, lines in 0u16..200, focus in 0usize..3, side in 1usize..3, whole: bool) {
            let area = Rect::new(0, 0, columns, rows);
            let a = Areas::of(area, (Focus::ALL[focus], Focus::ALL[side]), whole, |_| lines);
            let hidden = |chat: Rect| if a.alone { Rect::default() } else { chat };
            let chat = [a.chat.transcript, a.chat.rule, a.chat.input].map(hidden);
            let parts = [a.message, chat[0], chat[1], chat[2], a.heatmap, a.memory, a.status];
            for (i, part) in parts.iter().enumerate() {
                prop_assert!(part.is_empty() || area.union(*part) == area, "{part:?}");
                for other in &parts[i + 1..] {
                    prop_assert!(part.is_empty() || other.is_empty() || part.intersection(*other).is_empty());
                }
            }
            if columns >= 20 && rows >= 5 {
                prop_assert!(!a.chat.input.is_empty() && !a.chat.transcript.is_empty() && !a.status.is_empty());
            }
        }
    }
}
