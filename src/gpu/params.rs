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

mod shapes;

pub use shapes::tiled;

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

    /// A gated convolution (LFM2): `y[t] = c[t] * sum_j taps[j] * (b x)[t - (width - 1) + j]`, channel by channel, where `parts[t * stride..]` is `[b | c | x]`, `channels` each. `taps` and `carry` (of
    /// products `b x`) as in [`Convolve`]; `y` `[tokens, channels]` is apart from `parts`.
    ShortConv { parts: Address, taps: Address, carry: Address, y: Address, tokens: u32, channels: u32, width: u32, stride: u32 }

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
    /// `norm(a[t]) * a_weight + norm(b[t]) * b_weight`; then b is cleared for whoever adds to it next. `rows` rows of `len` values, with strides of their own.
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
