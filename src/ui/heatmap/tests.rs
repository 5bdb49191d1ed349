use super::*;
use crate::events::StepRecord;
use crate::ui::experts_state::stream::Stream;
use crate::ui::experts_state::tests::any_record;
use crate::ui::experts_state::Mark;
use crate::ui::palette::ColorDepth;
use crate::ui::panes::SlotKnob;
use crate::ui::routing_log::RoutingLog;
use proptest::prelude::*;
use ratatui::style::{Color, Modifier};
use std::collections::BTreeMap;
use std::fmt::Write;

mod numbers;

/// The panes' insides on terminals of 80x24 (at rest and in focus), 120x32 and 200x60.
const INSIDES: [(u16, u16, bool); 4] = [(78, 7, false), (78, 11, true), (54, 16, false), (88, 37, true)];

fn context<'a>(knob: &'a SlotKnob, focused: bool, ascii: bool) -> PaneContext<'a> {
    PaneContext { card: None, slots: knob, dropped: 0, generating: true, focused, ascii }
}

/// A session of 24 prompt tokens and 80 generated ones.
fn session(layers: usize, experts: usize, top_k: usize, slots: usize) -> ExpertsState {
    let mut stream = Stream::new(layers, experts, top_k, slots, 3);
    let mut state = ExpertsState::open(&stream.card());
    state.apply(&stream.prompt(24));
    (0..80).for_each(|_| state.apply(&stream.token()));
    state.act(HeatmapAction::Down(2));
    state.act(HeatmapAction::Right(9));
    state
}

fn drawn(state: &ExpertsState, theme: &Theme, (width, height, focused): (u16, u16, bool)) -> Buffer {
    let mut buf = Buffer::empty(Rect::new(0, 0, width, height));
    let knob = SlotKnob::default();
    draw(buf.area, &mut buf, state, &context(&knob, focused, theme.ascii), theme);
    buf
}

fn text(buf: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buf.area.height {
        let line: String = (0..buf.area.width).map(|x| buf[(x, y)].symbol()).collect();
        let _ = writeln!(text, "{}|", line.trim_end());
    }
    text
}

#[test]
fn what_came_ahead_is_told_whole_or_not_at_all() {
    use crate::events::{Ahead, Outcome, RoutedExpert, NO_SLOT};
    let mut state = ExpertsState::new(1, 4, 2);
    let routed = [(1, Outcome::Hit), (3, Outcome::Miss)].map(|(expert, outcome)| RoutedExpert { expert, tokens: 1, weight: 0.5, outcome });
    let ahead = [1, 2, 3].map(|expert| Ahead { layer: 0, expert });
    let slot_of = vec![NO_SLOT, 0, 1, 2];
    state.apply(&StepRecord { tokens: 1, ends: vec![2], routed: routed.into(), ahead: ahead.into(), slot_of, ..StepRecord::default() });
    let theme = Theme::built_in("mono", ColorDepth::Mono, false);
    assert!(text(&drawn(&state, &theme, (88, 37, true))).contains("(3 ahead, 2 asked)"));
    let narrow = text(&drawn(&state, &theme, (54, 16, false)));
    assert!(narrow.contains(" out") && !narrow.contains("ahead"), "{narrow}");
}

/// The text, and below it each cell's pair of colours as a letter, in order of appearance.
fn text_and_colors(buf: &Buffer) -> String {
    let mut keys: BTreeMap<String, char> = BTreeMap::new();
    let mut rows = String::new();
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').collect();
    for y in 0..buf.area.height {
        for x in 0..buf.area.width {
            let cell = &buf[(x, y)];
            let name = format!("{:?} on {:?}", cell.fg, cell.bg);
            let next = letters.get(keys.len()).copied().unwrap_or('?');
            rows.push(*keys.entry(name).or_insert(next));
        }
        rows.push('\n');
    }
    let mut legend: Vec<(char, String)> = keys.into_iter().map(|(k, v)| (v, k)).collect();
    legend.sort_by_key(|(c, _)| letters.iter().position(|l| l == c));
    let legend: String = legend.into_iter().map(|(c, k)| format!("{c} {k}\n")).collect();
    format!("{}{rows}{legend}", text(buf))
}

fn themes() -> [(&'static str, Theme); 3] {
    [
        ("dark", Theme::built_in("dark", ColorDepth::Indexed256, false)),
        ("mono", Theme::built_in("mono", ColorDepth::Mono, false)),
        ("ascii", Theme::built_in("dark", ColorDepth::Mono, true)),
    ]
}

#[test]
fn the_demo_shape_at_every_pane_size() {
    let state = session(6, 32, 4, 12);
    for (name, theme) in themes() {
        for size in INSIDES {
            insta::assert_snapshot!(format!("demo_{name}_{}x{}", size.0, size.1), text(&drawn(&state, &theme, size)));
        }
    }
}

#[test]
fn the_30b_shape_at_every_pane_size() {
    let state = session(48, 128, 8, 40);
    for (name, theme) in themes() {
        for size in INSIDES {
            insta::assert_snapshot!(format!("30b_{name}_{}x{}", size.0, size.1), text(&drawn(&state, &theme, size)));
        }
    }
}

#[test]
fn colours_of_the_dark_the_light_and_the_sixteen_colour_theme() {
    let state = session(6, 32, 4, 12);
    for (name, depth) in [("dark", ColorDepth::Indexed256), ("light", ColorDepth::TrueColor), ("sixteen", ColorDepth::Ansi16)] {
        let theme = Theme::built_in(name, depth, false);
        insta::assert_snapshot!(format!("colors_{name}"), text_and_colors(&drawn(&state, &theme, (54, 16, true))));
    }
}

#[test]
fn one_layer_zoomed_by_number_and_by_heat() {
    let mut state = session(48, 128, 8, 40);
    state.act(HeatmapAction::Zoom);
    let theme = Theme::built_in("mono", ColorDepth::Mono, false);
    insta::assert_snapshot!("zoom_by_number", text(&drawn(&state, &theme, (78, 11, true))));
    state.act(HeatmapAction::ToggleSort);
    insta::assert_snapshot!("zoom_by_heat", text(&drawn(&state, &theme, (78, 11, true))));
    insta::assert_snapshot!("zoom_large", text(&drawn(&state, &theme, (88, 37, true))));
}

#[test]
fn the_profile_beside_the_grid() {
    let mut state = session(6, 32, 4, 12);
    state.act(HeatmapAction::NextSide);
    let theme = Theme::built_in("mono", ColorDepth::Mono, false);
    insta::assert_snapshot!("profile", text(&drawn(&state, &theme, (88, 20, true))));
    let mut large = session(48, 128, 8, 40);
    large.act(HeatmapAction::NextSide);
    for size in INSIDES {
        let shown = text(&drawn(&large, &theme, size));
        // The heads stand under the cells, where there is a line for them.
        for head in ["hit%", "eff", "churn", "moved", "bits"].iter().filter(|_| size.1 > 11) {
            assert!(shown.contains(head), "{head} is missing at {size:?}\n{shown}");
        }
        insta::assert_snapshot!(format!("profile_30b_{}x{}", size.0, size.1), shown);
    }
}

#[test]
fn the_title_says_how_many_are_pooled_into_a_cell() {
    let state = session(48, 128, 8, 40);
    let theme = Theme::built_in("dark", ColorDepth::Indexed256, false);
    let knob = SlotKnob::default();
    let of = |w, h| title(Rect::new(0, 0, w, h), &state, &context(&knob, false, false), &theme);
    assert_eq!(of(160, 60), "LIVE · experts 48 × 128");
    assert_eq!(of(54, 16), "LIVE · experts 48 × 128, 2 × 4 per cell");
    assert_eq!(title(Rect::new(0, 0, 9, 9), &ExpertsState::default(), &context(&knob, false, false), &theme), "experts");
}

/// The same session, looked at 30 tokens ago.
fn paused(layers: usize, experts: usize, top_k: usize, slots: usize, step: u64) -> (ExpertsState, StepRecord) {
    let mut stream = Stream::new(layers, experts, top_k, slots, 3);
    let (mut state, mut log) = (ExpertsState::open(&stream.card()), RoutingLog::default());
    let mut then = StepRecord::default();
    let records: Vec<StepRecord> = std::iter::once(stream.prompt(24)).chain((0..80).map(|_| stream.token())).collect();
    for record in records.into_iter().filter(|r| r.step != 40) {
        state.apply(&record);
        log.push(&record);
        if record.step == step {
            then = record;
        }
    }
    state.act(HeatmapAction::Down(2));
    state.act(HeatmapAction::Right(9));
    (state.frozen_at(&log, Pause { token: step, of: 80, step, text: " cat".into(), lost: None }), then)
}

#[test]
fn a_token_of_the_past_at_every_pane_size() {
    let theme = Theme::built_in("mono", ColorDepth::Mono, false);
    for (name, shape) in [("demo", (6, 32, 4, 12)), ("30b", (48, 128, 8, 40))] {
        let (state, _) = paused(shape.0, shape.1, shape.2, shape.3, 51);
        for size in INSIDES {
            insta::assert_snapshot!(format!("paused_{name}_{}x{}", size.0, size.1), text(&drawn(&state, &theme, size)));
        }
    }
    let (mut state, _) = paused(6, 32, 4, 12, 51);
    state.act(HeatmapAction::Zoom);
    insta::assert_snapshot!("paused_zoom", text(&drawn(&state, &theme, (78, 11, true))));
    let ascii = Theme::built_in("dark", ColorDepth::Mono, true);
    insta::assert_snapshot!("paused_ascii", text(&drawn(&state, &ascii, (78, 11, false))));
}

#[test]
fn a_past_token_shows_what_happened_then_and_which_slots_were_held() {
    let (state, then) = paused(6, 32, 4, 12, 51);
    for layer in 0..6 {
        for expert in 0..32 {
            let facts = state.facts(layer, expert).unwrap();
            assert_eq!(facts.slot.is_some(), then.slot_of[layer * 32 + expert] != crate::events::NO_SLOT);
            let routed = then.layer(layer).iter().find(|r| usize::from(r.expert) == expert);
            let gate = state.gates(layer).find(|g| usize::from(g.0) == expert);
            assert_eq!(routed.is_some(), gate.is_some());
            if let (Some(routed), Some((_, weight, mark))) = (routed, gate) {
                assert!((routed.weight - weight).abs() < 1e-3);
                let want = match routed.outcome {
                    crate::events::Outcome::Hit => Mark::Hit,
                    crate::events::Outcome::Miss => Mark::Miss,
                    crate::events::Outcome::Admitted => Mark::Admitted,
                };
                assert_eq!((mark, facts.mark), (want, want));
            }
        }
    }
    // Heat is that of the moment: what came later does not count.
    let mut stream = Stream::new(6, 32, 4, 12, 3);
    let mut then = ExpertsState::open(&stream.card());
    then.apply(&stream.prompt(24));
    (1..=51).map(|_| stream.token()).filter(|r| r.step != 40).for_each(|r| then.apply(&r));
    assert!((0..32).all(|e| (then.heat(3, e) - state.heat(3, e)).abs() < 1e-4));
}

#[test]
fn a_step_without_a_record_is_unknown_and_no_cell_is_drawn_for_it() {
    for (step, words) in [(40, "dropped"), (200, "has not come")] {
        let (state, _) = paused(6, 32, 4, 12, step);
        for theme in themes().map(|t| t.1) {
            let shown = text(&drawn(&state, &theme, (78, 11, true)));
            assert!(shown.replace("|\n", " ").contains(words), "{shown}");
            let g = theme.glyphs();
            assert!(![g.hit, g.miss, g.admitted, g.evicted].iter().any(|sign| shown.contains(&format!(" {sign} "))), "{shown}");
        }
    }
}

/// A step in which every state occurs once: absent, resident, hit, miss, admitted, evicted.
fn every_state() -> ExpertsState {
    let mut state = ExpertsState::new(1, 6, 3);
    let routed = |expert, outcome| crate::events::RoutedExpert { expert, tokens: 1, weight: 0.3, outcome };
    state.apply(&StepRecord {
        tokens: 1,
        ends: vec![3],
        routed: vec![
            routed(2, crate::events::Outcome::Hit),
            routed(3, crate::events::Outcome::Miss),
            routed(4, crate::events::Outcome::Admitted),
        ],
        evicted: vec![crate::events::Eviction { layer: 0, expert: 5 }],
        slot_of: vec![u16::MAX, 0, 1, u16::MAX, 2, u16::MAX],
        ..Default::default()
    });
    let marks: Vec<Mark> = (0..6).map(|e| state.facts(0, e).unwrap().mark).collect();
    assert_eq!(marks, [Mark::Quiet, Mark::Quiet, Mark::Hit, Mark::Miss, Mark::Admitted, Mark::Evicted]);
    state
}

#[test]
fn every_state_has_its_own_glyph_without_colour_and_in_ascii_and_the_legend_shows_it() {
    let state = every_state();
    for (ascii, depth) in [(false, ColorDepth::Mono), (true, ColorDepth::Mono), (true, ColorDepth::Indexed256)] {
        let theme = Theme::built_in("dark", depth, ascii);
        let buf = drawn(&state, &theme, (78, 3, false));
        let row: String = (0..78).map(|x| buf[(x, 0)].symbol()).collect();
        let mut glyphs: Vec<char> = row.chars().skip(2).filter(|c| *c != ' ').take(6).collect();
        assert!(ascii == row.is_ascii(), "{row}");
        let legend: String = (0..78).map(|x| buf[(x, 2)].symbol()).collect();
        for glyph in &glyphs {
            assert!(legend.contains(*glyph), "{glyph} is missing in {legend}");
        }
        glyphs.sort_unstable();
        glyphs.dedup();
        assert_eq!(glyphs.len(), 6, "{row}");
    }
}

#[test]
fn every_state_has_its_own_colour_where_two_layers_share_a_character() {
    let theme = Theme::built_in("dark", ColorDepth::Indexed256, false);
    let state = every_state();
    let mut buf = Buffer::empty(Rect::new(0, 0, 6, 1));
    let mut grid = Grid::fit(buf.area, 1, 6, &theme).unwrap();
    grid.make = Make::Half;
    grid.paint(&mut buf, &state, &theme, None);
    let mut colors: Vec<String> = (0..6).map(|x| format!("{:?}", buf[(x, 0)].fg)).collect();
    colors.sort();
    colors.dedup();
    assert_eq!(colors.len(), 6, "{colors:?}");
}

#[test]
fn no_colour_reaches_a_terminal_without_colours() {
    let mut state = session(48, 128, 8, 40);
    let theme = Theme::built_in("ember", ColorDepth::Mono, false);
    for _ in 0..2 {
        let buf = drawn(&state, &theme, (88, 37, true));
        assert!(buf.content.iter().all(|c| c.fg == Color::Reset && c.bg == Color::Reset));
        assert!(buf.content.iter().any(|c| c.modifier.contains(Modifier::REVERSED)), "the cursor shows");
        state.act(HeatmapAction::Zoom);
    }
}

#[test]
fn lost_records_are_said() {
    let mut stream = Stream::new(2, 8, 2, 4, 1);
    let mut state = ExpertsState::open(&stream.card());
    state.apply(&stream.token());
    let _ = stream.token();
    state.apply(&stream.token());
    let theme = Theme::built_in("mono", ColorDepth::Mono, false);
    assert!(text(&drawn(&state, &theme, (78, 11, true))).contains("1 records lost"));
}

#[test]
fn keys_move_zoom_and_sort_and_others_pass() {
    let mut state = session(6, 32, 4, 12);
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    let before = state.cursor();
    assert!(on_key(&mut state, key(KeyCode::Down)) && on_key(&mut state, KeyEvent::new(KeyCode::Right, KeyModifiers::SHIFT)));
    assert_eq!(state.cursor(), (before.0 + 1, before.1 + 8));
    assert!(on_key(&mut state, key(KeyCode::Enter)) && state.zoomed());
    assert!(on_key(&mut state, key(KeyCode::Esc)) && !state.zoomed());
    assert!(!on_key(&mut state, key(KeyCode::Esc)), "left over for the caller");
    assert!(!on_key(&mut state, key(KeyCode::Char('+'))));
    assert!(!on_key(&mut state, KeyEvent::new(KeyCode::Char('l'), KeyModifiers::CONTROL)));
}

/// Bytes of the first frame, and the mean of the frames after it, one per `tokens`, of the 30B shape.
fn bytes_sent(theme: &Theme, width: u16, tokens: usize) -> (usize, usize) {
    const FRAMES: usize = 40;
    let mut stream = Stream::new(48, 128, 8, 40, 11);
    let mut state = ExpertsState::open(&stream.card());
    (0..100).for_each(|_| state.apply(&stream.token()));
    let area = Rect::new(0, 0, width, 24);
    let viewport = ratatui::TerminalOptions { viewport: ratatui::Viewport::Fixed(area) };
    let backend = crate::ui::writer::FrameBackend::new(ratatui::layout::Size::new(width, 24));
    let mut terminal = ratatui::Terminal::with_options(backend, viewport).expect("a terminal");
    let knob = SlotKnob::default();
    let mut frame = |state: &ExpertsState| {
        let context = context(&knob, false, theme.ascii);
        terminal.draw(|f| draw(area, f.buffer_mut(), state, &context, theme)).expect("a frame");
        terminal.backend_mut().take_frame().map_or(0, |bytes| bytes.len())
    };
    let first = frame(&state);
    let mut rest = 0;
    for _ in 0..FRAMES {
        (0..tokens).for_each(|_| state.apply(&stream.token()));
        rest += frame(&state);
    }
    (first, rest / FRAMES)
}

#[test]
fn a_frame_stays_within_its_budget_of_bytes() {
    // Per theme: most bytes of a frame at 64 and at 128 columns. The stream misses more than real routing does.
    let budgets = [
        ("dark", ColorDepth::Indexed256, false, 11_000, 16_000),
        ("dark", ColorDepth::TrueColor, false, 11_000, 16_000),
        ("sixteen", ColorDepth::Ansi16, false, 7_000, 10_000),
        ("mono", ColorDepth::Mono, false, 4_000, 8_000),
        ("dark", ColorDepth::Mono, true, 3_000, 6_000),
    ];
    for (name, depth, ascii, narrow, wide) in budgets {
        let theme = Theme::built_in(name, depth, ascii);
        for (width, most) in [(64, narrow), (128, wide)] {
            let (first, one) = bytes_sent(&theme, width, 1);
            let (_, four) = bytes_sent(&theme, width, 4);
            println!("| {width}x24 | {name}, {}{} | {first} | {one} | {four} |", depth.name(), if ascii { ", ascii" } else { "" });
            assert!(one <= most, "{name} {depth:?} at {width}: {one} bytes, budget {most}");
        }
    }
}

#[test]
fn a_frame_in_which_nothing_changed_sends_no_cells() {
    let theme = Theme::built_in("dark", ColorDepth::Indexed256, false);
    let state = session(48, 128, 8, 40);
    let (a, b) = (drawn(&state, &theme, (64, 24, false)), drawn(&state, &theme, (64, 24, false)));
    assert!(a.diff(&b).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_state_draws_in_any_rectangle_and_stays_inside(
        records in prop::collection::vec(any_record(), 0..6),
        shape in prop_oneof![Just((0, 0)), Just((3, 16)), (1usize..70, 1usize..520)],
        size in prop_oneof![(1u16..6, 1u16..6), (1u16..220, 1u16..70)],
        (theme, ascii, focused, zoomed, sorted, side) in (0usize..4, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0..3),
    ) {
        let mut state = ExpertsState::new(shape.0, shape.1, 4);
        records.iter().for_each(|r| state.apply(r));
        if zoomed { state.act(HeatmapAction::Zoom); }
        if sorted { state.act(HeatmapAction::ToggleSort); }
        (0..side).for_each(|_| { state.act(HeatmapAction::NextSide); });
        state.act(HeatmapAction::Down(size.0.into()));
        state.act(HeatmapAction::Right(size.1.into()));
        let depth = [ColorDepth::Mono, ColorDepth::Ansi16, ColorDepth::Indexed256, ColorDepth::TrueColor][theme];
        let theme = Theme::built_in("dark", depth, ascii);
        // A margin shows what is drawn outside.
        let inside = Rect::new(2, 2, size.0, size.1);
        let mut buf = Buffer::empty(Rect::new(0, 0, size.0 + 4, size.1 + 4));
        let untouched = buf[(0, 0)].clone();
        let knob = SlotKnob::default();
        draw(inside, &mut buf, &state, &context(&knob, focused, ascii), &theme);
        let _ = title(inside, &state, &context(&knob, focused, ascii), &theme);
        for y in 0..buf.area.height {
            for x in 0..buf.area.width {
                if !inside.contains((x, y).into()) {
                    prop_assert_eq!(&buf[(x, y)], &untouched, "at {},{}", x, y);
                }
            }
        }
    }
}

/// Two policies over the same routing, 80 tokens.
fn compared(layers: usize, experts: usize, top_k: usize, slots: [usize; 2]) -> (ExpertsState, Difference) {
    let mut streams = slots.map(|s| Stream::new(layers, experts, top_k, s, 3));
    let mut state = ExpertsState::open(&streams[0].card());
    let mut difference = Difference::new(layers, experts);
    for i in 0..80 {
        let [a, b] = streams.each_mut().map(|s| if i == 0 { s.prompt(24) } else { s.token() });
        difference.step(&a, &b);
        state.apply(&a);
    }
    difference.names = slots.map(|s| format!("rotary, {s} slots"));
    state.shown = crate::ui::experts_state::Shown::Replay(crate::ui::experts_state::Play::Forwards);
    state.act(HeatmapAction::Down(2));
    state.act(HeatmapAction::Right(9));
    (state, difference)
}

fn drawn_difference((state, difference): &(ExpertsState, Difference), theme: &Theme, (width, height, focused): (u16, u16, bool)) -> Buffer {
    let mut buf = Buffer::empty(Rect::new(0, 0, width, height));
    let knob = SlotKnob::default();
    draw_difference(buf.area, &mut buf, state, difference, &context(&knob, focused, theme.ascii), theme);
    buf
}

#[test]
fn two_sides_at_every_pane_size() {
    for (name, sides) in [("demo", compared(6, 32, 4, [12, 16])), ("30b", compared(48, 128, 8, [40, 32]))] {
        let theme = Theme::built_in("dark", ColorDepth::Mono, true);
        for size in INSIDES {
            let shown = text(&drawn_difference(&sides, &theme, size));
            assert!(shown.is_ascii(), "{shown}");
            insta::assert_snapshot!(format!("difference_{name}_{}x{}", size.0, size.1), shown);
        }
    }
    let sides = compared(6, 32, 4, [12, 16]);
    for (name, depth) in [("dark", ColorDepth::Indexed256), ("sixteen", ColorDepth::Ansi16)] {
        let theme = Theme::built_in(name, depth, false);
        insta::assert_snapshot!(format!("difference_colors_{name}"), text_and_colors(&drawn_difference(&sides, &theme, (54, 16, true))));
    }
    assert_eq!(
        difference_title(&sides.0, &sides.1, &Theme::built_in("dark", ColorDepth::Indexed256, false)),
        "REPLAY · A beside B, 6 × 32"
    );
}

#[test]
fn a_layer_of_two_sides_at_every_pane_size() {
    for (name, mut sides) in [("demo", compared(6, 32, 4, [12, 16])), ("30b", compared(48, 128, 8, [40, 32]))] {
        assert!(sides.0.act(HeatmapAction::Zoom));
        let theme = Theme::built_in("dark", ColorDepth::Mono, true);
        for size in INSIDES {
            let shown = text(&drawn_difference(&sides, &theme, size));
            assert!(shown.is_ascii(), "{shown}");
            insta::assert_snapshot!(format!("difference_layer_{name}_{}x{}", size.0, size.1), shown);
        }
        if name == "demo" {
            let theme = Theme::built_in("dark", ColorDepth::Indexed256, false);
            assert_eq!(difference_title(&sides.0, &sides.1, &theme), "REPLAY · A beside B, layer 2");
            insta::assert_snapshot!("difference_layer_colors", text_and_colors(&drawn_difference(&sides, &theme, (54, 16, true))));
        }
    }
}

#[test]
fn a_zoomed_comparison_shows_each_expert_of_the_layer_as_the_grid_does() {
    let mut sides = compared(6, 32, 4, [20, 8]);
    let theme = Theme::built_in("dark", ColorDepth::Mono, true);
    let grid = text(&drawn_difference(&sides, &theme, (100, 20, false)));
    sides.0.act(HeatmapAction::Zoom);
    for layer in 0..6 {
        (sides.0.layer, sides.0.expert) = (layer, 0);
        let row = grid.lines().find(|l| l.trim_start().starts_with(&format!("{layer} "))).unwrap().chars().skip(3);
        let signs: Vec<char> = row.filter(|c| !c.is_whitespace()).take(32).collect();
        let zoomed = text(&drawn_difference(&sides, &theme, (100, 20, false)));
        for (expert, sign) in signs.iter().enumerate() {
            let spelled = format!("{expert:>3}{sign}");
            assert!(zoomed.contains(&spelled), "{spelled} of layer {layer} in\n{zoomed}\nfrom\n{grid}");
        }
    }
}

#[test]
fn the_side_with_more_slots_is_ahead_and_holds_more_alone() {
    let (a, b) = (compared(6, 32, 4, [20, 8]), compared(6, 32, 4, [8, 20]));
    let theme = Theme::built_in("dark", ColorDepth::Mono, true);
    let count = |sides: &(ExpertsState, Difference), sign: char| {
        let shown = text(&drawn_difference(sides, &theme, (78, 11, false)));
        shown.lines().take(6).flat_map(|l| l.chars().take(66)).filter(|c| *c == sign).count()
    };
    assert!(count(&a, 'A') > 3 * count(&a, 'B'), "{}", text(&drawn_difference(&a, &theme, (78, 11, false))));
    assert!(count(&b, 'B') > 3 * count(&b, 'A'));
    let rates = a.1.rates(0..6).whole.map(Option::unwrap);
    assert!(rates[0] > rates[1] + 0.1, "{rates:?}");
}

#[test]
fn the_sides_of_a_comparison_differ_in_every_theme_and_for_every_eye() {
    use crate::ui::palette::{rgb_of, simulate, Vision};
    for name in ["dark", "light", "safe", "ember", "sixteen"] {
        for depth in [ColorDepth::Ansi16, ColorDepth::Indexed256, ColorDepth::TrueColor] {
            let theme = Theme::built_in(name, depth, false);
            let [a, b, both] = [Face::SideA, Face::SideB, Face::Resident].map(|f| rgb_of(theme.color(f)).unwrap());
            for vision in [Vision::Protanopia, Vision::Deuteranopia, Vision::Tritanopia] {
                let apart = simulate(a, vision).lab().distance(simulate(b, vision).lab());
                assert!(apart > 0.07, "{name} {depth:?} {vision:?}: {apart}");
            }
            assert!(a.lab().distance(both.lab()) > 0.07 && b.lab().distance(both.lab()) > 0.07, "{name} {depth:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_comparison_draws_in_any_rectangle(
        width in 1u16..140, height in 1u16..50, focused in any::<bool>(), mono in any::<bool>(), big in any::<bool>(), zoomed in any::<bool>(),
    ) {
        let theme = Theme::built_in("dark", if mono { ColorDepth::Mono } else { ColorDepth::Indexed256 }, mono);
        let mut sides = if big { compared(48, 128, 8, [40, 32]) } else { compared(2, 8, 2, [4, 3]) };
        (sides.0.zoomed, sides.0.sorted) = (zoomed, zoomed && mono);
        drawn_difference(&sides, &theme, (width, height, focused));
    }
}
