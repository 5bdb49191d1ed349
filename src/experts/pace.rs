//! How readily experts get slots, by policy and by the bytes that a copy takes, and whether they come before they are asked for.

use super::policy::{Admission, Overlay, Policy};
use super::{ExpertError, Experts};

/// Bytes that one generated token may copy into slots, as far as one expert per layer allows. The host computes a miss nearly
/// as fast as a hit, so a slot is worth its copy only over many tokens.
const COPIES_PER_TOKEN: u64 = 48 << 20;
/// The same for a chunk of the prompt.
const COPIES_PER_CHUNK: u64 = 512 << 20;

/// Copies per layer that a decode tick and a prefill tick may make.
pub(super) fn pace(slot_step: u64) -> [usize; 2] {
    [COPIES_PER_TOKEN, COPIES_PER_CHUNK].map(|bytes| usize::try_from(bytes / slot_step.max(1)).unwrap_or(usize::MAX).max(1))
}

/// How readily misses get slots: the policy's own way, and `rotary` at the pace above. The textbook policies admit every miss.
pub(super) fn admission(policy: Policy, slot_step: u64, ahead: Option<usize>) -> Admission {
    let usual = Overlay { ahead, ..Overlay::default() }.over(policy);
    if !policy.weighs() {
        return usual;
    }
    let [decode, prefill] = pace(slot_step);
    Admission { per_tick: usual.per_tick.min(decode), per_prefill_tick: usual.per_prefill_tick.min(prefill), ..usual }
}

impl Experts {
    /// Change the replacement policy by name; residents stay.
    ///
    /// # Errors
    /// A name that is not a policy.
    pub fn set_policy(&mut self, name: &str) -> Result<(), ExpertError> {
        let policy: Policy = name.parse()?;
        self.scheduler.set_policy(policy, admission(policy, self.slot_step, self.ahead));
        let [decode, prefill] = if policy.weighs() { pace(self.slot_step) } else { [usize::MAX; 2] };
        self.scheduler.limit_fill(decode, prefill);
        Ok(())
    }

    /// Bring at most so many experts per look at a coming layer before a token asks for them, on devices whose copies run beside the computing. `None`: as many as the policy
    /// does by itself, or none where that is unlikely to pay.
    pub fn set_ahead(&mut self, ahead: Option<usize>) {
        self.ahead_wish = ahead;
        self.ahead = self.tier.ahead(ahead);
        let policy = self.scheduler.policy();
        self.scheduler.set_policy(policy, admission(policy, self.slot_step, self.ahead));
    }

    /// Whether experts come ahead may be another matter when they are held in page-locked memory.
    pub(super) fn look_at_ahead(&mut self) {
        if self.ahead != self.tier.ahead(self.ahead_wish) {
            self.set_ahead(self.ahead_wish);
            self.rescheduled = true;
        }
    }

    /// Whether the way in which experts get slots has changed by itself since this was last asked.
    pub fn rescheduled(&mut self) -> bool {
        std::mem::take(&mut self.rescheduled)
    }
}
