//! Slots by layer: the same bytes, given to the layers that gain most from them.
//!
//! Layers differ: some use few experts again and again, others change theirs with every token. The stack-distance curve of each layer
//! says what every further slot gains there. Giving each next slot to whoever gains most per byte is best where the curves bend one
//! way; where they do not, whole stretches of a curve's concave hull are given instead, so that a step behind a flat part is seen.

use super::curve::Curve;

/// Slots of every layer, such that all of them take no more bytes than `equal` slots in each would, and no layer has fewer than
/// `least`. `hits[layer]` are the (weighted) hits of a layer by its slot count, from 0 slots on; `bytes[layer]` is one slot.
/// Layers without samples keep their share only as far as nobody gains by it.
#[must_use]
pub fn spread(hits: &[Vec<f64>], bytes: &[u64], equal: usize, least: usize) -> Vec<usize> {
    let most = |l: usize| hits[l].len().saturating_sub(1);
    let mut slots: Vec<usize> = (0..hits.len()).map(|l| least.min(equal).min(most(l))).collect();
    let one = |l: usize| bytes.get(l).copied().unwrap_or(0).max(1);
    let mut left: u64 = (0..hits.len()).map(|l| one(l) * (equal.min(most(l)) - slots[l]) as u64).sum();
    let mut stretches: Vec<(f64, usize, usize)> = Vec::new();
    for (layer, hits) in hits.iter().enumerate() {
        for (from, to) in hull(hits, slots[layer]) {
            let gain = (hits[to] - hits[from]) / ((to - from) as f64 * one(layer) as f64);
            stretches.push((gain, layer, to - from));
        }
    }
    // Of equal gains the one that comes first in its layer, then the lower layer; a stable sort keeps both orders.
    stretches.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, layer, length) in stretches {
        // A stretch that does not fit whole is cut: what is left is given away slot by slot.
        let fits = usize::try_from(left / one(layer)).unwrap_or(usize::MAX).min(length);
        slots[layer] += fits;
        left -= fits as u64 * one(layer);
    }
    slots
}

/// No layer goes below a quarter of its equal share: one whose habits change needs room to show it.
#[must_use]
pub fn least(equal: usize) -> usize {
    equal.div_ceil(4)
}

/// Corners of the concave hull of `hits` from `start` on, as stretches.
fn hull(hits: &[f64], start: usize) -> Vec<(usize, usize)> {
    let slope = |a: usize, b: usize| (hits[b] - hits[a]) / (b - a) as f64;
    let mut corners: Vec<usize> = Vec::new();
    for at in start..hits.len() {
        while corners.len() >= 2 {
            let (a, b) = (corners[corners.len() - 2], corners[corners.len() - 1]);
            if slope(a, b) > slope(b, at) {
                break;
            }
            corners.pop();
        }
        corners.push(at);
    }
    corners.windows(2).map(|c| (c[0], c[1])).collect()
}

/// Hits of every layer by slot count, from 0 slots on, as [`spread`] wants them.
#[must_use]
pub fn hits(curve: &Curve) -> Vec<Vec<f64>> {
    let layer = |l: usize| {
        let found = curve.histogram(l).unwrap_or(&[]);
        let mut sum = 0.0;
        let slots = found.len().saturating_sub(1);
        std::iter::once(0.0)
            .chain(found[..slots].iter().map(|f| {
                sum += f;
                sum
            }))
            .collect()
    };
    (0..curve.layers()).map(layer).collect()
}

/// Share of all uses that would hit at these slots, by [`hits`] and the weight of all uses.
#[must_use]
pub fn hit_rate(curve: &Curve, hits: &[Vec<f64>], slots: &[usize]) -> f64 {
    let all: f64 = (0..curve.layers()).filter_map(|l| curve.histogram(l)).flatten().sum();
    let sum: f64 = hits.iter().zip(slots).map(|(h, &s)| h.get(s).or(h.last()).copied().unwrap_or(0.0)).sum();
    if all > 0.0 {
        sum / all
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(hits: &[Vec<f64>], slots: &[usize]) -> f64 {
        hits.iter().zip(slots).map(|(h, &s)| h[s]).sum()
    }

    /// The best of all allocations, by trying them.
    fn best(hits: &[Vec<f64>], left: usize) -> f64 {
        let Some((first, rest)) = hits.split_first() else { return 0.0 };
        (0..=left.min(first.len() - 1)).map(|s| first[s] + best(rest, left - s)).fold(0.0, f64::max)
    }

    fn cumulated(gains: &[f64]) -> Vec<f64> {
        let mut sum = 0.0;
        std::iter::once(0.0)
            .chain(gains.iter().map(|g| {
                sum += g;
                sum
            }))
            .collect()
    }

    #[test]
    fn a_layer_that_changes_its_experts_gets_the_slots_of_one_that_does_not() {
        let calm = cumulated(&[9.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        let busy = cumulated(&[2.0, 2.0, 2.0, 2.0, 2.0, 0.0]);
        assert_eq!(spread(&[calm.clone(), busy.clone()], &[10, 10], 3, 1), [1, 5]);
        assert_eq!(spread(&[calm, busy], &[10, 10], 3, 2), [2, 4]);
    }

    #[test]
    fn a_step_behind_a_flat_part_is_seen() {
        let step = cumulated(&[0.0, 0.0, 9.0, 0.0]);
        let slope = cumulated(&[1.0, 1.0, 1.0, 1.0]);
        assert_eq!(spread(&[step, slope], &[10, 10], 2, 0), [3, 1]);
    }

    #[test]
    fn a_slot_that_costs_more_bytes_must_gain_more() {
        let same = cumulated(&[2.0, 2.0, 2.0, 2.0]);
        assert_eq!(spread(&[same.clone(), same], &[30, 10], 2, 0), [1, 4]);
    }

    proptest! {
        #[test]
        fn bytes_and_bounds_are_kept_and_nothing_is_left_over(
            gains in prop::collection::vec(prop::collection::vec(0.0..1.0f64, 6), 1..5),
            bytes in prop::collection::vec(1u64..40, 5), equal in 0usize..8, least in 0usize..4,
        ) {
            let hits: Vec<Vec<f64>> = gains.iter().map(|g| cumulated(g)).collect();
            let slots = spread(&hits, &bytes, equal, least);
            let budget: u64 = bytes.iter().take(hits.len()).map(|b| b * equal.min(6) as u64).sum();
            let used: u64 = slots.iter().zip(&bytes).map(|(s, b)| b * *s as u64).sum();
            prop_assert!(used <= budget);
            for (l, &s) in slots.iter().enumerate() {
                prop_assert!(s >= least.min(equal).min(6) && s <= 6);
                prop_assert!(s == 6 || bytes[l] > budget - used, "room for one more in layer {}", l);
            }
        }

        #[test]
        fn on_concave_curves_of_one_size_it_is_the_best_there_is(
            mut gains in prop::collection::vec(prop::collection::vec(0.0..1.0f64, 5), 1..4), equal in 0usize..6,
        ) {
            gains.iter_mut().for_each(|g| g.sort_by(|a, b| b.total_cmp(a)));
            let hits: Vec<Vec<f64>> = gains.iter().map(|g| cumulated(g)).collect();
            let slots = spread(&hits, &vec![7; hits.len()], equal, 0);
            let best = best(&hits, equal.min(5) * hits.len());
            prop_assert!((total(&hits, &slots) - best).abs() < 1e-9, "{slots:?}: {} of {best}", total(&hits, &slots));
        }
    }
}
