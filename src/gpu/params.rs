//! The kernels: what each is given. These structs are the border to CUDA C++; `kernels/params.cuh` mirrors them field by field.
//!
//! Conventions: an [`Address`] is a pointer, 0 is "not there". Sizes and strides count elements, not bytes, unless a field says
//! otherwise. Activations are f32; weights are rows in their GGUF type, one after the other without gaps. Sums inside a kernel run
//! in f32; the order of summation is the kernel's own, but the same in every run.
//!
//! Kernels read in wide pieces: matrices of weights and rows of activations that are multiplied with blocks begin at multiples of 16 bytes, and
//! caches too. [`super::reference`] refuses launches that don't keep this, or that are larger than what a kernel has room for.

#![allow(missing_docs, reason = "field names say what the line above each struct explains")]

use super::device::{Address, Device, GpuError, Touch};
use bytemuck::{Pod, Zeroable};

#[cfg(doc)]
use crate::kernels::rows::Activation;

/// How many blocks of how many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub threads: u32,
}

#[allow(unsafe_code)]
// SAFETY: `Address` is `repr(transparent)` over u64, for which every bit pattern is valid.
unsafe impl Zeroable for Address {}
#[allow(unsafe_code)]
// SAFETY: as above; it has no padding.
unsafe impl Pod for Address {}

/// A kernel: its name, its parameters, and how many threads it wants for them.
pub trait Kernel: Pod {
    const NAME: &'static str;
    fn shape(&self) -> Shape;
    /// The entry for these parameters, where there are several.
    fn name(&self) -> &'static str {
        Self::NAME
    }
}

/// Queue a kernel.
///
/// # Errors
/// From the device.
pub fn launch<K: Kernel>(device: &dyn Device, kernel: &K, touches: &[Touch]) -> Result<(), GpuError> {
    device.launch(kernel.name(), kernel.shape(), bytemuck::bytes_of(kernel), touches)
}

const fn line(blocks: u32, threads: u32) -> Shape {
    Shape { grid: [blocks, 1, 1], threads }
}

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
        pub struct $name { $(pub $field: $ty),* }
    )*};
}

params! {
    /// `y = clamp(x) / sqrt(mean(clamp(x)^2) + eps) * weight` over each of `pieces` pieces of `len` values in each of `rows` rows.
    /// Piece p of row r begins at `r * x_stride + p * x_piece`, its result at `r * y_stride + p * len`. `limit` 0: no clamp. `x` may be `y`
    /// if the strides are the same.
    RmsNorm { x: Address, weight: Address, y: Address, rows: u32, pieces: u32, len: u32, x_stride: u32, x_piece: u32, y_stride: u32, eps: f32, limit: f32 }

    /// One map of a [`MatVec`] or [`MatMul`]: `y[t] (+)= f(W x[t] + bias)`, W `[rows, cols]` of type `ty` (the GGUF type number).
    /// `accumulate`: add to `y`. `scale`: f multiplies by `sigmoid(scale[t * scale_stride])`, 0 for none. `bias`: `[rows]` f32.
    MatJob { weight: Address, bias: Address, y: Address, scale: Address, ty: u32, rows: u32, y_stride: u32, accumulate: u32, scale_stride: u32, first_block: u32 }

    /// Up to six maps over the same 1 to 8 rows `x[t * x_stride..][..cols]`; block b belongs to the last job whose `first_block <= b`
    /// and computes some rows of it ([`MatVec::blocks_of`]). `2^split` warps share a row, at most four, but in types that are [`MatVec::tiled`].
    ///
    /// `gate` is 0, or one token's row beside `x`, whose maps are all [`MatVec::tiled`]: they get `silu(gate) * x` then.
    MatVec { x: Address, gate: Address, cols: u32, tokens: u32, x_stride: u32, jobs: u32, blocks: u32, split: u32, job: [MatJob; 6] }

    /// The same for any number of rows, in tiles of [`MatMul::ROWS`] weight rows by [`MatMul::TILE`] tokens; one map. Beside quantized weights, both the
    /// weights and the activations of a tile may be rounded to f16, activations after scaling by a power of two of their own row.
    MatMul { x: Address, cols: u32, tokens: u32, x_stride: u32, pad: u32, job: MatJob }

    /// Queries and keys are normalised per head (`*_norm` 0: not), rotated (NEOX, first `2 * half` dimensions), and stored.
    ///
    /// Query head h of token t is at `q + t * q_stride + h * q_head`; the result goes to `q_out[t][h][key_dim]`. Key head g is at
    /// `k + t * k_stride + g * key_dim`, value head g at `v + t * v_stride + g * value_dim`; they go to the caches `keys`
    /// `[groups, context, key_dim]` and `values` `[groups, context, value_dim]` (f16, or f32 if `wide`) at position `*position + t`; of a `ring` at what that leaves when divided by `context`. `angles` is
    /// `[tokens, cosines half, sines half]`. Before anything else q and k are clamped to plus or minus `limit`, v to `limit_v` (0: not).
    Rotate { q: Address, k: Address, v: Address, q_norm: Address, k_norm: Address, angles: Address, q_out: Address, keys: Address, values: Address,
             position: Address, tokens: u32, heads: u32, groups: u32, key_dim: u32, value_dim: u32, half: u32, context: u32, wide: u32,
             q_stride: u32, q_head: u32, k_stride: u32, v_stride: u32, eps: f32, limit: f32, limit_v: f32, ring: u32 }

    /// Causal attention of `tokens` queries `q[t][h][key_dim]` at positions `*position + t` over the caches (see [`Rotate`]). The `n = *position + t + 1` keys that a token sees are
    /// cut into `splits` ranges (at most [`Attention::SPLITS`]) of `ceil(n / splits)` positions, but at least [`Attention::LEAST`]; the last ones are shorter or empty. Each split writes its running maximum, sum and
    /// unnormalised output to `partial` `[tokens, heads, splits, 2 + value_dim]` f32; an empty range writes maximum -inf and sum 0, and no output. Query head h uses group `h / (heads / groups)`.
    Attention { q: Address, keys: Address, values: Address, partial: Address, position: Address,
                tokens: u32, heads: u32, groups: u32, key_dim: u32, value_dim: u32, context: u32, wide: u32, splits: u32, scale: f32, pad: u32 }

    /// The same of a chunk of the prompt, over caches of f16, in tiles of [`ChunkAttention::QUERIES`] queries of a group. The n positions up to the chunk's end are cut into
    /// `splits` ranges of `ceil(n / splits)`, but at least [`ChunkAttention::LEAST`], rounded up to a multiple of 64. With more than one, `partial` is written as by [`Attention`], but a query that sees nothing
    /// of a range has an output of zeros there; with one, `y[t][h][value_dim]` is, as [`JoinSplits`] would. Scaled queries and the keys' weights may be rounded to f16.
    ChunkAttention { q: Address, keys: Address, values: Address, partial: Address, gate: Address, y: Address, position: Address,
                     tokens: u32, heads: u32, groups: u32, key_dim: u32, value_dim: u32, context: u32, splits: u32, gate_stride: u32, gate_head: u32, scale: f32 }

    /// [`Attention`] of tokens that see `window` positions, their own the last: a range is one of those. The caches are rings (see [`Rotate`]), with room for all that is seen.
    WindowAttention { of: Attention, window: u32, pad: u32 }

    /// [`ChunkAttention`] over rings, in one range, of tokens that see `window` positions, their own the last; there is room for all that any of them sees. `sinks` as in [`JoinSunk`], 0 for none.
    WindowChunkAttention { of: ChunkAttention, sinks: Address, window: u32, pad: u32 }

    /// Of latent attention (DeepSeek-AI, arXiv 2405.04434) what depends on the position. `down[t * down_stride..]` holds `rank` values, which are normalised (`norm` `[rank]`), and `turned` more, which turn in neighbouring
    /// pairs; side by side they go to the cache `rows` `[context, rank + turned]` (f16, or f32 if `wide`) at `*position + t`. The `turned` values of query head h of token t, from `q + t * q_stride + h * q_head` on, turn in the
    /// same way and go to `q_out[t][h][rank + turned]`, behind `rank` values that are left alone. `angles` as in [`Rotate`], for `turned / 2` pairs.
    LatentRows { q: Address, down: Address, norm: Address, angles: Address, q_out: Address, rows: Address, position: Address,
                 tokens: u32, heads: u32, rank: u32, turned: u32, context: u32, wide: u32, q_stride: u32, q_head: u32, down_stride: u32, eps: f32 }

    /// A map of its own for each head: `y[t * y_stride + h * y_head..][..rows] = W_h x[t * x_stride + h * x_head..][..cols]`, `weight` `[heads, rows, cols]` of type `ty`.
    HeadMaps { weight: Address, x: Address, y: Address, ty: u32, heads: u32, rows: u32, cols: u32, tokens: u32, x_stride: u32, x_head: u32, y_stride: u32, y_head: u32, pad: u32 }

    /// [`Attention`] over one group whose values are the first `value_dim` values of its keys: `values` is not read, and keys may have [`LatentAttention::KEY_DIM`] values.
    LatentAttention { of: Attention }

    /// Joins the splits of [`Attention`] into `y[t][h][value_dim]`, times `sigmoid(gate[t * gate_stride + h * gate_head + i])` unless `gate` is 0.
    JoinSplits { partial: Address, gate: Address, y: Address, tokens: u32, heads: u32, value_dim: u32, splits: u32, gate_stride: u32, gate_head: u32 }

    /// [`JoinSplits`] of at most [`Attention::SPLITS`]` - 1` ranges, with a score `sinks[h]` per head that takes part in the softmax and has no value.
    JoinSunk { of: JoinSplits, sinks: Address }

    /// Causal convolution of each channel over time, then SiLU. `x` `[tokens, channels]` with row stride `x_stride`; `taps` `[width, channels]`, oldest first;
    /// `carry` `[width - 1, channels]` holds the inputs before, oldest first, and is moved on. `y` `[tokens, channels]`. `x` is not `y`.
    Convolve { x: Address, taps: Address, carry: Address, y: Address, tokens: u32, channels: u32, width: u32, x_stride: u32 }

    /// The gated delta rule. `mixed` `[tokens, channels]` is `[queries keys*key_dim | keys keys*key_dim | values values*value_dim]` after the convolution; queries and
    /// keys are brought to unit length here (`v / sqrt(sum(v^2) + eps)`), queries also times `1 / sqrt(key_dim)`. Value head h uses key head `h % keys`. Per token:
    /// `g = exp(rate[h] * softplus(alpha[t * alpha_stride + h] + bias[h]))`, `b = sigmoid(beta[t * beta_stride + h])`, `S *= g; S += k (b (v - S^T k))^T; o = S^T q`. `state`
    /// `[values, key_dim, value_dim]` is carried on. `y` `[tokens, values, value_dim]`.
    DeltaRule { mixed: Address, alpha: Address, beta: Address, bias: Address, rate: Address, state: Address, y: Address,
                tokens: u32, keys: u32, values: u32, key_dim: u32, value_dim: u32, alpha_stride: u32, beta_stride: u32, eps: f32 }

    /// `y[t][place[h]] = rms(x[t][h], eps) * weight * silu(gate[t * gate_stride + h * dim + i])`, heads of `dim` values. `place` `[heads]` u32, 0 for the same order.
    GatedNorm { x: Address, gate: Address, weight: Address, place: Address, y: Address, tokens: u32, heads: u32, dim: u32, gate_stride: u32, eps: f32, pad: u32 }

    /// Softmax over `scores[t][experts]`, then the best `top_k`, best first; of equal scores the lower id, and a NaN never beats a number. `renormalise`: divide by their sum
    /// (at least 6.1035156e-5). `sigmoid`: each score's sigmoid instead, of which the best are those with the greatest sum with `bias` `[experts]` (0: none), and 1e-20 is added to their sum. Times `scale`, and times the expert's own of `factors` `[experts]` (0: 1). `ids` u32 and `weights` f32 `[tokens, top_k]`. `slots` `[tokens, top_k]` i32 gets `table[id]` (i32 `[experts]`, -1: in no slot);
    /// `table` 0: it is left alone.
    Route { scores: Address, table: Address, ids: Address, weights: Address, slots: Address, tokens: u32, experts: u32, top_k: u32, renormalise: u32, scale: f32, sigmoid: u32, factors: Address, bias: Address }

    /// Of every pair p (token `p / top_k`) with `slots[p] >= 0`: `inner[p] = silu(gate x) * (up x)`. The expert of slot s lies at `slab + s * slot_bytes`, its gate and up at the
    /// byte offsets `gate_at` and `up_at`, types `gate_ty` and `up_ty`, `[rows, cols]` each. Others are left alone. At most [`ExpertsUp::TOKENS`] tokens.
    ExpertsUp { slab: Address, slot_bytes: u64, gate_at: u64, up_at: u64, slots: Address, x: Address, inner: Address,
                pairs: u32, top_k: u32, rows: u32, cols: u32, gate_ty: u32, up_ty: u32, x_stride: u32, pad: u32 }

    /// `y[t] += sum over j of weights[t*k+j] * (down inner[t*k+j])`, over the pairs with a slot. `down` `[rows, cols]`.
    ExpertsDown { slab: Address, slot_bytes: u64, down_at: u64, slots: Address, weights: Address, inner: Address, y: Address,
                  tokens: u32, top_k: u32, rows: u32, cols: u32, ty: u32, y_stride: u32 }

    /// Many tokens: as [`ExpertsUp`], expert by expert. `groups` is an array of [`Group`], sorted so that pairs `begin..end` in the order of groups use slot `slot`; `token_of` u32 is the row of `x`
    /// of each pair. `inner` `[pairs, rows]`. Grid: tiles of rows by `tiles` tiles of pairs; `tile_group` u32 `[tiles]` names the group of a tile and `tile_begin` u32 its first pair.
    /// Rounding as in [`MatMul`].
    GroupedUp { slab: Address, slot_bytes: u64, gate_at: u64, up_at: u64, groups: Address, tile_group: Address, tile_begin: Address, token_of: Address, x: Address, inner: Address,
                tiles: u32, rows: u32, cols: u32, gate_ty: u32, up_ty: u32, x_stride: u32 }

    /// `out[pair] = down inner[pair]`, `[pairs, rows]`, grouped as in [`GroupedUp`].
    GroupedDown { slab: Address, slot_bytes: u64, down_at: u64, groups: Address, tile_group: Address, tile_begin: Address, inner: Address, out: Address,
                  tiles: u32, rows: u32, cols: u32, ty: u32 }

    /// [`ExpertsUp`] with `bias[id][0][r]` added to gate's row r and `bias[id][1][r]` to up's, `bias` `[experts, 2, rows]`, where `ids[p]` u32 is the pair's expert; `bias` 0: nothing. In place of
    /// `silu(g) u` it has what `activation` says, a number of [`Activation::number`].
    BiasedUp { of: ExpertsUp, ids: Address, bias: Address, activation: u32, pad: u32 }

    /// The same of [`GroupedUp`]; `experts` u32 is the expert of each group.
    BiasedGroupedUp { of: GroupedUp, experts: Address, bias: Address, activation: u32, pad: u32 }

    /// `y[t] += sum over j of weights[t*k+j] * bias[ids[t*k+j]]`, in the order of j; `bias` `[experts, cols]`.
    RoutedBias { ids: Address, weights: Address, bias: Address, y: Address, tokens: u32, top_k: u32, cols: u32, y_stride: u32 }

    /// `y[t] += sum over j of weights[t*k+j] * out[pair_of[t*k+j]]`, in the order of j; `pair_of` u32::MAX: left out.
    Gather { out: Address, pair_of: Address, weights: Address, y: Address, tokens: u32, top_k: u32, cols: u32, y_stride: u32 }

    /// `y[t][i] = f(gate[t * stride + i], up[t * stride + i])`, `y` `[tokens, len]`, with the f of `activation` as in [`BiasedUp`].
    Glu { gate: Address, up: Address, y: Address, tokens: u32, len: u32, stride: u32, activation: u32 }

    /// What a half layer gave is normalised and added to the hidden state: `x[t] = (x[t] + norm(u) * weight) * factor`, where `norm(v) = v / sqrt(mean(v^2) + eps)` and u is `a[t]` or, if there is a `b`,
    /// `norm(a[t]) * a_weight + norm(b[t]) * b_weight`. `rows` rows of `len` values, with strides of their own.
    AddNormed { a: Address, a_weight: Address, b: Address, b_weight: Address, weight: Address, x: Address, rows: u32, len: u32, a_stride: u32, b_stride: u32, x_stride: u32, eps: f32, factor: f32, pad: u32 }

    /// `x[i] = cap * tanh(x[i] / cap)` for `len` values; what is infinite or no number stays so.
    SoftCap { x: Address, len: u32, cap: f32 }

    /// `y[i] += x[i]` for `len` values.
    Add { x: Address, y: Address, len: u32, pad: u32 }

    /// `flag[0] |= 1` (u32) if one of `len` values of `x` is no number or infinite.
    Finite { x: Address, flag: Address, len: u32, pad: u32 }

    /// Waits until the host has said `turn + step`, then brings what it wrote to the device. One block. `word` (u32) and `from` are in the mailbox, memory of the host that the device
    /// reads and writes where it lies; `turn` (u32) and `to` in device memory. `words` u32, at most [`AwaitHost::WORDS`].
    ///
    /// A word w says n if `w - n` is not negative as i32: it may say more, and wrap. `word`, `turn` and `from` are read while earlier kernels may still run: no kernel may write them.
    ///
    /// Where `patience` is not 0, it waits for so many microseconds at most. Then it **gives up**: `to` gets ones in every bit (an expert in no slot), and `given_up`, a word (u32) of the mailbox
    /// that only such kernels write, says `turn`. Whoever finds that there waits no more in this token. 0: there is no limit of time, and `given_up` is left alone.
    AwaitHost { word: Address, turn: Address, from: Address, to: Address, given_up: Address, words: u32, step: u32, patience: u32, pad: u32 }

    /// Writes `words` u32 of device memory for the host, `from` there `to` the mailbox, then says `turn + step`: who reads that in `word` finds all of them. One block.
    TellHost { word: Address, turn: Address, from: Address, to: Address, words: u32, step: u32 }

    /// `y[i] += from[i]` for `len` values that the host answers with, if it had to: if one of `pairs` `slots` (i32, at most [`AddAnswer::PAIRS`]) is negative, an expert in no slot. Then it waits as
    /// [`AwaitHost`] does, and leaves `y` alone if it gives up; else nothing of the mailbox is read. `word`, `from` and `given_up` are in the mailbox, the rest in device memory. One block.
    AddAnswer { word: Address, turn: Address, slots: Address, from: Address, y: Address, given_up: Address, pairs: u32, len: u32, step: u32, patience: u32 }

    /// One expert's pairs in a grouped product.
    Group { slot: u32, begin: u32, end: u32 }
}

/// Warps of a block for one token, and for a few.
const WARPS: u32 = 8;
const WARPS_FEW: u32 = 4;

/// Whether one row of activations is multiplied with rows of this type (its GGUF number) and length on tensor cores, in tiles of sixteen rows of weights. Activations
/// may then be rounded to f16, after scaling by a power of two of their own 16 or 32 columns.
#[must_use]
pub fn tiled(ty: u32, cols: u32) -> bool {
    cols.is_multiple_of(SUPER) && matches!(ty, 8 | 12..=14)
}

/// Columns that such a product takes at once.
const SUPER: u32 = 256;
/// Rows of weights of a tile.
const TILE_ROWS: u32 = 16;

/// Tiles of a block: `2^n` of its warps share one, so that each has two times [`SUPER`] columns or more.
fn tiles(cols: u32) -> u32 {
    WARPS
        >> match cols {
            0..1024 => 0,
            1024..2048 => 1,
            2048..4096 => 2,
            _ => 3,
        }
}

impl MatVec {
    /// Whether such a map of one token goes in tiles. Not in Q6_K, as experts in that type do: a matrix that takes the device many microseconds is read by it in pieces of two bytes, and
    /// a warp that goes along a row has them from its cache sooner (97 against 123 us for 131,072 x 2,048).
    #[must_use]
    pub fn tiled(ty: u32, cols: u32) -> bool {
        ty != 14 && tiled(ty, cols)
    }

    /// Most tokens.
    pub const TOKENS: u32 = 8;
    /// Most maps.
    pub const JOBS: usize = 6;
    /// The entry for two tokens or more.
    pub const FEW: &'static str = "matvec_few";

    /// `split` of maps with so many rows in all: as many warps as any GPU needs to wait for memory, while every lane has enough to do.
    #[must_use]
    pub fn split(rows: u32, cols: u32) -> u32 {
        (0..2).take_while(|s| (rows / 4) << s < 2048 && cols >> (s + 1) >= 512).count() as u32
    }

    /// Blocks of a map whose weights have this type.
    #[must_use]
    pub fn blocks_of(&self, ty: u32, rows: u32) -> u32 {
        rows.div_ceil(self.rows_of_block(ty))
    }

    /// Weight rows of a block: a few tiles, or four of every warp for one token, two for a few; they share the activations that are read.
    fn rows_of_block(&self, ty: u32) -> u32 {
        match self.tokens {
            1 if Self::tiled(ty, self.cols) => TILE_ROWS * tiles(self.cols),
            1 => (WARPS * 4) >> self.split,
            _ => (WARPS_FEW * 2) >> self.split,
        }
    }
}

impl MatMul {
    /// Tokens of a block.
    pub const TILE: u32 = 64;
    /// Weight rows of a block.
    pub const ROWS: u32 = 128;
}

impl ExpertsUp {
    /// Most tokens; more go through the grouped kernels.
    pub const TOKENS: u32 = 8;

    /// Rows of a block: of gate and of up half of a tile each, or two each of `2^n` warps.
    fn rows_of_block(&self) -> u32 {
        if self.gate_ty == self.up_ty && tiled(self.gate_ty, self.cols) {
            return TILE_ROWS / 2 * tiles(self.cols);
        }
        (2 * WARPS)
            >> match self.cols {
                0..2048 => 0,
                2048..4096 => 1,
                _ => 2,
            }
    }
}

impl ExpertsDown {
    /// A tile; or four of every warp, of which four or eight have other experts for the same rows.
    fn rows_of_block(&self) -> u32 {
        match self.top_k {
            _ if tiled(self.ty, self.cols) => TILE_ROWS,
            0..=4 => 8,
            _ => 4,
        }
    }
}

impl Rotate {
    /// Longest key head.
    pub const HEAD_DIM: u32 = 512;
}

impl Convolve {
    /// Widest convolution.
    pub const TAPS: u32 = 8;
    /// Tokens of a block.
    pub const STRETCH: u32 = 32;
}

impl Route {
    /// Most experts.
    pub const EXPERTS: u32 = 1024;
}

impl GroupedUp {
    /// Pairs, and rows, of a tile.
    pub const TILE: u32 = 64;
}

impl Kernel for RmsNorm {
    const NAME: &'static str = "rms_norm";
    fn shape(&self) -> Shape {
        line(self.rows * self.pieces, 256)
    }
}

impl Kernel for MatVec {
    const NAME: &'static str = "matvec";
    fn shape(&self) -> Shape {
        line(self.blocks, if self.tokens == 1 { WARPS } else { WARPS_FEW } * 32)
    }
    fn name(&self) -> &'static str {
        if self.tokens == 1 {
            Self::NAME
        } else {
            Self::FEW
        }
    }
}

impl Kernel for MatMul {
    const NAME: &'static str = "matmul";
    fn shape(&self) -> Shape {
        Shape { grid: [self.job.rows.div_ceil(Self::ROWS), self.tokens.div_ceil(Self::TILE), 1], threads: 256 }
    }
}

impl Kernel for Rotate {
    const NAME: &'static str = "rotate";
    fn shape(&self) -> Shape {
        Shape { grid: [self.heads + 2 * self.groups, self.tokens, 1], threads: 128 }
    }
}

impl Attention {
    /// Positions of the shortest range, but the last.
    pub const LEAST: u32 = 32;
    /// Most ranges.
    pub const SPLITS: u32 = 128;

    /// Query heads of a block: four of a group where they divide it, else one.
    #[must_use]
    pub fn together(&self) -> u32 {
        match self.heads.checked_div(self.groups) {
            Some(of_group) if of_group.is_multiple_of(4) => 4,
            _ => 1,
        }
    }
}

impl Kernel for Attention {
    const NAME: &'static str = "attention";
    fn shape(&self) -> Shape {
        Shape { grid: [self.heads / self.together(), self.splits, self.tokens], threads: 128 }
    }
}

impl ChunkAttention {
    /// Positions of the shortest range, but the last.
    pub const LEAST: u32 = 256;
    /// Queries of a tile.
    pub const QUERIES: u32 = 64;

    /// Whether there is room for heads of so many values: they are read sixteen bytes at a time, and lie in shared memory.
    #[must_use]
    pub fn fits(key_dim: u32, value_dim: u32) -> bool {
        [key_dim, value_dim].iter().all(|dim| dim.is_multiple_of(8) && (1..=256).contains(dim))
    }

    /// Tiles of one group.
    fn tiles(tokens: u32, heads: u32, groups: u32) -> u32 {
        (tokens * (heads / groups.max(1))).div_ceil(Self::QUERIES)
    }

    /// In how many ranges the keys of `seen` positions are to be cut, at most `most`: few tokens after many others would keep a few blocks busy, where a GPU has room for
    /// 128 or so.
    #[must_use]
    pub fn splits(tokens: u32, heads: u32, groups: u32, seen: u32, most: u32) -> u32 {
        let busy = Attention::SPLITS / (Self::tiles(tokens, heads, groups) * groups).max(1);
        busy.min(seen / Self::LEAST).min(most).max(1)
    }
}

impl Kernel for ChunkAttention {
    const NAME: &'static str = "chunk_attention";
    fn shape(&self) -> Shape {
        Shape { grid: [Self::tiles(self.tokens, self.heads, self.groups), self.groups, self.splits], threads: 128 }
    }
}

impl Kernel for JoinSplits {
    const NAME: &'static str = "join_splits";
    fn shape(&self) -> Shape {
        Shape { grid: [self.heads, self.tokens, self.value_dim.div_ceil(32)], threads: 128 }
    }
}

impl Kernel for WindowAttention {
    const NAME: &'static str = "window_attention";
    fn shape(&self) -> Shape {
        self.of.shape()
    }
}

impl Kernel for WindowChunkAttention {
    const NAME: &'static str = "window_chunk_attention";
    fn shape(&self) -> Shape {
        self.of.shape()
    }
}

impl Kernel for LatentRows {
    const NAME: &'static str = "latent_rows";
    fn shape(&self) -> Shape {
        Shape { grid: [self.heads + 1, self.tokens, 1], threads: 128 }
    }
}

impl HeadMaps {
    /// Tokens of a block, of several.
    const TOKENS: u32 = 4;
}

impl Kernel for HeadMaps {
    const NAME: &'static str = "head_maps";
    fn shape(&self) -> Shape {
        // Rows of a block: four of every warp for one token, two for a few.
        let (rows, tokens) = if self.tokens == 1 { (WARPS_FEW * 4, 1) } else { (WARPS_FEW * 2, Self::TOKENS) };
        Shape { grid: [self.rows.div_ceil(rows), self.heads, self.tokens.div_ceil(tokens)], threads: WARPS_FEW * 32 }
    }
}

impl LatentAttention {
    /// Longest key.
    pub const KEY_DIM: u32 = 640;
}

impl Kernel for LatentAttention {
    const NAME: &'static str = "latent_attention";
    fn shape(&self) -> Shape {
        self.of.shape()
    }
}

impl Kernel for JoinSunk {
    const NAME: &'static str = "join_sunk";
    fn shape(&self) -> Shape {
        self.of.shape()
    }
}

impl Kernel for Convolve {
    const NAME: &'static str = "convolve";
    fn shape(&self) -> Shape {
        Shape { grid: [self.channels.div_ceil(128), self.tokens.div_ceil(Self::STRETCH), 1], threads: 128 }
    }
}

impl DeltaRule {
    /// Columns of a head's state that one block keeps.
    pub const COLUMNS: u32 = 32;
    /// Longest key head.
    pub const KEY_DIM: u32 = 256;
}

impl Kernel for DeltaRule {
    const NAME: &'static str = "delta_rule";
    fn shape(&self) -> Shape {
        Shape { grid: [self.values, self.value_dim.div_ceil(Self::COLUMNS), 1], threads: 256 }
    }
}

impl Kernel for GatedNorm {
    const NAME: &'static str = "gated_norm";
    fn shape(&self) -> Shape {
        Shape { grid: [self.heads, self.tokens, 1], threads: 128 }
    }
}

impl Kernel for Route {
    const NAME: &'static str = "route";
    fn shape(&self) -> Shape {
        line(self.tokens, 256)
    }
}

impl Kernel for ExpertsUp {
    const NAME: &'static str = "experts_up";
    fn shape(&self) -> Shape {
        Shape { grid: [self.rows.div_ceil(self.rows_of_block()), self.pairs, 1], threads: WARPS * 32 }
    }
}

impl Kernel for ExpertsDown {
    const NAME: &'static str = "experts_down";
    fn shape(&self) -> Shape {
        Shape { grid: [self.rows.div_ceil(self.rows_of_block()), self.tokens, 1], threads: 256 }
    }
}

impl Kernel for GroupedUp {
    const NAME: &'static str = "grouped_up";
    fn shape(&self) -> Shape {
        Shape { grid: [self.rows.div_ceil(Self::TILE), self.tiles, 1], threads: 256 }
    }
}

impl Kernel for GroupedDown {
    const NAME: &'static str = "grouped_down";
    fn shape(&self) -> Shape {
        Shape { grid: [self.rows.div_ceil(MatMul::ROWS), self.tiles, 1], threads: 256 }
    }
}

impl Kernel for BiasedUp {
    const NAME: &'static str = "biased_up";
    fn shape(&self) -> Shape {
        self.of.shape()
    }
}

impl Kernel for BiasedGroupedUp {
    const NAME: &'static str = "biased_grouped_up";
    fn shape(&self) -> Shape {
        self.of.shape()
    }
}

impl Kernel for RoutedBias {
    const NAME: &'static str = "routed_bias";
    fn shape(&self) -> Shape {
        Shape { grid: [self.cols.div_ceil(256), self.tokens, 1], threads: 256 }
    }
}

impl Kernel for Gather {
    const NAME: &'static str = "gather";
    fn shape(&self) -> Shape {
        Shape { grid: [self.cols.div_ceil(256), self.tokens, 1], threads: 256 }
    }
}

impl Kernel for Glu {
    const NAME: &'static str = "glu";
    fn shape(&self) -> Shape {
        Shape { grid: [self.len.div_ceil(256), self.tokens, 1], threads: 256 }
    }
}

impl Kernel for AddNormed {
    const NAME: &'static str = "add_normed";
    fn shape(&self) -> Shape {
        line(self.rows, 256)
    }
}

impl Kernel for SoftCap {
    const NAME: &'static str = "soft_cap";
    fn shape(&self) -> Shape {
        line(self.len.div_ceil(256), 256)
    }
}

impl Kernel for Add {
    const NAME: &'static str = "add";
    fn shape(&self) -> Shape {
        line(self.len.div_ceil(256), 256)
    }
}

impl Kernel for Finite {
    const NAME: &'static str = "all_finite";
    fn shape(&self) -> Shape {
        line(self.len.div_ceil(1024), 256)
    }
}

impl AwaitHost {
    /// Most words: what a block's threads keep in registers until it is their turn.
    pub const WORDS: u32 = 1024;
}

impl AddAnswer {
    /// Most pairs.
    pub const PAIRS: u32 = 64;
}

impl Kernel for AwaitHost {
    const NAME: &'static str = "await_host";
    fn shape(&self) -> Shape {
        line(1, 256)
    }
}

impl Kernel for TellHost {
    const NAME: &'static str = "tell_host";
    fn shape(&self) -> Shape {
        line(1, 256)
    }
}

impl Kernel for AddAnswer {
    const NAME: &'static str = "add_answer";
    fn shape(&self) -> Shape {
        line(1, 256)
    }
}
