//! Numbers of constant width, so that nothing moves sideways while they change.

/// Bytes in nine columns: `1.93 GiB`, right-aligned, three or four digits.
#[must_use]
pub(super) fn bytes(n: u64) -> String {
    format!("{:>9}", bare_bytes(n))
}

/// Bytes without padding.
#[must_use]
pub(in crate::ui) fn bare_bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 and more would print four digits before the point.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A difference of bytes with its sign.
#[must_use]
pub(super) fn signed_bytes(to: u64, from: u64) -> String {
    let sign = if to >= from { '+' } else { '-' };
    format!("{:>10}", format!("{sign}{}", bare_bytes(to.abs_diff(from))))
}

/// A share in whole percent, as everything on the screen rounds it.
#[must_use]
pub(in crate::ui) fn whole_percent(part: u64, all: u64) -> u64 {
    let (part, all) = (u128::from(part), u128::from(all.max(1)));
    u64::try_from((part * 100 + all / 2) / all).unwrap_or(u64::MAX)
}

/// A share in six columns: ` 83.1%`.
#[must_use]
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "    - ".to_owned(), |s| format!("{:>5.1}%", s * 100.0))
}

/// A share in four columns, without its sign: `83.1`, and ` 100`.
#[must_use]
pub(super) fn points(share: f64) -> String {
    let points = share * 100.0;
    let digits = usize::from(points < 99.95);
    format!("{points:>4.digits$}")
}

/// Tokens per second in six columns.
#[must_use]
pub(super) fn speed(per_second: Option<f64>) -> String {
    match per_second {
        None => format!("{:>6}", "-"),
        Some(s) if s >= 999.5 => format!("{s:>6.0}"),
        Some(s) if s >= 99.95 => format!("{s:>6.1}"),
        Some(s) => format!("{s:>6.2}"),
    }
}

/// Microseconds in seven columns: ` 81.2ms`.
#[must_use]
pub(super) fn time(us: f64) -> String {
    let ms = us / 1000.0;
    let text = if ms >= 9999.5 {
        format!("{:.1}s", ms / 1000.0)
    } else if ms >= 99.95 {
        format!("{ms:.0}ms")
    } else if ms >= 9.995 {
        format!("{ms:.1}ms")
    } else {
        format!("{ms:.2}ms")
    };
    format!("{text:>7}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        assert_eq!(bare_bytes(0), "0 B");
        assert_eq!(bare_bytes(1023), "1023 B");
        assert_eq!(bare_bytes(1024), "1.00 KiB");
        assert_eq!(bare_bytes(12_845_056), "12.2 MiB");
        assert_eq!(bare_bytes(1023 << 20), "1.00 GiB");
        assert_eq!(bare_bytes(6_764_573_491), "6.30 GiB");
        assert_eq!([whole_percent(35, 512), whole_percent(142, 512), whole_percent(148, 512), whole_percent(1, 0)], [7, 28, 29, 100]);
        assert_eq!(signed_bytes(5 << 20, 8 << 20).trim(), "-3.00 MiB");
    }

    proptest! {
        #[test]
        fn every_number_keeps_its_width(n in any::<u64>(), m in any::<u64>(), us in 0.0..1e8f64, s in 0.0..=1.0f64, tps in 0.0..99_999.0f64) {
            prop_assert!(n >= 1 << 52 || bytes(n).len() == 9, "{}", bytes(n));
            prop_assert!(n.abs_diff(m) >= 1 << 52 || signed_bytes(n, m).len() == 10);
            prop_assert_eq!(percent(Some(s)).len(), 6);
            prop_assert_eq!(percent(None).len(), 6);
            prop_assert_eq!(points(s).len(), 4);
            prop_assert_eq!(speed(Some(tps)).len(), 6);
            prop_assert_eq!(time(us).len(), 7);
        }
    }
}
