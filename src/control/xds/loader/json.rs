//! JSON text to tree.
//!
//! JSON as Envoy's protobuf reads it, which is a little more than the standard: single quotes, unquoted keys,
//! a comma behind the last element, control characters within strings. Refused although Envoy takes them:
//! keys that stand twice.
use super::tree::{Entry, Mark, Node, TextError, Value, refuse_duplicate_keys};
use crate::base::limits::CONFIG_DEPTH_MAX;

/// Reads one value, which must be the whole text.
///
/// # Errors
/// What is wrong with the text: one mistake if it is no JSON, else all the repeated keys.
pub(super) fn parse(text: &str) -> Result<Node, Vec<TextError>> {
    let mut parser = Parser { rest: text, at: Mark { line: 1, column: 1 }, errors: Vec::new() };
    let root = parser.value(1).and_then(|root| {
        parser.skip_space();
        if parser.rest.is_empty() { Ok(root) } else { Err(parser.error("something follows the value")) }
    });
    match root {
        Ok(root) if parser.errors.is_empty() => Ok(root),
        Ok(_) => Err(parser.errors),
        Err(error) => {
            parser.errors.push(error);
            Err(parser.errors)
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    at: Mark,
    /// Mistakes that do not stop the reading.
    errors: Vec<TextError>,
}

impl<'a> Parser<'a> {
    fn error(&self, reason: impl std::fmt::Display) -> TextError {
        TextError::new(self.at, format!("not JSON: {reason}"))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Takes `bytes` bytes, which end at a character.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        match taken.rsplit_once('\n') {
            Some((before, last)) => {
                self.at.line += 1 + before.matches('\n').count() as u32;
                self.at.column = 1 + last.chars().count() as u32;
            }
            None => self.at.column += taken.chars().count() as u32,
        }
        taken
    }

    fn take_while(&mut self, test: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !test(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn skip_space(&mut self) {
        self.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
    }

    /// Takes `c` behind white space, if it comes next.
    fn accept(&mut self, c: char) -> bool {
        self.skip_space();
        let found = self.peek() == Some(c);
        if found {
            self.take(c.len_utf8());
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Node, TextError> {
        self.skip_space();
        let mark = self.at;
        let value = match self.peek() {
            Some('{' | '[') if depth > CONFIG_DEPTH_MAX => {
                return Err(TextError::new(
                    mark,
                    format!("more than {CONFIG_DEPTH_MAX} objects and lists within one another"),
                ));
            }
            Some('{') => self.map(depth)?,
            Some('[') => self.list(depth)?,
            Some('"' | '\'') => Value::Text(self.string()?.into()),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z') => match self.take_while(|c| c.is_ascii_alphanumeric() || c == '_') {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                word => return Err(TextError::new(mark, format!("not JSON: \"{word}\" needs quotes"))),
            },
            Some(c) => return Err(self.error(format_args!("'{}' where a value is due", c.escape_debug()))),
            None => return Err(self.error("the text ends where a value is due")),
        };
        Ok(Node { mark, value })
    }

    fn list(&mut self, depth: usize) -> Result<Value, TextError> {
        self.take(1);
        let mut elements = Vec::new();
        while !self.accept(']') {
            if !elements.is_empty() {
                self.comma(']')?;
                if self.accept(']') {
                    break;
                }
            }
            elements.push(self.value(depth + 1)?);
        }
        Ok(Value::List(elements))
    }

    fn map(&mut self, depth: usize) -> Result<Value, TextError> {
        self.take(1);
        let mut entries = Vec::new();
        while !self.accept('}') {
            if !entries.is_empty() {
                self.comma('}')?;
                if self.accept('}') {
                    break;
                }
            }
            self.skip_space();
            let mark = self.at;
            let key = self.key()?;
            if !self.accept(':') {
                return Err(self.error("a ':' is due behind the key"));
            }
            entries.push(Entry { mark, key: key.into(), node: self.value(depth + 1)? });
        }
        refuse_duplicate_keys(&entries, &mut self.errors);
        Ok(Value::Map(entries))
    }

    fn comma(&mut self, end: char) -> Result<(), TextError> {
        if self.accept(',') { Ok(()) } else { Err(self.error(format_args!("',' or '{end}' is due"))) }
    }

    fn key(&mut self) -> Result<String, TextError> {
        match self.peek() {
            Some('"' | '\'') => self.string(),
            Some(c) if c.is_ascii_alphabetic() || c == '_' || c == '$' => {
                let mark = self.at;
                match self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$') {
                    word @ ("true" | "false" | "null") => {
                        Err(TextError::new(mark, format!("not JSON: {word} is no key")))
                    }
                    word => Ok(word.to_owned()),
                }
            }
            _ => Err(self.error("a key is due")),
        }
    }

    fn number(&mut self) -> Result<Value, TextError> {
        let start = self.at;
        let text = self.take_while(|c| matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'));
        if is_number(text) && text.parse::<f64>().is_ok_and(f64::is_finite) {
            Ok(Value::Number(text.into()))
        } else {
            Err(TextError::new(start, format!("not JSON: {text} is no number")))
        }
    }

    fn string(&mut self) -> Result<String, TextError> {
        let start = self.at;
        let quote = if self.take(1) == "'" { '\'' } else { '"' };
        let mut out = String::new();
        loop {
            out.push_str(self.take_while(|c| c != quote && c != '\\'));
            match self.peek() {
                Some('\\') => {
                    self.take(1);
                    let escaped = self.escape()?;
                    out.push(escaped);
                }
                Some(_) => {
                    self.take(1);
                    return Ok(out);
                }
                None => return Err(TextError::new(start, "not JSON: a string without end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, TextError> {
        let Some(c) = self.peek() else { return Err(self.error("the text ends within a string")) };
        let simple = match c {
            '"' | '\'' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' | 'U' => {
                self.take(1);
                return self.unicode_escape();
            }
            _ => return Err(self.error(format_args!("no escape \\{}", c.escape_debug()))),
        };
        self.take(1);
        Ok(simple)
    }

    fn unicode_escape(&mut self) -> Result<char, TextError> {
        let first = self.hex4()?;
        let code = match first {
            0xd800..=0xdbff => {
                if !self.rest.starts_with("\\u") {
                    return Err(self.error("half a surrogate pair"));
                }
                self.take(2);
                match self.hex4()? {
                    second @ 0xdc00..=0xdfff => 0x10000 + ((first & 0x3ff) << 10 | second & 0x3ff),
                    _ => return Err(self.error("half a surrogate pair")),
                }
            }
            _ => first,
        };
        char::from_u32(code).ok_or_else(|| self.error("half a surrogate pair"))
    }

    fn hex4(&mut self) -> Result<u32, TextError> {
        match self.rest.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
            Some(digits) => {
                self.take(4);
                // Four hexadecimal digits, checked above.
                Ok(u32::from_str_radix(digits, 16).unwrap_or_default())
            }
            None => Err(self.error("\\u needs four hexadecimal digits")),
        }
    }
}

/// JSON's grammar of a number.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    digits(whole)
        && !(whole.len() > 1 && whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        parse(json).unwrap().text().unwrap().to_owned()
    }

    #[test]
    fn values_and_positions_are_read() {
        let root = parse("{\"a\": 1.0,\n \"b\": [true, null]}").unwrap();
        assert_eq!(root.entry("a").unwrap().value, Value::Number("1.0".into()));
        assert_eq!(root.entries()[1].mark, Mark { line: 2, column: 2 });
        let Value::List(elements) = &root.entry("b").unwrap().value else { panic!() };
        assert_eq!(elements[1], Node { mark: Mark { line: 2, column: 14 }, value: Value::Null });
    }

    #[test]
    fn leniencies_of_protobuf_are_kept() {
        let strict = parse(r#"{"a": ["b"], "c": {}}"#).unwrap();
        let lenient = parse("{a: ['b',], $c: {},}").unwrap();
        assert_eq!(lenient.entry("a").unwrap().entry("b"), strict.entry("a").unwrap().entry("b"));
        assert!(lenient.entry("$c").is_some());
        assert_eq!(text("\"tab\there\nnewline\""), "tab\there\nnewline");
    }

    #[test]
    fn escapes_are_decoded() {
        assert_eq!(text(r#""\"\\\/\b\f\n\r\t\'""#), "\"\\/\u{8}\u{c}\n\r\t'");
        assert_eq!(text(r#""\u00e9\ud83d\ude00""#), "é😀");
        assert_eq!(text("'it is \"so\"'"), "it is \"so\"");
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        for (json, column) in [
            ("", 1),
            ("{} x", 4),
            ("{\"a\":1 /* x */}", 8),
            ("# x", 1),
            ("{\"a\":.5}", 6),
            ("{\"a\":NaN}", 6),
            ("{\"a\":truex}", 6),
            ("{\"a\":010}", 6),
            ("{\"a\":1.}", 6),
            ("{\"a\":1e999}", 6),
            ("{\"a\":\"\\x41\"}", 8),
            ("{\"a\":\"\\ud83d\"}", 13),
            ("{\"a\":\"\\udc00\"}", 13),
            ("{\"a\":\"\\u12\"}", 9),
            ("{\"a\":\"b}", 6),
            ("{\"a\" 1}", 6),
            ("{true: 1}", 2),
            ("{,}", 2),
            ("[1 2]", 4),
            ("[", 2),
            ("\u{feff}{}", 1),
        ] {
            let errors = parse(json).unwrap_err();
            assert_eq!((errors.len(), errors[0].mark.column), (1, column), "{json}: {errors:?}");
        }
    }

    #[test]
    fn repeated_keys_and_depth_are_refused() {
        assert_eq!(parse(r#"{"a": 1, "b": {"c": 1, "c": 2}, "a": 2}"#).unwrap_err().len(), 2);
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(CONFIG_DEPTH_MAX)).is_ok());
        assert!(parse(&nested(100_000)).is_err());
    }
}
