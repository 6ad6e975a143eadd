//! `%START_TIME(...)%` and its kin: strftime patterns compiled to a small program, in the C locale.
//!
//! What Envoy understands: strftime with glibc's flags and widths, `%f` and `%1f` to `%9f` (fractional
//! digits), `%s`, and abseil's `%E*S`, `%E3S`, `%E*f`, `%E3f`, `%Ez`, `%:z`, `%E4Y`, `%ET`. Specifiers that
//! nobody knows are written as they stand. The wall clock is never read here.

use jiff::tz::TimeZone;

use super::text::{pad_left, push_padded};

/// A compiled time format.
#[derive(Debug, Clone)]
pub(super) struct TimeFormat {
    parts: Box<[TimePart]>,
    /// The zone to write in; `None`: UTC.
    zone: Option<TimeZone>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TimePart {
    Literal(Box<[u8]>),
    Number {
        of: NumberOf,
        pad: u8,
        width: u8,
    },
    Name {
        of: NameOf,
        case: Case,
        width: u8,
    },
    /// Digits of the fraction of the second, after a dot if `dot`; `None`: as many as are not zero.
    Fraction {
        digits: Option<u8>,
        dot: bool,
    },
    /// Offset from UTC: `+0100`, with colons `+01:00`, with seconds `+01:00:00`.
    Offset {
        colons: bool,
        seconds: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberOf {
    Epoch,
    Year,
    Century,
    YearOfCentury,
    Month,
    Day,
    Hour,
    Hour12,
    Minute,
    Second,
    DayOfYear,
    WeekFromSunday,
    WeekFromMonday,
    IsoWeek,
    IsoYear,
    IsoYearOfCentury,
    WeekdayFromMonday,
    WeekdayFromSunday,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameOf {
    Weekday,
    WeekdayShort,
    Month,
    MonthShort,
    AmPm,
    AmPmLower,
    Zone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    AsIs,
    Upper,
    Lower,
}

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const SECONDS_PER_DAY: i64 = 86_400;

impl TimeFormat {
    /// Compiles a pattern; empty: Envoy's default, ISO 8601 with milliseconds.
    /// `None` if the pattern would write a newline, which Envoy refuses.
    pub(super) fn parse(pattern: &str, local: bool) -> Option<Self> {
        if writes_newline(pattern.as_bytes()) {
            return None;
        }
        let pattern = match (pattern, local) {
            ("", false) => "%Y-%m-%dT%H:%M:%S.%3fZ",
            ("", true) => "%Y-%m-%dT%H:%M:%S.%3f%z",
            (pattern, _) => pattern,
        };
        let mut parts = Vec::new();
        compile(pattern.as_bytes(), &mut parts);
        Some(Self { parts: parts.into_boxed_slice(), zone: local.then(TimeZone::system) })
    }

    /// Appends the moment `unix_ns`, in ns since the Unix epoch.
    pub(super) fn write(&self, unix_ns: u64, out: &mut Vec<u8>) {
        self.write_moment((unix_ns / 1_000_000_000) as i64, (unix_ns % 1_000_000_000) as u32, out);
    }

    /// Appends a moment in seconds since the Unix epoch: certificates are valid until years that nanoseconds do not reach.
    pub(super) fn write_second(&self, unix_seconds: u64, out: &mut Vec<u8>) {
        self.write_moment(i64::try_from(unix_seconds).unwrap_or(i64::MAX), 0, out);
    }

    fn write_moment(&self, epoch: i64, nanos: u32, out: &mut Vec<u8>) {
        let offset = self.zone.as_ref().and_then(|zone| {
            let moment = jiff::Timestamp::from_second(epoch).ok()?;
            Some(zone.to_offset_info(moment))
        });
        let (offset_seconds, zone_name) = match &offset {
            Some(info) => (i64::from(info.offset().seconds()), info.abbreviation()),
            None => (0, "UTC"),
        };
        let civil = Civil::of(epoch, offset_seconds);
        for part in &self.parts {
            match part {
                TimePart::Literal(text) => out.extend_from_slice(text),
                TimePart::Number { of, pad, width } => push_padded(out, civil.number(*of), *width, *pad),
                TimePart::Name { of, case, width } => {
                    let start = out.len();
                    out.extend_from_slice(civil.name(*of, zone_name).as_bytes());
                    match case {
                        Case::AsIs => {}
                        Case::Upper => out[start..].make_ascii_uppercase(),
                        Case::Lower => out[start..].make_ascii_lowercase(),
                    }
                    pad_left(out, start, *width, b' ');
                }
                TimePart::Fraction { digits, dot } => push_fraction(out, nanos, *digits, *dot),
                TimePart::Offset { colons, seconds } => push_offset(out, offset_seconds, *colons, *seconds),
            }
        }
    }
}

/// Whether the pattern contains `%n`, with flags, width or modifier between: Envoy's own test.
fn writes_newline(pattern: &[u8]) -> bool {
    pattern.iter().enumerate().filter(|(_, byte)| **byte == b'%').any(|(index, _)| {
        let rest = skip(&pattern[index + 1..], |byte| matches!(byte, b'-' | b'_' | b'0' | b'^' | b'#'));
        let rest = skip(rest, |byte| matches!(byte, b'1'..=b'9'));
        matches!(rest, [b'n', ..] | [b'E' | b'O', b'n', ..])
    })
}

fn skip(text: &[u8], skipped: impl Fn(u8) -> bool) -> &[u8] {
    let count = text.iter().take_while(|byte| skipped(**byte)).count();
    &text[count..]
}

fn compile(mut rest: &[u8], parts: &mut Vec<TimePart>) {
    while !rest.is_empty() {
        let taken =
            compile_abseil(rest, parts).or_else(|| compile_strftime(rest, parts)).unwrap_or_else(|| {
                push_part(parts, literal(&rest[..1]));
                1
            });
        rest = &rest[taken..];
    }
}

fn push_part(parts: &mut Vec<TimePart>, part: TimePart) {
    match (parts.last_mut(), part) {
        (Some(TimePart::Literal(before)), TimePart::Literal(text)) => {
            *before = [&before[..], &text].concat().into_boxed_slice();
        }
        (_, part) => parts.push(part),
    }
}

fn literal(text: &[u8]) -> TimePart {
    TimePart::Literal(text.into())
}

/// Takes a specifier of Envoy's or abseil's own from the start of `text`; how many bytes it took.
fn compile_abseil(text: &[u8], parts: &mut Vec<TimePart>) -> Option<usize> {
    let fraction = |digits| TimePart::Fraction { digits, dot: false };
    let offset = |colons, seconds| TimePart::Offset { colons, seconds };
    let after = text.strip_prefix(b"%")?;
    let (taken, part) = match after {
        // Envoy replaces `%f`, `%3f` and `%s` before anything else, even behind a percent sign.
        [b'%', b'1'..=b'9', b'f', ..] | [b'%', b'f' | b's', ..] => (1, literal(b"%")),
        [b'f', ..] => (2, fraction(Some(9))),
        [digit @ b'1'..=b'9', b'f', ..] => (3, fraction(Some(digit - b'0'))),
        [b':', b':', b'z', ..] => (4, offset(true, true)),
        [b':', b'z', ..] | [b'E', b'z', ..] => (3, offset(true, false)),
        [b'z', ..] => (2, offset(false, false)),
        [b'E', b'*', b'z', ..] => (4, offset(true, true)),
        [b'E', b'*', b'f', ..] => (4, fraction(None)),
        [b'E', b'4', b'Y', ..] => (4, TimePart::Number { of: NumberOf::Year, pad: b'0', width: 4 }),
        [b'E', b'T', ..] => (3, literal(b"T")),
        [b'E', b'*', b'S', ..] => {
            push_part(parts, TimePart::Number { of: NumberOf::Second, pad: b'0', width: 2 });
            (4, TimePart::Fraction { digits: None, dot: true })
        }
        [b'E', digits @ ..] => {
            let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let value = std::str::from_utf8(&digits[..count]).ok()?.parse().ok()?;
            match digits.get(count)? {
                b'f' => (3 + count, fraction(Some(value))),
                b'S' => {
                    push_part(parts, TimePart::Number { of: NumberOf::Second, pad: b'0', width: 2 });
                    (3 + count, TimePart::Fraction { digits: Some(value), dot: true })
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    push_part(parts, part);
    Some(taken)
}

/// Takes one of strftime's specifiers, with glibc's flags and width, from the start of `text`.
fn compile_strftime(text: &[u8], parts: &mut Vec<TimePart>) -> Option<usize> {
    use NumberOf::*;
    let mut rest = text.strip_prefix(b"%")?;
    let (mut flag, mut case) = (None, Case::AsIs);
    while let [byte @ (b'-' | b'_' | b'0' | b'^' | b'#'), after @ ..] = rest {
        match byte {
            b'^' => case = Case::Upper,
            // Turns the case round: names become upper case, AM, PM and zones lower case.
            b'#' => case = Case::Lower,
            _ => flag = Some(*byte),
        }
        rest = after;
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let width: Option<u8> = match digits {
        0 => None,
        _ => Some(std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?),
    };
    rest = &rest[digits..];
    // The C locale has no alternative representations: both modifiers change nothing.
    rest = rest.strip_prefix(b"E").or_else(|| rest.strip_prefix(b"O")).unwrap_or(rest);
    let specifier = *rest.first()?;
    let taken = text.len() - rest.len() + 1;

    let pattern: Option<&[u8]> = match specifier {
        b'c' => Some(b"%a %b %e %H:%M:%S %Y"),
        b'x' | b'D' => Some(b"%m/%d/%y"),
        b'X' | b'T' => Some(b"%H:%M:%S"),
        b'r' => Some(b"%I:%M:%S %p"),
        b'R' => Some(b"%H:%M"),
        b'F' => Some(b"%Y-%m-%d"),
        b't' => Some(b"\t"),
        b'%' => {
            push_part(parts, literal(b"%"));
            return Some(taken);
        }
        _ => None,
    };
    if let Some(pattern) = pattern {
        compile(pattern, parts);
        return Some(taken);
    }

    let name = |of, turned| TimePart::Name {
        of,
        case: if case == Case::Lower { turned } else { case },
        width: width.unwrap_or(0),
    };
    let number = |of, default_width, default_pad| {
        let (pad, plain_width) = match flag {
            Some(b'-') => (default_pad, 0),
            Some(b'_') => (b' ', default_width),
            Some(_) => (b'0', default_width),
            None => (default_pad, default_width),
        };
        TimePart::Number { of, pad, width: width.unwrap_or(plain_width) }
    };
    let part = match specifier {
        b's' => number(Epoch, 0, b'0'),
        b'Y' => number(Year, 0, b'0'),
        b'C' => number(Century, 2, b'0'),
        b'y' => number(YearOfCentury, 2, b'0'),
        b'm' => number(Month, 2, b'0'),
        b'd' => number(Day, 2, b'0'),
        b'e' => number(Day, 2, b' '),
        b'H' => number(Hour, 2, b'0'),
        b'k' => number(Hour, 2, b' '),
        b'I' => number(Hour12, 2, b'0'),
        b'l' => number(Hour12, 2, b' '),
        b'M' => number(Minute, 2, b'0'),
        b'S' => number(Second, 2, b'0'),
        b'j' => number(DayOfYear, 3, b'0'),
        b'U' => number(WeekFromSunday, 2, b'0'),
        b'W' => number(WeekFromMonday, 2, b'0'),
        b'V' => number(IsoWeek, 2, b'0'),
        b'G' => number(IsoYear, 0, b'0'),
        b'g' => number(IsoYearOfCentury, 2, b'0'),
        b'u' => number(WeekdayFromMonday, 1, b'0'),
        b'w' => number(WeekdayFromSunday, 1, b'0'),
        b'A' => name(NameOf::Weekday, Case::Upper),
        b'a' => name(NameOf::WeekdayShort, Case::Upper),
        b'B' => name(NameOf::Month, Case::Upper),
        b'b' | b'h' => name(NameOf::MonthShort, Case::Upper),
        b'p' => name(NameOf::AmPm, Case::Lower),
        b'P' => name(NameOf::AmPmLower, Case::AsIs),
        b'Z' => name(NameOf::Zone, Case::Lower),
        // Written as it stands.
        _ => literal(&text[..taken]),
    };
    push_part(parts, part);
    Some(taken)
}

/// A moment taken apart.
struct Civil {
    epoch: i64,
    /// Seconds since midnight.
    time: u64,
    year: i64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    /// 0 to 365.
    day_of_year: u64,
    /// 0 is Sunday.
    weekday: u64,
}

impl Civil {
    /// `epoch` in seconds since 1970, at `offset` seconds from UTC.
    /// Algorithm: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    fn of(epoch: i64, offset: i64) -> Self {
        let local = epoch.saturating_add(offset);
        let days = local.div_euclid(SECONDS_PER_DAY);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year =
            if month <= 2 { day_from_march - 306 } else { day_from_march + 59 + i64::from(leap) };
        Self {
            epoch,
            time: local.rem_euclid(SECONDS_PER_DAY) as u64,
            year,
            month: month as u64,
            day: (day_from_march - (153 * month_from_march + 2) / 5 + 1) as u64,
            day_of_year: day_of_year as u64,
            weekday: (days + 4).rem_euclid(7) as u64,
        }
    }

    fn number(&self, of: NumberOf) -> u64 {
        let year = |year: i64| year.unsigned_abs();
        match of {
            NumberOf::Epoch => self.epoch.unsigned_abs(),
            NumberOf::Year => year(self.year),
            NumberOf::Century => year(self.year) / 100,
            NumberOf::YearOfCentury => year(self.year) % 100,
            NumberOf::Month => self.month,
            NumberOf::Day => self.day,
            NumberOf::Hour => self.time / 3_600,
            NumberOf::Hour12 => (self.time / 3_600 + 11) % 12 + 1,
            NumberOf::Minute => self.time / 60 % 60,
            NumberOf::Second => self.time % 60,
            NumberOf::DayOfYear => self.day_of_year + 1,
            NumberOf::WeekFromSunday => (self.day_of_year + 7 - self.weekday) / 7,
            NumberOf::WeekFromMonday => (self.day_of_year + 7 - (self.weekday + 6) % 7) / 7,
            NumberOf::IsoWeek => self.iso_week().1,
            NumberOf::IsoYear => year(self.iso_week().0),
            NumberOf::IsoYearOfCentury => year(self.iso_week().0) % 100,
            NumberOf::WeekdayFromMonday => (self.weekday + 6) % 7 + 1,
            NumberOf::WeekdayFromSunday => self.weekday,
        }
    }

    /// Year and number of the week by ISO 8601: the one that the week's Thursday is in.
    fn iso_week(&self) -> (i64, u64) {
        let from_monday = (self.weekday + 6) % 7;
        let thursday = Self::of(self.epoch_of_day() + (3 - from_monday as i64) * SECONDS_PER_DAY, 0);
        (thursday.year, thursday.day_of_year / 7 + 1)
    }

    /// The seconds since 1970 of this day's midnight, were it in UTC.
    fn epoch_of_day(&self) -> i64 {
        let years = self.year - 1;
        let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let days = years * 365 + leaps(years) - (1_969 * 365 + leaps(1_969)) + self.day_of_year as i64;
        days * SECONDS_PER_DAY
    }

    fn name<'a>(&self, of: NameOf, zone: &'a str) -> &'a str {
        let weekday = WEEKDAYS.get(self.weekday as usize).copied().unwrap_or_default();
        let month = MONTHS.get(self.month as usize - 1).copied().unwrap_or_default();
        let short = |name: &'static str| name.get(..3).unwrap_or(name);
        match of {
            NameOf::Weekday => weekday,
            NameOf::WeekdayShort => short(weekday),
            NameOf::Month => month,
            NameOf::MonthShort => short(month),
            NameOf::AmPm if self.time < 43_200 => "AM",
            NameOf::AmPm => "PM",
            NameOf::AmPmLower if self.time < 43_200 => "am",
            NameOf::AmPmLower => "pm",
            NameOf::Zone => zone,
        }
    }
}

fn push_fraction(out: &mut Vec<u8>, nanos: u32, digits: Option<u8>, dot: bool) {
    let mut text = [0; 9];
    let mut rest = nanos;
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let significant = text.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
    let count = digits.map_or(significant, usize::from);
    if dot && count > 0 {
        out.push(b'.');
    }
    out.extend_from_slice(&text[..count.min(text.len())]);
    out.resize(out.len() + count.saturating_sub(text.len()), b'0');
    // abseil writes a zero where `%E*f` finds no digit at all.
    if digits.is_none() && !dot && significant == 0 {
        out.push(b'0');
    }
}

fn push_offset(out: &mut Vec<u8>, offset: i64, colons: bool, seconds: bool) {
    out.push(if offset < 0 { b'-' } else { b'+' });
    let offset = offset.unsigned_abs();
    push_padded(out, offset / 3_600, 2, b'0');
    if colons {
        out.push(b':');
    }
    push_padded(out, offset / 60 % 60, 2, b'0');
    if seconds {
        out.push(b':');
        push_padded(out, offset % 60, 2, b'0');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: u64 = 1_795_362_929_953_732_000;

    fn written(pattern: &str, moment: u64) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(pattern, false).unwrap().write(moment, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The right side is what Envoy 1.40 wrote for the same moment.
    #[test]
    fn patterns_are_written_as_envoy_does() {
        let table = [
            ("", "2026-11-22T15:55:29.953Z"),
            ("%Y-%m-%d %H:%M:%S", "2026-11-22 15:55:29"),
            ("%s", "1795362929"),
            ("%f", "953732000"),
            ("%1f", "9"),
            ("%6f", "953732"),
            ("%s.%3f", "1795362929.953"),
            ("%E3S", "29.953"),
            ("%E*S", "29.953732"),
            ("%E3f", "953"),
            ("%E*f", "953732"),
            ("%E0S", "29"),
            ("%E0f", ""),
            ("%E15S", "29.953732000000000"),
            ("%Ez %E*z %z %:z %::z %Z", "+00:00 +00:00:00 +0000 +00:00 +00:00:00 UTC"),
            ("%a %A %b %B %h", "Sun Sunday Nov November Nov"),
            ("%e %j %U %W %u %w", "22 326 47 46 7 0"),
            ("%y %C %G %g %V", "26 20 2026 26 47"),
            ("%I %l %k %p %P %r", "03  3 15 PM pm 03:55:29 PM"),
            ("%D %F %T %R", "11/22/26 2026-11-22 15:55:29 15:55"),
            ("%c|%x|%X|%t|", "Sun Nov 22 15:55:29 2026|11/22/26|15:55:29|\t|"),
            ("%%", "%"),
            ("%Q", "%Q"),
            ("%", "%"),
            ("abc", "abc"),
            ("%f%f", "953732000953732000"),
            ("%E3", "%E3"),
            ("%ET", "T"),
            ("%E4Y %EY %Ey %Od", "2026 2026 26 22"),
            ("%N%L%i%v%+%J", "%N%L%i%v%+%J"),
            ("%-d %_d %^a %010Y", "22 22 SUN 0000002026"),
            // Envoy's specifiers are found even behind a percent sign.
            ("%s%%3f", "1795362929%953"),
            ("%EC %Ec %Ex %EX", "20 Sun Nov 22 15:55:29 2026 11/22/26 15:55:29"),
        ];
        for (pattern, expected) in table {
            assert_eq!(written(pattern, MOMENT), expected, "{pattern}");
        }
    }

    #[test]
    fn pattern_with_newline_is_refused() {
        for pattern in ["%n", "%En", "%5n", "%_-3n", "%%n", "a%On"] {
            assert!(TimeFormat::parse(pattern, false).is_none(), "{pattern}");
        }
        assert!(TimeFormat::parse("%10n", false).is_some());
    }

    #[test]
    fn dates_agree_with_the_calendar_library() {
        // About every 32 hours from 1970 to 2120, so that all weeks, leap years and hours occur.
        for step in 0..40_000_u64 {
            let epoch = step * 117_637;
            let moment = jiff::Timestamp::from_second(epoch as i64).unwrap().to_zoned(TimeZone::UTC);
            let pattern = "%Y-%m-%d %H:%M:%S %j %w %U %W";
            assert_eq!(written(pattern, epoch * 1_000_000_000), moment.strftime(pattern).to_string());
            let week = moment.date().iso_week_date();
            assert_eq!(
                written("%G %V %u", epoch * 1_000_000_000),
                format!("{} {:02} {}", week.year(), week.week(), week.weekday().to_monday_one_offset())
            );
        }
    }

    #[test]
    fn zone_shifts_date_and_names_itself() {
        let mut out = Vec::new();
        let zone = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
        let mut format = TimeFormat::parse("", true).unwrap();
        format.zone = Some(zone.clone());
        format.write(MOMENT, &mut out);
        assert_eq!(out, b"2026-11-22T10:55:29.953-0500");
        let mut format = TimeFormat::parse("%Z %s %E3S%Ez %#Z", true).unwrap();
        format.zone = Some(zone);
        out.clear();
        format.write(MOMENT, &mut out);
        assert_eq!(out, b"EST 1795362929 29.953-05:00 est");
    }

    #[test]
    fn fraction_without_digits_is_zero() {
        assert_eq!(written("%E*f|%E*S|%3f", 5_000_000_000), "0|05|000");
    }
}
