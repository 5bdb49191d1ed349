//! Curves over slot counts in characters: one glyph and colour per curve, for a terminal or a file.

use std::io::{self, Write};

/// Narrowest and widest plot, with its axis.
const WIDTH: (usize, usize) = (40, 160);
/// Columns of the axis with its numbers.
const AXIS: usize = 8;
/// Width when nobody says.
const USUAL_WIDTH: usize = 80;

/// What the place of the output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canvas {
    /// Columns.
    pub width: usize,
    /// Rows of the plot, without title, axis and legend.
    pub height: usize,
    /// Characters beyond ASCII.
    pub unicode: bool,
    /// The sixteen colours.
    pub color: bool,
}

impl Canvas {
    /// For a terminal of `cells` columns and rows, or for a pipe or file if there is none.
    #[must_use]
    pub fn new(cells: Option<(u16, u16)>, unicode: bool, color: bool) -> Self {
        let (width, height) = cells.map_or((USUAL_WIDTH, 24), |(w, h)| (usize::from(w), usize::from(h)));
        Self { width: width.clamp(WIDTH.0, WIDTH.1), height: (height / 2).clamp(6, 16), unicode, color }
    }
}

/// One curve; `ys` has a value for every `x` of the plot.
#[derive(Clone, Debug)]
pub struct Curve {
    /// For the legend.
    pub name: String,
    /// Values.
    pub ys: Vec<f64>,
}

/// Glyph, its stand-in in ASCII, and colour (an SGR code) by what is drawn. Other curves take what is free.
const MARKS: [(&str, char, char, u8); 6] = [
    ("rotary", '●', 'R', 36),
    ("decay", '◇', 'D', 34),
    ("lru", '▲', 'L', 33),
    ("lfu", '■', 'F', 35),
    ("belady", '◆', 'B', 32),
    ("chance", '○', 'C', 90),
];
const SPARE: [(char, char, u8); 4] = [('✚', '+', 31), ('✖', 'x', 37), ('▼', 'v', 96), ('▫', 'o', 95)];

fn mark(curves: &[Curve], i: usize) -> (char, char, u8) {
    let known = |c: &Curve| MARKS.iter().find(|m| m.0 == c.name);
    match known(&curves[i]) {
        Some(&(_, glyph, ascii, color)) => (glyph, ascii, color),
        None => SPARE[curves[..i].iter().filter(|c| known(c).is_none()).count() % SPARE.len()],
    }
}

/// 1, 2 or 5 times a power of ten, at least `x`.
fn round_up(x: f64) -> f64 {
    if x <= 0.0 || !x.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(x.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|v| *v >= x * 0.999_999).unwrap_or(10.0 * power)
}

/// The value of a curve between its points.
fn at(xs: &[usize], ys: &[f64], x: f64) -> f64 {
    let right = xs.partition_point(|&v| (v as f64) < x).min(xs.len() - 1);
    let left = right.saturating_sub(1);
    let (x0, x1) = (xs[left] as f64, xs[right] as f64);
    let part = if x1 > x0 { ((x - x0) / (x1 - x0)).clamp(0.0, 1.0) } else { 1.0 };
    ys[left] + (ys[right] - ys[left]) * part
}

/// Draw `curves` over the slot counts `xs`, which rise. Nothing is drawn for fewer than two.
///
/// # Errors
/// If `out` can't be written.
pub fn draw(out: &mut impl Write, title: &str, xs: &[usize], curves: &[Curve], canvas: Canvas) -> io::Result<()> {
    let curves: Vec<Curve> = curves.iter().filter(|c| c.ys.len() == xs.len() && c.ys.iter().all(|y| y.is_finite())).cloned().collect();
    let (Some(&first), Some(&last)) = (xs.first(), xs.last()) else { return Ok(()) };
    if first >= last || curves.is_empty() {
        return Ok(());
    }
    let all = || curves.iter().flat_map(|c| c.ys.iter().copied());
    let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
    let step = round_up((high - low).max(high.abs() * 1e-3) / 4.0);
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    let high = if high > low { high } else { low + step };
    let (rows, columns) = (canvas.height.max(2), canvas.width.saturating_sub(AXIS + 1).max(10));
    let row_of = |y: f64| ((high - y) / (high - low) * (rows - 1) as f64).round().clamp(0.0, (rows - 1) as f64) as usize;
    let x_of = |column: usize| first as f64 + (last - first) as f64 * column as f64 / (columns - 1) as f64;

    // Where curves meet, they take turns, so that none of them is hidden.
    let mut cells: Vec<Vec<Option<usize>>> = vec![vec![None; columns]; rows];
    for column in 0..columns {
        let x = x_of(column);
        let mut here: Vec<(usize, usize)> = curves.iter().enumerate().map(|(i, c)| (row_of(at(xs, &c.ys, x)), i)).collect();
        here.sort_unstable();
        for group in here.chunk_by(|a, b| a.0 == b.0) {
            cells[group[0].0][column] = Some(group[column / 2 % group.len()].1);
        }
    }

    let (line, corner, tick, below) = if canvas.unicode { ('│', '└', '─', '┬') } else { ('|', '+', '-', '+') };
    let paint = |i: usize| {
        let (glyph, ascii, color) = mark(&curves, i);
        let c = if canvas.unicode { glyph } else { ascii };
        if canvas.color {
            format!("\x1b[{color}m{c}\x1b[0m")
        } else {
            c.to_string()
        }
    };
    writeln!(out, "{title}")?;
    let digits = usize::from(step < 0.995) + usize::from(step < 0.0995);
    let labels: Vec<(usize, f64)> =
        (0..=((high - low) / step).round() as usize).map(|k| low + k as f64 * step).map(|y| (row_of(y), y)).collect();
    for (row, cells) in cells.iter().enumerate() {
        match labels.iter().find(|l| l.0 == row) {
            Some((_, y)) => write!(out, "{y:>w$.digits$} {line}", w = AXIS - 1)?,
            None => write!(out, "{:>w$}{line}", "", w = AXIS)?,
        }
        let end = cells.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        for cell in &cells[..end] {
            match cell {
                Some(i) => write!(out, "{}", paint(*i))?,
                None => write!(out, " ")?,
            }
        }
        writeln!(out)?;
    }
    // Numbers below, at round slot counts, as many as there is room for.
    let every = (round_up((last - first) as f64 / (columns / 8).max(1) as f64) as usize).max(1);
    let ticks: Vec<usize> = (first.div_ceil(every)..=last / every).map(|k| k * every).collect();
    let column_of = |x: usize| (x - first) * (columns - 1) / (last - first);
    let mut axis = vec![tick; columns];
    let mut numbers = String::new();
    for x in ticks {
        axis[column_of(x)] = below;
        let text = x.to_string();
        let start = column_of(x).saturating_sub(text.len() / 2);
        if numbers.is_empty() || start > numbers.len() {
            numbers += &" ".repeat(start - numbers.len());
            numbers += &text;
        }
    }
    writeln!(out, "{:>w$}{corner}{}", "", axis.into_iter().collect::<String>(), w = AXIS)?;
    writeln!(out, "{:>w$}{numbers}  slots", "", w = AXIS + 1)?;
    let legend: Vec<String> = curves.iter().enumerate().map(|(i, c)| format!("{} {}", paint(i), c.name)).collect();
    writeln!(out, "{:>w$}{}\n", "", legend.join("   "), w = AXIS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(canvas: Canvas) -> String {
        let xs: Vec<usize> = (8..=128).step_by(8).collect();
        let curve =
            |name: &str, k: f64| Curve { name: name.into(), ys: xs.iter().map(|&x| 100.0 * (1.0 - (-k * x as f64).exp())).collect() };
        let chance = Curve { name: "chance".into(), ys: xs.iter().map(|&x| x as f64 / 1.28).collect() };
        let curves = [curve("rotary", 0.06), curve("lru", 0.058), curve("belady", 0.1), chance];
        let mut out = Vec::new();
        draw(&mut out, "hit rate, %", &xs, &curves, canvas).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn curves_over_slots_in_characters() {
        insta::assert_snapshot!(plot(Canvas::new(None, true, false)));
    }

    #[test]
    fn plain_ascii_is_ascii_and_every_width_is_kept_to() {
        let text = plot(Canvas::new(None, false, false));
        assert!(text.is_ascii() && text.contains("R rotary") && text.contains("L lru"), "{text}");
        for width in [1, 40, 60, 80, 120, 160, 500] {
            let canvas = Canvas::new(Some((width, 30)), true, false);
            let most = plot(canvas).lines().map(|l| l.chars().count()).max().unwrap();
            assert!(most <= usize::from(width).clamp(40, 160) + 8, "{width}: {most}");
        }
    }

    #[test]
    fn colours_come_only_when_they_may() {
        assert!(!plot(Canvas::new(None, true, false)).contains('\x1b'));
        let text = plot(Canvas::new(Some((80, 24)), true, true));
        assert!(text.contains("\x1b[36m●\x1b[0m rotary"), "{text}");
    }

    #[test]
    fn too_little_is_not_drawn_and_flat_curves_are() {
        let draw = |xs: &[usize], ys: Vec<f64>| {
            let mut out = Vec::new();
            super::draw(&mut out, "t", xs, &[Curve { name: "lru".into(), ys }], Canvas::new(None, false, false)).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(draw(&[], vec![]) + &draw(&[4], vec![1.0]) + &draw(&[4, 5], vec![1.0]) + &draw(&[4, 5], vec![1.0, f64::NAN]), "");
        for y in [0.0, 100.0, 1e-9, 1e12] {
            assert!(draw(&[4, 5], vec![y, y]).contains('L'), "{y}");
        }
    }

    #[test]
    fn curves_without_a_mark_of_their_own_get_different_ones() {
        let curves: Vec<Curve> = ["lru", "new", "newer"].map(|n| Curve { name: n.into(), ys: vec![] }).to_vec();
        let marks: Vec<char> = (0..3).map(|i| mark(&curves, i).0).collect();
        assert_eq!(marks, ['▲', '✚', '✖']);
    }
}
