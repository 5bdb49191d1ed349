//! Moments as text: in files, for people, and in the names of chats. In UTC, since a server's own zone is nobody's.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment as `2026-11-23T10:55:12Z`.
#[must_use]
pub fn utc(time: SystemTime) -> String {
    let s = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil_date(s / 86_400);
    let (h, m, s) = (s / 3600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// A moment as [`utc`] writes it, for people: `2026-11-23 10:55 UTC`. What looks otherwise is left as it is.
#[must_use]
pub fn civil(moment: &str) -> String {
    const SHAPE: [u8; 20] = *b"dddd-dd-ddTdd:dd:ddZ";
    let fits = |(byte, shape): (u8, u8)| if shape == b'd' { byte.is_ascii_digit() } else { byte == shape };
    if moment.len() == SHAPE.len() && moment.bytes().zip(SHAPE).all(fits) {
        format!("{} {} UTC", &moment[..10], &moment[11..16])
    } else {
        super::sanitize::one_line(moment, 24)
    }
}

/// A name for a new chat: when and by which process it was begun.
#[must_use]
pub fn new_id(time: SystemTime, process: u32) -> String {
    let millis = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_millis());
    let digits: String = utc(time).chars().filter(|c| c.is_ascii_digit() || *c == 'T').collect();
    format!("{digits}.{millis:03}-{process:x}").replace('.', "-")
}

/// Year, month and day of a day since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil_date(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_civil() {
        assert_eq!(utc(UNIX_EPOCH), "1970-01-01T00:00:00Z");
        assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(1_795_431_312)), "2026-11-23T10:55:12Z");
        assert_eq!(civil(&utc(UNIX_EPOCH + Duration::from_secs(1_795_431_312))), "2026-11-23 10:55 UTC");
        assert_eq!((civil(""), civil("T"), civil("yesterdayT at about ten")), ("".into(), "T".into(), "yesterdayT at about ten".into()));
        assert_eq!(civil("aaaaaaaaaaaaaaaaaaaT"), "aaaaaaaaaaaaaaaaaaaT", "as long as a moment, and none");
        assert!(!civil("2026T\u{1b}[2Jxxxxxxxxxxx").contains('\u{1b}'), "of a chat file that somebody else wrote");
        assert_eq!(new_id(UNIX_EPOCH + Duration::from_millis(1_042), 255), "19700101T000001-042-ff");
    }
}
