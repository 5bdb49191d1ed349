//! Tints of the chat's tokens: what they say, and how strong.
//!
//! Four levels. Misses have fixed bounds. Times and entropies differ from model to model, so their bounds are the half, three
//! quarters and nineteen twentieths of what is kept; they are taken again only when a quarter more has come, so that the
//! chat does not shimmer.

use super::palette::{rgb_of, ColorDepth, Rgb};
use super::routing_log::{Kept, Lookup, RoutingLog};
use super::theme::{Face, Theme};
use crate::events::Phase;
use ratatui::style::{Color, Modifier, Style};

/// Levels of a tint.
pub const LEVELS: usize = 4;
/// Bounds between the levels of misses: shares of a token's routed experts.
const MISSES: [f32; 3] = [0.1, 0.25, 0.5];
/// Bounds between the levels of times and entropies, as quantiles.
const QUANTILES: [f32; 3] = [0.5, 0.75, 0.95];
/// Fewest new steps after which quantiles are taken.
const ENOUGH: u64 = 8;
/// Fewest values that quantiles are taken from.
const FEWEST: usize = 4;
/// Most kept steps that the quantiles look at.
const LOOKED_AT: usize = 4096;

/// What the tokens of the chat are tinted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tint {
    /// Nothing.
    #[default]
    Off,
    /// Share of the routed experts that were in no slot.
    Misses,
    /// Time of the step.
    Time,
    /// Entropy of the gates: how undecided the routers were.
    Entropy,
}

impl Tint {
    /// All, in the order of the key.
    pub const ALL: [Self; 4] = [Self::Off, Self::Misses, Self::Time, Self::Entropy];
    /// Their names, in the same order.
    pub const NAMES: [&'static str; 4] = ["off", "misses", "time", "entropy"];

    /// The name by which it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The tint of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }

    /// The number that it shows of a step; `None` if the step does not know it.
    #[must_use]
    pub fn value(self, kept: &Kept) -> Option<f32> {
        match self {
            Self::Off => None,
            Self::Misses => kept.missed,
            // A simulated step has no times. A chunk of the prompt is no token.
            Self::Time => (kept.time.total_us > 0 && kept.phase == Phase::Decode).then_some(kept.time.total_us as f32),
            Self::Entropy => kept.entropy.filter(|_| kept.phase == Phase::Decode),
        }
    }
}

/// Bounds between levels, as the session has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scale {
    time: Option<[f32; 3]>,
    entropy: Option<[f32; 3]>,
    /// Steps that had come when the bounds were taken.
    taken: u64,
}

impl Scale {
    /// Takes the bounds anew if enough has come since. When they are taken is a matter of how many steps have come, and of
    /// nothing else, so a replay that goes back finds the same bounds.
    pub fn refresh(&mut self, log: &RoutingLog) {
        let (mut taken, mut next) = (0, ENOUGH);
        while next <= log.pushed() {
            taken = next;
            next += (taken / 4).max(ENOUGH);
        }
        if taken != self.taken {
            let since = usize::try_from(log.pushed() - taken).unwrap_or(usize::MAX);
            let of = |tint| quantiles(log.iter().rev().skip(since), tint);
            *self = Self { time: of(Tint::Time), entropy: of(Tint::Entropy), taken };
        }
    }

    /// The bounds of a tint; `None` while too little is known.
    #[must_use]
    pub fn bounds(&self, tint: Tint) -> Option<[f32; 3]> {
        match tint {
            Tint::Off => None,
            Tint::Misses => Some(MISSES),
            Tint::Time => self.time,
            Tint::Entropy => self.entropy,
        }
    }

    /// The level of a piece that the steps `first..=last` chose: that of its strongest token, `None` (unknown) if anything of
    /// it is not known.
    #[must_use]
    pub fn level(&self, tint: Tint, log: &RoutingLog, (first, last): (u64, u64)) -> Option<usize> {
        let bounds = self.bounds(tint)?;
        let mut strongest = 0;
        for step in first..=last {
            let Lookup::Here(kept) = log.get(step) else { return None };
            let value = tint.value(kept)?;
            strongest = strongest.max(bounds.iter().filter(|b| value >= **b).count());
        }
        Some(strongest)
    }

    /// What each level means, in words: the bounds.
    #[must_use]
    pub fn words(&self, tint: Tint) -> Option<[String; LEVELS]> {
        let bounds = self.bounds(tint)?;
        let number = |v: f32| match tint {
            Tint::Misses => format!("{:.0}%", v * 100.0),
            Tint::Entropy => format!("{v:.2}"),
            _ if bounds[2] >= 1e6 => format!("{:.1}s", v / 1e6),
            _ if bounds[2] >= 1e4 => format!("{:.0}ms", v / 1e3),
            _ => format!("{:.2}ms", v / 1e3),
        };
        let [a, b, c] = bounds.map(number);
        Some([format!("<{a}"), format!("<{b}"), format!("<{c}"), "more".to_owned()])
    }
}

fn quantiles<'a>(newest_first: impl Iterator<Item = &'a Kept>, tint: Tint) -> Option<[f32; 3]> {
    let mut values: Vec<f32> = newest_first.take(LOOKED_AT).filter_map(|kept| tint.value(kept)).collect();
    if values.len() < FEWEST {
        return None;
    }
    values.sort_unstable_by(f32::total_cmp);
    Some(QUANTILES.map(|q| values[((values.len() - 1) as f32 * q) as usize]))
}

/// How a level looks. Without colours by attributes: dim, underlined, bold, bold and underlined; text without a tint is
/// text of which nothing is known.
#[must_use]
pub fn style(level: usize, theme: &Theme) -> Style {
    if theme.is_mono() {
        let attributes = [Modifier::DIM, Modifier::UNDERLINED, Modifier::BOLD, Modifier::BOLD.union(Modifier::UNDERLINED)];
        return Style::new().add_modifier(attributes[level.min(LEVELS - 1)]);
    }
    let ground = theme.heat(level * (theme.heat_levels() - 1) / (LEVELS - 1));
    Style::new().bg(ground).fg(ink(ground, theme))
}

/// Black or white, whichever reads better on `ground`: one of them always has a contrast above 4.5.
fn ink(ground: Color, theme: &Theme) -> Color {
    let (black, white) = (Rgb(0, 0, 0), Rgb(255, 255, 255));
    let dark = rgb_of(ground).is_none_or(|ground| ground.contrast(black) >= ground.contrast(white));
    match (theme.depth == ColorDepth::Ansi16, dark) {
        (true, true) => Color::Black,
        (true, false) => Color::White,
        // The first 16 are the terminal's own.
        (false, true) => Color::Indexed(16),
        (false, false) => Color::Indexed(231),
    }
}

/// How text looks that used the expert under the heatmap's cursor, by what became of it.
#[must_use]
pub fn mark(outcome: crate::events::Outcome, theme: &Theme) -> Style {
    let face = match outcome {
        crate::events::Outcome::Hit => Face::Hit,
        crate::events::Outcome::Miss => Face::Miss,
        crate::events::Outcome::Admitted => Face::Admitted,
    };
    let attributes = if outcome == crate::events::Outcome::Hit { Modifier::UNDERLINED } else { Modifier::REVERSED };
    theme.style(face).add_modifier(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{StepRecord, StepTime};

    fn log(times: impl IntoIterator<Item = u32>) -> RoutingLog {
        let mut log = RoutingLog::default();
        for (step, total_us) in times.into_iter().enumerate() {
            log.push(&StepRecord { step: step as u64, time: StepTime { total_us, ..StepTime::default() }, ..StepRecord::default() });
        }
        log
    }

    #[test]
    fn times_are_ranked_among_those_of_the_session() {
        let log = log((1..=100).map(|i| i * 1000));
        let mut scale = Scale::default();
        scale.refresh(&log);
        let level = |step| scale.level(Tint::Time, &log, (step, step));
        // Taken after 96 of them.
        assert_eq!([level(10), level(60), level(85), level(99)], [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(scale.words(Tint::Time).unwrap()[0], "<48ms");
    }

    #[test]
    fn a_piece_with_an_unknown_token_is_unknown() {
        let mut log = log([5000; 20]);
        log.push(&StepRecord { step: 21, time: StepTime { total_us: 5000, ..StepTime::default() }, ..StepRecord::default() });
        let mut scale = Scale::default();
        scale.refresh(&log);
        assert_eq!(scale.level(Tint::Time, &log, (20, 21)), None, "step 20 was dropped");
        assert!(scale.level(Tint::Time, &log, (21, 21)).is_some());
        assert_eq!(scale.level(Tint::Time, &log, (22, 22)), None, "step 22 has not come");
        assert_eq!(scale.level(Tint::Misses, &log, (3, 3)), None, "nothing was routed");
    }

    #[test]
    fn bounds_are_taken_seldom() {
        let mut scale = Scale::default();
        let mut changes = 0;
        for n in 1..2000u32 {
            let before = scale.clone();
            scale.refresh(&log((0..n).map(|i| 1000 + i)));
            changes += u32::from(scale != before);
        }
        assert!((10..40).contains(&changes), "{changes}");
    }

    #[test]
    fn levels_differ_and_read_well_at_every_depth() {
        for name in ["dark", "light", "safe", "ember", "sixteen"] {
            for depth in [ColorDepth::Ansi16, ColorDepth::Indexed256, ColorDepth::TrueColor] {
                let theme = Theme::built_in(name, depth, false);
                let styles: Vec<Style> = (0..LEVELS).map(|l| style(l, &theme)).collect();
                for (i, s) in styles.iter().enumerate() {
                    let (ink, ground) = (rgb_of(s.fg.unwrap()).unwrap(), rgb_of(s.bg.unwrap()).unwrap());
                    assert!(ink.contrast(ground) >= 4.5, "{name} {depth:?} {i}");
                    assert!(styles[i + 1..].iter().all(|other| other.bg != s.bg), "{name} {depth:?} {i}");
                    assert_ne!(s.bg, theme.base().bg, "a level is no missing tint");
                }
            }
        }
        let mono = Theme::built_in("dark", ColorDepth::Mono, true);
        let mut seen: Vec<Style> = (0..LEVELS).map(|l| style(l, &mono)).collect();
        seen.push(Style::new());
        for (i, s) in seen.iter().enumerate() {
            assert!(seen[i + 1..].iter().all(|other| other != s));
            assert!(s.fg.is_none() && s.bg.is_none());
        }
    }
}
