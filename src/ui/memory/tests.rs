use super::*;
use crate::events::{DeviceGauges, Gauges};
use crate::ui::experts_state::stream::Stream;
use crate::ui::experts_state::tests::any_record;
use crate::ui::memory_state::auto::{Auto, Target, View};
use crate::ui::palette::ColorDepth;
use crate::ui::panes::SlotKnob;
use proptest::prelude::*;

/// The panes' insides on terminals of 80x24 (at rest and in focus), 120x32 and 200x60.
const INSIDES: [(u16, u16); 4] = [(78, 7), (78, 11), (54, 11), (88, 18)];

struct Session {
    stream: Stream,
    state: MemoryState,
    knob: SlotKnob,
}

impl Session {
    fn new() -> Self {
        let stream = Stream::new(48, 128, 8, 40, 3);
        let state = MemoryState::open(&stream.card());
        Self { stream, state, knob: SlotKnob::at(40) }
    }

    fn tokens(&mut self, n: usize) {
        (0..n).for_each(|_| self.state.apply(&self.stream.token()));
    }

    fn drawn(&self, theme: &Theme, (width, height): (u16, u16), dropped: u64) -> Buffer {
        let card = self.stream.card();
        let mut buf = Buffer::empty(Rect::new(0, 0, width, height));
        let context = PaneContext { card: Some(&card), slots: &self.knob, dropped, generating: true, focused: false, ascii: theme.ascii };
        draw(buf.area, &mut buf, &self.state, &context, theme);
        buf
    }

    fn text(&self, theme: &Theme, size: (u16, u16), dropped: u64) -> String {
        text(&self.drawn(theme, size, dropped))
    }
}

fn text(buf: &Buffer) -> String {
    let row = |y| (0..buf.area.width).map(|x| buf[(x, y)].symbol()).collect::<String>();
    (0..buf.area.height).map(|y| format!("{}|\n", row(y).trim_end())).collect()
}

fn mono() -> Theme {
    Theme::built_in("mono", ColorDepth::Mono, false)
}

#[test]
fn a_dense_model_shows_speed_and_no_slots() {
    let session = session();
    let mut card = session.stream.card();
    (card.layers, card.experts) = (0, 0);
    let mut buf = Buffer::empty(Rect::new(0, 0, 54, 14));
    let context = PaneContext { card: Some(&card), slots: &session.knob, dropped: 0, generating: true, focused: false, ascii: false };
    draw(buf.area, &mut buf, &session.state, &context, &mono());
    let text = text(&buf);
    assert!(
        text.contains("a dense model") && text.contains("tok/s") && !text.contains("per layer") && !text.contains("no further"),
        "{text}"
    );
}

/// A prompt, 100 tokens at 40 slots, 100 more at 48.
fn session() -> Session {
    let mut session = Session::new();
    session.state.apply(&session.stream.prompt(24));
    session.tokens(100);
    session.stream.resize(48);
    session.knob = SlotKnob { refused: Some(64), why: Some("memory would fall below the reserve".into()), ..SlotKnob::at(48) };
    session.tokens(100);
    session.state.gauges(&session.stream.gauges());
    session
}

#[test]
fn tokens_that_are_read_along_are_told_with_what_they_bring() {
    let mut session = Session::new();
    session.tokens(40);
    assert!(!session.text(&mono(), (88, 24), 0).contains("drafts"), "nothing is drafted");
    (0..40).for_each(|_| session.state.apply(&session.stream.drafted()));
    for (size, shown) in [
        ((88, 18), "drafts        2.25 tok/step 66.7% right"),
        ((54, 30), "drafts        2.25 tok/step 66.7% right"),
        ((78, 40), "drafts        2.25 tok/step 66.7% right of 1.9 read along"),
    ] {
        let text = session.text(&mono(), size, 0);
        assert!(text.contains(shown), "{text}");
    }
}

#[test]
fn a_device_shows_its_memory_and_what_goes_up() {
    let mut session = session();
    let device = DeviceGauges { used: 6 << 30, memory: 8 << 30, sent_rate: 900 << 20, queued: 3, ..DeviceGauges::default() };
    session.state.gauges(&Gauges { device: Some(device), ..session.stream.gauges() });
    for size in [(88, 24), (54, 48)] {
        let text = session.text(&mono(), size, 0);
        assert!(text.contains("VRAM      6.00 GiB of 8.00 GiB") && text.contains("to GPU     900 MiB/s 3 queued"), "{text}");
    }
    let device = DeviceGauges { busy: Some(87), received_rate: Some(1200 << 20), ..device };
    session.state.gauges(&Gauges { device: Some(device), ..session.stream.gauges() });
    let text = session.text(&mono(), (54, 48), 0);
    assert!(text.contains("of 8.00 GiB, 87 % busy") && text.contains("3 queued, bus 1.17 GiB/s"), "{text}");
    assert!(!text.contains("held"), "read from the file");
    for (held, locked, shown) in [
        (3 << 30, 3 << 30, "held      3.00 GiB of 20.0 GiB page-locked"),
        (20 << 30, 15 << 30, "held      20.0 GiB, 15.0 GiB page-locked"),
        (20 << 30, 20 << 30, "held      20.0 GiB page-locked"),
        (20 << 30, 0, "held      20.0 GiB in huge pages"),
    ] {
        let device = DeviceGauges { held, locked, to_hold: 20 << 30, ..device };
        session.state.gauges(&Gauges { device: Some(device), ..session.stream.gauges() });
        let text = session.text(&mono(), (54, 48), 0);
        assert!(text.contains(shown), "{text}");
    }
    assert!(!self::session().text(&mono(), (88, 24), 0).contains("VRAM"), "nothing of the kind on the CPU");
}

#[test]
fn a_session_at_every_pane_size() {
    let session = session();
    for (name, theme) in [
        ("dark", Theme::built_in("dark", ColorDepth::Indexed256, false)),
        ("mono", mono()),
        ("ascii", Theme::built_in("dark", ColorDepth::Mono, true)),
    ] {
        for size in INSIDES.into_iter().chain([(120, 40), (50, 40)]) {
            let text = session.text(&theme, size, 0);
            assert_eq!(name == "ascii", text.is_ascii(), "{text}");
            insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), text);
        }
    }
}

#[test]
fn before_the_first_token_nothing_is_made_up() {
    let text = Session::new().text(&mono(), (78, 30), 0);
    insta::assert_snapshot!("fresh", text);
    assert!(text.contains("learning") && !text.contains('≈'), "{text}");
}

#[test]
fn what_was_asked_and_what_was_granted_stand_side_by_side_with_the_reason() {
    let text = session().text(&mono(), (54, 11), 0);
    assert!(text.contains("asked 64, got 48") && text.contains("below the reserve"), "{text}");
}

#[test]
fn a_granted_slot_count_shows_before_the_next_token() {
    let mut session = Session::new();
    session.tokens(40);
    session.knob = SlotKnob::at(44);
    let text = session.text(&mono(), (54, 11), 0);
    assert!(text.contains("44 of 128 per layer") && text.contains("→ 45") && text.contains("→ 36"), "{text}");
    // So does the curve's marker, small and large; what was measured at the count before is not shown at this one.
    assert!(text.contains("▴44"), "{text}");
    let large = session.text(&mono(), (88, 40), 0);
    let axis = large.lines().find(|l| l.contains("128 slots")).unwrap();
    assert!(axis.contains(" 44 ") && !axis.contains("40"), "{large}");
    assert_eq!(large.matches('◆').count(), 1, "in the head alone: {large}");
}

#[test]
fn the_page_of_reasons_has_regret_misses_and_estimates_at_every_size() {
    let mut session = session();
    assert!(on_key(&mut session.state, KeyEvent::from(KeyCode::Char('v'))));
    for size in INSIDES {
        let text = session.text(&mono(), size, 0);
        let words = if size.1 > 7 { &["best", "LRU", "chance", "verdict", "first", "regret", "forecast"][..] } else { &["verdict"] };
        for word in words {
            assert!(text.contains(word), "{word} is missing at {size:?}\n{text}");
        }
        insta::assert_snapshot!(format!("why_{}x{}", size.0, size.1), text);
    }
    assert!(on_key(&mut session.state, KeyEvent::from(KeyCode::Char('v'))));
    assert!(session.text(&mono(), (54, 11), 0).contains("tok/s"));
}

#[test]
fn a_change_that_is_under_way_is_not_called_refused() {
    let mut session = Session::new();
    session.tokens(40);
    session.knob = SlotKnob { asked: 48, ..SlotKnob::at(40) };
    let text = session.text(&mono(), (54, 11), 0);
    assert!(text.contains("turning to 48") && !text.contains("got"), "{text}");
}

#[test]
fn the_automatic_knob_says_what_it_holds_and_why() {
    let mut session = session();
    let mut auto = Auto::new(Target::Bytes(7 << 30));
    let (curve, card) = (session.state.curve(), session.stream.card());
    let (now, step) = (48, card.plan.slot_step);
    let view = View { tokens: 200, curve: &curve, now, least: 8, most: 128, slot_step: step, available: None };
    assert_eq!(auto.look(&view), Some(51));
    session.knob = SlotKnob { auto: Some(auto), ..SlotKnob::at(48) };
    for size in INSIDES {
        let text = session.text(&mono(), size, 0);
        assert!(text.contains("auto: 7.00 GiB") && text.contains("7.00 GiB holds 51 of 140 MiB each"), "{text}");
    }
    insta::assert_snapshot!("auto_54x11", session.text(&mono(), (54, 11), 0));
}

#[test]
fn the_small_panes_show_the_curve_too_with_the_present_count_under_its_bar() {
    let session = session();
    for size in [(54, 11), (78, 11)] {
        let text = session.text(&mono(), size, 0);
        let line = |start: &str| text.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("no {start} in\n{text}"));
        let (bars, axis) = (line("curve"), line("≈ LRU"));
        assert!(bars.contains('▃') && bars.ends_with("█|"), "{text}");
        assert!(axis.contains("▴48") && axis.contains("128 slots"), "{text}");
    }
}

#[test]
fn lost_records_are_counted_on_the_screen() {
    let session = session();
    let text = session.text(&mono(), (54, 11), 7);
    assert!(text.contains("7 records lost"), "{text}");
    assert!(!session.text(&mono(), (54, 11), 0).contains("lost"));
}

#[test]
fn nothing_moves_sideways_while_the_model_talks() {
    let mut session = Session::new();
    session.tokens(70);
    // Where labels and units stand: digits, signs and spaces are allowed to change, letters are not.
    let frame = |session: &Session| {
        let rows: Vec<Vec<(usize, char)>> = session
            .text(&mono(), (54, 8), 0)
            .lines()
            .map(|l| l.chars().enumerate().filter(|(_, c)| c.is_alphabetic() && !"THMUS".contains(*c)).collect())
            .collect();
        rows
    };
    let first = frame(&session);
    for _ in 0..40 {
        session.tokens(1);
        assert_eq!(frame(&session), first);
    }
}

#[test]
fn the_curve_marks_the_present_slot_count() {
    let session = session();
    let theme = Theme::built_in("dark", ColorDepth::Mono, true);
    let text = session.text(&theme, (50, 40), 0);
    let axis = text.lines().find(|l| l.contains("128 slots")).expect("an axis");
    let point = text.lines().find(|l| l.contains('O') && l.contains('*')).expect("a point on the curve");
    let (at, label) = (point.find('O').unwrap(), axis.find("48").unwrap());
    assert_eq!(at, label, "\n{point}\n{axis}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_state_draws_in_any_rectangle_and_stays_inside(
        records in prop::collection::vec(any_record(), 0..40),
        size in prop_oneof![(1u16..6, 1u16..6), (1u16..220, 1u16..70)],
        ascii in any::<bool>(),
        gauges in any::<bool>(),
        asked in any::<u16>(),
    ) {
        let stream = Stream::new(3, 16, 4, 6, 1);
        let card = stream.card();
        let mut state = MemoryState::open(&card);
        records.iter().for_each(|r| state.apply(r));
        if gauges { state.gauges(&stream.gauges()); }
        let theme = Theme::built_in("dark", ColorDepth::Indexed256, ascii);
        let knob = SlotKnob { asked: asked.into(), refused: Some(9), why: Some("\u{1b}[2Jno".into()), ..SlotKnob::at(6) };
        let context = PaneContext { card: Some(&card), slots: &knob, dropped: 3, generating: false, focused: true, ascii };
        let inside = Rect::new(2, 2, size.0, size.1);
        let mut buf = Buffer::empty(Rect::new(0, 0, size.0 + 4, size.1 + 4));
        let untouched = buf[(0, 0)].clone();
        draw(inside, &mut buf, &state, &context, &theme);
        for y in 0..buf.area.height {
            for x in 0..buf.area.width {
                let cell = &buf[(x, y)];
                prop_assert!(!cell.symbol().contains(char::is_control), "a control character");
                if !inside.contains((x, y).into()) {
                    prop_assert_eq!(cell, &untouched, "at {},{}", x, y);
                }
            }
        }
    }
}
