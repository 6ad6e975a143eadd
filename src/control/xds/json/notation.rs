//! Durations, timestamps and field masks as the one string that JSON has for them.
use super::super::schema::Class;
use super::super::wire::{Fields, Value};

/// The text of a duration, timestamp or field mask; None for other messages and for what has no such text.
pub(super) fn of(class: Class, fields: &Fields<'_>) -> Option<String> {
    let seconds = || match fields.get(1) {
        Some(Value::I64(seconds)) => *seconds,
        _ => 0,
    };
    let nanos = match fields.get(2) {
        Some(Value::I32(nanos)) => *nanos,
        _ => 0,
    };
    match class {
        Class::Duration => duration(seconds(), nanos),
        Class::Timestamp => timestamp(seconds(), nanos),
        Class::FieldMask => {
            let paths = fields.groups().flat_map(|(_, values)| values).filter_map(|(_, value)| match value {
                Value::Text(path) => Some(*path),
                _ => None,
            });
            let paths: Option<Vec<_>> = paths.map(camel_case).collect();
            paths.map(|paths| paths.join(","))
        }
        _ => None,
    }
}

fn duration(seconds: i64, nanos: i32) -> Option<String> {
    let signs_agree = seconds == 0 || nanos == 0 || (seconds < 0) == (nanos < 0);
    if !signs_agree || seconds.unsigned_abs() > 315_576_000_000 || nanos.unsigned_abs() > 999_999_999 {
        return None;
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    Some(format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs())))
}

/// `.5` as `.500`: three, six or nine digits, or none for nothing.
fn fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        _ if nanos.is_multiple_of(1_000_000) => format!(".{:03}", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1_000) => format!(".{:06}", nanos / 1_000),
        _ => format!(".{nanos:09}"),
    }
}

fn timestamp(seconds: i64, nanos: i32) -> Option<String> {
    // Years 1 to 9999.
    if !(-62_135_596_800..=253_402_300_799).contains(&seconds) || !(0..=999_999_999).contains(&nanos) {
        return None;
    }
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{}Z",
        fraction(nanos.unsigned_abs())
    ))
}

/// Year, month and day of a count of days from 1970-01-01, in years that begin in March.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// A path in lowerCamelCase, if the loader turns that into the same path again.
fn camel_case(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut raise = false;
    for c in path.chars() {
        match (c, raise) {
            ('_', false) => raise = true,
            ('a'..='z', true) => {
                raise = false;
                out.push(c.to_ascii_uppercase());
            }
            ('a'..='z' | '0'..='9' | '.', false) => out.push(c),
            _ => return None,
        }
    }
    (!raise && !out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_protobuf_writes_them() {
        assert_eq!(duration(-1, -500_000_000).unwrap(), "-1.500s");
        assert_eq!(duration(0, 1_000).unwrap(), "0.000001s");
        assert_eq!(duration(1, -1), None);
        assert_eq!(timestamp(1_795_362_198, 5).unwrap(), "2026-11-22T15:43:18.000000005Z");
        assert_eq!(timestamp(951_782_400, 0).unwrap(), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(-62_135_596_800, 0).unwrap(), "0001-01-01T00:00:00Z");
        assert_eq!(timestamp(i64::MAX, 0), None);
    }

    #[test]
    fn field_mask_path_without_a_camel_form_is_none() {
        assert_eq!(camel_case("a.foo_bar1").as_deref(), Some("a.fooBar1"));
        for path in ["", "a__b", "a_", "a_1", "aB", "a,b"] {
            assert_eq!(camel_case(path), None, "{path}");
        }
    }
}
