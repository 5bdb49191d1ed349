use super::*;
use crate::events::{Ahead, ModelCard, Outcome, Phase, RoutedExpert, StepRecord};
use crate::experts::policy::Policy;
use crate::experts::schedule::Routed;
use crate::trace::player::card_of;
use crate::trace::routes::{Routes, RoutesHead};
use crate::trace::session::{write_routes, Session};
use crate::trace::simulate::Prepared;
use crate::trace::simulated::Simulated;
use proptest::prelude::*;

const LAYERS: usize = 4;
const EXPERTS: usize = 12;

fn head() -> RoutesHead {
    RoutesHead { layers: LAYERS, experts: EXPERTS, top_k: 2, expert_bytes: vec![7; LAYERS], ..RoutesHead::default() }
}

/// A token's step with what was foreseen of it, told in the order of the engine; none if `asked` is false.
fn record(step: u64, asked: bool, seed: u64) -> StepRecord {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut r = StepRecord { step, tokens: 1, ..StepRecord::default() };
    for at in 0..LAYERS {
        let used = rng.choose_multiple(0..EXPERTS as u16, 2);
        r.routed.extend(used.iter().map(|&expert| RoutedExpert { expert, tokens: 1, weight: 0.5, outcome: Outcome::Miss }));
        r.ends.push(r.routed.len() as u32);
        for lead in (1..=LEAD).filter(|lead| asked && at + lead < LAYERS) {
            let layer = (at + lead) as u16;
            // Nobody may be likely.
            let likely = (0..EXPERTS as u16).filter(|_| rng.u8(0..4) == 0).collect::<Vec<_>>();
            r.foreseen.extend(likely.iter().map(|&expert| Foreseen { layer, lead: lead as u8, expert, likely: rng.u8(13..) }));
        }
    }
    r
}

/// What the engine does with such a step: the hits, and who came ahead.
fn engine(s: &mut Scheduler, r: &StepRecord) -> (u64, Vec<Ahead>) {
    let (mut hits, mut came) = (0, Vec::new());
    let mut bring = |s: &mut Scheduler, after| {
        for layer in s.foreseen(after) {
            came.extend(s.bring(layer).iter().map(|swap| Ahead { layer: layer as u16, expert: swap.expert }));
        }
    };
    s.begin_step(r.phase, r.tokens);
    bring(s, None);
    for at in 0..LAYERS {
        for lead in (1..=LEAD).filter(|lead| !r.foreseen.is_empty() && at + lead < LAYERS) {
            let of = |f: &&Foreseen| usize::from(f.layer) == at + lead && usize::from(f.lead) == lead;
            let likely: Vec<_> = r.foreseen.iter().filter(of).map(|f| (f.expert, f.likely)).collect();
            if !likely.is_empty() {
                s.foresee(at + lead, likely.into_iter());
            }
        }
        let routed: Vec<Routed> = r.layer(at).iter().map(|r| Routed { expert: r.expert, tokens: r.tokens, weight: r.weight }).collect();
        hits += s.tick(at, &routed).placed.iter().filter(|p| p.outcome == Outcome::Hit).count() as u64;
        bring(s, Some(at));
    }
    (hits, came)
}

fn session(asked: &[bool], seed: u64) -> (Vec<StepRecord>, Routes) {
    let records: Vec<StepRecord> = (0..).zip(asked).map(|(i, &asked)| record(i, asked, seed ^ i)).collect();
    let mut routes = Routes::new(head());
    records.iter().for_each(|r| routes.push_record(0, r));
    (records, routes)
}

proptest! {
    #[test]
    fn routes_give_back_what_was_foreseen_also_cut_and_out_of_a_file(asked in prop::collection::vec(any::<bool>(), 1..12), seed: u64) {
        let (records, mut routes) = session(&asked, seed);
        for (i, r) in records.iter().enumerate() {
            prop_assert_eq!(&routes.record(i).foreseen, &r.foreseen);
            prop_assert_eq!(routes.foretold().has(i), !r.foreseen.is_empty());
        }
        let file = write_routes(Vec::new(), &routes).unwrap();
        let read = Session::from_bytes(file).unwrap().routes().unwrap();
        prop_assert_eq!(read.foretold(), routes.foretold());
        routes.truncate(asked.len() / 2);
        let (_, half) = session(&asked[..asked.len() / 2], seed);
        prop_assert_eq!(&routes, &half);
        routes.forget_foretold();
        prop_assert!(routes.foretold().is_empty() && (0..routes.len()).all(|i| routes.record(i).foreseen.is_empty()));
    }

    #[test]
    fn simulations_do_what_the_engine_does(asked in prop::collection::vec(any::<bool>(), 1..24), seed: u64, slots in 1usize..EXPERTS) {
        let (records, routes) = session(&asked, seed);
        let admission = Policy::Rotary.admission();
        let mut scheduler = Scheduler::new(LAYERS, EXPERTS, slots, Policy::Rotary, admission);
        let mut simulated = Simulated::new(&card_of(&head(), slots), slots, Policy::Rotary, admission);
        let mut all = 0;
        for r in &records {
            let (hits, came) = engine(&mut scheduler, r);
            let mut played = r.clone();
            simulated.step(&mut played);
            prop_assert_eq!(played.hits_and_routed().0, hits);
            prop_assert_eq!(&played.ahead, &came);
            prop_assert_eq!(&played.slot_of[..], scheduler.slot_table());
            prop_assert_eq!(&played.foreseen, &r.foreseen);
            all += hits;
        }
        prop_assert_eq!(Prepared::new(&routes).online(Policy::Rotary, admission, slots).hits, all as f64);
    }

    #[test]
    fn odd_records_are_left_out(seed: u64, layer in 0u16..9, lead in 0u8..5, expert in 0u16..20) {
        let mut odd = record(0, true, seed);
        odd.foreseen.push(Foreseen { layer, lead, expert, likely: 200 });
        let sound = (1..=2).contains(&lead) && (u16::from(lead)..4).contains(&layer) && expert < 12;
        prop_assert_eq!(fits(&odd.foreseen, LAYERS, EXPERTS), sound);
        let mut routes = Routes::new(head());
        routes.push_record(0, &odd);
        prop_assert_eq!(routes.len(), usize::from(sound));
        let card: ModelCard = card_of(&head(), 3);
        prop_assert_eq!(crate::trace::moment::fits(&card, &odd), sound);
        Simulated::new(&card, 3, Policy::Rotary, Policy::Rotary.admission()).step(&mut odd);
    }
}

#[test]
fn what_routers_foresee_is_followed_and_raises_the_hits() {
    // Told for sure what comes.
    let mut routes = Routes::new(head());
    for step in 0..60 {
        let mut r = record(step, false, step);
        for at in 0..LAYERS {
            for lead in (1..=LEAD).filter(|lead| at + lead < LAYERS) {
                let told = r.layer(at + lead).iter().map(|u| Foreseen {
                    layer: (at + lead) as u16,
                    lead: lead as u8,
                    expert: u.expert,
                    likely: 255,
                });
                let told: Vec<Foreseen> = told.collect();
                r.foreseen.extend(told);
            }
        }
        assert_eq!(r.phase, Phase::Decode);
        routes.push_record(0, &r);
    }
    let hits = |routes: &Routes, policy: Policy| Prepared::new(routes).online(policy, policy.admission(), 4).hits;
    let told = hits(&routes, Policy::Rotary);
    let lru = hits(&routes, Policy::Lru);
    routes.forget_foretold();
    assert!(told > 1.5 * hits(&routes, Policy::Rotary), "{told} and {}", hits(&routes, Policy::Rotary));
    assert_eq!(lru, hits(&routes, Policy::Lru), "others don't listen");
}
