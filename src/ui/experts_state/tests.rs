use super::stream::Stream;
use super::*;
use crate::events::{Eviction, Outcome, RoutedExpert, StepRecord};
use proptest::prelude::*;

fn record(step: u64, routed: &[(u16, Outcome)], evicted: &[u16], slot_of: &[u16]) -> StepRecord {
    StepRecord {
        step,
        tokens: 1,
        ends: vec![routed.len() as u32],
        routed: routed
            .iter()
            .map(|(expert, outcome)| RoutedExpert { expert: *expert, tokens: 1, weight: 0.5, outcome: *outcome })
            .collect(),
        evicted: evicted.iter().map(|expert| Eviction { layer: 0, expert: *expert }).collect(),
        slot_of: slot_of.to_vec(),
        ..Default::default()
    }
}

const NONE: u16 = NO_SLOT;

#[test]
fn a_step_marks_exactly_what_it_did_and_only_until_the_next() {
    let mut state = ExpertsState::new(1, 6, 2);
    state.apply(&record(0, &[(0, Outcome::Hit), (1, Outcome::Miss), (2, Outcome::Admitted)], &[3], &[0, NONE, 1, NONE, 2, NONE]));
    let marks: Vec<Mark> = (0..6).map(|e| state.facts(0, e).unwrap().mark).collect();
    assert_eq!(marks, [Mark::Hit, Mark::Miss, Mark::Admitted, Mark::Evicted, Mark::Quiet, Mark::Quiet]);
    assert_eq!(state.tally(0), StepOutcomes { hits: 1, misses: 2, admitted: 1, evicted: 1, ..StepOutcomes::default() });
    assert_eq!(state.facts(0, 4).unwrap().slot, Some(2));
    state.apply(&record(1, &[(4, Outcome::Hit)], &[], &[0, NONE, 1, NONE, 2, NONE]));
    assert_eq!(state.facts(0, 0).unwrap().mark, Mark::Quiet);
    assert_eq!(state.facts(0, 0).unwrap().last_use, Some(1));
    assert_eq!(state.facts(0, 4).unwrap().last_use, Some(0));
    assert_eq!(state.facts(0, 5).unwrap().last_use, None);
}

#[test]
fn experts_that_came_ahead_are_hits_when_they_are_asked_for_and_newcomers_when_they_are_not() {
    let mut state = ExpertsState::new(1, 4, 2);
    let ahead = [1, 2, 3].map(|expert| crate::events::Ahead { layer: 0, expert });
    let outcomes = [(1, Outcome::Hit), (3, Outcome::Miss)];
    state.apply(&StepRecord { ahead: ahead.into(), ..record(0, &outcomes, &[], &[NONE, 0, 1, 2]) });
    assert_eq!((state.tally(0).ahead, state.tally(0).asked), (3, 2));
    let marks: Vec<Mark> = (1..4).map(|e| state.facts(0, e).unwrap().mark).collect();
    assert_eq!(marks, [Mark::Hit, Mark::Admitted, Mark::Miss], "the last came too late");
}

#[test]
fn an_expert_evicted_and_taken_back_in_one_step_is_shown_as_admitted() {
    let mut state = ExpertsState::new(1, 3, 1);
    state.apply(&record(0, &[(1, Outcome::Admitted)], &[1], &[NONE, 0, NONE]));
    assert_eq!(state.facts(0, 1).unwrap().mark, Mark::Admitted);
}

#[test]
fn heat_halves_in_about_23_tokens_and_is_a_share_of_recent_tokens() {
    let mut state = ExpertsState::new(1, 4, 1);
    let free = [NONE; 4];
    for step in 0..400 {
        state.apply(&record(step, &[(0, Outcome::Miss)], &[], &free));
    }
    assert!((state.heat(0, 0) - 1.0).abs() < 1e-3);
    for step in 400..423 {
        state.apply(&record(step, &[(1, Outcome::Miss)], &[], &free));
    }
    assert!((state.heat(0, 0) - 0.5).abs() < 0.01, "{}", state.heat(0, 0));
    assert!((state.heat(0, 0) + state.heat(0, 1) - 1.0).abs() < 1e-3);
}

#[test]
fn missing_records_are_counted_and_the_next_one_puts_occupancy_right() {
    let mut state = ExpertsState::new(1, 3, 1);
    state.apply(&record(4, &[(0, Outcome::Hit)], &[], &[0, NONE, NONE]));
    assert_eq!(state.missing(), 0);
    state.apply(&record(8, &[(1, Outcome::Hit)], &[], &[NONE, 0, NONE]));
    assert_eq!(state.missing(), 3);
    assert_eq!((state.facts(0, 0).unwrap().slot, state.facts(0, 1).unwrap().slot), (None, Some(0)));
}

#[test]
fn a_table_of_the_wrong_length_is_counted_and_the_last_good_one_kept() {
    let mut state = ExpertsState::new(1, 3, 1);
    state.apply(&record(0, &[(0, Outcome::Hit)], &[], &[0, NONE, NONE]));
    state.apply(&record(1, &[(9, Outcome::Hit)], &[7], &[1, 2]));
    assert_eq!(state.misfits(), 3);
    assert_eq!(state.facts(0, 0).unwrap().slot, Some(0));
}

#[test]
fn levels_rise_with_heat_and_reach_both_ends() {
    let state = ExpertsState::new(48, 128, 8);
    for levels in 2..=8 {
        let all: Vec<usize> = (0..=1000).map(|i| state.level(i as f32 / 1000.0, levels)).collect();
        assert!(all.windows(2).all(|p| p[0] <= p[1]));
        assert_eq!((all[0], all[1000]), (0, levels - 1));
        let mut seen = all.clone();
        seen.dedup();
        assert_eq!(seen.len(), levels, "{levels} levels");
    }
}

#[test]
fn pooling_keeps_the_rarest_event_and_averages_heat() {
    let mut state = ExpertsState::new(1, 4, 2);
    state.apply(&record(0, &[(0, Outcome::Hit), (1, Outcome::Admitted)], &[], &[0, 1, NONE, NONE]));
    let pooled = state.cell(0..1, 0..4);
    assert_eq!(pooled.mark, Mark::Admitted);
    assert!((pooled.heat - 0.5).abs() < 1e-6);
    assert!(pooled.resident);
    assert!(!state.cell(0..1, 1..4).resident);
}

#[test]
fn sorting_puts_the_hottest_first_and_places_invert() {
    let mut stream = Stream::new(3, 16, 4, 6, 7);
    let mut state = ExpertsState::open(&stream.card());
    (0..64).for_each(|_| state.apply(&stream.token()));
    assert!(state.act(HeatmapAction::ToggleSort));
    for layer in 0..3 {
        let heats: Vec<f32> = (0..16).map(|p| state.heat(layer, state.expert_at(layer, p))).collect();
        assert!(heats.windows(2).all(|p| p[0] >= p[1]), "{heats:?}");
        for e in 0..16 {
            assert_eq!(state.expert_at(layer, state.place_of(layer, e)), e);
        }
    }
}

#[test]
fn the_cursor_stays_inside_and_escape_leaves_the_zoom_once() {
    let mut state = ExpertsState::new(3, 8, 2);
    for action in [HeatmapAction::Up(8), HeatmapAction::Left(9), HeatmapAction::Down(100), HeatmapAction::Right(100)] {
        assert!(state.act(action));
    }
    assert_eq!(state.cursor(), (2, 7));
    assert!(!state.act(HeatmapAction::Back));
    assert!(state.act(HeatmapAction::Zoom) && state.zoomed());
    assert!(!state.act(HeatmapAction::Zoom));
    assert!(state.act(HeatmapAction::Back) && !state.zoomed());
}

#[test]
fn the_profile_of_even_use_is_all_experts_and_of_one_expert_is_one() {
    let mut state = ExpertsState::new(1, 4, 1);
    for step in 0..4000u64 {
        state.apply(&record(step, &[((step % 4) as u16, Outcome::Hit)], &[], &[0, 1, 2, 3]));
    }
    let even = state.profile(0);
    assert!((even.effective - 4.0).abs() < 0.01 && even.hit_rate == Some(1.0) && even.resident == 4, "{even:?}");
    let mut state = ExpertsState::new(1, 4, 1);
    (0..9).for_each(|step| state.apply(&record(step, &[(2, Outcome::Admitted)], &[], &[NONE; 4])));
    let one = state.profile(0);
    assert!((one.effective - 1.0).abs() < 1e-4 && one.hit_rate == Some(0.0) && (one.churn - 1.0).abs() < 1e-3, "{one:?}");
}

/// Records as a broken or hostile engine might send them.
pub(in crate::ui) fn any_record() -> impl Strategy<Value = StepRecord> {
    let outcome = prop_oneof![Just(Outcome::Hit), Just(Outcome::Miss), Just(Outcome::Admitted)];
    let routed = (any::<u16>(), any::<u16>(), any::<f32>(), outcome, any::<bool>()).prop_map(|(expert, tokens, weight, outcome, tame)| {
        RoutedExpert { expert: if tame { expert % 16 } else { expert }, tokens, weight, outcome }
    });
    let evicted = (0u16..9, 0u16..20).prop_map(|(layer, expert)| Eviction { layer, expert });
    let ahead = (0u16..9, 0u16..20).prop_map(|(layer, expert)| crate::events::Ahead { layer, expert });
    let slots = prop_oneof![3 => Just(48usize), 1 => 0usize..100];
    (
        any::<u64>(),
        any::<bool>(),
        prop_oneof![Just(1u32), any::<u32>()],
        prop::collection::vec(any::<u32>().prop_map(|e| e % 40), 0..6),
        prop::collection::vec(routed, 0..40),
        (prop::collection::vec(evicted, 0..8), prop::collection::vec(ahead, 0..4)),
        slots.prop_flat_map(|n| prop::collection::vec(any::<u16>(), n)),
        any::<[u32; 6]>(),
        any::<(u16, u64, u64, u32, u16, u16)>(),
    )
        .prop_map(|(step, prefill, tokens, ends, routed, (evicted, ahead), slot_of, t, (slots, up, missed, used, drafted, kept))| {
            StepRecord {
                step,
                phase: if prefill { Phase::Prefill } else { Phase::Decode },
                tokens,
                drafted,
                kept,
                position: 0,
                chosen: None,
                slots,
                ends,
                routed,
                evicted,
                ahead,
                foreseen: Vec::new(),
                slot_of,
                time: crate::events::StepTime {
                    total_us: t[0],
                    trunk_us: t[1],
                    hits_us: t[2],
                    misses_us: t[3],
                    upload_us: t[4],
                    sampling_us: t[5],
                },
                bytes_uploaded: up,
                bytes_missed: missed,
                context_used: used,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn records_of_any_shape_leave_a_state_with_shares_between_0_and_1(
        records in prop::collection::vec(any_record(), 1..20),
        known in any::<bool>(),
    ) {
        let mut state = if known { ExpertsState::new(3, 16, 4) } else { ExpertsState::default() };
        for r in &records {
            state.apply(r);
        }
        for layer in 0..state.layers().min(4) {
            for expert in 0..state.experts().min(32) {
                let facts = state.facts(layer, expert).unwrap();
                prop_assert!((0.0..=1.0).contains(&facts.heat));
                prop_assert!(facts.weight.unwrap_or(0.0).is_finite());
            }
            prop_assert!(state.profile(layer).effective.is_finite());
        }
    }
}
