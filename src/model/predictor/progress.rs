//! How far the block that guesses has read, whatever holds its rows.
//!
//! It reads late: what follows a token must be known before the token's row can be read. The rows of the last pass are kept until then, and those of single tokens until there are
//! [`MANY`]: read together they take little more than one, and nobody may ever ask for a guess.

/// So many unread rows are read before a single token is.
pub(crate) const MANY: usize = 64;

/// Rows that are to be read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The first of them among the rows that are kept.
    pub(crate) row: usize,
    /// Its position in the block's own cache.
    pub(crate) at: usize,
    /// What follows each of them.
    pub(crate) next: Vec<u32>,
}

/// Positions of the context: which the block has read, and which rows are kept.
///
/// The block's cache begins at a position of the context, `base`. Where rows are lost that it has not read, it begins anew behind them: rotation knows distances
/// only, so a shorter context makes its guesses worse and nothing else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    base: usize,
    /// Positions below it, from `base` on, are read.
    read: usize,
    /// What followed the last of them.
    followed: Option<u32>,
    /// Position of the first row that is kept.
    first: usize,
    /// The tokens of those rows, which end where the context does.
    tokens: Vec<u32>,
}

impl Progress {
    fn end(&self) -> usize {
        self.first + self.tokens.len()
    }

    /// `next` is known to follow the context. Answers how many rows are unread then.
    fn follows(&mut self, next: u32) -> usize {
        let end = self.end();
        if self.tokens.is_empty() {
            return 0;
        }
        if self.base > self.first || self.read < self.first {
            (self.base, self.read) = (self.first, self.first);
        }
        if self.followed != Some(next) {
            self.read = self.read.min(end - 1);
        }
        end - self.read
    }

    fn batch(&self, next: u32) -> Option<Batch> {
        let row = self.read.checked_sub(self.first)?;
        let next: Vec<u32> = self.tokens.get(row..)?.iter().skip(1).copied().chain([next]).collect();
        (self.read < self.end()).then_some(Batch { row, at: self.read - self.base, next })
    }

    /// The rows to be read before a guess behind `next`, which follows the context: what is unread, and in any case the last. `None` if there are none. The caller reads them, and says so by
    /// [`Progress::done`].
    pub(crate) fn before_guess(&mut self, next: u32) -> Option<Batch> {
        self.follows(next);
        self.read = self.read.min(self.end().saturating_sub(1));
        self.batch(next)
    }

    /// The same before a pass over `tokens`, if rows are to be read before it.
    pub(crate) fn before_pass(&mut self, tokens: &[u32]) -> Option<Batch> {
        let next = *tokens.first()?;
        let unread = self.follows(next);
        // So many rows are kept at most behind those of a pass.
        if unread == 0 || tokens.len() == 1 && self.tokens.len() < MANY {
            return None;
        }
        self.batch(next)
    }

    /// They are read, and `next` followed the last of them.
    pub(crate) fn done(&mut self, next: u32) {
        (self.read, self.followed) = (self.end(), Some(next));
    }

    /// A pass has read `tokens` from position `begin` on. Answers where its rows go among those that are kept: behind them, if some are still unread; else they take their place.
    pub(crate) fn passed(&mut self, begin: usize, tokens: &[u32]) -> usize {
        let end = self.end();
        if self.tokens.is_empty() || self.read >= end || begin != end {
            self.first = begin;
            self.tokens.clear();
        }
        let row = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        row
    }

    /// The context is cut to `len`. Answers how many rows stay. What follows the last of them is another token from now on.
    pub(crate) fn cut(&mut self, len: usize) -> usize {
        if len < self.end() {
            self.read = self.read.min(len.saturating_sub(1));
            self.tokens.truncate(len.saturating_sub(self.first));
            self.first = self.first.min(len);
        }
        self.tokens.len()
    }

    /// No row is kept, but for the last one of the context, which somebody has kept elsewhere.
    pub(crate) fn found_last(&mut self) {
        // What token it is matters for the row before it alone.
        (self.first, self.tokens) = (self.first.saturating_sub(1), vec![0]);
    }

    /// The row among those that are kept behind which the context has `len` tokens.
    pub(crate) fn row_before(&self, len: usize) -> Option<usize> {
        (len > self.first && len <= self.end()).then(|| len - 1 - self.first)
    }

    /// No row is kept.
    #[cfg(test)]
    pub(crate) fn lose(&mut self) {
        (self.first, self.tokens) = (self.end(), Vec::new());
    }

    /// Where the row behind the context goes in the block's cache.
    pub(crate) fn behind(&self) -> usize {
        self.end().saturating_sub(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(row: usize, at: usize, next: &[u32]) -> Option<Batch> {
        Some(Batch { row, at, next: next.to_vec() })
    }

    fn read(p: &mut Progress, next: u32) -> Option<Batch> {
        let batch = p.before_pass(&[next, 0]);
        p.done(next);
        batch
    }

    #[test]
    fn a_row_is_read_when_what_follows_it_is_known() {
        let mut p = Progress::default();
        assert_eq!(p.before_guess(5), None, "an empty context");
        assert_eq!(p.passed(0, &[10, 11, 12]), 0);
        assert_eq!(read(&mut p, 13), batch(0, 0, &[11, 12, 13]));
        assert_eq!((p.before_pass(&[13, 0]), p.behind()), (None, 3));
        assert_eq!(p.passed(3, &[13]), 0);
        assert_eq!(read(&mut p, 14), batch(0, 3, &[14]));
        assert_eq!(p.before_guess(14), batch(0, 3, &[14]), "its guess is asked for once more");
        assert_eq!(read(&mut p, 15), batch(0, 3, &[15]), "something else follows");
    }

    #[test]
    fn single_tokens_are_read_together() {
        let mut p = Progress::default();
        p.passed(0, &[1, 2]);
        read(&mut p, 3);
        for i in 0..MANY as u32 {
            assert_eq!(p.before_pass(&[3 + i]), None);
            assert_eq!(p.passed(2 + i as usize, &[3 + i]), i as usize);
        }
        let next: Vec<u32> = (4..4 + MANY as u32).collect();
        let last = *next.last().unwrap();
        assert_eq!(p.before_pass(&[last]), batch(0, 2, &next));
        assert_eq!(p.before_guess(last), batch(0, 2, &next));
        p.done(last);
        assert_eq!(p.passed(2 + MANY, &[last]), 0);
        // What was guessed behind did not come: that row is read once more, with what came.
        p.before_guess(70);
        p.done(70);
        assert_eq!(p.before_pass(&[71]), None);
        assert_eq!(p.passed(3 + MANY, &[71]), 1);
        assert_eq!(read(&mut p, 72), batch(0, 2 + MANY, &[71, 72]));
    }

    #[test]
    fn behind_the_rows_of_a_whole_chunk_none_are_kept() {
        let mut p = Progress::default();
        let chunk: Vec<u32> = (0..100).collect();
        p.passed(0, &chunk);
        read(&mut p, 7);
        // The pass that 7 was to begin has not come about, and another token follows, alone: its row would be the 101st.
        assert_eq!(p.before_pass(&[8]), batch(99, 99, &[8]));
        p.done(8);
        assert_eq!(p.passed(100, &[8]), 0);
    }

    #[test]
    fn what_is_cut_off_is_read_again() {
        let mut p = Progress::default();
        p.passed(0, &[10, 11]);
        read(&mut p, 12);
        p.passed(2, &[12, 13, 14]);
        read(&mut p, 15);
        assert_eq!(p.cut(9), 3, "a context can't be lengthened");
        assert_eq!(p.before_pass(&[15, 0]), None);
        assert_eq!(p.cut(4), 2);
        assert_eq!(read(&mut p, 15), batch(1, 3, &[15]), "what followed it was another token");
        // Within the last pass, nothing of which has been read.
        p.passed(4, &[15, 16, 17]);
        assert_eq!(p.cut(5), 1);
        assert_eq!(read(&mut p, 20), batch(0, 4, &[20]));
        assert_eq!(p.cut(0), 0);
        p.passed(0, &[1, 2]);
        assert_eq!(read(&mut p, 3), batch(0, 0, &[2, 3]));
    }

    #[test]
    fn it_begins_anew_behind_rows_that_are_lost_unless_the_last_is_found() {
        let start = || {
            let mut p = Progress::default();
            p.passed(0, &[1, 2, 3, 4]);
            read(&mut p, 5);
            p.passed(4, &[5, 6]);
            read(&mut p, 7);
            assert_eq!(p.cut(3), 0);
            p
        };
        let mut p = start();
        assert_eq!(p.before_guess(8), None);
        p.passed(3, &[8, 9]);
        assert_eq!(read(&mut p, 10), batch(0, 0, &[9, 10]));
        p.passed(5, &[10]);
        assert_eq!(read(&mut p, 11), batch(0, 2, &[11]));
        // Back to before it began.
        assert_eq!(p.cut(2), 0);
        p.passed(2, &[1]);
        assert_eq!(read(&mut p, 2), batch(0, 0, &[2]));
        let mut p = start();
        p.found_last();
        assert_eq!(read(&mut p, 8), batch(0, 2, &[8]));
        p.passed(3, &[8, 9]);
        assert_eq!(read(&mut p, 10), batch(0, 3, &[9, 10]));
    }
}
