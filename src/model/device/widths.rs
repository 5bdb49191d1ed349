//! How wide the buffers of a pass are, by a model's configuration, and where what lies in them.

use super::super::config::Recurrence;
use super::super::predictor::MANY;
use super::super::ModelConfig;
use crate::experts::schedule::LEAD;
use crate::kernels::attention::Heads;

/// Logits are computed for so many rows at a time.
pub(super) const HEAD_ROWS: usize = 8;
/// Buffers within a buffer begin at multiples of so many bytes.
pub(super) const ALIGN: usize = 256;
/// Kinds of rows that are kept apart; see [`super::workspace::Workspace::given`].
const APART: usize = 3;
/// Tokens times splits of an attention over few tokens: so many blocks per head keep a GPU busy.
pub(crate) const RANGES: usize = 96;

/// Widths of the widest layer, in values per token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Widths {
    /// Tokens of the longest pass.
    pub(crate) chunk: usize,
    pub(crate) hidden: usize,
    /// Projections of a mixer, or of a feed-forward, side by side; what heads have of a latent.
    pub(crate) wide: usize,
    /// Queries, absorbed ones too, convolved channels, or the inside of a feed-forward.
    pub(crate) middle: usize,
    /// Outputs of heads, and queries that are to be absorbed.
    pub(crate) heads: usize,
    /// Query heads times (2 + length of a value head).
    pub(crate) partial: usize,
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
    pub(crate) vocab: usize,
    /// Cosines and sines, of both rotations if there are two.
    pub(crate) angles: usize,
    /// What halves of layers give is normalised before it is added: rows for that.
    pub(crate) apart: usize,
    pub(crate) layers: usize,
    /// Rows that are kept for the block that guesses further tokens: those that it has yet to read, and single ones of earlier passes.
    pub(crate) kept: [usize; 2],
}

impl Widths {
    /// What a model needs, by its configuration.
    pub(crate) fn of(config: &ModelConfig, chunk: usize) -> Self {
        let most = |of: &dyn Fn(Heads) -> usize| (0..config.blocks.max(1)).map(|layer| of(config.heads_of(layer))).max().unwrap_or(0);
        let gates = if config.hybrid.as_ref().is_some_and(|h| matches!(h.kind, Recurrence::Delta(_))) { 2 } else { 1 };
        let queries = most(&|h| h.query * h.key_dim);
        let asked = most(&|h| h.query * h.key_dim * gates + h.groups * (h.key_dim + h.value_dim));
        let ff = config.dense_ff.max(config.shared_ff).max(config.hybrid.as_ref().map_or(0, |h| h.shared_ff));
        let windowed = config.sliding.as_ref().and_then(|s| s.rope).map_or(0, |(_, dims)| dims);
        let mut widths = Self {
            chunk: chunk.min(config.context).max(1),
            hidden: config.hidden,
            wide: asked.max(2 * ff + 1),
            middle: queries.max(ff),
            heads: most(&|h| h.query * h.value_dim),
            partial: most(&|h| h.query * (2 + h.value_dim)),
            experts: config.experts,
            top_k: config.top_k.min(config.experts),
            vocab: config.vocab,
            angles: 2 * (config.rope_dims / 2) + 2 * (windowed / 2),
            apart: match config.adds_normed() {
                false => 0,
                // Only what is given.
                true if config.experts == 0 => 1,
                true => APART,
            },
            layers: config.blocks,
            kept: [0; 2],
        };
        if let Some(hybrid) = config.hybrid.as_ref().filter(|_| config.guesses) {
            widths.wide = widths.wide.max(2 * config.hidden);
            widths.kept = [widths.chunk.max(MANY), hybrid.snapshots() + 1];
        }
        if let Some(l) = &config.latent {
            let (turned, rank) = (l.plain + l.turned, l.query_rank.unwrap_or(0));
            widths.wide = widths.wide.max(rank + l.rank + l.turned).max(l.heads * l.rank);
            widths.middle = widths.middle.max(rank).max(l.heads * (l.rank + l.turned));
            widths.heads = widths.heads.max(l.heads * turned.max(l.value));
        }
        match config.hybrid.as_ref().map(|h| h.kind) {
            Some(Recurrence::Delta(delta)) => {
                let inner = delta.values * delta.value_dim;
                widths.wide = widths.wide.max(delta.channels() + inner + 2 * delta.values);
                widths.middle = widths.middle.max(delta.channels()).max(inner);
                widths.heads = widths.heads.max(inner);
            }
            Some(Recurrence::Conv(channels)) => {
                widths.wide = widths.wide.max(3 * channels);
                widths.middle = widths.middle.max(channels);
            }
            None => {}
        }
        widths
    }

    /// Bytes of the other buffers: wide, middle, heads, partial, scores, slots, logits, flags, choices, apart, kept.
    pub(super) fn buffers(&self) -> [usize; 11] {
        let Self { chunk, .. } = *self;
        let partial = self.partial * chunk.max(RANGES);
        let rows = [self.wide, self.middle, self.heads].map(|width| chunk * width);
        let [wide, middle, heads] = rows;
        let (scores, slots, logits) = (chunk * self.experts, chunk * self.top_k, HEAD_ROWS * self.vocab);
        let (apart, kept) = (self.apart * chunk * self.hidden, self.kept.iter().sum::<usize>() * self.hidden);
        [wide, middle, heads, partial, scores, slots, logits, 2 * self.layers, self.choices() / 4, apart, kept]
            .map(|values| (values * 4).next_multiple_of(ALIGN))
    }

    /// Bytes of what the routers of all layers chose for one token, `[layers, 2, top_k]`: ids, then gate weights.
    pub(super) fn choices(&self) -> usize {
        self.layers * 2 * self.top_k * 4
    }

    /// Where the parts of the page-locked memory begin, after what goes up: what comes down in each layer, logits, flags, choices.
    pub(super) fn pinned_parts(&self) -> [usize; 4] {
        let routed = Sent::of(self, self.chunk).end.next_multiple_of(ALIGN);
        let logits = (routed + Routed::most(self)).next_multiple_of(ALIGN);
        let flags = logits + HEAD_ROWS * self.vocab * 4;
        [routed, logits, flags, flags + 8 * self.layers]
    }

    /// Bytes of page-locked host memory of a workspace.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        (self.pinned_parts()[3] + self.choices()) as u64
    }

    /// Bytes of device memory that a workspace of these widths takes.
    pub(crate) fn bytes(&self) -> u64 {
        (Sent::of(self, self.chunk).end + Routed::most(self) + self.buffers().iter().sum::<usize>() + 2 * ALIGN) as u64
    }
}

/// Offsets in the memory that goes up in one copy at the beginning of a pass: position, angles, hidden states. They depend on the number of tokens,
/// so that what a pass uses lies together.
pub(super) struct Sent {
    pub(super) angles: usize,
    pub(super) x: usize,
    pub(super) end: usize,
}

impl Sent {
    pub(super) fn of(w: &Widths, tokens: usize) -> Self {
        let x = ALIGN + (tokens * w.angles * 4).next_multiple_of(ALIGN);
        Self { angles: ALIGN, x, end: x + tokens * w.hidden * 4 }
    }
}

/// The same for what comes down in one copy in each layer with routed experts: ids, gate weights, normalised rows and, of one token, the scores of the layer's
/// router and of the next layers' routers that are asked early. Scores are last, so that a token whose routers are not asked leaves them behind.
pub(super) struct Routed {
    pub(super) weights: usize,
    pub(super) rows: usize,
    pub(super) scores: usize,
    /// Without scores.
    pub(super) end: usize,
}

impl Routed {
    pub(super) fn of(w: &Widths, tokens: usize) -> Self {
        let pairs = tokens * w.top_k * 4;
        let rows = (2 * pairs).next_multiple_of(ALIGN);
        let end = rows + tokens * w.hidden * 4;
        Self { weights: pairs, rows, scores: end.next_multiple_of(ALIGN), end }
    }

    /// Where a copy ends that brings so many scores along.
    pub(super) fn with(&self, scores: usize) -> usize {
        match scores {
            0 => self.end,
            scores => self.scores + scores * 4,
        }
    }

    /// Bytes of the longest, for passes of any number of tokens.
    pub(super) fn most(w: &Widths) -> usize {
        Self::of(w, w.chunk).end.max(Self::of(w, 1).with((1 + LEAD) * w.experts))
    }
}
