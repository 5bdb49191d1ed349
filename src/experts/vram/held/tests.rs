use super::super::slabs::Layout;
use super::super::tests::{act, miss, order, store, Session, Setup, EXPERTS};
use super::super::*;
use super::copying::{pieces, taken};
use crate::events::StepRecord;
use crate::experts::Place;
use crate::gpu::simulated::{Faults, Order};
use proptest::prelude::*;
use std::time::Instant;

/// Regions of a few experts, adopted one by one: some steps see a part of it.
fn hold(region: usize, lock: u64) -> Hold {
    Hold { room: u64::MAX, lock, region, per_step: 1, ..Hold::NEVER }
}

fn all() -> Hold {
    hold(100_000, u64::MAX)
}

/// Wait for so many regions more.
fn wait(session: &mut Session, regions: usize) -> Option<Held> {
    let Place::Device(tier) = &mut session.experts.tier else { panic!("it is on a device") };
    tier.await_held(regions);
    tier.held()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_session_gives_the_same_bits_whether_experts_are_held_or_not(
        slots in 1usize..=EXPERTS, order in order(), miss in miss(), pin in any::<bool>(), couriers in 0usize..3, ahead in 0usize..3, region in 1usize..400_000,
        share in 0u64..4, refused in prop::option::of(0u64..20), acts in prop::collection::vec((act(), 0usize..3), 1..14),
    ) {
        // Without couriers, what is not locked is never brought ahead.
        let ahead = if couriers == 0 { 0 } else { ahead };
        let pinned = if pin { 200_000 } else { 0 };
        let setup = |hold| Setup { slots, order, miss, pinned, couriers, hold, ..Setup::default() };
        let mut file = Session::new(&setup(Hold::NEVER));
        let mut held = Session::with_faults(&setup(hold(region, share * 700_000)), Faults { lock: refused, ..Faults::default() });
        for s in [&mut file, &mut held] {
            s.experts.set_ahead(Some(ahead));
        }
        for (act, more) in acts {
            wait(&mut held, more);
            let (a, b) = (file.act(&act).unwrap(), held.act(&act).unwrap());
            prop_assert_eq!(a, b, "{:?}", act);
            // When a copy is counted is not the session's to say.
            let record = StepRecord { bytes_uploaded: file.record.bytes_uploaded, ..held.record.clone() };
            prop_assert_eq!(&file.record, &record, "{:?}", act);
        }
        prop_assert_eq!(held.sim.violations(), Vec::<String>::new());
        held.tables_agree();
        let Session { sim, device, experts, memory, pinned, .. } = held;
        drop((device, experts, memory, pinned));
        prop_assert_eq!((sim.used(), sim.pinned_used()), (0, 0), "everything is given back");
    }

    #[test]
    fn whatever_fails_with_experts_held_a_later_step_is_right(
        nth in 0u64..60, kind in 0usize..3, order in order(), miss in miss(), couriers in 0usize..3,
        hots in prop::collection::vec((1usize..20, 0usize..EXPERTS), 4..8),
    ) {
        let mut s = Session::new(&Setup { order, miss, couriers, hold: all(), ..Setup::default() });
        wait(&mut s, usize::MAX);
        let fault = Some(nth);
        s.sim.fail(match kind {
            0 => Faults { upload: fault, ..Faults::default() },
            1 => Faults { launch: fault, ..Faults::default() },
            _ => Faults { download: fault, ..Faults::default() },
        });
        for (tokens, hot) in hots {
            // A step may fail; if it does not, its answer is right (see `step`), and so is that of the next one.
            let _ = s.device_step(tokens, hot);
        }
        s.sim.fail(Faults::default());
        s.device_step(1, 3).unwrap();
        prop_assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
    }
}

#[test]
fn what_is_locked_goes_up_from_where_it_lies_and_needs_no_staging() {
    for couriers in 0..3 {
        for (hold, in_place) in [(Hold::NEVER, false), (hold(100_000, 0), false), (all(), true)] {
            let setup = Setup { couriers, miss: MissChoice::Gpu, order: Order::Random(7), hold, ..Setup::default() };
            let mut s = Session::new(&setup);
            let held = wait(&mut s, usize::MAX);
            assert_eq!(held.is_some(), hold != Hold::NEVER);
            for (tokens, hot) in [(1, 0), (30, 5), (1, 9), (4, 12), (1, 0)] {
                s.device_step(tokens, hot).unwrap();
            }
            assert_eq!(s.sim.uploads_in_place() > 0, in_place, "{couriers} couriers, {hold:?}");
            assert_eq!(s.sim.violations(), Vec::<String>::new());
            if in_place {
                let held = held.unwrap();
                assert!(held.bytes == held.of && held.locked == held.of, "{held}");
            }
        }
    }
}

#[test]
fn without_room_nothing_is_copied_and_with_just_enough_everything_is() {
    let layouts: Vec<Layout> = store().layers.iter().map(Layout::of).collect();
    let taken = taken(&pieces(&layouts, EXPERTS, 100_000));
    for (room, copied) in [(0, false), (taken - 1, false), (taken, true)] {
        let mut s = Session::new(&Setup { hold: Hold { room, ..all() }, ..Setup::default() });
        let before = s.sim.pinned_used();
        assert_eq!(wait(&mut s, usize::MAX).is_some_and(|h| h.bytes > 0), copied);
        s.device_step(1, 0).unwrap();
        assert_eq!(s.sim.pinned_used() > before || s.sim.uploads_in_place() > 0, copied);
    }
}

#[test]
fn locking_ends_with_its_share_or_a_refusal_and_the_rest_is_held_all_the_same() {
    for (share, refused) in [(500_000, None), (u64::MAX, Some(2)), (u64::MAX, Some(0))] {
        let setup = Setup { couriers: 1, hold: hold(100_000, share), ..Setup::default() };
        let mut s = Session::with_faults(&setup, Faults { lock: refused, ..Faults::default() });
        let held = wait(&mut s, usize::MAX).unwrap();
        assert_eq!(held.bytes, held.of);
        assert!(held.locked < held.bytes && held.locked <= share && (held.locked == 0) == (refused == Some(0)), "{held:?}");
        for hot in 0..8 {
            s.device_step(1, hot).unwrap();
        }
        assert_eq!(s.sim.violations(), Vec::<String>::new());
    }
}

#[test]
fn regions_come_at_step_boundaries_and_the_gauges_follow() {
    let mut s = Session::new(&Setup { hold: all(), ..Setup::default() });
    let first = wait(&mut s, 1).unwrap();
    assert!(first.bytes > 0 && first.bytes < first.of && first.locked == first.bytes, "{first:?}");
    let second = wait(&mut s, 1).unwrap();
    assert!(second.bytes > first.bytes);
    let held = s.experts.hold_all().unwrap();
    assert_eq!((held.bytes, held.locked), (first.of, first.of));
    assert_eq!(held.to_string(), "experts held in 0.0 GiB of huge pages, page-locked");
    assert_eq!(s.experts.hold_all(), Some(held), "asking again does not wait");
}

#[test]
fn coming_ahead_is_usual_once_everything_is_locked_and_only_then() {
    for couriers in 0..2 {
        let mut s = Session::new(&Setup { couriers, slots: 5, hold: all(), ..Setup::default() });
        s.experts.set_ahead(None);
        assert_eq!(s.experts.scheduler().admission().ahead, 0);
        s.experts.hold_all().unwrap();
        assert_eq!(s.experts.scheduler().admission().ahead, 1);
        assert!(s.experts.rescheduled() && !s.experts.rescheduled(), "told once");
        let (mut came, mut asked) = (0, 0);
        for token in (0..8).flat_map(|_| 0..5) {
            s.rng = fastrand::Rng::with_seed(token);
            s.step(1, token as usize * 5).unwrap();
            let (c, a) = s.record.ahead_and_asked();
            (came, asked) = (came + c, asked + a);
        }
        assert!(asked > 20 && asked * 2 > came, "{asked} of {came}");
        assert_eq!(s.sim.violations(), Vec::<String>::new());
        s.tables_agree();
        s.experts.set_ahead(Some(0));
        assert_eq!(s.experts.scheduler().admission().ahead, 0, "who says none gets none");
    }
}

#[test]
fn a_tier_that_measures_finds_that_nothing_needs_filling() {
    let sim = crate::gpu::simulated::Simulated::new(crate::gpu::simulated::Options { order: Order::Late, ..Default::default() });
    let device: Arc<dyn Device> = Arc::new(sim.clone());
    for (lock, fills) in [(u64::MAX, false), (0, true)] {
        let options = VramOptions {
            miss: MissChoice::Auto,
            pinned: 1 << 20,
            reserve: 0,
            rows: 40,
            couriers: 1,
            hold: hold(100_000, lock),
            answers: crate::events::When::Never,
        };
        let mut tier = VramTier::new(device.clone(), store(), 4, Pool::new(1), options).unwrap();
        let before = tier.rates;
        assert!(before.fill.is_finite());
        tier.await_held(usize::MAX);
        let rates = tier.rates;
        assert_eq!(rates.fill.is_finite(), fills, "{rates:?}");
        assert!(rates.link > 0.0 && rates.link.is_finite() && rates.host > 0.0 && rates != before, "{rates:?}");
        assert_eq!(tier.held.all_locked(), !fills);
    }
    assert_eq!((sim.used(), sim.pinned_used(), sim.violations()), (0, 0, Vec::new()));
}

#[test]
fn a_tier_that_goes_in_the_middle_of_copying_ends_the_thread_and_frees_all() {
    let start = Instant::now();
    for waited in [0, 1, 3] {
        let mut s = Session::new(&Setup { hold: hold(1, u64::MAX), ..Setup::default() });
        wait(&mut s, waited);
        let Session { sim, device, experts, memory, pinned, .. } = s;
        drop((device, experts, memory, pinned));
        assert_eq!((sim.used(), sim.pinned_used()), (0, 0));
    }
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}
