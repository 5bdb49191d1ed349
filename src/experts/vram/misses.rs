//! Which missed experts go up to the device and which are computed on the host. Pure.

pub use crate::events::MissChoice;

/// How fast this machine is, measured when the model is opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Bytes per second up to the device, from the mapped file through the staging buffers.
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
    /// Seconds for the host to compute an expert of `bytes` for `tokens` tokens.
    #[must_use]
    pub fn host_seconds(&self, bytes: u64, tokens: usize) -> f64 {
        bytes as f64 / self.host * (tokens as f64 / TOKENS_FOR_ONE).max(1.0)
    }

    /// Seconds until an expert of `bytes` is on the device.
    #[must_use]
    pub fn link_seconds(&self, bytes: u64) -> f64 {
        bytes as f64 / self.link
    }
}

/// How many of the missed experts go up: the first so many of `tokens`, which says how many tokens each of them has. Link and host
/// work side by side, so the best split is the one whose longer half is shortest; of equal ones that with the fewest uploads.
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
        let join = if up < tokens.len() { rates.join } else { 0.0 };
        let launch = if up > 0 { rates.launch } else { 0.0 };
        let seconds = (up as f64 * rates.link_seconds(bytes) + launch).max(host + join);
        if seconds < best_seconds {
            (best, best_seconds) = (up, seconds);
        }
        host = if up + 1 < tokens.len() { host - rates.host_seconds(bytes, tokens[up]) } else { 0.0 };
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAPTOP: Rates = Rates { link: 12.6e9, host: 45e9, join: 0.0, launch: 0.0 };

    fn seconds(up: usize, tokens: &[usize], bytes: u64, rates: &Rates) -> f64 {
        let host: f64 = tokens[up..].iter().map(|&t| rates.host_seconds(bytes, t)).sum();
        let link = up as f64 * rates.link_seconds(bytes) + if up > 0 { rates.launch } else { 0.0 };
        link.max(host + if up < tokens.len() { rates.join } else { 0.0 })
    }

    #[test]
    fn a_fast_host_takes_most_of_it_and_a_weak_one_little() {
        assert_eq!(split(MissChoice::Auto, &[1; 8], 1_900_544, &LAPTOP), 1, "two would be up when the host has long been done with six");
        assert_eq!(split(MissChoice::Auto, &[1; 40], 1_900_544, &LAPTOP), 8, "40 * 12.6 / 57.6 = 8.75");
        assert_eq!(split(MissChoice::Auto, &[1; 2], 1_900_544, &LAPTOP), 0, "two on the host are done before one is up");
        assert_eq!(split(MissChoice::Auto, &[1; 8], 1_900_544, &Rates { host: 2e9, ..LAPTOP }), 7);
        assert_eq!(
            split(MissChoice::Auto, &[1; 2], 1_900_544, &Rates { join: 1e-3, ..LAPTOP }),
            2,
            "a detour that costs more than it saves"
        );
        // As measured beside an H100: a lone miss is the host's, although the link is no slower.
        let server = Rates { link: 24e9, host: 36e9, join: 25e-6, launch: 40e-6 };
        assert_eq!(split(MissChoice::Auto, &[1], 1_900_544, &server), 0);
    }

    #[test]
    fn experts_of_many_tokens_go_up() {
        let all = split(MissChoice::Auto, &[64; 100], 1_900_544, &LAPTOP);
        let few = split(MissChoice::Auto, &[1; 100], 1_900_544, &LAPTOP);
        assert!(all > 80 && few < 30, "{all} {few}");
    }

    proptest! {
        #[test]
        fn no_other_split_is_done_sooner(
            mut tokens in prop::collection::vec(1usize..600, 0..40), bytes in 1u64..8 << 20,
            link in 1e8f64..1e11, host in 1e8f64..1e11, join in 0.0f64..1e-3, launch in 0.0f64..1e-4,
        ) {
            tokens.sort_unstable_by_key(|&t| std::cmp::Reverse(t));
            let rates = Rates { link, host, join, launch };
            let chosen = split(MissChoice::Auto, &tokens, bytes, &rates);
            prop_assert!(chosen <= tokens.len());
            let best = seconds(chosen, &tokens, bytes, &rates);
            for up in 0..=tokens.len() {
                prop_assert!(best <= seconds(up, &tokens, bytes, &rates) * (1.0 + 1e-9) + 1e-12, "{up} beats {chosen}");
            }
            prop_assert_eq!(split(MissChoice::Gpu, &tokens, bytes, &rates), tokens.len());
            prop_assert_eq!(split(MissChoice::Cpu, &tokens, bytes, &rates), 0);
        }

        #[test]
        fn a_faster_link_never_takes_fewer(n in 0usize..40, host in 1e9f64..1e11, link in 1e9f64..1e11, more in 1.0f64..10.0) {
            let at = |link| split(MissChoice::Auto, &vec![1; n], 1_900_544, &Rates { link, host, join: 0.0, launch: 0.0 });
            prop_assert!(at(link) <= at(link * more));
        }
    }
}
