//! The format of the application log. Source: Envoy `Bootstrap.ApplicationLogConfig`.
use super::at::At;
use super::fields::classify;
use super::value::json_object;
use crate::control::xds::pb;
use crate::telemetry::log::Pattern;
use pb::bootstrap::BootstrapApplicationLogConfigLogFormatLogFormatOneOf as LogFormat;

/// Flags that write a message as it is, quotes too, which in JSON would end its text.
const UNESCAPED: [&str; 2] = ["%v", "%_"];

/// The pattern of its lines; `None`: it asks for none, or for one that is refused.
pub(super) fn pattern(
    at: &At<'_>,
    message: pb::bootstrap::BootstrapApplicationLogConfig,
) -> Option<Box<str>> {
    classify!(at, message => pb::bootstrap::BootstrapApplicationLogConfig { implemented: log_format; });
    let at = &at.field("log_format");
    classify!(at, log_format? => pb::bootstrap::BootstrapApplicationLogConfigLogFormat {
        implemented: log_format = "the flags that --log-format has; others are refused";
    });
    // That there is one is the API's to check.
    let (field, pattern) = match log_format? {
        LogFormat::TextFormat(text) => ("text_format", text),
        LogFormat::JsonFormat(object) => {
            ("json_format", serde_json::Value::Object(json_object(object)).to_string())
        }
    };
    let at = &at.field(field);
    if field == "json_format" && UNESCAPED.into_iter().any(|flag| pattern.contains(flag)) {
        at.error_with_fix("%v and %_ do not escape the message", "write %j");
        return None;
    }
    if let Err(error) = Pattern::parse(&pattern) {
        at.error(error.to_string());
        return None;
    }
    Some(pattern.into())
}
