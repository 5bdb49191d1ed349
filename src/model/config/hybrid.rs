//! Sizes of the recurrent layers of a hybrid.

use super::keys::Keys;
use crate::gguf::Value;
use crate::kernels::delta::DeltaHeads;
use crate::model::decoder::MOST_TENTATIVE;
use crate::model::delta_net::DeltaNet;
use crate::model::ModelError;

/// Memory for copies of recurrent states. The states of Qwen3.5-35B-A3B take 63 MiB, so this is two copies for each of the last
/// three turns of a chat.
const SNAPSHOT_BYTES: u64 = 384 << 20;

/// What a hybrid of attention and gated delta net adds (`qwen35moe`, `qwen35`, `qwen3next`).
#[derive(Clone, Debug, PartialEq)]
pub struct Hybrid {
    /// Per layer, whether it is recurrent.
    pub recurrent: Vec<bool>,
    /// Sizes of a recurrent layer.
    pub delta: DeltaHeads,
    /// Taps of its convolution.
    pub width: usize,
    /// Width inside the shared expert.
    pub shared_ff: usize,
}

impl Hybrid {
    /// Bytes of the states of all recurrent layers.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        let layers = self.recurrent.iter().filter(|r| **r).count() as u64;
        layers * DeltaNet::state_bytes(self.delta, self.width)
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

    /// Which layers are recurrent, and their sizes.
    pub(super) fn read(keys: &Keys<'_, '_>, blocks: usize, dense_ff: usize) -> Result<Self, ModelError> {
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
        if !(1..=64).contains(&width) || dim > 4096 {
            return Err(keys.bad("ssm.conv_kernel", width, "a kernel has 1 to 64 taps, and a state at most 4096 values in a row"));
        }
        let delta = DeltaHeads { keys: groups, values: heads, key_dim: dim, value_dim: dim };
        let shared_ff = keys.size_or_zero("expert_shared_feed_forward_length")?.unwrap_or(dense_ff);
        Ok(Self { recurrent, delta, width, shared_ff })
    }
}
