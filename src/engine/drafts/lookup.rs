//! Drafts from what was there before: text repeats itself, above all where a model quotes, edits or lists.
//!
//! Where the last three tokens have stood once before, what came after them then is likely to come again (prompt lookup decoding,
//! Saxena 2023; `ngram` speculation in vLLM). The longer the two pasts are alike, the likelier.

use std::collections::HashMap;

/// Tokens that must be the same for a place to count.
const GRAM: usize = 3;
/// Entries of text that is gone which may stay.
const ROOM: usize = 4096;
/// As far back two pasts are compared.
const FAR: usize = 16;

/// Where in the context each three tokens stood last.
#[derive(Default)]
pub(super) struct Lookup {
    /// Three tokens, and the place after them.
    last: HashMap<[u32; GRAM], usize>,
    /// Places whose three tokens are in `last`, from 0 on.
    indexed: usize,
}

/// What came after a similar moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    /// The tokens that came then.
    pub(super) tokens: Vec<u32>,
    /// Last tokens that both moments have in common.
    pub(super) alike: usize,
}

impl Lookup {
    /// The context has changed beyond `len`.
    pub(super) fn cut(&mut self, len: usize) {
        // What `last` says of places beyond is found out when it is looked up; but chats come and go.
        if len == 0 || self.last.len() > 2 * len + ROOM {
            self.last.clear();
            self.indexed = 0;
        }
        self.indexed = self.indexed.min(len.saturating_sub(GRAM - 1));
    }

    /// What came after the moment of before that is most like the present one, at the end of `context` and `next`: at most `most` tokens.
    pub(super) fn find(&mut self, context: &[u32], next: u32, most: usize) -> Option<Found> {
        for (at, gram) in context.windows(GRAM).enumerate().skip(self.indexed) {
            self.last.insert([gram[0], gram[1], gram[2]], at + GRAM);
        }
        self.indexed = (context.len() + 1).saturating_sub(GRAM);

        let end = context.len();
        // The present moment, from its end.
        let now = |back: usize| if back == 0 { Some(next) } else { context.get(end.checked_sub(back)?).copied() };
        let place = *self.last.get(&[now(2)?, now(1)?, next])?;
        let then = |back: usize| context.get(place.checked_sub(back + 1)?).copied();
        let alike = (0..FAR).take_while(|&back| now(back).is_some() && now(back) == then(back)).count();
        if alike < GRAM {
            return None;
        }
        let mut tokens: Vec<u32> = context[place..].iter().copied().chain([next]).take(most).collect();
        // A moment so near that the present follows it: what repeats itself goes on doing so.
        let period = tokens.len();
        while tokens.len() < most {
            tokens.push(tokens[tokens.len() - period]);
        }
        Some(Found { tokens, alike })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is found at the end of a text of bytes, whose last is the one that was drawn.
    fn found(text: &str, most: usize) -> Option<(String, usize)> {
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let (next, context) = tokens.split_last().unwrap();
        let found = Lookup::default().find(context, *next, most)?;
        Some((found.tokens.iter().map(|&t| char::from(t as u8)).collect(), found.alike))
    }

    #[test]
    fn what_came_after_the_same_words_comes_again() {
        assert_eq!(found("the cat sat; the c", 4), Some(("at s".into(), 5)), "\"the c\", and what is before differs");
        assert_eq!(found("abcd abce abc", 2), Some(("e ".into(), 4)), "the latest of two moments");
        assert_eq!(found("abcdefgh", 4), None);
        assert_eq!(found("ab", 4), None);
        assert_eq!(found("a", 4), None);
    }

    #[test]
    fn what_repeats_itself_goes_on() {
        assert_eq!(found("ababab", 5).unwrap().0, "ababa");
        assert_eq!(found("xyzxyzx", 7).unwrap().0, "yzxyzxy");
        assert_eq!(found("aaaa", 3).unwrap().0, "aaa");
    }

    #[test]
    fn a_long_past_in_common_is_told_up_to_a_bound() {
        let text = "0123456789abcdefghij";
        assert_eq!(found(&format!("{text}!{text}"), 1), Some(("!".into(), FAR)));
    }

    #[test]
    fn a_context_that_was_cut_and_goes_on_otherwise_is_looked_at_anew() {
        let bytes = |s: &str| s.bytes().map(u32::from).collect::<Vec<u32>>();
        let mut lookup = Lookup::default();
        assert!(lookup.find(&bytes("one two three"), 32, 2).is_none());
        // "two" is gone with what followed it.
        lookup.cut(4);
        assert_eq!(lookup.find(&bytes("one ten; t"), u32::from(b'w'), 2), None);
        assert_eq!(lookup.find(&bytes("one ten; t"), u32::from(b'e'), 3).unwrap().tokens, bytes("n; "));
    }

    proptest! {
        #[test]
        fn going_on_step_by_step_finds_what_looking_at_the_whole_does(
            tokens in prop::collection::vec(0u32..4, 2..80), cut in 0usize..80, other in prop::collection::vec(0u32..4, 1..40),
        ) {
            let mut lookup = Lookup::default();
            let mut context: Vec<u32> = Vec::new();
            for &t in &tokens {
                prop_assert_eq!(lookup.find(&context, t, 5), Lookup::default().find(&context, t, 5));
                context.push(t);
            }
            let cut = cut.min(context.len());
            context.truncate(cut);
            lookup.cut(cut);
            for &t in &other {
                let found = lookup.find(&context, t, 5);
                if let Some(found) = &found {
                    let whole: Vec<u32> = context.iter().copied().chain([t]).collect();
                    let past = &whole[whole.len() - found.alike..];
                    prop_assert!(whole.windows(found.alike).filter(|w| *w == past).count() > 1, "there is such a moment before");
                }
                context.push(t);
            }
        }
    }
}
