//! Layers have the numbers of the model, whose first ones may have no experts.

use super::*;
use crate::events::LayerSlot;

/// A session of a model of 46 layers with experts, behind dense ones.
fn behind(dense: usize) -> (ExpertsState, RoutingLog) {
    let mut stream = Stream::new(46, 64, 4, 16, 3);
    let mut card = stream.card();
    card.plan.slot_bytes = (dense..dense + 46).map(|layer| LayerSlot { layer, bytes: 1 }).collect();
    let (mut state, mut log) = (ExpertsState::open(&card), RoutingLog::default());
    for record in std::iter::once(stream.prompt(24)).chain((0..20).map(|_| stream.token())) {
        state.apply(&record);
        log.push(&record);
    }
    state.act(HeatmapAction::Down(2));
    (state, log)
}

/// The numbers beside a grid of a row for each layer, from the top.
fn beside(shown: &str, width: usize) -> Vec<usize> {
    shown.lines().take(46).filter_map(|line| line.chars().skip(1).take(width).collect::<String>().trim().parse().ok()).collect()
}

#[test]
fn rows_cursor_and_zoom_say_which_block_of_the_model_it_is() {
    let theme = Theme::built_in("mono", ColorDepth::Mono, false);
    let at_rest = |dense| beside(&text(&drawn(&behind(dense).0, &theme, (88, 60, false))), 2);
    assert_eq!((at_rest(0), at_rest(1)), (vec![0, 8, 16, 24, 32, 40], vec![1, 8, 16, 24, 32, 40]));
    assert_eq!(beside(&text(&drawn(&behind(60).0, &theme, (88, 60, false))), 3), [60, 64, 72, 80, 88, 96, 104]);

    let (mut state, log) = behind(1);
    let shown = text(&drawn(&state, &theme, (88, 60, true)));
    assert!(shown.contains("▸ 3 ") && shown.contains("L3  E0"), "{shown}");
    let pause = Pause { token: 5, of: 20, step: 5, text: " cat".into(), lost: None };
    let past = text(&drawn(&state.frozen_at(&log, pause), &theme, (88, 37, false)));
    assert!(past.contains("\" cat\" L3 "), "{past}");
    state.act(HeatmapAction::Zoom);
    let knob = SlotKnob::default();
    let title = title(Rect::new(0, 0, 78, 20), &state, &context(&knob, true, false), &theme);
    assert_eq!(title, "LIVE · experts of layer 3");
    assert!(text(&drawn(&state, &theme, (78, 20, true))).starts_with("layer 3 "));
}

#[test]
fn so_does_the_comparison_of_two_sides() {
    let theme = Theme::built_in("mono", ColorDepth::Mono, false);
    let (mut state, _) = behind(1);
    let mut difference = Difference::new(46, 64);
    let mut streams = [16, 24].map(|slots| Stream::new(46, 64, 4, slots, 3));
    let [a, b] = streams.each_mut().map(Stream::token);
    difference.step(&a, &b);
    let shown = text(&drawn_difference(&(state.clone(), difference.clone()), &theme, (88, 60, true)));
    assert!(shown.contains("▸ 3 ") && shown.contains("L3  E0"), "{shown}");
    assert_eq!(beside(&shown, 2), [1, 3, 8, 16, 24, 32, 40]);
    state.act(HeatmapAction::Zoom);
    assert_eq!(difference_title(&state, &difference, &theme), "LIVE · A beside B, layer 3");
    assert!(text(&drawn_difference(&(state, difference), &theme, (88, 37, true))).starts_with("layer 3 "));
}
