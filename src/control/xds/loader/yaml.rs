//! YAML text to tree, with the reading of scalars that Envoy has.
//!
//! Envoy reads YAML with yaml-cpp and turns each plain scalar into a boolean, an integer or a string, before
//! any field is known; a fraction stays a string. That is repeated here to the letter, `y` and octal `010`
//! included, since `name: no` must be refused by both. Refused although Envoy takes them: keys that stand
//! twice and documents behind the first, which it drops silently.
use super::tree::{Entry, Mark, Node, TextError, Value, refuse_duplicate_keys};
use crate::base::limits::{CONFIG_ALIASED_VALUES_MAX, CONFIG_DEPTH_MAX};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Reads one document.
///
/// # Errors
/// What is wrong with the text: one mistake if it is no YAML, else all the repeated keys.
pub(super) fn parse(text: &str) -> Result<Node, Vec<TextError>> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        anchors: HashMap::new(),
        aliased_values: 0,
        errors: Vec::new(),
    };
    match builder.document() {
        Ok(root) if builder.errors.is_empty() => Ok(root),
        Ok(_) => Err(builder.errors),
        Err(error) => {
            builder.errors.push(error);
            Err(builder.errors)
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Values that aliases may refer to.
    anchors: HashMap<usize, Node>,
    /// How many values aliases have added so far.
    aliased_values: usize,
    /// Mistakes that do not stop the reading.
    errors: Vec<TextError>,
}

fn mark(span: &Span) -> Mark {
    Mark { line: span.start.line() as u32, column: span.start.col() as u32 + 1 }
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), TextError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, mark(&span))),
            Some(Err(error)) => {
                let at = error.marker();
                let at = Mark { line: at.line() as u32, column: at.col() as u32 + 1 };
                Err(TextError::new(at, format!("not YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Mark { line: 1, column: 1 })),
        }
    }

    fn document(&mut self) -> Result<Node, TextError> {
        let mut root = Node { mark: Mark { line: 1, column: 1 }, value: Value::Null };
        let mut documents = 0;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), at) => {
                    documents += 1;
                    if documents > 1 {
                        let reason = "a second YAML document begins here; only one is read";
                        return Err(TextError::new(at, reason));
                    }
                }
                (Event::StreamStart | Event::DocumentEnd | Event::Nothing, _) => {}
                (event, at) => root = self.node(event, at, 1)?,
            }
        }
    }

    /// The value that begins with `event`; `depth` counts it, if it is a container.
    fn node(&mut self, event: Event<'a>, at: Mark, depth: usize) -> Result<Node, TextError> {
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(text, style, tag), anchor),
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            Event::SequenceStart(anchor, _) => (self.list(at, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(at, depth)?, anchor),
            // The parser emits nothing else where a value is due.
            _ => return Err(TextError::new(at, "not YAML: a value is missing")),
        };
        let node = Node { mark: at, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, at: Mark, depth: usize) -> Result<Node, TextError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(TextError::new(at, "an alias within the value it refers to"));
        };
        self.aliased_values += node.count();
        if self.aliased_values > CONFIG_ALIASED_VALUES_MAX {
            let reason = format!("aliases add more than {CONFIG_ALIASED_VALUES_MAX} values");
            return Err(TextError::new(at, reason));
        }
        if depth + nesting(node) > CONFIG_DEPTH_MAX + 1 {
            return Err(too_deep(at));
        }
        Ok(Node { mark: at, value: node.value.clone() })
    }

    fn list(&mut self, at: Mark, depth: usize) -> Result<Value, TextError> {
        if depth > CONFIG_DEPTH_MAX {
            return Err(too_deep(at));
        }
        let mut elements = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(elements)),
                (event, at) => elements.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn map(&mut self, at: Mark, depth: usize) -> Result<Value, TextError> {
        if depth > CONFIG_DEPTH_MAX {
            return Err(too_deep(at));
        }
        let mut entries = Vec::new();
        loop {
            let (event, key_mark) = self.next()?;
            let (key, ignored) = match event {
                Event::MappingEnd => {
                    refuse_duplicate_keys(&entries, &mut self.errors);
                    return Ok(Value::Map(entries));
                }
                Event::Scalar(text, style, anchor, tag) => {
                    let ignored = tag.as_ref().is_some_and(|tag| is_local(tag, "ignore"));
                    let value = scalar(text.clone(), style, tag);
                    if anchor != 0 {
                        self.anchors.insert(anchor, Node { mark: key_mark, value: value.clone() });
                    }
                    // A key is its text whatever it would be as a value, but nothing at all reads "null".
                    (if value == Value::Null { "null".into() } else { text }, ignored)
                }
                Event::Alias(anchor) => match self.anchors.get(&anchor).map(|node| &node.value) {
                    Some(Value::Text(text) | Value::Number(text)) => (Cow::Owned(text.to_string()), false),
                    _ => return Err(TextError::new(key_mark, "a key must be a string")),
                },
                _ => return Err(TextError::new(key_mark, "a key must be a string")),
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            if !ignored {
                entries.push(Entry { mark: key_mark, key: key.into(), node });
            }
        }
    }
}

fn too_deep(at: Mark) -> TextError {
    TextError::new(at, format!("more than {CONFIG_DEPTH_MAX} objects and lists within one another"))
}

/// Containers within one another in `node`, itself included.
fn nesting(node: &Node) -> usize {
    match &node.value {
        Value::List(elements) => 1 + elements.iter().map(nesting).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|entry| nesting(&entry.node)).max().unwrap_or(0),
        _ => 0,
    }
}

fn is_local(tag: &Tag, name: &str) -> bool {
    tag.handle == "!" && tag.suffix == name
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<Cow<'_, Tag>>) -> Value {
    match (tag, style) {
        // `! 5` is the text "5"; any other tag changes nothing, it even makes a quoted "5" a number.
        (Some(tag), _) if tag.handle.is_empty() && tag.suffix == "!" => Value::Text(text.into()),
        (Some(_), _) => tagged_value(&text),
        (None, ScalarStyle::Plain) => plain_value(&text),
        (None, _) => Value::Text(text.into()),
    }
}

/// What an unquoted scalar stands for.
pub(super) fn plain_value(text: &str) -> Value {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") { Value::Null } else { tagged_value(text) }
}

fn tagged_value(text: &str) -> Value {
    if let Some(value) = boolean(text) {
        return Value::Bool(value);
    }
    match integer(text) {
        Some(value) if i32::try_from(value).is_ok() => Value::Number(value.to_string().into()),
        // Envoy hands larger ones on as strings, in decimal.
        Some(value) => Value::Text(value.to_string().into()),
        None => Value::Text(text.into()),
    }
}

fn boolean(text: &str) -> Option<bool> {
    let all = |test: fn(&u8) -> bool| text.as_bytes().iter().all(test);
    let capitalised = text
        .as_bytes()
        .split_first()
        .is_some_and(|(first, rest)| first.is_ascii_uppercase() && rest.iter().all(u8::is_ascii_lowercase));
    if text.len() > 5 || !(capitalised || all(u8::is_ascii_lowercase) || all(u8::is_ascii_uppercase)) {
        return None;
    }
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// Decimal, `0x` hexadecimal or octal with a leading zero.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        parse(&format!("k: {text}")).unwrap().entry("k").unwrap().value.clone()
    }

    fn reasons(text: &str) -> Vec<(u32, u32, String)> {
        let errors = parse(text).unwrap_err();
        errors.into_iter().map(|error| (error.mark.line, error.mark.column, error.reason)).collect()
    }

    #[test]
    fn plain_scalars_are_read_as_yaml_cpp_reads_them() {
        for text in ["y", "Y", "yes", "Yes", "YES", "true", "TRUE", "on", "On", "ON"] {
            assert_eq!(value(text), Value::Bool(true), "{text}");
        }
        for text in ["n", "No", "false", "off"] {
            assert_eq!(value(text), Value::Bool(false), "{text}");
        }
        for (text, number) in [
            ("5", "5"),
            ("+5", "5"),
            ("-5", "-5"),
            ("0x1F", "31"),
            ("-0x10", "-16"),
            ("010", "8"),
            ("0", "0"),
        ] {
            assert_eq!(value(text), Value::Number(number.into()), "{text}");
        }
        for text in [
            "1.5",
            "1e5",
            "08",
            "1_000",
            "0x",
            "0o17",
            "oN",
            "tRUE",
            "12abc",
            ".inf",
            "+-5",
            "2020-01-01",
            "18446744073709551616",
        ] {
            assert_eq!(value(text), Value::Text(text.into()), "{text}");
        }
        assert_eq!(value("5000000000"), Value::Text("5000000000".into()));
        assert_eq!(value("0x7fffffffffffffff"), Value::Text("9223372036854775807".into()));
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(value(text), Value::Null, "{text}");
        }
    }

    #[test]
    fn quotes_and_the_empty_tag_make_text_other_tags_do_not() {
        for text in ["\"5\"", "'5'", "|-\n  5", "! 5"] {
            assert_eq!(value(text), Value::Text("5".into()), "{text}");
        }
        assert_eq!(value("!!str 5"), Value::Number("5".into()));
        assert_eq!(value("!!str null"), Value::Text("null".into()));
        assert_eq!(value("\"null\""), Value::Text("null".into()));
    }

    #[test]
    fn positions_are_those_of_keys_and_values() {
        let root = parse("a:\n  b: [x, yy]\n").unwrap();
        let entry = &root.entries()[0].node.entries()[0];
        assert_eq!((entry.mark, entry.node.mark), (Mark { line: 2, column: 3 }, Mark { line: 2, column: 6 }));
        let Value::List(elements) = &entry.node.value else { panic!() };
        assert_eq!(elements[1].mark, Mark { line: 2, column: 10 });
    }

    #[test]
    fn ignored_key_is_left_out() {
        let root = parse("!ignore parts: &p {a: 1}\nb: *p\n").unwrap();
        assert_eq!(root.entries().len(), 1);
        assert_eq!(root.entry("b").unwrap().entry("a").unwrap().value, Value::Number("1".into()));
        assert_eq!(&*parse("~: x").unwrap().entries()[0].key, "null");
    }

    #[test]
    fn repeated_keys_are_all_reported() {
        assert_eq!(
            reasons("a: 1\nb: {c: 1, c: 2}\na: 2\n"),
            [
                (2, 11, "\"c\" stands twice in this object, first on line 2".into()),
                (3, 1, "\"a\" stands twice in this object, first on line 1".into()),
            ]
        );
    }

    #[test]
    fn second_document_is_refused() {
        assert_eq!(reasons("a: 1\n---\nb: 2\n")[0].0, 2);
        assert!(parse("---\na: 1\n").is_ok());
        assert!(parse("%YAML 1.1\n---\na: 1\n...\n").is_ok());
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        for text in
            ["a: {b: 1", "a: *x", "? [a]\n: 1", "a: @x", "a: `x", "a:\n\tb: 1", "a: [1", "a: \"x", "a: b: c"]
        {
            let found = reasons(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let alias = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
        }
        assert!(reasons(&bomb)[0].2.starts_with("aliases add more than"));
        assert_eq!(
            reasons(&format!("a: {}", "[".repeat(100_000)))[0].2,
            "not YAML: recursion limit exceeded"
        );
        assert!(reasons(&"- ".repeat(10_000))[0].2.contains("within one another"));
        let deep = format!(
            "a: &x {}{}\nb: {}*x{}\n",
            "[".repeat(60),
            "]".repeat(60),
            "[".repeat(60),
            "]".repeat(60)
        );
        assert!(reasons(&deep)[0].2.contains("within one another"));
        assert_eq!(reasons("a: &x [*x]").len(), 1);
    }

    #[test]
    fn depth_is_envoys() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(CONFIG_DEPTH_MAX)).is_ok());
        assert!(parse(&nested(CONFIG_DEPTH_MAX + 1)).is_err());
    }
}
