//! The word that a mistyped one was likely meant to be.

/// Most letters by which a word may differ from what was meant.
const MOST_EDITS: usize = 2;

/// The one of `known` that is at most two letters (one, for words of three or less) away from `word`; the nearest, by name among equals.
#[must_use]
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let most = if word.len() <= 3 { 1 } else { MOST_EDITS };
    let best = known.iter().map(|k| (edits(word, k), *k)).min();
    best.filter(|(distance, _)| *distance <= most).map(|(_, k)| k)
}

/// Letters of the first 32 bytes that are put in, left out, replaced, or swapped with their neighbour.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(32)], &b.as_bytes()[..b.len().min(32)]);
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if swapped {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word_and_another_word_does_not() {
        let known = ["simulate", "replay", "run", "record"];
        for (typed, meant) in
            [("simualte", Some("simulate")), ("simulat", Some("simulate")), ("rnu", Some("run")), ("repaly", Some("replay"))]
        {
            assert_eq!(nearest(typed, &known), meant, "{typed}");
        }
        for other in ["", "a", "qwen", "model.gguf", "demo", "simulacrum"] {
            assert_eq!(nearest(other, &known), None, "{other}");
        }
    }
}
