//! The trials that a model needs: the kernels that it launches, in its types of weights, with its heads and rows. Only how many rows there are is cut down, where a
//! kernel's way does not depend on it, so that all of it takes the reference a fraction of a second.

use super::case::{Case, Dims, Heads};
use crate::gguf::GgmlType;
use crate::gpu::params::{Attention, ChunkAttention, Convolve, MatMul, MatVec};
use crate::kernels::rows::Activation;

/// What a model launches, in the words of the kernels. Order and repetition don't matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Width of the hidden state.
    pub hidden: u32,
    /// Linear maps of the trunk.
    pub maps: Vec<MapUse>,
    /// Attention layers.
    pub attention: Vec<AttentionUse>,
    /// Layers of latent attention.
    pub latent: Vec<LatentUse>,
    /// Gated delta nets.
    pub delta: Vec<DeltaUse>,
    /// Taps of the layers that are short convolutions.
    pub convolutions: Vec<u32>,
    /// Routers.
    pub routers: Vec<RouterUse>,
    /// What gate and up become together in feed-forwards that every token uses.
    pub dense: Vec<Activation>,
    /// What halves of layers give is normalised before it is added.
    pub joins: bool,
    /// Logits are capped.
    pub capped: bool,
    /// Routed experts.
    pub experts: Vec<ExpertUse>,
    /// Ranges into which the keys of one token are cut; of several tokens, as many in all, but at least one each.
    pub ranges: u32,
    /// Host and device speak while a token runs.
    pub mailbox: bool,
}

/// A router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterUse {
    /// Experts to choose from.
    pub experts: u32,
    /// Experts per token.
    pub top_k: u32,
    /// The chosen weights are divided by their sum.
    pub renormalise: bool,
    /// Weights have a factor of their expert.
    pub factors: bool,
    /// Scores are sigmoids.
    pub sigmoid: bool,
}

/// Latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentUse {
    /// Heads.
    pub heads: u32,
    /// Values of the latent.
    pub rank: u32,
    /// Values of a head that turn.
    pub turned: u32,
    /// Caches of f32 instead of f16.
    pub wide: bool,
    /// Length of the norm of the queries' own latent, if they have one.
    pub query_rank: Option<u32>,
    /// Types of the maps of single heads, and their input sizes.
    pub maps: [(GgmlType, u32); 2],
}

/// Maps of one type and length of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MapUse {
    /// Type of the weights.
    pub ty: GgmlType,
    /// Input size.
    pub cols: u32,
    /// Something is added to the products.
    pub bias: bool,
    /// Prompts go through it in chunks; only a few rows at a time otherwise.
    pub chunks: bool,
    /// Its input is the product of two rows, where one launch can do that.
    pub gated: bool,
}

/// An attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionUse {
    /// Length of a key head, and of a value head.
    pub dims: Dims,
    /// Query heads, and groups that share keys.
    pub heads: Heads,
    /// Pairs of dimensions that are rotated.
    pub half: u32,
    /// Caches of f32 instead of f16.
    pub wide: bool,
    /// Each head's output has a gate.
    pub gated: bool,
    /// Each head has a norm.
    pub head_norms: bool,
    /// Length of rows of queries and of keys that are normalised as a whole, if they are.
    pub row_norms: Option<(u32, u32)>,
    /// Value heads are normalised.
    pub value_norm: bool,
    /// Queries, keys and values are clamped.
    pub clamped: bool,
    /// Positions that a query sees, if not all.
    pub window: Option<u32>,
    /// Heads have sinks.
    pub sinks: bool,
}

/// A gated delta net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaUse {
    /// Length of a key head, and of a value head.
    pub dims: Dims,
    /// Taps of the convolution.
    pub width: u32,
    /// Heads leave in another order than they were computed in.
    pub reordered: bool,
}

/// Routed experts of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertUse {
    /// Of gate, up and down.
    pub types: [GgmlType; 3],
    /// Width of the hidden state.
    pub hidden: u32,
    /// Width inside an expert.
    pub inner: u32,
    /// Experts per token.
    pub top_k: u32,
    /// Experts that are not the plain ones: their activation, and whether they have biases.
    pub joined: Option<(Activation, bool)>,
    /// What they give has biases: those of so many experts.
    pub routed_bias: Option<u32>,
}

/// Rows of a map: more than a tile of sixteen and a warp, and no multiple of either.
const ROWS: u32 = 37;
/// Rows of a tiled product of many tokens: more than one tile.
const TILED_ROWS: u32 = MatMul::ROWS + 22;
/// Tokens of it: the same.
const TILED_TOKENS: u32 = MatMul::TILE + 6;
/// A few tokens: the kernel takes them four at a time.
const FEW: u32 = 7;

/// A row no longer than needed to be read in the same way as one of `cols`: one block's warps share it in the same number, and it ends inside a superblock where that does.
fn short(cols: u32) -> u32 {
    let most = [4096, 2048, 1024].into_iter().find(|most| cols >= *most).unwrap_or(cols);
    if most == cols {
        return cols;
    }
    most + cols % SUPER
}

/// The same for tiles of many tokens, which go along a row piece by piece: more than one.
fn shorter(cols: u32) -> u32 {
    if cols <= 2 * SUPER {
        return cols;
    }
    2 * SUPER + cols % SUPER
}

/// Columns of a superblock.
const SUPER: u32 = 256;

impl Uses {
    /// The cases, each once.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let mut out = vec![
            Case::Add,
            Case::Finite { broken: false },
            Case::Finite { broken: true },
            Case::Gather,
            Case::Norm { rows: 3, len: self.hidden, limit: false },
        ];
        out.extend(self.dense.iter().map(|&activation| Case::Glu { activation }));
        if self.joins {
            out.extend([true, false].map(|beside| Case::AddNormed { rows: 3, len: self.hidden, beside }));
        }
        if self.capped {
            out.push(Case::SoftCap);
        }
        if let Some(&RouterUse { experts, top_k, .. }) = self.routers.first().filter(|_| self.mailbox) {
            out.extend([true, false].map(|said| Case::AwaitHost { words: experts, said }));
            out.push(Case::TellHost { words: 2 * top_k + self.hidden });
            out.extend([true, false].map(|missed| Case::AddAnswer { len: self.hidden, missed }));
        }
        self.attention.iter().for_each(|a| self.attention_cases(a, &mut out));
        self.latent.iter().for_each(|l| self.latent_cases(l, &mut out));
        for &DeltaUse { dims, width, reordered } in &self.delta {
            // More tokens than a block of the convolution takes, and than the rule goes through without a wait.
            out.extend([1, Convolve::STRETCH + 8].map(|tokens| Case::Convolve { tokens, width }));
            out.extend([1, 19].map(|tokens| Case::DeltaRule { tokens, dims }));
            out.push(Case::GatedNorm { dim: dims.1, reordered });
        }
        for &width in &self.convolutions {
            out.extend([1, Convolve::STRETCH + 8].map(|tokens| Case::ShortConv { tokens, width }));
        }
        let routers = self.routers.iter();
        out.extend(routers.map(|&RouterUse { experts, top_k, renormalise, factors, sigmoid }| Case::Route {
            experts,
            top_k,
            renormalise,
            factors,
            sigmoid,
        }));
        self.map_cases(&mut out);
        self.experts.iter().for_each(|e| expert_cases(e, &mut out));
        let mut seen = std::collections::HashSet::new();
        out.retain(|case| seen.insert(*case));
        out
    }

    fn attention_cases(&self, a: &AttentionUse, out: &mut Vec<Case>) {
        let AttentionUse { dims, half, wide, gated, .. } = *a;
        if let Some((queries, keys)) = a.row_norms {
            out.push(Case::NormInPlace);
            out.extend([queries, keys].map(|len| Case::Norm { rows: 2, len, limit: a.clamped }));
        }
        if a.value_norm {
            out.push(Case::NormOfPieces { pieces: a.heads.1.min(2), len: dims.1 });
        }
        let ring = a.window.is_some();
        out.push(Case::Rotate { wide, dims, half, norms: a.head_norms, ring });
        if a.clamped {
            out.push(Case::Rotate { wide, dims, half, norms: false, ring });
        }
        // Two groups, so that the second's place in the caches counts.
        let of_group = a.heads.0 / a.heads.1.max(1);
        let groups = a.heads.1.min(2);
        let heads = (of_group * groups, groups);
        let few = |position, tokens: u32| {
            let splits = (self.ranges / tokens).clamp(1, Attention::SPLITS);
            Case::Attention { wide, dims, heads, position, tokens, splits, gated }
        };
        out.extend([few(200, 1), few(37, FEW)]);
        // A chunk, as it goes where it can't be tiled.
        out.push(Case::Attention { wide, dims, heads, position: 50, tokens: 24, splits: 1, gated });
        if a.window.is_some() || a.sinks {
            // Sinks without a window are those of a window that holds everything. A window of more than so many tokens goes the same way, and would never be full here.
            let window = a.window.map_or(1 << 20, |w| w.min(128));
            let seen = |position, tokens: u32| {
                let splits = (self.ranges / tokens).clamp(1, Attention::SPLITS - 1);
                Case::WindowAttention { wide, dims, heads, position, tokens, window, splits }
            };
            out.extend([seen(200, 1), seen(100, FEW), seen(120, 24)]);
            if !wide && ChunkAttention::fits(dims.0, dims.1) {
                // A window of so many tokens would take the reference long, and goes the same way.
                let (window, sinks) = (a.window.map_or(u32::MAX, |w| w.min(128)), a.sinks);
                let tokens = (2 * ChunkAttention::QUERIES / of_group.max(1)).max(MatVec::TOKENS) + 3;
                out.extend([70, 200].map(|position| Case::WindowChunkAttention { dims, heads, position, tokens, window, sinks, gated }));
            }
        } else if !wide && ChunkAttention::fits(dims.0, dims.1) {
            let chunk = |heads, position, tokens, splits| Case::ChunkAttention { dims, heads, position, tokens, splits, gated };
            // One tile of keys after another, and more than one of queries; then two ranges of keys, for one group since the reference takes long.
            out.push(chunk(heads, 70, (2 * ChunkAttention::QUERIES / of_group.max(1)).max(MatVec::TOKENS) + 3, 1));
            out.push(chunk((of_group, 1), 2 * ChunkAttention::LEAST + 1, 9, 2));
        }
    }

    fn latent_cases(&self, l: &LatentUse, out: &mut Vec<Case>) {
        let LatentUse { heads, rank, turned, wide, query_rank, maps } = *l;
        out.extend(query_rank.map(|len| Case::Norm { rows: 2, len, limit: false }));
        out.push(Case::LatentRows { wide, rank, turned });
        // As many heads as go together, twice.
        let heads = if heads.is_multiple_of(4) { 8 } else { 3 };
        for (position, tokens) in [(200, 1), (37, FEW), (50, 24)] {
            let splits = if tokens > FEW { 1 } else { (self.ranges / tokens).clamp(1, Attention::SPLITS) };
            out.push(Case::LatentAttention { wide, dims: (rank + turned, rank), heads, position, tokens, splits });
        }
        out.extend(maps.into_iter().flat_map(|(ty, cols)| [1, FEW].map(|tokens| Case::HeadMaps { ty, tokens, rows: ROWS, cols })));
    }

    fn map_cases(&self, out: &mut Vec<Case>) {
        let mut maps = self.maps.clone();
        maps.sort_unstable();
        maps.dedup();
        for (i, &MapUse { ty, cols, bias, chunks, gated }) in maps.iter().enumerate() {
            let short = short(cols);
            // Maps over the same rows go in one launch, whatever their types.
            let others = maps.iter().cycle().skip(i + 1).take(maps.len()).filter(|m| m.cols == cols);
            let beside = others.map(|m| m.ty).find(|other| *other != ty).unwrap_or(ty);
            let matvec = |tokens, split| Case::MatVec { types: [ty, beside], tokens, cols: short, rows: ROWS, split };
            // Of few rows, several warps share each; of many, none.
            let most = MatVec::split(ROWS, cols);
            out.extend([matvec(1, most), matvec(FEW, most)]);
            if most > 0 {
                out.extend([matvec(1, 0), matvec(FEW, 0)]);
            }
            if gated && MatVec::tiled(ty.number(), cols) {
                out.push(Case::Gated { ty, cols: short, rows: ROWS });
            }
            if chunks {
                out.push(Case::MatMul { ty, tokens: TILED_TOKENS, cols: shorter(cols), rows: TILED_ROWS, bias });
            }
        }
    }
}

fn expert_cases(e: &ExpertUse, out: &mut Vec<Case>) {
    let ExpertUse { types, hidden, inner, top_k, joined, routed_bias } = *e;
    if let Some(experts) = routed_bias {
        out.push(Case::RoutedBias { tokens: 5, top_k, experts, cols: shorter(hidden) });
    }
    let inner = shorter(inner);
    let few = |tokens, hidden| Case::Experts { types, tokens, hidden, top_k, inner, out: ROWS };
    out.push(few(1, short(hidden)));
    out.push(few(3, shorter(hidden)));
    out.push(Case::Grouped { types, hidden: shorter(hidden), inner, out: TILED_ROWS });
    if let Some((activation, biased)) = joined {
        let few = |tokens, hidden| Case::BiasedUp { types, tokens, hidden, top_k, inner, activation, biased };
        out.extend([few(1, short(hidden)), few(3, shorter(hidden))]);
        out.push(Case::BiasedGroupedUp { types, hidden: shorter(hidden), inner, activation, biased });
    }
}
