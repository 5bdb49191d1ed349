use super::bytes::{crc32, put};
use super::*;
use crate::events::{
    Ahead, Eviction, FinishReason, Foreseen, Outcome, Phase, RoutedExpert, Scheduling, StepRecord, StepTime, TextKind, TurnStats, NO_SLOT,
};
use crate::trace::routes::RoutesHead;
use proptest::prelude::*;

fn record(step: u64, seed: u64) -> StepRecord {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut r = StepRecord {
        step,
        phase: if step == 0 { Phase::Prefill } else { Phase::Decode },
        tokens: 1,
        position: step as u32,
        chosen: (step > 0).then_some(7),
        slots: 3,
        bytes_uploaded: rng.u64(..),
        bytes_missed: 1 << 40,
        context_used: 9,
        time: StepTime { total_us: 1000, trunk_us: 300, ..StepTime::default() },
        slot_of: (0..2 * 16).map(|_| if rng.u8(0..4) == 0 { rng.u16(0..3) } else { NO_SLOT }).collect(),
        ..StepRecord::default()
    };
    for _ in 0..2 {
        for _ in 0..rng.usize(0..4) {
            let outcome = [Outcome::Hit, Outcome::Miss, Outcome::Admitted][rng.usize(0..3)];
            r.routed.push(RoutedExpert { expert: rng.u16(0..16), tokens: rng.u16(1..), weight: 0.25, outcome });
        }
        r.ends.push(r.routed.len() as u32);
    }
    r.drafted = rng.u16(0..9).min((r.tokens - 1) as u16);
    r.kept = rng.u16(0..9).min(r.drafted);
    r.evicted.push(Eviction { layer: 1, expert: 15 });
    r.ahead.push(Ahead { layer: 1, expert: 3 });
    // As it is told, and in no order at all.
    for _ in 0..rng.usize(0..3) {
        let (lead, mut expert) = (rng.u8(1..=2), 0);
        for _ in 0..rng.usize(1..6) {
            expert = if rng.u8(0..8) == 0 { rng.u16(..) } else { rng.u16(expert..=expert.saturating_add(20)) };
            r.foreseen.push(Foreseen { layer: rng.u16(..), lead, expert, likely: rng.u8(..) });
        }
        let layer = rng.u16(0..40);
        r.foreseen.extend((0..rng.u16(0..4)).map(|expert| Foreseen { layer, lead, expert, likely: rng.u8(..) }));
    }
    r
}

/// A session of one frame with this payload; and the payload of the frame that a step is written as.
fn one_frame(kind: u8, payload: &[u8]) -> Session {
    let mut w = Writer::new(Vec::new()).unwrap();
    w.begin(kind);
    w.frame.extend_from_slice(payload);
    w.end().unwrap();
    Session::from_bytes(w.finish().unwrap()).unwrap()
}

fn payload(r: &StepRecord) -> Vec<u8> {
    let mut w = Writer::new(Vec::new()).unwrap();
    w.step(0, r).unwrap();
    w.frame[5..w.frame.len() - 4].to_vec()
}

fn session(steps: u64) -> Vec<Timed> {
    let mut entries = vec![Timed { at: 0, entry: Entry::Question(Question { id: 1, text: "why?".into() }) }];
    for i in 0..steps {
        entries.push(Timed { at: 10 + i * 300, entry: Entry::Step(Box::new(record(i, i))) });
        let text = Event::Text { id: 1, text: "wörd ".into(), kind: TextKind::Answer, step: i };
        entries.push(Timed { at: 20 + i * 300, entry: Entry::Event(text) });
    }
    let end = Event::Finished { id: 1, reason: FinishReason::Stop, stats: TurnStats::default() };
    entries.push(Timed { at: 1 << 35, entry: Entry::Event(end) });
    entries
}

fn write(entries: &[Timed]) -> Vec<u8> {
    let mut w = Writer::new(Vec::new()).unwrap();
    entries.iter().for_each(|e| w.entry(e).unwrap());
    w.finish().unwrap()
}

fn all(session: &mut Session) -> Vec<Timed> {
    (0..session.len()).map(|i| session.get(i).unwrap()).collect()
}

#[test]
fn a_session_reads_back_as_it_was_written() {
    let entries = session(200);
    let mut read = Session::from_bytes(write(&entries)).unwrap();
    assert_eq!(read.ending(), Ending::Whole);
    assert_eq!(all(&mut read), entries);
}

#[test]
fn entries_can_be_read_in_any_order() {
    let entries = session(200);
    let mut read = Session::from_bytes(write(&entries)).unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..400 {
        let i = rng.usize(0..entries.len());
        assert_eq!(read.get(i).as_ref(), Some(&entries[i]));
    }
}

/// Where each frame of a whole file ends, from its bytes alone.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut at = HEADER;
    std::iter::from_fn(|| {
        let length = bytes.get(at + 1..at + 5)?;
        at += FRAME + u32::from_le_bytes(length.try_into().unwrap()) as usize;
        Some(at)
    })
    .collect()
}

#[test]
fn a_file_cut_at_any_byte_reads_exactly_the_entries_that_are_whole() {
    // More than one key frame.
    let entries = session(70);
    let whole = write(&entries);
    let ends = frame_ends(&whole);
    assert_eq!((ends.len(), ends.last()), (entries.len() + 1, Some(&whole.len())));
    for length in 0..whole.len() {
        let cut = whole[..length].to_vec();
        if length < HEADER {
            assert!(matches!(Session::from_bytes(cut), Err(SessionError::NotASession | SessionError::Empty(_))), "{length}");
            continue;
        }
        let mut read = Session::from_bytes(cut).unwrap();
        let sound = ends.iter().take_while(|&&end| end <= length).count();
        let start = if sound == 0 { HEADER } else { ends[sound - 1] };
        assert_eq!((read.ending(), read.len()), (Ending::Cut { at: start }, sound), "cut at {length}");
        // All of them at a border, the last one elsewhere.
        let from = if length == start { 0 } else { sound.saturating_sub(1) };
        for (i, entry) in entries.iter().enumerate().take(sound).skip(from) {
            assert_eq!(read.get(i).as_ref(), Some(entry), "cut at {length}");
        }
    }
}

#[test]
fn other_files_and_versions_are_refused() {
    let mut bytes = write(&[]);
    bytes[8] = 9;
    assert!(matches!(Session::from_bytes(bytes), Err(SessionError::Version(9))));
    assert!(matches!(Session::from_bytes(b"GGUF............".to_vec()), Err(SessionError::NotASession)));
}

#[test]
fn a_session_names_its_policy_and_the_rest_is_read_whatever_that_says() {
    let told = Scheduling { policy: "lru".into(), slots: 9, ..Scheduling::default() };
    let mut entries = vec![Timed { at: 0, entry: Entry::Event(Event::Scheduling(told.clone())) }];
    entries.extend(session(20));
    let mut read = Session::from_bytes(write(&entries)).unwrap();
    assert_eq!((read.ending(), all(&mut read) == entries, read.scheduling()), (Ending::Whole, true, Some(told)));
    for odd in [r#"{"policy":5}"#, r#"{"slots":-1}"#, r#"{"slots":1e99}"#, r#"{"margin":"much"}"#, "[]x", "", "\u{0}\x1b[2J"] {
        let mut w = Writer::new(Vec::new()).unwrap();
        w.begin(SCHEDULING);
        put(&mut w.frame, 0);
        w.frame.extend_from_slice(odd.as_bytes());
        w.end().unwrap();
        session(20).iter().for_each(|e| w.entry(e).unwrap());
        let mut read = Session::from_bytes(w.finish().unwrap()).unwrap();
        assert_eq!((read.ending(), read.len()), (Ending::Whole, session(20).len() + 1), "{odd}");
        assert!(read.scheduling().unwrap().unread.is_some(), "{odd}");
    }
}

#[test]
fn a_reader_of_before_passes_over_the_policy() {
    // Its kind is none of those that such a reader knows: the frames beside it are as they were.
    let with = {
        let mut entries = vec![Timed { at: 0, entry: Entry::Event(Event::Scheduling(Scheduling::default())) }];
        entries.extend(session(9));
        write(&entries)
    };
    let ends = frame_ends(&with);
    assert!(with[HEADER] > QUESTION);
    assert_eq!([&with[..HEADER], &with[ends[0]..]].concat(), write(&session(9)));
}

#[test]
fn steps_end_where_older_writers_end_them_and_what_later_ones_add_is_passed_over() {
    let plain = StepRecord { foreseen: Vec::new(), drafted: 0, kept: 0, ..record(1, 1) };
    let bytes = payload(&plain);
    let read = |bytes: &[u8]| one_frame(STEP, bytes).get(0).map(|t| t.entry);
    let whole = Some(Entry::Step(Box::new(plain.clone())));
    // Without what was read along; without that and what was foreseen; without those and what came ahead (one expert); with something more.
    assert_eq!(read(&bytes[..bytes.len() - 2]), whole);
    assert_eq!(read(&bytes[..bytes.len() - 3]), whole);
    let before = StepRecord { ahead: Vec::new(), ..plain };
    assert_eq!(read(&bytes[..bytes.len() - 6]), Some(Entry::Step(Box::new(before))));
    assert_eq!(read(&[&bytes[..], &[3, 1, 2]].concat()), whole);
}

#[test]
fn more_tokens_than_were_read_can_not_have_been_read_along_nor_kept() {
    let plain = StepRecord { tokens: 4, ..StepRecord::default() };
    let bytes = payload(&plain);
    let read = |drafted: u8, kept: u8| match one_frame(STEP, &[&bytes[..bytes.len() - 2], &[drafted, kept]].concat()).get(0).unwrap().entry
    {
        Entry::Step(r) => (r.drafted, r.kept),
        other => panic!("{other:?}"),
    };
    assert_eq!([read(3, 2), read(3, 9), read(90, 5), read(0, 1)], [(3, 2), (3, 3), (3, 3), (0, 0)]);
}

#[test]
fn what_was_foreseen_is_checked_before_it_is_believed() {
    let bytes = payload(&StepRecord::default());
    // Up to the groups; nothing was read along either.
    let (end, start) = (Ending::Damaged { at: HEADER }, &bytes[..bytes.len() - 3]);
    // No such distance; no expert beyond 65,535; more groups, or experts, than there are bytes; cut.
    let id = [0xff, 0xff, 0x03];
    let beyond = [&[1, 5, 2][..], &id, &[9, 1, 9]].concat();
    for odd in [&[1, 4, 1, 0, 9][..], &[1, 7, 1, 0, 9], &beyond, &[0x7f, 5, 1, 0, 9], &[1, 5, 0x7f, 0, 9], &[1, 5, 1, 0]] {
        assert_eq!(one_frame(STEP, &[start, odd].concat()).ending(), end, "{odd:?}");
    }
    let mut sound = one_frame(STEP, &[start, &[2, 5, 1], &id, &[9, 6, 0]].concat());
    let Entry::Step(read) = sound.get(0).unwrap().entry else { panic!("a step") };
    assert_eq!(read.foreseen, [Foreseen { layer: 1, lead: 1, expert: u16::MAX, likely: 9 }]);
}

/// `docs/trace-format.md` names it.
#[test]
fn what_is_foreseen_of_a_token_takes_less_than_two_kilobytes() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut r = StepRecord::default();
    let without = payload(&r).len();
    for at in 0..40 {
        for lead in (1..=2).filter(|lead| at + lead < 40) {
            let mut ids = rng.choose_multiple(0..256, 10);
            ids.sort_unstable();
            r.foreseen.extend(ids.iter().map(|&expert| Foreseen { layer: at + lead, lead: lead as u8, expert, likely: rng.u8(13..) }));
        }
    }
    let bytes = payload(&r).len() - without;
    println!("{bytes} bytes for {} experts", r.foreseen.len());
    assert!((1700..1900).contains(&bytes), "{bytes}");
}

#[test]
fn the_sum_is_the_common_crc_32() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}

proptest! {
    #[test]
    fn damage_never_changes_what_comes_before_it(at in 0usize..5000, flip in 1u8..) {
        let entries = session(8);
        let mut bytes = write(&entries);
        let at = HEADER + at % (bytes.len() - HEADER);
        bytes[at] ^= flip;
        let mut read = Session::from_bytes(bytes).unwrap();
        prop_assert_ne!(read.ending(), Ending::Whole);
        let got = all(&mut read);
        prop_assert_eq!(&got[..], &entries[..got.len()]);
    }

    /// Sums that fit, contents that don't: what a hostile file would hold.
    #[test]
    fn no_payload_makes_it_panic(kind in 0u8..6, payload in prop::collection::vec(any::<u8>(), 0..300), repeat in 1usize..3) {
        let mut w = Writer::new(Vec::new()).unwrap();
        for _ in 0..repeat {
            w.begin(kind);
            w.frame.extend_from_slice(&payload);
            w.end().unwrap();
        }
        let mut read = Session::from_bytes(w.finish().unwrap()).unwrap();
        let _ = (read.card(), read.routes(), all(&mut read));
    }
}

#[test]
fn routing_says_how_slots_were_given_for_most_tokens() {
    let told = |ahead| Scheduling { policy: "rotary".into(), ahead: Some(ahead), ..Scheduling::default() };
    let says = |at: usize, ahead| (at, Timed { at: 0, entry: Entry::Event(Event::Scheduling(told(ahead))) });
    let card = crate::trace::player::card_of(&RoutesHead { layers: 1, experts: 4, ..RoutesHead::default() }, 0);
    let of = |later: usize| {
        let mut entries = session(20);
        // Behind the question: the model, two steps with their texts, and so on.
        let (later, change) = says(later, 1);
        entries.insert(later, change);
        entries.insert(1, Timed { at: 0, entry: Entry::Event(Event::Ready { card: Box::new(card.clone()) }) });
        entries.insert(1, says(1, 0).1);
        Session::from_bytes(write(&entries)).unwrap().routes().unwrap().head.scheduling.unwrap().ahead
    };
    assert_eq!((of(5), of(37)), (Some(1), Some(0)));
}

#[test]
fn layers_keep_the_numbers_of_the_model_in_a_session_of_routing_alone() {
    let mut card = crate::trace::player::card_of(&RoutesHead { layers: 2, experts: 16, top_k: 4, ..RoutesHead::default() }, 0);
    card.plan.slot_bytes.iter_mut().for_each(|slot| slot.layer += 3);
    let mut entries = session(4);
    entries.insert(0, Timed { at: 0, entry: Entry::Event(Event::Ready { card: Box::new(card) }) });
    let routes = Session::from_bytes(write(&entries)).unwrap().routes().unwrap();
    assert_eq!([0, 1].map(|layer| routes.head.blocks.of(layer)), [3, 4]);
    let again = Session::from_bytes(write_routes(Vec::new(), &routes).unwrap()).unwrap().routes().unwrap();
    assert_eq!(again.head.blocks, routes.head.blocks);
}
