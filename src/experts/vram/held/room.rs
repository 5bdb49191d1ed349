//! Whether there is room to hold the experts, and how much of it may be page-locked. Pure.

use crate::events::When;

/// The least that is left to others, and the part of the RAM that is if that is more.
const RESERVE: u64 = 2 << 30;
const RESERVE_SHARE: u64 = 8;
/// Page-locked memory takes at most this part of the RAM, with whatever else of it there is: nobody else gets it back.
const LOCK_SHARE: u64 = 2;
/// Bytes that are copied, locked and adopted at a time.
const REGION: usize = 64 << 20;

/// What may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Experts that take more than so many bytes are not held; 0: none are.
    pub room: u64,
    /// Bytes of them that are page-locked at most.
    pub lock: u64,
    /// Copying ends when the machine can give less than this: half of what was to be left, so that it does not end by a little.
    pub reserve: u64,
    /// Bytes of a region.
    pub region: usize,
    /// Regions that a step boundary adopts at most.
    pub per_step: usize,
}

impl Hold {
    /// Experts are read from the file.
    pub const NEVER: Self = Self { room: 0, lock: 0, reserve: 0, region: REGION, per_step: usize::MAX };

    /// On a machine of `ram` bytes that can give `available` of them. `budget` is what the person lets the process take; `pinned`: bytes that are page-locked besides.
    #[must_use]
    pub fn on(choice: When, ram: u64, available: u64, budget: Option<u64>, pinned: u64) -> Self {
        let reserve = RESERVE.max(ram / RESERVE_SHARE);
        let lock = (ram / LOCK_SHARE).saturating_sub(pinned);
        match choice {
            When::Never => Self::NEVER,
            When::Always => Self { room: u64::MAX, lock, ..Self::NEVER },
            // A machine that does not say how much memory it has gets none of it taken.
            When::Auto if ram == 0 => Self::NEVER,
            When::Auto => {
                let room = available.saturating_sub(reserve).min(budget.unwrap_or(u64::MAX));
                Self { room, lock, reserve: reserve / 2, ..Self::NEVER }
            }
        }
    }

    /// Whether the experts are held whatever it is good for.
    pub(super) fn insists(&self) -> bool {
        self.room == u64::MAX
    }

    /// Whether the copying is to end, since the machine can't give more without going short.
    pub(super) fn is_short(&self, obtainable: impl FnOnce() -> u64) -> bool {
        self.reserve > 0 && obtainable() < self.reserve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn auto(ram: u64, available: u64, budget: Option<u64>) -> Hold {
        Hold::on(When::Auto, ram * GIB, available * GIB, budget.map(|b| b * GIB), GIB / 2)
    }

    #[test]
    fn a_reserve_is_left_to_others_and_a_budget_is_kept() {
        assert_eq!(auto(32, 28, None).room, 24 * GIB);
        assert_eq!(auto(8, 7, None).room, 5 * GIB, "2 GiB at least");
        assert_eq!(auto(16, 1, None).room, 0);
        assert_eq!(auto(32, 28, Some(8)).room, 8 * GIB);
        assert_eq!(auto(0, u64::MAX / GIB, None), Hold::NEVER, "a machine that tells nothing");
    }

    #[test]
    fn half_of_the_ram_is_locked_at_most_whatever_is_held() {
        for choice in [When::Auto, When::Always] {
            let hold = Hold::on(choice, 32 * GIB, 30 * GIB, None, GIB);
            assert_eq!(hold.lock, 15 * GIB);
        }
        assert_eq!(Hold::on(When::Always, GIB, 0, None, GIB).lock, 0);
    }

    #[test]
    fn always_does_not_ask_and_never_takes_nothing() {
        let always = Hold::on(When::Always, 0, 0, Some(1), 0);
        assert!(always.room == u64::MAX && !always.is_short(|| 0));
        assert_eq!(Hold::on(When::Never, 64 * GIB, 64 * GIB, None, 0), Hold::NEVER);
    }

    #[test]
    fn copying_ends_when_others_take_the_memory_meanwhile() {
        let hold = auto(32, 28, None);
        assert!(hold.is_short(|| 2 * GIB - 1) && !hold.is_short(|| 2 * GIB));
    }
}
