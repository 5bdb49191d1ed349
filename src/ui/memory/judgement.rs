//! Is it the policy, or is the working set too big? Why did experts miss, were swaps for nothing, were the estimates any good?

use super::figures::percent;
use super::forecasts;
use super::sections::{section, Ink, Section, LABEL};
use crate::ui::ledger::SOON;
use crate::ui::memory_state::regret::{Finding, Judged};
use crate::ui::memory_state::MemoryState;
use ratatui::text::{Line, Span};

/// All of it, after everything else.
pub(super) fn sections(ink: &Ink<'_>, state: &MemoryState) -> Vec<Section> {
    let mut all = Vec::new();
    if let Some(judged) = state.regret().judged() {
        all.push(section(17, true, rates(ink, &judged)));
        all.push(section(17, false, vec![finding(ink, state, &judged)]));
    }
    all.extend(misses(ink, state, 18));
    all.extend(forecasts::accuracy(ink, state));
    all
}

/// All of it, before everything else.
pub(super) fn first(ink: &Ink<'_>, state: &MemoryState) -> Vec<Section> {
    let mut all = sections(ink, state);
    if all.is_empty() {
        all.push(section(0, true, vec![Line::from(vec![ink.label("why"), ink.dim("learning: 32 tokens are needed")])]));
    }
    all.iter_mut().for_each(|s| s.rank = 1);
    all
}

/// Hit rates on the same tokens, from the best to chance.
fn rates(ink: &Ink<'_>, judged: &Judged) -> Vec<Line<'static>> {
    let room = ink.width.saturating_sub(LABEL + 24).min(24);
    let line = |label: &'static str, share: f64, words: &'static str| {
        let mut line = Line::from(vec![ink.label(label), ink.text(percent(Some(share))), Span::raw(" ")]);
        if room >= 6 {
            line.extend(ink.bar(share, room));
        }
        line.push_span(ink.dim(format!(" {words}")));
        line
    };
    vec![
        line("best", judged.best, "in hindsight"),
        line("achieved", judged.achieved, "same tokens"),
        line("LRU", judged.lru, "same tokens"),
        line("chance", judged.chance, "slots/experts"),
    ]
}

/// The verdict in words, with the numbers that it rests on.
fn finding(ink: &Ink<'_>, state: &MemoryState, judged: &Judged) -> Line<'static> {
    let slots = state.slots();
    let avoidable = format!("{:.0}%", judged.avoidable() * 100.0);
    let (short, long) = match judged.finding() {
        Finding::Plenty => ("slots suffice".to_owned(), format!("{slots} slots suffice: {:.0}% of the uses hit", judged.achieved * 100.0)),
        Finding::Lru => {
            let points = (judged.lru - judged.achieved) * 100.0;
            ("/policy lru would be better".to_owned(), format!("the policy: LRU would hit {points:.1} points more (/policy lru)"))
        }
        Finding::NoReuse => ("uses hardly repeat".to_owned(), "uses hardly repeat: only slots help, no policy".to_owned()),
        Finding::Policy => {
            (format!("the policy: {avoidable} avoidable"), format!("the policy: hindsight avoids {avoidable} of the misses"))
        }
        Finding::WorkingSet => {
            (format!("working set > {slots} slots"), format!("working set too big for {slots} slots: {avoidable} avoidable"))
        }
        Finding::Both => (format!("slots, policy: {avoidable} avoidable"), format!("policy and working set: hindsight avoids {avoidable}")),
    };
    let line = |words: String| Line::from(vec![ink.label("verdict"), ink.accent(words)]);
    ink.fitting(vec![line(long), line(short)])
}

/// Classes of misses, and swaps that were regretted.
fn misses(ink: &Ink<'_>, state: &MemoryState, rank: u8) -> Vec<Section> {
    let account = state.account();
    let Some([first, capacity, refused]) = account.classes() else { return Vec::new() };
    let share = |share: f64| ink.text(format!("{:>3.0}%", share * 100.0));
    let classes = |words: [&'static str; 3]| {
        let mut line = Line::from(vec![ink.label("misses")]);
        for (part, word) in [first, capacity, refused].into_iter().zip(words) {
            line.extend([share(part), ink.dim(word)]);
        }
        line
    };
    let whole = [classes([" first use  ", " capacity  ", " refused"]), classes([" first ", " capacity ", " refused"])];
    let lines = match whole.into_iter().find(|l| l.width() <= ink.width) {
        Some(line) => vec![line],
        // Two rows of whole words rather than one of halves.
        None => {
            let row = |label: &'static str, part: f64, word: &'static str| vec![ink.label(label), share(part), ink.dim(word)];
            let mut first_row = Line::from(row("misses", first, " first use "));
            first_row.extend([share(capacity), ink.dim(" capacity")]);
            vec![first_row, Line::from(row("", refused, " refused"))]
        }
    };
    let mut sections = vec![section(rank, true, lines)];
    if let Some(regret) = account.regret() {
        let line = |words: String| Line::from(vec![ink.label("regret"), share(regret), ink.dim(words)]);
        let long = format!(" of {} swaps: needed within {SOON} tokens", account.swaps);
        let short = format!(" of {} swaps in {SOON} tok", account.swaps);
        sections.push(section(rank, false, vec![ink.fitting(vec![line(long), line(short)])]));
    }
    if let Some(right) = account.foresight() {
        let line = |words: String| Line::from(vec![ink.label("ahead"), share(right), ink.dim(words)]);
        let long = format!(" of {} asked for: came before their use", account.ahead);
        let short = format!(" of {} asked for", account.ahead);
        sections.push(section(rank, false, vec![ink.fitting(vec![line(long), line(short)])]));
    }
    sections
}
