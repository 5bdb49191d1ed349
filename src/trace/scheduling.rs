//! The policy that a recording names: its word for the program's own, with limits that a file could not set by itself.

use crate::events::Scheduling;
use crate::experts::policy::{Admission, Policy};
use crate::text::one_line;

/// Largest margin that is believed.
const MOST_MARGIN: f64 = 1e6;

/// Why a recording's policy can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OddScheduling {
    /// Another program's, or a later one's.
    #[error("the recording names the policy {0:?}, which this program does not know")]
    Policy(String),
    /// A number that means nothing.
    #[error("the recording names a margin of {0:e}; it goes from 0 to {MOST_MARGIN}")]
    Margin(f64),
    /// Not even that.
    #[error("what the recording says of its policy can't be read: {0}")]
    Unread(String),
}

/// The policy and its way to admit, as far as this program knows them.
///
/// # Errors
/// If it doesn't, with what is to be said of it.
pub fn known(of: &Scheduling) -> Result<(Policy, Admission), OddScheduling> {
    if let Some(why) = &of.unread {
        return Err(OddScheduling::Unread(one_line(why, 90)));
    }
    let policy: Policy = of.policy.parse().map_err(|_| OddScheduling::Policy(one_line(&of.policy, 90)))?;
    // Whatever the file does not name stays as it is.
    let mut admission = policy.admission();
    admission.margin = of.margin.unwrap_or(admission.margin);
    if !(0.0..=MOST_MARGIN).contains(&admission.margin) {
        return Err(OddScheduling::Margin(admission.margin));
    }
    let most = |n: u32| if n == u32::MAX { usize::MAX } else { n as usize };
    admission.per_tick = of.per_tick.map_or(admission.per_tick, most);
    admission.per_prefill_tick = of.per_prefill_tick.map_or(admission.per_prefill_tick, most);
    admission.ahead = of.ahead.map_or(admission.ahead, most);
    Ok((policy, admission))
}

/// How slots are given under a policy with this admission, as it is told and recorded. What has no limit and needs none is left out.
#[must_use]
pub fn told(policy: Policy, admission: Admission, slots: usize) -> Scheduling {
    let own = policy.admission();
    let most = |n: usize, own: usize| (n < usize::MAX || own < usize::MAX).then(|| u32::try_from(n).unwrap_or(u32::MAX));
    Scheduling {
        policy: policy.name().to_owned(),
        slots: u16::try_from(slots).unwrap_or(u16::MAX),
        margin: policy.weighs().then_some(admission.margin),
        per_tick: most(admission.per_tick, own.per_tick),
        per_prefill_tick: most(admission.per_prefill_tick, own.per_prefill_tick),
        ahead: (policy == Policy::Rotary).then(|| u32::try_from(admission.ahead).unwrap_or(u32::MAX)),
        unread: None,
    }
}

/// How a simulation under `policy` admits: as the recording did, if it ran under the same one.
#[must_use]
pub fn admission(policy: Policy, recorded: Option<(Policy, Admission)>) -> Admission {
    recorded.filter(|r| r.0 == policy).map_or_else(|| policy.admission(), |r| r.1)
}

/// In words: "rotary, margin 1, at most 1 replaced per layer and token"; of one that is not known, why.
#[must_use]
pub fn words(of: &Scheduling) -> String {
    let (policy, admission) = match known(of) {
        Ok(known) => known,
        Err(odd) => return odd.to_string(),
    };
    let mut words = policy.name().to_owned();
    if policy.weighs() {
        words += &format!(", margin {}", admission.margin);
    }
    if admission.per_tick < usize::MAX {
        words += &format!(", at most {} replaced per layer and token", admission.per_tick);
    }
    if admission.ahead > 0 {
        words += &format!(", {} per look ahead of use", admission.ahead);
    }
    words
}

/// The same as a line about a recording.
#[must_use]
pub fn under(of: &Scheduling) -> String {
    let lead = if known(of).is_ok() { "recorded under " } else { "" };
    format!("{lead}{}", words(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_policy_is_understood_again() {
        for policy in Policy::ALL {
            let own = policy.admission();
            let capped = Admission { per_tick: 1, per_prefill_tick: 7, ..own };
            let ahead = if policy == Policy::Rotary { 0 } else { own.ahead };
            for admission in [own, capped, Admission { margin: 0.7, per_tick: usize::MAX, ..own }, Admission { ahead, ..own }] {
                let told = told(policy, admission, 40);
                let json = serde_json::to_string(&told).unwrap();
                let read: Scheduling = serde_json::from_str(&json).unwrap();
                assert_eq!(read, told);
                let wanted = Admission { margin: if policy.weighs() { admission.margin } else { own.margin }, ..admission };
                assert_eq!(known(&read), Ok((policy, wanted)), "{json}");
            }
        }
        let lru = serde_json::to_string(&told(Policy::Lru, Policy::Lru.admission(), 40)).unwrap();
        assert_eq!(lru, r#"{"policy":"lru","slots":40}"#);
    }

    #[test]
    fn fields_of_later_versions_are_passed_over_and_missing_ones_are_the_policys_own() {
        let read: Scheduling = serde_json::from_str(r#"{"policy":"decay","later":[1,2],"per_tick":3}"#).unwrap();
        let own = Policy::Decay.admission();
        assert_eq!(known(&read), Ok((Policy::Decay, Admission { per_tick: 3, ..own })));
        assert_eq!(words(&read), "decay, margin 0.25, at most 3 replaced per layer and token");
    }

    #[test]
    fn a_simulation_admits_as_the_recording_did_under_the_same_policy_only() {
        let capped = Admission { per_tick: 1, ..Policy::Rotary.admission() };
        let recorded = Some((Policy::Rotary, capped));
        assert_eq!(admission(Policy::Rotary, recorded), capped);
        assert_eq!(admission(Policy::Lru, recorded), Policy::Lru.admission());
        assert_eq!(admission(Policy::Rotary, None), Policy::Rotary.admission());
    }

    #[test]
    fn what_makes_no_sense_is_told_and_not_used() {
        let named = |policy: &str| Scheduling { policy: policy.into(), ..Scheduling::default() };
        let said = words(&named(&"\x1b[2Jbest\u{9b}".repeat(99)));
        assert!(
            said.contains("does not know") && said.contains("best") && !said.chars().any(char::is_control) && said.len() < 300,
            "{said}"
        );
        for margin in [-1.0, 1e300, f64::NAN, f64::INFINITY] {
            let odd = Scheduling { margin: Some(margin), ..named("rotary") };
            assert!(matches!(known(&odd), Err(OddScheduling::Margin(_))), "{margin}");
        }
        let most = Scheduling { per_tick: Some(u32::MAX), per_prefill_tick: Some(0), ..named("lru") };
        assert!(known(&most).is_ok());
        assert!(words(&Scheduling { unread: Some("\x07no".into()), ..named("lru") }).ends_with("can't be read: no"));
    }
}
