use super::*;
use crate::events::{Event, FinishReason, TextKind};
use crate::ui::inspector::tests::{Told, WORDS};
use crate::ui::message::Message;
use crate::ui::overlay::Help;
use crate::ui::palette::ColorDepth;
use crate::ui::state::{Focus, Overlay, Pick};
use crate::ui::theme::Theme;
use crate::ui::update::tests::Script;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;

pub(in crate::ui) fn screen(script: &mut Script, columns: u16, rows: u16) -> Vec<String> {
    script.send(Message::Resize(columns, rows));
    script.send(Message::Draw);
    let area = Rect::new(0, 0, columns, rows);
    let mut buf = Buffer::empty(area);
    draw(area, &mut buf, &script.state);
    (0..rows).map(|y| (0..columns).map(|x| buf[(x, y)].symbol()).collect::<String>().trim_end().to_owned()).collect()
}

fn talked() -> Script {
    let mut s = Script::ready();
    s.say("Name a colour, 你好?");
    s.answer("**Blue**, of course.\n\n- sky\n- sea\n\n```rust\nfn main() {}\n```\n");
    s.finish(FinishReason::Stop);
    s.send(Message::Tick);
    s
}

#[test]
fn the_chat_at_60x16_reads_like_this() {
    let mut s = talked();
    s.state.notices.clear();
    // Below the smallest size with panes: only the chat, without a frame.
    let lines = screen(&mut s, 59, 15);
    assert_eq!(lines[0], "▸ Name a colour, 你 好 ?");
    assert_eq!(lines[2], "Blue, of course.");
    assert_eq!(lines[4], "• sky");
    assert_eq!(lines[7], "rust");
    assert_eq!(lines[8], "│ fn main() {}");
    assert!(lines[13].starts_with("▸ ask something"), "{lines:#?}");
    assert!(lines[14].contains("TOY Tiny") && lines[14].contains("slots 4/8"), "{lines:#?}");
}

#[test]
fn the_line_over_the_input_tells_of_the_prompt_until_it_is_read() {
    let mut s = Script::ready();
    s.say("Hello");
    let id = s.state.turn.as_ref().expect("a turn runs").id;
    for (done, says) in [(3, "reading the prompt 3/9"), (9, "answering")] {
        s.engine(Event::Prefill { id, done, total: 9, reused: 0 });
        let text = screen(&mut s, 80, 24).join("\n");
        assert!(text.contains(says), "{text}");
        assert_eq!(text.contains("reading the prompt"), done < 9, "a model may think for long before it shows anything");
    }
}

#[test]
fn the_cursor_is_where_the_next_character_goes() {
    let mut s = Script::ready();
    s.type_text("ab你");
    s.send(Message::Resize(40, 10));
    s.send(Message::Draw);
    let area = Rect::new(0, 0, 40, 10);
    let mut buf = Buffer::empty(area);
    assert_eq!(draw(area, &mut buf, &s.state), Some(Position::new(6, 8)));
}

#[test]
fn help_lists_every_key_and_command() {
    let mut s = Script::ready();
    s.state.overlay = Some(Overlay::Help(Help::default()));
    let text = screen(&mut s, 120, 110).join("\n");
    for (_, keys) in crate::ui::keys::sections() {
        for (key, _) in keys {
            assert!(text.contains(key), "{key} is missing");
        }
    }
    for command in crate::ui::keys::COMMANDS {
        assert!(text.contains(&format!("/{}", command.name)), "{} is missing", command.name);
    }
}

#[test]
fn the_help_is_narrowed_to_what_has_the_words() {
    let mut s = Script::ready();
    s.state.notices.clear();
    s.press(KeyCode::Char('?'));
    assert!(screen(&mut s, 80, 24)[0].contains("/ finds, Esc closes"));
    s.press(KeyCode::Char('/'));
    s.type_text("token row");
    insta::assert_snapshot!("help_found_80x24", screen(&mut s, 80, 24).join("\n"));
    s.type_text(" nowhere");
    let text = screen(&mut s, 80, 24).join("\n");
    assert!(text.contains("nothing found") && !text.contains("token in the row"), "{text}");
}

#[test]
fn plain_ascii_means_every_cell() {
    let mut s = talked();
    s.state.theme = Theme::built_in("dark", ColorDepth::Mono, true);
    s.state.transcript.restyle();
    s.state.transcript.truncate(0);
    s.say("plain");
    s.answer("- a\n\n> b\n\n---\n\n| a | b |\n|---|---|\n| 1 | 2 |\n");
    s.send(Message::Step(Box::default()));
    s.send(Message::Fold);
    for overlay in [None, Some(Overlay::Help(Help::default())), Some(Overlay::Palette(Pick { query: String::new(), at: 3 }))] {
        s.state.overlay = overlay;
        for line in screen(&mut s, 130, 40) {
            assert!(line.is_ascii(), "{line}");
        }
    }
}

#[test]
fn control_characters_of_a_model_never_reach_a_cell() {
    let mut s = Script::ready();
    let mut card = crate::ui::update::tests::card();
    card.name = "evil\x1b]0;title\x07".into();
    s.engine(Event::Ready { card: Box::new(card) });
    s.say("hi");
    s.answer("\x1b[2J\u{9b}31m `\x1b[0m` ```\x07\n\x08\n```");
    s.engine(Event::Notice { message: "\x1b[31mred".into() });
    for line in screen(&mut s, 130, 40) {
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// A finished thought (folded), a call of a tool with marks that Markdown would eat, and a thought that is under way.
fn thoughtful() -> Script {
    let mut s = Script::ready();
    let think = |s: &mut Script, text: &str, step| {
        let id = s.state.turn.as_ref().unwrap().id;
        s.engine(Event::Text { id, text: text.into(), kind: TextKind::Thinking, step });
    };
    s.say("What is the weather in New York?");
    think(&mut s, "The person wants the *weather*.\nI have a tool for that.", 0);
    s.wait(3240);
    think(&mut s, " Let me call it.", 56);
    s.answer(
        "I will look it up.\n<tool_call>\n{\"name\": \"get_current_weather\", \"arguments\": {\"city\": \"New York\", \
         \"units\": \"*metric*\", \"fields\": [\"temp_c\", \"wind_kph\", \"rain_mm\", \"humidity\"]}}\n</tool_call>\n\nOne moment.",
    );
    s.finish(FinishReason::Stop);
    s.say("And tomorrow?");
    think(&mut s, "Tomorrow is a day that the same tool knows; only the date differs, so I ask it again with the other one.", 60);
    s.wait(1500);
    think(&mut s, "\n\nWhich units?", 81);
    s.send(Message::Tick);
    s.state.notices.clear();
    s
}

#[test]
fn thoughts_and_tool_calls_read_like_this() {
    let mut s = thoughtful();
    for (columns, rows) in [(80, 24), (120, 32), (200, 60)] {
        let lines = screen(&mut s, columns, rows);
        insta::assert_snapshot!(format!("thoughts_{columns}x{rows}"), lines.join("\n"));
    }
    // In ASCII the marks are other ones.
    s.state.theme = Theme::built_in("dark", ColorDepth::Mono, true);
    s.state.transcript.restyle();
    let lines = screen(&mut s, 80, 24);
    assert!(lines.iter().all(|l| l.is_ascii()), "{lines:#?}");
    assert!(lines.iter().any(|l| l.contains("v thinking for 1.5 s, 22 tokens")), "{lines:#?}");
}

/// The style of the first cell of `word` in the chat.
fn style_of(s: &Script, columns: u16, rows: u16, word: &str) -> ratatui::style::Style {
    let area = Rect::new(0, 0, columns, rows);
    let mut buf = Buffer::empty(area);
    draw(area, &mut buf, &s.state);
    for y in 0..rows {
        let line: Vec<&str> = (0..columns).map(|x| buf[(x, y)].symbol()).collect();
        if let Some(at) = line.concat().find(word) {
            let column = line.concat()[..at].chars().count() as u16;
            return buf[(column, y)].style();
        }
    }
    panic!("{word} is not on the screen");
}

#[test]
fn a_paused_heatmap_and_tinted_tokens_read_like_this() {
    let mut t = Told::new(&[4]);
    t.ask(&WORDS);
    t.go_on(&["And", " it", " was", " a", " good", " cat", "."]);
    t.s.finish(FinishReason::Stop);
    t.alt('t');
    t.alt('t');
    (0..5).for_each(|_| t.alt('h'));
    t.s.state.notices.clear();
    for (columns, rows) in [(80, 24), (120, 32), (200, 60)] {
        let lines = screen(&mut t.s, columns, rows);
        insta::assert_snapshot!(format!("paused_{columns}x{rows}"), lines.join("\n"));
    }
    for (depth, ascii) in
        [(ColorDepth::Indexed256, false), (ColorDepth::Ansi16, false), (ColorDepth::Mono, false), (ColorDepth::Mono, true)]
    {
        t.s.state.theme = Theme::built_in("dark", depth, ascii);
        t.s.state.transcript.restyle();
        let lines = screen(&mut t.s, 120, 32);
        assert!(!ascii || lines.iter().all(|l| l.is_ascii()), "{lines:#?}");
        assert!(lines.iter().any(|l| l.contains("step time  <")), "the legend is seen: {lines:#?}");
        assert!(lines.iter().filter(|l| l.contains("PAUSED 15/19")).count() >= 2, "{lines:#?}");
        let of = |word| style_of(&t.s, 120, 32, word);
        // The cursor, the unknown token, and the levels all look different.
        let looks = [of("was"), of("time,"), of("upon"), of("good")];
        for (i, look) in looks.iter().enumerate() {
            assert!(looks[i + 1..].iter().all(|other| other != look), "{depth:?} {looks:#?}");
        }
    }
    // Live again, and no tint: nothing of it is left.
    t.alt('0');
    t.alt('t');
    t.alt('t');
    t.s.state.notices.clear();
    let lines = screen(&mut t.s, 120, 32);
    assert!(lines.iter().all(|l| !l.contains("PAUSED") && !l.contains("unknown")), "{lines:#?}");
    assert!(lines.iter().filter(|l| l.contains("LIVE")).count() == 2, "{lines:#?}");
}

#[test]
fn the_gates_of_a_token_are_told_once_at_every_size() {
    let mut t = Told::new(&[]);
    t.ask(&WORDS);
    (0..4).for_each(|_| t.alt('h'));
    t.s.state.notices.clear();
    for zoomed in [false, true] {
        for focus in [Focus::Chat, Focus::Heatmap] {
            t.s.state.focus = focus;
            for (columns, rows) in [(80, 24), (120, 32), (200, 60)] {
                let lines = screen(&mut t.s, columns, rows);
                let told = lines.iter().filter(|l| l.contains("\" cat\" L")).count();
                // With the keyboard the line of facts is about the expert under the cursor, so a grid has none for the gates.
                let room = focus == Focus::Chat || zoomed || rows > 50;
                assert_eq!(told, usize::from(room), "{columns}x{rows} {focus:?} zoomed {zoomed}: {lines:#?}");
            }
        }
        t.s.press(KeyCode::Enter);
    }
}

#[test]
fn a_note_before_the_first_word_leaves_the_welcome_where_there_is_room() {
    let mut s = Script::ready();
    let message = "warm start: 72 of 72 slots are filled from 136 earlier tokens (--cold: from none)";
    s.engine(Event::Notice { message: message.into() });
    for (columns, rows, room) in [(80, 24, true), (120, 32, true), (200, 60, true), (60, 16, false)] {
        let text = screen(&mut s, columns, rows).join("\n");
        assert!(text.contains("warm start: 72 of 72"), "{text}");
        assert_eq!(text.contains("Alt-+ and Alt--") && text.contains("slots per layer"), room, "{text}");
    }
    s.say("hello");
    assert!(!screen(&mut s, 80, 24).join("\n").contains("Type and press Enter"));
}

#[test]
fn a_notice_does_not_hide_that_the_heatmap_stands_still() {
    let mut t = Told::new(&[]);
    t.ask(&WORDS);
    t.alt('h');
    t.s.send(Message::Say("something else".into()));
    let last = screen(&mut t.s, 80, 24).pop().unwrap();
    assert!(last.contains("PAUSED 12/12") && last.contains("something else"), "{last}");
}

#[test]
fn a_token_in_folded_reasoning_is_shown_on_the_fold() {
    let mut s = thoughtful();
    let reversed = |s: &mut Script| {
        screen(s, 200, 60);
        style_of(s, 200, 60, "thought for")
    };
    let before = reversed(&mut s);
    let back = KeyEvent::new(KeyCode::Char('h'), KeyModifiers::ALT);
    while s.state.inspector.pause().is_none_or(|p| p.step >= 57) {
        s.send(Message::Key(back));
    }
    assert_ne!(reversed(&mut s), before);
}

#[test]
fn what_lies_over_the_panes_leaves_the_status_line_and_cuts_nothing() {
    use crate::ui::session::Listed;
    let problem = "missing field `created` at line 12 column 40, and the rest of a reason that has to be read to its very end";
    let chat = |n: usize| Listed {
        id: format!("2026112{n}"),
        title: format!("chat {n}"),
        updated: "2026-11-26T10:00:00Z".into(),
        messages: 1,
        problem: (n == 0).then(|| problem.to_owned()),
    };
    let mut s = Script::ready();
    for (columns, rows) in [(120, 32), (80, 24), (40, 10)] {
        for overlay in [
            Overlay::Help(Help::default()),
            Overlay::Palette(Pick::default()),
            Overlay::Chats((0..60).map(chat).collect(), Pick::default()),
        ] {
            s.state.overlay = Some(overlay);
            s.send(Message::Say("the reason".into()));
            let lines = screen(&mut s, columns, rows);
            assert!(lines.last().unwrap().contains("the reason"), "{lines:#?}");
            if let Some(Overlay::Chats(..)) = s.state.overlay {
                let words: String = lines.iter().map(|l| format!("{} ", l.trim_matches(['│', ' ', '▸']))).collect();
                let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(words.contains("to its very end"), "{lines:#?}");
            }
        }
    }
    s.state.overlay = Some(Overlay::Palette(Pick::default()));
    let text = screen(&mut s, 80, 24).join("\n");
    assert!(text.contains("/slots N | auto | spread | off") && text.contains("tint the tokens of the chat by what"), "{text}");
}

#[test]
fn a_small_terminal_shows_the_pane_with_the_keyboard_alone() {
    let mut s = talked();
    s.state.notices.clear();
    screen(&mut s, 50, 12);
    s.press(KeyCode::Tab);
    let lines = screen(&mut s, 50, 12);
    assert!(lines[0].contains("experts 2 × 8") && !lines.join("\n").contains("Name a colour"), "{lines:#?}");
    s.press(KeyCode::Tab);
    assert!(screen(&mut s, 50, 12)[0].contains("memory"));
    s.press(KeyCode::Esc);
    assert!(screen(&mut s, 50, 12).join("\n").contains("Name a colour"));
    assert_eq!(screen(&mut s, 5, 2), ["small", "20x5"]);
}

#[test]
fn the_welcome_is_read_whole_at_every_width() {
    let mut s = Script::ready();
    for columns in [50, 36] {
        let text = screen(&mut s, columns, 20).join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        for words in ["it shows how things work and is often wrong", "4 slots per layer", "/ all commands.", "Tab goes to the panes."] {
            assert!(text.contains(words), "{words} at {columns}: {text}");
        }
    }
}

#[test]
fn an_input_that_is_higher_than_its_room_says_on_which_side() {
    let mut s = Script::ready();
    for n in 0..30 {
        s.type_text(&format!("line {n}"));
        s.send(Message::Key(KeyEvent::new(KeyCode::Enter, KeyModifiers::ALT)));
    }
    let marks = |s: &mut Script| {
        let text = screen(s, 50, 15).join("\n");
        (text.contains("↑ line"), text.contains("↓ line"))
    };
    assert_eq!(marks(&mut s), (true, false));
    (0..12).for_each(|_| drop(s.press(KeyCode::Up)));
    assert_eq!(marks(&mut s), (true, true));
    (0..40).for_each(|_| drop(s.press(KeyCode::Up)));
    assert_eq!(marks(&mut s), (false, true));
}

#[test]
fn slots_of_a_warm_start_are_not_called_empty_before_the_first_step() {
    let mut s = Script::ready();
    s.send(Message::Gauges(crate::events::Gauges { slots_used: 8000, ..Default::default() }));
    let text = screen(&mut s, 120, 32).join("\n");
    assert!(text.contains("in use the next step will tell") && text.contains("no step yet"), "{text}");
    s.send(Message::Gauges(crate::events::Gauges::default()));
    assert!(screen(&mut s, 120, 32).join("\n").contains("0 of 8"), "a cold one is known to be empty");
}

#[test]
fn the_same_share_of_the_context_stands_everywhere() {
    let mut s = Script::ready();
    let context_used = 148;
    if let Some(card) = &mut s.state.card {
        card.context = 512;
    }
    s.send(Message::Step(Box::new(crate::events::StepRecord { context_used, ..Default::default() })));
    s.send(Message::Fold);
    let text = screen(&mut s, 200, 60).join("\n");
    assert!(text.contains("ctx 29% of 512") && text.contains("148 of 512  29%"), "{text}");
}

#[test]
fn the_policy_in_force_is_in_the_status_line() {
    let mut s = Script::ready();
    s.engine(Event::Scheduling(crate::events::Scheduling { policy: "lfu".into(), ..Default::default() }));
    assert!(screen(&mut s, 120, 32).last().unwrap().contains("policy lfu"));
}

#[test]
fn a_notice_that_is_too_long_is_seen_to_be_cut() {
    let mut s = Script::ready();
    s.send(Message::Say("words ".repeat(30)));
    let line = screen(&mut s, 60, 16).pop().unwrap();
    assert!(line.ends_with('…'), "{line}");
}

#[test]
fn a_recording_that_ends_before_a_model_is_open_says_so() {
    use crate::trace::player::{Fold, Frame, Status};
    let mut fold = crate::ui::replay_fold::ReplayFold::new();
    fold.event(std::time::Duration::ZERO, Event::Loading { stage: "binding the weights".into(), done: 0, total: 0 });
    let mut s = Script::new(80, 24);
    s.send(Message::Frame(Box::new(Frame { status: Status { ended: true, ..Status::default() }, fold, difference: None })));
    let text = screen(&mut s, 80, 24).join("\n");
    assert!(text.contains("the recording ends before a model is open") && !text.contains("binding"), "{text}");
}

#[test]
fn a_replay_shows_no_memory_that_was_not_measured() {
    use crate::trace::player::{Fold, Frame, Status};
    let mut stream = crate::ui::experts_state::stream::Stream::new(2, 8, 2, 4, 3);
    let mut fold = crate::ui::replay_fold::ReplayFold::new();
    fold.event(std::time::Duration::ZERO, Event::Ready { card: Box::new(stream.card()) });
    (0..9).for_each(|_| fold.step(stream.token()));
    let mut s = Script::new(200, 60);
    s.send(Message::Frame(Box::new(Frame { status: Status::default(), fold, difference: None })));
    let text = screen(&mut s, 200, 60).join("\n");
    assert!(text.contains("context ") && text.contains("in slots") && !text.contains("0 B"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_size_and_no_state_makes_drawing_panic(
        columns in 1u16..220, rows in 1u16..70, focus in 0usize..3, side in 1usize..3, overlay in 0usize..4,
        keys in proptest::collection::vec((0usize..14, 0u8..4), 0..25), text in "\\PC{0,60}", mono in any::<bool>(),
    ) {
        let mut s = talked();
        s.state.theme = Theme::built_in("dark", if mono { ColorDepth::Mono } else { ColorDepth::Indexed256 }, mono);
        s.say(&text);
        s.state.focus = Focus::ALL[focus];
        s.state.side = Focus::ALL[side];
        s.state.overlay = match overlay {
            1 => Some(Overlay::Help(Help { at: usize::from(rows), query: mono.then(|| text.chars().take(2).collect()) })),
            2 => Some(Overlay::Palette(Pick { query: text.chars().take(2).collect(), at: 5 })),
            3 => Some(Overlay::Chats(Vec::new(), Pick::default())),
            _ => None,
        };
        s.send(Message::Resize(columns, rows));
        let codes = [
            KeyCode::Up, KeyCode::Down, KeyCode::PageUp, KeyCode::PageDown, KeyCode::Home, KeyCode::End, KeyCode::Tab,
            KeyCode::Esc, KeyCode::Enter, KeyCode::Backspace, KeyCode::Char('/'), KeyCode::Char('s'), KeyCode::Char('r'),
            KeyCode::Char('你'),
        ];
        for (code, modifiers) in keys {
            let modifiers = KeyModifiers::from_bits_truncate(modifiers << 1);
            s.send(Message::Key(KeyEvent::new(codes[code], modifiers)));
            s.send(Message::Draw);
            let area = Rect::new(0, 0, columns, rows);
            let mut buf = Buffer::empty(area);
            if let Some(cursor) = draw(area, &mut buf, &s.state) {
                prop_assert!(area.contains(cursor), "{cursor:?} in {area:?}");
            }
        }
    }

    #[test]
    fn every_small_size_draws(columns in 1u16..24, rows in 1u16..20) {
        let mut s = talked();
        screen(&mut s, columns, rows);
    }
}
