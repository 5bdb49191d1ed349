use super::sources::timed;
use super::*;
use crate::events::{Outcome, Phase, RoutedExpert, Sampling, StepRecord, StepTime, TextKind, NO_SLOT};
use crate::experts::policy::Admission;
use crate::trace::open::Trace;
use crate::trace::routes::{Routes, RoutesHead, RoutesStep};
use crate::trace::second::Simulation;
use crate::trace::session::{Entry, Question, Session, Timed};
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

/// A listener that keeps all that it is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) questions: Vec<String>,
    pub(crate) events: Vec<Event>,
    pub(crate) steps: Vec<StepRecord>,
}

impl Fold for Seen {
    fn question(&mut self, _at: Duration, question: Question) {
        self.questions.push(question.text);
    }
    fn event(&mut self, _at: Duration, event: Event) {
        self.events.push(event);
    }
    fn step(&mut self, record: StepRecord) {
        self.steps.push(record);
    }
    fn bytes(&self) -> usize {
        // So that there is room for a few marks only.
        16 << 20
    }
}

/// The first frame for which this holds.
pub(crate) fn frame<F>(control: &PlayerControl<F>, what: impl Fn(&Status) -> bool) -> Frame<F> {
    let begin = Instant::now();
    loop {
        match control.frame() {
            Some(frame) if what(&frame.status) => return *frame,
            _ => assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", control.status()),
        }
        std::thread::yield_now();
    }
}

fn at(control: &PlayerControl<Seen>, step: usize) -> Frame<Seen> {
    frame(control, |s| s.step == step)
}

fn routes(steps: u64) -> Routes {
    let head = RoutesHead { layers: 2, experts: 8, top_k: 2, expert_bytes: vec![10, 20], ..RoutesHead::default() };
    let mut routes = Routes::new(head);
    for step in 0..steps {
        let phase = if step == 0 { Phase::Prefill } else { Phase::Decode };
        let expert = |e: u64| RoutedExpert { expert: (e % 8) as u16, tokens: 1, weight: 0.5, outcome: Outcome::Miss };
        let tick = [expert(step * step / 3), expert(step + 3)];
        routes.push(RoutesStep { turn: 0, phase, step, tokens: 1, kept: 0 }, [&tick[..], &tick[..]]);
    }
    routes
}

/// A recorded session: each step with its text, a second apart, under changing slots.
fn session(steps: u64) -> Vec<Timed> {
    let all = routes(steps);
    let capped = Admission { per_tick: 1, ..Policy::Decay.admission() };
    let mut scheduler = super::super::simulated::Simulated::new(&card_of(&all.head, 3), 3, Policy::Decay, capped);
    let mut entries = timed(card_of(&all.head, 3), std::iter::empty(), Duration::ZERO);
    let named = crate::trace::scheduling::told(Policy::Decay, capped, 3);
    entries.insert(0, Timed { at: 0, entry: Entry::Event(Event::Scheduling(named)) });
    for i in 0..steps {
        let mut record = all.record(i as usize);
        if i == steps / 2 {
            scheduler.scheduler.resize(5);
            let event = Event::Slots { asked: 5, granted: 5, why: None };
            entries.push(Timed { at: i * 1_000_000, entry: Entry::Event(event) });
        }
        scheduler.step(&mut record);
        record.time = StepTime { total_us: 5, ..StepTime::default() };
        entries.push(Timed { at: i * 1_000_000, entry: Entry::Step(Box::new(record)) });
        let text = Event::Text { id: 1, text: format!("{i} "), kind: TextKind::Answer, step: i };
        entries.push(Timed { at: i * 1_000_000 + 1000, entry: Entry::Event(text) });
    }
    entries
}

fn fast() -> Options {
    Options { speed: f64::INFINITY, ..Options::default() }
}

fn paused() -> Options {
    Options { paused: true, ..fast() }
}

#[test]
fn routing_plays_with_simulated_occupancy() {
    let options = Options { simulate: Some((4, Policy::Lru)), ..fast() };
    let (_handle, control) = from_routes(&routes(20), options, Seen::default());
    let end = frame(&control, |s| s.ended);
    let [Event::Ready { card }] = &end.fold.events[..] else { panic!("{:?}", end.fold.events) };
    assert_eq!((card.layers, card.experts, card.plan.slots_per_layer, card.plan.slot_step), (2, 8, 4, 30));
    for record in &end.fold.steps {
        for layer in 0..2 {
            let table = &record.slot_of[layer * 8..][..8];
            assert!(table.iter().filter(|s| **s != NO_SLOT).count() <= 4);
            for r in record.layer(layer) {
                assert_eq!(r.outcome == Outcome::Miss, table[usize::from(r.expert)] == NO_SLOT);
            }
        }
    }
    assert_eq!((end.status.step, end.status.steps, end.status.simulated), (20, 20, Some((Policy::Lru, 4))));
}

#[test]
fn entries_come_as_they_were_given() {
    let entries = session(5);
    let (_handle, control) = from_entries(entries.clone(), fast(), Seen::default());
    let told = frame(&control, |s| s.ended).fold;
    let steps = entries.iter().filter_map(|e| if let Entry::Step(r) = &e.entry { Some(&**r) } else { None });
    assert!(told.steps.iter().eq(steps));
    let events = entries.iter().filter_map(|e| if let Entry::Event(e) = &e.entry { Some(e) } else { None });
    assert!(told.events.iter().eq(events));
}

#[test]
fn slots_and_policy_change_while_it_plays() {
    let (mut handle, control) = from_routes(&routes(40), paused(), Seen::default());
    control.step(5);
    assert_eq!(at(&control, 5).fold.steps[4].slots, 2);
    handle.signals.want_slots(100);
    let answer = Event::Slots { asked: 100, granted: 8, why: Some("a layer has 8 experts".into()) };
    assert_eq!(handle.events.blocking_recv(), Some(answer.clone()));
    handle.commands.send(Command::SetPolicy("lfu".into())).unwrap();
    let changed = frame(&control, |s| s.simulated == Some((Policy::Lfu, 8)));
    assert_eq!(changed.fold.events.last(), Some(&answer), "it is part of the session, too");
    control.step(1);
    assert_eq!(at(&control, 6).fold.steps[5].slots, 8);
    handle.commands.send(Command::SetPolicy("nonsense".into())).unwrap();
    assert!(matches!(handle.events.blocking_recv(), Some(Event::Failed { id: None, .. })));
}

#[test]
fn it_plays_backwards_to_the_beginning_and_stops_there() {
    let entries = session(40);
    let options = Options { speed: 400.0, paused: true, ..Options::default() };
    let (_handle, control) = from_entries(entries, options, Seen::default());
    control.seek(30);
    let there = at(&control, 30).fold;
    control.turn();
    assert!(frame(&control, |s| s.backwards).status.paused, "turning round moves nothing by itself");
    control.toggle();
    let mut last = 30;
    loop {
        let f = frame(&control, |_| true);
        assert!(f.status.step <= last, "{:?} after {last}", f.status);
        last = f.status.step;
        assert_eq!(f.fold.steps, there.steps[..last]);
        assert_eq!(f.status.backwards, !f.status.paused);
        if f.status.paused {
            break;
        }
    }
    assert_eq!(last, 0);
    control.toggle();
    let again = frame(&control, |s| s.ended);
    assert_eq!(again.fold.steps[..30], there.steps);
}

#[test]
fn both_ways_take_the_time_that_the_session_took_but_for_long_pauses() {
    // A second between steps, but for one pause that nobody wants to wait for, at two hundred times the speed.
    let mut entries = session(40);
    entries.iter_mut().skip(30).for_each(|e| e.at += 3_600_000_000);
    let options = Options { speed: 200.0, paused: true, ..Options::default() };
    let (_handle, control) = from_entries(entries, options, Seen::default());
    let (from, begin) = (frame(&control, |_| true).status.step, Instant::now());
    control.toggle();
    frame(&control, |s| s.ended);
    let forwards = begin.elapsed();
    let begin = Instant::now();
    control.turn();
    frame(&control, |s| s.step == from && s.paused);
    let backwards = begin.elapsed();
    // 39 seconds of steps and two of the pause, which alone would take 18 seconds. A busy machine makes it longer, nothing makes it shorter.
    for took in [forwards, backwards] {
        assert!(took > Duration::from_millis(150) && took < Duration::from_secs(17), "{forwards:?} {backwards:?}");
    }
}

#[test]
fn a_question_to_a_replay_is_answered_with_a_failure() {
    let (mut handle, _control) = from_routes(&routes(2), paused(), Seen::default());
    handle.commands.send(Command::Complete { id: 7, prompt: "x".into(), sampling: Sampling::default() }).unwrap();
    assert!(matches!(handle.events.blocking_recv(), Some(Event::Failed { id: Some(7), .. })));
    assert!(matches!(handle.events.blocking_recv(), Some(Event::Finished { id: 7, reason: FinishReason::Failed, .. })));
}

#[test]
fn the_thread_ends_with_its_listener_or_by_command() {
    let (mut handle, control) = from_routes(&routes(2), paused(), Seen::default());
    handle.commands.send(Command::Shutdown).unwrap();
    while handle.events.blocking_recv().is_some() {}
    let (handle, other) = from_routes(&routes(2), paused(), Seen::default());
    drop(handle);
    let begin = Instant::now();
    while Arc::strong_count(&control.shared) > 1 || Arc::strong_count(&other.shared) > 1 {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

#[test]
fn a_session_that_begins_late_shows_its_card_even_in_pause() {
    let mut entries = session(3);
    entries.iter_mut().for_each(|e| e.at += 60_000_000);
    let (_handle, control) = from_entries(entries, Options { speed: 1.0, ..paused() }, Seen::default());
    assert!(matches!(frame(&control, |_| true).fold.events[..], [_, Event::Ready { .. }]));
}

#[test]
fn a_recorded_session_is_simulated_once_slots_are_changed_and_recorded_before_that() {
    let (mut handle, control) = from_entries(session(10), paused(), Seen::default());
    control.step(4);
    let before = at(&control, 4).fold;
    assert!(before.steps.iter().all(|r| r.time.total_us == 5), "as recorded");
    handle.signals.want_slots(6);
    assert!(matches!(handle.events.blocking_recv(), Some(Event::Slots { granted: 6, .. })));
    control.step(1);
    let after = at(&control, 5);
    let record = &after.fold.steps[4];
    assert_eq!((record.slots, record.slot_of.len(), record.time.total_us), (6, 16, 0));
    assert!(after.fold.events.iter().any(|e| matches!(e, Event::Notice { .. })));
    control.step(-2);
    let back = at(&control, 3);
    assert_eq!((back.status.simulated, &back.fold.steps[..]), (None, &before.steps[..3]));
    control.step(2);
    assert_eq!(at(&control, 5).fold, after.fold, "what was changed is changed again where it was");
}

#[test]
fn a_simulation_of_a_recording_goes_on_as_its_policy_did() {
    let (mut handle, control) = from_entries(session(40), paused(), Seen::default());
    control.seek(15);
    let recorded = at(&control, 15);
    assert_eq!((recorded.status.recorded, recorded.status.simulated), (Some(Policy::Decay), None));
    control.seek(19);
    let recorded = at(&control, 19).fold;
    control.seek(15);
    at(&control, 15);
    // The same count: what is simulated from here on is what was recorded.
    handle.signals.want_slots(3);
    assert!(matches!(handle.events.blocking_recv(), Some(Event::Slots { granted: 3, .. })));
    control.seek(19);
    let simulated = frame(&control, |s| s.step == 19 && s.simulated == Some((Policy::Decay, 3))).fold;
    for (a, b) in recorded.steps[15..].iter().zip(&simulated.steps[15..]) {
        assert_eq!((&a.routed, &a.slot_of), (&b.routed, &b.slot_of));
    }
}

#[test]
fn an_unknown_policy_is_told_and_the_session_is_played_all_the_same() {
    let mut entries = session(5);
    let odd = crate::events::Scheduling { policy: "clairvoyant".into(), ..Default::default() };
    entries[0].entry = Entry::Event(Event::Scheduling(odd));
    let (_handle, control) = from_entries(entries, fast(), Seen::default());
    let end = frame(&control, |s| s.ended);
    assert_eq!((end.fold.steps.len(), end.status.recorded), (5, None));
    assert!(matches!(&end.fold.events[0], Event::Notice { message } if message.contains("clairvoyant")), "{:?}", end.fold.events[0]);
}

#[test]
fn a_comparison_counts_what_the_simulation_counts_also_after_going_back() {
    let routes = routes(60);
    let simulation = Simulation { slots: Some(6), policy: Policy::Lru };
    let options = Options { simulate: Some((3, Policy::Lru)), ..paused() };
    let (_handle, control) = compare(Trace::Routes(routes.clone()), Other::Itself(simulation), options, Seen::default());
    let compared = |step: usize| {
        control.seek(step);
        at(&control, step).difference.unwrap()
    };
    let rates = |step| compared(step).rates(0..2).whole.map(Option::unwrap);
    let end = rates(60);
    let trace = crate::trace::simulate::Prepared::new(&routes);
    for (rate, slots) in end.into_iter().zip([3, 6]) {
        let want = trace.online(Policy::Lru, Policy::Lru.admission(), slots).hit_rate();
        assert!((f64::from(rate) - want).abs() < 1e-6, "{rate} {want}");
    }
    assert_eq!(compared(60).names, ["lru, 3 slots".to_owned(), "lru, 6 slots".to_owned()]);
    let before = rates(30);
    assert_ne!(before, end);
    assert_eq!(rates(60), end);
}

#[test]
fn another_session_is_walked_along_token_by_token() {
    let (a, mut b) = (routes(20), Routes::new(routes(0).head));
    // The other one has a prompt of three steps, then the same tokens.
    let prompt = [RoutedExpert { expert: 7, tokens: 1, weight: 0.5, outcome: Outcome::Miss }];
    for step in 0..3 {
        b.push(RoutesStep { turn: 0, phase: Phase::Prefill, step, tokens: 1, kept: 0 }, [&prompt[..], &prompt[..]]);
    }
    for i in 1..12 {
        b.push(a.steps()[i], (0..2).map(|l| a.tick(i, l)));
    }
    let options = Options { simulate: Some((4, Policy::Lru)), ..fast() };
    let simulation = Some(Simulation { slots: Some(4), policy: Policy::Lru });
    let other = Other::Trace(Box::new(Trace::Routes(b)), "b".into(), simulation);
    let (_handle, control) = compare(Trace::Routes(a), other, options, Seen::default());
    let d = frame(&control, |s| s.ended).difference.unwrap();
    assert!(d.ended);
    assert_eq!(d.steps(), 12, "the prompt and eleven tokens");
    assert!(d.alike().unwrap() > 0.9, "generated tokens are set against each other: {:?}", d.alike());
}

#[test]
fn records_that_do_not_fit_the_card_are_passed_over_and_counted() {
    let card = card_of(&routes(0).head, 3);
    let mut bad = routes(1).record(0);
    bad.routed[0].expert = 8;
    let entries = timed(card, [bad, routes(2).record(1)].into_iter(), Duration::ZERO);
    let (handle, control) = from_entries(entries, fast(), Seen::default());
    assert_eq!(frame(&control, |s| s.ended).fold.steps[0].step, 1);
    assert_eq!(handle.signals.dropped.load(Ordering::Relaxed), 1);
}

/// What a person may do to a player.
#[derive(Clone, Debug)]
enum Act {
    Step(i64),
    Slots(usize),
    Policy(Policy),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1i64..90).prop_map(Act::Step),
        3 => (1i64..90).prop_map(|by| Act::Step(-by)),
        1 => (1usize..8).prop_map(Act::Slots),
        1 => prop::sample::select(Policy::ALL.to_vec()).prop_map(Act::Policy),
    ]
}

const STEPS: usize = 150;

/// A paused player of a session or of routing, with or without another side.
fn player(kind: usize) -> (EngineHandle, PlayerControl<Seen>) {
    let (session, listener) = (session(STEPS as u64), Seen::default());
    let recorded = || {
        let mut writer = super::super::session::Writer::new(Vec::new()).unwrap();
        session.iter().for_each(|e| writer.entry(e).unwrap());
        Trace::Session(Box::new(Session::from_bytes(writer.finish().unwrap()).unwrap()))
    };
    let itself = Other::Itself(Simulation { slots: None, policy: Policy::Lfu });
    match kind {
        0 => from_entries(session, paused(), listener),
        1 => compare(recorded(), itself, paused(), listener),
        2 => compare(Trace::Routes(routes(STEPS as u64)), itself, paused(), listener),
        _ => compare(recorded(), Other::Trace(Box::new(recorded()), "b".into(), None), paused(), listener),
    }
}

/// Goes on or back, and waits for a frame of the player there.
fn step_to(control: &PlayerControl<Seen>, from: usize, to: usize) -> Frame<Seen> {
    // A speed that was never asked for before tells this frame from earlier ones of the same place.
    static ASKED: AtomicUsize = AtomicUsize::new(2);
    let speed = ASKED.fetch_add(1, Ordering::Relaxed) as f64;
    control.speed(speed);
    control.step(to as i64 - from as i64);
    let mut frame = frame(control, |s| s.step == to && s.speed == speed && s.paused);
    frame.status.speed = 1.0;
    frame
}

fn change((handle, control): &mut (EngineHandle, PlayerControl<Seen>), act: &Act) {
    match act {
        Act::Step(_) => {}
        Act::Slots(n) => {
            handle.signals.want_slots(*n);
            assert!(matches!(handle.events.blocking_recv(), Some(Event::Slots { .. })));
        }
        Act::Policy(policy) => {
            handle.commands.send(Command::SetPolicy(policy.name().into())).unwrap();
            frame(control, |s| s.simulated.is_some_and(|(p, _)| p == *policy));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Also across changes of slots and policy, those that were recorded and those that a person makes, and for both sides.
    #[test]
    fn going_back_shows_what_playing_to_that_place_shows(kind in 0usize..4, acts in prop::collection::vec(act(), 1..9)) {
        let mut walked = player(kind);
        let mut now = 0usize;
        // The changes that hold, by place.
        let mut held: Vec<(usize, Act)> = Vec::new();
        let mut shown = step_to(&walked.1, 0, 0);
        for act in acts {
            if let Act::Step(by) = act {
                let to = now.saturating_add_signed(by as isize).min(STEPS);
                shown = step_to(&walked.1, now, to);
                now = to;
            } else {
                held.retain(|(place, _)| *place <= now);
                change(&mut walked, &act);
                held.push((now, act));
                shown = step_to(&walked.1, now, now);
            }
        }
        let mut straight = player(kind);
        let mut at = 0;
        for (place, act) in held.iter().filter(|(place, _)| *place <= now) {
            step_to(&straight.1, at, *place);
            at = *place;
            change(&mut straight, act);
        }
        let wanted = step_to(&straight.1, at, now);
        prop_assert!(shown.fold == wanted.fold, "not the same after {} steps", now);
        prop_assert_eq!(shown.status, wanted.status);
        prop_assert_eq!(shown.difference, wanted.difference);
    }
}

#[test]
fn the_clock_stops_at_both_ends_of_the_session() {
    let end = super::moved(90.0, 1e12, 100.0, false);
    assert_eq!(super::moved(end, 1.0, 100.0, true), 99.0, "turned at the end, however long it was looked at");
    assert_eq!(super::moved(super::moved(5.0, 1e12, 100.0, true), 1.0, 100.0, false), 1.0);
}
