//! Any session answers like the CPU, on any schedule, whatever fails.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_session_on_any_schedule_answers_like_the_cpu_and_nothing_races(
        slots in 1usize..=EXPERTS, order in order(), miss in miss(), pin in any::<bool>(), couriers in 0usize..3,
        acts in prop::collection::vec(act(), 1..14),
    ) {
        let mut s = Session::new(&Setup { slots, order, miss, pinned: if pin { 200_000 } else { 0 }, couriers, ..Setup::default() });
        for act in acts {
            drop(s.act(&act).unwrap());
        }
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
        let Session { sim, device, experts, memory, pinned, .. } = s;
        drop((device, experts, memory, pinned));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0), "everything is given back");
    }

    #[test]
    fn whatever_fails_a_later_step_is_right_and_nothing_is_kept(
        nth in 0u64..120, kind in 0usize..4, order in order(), miss in miss(), couriers in 0usize..3,
        hots in prop::collection::vec((1usize..20, 0usize..EXPERTS), 4..8),
    ) {
        let mut s = Session::new(&Setup { order, miss, couriers, ..Setup::default() });
        let fault = Some(nth);
        s.sim.fail(match kind {
            0 => Faults { upload: fault, ..Faults::default() },
            1 => Faults { launch: fault, ..Faults::default() },
            2 => Faults { download: fault, ..Faults::default() },
            _ => Faults { alloc: Some(nth % 7), ..Faults::default() },
        });
        for (i, (tokens, hot)) in hots.into_iter().enumerate() {
            // A step may fail; if it does not, its answer is right (see `step`), and so is that of the next one.
            let _ = s.device_step(tokens, hot);
            if i == 2 {
                let _ = s.experts.resize(EXPERTS - 2);
            }
        }
        s.sim.fail(Faults::default());
        s.device_step(1, 3).unwrap();
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
        let Session { sim, device, experts, memory, pinned, .. } = s;
        drop((device, experts, memory, pinned));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0));
    }
}

#[test]
fn a_copy_that_fails_costs_a_slot_and_not_the_answer() {
    let mut refused = 0;
    for nth in 0..40 {
        let mut s = Session::new(&Setup { slots: EXPERTS, ..Setup::default() });
        let mut whole = Session::new(&Setup { slots: EXPERTS, ..Setup::default() });
        s.sim.fail(Faults { upload: Some(nth), ..Faults::default() });
        whole.device_step(1, 0).unwrap();
        if s.device_step(1, 0).is_ok() && s.resident() + 1 == whole.resident() {
            refused += 1;
        }
        s.sim.fail(Faults::default());
        s.device_step(1, 0).unwrap();
    }
    assert!(refused > 0);
}

#[test]
fn a_prompt_that_the_device_computes_is_the_same_to_the_last_bit_for_any_number_of_slots() {
    let answer = |slots: usize, order| {
        let mut s = Session::new(&Setup { slots, order, miss: MissChoice::Gpu, ..Setup::default() });
        (0..3).map(|hot| s.device_step(20 + hot, hot).unwrap()).collect::<Vec<_>>()
    };
    let all = answer(EXPERTS, Order::Queued);
    for slots in [1, 5, 9] {
        assert_eq!(answer(slots, Order::Random(slots as u64)), all, "{slots} slots");
    }
}

#[test]
fn the_same_session_gives_the_same_bits_on_any_schedule() {
    let answer = |order, couriers| {
        let mut s = Session::new(&Setup { order, couriers, ..Setup::default() });
        [1, 1, 12, 1, 5, 1].map(|tokens| s.device_step(tokens, tokens).unwrap())
    };
    let first = answer(Order::Queued, 0);
    for order in [Order::Late, Order::CopyFirst, Order::ComputeFirst, Order::Random(9)] {
        for couriers in 0..3 {
            assert_eq!(answer(order, couriers), first, "{order:?}, {couriers} couriers");
        }
    }
}

#[test]
fn experts_of_tokens_that_return_come_before_they_are_asked_for() {
    let mut without = 0;
    for (couriers, ahead) in [(0, Some(1)), (1, None), (1, Some(0)), (2, Some(1)), (1, Some(2))] {
        let mut s = Session::new(&Setup { slots: 5, couriers, ..Setup::default() });
        s.experts.set_ahead(ahead);
        let (mut came, mut asked, mut hits) = (0, 0, 0);
        for round in 0..8 {
            for token in 0..5 {
                // The same token again: the same rows, the same routing.
                s.rng = fastrand::Rng::with_seed(token);
                s.step(1, token as usize * 5).unwrap();
                let (c, a) = s.record.ahead_and_asked();
                (came, asked) = (came + c, asked + a);
                hits += if round > 0 { s.record.hits_and_routed().0 } else { 0 };
            }
        }
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        if couriers > 0 && ahead.is_some_and(|n| n > 0) {
            assert!(asked > 20 && asked * 2 > came, "{asked} of {came}");
            assert!(hits > without, "{hits} hits, {without} if nothing comes ahead");
        } else {
            assert_eq!(came, 0, "nobody to bring them, or nobody may");
            without = hits;
        }
        s.tables_agree();
    }
}
