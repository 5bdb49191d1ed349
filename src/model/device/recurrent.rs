//! A state on the device that a layer carries from token to token, and its copies; see [`super::super::recurrent`].

use super::super::snapshots::Snapshots;
use super::super::trail::Trail;
use super::super::ModelError;
use crate::gpu::{Address, Device, GpuError, Lane, Memory};
#[cfg(doc)]
use crate::model::recurrent::Recurrent;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// What a layer remembers, in one or more pieces of memory.
struct State(Vec<Memory>);

impl State {
    /// Room for so many values in each piece.
    fn alloc(device: &dyn Device, values: &[usize]) -> Result<Self, GpuError> {
        Ok(Self(values.iter().map(|n| device.alloc(n * 4)).collect::<Result<_, _>>()?))
    }

    fn clear(&self, device: &dyn Device) -> Result<(), GpuError> {
        self.0.iter().try_for_each(|piece| device.clear(Lane::Compute, piece.address(), piece.len()))
    }

    fn copy_to(&self, device: &dyn Device, other: &Self) -> Result<(), GpuError> {
        self.0.iter().zip(&other.0).try_for_each(|(from, to)| device.copy(Lane::Compute, from.address(), to.address(), from.len()))
    }

    /// A copy, in memory that an earlier one has left if there is any.
    fn duplicate(&self, device: &dyn Device, left: &Left) -> Result<Kept, GpuError> {
        let before = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let copy = match before {
            Some(copy) => copy,
            None => Self(self.0.iter().map(|piece| device.alloc(piece.len())).collect::<Result<_, _>>()?),
        };
        self.copy_to(device, &copy)?;
        Ok(Kept { state: Some(copy), left: left.clone() })
    }
}

/// Memory of copies that nobody needs any more. It is used again instead of being given back, so that what a model takes does not go up and down while it talks.
type Left = Arc<Mutex<Vec<State>>>;

/// A copy of the state; leaves its memory behind. Whoever takes that writes to it on the lane that has read it.
struct Kept {
    state: Option<State>,
    left: Left,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).extend(self.state.take());
    }
}

/// The state of a layer with its copies.
pub(super) struct DeviceRecurrent {
    device: Arc<dyn Device>,
    state: State,
    len: usize,
    marks: Vec<usize>,
    snapshots: Snapshots<Kept>,
    left: Left,
    /// See [`Recurrent::tentative`].
    trail: Option<Trail<Kept>>,
    tentative: bool,
}

impl DeviceRecurrent {
    /// A state of pieces of so many values, that has read nothing, and room for so many copies of it.
    pub(super) fn new(device: &Arc<dyn Device>, values: &[usize], room: usize) -> Result<Self, GpuError> {
        let state = State::alloc(&**device, values)?;
        state.clear(&**device)?;
        Ok(Self {
            state,
            len: 0,
            marks: Vec::new(),
            snapshots: Snapshots::new(room),
            left: Left::default(),
            trail: None,
            tentative: false,
            device: device.clone(),
        })
    }

    /// Where a piece of the state is.
    pub(super) fn piece(&self, which: usize) -> Address {
        self.state.0[which].address()
    }

    /// Copy the state if this is a place to go back to.
    pub(super) fn keep_place(&mut self) -> Result<(), ModelError> {
        if self.marks.contains(&self.len) {
            self.keep(self.len)?;
        }
        Ok(())
    }

    fn keep(&mut self, len: usize) -> Result<(), ModelError> {
        if len == 0 || self.snapshots.get(len).is_some() {
            return Ok(());
        }
        // A copy that finds no room is one place fewer to go back to, no more.
        match self.state.duplicate(&*self.device, &self.left) {
            Ok(copy) => self.snapshots.keep(len, || copy),
            Err(GpuError::OutOfMemory { .. }) => tracing::debug!(len, "no room for a copy of the recurrent state"),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Keep the state at `len` until another pass begins. For want of room it is one place fewer to go back to, as above.
    fn keep_on_trail(&mut self, len: usize) -> Result<(), ModelError> {
        let Some(trail) = &mut self.trail else { return Ok(()) };
        let device = &*self.device;
        let copied = match trail.spare() {
            Some(old) => old.state.as_ref().map_or(Ok(()), |to| self.state.copy_to(device, to)).map(|()| old),
            None => self.state.duplicate(device, &self.left),
        };
        match copied {
            Ok(copy) => trail.push(len, copy),
            Err(GpuError::OutOfMemory { .. }) => tracing::debug!(len, "no room for a copy of the recurrent state"),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Read the tokens of a pass, in stretches, so that the state can be copied between two of them: `read` launches what reads these tokens of it.
    /// [`DeviceRecurrent::advance`] counts them.
    pub(super) fn pass(&mut self, tokens: usize, mut read: impl FnMut(Range<usize>) -> Result<(), ModelError>) -> Result<(), ModelError> {
        let (begin, end) = (self.len, self.len + tokens);
        let tentative = std::mem::take(&mut self.tentative);
        let each = (begin + 1..end).filter(|_| tentative);
        let cuts: Vec<usize> = self.marks.iter().copied().filter(|m| (begin + 1..end).contains(m)).chain(each).chain([end]).collect();
        let mut at = begin;
        for cut in cuts {
            if cut > at {
                read(at - begin..cut - begin)?;
                at = cut;
            }
            if cut < end && tentative {
                self.keep_on_trail(cut)?;
            } else if cut < end {
                self.keep(cut)?;
            }
        }
        Ok(())
    }

    /// The state has moved on by so many tokens.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// See [`Recurrent::mark`].
    pub(super) fn mark(&mut self, lens: &[usize]) {
        self.marks.clear();
        self.marks.extend_from_slice(lens);
        self.snapshots.reserve(lens);
        self.tentative = false;
        if let Some(trail) = &mut self.trail {
            trail.clear();
        }
    }

    /// See [`Recurrent::tentative`].
    pub(super) fn tentative(&mut self, room: usize) {
        self.tentative = true;
        if self.trail.is_none() {
            self.trail = Some(Trail::default());
            self.snapshots.leave(room);
        }
    }

    /// See [`Recurrent::reachable`].
    pub(super) fn reachable(&self, len: usize) -> usize {
        if self.len == len || self.trail.as_ref().is_some_and(|t| t.get(len).is_some()) {
            return len;
        }
        self.snapshots.at_or_below(len).unwrap_or(0)
    }

    /// See [`Recurrent::rewind`]. A device that fails here fails again, and says so, in the next pass.
    pub(super) fn rewind(&mut self, len: usize) {
        self.snapshots.forget_beyond(len);
        if len == self.len {
            return;
        }
        let device = &*self.device;
        let kept = self.trail.as_ref().and_then(|t| t.get(len)).or_else(|| self.snapshots.get(len));
        let done = match kept.and_then(|kept| kept.state.as_ref()) {
            Some(state) => state.copy_to(device, &self.state),
            None => self.state.clear(device),
        };
        if let Err(e) = done {
            tracing::warn!("the recurrent state could not be set back: {e}");
        }
        self.len = len;
    }
}
