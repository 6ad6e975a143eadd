//! Header changes of one level, and the headers nobody may change.
use super::super::at::At;
use super::super::fields::classify;
use super::super::format;
use crate::config::route::{HeaderAppendAction, HeaderMutations, HeaderValueOption};
use crate::control::xds::pb;
use pb::http::HeaderValueOptionHeaderAppendAction as Wire;

/// Longest value of a header to add, in bytes. Source: Envoy's constraint on `HeaderValue.value`.
const VALUE_BYTES_MAX: usize = 16_384;

/// The four fields that every level has.
pub(super) struct Mutations {
    pub(super) request_headers_to_add: Vec<pb::http::HeaderValueOption>,
    pub(super) request_headers_to_remove: Vec<String>,
    pub(super) response_headers_to_add: Vec<pb::http::HeaderValueOption>,
    pub(super) response_headers_to_remove: Vec<String>,
}

impl Mutations {
    pub(super) fn convert(self, at: &At<'_>) -> HeaderMutations {
        HeaderMutations {
            request_add: values(at, "request_headers_to_add", self.request_headers_to_add),
            request_remove: removals(at, "request_headers_to_remove", self.request_headers_to_remove),
            response_add: values(at, "response_headers_to_add", self.response_headers_to_add),
            response_remove: removals(at, "response_headers_to_remove", self.response_headers_to_remove),
        }
    }
}

/// Headers to add.
pub(in super::super) fn values(
    at: &At<'_>,
    field: &str,
    options: Vec<pb::http::HeaderValueOption>,
) -> Vec<HeaderValueOption> {
    options
        .into_iter()
        .enumerate()
        .filter_map(|(index, option)| value(&at.item(field, index), option))
        .collect()
}

fn value(at: &At<'_>, message: pb::http::HeaderValueOption) -> Option<HeaderValueOption> {
    classify!(at, message => pb::http::HeaderValueOption {
        implemented: header, append, append_action, keep_empty_value;
    });
    let action: Wire = at.enumeration("append_action", append_action);
    if append.is_some() && action != Wire::AppendIfExistsOrAdd {
        at.error("both append and append_action are configured: write append_action only");
    }
    let append_action = match (append, action) {
        (Some(false), _) | (_, Wire::OverwriteIfExistsOrAdd) => HeaderAppendAction::OverwriteIfExistsOrAdd,
        (_, Wire::AppendIfExistsOrAdd) => HeaderAppendAction::AppendIfExistsOrAdd,
        (_, Wire::AddIfAbsent) => HeaderAppendAction::AddIfAbsent,
        (_, Wire::OverwriteIfExists) => HeaderAppendAction::OverwriteIfExists,
    };
    let at = &at.field("header");
    let Some(header) = header else {
        at.error("must be set");
        return None;
    };
    classify!(at, header => pb::http::HeaderValue { implemented: key, value, raw_value; });
    check_name(&at.field("key"), &key);
    let value = if raw_value.is_empty() {
        value
    } else if let Ok(text) = String::from_utf8(raw_value) {
        text
    } else {
        at.field("raw_value").error("not UTF-8");
        return None;
    };
    if value.len() > VALUE_BYTES_MAX {
        at.field("value").error(format!("longer than {VALUE_BYTES_MAX} bytes"));
    }
    format::check(&at.field("value"), &value);
    Some(HeaderValueOption { key: key.into(), value: value.into(), append_action, keep_empty_value })
}

fn removals(at: &At<'_>, field: &str, names: Vec<String>) -> Vec<Box<str>> {
    for (index, name) in names.iter().enumerate() {
        check_name(&at.item(field, index), name);
    }
    names.into_iter().map(Into::into).collect()
}

/// Names that begin with `:` and `Host` are the start line: routes rewrite those by fields of their own.
fn check_name(at: &At<'_>, name: &str) {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        at.error(":-prefixed or host headers may not be modified");
    }
}
