//! Tokens that are queued whole while the host answers them.

use super::*;

fn setup(order: Order, timed_every: u32) -> Setup {
    Setup { order, timed_every, miss: MissChoice::Cpu, answers: When::Always, ..Setup::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn answered_tokens_give_the_bits_and_the_records_of_ticks_one_by_one(
        order in order(), slots in 1usize..EXPERTS, timed_every in 2u32..6, acts in prop::collection::vec(act(), 1..20),
    ) {
        let setup = |timed_every| Setup { slots, ..setup(order, timed_every) };
        let (mut ticks, mut answered) = (Session::new(&setup(1)), Session::new(&setup(timed_every)));
        let begin = [Act::Step(20, 0), Act::Step(1, 0), Act::Step(1, 1), Act::Step(1, 2)];
        for act in begin.iter().chain(&acts) {
            let (a, b) = (ticks.act(act).unwrap(), answered.act(act).unwrap());
            prop_assert_eq!(a, b, "{:?}", act);
            prop_assert_eq!(&ticks.record, &answered.record, "{:?}", act);
        }
        prop_assert!(answered.answers > 0 && ticks.answers == 0);
        prop_assert_eq!((answered.sim.violations(), ticks.sim.violations()), (Vec::<String>::new(), Vec::new()));
        answered.tables_agree();
        let Session { sim, device, experts, memory, pinned, recorded, answered, talk, .. } = answered;
        drop((device, experts, memory, pinned, recorded, answered, talk));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0), "everything is given back");
    }

    #[test]
    fn what_comes_ahead_is_in_the_table_when_its_layer_is_opened(
        order in order(), couriers in 0usize..3, ahead in 1usize..3, slots in 4usize..16, acts in prop::collection::vec(act(), 1..20),
    ) {
        let hold = Hold { room: 1 << 30, lock: 1 << 30, reserve: 0, region: 100_000, per_step: 9 };
        let mut s = Session::new(&Setup { slots, couriers, hold, ..setup(order, 4) });
        s.experts.set_ahead(Some(ahead));
        s.experts.hold_all();
        let begin = [Act::Step(20, 0), Act::Step(1, 0), Act::Step(1, 1), Act::Step(1, 2)];
        for act in begin.iter().chain(&acts) {
            // Against the CPU, and hits are what is in the device's table: see `step`.
            s.act(act).unwrap();
        }
        prop_assert!(s.answers > 0);
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }

    #[test]
    fn whatever_fails_around_answered_tokens_a_later_one_is_right(nth in 0u64..40, kind in 0usize..3, order in order(), slots in 2usize..EXPERTS) {
        let mut s = Session::new(&setup(order, 3));
        for act in [Act::Step(20, 0), Act::Step(1, 0), Act::Step(1, 0), Act::Step(1, 0)] {
            s.act(&act).unwrap();
        }
        let fault = Some(nth);
        s.sim.fail(match kind {
            0 => Faults { upload: fault, ..Faults::default() },
            1 => Faults { launch: fault, ..Faults::default() },
            _ => Faults { download: fault, ..Faults::default() },
        });
        for act in [Act::Step(1, 1), Act::Step(1, 2), Act::Resize(slots), Act::Step(1, 3), Act::Resize(EXPERTS - 1), Act::Step(1, 4)] {
            // If it does not fail, its answer is right (see `step`), and so is that of the next one.
            let _ = s.act(&act);
        }
        s.sim.fail(Faults::default());
        s.experts.resize(slots).unwrap();
        s.device_step(30, 0).unwrap();
        let before = s.answers;
        for hot in 0..6 {
            s.device_step(1, hot).unwrap();
        }
        prop_assert!(s.answers > before);
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
}

#[test]
fn tokens_that_return_find_what_came_ahead_in_their_tables() {
    for couriers in 0..3 {
        let hold = Hold { room: 1 << 30, lock: 1 << 30, reserve: 0, region: 100_000, per_step: 9 };
        let mut s = Session::new(&Setup { slots: 5, couriers, hold, ..setup(Order::Late, 64) });
        s.experts.set_ahead(Some(1));
        s.experts.hold_all();
        let (mut came, mut asked) = (0, 0);
        for _ in 0..8 {
            for token in 0..5 {
                // The same token again: the same rows, the same routing.
                s.rng = fastrand::Rng::with_seed(token);
                let before = s.answers;
                s.device_step(1, token as usize * 5).unwrap();
                // Those that the token asked for are hits by the device's own table: see `step`.
                let (c, a) = if s.answers > before { s.record.ahead_and_asked() } else { (0, 0) };
                (came, asked) = (came + c, asked + a);
            }
        }
        assert!(asked > 20 && asked * 2 > came, "{asked} of {came}");
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
}

#[test]
fn an_answered_token_is_one_launch() {
    let mut s = Session::new(&setup(Order::Late, 64));
    for hot in [0, 0, 0] {
        s.device_step(1, hot).unwrap();
    }
    let answered = s.answers;
    for hot in [1, 2, 3] {
        let before = s.sim.launches();
        s.device_step(1, hot).unwrap();
        assert_eq!(s.sim.launches() - before, 1);
    }
    assert_eq!(s.answers, answered + 3);
}

#[test]
fn a_token_that_is_not_answered_is_found_out_and_one_that_breaks_off_lets_the_device_go() {
    let s = Session::new(&setup(Order::Late, 64));
    let device = &*s.device;
    let (mut talk, turn, table) =
        (Talk::new(device, 2, EXPERTS, 64, HIDDEN).unwrap(), device.alloc(4).unwrap(), device.alloc(EXPERTS * 4).unwrap());
    device.upload_now(Lane::Compute, turn.address(), &talk.next_turn().to_ne_bytes()).unwrap();
    for layer in 0..2 {
        launch(device, &talk.await_table(turn.address(), layer, table.address()), &[]).unwrap();
        launch(device, &talk.tell(turn.address(), layer, table.address(), 8), &[]).unwrap();
    }
    let mark = device.mark(Lane::Compute).unwrap();
    let mut heard = Vec::new();
    let e = talk.hear(device, 0, 8, &mut heard).unwrap_err();
    assert!(e.to_string().contains("waits for a word"), "{e}");
    let rows: Vec<i32> = (0..EXPERTS as i32).collect();
    talk.open(0, &rows);
    talk.hear(device, 0, 8, &mut heard).unwrap();
    assert_eq!(heard, [0, 1]);
    assert!(device.sync(&mark).is_err(), "the second layer has not been opened");
    talk.let_go();
    device.sync(&mark).unwrap();
    assert_eq!(s.sim.violations(), Vec::<String>::new());
}
