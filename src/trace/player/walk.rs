//! From place to place: on by one entry, to any step, and in idle time the copies that make going back cheap.

use super::{Fold, Player};

/// Bytes that the copies of earlier places may take.
const MARK_BYTES: usize = 192 << 20;
/// Most copies.
const MOST_MARKS: usize = 128;

impl<F: Fold> Player<F> {
    /// Tell one entry. False at the end.
    pub(super) fn forwards(&mut self) -> bool {
        let shown = self.now.stage.shown;
        let told = self.now.advance(&self.story);
        self.fresh |= told;
        if self.now.stage.shown > shown && self.marks.wants(shown + 1, shown + 1) {
            self.marks.set_room((MARK_BYTES / self.now.bytes().max(1)).min(MOST_MARKS));
            self.marks.put(shown + 1, self.now.mark(), shown + 1);
        }
        told
    }

    /// Go to where `step` steps have been shown, with the text that followed the last of them.
    pub(super) fn go(&mut self, step: usize) {
        let step = step.min(self.times.len());
        self.returning = step < self.now.stage.shown;
        if self.returning {
            self.marks.cut(step);
            self.walker = self.walker.take().filter(|w| w.stage.shown < step);
            let (at, mark) = self.marks.before(step);
            let before = self.before.take().filter(|b| (*at..=step).contains(&b.stage.shown));
            self.now.back_to(before.as_ref().unwrap_or(mark));
        }
        while self.now.stage.cursor < self.story.source.len()
            && (self.now.stage.shown < step || !self.story.source.is_step(self.now.stage.cursor))
            && self.forwards()
        {}
        self.now.settle(&self.story);
        self.fresh = true;
    }

    /// One step of the work of laying out copies behind the present. False if there is nothing to do.
    pub(super) fn lay_out(&mut self) -> bool {
        let shown = self.now.stage.shown;
        if let Some(wanted) = shown.checked_sub(1).filter(|_| self.returning) {
            let (at, mark) = self.marks.before(wanted);
            let near = self.before.take().filter(|b| (*at..=wanted).contains(&b.stage.shown));
            let before = self.before.insert(near.unwrap_or_else(|| mark.mark()));
            if before.stage.shown < wanted && before.walk(&self.story) {
                return true;
            }
        }
        let Some((from, to)) = self.marks.gap(shown) else {
            self.walker = None;
            return false;
        };
        let mut walker = match self.walker.take() {
            Some(walker) if (from..to).contains(&walker.stage.shown) => walker,
            _ => self.marks.before(from).1.mark(),
        };
        walker.walk(&self.story);
        if self.marks.wants(walker.stage.shown, to) {
            self.marks.put(walker.stage.shown, walker.mark(), shown);
        }
        self.walker = Some(walker);
        true
    }
}
