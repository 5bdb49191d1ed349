//! Is it the policy, or is the working set too big? And were the estimates any good?

use super::figures::percent;
use super::forecasts;
use super::sections::{section, Ink, Section, LABEL};
use crate::ui::memory_state::MemoryState;
use ratatui::text::{Line, Span};

/// All of it.
pub(super) fn sections(ink: &Ink<'_>, state: &MemoryState) -> Vec<Section> {
    let mut sections = Vec::new();
    let (slots, experts) = (state.slots(), state.experts());
    if let Some((best, achieved)) = state.regret().best_and_achieved() {
        let chance = (experts > 0).then(|| slots as f64 / experts as f64);
        let about = ink.theme.glyphs().about;
        let line = |label: &'static str, share: Option<f64>, words: &'static str, room: usize| {
            let mut line = Line::from(vec![ink.label(label), ink.text(percent(share)), Span::raw(" ")]);
            if room >= 6 {
                line.extend(ink.bar(share.unwrap_or(0.0), room));
            }
            line.push_span(ink.dim(format!(" {words}")));
            line
        };
        let room = ink.width.saturating_sub(LABEL + 24).min(24);
        let lines = vec![
            line("best", Some(best), "in hindsight", room),
            line("achieved", Some(achieved), "same tokens", room),
            line("LRU", state.lru_now(), if about == "~" { "~ estimated" } else { "≈ estimated" }, room),
            line("chance", chance, "slots/experts", room),
        ];
        sections.push(section(17, true, lines));
    }
    sections.extend(forecasts::accuracy(ink, state));
    sections
}
