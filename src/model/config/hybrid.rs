//! Sizes of the recurrent layers of a hybrid.

use super::keys::Keys;
use crate::gguf::Value;
use crate::kernels::delta::DeltaHeads;
use crate::model::decoder::MOST_TENTATIVE;
use crate::model::delta_net::DeltaNet;
use crate::model::short_conv::ShortConv;
use crate::model::ModelError;

/// Memory for copies of recurrent states. The states of Qwen3.5-35B-A3B take 63 MiB, so this is two copies for each of the last
/// three turns of a chat.
const SNAPSHOT_BYTES: u64 = 384 << 20;

/// Most taps of a convolution.
const MOST_TAPS: usize = 64;

/// What a hybrid of attention and recurrent layers adds.
#[derive(Clone, Debug, PartialEq)]
pub struct Hybrid {
    /// Per layer, whether it is recurrent.
    pub recurrent: Vec<bool>,
    /// What the recurrent layers are.
    pub kind: Recurrence,
    /// Taps of their convolution.
    pub width: usize,
    /// Width inside the shared expert.
    pub shared_ff: usize,
}

/// A kind of recurrent layer, with its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// Gated delta nets (`qwen35moe`, `qwen35`, `qwen3next`).
    Delta(DeltaHeads),
    /// Short convolutions (`lfm2moe`) of so many channels.
    Conv(usize),
}

impl Hybrid {
    /// Bytes of the states of all recurrent layers.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        let layers = self.recurrent.iter().filter(|r| **r).count() as u64;
        layers
            * match self.kind {
                Recurrence::Delta(heads) => DeltaNet::state_bytes(heads, self.width),
                Recurrence::Conv(channels) => ShortConv::state_bytes(channels, self.width),
            }
    }

    /// How many copies of all states are kept to go back to: as many as 384 MiB hold, at least 4, and at most 16,
    /// since more turns than that are seldom gone back.
    #[must_use]
    pub fn snapshots(&self) -> usize {
        (SNAPSHOT_BYTES / self.state_bytes().max(1)).clamp(4, 16) as usize
    }

    /// How many states a pass keeps that may be taken back in part, one after each token but the last. From the first such pass on
    /// they have half of the room of [`Hybrid::snapshots`].
    #[must_use]
    pub fn trail(&self) -> usize {
        (self.snapshots() / 2).min(MOST_TENTATIVE - 1)
    }

    /// Values beside the hidden state and its kin that a recurrent layer holds for every token of a pass.
    #[must_use]
    pub(crate) fn row_values(&self) -> usize {
        match self.kind {
            Recurrence::Delta(heads) => 3 * heads.channels() + 4 * heads.values * heads.value_dim,
            // What the projection gives, the convolution's inputs, the same with what came before, and the gated result.
            Recurrence::Conv(channels) => 6 * channels,
        }
    }

    /// The keys of delta nets: which layers are such, and their sizes.
    pub(super) fn delta(keys: &Keys<'_, '_>, blocks: usize, dense_ff: usize) -> Result<Self, ModelError> {
        let recurrent = match keys.weights.gguf.get(&keys.key("attention.recurrent_layers")) {
            Some(Value::Array(flags)) => {
                let flags: Option<Vec<bool>> = flags.iter().map(|f| if let Value::Bool(b) = f { Some(*b) } else { None }).collect();
                match flags {
                    Some(mut f) if f.len() >= blocks => {
                        f.truncate(blocks);
                        f
                    }
                    _ => {
                        return Err(keys.bad(
                            "attention.recurrent_layers",
                            "(an array)",
                            format!("must hold a true or false for each of {blocks} layers"),
                        ))
                    }
                }
            }
            Some(_) => return Err(keys.bad("attention.recurrent_layers", "(not an array)", "must be an array of true and false")),
            None => {
                let every = keys.size("full_attention_interval")?.unwrap_or(4);
                (0..blocks).map(|i| (i + 1) % every != 0).collect()
            }
        };
        let (groups, heads, dim) = (keys.need("ssm.group_count")?, keys.need("ssm.time_step_rank")?, keys.need("ssm.state_size")?);
        if heads % groups != 0 {
            return Err(keys.bad("ssm.time_step_rank", heads, format!("is not a multiple of ssm.group_count = {groups}")));
        }
        let inner = keys.need("ssm.inner_size")?;
        if heads.saturating_mul(dim) != inner {
            return Err(keys.bad(
                "ssm.inner_size",
                inner,
                format!("contradicts time_step_rank * state_size = {}", heads.saturating_mul(dim)),
            ));
        }
        let width = keys.size("ssm.conv_kernel")?.unwrap_or(4);
        if !(1..=MOST_TAPS).contains(&width) || dim > 4096 {
            return Err(keys.bad("ssm.conv_kernel", width, "a kernel has 1 to 64 taps, and a state at most 4096 values in a row"));
        }
        let kind = Recurrence::Delta(DeltaHeads { keys: groups, values: heads, key_dim: dim, value_dim: dim });
        let shared_ff = keys.size_or_zero("expert_shared_feed_forward_length")?.unwrap_or(dense_ff);
        Ok(Self { recurrent, kind, width, shared_ff })
    }

    /// The keys of short convolutions. `recurrent`: which layers are such; the channels are those of the hidden state.
    pub(super) fn convolutions(keys: &Keys<'_, '_>, recurrent: Vec<bool>, hidden: usize) -> Result<Self, ModelError> {
        const TAPS: &str = "shortconv.l_cache";
        let width = keys.need(TAPS)?;
        // With one, nothing would be remembered.
        if !(2..=MOST_TAPS).contains(&width) {
            return Err(keys.bad(TAPS, width, format!("a kernel has 2 to {MOST_TAPS} taps")));
        }
        Ok(Self { recurrent, kind: Recurrence::Conv(hidden), width, shared_ff: 0 })
    }
}
