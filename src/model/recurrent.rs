//! A state that a layer carries from token to token, and the copies of it by which a context goes back.
//!
//! Keys and values can be cut to any prefix; a state can't. So a pass copies it where it was told to ([`Recurrent::mark`]), some copies staying
//! for long ([`super::snapshots`]) and some until the next pass ([`super::trail`]). What a state is made of is the layer's own business.

use super::snapshots::Snapshots;
use super::trail::Trail;
use std::ops::Range;

/// What a layer remembers of the tokens read so far, of fixed size.
pub trait State: Clone {
    /// Become as another is, in the memory at hand.
    fn set(&mut self, other: &Self);
    /// Become as it was before the first token.
    fn clear(&mut self);
}

/// The last rows of something, `[rows, channels]`.
impl State for Vec<f32> {
    fn set(&mut self, other: &Self) {
        self.copy_from_slice(other);
    }

    fn clear(&mut self) {
        self.fill(0.0);
    }
}

/// A state with its copies.
pub struct Recurrent<S> {
    state: S,
    /// Tokens that the state has read.
    len: usize,
    /// Lengths at which the next pass copies the state, ascending.
    marks: Vec<usize>,
    snapshots: Snapshots<S>,
    /// States that a pass keeps which may be taken back in part; `None` before the first.
    trail: Option<Trail<S>>,
    /// The next pass is one.
    tentative: bool,
}

impl<S: State> Recurrent<S> {
    /// `state` has read nothing; so many copies of it can be kept for long.
    #[must_use]
    pub fn new(state: S, snapshots: usize) -> Self {
        Self { state, len: 0, marks: Vec::new(), snapshots: Snapshots::new(snapshots), trail: None, tentative: false }
    }

    /// How many copies are kept for long, at most.
    #[must_use]
    pub fn room(&self) -> usize {
        self.snapshots.room()
    }

    /// Read the tokens of a pass, in stretches, so that the state can be copied between two of them: `read` gets the state and which tokens of the pass are next.
    pub fn pass(&mut self, tokens: usize, mut read: impl FnMut(&mut S, Range<usize>)) {
        let (begin, end) = (self.len, self.len + tokens);
        let tentative = std::mem::take(&mut self.tentative);
        let each = (begin + 1..end).filter(|_| tentative);
        let cuts: Vec<usize> = self.marks.iter().copied().filter(|m| (begin..end).contains(m)).chain(each).chain([end]).collect();
        for cut in cuts {
            let stretch = self.len - begin..cut - begin;
            if !stretch.is_empty() {
                read(&mut self.state, stretch);
                self.len = cut;
            }
            match &mut self.trail {
                Some(trail) if tentative && begin < cut && cut < end => {
                    let copy = match trail.spare() {
                        Some(mut old) => {
                            old.set(&self.state);
                            old
                        }
                        None => self.state.clone(),
                    };
                    trail.push(cut, copy);
                }
                _ if cut < end => self.snapshots.keep(cut, || self.state.clone()),
                _ => {}
            }
        }
    }

    /// The next pass copies the state when it has read these lengths (ascending, the present one included), so that it
    /// can go back there.
    pub fn mark(&mut self, lens: &[usize]) {
        self.marks.clear();
        self.marks.extend_from_slice(lens);
        self.snapshots.reserve(lens);
        self.tentative = false;
        // A pass begins: what the last one kept of itself is no longer what lies before the end.
        if let Some(trail) = &mut self.trail {
            trail.clear();
        }
    }

    /// The next pass, which has been [marked](Recurrent::mark), keeps the state after each of its tokens, at most one more than `room`, until another begins.
    pub fn tentative(&mut self, room: usize) {
        self.tentative = true;
        if self.trail.is_none() {
            self.trail = Some(Trail::default());
            self.snapshots.leave(room);
        }
    }

    /// The nearest length at or below `len` that the layer can go back to.
    #[must_use]
    pub fn reachable(&self, len: usize) -> usize {
        if self.len == len || self.trail.as_ref().is_some_and(|t| t.get(len).is_some()) {
            return len;
        }
        self.snapshots.at_or_below(len).unwrap_or(0)
    }

    /// Go back to a length that [`Recurrent::reachable`] named.
    pub fn rewind(&mut self, len: usize) {
        self.snapshots.forget_beyond(len);
        if len == self.len {
            return;
        }
        match self.trail.as_ref().and_then(|t| t.get(len)).or_else(|| self.snapshots.get(len)) {
            Some(state) => self.state.set(state),
            None => self.state.clear(),
        }
        self.len = len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state that is the sum of what it has read; the tokens of a pass are `1..`.
    fn read(layer: &mut Recurrent<Vec<f32>>, tokens: &[f32]) {
        layer.pass(tokens.len(), |state, stretch| state[0] += tokens[stretch].iter().sum::<f32>());
    }

    #[test]
    fn a_pass_is_read_once_whatever_is_copied_on_the_way_and_each_copy_is_of_its_length() {
        let mut layer = Recurrent::new(vec![0.0], 4);
        layer.mark(&[2, 3]);
        read(&mut layer, &[1.0, 10.0, 100.0, 1000.0, 1e4]);
        assert_eq!((layer.state[0], layer.len), (11111.0, 5));
        assert_eq!([5, 4, 3, 2, 1].map(|len| layer.reachable(len)), [5, 3, 3, 2, 0]);
        layer.rewind(3);
        assert_eq!(layer.state[0], 111.0);
        layer.rewind(2);
        read(&mut layer, &[7.0]);
        assert_eq!((layer.state[0], layer.reachable(2)), (18.0, 2));
        layer.rewind(0);
        assert_eq!((layer.state[0], layer.reachable(2)), (0.0, 0), "what lay behind is forgotten");
    }

    #[test]
    fn a_tentative_pass_is_gone_back_into_until_another_begins() {
        let mut layer = Recurrent::new(vec![0.0], 4);
        for _ in 0..2 {
            layer.mark(&[]);
            read(&mut layer, &[1.0, 10.0]);
            layer.mark(&[]);
            layer.tentative(2);
            read(&mut layer, &[100.0, 1000.0, 1e4]);
            assert_eq!([5, 4, 3].map(|len| layer.reachable(len)), [5, 4, 3]);
            layer.rewind(4);
            assert_eq!(layer.state[0], 1111.0);
            layer.rewind(3);
            assert_eq!((layer.state[0], layer.room()), (111.0, 2));
            layer.mark(&[]);
            read(&mut layer, &[1.0]);
            assert_eq!(layer.reachable(3), 0);
            layer.rewind(0);
        }
    }
}
