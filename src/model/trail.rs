//! The states of a recurrent layer after each token of a pass that may be taken back in part.
//!
//! Tokens that were guessed are read together with the one before them, and those that turn out wrong are taken back. Keys and values
//! are simply cut; of a recurrent state the pass leaves a copy after every token but the last. They last until the next pass.

/// Copies of a state, one after each token of a pass, by the length of the context.
pub struct Trail<S> {
    /// The length after the first copy.
    first: usize,
    states: Vec<S>,
    /// Copies of before, whose memory can be used again.
    spare: Vec<S>,
}

impl<S> Default for Trail<S> {
    fn default() -> Self {
        Self { first: 0, states: Vec::new(), spare: Vec::new() }
    }
}

impl<S> Trail<S> {
    /// Nothing is kept any more.
    pub fn clear(&mut self) {
        self.spare.append(&mut self.states);
    }

    /// An old copy, to be overwritten.
    pub fn spare(&mut self) -> Option<S> {
        self.spare.pop()
    }

    /// Keep the state at `len`, one more than the last. What comes after a gap is not kept.
    pub fn push(&mut self, len: usize, state: S) {
        if self.states.is_empty() {
            self.first = len;
        }
        let follows = self.first + self.states.len() == len;
        if follows { &mut self.states } else { &mut self.spare }.push(state);
    }

    /// The state at exactly this length.
    #[must_use]
    pub fn get(&self, len: usize) -> Option<&S> {
        self.states.get(len.checked_sub(self.first)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_until_it_is_cleared_and_its_memory_is_used_again() {
        let mut trail = Trail::<Vec<u8>>::default();
        assert!(trail.get(0).is_none());
        for len in 5..8usize {
            assert!(trail.spare().is_none());
            trail.push(len, vec![len as u8]);
        }
        trail.push(9, vec![9]);
        assert!(trail.get(9).is_none(), "after a gap");
        assert_eq!([4, 5, 7, 8].map(|len| trail.get(len).cloned()), [None, Some(vec![5]), Some(vec![7]), None]);
        trail.clear();
        assert!(trail.get(5).is_none());
        assert_eq!(std::iter::from_fn(|| trail.spare()).count(), 4);
        trail.push(20, vec![20]);
        assert_eq!((trail.get(20), trail.get(21)), (Some(&vec![20]), None));
    }
}
