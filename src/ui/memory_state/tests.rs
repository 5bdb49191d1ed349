use super::regret::Judged;
use super::*;
use crate::events::RoutedExpert;
use crate::ui::experts_state::stream::Stream;
use crate::ui::experts_state::tests::any_record;
use proptest::prelude::*;

fn run(stream: &mut Stream, state: &mut MemoryState, tokens: usize) {
    (0..tokens).for_each(|_| state.apply(&stream.token()));
}

#[test]
fn hit_rates_are_those_of_the_records_now_and_over_the_session() {
    let mut stream = Stream::new(6, 32, 4, 12, 9);
    let mut state = MemoryState::open(&stream.card());
    let records: Vec<StepRecord> = (0..150).map(|_| stream.token()).collect();
    records.iter().for_each(|r| state.apply(r));
    let rate = |records: &[StepRecord]| {
        let sum = records.iter().map(StepRecord::hits_and_routed).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        sum.0 as f64 / sum.1 as f64
    };
    assert!((state.hit_rate_session().unwrap() - rate(&records)).abs() < 1e-12);
    assert!((state.hit_rate_now().unwrap() - rate(&records[150 - WINDOW..])).abs() < 1e-12);
    let us: u64 = records[150 - WINDOW..].iter().map(|r| u64::from(r.time.total_us)).sum();
    assert!((state.speed_now().unwrap() - WINDOW as f64 * 1e6 / us as f64).abs() < 1e-9);
}

#[test]
fn a_step_that_brings_several_tokens_counts_as_so_many() {
    let mut stream = Stream::new(6, 32, 4, 12, 9);
    let mut state = MemoryState::open(&stream.card());
    assert_eq!(state.drafting(), None);
    let records: Vec<StepRecord> = (0..40).map(|i| if i % 2 == 0 { stream.token() } else { stream.drafted() }).collect();
    records.iter().for_each(|r| state.apply(r));
    let us: u64 = records.iter().map(|r| u64::from(r.time.total_us)).sum();
    assert_eq!(state.session_tokens(), 80, "one and three by turns");
    let speed = 80.0 * 1e6 / us as f64;
    assert!((state.speed_now().unwrap() - speed).abs() < 1e-9 && (state.speed_session().unwrap() - speed).abs() < 1e-9);
    let Drafting { gained, drafted, right } = state.drafting().unwrap();
    assert_eq!((gained, drafted), (2.0, 1.5));
    assert!((right - 2.0 / 3.0).abs() < 1e-12);
    let here = state.forecast(12).unwrap();
    assert!((here.speed.unwrap() / speed - 1.0).abs() < 1e-6, "an estimate for the present slots is what is measured");
    let bytes: u64 = records.iter().map(|r| r.bytes_missed).sum();
    assert_eq!(state.bytes_per_token().unwrap().1, bytes / 80);
}

#[test]
fn the_split_adds_up_to_the_step() {
    let mut stream = Stream::new(6, 32, 4, 12, 9);
    let mut state = MemoryState::open(&stream.card());
    let mut records: Vec<StepRecord> = (0..40).map(|_| stream.token()).collect();
    // Time that no part accounts for goes to the trunk.
    records.iter_mut().for_each(|r| r.time.total_us += 5_000);
    records.iter().for_each(|r| state.apply(r));
    let mean = records.iter().map(|r| f64::from(r.time.total_us)).sum::<f64>() / 40.0;
    let split = state.split().unwrap();
    assert!((split.total() - mean).abs() < 1e-6);
    assert!((split.trunk - 26_000.0).abs() < 1e-6);
}

#[test]
fn prompts_and_gaps_are_breaks_in_the_series_not_zeros() {
    let mut stream = Stream::new(2, 8, 2, 4, 1);
    let mut state = MemoryState::open(&stream.card());
    run(&mut stream, &mut state, 2);
    state.apply(&stream.prompt(5));
    run(&mut stream, &mut state, 1);
    let _lost = stream.token();
    run(&mut stream, &mut state, 1);
    let shape: String = state.speeds().map(|s| if s.is_some() { 'x' } else { '.' }).collect();
    assert_eq!(shape, "xx.x.x");
    assert_eq!(state.session_tokens(), 4);
}

#[test]
fn the_forecast_at_the_present_slot_count_is_what_is_measured() {
    let mut stream = Stream::new(8, 64, 6, 24, 2);
    let mut state = MemoryState::open(&stream.card());
    assert_eq!(state.forecast(25), None, "nothing is predicted from nothing");
    run(&mut stream, &mut state, 120);
    let here = state.forecast(24).unwrap();
    assert!((here.hit_rate - state.hit_rate_now().unwrap()).abs() < 1e-9);
    assert!((here.speed.unwrap() / state.speed_now().unwrap() - 1.0).abs() < 1e-6);
    let (less, more) = (state.forecast(16).unwrap(), state.forecast(32).unwrap());
    assert!(less.hit_rate < here.hit_rate && here.hit_rate < more.hit_rate);
    assert!(less.speed < here.speed && here.speed < more.speed);
    assert_eq!(more.bytes, 32 * 8 * 3_059_712);
}

#[test]
fn a_forecast_is_put_to_the_test_and_was_close_on_steady_routing() {
    let mut stream = Stream::new(12, 64, 6, 24, 4);
    let mut state = MemoryState::open(&stream.card());
    run(&mut stream, &mut state, 300);
    let said = state.forecast(32).unwrap();
    stream.resize(32);
    run(&mut stream, &mut state, 30);
    assert_eq!((state.accuracy().last(), state.verdict_in()), (None, Some(SETTLE + WINDOW - 30)), "too early to tell");
    run(&mut stream, &mut state, SETTLE + WINDOW);
    let verdict = *state.accuracy().last().unwrap();
    assert_eq!(verdict.forecast.slots, 32);
    assert!((verdict.forecast.hit_rate - said.hit_rate).abs() < 0.02);
    assert!((verdict.hit_rate - said.hit_rate).abs() < 0.05, "{verdict:?}");
    assert!((verdict.speed / said.speed.unwrap() - 1.0).abs() < 0.1, "{verdict:?}");
}

#[test]
fn hindsight_is_never_worse_than_what_was_achieved() {
    let mut stream = Stream::new(6, 64, 6, 20, 8);
    let mut state = MemoryState::open(&stream.card());
    for _ in 0..40 {
        run(&mut stream, &mut state, 10);
        if let Some(judged) = state.regret().judged() {
            assert!(judged.best >= judged.achieved, "{judged:?}");
        }
    }
    let Judged { best, achieved, lru, chance } = state.regret().judged().unwrap();
    assert!(best > achieved + 0.02 && best < 1.0 && best > lru && lru > chance, "{best} {achieved} {lru}");
    assert!((achieved - state.hit_rate_session().unwrap()).abs() < 0.05);
}

#[test]
fn a_layer_that_needs_more_than_its_slots_still_has_a_share_of_hits() {
    let mut stream = Stream::new(2, 16, 4, 2, 8);
    let mut state = MemoryState::open(&stream.card());
    run(&mut stream, &mut state, 80);
    assert!(state.hit_rate_now().unwrap() < 0.5);
    assert_eq!(state.occupancy(state.slots()), (Some(4), 4));
    assert_eq!(state.occupancy(3), (Some(4), 6), "slots that came are empty");
    assert_eq!(state.occupancy(1), (None, 2), "which experts lost theirs is told by the next step");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn records_of_any_shape_leave_finite_numbers(records in prop::collection::vec(any_record(), 1..60)) {
        let stream = Stream::new(3, 16, 4, 6, 1);
        let mut state = MemoryState::open(&stream.card());
        for record in &records {
            state.apply(record);
            for rate in [state.hit_rate_now(), state.hit_rate_session()].into_iter().flatten() {
                prop_assert!((0.0..=1.0).contains(&rate));
            }
            if let Some(forecast) = state.forecast(8) {
                prop_assert!((0.0..=1.0).contains(&forecast.hit_rate));
                prop_assert!(forecast.speed.is_none_or(f64::is_finite));
            }
            if let Some(judged) = state.regret().judged() {
                prop_assert!([judged.best, judged.achieved, judged.lru, judged.chance].iter().all(|r| (0.0..=1.0).contains(r)));
            }
            prop_assert!(state.split().is_none_or(|s| s.total().is_finite()));
        }
    }
}

#[test]
fn a_record_that_repeats_an_expert_counts_it_as_sent() {
    let stream = Stream::new(1, 4, 2, 2, 1);
    let mut state = MemoryState::open(&stream.card());
    let routed = RoutedExpert { expert: 1, tokens: 1, weight: 0.5, outcome: Outcome::Hit };
    state.apply(&StepRecord { tokens: 1, slots: 2, ends: vec![2], routed: vec![routed; 2], ..Default::default() });
    assert_eq!(state.hit_rate_now(), Some(1.0));
}
