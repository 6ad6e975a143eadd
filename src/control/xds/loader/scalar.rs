//! Scalars of a text as values of a field's type: pure functions with protobuf's (and thus Envoy's) leniency.
//!
//! Each `Err` is the reason, without the path.
use super::super::schema::{Enum, Kind};
use super::suggest::{closest, did_you_mean};
use super::tree::Value;

/// Seconds a duration may have: protobuf's limit, ten thousand years.
const DURATION_SECONDS_MAX: i64 = 3_652_500 * 86_400;

fn expected(what: &str, value: &Value) -> String {
    format!("expected {what}, found {}", value.describe())
}

/// An integer of `kind`, as its two's complement: `9000`, `"9000"`, `1.0`, `"0x10"`.
pub(super) fn integer(kind: Kind, value: &Value) -> Result<u64, String> {
    let (name, low, high) = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            ("a 32-bit integer", i128::from(i32::MIN), i128::from(i32::MAX))
        }
        Kind::Uint32 | Kind::Fixed32 => ("an unsigned 32-bit integer", 0, i128::from(u32::MAX)),
        Kind::Uint64 | Kind::Fixed64 => ("an unsigned 64-bit integer", 0, i128::from(u64::MAX)),
        _ => ("a 64-bit integer", i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    let (Value::Number(text) | Value::Text(text)) = value else { return Err(expected(name, value)) };
    let number = decimal(text).or_else(|| integral_float(text, low < 0));
    let number = number.ok_or_else(|| expected(name, value))?;
    if (low..=high).contains(&number) {
        Ok(number as u64)
    } else {
        Err(format!("expected {name}, {number} is out of its range"))
    }
}

fn decimal(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let whole =
        !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole { text.parse().ok() } else { None }
}

/// A float without fraction, within what protobuf converts: 2^53 either way, or 2^54 without sign.
fn integral_float(text: &str, signed: bool) -> Option<i128> {
    if text.contains(|c: char| c.is_ascii_whitespace()) {
        return None;
    }
    let number = parse_float(text)?;
    let (low, high) = if signed {
        (-9_007_199_254_740_992.0, 9_007_199_254_740_992.0)
    } else {
        (0.0, 18_014_398_509_481_984.0)
    };
    (number.fract() == 0.0 && (low..=high).contains(&number)).then_some(number as i128)
}

/// As C's strtod reads it, hexadecimal integers included.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let magnitude = u64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))? as f64;
        return Some(if text.starts_with('-') { -magnitude } else { magnitude });
    }
    text.parse().ok()
}

/// A float or double: `1.5`, `"1.5"`, `NaN`, `Infinity`.
pub(super) fn float(kind: Kind, value: &Value) -> Result<f64, String> {
    let (Value::Number(text) | Value::Text(text)) = value else { return Err(expected("a number", value)) };
    let number = parse_float(text).ok_or_else(|| expected("a number", value))?;
    if kind == Kind::Float && number.is_finite() && !(number as f32).is_finite() {
        return Err(format!("{text} is out of the range of a 32-bit float"));
    }
    Ok(number)
}

/// A boolean: `true`, `on`, and quoted `"true"`, `"t"`, `"yes"`, `"y"`, `"1"` and their opposites.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    let found = match value {
        Value::Bool(value) => Some(*value),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "1" => Some(true),
            "false" | "f" | "no" | "n" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    found.ok_or_else(|| expected("true or false", value))
}

/// A string: nothing but a string.
pub(super) fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(number) => {
            Err(format!("expected a string, found the number {number}; write \"{number}\""))
        }
        Value::Bool(_) => Err(expected("a string", value)
            + " (yes, no, on, off, y and n are booleans in YAML); put it in quotes"),
        _ => Err(expected("a string", value)),
    }
}

/// Base64 in either alphabet, padding optional.
pub(super) fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    let text = text(value)?;
    base64(text).ok_or_else(|| expected("base64", value))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = match text.len() % 4 {
        0 => text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text),
        1 => return None,
        _ => text,
    };
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in digits.as_bytes().chunks(4) {
        let mut word = 0_u32;
        for &digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(value);
        }
        word <<= 6 * (4 - group.len());
        // A group of n digits carries n - 1 bytes; one digit alone carries none.
        out.extend_from_slice(word.to_be_bytes().get(1..group.len()).filter(|bytes| !bytes.is_empty())?);
    }
    Some(out)
}

/// A value of an enum by name in any case, or by number, known or not.
pub(super) fn enumeration(of: Enum, value: &Value) -> Result<i32, String> {
    let (Value::Number(text) | Value::Text(text)) = value else {
        return Err(expected(&format!("a value of {}", of.name()), value));
    };
    if let Value::Text(text) = value
        && let Some(found) = of.value_by_name(text)
    {
        return Ok(found.number);
    }
    if let Ok(number) = integer(Kind::Int32, value)
        && (matches!(value, Value::Number(_)) || decimal(text).is_some())
    {
        return Ok(number as i32);
    }
    let names: Vec<_> = of.values().map(|value| value.name).collect();
    let hint = match closest(text, names.iter().copied()) {
        Some(name) => did_you_mean(Some(name)),
        None if names.len() <= 12 => format!("; it is one of {}", names.join(", ")),
        None => String::new(),
    };
    Err(format!("{} is no value of {}{hint}", value.describe(), of.name()))
}

/// Seconds and nanoseconds of `"1.5s"`.
pub(super) fn duration(value: &Value) -> Result<(i64, i32), String> {
    let found = match value {
        Value::Text(text) => parse_duration(text),
        _ => None,
    };
    found.ok_or_else(|| {
        let hint = match value {
            Value::Text(text) | Value::Number(text) => duration_meant(text),
            _ => None,
        };
        let hint = hint.map_or_else(|| ", as in \"1.5s\"".to_owned(), |meant| format!("; write \"{meant}\""));
        expected("a duration: seconds with an \"s\" behind them", value) + &hint
    })
}

fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let seconds = i64::try_from(decimal(whole).filter(|_| !whole.starts_with('+'))?).ok()?;
    if !(-DURATION_SECONDS_MAX..=DURATION_SECONDS_MAX).contains(&seconds) {
        return None;
    }
    let nanos = fraction.map_or(Some(0), nanos)?;
    Some((seconds, if whole.starts_with('-') { -nanos } else { nanos }))
}

/// One to nine digits behind the point, as nanoseconds.
fn nanos(digits: &str) -> Option<i32> {
    let fits = (1..=9).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    if fits { format!("{digits:0<9}").parse().ok() } else { None }
}

/// What someone meant who wrote a duration of another notation: `1500ms`, `1m`, `.5s`, `1`.
fn duration_meant(text: &str) -> Option<String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let seconds = number
        * match unit.trim() {
            "" | "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            "ns" => 1e-9,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
    let meant = format!("{seconds:.9}");
    let meant = format!("{}s", meant.trim_end_matches('0').trim_end_matches('.'));
    parse_duration(&meant).map(|_| meant)
}

/// Seconds since 1970 and nanoseconds of `"2026-01-31T12:00:00.5Z"`.
pub(super) fn timestamp(value: &Value) -> Result<(i64, i32), String> {
    let found = match value {
        Value::Text(text) => parse_timestamp(text),
        _ => None,
    };
    found.ok_or_else(|| expected("a time as in \"2026-01-31T12:00:00Z\"", value))
}

fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u16>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let (time, fraction) = match time.split_once('.') {
        Some((time, fraction)) => (time, nanos(fraction)?),
        None => (time, 0),
    };
    let mut time = time.split(':').map(|part| part.parse::<u16>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if date.next().is_some() || time.next().is_some() {
        return None;
    }
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign, offset) if offset.len() == 5 => {
            let (hours, minutes) = offset.split_once(':')?;
            let minutes =
                i64::from(hours.parse::<u16>().ok()?) * 60 + i64::from(minutes.parse::<u16>().ok()?);
            if sign == "-" { -minutes * 60 } else { minutes * 60 }
        }
        _ => return None,
    };
    let of_day = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    let valid = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    valid.then(|| {
        (days_since_1970(year.into(), month.into(), day.into()) * 86_400 + of_day - offset, fraction)
    })
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counted in years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The paths of a field mask, `"a.fooBar,b"`, in proto names.
pub(super) fn field_mask(value: &Value) -> Result<Vec<String>, String> {
    let Value::Text(text) = value else { return Err(expected("a field mask", value)) };
    Ok(text.split(',').filter(|_| !text.is_empty()).map(snake_case).collect())
}

fn snake_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::schema::Message;
    use super::*;

    fn quoted(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn number(text: &str) -> Value {
        Value::Number(text.into())
    }

    #[test]
    fn integers_of_every_spelling_are_read() {
        for value in [
            number("16"),
            quoted("16"),
            number("16.0"),
            quoted("0x10"),
            quoted("1.6e1"),
            quoted("+16"),
            quoted("16."),
        ] {
            assert_eq!(integer(Kind::Uint32, &value), Ok(16), "{value:?}");
        }
        assert_eq!(integer(Kind::Int32, &number("-1")), Ok(u64::MAX));
        assert_eq!(integer(Kind::Uint64, &quoted("18446744073709551615")), Ok(u64::MAX));
        assert_eq!(integer(Kind::Uint64, &quoted("010")), Ok(10));
    }

    #[test]
    fn what_is_no_integer_is_refused() {
        for value in [
            quoted("1_000"),
            number("5.5"),
            quoted(""),
            quoted(" 5"),
            quoted("x"),
            Value::Bool(true),
            Value::Null,
        ] {
            assert!(integer(Kind::Uint32, &value).is_err(), "{value:?}");
        }
        for (kind, text) in [
            (Kind::Uint32, "-1"),
            (Kind::Uint32, "4294967296"),
            (Kind::Int32, "2147483648"),
            (Kind::Uint64, "18446744073709551616"),
            (Kind::Uint64, "1e19"),
            (Kind::Int64, "-9223372036854775809"),
        ] {
            assert!(integer(kind, &quoted(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn floats_are_read_and_bounded() {
        assert_eq!(float(Kind::Double, &quoted("1.5")), Ok(1.5));
        assert_eq!(float(Kind::Double, &quoted("Infinity")), Ok(f64::INFINITY));
        assert!(float(Kind::Double, &quoted("NaN")).unwrap().is_nan());
        assert!(float(Kind::Float, &number("1e39")).is_err());
        assert!(float(Kind::Double, &quoted("1,5")).is_err());
    }

    #[test]
    fn booleans_are_read_from_text_but_not_from_numbers() {
        for text in ["true", "T", "yes", "Y", "1"] {
            assert_eq!(boolean(&quoted(text)), Ok(true), "{text}");
        }
        assert_eq!(boolean(&quoted("No")), Ok(false));
        assert!(boolean(&number("1")).is_err());
        assert!(boolean(&quoted("on")).is_err(), "protobuf has no on; YAML's own is a boolean before");
    }

    #[test]
    fn bytes_are_base64() {
        for (text, decoded) in
            [("", ""), ("YQ==", "a"), ("YQ", "a"), ("YWI=", "ab"), ("YWJj", "abc"), ("YWJjZA", "abcd")]
        {
            assert_eq!(bytes(&quoted(text)), Ok(decoded.into()), "{text}");
        }
        assert_eq!(bytes(&quoted("-_+/")), Ok(vec![0xfb, 0xff, 0xbf]));
        for text in ["Y", "Y===", "YQ=", "Y Q=", "YWJjZ"] {
            assert!(bytes(&quoted(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn enums_are_read_in_any_case_and_by_number() {
        let policy = Message::find("envoy.config.cluster.v3.Cluster")
            .and_then(|cluster| cluster.field_by_name("lb_policy"))
            .and_then(|field| field.enumeration())
            .unwrap();
        for value in
            [quoted("RANDOM"), quoted("random"), quoted("Random"), number("3"), quoted("3"), number("3.0")]
        {
            assert_eq!(enumeration(policy, &value), Ok(3), "{value:?}");
        }
        assert_eq!(
            enumeration(policy, &number("99")),
            Ok(99),
            "whether it is defined is for the constraints"
        );
        assert!(enumeration(policy, &quoted("3.0")).is_err());
        assert_eq!(
            enumeration(policy, &quoted("round-robin")).unwrap_err(),
            "\"round-robin\" is no value of envoy.config.cluster.v3.Cluster.LbPolicy; did you mean \"ROUND_ROBIN\"?"
        );
    }

    #[test]
    fn durations_are_seconds_with_an_s() {
        for (text, seconds, nanos) in [
            ("1s", 1, 0),
            ("1.5s", 1, 500_000_000),
            ("0.25s", 0, 250_000_000),
            ("-1.5s", -1, -500_000_000),
            ("-0.5s", 0, -500_000_000),
            ("1.000000001s", 1, 1),
            ("315576000000s", 315_576_000_000, 0),
        ] {
            assert_eq!(duration(&quoted(text)), Ok((seconds, nanos)), "{text}");
        }
        for (text, meant) in
            [("1500ms", "1.5s"), ("1m", "60s"), (".5s", "0.5s"), ("1", "1s"), ("1 s", "1s"), ("2h", "7200s")]
        {
            assert!(
                duration(&quoted(text)).unwrap_err().ends_with(&format!("; write \"{meant}\"")),
                "{text}"
            );
        }
        for text in ["s", "1.s", "1.1234567890s", "315576000001s", "1sx", "+1s", "1.-5s"] {
            assert!(duration(&quoted(text)).is_err(), "{text}");
        }
        assert!(duration(&number("1")).unwrap_err().ends_with("; write \"1s\""));
    }

    #[test]
    fn timestamps_are_read() {
        assert_eq!(timestamp(&quoted("1970-01-01T00:00:00Z")), Ok((0, 0)));
        assert_eq!(timestamp(&quoted("2026-11-22T15:43:18.5Z")), Ok((1_795_362_198, 500_000_000)));
        assert_eq!(timestamp(&quoted("2000-02-29T01:00:00+01:00")), Ok((951_782_400, 0)));
        for text in
            ["2026-11-22", "2026-11-22T15:43Z", "2026-13-22T15:43:18Z", "2026-11-22T15:43:18", "T", "x-T:Z"]
        {
            assert!(timestamp(&quoted(text)).is_err(), "{text}");
        }
    }
}
