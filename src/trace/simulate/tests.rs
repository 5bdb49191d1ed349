use super::*;
use crate::events::RoutedExpert;
use crate::experts::curve::Curve;
use crate::trace::routes::{RoutesHead, RoutesStep};
use crate::trace::session::Session;
use proptest::prelude::*;

/// Real traces, see `tests/traces/README.md`.
fn real(name: &str) -> Prepared {
    let bytes: &[u8] = match name {
        "qwen3" => include_bytes!("../../../tests/traces/qwen3-30b-a3b.rotary"),
        _ => include_bytes!("../../../tests/traces/gpt-oss-120b.rotary"),
    };
    Prepared::new(&Session::from_bytes(bytes.to_vec()).unwrap().routes().unwrap())
}

fn percent(t: &Tally) -> f64 {
    t.hit_rate() * 100.0
}

/// Slots, then LRU, decayed frequency (0.97 per token) and Belady, as an independent simulator measured them.
const QWEN3: [(usize, f64, f64, f64); 5] =
    [(16, 61.3, 64.8, 78.5), (24, 73.0, 75.5, 86.8), (32, 81.8, 83.3, 91.9), (48, 91.8, 92.5, 96.3), (64, 95.9, 96.1, 97.1)];
const GPT_OSS: [(usize, f64, f64, f64); 3] = [(16, 65.8, 65.3, 80.6), (32, 80.4, 80.2, 88.8), (64, 89.0, 88.9, 89.6)];

#[test]
fn lru_and_belady_hit_on_real_traces_what_an_independent_simulator_measured() {
    for (name, table) in [("qwen3", &QWEN3[..]), ("gpt-oss", &GPT_OSS[..])] {
        let trace = real(name);
        for &(slots, lru, _, belady) in table {
            let measured = percent(&trace.online(Policy::Lru, Admission::ALWAYS, slots));
            assert!((measured - lru).abs() < 0.1, "{name}, {slots} slots: LRU {measured} against {lru}");
            let measured = percent(&trace.belady(&[slots])[0]);
            assert!((measured - belady).abs() < 0.1, "{name}, {slots} slots: Belady {measured} against {belady}");
        }
    }
}

#[test]
fn decay_is_at_least_lru_on_real_traces_and_no_worse_than_plain_decayed_frequency() {
    for (name, table) in [("qwen3", &QWEN3[..]), ("gpt-oss", &GPT_OSS[..])] {
        let trace = real(name);
        for &(slots, _, plain, _) in table {
            let lru = trace.online(Policy::Lru, Admission::ALWAYS, slots);
            let decay = trace.online(Policy::Decay, Policy::Decay.admission(), slots);
            assert!(decay.hits >= lru.hits, "{name}, {slots} slots: {} hits against {} of LRU", decay.hits, lru.hits);
            assert!(percent(&decay) >= plain - 0.3, "{name}, {slots} slots: {} against {plain}", percent(&decay));
            assert!(decay.moved <= lru.moved, "it moves no more experts than LRU either");
        }
    }
}

#[test]
fn rotary_beats_decay_on_real_traces_at_every_slot_count_with_fewer_copies() {
    let expected = [("qwen3", [66.74, 77.41, 84.74, 92.99, 96.14]), ("gpt-oss", [67.70, 75.69, 80.67, 86.29, 89.04])];
    let admission = Admission { ahead: 0, ..Policy::Rotary.admission() };
    for (name, rates) in expected {
        let trace = real(name);
        for (slots, rate) in [16, 24, 32, 48, 64].into_iter().zip(rates) {
            let decay = trace.online(Policy::Decay, Policy::Decay.admission(), slots);
            let rotary = trace.online(Policy::Rotary, admission, slots);
            assert!((percent(&rotary) - rate).abs() < 0.05, "{name}, {slots} slots: {} instead of {rate}", percent(&rotary));
            assert!(rotary.hits >= decay.hits, "{name}, {slots} slots: {} hits against {}", rotary.hits, decay.hits);
            assert!(rotary.moved <= decay.moved, "{name}, {slots} slots: {} copies against {}", rotary.moved, decay.moved);
        }
    }
}

#[test]
fn bringing_experts_ahead_of_their_use_closes_half_of_the_gap_to_belady_on_one_real_trace_and_helps_on_the_other() {
    let expected = [("qwen3", [74.74, 82.11, 87.42, 93.50, 96.19]), ("gpt-oss", [71.38, 77.03, 81.16, 86.27, 89.02])];
    for (name, rates) in expected {
        let trace = real(name);
        let mut closed = 0.0;
        for (slots, rate) in [16, 24, 32, 48, 64].into_iter().zip(rates) {
            let without = trace.online(Policy::Rotary, Admission { ahead: 0, ..Policy::Rotary.admission() }, slots);
            let rotary = trace.online(Policy::Rotary, Policy::Rotary.admission(), slots);
            assert!((percent(&rotary) - rate).abs() < 0.05, "{name}, {slots} slots: {} instead of {rate}", percent(&rotary));
            // Where the slots hold nearly everything there is nothing to gain, and the wrong guesses cost a hit or two.
            assert!(rotary.hits + 2.0 > without.hits, "{name}, {slots} slots: {} hits against {}", rotary.hits, without.hits);
            assert!((rotary.moved as f64) < 1.3 * without.moved as f64, "{name}, {slots} slots: {} copies", rotary.moved);
            if slots < 64 {
                let decay = percent(&trace.online(Policy::Decay, Policy::Decay.admission(), slots));
                let belady = percent(&trace.belady(&[slots])[0]);
                closed += (percent(&rotary) - decay) / (belady - decay) / 4.0;
            }
        }
        assert!(closed > if name == "qwen3" { 0.45 } else { 0.12 }, "{name}: {closed}");
    }
}

fn routes() -> impl Strategy<Value = Routes> {
    let tick = prop::collection::btree_set(0u16..10, 0..4);
    let step = (any::<bool>(), prop::collection::vec(tick, 2));
    (0usize..4, prop::collection::vec(step, 1..40)).prop_map(|(warm, steps)| {
        let head = RoutesHead { layers: 2, experts: 10, top_k: 3, expert_bytes: vec![10, 7], ..RoutesHead::default() };
        let mut routes = Routes::new(head);
        for (i, (later_prompt, layers)) in steps.into_iter().enumerate() {
            let phase = if i < warm || later_prompt && i % 7 == 6 { Phase::Prefill } else { Phase::Decode };
            let layers: Vec<Vec<RoutedExpert>> = layers
                .into_iter()
                .map(|t| t.into_iter().map(|expert| RoutedExpert { expert, tokens: 1, weight: 1.0, outcome: Outcome::Miss }).collect())
                .collect();
            let step = RoutesStep { turn: 0, phase, step: i as u64, tokens: 1, kept: 0 };
            routes.push(step, layers.iter().map(Vec::as_slice));
        }
        routes
    })
}

/// Belady at one slot count, in the plainest way: keep what is needed soonest of what was there and what was used.
fn plain_belady(trace: &Prepared, slots: usize) -> [u64; 5] {
    let (mut hits, mut moved, mut ticks) = (0, 0, [0; 3]);
    for layer in 0..trace.layers {
        let mut content: Vec<(u32, u16)> = Vec::new();
        for tick in trace.ticks.iter().skip(layer).step_by(trace.layers) {
            let mut after = content.clone();
            for k in tick.start..tick.end {
                let (expert, need) = (trace.routed[k].expert, trace.next_use[k]);
                hits += u64::from(tick.counted && content.iter().any(|c| c.1 == expert));
                after.retain(|c| c.1 != expert);
                after.push((need, expert));
            }
            after.sort_unstable();
            after.truncate(slots);
            let came = |c: &&(u32, u16)| c.0 != u32::MAX && !content.iter().any(|o| o.1 == c.1);
            let came = after.iter().filter(came).count() as u64;
            let missed = |k: &usize| !content.iter().any(|c| c.1 == trace.routed[*k].expert);
            let missed = (tick.start..tick.end).filter(missed).count() as u64;
            if tick.counted {
                moved += came;
                for (n, is) in ticks.iter_mut().zip([missed > 0, missed > came, came > 0]) {
                    *n += u64::from(is);
                }
            }
            content = after;
        }
    }
    [hits, moved, ticks[0], ticks[1], ticks[2]]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn one_pass_of_belady_equals_running_it_at_every_slot_count(routes in routes()) {
        let trace = Prepared::new(&routes);
        let slots: Vec<usize> = (0..=10).collect();
        for tally in trace.belady(&slots) {
            let sum = |f: fn(&LayerTotals) -> f64| tally.layers.iter().map(f).sum::<f64>() as u64;
            let ticks = [sum(|l| l.missing), sum(|l| l.passing), sum(|l| l.copying as f64)];
            let found = [tally.hits as u64, tally.moved, ticks[0], ticks[1], ticks[2]];
            prop_assert_eq!(found, plain_belady(&trace, tally.slots), "{} slots", tally.slots);
        }
    }

    /// Where every use counts. Belady serves the uses of a prompt too, which nobody counts, so with prompts in between a policy that makes little of
    /// them can have a few counted hits more.
    #[test]
    fn nobody_beats_belady_and_all_count_the_same_uses(routes in routes(), slots in 0usize..=10) {
        let mut generated = Routes::new(routes.head.clone());
        for (i, step) in routes.steps().iter().enumerate().filter(|(_, s)| s.phase == Phase::Decode) {
            generated.push(*step, (0..2).map(|l| routes.tick(i, l)));
        }
        let table = Prepared::new(&generated).table(&Contender::ALL, &[slots], Overlay::default());
        let bound = table.iter().find(|t| t.policy == Contender::Belady).unwrap().hits;
        for t in &table {
            prop_assert_eq!(t.routed, table[0].routed);
            if t.policy != Contender::Chance {
                prop_assert!(t.hits <= bound, "{} has {} hits, the bound is {}", t.policy, t.hits, bound);
            }
        }
    }

    #[test]
    fn the_curve_predicts_what_simulating_lru_finds(routes in routes()) {
        let mut routes = routes;
        // The curve counts by phase; without a prompt at the beginning both count the same.
        while routes.steps().first().is_some_and(|s| s.phase == Phase::Prefill) {
            let mut rest = Routes::new(routes.head.clone());
            for i in 1..routes.len() {
                rest.push(routes.steps()[i], (0..2).map(|l| routes.tick(i, l)));
            }
            routes = rest;
        }
        let trace = Prepared::new(&routes);
        let mut curve = Curve::new(2, 10, None);
        for (i, step) in routes.steps().iter().enumerate() {
            for layer in 0..2 {
                let tick = trace.ticks[i * 2 + layer];
                curve.tick(layer, &trace.routed[tick.start..tick.end], step.phase);
            }
        }
        for slots in 0..=10 {
            let lru = trace.online(Policy::Lru, Admission::ALWAYS, slots);
            prop_assert!((curve.hit_rate(slots).unwrap_or(0.0) - lru.hit_rate()).abs() < 1e-9);
        }
    }
}

/// Run with `cargo test --release -- --ignored --nocapture cost_of_three_traces`.
#[test]
#[ignore = "measures"]
fn cost_of_three_traces_over_60_slot_counts_and_all_policies() {
    let slots: Vec<usize> = (8..=126).step_by(2).collect();
    assert_eq!(slots.len(), 60);
    let begin = std::time::Instant::now();
    for _ in 0..3 {
        let trace = real("qwen3");
        assert!(trace.routed.len() > 44_000);
        assert_eq!(trace.table(&Contender::ALL, &slots, Overlay::default()).len(), 60 * Contender::ALL.len());
    }
    let took = begin.elapsed();
    println!("three traces of 45k rows, 60 slot counts, {} policies: {took:.2?}", Contender::ALL.len());
}

#[test]
fn a_layer_that_the_prompt_left_out_is_warmed_by_its_first_tokens() {
    let head = RoutesHead { layers: 2, experts: 4, top_k: 1, ..RoutesHead::default() };
    let mut routes = Routes::new(head);
    let one = [RoutedExpert { expert: 1, tokens: 1, weight: 1.0, outcome: Outcome::Miss }];
    for step in 0..4u64 {
        let phase = if step < 2 { Phase::Prefill } else { Phase::Decode };
        let second: &[RoutedExpert] = if step == 0 { &[] } else { &one };
        routes.push(RoutesStep { turn: 0, phase, step, tokens: 1, kept: 0 }, [&one[..], second]);
    }
    let tally = Prepared::new(&routes).online(Policy::Lru, Admission::ALWAYS, 2);
    assert_eq!((tally.routed, tally.hits), (3, 3.0));
}
