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

    /// How many are kept at most.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// Give up some of the room from now on. Of copies that have none any more, those leave whose neighbours are closest.
    pub fn leave(&mut self, room: usize) {
        self.room = self.room.saturating_sub(room);
        while self.kept.len() > self.room {
            let lens: Vec<usize> = self.kept.iter().map(|(l, _)| *l).collect();
            self.kept.remove(crowded(&lens));
        }
    }

    /// Make room for copies at the ascending lengths `coming`, which a pass is about to take, so that every layer of a model
    /// drops the same old ones, whether or not the pass reaches it.
    pub fn reserve(&mut self, coming: &[usize]) {
        let new: Vec<usize> = coming.iter().copied().filter(|&l| l > 0 && self.get(l).is_none()).collect();
        while !self.kept.is_empty() && self.kept.len() + new.len() > self.room {
            let mut lens: Vec<(usize, bool)> = self.kept.iter().map(|(l, _)| (*l, true)).chain(new.iter().map(|l| (*l, false))).collect();
            lens.sort_unstable();
            // What lies behind the pass can't be reached from it any more; after that, the most crowded goes.
            let gap = |i: usize| lens.get(i + 1).map_or(0, |n| n.0 - if i == 0 { 0 } else { lens[i - 1].0 });
            let Some(leaves) = (0..lens.len()).filter(|&i| lens[i].1).min_by_key(|&i| gap(i)).map(|i| lens[i].0) else { return };
            self.kept.retain(|(l, _)| *l != leaves);
        }
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

    /// All that are kept, ascending in length.
    pub fn states(&self) -> impl Iterator<Item = &S> {
        self.kept.iter().map(|(_, state)| state)
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

    #[test]
    fn room_made_in_advance_takes_the_crowded_one_and_never_what_is_coming() {
        let mut s = Snapshots::new(4);
        for len in [100, 500, 520, 900] {
            s.keep(len, || len);
        }
        s.reserve(&[900, 1300]);
        assert_eq!(s.at_or_below(600), Some(500), "520 was closest to its neighbours");
        assert_eq!(s.kept.len(), 3);
        s.keep(1300, || 1300);
        assert_eq!(s.kept.iter().map(|(l, _)| *l).collect::<Vec<_>>(), [100, 500, 900, 1300]);
        // More than there is room for: everything old goes, and the newest stays when they come.
        let coming = [1400, 1500, 1600, 1700, 1800];
        s.reserve(&coming);
        assert!(s.kept.is_empty());
        coming.iter().for_each(|&len| s.keep(len, || len));
        assert_eq!((s.kept.len(), s.at_or_below(usize::MAX)), (4, Some(1800)));
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
