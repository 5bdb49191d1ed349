//! The knee of a hit-rate curve: the slot count beyond which another slot gains less than the mean.

/// Below this distance from the straight line between both ends, as a share of the curve's rise, there is no bend to speak of.
const STRAIGHT: f64 = 0.02;
/// A rise of less than this much hit rate between fewest and most slots is none.
const FLAT: f64 = 0.005;

/// Where a curve bends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knee {
    /// Slots per layer.
    pub slots: usize,
    /// Hit rate that one slot more gains there.
    pub next: f64,
    /// Hit rate that one slot less costs there.
    pub last: f64,
    /// What shape was found.
    pub shape: Shape,
}

/// What a curve looks like between its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It rises steeply, then slowly: the knee lies between.
    Bent,
    /// Each slot gains about as much as any other, so only memory says how many.
    Straight,
    /// More slots gain nothing.
    Flat,
}

/// The knee of `curve` (hit rate by slot count, from 0 slots on) between `least` and `most` slots: the point that lies
/// farthest above the straight line between both ends (Satopää et al., "Finding a kneedle in a haystack", 2011, without
/// smoothing, as a hit-rate curve only rises). On a curve that bends one way it is where one more slot begins to gain less
/// than the mean over the range. `None` if the curve does not reach `least`.
#[must_use]
pub fn knee(curve: &[f64], least: usize, most: usize) -> Option<Knee> {
    let most = most.min(curve.len().checked_sub(1)?);
    if least > most {
        return None;
    }
    let (low, high) = (curve[least], curve[most]);
    let rise = high - low;
    let at = |slots: usize, shape| {
        let next = curve.get(slots + 1).map_or(0.0, |h| h - curve[slots]);
        let last = slots.checked_sub(1).map_or(0.0, |before| curve[slots] - curve[before]);
        Some(Knee { slots, next, last, shape })
    };
    if rise.is_nan() || rise < FLAT || most == least {
        return at(least, Shape::Flat);
    }
    let above = |slots: usize| (curve[slots] - low) / rise - (slots - least) as f64 / (most - least) as f64;
    let mut best = least;
    for slots in least..=most {
        if above(slots) > above(best) {
            best = slots;
        }
    }
    if above(best) < STRAIGHT {
        return at(most, Shape::Straight);
    }
    at(best, Shape::Bent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_knee_is_where_a_steep_rise_ends() {
        let curve: Vec<f64> = (0..=32).map(|s| if s <= 10 { 0.08 * f64::from(s) } else { 0.8 + 0.002 * f64::from(s - 10) }).collect();
        let knee = knee(&curve, 2, 32).unwrap();
        assert_eq!((knee.slots, knee.shape), (10, Shape::Bent));
        assert!((knee.last - 0.08).abs() < 1e-9 && (knee.next - 0.002).abs() < 1e-9);
    }

    #[test]
    fn a_straight_curve_has_no_knee_and_a_flat_one_needs_no_slots() {
        let line: Vec<f64> = (0..=20).map(|s| f64::from(s) / 20.0).collect();
        assert_eq!(knee(&line, 2, 16).map(|k| (k.slots, k.shape)), Some((16, Shape::Straight)));
        assert_eq!(knee(&[0.9; 21], 2, 16).map(|k| (k.slots, k.shape)), Some((2, Shape::Flat)));
        assert_eq!(knee(&[], 0, 4), None);
        assert_eq!(knee(&[0.5, 0.6], 3, 9), None);
    }

    proptest! {
        #[test]
        fn on_a_concave_curve_no_slot_above_the_knee_gains_more_than_the_mean(
            mut gains in prop::collection::vec(0.0..1.0f64, 3..80), least in 0usize..6,
        ) {
            gains.sort_by(|a, b| b.total_cmp(a));
            let total: f64 = gains.iter().sum::<f64>().max(1e-9);
            let mut curve = vec![0.0];
            gains.iter().for_each(|g| curve.push(curve[curve.len() - 1] + g / total));
            let most = curve.len() - 1;
            let least = least.min(most - 1);
            let knee = knee(&curve, least, most).unwrap();
            prop_assert!((least..=most).contains(&knee.slots));
            if knee.shape == Shape::Bent {
                let mean = (curve[most] - curve[least]) / (most - least) as f64;
                prop_assert!(knee.next <= mean + 1e-9 && knee.last >= mean - 1e-9, "{knee:?} {mean}");
            }
        }
    }
}
