//! The curve: predicted hit rate against slots per layer, with the present point.

use crate::ui::theme::{Face, Theme};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

/// Columns left of the plot: `100% `.
const AXIS: u16 = 5;

/// Draws `curve` (hit rate 0..1 by slot count from 0), the present slot count, and the rate there if it was measured.
pub(super) fn draw(buf: &mut Buffer, area: Rect, curve: &[f64], slots: usize, measured: Option<f64>, theme: &Theme) {
    if area.height < 3 || area.width < AXIS + 8 || curve.len() < 2 {
        return;
    }
    let plot = Rect { x: area.x + AXIS, width: area.width - AXIS, height: area.height - 1, ..area };
    let dim = theme.style(Face::Dim);
    for (row, words) in [(0, "100%"), (plot.height / 2, " 50%"), (plot.height - 1, "  0%")] {
        if row == 0 || row == plot.height - 1 || plot.height >= 5 {
            buf.set_stringn(area.x, plot.y + row, words, 4, dim);
        }
    }
    let most = curve.len() - 1;
    if theme.ascii {
        stairs(buf, plot, curve, theme);
    } else {
        dots(buf, plot, curve, theme);
    }
    let column = |slots: usize| plot.x + (slots * usize::from(plot.width - 1) / most) as u16;
    let row = |rate: f64| {
        let down = (1.0 - rate.clamp(0.0, 1.0)) * f64::from(plot.height);
        plot.y + (down as u16).min(plot.height - 1)
    };
    let here = slots.min(most);
    if let Some(rate) = measured {
        buf.set_stringn(column(here), row(rate), theme.glyphs().point, 1, theme.style(Face::Accent));
    }
    // Axis: both ends and the present, without running into each other.
    let axis = plot.bottom();
    let present = here.to_string();
    let (left, right) = ("0".to_owned(), format!("{most} slots"));
    let at = column(here).min(plot.right().saturating_sub(present.len() as u16));
    buf.set_stringn(plot.x, axis, &left, 1, dim);
    let right_at = plot.right().saturating_sub(right.len() as u16);
    if at as usize + present.len() < usize::from(right_at) {
        buf.set_stringn(right_at, axis, &right, right.len(), dim);
    }
    buf.set_stringn(at, axis, &present, present.len(), theme.style(Face::Accent));
}

/// Braille: two by four dots per character.
fn dots(buf: &mut Buffer, plot: Rect, curve: &[f64], theme: &Theme) {
    // Bits of a braille pattern by row, left and right column (Unicode 2800 block).
    const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
    let (w, h) = (usize::from(plot.width), usize::from(plot.height));
    let (columns, rows) = (w * 2, h * 4);
    let mut cells = vec![0u8; w * h];
    let mut last = None;
    for column in 0..columns {
        let rate = at(curve, column as f64 / (columns - 1) as f64);
        let y = (((1.0 - rate) * (rows - 1) as f64).round() as usize).min(rows - 1);
        // Steep parts are drawn as a line, not as lone dots.
        let from = last.unwrap_or(y);
        for y in from.min(y)..=from.max(y) {
            cells[y / 4 * w + column / 2] |= BITS[y % 4][column % 2];
        }
        last = Some(y);
    }
    for (i, bits) in cells.iter().enumerate().filter(|(_, b)| **b != 0) {
        let glyph = char::from_u32(0x2800 + u32::from(*bits)).unwrap_or(' ');
        let (x, y) = (plot.x + (i % w) as u16, plot.y + (i / w) as u16);
        buf.set_stringn(x, y, glyph.to_string(), 1, theme.style(Face::Bar));
    }
}

/// ASCII: one mark per column.
fn stairs(buf: &mut Buffer, plot: Rect, curve: &[f64], theme: &Theme) {
    for column in 0..plot.width {
        let rate = at(curve, f64::from(column) / f64::from(plot.width - 1));
        let down = ((1.0 - rate) * f64::from(plot.height)) as u16;
        buf.set_stringn(plot.x + column, plot.y + down.min(plot.height - 1), "*", 1, theme.style(Face::Bar));
    }
}

/// The curve at `t` in 0..1 of its length, linear between slot counts.
fn at(curve: &[f64], t: f64) -> f64 {
    let t = t.clamp(0.0, 1.0) * (curve.len() - 1) as f64;
    let low = (t as usize).min(curve.len() - 2);
    let rate = curve[low] + (curve[low + 1] - curve[low]) * (t - low as f64);
    if rate.is_finite() {
        rate.clamp(0.0, 1.0)
    } else {
        0.0
    }
}
