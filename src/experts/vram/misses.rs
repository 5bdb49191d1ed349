//! Which missed experts go up to the device and which are computed on the host. Pure.

pub use crate::events::MissChoice;
use serde::Serialize;

/// How fast this machine is, measured when the model is opened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// Bytes per second at which the host fills page-locked memory with an expert. It computes nothing meanwhile. Infinite where all experts lie in such memory.
    pub fill: f64,
    /// Bytes per second from page-locked memory to the device, while the host does what it likes.
    pub link: f64,
    /// Bytes of expert weights per second that the host computes with, for one token.
    pub host: f64,
    /// Seconds that a detour over the host costs, whatever its size.
    pub join: f64,
    /// Seconds that computing experts which have just come up costs besides their way: launches of their own.
    pub launch: f64,
}

/// Tokens that the host computes in the time of one: up to there it waits for memory.
const TOKENS_FOR_ONE: f64 = 4.0;

impl Rates {
    /// Where nothing is measured: the host computes.
    pub const NONE: Self = Self { fill: 1.0, link: 1.0, host: f64::INFINITY, join: 0.0, launch: 0.0 };

    /// Seconds for the host to compute an expert of `bytes` for `tokens` tokens.
    #[must_use]
    pub fn host_seconds(&self, bytes: u64, tokens: usize) -> f64 {
        bytes as f64 / self.host * (tokens as f64 / TOKENS_FOR_ONE).max(1.0)
    }

    /// Seconds for a tick of which `up` experts of `bytes` go up and those that the host computes take it `host` seconds, if there are any: it fills, then
    /// computes, and the link works beside it.
    #[must_use]
    pub fn seconds(&self, bytes: u64, up: usize, host: Option<f64>) -> f64 {
        let (filled, over) = (up as f64 * bytes as f64 / self.fill, up as f64 * bytes as f64 / self.link);
        let launch = if up > 0 { self.launch } else { 0.0 };
        (filled.max(over) + launch).max(host.map_or(0.0, |host| filled + host + self.join))
    }
}

/// How many of the missed experts go up: the first so many of `tokens`, which says how many tokens each of them has. The split that is done soonest
/// ([`Rates::seconds`]); of equal ones that with the fewest uploads.
#[must_use]
pub fn split(miss: MissChoice, tokens: &[usize], bytes: u64, rates: &Rates) -> usize {
    match miss {
        MissChoice::Gpu => return tokens.len(),
        MissChoice::Cpu => return 0,
        MissChoice::Auto => {}
    }
    let mut host: f64 = tokens.iter().map(|&t| rates.host_seconds(bytes, t)).sum();
    let (mut best, mut best_seconds) = (0, f64::INFINITY);
    for up in 0..=tokens.len() {
        let seconds = rates.seconds(bytes, up, (up < tokens.len()).then_some(host));
        if seconds < best_seconds {
            (best, best_seconds) = (up, seconds);
        }
        host -= tokens.get(up).map_or(0.0, |&t| rates.host_seconds(bytes, t));
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: u64 = 1_900_544;
    const LAPTOP: Rates = Rates { fill: 20e9, link: 12.6e9, host: 45e9, join: 0.0, launch: 0.0 };

    fn auto(tokens: &[usize], rates: Rates) -> usize {
        split(MissChoice::Auto, tokens, BYTES, &rates)
    }

    #[test]
    fn a_host_that_computes_faster_than_it_fills_takes_a_token_alone_and_a_weak_one_sends() {
        assert_eq!(auto(&[1; 2], LAPTOP), 0);
        assert_eq!(auto(&[1; 8], LAPTOP), 0, "one on its way keeps the host for 95 us from computing two");
        assert_eq!(auto(&[1; 8], Rates { host: 2e9, ..LAPTOP }), 8);
        assert_eq!(auto(&[1; 8], Rates { host: 8e9, ..LAPTOP }), 6, "300 us beside a link of 900");
        assert_eq!(auto(&[1; 2], Rates { join: 1e-3, ..LAPTOP }), 2, "a detour that costs more than it saves");
        // As measured beside an H100, where sending some up made tokens a tenth slower.
        let server = Rates { fill: 24e9, link: 55e9, host: 36e9, join: 25e-6, launch: 40e-6 };
        assert_eq!((1..9).map(|n| auto(&vec![1; n], server)).max(), Some(0));
        assert_eq!(auto(&[64; 100], server), 100);
    }

    #[test]
    fn where_nothing_is_filled_link_and_host_share_a_token_as_they_are_fast() {
        let held = Rates { fill: f64::INFINITY, link: 55e9, host: 55e9, join: 0.0, launch: 0.0 };
        assert_eq!(auto(&[1; 8], held), 4);
        assert_eq!(auto(&[1; 9], Rates { host: 110e9, ..held }), 3);
        assert_eq!((auto(&[1; 0], held), auto(&[1; 1], Rates { launch: 40e-6, join: 35e-6, ..held })), (0, 0));
        assert!((0..9).all(|up| held.seconds(BYTES, up, Some(1e-4)).is_finite() && held.seconds(BYTES, up, None).is_finite()));
    }

    #[test]
    fn experts_of_many_tokens_go_up() {
        let (all, few) = (auto(&[64; 100], LAPTOP), auto(&[1; 100], LAPTOP));
        assert!(all > 80 && few < 30, "{all} {few}");
    }

    proptest! {
        #[test]
        fn no_other_split_is_done_sooner(
            mut tokens in prop::collection::vec(1usize..600, 0..40), bytes in 1u64..8 << 20,
            fill in prop_oneof![3 => 1e8f64..1e11, 1 => Just(f64::INFINITY)],
            link in 1e8f64..1e11, host in 1e8f64..1e11, join in 0.0f64..1e-3, launch in 0.0f64..1e-4,
        ) {
            tokens.sort_unstable_by_key(|&t| std::cmp::Reverse(t));
            let rates = Rates { fill, link, host, join, launch };
            let chosen = split(MissChoice::Auto, &tokens, bytes, &rates);
            prop_assert!(chosen <= tokens.len());
            // Filling, then computing, the link beside both: counted step by step.
            let seconds = |up: usize| {
                let (mut now, mut there) = (0.0f64, 0.0f64);
                for _ in 0..up {
                    now += bytes as f64 / fill;
                    there = there.max(now - bytes as f64 / fill) + bytes as f64 / link.min(fill);
                }
                let device = if up > 0 { there + launch } else { 0.0 };
                let mine: f64 = tokens[up..].iter().map(|&t| rates.host_seconds(bytes, t)).sum();
                device.max(if up < tokens.len() { now + mine + join } else { 0.0 })
            };
            let best = seconds(chosen);
            for up in 0..=tokens.len() {
                prop_assert!(best <= seconds(up) * (1.0 + 1e-9) + 1e-12, "{up} beats {chosen}");
            }
            prop_assert_eq!(split(MissChoice::Gpu, &tokens, bytes, &rates), tokens.len());
            prop_assert_eq!(split(MissChoice::Cpu, &tokens, bytes, &rates), 0);
        }

        #[test]
        fn a_faster_way_up_never_takes_fewer(n in 0usize..40, host in 1e9f64..1e11, link in 1e9f64..1e11, more in 1.0f64..10.0) {
            let at = |way| auto(&vec![1; n], Rates { fill: 2.0 * way, link: way, host, join: 0.0, launch: 0.0 });
            prop_assert!(at(link) <= at(link * more));
        }
    }
}
