//! Bytes for people.

/// "1.50 GiB", "12.0 MiB", "345 B".
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut x, mut unit) = (bytes as f64 / 1024.0, 0);
    while x >= 1024.0 && unit + 1 < units.len() {
        x /= 1024.0;
        unit += 1;
    }
    let digits = if unit >= 2 { 2 } else { 1 };
    format!("{x:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (12 << 20, "12.0 MiB"), (3 << 29, "1.50 GiB"), (u64::MAX, "16.00 EiB")]
        {
            assert_eq!(super::size(bytes), text);
        }
    }
}
