//! The short causal convolution of recurrent layers: each channel by itself, over the last few tokens.

/// In place: `x` `[tokens, channels]` becomes `sum_j taps[j] * x[t - (width - 1) + j]`, where rows before the first come from `carry`
/// `[width - 1, channels]`, which then holds the last rows for the next call. `taps` is `[width, channels]`.
pub fn causal_conv(x: &mut [f32], channels: usize, taps: &[f32], carry: &mut [f32]) {
    let before = carry.len();
    let mut all = Vec::with_capacity(before + x.len());
    all.extend_from_slice(carry);
    all.extend_from_slice(x);
    for (t, y) in x.chunks_exact_mut(channels).enumerate() {
        y.fill(0.0);
        for (j, taps) in taps.chunks_exact(channels).enumerate() {
            let row = &all[(t + j) * channels..(t + j + 1) * channels];
            for ((y, w), x) in y.iter_mut().zip(taps).zip(row) {
                *y += w * x;
            }
        }
    }
    let from = all.len() - before;
    carry.copy_from_slice(&all[from..]);
}

/// `[channels, width]`, as files have the taps, becomes `[width, channels]`.
#[must_use]
pub fn by_tap(by_channel: &[f32], channels: usize) -> Vec<f32> {
    let width = by_channel.len() / channels.max(1);
    (0..by_channel.len()).map(|i| by_channel[(i % channels) * width + i / channels]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..n).map(|_| rng.f32() * 2.0 - 1.0).collect()
    }

    #[test]
    fn convolution_does_not_see_where_it_was_cut() {
        let (channels, tokens) = (5, 11);
        let (x, taps) = (noise(channels * tokens, 5), noise(channels * 4, 6));
        let mut whole = x.clone();
        let mut carry = vec![0.0; 3 * channels];
        causal_conv(&mut whole, channels, &taps, &mut carry);
        let mut parts = x.clone();
        let mut carry2 = vec![0.0; 3 * channels];
        let (a, rest) = parts.split_at_mut(channels);
        let (b, c) = rest.split_at_mut(2 * channels);
        for part in [a, b, c] {
            causal_conv(part, channels, &taps, &mut carry2);
        }
        assert_eq!(whole, parts);
        assert_eq!(carry, carry2);
        // Token 4, channel 2, by hand.
        let sum: f32 = (0..4).map(|j| taps[j * channels + 2] * x[(1 + j) * channels + 2]).sum();
        assert!((whole[4 * channels + 2] - sum).abs() < 1e-6);
    }

    #[test]
    fn taps_lie_by_channel_in_files_and_by_tap_here() {
        assert_eq!(by_tap(&[1., 2., 3., 10., 20., 30.], 2), [1., 10., 2., 20., 3., 30.]);
    }
}
