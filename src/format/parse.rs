//! The grammar of format strings: literals and command operators.
//!
//! `%NAME%`, `%NAME(PARAMETERS)%`, `%NAME(PARAMETERS):LENGTH%`, and `%%` for a percent sign. Parameters
//! reach to the first parenthesis behind which the operator can end, so they may hold parentheses, but no
//! newline. What is accepted and refused was compared with Envoy 1.40, operator by operator.

use super::error::{FormatError, FormatErrorKind};
use super::operator::Operator;
use super::operators::{self, Arguments};

/// A piece of a format string.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// Written as it stands.
    Literal(Box<[u8]>),
    /// Evaluated for every request.
    Operator(Operator),
}

/// A format string taken apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Parsed {
    /// The pieces; no two literals in a row.
    pub(super) parts: Vec<Part>,
    /// Operators that Envoy may have a value for where this proxy has none, as written.
    pub(super) without_value: Vec<Box<str>>,
}

/// Takes a format string apart.
pub(super) fn parse(format: &str) -> Result<Parsed, FormatError> {
    let mut parsed = Parsed::default();
    let mut literal = Vec::new();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        literal.extend_from_slice(&rest.as_bytes()[..percent]);
        let position = format.len() - rest.len() + percent;
        rest = &rest[percent..];
        if let Some(after) = rest.strip_prefix("%%") {
            literal.push(b'%');
            rest = after;
            continue;
        }
        let failed = |kind| FormatError { position, kind };
        let (arguments, after) = take_operator(rest).ok_or_else(|| failed(FormatErrorKind::NotAnOperator))?;
        let operator = operators::build(&arguments).map_err(failed)?;
        if operators::lacks_value(&arguments) {
            parsed.without_value.push(rest[..rest.len() - after.len()].into());
        }
        push_literal(&mut parsed.parts, &mut literal);
        parsed.parts.push(Part::Operator(operator));
        rest = after;
    }
    literal.extend_from_slice(rest.as_bytes());
    push_literal(&mut parsed.parts, &mut literal);
    Ok(parsed)
}

fn push_literal(parts: &mut Vec<Part>, literal: &mut Vec<u8>) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal).into_boxed_slice()));
    }
}

/// The operator at the start of `text`, and what follows it.
fn take_operator(text: &str) -> Option<(Arguments<'_>, &str)> {
    let text = text.strip_prefix('%')?;
    let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let length = text.bytes().take_while(|byte| is_name(*byte)).count();
    let (name, rest) = text.split_at(length);
    if name.is_empty() {
        return None;
    }
    if let Some(inside) = rest.strip_prefix('(') {
        let line = inside.find('\n').unwrap_or(inside.len());
        return inside[..line].match_indices(')').find_map(|(end, _)| {
            let (max, after) = take_end(&inside[end + 1..])?;
            Some((Arguments { name, parameters: &inside[..end], max }, after))
        });
    }
    let (max, after) = take_end(rest)?;
    Some((Arguments { name, parameters: "", max }, after))
}

/// `%` or `:LENGTH%` at the start of `text`: the length, and what follows.
fn take_end(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(after) = text.strip_prefix('%') {
        return Some((None, after));
    }
    let (digits, after) = text.strip_prefix(':')?.split_once('%')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let max = digits.parse().ok().filter(|_| is_number)?;
    Some((Some(max), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(format: &str) -> Result<String, usize> {
        let parts = parse(format).map_err(|error| error.position)?.parts;
        Ok(parts.iter().fold(String::new(), |shape, part| match part {
            Part::Literal(text) => shape + &String::from_utf8_lossy(text),
            Part::Operator(_) => shape + "<op>",
        }))
    }

    /// Verdict and position as Envoy 1.40 gives them.
    #[test]
    fn format_strings_are_taken_apart_as_in_envoy() {
        let table = [
            ("", Ok("")),
            ("%%", Ok("%")),
            ("%REQ(x)%:5", Ok("<op>:5")),
            ("%DURATION%(x)", Ok("<op>(x)")),
            ("%HOSTNAME%%HOSTNAME%", Ok("<op><op>")),
            ("%REQ(x)%%REQ(y)%%%%REQ(z)%", Ok("<op><op>%<op>")),
            ("%%%PROTOCOL%%%", Ok("%<op>%")),
            ("%%REQ(x)%%", Ok("%REQ(x)%")),
            ("é%%", Ok("é%")),
            ("%START_TIME(a)b)%", Ok("<op>")),
            ("%START_TIME(%)%", Ok("<op>")),
            ("%START_TIME(%Y/%m)%x", Ok("<op>x")),
            ("%REQ(x):0%", Ok("<op>")),
            ("%", Err(0)),
            ("a%b", Err(1)),
            ("100% sure", Err(3)),
            ("%%%", Err(2)),
            ("\n%\n", Err(1)),
            ("abc%PROTOCOL%d%x", Err(14)),
            ("%START_TIME", Err(0)),
            ("%START_TIME(%s", Err(0)),
            ("%req(x)%", Err(0)),
            ("%REQ(x)", Err(0)),
            ("%REQ(x):%", Err(0)),
            ("%REQ(x):a%", Err(0)),
            ("%REQ(x):-1%", Err(0)),
            ("%REQ(x):+1%", Err(0)),
            ("%REQ(x):99999999999999999999999%", Err(0)),
            ("%REQ(x):5:5%", Err(0)),
            ("%REQ(x)y%", Err(0)),
            ("%REQ(x\ny)%", Err(0)),
            ("%CEL(%", Err(0)),
            ("é%NOPE%", Err(2)),
        ];
        for (format, expected) in table {
            assert_eq!(shape(format), expected.map(str::to_owned), "{format:?}");
        }
    }
}
