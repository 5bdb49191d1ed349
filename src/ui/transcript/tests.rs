use super::*;
use crate::ui::palette::ColorDepth;
use proptest::prelude::*;
use std::time::Duration;

fn theme() -> Theme {
    Theme::built_in("dark", ColorDepth::Indexed256, false)
}

fn answer(text: &str) -> Item {
    Item::new(Kind::Assistant { thinking: None, ending: None }, text)
}

fn view(t: &mut Transcript, width: usize, height: usize) -> Vec<String> {
    t.lay_out(width, height, &theme());
    t.visible().map(|l| l.to_string().trim_end().to_owned()).collect()
}

fn numbered(count: usize) -> String {
    (0..count).map(|i| format!("line {i}")).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn the_view_follows_the_end_until_scrolled_and_then_stays() {
    let mut t = Transcript::default();
    t.push(answer(&numbered(10)));
    assert_eq!(view(&mut t, 20, 3), ["line 8", "", "line 9"]);
    t.scroll(-4);
    let before = view(&mut t, 20, 3);
    assert_eq!(before, ["line 6", "", "line 7"]);
    t.change_answer(|i| i.text.push_str("\n\nline 10\n\nline 11"));
    assert_eq!(view(&mut t, 20, 3), before);
    assert_eq!(t.lines_below(), 8);
    t.scroll(100);
    assert!(t.at_end());
    assert_eq!(view(&mut t, 20, 3).last().unwrap(), "line 11");
}

#[test]
fn folding_a_thought_above_does_not_move_what_is_read() {
    let mut t = Transcript::default();
    let thinking = Thinking { text: numbered(9), started: None, took: None, tokens: None, done: true, open: true };
    t.push(Item::new(Kind::Assistant { thinking: Some(thinking), ending: None }, "short"));
    t.push(Item::new(Kind::User, "next"));
    t.push(answer(&numbered(20)));
    view(&mut t, 20, 4);
    t.scroll(-10);
    let before = view(&mut t, 20, 4);
    t.toggle_thinking();
    assert_eq!(view(&mut t, 20, 4), before);
}

#[test]
fn prompts_can_be_walked_in_both_directions() {
    let mut t = Transcript::default();
    for n in 0..3 {
        t.push(Item::new(Kind::User, format!("question {n}")));
        t.push(answer(&numbered(5)));
    }
    view(&mut t, 20, 4);
    t.to_prompt(false);
    assert_eq!(view(&mut t, 20, 4)[0], "▸ question 2");
    t.to_prompt(false);
    assert_eq!(view(&mut t, 20, 4)[0], "▸ question 1");
    t.to_prompt(true);
    assert_eq!(view(&mut t, 20, 4)[0], "▸ question 2");
}

#[test]
fn a_finished_thought_shows_its_time_and_tokens_and_folds() {
    let mut t = Transcript::default();
    let thinking = Thinking {
        text: "hidden".into(),
        started: None,
        took: Some(Duration::from_millis(3240)),
        tokens: Some(57),
        done: true,
        open: false,
    };
    t.push(Item::new(Kind::Assistant { thinking: Some(thinking), ending: None }, "42"));
    assert_eq!(view(&mut t, 40, 9), ["▸ thought for 3.2 s, 57 tokens", "", "42"]);
}

#[test]
fn an_empty_chat_has_no_lines() {
    let mut t = Transcript::default();
    assert!(view(&mut t, 10, 5).is_empty());
    t.scroll(-3);
    t.to_prompt(true);
    assert!(t.at_end());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn growing_piece_by_piece_shows_the_same_as_all_at_once(
        pieces in proptest::collection::vec("[a-z# *`\n-]{1,8}", 1..30), width in 3usize..30,
    ) {
        let mut grown = Transcript::default();
        grown.push(answer(""));
        for piece in &pieces {
            grown.change_answer(|i| i.text.push_str(piece));
            grown.lay_out(width, 5, &theme());
        }
        grown.to_start();
        let mut whole = Transcript::default();
        whole.push(answer(&pieces.concat()));
        whole.lay_out(width, 5, &theme());
        whole.to_start();
        prop_assert_eq!(view(&mut grown, width, 500), view(&mut whole, width, 500));
    }

    #[test]
    fn a_growing_call_of_a_tool_shows_the_same_as_all_at_once(
        text in "(a b\n|\n|```\n|<tool_call>|</tool_call>|\n<tool_call>\n|[{]\"x_y\": \"\\*z\\*\"[}]\n|- ){1,12}", cut in 0usize..60,
    ) {
        let cut = cut.min(text.len());
        let mut grown = Transcript::default();
        grown.push(answer(&text[..cut]));
        grown.lay_out(24, 5, &theme());
        grown.change_answer(|i| i.text.push_str(&text[cut..]));
        let mut whole = Transcript::default();
        whole.push(answer(&text));
        grown.to_start();
        whole.to_start();
        prop_assert_eq!(view(&mut grown, 24, 500), view(&mut whole, 24, 500));
    }

    #[test]
    fn a_replay_that_goes_on_and_back_shows_each_place_as_if_it_came_there_at_once(
        text in "(a b\n|\n|```\n|# x\n|- y\n|[|] a [|]\n|word ){1,40}", places in proptest::collection::vec(0usize..200, 1..12), width in 3usize..30,
    ) {
        let place = |at: usize| {
            let mut t = Transcript::default();
            t.push(Item::new(Kind::User, "hi"));
            t.push(answer(&text[..at.min(text.len())]));
            t
        };
        let mut played = Transcript::default();
        for at in places {
            played.take_over(place(at));
            played.lay_out(width, 5, &theme());
            let mut straight = place(at);
            straight.lay_out(width, 5, &theme());
            played.to_start();
            straight.to_start();
            prop_assert_eq!(view(&mut played, width, 500), view(&mut straight, width, 500));
        }
    }

    #[test]
    fn no_walk_through_the_chat_leaves_it(moves in proptest::collection::vec((-9isize..9, 1usize..40, 0usize..9), 1..20)) {
        let mut t = Transcript::default();
        t.push(Item::new(Kind::User, "hi 你好"));
        t.push(answer(&numbered(7)));
        for (by, width, height) in moves {
            t.scroll(by);
            t.lay_out(width, height, &theme());
            prop_assert!(t.top() <= t.line_count());
            prop_assert!(t.visible().count() <= height);
        }
    }
}
