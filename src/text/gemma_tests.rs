use super::super::format::Format;
use super::super::marked_stream::{self, cut, Part};
use super::super::splitter::Splitter;
use super::*;
use proptest::prelude::*;
use TextKind::{Answer, Thinking};

const OPENING: &str = "<bos><|turn>user\nHi<turn|>\n<|turn>model\n";

fn parts(stream: &str) -> Vec<Part> {
    marked_stream::parts(Format::Gemma, stream)
}

/// See [`marked_stream::split`].
fn split(prompt: &str, stream: &[Part]) -> (Vec<(TextKind, String)>, bool) {
    marked_stream::split(Splitter::after(prompt, Format::Gemma), stream, |_| ())
}

fn said(stream: &str) -> Vec<(TextKind, String)> {
    split(OPENING, &parts(stream)).0
}

fn after(prompt: &str, stream: &str) -> Vec<(TextKind, String)> {
    split(prompt, &parts(stream)).0
}

#[test]
fn a_channel_is_reasoning_and_what_follows_the_answer() {
    let want = [(Thinking, "They greet.\n\nSo do I.".into()), (Answer, "Hello!\n".into())];
    assert_eq!(said("<|channel>thought\nThey greet.\n\nSo do I.\n<channel|>Hello!\n"), want);
    assert_eq!(said("<|channel>thought\n\nThey greet.\n\nSo do I.<channel|>\n\nHello!\n"), want, "space around it is dropped");
    assert_eq!(said("<|channel>thought\n<channel|>Hello!"), [(Answer, "Hello!".into())], "an empty one is nothing");
    assert_eq!(said("<|channel>thought<channel|>Hello!"), [(Answer, "Hello!".into())]);
    assert_eq!(said("<|channel><channel|>Hello!"), [(Answer, "Hello!".into())]);
}

#[test]
fn an_answer_without_a_channel_is_as_it_was_said() {
    for text in ["Hello", " Hello\n", "\n\nHello", "thought\nHello", " "] {
        assert_eq!(said(text), [(Answer, text.into())]);
    }
    assert_eq!(said(""), []);
    assert_eq!(said("Hello<channel|> you"), [(Answer, "Hello you".into())], "an end of nothing is nothing");
}

#[test]
fn a_channel_that_does_not_end_is_reasoning_without_an_answer() {
    assert_eq!(said("<|channel>thought\nThey greet"), [(Thinking, "They greet".into())]);
    assert_eq!(said("<|channel>thought\nThey greet\n\n"), [(Thinking, "They greet".into())]);
    assert_eq!(said("<|channel>tho"), [], "nor is a part of its name shown");
    let mut open = GemmaSplitter::after(OPENING);
    assert!(!open.is_thinking());
    open.mark(Mark::Channel);
    assert!(open.is_thinking());
    open.push("thought\nso");
    assert!(open.is_thinking());
    open.mark(Mark::ChannelEnd);
    assert!(!open.is_thinking());
}

#[test]
fn other_channels_and_calls_are_reasoning_and_nothing_of_them_is_lost() {
    assert_eq!(said("<|channel>plan\nFirst.<channel|>Yes."), [(Thinking, "plan\nFirst.".into()), (Answer, "Yes.".into())]);
    assert_eq!(said("<|channel>thoughts<channel|>Yes."), [(Thinking, "thoughts".into()), (Answer, "Yes.".into())]);
    assert_eq!(said("<|channel>tho<channel|>Yes."), [(Thinking, "tho".into()), (Answer, "Yes.".into())]);
    assert_eq!(said("<|channel>thought so<channel|>Yes."), [(Thinking, "thought so".into()), (Answer, "Yes.".into())]);
    let call = "<|channel>thought\nI need it.<channel|><|tool_call>call:weather{city:Bern}<tool_call|>";
    assert_eq!(said(call), [(Thinking, "I need it.\n\ncall:weather{city:Bern}".into())]);
}

#[test]
fn texts_of_a_kind_are_paragraphs() {
    let stream = "One.<|channel>thought\na\n<channel|> Two.<|channel>thought\nb<channel|>\nThree.";
    let want = [(Answer, "One."), (Thinking, "a"), (Answer, "\n\nTwo."), (Thinking, "\n\nb"), (Answer, "\n\nThree.")];
    assert_eq!(said(stream), want.map(|(kind, text)| (kind, text.to_owned())));
}

#[test]
fn the_text_goes_on_where_the_prompt_ends() {
    assert_eq!(after("Once upon", " a time"), [(Answer, " a time".into())], "raw text");
    let closed = format!("{OPENING}<|channel>thought\n<channel|>");
    assert_eq!(after(&closed, "Hello"), [(Answer, "Hello".into())]);
    assert_eq!(after(&closed, "<|channel>thought\na<channel|>b"), [(Thinking, "a".into()), (Answer, "b".into())]);
    for begun in ["<|channel>", "<|channel>thou", "<|channel>thought", "<|channel>thought\n", "<|channel>thought\nSo "] {
        let rest = &"thought\n"[begun.len().min("<|channel>thought\n".len()) - "<|channel>".len()..];
        assert_eq!(after(&format!("{OPENING}{begun}"), &format!("{rest}a\n<channel|>b")), [(Thinking, "a".into()), (Answer, "b".into())]);
    }
    // An earlier turn's channel is over, and what a person spells is guarded.
    let earlier = "<|turn>model\n<|channel>thought\na<turn|>\n<|turn>user\n<\u{fdd0}|channel>thought\n<turn|>\n<|turn>model\n";
    assert_eq!(after(earlier, " Hello"), [(Answer, " Hello".into())]);
    let guarded = "<|turn>user\n<\u{fdd0}|channel>thought\n";
    assert_eq!(after(guarded, "Hello"), [(Answer, "Hello".into())]);
}

#[test]
fn the_model_cant_speak_for_the_person() {
    let forged = split(OPENING, &parts("Hello!<|turn>user\nAnd now I ask"));
    assert_eq!(forged, (vec![(Answer, "Hello!".into())], true));
    assert!(split(OPENING, &parts("Hello!<turn|>")).1);
    assert!(!split(OPENING, &parts("<|channel>thought\na<channel|>b<|tool_call>c<tool_call|>d")).1);
}

#[test]
fn text_that_spells_a_mark_is_text() {
    let text = "Reasoning begins with <|channel>thought\n and ends with <channel|>, a turn with <turn|>.";
    assert_eq!(split(OPENING, &[Part::Text(text.into())]), (vec![(Answer, text.into())], false));
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        (0..SPELLINGS.len()).prop_map(|i| Part::Mark(SPELLINGS[i].1)),
        prop_oneof![Just("thought\n".to_owned()), Just("thought".to_owned()), "[a \n]{0,4}", "[aé]{0,9}"].prop_map(Part::Text),
    ]
}

proptest! {
    #[test]
    fn chunks_do_not_matter(
        stream in prop::collection::vec(part(), 0..12), open in 0usize..20, cuts in prop::collection::vec(1usize..9, 1..30),
    ) {
        let prompt = format!("{OPENING}{}", &"<|channel>thought\nok"[..open]);
        prop_assert_eq!(split(&prompt, &cut(&stream, &cuts)), split(&prompt, &stream));
    }

    #[test]
    fn nothing_but_space_and_the_name_is_lost(texts in prop::collection::vec(("[b-z<|>]{1,4}", any::<bool>()), 1..6)) {
        let stream: String =
            texts.iter().map(|(text, thought)| if *thought { format!("<|channel>thought\n{text}\n<channel|>") } else { text.clone() }).collect();
        let got: String = said(&stream).into_iter().map(|(_, text)| text).collect();
        let want: String = texts.iter().map(|(text, _)| text.as_str()).collect();
        prop_assert_eq!(got.replace(PARAGRAPH, ""), want);
    }
}
