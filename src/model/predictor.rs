//! The block with which a model guesses what comes after the next token (`nextn` in GGUF files, `mtp` in the published checkpoints).
//!
//! The hidden state of a token, after the model's last norm, and the embedding of the token that follows it are each normalised, laid side by side (the embedding first) and mapped to the
//! width of one. A layer like the model's own, with keys and values of its own, makes of it what a norm and the model's head turn into logits: of the token after the next.
//! For a further guess, what that norm gave takes the place of the hidden state, and the guess that of the token.
//! (Gloeckle et al., arXiv 2404.19737; DeepSeek-V3, arXiv 2412.19437, section 2.2. `docs/models.md` has where the order and the norms are known from.)
//!
//! Rows are read late, when what follows them is known: those of a prompt's chunk together before the next one, those of single tokens when a guess is asked for or many have come together. What guesses
//! after the first write into the cache is written over later and counts as nothing read.

mod progress;

use super::config::ModelConfig;
use super::decoder::{Layer, Parts};
use super::embedding::Embedding;
use super::linear::{Compute, Linear};
use super::norm::RmsNorm;
use super::snapshots::Snapshots;
use super::weights::Weights;
use super::ModelError;
use crate::experts::Experts;
use crate::kernels::rows::{from_rows, with_rows};
use candle_core::Tensor;
pub(super) use progress::{Batch, Progress, MANY};

/// What the block did. If its weights are damaged the model goes on without it, since nothing that the model says depends on it: `None`.
///
/// # Errors
/// Everything else.
pub(super) fn unless_damaged<T>(done: Result<T, ModelError>) -> Result<Option<T>, ModelError> {
    match done {
        Err(e @ ModelError::NotFinite { .. }) => {
            tracing::warn!("no tokens are guessed any more: {e}");
            Ok(None)
        }
        done => done.map(Some),
    }
}

/// The name of the block's own table of embeddings, which most files are without.
pub(super) fn own_table(config: &ModelConfig) -> String {
    format!("blk.{}.nextn.embed_tokens.weight", config.blocks)
}

/// What is asked of the block beside its layer.
pub(super) struct Joint {
    /// Of the embedding of the token that follows.
    pub(super) token_norm: RmsNorm,
    /// Of the hidden state, which the model's last norm has normalised.
    pub(super) hidden_norm: RmsNorm,
    /// `[token | hidden]` -> hidden
    pub(super) map: Linear,
    /// Of what the layer gives: before the head, and before the next guess.
    pub(super) norm: RmsNorm,
    /// Instead of the model's table.
    pub(super) embedding: Option<Embedding>,
    /// Instead of the model's map to logits.
    pub(super) output: Option<Linear>,
}

impl Joint {
    /// By the names of llama.cpp's converter, which has added the 1 to the norms.
    fn load(weights: &Weights<'_>, config: &ModelConfig) -> Result<Self, ModelError> {
        let (hidden, vocab) = (config.hidden, config.vocab);
        let name = |part: &str| format!("blk.{}.nextn.{part}", config.blocks);
        let norm = if weights.has(&format!("{}.weight", name("shared_head_norm"))) { &name("shared_head_norm") } else { "output_norm" };
        let embedding = if weights.has(&own_table(config)) { Some(weights.matrix(&own_table(config), hidden, vocab)?) } else { None };
        let head = name("shared_head_head");
        let output = if weights.has(&format!("{head}.weight")) { Some(weights.linear(&head, hidden, vocab)?) } else { None };
        Ok(Self {
            token_norm: weights.norm(&name("enorm"), config)?,
            hidden_norm: weights.norm(&name("hnorm"), config)?,
            map: weights.linear(&name("eh_proj"), 2 * hidden, hidden)?,
            norm: weights.norm(norm, config)?,
            embedding: embedding.map(Embedding::new),
            output,
        })
    }
}

/// The block, and what it has read.
pub(crate) struct Predictor {
    joint: Joint,
    layer: Layer,
    name: String,
    progress: Progress,
    hidden: usize,
    /// The rows that are kept, `[tokens, hidden]`, before the last norm.
    rows: Vec<f32>,
    /// Single rows of earlier ones, by the length of the context with them: where a recurrent layer can go back to, this block can.
    edges: Snapshots<Vec<f32>>,
    /// Some of the room for them is given up.
    left: bool,
}

impl Predictor {
    /// The block behind the layers of a file that has one; `layer` is its own.
    pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, layer: Layer) -> Result<Self, ModelError> {
        let room = config.hybrid.as_ref().map_or(0, |h| h.snapshots());
        let name = format!("layer {}, which guesses tokens", config.blocks);
        Ok(Self {
            joint: Joint::load(weights, config)?,
            layer,
            name,
            progress: Progress::default(),
            hidden: config.hidden,
            rows: Vec::new(),
            edges: Snapshots::new(room),
            left: false,
        })
    }

    /// What a device takes over: what is around the layer, the layer, how errors call it, and how many single rows are kept.
    pub(super) fn into_parts(self) -> (Joint, Layer, String, usize) {
        (self.joint, self.layer, self.name, self.edges.room())
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
    ///
    /// # Errors
    /// A token outside the vocabulary, damaged weights.
    pub(super) fn before_pass(
        &mut self,
        compute: &mut Compute,
        parts: &Parts,
        experts: &mut Experts,
        tokens: &[u32],
    ) -> Result<(), ModelError> {
        if let Some((batch, &next)) = self.progress.before_pass(tokens).zip(tokens.first()) {
            self.read(compute, parts, experts, &batch)?;
            self.progress.done(next);
        }
        Ok(())
    }

    /// A pass has read `tokens` from position `begin` on, and these are its rows.
    ///
    /// # Errors
    /// From the tensor library.
    pub(super) fn passed(&mut self, begin: usize, tokens: &[u32], rows: &Tensor, lens: &[usize]) -> Result<(), ModelError> {
        // The beginning of the pass is behind a row of the pass before.
        self.keep(lens);
        let row = self.progress.passed(begin, tokens);
        self.rows.truncate(row * self.hidden);
        with_rows(rows, |rows| self.rows.extend_from_slice(rows))?;
        self.keep(lens);
        Ok(())
    }

    /// Keep the rows behind which the context has these lengths, as far as they are there.
    fn keep(&mut self, lens: &[usize]) {
        for &len in lens {
            if let Some(row) = self.progress.row_before(len) {
                let row = &self.rows[row * self.hidden..(row + 1) * self.hidden];
                self.edges.keep(len, || row.to_vec());
            }
        }
    }

    /// The context is cut to `len` tokens.
    pub(super) fn cut(&mut self, len: usize) {
        self.edges.forget_beyond(len);
        if self.progress.cut(len) > 0 {
            return;
        }
        if let Some(row) = self.edges.get(len) {
            self.rows.clone_from(row);
            self.progress.found_last();
        }
    }

    /// Lose every row.
    #[cfg(test)]
    pub(super) fn forget_rows(&mut self) {
        self.edges.forget_beyond(0);
        self.progress.lose();
    }

    /// See [`super::Model::guess`]; there is room for `most` guesses. `seen` gets the logits of each.
    ///
    /// # Errors
    /// A token outside the vocabulary, damaged weights.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn guess(
        &mut self,
        compute: &mut Compute,
        parts: &Parts,
        experts: &mut Experts,
        next: u32,
        most: usize,
        stop: &dyn Fn() -> bool,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<u32>, ModelError> {
        let mut guesses = Vec::new();
        if most == 0 || stop() {
            return Ok(guesses);
        }
        let Some(batch) = self.progress.before_guess(next) else { return Ok(guesses) };
        let x = self.read(compute, parts, experts, &batch)?;
        self.progress.done(next);
        let mut x = x.narrow(0, batch.next.len() - 1, 1)?;
        let mut at = self.progress.behind();
        loop {
            let y = self.joint.norm.forward(compute, &x)?;
            let logits = parts.head.logits(compute, self.joint.output.as_ref(), &y)?;
            if !super::decoder::all_finite(&logits) {
                return Err(ModelError::NotFinite { file: parts.file.clone(), place: format!("the head behind {}", self.name) });
            }
            seen(&logits);
            let guess = likeliest(&logits);
            guesses.push(guess);
            if guesses.len() >= most || stop() {
                return Ok(guesses);
            }
            x = self.pass(compute, parts, experts, &y, &[guess], at)?;
            at += 1;
        }
    }

    fn read(&mut self, compute: &mut Compute, parts: &Parts, experts: &mut Experts, batch: &Batch) -> Result<Tensor, ModelError> {
        let (from, tokens) = (batch.row * self.hidden, batch.next.len());
        let rows = from_rows(self.rows[from..from + tokens * self.hidden].to_vec(), tokens, self.hidden)?;
        let rows = parts.head.normed(compute, &rows)?;
        self.pass(compute, parts, experts, &rows, &batch.next, batch.at)
    }

    /// `[tokens, hidden]`, normalised, and what follows each row in; what the layer makes of it out.
    fn pass(
        &mut self,
        compute: &mut Compute,
        parts: &Parts,
        experts: &mut Experts,
        hidden: &Tensor,
        next: &[u32],
        at: usize,
    ) -> Result<Tensor, ModelError> {
        let token = self.joint.embedding.as_ref().unwrap_or(&parts.embedding).forward(next)?;
        let token = self.joint.token_norm.forward(compute, &token)?;
        let hidden = self.joint.hidden_norm.forward(compute, hidden)?;
        let x = self.joint.map.forward(compute, &Tensor::cat(&[&token, &hidden], 1)?)?;
        let turns = parts.rotation.turns(at, next.len());
        self.layer.forward(compute, experts, x, at, &turns, &parts.file, &|| self.name.clone())
    }
}

/// The token with the largest logit, the first of them.
pub(super) fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
pub(super) mod tests;
