//! The chat's tokens on the screen: tint, token cursor, the marks of the expert under the heatmap's cursor, and the legend.
//!
//! Painted over the laid out rows, so that none of it needs a new layout.

use crate::events::Outcome;
use crate::ui::inspector::Look;
use crate::ui::origin::Row;
use crate::ui::state::State;
use crate::ui::theme::{Face, Theme};
use crate::ui::tint::{self, Tint};
use crate::ui::token_spans::Span;
use crate::ui::token_walk::row_tokens;
use crate::ui::transcript::{Item, Part};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

/// Most kept steps that the legend of an expert counts, in every frame.
const COUNTED: usize = 4096;

/// Something is to be painted over the chat.
fn is_wanted(state: &State) -> bool {
    state.inspector.tint != Tint::Off || state.inspector.pause().is_some() || state.marks_expert().is_some()
}

/// Paints the tokens of one row that is drawn at `area`.
pub(super) fn paint(area: Rect, buf: &mut Buffer, state: &State, (item, at, _): (&Item, usize, &Row)) {
    if !is_wanted(state) {
        return;
    }
    let theme = &state.theme;
    let epoch = state.inspector.epoch;
    if item.part(at) == Part::ThoughtHead && item.folded() {
        // All that is seen of folded reasoning is its head.
        let inside = |s: &Span| state.inspector.pause().is_some_and(|p| (s.first..=s.last).contains(&p.step));
        if item.thought_tokens.of(epoch).iter().any(inside) {
            buf.set_style(Rect { height: 1, ..area }, cursor(theme));
        }
        return;
    }
    let mut last: Option<(Span, Look)> = None;
    for (columns, span) in row_tokens(item, at, epoch) {
        // A token is usually one run of columns; only non-ASCII text has several.
        let look = last.filter(|(of, _)| *of == span).map_or_else(|| state.look_of(&span, theme), |(_, look)| look);
        last = Some((span, look));
        let style = match look {
            Look::Plain => continue,
            Look::Cursor => cursor(theme),
            Look::Styled(style) => style,
        };
        let (from, to) = (area.x.saturating_add(columns.start as u16), area.x.saturating_add(columns.end as u16));
        buf.set_style(Rect::new(from, area.y, to - from, 1).intersection(area), style);
    }
}

fn cursor(theme: &Theme) -> Style {
    let style = theme.style(Face::Cursor);
    // Without colours a miss of the marked expert is reversed, too.
    if theme.is_mono() {
        style.add_modifier(Modifier::UNDERLINED)
    } else {
        style
    }
}

/// What the tints and marks mean, as much as fits into `width` columns; `None` if there are none.
pub(super) fn legend(state: &State, width: usize) -> Option<Line<'static>> {
    let theme = &state.theme;
    if let Some((layer, expert)) = state.marks_expert() {
        return marks_legend(state, layer, expert, width);
    }
    let inspector = &state.inspector;
    if inspector.tint == Tint::Off {
        return None;
    }
    let name = match inspector.tint {
        Tint::Entropy => "gate entropy",
        Tint::Time => "step time",
        _ => "misses",
    };
    let Some(words) = inspector.scale.words(inspector.tint) else {
        let mut line = Line::from(theme.span(Face::Dim, format!(" {name}: too few tokens yet ")));
        line.spans.truncate(usize::from(line.width() <= width));
        return Some(line);
    };
    let sample = |level: usize, text: &str| theme.span(Face::Text, format!(" {text} ")).patch_style(tint::style(level, theme));
    let build = |name: &str, words: &[String], unknown: &str| {
        let mut line = Line::from(theme.span(Face::Dim, format!(" {name} ")));
        for (level, word) in words.iter().enumerate() {
            line.push_span(sample(level, word));
        }
        line.push_span(theme.span(Face::Text, unknown.to_owned()));
        line
    };
    let gone = inspector.log.let_go();
    let unknown = if gone > 0 { format!(" plain: unknown ({gone} let go) ") } else { " plain: unknown ".to_owned() };
    let short: Vec<String> = ["-", "+", "++", "!"].map(str::to_owned).into();
    let forms = [build(name, &words, &unknown), build(name, &words, " plain: ? "), build(name, &words, ""), build("", &short, "")];
    forms.into_iter().find(|line| line.width() <= width)
}

fn marks_legend(state: &State, layer: usize, expert: usize, width: usize) -> Option<Line<'static>> {
    let theme = &state.theme;
    let name = format!(" L{} E{expert}", state.heatmap().block(layer));
    let mut counts = [0usize; 3];
    let mut kept = 0;
    for step in state.inspector.log.iter().rev().take(COUNTED).filter(|k| k.phase == crate::events::Phase::Decode) {
        kept += 1;
        match step.outcome(layer, expert) {
            Some(Outcome::Hit) => counts[0] += 1,
            Some(Outcome::Admitted) => counts[1] += 1,
            Some(Outcome::Miss) => counts[2] += 1,
            None => {}
        }
    }
    let used: usize = counts.iter().sum();
    let outcomes = [(Outcome::Hit, "hit"), (Outcome::Admitted, "miss, let in"), (Outcome::Miss, "miss, not let in")];
    let build = |head: String| {
        let mut line = Line::from(theme.span(Face::Dim, head));
        for ((outcome, word), count) in outcomes.into_iter().zip(counts) {
            line.push_span(theme.span(Face::Text, format!("{word} {count}")).patch_style(tint::mark(outcome, theme)));
            line.push_span(theme.span(Face::Dim, " "));
        }
        line
    };
    let of_all = build(format!("{name} in {used} of {kept} tokens: "));
    let mut all = of_all.clone();
    all.push_span(theme.span(Face::Dim, "dim: unknown ").patch_style(Style::new().add_modifier(Modifier::DIM)));
    [all, of_all, build(format!("{name}: "))].into_iter().find(|l| l.width() <= width)
}
