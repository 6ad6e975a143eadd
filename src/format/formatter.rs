//! [`Formatter`]: a format string compiled, for log lines, bodies and header values.

use super::context::FormatContext;
use super::error::FormatError;
use super::operator::{Operator, Written};
use super::parse::{Parsed, Part, parse};
use super::text::escape_json;

/// Envoy's default access-log format.
/// Source: Envoy, "Access logging", default format string.
pub const DEFAULT_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n",
);

/// A compiled format string.
#[derive(Debug, Clone)]
pub struct Formatter {
    parts: Box<[Part]>,
    /// What an operator without a value writes: `-`, or nothing.
    absent: &'static [u8],
    without_value: Box<[Box<str>]>,
}

impl Formatter {
    /// Compiles a format string; operators without a value will write `-`.
    ///
    /// # Errors
    /// At a percent sign that begins no operator, and at operators that Envoy does not know or whose
    /// parameters it refuses.
    pub fn parse(format: &str) -> Result<Self, FormatError> {
        let Parsed { parts, without_value } = parse(format)?;
        Ok(Self {
            parts: parts.into_boxed_slice(),
            absent: b"-",
            without_value: without_value.into_boxed_slice(),
        })
    }

    /// Makes operators without a value write nothing: `omit_empty_values`, and all header values.
    #[must_use]
    pub fn omitting_empty(mut self) -> Self {
        self.absent = b"";
        self
    }

    /// Appends the text for this request.
    pub fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Operator(operator) => {
                    if operator.write(context, out) == Written::Absent {
                        out.extend_from_slice(self.absent);
                    }
                }
            }
        }
    }

    /// Appends the text as the inside of a JSON string. Each operator's value is escaped on its own, so
    /// that one that is not UTF-8 does not change how the others are written.
    pub(super) fn write_json(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            let start = out.len();
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Operator(operator) => {
                    if operator.write(context, out) == Written::Absent {
                        out.extend_from_slice(self.absent);
                    }
                }
            }
            escape_json(out, start);
        }
    }

    /// The text, if it is the same for every request.
    pub fn constant(&self) -> Option<&[u8]> {
        match &*self.parts {
            [] => Some(b""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The operator, if the format is nothing else: JSON then keeps its type.
    pub(super) fn single_operator(&self) -> Option<&Operator> {
        match &*self.parts {
            [Part::Operator(operator)] => Some(operator),
            _ => None,
        }
    }

    /// The operators of the format, as written, that never have a value here although they could have
    /// one in Envoy: `CEL`, the metadata of routes, clusters, hosts and listeners, some of TLS, some times.
    pub fn without_value(&self) -> impl Iterator<Item = &str> {
        self.without_value.iter().map(|operator| &**operator)
    }
}
