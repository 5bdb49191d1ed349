//! Tokens of which every expert is in a slot.

use super::*;

/// Acts of a session that mostly has a slot for every expert.
fn roomy_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0usize..EXPERTS).prop_map(|hot| Act::Step(1, hot)),
        1 => (2usize..=ROWS, 0usize..EXPERTS).prop_map(|(n, hot)| Act::Step(n, hot)),
        1 => (1usize..EXPERTS).prop_map(Act::Resize),
        3 => Just(Act::Resize(EXPERTS)),
        3 => Just(Act::FillUp),
        1 => prop::sample::select(vec!["lru", "lfu", "rotary"]).prop_map(Act::Policy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn tokens_queued_whole_give_the_bits_and_the_records_of_ticks_one_by_one(
        order in order(), miss in miss(), pin in any::<bool>(), couriers in 0usize..3, timed_every in 2u32..6,
        acts in prop::collection::vec(roomy_act(), 1..20),
    ) {
        let pinned = if pin { 200_000 } else { 0 };
        let setup = |timed_every| Setup { slots: EXPERTS, order, miss, pinned, couriers, timed_every, ..Setup::default() };
        let (mut ticks, mut whole) = (Session::new(&setup(1)), Session::new(&setup(timed_every)));
        // Fill; the first token brings up what was put off, the second is timed.
        let begin = [Act::Step(20, 0), Act::FillUp, Act::Step(1, 0), Act::Step(1, 1), Act::Step(1, 2), Act::Step(1, 3)];
        for act in begin.iter().chain(&acts) {
            let (a, b) = (ticks.act(act).unwrap(), whole.act(act).unwrap());
            prop_assert_eq!(a, b, "{:?}", act);
            // When couriers are done with a copy is not the session's to say.
            let uploaded = if couriers > 0 { ticks.record.bytes_uploaded } else { whole.record.bytes_uploaded };
            prop_assert_eq!(&ticks.record, &StepRecord { bytes_uploaded: uploaded, ..whole.record.clone() }, "{:?}", act);
        }
        prop_assert!(whole.wholes > 0 && ticks.wholes == 0);
        prop_assert_eq!((whole.sim.violations(), ticks.sim.violations()), (Vec::<String>::new(), Vec::new()));
        whole.tables_agree();
        let Session { sim, device, experts, memory, pinned, recorded, .. } = whole;
        drop((device, experts, memory, pinned, recorded));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0), "everything is given back");
    }

    #[test]
    fn whatever_fails_around_whole_tokens_a_later_one_is_right(
        nth in 0u64..40, kind in 0usize..3, order in order(), couriers in 0usize..3, timed_every in 2u32..6, slots in 1usize..EXPERTS,
    ) {
        let mut s = Session::new(&Setup { slots: EXPERTS, order, couriers, timed_every, ..Setup::default() });
        for act in [Act::Step(20, 0), Act::FillUp, Act::Step(1, 0), Act::Step(1, 0)] {
            s.act(&act).unwrap();
        }
        let fault = Some(nth);
        s.sim.fail(match kind {
            0 => Faults { upload: fault, ..Faults::default() },
            1 => Faults { launch: fault, ..Faults::default() },
            _ => Faults { download: fault, ..Faults::default() },
        });
        for act in [Act::Step(1, 1), Act::Step(1, 2), Act::Resize(slots), Act::Step(1, 3), Act::Resize(EXPERTS), Act::FillUp, Act::Step(1, 4)] {
            // If it does not fail, its answer is right (see `step`), and so is that of the next one.
            let _ = s.act(&act);
        }
        s.sim.fail(Faults::default());
        s.experts.resize(EXPERTS).unwrap();
        s.device_step(30, 0).unwrap();
        s.experts.fill_up();
        let before = s.wholes;
        for hot in 0..6 {
            s.device_step(1, hot).unwrap();
        }
        prop_assert!(s.wholes > before);
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
}

#[test]
fn a_token_that_finds_everything_in_slots_waits_once_and_is_one_launch() {
    let mut s = Session::new(&Setup { slots: EXPERTS, timed_every: 64, ..Setup::default() });
    for act in [Act::Step(20, 0), Act::FillUp] {
        s.act(&act).unwrap();
    }
    let mut token = |hot| {
        let before = (s.sim.launches(), s.sim.host_waits());
        s.device_step(1, hot).unwrap();
        (s.sim.launches() - before.0, s.sim.host_waits() - before.1, s.wholes)
    };
    // The first brings up what was put off.
    token(0);
    let timed = token(0);
    assert!(timed.0 == 9 && timed.1 >= 4 && timed.2 == 0, "routing, up and down in each of three layers: {timed:?}");
    for i in 1..5 {
        assert_eq!(token(i), (1, 1, i));
    }
}

#[test]
fn a_routing_that_names_what_does_not_exist_is_found_when_the_token_is_over() {
    let mut s = Session::new(&Setup { slots: EXPERTS, timed_every: 64, ..Setup::default() });
    for act in [Act::Step(20, 0), Act::FillUp, Act::Step(1, 0), Act::Step(1, 0)] {
        s.act(&act).unwrap();
    }
    assert!(s.experts.whole_token().is_some());
    let routing = Routing { top_k: TOP_K, ids: vec![1, 2, EXPERTS as u32], weights: vec![0.3; TOP_K] };
    let e = s.experts.device_tick(1, &routing).unwrap_err();
    assert!(matches!(e, ExpertError::Routing { layer: 1, expert: 24, experts: EXPERTS }), "{e}");
    assert_eq!((s.resident(), s.experts.whole_token()), (0, None), "nobody knows what is true");
    s.device_step(1, 0).unwrap();
}

#[test]
fn with_a_slot_for_every_expert_those_come_up_that_nobody_asks_for_and_not_otherwise() {
    for (slots, couriers) in [(EXPERTS, 0), (EXPERTS, 2), (EXPERTS - 1, 1)] {
        let mut s = Session::new(&Setup { slots, couriers, ..Setup::default() });
        s.device_step(1, 0).unwrap();
        let routed = s.resident();
        s.experts.fill_up();
        s.device_step(1, 1).unwrap();
        match slots {
            EXPERTS => assert_eq!(s.resident(), 3 * EXPERTS),
            _ => assert!(s.resident() <= routed + 9, "only what was asked for"),
        }
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
}

#[test]
fn what_nobody_asks_for_is_not_sent_to_a_device_that_has_failed() {
    let mut s = Session::new(&Setup { slots: EXPERTS, ..Setup::default() });
    s.device_step(1, 0).unwrap();
    s.sim.fail(Faults { upload: Some(30), ..Faults::default() });
    s.experts.fill_up();
    s.experts.device_table(0).unwrap();
    s.device.sync(&s.device.mark(Lane::Compute).unwrap()).unwrap();
    for _ in 0..2 {
        assert_eq!((s.experts.whole_token(), s.resident()), (None, 3 * EXPERTS - 1));
        s.experts.fill_up();
    }
    s.experts.resize(EXPERTS).unwrap();
    s.experts.fill_up();
    assert_eq!(s.resident(), 3 * EXPERTS, "the user has changed something: another try");
    s.device_step(1, 1).unwrap();
    assert_eq!(s.sim.violations(), Vec::<String>::new());
    s.tables_agree();
}
