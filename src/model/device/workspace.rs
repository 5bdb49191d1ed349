//! The buffers of a pass: allocated once for the longest chunk, used by every layer in turn.

use super::super::decoder::all_finite;
use super::super::ModelError;
use super::map::Rows;
use super::widths::{Routed, Sent, Widths, ALIGN, RANGES};
use crate::experts::schedule::LEAD;
use crate::gpu::params::TellHost;
use crate::gpu::talk::Talk;
use crate::gpu::{Address, Device, GpuError, Lane, Memory, Pinned};

/// What has come down for a layer.
pub(super) struct Fetched<'a> {
    /// `[tokens, top_k]`
    pub(super) ids: &'a [u32],
    /// `[tokens, top_k]`
    pub(super) weights: &'a [f32],
    /// `[tokens, hidden]`
    pub(super) rows: &'a [f32],
    /// Of one token, if they were asked for: those of the layer, then those of the next layers.
    pub(super) scores: &'a [f32],
}

/// How a pass ended.
pub(super) struct Finished {
    /// The first flag that is set.
    pub(super) flag: Option<usize>,
    /// All logits are numbers.
    pub(super) finite: bool,
}

/// Where a router puts its choice.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    /// Experts, `[tokens, top_k]` u32.
    pub(super) ids: Address,
    /// Their gate weights, `[tokens, top_k]`.
    pub(super) weights: Address,
}

/// Device buffers, and the page-locked memory through which a pass speaks with the host.
pub(super) struct Workspace {
    widths: Widths,
    _memory: Memory,
    pinned: Pinned,
    /// Where the parts of `pinned` begin: [`Sent`] is first.
    routed_at: usize,
    logits_at: usize,
    flags_at: usize,
    choices_at: usize,
    sent: Address,
    routed: Address,
    wide: Address,
    middle: Address,
    heads: Address,
    pub(super) partial: Address,
    /// Of passes of several tokens, `[chunk, experts]`.
    scores: Address,
    pub(super) slots: Address,
    logits: Address,
    flags: Address,
    choices: Address,
    apart: Address,
    kept: Address,
}

impl Workspace {
    pub(super) fn new(device: &dyn Device, widths: Widths) -> Result<Self, ModelError> {
        let memory = device.alloc(widths.bytes() as usize)?;
        let (sent_bytes, routed_bytes) = (Sent::of(&widths, widths.chunk).end, Routed::most(&widths));
        let mut at = memory.address();
        let mut take = |bytes: usize| {
            let here = at;
            at = at.plus(bytes.next_multiple_of(ALIGN));
            here
        };
        let (sent, routed) = (take(sent_bytes), take(routed_bytes));
        let [wide, middle, heads, partial, scores, slots, logits, flags, choices, apart, kept] = widths.buffers().map(take);
        let [routed_at, logits_at, flags_at, choices_at] = widths.pinned_parts();
        let pinned = device.pinned(widths.pinned_bytes() as usize)?;
        Ok(Self {
            widths,
            _memory: memory,
            pinned,
            routed_at,
            logits_at,
            flags_at,
            choices_at,
            sent,
            routed,
            wide,
            middle,
            heads,
            partial,
            scores,
            slots,
            logits,
            flags,
            choices,
            apart,
            kept,
        })
    }

    /// Residual stream of a pass, `[tokens, hidden]`.
    pub(super) fn x(&self, tokens: usize) -> Rows {
        Rows { at: self.sent.plus(Sent::of(&self.widths, tokens).x), stride: self.widths.hidden }
    }

    /// Normalised input of a half layer, `[tokens, hidden]`.
    pub(super) fn h(&self, tokens: usize) -> Rows {
        Rows { at: self.routed.plus(Routed::of(&self.widths, tokens).rows), stride: self.widths.hidden }
    }

    /// Scores of a layer's router, `[tokens, experts]`. Behind those of one token is room for the scores of [`LEAD`] layers more.
    pub(super) fn scores(&self, tokens: usize) -> Rows {
        let at = if tokens == 1 { self.routed.plus(Routed::of(&self.widths, 1).scores) } else { self.scores };
        Rows { at, stride: self.widths.experts }
    }

    /// Position of the first token, u32.
    pub(super) fn position(&self) -> Address {
        self.sent
    }

    /// The turn of a token that is answered while it runs, u32; see [`Talk`].
    pub(super) fn turn(&self) -> Address {
        self.sent.plus(4)
    }

    /// For tokens that are answered while they run.
    pub(super) fn talk(&self, device: &dyn Device) -> Result<Talk, GpuError> {
        let Widths { layers, experts, hidden, .. } = self.widths;
        let told = Routed::of(&self.widths, 1).with((1 + LEAD) * experts).max(self.widths.choices());
        Talk::new(device, layers, experts, told, hidden)
    }

    /// Tell the host the routing and the normalised row of a layer of such a token, and so many scores.
    pub(super) fn tell(&self, talk: &Talk, layer: usize, scores: usize) -> TellHost {
        talk.tell(self.turn(), layer, self.routed, Routed::of(&self.widths, 1).with(scores))
    }

    /// Bytes that it told.
    pub(super) fn told_bytes(&self, scores: usize) -> usize {
        Routed::of(&self.widths, 1).with(scores)
    }

    /// What it told, by its words.
    pub(super) fn told<'a>(&self, words: &'a [u32], scores: usize) -> Fetched<'a> {
        let at = Routed::of(&self.widths, 1);
        let numbers: &[f32] = bytemuck::cast_slice(words);
        Fetched {
            ids: &words[..at.weights / 4],
            weights: &numbers[at.weights / 4..2 * at.weights / 4],
            rows: &numbers[at.rows / 4..at.end / 4],
            scores: &numbers[words.len() - scores..],
        }
    }

    /// `[tokens, 2 * half]`, and the same of layers that see a window behind them, where those have a rotation of their own.
    pub(super) fn angles(&self) -> Address {
        self.sent.plus(ALIGN)
    }

    /// Rows that only models have whose results are normalised before they are added.
    fn apart(&self, tokens: usize, which: usize) -> Rows {
        debug_assert!(which < self.widths.apart);
        Rows { at: self.apart, stride: self.widths.hidden }.down(which * tokens)
    }

    /// What a half layer gave, on its way to a norm, `[tokens, hidden]`.
    pub(super) fn given(&self, tokens: usize) -> Rows {
        self.apart(tokens, 0)
    }

    /// The sums of the routed experts, where they are not added to the stream at once, `[tokens, hidden]`.
    pub(super) fn routed(&self, tokens: usize) -> Rows {
        self.apart(tokens, 1)
    }

    /// What a router or a dense feed-forward beside experts reads, `[tokens, hidden]`; the experts read [`Workspace::h`].
    pub(super) fn read_apart(&self, tokens: usize) -> Rows {
        self.apart(tokens, 2)
    }

    /// Rows of passes that the block that guesses has yet to read, `[chunk, hidden]` or a few more.
    pub(super) fn kept(&self) -> Rows {
        Rows { at: self.kept, stride: self.widths.hidden }
    }

    /// Single rows of earlier passes, behind them.
    pub(super) fn edges(&self) -> Rows {
        self.kept().down(self.widths.kept[0])
    }

    /// The choice of a layer's router that the host gets at once, by [`Workspace::fetch_routing`].
    pub(super) fn choice(&self, tokens: usize) -> Choice {
        Choice { ids: self.routed, weights: self.routed.plus(Routed::of(&self.widths, tokens).weights) }
    }

    /// The choice for one token of layer number `layer` among those with routers, which the host gets when all layers are through, by [`Workspace::tell_choices`] or [`Workspace::fetch_choices`].
    pub(super) fn choice_of(&self, layer: usize) -> Choice {
        let row = self.widths.top_k * 4;
        let ids = self.choices.plus(2 * layer * row);
        Choice { ids, weights: ids.plus(row) }
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
    pub(super) fn splits(tokens: usize) -> u32 {
        (RANGES / tokens.max(1)).max(1) as u32
    }

    /// For how many ranges there is room, with so many tokens.
    pub(super) fn most_splits(&self, tokens: usize) -> u32 {
        (self.widths.chunk.max(RANGES) / tokens.max(1)).max(1) as u32
    }

    /// Send a pass's input up: `fill` writes the hidden states `[tokens, hidden]`. `turn`: see [`Workspace::turn`].
    pub(super) fn begin(
        &self,
        device: &dyn Device,
        tokens: usize,
        position: usize,
        turn: u32,
        angles: &[f32],
        fill: &mut dyn FnMut(&mut [f32]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let sent = Sent::of(&self.widths, tokens);
        let mut filled = Ok(());
        self.pinned.write(0..sent.end, &mut |bytes| {
            bytes[..4].copy_from_slice(&(position as u32).to_ne_bytes());
            bytes[4..8].copy_from_slice(&turn.to_ne_bytes());
            bytes[sent.angles..sent.angles + size_of_val(angles)].copy_from_slice(bytemuck::cast_slice(angles));
            filled = fill(bytemuck::cast_slice_mut(&mut bytes[sent.x..]));
        });
        filled?;
        if self.widths.apart > 1 {
            // What a pass that broke off may have left. Every layer clears it for the next.
            device.clear(Lane::Compute, self.routed(tokens).at, tokens * self.widths.hidden * 4)?;
        }
        Ok(device.upload(Lane::Compute, self.sent, &self.pinned, 0..sent.end)?)
    }

    /// Queue the routing and the normalised rows of a layer for the host and, of one token, so many scores: see [`Workspace::scores`].
    pub(super) fn fetch_routing(&self, device: &dyn Device, tokens: usize, scores: usize) -> Result<(), GpuError> {
        let end = self.routed_at + Routed::of(&self.widths, tokens).with(scores);
        device.download(Lane::Compute, self.routed, &self.pinned, self.routed_at..end)
    }

    /// What [`Workspace::fetch_routing`] brought, when its mark has been passed.
    pub(super) fn routing<R>(&self, tokens: usize, scores: usize, f: impl FnOnce(&Fetched<'_>) -> R) -> Option<R> {
        let at = Routed::of(&self.widths, tokens);
        let (mut f, mut result) = (Some(f), None);
        self.pinned.read(self.routed_at..self.routed_at + at.with(scores), &mut |bytes| {
            let Some(f) = f.take() else { return };
            let (ids, weights, rows) = (&bytes[..at.weights], &bytes[at.weights..2 * at.weights], &bytes[at.rows..at.end]);
            let scores = &bytes[bytes.len() - scores * 4..];
            let [weights, rows, scores] = [weights, rows, scores].map(bytemuck::cast_slice);
            result = Some(f(&Fetched { ids: bytemuck::cast_slice(ids), weights, rows, scores }));
        });
        result
    }

    /// Tell the host the choices of all layers, as those of its first layer.
    pub(super) fn tell_choices(&self, talk: &Talk) -> TellHost {
        talk.tell(self.turn(), 0, self.choices, self.widths.choices())
    }

    /// Wait for what that told.
    pub(super) fn hear_choices(&self, device: &dyn Device, talk: &Talk) -> Result<Vec<u32>, GpuError> {
        let mut choices = Vec::new();
        talk.hear(device, 0, self.widths.choices(), &mut choices)?;
        Ok(choices)
    }

    /// Queue the choices of all layers for the host.
    pub(super) fn fetch_choices(&self, device: &dyn Device) -> Result<(), GpuError> {
        match self.widths.choices() {
            0 => Ok(()),
            bytes => device.download(Lane::Compute, self.choices, &self.pinned, self.choices_at..self.choices_at + bytes),
        }
    }

    /// What [`Workspace::fetch_choices`] brought, when its mark has been passed.
    pub(super) fn choices(&self) -> Vec<u32> {
        let mut words = Vec::new();
        let at = self.choices_at..self.choices_at + self.widths.choices();
        self.pinned.read(at, &mut |bytes| words.extend_from_slice(bytemuck::cast_slice(bytes)));
        words
    }

    /// Of the choices of all layers those of one: ids, weights `[top_k]`.
    pub(super) fn chosen<'a>(&self, choices: &'a [u32], layer: usize) -> (&'a [u32], &'a [f32]) {
        let k = self.widths.top_k;
        let (ids, weights) = choices[2 * layer * k..2 * (layer + 1) * k].split_at(k);
        (ids, bytemuck::cast_slice(weights))
    }

    /// Before a pass that is looked over: no flag is set.
    pub(super) fn lower_flags(&self, device: &dyn Device) -> Result<(), GpuError> {
        device.clear(Lane::Compute, self.flags, 8 * self.widths.layers)
    }

    /// Where the flag of half layer number `half` is.
    pub(super) fn flag(&self, half: usize) -> Address {
        self.flags.plus(half * 4)
    }

    /// Logits of up to [`super::widths::HEAD_ROWS`] tokens, on the device.
    pub(super) fn logits(&self) -> Rows {
        Rows { at: self.logits, stride: self.widths.vocab }
    }

    fn logits_of(&self, rows: usize) -> std::ops::Range<usize> {
        self.logits_at..self.logits_at + rows * self.widths.vocab * 4
    }

    fn all_flags(&self) -> std::ops::Range<usize> {
        self.flags_at..self.flags_at + 8 * self.widths.layers
    }

    /// Queue `rows` rows of logits for the host and, if the pass was looked over, the flags.
    pub(super) fn fetch(&self, device: &dyn Device, rows: usize, watched: bool) -> Result<(), GpuError> {
        if rows > 0 {
            device.download(Lane::Compute, self.logits, &self.pinned, self.logits_of(rows))?;
        }
        if watched {
            device.download(Lane::Compute, self.flags, &self.pinned, self.all_flags())?;
        }
        Ok(())
    }

    /// Wait for everything queued so far; then what [`Workspace::fetch`] brought: logits are added to `out`.
    pub(super) fn finish(&self, device: &dyn Device, rows: usize, watched: bool, out: &mut Vec<f32>) -> Result<Finished, ModelError> {
        device.sync(&device.mark(Lane::Compute)?)?;
        let mut finished = Finished { flag: None, finite: true };
        self.pinned.read(self.logits_of(rows), &mut |bytes| {
            let logits: &[f32] = bytemuck::cast_slice(bytes);
            out.reserve(logits.len());
            // Looked at while they are at hand: a megabyte that was just written elsewhere is slow enough to read once.
            for some in logits.chunks(2048) {
                out.extend_from_slice(some);
                finished.finite &= all_finite(some);
            }
        });
        if watched {
            self.pinned.read(self.all_flags(), &mut |bytes| finished.flag = bytes.chunks_exact(4).position(|f| f != [0; 4]));
        }
        Ok(finished)
    }
}
