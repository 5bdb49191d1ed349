//! Cells to terminal sequences, in few bytes: over a slow link a frame of the heatmap is most of what is sent.
//!
//! Per cell only what differs from the cell before is sent (one of two colours, one attribute), all of it in one sequence; short
//! ways to the right are steps, not addresses; the 16 colours of the terminal have their short codes, which older terminals
//! understand, too. A frame begins and ends with plain attributes.

use ratatui::buffer::Cell;
use ratatui::style::{Color, Modifier};
use std::io::Write;
use unicode_width::UnicodeWidthStr;

/// Attributes with the codes that turn them on and off.
const ATTRIBUTES: [(Modifier, u8, u8); 9] = [
    (Modifier::BOLD, 1, 22),
    (Modifier::DIM, 2, 22),
    (Modifier::ITALIC, 3, 23),
    (Modifier::UNDERLINED, 4, 24),
    (Modifier::SLOW_BLINK, 5, 25),
    (Modifier::RAPID_BLINK, 6, 25),
    (Modifier::REVERSED, 7, 27),
    (Modifier::HIDDEN, 8, 28),
    (Modifier::CROSSED_OUT, 9, 29),
];

/// What the terminal has at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pen {
    fg: Color,
    bg: Color,
    modifier: Modifier,
}

const PLAIN: Pen = Pen { fg: Color::Reset, bg: Color::Reset, modifier: Modifier::empty() };

/// Appends what draws these cells, given row by row from left to right, to `out`.
pub fn encode<'a>(out: &mut Vec<u8>, cells: impl Iterator<Item = (u16, u16, &'a Cell)>) {
    let mut pen = PLAIN;
    // Where the terminal's cursor is, if that is certain.
    let mut at: Option<(u16, u16)> = None;
    for (x, y, cell) in cells {
        go(out, at, (x, y));
        let want = Pen { fg: cell.fg, bg: cell.bg, modifier: cell.modifier };
        change(out, pen, want);
        pen = want;
        let symbol = cell.symbol();
        out.extend_from_slice(symbol.as_bytes());
        // Terminals disagree about the width of some clusters; after those the place is given anew.
        let certain = symbol.width() == 1 && symbol.chars().nth(1).is_none();
        at = certain.then(|| (x.saturating_add(1), y));
    }
    if pen != PLAIN {
        out.extend_from_slice(b"\x1b[0m");
    }
}

fn go(out: &mut Vec<u8>, from: Option<(u16, u16)>, (x, y): (u16, u16)) {
    // Writing to memory can't fail.
    let _ = match from {
        Some((fx, fy)) if (fx, fy) == (x, y) => Ok(()),
        Some((fx, fy)) if fy == y && fx + 1 == x => out.write_all(b"\x1b[C"),
        Some((fx, fy)) if fy == y && fx < x => write!(out, "\x1b[{}C", x - fx),
        _ if x == 0 => write!(out, "\x1b[{}H", u32::from(y) + 1),
        _ => write!(out, "\x1b[{};{}H", u32::from(y) + 1, u32::from(x) + 1),
    };
}

/// One sequence for everything that differs.
fn change(out: &mut Vec<u8>, have: Pen, want: Pen) {
    if have == want {
        return;
    }
    if want == PLAIN {
        out.extend_from_slice(b"\x1b[m");
        return;
    }
    let start = out.len();
    out.extend_from_slice(b"\x1b[");
    let mut lost = Modifier::empty();
    let mut last = 0;
    for (attribute, _, off) in ATTRIBUTES {
        if have.modifier.contains(attribute) && !want.modifier.contains(attribute) {
            // The code for "neither bold nor dim" takes both.
            lost |= ATTRIBUTES.iter().filter(|a| a.2 == off).map(|a| a.0).fold(Modifier::empty(), Modifier::union);
            if off != last {
                let _ = write!(out, "{off};");
            }
            last = off;
        }
    }
    for (attribute, on, _) in ATTRIBUTES {
        let has = have.modifier.contains(attribute) && !lost.contains(attribute);
        if want.modifier.contains(attribute) && !has {
            let _ = write!(out, "{on};");
        }
    }
    if have.fg != want.fg {
        color(out, want.fg, 30);
    }
    if have.bg != want.bg {
        color(out, want.bg, 40);
    }
    // The last semicolon becomes the end.
    if out.ends_with(b";") {
        out.pop();
        out.push(b'm');
    } else {
        out.truncate(start);
    }
}

/// A colour's code; `base` is 30 for the foreground, 40 for the background.
fn color(out: &mut Vec<u8>, color: Color, base: u8) {
    let _ = match color {
        Color::Reset => write!(out, "{};", base + 9),
        Color::Black => write!(out, "{base};"),
        Color::Red => write!(out, "{};", base + 1),
        Color::Green => write!(out, "{};", base + 2),
        Color::Yellow => write!(out, "{};", base + 3),
        Color::Blue => write!(out, "{};", base + 4),
        Color::Magenta => write!(out, "{};", base + 5),
        Color::Cyan => write!(out, "{};", base + 6),
        Color::Gray => write!(out, "{};", base + 7),
        Color::DarkGray => write!(out, "{};", base + 60),
        Color::LightRed => write!(out, "{};", base + 61),
        Color::LightGreen => write!(out, "{};", base + 62),
        Color::LightYellow => write!(out, "{};", base + 63),
        Color::LightBlue => write!(out, "{};", base + 64),
        Color::LightMagenta => write!(out, "{};", base + 65),
        Color::LightCyan => write!(out, "{};", base + 66),
        Color::White => write!(out, "{};", base + 67),
        Color::Indexed(i) => write!(out, "{};5;{i};", base + 8),
        Color::Rgb(r, g, b) => write!(out, "{};2;{r};{g};{b};", base + 8),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ratatui::buffer::Buffer;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    fn bytes(from: &Buffer, to: &Buffer) -> String {
        let mut out = Vec::new();
        encode(&mut out, from.diff(to).into_iter());
        String::from_utf8(out).unwrap().replace('\x1b', "^")
    }

    fn line(text: &str) -> Buffer {
        Buffer::with_lines([text])
    }

    #[test]
    fn short_ways_are_steps_and_only_what_differs_is_sent() {
        assert_eq!(bytes(&line("abcdef"), &line("aXcYef")), "^[1;2HX^[CY");
        assert_eq!(bytes(&line("abcdef"), &line("XbcdeY")), "^[1HX^[4CY");
        let mut to = line("abcdef");
        to.set_style(Rect::new(1, 0, 3, 1), Style::new().fg(Color::Indexed(9)).bg(Color::Blue));
        to.set_style(Rect::new(2, 0, 1, 1), Style::new().fg(Color::Red));
        assert_eq!(bytes(&line("abcdef"), &to), "^[1;2H^[38;5;9;44mb^[31mc^[38;5;9md^[0m");
    }

    #[test]
    fn taking_bold_away_leaves_dim() {
        let mut to = line("ab");
        to.set_style(Rect::new(0, 0, 2, 1), Style::new().add_modifier(Modifier::BOLD | Modifier::DIM));
        to.set_style(Rect::new(1, 0, 1, 1), Style::new().remove_modifier(Modifier::BOLD));
        assert_eq!(bytes(&line("ab"), &to), "^[1H^[1;2ma^[22;2mb^[0m");
    }

    fn any_color() -> impl Strategy<Value = Color> {
        prop_oneof![
            2 => Just(Color::Reset),
            2 => (0u8..16).prop_map(|i| crate::ui::palette::ANSI_NAMES[usize::from(i) % crate::ui::palette::ANSI_NAMES.len()].1),
            3 => (16u8..).prop_map(Color::Indexed),
            1 => any::<[u8; 3]>().prop_map(|[r, g, b]| Color::Rgb(r, g, b)),
        ]
    }

    /// What the parser of a terminal has in a cell, in the words of a buffer.
    fn of_terminal(color: vt100::Color) -> Color {
        match color {
            vt100::Color::Default => Color::Reset,
            vt100::Color::Idx(i) => Color::Indexed(i),
            vt100::Color::Rgb(r, g, b) => Color::Rgb(r, g, b),
        }
    }

    fn number(color: Color) -> Color {
        const NAMED: [Color; 16] = [
            Color::Black,
            Color::Red,
            Color::Green,
            Color::Yellow,
            Color::Blue,
            Color::Magenta,
            Color::Cyan,
            Color::Gray,
            Color::DarkGray,
            Color::LightRed,
            Color::LightGreen,
            Color::LightYellow,
            Color::LightBlue,
            Color::LightMagenta,
            Color::LightCyan,
            Color::White,
        ];
        NAMED.iter().position(|c| *c == color).map_or(color, |i| Color::Indexed(i as u8))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Frame after frame, a real parser has the same screen as the buffer.
        #[test]
        fn a_terminal_shows_what_was_drawn(frames in prop::collection::vec(prop::collection::vec(
            ((0u16..6, 0u16..4), "[a-z ▀é]", any_color(), any_color(), 0u16..0x1ff), 0..30), 1..5))
        {
            let area = Rect::new(0, 0, 12, 4);
            let mut parser = vt100::Parser::new(std::num::NonZero::new(4).unwrap(), std::num::NonZero::new(12).unwrap(), 0);
            let mut before = Buffer::empty(area);
            // Attributes that the parser knows.
            let known = Modifier::BOLD | Modifier::DIM | Modifier::ITALIC | Modifier::UNDERLINED | Modifier::REVERSED;
            for frame in frames {
                let mut after = before.clone();
                for ((x, y), text, fg, bg, bits) in frame {
                    let style = Style::new().fg(fg).bg(bg);
                    let x = x * 2;
                    after.set_stringn(x, y, format!("{text} "), 2, style);
                    after[(x, y)].modifier = Modifier::from_bits_truncate(bits) & known;
                }
                let mut out = Vec::new();
                encode(&mut out, before.diff(&after).into_iter());
                parser.process(&out);
                for y in 0..4 {
                    for x in 0..12 {
                        let (cell, want) = (parser.screen().cell(y, x).unwrap(), &after[(x, y)]);
                        let shown = if cell.has_contents() { cell.contents() } else { " " };
                        prop_assert_eq!(shown, want.symbol(), "at {},{}", x, y);
                        prop_assert_eq!((of_terminal(cell.fgcolor()), of_terminal(cell.bgcolor())), (number(want.fg), number(want.bg)));
                        let m = |on, modifier| if on { modifier } else { Modifier::empty() };
                        let has = m(cell.bold(), Modifier::BOLD) | m(cell.dim(), Modifier::DIM) | m(cell.italic(), Modifier::ITALIC)
                            | m(cell.underline(), Modifier::UNDERLINED) | m(cell.inverse(), Modifier::REVERSED);
                        // This parser has one intensity: the last of bold and dim.
                        let both = Modifier::BOLD | Modifier::DIM;
                        if want.modifier.contains(both) {
                            prop_assert_eq!(has.difference(both), want.modifier.difference(both));
                        } else {
                            prop_assert_eq!(has, want.modifier);
                        }
                    }
                }
                before = after;
            }
        }
    }
}
