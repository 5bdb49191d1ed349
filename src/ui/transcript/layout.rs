//! An item as rows of a given width.
//!
//! The source text is the truth; rows are a cache per item and width. While an answer grows, only its tail
//! (the block that is still open, see [`markdown::stable_end`]) is laid out again.

use super::{Ending, Item, Kind, Thinking};
use crate::events::FinishReason;
use crate::ui::markdown;
use crate::ui::origin::{Piece, Row};
use crate::ui::sanitize;
use crate::ui::theme::{Face, Theme};
use crate::ui::wrap::{wrap, Break};
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// Bytes of the text whose lines are final at this width.
    stable_bytes: usize,
    stable: Vec<Row>,
    /// Earlier ends of the final part: bytes and rows.
    ends: Vec<(usize, usize)>,
    /// All rows, those of the reasoning first, then `stable`; rebuilt when dirty.
    pub(super) lines: Vec<Row>,
    /// Rows of the reasoning, its head included.
    pub(super) thought: usize,
    pub(super) valid: bool,
}

impl Layout {
    /// The text ends at `bytes` again: what was final before that is.
    pub(super) fn cut(&mut self, bytes: usize) {
        while self.stable_bytes > bytes {
            let (bytes, rows) = self.ends.pop().unwrap_or_default();
            (self.stable_bytes, self.valid) = (bytes, false);
            self.stable.truncate(rows);
        }
    }
}

impl Item {
    /// Lays it out anew, but for what is final.
    pub(super) fn lay_out(&mut self, width: usize, theme: &Theme) {
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
fn seconds(s: f64) -> String {
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
    if stats.drafted_tokens > 0 {
        parts.push(format!("drafts {} of {} right", stats.kept_tokens, stats.drafted_tokens));
    }
    if stats.prompt_tokens > 0 {
        let read = stats.read_tokens();
        let of = if stats.unread_tokens > 0 { format!(" of {}", read + stats.unread_tokens) } else { String::new() };
        parts.push(format!("prompt {read}{of} read, {} reused, {}", stats.reused_tokens, seconds(stats.prefill_s)));
    }
    if stats.routed > 0 {
        parts.push(format!("hits {:.1}%", 100.0 * stats.hits as f64 / stats.routed as f64));
    }
    (!parts.is_empty()).then(|| parts.join(&format!(" {dot} ")))
}
