//! How fast a device's link is: a few copies of page-locked memory that is given back.

use super::{Device, GpuError, Lane};
use std::time::Instant;

/// Bytes of a copy, about as many as an expert has.
const BYTES: usize = 4 << 20;
/// Copies of a round, queued behind each other.
const COPIES: usize = 4;
/// The fastest round counts: a link that had nothing to do may save power at first.
const ROUNDS: usize = 3;

/// Bytes per second from page-locked memory to the device, by the device's clock if it has one. Takes some milliseconds, and 4 MiB of either memory meanwhile.
///
/// # Errors
/// Page-locked memory is refused, the device has no room, or a copy fails.
pub fn upload_rate(device: &dyn Device) -> Result<f64, GpuError> {
    let from = device.pinned(BYTES)?;
    let to = device.alloc(BYTES)?;
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let begin = device.mark(Lane::Copy)?;
        for _ in 0..COPIES {
            device.upload(Lane::Copy, to.address(), &from, 0..BYTES)?;
        }
        let end = device.mark(Lane::Copy)?;
        device.sync(&end)?;
        let seconds = device.between(&begin, &end).map_or_else(|| start.elapsed().as_secs_f64(), |us| us / 1e6);
        best = best.max((COPIES * BYTES) as f64 / seconds.max(1e-9));
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::simulated::{Faults, Options, Order, Simulated, Speeds};

    fn over(link: f64) -> Simulated {
        Simulated::new(Options { order: Order::Late, speeds: Speeds { link, ..Speeds::default() }, ..Options::default() })
    }

    #[test]
    fn the_rate_is_the_links_and_everything_is_given_back() {
        for link in [3e9, 12.6e9, 55e9] {
            let device = over(link);
            let rate = upload_rate(&device).unwrap();
            assert!(rate <= link && rate > 0.9 * link, "{rate} of {link}");
            assert_eq!((device.used(), device.pinned_used()), (0, 0));
            assert_eq!(device.violations(), Vec::<String>::new());
        }
    }

    #[test]
    fn whatever_is_refused_is_told_and_everything_is_given_back() {
        let refused = [
            Faults { pinned: Some(0), ..Faults::default() },
            Faults { alloc: Some(0), ..Faults::default() },
            Faults { upload: Some(0), ..Faults::default() },
            Faults { upload: Some(5), ..Faults::default() },
        ];
        for faults in refused {
            let device = over(12.6e9);
            device.fail(faults);
            assert!(upload_rate(&device).is_err(), "{faults:?}");
            assert_eq!((device.used(), device.pinned_used()), (0, 0), "{faults:?}");
        }
    }
}
