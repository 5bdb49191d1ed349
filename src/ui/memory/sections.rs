//! The sections of the memory pane that are counted, as lines: what happens, and where things are.

use super::figures::{bare_bytes, bytes, percent, speed, time, whole_percent};
use super::{forecasts, judgement};
use crate::events::ModelCard;
use crate::ui::memory_state::{MemoryState, Page};
use crate::ui::panes::PaneContext;
use crate::ui::theme::{Face, Theme};
use crate::ui::wrap::shortened;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

/// Columns of the labels at the left.
pub(super) const LABEL: usize = 9;

/// A few lines that stand or fall together.
pub(super) struct Section {
    /// Who stays when room is short: low ranks first.
    pub(super) rank: u8,
    /// A blank line may stand before it.
    pub(super) opens_group: bool,
    /// It stands for the large curve, and goes where that has room.
    pub(super) stand_in: bool,
    pub(super) lines: Vec<Line<'static>>,
}

pub(super) fn section(rank: u8, opens_group: bool, lines: Vec<Line<'static>>) -> Section {
    Section { rank, opens_group, stand_in: false, lines }
}

/// Slots per layer as they are now. The engine's answer to a key comes before the first step with it.
pub(super) fn granted(state: &MemoryState, context: &PaneContext<'_>) -> usize {
    match context.slots.granted {
        0 => state.slots(),
        granted => granted.min(state.experts().max(state.slots())),
    }
}

pub(super) struct Ink<'a> {
    pub(super) theme: &'a Theme,
    pub(super) width: usize,
}

impl Ink<'_> {
    pub(super) fn label(&self, text: &'static str) -> Span<'static> {
        self.theme.span(Face::Dim, format!("{text:<LABEL$}"))
    }

    pub(super) fn dim(&self, text: impl Into<String>) -> Span<'static> {
        self.theme.span(Face::Dim, text.into())
    }

    pub(super) fn text(&self, text: impl Into<String>) -> Span<'static> {
        self.theme.span(Face::Text, text.into())
    }

    pub(super) fn accent(&self, text: impl Into<String>) -> Span<'static> {
        self.theme.span(Face::Accent, text.into())
    }

    /// Letters tell what colours can't.
    fn lettered(&self) -> bool {
        self.theme.ascii || self.theme.is_mono()
    }

    /// The first line that fits; the last if none does.
    pub(super) fn fitting(&self, mut lines: Vec<Line<'static>>) -> Line<'static> {
        let at = lines.iter().position(|l| l.width() <= self.width).unwrap_or(lines.len().saturating_sub(1));
        if at < lines.len() {
            lines.swap_remove(at)
        } else {
            Line::default()
        }
    }

    /// A bar of `width` columns, `share` of it filled.
    pub(super) fn bar(&self, share: f64, width: usize) -> [Span<'static>; 2] {
        let g = self.theme.glyphs();
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        let mut filled = (share * width as f64).round() as usize;
        if share > 0.0 && filled == 0 {
            filled = 1.min(width);
        }
        [self.theme.span(Face::Bar, g.bar.repeat(filled)), self.theme.span(Face::Track, g.track.repeat(width - filled))]
    }
}

/// What happens: slots, hits, speed, time, what other slot counts would do.
pub(super) fn activity(state: &MemoryState, context: &PaneContext<'_>, theme: &Theme, width: u16) -> Vec<Section> {
    let ink = Ink { theme, width: usize::from(width) };
    if context.card.is_some_and(ModelCard::is_dense) {
        let words = ink.fitting(vec![
            Line::from(vec![ink.label("slots"), ink.text("none"), ink.dim("  a dense model: each token uses every weight")]),
            Line::from(vec![ink.label("slots"), ink.text("none"), ink.dim("  a dense model")]),
        ]);
        let mut all = vec![section(0, false, vec![words])];
        all.extend(speeds(&ink, state));
        all.extend(drafting(&ink, state));
        all.extend(split(&ink, state));
        return all;
    }
    let mut all = slots(&ink, state, context);
    all.push(section(2, true, vec![hit_rate(&ink, state)]));
    if state.page() == Page::Why {
        all.extend(judgement::first(&ink, state));
    }
    all.extend(speeds(&ink, state));
    all.extend(drafting(&ink, state));
    all.extend(split(&ink, state));
    all.extend(forecasts::keys(&ink, state, context));
    all
}

/// Where things are: tiers, process, context, lost records.
pub(super) fn places(state: &MemoryState, context: &PaneContext<'_>, theme: &Theme, width: u16) -> Vec<Section> {
    let ink = Ink { theme, width: usize::from(width) };
    let mut all = forecasts::strip(&ink, state, context);
    all.extend(tiers(&ink, state, context));
    all.extend(process(&ink, state, context));
    if state.page() == Page::Now {
        all.extend(judgement::sections(&ink, state));
    }
    if context.dropped > 0 {
        let words = format!("{} records lost: the screen was slower than the model", context.dropped);
        all.push(section(3, false, vec![Line::from(theme.span(Face::Notice, words))]));
    }
    all
}

fn slots(ink: &Ink<'_>, state: &MemoryState, context: &PaneContext<'_>) -> Vec<Section> {
    let digits = state.experts().max(1).to_string().len();
    let knob = context.slots;
    let now = granted(state, context);
    let (used, all) = state.occupancy(now);
    let turning = knob.asked != 0 && knob.asked != knob.granted;
    let count = |with_bytes: bool| {
        let mut line = Line::from(vec![
            ink.label("slots"),
            ink.accent(format!("{now:>digits$}")),
            ink.dim(format!(" of {} per layer", state.experts())),
        ]);
        if with_bytes {
            line.push_span(ink.text(bytes(state.slot_bytes(now))));
        }
        if turning {
            line.push_span(ink.accent(format!("  turning to {}", knob.asked)));
        } else if let Some(asked) = knob.refused {
            line.push_span(ink.theme.span(Face::Notice, format!("  asked {asked}, got {}", knob.granted)));
        } else if let Some((fewest, most)) = state.slot_range() {
            line.push_span(ink.accent(format!("  by layer {fewest}..{most}")));
        } else if let Some(auto) = &knob.auto {
            line.push_span(ink.accent(format!("  auto: {}", auto.name())));
        }
        line
    };
    let line = ink.fitting(vec![count(true), count(false)]);
    let mut sections = vec![section(0, false, vec![line])];
    // Why the knob stands where it does, if not because the person said so.
    let why = match (&knob.why, &knob.auto) {
        (Some(why), _) if knob.refused.is_some() && !turning => Some((why.as_str(), Face::Notice)),
        (_, Some(auto)) => Some((auto.why(), Face::Text)),
        _ => None,
    };
    if let Some((why, face)) = why {
        let why = crate::text::one_line(why, 200);
        let why = shortened(&why, ink.width, ink.theme.glyphs().ellipsis).into_owned();
        sections.push(section(4, false, vec![Line::from(ink.theme.span(face, why))]));
    }
    let room = ink.width.saturating_sub(LABEL + 22).min(40);
    if room >= 6 && all > 0 {
        let digits = all.to_string().len();
        let mut line = Line::from(vec![ink.label("  in use")]);
        if let Some(used) = used {
            line.extend(ink.bar(used as f64 / all as f64, room));
            line.push_span(ink.text(format!(" {used:>digits$}")));
            line.push_span(ink.dim(format!(" of {all}")));
        } else {
            line.push_span(ink.dim("the next step will tell"));
        }
        sections.push(section(13, false, vec![line]));
    }
    sections
}

fn hit_rate(ink: &Ink<'_>, state: &MemoryState) -> Line<'static> {
    Line::from(vec![
        ink.label("hits"),
        ink.accent(percent(state.hit_rate_now())),
        ink.dim(format!(" last {:<3}", state.window())),
        ink.text(percent(state.hit_rate_session())),
        ink.dim(" session"),
    ])
}

fn speeds(ink: &Ink<'_>, state: &MemoryState) -> Vec<Section> {
    let mut line = Line::from(vec![
        ink.label("speed"),
        ink.accent(speed(state.speed_now())),
        ink.dim(" tok/s   "),
        ink.text(speed(state.speed_session())),
        ink.dim(" session"),
    ]);
    let room = ink.width.saturating_sub(line.width() + 2);
    if room >= 12 {
        line.push_span(Span::raw("  "));
        line.extend(spark(ink, state, room.min(48)));
        return vec![section(3, false, vec![line])];
    }
    let mut own = Line::from(vec![ink.label("")]);
    own.extend(spark(ink, state, ink.width.saturating_sub(LABEL).min(48)));
    vec![section(3, false, vec![line]), section(10, false, vec![own])]
}

/// What reading likely tokens along brings.
fn drafting(ink: &Ink<'_>, state: &MemoryState) -> Option<Section> {
    let drafting = state.drafting()?;
    let line = |long: bool| {
        let mut line = Line::from(vec![
            ink.label("drafts"),
            ink.text(format!("{:9.2}", drafting.gained)),
            ink.dim(" tok/step"),
            ink.text(percent(Some(drafting.right))),
            ink.dim(" right"),
        ]);
        if long {
            line.push_span(ink.dim(format!(" of {:.1} read along", drafting.drafted)));
        }
        line
    };
    Some(section(9, false, vec![ink.fitting(vec![line(true), line(false)])]))
}

/// The latest tokens' speeds, scaled to their highest, newest at the right.
fn spark(ink: &Ink<'_>, state: &MemoryState, width: usize) -> Vec<Span<'static>> {
    let g = ink.theme.glyphs();
    let mut samples: Vec<Option<f32>> = state.speeds().rev().take(width).collect();
    samples.reverse();
    let top = samples.iter().flatten().copied().fold(0f32, f32::max);
    let mut words = " ".repeat(width - samples.len());
    for sample in samples {
        words.push_str(match sample {
            None => g.gap,
            Some(s) if top > 0.0 => g.spark[((s / top * 8.0).round() as usize).clamp(1, 8)],
            Some(_) => g.spark[1],
        });
    }
    vec![ink.theme.span(Face::Bar, words)]
}

fn split(ink: &Ink<'_>, state: &MemoryState) -> Vec<Section> {
    let Some(split) = state.split() else { return Vec::new() };
    let parts = [
        ("trunk", 'T', split.trunk, Face::Trunk),
        ("hits", 'H', split.hits, Face::TimeHits),
        ("misses", 'M', split.misses, Face::TimeMisses),
        ("upload", 'U', split.upload, Face::TimeUpload),
        ("sample", 'S', split.sampling, Face::TimeSampling),
    ];
    let total = split.total();
    let room = ink.width.saturating_sub(LABEL + 8).clamp(1, 60);
    let mut bar = Line::from(vec![ink.label("step"), ink.text(time(total)), Span::raw(" ")]);
    let ground = ink.theme.base().bg.filter(|c| *c != Color::Reset).unwrap_or(Color::Black);
    for ((name, letter, _, face), columns) in parts.iter().zip(shares(&parts.map(|p| p.2), room)) {
        // Without colours the parts are told apart by their letters.
        if ink.lettered() {
            // The name's first letter is the part's own: what follows the name is more of it.
            let named = if columns > name.len() { format!("{letter}{}", &name[1..]) } else { String::new() };
            let words = format!("{named}{}", letter.to_string().repeat(columns - named.len()));
            bar.push_span(Span::styled(words, ink.theme.style(*face)));
        } else {
            let name = if columns >= name.len() + 2 { name } else { "" };
            let words = format!("{name:^columns$}");
            bar.push_span(Span::styled(words, Style::new().bg(ink.theme.color(*face)).fg(ground)));
        }
    }
    let mut sections = vec![section(4, true, vec![bar])];
    let items: Vec<Vec<Span<'static>>> = parts
        .iter()
        .map(|(name, letter, us, face)| {
            let key = if ink.lettered() { letter.to_string() } else { "▪".to_owned() };
            vec![Span::styled(key, ink.theme.style(*face)), ink.dim(format!(" {name:<6}")), ink.text(time(*us)), Span::raw("  ")]
        })
        .collect();
    // As many items per line as fit: 5 or 3 of 17 columns.
    let per_line = if ink.width >= 5 * 17 - 2 { 5 } else { 3 };
    let lines: Vec<Line<'static>> = items.chunks(per_line).map(|chunk| Line::from(chunk.concat())).collect();
    if ink.width >= 3 * 17 - 2 {
        sections.push(section(10, false, lines));
    }
    if let Some((uploaded, missed)) = state.bytes_per_token() {
        let line = Line::from(vec![
            ink.label("bytes"),
            ink.text(bytes(uploaded)),
            ink.dim(" copied,"),
            ink.text(bytes(missed)),
            ink.dim(" read /token"),
        ]);
        sections.push(section(15, false, vec![line]));
    }
    sections
}

/// Splits `columns` by the sizes of the parts (largest remainder), so that they always fill the bar.
fn shares(parts: &[f64; 5], columns: usize) -> [usize; 5] {
    let total: f64 = parts.iter().filter(|p| p.is_finite() && **p > 0.0).sum();
    let mut whole = [0usize; 5];
    if total <= 0.0 {
        return whole;
    }
    let exact = parts.map(|p| if p.is_finite() && p > 0.0 { p / total * columns as f64 } else { 0.0 });
    for (w, e) in whole.iter_mut().zip(exact) {
        *w = e as usize;
    }
    let mut order = [0, 1, 2, 3, 4];
    order.sort_by(|a, b| (exact[*b] - whole[*b] as f64).total_cmp(&(exact[*a] - whole[*a] as f64)));
    let missing = columns.saturating_sub(whole.iter().sum());
    order.iter().take(missing).for_each(|i| whole[*i] += 1);
    whole
}

fn tiers(ink: &Ink<'_>, state: &MemoryState, context: &PaneContext<'_>) -> Vec<Section> {
    let gauges = state.latest_gauges();
    let experts = context.card.map_or(0, |c| c.plan.experts);
    let slots = state.slot_bytes(state.slots());
    let file = gauges.map_or(0, |g| g.file);
    let largest = file.max(experts).max(slots).max(1);
    let room = ink.width.saturating_sub(LABEL + 10).min(32);
    let tier = |label: &'static str, n: Option<u64>| -> Line<'static> {
        let mut line = Line::from(vec![ink.label(label), ink.text(n.map_or_else(|| format!("{:>9}", "?"), bytes)), Span::raw(" ")]);
        if room >= 6 {
            line.extend(ink.bar(n.unwrap_or(0) as f64 / largest as f64, room));
        }
        line
    };
    // Bytes of experts, as in the file; the slots themselves are a little larger, in whole pages.
    let mut lines = vec![tier("in slots", state.bytes_in_slots())];
    if let Some(gauges) = gauges.filter(|g| g.file > 0) {
        lines.push(tier("cached", gauges.page_cache));
        lines.push(tier("file", Some(gauges.file)));
    } else if experts > 0 {
        lines.push(tier("experts", Some(experts)));
    }
    vec![section(14, true, lines)]
}

fn process(ink: &Ink<'_>, state: &MemoryState, context: &PaneContext<'_>) -> Vec<Section> {
    let mut sections = Vec::new();
    if let Some(card) = context.card {
        let (used, all) = (state.context_used(), card.context);
        let digits = all.to_string().len().max(4);
        let mut line = Line::from(vec![ink.label("context"), ink.text(format!("{used:>digits$}")), ink.dim(format!(" of {all}"))]);
        line.push_span(ink.dim(format!(" {:>3}%", whole_percent(u64::from(used), all as u64))));
        if let Some(gauges) = state.latest_gauges() {
            line.push_span(ink.text(format!(" {}", bytes(gauges.cache_used))));
        }
        sections.push(section(11, true, vec![line]));
    }
    let Some(gauges) = state.latest_gauges() else { return sections };
    let process = |budget: Option<u64>| {
        let mut line =
            Line::from(vec![ink.label("process"), ink.text(bytes(gauges.rss)), ink.dim(" peak"), ink.text(bytes(gauges.rss_peak))]);
        if let Some(budget) = budget {
            line.push_span(ink.dim(format!(" of {} budget", bare_bytes(budget))));
        }
        line
    };
    let line = ink.fitting(vec![process(context.card.and_then(|c| c.plan.budget)), process(None)]);
    sections.push(section(8, false, vec![line]));
    if let Some(d) = gauges.device {
        let mut line = Line::from(vec![ink.label("VRAM"), ink.text(bytes(d.used)), ink.dim(format!(" of {}", bare_bytes(d.memory)))]);
        if let Some(busy) = d.busy {
            line.push_span(ink.dim(format!(", {busy} % busy")));
        }
        sections.push(section(8, false, vec![line]));
        let queued = format!("/s {} queued", d.queued);
        let mut line = Line::from(vec![ink.label("to GPU"), ink.text(bytes(d.sent_rate)), ink.dim(queued)]);
        if let Some(all) = d.received_rate {
            line.push_span(ink.dim(format!(", bus {}/s", bare_bytes(all))));
        }
        sections.push(section(13, false, vec![line]));
        if d.to_hold > 0 {
            let mut line = Line::from(vec![ink.label("held"), ink.text(bytes(d.held))]);
            if d.held < d.to_hold {
                line.push_span(ink.dim(format!(" of {}", bare_bytes(d.to_hold))));
            }
            line.push_span(ink.dim(match d.locked {
                0 => " in huge pages".to_owned(),
                all if all == d.held => " page-locked".to_owned(),
                some => format!(", {} page-locked", bare_bytes(some)),
            }));
            sections.push(section(14, false, vec![line]));
        }
    }
    let line = Line::from(vec![
        ink.label("free"),
        ink.text(bytes(gauges.available)),
        ink.dim(" disk"),
        ink.text(bytes(gauges.disk_rate)),
        ink.dim("/s"),
    ]);
    sections.push(section(16, false, vec![line]));
    sections
}

#[cfg(test)]
mod tests {
    use super::shares;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_parts_of_a_step_always_fill_the_bar(parts in prop::array::uniform5(0.0..1e7f64), columns in 1usize..200) {
            let sum: usize = shares(&parts, columns).iter().sum();
            prop_assert!(sum == columns || parts.iter().sum::<f64>() == 0.0);
        }
    }
}
