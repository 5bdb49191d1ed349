//! What a turn and its model come to, in words for standard error.

use crate::events::{FinishReason, ModelCard, TurnStats};

/// Tokens per second, or "-" for nothing in no time.
fn rate(tokens: usize, seconds: f64) -> String {
    if tokens == 0 || seconds <= 0.0 {
        "-".into()
    } else {
        format!("{:.1}", tokens as f64 / seconds)
    }
}

/// What was read and said, how fast, and why it ended.
pub(super) fn figures(s: &TurnStats, reason: FinishReason) -> String {
    let read = s.read_tokens();
    let unread = if s.unread_tokens > 0 { format!(", {} not read", s.unread_tokens) } else { String::new() };
    let hits = if s.routed == 0 {
        String::new()
    } else {
        format!(", {:.1} % of routed experts were in slots", 100.0 * s.hits as f64 / s.routed as f64)
    };
    let drafts = match s.drafted_tokens {
        0 => String::new(),
        drafted => format!(", {} of {drafted} drafted tokens were right", s.kept_tokens),
    };
    let why = match reason {
        FinishReason::Stop | FinishReason::Failed => "",
        FinishReason::Length => "; stopped at -n",
        FinishReason::ContextFull => "; the context is full",
        FinishReason::Cancelled => "; cancelled",
    };
    format!(
        "prompt {} tokens ({} reused{unread}), {} tokens/s; answer {} tokens, {} tokens/s{drafts}{hits}; seed {}{why}",
        s.prompt_tokens,
        s.reused_tokens,
        rate(read, s.prefill_s),
        s.generated_tokens,
        // The first token of an answer comes from the prompt's last step.
        rate(s.generated_tokens.saturating_sub(1), s.decode_s),
        s.seed
    )
}

/// "48 layers x 128 experts, 20 slots per layer".
pub(super) fn experts_in_words(card: &ModelCard) -> String {
    if card.layers == 0 {
        return "no routed experts".to_owned();
    }
    format!("{} layers x {} experts, {} slots per layer", card.layers, card.experts, card.plan.slots_per_layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_count_what_was_read_and_not_what_was_reused() {
        let stats = TurnStats {
            prompt_tokens: 120,
            reused_tokens: 100,
            generated_tokens: 11,
            prefill_s: 0.5,
            decode_s: 2.0,
            hits: 3,
            routed: 4,
            seed: 9,
            ..TurnStats::default()
        };
        assert_eq!(
            figures(&stats, FinishReason::Length),
            "prompt 120 tokens (100 reused), 40.0 tokens/s; answer 11 tokens, 5.0 tokens/s, 75.0 % of routed experts were in slots; \
             seed 9; stopped at -n"
        );
    }

    #[test]
    fn what_was_not_read_of_a_prompt_is_not_counted_as_read() {
        let stats = TurnStats { prompt_tokens: 429, reused_tokens: 20, unread_tokens: 209, prefill_s: 2.0, ..TurnStats::default() };
        let text = figures(&stats, FinishReason::Cancelled);
        assert!(text.starts_with("prompt 429 tokens (20 reused, 209 not read), 100.0 tokens/s"), "{text}");
    }

    #[test]
    fn nothing_generated_is_no_division_by_zero() {
        let text = figures(&TurnStats::default(), FinishReason::Cancelled);
        assert!(text.contains("answer 0 tokens, - tokens/s") && text.ends_with("; cancelled"), "{text}");
    }
}
