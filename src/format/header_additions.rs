//! [`HeaderAdditions`]: headers to add or set, their values written by formats.
//!
//! Values are evaluated on the head as it was, then put: first those that replace, then those that are
//! added, as in Envoy, so that one addition does not see another.

use crate::base::heaps;
use crate::config::error::ConfigError;
use crate::config::route::{HeaderAppendAction, HeaderValueOption};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;

use super::context::FormatContext;
use super::formatter::Formatter;

/// A list of headers to add or set, compiled.
#[derive(Debug, Clone, Default)]
pub struct HeaderAdditions(Box<[HeaderAddition]>);

#[derive(Debug, Clone)]
struct HeaderAddition {
    name: HeaderName,
    value: Formatter,
    action: HeaderAppendAction,
    keep_empty: bool,
}

/// What evaluating additions writes to; one per core.
#[derive(Debug, Default)]
pub struct HeaderScratch {
    values: Vec<u8>,
    found: Vec<Found>,
}

impl HeaderScratch {
    /// Room that is kept, in bytes and additions.
    const ROOM: (usize, usize) = (256, 16);

    /// Gives back what it has grown to.
    pub fn settle(&mut self) {
        heaps::settle_scratch(&mut self.values, Self::ROOM.0);
        heaps::settle_scratch(&mut self.found, Self::ROOM.1);
    }
}

/// A value that is to be put: of the addition at `index`, ending at `end` of the values.
#[derive(Debug, Clone, Copy)]
struct Found {
    index: usize,
    end: usize,
    replaces: bool,
}

impl HeaderAdditions {
    /// Compiles a list; `path` is its field path.
    ///
    /// # Errors
    /// When a name is no header's that may be changed, or a value is no format string.
    pub fn compile(config: &[HeaderValueOption], path: &str) -> Result<Self, ConfigError> {
        let compile = |(index, option): (usize, &HeaderValueOption)| {
            let HeaderValueOption { key, value, append_action, keep_empty_value } = option;
            let failed = |field: &str, reason: String| {
                ConfigError::new(format!("{path}[{index}].header.{field}"), reason)
            };
            let name = modifiable(key).map_err(|reason| failed("key", reason.into()))?;
            let value = header_value(value).map_err(|error| failed("value", error.to_string()))?;
            Ok(HeaderAddition { name, value, action: *append_action, keep_empty: *keep_empty_value })
        };
        config.iter().enumerate().map(compile).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluates the values for `head`, which [`Self::put`] changes afterwards. A value that comes out
    /// empty is not put, unless the configuration keeps it.
    pub fn evaluate(&self, context: &FormatContext<'_>, head: &Head, scratch: &mut HeaderScratch) {
        let HeaderScratch { values, found } = scratch;
        values.clear();
        found.clear();
        for (index, addition) in self.0.iter().enumerate() {
            let replaces = match addition.action {
                HeaderAppendAction::AppendIfExistsOrAdd => false,
                HeaderAppendAction::AddIfAbsent if head.contains(&addition.name) => continue,
                HeaderAppendAction::AddIfAbsent => false,
                HeaderAppendAction::OverwriteIfExists if !head.contains(&addition.name) => continue,
                HeaderAppendAction::OverwriteIfExists | HeaderAppendAction::OverwriteIfExistsOrAdd => true,
            };
            let start = values.len();
            addition.value.write(context, values);
            // Parts of a query or the environment may hold what would end the header.
            for byte in &mut values[start..] {
                if matches!(byte, b'\r' | b'\n' | b'\0') {
                    *byte = b' ';
                }
            }
            if values.len() > start || addition.keep_empty {
                found.push(Found { index, end: values.len(), replaces });
            } else {
                values.truncate(start);
            }
        }
    }

    /// Puts the evaluated values into the head.
    pub fn put(&self, head: &mut Head, scratch: &HeaderScratch) {
        for replacing in [true, false] {
            let mut start = 0;
            for Found { index, end, replaces } in &scratch.found {
                let value = &scratch.values[start..*end];
                start = *end;
                if let Some(addition) = self.0.get(*index).filter(|_| *replaces == replacing) {
                    if replacing {
                        head.set(&addition.name, value);
                    } else {
                        head.append(&addition.name, value);
                    }
                }
            }
        }
    }
}

/// The name, if header changes may touch it: rewriting path and host is the route action's own business.
///
/// # Errors
/// What the name is instead.
pub fn modifiable(name: &str) -> Result<HeaderName, &'static str> {
    match HeaderName::parse(name.as_bytes()) {
        Some(name) if !name.is_pseudo() => Ok(name),
        Some(_) => Err("`:`-prefixed headers and host may not be changed or removed"),
        None if name.starts_with(':') => Err("`:`-prefixed headers and host may not be changed or removed"),
        None => Err("not a header name"),
    }
}

/// A header value's format: without a value nothing is written, and the old name of `FILTER_STATE` is
/// understood, as in Envoy.
fn header_value(text: &str) -> Result<Formatter, super::error::FormatError> {
    let text = text.replace("%PER_REQUEST_STATE(", "%FILTER_STATE(");
    Formatter::parse(&text).map(Formatter::omitting_empty)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Example, header};
    use super::*;
    use HeaderAppendAction::*;

    fn option(key: &str, value: &str, append_action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption { key: key.into(), value: value.into(), append_action, keep_empty_value: false }
    }

    fn applied(options: &[HeaderValueOption]) -> Vec<String> {
        let additions = HeaderAdditions::compile(options, "add").unwrap();
        let example = Example::new();
        let mut head = Head::new();
        header(&mut head, "a", b"1");
        header(&mut head, "a", b"2");
        header(&mut head, "b", b"3");
        let mut scratch = HeaderScratch::default();
        for _ in 0..2 {
            additions.evaluate(&example.context(), &head, &mut scratch);
        }
        additions.put(&mut head, &scratch);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        head.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect()
    }

    #[test]
    fn actions_append_add_or_overwrite() {
        let table: [(&[HeaderValueOption], &[&str]); 6] = [
            (&[option("a", "x", AppendIfExistsOrAdd)], &["a=1", "a=2", "b=3", "a=x"]),
            (&[option("a", "x", AddIfAbsent), option("c", "x", AddIfAbsent)], &["a=1", "a=2", "b=3", "c=x"]),
            (&[option("a", "x", OverwriteIfExistsOrAdd)], &["a=x", "b=3"]),
            (&[option("c", "x", OverwriteIfExistsOrAdd)], &["a=1", "a=2", "b=3", "c=x"]),
            (
                &[option("c", "x", OverwriteIfExists), option("b", "y", OverwriteIfExists)],
                &["a=1", "a=2", "b=y"],
            ),
            // The one that replaces goes first, wherever it stands.
            (
                &[option("a", "x", AppendIfExistsOrAdd), option("a", "y", OverwriteIfExistsOrAdd)],
                &["a=y", "b=3", "a=x"],
            ),
        ];
        for (options, expected) in table {
            assert_eq!(applied(options), expected, "{options:?}");
        }
    }

    #[test]
    fn values_are_formats_and_empty_ones_are_left_out() {
        let mut kept = option("e", "%REQ(x-none)%", AppendIfExistsOrAdd);
        kept.keep_empty_value = true;
        let options = [
            option("c", "%PROTOCOL% 100%% %REQ(x-none)%.", AppendIfExistsOrAdd),
            option("d", "%REQ(x-none)%", AppendIfExistsOrAdd),
            kept,
            option("f", "%PER_REQUEST_STATE(x)%%BYTES_SENT%", AppendIfExistsOrAdd),
            option("g", "a\r\nb: c", AppendIfExistsOrAdd),
        ];
        assert_eq!(applied(&options), ["a=1", "a=2", "b=3", "c=HTTP/1.1 100% .", "e=", "f=8", "g=a  b: c"]);
    }

    #[test]
    fn wrong_names_and_values_are_errors_with_their_path() {
        for (key, value, path) in [
            ("a b", "x", "add[1].header.key"),
            (":status", "x", "add[1].header.key"),
            ("host", "x", "add[1].header.key"),
            ("a", "50%", "add[1].header.value"),
        ] {
            let options = [option("a", "x", AddIfAbsent), option(key, value, AddIfAbsent)];
            assert_eq!(HeaderAdditions::compile(&options, "add").unwrap_err().path, path);
        }
    }
}
