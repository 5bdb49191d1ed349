//! Copies of a state along a way of many steps, so that every place on it can be reached again by a short walk: taken every few
//! steps near the present, thinned out behind, never more than there is room for.

/// Room from which on copies near the present are 8 steps apart, and not 16.
const PLENTY: usize = 96;
/// Fewest copies that are of use.
const LEAST: usize = 12;

/// Copies by the number of steps that came before them. The first one, at the beginning, stays.
pub(super) struct Marks<T> {
    list: Vec<(usize, T)>,
    room: usize,
}

impl<T> Marks<T> {
    /// With the state at the beginning of the way.
    pub(super) fn new(beginning: T) -> Self {
        Self { list: vec![(0, beginning)], room: LEAST }
    }

    /// At most so many copies from now on.
    pub(super) fn set_room(&mut self, room: usize) {
        self.room = room.max(LEAST);
    }

    /// A copy after this many steps is wanted, for a present at `now`.
    pub(super) fn wants(&self, steps: usize, now: usize) -> bool {
        steps.is_multiple_of(self.fine()) && steps + self.reach() > now && self.list.binary_search_by_key(&steps, |m| m.0).is_err()
    }

    /// Keeps a copy; those that are too many for a present at `now` go.
    pub(super) fn put(&mut self, steps: usize, copy: T, now: usize) {
        match self.list.binary_search_by_key(&steps, |m| m.0) {
            Ok(at) => self.list[at].1 = copy,
            Err(at) => self.list.insert(at, (steps, copy)),
        }
        // Half of the room is for an even grid, half for what is near: as much again as is wanted, for what is laid out ahead
        // of a present that goes back.
        let (half, reach) = (self.room / 2, self.reach());
        let mut grid = self.fine();
        while now / grid >= half {
            grid *= 2;
        }
        self.list.retain(|&(at, _)| at % grid == 0 || at + 2 * reach > now);
    }

    /// The last copy from which `steps` can be reached.
    pub(super) fn before(&self, steps: usize) -> &(usize, T) {
        &self.list[self.list.partition_point(|m| m.0 <= steps).max(1) - 1]
    }

    /// Drops what lies beyond.
    pub(super) fn cut(&mut self, steps: usize) {
        self.list.truncate(self.list.partition_point(|m| m.0 <= steps).max(1));
    }

    /// Where copies are missing behind a present at `now`: the nearest two neighbours with room for another one between them.
    pub(super) fn gap(&self, now: usize) -> Option<(usize, usize)> {
        let ends = self.list.iter().skip(1).map(|m| m.0).chain([now]);
        let gaps: Vec<(usize, usize)> = self.list.iter().map(|m| m.0).zip(ends).collect();
        let fine = self.fine();
        let missing = |&(from, to): &(usize, usize)| to > 0 && (to - 1) / fine * fine > from.max(now.saturating_sub(self.reach()));
        gaps.into_iter().rev().find(missing)
    }

    /// Steps from one copy to the next near the present.
    fn fine(&self) -> usize {
        if self.room < PLENTY {
            16
        } else {
            8
        }
    }

    /// Steps behind the present within which copies are that close.
    fn reach(&self) -> usize {
        self.fine() * (self.room / 4)
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.list.iter().map(|m| m.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walked(steps: usize, room: usize) -> Marks<usize> {
        let mut marks = Marks::new(0);
        marks.set_room(room);
        for now in 1..=steps {
            if marks.wants(now, now) {
                marks.put(now, now, now);
            }
        }
        marks
    }

    #[test]
    fn copies_are_dense_near_the_present_and_even_behind() {
        let marks = walked(10_000, 64);
        let places: Vec<usize> = marks.places().collect();
        assert!(places.len() <= 65, "{}", places.len());
        let gaps: Vec<usize> = places.windows(2).map(|p| p[1] - p[0]).collect();
        assert!(gaps[gaps.len() - 16..].iter().all(|g| *g == 16), "{gaps:?}");
        assert!(gaps.iter().all(|g| *g <= 512), "{gaps:?}");
        assert_eq!(marks.gap(10_000), None);
    }

    proptest! {
        #[test]
        fn any_walk_keeps_to_its_room_and_finds_a_copy_before_every_place(
            room in 0usize..130, legs in prop::collection::vec((0usize..6000, 0usize..6000), 1..6), fill in any::<bool>(),
        ) {
            let mut marks = Marks::new(0);
            marks.set_room(room);
            let mut now = 0usize;
            for (on, back) in legs {
                for _ in 0..on {
                    now += 1;
                    if marks.wants(now, now) {
                        marks.put(now, now, now);
                    }
                }
                now = now.saturating_sub(back);
                marks.cut(now);
                // What a player does in its idle time.
                for _ in 0..if fill { 1000 } else { 0 } {
                    let Some((from, to)) = marks.gap(now) else { break };
                    let wanted = (from + 1..to).find(|&s| marks.wants(s, to));
                    prop_assert!(wanted.is_some(), "a gap that can't be filled: {from}..{to} before {now}");
                    marks.put(wanted.unwrap(), wanted.unwrap(), now);
                }
                prop_assert!(!fill || marks.gap(now).is_none());
                prop_assert!(marks.list.len() <= room.max(LEAST) + 2, "{} of {room}", marks.list.len());
                prop_assert!(marks.places().all(|p| p <= now) && marks.places().is_sorted());
                for place in [0, now / 3, now] {
                    let &(at, copy) = marks.before(place);
                    prop_assert!(at <= place && at == copy);
                }
            }
        }
    }
}
