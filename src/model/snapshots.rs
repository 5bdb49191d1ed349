//! Copies of a recurrent state at some lengths of the context, so that regenerating or editing re-reads little.
//!
//! A recurrent state can't be cut to a prefix as keys and values can. A bounded number of copies is kept; when there is
//! one too many, the one leaves whose neighbours are closest together, so what stays is spread over the context, denser
//! nowhere than needed. The newest is never the one that leaves.

/// At most `room` states, by the length at which they were taken.
pub struct Snapshots<S> {
    room: usize,
    /// Ascending in length.
    kept: Vec<(usize, S)>,
}

impl<S> Snapshots<S> {
    /// Room for this many.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { room, kept: Vec::new() }
    }

    /// Keep the state at `len`, unless that length is kept already (or is 0: the empty state needs no copy).
    pub fn keep(&mut self, len: usize, state: impl FnOnce() -> S) {
        if len == 0 || self.room == 0 {
            return;
        }
        let at = self.kept.partition_point(|(l, _)| *l < len);
        if self.kept.get(at).is_some_and(|(l, _)| *l == len) {
            return;
        }
        if self.kept.len() == self.room {
            let lens: Vec<usize> = self.kept.iter().map(|(l, _)| *l).chain([len]).collect();
            self.kept.remove(crowded(&lens));
        }
        let at = self.kept.partition_point(|(l, _)| *l < len);
        self.kept.insert(at, (len, state()));
    }

    /// The greatest kept length that is not above `len`.
    #[must_use]
    pub fn at_or_below(&self, len: usize) -> Option<usize> {
        self.kept.iter().rev().map(|(l, _)| *l).find(|l| *l <= len)
    }

    /// The state at exactly this length.
    #[must_use]
    pub fn get(&self, len: usize) -> Option<&S> {
        self.kept.iter().find(|(l, _)| *l == len).map(|(_, s)| s)
    }

    /// Drop what lies beyond `len`: those tokens are no longer in the context.
    pub fn forget_beyond(&mut self, len: usize) {
        self.kept.retain(|(l, _)| *l <= len);
    }
}

/// Which of the ascending `lens` (the last excepted) has its neighbours closest together; 0 counts as a neighbour.
fn crowded(lens: &[usize]) -> usize {
    let gap = |i: usize| lens[i + 1] - if i == 0 { 0 } else { lens[i - 1] };
    (0..lens.len() - 1).min_by_key(|&i| gap(i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_crowded_one_leaves_and_the_newest_stays() {
        let mut s = Snapshots::new(3);
        for len in [100, 110, 500, 900] {
            s.keep(len, || len);
        }
        assert_eq!(s.at_or_below(usize::MAX), Some(900));
        assert_eq!(s.at_or_below(499), Some(110), "of 100 and 110 the first left");
        assert_eq!(s.get(110), Some(&110));
        assert_eq!(s.at_or_below(99), None);
        s.forget_beyond(500);
        assert_eq!(s.at_or_below(usize::MAX), Some(500));
    }

    proptest! {
        #[test]
        fn room_is_kept_to_and_every_state_is_the_one_of_its_length(room in 0usize..6, lens in prop::collection::vec(0usize..2000, 0..60)) {
            let mut lens = lens;
            lens.sort_unstable();
            let mut s = Snapshots::new(room);
            for &len in &lens {
                s.keep(len, || len);
                prop_assert!(s.kept.len() <= room);
                if len > 0 && room > 0 {
                    prop_assert_eq!(s.at_or_below(len), Some(len));
                }
            }
            prop_assert!(s.kept.windows(2).all(|w| w[0].0 < w[1].0));
            prop_assert!(s.kept.iter().all(|(l, state)| l == state));
        }
    }
}
