use super::*;
use proptest::prelude::*;

/// What a session may do to a scheduler.
#[derive(Clone, Debug)]
enum Act {
    Step { phase: Phase, tokens: u32, routed: Vec<Vec<u16>> },
    Resize(usize),
    Unequal(Vec<usize>),
    Policy(Policy),
    Prefill(usize, Vec<u16>),
}

const LAYERS: usize = 3;
const EXPERTS: usize = 12;

fn policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.to_vec())
}

fn admission() -> impl Strategy<Value = Admission> {
    (prop::sample::select(vec![0.0, 1.0, 1.1, 2.0]), 0usize..5, 0usize..9, 0usize..4)
        .prop_map(|(margin, per_tick, per_prefill_tick, ahead)| Admission { margin, per_tick, per_prefill_tick, ahead })
}

fn act() -> impl Strategy<Value = Act> {
    let set = || prop::collection::vec(0u16..EXPERTS as u16, 1..=EXPERTS);
    let decode = prop::collection::vec(prop::collection::vec(0u16..EXPERTS as u16, 1..=4), LAYERS).prop_map(|routed| Act::Step {
        phase: Phase::Decode,
        tokens: 1,
        routed,
    });
    let prefill =
        (2u32..600, prop::collection::vec(set(), LAYERS)).prop_map(|(tokens, routed)| Act::Step { phase: Phase::Prefill, tokens, routed });
    prop_oneof![
        8 => decode,
        2 => prefill,
        1 => (0usize..=EXPERTS + 2).prop_map(Act::Resize),
        1 => prop::collection::vec(0usize..=EXPERTS, 0..=LAYERS).prop_map(Act::Unequal),
        1 => policy().prop_map(Act::Policy),
        1 => (0..LAYERS + 1, prop::collection::vec(0u16..EXPERTS as u16 + 2, 0..9)).prop_map(|(l, e)| Act::Prefill(l, e)),
    ]
}

fn routed(ids: &[u16], tokens: u16) -> Vec<Routed> {
    ids.iter().map(|&expert| Routed { expert, tokens, weight: 0.5 }).collect()
}

fn tables_agree(s: &Scheduler) -> Result<(), TestCaseError> {
    for layer in 0..s.layers() {
        prop_assert!(s.occupied(layer) <= s.slots(layer));
        prop_assert_eq!(s.residents(layer).count(), s.occupied(layer));
        for (slot, expert) in s.residents(layer) {
            prop_assert_eq!(s.slot_of(layer, expert), Some(slot));
            prop_assert_eq!(s.expert_in(layer, slot), Some(expert));
        }
        let with_slot = (0..EXPERTS as u16).filter(|&e| s.slot_of(layer, e).is_some()).count();
        prop_assert_eq!(with_slot, s.occupied(layer));
    }
    Ok(())
}

/// Check one plan against the tables before (`old`) and after.
fn plan_is_sound(old: &Scheduler, new: &Scheduler, plan: &LayerPlan, ids: &[u16]) -> Result<(), TestCaseError> {
    let layer = plan.layer;
    let mut distinct: Vec<u16> = Vec::new();
    ids.iter().for_each(|e| {
        if !distinct.contains(e) {
            distinct.push(*e)
        }
    });
    let planned: Vec<u16> = plan.placed.iter().map(|p| p.routed.expert).collect();
    prop_assert_eq!(&planned, &distinct, "every routed expert once, in order");
    for p in &plan.placed {
        let before = old.slot_of(layer, p.routed.expert);
        prop_assert_eq!(before.is_some(), p.outcome == Outcome::Hit, "a hit is judged against the occupancy before");
        let after = new.slot_of(layer, p.routed.expert);
        prop_assert_eq!(after.unwrap_or(NO_SLOT), p.slot);
        if p.outcome == Outcome::Hit {
            prop_assert_eq!(before, after, "what is used stays where it is");
        }
    }
    let admitted = plan.placed.iter().filter(|p| p.outcome == Outcome::Admitted).count();
    prop_assert_eq!(admitted, plan.swaps.len());
    for swap in &plan.swaps {
        prop_assert_eq!(old.expert_in(layer, swap.slot), swap.evicted);
        prop_assert_eq!(new.expert_in(layer, swap.slot), Some(swap.expert));
        if let Some(gone) = swap.evicted {
            prop_assert!(!distinct.contains(&gone), "nothing used in a tick is evicted in it");
            prop_assert_eq!(new.slot_of(layer, gone), None);
        }
    }
    let replaced = plan.swaps.iter().filter(|s| s.evicted.is_some()).count();
    let cap = if new.phase == Phase::Decode { new.admission.per_tick } else { new.admission.per_prefill_tick };
    prop_assert!(replaced <= cap);
    for other in (0..LAYERS).filter(|&l| l != layer) {
        prop_assert!(old.residents(other).eq(new.residents(other)), "other layers are left alone");
    }
    Ok(())
}

/// Bring experts of `layer` ahead, and check it against the tables before.
fn bringing_is_sound(s: &mut Scheduler, layer: usize) -> Result<(), TestCaseError> {
    let old = s.clone();
    let swaps = s.bring(layer).to_vec();
    prop_assert!(swaps.len() <= s.admission.ahead);
    prop_assert!(swaps.is_empty() || (s.policy == Policy::Rotary && s.phase == Phase::Decode));
    let mut slots: Vec<u16> = swaps.iter().map(|w| w.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    prop_assert_eq!(slots.len(), swaps.len(), "no newcomer takes another's slot");
    for swap in &swaps {
        prop_assert_eq!(old.slot_of(layer, swap.expert), None);
        prop_assert_eq!(old.expert_in(layer, swap.slot), swap.evicted);
        prop_assert_eq!(s.expert_in(layer, swap.slot), Some(swap.expert));
        prop_assert!(swap.evicted.is_some() || old.occupied(layer) < old.slots(layer));
    }
    for other in (0..LAYERS).filter(|&l| l != layer) {
        prop_assert!(old.residents(other).eq(s.residents(other)), "other layers are left alone");
    }
    Ok(())
}

fn resize_is_sound(old: &Scheduler, new: &Scheduler, wanted: &[usize], resize: &Resize) -> Result<(), TestCaseError> {
    for layer in 0..LAYERS {
        let slots = wanted.get(layer).map_or(old.slots(layer), |&s| s.min(EXPERTS));
        prop_assert_eq!(new.slots(layer), slots);
        prop_assert_eq!(new.occupied(layer), old.occupied(layer).min(slots), "as many stay as fit");
        let mut order: Vec<Worth> = old.residents(layer).map(|(_, e)| old.measures.worth(old.policy, layer, e)).collect();
        order.sort();
        order.reverse();
        for (rank, worth) in order.iter().enumerate() {
            let stays = new.slot_of(layer, worth.expert).is_some();
            prop_assert_eq!(stays, rank < slots, "the most worthy stay");
        }
        // Carry the change out on a copy of the old slots, as a tier would.
        let mut tier: Vec<Option<u16>> = (0..EXPERTS as u16).map(|s| old.expert_in(layer, s)).collect();
        for e in resize.evicted.iter().filter(|e| e.layer == layer) {
            prop_assert_eq!(tier[usize::from(e.slot)].take(), Some(e.expert));
        }
        for m in resize.moves.iter().filter(|m| m.layer == layer) {
            prop_assert!(usize::from(m.to) < slots && slots <= usize::from(m.from));
            prop_assert_eq!(tier[usize::from(m.to)], None);
            prop_assert_eq!(tier[usize::from(m.from)].take(), Some(m.expert));
            tier[usize::from(m.to)] = Some(m.expert);
        }
        for (slot, &expert) in tier.iter().enumerate() {
            prop_assert_eq!(new.expert_in(layer, slot as u16), expert);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_session_breaks_the_rules(
        slots in 0usize..=EXPERTS, policy in policy(), admission in admission(), acts in prop::collection::vec(act(), 1..40),
    ) {
        let mut s = Scheduler::new(LAYERS, EXPERTS, slots, policy, admission);
        for act in acts {
            match act {
                Act::Step { phase, tokens, routed: sets } => {
                    s.begin_step(phase, tokens);
                    let mut after = None;
                    for (layer, ids) in sets.iter().enumerate() {
                        for l in s.foreseen(after) {
                            bringing_is_sound(&mut s, l)?;
                            tables_agree(&s)?;
                        }
                        let old = s.clone();
                        let plan = s.tick(layer, &routed(ids, 1)).clone();
                        plan_is_sound(&old, &s, &plan, ids)?;
                        after = Some(layer);
                    }
                }
                Act::Resize(n) => {
                    let old = s.clone();
                    let resize = s.resize(n);
                    resize_is_sound(&old, &s, &[n; LAYERS], &resize)?;
                }
                Act::Unequal(n) => {
                    let old = s.clone();
                    let resize = s.resize_layers(&n);
                    resize_is_sound(&old, &s, &n, &resize)?;
                }
                Act::Policy(p) => s.set_policy(p, s.admission()),
                Act::Prefill(layer, experts) => {
                    let old = s.clone();
                    for swap in s.prefill(layer, &experts) {
                        prop_assert_eq!((swap.evicted, old.expert_in(layer, swap.slot)), (None, None), "only empty slots are filled");
                        prop_assert_eq!(s.expert_in(layer, swap.slot), Some(swap.expert));
                    }
                }
            }
            tables_agree(&s)?;
        }
    }

    #[test]
    fn the_same_routing_gives_the_same_plans(
        slots in 1usize..=EXPERTS, policy in policy(), sets in prop::collection::vec(prop::collection::vec(0u16..EXPERTS as u16, 1..5), 1..60),
    ) {
        let plans = || {
            let mut s = Scheduler::new(1, EXPERTS, slots, policy, policy.admission());
            sets.iter().map(|ids| { s.begin_step(Phase::Decode, 1); s.tick(0, &routed(ids, 1)).clone() }).collect::<Vec<_>>()
        };
        prop_assert_eq!(plans(), plans());
    }
}

#[test]
fn a_tick_fills_its_buffers_without_growing_them() {
    let mut s = Scheduler::new(2, 64, 16, Policy::Rotary, Admission::ALWAYS);
    let room = |s: &Scheduler| (s.plan.placed.capacity(), s.plan.swaps.capacity(), s.newcomers.capacity(), s.victims.capacity());
    let before = room(&s);
    let all: Vec<u16> = (0..64).collect();
    for step in 0..50u16 {
        s.begin_step(if step % 5 == 0 { Phase::Prefill } else { Phase::Decode }, 1 + u32::from(step % 5));
        for layer in 0..2 {
            let from = usize::from(step * 7 % 32);
            s.tick(layer, &routed(&all[from..from + 32], 1));
        }
    }
    assert_eq!(room(&s), before);
}

#[test]
fn a_newcomer_must_beat_the_victim_by_the_margin() {
    let mut s = Scheduler::new(1, 8, 1, Policy::Decay, Admission { margin: 1.5, ..Admission::default() });
    let mut step = |id: u16| {
        s.begin_step(Phase::Decode, 1);
        s.tick(0, &routed(&[id], 1)).placed[0].outcome
    };
    assert_eq!(step(0), Outcome::Admitted, "an empty slot takes anybody");
    assert_eq!(step(0), Outcome::Hit);
    assert_eq!(step(1), Outcome::Miss, "1 use against almost 2");
    assert_eq!(step(1), Outcome::Miss, "2 uses against almost 2");
    assert_eq!(step(1), Outcome::Admitted, "3 uses against less than 2");
    assert_eq!(step(0), Outcome::Miss);
}

#[test]
fn replacements_per_tick_are_capped_and_the_most_worthy_go_first() {
    let mut s = Scheduler::new(1, 8, 4, Policy::Rotary, Admission { margin: 0.0, per_tick: 1, per_prefill_tick: 3, ahead: 0 });
    s.begin_step(Phase::Decode, 1);
    assert_eq!(s.tick(0, &routed(&[0, 1, 2, 3], 1)).swaps.len(), 4, "filling is not capped");
    s.begin_step(Phase::Decode, 1);
    s.tick(0, &routed(&[5], 1));
    s.begin_step(Phase::Decode, 1);
    let plan = s.tick(0, &routed(&[4, 0], 1)).clone();
    assert_eq!(plan.swaps.len(), 1);
    s.begin_step(Phase::Prefill, 8);
    let plan = s.tick(0, &[Routed { expert: 6, tokens: 1, weight: 1.0 }, Routed { expert: 7, tokens: 7, weight: 1.0 }]);
    let order: Vec<u16> = plan.swaps.iter().map(|w| w.expert).collect();
    assert_eq!(order, [7, 6]);
}

#[test]
fn ids_out_of_range_and_repeats_are_left_out() {
    let mut s = Scheduler::new(1, 4, 2, Policy::Lru, Admission::ALWAYS);
    s.begin_step(Phase::Decode, 1);
    assert_eq!(s.tick(0, &routed(&[3, 9, 3, u16::MAX], 1)).placed.len(), 1);
    assert!(s.tick(1, &routed(&[0], 1)).placed.is_empty());
}

#[test]
fn heat_is_a_rate_between_never_and_always() {
    let mut s = Scheduler::new(1, 4, 2, Policy::Rotary, Admission::default());
    for step in 0..400 {
        s.begin_step(Phase::Decode, 1);
        s.tick(0, &routed(if step % 2 == 0 { &[0, 1] } else { &[0] }, 1));
    }
    assert!((s.heat(0, 0) - 1.0).abs() < 1e-3);
    assert!((s.heat(0, 1) - 0.5).abs() < 2e-2);
    assert_eq!(s.heat(0, 2), 0.0);
}

/// `cargo test --release -- --ignored --nocapture cost_of_a_tick`
#[test]
#[ignore = "a measurement"]
fn cost_of_a_tick_at_256_experts() {
    const LAYERS: usize = 40;
    for (name, slots) in [("46 slots", 46), ("128 slots", 128), ("255 slots", 255)] {
        let mut curve = crate::experts::curve::Curve::new(LAYERS, 256, Some(512.0));
        let mut rng = fastrand::Rng::with_seed(7);
        let sets: Vec<Vec<Routed>> = (0..4096)
            .map(|_| {
                let mut ids: Vec<u16> = Vec::new();
                while ids.len() < 8 {
                    // Skewed towards low ids, so that there are hits and misses.
                    let e = (rng.f64() * rng.f64() * 256.0) as u16;
                    if !ids.contains(&e) {
                        ids.push(e);
                    }
                }
                routed(&ids, 1)
            })
            .collect();
        // The middle one of many short times, because others use the machine, too; after as many steps as are remembered.
        let time = |f: &mut dyn FnMut(usize, &[Routed])| {
            let mut times = Vec::new();
            for step in 0..3000 {
                let start = std::time::Instant::now();
                (0..LAYERS).for_each(|layer| f(layer, &sets[(step * LAYERS + layer) * 7 % sets.len()]));
                if step > crate::experts::recall::SPAN {
                    times.push(start.elapsed().as_secs_f64() / LAYERS as f64 * 1e6);
                }
            }
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        for policy in Policy::ALL {
            let mut s = Scheduler::new(LAYERS, 256, slots, policy, policy.admission());
            let tick = time(&mut |layer, r| {
                if layer == 0 {
                    s.begin_step(Phase::Decode, 1);
                }
                s.tick(layer, r);
                for l in s.foreseen(Some(layer)) {
                    s.bring(l);
                }
            });
            println!("{name}, {policy}: {tick:.2} us per layer-tick");
        }
        let stack = time(&mut |layer, r| curve.tick(layer, r, Phase::Decode));
        println!("{name}: {stack:.2} us for the curve");
    }
}

#[test]
fn a_prefill_ranks_the_hottest_as_the_most_recent() {
    for policy in Policy::ALL {
        let mut s = Scheduler::new(1, 8, 3, policy, Admission::ALWAYS);
        let swaps = s.prefill(0, &[5, 2, 7, 1]);
        assert_eq!(swaps.iter().map(|w| w.expert).collect::<Vec<_>>(), [5, 2, 7]);
        s.begin_step(Phase::Decode, 1);
        assert_eq!(s.tick(0, &routed(&[0], 1)).swaps[0].evicted, Some(7), "{policy}");
        assert!(s.prefill(0, &[4]).is_empty(), "no slot is empty");
    }
}

#[test]
fn slots_fill_up_with_experts_that_nobody_has_used_which_leave_first() {
    for policy in Policy::ALL {
        let mut s = Scheduler::new(1, 6, 5, policy, Admission::ALWAYS);
        s.begin_step(Phase::Decode, 1);
        s.tick(0, &routed(&[1, 4], 1));
        let filled: Vec<_> = std::iter::from_fn(|| s.fill_up(0)).map(|w| (w.expert, w.slot, w.evicted)).collect();
        assert_eq!(filled, [(0, 2, None), (2, 3, None), (3, 4, None)]);
        assert_eq!((s.occupied(0), s.fill_up(0), s.fill_up(1)), (5, None, None));
        let evicted: Vec<_> = s.resize(2).evicted.iter().map(|e| e.expert).collect();
        assert!([0, 2, 3].iter().all(|e| evicted.contains(e)), "{policy}: {evicted:?}");
    }
}

#[test]
fn empty_slots_fill_at_the_given_pace() {
    let mut s = Scheduler::new(1, 8, 6, Policy::Rotary, Admission::default());
    s.limit_fill(1, 3);
    let routed: Vec<Routed> = (0..8).map(|expert| Routed { expert, tokens: 1, weight: 1.0 }).collect();
    for (phase, occupied) in [(Phase::Prefill, 3), (Phase::Decode, 4), (Phase::Decode, 5), (Phase::Prefill, 6)] {
        s.begin_step(phase, 1);
        s.tick(0, &routed);
        assert_eq!(s.occupied(0), occupied);
    }
}
