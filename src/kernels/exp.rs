//! The exponential function in a form that compilers vectorise: no branches, no table, no call.
//!
//! Cody and Waite's reduction to `|r| <= ln(2) / 2`, a polynomial of degree 6 there, and the power of two by the exponent bits.

/// `e^x`, within three units in the last place for results that are normal numbers; 0 to the smallest normal number below
/// that, the largest finite power above it; NaN stays NaN.
#[inline(always)]
#[must_use]
pub(crate) fn exp(x: f32) -> f32 {
    const LOW: f32 = -87.3;
    const HIGH: f32 = 88.3;
    // Comparisons that a NaN fails, so that it passes through.
    let x = if x < LOW { LOW } else { x };
    let x = if x > HIGH { HIGH } else { x };
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    // ln(2) in two parts, the first of which has zeros at its end, so that the products are exact.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let bits = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(bits)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn follows_the_true_function_closely() {
        let mut worst = 0.0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 3.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn ends_are_finite_and_nan_stays() {
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38 && exp(-1000.0) >= 0.0);
        assert!(exp(f32::INFINITY).is_finite() && exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NAN).is_nan());
    }
}
