//! Slots filled at the start, and the memory that they and the ways up take.

use super::*;

#[test]
fn slots_are_filled_from_what_earlier_sessions_used_and_answer_right() {
    for (order, fault) in [(Order::Late, None), (Order::Random(3), None), (Order::Queued, Some(7))] {
        let mut first = Session::new(&Setup { slots: 9, order, ..Setup::default() });
        for hot in 0..6 {
            first.device_step(1, hot).unwrap();
        }
        let mut s = Session::new(&Setup { slots: 9, order, couriers: 1, ..Setup::default() });
        s.sim.fail(Faults { upload: fault, ..Faults::default() });
        let mut told = (0, 0);
        let filled = s.experts.warm(first.experts.heat().clone(), &mut |done, total| {
            told = (done, total);
            true
        });
        assert_eq!(filled.unwrap(), Some(27 - usize::from(fault.is_some())));
        assert_eq!(s.resident(), 27 - usize::from(fault.is_some()));
        assert!(told.1 > 0 && (told.0 == told.1) == fault.is_none(), "{told:?}");
        for hot in 0..4 {
            s.device_step(1, hot).unwrap();
        }
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
    let mut s = Session::new(&Setup { slots: 9, ..Setup::default() });
    let mut first = Session::new(&Setup { slots: 9, ..Setup::default() });
    first.device_step(1, 0).unwrap();
    assert_eq!(s.experts.warm(first.experts.heat().clone(), &mut |_, _| false).unwrap(), None, "given up");
    assert_eq!(s.resident(), 0);
    s.device_step(1, 0).unwrap();
    s.tables_agree();
}

#[test]
fn growth_takes_what_there_is_leaves_the_reserve_and_loses_nothing() {
    let all = Session::new(&Setup { slots: EXPERTS, ..Setup::default() }).sim.used();
    let few = Session::new(&Setup { slots: 3, ..Setup::default() }).sim.used();
    let reserve = 50_000;
    let mut s = Session::new(&Setup { slots: 3, memory: (all + few) / 2 + reserve, reserve, ..Setup::default() });
    for hot in 0..3 {
        s.device_step(1, hot).unwrap();
    }
    let before = s.resident();
    let granted = s.experts.resize(EXPERTS).unwrap();
    assert!((4..EXPERTS).contains(&granted), "{granted}");
    assert_eq!((s.resident(), s.experts.slots()), (before, granted), "nothing is lost");
    assert!(s.sim.used_peak() <= (all + few) / 2, "the reserve is left alone even on the way");
    assert_eq!(s.experts.resize(EXPERTS).unwrap(), granted, "asking again gives no more");
    s.device_step(1, 1).unwrap();
    assert_eq!(s.experts.resize(3).unwrap(), 3);
    s.device_step(1, 1).unwrap();
    assert_eq!(s.sim.used(), few, "what fewer slots free is given back");
    assert_eq!(s.sim.violations(), Vec::<String>::new());
}

#[test]
fn memory_that_someone_else_takes_during_growth_grants_less_and_loses_nothing() {
    for nth in 0..4 {
        let mut s = Session::new(&Setup { slots: 4, ..Setup::default() });
        s.device_step(1, 0).unwrap();
        let before = s.resident();
        s.sim.fail(Faults { alloc: Some(nth), ..Faults::default() });
        let granted = s.experts.resize(EXPERTS).unwrap();
        assert!(granted == if nth < 3 { 14 } else { EXPERTS } && s.resident() == before, "{nth}: {granted}");
        s.device_step(12, 0).unwrap();
        s.device_step(1, 0).unwrap();
        assert_eq!(s.sim.violations(), Vec::<String>::new());
    }
}

#[test]
fn staging_stays_within_its_budget_and_needs_none() {
    let largest = store().layers.iter().map(slot_bytes).max().unwrap();
    for budget in [0, largest - 1, largest, 3 * largest + 1] {
        let mut s = Session::new(&Setup { pinned: budget.max(1), miss: MissChoice::Gpu, ..Setup::default() });
        let before = s.sim.pinned_used();
        let without = Session::new(&Setup { pinned: 1, ..Setup::default() }).sim.pinned_used();
        assert!(before - without <= budget && (budget < largest || before > without), "{budget}");
        for tokens in [1, 30, 1] {
            s.device_step(tokens, 0).unwrap();
        }
        assert_eq!(s.sim.pinned_used(), before, "and does not grow");
    }
}
