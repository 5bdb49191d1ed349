//! Slots that turn themselves: `/slots auto` holds a memory budget or the knee of the curve, and says why.
//!
//! Pure: the numbers of the session go in, a slot count comes out, or nothing. It moves seldom: a first choice as soon as
//! there is something to go by, then one look each [`EVERY`] tokens, and a move only if two looks in a row want one of some
//! size in the same direction. Only memory that runs out moves it at once.

use crate::experts::knee::{knee, Shape};
use crate::ui::memory::bare_bytes;

/// Generated tokens before the curve is trusted with a first choice.
pub const LEARN: u64 = 64;
/// Generated tokens between two looks.
pub const EVERY: u64 = 128;
/// Memory that is left to the rest of the machine.
const RESERVE: u64 = 256 << 20;
/// Hit rates are said in points.
const POINT: f64 = 100.0;

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The slot count beyond which a slot gains less than the mean.
    Knee,
    /// As many slots as fit into this many bytes, in all layers together.
    Bytes(u64),
}

/// What a decision goes by.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Generated tokens since the model was opened.
    pub tokens: u64,
    /// Predicted hit rate by slot count; empty while too little was seen.
    pub curve: &'a [f64],
    /// Slots per layer now.
    pub now: usize,
    /// Fewest that can be set.
    pub least: usize,
    /// Most that the model and the plan's budget allow.
    pub most: usize,
    /// Bytes of one slot in every layer.
    pub slot_step: u64,
    /// Memory that the machine could still give, if known.
    pub available: Option<u64>,
}

/// A slot count and the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Slots per layer.
    pub slots: usize,
    /// In words.
    pub why: String,
    /// It can't wait for a second look.
    pressing: bool,
}

/// The automatic knob while it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auto {
    target: Target,
    /// Why the slots are what they are.
    why: String,
    /// Token count at which the next look is due.
    next: u64,
    /// A choice was made.
    chosen: bool,
    /// The direction that the last look wanted to move in, if any.
    leaning: i8,
    /// More than this was refused.
    refused: Option<usize>,
}

impl Auto {
    /// Turned on; the next [`Auto::look`] may already choose.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, why: "learning what is used".into(), next: 0, chosen: false, leaning: 0, refused: None }
    }

    /// What is held.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target
    }

    /// Why the slots are what they are.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// `knee`, or the budget.
    #[must_use]
    pub fn name(&self) -> String {
        match self.target {
            Target::Knee => "knee".into(),
            Target::Bytes(bytes) => bare_bytes(bytes),
        }
    }

    /// Less was granted than was asked for: it is not asked for again.
    pub fn was_refused(&mut self, granted: usize, why: Option<&str>) {
        self.refused = Some(granted);
        if let Some(why) = why {
            self.why = format!("{granted} is what could be had: {why}");
        }
    }

    /// Looks at the session, if it is time to, and says which slot count to ask for.
    pub fn look(&mut self, view: &View<'_>) -> Option<usize> {
        let pressing = short_of_memory(view).is_some();
        if view.tokens < self.next && !pressing {
            return None;
        }
        let Some(choice) = choose(self.target, view, self.refused) else {
            self.why = format!("learning: {} of {LEARN} tokens", view.tokens.min(LEARN));
            return None;
        };
        self.next = view.tokens + EVERY;
        let distance = choice.slots.abs_diff(view.now);
        let direction = if choice.slots > view.now { 1 } else { -1 };
        if distance == 0 {
            (self.leaning, self.chosen, self.why) = (0, true, choice.why);
            return None;
        }
        let moves = if choice.pressing || !self.chosen {
            true
        } else {
            // A small step is not worth the copies; a larger one must be wanted twice.
            let large = distance >= (view.now / 8).max(2) || matches!(self.target, Target::Bytes(_));
            let twice = std::mem::replace(&mut self.leaning, if large { direction } else { 0 }) == direction;
            large && twice
        };
        if !moves {
            return None;
        }
        (self.leaning, self.chosen, self.why) = (0, true, choice.why);
        Some(choice.slots)
    }
}

/// Slots per layer to give back because the machine runs short.
fn short_of_memory(view: &View<'_>) -> Option<usize> {
    let short = RESERVE.checked_sub(view.available?).filter(|short| *short > 0)?;
    let slots = usize::try_from(short.div_ceil(view.slot_step.max(1))).unwrap_or(usize::MAX);
    (view.now > view.least).then_some(slots.min(view.now - view.least))
}

/// The slot count for a target, and why. `None` while too little was seen.
fn choose(target: Target, view: &View<'_>, refused: Option<usize>) -> Option<Choice> {
    if let Some(back) = short_of_memory(view) {
        let free = bare_bytes(view.available.unwrap_or(0));
        let why = format!("only {free} are free on this machine: {back} given back");
        return Some(Choice { slots: view.now - back, why, pressing: true });
    }
    let (least, most) = (view.least.min(view.most), view.most);
    let chosen = match target {
        Target::Bytes(bytes) => {
            let fit = usize::try_from(bytes / view.slot_step.max(1)).unwrap_or(usize::MAX);
            let each = bare_bytes(view.slot_step);
            let (slots, why) = if fit < least {
                (least, format!("fewest possible; {} holds {fit} of {each}", bare_bytes(bytes)))
            } else if fit >= most {
                (most, format!("the most possible; {} would hold {fit}", bare_bytes(bytes)))
            } else {
                (fit, format!("{} holds {fit} of {each} each", bare_bytes(bytes)))
            };
            Choice { slots, why, pressing: false }
        }
        Target::Knee => {
            if view.curve.is_empty() || view.tokens < LEARN {
                return None;
            }
            // The knee is the model's, not the budget's: a small budget must not move it down.
            let whole = view.curve.len() - 1;
            let found = knee(view.curve, least, whole)?;
            let points = |rate: f64| format!("{:.1}", rate * POINT);
            let mean = (view.curve[whole] - view.curve[least]) / (whole - least).max(1) as f64;
            let why = match found.shape {
                Shape::Bent => format!("knee: +1 gains {} points, the mean slot {} (LRU)", points(found.next), points(mean)),
                Shape::Straight => format!("no knee: every slot gains about {} points (LRU)", points(mean)),
                Shape::Flat => "more slots would gain nothing".to_owned(),
            };
            if found.slots > most {
                let why = format!("memory ends at {most}; the knee is at {}", found.slots);
                Choice { slots: most, why, pressing: false }
            } else {
                Choice { slots: found.slots, why, pressing: false }
            }
        }
    };
    Some(match refused.filter(|r| chosen.slots > *r) {
        Some(granted) => Choice { slots: granted.max(least), why: format!("{granted} could be had; {}", chosen.why), ..chosen },
        None => chosen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: u64 = 100 << 20;

    fn curve(knee: usize) -> Vec<f64> {
        (0..=64).map(|s: usize| 0.8 * s.min(knee) as f64 / knee as f64 + 0.1 * s.saturating_sub(knee) as f64 / 64.0).collect()
    }

    fn view(tokens: u64, now: usize, curve: &[f64]) -> View<'_> {
        View { tokens, curve, now, least: 4, most: 64, slot_step: STEP, available: Some(8 << 30) }
    }

    #[test]
    fn the_knee_is_chosen_when_enough_was_seen_and_the_reason_has_its_numbers() {
        let (curve, mut auto) = (curve(20), Auto::new(Target::Knee));
        assert_eq!(auto.look(&view(30, 40, &curve)), None);
        assert_eq!(auto.why(), "learning: 30 of 64 tokens");
        assert_eq!(auto.look(&view(64, 40, &curve)), Some(20));
        assert_eq!(auto.why(), "knee: +1 gains 0.2 points, the mean slot 1.2 (LRU)");
    }

    #[test]
    fn a_budget_needs_no_learning_and_is_bounded_by_the_model() {
        let ask = |bytes: u64| {
            let mut auto = Auto::new(Target::Bytes(bytes));
            (auto.look(&view(0, 40, &[])), auto.why().to_owned())
        };
        assert_eq!(ask(2_700 << 20), (Some(27), "2.64 GiB holds 27 of 100 MiB each".into()));
        assert_eq!(ask(100 << 20), (Some(4), "fewest possible; 100 MiB holds 1 of 100 MiB".into()));
        assert_eq!(ask(1 << 40).0, Some(64));
    }

    #[test]
    fn a_move_must_be_large_and_wanted_twice() {
        let (first, second) = (curve(20), curve(30));
        let mut auto = Auto::new(Target::Knee);
        assert_eq!(auto.look(&view(64, 40, &first)), Some(20));
        assert_eq!(auto.look(&view(100, 20, &second)), None, "not time yet");
        assert_eq!(auto.look(&view(192, 20, &second)), None, "wanted once");
        assert_eq!(auto.look(&view(320, 20, &second)), Some(30), "wanted twice");
        let near = curve(31);
        assert_eq!(auto.look(&view(448, 30, &near)), None);
        assert_eq!(auto.look(&view(576, 30, &near)), None, "one slot is not worth the copies");
    }

    #[test]
    fn a_change_of_mind_starts_the_count_anew() {
        let mut auto = Auto::new(Target::Knee);
        assert_eq!(auto.look(&view(64, 40, &curve(20))), Some(20));
        assert_eq!(auto.look(&view(192, 20, &curve(40))), None);
        assert_eq!(auto.look(&view(320, 20, &curve(10))), None, "now the other way");
        assert_eq!(auto.look(&view(448, 20, &curve(10))), Some(10));
    }

    #[test]
    fn what_was_refused_is_not_asked_for_again() {
        let mut auto = Auto::new(Target::Bytes(6_400 << 20));
        assert_eq!(auto.look(&view(0, 20, &[])), Some(64));
        auto.was_refused(31, Some("no room"));
        assert!(auto.why().contains("no room"));
        for tokens in [128, 256, 384, 512] {
            assert_eq!(auto.look(&view(tokens, 31, &[])), None);
        }
    }

    #[test]
    fn memory_that_runs_out_is_given_back_at_once() {
        let mut auto = Auto::new(Target::Bytes(3_000 << 20));
        assert_eq!(auto.look(&view(0, 20, &[])), Some(30));
        let short = View { available: Some(60 << 20), ..view(1, 30, &[]) };
        assert_eq!(auto.look(&short), Some(28));
        assert!(auto.why().contains("60.0 MiB are free"), "{}", auto.why());
    }

    proptest! {
        #[test]
        fn a_choice_is_always_within_the_bounds(
            tokens in 0u64..2000, now in 0usize..80, least in 0usize..10, most in 0usize..80, bytes in any::<u64>(),
            curve in prop::collection::vec(0.0..1.0f64, 0..80), available in any::<Option<u64>>(), step in 0u64..(1 << 34), knee in any::<bool>(),
        ) {
            let mut auto = Auto::new(if knee { Target::Knee } else { Target::Bytes(bytes) });
            let view = View { tokens, curve: &curve, now, least, most, slot_step: step, available };
            for _ in 0..3 {
                if let Some(slots) = auto.look(&view) {
                    prop_assert!(slots >= least.min(most) && slots <= most.max(now), "{slots} of {least}..{most}");
                    prop_assert!(!auto.why().is_empty());
                }
            }
        }
    }
}
