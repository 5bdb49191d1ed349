//! What is tried: a kernel, the types of its weights, and sizes. A case is small and says all of its trial, whose data are made only when it runs.

use super::cases;
use super::Trial;
use crate::gguf::GgmlType;
use crate::gpu::params::{
    self, Add, AddAnswer, AddNormed, Attention, AwaitHost, BiasedGroupedUp, BiasedUp, ChunkAttention, Convolve, DeltaRule, ExpertsUp,
    Finite, GatedNorm, Gather, Glu, GroupedUp, HeadMaps, Kernel, LatentAttention, LatentRows, MatMul, MatVec, RmsNorm, Rotate, Route,
    RoutedBias, ShortConv, SoftCap, TellHost, WindowAttention, WindowChunkAttention,
};
use crate::kernels::rows::Activation;
use crate::kernels::supported;
use fastrand::Rng;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Length of a key head, and of a value head.
pub(super) type Dims = (u32, u32);
/// Query heads, and the groups of them that share keys.
pub(super) type Heads = (u32, u32);

/// One trial before it is made. Fields are sizes in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "names are those of the kernels' parameters")]
pub enum Case {
    Add,
    /// With one infinite value, or without.
    Finite {
        broken: bool,
    },
    Glu {
        activation: Activation,
    },
    /// A second result goes through a norm beside the first, or there is none.
    AddNormed {
        rows: u32,
        len: u32,
        beside: bool,
    },
    SoftCap,
    Gather,
    Norm {
        rows: u32,
        len: u32,
        /// Values are clamped first.
        limit: bool,
    },
    NormInPlace,
    /// Pieces of rows of a wider matrix that go elsewhere in it.
    NormOfPieces {
        pieces: u32,
        len: u32,
    },
    GatedNorm {
        dim: u32,
        reordered: bool,
    },
    Route {
        experts: u32,
        top_k: u32,
        renormalise: bool,
        /// Weights have a factor of their expert.
        factors: bool,
        /// Scores are sigmoids, with a bias for the choice.
        sigmoid: bool,
    },
    Rotate {
        /// The caches are of f32.
        wide: bool,
        dims: (u32, u32),
        half: u32,
        /// Heads are normalised; else they are clamped.
        norms: bool,
        /// The caches are rings, and the tokens go around their end.
        ring: bool,
    },
    Attention {
        wide: bool,
        dims: (u32, u32),
        heads: (u32, u32),
        position: u32,
        tokens: u32,
        splits: u32,
        gated: bool,
    },
    ChunkAttention {
        dims: (u32, u32),
        heads: (u32, u32),
        position: u32,
        tokens: u32,
        splits: u32,
        gated: bool,
    },
    /// What a token leaves in latent attention, and what turns in its queries.
    LatentRows {
        wide: bool,
        rank: u32,
        turned: u32,
    },
    HeadMaps {
        ty: GgmlType,
        tokens: u32,
        rows: u32,
        cols: u32,
    },
    LatentAttention {
        wide: bool,
        dims: (u32, u32),
        heads: u32,
        position: u32,
        tokens: u32,
        splits: u32,
    },
    Convolve {
        tokens: u32,
        width: u32,
    },
    ShortConv {
        tokens: u32,
        width: u32,
    },
    DeltaRule {
        tokens: u32,
        dims: (u32, u32),
    },
    /// Two maps in one launch.
    MatVec {
        types: [GgmlType; 2],
        tokens: u32,
        cols: u32,
        rows: u32,
        split: u32,
    },
    /// A map of a row times silu of another.
    Gated {
        ty: GgmlType,
        cols: u32,
        rows: u32,
    },
    MatMul {
        ty: GgmlType,
        tokens: u32,
        cols: u32,
        rows: u32,
        bias: bool,
    },
    /// Experts in slots for a few tokens: gate and up `[inner, hidden]`, down `[out, inner]`.
    Experts {
        types: [GgmlType; 3],
        tokens: u32,
        hidden: u32,
        top_k: u32,
        inner: u32,
        out: u32,
    },
    /// The same for many tokens, expert by expert.
    Grouped {
        types: [GgmlType; 3],
        hidden: u32,
        inner: u32,
        out: u32,
    },
    /// With sinks.
    WindowAttention {
        wide: bool,
        dims: (u32, u32),
        heads: (u32, u32),
        position: u32,
        tokens: u32,
        window: u32,
        splits: u32,
    },
    /// Over a ring, in tiles.
    WindowChunkAttention {
        dims: (u32, u32),
        heads: (u32, u32),
        position: u32,
        tokens: u32,
        window: u32,
        sinks: bool,
        gated: bool,
    },
    /// What is added to gate and up of experts, and to what they give.
    BiasedUp {
        types: [GgmlType; 3],
        tokens: u32,
        hidden: u32,
        top_k: u32,
        inner: u32,
        activation: Activation,
        /// There are biases.
        biased: bool,
    },
    BiasedGroupedUp {
        types: [GgmlType; 3],
        hidden: u32,
        inner: u32,
        activation: Activation,
        biased: bool,
    },
    RoutedBias {
        tokens: u32,
        top_k: u32,
        experts: u32,
        cols: u32,
    },
    /// What talks with the host.
    AwaitHost {
        words: u32,
        /// The host says it; else the kernel gives up.
        said: bool,
    },
    TellHost {
        words: u32,
    },
    AddAnswer {
        len: u32,
        /// An expert is in no slot.
        missed: bool,
    },
}

impl Case {
    /// The kernel that is tried, or the first of two that belong together.
    #[must_use]
    pub fn kernel(&self) -> &'static str {
        match self {
            Self::Add => Add::NAME,
            Self::Finite { .. } => Finite::NAME,
            Self::Glu { .. } => Glu::NAME,
            Self::AddNormed { .. } => AddNormed::NAME,
            Self::SoftCap => SoftCap::NAME,
            Self::Gather => Gather::NAME,
            Self::Norm { .. } | Self::NormInPlace | Self::NormOfPieces { .. } => RmsNorm::NAME,
            Self::GatedNorm { .. } => GatedNorm::NAME,
            Self::Route { .. } => Route::NAME,
            Self::Rotate { .. } => Rotate::NAME,
            Self::Attention { .. } => Attention::NAME,
            Self::ChunkAttention { .. } => ChunkAttention::NAME,
            Self::LatentRows { .. } => LatentRows::NAME,
            Self::HeadMaps { .. } => HeadMaps::NAME,
            Self::LatentAttention { .. } => LatentAttention::NAME,
            Self::Convolve { .. } => Convolve::NAME,
            Self::ShortConv { .. } => ShortConv::NAME,
            Self::DeltaRule { .. } => DeltaRule::NAME,
            Self::MatVec { tokens: 1, .. } | Self::Gated { .. } => MatVec::NAME,
            Self::MatVec { .. } => MatVec::FEW,
            Self::MatMul { .. } => MatMul::NAME,
            Self::Experts { .. } => ExpertsUp::NAME,
            Self::Grouped { .. } => GroupedUp::NAME,
            Self::WindowAttention { .. } => WindowAttention::NAME,
            Self::WindowChunkAttention { .. } => WindowChunkAttention::NAME,
            Self::BiasedUp { .. } => BiasedUp::NAME,
            Self::BiasedGroupedUp { .. } => BiasedGroupedUp::NAME,
            Self::RoutedBias { .. } => RoutedBias::NAME,
            Self::AwaitHost { .. } => AwaitHost::NAME,
            Self::TellHost { .. } => TellHost::NAME,
            Self::AddAnswer { .. } => AddAnswer::NAME,
        }
    }

    /// A number that tells this case from others, the same in every run of one build.
    #[must_use]
    pub fn number(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        // Words, since numbers of variants and types change with their order in the source.
        format!("{self:?}").hash(&mut hash);
        hash.finish()
    }

    /// Its trial. The data are the same ones whatever else is tried.
    #[must_use]
    pub fn trial(&self) -> Trial {
        cases::trial(self, &mut Rng::with_seed(self.number()))
    }
}

/// All of them: every kernel, in every type it takes, at sizes that end inside a block, a tile and a warp. `scale` multiplies the larger sizes: 1 is a matter
/// of seconds for the reference.
#[must_use]
pub fn all(scale: u32) -> Vec<Case> {
    let mut out = vec![Case::Add, Case::Finite { broken: false }, Case::Finite { broken: true }, Case::Gather, Case::SoftCap];
    out.extend(ACTIVATIONS.map(|activation| Case::Glu { activation }));
    out.extend([(1, 2816, true), (3, 700, true), (5, 515, false)].map(|(rows, len, beside)| Case::AddNormed { rows, len, beside }));
    out.extend([(1, 2048, false), (5, 100, true)].map(|(rows, len, limit)| Case::Norm { rows, len, limit }));
    out.push(Case::NormInPlace);
    out.extend([(8, 256), (3, 50)].map(|(pieces, len)| Case::NormOfPieces { pieces, len }));
    out.extend([false, true].map(|reordered| Case::GatedNorm { dim: 128, reordered }));
    let routes = [
        (128, 8, true, false, false),
        (256, 8, false, false, false),
        (64, 6, true, false, false),
        (7, 7, true, true, false),
        (128, 8, true, true, false),
        (64, 4, true, false, true),
        (256, 8, false, false, true),
    ];
    out.extend(routes.map(|(experts, top_k, renormalise, factors, sigmoid)| Case::Route { experts, top_k, renormalise, factors, sigmoid }));
    for wide in [false, true] {
        let heads = [((128, 128), 64, true), ((256, 256), 32, true), ((64, 48), 24, false), ((512, 512), 256, true)];
        out.extend(heads.map(|(dims, half, norms)| Case::Rotate { wide, dims, half, norms, ring: false }));
        out.push(Case::Rotate { wide, dims: (64, 64), half: 32, norms: true, ring: true });
        for (dims, position, tokens, splits, gated) in [
            ((128, 128), 0, 1, 1, false),
            ((128, 128), 200, 3, 4, true),
            ((256, 256), 37, 1, 8, true),
            ((64, 48), 99, 17, 3, false),
            ((512, 512), 150, 2, 3, false),
        ] {
            out.push(Case::Attention { wide, dims, heads: (8, 2), position, tokens, splits, gated });
        }
    }
    for (dims, heads, position, tokens, splits, gated) in [
        ((256, 256), (16, 2), 0, 40, 1, true),
        ((256, 256), (16, 2), 1500, 70 * scale, 1, true),
        ((256, 256), (8, 2), 700, 21, 4, true),
        ((128, 128), (8, 1), 333, 90 * scale, 1, false),
        ((128, 96), (6, 2), 650, 30, 3, false),
        ((64, 48), (3, 3), 99, 75, 1, false),
    ] {
        out.push(Case::ChunkAttention { dims, heads, position, tokens, splits, gated });
    }
    for wide in [false, true] {
        out.extend([(512, 64), (100, 6)].map(|(rank, turned)| Case::LatentRows { wide, rank, turned }));
        // Four heads at a time, and one by one; a token, a few, and a chunk.
        for (dims, heads, position, tokens, splits) in
            [((576, 512), 20, 200, 1, 8), ((576, 512), 4, 37, 7, 3), ((576, 512), 4, 70, 20, 1), ((106, 100), 3, 99, 2, 1)]
        {
            out.push(Case::LatentAttention { wide, dims, heads, position, tokens, splits });
        }
    }
    out.extend([1, 3, 9, 75].map(|tokens| Case::Convolve { tokens, width: 4 }));
    out.extend([(1, 3), (2, 3), (40, 4), (75, 3)].map(|(tokens, width)| Case::ShortConv { tokens, width }));
    let rules = [(1, (128, 128)), (6, (128, 128)), (19, (128, 128)), (3, (64, 96))];
    out.extend(rules.map(|(tokens, dims)| Case::DeltaRule { tokens, dims }));
    for ty in (0..=64).map(GgmlType::from_u32).filter(|ty| supported(*ty)) {
        let matvec = |tokens, cols: u32, rows| Case::MatVec { types: [ty, ty], tokens, cols, rows, split: cols / 512 % 3 };
        out.extend([1, 2, 8].map(|tokens| matvec(tokens, 512 * scale, 37)));
        out.push(Case::MatMul { ty, tokens: 3, cols: 512, rows: 70, bias: false });
        out.extend([1, 6].map(|tokens| Case::HeadMaps { ty, tokens, rows: 37, cols: 256 }));
        out.push(Case::MatMul { ty, tokens: 70, cols: 512 * scale, rows: 150, bias: true });
        let experts = |tokens, hidden, top_k, inner| Case::Experts { types: [ty, ty, ty], tokens, hidden, top_k, inner, out: hidden };
        out.extend([1, 3].map(|tokens| experts(tokens, 512 * scale, 4, 256)));
        // Superblocks that warps share unevenly.
        if MatVec::tiled(ty.number(), 256) {
            out.extend([256, 1280, 2304].map(|cols| matvec(1, cols, 40)));
            out.push(Case::Gated { ty, cols: 1280, rows: 70 });
        }
        if params::tiled(ty.number(), 256) {
            out.push(experts(1, 1280, 10, 768));
        }
        out.push(Case::Grouped { types: [ty, ty, ty], hidden: 256, inner: 256, out: 256 });
    }
    out.extend(biased());
    // In pieces of sixteen bytes, and word by word; once around and more than once.
    out.extend([(128, true), (601, true), (128, false), (601, false)].map(|(words, said)| Case::AwaitHost { words, said }));
    out.extend([8192, 10, 1501].map(|words| Case::TellHost { words }));
    out.extend([(8192, true), (701, true), (2048, false)].map(|(len, missed)| Case::AddAnswer { len, missed }));
    out
}

/// All of them.
const ACTIVATIONS: [Activation; 3] = [Activation::SwiGlu, Activation::Clamped, Activation::GeGlu];

/// What gpt-oss and Gemma add.
fn biased() -> Vec<Case> {
    let mut out = vec![Case::RoutedBias { tokens: 5, top_k: 4, experts: 9, cols: 700 }];
    for wide in [false, true] {
        // Before the window is full, when it is, and many tokens of which some fill it.
        for (heads, dims, position, tokens, window, splits) in [
            ((16, 2), (64, 64), 90, 1, 128, 4),
            ((16, 2), (64, 64), 700, 3, 128, 5),
            ((6, 3), (48, 40), 20, 17, 31, 1),
            ((8, 1), (128, 128), 40, 1, 1, 96),
        ] {
            out.push(Case::WindowAttention { wide, dims, heads, position, tokens, window, splits });
        }
    }
    // Heads of each size that the kernel has; before a window is full, when it is, one of which many tiles see no more than two positions, and one that is never full.
    for (dims, heads, position, tokens, window, sinks) in [
        ((64, 64), (16, 2), 700, 75, 128, true),
        ((128, 96), (6, 3), 20, 70, 31, false),
        ((256, 256), (8, 4), 1500, 40, 1024, false),
        ((64, 48), (3, 3), 99, 75, 2, true),
        ((64, 64), (8, 1), 150, 20, u32::MAX, true),
    ] {
        out.push(Case::WindowChunkAttention { dims, heads, position, tokens, window, sinks, gated: !sinks });
    }
    // A type of blocks of 32 whose rows are no multiple of 256, floats, and one that goes in tiles.
    for (ty, hidden, inner) in [(GgmlType::MXFP4, 2880, 96), (GgmlType::F16, 100, 52), (GgmlType::Q4K, 1280, 256)] {
        let types = [ty, ty, ty];
        for (activation, biased) in [(Activation::Clamped, true), (Activation::SwiGlu, true), (Activation::GeGlu, false)] {
            let tokens = if activation == Activation::SwiGlu { 3 } else { 1 };
            out.push(Case::BiasedUp { types, tokens, hidden, top_k: 4, inner, activation, biased });
            out.push(Case::BiasedGroupedUp { types, hidden, inner, activation, biased });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_told_from_every_other_and_names_the_kernel_that_its_trial_launches_first() {
        let cases = all(1);
        let mut numbers: Vec<u64> = cases.iter().map(Case::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), cases.len());
        for case in cases.iter().take(60) {
            assert_eq!(case.trial().kernels().first(), Some(&case.kernel()), "{case:?}");
        }
    }
}
