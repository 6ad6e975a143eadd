//! Format strings and JSON formats with command operators: converted, and checked by `format`.
use serde_json::Value;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::json_object;
use crate::config::access_log::{FormatTemplate, JsonTemplate, SubstitutionFormat};
use crate::config::metadata::Struct;
use crate::control::xds::pb;
use crate::format::formatter::Formatter;
use pb::http::SubstitutionFormatStringFormatOneOf as Format;

/// A format of text or JSON.
pub(super) fn substitution(
    at: &At<'_>,
    message: pb::http::SubstitutionFormatString,
) -> Option<SubstitutionFormat> {
    classify!(at, message => pb::http::SubstitutionFormatString {
        implemented: format, omit_empty_values, content_type;
        no_effect: json_format_options = "keys are always sorted";
        refused: formatters = "no formatter extensions";
    });
    let template = match format {
        Some(Format::TextFormat(text)) => self::text(&at.field("text_format"), text.into())?,
        Some(Format::TextFormatSource(source)) => {
            let at = &at.field("text_format_source");
            self::text(at, at.text_source(source)?)?
        }
        Some(Format::JsonFormat(object)) => json(&at.field("json_format"), object)?,
        None => {
            at.error("one of text_format, json_format, text_format_source must be set");
            return None;
        }
    };
    let content_type = Some(content_type.into_boxed_str()).filter(|text| !text.is_empty());
    Some(SubstitutionFormat { template, omit_empty_values, content_type })
}

/// A text format without options.
pub(super) fn plain_text(at: &At<'_>, text: String) -> Option<SubstitutionFormat> {
    Some(SubstitutionFormat {
        template: self::text(at, text.into())?,
        omit_empty_values: false,
        content_type: None,
    })
}

/// A JSON format without options.
pub(super) fn plain_json(at: &At<'_>, object: pb::google::Struct) -> Option<SubstitutionFormat> {
    Some(SubstitutionFormat { template: json(at, object)?, omit_empty_values: false, content_type: None })
}

fn text(at: &At<'_>, text: Box<str>) -> Option<FormatTemplate> {
    check(at, &text).then_some(FormatTemplate::Text(text))
}

fn json(at: &At<'_>, object: pb::google::Struct) -> Option<FormatTemplate> {
    Some(FormatTemplate::Json(json_fields(at, json_object(object))?))
}

fn json_fields(at: &At<'_>, object: Struct) -> Option<Vec<(Box<str>, JsonTemplate)>> {
    let convert = |(key, value): (String, Value)| {
        let template = json_template(&at.field(&key), value)?;
        Some((key.into_boxed_str(), template))
    };
    // Every entry is visited, so that each bad operator is reported.
    let fields: Vec<_> = object.into_iter().map(convert).collect();
    fields.into_iter().collect()
}

fn json_template(at: &At<'_>, value: Value) -> Option<JsonTemplate> {
    Some(match value {
        Value::Null => JsonTemplate::Null,
        Value::Bool(value) => JsonTemplate::Bool(value),
        Value::Number(number) => JsonTemplate::Number(number.as_f64()?),
        Value::String(text) => {
            if !check(at, &text) {
                return None;
            }
            JsonTemplate::String(text.into())
        }
        Value::Object(object) => JsonTemplate::Object(json_fields(at, object)?),
        Value::Array(values) => JsonTemplate::List(
            values.into_iter().map(|value| json_template(at, value)).collect::<Option<_>>()?,
        ),
    })
}

/// Whether `text` is a valid format string; a mistake at `at` if not. Operators that are known and never have a value
/// here are reported.
pub(super) fn check(at: &At<'_>, text: &str) -> bool {
    match Formatter::parse(text) {
        Ok(formatter) => {
            for operator in formatter.without_value() {
                at.found(Class::NotYet, format!("%{operator}%"), "this operator never has a value");
            }
            true
        }
        Err(error) => {
            at.error(error.to_string());
            false
        }
    }
}
