//! The block that guesses further tokens, on the device: [`super::super::predictor`]'s, with what it has read and the rows that it has yet to read in device memory.
//!
//! It runs in the buffers of a pass, between passes, so the rows of a pass are copied aside when it is over. A pass of the block is one of a single layer: the embeddings of the tokens that follow go up where
//! others have those of their own.

use super::super::embedding::Embedding;
use super::super::predictor::{likeliest, Batch, Joint, Predictor, Progress};
use super::super::rope::Rotation;
use super::super::snapshots::Snapshots;
use super::super::{Logits, ModelError};
use super::head::DeviceHead;
use super::layer::{mix, DeviceLayer};
use super::map::{apply, Map, Norm, Rows, Target};
use super::workspace::Workspace;
use super::{DeviceDecoder, Pass};
use crate::experts::Experts;
use crate::gpu::{Device, GpuError, Lane};

/// What stands around it.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) device: &'a dyn Device,
    pub(super) work: &'a Workspace,
    pub(super) embedding: &'a Embedding,
    pub(super) rotation: &'a Rotation,
    pub(super) head: &'a DeviceHead,
    pub(super) file: &'a str,
}

/// The block, and what it has read.
pub(super) struct DevicePredictor {
    token_norm: Norm,
    hidden_norm: Norm,
    map: Map,
    norm: Norm,
    embedding: Option<Embedding>,
    output: Option<Map>,
    layer: DeviceLayer,
    name: String,
    hidden: usize,
    progress: Progress,
    /// Where single rows of earlier passes are, by the length of the context with them.
    edges: Snapshots<usize>,
    /// Some of the room for them is given up.
    left: bool,
    /// A pass of one row has been queued launch by launch.
    known: bool,
}

impl DevicePredictor {
    /// Take it over.
    pub(super) fn new(device: &std::sync::Arc<dyn Device>, predictor: Predictor, file: &str, tiled: bool) -> Result<Self, ModelError> {
        let (joint, layer, name, room) = predictor.into_parts();
        let Joint { token_norm, hidden_norm, map, norm, embedding, output } = joint;
        let d = &**device;
        Ok(Self {
            hidden: norm.parts().0.len(),
            token_norm: Norm::new(d, &token_norm)?,
            hidden_norm: Norm::new(d, &hidden_norm)?,
            map: Map::new(d, &map)?,
            norm: Norm::new(d, &norm)?,
            embedding,
            output: output.map(|o| Map::new(d, &o)).transpose()?,
            layer: DeviceLayer::new(device, layer, file, tiled)?,
            name,
            progress: Progress::default(),
            edges: Snapshots::new(room),
            left: false,
            known: false,
        })
    }

    /// From now on recurrent layers have so much less room for copies.
    pub(super) fn leave(&mut self, room: usize) {
        if !std::mem::replace(&mut self.left, true) {
            self.edges.leave(room);
        }
    }

    /// A pass is about to be made, and copies of recurrent states will be kept at these lengths.
    pub(super) fn mark(&mut self, lens: &[usize]) {
        self.edges.reserve(lens);
    }

    /// Before a pass over `tokens`: read what is to be read before it.
    pub(super) fn before_pass(&mut self, around: Around<'_>, experts: &mut Experts, tokens: &[u32]) -> Result<(), ModelError> {
        let Some((batch, &next)) = self.progress.before_pass(tokens).zip(tokens.first()) else { return Ok(()) };
        self.read(around, experts, &batch)?;
        self.progress.done(next);
        // What goes up for the next pass takes the place of what went up for this one.
        Ok(around.device.sync(&around.device.mark(Lane::Compute)?)?)
    }

    /// A pass has read `tokens` from position `begin` on, and its rows are where it has left them.
    pub(super) fn passed(&mut self, around: Around<'_>, begin: usize, tokens: &[u32], lens: &[usize]) -> Result<(), ModelError> {
        let Around { device, work, .. } = around;
        // The beginning of the pass is behind a row of the pass before.
        self.keep(around, lens)?;
        let row = self.progress.passed(begin, tokens);
        let (from, to) = (work.x(tokens.len()), work.kept().down(row));
        device.copy(Lane::Compute, from.at, to.at, tokens.len() * self.hidden * 4)?;
        self.keep(around, lens)
    }

    /// Keep the rows behind which the context has these lengths, as far as they are there.
    fn keep(&mut self, around: Around<'_>, lens: &[usize]) -> Result<(), ModelError> {
        for &len in lens.iter().filter(|&&len| len > 0) {
            let Some(row) = self.progress.row_before(len).filter(|_| self.edges.get(len).is_none()) else { continue };
            let free = (0..=self.edges.room()).find(|place| !self.edges.states().any(|p| p == place));
            let Some(place) = free.filter(|_| self.edges.room() > 0) else { continue };
            self.copy(around, around.work.kept().down(row), around.work.edges().down(place))?;
            self.edges.keep(len, || place);
        }
        Ok(())
    }

    fn copy(&self, around: Around<'_>, from: Rows, to: Rows) -> Result<(), GpuError> {
        around.device.copy(Lane::Compute, from.at, to.at, self.hidden * 4)
    }

    /// The context is cut to `len` tokens.
    pub(super) fn cut(&mut self, around: Around<'_>, len: usize) {
        self.edges.forget_beyond(len);
        if self.progress.cut(len) > 0 {
            return;
        }
        let Some(&place) = self.edges.get(len) else { return };
        match self.copy(around, around.work.edges().down(place), around.work.kept()) {
            Ok(()) => self.progress.found_last(),
            Err(e) => tracing::debug!("the block that guesses begins anew: {e}"),
        }
    }

    /// See [`super::super::Model::guess`]; there is room for `most` guesses. `seen` gets the logits of each.
    pub(super) fn guess(
        &mut self,
        around: Around<'_>,
        experts: &mut Experts,
        next: u32,
        most: usize,
        stop: &dyn Fn() -> bool,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<u32>, ModelError> {
        let Around { device, work, head, .. } = around;
        let mut guesses = Vec::new();
        if most == 0 || stop() {
            return Ok(guesses);
        }
        let Some(batch) = self.progress.before_guess(next) else { return Ok(guesses) };
        let mut last = self.read(around, experts, &batch)?;
        self.progress.done(next);
        let mut at = self.progress.behind();
        loop {
            let y = work.h(1);
            self.norm.apply(device, last, y, 1, None)?;
            head.logits(device, work, self.output.as_ref(), y, 1)?;
            work.fetch(device, 1, false)?;
            let mut logits = Vec::new();
            if !work.finish(device, 1, false, &mut logits)?.finite {
                return Err(ModelError::NotFinite { file: around.file.to_owned(), place: format!("{}, or the head", self.name) });
            }
            seen(&logits);
            let guess = likeliest(&logits);
            guesses.push(guess);
            if guesses.len() >= most || stop() {
                return Ok(guesses);
            }
            last = self.pass(around, experts, y, &[guess], at)?;
            at += 1;
        }
    }

    /// Rows that are kept; answers what the layer made of the last.
    fn read(&mut self, around: Around<'_>, experts: &mut Experts, batch: &Batch) -> Result<Rows, ModelError> {
        let Around { device, work, head, .. } = around;
        let mut last = work.x(1);
        let mut done = 0;
        for next in batch.next.chunks(work.chunk()) {
            if done > 0 {
                device.sync(&device.mark(Lane::Compute)?)?;
            }
            let rows = work.h(next.len());
            head.normed(device, work.kept().down(batch.row + done), rows, next.len())?;
            last = self.pass(around, experts, rows, next, batch.at + done)?.down(next.len() - 1);
            done += next.len();
        }
        Ok(last)
    }

    /// Rows that are normalised, and what follows each, at positions `at..` of the block's cache: what the layer makes of them.
    fn pass(&mut self, around: Around<'_>, experts: &mut Experts, hidden: Rows, next: &[u32], at: usize) -> Result<Rows, ModelError> {
        let Around { device, work, embedding, rotation, .. } = around;
        let tokens = next.len();
        let embedding = self.embedding.as_ref().unwrap_or(embedding);
        work.begin(device, tokens, at, 0, &rotation.tables(at, tokens), &mut |rows| embedding.fill(next, rows))?;
        let (x, h) = (work.x(tokens), work.h(tokens));
        let again = tokens == 1 && self.known;
        let pass = Pass { device, work, tokens, seen: at + tokens, x, h, halves: rotation.halves(), again, asks: false };
        let both = work.wide(2 * self.hidden);
        self.token_norm.apply(device, x, both, tokens, None)?;
        self.hidden_norm.apply(device, hidden, both.right(self.hidden), tokens, None)?;
        apply(device, both, tokens, &[(&self.map, Target::set(x))])?;
        let DeviceLayer { mixer_norm, mixer, join, feed_forward, recorded: [first, shared] } = &mut self.layer;
        let table = feed_forward.table(experts)?;
        first.play(&pass, || {
            mix(&pass, mixer_norm, mixer, join, None)?;
            feed_forward.begin(&pass, table)
        })?;
        feed_forward.finish(&pass, experts, shared)?;
        self.known |= tokens == 1;
        Ok(x)
    }
}

impl DeviceDecoder {
    /// The block that guesses, if there is one, and what it needs of the rest.
    pub(super) fn predictor(&mut self) -> Option<(&mut DevicePredictor, Around<'_>)> {
        let Self { device, work, embedding, rotation, head, file, predictor, .. } = self;
        predictor.as_mut().map(|p| (p, Around { device: &**device, work, embedding, rotation, head, file }))
    }

    /// [`Model::guess`], with the logits of each guess.
    pub(super) fn guess_seen(
        &mut self,
        next: u32,
        most: usize,
        experts: &mut Experts,
        stop: &dyn Fn() -> bool,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<u32>, ModelError> {
        // `next` itself takes a place.
        let most = most.min((self.context - self.len).saturating_sub(1));
        let Some((predictor, around)) = self.predictor() else { return Ok(Vec::new()) };
        let done = predictor.guess(around, experts, next, most, stop, seen);
        if done.is_err() {
            self.come_to_rest();
        }
        done
    }

    /// [`DeviceDecoder::pass`], and what the block that guesses does before and after it. Copies of recurrent states are kept at the lengths `lens`.
    pub(super) fn guessing_pass(
        &mut self,
        tokens: &[u32],
        experts: &mut Experts,
        wanted: Logits,
        stop: &dyn Fn() -> bool,
        lens: &[usize],
    ) -> Result<Option<Vec<f32>>, ModelError> {
        if let Some((predictor, around)) = self.predictor() {
            predictor.before_pass(around, experts, tokens)?;
        }
        let done = self.pass(tokens, experts, wanted, stop)?;
        let begin = self.len;
        if let Some((predictor, around)) = self.predictor().filter(|_| done.is_some()) {
            predictor.passed(around, begin, tokens, lens)?;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests;
