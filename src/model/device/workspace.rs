//! The buffers of a pass: allocated once for the longest chunk, used by every layer in turn.

use super::super::{ModelConfig, ModelError};
use super::map::Rows;
use crate::gpu::{Address, Device, GpuError, Lane, Memory, Pinned};
use crate::kernels::attention::Heads;

/// Logits are computed for so many rows at a time.
pub(super) const HEAD_ROWS: usize = 8;
/// Tokens times splits of an attention over few tokens: so many blocks per head keep a GPU busy.
const SPLITS: usize = 64;

/// Widths of the widest layer, in values per token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Widths {
    /// Tokens of the longest pass.
    pub(crate) chunk: usize,
    pub(crate) hidden: usize,
    /// Projections of a mixer, or of a feed-forward, side by side.
    pub(crate) wide: usize,
    /// Queries, convolved channels, or the inside of a feed-forward.
    pub(crate) middle: usize,
    /// Outputs of heads.
    pub(crate) heads: usize,
    /// Query heads times (2 + length of a value head).
    pub(crate) partial: usize,
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
    pub(crate) vocab: usize,
    /// Cosines and sines.
    pub(crate) angles: usize,
    pub(crate) layers: usize,
}

impl Widths {
    /// What a model needs, by its configuration.
    pub(crate) fn of(config: &ModelConfig, chunk: usize) -> Self {
        let Heads { query, groups, key_dim, value_dim } = config.heads;
        let asked = query * key_dim * if config.hybrid.is_some() { 2 } else { 1 };
        let ff = config.dense_ff.max(config.hybrid.as_ref().map_or(0, |h| h.shared_ff));
        let mut widths = Self {
            chunk: chunk.min(config.context).max(1),
            hidden: config.hidden,
            wide: (asked + groups * (key_dim + value_dim)).max(2 * ff + 1),
            middle: (query * key_dim).max(ff),
            heads: query * value_dim,
            partial: query * (2 + value_dim),
            experts: config.experts,
            top_k: config.top_k.min(config.experts),
            vocab: config.vocab,
            angles: 2 * (config.rope_dims / 2),
            layers: config.blocks,
        };
        if let Some(delta) = config.hybrid.as_ref().map(|h| h.delta) {
            let inner = delta.values * delta.value_dim;
            widths.wide = widths.wide.max(delta.channels() + inner + 2 * delta.values);
            widths.middle = widths.middle.max(delta.channels()).max(inner);
            widths.heads = widths.heads.max(inner);
        }
        widths
    }

    /// Bytes of device memory that a workspace of these widths takes.
    pub(crate) fn bytes(&self) -> u64 {
        let row = 2 * self.hidden + self.wide + self.middle + self.heads + self.experts + 3 * self.top_k + self.angles;
        let values = row * self.chunk + self.partial * self.chunk.max(SPLITS) + HEAD_ROWS * self.vocab + 2 * self.layers + 1;
        values as u64 * 4
    }
}

/// Ranges of page-locked memory: what goes up at the beginning of a pass, what comes down in each layer, what comes down at the end.
struct Places {
    angles: usize,
    position: usize,
    ids: usize,
    weights: usize,
    rows: usize,
    logits: usize,
    flags: usize,
    end: usize,
}

/// Device buffers, and the page-locked memory through which a pass speaks with the host.
pub(super) struct Workspace {
    widths: Widths,
    _memory: Memory,
    pinned: Pinned,
    places: Places,
    /// Residual stream `[chunk, hidden]`.
    pub(super) x: Rows,
    /// Normalised input of a half layer `[chunk, hidden]`.
    pub(super) h: Rows,
    wide: Address,
    middle: Address,
    heads: Address,
    pub(super) partial: Address,
    /// `[chunk, experts]`
    pub(super) scores: Rows,
    pub(super) ids: Address,
    pub(super) weights: Address,
    pub(super) slots: Address,
    pub(super) angles: Address,
    pub(super) position: Address,
    logits: Address,
    flags: Address,
}

impl Workspace {
    pub(super) fn new(device: &dyn Device, widths: Widths) -> Result<Self, ModelError> {
        let memory = device.alloc(widths.bytes() as usize)?;
        let mut at = memory.address();
        let mut take = |values: usize| {
            let here = at;
            at = at.plus(values * 4);
            here
        };
        let Widths { chunk, hidden, .. } = widths;
        let x = Rows { at: take(chunk * hidden), stride: hidden };
        let h = Rows { at: take(chunk * hidden), stride: hidden };
        let (wide, middle, heads) = (take(chunk * widths.wide), take(chunk * widths.middle), take(chunk * widths.heads));
        let partial = take(widths.partial * chunk.max(SPLITS));
        let scores = Rows { at: take(chunk * widths.experts), stride: widths.experts };
        let [ids, weights, slots] = [(); 3].map(|()| take(chunk * widths.top_k));
        let angles = take(chunk * widths.angles);
        let (logits, flags, position) = (take(HEAD_ROWS * widths.vocab), take(2 * widths.layers), take(1));

        let mut end = chunk * hidden * 4;
        let mut take = |values: usize| {
            let here = end;
            end += values * 4;
            here
        };
        let (angles_at, position_at) = (take(chunk * widths.angles), take(1));
        let (ids_at, weights_at) = (take(chunk * widths.top_k), take(chunk * widths.top_k));
        let (rows, logits_at, flags_at) = (take(chunk * hidden), take(HEAD_ROWS * widths.vocab), take(2 * widths.layers));
        let places = Places {
            angles: angles_at,
            position: position_at,
            ids: ids_at,
            weights: weights_at,
            rows,
            logits: logits_at,
            flags: flags_at,
            end,
        };
        let pinned = device.pinned(places.end)?;
        Ok(Self {
            widths,
            _memory: memory,
            pinned,
            places,
            x,
            h,
            wide,
            middle,
            heads,
            partial,
            scores,
            ids,
            weights,
            slots,
            angles,
            position,
            logits,
            flags,
        })
    }

    /// Most tokens of a pass.
    pub(super) fn chunk(&self) -> usize {
        self.widths.chunk
    }

    /// `[tokens, width]`, at most as wide as the widest projections.
    pub(super) fn wide(&self, width: usize) -> Rows {
        debug_assert!(width <= self.widths.wide);
        Rows { at: self.wide, stride: width }
    }

    /// `[tokens, width]`, at most as wide as the widest middle of a layer.
    pub(super) fn middle(&self, width: usize) -> Rows {
        debug_assert!(width <= self.widths.middle);
        Rows { at: self.middle, stride: width }
    }

    /// `[tokens, width]`, at most as wide as all heads of a layer.
    pub(super) fn heads(&self, width: usize) -> Rows {
        debug_assert!(width <= self.widths.heads);
        Rows { at: self.heads, stride: width }
    }

    /// Into how many ranges the keys are cut for so many tokens.
    pub(super) fn splits(tokens: usize) -> usize {
        (SPLITS / tokens.max(1)).clamp(1, 32)
    }

    /// Send a pass's input up: `fill` writes the hidden states `[tokens, hidden]`.
    pub(super) fn begin(
        &self,
        device: &dyn Device,
        tokens: usize,
        position: usize,
        angles: &[f32],
        fill: &mut dyn FnMut(&mut [f32]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let rows = 0..tokens * self.widths.hidden * 4;
        let mut filled = Ok(());
        self.pinned.write(rows.clone(), &mut |bytes| filled = fill(bytemuck::cast_slice_mut(bytes)));
        filled?;
        let turned = self.places.angles..self.places.angles + size_of_val(angles);
        self.pinned.write(turned.clone(), &mut |bytes| bytes.copy_from_slice(bytemuck::cast_slice(angles)));
        let at = self.places.position..self.places.position + 4;
        self.pinned.write(at.clone(), &mut |bytes| bytes.copy_from_slice(&(position as u32).to_ne_bytes()));
        device.upload(Lane::Compute, self.x.at, &self.pinned, rows)?;
        if !turned.is_empty() {
            device.upload(Lane::Compute, self.angles, &self.pinned, turned)?;
        }
        device.upload(Lane::Compute, self.position, &self.pinned, at)?;
        Ok(device.clear(Lane::Compute, self.flags, 8 * self.widths.layers)?)
    }

    /// Queue the routing and the normalised rows of a layer for the host.
    pub(super) fn fetch_routing(&self, device: &dyn Device, tokens: usize) -> Result<(), GpuError> {
        let pairs = tokens * self.widths.top_k * 4;
        device.download(Lane::Compute, self.ids, &self.pinned, self.places.ids..self.places.ids + pairs)?;
        device.download(Lane::Compute, self.weights, &self.pinned, self.places.weights..self.places.weights + pairs)?;
        let rows = self.places.rows..self.places.rows + tokens * self.widths.hidden * 4;
        device.download(Lane::Compute, self.h.at, &self.pinned, rows)
    }

    /// What [`Workspace::fetch_routing`] brought, when its mark has been passed: ids, weights `[tokens, top_k]`, rows `[tokens, hidden]`.
    pub(super) fn routing<R>(&self, tokens: usize, f: impl FnOnce(&[u32], &[f32], &[f32]) -> R) -> Option<R> {
        let pairs = tokens * self.widths.top_k * 4;
        let end = self.places.rows + tokens * self.widths.hidden * 4;
        let (base, mut f, mut result) = (self.places.ids, Some(f), None);
        self.pinned.read(base..end, &mut |bytes| {
            let Some(f) = f.take() else { return };
            let weights = &bytes[self.places.weights - base..][..pairs];
            let rows = &bytes[self.places.rows - base..][..end - self.places.rows];
            result = Some(f(bytemuck::cast_slice(&bytes[..pairs]), bytemuck::cast_slice(weights), bytemuck::cast_slice(rows)));
        });
        result
    }

    /// Where the flag of half layer number `half` is.
    pub(super) fn flag(&self, half: usize) -> Address {
        self.flags.plus(half * 4)
    }

    /// Logits of up to [`HEAD_ROWS`] tokens, on the device.
    pub(super) fn logits(&self) -> Rows {
        Rows { at: self.logits, stride: self.widths.vocab }
    }

    /// Wait for everything queued so far, and bring down `rows` rows of logits (added to `out`) and the flags, of which the first one set is told.
    pub(super) fn finish(&self, device: &dyn Device, rows: usize, out: &mut Vec<f32>) -> Result<Option<usize>, ModelError> {
        let logits = self.places.logits..self.places.logits + rows * self.widths.vocab * 4;
        let flags = self.places.flags..self.places.flags + 8 * self.widths.layers;
        if rows > 0 {
            device.download(Lane::Compute, self.logits, &self.pinned, logits.clone())?;
        }
        device.download(Lane::Compute, self.flags, &self.pinned, flags.clone())?;
        device.sync(&device.mark(Lane::Compute)?)?;
        self.pinned.read(logits, &mut |bytes| out.extend_from_slice(bytemuck::cast_slice(bytes)));
        let mut bad = None;
        self.pinned.read(flags, &mut |bytes| bad = bytes.chunks_exact(4).position(|f| f != [0; 4]));
        Ok(bad)
    }
}
