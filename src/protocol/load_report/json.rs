//! The notation `JSON`: protobuf's JSON of the message, with what its C++ library takes beyond: quotes of either kind, names without
//! any, a comma behind the last field. An unknown field is a mistake.

use super::{LoadReport, LoadReportError, decimal};
use crate::config::load_metrics::{LoadFamily, LoadNumber};

/// Reads an object. Where a number comes twice the last counts; a name of a metric comes once in each object.
pub(super) fn read(object: &[u8], report: &mut LoadReport) -> Result<(), LoadReportError> {
    let text = std::str::from_utf8(object).map_err(|_| LoadReportError::Json)?;
    let mut reader = Reader { text, at: 0 };
    reader.object(|reader| reader.field(report))?;
    reader.space();
    if reader.at == text.len() { Ok(()) } else { Err(LoadReportError::Json) }
}

enum Field {
    Number(LoadNumber),
    Family(LoadFamily),
    /// Requests per second as a whole number, which nobody tells.
    Rps,
}

/// What a field is by its name, as the message spells it or as JSON does.
fn field(name: &[u8]) -> Option<Field> {
    Some(match name {
        b"application_utilization" | b"applicationUtilization" => {
            Field::Number(LoadNumber::ApplicationUtilization)
        }
        b"cpu_utilization" | b"cpuUtilization" => Field::Number(LoadNumber::CpuUtilization),
        b"mem_utilization" | b"memUtilization" => Field::Number(LoadNumber::MemUtilization),
        b"eps" => Field::Number(LoadNumber::Eps),
        b"rps_fractional" | b"rpsFractional" => Field::Number(LoadNumber::RpsFractional),
        b"named_metrics" | b"namedMetrics" => Field::Family(LoadFamily::NamedMetrics),
        b"utilization" => Field::Family(LoadFamily::Utilization),
        b"request_cost" | b"requestCost" => Field::Family(LoadFamily::RequestCost),
        b"rps" => Field::Rps,
        _ => return None,
    })
}

/// A text that is being read.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// What stands where a number may.
enum Value {
    Null,
    /// As it is written, between these places.
    Number(usize, usize),
    /// Between these places of the report's text.
    Quoted(usize, usize),
}

type Read<T> = Result<T, LoadReportError>;

impl Reader<'_> {
    /// An object whose fields `each` reads, names and all.
    fn object(&mut self, mut each: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        self.space();
        self.expect(b'{')?;
        self.space();
        let mut ends = self.takes(b'}');
        while !ends {
            each(self)?;
            self.space();
            ends = self.takes(b'}');
            if !ends {
                self.expect(b',')?;
                self.space();
                ends = self.takes(b'}');
            }
        }
        Ok(())
    }

    fn field(&mut self, report: &mut LoadReport) -> Read<()> {
        let (start, end) = self.name(&mut report.text)?;
        let field = field(&report.text[start..end]).ok_or(LoadReportError::Json)?;
        match field {
            Field::Number(number) => {
                if let Some(value) = self.double(&mut report.text)? {
                    report.set(number, value);
                }
                Ok(())
            }
            Field::Rps => self.whole_number(&mut report.text),
            Field::Family(_) if self.takes_null() => Ok(()),
            Field::Family(family) => {
                report.named.source += 1;
                self.object(|reader| {
                    let place = reader.name(&mut report.text)?;
                    let value = reader.double(&mut report.text)?.unwrap_or_default();
                    match report.named.set(&report.text, family, place, value)? {
                        true => Err(LoadReportError::Json),
                        false => Ok(()),
                    }
                })
            }
        }
    }

    /// A name and the colon behind it: where it lies in `into`.
    fn name(&mut self, into: &mut Vec<u8>) -> Read<(usize, usize)> {
        let place = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => self.quoted(quote, into)?,
            _ => self.bare_word(into)?,
        };
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(place)
    }

    fn bare_word(&mut self, into: &mut Vec<u8>) -> Read<(usize, usize)> {
        let rest = self.rest();
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let word = &rest[..length];
        if word.first().is_none_or(u8::is_ascii_digit) || [&b"null"[..], b"true", b"false"].contains(&word) {
            return Err(LoadReportError::Json);
        }
        let start = into.len();
        into.extend_from_slice(word);
        self.at += length;
        Ok((start, into.len()))
    }

    /// A string, without its quotes and escapes: where it lies in `into`.
    fn quoted(&mut self, quote: u8, into: &mut Vec<u8>) -> Read<(usize, usize)> {
        self.expect(quote)?;
        let start = into.len();
        loop {
            let rest = self.rest();
            let plain = rest.iter().position(|byte| *byte == quote || *byte == b'\\');
            let plain = plain.ok_or(LoadReportError::Json)?;
            into.extend_from_slice(&rest[..plain]);
            self.at += plain;
            if self.takes(quote) {
                return Ok((start, into.len()));
            }
            self.expect(b'\\')?;
            let escaped = self.next()?;
            into.push(match escaped {
                b'"' | b'\'' | b'\\' | b'/' => escaped,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'u' => {
                    let mut bytes = [0; 4];
                    into.extend_from_slice(self.escaped_char()?.encode_utf8(&mut bytes).as_bytes());
                    continue;
                }
                _ => return Err(LoadReportError::Json),
            });
        }
    }

    /// What follows `\u`: one unit of UTF-16, or two with another `\u` between.
    fn escaped_char(&mut self) -> Read<char> {
        let first = self.unit()?;
        let second = if (0xd800..0xdc00).contains(&first) {
            self.expect(b'\\')?;
            self.expect(b'u')?;
            Some(self.unit()?)
        } else {
            None
        };
        let mut decoded = char::decode_utf16([first].into_iter().chain(second));
        match (decoded.next(), decoded.next()) {
            (Some(Ok(char)), None) => Ok(char),
            _ => Err(LoadReportError::Json),
        }
    }

    fn unit(&mut self) -> Read<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = char::from(self.next()?).to_digit(16).ok_or(LoadReportError::Json)?;
            unit = unit << 4 | digit as u16;
        }
        Ok(unit)
    }

    /// A number, perhaps in quotes, where it may be what JSON has no number for; `None`: null.
    fn double(&mut self, room: &mut Vec<u8>) -> Read<Option<f64>> {
        let value = match self.value(room)? {
            Value::Null => return Ok(None),
            Value::Number(start, end) => {
                decimal(&self.text.as_bytes()[start..end]).filter(|value| value.is_finite())
            }
            Value::Quoted(start, end) => decimal(&room[start..end]),
        };
        value.map(Some).ok_or(LoadReportError::Json)
    }

    /// A number of 64 bits without a sign, perhaps in quotes or written as a broken one.
    fn whole_number(&mut self, room: &mut Vec<u8>) -> Read<()> {
        let text = match self.value(room)? {
            Value::Null => return Ok(()),
            Value::Number(start, end) => &self.text.as_bytes()[start..end],
            Value::Quoted(start, end) => &room[start..end],
        };
        let text = std::str::from_utf8(text).map_err(|_| LoadReportError::Json)?;
        let is_whole = |value: f64| value.trunc() == value && (0.0..TWO_TO_64).contains(&value);
        if text.parse::<u64>().is_ok() || text.parse::<f64>().is_ok_and(is_whole) {
            Ok(())
        } else {
            Err(LoadReportError::Json)
        }
    }

    fn value(&mut self, room: &mut Vec<u8>) -> Read<Value> {
        if self.takes_null() {
            return Ok(Value::Null);
        }
        match self.peek() {
            Some(quote @ (b'"' | b'\'')) => {
                let (start, end) = self.quoted(quote, room)?;
                Ok(Value::Quoted(start, end))
            }
            _ => self.number(),
        }
    }

    /// A number of JSON, which is checked here: Rust's are more.
    fn number(&mut self) -> Read<Value> {
        let start = self.at;
        self.takes(b'-');
        if !self.takes(b'0') {
            self.digits()?;
        }
        if self.takes(b'.') {
            self.digits()?;
        }
        if self.takes(b'e') || self.takes(b'E') {
            let _signed = self.takes(b'+') || self.takes(b'-');
            self.digits()?;
        }
        Ok(Value::Number(start, self.at))
    }

    fn digits(&mut self) -> Read<()> {
        let rest = self.rest();
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        if count > 0 { Ok(()) } else { Err(LoadReportError::Json) }
    }

    fn takes_null(&mut self) -> bool {
        let found = self.rest().starts_with(b"null");
        self.at += if found { b"null".len() } else { 0 };
        found
    }

    fn space(&mut self) {
        let rest = self.rest();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += rest.iter().position(|byte| !is_space(byte)).unwrap_or(rest.len());
    }

    fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Read<()> {
        if self.takes(byte) { Ok(()) } else { Err(LoadReportError::Json) }
    }

    fn next(&mut self) -> Read<u8> {
        let byte = self.peek().ok_or(LoadReportError::Json)?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn rest(&self) -> &[u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }
}

/// The first whole number beyond 64 bits.
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

#[cfg(test)]
mod tests {
    use super::super::LoadReportError as Error;
    use super::super::tests::read;

    #[test]
    fn objects_are_read_as_envoy_reads_them() {
        for (object, expected) in [
            ("{}", ""),
            ("  { } \t", ""),
            (r#"{"cpu_utilization":0.7}"#, "cpu_utilization=0.7"),
            (
                r#"{"cpuUtilization":1,"memUtilization":"2","applicationUtilization":3,"rpsFractional":4,"eps":5}"#,
                "application_utilization=3 cpu_utilization=1 mem_utilization=2 eps=5 rps_fractional=4",
            ),
            (r#"{"eps":1,"eps":2}"#, "eps=2"),
            (r#"{"eps":1,"eps":null}"#, "eps=1"),
            (r#"{"eps":-1}"#, "eps=-1"),
            (r#"{"eps":-0,"cpu_utilization":0}"#, ""),
            (r#"{"eps":1.5e-5,"cpu_utilization":1e+5}"#, "cpu_utilization=100000 eps=0.000015"),
            (r#"{"eps":1e-400}"#, ""),
            (r#"{"eps":" 0.5 "}"#, "eps=0.5"),
            (
                r#"{"eps":"NaN","cpu_utilization":"-Infinity","mem_utilization":"inf"}"#,
                "cpu_utilization=-inf mem_utilization=inf eps=NaN",
            ),
            (r#"{"eps":"1e400"}"#, "eps=inf"),
            (r#"{"eps":"+5"}"#, "eps=5"),
            (r#"{"eps":"\u0031\n"}"#, "eps=1"),
            (r#"{'eps':'1'}"#, "eps=1"),
            ("{ eps : 1 , }", "eps=1"),
            (r#"{"\u0065ps":1}"#, "eps=1"),
            (r#"{"named_metrics":null,"utilization":{}}"#, ""),
            (r#"{"named_metrics":{"a":null,"":1}}"#, "named_metrics.a=0 named_metrics.=1"),
            (
                r#"{"named_metrics":{"a":1},"namedMetrics":{"a":2,b:"3",}}"#,
                "named_metrics.a=2 named_metrics.b=3",
            ),
            (r#"{"utilization":{"a":1},"requestCost":{"a":2}}"#, "utilization.a=1 request_cost.a=2"),
            (r#"{"named_metrics":{nullx:1,_a1:2}}"#, "named_metrics.nullx=1 named_metrics._a1=2"),
            (
                r#"{"named_metrics":{'a"b':1,"a'b":2,"a\'c":3}}"#,
                r#"named_metrics.a\"b=1 named_metrics.a\'b=2 named_metrics.a\'c=3"#,
            ),
            (r#"{"named_metrics":{"\/\\\b\f\r\t\u0000":1}}"#, r"named_metrics./\\\x08\x0c\r\t\x00=1"),
            (
                r#"{"named_metrics":{"\ud83d\ude00\u00E9é":1}}"#,
                r"named_metrics.\xf0\x9f\x98\x80\xc3\xa9\xc3\xa9=1",
            ),
            ("{\"named_metrics\":{\"a\tb\":1}}", r"named_metrics.a\tb=1"),
        ] {
            assert_eq!(read(&format!("JSON {object}")), Ok(expected.to_owned()), "{object}");
        }
    }

    #[test]
    fn whole_number_that_nobody_tells_must_be_one() {
        for value in
            ["5", "\"5\"", "1e3", "\"1e3\"", "1.0", "-0", "null", "18446744073709551615", "\"+5\"", "\"5.0\""]
        {
            assert_eq!(read(&format!("JSON {{rps:{value}}}")), Ok(String::new()), "{value}");
        }
        for value in [
            "5.5",
            "-1",
            "18446744073709551616",
            "1e-3",
            "\"\"",
            "\" 5\"",
            "true",
            "01",
            "[]",
            "\"nan\"",
            "\"inf\"",
        ] {
            assert_eq!(read(&format!("JSON {{rps:{value}}}")), Err(Error::Json), "{value}");
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused_whole() {
        for object in [
            "",
            "[]",
            "null",
            "1",
            "true",
            "\"eps\"",
            "{",
            "{'a",
            "{} x",
            "{}{}",
            "{,}",
            "{eps:1,,}",
            "{eps:1",
            "/*x*/{}",
            r#"{"eps":1 "rps":2}"#,
            r#"{"eps":1 /*x*/}"#,
            r#"{"eps"}"#,
            r#"{"eps":}"#,
            r#"{"eps":1,"eps"}"#,
            r#"{"other":1}"#,
            r#"{"EPS":1}"#,
            r#"{"cpu-utilization":1}"#,
            r#"{"@type":"x"}"#,
            r#"{"7":1}"#,
            "{true:1}",
            "{$eps:1}",
            r#"{"eps":NaN}"#,
            r#"{"eps":01}"#,
            r#"{"eps":00}"#,
            r#"{"eps":-01}"#,
            r#"{"eps":.5}"#,
            r#"{"eps":-.5}"#,
            r#"{"eps":+5}"#,
            r#"{"eps":5.}"#,
            r#"{"eps":1e400}"#,
            r#"{"eps":-}"#,
            r#"{"eps":1e}"#,
            r#"{"eps":1e+}"#,
            r#"{"eps":1a}"#,
            r#"{"eps":1.2.3}"#,
            r#"{"eps":0x10}"#,
            r#"{"eps":true}"#,
            r#"{"eps":""}"#,
            r#"{"eps":" "}"#,
            r#"{"eps":{}}"#,
            r#"{"eps":[1]}"#,
            r#"{"eps":nul}"#,
            r#"{"eps":nullx}"#,
            r#"{"named_metrics":[]}"#,
            r#"{"named_metrics":"x"}"#,
            r#"{"named_metrics":1}"#,
            r#"{"named_metrics":{,}}"#,
            r#"{"named_metrics":{"a":1,"a":2}}"#,
            r#"{"named_metrics":{"":1,"":2}}"#,
            r#"{"named_metrics":{"a":{}}}"#,
            r#"{"named_metrics":{"a":true}}"#,
            r#"{"named_metrics":{"a":"x"}}"#,
            r#"{"named_metrics":{"a":NaN}}"#,
            r#"{"named_metrics":{1:1}}"#,
            r#"{"named_metrics":{null:1}}"#,
            r#"{"named_metrics":{a.b:1}}"#,
            r#"{"named_metrics":{a-b:1}}"#,
            r#"{"named_metrics":{"\x41":1}}"#,
            r#"{"named_metrics":{"\v":1}}"#,
            r#"{"named_metrics":{"\u12":1}}"#,
            r#"{"named_metrics":{"\ud83d":1}}"#,
            r#"{"named_metrics":{"\udc00":1}}"#,
            r#"{"named_metrics":{"\ud83d\u0041":1}}"#,
            r#"{"named_metrics":{"a":1},"named_metrics":{"b":1,"b":2}}"#,
            r#"{"named_metrics":{"a":1},"named_metrics":{"a":1,"a":2}}"#,
        ] {
            assert_eq!(read(&format!("JSON {object}")), Err(Error::Json), "{object}");
        }
    }
}
