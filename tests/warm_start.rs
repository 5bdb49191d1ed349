//! Slots that are filled at the start with what earlier sessions used, on the embedded model.

mod chat;

use chat::{assistant, greedy, user, Chat};
use rotary::events::{Event, LoadOptions, ModelSource, Phase, Sampling, StepRecord, NO_SLOT};
use std::path::Path;

fn options(slots: usize, heat: Option<&Path>) -> LoadOptions {
    LoadOptions { slots: Some(slots), heat: heat.map(Into::into), ..LoadOptions::default() }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).map(|d| d.map(|e| e.unwrap().path()).collect()).unwrap_or_default()
}

const STORY: &str = "Tell me a story about a dog.";
const OTHER: &str = "Hello! What does a fox eat?";

#[test]
fn a_second_start_fills_the_slots_says_so_and_changes_no_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut chat = Chat::open(ModelSource::Demo, options(8, Some(folder.path())));
    let first = chat.ask(vec![user(STORY)], greedy(60));
    assert!(!first.events.iter().any(|e| matches!(e, Event::Notice { .. })), "a first start has nothing to say");
    // The engine has written the heat when it takes the next command.
    chat.load(ModelSource::Demo, options(8, Some(folder.path())));
    let kept = files(folder.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    let Event::Notice { message } = chat.next() else { panic!("nothing was said") };
    assert!(message.contains("48 of 48 slots are filled") && message.contains("earlier tokens"), "{message}");
    chat.records();
    let second = chat.ask(vec![user(STORY)], greedy(60));
    assert_eq!((&second.text, second.reason), (&first.text, first.reason));
    assert!(second.stats.hits > 0 && second.stats.routed == first.stats.routed, "{:?} {:?}", first.stats, second.stats);
    let prompt = chat.records().into_iter().find(|r| r.phase == Phase::Prefill).unwrap();
    let hits = prompt.hits_and_routed().0;
    assert!(hits > 0, "the first chunk of the first prompt finds experts in slots");
}

#[test]
fn damaged_heat_is_named_passed_over_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut chat = Chat::open(ModelSource::Demo, options(8, Some(folder.path())));
    chat.ask(vec![user(OTHER)], greedy(8));
    chat.load(ModelSource::Demo, options(8, None));
    let file = files(folder.path()).pop().unwrap();
    let whole = std::fs::read(&file).unwrap();
    let mut bent = whole.clone();
    bent[100] ^= 1;
    // Of another model: a hash that fits the name of another file only.
    let foreign = folder.path().join("0123456789abcdef.heat");
    std::fs::write(&foreign, &whole).unwrap();
    for (content, word) in [(bent, "damaged"), (whole[..whole.len() / 2].to_vec(), "damaged"), (Vec::new(), "damaged")] {
        std::fs::write(&file, content).unwrap();
        let last = chat.load(ModelSource::Demo, options(8, Some(folder.path())));
        assert!(matches!(last, Event::Ready { .. }), "{last:?}");
        let Event::Notice { message } = chat.next() else { panic!("nothing was said") };
        assert!(message.contains(word) && message.contains(&*file.to_string_lossy()), "{message}");
        chat.records();
        chat.ask(vec![user(OTHER)], greedy(4));
        let first = chat.records().remove(0);
        assert_eq!(first.hits_and_routed().0, 0, "the slots began empty");
        // What the engine writes at the end of a turn is there when it takes the next command.
        chat.load(ModelSource::Demo, options(8, None));
    }
    assert_eq!(std::fs::read(&file).unwrap().len(), whole.len(), "written anew");
    assert_eq!(std::fs::read(&foreign).unwrap(), whole, "others are left alone");
}

#[test]
fn without_a_folder_nothing_is_kept() {
    let mut chat = Chat::open(ModelSource::Demo, options(8, None));
    chat.ask(vec![user(OTHER)], greedy(4));
    let first = chat.records().remove(0);
    assert_eq!(first.hits_and_routed().0, 0);
    assert!(first.slot_of.iter().any(|s| *s != NO_SLOT));
}

/// `cargo test --release --test warm_start -- --ignored --nocapture`: the table of `docs/scheduling.md`.
#[test]
#[ignore = "a measurement"]
fn what_a_warm_start_gains() {
    let drawn = |seed| Sampling { temperature: 0.9, seed: Some(seed), max_tokens: 80, ..Sampling::default() };
    let before = ["Tell me a story about a dog.", "What is your name?", "Tell me a story about a cat and a ball.", "Where do birds sleep?"];
    let after =
        ["Hello! What does a fox eat?", "Tell me a story about a frog and the rain.", "Who lives in the sea?", "Tell me a long story."];
    println!("slots  start  prompt  first 16  first 64 (percent hits, mean of {} chats)", after.len());
    for slots in [4, 8, 12, 16, 24] {
        for warm in [false, true] {
            let mut sums = [(0u64, 0u64); 3];
            for (i, question) in after.iter().enumerate() {
                let folder = tempfile::tempdir().unwrap();
                let mut chat = Chat::open(ModelSource::Demo, options(slots, Some(folder.path())));
                let mut said = Vec::new();
                for (j, q) in before.iter().enumerate() {
                    said.push(user(q));
                    let turn = chat.ask(said.clone(), drawn(j as u64));
                    said.push(assistant(&turn.text));
                }
                chat.load(ModelSource::Demo, options(slots, warm.then_some(folder.path())));
                chat.records();
                chat.ask(vec![user(question)], drawn(50 + i as u64));
                let records = chat.records();
                let (prompt, tokens): (Vec<StepRecord>, Vec<StepRecord>) = records.into_iter().partition(|r| r.phase == Phase::Prefill);
                for (sum, part) in sums.iter_mut().zip([&prompt[..], &tokens[..tokens.len().min(16)], &tokens[..tokens.len().min(64)]]) {
                    for (hits, routed) in part.iter().map(StepRecord::hits_and_routed) {
                        *sum = (sum.0 + hits, sum.1 + routed);
                    }
                }
            }
            let rate = |(hits, routed): (u64, u64)| hits as f64 * 100.0 / routed.max(1) as f64;
            let name = if warm { "warm" } else { "cold" };
            println!("{slots:>5}  {name:<5}  {:>6.1}  {:>8.1}  {:>8.1}", rate(sums[0]), rate(sums[1]), rate(sums[2]));
        }
    }
}
