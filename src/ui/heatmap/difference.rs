//! The heatmap of a comparison: where one side holds or hits an expert and the other does not.
//!
//! Letters say it without colours: `A` and `B` for experts that one side alone held lately, `a` and `b` where it leans that
//! way, `=` where both hold it, a dot where none does; reversed where in this step one side hit what the other missed. With
//! colours, cells that one side alone held are filled with its colour (blue and orange, told apart with any colour vision).

use super::grid::{Grid, Make};
use super::zoom;
use crate::trace::difference::{Difference, Rates, Side};
use crate::ui::experts_state::ExpertsState;
use crate::ui::palette::{adapt, nearest_xterm, rgb_of, ColorDepth};
use crate::ui::panes::PaneContext;
use crate::ui::theme::{Face, Theme};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use std::ops::Range;

/// Leans beyond this are one side alone, beyond the second one side more.
const BOUNDS: [f32; 2] = [0.5, 0.15];
/// Columns of the numbers beside the grid, with their gap.
const SIDE: u16 = 16;

/// What a cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lean {
    Alone(Side),
    More(Side),
    Both,
    Neither,
}

/// A cell, pooled from several experts if need be: leans are averaged, what happened in this step is kept.
fn pooled(difference: &Difference, experts: &ExpertsState, layers: Range<usize>, places: Range<usize>) -> (Lean, Option<Side>) {
    let (mut lean, mut count, mut held) = (0.0f32, 0usize, 0usize);
    let mut only = None;
    for layer in layers.start..layers.end.min(difference.layers()) {
        for place in places.clone() {
            let cell = difference.cell(layer, experts.expert_at(layer, place));
            lean += cell.lean;
            held += usize::from(cell.held[0] && cell.held[1]);
            only = only.or(cell.only);
            count += 1;
        }
    }
    let mean = lean / count.max(1) as f32;
    let side = if mean > 0.0 { Side::A } else { Side::B };
    let lean = match mean.abs() {
        m if m > BOUNDS[0] => Lean::Alone(side),
        m if m > BOUNDS[1] => Lean::More(side),
        _ if held * 2 >= count.max(1) => Lean::Both,
        _ => Lean::Neither,
    };
    (lean, only)
}

fn face(side: Side) -> Face {
    match side {
        Side::A => Face::SideA,
        Side::B => Face::SideB,
    }
}

fn glyph(lean: Lean, only: Option<Side>, theme: &Theme) -> &'static str {
    match (only, lean) {
        (Some(Side::A), _) | (None, Lean::Alone(Side::A)) => "A",
        (Some(Side::B), _) | (None, Lean::Alone(Side::B)) => "B",
        (None, Lean::More(Side::A)) => "a",
        (None, Lean::More(Side::B)) => "b",
        (None, Lean::Both) => "=",
        (None, Lean::Neither) => theme.glyphs().absent,
    }
}

/// The one colour of a half cell.
fn color(lean: Lean, only: Option<Side>, theme: &Theme) -> Color {
    match (only, lean) {
        (Some(side), _) | (None, Lean::Alone(side)) => theme.color(face(side)),
        (None, Lean::More(side)) => faint(theme.color(face(side)), theme),
        (None, Lean::Both) => theme.color(Face::Resident),
        (None, Lean::Neither) => theme.absent(0),
    }
}

/// Halfway to the background, where the terminal has colours enough for it.
fn faint(color: Color, theme: &Theme) -> Color {
    let ground = theme.base().bg.and_then(rgb_of);
    match (rgb_of(color), ground) {
        (Some(color), Some(ground)) if theme.depth >= ColorDepth::Indexed256 => Color::Indexed(nearest_xterm(ground.mix(color, 0.5))),
        _ => adapt(color, theme.depth),
    }
}

/// The style of a whole cell, and whether it is filled.
fn style(lean: Lean, only: Option<Side>, make: Make, theme: &Theme) -> Style {
    let filled = |color: Color| {
        let ink = theme.base().bg.filter(|c| *c != Color::Reset).unwrap_or(Color::Black);
        Style::new().bg(color).fg(ink)
    };
    match (only, lean) {
        (Some(side), _) => theme.style(face(side)).add_modifier(Modifier::REVERSED | Modifier::BOLD),
        (None, Lean::Alone(side)) if make == Make::Block => filled(theme.color(face(side))),
        (None, Lean::Alone(side) | Lean::More(side)) => theme.style(face(side)),
        (None, Lean::Both) if make == Make::Block => filled(theme.color(Face::Resident)),
        (None, Lean::Both) => theme.style(Face::Resident),
        (None, Lean::Neither) => theme.style(Face::Absent),
    }
}

/// Words for the frame.
pub(super) fn title(state: &ExpertsState, difference: &Difference, theme: &Theme) -> String {
    let g = theme.glyphs();
    let what = if state.zoomed {
        format!("layer {}", state.block(state.cursor().0))
    } else {
        format!("{} {} {}", difference.layers(), g.times, difference.experts())
    };
    let order = if state.sorted { ", hottest first" } else { "" };
    format!("{} {} A beside B, {what}{order}", super::words::moment(state), g.dot)
}

/// Draws the inside of the pane.
pub(super) fn draw(area: Rect, buf: &mut Buffer, state: &ExpertsState, difference: &Difference, context: &PaneContext<'_>, theme: &Theme) {
    let area = area.intersection(*buf.area());
    buf.set_style(area, theme.base());
    let mut rest = area;
    let mut bottom = |keep: u16| {
        let rows = u16::from(rest.height > keep);
        rest.height -= rows;
        Rect { y: rest.bottom(), height: rows, ..rest }
    };
    let legend_at = bottom(1);
    let rates_at = bottom(2);
    let names_at = bottom(5);
    let facts_at = if context.focused { bottom(6) } else { Rect::default() };
    let make = if state.zoomed {
        layer(rest, buf, state, difference, context, theme);
        zoom::make(theme)
    } else {
        let ruler_at = bottom(9);
        let Some(make) = grid((rest, ruler_at), buf, state, difference, context, theme) else { return };
        make
    };
    super::line(buf, names_at, &names(difference, theme, area.width));
    super::line(buf, rates_at, &rates(difference, theme, area.width));
    super::line(buf, facts_at, &facts(state, difference, theme));
    super::line(buf, legend_at, &legend(make, theme, area.width));
}

/// All layers, with their numbers beside them; where there is room below, the layer under the cursor as well.
fn grid(
    (rest, ruler_at): (Rect, Rect),
    buf: &mut Buffer,
    state: &ExpertsState,
    difference: &Difference,
    context: &PaneContext<'_>,
    theme: &Theme,
) -> Option<Make> {
    let gutter = if rest.width > 12 { super::gutter_width(state, difference.layers()) } else { 0 };
    let side = if rest.width >= gutter + SIDE + 16 { SIDE } else { 0 };
    let at = Rect { x: rest.x + gutter, width: rest.width.saturating_sub(gutter + side), ..rest };
    let grid = Grid::fit(at, difference.layers(), difference.experts(), theme)?;
    let place = state.place_of(state.layer, state.expert);
    let cell = |layers, places| pooled(difference, state, layers, places);
    grid.paint_with(
        buf,
        theme,
        context.focused.then_some((state.layer, place)),
        |layers, places| {
            let (lean, only) = cell(layers, places);
            color(lean, only, theme)
        },
        |buf, at, layers, places, on| {
            let (lean, only) = cell(layers, places);
            paint(buf, at, (lean, only), grid.make, on, theme);
        },
    );
    super::gutter(buf, Rect { width: gutter, ..rest }, &grid, state, context, theme);
    let below = grid.area.y + grid.used_height();
    if side > 0 {
        let x = grid.area.x + grid.used_width();
        for row in 0..grid.rows() {
            let y = grid.y(row);
            if y < grid.area.bottom() {
                buf.set_line(x, y, &numbers(&difference.rates(grid.layers_of_row(row)), theme), SIDE);
            }
        }
        // The heads belong right under the cells.
        if !ruler_at.is_empty() {
            buf.set_stringn(x, below.min(ruler_at.y), "    A%   B%    +", usize::from(SIDE), theme.style(Face::Dim));
        }
    }
    let free = rest.bottom().saturating_sub(below);
    if free >= super::DETAIL {
        layer(Rect { y: below + 2, height: free - 2, ..rest }, buf, state, difference, context, theme);
    }
    Some(grid.make)
}

/// The layer under the cursor, expert by expert.
fn layer(mut area: Rect, buf: &mut Buffer, state: &ExpertsState, difference: &Difference, context: &PaneContext<'_>, theme: &Theme) {
    if area.height > 3 {
        super::line(buf, Rect { height: 1, ..area }, &head(state, difference, theme, area.width));
        (area.y, area.height) = (area.y + 1, area.height - 1);
    }
    let (layer, _) = state.cursor();
    let make = zoom::make(theme);
    for zoom::Spot { places, number, at, on } in zoom::spots(area, state, context.focused) {
        let what = pooled(difference, state, layer..layer + 1, places.clone());
        if let Some((x, y)) = number {
            let style = match what {
                _ if on => theme.style(Face::Cursor),
                (_, Some(side)) | (Lean::Alone(side) | Lean::More(side), None) => theme.style(face(side)),
                (Lean::Both, None) => theme.style(Face::Dim),
                (Lean::Neither, None) => theme.style(Face::Track).fg(theme.color(Face::Absent)),
            };
            buf.set_stringn(x, y, format!("{:>3}", state.expert_at(layer, places.start)), 3, style);
        }
        paint(buf, at, what, make, on && number.is_none(), theme);
    }
}

/// The rates of the layer under the cursor, and how many experts each side holds there, as much as fits.
fn head(state: &ExpertsState, difference: &Difference, theme: &Theme, width: u16) -> Line<'static> {
    let (layer, _) = state.cursor();
    let rates = difference.rates(layer..layer + 1);
    let held = |wanted: &[usize]| {
        let cells = (0..difference.experts()).map(|expert| difference.cell(layer, expert));
        cells.filter(|cell| wanted.iter().all(|&side| cell.held[side])).count().to_string()
    };
    let mut parts = Vec::new();
    for (word, [a, b]) in [("  lately ", rates.recent), ("  whole ", rates.whole)] {
        let Some((a, b)) = a.zip(b) else { continue };
        let lead = (a - b) * 100.0;
        let values = theme.span(Face::Text, format!("{:>3.0}% {:>3.0}% ", a * 100.0, b * 100.0));
        parts.push(vec![theme.span(Face::Dim, word), values, theme.span(lead_face(lead), format!("{:>3}", signed(lead, 0)))]);
    }
    let number = |n: String| theme.span(Face::Text, format!("{n:>3}"));
    parts.insert(
        parts.len().min(1),
        vec![
            theme.span(Face::SideA, "  A"),
            number(held(&[0])),
            theme.span(Face::SideB, "  B"),
            number(held(&[1])),
            theme.span(Face::Dim, "  both"),
            number(held(&[0, 1])),
            theme.span(Face::Dim, " held"),
        ],
    );
    let mut line = Line::from(theme.span(Face::Accent, format!("layer {}", state.block(layer))));
    for part in parts {
        if line.width() + part.iter().map(Span::width).sum::<usize>() > usize::from(width) {
            break;
        }
        line.extend(part);
    }
    line
}

fn paint(buf: &mut Buffer, at: Rect, (lean, only): (Lean, Option<Side>), make: Make, on: bool, theme: &Theme) {
    let style = if on { theme.style(Face::Cursor) } else { style(lean, only, make, theme) };
    let sign = glyph(lean, only, theme);
    for y in at.top()..at.bottom() {
        for x in at.left()..at.right() {
            let Some(cell) = buf.cell_mut((x, y)) else { continue };
            cell.reset();
            cell.set_style(theme.base().patch(style));
            let center = x == at.x + (at.width - 1) / 2 && y == at.y + (at.height - 1) / 2;
            // A grey block says "both" by itself.
            let plain = make == Make::Block && (lean, only) == (Lean::Both, None);
            cell.set_symbol(if center && !plain { sign } else { " " });
        }
    }
}

/// Recent rates of a row in per cent, and A less B.
fn numbers(rates: &Rates, theme: &Theme) -> Line<'static> {
    let percent = |rate: Option<f32>| rate.map_or_else(|| "-".to_owned(), |r| format!("{:.0}", r * 100.0));
    let [a, b] = rates.recent;
    let lead = a.zip(b).map(|(a, b)| (a - b) * 100.0);
    Line::from(vec![
        theme.span(Face::Text, format!("{:>6}{:>5}", percent(a), percent(b))),
        lead.map_or_else(|| Span::raw(""), |d| theme.span(lead_face(d), format!("{:>5}", signed(d, 0)))),
    ])
}

/// Who is ahead; hardly anything is nobody.
fn lead_face(points: f32) -> Face {
    match points {
        p if p >= 0.5 => Face::SideA,
        p if p <= -0.5 => Face::SideB,
        _ => Face::Dim,
    }
}

/// With its sign, which zero does not have.
fn signed(points: f32, digits: usize) -> String {
    let text = format!("{points:+.digits$}");
    if text.trim_start_matches(['+', '-']).chars().all(|c| matches!(c, '0' | '.')) {
        text[1..].to_owned()
    } else {
        text
    }
}

fn names(difference: &Difference, theme: &Theme, width: u16) -> Line<'static> {
    let name = |i: usize| crate::ui::sanitize::one_line(&difference.names[i], 40);
    let mut line = Line::from(vec![
        theme.span(Face::SideA, "A "),
        theme.span(Face::Text, name(0)),
        theme.span(Face::SideB, "  B "),
        theme.span(Face::Text, name(1)),
    ]);
    let mut notes = Vec::new();
    if let Some(alike) = difference.alike().filter(|a| *a < 0.9995) {
        notes.push(format!("  routing alike in {:.0}%", alike * 100.0));
        // Rounding alone, on another device, changes less of it.
        if alike < 0.9 {
            notes.push("  perhaps of different text".to_owned());
        }
    }
    if difference.ended {
        notes.push("  B has ended".to_owned());
    }
    for note in notes {
        let note = theme.span(Face::Notice, note);
        if line.width() + note.width() <= usize::from(width) {
            line.push_span(note);
        }
    }
    line
}

/// Rates of all layers: recent, and of the whole session.
fn rates(difference: &Difference, theme: &Theme, width: u16) -> Line<'static> {
    let rates = difference.rates(0..difference.layers());
    let mut line = Line::default();
    for (word, [a, b]) in [("recent", rates.recent), ("  whole", rates.whole)] {
        let Some((a, b)) = a.zip(b) else { continue };
        let lead = (a - b) * 100.0;
        line.push_span(theme.span(Face::Dim, format!("{word} ")));
        line.push_span(theme.span(Face::Text, format!("{:.1}% {:.1}% ", a * 100.0, b * 100.0)));
        line.push_span(theme.span(lead_face(lead), signed(lead, 1)));
    }
    if line.spans.is_empty() {
        return Line::from(theme.span(Face::Dim, "nothing is generated yet"));
    }
    let steps = theme.span(Face::Dim, format!("  {} steps", difference.steps()));
    if line.width() + steps.width() <= usize::from(width) {
        line.push_span(steps);
    }
    line
}

/// The expert under the cursor.
fn facts(state: &ExpertsState, difference: &Difference, theme: &Theme) -> Line<'static> {
    let (layer, expert) = state.cursor();
    let cell = difference.cell(layer, expert);
    let held = |on: bool| if on { "held" } else { "none" };
    Line::from(vec![
        theme.span(Face::Accent, format!("L{:<2} E{expert:<3}", state.block(layer))),
        theme.span(Face::SideA, "  A "),
        theme.span(Face::Text, held(cell.held[0])),
        theme.span(Face::SideB, "  B "),
        theme.span(Face::Text, held(cell.held[1])),
        theme.span(Face::Dim, "  held lately, A less B "),
        theme.span(Face::Text, format!("{}%", signed(cell.lean * 100.0, 0))),
    ])
}

fn legend(make: Make, theme: &Theme, width: u16) -> Line<'static> {
    let sample = |lean: Lean, only: Option<Side>| match make {
        Make::Half => Span::styled(" ", Style::new().bg(color(lean, only, theme))),
        _ => {
            let sign = if make == Make::Block && (lean, only) == (Lean::Both, None) { " " } else { glyph(lean, only, theme) };
            Span::styled(sign, theme.base().patch(style(lean, only, make, theme)))
        }
    };
    let scale = [Lean::Alone(Side::A), Lean::More(Side::A), Lean::Both, Lean::Neither, Lean::More(Side::B), Lean::Alone(Side::B)];
    let build = |names: [&'static str; 6], step: &'static str| {
        let mut line = Line::default();
        for (lean, name) in scale.into_iter().zip(names) {
            line.push_span(sample(lean, None));
            line.push_span(theme.span(Face::Dim, name));
        }
        if make != Make::Half && !step.is_empty() {
            line.push_span(sample(Lean::Neither, Some(Side::A)));
            line.push_span(sample(Lean::Neither, Some(Side::B)));
            line.push_span(theme.span(Face::Dim, step));
        }
        line
    };
    let forms = [
        build([" A alone  ", " more A  ", " both  ", " none  ", " more B  ", " B alone  "], " hit in this step"),
        build([" A  ", " ", " both  ", " none  ", " ", " B  "], " hit now"),
        build([" A ", " ", " = ", " - ", " ", " B "], ""),
    ];
    let last = forms.len() - 1;
    forms.iter().find(|line| line.width() <= usize::from(width)).unwrap_or(&forms[last]).clone()
}
