//! Whether two traces are of the same text: differences of their hits are then of slots and policies alone.

use super::open::{open, Trace};
use super::routes::Routes;
use super::session::{Entry, Session};
use crate::events::{Event, Phase, RoutedExpert};
use std::path::Path;

/// Whether two traces say different things, as far as both go: by their words where both have some, otherwise by the experts that were
/// routed to, which depend on the text and on little else. A trace that ends earlier says the same. Files that can't be read say nothing here.
#[must_use]
pub fn of_different_text(files: [&Path; 2], routes: [&Routes; 2]) -> bool {
    match files.map(words_in) {
        [Some(a), Some(b)] => !a.starts_with(&b) && !b.starts_with(&a),
        _ => routed_otherwise(routes),
    }
}

/// What was asked and answered in two sessions is not the same.
pub fn sessions_differ(a: &mut Session, b: &mut Session) -> bool {
    match [words(a), words(b)] {
        [Some(a), Some(b)] => !a.starts_with(&b) && !b.starts_with(&a),
        _ => false,
    }
}

fn words_in(file: &Path) -> Option<String> {
    match open(file).ok()? {
        Trace::Session(mut session) => words(&mut session),
        Trace::Routes(_) => None,
    }
}

/// Questions and answers, one after the other; `None` if there are none.
fn words(session: &mut Session) -> Option<String> {
    let mut out = String::new();
    for i in 0..session.len() {
        match session.get(i)?.entry {
            Entry::Question(question) => out += &question.text,
            Entry::Event(Event::Text { text, .. }) => out += &text,
            Entry::Event(_) | Entry::Step(_) => {}
        }
    }
    (!out.is_empty()).then_some(out)
}

/// A share of ticks that differ by more than rounding, on another device or from another quantization, makes of them.
const OTHERWISE: f64 = 0.1;

/// Tokens were generated that mostly chose other experts.
fn routed_otherwise([a, b]: [&Routes; 2]) -> bool {
    let generated = |r: &Routes| (0..r.len()).filter(|&i| r.steps()[i].phase == Phase::Decode).collect::<Vec<_>>();
    let chosen = |of: &[RoutedExpert]| {
        let mut ids: Vec<u16> = of.iter().map(|e| e.expert).collect();
        ids.sort_unstable();
        ids
    };
    let layers = a.head.layers.min(b.head.layers);
    let pairs = generated(a).into_iter().zip(generated(b));
    let ticks = pairs.flat_map(|(i, j)| (0..layers).map(move |l| (a.tick(i, l), b.tick(j, l))));
    let (mut all, mut otherwise) = (0u64, 0u64);
    for (one, other) in ticks {
        all += 1;
        otherwise += u64::from(chosen(one) != chosen(other));
    }
    otherwise as f64 > OTHERWISE * all as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::TextKind;
    use crate::trace::record::Recorder;

    fn session(asked: &str, answered: &str) -> Session {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes).unwrap();
        recorder.question(1, asked);
        recorder.event(&Event::Text { id: 1, text: answered.into(), kind: TextKind::Answer, step: 0 });
        recorder.finish().unwrap();
        Session::from_bytes(bytes).unwrap()
    }

    #[test]
    fn the_same_words_are_the_same_text_and_so_are_fewer_of_them() {
        let differ = |a: [&str; 2], b: [&str; 2]| sessions_differ(&mut session(a[0], a[1]), &mut session(b[0], b[1]));
        assert!(!differ(["why?", "because"], ["why?", "because"]));
        assert!(!differ(["why?", "because"], ["why?", "beca"]), "it ended earlier");
        assert!(differ(["why?", "because"], ["why?", "therefore"]));
        assert!(differ(["why?", "because"], ["how?", "because"]));
        assert!(!differ(["", ""], ["why?", ""]), "nothing is known of one of them");
    }

    #[test]
    fn without_words_routing_tells() {
        let routes = |name: &str| {
            let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces")).join(name);
            crate::trace::open::open_routes(&file).unwrap()
        };
        let (qwen, gpt) = (routes("qwen3-30b-a3b.rotary"), routes("gpt-oss-120b.rotary"));
        assert!(routed_otherwise([&qwen, &gpt]));
        let mut shorter = qwen.clone();
        shorter.truncate(60);
        assert!(!routed_otherwise([&qwen, &shorter]));
    }
}
