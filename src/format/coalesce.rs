//! The JSON parameter of `%COALESCE({"operators":[...]})%`.

use serde_json::Value;

use super::error::FormatErrorKind;
use super::operator::Operator;
use super::operators::{self, Arguments};

/// How deep `COALESCE` may stand in itself; Envoy has no bound of its own.
const DEPTH_MAX: usize = 8;

/// The operators of the list, in order.
pub(super) fn parse(json: &str) -> Result<Box<[Operator]>, FormatErrorKind> {
    let failed = |reason: &str| FormatErrorKind::Coalesce(reason.into());
    // Each level of nesting escapes the quotes of the level inside it once more.
    if json.split("COALESCE").count() > DEPTH_MAX {
        return Err(failed("nested too deeply"));
    }
    let config: Value = serde_json::from_str(json)
        .map_err(|error| failed(&format!("failed to parse JSON configuration: {error}")))?;
    let entries = match config.get("operators") {
        None => return Err(failed("JSON configuration must contain an 'operators' array")),
        Some(Value::Array(entries)) if entries.is_empty() => {
            return Err(failed("the 'operators' array must not be empty"));
        }
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(failed("'operators' must be an array")),
    };
    let operators = entries.iter().enumerate().map(|(index, entry)| {
        operator(entry).map_err(|reason| failed(&format!("operator at index {index}: {reason}")))
    });
    operators.collect()
}

fn operator(entry: &Value) -> Result<Operator, String> {
    let field = |name| entry.get(name);
    let arguments = match entry {
        Value::String(name) => Arguments { name, parameters: "", max: None },
        Value::Object(_) => Arguments {
            name: field("command")
                .and_then(Value::as_str)
                .ok_or("must have a 'command' field that is a string")?,
            parameters: match field("param") {
                None => "",
                Some(param) => param.as_str().ok_or("'param' must be a string")?,
            },
            max: match field("max_length") {
                None => None,
                Some(max) => Some(
                    max.as_u64()
                        .and_then(|max| usize::try_from(max).ok())
                        .filter(|max| *max > 0)
                        .ok_or("'max_length' must be a positive integer")?,
                ),
            },
        },
        _ => return Err("must be a string (a command) or an object with a 'command' field".to_owned()),
    };
    operators::build(&arguments).map_err(|kind| kind.to_string())
}
