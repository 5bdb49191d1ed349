//! How many blocks of how many threads each kernel wants for its parameters, and what it has room for. The kernels say the same where they take their place from a block's number.

use super::*;

const fn line(blocks: u32, threads: u32) -> Shape {
    Shape { grid: [blocks, 1, 1], threads }
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

impl WindowChunkAttention {
    /// Whether there are blocks enough to keep a GPU busy: there is one range of keys, and a few tokens that see very many would keep a handful.
    #[must_use]
    pub fn pays(tokens: u32, heads: u32, groups: u32, sees: u32) -> bool {
        const BUSY: u32 = 32;
        const SHORT: u32 = 4096;
        sees <= SHORT || ChunkAttention::tiles(tokens, heads, groups) * groups >= BUSY
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

impl Kernel for ShortConv {
    const NAME: &'static str = "short_conv";
    fn shape(&self) -> Shape {
        Shape { grid: [self.channels.div_ceil(128), self.tokens.div_ceil(Convolve::STRETCH), 1], threads: 128 }
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
