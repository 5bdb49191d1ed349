use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn off() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: Some(7), ..Sampling::default() }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f64> = logits.iter().map(|&l| f64::from(l - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|x| x / sum).collect()
}

/// Tokens that ever come out in `n` draws.
fn support(settings: &Sampling, logits: &[f32], n: usize) -> HashSet<u32> {
    let mut s = Sampler::new(settings, &[]);
    (0..n).map(|_| s.draw(&mut logits.to_vec()).unwrap()).collect()
}

/// Length of the shortest prefix of `p` (best first) whose sum reaches `mass`; at least 1.
fn naive_nucleus(p: impl Iterator<Item = f64>, mass: f64) -> usize {
    let mut sum = 0.0;
    p.take_while(|x| {
        let more = sum < mass;
        sum += x;
        more
    })
    .count()
    .max(1)
}

#[test]
fn greedy_takes_the_best_and_the_lowest_id_among_equals() {
    let settings = Sampling { temperature: 0.0, ..off() };
    assert_eq!(Sampler::new(&settings, &[]).draw(&mut [0.0, 3.0, 3.0, -1.0]), Ok(1));
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
    let logits: Vec<f32> = (0..500).map(|i| (i as f32 * 0.37).sin()).collect();
    let run = |seed| {
        let mut s = Sampler::new(&Sampling { seed: Some(seed), ..off() }, &[]);
        (0..40).map(|_| s.draw(&mut logits.clone()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn without_a_seed_the_one_that_was_taken_reproduces_the_draws() {
    let logits: Vec<f32> = (0..300).map(|i| (i as f32 * 0.11).cos()).collect();
    let mut fresh = Sampler::new(&Sampling { seed: None, ..off() }, &[]);
    let mut again = Sampler::new(&Sampling { seed: Some(fresh.seed()), ..off() }, &[]);
    for _ in 0..20 {
        assert_eq!(fresh.draw(&mut logits.clone()), again.draw(&mut logits.clone()));
    }
}

#[test]
fn draw_frequencies_follow_the_probabilities() {
    let logits = [0.5f32, 1.5, -0.7, 2.0, 0.0, 1.0, -2.0, 0.3];
    let temperature = 0.8;
    let p = softmax(&logits.map(|l| l / temperature));
    for top_k in [0, 8, 7] {
        let settings = Sampling { temperature, top_k, ..off() };
        let mut s = Sampler::new(&settings, &[]);
        let n = 40_000;
        let mut counts = [0f64; 8];
        for _ in 0..n {
            counts[s.draw(&mut logits.clone()).unwrap() as usize] += 1.0;
        }
        // With top_k 7 the least likely (token 6) is gone and the others share its part.
        let kept: f64 = if top_k == 7 { 1.0 - p[6] } else { 1.0 };
        let chi2: f64 = (0..8)
            .filter(|&i| top_k != 7 || i != 6)
            .map(|i| {
                let expected = n as f64 * p[i] / kept;
                (counts[i] - expected).powi(2) / expected
            })
            .sum();
        // 99.9th percentile of chi-square with 7 degrees of freedom.
        assert!(chi2 < 24.3, "top_k {top_k}: chi2 {chi2}");
        assert!(top_k != 7 || counts[6] == 0.0);
    }
}

#[test]
fn min_p_drops_what_is_far_less_likely_than_the_best() {
    let logits = [(1.0f32).ln(), (0.5f32).ln(), (0.21f32).ln(), (0.19f32).ln()];
    assert_eq!(support(&Sampling { min_p: 0.2, ..off() }, &logits, 2000), HashSet::from([0, 1, 2]));
}

#[test]
fn top_p_keeps_the_smallest_set_on_known_numbers() {
    let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
    for (top_p, keep) in [(0.4, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.94, 3), (0.96, 4), (1.0, 4)] {
        let got = support(&Sampling { top_p, ..off() }, &logits, 3000);
        assert_eq!(got, (0..keep).collect(), "top_p {top_p}");
    }
}

#[test]
fn the_repetition_penalty_counts_the_prompt_and_pushes_both_signs_down() {
    let settings = Sampling { temperature: 0.0, repetition_penalty: 2.0, ..off() };
    // Seen: 0 (positive logit, halved) and 2 (negative, doubled).
    let mut logits = [4.0, 1.0, -1.0];
    let mut s = Sampler::new(&settings, &[0, 2]);
    assert_eq!(s.draw(&mut logits), Ok(0));
    assert_eq!(logits, [2.0, 1.0, -2.0]);
    let mut s = Sampler::new(&settings, &[0]);
    assert_eq!(s.draw(&mut [1.9, 1.0, 0.0]), Ok(1), "0.95 < 1.0");
    assert_eq!(s.draw(&mut [0.0, 1.0, 0.6]), Ok(2), "its own answer counts as well");
}

#[test]
fn the_presence_penalty_counts_the_answer_only_and_once() {
    let settings = Sampling { temperature: 0.0, presence_penalty: 1.0, ..off() };
    let mut s = Sampler::new(&settings, &[0]);
    assert_eq!(s.draw(&mut [2.0, 1.5]), Ok(0), "the prompt does not count");
    assert_eq!(s.draw(&mut [2.0, 1.5]), Ok(1), "2 - 1 < 1.5");
    assert_eq!(s.draw(&mut [3.2, 1.5]), Ok(0), "3.2 - 1 > 1.5 - 1: subtracted once, however often it was said");
}

#[test]
fn broken_logits_are_an_error_and_not_a_token() {
    for t in [0.0, 1.0] {
        let mut s = Sampler::new(&Sampling { temperature: t, ..off() }, &[]);
        assert_eq!(s.draw(&mut [0.0, f32::NAN]), Err(SamplingError::NotFinite { token: 1 }));
        assert_eq!(s.draw(&mut [f32::INFINITY, 0.0]), Err(SamplingError::NotFinite { token: 0 }));
        assert_eq!(s.draw(&mut [f32::NEG_INFINITY; 3]), Err(SamplingError::Nothing));
        assert_eq!(s.draw(&mut []), Err(SamplingError::Nothing));
        assert_eq!(s.draw(&mut [f32::NEG_INFINITY, 0.0]), Ok(1));
    }
}

#[test]
fn the_files_defaults_lie_over_ours_and_nonsense_is_left_out() {
    let s = defaults_from(|k| match k {
        "general.sampling.temp" => Some(0.6),
        "general.sampling.top_k" => Some(-1.0),
        "general.sampling.top_p" => Some(f64::NAN),
        "general.sampling.penalty_repeat" => Some(-3.0),
        _ => None,
    });
    let ours = Sampling::default();
    assert_eq!((s.temperature, s.top_k, s.top_p, s.repetition_penalty), (0.6, 0, ours.top_p, ours.repetition_penalty));
}

#[test]
fn settings_out_of_range_are_named() {
    let bad = Sampling { top_p: 1.5, ..off() };
    assert_eq!(validate(&bad).unwrap_err().to_string(), "sampling: top_p is 1.5, but must be above 0 and at most 1 (1 keeps all)");
    assert!(validate(&Sampling { temperature: f32::NAN, ..off() }).is_err());
    assert!(validate(&Sampling { repetition_penalty: 0.0, ..off() }).is_err());
    assert!(validate(&Sampling::default()).is_ok());
}

proptest! {
    #[test]
    fn partial_selection_equals_a_full_sort(
        // Few distinct values, so that ties at the border are common.
        raw in proptest::collection::vec(-20i8..20, 1..700), k in 1usize..90,
    ) {
        let logits: Vec<f32> = raw.iter().map(|&x| f32::from(x) / 4.0).collect();
        let mut all: Vec<Candidate> = logits.iter().enumerate().map(|(i, &l)| (l, i as u32)).collect();
        all.sort_by(best_first);
        all.truncate(k);
        let mut got = Vec::new();
        top_k(&logits, k, &mut got);
        got.sort_by(best_first);
        prop_assert_eq!(got, all);
    }

    #[test]
    fn top_p_never_leaves_the_smallest_set(
        raw in proptest::collection::vec(-40i8..40, 2..600), top_p in 0.05f32..0.99, seed: u64,
    ) {
        let logits: Vec<f32> = raw.iter().map(|&x| f32::from(x) / 8.0).collect();
        let p = softmax(&logits);
        let mut order: Vec<Candidate> = logits.iter().enumerate().map(|(i, &l)| (l, i as u32)).collect();
        order.sort_by(best_first);
        let keep = naive_nucleus(order.iter().map(|&(_, i)| p[i as usize]), f64::from(top_p) + 1e-6);
        let set: HashSet<u32> = order[..keep].iter().map(|&(_, i)| i).collect();
        let mut s = Sampler::new(&Sampling { top_p, seed: Some(seed), ..off() }, &[]);
        for _ in 0..30 {
            let t = s.draw(&mut logits.clone()).unwrap();
            prop_assert!(set.contains(&t));
        }
    }

    #[test]
    fn what_stays_is_what_a_full_sort_would_keep(
        // Few distinct values (ties), a fine spread, and everything close together.
        raw in proptest::collection::vec(-60i16..60, 2100..2600), divisor in prop_oneof![Just(4.0f32), Just(37.0), Just(90_000.0)],
        masked in 0usize..50, top_k in prop_oneof![Just(0usize), 2049usize..2700, 1usize..300], top_p in prop_oneof![Just(1.0f32), 0.02f32..0.999],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5], temperature in prop_oneof![0.05f32..3.0, Just(100.0)], seed: u64,
    ) {
        let mut logits: Vec<f32> = raw.iter().map(|&x| f32::from(x) / divisor).collect();
        logits[..masked].fill(f32::NEG_INFINITY);
        let settings = Sampling { temperature, top_k, top_p, min_p, seed: Some(seed), ..off() };
        let mut s = Sampler::new(&settings, &[]);
        let drawn = s.draw(&mut logits.clone()).unwrap();
        prop_assume!(top_k != 1);

        let mut order: Vec<Candidate> = logits.iter().enumerate().map(|(i, &l)| (l, i as u32)).filter(|c| c.0.is_finite()).collect();
        order.sort_by(best_first);
        if top_k > 0 {
            order.truncate(top_k);
        }
        let weight = |l: f32| (f64::from(l - order[0].0) / f64::from(temperature)).exp();
        let total: f64 = order.iter().map(|c| weight(c.0)).sum();
        // At the very border, rounding may decide.
        let prefix = |hair: f64| {
            let p = if top_p < 1.0 { naive_nucleus(order.iter().map(|c| weight(c.0) / total), f64::from(top_p) + hair) } else { order.len() };
            p.min(order.iter().take_while(|c| weight(c.0) >= f64::from(min_p) - hair).count()).max(1)
        };
        let few = (1..=FEW).contains(&top_k);
        let kept: HashSet<u32> = s.weights.iter().enumerate().filter(|(_, w)| **w > 0.0)
            .map(|(i, _)| if few { s.candidates[i].1 } else { i as u32 }).collect();
        let set: HashSet<u32> = order[..kept.len()].iter().map(|c| c.1).collect();
        prop_assert_eq!(&kept, &set, "what stays is no prefix");
        // Weights below the least that matters are none.
        let most = prefix(1e-5).min(order.iter().take_while(|c| weight(c.0) > 1e-38).count());
        let least = prefix(-1e-5).min(order.iter().take_while(|c| weight(c.0) > 1e-37).count());
        prop_assert!((least..=most).contains(&kept.len()), "{} stay, not {} to {}", kept.len(), least, most);
        prop_assert!(kept.contains(&drawn));
    }
}

/// Run with `cargo test --release --lib -- --ignored sampling_speed --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn sampling_speed_on_a_large_vocabulary() {
    let mut rng = fastrand::Rng::with_seed(1);
    let logits: Vec<f32> = (0..248_320).map(|_| rng.f32() * rng.f32() * 20.0 - 10.0).collect();
    let penalties =
        Sampling { repetition_penalty: 1.1, presence_penalty: 0.5, min_p: 0.01, top_k: 0, seed: Some(1), ..Sampling::default() };
    // A prompt that holds a third of the vocabulary.
    let prompt: Vec<u32> = (0..80_000).map(|_| rng.u32(..248_320)).collect();
    for (name, s) in [
        ("top-k 40, top-p 0.95", Sampling { seed: Some(1), ..Sampling::default() }),
        ("top-p 0.95 alone", Sampling { top_k: 0, seed: Some(1), ..Sampling::default() }),
        ("top-k 100 000, top-p 0.95", Sampling { top_k: 100_000, seed: Some(1), ..Sampling::default() }),
        ("min-p 0.05 alone", Sampling { top_k: 0, top_p: 1.0, min_p: 0.05, seed: Some(1), ..Sampling::default() }),
        ("temperature alone", Sampling { top_k: 0, top_p: 1.0, seed: Some(1), ..Sampling::default() }),
        ("top-p 0.95, temperature 100", Sampling { temperature: 100.0, top_k: 0, seed: Some(1), ..Sampling::default() }),
        ("penalties, top-p 0.95, min-p 0.01", penalties.clone()),
        ("penalties, top-k 40", Sampling { top_k: 40, ..penalties.clone() }),
        ("greedy", Sampling { temperature: 0.0, ..Sampling::default() }),
    ] {
        let mut sampler = Sampler::new(&s, &prompt);
        let mut copies: Vec<Vec<f32>> = vec![logits.clone(); 50];
        let t = std::time::Instant::now();
        for c in &mut copies {
            sampler.draw(c).unwrap();
        }
        println!("{name}: {:.3} ms", t.elapsed().as_secs_f64() * 1e3 / 50.0);
    }
}
