//! Walking over the chat's tokens: the way of the token cursor.
//!
//! Tokens are counted over the whole chat, those of the model at hand only. All of this works on what is laid out, so a
//! token is found wherever wrapping, Markdown or a fold has put it; one that is not drawn (a mark of Markdown, a line
//! break, folded reasoning) is still there to be stood on.

use super::origin::Run;
use super::token_spans::Span;
use super::transcript::{Item, Part, Transcript};
use std::ops::Range;

/// Where a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Item of the chat.
    pub item: usize,
    /// Reasoning or text.
    pub part: Part,
    /// The piece, which neighbouring tokens may share.
    pub span: Span,
}

/// Columns of a row, with the tokens that they show.
pub fn row_tokens(item: &Item, row: usize, epoch: u64) -> impl Iterator<Item = (Range<usize>, Span)> + '_ {
    let tokens = item.tokens_of(item.part(row));
    let runs: &[Run] = item.rows().get(row).map_or(&[], |r| &r.origin);
    runs.iter().flat_map(move |run| {
        let spans = tokens.within(epoch, run.source..run.source + run.bytes);
        spans.iter().map(|span| (run.columns_of(span.start, span.end), *span)).filter(|(columns, _)| !columns.is_empty())
    })
}

impl Transcript {
    fn spans(&self, epoch: u64) -> impl Iterator<Item = Place> + '_ {
        self.items().iter().enumerate().flat_map(move |(item, i)| {
            let of = |part| i.tokens_of(part).of(epoch).iter().map(move |span| Place { item, part, span: *span });
            of(Part::Thought).chain(of(Part::Text))
        })
    }

    /// Tokens of the model at hand in the chat.
    #[must_use]
    pub fn token_count(&self, epoch: u64) -> u64 {
        self.spans(epoch).map(|p| p.span.tokens()).sum()
    }

    /// Where the token that `step` chose is, and its number, from 1.
    #[must_use]
    pub fn token_place(&self, epoch: u64, step: u64) -> Option<(Place, u64)> {
        let mut before = 0;
        for place in self.spans(epoch) {
            if (place.span.first..=place.span.last).contains(&step) {
                return Some((place, before + step - place.span.first + 1));
            }
            before += place.span.tokens();
        }
        None
    }

    /// The step that chose token number `number`, from 1.
    #[must_use]
    pub fn token_step(&self, epoch: u64, number: u64) -> Option<u64> {
        let mut left = number.checked_sub(1)?;
        for place in self.spans(epoch) {
            if left < place.span.tokens() {
                return Some(place.span.first + left);
            }
            left -= place.span.tokens();
        }
        None
    }

    /// The text of a place.
    #[must_use]
    pub fn token_text(&self, place: &Place) -> &str {
        let Some(item) = self.items().get(place.item) else { return "" };
        let text = if place.part == Part::Text { item.text.as_str() } else { item.thought().unwrap_or("") };
        text.get(place.span.start..place.span.end).unwrap_or("")
    }

    /// The row on which a place begins, and its column; a folded place is on the row of the fold. `None` if nothing of it is
    /// drawn.
    fn token_row(&self, epoch: u64, place: &Place) -> Option<(usize, usize)> {
        let item = self.items().get(place.item)?;
        if place.part != Part::Text && item.folded() {
            return Some((0, 0));
        }
        (0..item.rows().len()).filter(|&row| (item.part(row) == Part::Text) == (place.part == Part::Text)).find_map(|row| {
            let column = row_tokens(item, row, epoch).find(|(_, span)| *span == place.span)?.0.start;
            Some((row, column))
        })
    }

    /// Scrolls to a place, or to the nearest drawn one before it. The layout must be up to date.
    pub fn reveal_token(&mut self, epoch: u64, place: &Place) {
        let row = self.token_row(epoch, place).or_else(|| {
            let before = self.spans(epoch).take_while(|p| p != place).filter(|p| p.item == place.item).last()?;
            self.token_row(epoch, &before)
        });
        self.reveal(place.item, row.map_or(0, |(row, _)| row));
    }

    /// The token of the nearest row below (or above) that has any, in about the same column.
    #[must_use]
    pub fn token_in_next_row(&self, epoch: u64, place: &Place, down: bool) -> Option<u64> {
        let (row, column) = self.token_row(epoch, place)?;
        let nearest = |item: &Item, row: usize| {
            let tokens = row_tokens(item, row, epoch);
            tokens
                .min_by_key(|(columns, _)| if columns.contains(&column) { 0 } else { columns.start.abs_diff(column) + 1 })
                .map(|(_, s)| s.first)
        };
        let items = self.items();
        if down {
            (place.item..items.len()).find_map(|at| {
                let from = if at == place.item { row + 1 } else { 0 };
                (from..items[at].rows().len()).find_map(|row| nearest(&items[at], row))
            })
        } else {
            (0..=place.item).rev().find_map(|at| {
                let to = if at == place.item { row } else { items[at].rows().len() };
                (0..to).rev().find_map(|row| nearest(&items[at], row))
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::palette::ColorDepth;
    use crate::ui::theme::Theme;
    use crate::ui::transcript::{Kind, Thinking};
    use proptest::prelude::*;

    /// An answer of these tokens, chosen by steps from `first` on.
    fn answer(t: &mut Transcript, thought: &[&str], words: &[&str], first: u64, open: bool) {
        let mut step = first;
        let thinking =
            (!thought.is_empty()).then(|| Thinking { text: thought.concat(), started: None, took: None, tokens: None, done: true, open });
        let mut item = Item::new(Kind::Assistant { thinking, ending: None }, words.concat());
        let mut end = 0;
        for word in thought {
            end += word.len();
            item.thought_tokens.add(1, step, end, None);
            step += 1;
        }
        let (mut end, after) = (0, item.thought_tokens.last());
        for word in words {
            end += word.len();
            item.tokens.add(1, step, end, after);
            step += 1;
        }
        t.push(item);
    }

    fn lay_out(t: &mut Transcript, width: usize) {
        t.lay_out(width, 50, &Theme::built_in("dark", ColorDepth::Indexed256, false));
    }

    /// What is drawn for the token that `step` chose.
    fn drawn(t: &Transcript, step: u64) -> String {
        let mut text = String::new();
        for item in t.items() {
            for row in 0..item.rows().len() {
                let cells: Vec<char> = item.rows()[row].line.to_string().chars().collect();
                for (columns, span) in row_tokens(item, row, 1) {
                    if (span.first..=span.last).contains(&step) {
                        text.extend(&cells[columns]);
                    }
                }
            }
        }
        text
    }

    const WORDS: [&str; 14] = ["The", " **", "quick", "**", " br", "own", " fox", "\n\n", "```", "rust\n", "fn", " main", "()\n", "```"];

    #[test]
    fn tokens_are_found_again_at_every_width() {
        for width in [6, 10, 20, 80] {
            let mut t = Transcript::default();
            answer(&mut t, &["Hm", "m, ", "a", " fox"], &WORDS, 5, true);
            lay_out(&mut t, width);
            for (step, want) in
                [(5, "Hm"), (8, "fox"), (9, "The"), (11, "quick"), (13, "br"), (14, "own"), (15, "fox"), (19, "fn"), (20, "main")]
            {
                let got = drawn(&t, step);
                assert_eq!(got.trim(), want, "step {step} at {width}");
            }
            assert_eq!(drawn(&t, 12).trim(), "", "bold marks are not drawn");
        }
    }

    #[test]
    fn every_token_has_a_number_and_a_text() {
        let mut t = Transcript::default();
        answer(&mut t, &["Hm", "m"], &WORDS, 5, false);
        t.push(Item::new(Kind::User, "more"));
        answer(&mut t, &[], &["Yes", "."], 40, false);
        assert_eq!(t.token_count(1), 18);
        assert_eq!(t.token_count(2), 0);
        for (number, step) in (1..=18u64).zip((5..21).chain(40..42)) {
            assert_eq!(t.token_step(1, number), Some(step));
            assert_eq!(t.token_place(1, step).map(|p| p.1), Some(number));
        }
        assert_eq!(t.token_step(1, 19).or(t.token_step(1, 0)), None);
        let text = |step| t.token_text(&t.token_place(1, step).unwrap().0);
        assert_eq!([text(6), text(8), text(41)], ["m", " **", "."]);
    }

    #[test]
    fn the_cursor_goes_up_and_down_by_rows_through_code_and_over_prompts() {
        let mut t = Transcript::default();
        answer(&mut t, &[], &WORDS, 5, false);
        t.push(Item::new(Kind::User, "more"));
        answer(&mut t, &[], &["Yes", "."], 40, false);
        lay_out(&mut t, 40);
        let step = |from: u64, down| t.token_in_next_row(1, &t.token_place(1, from).unwrap().0, down);
        assert_eq!(step(5, true), Some(15), "from The over the fence to fn");
        assert_eq!(step(15, true), Some(40), "over the prompt to the next answer");
        assert_eq!([step(40, false), step(15, false)], [Some(15), Some(5)]);
        assert_eq!([step(5, false), step(40, true)], [None, None]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_growing_answer_links_its_tokens_as_one_that_came_at_once(
            words in prop::collection::vec("[a-zé ]{1,5}|\n|\n\n|[*]{2}|`|- ", 1..30), width in 4usize..40,
        ) {
            let refs: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut whole = Transcript::default();
            answer(&mut whole, &[], &refs, 0, false);
            lay_out(&mut whole, width);
            let mut grown = Transcript::default();
            answer(&mut grown, &[], &[], 0, false);
            for (step, word) in refs.iter().enumerate() {
                grown.change_answer(|item| {
                    item.text.push_str(word);
                    let end = item.text.len();
                    item.tokens.add(1, step as u64, end, None);
                });
                lay_out(&mut grown, width);
            }
            for step in 0..refs.len() as u64 {
                prop_assert_eq!(drawn(&grown, step), drawn(&whole, step));
            }
        }
    }
}
