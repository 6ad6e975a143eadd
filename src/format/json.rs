//! [`JsonFormatter`]: a JSON object with command operators in its strings, one object a record.
//!
//! A string that is a single operator keeps the operator's type: numbers stand without quotes, a missing
//! value is `null`. Every other string stays one. Keys are sorted by their bytes.

use crate::config::access_log::JsonTemplate;

use super::context::FormatContext;
use super::error::FormatError;
use super::formatter::Formatter;
use super::operator::Written;
use super::text::escape_json;

/// A compiled JSON format.
#[derive(Debug, Clone)]
pub struct JsonFormatter {
    fields: Box<[Field]>,
    omit_empty: bool,
}

#[derive(Debug, Clone)]
struct Field {
    /// The key as it is written, with quotes and colon.
    key: Box<[u8]>,
    node: Node,
}

#[derive(Debug, Clone)]
enum Node {
    /// JSON that is the same in every record; never omitted.
    Constant(Box<[u8]>),
    Null,
    String(Formatter),
    Object(Box<[Field]>),
    List(Box<[Self]>),
}

impl JsonFormatter {
    /// Compiles the object with these fields.
    ///
    /// With `omit_empty`, keys and list elements without a value are left out, and so are objects that
    /// come out empty below the top; lists are not, as in Envoy.
    ///
    /// # Errors
    /// As of [`Formatter::parse`], for the first string that is wrong.
    pub fn compile(fields: &[(Box<str>, JsonTemplate)], omit_empty: bool) -> Result<Self, FormatError> {
        Ok(Self { fields: compile_fields(fields, omit_empty)?, omit_empty })
    }

    /// Appends the object and a newline.
    pub fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        self.write_object(&self.fields, context, out);
        out.push(b'\n');
    }

    /// Operators that never have a value here; see [`Formatter::without_value`].
    pub fn without_value(&self) -> Vec<&str> {
        let mut found = Vec::new();
        let mut nodes: Vec<&Node> = self.fields.iter().map(|field| &field.node).collect();
        while let Some(node) = nodes.pop() {
            match node {
                Node::Constant(_) | Node::Null => {}
                Node::String(formatter) => found.extend(formatter.without_value()),
                Node::Object(fields) => nodes.extend(fields.iter().map(|field| &field.node)),
                Node::List(elements) => nodes.extend(elements),
            }
        }
        found
    }

    /// Appends a node; false, and nothing is appended, if it is omitted.
    fn write_node(&self, node: &Node, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        match node {
            Node::Constant(json) => out.extend_from_slice(json),
            Node::Null => return self.write_null(out),
            Node::String(formatter) => return self.write_string(formatter, context, out),
            Node::Object(fields) => {
                let start = out.len();
                if !self.write_object(fields, context, out) && self.omit_empty {
                    out.truncate(start);
                    return false;
                }
            }
            Node::List(elements) => {
                out.push(b'[');
                let start = out.len();
                for element in elements {
                    let comma = out.len();
                    if comma > start {
                        out.push(b',');
                    }
                    if !self.write_node(element, context, out) {
                        out.truncate(comma);
                    }
                }
                out.push(b']');
            }
        }
        true
    }

    /// Appends an object; whether it has any field.
    fn write_object(&self, fields: &[Field], context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        out.push(b'{');
        let start = out.len();
        for Field { key, node } in fields {
            let comma = out.len();
            if comma > start {
                out.push(b',');
            }
            out.extend_from_slice(key);
            if !self.write_node(node, context, out) {
                out.truncate(comma);
            }
        }
        let any = out.len() > start;
        out.push(b'}');
        any
    }

    fn write_string(&self, formatter: &Formatter, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        out.push(b'"');
        let Some(operator) = formatter.single_operator() else {
            formatter.write_json(context, out);
            out.push(b'"');
            return true;
        };
        match operator.write(context, out) {
            Written::Absent | Written::NoNumber => {
                out.truncate(start);
                return self.write_null(out);
            }
            Written::Text => {
                escape_json(out, start + 1);
                out.push(b'"');
            }
            Written::Number => {
                out.remove(start);
            }
        }
        true
    }

    fn write_null(&self, out: &mut Vec<u8>) -> bool {
        if !self.omit_empty {
            out.extend_from_slice(b"null");
        }
        !self.omit_empty
    }
}

fn compile_fields(
    fields: &[(Box<str>, JsonTemplate)],
    omit_empty: bool,
) -> Result<Box<[Field]>, FormatError> {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    let field = |(key, template): &(Box<str>, JsonTemplate)| {
        let mut json = quoted(key.as_bytes());
        json.push(b':');
        Ok(Field { key: json.into_boxed_slice(), node: compile_node(template, omit_empty)? })
    };
    sorted.into_iter().map(field).collect()
}

fn compile_node(template: &JsonTemplate, omit_empty: bool) -> Result<Node, FormatError> {
    let constant = |json: &[u8]| Node::Constant(json.into());
    Ok(match template {
        JsonTemplate::Null => Node::Null,
        JsonTemplate::Bool(true) => constant(b"true"),
        JsonTemplate::Bool(false) => constant(b"false"),
        JsonTemplate::Number(number) => constant(number_text(*number).as_bytes()),
        JsonTemplate::Object(fields) => Node::Object(compile_fields(fields, omit_empty)?),
        JsonTemplate::List(elements) => {
            let compile = |element| compile_node(element, omit_empty);
            Node::List(elements.iter().map(compile).collect::<Result<_, _>>()?)
        }
        JsonTemplate::String(text) => {
            let formatter = Formatter::parse(text)?;
            match formatter.constant() {
                Some(text) => Node::Constant(quoted(text).into_boxed_slice()),
                None if omit_empty => Node::String(formatter.omitting_empty()),
                None => Node::String(formatter),
            }
        }
    })
}

fn quoted(text: &[u8]) -> Vec<u8> {
    let mut json = vec![b'"'];
    json.extend_from_slice(text);
    escape_json(&mut json, 1);
    json.push(b'"');
    json
}

/// A number as C++'s `std::to_chars` writes it, as Envoy does: all digits or an exponent, whichever is
/// shorter, digits where both are equal. What JSON has no number for is `null`.
fn number_text(number: f64) -> String {
    if !number.is_finite() {
        return "null".to_owned();
    }
    let (mantissa, exponent) = {
        let scientific = format!("{number:e}");
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        (mantissa.to_owned(), exponent.parse::<i32>().unwrap_or(0))
    };
    let sign = if exponent < 0 { '-' } else { '+' };
    let scientific = format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    let digits = if number.fract() == 0.0 { format!("{number:.0}") } else { format!("{number}") };
    if digits.len() <= scientific.len() { digits } else { scientific }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Example;
    use super::*;

    fn template(json: &serde_json::Value) -> JsonTemplate {
        use serde_json::Value;
        match json {
            Value::Null => JsonTemplate::Null,
            Value::Bool(value) => JsonTemplate::Bool(*value),
            Value::Number(number) => JsonTemplate::Number(number.as_f64().unwrap()),
            Value::String(text) => JsonTemplate::String(text.as_str().into()),
            Value::Array(elements) => JsonTemplate::List(elements.iter().map(template).collect()),
            Value::Object(_) => JsonTemplate::Object(fields(json)),
        }
    }

    fn fields(json: &serde_json::Value) -> Vec<(Box<str>, JsonTemplate)> {
        json.as_object().unwrap().iter().map(|(key, value)| (key.as_str().into(), template(value))).collect()
    }

    fn written(format: &str, omit_empty: bool) -> String {
        let format = fields(&serde_json::from_str(format).unwrap());
        let example = Example::new();
        let mut out = b"before".to_vec();
        JsonFormatter::compile(&format, omit_empty).unwrap().write(&example.context(), &mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    /// The records are what Envoy 1.40 wrote for these formats.
    #[test]
    fn types_nesting_and_escapes_are_those_of_envoy() {
        let format = r#"{"b":"%PROTOCOL%","a":"x%PROTOCOL%y","i":3,"t":true,"nul":null,
            "l":["%REQ(x-none)%","%BYTES_SENT%",1,{"z":"%REQ(x-none)%","y":{}}],"o":{"q":"%REQ(x-none)%"},
            "e":"","p":"100%%","two":"%BYTES_SENT%%BYTES_SENT%","k\"e\ny":"v\"a\nlé",
            "mix":"%REQ(x-none)%-%REQ(x-none)%","sl":"%REQ(sl)%","port":"%DOWNSTREAM_REMOTE_PORT%",
            "bad":"%REQ(bad)%","twobad":"%REQ(bad)%|%REQ(sl)%","cut":"%REQ(u8):1%","flags":"%RESPONSE_FLAGS%"}"#;
        assert_eq!(
            written(format, false),
            concat!(
                r#"{"a":"xHTTP/1.1y","b":"HTTP/1.1","bad":"a\u00ff\u00c3\u00a9z\u0022\u005c/<","#,
                r#""cut":"\u00c3","e":"","flags":"-","i":3,"k\"e\ny":"v\"a\nlé","#,
                r#""l":[null,8,1,{"y":{},"z":null}],"#,
                r#""mix":"---","nul":null,"o":{"q":null},"p":"100%","port":40000,"sl":"a/b\\c\"d","t":true,"#,
                r#""two":"88","twobad":"a\u00ff\u00c3\u00a9z\u0022\u005c/<|a/b\\c\"d"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn empty_values_are_omitted_as_in_envoy() {
        let table = [
            (
                r#"{"b":"%PROTOCOL%","t":true,"nul":null,"l":["%REQ(x-none)%","%BYTES_SENT%",1,
                    {"z":"%REQ(x-none)%","y":{}}],"o":{"q":"%REQ(x-none)%"},"e":"","emp":[],
                    "two":"%REQ(x-none)%%BYTES_SENT%","mix":"%REQ(x-none)%-%REQ(x-none)%",
                    "lo":["%REQ(x-none)%"],"empty":"%REQ(x-empty)%"}"#,
                r#"{"b":"HTTP/1.1","e":"","emp":[],"empty":"","l":[8,1],"lo":[],"mix":"-","t":true,"two":"8"}"#,
            ),
            (
                r#"{"a":"%REQ(none)%","b":{"c":{"d":"%REQ(none)%"}},
                    "c":[{"x":"%REQ(none)%"},["%REQ(none)%"],[]],"e":{}}"#,
                r#"{"c":[[],[]]}"#,
            ),
            (r#"{"a":"%REQ(none)%"}"#, "{}"),
            ("{}", "{}"),
        ];
        for (format, expected) in table {
            assert_eq!(written(format, true), format!("{expected}\n"));
        }
    }

    #[test]
    fn literal_numbers_are_written_as_envoy_does() {
        let table = [
            (1.5, "1.5"),
            (1e300, "1e+300"),
            (-0.5, "-0.5"),
            (12_345_678_901_234_567_890.0, "12345678901234567168"),
            (0.1, "0.1"),
            (1e21, "1e+21"),
            (123_456_789.123, "123456789.123"),
            (100_000.0, "1e+05"),
            (1e-7, "1e-07"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (-0.0, "-0"),
            (8.0, "8"),
            (f64::NAN, "null"),
        ];
        for (number, expected) in table {
            assert_eq!(number_text(number), expected);
        }
    }

    #[test]
    fn wrong_string_deep_inside_is_an_error() {
        let format = fields(&serde_json::from_str(r#"{"a":[{"b":"50%"}]}"#).unwrap());
        assert_eq!(JsonFormatter::compile(&format, false).unwrap_err().position, 2);
    }
}
