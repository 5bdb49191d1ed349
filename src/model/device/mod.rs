//! A decoder on a GPU: the same layers as [`super::decoder`], with weights, caches and activations in device memory.
//!
//! An architecture is written once, for the CPU; its layers are taken over here kind by kind, so a new architecture that is put
//! together from known layers runs on the device without further code. Between layers the hidden state stays on the device.
//! Per layer with routed experts the host waits once, for the routing; everything else is queued ahead. A token that finds all experts in slots does without.
//!
//! | file | idea |
//! |---|---|
//! | `map` | linear maps and norms |
//! | `layer` | a layer, up to its feed-forward |
//! | `attention`, `latent_attention`, `delta_net`, `short_conv` | the mixers, with their caches and states |
//! | `recurrent` | what recurrent mixers remember, and copies of it to go back to |
//! | `dense` | feed-forwards that every token uses |
//! | `feed_forward` | routers, and what stands beside the experts |
//! | `join` | how their results get into the residual stream |
//! | `head` | from the stream to logits |
//! | `predictor` | the block that guesses further tokens |
//! | `recorded` | launches that are queued as one |
//! | `whole_token` | a token that finds every expert in a slot, recorded as one |
//! | `answered_token` | a token recorded as one, whose layers the host answers while it runs |
//! | `widths` | how wide the buffers of a pass are, and where what lies in them |
//! | `workspace` | those buffers, and its page-locked memory |

mod answered_token;
mod attention;
mod delta_net;
mod dense;
mod feed_forward;
mod head;
mod join;
mod latent_attention;
mod layer;
mod map;
mod predictor;
mod recorded;
mod recurrent;
mod short_conv;
mod whole_token;
mod widths;
mod workspace;

#[cfg(test)]
mod tests;

use super::cache::Kept;
use super::decoder::{agreed, in_order, places_to_copy, trail, Decoder, Mixer};
use super::embedding::Embedding;
use super::predictor::unless_damaged;
use super::rope::Rotation;
use super::{Logits, Model, ModelConfig, ModelError};
use crate::experts::budget::CacheNeed;
use crate::experts::Experts;
use crate::gpu::talk::Talk;
use crate::gpu::{Address, Device};
use answered_token::AnsweredToken;
use feed_forward::watch;
use head::DeviceHead;
use layer::{mix, DeviceLayer};
use map::Rows;
use predictor::DevicePredictor;
use recorded::Recorded;
use std::sync::Arc;
use whole_token::WholeToken;
pub(super) use widths::RANGES;
use widths::{Widths, HEAD_ROWS};
use workspace::Workspace;

/// What a device does without, since it did not pass its trials; see [`super::proof`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Attention of chunks goes as that of few tokens does.
    pub chunk_attention: bool,
    /// Host and device don't speak while a token runs.
    pub mailbox: bool,
}

/// Passes of at most so many tokens are not looked over layer by layer: their logits tell.
const UNWATCHED: usize = 8;

/// What a layer needs to know of the pass at hand.
#[derive(Clone, Copy)]
struct Pass<'a> {
    device: &'a dyn Device,
    work: &'a Workspace,
    tokens: usize,
    /// Positions up to the pass's end. Of a recorded token it changes from pass to pass: what is queued must not depend on it then.
    seen: usize,
    /// Residual stream.
    x: Rows,
    /// Normalised input of the half layer at hand.
    h: Rows,
    /// Pairs that the rotation turns, and those that it turns in layers that see a window, where that differs.
    halves: (usize, Option<usize>),
    /// What is queued is the same as in the last pass of this kind, down to the addresses.
    again: bool,
    /// The routers of later layers are asked before their turn.
    asks: bool,
}

impl Pass<'_> {
    /// The angles of a layer that sees a window, or of one that sees everything, and how many pairs they are for.
    fn turn(&self, window: bool) -> (Address, usize) {
        let (plain, windowed) = self.halves;
        match windowed.filter(|_| window) {
            Some(half) => (self.work.angles().plus(self.tokens * 2 * plain * 4), half),
            None => (self.work.angles(), plain),
        }
    }
}

/// What layers that see a window see and keep; it is the same for all of them.
#[derive(Clone, Copy)]
struct Windows {
    window: usize,
    kept: Kept,
}

/// A whole model on a device, and its context.
pub struct DeviceDecoder {
    device: Arc<dyn Device>,
    file: String,
    /// The table stays in the mapped file: a pass reads a few of its rows.
    embedding: Embedding,
    rotation: Rotation,
    layers: Vec<DeviceLayer>,
    head: DeviceHead,
    work: Workspace,
    context: usize,
    cache: CacheNeed,
    state_bytes: u64,
    len: usize,
    windows: Option<Windows>,
    marks: Vec<usize>,
    /// See [`Decoder`]: what a recurrent layer can keep of a pass that may be taken back in part, and whether the next pass is one.
    trail: usize,
    tentative: bool,
    /// A pass of one token has been queued launch by launch, so the device knows every kernel of it.
    known: bool,
    /// There are routers of later layers to be asked before their turn.
    foresees: bool,
    /// Whether the last token asked them. What is recorded of a layer up to its routing does, or does not.
    asked: bool,
    whole: WholeToken,
    answered: AnsweredToken,
    /// How a running token and the host speak, where the device has a mailbox.
    talk: Option<Talk>,
    predictor: Option<DevicePredictor>,
}

impl DeviceDecoder {
    /// Take a model over to `device`; passes have at most `chunk` tokens. `progress` is told layers done and in all, and answers false to give up.
    ///
    /// # Errors
    /// A model that no device computes; the device has no room, or fails; [`ModelError::GivenUp`].
    pub fn new(
        decoder: Decoder,
        config: &ModelConfig,
        device: Arc<dyn Device>,
        chunk: usize,
        without: Without,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Self, ModelError> {
        let (parts, layers, context, cache, state_bytes, predictor) = decoder.into_parts();
        if let Some(what) = config.beyond_devices() {
            return Err(ModelError::NotOnDevice { file: parts.file, what });
        }
        let count = layers.len();
        let mut taken = Vec::with_capacity(count);
        let windows = layers.iter().find_map(|l| match &l.mixer {
            Mixer::Attention(a) => a.window.map(|window| Windows { window, kept: a.cache.kept() }),
            Mixer::Latent(_) | Mixer::DeltaNet(_) | Mixer::ShortConv(_) => None,
        });
        // A pass is written before it is answered.
        let chunk = windows.map_or(chunk, |w| chunk.min(w.kept.at_once(Some(w.window))));
        for (i, layer) in layers.into_iter().enumerate() {
            if !progress(i, count) {
                return Err(ModelError::GivenUp);
            }
            taken.push(DeviceLayer::new(&device, layer, &parts.file, !without.chunk_attention)?);
        }
        let take = |p| DevicePredictor::new(&device, p, &parts.file, !without.chunk_attention);
        let predictor = predictor.map(take).transpose()?;
        let head = DeviceHead::new(&*device, &parts.head)?;
        let work = Workspace::new(&*device, Widths::of(config, chunk.min(context)))?;
        let talk = (!without.mailbox && config.experts > 0).then(|| work.talk(&*device));
        let talk = talk.and_then(|made| {
            let greeted = made.and_then(|mut talk| talk.greet(&*device).map(|()| talk));
            greeted.inspect_err(|e| tracing::info!("tokens go layer by layer: {e}")).ok()
        });
        Ok(Self {
            device,
            file: parts.file,
            embedding: parts.embedding,
            rotation: parts.rotation,
            foresees: taken.iter().any(|l| l.feed_forward.foresees()),
            asked: false,
            layers: taken,
            head,
            work,
            context,
            cache,
            state_bytes,
            len: 0,
            windows,
            marks: Vec::new(),
            trail: trail(config),
            tentative: false,
            known: false,
            whole: WholeToken::default(),
            answered: AnsweredToken::default(),
            talk,
            predictor,
        })
    }

    /// Bytes of device memory that the buffers of a pass take, by the model's configuration.
    #[must_use]
    pub fn buffer_bytes(config: &ModelConfig, chunk: usize) -> u64 {
        Widths::of(config, chunk).bytes()
    }

    /// Bytes of page-locked host memory beside them.
    #[must_use]
    pub fn pinned_bytes(config: &ModelConfig, chunk: usize) -> u64 {
        Widths::of(config, chunk).pinned_bytes()
    }

    /// Most tokens of a pass.
    #[must_use]
    pub fn chunk(&self) -> usize {
        self.work.chunk()
    }

    /// Nothing that was queued may still read the page-locked memory when the next pass writes it.
    fn come_to_rest(&self) {
        let _ = self.device.mark(crate::gpu::Lane::Compute).and_then(|m| self.device.sync(&m));
    }

    /// All layers of one pass of at most [`DeviceDecoder::chunk`] tokens. False if it was stopped.
    fn layers(&mut self, tokens: &[u32], experts: &mut Experts, stop: &dyn Fn() -> bool) -> Result<bool, ModelError> {
        let count = tokens.len();
        let asks = count == 1 && self.foresees && experts.asks_routers();
        if count == 1 && std::mem::replace(&mut self.asked, asks) != asks {
            self.layers.iter_mut().for_each(|l| l.recorded[0] = Recorded::default());
        }
        let device = &*self.device;
        let work = &self.work;
        let angles = self.rotation.tables(self.len, count);
        let embedding = &self.embedding;
        work.begin(device, count, self.len, 0, &angles, &mut |rows| embedding.fill(tokens, rows))?;
        let (x, h) = (work.x(count), work.h(count));
        let pass = Pass {
            device,
            work,
            tokens: count,
            seen: self.len + count,
            x,
            h,
            halves: self.rotation.halves(),
            again: count == 1 && self.known,
            asks,
        };
        let watched = count > UNWATCHED;
        if watched {
            work.lower_flags(device)?;
        }
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if stop() {
                device.sync(&device.mark(crate::gpu::Lane::Compute)?)?;
                return Ok(false);
            }
            let DeviceLayer { mixer_norm, mixer, join, feed_forward, recorded: [first, shared] } = layer;
            if let Some(past) = mixer.past_mut() {
                past.keep_place()?;
            }
            let table = feed_forward.table(experts)?;
            let played = first.play(&pass, || {
                mix(&pass, mixer_norm, mixer, join, watched.then(|| work.flag(2 * i)))?;
                feed_forward.begin(&pass, table)
            });
            // Also of a layer that broke off: how far its state has moved nobody knows, so it must not count as the one of before.
            if let Some(past) = mixer.past_mut() {
                past.advance(count);
            }
            played?;
            feed_forward.finish(&pass, experts, shared)?;
            if watched {
                watch(device, x, count, work.flag(2 * i + 1))?;
            }
        }
        self.known |= count == 1;
        Ok(true)
    }

    /// Logits of the last row, or of all `count` rows, of the pass that was queued; then everything queued is done.
    fn head(&self, count: usize, logits: Logits) -> Result<Vec<f32>, ModelError> {
        let (device, work) = (&*self.device, &self.work);
        let (mut out, mut finite) = (Vec::new(), true);
        let first = match logits {
            Logits::None => count,
            Logits::Last => count - 1,
            Logits::All => 0,
        };
        let mut at = first;
        loop {
            let rows = (count - at).min(HEAD_ROWS);
            if rows > 0 {
                self.head.project(device, work, work.x(count).down(at), rows)?;
            }
            work.fetch(device, rows, count > UNWATCHED)?;
            let finished = work.finish(device, rows, count > UNWATCHED, &mut out)?;
            finite &= finished.finite;
            if let Some(half) = finished.flag {
                let kind = if half % 2 == 0 { "attention" } else { "feed-forward" };
                return Err(ModelError::NotFinite { file: self.file.clone(), place: format!("layer {} ({kind})", half / 2) });
            }
            at += rows;
            if at >= count {
                break;
            }
        }
        self.numbers(out, finite, count > UNWATCHED)
    }

    /// These logits, if they are numbers, as `finite` says. `watched`: the layers' results are known to be.
    fn numbers(&self, logits: Vec<f32>, finite: bool, watched: bool) -> Result<Vec<f32>, ModelError> {
        if finite {
            return Ok(logits);
        }
        let place = if watched { "the output head" } else { "a layer or the output head" };
        Err(ModelError::NotFinite { file: self.file.clone(), place: place.to_owned() })
    }

    /// One pass of at most [`DeviceDecoder::chunk`] tokens. `None` if it was stopped.
    fn pass(
        &mut self,
        tokens: &[u32],
        experts: &mut Experts,
        wanted: Logits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        if let Some(windows) = &mut self.windows {
            windows.kept.written(self.len, self.len + tokens.len());
        }
        if let [token] = *tokens {
            if let Some(slots) = experts.whole_token() {
                return self.whole_token(token, slots, experts, wanted, stop);
            }
            if let Some(slots) = experts.answered_token() {
                if let Some(done) = self.answered_token(token, slots, experts, wanted, stop)? {
                    return Ok(done);
                }
            }
        }
        match self.layers(tokens, experts, stop)? {
            true => self.head(tokens.len(), wanted).map(Some),
            false => Ok(None),
        }
    }
}

impl Model for DeviceDecoder {
    fn forward(
        &mut self,
        tokens: &[u32],
        experts: &mut Experts,
        logits: Logits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let tentative = std::mem::take(&mut self.tentative) && tokens.len() > 1;
        if tokens.len() > self.context - self.len {
            return Err(ModelError::ContextFull { used: self.len, more: tokens.len(), context: self.context });
        }
        if tokens.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let lens = places_to_copy(&self.marks, self.len, if tentative { 1 } else { tokens.len() });
        for layer in &mut self.layers {
            if let Some(past) = layer.mixer.past_mut() {
                past.mark(&lens);
                if tentative {
                    past.tentative(self.trail);
                }
            }
        }
        if let Some(predictor) = &mut self.predictor {
            if tentative && self.state_bytes > 0 {
                predictor.leave(self.trail);
            }
            predictor.mark(&lens);
        }
        // As on the CPU: a single token that were given up half way would cost all that a recurrent state has read.
        let whole = (tokens.len() == 1 || tentative) && self.state_bytes > 0;
        let stop: &dyn Fn() -> bool = if whole { &|| false } else { stop };
        let (begin, chunk) = (self.len, self.work.chunk());
        let last = (tokens.len() - 1) / chunk;
        let mut out = Vec::new();
        for (i, piece) in tokens.chunks(chunk).enumerate() {
            let wanted = if logits == Logits::Last && i < last { Logits::None } else { logits };
            match self.guessing_pass(piece, experts, wanted, stop, &lens) {
                Ok(Some(more)) if out.is_empty() => out = more,
                Ok(Some(more)) => out.extend(more),
                other => {
                    self.len = begin;
                    if other.is_err() {
                        self.come_to_rest();
                    }
                    return other;
                }
            }
            self.len += piece.len();
        }
        Ok(Some(out))
    }

    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) -> usize {
        let reach = |l: &DeviceLayer, len| l.mixer.past().map_or(len, |past| past.reachable(len));
        let kept = |len| self.windows.map_or(len, |w| w.kept.reachable(len, Some(w.window)));
        let to = agreed(len.min(self.len), |len| self.layers.iter().fold(kept(len), |len, l| reach(l, len)));
        self.len = to;
        for layer in &mut self.layers {
            if let Some(past) = layer.mixer.past_mut() {
                past.rewind(to);
            }
        }
        if let Some((predictor, around)) = self.predictor() {
            predictor.cut(around, to);
        }
        to
    }

    fn mark(&mut self, lens: &[usize]) {
        self.marks = in_order(lens);
    }

    fn most_tentative(&self) -> usize {
        self.trail + 1
    }

    fn tentative(&mut self) {
        self.tentative = true;
    }

    fn cache_bytes(&self) -> u64 {
        self.cache.bytes(self.len) + self.state_bytes
    }

    fn vocab(&self) -> usize {
        self.embedding.vocab()
    }

    fn guesses(&self) -> bool {
        self.predictor.is_some()
    }

    fn guess(&mut self, next: u32, most: usize, experts: &mut Experts, stop: &dyn Fn() -> bool) -> Result<Vec<u32>, ModelError> {
        let guesses = unless_damaged(self.guess_seen(next, most, experts, stop, &mut |_| {}))?;
        Ok(guesses.unwrap_or_else(|| {
            self.predictor = None;
            Vec::new()
        }))
    }

    #[cfg(test)]
    fn guess_with_logits(
        &mut self,
        next: u32,
        most: usize,
        experts: &mut Experts,
        seen: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<u32>, ModelError> {
        self.guess_seen(next, most, experts, &|| false, seen)
    }
}
