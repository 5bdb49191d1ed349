//! How fast the answer may come, as the person wants it: at a pace, or held and let through token by token.

use crate::engine::Pace;

/// Tokens per second of the embedded toy, unless somebody chose: it would have said everything before its experts were seen.
pub const TOY_PACE: f32 = 20.0;
/// The highest pace; above it nobody sees a difference.
pub const FASTEST: f32 = 1000.0;
/// The lowest: a token in 100 seconds.
pub const SLOWEST: f32 = 0.01;

/// The pace, and whether the answer at hand is held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tempo {
    /// Tokens per second that somebody chose; 0 is as fast as the model can. `None`: nobody did.
    pub chosen: Option<f32>,
    /// The open model is the embedded toy.
    pub toy: bool,
    /// The answer stands still until a token is let through.
    pub held: bool,
}

impl Tempo {
    /// Tokens per second; `None` is as fast as the model can.
    #[must_use]
    pub fn per_second(&self) -> Option<f32> {
        let rate = self.chosen.unwrap_or(if self.toy { TOY_PACE } else { 0.0 });
        (rate > 0.0).then_some(rate)
    }

    /// What the engine is to do.
    #[must_use]
    pub fn pace(&self) -> Pace {
        match self.per_second() {
            _ if self.held => Pace::Held,
            Some(rate) => Pace::PerSecond(rate),
            None => Pace::Free,
        }
    }
}

/// A pace that is written out: tokens per second, or `off`. `None` if it is neither.
#[must_use]
pub fn parse(text: &str) -> Option<f32> {
    if text.eq_ignore_ascii_case("off") {
        return Some(0.0);
    }
    text.parse().ok().filter(|rate| is_pace(*rate))
}

/// What a pace is, for whoever wrote something else.
#[must_use]
pub fn meaning() -> String {
    format!("a pace is {SLOWEST} to {FASTEST} tokens/s, or off")
}

/// Whether a number is a pace: 0 (none), or from [`SLOWEST`] to [`FASTEST`].
#[must_use]
pub fn is_pace(rate: f32) -> bool {
    rate == 0.0 || (SLOWEST..=FASTEST).contains(&rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toy_is_slowed_down_unless_somebody_chose() {
        let toy = Tempo { toy: true, ..Tempo::default() };
        assert_eq!((toy.pace(), Tempo::default().pace()), (Pace::PerSecond(TOY_PACE), Pace::Free));
        assert_eq!(Tempo { chosen: Some(0.0), ..toy }.pace(), Pace::Free);
        assert_eq!(Tempo { chosen: Some(3.0), ..Tempo::default() }.pace(), Pace::PerSecond(3.0));
        assert_eq!(Tempo { held: true, ..toy }.pace(), Pace::Held);
    }

    #[test]
    fn a_pace_is_a_number_of_tokens_per_second_or_off() {
        assert_eq!(["Off", "0", "0.5", "20", "1000"].map(parse), [Some(0.0), Some(0.0), Some(0.5), Some(20.0), Some(1000.0)]);
        assert_eq!(["", "fast", "-1", "nan", "inf", "1e9", "1e-9"].map(parse), [None; 7]);
    }
}
