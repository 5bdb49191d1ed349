//! Numbers on the command line: what else is written is refused in words that say what to write.

use std::str::FromStr;

/// A whole number from 0 up.
pub(crate) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "write a whole number from 0 up".to_owned())
}

/// A number with or without a fraction; whether it makes sense is asked where its meaning is known.
pub(crate) fn fraction<T: FromStr + Into<f64> + Copy>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|n: &T| (*n).into().is_finite());
    number.ok_or_else(|| "write a number, such as 0.7".to_owned())
}

/// A whole number from 1 up.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("write a whole number from 1 up".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_anything_else_is_told_what_to_be() {
        assert_eq!((whole::<u64>("7"), fraction::<f32>("-0.5")), (Ok(7), Ok(-0.5)));
        for wrong in ["x", "-1", "1.5", ""] {
            assert!(whole::<usize>(wrong).unwrap_err().contains("whole number from 0 up"), "{wrong}");
        }
        for wrong in ["abc", "NaN", "inf", ""] {
            assert!(fraction::<f64>(wrong).unwrap_err().contains("such as 0.7"), "{wrong}");
        }
    }
}
