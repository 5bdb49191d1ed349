//! The words on the screen, and what they mean: shown by the help, and written into `docs/keys.md`.

/// All, under their headings.
pub const SECTIONS: [(&str, &[(&str, &str)]); 2] = [("Words of the heatmap", &HEATMAP), ("Words of the memory pane", &MEMORY)];

/// Words of the heatmap.
const HEATMAP: [(&str, &str); 13] = [
    ("hit", "an expert that a token was routed to was in a slot"),
    ("miss", "it was not: the host computed it, or it was sent to the GPU first"),
    ("miss, let in; in", "it was not, and was copied into a slot for next time; among the misses, too"),
    ("evicted, out", "it lost its slot to one that was let in"),
    ("resident, slot", "it has a slot; lighter the more it was used lately"),
    ("absent, none", "it has none, and was not asked for"),
    ("ahead, asked", "let in before it was asked for; those of them that a token then asked for"),
    ("heat", "how often it was used, each token counting 0.97 of the one after it: about the last 33 tokens"),
    ("gate", "its weight in the sum of the token's experts"),
    ("hit%, lately", "hits among the uses of the layer in answers, by the same 0.97"),
    ("bits, eff", "entropy of the layer's heat, and 2 to that power: how many experts it works with in effect"),
    ("churn, moved", "experts let in, and bytes copied or read for misses, per token of answers"),
    ("regret", "swaps whose loser was needed again within 32 tokens"),
];

/// Words of the memory pane.
const MEMORY: [(&str, &str); 15] = [
    (
        "hits, last 64",
        "share of uses that were hits in the latest generated tokens since slots were changed, 64 at most; then of the session",
    ),
    ("speed", "tokens per second by the time of steps, over the same tokens: what a pace holds off does not count"),
    ("step", "where a step's time goes: trunk (all that every token uses), hits, misses, copies into slots, drawing the token"),
    ("+ - ] [", "what another slot count is expected to bring once it has settled: today's rate moved along the curve; an estimate, without speed if that was off by more than 25 % the last time"),
    ("curve, LRU", "the hit rate that plain LRU would have with any number of slots, from how long ago experts were last used"),
    ("forecast", "what was expected of the last change of slots, and what came in the 64 tokens after the first 32"),
    ("best", "the most that anybody could hit with these slots, who knows the future, since they were changed (192 tokens at most)"),
    ("achieved, LRU", "what hit, and what plain LRU would have hit, on the same tokens"),
    ("chance", "slots by experts: what slots filled at random would hit"),
    ("verdict", "whether the policy or the number of slots is to blame for misses"),
    ("first use", "misses of experts that were never used before"),
    ("capacity, refused", "misses of experts that had lost their slot, and of those that were not let in when they last missed"),
    ("drafts", "tokens per step where likely ones are read along, and how many of them were right"),
    ("in slots, cached", "bytes of experts in slots; bytes of the model's file in the system's page cache"),
    ("drops, link", "records of steps that the screen was too slow for; whether the terminal keeps up"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_explained_in_a_sentence_without_an_end() {
        for (word, meaning) in HEATMAP.iter().chain(&MEMORY) {
            assert!(!word.is_empty() && meaning.len() > 20 && !meaning.ends_with('.'), "{word}: {meaning}");
        }
    }

    #[test]
    fn the_numbers_in_them_are_those_of_the_program() {
        let all: String = HEATMAP.iter().chain(&MEMORY).map(|(_, meaning)| *meaning).collect();
        let decay = crate::ui::experts_state::DECAY;
        for number in [
            format!("{decay} of"),
            format!("last {:.0} tokens", 1.0 / (1.0 - decay)),
            format!("{} tokens", crate::ui::ledger::SOON),
            format!("{} at most", crate::ui::memory_state::WINDOW),
        ] {
            assert!(all.contains(&number), "{number}");
        }
    }
}
