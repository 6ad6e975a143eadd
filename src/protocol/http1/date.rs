//! The `Date` header's text (IMF-fixdate, RFC 9110 §5.6.7) from seconds since 1970.
//!
//! A worker renders it once per second of its clock and copies it into each response.

/// Length of the text.
pub const DATE_BYTES: usize = 29;

/// Such as `Sun, 06 Nov 1994 08:49:37 GMT`. Years past 9999 (the format has four digits) are held at
/// the last second of 9999.
pub fn http_date(unix_seconds: u64) -> [u8; DATE_BYTES] {
    const LAST_SECOND: u64 = 253_402_300_799;
    const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let seconds = unix_seconds.min(LAST_SECOND);
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let weekday = (days % 7) as usize * 3;
    let month = (month as usize - 1) * 3;
    let mut text = *b"Www, DD Mmm YYYY hh:mm:ss GMT";
    text[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    text[8..11].copy_from_slice(&MONTHS[month..month + 3]);
    for (at, value) in [
        (5, day),
        (12, year / 100),
        (14, year % 100),
        (17, seconds / 3600 % 24),
        (20, seconds / 60 % 60),
        (23, seconds % 60),
    ] {
        text[at] = b'0' + (value / 10) as u8;
        text[at + 1] = b'0' + (value % 10) as u8;
    }
    text
}

/// Year, month (from 1) and day (from 1) of a day counted from 1970-01-01. Counts in years that begin
/// in March, so that the leap day is the last of its year (after Hinnant, "chrono-compatible
/// low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_date_known_moments_are_rendered() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&http_date(seconds)), Ok(text));
        }
    }
}
