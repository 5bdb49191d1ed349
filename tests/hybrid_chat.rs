//! Chats with small models of the Qwen3.5 family, and of LFM2, whose state can't be cut: what is read again, and what never is.

mod chat;

use chat::{assistant, greedy, user, Chat, Turn};
use rotary::events::{DeviceChoice, Event, FinishReason, LoadOptions, Message, MissChoice, ModelSource, Phase, TextKind, When};
use rotary::gguf::write::Writer;
use rotary::gguf::Gguf;

/// A small model of the Qwen3.5 family, most of whose layers have a state that can't be cut.
fn hybrid() -> Chat {
    hybrid_on(DeviceChoice::Cpu)
}

/// The same on a device. All its experts have slots, and what is read in whatever chunks is computed in one way.
fn hybrid_on(device: DeviceChoice) -> Chat {
    hybrid_of("q35-strict", 2048, device)
}

/// One of the reference models.
fn hybrid_of(case: &str, context: usize, device: DeviceChoice) -> Chat {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(case).join("model.gguf");
    let options =
        LoadOptions { context: Some(context), threads: Some(2), kv_f32: true, device, miss: MissChoice::Gpu, ..LoadOptions::default() };
    Chat::open(ModelSource::Path(path), options)
}

/// Prompt tokens that the records of the steps since the last call say were read.
fn read(chat: &mut Chat) -> usize {
    chat.records().iter().filter(|r| r.phase == Phase::Prefill).map(|r| r.tokens as usize).sum()
}

/// Tokens of the generation prompt, and what stands between the last message and it.
const OPENING: usize = 16;

#[test]
fn a_recurrent_model_asked_again_reads_the_generation_prompt_and_nothing_else() {
    for device in [DeviceChoice::Cpu, DeviceChoice::Simulated] {
        asked_again(hybrid_on(device));
        asked_again(hybrid_of("lfm2moe", 1024, device));
    }
}

fn asked_again(mut chat: Chat) {
    let question = || vec![user("What is the capital of France? Think of a large city at a river, and of its tower.")];
    let first = chat.ask(question(), greedy(20));
    assert_eq!(read(&mut chat), first.stats.prompt_tokens);
    assert!(first.stats.prompt_tokens > 4 * OPENING, "{:?}", first.stats);
    for _ in 0..3 {
        let again = chat.ask(question(), greedy(20));
        assert_eq!(again.text, first.text);
        let new = read(&mut chat);
        assert!(new < OPENING, "{new} tokens were read again, of {}", first.stats.prompt_tokens);
        assert_eq!(again.stats.reused_tokens + new, first.stats.prompt_tokens);
    }
}

#[test]
fn a_recurrent_model_reads_only_what_is_new_over_three_turns_and_what_follows_an_edit() {
    let said = ["Count the stars that you can see tonight.", "And tomorrow, when the moon is up?", "Then tell me about the sea."];
    let mut chat = hybrid();
    let mut history = Vec::new();
    let mut prompts = Vec::new();
    for text in said {
        history.push(user(text));
        let turn = chat.ask(history.clone(), greedy(12));
        let new = read(&mut chat);
        assert_eq!(turn.stats.reused_tokens + new, turn.stats.prompt_tokens);
        let fresh = hybrid().ask(history.clone(), greedy(12));
        assert_eq!(turn.text, fresh.text, "as if all had been read anew");
        // The answers are noise and need not be spelled in the tokens that the template's text gives, so the answer itself may
        // be read again; nothing before it is.
        if let Some(before) = prompts.last() {
            assert!(turn.stats.reused_tokens + OPENING > *before, "{:?} after a prompt of {before}", turn.stats);
        }
        prompts.push(turn.stats.prompt_tokens);
        history.push(assistant(&turn.text));
    }
    // The last message is written anew: everything before it stays.
    history.truncate(4);
    history.push(user("No, of the mountains in the north."));
    let turn = chat.ask(history.clone(), greedy(12));
    assert!(turn.stats.reused_tokens + OPENING > prompts[1], "{:?}, prompts {prompts:?}", turn.stats);
    assert_eq!(turn.text, hybrid().ask(history.clone(), greedy(12)).text);
    read(&mut chat);
    // An earlier one: what stands before it is the first turn, which is not read again.
    history.truncate(2);
    history.push(user("Only the red ones, please."));
    let turn = chat.ask(history.clone(), greedy(12));
    let new = read(&mut chat);
    assert_eq!(turn.stats.reused_tokens + new, turn.stats.prompt_tokens);
    assert!(turn.stats.reused_tokens + OPENING > prompts[0], "{:?}, prompts {prompts:?}", turn.stats);
    assert_eq!(turn.text, hybrid().ask(history, greedy(12)).text);
}

#[test]
fn an_answer_is_the_same_whether_the_model_guesses_along_or_not() {
    let said = |device, draft| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/q35-strict/model.gguf");
        let options = LoadOptions {
            context: Some(512),
            threads: Some(2),
            kv_f32: true,
            device,
            miss: MissChoice::Gpu,
            draft,
            ..LoadOptions::default()
        };
        let mut chat = Chat::open(ModelSource::Path(path), options);
        let mut history = vec![user("Tell me of the sea, the mountains and the sea.")];
        let first = chat.ask(history.clone(), greedy(40));
        let layers = chat.records().last().unwrap().layers();
        history.extend([assistant(&first.text), user("Go on.")]);
        let second = chat.ask(history, greedy(20));
        let drafted = first.stats.drafted_tokens + second.stats.drafted_tokens;
        ((first.text, second.text, second.stats.reused_tokens, first.stats.generated_tokens), drafted, layers)
    };
    for device in [DeviceChoice::Cpu, DeviceChoice::Simulated] {
        let (alone, none, layers) = said(device, When::Never);
        assert_eq!(none, 0);
        for draft in [When::Always, When::Auto] {
            let (along, drafted, with_the_block) = said(device, draft);
            assert_eq!(along, alone, "{device:?}, {draft:?}");
            assert_eq!(with_the_block, layers + 1);
            assert!(draft == When::Auto || drafted > 40, "a random model guesses seldom right, but it guesses: {drafted}");
        }
    }
}

#[test]
fn a_recurrent_model_cancelled_in_the_prompt_goes_on_where_it_stopped() {
    let long = "One more word about the weather. ".repeat(60);
    let mut chat = hybrid();
    let turn = chat.ask_with(vec![user(&long)], greedy(8), |engine, event| {
        if matches!(event, Event::Prefill { done, total, .. } if *done > 0 && done < total) {
            engine.signals.cancel();
        }
    });
    assert_eq!(turn.reason, FinishReason::Cancelled);
    let read_before = read(&mut chat);
    assert!(read_before > 0 && read_before < turn.stats.prompt_tokens, "{:?}", turn.stats);
    let again = chat.ask(vec![user(&long)], greedy(8));
    assert_eq!(again.stats.reused_tokens, read_before, "no chunk was read twice");
    assert_eq!(again.text, hybrid().ask(vec![user(&long)], greedy(8)).text);
    // And while it answers: what was said stays in the context.
    let turn = chat.ask_with(vec![user("Go on with the story of the weather and the sea.")], greedy(400), |engine, event| {
        if matches!(event, Event::Text { .. }) {
            engine.signals.cancel();
        }
    });
    let next = chat.ask(vec![user("Go on with the story of the weather and the sea."), assistant(&turn.text), user("And?")], greedy(8));
    assert!(next.stats.reused_tokens + OPENING > turn.stats.prompt_tokens, "{:?}", next.stats);
    assert_eq!(
        next.text,
        hybrid().ask(vec![user("Go on with the story of the weather and the sea."), assistant(&turn.text), user("And?")], greedy(8)).text
    );
}

#[test]
fn a_recurrent_model_that_thinks_reads_its_answer_anew_without_the_thoughts_and_nothing_before_it() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures/q35-strict/model.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let mut w = Writer::empty();
    gguf.metadata().for_each(|(key, value)| w.set(key, value.clone()));
    w.set("tokenizer.chat_template", include_str!("templates/qwen3.5.jinja"));
    gguf.tensors().for_each(|t| w.tensor(&t.name, t.ty, &t.dims, gguf.bytes(t).to_vec()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thinks.gguf");
    w.save(&path).unwrap();
    let open = || Chat::open(ModelSource::Path(path.clone()), LoadOptions { context: Some(1024), kv_f32: true, ..LoadOptions::default() });
    let mut chat = open();
    let question = user("How many legs do three spiders and two birds have together?");
    let first = chat.ask(vec![question.clone()], greedy(60));
    assert!(first.stats.thinking_tokens > 40, "the prompt leaves the thinking open: {:?}", first.stats);
    assert!(first.events.iter().any(|e| matches!(e, Event::Text { kind: TextKind::Thinking, .. })));
    read(&mut chat);
    let said = Message { thinking: Some("eight and two".into()), ..assistant("Twenty-eight.") };
    let history = vec![question, said, user("And without the birds?")];
    let second = chat.ask(history.clone(), greedy(20));
    assert!(second.stats.reused_tokens + OPENING > first.stats.prompt_tokens, "{:?} after {:?}", second.stats, first.stats);
    assert_eq!(read(&mut chat), second.stats.prompt_tokens - second.stats.reused_tokens);
    let words = |t: &Turn| {
        t.events.iter().filter_map(|e| if let Event::Text { text, .. } = e { Some(text.clone()) } else { None }).collect::<String>()
    };
    assert_eq!(words(&second), words(&open().ask(history, greedy(20))));
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_before_any_work_with_the_numbers() {
    let mut chat = hybrid();
    chat.ask(vec![user("Good morning, how is the weather today?")], greedy(4));
    read(&mut chat);
    let turn = chat.ask(vec![user(&"many words ".repeat(1000))], greedy(4));
    assert_eq!((turn.reason, read(&mut chat)), (FinishReason::Failed, 0));
    let told = turn.events.iter().find_map(|e| if let Event::Failed { message, .. } = e { Some(message.clone()) } else { None }).unwrap();
    assert!(told.contains("2048") && told.contains("--ctx"), "{told}");
    // The context is as it was.
    let again = chat.ask(vec![user("Good morning, how is the weather today?")], greedy(4));
    assert!(again.stats.prompt_tokens - again.stats.reused_tokens < OPENING, "{:?}", again.stats);
}
