//! Recorded routing as if several tokens had been read in each step: what reading likely tokens along would ask of slots and machine.

use super::routes::{Routes, RoutesStep};
use crate::events::{Phase, RoutedExpert};

/// The same routing with each `1 + along` tokens that were generated one after the other in one step, as if all but the first had been drafted and were right.
/// What routers foresaw is left out: they are not asked for several tokens.
#[must_use]
pub fn read_along(routes: &Routes, along: usize) -> Routes {
    let mut out = Routes::new(routes.head.clone());
    let mut at = 0;
    while at < routes.len() {
        let first = routes.steps()[at];
        let alike = |s: &&RoutesStep| s.phase == Phase::Decode && s.turn == first.turn;
        let count = routes.steps()[at..].iter().take_while(alike).take(along.saturating_add(1)).count().max(1);
        let layers: Vec<Vec<RoutedExpert>> = (0..routes.head.layers).map(|layer| together(routes, at..at + count, layer)).collect();
        let tokens = routes.steps()[at..at + count].iter().fold(0u32, |sum, s| sum.saturating_add(s.tokens));
        let gained: usize = routes.steps()[at..at + count].iter().map(|s| 1 + usize::from(s.kept)).sum();
        out.push(RoutesStep { tokens, kept: u16::try_from(gained - 1).unwrap_or(u16::MAX), ..first }, layers.iter().map(Vec::as_slice));
        at += count;
    }
    out
}

/// What some steps asked of a layer, each expert once.
fn together(routes: &Routes, steps: std::ops::Range<usize>, layer: usize) -> Vec<RoutedExpert> {
    // One step alone stays in the router's order.
    if steps.len() == 1 {
        return routes.tick(steps.start, layer).to_vec();
    }
    let mut all: Vec<RoutedExpert> = steps.flat_map(|step| routes.tick(step, layer)).copied().collect();
    all.sort_by_key(|r| r.expert);
    all.dedup_by(|next, first| {
        let same = next.expert == first.expert;
        if same {
            first.tokens = first.tokens.saturating_add(next.tokens);
            first.weight += next.weight;
        }
        same
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Outcome;
    use crate::trace::routes::RoutesHead;

    #[test]
    fn tokens_of_a_turn_come_together_and_prompts_stay_as_they_are() {
        let head = RoutesHead { layers: 2, experts: 8, top_k: 2, expert_bytes: vec![10, 20], ..RoutesHead::default() };
        let mut routes = Routes::new(head);
        let used = |expert| RoutedExpert { expert, tokens: 1, weight: 0.5, outcome: Outcome::Miss };
        let ask = |a, b| [used(a), used(b)];
        let mut push = |turn, phase, step, a: [RoutedExpert; 2], b: [RoutedExpert; 2]| {
            routes.push(RoutesStep { turn, phase, step, tokens: 1, kept: 0 }, [&a[..], &b[..]]);
        };
        push(0, Phase::Prefill, 0, ask(7, 1), ask(2, 3));
        push(0, Phase::Decode, 1, ask(5, 1), ask(2, 3));
        push(0, Phase::Decode, 2, ask(1, 0), ask(3, 2));
        push(0, Phase::Decode, 3, ask(6, 4), ask(1, 0));
        push(1, Phase::Decode, 4, ask(4, 6), ask(0, 1));
        let two = read_along(&routes, 1);
        let shape: Vec<_> = two.steps().iter().map(|s| (s.turn, s.phase, s.tokens, s.kept)).collect();
        let decode = Phase::Decode;
        assert_eq!(shape, [(0, Phase::Prefill, 1, 0), (0, decode, 2, 1), (0, decode, 1, 0), (1, decode, 1, 0)]);
        let ids = |step, layer| two.tick(step, layer).iter().map(|r| (r.expert, r.tokens)).collect::<Vec<_>>();
        assert_eq!((ids(0, 0), ids(1, 0), ids(1, 1)), (vec![(7, 1), (1, 1)], vec![(0, 1), (1, 2), (5, 1)], vec![(2, 2), (3, 2)]));
        assert_eq!(ids(2, 0), [(6, 1), (4, 1)], "alone, in the router's order");
        assert_eq!(two.head.expert_bytes, [10, 20]);
        assert_eq!(read_along(&routes, 0), routes);
    }
}
